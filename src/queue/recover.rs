//! Opening a queue after whatever happened to it.
//!
//! State = newest readable checkpoint + the log after it. Idempotent: a second crash in the middle
//! finds the same. What is kept is written anew first where it may never have reached the medium. Cuts
//! off only the tail behind the last whole record of the last segment, and keeps a copy of it; damage
//! anywhere else is stepped over and counted, never guessed at.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::ops::Range;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;

use super::checkpoint;
use super::cursor;
use super::cursor::Cursors;
use super::ledger::Ledger;
use super::log;
use super::log::LogReader;
use super::quarantine;
use super::record::Bad;
use super::record::Body;
use super::reserve;
use super::segment;
use super::segment::BadHead;
use super::segment::Position;
use super::settled;
use crate::disk::Disk;
use crate::disk::DiskFile;
use crate::disk::Entry;
use crate::disk::EntryKind;
use crate::disk::Open;
use crate::disk::Replace;
use crate::disk::UNFINISHED;
use crate::units::Timestamp;

/// Bytes of a segment that are in memory at a time.
const PIECE_BYTES: usize = 1 << 20;

/// Why a queue could not be opened. It is untouched then.
#[derive(Debug)]
pub enum OpenError {
    /// The disk failed, or refuses.
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
            Self::Disk { path, error } => {
                write!(f, "the queue cannot be used: {}: {error}", path.display())
            }
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
    /// Up to where the newest checkpoint knows the log.
    pub(crate) covered: Position,
    /// The oldest place that the kept checkpoints need.
    pub(crate) oldest_needed: Position,
    /// The newest checkpoint that can be read; 0: none.
    pub(crate) checkpoint: u64,
    /// The highest id of any checkpoint.
    pub(crate) last_checkpoint: u64,
    /// Segments and their sizes, oldest first.
    pub(crate) segments: Vec<(u64, u64)>,
    /// When segments were made, as far as their heads can be read.
    pub(crate) created: BTreeMap<u64, Timestamp>,
    /// Bytes cut off the end.
    pub(crate) torn_bytes: u64,
    /// Records after the checkpoint that could not be read.
    pub(crate) damaged_records: u64,
    /// Segments that hold nothing that can be read, not even a head.
    pub(crate) strange: Vec<u64>,
    /// How far the outputs are.
    pub(crate) cursors: Cursors,
    /// The highest segment that anything names: its number and those below are not given again.
    pub(crate) last_segment: u64,
}

/// What was found when the queue was opened.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct OpenReport {
    /// Bytes of an unfinished record that were cut off.
    pub torn_bytes: u64,
    /// Records since the last checkpoint that could not be read.
    pub damaged_records: u64,
    /// Outputs whose cursors cannot be read, or are gone.
    pub lost_cursors: Vec<String>,
}

impl Recovered {
    /// What of it is worth a word.
    pub(crate) fn report(&mut self) -> OpenReport {
        OpenReport {
            torn_bytes: self.torn_bytes,
            damaged_records: self.damaged_records,
            lost_cursors: std::mem::take(&mut self.cursors.damaged),
        }
    }
}

/// Reads what a queue folder holds, and clears away what is in the way of writing on.
pub(crate) fn recover(
    disk: &Arc<dyn Disk>,
    dir: &Path,
    now: Timestamp,
) -> Result<Recovered, OpenError> {
    let at_dir = |error| OpenError::Disk {
        path: dir.to_path_buf(),
        error,
    };
    disk.make_dir(dir).map_err(at_dir)?;
    if let Some(above) = dir.parent() {
        disk.sync_dir(above).map_err(at_dir)?;
    }
    let mut found = loop {
        // An error of the moment is none the second time.
        match survey(disk, dir).or_else(|_| survey(disk, dir)) {
            // Each turn takes a segment away, so there is an end to it.
            Err(OpenError::Disk { path, error }) if quarantine::is_lasting(&error) => {
                let name = path.file_name().and_then(|name| name.to_str());
                let Some(id) = name.and_then(segment::id_of) else {
                    return Err(OpenError::Disk { path, error });
                };
                let id = quarantine::culprit(&**disk, dir, id);
                let reason = format!("it cannot be read: {error}");
                move_away(disk, dir, id, &reason, now)?;
            }
            found => break found?,
        }
    };
    for id in std::mem::take(&mut found.strange) {
        let reason = "its head is none, or another segment's, and no record of it can be found";
        move_away(disk, dir, id, reason, now)?;
        found.segments.retain(|(segment, _)| *segment != id);
    }
    remove_unfinished(&**disk, dir);
    Ok(found)
}

