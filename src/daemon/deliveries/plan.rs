//! Which result is handed to its plugin next, as one step function: what waits, what is under way,
//! what was given up, and the accounts of each job.
//!
//! Must never know what is handed over, a clock or a process.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::time::Duration;

use crate::clock::Tick;
use crate::schedule::policy::Backoff;
use crate::status;

/// How often a result is tried.
pub(super) const TRIES_MAX: u32 = 3;

/// Wait before the second try; doubled before the third. A web server that is restarted is back by
/// then, and one that is away for an hour is not worth a queue of its own: what it missed is in the results.
const FIRST_WAIT: Duration = Duration::from_secs(5);

/// Results that wait, of all jobs together. Each is some hundred bytes, its document is on disk;
/// at the limit further ones are dropped, counted, and tried by the next start of the daemon.
pub(super) const WAITING_MAX: usize = 1_000;

/// Of those, of one job: a plugin that hangs must not take the places of all others.
pub(super) const WAITING_OF_JOB_MAX: u64 = 100;

/// Plugins that run at a time: of all jobs together, and one of each job, so that one which hangs
/// keeps only its own job's results waiting.
pub(super) const TOGETHER_MAX: usize = 8;

/// What is to be handed over.
#[derive(Debug)]
pub(super) struct Item<T> {
    /// Of this job.
    pub(super) job: String,
    /// This.
    pub(super) what: T,
    /// How often it was tried.
    pub(super) tries: u32,
    due: Tick,
}

/// What becomes of a try.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    Delivered,
    Again(Duration),
    Failed,
}

/// What is known of a job's deliveries.
#[derive(Debug, Default)]
struct Account {
    counts: status::Deliveries,
    last_error: Option<String>,
}

/// The state of all deliveries.
#[derive(Debug)]
pub(super) struct Plan<T> {
    /// In the order in which they came.
    waiting: Vec<Item<T>>,
    busy: BTreeSet<String>,
    accounts: BTreeMap<String, Account>,
    /// Those of jobs that are not there any more.
    gone: status::Deliveries,
    /// From when on nothing is begun.
    over_at: Option<Tick>,
}

impl<T> Plan<T> {
    pub(super) const fn new() -> Self {
        Self {
            waiting: Vec::new(),
            busy: BTreeSet::new(),
            accounts: BTreeMap::new(),
            gone: status::Deliveries::NONE,
            over_at: None,
        }
    }

    /// Takes a result that was tried `tries` times before; whether it is taken.
    pub(super) fn offer(&mut self, job: &str, what: T, tries: u32, now: Tick) -> bool {
        let is_full = self.waiting.len() >= WAITING_MAX || self.waits(job) >= WAITING_OF_JOB_MAX;
        let account = self.accounts.entry(job.to_owned()).or_default();
        if is_full {
            account.counts.dropped += 1;
            return false;
        }
        self.waiting.push(Item {
            job: job.to_owned(),
            what,
            tries,
            due: now,
        });
        true
    }

    /// The next one to begin now, if there is one. It is under way until [`Plan::tried`].
    pub(super) fn begin(&mut self, now: Tick) -> Option<Item<T>> {
        let is_over = self.over_at.is_some_and(|at| at <= now);
        if is_over || self.busy.len() >= TOGETHER_MAX {
            return None;
        }
        let is_due = |item: &Item<T>| item.due <= now && !self.busy.contains(&item.job);
        let at = self.waiting.iter().position(is_due)?;
        let mut item = self.waiting.remove(at);
        item.tries += 1;
        self.busy.insert(item.job.clone());
        Some(item)
    }

    /// What becomes of one that was under way.
    pub(super) fn tried(
        &mut self,
        mut item: Item<T>,
        done: Result<(), String>,
        now: Tick,
    ) -> Verdict {
        self.busy.remove(&item.job);
        let account = self.accounts.entry(item.job.clone()).or_default();
        let Err(why) = done else {
            account.counts.delivered += 1;
            account.last_error = None;
            return Verdict::Delivered;
        };
        account.last_error = Some(why);
        if item.tries >= TRIES_MAX {
            account.counts.failed += 1;
            return Verdict::Failed;
        }
        account.counts.retried += 1;
        let mut backoff = Backoff::new(FIRST_WAIT, Duration::MAX, None);
        let waits = std::iter::from_fn(|| backoff.next_wait());
        let wait = waits.take(item.tries as usize).last().unwrap_or(FIRST_WAIT);
        item.due = now.after(wait);
        // One that is not the job's first may be more than the bound: it was counted in.
        self.waiting.push(item);
        Verdict::Again(wait)
    }

    /// When something is to be done by the clock alone: the next one is due, or the end has come.
    pub(super) fn next(&self) -> Option<Tick> {
        let has_room = self.busy.len() < TOGETHER_MAX;
        let free = |item: &&Item<T>| has_room && !self.busy.contains(&item.job);
        let waiting = self.waiting.iter().filter(free);
        waiting.map(|item| item.due).chain(self.over_at).min()
    }

    /// Begins nothing from `over_at` on.
    pub(super) const fn close(&mut self, over_at: Tick) {
        self.over_at = Some(over_at);
    }

    /// Whether the end has come: it was closed, and nothing is under way or begins before that time.
    pub(super) fn is_over(&self, now: Tick) -> bool {
        let begins = |over_at| self.next().is_some_and(|due| due < over_at);
        self.over_at
            .is_some_and(|at| at <= now || self.busy.is_empty() && !begins(at))
    }

