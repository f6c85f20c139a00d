//! `spoolbeat replay` and `queue cat`: kept events are found again, and sent again under their own ids.

#![expect(clippy::unwrap_used, reason = "tests")]

use std::collections::BTreeSet;
use std::process::Command;
use std::process::Stdio;

use serde_json::Value;

use crate::harness::Keep;
use crate::harness::Logstash;
use crate::harness::Mode;
use crate::harness::SOON;
use crate::harness::Spool;
use crate::harness::said;
use crate::harness::signal;
use crate::harness::wait_until;

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
