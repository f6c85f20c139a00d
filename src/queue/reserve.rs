//! The reserve: blocks set aside, so that on a full disk runs can still be begun and ended, and the
//! queue can write what it needs to let go of segments.
//!
//! Its size fits the file system, and it is taken only out of plenty: it must never be what fills the
//! disk. Must never know what is written with the room that it gives.

use std::io;
use std::path::Path;
use std::path::PathBuf;

use crate::disk::Disk;
use crate::disk::Open;

/// Name of its file in the queue's folder.
pub const FILE: &str = "reserve";

/// It and every segment are at most this part of the file system, so that a small disk is not full of
/// one of them.
pub(crate) const DISK_SHARE: u64 = 16;

/// It is at most this part of what is free: taken again after the disk was full, it leaves more than it
/// takes, so it is not given and taken in turns.
const FREE_SHARE: u64 = 4;

/// Less is of no use: a segment's head, cursors, two checkpoints and some hundred ends of runs.
const BYTES_MIN: u64 = if cfg!(test) { 3 << 10 } else { 256 << 10 };

/// How many bytes are set aside in the queue's folder `dir`; 0: there is no reserve.
#[must_use]
pub fn bytes(disk: &dyn Disk, dir: &Path) -> u64 {
    let file = disk.open(&dir.join(FILE), Open::Read);
    file.and_then(|file| file.size()).unwrap_or(0)
}

/// Whether an error says that there is no room.
pub(crate) fn is_full(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
    )
}

/// What is held at the moment.
#[derive(Debug)]
pub(crate) struct Reserve {
    path: PathBuf,
    /// How much is set aside; 0: nothing.
    held: u64,
    /// Most that is tried. Halved when it is refused: a quota does not show in what is free.
    most: u64,
    /// Whether it was said that there is none.
    said: bool,
}

impl Reserve {
    /// What the daemon before has left in `dir`; what is more than `most` bytes, or more than is free
    /// beside it, is given up first of all, so that a start finds room.
    pub(crate) fn find(disk: &dyn Disk, dir: &Path, most: u64) -> Self {
        let mut found = Self {
            path: dir.join(FILE),
            held: 0,
            most,
            said: false,
        };
        let Ok(file) = disk.open(&found.path, Open::Write) else {
            return found;
        };
        found.held = file.size().unwrap_or(u64::MAX);
        let short = disk.room(dir).is_ok_and(|room| room.free < found.held);
        // A copied file may have holes where the blocks were.
        if short || found.held > most || file.reserve(found.held).is_err() {
            found.give(disk);
        }
        found
    }

    /// Gives it up for runs, but for the last of it: without that nothing could be let go of, and the disk
    /// would be full for good. `false` when there is no more.
    pub(crate) fn give_most(&mut self, disk: &dyn Disk) -> bool {
        let cut = || disk.open(&self.path, Open::Write)?.truncate(BYTES_MIN);
        if self.held <= BYTES_MIN || cut().is_err() {
            return false;
        }
        let bytes = std::mem::replace(&mut self.held, BYTES_MIN) - BYTES_MIN;
        tracing::warn!(
            bytes,
            "the disk is full: the reserve is given up, so that runs can end"
        );
        true
    }

    /// Gives all of it up; `false` when there was none.
    pub(crate) fn give(&mut self, disk: &dyn Disk) -> bool {
        if self.held == 0 {
            return false;
        }
        match disk.remove(&self.path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return false,
            _ => {}
        }
        let bytes = std::mem::take(&mut self.held);
        tracing::warn!(
            bytes,
            "the disk is full: the last of the reserve is given up, to let go of what was sent, or to start"
        );
        true
    }

    /// Whether there is none, and so little room that the next start could not do without it: that is not
    /// for events. Who writes until nothing is left could not even be started again to send it.
    pub(crate) fn is_spent(&self, disk: &dyn Disk, dir: &Path) -> bool {
        let least = BYTES_MIN * FREE_SHARE;
        self.held == 0 && disk.room(dir).is_ok_and(|room| room.free < least)
    }

    /// Tries `what`, once more without the reserve: a full disk must not keep a backlog from being sent.
    pub(crate) fn or_give<T>(
        &mut self,
        disk: &dyn Disk,
        mut what: impl FnMut() -> io::Result<T>,
    ) -> io::Result<T> {
        match what() {
            Err(error) if is_full(&error) && self.give(disk) => what(),
            other => other,
        }
    }

    /// Takes as much as fits the room there is, when that is clearly more than what is held.
    pub(crate) fn take(&mut self, disk: &dyn Disk, dir: &Path) {
        let Ok(room) = disk.room(dir) else {
            return;
        };
        let want = self
            .most
            .min(room.free.saturating_add(self.held) / FREE_SHARE);
        if want < BYTES_MIN.max(self.held.saturating_mul(2)) {
            if self.held == 0 && !std::mem::replace(&mut self.said, true) {
                tracing::warn!(
                    free = room.free,
                    "no reserve is set aside for a full disk: there is too little room for one"
                );
            }
            return;
        }
        match self.allocate(disk, want) {
            Ok(()) => {
                self.held = want;
                self.said = false;
                tracing::info!(bytes = want, "a reserve for a full disk is set aside");
            }
            Err(error) => {
                // What was allocated until it failed is the last room that there is.
                drop(disk.remove(&self.path));
                self.held = 0;
                self.most = match error.kind() {
                    io::ErrorKind::Unsupported => 0,
                    _ => want / 2,
                };
                tracing::warn!(bytes = want, %error, "the reserve for a full disk cannot be set aside");
            }
        }
    }

    fn allocate(&self, disk: &dyn Disk, bytes: u64) -> io::Result<()> {
        let file = match disk.open(&self.path, Open::Write) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                disk.open(&self.path, Open::CreateNew)
            }
            file => file,
        };
        file?.reserve(bytes)
    }
}
