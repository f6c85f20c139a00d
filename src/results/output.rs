//! The beginning and the end of what a run printed, in one file of bounded size.
//!
//! Must never look into the bytes.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::clock::Tick;
use crate::disk;
use crate::disk::DiskFile;

use super::failure;

/// Beginning of the output that is kept, written as it comes.
pub(super) const HEAD_BYTES_MAX: u64 = 512 << 10;

/// End of the output that is kept, in memory while the run goes on.
pub(super) const TAIL_BYTES_MAX: usize = 512 << 10;

/// Longest time for which the end in the file lags behind; it is rewritten whole, so not more often.
const REFRESH: Duration = Duration::from_secs(5);

/// One stream's file, made when the stream first brings something.
///
/// Head, then (when something is left out between them) a line that says so, then the tail.
/// Each part only ever grows, so rewriting the tail in place needs no truncation.
#[derive(Debug)]
pub(super) struct Output {
    file: Target,
    path: PathBuf,
    /// Who may read it besides us.
    group: Option<u32>,
    head_bytes: u64,
    head_last: u8,
    /// The last bytes of those behind the head.
    tail: VecDeque<u8>,
    /// How many bytes there were behind the head.
    behind_head: u64,
    refreshed: Option<Tick>,
    freshness: Freshness,
}

/// Where an output goes.
#[derive(Debug)]
enum Target {
    /// To a file that is not made yet.
    Unmade,
    /// To this file.
    File(Arc<dyn DiskFile>),
    /// Nowhere: the file failed, and the rest is not written.
    Nowhere,
}

/// Whether the file's tail is the one in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Freshness {
    Fresh,
    Stale,
}

impl Output {
    /// An output that goes to the file `path`, which must not exist.
    pub(super) fn new(path: PathBuf, group: Option<u32>) -> Self {
        Self {
            file: Target::Unmade,
            path,
            group,
            head_bytes: 0,
            head_last: b'\n',
            tail: VecDeque::new(),
            behind_head: 0,
            refreshed: None,
            freshness: Freshness::Fresh,
        }
    }

    /// Writes nothing any more, and gives the memory back.
    pub(super) fn abandon(&mut self) {
        self.file = Target::Nowhere;
        self.tail = VecDeque::new();
        self.freshness = Freshness::Fresh;
    }

    /// Takes a chunk of output.
    pub(super) fn write(&mut self, chunk: &[u8], now: Tick) -> Result<(), String> {
        match self.file {
            Target::Nowhere => return Ok(()),
            Target::Unmade => self.make()?,
            Target::File(_) => {}
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

    fn make(&mut self) -> Result<(), String> {
        match disk::create_shared(&self.path, self.group) {
            Ok(file) => {
                self.file = Target::File(file);
                Ok(())
            }
            Err(error) => {
                self.abandon();
                Err(failure(&self.path, &error))
            }
        }
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
        let Target::File(file) = &self.file else {
            return Ok(());
        };
        for part in parts {
            if let Err(error) = file.write_at(offset, part) {
                let note = failure(&self.path, &error);
                self.abandon();
                return Err(note);
            }
            offset += part.len() as u64;
        }
        Ok(())
    }
}
