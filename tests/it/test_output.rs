//! `spoolbeat test output`: what each step says, against servers that do as they are told.

#![expect(clippy::unwrap_used, reason = "tests")]

use std::io::Read;
use std::io::Write;
use std::net::TcpListener;
use std::net::TcpStream;
use std::process::Output;
use std::thread;

use serde_json::Value;

use crate::harness::Keep;
use crate::harness::Logstash;
use crate::harness::Spool;
use crate::harness::said;
use crate::receive::Receiver;
use crate::receive::certificates;

/// A server that answers an empty window with these bytes and goes on listening, or closes.
fn server(answer: &'static [u8], goes_on: bool) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    thread::spawn(move || {
        let mut kept: Vec<TcpStream> = Vec::new();
        while let Ok((mut socket, _)) = listener.accept() {
            let mut window = [0; 6];
            socket.read_exact(&mut window).unwrap();
            assert_eq!(&window, b"2W\0\0\0\0");
            socket.write_all(answer).unwrap();
            if goes_on {
                kept.push(socket);
            }
        }
    });
    port
}

fn tried(port: u16, args: &[&str]) -> Output {
    let spool = Spool::new(port);
    spool.command(&[&["test", "output"], args].concat())
}

/// The step of this name of the only server.
fn step(output: &Output, name: &str) -> Value {
    let servers: Value = serde_json::from_slice(&output.stdout).unwrap();
    let steps = servers[0]["steps"].as_array().unwrap().clone();
    steps.into_iter().find(|step| step["step"] == name).unwrap()
}

#[test]
fn every_step_says_what_it_found() {
    for (answer, goes_on, result, word) in [
        (&b"2A\0\0\0\0"[..], true, "ok", "a Beats server answers"),
        (b"", true, "ok", "no objection within 1s"),
        (b"", false, "failed", "does it expect TLS"),
        (
            b"HTTP/1.1 400 Bad Request\r\n\r\n",
            true,
            "failed",
            "the server answers in HTTP",
        ),
        (
            b"\x15\x03\x03\0\x02\x02\x28",
            true,
            "failed",
            "the server answers in TLS",
        ),
    ] {
        let output = tried(server(answer, goes_on), &["--json"]);
        let code = if result == "ok" { 0 } else { 69 };
        assert_eq!(output.status.code(), Some(code), "{}", said(&output));
        let protocol = step(&output, "protocol");
        assert_eq!(protocol["result"], result, "{protocol}");
        assert!(
            protocol["words"].as_str().unwrap().contains(word),
            "{protocol}"
        );
        assert_eq!(step(&output, "dns")["result"], "ok");
        assert_eq!(step(&output, "connect")["result"], "ok");
        assert_eq!(step(&output, "tls")["result"], "not_tried");
        assert_eq!(step(&output, "event")["result"], "not_tried");
    }
}

#[test]
fn behind_a_step_that_fails_none_is_tried() {
    let output = tried(1, &[]);
    assert_eq!(output.status.code(), Some(69));
    let text = said(&output);
    for line in ["dns      ok", "connect  FAILED", "protocol not tried"] {
        assert!(text.contains(line), "{line}: {text}");
    }
    assert!(text.contains("Connection refused"), "{text}");
}

#[test]
fn a_test_event_is_sent_only_when_asked_and_is_marked() {
    let receiver = Receiver::start(&[]);
    let port = receiver.addr.rsplit(':').next().unwrap().parse().unwrap();
    assert!(tried(port, &[]).status.success());
    let output = tried(port, &["--send"]);
    assert!(output.status.success(), "{}", said(&output));
    assert!(said(&output).contains("acknowledged"), "{}", said(&output));
    let (printed, _) = receiver.stop();
    let event: Value = serde_json::from_slice(&printed).unwrap();
    assert_eq!(event["tags"], serde_json::json!(["spoolbeat-test"]));
}

#[test]
fn only_the_output_that_is_named_is_tried() {
    let logstash = Logstash::new(Keep::Ids);
    let spool = Spool::new(1);
    spool.settings(&format!(
        "[output.second]\nkind = \"lumberjack\"\nhosts = [\"127.0.0.1:{}\"]\n",
        logstash.port()
    ));
    let wrong = spool.command(&["test", "output", "--output", "third"]);
    assert_eq!(wrong.status.code(), Some(78));
    assert!(
        said(&wrong).contains("spoolbeat.toml has: lumberjack, second"),
        "{}",
        said(&wrong)
    );
    let both = spool.command(&["test", "output"]);
    assert_eq!(both.status.code(), Some(69));
    let text = said(&both);
    assert!(
        text.contains("lumberjack: 127.0.0.1:1") && text.contains("second: 127.0.0.1:"),
        "{text}"
    );
    let first = spool.command(&["test", "output", "--output", "lumberjack"]);
    assert!(!said(&first).contains("second"), "{}", said(&first));
}

