//! The scheduler's words: what it is told, what it wants done, what can be asked of it.
//!
//! Plain data.

use std::sync::Arc;
use std::time::Duration;

use crate::run::Trigger;
use crate::schedule::Policy;
use crate::schedule::Schedule;
use crate::units::Timestamp;

/// What the log knows of a job's fires, for a scheduler that has just been made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Past {
    /// `scheduled_at` of its newest fire that had one.
    pub last_fire: Option<Timestamp>,
    /// Whether a run of this generation has ended.
    pub done: bool,
    /// Whether the ticks since `last_fire` were missed: nobody looked at the clock meanwhile.
    pub missed: bool,
}

/// Everything that can make the scheduler act. Late and repeated inputs have no effect.
#[derive(Debug, Clone, PartialEq)]
pub enum Input {
    /// A job came, or a new generation of it.
    Load {
        /// The job.
        job: Arc<str>,
        /// When it is to run.
        schedule: Schedule,
        /// What becomes of ticks that cannot be run at their time.
        policy: Policy,
        /// What was before; for a job that is known already its own memory of fires counts.
        past: Past,
        /// The wall clock.
        now: Timestamp,
    },
    /// A job went away. Its runs, if it has any, are known until they have ended.
    Remove {
        /// The job.
        job: Arc<str>,
    },
    /// The wall clock, as it reads.
    Clock {
        /// The wall clock.
        now: Timestamp,
    },
    /// A run has ended, or could not be started.
    Ended {
        /// The job.
        job: Arc<str>,
        /// [`Fire::number`] of the run.
        number: u64,
        /// How long it ran, on the monotonic clock.
        ran: Duration,
        /// Whether it was well.
        end: End,
        /// The wall clock.
        now: Timestamp,
    },
    /// The queue's room has changed.
    Hold {
        /// How it is.
        on: Hold,
        /// The wall clock.
        now: Timestamp,
    },
    /// How many scheduled runs there may be of all jobs together.
    Limit {
        /// At least 1.
        max_concurrent: u32,
    },
    /// A person wants the job to run now: neither the limit nor a hold nor a pause stands against
    /// it, only its own runs.
    Trigger {
        /// The job.
        job: Arc<str>,
        /// The wall clock.
        now: Timestamp,
    },
    /// A person wants the job not to be run by its schedule.
    Pause {
        /// The job.
        job: Arc<str>,
    },
    /// A person wants it to go on.
    Resume {
        /// The job.
        job: Arc<str>,
        /// The wall clock.
        now: Timestamp,
    },
    /// Nothing is started any more.
    Stop,
}

/// How a run ended, as far as it matters for the next one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// It succeeded, or was ended by us.
    Well,
    /// It failed: another try may help.
    Failed,
}

/// Whether the queue has room for the output of runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hold {
    /// It has.
    Free,
    /// Not for long: only jobs that stretch are run, less and less often.
    Pressed,
    /// It has not: ticks are missed, restarts wait.
    Held,
}

/// What is to be done, in this order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Act {
    /// Start a run.
    Fire(Fire),
    /// End a run, as another of the same job is due.
    End {
        /// The job.
        job: Arc<str>,
        /// [`Fire::number`] of the run.
        number: u64,
    },
}

/// A run that is to be started now. Each is answered by one [`Input::Ended`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fire {
    /// The job.
    pub job: Arc<str>,
    /// Tells the fires of one scheduler apart.
    pub number: u64,
    /// The tick it belongs to; `None` when it is not due by the clock (once, kept running, by a person).
    pub scheduled_at: Option<Timestamp>,
    /// Why.
    pub trigger: Trigger,
}

/// What can be told of a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct View {
    /// When it is due next; `None` when that hangs on an end, or it is never due again.
    pub next: Option<Timestamp>,
    /// How many runs it has.
    pub running: u32,
    /// How many runs are due and wait for a free place, an end or the end of a hold.
    pub waiting: u32,
    /// Whether a person paused it.
    pub paused: bool,
    /// Ticks without a run since the daemon started (of one leap of the clock, about a hundred at most are counted for cron).
    pub skipped: u64,
    /// By how much its period is multiplied at the moment; 1 when it is not stretched.
    pub stretch: u32,
    /// How often it was restarted after the newest failure.
    pub restarts: u32,
    /// How late its last scheduled run was fired.
    pub late: Duration,
}
