//! Looking into a queue without changing it, whether its daemon runs or not.
//!
//! Serves the commands `queue`, `replay` and `doctor`.

use std::fmt;
use std::io;
use std::path::Path;
use std::sync::Arc;

use super::checkpoint;
use super::cursor::Cursor;
use super::ledger::Ledger;
use super::log;
use super::log::LogReader;
use super::record::Header;
use super::recover;
use super::recover::OpenError;
use super::segment;
use super::segment::Head;
use super::segment::Position;
use super::select;
use super::select::Filter;
use super::select::Go;
use super::settled::Settled;
use super::verify::DAMAGE_MAX;
use crate::disk::Disk;
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
    /// When the newest segment was made.
    pub newest: Option<Timestamp>,
    /// Every output that ever had a cursor here.
    pub cursors: Vec<(String, Cursor)>,
    /// Outputs whose cursor cannot be read, or is gone.
    pub unreadable_cursors: Vec<String>,
    /// Segments that hold nothing that can be read, not even a head.
    pub strange: Vec<u64>,
    /// Damage that a person has settled.
    pub settled: Settled,
}

/// Reads what `dir` holds.
///
/// # Errors
/// [`OpenError`].
pub fn survey(disk: &Arc<dyn Disk>, dir: &Path) -> Result<Survey, OpenError> {
    let found = recover::survey(disk, dir)?;
    Ok(Survey {
        ledger: found.ledger,
        epoch: found.epoch,
        end: found.end,
        segments: found.segments,
        newest: found.created.values().copied().max(),
        cursors: found.cursors.found,
        unreadable_cursors: found.cursors.damaged,
        strange: found.strange,
        settled: Settled::read(&**disk, dir),
    })
}

/// An account that must come out even: at any moment, and after any crash.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// What is accounted for, and how much of it there is.
    pub whole: (String, u64),
    /// What became of it.
    pub parts: Vec<(&'static str, u64)>,
}

impl Identity {
    /// Whether it does.
    #[must_use]
    pub fn holds(&self) -> bool {
        let sum: u64 = self.parts.iter().map(|(_, part)| part).sum();
        self.whole.1 == sum
    }
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (name, whole) = &self.whole;
        let parts: Vec<String> = self
            .parts
            .iter()
            .map(|(name, part)| format!("{part} {name}"))
            .collect();
        let is = if self.holds() { "=" } else { "is not" };
        write!(f, "{whole} {name} {is} {}", parts.join(" + "))
    }
}

/// Every event and every byte is somewhere: the accounts of a queue.
#[must_use]
pub fn identities(survey: &Survey) -> Vec<Identity> {
    let ledger = &survey.ledger;
    let counters = &ledger.counters;
    let mut all = vec![
        Identity {
            whole: ("events captured".to_owned(), ledger.queued()),
            parts: vec![
                ("cut out of sources", counters.framed),
                ("of our own", counters.created),
                ("of damaged records", ledger.lost),
            ],
        },
        Identity {
            whole: ("bytes read".to_owned(), counters.bytes_read),
            parts: vec![
                ("in events", counters.bytes_framed),
                ("cut off", counters.bytes_cut),
            ],
        },
    ];
    all.extend(survey.cursors.iter().map(|(output, cursor)| {
        let passed = cursor.passed;
        let waiting = cursor.waiting(ledger.next_seq);
        let left = ledger.next_seq.saturating_sub(cursor.seq);
        Identity {
            whole: (
                format!("events since {output} exists"),
                ledger.next_seq - cursor.born.min(ledger.next_seq),
            ),
            parts: vec![
                ("acknowledged", passed.acked),
                ("waiting", waiting),
                ("set aside", passed.set_aside),
                ("dropped", passed.dropped),
                ("skipped", passed.skipped),
                ("damaged", passed.damaged),
                ("not for it", passed.not_mine + left - waiting),
            ],
        }
    }));
    all
}

