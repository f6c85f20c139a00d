//! What it costs to make events durable: the queue's writer against a plain program.
//!
//! First the writer alone, which appends and commits records of events of 300 bytes; then the whole
//! queue, where sources on other threads hand events over, as many at a time as runs do. Which
//! records shared a sync is read from the log afterwards; the plain program then appends blocks of just
//! those sizes to a file of the same folder, with one write and one fdatasync each. The goal is for
//! events that are stored as they are: where they are deflated, deflating is what costs. One source that
//! hands over single events measures how long threads take to wake each other, beside the sync.
//! `cargo bench --bench queue`, or `-- "32 sources"` for the rows of that name; `SPOOLBEAT_BENCH_BYTES`
//! sets the bytes of a run (256 MiB).

#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a benchmark prints, and ends at the first fault"
)]

use std::collections::VecDeque;
use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use std::time::Instant;

use spoolbeat::clock;
use spoolbeat::disk::Disk;
use spoolbeat::disk::OsDisk;
use spoolbeat::event::Frames;
use spoolbeat::event::Stream;
use spoolbeat::queue::Captured;
use spoolbeat::queue::Counters;
use spoolbeat::queue::Durability;
use spoolbeat::queue::Intake;
use spoolbeat::queue::OnFull;
use spoolbeat::queue::Part;
use spoolbeat::queue::Portion;
use spoolbeat::queue::Position;
use spoolbeat::queue::Queue;
use spoolbeat::queue::Settings;
use spoolbeat::queue::Start;
use spoolbeat::queue::log::LogReader;
use spoolbeat::queue::record::Draft;
use spoolbeat::queue::record::StoredEvents;
use spoolbeat::queue::writer::Writer;
use spoolbeat::units::Timestamp;
use tokio::runtime::Runtime;

const EVENT_BYTES: usize = 300;

/// Most commits of a run: where each holds little, the run ends before its bytes are written.
const COMMITS_MAX: u64 = 3000;

/// Rates are the best of so many runs, ours and theirs in turn; a ratio is the median of those of the
/// pairs, whose runs met the disk in the same mood.
const ROUNDS: usize = 7;

/// Of the plain program's bytes per second.
const GOAL: f64 = 0.8;

/// What the writer commits: so many records of so many events each.
const RECORDS: [(u32, u32); 4] = [(1, 1), (1, 64), (1, 1024), (2, 2048)];

/// Who hands over: so many sources, each so many events at a time. One half of several sources waits
/// for the commit that is under way, the other half for the next one.
const SOURCES: [(u64, u32); 5] = [(1, 1), (128, 1), (32, 64), (2, 1024), (4, 2048)];

/// As `[queue]` is by default, which is 3, and without.
const LEVELS: [u32; 2] = [0, 3];

/// Patience with a queue that closes.
const CLOSE: Duration = Duration::from_secs(60);

fn main() {
    let bytes: u64 = std::env::var("SPOOLBEAT_BENCH_BYTES")
        .ok()
        .and_then(|n| n.parse().ok())
        .unwrap_or(256 << 20);
    let work = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .unwrap();
    println!(
        "events of {EVENT_BYTES} bytes made durable, best of {ROUNDS}, ratio of the median pair; MB/s on the disk"
    );
    println!(
        "{:41} {:>9} {:>6} {:>6} {:>6} {:>6}",
        "", "KB/commit", "ours", "plain", "ratio", "goal"
    );
    for (records, events) in RECORDS {
        let name = format!("writer alone, {records} records of {events} events");
        report(&name, true, work.path(), || {
            alone(work.path(), (records, events), bytes)
        });
    }
    for level in LEVELS {
        for sources in SOURCES {
            let name = format!(
                "level {level}, {} sources of {} events",
                sources.0, sources.1
            );
            report(&name, level == 0, work.path(), || {
                ours(&runtime, work.path(), sources, level, bytes)
            });
        }
    }
}

