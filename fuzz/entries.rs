//! What each fuzz target does with its input, and what must hold whatever the input is.
//!
//! Compiled into the targets of this folder and into the tests, which replay the corpus on the
//! stable toolchain. Each entry panics when something does not hold.

use std::time::Duration;

use spoolbeat::clock::Tick;
use spoolbeat::event::Frames;
use spoolbeat::protocol::client;
use spoolbeat::protocol::frame;
use spoolbeat::protocol::frame::Deflater;
use spoolbeat::protocol::frame::Version;
use spoolbeat::protocol::server;
use spoolbeat::protocol::server::Want;
use spoolbeat::queue::record::Body;
use spoolbeat::queue::record::StoredEvents;
use spoolbeat::window::Builder;
use spoolbeat::window::Limits;

/// Small, so that inputs of a few hundred bytes meet every limit.
const LIMITS: server::Limits = server::Limits {
    window_events: 50,
    frame_bytes: 2_000,
    window_bytes: 8_000,
};

fn version(first: bool) -> Version {
    if first { Version::V1 } else { Version::V2 }
}

/// The server's session: bytes of a client. Two bytes choose how they come, the rest is what comes;
/// with the first bit set the rest is deflated into a window of one `C` frame first, since no
/// mutation of a zlib stream keeps its checksum.
pub(crate) fn server(input: &[u8]) {
    let [how, step, rest @ ..] = input else {
        return;
    };
    let mut wire = rest.to_vec();
    if how & 1 != 0 {
        wire.clear();
        let count = u32::from(how >> 1);
        let version = version(rest.first() == Some(&b'1'));
        frame::compressed_window(version, count, rest, &mut Deflater::new(1), &mut wire);
    }
    let whole = receive(&wire, wire.len().max(1), LIMITS.window_bytes);
    let cut = receive(
        &wire,
        1 + usize::from(step % 16),
        1 + usize::from(step / 16),
    );
    assert_eq!(whole, cut, "chunks and grants change nothing");
}

/// How a session ended. Which of several faults is seen first depends on the chunks.
#[derive(Debug, PartialEq, Eq)]
enum End {
    BetweenWindows,
    Incomplete,
    Fault,
}

/// What a session made of bytes: its windows as (events, last number), and how it ended.
#[derive(Debug, PartialEq, Eq)]
struct Received {
    windows: Vec<(Vec<Vec<u8>>, u32)>,
    end: End,
}

fn receive(wire: &[u8], chunk: usize, grant: usize) -> Received {
    let mut session = server::Session::new(LIMITS);
    let mut windows = Vec::new();
    for mut bytes in wire.chunks(chunk) {
        loop {
            match session.feed(&mut bytes) {
                Ok(Want::Bytes) => break,
                Ok(Want::Room) => session.grant(grant),
                Ok(Want::Taking) => {
                    let window = session.next_window().expect("a window is complete");
                    let events: Vec<Vec<u8>> = window.events().map(<[u8]>::to_vec).collect();
                    check_events(&events);
                    windows.push((events, window.last_seq()));
                }
                Err(fault) => {
                    assert_eq!(session.feed(&mut &b""[..]), Err(fault.clone()));
                    assert!(!fault.to_string().is_empty());
                    let end = End::Fault;
                    return Received { windows, end };
                }
            }
        }
        assert!(bytes.is_empty(), "all bytes were taken");
    }
    let end = match session.incomplete() {
        Some(_) => End::Incomplete,
        None => End::BetweenWindows,
    };
    Received { windows, end }
}

fn check_events(events: &[Vec<u8>]) {
    assert!((1..=LIMITS.window_events as usize).contains(&events.len()));
    assert!(events.iter().map(Vec::len).sum::<usize>() <= LIMITS.window_bytes);
    for event in events {
        assert!(event.len() <= LIMITS.frame_bytes);
        let text = std::str::from_utf8(event).expect("events are UTF-8");
        let text = text.trim_matches([' ', '\t', '\r', '\n']);
        assert!(
            text.starts_with('{') && text.ends_with('}'),
            "events are objects"
        );
    }
}

