//! `spoolbeat doctor`: what is well is called so, and what is wrong is named with what helps.

#![expect(clippy::unwrap_used, reason = "tests")]

use std::fs;
use std::path::PathBuf;

use serde_json::Value;

use crate::harness::Keep;
use crate::harness::Logstash;
use crate::harness::SOON;
use crate::harness::Spool;
use crate::harness::needs_root;
use crate::harness::said;
use crate::harness::spoolbeat;
use crate::harness::wait_until;

/// What the doctor found: the whole, and the checks that are of this verdict.
fn doctor(spool: &Spool, verdict: &str) -> (Value, Vec<Value>) {
    let output = spool.command(&["doctor", "--json"]);
    let report: Value =
        serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{}", said(&output)));
    assert_eq!(
        output.status.code(),
        Some(i32::from(report["ok"] != true)),
        "{report}"
    );
    let checks = report["checks"].as_array().unwrap().clone();
    let of = checks
        .into_iter()
        .filter(|check| check["verdict"] == verdict);
    (report, of.collect())
}

fn is_named(checks: &[Value], check: &str, words: &str) -> bool {
    checks.iter().any(|one| {
        one["check"] == check
            && one["found"].as_str().unwrap().contains(words)
            && one["fix"].is_string()
    })
}

#[test]
fn all_accounts_hold_after_kills_at_any_moment_under_load() {
    let logstash = Logstash::new(Keep::Ids);
    let mut spool = Spool::new(logstash.port());
    spool.settings("[queue]\nmax_bytes = \"16MiB\"\n");
    let every = "[script]\nrun = \"job.sh\"\n[schedule]\nevery = \"150ms\"\n[capture.stdout]\nmax_event = \"1KiB\"\n";
    for job in ["a", "b", "c"] {
        spool.job(
            job,
            every,
            "job.sh",
            "seq 1 3000; printf '%3000s\\n' long; printf 'no end'\n",
        );
    }
    for round in 0..6 {
        spool.start();
        let before = logstash.count();
        wait_until(SOON, "events arrive", || {
            logstash.count() > before + 500 * round
        });
        // While it runs, and after it was killed.
        assert_eq!(
            doctor(&spool, "wrong").1,
            Vec::<Value>::new(),
            "round {round}, live"
        );
        spool.kill();
        let (report, wrong) = doctor(&spool, "wrong");
        assert_eq!(wrong, Vec::<Value>::new(), "round {round}, killed");
        let checks = report["checks"].as_array().unwrap();
        let accounts = checks.iter().filter(|one| one["check"] == "accounts");
        assert_eq!(accounts.count(), 3, "{report}");
    }
}

#[test]
fn an_output_that_is_a_file_gets_the_advice_of_a_file() {
    let logstash = Logstash::new(Keep::Events);
    let mut spool = Spool::new(logstash.port());
    spool.settings("[output.archive]\nkind = \"file\"\npath = \"taken/a.ndjson\"\n");
    // Nothing can be made below what is no folder.
    fs::write(spool.root().join("taken"), "").unwrap();
    let once = "[script]\nrun = \"job.sh\"\n[schedule]\nonce = true\n";
    spool.job("hello", once, "job.sh", "echo hello\n");
    spool.start();
    let mut wrong = Vec::new();
    wait_until(SOON, "the output is down", || {
        wrong = doctor(&spool, "wrong").1;
        is_named(&wrong, "outputs", "it is down")
    });
    let one = wrong.iter().find(|one| one["check"] == "outputs").unwrap();
    let fix = one["fix"].as_str().unwrap();
    assert!(
        fix.contains("taken/a.ndjson can be written") && fix.contains("--output archive"),
        "{fix}"
    );
    spool.kill();
}

/// The oldest segment that holds a run.
fn segment(spool: &Spool) -> PathBuf {
    let entries = fs::read_dir(spool.root().join("queue")).unwrap();
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.retain(|path| path.extension().is_some_and(|ending| ending == "seg"));
    paths.sort();
    let holds = |path: &PathBuf| fs::metadata(path).unwrap().len() > 10_000;
    paths.into_iter().find(holds).unwrap()
}

