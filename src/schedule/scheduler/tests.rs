//! The scheduler's promises, on simulated clocks.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::entry::period_from;
use super::*;
use crate::schedule::Cron;
use crate::schedule::policy::Restart;

const S: i64 = 1_000;
const M: i64 = 60 * S;
const H: i64 = 60 * M;
const DAY: i64 = 24 * H;
/// 2026-01-01T00:00:00Z.
const START: i64 = 1_767_225_600_000;
const NEW: Past = Past {
    last_fire: None,
    done: false,
    missed: false,
};

fn ms(ms: i64) -> Duration {
    Duration::from_millis(ms.unsigned_abs())
}

fn every(period: i64) -> Schedule {
    Schedule::Every(ms(period))
}

fn cron(text: &str) -> Schedule {
    Schedule::Cron(Cron::parse(text, Some("Europe/Berlin")).unwrap())
}

/// A scheduler and times that are milliseconds after START.
struct World {
    scheduler: Scheduler,
    /// Runs that have not ended, in the order of their fires.
    runs: Vec<(Arc<str>, u64)>,
}

impl World {
    fn new(max_concurrent: u32) -> Self {
        Self {
            scheduler: Scheduler::new("host".to_owned(), max_concurrent),
            runs: Vec::new(),
        }
    }

    /// Takes a step; shows fires as `job@tick` in milliseconds after START, or `job!trigger`, and
    /// ends as `job-`.
    fn step(&mut self, input: Input) -> Vec<String> {
        let acts = self.scheduler.step(input);
        let mut shown = Vec::new();
        for act in acts {
            shown.push(match act {
                Act::End { job, .. } => format!("{job}-"),
                Act::Fire(fire) => {
                    self.runs.push((Arc::clone(&fire.job), fire.number));
                    match (fire.scheduled_at, fire.trigger) {
                        (Some(at), Trigger::Schedule) => format!("{}@{}", fire.job, at.0 - START),
                        (Some(at), why) => {
                            format!("{}@{}!{}", fire.job, at.0 - START, why.name())
                        }
                        (None, why) => format!("{}!{}", fire.job, why.name()),
                    }
                }
            });
        }
        shown
    }

    fn load(&mut self, job: &str, schedule: Schedule, past: Past, now: i64) -> Vec<String> {
        self.load_with(job, schedule, Policy::default(), past, now)
    }

    fn load_with(
        &mut self,
        job: &str,
        schedule: Schedule,
        policy: Policy,
        past: Past,
        now: i64,
    ) -> Vec<String> {
        self.step(Input::Load {
            job: job.into(),
            schedule,
            policy,
            past,
            now: Timestamp(START + now),
        })
    }

    fn clock(&mut self, now: i64) -> Vec<String> {
        self.step(Input::Clock {
            now: Timestamp(START + now),
        })
    }

    fn ended(&mut self, job: &str, ran: i64, now: i64) -> Vec<String> {
        self.end(job, ran, End::Well, now)
    }

    fn failed(&mut self, job: &str, now: i64) -> Vec<String> {
        self.end(job, S, End::Failed, now)
    }

    /// The oldest run of the job ends; a job without one is told of an end all the same.
    fn end(&mut self, job: &str, ran: i64, end: End, now: i64) -> Vec<String> {
        let at = self.runs.iter().position(|(of, _)| **of == *job);
        let number = at.map_or(u64::MAX, |at| self.runs.remove(at).1);
        self.step(Input::Ended {
            job: job.into(),
            number,
            ran: ms(ran),
            end,
            now: Timestamp(START + now),
        })
    }

    fn trigger(&mut self, job: &str, now: i64) -> Vec<String> {
        self.step(Input::Trigger {
            job: job.into(),
            now: Timestamp(START + now),
        })
    }

    fn remove(&mut self, job: &str) -> Vec<String> {
        self.step(Input::Remove { job: job.into() })
    }

    fn hold(&mut self, on: Hold, now: i64) -> Vec<String> {
        let now = Timestamp(START + now);
        self.step(Input::Hold { on, now })
    }

    fn pause(&mut self, job: &str) -> Vec<String> {
        self.step(Input::Pause { job: job.into() })
    }

    fn resume(&mut self, job: &str, now: i64) -> Vec<String> {
        let now = Timestamp(START + now);
        self.step(Input::Resume {
            job: job.into(),
            now,
        })
    }

    fn view(&self, job: &str) -> View {
        self.scheduler.view(job).unwrap()
    }

    fn next(&self, job: &str) -> Option<i64> {
        self.view(job).next.map(|at| at.0 - START)
    }
}

const NOTHING: [&str; 0] = [];

fn fired_at(at: i64) -> Past {
    Past {
        last_fire: Some(Timestamp(START + at)),
        ..NEW
    }
}

