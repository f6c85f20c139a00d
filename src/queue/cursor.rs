//! Cursors: how far an output is. One file each, of two slots of 512 bytes.
//!
//! A cursor never moves back, and past an event only with a disposition. A slot that was synced is
//! left alone until the other one is synced too, so a torn write never costs both.

use std::io;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;

use byteorder::ByteOrder;
use byteorder::LittleEndian;

use super::ledger::Ledger;
use super::quarantine;
use super::segment::Position;
use crate::disk::Disk;
use crate::disk::DiskFile;
use crate::disk::Open;
use crate::disk::Replace;

/// How the names of cursor files begin; the output's name follows.
const PREFIX: &str = "cursor-";

const MAGIC: [u8; 4] = *b"SPC1";
const SLOT_BYTES: usize = 512;
const USED_BYTES: usize = 192;

/// Absences of an output that are told apart; beyond it events of the oldest count as dropped, which
/// says more than was lost. Only those behind the cursor matter: several are there when an output comes
/// and goes and takes nothing meanwhile.
const ABSENCES_MAX: usize = 4;

/// How an output passed events. Only the first two let a source be cleaned up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
pub struct Passed {
    /// The peer acknowledged them.
    pub acked: u64,
    /// They were for other outputs.
    pub not_mine: u64,
    /// Their record could not be read any more.
    pub damaged: u64,
    /// The peer refused them again and again: they are dead letters.
    pub set_aside: u64,
    /// They were given up, so that the queue could take others.
    pub dropped: u64,
    /// A person passed them over.
    pub skipped: u64,
}

impl Passed {
    /// All together.
    #[must_use]
    pub const fn total(&self) -> u64 {
        self.acked + self.not_mine + self.damaged + self.set_aside + self.dropped + self.skipped
    }

    /// Adds `more`.
    pub const fn add(&mut self, more: &Self) {
        self.acked += more.acked;
        self.not_mine += more.not_mine;
        self.damaged += more.damaged;
        self.set_aside += more.set_aside;
        self.dropped += more.dropped;
        self.skipped += more.skipped;
    }
}

/// Events that an output passed without an ACK: what they came from must be kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Unacked {
    /// How many since the output exists; an ACK that comes later takes none off.
    pub total: u64,
    /// The last ones that follow on each other: the first.
    pub from: u64,
    /// The first event behind those.
    pub to: u64,
}

impl Unacked {
    /// Those from event `from` up to `to`, not itself.
    #[must_use]
    pub const fn run(from: u64, to: u64) -> Self {
        Self {
            total: to - from,
            from,
            to,
        }
    }

    /// Adds some that lie behind these.
    pub const fn add(&mut self, more: &Self) {
        if more.total == 0 {
            return;
        }
        let goes_on = self.to == more.from && more.total == more.to - more.from;
        if !goes_on {
            self.from = more.from;
        }
        self.to = more.to;
        self.total += more.total;
    }
}

/// The times in which an output was not configured, in numbers of events: none captured then was for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Absences([(u64, u64); ABSENCES_MAX]);

impl Absences {
    /// Whether the last one goes on.
    #[must_use]
    pub const fn is_away(&self) -> bool {
        self.0[ABSENCES_MAX - 1].1 == u64::MAX
    }

    /// One begins; `seq` is the next event to be captured.
    pub fn begin(&mut self, seq: u64) {
        if self.0[ABSENCES_MAX - 1].1 != seq {
            self.0.rotate_left(1);
            self.0[ABSENCES_MAX - 1].0 = seq;
        }
        self.0[ABSENCES_MAX - 1].1 = u64::MAX;
    }

    /// The last one ends before event `seq`.
    pub const fn end(&mut self, seq: u64) {
        self.0[ABSENCES_MAX - 1].1 = seq;
    }

    /// What lies outside of them of the events from `from` up to `to`, not itself.
    pub fn outside(&self, mut from: u64, to: u64) -> impl Iterator<Item = (u64, u64)> {
        let absences = self.0.into_iter().chain([(to, to)]);
        absences.filter_map(move |(away, back)| {
            let before = (from, away.min(to));
            from = from.max(back);
            (before.0 < before.1).then_some(before)
        })
    }
}

/// How far an output is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Cursor {
    /// The record it is in, or where the next one will begin.
    pub at: Position,
    /// Events of that record that are passed.
    pub done: u32,
    /// Number of the next event it has to pass.
    pub seq: u64,
    /// Number of the first event that it had to pass.
    pub born: u64,
    /// How it passed the events between.
    pub passed: Passed,
    /// Where it did so without an ACK.
    pub unacked: Unacked,
    /// When its output was not configured. Nothing is kept for it while it is not.
    pub away: Absences,
}

