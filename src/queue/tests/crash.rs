//! Every state that a power cut may leave, of many histories of the queue.
//!
//! A history is recorded once; after each of its operations the states are built that the medium may
//! then hold, the real recovery opens each, and [`bench::check`] holds it against what had been
//! promised by then. Some recoveries are themselves cut.

#![expect(
    clippy::print_stdout,
    reason = "what was looked at is the report of a harness"
)]

use std::collections::BTreeMap;
use std::collections::HashSet;
use std::sync::Mutex;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;

use super::bench;
use super::bench::Bench;
use super::bench::Misuse;
use super::bench::Promise;
use super::bench::Wrong;
use crate::disk::Open;
use crate::disk::mem::Call;
use crate::disk::mem::MemDisk;
use crate::disk::mem::Verb;
use crate::disk::mem::Verdict;
use crate::disk::mem::platter::Dice;
use crate::disk::mem::platter::Image;
use crate::disk::mem::platter::hash;

/// Steps of a history.
const STEPS: u64 = 60;

/// One recovery of so many is cut as well.
const CUT_AGAIN: u64 = 64;

/// How much is looked at: in `cargo test` little, as a suite of its own what it is for.
pub(super) fn scale(small: u64, suite: u64, soak: u64) -> u64 {
    let set = |name| std::env::var(name).is_ok_and(|value| !value.is_empty());
    match (set("SPOOLBEAT_HARNESS"), set("SPOOLBEAT_SOAK")) {
        (false, _) => small,
        (true, false) => suite,
        (true, true) => soak,
    }
}

