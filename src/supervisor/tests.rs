//! The supervisor as a pure machine: scripted notes in, effects looked at.
#![expect(clippy::unwrap_used, reason = "tests")]

use super::*;
use crate::cleanup::Keep;
use crate::config::Problem;
use crate::event::Notice;
use crate::event::Route;
use crate::job::Capture;
use crate::job::Cwd;
use crate::job::Format;
use crate::job::Language;
use crate::job::Script;
use crate::job::Task;
use crate::process::Can;
use crate::process::Rights;
use crate::run::Trigger;
use crate::schedule::Policy;
use crate::status::Answer;
use crate::status::DaemonState;
use crate::status::JobState;
use crate::status::Request;

mod life;
mod steer;

const MINUTE: Duration = Duration::from_secs(60);
const BEGIN: i64 = 1_763_712_488_000;

pub(crate) fn job(name: &str, generation: &str, schedule: Schedule) -> Job {
    let capture = Capture {
        events: true,
        errors: false,
        log: false,
        format: Format::Text,
        multiline: None,
        max_event: 1 << 20,
        phases: vec![run::Phase::Run],
    };
    Job {
        name: name.to_owned(),
        generation: generation.to_owned(),
        folder: PathBuf::from("/none"),
        description: String::new(),
        enabled: true,
        tags: Vec::new(),
        fields: serde_json::Map::new(),
        receive: None,
        rights: Rights::own(),
        files: Vec::new(),
        task: Some(Arc::new(Task {
            script: Script {
                run: "run.sh".to_owned(),
                language: Language::Sh,
                modules: Vec::new(),
                args: Vec::new(),
                env: BTreeMap::new(),
                pass_env: Vec::new(),
                secrets: BTreeMap::new(),
                timeout: (schedule != Schedule::KeepRunning).then_some(10 * MINUTE),
                kill_grace: Duration::from_secs(10),
                cwd: Cwd::Job,
                on_stop: AtEnd::Terminate,
                on_remove: AtEnd::Terminate,
            },
            schedule,
            policy: Policy::default(),
            expect_every: None,
            first_run: None,
            startup: None,
            stdout: capture.clone(),
            stderr: capture,
        })),
        route: Route::default(),
        on_result: None,
        waits_for: Vec::new(),
        keep: Keep {
            runs: 50,
            age: MINUTE,
            bytes: 1 << 20,
        },
    }
}

fn script(job: &mut Job) -> &mut Script {
    &mut Arc::make_mut(job.task.as_mut().unwrap()).script
}

/// A job that is due every minute, and at once when it is new.
fn minutely(name: &str, generation: &str) -> Job {
    job(name, generation, Schedule::Every(MINUTE))
}

struct Rig {
    supervisor: Supervisor,
    at: u64,
    effects: Vec<Effect>,
}

impl Rig {
    fn new(mode: Mode, pasts: BTreeMap<String, Past>, open: Vec<OpenRun>) -> Self {
        Self::start(Start {
            mode,
            pasts,
            open,
            ..Self::usual()
        })
    }

    /// A daemon on an empty root.
    fn usual() -> Start {
        Start {
            now: Now {
                wall: Timestamp(BEGIN),
                tick: Tick(0),
            },
            host: "host".to_owned(),
            can: Can::default(),
            paused: Vec::new(),
            require_output: false,
            mode: Mode::Serve,
            state_dir: PathBuf::from("/root/state"),
            settings: Settings {
                max_concurrent: 2,
                stop_timeout: Duration::from_secs(5),
                heartbeat: None,
            },
            pasts: BTreeMap::new(),
            open: Vec::new(),
            seed: 7,
        }
    }

    fn start(start: Start) -> Self {
        let (supervisor, effects) = Supervisor::new(start);
        Self {
            supervisor,
            at: 0,
            effects,
        }
    }

    fn serve() -> Self {
        Self::new(Mode::Serve, BTreeMap::new(), Vec::new())
    }

