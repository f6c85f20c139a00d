//! First light: what the manual says a user sees, seen from outside.
//!
//! Each test drives the real daemon on a real root; none looks into the queue's files.

#![expect(clippy::unwrap_used, reason = "tests")]

use std::collections::BTreeSet;
use std::fs;
use std::time::Duration;
use std::time::Instant;

use serde_json::Value;
use spoolbeat::units::Timestamp;

use crate::harness::Keep;
use crate::harness::Logstash;
use crate::harness::Mode;
use crate::harness::SOON;
use crate::harness::Spool;
use crate::harness::is_run_event;
use crate::harness::lives;
use crate::harness::run_of;
use crate::harness::said;
use crate::harness::wait_until;

const ONCE: &str = "[script]\nrun = \"job.sh\"\n[schedule]\nonce = true\n";
const EVERY_SECOND: &str = "[script]\nrun = \"job.sh\"\n[schedule]\nevery = \"1s\"\n";
const KEPT_RUNNING: &str = "[script]\nrun = \"job.sh\"\n[schedule]\nkeep_running = true\n";

/// A kept-running script that says who it is and then lives on.
const TICKER: &str = "echo \"pid $$\"\nwhile :; do sleep 0.1; echo tick; done\n";

/// Prints `line 1` to `line 500`.
const FIVE_HUNDRED: &str = "for n in $(seq 500); do echo \"line $n\"; done\n";

fn five_hundred() -> Vec<String> {
    (1..=500).map(|n| format!("line {n}")).collect()
}

/// A started daemon with one server and one job.
fn running(job: &str, toml: &str, script: &str) -> (Spool, Logstash) {
    let logstash = Logstash::new(Keep::Events);
    let mut spool = Spool::new(logstash.port());
    spool.job(job, toml, "job.sh", script);
    spool.start();
    (spool, logstash)
}

fn runs(logstash: &Logstash, job: &str) -> BTreeSet<String> {
    logstash.events(job).iter().map(run_of).collect()
}

/// The start and end events of a job's runs, once `count` have arrived.
fn run_events(logstash: &Logstash, job: &str, count: usize) -> Vec<Value> {
    let mut found = Vec::new();
    wait_until(SOON, "start and end of the run arrive", || {
        found = logstash.events(job);
        found.retain(is_run_event);
        found.len() >= count
    });
    found
}

fn outcome(spool: &Spool, job: &str) -> Value {
    let result = spool.latest_result(job, "run.json");
    serde_json::from_str::<Value>(&result).map_or(Value::Null, |run| run["outcome"].clone())
}

fn pid(logstash: &Logstash, job: &str) -> String {
    let mut found = None;
    wait_until(SOON, "the script says its process number", || {
        found = logstash
            .lines(job)
            .iter()
            .find_map(|line| line.strip_prefix("pid ").map(str::to_owned));
        found.is_some()
    });
    found.unwrap()
}

#[test]
fn a_copied_job_folder_delivers_its_first_event_within_3_s() {
    let logstash = Logstash::new(Keep::Events);
    let mut spool = Spool::with_defaults(logstash.port());
    spool.job("first", KEPT_RUNNING, "job.sh", TICKER);
    spool.start();
    wait_until(SOON, "the daemon works", || {
        !logstash.lines("first").is_empty()
    });

    spool.job("new", ONCE, "job.sh", "echo hello\n");
    wait_until(
        Duration::from_secs(3),
        "the new job's event arrives",
        || logstash.lines("new") == ["hello"],
    );
    spool.stop();
}

