//! Dead letters: events that a server refuses again and again, in files for people and for replay.
//!
//! `dead-letter/<output>/0000000001.ndjson` and on: one JSON object a line,
//! `{"set_aside_at":..,"output":..,"host":..,"reason":..,"seq":..,"event":{..}}`; `event` is the event
//! byte for byte, or `event_base64` holds it when it is not a JSON object on one line. After a crash an event
//! may stand there twice, with the same `seq`. Files are only appended to, by the daemon; people may
//! move or remove them at any time. Must never know why an event was set aside, or what is in it.

use std::fmt;
use std::io;
use std::path::Path;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde::Deserialize;
use serde::Serialize;
use serde_json::value::RawValue;

use crate::disk::Disk;
use crate::disk::Entry;
use crate::disk::Open;
use crate::units::Timestamp;
use crate::units::show_bytes;

/// From this size on a new file is begun, so that old ones can be moved away.
const FILE_BYTES: u64 = 16 << 20;

/// Most bytes of one output's dead letters. When they are reached nothing more is set aside: the
/// output then stands still and says so, because an event that is dropped here would be gone, while
/// one that waits in the queue can still be saved by whoever makes room.
pub const BYTES_MAX: u64 = 256 << 20;

/// Most bytes that are read of one file: a full one, and behind it the largest event in Base64.
const READ_BYTES_MAX: u64 = 64 << 20;

const ENDING: &str = ".ndjson";

/// Ends the name of a file that is being replayed, or was when its replay was killed.
pub const CLAIMED: &str = ".replay";

/// One event that was set aside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Letter {
    /// When.
    pub set_aside_at: Timestamp,
    /// The output that could not get rid of it.
    pub output: String,
    /// The server that refused it last.
    pub host: String,
    /// What the server did, in words.
    pub reason: String,
    /// The event's number in the queue.
    pub seq: u64,
    /// The event.
    pub event: Vec<u8>,
}

/// Why an event was not set aside.
#[derive(Debug)]
pub enum Refused {
    /// The output's dead letters have reached [`BYTES_MAX`].
    Full(PathBuf),
    /// The disk did not take it.
    Disk(PathBuf, io::Error),
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Full(dir) => write!(
                f,
                "{} is full ({}): replay its files or move them away",
                dir.display(),
                show_bytes(BYTES_MAX)
            ),
            Self::Disk(dir, error) => write!(f, "{}: {error}", dir.display()),
        }
    }
}

impl std::error::Error for Refused {}

/// Where the dead letters of `output` lie under `root`.
#[must_use]
pub fn dir(root: &Path, output: &str) -> PathBuf {
    crate::disk::under(root, &["dead-letter", output])
}

#[derive(Serialize, Deserialize)]
struct Line<'a> {
    #[serde(borrow)]
    set_aside_at: std::borrow::Cow<'a, str>,
    output: std::borrow::Cow<'a, str>,
    host: std::borrow::Cow<'a, str>,
    reason: std::borrow::Cow<'a, str>,
    seq: u64,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    event: Option<&'a RawValue>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    event_base64: Option<String>,
}

/// The event as it can stand in a line, if it can.
fn raw(event: &[u8]) -> Option<&RawValue> {
    let value: &RawValue = serde_json::from_slice(event).ok()?;
    let whole = event.starts_with(b"{") && value.get().len() == event.len();
    (whole && !event.contains(&b'\n') && !event.contains(&b'\r')).then_some(value)
}

fn write_line(letter: &Letter) -> Vec<u8> {
    let event = raw(&letter.event);
    let line = Line {
        set_aside_at: letter.set_aside_at.to_string().into(),
        output: letter.output.as_str().into(),
        host: letter.host.as_str().into(),
        reason: letter.reason.as_str().into(),
        seq: letter.seq,
        event,
        event_base64: event
            .is_none()
            .then(|| BASE64_STANDARD.encode(&letter.event)),
    };
    let mut out = serde_json::to_vec(&line).expect("texts and numbers are always JSON");
    out.push(b'\n');
    out
}

fn read_line(line: &[u8]) -> Result<Letter, String> {
    let line: Line<'_> = serde_json::from_slice(line).map_err(|error| error.to_string())?;
    let event = match (line.event, line.event_base64) {
        (Some(event), None) => event.get().as_bytes().to_vec(),
        (None, Some(text)) => BASE64_STANDARD
            .decode(text)
            .map_err(|error| format!("event_base64: {error}"))?,
        _ => return Err("exactly one of `event` and `event_base64` is wanted".to_owned()),
    };
    Ok(Letter {
        set_aside_at: Timestamp::from_str(&line.set_aside_at)?,
        output: line.output.into_owned(),
        host: line.host.into_owned(),
        reason: line.reason.into_owned(),
        seq: line.seq,
        event,
    })
}

