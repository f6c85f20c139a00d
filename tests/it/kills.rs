//! SIGKILL at every step that the daemon takes on its disk, under load; takes minutes.
//!
//! Needs a binary with the feature `failpoints`, whose `SPOOLBEAT_DIE_AT` kills it before, in or
//! after the n-th step of a name. Each chapter is a new root that lives and dies many times; what
//! the queue and the server hold is compared after each death, and everything at the chapter's end.

#![expect(clippy::unwrap_used, reason = "tests")]

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::fs;
use std::fs::File;
use std::io::Write;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::Duration;
use std::time::Instant;

use serde_json::Value;
use spoolbeat::disk;
use spoolbeat::disk::Disk;
use spoolbeat::disk::OsDisk;
use spoolbeat::queue::inspect;
use spoolbeat::queue::verify;

use crate::harness::Keep;
use crate::harness::Logstash;
use crate::harness::Spool;
use crate::harness::is_root;
use crate::harness::said;
use crate::harness::soak;
use crate::harness::wait_until;

/// Every step on the disk that a queue in service comes to, with how many of them a life goes
/// through at most before the last one that is tried.
const STEPS: &[(&str, u64)] = &[
    ("segment-create", 3),
    ("segment-write", 12),
    ("segment-sync", 12),
    ("segment-truncate", 1),
    ("segment-remove", 3),
    ("cursor-rename", 1),
    ("cursor-write", 6),
    ("cursor-sync", 3),
    ("checkpoint-write", 2),
    ("checkpoint-sync", 2),
    ("checkpoint-rename", 2),
    ("checkpoint-remove", 2),
    ("queue-sync", 4),
    ("reserve-create", 1),
    ("reserve-reserve", 1),
    ("other-create", 3),
    ("other-write", 4),
    ("other-rename", 3),
    ("other-sync", 1),
    ("other-remove", 2),
];

/// Comes only on a disk that is full, which takes a file system of its own, thus root.
const ON_A_FULL_DISK: &str = "reserve-remove";

/// Least deaths at each step.
const DEATHS_EACH: usize = 50;

/// Deaths of one root before everything is compared.
const DEATHS_OF_A_ROOT: usize = 40;

/// A life that comes to no such step ends after this.
const LIFE: Duration = Duration::from_millis(1300);

/// The file whose blocks a queue sets aside: it is made once in a root's life, and again when a disk
/// that was full has room.
const RESERVE: &str = "reserve";

/// Length of a line of the source; a quarter of a thousand fill the smallest segment.
const LINE_BYTES: u64 = 4000;

/// Lines added in a life, and how many may wait.
const LINES: u64 = 300;

/// Windows in flight at a time, as `pipelining` is by default.
const IN_FLIGHT: usize = 2;

/// Roots that live and die at a time: most of a life is waiting.
const AT_A_TIME: usize = 12;

/// Disks that are full, at a time; each takes its part of the deaths.
const FULL_DISKS: usize = 10;

/// Patience with a root that is to become empty.
const DRAIN: Duration = Duration::from_secs(60);

fn say(line: &str) {
    drop(writeln!(std::io::stderr(), "{line}"));
}

/// What was tried, by all roots together.
#[derive(Debug, Default)]
struct Tally {
    deaths: BTreeMap<&'static str, usize>,
    /// Lives that came to no such step, by its name.
    survived: BTreeMap<&'static str, usize>,
    seed: u64,
}