#[test]
fn a_nonsense_edit_keeps_the_last_good_job_and_status_says_where() {
    let (mut spool, logstash) = running("job", EVERY_SECOND, "echo good\n");
    wait_until(SOON, "the job runs", || !logstash.lines("job").is_empty());

    let nonsense = "[script]\nrun = \"job.sh\"\n\n[schedule]\nevery = \"soon\"\n";
    spool.job("job", nonsense, "job.sh", "echo bad\n");
    let mut problem = Value::Null;
    wait_until(SOON, "status shows the problem", || {
        problem = spool.job_status("job")["problems"][0].clone();
        problem.is_object()
    });
    assert_eq!(problem["line"], 5, "{problem}");
    assert_eq!(problem["key"], "schedule.every", "{problem}");
    assert!(problem["column"].as_u64().unwrap() >= 1, "{problem}");
    assert!(
        problem["message"].as_str().unwrap().contains("soon"),
        "{problem}"
    );

    let before = runs(&logstash, "job").len();
    wait_until(SOON, "the job goes on", || {
        runs(&logstash, "job").len() >= before + 2
    });
    assert!(!logstash.lines("job").contains(&"bad".to_owned()));

    spool.job("job", EVERY_SECOND, "job.sh", "echo better\n");
    wait_until(SOON, "the mended job runs", || {
        logstash.lines("job").contains(&"better".to_owned())
    });
    wait_until(SOON, "status shows no problem any more", || {
        spool.job_status("job")["problems"]
            .as_array()
            .is_none_or(Vec::is_empty)
    });
    spool.stop();
}

#[test]
fn a_deleted_folder_stops_its_job_and_its_process() {
    let (mut spool, logstash) = running("victim", KEPT_RUNNING, TICKER);
    let pid = pid(&logstash, "victim");
    assert!(lives(&pid));

    spool.remove("victim");
    wait_until(SOON, "the process ends", || !lives(&pid));
    wait_until(SOON, "status forgets the job", || {
        let status = spool.status();
        status.is_object() && spool.job_status("victim").is_null()
    });
    // The run's end is its last word.
    let events = run_events(&logstash, "victim", 2);
    assert_eq!(events[1]["event"]["type"][0], "end", "{}", events[1]);
    assert_eq!(runs(&logstash, "victim").len(), 1);
    spool.stop();
}

#[test]
fn changes_of_one_job_do_not_disturb_the_runs_of_another() {
    let (mut spool, logstash) = running("steady", KEPT_RUNNING, TICKER);
    let pid = pid(&logstash, "steady");

    spool.job("other", EVERY_SECOND, "job.sh", "echo one\n");
    wait_until(SOON, "the other job runs", || {
        logstash.lines("other").contains(&"one".to_owned())
    });
    spool.job("other", EVERY_SECOND, "job.sh", "echo two\n");
    wait_until(SOON, "the other job's edit is seen", || {
        logstash.lines("other").contains(&"two".to_owned())
    });
    spool.job("other", "nonsense", "job.sh", "echo three\n");
    wait_until(SOON, "the other job's fault is seen", || {
        spool.job_status("other")["problems"][0].is_object()
    });
    spool.remove("other");
    wait_until(SOON, "the other job is gone", || {
        let status = spool.status();
        status.is_object() && spool.job_status("other").is_null()
    });

    let ticks = logstash.lines("steady").len();
    wait_until(SOON, "the steady job goes on", || {
        logstash.lines("steady").len() > ticks + 3
    });
    assert_eq!(runs(&logstash, "steady").len(), 1, "one run throughout");
    assert!(lives(&pid), "the same process");
    spool.stop();
}

/// Every file and folder under the root with size and time of change.
fn tree(spool: &Spool) -> BTreeSet<String> {
    walkdir::WalkDir::new(spool.root())
        .into_iter()
        .map(|entry| {
            let entry = entry.unwrap();
            let meta = entry.metadata().unwrap();
            let changed = meta.modified().unwrap();
            format!("{} {} {changed:?}", entry.path().display(), meta.len())
        })
        .collect()
}

#[test]
fn a_second_daemon_exits_with_75_within_1_s_and_touches_nothing() {
    let (mut spool, logstash) = running("quiet", ONCE, "echo done\n");
    run_events(&logstash, "quiet", 2);
    let mut seen = tree(&spool);
    let mut same = 0;
    wait_until(SOON, "the first daemon is at rest", || {
        let now = tree(&spool);
        same = if now == seen { same + 1 } else { 0 };
        seen = now;
        same >= 50
    });

    let started = Instant::now();
    let output = spool.command(&["run", "."]);
    let took = started.elapsed();
    assert_eq!(output.status.code(), Some(75), "{}", said(&output));
    assert!(took < Duration::from_secs(1), "it took {took:?}");
    assert_eq!(tree(&spool), seen);
    spool.stop();
}

