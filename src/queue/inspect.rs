//! Looking into a queue without changing it, whether its daemon runs or not.
//!
//! Serves the commands `queue stat | cat | verify` and `replay`.

use std::io;
use std::path::Path;
use std::sync::Arc;

use super::cursor;
use super::cursor::Cursor;
use super::fact::Part;
use super::ledger::Ledger;
use super::log::LogReader;
use super::record::Body;
use super::record::StoredEvents;
use super::recover;
use super::recover::OpenError;
use super::segment;
use super::segment::Position;
use crate::disk::Disk;
use crate::event::Frames;
use crate::units::Timestamp;

/// What a queue folder holds.
#[derive(Debug)]
pub struct Survey {
    /// What all whole records add up to.
    pub ledger: Ledger,
    /// How often the queue was opened.
    pub epoch: u32,
    /// Where the last whole record ends.
    pub end: Position,
    /// Segments with their sizes, oldest first.
    pub segments: Vec<(u64, u64)>,
    /// Every output that ever had a cursor here.
    pub cursors: Vec<(String, Cursor)>,
}

/// Reads what `dir` holds.
///
/// # Errors
/// [`OpenError`].
pub fn survey(disk: &Arc<dyn Disk>, dir: &Path) -> Result<Survey, OpenError> {
    let found = recover::survey(disk, dir)?;
    let at_dir = |error| OpenError::Disk {
        path: dir.to_path_buf(),
        error,
    };
    let mut cursors = Vec::new();
    for entry in disk.list(dir).map_err(at_dir)? {
        if let Some(output) = entry.name.strip_prefix("cursor-")
            && let Some(cursor) = cursor::peek(&**disk, dir, output).map_err(at_dir)?
        {
            cursors.push((output.to_owned(), cursor));
        }
    }
    Ok(Survey {
        ledger: found.ledger,
        epoch: found.epoch,
        end: found.end,
        segments: found.segments,
        cursors,
    })
}

/// Which events are wanted.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    /// Only of this job.
    pub job: Option<String>,
    /// Only read at or after this time.
    pub since: Option<Timestamp>,
}

impl Filter {
    fn takes(&self, part: &Part) -> bool {
        self.job.as_deref().is_none_or(|job| *part.job == *job)
            && self.since.is_none_or(|since| part.last >= since)
    }
}

/// What [`events`] could not show.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Missed {
    /// Records that could not be read.
    pub records: u64,
}

/// Gives every wanted event to `each`, in the order of capture, until it says [`Go::Stop`].
/// Records without a wanted part are skipped without inflating them. Times are those of a record's
/// parts, so a few events before `since` may come along.
///
/// # Errors
/// What the disk said.
pub fn events(
    disk: &Arc<dyn Disk>,
    dir: &Path,
    end: Position,
    filter: &Filter,
    mut each: impl FnMut(&Part, &[u8]) -> Go,
) -> io::Result<Missed> {
    let mut reader = LogReader::new(disk.clone(), dir, first(&**disk, dir)?);
    let mut missed = Missed::default();
    let mut expected = None;
    while let Some(found) = reader.next(end)? {
        let number = found.header.number;
        missed.records += expected.map_or(0, |expected| number.saturating_sub(expected));
        expected = Some(number + 1);
        if found.header.count == 0 {
            continue;
        }
        let Some(body) = reader
            .body(&found)?
            .and_then(|bytes| Body::read(&bytes).ok())
        else {
            missed.records += 1;
            continue;
        };
        if !body.parts.iter().any(|part| filter.takes(part)) {
            continue;
        }
        let header = found.header;
        let stored = StoredEvents {
            bytes: body.events,
            count: header.count,
            raw_bytes: header.raw_bytes,
            zlib: header.zlib,
        };
        let Ok(frames) = stored.frames() else {
            missed.records += 1;
            continue;
        };
        if each_event(&frames, &body.parts, filter, &mut each) == Go::Stop {
            break;
        }
    }
    Ok(missed)
}

