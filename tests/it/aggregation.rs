//! A daemon between Beats and a server: what it acknowledges arrives, byte for byte.
//!
//! The Beats are written here by hand, frame by frame.

#![expect(clippy::unwrap_used, reason = "tests")]

use std::collections::BTreeSet;
use std::io::Read;
use std::io::Write;
use std::net::TcpListener;
use std::net::TcpStream;

use serde_json::Value;

use crate::harness::Keep;
use crate::harness::Logstash;
use crate::harness::Receiver;
use crate::harness::SOON;
use crate::harness::Spool;
use crate::harness::said;
use crate::harness::wait_until;

fn listens(address: &str) -> String {
    format!("[source.lumberjack]\nlisten = \"{address}\"\n")
}

/// A Beat's connection.
struct Beat(TcpStream);

impl Beat {
    fn connect(address: &str) -> Self {
        let socket = TcpStream::connect(address).unwrap();
        socket.set_read_timeout(Some(SOON)).unwrap();
        Self(socket)
    }

    /// Sends one window of these events.
    fn send(&mut self, events: &[String]) {
        let mut bytes = b"2W".to_vec();
        bytes.extend_from_slice(&u32::try_from(events.len()).unwrap().to_be_bytes());
        for (seq, event) in (1_u32..).zip(events) {
            bytes.extend_from_slice(b"2J");
            bytes.extend_from_slice(&seq.to_be_bytes());
            bytes.extend_from_slice(&u32::try_from(event.len()).unwrap().to_be_bytes());
            bytes.extend_from_slice(event.as_bytes());
        }
        self.0.write_all(&bytes).unwrap();
    }

    fn answer(&mut self) -> (u8, u32) {
        let mut bytes = [0; 6];
        self.0.read_exact(&mut bytes).unwrap();
        assert_eq!(bytes[1], b'A');
        let seq = u32::from_be_bytes(bytes[2..].try_into().unwrap());
        (bytes[0], seq)
    }

    /// The next answer that is no keep-alive.
    fn ack(&mut self) -> u32 {
        loop {
            let (version, seq) = self.answer();
            assert_eq!(version, b'2');
            if seq > 0 {
                return seq;
            }
        }
    }

    /// Whether the server has closed the connection.
    fn is_closed(&mut self) -> bool {
        matches!(self.0.read(&mut [0; 6]), Ok(0) | Err(_))
    }
}

/// Where the job listens, once it does.
fn address(spool: &Spool, job: &str) -> String {
    let mut source = Value::Null;
    wait_until(SOON, "the job listens", || {
        source = spool.job_status(job)["source"].clone();
        source["state"] == "listening"
    });
    source["listen"].as_str().unwrap().to_owned()
}

fn event(id: usize, text: &str) -> String {
    format!(
        "{{\"event\":{{\"id\":\"beat.o.{id}\"}},\"job\":{{\"name\":\"x\"}},\"message\":\"{text}\"}}"
    )
}

fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().port()
}

