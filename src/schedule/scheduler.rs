//! The scheduler of all jobs: a step function from inputs to runs that are to be started now.
//!
//! It remembers what is due, what runs and what waits; the supervisor carries out what it answers,
//! tells it how runs end, and feeds it the wall clock. Must never read a clock, start a run or
//! know a file.
//!
//! **One tick, at most one run.** A tick that comes while the job runs, waits or is held is skipped
//! and counted. Ticks that were missed because nobody looked (suspend, a clock set forward) are one
//! fire, for the latest of them, and a count.
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
use crate::schedule::Schedule;
use crate::schedule::ticks::Leap;
use crate::schedule::ticks::tick_after;
use crate::units::Timestamp;

/// Wait before the first restart of a kept-running script: short enough to go unnoticed, long
/// enough that a script which dies at once cannot take a core.
pub const RESTART_FIRST: Duration = Duration::from_secs(1);

/// Longest wait before a restart: a repaired dependency is noticed within a coffee.
pub const RESTART_MAX: Duration = Duration::from_secs(300);

/// A run of at least this length was healthy: the next restart waits [`RESTART_FIRST`] again.
pub const HEALTHY_RUN: Duration = Duration::from_secs(60);

/// A clock that goes back by less than this (slewing, a small correction) needs no new plans,
/// which cost a look at every job.
const STEP_BACK_MIN: Duration = Duration::from_secs(1);

/// What the log knows of a job's fires, for a scheduler that has just been made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Past {
    /// `scheduled_at` of its newest fire that had one.
    pub last_fire: Option<Timestamp>,
    /// Whether a run of this generation has ended.
    pub done: bool,
}

/// Everything that can make the scheduler act. Late and repeated inputs have no effect.
#[derive(Debug, Clone, PartialEq)]
pub enum Input {
    /// A job came, or a new generation of it.
    Load {
        /// The job.
        job: Arc<str>,
        /// When it is to run.
        schedule: Schedule,
        /// What was before; for a job that is known already its own memory of fires counts.
        past: Past,
        /// The wall clock.
        now: Timestamp,
    },
    /// A job went away. Its run, if it has one, is known until it has ended.
    Remove {
        /// The job.
        job: Arc<str>,
    },
    /// The wall clock, as it reads.
    Clock {
        /// The wall clock.
        now: Timestamp,
    },
    /// The job's run has ended, or could not be started.
    Ended {
        /// The job.
        job: Arc<str>,
        /// How long it ran, on the monotonic clock.
        ran: Duration,
        /// The wall clock.
        now: Timestamp,
    },
    /// The queue is too full for more output, or is so no longer.
    Hold {
        /// Which of the two.
        on: Hold,
    },
    /// A person wants the job to run now: neither the limit nor a hold stands against it, only a
    /// run of the same job.
    Trigger {
        /// The job.
        job: Arc<str>,
        /// The wall clock.
        now: Timestamp,
    },
    /// Nothing is started any more.
    Stop,
}

/// Whether the queue has room for the output of runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hold {
    /// It has not: ticks are skipped, restarts wait.
    Held,
    /// It has.
    Free,
}

/// A run that is to be started now. Each is answered by one [`Input::Ended`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fire {
    /// The job.
    pub job: Arc<str>,
    /// The tick it belongs to; `None` when it is not due by the clock (once, kept running, by a person).
    pub scheduled_at: Option<Timestamp>,
    /// Why.
    pub trigger: Trigger,
}

/// What can be told of a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct View {
    /// When it is due next; `None` when that hangs on an end, or it is never due again.
    pub next: Option<Timestamp>,
    /// How many runs it has: none or one.
    pub running: u32,
    /// Whether it is due and waits for a free place or the end of a hold.
    pub waiting: bool,
    /// Ticks without a run since the daemon started (of one leap of the clock, about a hundred at most are counted for cron).
    pub skipped: u64,
    /// How late its last scheduled run was fired.
    pub late: Duration,
}