#[test]
fn a_second_daemon_is_refused_also_when_the_queue_was_removed_under_the_first() {
    let (mut spool, logstash) = running("quiet", ONCE, "echo done\n");
    run_events(&logstash, "quiet", 2);
    fs::remove_dir_all(spool.root().join("queue")).unwrap();
    let output = spool.command(&["run", "."]);
    assert_eq!(output.status.code(), Some(75), "{}", said(&output));
    assert!(!spool.root().join("queue").exists(), "nothing is touched");
    spool.stop();
}

#[test]
fn sigterm_waits_for_the_acks_of_what_is_under_way_and_exits_0() {
    let logstash = Logstash::new(Keep::Ids);
    logstash.answer(Mode::Never);
    let mut spool = Spool::new(logstash.port());
    spool.job("job", ONCE, "job.sh", FIVE_HUNDRED);
    spool.start();
    wait_until(SOON, "everything is written down", || {
        outcome(&spool, "job") == "success"
    });
    wait_until(SOON, "a window is under way", || logstash.count() > 0);

    spool.terminate();
    logstash.answer(Mode::All);
    spool.ended();
    let ids = logstash.acked_ids();
    // The lines, and the start and the end of the run.
    assert_eq!(ids.len(), 502);
    assert_eq!(ids.iter().collect::<BTreeSet<_>>().len(), 502);

    spool.job("marker", ONCE, "job.sh", "echo marker\n");
    spool.start();
    wait_until(SOON, "the next daemon ships", || logstash.count() >= 505);
    spool.stop();
    assert_eq!(logstash.count(), 505, "nothing came a second time");
}

#[test]
fn events_that_were_captured_before_a_kill_arrive_after_it() {
    let mut logstash = Logstash::new(Keep::Events);
    logstash.close();
    let mut spool = Spool::new(logstash.port());
    spool.job("job", ONCE, "job.sh", FIVE_HUNDRED);
    spool.start();
    wait_until(SOON, "everything is written down", || {
        outcome(&spool, "job") == "success"
    });
    spool.kill();

    logstash.open();
    spool.start();
    wait_until(SOON, "all lines arrive", || {
        logstash.lines("job").len() >= 500
    });
    spool.stop();
    assert_eq!(logstash.lines("job"), five_hundred());
    assert_eq!(
        runs(&logstash, "job").len(),
        1,
        "it did not run a second time"
    );
}

#[test]
fn after_a_partial_ack_only_the_rest_comes_again_on_a_new_connection() {
    let logstash = Logstash::new(Keep::Events);
    logstash.answer(Mode::First(100));
    let mut spool = Spool::new(logstash.port());
    spool.job("job", ONCE, "job.sh", FIVE_HUNDRED);
    spool.start();
    let mut partial = None;
    wait_until(SOON, "a window is acknowledged in part", || {
        partial = logstash
            .windows()
            .into_iter()
            .find(|window| window.acked > 0 && window.acked < window.ids.len());
        partial.is_some()
    });
    logstash.answer(Mode::All);
    wait_until(SOON, "everything is acknowledged", || {
        logstash.acked_ids().len() >= 502
    });
    spool.stop();

    let ids = logstash.acked_ids();
    assert_eq!(ids.len(), ids.iter().collect::<BTreeSet<_>>().len());
    let partial = partial.unwrap();
    let next = &partial.ids[partial.acked];
    let again = logstash
        .windows()
        .into_iter()
        .rfind(|window| window.ids.contains(next))
        .unwrap();
    assert!(again.connection > partial.connection);
    assert_eq!(&again.ids[0], next, "the rest begins where the ACK ended");
}

