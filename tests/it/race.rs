//! A writer that rotates, replaces, deletes and truncates as fast as it can, against harvest,
//! clean-up after the ACK, and a daemon that is killed again and again.
//!
//! Takes a few seconds; a minute with `SPOOLBEAT_SLOW=1`, ten with `SPOOLBEAT_SOAK=1` too. A line may be
//! thrown away only after it has arrived; then every line comes exactly once by `event.id`.

#![expect(clippy::unwrap_used, reason = "tests")]

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::fs;
use std::fs::File;
use std::io::Write;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::Duration;
use std::time::Instant;

use crate::harness::Keep;
use crate::harness::Logstash;
use crate::harness::Spool;
use crate::harness::soak;
use crate::harness::wait_until;

const DRAIN: Duration = Duration::from_secs(60);

/// How long the writer waits for its lines to arrive before it does something else.
const PATIENCE: Duration = Duration::from_secs(3);

fn length() -> Duration {
    let slow = std::env::var_os("SPOOLBEAT_SLOW").is_some();
    Duration::from_secs(match (slow, soak()) {
        (true, true) => 600,
        (true, false) => 60,
        (false, _) => 4,
    })
}

fn chance(seed: &mut u64, below: u64) -> u64 {
    *seed = seed
        .wrapping_mul(6_364_136_223_846_793_005)
        .wrapping_add(1_442_695_040_888_963_407);
    (*seed >> 33) % below
}

/// What the writer has done, to be said at the end.
#[derive(Debug, Default)]
struct Deeds {
    lines: u64,
    rotated: u64,
    replaced: u64,
    deleted: u64,
    truncated: u64,
}

struct Writer {
    folder: PathBuf,
    seed: u64,
    truncates: bool,
    /// The highest number up to which all lines have arrived.
    arrived: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    deeds: Deeds,
}

impl Writer {
    fn run(mut self) -> Deeds {
        while !self.stop.load(Ordering::Relaxed) {
            self.step();
        }
        self.deeds
    }

    /// Waits until all lines have arrived, at most so long; whether they have.
    fn wait(&self, limit: Duration) -> bool {
        let started = Instant::now();
        let all_arrived = || self.arrived.load(Ordering::Relaxed) == self.deeds.lines;
        wait_until(DRAIN, "the time passes", || {
            all_arrived() || started.elapsed() >= limit || self.stop.load(Ordering::Relaxed)
        });
        all_arrived()
    }

    fn next_lines(&mut self) -> String {
        let count = 1 + chance(&mut self.seed, 20);
        let from = self.deeds.lines;
        self.deeds.lines += count;
        (from + 1..=from + count)
            .map(|n| format!("line {n}\n"))
            .collect()
    }

    fn step(&mut self) {
        let path = self.folder.join("app.log");
        let deed = chance(&mut self.seed, 40);
        let all_arrived = (2..8).contains(&deed) && self.wait(PATIENCE);
        match deed {
            0 | 1 => {
                let to = self.folder.join(format!("app.log.{}", self.deeds.rotated));
                self.deeds.rotated += u64::from(fs::rename(&path, to).is_ok());
            }
            2 | 3 if all_arrived => {
                let text = self.next_lines();
                let fresh = self.folder.join("fresh");
                fs::write(&fresh, text).unwrap();
                fs::rename(&fresh, &path).unwrap();
                self.deeds.replaced += 1;
            }
            4 | 5 if all_arrived => {
                self.deeds.deleted += u64::from(fs::remove_file(&path).is_ok());
            }
            6 | 7 if all_arrived && self.truncates => {
                if let Ok(file) = File::options().write(true).open(&path) {
                    file.set_len(0).unwrap();
                    self.deeds.truncated += 1;
                }
            }
            8..11 => {
                let pause = Duration::from_millis(chance(&mut self.seed, 300));
                let _all_arrived = self.wait(pause);
            }
            _ => {
                let text = self.next_lines();
                let mut file = File::options()
                    .create(true)
                    .append(true)
                    .open(&path)
                    .unwrap();
                // In two pieces, so that the last line is often without its end.
                let cut = chance(&mut self.seed, text.len() as u64) as usize;
                file.write_all(&text.as_bytes()[..cut]).unwrap();
                file.write_all(&text.as_bytes()[cut..]).unwrap();
            }
        }
    }
}

