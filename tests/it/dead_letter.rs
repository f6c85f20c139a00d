//! `spoolbeat replay --dead-letter`: what is taken leaves the files, what is refused stays.

#![expect(clippy::unwrap_used, reason = "tests")]

use std::fs;
use std::io::Read;
use std::io::Write;
use std::net::TcpListener;
use std::net::TcpStream;
use std::process::Child;
use std::process::Command;
use std::process::Stdio;
use std::sync::mpsc;
use std::thread;

use crate::harness::Keep;
use crate::harness::Logstash;
use crate::harness::Spool;
use crate::harness::said;
use crate::harness::signal;

/// Dead letters of the only output, as the daemon writes them; `events` are JSON or not.
fn set_aside(spool: &Spool, file: &str, events: &[&str]) {
    let dir = spool.root().join("dead-letter/lumberjack");
    fs::create_dir_all(&dir).unwrap();
    let line = |event: &&str| {
        format!(
            "{{\"set_aside_at\":\"2026-11-21T08:08:08.123Z\",\"output\":\"lumberjack\",\"host\":\"h:1\",\
             \"reason\":\"closed\",\"seq\":7,\"event\":{event}}}\n"
        )
    };
    fs::write(dir.join(file), events.iter().map(line).collect::<String>()).unwrap();
}

/// The names and contents of what is left.
fn left(spool: &Spool) -> Vec<(String, String)> {
    let dir = fs::read_dir(spool.root().join("dead-letter/lumberjack")).unwrap();
    let mut files: Vec<(String, String)> = dir
        .map(|entry| {
            let entry = entry.unwrap();
            let name = entry.file_name().into_string().unwrap();
            (name, fs::read_to_string(entry.path()).unwrap())
        })
        .collect();
    files.sort();
    files
}

const ONE: &str = "{\"event\":{\"id\":\"1\"}}";
const TWO: &str = "{\"event\":{\"id\":\"2\"}}";
const THREE: &str = "{\"event\":{\"id\":\"3\"}}";

#[test]
fn dead_letters_that_are_acknowledged_are_removed() {
    let logstash = Logstash::new(Keep::Ids);
    let spool = Spool::new(logstash.port());
    let none = spool.command(&["replay", "--dead-letter"]);
    assert!(none.status.success(), "{}", said(&none));
    assert!(said(&none).contains("there are no dead letters of lumberjack"));

    set_aside(&spool, "0000000001.ndjson", &[ONE, TWO]);
    set_aside(&spool, "0000000002.ndjson", &[THREE]);
    let shown = spool.command(&["replay", "--dead-letter", "--stdout"]);
    assert_eq!(said(&shown), format!("{ONE}\n{TWO}\n{THREE}\n"));
    let counted = spool.command(&["replay", "--dead-letter", "--dry-run"]);
    for words in [
        "events     3\n",
        "2026-11-21T08:08:08.123Z\n",
        "nothing was sent",
    ] {
        assert!(said(&counted).contains(words), "{}", said(&counted));
    }
    assert_eq!((left(&spool).len(), logstash.count()), (2, 0));

    let sent = spool.command(&["replay", "--dead-letter", "--output", "lumberjack"]);
    assert!(sent.status.success(), "{}", said(&sent));
    assert!(
        said(&sent).contains("3 events sent again to lumberjack and removed"),
        "{}",
        said(&sent)
    );
    assert_eq!(logstash.acked_ids(), ["1", "2", "3"]);
    assert!(left(&spool).is_empty());
}

#[test]
fn dead_letters_go_to_the_file_of_another_output_and_are_never_only_printed_away() {
    let spool = Spool::new(1);
    spool.settings("[output.archive]\nkind = \"file\"\npath = \"a.ndjson\"\n[output.stdout]\n");
    set_aside(&spool, "0000000001.ndjson", &[ONE, "[]", TWO]);
    let printed = spool.command(&["replay", "--dead-letter", "--output", "stdout"]);
    assert_eq!(printed.status.code(), Some(78), "{}", said(&printed));
    assert!(
        said(&printed).contains("--stdout prints them, and keeps them"),
        "{}",
        said(&printed)
    );
    let whose = [
        "replay",
        "--dead-letter",
        "lumberjack",
        "--output",
        "archive",
    ];
    let sent = spool.command(&whose);
    for word in [
        "2 events sent again to archive and removed, 1 refused again",
        "the rest stays in dead-letter/lumberjack",
    ] {
        assert!(said(&sent).contains(word), "{word}: {}", said(&sent));
    }
    let kept = fs::read_to_string(spool.root().join("a.ndjson")).unwrap();
    for (line, id) in kept.lines().zip(["1", "2"]) {
        let event: serde_json::Value = serde_json::from_str(line).unwrap();
        assert_eq!(event["event"]["id"], id);
        assert!(event["@metadata"]["replay"]["id"].is_string());
    }
    assert_eq!(kept.lines().count(), 2);
    assert_eq!(left(&spool).len(), 1);

    fs::remove_file(spool.root().join("a.ndjson")).unwrap();
    fs::create_dir(spool.root().join("a.ndjson")).unwrap();
    set_aside(&spool, "0000000001.ndjson", &[THREE]);
    let failed = spool.command(&["replay", "--dead-letter", "--output", "archive"]);
    assert_eq!(failed.status.code(), Some(74), "{}", said(&failed));
    assert!(
        said(&failed).contains("a.ndjson cannot be written: Is a directory"),
        "{}",
        said(&failed)
    );
    assert!(left(&spool)[0].1.contains(THREE));
}

