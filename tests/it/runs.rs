//! Whole runs with real processes, before a queue that the test plays.

#![expect(clippy::unwrap_used, reason = "tests")]

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::Ordering;
use std::time::Duration;

use serde_json::Value;
use spoolbeat::cleanup::Keep;
use spoolbeat::clock;
use spoolbeat::event::Route;
use spoolbeat::event::RunId;
use spoolbeat::event::Seq;
use spoolbeat::event::envelope::Identity;
use spoolbeat::event::envelope::Shape;
use spoolbeat::job::AtEnd;
use spoolbeat::job::Capture;
use spoolbeat::job::Cwd;
use spoolbeat::job::Format;
use spoolbeat::job::Job;
use spoolbeat::job::Language;
use spoolbeat::job::Script;
use spoolbeat::job::Task;
use spoolbeat::process::Rights;
use spoolbeat::queue::Fact;
use spoolbeat::queue::Intake;
use spoolbeat::queue::Portion;
use spoolbeat::results::Results;
use spoolbeat::run::Exit;
use spoolbeat::run::Order;
use spoolbeat::run::Outcome;
use spoolbeat::run::Phase;
use spoolbeat::run::Trigger;
use spoolbeat::runner;
use spoolbeat::runner::Ended;
use spoolbeat::runner::Host;
use spoolbeat::runner::Progress;
use spoolbeat::runner::Spec;
use spoolbeat::schedule::Policy;
use spoolbeat::schedule::Schedule;
use spoolbeat::source::gather::Limits;
use spoolbeat::source::pool::Pool;
use spoolbeat::units::Timestamp;
use tokio::sync::mpsc;
use tokio::sync::watch;

/// Longest wait for anything that must happen; reaching it is the failure.
const PATIENCE: Duration = Duration::from_secs(30);

/// A root directory with one job whose script is `script`, run by bash.
struct Bench {
    dir: tempfile::TempDir,
    job: Job,
    task: Task,
    limits: Limits,
    pool: Pool,
    portions: Arc<Mutex<Vec<Portion>>>,
    /// How many portions the queue takes before it stalls.
    gate: watch::Sender<usize>,
    progress: Arc<Progress>,
}

fn bench(script: &str) -> Bench {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("generation");
    fs::create_dir(&folder).unwrap();
    fs::write(folder.join("script"), script).unwrap();
    let capture = Capture {
        events: true,
        errors: false,
        log: false,
        format: Format::Text,
        multiline: None,
        max_event: 1 << 20,
        phases: vec![Phase::Run],
    };
    let job = Job {
        name: "disk".into(),
        generation: "0123456789abcdef".into(),
        folder,
        description: String::new(),
        enabled: true,
        files: Vec::new(),
        tags: vec!["t".into()],
        fields: serde_json::Map::new(),
        rights: Rights::own(),
        task: None,
        receive: None,
        route: Route::to(vec!["lumberjack".into()]),
        on_result: None,
        waits_for: Vec::new(),
        keep: Keep {
            runs: 50,
            age: Duration::from_secs(1000),
            bytes: 1 << 20,
        },
    };
    let task = Task {
        script: Script {
            run: "script".into(),
            language: Language::Bash,
            modules: Vec::new(),
            args: Vec::new(),
            env: BTreeMap::new(),
            pass_env: Vec::new(),
            secrets: BTreeMap::new(),
            timeout: Some(Duration::from_secs(60)),
            kill_grace: Duration::from_secs(10),
            cwd: Cwd::Job,
            on_stop: AtEnd::Terminate,
            on_remove: AtEnd::Terminate,
        },
        schedule: Schedule::Once,
        policy: Policy::default(),
        expect_every: None,
        first_run: None,
        startup: None,
        stdout: capture.clone(),
        stderr: capture,
    };
    Bench {
        dir,
        job,
        task,
        limits: Limits {
            batch_events: 2048,
            batch_bytes: 1 << 20,
        },
        pool: Pool::new(),
        portions: Arc::default(),
        gate: watch::channel(usize::MAX).0,
        progress: Arc::default(),
    }
}

fn identity() -> Identity {
    Identity {
        host_name: "host".into(),
        agent_id: "agent".into(),
        agent_ephemeral_id: "life".into(),
        shape: Shape::Ecs,
    }
}

fn shim() -> PathBuf {
    env!("CARGO_BIN_EXE_spoolbeat").into()
}

