//! The queue's driver: the intake's task, the writer's thread, and what others may ask them.
//!
//! Hand-over 1 ends here: portions come in by a bounded channel, are joined, deflated on other
//! threads in order, and appended by the one writer thread, which syncs once for all that waits
//! (group commit) and then answers every source. Knows nothing of jobs and outputs.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::sync::oneshot;
use tokio::sync::watch;

use super::Captured;
use super::Durability;
use super::OnFull;
use super::Refused;
use super::Settings;
use super::batch::Batch;
use super::cursor::Cursor;
use super::cursor::CursorFile;
use super::fact::Fact;
use super::fact::Portion;
use super::ledger::Ledger;
use super::locked;
use super::readers;
use super::readers::Reader;
use super::record::Draft;
use super::record::Record;
use super::recover::OpenError;
use super::recover::OpenReport;
use super::segment::Position;
use super::writer::AppendError;
use super::writer::Pressure;
use super::writer::Writer;
use crate::clock;
use crate::clock::Tick;
use crate::disk::Disk;
use crate::event::Seq;

/// Portions that wait for the batcher. Sources hold their own limits in bytes; this one only keeps
/// the channel from growing with the number of sources.
const PORTIONS_WAITING_MAX: usize = 256;

/// Batches between the batcher and the writer: enough to deflate on every core while one is synced,
/// few enough that they are at most 16 MiB.
const BATCHES_WAITING_MAX: usize = 4;

/// Most bytes that share one sync: above, the first source would wait too long for its answer.
const GROUP_BYTES_MAX: u64 = 8 << 20;

/// How often the writer looks after checkpoints and retention when nothing is appended.
const TIDY_EVERY: Duration = Duration::from_secs(1);

/// How soon an append that found no room is tried again.
const RETRY_EVERY: Duration = Duration::from_millis(100);

/// How soon it is tried again while outputs give up events: they need no longer.
const GIVE_UP_EVERY: Duration = Duration::from_millis(5);

type Answer = oneshot::Sender<Result<Seq, Refused>>;

/// The door to the queue: cheap to clone, one per source.
#[derive(Debug, Clone)]
pub struct Intake {
    portions: mpsc::Sender<(Portion, Answer)>,
    /// Facts on their way that may use the reserve.
    vital: Arc<AtomicUsize>,
}

/// The far end of an intake.
pub type Portions = mpsc::Receiver<(Portion, Answer)>;

impl Intake {
    /// An intake and the end that portions are taken from; at most `depth` portions wait between them.
    #[must_use]
    pub fn channel(depth: usize) -> (Self, Portions) {
        let (portions, taken) = mpsc::channel(depth);
        let vital = Arc::default();
        (Self { portions, vital }, taken)
    }

    /// Hands a portion over; waits while the queue is busy or full (this is the back-pressure).
    /// The order of one caller's portions is kept.
    ///
    /// # Errors
    /// [`Refused::Closed`] when the queue is gone.
    pub async fn submit(&self, portion: Portion) -> Result<Captured, Refused> {
        let (answer, captured) = oneshot::channel();
        let place = self.portions.reserve().await;
        let place = place.map_err(|_| Refused::Closed)?;
        self.vital
            .fetch_add(vital(&portion.facts), Ordering::Relaxed);
        place.send((portion, answer));
        Ok(captured)
    }
}

/// How many facts may use the reserve.
fn vital(facts: &[Fact]) -> usize {
    facts.iter().filter(|fact| fact.is_vital()).count()
}

/// How full the queue is and how far it is captured; changes with each commit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Level {
    /// Bytes that some output has not passed yet for which the queue holds them.
    pub held_bytes: u64,
    /// Bytes that some output has not passed yet, also those for which the queue does not hold them.
    pub waiting_bytes: u64,
    /// Bytes of all segments.
    pub total_bytes: u64,
    /// How many bytes may be held.
    pub max_bytes: u64,
    /// How many segments there are.
    pub segments: u64,
    /// The end of what is captured: outputs read up to here.
    pub end: Position,
    /// Number of the next event.
    pub next_seq: u64,
    /// Outputs that the queue does not hold for give up what they have not passed before this event.
    pub given_up: u64,
    /// Why nothing can be captured at the moment.
    pub stuck: Option<String>,
}

