//! One world from its first moment to its last, and the tests that make many of them.

use std::collections::BTreeMap;
use std::panic::AssertUnwindSafe;
use std::panic::catch_unwind;
use std::path::Path;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::DIR;
use super::daemon::Daemon;
use super::files::READER;
use super::files::Source;
use super::oracle::Oracle;
use super::outputs::OUTPUTS;
use super::outside::Chance;
use super::outside::Manner;
use super::outside::Outside;
use crate::clock;
use crate::clock::Tick;
use crate::disk::Disk;
use crate::disk::mem::Fault;
use crate::disk::mem::MemDisk;
use crate::disk::mem::REFUSALS;
use crate::disk::mem::Verb;
use crate::disk::mem::Verdict;
use crate::disk::mem::platter::Dice;
use crate::event::Route;
use crate::schedule::Cron;
use crate::schedule::Schedule;
use crate::spool::Change;
use crate::supervisor::Note;
use crate::supervisor::Now;
use crate::supervisor::tests::job;
use crate::units::Timestamp;

/// Turns with faults, and turns in which everything must come to an end once they are over.
const TURNS: u64 = 1_500;
const PATIENCE: u64 = 200_000;

/// Where the wall clock begins: an hour before the end of summer time in Berlin.
const BEGIN: Timestamp = Timestamp(1_761_436_800_000);

struct World {
    out: Outside,
    daemon: Option<Daemon>,
}

/// What happened in a world.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
struct Counts {
    events: u64,
    crashes: u64,
    faults: u64,
    extra: u64,
    aside: u64,
}

impl Counts {
    fn add(&mut self, more: Self) {
        self.events += more.events;
        self.crashes += more.crashes;
        self.faults += more.faults;
        self.extra += more.extra;
        self.aside += more.aside;
    }
}

impl World {
    fn new(seed: u64) -> Self {
        let mut out = Outside {
            chance: Chance::new(seed),
            now: Now {
                wall: BEGIN,
                tick: Tick(1),
            },
            disk: MemDisk::default(),
            oracle: Oracle::default(),
            manners: vec![Manner::Good; 5],
            spool: BTreeMap::new(),
            sources: BTreeMap::new(),
            serial: 0,
            frozen: Arc::default(),
            traced: std::env::var_os("SPOOLBEAT_TRACE").is_some(),
        };
        for name in ["minutely", "cron", "endless", "once", READER] {
            if name == READER || !out.chance.one_in(4) {
                drop(add(&mut out, name));
            }
        }
        out.disk.make_dir(Path::new(DIR)).unwrap();
        out.disk.sync_dir(Path::new("/r")).unwrap();
        Self { out, daemon: None }
    }

    fn live(&mut self, turns: u64) -> Counts {
        let mut counts = Counts::default();
        for _ in 0..turns {
            match self.out.chance.below(400) {
                0 => self.crash(&mut counts),
                1..=3 => {
                    self.fail();
                    counts.faults += 1;
                }
                4..=6 => self.out.disk.fail(Fault::None),
                7..=12 => self.out.change_manners(),
                13..=16 => self.edit(),
                17 => self.jump(),
                18..=30 => self.write(),
                31 => {
                    if let Some(daemon) = &mut self.daemon {
                        daemon.stop(&mut self.out);
                    }
                }
                32 | 33 => {
                    if let Some(daemon) = &mut self.daemon {
                        daemon.trigger("minutely", &mut self.out);
                    }
                }
                _ => self.turn(),
            }
            if self.out.frozen.load(Ordering::Relaxed) {
                self.crash(&mut counts);
            }
        }
        counts
    }

    /// The daemon does one thing; a dead one is started again.
    fn turn(&mut self) {
        let Some(daemon) = &mut self.daemon else {
            self.daemon = Daemon::start(&mut self.out);
            if self.daemon.is_none() {
                self.out.pass(Duration::from_secs(1));
            }
            return;
        };
        daemon.go_on(&mut self.out);
        if daemon.exit.is_some()
            && let Some(daemon) = self.daemon.take()
        {
            daemon.close(&self.out);
        }
    }