impl Tally {
    fn chance(&mut self, below: u64) -> u64 {
        self.seed = self
            .seed
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.seed >> 33) % below
    }

    /// The step with the fewest deaths so far (every third time any), and when in it to die.
    fn next(&mut self) -> (&'static str, String) {
        let any = self.chance(3) == 0;
        let least = |(name, _): &&(&'static str, u64)| {
            let tried = self.deaths.get(name).copied().unwrap_or_default();
            let missed = self.survived.get(name).copied().unwrap_or_default();
            // One that is seldom come to must not keep the others from being tried.
            tried + missed / 4
        };
        let (name, most) = if any {
            STEPS[self.chance(STEPS.len() as u64) as usize]
        } else {
            *STEPS.iter().min_by_key(least).unwrap()
        };
        (name, self.when(name, most))
    }

    fn when(&mut self, name: &str, most: u64) -> String {
        let nth = 1 + self.chance(most);
        let torn = [
            0, 1, 4, 55, 56, 57, 64, 100, 511, 512, 1000, 4096, 100_000, 1_000_000,
        ];
        match self.chance(3) {
            0 if name.ends_with("-write") => {
                let part = torn[self.chance(torn.len() as u64) as usize];
                format!("{name}:{nth}:torn={part}")
            }
            0 | 1 => format!("{name}:{nth}:after"),
            _ => format!("{name}:{nth}"),
        }
    }

    fn total(&self) -> usize {
        self.deaths.values().sum()
    }
}

/// A root with a file that is read and a job that runs, and the server that it sends to.
struct Victim {
    spool: Spool,
    logstash: Logstash,
    lines: u64,
    /// Windows that were looked at.
    seen: usize,
    /// By event, the last window that it came in.
    came_in: BTreeMap<String, usize>,
    /// By connection, its windows.
    connections: BTreeMap<usize, Vec<usize>>,
    /// Connections up to this one ended when a cursor was half written: what was acknowledged since the
    /// last cursor was synced may come again.
    excused: usize,
    twice: u64,
    next_line: u64,
}

impl Victim {
    fn new() -> Self {
        let logstash = Logstash::new(Keep::Ids);
        let spool = Spool::in_memory(&format!(
            "[output.lumberjack]\nhosts = [\"127.0.0.1:{}\"]\nbackoff = {{ init = \"20ms\", max = \"100ms\" }}\n\
             [spool]\nsettle = \"10ms\"\n\
             [queue]\nmax_bytes = \"16MiB\"\ncompression_level = 0\nretain = {{ age = \"1h\", bytes = \"0\" }}\n",
            logstash.port()
        ));
        let source = spool.root().join("source");
        fs::create_dir_all(&source).unwrap();
        let files = format!(
            "[[files]]\npaths = [\"{}/*.log\"]\nscan = \"100ms\"\nquiet = \"200ms\"\n",
            source.display()
        );
        let job = spool.root().join("jobs/lines");
        fs::create_dir_all(&job).unwrap();
        fs::write(job.join("job.toml"), files).unwrap();
        spool.job(
            "runs",
            "[script]\nrun = \"job.sh\"\nlanguage = \"sh\"\n[schedule]\nevery = \"250ms\"\n[results]\nkeep = { runs = 10000 }\n",
            "job.sh",
            "echo one; echo two >&2\n",
        );
        Self {
            spool,
            logstash,
            lines: 0,
            seen: 0,
            came_in: BTreeMap::new(),
            connections: BTreeMap::new(),
            excused: 0,
            twice: 0,
            next_line: 0,
        }
    }

    fn queue(&self) -> PathBuf {
        self.spool.root().join("queue")
    }

    /// Where the daemon writes which steps it came to.
    fn steps(&self) -> PathBuf {
        self.spool.root().join("steps")
    }

    /// Adds lines to the source, unless as many as `most` wait.
    fn write_lines(&mut self, count: u64, most: u64) {
        if self.lines > self.next_line + most {
            return;
        }
        let rest = "x".repeat(LINE_BYTES as usize - 10);
        let mut text = String::new();
        for n in self.lines..self.lines + count {
            text.push_str(&format!("{n:09}{rest}\n"));
        }
        self.lines += count;
        File::options()
            .create(true)
            .append(true)
            .open(self.spool.root().join("source/a.log"))
            .unwrap()
            .write_all(text.as_bytes())
            .unwrap();
    }

