//! Why the server's side ends a connection, in words for the person who runs the client.
//!
//! The protocol has no error frame, so the server's log is the only place where the reason can
//! stand. Knows nothing of sessions.

use std::fmt;

use crate::protocol::frame::ACK;
use crate::protocol::frame::DATA;
use crate::protocol::frame::JSON;
use crate::protocol::frame::Version;
use crate::units::show_bytes;

/// Why the connection must be closed. The client sends again what was not acknowledged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// The client speaks TLS.
    Tls,
    /// The client speaks HTTP.
    Http,
    /// A frame of a version or type that does not exist.
    Unknown([u8; 2]),
    /// A `D` frame of version 2, which only some servers take.
    DataFrame,
    /// A `J` frame of version 1, which hardly a server takes.
    JsonFrame,
    /// A frame of another version than its window.
    MixedVersions {
        /// The window's.
        window: Version,
        /// The frame's first two bytes.
        frame: [u8; 2],
    },
    /// The client sends ACKs.
    ClientAck,
    /// An event came without an announced window.
    NoWindow,
    /// A window was announced before the last one was complete.
    WindowInWindow {
        /// Events that had come.
        come: usize,
        /// Events that were announced.
        announced: u32,
    },
    /// A window of too many events was announced.
    WindowTooLarge {
        /// Events that were announced.
        announced: u32,
        /// Events that are taken.
        limit: u32,
    },
    /// An event's payload is too large.
    FrameTooLarge {
        /// Its length in bytes.
        announced: usize,
        /// The length that is taken.
        limit: usize,
    },
    /// An event of version 1 of too many pairs was announced.
    TooManyPairs {
        /// Pairs that were announced.
        announced: u32,
        /// Pairs that are taken.
        limit: u32,
    },
    /// A window holds more than this many bytes.
    WindowBytes(usize),
    /// A `C` frame holds more events than the window's announced ones.
    TooManyFrames(u32),
    /// A `C` frame holds a `C` frame.
    Nested,
    /// A `C` frame holds a `W` frame.
    WindowInCompressed,
    /// A `C` frame is not a zlib stream, or a damaged one.
    Zlib,
    /// A `C` frame goes on for so many bytes after its zlib stream.
    ZlibTrailing(usize),
    /// A `C` frame ends before its zlib stream does.
    ZlibShort,
    /// A `C` frame ends in the middle of a frame.
    CutFrame,
    /// The window's event of this number (from 1) is not UTF-8.
    NotUtf8(usize),
    /// The window's event of this number (from 1) is not a JSON object.
    NotAnObject(usize),
    /// An event is nested too deeply.
    TooDeep {
        /// Its place in its window, from 1.
        number: usize,
        /// How deep it may be.
        limit: usize,
    },
    /// The window's event of this number is not JSON.
    NotJson {
        /// From 1.
        number: usize,
        /// What the parser says.
        error: String,
    },
}

impl Fault {
    /// The fault of a frame that begins with these two bytes; `fresh` connections tell by them
    /// what else their client speaks.
    pub(super) fn strange(bytes: [u8; 2], fresh: bool) -> Self {
        match bytes {
            [b'1' | b'2', ACK] => Self::ClientAck,
            [b'2', DATA] => Self::DataFrame,
            [b'1', JSON] => Self::JsonFrame,
            [0x16, 0x03] if fresh => Self::Tls,
            // GET, PUT, POST, PATCH, PRI (HTTP/2), HEAD, DELETE, OPTIONS, CONNECT, TRACE.
            [b'G' | b'H' | b'D', b'E'] | [b'P', b'U' | b'O' | b'A' | b'R'] if fresh => Self::Http,
            [b'O', b'P'] | [b'C', b'O'] | [b'T', b'R'] if fresh => Self::Http,
            _ => Self::Unknown(bytes),
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tls => f.write_str(
                "the client speaks TLS, but this port is plain; \
                 turn TLS off in the client, in Filebeat `ssl.enabled: false`",
            ),
            Self::Http => f.write_str(
                "the client speaks HTTP, but this is a Beats port; \
                 send with a Lumberjack client, like Filebeat's output.logstash",
            ),
            Self::Unknown(bytes) => write!(
                f,
                "the client sent `{}` where a frame begins; \
                 a Lumberjack client sends `2W`, `2J` or `2C`, in version 1 `1W`, `1D` or `1C`",
                bytes.escape_ascii()
            ),
            Self::DataFrame => f.write_str(
                "the client sent a version 2 frame of type `D`; \
                 version 2 events are of type `J`, as Filebeat sends them",
            ),
            Self::JsonFrame => {
                f.write_str("the client sent JSON in version 1; its events are of type `D`")
            }
            Self::MixedVersions { window, frame } => write!(
                f,
                "the client sent `{}` in a window of version {}; \
                 all frames of a window are of one version",
                frame.escape_ascii(),
                char::from(window.byte())
            ),
            Self::ClientAck => {
                f.write_str("the client sent an ACK; only servers do: is it a server itself?")
            }
            Self::NoWindow => f.write_str(
                "an event came outside of a window: \
                 the client sent none, or more events than it had announced",
            ),
            Self::WindowInWindow { come, announced } => write!(
                f,
                "a window began when {come} of {announced} events of the last one had come"
            ),
            Self::WindowTooLarge { announced, limit } => write!(
                f,
                "the client announced a window of {announced} events, the limit is {limit}; \
                 in Filebeat set `bulk_max_size: {limit}` or less"
            ),
            Self::FrameTooLarge { announced, limit } => write!(
                f,
                "the client announced an event of {announced} bytes, the limit is {limit}"
            ),
            Self::TooManyPairs { announced, limit } => write!(
                f,
                "the client announced an event of {announced} keys, the limit is {limit}"
            ),
            Self::WindowBytes(limit) => write!(
                f,
                "a window is larger than {} inflated; send fewer events in a window, \
                 in Filebeat by a lower `bulk_max_size`",
                show_bytes(*limit as u64)
            ),
            Self::TooManyFrames(announced) => write!(
                f,
                "a compressed frame holds more events than the {announced} that were announced"
            ),
            Self::Nested => f.write_str("a compressed frame holds a compressed frame"),
            Self::WindowInCompressed => f.write_str("a compressed frame holds a window's head"),
            Self::Zlib => f.write_str("a compressed frame is not a valid zlib stream"),
            Self::ZlibTrailing(bytes) => write!(
                f,
                "a compressed frame goes on for {bytes} bytes after its zlib stream"
            ),
            Self::ZlibShort => f.write_str("a compressed frame ends before its zlib stream"),
            Self::CutFrame => f.write_str("a compressed frame ends in the middle of an event"),
            Self::NotUtf8(number) => {
                write!(f, "event {number} of a window is not valid UTF-8")
            }
            Self::NotAnObject(number) => write!(
                f,
                "event {number} of a window is not a JSON object like {{\"message\":\"text\"}}"
            ),
            Self::TooDeep { number, limit } => write!(
                f,
                "event {number} of a window is nested more than {limit} deep, \
                 which Logstash refuses too"
            ),
            Self::NotJson { number, error } => {
                write!(f, "event {number} of a window is not valid JSON ({error})")
            }
        }
    }
}

impl std::error::Error for Fault {}
