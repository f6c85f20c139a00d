//! `spoolbeat queue skip` and `queue repair`: what a person may change of a queue, and that nothing is
//! changed unasked.

#![expect(clippy::unwrap_used, reason = "tests")]

use crate::harness::Keep;
use crate::harness::Logstash;
use crate::harness::SOON;
use crate::harness::Spool;
use crate::harness::said;
use crate::harness::wait_until;

const ONCE: &str = "[script]\nrun = \"job.sh\"\n[schedule]\nonce = true\n";

/// A root whose server is away, with the 52 events of one run of each job captured.
fn waiting(logstash: &mut Logstash, jobs: &[&str]) -> Spool {
    let mut spool = Spool::new(logstash.port());
    logstash.close();
    spool.start();
    for job in jobs {
        spool.job(job, ONCE, "job.sh", "seq 1 50\n");
        wait_until(SOON, "the run has ended", || {
            spool.job_status(job)["last_run"]["outcome"] == "success"
        });
    }
    spool
}

/// What the cursor of the only output says of how events were passed, and how many wait.
fn passed(spool: &Spool, way: &str) -> (u64, u64) {
    let stat = spool.command(&["queue", "stat", "--json"]);
    let stat: serde_json::Value = serde_json::from_slice(&stat.stdout).unwrap();
    let output = &stat["outputs"]["lumberjack"];
    let number = |value: &serde_json::Value| value.as_u64().unwrap();
    (number(&output["passed"][way]), number(&output["waiting"]))
}

fn is_sound(spool: &Spool) {
    let report = spool.command(&["doctor", "--json"]);
    let report: serde_json::Value = serde_json::from_slice(&report.stdout).unwrap();
    let accounts = report["checks"].as_array().unwrap().iter();
    let mut accounts = accounts.filter(|one| one["check"] == "accounts");
    assert!(accounts.clone().count() >= 3, "{report}");
    assert!(accounts.all(|one| one["verdict"] == "ok"), "{report}");
}

#[test]
fn an_output_skips_what_a_person_has_seen_and_agreed_to_live_and_stopped() {
    let mut logstash = Logstash::new(Keep::Events);
    let mut spool = waiting(&mut logstash, &["a", "b"]);
    let (_, all) = passed(&spool, "skipped");
    assert!(all >= 104);

    // Nobody is there to be asked.
    let asked = spool.command(&["queue", "skip", "lumberjack", "--all"]);
    assert_eq!(asked.status.code(), Some(2), "{}", said(&asked));
    for words in [
        &format!("would not be sent {all} events"),
        " of a, ",
        " of b",
        "give --yes",
    ] {
        assert!(said(&asked).contains(words), "{}", said(&asked));
    }
    assert_eq!(passed(&spool, "skipped"), (0, all));
    let other = spool.command(&["queue", "skip", "lumberjak", "--all", "--yes"]);
    assert_eq!(other.status.code(), Some(1));
    assert!(
        said(&other).contains("it has lumberjack"),
        "{}",
        said(&other)
    );

    let live = spool.command(&["queue", "skip", "lumberjack", "--to", "7", "--yes"]);
    assert!(live.status.success(), "{}", said(&live));
    assert!(said(&live).contains("7 events skipped"), "{}", said(&live));
    assert_eq!(passed(&spool, "skipped"), (7, all - 7));
    assert_eq!(spool.status()["outputs"][0]["skipped_events"], 7);
    is_sound(&spool);
    spool.kill();

    let stopped = spool.command(&["queue", "skip", "lumberjack", "--to", "9", "--yes"]);
    assert!(
        said(&stopped).contains("2 events skipped"),
        "{}",
        said(&stopped)
    );
    assert_eq!(passed(&spool, "skipped"), (9, all - 9));
    let again = spool.command(&["queue", "skip", "lumberjack", "--to", "9"]);
    assert!(again.status.success(), "{}", said(&again));
    assert!(said(&again).contains("nothing to skip"), "{}", said(&again));
    let record = spool.command(&["queue", "skip", "lumberjack", "--record", "--yes"]);
    assert!(record.status.success(), "{}", said(&record));
    let (skipped, left) = passed(&spool, "skipped");
    assert!(
        skipped > 9 && left > 0 && skipped + left == all,
        "{skipped} {left}"
    );
    is_sound(&spool);

    // The rest is sent, and nothing of what was skipped.
    logstash.open();
    spool.start();
    wait_until(SOON, "the rest has arrived", || {
        let status = spool.status();
        status["totals"]["waiting_events"] == 0 && status["outputs"][0]["acked_events"] != 0
    });
    let status = spool.status();
    assert_eq!(status["outputs"][0]["skipped_events"], skipped, "{status}");
    let acked = status["outputs"][0]["acked_events"].as_u64().unwrap();
    assert_eq!(logstash.count() as u64, acked, "{status}");
    is_sound(&spool);
    let nothing = spool.command(&["queue", "skip", "lumberjack", "--segment"]);
    assert!(
        said(&nothing).contains("nothing to skip"),
        "{}",
        said(&nothing)
    );
    spool.stop();
}
