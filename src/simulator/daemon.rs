//! One life of the daemon: the real supervisor, queue writer and shippers, with what their drivers
//! do between them done one small step at a time, in an order that chance decides.

use std::collections::BTreeMap;
use std::collections::VecDeque;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::Mutex;
use std::time::Duration;

use super::DIR;
use super::files::Files;
use super::files::READER;
use super::outputs::OUTPUTS;
use super::outputs::Output;
use super::outside::Outside;
use super::outside::id_of;
use super::runs::LIMITS;
use super::runs::Running;
use super::runs::identity;
use crate::clock::Tick;
use crate::daemon::before;
use crate::disk::Disk;
use crate::event::Route;
use crate::event::RunId;
use crate::process::Can;
use crate::queue;
use crate::queue::Durability;
use crate::queue::Fact;
use crate::queue::Ledger;
use crate::queue::OnFull;
use crate::queue::Portion;
use crate::queue::Position;
use crate::queue::batch::Batch;
use crate::queue::cursor::Cursor;
use crate::queue::locked;
use crate::queue::log::LogReader;
use crate::queue::readers::Begin;
use crate::queue::readers::Reader;
use crate::queue::readers::open_cursors;
use crate::queue::record::Body;
use crate::queue::record::Draft;
use crate::queue::record::StoredEvents;
use crate::queue::writer::AppendError;
use crate::queue::writer::Pressure;
use crate::queue::writer::Writer;
use crate::runner;
use crate::spool::Change;
use crate::status::Request;
use crate::supervisor::Ask;
use crate::supervisor::Effect;
use crate::supervisor::Exit;
use crate::supervisor::Mode;
use crate::supervisor::Note;
use crate::supervisor::OpenRun;
use crate::supervisor::QueueLevel;
use crate::supervisor::Settings;
use crate::supervisor::Signal;
use crate::supervisor::Start;
use crate::supervisor::Supervisor;

/// How often the drivers look after what has no deadline of its own.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// How soon the writer tries again.
const RETRY_EVERY: Duration = Duration::from_millis(100);

/// `[stop] timeout`.
const STOP_TIMEOUT: Duration = Duration::from_secs(5);

/// Who waits for a portion.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum From {
    Run(RunId),
    Interrupted(RunId),
    Files,
    Spoilt,
    Cleaner(String),
}

/// Portions on their way into the queue.
#[derive(Debug, Default)]
pub(super) struct Intake(VecDeque<(Portion, From)>);

impl Intake {
    pub(super) fn push(&mut self, portion: Portion, from: From) {
        self.0.push_back((portion, from));
    }
}

/// A portion in a draft: who waits, which events it holds, which runs it ends.
#[derive(Debug)]
struct Waiting {
    from: From,
    ids: Vec<String>,
    route: Route,
    ended: Vec<RunId>,
}

/// See the module's header.
pub(super) struct Daemon {
    writer: Writer,
    ledger: Arc<Mutex<Ledger>>,
    supervisor: Supervisor,
    wake: Tick,
    intake: Intake,
    /// A draft that found no room.
    held: Option<(Draft, Vec<Waiting>)>,
    /// Appended and not yet durable, with the number of the first event of each.
    appended: Vec<(u64, Waiting)>,
    retry_at: Tick,
    outputs: Vec<Output>,
    marks: BTreeMap<String, Cursor>,
    runs: BTreeMap<RunId, Running>,
    files: Files,
    look_at: Tick,
    level: Option<QueueLevel>,
    /// The drain ends then.
    draining: Option<Tick>,
    pub(super) exit: Option<Exit>,
}

fn settings() -> queue::Settings {
    queue::Settings {
        max_bytes: 512 << 10,
        retain_age: Duration::from_secs(60),
        retain_bytes: 16 << 10,
        durability: Durability::Sync,
        batch_events: 64,
        batch_bytes: 16 << 10,
        flush: Duration::from_millis(100),
        compression_level: 0,
        on_full: OnFull::Block,
    }
}

