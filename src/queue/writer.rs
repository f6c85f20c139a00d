//! The queue's writer: appends records, makes them durable, lets go of what is no longer needed.
//!
//! A step machine over [`Disk`]: it owns no thread, reads no clock and never waits. Durable before
//! "captured": only what [`Writer::commit`] returned counts. After a failed sync the segment is
//! never trusted again; the unconfirmed tail is written to a new one. Cursors are durable before
//! anything is removed. Must never know outputs' protocols or what an event says.

mod tidy;

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::Mutex;
use std::time::Duration;

pub use self::tidy::Pressure;
use super::Settings;
use super::checkpoint;
use super::fact::Counters;
use super::fact::Fact;
use super::fact::Part;
use super::ledger::Ledger;
use super::locked;
use super::log;
use super::record::Draft;
use super::record::Header;
use super::record::Record;
use super::recover;
use super::recover::OpenError;
use super::recover::OpenReport;
use super::reserve;
use super::reserve::Reserve;
use super::segment;
use super::segment::Head;
use super::segment::Position;
use crate::disk::Disk;
use crate::disk::DiskFile;
use crate::disk::Open;
use crate::disk::is_no_file;
use crate::event::Route;
use crate::units::Timestamp;

/// Smallest and largest segment; between them it is a 16th of the queue, and of the disk where that is less,
/// so that space comes back in small steps.
/// Tests fill smaller ones, of a queue that is smaller than `spoolbeat.toml` takes.
const SEGMENT_BYTES_MIN: u64 = if cfg!(test) { 8 << 10 } else { 1 << 20 };
const SEGMENT_BYTES_MAX: u64 = 64 << 20;

/// Most sealed segments that are kept for replay: each start makes one, however little it holds, and
/// every reader steps through them all.
const SEGMENTS_MAX: usize = 1024;

/// Between two words about a disk that goes on failing.
const SAY_AGAIN: Duration = Duration::from_secs(60);

/// Why a draft was not appended. Nothing of it counts.
#[derive(Debug)]
pub enum AppendError {
    /// The queue's own limit is reached: wait until outputs have moved on.
    Full,
    /// The disk refuses: wait and try again.
    Disk(io::Error),
    /// It can never be appended.
    Impossible(String),
}

impl AppendError {
    /// Whether there would be room if less were kept: the queue's own limit is reached, or its disk is
    /// full.
    pub(super) fn is_full(&self) -> bool {
        match self {
            Self::Full => true,
            Self::Disk(error) => reserve::is_full(error),
            Self::Impossible(_) => false,
        }
    }
}

impl fmt::Display for AppendError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Full => f.write_str("the queue has reached [queue] max_bytes"),
            Self::Disk(error) => write!(f, "the queue's disk refuses: {error}"),
            Self::Impossible(why) => f.write_str(why),
        }
    }
}

/// A record that is written but not yet durable.
#[derive(Debug)]
struct Pending {
    record: Record,
    header: Header,
    route: Route,
    parts: Vec<Part>,
    facts: Vec<Fact>,
    counters: Counters,
}

#[derive(Debug)]
struct Active {
    id: u64,
    file: Arc<dyn DiskFile>,
    /// End of what is written.
    end: u64,
    /// End of what is durable.
    synced: u64,
    /// Whether a sync has failed. The next one could succeed without the bytes having arrived.
    poisoned: bool,
    /// Whether a segment behind it may have been begun, whose first number makes what follows here void.
    ended: bool,
}

impl Active {
    /// Where the next record will lie.
    const fn place(&self) -> Position {
        Position {
            segment: self.id,
            offset: self.end,
        }
    }

    /// Makes what is written durable; fails for ever once it has failed.
    fn sync(&mut self) -> io::Result<()> {
        if self.poisoned {
            return Err(io::Error::other("an earlier sync of this segment failed"));
        }
        let synced = self.file.sync();
        self.poisoned = synced.is_err();
        synced
    }
}

