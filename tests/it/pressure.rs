//! A server that is away and a queue that becomes really full: what jobs do about it, what is seen of it, and
//! that it ends by itself with nothing lost.

#![expect(clippy::unwrap_used, reason = "tests")]

use std::fs;
use std::time::Duration;
use std::time::Instant;

use serde_json::Value;

use crate::harness::Keep;
use crate::harness::Logstash;
use crate::harness::SOON;
use crate::harness::Spool;
use crate::harness::run_of;
use crate::harness::wait_until;

/// Patience with a queue that fills or empties on a busy machine.
const DRAIN: Duration = Duration::from_secs(90);

/// As small as a queue may be; what is acknowledged makes room at once.
const SMALL: &str = "[queue]\nmax_bytes = \"16MiB\"\ncompression_level = 0\nretain = { age = \"1h\", bytes = \"0\" }\n";

/// A server that is away, and a small queue.
fn away() -> (Logstash, Spool) {
    let mut logstash = Logstash::new(Keep::Events);
    logstash.close();
    let spool = Spool::new(logstash.port());
    spool.settings(SMALL);
    (logstash, spool)
}

/// The daemon's own events with this action.
fn told(logstash: &Logstash, action: &str) -> Vec<Value> {
    let mut events = logstash.events("spoolbeat");
    events.retain(|event| event["event"]["action"] == action);
    events
}

fn success(spool: &Spool, job: &str) -> u64 {
    spool.job_status(job)["runs"]["success"].as_u64().unwrap()
}

#[test]
fn under_pressure_jobs_pause_or_stretch_it_is_told_and_all_go_on_by_themselves() {
    let (mut logstash, mut spool) = away();
    let every = "[script]\nrun = \"job.sh\"\n[schedule]\nevery = \"200ms\"\n";
    spool.job("pauses", every, "job.sh", "true\n");
    let stretch = format!("{every}on_pressure = \"stretch\"\n");
    spool.job("stretches", &stretch, "job.sh", "true\n");
    // Fills the queue slowly enough to be held before it is quite full.
    let (hold, root) = (spool.root().join("hold"), spool.root());
    let script = format!(
        "import os, time\nwhile not os.path.exists('{}'):\n    print('x' * 50000, flush=True)\n    time.sleep(0.02)\ntime.sleep(1000)\n",
        hold.display()
    );
    let kept = "[script]\nrun = \"job.py\"\n[schedule]\nkeep_running = true\n";
    spool.job("fills", kept, "job.py", &script);
    spool.start();
    wait_until(DRAIN, "schedules pause", || {
        spool.status()["daemon"]["state"] == "paused"
    });
    fs::write(&hold, "").unwrap();
    let why = spool.status()["daemon"]["paused"].clone();
    assert!(
        why.as_str().unwrap().contains("they resume below 70 %"),
        "{why}"
    );
    wait_until(SOON, "one is held, and the other's period grows", || {
        spool.job_status("pauses")["state"] == "held"
            && spool.job_status("stretches")["stretch"].as_u64() > Some(1)
    });
    let (paused, stretched) = (success(&spool, "pauses"), success(&spool, "stretches"));
    wait_until(SOON, "it runs on, less and less often", || {
        success(&spool, "stretches") >= stretched + 2
            && spool.job_status("stretches")["stretch"].as_u64() > Some(4)
    });
    assert_eq!(success(&spool, "pauses"), paused);
    let table = spool.command(&["status", root.to_str().unwrap()]);
    let table = String::from_utf8(table.stdout).unwrap();
    assert!(
        table.contains("schedules are paused: the queue is"),
        "{table}"
    );
    logstash.open();
    wait_until(DRAIN, "all goes on by itself", || {
        spool.status()["daemon"]["state"] == "running"
            && spool.job_status("stretches")["stretch"] == 1
            && success(&spool, "pauses") > paused
    });
    wait_until(SOON, "both are told, once each", || {
        told(&logstash, "queue-pressure").len() == 1
            && told(&logstash, "queue-pressure-over").len() == 1
    });
    spool.stop();
}

