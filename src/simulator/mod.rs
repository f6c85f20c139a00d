//! The simulator: the real steps of the queue, the window builder, the shipper, the clean-up, the
//! scheduler and the supervisor over a disk, a clock and a network in memory.
//!
//! One seed decides everything: when scripts print, what servers do, which operation of the disk
//! fails, when the daemon is killed and what a power cut leaves. The same seed does the same again:
//! `SPOOLBEAT_SEED=17 cargo test --lib simulator`, with `SPOOLBEAT_TRACE=1` step by step.
//! `SPOOLBEAT_HARNESS=1` tries 2,000 seeds, `SPOOLBEAT_SOAK=1` as many as an hour has room for.
//!
//! What stands between the steps in the real program (sockets, processes, files) is done here by
//! stand-ins; must never decide anything that the steps decide.

#![expect(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use std::io::Write;

mod daemon;
mod files;
mod oracle;
mod outputs;
mod outside;
mod runs;
mod world;

/// The queue's folder.
const DIR: &str = "/r/q";

fn say(line: &str) {
    drop(writeln!(std::io::stderr(), "{line}"));
}
