//! Outputs that leave the configuration: frozen, never forgotten by themselves, and back where they were.

#![expect(clippy::unwrap_used, reason = "tests")]

use std::fs;
use std::path::PathBuf;

use serde_json::Value;

use crate::harness::Keep;
use crate::harness::Logstash;
use crate::harness::SOON;
use crate::harness::Spool;
use crate::harness::said;
use crate::harness::wait_until;

const FILES: &str = "[[files]]\npaths = [\"source/*.log\"]\nscan = \"200ms\"\nquiet = \"200ms\"\nafter_ack = \"delete\"\n";

/// `spoolbeat.toml` with these outputs, and with a queue that keeps nothing for replay.
fn configure(spool: &Spool, outputs: &[(&str, u16)]) {
    let mut text = "[spool]\nsettle = \"100ms\"\n[queue]\nmax_bytes = \"16MiB\"\nretain = { bytes = \"0B\" }\ncompression_level = 0\n".to_owned();
    for (name, port) in outputs {
        text.push_str(&format!(
            "[output.{name}]\nkind = \"lumberjack\"\nhosts = [\"127.0.0.1:{port}\"]\nbackoff = {{ init = \"100ms\", max = \"1s\" }}\n"
        ));
    }
    fs::write(spool.root().join("spoolbeat.toml"), text).unwrap();
}

fn output(spool: &Spool, name: &str) -> Value {
    let status = spool.status();
    let outputs = status["outputs"].as_array();
    let found = outputs.and_then(|all| all.iter().find(|one| one["name"] == name));
    found.cloned().unwrap_or(Value::Null)
}

/// `spoolbeat outputs ARGS --root ROOT`: its exit code and what it said.
fn outputs(spool: &Spool, args: &[&str]) -> (Option<i32>, String) {
    let root = spool.root();
    let all = [&["outputs", "--root", root.to_str().unwrap()], args].concat();
    let output = spool.command(&all);
    (output.status.code(), said(&output))
}

fn row(spool: &Spool, name: &str) -> Value {
    let (code, text) = outputs(spool, &["--json"]);
    assert_eq!(code, Some(0), "{text}");
    let rows: Vec<Value> = serde_json::from_str(&text).unwrap();
    let found = rows.into_iter().find(|row| row["name"] == name);
    found.unwrap_or(Value::Null)
}

/// A file that was acknowledged by `good` and waits for `old`, which has left the configuration.
fn frozen(logstash: &Logstash, dead: &mut Logstash) -> (Spool, PathBuf) {
    let mut spool = Spool::new(logstash.port());
    dead.close();
    configure(&spool, &[("good", logstash.port()), ("old", dead.port())]);
    let source = spool.root().join("state/logs/data/source");
    fs::create_dir_all(&source).unwrap();
    let file = source.join("a.log");
    fs::write(&file, "1\n2\n").unwrap();
    spool.job("logs", FILES, "README", "");
    spool.start();
    wait_until(SOON, "the file waits for the output that is away", || {
        output(&spool, "old")["waiting_files"] == 1 && output(&spool, "good")["waiting_events"] == 0
    });
    let (code, text) = outputs(&spool, &["forget", "old", "--yes"]);
    assert_eq!(code, Some(1), "{text}");
    assert!(text.contains("is configured"), "{text}");
    configure(&spool, &[("good", logstash.port())]);
    let (code, text) = outputs(&spool, &["forget", "old", "--yes"]);
    assert_eq!(code, Some(1), "{text}");
    assert!(text.contains("restart the daemon first"), "{text}");
    spool.kill();
    (spool, file)
}

#[test]
fn an_output_that_left_is_frozen_until_it_is_forgotten_with_or_without_a_daemon() {
    for live in [true, false] {
        let logstash = Logstash::new(Keep::Events);
        let mut dead = Logstash::new(Keep::Events);
        let (mut spool, file) = frozen(&logstash, &mut dead);
        assert_eq!(row(&spool, "old")["state"], "frozen");
        for _ in 0..2 {
            spool.start();
            wait_until(SOON, "the output is shown as frozen", || {
                let old = output(&spool, "old");
                old["state"] == "frozen" && old["waiting_files"] == 1
            });
            let status = spool.status();
            let waiting = &status["totals"]["waiting_events"];
            assert_eq!(waiting, &output(&spool, "good")["waiting_events"]);
            spool.kill();
        }
        let root = spool.root();
        let doctor = said(&spool.command(&["doctor", root.to_str().unwrap()]));
        assert!(
            doctor.contains("old is not configured any more"),
            "{doctor}"
        );
        assert!(doctor.contains("1 file waits for it"), "{doctor}");
        let (_, text) = outputs(&spool, &[]);
        assert_eq!(text.lines().count(), 3, "{text}");
        let cursor = root.join("queue/cursor-old");
        let (code, text) = outputs(&spool, &["forget", "old"]);
        assert_eq!(code, Some(2), "{text}");
        let (code, text) = outputs(&spool, &["forget", "odl", "--yes"]);
        assert_eq!(code, Some(1), "{text}");
        assert!(text.contains("frozen: old"), "{text}");
        assert!(cursor.exists() && file.exists());
        if live {
            spool.start();
            wait_until(SOON, "the daemon answers", || !spool.status().is_null());
        }
        let (code, text) = outputs(&spool, &["forget", "old", "--yes"]);
        assert_eq!(code, Some(0), "{text}");
        assert!(!cursor.exists());
        if !live {
            spool.start();
        }
        wait_until(SOON, "the file is cleaned up, and that is told", || {
            let mut events = logstash.events("logs").into_iter();
            !file.exists() && events.any(|event| event["event"]["action"] == "file-delete")
        });
        assert_eq!(output(&spool, "old"), Value::Null);
        assert_eq!(row(&spool, "old"), Value::Null);
        spool.stop();
        let told = logstash.missed("old", "forgotten").len();
        assert_eq!(told, usize::from(live), "only a daemon can tell of it");
        let root = spool.root();
        let doctor = spool.command(&["doctor", root.to_str().unwrap()]);
        assert!(doctor.status.success(), "{}", said(&doctor));
        // It is new when it comes back, also to what is told of the files that it let go.
        configure(&spool, &[("good", logstash.port()), ("old", dead.port())]);
        dead.open();
        spool.start();
        wait_until(SOON, "it is there again", || {
            output(&spool, "old")["waiting_events"] == 0
        });
        spool.stop();
        assert_eq!(spool.said_of("everything kept is sent again"), 0);
        assert_eq!(dead.events("logs").len(), 0);
    }
}

