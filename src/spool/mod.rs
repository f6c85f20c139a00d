//! The spool: what changes under `jobs/`.
//!
//! `watch` decides when a folder has settled, `generations` keeps the copies that runs execute
//! from, `driver` looks at the disk and tells the supervisor. Must never run a job.

use std::sync::Arc;

use crate::config::Problem;
use crate::job::Job;

mod driver;
mod generations;
mod inbox;
mod watch;
mod watches;

pub use driver::Checks;
pub use driver::Settings;
pub use driver::Spool;
pub use driver::start;

/// One change of the spool.
#[derive(Debug, Clone)]
pub enum Change {
    /// A job came or changed, and is good; what was refused before is settled by it.
    /// The same generation may come again: after a refusal, and when defaults changed.
    Loaded(Arc<Job>),
    /// A folder came or changed, and is not good: the last good generation of the job stays.
    /// At the start of the daemon that generation is loaded first.
    Refused {
        /// The job.
        job: String,
        /// Everything that is wrong with it.
        problems: Vec<Problem>,
    },
    /// A folder went away.
    Removed {
        /// The job.
        job: String,
    },
    /// `jobs/` cannot be looked at: all jobs stay as they are. Sent once per reason.
    Unreadable {
        /// What is wrong, in words.
        reason: String,
    },
    /// `jobs/` can be looked at again.
    Readable,
    /// Everything that lay under `jobs/` at the start has settled and been told. Sent once.
    Complete,
}
