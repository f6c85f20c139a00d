//! The real queue at work on a disk in memory, beside a model of what it has promised, and the
//! checks that a disk holds what was promised.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::super::Durability;
use super::super::OnFull;
use super::super::Settings;
use super::super::batch::Batch;
use super::super::cursor::Cursor;
use super::super::cursor::CursorFile;
use super::super::fact::Counters;
use super::super::fact::Fact;
use super::super::fact::Part;
use super::super::fact::Portion;
use super::super::ledger::Ledger;
use super::super::locked;
use super::super::log;
use super::super::log::LogReader;
use super::super::readers::Begin;
use super::super::readers::Reader;
use super::super::readers::open_cursors;
use super::super::record;
use super::super::record::Draft;
use super::super::segment::Position;
use super::super::writer::AppendError;
use super::super::writer::Pressure;
use super::super::writer::Writer;
use crate::disk::Disk;
use crate::disk::mem::Files;
use crate::disk::mem::MemDisk;
use crate::disk::mem::platter;
use crate::disk::mem::platter::Dice;
use crate::event::Frames;
use crate::event::Route;
use crate::event::RunId;
use crate::event::Stream;
use crate::run::Outcome;
use crate::run::Trigger;
use crate::units::Timestamp;

pub(super) const DIR: &str = "/r/q";
pub(super) const SEGMENT_BYTES: u64 = 1024;

pub(super) fn outputs() -> [Reader; 2] {
    ["a", "b"].map(|name| Reader {
        output: name.to_owned(),
        start: Begin::Newest,
        required: true,
    })
}

pub(super) fn settings(segment_bytes: u64) -> Settings {
    Settings {
        max_bytes: 16 * segment_bytes,
        retain_age: Duration::from_secs(3600),
        retain_bytes: 0,
        durability: Durability::Sync,
        batch_events: 2048,
        batch_bytes: 1 << 20,
        flush: Duration::from_millis(100),
        compression_level: 0,
        on_full: OnFull::Block,
    }
}

/// A record that was handed to the queue.
#[derive(Debug, Clone)]
pub(super) struct Given {
    pub(super) body: Arc<Vec<u8>>,
    pub(super) seq: u64,
    pub(super) count: u32,
    /// What it and all before it add up to.
    pub(super) ledger: Arc<Ledger>,
}

/// What must hold when the power goes now.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Promise {
    /// Which of the histories: a restart forgets records that nobody was promised.
    pub(super) lineage: usize,
    /// So many records at least.
    pub(super) captured: u64,
    /// So many at most.
    pub(super) given: u64,
    /// So far at least each output's cursor.
    pub(super) durable: [u64; 2],
    /// So far at most.
    pub(super) acked: [u64; 2],
    /// No event is to be numbered in this epoch or one before it again.
    pub(super) epoch: u32,
}

impl Promise {
    /// A number for it, to be mixed with that of a state.
    pub(super) fn key(&self) -> u64 {
        let [a, b] = self.durable;
        let [c, d] = self.acked;
        let rest = [self.captured, self.given, a, b, c, d];
        rest.iter().fold(u64::from(self.epoch), |key, value| {
            platter::hash(key, &value.to_le_bytes())
        })
    }
}

/// What a check found wrong: its name, and what it saw.
pub(super) type Wrong = (&'static str, String);

/// Ways to be wrong of the one who uses the queue, to see that the checks see them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Misuse {
    None,
    CapturedBeforeCommit,
    CursorAheadOfAck,
    TidyByUnsyncedCursors,
    TidyOneTooFar,
}

struct Out {
    file: CursorFile,
    cursor: Cursor,
    durable: Cursor,
    reader: LogReader,
    inside: Option<log::Found>,
}

pub(super) struct Bench {
    pub(super) disk: MemDisk,
    shared: Arc<dyn Disk>,
    writer: Option<Writer>,
    outs: Vec<Out>,
    pub(super) lineages: Vec<Vec<Given>>,
    pub(super) promise: Promise,
    /// Promises, and after how many operations they held.
    pub(super) marks: Vec<(usize, Promise)>,
    pub(super) dice: Dice,
    /// A draft that the disk refused, to be tried again.
    pending: Option<Draft>,
    now: i64,
    next_id: u64,
    pub(super) misuse: Misuse,
    pub(super) segment_bytes: u64,
}