/// The files in `dir`, oldest first; none when there is no such folder.
///
/// # Errors
/// What the disk said.
pub fn files(disk: &dyn Disk, dir: &Path) -> io::Result<Vec<PathBuf>> {
    Ok(numbered(&entries(disk, dir)?)
        .into_iter()
        .map(|(number, _)| dir.join(name(number)))
        .collect())
}

/// The letters of one file, in order, each with the number of its line from 1. A line that is not
/// whole (the daemon died in it, or is just writing it) or was edited is an error in words.
///
/// # Errors
/// What the disk said; also when the file is larger than one that the daemon would write.
pub fn read(disk: &dyn Disk, file: &Path) -> io::Result<Vec<(usize, Result<Letter, String>)>> {
    let bytes = disk.read(file, READ_BYTES_MAX)?;
    let lines = bytes.split(|byte| *byte == b'\n').zip(1..);
    Ok(lines
        .filter(|(line, _)| !line.is_empty())
        .map(|(line, number)| (number, read_line(line)))
        .collect())
}

fn name(number: u64) -> String {
    format!("{number:010}{ENDING}")
}

fn entries(disk: &dyn Disk, dir: &Path) -> io::Result<Vec<Entry>> {
    match disk.list(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        entries => entries,
    }
}

/// Number and size of each file, oldest first.
fn numbered(entries: &[Entry]) -> Vec<(u64, u64)> {
    let mut files: Vec<(u64, u64)> = entries
        .iter()
        .filter_map(|entry| {
            let number = entry.name.strip_suffix(ENDING)?.parse().ok()?;
            (entry.name == name(number)).then_some((number, entry.bytes))
        })
        .collect();
    files.sort_unstable();
    files
}

/// Sets events of one output aside.
#[derive(Debug)]
pub struct Writer {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    /// The newest file failed a write or a sync: it is not believed any more.
    distrusted: bool,
}

impl Writer {
    /// A writer into the folder [`dir`] gives; made with the first letter.
    #[must_use]
    pub fn new(disk: Arc<dyn Disk>, dir: PathBuf) -> Self {
        Self {
            disk,
            dir,
            distrusted: false,
        }
    }

    /// Appends a letter; it survives a power cut when this returns.
    ///
    /// # Errors
    /// [`Refused`]; the letter may then stand there in part or, without being durable, whole.
    pub fn add(&mut self, letter: &Letter) -> Result<(), Refused> {
        let failed = |error| Refused::Disk(self.dir.clone(), error);
        let entries = entries(&*self.disk, &self.dir).map_err(failed)?;
        let files = numbered(&entries);
        let line = write_line(letter);
        let letters = entries
            .iter()
            .filter(|entry| entry.name.ends_with(ENDING) || entry.name.ends_with(CLAIMED));
        let held: u64 = letters.map(|entry| entry.bytes).sum();
        if held + line.len() as u64 > BYTES_MAX {
            return Err(Refused::Full(self.dir.clone()));
        }
        let added = self.append(&files, line);
        self.distrusted = added.is_err();
        added.map_err(|error| Refused::Disk(self.dir.clone(), error))
    }

