//! Quarantine: what cannot be read of the queue is kept aside, with the reason, for people to look at.
//!
//! A copy of a damaged span, or a whole segment. Bounded: the oldest go, and are counted. Must never
//! be in the queue's way: it goes on also when nothing can be kept.

use std::io;
use std::ops::Range;
use std::path::Path;
use std::path::PathBuf;

use serde::Deserialize;
use serde::Serialize;

use super::log;
use super::segment;
use super::segment::Position;
use crate::disk;
use crate::disk::Disk;
use crate::disk::DiskFile;
use crate::disk::EntryKind;
use crate::disk::Open;
use crate::disk::Replace;
use crate::units::Timestamp;

/// Where it is, in the queue's folder.
pub const DIR: &str = "quarantine";

/// Most bytes that are kept: four of the largest segments, so that one bad spot of a disk fits.
const BYTES_MAX: u64 = 256 << 20;

/// Most things that are kept: a disk that rots everywhere fills no folder.
const ENTRIES_MAX: usize = 1000;

/// Name of the file that says how many were removed again.
const REMOVED: &str = "removed";

/// A copy takes at most this part of the room that is free.
const FREE_SHARE: u64 = 4;

/// How much is copied at a time.
const CHUNK_BYTES: usize = 1 << 20;

/// Largest reason, and then some.
const REASON_BYTES_MAX: u64 = 64 << 10;

/// Why something is here.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reason {
    /// The segment that it was in.
    pub segment: String,
    /// Where in it.
    pub offset: u64,
    /// In words.
    pub reason: String,
    /// Number of the first event that was in it, where that is known.
    pub first_event: Option<u64>,
    /// How many events were in it, where that is known.
    pub events: Option<u64>,
    /// When it was found.
    pub at: String,
}

/// A span of a segment that cannot be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    /// The segment.
    pub segment: u64,
    /// Where it begins.
    pub from: u64,
    /// Where it ends; what is behind the end of the segment does not count.
    pub to: u64,
    /// Number of the first event in it, and how many there are, where that is known.
    pub events: Option<(u64, u64)>,
}

/// How much is in quarantine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Summary {
    /// Spans and segments.
    pub entries: u64,
    /// Their bytes.
    pub bytes: u64,
    /// How many were removed again to keep it small.
    pub removed: u64,
}

/// Whether an error tells of this file, and not of a moment: it will not be read later either.
#[must_use]
pub fn is_lasting(error: &io::Error) -> bool {
    const EIO: i32 = 5;
    error.kind() == io::ErrorKind::PermissionDenied
        || error.raw_os_error() == Some(EIO)
        || disk::is_no_file(error)
}

/// Which segment a reader in segment `id` cannot read: that one, or the next, whose head says where it ends.
#[must_use]
pub fn culprit(disk: &dyn Disk, dir: &Path, id: u64) -> u64 {
    let next = log::first_segment(disk, dir, id + 1).ok().flatten();
    let unreadable =
        |next: &u64| log::read_head(disk, dir, *next).is_err_and(|error| is_lasting(&error));
    next.filter(unreadable).unwrap_or(id)
}

/// The spans between two places of the log that hold something, segment by segment.
///
/// # Errors
/// What the disk said.
pub fn spans(
    disk: &dyn Disk,
    dir: &Path,
    (from, to): (Position, Position),
) -> io::Result<Vec<Span>> {
    let mut spans = Vec::new();
    for entry in disk.list(dir)? {
        let between = |id: &u64| (from.segment..=to.segment).contains(id);
        let Some(segment) = segment::id_of(&entry.name).filter(between) else {
            continue;
        };
        let span = Span {
            segment,
            from: match segment == from.segment {
                true => from.offset,
                false => segment::HEAD_BYTES as u64,
            },
            to: match segment == to.segment {
                true => entry.bytes.min(to.offset),
                false => entry.bytes,
            },
            events: None,
        };
        if entry.kind == EntryKind::File && span.from < span.to {
            spans.push(span);
        }
    }
    Ok(spans)
}

