#![expect(clippy::unwrap_used, reason = "tests")]
use std::io::Write;

use flate2::Compression;
use flate2::write::ZlibEncoder;
use proptest::prelude::*;

use super::*;
use crate::protocol::frame::compressed_head;
use crate::protocol::frame::window_head;

/// Steps of memory that the tests grant: odd and small, so that every stop is met.
const GRANT: usize = 7;

fn hex(text: &str) -> Vec<u8> {
    (0..text.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap())
        .collect()
}

fn json(seq: u32, payload: &[u8]) -> Vec<u8> {
    let len = u32::try_from(payload.len()).unwrap();
    [
        b"2J".as_slice(),
        &seq.to_be_bytes(),
        &len.to_be_bytes(),
        payload,
    ]
    .concat()
}

/// A `D` frame of these pairs, its version to be set by [`v1`].
fn data(seq: u32, pairs: &[(&[u8], &[u8])]) -> Vec<u8> {
    let count = u32::try_from(pairs.len()).unwrap();
    let mut frame = [b"2D".as_slice(), &seq.to_be_bytes(), &count.to_be_bytes()].concat();
    for text in pairs.iter().flat_map(|(key, value)| [key, value]) {
        frame.extend_from_slice(&u32::try_from(text.len()).unwrap().to_be_bytes());
        frame.extend_from_slice(text);
    }
    frame
}

/// Frames of version 2 as those of version 1, if the payloads have no `2` before a type's letter.
fn v1(frames: &[u8]) -> Vec<u8> {
    let mut frames = frames.to_vec();
    for at in 1..frames.len() {
        if frames[at - 1] == b'2' && b"WDC".contains(&frames[at]) {
            frames[at - 1] = b'1';
        }
    }
    frames
}

fn zlib(raw: &[u8]) -> Vec<u8> {
    let mut encoder = ZlibEncoder::new(Vec::new(), Compression::new(3));
    encoder.write_all(raw).unwrap();
    encoder.finish().unwrap()
}

fn compressed(stream: &[u8]) -> Vec<u8> {
    let len = u32::try_from(stream.len()).unwrap();
    [compressed_head(len).as_slice(), stream].concat()
}

/// What a session made of bytes: its windows as (events, last number), and how it ended.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
struct Seen {
    windows: Vec<(Vec<String>, u32)>,
    fault: Option<Fault>,
    incomplete: Option<(usize, u32)>,
}

impl Seen {
    fn acks(&self) -> Vec<u32> {
        self.windows.iter().map(|(_, last)| *last).collect()
    }
}

fn feed_chunks<'a>(limits: Limits, chunks: impl IntoIterator<Item = &'a [u8]>) -> Seen {
    let mut session = Session::new(limits);
    let mut seen = Seen::default();
    for mut input in chunks {
        loop {
            match session.feed(&mut input) {
                Ok(Want::Bytes) => {
                    assert!(input.is_empty());
                    break;
                }
                Ok(Want::Room) => session.grant(GRANT),
                Ok(Want::Taking) => {
                    let window = session.next_window().unwrap();
                    let events = window.events();
                    assert_eq!(events.len(), window.count());
                    let texts = events.map(|event| String::from_utf8(event.to_vec()).unwrap());
                    seen.windows.push((texts.collect(), window.last_seq()));
                    assert_eq!(session.next_window(), None);
                }
                Err(fault) => {
                    assert_eq!(session.feed(&mut &b"2W"[..]), Err(fault.clone()));
                    seen.fault = Some(fault);
                    return seen;
                }
            }
        }
    }
    seen.incomplete = session.incomplete();
    seen
}

fn feed(bytes: &[u8]) -> Seen {
    feed_chunks(Limits::default(), [bytes])
}

fn faults_with(parts: &[&[u8]]) -> Fault {
    let seen = feed(&parts.concat());
    assert_eq!(seen.windows, [], "no window may come of this");
    seen.fault.unwrap()
}