impl Daemon {
    /// Starts on what the disk holds; `None` when the disk does not let it.
    pub(super) fn start(out: &mut Outside) -> Option<Self> {
        let disk: Arc<dyn Disk> = Arc::new(out.disk.clone());
        let dir = Path::new(DIR);
        let (writer, report) =
            Writer::open(Arc::clone(&disk), dir, settings(), out.now.wall).ok()?;
        assert_eq!(report.damaged_records, 0, "P7: nothing was damaged");
        let reader = |name: &str| Reader {
            output: name.to_owned(),
            start: Begin::Oldest,
            required: true,
        };
        let readers: Vec<Reader> = OUTPUTS.iter().map(|(name, ..)| reader(name)).collect();
        let cursors = open_cursors(&disk, dir, &writer, &readers).ok()?;
        let end = writer.durable_end();
        let log = log_of(&disk, dir, end)?;
        let ledger = writer.ledger();
        out.trace(|| {
            format!(
                "opened {report:?}, log up to {end:?}, {} events, next {}",
                log.len(),
                locked(&ledger).next_seq
            )
        });
        out.oracle.opened(log, &locked(&ledger));
        check_accounts(&locked(&ledger));
        let mut marks = BTreeMap::new();
        for (Reader { output, .. }, (_, cursor)) in readers.iter().zip(&cursors) {
            out.oracle.reopened(output, cursor);
            marks.insert(output.clone(), *cursor);
        }
        let mut outputs = Vec::new();
        for (index, cursor) in cursors.into_iter().enumerate() {
            outputs.push(Output::start(
                index,
                cursor,
                (end, writer.captured_seq()),
                out,
                &mut marks,
            ));
        }
        let known = before(&locked(&ledger), |_| true);
        let (supervisor, effects) = Supervisor::new(Start {
            now: out.now,
            host: "host".to_owned(),
            paused: Vec::new(),
            require_output: out.chance.one_in(4),
            mode: Mode::Serve,
            state_dir: PathBuf::from("/state"),
            settings: Settings {
                max_concurrent: 1 + out.chance.below(4) as u32,
                stop_timeout: STOP_TIMEOUT,
                heartbeat: None,
            },
            can: Can::default(),
            pasts: known.pasts,
            open: known.open,
            seed: out.next_serial() as u32 * 1000,
        });
        let files = Files::known(&locked(&ledger));
        let mut daemon = Self {
            writer,
            ledger,
            supervisor,
            wake: out.now.tick,
            intake: Intake::default(),
            held: None,
            appended: Vec::new(),
            retry_at: out.now.tick,
            outputs,
            marks,
            runs: BTreeMap::new(),
            files,
            look_at: out.now.tick,
            level: None,
            draining: None,
            exit: None,
        };
        daemon.carry_out(effects, out);
        for job in out.spool.values().cloned().collect::<Vec<_>>() {
            daemon.note(Note::Spool(Change::Loaded(job)), out);
        }
        daemon.note(Note::Spool(Change::Complete), out);
        Some(daemon)
    }

    pub(super) fn note(&mut self, note: Note, out: &mut Outside) {
        out.trace(|| format!("note {note:?}"));
        let effects = self.supervisor.step(out.now, note);
        self.carry_out(effects, out);
        self.wake = out.now.tick.after(self.supervisor.patience(out.now));
    }

    pub(super) fn trigger(&mut self, job: &str, out: &mut Outside) {
        let job = job.to_owned();
        let request = Request::Trigger { job };
        self.note(
            Note::Asked {
                ask: Ask(0),
                request,
            },
            out,
        );
    }

