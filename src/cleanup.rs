//! Which results are removed, and in [`release`] which source files: pure decisions.
//!
//! Must never remove anything itself, ask for the time, or know what is in a result.

use std::collections::HashMap;
use std::time::Duration;

use crate::event::RunId;
use crate::units::Timestamp;

pub mod release;

/// What is kept of a job's ended runs: `[results] keep`. The newest result is kept whatever these say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Keep {
    /// At most this many.
    pub runs: u32,
    /// Not longer than this.
    pub age: Duration,
    /// Not more than this many bytes.
    pub bytes: u64,
}

/// A result as it lies on disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kept {
    /// The job.
    pub job: String,
    /// The run; ids sort by time.
    pub run: RunId,
    /// From when its age counts.
    pub at: Timestamp,
    /// All its files together.
    pub bytes: u64,
    /// Whether the run has ended.
    pub state: State,
}

/// Whether a result may be removed at all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// The run goes on: never removed.
    Running,
    /// The run has ended.
    Ended,
}

/// The results to remove so that each job stays within what `keep_of` says for it, and all
/// together within `total_bytes` (oldest first). Never a running one, never the newest of a job,
/// so the bounds may be exceeded by those.
#[must_use]
pub fn sweep(
    now: Timestamp,
    listing: &[Kept],
    keep_of: impl Fn(&str) -> Keep,
    total_bytes: u64,
) -> Vec<&Kept> {
    let mut jobs: HashMap<&str, Vec<&Kept>> = HashMap::new();
    for kept in listing {
        jobs.entry(&kept.job).or_default().push(kept);
    }
    let mut remove = Vec::new();
    let mut spared = Vec::new();
    let mut total = 0_u64;
    for (job, mut results) in jobs {
        results.sort_unstable_by(|a, b| b.run.cmp(&a.run));
        let keep = keep_of(job);
        let mut runs = 0_u32;
        let mut bytes = 0_u64;
        for (place, kept) in results.into_iter().enumerate() {
            runs += 1;
            bytes = bytes.saturating_add(kept.bytes);
            let fixed = place == 0 || kept.state == State::Running;
            let too_many = runs > keep.runs || bytes > keep.bytes;
            if !fixed && (too_many || now.since(kept.at) > keep.age) {
                remove.push(kept);
                continue;
            }
            total = total.saturating_add(kept.bytes);
            if !fixed {
                spared.push(kept);
            }
        }
    }
    spared.sort_unstable_by(|a, b| a.run.cmp(&b.run).then_with(|| a.job.cmp(&b.job)));
    for kept in spared {
        if total <= total_bytes {
            break;
        }
        total -= kept.bytes;
        remove.push(kept);
    }
    remove.sort_unstable_by(|a, b| a.run.cmp(&b.run).then_with(|| a.job.cmp(&b.job)));
    remove
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const DAY_MS: i64 = 86_400_000;

    fn kept(job: &str, day: i64, bytes: u64) -> Kept {
        let at = Timestamp(day * DAY_MS);
        Kept {
            job: job.to_owned(),
            run: RunId::new(at, 0),
            at,
            bytes,
            state: State::Ended,
        }
    }

    fn days(removed: &[&Kept]) -> Vec<i64> {
        removed.iter().map(|kept| kept.at.0 / DAY_MS).collect()
    }

    const ALL: Keep = Keep {
        runs: u32::MAX,
        age: Duration::from_secs(u64::MAX / 1000),
        bytes: u64::MAX,
    };

    #[test]
    fn the_oldest_beyond_the_number_go() {
        let listing: Vec<Kept> = (1..=5).map(|day| kept("a", day, 1)).collect();
        let removed = sweep(
            Timestamp(0),
            &listing,
            |_| Keep { runs: 2, ..ALL },
            u64::MAX,
        );
        assert_eq!(days(&removed), [1, 2, 3]);
    }

    #[test]
    fn results_beyond_the_age_go_but_never_the_newest_of_a_job() {
        let listing = [kept("a", 1, 1), kept("a", 2, 1), kept("b", 1, 1)];
        let keep = Keep {
            age: Duration::from_secs(3600),
            runs: 0,
            bytes: 0,
        };
        let removed = sweep(Timestamp(9 * DAY_MS), &listing, |_| keep, 0);
        assert_eq!(removed, [&listing[0]]);
    }

    #[test]
    fn a_running_run_is_never_removed_but_counts() {
        let mut listing = [kept("a", 1, 5), kept("a", 2, 5), kept("a", 3, 5)];
        listing[0].state = State::Running;
        let removed = sweep(Timestamp(0), &listing, |_| Keep { bytes: 9, ..ALL }, 0);
        assert_eq!(days(&removed), [2]);
    }

    #[test]
    fn all_jobs_together_lose_their_oldest_first() {
        let listing = [
            kept("a", 1, 10),
            kept("b", 2, 10),
            kept("a", 3, 10),
            kept("b", 4, 10),
        ];
        let removed = sweep(Timestamp(0), &listing, |_| ALL, 30);
        assert_eq!(days(&removed), [1]);
    }

    proptest! {
        #[test]
        fn what_stays_is_within_the_bounds(
            results in proptest::collection::vec((0..3_u8, 0..40_i64, 0..100_u64), 0..40),
            runs in 0..6_u32, bytes in 0..300_u64, total in 0..600_u64,
        ) {
            let mut listing: Vec<Kept> = results
                .iter()
                .map(|(job, day, bytes)| kept(&job.to_string(), *day, *bytes))
                .collect();
            listing.sort_by(|a, b| (&a.job, &a.run).cmp(&(&b.job, &b.run)));
            listing.dedup_by(|a, b| (&a.job, &a.run) == (&b.job, &b.run));
            let keep = Keep { runs, bytes, ..ALL };
            let removed = sweep(Timestamp(0), &listing, |_| keep, total);
            let left: Vec<&Kept> = listing.iter().filter(|kept| !removed.contains(kept)).collect();
            let jobs: std::collections::BTreeSet<&str> = listing.iter().map(|kept| kept.job.as_str()).collect();
            for job in &jobs {
                let of_job: Vec<_> = left.iter().filter(|kept| kept.job == *job).collect();
                prop_assert!(!of_job.is_empty());
                prop_assert!(of_job.len() == 1 || of_job.len() <= runs as usize);
                prop_assert!(of_job.len() == 1 || of_job.iter().map(|kept| kept.bytes).sum::<u64>() <= bytes);
            }
            let sum: u64 = left.iter().map(|kept| kept.bytes).sum();
            prop_assert!(left.len() == jobs.len() || sum <= total);
        }
    }
}
