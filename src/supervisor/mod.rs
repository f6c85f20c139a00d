//! The supervisor: what the daemon does about everything that can happen, as one step function.
//!
//! A [`Note`] comes in with the time, [`Effect`]s go out; the driver (`daemon`) carries them out
//! and awaits in its place. All state of jobs and runs is owned here. Must never read a clock, a
//! file or a socket, never wait, and never look at all jobs for one note (a status or a stop
//! excepted).

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::clock::Tick;
use crate::config::Problem;
use crate::event::RunId;
use crate::job::AtEnd;
use crate::job::Job;
use crate::job::Task;
use crate::process::Can;
use crate::run;
use crate::run::Outcome;
use crate::run::Trigger;
use crate::runner::Ended;
use crate::runner::Order;
use crate::runner::Spec;
use crate::schedule::Schedule;
use crate::schedule::scheduler;
use crate::schedule::scheduler::Act;
use crate::schedule::scheduler::End;
use crate::schedule::scheduler::Fire;
use crate::schedule::scheduler::Input;
use crate::schedule::scheduler::Scheduler;
use crate::spool::Change;
use crate::status;
use crate::units::Timestamp;

mod asked;
mod expect;
mod life;
mod once;
mod pressure;
mod snapshot;
mod stop;
#[cfg(test)]
pub(crate) mod tests;
mod words;

use expect::Expectations;
use life::Life;
use life::Preparations;
use once::Once;
use pressure::Pressure;
pub use snapshot::Snapshot;
use stop::Phase;
pub use words::Ask;
pub use words::Effect;
pub use words::Exit;
pub use words::Mode;
pub use words::Note;
pub use words::Now;
pub use words::OpenRun;
pub use words::Past;
pub use words::QueueLevel;
pub use words::Say;
pub use words::Settings;
pub use words::Signal;
pub use words::Start;

pub use pressure::FREE_PERCENT;
pub use pressure::HOLD_PERCENT;

/// Most removed jobs whose past (last fire, last success) is kept in memory for their return;
/// beyond it the one that fired longest ago is forgotten and starts anew if it comes back.
pub const REMOVED_MAX: usize = 10_000;

/// The longest time without a look at the wall clock: suspend and NTP move it under our feet.
pub const WAKE_MAX: Duration = Duration::from_secs(1);

/// One job, as far as it is known.
#[derive(Debug, Default)]
struct Known {
    /// The last good generation; `None`: never good, or removed.
    job: Option<Arc<Job>>,
    /// What is wrong with the newest edit.
    problems: Vec<Problem>,
    past: Past,
    /// Its runs that have not ended, but for the one that prepares it.
    runs: Vec<RunId>,
    life: Life,
    /// Interrupted runs whose end is not recorded yet: it must not run before.
    closing: u32,
    /// Whether it was there when the daemon started and has not been planned yet: what was due
    /// since its last fire was missed.
    missed: bool,
}

/// A run that goes on.
#[derive(Debug)]
struct Live {
    job: Arc<Job>,
    task: Arc<Task>,
    trigger: Trigger,
    /// [`Fire::number`], of a run that the scheduler fired.
    number: Option<u64>,
    started_at: Timestamp,
    started: Tick,
    /// The hardest order that it has had.
    ordered: Option<Order>,
}

/// The state of everything.
#[derive(Debug)]
pub struct Supervisor {
    phase: Phase,
    once: Option<Once>,
    scheduler: Scheduler,
    /// Every job that has a folder, or a run that goes on.
    jobs: BTreeMap<Arc<str>, Known>,
    /// The pasts of all others: at most [`REMOVED_MAX`], or as many as the ledger told at the start.
    pasts: HashMap<Arc<str>, Past>,
    runs: HashMap<RunId, Live>,
    /// Interrupted runs whose end is not recorded yet.
    closing: HashMap<RunId, OpenRun>,
    pressure: Pressure,
    expectations: Expectations,
    preparations: Preparations,
    /// Jobs that a person paused, also such as are not there at the moment.
    paused_jobs: BTreeSet<Arc<str>>,
    /// Whether all jobs that were there at the start are known.
    complete: bool,
    /// What is wrong with spoolbeat.toml; the former settings stay.
    settings_problems: Vec<Problem>,
    /// Why `jobs/` cannot be looked at.
    unreadable: Option<String>,
    state_dir: PathBuf,
    stop_timeout: Duration,
    can: Can,
    /// Grows with each run; see [`Start::seed`].
    salt: u32,
}

