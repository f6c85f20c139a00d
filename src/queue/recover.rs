//! Opening a queue after whatever happened to it.
//!
//! State = newest readable checkpoint + the log after it. Idempotent: a second crash in the middle
//! finds the same. Throws away only the tail behind the last whole record of the last segment,
//! which nobody was promised; damage anywhere else is stepped over and counted, never guessed at.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;

use super::checkpoint;
use super::cursor;
use super::cursor::Cursors;
use super::ledger::Ledger;
use super::log;
use super::log::LogReader;
use super::record::Bad;
use super::record::Body;
use super::segment;
use super::segment::BadHead;
use super::segment::Position;
use crate::disk::Disk;
use crate::disk::Open;
use crate::units::Timestamp;

/// Why a queue could not be opened. It is untouched then.
#[derive(Debug)]
pub enum OpenError {
    /// The disk failed.
    Disk {
        /// Which file or folder.
        path: PathBuf,
        /// What the disk said.
        error: io::Error,
    },
    /// It was written by a newer version of this program.
    Newer {
        /// Which file.
        path: PathBuf,
        /// What is not known here.
        what: String,
    },
}

impl fmt::Display for OpenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Disk { path, error } => write!(
                f,
                "the queue at {} cannot be opened: {error}",
                path.display()
            ),
            Self::Newer { path, what } => {
                write!(
                    f,
                    "{} was written by a newer version ({what}); it was left untouched: \
                     run that version again, or give this one another root",
                    path.display()
                )
            }
        }
    }
}

impl std::error::Error for OpenError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Disk { error, .. } => Some(error),
            Self::Newer { .. } => None,
        }
    }
}

/// What recovery found.
#[derive(Debug)]
pub(crate) struct Recovered {
    pub(crate) ledger: Ledger,
    /// How often the queue had been opened before.
    pub(crate) epoch: u32,
    /// Where the log ends.
    pub(crate) end: Position,
    /// The oldest place that the kept checkpoints need.
    pub(crate) oldest_needed: Position,
    pub(crate) last_checkpoint: u64,
    /// Segments and their sizes, oldest first.
    pub(crate) segments: Vec<(u64, u64)>,
    /// When segments were made, as far as their heads can be read.
    pub(crate) created: BTreeMap<u64, Timestamp>,
    /// Bytes cut off the end.
    pub(crate) torn_bytes: u64,
    /// Records after the checkpoint that could not be read.
    pub(crate) damaged_records: u64,
    /// How far the outputs are.
    pub(crate) cursors: Cursors,
    /// The highest segment that anything names: its number and those below are not given again.
    pub(crate) last_segment: u64,
}

/// Reads what a queue folder holds and cuts a torn tail off.
pub(crate) fn recover(disk: &Arc<dyn Disk>, dir: &Path) -> Result<Recovered, OpenError> {
    disk.make_dir(dir).map_err(|error| OpenError::Disk {
        path: dir.to_path_buf(),
        error,
    })?;
    let mut found = survey(disk, dir)?;
    cut_tail(disk, dir, &mut found)?;
    Ok(found)
}

/// Reads what a queue folder holds and changes nothing, so it also serves a root whose daemon runs.
pub(crate) fn survey(disk: &Arc<dyn Disk>, dir: &Path) -> Result<Recovered, OpenError> {
    let at_dir = |error| OpenError::Disk {
        path: dir.to_path_buf(),
        error,
    };
    // First, so that the cursors of a daemon that goes on are never ahead of what is found.
    let cursors = cursor::all(&**disk, dir).map_err(at_dir)?;
    let mut segments: Vec<(u64, u64)> = disk
        .list(dir)
        .map_err(at_dir)?
        .into_iter()
        .filter_map(|entry| Some((segment::id_of(&entry.name)?, entry.bytes)))
        .collect();
    segments.sort_unstable();
    let checkpoints = checkpoint::all(&**disk, dir)?;
    let first = segments.first().map_or(1, |(id, _)| *id);
    let mut found = Recovered {
        ledger: Ledger::empty(),
        epoch: 0,
        end: Position {
            segment: first,
            offset: 0,
        },
        oldest_needed: Position {
            segment: first,
            offset: 0,
        },
        last_checkpoint: 0,
        segments,
        created: BTreeMap::new(),
        torn_bytes: 0,
        damaged_records: 0,
        cursors,
        last_segment: 0,
    };
    if let Some(newest) = checkpoints.first() {
        found.ledger = newest.ledger.clone();
        found.epoch = newest.epoch;
        found.end = newest.at;
        found.last_checkpoint = newest.id;
        found.oldest_needed = checkpoints.last().map_or(newest.at, |oldest| oldest.at);
    }
    let floors = check_heads(disk, dir, &mut found)?;
    scan(disk, dir, &mut found)?;
    // Outputs may have passed what is gone now: no number is given twice.
    let passed = found.cursors.found.iter().map(|(_, cursor)| cursor);
    let passed_seq = passed.clone().map(|cursor| cursor.seq).max().unwrap_or(1);
    found.ledger.pass(floors.seq.max(passed_seq));
    found.ledger.next_number = found.ledger.next_number.max(floors.number);
    let passed_segment = passed.map(|cursor| cursor.at.segment).max().unwrap_or(0);
    let last = found.segments.last().map_or(0, |(last, _)| *last);
    let checkpointed = match found.last_checkpoint {
        0 => 0,
        _ => found.end.segment,
    };
    found.last_segment = last.max(checkpointed).max(passed_segment);
    Ok(found)
}