impl Bench {
    fn host(&self) -> Arc<Host> {
        let (intake, mut taken) = Intake::channel(1);
        let portions = Arc::clone(&self.portions);
        let mut gate = self.gate.subscribe();
        tokio::spawn(async move {
            let mut seq = 0;
            let mut count = 0;
            while let Some((portion, captured)) = taken.recv().await {
                count += 1;
                seq += u64::from(portion.frames.count());
                if gate.wait_for(|open| *open >= count).await.is_err() {
                    return;
                }
                portions.lock().unwrap().push(portion);
                drop(captured.send(Ok(Seq(seq))));
            }
        });
        Arc::new(Host {
            intake,
            pool: self.pool.clone(),
            identity: identity(),
            shim: shim(),
            environment: BTreeMap::from([
                ("PATH".into(), "/usr/bin:/bin".into()),
                ("SECRET".into(), "no".into()),
                ("PASSED".into(), "yes".into()),
            ]),
            limits: self.limits,
            flush: Duration::from_millis(20),
            cgroups: None,
            results: Some(Results::new(self.dir.path().join("results"))),
        })
    }

    fn spec(&self) -> Spec {
        Spec {
            job: Arc::new(self.job.clone()),
            task: Arc::new(self.task.clone()),
            run: RunId::from_text("20261121-080808.123-00000001"),
            trigger: Trigger::Schedule,
            scheduled_at: Some(Timestamp(1_763_712_488_000)),
            last_success_at: None,
            state_dir: self.dir.path().join("state"),
        }
    }

    /// Starts the run; gives its end and the sender of orders.
    fn start(&self) -> (tokio::task::JoinHandle<Ended>, mpsc::Sender<Order>) {
        let (orders, taken) = mpsc::channel(4);
        let run = runner::run(self.spec(), self.host(), taken, Arc::clone(&self.progress));
        (tokio::spawn(run), orders)
    }

    async fn run(&self) -> Ended {
        soon(self.start().0).await.unwrap()
    }

    fn events(&self) -> Vec<Value> {
        let portions = self.portions.lock().unwrap();
        portions
            .iter()
            .flat_map(|portion| portion.frames.payloads())
            .map(|payload| serde_json::from_slice(payload).unwrap())
            .collect()
    }

    fn messages(&self, stream: &str) -> Vec<String> {
        let events = self.events();
        let of_stream = events
            .iter()
            .filter(|event| event["job"]["stream"] == stream);
        of_stream
            .map(|event| event["message"].as_str().unwrap().to_owned())
            .collect()
    }

    fn facts(&self) -> Vec<Fact> {
        let portions = self.portions.lock().unwrap();
        portions
            .iter()
            .flat_map(|portion| portion.facts.clone())
            .collect()
    }

    fn result(&self) -> PathBuf {
        self.dir
            .path()
            .join("results/disk/20261121-080808.123-00000001")
    }

    fn record(&self) -> Value {
        serde_json::from_slice(&fs::read(self.result().join("run.json")).unwrap()).unwrap()
    }

    fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }
}

async fn soon<F: Future>(future: F) -> F::Output {
    clock::within(PATIENCE, future).await.expect("in time")
}

async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let end = clock::tick().after(PATIENCE);
    while !holds() {
        assert!(clock::tick() < end, "{what}");
        clock::sleep(Duration::from_millis(5)).await;
    }
}

fn exists(path: &Path) -> bool {
    path.exists()
}

#[tokio::test]
async fn what_a_run_prints_arrives_between_its_start_and_its_end() {
    let bench = bench("echo one; echo two; echo bad >&2; printf last; exit 3");
    let ended = bench.run().await;
    assert_eq!(ended.outcome, Outcome::Failed);
    assert_eq!(ended.exit, Some(Exit::Code(3)));
    assert_eq!(ended.reason.as_deref(), Some("exit code 3"));
    assert_eq!(bench.messages("stdout"), ["one", "two", "last"]);
    assert_eq!(bench.messages("stderr"), ["bad"]);
    let events = bench.events();
    assert_eq!(events.first().unwrap()["event"]["type"][0], "start");
    assert_eq!(events.last().unwrap()["event"]["type"][0], "end");
    let facts = bench.facts();
    assert!(matches!(facts[0], Fact::Fired { .. }));
    assert!(matches!(
        &facts[1],
        Fact::Ended {
            outcome: Outcome::Failed,
            ..
        }
    ));
    let record = bench.record();
    assert_eq!(record["outcome"], "failed");
    assert_eq!(record["exit_code"], 3);
    assert_eq!(record["captured_up_to"], 6);
    assert!(!exists(&bench.result().join("running.json")));
    assert_eq!(
        fs::read_to_string(bench.result().join("stdout")).unwrap(),
        "one\ntwo\nlast"
    );
    assert_eq!(bench.progress.captured.load(Ordering::Relaxed), 6);
    assert_eq!(bench.progress.lines.load(Ordering::Relaxed), 4);
}