/// Whether a walk goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Go {
    /// It does.
    On,
    /// It ends here.
    Stop,
}

fn each_event(
    frames: &Frames,
    parts: &[Part],
    filter: &Filter,
    each: &mut impl FnMut(&Part, &[u8]) -> Go,
) -> Go {
    let mut payloads = frames.payloads();
    for part in parts {
        let wanted = filter.takes(part);
        for payload in payloads.by_ref().take(part.count as usize) {
            if wanted && each(part, payload) == Go::Stop {
                return Go::Stop;
            }
        }
    }
    Go::On
}

/// Something wrong in a queue.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Damage {
    /// File name of the segment.
    pub segment: String,
    /// Where in it.
    pub offset: u64,
    /// What, in words.
    pub what: String,
}

/// What [`verify`] found.
#[derive(Debug, Clone, PartialEq, Eq, Default, serde::Serialize)]
pub struct Verdict {
    /// Whole records.
    pub records: u64,
    /// Events in them.
    pub events: u64,
    /// Bytes looked at.
    pub bytes: u64,
    /// Bytes behind the last whole record: a write that is under way, or was cut short.
    pub unfinished_bytes: u64,
    /// Everything that is wrong.
    pub damage: Vec<Damage>,
}

/// Most places that a verdict names; a queue that is damaged in more is shown as far.
const DAMAGE_MAX: usize = 1000;

/// Reads every record, checks every checksum and inflates every batch.
///
/// # Errors
/// What the disk said.
pub fn verify(disk: &Arc<dyn Disk>, dir: &Path, survey: &Survey) -> io::Result<Verdict> {
    let mut reader = LogReader::new(disk.clone(), dir, first(&**disk, dir)?);
    let mut verdict = Verdict {
        bytes: survey.segments.iter().map(|(_, bytes)| bytes).sum(),
        ..Verdict::default()
    };
    let mut expected: Option<(u64, u64)> = None;
    let mut say = |at: Position, what: String| {
        if verdict.damage.len() < DAMAGE_MAX {
            let segment = segment::file_name(at.segment);
            verdict.damage.push(Damage {
                segment,
                offset: at.offset,
                what,
            });
        }
    };
    while let Some(found) = reader.next(survey.end)? {
        let header = found.header;
        if let Some((number, seq)) = expected
            && (header.number != number || header.seq != seq)
        {
            say(
                found.at,
                format!(
                    "records {number}..{} and events {seq}..{} before this place are missing",
                    header.number, header.seq
                ),
            );
        }
        expected = Some((header.number + 1, header.seq + u64::from(header.count)));
        match reader.body(&found)?.map(|bytes| Body::read(&bytes)) {
            None => say(
                found.at,
                format!("the checksum of record {} does not fit", header.number),
            ),
            Some(Err(bad)) => say(
                found.at,
                format!("record {} cannot be read: {bad:?}", header.number),
            ),
            Some(Ok(body)) => {
                let parts: u64 = body.parts.iter().map(|part| u64::from(part.count)).sum();
                let stored = StoredEvents {
                    bytes: body.events,
                    count: header.count,
                    raw_bytes: header.raw_bytes,
                    zlib: header.zlib,
                };
                if parts != u64::from(header.count) || stored.frames().is_err() {
                    say(
                        found.at,
                        format!(
                            "the events of record {} are not what its header says",
                            header.number
                        ),
                    );
                }
            }
        }
        verdict.records += 1;
        verdict.events += u64::from(header.count);
    }
    let last = survey.segments.last().copied().unwrap_or_default();
    if survey.end.segment == last.0 {
        verdict.unfinished_bytes = last.1.saturating_sub(survey.end.offset);
    }
    Ok(verdict)
}

fn first(disk: &dyn Disk, dir: &Path) -> io::Result<Position> {
    let segment = super::log::first_segment(disk, dir, 0)?.unwrap_or_default();
    Ok(Position { segment, offset: 0 })
}