impl Level {
    /// How full the queue is, in percent.
    #[must_use]
    pub fn percent(&self) -> u64 {
        self.held_bytes.saturating_mul(100) / self.max_bytes.max(1)
    }
}

/// The durable cursors of the outputs that hold the queue.
pub type Marks = Arc<Mutex<BTreeMap<String, Cursor>>>;

/// A queue that is open and served.
#[derive(Debug)]
pub struct Queue {
    intake: Intake,
    level: watch::Receiver<Level>,
    ledger: Arc<Mutex<Ledger>>,
    marks: Marks,
    frozen: Marks,
    abandoned: Arc<AtomicBool>,
    thread: std::thread::JoinHandle<()>,
    finished: oneshot::Receiver<()>,
}

/// What an output needs to read the queue.
#[derive(Debug)]
pub struct Tap {
    /// The output.
    pub output: String,
    /// The disk.
    pub disk: Arc<dyn Disk>,
    /// The queue's folder.
    pub dir: PathBuf,
    /// How far it may read.
    pub level: watch::Receiver<Level>,
    /// Where it says how far it is, durably.
    pub marks: Marks,
    /// Whether it gives up events when the queue is full.
    pub gives_up: bool,
    /// Where its cursor is stored.
    pub file: CursorFile,
    /// How far it is.
    pub cursor: Cursor,
}

/// How a queue is opened and where it lies.
#[derive(Debug)]
pub struct Start<'a> {
    /// The disk.
    pub disk: Arc<dyn Disk>,
    /// The queue's folder.
    pub dir: &'a Path,
    /// `[queue]`.
    pub settings: Settings,
    /// The outputs that it holds events for.
    pub outputs: &'a [Reader],
}

impl Queue {
    /// Opens the queue and starts to serve it. The caller holds the root's lock.
    ///
    /// # Errors
    /// [`OpenError`].
    pub fn start(
        start: Start<'_>,
        runtime: &tokio::runtime::Handle,
    ) -> Result<(Self, Vec<Tap>, OpenReport), OpenError> {
        let Start {
            disk,
            dir,
            settings,
            outputs,
        } = start;
        let at_dir = |error| OpenError::Disk {
            path: dir.to_path_buf(),
            error,
        };
        let (writer, report) = Writer::open(disk.clone(), dir, settings.clone(), clock::now())?;
        let cursors = readers::open_cursors(&disk, dir, &writer, outputs)?;
        let marks: Marks = Arc::new(Mutex::new(
            outputs
                .iter()
                .map(|reader| reader.output.clone())
                .zip(cursors.iter().map(|(_, cursor)| *cursor))
                .collect(),
        ));
        let frozen = readers::freeze(&disk, dir, outputs, writer.captured_seq()).map_err(at_dir)?;
        let ledger = writer.ledger();
        let abandoned = Arc::new(AtomicBool::new(false));
        let (level_tx, level) =
            watch::channel(level_of(&writer, <[Position; 2]>::default(), 0, None));
        let blocks = settings.on_full == OnFull::Block;
        let holds = |reader: &&Reader| blocks && reader.required;
        let holders = outputs.iter().filter(holds);
        let (intake, portions) = Intake::channel(PORTIONS_WAITING_MAX);
        let (drafts_tx, drafts) = mpsc::channel(BATCHES_WAITING_MAX);
        let (finished_tx, finished) = oneshot::channel();
        let server = Server {
            writer,
            settings: settings.clone(),
            marks: marks.clone(),
            abandoned: abandoned.clone(),
            vital: intake.vital.clone(),
            level: level_tx,
            last_tidy: Tick::default(),
            last_sync: Tick::default(),
            untidy: false,
            holders: holders.map(|reader| reader.output.clone()).collect(),
            given_up: 0,
            given_up_at: Position::default(),
        };
        server.publish(None);
        runtime.spawn(batch_portions(portions, drafts_tx, settings));
        let handle = runtime.clone();
        let thread = std::thread::Builder::new()
            .name("queue".to_owned())
            .spawn(move || {
                server.serve(drafts, &handle);
                drop(finished_tx);
            })
            .map_err(at_dir)?;
        let tap = |(reader, (file, cursor)): (&Reader, (CursorFile, Cursor))| Tap {
            output: reader.output.clone(),
            disk: disk.clone(),
            dir: dir.to_path_buf(),
            level: level.clone(),
            marks: marks.clone(),
            gives_up: !holds(&reader),
            file,
            cursor,
        };
        let taps = outputs.iter().zip(cursors).map(tap).collect();
        Ok((
            Self {
                intake,
                level,
                ledger,
                marks,
                frozen: Arc::new(Mutex::new(frozen)),
                abandoned,
                thread,
                finished,
            },
            taps,
            report,
        ))
    }

