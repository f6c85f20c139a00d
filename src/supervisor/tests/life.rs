//! The way of a job to its schedule.

use super::*;
use crate::job::Step;
use crate::modules;
use crate::run::Exit as ProcessExit;

fn step(run: &str) -> Option<Step> {
    Some(Step {
        run: run.to_owned(),
        language: Language::Sh,
    })
}

/// A job with `first_run` and `startup`.
fn prepared(name: &str, generation: &str) -> Job {
    let mut job = minutely(name, generation);
    let task = Arc::make_mut(job.task.as_mut().unwrap());
    task.first_run = step("setup.sh");
    task.startup = step("warmup.sh");
    job
}

fn with_modules(generation: &str) -> Job {
    let mut job = minutely("disk", generation);
    script(&mut job).modules = vec!["requests==2.32.4".to_owned()];
    job
}

fn triggers(specs: &[Spec]) -> Vec<&'static str> {
    specs.iter().map(|spec| spec.trigger.name()).collect()
}

impl Rig {
    fn state(&self) -> (JobState, Option<status::Preparation>) {
        let job = &self.supervisor.snapshot(self.now()).jobs[0];
        (job.state, job.preparation.clone())
    }

    /// The end of a modules run with this exit code.
    fn end_with(&mut self, spec: &Spec, code: i32) -> Vec<Spec> {
        self.note(Note::RunEnded(Ended {
            run: spec.run.clone(),
            job: Arc::clone(&spec.job),
            outcome: Outcome::Failed,
            exit: Some(ProcessExit::Code(code)),
            reason: Some(format!("exit code {code}")),
            started_at: Timestamp(BEGIN),
            at: self.now().wall,
            took: Duration::ZERO,
            delivery: None,
        }));
        self.started()
    }

    fn ask_resume(&mut self, job: &str) {
        let (ask, job) = (Ask(1), job.to_owned());
        let request = Request::Resume { job };
        self.note(Note::Asked { ask, request });
    }

    fn ask_pause(&mut self, job: &str) {
        let (ask, job) = (Ask(1), job.to_owned());
        let request = Request::Pause { job };
        self.note(Note::Asked { ask, request });
    }

    fn passed(&mut self, seconds: u64) -> Vec<Spec> {
        self.pass(Duration::from_secs(seconds));
        self.started()
    }
}

#[test]
fn each_step_gates_the_next_and_the_schedule() {
    let mut rig = Rig::serve();
    let first = rig.load(prepared("disk", "g1"));
    assert_eq!(triggers(&first), ["first_run"]);
    assert_eq!(first[0].task.script.run, "setup.sh");
    assert_eq!(rig.state().0, JobState::Preparing);
    let startup = rig.end(&first[0], Outcome::Success);
    assert_eq!(triggers(&startup), ["startup"]);
    assert_eq!(startup[0].task.script.run, "warmup.sh");
    let run = rig.end(&startup[0], Outcome::Success);
    assert_eq!(triggers(&run), ["schedule"]);
    assert_eq!(run[0].task.script.run, "run.sh");
    assert_eq!(rig.state(), (JobState::Running, None));
    rig.end(&run[0], Outcome::Success);
    // Another generation is started up again, and not set up again.
    let startup = rig.load(prepared("disk", "g2"));
    assert_eq!(triggers(&startup), ["startup"]);
    rig.pass(3 * MINUTE);
    assert_eq!(triggers(&rig.started()), [""; 0]);
    let run = rig.end(&startup[0], Outcome::Success);
    assert_eq!(triggers(&run), [""; 0]);
    assert_eq!(triggers(&rig.passed(60)), ["schedule"]);
}

#[test]
fn a_step_that_fails_is_seen_and_tried_again_after_growing_waits() {
    let mut rig = Rig::serve();
    let mut specs = rig.load(prepared("disk", "g1"));
    for (nth, wait) in [10, 20, 40, 80, 160, 300, 300].into_iter().enumerate() {
        assert_eq!(triggers(&specs), ["first_run"], "try {nth}");
        assert_eq!(triggers(&rig.end(&specs[0], Outcome::Failed)), [""; 0]);
        let (state, preparation) = rig.state();
        let preparation = preparation.unwrap();
        assert_eq!(state, JobState::Failed);
        assert_eq!(preparation.failures as usize, nth + 1);
        assert_eq!(preparation.problem.as_deref(), Some("why"));
        let at = rig.now().wall.after(Duration::from_secs(wait));
        assert_eq!(preparation.next_try_at, Some(status::At(at)));
        assert_eq!(triggers(&rig.passed(wait - 1)), [""; 0]);
        specs = rig.passed(1);
    }
    let refused = rig.trigger("disk");
    assert!(format!("{refused:?}").contains("before `first_run` in its job.toml has succeeded"));
    // An edit is tried at once.
    rig.end(&specs[0], Outcome::Failed);
    let specs = rig.load(prepared("disk", "g2"));
    assert_eq!(triggers(&specs), ["first_run"]);
    let specs = rig.end(&specs[0], Outcome::Success);
    assert_eq!(triggers(&specs), ["startup"]);
    assert_eq!(rig.state().1.unwrap().failures, 0);
}

#[test]
fn what_has_succeeded_once_is_remembered_by_the_next_daemon() {
    let past = Past {
        first_run_done: true,
        ..Past::default()
    };
    let pasts = BTreeMap::from([("disk".to_owned(), past)]);
    let mut rig = Rig::new(Mode::Serve, pasts, Vec::new());
    assert_eq!(triggers(&rig.load(prepared("disk", "g1"))), ["startup"]);
}

