#![expect(clippy::unwrap_used, reason = "tests")]
use std::net::SocketAddr;

use super::*;
use crate::event::Frames;
use crate::protocol::frame::plain_window;
use crate::protocol::server::Limits;
use crate::protocol::server::Session;
use crate::protocol::server::Want;

pub(in crate::cli::receive) fn window(events: &[&str]) -> Window {
    let mut frames = Frames::default();
    for event in events {
        frames.push(|out| out.extend_from_slice(event.as_bytes()));
    }
    let mut bytes = Vec::new();
    plain_window(frames.count(), frames.bytes(), &mut bytes);
    let mut session = Session::new(Limits::default());
    let mut input = bytes.as_slice();
    while session.feed(&mut input).unwrap() == Want::Room {
        session.grant(bytes.len());
    }
    session.next_window().unwrap()
}

/// Prints these windows: how it ended, and which windows were answered for.
fn printed(windows: &[&[&str]], look: &Look, out: &mut dyn Write) -> (Printed, Vec<bool>) {
    let (deliver, mut deliveries) = mpsc::channel(windows.len());
    let mut answers = Vec::new();
    for events in windows {
        let (done, taken) = oneshot::channel();
        let delivery = Delivery {
            peer: SocketAddr::from(([127, 0, 0, 1], 1)),
            window: window(events),
            done,
        };
        deliver.try_send(delivery).unwrap();
        answers.push(taken);
    }
    drop(deliver);
    let printed = print(&mut deliveries, out, look);
    drop(deliveries);
    let answers = answers
        .into_iter()
        .map(|mut taken| taken.try_recv().is_ok());
    (printed, answers.collect())
}

fn json(events: &[&str]) -> String {
    let mut out = Vec::new();
    let (printed, answers) = printed(&[events], &Look::Json, &mut out);
    assert_eq!((printed.windows, printed.events), (1, events.len() as u64));
    assert!(matches!(printed.end, End::NoMore));
    assert_eq!(answers, [true]);
    String::from_utf8(out).unwrap()
}

fn short_on(screen: Screen, event: &str) -> String {
    let look = Look::Short {
        zone: Tz::Europe__Berlin,
        screen,
    };
    let mut out = Vec::new();
    printed(&[&[event]], &look, &mut out);
    String::from_utf8(out).unwrap()
}

fn short(event: &str) -> String {
    short_on(Screen::Dumb, event)
}

#[test]
fn events_are_printed_byte_for_byte_one_a_line() {
    let odd = r#"{ "b":1.50, "a":"A\n" , "a":2}"#;
    assert_eq!(json(&["{}", odd]), format!("{{}}\n{odd}\n"));
}

#[test]
fn line_breaks_between_tokens_become_blanks() {
    assert_eq!(
        json(&["{\r\n \"a\": \"x\\ny\"\n}\n"]),
        "{   \"a\": \"x\\ny\" } \n"
    );
}

#[test]
fn raw_events_are_the_bytes_that_came() {
    let mut out = Vec::new();
    printed(&[&["{\n\"a\": 1}", "{}"]], &Look::Raw, &mut out);
    assert_eq!(out, b"{\n\"a\": 1}\n{}\n");
}