#[test]
fn a_new_periodic_job_fires_at_once_and_keeps_its_phase_across_restarts() {
    let mut world = World::new(4);
    assert_eq!(world.load("a", every(10 * M), NEW, 3), ["a@3"]);
    assert_eq!(world.next("a"), Some(10 * M + 3));
    // Restarted after two and a half periods: no storm, same phase.
    let mut world = World::new(4);
    assert_eq!(world.load("a", every(10 * M), fired_at(3), 25 * M), NOTHING);
    assert_eq!(world.next("a"), Some(30 * M + 3));
    assert_eq!(world.view("a").skipped, 0);
}

#[test]
fn a_reload_of_an_unchanged_schedule_does_not_fire_again() {
    let mut world = World::new(4);
    assert_eq!(world.load("a", every(10 * M), NEW, 0), ["a@0"]);
    assert_eq!(world.ended("a", S, S), NOTHING);
    assert_eq!(world.load("a", every(10 * M), NEW, 5 * M), NOTHING);
    assert_eq!(world.next("a"), Some(10 * M));
    // Changed: planned at once, from the last fire.
    assert_eq!(world.load("a", every(7 * M), NEW, 8 * M), NOTHING);
    assert_eq!(world.next("a"), Some(14 * M));
}

#[test]
fn a_cron_job_skips_what_was_due_before_it_was_loaded() {
    let mut world = World::new(4);
    assert_eq!(
        world.load("a", cron("*/5 * * * *"), fired_at(-30 * M), 2 * M),
        NOTHING
    );
    assert_eq!(world.next("a"), Some(5 * M));
    assert_eq!(world.clock(5 * M), ["a@300000"]);
    assert_eq!(world.view("a").skipped, 0);
}

#[test]
fn a_late_look_fires_the_latest_tick_once_and_counts_the_others() {
    for schedule in [every(5 * M), cron("*/5 * * * *")] {
        let mut world = World::new(4);
        world.load("a", schedule, fired_at(0), 0);
        assert_eq!(world.clock(32 * M), [format!("a@{}", 30 * M)]);
        let view = world.view("a");
        assert_eq!((view.skipped, view.late), (5, ms(2 * M)));
        assert_eq!(world.next("a"), Some(35 * M));
    }
}

#[test]
fn a_leap_over_a_year_of_seconds_is_one_fire_at_the_latest_second() {
    let mut world = World::new(4);
    world.load("a", cron("* * * * * *"), fired_at(0), 0);
    assert_eq!(world.clock(365 * DAY + 7), [format!("a@{}", 365 * DAY)]);
    assert_eq!(world.view("a").skipped, 100);
    assert_eq!(world.next("a"), Some(365 * DAY + S));
    // Sparse after dense: the 1st of the month, each minute.
    world.load("b", cron("* * 1 * *"), fired_at(0), 365 * DAY + 8);
    // Late on New Year's Day in Berlin; `a` runs still.
    let tick = 365 * DAY + 23 * H - M;
    assert_eq!(world.clock(385 * DAY), [format!("b@{tick}")]);
    assert_eq!(world.view("b").late, ms(385 * DAY - tick));
}

#[test]
fn a_tick_while_the_job_runs_is_skipped_and_counted() {
    let mut world = World::new(4);
    assert_eq!(world.load("a", every(10 * S), NEW, 0), ["a@0"]);
    assert_eq!(world.clock(10 * S), NOTHING);
    assert_eq!(world.clock(20 * S), NOTHING);
    assert_eq!(world.ended("a", 25 * S, 25 * S), NOTHING);
    assert_eq!(world.view("a").skipped, 2);
    assert_eq!(world.clock(30 * S), ["a@30000"]);
}

#[test]
fn every_after_counts_from_the_end_and_waits_it_out_after_a_restart() {
    let after = || Schedule::EveryAfter(ms(10 * S));
    let mut world = World::new(4);
    assert_eq!(world.load("a", after(), NEW, 0), ["a@0"]);
    assert_eq!(world.clock(60 * S), NOTHING);
    assert_eq!(world.ended("a", 61 * S, 61 * S), NOTHING);
    assert_eq!(world.clock(71 * S), ["a@71000"]);
    assert_eq!(world.view("a").skipped, 0);
    let mut world = World::new(4);
    assert_eq!(world.load("soon", after(), fired_at(0), 4 * S), NOTHING);
    assert_eq!(world.next("soon"), Some(10 * S));
    assert_eq!(world.load("late", after(), fired_at(0), 40 * S).len(), 2);
    // The last fire was stamped by a clock that was years ahead.
    world.load("odd", after(), fired_at(900 * DAY), 50 * S);
    assert_eq!(world.next("odd"), Some(60 * S));
}

