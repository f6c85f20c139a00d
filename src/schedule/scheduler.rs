//! The scheduler of all jobs: a step function from inputs to runs that are to be started now.
//!
//! It remembers what is due, what runs and what waits; the supervisor carries out what it answers,
//! tells it how runs end, and feeds it the wall clock. Must never read a clock, start a run or
//! know a file.
//!
//! **One tick, at most one run** (a restart after a failure is another try of the same tick). What
//! becomes of a tick that comes while the job runs, is held, or passed while nobody looked, is the
//! job's [`Policy`]. A tick that is not run is counted.
//!
//! **Fair**: a job waits in one place of one queue, whatever it has to do, and goes to its end
//! with what is left. So jobs take turns, and none starves.
//!
//! **A clock set back** by no more than a job's period changes nothing for it: no tick is fired
//! again, the job is silent until the clock has caught up. Set back further, silence would last for
//! as long as the clock was wrong, so the job is planned anew from the new time, and readings of
//! the clock that come a second time are fired a second time.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use crate::run::Trigger;
use crate::schedule::Policy;
use crate::schedule::Schedule;
use crate::schedule::policy;
use crate::schedule::policy::Missed;
use crate::schedule::policy::OnPressure;
use crate::schedule::policy::Overlap;
use crate::schedule::ticks::Leap;
use crate::units::Timestamp;

mod entry;
mod words;

use entry::Again;
use entry::Due;
use entry::Entry;
use entry::Generation;
use entry::Lane;
use entry::Plan;
use entry::Retry;
use entry::Run;
use entry::Stretch;
use entry::back;
pub use words::Act;
pub use words::End;
pub use words::Fire;
pub use words::Hold;
pub use words::Input;
pub use words::Past;
pub use words::View;

/// Wait before the first restart of a kept-running script: short enough to go unnoticed, long
/// enough that a script which dies at once cannot take a core.
pub const RESTART_FIRST: Duration = Duration::from_secs(1);

/// Longest wait before a restart: a repaired dependency is noticed within a coffee.
pub const RESTART_MAX: Duration = Duration::from_secs(300);

/// A run of at least this length was healthy: the next restart waits [`RESTART_FIRST`] again.
pub const HEALTHY_RUN: Duration = Duration::from_secs(60);

/// A tick that is looked at later than this was missed; the clock is looked at each second.
pub const MISSED_AFTER: Duration = Duration::from_secs(10);

/// A clock that goes back by less than this (slewing, a small correction) needs no new plans,
/// which cost a look at every job.
const STEP_BACK_MIN: Duration = Duration::from_secs(1);

/// The scheduler. See the module's header.
#[derive(Debug)]
pub struct Scheduler {
    /// Whose jobs these are, for [`policy::offset`].
    host: String,
    jobs: HashMap<Arc<str>, Entry>,
    /// `next` and `retry` of all jobs, in order.
    wakes: BTreeSet<(Timestamp, Why, Arc<str>)>,
    /// Jobs with a place, each in one queue, in the order of their tickets.
    queues: BTreeMap<Lane, BTreeMap<u64, Arc<str>>>,
    /// Tells places apart, and fires.
    tickets: u64,
    /// Runs that count against `max_concurrent`.
    running: u32,
    max_concurrent: u32,
    hold: Hold,
    /// Jobs that are stretched at the moment.
    stretched: BTreeSet<Arc<str>>,
    stopped: bool,
    now: Timestamp,
    /// The latest reading of the clock since it was last set back.
    latest: Timestamp,
}

/// What a job is woken for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Why {
    Schedule,
    Retry,
}

impl Scheduler {
    /// A scheduler without jobs. `max_concurrent` limits the scheduled runs of all jobs together,
    /// at least 1; kept-running ones and those that a person started do not count.
    #[must_use]
    pub fn new(host: String, max_concurrent: u32) -> Self {
        let lanes = [Lane::Free, Lane::Limited, Lane::Stretched];
        Self {
            host,
            jobs: HashMap::new(),
            wakes: BTreeSet::new(),
            queues: lanes.map(|lane| (lane, BTreeMap::new())).into(),
            tickets: 0,
            running: 0,
            max_concurrent: max_concurrent.max(1),
            hold: Hold::Free,
            stretched: BTreeSet::new(),
            stopped: false,
            now: Timestamp(i64::MIN),
            latest: Timestamp(i64::MIN),
        }
    }

