//! Tests against the real program and real processes.

mod process;
mod runs;