#[test]
fn once_runs_until_a_run_of_its_generation_has_ended() {
    let mut world = World::new(4);
    assert_eq!(world.load("a", Schedule::Once, NEW, 0), ["a!schedule"]);
    // Edited while it runs: the end of the former generation's run does not count for the new one.
    assert_eq!(world.load("a", Schedule::Once, NEW, 5), NOTHING);
    assert_eq!(world.ended("a", 10, 10), ["a!schedule"]);
    assert_eq!(world.ended("a", 10, 20), NOTHING);
    assert_eq!(world.clock(DAY), NOTHING);
    let done = Past { done: true, ..NEW };
    assert_eq!(world.load("a", Schedule::Once, done, DAY), NOTHING);
    assert_eq!(world.load("a", Schedule::Once, NEW, DAY), ["a!schedule"]);
}

#[test]
fn a_kept_running_script_backs_off_and_is_forgiven_after_a_healthy_run() {
    let mut world = World::new(1);
    assert_eq!(
        world.load("a", Schedule::KeepRunning, NEW, 0),
        ["a!schedule"]
    );
    let mut now = 0;
    for wait in [1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300] {
        assert_eq!(world.ended("a", 5, now), NOTHING);
        assert_eq!(world.clock(now + wait * S - 1), NOTHING);
        now += wait * S;
        assert_eq!(world.clock(now), ["a!restart"]);
    }
    assert_eq!(world.ended("a", 60 * S, now), NOTHING);
    assert_eq!(world.clock(now + S), ["a!restart"]);
    // An edit starts it at once.
    assert_eq!(world.ended("a", 5, now + S), NOTHING);
    assert_eq!(
        world.load("a", Schedule::KeepRunning, NEW, now + S + 1),
        ["a!schedule"]
    );
}

#[test]
fn the_limit_holds_for_scheduled_runs_and_the_queue_is_fair() {
    let mut world = World::new(2);
    world.load("keep", Schedule::KeepRunning, NEW, 0);
    assert_eq!(world.load("a", every(10 * S), NEW, 0), ["a@0"]);
    assert_eq!(world.load("b", every(10 * S), NEW, 0), ["b@0"]);
    assert_eq!(world.load("c", every(10 * S), NEW, 1), NOTHING);
    assert_eq!(world.load("d", every(10 * S), NEW, 2), NOTHING);
    assert!(world.view("c").waiting == 1);
    assert_eq!(world.trigger("keep", 3), NOTHING, "it runs");
    // Later ticks of a waiting job coalesce; a busy job that is due again goes behind those who wait.
    assert_eq!(world.clock(10 * S + 5), NOTHING);
    assert_eq!(world.view("c").skipped, 1);
    assert_eq!(world.ended("a", 15 * S, 15 * S), ["c@10001"]);
    assert_eq!(world.view("c").late, ms(5 * S - 1));
    assert_eq!(world.clock(20 * S), NOTHING);
    assert_eq!(world.ended("c", 6 * S, 21 * S), ["d@10002"]);
    assert_eq!(world.ended("d", S, 22 * S), ["a@20000"]);
}

#[test]
fn a_person_is_bound_by_neither_limit_nor_hold_but_never_overlaps() {
    let mut world = World::new(1);
    world.load("a", every(10 * S), NEW, 0);
    assert_eq!(world.load("b", every(10 * S), NEW, 0), NOTHING);
    world.hold(Hold::Held, 1);
    assert_eq!(world.trigger("b", 1), ["b!manual"]);
    assert_eq!(world.trigger("b", 2), NOTHING);
    assert_eq!(world.view("b").skipped, 1, "its waiting tick would overlap");
    assert_eq!(world.ended("b", 1, 3), NOTHING);
    world.hold(Hold::Free, 3);
    assert_eq!(world.ended("a", 1, 4), NOTHING);
    assert_eq!(world.trigger("unknown", 4), NOTHING);
}

#[test]
fn what_is_due_while_held_is_run_afterwards_as_the_job_wishes() {
    let mut world = World::new(9);
    let missed = |missed| Policy {
        missed,
        ..Policy::default()
    };
    for (job, wish) in [
        ("skip", Missed::Skip),
        ("some", Missed::Once),
        ("two", Missed::All(2)),
    ] {
        world.load_with(job, every(10 * S), missed(wish), fired_at(0), 0);
    }
    world.load("keep", Schedule::KeepRunning, NEW, 0);
    assert_eq!(world.ended("keep", 5, 1), NOTHING);
    assert_eq!(world.hold(Hold::Held, 1), NOTHING);
    assert_eq!(world.clock(15 * S), NOTHING);
    assert_eq!(world.clock(25 * S), NOTHING);
    assert_eq!(world.clock(35 * S), NOTHING);
    let skipped = |world: &World| ["skip", "some", "two"].map(|job| world.view(job).skipped);
    assert_eq!(skipped(&world), [3, 2, 1]);
    assert_eq!(world.load("once", Schedule::Once, NEW, 36 * S), NOTHING);
    let first = missed(Missed::Skip);
    assert_eq!(
        world.load_with("new", every(DAY), first, NEW, 36 * S),
        NOTHING
    );
    assert_eq!(
        world.hold(Hold::Free, 37 * S),
        [
            "keep!restart",
            "some@30000",
            "two@20000",
            "once!schedule",
            "new@36000"
        ]
    );
    // The other one of two waits for the end of the first, and not for a tick.
    assert_eq!(world.ended("two", S, 38 * S), ["two@30000"]);
    assert_eq!(world.ended("two", S, 39 * S), NOTHING);
    assert_eq!(world.clock(40 * S), ["skip@40000", "two@40000"]);
    assert_eq!(skipped(&world), [3, 3, 1], "`some` still runs");
}

