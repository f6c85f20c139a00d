//! Queues that somebody or something has changed: `queue skip`, which does nothing unasked, cursors that
//! cannot be read, and records that rotted at the end.

#![expect(clippy::unwrap_used, reason = "tests")]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use crate::harness::Keep;
use crate::harness::Logstash;
use crate::harness::SOON;
use crate::harness::Spool;
use crate::harness::needs_root;
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
    // With the event that tells of it.
    let all = all + 1;
    wait_until(SOON, "the daemon tells of it", || {
        passed(&spool, "skipped") == (7, all - 7)
    });
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
    let told = logstash.missed("lumberjack", "skipped");
    assert_eq!(told.len(), 1, "{told:?}");
    assert_eq!(
        (&told[0]["events"], &told[0]["from"], &told[0]["to"]),
        (&7.into(), &1.into(), &7.into())
    );
    is_sound(&spool);
    let nothing = spool.command(&["queue", "skip", "lumberjack", "--segment"]);
    assert!(
        said(&nothing).contains("nothing to skip"),
        "{}",
        said(&nothing)
    );
    spool.stop();
}

/// Starts the daemon and waits until its output has passed all that is kept.
fn start_and_send(spool: &mut Spool) -> serde_json::Value {
    spool.start();
    wait_until(SOON, "nothing waits any more", || {
        let status = spool.status();
        status["totals"]["waiting_events"] == 0 && status["outputs"][0]["windows"] != 0
    });
    spool.status()
}

fn cursor(spool: &Spool) -> PathBuf {
    spool.root().join("queue/cursor-lumberjack")
}

#[test]
fn without_a_cursor_that_can_be_read_all_that_is_kept_is_sent_again_and_said() {
    let mut logstash = Logstash::new(Keep::Ids);
    let mut spool = waiting(&mut logstash, &["a"]);
    logstash.open();
    spool.stop();
    let sent = logstash.count();
    assert!(sent >= 52);
    fs::write(cursor(&spool), [0x55; 1024]).unwrap();
    start_and_send(&mut spool);
    assert!(logstash.count() >= 2 * sent, "{} {sent}", logstash.count());
    assert_eq!(spool.said_of("everything kept is sent again"), 1);
    is_sound(&spool);
    spool.stop();
}

#[test]
fn a_cursor_of_yesterday_costs_what_was_sent_since_a_second_time_and_no_number_twice() {
    let mut logstash = Logstash::new(Keep::Ids);
    let mut spool = waiting(&mut logstash, &["a"]);
    spool.kill();
    let yesterday = fs::read(cursor(&spool)).unwrap();
    logstash.open();
    start_and_send(&mut spool);
    spool.stop();
    let sent = logstash.count();
    fs::write(cursor(&spool), yesterday).unwrap();
    start_and_send(&mut spool);
    assert!(logstash.count() >= 2 * 52, "{} {sent}", logstash.count());
    is_sound(&spool);
    spool.stop();
}

#[test]
fn a_cursor_that_may_not_be_read_does_not_stop_a_start() {
    if needs_root("a_cursor_that_may_not_be_read_does_not_stop_a_start") {
        return;
    }
    let mut logstash = Logstash::new(Keep::Ids);
    let mut spool = waiting(&mut logstash, &["a"]);
    logstash.open();
    spool.stop();
    let sent = logstash.count();
    spool.open_to_users();
    spool.give_to(65_534);
    fs::set_permissions(cursor(&spool), fs::Permissions::from_mode(0o000)).unwrap();
    start_and_send(&mut spool);
    assert!(logstash.count() >= 2 * sent, "{} {sent}", logstash.count());
    assert_eq!(spool.said_of("the cursor cannot be read"), 1);
    is_sound(&spool);
    spool.stop();
}

/// Flips a bit in the last byte of the newest segment that holds a record.
fn rot_at_the_end(spool: &Spool) {
    let entries = fs::read_dir(spool.root().join("queue")).unwrap();
    let paths = entries.map(|entry| entry.unwrap().path());
    let holds = |path: &PathBuf| {
        path.extension().is_some_and(|ending| ending == "seg")
            && fs::metadata(path).unwrap().len() > 100
    };
    let path = paths.filter(holds).max().unwrap();
    let mut bytes = fs::read(&path).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(path, bytes).unwrap();
}

#[test]
fn a_last_record_that_rots_is_counted_after_a_stop_and_kept_after_a_kill() {
    let mut logstash = Logstash::new(Keep::Ids);
    let mut spool = waiting(&mut logstash, &["a"]);
    spool.settings("[stop]\ntimeout = \"100ms\"\n");
    spool.kill();
    rot_at_the_end(&spool);
    spool.start();
    wait_until(SOON, "what was cut off is in quarantine", || {
        spool.status()["queue"]["quarantined"] == 1
    });
    is_sound(&spool);
    spool.job("b", ONCE, "job.sh", "seq 1 50\n");
    wait_until(SOON, "the run has ended", || {
        spool.job_status("b")["last_run"]["outcome"] == "success"
    });
    spool.stop();

    rot_at_the_end(&spool);
    logstash.open();
    let status = start_and_send(&mut spool);
    let damaged = status["outputs"][0]["damaged_events"].as_u64().unwrap();
    assert!(damaged > 0, "{status}");
    is_sound(&spool);
    spool.stop();
}
