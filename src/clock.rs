//! The clock: the only place that asks the operating system for the time or waits for it.
//!
//! Step functions never read it; their drivers do and pass the reading in. Knows nothing of
//! what is waited for.

use std::future::Future;
use std::time::Duration;
use std::time::Instant;
use std::time::SystemTime;

use crate::units::Timestamp;

/// A monotonic instant: milliseconds since the process started. Never goes back, stands still in suspend.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Tick(pub u64);

impl Tick {
    /// This instant moved forward by `by`, saturating.
    #[must_use]
    pub fn after(self, by: Duration) -> Self {
        Self(
            self.0
                .saturating_add(u64::try_from(by.as_millis()).unwrap_or(u64::MAX)),
        )
    }

    /// How long after `earlier` this is; zero when it is not after it.
    #[must_use]
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(self.0.saturating_sub(earlier.0))
    }
}

/// The wall clock now.
#[must_use]
pub fn now() -> Timestamp {
    match SystemTime::now().duration_since(SystemTime::UNIX_EPOCH) {
        Ok(since) => Timestamp(i64::try_from(since.as_millis()).unwrap_or(i64::MAX)),
        Err(before) => Timestamp(-i64::try_from(before.duration().as_millis()).unwrap_or(i64::MAX)),
    }
}

/// The monotonic clock now.
#[must_use]
pub fn tick() -> Tick {
    static START: std::sync::OnceLock<Instant> = std::sync::OnceLock::new();
    let start = *START.get_or_init(Instant::now);
    Tick(u64::try_from(start.elapsed().as_millis()).unwrap_or(u64::MAX))
}

/// Waits for `duration` of monotonic time.
pub async fn sleep(duration: Duration) {
    tokio::time::sleep(duration).await;
}

/// Waits until the monotonic clock reads `at`.
pub async fn sleep_until(at: Tick) {
    tokio::time::sleep(at.since(tick())).await;
}

/// Blocks the calling thread; for the few OS threads that are not tasks.
pub fn pause(duration: Duration) {
    std::thread::sleep(duration);
}

/// Waits for `future`, but not longer than `limit`; `None` when the limit passed first.
pub async fn within<F: Future>(limit: Duration, future: F) -> Option<F::Output> {
    tokio::time::timeout(limit, future).await.ok()
}
