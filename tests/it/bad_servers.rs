//! The client table of `src/lumberjack/PEERS.md`: a server that answers one window badly, then well.
//! One daemon with an output for each row; what arrived, what came again and what was said is compared.

#![expect(clippy::unwrap_used, reason = "tests")]

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::io::BufReader;
use std::io::Write;
use std::net::TcpListener;
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::Mutex;
use std::thread;

use serde_json::Value;

use crate::harness::SOON;
use crate::harness::Spool;
use crate::harness::read_window;
use crate::harness::wait_until;

/// Windows of this many events or more are answered badly, the first one.
const BAD_FROM: usize = 8;

const SCRIPT: &str = "for i in $(seq 1 40); do echo line $i; done\n";
const ONCE: &str = "[script]\nrun = \"job.sh\"\n[schedule]\nonce = true\n";

/// What of the window comes again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Again {
    Nothing,
    All,
    AllButFive,
}

/// A case: its name as in PEERS.md, the answer to a window of n, whether the connection goes on, what
/// must come again, and a word of the error (none: it must not be noticed).
type Row = (
    &'static str,
    fn(u32) -> Vec<u8>,
    bool,
    Again,
    Option<&'static str>,
);

fn ack(value: u32) -> Vec<u8> {
    [b"2A", value.to_be_bytes().as_slice()].concat()
}

const ROWS: &[Row] = &[
    (
        "partial ACKs 1, 5, n",
        |n| [ack(1), ack(5), ack(n)].concat(),
        true,
        Again::Nothing,
        None,
    ),
    (
        "`A 0` five times, then n",
        |n| [ack(0).repeat(5), ack(n)].concat(),
        true,
        Again::Nothing,
        None,
    ),
    (
        "`A 0` for ever",
        |_| ack(0),
        true,
        Again::All,
        Some("ack_stall_timeout"),
    ),
    (
        "ACK beyond the window",
        |n| ack(n + 5),
        true,
        Again::All,
        Some("acknowledged event"),
    ),
    (
        "ACK going backwards",
        |n| [ack(5), ack(3), ack(n)].concat(),
        true,
        Again::Nothing,
        None,
    ),
    (
        "ACK twice",
        |n| [ack(n), ack(n)].concat(),
        true,
        Again::Nothing,
        None,
    ),
    (
        "partial ACK 5, then FIN",
        |_| ack(5),
        false,
        Again::AllButFive,
        Some("closed"),
    ),
    (
        "version `3` in the ACK",
        |n| [b"3A", n.to_be_bytes().as_slice()].concat(),
        true,
        Again::All,
        Some("0x33"),
    ),
    (
        "version `1` in the ACK",
        |n| [b"1A", n.to_be_bytes().as_slice()].concat(),
        true,
        Again::All,
        Some("version 1"),
    ),
    (
        "a frame that is no ACK",
        |n| [b"2W", n.to_be_bytes().as_slice()].concat(),
        true,
        Again::All,
        Some("type `W`"),
    ),
    (
        "HTTP",
        |_| b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec(),
        true,
        Again::All,
        Some("HTTP"),
    ),
    (
        "TLS",
        |_| b"\x15\x03\x03\x00\x02\x02\x46".to_vec(),
        true,
        Again::All,
        Some("TLS"),
    ),
    (
        "half an ACK, then FIN",
        |n| ack(n)[..3].to_vec(),
        false,
        Again::All,
        Some("closed"),
    ),
    (
        "no answer",
        |_| Vec::new(),
        true,
        Again::All,
        Some("`timeout`"),
    ),
    (
        "FIN instead of the ACK",
        |_| Vec::new(),
        false,
        Again::All,
        Some("closed"),
    ),
];

/// What a server saw: the number of the connection and the ids of each window, and which was answered badly.
#[derive(Debug, Default)]
struct Seen {
    connections: usize,
    windows: Vec<Vec<String>>,
    bad: Option<usize>,
}

impl Seen {
    /// How often each event of the badly answered window came again.
    fn again(&self) -> usize {
        let Some(bad) = self.bad else { return 0 };
        let first: BTreeSet<&String> = self.windows[bad].iter().collect();
        let later = self.windows[bad + 1..].iter().flatten();
        later.filter(|id| first.contains(id)).count()
    }

    fn distinct(&self) -> usize {
        self.windows.iter().flatten().collect::<BTreeSet<_>>().len()
    }
}

fn serve(row: &'static Row) -> (u16, Arc<Mutex<Seen>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let seen = Arc::new(Mutex::new(Seen::default()));
    let shared = Arc::clone(&seen);
    thread::spawn(move || {
        for socket in listener.incoming() {
            shared.lock().unwrap().connections += 1;
            let shared = Arc::clone(&shared);
            // A connection that ends is what most of the rows are about.
            thread::spawn(move || drop(talk(row, &socket.unwrap(), &shared)));
        }
    });
    (port, seen)
}