#[test]
fn what_was_due_while_the_daemon_was_not_running_is_run_as_the_job_wishes() {
    let past = Past {
        missed: true,
        ..fired_at(0)
    };
    for schedule in [every(10 * M), cron("*/10 * * * *")] {
        for (wish, expected, skipped) in [
            (Missed::Skip, vec![], 0),
            (Missed::Once, vec!["a@1800000"], 2),
            (Missed::All(2), vec!["a@1200000", "a@1800000"], 1),
            (
                Missed::All(9),
                vec!["a@600000", "a@1200000", "a@1800000"],
                0,
            ),
        ] {
            let mut world = World::new(4);
            let policy = Policy {
                missed: wish,
                ..Policy::default()
            };
            let mut fired = world.load_with("a", schedule.clone(), policy, past, 35 * M);
            while world.view("a").running > 0 {
                fired.extend(world.ended("a", S, 35 * M + S));
            }
            assert_eq!(fired, expected, "{wish:?}");
            assert_eq!(world.view("a").skipped, skipped, "{wish:?}");
            assert_eq!(world.next("a"), Some(40 * M), "{wish:?}");
        }
    }
    // What was never run has missed nothing.
    let mut world = World::new(4);
    let new = Past {
        missed: true,
        ..NEW
    };
    assert_eq!(world.load("a", cron("*/10 * * * *"), new, 35 * M), NOTHING);
}

#[test]
fn a_suspended_machine_catches_up_as_the_job_wishes_and_a_late_look_is_not_a_missed_tick() {
    let skip = Policy {
        missed: Missed::Skip,
        ..Policy::default()
    };
    let all = Policy {
        missed: Missed::All(96),
        ..Policy::default()
    };
    let mut world = World::new(4);
    world.load_with("skip", cron("* * * * *"), skip, fired_at(0), 0);
    world.load_with("all", cron("* * * * *"), all, fired_at(0), 0);
    assert_eq!(world.clock(M + 10 * S), ["all@60000", "skip@60000"]);
    world.ended("skip", S, M + 11 * S);
    world.ended("all", S, M + 11 * S);
    // A week in a bag.
    let now = 7 * DAY + 30 * S;
    let mut fired = world.clock(now);
    while world.view("all").running > 0 {
        fired.extend(world.ended("all", S, now));
    }
    let expected: Vec<String> = (0..96)
        .rev()
        .map(|before| format!("all@{}", 7 * DAY - before * M))
        .collect();
    assert_eq!(fired, expected);
    assert_eq!(world.next("skip"), Some(7 * DAY + M));
}

#[test]
fn a_tick_that_overlaps_waits_once_or_ends_the_old_run_or_runs_beside_it() {
    let overlap = |overlap| Policy {
        overlap,
        ..Policy::default()
    };
    let mut world = World::new(9);
    for (job, wish) in [
        ("queue", Overlap::Queue),
        ("kill", Overlap::KillOld),
        ("two", Overlap::Parallel(2)),
    ] {
        world.load_with(job, every(10 * S), overlap(wish), fired_at(0), 0);
    }
    assert_eq!(
        world.clock(10 * S),
        ["kill@10000", "queue@10000", "two@10000"]
    );
    assert_eq!(world.clock(20 * S), ["kill-", "two@20000"]);
    assert_eq!(world.clock(30 * S), ["kill-"], "it is slow to die");
    let skipped = |world: &World| ["queue", "kill", "two"].map(|job| world.view(job).skipped);
    assert_eq!(skipped(&world), [1, 1, 1]);
    assert_eq!(world.ended("queue", S, 31 * S), ["queue@30000"]);
    assert_eq!(world.ended("kill", S, 31 * S), ["kill@30000"]);
    assert_eq!(world.ended("two", S, 31 * S), NOTHING);
    assert_eq!(world.clock(40 * S), ["kill-", "two@40000"]);
    assert_eq!(world.view("two").running, 2);
    // A person may have a further run beside, as far as the job allows.
    assert_eq!(world.trigger("two", 41 * S), NOTHING);
    assert_eq!(world.ended("two", S, 42 * S), NOTHING);
    assert_eq!(world.trigger("two", 42 * S), ["two!manual"]);
}