fn move_away(
    disk: &Arc<dyn Disk>,
    dir: &Path,
    id: u64,
    reason: &str,
    now: Timestamp,
) -> Result<(), OpenError> {
    quarantine::move_segment(&**disk, dir, id, reason, now).map_err(|error| OpenError::Disk {
        path: dir.join(segment::file_name(id)),
        error,
    })
}

/// Says what lies in the queue's folder and is not of the queue; it is left alone.
fn warn_of_strangers(dir: &Path, entries: &[Entry]) {
    let strangers = entries.iter().filter(|entry| !is_ours(entry));
    let names: Vec<&str> = strangers
        .map(|entry| &*entry.name)
        .take(STRANGERS_MAX)
        .collect();
    if !names.is_empty() {
        tracing::warn!(dir = %dir.display(), names = names.join(", "), "what is not of the queue lies in its folder, and is left alone");
    }
}

/// Most strange names that are said.
const STRANGERS_MAX: usize = 10;

fn is_ours(entry: &Entry) -> bool {
    let name = &*entry.name;
    if entry.kind == EntryKind::Folder {
        return name == quarantine::DIR;
    }
    let known = ["lock", reserve::FILE, settled::FILE].contains(&name)
        || segment::id_of(name).is_some()
        || name.starts_with("checkpoint-")
        || name.starts_with("cursor-")
        || name.starts_with(UNFINISHED);
    known && entry.kind == EntryKind::File
}

/// Removes what the daemon before died in the midst of. What cannot be removed costs only its room.
fn remove_unfinished(disk: &dyn Disk, dir: &Path) {
    for file in unfinished(disk, dir) {
        if let Err(error) = disk.remove(&file) {
            tracing::warn!(file = %file.display(), %error, "an unfinished file could not be removed");
        }
    }
}

/// Replacements that were not finished.
pub(super) fn unfinished(disk: &dyn Disk, dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for home in [dir.to_path_buf(), dir.join(quarantine::DIR)] {
        let entries = disk.list(&home).unwrap_or_default();
        let left = entries
            .iter()
            .filter(|entry| entry.name.starts_with(UNFINISHED) && entry.kind == EntryKind::File);
        found.extend(left.map(|entry| home.join(&entry.name)));
    }
    found
}

/// Reads what a queue folder holds and changes nothing, so it also serves a root whose daemon runs.
pub(crate) fn survey(disk: &Arc<dyn Disk>, dir: &Path) -> Result<Recovered, OpenError> {
    let at_dir = |error| OpenError::Disk {
        path: dir.to_path_buf(),
        error,
    };
    // First, so that the cursors of a daemon that goes on are never ahead of what is found.
    let cursors = cursor::all(&**disk, dir).map_err(at_dir)?;
    let entries = disk.list(dir).map_err(at_dir)?;
    warn_of_strangers(dir, &entries);
    // Also of what is no file: its name is not used.
    let named = entries
        .iter()
        .filter_map(|entry| segment::id_of(&entry.name));
    let last_named = named.max().unwrap_or(0);
    let mut segments: Vec<(u64, u64)> = entries
        .into_iter()
        .filter(|entry| entry.kind == EntryKind::File)
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
        covered: Position::default(),
        checkpoint: 0,
        last_checkpoint: checkpoints.last_id,
        segments,
        created: BTreeMap::new(),
        torn_bytes: 0,
        damaged_records: 0,
        strange: Vec::new(),
        cursors,
        last_segment: 0,
    };
    let checkpoints = checkpoints.readable;
    if let Some(newest) = checkpoints.first() {
        found.ledger = newest.ledger.clone();
        found.epoch = newest.epoch;
        found.end = newest.at;
        found.covered = newest.at;
        found.checkpoint = newest.id;
        found.oldest_needed = checkpoints.last().map_or(newest.at, |oldest| oldest.at);
    }
    let floors = check_heads(disk, dir, &mut found)?;
    scan(disk, dir, &mut found, floors.number)?;
    found.cursors.add_lost(&**disk, dir, &found.ledger);
    // Outputs may have passed what is gone now: no number is given twice.
    let passed = found.cursors.found.iter().map(|(_, cursor)| cursor);
    let passed_seq = passed.clone().map(|cursor| cursor.seq).max().unwrap_or(1);
    found.ledger.pass(floors.seq.max(passed_seq));
    found.ledger.next_number = found.ledger.next_number.max(floors.number);
    let passed_segment = passed.map(|cursor| cursor.at.segment).max().unwrap_or(0);
    let checkpointed = match found.checkpoint {
        0 => 0,
        _ => found.end.segment,
    };
    found.last_segment = last_named.max(checkpointed).max(passed_segment);
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
    let mut unreadable = None;
    let last = found.segments.last().map(|(last, _)| *last);
    for (id, bytes) in &found.segments {
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
            // What begins with zeros at the end was never whole: nobody was promised anything of it.
            Ok(Err(BadHead::Damaged))
                if *bytes > segment::HEAD_BYTES as u64
                    && !(last == Some(*id) && begins_with_zeros(disk, &path))
                    && is_empty(disk, dir, *id) =>
            {
                found.strange.push(*id);
            }
            Ok(Err(BadHead::Damaged)) => {
                tracing::warn!(
                    segment = *id,
                    "segment's header is damaged; its records are looked for all the same"
                );
            }
            // Only behind all others, which may be of a newer format.
            Err(error) => unreadable = unreadable.or(Some(OpenError::Disk { path, error })),
        }
    }
    unreadable.map_or(Ok(floors), Err)
}