    /// Takes one input; answers with what is to be done, in this order. O(log jobs) for each of
    /// them and for the input, but O(jobs) for a clock that was set back.
    #[must_use]
    pub fn step(&mut self, input: Input) -> Vec<Act> {
        let mut acts = Vec::new();
        if self.stopped {
            if let Input::Ended { job, number, .. } = input {
                self.end(&job, number);
            }
            return acts;
        }
        match input {
            Input::Load {
                job,
                schedule,
                policy,
                past,
                now,
            } => {
                let offset = policy::offset(&self.host, &job, policy.jitter);
                let plan = Arc::new(Plan {
                    schedule,
                    policy,
                    offset,
                });
                self.load(&job, plan, past, now);
                self.advance(now, &mut acts);
            }
            Input::Remove { job } => self.remove(&job),
            Input::Clock { now } => self.advance(now, &mut acts),
            Input::Ended {
                job,
                number,
                ran,
                end,
                now,
            } => {
                self.now = now;
                self.ended(&job, number, ran, end);
                // Who waited goes before who becomes due by this reading of the clock.
                self.admit(&mut acts);
                self.advance(now, &mut acts);
            }
            Input::Hold { on, now } => {
                // What was due before the change belongs to the time before it.
                self.advance(now, &mut acts);
                self.admit(&mut acts);
                self.hold(on);
            }
            Input::Limit { max_concurrent } => self.max_concurrent = max_concurrent.max(1),
            Input::Trigger { job, now } => {
                self.advance(now, &mut acts);
                acts.extend(self.by_hand(&job).map(Act::Fire));
            }
            Input::Pause { job } => self.pause(&job),
            Input::Resume { job, now } => {
                self.resume(&job);
                self.advance(now, &mut acts);
            }
            Input::Stop => self.stop(),
        }
        self.admit(&mut acts);
        acts
    }

    /// When the next [`Input::Clock`] is needed, on the wall clock as it reads now.
    #[must_use]
    pub fn next_wake(&self) -> Option<Timestamp> {
        self.wakes.first().map(|(at, _, _)| *at)
    }

    /// What can be told of `job`; `None` when it is not known.
    #[must_use]
    pub fn view(&self, job: &str) -> Option<View> {
        let entry = self.jobs.get(job)?;
        let retry = entry.retry.map(|retry| retry.at);
        let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        Some(View {
            next: entry.next.into_iter().chain(retry).min(),
            running: count(entry.runs.len()),
            waiting: count(entry.due.len()),
            paused: entry.paused,
            skipped: entry.skipped,
            stretch: entry.stretch.factor,
            restarts: entry.backoff.tries(),
            late: entry.late,
        })
    }

    fn load(&mut self, job: &Arc<str>, plan: Arc<Plan>, past: Past, now: Timestamp) {
        let entry = self
            .jobs
            .entry(Arc::clone(job))
            .or_insert_with(Entry::unknown);
        entry.replan(past, &plan);
        let unchanged = entry
            .plan
            .as_ref()
            .is_some_and(|former| former.schedule == plan.schedule && former.offset == plan.offset);
        let by_clock = !matches!(plan.schedule, Schedule::Once | Schedule::KeepRunning);
        if unchanged && by_clock {
            let wishes = plan.policy;
            let former = entry.plan.replace(plan);
            if former.is_some_and(|former| former.policy != wishes) {
                self.leave_queue(job);
                self.queue_up(job);
            }
            return;
        }
        // What waits was due by the former schedule.
        if entry.has_ticks() {
            entry.skip(entry.due.len());
        }
        entry.due.clear();
        let next = entry.first(&plan, past, now);
        entry.plan = Some(plan);
        self.leave_queue(job);
        self.set_retry(job, None);
        self.set_next(job, next);
    }

    fn remove(&mut self, job: &Arc<str>) {
        self.leave_queue(job);
        self.set_retry(job, None);
        self.set_next(job, None);
        self.stretched.remove(job);
        if let Some(entry) = self.jobs.get_mut(job) {
            entry.plan = None;
            entry.due.clear();
            self.forget_if_gone(job);
        }
    }