    fn once() -> Self {
        let keep_running = Duration::from_secs(10);
        Self::new(Mode::Once { keep_running }, BTreeMap::new(), Vec::new())
    }

    fn now(&self) -> Now {
        Now {
            wall: Timestamp(BEGIN + i64::try_from(self.at).unwrap()),
            tick: Tick(self.at),
        }
    }

    fn note(&mut self, note: Note) {
        self.effects = self.supervisor.step(self.now(), note);
    }

    fn pass(&mut self, time: Duration) {
        self.at += u64::try_from(time.as_millis()).unwrap();
        self.note(Note::Clock);
    }

    fn load(&mut self, job: Job) -> Vec<Spec> {
        self.note(Note::Spool(Change::Loaded(Arc::new(job))));
        self.started()
    }

    fn refuse(&mut self, job: &str) {
        self.note(Note::Spool(Change::Refused {
            job: job.to_owned(),
            problems: vec![Problem {
                file: format!("jobs/{job}/job.toml"),
                line: 12,
                column: 9,
                key: "schedule.every".to_owned(),
                message: "`30` is not a duration".to_owned(),
            }],
        }));
    }

    fn remove(&mut self, job: &str) {
        let job = job.to_owned();
        self.note(Note::Spool(Change::Removed { job }));
    }

    fn end(&mut self, spec: &Spec, outcome: Outcome) -> Vec<Spec> {
        self.note(Note::RunEnded(Ended {
            run: spec.run.clone(),
            job: Arc::clone(&spec.job),
            outcome,
            exit: None,
            reason: (outcome != Outcome::Success).then(|| "why".to_owned()),
            started_at: Timestamp(BEGIN),
            at: self.now().wall,
            took: Duration::from_millis(self.at),
            delivery: None,
        }));
        self.started()
    }

    fn ask(&mut self, request: Request) -> Answer {
        let ask = Ask(1);
        self.note(Note::Asked { ask, request });
        let answer = self.effects.iter().find_map(|effect| match effect {
            Effect::Reply { answer, .. } => Some(answer.clone()),
            _ => None,
        });
        answer.unwrap()
    }

    fn trigger(&mut self, job: &str) -> Answer {
        let job = job.to_owned();
        self.ask(Request::Trigger { job })
    }

    fn queue(&mut self, bytes: u64) {
        self.note(Note::Queue(QueueLevel {
            bytes,
            max_bytes: 100,
            broken: None,
        }));
    }

    fn terminate(&mut self) {
        self.note(Note::Signal(Signal::Terminate));
    }

    fn started(&self) -> Vec<Spec> {
        let specs = self.effects.iter().filter_map(|effect| match effect {
            Effect::StartRun(spec) => Some((**spec).clone()),
            _ => None,
        });
        specs.collect()
    }

    fn orders(&self) -> Vec<(RunId, Order)> {
        let orders = self.effects.iter().filter_map(|effect| match effect {
            Effect::OrderRun { run, order } => Some((run.clone(), *order)),
            _ => None,
        });
        orders.collect()
    }

    fn drains(&self) -> bool {
        let begins = |effect: &Effect| matches!(effect, Effect::BeginDrain);
        self.effects.iter().any(begins)
    }

    fn exit(&self) -> Option<Exit> {
        self.effects.iter().find_map(|effect| match effect {
            Effect::Exit(exit) => Some(*exit),
            _ => None,
        })
    }

    fn job(&self, name: &str) -> status::Job {
        let snapshot = self.supervisor.snapshot(self.now());
        let job = snapshot.jobs.into_iter().find(|job| job.name == name);
        job.unwrap()
    }
}

fn only(mut specs: Vec<Spec>) -> Spec {
    assert_eq!(specs.len(), 1, "{specs:?}");
    specs.pop().unwrap()
}