    /// What is given up with the plan, to be tried by the next start.
    pub(super) fn left(&self) -> usize {
        self.waiting.len() + self.busy.len()
    }

    /// Keeps the account of a job that is not there any more with those of its kind.
    pub(super) fn forget(&mut self, job: &str) {
        if self.waits(job) == 0
            && let Some(account) = self.accounts.remove(job)
        {
            self.gone.add(&account.counts);
        }
    }

    /// The counts of a job, and why its last try failed.
    pub(super) fn of_job(&self, job: &str) -> (status::Deliveries, Option<String>) {
        let account = self.accounts.get(job);
        let counts = account.map(|account| account.counts).unwrap_or_default();
        let waiting = self.waits(job);
        let last_error = account.and_then(|account| account.last_error.clone());
        (status::Deliveries { waiting, ..counts }, last_error)
    }

    /// The counts of all jobs.
    pub(super) fn totals(&self) -> status::Deliveries {
        let mut totals = self.gone;
        for account in self.accounts.values() {
            totals.add(&account.counts);
        }
        totals.waiting = self.left() as u64;
        totals
    }

    fn waits(&self, job: &str) -> u64 {
        let waiting = self.waiting.iter().filter(|item| item.job == job).count();
        waiting as u64 + u64::from(self.busy.contains(job))
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::*;

    fn no() -> Result<(), String> {
        Err("exit code 3".to_owned())
    }

    #[test]
    fn a_result_is_tried_three_times_with_growing_waits_and_then_given_up() {
        let mut plan = Plan::new();
        assert!(plan.offer("disk", 1, 0, Tick(0)));
        let mut now = Tick(0);
        let mut waits = Vec::new();
        loop {
            let item = plan.begin(now).unwrap();
            assert_eq!(plan.of_job("disk").0.waiting, 1);
            match plan.tried(item, no(), now) {
                Verdict::Again(wait) => {
                    assert!(plan.begin(now).is_none());
                    now = plan.next().unwrap();
                    waits.push(wait.as_secs());
                }
                verdict => {
                    assert_eq!(verdict, Verdict::Failed);
                    break;
                }
            }
        }
        assert_eq!(waits, [5, 10]);
        let (counts, why) = plan.of_job("disk");
        assert_eq!((counts.failed, counts.retried, counts.waiting), (1, 2, 0));
        assert_eq!(why.as_deref(), Some("exit code 3"));
        assert!(plan.offer("disk", 2, 0, now));
        let item = plan.begin(now).unwrap();
        assert_eq!(plan.tried(item, Ok(()), now), Verdict::Delivered);
        assert_eq!(plan.of_job("disk").1, None);
        plan.forget("disk");
        assert_eq!(plan.of_job("disk").0, status::Deliveries::NONE);
        assert_eq!((plan.totals().failed, plan.totals().delivered), (1, 1));
    }

    #[test]
    fn a_job_whose_plugin_hangs_keeps_no_other_waiting() {
        let mut plan = Plan::new();
        for n in 0..20 {
            assert!(plan.offer("hangs", n, 0, Tick(0)));
        }
        assert!(plan.offer("other", 99, 0, Tick(0)));
        assert_eq!(plan.begin(Tick(0)).unwrap().what, 0);
        assert_eq!(plan.begin(Tick(0)).unwrap().what, 99);
        assert!(plan.begin(Tick(0)).is_none());
        for n in 0..2 * TOGETHER_MAX {
            assert!(plan.offer(&format!("job{n}"), n, 0, Tick(0)));
        }
        let more = std::iter::from_fn(|| plan.begin(Tick(0))).count();
        assert_eq!(more, TOGETHER_MAX - 2);
    }

    #[test]
    fn what_is_more_than_the_bound_is_dropped_and_counted() {
        let mut plan = Plan::new();
        let all = WAITING_MAX as u64;
        for n in 0..all {
            let job = format!("job{}", n / WAITING_OF_JOB_MAX);
            assert!(plan.offer(&job, n, 0, Tick(0)));
            if (n + 1) % WAITING_OF_JOB_MAX == 0 {
                assert!(!plan.offer(&job, n, 0, Tick(0)), "all of one job");
            }
        }
        assert_eq!(plan.of_job("job0").0.dropped, 1);
        assert!(!plan.offer("other", 0, 0, Tick(0)), "all of all jobs");
        assert_eq!(plan.of_job("other").0.dropped, 1);
        assert_eq!(plan.totals().dropped, all / WAITING_OF_JOB_MAX + 1);
        assert_eq!(plan.totals().waiting, all);
    }

    #[test]
    fn a_stop_waits_for_what_can_still_be_done_and_for_nothing_else() {
        let mut plan = Plan::new();
        assert!(plan.offer("disk", 1, 0, Tick(0)));
        let item = plan.begin(Tick(0)).unwrap();
        plan.close(Tick(2_000));
        assert!(!plan.is_over(Tick(100)), "it is under way");
        plan.tried(item, no(), Tick(200));
        assert!(plan.is_over(Tick(200)), "its next try comes too late");
        assert_eq!(plan.left(), 1);
        assert!(plan.offer("other", 2, 0, Tick(200)));
        assert!(!plan.is_over(Tick(200)), "it is due");
        assert!(plan.begin(Tick(300)).is_some());
        assert!(plan.is_over(Tick(2_000)), "the time has passed");
        assert!(plan.begin(Tick(60_000)).is_none());
    }
}