#[test]
fn jitter_moves_each_tick_by_the_same_and_leaves_its_name() {
    let policy = Policy {
        jitter: ms(M),
        ..Policy::default()
    };
    let offset = i64::try_from(policy::offset("host", "a", ms(M)).as_millis()).unwrap();
    assert!(offset > S, "the test needs a job that is moved");
    let mut world = World::new(9);
    let hourly = || cron("0 * * * *");
    assert_eq!(world.load_with("a", hourly(), policy, NEW, M), NOTHING);
    for hour in 1..5 {
        assert_eq!(world.next("a"), Some(hour * H + offset));
        assert_eq!(world.clock(hour * H + offset - 1), NOTHING);
        let due = hour * H + offset;
        assert_eq!(world.clock(due), [format!("a@{}", hour * H)]);
        assert_eq!(world.view("a").late, Duration::ZERO);
        world.ended("a", S, due + 1);
        // Neither a reload nor a small step back runs the tick twice.
        assert_eq!(
            world.load_with("a", hourly(), policy, NEW, due + 2),
            NOTHING
        );
        assert_eq!(world.clock(hour * H + S), NOTHING);
    }
    let mut world = World::new(9);
    assert_eq!(world.load_with("a", every(H), policy, NEW, 0), NOTHING);
    assert_eq!(world.clock(offset), ["a@0"], "also the first");
    assert_eq!(world.next("a"), Some(H + offset));
}

#[test]
fn a_failed_run_is_tried_again_for_its_tick_until_it_succeeds_or_the_next_tick_comes() {
    let policy = Policy {
        restart: Some(Restart {
            max: 2,
            backoff: ms(10 * S),
        }),
        ..Policy::default()
    };
    let mut world = World::new(1);
    world.load_with("a", cron("*/10 * * * *"), policy, NEW, 0);
    assert_eq!(world.clock(10 * M), ["a@600000"]);
    assert_eq!(world.failed("a", 10 * M + S), NOTHING);
    assert_eq!(world.next("a"), Some(10 * M + 11 * S));
    assert_eq!(world.clock(10 * M + 11 * S), ["a@600000!restart"]);
    assert_eq!(world.failed("a", 10 * M + 12 * S), NOTHING);
    assert_eq!(world.view("a").restarts, 2);
    assert_eq!(world.clock(10 * M + 32 * S), ["a@600000!restart"]);
    assert_eq!(world.failed("a", 10 * M + 33 * S), NOTHING);
    assert_eq!(world.next("a"), Some(20 * M), "there were two");
    // The next tick has its own tries, and displaces one that waits.
    assert_eq!(world.clock(20 * M), ["a@1200000"]);
    assert_eq!(world.failed("a", 30 * M - 5 * S), NOTHING);
    assert_eq!(world.clock(30 * M), ["a@1800000"]);
    assert_eq!(world.ended("a", S, 31 * M), NOTHING);
    assert_eq!(world.next("a"), Some(40 * M));
    // Others: once is done only then, a pause after each end is kept after the last try.
    world.load_with("once", Schedule::Once, policy, NEW, 31 * M);
    assert_eq!(world.failed("once", 31 * M + S), NOTHING);
    assert_eq!(world.clock(31 * M + 11 * S), ["once!restart"]);
    assert_eq!(world.ended("once", S, 32 * M), NOTHING);
    assert_eq!(world.next("once"), None);
}

#[test]
fn under_pressure_a_job_that_stretches_runs_less_and_less_often() {
    let policy = Policy {
        on_pressure: OnPressure::Stretch,
        ..Policy::default()
    };
    let mut world = World::new(9);
    world.load_with("a", every(M), policy, fired_at(0), 0);
    world.load("b", every(M), fired_at(0), 0);
    world.hold(Hold::Pressed, 0);
    let mut fired = Vec::new();
    for minute in 1..64 {
        for run in world.clock(minute * M) {
            fired.push(run);
            world.ended("a", S, minute * M + S);
        }
    }
    let at = |minute: i64| format!("a@{}", minute * M);
    assert_eq!(fired, [1, 3, 7, 15, 31, 47, 63].map(at));
    assert_eq!(world.view("a").stretch, 16);
    assert_eq!(world.view("a").skipped, 63 - 7);
    world.hold(Hold::Held, 63 * M + S);
    assert_eq!(world.clock(79 * M), NOTHING, "nothing can be recorded");
    let mut freed = world.hold(Hold::Free, 79 * M + S);
    freed.sort();
    assert_eq!(freed, [at(79), format!("b@{}", 79 * M)]);
    assert_eq!(world.view("a").stretch, 1);
    world.ended("a", S, 79 * M + 2 * S);
    assert_eq!(world.clock(80 * M), [at(80)]);
}