    /// A door for a source.
    #[must_use]
    pub fn intake(&self) -> Intake {
        self.intake.clone()
    }

    /// How full it is, to watch.
    #[must_use]
    pub fn level(&self) -> watch::Receiver<Level> {
        self.level.clone()
    }

    /// What all captured records add up to, to look at for a moment.
    #[must_use]
    pub fn ledger(&self) -> Arc<Mutex<Ledger>> {
        self.ledger.clone()
    }

    /// How far every output is, durably, to look at for a moment.
    #[must_use]
    pub fn marks(&self) -> Marks {
        self.marks.clone()
    }

    /// How far the outputs were that left the configuration, to look at for a moment.
    #[must_use]
    pub fn frozen(&self) -> Marks {
        self.frozen.clone()
    }

    /// Closes the door and waits until everything handed over is on disk, with a checkpoint.
    /// What is still not on disk after `patience` (a full or failing disk) is refused to its sources.
    /// Returns only when every other [`Intake`] is gone too, or after `patience`.
    pub async fn close(self, patience: Duration) {
        let Self {
            intake,
            thread,
            abandoned,
            finished,
            ..
        } = self;
        drop(intake);
        if clock::within(patience, finished).await.is_none() {
            tracing::error!(
                "the queue's disk did not take everything in time; what was not captured is given up"
            );
            abandoned.store(true, Ordering::Relaxed);
            return;
        }
        if thread.join().is_err() {
            tracing::error!("the queue's writer had panicked; what was captured is on disk");
        }
    }
}

/// A batch, its record, and who waits for it.
type Closed = (Draft, Result<Record, String>, Vec<(Answer, u32)>);

/// A batch that is being closed, and how many of its facts may use the reserve.
type Handed = (usize, oneshot::Receiver<Closed>);

/// Joins portions and closes batches: full ones at once, the rest when nothing more is waiting.
async fn batch_portions(mut portions: Portions, drafts: mpsc::Sender<Handed>, settings: Settings) {
    while let Some(first) = portions.recv().await {
        let mut batch = Batch::default();
        let mut answers = Vec::new();
        let mut next = Some(first);
        while let Some((portion, answer)) = next {
            if !batch.takes(&portion, &settings) {
                let full = std::mem::take(&mut batch);
                if hand_over(full, std::mem::take(&mut answers), &drafts, &settings)
                    .await
                    .is_none()
                {
                    return;
                }
            }
            answers.push((answer, portion.frames.count()));
            batch.add(portion);
            next = portions.try_recv().ok();
        }
        if hand_over(batch, answers, &drafts, &settings)
            .await
            .is_none()
        {
            return;
        }
    }
}

/// Sends a batch to the writer, in order; large ones are made records of on another thread meanwhile.
async fn hand_over(
    batch: Batch,
    answers: Vec<(Answer, u32)>,
    drafts: &mpsc::Sender<Handed>,
    settings: &Settings,
) -> Option<()> {
    // The place in the order is taken first, so that at most BATCHES_WAITING_MAX are deflated at a time.
    let place = drafts.reserve().await.ok()?;
    let (closed_tx, closed) = oneshot::channel();
    let level = settings.compression_level;
    let large = batch.is_large();
    let vital = vital(batch.facts());
    let close = move || {
        let mut draft = batch.close(level);
        let record = draft.take_record();
        drop(closed_tx.send((draft, record, answers)));
    };
    if large {
        tokio::task::spawn_blocking(close);
    } else {
        close();
    }
    place.send((vital, closed));
    Some(())
}