#[tokio::test]
async fn nothing_runs_before_its_fire_is_durable() {
    let bench = bench("echo hi >\"$SPOOLBEAT_STATE_DIR/ran\"");
    bench.gate.send_replace(0);
    let (run, _orders) = bench.start();
    clock::sleep(Duration::from_millis(300)).await;
    assert!(!exists(&bench.file("state/ran")) && !exists(&bench.result()));
    bench.gate.send_replace(usize::MAX);
    assert_eq!(soon(run).await.unwrap().outcome, Outcome::Success);
    assert!(exists(&bench.file("state/ran")));
}

#[tokio::test]
async fn the_result_waits_for_the_end_to_be_durable() {
    let bench = bench("exit 0");
    bench.gate.send_replace(1);
    let (run, _orders) = bench.start();
    let running = bench.result().join("running.json");
    until("it runs", || exists(&running)).await;
    clock::sleep(Duration::from_millis(300)).await;
    assert!(exists(&running) && !exists(&bench.result().join("run.json")));
    bench.gate.send_replace(usize::MAX);
    soon(run).await.unwrap();
    assert!(!exists(&running));
    assert_eq!(bench.record()["outcome"], "success");
}

#[tokio::test]
async fn a_script_sees_its_run_and_nothing_else_of_the_daemon() {
    let mut bench = bench("env; pwd; printf '%s|' \"$@\"; echo");
    bench.task.script.args = vec![
        "--at".into(),
        "${SPOOLBEAT_SCHEDULED_AT}".into(),
        "since=${SPOOLBEAT_LAST_SUCCESS_AT};".into(),
    ];
    bench.task.script.env = BTreeMap::from([("WHO".into(), "job ${SPOOLBEAT_JOB}".into())]);
    bench.task.script.pass_env = vec!["PASSED".into()];
    bench.run().await;
    let lines = bench.messages("stdout");
    let has = |line: &str| lines.iter().any(|found| found == line);
    for line in [
        "SPOOLBEAT_JOB=disk",
        "SPOOLBEAT_RUN_ID=20261121-080808.123-00000001",
        "SPOOLBEAT_TRIGGER=schedule",
        "SPOOLBEAT_SCHEDULED_AT=2025-11-21T08:08:08.000Z",
        "WHO=job disk",
        "PASSED=yes",
        "PATH=/usr/bin:/bin",
        "LANG=C.UTF-8",
        "--at|2025-11-21T08:08:08.000Z|since=;|",
    ] {
        assert!(has(line), "{line} in {lines:#?}");
    }
    assert!(has(&format!(
        "SPOOLBEAT_RESULT_DIR={}",
        bench.result().display()
    )));
    assert!(has(&bench.file("generation").display().to_string()));
    let hidden = ["SECRET=", "SPOOLBEAT_LAST_SUCCESS_AT="];
    assert!(
        !lines
            .iter()
            .any(|line| hidden.iter().any(|name| line.starts_with(name)))
    );
}

#[tokio::test]
async fn a_script_that_runs_too_long_is_ended_also_when_it_ignores_term() {
    let mut bench = bench("trap 'echo no' TERM; echo up; while :; do sleep 0.05; done");
    bench.task.script.timeout = Some(Duration::from_millis(300));
    bench.task.script.kill_grace = Duration::from_millis(300);
    let ended = bench.run().await;
    assert_eq!(ended.outcome, Outcome::TimedOut);
    assert_eq!(ended.exit, Some(Exit::Signal(9)));
    assert_eq!(
        ended.reason.as_deref(),
        Some("ran longer than its timeout of 300ms")
    );
    assert_eq!(bench.messages("stdout"), ["up", "no"]);
}

#[tokio::test]
async fn a_stopped_script_is_ended_by_its_timeout() {
    let mut bench = bench("kill -STOP $$");
    bench.task.script.timeout = Some(Duration::from_millis(200));
    assert_eq!(bench.run().await.outcome, Outcome::TimedOut);
}

#[tokio::test]
async fn a_daemon_that_holds_the_pipes_is_swept_after_the_grace() {
    let mut bench = bench("setsid sleep 1000 & echo $!; exit 0");
    bench.task.script.kill_grace = Duration::from_millis(300);
    let started = clock::tick();
    let ended = bench.run().await;
    assert_eq!(ended.outcome, Outcome::Success);
    assert!(clock::tick().since(started) >= Duration::from_millis(300));
    let daemon = &bench.messages("stdout")[0];
    until("it is gone", || !exists(&Path::new("/proc").join(daemon))).await;
}