    /// A job without a plan is known for its runs only.
    fn forget_if_gone(&mut self, job: &Arc<str>) {
        let gone = |entry: &Entry| entry.plan.is_none() && entry.runs.is_empty() && !entry.paused;
        if self.jobs.get(job).is_some_and(gone) {
            self.jobs.remove(job);
        }
    }

    fn ended(&mut self, job: &Arc<str>, number: u64, ran: Duration, end: End) {
        let Some(run) = self.end(job, number) else {
            return;
        };
        let now = self.now;
        let Some(entry) = self.jobs.get_mut(job) else {
            return;
        };
        entry.last_end = Some(now);
        if entry.plan.is_none() {
            self.forget_if_gone(job);
            return;
        }
        match entry.after(run, ran, end, now) {
            Again::Never => {}
            Again::At(at) => self.set_next(job, Some(at)),
            Again::Retry(retry) => self.set_retry(job, Some(retry)),
        }
        self.queue_up(job);
    }

    /// Takes the run off the job and, if it counted, off the limit.
    fn end(&mut self, job: &Arc<str>, number: u64) -> Option<Run> {
        let entry = self.jobs.get_mut(job)?;
        let at = entry.runs.iter().position(|run| run.number == number)?;
        let run = entry.runs.remove(at);
        if run.lane != Lane::Free {
            self.running = self.running.saturating_sub(1);
        }
        Some(run)
    }

    fn by_hand(&mut self, job: &Arc<str>) -> Option<Fire> {
        let number = self.ticket();
        let entry = self.jobs.get_mut(job)?;
        if entry.plan.is_none() || entry.runs.len() >= entry.runs_max() {
            return None;
        }
        entry.runs.push(Run {
            number,
            lane: Lane::Free,
            generation: Generation::Current,
            trigger: Trigger::Manual,
            tick: None,
        });
        if !entry.has_ticks() {
            // This run stands for the one that was due; its end says when the next is.
            entry.due.clear();
            self.set_next(job, None);
        } else if entry.runs.len() >= entry.runs_max() {
            // A waiting tick gives way: it would overlap.
            entry.skip(entry.due.len());
            entry.due.clear();
        }
        self.set_retry(job, None);
        self.leave_queue(job);
        self.queue_up(job);
        Some(Fire {
            job: Arc::clone(job),
            number,
            scheduled_at: None,
            trigger: Trigger::Manual,
        })
    }

    fn pause(&mut self, job: &Arc<str>) {
        let entry = self
            .jobs
            .entry(Arc::clone(job))
            .or_insert_with(Entry::unknown);
        entry.paused = true;
        if entry.has_ticks() {
            entry.skip(entry.due.len());
            entry.due.clear();
            self.set_retry(job, None);
        }
        self.leave_queue(job);
    }

    fn resume(&mut self, job: &Arc<str>) {
        if let Some(entry) = self.jobs.get_mut(job) {
            entry.paused = false;
            self.queue_up(job);
            self.forget_if_gone(job);
        }
    }

    fn hold(&mut self, on: Hold) {
        self.hold = on;
        if on == Hold::Free {
            for job in std::mem::take(&mut self.stretched) {
                if let Some(entry) = self.jobs.get_mut(&job) {
                    entry.stretch = Stretch::NONE;
                }
            }
        }
    }

    fn stop(&mut self) {
        self.stopped = true;
        self.wakes.clear();
        self.queues.values_mut().for_each(BTreeMap::clear);
        for entry in self.jobs.values_mut() {
            entry.next = None;
            entry.retry = None;
            entry.place = None;
            entry.due.clear();
        }
    }

    /// Takes a reading of the clock: plans anew if it was set back, then handles what is due.
    fn advance(&mut self, now: Timestamp, acts: &mut Vec<Act>) {
        self.now = now;
        if self.latest.since(now) >= STEP_BACK_MIN {
            self.latest = now;
            self.plan_after_step_back(now);
        }
        self.latest = self.latest.max(now);
        while self.next_wake().is_some_and(|at| at <= now) {
            match self.wakes.pop_first() {
                Some((at, Why::Schedule, job)) => self.due(&job, at, acts),
                Some((_, Why::Retry, job)) => self.retry(&job),
                None => {}
            }
        }
    }

