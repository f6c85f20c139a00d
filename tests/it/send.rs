//! `spoolbeat send`: lines that arrive, lines that cannot, and servers that fail half-way.

#![expect(clippy::unwrap_used, reason = "tests")]

use std::fs;
use std::io::Write;
use std::process::Child;
use std::process::Output;
use std::process::Stdio;

use serde_json::Value;
use serde_json::json;

use crate::harness::Keep;
use crate::harness::Logstash;
use crate::harness::Mode;
use crate::harness::SOON;
use crate::harness::Spool;
use crate::harness::said;
use crate::harness::signal;
use crate::harness::spoolbeat;
use crate::harness::wait_until;

fn start(args: &[&str]) -> Child {
    spoolbeat()
        .arg("send")
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

/// Sends this as standard input.
fn send(args: &[&str], input: &[u8]) -> Output {
    let mut child = start(args);
    child.stdin.take().unwrap().write_all(input).unwrap();
    child.wait_with_output().unwrap()
}

fn to(logstash: &Logstash) -> String {
    format!("127.0.0.1:{}", logstash.port())
}

fn events(logstash: &Logstash) -> Vec<Value> {
    let windows = logstash.windows().into_iter();
    windows.flat_map(|window| window.events).collect()
}

#[test]
fn each_line_of_text_arrives_as_an_event_of_its_own() {
    let logstash = Logstash::new(Keep::Events);
    let to = to(&logstash);
    let args = ["--to", &to, "--field", "site=b=1", "--max-event", "5B"];
    let output = send(&args, b"one\r\n\ntwo\xff\nmuch too long\nlast");
    assert_eq!(output.status.code(), Some(0), "{}", said(&output));
    assert!(
        said(&output).contains("4 events acknowledged by 127.0.0.1:")
            && said(&output).contains(", 1 line cut (8 bytes left out)"),
        "{}",
        said(&output)
    );
    let events = events(&logstash);
    let messages: Vec<&str> = events
        .iter()
        .map(|event| event["message"].as_str().unwrap())
        .collect();
    assert_eq!(messages, ["one", "two\u{fffd}", "much ", "last"]);
    assert_eq!(events[2]["log"]["flags"], json!(["truncated"]));
    for (event, n) in events.iter().zip(1..) {
        let id = event["event"]["id"].as_str().unwrap();
        assert!(id.ends_with(&format!(".{n}")), "{id}");
        assert_eq!(event["@metadata"]["_id"], id);
        assert_eq!(event["fields"], json!({"site": "b=1"}));
        assert_eq!(event["agent"]["type"], "spoolbeat");
        assert!(event["host"]["name"].is_string() && event["@timestamp"].is_string());
        assert!(event.get("job").is_none());
    }
}

#[test]
fn a_line_goes_as_soon_as_it_is_read() {
    let logstash = Logstash::new(Keep::Ids);
    let mut child = start(&["--to", &to(&logstash)]);
    let mut input = child.stdin.take().unwrap();
    for n in 1..=3 {
        input.write_all(b"line\n").unwrap();
        wait_until(SOON, "the line is acknowledged", || {
            logstash.acked_ids().len() == n
        });
    }
    drop(input);
    assert!(child.wait().unwrap().success());
}

#[test]
fn lines_that_are_no_events_are_named_and_left_out_or_end_it() {
    let logstash = Logstash::new(Keep::Ids);
    let to = to(&logstash);
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("events.ndjson");
    let lines = "{\"event\":{\"id\":\"1\"}}\nplain\n\n {\"event\":{\"id\":\"2\"}} \n[]\n";
    fs::write(&file, lines).unwrap();
    let name = file.to_str().unwrap();
    let lenient = send(&["--json", "--to", &to, name], b"");
    assert_eq!(lenient.status.code(), Some(65), "{}", said(&lenient));
    for word in [
        &format!("{name}:2: left out: not a JSON object"),
        &format!("{name}:5: left out: not a JSON object"),
        "2 events acknowledged",
        "2 lines left out: no events",
    ] {
        assert!(said(&lenient).contains(word), "{word}: {}", said(&lenient));
    }
    assert_eq!(logstash.acked_ids(), ["1", "2"]);

    let strict = send(&["--json", "--strict", "--to", &to, name], b"");
    assert_eq!(strict.status.code(), Some(65), "{}", said(&strict));
    assert!(
        said(&strict).contains("1 event acknowledged"),
        "{}",
        said(&strict)
    );
    assert_eq!(logstash.acked_ids(), ["1", "2", "1"]);

    let long = format!("{{\"event\":{{\"id\":\"{}\"}}}}\n", "x".repeat(10 << 20));
    let too_long = send(&["--json", "--to", &to], long.as_bytes());
    assert_eq!(too_long.status.code(), Some(65));
    assert!(
        said(&too_long).contains("standard input:1: left out: longer than"),
        "{}",
        said(&too_long)
    );
}

#[test]
fn a_server_that_fails_half_way_is_replaced_and_nothing_is_lost() {
    let first = Logstash::new(Keep::Ids);
    let second = Logstash::new(Keep::Ids);
    first.answer(Mode::First(7));
    let lines = "line\n".repeat(20_000);
    let output = send(
        &["--to", &to(&first), "--to", &to(&second)],
        lines.as_bytes(),
    );
    assert!(output.status.success(), "{}", said(&output));
    let mut ids = first.acked_ids();
    ids.extend(second.acked_ids());
    ids.sort();
    ids.dedup();
    assert_eq!(ids.len(), 20_000);
}

#[test]
fn what_no_server_took_is_told_with_an_exit_code() {
    let logstash = Logstash::new(Keep::Ids);
    logstash.answer(Mode::First(2));
    let to = to(&logstash);
    let output = send(
        &["--to", &to, "--retries", "0"],
        "a\n".repeat(5_000).as_bytes(),
    );
    assert_eq!(output.status.code(), Some(69), "{}", said(&output));
    let told = format!(
        "given up: {} events acknowledged",
        logstash.acked_ids().len()
    );
    assert!(said(&output).contains(&told), "{}", said(&output));
    let nobody = send(&["--to", "127.0.0.1:1", "--retries", "0"], b"");
    assert_eq!(nobody.status.code(), Some(69));
    assert!(
        said(&nobody).contains("nothing was sent"),
        "{}",
        said(&nobody)
    );
}

#[test]
fn an_interrupted_send_says_how_much_is_acknowledged() {
    let logstash = Logstash::new(Keep::Ids);
    let mut child = start(&["--to", &to(&logstash)]);
    let mut input = child.stdin.take().unwrap();
    input.write_all(b"one\n").unwrap();
    wait_until(SOON, "the line is acknowledged", || {
        logstash.acked_ids().len() == 1
    });
    logstash.answer(Mode::Never);
    input.write_all(b"two\n").unwrap();
    wait_until(SOON, "the next one arrives", || logstash.count() == 2);
    signal("INT", child.id());
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(130), "{}", said(&output));
    assert!(
        said(&output).contains("interrupted; 1 event acknowledged"),
        "{}",
        said(&output)
    );
    drop(input);
}