/// The scheduler. See the module's header.
#[derive(Debug)]
pub struct Scheduler {
    jobs: HashMap<Arc<str>, Entry>,
    /// `next` of all jobs, in order.
    wakes: BTreeSet<(Timestamp, Arc<str>)>,
    /// Due jobs in the order in which they became due, each at most once, by ticket.
    waiting: BTreeMap<Lane, BTreeMap<u64, Arc<str>>>,
    tickets: u64,
    /// Runs that count against `max_concurrent`.
    running: u32,
    max_concurrent: u32,
    hold: Hold,
    stopped: bool,
    now: Timestamp,
    /// The latest reading of the clock since it was last set back.
    latest: Timestamp,
}

/// What is known of one job.
#[derive(Debug)]
struct Entry {
    /// `None`: the job was removed, its run has not ended.
    schedule: Option<Schedule>,
    run: Option<Run>,
    next: Option<Timestamp>,
    waiting: Option<Waiting>,
    last_fire: Option<Timestamp>,
    last_end: Option<Timestamp>,
    done: bool,
    restarts: Restarts,
    skipped: u64,
    late: Duration,
}

#[derive(Debug, Clone, Copy)]
struct Run {
    lane: Lane,
    generation: Generation,
}

/// Whether the limit of concurrent runs holds for a run. Runs of [`Lane::Free`] go first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Lane {
    Free,
    Limited,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Generation {
    Current,
    Former,
}

#[derive(Debug, Clone, Copy)]
struct Waiting {
    lane: Lane,
    ticket: u64,
    tick: Option<Timestamp>,
}

/// Where a kept-running script stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Restarts {
    /// Why it is started next.
    trigger: Trigger,
    /// How long the next restart waits.
    delay: Duration,
}

impl Restarts {
    const NEW: Self = Self {
        trigger: Trigger::Schedule,
        delay: RESTART_FIRST,
    };
}

impl Scheduler {
    /// A scheduler without jobs. `max_concurrent` limits the scheduled runs of all jobs together,
    /// at least 1; kept-running ones and those that a person started do not count.
    #[must_use]
    pub fn new(max_concurrent: u32) -> Self {
        Self {
            jobs: HashMap::new(),
            wakes: BTreeSet::new(),
            waiting: BTreeMap::from([
                (Lane::Free, BTreeMap::new()),
                (Lane::Limited, BTreeMap::new()),
            ]),
            tickets: 0,
            running: 0,
            max_concurrent: max_concurrent.max(1),
            hold: Hold::Free,
            stopped: false,
            now: Timestamp(i64::MIN),
            latest: Timestamp(i64::MIN),
        }
    }

    /// Takes one input; answers with the runs that are to be started, in this order. O(log jobs)
    /// for each of them and for the input, but O(jobs) for a clock that was set back.
    #[must_use]
    pub fn step(&mut self, input: Input) -> Vec<Fire> {
        let mut fires = Vec::new();
        if self.stopped {
            if let Input::Ended { job, .. } = input {
                self.end(&job);
            }
            return fires;
        }
        match input {
            Input::Load {
                job,
                schedule,
                past,
                now,
            } => {
                self.load(&job, schedule, past, now);
                self.advance(now);
            }
            Input::Remove { job } => self.remove(&job),
            Input::Clock { now } => self.advance(now),
            Input::Ended { job, ran, now } => {
                self.now = now;
                self.ended(&job, ran, now);
                // Who waited goes before who becomes due by this reading of the clock.
                self.admit(&mut fires);
                self.advance(now);
            }
            Input::Hold { on } => self.hold = on,
            Input::Trigger { job, now } => {
                self.advance(now);
                fires.extend(self.by_hand(&job));
            }
            Input::Stop => self.stop(),
        }
        self.admit(&mut fires);
        fires
    }

    /// When the next [`Input::Clock`] is needed, on the wall clock as it reads now.
    #[must_use]
    pub fn next_wake(&self) -> Option<Timestamp> {
        self.wakes.first().map(|(at, _)| *at)
    }