#[test]
fn json_lines_become_keys_and_text_lines_become_the_message() {
    let script = "echo '{\"message\":\"structured\",\"answer\":42,\"event\":{\"kind\":\"metric\"}}'\necho '[1,2]'\necho plain\n";
    let (mut spool, logstash) = running("text", ONCE, script);
    let json = format!("{ONCE}[capture.stdout]\nformat = \"json\"\n");
    spool.job("json", &json, "job.sh", script);
    wait_until(SOON, "both jobs' lines arrive", || {
        logstash.lines("text").len() == 3 && logstash.lines("json").len() == 3
    });
    spool.stop();

    let structured = "{\"message\":\"structured\",\"answer\":42,\"event\":{\"kind\":\"metric\"}}";
    assert_eq!(logstash.lines("text"), [structured, "[1,2]", "plain"]);
    assert_eq!(logstash.lines("json"), ["structured", "[1,2]", "plain"]);
    let mut events = logstash.events("json");
    events.retain(|event| !is_run_event(event));
    assert_eq!(events[0]["answer"], 42);
    assert_eq!(events[0]["event"]["kind"], "metric");
    assert_eq!(
        logstash.events("text")[1]["answer"],
        Value::Null,
        "never guessed"
    );
}

#[test]
fn start_and_end_of_each_run_are_events() {
    let (mut spool, logstash) = running("good", ONCE, "echo fine\n");
    spool.job("bad", ONCE, "job.sh", "exit 3\n");
    for (job, outcome) in [("good", "success"), ("bad", "failure")] {
        let events = run_events(&logstash, job, 2);
        assert_eq!(events[0]["event"]["type"][0], "start", "{}", events[0]);
        assert_eq!(events[1]["event"]["type"][0], "end", "{}", events[1]);
        assert_eq!(events[1]["event"]["outcome"], outcome, "{}", events[1]);
        assert_eq!(run_of(&events[0]), run_of(&events[1]));
        for event in &events {
            event["@timestamp"]
                .as_str()
                .unwrap()
                .parse::<Timestamp>()
                .unwrap();
        }
    }
    spool.stop();
}

#[test]
fn a_job_that_runs_once_runs_again_when_the_stop_cut_it_short() {
    let (mut spool, logstash) = running("setup", ONCE, "echo begun\nsleep 60\n");
    for runs_so_far in 1..=2 {
        wait_until(SOON, "it has begun", || {
            logstash.lines("setup").len() == runs_so_far
        });
        spool.stop();
        spool.start();
    }
    spool.job("setup", ONCE, "job.sh", "echo whole\n");
    wait_until(SOON, "it has ended", || {
        outcome(&spool, "setup") == "success"
    });
    let ran = runs(&logstash, "setup").len();
    spool.stop();
    spool.start();
    spool.job("marker", ONCE, "job.sh", "echo marker\n");
    wait_until(SOON, "the next daemon runs jobs", || {
        !logstash.lines("marker").is_empty()
    });
    assert_eq!(runs(&logstash, "setup").len(), ran, "it has had its run");
    spool.stop();
}

#[test]
fn results_stay_within_their_bounds_also_of_daemons_that_live_for_moments() {
    let logstash = Logstash::new(Keep::Events);
    let spool = Spool::new(logstash.port());
    let toml = format!("{ONCE}[results]\nkeep = {{ runs = 2 }}\n");
    spool.job("job", &toml, "job.sh", "echo x\n");
    for _ in 0..6 {
        let ran = spool.command(&["run", "--once"]);
        assert!(ran.status.success(), "{}", said(&ran));
    }
    let listed = spool.command(&["results", "job", "--json"]);
    let listed: Value = serde_json::from_slice(&listed.stdout).unwrap();
    let kept = listed.as_array().unwrap().len();
    // What is too much goes when all jobs are known; then there is one run more.
    assert!((1..=3).contains(&kept), "{kept} results");
}

#[test]
fn a_run_beyond_its_timeout_is_killed_even_if_it_ignores_term() {
    let toml = "[script]\nrun = \"job.sh\"\ntimeout = \"1s\"\nkill_grace = \"200ms\"\n[schedule]\nonce = true\n";
    let script = "trap '' TERM\necho \"pid $$\"\nwhile :; do sleep 0.1; done\n";
    let (mut spool, logstash) = running("stubborn", toml, script);
    let pid = pid(&logstash, "stubborn");
    wait_until(SOON, "the result says so", || {
        outcome(&spool, "stubborn") == "timed_out"
    });
    assert!(!lives(&pid));
    spool.stop();
}

