//! What a script prints, and where each line of it goes, seen from outside.

#![expect(clippy::unwrap_used, reason = "tests")]

use std::fs;
use std::time::Duration;

use serde_json::Value;
use spoolbeat::units::Timestamp;

use crate::harness::Keep;
use crate::harness::Logstash;
use crate::harness::SOON;
use crate::harness::Spool;
use crate::harness::is_run_event;
use crate::harness::wait_until;

const ONCE: &str = "[script]\nrun = \"job.sh\"\n[schedule]\nonce = true\n";

/// A daemon that runs `script` once with `capture`, and what arrives until the run has ended.
fn captured(capture: &str, script: &str) -> (Spool, Vec<Value>) {
    let logstash = Logstash::new(Keep::Events);
    let mut spool = Spool::new(logstash.port());
    spool.job("job", &format!("{ONCE}{capture}"), "job.sh", script);
    spool.start();
    let mut events = Vec::new();
    wait_until(SOON, "the run ends and all of it arrives", || {
        events = logstash.events("job");
        events
            .iter()
            .any(|event| event["event"]["type"] == serde_json::json!(["end"]))
    });
    events.retain(|event| !is_run_event(event));
    (spool, events)
}

fn messages(events: &[Value]) -> Vec<&str> {
    events
        .iter()
        .map(|event| event["message"].as_str().unwrap())
        .collect()
}

/// Whether `line` stands in the daemon's log, at which level.
fn logged(spool: &Spool, line: &str) -> Option<String> {
    let log = fs::read_to_string(spool.log()).unwrap();
    let line = log.lines().find(|found| found.contains(line))?;
    Some(line.to_owned())
}

/// Lines printed together sat in a buffer until more came.
#[test]
fn defect_03_lines_before_a_pause_do_not_wait_for_the_lines_after_it() {
    let logstash = Logstash::new(Keep::Events);
    let mut spool = Spool::new(logstash.port());
    // The second half is printed only when the first has arrived.
    let go = spool.root().join("go");
    let script = format!(
        "echo A; echo B; echo C\nwhile [ ! -e {0} ]; do sleep 0.02; done\necho D\n",
        go.display()
    );
    spool.job("job", ONCE, "job.sh", &script);
    spool.start();
    let lines = || {
        let mut events = logstash.events("job");
        events.retain(|event| !is_run_event(event));
        events
    };
    wait_until(SOON, "A, B and C arrive while the script goes on", || {
        lines().len() == 3
    });
    fs::write(&go, "").unwrap();
    wait_until(SOON, "D arrives", || lines().len() == 4);
    assert_eq!(messages(&lines()), ["A", "B", "C", "D"]);
}

/// A line without its end held up both streams.
#[test]
fn defect_04_half_a_line_holds_up_no_other_stream() {
    let logstash = Logstash::new(Keep::Events);
    let mut spool = Spool::new(logstash.port());
    let go = spool.root().join("go");
    let script = format!(
        "printf 'half a '\necho one >&2; echo two >&2\nwhile [ ! -e {0} ]; do sleep 0.02; done\necho line\n",
        go.display()
    );
    spool.job("job", ONCE, "job.sh", &script);
    spool.start();
    wait_until(SOON, "the other stream arrives", || {
        logstash.lines("job") == ["one", "two"]
    });
    fs::write(&go, "").unwrap();
    wait_until(SOON, "and then the whole line", || {
        logstash.lines("job") == ["one", "two", "half a line"]
    });
}

/// Output that nobody wanted was not read, and the script hung. Acceptance case E: 200 KiB.
#[test]
fn defect_05_output_that_goes_nowhere_does_not_block_the_script() {
    let (_spool, events) = captured(
        "[capture.stdout]\nto = []\n",
        "head -c 204800 /dev/zero | tr '\\0' x\necho\necho done >&2\n",
    );
    assert_eq!(messages(&events), ["done"]);
}