    /// Lives until it dies at this step, or it is `enough`; returns whether it died.
    fn live(&mut self, die_at: &str, enough: impl Fn(&Self) -> bool) -> bool {
        self.wait_for_the_lock();
        let steps = self.steps();
        self.spool.start_with(&[
            ("SPOOLBEAT_DIE_AT", die_at),
            ("SPOOLBEAT_STEPS_TO", steps.to_str().unwrap()),
        ]);
        let mut died = false;
        wait_until(DRAIN, "it dies or has lived", || {
            died = self.spool.is_killed();
            died || enough(self)
        });
        if !died {
            self.spool.kill();
        }
        died
    }

    /// A child that the dead daemon was about to start has its locks until it executes its program, on
    /// a busy machine for longer than the next daemon is patient.
    fn wait_for_the_lock(&self) {
        let lock = self.queue().join("lock");
        wait_until(DRAIN, "the root's locks are free", || {
            let root = disk::lock_folder(&self.spool.root()).unwrap();
            root.is_some() && (!lock.exists() || disk::lock(&lock).unwrap().is_some())
        });
    }

    /// The same, a usual life long.
    fn live_on(&mut self, die_at: &str) -> bool {
        let started = Instant::now();
        self.live(die_at, |_| started.elapsed() >= LIFE)
    }

    /// Looks at what arrived since the last look: no line may be missing before another, and what
    /// came again must have been in flight when its connection ended.
    fn look(&mut self) {
        let windows = self.logstash.windows_from(self.seen);
        for (at, window) in windows.iter().enumerate() {
            let of = self.connections.entry(window.connection).or_default();
            of.push(self.seen + at);
        }
        for (at, window) in windows.iter().enumerate() {
            let index = self.seen + at;
            for id in &window.ids {
                match self.came_in.insert(id.clone(), index) {
                    None => self.first(id),
                    Some(before) => {
                        self.twice += 1;
                        let of = self.connections.iter().find_map(|(connection, windows)| {
                            let place = windows.iter().position(|window| *window == before)?;
                            Some((*connection, windows.len() - 1 - place))
                        });
                        let (connection, later) = of.unwrap();
                        assert!(
                            later < IN_FLIGHT || connection <= self.excused,
                            "{id} came twice although {later} windows after it were sent"
                        );
                    }
                }
            }
        }
        self.seen += windows.len();
    }

    /// An event's first arrival: the lines of the source come in order and without a gap.
    fn first(&mut self, id: &str) {
        let Some((_, offset)) = id.rsplit_once('.').filter(|(file, _)| !file.contains('.')) else {
            return;
        };
        let line = offset.parse::<u64>().unwrap() / LINE_BYTES;
        assert_eq!(line, self.next_line, "the next line of the source");
        self.next_line = line + 1;
    }

    /// What must hold of a queue whose daemon is dead. A daemon that never came so far has none.
    fn autopsy(&mut self, died_at: &str) {
        self.look();
        if died_at.starts_with("cursor-write") && died_at.contains("torn") {
            self.excused = self.connections.keys().next_back().copied().unwrap_or(0);
        }
        let disk: Arc<dyn Disk> = Arc::new(OsDisk);
        let dir = self.queue();
        if !dir.exists() {
            return;
        }
        let survey = inspect::survey(&disk, &dir);
        let survey = survey.unwrap_or_else(|error| panic!("died at {died_at}: {error}"));
        let verdict = verify::verify(&disk, &dir, &survey).unwrap();
        assert_eq!(verdict.damage, [], "died at {died_at}");
        let captured = survey.ledger.queued();
        let mut cursors = survey.cursors.iter();
        let waiting = cursors
            .find(|(output, _)| output == "lumberjack")
            .map(|(_, cursor)| survey.ledger.next_seq.saturating_sub(cursor.seq));
        let passed = captured - waiting.unwrap_or(captured);
        let arrived = self.came_in.len() as u64;
        assert!(
            passed <= arrived,
            "died at {died_at}: {passed} events are passed and {arrived} have arrived"
        );
        assert!(
            arrived <= captured,
            "died at {died_at}: {arrived} events have arrived and {captured} are captured"
        );
    }