#[test]
fn a_frozen_output_whose_cursor_is_gone_is_lost_also_while_no_file_waits_for_it() {
    for files in [1, 0] {
        let logstash = Logstash::new(Keep::Events);
        let mut dead = Logstash::new(Keep::Events);
        let spool = match files {
            0 => {
                let mut spool = Spool::new(logstash.port());
                configure(&spool, &[("good", logstash.port()), ("old", dead.port())]);
                let once = "[script]\nrun = \"job.sh\"\n[schedule]\nonce = true\n";
                spool.job("once", once, "job.sh", "echo once\n");
                spool.start();
                wait_until(SOON, "the job is shipped", || {
                    !dead.lines("once").is_empty()
                });
                spool.kill();
                configure(&spool, &[("good", logstash.port())]);
                spool
            }
            _ => frozen(&logstash, &mut dead).0,
        };
        let root = spool.root();
        fs::remove_file(root.join("queue/cursor-old")).unwrap();
        let old = row(&spool, "old");
        assert_eq!(old["state"], "lost", "{old}");
        assert_eq!(old["waiting_files"], files, "{old}");
        let doctor = said(&spool.command(&["doctor", root.to_str().unwrap()]));
        let both = "everything is sent to it that is kept, or `spoolbeat outputs forget old`";
        assert!(doctor.contains(both), "{doctor}");
        let verified = said(&spool.command(&["queue", "verify", root.to_str().unwrap()]));
        let told = "damaged: 1 cursor; all checksums fit in ";
        assert!(verified.contains(told), "{verified}");
        let (code, text) = outputs(&spool, &["forget", "old", "--yes"]);
        assert_eq!(code, Some(0), "{text}");
        assert_eq!(row(&spool, "old"), Value::Null);
    }
}

#[test]
fn an_output_that_comes_back_goes_on_where_it_was_and_drops_only_what_was_for_it() {
    let logstash = Logstash::new(Keep::Events);
    let mut old = Logstash::new(Keep::Events);
    let mut spool = Spool::new(logstash.port());
    let (good, gone) = (("good", logstash.port()), ("old", old.port()));
    configure(&spool, &[good, gone]);
    old.close();
    let script = "head -c 3000000 /dev/urandom | base64 -w 1000\n";
    let once = "[script]\nrun = \"job.sh\"\n[schedule]\nonce = true\n";
    spool.job("before", once, "job.sh", "echo before\n");
    spool.start();
    wait_until(SOON, "the first job is shipped", || {
        !logstash.lines("before").is_empty()
    });
    spool.kill();
    configure(&spool, &[good]);
    spool.job("much", once, "job.sh", script);
    spool.start();
    wait_until(
        SOON * 3,
        "what the frozen output did not have is let go of",
        || {
            let status = spool.status();
            status["totals"]["waiting_events"] == 0
                && logstash.lines("much").len() == 4_000
                && status["queue"]["total_bytes"].as_u64() < Some(2 << 20)
        },
    );
    spool.kill();
    // Somebody may clear it away before that: what is gone is no damage then either.
    let cursor = spool.root().join("queue/cursor-old");
    let before = fs::read(&cursor).unwrap();
    let skipped = spool.command(&["queue", "skip", "old", "--all", "--yes"]);
    assert!(skipped.status.success(), "{}", said(&skipped));
    let stat = spool.command(&["queue", "stat", "--json"]);
    let stat: Value = serde_json::from_slice(&stat.stdout).unwrap();
    let passed = &stat["outputs"]["old"]["passed"];
    assert_eq!(passed["damaged"], 0, "{passed}");
    assert!(
        (1..20).contains(&passed["dropped"].as_u64().unwrap()),
        "{passed}"
    );
    fs::write(&cursor, before).unwrap();
    configure(&spool, &[good, gone]);
    old.open();
    spool.start();
    let mut status = Value::Null;
    wait_until(SOON, "it has what is left", || {
        status = output(&spool, "old");
        status["waiting_events"] == 0
    });
    let dropped = status["dropped_events"].as_u64().unwrap();
    assert!((1..20).contains(&dropped), "{status}");
    assert!(status["not_mine_events"].as_u64() > Some(1_000), "{status}");
    assert_eq!(status["damaged_events"], 0, "{status}");
    assert!(old.lines("before").is_empty() && old.lines("much").is_empty());
    assert_eq!(spool.said_of("the output is configured again"), 1);
    spool.stop();
    let root = spool.root();
    let doctor = spool.command(&["doctor", root.to_str().unwrap()]);
    assert!(doctor.status.success(), "{}", said(&doctor));
}