#[test]
fn once_runs_once_across_restarts() {
    let (mut spool, logstash) = running("setup", ONCE, "echo done\n");
    run_events(&logstash, "setup", 2);
    spool.stop();

    spool.job("marker", ONCE, "job.sh", "echo marker\n");
    spool.start();
    run_events(&logstash, "marker", 2);
    spool.stop();
    assert_eq!(runs(&logstash, "setup").len(), 1);
}

#[test]
fn every_keeps_its_phase_across_restarts() {
    let script = "echo \"$SPOOLBEAT_SCHEDULED_AT\"\n";
    let (mut spool, logstash) = running("beat", EVERY_SECOND, script);
    wait_until(SOON, "it runs", || logstash.lines("beat").len() >= 3);
    spool.stop();
    let before = logstash.lines("beat").len();
    spool.start();
    wait_until(SOON, "it runs again", || {
        logstash.lines("beat").len() >= before + 2
    });
    spool.stop();

    // The first run of a new job may be nobody's tick.
    let lines = logstash.lines("beat");
    let times: Vec<i64> = lines[1..]
        .iter()
        .map(|line| line.parse::<Timestamp>().unwrap().0)
        .collect();
    assert!(times.is_sorted_by(|a, b| a < b), "{times:?}");
    assert!(
        times.iter().all(|at| (at - times[0]) % 1_000 == 0),
        "{times:?}"
    );
}

#[test]
fn the_results_folder_tells_what_a_run_did() {
    let script = "echo out\necho err >&2\nexit 3\n";
    let (mut spool, logstash) = running("job", ONCE, script);
    wait_until(SOON, "the result is there", || {
        outcome(&spool, "job") == "failed"
    });
    let run: Value = serde_json::from_str(&spool.latest_result("job", "run.json")).unwrap();
    assert_eq!(run["exit_code"], 3, "{run}");
    assert_eq!(spool.latest_result("job", "stdout"), "out\n");
    assert_eq!(spool.latest_result("job", "stderr"), "err\n");
    assert_eq!(spool.latest_result("job", "running.json"), "");
    wait_until(SOON, "the events arrive", || {
        logstash.lines("job").len() == 2
    });
    let id = runs(&logstash, "job").pop_first().unwrap();
    assert!(spool.root().join("results/job").join(id).is_dir());
    spool.stop();
}

#[test]
fn check_exits_with_78_and_lists_all_problems() {
    let spool = Spool::new(5044);
    spool.job("good", ONCE, "job.sh", "true\n");
    spool.job(
        "early",
        "[script]\nrun = \"absent.sh\"\n[schedule]\nevery = \"30\"\n",
        "job.sh",
        "true\n",
    );
    spool.job(
        "late",
        "[script]\nrun = \"job.sh\"\ntimeuot = \"5s\"\n[schedule]\nonce = true\n",
        "job.sh",
        "true\n",
    );
    let output = spool.command(&["check"]);
    let said = said(&output);
    assert_eq!(output.status.code(), Some(78), "{said}");
    for part in ["early", "absent.sh", "every", "late", "timeuot", "timeout"] {
        assert!(said.contains(part), "`{part}` is missing in: {said}");
    }

    spool.remove("early");
    spool.remove("late");
    let output = spool.command(&["check"]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
}

#[test]
fn try_prints_the_events_ships_nothing_and_exits_as_the_script_does() {
    let logstash = Logstash::new(Keep::Events);
    let spool = Spool::new(logstash.port());
    spool.job(
        "job",
        ONCE,
        "job.sh",
        "echo hello from the script\nexit 3\n",
    );
    let output = spool.command(&["try", "job"]);
    assert_eq!(output.status.code(), Some(3), "{}", said(&output));
    let printed = String::from_utf8(output.stdout).unwrap();
    assert!(printed.contains("hello from the script"), "{printed}");
    assert_eq!(logstash.count(), 0);
    assert!(
        !fs::exists(spool.root().join("queue")).unwrap(),
        "it makes no queue"
    );
}