const A: &str = r#"{"message":"a"}"#;
const B: &str = r#"{"message":"b"}"#;

#[test]
fn the_windows_that_go_lumber_writes_are_taken() {
    let plain = hex(
        "325700000002324a000000010000000f7b226d657373616765223a2261227d324a000000020000000f7b226d657373616765223a2262227d",
    );
    let level_3 = hex(
        "32570000000232430000003f785e003200cdff324a000000010000000f7b226d657373616765223a2261227d324a000000020000000f7b226d657373616765223a2262227d0300f9a70b1b",
    );
    for bytes in [plain, level_3] {
        let seen = feed(&bytes);
        assert_eq!(seen.windows, [(vec![A.to_owned(), B.to_owned()], 2)]);
        assert_eq!((seen.fault, seen.incomplete), (None, None));
    }
}

#[test]
fn the_windows_that_timbersnake_writes_are_taken() {
    for stream in [
        "324300000029789c33f2626060600462816aa5dcd4e2e2c4f454252b05a544a55a23900c13864c92522d000cd50b5d",
        "324300000029785e33f2626060600462816aa5dcd4e2e2c4f454252b05a544a55a23900c13864c92522d000cd50b5d",
    ] {
        let seen = feed(&[hex("325700000002"), hex(stream)].concat());
        let events = vec![
            r#"{"message": "a"}"#.to_owned(),
            r#"{"message": "b"}"#.to_owned(),
        ];
        assert_eq!(seen.windows, [(events, 2)]);
    }
}

#[test]
fn pipelined_windows_are_answered_each() {
    let window = |n: u32| {
        let frames = (1..=n).flat_map(|seq| json(seq, A.as_bytes()));
        [window_head(n).to_vec(), frames.collect()].concat()
    };
    let seen = feed(&[window(2), window(3)].concat());
    assert_eq!((seen.acks(), seen.fault), (vec![2, 3], None));
}

#[test]
fn a_window_may_come_in_several_compressed_and_plain_frames() {
    let two = |seq| zlib(&[json(seq, A.as_bytes()), json(seq + 1, B.as_bytes())].concat());
    let several = [
        window_head(4).to_vec(),
        compressed(&two(1)),
        compressed(&two(3)),
    ];
    assert_eq!(feed(&several.concat()).acks(), [4]);
    let mixed = [
        window_head(3).to_vec(),
        json(1, A.as_bytes()),
        compressed(&two(2)),
    ];
    let seen = feed(&mixed.concat());
    assert_eq!(seen.acks(), [3]);
    assert_eq!(seen.windows[0].0, [A, A, B]);
}

#[test]
fn the_ack_is_the_number_of_the_last_frame() {
    for (numbers, ack) in [
        ([1, 2], 2),
        ([0, 1], 1),
        ([101, 102], 102), // numbered on across windows
        ([7, 7], 7),
        ([u32::MAX, 0], 0),
    ] {
        let frames = numbers.map(|seq| json(seq, A.as_bytes())).concat();
        assert_eq!(feed(&[&window_head(2)[..], &frames].concat()).acks(), [ack]);
    }
}

#[test]
fn version_1_becomes_objects_and_is_answered_in_version_1() {
    // Vector: `1W 2`, `1D` {line: hello, host: h1}, and the same with a key twice.
    let plain = hex(
        "31570000000231440000000100000002000000046c696e650000000568656c6c6f00000004686f7374000000026831",
    );
    let twice = v1(&data(2, &[(b"b", b"1"), (b"a", b"\xff\"\n"), (b"b", b"2")]));
    let seen = feed(&[&plain[..], &twice].concat());
    let events = vec![
        r#"{"host":"h1","line":"hello"}"#.to_owned(),
        "{\"a\":\"\u{fffd}\\\"\\n\",\"b\":\"2\"}".to_owned(),
    ];
    assert_eq!(seen.windows, [(events.clone(), 2)]);
    let inside = compressed(&zlib(&[&plain[6..], &twice].concat()));
    let bytes = [
        v1(&window_head(2)),
        v1(&inside),
        v1(&window_head(1)),
        v1(&data(9, &[])),
    ];
    let seen = feed(&bytes.concat());
    assert_eq!(seen.windows, [(events, 2), (vec!["{}".to_owned()], 9)]);
    let mut session = Session::new(Limits::default());
    let mut input = plain.as_slice();
    while session.feed(&mut input).unwrap() == Want::Room {
        session.grant(GRANT);
    }
    let mut input = twice.as_slice();
    while session.feed(&mut input).unwrap() != Want::Taking {
        session.grant(GRANT);
    }
    assert_eq!(session.next_window().unwrap().version(), Version::V1);
}