#[derive(Debug, Clone, Copy)]
struct Sealed {
    bytes: u64,
    at: Timestamp,
}

/// The writer's state.
#[derive(Debug)]
pub struct Writer {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    settings: Settings,
    segment_bytes: u64,
    epoch: u32,
    active: Active,
    sealed: BTreeMap<u64, Sealed>,
    tail: Vec<Pending>,
    next_seq: u64,
    next_number: u64,
    ledger: Arc<Mutex<Ledger>>,
    /// The newest checkpoint that can be read, and the highest id of any.
    checkpoint_id: u64,
    last_checkpoint_id: u64,
    checkpoint_bytes: u64,
    newest_checkpoint: Position,
    older_checkpoint: Position,
    since_checkpoint: u64,
    reserve: Reserve,
    /// How often a sync has failed since one went well, and when that was said.
    failed_syncs: u64,
    failed_said: Timestamp,
    /// Whether the queue was removed under us.
    removed: bool,
}

fn removed() -> io::Error {
    io::Error::other("the queue's files were removed while the daemon runs; start it again")
}

impl Writer {
    /// Opens the queue in `dir`, making it when it is missing. The caller holds the root's lock.
    ///
    /// # Errors
    /// [`OpenError`]; nothing was changed then but a torn tail.
    pub fn open(
        disk: Arc<dyn Disk>,
        dir: &Path,
        settings: Settings,
        now: Timestamp,
    ) -> Result<(Self, OpenReport), OpenError> {
        let on_disk = disk
            .room(dir)
            .map_or(u64::MAX, |room| room.total / reserve::DISK_SHARE);
        let segment_bytes = (settings.max_bytes / 16)
            .min(on_disk)
            .clamp(SEGMENT_BYTES_MIN, SEGMENT_BYTES_MAX);
        Self::open_with(disk, dir, settings, segment_bytes, now)
    }

    /// [`Writer::open`] with segments of about `segment_bytes`.
    ///
    /// # Errors
    /// [`OpenError`].
    pub(crate) fn open_with(
        disk: Arc<dyn Disk>,
        dir: &Path,
        settings: Settings,
        segment_bytes: u64,
        now: Timestamp,
    ) -> Result<(Self, OpenReport), OpenError> {
        let at_dir = |error| OpenError::Disk {
            path: dir.to_path_buf(),
            error,
        };
        let mut found = recover::recover(&disk, dir, now)?;
        let mut reserve = Reserve::find(&*disk, dir, segment_bytes);
        remove_empty(&*disk, dir, &mut found.segments).map_err(at_dir)?;
        reserve
            .or_give(&*disk, || recover::renew_tail(&disk, dir, &mut found, now))
            .map_err(at_dir)?;
        let report = found.report();
        let head = Head {
            epoch: found.epoch + 1,
            id: found.last_segment + 1,
            first_seq: found.ledger.next_seq,
            first_number: found.ledger.next_number,
            created: now,
        };
        let active = reserve
            .or_give(&*disk, || create_over(&*disk, dir, head))
            .map_err(at_dir)?;
        let mut writer = Self {
            segment_bytes,
            epoch: head.epoch,
            sealed: found
                .segments
                .iter()
                .map(|(id, bytes)| {
                    let at = found.created.get(&(id + 1)).copied().unwrap_or(now);
                    (*id, Sealed { bytes: *bytes, at })
                })
                .collect(),
            tail: Vec::new(),
            next_seq: head.first_seq,
            next_number: head.first_number,
            ledger: Arc::new(Mutex::new(found.ledger)),
            checkpoint_id: found.checkpoint,
            last_checkpoint_id: found.last_checkpoint,
            checkpoint_bytes: 0,
            newest_checkpoint: found.oldest_needed,
            older_checkpoint: found.oldest_needed,
            since_checkpoint: 0,
            reserve,
            failed_syncs: 0,
            failed_said: now,
            removed: false,
            disk,
            dir: dir.to_path_buf(),
            settings,
            active,
        };
        let mut done = writer.checkpoint();
        if done.as_ref().is_err_and(reserve::is_full) && writer.reserve.give(&*writer.disk) {
            done = writer.checkpoint();
        }
        done.map_err(at_dir)?;
        writer.reserve.take(&*writer.disk, dir);
        Ok((writer, report))
    }

