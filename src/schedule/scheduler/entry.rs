//! What the scheduler knows of one job, and what follows from that alone.
//!
//! Must never know other jobs, nor whether there is room for a run.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use super::HEALTHY_RUN;
use super::RESTART_FIRST;
use super::RESTART_MAX;
use super::words::End;
use super::words::Past;
use crate::run::Trigger;
use crate::schedule::Policy;
use crate::schedule::Schedule;
use crate::schedule::policy::Backoff;
use crate::schedule::policy::Missed;
use crate::schedule::policy::STRETCH_MAX;
use crate::schedule::ticks::tick_after;
use crate::units::Timestamp;

/// When a job is to run, and how.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Plan {
    pub(super) schedule: Schedule,
    pub(super) policy: Policy,
    /// How far its ticks are moved.
    pub(super) offset: Duration,
}

/// What is known of one job.
#[derive(Debug)]
pub(super) struct Entry {
    /// `None`: the job was removed, its runs have not ended.
    pub(super) plan: Option<Arc<Plan>>,
    pub(super) runs: Vec<Run>,
    /// When its schedule is due, moved by the offset.
    pub(super) next: Option<Timestamp>,
    /// When a run that failed is tried again.
    pub(super) retry: Option<Retry>,
    /// Runs that are due, oldest first.
    pub(super) due: VecDeque<Due>,
    /// Its place in the queue, while the first of `due` may be started.
    pub(super) place: Option<(Lane, u64)>,
    pub(super) paused: bool,
    pub(super) stretch: Stretch,
    pub(super) last_fire: Option<Timestamp>,
    pub(super) last_end: Option<Timestamp>,
    pub(super) done: bool,
    pub(super) backoff: Backoff,
    /// Why a kept-running script is started next.
    pub(super) trigger: Trigger,
    pub(super) skipped: u64,
    pub(super) late: Duration,
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Run {
    pub(super) number: u64,
    pub(super) lane: Lane,
    pub(super) generation: Generation,
    pub(super) trigger: Trigger,
    pub(super) tick: Option<Timestamp>,
}

/// Which queue a job waits in. The limit of concurrent runs holds for all but the first, which goes
/// first; of the others who came first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Lane {
    Free,
    Limited,
    /// As `Limited`; goes on under pressure.
    Stretched,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Generation {
    Current,
    Former,
}

/// A run that is due.
#[derive(Debug, Clone, Copy)]
pub(super) struct Due {
    pub(super) tick: Option<Timestamp>,
    pub(super) trigger: Trigger,
}

/// Another try.
#[derive(Debug, Clone, Copy)]
pub(super) struct Retry {
    pub(super) at: Timestamp,
    pub(super) wait: Duration,
    pub(super) tick: Option<Timestamp>,
}

/// How a job of `on_pressure = "stretch"` thins its ticks out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stretch {
    pub(super) factor: u32,
    /// Ticks that are left out until the next run.
    leave_out: u32,
}

impl Stretch {
    pub(super) const NONE: Self = Self {
        factor: 1,
        leave_out: 0,
    };

    /// A tick came under pressure; whether it is run.
    pub(super) fn takes(&mut self) -> bool {
        if self.leave_out > 0 {
            self.leave_out -= 1;
            return false;
        }
        self.double();
        self.leave_out = self.factor - 1;
        true
    }

    pub(super) fn double(&mut self) {
        self.factor = (self.factor * 2).min(STRETCH_MAX);
    }
}

impl Entry {
    pub(super) const fn unknown() -> Self {
        Self {
            plan: None,
            runs: Vec::new(),
            next: None,
            retry: None,
            due: VecDeque::new(),
            place: None,
            paused: false,
            stretch: Stretch::NONE,
            last_fire: None,
            last_end: None,
            done: false,
            backoff: KEPT,
            trigger: Trigger::Schedule,
            skipped: 0,
            late: Duration::ZERO,
        }
    }

    pub(super) fn has_ticks(&self) -> bool {
        self.plan
            .as_ref()
            .is_some_and(|plan| plan.schedule.has_ticks())
    }

    /// How many runs it may have at a time.
    pub(super) fn runs_max(&self) -> usize {
        self.plan
            .as_ref()
            .map_or(1, |plan| plan.policy.overlap.runs_max())
    }

    /// Counts `ticks` that are not run.
    pub(super) fn skip(&mut self, ticks: usize) {
        let ticks = u64::try_from(ticks).unwrap_or(u64::MAX);
        self.skipped = self.skipped.saturating_add(ticks);
    }

    /// Takes in what a new plan says; the waits of the former are over.
    pub(super) fn replan(&mut self, past: Past, plan: &Plan) {
        self.last_fire = self.last_fire.or(past.last_fire);
        self.done = past.done;
        self.trigger = Trigger::Schedule;
        self.backoff = match plan.policy.restart {
            Some(restart) => Backoff::new(restart.backoff, RESTART_MAX, Some(restart.max)),
            None => KEPT,
        };
        for run in &mut self.runs {
            run.generation = Generation::Former;
        }
    }