fn body_of(draft: &Draft) -> Vec<u8> {
    let record = draft.clone().take_record().unwrap();
    record.bytes().split_off(record::HEADER_BYTES)
}

fn ledger(disk_records: &[Given]) -> Ledger {
    disk_records
        .last()
        .map_or_else(Ledger::empty, |given| (*given.ledger).clone())
}

impl Bench {
    pub(super) fn new(disk: MemDisk, seed: u64) -> Self {
        Self {
            shared: Arc::new(disk.clone()),
            disk,
            writer: None,
            outs: Vec::new(),
            lineages: vec![Vec::new()],
            promise: Promise {
                acked: [1, 1],
                ..Promise::default()
            },
            marks: Vec::new(),
            dice: Dice::new(seed),
            pending: None,
            // What was made by one seed is never what another made.
            now: 1_000_000_000 + (seed as i64) * 1_000_000,
            next_id: seed << 20,
            misuse: Misuse::None,
            segment_bytes: SEGMENT_BYTES,
        }
    }

    fn now(&mut self) -> Timestamp {
        self.now += 1;
        Timestamp(self.now)
    }

    fn mark(&mut self) {
        let at = self.disk.recorded_len();
        if self
            .marks
            .last()
            .is_none_or(|(_, last)| *last != self.promise)
        {
            self.marks.push((at, self.promise));
        }
    }

    fn records(&self) -> &Vec<Given> {
        &self.lineages[self.promise.lineage]
    }

    /// Opens the queue, as a daemon does that is started.
    pub(super) fn open(&mut self) -> Result<(), String> {
        self.outs.clear();
        self.writer = None;
        self.pending = None;
        let now = self.now();
        let dir = Path::new(DIR);
        let (writer, _) = Writer::open_with(
            self.shared.clone(),
            dir,
            settings(self.segment_bytes),
            self.segment_bytes,
            now,
        )
        .map_err(|error| error.to_string())?;
        let cursors = open_cursors(&self.shared, dir, &writer, &outputs())
            .map_err(|error| error.to_string())?;
        let known = locked(&writer.ledger()).next_number - 1;
        let mut records = self.records().clone();
        records.truncate(known as usize);
        self.lineages.push(records);
        self.promise.lineage = self.lineages.len() - 1;
        self.promise.captured = known;
        self.promise.given = known;
        self.promise.epoch = epoch(&*self.shared, &writer)?;
        for (n, (file, cursor)) in cursors.into_iter().enumerate() {
            self.promise.durable[n] = cursor.seq;
            self.promise.acked[n] = self.promise.acked[n].max(cursor.seq);
            self.outs.push(Out {
                file,
                cursor,
                durable: cursor,
                reader: LogReader::new(self.shared.clone(), dir, cursor.at),
                inside: None,
            });
        }
        self.writer = Some(writer);
        self.mark();
        Ok(())
    }