    fn append(&self, files: &[(u64, u64)], mut line: Vec<u8>) -> io::Result<()> {
        let newest = files.last().copied();
        if let Some((number, size)) =
            newest.filter(|(_, size)| *size < FILE_BYTES && !self.distrusted)
        {
            let file = self.disk.open(&self.dir.join(name(number)), Open::Write)?;
            let mut last = [b'\n'];
            file.read_at(size.saturating_sub(1), &mut last)?;
            if last != [b'\n'] {
                // A crash left the last line half written.
                line.insert(0, b'\n');
            }
            file.write_at(size, &line)?;
            return file.sync();
        }
        let number = newest.map_or(1, |(number, _)| number + 1);
        if number == 1 {
            self.disk.make_dir(&self.dir)?;
            for above in self.dir.ancestors().skip(1).take(2) {
                self.disk.sync_dir(above)?;
            }
        }
        let path = self.dir.join(name(number));
        let file = self.disk.open(&path, Open::CreateNew)?;
        file.write_at(0, &line)?;
        file.sync()?;
        self.disk.sync_dir(&self.dir)
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use crate::disk::mem::Fault;
    use crate::disk::mem::MemDisk;

    const DIR: &str = "/root/dead-letter/out";

    fn letter(seq: u64, event: &[u8]) -> Letter {
        Letter {
            set_aside_at: Timestamp(1_763_712_488_123),
            output: "out".to_owned(),
            host: "logstash:5044".to_owned(),
            reason: "the server closed the connection".to_owned(),
            seq,
            event: event.to_vec(),
        }
    }

    fn writer(disk: &MemDisk) -> Writer {
        Writer::new(Arc::new(disk.clone()), dir(Path::new("/root"), "out"))
    }

    fn all(disk: &MemDisk) -> Vec<(usize, Result<Letter, String>)> {
        let files = files(disk, Path::new(DIR)).unwrap();
        files
            .iter()
            .flat_map(|file| read(disk, file).unwrap())
            .collect()
    }

    #[test]
    fn an_event_reads_back_byte_for_byte_whatever_it_is() {
        let disk = MemDisk::default();
        let mut writer = writer(&disk);
        let events: [&[u8]; 7] = [
            br#"{"n": 1.50, "n":2, "":"\ud800"}"#,
            b"{}",
            b" {}",
            b"{\n}",
            b"\xff\xfe",
            b"",
            b"null",
        ];
        for (seq, event) in (1..).zip(events) {
            writer.add(&letter(seq, event)).unwrap();
        }
        let read: Vec<Letter> = all(&disk)
            .into_iter()
            .map(|(_, found)| found.unwrap())
            .collect();
        let expected: Vec<Letter> = (1..)
            .zip(events)
            .map(|(seq, event)| letter(seq, event))
            .collect();
        assert_eq!(read, expected);
        let path = Path::new(DIR).join("0000000001.ndjson");
        let text = String::from_utf8(disk.read(&path, u64::MAX).unwrap()).unwrap();
        assert!(text.starts_with(
            "{\"set_aside_at\":\"2025-11-21T08:08:08.123Z\",\"output\":\"out\",\"host\":\"logstash:5044\",\
             \"reason\":\"the server closed the connection\",\"seq\":1,\"event\":{\"n\": 1.50, \"n\":2, \"\":\"\\ud800\"}}\n"
        ));
        assert!(text.contains("\"event_base64\":\"//4=\""));
    }

    #[test]
    fn what_was_set_aside_survives_a_power_cut_and_a_half_written_line_costs_only_itself() {
        let disk = MemDisk::default();
        writer(&disk).add(&letter(1, b"{}")).unwrap();
        disk.fail(Fault::WritesFull);
        let mut failing = writer(&disk);
        assert!(matches!(
            failing.add(&letter(2, b"{\"n\":2}")),
            Err(Refused::Disk(..))
        ));
        for kept in [0, 1, 40, 1000] {
            let after = disk.crash(kept);
            writer(&after).add(&letter(3, b"{}")).unwrap();
            let good: Vec<u64> = all(&after)
                .into_iter()
                .filter_map(|(_, found)| found.ok())
                .map(|letter| letter.seq)
                .collect();
            assert_eq!(good, [1, 3], "kept {kept}");
        }
    }

    #[test]
    fn after_a_failed_sync_a_new_file_is_begun() {
        let disk = MemDisk::default();
        let mut writer = writer(&disk);
        writer.add(&letter(1, b"{}")).unwrap();
        disk.fail(Fault::NextSync);
        assert!(writer.add(&letter(2, b"{}")).is_err());
        writer.add(&letter(2, b"{}")).unwrap();
        writer.add(&letter(3, b"{}")).unwrap();
        let after = disk.crash(0);
        let seqs: Vec<u64> = all(&after)
            .into_iter()
            .map(|(_, found)| found.unwrap().seq)
            .collect();
        assert_eq!(seqs, [1, 2, 3]);
        assert_eq!(files(&after, Path::new(DIR)).unwrap().len(), 2);
    }

    #[test]
    fn at_the_cap_nothing_is_dropped_and_nothing_is_added() {
        let disk = MemDisk::default();
        let mut writer = writer(&disk);
        let big = [br#"{"x":""#.as_slice(), &vec![b'x'; 12 << 20], b"\"}"].concat();
        let mut added = 0;
        let refused = loop {
            match writer.add(&letter(added + 1, &big)) {
                Ok(()) => added += 1,
                Err(refused) => break refused,
            }
        };
        assert!(matches!(refused, Refused::Full(_)), "{refused}");
        assert_eq!(all(&disk).len() as u64, added);
        let dir = Path::new(DIR);
        let claimed = dir.join(format!("0000000001-run{CLAIMED}"));
        disk.rename(&dir.join(name(1)), &claimed).unwrap();
        let still = writer.add(&letter(added + 1, &big)).unwrap_err();
        assert!(matches!(still, Refused::Full(_)), "{still}");
        disk.remove(&claimed).unwrap();
        writer.add(&letter(added + 1, &big)).unwrap();
    }
}
