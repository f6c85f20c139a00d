//! A start with a large queue, and the backlog of a quiet day over a long line; takes minutes.
//!
//! The queues are written with the daemon's own encoder, which is much quicker than to run jobs for
//! days. `SPOOLBEAT_BACKLOG_GIB` sets the size of the large one (1).

#![expect(clippy::unwrap_used, reason = "tests")]

use std::io::Write;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use std::time::Instant;

use spoolbeat::disk::Disk;
use spoolbeat::disk::OsDisk;
use spoolbeat::event::Frames;
use spoolbeat::event::Route;
use spoolbeat::event::Stream;
use spoolbeat::fileid::FileId;
use spoolbeat::fileid::Head;
use spoolbeat::queue::Counters;
use spoolbeat::queue::Durability;
use spoolbeat::queue::Fact;
use spoolbeat::queue::FileFacts;
use spoolbeat::queue::OnFull;
use spoolbeat::queue::Part;
use spoolbeat::queue::Settings;
use spoolbeat::queue::cursor::Cursor;
use spoolbeat::queue::cursor::CursorFile;
use spoolbeat::queue::record::Draft;
use spoolbeat::queue::record::StoredEvents;
use spoolbeat::queue::writer::Writer;
use spoolbeat::units::Timestamp;

use crate::harness::Keep;
use crate::harness::Logstash;
use crate::harness::Proxy;
use crate::harness::SOON;
use crate::harness::Spool;
use crate::harness::wait_until;

/// A time of the year in which the tests are written.
const AT: Timestamp = Timestamp(1_763_712_488_123);

fn say(line: &str) {
    drop(writeln!(std::io::stderr(), "{line}"));
}

fn skipped(test: &str) -> bool {
    let slow = std::env::var_os("SPOOLBEAT_SLOW").is_some();
    if !slow {
        let how = "set SPOOLBEAT_SLOW=1 for tests that take minutes";
        drop(writeln!(std::io::stdout(), "SKIP {test}: {how}"));
    }
    !slow
}

fn settings() -> Settings {
    Settings {
        max_bytes: 1 << 40,
        retain_age: Duration::from_secs(86_400),
        retain_bytes: 1 << 40,
        durability: Durability::Sync,
        batch_events: 2048,
        batch_bytes: 1 << 20,
        flush: Duration::from_millis(100),
        compression_level: 0,
        on_full: OnFull::Block,
    }
}

/// A queue whose output has passed nothing.
fn make(dir: &Path) -> Writer {
    let (writer, _) = Writer::open(Arc::new(OsDisk), dir, settings(), AT).unwrap();
    let disk: Arc<dyn Disk> = Arc::new(OsDisk);
    let (mut file, _) = CursorFile::open(&disk, dir, "lumberjack").unwrap();
    let cursor = Cursor {
        at: writer.durable_end(),
        seq: 1,
        born: 1,
        ..Cursor::default()
    };
    file.sync(&cursor).unwrap();
    writer
}

/// Events of one job, numbered on from `first`.
fn events(job: &str, first: u64, count: u32, bytes: usize) -> Draft {
    let mut frames = Frames::default();
    for n in first..first + u64::from(count) {
        frames.push(|out| {
            let head = format!(
                "{{\"event\":{{\"id\":\"20261121-080808.123-7f3a9c01.o.{n}\"}},\"message\":\""
            );
            out.extend_from_slice(head.as_bytes());
            out.resize(out.len() + bytes, b'x');
            out.extend_from_slice(b"\"}");
        });
    }
    Draft {
        events: StoredEvents {
            count,
            raw_bytes: u32::try_from(frames.bytes().len()).unwrap(),
            bytes: frames.into_bytes(),
            zlib: false,
        },
        route: Route::to(vec!["lumberjack".into()]),
        parts: vec![Part {
            job: job.into(),
            stream: Stream::Stdout,
            count,
            first: AT,
            last: AT,
        }],
        facts: Vec::new(),
        counters: Counters {
            framed: u64::from(count),
            ..Counters::default()
        },
    }
}

/// Starts the daemon and says how long it took until it answered, and its memory at its highest.
fn start(spool: &mut Spool) -> (Duration, u64) {
    let started = Instant::now();
    spool.start();
    let mut took = Duration::ZERO;
    wait_until(SOON, "the daemon is ready", || {
        let ready = spool.status()["daemon"]["state"] == "running";
        took = started.elapsed();
        ready
    });
    (took, spool.peak_memory())
}

