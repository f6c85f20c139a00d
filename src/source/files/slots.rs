//! How many files are held open, by all jobs together.
//!
//! Must never know which files, or what they are read for.

use std::io;
use std::sync::Arc;

use tokio::sync::OwnedSemaphorePermit;
use tokio::sync::Semaphore;

/// Files that all jobs together hold open, beside one for each: more would only save some opening.
const ALL_MAX: usize = 256;

/// Which part of what the process may have open they take at most: the rest is for connections, runs
/// and the queue.
const SHARE: u64 = 8;

/// The right of one job to hold files open. The file's slot is free again when the permit is dropped.
#[derive(Debug, Clone)]
pub struct Slots {
    most: usize,
    all: Arc<Semaphore>,
    /// One that no other job can take: so none waits for the others.
    own: Arc<Semaphore>,
}

impl Slots {
    /// Those of the first job of a daemon that may have so many files open.
    #[must_use]
    pub fn new(open_files: u64) -> Self {
        let most = usize::try_from(open_files / SHARE).map_or(ALL_MAX, |most| most.min(ALL_MAX));
        Self {
            most,
            all: Arc::new(Semaphore::new(most)),
            own: Arc::new(Semaphore::new(1)),
        }
    }

    /// Those of another job, out of the same.
    #[must_use]
    pub fn of_another_job(&self) -> Self {
        Self {
            most: self.most,
            all: Arc::clone(&self.all),
            own: Arc::new(Semaphore::new(1)),
        }
    }

    /// Takes one.
    ///
    /// # Errors
    /// `ResourceBusy`: all are taken.
    pub fn take(&self) -> io::Result<OwnedSemaphorePermit> {
        let taken = [&self.all, &self.own]
            .into_iter()
            .find_map(|slots| Arc::clone(slots).try_acquire_owned().ok());
        taken.ok_or_else(|| {
            let why = format!("all jobs together hold more than {} files open", self.most);
            io::Error::new(io::ErrorKind::ResourceBusy, why)
        })
    }

    /// Whether the jobs have to make room for each other.
    #[must_use]
    pub fn are_scarce(&self) -> bool {
        self.all.available_permits() == 0
    }
}