#[test]
fn all_frames_of_a_window_are_of_its_version() {
    let (two, one) = (window_head(1), v1(&window_head(1)));
    let v1_event = v1(&data(1, &[(b"a", b"b")]));
    let mixed = |window, frame: &[u8; 2]| Fault::MixedVersions {
        window,
        frame: *frame,
    };
    for (parts, fault) in [
        ([&two[..], &v1_event], mixed(Version::V2, b"1D")),
        ([&one, &json(1, b"{}")], mixed(Version::V1, b"2J")),
        ([&two, &v1(&compressed_head(9))], mixed(Version::V2, b"1C")),
        (
            [&two, &compressed(&zlib(&v1_event))],
            mixed(Version::V2, b"1D"),
        ),
        ([&two, &data(1, &[])], Fault::DataFrame),
        ([&two, b"1J\0\0\0\x01\0\0\0\x02{}"], Fault::JsonFrame),
        ([&one, b"1J\0\0\0\x01\0\0\0\x02{}"], Fault::JsonFrame),
    ] {
        assert_eq!(faults_with(&parts), fault);
    }
    // Each window may be of another.
    let both = [&one[..], &v1_event, &two, &json(1, b"{}")].concat();
    assert_eq!(feed(&both).acks(), [1, 1]);
}

#[test]
fn announced_pairs_and_strings_cost_no_memory() {
    let head = v1(&window_head(1));
    let event = |announced: u32, rest: &[u8]| {
        let count = announced.to_be_bytes();
        [b"1D\0\0\0\x01".as_slice(), &count, rest].concat()
    };
    for announced in [data::PAIRS_MAX + 1, u32::MAX] {
        let limit = data::PAIRS_MAX;
        let fault = Fault::TooManyPairs { announced, limit };
        assert_eq!(faults_with(&[&head, &event(announced, b"")]), fault);
    }
    for length in [u32::MAX, FRAME_BYTES_MAX as u32 - 3] {
        let fault = Fault::FrameTooLarge {
            announced: length as usize + 4,
            limit: FRAME_BYTES_MAX,
        };
        assert_eq!(
            faults_with(&[&head, &event(1, &length.to_be_bytes())]),
            fault
        );
    }
    let mut session = Session::new(Limits::default());
    let bytes = [
        &head[..],
        &event(10_000, &9_000_000_u32.to_be_bytes()),
        b"x",
    ]
    .concat();
    let mut input = bytes.as_slice();
    assert_eq!(session.feed(&mut input), Ok(Want::Room));
    session.grant(4_096);
    assert_eq!(session.feed(&mut input), Ok(Want::Bytes));
    assert!(session.open.as_ref().unwrap().window.bytes.capacity() <= 4_096);
}

#[test]
fn an_empty_window_is_ignored() {
    let bytes = [
        &window_head(0)[..],
        &window_head(0),
        &window_head(1),
        &json(1, A.as_bytes()),
    ];
    let seen = feed(&bytes.concat());
    assert_eq!((seen.acks(), seen.fault), (vec![1], None));
}

#[test]
fn a_window_without_all_its_events_is_not_given_out() {
    let seen = feed(&[&window_head(3)[..], &json(1, b"{}"), &json(2, b"{}")].concat());
    assert_eq!((seen.acks(), seen.incomplete), (vec![], Some((2, 3))));
    let fault = faults_with(&[&window_head(2), &json(1, b"{}"), &window_head(1)]);
    assert_eq!(
        fault,
        Fault::WindowInWindow {
            come: 1,
            announced: 2
        }
    );
}