/// Keeps a copy of all that lies between two places of the log; `events` as in [`Span`]. Where nothing
/// is left there, the reason is kept alone.
///
/// # Errors
/// What the disk said; the queue is as it was.
pub fn keep(
    disk: &dyn Disk,
    dir: &Path,
    (from, to): (Position, Position),
    events: Option<(u64, u64)>,
    reason: &str,
    now: Timestamp,
) -> io::Result<()> {
    let mut spans = spans(disk, dir, (from, to))?;
    if spans.is_empty() {
        spans.push(Span {
            segment: from.segment,
            from: from.offset,
            to: from.offset,
            events: None,
        });
    }
    // Of all together: counted once.
    spans[0].events = events;
    for span in spans {
        match keep_span(disk, dir, span, reason, now) {
            // Missing as a whole: set aside already, or somebody's doing.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
            Ok(_) => {}
        }
    }
    Ok(())
}

/// Keeps a copy of a damaged span; `false` when it has been kept already.
///
/// # Errors
/// What the disk said; the queue is as it was.
pub fn keep_span(
    disk: &dyn Disk,
    dir: &Path,
    span: Span,
    reason: &str,
    now: Timestamp,
) -> io::Result<bool> {
    let to = path(dir, span.segment, span.from);
    let from = disk.open(&dir.join(segment::file_name(span.segment)), Open::Read)?;
    let end = span.to.min(from.size()?);
    let has_reason = disk.read(&to.with_extension("json"), REASON_BYTES_MAX);
    let kept = disk.open(&to, Open::Read).and_then(|kept| kept.size());
    // What begins there may have been less when it was kept.
    if has_reason.is_ok() && kept.is_ok_and(|kept| kept >= end.saturating_sub(span.from)) {
        return Ok(false);
    }
    let bytes = end.saturating_sub(span.from);
    // On a disk that is nearly full the room is for the queue.
    if disk.room(dir)?.free / FREE_SHARE < bytes {
        return Err(io::ErrorKind::StorageFull.into());
    }
    disk.make_dir(&dir.join(DIR))?;
    disk.sync_dir(dir)?;
    match disk.remove(&to) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    copy(disk, &to, (&*from, span.from..end)).inspect_err(|_| {
        // Half a copy is of no use.
        drop(disk.remove(&to));
    })?;
    let reason = Reason {
        segment: segment::file_name(span.segment),
        offset: span.from,
        reason: reason.to_owned(),
        first_event: span.events.map(|(first, _)| first),
        events: span.events.map(|(_, count)| count),
        at: now.to_string(),
    };
    conclude(disk, dir, &to, &reason)?;
    Ok(true)
}

/// Copies these bytes of a file to a new one, durably.
fn copy(disk: &dyn Disk, to: &Path, (from, bytes): (&dyn DiskFile, Range<u64>)) -> io::Result<()> {
    let copy = disk.open(to, Open::CreateNew)?;
    let all = usize::try_from(bytes.end.saturating_sub(bytes.start)).unwrap_or(usize::MAX);
    let mut chunk = vec![0; CHUNK_BYTES.min(all)];
    let mut at = bytes.start;
    while at < bytes.end {
        let want =
            usize::try_from(bytes.end - at).map_or(chunk.len(), |left| left.min(chunk.len()));
        let read = from.read_at(at, &mut chunk[..want])?;
        if read == 0 {
            break;
        }
        copy.write_at(at - bytes.start, &chunk[..read])?;
        at += read as u64;
    }
    copy.sync()
}

/// Moves a whole segment here.
///
/// # Errors
/// What the disk said; the segment is where it was.
pub fn move_segment(
    disk: &dyn Disk,
    dir: &Path,
    id: u64,
    reason: &str,
    now: Timestamp,
) -> io::Result<()> {
    let to = path(dir, id, 0);
    disk.make_dir(&dir.join(DIR))?;
    disk.rename(&dir.join(segment::file_name(id)), &to)?;
    disk.sync_dir(dir)?;
    tracing::error!(segment = id, reason, to = %to.display(), "a segment of the queue is set aside; its events are lost to the outputs that had them before them");
    let reason = Reason {
        segment: segment::file_name(id),
        offset: 0,
        reason: reason.to_owned(),
        first_event: None,
        events: None,
        at: now.to_string(),
    };
    conclude(disk, dir, &to, &reason)
}

/// Moves a folder here that is in the place of the file `name`, under a name that is free.
///
/// # Errors
/// What the disk said; the folder is where it was.
pub fn move_folder(disk: &dyn Disk, dir: &Path, name: &str) -> io::Result<()> {
    let home = dir.join(DIR);
    disk.make_dir(&home)?;
    let taken = disk.list(&home)?;
    let names = (1_u64..).map(|number| format!("{name}.{number}"));
    let mut free = names.filter(|name| taken.iter().all(|entry| entry.name != *name));
    let to = home.join(free.next().unwrap_or_default());
    disk.rename(&dir.join(name), &to)?;
    disk.sync_dir(dir)?;
    tracing::error!(name, to = %to.display(), "a folder is in the place of a file of the queue, and is set aside");
    Ok(())
}