impl Cursor {
    /// Whether its output has left the configuration.
    #[must_use]
    pub const fn is_frozen(&self) -> bool {
        self.away.is_away()
    }

    /// How many events up to `next_seq`, not itself, it has yet to pass that may be for its output.
    #[must_use]
    pub fn waiting(&self, next_seq: u64) -> u64 {
        let outside = self.away.outside(self.seq, next_seq);
        outside.map(|(from, to)| to - from).sum()
    }
}

/// The file that an output's cursor lives in.
#[derive(Debug)]
pub struct CursorFile {
    disk: Arc<dyn Disk>,
    path: PathBuf,
    output: String,
    /// `None`: there is none, or a sync of it failed and it is not trusted again.
    file: Option<Arc<dyn DiskFile>>,
    generation: u64,
    /// The slot that is not durable.
    slot: u64,
    /// What that slot holds.
    written: Option<Cursor>,
}

/// What a cursor's file said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stored {
    /// So far the output was.
    Cursor(Cursor),
    /// There was no file: the output is new, or the file was removed.
    Missing,
    /// Neither slot can be read: everything that is kept has to be sent again.
    Damaged,
}

impl CursorFile {
    /// Opens the cursor of `output`. A missing file is made by the first [`CursorFile::sync`].
    ///
    /// # Errors
    /// What the disk said.
    pub fn open(disk: &Arc<dyn Disk>, dir: &Path, output: &str) -> io::Result<(Self, Stored)> {
        let mut opened = Self {
            disk: disk.clone(),
            path: path(dir, output),
            output: output.to_owned(),
            file: None,
            generation: 0,
            slot: 0,
            written: None,
        };
        let read = || newest_slot(&*disk.open(&opened.path, Open::Write)?, output);
        // An error of the moment is none the second time, and would have everything sent again.
        let (slot, generation, cursor) = match read().or_else(|_| read()) {
            Ok(Some(newest)) => newest,
            Ok(None) => return Ok((opened, Stored::Damaged)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Ok((opened, Stored::Missing));
            }
            Err(error) if quarantine::is_lasting(&error) => {
                tracing::error!(output, %error, "the cursor cannot be read; it gets a new file");
                return Ok((opened, Stored::Damaged));
            }
            Err(error) => return Err(error),
        };
        opened.generation = generation;
        opened.slot = 1 - slot;
        // It may be what a daemon wrote that died before its sync, or after one that failed.
        if let Err(error) = opened.renew(&cursor) {
            tracing::warn!(output, %error, "the cursor takes no new file and is written again in its own");
            // The new file may have taken the place all the same.
            let file = disk.open(&opened.path, Open::Write)?;
            let Some((slot, generation, cursor)) = newest_slot(&*file, output)? else {
                return Err(error);
            };
            // The same bytes in the same place: torn, they are what they were.
            let bytes = write_slot(output, generation, &cursor);
            file.write_at(slot * SLOT_BYTES as u64, &bytes)?;
            file.sync()?;
            disk.sync_dir(dir)?;
            opened.slot = 1 - slot;
            (opened.file, opened.generation) = (Some(file), generation);
        }
        Ok((opened, Stored::Cursor(cursor)))
    }

    /// Writes `cursor`; it survives the death of this process, not yet a power cut.
    ///
    /// # Errors
    /// What the disk said; [`CursorFile::sync`] tries again.
    pub fn store(&mut self, cursor: &Cursor) -> io::Result<()> {
        self.written = None;
        let Some(file) = &self.file else {
            return Ok(());
        };
        self.generation += 1;
        let bytes = write_slot(&self.output, self.generation, cursor);
        file.write_at(self.slot * SLOT_BYTES as u64, &bytes)?;
        self.written = Some(*cursor);
        Ok(())
    }

    /// Makes `cursor` durable, whatever became of the [`CursorFile::store`] before.
    ///
    /// # Errors
    /// What the disk said; the slot that was durable before still is.
    pub fn sync(&mut self, cursor: &Cursor) -> io::Result<()> {
        if self.written != Some(*cursor) {
            self.store(cursor)?;
        }
        match &self.file {
            Some(file) => match file.sync() {
                Ok(()) => {
                    self.slot = 1 - self.slot;
                    self.written = None;
                    Ok(())
                }
                // The next sync could succeed without the bytes having arrived.
                Err(error) => {
                    self.file = None;
                    tracing::error!(path = %self.path.display(), %error, "sync failed; the cursor is written anew");
                    self.renew(cursor)
                }
            },
            None => self.renew(cursor),
        }
    }