/// Numbers of the lines by `event.id`; a line that came again must have come with its id.
fn lines(logstash: &Logstash) -> BTreeMap<String, u64> {
    let mut lines = BTreeMap::new();
    for event in logstash.events("logs") {
        if event["event"]["kind"] == "event" {
            continue;
        }
        let number = event["message"].as_str().unwrap().strip_prefix("line ");
        let number = number.unwrap_or_else(|| panic!("{event}")).parse().unwrap();
        let id = event["event"]["id"].as_str().unwrap().to_owned();
        assert_eq!(
            *lines.entry(id).or_insert(number),
            number,
            "one id, two lines"
        );
    }
    lines
}

fn race(seed: u64, after_ack: &str, truncates: bool) {
    let logstash = Logstash::new(Keep::Events);
    let mut spool = Spool::new(logstash.port());
    let folder = spool.root().join("source");
    fs::create_dir_all(&folder).unwrap();
    let job = spool.root().join("jobs/logs");
    fs::create_dir_all(&job).unwrap();
    let toml = format!(
        "[[files]]\npaths = [\"{}/app.log*\"]\nscan = \"100ms\"\nquiet = \"100ms\"\nafter_ack = \"{after_ack}\"\n",
        folder.display()
    );
    fs::write(job.join("job.toml"), toml).unwrap();
    let (arrived, stop) = (
        Arc::new(AtomicU64::new(0)),
        Arc::new(AtomicBool::new(false)),
    );
    let writer = Writer {
        folder,
        seed,
        truncates,
        arrived: Arc::clone(&arrived),
        stop: Arc::clone(&stop),
        deeds: Deeds::default(),
    };
    let writer = thread::spawn(move || writer.run());
    let started = Instant::now();
    let mut seed = seed ^ 0xabcd;
    let mut kills = 0;
    let note = || {
        let numbers: BTreeSet<u64> = lines(&logstash).into_values().collect();
        let whole = numbers.iter().zip(1..).take_while(|(n, at)| **n == *at);
        arrived.store(whole.count() as u64, Ordering::Relaxed);
    };
    while started.elapsed() < length() {
        spool.start();
        let until = Duration::from_millis(200 + chance(&mut seed, 2500));
        let since = Instant::now();
        wait_until(DRAIN, "the time passes", || {
            note();
            since.elapsed() >= until || started.elapsed() >= length()
        });
        spool.kill();
        kills += 1;
    }
    stop.store(true, Ordering::Relaxed);
    let deeds = writer.join().unwrap();
    spool.start();
    wait_until(DRAIN, "every line has arrived", || {
        note();
        arrived.load(Ordering::Relaxed) == deeds.lines
    });
    let released = spool.job_status("logs")["files"]["released"].clone();
    spool.stop();
    let lines = lines(&logstash);
    drop(writeln!(
        std::io::stderr(),
        "race {after_ack}: {deeds:?}, {kills} kills, {released} released, {} ids",
        lines.len()
    ));
    let mut ids: BTreeMap<u64, &str> = BTreeMap::new();
    for (id, number) in &lines {
        if let Some(other) = ids.insert(*number, id) {
            panic!("line {number} came as {id} and as {other}");
        }
    }
}

#[test]
fn no_line_is_lost_or_doubled_by_rotation_replacement_deletion_and_kills() {
    race(1, "delete", false);
}

#[test]
fn no_line_is_lost_or_doubled_when_files_are_truncated_by_us_and_by_their_writer() {
    race(2, "truncate", true);
}
