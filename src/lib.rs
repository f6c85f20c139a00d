//! Spoolbeat: a spool-directory job runner that is also a Beat.
//!
//! A **root directory** holds one folder per **job**. A watcher turns folders into checked, immutable
//! **generations**; a scheduler starts **runs**; what a run prints becomes **events**; events are
//! appended to a **log on disk**, with the facts that belong to them. Every output is a **cursor** on
//! that log. When the Lumberjack server ACKs, the cursor moves. The log is the only truth; everything
//! else can be rebuilt from it and from the job folders.
//!
//! ```text
//!  jobs/<job>/ --spool--> generation --schedule--> run              supervisor: one task, owns the state,
//!                                                   |               Note in, Effect out
//!  child's stdout, stderr                           v
//!     |  runner: read in big chunks, cut into lines, wrap, gather   one task per run, plain calls
//!     v
//!  portion { frames | parts | facts | counters }
//!     |  hand-over 1: bounded, from one pool; the batcher joins and deflates
//!     v
//!  record  --queue: append + group fsync, one writer-->  segment    "captured" goes back to the run
//!     |  hand-over 2: the disk; each output reads from its own cursor
//!     v
//!  window builder: `W n` + frames 1..n --shipper, sink--> ACK
//!     v
//!  Ack -> cursor (durable) -> segments behind all cursors removed
//! ```
//!
//! The house has floors; imports go down or sideways, never up, and a test keeps it so:
//!
//! | floor | rooms |
//! |---|---|
//! | 0 words | [`units`], [`clock`], [`event`], [`disk`], [`fileid`], [`log`] |
//! | 1 pure machines | [`schedule`], [`run`], [`cleanup`], [`protocol`], [`queue`], [`window`], [`deadletter`] |
//! | 2 hands | [`process`], [`files`], [`lumberjack`], [`modules`], [`source`], [`sink`], [`results`], [`tls`] |
//! | 3 the text world | [`job`], [`config`], [`spool`] |
//! | 4 acting parts | [`runner`], [`harvester`], [`shipper`] |
//! | 5 the head | [`supervisor`], [`status`], [`control`], [`daemon`], [`cli`] |
//!
//! Shipper, queue writer, scheduler, clean-up, run and supervisor are step functions,
//! `(state, input) -> effects`, with thin drivers. The clock is read only in `clock`, the disk is
//! renamed and synced only in `disk`, `unsafe` lives only in `process`.

// floor 0: words
pub mod clock;
pub mod disk;
pub mod event;
pub mod fileid;
pub mod log;
pub mod units;

// floor 1: pure machines
pub mod cleanup;
pub mod deadletter;
pub mod protocol;
pub mod queue;
pub mod run;
pub mod schedule;
pub mod window;

// floor 2: hands
pub mod files;
pub mod lumberjack;
pub mod modules;
pub mod process;
pub mod results;
pub mod sink;
pub mod source;
pub mod tls;

// floor 3: the text world
pub mod config;
pub mod job;
pub mod spool;

// floor 4: acting parts
pub mod harvester;
pub mod runner;
pub mod shipper;

// floor 5: the head
pub mod cli;
pub mod control;
pub mod daemon;
pub mod status;
pub mod supervisor;

#[cfg(test)]
mod simulator;
