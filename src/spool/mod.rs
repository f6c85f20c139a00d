//! The spool (being written): what changes under `jobs/`.

use std::sync::Arc;

use crate::config::Problem;
use crate::job::Job;

/// One change of the spool.
#[derive(Debug, Clone)]
pub enum Change {
    /// A job came or changed, and is good.
    Loaded(Arc<Job>),
    /// A folder came or changed, and is not good: the last good generation of the job stays.
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
}
