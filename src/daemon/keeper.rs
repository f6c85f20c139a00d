//! Keeps the results of runs within their bounds, and in step with the log after a crash; after each
//! sweep memory that moments took is given back.
//!
//! Results are a projection: nothing here can fail a run. Works on blocking threads, never more
//! than one at a time.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::task::JoinHandle;

use crate::cleanup::Keep;
use crate::clock;
use crate::clock::Tick;
use crate::process;
use crate::queue::Ledger;
use crate::results::Results;
use crate::results::Swept;
use crate::run::Outcome;
use crate::spool::Change;
use crate::status;
use crate::units::Timestamp;

/// Least time between two sweeps: for so long results may be above their bounds.
const SWEEP_EVERY: Duration = Duration::from_secs(10);

/// A sweep looks at every result, some 50 us apiece: the next one waits this many times as long as it
/// looked at those that stay, so that looking at them again costs a hundredth of a core and not more.
/// Those that it removes do not count: else results would pile up wherever runs end fast, as each
/// sweep would find more to remove and the next one wait longer for it.
const SWEEP_REST: u32 = 100;

/// Longest wait for the last sweep.
const LAST_SWEEP: Duration = Duration::from_secs(1);

/// What is kept of jobs that are not there any more: the defaults of `[results] keep`.
const KEEP_GONE: Keep = Keep {
    runs: 50,
    age: Duration::from_secs(30 * 86_400),
    bytes: 100 << 20,
};

/// See the module's header.
#[derive(Debug)]
pub(super) struct Keeper {
    results: Results,
    /// `[results] bytes`.
    total_bytes: u64,
    keeps: BTreeMap<String, Keep>,
    /// Whether a run has ended since the last sweep: without one there is nothing new.
    dirty: bool,
    /// Whether all jobs have been seen, and with them what is kept of each: before, a sweep would
    /// measure them by the defaults.
    complete: bool,
    /// Nothing was swept yet: what former daemons left is due at once. One that lives for less than
    /// [`SWEEP_EVERY`], as with `run --once` from cron, would otherwise never sweep.
    swept_at: Option<Tick>,
    sweep: Option<JoinHandle<()>>,
    /// Least time from the beginning of the last sweep to the next one, in milliseconds.
    rest_ms: Arc<AtomicU64>,
}

impl Keeper {
    pub(super) fn new(results: Results, total_bytes: u64) -> Self {
        Self {
            results,
            total_bytes,
            keeps: BTreeMap::new(),
            dirty: true,
            complete: false,
            swept_at: None,
            sweep: None,
            rest_ms: Arc::new(AtomicU64::new(0)),
        }
    }

    /// Takes over another bound of all results together.
    pub(super) const fn set_total_bytes(&mut self, total_bytes: u64) {
        self.total_bytes = total_bytes;
        self.dirty = true;
    }

    /// Takes note of a job's `[results] keep`.
    pub(super) fn seen(&mut self, change: &Change) {
        match change {
            Change::Loaded(job) => {
                self.keeps.insert(job.name.clone(), job.keep);
            }
            Change::Removed { job } => {
                self.keeps.remove(job);
            }
            Change::Complete => self.complete = true,
            Change::Refused { .. } | Change::Unreadable { .. } | Change::Readable => {}
        }
    }

    /// Takes note of a further result.
    pub(super) fn run_ended(&mut self) {
        self.dirty = true;
    }

    /// Sweeps when it is time.
    pub(super) fn look_after(&mut self, now: Tick) {
        let busy = self.sweep.as_ref().is_some_and(|task| !task.is_finished());
        let rest = Duration::from_millis(self.rest_ms.load(Ordering::Relaxed));
        let early = self.swept_at.is_some_and(|at| now < at.after(rest));
        if !self.dirty || !self.complete || busy || early {
            return;
        }
        self.start(now);
    }

    /// A last sweep, for daemons that live for moments; waited for as long as [`LAST_SWEEP`].
    pub(super) async fn finish(mut self) {
        if self.dirty && self.complete && self.sweep.as_ref().is_none_or(JoinHandle::is_finished) {
            self.start(clock::tick());
        }
        if let Some(sweep) = self.sweep {
            // What it does not get to is for the next daemon.
            drop(clock::within(LAST_SWEEP, sweep).await);
        }
    }

    fn start(&mut self, now: Tick) {
        self.dirty = false;
        self.swept_at = Some(now);
        let rest_ms = Arc::clone(&self.rest_ms);
        let (results, keeps) = (self.results.clone(), self.keeps.clone());
        let total_bytes = self.total_bytes;
        self.sweep = Some(tokio::task::spawn_blocking(move || {
            let keep_of = |job: &str| keeps.get(job).copied().unwrap_or(KEEP_GONE);
            let swept = results.sweep(clock::now(), &keep_of, total_bytes);
            rest_ms.store(status::millis(rest(&swept)), Ordering::Relaxed);
            for note in &swept.notes {
                tracing::warn!(note, "a result cannot be removed");
            }
            if swept.removed > 0 {
                tracing::debug!(
                    removed = swept.removed,
                    bytes = swept.bytes,
                    "old results are removed"
                );
            }
            process::give_back_memory();
        }));
    }
}

/// How long to wait after a sweep began: see [`SWEEP_REST`].
fn rest(swept: &Swept) -> Duration {
    let seen = swept.kept + swept.removed;
    let share = swept.kept as f64 / seen.max(1) as f64;
    let of_kept = swept.looked.mul_f64(share);
    of_kept.saturating_mul(SWEEP_REST).max(SWEEP_EVERY)
}

/// Closes results that a dead daemon left open although the log knows how their runs ended: it died
/// between the end of a run and the writing of its result. Runs that are open in the log are closed
/// with their end. Blocks on the disk.
pub(super) fn settle(results: &Results, ledger: &Ledger, now: Timestamp) {
    let left = match results.left_running() {
        Ok(left) => left,
        Err(note) => {
            tracing::warn!(note, "results of the former daemon cannot be looked at");
            return;
        }
    };
    for (job, run) in left {
        if ledger.open.contains_key(&run) {
            continue;
        }
        let known = ledger
            .jobs
            .get(&job)
            .and_then(|past| past.last_run.as_ref());
        let (outcome, at, reason) = match known.filter(|last| last.run == run) {
            Some(last) => (last.outcome, Timestamp(last.at), None),
            None => (
                Outcome::Interrupted,
                now,
                Some("the daemon ended before its result was written"),
            ),
        };
        if let Err(note) = results.settle(&job, &run, outcome, at, reason) {
            tracing::warn!(job, %run, note, "the result cannot be written");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_stay_near_their_bounds_however_fast_runs_end() {
        const KEPT: u64 = 1200;
        const RUNS_PER_SECOND: u64 = 1000;
        let (mut there, mut most) = (KEPT + 100_000, 0);
        for sweep in 0..20 {
            let swept = Swept {
                looked: Duration::from_micros(50 * there),
                removed: there - KEPT,
                kept: KEPT,
                ..Swept::default()
            };
            there = KEPT + rest(&swept).as_secs() * RUNS_PER_SECOND;
            if sweep > 10 {
                most = most.max(there);
            }
        }
        assert!(most <= KEPT + 12 * RUNS_PER_SECOND, "{most}");
    }

    #[test]
    fn many_results_that_are_kept_are_looked_at_seldom() {
        let swept = Swept {
            kept: 100_000,
            looked: Duration::from_secs(5),
            ..Swept::default()
        };
        assert_eq!(rest(&swept), Duration::from_secs(500));
    }
}