#[test]
fn what_cannot_be_sent_or_read_stays_in_its_file() {
    let mut logstash = Logstash::new(Keep::Ids);
    let spool = Spool::new(logstash.port());
    set_aside(&spool, "0000000001.ndjson", &[ONE, "[]", "half", TWO]);
    let sent = spool.command(&["replay", "--dead-letter"]);
    assert_eq!(sent.status.code(), Some(69), "{}", said(&sent));
    for word in [
        "2 events sent again",
        "1 refused again, 1 line cannot be read; the rest stays in dead-letter/lumberjack",
        "event 7 is refused again: event 2 is refused: not a JSON object",
        ".replay:3: ",
    ] {
        assert!(said(&sent).contains(word), "{word}: {}", said(&sent));
    }
    assert_eq!(logstash.acked_ids(), ["1", "2"]);
    let files = left(&spool);
    assert_eq!(files.len(), 1);
    assert_eq!(files[0].0, "0000000001.ndjson");
    assert_eq!(files[0].1.lines().count(), 2, "{files:?}");

    logstash.close();
    set_aside(&spool, "0000000002.ndjson", &[THREE]);
    let down = spool.command(&["replay", "--dead-letter"]);
    assert_eq!(down.status.code(), Some(69), "{}", said(&down));
    assert!(
        said(&down).contains("Connection refused"),
        "{}",
        said(&down)
    );
    assert_eq!(left(&spool).len(), 2);
}

/// Lets the output send frames that a script can read.
fn plain(spool: &Spool) {
    let file = spool.root().join("spoolbeat.toml");
    let text = fs::read_to_string(&file).unwrap();
    let section = "[output.lumberjack]\n";
    let plain = format!("{section}compression_level = 0\n");
    fs::write(file, text.replace(section, &plain)).unwrap();
}

/// A server that closes the connection on the event that holds `poison`, without an ACK.
fn picky(poison: &'static [u8]) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    thread::spawn(move || {
        while let Ok((socket, _)) = listener.accept() {
            take(socket, |event| {
                !event.windows(poison.len()).any(|part| part == poison)
            });
        }
    });
    port
}

/// Takes windows of one event each until one is not to be taken, or the client leaves.
fn take(mut socket: TcpStream, mut is_taken: impl FnMut(&[u8]) -> bool) {
    loop {
        let mut head = [0; 6 + 10];
        if socket.read_exact(&mut head).is_err() {
            return;
        }
        assert_eq!(&head[..8], b"2W\0\0\0\x012J");
        let length = u32::from_be_bytes(head[12..].try_into().unwrap());
        let mut event = vec![0; length as usize];
        socket.read_exact(&mut event).unwrap();
        if !is_taken(&event) {
            return;
        }
        if socket.write_all(b"2A\0\0\0\x01").is_err() {
            return;
        }
    }
}

#[test]
fn an_event_that_is_refused_again_does_not_hold_up_the_others() {
    let spool = Spool::new(picky(b"\"2\""));
    plain(&spool);
    set_aside(&spool, "0000000001.ndjson", &[ONE, TWO, THREE]);
    let sent = spool.command(&["replay", "--dead-letter"]);
    assert_eq!(sent.status.code(), Some(69), "{}", said(&sent));
    assert!(
        said(&sent).contains("2 events sent again to lumberjack and removed, 1 refused again"),
        "{}",
        said(&sent)
    );
    let files = left(&spool);
    assert_eq!(files.len(), 1);
    assert!(
        files[0].1.contains(TWO) && !files[0].1.contains(ONE),
        "{files:?}"
    );
}