    fn carry_out(&mut self, effects: Vec<Effect>, out: &mut Outside) {
        for effect in effects {
            out.trace(|| format!("effect {effect:?}"));
            match effect {
                Effect::StartRun(spec) => {
                    let run = spec.run.clone();
                    let (running, fire) = Running::new(*spec, out);
                    self.intake.push(fire, From::Run(run.clone()));
                    self.runs.insert(run, running);
                }
                Effect::OrderRun { run, order } => {
                    if let Some(running) = self.runs.get_mut(&run) {
                        for portion in running.order(order, out) {
                            self.intake.push(portion, From::Run(run.clone()));
                        }
                    }
                }
                Effect::CloseInterrupted(open) => self.close_interrupted(open, out),
                Effect::BeginDrain => {
                    self.runs.clear();
                    self.draining = Some(out.now.tick.after(STOP_TIMEOUT));
                }
                Effect::Exit(exit) => self.exit = Some(exit),
                Effect::Rescan
                | Effect::Reload { .. }
                | Effect::TakeOver { .. }
                | Effect::KeepPaused { .. }
                | Effect::Tell(_)
                | Effect::Retire { .. }
                | Effect::Skip { .. }
                | Effect::ForgetOutput { .. }
                | Effect::Reply { .. }
                | Effect::Report { .. }
                | Effect::Say(_) => {}
            }
        }
    }

    fn close_interrupted(&mut self, open: OpenRun, out: &Outside) {
        let run = open.run.clone();
        let open_run = runner::Open {
            job: open.job,
            run: open.run,
            generation: open.generation,
            trigger: open.trigger,
            scheduled_at: open.scheduled_at,
            started_at: open.at,
        };
        let identity = identity();
        let portion = runner::end_of_interrupted(
            &open_run,
            None,
            open.route,
            out.now.wall,
            LIMITS,
            &identity,
        );
        self.intake.push(portion, From::Interrupted(run));
    }

    /// Everything that could happen now. Nothing: time has to pass.
    fn ready(&self, out: &Outside) -> Vec<Turn> {
        let now = out.now.tick;
        let mut ready = Vec::new();
        let queue = !self.intake.0.is_empty() || self.held.is_some() || !self.appended.is_empty();
        if queue && self.retry_at <= now {
            ready.push(Turn::Queue);
        }
        if self.wake <= now {
            ready.push(Turn::Supervisor);
        }
        if self.look_at <= now {
            ready.push(Turn::Look);
        }
        for (run, running) in &self.runs {
            if running.wake().is_some_and(|at| at <= now) {
                ready.push(Turn::Run(run.clone()));
            }
        }
        for (index, output) in self.outputs.iter().enumerate() {
            if output.wake().is_some_and(|at| at <= now) {
                ready.push(Turn::Output(index));
            }
            if output.end != self.end() {
                ready.push(Turn::Grown(index));
            }
        }
        ready
    }

    /// When something will be ready.
    fn wake(&self) -> Tick {
        let runs = self.runs.values().filter_map(Running::wake);
        let outputs = self.outputs.iter().filter_map(Output::wake);
        let queue = (!self.appended.is_empty() || self.held.is_some()).then_some(self.retry_at);
        let others = runs.chain(outputs).chain(queue).chain(self.draining);
        others.fold(self.wake.min(self.look_at), Tick::min)
    }

    /// One thing happens, or time passes until something can.
    pub(super) fn go_on(&mut self, out: &mut Outside) {
        let ready = self.ready(out);
        if ready.is_empty() {
            let wait = self.wake().since(out.now.tick);
            out.pass(wait.max(Duration::from_millis(1)));
            return;
        }
        out.trace(|| format!("ready {ready:?}"));
        match &ready[out.chance.index(ready.len())] {
            Turn::Queue => self.queue(out),
            Turn::Supervisor => self.note(Note::Clock, out),
            Turn::Look => self.look(out),
            Turn::Run(run) => {
                if let Some(running) = self.runs.get_mut(run) {
                    for portion in running.go_on(out) {
                        self.intake.push(portion, From::Run(run.clone()));
                    }
                }
            }
            Turn::Output(index) => {
                let output = &mut self.outputs[*index];
                let silent = !output.answered;
                output.go_on(out, &mut self.marks);
                if silent && output.answered {
                    self.note(Note::OutputAnswered, out);
                }
            }
            Turn::Grown(index) => {
                let end = self.end();
                self.outputs[*index].captured(end, out, &mut self.marks);
            }
        }
    }