#[test]
fn a_paused_job_runs_by_hand_only_and_misses_nothing_that_is_caught_up() {
    let mut world = World::new(9);
    world.load("tick", every(10 * S), fired_at(0), 0);
    world.load("keep", Schedule::KeepRunning, NEW, 0);
    for job in ["tick", "keep"] {
        assert_eq!(world.pause(job), NOTHING);
        assert!(world.view(job).paused);
    }
    assert_eq!(world.ended("keep", 5, 5), NOTHING);
    assert_eq!(world.clock(35 * S), NOTHING);
    assert_eq!(world.view("tick").skipped, 3);
    assert_eq!(world.trigger("tick", 36 * S), ["tick!manual"]);
    world.ended("tick", S, 37 * S);
    // An edit does not end the pause.
    assert_eq!(world.load("tick", every(5 * S), NEW, 37 * S), NOTHING);
    assert_eq!(world.clock(38 * S), NOTHING);
    assert_eq!(world.resume("tick", 38 * S), NOTHING);
    assert_eq!(world.clock(40 * S), ["tick@40000"]);
    assert_eq!(world.resume("keep", 41 * S), ["keep!restart"]);
}

#[test]
fn ten_thousand_jobs_that_are_due_at_once_all_start_and_take_turns() {
    const JOBS: usize = 10_000;
    let mut world = World::new(64);
    for n in 0..JOBS {
        world.load(&format!("j{n}"), cron("* * * * *"), NEW, 0);
    }
    let mut started: Vec<String> = world.clock(M);
    assert_eq!(started.len(), 64);
    // Each run lasts five minutes of the others' ticks.
    let mut at = 0;
    while at < started.len() {
        let job = started[at].split('@').next().unwrap().to_owned();
        at += 1;
        if at <= JOBS {
            started.extend(world.ended(&job, S, M + S));
        }
    }
    let names: BTreeSet<&str> = started
        .iter()
        .map(|fire| fire.split('@').next().unwrap())
        .collect();
    assert_eq!((started.len(), names.len()), (JOBS, JOBS));
    assert_eq!(world.scheduler.running, 0);
}

#[test]
fn a_job_that_comes_back_while_its_old_run_lasts_does_not_overlap() {
    let mut world = World::new(4);
    world.load("a", every(10 * S), NEW, 0);
    assert_eq!(world.remove("a"), NOTHING);
    assert_eq!(world.view("a").running, 1);
    assert_eq!(world.load("a", every(10 * S), NEW, 5 * S), NOTHING);
    assert_eq!(world.clock(10 * S), NOTHING);
    assert_eq!(world.ended("a", 15 * S, 15 * S), NOTHING);
    assert_eq!(world.clock(20 * S), ["a@20000"]);
    world.remove("a");
    assert_eq!(world.ended("a", S, 21 * S), NOTHING);
    assert_eq!(world.scheduler.view("a"), None);
    assert_eq!(world.ended("a", S, 22 * S), NOTHING, "late and repeated");
    assert_eq!(world.scheduler.next_wake(), None);
}

#[test]
fn a_clock_set_back_within_a_period_fires_no_tick_again() {
    for schedule in [every(H), cron("0 * * * *")] {
        let mut world = World::new(4);
        world.load("a", schedule, fired_at(0), 0);
        assert_eq!(world.clock(H), ["a@3600000"]);
        world.ended("a", S, H + S);
        assert_eq!(world.clock(15 * M), NOTHING);
        assert_eq!(world.clock(H), NOTHING);
        assert_eq!(world.clock(2 * H), ["a@7200000"]);
    }
}

#[test]
fn a_tick_that_waits_while_the_clock_is_set_back_is_fired_once() {
    let mut world = World::new(1);
    world.load("a", Schedule::EveryAfter(ms(DAY)), NEW, 0);
    world.load("b", every(H), fired_at(0), 0);
    assert_eq!(world.clock(H), NOTHING);
    assert_eq!(world.clock(30 * M), NOTHING);
    assert_eq!(world.ended("a", S, 40 * M), ["b@3600000"]);
    assert_eq!(world.ended("b", S, 41 * M), NOTHING);
    assert_eq!(world.clock(H), NOTHING);
    assert_eq!(world.clock(2 * H), ["b@7200000"]);
}

#[test]
fn a_clock_set_back_by_more_than_a_period_silences_no_job() {
    let mut world = World::new(8);
    world.load("every", every(H), fired_at(0), 0);
    world.load("cron", cron("0 * * * *"), fired_at(0), 0);
    world.load("after", Schedule::EveryAfter(ms(H)), fired_at(0), 0);
    world.load("keep", Schedule::KeepRunning, NEW, 0);
    // Ten years ahead by mistake, then right again.
    let wrong = 3650 * DAY;
    assert_eq!(world.clock(wrong).len(), 3);
    for job in ["every", "cron", "after", "keep"] {
        world.ended(job, S, wrong + S);
    }
    world.load("new", cron("0 * * * *"), NEW, wrong + S);
    assert_eq!(world.clock(30 * M), NOTHING);
    for job in ["every", "cron", "new"] {
        assert_eq!(world.next(job), Some(H), "{job}");
    }
    assert_eq!(world.next("after"), Some(90 * M));
    assert!(world.next("keep").unwrap() <= 30 * M + 2 * S);
    // The same when the daemon starts with fires from the future in its log.
    let mut world = World::new(8);
    world.load("every", every(H), fired_at(wrong), 30 * M);
    world.load("cron", cron("0 * * * *"), fired_at(wrong), 30 * M);
    assert_eq!(
        (world.next("every"), world.next("cron")),
        (Some(H), Some(H))
    );
}

