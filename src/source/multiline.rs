//! Joining lines that belong together, with Filebeat's rules and names.
//!
//! A pure machine: lines in, joined lines out, every byte accounted for, memory bounded by the
//! longest event. Must never know what a line means or what time it is.

use std::sync::Arc;
use std::time::Duration;

use regex::bytes::Regex;

use crate::source::lines::Line;
use crate::source::lines::fitting;
use crate::units::Timestamp;

/// `multiline` of a stream, checked. Names, defaults and meaning as in Filebeat.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Looked for in each line by itself.
    pub pattern: Regex,
    /// Lines that do not match are those that are joined, instead of those that do.
    pub negate: bool,
    /// What a joined line is joined to.
    pub side: Side,
    /// Most lines of one event; the text of further ones is cut off and counted. Default 500.
    pub max_lines: u64,
    /// An event is complete when no line came for this long. Default 5s.
    pub timeout: Duration,
}

impl PartialEq for Settings {
    fn eq(&self, other: &Self) -> bool {
        self.pattern.as_str() == other.pattern.as_str()
            && (self.negate, self.side, self.max_lines, self.timeout)
                == (other.negate, other.side, other.max_lines, other.timeout)
    }
}

/// What a joined line is joined to: Filebeat's `match`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// To the line before it, like the frames of a Java stack trace.
    After,
    /// To the line after it, like lines that end in a backslash.
    Before,
}

/// Joins the lines of one stream.
#[derive(Debug)]
pub struct Joiner {
    settings: Arc<Settings>,
    max_event: usize,
    text: Vec<u8>,
    /// Nothing more goes into `text`: it must not have holes.
    is_cut: bool,
    /// The first that was cut off had no place among `max_lines`.
    is_crowded: bool,
    lines: u64,
    /// All bytes of the lines, and those that were cut off.
    read: u64,
    skipped: u64,
    /// When the first line was read.
    at: Timestamp,
}

impl Joiner {
    /// Joins to events of at most `max_event` bytes.
    #[must_use]
    pub fn new(settings: Arc<Settings>, max_event: usize) -> Self {
        Self {
            settings,
            max_event,
            text: Vec::new(),
            is_cut: false,
            is_crowded: false,
            lines: 0,
            read: 0,
            skipped: 0,
            at: Timestamp::default(),
        }
    }

    /// How long to wait for a further line.
    #[must_use]
    pub fn timeout(&self) -> Duration {
        self.settings.timeout
    }