/// Prints a line: rounds of ours, each followed by the plain program's.
fn report(name: &str, has_goal: bool, work: &Path, ours: impl Fn() -> (Cost, Vec<u64>)) {
    // Cargo adds `--bench`.
    let mut only = std::env::args().skip(1).filter(|arg| !arg.starts_with('-'));
    if only.any(|only| !name.contains(&only)) {
        return;
    }
    let round = |_| {
        let (cost, blocks) = ours();
        (cost, plain(work, &blocks))
    };
    let rounds: Vec<(Cost, Cost)> = (0..ROUNDS).map(round).collect();
    let best = |of: fn(&(Cost, Cost)) -> Cost| {
        let costs = rounds.iter().map(of);
        costs.max_by(|a, b| a.rate.total_cmp(&b.rate)).unwrap()
    };
    let (ours, plain) = (best(|pair| pair.0), best(|pair| pair.1));
    let mut ratios: Vec<f64> = rounds
        .iter()
        .map(|(ours, plain)| ours.rate / plain.rate)
        .collect();
    ratios.sort_by(f64::total_cmp);
    let ratio = ratios[ROUNDS / 2];
    let verdict = match has_goal {
        true if ratio >= GOAL => format!("{GOAL:>6} met"),
        true => format!("{GOAL:>6} missed"),
        false => format!("{:>6}", "-"),
    };
    println!(
        "{name:41} {:>9.1} {:>6.1} {:>6.1} {ratio:>6.2} {verdict}; {:.0} events/s",
        ours.block / 1e3,
        ours.rate / 1e6,
        plain.rate / 1e6,
        ours.events / ours.took,
    );
}

/// What a run came to.
#[derive(Clone, Copy)]
struct Cost {
    /// Bytes on the disk per second.
    rate: f64,
    /// Bytes of a commit, on average.
    block: f64,
    events: f64,
    took: f64,
}

impl Cost {
    fn new(blocks: &[u64], events: u64, took: Duration) -> Self {
        let (bytes, took) = (blocks.iter().sum::<u64>() as f64, took.as_secs_f64());
        Self {
            rate: bytes / took,
            block: bytes / blocks.len() as f64,
            events: events as f64,
            took,
        }
    }
}

/// Fills a new queue without its driver; returns the sizes of its commits too.
fn alone(work: &Path, (records, events): (u32, u32), bytes: u64) -> (Cost, Vec<u64>) {
    let folder = tempfile::tempdir_in(work).unwrap();
    let disk: Arc<dyn Disk> = Arc::new(OsDisk);
    let now = clock::now();
    let (mut writer, _) = Writer::open(disk.clone(), folder.path(), settings(0), now).unwrap();
    let portion = portion(events);
    let draft = Draft {
        events: StoredEvents {
            raw_bytes: u32::try_from(portion.frames.bytes().len()).unwrap(),
            count: events,
            bytes: portion.frames.into_bytes(),
            zlib: false,
        },
        route: portion.route,
        parts: portion.parts,
        facts: portion.facts,
        counters: portion.counters,
    };
    let commit_events = u64::from(records * events);
    let commits = (bytes / (commit_events * EVENT_BYTES as u64)).min(COMMITS_MAX);
    let started = Instant::now();
    for _ in 0..commits {
        for _ in 0..records {
            writer.append(&draft, now).unwrap();
        }
        writer.commit(now).unwrap();
    }
    let took = started.elapsed();
    let blocks = self::commits(disk, folder.path(), writer.durable_end());
    (Cost::new(&blocks, commits * commit_events, took), blocks)
}

/// Fills a new queue; returns the sizes of its commits too.
fn ours(
    runtime: &Runtime,
    work: &Path,
    (sources, events): (u64, u32),
    level: u32,
    bytes: u64,
) -> (Cost, Vec<u64>) {
    let folder = tempfile::tempdir_in(work).unwrap();
    let disk: Arc<dyn Disk> = Arc::new(OsDisk);
    let (queue, ..) = Queue::start(
        Start {
            disk: disk.clone(),
            dir: folder.path(),
            settings: settings(level),
            outputs: &[],
        },
        runtime.handle(),
    )
    .unwrap();
    let portion_bytes = u64::from(events) * EVENT_BYTES as u64;
    // Two commits of all sources are as many as two portions of each.
    let each = (bytes / portion_bytes).min(COMMITS_MAX * sources.div_ceil(2)) / sources;
    let portion = portion(events);
    let level = queue.level();
    let took = runtime.block_on(async {
        // The plain program's bytes are there too when its clock starts.
        let made: Vec<Vec<Portion>> = (0..sources)
            .map(|_| (0..each).map(|_| portion.clone()).collect())
            .collect();
        let started = Instant::now();
        let tasks: Vec<_> = made
            .into_iter()
            .map(|portions| tokio::spawn(source(queue.intake(), portions)))
            .collect();
        for task in tasks {
            task.await.unwrap();
        }
        let took = started.elapsed();
        queue.close(CLOSE).await;
        took
    });
    let blocks = commits(disk, folder.path(), level.borrow().end);
    (
        Cost::new(&blocks, sources * each * u64::from(events), took),
        blocks,
    )
}