    fn draft(&mut self) -> Draft {
        let mut frames = Frames::default();
        let dice = &mut self.dice;
        let count = dice.roll(5);
        let pad = dice.roll(120) as usize;
        for _ in 0..count {
            self.next_id += 1;
            let id = self.next_id;
            frames.push(|out| {
                out.extend_from_slice(format!("{{\"n\":{id},\"p\":\"{id:0pad$}\"}}").as_bytes());
            });
        }
        self.next_id += 1;
        let run = RunId::from_text(&format!("r{}", self.next_id));
        let routes: [&[&str]; 4] = [&["a"], &["b"], &["a", "b"], &["c"]];
        let route = routes[dice.roll(4) as usize];
        let facts = match dice.roll(4) {
            0 => vec![Fact::Fired {
                job: "job".into(),
                run,
                generation: "g".into(),
                trigger: Trigger::Schedule,
                scheduled_at: Some(self.now),
                outputs: vec!["a".into()],
                at: self.now,
            }],
            1 => vec![Fact::Ended {
                job: "job".into(),
                run,
                generation: "g".into(),
                trigger: Trigger::Schedule,
                outcome: Outcome::Success,
                started_at: self.now,
                at: self.now,
            }],
            2 if count == 0 => vec![Fact::Releasing { file: "f".into() }],
            _ => Vec::new(),
        };
        let part = Part {
            job: "job".into(),
            stream: Stream::Stdout,
            count: count as u32,
            first: Timestamp(1),
            last: Timestamp(1),
        };
        let mut batch = Batch::default();
        batch.add(Portion {
            route: Route::to(route.iter().map(|name| (*name).to_owned()).collect()),
            parts: if count == 0 { Vec::new() } else { vec![part] },
            frames,
            facts,
            counters: Counters {
                framed: count,
                bytes_read: 7 * count,
                bytes_framed: 7 * count,
                ..Counters::default()
            },
        });
        batch.close(0)
    }

    /// Appends a draft, the one that was refused before if there is one.
    pub(super) fn append(&mut self) {
        let draft = match self.pending.take() {
            Some(draft) => draft,
            None => {
                let draft = self.draft();
                let mut folded = ledger(self.records());
                let (number, seq) = (folded.next_number, folded.next_seq);
                folded.fold(
                    number,
                    seq,
                    &draft.route,
                    &draft.parts,
                    &draft.facts,
                    &draft.counters,
                );
                let given = Given {
                    body: Arc::new(body_of(&draft)),
                    seq,
                    count: draft.events.count,
                    ledger: Arc::new(folded),
                };
                self.lineages[self.promise.lineage].push(given);
                self.promise.given += 1;
                self.mark();
                draft
            }
        };
        let now = self.now();
        let Some(writer) = &mut self.writer else {
            return;
        };
        match writer.append(&draft, now) {
            Ok(_) => {}
            Err(AppendError::Impossible(why)) => panic!("{why}"),
            Err(refused) => {
                self.pending = Some(draft);
                if matches!(refused, AppendError::Full) {
                    for out in 0..self.outs.len() {
                        self.ship(out, 1000);
                        self.sync_cursor(out);
                    }
                    self.tidy(Pressure::Pressed);
                }
            }
        }
        if self.misuse == Misuse::CapturedBeforeCommit {
            self.promise.captured = self.promise.given - u64::from(self.pending.is_some());
            self.mark();
        }
        self.captured();
    }

    fn captured(&mut self) {
        if let (Some(writer), true) = (&self.writer, self.misuse != Misuse::CapturedBeforeCommit) {
            self.promise.captured = locked(&writer.ledger()).next_number - 1;
            self.mark();
        }
    }

    /// Makes what was appended durable; `false` when the disk refuses.
    pub(super) fn commit(&mut self) -> bool {
        let now = self.now();
        let done = self
            .writer
            .as_mut()
            .is_some_and(|writer| writer.commit(now).is_ok());
        self.captured();
        done
    }

    /// Lets an output read and acknowledge up to `most` records, the last one perhaps in part.
    pub(super) fn ship(&mut self, n: usize, most: u64) {
        let Some(writer) = &self.writer else { return };
        let end = writer.durable_end();
        for _ in 0..most {
            let part = self.dice.roll(3) == 0;
            let out = &mut self.outs[n];
            let found = match out.inside.take() {
                Some(found) => found,
                None => match out.reader.next(end) {
                    Ok(Some(found)) => found,
                    _ => break,
                },
            };
            let header = found.header;
            let given = &self.lineages[self.promise.lineage][header.number as usize - 1];
            match out.reader.body(&found) {
                Ok(body) => assert_eq!(body.as_ref(), Some(&*given.body), "what is shipped"),
                Err(_) => {
                    out.inside = Some(found);
                    break;
                }
            }
            let passed = if part && out.cursor.done + 1 < header.count {
                1
            } else {
                header.count - out.cursor.done
            };
            out.cursor.passed.acked += u64::from(passed);
            out.cursor.seq += u64::from(passed);
            if out.cursor.done + passed < header.count {
                out.cursor.at = found.at;
                out.cursor.done += passed;
                out.inside = Some(found);
            } else {
                out.cursor.at = found.next;
                out.cursor.done = 0;
            }
        }
        let mut stored = self.outs[n].cursor;
        self.promise.acked[n] = stored.seq;
        self.mark();
        if self.misuse == Misuse::CursorAheadOfAck {
            stored.seq += 1;
            stored.passed.acked += 1;
        }
        // A cursor that cannot be stored costs duplicates, never events.
        drop(self.outs[n].file.store(&stored));
    }