#[test]
fn after_a_stop_nothing_starts() {
    let mut world = World::new(1);
    world.load("a", every(S), NEW, 0);
    world.load("b", every(S), NEW, 0);
    assert_eq!(world.step(Input::Stop), NOTHING);
    assert_eq!(world.ended("a", S, S), NOTHING);
    assert_eq!(world.clock(DAY), NOTHING);
    assert_eq!(world.trigger("b", DAY), NOTHING);
    assert_eq!(
        (world.scheduler.next_wake(), world.view("a").running),
        (None, 0)
    );
}

/// Runs 1,000 jobs every 10 s, each run lasting until the next due time of any job.
fn a_thousand_jobs(span: i64) {
    const JOBS: i64 = 1_000;
    let mut scheduler = Scheduler::new("host".to_owned(), 1_000);
    let mut acts = Vec::new();
    for n in 0..JOBS {
        acts.extend(scheduler.step(Input::Load {
            job: format!("job-{n}").into(),
            schedule: every(10 * S),
            policy: Policy::default(),
            past: NEW,
            now: Timestamp(START + n * 10),
        }));
    }
    let mut fired = acts.len();
    while let Some(now) = scheduler.next_wake().filter(|at| at.0 < START + span) {
        for act in std::mem::take(&mut acts) {
            let Act::Fire(Fire { job, number, .. }) = act else {
                continue;
            };
            acts.extend(scheduler.step(Input::Ended {
                job,
                number,
                ran: ms(10),
                end: End::Well,
                now,
            }));
        }
        acts.extend(scheduler.step(Input::Clock { now }));
        fired += acts.len();
    }
    assert_eq!(i64::try_from(fired).unwrap(), JOBS * (span / (10 * S)));
    for n in 0..JOBS {
        assert_eq!(scheduler.view(&format!("job-{n}")).unwrap().skipped, 0);
    }
}

#[test]
fn a_thousand_jobs_every_ten_seconds_miss_no_tick() {
    // A whole day takes half a minute without optimisation.
    let soak = std::env::var_os("SPOOLBEAT_SOAK").is_some_and(|value| value == "1");
    a_thousand_jobs(if soak { DAY } else { 30 * M });
}

/// What may happen in a simulated year.
#[derive(Debug, Clone)]
enum Event {
    Pass(i64),
    SetBack(i64),
    End(usize),
    Trigger(usize),
    Reload(usize),
    Remove(usize),
    Hold(Hold),
    Restart,
}

fn event() -> impl Strategy<Value = Event> {
    let job = 0..schedules().len();
    prop_oneof![
        6 => (1..H).prop_map(Event::Pass),
        3 => (1..4 * DAY).prop_map(Event::Pass),
        1 => (1..2 * H).prop_map(Event::SetBack),
        1 => (1..5 * DAY).prop_map(Event::SetBack),
        8 => job.clone().prop_map(Event::End),
        1 => job.clone().prop_map(Event::Trigger),
        2 => job.clone().prop_map(Event::Reload),
        1 => job.prop_map(Event::Remove),
        1 => Just(Event::Hold(Hold::Held)),
        1 => Just(Event::Hold(Hold::Pressed)),
        2 => Just(Event::Hold(Hold::Free)),
        1 => Just(Event::Restart),
    ]
}

fn schedules() -> Vec<Schedule> {
    vec![
        every(10 * M),
        every(7 * S),
        every(DAY),
        cron("*/15 * * * *"),
        cron("30 2 * * *"),
        cron("0 0 1 * *"),
        Schedule::EveryAfter(ms(H)),
        Schedule::KeepRunning,
        Schedule::Once,
    ]
}

const LIMIT: u32 = 3;

/// The promises, checked from outside.
struct Model {
    schedules: Vec<Schedule>,
    scheduler: Scheduler,
    now: Timestamp,
    /// What runs, and whether it counts against the limit.
    running: BTreeMap<usize, (Lane, u64)>,
    /// The tick of each job that was fired last.
    last: BTreeMap<usize, Timestamp>,
    /// The same, but forgotten when the clock is set back by more than a period.
    order: BTreeMap<usize, Timestamp>,
    fired: BTreeMap<usize, u64>,
}

impl Model {
    fn new() -> Self {
        let mut model = Self {
            schedules: schedules(),
            scheduler: Scheduler::new("host".to_owned(), LIMIT),
            now: Timestamp(START),
            running: BTreeMap::new(),
            last: BTreeMap::new(),
            order: BTreeMap::new(),
            fired: BTreeMap::new(),
        };
        model.load_all();
        model
    }

