//! Frames of Lumberjack as bytes, and whole windows built from them.
//!
//! All integers are unsigned, 32 bits, big-endian. A frame begins with the version (`1` or `2`)
//! and a type letter; there is no magic, no checksum and no way to find the next frame after an error.
//! Knows nothing of what is inside an event and nothing of who sends it.

use flate2::Compress;
use flate2::Compression;
use flate2::FlushCompress;
use flate2::Status;

/// The first byte of every frame of version 2.
pub const VERSION: u8 = b'2';

/// Which version a client speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Version {
    /// Events are pairs of texts (`D`).
    V1,
    /// Events are JSON (`J`).
    #[default]
    V2,
}

impl Version {
    /// The first byte of its frames.
    #[must_use]
    pub const fn byte(self) -> u8 {
        match self {
            Self::V1 => b'1',
            Self::V2 => VERSION,
        }
    }

    /// The version whose frames begin with this byte.
    pub(super) const fn of(byte: u8) -> Option<Self> {
        match byte {
            b'1' => Some(Self::V1),
            VERSION => Some(Self::V2),
            _ => None,
        }
    }
}

/// Opens a window: `2W`, count.
pub const WINDOW: u8 = b'W';
/// One event: `2J`, sequence number, length, a JSON object.
pub const JSON: u8 = b'J';
/// One event of version 1: `1D`, sequence number, count of pairs, keys and values.
pub const DATA: u8 = b'D';
/// Whole frames as one zlib stream (RFC 1950): `2C`, length, stream.
pub const COMPRESSED: u8 = b'C';
/// The server's answer: `2A`, sequence number; 0 only says that it is alive.
pub const ACK: u8 = b'A';

/// Length of `W` and `A` frames, and of the head of a `C` frame.
pub const SHORT_BYTES: usize = 6;

/// `A 0`, the keep-alive: confirms nothing.
pub const KEEP_ALIVE: [u8; SHORT_BYTES] = ack(0);

/// Most events of one window: what go-lumber 0.2 takes; Logstash, Vector and Graylog take more.
pub const WINDOW_EVENTS_MAX: u32 = 10_000;

/// `W count`: exactly `count` events follow.
#[must_use]
pub const fn window_head(count: u32) -> [u8; SHORT_BYTES] {
    short(Version::V2, WINDOW, count)
}

/// The head of a `C` frame: a zlib stream of exactly `len` bytes follows.
#[must_use]
pub const fn compressed_head(len: u32) -> [u8; SHORT_BYTES] {
    short(Version::V2, COMPRESSED, len)
}

/// `A seq`: all events of the oldest window up to this one are taken over.
#[must_use]
pub const fn ack(seq: u32) -> [u8; SHORT_BYTES] {
    ack_of(Version::V2, seq)
}

/// The ACK of a window of either version.
#[must_use]
pub const fn ack_of(version: Version, seq: u32) -> [u8; SHORT_BYTES] {
    short(version, ACK, seq)
}

const fn short(version: Version, kind: u8, value: u32) -> [u8; SHORT_BYTES] {
    let [a, b, c, d] = value.to_be_bytes();
    [version.byte(), kind, a, b, c, d]
}

/// Appends one `2J` frame.
///
/// # Panics
/// When the payload has 4 GiB; events are far smaller.
pub fn json_frame(seq: u32, payload: &[u8], out: &mut Vec<u8>) {
    let len = u32::try_from(payload.len()).expect("an event is far smaller than 4 GiB");
    out.extend_from_slice(&[VERSION, JSON]);
    out.extend_from_slice(&seq.to_be_bytes());
    out.extend_from_slice(&len.to_be_bytes());
    out.extend_from_slice(payload);
}

/// Appends a whole window to `out`: `W`, then `frames` as they are (`2J` frames numbered 1..=count).
pub fn plain_window(count: u32, frames: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(&window_head(count));
    out.extend_from_slice(frames);
}

/// Appends a whole window to `out`: `W`, then all of `frames` deflated in one `C` frame.
///
/// Always one: go-lumber closes the connection on a second `C` frame in a window. A window of
/// version 1 must not go otherwise: Logstash resets the connection when a bare `D` frame comes in
/// two reads.
///
/// # Panics
/// When `frames` deflate to 4 GiB or more; windows are far smaller.
pub fn compressed_window(
    version: Version,
    count: u32,
    frames: &[u8],
    deflater: &mut Deflater,
    out: &mut Vec<u8>,
) {
    out.extend_from_slice(&short(version, WINDOW, count));
    let head = out.len();
    out.extend_from_slice(&[0; SHORT_BYTES]);
    let start = out.len();
    deflater.deflate(frames, out);
    let len = u32::try_from(out.len() - start).expect("a window is far smaller than 4 GiB");
    out[head..start].copy_from_slice(&short(version, COMPRESSED, len));
}