#[test]
fn events_of_beats_pass_byte_for_byte_through_the_queue() {
    let server = Receiver::start(&[]);
    let mut spool = Spool::new(server.addr().port());
    spool.job("beats", &listens("127.0.0.1:0"), "README", "");
    spool.start();
    let address = address(&spool, "beats");
    let odd = [
        r#"{"@metadata":{"beat":"filebeat","_id":"7"},"event":{"id":"theirs"},"message":"a"}"#,
        r#"{ "a" : 1.50e3,  "a":2,"":"\u00e9\/" }"#,
        "{}",
    ];
    let mut beat = Beat::connect(&address);
    beat.send(&odd.map(str::to_owned));
    assert_eq!(beat.ack(), 3);
    beat.0
        .write_all(b"1W\0\0\0\x011D\0\0\0\x05\0\0\0\x01\0\0\0\x04line\0\0\0\x02hi")
        .unwrap();
    assert_eq!(beat.answer(), (b'1', 5));
    // Sent again, they come again: nothing is compared.
    beat.send(&odd.map(str::to_owned));
    assert_eq!(beat.ack(), 3);
    let wanted = [&odd[..], &[r#"{"line":"hi"}"#], &odd].concat().join("\n") + "\n";
    wait_until(SOON, "all events arrive as they are", || {
        server.printed() == wanted
    });
    let status = spool.job_status("beats");
    assert_eq!(status["captured_events"], 7, "{status}");
    let source = &status["source"];
    assert_eq!(
        (&source["windows"], &source["events"]),
        (&3.into(), &7.into())
    );
    let mut bad = Beat::connect(&address);
    bad.send(&["[]".to_owned()]);
    assert!(bad.is_closed());
    wait_until(SOON, "the refusal is counted and explained", || {
        let source = spool.job_status("beats")["source"].clone();
        let why = source["last_refused"]
            .as_str()
            .unwrap_or_default()
            .to_owned();
        source["refused"] == 1 && why.contains("event 1 of a window is not a JSON object")
    });
    let totals = spool.status()["totals"].clone();
    assert_eq!(totals["sources"]["framed"], 7, "{totals}");
    let cat = spool.command(&["queue", "cat", "--job", "beats"]);
    assert!(said(&cat).contains(odd[1]), "{}", said(&cat));
    spool.stop();
}

#[test]
fn what_was_acknowledged_arrives_also_when_the_daemon_is_killed_at_once() {
    let mut logstash = Logstash::new(Keep::Ids);
    logstash.close();
    let mut spool = Spool::new(logstash.port());
    spool.job("beats", &listens("127.0.0.1:0"), "README", "");
    spool.start();
    let mut beat = Beat::connect(&address(&spool, "beats"));
    let mut sent = BTreeSet::new();
    for window in 0..50_usize {
        let ids = window * 20..(window + 1) * 20;
        let events: Vec<String> = ids.clone().map(|id| event(id, "text")).collect();
        beat.send(&events);
        assert_eq!(beat.ack(), 20);
        sent.extend(ids.map(|id| format!("beat.o.{id}")));
    }
    spool.kill();
    logstash.open();
    spool.start();
    wait_until(SOON, "every acknowledged event arrives", || {
        let acked: BTreeSet<String> = logstash.acked_ids().into_iter().collect();
        sent.is_subset(&acked)
    });
    spool.stop();
}

#[test]
fn a_full_queue_holds_the_ack_and_says_that_it_is_alive() {
    let mut logstash = Logstash::new(Keep::Ids);
    logstash.close();
    let mut spool = Spool::new(logstash.port());
    spool.settings("[queue]\nmax_bytes = \"16MiB\"\n");
    spool.job("beats", &listens("127.0.0.1:0"), "README", "");
    spool.start();
    let mut beat = Beat::connect(&address(&spool, "beats"));
    // Text that hardly deflates.
    let mut state = 1_u64;
    let mut noise = || {
        let mut next = || {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            char::from(b'0' + u8::try_from(state >> 58).unwrap())
                .to_string()
                .replace('\\', "z")
        };
        (0..50_000).map(|_| next()).collect::<String>()
    };
    let mut windows = 0;
    loop {
        let events: Vec<String> = (0..20).map(|n| event(windows * 20 + n, &noise())).collect();
        beat.send(&events);
        windows += 1;
        assert!(windows < 100, "the queue is never full");
        match beat.answer() {
            (_, 20) => {}
            (_, 0) => break,
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(beat.answer(), (b'2', 0), "and goes on to be alive");
    logstash.open();
    assert_eq!(beat.ack(), 20);
    wait_until(SOON, "all of it arrives", || {
        logstash.acked_ids().len() >= windows * 20
    });
    spool.stop();
}

#[test]
fn an_edit_moves_the_listener_and_a_removal_closes_it() {
    let logstash = Logstash::new(Keep::Ids);
    let mut spool = Spool::new(logstash.port());
    let (first, second) = (free_port(), free_port());
    let at = |port: u16| format!("127.0.0.1:{port}");
    let is_open = |port: u16| TcpStream::connect(at(port)).is_ok();
    spool.job("beats", &listens(&at(first)), "README", "");
    spool.start();
    assert_eq!(address(&spool, "beats"), at(first));
    let mut kept = Beat::connect(&at(first));
    kept.send(&[event(1, "a")]);
    assert_eq!(kept.ack(), 1);
    // An edit that changes nothing for the listener leaves its connections alone.
    let described = format!("description = \"all Beats\"\n{}", listens(&at(first)));
    let before = spool.job_status("beats")["generation"].clone();
    spool.job("beats", &described, "README", "");
    wait_until(SOON, "the edit is loaded", || {
        spool.job_status("beats")["generation"] != before
    });
    kept.send(&[event(2, "b")]);
    assert_eq!(kept.ack(), 1);
    spool.job("beats", &listens(&at(second)), "README", "");
    wait_until(SOON, "it listens on the other port only", || {
        is_open(second) && !is_open(first)
    });
    assert!(kept.is_closed());
    spool.remove("beats");
    wait_until(SOON, "it listens no more", || !is_open(second));
    wait_until(SOON, "all arrives", || logstash.acked_ids().len() == 2);
    spool.stop();
}

#[test]
fn a_taken_port_is_the_problem_of_its_job_only_and_is_tried_again() {
    let logstash = Logstash::new(Keep::Events);
    let mut spool = Spool::new(logstash.port());
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap();
    spool.job("beats", &listens(&port.to_string()), "README", "");
    let once = "[script]\nrun = \"job.sh\"\n[schedule]\nonce = true\n";
    spool.job("other", once, "job.sh", "echo hello\n");
    spool.start();
    wait_until(SOON, "the other job runs", || {
        logstash.lines("other") == ["hello"]
    });
    wait_until(SOON, "status says why", || {
        let source = spool.job_status("beats")["source"].clone();
        let why = source["problem"].as_str().unwrap_or_default().to_owned();
        why.contains("something listens there already")
    });
    let table = said(&spool.command(&["status"]));
    assert!(
        table.contains(&format!("job beats: cannot listen on `{port}`")),
        "{table}"
    );
    drop(taken);
    assert_eq!(address(&spool, "beats"), port.to_string());
    spool.stop();
}

#[test]
fn a_job_that_would_feed_itself_is_refused_by_check() {
    let spool = Spool::new(5044);
    spool.job("beats", &listens("0.0.0.0:5044"), "README", "");
    let output = spool.command(&["check"]);
    assert_eq!(output.status.code(), Some(78));
    let wanted = "jobs/beats/job.toml:2:10: source.lumberjack.listen: output `lumberjack` sends to 127.0.0.1:5044, which is here";
    assert!(said(&output).contains(wanted), "{}", said(&output));
}

#[test]
fn two_that_would_listen_on_one_address_are_refused_by_check_with_its_place() {
    let spool = Spool::new(5999);
    spool.settings("[receiver]\nlisten = \"127.0.0.1:5046\"\n");
    spool.job("a", &listens("127.0.0.1:5044"), "README", "");
    spool.job("b", &listens("0.0.0.0:5044"), "README", "");
    spool.job("c", &listens("0.0.0.0:5045"), "README", "");
    spool.job("d", &listens("[::]:5046"), "README", "");
    let off = format!("enabled = false\n{}", listens("0.0.0.0:5044"));
    spool.job("e", &off, "README", "");
    let output = spool.command(&["check"]);
    assert_eq!(output.status.code(), Some(78));
    let told = said(&output);
    for wanted in [
        "jobs/b/job.toml:2:10: source.lumberjack.listen: job a listens on 127.0.0.1:5044 already",
        "jobs/d/job.toml:2:10: source.lumberjack.listen: [receiver] of spoolbeat.toml listens on 127.0.0.1:5046 already",
        "3 good jobs",
    ] {
        assert!(told.contains(wanted), "{wanted}: {told}");
    }
}
