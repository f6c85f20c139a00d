//! The queue against a model that is too simple to be wrong: a list of captured events, a place in
//! it for each output, a set of open runs, a table of files.
//!
//! `SPOOLBEAT_HARNESS=1` tries 5,000 histories of 50 steps, `SPOOLBEAT_SOAK=1` too ten times as many, which
//! are others each time.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::io;

use proptest::prelude::*;
use proptest::test_runner::Config;
use proptest::test_runner::TestError;
use proptest::test_runner::TestRng;
use proptest::test_runner::TestRunner;

use super::super::cursor;
use super::super::cursor::Cursor;
use super::super::cursor::CursorFile;
use super::super::inspect;
use super::super::readers::open_cursors;
use super::*;
use crate::fileid::FileId;
use crate::fileid::Head;
use crate::fileid::Stamp;

const STEPS: usize = 50;

/// A step of a history.
#[derive(Debug, Clone)]
enum Step {
    Append {
        events: u64,
        bytes: usize,
        to: &'static [&'static str],
        what: What,
    },
    Commit,
    /// The next sync fails, once, or for good with every write after it.
    SyncFails {
        then_full: bool,
    },
    DiskFull,
    DiskHeals,
    /// An output passes so many of its events, and its cursor is written.
    Ack(usize, u64),
    SyncCursor(usize),
    Tidy(Pressure),
    Checkpoint,
    /// The power is cut: of what was not synced, so many bytes of each file survive.
    PowerCut(usize),
    /// The daemon dies: what was written stays.
    Kill,
    Forget(usize),
    Add(usize),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum What {
    Nothing,
    Fired(u8),
    Ended(u8),
    Read(u8),
    Release(u8),
    Released(u8),
    /// An output is forgotten.
    Forgotten(usize),
}

static OUTPUTS: [&str; 2] = ["a", "b"];

fn step() -> impl Strategy<Value = Step> {
    let to = prop::sample::select(vec![&OUTPUTS[..1], &OUTPUTS[1..], &OUTPUTS[..]]);
    let what = prop_oneof![
        4 => Just(What::Nothing),
        1 => (0..4_u8).prop_map(What::Fired),
        1 => (0..4_u8).prop_map(What::Ended),
        1 => (0..4_u8).prop_map(What::Read),
        1 => (0..4_u8).prop_map(What::Release),
        1 => (0..4_u8).prop_map(What::Released),
    ];
    let pressure = prop_oneof![Just(Pressure::None), Just(Pressure::Pressed)];
    prop_oneof![
        8 => (0..8_u64, 0..1500_usize, to, what)
            .prop_map(|(events, bytes, to, what)| Step::Append { events, bytes, to, what }),
        6 => Just(Step::Commit),
        1 => any::<bool>().prop_map(|then_full| Step::SyncFails { then_full }),
        1 => Just(Step::DiskFull),
        2 => Just(Step::DiskHeals),
        5 => (0..2_usize, 1..30_u64).prop_map(|(output, events)| Step::Ack(output, events)),
        3 => (0..2_usize).prop_map(Step::SyncCursor),
        3 => pressure.prop_map(Step::Tidy),
        1 => Just(Step::Checkpoint),
        2 => prop_oneof![Just(0), 1..12_000_usize].prop_map(Step::PowerCut),
        1 => Just(Step::Kill),
        1 => (0..2_usize).prop_map(Step::Forget),
        2 => (0..2_usize).prop_map(Step::Add),
    ]
}

/// Segments of 8 KiB, so that they fill.
fn small(retain_bytes: u64) -> Settings {
    Settings {
        max_bytes: 128 << 10,
        retain_bytes,
        ..settings()
    }
}

/// An event: its number, which no other ever has, and who wants it.
type Event = (u64, Route);

/// What an append adds once it is captured.
#[derive(Debug, Clone)]
struct Added {
    events: Vec<Event>,
    what: What,
}

/// What everything captured adds up to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Sum {
    captured: Vec<Event>,
    open: BTreeSet<u8>,
    /// By file, whether a clean-up waits.
    files: BTreeMap<u8, bool>,
    /// By output, the number of the first event that was for it.
    known: BTreeMap<String, u64>,
}