    pub(super) fn sync_cursor(&mut self, n: usize) {
        let Some(out) = self.outs.get_mut(n) else {
            return;
        };
        if out.cursor != out.durable && out.file.sync(&out.cursor).is_ok() {
            out.durable = out.cursor;
            self.promise.durable[n] = out.cursor.seq;
            self.mark();
        }
    }

    pub(super) fn tidy(&mut self, pressure: Pressure) {
        let unsynced = self.misuse == Misuse::TidyByUnsyncedCursors;
        let cursors = self.outs.iter().map(|out| match unsynced {
            true => out.cursor.at,
            false => out.durable.at,
        });
        let mut passed = cursors.min().unwrap_or_default();
        passed.segment += u64::from(self.misuse == Misuse::TidyOneTooFar);
        let now = self.now();
        if let Some(writer) = &mut self.writer {
            // It is tried again.
            drop(writer.tidy(passed, pressure, now));
        }
    }

    /// Ends the daemon, killed or in order, and starts it again.
    pub(super) fn restart(&mut self, killed: bool) -> Result<(), String> {
        let now = self.now();
        if let (Some(writer), false) = (&mut self.writer, killed) {
            drop(writer.sync(now));
            drop(writer.checkpoint());
        }
        self.open()
    }

    pub(super) fn is_open(&self) -> bool {
        self.writer.is_some()
    }

    /// Whether everything that waits is captured, more is taken, and outputs get to the end.
    pub(super) fn goes_on(&mut self) -> bool {
        for _ in 0..3 {
            self.append();
            self.commit();
            for n in 0..self.outs.len() {
                self.ship(n, u64::MAX);
                self.sync_cursor(n);
            }
            self.tidy(Pressure::None);
        }
        let all = self.promise.captured == self.promise.given && self.pending.is_none();
        all && self.promise.durable == self.promise.acked
            && self.outs.iter().all(|out| out.inside.is_none())
    }

    /// One step of work, by chance.
    pub(super) fn step(&mut self) -> Result<(), String> {
        let n = self.dice.roll(2) as usize;
        match self.dice.roll(40) {
            0..14 => {
                for _ in 0..=self.dice.roll(3) {
                    self.append();
                    if self.pending.is_some() {
                        break;
                    }
                }
                self.commit();
            }
            14..17 => self.append(),
            17..25 => {
                let most = 1 + self.dice.roll(4);
                self.ship(n, most);
            }
            25..31 => self.sync_cursor(n),
            31..37 => self.tidy(Pressure::None),
            37 => self.restart(true)?,
            38 => self.restart(false)?,
            _ => {
                for n in 0..2 {
                    self.ship(n, 1000);
                    self.sync_cursor(n);
                }
                self.tidy(Pressure::Pressed);
            }
        }
        Ok(())
    }
}

fn epoch(disk: &dyn Disk, writer: &Writer) -> Result<u32, String> {
    match log::read_head(disk, Path::new(DIR), writer.durable_end().segment) {
        Ok(Ok(head)) => Ok(head.epoch),
        other => Err(format!("no head of the open segment: {other:?}")),
    }
}