impl Supervisor {
    /// A supervisor and what it wants done first.
    #[must_use]
    pub fn new(start: Start) -> (Self, Vec<Effect>) {
        let mut supervisor = Self {
            phase: Phase::Running,
            once: match start.mode {
                Mode::Serve => None,
                Mode::Once { keep_running } => {
                    Some(Once::new(keep_running, start.settings.max_concurrent))
                }
            },
            scheduler: Scheduler::new(start.host, start.settings.max_concurrent),
            jobs: BTreeMap::new(),
            pasts: start
                .pasts
                .into_iter()
                .map(|(name, past)| (Arc::from(name), past))
                .collect(),
            runs: HashMap::new(),
            closing: HashMap::new(),
            pressure: Pressure::new(start.require_output),
            expectations: Expectations::new(start.settings.heartbeat),
            preparations: Preparations::new(start.settings.max_concurrent),
            paused_jobs: BTreeSet::new(),
            complete: false,
            settings_problems: Vec::new(),
            unreadable: None,
            state_dir: start.state_dir,
            stop_timeout: start.settings.stop_timeout,
            can: start.can,
            salt: start.seed,
        };
        let mut effects = Vec::new();
        for open in start.open {
            let name: Arc<str> = Arc::from(open.job.as_str());
            supervisor.known(&name).closing += 1;
            supervisor.closing.insert(open.run.clone(), open.clone());
            effects.push(Effect::CloseInterrupted(open));
        }
        for name in start.paused {
            supervisor.pause(Arc::from(name));
        }
        supervisor.begin(start.now, &mut effects);
        (supervisor, effects)
    }

    /// Takes one note in. Late and repeated notes have no effect, by design.
    #[must_use]
    pub fn step(&mut self, now: Now, note: Note) -> Vec<Effect> {
        let mut effects = Vec::new();
        match note {
            Note::Clock => {
                self.schedule(now, Input::Clock { now: now.wall }, &mut effects);
                self.expect(now, &mut effects);
            }
            Note::Spool(change) => self.changed(now, change, &mut effects),
            Note::RunEnded(ended) => self.ended(now, ended, &mut effects),
            Note::RunLost { run } => self.lost(now, &run, &mut effects),
            Note::Closed { run } => self.closed(now, &run, &mut effects),
            Note::Queue(level) => self.level(now, &level, &mut effects),
            Note::OutputAnswered => self.output_answered(now, &mut effects),
            Note::Reread { ask, read } => self.reread(now, ask, read, &mut effects),
            Note::Answered { ask, answer } => effects.push(Effect::Reply { ask, answer }),
            Note::Signal(Signal::Hangup) => effects.push(Effect::Reload { ask: None }),
            Note::Signal(Signal::Terminate) => self.terminate(now, &mut effects),
            Note::Asked { ask, request } => self.asked(now, ask, request, &mut effects),
            Note::DrainOver { waiting_events } => self.drained(waiting_events, &mut effects),
        }
        self.go_on(now, &mut effects);
        effects
    }

    /// How long the driver may wait for the next note before it gives [`Note::Clock`].
    #[must_use]
    pub fn patience(&self, now: Now) -> Duration {
        let wall = self
            .scheduler
            .next_wake()
            .map(|at| at.since(now.wall))
            .into_iter();
        let deadlines = self.deadlines().chain(self.expectations.next());
        let deadlines = deadlines.chain(self.next_step_at());
        let deadlines = deadlines.map(|at| at.since(now.tick));
        wall.chain(deadlines).fold(WAKE_MAX, Duration::min)
    }