    fn plan_after_step_back(&mut self, now: Timestamp) {
        let jobs: Vec<Arc<str>> = self.jobs.keys().cloned().collect();
        for job in jobs {
            let Some(entry) = self.jobs.get_mut(&job) else {
                continue;
            };
            entry.drop_ticks_of_the_future(now);
            let next = entry.next_after_step_back(now);
            let retry = entry.retry.map(|retry| Retry {
                at: retry.at.min(now.after(retry.wait)),
                ..retry
            });
            if entry.due.is_empty() {
                self.leave_queue(&job);
            }
            self.set_next(&job, next);
            self.set_retry(&job, retry);
        }
    }

    /// A job's `next` has come, and is out of `wakes` already.
    fn due(&mut self, job: &Arc<str>, at: Timestamp, acts: &mut Vec<Act>) {
        let now = self.now;
        let Some(entry) = self.jobs.get_mut(job) else {
            return;
        };
        entry.next = None;
        let Some(plan) = entry.plan.clone() else {
            return;
        };
        if plan.schedule.has_ticks() {
            let (due, looked) = (back(at, plan.offset), back(now, plan.offset));
            let most = plan.policy.missed.ticks_max();
            let leap = Leap::over(&plan.schedule, due, looked, most);
            let next = leap.next.map(|next| next.after(plan.offset));
            self.set_next(job, next);
            self.ticks(job, &plan, leap, acts);
            return;
        }
        // The end of the run that it has says when it is due again.
        if entry.runs.is_empty() && entry.due.is_empty() {
            let by_clock = matches!(plan.schedule, Schedule::EveryAfter(_));
            let kept = plan.schedule == Schedule::KeepRunning;
            entry.due.push_back(Due {
                tick: by_clock.then_some(at),
                trigger: match kept {
                    true => entry.trigger,
                    false => Trigger::Schedule,
                },
            });
            if by_clock && self.hold == Hold::Pressed && stretches(&plan.policy) {
                entry.stretch.double();
                self.stretched.insert(Arc::clone(job));
            }
            self.queue_up(job);
        }
    }

    /// What becomes of ticks that have come.
    fn ticks(&mut self, job: &Arc<str>, plan: &Plan, leap: Leap, acts: &mut Vec<Act>) {
        let Some(entry) = self.jobs.get_mut(job) else {
            return;
        };
        let policy = &plan.policy;
        entry.skipped = entry.skipped.saturating_add(leap.passed);
        let mut ticks = leap.ticks;
        // The first fire of a new job has no tick soon after it that could stand in for it.
        let first = entry.last_fire.is_none() && matches!(plan.schedule, Schedule::Every(_));
        let stretched = self.hold == Hold::Pressed && stretches(policy);
        let held = self.hold != Hold::Free && !stretched;
        let late = |tick: &Timestamp| back(self.now, plan.offset).since(*tick) > MISSED_AFTER;
        let missed = held || ticks.last().is_some_and(late);
        let busy = entry.runs.len() >= entry.runs_max();
        let waits = matches!(policy.overlap, Overlap::Queue | Overlap::KillOld);
        let unwanted = missed && policy.missed == Missed::Skip && !first;
        if entry.paused || unwanted || (busy && !waits) {
            entry.skip(ticks.len());
            return;
        }
        if stretched {
            self.stretched.insert(Arc::clone(job));
            if !entry.stretch.takes() {
                entry.skip(ticks.len());
                return;
            }
        }
        if busy {
            entry.skip(ticks.len() - 1);
            ticks.drain(..ticks.len() - 1);
        }
        if busy && policy.overlap == Overlap::KillOld && !held {
            acts.extend(entry.runs.iter().map(|run| Act::End {
                job: Arc::clone(job),
                number: run.number,
            }));
        }
        entry.due.extend(ticks.into_iter().map(|tick| Due {
            tick: Some(tick),
            trigger: Trigger::Schedule,
        }));
        while entry.due.len() > policy.missed.ticks_max() {
            entry.due.pop_front();
            entry.skip(1);
        }
        self.set_retry(job, None);
        self.queue_up(job);
    }

    /// A job's `retry` has come, and is out of `wakes` already.
    fn retry(&mut self, job: &Arc<str>) {
        let Some(entry) = self.jobs.get_mut(job) else {
            return;
        };
        if let Some(Retry { tick, .. }) = entry.retry.take()
            && entry.due.is_empty()
        {
            entry.due.push_back(Due {
                tick,
                trigger: Trigger::Restart,
            });
            self.queue_up(job);
        }
    }