/// How many checkpoints can be read, and how many there are.
///
/// # Errors
/// [`OpenError`].
pub fn checkpoints(disk: &dyn Disk, dir: &Path) -> Result<(usize, usize), OpenError> {
    checkpoint::count(disk, dir)
}

/// When the record at `at`, or the first one behind it, was written.
#[must_use]
pub fn written_at(
    disk: &Arc<dyn Disk>,
    dir: &Path,
    survey: &Survey,
    at: Position,
) -> Option<Timestamp> {
    let found = LogReader::new(disk.clone(), dir, at).next(survey.end);
    Some(found.ok()??.header.at)
}

/// Where what is kept begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Kept {
    /// Number of the first event that is kept, or of the next one.
    pub seq: u64,
    /// When it was read; `None` when no event is kept.
    pub since: Option<Timestamp>,
}

/// Finds where what is kept begins.
///
/// # Errors
/// What the disk said.
pub fn kept(disk: &Arc<dyn Disk>, dir: &Path, survey: &Survey) -> io::Result<Kept> {
    let mut kept = Kept {
        seq: survey.ledger.next_seq,
        since: None,
    };
    let all = Filter::default();
    select::events(disk, dir, survey.end, &all, |event| {
        kept = Kept {
            seq: event.seq,
            since: Some(event.part.first),
        };
        Go::Stop
    })?;
    Ok(kept)
}

/// How far an output is to be taken on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Far {
    /// Behind the event of this number.
    Event(u64),
    /// To the end of the record of the next event that is for it.
    Record,
    /// To the end of that record's segment.
    Segment,
    /// Behind everything that is captured.
    All,
}

/// The number of the event that an output at `cursor` would go on with.
///
/// # Errors
/// What the disk said.
pub fn far(
    disk: &Arc<dyn Disk>,
    dir: &Path,
    survey: &Survey,
    output: &str,
    cursor: &Cursor,
    far: Far,
) -> io::Result<u64> {
    let next_seq = survey.ledger.next_seq;
    match far {
        Far::Event(seq) => return Ok(seq.saturating_add(1).min(next_seq)),
        Far::All => return Ok(next_seq),
        Far::Record | Far::Segment => {}
    }
    let mut first = None;
    let filter = Filter {
        output: Some(output.to_owned()),
        seqs: Some((cursor.seq, u64::MAX)),
        ..Filter::default()
    };
    select::events(disk, dir, survey.end, &filter, |event| {
        first = Some(event.seq);
        Go::Stop
    })?;
    let Some(first) = first else {
        return Ok(next_seq);
    };
    let mut reader = LogReader::new(disk.clone(), dir, cursor.at);
    let mut end: Option<(u64, u64)> = None;
    while let Some(found) = reader.next(survey.end)? {
        let behind = found.header.seq + u64::from(found.header.count);
        match end {
            Some((segment, _)) if far == Far::Record || found.at.segment != segment => break,
            None if behind <= first => {}
            _ => end = Some((found.at.segment, behind)),
        }
    }
    Ok(end.map_or(next_seq, |(_, seq)| seq))
}

/// A segment as `queue ls` shows it.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct SegmentView {
    /// Its id.
    pub id: u64,
    /// File name.
    pub file: String,
    /// How often the queue had been opened; `None` when its head is damaged.
    pub epoch: Option<u32>,
    /// Size in bytes.
    pub bytes: u64,
    /// Records in it that begin well.
    pub records: u64,
    /// Events in those.
    pub events: u64,
    /// Numbers of the first and the last event.
    pub seqs: Option<(u64, u64)>,
    /// When its first and its last record were written.
    #[serde(serialize_with = "times")]
    pub written: Option<(Timestamp, Timestamp)>,
    /// Outputs that have not passed it.
    pub needed_by: Vec<String>,
    /// What is wrong with it and not settled, as far as heads of records show; `verify` reads all.
    pub damage: Vec<String>,
}