/// Opens what `disk` holds and holds it against a promise; returns what is promised from then on.
pub(super) fn check(
    disk: &MemDisk,
    records: &[Given],
    promise: &Promise,
) -> Result<Promise, Wrong> {
    let shared: Arc<dyn Disk> = Arc::new(disk.clone());
    let dir = Path::new(DIR);
    let wrong = |check, seen: String| Err((check, seen));
    let (writer, report) = match Writer::open_with(
        shared.clone(),
        dir,
        settings(SEGMENT_BYTES),
        SEGMENT_BYTES,
        Timestamp(5),
    ) {
        Ok(opened) => opened,
        Err(error) => return wrong("boot", error.to_string()),
    };
    let known = writer.ledger();
    let known = locked(&known);
    let count = known.next_number - 1;
    if count < promise.captured {
        return wrong(
            "captured",
            format!("{count} records are left of {promise:?}"),
        );
    }
    if count > promise.given {
        return wrong("invented", format!("{count} records of {promise:?}"));
    }
    if report.damaged_records > 0 {
        return wrong("no damage", format!("{report:?}"));
    }
    if *known != ledger(&records[..count as usize]) || known.queued() != known.counters.framed {
        return wrong("accounts", format!("{known:?}"));
    }
    drop(known);
    let epoch = epoch(&*shared, &writer).map_err(|seen| ("epoch", seen))?;
    if epoch <= promise.epoch {
        return wrong("epoch", format!("{epoch} again after {promise:?}"));
    }
    let cursors = match open_cursors(&shared, dir, &writer, &outputs()) {
        Ok(cursors) => cursors,
        Err(error) => return wrong("boot", error.to_string()),
    };
    let found = read_all(&shared, &writer, records)?;
    let mut then = Promise {
        captured: count,
        given: count,
        epoch,
        ..*promise
    };
    for (n, (_, cursor)) in cursors.iter().enumerate() {
        let seen = || format!("output {n}: {cursor:?} after {promise:?}");
        if cursor.seq < promise.durable[n] {
            return wrong("cursor not behind", seen());
        }
        if cursor.seq > promise.acked[n] {
            return wrong("cursor not ahead", seen());
        }
        if cursor.seq != cursor.born + cursor.passed.total() {
            return wrong("accounts", seen());
        }
        then.durable[n] = cursor.seq;
        let first = found.partition_point(|(at, _)| *at < cursor.at);
        let rest = &found[first..];
        let begins = match rest.first() {
            Some((at, number)) => {
                let given = &records[*number as usize - 1];
                let fits = cursor.done == 0 || (*at == cursor.at && cursor.done < given.count);
                fits && given.seq + u64::from(cursor.done) == cursor.seq
                    && *number + rest.len() as u64 == count + 1
            }
            None => {
                cursor.seq
                    == records[..count as usize]
                        .last()
                        .map_or(1, |given| given.seq + u64::from(given.count))
            }
        };
        if !begins {
            return wrong(
                "what a cursor has yet to pass",
                format!("{} {found:?}", seen()),
            );
        }
    }
    Ok(then)
}

/// Where every record lies, in order; each must be what was given.
fn read_all(
    disk: &Arc<dyn Disk>,
    writer: &Writer,
    records: &[Given],
) -> Result<Vec<(Position, u64)>, Wrong> {
    let mut reader = LogReader::new(disk.clone(), Path::new(DIR), Position::default());
    let mut found: Vec<(Position, u64)> = Vec::new();
    loop {
        let record = match reader.next(writer.durable_end()) {
            Ok(Some(record)) => record,
            Ok(None) => return Ok(found),
            Err(error) => return Err(("boot", error.to_string())),
        };
        let number = record.header.number;
        // One that was written again, in a segment that was let go of and came back: if a cursor needs
        // it, it is missed.
        let Some(body) = reader.body(&record).ok().flatten() else {
            continue;
        };
        let same = records.get(number as usize - 1).is_some_and(|given| {
            given.seq == record.header.seq
                && given.count == record.header.count
                && *given.body == body
        });
        if !same || found.last().is_some_and(|(_, last)| *last >= number) {
            let seen = format!("record {number} at {:?}", record.at);
            return Err(("order and content", seen));
        }
        found.push((record.at, number));
    }
}

/// A disk that holds `files`, whose power may be cut again.
pub(super) fn again(files: &Files) -> MemDisk {
    MemDisk::holding(files).recording()
}