#[test]
fn more_events_than_announced_are_refused() {
    let seen = feed(&[&window_head(1)[..], &json(1, b"{}"), &json(2, b"{}")].concat());
    assert_eq!((seen.acks(), seen.fault), (vec![1], Some(Fault::NoWindow)));
    let two = zlib(&[json(1, b"{}"), json(2, b"{}")].concat());
    assert_eq!(
        faults_with(&[&window_head(1), &compressed(&two)]),
        Fault::TooManyFrames(1)
    );
}

#[test]
fn events_outside_of_a_window_are_refused() {
    assert_eq!(faults_with(&[&json(1, b"{}")]), Fault::NoWindow);
    let one = compressed(&zlib(&json(1, b"{}")));
    assert_eq!(faults_with(&[&one]), Fault::NoWindow);
}

#[test]
fn frames_that_must_not_be_compressed_are_refused() {
    let inner = compressed(&zlib(&json(1, b"{}")));
    assert_eq!(
        faults_with(&[&window_head(1), &compressed(&zlib(&inner))]),
        Fault::Nested
    );
    let window = [&window_head(1)[..], &json(1, b"{}")].concat();
    assert_eq!(
        faults_with(&[&window_head(1), &compressed(&zlib(&window))]),
        Fault::WindowInCompressed
    );
    assert_eq!(
        faults_with(&[
            &window_head(1),
            &compressed(&zlib(b"1J\x00\x00\x00\x01\x00\x00\x00\x02{}"))
        ]),
        Fault::JsonFrame
    );
}

#[test]
fn damaged_compressed_frames_are_refused() {
    let good = zlib(&json(1, A.as_bytes()));
    let head = window_head(1);
    let mut wrong_sum = good.clone();
    *wrong_sum.last_mut().unwrap() ^= 1;
    for (stream, fault) in [
        (wrong_sum, Fault::Zlib),
        (b"junk, not zlib".to_vec(), Fault::Zlib),
        (good[2..].to_vec(), Fault::Zlib),          // raw deflate
        (hex("1f8b0800000000000003"), Fault::Zlib), // gzip
        ([&good[..], b"xyz"].concat(), Fault::ZlibTrailing(3)),
        (good[..good.len() - 1].to_vec(), Fault::ZlibShort),
        (Vec::new(), Fault::ZlibShort),
        (zlib(&json(1, A.as_bytes())[..20]), Fault::CutFrame),
        (zlib(b"2"), Fault::CutFrame),
        (zlib(b"xy"), Fault::Unknown(*b"xy")),
        (zlib(b"x"), Fault::CutFrame),
    ] {
        assert_eq!(faults_with(&[&head, &compressed(&stream)]), fault);
    }
}

#[test]
fn other_protocols_are_named() {
    for (bytes, fault, word) in [
        (b"GET / HTTP/1.1\r\n".as_slice(), Fault::Http, "HTTP"),
        (b"POST / HTTP/1.1\r\n", Fault::Http, "HTTP"),
        (b"\x16\x03\x01\x02\x00\x01", Fault::Tls, "TLS"),
        (b"1J\x00\x00\x00\x01", Fault::JsonFrame, "version 1"),
        (b"1A\x00\x00\x00\x01", Fault::ClientAck, "ACK"),
        (b"2D\x00\x00\x00\x01", Fault::DataFrame, "`D`"),
        (b"2A\x00\x00\x00\x01", Fault::ClientAck, "ACK"),
        (b"hello\n", Fault::Unknown(*b"he"), "`he`"),
        (b"3W\x00\x00\x00\x01", Fault::Unknown(*b"3W"), "`3W`"),
        (b"2X\x00\x00\x00\x01", Fault::Unknown(*b"2X"), "`2X`"),
    ] {
        assert_eq!(faults_with(&[bytes]), fault);
        assert!(fault.to_string().contains(word), "{fault}");
    }
    let fault = faults_with(&[&window_head(1), b"GET / HTTP/1.1"]);
    assert_eq!(fault, Fault::Unknown(*b"GE"), "only a first byte tells");
}

