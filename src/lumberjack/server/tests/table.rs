//! The table of `PEERS.md`, case by case over a socket: what is written there is what we do.
#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "tests")]

use std::collections::BTreeMap;
use std::fmt::Write;

use super::*;
use crate::protocol::frame::SHORT_BYTES;
use crate::protocol::frame::compressed_head;

/// What stands for the 30 s of the default.
const WINDOW_TIMEOUT: Duration = Duration::from_millis(200);

/// The number of the window that asks whether the connection still stands.
const PROBE: u32 = 77;

/// What the client does when it has sent its bytes.
#[derive(Clone, Copy, PartialEq)]
enum Then {
    /// Sends a window numbered [`PROBE`], which tells whether the connection stands.
    Probes,
    /// Waits.
    Nothing,
    /// Closes its side.
    HalfClose,
}

/// What becomes of whole windows.
#[derive(Clone, Copy, PartialEq)]
enum Taker {
    Takes,
    /// After two keep-alives.
    IsSlow,
    Never,
    Fails,
}

struct Case {
    name: &'static str,
    sent: Vec<Vec<u8>>,
    then: Then,
    taker: Taker,
}

fn v(version: u8, kind: u8, parts: &[u32], rest: &[u8]) -> Vec<u8> {
    let mut frame = vec![version, kind];
    for part in parts {
        frame.extend_from_slice(&part.to_be_bytes());
    }
    frame.extend_from_slice(rest);
    frame
}

fn w(count: u32) -> Vec<u8> {
    v(b'2', b'W', &[count], b"")
}

fn w1(count: u32) -> Vec<u8> {
    v(b'1', b'W', &[count], b"")
}

fn j_of(seq: u32, payload: &[u8]) -> Vec<u8> {
    let len = u32::try_from(payload.len()).unwrap();
    v(b'2', b'J', &[seq, len], payload)
}