/// How much is kept; nothing when there is no such folder.
///
/// # Errors
/// What the disk said.
pub fn summary(disk: &dyn Disk, dir: &Path) -> io::Result<Summary> {
    let home = dir.join(DIR);
    let entries = match disk.list(&home) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
        entries => entries?,
    };
    let kept = entries.iter().filter(|entry| is_bytes(&entry.name));
    Ok(Summary {
        entries: kept.clone().count() as u64,
        bytes: kept.map(|entry| entry.bytes).sum(),
        removed: removed(disk, &home),
    })
}

fn path(dir: &Path, segment: u64, offset: u64) -> PathBuf {
    let name = format!("{segment:016x}-{offset:016x}.bytes");
    disk::under(dir, &[DIR, &name])
}

fn is_bytes(name: &str) -> bool {
    name.ends_with(".bytes")
}

fn removed(disk: &dyn Disk, home: &Path) -> u64 {
    let text = disk.read(&home.join(REMOVED), 32).unwrap_or_default();
    let number = std::str::from_utf8(&text).ok();
    number
        .and_then(|text| text.trim().parse().ok())
        .unwrap_or(0)
}

/// Writes the reason beside the bytes, and makes room.
fn conclude(disk: &dyn Disk, dir: &Path, bytes: &Path, reason: &Reason) -> io::Result<()> {
    let mut text = serde_json::to_vec(reason)?;
    text.push(b'\n');
    disk.replace(&bytes.with_extension("json"), &text, Replace::Durable)?;
    let home = dir.join(DIR);
    let entries = disk.list(&home)?;
    // By name, which is by age.
    let kept: Vec<_> = entries
        .iter()
        .filter(|entry| is_bytes(&entry.name))
        .collect();
    let mut left: u64 = kept.iter().map(|entry| entry.bytes).sum();
    let mut gone = 0;
    for (n, entry) in kept.iter().enumerate() {
        if left <= BYTES_MAX && kept.len() - n <= ENTRIES_MAX {
            break;
        }
        let path = home.join(&entry.name);
        disk.remove(&path)?;
        match disk.remove(&path.with_extension("json")) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        left -= entry.bytes;
        gone += 1;
    }
    if gone > 0 {
        let all = (removed(disk, &home) + gone).to_string();
        disk.replace(&home.join(REMOVED), all.as_bytes(), Replace::Durable)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use crate::disk::mem::MemDisk;

    #[test]
    fn a_span_is_kept_once_with_its_reason_and_the_oldest_make_room() {
        let disk = MemDisk::default();
        let dir = Path::new("/q");
        disk.make_dir(dir).unwrap();
        let file = disk
            .open(&dir.join(segment::file_name(7)), Open::CreateNew)
            .unwrap();
        file.write_at(0, &[7; 3000]).unwrap();
        let span = |from| Span {
            segment: 7,
            from,
            to: from + 1000,
            events: Some((5, 3)),
        };
        assert!(keep_span(&disk, dir, span(2500), "rot", Timestamp(1)).unwrap());
        assert!(!keep_span(&disk, dir, span(2500), "rot", Timestamp(2)).unwrap());
        let kept = summary(&disk, dir).unwrap();
        assert_eq!((kept.entries, kept.bytes, kept.removed), (1, 500, 0));
        let reason = disk
            .read(&path(dir, 7, 2500).with_extension("json"), 4096)
            .unwrap();
        let reason: Reason = serde_json::from_slice(&reason).unwrap();
        assert_eq!((reason.first_event, reason.events), (Some(5), Some(3)));
        for from in 0..ENTRIES_MAX as u64 + 1 {
            assert!(keep_span(&disk, dir, span(from), "rot", Timestamp(3)).unwrap());
        }
        let kept = summary(&disk, dir).unwrap();
        assert_eq!((kept.entries, kept.removed), (ENTRIES_MAX as u64, 2));
        move_segment(&disk, dir, 7, "no head", Timestamp(4)).unwrap();
        assert_eq!(summary(&disk, dir).unwrap().removed, 3);
        assert!(disk.read(&dir.join(segment::file_name(7)), 4096).is_err());
    }
}