    /// Appends a draft behind all others; durable and counted only after [`Writer::commit`].
    /// Returns the number of its last event.
    ///
    /// # Errors
    /// [`AppendError`]; the log is as it was.
    pub fn append(&mut self, draft: &Draft, now: Timestamp) -> Result<u64, AppendError> {
        let record = draft.clone().take_record();
        let record = record.map_err(AppendError::Impossible)?;
        self.append_record(draft, &mut Some(record), 0, now)
    }

    /// [`Writer::append`] of a draft and its record, which is taken, behind which so many facts wait that
    /// may use the reserve. None goes before another, so it may use it too.
    ///
    /// # Errors
    /// As [`Writer::append`]; the record is left.
    pub(crate) fn append_record(
        &mut self,
        draft: &Draft,
        taken: &mut Option<Record>,
        behind: usize,
        now: Timestamp,
    ) -> Result<u64, AppendError> {
        if self.removed {
            return Err(AppendError::Disk(removed()));
        }
        let Some(record) = taken else {
            return Err(AppendError::Impossible("its record was taken".to_owned()));
        };
        if self.reserve.is_spent(&*self.disk, &self.dir) {
            return Err(AppendError::Disk(io::ErrorKind::StorageFull.into()));
        }
        let vital = behind > 0 || draft.facts.iter().any(Fact::is_vital);
        let need = record.len();
        // Events stop one segment short of the limit, so that fires and run ends always have room.
        let limit = self.settings.max_bytes - if vital { 0 } else { self.segment_bytes };
        if self.total_bytes() + need > limit {
            return Err(AppendError::Full);
        }
        let full = self.active.end + need > self.segment_bytes
            && self.active.end > segment::HEAD_BYTES as u64;
        // Behind bytes that may be missing nothing is written: it would be found after a crash, and they not.
        if full || self.active.poisoned || self.active.ended {
            let mut rotated = self.rotate(now);
            if rotated.is_err() && vital && self.reserve.give_most(&*self.disk) {
                rotated = self.rotate(now);
            }
            rotated.map_err(AppendError::Disk)?;
        }
        let settled = self.active.synced == self.active.end;
        let header = draft.header(self.next_number, self.next_seq, settled, now);
        record.seal(self.active.place(), header);
        let mut written = record.write(&*self.active.file, self.active.end);
        if written.is_err() && vital && self.reserve.give_most(&*self.disk) {
            written = record.write(&*self.active.file, self.active.end);
        }
        written.map_err(AppendError::Disk)?;
        self.active.end += need;
        self.since_checkpoint += need;
        self.next_number += 1;
        self.next_seq += u64::from(header.count);
        self.tail.extend(taken.take().map(|record| Pending {
            record,
            header,
            route: draft.route.clone(),
            parts: draft.parts.clone(),
            facts: draft.facts.clone(),
            counters: draft.counters,
        }));
        Ok(self.next_seq - 1)
    }

    /// Makes everything appended durable: from now on it is captured.
    ///
    /// # Errors
    /// What the disk said. Nothing more is captured then; call again later.
    pub fn commit(&mut self, now: Timestamp) -> io::Result<()> {
        if self.tail.is_empty() {
            return Ok(());
        }
        if self.removed {
            return Err(removed());
        }
        if !self.try_sync(now) {
            self.rewrite_tail(now)?;
        }
        self.active.synced = self.active.end;
        self.fold_tail();
        Ok(())
    }

    /// Counts everything appended as captured without waiting for the disk, for `durability = { interval }`.
    pub fn trust_page_cache(&mut self) {
        self.fold_tail();
    }