#[expect(clippy::ref_option, reason = "serde passes a reference")]
fn times<S: serde::Serializer>(
    written: &Option<(Timestamp, Timestamp)>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    let texts = written.map(|(first, last)| (first.to_string(), last.to_string()));
    serde::Serialize::serialize(&texts, serializer)
}

/// Lists the segments, oldest first. Reads only heads of records.
///
/// # Errors
/// What the disk said.
pub fn segments(disk: &Arc<dyn Disk>, dir: &Path, survey: &Survey) -> io::Result<Vec<SegmentView>> {
    let mut views = Vec::new();
    let mut expected: Option<u64> = None;
    for (id, bytes) in &survey.segments {
        let start = Position {
            segment: *id,
            offset: 0,
        };
        let mut view = SegmentView {
            id: *id,
            file: segment::file_name(*id),
            epoch: None,
            bytes: *bytes,
            records: 0,
            events: 0,
            seqs: None,
            written: None,
            needed_by: Vec::new(),
            damage: Vec::new(),
        };
        match log::read_head(&**disk, dir, *id) {
            Ok(Ok(head)) => {
                view.epoch = Some(head.epoch);
                expected = expected.or(Some(head.first_number));
            }
            Ok(Err(_)) if survey.settled.covers_head(*id) => {}
            // Its daemon is about to write it, or died before. Records that it had are missing in what follows.
            Ok(Err(_)) if *bytes <= segment::HEAD_BYTES as u64 => {}
            Ok(Err(bad)) => view.damage.push(format!("its head is no head: {bad:?}")),
            // Removed by its daemon since the survey.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => {
                view.damage.push(format!("it cannot be read: {error}"));
                view.needed_by = needed_by(start, survey);
                views.push(view);
                continue;
            }
        }
        // Up to the next one, so that records that are void there are left out.
        let next = Position {
            segment: id + 1,
            offset: 0,
        };
        let mut reader = LogReader::new(disk.clone(), dir, start);
        let mut last = start;
        while let Some(found) = reader.next(next.min(survey.end))? {
            view.add(&found.header, expected, &survey.settled);
            expected = Some(found.header.number + 1);
            last = found.at;
        }
        view.needed_by = needed_by(last, survey);
        views.push(view);
    }
    Ok(views)
}

impl SegmentView {
    fn add(&mut self, header: &Header, expected: Option<u64>, settled: &Settled) {
        if let Some(expected) =
            expected.filter(|expected| !settled.covers_records((*expected, header.number)))
            && self.damage.len() < DAMAGE_MAX
        {
            let lost = header.number - expected;
            self.damage.push(format!(
                "{lost} records before record {} are missing",
                header.number
            ));
        }
        self.records += 1;
        self.events += u64::from(header.count);
        let first = self.written.map_or(header.at, |(first, _)| first);
        self.written = Some((first, header.at));
        if header.count > 0 {
            let first = self.seqs.map_or(header.seq, |(first, _)| first);
            self.seqs = Some((first, header.seq + u64::from(header.count) - 1));
        }
    }
}

/// The outputs that are configured and have yet to pass the record at `last`, the last of its segment.
fn needed_by(last: Position, survey: &Survey) -> Vec<String> {
    let behind = survey.cursors.iter().filter(|(_, cursor)| {
        !cursor.is_frozen() && cursor.at <= last && cursor.seq < survey.ledger.next_seq
    });
    behind.map(|(output, _)| output.clone()).collect()
}

/// The head of the oldest segment: it says which record comes first. `None` when it cannot be read.
pub(super) fn first_head(disk: &dyn Disk, dir: &Path) -> io::Result<Option<Head>> {
    let id = first(disk, dir)?.segment;
    match log::read_head(disk, dir, id) {
        Ok(head) => Ok(head.ok()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Where the oldest segment begins.
pub(super) fn first(disk: &dyn Disk, dir: &Path) -> io::Result<Position> {
    let segment = log::first_segment(disk, dir, 0)?.unwrap_or_default();
    Ok(Position { segment, offset: 0 })
}
