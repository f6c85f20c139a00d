//! The arithmetic of ticks: which is due, how many were passed over, which comes next.
//!
//! Must never know jobs or runs.

use std::time::Duration;

use crate::schedule::Cron;
use crate::schedule::Schedule;
use crate::units::Timestamp;

/// Most ticks of one leap that are looked at and counted one by one for a cron job, as 10,000 jobs may leap
/// together after a suspend. Beyond it the leap adds this number to `skipped`.
const LEAP_COUNT_MAX: usize = 100;

/// What a look at the clock finds of one job's ticks.
pub(super) struct Leap {
    /// The newest that are due, as many as were asked for, in order. At least one.
    pub(super) ticks: Vec<Timestamp>,
    /// How many were due before them.
    pub(super) passed: u64,
    /// The first that is not due yet.
    pub(super) next: Option<Timestamp>,
}

impl Leap {
    /// From the tick `due`, which is not after `now`; `keep` is at least 1.
    pub(super) fn over(schedule: &Schedule, due: Timestamp, now: Timestamp, keep: usize) -> Self {
        match schedule {
            Schedule::Cron(cron) => Self::over_cron(cron, due, now, keep),
            Schedule::Every(period) => Self::over_every(*period, due, now, keep),
            Schedule::EveryAfter(_) | Schedule::Once | Schedule::KeepRunning => Self {
                ticks: vec![due],
                passed: 0,
                next: None,
            },
        }
    }

    fn over_every(period: Duration, due: Timestamp, now: Timestamp, keep: usize) -> Self {
        let next = tick_after(due, period, now);
        let steps = next.0.saturating_sub(due.0) / whole_ms(period);
        let kept = i64::try_from(keep).unwrap_or(i64::MAX).min(steps.max(1));
        let tick = |before: i64| {
            let back = whole_ms(period).saturating_mul(before);
            Timestamp(next.0.saturating_sub(back).max(due.0))
        };
        Self {
            ticks: (1..=kept).rev().map(tick).collect(),
            passed: (steps - kept).max(0).unsigned_abs(),
            next: Some(next),
        }
    }

    fn over_cron(cron: &Cron, due: Timestamp, now: Timestamp, keep: usize) -> Self {
        let mut ticks = vec![due];
        while let Some(next) = cron
            .next_after(ticks[ticks.len() - 1])
            .filter(|at| *at <= now)
        {
            if ticks.len() == LEAP_COUNT_MAX {
                return Self::over_many(cron, due, now, keep);
            }
            ticks.push(next);
        }
        let older = ticks.len().saturating_sub(keep);
        Self {
            next: cron.next_after(ticks[ticks.len() - 1]),
            ticks: ticks.split_off(older),
            passed: older as u64,
        }
    }

    fn over_many(cron: &Cron, due: Timestamp, now: Timestamp, keep: usize) -> Self {
        let mut ticks = vec![latest(cron, due, now)];
        while ticks.len() < keep {
            let before = Timestamp(ticks[ticks.len() - 1].0 - 1);
            ticks.push(latest(cron, due, before));
        }
        ticks.reverse();
        Self {
            next: cron.next_after(ticks[ticks.len() - 1]),
            ticks,
            passed: LEAP_COUNT_MAX as u64,
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
