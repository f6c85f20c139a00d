//! The arithmetic of ticks: which is due, how many were passed over, which comes next.
//!
//! Must never know jobs or runs.

use std::time::Duration;

use crate::schedule::Cron;
use crate::schedule::Schedule;
use crate::units::Timestamp;

/// Most ticks of one leap that are counted one by one for a cron job, as 10,000 jobs may leap
/// together after a suspend. Beyond it the leap adds this number to `skipped`.
const LEAP_COUNT_MAX: u64 = 100;

/// What a look at the clock finds of one job's ticks.
pub(super) struct Leap {
    /// The latest that is due.
    pub(super) tick: Timestamp,
    /// How many were due before it.
    pub(super) passed: u64,
    /// The first that is not due yet.
    pub(super) next: Option<Timestamp>,
}

impl Leap {
    /// From the tick `due`, which is not after `now`.
    pub(super) fn over(schedule: &Schedule, due: Timestamp, now: Timestamp) -> Self {
        match schedule {
            Schedule::Cron(cron) => Self::over_cron(cron, due, now),
            Schedule::Every(period) => {
                let next = tick_after(due, *period, now);
                let steps =
                    next.since(due).as_millis() / u128::from(whole_ms(*period).unsigned_abs());
                Self {
                    tick: Timestamp(next.0.saturating_sub(whole_ms(*period)).max(due.0)),
                    passed: u64::try_from(steps).unwrap_or(u64::MAX).saturating_sub(1),
                    next: Some(next),
                }
            }
            Schedule::EveryAfter(_) | Schedule::Once | Schedule::KeepRunning => Self {
                tick: due,
                passed: 0,
                next: None,
            },
        }
    }

    fn over_cron(cron: &Cron, due: Timestamp, now: Timestamp) -> Self {
        let is_due = |at: &Timestamp| *at <= now;
        let mut tick = due;
        let mut passed = 0;
        while let Some(next) = cron.next_after(tick).filter(is_due) {
            tick = next;
            passed += 1;
            if passed == LEAP_COUNT_MAX {
                tick = latest(cron, tick, now);
                break;
            }
        }
        Self {
            tick,
            passed,
            next: cron.next_after(tick),
        }
    }
}

/// The latest tick that is not after `now`, found in some 40 halvings; `tick` is one.
fn latest(cron: &Cron, tick: Timestamp, now: Timestamp) -> Timestamp {
    let (mut tick, mut none_after) = (tick, now);
    while tick < none_after {
        let middle = Timestamp(tick.0 + (none_after.0 - tick.0) / 2);
        match cron.next_after(middle).filter(|next| *next <= now) {
            Some(next) => tick = next,
            None if middle == tick => break,
            None => none_after = middle,
        }
    }
    tick
}

/// The first tick after `base` of those that lie whole periods before and after `phase`.
pub(super) fn tick_after(phase: Timestamp, period: Duration, base: Timestamp) -> Timestamp {
    let period = whole_ms(period);
    let since = base.0.saturating_sub(phase.0).rem_euclid(period);
    Timestamp(base.0.saturating_add(period - since))
}

/// A period in milliseconds, at least one: a tick is always after the one before it.
fn whole_ms(period: Duration) -> i64 {
    i64::try_from(period.as_millis()).unwrap_or(i64::MAX).max(1)
}