/// What the disk does to a history, beside what it should.
#[derive(Clone, Copy)]
enum Disks {
    /// It works, but for errors that it reports.
    Honest,
    /// It lies.
    Bug(fn(&mut Dice, &Call<'_>, &mut Memory) -> Verdict),
}

/// What a script remembers of the calls before.
#[derive(Default)]
struct Memory {
    renamed: bool,
}

/// Errors that a disk reports: a sync that fails, a full disk for a while, anything else once.
fn honest_faults(seed: u64) -> impl FnMut(&Call<'_>) -> Verdict + Send + 'static {
    let mut dice = Dice::new(seed ^ 0xD15C);
    let mut full = 0;
    move |call| {
        if full > 0 {
            full -= 1;
            return match call.verb {
                Verb::Write => {
                    Verdict::Part(dice.roll(call.bytes as u64 + 1) as usize, libc::ENOSPC)
                }
                Verb::Open(Open::CreateNew) | Verb::Reserve => Verdict::Fail(libc::ENOSPC),
                _ => Verdict::Go,
            };
        }
        match (call.verb, dice.roll(100)) {
            (Verb::Sync, 0..4) => Verdict::Fail(libc::EIO),
            (Verb::Write, 0) => {
                full = 20;
                Verdict::Part(dice.roll(call.bytes as u64 + 1) as usize, libc::ENOSPC)
            }
            (Verb::SyncDir | Verb::Rename | Verb::Remove, 0) => Verdict::Fail(libc::EIO),
            _ => Verdict::Go,
        }
    }
}

/// Lets a queue work on a recorded disk. What it had not survived without the disk's help is an error.
fn history(seed: u64, disks: Disks, misuse: Misuse) -> Result<Bench, Wrong> {
    let disk = MemDisk::default().recording();
    let mut bench = Bench::new(disk.clone(), seed);
    bench.misuse = misuse;
    if let Disks::Bug(bug) = disks {
        let mut dice = Dice::new(seed ^ 0xB06);
        let mut memory = Memory::default();
        disk.script(move |call| bug(&mut dice, call, &mut memory));
    }
    bench.open().map_err(|why| ("boot", why))?;
    // Every other history has a disk without errors.
    let faulty = seed % 2 == 1 && matches!(disks, Disks::Honest);
    if faulty {
        disk.script(honest_faults(seed));
    }
    for _ in 0..STEPS {
        if let Err(why) = bench.step() {
            if !faulty {
                return Err(("boot", why));
            }
            // A daemon that cannot start is started again until it can.
            let started = (0..1000).any(|_| bench.open().is_ok());
            assert!(started, "seed {seed}: {why}");
        }
    }
    Ok(bench)
}

#[derive(Debug, Default)]
struct Tally {
    distinct: u64,
    checked: u64,
    cut_again: u64,
    operations: u64,
}

impl Tally {
    fn add(&mut self, more: &Self) {
        self.distinct += more.distinct;
        self.checked += more.checked;
        self.cut_again += more.cut_again;
        self.operations += more.operations;
    }
}

/// Goes through the states of one history, about `budget` of them.
struct Walk<'a> {
    bench: &'a Bench,
    seen: HashSet<u64>,
    checked: HashSet<u64>,
    tally: Tally,
    /// Whether states of the first moments count: they look alike in all histories.
    first: bool,
    wrong: Option<Wrong>,
}

impl Walk<'_> {
    fn state(&mut self, image: &Image, promise: &Promise, deep: bool) {
        let new = self.seen.insert(image.hash);
        if new && (self.first || promise.epoch > 0) {
            self.tally.distinct += 1;
        }
        if self.wrong.is_some() || !self.checked.insert(image.hash ^ promise.key()) {
            return;
        }
        self.tally.checked += 1;
        let disk = if deep {
            bench::again(&image.files)
        } else {
            MemDisk::holding(&image.files)
        };
        let records = &self.bench.lineages[promise.lineage];
        let then = match bench::check(&disk, records, promise) {
            Ok(then) => then,
            Err((check, seen)) => {
                self.wrong = Some((check, seen));
                return;
            }
        };
        if deep {
            self.tally.cut_again += 1;
            self.cut_again(&disk, promise, &then);
        }
    }

    /// Cuts the power in the midst of the recovery that was recorded, and behind it.
    fn cut_again(&mut self, disk: &MemDisk, before: &Promise, behind: &Promise) {
        let (mut platter, ops) = disk.recorded();
        let mut dice = Dice::new(ops.len() as u64);
        for (n, op) in ops.iter().enumerate() {
            platter.apply(op);
            let promise = if n + 1 == ops.len() { behind } else { before };
            platter.states(4, &mut dice, &mut |image| {
                self.state(&image, promise, false);
            });
        }
    }
}

fn walk(bench: &Bench, budget: usize, seed: u64) -> (Tally, Option<Wrong>) {
    let (mut platter, ops) = bench.disk.recorded();
    let mut walk = Walk {
        bench,
        seen: HashSet::new(),
        checked: HashSet::new(),
        tally: Tally {
            operations: ops.len() as u64,
            ..Tally::default()
        },
        first: seed == 0,
        wrong: None,
    };
    let mut dice = Dice::new(seed ^ 0x57A7E5);
    let mut promise = Promise {
        acked: [1, 1],
        ..Promise::default()
    };
    let mut marks = bench.marks.iter().peekable();
    for (n, op) in ops.iter().enumerate() {
        platter.apply(op);
        while let Some((_, next)) = marks.next_if(|(at, _)| *at <= n + 1) {
            promise = *next;
        }
        let share = budget.saturating_sub(walk.tally.checked as usize) / (ops.len() - n);
        platter.states(share.max(4), &mut dice, &mut |image| {
            let deep = hash(image.hash, b"again").is_multiple_of(CUT_AGAIN);
            walk.state(&image, &promise, deep);
        });
        if walk.wrong.is_some() {
            break;
        }
    }
    (walk.tally, walk.wrong)
}

/// Walks through histories on two threads until so many distinct states were seen.
fn walk_all(goal: u64, histories: u64) -> (u64, Tally) {
    let next = AtomicU64::new(0);
    let seen = AtomicU64::new(0);
    let sum = Mutex::new(Tally::default());
    let budget = (goal / histories) as usize + 1;
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while next.load(Ordering::Relaxed) < histories
                    || seen.load(Ordering::Relaxed) < goal
                {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    let bench = history(seed, Disks::Honest, Misuse::None).unwrap();
                    let (tally, wrong) = walk(&bench, budget, seed);
                    assert!(wrong.is_none(), "seed {seed}: {wrong:?}");
                    let so_far = seen.fetch_add(tally.distinct, Ordering::Relaxed);
                    sum.lock().unwrap().add(&tally);
                    // The long form takes an hour and more: who ends it knows how far it came.
                    if seed % 100 == 99 {
                        println!(
                            "crash states: {so_far} distinct in {seed} histories so far, 0 bad"
                        );
                    }
                }
            });
        }
    });
    (next.into_inner(), sum.into_inner().unwrap())
}

#[test]
fn no_state_after_a_power_cut_breaks_a_promise() {
    let goal = scale(1000, 5_000_000, 100_000_000);
    let histories = scale(3, 64, 1000);
    let (histories, tally) = walk_all(goal, histories);
    println!(
        "crash states: {} distinct, {} checked, {} recoveries cut again, {histories} histories, {} operations, 0 bad",
        tally.distinct, tally.checked, tally.cut_again, tally.operations
    );
    assert!(tally.distinct >= goal);
}

fn is(call: &Call<'_>, verb: Verb, name: &str) -> bool {
    call.verb == verb && call.path.contains(name)
}

fn lie(when: bool) -> Verdict {
    if when { Verdict::Lie } else { Verdict::Go }
}