impl Sum {
    fn add(&mut self, added: &Added) {
        for (n, (_, route)) in (self.captured.len() as u64 + 1..).zip(&added.events) {
            for name in route.outputs() {
                self.known.entry(name.clone()).or_insert(n);
            }
        }
        self.captured.extend(added.events.iter().cloned());
        match added.what {
            What::Nothing => {}
            What::Fired(run) => {
                self.open.insert(run);
            }
            What::Ended(run) => {
                self.open.remove(&run);
            }
            What::Read(file) => {
                self.files.insert(file, false);
            }
            What::Release(file) => {
                if let Some(waits) = self.files.get_mut(&file) {
                    *waits = true;
                }
            }
            What::Released(file) => {
                self.files.remove(&file);
            }
            What::Forgotten(output) => {
                self.known.remove(OUTPUTS[output]);
            }
        }
    }

    /// What the queue's ledger says.
    fn of(ledger: &Ledger, captured: Vec<Event>) -> Self {
        let number = |text: &str| text.parse::<u8>().unwrap();
        Self {
            captured,
            known: ledger.outputs.clone(),
            open: ledger.open.keys().map(|run| number(run.as_str())).collect(),
            files: ledger
                .files
                .iter()
                .map(|(file, past)| (number(file), past.release.is_some()))
                .collect(),
        }
    }
}

fn fact(what: What) -> Option<Fact> {
    let run = |run: u8| RunId::from_text(&run.to_string());
    Some(match what {
        What::Nothing => return None,
        What::Fired(n) => Fact::Fired {
            job: "job".into(),
            run: run(n),
            generation: "g".into(),
            trigger: Trigger::Schedule,
            scheduled_at: Some(1),
            outputs: vec!["a".into()],
            at: 1,
        },
        What::Ended(n) => Fact::Ended {
            job: "job".into(),
            run: run(n),
            generation: "g".into(),
            trigger: Trigger::Schedule,
            outcome: Outcome::Success,
            started_at: 1,
            at: 2,
        },
        What::Read(n) => Fact::Read {
            file: n.to_string(),
            of: FileFacts {
                job: "job".into(),
                path: "/f".into(),
                id: FileId {
                    device: 1,
                    inode: 2,
                    born: 3,
                },
                head: Head::default(),
                outputs: vec!["a".into()],
                waits_for: vec!["a".into()],
                at: 1,
            },
            from: 0,
            to: 1,
            before: 0,
            events: 0,
            partial: 0,
        },
        What::Release(n) => Fact::Release {
            file: n.to_string(),
            release: Release {
                action: Action::Delete,
                path: "/f".into(),
                root: "/".into(),
                stamp: Stamp::default(),
                tail: Head::default(),
                uid: 0,
                gid: 0,
                prune: None,
            },
        },
        What::Released(n) => Fact::Released {
            file: n.to_string(),
            end: ReleaseEnd::Done,
        },
        What::Forgotten(output) => Fact::ForgottenOutput {
            output: OUTPUTS[output].into(),
        },
    })
}

struct Output {
    name: String,
    file: CursorFile,
    /// How far it is.
    cursor: Cursor,
    /// The newest cursor that a kill cannot cost.
    stored: Cursor,
    /// The newest cursor that a power cut cannot cost.
    synced: Cursor,
}

/// The queue and its model, side by side.
struct Pair {
    disk: MemDisk,
    settings: Settings,
    writer: Writer,
    outputs: Vec<Output>,
    next_event: u64,
    sum: Sum,
    captured_records: u64,
    /// Appended, not captured: a crash may keep any first part of them.
    pending: Vec<Added>,
    /// Whether a sync may have failed: what the page cache holds is then not all on the disk.
    lies: bool,
}

impl Pair {
    fn new(retain_bytes: u64) -> Self {
        let disk = MemDisk::default();
        let settings = small(retain_bytes);
        let names = OUTPUTS.map(str::to_owned);
        let (writer, outputs) = open(&disk, &settings, &names).unwrap();
        Self {
            disk,
            settings,
            writer,
            outputs,
            next_event: 0,
            sum: Sum::default(),
            captured_records: 0,
            pending: Vec::new(),
            lies: false,
        }
    }