#[test]
fn payloads_that_are_not_json_objects_are_refused() {
    for payload in [
        b"".as_slice(),
        b" ",
        b"[]",
        b"1",
        b"null",
        b"\"{}\"",
        b"\xef\xbb\xbf{}",
    ] {
        let fault = faults_with(&[&window_head(2), &json(1, b"{}"), &json(2, payload)]);
        assert_eq!(fault, Fault::NotAnObject(2), "{payload:?}");
    }
    for payload in [
        b"{".as_slice(),
        b"{}x",
        b"{} {}",
        b"{\"a\":NaN}",
        b"{\"a\":\"\x01\"}",
        b"{\"a\":\"\n\"}",
    ] {
        let fault = faults_with(&[&window_head(1), &json(1, payload)]);
        assert!(
            matches!(fault, Fault::NotJson { number: 1, .. }),
            "{payload:?}"
        );
    }
    let fault = faults_with(&[&window_head(1), &json(1, b"{\"a\":\"\xff\"}")]);
    assert_eq!(fault, Fault::NotUtf8(1));
    let inside = compressed(&zlib(&json(1, b"[]")));
    assert_eq!(
        faults_with(&[&window_head(1), &inside]),
        Fault::NotAnObject(1)
    );
}

#[test]
fn unusual_objects_are_taken_as_they_are() {
    let deep = format!("{{\"a\":{}{}}}", "[".repeat(999), "]".repeat(999));
    for payload in [
        "{}",
        " {\n\"a\": 1}\r\n",
        r#"{"a":1,"a":2,"":"\u0000"}"#,
        r#"{"a":"\ud800","b":1e999}"#,
        &deep,
    ] {
        let seen = feed(&[&window_head(1)[..], &json(1, payload.as_bytes())].concat());
        assert_eq!(seen.windows, [(vec![payload.to_owned()], 1)]);
    }
}

#[test]
fn windows_beyond_the_limit_are_refused_when_they_are_announced() {
    for announced in [10_001, u32::MAX] {
        let fault = faults_with(&[&window_head(announced)]);
        assert_eq!(
            fault,
            Fault::WindowTooLarge {
                announced,
                limit: 10_000
            }
        );
    }
    assert_eq!(
        feed(&window_head(10_000)).incomplete,
        Some((0, 10_000)),
        "and nothing is kept for it"
    );
}

#[test]
fn events_beyond_the_limit_are_refused_when_they_are_announced() {
    let limit = FRAME_BYTES_MAX;
    for announced in [limit as u32 + 1, i32::MAX as u32, u32::MAX] {
        let head = [&json(1, b"")[..6], &announced.to_be_bytes()].concat();
        let expected = Fault::FrameTooLarge {
            announced: announced as usize,
            limit,
        };
        assert_eq!(faults_with(&[&window_head(1), &head]), expected);
        let inside = compressed(&zlib(&head));
        assert_eq!(faults_with(&[&window_head(1), &inside]), expected);
    }
}

#[test]
fn announced_lengths_cost_no_memory() {
    let mut session = Session::new(Limits::default());
    let head = [&json(1, b"")[..6], &9_000_000_u32.to_be_bytes()].concat();
    let bytes = [&window_head(10_000)[..], &head, b"{"].concat();
    let mut input = bytes.as_slice();
    assert_eq!(session.feed(&mut input), Ok(Want::Room));
    session.grant(4_096);
    assert_eq!(session.feed(&mut input), Ok(Want::Bytes));
    let window = &session.open.as_ref().unwrap().window;
    assert!(window.bytes.capacity() <= 4_096 && window.places.capacity() == 0);
}