fn settings(compression_level: u32) -> Settings {
    Settings {
        max_bytes: 10 << 30,
        retain_age: Duration::from_secs(24 * 60 * 60),
        retain_bytes: 1 << 30,
        durability: Durability::Sync,
        batch_events: 2048,
        batch_bytes: 1 << 20,
        flush: Duration::from_millis(100),
        compression_level,
        on_full: OnFull::Block,
    }
}

/// Portions that a run, a file or a connection hands over before the first must have been captured.
const UNCAPTURED_MAX: usize = 4;

/// Hands over, and waits until it is captured, as those do.
async fn source(intake: Intake, portions: Vec<Portion>) {
    let mut underway = VecDeque::new();
    for portion in portions {
        if underway.len() >= UNCAPTURED_MAX {
            captured(&mut underway).await;
        }
        underway.push_back(intake.submit(portion).await.unwrap());
    }
    while !underway.is_empty() {
        captured(&mut underway).await;
    }
}

async fn captured(underway: &mut VecDeque<Captured>) {
    underway.pop_front().unwrap().await.unwrap().unwrap();
}

/// Log events as they deflate in practice.
fn portion(count: u32) -> Portion {
    const WORDS: [&str; 10] = [
        "accepted", "denied", "session", "user", "from", "port", "opened", "closed", "policy",
        "rule",
    ];
    let mut seed = 7_u64;
    let mut chance = |below: u64| {
        seed = seed
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (seed >> 33) % below
    };
    let mut frames = Frames::default();
    for n in 0..count {
        let mut event = format!("{{\"log\":{{\"offset\":{}}},\"message\":\"", n * 131);
        while event.len() < EVENT_BYTES - 2 {
            event.push_str(WORDS[usize::try_from(chance(10)).unwrap()]);
            let bits = 8 * (1 + chance(2));
            event.push_str(&format!("={:x} ", chance(1 << bits)));
        }
        event.truncate(EVENT_BYTES - 2);
        event.push_str("\"}");
        frames.push(|out| out.extend_from_slice(event.as_bytes()));
    }
    let bytes = u64::from(count) * EVENT_BYTES as u64;
    let at = Timestamp(1_795_000_000_000);
    Portion {
        frames,
        parts: vec![Part {
            job: "bench".into(),
            stream: Stream::Stdout,
            count,
            first: at,
            last: at,
        }],
        counters: Counters {
            framed: u64::from(count),
            bytes_read: bytes,
            bytes_framed: bytes,
            ..Counters::default()
        },
        ..Portion::default()
    }
}

/// The sizes of what was synced at once: a record says whether all before it was durable already.
fn commits(disk: Arc<dyn Disk>, dir: &Path, end: Position) -> Vec<u64> {
    let mut log = LogReader::new(disk, dir, Position::default());
    let mut blocks = Vec::new();
    while let Some(found) = log.next(end).unwrap() {
        match blocks.last_mut() {
            Some(block) if !found.header.settled => *block += found.header.record_bytes(),
            _ => blocks.push(found.header.record_bytes()),
        }
    }
    blocks
}

/// The plain program.
fn plain(work: &Path, blocks: &[u64]) -> Cost {
    let largest = usize::try_from(*blocks.iter().max().unwrap()).unwrap();
    let bytes = vec![b'x'; largest];
    let path = work.join("plain");
    let started = Instant::now();
    let mut file = File::create_new(&path).unwrap();
    for block in blocks {
        let block = usize::try_from(*block).unwrap();
        file.write_all(&bytes[..block]).unwrap();
        file.sync_data().unwrap();
    }
    let took = started.elapsed();
    std::fs::remove_file(path).unwrap();
    Cost::new(blocks, 0, took)
}
