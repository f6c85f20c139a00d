//! Accounting: every byte read and every event captured is somewhere, exactly, also after a kill.

#![expect(clippy::unwrap_used, reason = "tests")]

use std::collections::BTreeSet;

use serde_json::Value;

use crate::harness::Keep;
use crate::harness::Logstash;
use crate::harness::Mode;
use crate::harness::SOON;
use crate::harness::Spool;
use crate::harness::wait_until;

fn number(value: &Value) -> u64 {
    value
        .as_u64()
        .unwrap_or_else(|| panic!("{value} is not a number"))
}

/// The identities that hold at any quiet moment.
fn assert_exact(status: &Value) {
    let totals = &status["totals"];
    let sources = &totals["sources"];
    let captured = number(&totals["captured_events"]);
    assert_eq!(
        number(&sources["framed"]) + number(&sources["created"]) + number(&totals["lost_events"]),
        captured,
        "{totals}"
    );
    assert_eq!(
        number(&sources["bytes_framed"]) + number(&sources["bytes_cut"]),
        number(&sources["bytes_read"]),
        "{totals}"
    );
    for output in status["outputs"].as_array().unwrap() {
        let parts = [
            "acked_events",
            "waiting_events",
            "not_mine_events",
            "before_events",
            "damaged_events",
            "set_aside_events",
            "dropped_events",
            "skipped_events",
        ];
        let sum: u64 = parts.iter().map(|part| number(&output[*part])).sum();
        assert_eq!(sum, captured, "{output}");
    }
    let jobs: u64 = status["jobs"]
        .as_array()
        .unwrap()
        .iter()
        .map(|job| number(&job["captured_events"]))
        .sum();
    assert!(jobs <= captured);
}

#[test]
fn every_event_is_accounted_for_over_kills_and_goes_where_its_job_says() {
    let (first, second) = (Logstash::new(Keep::Events), Logstash::new(Keep::Events));
    let mut spool = Spool::new(first.port());
    spool.settings(&format!(
        "[output.second]\nkind = \"lumberjack\"\nhosts = [\"127.0.0.1:{}\"]\nbackoff = {{ init = \"100ms\", max = \"1s\" }}\n",
        second.port()
    ));
    let every = "[script]\nrun = \"job.sh\"\n[schedule]\nevery = \"200ms\"\n[capture.stdout]\nmax_event = \"1KiB\"\n";
    let script = "printf '%2000s\\n' long; printf 'short\\n\\nno end'; echo error >&2\n";
    spool.job("both", every, "job.sh", script);
    spool.job(
        "one",
        &format!("{every}[output]\nto = [\"lumberjack\"]\n"),
        "job.sh",
        script,
    );
    spool.job(
        "other",
        &format!("{every}[output]\nto = [\"second\"]\n"),
        "job.sh",
        script,
    );
    for round in 0..4 {
        spool.start();
        // The second output stands still for a while, so that the cursors differ.
        second.answer(if round % 2 == 0 {
            Mode::Never
        } else {
            Mode::All
        });
        let before = first.count();
        wait_until(SOON, "events of some runs arrive", || {
            first.count() > before + 40
        });
        spool.kill();
    }
    second.answer(Mode::All);
    for job in ["both", "one", "other"] {
        spool.remove(job);
    }
    spool.start();
    let mut status = Value::Null;
    wait_until(SOON, "all is quiet", || {
        status = spool.status();
        status["totals"]["waiting_events"] == 0
            && status["jobs"].as_array().is_some_and(Vec::is_empty)
    });
    assert_exact(&status);
    let totals = &status["totals"];
    assert!(number(&totals["sources"]["lines_cut"]) > 0);
    assert!(number(&totals["sources"]["bytes_cut"]) > 900);
    let job_of = |logstash: &Logstash, job: &str| logstash.events(job).len();
    assert!(job_of(&first, "both") > 0 && job_of(&second, "both") > 0);
    assert!(job_of(&first, "one") > 0 && job_of(&second, "other") > 0);
    // Ends of interrupted runs too, although their jobs are not loaded yet when they are recorded.
    assert_eq!(
        (job_of(&first, "other"), job_of(&second, "one")),
        (0, 0),
        "an event went where its job did not send it"
    );
    for (logstash, output) in [(&first, 0), (&second, 1)] {
        let distinct: BTreeSet<String> = logstash.acked_ids().into_iter().collect();
        assert!(distinct.len() as u64 >= number(&status["outputs"][output]["acked_events"]));
    }
    spool.stop();
    // The same figures from the files alone, and every record of them whole.
    let root = spool.root();
    let verdict = spool.command(&["queue", "verify", root.to_str().unwrap(), "--json"]);
    let verdict: Value = serde_json::from_slice(&verdict.stdout).unwrap();
    assert_eq!(verdict["damage"], serde_json::json!([]));
    let stat = spool.command(&["queue", "stat", root.to_str().unwrap(), "--json"]);
    let stat: Value = serde_json::from_slice(&stat.stdout).unwrap();
    assert_eq!(stat["captured"], totals["captured_events"]);
    assert_eq!(stat["counters"], totals["sources"]);
}