fn small() -> Limits {
    Limits {
        window_events: 100,
        frame_bytes: 1_000,
        window_bytes: 2_000,
    }
}

/// `{"a":"xxx"}`, so many bytes long.
fn object(bytes: usize) -> Vec<u8> {
    [b"{\"a\":\"", "x".repeat(bytes - 8).as_bytes(), b"\"}"].concat()
}

#[test]
fn a_window_is_limited_to_the_byte_plain_and_inflated() {
    let first = json(1, &object(990)); // 1,000 bytes with its head
    let exactly = [first.clone(), json(2, &object(990))].concat();
    let beyond = [first, json(2, &object(991))].concat();
    let refused = Some(Fault::WindowBytes(2_000));
    let head = window_head(2);
    let deflated = |raw: &[u8]| [&head[..], &compressed(&zlib(raw))].concat();
    assert_eq!(
        feed_chunks(small(), [deflated(&exactly).as_slice()]).acks(),
        [2]
    );
    assert_eq!(
        feed_chunks(small(), [deflated(&beyond).as_slice()]).fault,
        refused
    );
    let plain = |frames: &[u8]| [&head[..], frames].concat();
    assert_eq!(
        feed_chunks(small(), [plain(&exactly).as_slice()]).acks(),
        [2]
    );
    assert_eq!(
        feed_chunks(small(), [plain(&beyond).as_slice()]).fault,
        refused
    );
    // Pairs are counted as they come, and as the object that is made of them.
    let pairs = |seq, bytes: usize| data(seq, &[(b"a", &vec![b'x'; bytes - 19])]);
    let window = |frames: &[Vec<u8>]| [v1(&head), v1(&frames.concat())].concat();
    let fits = window(&[pairs(1, 1_000), pairs(2, 1_000)]);
    assert_eq!(feed_chunks(small(), [fits.as_slice()]).acks(), [2]);
    let beyond = window(&[pairs(1, 1_000), pairs(2, 1_001)]);
    assert_eq!(feed_chunks(small(), [beyond.as_slice()]).fault, refused);
    let swells = window(&[data(1, &[(b"a", &[1; 300])])]);
    let fault = Fault::FrameTooLarge {
        announced: 1_808,
        limit: 1_000,
    };
    assert_eq!(feed_chunks(small(), [swells.as_slice()]).fault, Some(fault));
}

#[test]
fn a_zlib_bomb_is_stopped_while_it_inflates() {
    // 64 valid events of a million blanks each, in about 64 kB.
    let event = [b"{", " ".repeat(1_000_000).as_bytes(), b"}"].concat();
    let raw: Vec<u8> = (1..=64).flat_map(|seq| json(seq, &event)).collect();
    let bytes = [&window_head(64)[..], &compressed(&zlib(&raw))].concat();
    let limits = Limits {
        window_bytes: 2 << 20,
        ..Limits::default()
    };
    let mut session = Session::new(limits);
    let mut input = bytes.as_slice();
    let fault = loop {
        match session.feed(&mut input) {
            Ok(Want::Room) => session.grant(4_096),
            Ok(want) => panic!("{want:?}"),
            Err(fault) => break fault,
        }
    };
    assert_eq!(fault, Fault::WindowBytes(2 << 20));
    assert!(input.len() > bytes.len() / 2, "most was never inflated");
    let held = session.open.as_ref().unwrap().window.bytes.capacity();
    assert!(held <= 2 << 20, "{held}");
}

#[test]
fn a_compressed_frame_beyond_the_windows_limit_is_refused_when_it_is_announced() {
    let bytes = [window_head(1), compressed_head(u32::MAX)].concat();
    assert_eq!(
        feed(&bytes).fault,
        Some(Fault::WindowBytes(WINDOW_BYTES_MAX))
    );
}