    /// Makes a new file that holds `cursor`, in place of the former one.
    fn renew(&mut self, cursor: &Cursor) -> io::Result<()> {
        self.generation += 1;
        let mut bytes = [0; 2 * SLOT_BYTES];
        bytes[..SLOT_BYTES].copy_from_slice(&write_slot(&self.output, self.generation, cursor));
        let replace = || self.disk.replace(&self.path, &bytes, Replace::Durable);
        match replace() {
            Err(error) if error.kind() == io::ErrorKind::IsADirectory => {
                let dir = self.path.parent().unwrap_or(Path::new("."));
                quarantine::move_folder(&*self.disk, dir, &name(&self.output))?;
                replace()?;
            }
            replaced => replaced?,
        }
        self.file = Some(self.disk.open(&self.path, Open::Write)?);
        self.slot = 1;
        self.written = None;
        Ok(())
    }
}

/// Where the cursor of `output` lies.
#[must_use]
pub fn path(dir: &Path, output: &str) -> PathBuf {
    dir.join(name(output))
}

pub(super) fn name(output: &str) -> String {
    format!("{PREFIX}{output}")
}

/// The cursors of a queue.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Cursors {
    /// Those that can be read, by output.
    pub found: Vec<(String, Cursor)>,
    /// Outputs whose cursor cannot be read, or is gone.
    pub damaged: Vec<String>,
}

impl Cursors {
    /// Adds the outputs that events were for and that have no cursor.
    pub(crate) fn add_lost(&mut self, disk: &dyn Disk, dir: &Path, ledger: &Ledger) {
        for output in ledger.outputs.keys() {
            let is_found = self.found.iter().any(|(name, _)| name == output);
            // A daemon may have made it since.
            if !is_found
                && !self.damaged.contains(output)
                && !matches!(peek(disk, dir, output), Ok(Some(_)))
            {
                self.damaged.push(output.clone());
            }
        }
    }
}

/// Reads every cursor without touching it.
///
/// # Errors
/// What the disk said of the folder.
pub(crate) fn all(disk: &dyn Disk, dir: &Path) -> io::Result<Cursors> {
    let mut all = Cursors::default();
    for entry in disk.list(dir)? {
        let Some(output) = entry.name.strip_prefix(PREFIX) else {
            continue;
        };
        match peek(disk, dir, output) {
            Ok(Some(cursor)) => all.found.push((output.to_owned(), cursor)),
            // Made, and not written yet.
            Ok(None) if entry.bytes == 0 => {}
            Ok(None) | Err(_) => all.damaged.push(output.to_owned()),
        }
    }
    Ok(all)
}