fn begins_with_zeros(disk: &Arc<dyn Disk>, path: &Path) -> bool {
    let mut head = [1; segment::HEAD_BYTES];
    let read = disk
        .open(path, Open::Read)
        .and_then(|file| file.read_at(0, &mut head));
    read.is_ok() && head.iter().all(|byte| *byte == 0)
}

/// Whether no record of a segment can be found.
fn is_empty(disk: &Arc<dyn Disk>, dir: &Path, id: u64) -> bool {
    let at = |segment| Position { segment, offset: 0 };
    let mut reader = LogReader::new(disk.clone(), dir, at(id));
    matches!(reader.next(at(id + 1)), Ok(None))
}

/// Folds what lies behind the newest checkpoint. Records below `floor` are known to have been durable.
fn scan(
    disk: &Arc<dyn Disk>,
    dir: &Path,
    found: &mut Recovered,
    floor: u64,
) -> Result<(), OpenError> {
    let Some((last, bytes)) = found.segments.last().copied() else {
        return Ok(());
    };
    let end = Position {
        segment: last,
        offset: bytes,
    };
    let number = found.ledger.next_number;
    let mut reader = LogReader::new(disk.clone(), dir, found.end).at_number(number);
    // Without a checkpoint nobody knows how many records were let go of before the first one.
    let mut expected = (found.checkpoint > 0).then_some(number);
    // Whole records behind one that is not: all of them may be what was being written when the power
    // went. A later one without the earlier would say that a source was read which was not.
    let mut limbo: Vec<(log::Found, Body)> = Vec::new();
    loop {
        let read = reader.next(end);
        let at = dir.join(segment::file_name(reader.position().segment));
        let at_segment = |error| OpenError::Disk {
            path: at.clone(),
            error,
        };
        let Some(record) = read.map_err(&at_segment)? else {
            break;
        };
        let header = record.header;
        let body = reader.body(&record).map_err(&at_segment)?;
        let certain = header.settled || header.number < floor;
        match body.map(|bytes| Body::read(&bytes)) {
            Some(Ok(body)) => limbo.push((record, body)),
            Some(Err(Bad::Newer)) => {
                let path = dir.join(segment::file_name(record.at.segment));
                return Err(OpenError::Newer {
                    path,
                    what: "a record of an unknown kind".to_owned(),
                });
            }
            Some(Err(Bad::Damaged)) | None => {}
        }
        let whole = expected.is_none_or(|expected| header.number == expected) && limbo.len() == 1;
        if certain || whole {
            for (record, body) in limbo.drain(..) {
                fold(found, &mut expected, &record, &body);
            }
        }
    }
    found.damaged_records += expected.map_or(0, |expected| floor.saturating_sub(expected));
    Ok(())
}

fn fold(found: &mut Recovered, expected: &mut Option<u64>, record: &log::Found, body: &Body) {
    let header = record.header;
    found.damaged_records += expected.map_or(0, |expected| header.number - expected);
    *expected = Some(header.number + 1);
    found.ledger.fold(
        header.number,
        header.seq,
        &body.route,
        &body.parts,
        &body.facts,
        &body.counters,
    );
    found.end = record.next;
}

