//! Cutting bytes into lines, with memory bounded by the longest event.
//!
//! A pure machine: chunks in, lines out, and every byte accounted for. Must never know what a
//! line means.

use std::ops::ControlFlow;

/// Room that is kept between two lines for a line that is split over chunks; more is given back.
const CARRY_KEPT_BYTES: usize = 64 << 10;

/// A UTF-8 character's bytes behind its first one, at most.
const UTF8_TAIL_MAX: usize = 3;

/// One line.
///
/// `text.len() + ending + skipped` is exactly what was read for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Line<'a> {
    /// The line without its end; its first `max_event` bytes when it is longer (fewer, where that
    /// would split a UTF-8 character). May be empty: whether that is an event is not decided here.
    pub text: &'a [u8],
    /// Bytes of the line that were cut off behind `text`.
    pub skipped: u64,
    /// Bytes of line ends that are not in `text`: 0 (end of the stream), 1 (LF) or 2 (CR LF) for a
    /// line by itself.
    pub ending: u64,
    /// How many lines of the stream it is: 1, or more when they were joined.
    pub lines: u64,
    /// Whether it was cut since more lines were joined than may be, and not for its length.
    pub is_crowded: bool,
}

/// Cuts one stream into lines, or takes it as one whole.
#[derive(Debug)]
pub struct Lines {
    max_event: usize,
    /// The lines so far of a stream that is one whole.
    whole: Option<u64>,
    /// The beginning of a line whose end has not come yet: at most `max_event` + 1 bytes, the one
    /// more for a CR that is not part of the line, or to see where a character begins.
    carry: Vec<u8>,
    /// How many bytes of that line came after `carry` was full.
    beyond: u64,
    /// The last of those.
    last_beyond: u8,
}

impl Lines {
    /// Cuts lines of at most `max_event` bytes (at least 1); longer ones are cut and say so.
    #[must_use]
    pub fn new(max_event: usize) -> Self {
        Self {
            max_event: max_event.max(1),
            whole: None,
            carry: Vec::new(),
            beyond: 0,
            last_beyond: 0,
        }
    }

    /// Takes the whole stream as if it were one line; what is beyond `max_event` bytes is cut.
    #[must_use]
    pub fn whole(max_event: usize) -> Self {
        Self {
            whole: Some(0),
            ..Self::new(max_event)
        }
    }

    /// A cutter for another stream, with the same limit.
    #[must_use]
    pub fn anew(&self) -> Self {
        Self::new(self.max_event)
    }

    /// Takes a chunk and hands over each line that ends in it, in order. Returns how many of its
    /// bytes were taken: all of them, unless `each` asked to stop after a line (its batch is full);
    /// then the rest is to be pushed again.
    pub fn push(
        &mut self,
        chunk: &[u8],
        mut each: impl FnMut(Line<'_>) -> ControlFlow<()>,
    ) -> usize {
        if let Some(lines) = &mut self.whole {
            *lines += memchr::memchr_iter(b'\n', chunk).count() as u64;
            self.keep(chunk);
            return chunk.len();
        }
        let mut taken = 0;
        while let Some(found) = memchr::memchr(b'\n', &chunk[taken..]) {
            let part = &chunk[taken..taken + found];
            taken += found + 1;
            let flow = if self.carry.is_empty() {
                each(line(part, part.len() as u64, part.last(), self.max_event))
            } else {
                self.keep(part);
                let flow = each(self.carried());
                self.reset();
                flow
            };
            if flow.is_break() {
                return taken;
            }
        }
        self.keep(&chunk[taken..]);
        chunk.len()
    }

    /// Hands over the last line, if the stream did not end with a line's end.
    pub fn finish(&mut self, mut each: impl FnMut(Line<'_>)) {
        if self.carry.is_empty() {
            return;
        }
        let total = self.carry.len() as u64 + self.beyond;
        let ending = match self.whole {
            Some(_) if self.beyond == 0 => line_end(&self.carry) as u64,
            _ => 0,
        };
        let kept = cut(&self.carry, total - ending, self.max_event);
        let last = if self.beyond > 0 {
            Some(&self.last_beyond)
        } else {
            self.carry.last()
        };
        each(Line {
            text: &self.carry[..kept],
            skipped: total - ending - kept as u64,
            ending,
            lines: self.whole.unwrap_or(0) + u64::from(last != Some(&b'\n')),
            is_crowded: false,
        });
        self.reset();
    }

    fn carried(&self) -> Line<'_> {
        let last = if self.beyond > 0 {
            Some(&self.last_beyond)
        } else {
            self.carry.last()
        };
        let total = self.carry.len() as u64 + self.beyond;
        line(&self.carry, total, last, self.max_event)
    }

    fn keep(&mut self, part: &[u8]) {
        let room = self.max_event + 1 - self.carry.len();
        let kept = part.len().min(room);
        let needed = self.carry.len() + kept;
        if needed > self.carry.capacity() {
            let bytes = needed.next_power_of_two().min(self.max_event + 1);
            self.carry.reserve_exact(bytes - self.carry.len());
        }
        self.carry.extend_from_slice(&part[..kept]);
        if let Some(last) = part[kept..].last() {
            self.beyond += (part.len() - kept) as u64;
            self.last_beyond = *last;
        }
    }

    fn reset(&mut self) {
        self.carry.clear();
        self.carry.shrink_to(CARRY_KEPT_BYTES);
        self.beyond = 0;
    }
}

/// The line that ends with an LF behind `total` bytes, of which `start` are the first and `last` the last.
fn line<'a>(start: &'a [u8], total: u64, last: Option<&u8>, max_event: usize) -> Line<'a> {
    let cr = u64::from(last == Some(&b'\r'));
    let content = total - cr;
    let kept = cut(start, content, max_event);
    Line {
        text: &start[..kept],
        skipped: content - kept as u64,
        ending: 1 + cr,
        lines: 1,
        is_crowded: false,
    }
}