#[test]
fn a_new_job_runs_at_once_and_then_at_its_ticks() {
    let mut rig = Rig::serve();
    let first = only(rig.load(minutely("disk", "g1")));
    assert_eq!(first.scheduled_at, Some(Timestamp(BEGIN)));
    assert_eq!(first.state_dir, PathBuf::from("/root/state/disk/data"));
    assert_eq!(first.last_success_at, None);
    rig.end(&first, Outcome::Success);
    rig.pass(Duration::from_secs(59));
    assert!(rig.started().is_empty());
    rig.pass(Duration::from_secs(1));
    let second = only(rig.started());
    assert_eq!(second.scheduled_at, Some(Timestamp(BEGIN + 60_000)));
    assert_eq!(second.last_success_at, Some(Timestamp(BEGIN)));
    assert_ne!(first.run, second.run);
}

#[test]
fn an_edit_during_a_run_leaves_the_run_alone_and_the_next_run_is_the_new_generation() {
    let mut rig = Rig::serve();
    let first = only(rig.load(minutely("disk", "g1")));
    assert!(rig.load(minutely("disk", "g2")).is_empty());
    assert!(rig.orders().is_empty());
    assert_eq!(first.job.generation, "g1");
    rig.end(&first, Outcome::Success);
    rig.pass(MINUTE);
    assert_eq!(only(rig.started()).job.generation, "g2");
}

#[test]
fn an_edit_of_one_job_does_nothing_to_another() {
    let mut rig = Rig::serve();
    let other = only(rig.load(job("tail", "g1", Schedule::KeepRunning)));
    only(rig.load(minutely("disk", "g1")));
    rig.load(minutely("disk", "g2"));
    rig.refuse("disk");
    rig.remove("disk");
    assert_eq!(rig.job("tail").running[0].run, other.run);
}

#[test]
fn an_edit_of_a_kept_running_script_replaces_its_run() {
    let mut rig = Rig::serve();
    let first = only(rig.load(job("tail", "g1", Schedule::KeepRunning)));
    rig.load(job("tail", "g2", Schedule::KeepRunning));
    assert_eq!(rig.orders(), [(first.run.clone(), Order::Terminate)]);
    rig.load(job("tail", "g3", Schedule::KeepRunning));
    assert!(rig.orders().is_empty(), "one order is enough");
    rig.end(&first, Outcome::Killed);
    rig.pass(Duration::from_secs(1));
    assert_eq!(only(rig.started()).job.generation, "g3");
}

#[test]
fn a_touch_that_changes_nothing_has_no_effect() {
    let mut rig = Rig::serve();
    only(rig.load(job("tail", "g1", Schedule::KeepRunning)));
    rig.load(job("tail", "g1", Schedule::KeepRunning));
    assert!(rig.effects.is_empty());
}

#[test]
fn a_generation_is_kept_as_long_as_a_run_uses_it() {
    let in_use = |rig: &Rig| {
        let sets = rig.effects.iter().filter_map(|effect| match effect {
            Effect::Retire { in_use, .. } => Some(in_use.iter().cloned().collect::<Vec<_>>()),
            _ => None,
        });
        sets.collect::<Vec<_>>()
    };
    let mut rig = Rig::serve();
    let first = only(rig.load(minutely("disk", "g1")));
    rig.load(minutely("disk", "g2"));
    assert_eq!(in_use(&rig), [["g1"]]);
    rig.end(&first, Outcome::Success);
    assert_eq!(in_use(&rig), [Vec::<String>::new()]);
    rig.pass(MINUTE);
    let second = only(rig.started());
    rig.end(&second, Outcome::Success);
    assert!(in_use(&rig).is_empty(), "nothing has changed");
}

