//! What people steer, and what others may rely on: pauses, ends, other settings, expectations.

use super::*;
use crate::event::ServiceState;
use crate::schedule::policy::Missed;
use crate::schedule::policy::Overlap;

fn policy(job: &mut Job) -> &mut Policy {
    &mut Arc::make_mut(job.task.as_mut().unwrap()).policy
}

fn expecting(name: &str, every: Duration) -> Job {
    let mut job = minutely(name, "g1");
    Arc::make_mut(job.task.as_mut().unwrap()).expect_every = Some(every);
    job
}

fn refusal(answer: Answer) -> String {
    match answer {
        Answer::Refused { reason } => reason,
        other => panic!("{other:?}"),
    }
}

impl Rig {
    /// Asks for what is written down before it is answered; gives the jobs that are paused.
    fn ask_paused(&mut self, request: Request) -> Vec<String> {
        let ask = Ask(1);
        self.note(Note::Asked { ask, request });
        let kept = self.effects.iter().find_map(|effect| match effect {
            Effect::KeepPaused { jobs, .. } => Some(jobs.clone()),
            _ => None,
        });
        kept.expect("it is written down")
    }

    fn told(&self) -> Vec<Notice> {
        let notices = self.effects.iter().filter_map(|effect| match effect {
            Effect::Tell(notice) => Some(notice.clone()),
            _ => None,
        });
        notices.collect()
    }
}

fn pause(job: &str) -> Request {
    Request::Pause {
        job: job.to_owned(),
    }
}

fn resume(job: &str) -> Request {
    Request::Resume {
        job: job.to_owned(),
    }
}

#[test]
fn a_paused_job_stays_paused_across_a_restart_and_an_edit_until_it_is_resumed() {
    let mut rig = Rig::serve();
    let first = only(rig.load(minutely("disk", "g1")));
    rig.end(&first, Outcome::Success);
    assert_eq!(rig.ask_paused(pause("disk")), ["disk"]);
    assert!(refusal(rig.ask(pause("disk"))).contains("paused already"));
    assert!(refusal(rig.ask(pause("dsik"))).contains("there is no job `dsik`"));
    let mut rig = Rig::start(Start {
        paused: vec!["disk".to_owned()],
        ..Rig::usual()
    });
    assert!(rig.load(minutely("disk", "g1")).is_empty());
    assert!(rig.load(minutely("disk", "g2")).is_empty());
    rig.pass(3 * MINUTE);
    assert!(rig.started().is_empty());
    assert_eq!(rig.job("disk").state, JobState::Paused);
    assert!(matches!(rig.trigger("disk"), Answer::Started { .. }));
    let run = only(rig.started());
    rig.end(&run, Outcome::Success);
    assert_eq!(rig.ask_paused(resume("disk")), Vec::<String>::new());
    rig.pass(MINUTE);
    only(rig.started());
    assert!(refusal(rig.ask(resume("disk"))).contains("is not paused"));
}

#[test]
fn a_run_or_all_runs_of_a_job_can_be_ended() {
    let mut rig = Rig::serve();
    let mut two = minutely("disk", "g1");
    policy(&mut two).overlap = Overlap::Parallel(2);
    let first = only(rig.load(two));
    rig.pass(MINUTE);
    let second = only(rig.started());
    let end = |target: &str| Request::End {
        target: target.to_owned(),
    };
    let runs = vec![first.run.clone()];
    assert_eq!(
        rig.ask(end(first.run.as_str())),
        Answer::Ending { runs },
        "one"
    );
    assert_eq!(rig.orders().len(), 1);
    let runs = vec![first.run.clone(), second.run.clone()];
    assert_eq!(rig.ask(end("disk")), Answer::Ending { runs });
    assert_eq!(rig.orders().len(), 1, "the other one");
    rig.end(&first, Outcome::Killed);
    rig.end(&second, Outcome::Killed);
    assert!(refusal(rig.ask(end("disk"))).contains("is not running"));
    assert!(refusal(rig.ask(end("20261121-x"))).contains("no running run"));
}

#[test]
fn a_tick_that_ends_the_old_run_orders_it_to_end_and_runs_then() {
    let mut rig = Rig::serve();
    let mut job = minutely("disk", "g1");
    policy(&mut job).overlap = Overlap::KillOld;
    let first = only(rig.load(job));
    rig.pass(MINUTE);
    assert!(rig.started().is_empty());
    assert_eq!(rig.orders().len(), 1);
    only(rig.end(&first, Outcome::Killed));
}

#[test]
fn only_what_was_due_while_the_daemon_was_not_running_is_made_up_for() {
    let past = Past {
        last_fire: Some(Timestamp(BEGIN - 150_000)),
        ..Past::default()
    };
    let pasts = || BTreeMap::from([("disk".to_owned(), past.clone())]);
    let mut rig = Rig::new(Mode::Serve, pasts(), Vec::new());
    let run = only(rig.load(minutely("disk", "g1")));
    assert_eq!(run.scheduled_at, Some(Timestamp(BEGIN - 30_000)));
    let mut skips = minutely("disk", "g1");
    policy(&mut skips).missed = Missed::Skip;
    let mut rig = Rig::new(Mode::Serve, pasts(), Vec::new());
    assert!(rig.load(skips).is_empty());
    // A job that was switched off, or comes back later, has missed nothing.
    let mut rig = Rig::new(Mode::Serve, pasts(), Vec::new());
    rig.note(Note::Spool(Change::Complete));
    assert!(rig.load(minutely("disk", "g1")).is_empty());
}

