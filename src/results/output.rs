//! The beginning and the end of what a run printed, in one file of bounded size.
//!
//! Must never look into the bytes.

use std::collections::VecDeque;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::clock::Tick;
use crate::disk;
use crate::disk::Disk;
use crate::disk::DiskFile;
use crate::disk::Open;
use crate::disk::OsDisk;

use super::failure;

/// Beginning of the output that is kept, written as it comes.
const HEAD_BYTES_MAX: u64 = 512 << 10;

/// End of the output that is kept, in memory while the run goes on.
const TAIL_BYTES_MAX: usize = 512 << 10;

/// Longest time for which the end in the file lags behind; it is rewritten whole, so not more often.
const REFRESH: Duration = Duration::from_secs(5);

/// One stream's file.
///
/// Head, then (when something is left out between them) a line that says so, then the tail.
/// Each part only ever grows, so rewriting the tail in place needs no truncation.
#[derive(Debug)]
pub(super) struct Output {
    /// `None` after a failure: then the rest is not written.
    file: Option<Arc<dyn DiskFile>>,
    path: PathBuf,
    head_bytes: u64,
    head_last: u8,
    /// The last bytes of those behind the head.
    tail: VecDeque<u8>,
    /// How many bytes there were behind the head.
    behind_head: u64,
    refreshed: Option<Tick>,
    freshness: Freshness,
}

/// Whether the file's tail is the one in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Freshness {
    Fresh,
    Stale,
}

impl Output {
    /// An output that is written nowhere.
    pub(super) fn closed() -> Self {
        Self {
            file: None,
            path: PathBuf::new(),
            head_bytes: 0,
            head_last: b'\n',
            tail: VecDeque::new(),
            behind_head: 0,
            refreshed: None,
            freshness: Freshness::Fresh,
        }
    }

    /// Makes the file.
    pub(super) fn create(path: &Path) -> Result<Self, String> {
        let file = OsDisk
            .open(path, Open::CreateNew)
            .and_then(|file| disk::share_with_group(path).map(|()| file))
            .map_err(|error| failure(path, &error))?;
        Ok(Self {
            file: Some(file),
            path: path.to_path_buf(),
            ..Self::closed()
        })
    }

    /// Takes a chunk of output.
    pub(super) fn write(&mut self, chunk: &[u8], now: Tick) -> Result<(), String> {
        if self.file.is_none() {
            return Ok(());
        }
        let room = usize::try_from(HEAD_BYTES_MAX - self.head_bytes).unwrap_or(0);
        let (head, rest) = chunk.split_at(room.min(chunk.len()));
        if let Some(last) = head.last() {
            self.write_at(self.head_bytes, &[head])?;
            self.head_bytes += head.len() as u64;
            self.head_last = *last;
        }
        if rest.is_empty() {
            return Ok(());
        }
        self.behind_head += rest.len() as u64;
        let rest = &rest[rest.len().saturating_sub(TAIL_BYTES_MAX)..];
        let excess = (self.tail.len() + rest.len()).saturating_sub(TAIL_BYTES_MAX);
        self.tail.drain(..excess);
        self.tail.extend(rest);
        self.freshness = Freshness::Stale;
        self.refresh(now)
    }

    /// Writes the tail if it has changed and was not written lately.
    pub(super) fn refresh(&mut self, now: Tick) -> Result<(), String> {
        let lately = self.refreshed.is_some_and(|at| now.since(at) < REFRESH);
        if lately || self.freshness == Freshness::Fresh {
            return Ok(());
        }
        self.refreshed = Some(now);
        self.write_tail()
    }

    /// Writes the tail if it has changed; the last call.
    pub(super) fn close(&mut self) -> Result<(), String> {
        match self.freshness {
            Freshness::Fresh => Ok(()),
            Freshness::Stale => self.write_tail(),
        }
    }

    fn write_tail(&mut self) -> Result<(), String> {
        let left_out = self.behind_head - self.tail.len() as u64;
        let marker = match (left_out, self.head_last) {
            (0, _) => String::new(),
            (_, b'\n') => format!("... {left_out} bytes left out ...\n"),
            _ => format!("\n... {left_out} bytes left out ...\n"),
        };
        self.freshness = Freshness::Fresh;
        let tail = std::mem::take(&mut self.tail);
        let (first, second) = tail.as_slices();
        self.write_at(self.head_bytes, &[marker.as_bytes(), first, second])?;
        self.tail = tail;
        Ok(())
    }

    /// Writes `parts` one behind the other. After a failure nothing is written any more, and the
    /// memory is given back.
    fn write_at(&mut self, mut offset: u64, parts: &[&[u8]]) -> Result<(), String> {
        let Some(file) = &self.file else {
            return Ok(());
        };
        for part in parts {
            if let Err(error) = file.write_at(offset, part) {
                let note = failure(&self.path, &error);
                *self = Self::closed();
                return Err(note);
            }
            offset += part.len() as u64;
        }
        Ok(())
    }
}