struct Server {
    writer: Writer,
    settings: Settings,
    marks: Marks,
    abandoned: Arc<AtomicBool>,
    /// As in [`Intake`].
    vital: Arc<AtomicUsize>,
    level: watch::Sender<Level>,
    last_tidy: Tick,
    last_sync: Tick,
    /// Whether it was said that tidying fails.
    untidy: bool,
    /// The outputs that never give up an event.
    holders: BTreeSet<String>,
    /// As in [`Level`].
    given_up: u64,
    /// Where that event's segment begins.
    given_up_at: Position,
}

impl Server {
    fn serve(mut self, mut drafts: mpsc::Receiver<Handed>, runtime: &tokio::runtime::Handle) {
        loop {
            let wait = self.wait();
            match runtime.block_on(clock::within(wait, drafts.recv())) {
                Some(Some(first)) => self.group(first, &mut drafts, runtime),
                Some(None) => break,
                None => {}
            }
            self.look_after();
        }
        if let Err(error) = self.writer.sync(clock::now()) {
            tracing::error!(%error, "the last sync failed");
        }
        if let Err(error) = self.writer.checkpoint() {
            tracing::warn!(%error, "no checkpoint was written at the end; the next start reads more of the log");
        }
    }

    fn wait(&self) -> Duration {
        match self.settings.durability {
            Durability::Sync => TIDY_EVERY,
            Durability::Interval(interval) => TIDY_EVERY.min(interval),
        }
    }

    /// Appends what is waiting, syncs once, answers all.
    fn group(
        &mut self,
        first: Handed,
        drafts: &mut mpsc::Receiver<Handed>,
        runtime: &tokio::runtime::Handle,
    ) {
        let mut answers: Vec<(Answer, u64)> = Vec::new();
        let mut bytes = 0;
        // What comes while these are appended is for the next sync: else all that sources may have
        // underway would be in this one, and nothing be made ready beside it.
        let mut waiting_max = drafts.len();
        let mut next = Some(first);
        while let Some((vital, closed)) = next {
            let closed = runtime.block_on(closed);
            self.vital.fetch_sub(vital, Ordering::Relaxed);
            // The sender is dropped only when deflating panicked: its sources then hear "closed".
            if let Ok((draft, record, waiting)) = closed {
                bytes += record.as_ref().map_or(0, Record::len);
                match record.and_then(|record| self.append(&draft, record, &waiting)) {
                    Ok(last) => {
                        let mut seq = last + 1 - u64::from(draft.events.count);
                        for (answer, count) in waiting {
                            seq += u64::from(count);
                            answers.push((answer, seq - 1));
                        }
                    }
                    Err(why) => {
                        tracing::error!(%why, "a batch cannot be queued");
                        for (answer, _) in waiting {
                            drop(answer.send(Err(Refused::Broken(why.clone()))));
                        }
                    }
                }
            }
            next = if waiting_max > 0 && bytes < GROUP_BYTES_MAX {
                waiting_max -= 1;
                drafts.try_recv().ok()
            } else {
                None
            };
        }
        self.commit();
        self.publish(None);
        for (answer, seq) in answers {
            // A source that went away does not want to know.
            drop(answer.send(Ok(Seq(seq))));
        }
    }

    /// Appends, waiting as long as it takes: the queue is full, or its disk is.
    fn append(
        &mut self,
        draft: &Draft,
        record: Record,
        waiting: &[(Answer, u32)],
    ) -> Result<u64, String> {
        let mut record = Some(record);
        let mut said = false;
        loop {
            let behind = self.vital.load(Ordering::Relaxed);
            let appended = self
                .writer
                .append_record(draft, &mut record, behind, clock::now());
            match appended {
                Ok(last) => return Ok(last),
                Err(AppendError::Impossible(why)) => return Err(why),
                // At a stop: sources that were given up wait for no answer, and nothing was promised.
                Err(refused)
                    if self.abandoned.load(Ordering::Relaxed)
                        || waiting.iter().all(|(answer, _)| answer.is_closed()) =>
                {
                    return Err(refused.to_string());
                }
                Err(refused) => {
                    // What was appended before must not wait for room: outputs may have to pass it first.
                    self.commit();
                    if !said {
                        tracing::warn!(why = %refused, "nothing can be captured; sources wait");
                        said = true;
                    }
                    self.tidy(Pressure::Pressed);
                    let gives_up = refused.is_full() && self.give_up();
                    self.publish(Some(refused.to_string()));
                    clock::pause(if gives_up { GIVE_UP_EVERY } else { RETRY_EVERY });
                }
            }
        }
    }