#[tokio::test]
async fn what_a_script_left_behind_is_swept_at_its_end() {
    let bench = bench("setsid sleep 1000 >/dev/null 2>&1 & echo $!; exit 0");
    let ended = bench.run().await;
    assert_eq!(ended.outcome, Outcome::Success);
    let daemon = &bench.messages("stdout")[0];
    until("it is gone", || !exists(&Path::new("/proc").join(daemon))).await;
}

#[tokio::test]
async fn a_run_ends_as_it_is_ordered() {
    let bench = bench("echo ready; sleep 1000");
    let (run, orders) = bench.start();
    until("it is ready", || {
        bench.progress.lines.load(Ordering::Relaxed) == 1
    })
    .await;
    orders.send(Order::Terminate).await.unwrap();
    let ended = soon(run).await.unwrap();
    assert_eq!(ended.outcome, Outcome::Killed);
    assert_eq!(ended.exit, Some(Exit::Signal(15)));
}

#[tokio::test]
async fn a_run_that_is_not_wanted_any_more_is_never_started() {
    let bench = bench("echo never");
    bench.gate.send_replace(0);
    let (run, orders) = bench.start();
    orders.send(Order::Terminate).await.unwrap();
    clock::sleep(Duration::from_millis(50)).await;
    bench.gate.send_replace(usize::MAX);
    let ended = soon(run).await.unwrap();
    assert_eq!((ended.outcome, ended.exit), (Outcome::Killed, None));
    assert!(bench.messages("stdout").is_empty());
}

#[tokio::test]
async fn a_script_that_cannot_start_has_an_end_and_a_result_too() {
    let mut bench = bench("");
    bench.task.script.language = Language::Exec;
    let ended = bench.run().await;
    assert_eq!(ended.outcome, Outcome::CouldNotStart);
    assert!(ended.reason.unwrap().contains("chmod +x"));
    assert_eq!(bench.record()["outcome"], "could_not_start");
    assert_eq!(bench.events().len(), 2);
}

#[tokio::test]
async fn a_queue_that_takes_nothing_holds_the_script_and_its_timeout() {
    let mut bench = bench("yes 0123456789 | head -c 220000; touch \"$SPOOLBEAT_STATE_DIR/done\"");
    bench.task.script.timeout = Some(Duration::from_millis(1500));
    bench.limits.batch_events = 100;
    bench.gate.send_replace(1);
    let (run, _orders) = bench.start();
    clock::sleep(Duration::from_millis(2500)).await;
    assert!(!run.is_finished() && !exists(&bench.file("state/done")));
    let read = bench.progress.bytes.load(Ordering::Relaxed);
    // Four portions, what is gathered, and nothing more than a chunk.
    assert!(read <= 6 * 100 * 11 + (64 << 10), "{read} bytes read");
    bench.gate.send_replace(usize::MAX);
    assert_eq!(soon(run).await.unwrap().outcome, Outcome::Success);
    assert_eq!(bench.messages("stdout").len(), 20_000);
}