    /// What does not follow from one note alone: `--once`, and the way through a stop.
    fn go_on(&mut self, now: Now, effects: &mut Vec<Effect>) {
        self.once_go_on(now, effects);
        self.life_go_on(now, effects);
        self.stop_go_on(now, effects);
    }

    fn changed(&mut self, now: Now, change: Change, effects: &mut Vec<Effect>) {
        match change {
            Change::Loaded(job) => self.loaded(now, job, effects),
            Change::Refused { job, problems } => {
                self.known(&Arc::from(job)).problems = problems;
            }
            Change::Removed { job } => self.removed(now, &Arc::from(job), effects),
            Change::Unreadable { reason } => {
                self.unreadable = Some(reason);
                self.once_unreadable(now, effects);
            }
            Change::Readable => self.unreadable = None,
            Change::Complete => {
                self.complete = true;
                self.once_complete();
            }
        }
    }

    /// The entry of a job that is talked about; made, with its past, when there is none.
    fn known(&mut self, name: &Arc<str>) -> &mut Known {
        let pasts = &mut self.pasts;
        self.jobs.entry(Arc::clone(name)).or_insert_with(|| Known {
            past: pasts.remove(name).unwrap_or_default(),
            ..Known::default()
        })
    }

    fn loaded(&mut self, now: Now, job: Arc<Job>, effects: &mut Vec<Effect>) {
        let name: Arc<str> = Arc::from(job.name.as_str());
        let complete = self.complete;
        let known = self.known(&name);
        known.problems.clear();
        known.missed |= !complete && known.job.is_none() && job.enabled;
        if known.job.as_deref() == Some(&*job) {
            return;
        }
        known.job = Some(job);
        known.renew();
        for run in known.runs.clone() {
            // An endless run of the former generation would keep the new one out for ever.
            self.end_if_endless(&run, effects);
        }
        self.retire(&name, effects);
        self.expect_of(now, &name);
        self.plan(now, &name, effects);
        self.prepare_at(&name, None);
        self.prepare_soon(now, &name);
    }

    /// Says which generations of a job its runs still use.
    fn retire(&self, name: &Arc<str>, effects: &mut Vec<Effect>) {
        let known = self.jobs.get(name).into_iter();
        let runs = known.flat_map(|known| known.runs.iter().chain(&known.life.step));
        let live = runs.filter_map(|run| self.runs.get(run));
        effects.push(Effect::Retire {
            job: Arc::clone(name),
            in_use: live.map(|live| live.job.generation.clone()).collect(),
        });
    }

    /// Gives a job to the scheduler, or takes it away, by what is known of it.
    fn plan(&mut self, now: Now, name: &Arc<str>, effects: &mut Vec<Effect>) {
        if self.once.is_some() || self.phase != Phase::Running {
            return;
        }
        let Some(known) = self.jobs.get_mut(name) else {
            return;
        };
        let due = known
            .job
            .as_ref()
            .filter(|job| job.enabled && known.closing == 0 && known.gate().is_none());
        let input = match due.and_then(|job| Some((job, job.task.as_ref()?))) {
            Some((job, task)) => Input::Load {
                job: Arc::clone(name),
                schedule: task.schedule.clone(),
                policy: task.policy,
                past: scheduler::Past {
                    last_fire: known.past.last_fire,
                    done: known.past.done_generation.as_ref() == Some(&job.generation),
                    missed: std::mem::take(&mut known.missed),
                },
                now: now.wall,
            },
            None => Input::Remove {
                job: Arc::clone(name),
            },
        };
        self.schedule(now, input, effects);
    }

    fn removed(&mut self, now: Now, name: &Arc<str>, effects: &mut Vec<Effect>) {
        let Some(known) = self.jobs.get_mut(name) else {
            return;
        };
        known.problems.clear();
        known.job = None;
        let runs: Vec<RunId> = known.runs.iter().chain(&known.life.step).cloned().collect();
        self.prepare_at(name, None);
        for run in runs {
            if let Some(live) = self.runs.get(&run)
                && (live.task.script.on_remove == AtEnd::Terminate || live.task.is_endless())
            {
                self.order(&run, Order::Terminate, effects);
            }
        }
        self.retire(name, effects);
        self.expect_of(now, name);
        self.plan(now, name, effects);
        self.forget_if_gone(name);
    }

