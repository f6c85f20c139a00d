//! The window builder: what lies in the queue becomes what a Lumberjack server reads.
//!
//! Sending the stored bytes as they lie is its short cut, when a record is exactly one window;
//! else records are joined, cut, numbered anew and deflated once. Pure. Knows nothing of
//! connections and of where records come from. For what is no server, a window is lines of JSON.

use crate::event::Frames;
use crate::protocol::frame;
use crate::protocol::frame::Deflater;
use crate::protocol::frame::Version;
use crate::protocol::pairs;
use crate::queue::record::StoredEvents;

/// Most bytes of one window, inflated, if nothing else is set: well under Graylog's 16 MiB frames
/// and 64 MiB inflated.
pub const WINDOW_BYTES_MAX: usize = 8 << 20;

/// From this size on, inflated, a window is full enough: half of the largest batch that is stored by default.
const WINDOW_BYTES_FILLED: usize = 512 << 10;

/// What a window may hold and how it is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Most events.
    pub events: u32,
    /// Most bytes, inflated. An event larger than this goes alone.
    pub bytes: usize,
    /// zlib level 0..=9; 0 sends plain frames in version 2, and stored blocks in version 1.
    pub compression_level: u32,
    /// What it is made of.
    pub format: Format,
}

/// What a window is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// Frames of protocol version 1.
    V1,
    /// Frames of protocol version 2.
    V2,
    /// One JSON object a line, for files and pipes.
    Lines,
}

impl From<Version> for Format {
    fn from(version: Version) -> Self {
        match version {
            Version::V1 => Self::V1,
            Version::V2 => Self::V2,
        }
    }
}

/// A window, ready for the wire.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Window {
    /// `W n` and its frames, or lines.
    pub bytes: Vec<u8>,
    /// How many events.
    pub events: u32,
}

/// Builds one window after the other.
#[derive(Debug)]
pub struct Builder {
    limits: Limits,
    deflater: Deflater,
    /// The frames of the next window, numbered 1..=count, or its lines.
    frames: Vec<u8>,
    count: u32,
}

impl Builder {
    /// A builder with nothing in it.
    #[must_use]
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            deflater: Deflater::new(limits.compression_level),
            frames: Vec::new(),
            count: 0,
        }
    }

    /// From now on windows hold at most so many events.
    pub const fn hold(&mut self, events: u32) {
        self.limits.events = events;
    }

    /// Whether nothing waits to become a window.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Whether these stored events are a window just as they lie.
    #[must_use]
    pub fn fits_as_it_lies(&self, count: u32, raw_bytes: u32, zlib: bool) -> bool {
        self.limits.format == Format::V2
            && zlib == (self.limits.compression_level > 0)
            && count <= self.limits.events
            && raw_bytes as usize <= self.limits.bytes
    }

    /// Whether so many events of so many bytes are a window that joining would hardly make fuller.
    #[must_use]
    pub fn is_filled_by(&self, count: u32, raw_bytes: u32) -> bool {
        count >= self.limits.events / 2
            || raw_bytes as usize >= WINDOW_BYTES_FILLED.min(self.limits.bytes / 2)
    }

    /// The window of stored events that fit as they lie.
    #[must_use]
    pub fn as_it_lies(stored: &StoredEvents) -> Window {
        let mut bytes = Vec::with_capacity(stored.bytes.len() + 2 * frame::SHORT_BYTES);
        if stored.zlib {
            bytes.extend_from_slice(&frame::window_head(stored.count));
            let len = u32::try_from(stored.bytes.len()).expect("a record's body is at most 32 MiB");
            bytes.extend_from_slice(&frame::compressed_head(len));
            bytes.extend_from_slice(&stored.bytes);
        } else {
            frame::plain_window(stored.count, &stored.bytes, &mut bytes);
        }
        Window {
            bytes,
            events: stored.count,
        }
    }

    /// Adds events of `frames` from number `from` (0 is the first) until the window is full.
    /// Returns how many it took.
    pub fn add(&mut self, frames: &Frames, from: u32) -> u32 {
        let mut taken = 0;
        for payload in frames.payloads().skip(from as usize) {
            if self.count >= self.limits.events {
                break;
            }
            let end = self.frames.len();
            match self.limits.format {
                Format::V1 => pairs::data_frame(self.count + 1, payload, &mut self.frames),
                Format::V2 => frame::json_frame(self.count + 1, payload, &mut self.frames),
                Format::Lines => line(payload, &mut self.frames),
            }
            if self.frames.len() > self.limits.bytes && self.count > 0 {
                self.frames.truncate(end);
                break;
            }
            self.count += 1;
            taken += 1;
        }
        taken
    }

    /// Forgets what was added since the last window.
    pub fn clear(&mut self) {
        self.frames.clear();
        self.count = 0;
    }

    /// The window of everything added since the last one; `None` when there is nothing.
    pub fn finish(&mut self) -> Option<Window> {
        if self.is_empty() {
            return None;
        }
        let frames = std::mem::take(&mut self.frames);
        let count = std::mem::take(&mut self.count);
        let mut bytes = Vec::new();
        let mut compressed = |version| {
            frame::compressed_window(version, count, &frames, &mut self.deflater, &mut bytes);
        };
        match self.limits.format {
            Format::V1 => compressed(Version::V1),
            Format::V2 if self.limits.compression_level > 0 => compressed(Version::V2),
            Format::V2 => frame::plain_window(count, &frames, &mut bytes),
            Format::Lines => bytes = frames,
        }
        Some(Window {
            bytes,
            events: count,
        })
    }
}