#[test]
fn slow_a_large_backlog_delays_the_start_by_nothing() {
    if skipped("slow_a_large_backlog_delays_the_start_by_nothing") {
        return;
    }
    let gib = std::env::var("SPOOLBEAT_BACKLOG_GIB");
    let gib: u64 = gib.ok().and_then(|gib| gib.parse().ok()).unwrap_or(1);
    let mut logstash = Logstash::new(Keep::Ids);
    logstash.close();
    let mut spool = Spool::new(logstash.port());
    spool.settings("[queue]\nmax_bytes = \"100GiB\"\n");
    let mut writer = make(&spool.root().join("queue"));
    let block = events("job", 1, 2048, 400);
    while writer.total_bytes() < gib << 30 {
        writer.append(&block, AT).unwrap();
        writer.commit(AT).unwrap();
        // As the daemon does.
        if writer.needs_checkpoint() {
            writer.checkpoint().unwrap();
        }
    }
    let bytes = writer.total_bytes();
    // As if it were killed: what came after the last checkpoint has to be read.
    drop(writer);
    let (took, peak) = start(&mut spool);
    let waiting = spool.status()["totals"]["waiting_events"].as_u64().unwrap();
    spool.stop();
    assert!(
        peak < 64 << 20,
        "the daemon's memory peaked at {peak} bytes"
    );
    say(&format!(
        "{bytes} bytes with {waiting} events waiting: ready after {took:?}, peak memory {} KiB",
        peak >> 10
    ));
}

#[test]
fn slow_100000_files_and_10000_jobs_in_the_ledger_delay_the_start_little() {
    if skipped("slow_100000_files_and_10000_jobs_in_the_ledger_delay_the_start_little") {
        return;
    }
    let mut logstash = Logstash::new(Keep::Ids);
    logstash.close();
    let mut spool = Spool::new(logstash.port());
    let mut writer = make(&spool.root().join("queue"));
    for job in 0..10_000 {
        let mut draft = events(&format!("job-{job}"), job + 1, 1, 200);
        draft.facts = (0..10)
            .map(|n| read(&format!("job-{job}"), job * 10 + n))
            .collect();
        writer.append(&draft, AT).unwrap();
    }
    writer.commit(AT).unwrap();
    writer.checkpoint().unwrap();
    drop(writer);
    let (took, peak) = start(&mut spool);
    spool.stop();
    say(&format!(
        "100,000 files of 10,000 jobs: ready after {took:?}, peak memory {} KiB",
        peak >> 10
    ));
}

fn read(job: &str, file: u64) -> Fact {
    Fact::Read {
        file: format!("{file:016x}"),
        of: FileFacts {
            job: job.to_owned(),
            path: format!("/var/log/applications/{job}/{file}.log"),
            id: FileId {
                device: 1,
                inode: file,
                born: AT.0 * 1_000_000,
            },
            head: Head::default(),
            outputs: vec!["lumberjack".to_owned()],
            waits_for: vec!["lumberjack".to_owned()],
            at: AT.0,
        },
        from: 0,
        to: 1 << 20,
        before: 0,
        events: 0,
        partial: 0,
    }
}

#[test]
fn slow_the_backlog_of_a_day_of_quiet_jobs_is_caught_up_over_a_long_line() {
    if skipped("slow_the_backlog_of_a_day_of_quiet_jobs_is_caught_up_over_a_long_line") {
        return;
    }
    // Ten jobs that print a line every second.
    let total = 864_000;
    let logstash = Logstash::new(Keep::Ids);
    let away = Duration::from_millis(100);
    let proxy = Proxy::far(logstash.port(), away);
    let mut spool = Spool::new(proxy.port());
    let mut writer = make(&spool.root().join("queue"));
    for n in 0..total {
        writer.append(&events("quiet", n + 1, 1, 200), AT).unwrap();
        if n % 1000 == 0 {
            writer.commit(AT).unwrap();
        }
    }
    writer.commit(AT).unwrap();
    writer.checkpoint().unwrap();
    drop(writer);
    spool.start();
    let started = Instant::now();
    wait_until(Duration::from_secs(600), "it is caught up", || {
        let status = spool.status();
        status["totals"]["captured_events"].as_u64() >= Some(total)
            && status["totals"]["waiting_events"] == 0
    });
    let took = started.elapsed();
    let peak = spool.peak_memory();
    spool.stop();
    let windows = logstash.windows();
    let arrived: usize = windows.iter().map(|window| window.ids.len()).sum();
    assert!(arrived as u64 >= total, "{arrived} events arrived");
    say(&format!(
        "{total} records of one event, the server {away:?} away: caught up in {took:?}, {} windows, peak memory {} KiB",
        windows.len(),
        peak >> 10
    ));
}