#[test]
fn windows_larger_than_the_buffer_are_printed_whole() {
    let event = format!(r#"{{"a":"{}"}}"#, "x".repeat(BUFFER_BYTES / 2));
    let out = json(&[&event, &event, &event, &event, "{}"]);
    assert_eq!(out, format!("{event}\n{event}\n{event}\n{event}\n{{}}\n"));
}

/// Takes so many bytes, then fails.
struct Failing {
    room: usize,
    kind: io::ErrorKind,
}

impl Write for Failing {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = bytes.len().min(self.room);
        self.room -= written;
        if written == 0 {
            return Err(self.kind.into());
        }
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn only_what_was_written_whole_is_answered_for() {
    let windows: [&[&str]; 3] = [&["{}"], &["{}", "{}"], &["{}"]];
    for (kind, broken) in [
        (io::ErrorKind::BrokenPipe, true),
        (io::ErrorKind::StorageFull, false),
    ] {
        let mut out = Failing { room: 7, kind };
        let (printed, answers) = printed(&windows, &Look::Json, &mut out);
        assert_eq!(answers, [true, false, false]);
        assert_eq!((printed.windows, printed.events), (1, 1));
        assert_eq!(matches!(printed.end, End::BrokenPipe), broken);
        assert_eq!(matches!(printed.end, End::Failed(_)), !broken);
    }
}

#[test]
fn people_see_time_job_stream_and_message() {
    assert_eq!(
        short(
            r#"{"@timestamp":"2026-11-21T08:08:08.123Z","job":{"name":"hello","stream":"stdout"},"message":"hi there"}"#
        ),
        "09:08:08 hello stdout | hi there\n"
    );
}

#[test]
fn people_see_the_keys_of_an_event_without_message() {
    assert_eq!(
        short(
            r#"{"@timestamp":"2026-07-21T08:08:08Z","job":{"name":"j","stream":"stdout"},"host":{},"tags":["a"],"user":"bob","n":3,"why":"two words","deep":{"a":[1]}}"#
        ),
        "10:08:08 j stdout | deep={\"a\":[1]} n=3 user=bob why=\"two words\"\n"
    );
    assert_eq!(
        short(r#"{"job":{"name":"j","stream":"run"},"event":{"id":"x","action":"run-end"}}"#),
        "--:--:-- j run | action=run-end\n"
    );
    assert_eq!(
        short(r#"{"message":{"a":1}}"#),
        "--:--:-- - - | {\"a\":1}\n"
    );
    assert_eq!(short("{}"), "--:--:-- - - | \n");
}

#[test]
fn events_of_other_beats_are_shown_with_their_beat() {
    assert_eq!(
        short(r#"{"@timestamp":"soon","agent":{"type":"filebeat"},"message":"m"}"#),
        "--:--:-- filebeat - | m\n"
    );
}

#[test]
fn nothing_in_an_event_commands_the_terminal() {
    let line = short(
        r#"{"job":{"name":"\u001b[2J","stream":"a\nb"},"message":"\u001b]0;x\u0007\r\u009b1m\u202e \u007f"}"#,
    );
    assert_eq!(
        line,
        "--:--:-- \\u{1b}[2J a\\nb | \\u{1b}]0;x\\u{7}\\r\\u{9b}1m\\u{202e} \\u{7f}\n"
    );
    let keys = short(r#"{"\u001b[2J":"\u001b[2J"}"#);
    assert!(!keys.contains('\x1b'), "{keys:?}");
    let deep = format!(
        "{{\"a\":{}\"\\u001b\"{}}}\n",
        "[".repeat(500),
        "]".repeat(500)
    );
    assert_eq!(short(&deep).matches('\n').count(), 1);
}

#[test]
fn long_messages_are_cut() {
    let line = short(&format!(r#"{{"message":"{}"}}"#, "x".repeat(1 << 20)));
    assert!(line.len() < 2_000, "{}", line.len());
}

#[test]
fn a_screen_gets_one_uncut_line_per_event_in_the_jobs_colour() {
    let event = r#"{"job":{"name":"hello","stream":"stderr"},"message":"m"}"#;
    let line = short_on(Screen::Coloured, event);
    let job = format!("\x1b[{}mhello ", line::colour_of("hello"));
    assert_eq!(
        line,
        format!("\x1b[?7l--:--:-- {job}\x1b[31mstderr\x1b[0m | m\x1b[K\x1b[?7h\n")
    );
    assert_eq!(
        short_on(Screen::Monochrome, event),
        "\x1b[?7l--:--:-- hello stderr | m\x1b[K\x1b[?7h\n"
    );
}
