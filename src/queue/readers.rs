//! The outputs that have a cursor here: those that read, and those that left the configuration.
//!
//! An output that left is frozen: its cursor stays where it is and holds no segment. Nothing forgets
//! it but a person's word. Knows nothing of what outputs do with events.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::io;
use std::path::Path;
use std::sync::Arc;

use super::cursor;
use super::cursor::Cursor;
use super::cursor::CursorFile;
use super::cursor::Stored;
use super::cursor::Unacked;
use super::fact::Fact;
use super::fact::Portion;
use super::ledger::Ledger;
use super::locked;
use super::quarantine;
use super::recover::OpenError;
use super::segment::Position;
use super::writer::Writer;
use crate::disk::Disk;

/// An output as the queue sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reader {
    /// Its name.
    pub output: String,
    /// Where it begins if it is new here.
    pub start: Begin,
    /// Whether the queue holds its events as long as it takes.
    pub required: bool,
}

/// Where a new output begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Begin {
    /// With the next event.
    Newest,
    /// With the oldest event that is kept.
    Oldest,
}

/// Opens every output's cursor before the first event can be appended, so that a new one misses none.
/// New is one that no event was ever for; any other without a cursor that fits begins with the oldest
/// event that is kept.
///
/// # Errors
/// [`OpenError`]: what the disk said, and of which file.
pub(crate) fn open_cursors(
    disk: &Arc<dyn Disk>,
    dir: &Path,
    writer: &Writer,
    outputs: &[Reader],
) -> Result<Vec<(CursorFile, Cursor)>, OpenError> {
    let head = (writer.durable_end(), writer.captured_seq());
    let oldest = writer.oldest().map_err(|error| OpenError::Disk {
        path: dir.to_path_buf(),
        error,
    })?;
    let ledger = writer.ledger();
    let is_known = |output: &str| locked(&ledger).outputs.contains_key(output);
    let at = |(at, seq): (Position, u64)| Cursor {
        at,
        seq,
        born: seq,
        ..Cursor::default()
    };
    let mut cursors = Vec::new();
    for Reader { output, start, .. } in outputs {
        let path = cursor::path(dir, output);
        let failed = |error| OpenError::Disk {
            path: path.clone(),
            error,
        };
        let (mut file, stored) = CursorFile::open(disk, dir, output).map_err(failed)?;
        let cursor = match stored {
            Stored::Cursor(cursor) if cursor.at <= head.0 && cursor.seq <= head.1 => {
                thawed(output, cursor, oldest, head.1)
            }
            Stored::Missing if !is_known(output) => at(match start {
                Begin::Newest => head,
                Begin::Oldest => oldest,
            }),
            Stored::Cursor(_) | Stored::Damaged | Stored::Missing => {
                let what = match stored {
                    Stored::Missing => "is gone",
                    _ => "does not fit the queue",
                };
                tracing::error!(
                    output,
                    file = %path.display(),
                    "the cursor {what}: everything kept is sent again"
                );
                at(oldest)
            }
        };
        if stored != Stored::Cursor(cursor) {
            file.sync(&cursor).map_err(failed)?;
        }
        cursors.push((file, cursor));
    }
    Ok(cursors)
}

/// An output that comes back before event `next_seq` goes on where it was.
fn thawed(output: &str, mut cursor: Cursor, oldest: (Position, u64), next_seq: u64) -> Cursor {
    if !cursor.is_frozen() {
        return cursor;
    }
    cursor.away.end(next_seq);
    let dropped = over_gone(&mut cursor, oldest);
    if dropped > 0 {
        tracing::warn!(
            output,
            events = dropped,
            "the output is configured again: events that were not kept for it meanwhile are dropped for it"
        );
    }
    cursor
}