    /// From some call on, the disk fails: once, or until it is healed; or the daemon dies in it.
    fn fail(&mut self) {
        let mut left = self.out.chance.below(30);
        let errno = REFUSALS[self.out.chance.index(REFUSALS.len())];
        let part = self.out.chance.index(600);
        let once = self.out.chance.one_in(2);
        let dies = self.out.chance.one_in(3);
        let frozen = Arc::clone(&self.out.frozen);
        self.out.disk.script(move |call| {
            // A read that fails is another matter: its record is given up as damaged.
            if call.verb == Verb::Read || frozen.load(Ordering::Relaxed) {
                return match call.verb {
                    Verb::Read => Verdict::Go,
                    _ => Verdict::Fail(errno),
                };
            }
            if left > 0 {
                left -= 1;
                return Verdict::Go;
            }
            if dies {
                frozen.store(true, Ordering::Relaxed);
            } else if once {
                left = u64::MAX;
            }
            match call.verb {
                Verb::Write => Verdict::Part(part.min(call.bytes), errno),
                _ => Verdict::Fail(errno),
            }
        });
    }

    /// The daemon is gone from one moment to the next: killed, or with the whole machine.
    fn crash(&mut self, counts: &mut Counts) {
        counts.crashes += 1;
        self.out.trace(|| "crash".to_owned());
        self.daemon = None;
        self.out.disk.fail(Fault::None);
        self.out.frozen.store(false, Ordering::Relaxed);
        if self.out.chance.one_in(2) {
            let mut dice = Dice::new(self.out.chance.below(u64::MAX));
            self.out.disk = self.out.disk.power_cut(&mut dice);
        }
    }

    /// Somebody edits the spool.
    fn edit(&mut self) {
        let names = ["minutely", "cron", "endless", "once", READER];
        let name = names[self.out.chance.index(names.len())];
        let change = if name != READER && self.out.chance.one_in(3) {
            self.out.spool.remove(name);
            Change::Removed {
                job: name.to_owned(),
            }
        } else if self.out.chance.one_in(4) {
            Change::Refused {
                job: name.to_owned(),
                problems: Vec::new(),
            }
        } else {
            add(&mut self.out, name)
        };
        if let Some(daemon) = &mut self.daemon {
            daemon.note(Note::Spool(change), &mut self.out);
        }
    }

    /// The wall clock is set.
    fn jump(&mut self) {
        let by = match self.out.chance.below(3) {
            0 => 86_400_000,
            1 => 3_600_000,
            _ => -3_600_000,
        };
        if by < 0 {
            self.out.oracle.set_back += 1;
        }
        self.out.now.wall = Timestamp(self.out.now.wall.0 + by);
    }

    /// Somebody writes to a file.
    fn write(&mut self) {
        let open: Vec<u64> = self
            .out
            .sources
            .iter()
            .filter(|(_, source)| !source.closed)
            .map(|(inode, _)| *inode)
            .collect();
        if open.is_empty() || (open.len() < 4 && self.out.chance.one_in(4)) {
            let inode = self.out.next_serial();
            let source = Source {
                lines: 1,
                closed: false,
                removed: false,
            };
            self.out.sources.insert(inode, source);
            return;
        }
        let inode = open[self.out.chance.index(open.len())];
        let (more, closed) = (self.out.chance.below(30), self.out.chance.one_in(6));
        if let Some(source) = self.out.sources.get_mut(&inode) {
            source.lines += more;
            source.closed = closed;
        }
    }

    /// Everything is well from now on: all that was promised must come true.
    fn heal(&mut self) {
        self.out.disk.fail(Fault::None);
        self.out.frozen.store(false, Ordering::Relaxed);
        self.out.manners.fill(Manner::Good);
        // Runs that begin now would never let it become quiet.
        for name in std::mem::take(&mut self.out.spool).into_keys() {
            if let Some(daemon) = &mut self.daemon
                && name != READER
            {
                daemon.note(Note::Spool(Change::Removed { job: name }), &mut self.out);
            }
        }
        drop(add(&mut self.out, READER));
        for source in self.out.sources.values_mut() {
            source.closed = true;
        }
        for _ in 0..PATIENCE {
            self.turn();
            let open = self.out.sources.iter().filter(|(_, one)| !one.removed);
            let mut open = open.map(|(inode, _)| *inode);
            let is_quiet =
                |daemon: &Daemon| open.all(|inode| daemon.keeps(inode)) && daemon.is_quiet();
            if self.daemon.as_ref().is_some_and(is_quiet) {
                self.out.oracle.finish();
                return;
            }
        }
        let state = self.daemon.as_ref().map(Daemon::describe);
        panic!("it never becomes quiet: {state:?}");
    }
}