/// Writes what the newest checkpoint does not cover of the last segment once more, without what follows
/// its last whole record. The daemon that wrote it may have died before its sync, or after one
/// that failed: then the bytes are read from memory, and are nowhere else. What is counted from here on
/// must be on the medium.
pub(crate) fn renew_tail(
    disk: &Arc<dyn Disk>,
    dir: &Path,
    found: &mut Recovered,
    now: Timestamp,
) -> io::Result<()> {
    let Some((last, bytes)) = found.segments.last_mut() else {
        return Ok(());
    };
    let keep = match found.end.segment.cmp(last) {
        // Somebody cut it since: the last record there may be half of one.
        Ordering::Equal if *bytes < found.end.offset => last_whole(disk, dir, (*last, *bytes))?,
        Ordering::Equal => found.end.offset,
        Ordering::Less => (*bytes).min(segment::HEAD_BYTES as u64),
        // The checkpoint knows of an empty segment behind it, which is gone.
        Ordering::Greater => *bytes,
    };
    let end = Position {
        segment: *last,
        offset: keep,
    };
    if *bytes <= keep && (found.covered >= end || keep <= segment::HEAD_BYTES as u64) {
        return Ok(());
    }
    if *bytes > keep {
        keep_tail(&**disk, dir, (end, *bytes), now);
    }
    // What the checkpoint covers is on the medium.
    let from = match found.covered.segment == *last {
        true => found.covered.offset.min(keep),
        false => 0,
    };
    rewrite(&**disk, &dir.join(segment::file_name(*last)), from..keep)?;
    found.torn_bytes = *bytes - keep;
    *bytes = keep;
    Ok(())
}

/// Writes these bytes of a file over themselves, ends it behind them and syncs it. In place, as a full
/// disk has no room for a second copy; a bad spot of the disk wants another place.
fn rewrite(disk: &dyn Disk, path: &Path, bytes: Range<u64>) -> io::Result<()> {
    let file = disk.open(path, Open::Write)?;
    let known = pieces(&*file, 0..bytes.end, |_, _| Ok(()))?;
    let in_place = file
        .truncate(bytes.end)
        .and_then(|()| pieces(&*file, bytes.clone(), |at, piece| file.write_at(at, piece)))
        .and_then(|_| file.sync());
    if in_place.is_ok() {
        return Ok(());
    }
    let mut whole = Vec::new();
    let again = pieces(&*file, 0..bytes.end, |_, piece| {
        whole.extend_from_slice(piece);
        Ok(())
    })?;
    // After a failed sync the disk may give back what it had before: the next start looks anew.
    if again != known {
        let what = "the disk gave back other bytes after it had failed";
        return Err(io::Error::other(what));
    }
    disk.replace(path, &whole, Replace::Durable)
}

/// Reads these bytes of a file piece by piece; returns their checksum.
fn pieces(
    file: &dyn DiskFile,
    bytes: Range<u64>,
    mut take: impl FnMut(u64, &[u8]) -> io::Result<()>,
) -> io::Result<u32> {
    let all = usize::try_from(bytes.end.saturating_sub(bytes.start)).unwrap_or(usize::MAX);
    let mut piece = vec![0; PIECE_BYTES.min(all)];
    let mut checksum = crc32fast::Hasher::new();
    let mut at = bytes.start;
    while at < bytes.end {
        let size = (bytes.end - at).min(PIECE_BYTES as u64);
        let piece = &mut piece[..usize::try_from(size).map_err(io::Error::other)?];
        if file.read_at(at, piece)? < piece.len() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        checksum.update(piece);
        take(at, piece)?;
        at += size;
    }
    Ok(checksum.finalize())
}

/// Where the last whole record of a segment of so many bytes ends.
fn last_whole(disk: &Arc<dyn Disk>, dir: &Path, (segment, bytes): (u64, u64)) -> io::Result<u64> {
    let at = |offset| Position { segment, offset };
    let mut reader = LogReader::new(disk.clone(), dir, at(0));
    let mut end = bytes.min(segment::HEAD_BYTES as u64);
    while let Some(record) = reader.next(at(bytes))? {
        end = record.next.offset;
    }
    Ok(end)
}

/// Keeps a copy of what is cut off. It may be a record that was captured and rotted since: only what a
/// checkpoint covers is known to have been whole.
fn keep_tail(disk: &dyn Disk, dir: &Path, (from, to): (Position, u64), now: Timestamp) {
    let span = quarantine::Span {
        segment: from.segment,
        from: from.offset,
        to,
        events: None,
    };
    let reason = "behind the last whole record: a write that was cut short, or a damaged record";
    if let Err(error) = quarantine::keep_span(disk, dir, span, reason, now) {
        tracing::warn!(%error, at = ?from, "what is cut off the queue's end could not be set aside");
    }
}