/// The client's session: what a server answers, while windows are sent and time passes. The first
/// byte is the pipelining and the version; of the others each says what happens next.
pub(crate) fn client(input: &[u8]) {
    let Some((first, mut rest)) = input.split_first() else {
        return;
    };
    let version = version(first & 8 != 0);
    let settings = client::Settings {
        version,
        pipelining: u32::from(first % 8),
        timeout: Duration::from_millis(100),
        ack_stall_timeout: Duration::from_millis(300),
    };
    let mut now = Tick(0);
    // The second one gets every byte by itself.
    let mut sessions = [(); 2].map(|()| client::Session::new(settings, now));
    let (mut sent, mut acked, mut failed) = (0_u64, 0_u64, false);
    while let Some((&what, after)) = rest.split_first() {
        rest = after;
        match what {
            0..=79 if sessions[0].can_send() => {
                let events = u32::from(what / 4) + 1;
                sessions
                    .iter_mut()
                    .for_each(|session| session.sent(events, now));
                sent += u64::from(events);
            }
            80..=159 => {
                let number = u32::from((what - 80) / 4);
                acked += answer(&mut sessions, &frame::ack_of(version, number), now);
            }
            160..=223 => {
                let (bytes, after) = rest.split_at(usize::from(what % 16).min(rest.len()));
                rest = after;
                acked += answer(&mut sessions, bytes, now);
            }
            224..=239 => sessions.iter_mut().for_each(|session| session.wrote(now)),
            _ => now = now.after(Duration::from_millis(u64::from(what % 16) * 10)),
        }
        let [whole, dripped] = &mut sessions;
        assert_eq!(whole.check(now), dripped.check(now));
        assert!(!failed || whole.check(now).is_err(), "a fault is the end");
        failed = whole.check(now).is_err();
        assert!(!failed || !whole.can_send());
        assert!(acked <= sent, "{acked} acknowledged of {sent} events");
        assert!(whole.in_flight() <= usize::from(first % 8).max(1));
        assert_eq!(whole.in_flight(), dripped.in_flight());
        assert_eq!(whole.deadline(), dripped.deadline());
        assert!(failed || (whole.in_flight() > 0) == (acked < sent));
    }
}

fn answer(sessions: &mut [client::Session; 2], bytes: &[u8], now: Tick) -> u64 {
    let events = |session: &mut client::Session, bytes: &[u8]| {
        let progress = session.received(bytes, now);
        progress.map_or(0, |progress| progress.events)
    };
    let [whole, dripped] = sessions;
    let acked = events(whole, bytes);
    let total: u64 = bytes.chunks(1).map(|byte| events(dripped, byte)).sum();
    assert_eq!(acked, total, "chunks change nothing");
    acked
}

/// The windows that we write: what the input says is to be sent comes out of the server's session.
/// The first byte is the level and the version, the second the length of the events' texts.
pub(crate) fn frame(input: &[u8]) {
    let [how, length, rest @ ..] = input else {
        return;
    };
    let version = version(how & 16 != 0);
    let mut builder = Builder::new(Limits {
        events: 8,
        bytes: 1_000,
        compression_level: u32::from(how % 10),
        format: version.into(),
    });
    let (mut frames, mut expected) = (Frames::default(), Vec::new());
    for text in rest.chunks(1 + usize::from(*length)) {
        let plain = |c: char| {
            if c < ' ' || c == '"' || c == '\\' {
                '.'
            } else {
                c
            }
        };
        let text: String = String::from_utf8_lossy(text).chars().map(plain).collect();
        let event = format!("{{\"message\":\"{text}\"}}").into_bytes();
        frames.push(|out| out.extend_from_slice(&event));
        expected.push(match version {
            Version::V1 => format!("{{\"line\":\"{text}\"}}").into_bytes(),
            Version::V2 => event,
        });
    }
    let bytes = frames.bytes().to_vec();
    assert_eq!(Frames::from_bytes(bytes).as_ref(), Some(&frames));
    let (mut wire, mut from, mut counts) = (Vec::new(), 0, Vec::new());
    while from < frames.count() {
        from += builder.add(&frames, from);
        let window = builder.finish().expect("a window takes at least one event");
        wire.extend_from_slice(&window.bytes);
        counts.push(window.events);
    }
    let received = receive_all(&wire);
    assert_eq!(
        received.iter().map(|(_, last)| *last).collect::<Vec<_>>(),
        counts
    );
    let events: Vec<Vec<u8>> = received
        .into_iter()
        .flat_map(|(events, _)| events)
        .collect();
    assert_eq!(events, expected);
}

fn receive_all(mut wire: &[u8]) -> Vec<(Vec<Vec<u8>>, u32)> {
    let mut session = server::Session::new(server::Limits::default());
    let mut windows = Vec::new();
    loop {
        match session.feed(&mut wire).expect("we write what servers take") {
            Want::Bytes => break,
            Want::Room => session.grant(1 << 16),
            Want::Taking => {
                let window = session.next_window().expect("a window is complete");
                let events = window.events().map(<[u8]>::to_vec).collect();
                windows.push((events, window.last_seq()));
            }
        }
    }
    assert_eq!(session.incomplete(), None);
    windows
}

/// The body of a record of the queue, as if its checksum fitted. The first byte is the number of its
/// events, the next two the length of their frames; the lowest bit of the first says that they are deflated.
pub(crate) fn record(input: &[u8]) {
    let [how, low, high, body @ ..] = input else {
        return;
    };
    let Ok(read) = Body::read(body) else {
        return;
    };
    let stored = StoredEvents {
        bytes: read.events,
        count: u32::from(how >> 1),
        raw_bytes: u32::from(u16::from_le_bytes([*low, *high])),
        zlib: how & 1 != 0,
    };
    let count = stored.count;
    if let Ok(frames) = stored.frames() {
        assert_eq!(frames.count(), count);
        assert_eq!(frames.payloads().count(), count as usize);
    }
}