#[test]
fn a_full_queue_holds_a_kept_running_script_and_its_timeout_and_loses_nothing() {
    const LINES: usize = 20_000;
    const TIMEOUT: Duration = Duration::from_secs(4);
    let (mut logstash, mut spool) = away();
    // Twice as much as the queue takes; after that it has nothing more to say.
    let script = format!(
        "import os, time\ndone = os.environ['SPOOLBEAT_STATE_DIR'] + '/done'\nif not os.path.exists(done):\n    for n in range({LINES}):\n        print(n, 'x' * 1000)\n    open(done, 'w').close()\nelse:\n    time.sleep(1000)\n"
    );
    let kept = "[script]\nrun = \"job.py\"\ntimeout = \"4s\"\n[schedule]\nkeep_running = true\n";
    spool.job("floods", kept, "job.py", &script);
    let go = spool.root().join("go");
    let brief = format!(
        "while [ ! -e '{}' ]; do sleep 0.1; done\necho brief\n",
        go.display()
    );
    let once = "[script]\nrun = \"job.sh\"\n[schedule]\nonce = true\n";
    spool.job("brief", once, "job.sh", &brief);
    let started = Instant::now();
    spool.start();
    wait_until(DRAIN, "the queue is full", || {
        spool.status()["daemon"]["state"] == "paused"
    });
    wait_until(DRAIN, "its timeout is over three times", || {
        started.elapsed() >= 3 * TIMEOUT
    });
    let done = spool.root().join("state/floods/data/done");
    let job = spool.job_status("floods");
    assert!(!done.exists(), "its last lines found room");
    assert_eq!(job["state"], "running", "{job}");
    assert_eq!(job["running"].as_array().unwrap().len(), 1, "{job}");
    assert_eq!(job["runs"]["timed_out"], 0, "{job}");
    let run = job["running"][0]["run"].as_str().unwrap().to_owned();
    let status = spool.status();
    let why = status["daemon"]["paused"].as_str().unwrap().to_owned();
    assert!(
        why.contains("scripts wait") && why.ends_with("the queue has reached [queue] max_bytes"),
        "{why}"
    );
    fs::write(&go, "").unwrap();
    wait_until(
        SOON,
        "a script that has ended is not called running",
        || {
            let job = spool.job_status("brief");
            job["state"] == "ending" && job["running"][0]["script_over"] == true
        },
    );
    let root = spool.root();
    let table = spool.command(&["status", root.to_str().unwrap()]);
    let table = String::from_utf8(table.stdout).unwrap();
    assert!(table.contains("has ended, waits for the queue"), "{table}");
    let captured = status["totals"]["captured_events"].as_u64().unwrap();
    assert!(captured < LINES as u64, "{captured} found room");
    logstash.open();
    wait_until(DRAIN, "it prints on, to its end", || done.exists());
    let of_run = |event: &Value| run_of(event) == run;
    let end = || {
        let events = logstash.events("floods");
        let mut ends = events
            .into_iter()
            .filter(|event| of_run(event) && event["event"]["type"] == serde_json::json!(["end"]));
        ends.next()
    };
    wait_until(DRAIN, "its end arrives", || end().is_some());
    assert_eq!(end().unwrap()["event"]["outcome"], "success", "{:?}", end());
    wait_until(DRAIN, "the pressure is told to be over", || {
        spool.status()["daemon"]["state"] == "running"
            && !told(&logstash, "queue-pressure-over").is_empty()
    });
    // The script may fill the queue once more while it empties.
    assert!(!told(&logstash, "queue-pressure").is_empty());
    assert_eq!(spool.job_status("brief")["state"], "idle");
    assert_eq!(logstash.lines("brief"), ["brief"]);
    spool.stop();
    let lines = logstash.lines("floods");
    let numbers: Vec<usize> = lines
        .iter()
        .filter_map(|line| line.split(' ').next()?.parse().ok())
        .collect();
    assert!(
        numbers.iter().copied().eq(0..LINES),
        "{} lines",
        numbers.len()
    );
}