/// Writes a JSON object on one line: line ends between its tokens, as they come from other Beats,
/// become blanks. In strings there are none: JSON escapes them.
fn line(payload: &[u8], out: &mut Vec<u8>) {
    out.extend(payload.iter().map(|byte| match byte {
        b'\n' | b'\r' => b' ',
        other => *other,
    }));
    out.push(b'\n');
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use crate::protocol::server;

    fn limits(events: u32, level: u32) -> Limits {
        Limits {
            events,
            bytes: 1 << 20,
            compression_level: level,
            format: Format::V2,
        }
    }

    fn frames(count: u32) -> Frames {
        let mut frames = Frames::default();
        for n in 0..count {
            frames.push(|out| out.extend_from_slice(format!("{{\"n\":{n}}}").as_bytes()));
        }
        frames
    }

    fn received(window: &Window) -> (u32, u32) {
        let mut session = server::Session::new(server::Limits::default());
        let mut bytes = window.bytes.as_slice();
        while session.feed(&mut bytes).unwrap() == server::Want::Room {
            session.grant(1 << 20);
        }
        let got = session.next_window().unwrap();
        (got.count() as u32, got.last_seq())
    }

    #[test]
    fn joined_windows_are_full_and_numbered_from_one() {
        for level in [0, 3] {
            let mut builder = Builder::new(limits(5, level));
            let events = frames(3);
            assert_eq!(builder.add(&events, 0), 3);
            assert_eq!(
                builder.add(&events, 0),
                2,
                "the rest belongs to the next window"
            );
            assert_eq!(received(&builder.finish().unwrap()), (5, 5));
            assert_eq!(builder.add(&events, 2), 1);
            assert_eq!(received(&builder.finish().unwrap()), (1, 1));
            assert!(builder.finish().is_none());
        }
    }

    #[test]
    fn an_event_larger_than_a_window_goes_alone() {
        let mut builder = Builder::new(limits(100, 3));
        let mut big = frames(1);
        big.push(|out| {
            out.extend_from_slice(b"{\"m\":\"");
            out.resize(out.len() + (1 << 20), b'x');
            out.extend_from_slice(b"\"}");
        });
        assert_eq!(builder.add(&big, 0), 1);
        assert_eq!(builder.finish().unwrap().events, 1);
        assert_eq!(builder.add(&big, 1), 1);
        assert_eq!(builder.finish().unwrap().events, 1);
    }

    #[test]
    fn a_stored_batch_is_sent_as_it_lies() {
        let events = frames(2000);
        let raw_bytes = events.bytes().len() as u32;
        let bytes = crate::queue::batch::deflate(events.bytes(), 3).unwrap();
        let stored = StoredEvents {
            bytes,
            count: 2000,
            raw_bytes,
            zlib: true,
        };
        let builder = Builder::new(limits(2048, 3));
        assert!(builder.fits_as_it_lies(stored.count, stored.raw_bytes, stored.zlib));
        assert!(!builder.fits_as_it_lies(2049, raw_bytes, true));
        assert_eq!(received(&Builder::as_it_lies(&stored)), (2000, 2000));
    }

    #[test]
    fn the_byte_cap_closes_a_window_before_the_event_that_would_break_it() {
        for format in [Format::V1, Format::V2, Format::Lines] {
            let mut builder = Builder::new(Limits {
                bytes: 1000,
                format,
                ..limits(10_000, 0)
            });
            let events = frames(200);
            let mut from = 0;
            while from < 200 {
                let taken = builder.add(&events, from);
                from += taken;
                let window = builder.finish().unwrap();
                assert_eq!(window.events, taken);
                assert!(window.bytes.len() <= 1000 + 64, "{}", window.bytes.len());
                assert!(from == 200 || window.bytes.len() > 900);
            }
            assert!(builder.finish().is_none());
        }
    }

    #[test]
    fn a_window_of_version_one_is_one_c_frame_of_numbered_d_frames_at_every_level() {
        use std::io::Read;
        let events = frames(3);
        for level in [0, 3] {
            let mut builder = Builder::new(Limits {
                format: Format::V1,
                ..limits(10, level)
            });
            assert_eq!(builder.add(&events, 1), 2);
            let window = builder.finish().unwrap();
            assert_eq!(window.bytes[..8], *b"1W\0\0\0\x021C");
            let mut raw = Vec::new();
            flate2::read::ZlibDecoder::new(&window.bytes[12..])
                .read_to_end(&mut raw)
                .unwrap();
            assert_eq!(
                raw,
                b"1D\0\0\0\x01\0\0\0\x01\0\0\0\x01n\0\0\0\x011\
                  1D\0\0\0\x02\0\0\0\x01\0\0\0\x01n\0\0\0\x012"
            );
            assert!(!builder.fits_as_it_lies(1, 1, true));
        }
    }

    #[test]
    fn a_window_of_version_one_comes_out_of_our_own_server_with_every_key() {
        let mut frames = Frames::default();
        frames.push(|out| out.extend_from_slice(br#"{"message":"a","n":1,"o":{"p":[2]}}"#));
        frames.push(|out| out.extend_from_slice(b"{}"));
        for level in [0, 3] {
            let mut builder = Builder::new(Limits {
                format: Format::V1,
                ..limits(10, level)
            });
            assert_eq!(builder.add(&frames, 0), 2);
            let window = builder.finish().unwrap();
            let mut session = server::Session::new(server::Limits::default());
            let mut bytes = window.bytes.as_slice();
            while session.feed(&mut bytes).unwrap() == server::Want::Room {
                session.grant(1 << 20);
            }
            let got = session.next_window().unwrap();
            assert_eq!(got.last_seq(), 2);
            let events: Vec<serde_json::Value> = got
                .events()
                .map(|payload| serde_json::from_slice(payload).unwrap())
                .collect();
            let expected = [
                serde_json::json!({"line": "a", "n": "1", "o": "{\"p\":[2]}"}),
                serde_json::json!({"line": "{}"}),
            ];
            assert_eq!(events, expected);
        }
    }

    #[test]
    fn an_event_is_one_line_however_it_was_laid_out() {
        let mut builder = Builder::new(Limits {
            format: Format::Lines,
            ..limits(10, 3)
        });
        let mut frames = Frames::default();
        frames.push(|out| out.extend_from_slice(b"{\r\n \"a\": \"b\\n\"\n}"));
        frames.push(|out| out.extend_from_slice(b"{}"));
        assert_eq!(builder.add(&frames, 0), 2);
        let window = builder.finish().unwrap();
        assert_eq!(window.bytes, b"{   \"a\": \"b\\n\" }\n{}\n");
        assert!(!builder.fits_as_it_lies(1, 1, false));
    }
}
