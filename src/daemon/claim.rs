//! The root as one daemon has it: its lock, and the folders that are ours.
//!
//! Knows nothing of what lies in them.

use std::io;
use std::path::Path;
use std::path::PathBuf;
use std::time::Duration;

use crate::clock;
use crate::daemon::Error;
use crate::disk;
use crate::disk::Disk;
use crate::disk::Lock;
use crate::disk::OsDisk;
use crate::disk::PASS_MODE;
use crate::process;

/// How long a second daemon tries to get the lock: long enough for a dead daemon's children, short
/// enough that it ends within a second.
const LOCK_PATIENCE: Duration = Duration::from_millis(500);

/// Between two tries.
const LOCK_RETRY: Duration = Duration::from_millis(10);

/// The root, locked.
#[derive(Debug)]
pub struct Claim {
    pub(super) root: PathBuf,
    pub(super) lock: Lock,
    /// The root's own lock, which holds when somebody removes `queue/` under us.
    pub(super) root_lock: Option<Lock>,
}

/// Takes the root's lock, and makes the folders that are ours.
///
/// # Errors
/// [`Error`]; above all, another process has it.
pub fn claim(root: &Path) -> Result<Claim, Error> {
    let dir = |name: &str| root.join(name);
    let made = |path: PathBuf| match OsDisk.make_dir(&path) {
        Ok(()) => Ok(()),
        Err(error) => Err(Error::Folder { path, error }),
    };
    // Where the file system cannot lock a folder, the lock in `queue/` has to do.
    let root_lock = match patiently(|| disk::lock_folder(root)) {
        Ok(None) => {
            return Err(Error::Locked {
                root: root.to_path_buf(),
            });
        }
        Ok(lock) => lock,
        Err(error) => {
            tracing::debug!(%error, "the root's folder cannot be locked");
            None
        }
    };
    made(dir("queue"))?;
    let path = root.join("queue").join("lock");
    let lock = patiently(|| disk::lock(&path)).map_err(|error| Error::Disk { path, error })?;
    let Some(lock) = lock else {
        return Err(Error::Locked {
            root: root.to_path_buf(),
        });
    };
    for name in ["state", "results", "dead-letter"] {
        made(dir(name))?;
    }
    // Of root's state and results the jobs of others have parts, and must be let through to them.
    let pass = match process::own_uid() {
        0 => PASS_MODE,
        _ => 0o700,
    };
    for (name, mode) in [("queue", 0o700), ("dead-letter", 0o700), ("state", pass)] {
        let path = dir(name);
        disk::set_mode(&path, mode).map_err(|error| Error::Folder { path, error })?;
    }
    Ok(Claim {
        root: root.to_path_buf(),
        lock,
        root_lock,
    })
}

impl Claim {
    /// What names of this root have in common that must not clash with those of others.
    pub(super) fn key(&self) -> String {
        let mut hash = std::hash::DefaultHasher::new();
        std::hash::Hash::hash(&self.root, &mut hash);
        format!("{:016x}", std::hash::Hasher::finish(&hash))
    }
}

/// Takes a lock, with patience for a daemon that has just been killed: a child that it was about
/// to start has the lock too until it executes its program.
fn patiently(take: impl Fn() -> io::Result<Option<Lock>>) -> io::Result<Option<Lock>> {
    let started = clock::tick();
    loop {
        let lock = take()?;
        if lock.is_some() || clock::tick().since(started) >= LOCK_PATIENCE {
            return Ok(lock);
        }
        clock::pause(LOCK_RETRY);
    }
}