    fn take(&mut self, step: &Step) {
        match step {
            Step::Append {
                events,
                bytes,
                to,
                what,
            } => {
                // A record of nothing is never written, and any two of them are alike.
                let events = match what {
                    What::Nothing => 1.max(*events),
                    _ => *events,
                };
                let names = to.iter().map(|name| (*name).to_owned());
                self.append(events, *bytes, &Route::to(names.collect()), *what);
            }
            Step::Commit => self.commit(),
            Step::SyncFails { then_full } => {
                self.lies = true;
                self.disk.fail(if *then_full {
                    Fault::NextSyncThenFull
                } else {
                    Fault::NextSync
                });
            }
            Step::DiskFull => self.disk.fail(Fault::WritesFull),
            Step::DiskHeals => self.disk.fail(Fault::None),
            Step::Ack(output, events) => self.ack(*output, *events),
            Step::SyncCursor(output) => {
                if let Some(output) = self.output(*output) {
                    output.sync();
                }
            }
            // A full or failing disk may refuse: nothing is lost by that.
            Step::Tidy(pressure) => drop(self.tidy(*pressure)),
            Step::Checkpoint => drop(self.writer.checkpoint()),
            Step::PowerCut(kept) => self.reopen(Some(*kept)),
            Step::Kill => self.reopen(if self.lies { Some(0) } else { None }),
            Step::Forget(output) => self.forget(*output),
            Step::Add(output) => self.add(OUTPUTS[*output]),
        }
    }

    fn output(&mut self, output: usize) -> Option<&mut Output> {
        let name = OUTPUTS[output];
        self.outputs.iter_mut().find(|output| output.name == name)
    }

    fn append(&mut self, count: u64, bytes: usize, route: &Route, what: What) {
        let mut portion = portion(self.next_event, count, bytes);
        portion.route = route.clone();
        if count == 0 {
            portion.parts.clear();
        }
        portion.facts.extend(fact(what));
        let appended = self.writer.append(&draft(portion), Timestamp(1));
        // Going over to the next segment captures what is in the one before.
        self.catch_up();
        match appended {
            Ok(_) => {
                let numbers = self.next_event..self.next_event + count;
                let events = numbers.map(|n| (n, route.clone())).collect();
                self.pending.push(Added { events, what });
                self.next_event += count;
            }
            Err(AppendError::Impossible(why)) => panic!("{why}"),
            Err(AppendError::Full | AppendError::Disk(_)) => {}
        }
    }

    /// Takes over what the writer has captured: records are counted without gaps.
    fn catch_up(&mut self) {
        let captured = locked(&self.writer.ledger()).next_number - 1;
        let newly = captured.checked_sub(self.captured_records);
        let newly = newly.expect("a captured record is never lost") as usize;
        assert!(
            newly <= self.pending.len(),
            "more is captured than was appended"
        );
        for added in self.pending.drain(..newly) {
            self.sum.add(&added);
        }
        self.captured_records = captured;
        self.compare();
    }

    fn commit(&mut self) {
        let committed = self.writer.commit(Timestamp(1)).is_ok();
        self.catch_up();
        assert!(!committed || self.pending.is_empty(), "said to be captured");
    }

    /// The ledger and the numbers are the model's.
    fn compare(&self) {
        let ledger = self.writer.ledger();
        let ledger = locked(&ledger);
        assert_eq!(Sum::of(&ledger, self.sum.captured.clone()), self.sum);
        assert_eq!(ledger.queued(), self.sum.captured.len() as u64);
        assert_eq!(ledger.counters.framed, ledger.queued());
        assert_eq!(self.writer.captured_seq(), ledger.next_seq);
    }