#[test]
fn an_output_that_is_no_server_is_refused_with_its_kind_and_what_to_do_instead() {
    let spool = Spool::new(1);
    spool.settings("[output.archive]\nkind = \"file\"\npath = \"a.ndjson\"\n");
    for (args, instead) in [
        (&["send", "--output", "archive"][..], "--to HOST:PORT"),
        (
            &["replay", "--dead-letter", "archive"],
            "--dead-letter NAME says whose dead letters are meant, one of: lumberjack",
        ),
    ] {
        let refused = spool.command(args);
        assert_eq!(
            refused.status.code(),
            Some(78),
            "{args:?}: {}",
            said(&refused)
        );
        for words in ["of kind \"file\"", instead] {
            assert!(
                said(&refused).contains(words),
                "{args:?}: {}",
                said(&refused)
            );
        }
    }
    assert!(!spool.root().join("a.ndjson").exists());
}

#[test]
fn the_certificates_of_an_encrypted_server_are_shown_and_a_wrong_one_is_explained() {
    let folder = tempfile::tempdir().unwrap();
    certificates(folder.path(), &["server", "other"]);
    let file = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let receiver = Receiver::start(&[
        "--tls-cert",
        &file("server.pem"),
        "--tls-key",
        &file("server.key"),
    ]);
    let port = receiver.addr.rsplit(':').next().unwrap().parse().unwrap();
    let tried = |ca: &str| {
        let spool = Spool::new(port);
        let ssl = format!(
            "[output.lumberjack.ssl]\ncertificate_authorities = [\"{}\"]\n",
            file(ca)
        );
        spool.settings(&ssl);
        spool.command(&["test", "output", "--json"])
    };
    let good = tried("ca.pem");
    assert!(good.status.success(), "{}", said(&good));
    let tls = step(&good, "tls");
    assert_eq!(
        tls["tls"]["chain"][0]["names"],
        serde_json::json!(["127.0.0.1"]),
        "{tls}"
    );
    for word in [
        "TLSv1.3",
        "trusted and for this host",
        "for 127.0.0.1, signed by",
        "good until",
    ] {
        assert!(
            tls["words"].as_str().unwrap().contains(word),
            "{word}: {tls}"
        );
    }
    let wrong = tried("other.pem");
    assert_eq!(wrong.status.code(), Some(69), "{}", said(&wrong));
    assert_eq!(step(&wrong, "tls")["result"], "failed");
    assert!(
        step(&wrong, "tls")["words"]
            .as_str()
            .unwrap()
            .contains("trusted here"),
        "{}",
        said(&wrong)
    );
    assert_eq!(step(&wrong, "protocol")["result"], "not_tried");
}

#[test]
fn an_output_that_is_a_file_is_checked_and_tried_without_being_written() {
    let spool = Spool::new(1);
    let settings = |path: &str| {
        let text = format!("[output.a]\nkind = \"file\"\npath = \"{path}\"\n");
        std::fs::write(spool.root().join("spoolbeat.toml"), text).unwrap();
    };
    let folder = spool.root().join("out");
    let path = folder.join("a.ndjson");
    settings("out/a.ndjson");
    let missing = "there is no folder";
    for args in [
        &["check"][..],
        &["test", "output", "--output", "a"],
        &["test", "output"],
    ] {
        let found = spool.command(args);
        let code = if args[0] == "check" { 78 } else { 69 };
        assert_eq!(found.status.code(), Some(code), "{}", said(&found));
        assert!(said(&found).contains(missing), "{}", said(&found));
        assert!(said(&found).contains("mkdir -p"), "{}", said(&found));
    }
    std::fs::create_dir(&folder).unwrap();
    for there in [false, true] {
        if there {
            std::fs::write(&path, "{\"half").unwrap();
        }
        assert!(spool.command(&["check"]).status.success());
        let found = spool.command(&["test", "output", "--json"]);
        assert!(found.status.success(), "{}", said(&found));
        assert_eq!(step(&found, "write")["result"], "ok");
        assert_eq!(
            std::fs::read_dir(&folder).unwrap().count(),
            usize::from(there)
        );
    }
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "{\"half");
    settings("out");
    let found = spool.command(&["check"]);
    assert_eq!(found.status.code(), Some(78), "{}", said(&found));
    assert!(
        said(&found).contains("out is a folder; name a file in it"),
        "{}",
        said(&found)
    );
}