#[test]
fn a_spool_that_cannot_be_read_changes_no_job_and_is_shown() {
    let mut rig = Rig::serve();
    let first = only(rig.load(minutely("disk", "g1")));
    let reason = "jobs/: permission denied".to_owned();
    rig.note(Note::Spool(Change::Unreadable {
        reason: reason.clone(),
    }));
    assert!(rig.effects.is_empty());
    assert_eq!(rig.supervisor.snapshot(rig.now()).unreadable, Some(reason));
    rig.end(&first, Outcome::Success);
    rig.pass(MINUTE);
    only(rig.started());
    rig.note(Note::Spool(Change::Readable));
    assert_eq!(rig.supervisor.snapshot(rig.now()).unreadable, None);
}

#[test]
fn a_refused_edit_keeps_the_last_good_generation_and_is_shown_until_it_is_mended() {
    let mut rig = Rig::serve();
    let first = only(rig.load(minutely("disk", "g1")));
    rig.refuse("disk");
    assert!(rig.effects.is_empty());
    let shown = rig.job("disk");
    assert_eq!(shown.state, JobState::Running);
    assert_eq!(shown.generation.as_deref(), Some("g1"));
    assert_eq!(
        shown.problems[0].to_string(),
        "jobs/disk/job.toml:12:9: schedule.every: `30` is not a duration"
    );
    rig.end(&first, Outcome::Success);
    rig.pass(MINUTE);
    assert_eq!(only(rig.started()).job.generation, "g1");
    rig.load(minutely("disk", "g1"));
    assert!(rig.job("disk").problems.is_empty(), "set back by hand");
}

#[test]
fn a_job_that_was_never_good_is_shown_as_refused() {
    let mut rig = Rig::serve();
    rig.refuse("disk");
    assert_eq!(rig.job("disk").state, JobState::Refused);
    let answer = rig.trigger("disk");
    assert!(matches!(answer, Answer::Refused { .. }), "{answer:?}");
    rig.remove("disk");
    assert!(rig.supervisor.snapshot(rig.now()).jobs.is_empty());
}

#[test]
fn a_removed_job_ends_by_its_policy_and_does_not_come_back() {
    let mut rig = Rig::serve();
    let first = only(rig.load(minutely("disk", "g1")));
    let mut patient = minutely("slow", "g1");
    script(&mut patient).on_remove = AtEnd::Finish;
    let slow = only(rig.load(patient));
    rig.remove("disk");
    assert_eq!(rig.orders(), [(first.run.clone(), Order::Terminate)]);
    rig.remove("slow");
    assert!(rig.orders().is_empty());
    assert_eq!(rig.job("disk").state, JobState::Removed);
    rig.end(&first, Outcome::Killed);
    rig.end(&slow, Outcome::Success);
    rig.pass(10 * MINUTE);
    assert!(rig.started().is_empty());
    assert!(rig.supervisor.snapshot(rig.now()).jobs.is_empty());
}

#[test]
fn a_job_that_comes_back_remembers_its_last_success() {
    let mut rig = Rig::serve();
    let first = only(rig.load(minutely("disk", "g1")));
    rig.end(&first, Outcome::Success);
    rig.remove("disk");
    assert!(
        rig.load(minutely("disk", "g2")).is_empty(),
        "its tick has run"
    );
    rig.pass(MINUTE);
    let next = only(rig.started());
    assert_eq!(next.last_success_at, Some(Timestamp(BEGIN)));
}

#[test]
fn a_job_that_comes_back_during_its_run_does_not_overlap() {
    let mut rig = Rig::serve();
    let mut patient = minutely("disk", "g1");
    script(&mut patient).on_remove = AtEnd::Finish;
    let first = only(rig.load(patient.clone()));
    rig.remove("disk");
    assert!(rig.load(patient).is_empty());
    rig.pass(MINUTE);
    assert!(rig.started().is_empty());
    assert_eq!(rig.job("disk").skipped_ticks, 1);
    rig.end(&first, Outcome::Success);
    rig.pass(MINUTE);
    only(rig.started());
}

#[test]
fn a_disabled_job_is_shown_and_never_run() {
    let mut rig = Rig::serve();
    let mut off = minutely("disk", "g1");
    off.enabled = false;
    assert!(rig.load(off).is_empty());
    assert_eq!(rig.job("disk").state, JobState::Disabled);
    assert!(matches!(rig.trigger("disk"), Answer::Refused { .. }));
    only(rig.load(minutely("disk", "g2")));
}