/// Makes zlib streams; kept from one window to the next, because its tables cost more to set up
/// than a small window costs to deflate.
#[derive(Debug)]
pub struct Deflater {
    compress: Compress,
}

impl Deflater {
    /// A deflater of `level` 0 (stored) to 9; higher values count as 9.
    #[must_use]
    pub fn new(level: u32) -> Self {
        Self {
            compress: Compress::new(Compression::new(level.min(9)), true),
        }
    }

    /// Appends `raw` to `out` as one complete zlib stream.
    ///
    /// # Panics
    /// Never: deflating into a growing buffer has no failure that the input could cause.
    pub fn deflate(&mut self, raw: &[u8], out: &mut Vec<u8>) {
        /// Room for the stream's head, its end and the head of a stored block.
        const STREAM_EXTRA: usize = 64;
        self.compress.reset();
        // JSON events deflate to a fifth or less; an eighth is grown at most three times.
        out.reserve(raw.len() / 8 + STREAM_EXTRA);
        loop {
            let taken = usize::try_from(self.compress.total_in())
                .expect("the deflater took at most what it was given");
            let status = self
                .compress
                .compress_vec(&raw[taken..], out, FlushCompress::Finish)
                .expect("the stream was reset and is finished only once");
            if status == Status::StreamEnd {
                return;
            }
            out.reserve(raw.len() / 4 + STREAM_EXTRA);
        }
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use std::io::Read;

    use flate2::read::ZlibDecoder;

    use super::*;
    use crate::event::Frames;

    fn two_events() -> Frames {
        let mut frames = Frames::default();
        frames.push(|out| out.extend_from_slice(br#"{"message":"a"}"#));
        frames.push(|out| out.extend_from_slice(br#"{"message":"b"}"#));
        frames
    }

    fn inflate(stream: &[u8]) -> Vec<u8> {
        let mut raw = Vec::new();
        ZlibDecoder::new(stream).read_to_end(&mut raw).unwrap();
        raw
    }

    #[test]
    fn short_frames_are_the_bytes_that_go_lumber_writes() {
        assert_eq!(window_head(2), *b"\x32\x57\x00\x00\x00\x02");
        assert_eq!(ack(2), *b"\x32\x41\x00\x00\x00\x02");
        assert_eq!(KEEP_ALIVE, *b"\x32\x41\x00\x00\x00\x00");
        assert_eq!(compressed_head(0x3f), *b"\x32\x43\x00\x00\x00\x3f");
    }

    #[test]
    fn a_plain_window_is_the_bytes_that_go_lumber_writes() {
        let mut out = Vec::new();
        plain_window(2, two_events().bytes(), &mut out);
        assert_eq!(
            out,
            b"\x32\x57\x00\x00\x00\x02\
              \x32\x4a\x00\x00\x00\x01\x00\x00\x00\x0f{\"message\":\"a\"}\
              \x32\x4a\x00\x00\x00\x02\x00\x00\x00\x0f{\"message\":\"b\"}"
        );
    }

    #[test]
    fn a_compressed_window_is_one_c_frame_of_exactly_its_frames() {
        let mut frames = Frames::default();
        for n in 0..3_000_u32 {
            let noise = n.wrapping_mul(2_654_435_761);
            frames.push(|out| out.extend_from_slice(format!("{{\"n\":{noise}}}").as_bytes()));
        }
        for level in 0..=9 {
            let mut deflater = Deflater::new(level);
            // Twice: the second stream must not depend on the first.
            for _ in 0..2 {
                let mut out = b"before".to_vec();
                compressed_window(
                    Version::V2,
                    frames.count(),
                    frames.bytes(),
                    &mut deflater,
                    &mut out,
                );
                let window = &out[6..];
                assert_eq!(window[..6], window_head(3_000));
                let len = u32::try_from(window.len() - 12).unwrap();
                assert_eq!(window[6..12], compressed_head(len), "level {level}");
                assert_eq!(inflate(&window[12..]), frames.bytes(), "level {level}");
            }
        }
    }

    #[test]
    fn nothing_deflates_to_a_valid_stream() {
        let mut out = Vec::new();
        Deflater::new(3).deflate(b"", &mut out);
        assert_eq!(inflate(&out), b"");
    }
}
