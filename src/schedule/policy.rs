//! What becomes of ticks that cannot simply be run at their time, as the job wishes it.
//!
//! Plain values and the arithmetic of waiting; must never know a clock, a job's runs or a queue.

use std::time::Duration;

/// Most ticks that `missed = { all = N }` may hold on to: a day of quarter hours.
pub const ALL_MAX: u32 = 96;

/// Most runs of one job at a time, by `overlap = { parallel = N }`.
pub const PARALLEL_MAX: u32 = 1_000;

/// How far `on_pressure = "stretch"` goes: a job of every minute still looks four times an hour.
pub const STRETCH_MAX: u32 = 16;

/// The wishes of one job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Policy {
    /// Ticks are moved by [`offset`], which is less than this.
    pub jitter: Duration,
    /// A tick comes while the job runs.
    pub overlap: Overlap,
    /// Ticks passed while none could be run.
    pub missed: Missed,
    /// A run failed; `None`: the next one is that of the next tick.
    pub restart: Option<Restart>,
    /// The queue is getting full.
    pub on_pressure: OnPressure,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            jitter: Duration::ZERO,
            overlap: Overlap::Skip,
            missed: Missed::Once,
            restart: None,
            on_pressure: OnPressure::Pause,
        }
    }
}

/// What a tick does while the job runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Overlap {
    /// It is skipped.
    Skip,
    /// It waits for the end; of several that wait, the newest stands for all.
    Queue,
    /// It has the running one ended, and is run then.
    KillOld,
    /// It is run beside, up to so many runs; then skipped.
    Parallel(u32),
}

impl Overlap {
    /// How many runs there may be at a time.
    #[must_use]
    pub const fn runs_max(self) -> usize {
        match self {
            Self::Skip | Self::Queue | Self::KillOld => 1,
            Self::Parallel(most) => most as usize,
        }
    }
}

/// What becomes of ticks that passed while the daemon was not running, the machine was suspended or
/// the queue had no room.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Missed {
    /// Nothing.
    Skip,
    /// One run, for the newest of them.
    Once,
    /// A run for each of the newest so many, oldest first.
    All(u32),
}

impl Missed {
    /// How many ticks of a job may wait.
    #[must_use]
    pub const fn ticks_max(self) -> usize {
        match self {
            Self::Skip | Self::Once => 1,
            Self::All(most) => most as usize,
        }
    }
}

/// Runs again after one that failed, for the same tick.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Restart {
    /// Most further runs for one tick.
    pub max: u32,
    /// Wait before the first of them; doubled each time.
    pub backoff: Duration,
}

/// What a job does while the queue is getting full.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnPressure {
    /// No run.
    Pause,
    /// Longer and longer between runs, up to [`STRETCH_MAX`] times its period.
    Stretch,
}

/// How far the ticks of `job` on `host` are moved: always the same, and evenly spread between zero
/// and `jitter`, so that many jobs, or one job of many hosts, do not all start at once.
#[must_use]
pub fn offset(host: &str, job: &str, jitter: Duration) -> Duration {
    let jitter_ms = u64::try_from(jitter.as_millis()).unwrap_or(u64::MAX);
    if jitter_ms == 0 {
        return Duration::ZERO;
    }
    // FNV-1a, as an offset must be the same in every version; its upper bits are mixed down, since
    // names that differ in their last character differ there least.
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for byte in host.bytes().chain([0]).chain(job.bytes()) {
        hash = (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
    }
    hash = (hash ^ (hash >> 32)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    Duration::from_millis((hash ^ (hash >> 32)) % jitter_ms)
}

/// Waits that double, from a first one to a longest, for ever or a number of times.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backoff {
    first: Duration,
    longest: Duration,
    tries_max: Option<u32>,
    tries: u32,
}

impl Backoff {
    /// `tries_max` of `None` is for ever.
    #[must_use]
    pub const fn new(first: Duration, longest: Duration, tries_max: Option<u32>) -> Self {
        Self {
            first,
            longest,
            tries_max,
            tries: 0,
        }
    }

    /// How long to wait before the next try; `None`: there is none left.
    pub fn next_wait(&mut self) -> Option<Duration> {
        if self.tries_max.is_some_and(|most| self.tries >= most) {
            return None;
        }
        let wait = self.wait();
        self.tries = self.tries.saturating_add(1);
        Some(wait)
    }

    /// How long the next try waits, if there is one.
    #[must_use]
    pub fn wait(&self) -> Duration {
        let doubled = 1_u32.checked_shl(self.tries).unwrap_or(u32::MAX);
        let longest = self.longest.max(self.first);
        self.first.saturating_mul(doubled).min(longest)
    }

    /// It went well: the next wait is the first again.
    pub const fn reset(&mut self) {
        self.tries = 0;
    }

    /// How often it was tried since the last [`Backoff::reset`].
    #[must_use]
    pub const fn tries(&self) -> u32 {
        self.tries
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_offset_is_always_the_same_below_the_jitter_and_spread_evenly() {
        let jitter = Duration::from_secs(10);
        assert_eq!(offset("h", "a", Duration::ZERO), Duration::ZERO);
        assert_eq!(
            offset("web1", "disk", jitter),
            offset("web1", "disk", jitter)
        );
        assert_ne!(
            offset("web1", "disk", jitter),
            offset("web2", "disk", jitter)
        );
        let mut tenths = [0_u32; 10];
        for n in 0..10_000 {
            let at = offset("web1", &format!("job{n}"), jitter);
            assert!(at < jitter);
            tenths[usize::try_from(at.as_secs()).unwrap_or(9)] += 1;
        }
        assert!(
            tenths.iter().all(|count| (800..1200).contains(count)),
            "{tenths:?}"
        );
    }

    #[test]
    fn waits_double_up_to_the_longest_and_end_when_the_tries_do() {
        let seconds = Duration::from_secs;
        let mut backoff = Backoff::new(seconds(10), seconds(60), Some(5));
        let waits: Vec<_> = std::iter::from_fn(|| backoff.next_wait()).collect();
        assert_eq!(waits, [10, 20, 40, 60, 60].map(seconds));
        backoff.reset();
        assert_eq!(backoff.next_wait(), Some(seconds(10)));
        let mut endless = Backoff::new(seconds(600), seconds(300), None);
        for _ in 0..100 {
            assert_eq!(endless.next_wait(), Some(seconds(600)));
        }
    }
}
