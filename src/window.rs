//! The window builder: what lies in the queue becomes what a Lumberjack server reads.
//!
//! Sending the stored bytes as they lie is its short cut, when a record is exactly one window;
//! else records are joined, cut, numbered anew and deflated once. Pure. Knows nothing of
//! connections and of where records come from.

use crate::event::Frames;
use crate::protocol::frame;
use crate::protocol::frame::Deflater;
use crate::queue::record::StoredEvents;

/// Most bytes of one window, inflated: well under Graylog's 16 MiB frames and 64 MiB inflated.
/// An event larger than this goes alone.
pub const WINDOW_BYTES_MAX: usize = 8 << 20;

/// From this size on, inflated, a window is full enough: half of the largest batch that is stored by default.
const WINDOW_BYTES_FILLED: usize = 512 << 10;

/// What a window may hold and how it is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Most events.
    pub events: u32,
    /// zlib level 0..=9; 0 sends plain frames.
    pub compression_level: u32,
}

/// A window, ready for the wire.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Window {
    /// `W n` and its frames.
    pub bytes: Vec<u8>,
    /// How many events.
    pub events: u32,
}

/// Builds one window after the other.
#[derive(Debug)]
pub struct Builder {
    limits: Limits,
    deflater: Deflater,
    frames: Frames,
}

impl Builder {
    /// A builder with nothing in it.
    #[must_use]
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            deflater: Deflater::new(limits.compression_level),
            frames: Frames::default(),
        }
    }

    /// Whether nothing waits to become a window.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.frames.is_empty()
    }

    /// Whether these stored events are a window just as they lie.
    #[must_use]
    pub const fn fits_as_it_lies(&self, count: u32, raw_bytes: u32, zlib: bool) -> bool {
        zlib == (self.limits.compression_level > 0)
            && count <= self.limits.events
            && raw_bytes as usize <= WINDOW_BYTES_MAX
    }

    /// Whether so many events of so many bytes are a window that joining would hardly make fuller.
    #[must_use]
    pub const fn is_filled_by(&self, count: u32, raw_bytes: u32) -> bool {
        count >= self.limits.events / 2 || raw_bytes as usize >= WINDOW_BYTES_FILLED
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
            let bytes = self.frames.bytes().len() + payload.len() + crate::event::FRAME_HEAD_BYTES;
            if self.frames.count() >= self.limits.events
                || (bytes > WINDOW_BYTES_MAX && !self.frames.is_empty())
            {
                break;
            }
            self.frames.push(|out| out.extend_from_slice(payload));
            taken += 1;
        }
        taken
    }

    /// The window of everything added since the last one; `None` when there is nothing.
    pub fn finish(&mut self) -> Option<Window> {
        let frames = std::mem::take(&mut self.frames);
        if frames.is_empty() {
            return None;
        }
        let mut bytes = Vec::new();
        if self.limits.compression_level > 0 {
            frame::compressed_window(
                frames.count(),
                frames.bytes(),
                &mut self.deflater,
                &mut bytes,
            );
        } else {
            frame::plain_window(frames.count(), frames.bytes(), &mut bytes);
        }
        Some(Window {
            bytes,
            events: frames.count(),
        })
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use crate::protocol::server;

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
            let mut builder = Builder::new(Limits {
                events: 5,
                compression_level: level,
            });
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
        let mut builder = Builder::new(Limits {
            events: 100,
            compression_level: 3,
        });
        let mut big = frames(1);
        big.push(|out| {
            out.extend_from_slice(b"{\"m\":\"");
            out.resize(out.len() + WINDOW_BYTES_MAX, b'x');
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
        let builder = Builder::new(Limits {
            events: 2048,
            compression_level: 3,
        });
        assert!(builder.fits_as_it_lies(stored.count, stored.raw_bytes, stored.zlib));
        assert!(!builder.fits_as_it_lies(2049, raw_bytes, true));
        assert_eq!(received(&Builder::as_it_lies(&stored)), (2000, 2000));
    }
}