#[test]
fn a_server_that_refuses_everything_keeps_all_dead_letters() {
    let spool = Spool::new(picky(b"{"));
    plain(&spool);
    set_aside(&spool, "0000000001.ndjson", &[ONE; 50]);
    let before = left(&spool);
    let sent = spool.command(&["replay", "--dead-letter"]);
    assert_eq!(sent.status.code(), Some(69), "{}", said(&sent));
    assert!(
        said(&sent).contains("0 events sent again"),
        "{}",
        said(&sent)
    );
    assert_eq!(
        said(&sent).matches("is refused again").count(),
        3,
        "{}",
        said(&sent)
    );
    assert_eq!(left(&spool), before);
}

/// A server that takes `many` events, says so, and goes on only when it is told to.
fn halting(many: usize) -> (u16, mpsc::Receiver<()>, mpsc::Sender<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let (say, halted) = mpsc::channel();
    let (go_on, told) = mpsc::channel();
    thread::spawn(move || {
        let mut before = 0;
        while let Ok((socket, _)) = listener.accept() {
            take(socket, |_| {
                before += 1;
                before <= many || (say.send(()).is_ok() && told.recv().is_ok())
            });
        }
    });
    (port, halted, go_on)
}

/// Dead letters with the ids from 0 on, and a replay of them that has come to where `halted` says.
fn replaying(events: usize, port: u16, halted: &mpsc::Receiver<()>) -> (Spool, Child) {
    let spool = Spool::new(port);
    plain(&spool);
    let events: Vec<String> = (0..events)
        .map(|id| format!("{{\"event\":{{\"id\":\"{id}\"}}}}"))
        .collect();
    let events: Vec<&str> = events.iter().map(String::as_str).collect();
    set_aside(&spool, "0000000001.ndjson", &events);
    let child = Command::new(env!("CARGO_BIN_EXE_spoolbeat"))
        .args(["replay", "--dead-letter"])
        .current_dir(spool.root())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    halted.recv().unwrap();
    (spool, child)
}

/// Sends what is left to another server; the ids that come there.
fn go_on(spool: &Spool) -> Vec<String> {
    let logstash = Logstash::new(Keep::Ids);
    let file = spool.root().join("spoolbeat.toml");
    let text = fs::read_to_string(&file).unwrap();
    let (before, rest) = text.split_once("127.0.0.1:").unwrap();
    let rest = rest.trim_start_matches(|c: char| c.is_ascii_digit());
    let port = logstash.port();
    fs::write(file, format!("{before}127.0.0.1:{port}{rest}")).unwrap();
    let sent = spool.command(&["replay", "--dead-letter"]);
    assert!(sent.status.success(), "{}", said(&sent));
    assert!(left(spool).is_empty());
    logstash.acked_ids()
}

fn from(first: usize, end: usize) -> Vec<String> {
    (first..end).map(|id| id.to_string()).collect()
}

#[test]
fn what_was_taken_before_a_person_had_enough_is_removed_and_the_rest_is_kept() {
    for name in ["INT", "TERM"] {
        let (port, halted, _go_on) = halting(20);
        let (spool, child) = replaying(2000, port, &halted);
        signal(name, child.id());
        let output = child.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(130), "{}", said(&output));
        for words in [
            "interrupted: 20 events sent again to lumberjack and removed",
            "1980 events left in dead-letter/lumberjack, and the same command goes on",
        ] {
            assert!(said(&output).contains(words), "{}", said(&output));
        }
        let files = left(&spool);
        assert_eq!(files.len(), 1);
        assert_eq!(files[0].0, "0000000001.ndjson");
        assert_eq!(go_on(&spool), from(20, 2000));
    }
}

#[test]
fn what_is_on_its_way_when_a_person_has_had_enough_is_not_sent_twice() {
    let (port, halted, told) = halting(20);
    let (spool, child) = replaying(5000, port, &halted);
    signal("INT", child.id());
    for _ in 0..5000 {
        // It takes all that comes from now on.
        told.send(()).unwrap();
    }
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(130), "{}", said(&output));
    let arrived = 20 + halted.try_iter().count() + 1;
    let words = format!("interrupted: {arrived} events sent again");
    assert!(said(&output).contains(&words), "{}", said(&output));
    assert_eq!(go_on(&spool), from(arrived, 5000));
}

#[test]
fn a_kill_costs_no_more_second_sends_than_there_are_letters_between_two_rewrites() {
    let (port, halted, _go_on) = halting(9000);
    let (spool, mut child) = replaying(10_000, port, &halted);
    let half = spool
        .root()
        .join("dead-letter/lumberjack/.new-half-written");
    fs::write(half, "{").unwrap();
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(go_on(&spool), from(8192, 10_000));
}
