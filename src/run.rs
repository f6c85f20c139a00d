//! A run as a pure machine: waiting, running, terminating, ended.
//!
//! Input in, effects out; late or repeated input has no effect, by design. Must never know
//! a clock, a process or a file: its driver is `runner`.

use serde::Deserialize;
use serde::Serialize;

/// Why a run was started; the value of `job.trigger`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Trigger {
    /// Its schedule said so.
    Schedule,
    /// A kept-running script ended and was started again.
    Restart,
    /// A person asked for it.
    Manual,
}

impl Trigger {
    /// The value of `job.trigger`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Schedule => "schedule",
            Self::Restart => "restart",
            Self::Manual => "manual",
        }
    }
}

/// The one way in which a started run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// Exit code 0.
    Success,
    /// Another exit code.
    Failed,
    /// Ended by a signal that we did not send.
    Signalled,
    /// Ran longer than `timeout` and was ended by us.
    TimedOut,
    /// Ended by us for another reason: stop of the daemon, removal of the job, a person.
    Killed,
    /// The daemon died while it ran; found at the next start.
    Interrupted,
    /// It could not be started.
    CouldNotStart,
}

impl Outcome {
    /// The name in results, status and events.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Success => "success",
            Self::Failed => "failed",
            Self::Signalled => "signalled",
            Self::TimedOut => "timed_out",
            Self::Killed => "killed",
            Self::Interrupted => "interrupted",
            Self::CouldNotStart => "could_not_start",
        }
    }
}

/// How the script's own process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// With this exit code.
    Code(i32),
    /// By this signal.
    Signal(i32),
}
