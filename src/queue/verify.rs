//! Verifying a queue: every record is read, every checksum looked at, every batch inflated.
//!
//! Only reads. What is damaged has a place in the log, so that it can be set aside and settled.

use std::cmp::Ordering;
use std::io;
use std::path::Path;
use std::sync::Arc;

use super::cursor;
use super::cursor::Cursor;
use super::inspect::Survey;
use super::inspect::first;
use super::inspect::first_head;
use super::log;
use super::log::LogReader;
use super::quarantine;
use super::record::Bad;
use super::record::Body;
use super::record::Header;
use super::record::StoredEvents;
use super::recover::OpenError;
use super::segment;
use super::segment::HEAD_BYTES;
use super::segment::Position;
use super::settled::Settled;
use crate::disk::Disk;

/// What is not there any more: each from the first number to the one behind the last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lost {
    /// Numbers of records.
    pub records: (u64, u64),
    /// Numbers of events.
    pub events: (u64, u64),
}

/// A part of the log that cannot be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// Where it begins.
    pub from: Position,
    /// Where it ends.
    pub to: Position,
    /// What was in it; `None`: the head of a segment.
    pub lost: Option<Lost>,
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
    /// What may be set aside; `None` where nothing may: it is of a newer version, or not understood.
    #[serde(skip)]
    pub place: Option<Place>,
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
    /// Damaged places that a person has settled.
    pub settled: u64,
    /// Outputs whose cursors cannot be read, or are gone.
    pub lost_cursors: Vec<String>,
    /// Everything else that is wrong.
    pub damage: Vec<Damage>,
}

/// Most places that a verdict names; a queue that is damaged in more is shown as far.
pub(super) const DAMAGE_MAX: usize = 1000;

/// Reads every record, checks every checksum and inflates every batch.
///
/// # Errors
/// [`OpenError`]: what the disk said, and of which file.
pub fn verify(disk: &Arc<dyn Disk>, dir: &Path, survey: &Survey) -> Result<Verdict, OpenError> {
    let at_dir = |error| OpenError::Disk {
        path: dir.to_path_buf(),
        error,
    };
    let mut walk = Walk {
        settled: &survey.settled,
        verdict: Verdict {
            bytes: survey.segments.iter().map(|(_, bytes)| bytes).sum(),
            lost_cursors: survey.unreadable_cursors.clone(),
            ..Verdict::default()
        },
    };
    walk.heads(disk, dir, survey)?;
    let start = first(&**disk, dir).map_err(at_dir)?;
    let head = first_head(&**disk, dir).map_err(at_dir)?;
    let mut expected = head.map(|head| (head.first_number, head.first_seq));
    if let Some(head) = expected {
        walk.before(disk, dir, start, head).map_err(at_dir)?;
    }
    let mut reader = LogReader::new(disk.clone(), dir, start);
    let end = loop {
        let before = reader.position();
        let found = reader.next(survey.end);
        let Some(found) = found.map_err(|error| unreadable(disk, dir, &reader, error))? else {
            break before;
        };
        let header = found.header;
        let (number, seq) = expected.unwrap_or((header.number, header.seq));
        if header.number != number || header.seq != seq {
            let what = format!(
                "{} before this place are missing",
                named((number, header.number), (seq, header.seq))
            );
            let gone = ((number, header.number), (seq, header.seq));
            walk.lost(found.at, what, (before, found.at), gone);
        }
        let behind = (header.number + 1, header.seq + u64::from(header.count));
        expected = Some(behind);
        let body = reader.body(&found);
        let body = body.map_err(|error| unreadable(disk, dir, &reader, error))?;
        if let Some(wrong) = wrong(&header, body) {
            let place = Place {
                from: found.at,
                to: found.next,
                lost: Some(Lost {
                    records: (header.number, behind.0),
                    events: (header.seq, behind.1),
                }),
            };
            let (what, place) = match wrong {
                Wrong::Damaged(what) => (what, Some(place)),
                Wrong::Newer(what) => (what, None),
            };
            walk.say(found.at, what, place);
        }
        walk.verdict.records += 1;
        walk.verdict.events += u64::from(header.count);
    };
    let next = (survey.ledger.next_number, survey.ledger.next_seq);
    let last = survey.segments.last().copied().unwrap_or_default();
    // A cursor may know of events whose records nobody has counted.
    let is_short = |(number, seq): &(u64, u64)| *number < next.0 || *seq < next.1;
    if let Some((number, seq)) = expected.filter(is_short) {
        let what = format!(
            "{} at the end are missing",
            named((number, next.0), (seq, next.1))
        );
        let to = survey.end.max(Position {
            segment: last.0,
            offset: 0,
        });
        let gone = ((number, next.0), (seq, next.1));
        walk.lost(survey.end, what, (end, to), gone);
    }
    // A daemon never leaves a queue without one.
    let needed = needed(&survey.cursors).unwrap_or(next.1);
    if survey.segments.is_empty() && needed < next.1 {
        let what = format!(
            "no segment is left: {} that an output has not passed are missing",
            range("events", (needed, next.1))
        );
        let gone = ((next.0, next.0), (needed, next.1));
        walk.lost(survey.end, what, (survey.end, survey.end), gone);
    }
    if survey.end.segment == last.0 {
        walk.verdict.unfinished_bytes = last.1.saturating_sub(survey.end.offset);
    }
    Ok(walk.verdict)
}