    /// What the drivers do from time to time.
    fn look(&mut self, out: &mut Outside) {
        self.look_at = out.now.tick.after(LOOK_EVERY);
        self.tidy(Pressure::None, out);
        let ledger = Arc::clone(&self.ledger);
        self.files
            .clean(out, &locked(&ledger), &self.marks, &mut self.intake);
        if !self.files.in_flight && self.draining.is_none() {
            let route = Route::to(vec!["one".to_owned(), "all".to_owned()]);
            if out.spool.contains_key(READER)
                && let Some(portion) = self.files.read(out, &route)
            {
                self.intake.push(portion, From::Files);
            }
        }
        self.publish(None, out);
        let through = self
            .outputs
            .iter()
            .all(|output| output.is_through(self.writer.captured_seq()));
        if self
            .draining
            .is_some_and(|at| at <= out.now.tick || through)
        {
            self.note(Note::DrainOver { waiting_events: 0 }, out);
        }
    }

    /// How far outputs may read.
    fn end(&self) -> (Position, u64) {
        (self.writer.durable_end(), self.writer.captured_seq())
    }

    fn passed(&self) -> Position {
        let cursors = self.marks.values().map(|cursor| cursor.at);
        cursors.min().unwrap_or_default()
    }

    fn tidy(&mut self, pressure: Pressure, out: &Outside) {
        let passed = self.passed();
        drop(self.writer.tidy(passed, pressure, out.now.wall));
    }

    fn publish(&mut self, broken: Option<String>, out: &mut Outside) {
        let (bytes, max_bytes) = self.writer.held_bytes(self.passed());
        let level = Some(QueueLevel {
            bytes,
            max_bytes,
            broken,
        });
        if self.level != level
            && let Some(level) = level.clone()
        {
            self.note(Note::Queue(level), out);
        }
        self.level = level;
    }

    /// The queue's driver: joins, appends, and makes durable.
    fn queue(&mut self, out: &mut Outside) {
        for _ in 0..=out.chance.below(3) {
            let Some((draft, waiting)) = self.held.take().or_else(|| self.draft(out)) else {
                break;
            };
            match self.writer.append(&draft, out.now.wall) {
                Ok(last) => {
                    let mut seq = last + 1 - u64::from(draft.events.count);
                    for one in waiting {
                        let events = one.ids.len() as u64;
                        self.appended.push((seq, one));
                        seq += events;
                    }
                }
                Err(AppendError::Impossible(why)) => panic!("a draft cannot be appended: {why}"),
                Err(refused) => {
                    self.held = Some((draft, waiting));
                    self.commit(out);
                    self.tidy(Pressure::Pressed, out);
                    self.retry_at = out.now.tick.after(RETRY_EVERY);
                    self.publish(Some(refused.to_string()), out);
                    return;
                }
            }
        }
        self.commit(out);
    }

    fn draft(&mut self, out: &mut Outside) -> Option<(Draft, Vec<Waiting>)> {
        let mut batch = Batch::default();
        let mut waiting = Vec::new();
        let most = 1 + out.chance.below(6);
        while let Some((portion, _)) = self.intake.0.front() {
            if waiting.len() as u64 >= most || !batch.takes(portion, &settings()) {
                break;
            }
            let Some((portion, from)) = self.intake.0.pop_front() else {
                break;
            };
            let ended = portion.facts.iter().filter_map(|fact| match fact {
                Fact::Ended { run, .. } => Some(run.clone()),
                _ => None,
            });
            waiting.push(Waiting {
                from,
                ids: portion.frames.payloads().map(id_of).collect(),
                route: portion.route.clone(),
                ended: ended.collect(),
            });
            batch.add(portion);
        }
        (!waiting.is_empty()).then(|| (batch.close(3), waiting))
    }

    fn commit(&mut self, out: &mut Outside) {
        if let Err(error) = self.writer.commit(out.now.wall) {
            self.retry_at = out.now.tick.after(RETRY_EVERY);
            self.publish(Some(error.to_string()), out);
            return;
        }
        for (first, waiting) in std::mem::take(&mut self.appended) {
            for (seq, id) in (first..).zip(waiting.ids) {
                out.oracle.captured(seq, id, waiting.route.outputs());
            }
            out.trace(|| format!("captured {first} {:?}", waiting.from));
            for run in &waiting.ended {
                out.oracle.ended(run);
            }
            self.answer(waiting.from, out);
        }
        check_accounts(&locked(&self.ledger));
        self.publish(None, out);
    }

