//! What the program says to somebody who is new to it or has mistyped something.
//!
//! Each test runs the real binary and reads what a person would read.

#![expect(clippy::unwrap_used, reason = "tests")]

use crate::harness::Keep;
use crate::harness::Logstash;
use crate::harness::SOON;
use crate::harness::Spool;
use crate::harness::said;
use crate::harness::wait_until;

const ONCE: &str = "[script]\nrun = \"job.sh\"\n[schedule]\nonce = true\n";

#[test]
fn the_last_line_of_the_log_says_whether_all_events_are_acknowledged() {
    let mut logstash = Logstash::new(Keep::Events);
    let mut spool = Spool::new(logstash.port());
    spool.settings("[stop]\ntimeout = \"300ms\"\n");
    spool.job("hello", ONCE, "job.sh", "echo hello\n");
    spool.start();
    wait_until(SOON, "all three events are acknowledged", || {
        spool.status()["totals"]["acked_events"] == 3
    });
    spool.stop();
    let words = spool.last_words();
    assert_eq!(
        words["message"], "spoolbeat stops: all events are acknowledged",
        "{words}"
    );
    assert_eq!(words["labels"]["exit"], "clean", "{words}");

    logstash.close();
    spool.job("again", ONCE, "job.sh", "echo again\n");
    spool.start();
    wait_until(SOON, "three events wait", || {
        spool.status()["totals"]["waiting_events"] == 3
    });
    spool.stop();
    let words = spool.last_words();
    assert_eq!(
        words["message"], "spoolbeat stops: 3 events wait in the queue for the next start",
        "{words}"
    );
    assert_eq!(words["labels"]["waiting_events"], 3, "{words}");
}

#[test]
fn run_once_says_why_it_did_not_succeed() {
    let logstash = Logstash::new(Keep::Events);
    let spool = Spool::new(logstash.port());
    spool.job("fails", ONCE, "job.sh", "exit 3\n");
    let root = spool.root();
    let output = spool.command(&["run", "--once", root.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(1), "{}", said(&output));
    assert!(
        said(&output).contains("not all runs succeeded; all events are acknowledged"),
        "{}",
        said(&output)
    );
    spool.job("typo", "[scirpt]\n", "job.sh", "");
    let output = spool.command(&["run", "--once", root.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(78), "{}", said(&output));
    assert!(
        said(&output).contains("not all jobs could be loaded; all events are acknowledged"),
        "{}",
        said(&output)
    );
}
