//! Who is in: places for connections, in all and for each address, and what a server has counted.
//!
//! Knows nothing of what is said on a connection.

use std::collections::HashMap;
use std::io;
use std::net::IpAddr;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;

use tokio::sync::OwnedSemaphorePermit;
use tokio::sync::Semaphore;

use super::ServerSettings;

/// What a server has done since it began: it writes, anybody reads.
#[derive(Debug, Default)]
pub struct Tally {
    /// Connections that are open.
    pub open: AtomicU64,
    /// Connections that were taken.
    pub connections: AtomicU64,
    /// Windows that were acknowledged.
    pub windows: AtomicU64,
    /// Events in them.
    pub events: AtomicU64,
    /// Connections that were closed because of what the client did, or because its window could
    /// not be taken: nothing of that window was acknowledged.
    pub refused: AtomicU64,
    /// Connections that were closed at once because there were too many.
    pub turned_away: AtomicU64,
    /// Connections that could not be accepted, most likely since the process has too many files open.
    pub unaccepted: AtomicU64,
    last: Mutex<Option<String>>,
    shut: Mutex<Option<String>>,
}

impl Tally {
    /// Why the last connection was refused, with the client's address.
    #[must_use]
    pub fn last_refused(&self) -> Option<String> {
        locked(&self.last).clone()
    }

    /// Why no connection can be accepted at the moment.
    #[must_use]
    pub fn why_shut(&self) -> Option<String> {
        locked(&self.shut).clone()
    }

    pub(super) fn accepted(&self) {
        if locked(&self.shut).take().is_some() {
            tracing::warn!(
                unaccepted = self.unaccepted.load(Ordering::Relaxed),
                "connections are accepted again"
            );
        }
    }

    pub(super) fn not_accepted(&self, error: &io::Error) {
        self.unaccepted.fetch_add(1, Ordering::Relaxed);
        let why = format!("connections cannot be accepted: {error}");
        // One line however long it lasts.
        if locked(&self.shut).replace(why).is_none() {
            tracing::warn!(%error, "cannot accept connections, trying on");
        }
    }

    pub(super) fn refuse(&self, why: String) {
        self.refused.fetch_add(1, Ordering::Relaxed);
        *locked(&self.last) = Some(why);
    }
}

/// A bound for the connections of several servers together. A clone is the same one.
#[derive(Debug, Clone)]
pub struct Places {
    most: usize,
    free: Arc<Semaphore>,
}

impl Places {
    /// For so many connections.
    #[must_use]
    pub fn new(most: usize) -> Self {
        let most = most.min(Semaphore::MAX_PERMITS);
        Self {
            most,
            free: Arc::new(Semaphore::new(most)),
        }
    }
}

/// Who is in: how many connections each address has.
#[derive(Debug, Default)]
pub(super) struct Door {
    inside: Arc<Mutex<HashMap<IpAddr, usize>>>,
    /// Connections turned away since there was room last.
    turned_away: u64,
}

/// A connection's place among the open ones; given back by dropping it.
#[derive(Debug)]
pub(super) struct Place {
    address: IpAddr,
    inside: Arc<Mutex<HashMap<IpAddr, usize>>>,
    tally: Arc<Tally>,
    _of_all: OwnedSemaphorePermit,
}

impl Door {
    /// A place for one more connection, if there is one.
    pub(super) fn place(&mut self, peer: SocketAddr, settings: &ServerSettings) -> Option<Place> {
        let address = peer.ip().to_canonical();
        let tally = Arc::clone(&settings.tally);
        let mut inside = locked(&self.inside);
        let all: usize = inside.values().sum();
        let of_peer = inside.get(&address).copied().unwrap_or(0);
        let of_all = Arc::clone(&settings.places.free).try_acquire_owned();
        let (limit, whose) = if all >= settings.connections {
            (settings.connections, "in all")
        } else if of_peer >= settings.connections_per_peer {
            (settings.connections_per_peer, "from one address")
        } else if let Ok(of_all) = of_all {
            if self.turned_away > 0 {
                let turned_away = self.turned_away;
                tracing::warn!(turned_away, "there is room for connections again");
                self.turned_away = 0;
            }
            *inside.entry(address).or_default() += 1;
            drop(inside);
            tally.open.fetch_add(1, Ordering::Relaxed);
            tally.connections.fetch_add(1, Ordering::Relaxed);
            let inside = Arc::clone(&self.inside);
            return Some(Place {
                address,
                inside,
                tally,
                _of_all: of_all,
            });
        } else {
            let whose = "of all listeners for what the process may have open (LimitNOFILE)";
            (settings.places.most, whose)
        };
        // One line for a whole flood; the count follows when there is room again.
        if self.turned_away == 0 {
            tracing::warn!(%peer, limit, "too many connections {whose}, closing further ones");
        }
        self.turned_away += 1;
        tally.turned_away.fetch_add(1, Ordering::Relaxed);
        None
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.tally.open.fetch_sub(1, Ordering::Relaxed);
        let mut inside = locked(&self.inside);
        if let Some(count) = inside.get_mut(&self.address) {
            *count -= 1;
            if *count == 0 {
                inside.remove(&self.address);
            }
        }
    }
}

/// What is counted here is changed in whole steps, so what a panic left behind is whole.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