fn j(seq: u32) -> Vec<u8> {
    j_of(seq, br#"{"message":"a"}"#)
}

/// `1D` of so many pairs, all alike.
fn d(seq: u32, pairs: u32) -> Vec<u8> {
    let pair = b"\0\0\0\x04line\0\0\0\x01\xff";
    v(b'1', b'D', &[seq, pairs], &pair.repeat(pairs as usize))
}

fn stream(raw: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    Deflater::new(3).deflate(raw, &mut out);
    out
}

fn c_of(stream: &[u8]) -> Vec<u8> {
    let head = compressed_head(u32::try_from(stream.len()).unwrap());
    [&head[..], stream].concat()
}

fn c(frames: &[Vec<u8>]) -> Vec<u8> {
    c_of(&stream(&frames.concat()))
}

fn one(payload: &[u8]) -> Vec<u8> {
    [w(1), j_of(1, payload)].concat()
}

fn deep(depth: usize) -> Vec<u8> {
    let inner = depth - 1;
    format!("{{\"a\":{}{}}}", "[".repeat(inner), "]".repeat(inner)).into_bytes()
}

/// A case per row of the table, in its order.
fn cases() -> Vec<Case> {
    let case = |name, sent: &[Vec<u8>]| Case {
        name,
        sent: sent.to_vec(),
        then: Then::Probes,
        taker: Taker::Takes,
    };
    let all = |parts: &[Vec<u8>]| vec![parts.concat()];
    let taken = |taker, case| Case { taker, ..case };
    let then = |then, case| Case { then, ..case };
    let inner = c(&[c(&[j(1)])]);
    let bomb = format!("{{\"a\":\"{}\"}}", "x".repeat(100 << 20));
    let whole = one(b"{}");
    let mut cases = vec![
        case("W2 J1 J2", &all(&[w(2), j(1), j(2)])),
        case("W2 C(J1 J2)", &all(&[w(2), c(&[j(1), j(2)])])),
        case(
            "W2 J1 J2 W3 J1 J2 J3",
            &all(&[w(2), j(1), j(2), w(3), j(1), j(2), j(3)]),
        ),
        case(
            "W4 C(J1 J2) C(J3 J4)",
            &all(&[w(4), c(&[j(1), j(2)]), c(&[j(3), j(4)])]),
        ),
        case("W3 J1 C(J2 J3)", &all(&[w(3), j(1), c(&[j(2), j(3)])])),
        case("W2 C(W2 J1 J2)", &all(&[w(2), c(&[w(2), j(1), j(2)])])),
        case(
            "C in C, 2 and 3 deep",
            &[[w(1), inner.clone()].concat(), [w(1), c(&[inner])].concat()],
        ),
        then(
            Then::Nothing,
            case("W3 J1 J2, then silence", &all(&[w(3), j(1), j(2)])),
        ),
        case("W3 J1 J2 W2", &all(&[w(3), j(1), j(2), w(2)])),
        case("W2 J1 J2 J3", &all(&[w(2), j(1), j(2), j(3)])),
        case("W2 C(J1 J2 J3)", &all(&[w(2), c(&[j(1), j(2), j(3)])])),
        case("W0", &[w(0)]),
        case("J1 without W", &[j(1)]),
        case("W 10001, W 2^32-1", &[w(10_001), w(u32::MAX)]),
        case("W2 J0 J1", &all(&[w(2), j(0), j(1)])),
        case("W2 J101 J102", &all(&[w(2), j(101), j(102)])),
        case("W2 J7 J7", &all(&[w(2), j(7), j(7)])),
        case("W2 J4294967295 J0", &all(&[w(2), j(u32::MAX), j(0)])),
        case(
            "type `X`; version `3`",
            &[b"2X\0\0\0\x01".to_vec(), b"3W\0\0\0\x01".to_vec()],
        ),
        case(
            "2W 1J; 1W 1J",
            &[
                [w(1), v(b'1', b'J', &[1, 2], b"{}")].concat(),
                [w1(1), v(b'1', b'J', &[1, 2], b"{}")].concat(),
            ],
        ),
        case(
            "2W 1D; 1W 2J; 2W 1C",
            &[
                [w(1), d(1, 1)].concat(),
                [w1(1), j(1)].concat(),
                [w(1), v(b'1', b'C', &[9], b"")].concat(),
            ],
        ),
        case("2W 2D", &all(&[w(1), v(b'2', b'D', &[1, 0], b"")])),
        case("1W2 D D", &all(&[w1(2), d(1, 1), d(2, 2)])),
        case("1W2 C(D D)", &all(&[w1(2), v1(c(&[d(1, 1), d(2, 2)]))])),
        case("1W1 D in two segments", &all(&[w1(1), d(1, 1)])),
        case("1W1 D of 0 pairs", &all(&[w1(1), d(1, 0)])),
        case(
            "1W1 D, a key twice, bytes not UTF-8",
            &all(&[w1(1), d(1, 2)]),
        ),
        case(
            "1W1 D of 2^32-1 pairs, a key of 4 GiB",
            &[
                [w1(1), v(b'1', b'D', &[1, u32::MAX], b"")].concat(),
                [w1(1), v(b'1', b'D', &[1, 1, u32::MAX], b"")].concat(),
            ],
        ),
        case(
            "JSON array, number, text",
            &[one(b"[]"), one(b"1"), one(b"\"{}\"")],
        ),
        case("JSON null", &[one(b"null")]),
        case(
            "J of 0 bytes, bad JSON, NaN",
            &[one(b""), one(b"{,}"), one(b"{\"a\":NaN}")],
        ),
        case("bytes after the object", &[one(b"{}x")]),
        case("invalid UTF-8 in a text", &[one(b"{\"a\":\"\xff\"}")]),
        case(
            "a key twice, `\\u0000`, an empty key",
            &[one(br#"{"a":1,"a":2,"":"\u0000"}"#)],
        ),
        case("1000 deep", &[one(&deep(1_000))]),
        case(
            "1001 deep, 5000 deep",
            &[one(&deep(1_001)), one(&deep(5_000))],
        ),
        case(
            "C of a text of 100 MB",
            &all(&[w(1), c(&[j_of(1, bomb.as_bytes())])]),
        ),
        case(
            "J of 2^31-1 or 2^32-1 bytes",
            &[
                [w(1), v(b'2', b'J', &[1, i32::MAX as u32], b"{")].concat(),
                [w(1), v(b'2', b'J', &[1, u32::MAX], b"{")].concat(),
            ],
        ),
        case(
            "C of gzip, raw deflate, junk",
            &[
                [w(1), c_of(b"\x1f\x8b\x08\0\0\0\0\0\0\x03")].concat(),
                [w(1), c_of(&stream(&j(1))[2..])].concat(),
                [w(1), c_of(b"junk")].concat(),
            ],
        ),
        case(
            "C with bytes behind its stream",
            &all(&[w(1), c_of(&[stream(&j(1)), b"x".to_vec()].concat())]),
        ),
        case("C of 0 bytes", &all(&[w(1), c_of(b"")])),
        case("the client sends A", &[b"2A\0\0\0\x01".to_vec()]),
        case("W3 J1 bad J3", &all(&[w(3), j(1), j_of(2, b"[]"), j(3)])),
        case(
            "HTTP, TLS on a plain port",
            &[
                b"GET / HTTP/1.1\r\n\r\n".to_vec(),
                b"\x16\x03\x01\x02\0\x01".to_vec(),
            ],
        ),
    ];
    cases.extend([
        then(
            Then::HalfClose,
            case(
                "whole window, then half-close",
                std::slice::from_ref(&whole),
            ),
        ),
        then(
            Then::HalfClose,
            case("half-close in a window", &[whole[..9].to_vec()]),
        ),
        case("silence between windows", &[Vec::new()]),
        taken(
            Taker::IsSlow,
            case("a taker that is slow", std::slice::from_ref(&whole)),
        ),
        taken(
            Taker::Never,
            case("a taker that is slow, version 1", &all(&[w1(1), d(1, 1)])),
        ),
        taken(Taker::Fails, case("a taker that fails", &[whole])),
    ]);
    cases
}

/// A `2C` frame as one of version 1.
fn v1(mut frame: Vec<u8>) -> Vec<u8> {
    frame[0] = b'1';
    frame
}

/// Sends `bytes` and says what comes of it, in the words of the table.
async fn observe(case: &Case, bytes: &[u8]) -> String {
    let mut server = Server::start(ServerSettings {
        window_timeout: WINDOW_TIMEOUT,
        keep_alive: match case.taker {
            Taker::IsSlow => Duration::from_millis(2),
            Taker::Takes | Taker::Never | Taker::Fails => KEEP_ALIVE_EVERY,
        },
        ..ServerSettings::default()
    })
    .await;
    let mut client = server.client().await;
    let (first, second) = bytes.split_at(bytes.len().min(20));
    let probe = match case.then {
        Then::Probes => [w(1), j(PROBE)].concat(),
        Then::Nothing | Then::HalfClose => Vec::new(),
    };
    for part in [first, second, &probe] {
        // The server closes on some of them before it has read them all.
        drop(client.0.write_all(part).await);
    }
    if case.then == Then::HalfClose {
        client.0.shutdown().await.unwrap();
    }
    let mut taker = case.taker;
    let mut held: Vec<Delivery> = Vec::new();
    let mut acks: Vec<String> = Vec::new();
    let (mut answer, mut filled) = ([0; SHORT_BYTES], 0);
    loop {
        let end = tokio::select! {
            biased;
            delivery = server.deliveries.recv() => {
                let delivery = delivery.unwrap();
                match taker {
                    Taker::Takes => delivery.done.send(()).unwrap(),
                    Taker::IsSlow | Taker::Never => held.push(delivery),
                    Taker::Fails => drop(delivery),
                }
                continue;
            }
            read = client.0.read(&mut answer[filled..]) => {
                let read = read.unwrap();
                filled += read;
                read == 0
            }
        };
        if end {
            let why = server.tally.last_refused().unwrap_or_default();
            let in_the_end = why.contains("within 200ms");
            acks.push(if in_the_end { "FIN after 30 s" } else { "FIN" }.to_owned());
            return acks.join(", ");
        }
        if filled < SHORT_BYTES {
            continue;
        }
        filled = 0;
        let seq = u32::from_be_bytes(answer[2..].try_into().unwrap());
        if seq == PROBE {
            return match acks.as_slice() {
                [] => "open".to_owned(),
                acks => acks.join(", "),
            };
        }
        assert_eq!(
            answer[..2],
            [bytes[0], b'A'],
            "{}: the ACK's version",
            case.name
        );
        // How many keep-alives come after the second is up to the scheduler.
        if case.taker != Taker::IsSlow || seq > 0 || acks.len() < 2 {
            acks.push(seq.to_string());
        }
        if acks.len() == 2 {
            taker = Taker::Takes;
            for delivery in held.drain(..) {
                delivery.done.send(()).unwrap();
            }
        }
    }
}

/// The second column of the table, by the first.
fn written() -> BTreeMap<&'static str, &'static str> {
    let servers = include_str!("../../PEERS.md")
        .split("# Clients")
        .next()
        .unwrap();
    servers
        .lines()
        .filter_map(|line| {
            let mut cells = line.split(" | ");
            Some((cells.next()?.strip_prefix("| ")?, cells.next()?))
        })
        .filter(|(case, _)| *case != "case")
        .collect()
}

#[tokio::test]
async fn every_case_of_the_table_of_peers_ends_as_it_is_written() {
    let mut written = written();
    let mut table = String::new();
    let mut wrong = Vec::new();
    for case in cases() {
        for bytes in &case.sent {
            let seen = observe(&case, bytes).await;
            writeln!(table, "{:42} {seen}", case.name).unwrap();
            let cell = written
                .get(case.name)
                .copied()
                .unwrap_or("not in the table");
            if cell != seen && !cell.starts_with(&format!("{seen} (")) {
                wrong.push(format!("{}: `{seen}`, but written is `{cell}`", case.name));
            }
        }
        written.remove(case.name);
    }
    println!("{table}");
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
    assert!(written.is_empty(), "not tried: {:?}", written.keys());
}