    /// Makes what [`Writer::trust_page_cache`] counted durable.
    ///
    /// # Errors
    /// What the disk said.
    pub fn sync(&mut self, now: Timestamp) -> io::Result<()> {
        if self.active.synced == self.active.end {
            return Ok(());
        }
        if !self.try_sync(now) {
            return self.rewrite_tail(now);
        }
        self.active.synced = self.active.end;
        Ok(())
    }

    /// Syncs the active segment; `false` when it is not to be trusted again. Said when it begins and when
    /// it is over, and each minute meanwhile: it is tried ten times a second.
    fn try_sync(&mut self, now: Timestamp) -> bool {
        let Err(error) = self.active.sync() else {
            if std::mem::take(&mut self.failed_syncs) > 0 {
                tracing::info!("the queue's disk syncs again");
            }
            return true;
        };
        self.failed_syncs += 1;
        if self.failed_syncs == 1 || now.since(self.failed_said) >= SAY_AGAIN {
            self.failed_said = now;
            tracing::error!(segment = self.active.id, failed = self.failed_syncs, %error, "sync failed; the segment is not trusted again");
        }
        false
    }

    fn fold_tail(&mut self) {
        let mut ledger = locked(&self.ledger);
        for pending in self.tail.drain(..) {
            let Header { number, seq, .. } = pending.header;
            ledger.fold(
                number,
                seq,
                &pending.route,
                &pending.parts,
                &pending.facts,
                &pending.counters,
            );
        }
    }

    /// Writes the unconfirmed records again, to a new segment.
    fn rewrite_tail(&mut self, now: Timestamp) -> io::Result<()> {
        let first = self.tail.first().map(|pending| pending.header);
        let head = Head {
            epoch: self.epoch,
            id: self.active.id + 1,
            first_seq: first.map_or(self.next_seq, |header| header.seq),
            first_number: first.map_or(self.next_number, |header| header.number),
            created: now,
        };
        let mut fresh = create_over(&*self.disk, &self.dir, head)?;
        for pending in &mut self.tail {
            let Pending { record, header, .. } = pending;
            record.seal(fresh.place(), *header);
            record.write(&*fresh.file, fresh.end)?;
            fresh.end += record.len();
        }
        fresh.file.sync()?;
        fresh.synced = fresh.end;
        let mut bytes = self.active.end;
        if first.is_some() {
            bytes = self.active.synced;
            // Readers know the records behind this place as void by the new segment's first number;
            // cutting them off as well only saves them the look.
            if let Err(error) = self.active.file.truncate(bytes) {
                tracing::warn!(segment = self.active.id, %error, "the untrusted tail could not be cut off");
            }
        }
        self.sealed
            .insert(self.active.id, Sealed { bytes, at: now });
        self.active = fresh;
        Ok(())
    }

    fn rotate(&mut self, now: Timestamp) -> io::Result<()> {
        let before = self.active.id;
        self.commit(now)?;
        self.sync(now)?;
        if self.active.id != before {
            // A sync has failed, and what was not durable lies in a new segment already.
            return Ok(());
        }
        let head = Head {
            epoch: self.epoch,
            id: self.active.id + 1,
            first_seq: self.next_seq,
            first_number: self.next_number,
            created: now,
        };
        self.active.ended = true;
        let fresh = create_over(&*self.disk, &self.dir, head)?;
        self.sealed.insert(
            self.active.id,
            Sealed {
                bytes: self.active.end,
                at: now,
            },
        );
        self.active = fresh;
        Ok(())
    }

    /// The end of what is captured: outputs may read up to here.
    #[must_use]
    pub fn durable_end(&self) -> Position {
        let uncounted: u64 = self.tail.iter().map(|pending| pending.record.len()).sum();
        Position {
            segment: self.active.id,
            offset: self.active.end - uncounted,
        }
    }

    /// Where the oldest kept record lies, and the number of the first event from there.
    ///
    /// # Errors
    /// What the disk said.
    pub fn oldest(&self) -> io::Result<(Position, u64)> {
        let id = *self.sealed.keys().next().unwrap_or(&self.active.id);
        let end = (self.durable_end(), self.next_seq);
        log::begin_of(&self.disk, &self.dir, id, end)
    }