    fn schedule(&mut self, now: Now, input: Input, effects: &mut Vec<Effect>) {
        for act in self.scheduler.step(input) {
            self.act(now, act, effects);
        }
    }

    /// Does what the scheduler wants; gives the run that was started.
    fn act(&mut self, now: Now, act: Act, effects: &mut Vec<Effect>) -> Option<RunId> {
        match act {
            Act::Fire(fire) => self.fire(now, &fire, effects),
            Act::End { job, number } => {
                let runs = self.jobs.get(&job).map_or(&[][..], |known| &known.runs);
                let is_meant = |run: &&RunId| {
                    let live = self.runs.get(*run);
                    live.is_some_and(|live| live.number == Some(number))
                };
                let run = runs.iter().find(is_meant)?.clone();
                self.order(&run, Order::Terminate, effects);
                None
            }
        }
    }

    /// Starts what the scheduler fired.
    fn fire(&mut self, now: Now, fire: &Fire, effects: &mut Vec<Effect>) -> Option<RunId> {
        let known = self.jobs.get_mut(&fire.job)?;
        let task = Arc::clone(known.job.as_ref()?.task.as_ref()?);
        known.past.last_fire = fire.scheduled_at.or(known.past.last_fire);
        let run = self.start_run(now, &fire.job, task, fire.trigger, Some(fire), effects)?;
        self.known(&fire.job).runs.push(run.clone());
        Some(run)
    }

    /// Starts a run of a job: what the scheduler fired, or a step on the way to its schedule.
    fn start_run(
        &mut self,
        now: Now,
        name: &Arc<str>,
        task: Arc<Task>,
        trigger: Trigger,
        fire: Option<&Fire>,
        effects: &mut Vec<Effect>,
    ) -> Option<RunId> {
        let known = self.jobs.get(name)?;
        let spec = Spec {
            job: Arc::clone(known.job.as_ref()?),
            task,
            run: RunId::new(now.wall, self.salt),
            trigger,
            scheduled_at: fire.and_then(|fire| fire.scheduled_at),
            last_success_at: known.past.last_success_at,
            state_dir: self.state_dir.join(&**name).join("data"),
        };
        self.salt = self.salt.wrapping_add(1);
        let run = spec.run.clone();
        self.runs.insert(
            run.clone(),
            Live {
                job: Arc::clone(&spec.job),
                task: Arc::clone(&spec.task),
                trigger,
                number: fire.map(|fire| fire.number),
                started_at: now.wall,
                started: now.tick,
                ordered: None,
            },
        );
        effects.push(Effect::StartRun(Box::new(spec)));
        Some(run)
    }

    fn ended(&mut self, now: Now, ended: Ended, effects: &mut Vec<Effect>) {
        let Some(live) = self.runs.remove(&ended.run) else {
            return;
        };
        let name: Arc<str> = Arc::from(live.job.name.as_str());
        if live.trigger.phase() != run::Phase::Run {
            self.once_ended(&ended.run, ended.outcome);
            return self.step_ended(now, &name, &live, Some(&ended), effects);
        }
        let known = self.known(&name);
        known.runs.retain(|run| *run != ended.run);
        known.past.runs.add(ended.outcome);
        if ended.outcome.is_own_end() {
            known.past.done_generation = Some(live.job.generation.clone());
        }
        if ended.outcome == Outcome::Success {
            known.past.last_success_at = Some(ended.started_at);
            self.succeeded(now, &name, effects);
        }
        let known = self.known(&name);
        known.past.last_run = Some(status::LastRun {
            duration_ms: status::millis(ended.took),
            run: ended.run.clone(),
            outcome: ended.outcome,
            reason: ended.reason,
            started_at: status::At(ended.started_at),
            ended_at: status::At(ended.at),
        });
        self.once_ended(&ended.run, ended.outcome);
        let end = match ended.outcome {
            Outcome::Success | Outcome::Killed | Outcome::Interrupted => End::Well,
            Outcome::Failed
            | Outcome::Signalled
            | Outcome::TimedOut
            | Outcome::Oom
            | Outcome::CouldNotStart => End::Failed,
        };
        self.tell_scheduler(now, &name, &live, end, effects);
    }

