//! How many files are held open, by all jobs together.
//!
//! Must never know which files, or what they are read for.

use std::io;
use std::sync::Arc;

use tokio::sync::OwnedSemaphorePermit;
use tokio::sync::Semaphore;

/// Files that all jobs together hold open, beside one for each: a quarter of what a process may
/// usually have open, since the rest is for connections and runs.
const ALL_MAX: usize = 256;

/// The right of one job to hold files open. The file's slot is free again when the permit is dropped.
#[derive(Debug, Clone)]
pub struct Slots {
    all: Arc<Semaphore>,
    /// One that no other job can take: so none waits for the others.
    own: Arc<Semaphore>,
}

impl Slots {
    /// Those of the first job of a daemon.
    #[must_use]
    #[expect(
        clippy::new_without_default,
        reason = "a second set would be a mistake, not a default"
    )]
    pub fn new() -> Self {
        Self {
            all: Arc::new(Semaphore::new(ALL_MAX)),
            own: Arc::new(Semaphore::new(1)),
        }
    }

    /// Those of another job, out of the same.
    #[must_use]
    pub fn of_another_job(&self) -> Self {
        Self {
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
            let why = format!("all jobs together hold more than {ALL_MAX} files open");
            io::Error::new(io::ErrorKind::ResourceBusy, why)
        })
    }

    /// Whether the jobs have to make room for each other.
    #[must_use]
    pub fn are_scarce(&self) -> bool {
        self.all.available_permits() == 0
    }
}