    /// Lets an output pass events: they must be the model's, in its order.
    fn ack(&mut self, output: usize, mut events: u64) {
        let end = self.writer.durable_end();
        let (disk, captured) = (self.disk.clone(), self.sum.captured.clone());
        let Some(output) = self.output(output) else {
            return;
        };
        let mut cursor = output.cursor;
        let mut reader = LogReader::new(Arc::new(disk), Path::new(DIR), cursor.at);
        while events > 0
            && let Some(found) = reader.next(end).unwrap()
        {
            let header = found.header;
            assert_eq!(
                header.seq + u64::from(cursor.done),
                cursor.seq,
                "a gap in the log"
            );
            let mine = |seq: u64| &captured[seq as usize - 1];
            let body = reader.body(&found).unwrap().expect("a body that fits");
            let body = Body::read(&body).unwrap();
            let left = header.count - cursor.done;
            if header.count == 0 || !body.route.wants(&output.name) {
                cursor.passed.not_mine += u64::from(left);
                cursor.seq += u64::from(left);
                cursor.at = found.next;
                cursor.done = 0;
                continue;
            }
            let stored = record::StoredEvents {
                bytes: body.events,
                count: header.count,
                raw_bytes: header.raw_bytes,
                zlib: header.zlib,
            };
            let frames = stored.frames().unwrap();
            let taken = events.min(u64::from(left)) as u32;
            let passed = frames.payloads().skip(cursor.done as usize);
            for (seq, payload) in (cursor.seq..).zip(passed.take(taken as usize)) {
                let event: serde_json::Value = serde_json::from_slice(payload).unwrap();
                assert_eq!(event["n"], mine(seq).0);
                assert_eq!(body.route, mine(seq).1);
            }
            events -= u64::from(taken);
            cursor.passed.acked += u64::from(taken);
            cursor.seq += u64::from(taken);
            if taken == left {
                cursor.at = found.next;
                cursor.done = 0;
            } else {
                cursor.at = found.at;
                cursor.done += taken;
            }
        }
        assert_eq!(cursor.seq, cursor.born + cursor.passed.total());
        // On a disk that refuses, an output goes on and has to send again after a crash.
        let stored = output.file.store(&cursor).is_ok();
        output.stored = if stored { cursor } else { output.synced };
        output.cursor = cursor;
    }

    fn tidy(&mut self, pressure: Pressure) -> io::Result<()> {
        // As the service does: without outputs nothing is let go.
        let passed = self.outputs.iter().map(|output| output.synced.at).min();
        self.writer
            .tidy(passed.unwrap_or_default(), pressure, Timestamp(1))
    }

    /// First the log knows of it, then the cursor goes.
    fn forget(&mut self, output: usize) {
        let name = OUTPUTS[output];
        if self.output(output).is_none() {
            return;
        }
        self.disk.fail(Fault::None);
        self.append(0, 0, &Route::default(), What::Forgotten(output));
        self.commit();
        // A full queue takes no word of it, and then it is not done.
        if self.sum.known.contains_key(name) {
            return;
        }
        self.outputs.retain(|output| output.name != name);
        self.disk
            .remove(&cursor::path(Path::new(DIR), name))
            .unwrap();
        self.disk.sync_dir(Path::new(DIR)).unwrap();
    }

    /// A new output begins at the end of what is captured; one that events were for and that has no
    /// cursor begins with all that is kept.
    fn add(&mut self, name: &str) {
        if self.outputs.iter().any(|output| output.name == name) {
            return;
        }
        self.disk.fail(Fault::None);
        let names = [name.to_owned()];
        let outputs = cursors(&self.disk, &self.writer, &names).unwrap();
        let begins = match self.sum.known.contains_key(name) {
            true => self.writer.oldest().unwrap().1,
            false => self.sum.captured.len() as u64 + 1,
        };
        assert_eq!(outputs[0].cursor.seq, begins, "{name}");
        self.outputs.extend(outputs);
        self.outputs.sort_by(|a, b| a.name.cmp(&b.name));
    }

    /// The daemon ends without a word, after a power cut or not, and starts again.
    fn reopen(&mut self, power_cut: Option<usize>) {
        if let Some(kept) = power_cut {
            self.disk = self.disk.crash(kept);
        }
        let names: Vec<String> = self
            .outputs
            .iter()
            .map(|output| output.name.clone())
            .collect();
        let opened = open(&self.disk, &self.settings, &names).or_else(|_| {
            self.disk.fail(Fault::None);
            open(&self.disk, &self.settings, &names)
        });
        let (writer, outputs) = opened.unwrap();
        self.writer = writer;
        // Of what was not captured some first part may be there all the same, after a kill all.
        self.catch_up();
        assert!(
            power_cut.is_some() || self.pending.is_empty(),
            "written, and gone"
        );
        self.pending.clear();
        for (before, after) in self.outputs.iter().zip(&outputs) {
            let least = if power_cut.is_some() {
                before.synced
            } else {
                before.stored
            };
            assert!(
                least.seq <= after.cursor.seq && after.cursor.seq <= before.cursor.seq,
                "{}: {least:?}, then {:?} after {:?}",
                before.name,
                after.cursor,
                before.cursor
            );
        }
        self.outputs = outputs;
        self.lies = false;
    }