    /// Whether no line waits for others.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.lines == 0
    }

    /// Takes a line read `at`; hands over what it completes, if anything.
    pub fn push(&mut self, at: Timestamp, line: Line<'_>, each: impl FnOnce(Timestamp, Line<'_>)) {
        let is_joined = self.settings.pattern.is_match(line.text) != self.settings.negate;
        match (self.settings.side, is_joined) {
            (Side::After, true) | (Side::Before, true) => self.add(at, line),
            (Side::After, false) => {
                self.finish(each);
                self.add(at, line);
            }
            (Side::Before, false) => {
                self.add(at, line);
                self.finish(each);
            }
        }
    }

    /// Hands over what is there: the stream has ended, or nothing came for long enough.
    pub fn finish(&mut self, each: impl FnOnce(Timestamp, Line<'_>)) {
        if self.is_empty() {
            return;
        }
        let text = std::mem::take(&mut self.text);
        let line = Line {
            text: &text,
            skipped: self.skipped,
            ending: self.read - self.skipped - text.len() as u64,
            lines: self.lines,
            is_crowded: self.is_crowded,
        };
        each(self.at, line);
        self.is_cut = false;
        self.is_crowded = false;
        self.lines = 0;
        self.read = 0;
        self.skipped = 0;
    }

    fn add(&mut self, at: Timestamp, line: Line<'_>) {
        if self.lines == 0 {
            self.at = at;
        }
        if !self.is_cut && self.lines >= self.settings.max_lines {
            (self.is_cut, self.is_crowded) = (true, true);
        }
        // The break takes the place of the end of the line before.
        let line_break = usize::from(self.lines > 0);
        let room = self.max_event.saturating_sub(self.text.len() + line_break);
        let kept = match self.is_cut || (room == 0 && !line.text.is_empty()) {
            true => 0,
            false => fitting(line.text, room),
        };
        if !self.is_cut && (kept > 0 || line.text.is_empty()) && self.text.len() < self.max_event {
            self.text.extend_from_slice(&b"\n"[..line_break]);
            self.text.extend_from_slice(&line.text[..kept]);
        }
        let skipped = (line.text.len() - kept) as u64 + line.skipped;
        self.is_cut |= skipped > 0;
        self.skipped += skipped;
        self.read += line.text.len() as u64 + line.skipped + line.ending;
        self.lines += line.lines;
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use proptest::prelude::*;

    fn joiner(pattern: &str, negate: bool, side: Side, max_lines: u64, max: usize) -> Joiner {
        let settings = Settings {
            pattern: Regex::new(pattern).unwrap(),
            negate,
            side,
            max_lines,
            timeout: Duration::from_secs(5),
        };
        Joiner::new(Arc::new(settings), max)
    }

    fn line(text: &[u8]) -> Line<'_> {
        Line {
            text,
            skipped: 0,
            ending: 1,
            lines: 1,
            is_crowded: false,
        }
    }

    fn join(mut joiner: Joiner, lines: &[&str]) -> Vec<String> {
        let mut out = Vec::new();
        let mut take = |_: Timestamp, line: Line<'_>| {
            out.push(String::from_utf8(line.text.to_vec()).unwrap());
        };
        for (n, text) in lines.iter().enumerate() {
            joiner.push(Timestamp(n as i64), line(text.as_bytes()), &mut take);
        }
        joiner.finish(&mut take);
        out
    }

    /// The table of Filebeat's documentation: pattern `^b` over these lines.
    #[test]
    fn the_four_settings_join_as_filebeat_says() {
        for (negate, side, lines, expected) in [
            (
                false,
                Side::After,
                &["a", "b", "b", "a"][..],
                &["a\nb\nb", "a"][..],
            ),
            (
                false,
                Side::Before,
                &["b", "b", "a", "b", "b", "a"],
                &["b\nb\na", "b\nb\na"],
            ),
            (
                true,
                Side::After,
                &["b", "a", "a", "b", "c"],
                &["b\na\na", "b\nc"],
            ),
            (
                true,
                Side::Before,
                &["a", "a", "b", "c", "b"],
                &["a\na\nb", "c\nb"],
            ),
        ] {
            let joined = join(joiner("^b", negate, side, 500, 1 << 20), lines);
            assert_eq!(joined, expected, "negate {negate}, {side:?}");
        }
    }

    /// The vectors of the collector for CloudWatch that this replaces.
    #[test]
    fn a_record_of_three_lines_is_one_event_by_its_first_or_its_last_line() {
        let lines = ["START", "info", "REPORT", "START"];
        let expected = ["START\ninfo\nREPORT", "START"];
        let by_last = joiner("^REPORT", true, Side::Before, 500, 1 << 20);
        assert_eq!(join(by_last, &lines), expected);
        let by_first = joiner("^START", true, Side::After, 500, 1 << 20);
        assert_eq!(join(by_first, &lines), expected);
    }

    #[test]
    fn an_event_has_the_time_of_its_first_line() {
        let mut joiner = joiner(r"^\s", false, Side::After, 500, 1 << 20);
        let mut times = Vec::new();
        for (at, text) in [(5, "a"), (6, " b"), (9, "c")] {
            joiner.push(Timestamp(at), line(text.as_bytes()), |at, line| {
                times.push((at.0, line.lines));
            });
        }
        joiner.finish(|at, line| times.push((at.0, line.lines)));
        assert_eq!(times, [(5, 2), (9, 1)]);
    }

    #[test]
    fn lines_beyond_the_limits_are_cut_and_counted() {
        let mut by_lines = joiner("^ ", false, Side::After, 2, 1 << 20);
        for text in ["a", " b", " c", " d"] {
            by_lines.push(Timestamp(0), line(text.as_bytes()), |_, _| unreachable!());
        }
        by_lines.finish(|_, line| {
            assert_eq!(
                (line.text, line.skipped, line.ending, line.lines),
                (&b"a\n b"[..], 4, 3, 4)
            );
            assert!(line.is_crowded);
        });
        let mut by_bytes = joiner("^ ", false, Side::After, 500, 5);
        for text in ["abc", " defg", " h"] {
            by_bytes.push(Timestamp(0), line(text.as_bytes()), |_, _| unreachable!());
        }
        by_bytes.finish(|_, line| {
            assert_eq!((line.text, line.skipped), (&b"abc\n "[..], 6));
            assert!(!line.is_crowded);
        });
    }

    proptest! {
        #[test]
        fn every_byte_is_text_end_or_cut(
            texts in proptest::collection::vec("[ab \u{e9}]{0,6}", 1..30),
            negate: bool, before: bool, max_lines in 1..6_u64, max in 1..12_usize,
        ) {
            let side = if before { Side::Before } else { Side::After };
            let mut joiner = joiner("^b", negate, side, max_lines, max);
            let (mut read, mut lines, mut given) = (0, 0, 0);
            let mut take = |_: Timestamp, line: Line<'_>| {
                assert!(line.text.len() <= max);
                assert!(std::str::from_utf8(line.text).is_ok() || max < 2);
                read += line.text.len() as u64 + line.skipped + line.ending;
                lines += line.lines;
            };
            for text in &texts {
                given += text.len() as u64 + 1;
                joiner.push(Timestamp(0), line(text.as_bytes()), &mut take);
            }
            joiner.finish(&mut take);
            prop_assert_eq!((read, lines), (given, texts.len() as u64));
        }
    }
}