/// The bytes of the line end that `text` ends with.
fn line_end(text: &[u8]) -> usize {
    match text {
        [.., b'\r', b'\n'] => 2,
        [.., b'\n'] => 1,
        _ => 0,
    }
}

/// How many bytes of `text` are kept when `room` is all there is; not a part of a UTF-8 character.
pub(super) fn fitting(text: &[u8], room: usize) -> usize {
    if text.len() <= room {
        return text.len();
    }
    (room.saturating_sub(UTF8_TAIL_MAX)..=room)
        .rev()
        .find(|&at| !is_continuation(text[at]))
        .unwrap_or(room)
}

/// How many bytes of a line of `content` bytes are kept; not a part of a UTF-8 character.
fn cut(start: &[u8], content: u64, max_event: usize) -> usize {
    match usize::try_from(content) {
        Ok(content) if content <= max_event => return content,
        _ => {}
    }
    (max_event.saturating_sub(UTF8_TAIL_MAX)..=max_event)
        .rev()
        .find(|&at| at > 0 && !is_continuation(start[at]))
        .unwrap_or(max_event)
}

const fn is_continuation(byte: u8) -> bool {
    byte & 0b1100_0000 == 0b1000_0000
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use proptest::prelude::*;

    type Owned = (Vec<u8>, u64, u64);

    fn cut_all(max_event: usize, chunks: &[&[u8]]) -> Vec<Owned> {
        let mut lines = Lines::new(max_event);
        let mut all = Vec::new();
        for chunk in chunks {
            let taken = lines.push(chunk, |line| {
                all.push((line.text.to_vec(), line.skipped, line.ending));
                ControlFlow::Continue(())
            });
            assert_eq!(taken, chunk.len());
        }
        lines.finish(|line| all.push((line.text.to_vec(), line.skipped, line.ending)));
        all
    }

    fn texts(lines: &[Owned]) -> Vec<&str> {
        lines
            .iter()
            .map(|line| std::str::from_utf8(&line.0).unwrap())
            .collect()
    }

    #[test]
    fn both_kinds_of_line_ends_are_cut_off() {
        let lines = cut_all(100, &[b"a\nb\r\n\r\n\nc\rd\r"]);
        assert_eq!(texts(&lines), ["a", "b", "", "", "c\rd\r"]);
        assert_eq!(
            lines.iter().map(|line| line.2).collect::<Vec<_>>(),
            [1, 2, 2, 1, 0]
        );
    }

    #[test]
    fn a_line_of_just_the_limit_is_not_cut_by_its_crlf() {
        for chunks in [
            vec![b"abcd\r\nxyz\n".as_slice()],
            vec![b"abcd", b"\r", b"\nxyz\n"],
        ] {
            assert_eq!(
                cut_all(4, &chunks),
                [(b"abcd".to_vec(), 0, 2), (b"xyz".to_vec(), 0, 1)]
            );
        }
    }

    #[test]
    fn a_long_line_is_cut_before_a_split_character() {
        let lines = cut_all(4, &["ab\u{20ac}cd\n".as_bytes()]);
        assert_eq!(lines, [(b"ab".to_vec(), 5, 1)]);
        // What is not UTF-8 at all has no boundaries to keep.
        assert_eq!(cut_all(4, &[&[0x80; 9]]), [(vec![0x80; 4], 5, 0)]);
    }

    #[test]
    fn a_line_without_end_takes_no_more_memory_than_the_longest_event() {
        let mut lines = Lines::new(1000);
        let chunk = [b'x'; 4096];
        for _ in 0..10_000 {
            let _taken = lines.push(&chunk, |_| unreachable!("no line has ended"));
        }
        assert!(lines.carry.capacity() <= 1001);
        let mut skipped = 0;
        lines.finish(|line| skipped = line.skipped);
        assert_eq!(skipped, 10_000 * 4096 - 1000);
    }

    #[test]
    fn a_stop_leaves_the_rest_to_be_pushed_again() {
        let mut lines = Lines::new(10);
        let mut seen = Vec::new();
        let chunk = b"one\ntwo\nthree";
        let first = lines.push(chunk, |line| {
            seen.push(line.text.to_vec());
            ControlFlow::Break(())
        });
        assert_eq!(first, 4);
        let rest = lines.push(&chunk[first..], |line| {
            seen.push(line.text.to_vec());
            ControlFlow::Continue(())
        });
        assert_eq!(rest, chunk.len() - 4);
        assert_eq!(seen, [b"one".to_vec(), b"two".to_vec()]);
    }

    #[test]
    fn a_whole_stream_is_one_line_without_its_last_end() {
        let whole = |max_event, chunks: &[&[u8]]| {
            let mut lines = Lines::whole(max_event);
            for chunk in chunks {
                assert_eq!(
                    lines.push(chunk, |_| unreachable!("it has not ended")),
                    chunk.len()
                );
            }
            let mut all = Vec::new();
            lines.finish(|line| {
                all.push((line.text.to_vec(), line.skipped, line.ending, line.lines))
            });
            all
        };
        assert_eq!(
            whole(100, &[b"{\n\"a\":", b"1}\r", b"\n"]),
            [(b"{\n\"a\":1}".to_vec(), 0, 2, 2)]
        );
        assert_eq!(whole(100, &[b"a\nb"]), [(b"a\nb".to_vec(), 0, 0, 2)]);
        assert_eq!(whole(3, &[b"a\nbcd\n"]), [(b"a\nb".to_vec(), 3, 0, 2)]);
        assert_eq!(whole(100, &[b""]), []);
    }

    proptest! {
        #[test]
        fn lines_do_not_depend_on_chunks_and_every_byte_is_counted(
            bytes in proptest::collection::vec(
                prop_oneof![Just(b'\n'), Just(b'\r'), Just(b'a'), Just(0xc3), Just(0xa9), any::<u8>()], 0..200),
            cuts in proptest::collection::vec(1..20_usize, 1..30),
            max_event in 1..12_usize,
        ) {
            let whole = cut_all(max_event, &[&bytes]);
            let mut chunks = Vec::new();
            let mut rest = bytes.as_slice();
            for cut in cuts.iter().cycle() {
                if rest.is_empty() {
                    break;
                }
                let (chunk, after) = rest.split_at((*cut).min(rest.len()));
                chunks.push(chunk);
                rest = after;
            }
            prop_assert_eq!(&whole, &cut_all(max_event, &chunks));
            let read: u64 = whole.iter().map(|line| line.0.len() as u64 + line.1 + line.2).sum();
            prop_assert_eq!(read, bytes.len() as u64);
            for line in &whole {
                prop_assert!(line.0.len() <= max_event);
                prop_assert!(line.1 == 0 || line.0.len() + 3 >= max_event);
            }
        }
    }
}