    /// When a job with this plan is due, as of now.
    pub(super) fn first(&self, plan: &Plan, past: Past, now: Timestamp) -> Option<Timestamp> {
        let schedule = &plan.schedule;
        let at = back(now, plan.offset);
        let mut base = self.base(schedule, at);
        if past.missed && plan.policy.missed != Missed::Skip {
            base = self.last_fire.map_or(base, |last| last.min(base));
        }
        match schedule {
            Schedule::Cron(cron) => cron.next_after(base).map(|at| at.after(plan.offset)),
            Schedule::Every(period) => Some(match self.last_fire {
                Some(last) => tick_after(last, *period, base).after(plan.offset),
                None => now.after(plan.offset),
            }),
            Schedule::EveryAfter(_) | Schedule::KeepRunning if !self.runs.is_empty() => None,
            Schedule::EveryAfter(period) => Some(match self.last_end.or(self.last_fire) {
                Some(last) => last.after(*period).clamp(now, now.after(*period)),
                None => now,
            }),
            Schedule::Once => (!self.done).then_some(now),
            Schedule::KeepRunning => Some(now),
        }
    }

    /// The time after which the next tick is looked for: not before the last fire (or the tick
    /// that waits), unless that lies more than a period ahead: then the clock was wrong at the time.
    fn base(&self, schedule: &Schedule, now: Timestamp) -> Timestamp {
        let waiting = self.due.back().and_then(|due| due.tick);
        let Some(last) = waiting.or(self.last_fire) else {
            return now;
        };
        if last > now.after(period_from(schedule, last)) {
            now
        } else {
            last.max(now)
        }
    }

    /// When a job is due now that the clock was set back to `now`: never later than it was.
    pub(super) fn next_after_step_back(&self, now: Timestamp) -> Option<Timestamp> {
        let plan = self.plan.as_ref()?;
        let at = back(now, plan.offset);
        let anew = match (&plan.schedule, self.next) {
            (Schedule::Cron(cron), _) => cron.next_after(self.base(&plan.schedule, at)),
            (Schedule::Every(period), Some(next)) => {
                let phase = back(next, plan.offset);
                Some(tick_after(phase, *period, self.base(&plan.schedule, at)))
            }
            (Schedule::EveryAfter(period), Some(_)) => Some(now.after(*period)),
            (Schedule::KeepRunning, Some(_)) => Some(now.after(self.backoff.wait())),
            _ => None,
        };
        let anew = anew.map(|at| at.after(plan.offset));
        [self.next, anew].into_iter().flatten().min()
    }

    /// Drops the ticks that wait though only a wrong clock can have made them due.
    pub(super) fn drop_ticks_of_the_future(&mut self, now: Timestamp) {
        let Some(plan) = self.plan.as_ref().filter(|plan| plan.schedule.has_ticks()) else {
            return;
        };
        let before = self.due.len();
        let is_past = |tick: Timestamp| tick <= now.after(period_from(&plan.schedule, tick));
        self.due.retain(|due| due.tick.is_none_or(is_past));
        self.skip(before - self.due.len());
    }

    /// When the job is due again, or is tried again, now that `run` has ended.
    pub(super) fn after(&mut self, run: Run, ran: Duration, end: End, now: Timestamp) -> Again {
        let Some(plan) = &self.plan else {
            return Again::Never;
        };
        let current = run.generation == Generation::Current;
        let newest = run.tick == self.last_fire || !plan.schedule.has_ticks();
        let retry = plan.policy.restart.is_some()
            && end == End::Failed
            && current
            && newest
            && run.trigger != Trigger::Manual
            && self.due.is_empty();
        if end == End::Well && plan.policy.restart.is_some() {
            self.backoff.reset();
        }
        if retry && let Some(wait) = self.backoff.next_wait() {
            let at = now.after(wait);
            let tick = run.tick;
            return Again::Retry(Retry { at, wait, tick });
        }
        match plan.schedule {
            Schedule::Cron(_) | Schedule::Every(_) => Again::Never,
            Schedule::EveryAfter(period) => {
                self.backoff.reset();
                Again::At(now.after(period.saturating_mul(self.stretch.factor)))
            }
            Schedule::Once => {
                self.done |= current;
                if self.done {
                    Again::Never
                } else {
                    Again::At(now)
                }
            }
            Schedule::KeepRunning => {
                if ran >= HEALTHY_RUN {
                    self.backoff.reset();
                }
                let wait = self.backoff.next_wait().unwrap_or(RESTART_MAX);
                self.trigger = Trigger::Restart;
                Again::At(now.after(wait))
            }
        }
    }
}

/// The restarts of a kept-running script.
const KEPT: Backoff = Backoff::new(RESTART_FIRST, RESTART_MAX, None);

/// When a job is due again after an end.
pub(super) enum Again {
    /// When the clock says so, or never.
    Never,
    At(Timestamp),
    Retry(Retry),
}

/// This instant moved back by `by`, saturating.
pub(super) fn back(at: Timestamp, by: Duration) -> Timestamp {
    let ms = i64::try_from(by.as_millis()).unwrap_or(i64::MAX);
    Timestamp(at.0.saturating_sub(ms))
}

/// From one tick to the next.
pub(super) fn period_from(schedule: &Schedule, tick: Timestamp) -> Duration {
    match schedule {
        Schedule::Cron(cron) => cron
            .next_after(tick)
            .map_or(Duration::ZERO, |next| next.since(tick)),
        Schedule::Every(period) | Schedule::EveryAfter(period) => *period,
        Schedule::Once | Schedule::KeepRunning => Duration::ZERO,
    }
}
