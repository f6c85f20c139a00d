//! One run from start to result (being written): signatures that others build on.

use std::path::PathBuf;
use std::sync::Arc;

use crate::event::RunId;
use crate::job::Job;
use crate::run::Exit;
use crate::run::Outcome;
use crate::run::Trigger;
use crate::units::Timestamp;

/// What is to be run.
#[derive(Debug, Clone)]
pub struct Spec {
    /// The job, one generation of it.
    pub job: Arc<Job>,
    /// The run.
    pub run: RunId,
    /// Why.
    pub trigger: Trigger,
    /// The tick it belongs to.
    pub scheduled_at: Option<Timestamp>,
    /// Start of the last successful run whose last event is durable.
    pub last_success_at: Option<Timestamp>,
    /// `state/<job>/data`.
    pub state_dir: PathBuf,
}

/// What a person or the daemon wants of a running run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// TERM, grace, KILL.
    Terminate,
    /// KILL now.
    Kill,
}

/// What became of a run; sent when its end event is durable.
#[derive(Debug, Clone)]
pub struct Ended {
    /// The run.
    pub run: RunId,
    /// Its job.
    pub job: Arc<Job>,
    /// How it ended.
    pub outcome: Outcome,
    /// How its process ended; `None` when there was none.
    pub exit: Option<Exit>,
    /// Reason in words, for everything but success.
    pub reason: Option<String>,
    /// When it was started.
    pub started_at: Timestamp,
    /// When it ended.
    pub at: Timestamp,
}