/// Puts a job, or another generation of it, into the spool.
fn add(out: &mut Outside, name: &str) -> Change {
    let generation = format!("g{}", out.next_serial());
    let schedule = match name {
        "minutely" => Schedule::Every(Duration::from_secs(60)),
        "cron" => Schedule::Cron(Cron::parse("*/5 * * * *", Some("Europe/Berlin")).unwrap()),
        "endless" => Schedule::KeepRunning,
        _ => Schedule::Once,
    };
    let mut job = job(name, &generation, schedule);
    let mut outputs: Vec<String> = OUTPUTS
        .iter()
        .map(|(name, ..)| (*name).to_owned())
        .collect();
    if outputs.len() > 1 && out.chance.one_in(2) {
        outputs.remove(out.chance.index(outputs.len()));
    }
    job.route = Route::to(outputs);
    if name == READER {
        job.task = None;
    }
    let job = Arc::new(job);
    out.spool.insert(name.to_owned(), Arc::clone(&job));
    Change::Loaded(job)
}

fn run(seed: u64) -> Counts {
    let mut world = World::new(seed);
    let mut counts = world.live(TURNS);
    world.heal();
    let oracle = &world.out.oracle;
    counts.events = oracle.count();
    (counts.extra, counts.aside) = (oracle.extra, oracle.aside);
    counts
}

/// How many seeds there are, and how long they may take.
fn plan() -> (std::ops::Range<u64>, Option<Duration>) {
    let set = |name: &str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    if let Ok(seed) = std::env::var("SPOOLBEAT_SEED") {
        let seed = seed.parse().expect("SPOOLBEAT_SEED is a number");
        return (seed..seed + 1, None);
    }
    match (set("SPOOLBEAT_SOAK"), set("SPOOLBEAT_HARNESS")) {
        (true, _) => (0..1_000_000, Some(Duration::from_secs(3600))),
        (false, true) => (0..2_000, None),
        (false, false) => (0..24, None),
    }
}

#[test]
fn whatever_happens_every_promise_is_kept() {
    let (seeds, limit) = plan();
    let started = clock::tick();
    let next = AtomicU64::new(seeds.start);
    let total = Mutex::new((0_u64, Counts::default()));
    let work = || {
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            let late = limit.is_some_and(|limit| clock::tick().since(started) > limit);
            if seed >= seeds.end || late {
                return None;
            }
            let Ok(counts) = catch_unwind(AssertUnwindSafe(|| run(seed))) else {
                next.store(seeds.end, Ordering::Relaxed);
                return Some(seed);
            };
            let mut total = total.lock().unwrap();
            total.0 += 1;
            total.1.add(counts);
        }
    };
    let bad: Vec<u64> = std::thread::scope(|scope| {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let threads: Vec<_> = (0..cores).map(|_| scope.spawn(work)).collect();
        let seeds = threads.into_iter().map(|thread| thread.join().unwrap());
        seeds.flatten().collect()
    });
    assert!(
        bad.is_empty(),
        "a seed breaks a promise; again: SPOOLBEAT_SEED={} cargo test --lib simulator",
        bad[0]
    );
    let (seeds, counts) = *total.lock().unwrap();
    let Counts {
        events,
        crashes,
        faults,
        extra,
        aside,
    } = counts;
    super::say(&format!(
        "simulator: {seeds} seeds, {events} events captured ({extra} of them found by a start, {aside} set aside), {crashes} crashes, {faults} faults of the disk: 0 bad"
    ));
}

/// The same seed has to do the same, or what it shows cannot be looked at again.
#[test]
fn a_seed_replays_exactly() {
    for seed in 0..3 {
        let (once, again) = (run(seed), run(seed));
        assert_eq!(once, again, "seed {seed}");
    }
}