    /// What can be told of `job`; `None` when it is not known.
    #[must_use]
    pub fn view(&self, job: &str) -> Option<View> {
        let entry = self.jobs.get(job)?;
        Some(View {
            next: entry.next,
            running: u32::from(entry.run.is_some()),
            waiting: entry.waiting.is_some(),
            skipped: entry.skipped,
            late: entry.late,
        })
    }

    fn load(&mut self, job: &Arc<str>, schedule: Schedule, past: Past, now: Timestamp) {
        let entry = self
            .jobs
            .entry(Arc::clone(job))
            .or_insert_with(Entry::unknown);
        entry.last_fire = entry.last_fire.or(past.last_fire);
        entry.done = past.done;
        entry.restarts = Restarts::NEW;
        if let Some(run) = &mut entry.run {
            run.generation = Generation::Former;
        }
        let unchanged = entry.schedule.as_ref() == Some(&schedule);
        let by_clock = !matches!(schedule, Schedule::Once | Schedule::KeepRunning);
        if unchanged && by_clock {
            return;
        }
        // A tick that waits was one of the former schedule.
        let dropped = self.leave_queue(job).and_then(|waiting| waiting.tick);
        let Some(entry) = self.jobs.get_mut(job) else {
            return;
        };
        entry.skipped = entry.skipped.saturating_add(u64::from(dropped.is_some()));
        let next = entry.plan(&schedule, now);
        entry.schedule = Some(schedule);
        self.set_next(job, next);
    }

    fn remove(&mut self, job: &Arc<str>) {
        self.leave_queue(job);
        self.set_next(job, None);
        if let Some(entry) = self.jobs.get_mut(job) {
            entry.schedule = None;
            if entry.run.is_none() {
                self.jobs.remove(job);
            }
        }
    }

    fn ended(&mut self, job: &Arc<str>, ran: Duration, now: Timestamp) {
        let Some(run) = self.end(job) else {
            return;
        };
        let Some(entry) = self.jobs.get_mut(job) else {
            return;
        };
        entry.last_end = Some(now);
        let next = match entry.schedule {
            Some(Schedule::Cron(_) | Schedule::Every(_)) => return,
            Some(Schedule::EveryAfter(period)) => Some(now.after(period)),
            Some(Schedule::Once) => {
                entry.done |= run.generation == Generation::Current;
                (!entry.done).then_some(now)
            }
            Some(Schedule::KeepRunning) => {
                if ran >= HEALTHY_RUN {
                    entry.restarts = Restarts::NEW;
                }
                let at = now.after(entry.restarts.delay);
                entry.restarts = Restarts {
                    trigger: Trigger::Restart,
                    delay: (entry.restarts.delay * 2).min(RESTART_MAX),
                };
                Some(at)
            }
            None => {
                self.jobs.remove(job);
                return;
            }
        };
        self.set_next(job, next);
    }

    /// Takes the run off the job and, if it counted, off the limit.
    fn end(&mut self, job: &Arc<str>) -> Option<Run> {
        let run = self.jobs.get_mut(job)?.run.take()?;
        if run.lane == Lane::Limited {
            self.running = self.running.saturating_sub(1);
        }
        Some(run)
    }

    fn by_hand(&mut self, job: &Arc<str>) -> Option<Fire> {
        let entry = self.jobs.get_mut(job)?;
        if entry.run.is_some() || entry.schedule.is_none() {
            return None;
        }
        entry.run = Some(Run {
            lane: Lane::Free,
            generation: Generation::Current,
        });
        if entry.has_ticks() {
            // A waiting tick gives way: it would overlap.
            entry.skipped += u64::from(entry.waiting.is_some());
        } else {
            // This run stands for the one that was due; its end says when the next is.
            self.set_next(job, None);
        }
        self.leave_queue(job);
        Some(Fire {
            job: Arc::clone(job),
            scheduled_at: None,
            trigger: Trigger::Manual,
        })
    }

