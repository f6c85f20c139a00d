//! The scheduler's promises, on simulated clocks.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::schedule::Cron;

const S: i64 = 1_000;
const M: i64 = 60 * S;
const H: i64 = 60 * M;
const DAY: i64 = 24 * H;
/// 2026-01-01T00:00:00Z.
const START: i64 = 1_767_225_600_000;
const NEW: Past = Past {
    last_fire: None,
    done: false,
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
struct World(Scheduler);

impl World {
    fn new(max_concurrent: u32) -> Self {
        Self(Scheduler::new(max_concurrent))
    }

    /// Takes a step; shows fires as `job@tick` in milliseconds after START, or `job!trigger`.
    fn step(&mut self, input: Input) -> Vec<String> {
        let fires = self.0.step(input);
        let show = |fire: &Fire| match fire.scheduled_at {
            Some(at) => format!("{}@{}", fire.job, at.0 - START),
            None => format!("{}!{}", fire.job, fire.trigger.name()),
        };
        fires.iter().map(show).collect()
    }

    fn load(&mut self, job: &str, schedule: Schedule, past: Past, now: i64) -> Vec<String> {
        self.step(Input::Load {
            job: job.into(),
            schedule,
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
        self.step(Input::Ended {
            job: job.into(),
            ran: ms(ran),
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

    fn hold(&mut self, on: Hold) -> Vec<String> {
        self.step(Input::Hold { on })
    }

    fn view(&self, job: &str) -> View {
        self.0.view(job).unwrap()
    }

    fn next(&self, job: &str) -> Option<i64> {
        self.view(job).next.map(|at| at.0 - START)
    }
}

const NOTHING: [&str; 0] = [];

fn fired_at(at: i64) -> Past {
    Past {
        last_fire: Some(Timestamp(START + at)),
        done: false,
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
    assert!(world.view("c").waiting);
    assert_eq!(world.trigger("keep", 3), NOTHING, "it runs");
    // Later ticks of a waiting job coalesce; a busy job that is due again goes behind those who wait.
    assert_eq!(world.clock(10 * S + 5), NOTHING);
    assert_eq!(world.view("c").skipped, 1);
    assert_eq!(world.ended("a", 15 * S, 15 * S), ["c@1"]);
    assert_eq!(world.view("c").late, ms(15 * S - 1));
    assert_eq!(world.clock(20 * S), NOTHING);
    assert_eq!(world.ended("c", 6 * S, 21 * S), ["d@2"]);
    assert_eq!(world.ended("d", S, 22 * S), ["a@20000"]);
}

#[test]
fn a_person_is_bound_by_neither_limit_nor_hold_but_never_overlaps() {
    let mut world = World::new(1);
    world.load("a", every(10 * S), NEW, 0);
    assert_eq!(world.load("b", every(10 * S), NEW, 0), NOTHING);
    world.hold(Hold::Held);
    assert_eq!(world.trigger("b", 1), ["b!manual"]);
    assert_eq!(world.trigger("b", 2), NOTHING);
    assert_eq!(world.view("b").skipped, 1, "its waiting tick would overlap");
    assert_eq!(world.ended("b", 1, 3), NOTHING);
    world.hold(Hold::Free);
    assert_eq!(world.ended("a", 1, 4), NOTHING);
    assert_eq!(world.trigger("unknown", 4), NOTHING);
}

#[test]
fn while_held_ticks_are_skipped_and_what_has_no_next_tick_waits() {
    let mut world = World::new(4);
    world.load("tick", every(10 * S), fired_at(0), 0);
    world.load("keep", Schedule::KeepRunning, NEW, 0);
    assert_eq!(world.ended("keep", 5, 1), NOTHING);
    assert_eq!(world.hold(Hold::Held), NOTHING);
    assert_eq!(world.clock(35 * S), NOTHING);
    assert_eq!(world.view("tick").skipped, 3);
    assert_eq!(world.load("once", Schedule::Once, NEW, 36 * S), NOTHING);
    assert_eq!(world.load("new", every(DAY), NEW, 36 * S), NOTHING);
    let mut freed = world.hold(Hold::Free);
    freed.sort();
    assert_eq!(freed, ["keep!restart", "new@36000", "once!schedule"]);
    assert_eq!(world.clock(40 * S), ["tick@40000"]);
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
    assert_eq!(world.0.view("a"), None);
    assert_eq!(world.ended("a", S, 22 * S), NOTHING, "late and repeated");
    assert_eq!(world.0.next_wake(), None);
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
    assert_eq!((world.0.next_wake(), world.view("a").running), (None, 0));
}

/// Runs 1,000 jobs every 10 s, each run lasting until the next due time of any job.
fn a_thousand_jobs(span: i64) {
    const JOBS: i64 = 1_000;
    let mut scheduler = Scheduler::new(1_000);
    let mut fires = Vec::new();
    for n in 0..JOBS {
        fires.extend(scheduler.step(Input::Load {
            job: format!("job-{n}").into(),
            schedule: every(10 * S),
            past: NEW,
            now: Timestamp(START + n * 10),
        }));
    }
    let mut fired = fires.len();
    while let Some(now) = scheduler.next_wake().filter(|at| at.0 < START + span) {
        for fire in std::mem::take(&mut fires) {
            let job = fire.job;
            let ran = ms(10);
            fires.extend(scheduler.step(Input::Ended { job, ran, now }));
        }
        fires.extend(scheduler.step(Input::Clock { now }));
        fired += fires.len();
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
    running: BTreeMap<usize, Lane>,
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
            scheduler: Scheduler::new(LIMIT),
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
        };
        self.step(Input::Load {
            job: job.to_string().into(),
            schedule: self.schedules[job].clone(),
            past,
            now: self.now,
        });
    }

    fn step(&mut self, input: Input) {
        for fire in self.scheduler.step(input) {
            self.check(&fire);
        }
        let lanes = self.running.values();
        let limited = lanes.filter(|lane| **lane == Lane::Limited).count();
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
        assert_eq!(self.running.insert(job, lane), None, "{job} overlaps");
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
        if self.running.remove(&job).is_some() {
            self.step(Input::Ended {
                job: job.to_string().into(),
                ran: ms(S),
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
            Event::Hold(on) => self.step(Input::Hold { on }),
            Event::Restart => {
                self.scheduler = Scheduler::new(LIMIT);
                self.running.clear();
                self.load_all();
            }
        }
    }

    /// Lets a month and a half go by as it should: every job must come to run.
    fn must_not_be_silent(&mut self) {
        self.step(Input::Hold { on: Hold::Free });
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
