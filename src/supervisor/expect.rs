//! What others may rely on: that a job succeeds as often as it is expected to, and that the daemon
//! gives a sign of life. When not, that is an event.
//!
//! Measured on the monotonic clock, so that a wall clock that jumps raises no false alarm. Must
//! never look at all jobs for one note.

use std::collections::BTreeSet;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use crate::clock::Tick;
use crate::event::Notice;
use crate::event::ServiceState;
use crate::schedule::scheduler::Hold;
use crate::supervisor::Effect;
use crate::supervisor::Now;
use crate::supervisor::Say;
use crate::supervisor::Supervisor;

/// What a job gets at the start of the daemon before it is called overdue for what was before:
/// time to catch up.
const CATCH_UP: Duration = Duration::from_secs(60);

/// Everything that is expected to happen in time.
#[derive(Debug, Default)]
pub(super) struct Expectations {
    /// `[heartbeat] every`.
    heartbeat: Option<Duration>,
    beat_at: Option<Tick>,
    jobs: HashMap<Arc<str>, Expectation>,
    /// `at` of all of them, in order.
    due: BTreeSet<(Tick, Arc<str>)>,
}

#[derive(Debug, Clone, Copy)]
struct Expectation {
    every: Duration,
    /// When the job is overdue; `None`: it is, and that was said.
    at: Option<Tick>,
}

impl Expectations {
    pub(super) fn new(heartbeat: Option<Duration>) -> Self {
        Self {
            heartbeat,
            ..Self::default()
        }
    }

    /// The next moment at which something is overdue.
    pub(super) fn next(&self) -> Option<Tick> {
        let first = self.due.first().map(|(at, _)| *at);
        self.beat_at.into_iter().chain(first).min()
    }

    /// Whether the job has not succeeded as it was expected to.
    pub(super) fn is_overdue(&self, job: &str) -> bool {
        self.jobs.get(job).is_some_and(|one| one.at.is_none())
    }

    /// The daemon stops: from now on no job can do what is expected of it.
    pub(super) fn stop(&mut self) {
        self.due.clear();
    }

    fn set(&mut self, job: &Arc<str>, expectation: Option<Expectation>) {
        let former = match expectation {
            Some(one) => self.jobs.insert(Arc::clone(job), one),
            None => self.jobs.remove(job),
        };
        if let Some(at) = former.and_then(|one| one.at) {
            self.due.remove(&(at, Arc::clone(job)));
        }
        if let Some(at) = expectation.and_then(|one| one.at) {
            self.due.insert((at, Arc::clone(job)));
        }
    }
}

impl Supervisor {
    /// The daemon begins.
    pub(super) fn begin(&mut self, now: Now, effects: &mut Vec<Effect>) {
        if self.once.is_some() {
            return;
        }
        if let Some(every) = self.expectations.heartbeat {
            self.expectations.beat_at = Some(now.tick.after(every));
        }
        // Without an event there is nothing to ship, and an output that ships nothing does not connect.
        if self.expectations.heartbeat.is_some() || self.pressure.paused().is_some() {
            effects.push(Effect::Tell(Notice::Heartbeat(ServiceState::Started)));
        }
        if let Some(reason) = self.pressure.paused() {
            effects.push(Effect::Say(Say::Paused { reason }));
        }
        self.hold_if_changed(now, Hold::Free, effects);
    }

    /// The last sign of life.
    pub(super) fn heartbeat_stopped(&mut self, effects: &mut Vec<Effect>) {
        if self.expectations.beat_at.take().is_some() {
            effects.push(Effect::Tell(Notice::Heartbeat(ServiceState::Stopped)));
        }
    }

    /// What a new generation of a job is expected to do.
    pub(super) fn expect_of(&mut self, now: Now, name: &Arc<str>) {
        if self.once.is_some() {
            return;
        }
        let Some(known) = self.jobs.get(name) else {
            return;
        };
        let enabled = known.job.as_ref().filter(|job| job.enabled);
        let task = enabled.and_then(|job| job.task.as_ref());
        let Some(every) = task.and_then(|task| task.expect_every) else {
            self.expectations.set(name, None);
            return;
        };
        let former = self.expectations.jobs.get(name);
        if former.is_some_and(|former| former.every == every) {
            return;
        }
        let last = known.past.last_success_at;
        let left = last.map_or(every, |last| {
            let ago = now.wall.since(last);
            every.saturating_sub(ago).max(CATCH_UP.min(every))
        });
        let at = Some(now.tick.after(left));
        self.expectations.set(name, Some(Expectation { every, at }));
    }

    /// A job did what is expected of it.
    pub(super) fn succeeded(&mut self, now: Now, name: &Arc<str>, effects: &mut Vec<Effect>) {
        let Some(one) = self.expectations.jobs.get(name).copied() else {
            return;
        };
        if one.at.is_none() {
            effects.push(Effect::Say(Say::OnTime {
                job: Arc::clone(name),
            }));
            effects.push(Effect::Tell(Notice::OnTime {
                job: name.to_string(),
            }));
        }
        let at = Some(now.tick.after(one.every));
        self.expectations.set(name, Some(Expectation { at, ..one }));
    }

    /// Looks at what is overdue: each job is told once, until it has succeeded again.
    pub(super) fn expect(&mut self, now: Now, effects: &mut Vec<Effect>) {
        if let (Some(every), Some(at)) = (self.expectations.heartbeat, self.expectations.beat_at)
            && at <= now.tick
        {
            self.expectations.beat_at = Some(now.tick.after(every));
            effects.push(Effect::Tell(Notice::Heartbeat(ServiceState::Running)));
        }
        while let Some((at, name)) = self.expectations.due.first().cloned()
            && at <= now.tick
        {
            let Some(one) = self.expectations.jobs.get(&name).copied() else {
                return;
            };
            self.expectations
                .set(&name, Some(Expectation { at: None, ..one }));
            let past = self.jobs.get(&name).map(|known| &known.past);
            let last_success_at = past.and_then(|past| past.last_success_at);
            effects.push(Effect::Say(Say::Overdue {
                job: Arc::clone(&name),
                expect_every: one.every,
            }));
            effects.push(Effect::Tell(Notice::Overdue {
                job: name.to_string(),
                expect_every: one.every,
                last_success_at,
            }));
        }
    }

    /// Takes over another `[heartbeat]`.
    pub(super) fn set_heartbeat(&mut self, now: Now, every: Option<Duration>) {
        if self.once.is_none() && self.expectations.heartbeat != every {
            self.expectations.heartbeat = every;
            self.expectations.beat_at = every.map(|every| now.tick.after(every));
        }
    }
}
