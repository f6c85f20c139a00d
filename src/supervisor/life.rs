//! The way of a job to its schedule: modules, `first_run`, `startup`.
//!
//! Each step gates the next one and the schedule. A step that did not succeed is tried again after
//! a growing wait, for as long as the job is there, and the status says so. `first_run` is the
//! job's, not the edit's: once it has succeeded it is not run again, whatever becomes of its text.
//! The others belong to a generation and to this daemon. Knows no installer and no process.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use crate::clock::Tick;
use crate::event::RunId;
use crate::modules;
use crate::run;
use crate::run::Exit;
use crate::run::Outcome;
use crate::run::Trigger;
use crate::runner::Ended;
use crate::schedule::policy::Backoff;
use crate::schedule::scheduler::Hold;
use crate::status;
use crate::supervisor::Effect;
use crate::supervisor::Known;
use crate::supervisor::Live;
use crate::supervisor::Now;
use crate::supervisor::Phase;
use crate::supervisor::Say;
use crate::supervisor::Supervisor;

/// Wait before a failed step is tried again: a service that starts beside us is up by then.
pub(super) const RETRY_FIRST: Duration = Duration::from_secs(10);

/// Longest wait: a repaired network is noticed within a coffee.
pub(super) const RETRY_MAX: Duration = Duration::from_secs(300);

/// How far a job is.
#[derive(Debug)]
pub(super) struct Life {
    modules: Modules,
    /// Whether the current generation's `startup` has succeeded since the daemon was started.
    started: bool,
    /// The step that goes on.
    pub(super) step: Option<RunId>,
    backoff: Backoff,
    /// The last failure, until a step succeeds.
    failure: Option<Failure>,
    /// When the next step is begun, unless it waits for something else than time.
    due: Option<Tick>,
}

/// A step that did not succeed.
#[derive(Debug)]
struct Failure {
    why: String,
    /// `None`: its run is lost.
    run: Option<RunId>,
}

/// Whether what the current generation needs is installed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Modules {
    Unknown,
    Installed,
    /// It could not be, and the last good environment is in use meanwhile.
    Former,
}

impl Default for Life {
    fn default() -> Self {
        Self {
            modules: Modules::Unknown,
            started: false,
            step: None,
            backoff: Backoff::new(RETRY_FIRST, RETRY_MAX, None),
            failure: None,
            due: None,
        }
    }
}

/// The preparations of all jobs.
#[derive(Debug)]
pub(super) struct Preparations {
    due: BTreeSet<(Tick, Arc<str>)>,
    running: u32,
    /// As many as scheduled runs, beside them: all jobs prepare at once when the daemon starts.
    pub(super) most: u32,
}

impl Preparations {
    pub(super) const fn new(most: u32) -> Self {
        Self {
            due: BTreeSet::new(),
            running: 0,
            most,
        }
    }
}

impl Known {
    /// The step that must succeed before the job is run.
    pub(super) fn gate(&self) -> Option<run::Phase> {
        let task = self.job.as_ref()?.task.as_ref()?;
        let open = |phase: &run::Phase| match phase {
            run::Phase::Modules => self.life.modules == Modules::Unknown,
            run::Phase::FirstRun => !self.past.first_run_done,
            run::Phase::Startup => !self.life.started,
            run::Phase::Run => false,
        };
        run::Phase::STEPS
            .into_iter()
            .find(|phase| task.has(*phase) && open(phase))
    }

    /// The step that is to be tried next, whether or not the job waits for it.
    fn wanted(&self) -> Option<run::Phase> {
        let again = self.life.modules == Modules::Former;
        self.gate().or(again.then_some(run::Phase::Modules))
    }

    /// What can be told of the steps.
    pub(super) fn preparation(&self, now: Now) -> Option<status::Preparation> {
        let step = self.wanted()?;
        self.job.as_ref().filter(|job| job.enabled)?;
        let failure = self.life.failure.as_ref();
        let due = self.life.due.filter(|_| failure.is_some());
        Some(status::Preparation {
            step,
            gates: self.gate().is_some(),
            failures: self.life.backoff.tries(),
            problem: failure.map(|failure| failure.why.clone()),
            run: failure.and_then(|failure| failure.run.clone()),
            next_try_at: due.map(|at| status::At(now.wall.after(at.since(now.tick)))),
        })
    }

    /// Whether the job waits for a step that failed and is not being tried at the moment.
    pub(super) fn has_failed(&self) -> bool {
        self.life.failure.is_some() && self.life.step.is_none()
    }

    /// A new generation: what belonged to the former one is over.
    pub(super) fn renew(&mut self) {
        let (step, due) = (self.life.step.take(), self.life.due);
        self.life = Life {
            step,
            due,
            ..Life::default()
        };
    }
}

impl Supervisor {
    /// When the next step is due, if it could be begun.
    pub(super) fn next_step_at(&self) -> Option<Tick> {
        let first = self.preparations.due.first().map(|(at, _)| *at);
        first.filter(|_| self.may_prepare())
    }