    fn lost(&mut self, now: Now, run: &RunId, effects: &mut Vec<Effect>) {
        let Some(live) = self.runs.remove(run) else {
            return;
        };
        let name: Arc<str> = Arc::from(live.job.name.as_str());
        self.once_ended(run, Outcome::Failed);
        if live.trigger.phase() != run::Phase::Run {
            return self.step_ended(now, &name, &live, None, effects);
        }
        self.known(&name).runs.retain(|other| other != run);
        self.tell_scheduler(now, &name, &live, End::Failed, effects);
    }

    fn tell_scheduler(
        &mut self,
        now: Now,
        name: &Arc<str>,
        live: &Live,
        end: End,
        effects: &mut Vec<Effect>,
    ) {
        if let Some(number) = live.number {
            let input = Input::Ended {
                job: Arc::clone(name),
                number,
                end,
                ran: now.tick.since(live.started),
                now: now.wall,
            };
            self.schedule(now, input, effects);
        }
        self.prepare_soon(now, name);
        let current = self.jobs.get(name).and_then(|known| known.job.as_ref());
        if current.is_none_or(|job| job.generation != live.job.generation) {
            self.retire(name, effects);
        }
        self.forget_if_gone(name);
    }

    fn closed(&mut self, now: Now, run: &RunId, effects: &mut Vec<Effect>) {
        let Some(open) = self.closing.remove(run) else {
            return;
        };
        let name: Arc<str> = Arc::from(open.job);
        let known = self.known(&name);
        known.closing = known.closing.saturating_sub(1);
        if open.trigger.phase() == run::Phase::Run {
            known.past.runs.add(Outcome::Interrupted);
            known.past.last_run = Some(status::LastRun {
                run: open.run,
                outcome: Outcome::Interrupted,
                reason: Some("the daemon ended while it ran".to_owned()),
                started_at: status::At(open.at),
                ended_at: status::At(now.wall),
                duration_ms: status::millis(now.wall.since(open.at)),
            });
        }
        if known.closing == 0 {
            self.plan(now, &name, effects);
            self.prepare_soon(now, &name);
            self.forget_if_gone(&name);
        }
    }

    /// Keeps no more than the past of a job that is gone, and not of too many.
    fn forget_if_gone(&mut self, name: &Arc<str>) {
        let gone = |known: &Known| {
            known.job.is_none()
                && known.problems.is_empty()
                && known.runs.is_empty()
                && known.life.step.is_none()
                && known.closing == 0
        };
        if !self.jobs.get(name).is_some_and(gone) {
            return;
        }
        let Some(known) = self.jobs.remove(name) else {
            return;
        };
        if self.pasts.len() >= REMOVED_MAX {
            let oldest = self.pasts.iter().min_by_key(|(_, past)| past.last_fire);
            if let Some(oldest) = oldest.map(|(name, _)| Arc::clone(name)) {
                self.pasts.remove(&oldest);
            }
        }
        self.pasts.insert(Arc::clone(name), known.past);
    }

    /// Orders a run, unless it has had that order or a harder one.
    fn order(&mut self, run: &RunId, order: Order, effects: &mut Vec<Effect>) {
        let Some(live) = self.runs.get_mut(run) else {
            return;
        };
        match (live.ordered, order) {
            (Some(Order::Kill), _) | (Some(Order::Terminate), Order::Terminate) => return,
            (None, _) | (Some(Order::Terminate), Order::Kill) => live.ordered = Some(order),
        }
        effects.push(Effect::OrderRun {
            run: run.clone(),
            order,
        });
    }

    fn end_if_endless(&mut self, run: &RunId, effects: &mut Vec<Effect>) {
        if let Some(live) = self.runs.get(run)
            && live.task.schedule == Schedule::KeepRunning
        {
            self.order(run, Order::Terminate, effects);
        }
    }
}