/// Reads a cursor without touching it; `None` when there is none.
///
/// # Errors
/// What the disk said.
pub fn peek(disk: &dyn Disk, dir: &Path, output: &str) -> io::Result<Option<Cursor>> {
    match disk.open(&path(dir, output), Open::Read) {
        Ok(file) => Ok(newest_slot(&*file, output)?.map(|(_, _, cursor)| cursor)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

fn newest_slot(file: &dyn DiskFile, output: &str) -> io::Result<Option<(u64, u64, Cursor)>> {
    let mut newest: Option<(u64, u64, Cursor)> = None;
    for slot in 0..2 {
        let mut bytes = [0; SLOT_BYTES];
        let read = file.read_at(slot * SLOT_BYTES as u64, &mut bytes)?;
        if let Some((generation, cursor)) = read_slot(output, &bytes[..read])
            && newest.is_none_or(|(_, other, _)| generation > other)
        {
            newest = Some((slot, generation, cursor));
        }
    }
    Ok(newest)
}

/// Over the output's name too: a copy of another output's cursor is none, as what that one passed this
/// one was not sent.
fn checksum(output: &str, used: &[u8]) -> u32 {
    let mut crc = crc32fast::Hasher::new();
    crc.update(output.as_bytes());
    crc.update(b"\n");
    crc.update(used);
    crc.finalize()
}

fn write_slot(output: &str, generation: u64, cursor: &Cursor) -> [u8; SLOT_BYTES] {
    let mut out = [0; SLOT_BYTES];
    out[0..4].copy_from_slice(&MAGIC);
    LittleEndian::write_u64(&mut out[8..16], generation);
    LittleEndian::write_u64(&mut out[16..24], cursor.at.segment);
    LittleEndian::write_u64(&mut out[24..32], cursor.at.offset);
    LittleEndian::write_u32(&mut out[32..36], cursor.done);
    LittleEndian::write_u64(&mut out[40..48], cursor.seq);
    LittleEndian::write_u64(&mut out[48..56], cursor.born);
    LittleEndian::write_u64(&mut out[56..64], cursor.passed.acked);
    LittleEndian::write_u64(&mut out[64..72], cursor.passed.not_mine);
    LittleEndian::write_u64(&mut out[72..80], cursor.passed.damaged);
    LittleEndian::write_u64(&mut out[80..88], cursor.passed.set_aside);
    LittleEndian::write_u64(&mut out[88..96], cursor.passed.dropped);
    LittleEndian::write_u64(&mut out[96..104], cursor.passed.skipped);
    LittleEndian::write_u64(&mut out[104..112], cursor.unacked.total);
    LittleEndian::write_u64(&mut out[112..120], cursor.unacked.from);
    LittleEndian::write_u64(&mut out[120..128], cursor.unacked.to);
    for (number, (from, to)) in cursor.away.0.into_iter().enumerate() {
        let at = 128 + 16 * number;
        LittleEndian::write_u64(&mut out[at..at + 8], from);
        LittleEndian::write_u64(&mut out[at + 8..at + 16], to);
    }
    let crc = checksum(output, &out[8..USED_BYTES]);
    LittleEndian::write_u32(&mut out[4..8], crc);
    out
}

fn read_slot(output: &str, bytes: &[u8]) -> Option<(u64, Cursor)> {
    let bytes = bytes.get(..USED_BYTES)?;
    let crc = LittleEndian::read_u32(&bytes[4..8]);
    if bytes[0..4] != MAGIC || crc != checksum(output, &bytes[8..]) {
        return None;
    }
    let at = |offset: usize| LittleEndian::read_u64(&bytes[offset..]);
    let cursor = Cursor {
        at: Position {
            segment: at(16),
            offset: at(24),
        },
        done: LittleEndian::read_u32(&bytes[32..36]),
        seq: at(40),
        born: at(48),
        passed: Passed {
            acked: at(56),
            not_mine: at(64),
            damaged: at(72),
            set_aside: at(80),
            dropped: at(88),
            skipped: at(96),
        },
        unacked: Unacked {
            total: at(104),
            from: at(112),
            to: at(120),
        },
        away: Absences([0, 1, 2, 3].map(|number| (at(128 + 16 * number), at(136 + 16 * number)))),
    };
    Some((at(8), cursor))
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use crate::disk::mem::Fault;
    use crate::disk::mem::MemDisk;

    fn cursor(seq: u64) -> Cursor {
        Cursor {
            at: Position {
                segment: 3,
                offset: seq * 10,
            },
            done: 1,
            seq,
            born: 1,
            passed: Passed {
                acked: seq,
                not_mine: 2,
                damaged: 0,
                set_aside: 3,
                dropped: 4,
                skipped: 5,
            },
            unacked: Unacked {
                total: 12,
                from: seq,
                to: seq + 7,
            },
            away: Absences([(0, 0), (1, seq), (seq + 1, seq + 2), (seq + 3, u64::MAX)]),
        }
    }

    #[test]
    fn what_was_captured_in_an_absence_is_told_apart_until_there_were_too_many() {
        let mut away = Absences::default();
        let outside = |away: &Absences, from, to| away.outside(from, to).collect::<Vec<_>>();
        assert_eq!(outside(&away, 1, 9), [(1, 9)]);
        away.begin(10);
        assert!(away.is_away());
        assert_eq!(outside(&away, 4, 30), [(4, 10)]);
        assert_eq!(outside(&away, 12, 30), []);
        away.end(20);
        assert!(!away.is_away());
        assert_eq!(outside(&away, 4, 30), [(4, 10), (20, 30)]);
        assert_eq!(outside(&away, 15, 18), []);
        for from in [30, 50, 60] {
            away.begin(from);
            away.end(from + 5);
        }
        // Nothing was captured between: it was away all the time.
        away.begin(65);
        away.end(70);
        let parts = [(4, 10), (20, 30), (35, 50), (55, 60), (70, 99)];
        assert_eq!(outside(&away, 4, 99), parts);
        away.begin(80);
        away.end(90);
        let parts = [(4, 30), (35, 50), (55, 60), (70, 80), (90, 99)];
        assert_eq!(outside(&away, 4, 99), parts);
    }

    #[test]
    fn a_power_cut_never_costs_a_synced_cursor() {
        let disk = MemDisk::default();
        let shared: Arc<dyn Disk> = Arc::new(disk.clone());
        let dir = Path::new("/q");
        let (mut file, stored) = CursorFile::open(&shared, dir, "out").unwrap();
        assert_eq!(stored, Stored::Missing);
        file.sync(&cursor(1)).unwrap();
        for seq in 2..20 {
            file.store(&cursor(seq)).unwrap();
            if seq % 3 == 0 {
                file.sync(&cursor(seq)).unwrap();
            }
            let synced = seq / 3 * 3;
            for kept in 0..=SLOT_BYTES {
                let after = disk.crash(kept);
                let found = peek(&after, dir, "out").unwrap().unwrap();
                assert!(
                    found.seq >= synced.max(1) && found.seq <= seq,
                    "{found:?} after {seq}, kept {kept}"
                );
            }
        }
    }

    #[test]
    fn one_damaged_slot_costs_one_interval_and_none_ever_leads_ahead() {
        let disk = MemDisk::default();
        let shared: Arc<dyn Disk> = Arc::new(disk.clone());
        let dir = Path::new("/q");
        let (mut file, _) = CursorFile::open(&shared, dir, "out").unwrap();
        for seq in [5, 6] {
            file.sync(&cursor(seq)).unwrap();
        }
        let path = path(dir, "out");
        let whole = disk.read(&path, 4096).unwrap();
        let raw = disk.open(&path, Open::Write).unwrap();
        for bit in 0..whole.len() * 8 {
            let byte = whole[bit / 8];
            raw.write_at(bit as u64 / 8, &[byte ^ 1 << (bit % 8)])
                .unwrap();
            let found = peek(&disk, dir, "out").unwrap().unwrap();
            assert!(
                [cursor(5), cursor(6)].contains(&found),
                "bit {bit}: {found:?}"
            );
            raw.write_at(bit as u64 / 8, &[byte]).unwrap();
        }
        for cut in (0..=whole.len()).rev() {
            raw.truncate(cut as u64).unwrap();
            match peek(&disk, dir, "out").unwrap() {
                Some(found) => assert!([cursor(5), cursor(6)].contains(&found), "cut {cut}"),
                None => assert!(cut < USED_BYTES, "cut {cut}"),
            }
        }
    }

    #[test]
    fn the_cursor_of_another_output_is_none() {
        let disk = MemDisk::default();
        let shared: Arc<dyn Disk> = Arc::new(disk.clone());
        let dir = Path::new("/q");
        let (mut file, _) = CursorFile::open(&shared, dir, "out").unwrap();
        file.sync(&cursor(5)).unwrap();
        disk.rename(&path(dir, "out"), &path(dir, "other")).unwrap();
        assert_eq!(peek(&disk, dir, "other").unwrap(), None);
        let (_, stored) = CursorFile::open(&shared, dir, "other").unwrap();
        assert_eq!(stored, Stored::Damaged);
    }

    #[test]
    fn a_cursor_is_durable_or_its_sync_fails_whatever_the_disk_refused_before() {
        let disk = MemDisk::default();
        let shared: Arc<dyn Disk> = Arc::new(disk.clone());
        let dir = Path::new("/q");
        let (mut file, _) = CursorFile::open(&shared, dir, "out").unwrap();
        file.sync(&cursor(1)).unwrap();
        disk.fail(Fault::WritesFull);
        file.store(&cursor(2)).unwrap_err();
        file.sync(&cursor(2)).unwrap_err();
        disk.fail(Fault::NextSync);
        file.sync(&cursor(2)).unwrap();
        let found = peek(&disk.crash(0), dir, "out").unwrap().unwrap();
        assert_eq!(
            found,
            cursor(2),
            "after a failed sync it lies in a new file"
        );
    }

    #[test]
    fn two_damaged_slots_are_told_apart_from_a_new_output() {
        let disk = MemDisk::default();
        let shared: Arc<dyn Disk> = Arc::new(disk.clone());
        let dir = Path::new("/q");
        let (mut file, _) = CursorFile::open(&shared, dir, "out").unwrap();
        file.sync(&cursor(5)).unwrap();
        let (_, stored) = CursorFile::open(&shared, dir, "out").unwrap();
        assert_eq!(stored, Stored::Cursor(cursor(5)));
        disk.open(&path(dir, "out"), Open::Write)
            .unwrap()
            .write_at(0, &[0; 1024])
            .unwrap();
        let (_, stored) = CursorFile::open(&shared, dir, "out").unwrap();
        assert_eq!(stored, Stored::Damaged);
    }
}