#[test]
fn run_once_goes_the_whole_way_and_fails_with_a_step() {
    let mut rig = Rig::once();
    rig.load(prepared("disk", "g1"));
    rig.note(Note::Spool(Change::Complete));
    let first = rig.started();
    assert_eq!(triggers(&first), ["first_run"]);
    let startup = rig.end(&first[0], Outcome::Success);
    assert_eq!(triggers(&startup), ["startup"]);
    let run = rig.end(&startup[0], Outcome::Success);
    assert_eq!(triggers(&run), ["manual"]);
    rig.end(&run[0], Outcome::Success);
    assert!(rig.drains());

    let mut rig = Rig::once();
    rig.load(prepared("disk", "g1"));
    rig.note(Note::Spool(Change::Complete));
    let first = rig.started();
    assert_eq!(triggers(&rig.end(&first[0], Outcome::Failed)), [""; 0]);
    assert!(rig.drains());
    rig.note(Note::DrainOver { waiting_events: 0 });
    assert_eq!(rig.exit(), Some(Exit::Failed));
}

#[test]
fn neither_a_paused_nor_a_removed_job_is_prepared() {
    let mut rig = Rig::start(Start {
        paused: vec!["disk".to_owned()],
        ..Rig::usual()
    });
    assert_eq!(triggers(&rig.load(prepared("disk", "g1"))), [""; 0]);
    rig.ask_resume("disk");
    let specs = rig.started();
    assert_eq!(triggers(&specs), ["first_run"]);
    rig.remove("disk");
    assert_eq!(rig.orders(), [(specs[0].run.clone(), Order::Terminate)]);
    rig.end(&specs[0], Outcome::Killed);
    assert_eq!(triggers(&rig.passed(600)), [""; 0]);
}

#[test]
fn a_failed_step_has_no_next_try_while_its_job_is_paused_and_one_at_once_when_it_is_resumed() {
    let mut rig = Rig::serve();
    let first = rig.load(prepared("disk", "g1"));
    rig.end(&first[0], Outcome::Failed);
    assert!(rig.state().1.unwrap().next_try_at.is_some());
    rig.ask_pause("disk");
    let (state, preparation) = rig.state();
    assert_eq!(state, JobState::Paused);
    let preparation = preparation.unwrap();
    assert_eq!(preparation.problem.as_deref(), Some("why"));
    assert_eq!(preparation.next_try_at, None);
    rig.ask_resume("disk");
    let second = rig.started();
    assert_eq!(triggers(&second), ["first_run"], "before the wait is over");
    // One that fails after the pause waits for the end of the pause too.
    rig.ask_pause("disk");
    assert_eq!(triggers(&rig.end(&second[0], Outcome::Failed)), [""; 0]);
    assert_eq!(rig.state().1.unwrap().next_try_at, None);
    assert_eq!(triggers(&rig.passed(600)), [""; 0]);
    rig.ask_resume("disk");
    let third = rig.started();
    assert_eq!(triggers(&third), ["first_run"]);
    let startup = rig.end(&third[0], Outcome::Success);
    assert_eq!(triggers(&startup), ["startup"]);
}

#[test]
fn no_more_jobs_are_prepared_at_a_time_than_may_run() {
    let mut rig = Rig::serve();
    let mut specs = Vec::new();
    for name in ["a", "b", "c"] {
        specs.extend(rig.load(prepared(name, "g1")));
    }
    assert_eq!(specs.len(), 2);
    let next = rig.end(&specs[0], Outcome::Failed);
    assert_eq!(next[0].job.name, "c");
}

#[test]
fn a_job_goes_on_with_the_modules_it_had_while_the_new_ones_cannot_be_had() {
    let mut rig = Rig::serve();
    let modules = rig.load(with_modules("g1"));
    assert_eq!(triggers(&modules), ["modules"]);
    assert_eq!(triggers(&rig.end_with(&modules[0], 1)), [""; 0]);
    assert_eq!(rig.state().0, JobState::Failed);
    let modules = rig.passed(10);
    assert_eq!(triggers(&modules), ["modules"]);
    let run = rig.end_with(&modules[0], modules::EXIT_FORMER);
    assert_eq!(triggers(&run), ["schedule"]);
    let preparation = rig.state().1.unwrap();
    assert!(!preparation.gates);
    assert_eq!(preparation.problem.as_deref(), Some("exit code 75"));
    assert_eq!(preparation.run.as_ref(), Some(&modules[0].run));
    // They are tried again beside the run.
    let modules = rig.passed(20);
    assert_eq!(triggers(&modules), ["modules"]);
    rig.end(&modules[0], Outcome::Success);
    assert_eq!(rig.state(), (JobState::Running, None));
}

#[test]
fn run_once_goes_on_with_the_former_modules_and_fails() {
    let mut rig = Rig::once();
    rig.load(with_modules("g1"));
    rig.note(Note::Spool(Change::Complete));
    let modules = rig.started();
    let run = rig.end_with(&modules[0], modules::EXIT_FORMER);
    assert_eq!(triggers(&run), ["manual"]);
    rig.end(&run[0], Outcome::Success);
    rig.note(Note::DrainOver { waiting_events: 0 });
    assert_eq!(rig.exit(), Some(Exit::Failed));
}