    fn stop(&mut self) {
        self.stopped = true;
        self.wakes.clear();
        self.waiting.values_mut().for_each(BTreeMap::clear);
        for entry in self.jobs.values_mut() {
            entry.next = None;
            entry.waiting = None;
        }
    }

    /// Takes a reading of the clock: plans anew if it was set back, then handles what is due.
    fn advance(&mut self, now: Timestamp) {
        self.now = now;
        if self.latest.since(now) >= STEP_BACK_MIN {
            self.latest = now;
            self.plan_after_step_back(now);
        }
        self.latest = self.latest.max(now);
        while self.next_wake().is_some_and(|at| at <= now) {
            if let Some((at, job)) = self.wakes.pop_first() {
                self.due(&job, at, now);
            }
        }
    }

    fn plan_after_step_back(&mut self, now: Timestamp) {
        self.wakes.clear();
        for (job, entry) in &mut self.jobs {
            if let Some(waiting) = entry.waiting_in_the_future(now) {
                entry.waiting = None;
                entry.skipped = entry.skipped.saturating_add(1);
                if let Some(queue) = self.waiting.get_mut(&waiting.lane) {
                    queue.remove(&waiting.ticket);
                }
            }
            entry.next = entry.next_after_step_back(now);
            if let Some(at) = entry.next {
                self.wakes.insert((at, Arc::clone(job)));
            }
        }
    }

    /// A job's `next` has come, and is out of `wakes` already.
    fn due(&mut self, job: &Arc<str>, at: Timestamp, now: Timestamp) {
        let Some(entry) = self.jobs.get_mut(job) else {
            return;
        };
        entry.next = None;
        let busy = entry.run.is_some() || entry.waiting.is_some();
        match &entry.schedule {
            Some(schedule @ (Schedule::Cron(_) | Schedule::Every(_))) => {
                let leap = Leap::over(schedule, at, now);
                entry.skipped = entry.skipped.saturating_add(leap.passed);
                // The first fire of a new job has no tick soon after it that could stand in for it.
                let first = entry.last_fire.is_none() && matches!(schedule, Schedule::Every(_));
                let held = self.hold == Hold::Held && !first;
                if busy || held {
                    entry.skipped = entry.skipped.saturating_add(1);
                } else {
                    self.queue_up(job, Lane::Limited, Some(leap.tick));
                }
                self.set_next(job, leap.next);
            }
            // The end of the run that it has says when it is due again.
            Some(_) if busy => {}
            Some(Schedule::EveryAfter(_)) => self.queue_up(job, Lane::Limited, Some(at)),
            Some(Schedule::Once) => self.queue_up(job, Lane::Limited, None),
            Some(Schedule::KeepRunning) => self.queue_up(job, Lane::Free, None),
            None => {}
        }
    }

    fn set_next(&mut self, job: &Arc<str>, next: Option<Timestamp>) {
        let Some(entry) = self.jobs.get_mut(job) else {
            return;
        };
        if let Some(at) = std::mem::replace(&mut entry.next, next) {
            self.wakes.remove(&(at, Arc::clone(job)));
        }
        if let Some(at) = next {
            self.wakes.insert((at, Arc::clone(job)));
        }
    }

    fn queue_up(&mut self, job: &Arc<str>, lane: Lane, tick: Option<Timestamp>) {
        let (Some(entry), Some(queue)) = (self.jobs.get_mut(job), self.waiting.get_mut(&lane))
        else {
            return;
        };
        let ticket = self.tickets;
        self.tickets += 1;
        entry.waiting = Some(Waiting { lane, ticket, tick });
        queue.insert(ticket, Arc::clone(job));
    }

    fn leave_queue(&mut self, job: &Arc<str>) -> Option<Waiting> {
        let waiting = self.jobs.get_mut(job)?.waiting.take()?;
        self.waiting.get_mut(&waiting.lane)?.remove(&waiting.ticket);
        Some(waiting)
    }