    fn load_all(&mut self) {
        (0..self.schedules.len()).for_each(|job| self.load(job));
    }

    fn load(&mut self, job: usize) {
        let past = Past {
            last_fire: self.last.get(&job).copied(),
            done: false,
            missed: true,
        };
        self.step(Input::Load {
            job: job.to_string().into(),
            schedule: self.schedules[job].clone(),
            policy: Policy::default(),
            past,
            now: self.now,
        });
    }

    fn step(&mut self, input: Input) {
        for act in self.scheduler.step(input) {
            match act {
                Act::Fire(fire) => self.check(&fire),
                Act::End { job, .. } => panic!("nobody wished the end of {job}"),
            }
        }
        let lanes = self.running.values();
        let limited = lanes.filter(|(lane, _)| *lane == Lane::Limited).count();
        assert!(limited <= LIMIT as usize);
        assert!(
            self.scheduler.next_wake().is_none_or(|at| at > self.now),
            "what is due has been handled"
        );
    }

    fn check(&mut self, fire: &Fire) {
        let job: usize = fire.job.parse().unwrap();
        let schedule = &self.schedules[job];
        let limited = fire.trigger == Trigger::Schedule && *schedule != Schedule::KeepRunning;
        let lane = if limited { Lane::Limited } else { Lane::Free };
        assert_eq!(
            self.running.insert(job, (lane, fire.number)),
            None,
            "{job} overlaps"
        );
        *self.fired.entry(job).or_default() += 1;
        let (Some(tick), Schedule::Cron(_) | Schedule::Every(_)) = (fire.scheduled_at, schedule)
        else {
            return;
        };
        // A tick may wait while the clock is set back, but never by more than a period.
        assert!(
            tick <= self.now.after(period_from(schedule, tick)),
            "{job}: {tick} at {}",
            self.now
        );
        if let Schedule::Cron(cron) = schedule {
            assert_eq!(cron.next_after(Timestamp(tick.0 - 1)), Some(tick), "{job}");
        }
        if let (Some(last), Schedule::Every(period)) = (self.last.get(&job), schedule) {
            let phase = (tick.0 - last.0).rem_euclid(whole(*period));
            assert_eq!(phase, 0, "{job} keeps its phase");
        }
        self.last.insert(job, tick);
        if let Some(last) = self.order.insert(job, tick) {
            assert!(tick > last, "{job}: {tick} after {last}");
        }
    }

    fn clock(&mut self, now: Timestamp) {
        self.now = now;
        let schedules = &self.schedules;
        self.order
            .retain(|job, last| *last <= now.after(period_from(&schedules[*job], *last)));
        self.step(Input::Clock { now });
    }

    fn end(&mut self, job: usize) {
        if let Some((_, number)) = self.running.remove(&job) {
            self.step(Input::Ended {
                job: job.to_string().into(),
                number,
                ran: ms(S),
                end: End::Well,
                now: self.now,
            });
        }
    }

    fn event(&mut self, event: Event) {
        match event {
            Event::Pass(by) => self.clock(self.now.after(ms(by))),
            Event::SetBack(by) => self.clock(Timestamp(self.now.0 - by)),
            Event::End(job) => self.end(job),
            Event::Trigger(job) => self.step(Input::Trigger {
                job: job.to_string().into(),
                now: self.now,
            }),
            Event::Reload(job) => self.load(job),
            Event::Remove(job) => self.step(Input::Remove {
                job: job.to_string().into(),
            }),
            Event::Hold(on) => self.step(Input::Hold { on, now: self.now }),
            Event::Restart => {
                self.scheduler = Scheduler::new("host".to_owned(), LIMIT);
                self.running.clear();
                self.load_all();
            }
        }
    }

    /// Lets a month and a half go by as it should: every job must come to run.
    fn must_not_be_silent(&mut self) {
        self.step(Input::Hold {
            on: Hold::Free,
            now: self.now,
        });
        self.load_all();
        self.fired.clear();
        for _ in 0..46 * 24 {
            (0..self.schedules.len()).for_each(|job| self.end(job));
            self.clock(self.now.after(ms(H)));
        }
        for (job, least) in [300, 300, 40, 300, 40, 1, 300, 300, 0]
            .into_iter()
            .enumerate()
        {
            let fired = self.fired.get(&job).copied().unwrap_or(0);
            let schedule = &self.schedules[job];
            assert!(fired >= least, "{schedule:?} fired {fired} times");
        }
    }
}

fn whole(period: Duration) -> i64 {
    i64::try_from(period.as_millis()).unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]
    #[test]
    fn in_a_year_of_jumping_clocks_no_tick_runs_twice_no_run_overlaps_no_job_falls_silent(
        events in proptest::collection::vec(event(), 300..600),
    ) {
        let mut model = Model::new();
        for event in events {
            model.event(event);
        }
        model.must_not_be_silent();
    }
}