#[test]
fn schedules_pause_at_80_percent_and_resume_below_70() {
    let mut rig = Rig::serve();
    let first = only(rig.load(minutely("disk", "g1")));
    rig.end(&first, Outcome::Success);
    rig.queue(79);
    assert!(rig.effects.is_empty());
    rig.queue(80);
    assert!(matches!(
        rig.effects[..],
        [
            Effect::Say(Say::Paused { .. }),
            Effect::Tell(Notice::Pressure { percent: 80 })
        ]
    ));
    let snapshot = rig.supervisor.snapshot(rig.now());
    assert_eq!(snapshot.state, DaemonState::Paused);
    assert!(snapshot.paused.unwrap().contains("80 % full"));
    assert_eq!(rig.job("disk").state, JobState::Held);
    rig.pass(MINUTE);
    assert!(rig.started().is_empty());
    rig.queue(70);
    assert!(rig.effects.is_empty(), "the gap keeps it from flapping");
    rig.queue(69);
    assert!(matches!(
        rig.effects[..],
        [
            Effect::Say(Say::Resumed),
            Effect::Tell(Notice::PressureOver),
            Effect::StartRun(_)
        ]
    ));
    assert_eq!(rig.job("disk").skipped_ticks, 0, "it was made up for");
}

#[test]
fn schedules_pause_while_the_queue_cannot_be_written() {
    let mut rig = Rig::serve();
    rig.note(Note::Queue(QueueLevel {
        bytes: 0,
        max_bytes: 100,
        broken: Some("no space left on device".to_owned()),
    }));
    let paused = rig.supervisor.snapshot(rig.now()).paused.unwrap();
    assert!(paused.contains("no space left on device"), "{paused}");
    rig.queue(0);
    assert_eq!(
        rig.supervisor.snapshot(rig.now()).state,
        DaemonState::Running
    );
}

#[test]
fn a_trigger_starts_an_idle_job_and_refuses_a_running_one() {
    let mut rig = Rig::serve();
    let first = only(rig.load(minutely("disk", "g1")));
    let Answer::Refused { reason } = rig.trigger("disk") else {
        panic!("it is running")
    };
    assert!(reason.contains(first.run.as_str()), "{reason}");
    rig.end(&first, Outcome::Success);
    let answer = rig.trigger("disk");
    let spec = only(rig.started());
    assert_eq!(spec.trigger, Trigger::Manual);
    assert_eq!(spec.scheduled_at, None);
    assert_eq!(answer, Answer::Started { run: spec.run });
    let Answer::Refused { reason } = rig.trigger("nobody") else {
        panic!("there is none")
    };
    assert!(reason.starts_with("there is no job `nobody`"), "{reason}");
}

fn open_run(job: &str) -> OpenRun {
    OpenRun {
        run: RunId::new(Timestamp(BEGIN - 1), 1),
        job: job.to_owned(),
        generation: "g1".to_owned(),
        trigger: Trigger::Schedule,
        scheduled_at: None,
        route: Route::default(),
        at: Timestamp(BEGIN - 1),
    }
}

#[test]
fn an_interrupted_run_is_closed_before_its_job_runs_again() {
    let open = open_run("disk");
    let mut rig = Rig::new(Mode::Serve, BTreeMap::new(), vec![open.clone()]);
    assert!(matches!(&rig.effects[..], [Effect::CloseInterrupted(run)] if *run == open));
    assert!(rig.load(minutely("disk", "g1")).is_empty());
    assert_eq!(rig.job("disk").state, JobState::Waiting);
    only(rig.load(minutely("other", "g1")));
    rig.note(Note::Closed { run: open.run });
    assert_eq!(only(rig.started()).job.name, "disk");
    assert_eq!(rig.job("disk").runs.interrupted, 1);
}