    fn may_prepare(&self) -> bool {
        self.phase == Phase::Running
            && self.once.is_none()
            && self.pressure.hold() != Hold::Held
            && self.preparations.running < self.preparations.most
    }

    /// Begins the job's next step as soon as may be, unless a time is set for it already.
    pub(super) fn prepare_soon(&mut self, now: Now, name: &Arc<str>) {
        let free = |known: &Known| known.life.due.is_none() && known.life.step.is_none();
        if self.jobs.get(name).is_some_and(free) {
            self.prepare_at(name, Some(now.tick));
        }
    }

    /// Begins the job's next step at `at` or never. A paused job has no time: it gets one when it is
    /// resumed.
    pub(super) fn prepare_at(&mut self, name: &Arc<str>, at: Option<Tick>) {
        let at = at.filter(|_| !self.paused_jobs.contains(name));
        let Some(known) = self.jobs.get_mut(name) else {
            return;
        };
        let at = at.filter(|_| known.wanted().is_some());
        if let Some(former) = std::mem::replace(&mut known.life.due, at) {
            self.preparations.due.remove(&(former, Arc::clone(name)));
        }
        let due = at.map(|at| (at, Arc::clone(name)));
        self.preparations.due.extend(due);
    }

    /// Begins what is due.
    pub(super) fn life_go_on(&mut self, now: Now, effects: &mut Vec<Effect>) {
        while self.next_step_at().is_some_and(|at| at <= now.tick)
            && let Some((_, name)) = self.preparations.due.pop_first()
        {
            let Some(known) = self.jobs.get_mut(&name) else {
                continue;
            };
            known.life.due = None;
            let enabled = known.job.as_ref().is_some_and(|job| job.enabled);
            let Some(step) = known.wanted().filter(|_| enabled) else {
                continue;
            };
            // Modules are built aside; the others may change what runs work with, and wait for them.
            let waits = step != run::Phase::Modules && !known.runs.is_empty();
            if known.closing == 0 && !waits {
                self.begin_step(now, &name, step, effects);
            }
        }
    }

    /// Starts a step of the job's way.
    pub(super) fn begin_step(
        &mut self,
        now: Now,
        name: &Arc<str>,
        step: run::Phase,
        effects: &mut Vec<Effect>,
    ) -> Option<RunId> {
        let trigger = match step {
            run::Phase::Modules => Trigger::Modules,
            run::Phase::FirstRun => Trigger::FirstRun,
            run::Phase::Startup => Trigger::Startup,
            run::Phase::Run => return None,
        };
        let task = self.jobs.get(name)?.job.as_ref()?.task.as_ref()?;
        let task = Arc::new(task.in_phase(step)?);
        let run = self.start_run(now, name, task, trigger, None, effects)?;
        self.known(name).life.step = Some(run.clone());
        self.preparations.running += 1;
        Some(run)
    }

    /// A step has ended; `ended` is missing when nothing is known of its end.
    pub(super) fn step_ended(
        &mut self,
        now: Now,
        name: &Arc<str>,
        live: &Live,
        ended: Option<&Ended>,
        effects: &mut Vec<Effect>,
    ) {
        self.preparations.running = self.preparations.running.saturating_sub(1);
        let step = live.trigger.phase();
        let succeeded = ended.is_some_and(|ended| ended.outcome == Outcome::Success);
        let former = ended.and_then(|ended| ended.exit) == Some(Exit::Code(modules::EXIT_FORMER));
        let known = self.known(name);
        known.life.step = None;
        known.past.first_run_done |= step == run::Phase::FirstRun && succeeded;
        let keeps_former = step == run::Phase::Modules && former;
        let current = known.job.as_ref().map(|job| &job.generation) == Some(&live.job.generation);
        let was_gated = known.gate().is_some() || step == run::Phase::FirstRun;
        let mut next = now.tick;
        if current && succeeded {
            match step {
                run::Phase::Modules => known.life.modules = Modules::Installed,
                run::Phase::Startup => known.life.started = true,
                run::Phase::FirstRun | run::Phase::Run => {}
            }
            known.life.failure = None;
            known.life.backoff.reset();
        } else if current {
            if keeps_former {
                known.life.modules = Modules::Former;
            }
            let why = ended.and_then(|ended| ended.reason.clone());
            let why = why.unwrap_or_else(|| "nothing is known of its end".to_owned());
            let wait = known.life.backoff.next_wait().unwrap_or(RETRY_MAX);
            next = next.after(wait);
            known.life.failure = Some(Failure {
                why: why.clone(),
                run: ended.map(|ended| ended.run.clone()),
            });
            effects.push(Effect::Say(Say::StepFailed {
                job: Arc::clone(name),
                step,
                why,
                wait,
            }));
        }
        let is_ready = known.gate().is_none();
        if was_gated && is_ready {
            self.plan(now, name, effects);
        }
        // One that goes on with its former modules has failed, and is run all the same.
        self.once_prepared(name, succeeded || keeps_former);
        self.prepare_at(name, Some(next));
        if !current {
            self.retire(name, effects);
        }
        self.forget_if_gone(name);
    }
}