    fn set_next(&mut self, job: &Arc<str>, next: Option<Timestamp>) {
        if let Some(entry) = self.jobs.get_mut(job) {
            let former = std::mem::replace(&mut entry.next, next);
            self.wake(job, Why::Schedule, former, next);
        }
    }

    fn set_retry(&mut self, job: &Arc<str>, retry: Option<Retry>) {
        if let Some(entry) = self.jobs.get_mut(job) {
            let former = std::mem::replace(&mut entry.retry, retry);
            let at = |retry: Retry| retry.at;
            self.wake(job, Why::Retry, former.map(at), retry.map(at));
        }
    }

    fn wake(&mut self, job: &Arc<str>, why: Why, former: Option<Timestamp>, at: Option<Timestamp>) {
        if let Some(former) = former {
            self.wakes.remove(&(former, why, Arc::clone(job)));
        }
        if let Some(at) = at {
            self.wakes.insert((at, why, Arc::clone(job)));
        }
    }

    const fn ticket(&mut self) -> u64 {
        self.tickets += 1;
        self.tickets
    }

    /// Gives a job its place, if it has something to start and none yet.
    fn queue_up(&mut self, job: &Arc<str>) {
        let ticket = self.ticket();
        let Some(entry) = self.jobs.get_mut(job) else {
            return;
        };
        let Some(plan) = &entry.plan else { return };
        let idle = entry.due.is_empty() || entry.paused || entry.place.is_some();
        if idle || entry.runs.len() >= entry.runs_max() {
            return;
        }
        let lane = match plan.schedule {
            Schedule::KeepRunning => Lane::Free,
            _ if stretches(&plan.policy) => Lane::Stretched,
            _ => Lane::Limited,
        };
        entry.place = Some((lane, ticket));
        if let Some(queue) = self.queues.get_mut(&lane) {
            queue.insert(ticket, Arc::clone(job));
        }
    }

    fn leave_queue(&mut self, job: &Arc<str>) {
        let place = self.jobs.get_mut(job).and_then(|entry| entry.place.take());
        if let Some((lane, ticket)) = place
            && let Some(queue) = self.queues.get_mut(&lane)
        {
            queue.remove(&ticket);
        }
    }

    /// Fires those who wait, as far as hold and limit allow.
    fn admit(&mut self, acts: &mut Vec<Act>) {
        while let Some(job) = self.next_in_turn() {
            acts.extend(self.start(&job).map(Act::Fire));
        }
    }

    fn next_in_turn(&self) -> Option<Arc<str>> {
        let head = |lane| self.queues.get(&lane)?.first_key_value();
        let limited = || {
            let lanes = match self.hold {
                Hold::Free => &[Lane::Limited, Lane::Stretched][..],
                Hold::Pressed => &[Lane::Stretched],
                Hold::Held => &[],
            };
            lanes.iter().filter_map(|lane| head(*lane)).min()
        };
        let free = || head(Lane::Free).filter(|_| self.hold == Hold::Free);
        let place = free().or_else(|| limited().filter(|_| self.running < self.max_concurrent));
        place.map(|(_, job)| Arc::clone(job))
    }

    fn start(&mut self, job: &Arc<str>) -> Option<Fire> {
        let (lane, number) = self.jobs.get(job)?.place?;
        self.leave_queue(job);
        let now = self.now;
        let entry = self.jobs.get_mut(job)?;
        let Due { tick, trigger } = entry.due.pop_front()?;
        entry.runs.push(Run {
            number,
            lane,
            generation: Generation::Current,
            trigger,
            tick,
        });
        if lane != Lane::Free {
            self.running += 1;
        }
        if let Some(tick) = tick {
            let offset = entry
                .plan
                .as_ref()
                .map_or(Duration::ZERO, |plan| plan.offset);
            entry.last_fire = Some(tick);
            entry.late = now.since(tick.after(offset));
            if trigger == Trigger::Schedule && entry.has_ticks() {
                entry.backoff.reset();
            }
        }
        self.queue_up(job);
        Some(Fire {
            job: Arc::clone(job),
            number,
            scheduled_at: tick,
            trigger,
        })
    }
}

/// Whether a job with ticks or a period goes on under pressure.
fn stretches(policy: &Policy) -> bool {
    policy.on_pressure == OnPressure::Stretch
}

#[cfg(test)]
mod tests;