#[test]
fn an_interrupted_run_is_shown_even_if_it_was_closed_before_its_job_was_known() {
    let open = open_run("disk");
    let mut rig = Rig::new(Mode::Serve, BTreeMap::new(), vec![open.clone()]);
    rig.note(Note::Closed {
        run: open.run.clone(),
    });
    assert!(rig.supervisor.snapshot(rig.now()).jobs.is_empty());
    only(rig.load(minutely("disk", "g1")));
    let shown = rig.job("disk");
    assert_eq!(shown.runs.interrupted, 1);
    assert_eq!(shown.last_run.unwrap().run, open.run);
}

#[test]
fn the_phase_of_a_schedule_is_kept_across_restarts() {
    let past = Past {
        last_fire: Some(Timestamp(BEGIN - 40_000)),
        last_success_at: Some(Timestamp(BEGIN - 39_000)),
        done_generation: Some("g1".to_owned()),
        first_run_done: false,
        last_run: None,
        runs: status::Outcomes::default(),
    };
    let pasts = ["disk", "setup"].map(|name| (name.to_owned(), past.clone()));
    let mut rig = Rig::new(Mode::Serve, BTreeMap::from(pasts), Vec::new());
    assert!(rig.load(minutely("disk", "g1")).is_empty());
    assert!(rig.load(job("setup", "g1", Schedule::Once)).is_empty());
    assert_eq!(
        rig.supervisor.patience(rig.now()),
        WAKE_MAX,
        "the wall clock is looked at each second"
    );
    rig.pass(Duration::from_secs(20));
    let spec = only(rig.started());
    assert_eq!(spec.last_success_at, Some(Timestamp(BEGIN - 39_000)));
    only(rig.load(job("setup", "g2", Schedule::Once)));
}

#[test]
fn a_job_that_runs_once_runs_until_a_run_has_ended_of_its_own() {
    let mut rig = Rig::serve();
    let cut_short = only(rig.load(job("setup", "g1", Schedule::Once)));
    rig.remove("setup");
    rig.end(&cut_short, Outcome::Killed);
    let whole = only(rig.load(job("setup", "g1", Schedule::Once)));
    rig.end(&whole, Outcome::Failed);
    rig.pass(MINUTE);
    assert!(rig.started().is_empty(), "it has had its run");
}

#[test]
fn a_stop_ends_runs_by_their_policy_then_drains_then_leaves_with_the_rest_queued() {
    let mut rig = Rig::serve();
    let disk = only(rig.load(minutely("disk", "g1")));
    let mut patient = minutely("slow", "g1");
    script(&mut patient).on_stop = AtEnd::Finish;
    let slow = only(rig.load(patient));
    rig.terminate();
    assert_eq!(rig.orders(), [(disk.run.clone(), Order::Terminate)]);
    assert_eq!(
        rig.supervisor.snapshot(rig.now()).state,
        DaemonState::Stopping
    );
    rig.pass(MINUTE);
    assert!(rig.started().is_empty(), "nothing is started any more");
    rig.end(&disk, Outcome::Killed);
    assert!(!rig.drains());
    rig.end(&slow, Outcome::Success);
    assert!(rig.drains());
    assert_eq!(
        rig.supervisor.snapshot(rig.now()).state,
        DaemonState::Draining
    );
    rig.note(Note::DrainOver { waiting_events: 5 });
    assert_eq!(rig.exit(), Some(Exit::Clean));
    rig.note(Note::DrainOver { waiting_events: 5 });
    assert!(rig.effects.is_empty());
}

