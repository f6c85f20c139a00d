//! `spoolbeat replay` and `queue cat`: kept events are found again, and sent again under their own ids.

#![expect(clippy::unwrap_used, reason = "tests")]

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::process::Stdio;

use serde_json::Value;

use crate::harness::Keep;
use crate::harness::Logstash;
use crate::harness::Mode;
use crate::harness::SOON;
use crate::harness::Spool;
use crate::harness::needs_root;
use crate::harness::said;
use crate::harness::signal;
use crate::harness::spoolbeat;
use crate::harness::wait_until;
use crate::outputs::lines;

const ONCE: &str = "[script]\nrun = \"job.sh\"\n[schedule]\nonce = true\n";

/// What `queue cat --json` prints.
fn cat(spool: &Spool, args: &[&str]) -> Vec<Value> {
    let output = spool.command(&[&["queue", "cat", "--json"], args].concat());
    assert!(output.status.success(), "{args:?}: {}", said(&output));
    let text = String::from_utf8(output.stdout).unwrap();
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

fn seqs(events: &[Value]) -> Vec<u64> {
    events
        .iter()
        .map(|event| event["seq"].as_u64().unwrap())
        .collect()
}

#[test]
fn kept_events_are_selected_by_run_id_number_time_and_pattern_live_and_stopped() {
    let logstash = Logstash::new(Keep::Events);
    let mut spool = Spool::new(logstash.port());
    spool.job("one", ONCE, "job.sh", "echo apple; echo pear\n");
    spool.job("two", ONCE, "job.sh", "echo plum\n");
    spool.start();
    wait_until(SOON, "both runs are acknowledged", || {
        spool.status()["totals"]["acked_events"] == 7
    });
    for stopped in [false, true] {
        if stopped {
            spool.stop();
        }
        let all = cat(&spool, &[]);
        assert_eq!(seqs(&all), (1..=7).collect::<Vec<_>>());
        let of_one: Vec<&Value> = all.iter().filter(|event| event["job"] == "one").collect();
        assert_eq!(of_one.len(), 4);
        let run = of_one[0]["event"]["job"]["run_id"].as_str().unwrap();
        assert_eq!(cat(&spool, &["--run", run]).len(), 4);
        assert!(cat(&spool, &["--run", &run[..run.len() - 1]]).is_empty());
        let id = of_one[1]["event"]["event"]["id"].as_str().unwrap();
        let found = cat(&spool, &["--id", id]);
        assert_eq!(found, [of_one[1].clone()]);
        assert_eq!(seqs(&cat(&spool, &["--seq", "3..5"])), [3, 4, 5]);
        assert_eq!(seqs(&cat(&spool, &["--seq", "6.."])), [6, 7]);
        assert_eq!(seqs(&cat(&spool, &["--limit", "2"])), [1, 2]);
        assert_eq!(cat(&spool, &["--grep", "message\":\"p"]).len(), 2);
        assert_eq!(cat(&spool, &["--since", "1h", "--job", "two"]).len(), 3);
        assert!(cat(&spool, &["--until", "1h"]).is_empty());

        let other = [
            "replay",
            "one",
            "--since",
            "1h",
            "--output",
            "nope",
            "--dry-run",
        ];
        let other = spool.command(&other);
        assert_eq!(other.status.code(), Some(78), "{}", said(&other));
        assert!(
            said(&other).contains("there is no output `nope`"),
            "{}",
            said(&other)
        );
        let counted = spool.command(&["replay", "one", "--since", "1h", "--dry-run"]);
        for words in ["events  4,", "jobs    one\n", "nothing was sent"] {
            assert!(said(&counted).contains(words), "{}", said(&counted));
        }
        let printed = spool.command(&["replay", "--run", run, "--stdout"]);
        assert_eq!(
            String::from_utf8(printed.stdout).unwrap().lines().count(),
            4
        );
        for wrong in [
            ["--run", "nonsense"],
            ["--id", "nonsense"],
            ["--seq", "900.."],
        ] {
            let output = spool.command(&["replay", wrong[0], wrong[1]]);
            assert_eq!(output.status.code(), Some(1), "{}", said(&output));
            assert!(
                said(&output).contains("no such event is kept (kept since "),
                "{}",
                said(&output)
            );
        }
    }
}

#[test]
fn a_replayed_event_keeps_its_id_and_says_of_which_replay_it_is() {
    let logstash = Logstash::new(Keep::Events);
    let mut spool = Spool::new(logstash.port());
    spool.job("one", ONCE, "job.sh", "echo apple; echo pear\n");
    spool.start();
    wait_until(SOON, "the run is acknowledged", || {
        spool.status()["totals"]["acked_events"] == 4
    });
    let before = spool.status()["outputs"][0]["acked_events"].clone();
    let replays: Vec<String> = (0..2)
        .map(|_| {
            let output = spool.command(&["replay", "one", "--seq", "..3", "--rate", "1000/s"]);
            assert!(output.status.success(), "{}", said(&output));
            let told = said(&output);
            let (_, id) = told
                .trim()
                .split_once("3 events sent again to lumberjack as replay ")
                .unwrap();
            id.to_owned()
        })
        .collect();
    assert_eq!(spool.status()["outputs"][0]["acked_events"], before);
    let events = logstash.events("one");
    assert_eq!(events.len(), 10);
    let ids: BTreeSet<&str> = events
        .iter()
        .map(|event| event["event"]["id"].as_str().unwrap())
        .collect();
    assert_eq!(ids.len(), 4, "a replayed event has its own id");
    for (n, event) in events.iter().enumerate() {
        let replay = &event["@metadata"]["replay"];
        match n {
            0..4 => assert_eq!(*replay, Value::Null),
            4..7 => assert_eq!(replay["id"], *replays[0]),
            _ => assert_eq!(replay["id"], *replays[1]),
        }
        assert_eq!(event["@metadata"]["_id"], event["event"]["id"]);
    }
}

#[test]
fn an_interrupted_replay_says_how_far_it_came_and_the_command_that_goes_on() {
    let logstash = Logstash::new(Keep::Events);
    let mut spool = Spool::new(logstash.port());
    spool.job("one", ONCE, "job.sh", "seq 1 500\n");
    spool.start();
    wait_until(SOON, "the run is acknowledged", || {
        spool.status()["totals"]["acked_events"] == 502
    });
    spool.stop();
    let sent = logstash.count();
    let child = Command::new(env!("CARGO_BIN_EXE_spoolbeat"))
        .args(["replay", "one", "--since", "1h", "--rate", "50/s"])
        .current_dir(spool.root())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    wait_until(SOON, "some are sent again", || logstash.count() > sent + 20);
    logstash.answer(Mode::Never);
    signal("INT", child.id());
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(130), "{}", said(&output));
    let told = said(&output);
    let (_, command) = told.split_once("go on with:  spoolbeat ").unwrap();
    logstash.answer(Mode::All);
    let args: Vec<&str> = command
        .split_whitespace()
        .filter(|word| *word != "--rate" && *word != "50/s")
        .collect();
    let output = spool.command(&args);
    assert!(output.status.success(), "{args:?}: {}", said(&output));
    let replayed: BTreeSet<String> = logstash.events("one")[502..]
        .iter()
        .map(|event| event["event"]["id"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(replayed.len(), 502, "both together have sent all");
}

/// A root whose first output is a file that is rotated often, and a server that is down.
fn with_file() -> (Spool, PathBuf) {
    let spool = Spool::with_settings(
        "[spool]\nsettle = \"100ms\"\n\
         [output.archive]\nkind = \"file\"\npath = \"out/a.ndjson\"\nrotate_bytes = \"64KiB\"\nkeep = 1000\n\
         [output.down]\nkind = \"lumberjack\"\nhosts = [\"127.0.0.1:1\"]\nrequired = false\n",
    );
    fs::create_dir(spool.root().join("out")).unwrap();
    let path = spool.root().join("out/a.ndjson");
    (spool, path)
}

fn ids<'a>(events: impl IntoIterator<Item = &'a Value>) -> BTreeSet<String> {
    let id = |event: &Value| event["event"]["id"].as_str().unwrap().to_owned();
    events.into_iter().map(id).collect()
}

fn is_replayed(event: &Value) -> bool {
    event["@metadata"]["replay"]["id"].is_string()
}

#[test]
fn a_replay_and_the_daemon_write_one_file_at_once_and_neither_loses_a_line() {
    let (mut spool, path) = with_file();
    spool.job("past", ONCE, "job.sh", "seq 1 3000\n");
    spool.start();
    let archived = |spool: &Spool| {
        let status = spool.status();
        let output = &status["outputs"][0];
        (status["totals"]["captured_events"] == output["acked_events"])
            .then(|| output["acked_events"].as_u64())
            .flatten()
    };
    wait_until(SOON, "the run is in the file", || {
        archived(&spool) >= Some(3002)
    });
    let often = "[script]\nrun = \"job.sh\"\n[schedule]\nevery = \"100ms\"\n";
    spool.job("live", often, "job.sh", "seq 1 20\n");
    wait_until(SOON, "others are written", || archived(&spool) > Some(3100));
    let replay = spool.command(&["replay", "past", "--since", "1h", "--rate", "2000/s"]);
    assert!(replay.status.success(), "{}", said(&replay));
    assert!(
        said(&replay).contains("3002 events sent again to archive as replay "),
        "{}",
        said(&replay)
    );
    spool.remove("live");
    wait_until(SOON, "all is quiet", || {
        let status = spool.status();
        let jobs = status["jobs"].as_array();
        jobs.is_some_and(|jobs| jobs.len() == 1)
            && status["totals"]["captured_events"] == status["outputs"][0]["acked_events"]
    });
    spool.stop();
    let stat = spool.command(&["queue", "stat", "--json"]);
    let stat: Value = serde_json::from_slice(&stat.stdout).unwrap();
    let passed = &stat["outputs"]["archive"]["passed"]["acked"];
    let captured = passed.as_u64().unwrap();
    let all = lines(&path, 1000);
    let (replayed, first): (Vec<&Value>, Vec<&Value>) =
        all.iter().partition(|one| is_replayed(one));
    assert_eq!(first.len() as u64, captured);
    assert_eq!(ids(first.iter().copied()).len() as u64, captured);
    let past = first.iter().filter(|event| event["job"]["name"] == "past");
    assert_eq!(ids(replayed.iter().copied()), ids(past.copied()));
    assert_eq!(replayed.len(), 3002);
    let mixed = all.iter().skip_while(|one| !is_replayed(one));
    let between = mixed.clone().position(|one| !is_replayed(one)).unwrap();
    assert!(mixed.skip(between).any(is_replayed), "they took turns");
}

#[test]
fn a_replay_into_a_file_that_is_interrupted_or_killed_leaves_whole_lines_and_can_go_on() {
    let (mut spool, path) = with_file();
    spool.job("one", ONCE, "job.sh", "seq 1 500\n");
    spool.start();
    wait_until(SOON, "the run is in the file", || {
        spool.status()["outputs"][0]["acked_events"] == 502
    });
    spool.stop();
    for (round, name) in ["INT", "KILL"].into_iter().enumerate() {
        let before = lines(&path, 1000).len();
        let child = Command::new(env!("CARGO_BIN_EXE_spoolbeat"))
            .args(["replay", "one", "--since", "1h", "--rate", "100/s"])
            .current_dir(spool.root())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        wait_until(SOON, "some are written again", || {
            let text = fs::read_to_string(&path).unwrap_or_default();
            text.contains("\"replay\"") && text.lines().count() > 20 * (round + 1)
        });
        signal(name, child.id());
        let output = child.wait_with_output().unwrap();
        let args: Vec<String> = match name {
            "INT" => {
                assert_eq!(output.status.code(), Some(130), "{}", said(&output));
                let told = said(&output);
                let (_, command) = told.split_once("go on with:  spoolbeat ").unwrap();
                let command = command.replace(" --rate 100/s", "");
                assert!(command.contains("--output archive"), "{command}");
                command.split_whitespace().map(str::to_owned).collect()
            }
            _ => ["replay", "one", "--since", "1h"]
                .map(str::to_owned)
                .to_vec(),
        };
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        let output = spool.command(&args);
        assert!(output.status.success(), "{args:?}: {}", said(&output));
        let all = lines(&path, 1000);
        let again = &all[before..];
        assert!(again.iter().all(is_replayed));
        assert_eq!(ids(again).len(), 502, "both together have sent all");
        if name == "INT" {
            assert_eq!(again.len(), 502, "and none twice");
        }
    }
    let before = lines(&path, 1000).len();
    spool.start();
    wait_until(SOON, "the daemon writes what it tells of itself", || {
        spool.status()["outputs"][0]["waiting_events"] == 0
    });
    spool.stop();
    assert_eq!(lines(&path, 1000).len(), before, "its cursor has not moved");
}

#[test]
fn a_replay_into_a_file_that_cannot_be_written_says_which() {
    let (spool, path) = with_file();
    spool.job("one", ONCE, "job.sh", "echo apple\n");
    let once = spool.command(&["run", "--once", "--root", spool.root().to_str().unwrap()]);
    assert_eq!(lines(&path, 0).len(), 3, "{}", said(&once));
    fs::remove_file(&path).unwrap();
    fs::create_dir(&path).unwrap();
    let refused = spool.command(&["replay", "one", "--since", "1h"]);
    assert_eq!(refused.status.code(), Some(74), "{}", said(&refused));
    let words = "out/a.ndjson cannot be written: Is a directory (os error 21); nothing was sent";
    assert!(said(&refused).contains(words), "{}", said(&refused));
}

#[test]
fn a_replay_makes_no_file_that_the_daemon_of_another_user_could_not_write() {
    if needs_root("a replay by root") {
        return;
    }
    let (mut spool, path) = with_file();
    spool.job("one", ONCE, "job.sh", "echo apple\n");
    spool.open_to_users();
    spool.give_to(54_321);
    let root = spool.root();
    let once = spool.command(&["run", "--once", "--root", root.to_str().unwrap()]);
    assert_eq!(lines(&path, 0).len(), 3, "{}", said(&once));
    fs::remove_file(&path).unwrap();
    let args = ["replay", "one", "--since", "1h"];
    let refused = spoolbeat().args(args).current_dir(&root).output().unwrap();
    assert_eq!(refused.status.code(), Some(1), "{}", said(&refused));
    for words in ["belongs to user 54321", "sudo -u '#54321'"] {
        assert!(said(&refused).contains(words), "{}", said(&refused));
    }
    assert!(!path.exists());
    let sent = spool.command(&args);
    assert!(sent.status.success(), "{}", said(&sent));
    assert_eq!(lines(&path, 0).len(), 3);
}

#[test]
fn a_replay_to_standard_output_prints_here_what_that_output_gives() {
    let spool =
        Spool::with_settings("[spool]\nsettle = \"100ms\"\n[output.console]\nkind = \"stdout\"\n");
    spool.job("one", ONCE, "job.sh", "echo apple; echo pear\n");
    let once = spool.command(&["run", "--once", "--root", spool.root().to_str().unwrap()]);
    assert!(once.status.success(), "{}", said(&once));
    let first = String::from_utf8(once.stdout).unwrap();
    let replay = spool.command(&["replay", "one", "--seq", "..3", "--output", "console"]);
    assert!(replay.status.success(), "{}", said(&replay));
    let told = String::from_utf8(replay.stderr).unwrap();
    let told = told.strip_prefix("3 events sent again to console as replay ");
    let events: Vec<Value> = String::from_utf8(replay.stdout)
        .unwrap()
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(events.len(), 3);
    for (mut event, line) in events.into_iter().zip(first.lines()) {
        let metadata = event["@metadata"].as_object_mut().unwrap();
        let replay = metadata.remove("replay").unwrap();
        assert_eq!(replay["id"].as_str(), told.map(str::trim_end));
        assert_eq!(event, serde_json::from_str::<Value>(line).unwrap());
    }
}

#[test]
fn a_time_span_that_ends_before_it_begins_is_refused_with_both_ends() {
    let spool = Spool::new(1);
    let (since, until) = ("2026-11-21T08:00:00Z", "2026-11-21T07:00:00Z");
    for command in [&["replay"][..], &["queue", "cat"], &["replay", "--stdout"]] {
        let span = ["--since", since, "--until", until];
        let refused = spool.command(&[command, &span].concat());
        assert_eq!(refused.status.code(), Some(2), "{}", said(&refused));
        let words =
            "--since 2026-11-21T08:00:00.000Z is later than --until 2026-11-21T07:00:00.000Z";
        assert!(said(&refused).contains(words), "{}", said(&refused));
    }
}
