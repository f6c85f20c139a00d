//! Spoolbeat (header being written).

// floor 0: words
pub mod clock;
pub mod disk;
pub mod event;
pub mod units;

// floor 1: pure machines
pub mod cleanup;
pub mod lumberjack;
pub mod queue;
pub mod run;
pub mod schedule;
pub mod window;

// floor 2: hands
pub mod files;
pub mod process;
pub mod results;
pub mod sink;
pub mod source;

// floor 3: the text world
pub mod config;
pub mod job;
pub mod spool;

// floor 4: acting parts
pub mod runner;
pub mod shipper;

// floor 5: the head
pub mod cli;
pub mod control;
pub mod daemon;
pub mod log;
pub mod status;
pub mod supervisor;
