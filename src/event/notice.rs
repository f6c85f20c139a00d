//! What the daemon itself has to tell, as the receivers see it.
//!
//! Plain data; must never know why it is told.

use std::time::Duration;

use crate::units::Timestamp;

/// Name of the job that the daemon's own events belong to; no folder may have it.
pub const OWN_JOB: &str = "spoolbeat";

/// Something that the daemon itself has to tell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Notice {
    /// A sign of life.
    Heartbeat(ServiceState),
    /// A job has not succeeded for as long as it may take.
    Overdue {
        /// The job.
        job: String,
        /// Its `expect_every`.
        expect_every: Duration,
        /// Start of its last successful run.
        last_success_at: Option<Timestamp>,
    },
    /// A job that was overdue has succeeded again.
    OnTime {
        /// The job.
        job: String,
    },
    /// The queue is so full that schedules pause or stretch.
    Pressure {
        /// How full.
        percent: u64,
    },
    /// It is so no longer.
    PressureOver,
    /// Damaged parts of the queue were set aside.
    Quarantined {
        /// How many.
        parts: u64,
    },
    /// The cursor of an output could not be read or was gone: all that is kept is sent to it again.
    CursorLost {
        /// The output.
        output: String,
    },
    /// An output does not get events that were captured.
    Missed {
        /// The output.
        output: String,
        /// Why.
        why: WhyMissed,
        /// How many.
        events: u64,
        /// Number of an event before which none of them is.
        from: u64,
        /// Number of an event behind which none of them is.
        to: u64,
    },
}

/// Why an output does not get events.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum WhyMissed {
    /// The queue was full and is not held for it.
    QueueFull,
    /// A person passed them over.
    Skipped,
    /// It had left the configuration, and a person said that it does not come back.
    Forgotten,
}

impl WhyMissed {
    /// The name in events.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::QueueFull => "queue-full",
            Self::Skipped => "skipped",
            Self::Forgotten => "forgotten",
        }
    }
}

/// `service.state` of a heartbeat.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ServiceState {
    /// The first.
    Started,
    /// All others.
    Running,
    /// The last.
    Stopped,
}

impl ServiceState {
    /// The name in events.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Started => "started",
            Self::Running => "running",
            Self::Stopped => "stopped",
        }
    }
}