#[test]
fn a_configured_output_can_be_sent_to_and_a_mistyped_one_is_named() {
    let logstash = Logstash::new(Keep::Ids);
    let spool = Spool::new(logstash.port());
    let root = spool.root();
    let root = root.to_str().unwrap();
    let output = send(&["--output", "lumberjack", "--root", root], b"line\n");
    assert!(output.status.success(), "{}", said(&output));
    assert_eq!(logstash.count(), 1);
    for (args, code, word) in [
        (
            &["--output", "logstash", "--root", root][..],
            78,
            "no output `logstash`; spoolbeat.toml has: lumberjack",
        ),
        (
            &["--to", "tcp://logstash"],
            78,
            "it is a URL; write one like logstash-1:5044",
        ),
        (
            &["no-such-file", "--to", &to(&logstash)],
            66,
            "cannot open no-such-file",
        ),
        (&["/", "--to", &to(&logstash)], 66, "cannot open /"),
        (
            &["--to", "h", "--field", "novalue"],
            2,
            "write KEY=VALUE, like site=berlin",
        ),
        (
            &["--to", "h", "--max-event", "1GiB"],
            2,
            "is not from 1B to 9.0 MiB",
        ),
        (
            &["--to", "h", "--json", "--field", "a=b"],
            2,
            "cannot be used with",
        ),
        (&[], 2, "--to <HOST:PORT>"),
    ] {
        let output = send(args, b"");
        assert_eq!(
            output.status.code(),
            Some(code),
            "{args:?}: {}",
            said(&output)
        );
        assert!(said(&output).contains(word), "{args:?}: {}", said(&output));
    }
}
