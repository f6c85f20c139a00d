//! The memory for what was gathered and is not captured yet, shared by all sources.
//!
//! Whoever finds it empty waits, and gives back first what it can. Must never know who asks.

use std::sync::Arc;

use tokio::sync::OwnedSemaphorePermit;
use tokio::sync::Semaphore;

/// Memory for what all sources together have gathered and the queue has not captured. A run's own
/// unfinished lines (at most `max_event` per stream) and one chunk that had to wait come on top.
const POOL_BYTES: usize = 32 << 20;

/// What the pool counts in.
const POOL_UNIT_BYTES: usize = 4 << 10;

/// Memory that all sources share.
#[derive(Debug, Clone)]
pub struct Pool(Arc<Semaphore>);

impl Pool {
    /// The whole pool: 32 MiB. One per daemon.
    #[must_use]
    #[expect(
        clippy::new_without_default,
        reason = "a second pool would be a mistake, not a default"
    )]
    pub fn new() -> Self {
        Self(Arc::new(Semaphore::new(POOL_BYTES / POOL_UNIT_BYTES)))
    }

    /// A pool of another size, for tests of what happens when it is empty.
    #[cfg(test)]
    pub(crate) fn of(bytes: usize) -> Self {
        Self(Arc::new(Semaphore::new(bytes / POOL_UNIT_BYTES)))
    }

    /// What it counts `bytes` as.
    #[must_use]
    pub fn units(bytes: usize) -> u32 {
        u32::try_from(bytes.min(POOL_BYTES).div_ceil(POOL_UNIT_BYTES)).unwrap_or(u32::MAX)
    }

    /// Reserves so many units now, if there are.
    #[must_use]
    pub fn reserve_now(&self, units: u32) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.0).try_acquire_many_owned(units).ok()
    }

    /// Units that nobody holds.
    #[cfg(test)]
    pub(crate) fn free_units(&self) -> usize {
        self.0.available_permits()
    }

    /// Waits for so many units; everybody has their turn in the order of asking.
    pub fn reserve(&self, units: u32) -> impl Future<Output = OwnedSemaphorePermit> + Send + use<> {
        let reserved = Arc::clone(&self.0).acquire_many_owned(units);
        async move { reserved.await.expect("the pool is never closed") }
    }
}