    /// Everything heals: what was captured is there, whole and in order, and events flow again.
    fn end(&mut self) {
        self.disk.fail(Fault::None);
        self.commit();
        self.reopen(Some(0));
        for output in 0..OUTPUTS.len() {
            self.ack(output, u64::MAX);
            if let Some(output) = self.output(output) {
                output.sync();
                assert_eq!(output.synced, output.cursor);
                let cursor = output.cursor;
                assert_eq!(
                    cursor.seq,
                    self.sum.captured.len() as u64 + 1,
                    "all events are passed"
                );
            }
        }
        let disk: Arc<dyn Disk> = Arc::new(self.disk.clone());
        let survey = inspect::survey(&disk, Path::new(DIR)).unwrap();
        let verdict = verify::verify(&disk, Path::new(DIR), &survey).unwrap();
        assert_eq!(verdict.damage, []);
        if !self.outputs.is_empty() {
            self.tidy(Pressure::Pressed).unwrap();
            let route = Route::to(vec!["a".into()]);
            self.writer
                .append(
                    &draft(Portion {
                        route,
                        ..portion(self.next_event, 1, 10)
                    }),
                    Timestamp(1),
                )
                .unwrap();
            self.writer.commit(Timestamp(1)).unwrap();
        }
    }
}

impl Output {
    fn sync(&mut self) {
        if self.file.sync(&self.cursor).is_ok() {
            self.stored = self.cursor;
            self.synced = self.cursor;
        }
    }
}

fn cursors(disk: &MemDisk, writer: &Writer, names: &[String]) -> io::Result<Vec<Output>> {
    let readers: Vec<Reader> = names
        .iter()
        .map(|name| Reader {
            output: name.clone(),
            start: Begin::Newest,
            required: true,
        })
        .collect();
    let shared: Arc<dyn Disk> = Arc::new(disk.clone());
    let opened =
        open_cursors(&shared, Path::new(DIR), writer, &readers).map_err(io::Error::other)?;
    let output = |(name, (file, cursor)): (&String, (CursorFile, Cursor))| Output {
        name: name.clone(),
        file,
        cursor,
        stored: cursor,
        synced: cursor,
    };
    Ok(names.iter().zip(opened).map(output).collect())
}

fn open(
    disk: &MemDisk,
    settings: &Settings,
    names: &[String],
) -> io::Result<(Writer, Vec<Output>)> {
    let writer = Writer::open(
        Arc::new(disk.clone()),
        Path::new(DIR),
        settings.clone(),
        Timestamp(1),
    );
    let (writer, _) = writer.map_err(|error| io::Error::other(error.to_string()))?;
    let outputs = cursors(disk, &writer, names)?;
    Ok((writer, outputs))
}

#[test]
fn any_history_of_crashes_and_faults_keeps_what_the_model_keeps() {
    let is_set = |name| std::env::var(name).is_ok_and(|value| value == "1");
    let soak = is_set("SPOOLBEAT_SOAK");
    let cases = match (is_set("SPOOLBEAT_HARNESS"), soak) {
        (true, true) => 50_000,
        (true, false) => 5_000,
        (false, _) => 50,
    };
    let config = Config {
        cases,
        failure_persistence: None,
        max_shrink_iters: 20_000,
        ..Config::default()
    };
    let history = (
        prop_oneof![Just(0), Just(30_000_u64)],
        prop::collection::vec(step(), STEPS),
    );
    let mut runner = if soak {
        TestRunner::new(config)
    } else {
        let rng = TestRng::deterministic_rng(config.rng_algorithm);
        TestRunner::new_with_rng(config, rng)
    };
    let tried = runner.run(&history, |(retain_bytes, steps)| {
        let mut pair = Pair::new(retain_bytes);
        for step in &steps {
            pair.take(step);
        }
        pair.end();
        Ok(())
    });
    if let Err(TestError::Fail(why, (retain_bytes, steps))) = tried {
        let steps: String = steps.iter().map(|step| format!("\n    {step:?}")).collect();
        panic!("{why}, with {retain_bytes} bytes kept for replay after{steps}");
    }
    tried.unwrap();
}