    /// Lets it come to an end and compares everything.
    fn drain(&mut self, history: &[String]) {
        self.wait_for_the_lock();
        self.spool.start();
        let told = format!("everything arrives after {history:?}");
        wait_until(DRAIN, &told, || {
            self.look();
            self.next_line == self.lines
        });
        wait_until(DRAIN, "the job is paused", || {
            self.spool.command(&["pause", "runs"]).status.success()
        });
        let told = format!("the queue is empty after {history:?}");
        let mut captured = 0;
        wait_until(DRAIN, &told, || {
            let status = self.spool.status();
            captured = status["totals"]["captured_events"].as_u64().unwrap_or(0);
            let jobs = status["jobs"].as_array().cloned().unwrap_or_default();
            let idle = |job: &Value| job["name"] != "runs" || job["state"] == "paused";
            jobs.iter().all(idle) && status["totals"]["waiting_events"] == 0
        });
        self.look();
        assert_eq!(
            self.came_in.len() as u64,
            captured,
            "distinct events that arrived, and events that were captured, after {history:?}"
        );
        self.assert_runs_complete(history);
        let steps = fs::read_to_string(self.steps()).unwrap();
        for step in steps.lines() {
            let known = STEPS.iter().any(|(name, _)| *name == step) || step == ON_A_FULL_DISK;
            assert!(known, "nobody dies at `{step}`; add it to STEPS");
        }
        let unfinished = fs::read_dir(self.queue()).unwrap();
        let unfinished: Vec<String> = unfinished
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .filter(|name| name.starts_with(".new-"))
            .collect();
        assert!(unfinished.is_empty(), "left over: {unfinished:?}");
        self.spool.stop();
    }

    /// Each run that began has told its end, and its record says how it ended.
    fn assert_runs_complete(&self, history: &[String]) {
        let told = |suffix: &str| -> BTreeSet<&str> {
            let ids = self.came_in.keys();
            ids.filter_map(|id| id.strip_suffix(suffix)).collect()
        };
        let (begun, ended) = (told(".r.1"), told(".r.2"));
        assert_eq!(begun, ended, "runs that began and ended, after {history:?}");
        for run in fs::read_dir(self.spool.root().join("results/runs")).unwrap() {
            let run = run.unwrap();
            if !run.file_type().unwrap().is_dir() {
                continue;
            }
            assert!(
                !run.path().join("running.json").exists(),
                "{run:?} has ended"
            );
            let text = fs::read_to_string(run.path().join("run.json"));
            let text = text.unwrap_or_else(|error| panic!("{run:?}: {error}, after {history:?}"));
            let record: Value = serde_json::from_str(&text).unwrap();
            assert!(record["outcome"].is_string(), "{run:?}: {record}");
        }
    }
}

/// One root, until it has died often enough.
fn chapter(tally: &Mutex<Tally>) {
    let mut victim = Victim::new();
    let mut history = Vec::new();
    while history.len() < DEATHS_OF_A_ROOT {
        victim.write_lines(LINES, 3 * LINES);
        let (step, die_at) = tally.lock().unwrap().next();
        if step == "reserve-create" {
            drop(fs::remove_file(victim.queue().join(RESERVE)));
        }
        let died = victim.live_on(&die_at);
        victim.autopsy(&die_at);
        let mut tally = tally.lock().unwrap();
        let count = if died {
            &mut tally.deaths
        } else {
            &mut tally.survived
        };
        *count.entry(step).or_default() += 1;
        if died && tally.total().is_multiple_of(500) {
            say(&format!("{} deaths", tally.total()));
        }
        history.push(die_at);
    }
    victim.drain(&history);
}