    /// Fires those who wait, as far as hold and limit allow.
    fn admit(&mut self, fires: &mut Vec<Fire>) {
        if self.hold == Hold::Held {
            return;
        }
        for lane in [Lane::Free, Lane::Limited] {
            while lane == Lane::Free || self.running < self.max_concurrent {
                let queue = self.waiting.get(&lane);
                let Some(job) = queue.and_then(|queue| queue.values().next()).cloned() else {
                    break;
                };
                fires.extend(self.start(&job));
            }
        }
    }

    fn start(&mut self, job: &Arc<str>) -> Option<Fire> {
        let Waiting { lane, tick, .. } = self.leave_queue(job)?;
        let now = self.now;
        let entry = self.jobs.get_mut(job)?;
        entry.run = Some(Run {
            lane,
            generation: Generation::Current,
        });
        if lane == Lane::Limited {
            self.running += 1;
        }
        if let Some(tick) = tick {
            entry.last_fire = Some(tick);
            entry.late = now.since(tick);
        }
        let trigger = match lane {
            Lane::Free => entry.restarts.trigger,
            Lane::Limited => Trigger::Schedule,
        };
        Some(Fire {
            job: Arc::clone(job),
            scheduled_at: tick,
            trigger,
        })
    }
}

impl Entry {
    const fn unknown() -> Self {
        Self {
            schedule: None,
            run: None,
            next: None,
            waiting: None,
            last_fire: None,
            last_end: None,
            done: false,
            restarts: Restarts::NEW,
            skipped: 0,
            late: Duration::ZERO,
        }
    }

    /// Whether the job is due by the clock alone, whatever becomes of its runs.
    const fn has_ticks(&self) -> bool {
        matches!(self.schedule, Some(Schedule::Cron(_) | Schedule::Every(_)))
    }

    /// When a job with this schedule is due, as of now.
    fn plan(&self, schedule: &Schedule, now: Timestamp) -> Option<Timestamp> {
        match schedule {
            Schedule::Cron(cron) => cron.next_after(self.base(schedule, now)),
            Schedule::Every(period) => Some(match self.last_fire {
                Some(last) => tick_after(last, *period, self.base(schedule, now)),
                None => now,
            }),
            Schedule::EveryAfter(_) | Schedule::KeepRunning if self.run.is_some() => None,
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
        let waiting = self.waiting.and_then(|waiting| waiting.tick);
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
    fn next_after_step_back(&self, now: Timestamp) -> Option<Timestamp> {
        let anew = match (&self.schedule, self.next) {
            (Some(schedule @ Schedule::Cron(_)), _) => self.plan(schedule, now),
            (Some(schedule @ Schedule::Every(period)), Some(at)) => {
                Some(tick_after(at, *period, self.base(schedule, now)))
            }
            (Some(Schedule::EveryAfter(period)), Some(_)) => Some(now.after(*period)),
            (Some(Schedule::KeepRunning), Some(_)) => Some(now.after(self.restarts.delay)),
            _ => None,
        };
        [self.next, anew].into_iter().flatten().min()
    }

    /// The tick that waits, if only a wrong clock can have made it due.
    fn waiting_in_the_future(&self, now: Timestamp) -> Option<Waiting> {
        let waiting = self.waiting?;
        let schedule = self.schedule.as_ref().filter(|_| self.has_ticks())?;
        let tick = waiting.tick?;
        (tick > now.after(period_from(schedule, tick))).then_some(waiting)
    }
}

/// From one tick to the next.
fn period_from(schedule: &Schedule, tick: Timestamp) -> Duration {
    match schedule {
        Schedule::Cron(cron) => cron
            .next_after(tick)
            .map_or(Duration::ZERO, |next| next.since(tick)),
        Schedule::Every(period) | Schedule::EveryAfter(period) => *period,
        Schedule::Once | Schedule::KeepRunning => Duration::ZERO,
    }
}

#[cfg(test)]
mod tests;