    fn answer(&mut self, from: From, out: &mut Outside) {
        match from {
            From::Run(run) => {
                let Some(running) = self.runs.get_mut(&run) else {
                    return;
                };
                let (portions, ended) = running.captured(out);
                for portion in portions {
                    self.intake.push(portion, From::Run(run.clone()));
                }
                if let Some(ended) = ended {
                    self.runs.remove(&run);
                    self.note(Note::RunEnded(ended), out);
                }
            }
            From::Interrupted(run) => self.note(Note::Closed { run }, out),
            other => self.files.told(&other),
        }
    }

    /// The program ends well: the queue is closed.
    pub(super) fn close(mut self, out: &Outside) {
        drop(self.writer.sync(out.now.wall));
        drop(self.writer.checkpoint());
    }

    pub(super) fn stop(&mut self, out: &mut Outside) {
        self.note(Note::Signal(Signal::Terminate), out);
    }

    /// Whether there is nothing left to do: no run, nothing to capture, nothing to send.
    pub(super) fn is_quiet(&self) -> bool {
        self.runs.is_empty()
            && self.intake.0.is_empty()
            && self.held.is_none()
            && self.appended.is_empty()
            && self
                .outputs
                .iter()
                .all(|output| output.is_through(self.writer.captured_seq()))
            && locked(&self.ledger)
                .files
                .values()
                .all(|past| past.release.is_none())
    }

    /// Whether a file is kept for good, since an output passed events of it without an ACK.
    pub(super) fn keeps(&self, inode: u64) -> bool {
        let ledger = locked(&self.ledger);
        let mut of_it = ledger
            .files
            .values()
            .filter(|past| past.of.id.inode == inode);
        of_it.any(|past| past.kept.is_some() && ledger.spoilt.values().any(|one| one.total > 0))
    }

    pub(super) fn describe(&self) -> String {
        format!(
            "runs {:?}, intake {}, held {}, appended {}, cursors {:?}, next {}, level {:?}",
            self.runs.keys(),
            self.intake.0.len(),
            self.held.is_some(),
            self.appended.len(),
            self.marks,
            self.writer.captured_seq(),
            self.level,
        )
    }
}

#[derive(Debug)]
enum Turn {
    Queue,
    Supervisor,
    Look,
    Run(RunId),
    Output(usize),
    Grown(usize),
}

/// The first two identities of the accounts.
fn check_accounts(ledger: &Ledger) {
    let counters = ledger.counters;
    assert_eq!(
        counters.framed + counters.created,
        ledger.queued(),
        "P17: every event that was made is in the log"
    );
    assert_eq!(
        counters.bytes_read,
        counters.bytes_framed + counters.bytes_cut,
        "P17: every byte that was read is accounted for"
    );
}

/// All events that the log holds; `None` when the disk does not let us look.
fn log_of(
    disk: &Arc<dyn Disk>,
    dir: &Path,
    end: Position,
) -> Option<Vec<(u64, String, Vec<String>)>> {
    let mut reader = LogReader::new(Arc::clone(disk), dir, Position::default());
    let mut events = Vec::new();
    while let Some(found) = reader.next(end).ok()? {
        let body = reader.body(&found).ok()?;
        let body = Body::read(&body.expect("P7: a record was damaged")).expect("P7: a bad body");
        if found.header.count == 0 {
            continue;
        }
        let outputs = body.route.outputs().to_vec();
        let stored = StoredEvents {
            bytes: body.events,
            count: found.header.count,
            raw_bytes: found.header.raw_bytes,
            zlib: found.header.zlib,
        };
        let frames = stored.frames().expect("P7: bad frames");
        for (seq, payload) in (found.header.seq..).zip(frames.payloads()) {
            events.push((seq, id_of(payload), outputs.clone()));
        }
    }
    Some(events)
}