/// The lowest numbers that the next segment may begin with, as the heads of those before say.
struct Floors {
    seq: u64,
    number: u64,
}

/// Looks at the segments' heads: newer formats are refused before anything is touched.
fn check_heads(
    disk: &Arc<dyn Disk>,
    dir: &Path,
    found: &mut Recovered,
) -> Result<Floors, OpenError> {
    let mut floors = Floors { seq: 1, number: 1 };
    for (id, _) in &found.segments {
        let path = dir.join(segment::file_name(*id));
        match log::read_head(&**disk, dir, *id) {
            Ok(Ok(head)) => {
                found.epoch = found.epoch.max(head.epoch);
                found.created.insert(*id, head.created);
                floors.seq = floors.seq.max(head.first_seq);
                floors.number = floors.number.max(head.first_number);
            }
            Ok(Err(BadHead::Newer(version))) => {
                return Err(OpenError::Newer {
                    path,
                    what: format!("format {version}"),
                });
            }
            Ok(Err(BadHead::Damaged)) => {
                tracing::warn!(
                    segment = *id,
                    "segment's header is damaged; its records are looked for all the same"
                );
            }
            Err(error) => return Err(OpenError::Disk { path, error }),
        }
    }
    Ok(floors)
}

fn scan(disk: &Arc<dyn Disk>, dir: &Path, found: &mut Recovered) -> Result<(), OpenError> {
    let Some((last, bytes)) = found.segments.last().copied() else {
        return Ok(());
    };
    let at_dir = |error| OpenError::Disk {
        path: dir.to_path_buf(),
        error,
    };
    let end = Position {
        segment: last,
        offset: bytes,
    };
    let mut reader = LogReader::new(disk.clone(), dir, found.end);
    let mut expected = None;
    while let Some(record) = reader.next(end).map_err(at_dir)? {
        let header = record.header;
        if expected.is_some_and(|expected| header.number > expected) {
            found.damaged_records += header.number - expected.unwrap_or(header.number);
        }
        expected = Some(header.number + 1);
        let body = reader.body(&record).map_err(at_dir)?;
        match body.map(|bytes| Body::read(&bytes)) {
            Some(Ok(body)) => {
                found.ledger.fold(
                    header.number,
                    header.seq,
                    &body.parts,
                    &body.facts,
                    &body.counters,
                );
                found.end = record.next;
            }
            Some(Err(Bad::Newer)) => {
                let path = dir.join(segment::file_name(record.at.segment));
                return Err(OpenError::Newer {
                    path,
                    what: "a record of an unknown kind".to_owned(),
                });
            }
            Some(Err(Bad::Damaged)) | None => found.damaged_records += 1,
        }
    }
    Ok(())
}

/// Cuts what follows the last whole record off the last segment.
fn cut_tail(disk: &Arc<dyn Disk>, dir: &Path, found: &mut Recovered) -> Result<(), OpenError> {
    let Some((last, bytes)) = found.segments.last_mut() else {
        return Ok(());
    };
    let keep = if found.end.segment == *last {
        found.end.offset
    } else {
        segment::HEAD_BYTES as u64
    };
    if *bytes <= keep {
        return Ok(());
    }
    let path = dir.join(segment::file_name(*last));
    let cut = || {
        let file = disk.open(&path, Open::Write)?;
        file.truncate(keep)?;
        file.sync()
    };
    cut().map_err(|error| OpenError::Disk {
        path: path.clone(),
        error,
    })?;
    found.torn_bytes = *bytes - keep;
    *bytes = keep;
    Ok(())
}