type Bug = (&'static str, Disks, Misuse);

fn bugs() -> Vec<Bug> {
    vec![
        (
            "folders are never synced",
            Disks::Bug(|_, call, _| lie(call.verb == Verb::SyncDir)),
            Misuse::None,
        ),
        (
            "a new segment's folder is not synced",
            Disks::Bug(|_, call, memory| {
                let after_rename =
                    std::mem::replace(&mut memory.renamed, call.verb == Verb::Rename);
                lie(call.verb == Verb::SyncDir && call.path == bench::DIR && !after_rename)
            }),
            Misuse::None,
        ),
        (
            "the folder of a replaced file is not synced",
            Disks::Bug(|_, call, memory| {
                let after_rename =
                    std::mem::replace(&mut memory.renamed, call.verb == Verb::Rename);
                lie(call.verb == Verb::SyncDir && after_rename)
            }),
            Misuse::None,
        ),
        (
            "the queue's own folder is not synced",
            Disks::Bug(|_, call, _| lie(call.verb == Verb::SyncDir && call.path == "/r")),
            Misuse::None,
        ),
        (
            "captured before the sync",
            Disks::Bug(|_, call, _| lie(is(call, Verb::Sync, ".seg"))),
            Misuse::None,
        ),
        (
            "a replaced file is renamed without a sync",
            Disks::Bug(|_, call, _| lie(is(call, Verb::Sync, ".new-"))),
            Misuse::None,
        ),
        (
            "cursors are not synced",
            Disks::Bug(|_, call, _| lie(is(call, Verb::Sync, "cursor-"))),
            Misuse::None,
        ),
        (
            "a failed sync is taken for a good one",
            Disks::Bug(
                |dice, call, _| match is(call, Verb::Sync, ".seg") && dice.roll(10) == 0 {
                    true => Verdict::LiePart(0),
                    false => Verdict::Go,
                },
            ),
            Misuse::None,
        ),
        (
            "a short write is taken for a whole one",
            Disks::Bug(
                |dice, call, _| match is(call, Verb::Write, ".seg") && dice.roll(20) == 0 {
                    true => Verdict::LiePart(call.bytes - 1),
                    false => Verdict::Go,
                },
            ),
            Misuse::None,
        ),
        (
            "a write is lost",
            Disks::Bug(|dice, call, _| lie(is(call, Verb::Write, ".seg") && dice.roll(20) == 0)),
            Misuse::None,
        ),
        (
            "a bit is written wrong",
            Disks::Bug(
                |dice, call, _| match is(call, Verb::Write, ".seg") && dice.roll(20) == 0 {
                    true => Verdict::Flip(dice.roll(1 << 20) as usize),
                    false => Verdict::Go,
                },
            ),
            Misuse::None,
        ),
        (
            "a rename is lost",
            Disks::Bug(|dice, call, _| lie(call.verb == Verb::Rename && dice.roll(10) == 0)),
            Misuse::None,
        ),
        (
            "captured is said before the commit",
            Disks::Honest,
            Misuse::CapturedBeforeCommit,
        ),
        (
            "a cursor is stored ahead of its ACK",
            Disks::Honest,
            Misuse::CursorAheadOfAck,
        ),
        (
            "segments go by cursors that are not durable",
            Disks::Honest,
            Misuse::TidyByUnsyncedCursors,
        ),
        (
            "one segment too many goes",
            Disks::Honest,
            Misuse::TidyOneTooFar,
        ),
    ]
}

/// The check that sees a bug first, and after how many states.
fn caught(bug: &Bug) -> Option<(&'static str, u64)> {
    let (_, disks, misuse) = *bug;
    let mut states = 0;
    for seed in (0..40).map(|n| n * 2) {
        // What the queue itself runs into on a disk that lies has been seen as well.
        let worked = std::panic::catch_unwind(|| history(seed, disks, misuse));
        let bench = match worked {
            Ok(Ok(bench)) => bench,
            Ok(Err((check, _))) => return Some((check, states)),
            Err(_) => return Some(("what is shipped", states)),
        };
        let (tally, wrong) = walk(&bench, 5000, seed);
        states += tally.checked;
        if let Some((check, _)) = wrong {
            return Some((check, states));
        }
    }
    None
}

#[test]
fn every_seeded_bug_is_caught_by_a_check_with_a_name() {
    let mut table = BTreeMap::new();
    // The first ones are caught soon.
    for bug in bugs().into_iter().take(scale(6, 100, 100) as usize) {
        let seen = caught(&bug);
        match seen {
            Some((check, states)) => println!(
                "seeded bug: {}: caught by `{check}` after {states} states",
                bug.0
            ),
            None => println!("seeded bug: {}: NOT CAUGHT", bug.0),
        }
        table.insert(bug.0, seen);
    }
    assert!(table.values().all(Option::is_some), "{table:?}");
}