#[test]
fn a_stop_waits_for_a_finishing_run_no_longer_than_its_timeout() {
    let mut rig = Rig::serve();
    let mut patient = minutely("slow", "g1");
    script(&mut patient).on_stop = AtEnd::Finish;
    let slow = only(rig.load(patient));
    rig.pass(4 * MINUTE);
    rig.terminate();
    // 6 minutes are left of its timeout, then its grace, then our slack.
    rig.pass(6 * MINUTE + Duration::from_secs(10));
    assert!(!rig.drains());
    rig.pass(stop::STOP_SLACK);
    assert_eq!(rig.orders(), [(slow.run, Order::Kill)]);
    assert!(rig.drains());
    rig.note(Note::DrainOver { waiting_events: 0 });
    assert_eq!(rig.exit(), Some(Exit::Failed), "a run was given up");
}

#[test]
fn a_stop_with_a_queue_that_takes_nothing_ends_with_the_grace_and_is_clean() {
    let mut rig = Rig::serve();
    let disk = only(rig.load(minutely("disk", "g1")));
    rig.note(Note::Queue(QueueLevel {
        bytes: 100,
        max_bytes: 100,
        broken: Some("the queue has reached [queue] max_bytes".to_owned()),
    }));
    rig.terminate();
    rig.pass(Duration::from_secs(9));
    assert!(!rig.drains(), "its grace is 10 s");
    rig.pass(Duration::from_secs(1));
    assert_eq!(rig.orders(), [(disk.run, Order::Kill)]);
    assert!(rig.drains());
    rig.note(Note::DrainOver { waiting_events: 5 });
    assert_eq!(rig.exit(), Some(Exit::Clean), "the rest stays queued");
}

#[test]
fn an_endless_script_is_terminated_at_a_stop_even_if_it_is_to_finish() {
    let mut rig = Rig::serve();
    let mut endless = job("tail", "g1", Schedule::KeepRunning);
    script(&mut endless).on_stop = AtEnd::Finish;
    let tail = only(rig.load(endless));
    rig.terminate();
    assert_eq!(rig.orders(), [(tail.run, Order::Terminate)]);
}

#[test]
fn a_second_signal_kills_and_leaves_at_once() {
    let mut rig = Rig::serve();
    let disk = only(rig.load(minutely("disk", "g1")));
    rig.terminate();
    rig.terminate();
    assert_eq!(rig.orders(), [(disk.run, Order::Kill)]);
    assert_eq!(rig.exit(), Some(Exit::Now));
    rig.terminate();
    assert!(rig.effects.is_empty());
}

#[test]
fn a_second_signal_ends_the_drain_too() {
    let mut rig = Rig::serve();
    rig.terminate();
    assert!(rig.drains(), "no run, no wait");
    rig.terminate();
    assert_eq!(rig.exit(), Some(Exit::Now));
}

#[test]
fn asking_twice_for_a_stop_is_not_a_second_signal() {
    let mut rig = Rig::serve();
    only(rig.load(minutely("disk", "g1")));
    assert_eq!(rig.ask(Request::Stop), Answer::Accepted);
    assert_eq!(rig.ask(Request::Stop), Answer::Accepted);
    assert!(rig.orders().is_empty() && rig.exit().is_none());
    let answer = rig.trigger("disk");
    assert!(matches!(answer, Answer::Refused { .. }));
}

#[test]
fn hangup_looks_again() {
    let mut rig = Rig::serve();
    rig.note(Note::Signal(Signal::Hangup));
    assert!(matches!(rig.effects[..], [Effect::Reload { ask: None }]));
}

#[test]
fn a_run_whose_task_is_lost_does_not_block_its_job() {
    let mut rig = Rig::serve();
    let first = only(rig.load(minutely("disk", "g1")));
    rig.note(Note::RunLost { run: first.run });
    rig.pass(MINUTE);
    only(rig.started());
}

#[test]
fn notes_that_come_late_or_twice_have_no_effect() {
    let mut rig = Rig::serve();
    let first = only(rig.load(minutely("disk", "g1")));
    rig.end(&first, Outcome::Success);
    rig.end(&first, Outcome::Failed);
    assert!(rig.effects.is_empty());
    assert_eq!(rig.job("disk").runs.ended(), 1);
    rig.note(Note::Closed { run: first.run });
    rig.remove("nobody");
    rig.note(Note::DrainOver { waiting_events: 0 });
    assert!(rig.effects.is_empty());
}

