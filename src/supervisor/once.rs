//! `run --once`: every enabled job once, then the same way out as any stop.
//!
//! Schedules are not looked at, so the scheduler has no part in it; the number of runs at a time
//! is the same. Knows nothing of the command line.

use std::collections::HashMap;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use crate::clock::Tick;
use crate::event::RunId;
use crate::run::Outcome;
use crate::run::Trigger;
use crate::runner::Order;
use crate::schedule::Schedule;
use crate::schedule::scheduler::Fire;
use crate::supervisor::Effect;
use crate::supervisor::Exit;
use crate::supervisor::Known;
use crate::supervisor::Now;
use crate::supervisor::Phase;
use crate::supervisor::Say;
use crate::supervisor::Supervisor;

/// The state of a `run --once`.
#[derive(Debug)]
pub(super) struct Once {
    keep_running: Duration,
    max_concurrent: usize,
    /// Whether the whole spool is known and `pending` has been filled.
    read: bool,
    /// Jobs that have not been started yet.
    pending: VecDeque<Arc<str>>,
    /// When runs of kept-running scripts are ended.
    until: HashMap<RunId, Tick>,
    /// When jobs that cannot be started because the queue is full are given up.
    give_up_at: Option<Tick>,
    failed: bool,
    refused: bool,
}

impl Once {
    pub(super) fn new(keep_running: Duration, max_concurrent: u32) -> Self {
        Self {
            keep_running,
            max_concurrent: usize::try_from(max_concurrent).unwrap_or(usize::MAX).max(1),
            read: false,
            pending: VecDeque::new(),
            until: HashMap::new(),
            give_up_at: None,
            failed: false,
            refused: false,
        }
    }

    /// How the program ends after the drain.
    pub(super) const fn verdict(&self, waiting_events: u64) -> Exit {
        match (self.refused, self.failed, waiting_events) {
            (true, _, _) => Exit::Refused,
            (false, true, _) => Exit::Failed,
            (false, false, 1..) => Exit::Unshipped,
            (false, false, 0) => Exit::Clean,
        }
    }

    pub(super) fn deadlines(&self) -> impl Iterator<Item = Tick> {
        self.until.values().copied().chain(self.give_up_at)
    }
}

impl Supervisor {
    /// There are no jobs to be had: one run of the program does not wait for a better time.
    pub(super) fn once_unreadable(&mut self, now: Now, effects: &mut Vec<Effect>) {
        let Some(once) = &mut self.once else { return };
        if !once.read {
            once.refused = true;
            self.stop(now, effects);
        }
    }

    /// The whole spool is known.
    pub(super) fn once_complete(&mut self) {
        let Some(once) = &mut self.once else { return };
        if once.read || self.phase != Phase::Running {
            return;
        }
        once.read = true;
        for (name, known) in &self.jobs {
            once.refused |= !known.problems.is_empty();
            if known
                .job
                .as_ref()
                .is_some_and(|job| job.enabled && job.task.is_some())
            {
                once.pending.push_back(Arc::clone(name));
            }
        }
    }

    pub(super) fn once_ended(&mut self, run: &RunId, outcome: Outcome) {
        let Some(once) = &mut self.once else { return };
        let kept = once.until.remove(run).is_some();
        // What is kept running ends by our order: that is its success here.
        once.failed |= outcome != Outcome::Success && !(kept && outcome == Outcome::Killed);
    }

    /// Nothing further is started.
    pub(super) fn once_stop(&mut self) {
        let Some(once) = &mut self.once else { return };
        once.failed |= !once.pending.is_empty() || !once.read;
        once.pending.clear();
        once.give_up_at = None;
    }

    /// Starts what may be started, ends what has run long enough, and stops after the last.
    pub(super) fn once_go_on(&mut self, now: Now, effects: &mut Vec<Effect>) {
        if self.phase != Phase::Running {
            return;
        }
        self.once_give_up(now, effects);
        while let Some(name) = self.once_next(now) {
            let fire = Fire {
                job: name,
                number: 0,
                scheduled_at: None,
                trigger: Trigger::Manual,
            };
            self.once_start(now, &fire, effects);
        }
        let Some(once) = &mut self.once else { return };
        let mut over: Vec<RunId> = Vec::new();
        for (run, until) in &once.until {
            if *until <= now.tick {
                over.push(run.clone());
            }
        }
        let done = once.read && once.pending.is_empty() && self.runs.is_empty();
        over.sort();
        for run in over {
            self.order(&run, Order::Terminate, effects);
        }
        if done && self.closing.is_empty() {
            self.stop(now, effects);
        }
    }

    /// The next job to start now, if any may be.
    fn once_next(&mut self, now: Now) -> Option<Arc<str>> {
        let once = self.once.as_mut()?;
        if once.pending.is_empty() || !self.closing.is_empty() {
            return None;
        }
        if self.pressure.paused().is_some() {
            let give_up_at = now.tick.after(self.stop_timeout);
            once.give_up_at.get_or_insert(give_up_at);
            return None;
        }
        once.give_up_at = None;
        if self.runs.len() - once.until.len() >= once.max_concurrent {
            return None;
        }
        once.pending.pop_front()
    }

    /// A step of a job's way has ended: the next one follows, or the job itself.
    pub(super) fn once_prepared(&mut self, name: &Arc<str>, goes_on: bool) {
        let running = self.phase == Phase::Running;
        if let Some(once) = self.once.as_mut().filter(|_| goes_on && running) {
            once.pending.push_front(Arc::clone(name));
        }
    }

    fn once_start(&mut self, now: Now, fire: &Fire, effects: &mut Vec<Effect>) {
        let gate = self.jobs.get(&fire.job).and_then(Known::gate);
        if let Some(step) = gate {
            self.begin_step(now, &fire.job, step, effects);
            return;
        }
        let kept = self
            .jobs
            .get(&fire.job)
            .and_then(|known| known.job.as_ref()?.task.as_ref())
            .is_some_and(|task| task.schedule == Schedule::KeepRunning);
        let run = self.fire(now, fire, effects);
        if let (Some(once), Some(run), true) = (&mut self.once, run, kept) {
            let until = now.tick.after(once.keep_running);
            once.until.insert(run, until);
        }
    }

    fn once_give_up(&mut self, now: Now, effects: &mut Vec<Effect>) {
        let Some(once) = &mut self.once else { return };
        if once.give_up_at.is_none_or(|at| now.tick < at) {
            return;
        }
        once.give_up_at = None;
        for job in once.pending.drain(..) {
            once.failed = true;
            let reason = self.pressure.paused().unwrap_or_default();
            effects.push(Effect::Say(Say::NotRun { job, reason }));
        }
    }
}