#[tokio::test]
async fn an_order_ends_a_script_that_a_full_queue_holds() {
    let mut bench = bench("trap '' TERM; yes $(printf %01000d 0)");
    bench.task.script.kill_grace = Duration::from_millis(200);
    bench.gate.send_replace(1);
    let (run, orders) = bench.start();
    until("it flows", || {
        bench.progress.bytes.load(Ordering::Relaxed) > 10_000
    })
    .await;
    orders.send(Order::Terminate).await.unwrap();
    clock::sleep(Duration::from_millis(800)).await;
    bench.gate.send_replace(usize::MAX);
    let ended = soon(run).await.unwrap();
    assert_eq!(ended.outcome, Outcome::Killed);
    // What it had printed before is not lost.
    let printed = bench.messages("stdout").len() as u64;
    assert_eq!(printed, bench.progress.lines.load(Ordering::Relaxed));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_runs_share_the_pool_and_lose_no_line() {
    let mut bench = bench("for i in $(seq 1 60); do printf '%s\\n' x{1..1000}; done; echo end >&2");
    bench.limits.batch_events = 500;
    let host = bench.host();
    let mut runs = tokio::task::JoinSet::new();
    let mut senders = Vec::new();
    for n in 0..12 {
        let mut spec = bench.spec();
        spec.run = RunId::new(Timestamp(n), 1);
        let (orders, taken) = mpsc::channel(1);
        senders.push(orders);
        runs.spawn(runner::run(spec, Arc::clone(&host), taken, Arc::default()));
    }
    while let Some(ended) = soon(runs.join_next()).await {
        assert_eq!(ended.unwrap().outcome, Outcome::Success);
    }
    let portions = bench.portions.lock().unwrap();
    let framed: u64 = portions.iter().map(|portion| portion.counters.framed).sum();
    assert_eq!(framed, 12 * 60_001);
    for portion in portions.iter() {
        let counters = portion.counters;
        assert_eq!(
            counters.bytes_read,
            counters.bytes_framed + counters.bytes_cut
        );
    }
}

#[tokio::test]
async fn a_line_longer_than_the_longest_event_is_cut_and_said_to_be() {
    let mut bench = bench("head -c 5000000 /dev/zero | tr '\\0' x; echo; echo after");
    bench.task.stdout.max_event = 1000;
    bench.run().await;
    let messages = bench.messages("stdout");
    assert_eq!(messages[0].len(), 1000);
    assert_eq!(messages[1], "after");
    assert_eq!(bench.progress.lines_cut.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn a_queue_that_breaks_ends_the_script_and_leaves_the_run_open() {
    let bench = bench("while :; do echo x; sleep 0.01; done");
    let (intake, mut taken) = Intake::channel(1);
    let mut host = Arc::into_inner(bench.host()).unwrap();
    host.intake = intake;
    let (_orders, orders) = mpsc::channel(1);
    let run = tokio::spawn(runner::run(
        bench.spec(),
        Arc::new(host),
        orders,
        Arc::clone(&bench.progress),
    ));
    for seq in 0..3 {
        let (portion, captured) = soon(taken.recv()).await.unwrap();
        bench.portions.lock().unwrap().push(portion);
        captured.send(Ok(Seq(seq))).unwrap();
    }
    drop(taken);
    let ended = soon(run).await.unwrap();
    assert_eq!(ended.outcome, Outcome::Killed);
    assert_eq!(ended.reason.as_deref(), Some("the queue takes no more"));
    assert!(exists(&bench.result().join("running.json")));
}

#[tokio::test]
async fn an_interrupted_run_gets_its_end_once_under_a_number_of_its_own() {
    let bench = bench("");
    let host = bench.host();
    let spec = bench.spec();
    let open = runner::Open {
        job: "disk".into(),
        run: spec.run.clone(),
        generation: "0123456789abcdef".into(),
        trigger: Trigger::Schedule,
        scheduled_at: spec.scheduled_at,
        started_at: Timestamp(1_000),
    };
    let route = bench.job.route.clone();
    soon(runner::interrupted(
        &open,
        Some(&bench.job),
        route,
        Timestamp(61_000),
        &host,
    ))
    .await
    .unwrap();
    let events = bench.events();
    assert_eq!(events.len(), 1);
    assert_eq!(events[0]["event"]["id"], "20261121-080808.123-00000001.r.2");
    assert_eq!(events[0]["job"]["outcome"], "interrupted");
    assert!(
        events[0]["job"].get("counts").is_none(),
        "nobody knows them"
    );
    assert!(matches!(
        bench.facts()[..],
        [Fact::Ended {
            outcome: Outcome::Interrupted,
            ..
        }]
    ));
}

/// The program of [`try_prints_events_and_passes_the_exit_code_on`].
#[tokio::test]
async fn helper_that_tries() {
    let Some(script) = std::env::var_os("SPOOLBEAT_TEST_TRY") else {
        return;
    };
    let bench = bench(script.to_str().unwrap());
    let state = bench.file("state");
    let job = Arc::new(bench.job.clone());
    let task = Arc::new(bench.task.clone());
    let code = spoolbeat::cli::try_job::run(job, task, identity(), state, shim()).await;
    drop(bench);
    std::process::exit(i32::from(code));
}

#[test]
fn try_prints_events_and_passes_the_exit_code_on() {
    let run = |script: &str| {
        std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "runs::helper_that_tries", "--nocapture"])
            .env("SPOOLBEAT_TEST_TRY", OsString::from(script))
            .output()
            .unwrap()
    };
    let done = run("echo hello; exit 9");
    assert_eq!(done.status.code(), Some(9));
    let text = String::from_utf8(done.stdout).unwrap();
    let events: Vec<Value> = text
        .lines()
        .filter_map(|line| serde_json::from_str(line).ok())
        .collect();
    assert!(
        events.iter().any(|event| event["message"] == "hello"),
        "{text}"
    );
    assert_eq!(events.last().unwrap()["event"]["type"][0], "end");
    assert!(
        String::from_utf8(done.stderr)
            .unwrap()
            .contains("failed: exit code 9")
    );
    assert_eq!(run("kill -15 $$").status.code(), Some(143));
}