fn talk(row: &Row, mut socket: &TcpStream, seen: &Mutex<Seen>) -> io::Result<()> {
    let (_, answer, goes_on, ..) = row;
    let mut reader = BufReader::new(socket);
    while let Some(payloads) = read_window(&mut reader)? {
        let ids = payloads.iter().map(|payload| {
            let event: Value = serde_json::from_slice(payload).unwrap();
            event["event"]["id"].as_str().unwrap().to_owned()
        });
        let bad = {
            let mut seen = seen.lock().unwrap();
            seen.windows.push(ids.collect());
            let bad = seen.bad.is_none() && payloads.len() >= BAD_FROM;
            if bad {
                seen.bad = Some(seen.windows.len() - 1);
            }
            bad
        };
        let n = u32::try_from(payloads.len()).unwrap();
        if !bad {
            socket.write_all(&ack(n))?;
            continue;
        }
        // One byte at a time, as a bad network would bring it.
        socket.set_nodelay(true)?;
        for byte in answer(n) {
            socket.write_all(&[byte])?;
        }
        if !goes_on {
            return Ok(());
        }
        while row.0.contains("for ever") {
            socket.write_all(&answer(n).repeat(1000))?;
        }
    }
    Ok(())
}

/// The rows of the table, by their first column.
fn written() -> BTreeSet<&'static str> {
    let (_, clients) = include_str!("../../src/lumberjack/PEERS.md")
        .split_once("# Clients")
        .unwrap();
    let cells = clients.lines().filter_map(|line| line.split(" | ").next());
    cells
        .filter_map(|cell| cell.strip_prefix("| "))
        .filter(|case| *case != "answer")
        .collect()
}

#[test]
fn every_row_of_the_client_table_is_as_written() {
    let servers: Vec<_> = ROWS.iter().map(serve).collect();
    let mut spool = Spool::new(servers[0].0);
    let mut toml = "[spool]\nsettle = \"100ms\"\n".to_owned();
    for (number, (port, _)) in servers.iter().enumerate() {
        toml.push_str(&format!(
            "[output.row{number}]\nkind = \"lumberjack\"\nhosts = [\"127.0.0.1:{port}\"]\npipelining = 1\n\
             timeout = \"2s\"\nack_stall_timeout = \"{}\"\nbackoff = {{ init = \"100ms\", max = \"1s\" }}\n",
            if ROWS[number].0.contains("for ever") { "1s" } else { "5m" }
        ));
    }
    fs::write(spool.root().join("spoolbeat.toml"), toml).unwrap();
    spool.job("job", ONCE, "job.sh", SCRIPT);
    spool.start();
    wait_until(2 * SOON, "every output has all events acknowledged", || {
        let status = spool.status();
        let outputs = status["outputs"].as_array();
        status["totals"]["captured_events"] == 42
            && outputs
                .is_some_and(|outputs| outputs.iter().all(|output| output["acked_events"] == 42))
    });
    spool.stop();
    let log = fs::read_to_string(spool.log()).unwrap();
    let mut wrong = Vec::new();
    let mut table = String::new();
    for ((case, _, _, again, word), (port, seen)) in ROWS.iter().zip(&servers) {
        let seen = seen.lock().unwrap();
        let n = seen.bad.map_or(0, |bad| seen.windows[bad].len());
        let error = log.lines().find(|line| {
            let is_told =
                line.contains("has no connection") || line.contains("did not take a window");
            is_told && line.contains(&format!("127.0.0.1:{port}\""))
        });
        let reason = error.map_or_else(String::new, |line| {
            let line: Value = serde_json::from_str(line).unwrap();
            line["error.message"]
                .as_str()
                .unwrap_or_default()
                .to_owned()
        });
        let expected = match again {
            Again::Nothing => 0,
            Again::All => n,
            Again::AllButFive => n - 5,
        };
        table.push_str(&format!(
            "{case:26} | n {n:2} | again {:2} | connections {} | {reason}\n",
            seen.again(),
            seen.connections
        ));
        let said = word.map_or(error.is_none(), |word| reason.contains(word));
        if n == 0 || seen.again() != expected || seen.distinct() != 42 || !said {
            wrong.push(*case);
        }
    }
    let rows = ROWS.iter().map(|(case, ..)| *case);
    // All answers come in single bytes.
    let tried: BTreeSet<&str> = rows.chain(["ACK in single bytes"]).collect();
    assert_eq!(tried, written(), "the table in PEERS.md");
    drop(writeln!(io::stderr(), "{table}"));
    assert!(
        wrong.is_empty(),
        "not as written: {wrong:?}\n{table}\n{log}"
    );
}