#[test]
fn once_runs_every_enabled_job_once_and_no_more_at_a_time_than_allowed() {
    let mut rig = Rig::once();
    let mut off = minutely("off", "g1");
    off.enabled = false;
    rig.load(off);
    for name in ["a", "b", "c"] {
        assert!(rig.load(minutely(name, "g1")).is_empty());
    }
    assert!(
        rig.load(job("tail", "g1", Schedule::KeepRunning))
            .is_empty()
    );
    rig.note(Note::Spool(Change::Complete));
    let mut specs = rig.started();
    assert_eq!(specs.len(), 2, "max_concurrent");
    let first = specs.remove(0);
    let next = only(rig.end(&first, Outcome::Success));
    assert_eq!(next.job.name, "c");
    let second = specs.remove(0);
    let tail = only(rig.end(&second, Outcome::Success));
    rig.end(&next, Outcome::Success);
    rig.pass(Duration::from_secs(9));
    assert!(rig.orders().is_empty());
    assert_eq!(rig.supervisor.patience(rig.now()), Duration::from_secs(1));
    rig.pass(Duration::from_secs(1));
    assert_eq!(rig.orders(), [(tail.run.clone(), Order::Terminate)]);
    rig.end(&tail, Outcome::Killed);
    assert!(rig.drains());
    rig.note(Note::DrainOver { waiting_events: 0 });
    assert_eq!(rig.exit(), Some(Exit::Clean));
}

#[test]
fn once_tells_failed_runs_unshipped_events_and_refused_jobs_apart() {
    let verdict = |outcome, waiting_events, refused| {
        let mut rig = Rig::once();
        rig.load(minutely("disk", "g1"));
        if refused {
            rig.refuse("other");
        }
        rig.note(Note::Spool(Change::Complete));
        let spec = only(rig.started());
        rig.end(&spec, outcome);
        rig.note(Note::DrainOver { waiting_events });
        rig.exit().unwrap()
    };
    assert_eq!(verdict(Outcome::Success, 0, false), Exit::Clean);
    assert_eq!(verdict(Outcome::Success, 3, false), Exit::Unshipped);
    assert_eq!(verdict(Outcome::Failed, 3, false), Exit::Failed);
    assert_eq!(verdict(Outcome::Killed, 0, false), Exit::Failed);
    assert_eq!(verdict(Outcome::Failed, 0, true), Exit::Refused);
}

#[test]
fn once_gives_jobs_up_when_the_queue_stays_full() {
    let mut rig = Rig::once();
    rig.queue(90);
    rig.load(minutely("disk", "g1"));
    rig.note(Note::Spool(Change::Complete));
    assert!(rig.started().is_empty() && !rig.drains());
    rig.pass(Duration::from_secs(5));
    assert!(matches!(&rig.effects[0], Effect::Say(Say::NotRun { job, .. }) if &**job == "disk"));
    assert!(rig.drains());
    rig.note(Note::DrainOver { waiting_events: 0 });
    assert_eq!(rig.exit(), Some(Exit::Failed));
}

#[test]
fn once_leaves_at_once_when_there_is_nothing_to_be_read() {
    let mut rig = Rig::once();
    let reason = "jobs/: no such folder".to_owned();
    rig.note(Note::Spool(Change::Unreadable { reason }));
    rig.note(Note::DrainOver { waiting_events: 0 });
    assert_eq!(rig.exit(), Some(Exit::Refused));
}

#[test]
fn once_without_jobs_leaves_cleanly() {
    let mut rig = Rig::once();
    rig.note(Note::Spool(Change::Complete));
    assert!(rig.drains());
    rig.note(Note::DrainOver { waiting_events: 0 });
    assert_eq!(rig.exit(), Some(Exit::Clean));
}