#[test]
fn what_is_wrong_is_named_with_what_helps() {
    let mut logstash = Logstash::new(Keep::Events);
    let mut spool = Spool::new(logstash.port());
    let once = "[script]\nrun = \"job.sh\"\n[schedule]\nonce = true\n";
    let empty = spool.command(&["doctor"]);
    assert!(empty.status.success(), "{}", said(&empty));
    assert!(said(&empty).contains(" is well\n"), "{}", said(&empty));
    spool.job("hello", once, "job.sh", "seq 1 50\n");
    spool.start();
    wait_until(SOON, "all is acknowledged", || {
        spool.status()["totals"]["acked_events"] == 52
    });
    let (_, ok) = doctor(&spool, "ok");
    assert!(ok.iter().any(|one| {
        one["check"] == "daemon"
            && one["found"]
                .as_str()
                .unwrap()
                .starts_with("runs as process ")
    }));

    logstash.close();
    spool.job("again", once, "job.sh", "echo again\n");
    spool.job("typo", "[scirpt]\n", "job.sh", "");
    wait_until(SOON, "the output is down", || {
        is_named(&doctor(&spool, "wrong").1, "outputs", "up to 3 events wait")
    });
    let (_, wrong) = doctor(&spool, "wrong");
    assert!(is_named(&wrong, "jobs", "scirpt"), "{wrong:?}");
    spool.stop();

    let path = segment(&spool);
    let mut bytes = fs::read(&path).unwrap();
    bytes[100] ^= 1;
    fs::write(&path, bytes).unwrap();
    fs::write(spool.root().join("queue/cursor-lumberjack"), [0; 1024]).unwrap();
    let letters = spool.root().join("dead-letter/lumberjack");
    fs::create_dir_all(&letters).unwrap();
    fs::write(letters.join("0000000001.ndjson"), "x\n").unwrap();
    let (report, wrong) = doctor(&spool, "wrong");
    assert!(
        is_named(&wrong, "queue", "events 1..1 before this place are missing"),
        "{report}"
    );
    assert!(
        is_named(&wrong, "cursors", "the cursor of lumberjack cannot be read"),
        "{report}"
    );
    let (_, warnings) = doctor(&spool, "warning");
    assert!(is_named(&warnings, "dead letters", "2 B"), "{report}");
    let shown = spool.command(&["doctor"]);
    assert!(said(&shown).contains(" needs care: "), "{}", said(&shown));
}

#[test]
fn root_judges_who_may_change_a_root_by_the_user_its_daemon_acts_as() {
    if needs_root("root_judges_who_may_change_a_root_by_the_user_its_daemon_acts_as") {
        return;
    }
    let logstash = Logstash::new(Keep::Ids);
    let mut spool = Spool::new(logstash.port());
    spool.open_to_users();
    spool.give_to(65_534);
    let once = "[script]\nrun = \"job.sh\"\n[schedule]\nonce = true\n";
    spool.job("mine", once, "job.sh", "id -u\n");
    spool.start();
    wait_until(SOON, "the run has ended", || {
        spool.job_status("mine")["last_run"]["outcome"] == "success"
    });
    let root = spool.root();
    for command in ["doctor", "check"] {
        let told = spoolbeat().arg(command).arg(&root).output().unwrap();
        assert!(told.status.success(), "{}", said(&told));
    }
    spool.stop();
    std::os::unix::fs::chown(root.join("queue"), Some(0), None).unwrap();
    let told = spoolbeat().arg("doctor").arg(&root).output().unwrap();
    let what = "belongs to user 65534, who could put anything in the place";
    assert!(said(&told).contains(what), "{}", said(&told));
}

#[test]
fn damage_is_set_aside_with_its_reason_counted_exactly_and_told() {
    let mut logstash = Logstash::new(Keep::Events);
    let mut spool = Spool::new(logstash.port());
    logstash.close();
    let once = "[script]\nrun = \"job.sh\"\n[schedule]\nonce = true\n";
    for job in ["a", "b", "c"] {
        spool.job(job, once, "job.sh", "seq 1 50\n");
        spool.start();
        wait_until(SOON, "the run has ended", || {
            spool.job_status(job)["last_run"]["outcome"] == "success"
        });
        spool.kill();
    }
    let path = segment(&spool);
    let mut bytes = fs::read(&path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&path, bytes).unwrap();
    logstash.open();
    spool.start();
    let told = || {
        let events = logstash.events("spoolbeat");
        events
            .iter()
            .any(|event| event["event"]["action"] == "queue-damage")
    };
    wait_until(
        SOON,
        "all that can be read is acknowledged, and the damage told",
        || {
            let status = spool.status();
            status["totals"]["waiting_events"] == 0 && told()
        },
    );
    let status = spool.status();
    let damaged = status["outputs"][0]["damaged_events"].as_u64().unwrap();
    assert!(damaged > 0 && damaged <= 52, "{status}");
    assert_eq!(status["queue"]["quarantined"], 1, "{status}");
    let dir = spool.root().join("queue/quarantine");
    let names: Vec<PathBuf> = fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    let reason = names
        .iter()
        .find(|path| path.extension().is_some_and(|ending| ending == "json"))
        .unwrap();
    let reason: Value = serde_json::from_slice(&fs::read(reason).unwrap()).unwrap();
    assert_eq!(reason["events"].as_u64(), Some(damaged), "{reason}");
    let (_, warnings) = doctor(&spool, "warning");
    assert!(
        is_named(&warnings, "quarantine", "1 part of damage"),
        "{warnings:?}"
    );
    let (report, _) = doctor(&spool, "ok");
    let wrong = report["checks"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|one| one["verdict"] == "wrong");
    assert!(
        wrong.clone().all(|one| one["check"] == "queue"),
        "only the damage itself: {report}"
    );
}