    /// Commits, waiting as long as it takes: an event is captured only when it is on disk. The caller
    /// publishes what that makes readable.
    fn commit(&mut self) {
        if let Durability::Interval(_) = self.settings.durability {
            self.writer.trust_page_cache();
        }
        let mut said = false;
        while let Err(error) = self.writer.commit(clock::now()) {
            if self.abandoned.load(Ordering::Relaxed) {
                return;
            }
            if !said {
                tracing::error!(%error, "events cannot be made durable; sources wait");
                said = true;
            }
            self.publish(Some(format!("events cannot be made durable: {error}")));
            clock::pause(RETRY_EVERY);
        }
    }

    fn look_after(&mut self) {
        let now = clock::tick();
        if let Durability::Interval(interval) = self.settings.durability
            && now.since(self.last_sync) >= interval
        {
            self.last_sync = now;
            // The writer says it, once in a while; the next interval tries again.
            drop(self.writer.sync(clock::now()));
        }
        // A second of a fast disk is a gigabyte. Where tidying fails it is not tried with each commit.
        let grown = self.writer.needs_checkpoint() && !self.untidy;
        if grown || now.since(self.last_tidy) >= TIDY_EVERY {
            self.last_tidy = now;
            self.tidy(Pressure::None);
            self.publish(None);
        }
    }

    fn tidy(&mut self, pressure: Pressure) {
        let passed = self.passed();
        let tidied = self.writer.tidy(passed, pressure, clock::now());
        // Said once: on a full disk it is tried ten times a second, perhaps for days.
        if let (Err(error), false) = (&tidied, self.untidy) {
            tracing::warn!(%error, "the queue could not be tidied; it is tried again");
        }
        self.untidy = tidied.is_err();
    }

    /// Has the oldest segment given up, if only outputs need it for which the queue does not hold it.
    /// Returns whether it has to; when they have passed it, durably, it is removed as any other.
    fn give_up(&mut self) -> bool {
        let (oldest, next, seq) = match self.writer.oldest_sealed() {
            Ok(Some(found)) => found,
            Ok(None) => return false,
            Err(error) => {
                tracing::warn!(%error, "the oldest segment of the queue cannot be given up");
                return false;
            }
        };
        let gives_up = oldest < self.holding().segment;
        if gives_up {
            self.given_up = seq;
            self.given_up_at.segment = next;
        }
        gives_up
    }

    /// How far the outputs are that never give up an event; the end when there is none.
    fn holding(&self) -> Position {
        let marks = locked(&self.marks);
        let held = marks
            .iter()
            .filter(|(output, _)| self.holders.contains(*output));
        held.map(|(_, cursor)| cursor.at)
            .min()
            .unwrap_or_else(|| self.writer.durable_end())
    }

    /// How far all outputs are; an empty table (no output has begun yet) lets go of nothing.
    fn passed(&self) -> Position {
        locked(&self.marks)
            .values()
            .map(|cursor| match cursor.seq >= self.given_up {
                // It may still stand at the end of a segment of which it has passed all.
                true => cursor.at.max(self.given_up_at),
                false => cursor.at,
            })
            .min()
            .unwrap_or_default()
    }

    fn publish(&self, stuck: Option<String>) {
        let level = level_of(
            &self.writer,
            [self.holding(), self.passed()],
            self.given_up,
            stuck,
        );
        self.level.send_if_modified(|now| {
            let changed = *now != level;
            *now = level;
            changed
        });
    }
}

/// How full a queue is of which the outputs that it holds for have passed all before `holding`, all
/// outputs what is before `passed`.
fn level_of(
    writer: &Writer,
    [holding, passed]: [Position; 2],
    given_up: u64,
    stuck: Option<String>,
) -> Level {
    let (held_bytes, max_bytes) = writer.held_bytes(holding);
    let (waiting_bytes, _) = writer.held_bytes(passed);
    Level {
        held_bytes,
        waiting_bytes,
        total_bytes: writer.total_bytes(),
        max_bytes,
        segments: writer.segments(),
        end: writer.durable_end(),
        next_seq: writer.captured_seq(),
        given_up,
        stuck,
    }
}