/// A queue whose file system is full when the daemon starts, so that the reserve is given up.
fn full_chapter(tally: &Mutex<Tally>, deaths: usize) {
    let mut victim = Victim::new();
    let queue = victim.queue();
    fs::create_dir_all(&queue).unwrap();
    let mounted = mount(&["-t", "tmpfs", "-o", "size=6m", "tmpfs"], queue.clone());
    let ballast = queue.join("ballast");
    let (mut history, mut lives) = (Vec::new(), 0);
    while history.len() < deaths {
        lives += 1;
        assert!(
            lives < 10 * deaths,
            "the reserve is not given up: {history:?}"
        );
        // With room: it takes the reserve and captures something.
        victim.write_lines(LINES / 10, LINES);
        let reserve = queue.join(RESERVE);
        victim.live("nothing-dies:1", |victim| {
            let has_blocks = fs::metadata(&reserve).is_ok_and(|reserve| reserve.len() > 0);
            has_blocks && victim.logstash.arrived() > victim.seen
        });
        let mut full = File::create(&ballast).unwrap();
        while full.write_all(&[0; 4096]).is_ok() {}
        drop(full);
        let die_at = tally.lock().unwrap().when(ON_A_FULL_DISK, 1);
        let died = victim.live_on(&die_at);
        fs::remove_file(&ballast).unwrap();
        victim.autopsy(&die_at);
        if died {
            history.push(die_at);
        }
    }
    victim.drain(&history);
    drop(mounted);
}

/// A file system, until it is dropped.
struct Mounted(PathBuf);

fn mount(args: &[&str], at: PathBuf) -> Mounted {
    let mounted = Command::new("mount").args(args).arg(&at).output().unwrap();
    assert!(mounted.status.success(), "{}", said(&mounted));
    Mounted(at)
}

impl Drop for Mounted {
    fn drop(&mut self) {
        // Lazily: a daemon of a failed test may still live.
        drop(Command::new("umount").arg("-l").arg(&self.0).status());
    }
}

#[test]
fn slow_a_kill_at_every_step_on_the_disk_loses_nothing() {
    const NAME: &str = "slow_a_kill_at_every_step_on_the_disk_loses_nothing";
    if !cfg!(feature = "failpoints") {
        let how = "needs a build with --features failpoints";
        drop(writeln!(std::io::stdout(), "SKIP {NAME}: {how}"));
        return;
    }
    let wanted = if soak() { 20_000 } else { 3000 };
    let tally = Mutex::new(Tally::default());
    let started = Instant::now();
    let chapters = AtomicUsize::new(0);
    thread::scope(|scope| {
        for _ in 0..AT_A_TIME {
            scope.spawn(|| {
                while {
                    let tally = tally.lock().unwrap();
                    let each = STEPS.iter().all(|(name, _)| {
                        tally
                            .deaths
                            .get(name)
                            .is_some_and(|deaths| *deaths >= DEATHS_EACH)
                    });
                    tally.total() < wanted || !each
                } {
                    let chapter_number = chapters.fetch_add(1, Ordering::Relaxed);
                    assert!(
                        chapter_number < wanted,
                        "some step is never come to: {tally:?}"
                    );
                    chapter(&tally);
                }
            });
        }
    });
    let tally = tally.into_inner().unwrap();
    let survived: usize = tally.survived.values().sum();
    for (name, deaths) in &tally.deaths {
        let survived = tally.survived.get(name).copied().unwrap_or_default();
        say(&format!(
            "{name:<20} {deaths:>6} deaths, not come to in {survived} lives"
        ));
    }
    say(&format!(
        "{} deaths at their steps and {survived} at any other moment, of {} roots in {:?}",
        tally.total(),
        chapters.load(Ordering::Relaxed),
        started.elapsed()
    ));
}

#[test]
fn slow_a_kill_while_the_reserve_is_given_up_loses_nothing() {
    const NAME: &str = "slow_a_kill_while_the_reserve_is_given_up_loses_nothing";
    if !cfg!(feature = "failpoints") || !is_root() {
        let how = "needs root and a build with --features failpoints";
        drop(writeln!(std::io::stdout(), "SKIP {NAME}: {how}"));
        return;
    }
    let tally = Mutex::new(Tally::default());
    thread::scope(|scope| {
        for _ in 0..FULL_DISKS {
            scope.spawn(|| full_chapter(&tally, DEATHS_EACH / FULL_DISKS));
        }
    });
    say(&format!("{ON_A_FULL_DISK:<20} {DEATHS_EACH:>6} deaths"));
}