#[test]
fn no_job_starts_before_an_output_has_answered_where_that_is_required() {
    let mut rig = Rig::start(Start {
        require_output: true,
        ..Rig::usual()
    });
    let started = Notice::Heartbeat(ServiceState::Started);
    assert_eq!(rig.told(), [started], "something to ship");
    assert!(rig.load(minutely("disk", "g1")).is_empty());
    let snapshot = rig.supervisor.snapshot(rig.now());
    assert!(snapshot.paused.unwrap().contains("require_output"));
    assert_eq!(rig.job("disk").state, JobState::Held);
    rig.queue(10);
    assert!(rig.started().is_empty(), "room is not an answer");
    rig.note(Note::OutputAnswered);
    only(rig.started());
}

#[test]
fn a_job_that_does_not_succeed_in_time_is_told_once_and_again_only_after_a_success() {
    let hour = 60 * MINUTE;
    let mut rig = Rig::serve();
    let first = only(rig.load(expecting("disk", hour)));
    rig.end(&first, Outcome::Success);
    rig.pass(MINUTE);
    let mut run = only(rig.started());
    rig.end(&run, Outcome::Failed);
    for _ in 0..3 {
        rig.pass(58 * MINUTE);
        let overdue = Notice::Overdue {
            job: "disk".to_owned(),
            expect_every: hour,
            last_success_at: Some(Timestamp(BEGIN)),
        };
        assert_eq!(rig.told(), []);
        assert!(!rig.job("disk").overdue);
        run = only(rig.started());
        rig.end(&run, Outcome::Failed);
        rig.pass(MINUTE);
        assert_eq!(rig.told(), [overdue]);
        assert!(rig.job("disk").overdue);
        run = only(rig.started());
        rig.end(&run, Outcome::Failed);
        rig.pass(5 * hour);
        assert_eq!(rig.told(), [], "once");
        run = only(rig.started());
        rig.end(&run, Outcome::Success);
        let job = "disk".to_owned();
        assert_eq!(rig.told(), [Notice::OnTime { job }]);
        assert!(!rig.job("disk").overdue);
        rig.pass(MINUTE);
        run = only(rig.started());
        rig.end(&run, Outcome::Failed);
    }
    let mut stopping = Rig::serve();
    only(stopping.load(expecting("disk", hour)));
    assert_eq!(stopping.ask(Request::Stop), Answer::Accepted);
    stopping.pass(2 * hour);
    let overdue = |notice: &Notice| matches!(notice, Notice::Overdue { .. });
    assert!(!stopping.told().iter().any(overdue));
    // Who is removed or disabled is not expected to do anything.
    rig.remove("disk");
    rig.pass(2 * hour);
    assert_eq!(rig.told(), []);
}

#[test]
fn a_job_that_was_silent_before_the_daemon_started_gets_time_to_catch_up() {
    let past = Past {
        last_success_at: Some(Timestamp(BEGIN - 86_400_000)),
        last_fire: Some(Timestamp(BEGIN)),
        ..Past::default()
    };
    let pasts = BTreeMap::from([("disk".to_owned(), past)]);
    let mut rig = Rig::new(Mode::Serve, pasts, Vec::new());
    assert!(rig.load(expecting("disk", 60 * MINUTE)).is_empty());
    rig.pass(Duration::from_secs(59));
    assert_eq!(rig.told(), []);
    rig.pass(Duration::from_secs(1));
    assert!(matches!(rig.told()[..], [Notice::Overdue { .. }]));
}

#[test]
fn heartbeats_come_at_the_start_each_period_and_at_the_end() {
    let settings = Settings {
        heartbeat: Some(MINUTE),
        ..Rig::usual().settings
    };
    let mut rig = Rig::start(Start {
        settings,
        ..Rig::usual()
    });
    assert_eq!(rig.told(), [Notice::Heartbeat(ServiceState::Started)]);
    for _ in 0..2 {
        rig.pass(MINUTE / 2);
        assert_eq!(rig.told(), []);
        rig.pass(MINUTE / 2);
        assert_eq!(rig.told(), [Notice::Heartbeat(ServiceState::Running)]);
    }
    rig.note(Note::Signal(Signal::Terminate));
    assert_eq!(rig.told(), [Notice::Heartbeat(ServiceState::Stopped)]);
}

#[test]
fn other_settings_hold_at_once_and_bad_ones_leave_the_former() {
    let mut rig = Rig::serve();
    for name in ["a", "b", "c"] {
        rig.load(minutely(name, "g1"));
    }
    assert_eq!(rig.job("c").state, JobState::Waiting, "two at a time");
    let ask = Ask(1);
    rig.note(Note::Asked {
        ask,
        request: Request::Reload,
    });
    assert!(matches!(
        rig.effects[..],
        [Effect::Reload { ask: Some(Ask(1)) }]
    ));
    let problem = Problem::of_file("spoolbeat.toml".to_owned(), "is odd".to_owned());
    rig.note(Note::Reread {
        ask: Some(ask),
        read: Err(vec![problem.clone()]),
    });
    assert!(rig.effects.iter().any(|effect| matches!(
        effect,
        Effect::Reply {
            answer: Answer::Unusable { .. },
            ..
        }
    )));
    let snapshot = rig.supervisor.snapshot(rig.now());
    assert_eq!(snapshot.settings_problems, [problem]);
    let dir = tempfile::tempdir().unwrap();
    let toml = "[spool]\nmax_concurrent_runs = 3\n[output.lumberjack]\nhosts = ['h']\n";
    std::fs::write(dir.path().join("spoolbeat.toml"), toml).unwrap();
    let root = crate::config::load_root(dir.path(), &[]).unwrap();
    rig.note(Note::Reread {
        ask: Some(ask),
        read: Ok(Box::new(root)),
    });
    assert_eq!(only(rig.started()).job.name, "c");
    assert!(
        rig.supervisor
            .snapshot(rig.now())
            .settings_problems
            .is_empty()
    );
}