/// A session with everything in it that is taken, and a fault at its end.
fn recorded() -> Vec<u8> {
    let many: Vec<u8> = (1..=50)
        .flat_map(|seq| json(seq, format!("{{\"n\":{}}}", seq * 7919).as_bytes()))
        .collect();
    [
        window_head(2).to_vec(),
        json(1, A.as_bytes()),
        json(2, B.as_bytes()),
        window_head(0).to_vec(),
        window_head(50).to_vec(),
        compressed(&zlib(&many)),
        window_head(3).to_vec(),
        json(3, b"{}"),
        compressed(&zlib(&[json(4, A.as_bytes()), json(9, b"{}")].concat())),
        window_head(1).to_vec(),
        json(1, A.as_bytes()),
        v1(&window_head(3)),
        v1(&data(1, &[(b"line", b"one\x01"), (b"", b"")])),
        v1(&compressed(&zlib(&v1(&[
            data(2, &[]),
            data(3, &[(b"k", b"\x01")]),
        ]
        .concat())))),
        window_head(2).to_vec(),
        json(1, b"{}"),
        b"2X".to_vec(),
    ]
    .concat()
}

#[test]
fn a_session_cut_in_two_at_any_byte_says_the_same() {
    let bytes = recorded();
    let whole = feed(&bytes);
    assert_eq!(whole.acks(), [2, 50, 9, 1, 3]);
    assert_eq!(whole.fault, Some(Fault::Unknown(*b"2X")));
    for cut in 0..=bytes.len() {
        let (left, right) = bytes.split_at(cut);
        assert_eq!(
            feed_chunks(Limits::default(), [left, right]),
            whole,
            "cut at {cut}"
        );
    }
    assert_eq!(
        feed_chunks(Limits::default(), bytes.chunks(1)),
        whole,
        "one byte at a time"
    );
}

#[test]
fn a_session_that_ends_at_any_byte_gives_out_only_complete_windows() {
    let bytes = recorded();
    let whole = feed(&bytes);
    for cut in 0..bytes.len() {
        let seen = feed(&bytes[..cut]);
        assert!(whole.windows.starts_with(&seen.windows), "cut at {cut}");
        assert_eq!(seen.fault, None, "cut at {cut}");
    }
}

proptest! {
    #[test]
    fn chunks_do_not_change_what_is_said(sizes in proptest::collection::vec(1_usize..90, 1..60)) {
        let bytes = recorded();
        let mut rest = bytes.as_slice();
        let mut chunks = Vec::new();
        for size in sizes.iter().cycle() {
            if rest.is_empty() {
                break;
            }
            let (now, later) = rest.split_at((*size).min(rest.len()));
            chunks.push(now);
            rest = later;
        }
        prop_assert_eq!(feed_chunks(Limits::default(), chunks), feed(&bytes));
    }

    #[test]
    fn pairs_become_the_object_of_them(
        pairs in proptest::collection::vec(("\\PC{0,9}", "(?s).{0,30}"), 0..9),
        size in 1_usize..40,
    ) {
        let raw: Vec<(&[u8], &[u8])> = pairs
            .iter()
            .map(|(key, value)| (key.as_bytes(), value.as_bytes()))
            .collect();
        let mut frame = data(3, &raw);
        frame[0] = b'1';
        let bytes = [v1(&window_head(1)), frame].concat();
        let seen = feed_chunks(Limits::default(), bytes.chunks(size));
        prop_assert_eq!(seen.acks(), [3]);
        let object: serde_json::Value = serde_json::from_str(&seen.windows[0].0[0]).unwrap();
        let wanted: serde_json::Map<String, serde_json::Value> = pairs
            .iter()
            .map(|(key, value)| (key.clone(), value.clone().into()))
            .collect();
        prop_assert_eq!(object, serde_json::Value::Object(wanted));
    }

    #[test]
    fn damage_never_panics_and_never_changes_windows_before_it(
        at in 0_usize..750,
        value: u8,
    ) {
        let mut bytes = recorded();
        let at = at.min(bytes.len() - 1);
        bytes[at] = value;
        let seen = feed(&bytes);
        let before = feed(&recorded()[..at]);
        prop_assert!(seen.windows.starts_with(&before.windows));
    }
}