/// The first event that an output of the configuration has not passed.
fn needed(cursors: &[(String, Cursor)]) -> Option<u64> {
    let cursors = cursors.iter().filter(|(_, cursor)| !cursor.is_frozen());
    cursors.map(|(_, cursor)| cursor.seq).min()
}

/// Numbers of records and events, each from the first to the one behind the last, as people say them;
/// only events where nobody knows how many records they were in.
fn named(records: (u64, u64), events: (u64, u64)) -> String {
    let events = range("events", events);
    match records.0 == records.1 {
        true => events,
        false => format!("{} and {events}", range("records", records)),
    }
}

/// `events 3..7`, the last one included.
fn range(what: &str, (from, behind): (u64, u64)) -> String {
    match from.cmp(&behind) {
        Ordering::Less => format!("{what} {from}..{}", behind - 1),
        Ordering::Equal => format!("no {what}"),
        Ordering::Greater => format!("{what} numbered {from} and then {behind}"),
    }
}

/// What the disk said of the segment that the reader is in, or of the next.
fn unreadable(disk: &Arc<dyn Disk>, dir: &Path, reader: &LogReader, error: io::Error) -> OpenError {
    let id = quarantine::culprit(&**disk, dir, reader.position().segment);
    OpenError::Disk {
        path: dir.join(segment::file_name(id)),
        error,
    }
}

enum Wrong {
    Damaged(String),
    Newer(String),
}

/// What is wrong with a record whose header is none the worse.
fn wrong(header: &Header, body: Option<Vec<u8>>) -> Option<Wrong> {
    let number = header.number;
    let damaged = |what| Some(Wrong::Damaged(what));
    let body = match body.map(|bytes| Body::read(&bytes)) {
        None => return damaged(format!("the checksum of record {number} does not fit")),
        Some(Err(Bad::Newer)) => {
            let what = format!("record {number} was written by a newer version");
            return Some(Wrong::Newer(what));
        }
        Some(Err(Bad::Damaged)) => return damaged(format!("record {number} is not a record")),
        Some(Ok(body)) => body,
    };
    let parts: u64 = body.parts.iter().map(|part| u64::from(part.count)).sum();
    let stored = StoredEvents {
        bytes: body.events,
        count: header.count,
        raw_bytes: header.raw_bytes,
        zlib: header.zlib,
    };
    let fits = parts == u64::from(header.count) && stored.frames().is_ok();
    match fits {
        true => None,
        false => damaged(format!(
            "the events of record {number} are not what its header says"
        )),
    }
}

struct Walk<'a> {
    settled: &'a Settled,
    verdict: Verdict,
}

impl Walk<'_> {
    fn say(&mut self, at: Position, what: String, place: Option<Place>) {
        if place.is_some_and(|place| self.settled.covers(&place)) {
            self.verdict.settled += 1;
        } else if self.verdict.damage.len() < DAMAGE_MAX {
            self.verdict.damage.push(Damage {
                segment: segment::file_name(at.segment),
                offset: at.offset,
                what,
                place,
            });
        }
    }

    fn lost(
        &mut self,
        at: Position,
        what: String,
        (from, to): (Position, Position),
        (records, events): ((u64, u64), (u64, u64)),
    ) {
        let lost = Lost { records, events };
        // Numbers only grow: where they do not, nobody knows what is missing.
        let is_known = records.0 <= records.1 && events.0 <= events.1;
        let lost = Some(lost).filter(|_| is_known);
        let place = lost.map(|_| Place { from, to, lost });
        self.say(at, what, place);
    }

    /// Looks for events before the oldest segment that an output has not passed: a daemon removes a
    /// segment only when all have, durably.
    fn before(
        &mut self,
        disk: &Arc<dyn Disk>,
        dir: &Path,
        start: Position,
        (number, seq): (u64, u64),
    ) -> io::Result<()> {
        // Read now: since the survey they may have.
        let cursors = cursor::all(&**disk, dir)?.found;
        let needed = needed(&cursors).unwrap_or(seq);
        if needed < seq {
            let what = format!(
                "{} before this place are missing, and an output has not passed them",
                range("events", (needed, seq))
            );
            let gone = ((number, number), (needed, seq));
            self.lost(start, what, (start, start), gone);
        }
        Ok(())
    }

    /// Looks at the heads of segments that hold something.
    fn heads(
        &mut self,
        disk: &Arc<dyn Disk>,
        dir: &Path,
        survey: &Survey,
    ) -> Result<(), OpenError> {
        let mut is_first = true;
        for (id, bytes) in &survey.segments {
            let failed = |error| OpenError::Disk {
                path: dir.join(segment::file_name(*id)),
                error,
            };
            let is_first = std::mem::take(&mut is_first);
            let at = |segment, offset| Position { segment, offset };
            match log::read_head(&**disk, dir, *id) {
                // Removed by its daemon since the survey.
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(failed(error)),
                Ok(Ok(_)) => continue,
                Ok(Err(_)) if *bytes <= HEAD_BYTES as u64 => continue,
                Ok(Err(_)) => {}
            }
            let mut to = at(*id, HEAD_BYTES as u64);
            // Nothing else tells which record is the first of all.
            if is_first {
                let mut reader = LogReader::new(disk.clone(), dir, at(*id, 0));
                let found = reader.next(at(id + 1, 0)).map_err(failed)?;
                to.offset = found.map_or(*bytes, |found| found.at.offset);
            }
            let place = Place {
                from: at(*id, 0),
                to,
                lost: None,
            };
            self.say(place.from, "its head is no head".to_owned(), Some(place));
        }
        Ok(())
    }
}
