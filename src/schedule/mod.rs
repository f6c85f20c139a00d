//! When a job is due: schedules as text, the next time after a given one, and the scheduler.
//!
//! Pure: never reads a clock, never starts anything. Knows job names only as keys.

use std::time::Duration;

mod changes;
pub mod cron;
mod crontab;
pub mod policy;
pub mod scheduler;
mod ticks;

pub use changes::ClockChange;
pub use cron::Cron;
pub use policy::Policy;

/// When a job runs.
#[derive(Debug, Clone, PartialEq)]
pub enum Schedule {
    /// At the times of a cron expression.
    Cron(Cron),
    /// At once when new, then at the last fire plus a multiple of the period, also across restarts.
    Every(Duration),
    /// At once when new, then this long after the last run ended.
    EveryAfter(Duration),
    /// Until one run of this generation has ended.
    Once,
    /// Always: started again when it ends, after a back-off that grows from 1 s to 5 min and is
    /// reset by healthy running.
    KeepRunning,
}

impl Schedule {
    /// Whether the job is due by the clock alone, whatever becomes of its runs.
    #[must_use]
    pub const fn has_ticks(&self) -> bool {
        matches!(self, Self::Cron(_) | Self::Every(_))
    }
}