/// Acceptance case D: stderr to errors and the own log, stdout to the log or ignored, each by itself, and
/// everything and nothing for both.
#[test]
fn acceptance_d_each_stream_goes_to_events_errors_the_log_or_nowhere() {
    let script = "echo from stdout; echo from stderr >&2\n";
    for (stdout, stderr) in [
        ("[]", "[]"),
        ("['events']", "['errors']"),
        ("['log']", "['log']"),
        ("['log']", "['errors', 'log']"),
        ("[]", "['errors', 'log']"),
        ("['events', 'log']", "['errors', 'log']"),
        ("['events', 'errors', 'log']", "['events', 'errors', 'log']"),
        ("['events', 'errors', 'log']", "['events']"),
    ] {
        let capture = format!("[capture.stdout]\nto = {stdout}\n[capture.stderr]\nto = {stderr}\n");
        let (spool, events) = captured(&capture, script);
        for (line, to, level) in [
            ("from stdout", stdout, "info"),
            ("from stderr", stderr, "error"),
        ] {
            let found: Vec<&Value> = events
                .iter()
                .filter(|event| event["message"] == line)
                .collect();
            let wanted = to.contains("events") || to.contains("errors");
            assert_eq!(found.len(), usize::from(wanted), "{line} to {to}");
            if let [event] = found.as_slice() {
                let is_error = to.contains("errors");
                assert_eq!(event["error"]["message"] == line, is_error, "{event}");
                assert_eq!(event["log"]["level"] == "error", is_error, "{event}");
            }
            let log = logged(&spool, line);
            assert_eq!(log.is_some(), to.contains("log"), "{line} to {to}");
            if let Some(log) = log {
                assert!(log.to_lowercase().contains(level), "{log}");
            }
        }
    }
}

#[test]
fn joined_lines_arrive_as_one_event_and_do_not_wait_for_ever() {
    let logstash = Logstash::new(Keep::Events);
    let mut spool = Spool::new(logstash.port());
    let capture =
        "[capture.stdout]\nmultiline = { pattern = '^\\s', match = 'after', timeout = '200ms' }\n";
    let script = "printf 'Error\\n  at a\\n  at b\\nnext\\n  at c\\n'\nexec sleep 600\n";
    spool.job("job", &format!("{ONCE}{capture}"), "job.sh", script);
    spool.start();
    let mut events = Vec::new();
    wait_until(
        SOON,
        "the last lines arrive while the script goes on",
        || {
            events = logstash.events("job");
            events.retain(|event| !is_run_event(event));
            events.len() == 2
        },
    );
    assert_eq!(messages(&events), ["Error\n  at a\n  at b", "next\n  at c"]);
    assert_eq!(events[0]["log"]["flags"], serde_json::json!(["multiline"]));
}

#[test]
fn a_document_is_one_event() {
    let document = "[capture.stdout]\nformat = 'document'\n";
    let script = "echo '{'; echo '  \"disks\": [1,'; echo '2], \"message\": \"all\"}'\n";
    let (_spool, events) = captured(document, script);
    assert_eq!(events.len(), 1);
    assert_eq!(events[0]["disks"], serde_json::json!([1, 2]));
    let (_spool, events) = captured(document, "echo one; echo two\n");
    assert_eq!(messages(&events), ["one\ntwo"]);
    let long = format!("{document}max_event = '1KiB'\n");
    let (_spool, events) = captured(&long, "seq 2000\n");
    assert_eq!(events.len(), 1);
    assert_eq!(
        events[0]["log"]["flags"],
        serde_json::json!(["multiline", "truncated"])
    );
    assert_eq!(events[0]["process"]["io"]["total_bytes_captured"], 1024);
    assert_eq!(
        events[0]["process"]["io"]["total_bytes_skipped"],
        8893 - 1024
    );
}

#[test]
fn the_time_of_an_event_is_when_its_first_line_was_read() {
    let capture = "[capture.stdout]\nmultiline = { pattern = '^ ', match = 'after' }\n";
    let (_spool, events) = captured(capture, "echo a\nsleep 0.3\necho ' b'\ndate +%s%3N\n");
    let at =
        |event: &Value| -> Timestamp { event["@timestamp"].as_str().unwrap().parse().unwrap() };
    let printed: i64 = events[1]["message"].as_str().unwrap().parse().unwrap();
    assert!(at(&events[0]).after(Duration::from_millis(250)).0 <= printed);
}