/// Takes a cursor of an output that was away to where the log begins now, with the number of the first
/// event from there. Of what is gone, what was captured in its absence was for others, the rest is
/// dropped; returns how much that is.
pub(crate) fn over_gone(cursor: &mut Cursor, (at, oldest): (Position, u64)) -> u64 {
    if cursor.at >= at {
        return 0;
    }
    let seq = oldest.max(cursor.seq);
    let mut dropped = 0;
    for (from, to) in cursor.away.outside(cursor.seq, seq) {
        dropped += to - from;
        cursor.unacked.add(&Unacked::run(from, to));
    }
    cursor.passed.dropped += dropped;
    cursor.passed.not_mine += seq - cursor.seq - dropped;
    (cursor.at, cursor.done, cursor.seq) = (at, 0, seq);
    dropped
}

/// Marks the cursors of all outputs that are not among `outputs`, and returns them; `next_seq` is the
/// next event to be captured.
pub(super) fn freeze(
    disk: &Arc<dyn Disk>,
    dir: &Path,
    outputs: &[Reader],
    next_seq: u64,
) -> io::Result<BTreeMap<String, Cursor>> {
    let mut frozen = BTreeMap::new();
    for (output, mut cursor) in cursor::all(&**disk, dir)?.found {
        if outputs.iter().any(|reader| reader.output == output) {
            continue;
        }
        if !cursor.is_frozen() {
            cursor.away.begin(next_seq);
            let (mut file, _) = CursorFile::open(disk, dir, &output)?;
            file.sync(&cursor)?;
            tracing::warn!(
                output,
                "the output is not configured any more: it is frozen, and files that wait for it stay; \
                 `spoolbeat outputs forget` ends that"
            );
        }
        frozen.insert(output, cursor);
    }
    Ok(frozen)
}

/// An output that left the configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frozen {
    /// Its name.
    pub output: String,
    /// How far it was; as if it had never begun when that cannot be known.
    pub cursor: Cursor,
    /// Files whose clean-up waits for it.
    pub files: u64,
}

/// The outputs that left the configuration: those with a cursor, and those that a file waits for.
#[must_use]
pub fn frozen(
    cursors: &BTreeMap<String, Cursor>,
    ledger: &Ledger,
    is_configured: impl Fn(&str) -> bool,
) -> Vec<Frozen> {
    let waited = ledger.files.values().flat_map(|past| &past.of.waits_for);
    let names: BTreeSet<&String> = cursors.keys().chain(waited).collect();
    let lost = Cursor {
        seq: 1,
        born: 1,
        ..Cursor::default()
    };
    let gone = names.into_iter().filter(|name| !is_configured(name));
    gone.map(|name| {
        let cursor = cursors.get(name).copied().unwrap_or(lost);
        Frozen {
            output: name.clone(),
            cursor,
            files: waiting_files(ledger, name, &cursor),
        }
    })
    .collect()
}

/// How many files are cleaned up only when `output`, which is at `cursor`, has got further.
#[must_use]
pub fn waiting_files(ledger: &Ledger, output: &str, cursor: &Cursor) -> u64 {
    let waits = ledger.files.values().filter(|past| {
        past.release.is_some()
            && past.end_seq > cursor.seq
            && past.of.waits_for.iter().any(|name| name == output)
    });
    waits.count() as u64
}

/// What makes the log know that an output does not come back.
#[must_use]
pub fn forgotten(output: &str) -> Portion {
    Portion {
        facts: vec![Fact::ForgottenOutput {
            output: output.to_owned(),
        }],
        ..Portion::default()
    }
}

/// Removes the cursor of an output of which it is durable that it is forgotten; a folder in its place
/// goes into quarantine.
///
/// # Errors
/// What the disk said.
pub fn remove_cursor(disk: &dyn Disk, dir: &Path, output: &str) -> io::Result<()> {
    match disk.remove(&cursor::path(dir, output)) {
        Err(error) if error.kind() == io::ErrorKind::IsADirectory => {
            quarantine::move_folder(disk, dir, &cursor::name(output))
        }
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => disk.sync_dir(dir),
    }
}