    /// The oldest segment, if it takes no more records, with the id of the next one and the number of
    /// its first event.
    ///
    /// # Errors
    /// What the disk said.
    pub fn oldest_sealed(&self) -> io::Result<Option<(u64, u64, u64)>> {
        let mut ids = self.sealed.keys().copied();
        let Some(id) = ids.next() else {
            return Ok(None);
        };
        let next = ids.next().unwrap_or(self.active.id);
        let seq = log::first_seq(&*self.disk, &self.dir, next)?;
        Ok(seq.map(|seq| (id, next, seq)))
    }

    /// What all captured records add up to; folded anew only by [`Writer::commit`] and its like.
    #[must_use]
    pub fn ledger(&self) -> Arc<Mutex<Ledger>> {
        self.ledger.clone()
    }

    /// Number of the next captured event.
    #[must_use]
    pub fn captured_seq(&self) -> u64 {
        self.tail
            .first()
            .map_or(self.next_seq, |pending| pending.header.seq)
    }

    /// Bytes of all segments.
    #[must_use]
    pub fn total_bytes(&self) -> u64 {
        self.sealed.values().map(|sealed| sealed.bytes).sum::<u64>() + self.active.end
    }

    /// Bytes that outputs have not passed yet, and how many there may be.
    #[must_use]
    pub fn held_bytes(&self, passed: Position) -> (u64, u64) {
        let behind: u64 = self
            .sealed
            .range(passed.segment..)
            .map(|(_, sealed)| sealed.bytes)
            .sum();
        let held = (behind + self.active.end).saturating_sub(passed.offset);
        (held, self.settings.max_bytes - self.segment_bytes)
    }

    /// How many segments there are.
    #[must_use]
    pub fn segments(&self) -> u64 {
        self.sealed.len() as u64 + 1
    }

    /// Sees whether somebody removed the queue under us: what is written from then on would be gone
    /// with this process, so nothing more is captured.
    fn check_home(&mut self) -> io::Result<()> {
        let path = self.dir.join(segment::file_name(self.active.id));
        match self.disk.open(&path, Open::Read) {
            Err(error) if error.kind() == io::ErrorKind::NotFound || is_no_file(&error) => {
                if !self.removed {
                    tracing::error!(path = %path.display(), "the queue was removed; start the daemon again");
                }
                self.removed = true;
                Err(removed())
            }
            _ => Ok(()),
        }
    }
}

/// Removes segments without a record from the end of the log, so that a daemon that is started again
/// and again leaves no trail of them. Their ids are not used again.
fn remove_empty(disk: &dyn Disk, dir: &Path, segments: &mut Vec<(u64, u64)>) -> io::Result<()> {
    while let Some((id, bytes)) = segments.last().copied() {
        if bytes > segment::HEAD_BYTES as u64 {
            break;
        }
        disk.remove(&dir.join(segment::file_name(id)))?;
        segments.pop();
    }
    Ok(())
}

/// Makes a segment whose file must not exist.
fn create(disk: &dyn Disk, dir: &Path, head: Head) -> io::Result<Active> {
    let file = disk.open(&dir.join(segment::file_name(head.id)), Open::CreateNew)?;
    file.write_at(0, &head.write())?;
    file.sync()?;
    disk.sync_dir(dir)?;
    let end = segment::HEAD_BYTES as u64;
    Ok(Active {
        id: head.id,
        file,
        end,
        synced: end,
        poisoned: false,
        ended: false,
    })
}

/// Makes a segment; one of that id that an earlier, failed attempt left is replaced.
fn create_over(disk: &dyn Disk, dir: &Path, head: Head) -> io::Result<Active> {
    match create(disk, dir, head) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            disk.remove(&dir.join(segment::file_name(head.id)))?;
            create(disk, dir, head)
        }
        other => other,
    }
}
