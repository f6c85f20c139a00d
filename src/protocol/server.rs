//! The server's side of a connection: bytes in, complete windows of checked events out.
//!
//! A window is given out whole or not at all, so the ACK can mean all of it. The ACK's number is
//! the sequence number of the window's last frame: equal to the count for clients that number
//! from 1 in each window, and what clients that number on across windows (pylogbeat) wait for.
//! The numbers are not checked otherwise. Version 1 is refused with a name.
//!
//! This module must never know sockets, or what becomes of the events. It trusts no announced
//! number: memory grows with the bytes that have come, by steps that the caller grants.

use std::ops::Range;

use flate2::Decompress;
use flate2::FlushDecompress;
use flate2::Status;
use serde::de::IgnoredAny;

use crate::event::FRAME_HEAD_BYTES;
use crate::protocol::frame::COMPRESSED;
use crate::protocol::frame::JSON;
use crate::protocol::frame::SHORT_BYTES;
use crate::protocol::frame::VERSION;
use crate::protocol::frame::WINDOW;
use crate::protocol::frame::WINDOW_EVENTS_MAX;

pub use fault::Fault;

mod fault;
#[cfg(test)]
mod tests;

/// Largest payload of one event: above what our own shipper sends (9 MiB), below Graylog's 16 MiB.
pub const FRAME_BYTES_MAX: usize = 10 << 20;

/// Largest window, inflated: what Graylog takes. A window of 10,000 events leaves 6.7 kB for each.
pub const WINDOW_BYTES_MAX: usize = 64 << 20;

const _: () = assert!(FRAME_BYTES_MAX + FRAME_HEAD_BYTES <= WINDOW_BYTES_MAX);
// Places of payloads are kept as u32.
const _: () = assert!(WINDOW_BYTES_MAX < u32::MAX as usize);

/// What a session takes from its client; beyond it the connection ends with a [`Fault`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Most events of a window.
    pub window_events: u32,
    /// Largest payload of one event.
    pub frame_bytes: usize,
    /// Largest window: all its frames, inflated. At most [`WINDOW_BYTES_MAX`].
    pub window_bytes: usize,
}

impl Default for Limits {
    /// The limits that the constants of this module give reasons for.
    fn default() -> Self {
        Self {
            window_events: WINDOW_EVENTS_MAX,
            frame_bytes: FRAME_BYTES_MAX,
            window_bytes: WINDOW_BYTES_MAX,
        }
    }
}

/// A complete window: every event in it is a JSON object in UTF-8, byte for byte as it was sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Window {
    /// The payloads, and between them what is left of frame heads.
    bytes: Vec<u8>,
    /// Where in `bytes` each payload lies.
    places: Vec<Range<u32>>,
    last_seq: u32,
}

impl Window {
    /// Each event's JSON object, in the order they were sent.
    pub fn events(&self) -> impl ExactSizeIterator<Item = &[u8]> {
        self.places
            .iter()
            .map(|place| &self.bytes[place.start as usize..place.end as usize])
    }

    /// How many events these are; at least 1.
    #[must_use]
    pub const fn count(&self) -> usize {
        self.places.len()
    }

    /// The number of the last frame: the ACK of the whole window.
    #[must_use]
    pub const fn last_seq(&self) -> u32 {
        self.last_seq
    }
}

/// What [`Session::feed`] stopped for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Want {
    /// All bytes were taken; more must come.
    Bytes,
    /// Memory: call [`Session::grant`], then feed on (even if no bytes are left).
    Room,
    /// A window is complete: take it with [`Session::next_window`], then feed on.
    Taking,
}

/// One connection, from its first byte on.
#[derive(Debug)]
pub struct Session {
    limits: Limits,
    phase: Phase,
    /// The window that is being received, or is complete and not yet taken.
    open: Option<Open>,
    /// Whether no frame has come yet: then strange bytes say what kind of client this is.
    fresh: bool,
    fault: Option<Fault>,
}

#[derive(Debug)]
struct Open {
    /// How many events the client announced.
    announced: u32,
    /// How large `window.bytes` may grow.
    granted: usize,
    window: Window,
}

#[derive(Debug)]
enum Phase {
    /// A frame's head is being received.
    Head {
        bytes: [u8; FRAME_HEAD_BYTES],
        have: usize,
    },
    /// A plain event's payload is being received.
    Payload { seq: u32, start: usize, left: usize },
    /// A `C` frame is being received.
    Deflated(Box<Inflate>),
}

const BETWEEN_FRAMES: Phase = Phase::Head {
    bytes: [0; FRAME_HEAD_BYTES],
    have: 0,
};

#[derive(Debug)]
struct Inflate {
    stream: Decompress,
    /// Bytes of the `C` frame that are still to come.
    left: usize,
    /// Up to where in the window's bytes frames have been cut.
    cut: usize,
}

impl Session {
    /// A session on a connection that has just been accepted.
    ///
    /// # Panics
    /// When a window could be larger than [`WINDOW_BYTES_MAX`].
    #[must_use]
    pub fn new(limits: Limits) -> Self {
        assert!(limits.window_bytes <= WINDOW_BYTES_MAX);
        Self {
            limits,
            phase: BETWEEN_FRAMES,
            open: None,
            fresh: true,
            fault: None,
        }
    }

    /// Takes bytes from the front of `input` until it needs something else; says what.
    ///
    /// # Errors
    /// The connection must be closed: nothing of the window being received may be used or
    /// acknowledged. Every later call returns the same.
    pub fn feed(&mut self, input: &mut &[u8]) -> Result<Want, Fault> {
        if let Some(fault) = &self.fault {
            return Err(fault.clone());
        }
        loop {
            if self.is_complete() {
                return Ok(Want::Taking);
            }
            let stopped = match self.phase {
                Phase::Head { .. } => self.head(input),
                Phase::Payload { .. } => self.payload(input),
                Phase::Deflated(_) => self.deflated(input),
            };
            match stopped {
                Ok(None) => {}
                Ok(Some(want)) => return Ok(want),
                Err(fault) => {
                    self.fault = Some(fault.clone());
                    return Err(fault);
                }
            }
        }
    }

    /// Lets the window being received grow by `bytes`; answers [`Want::Room`].
    pub fn grant(&mut self, bytes: usize) {
        let Some(open) = &mut self.open else {
            return;
        };
        // One more than allowed, so that an excess is seen as soon as it has come.
        let most = self.limits.window_bytes + 1;
        open.granted = open.granted.saturating_add(bytes).min(most);
        let held = open.window.bytes.len();
        open.window
            .bytes
            .reserve_exact(open.granted.saturating_sub(held));
    }

    /// The complete window, once.
    pub fn next_window(&mut self) -> Option<Window> {
        if !self.is_complete() {
            return None;
        }
        self.open.take().map(|open| open.window)
    }

    /// How many events of the announced ones have come in an incomplete window; `None` between
    /// windows, when the connection may end without loss. Part of a head counts as a window.
    #[must_use]
    pub fn incomplete(&self) -> Option<(usize, u32)> {
        match (&self.open, &self.phase) {
            (Some(open), _) => Some((open.window.count(), open.announced)),
            (None, Phase::Head { have: 0, .. }) => None,
            (None, _) => Some((0, 0)),
        }
    }

    fn is_complete(&self) -> bool {
        let between_frames = matches!(self.phase, Phase::Head { have: 0, .. });
        between_frames && self.open.as_ref().is_some_and(Open::is_full)
    }

    fn head(&mut self, input: &mut &[u8]) -> Result<Option<Want>, Fault> {
        let Phase::Head { bytes, have } = &mut self.phase else {
            return Ok(None);
        };
        loop {
            let need = match (*have, bytes[1]) {
                (0 | 1, _) => 2,
                (_, JSON) => FRAME_HEAD_BYTES,
                _ => SHORT_BYTES,
            };
            if *have == need {
                break;
            }
            let (now, rest) = input.split_at((need - *have).min(input.len()));
            bytes[*have..*have + now.len()].copy_from_slice(now);
            *have += now.len();
            *input = rest;
            if *have < need {
                return Ok(Some(Want::Bytes));
            }
            if need == 2 && !matches!([bytes[0], bytes[1]], [VERSION, WINDOW | JSON | COMPRESSED]) {
                return Err(Fault::strange([bytes[0], bytes[1]], self.fresh));
            }
        }
        let kind = bytes[1];
        let first = number(&bytes[2..6]);
        let second = number(&bytes[6..10]);
        self.fresh = false;
        self.phase = BETWEEN_FRAMES;
        match kind {
            WINDOW => self.begin_window(first)?,
            JSON => self.begin_payload(first, second)?,
            _ => self.begin_deflated(first)?,
        }
        Ok(None)
    }

    fn begin_window(&mut self, announced: u32) -> Result<(), Fault> {
        if let Some(open) = &self.open {
            return Err(Fault::WindowInWindow {
                come: open.window.count(),
                announced: open.announced,
            });
        }
        if announced > self.limits.window_events {
            return Err(Fault::WindowTooLarge {
                announced,
                limit: self.limits.window_events,
            });
        }
        if announced > 0 {
            self.open = Some(Open {
                announced,
                granted: 0,
                window: Window {
                    bytes: Vec::new(),
                    places: Vec::new(),
                    last_seq: 0,
                },
            });
        }
        Ok(())
    }

    fn begin_payload(&mut self, seq: u32, len: u32) -> Result<(), Fault> {
        let open = self.open.as_ref().ok_or(Fault::NoWindow)?;
        let start = open.window.bytes.len();
        let left = payload_len(len, start, &self.limits)?;
        self.phase = Phase::Payload { seq, start, left };
        Ok(())
    }

    fn begin_deflated(&mut self, len: u32) -> Result<(), Fault> {
        let open = self.open.as_ref().ok_or(Fault::NoWindow)?;
        let left = len as usize;
        // Not kept but inflated as it comes, and a stream is hardly ever longer than what it holds.
        if left > self.limits.window_bytes {
            return Err(Fault::WindowBytes(self.limits.window_bytes));
        }
        self.phase = Phase::Deflated(Box::new(Inflate {
            stream: Decompress::new(true),
            left,
            cut: open.window.bytes.len(),
        }));
        Ok(())
    }

    fn payload(&mut self, input: &mut &[u8]) -> Result<Option<Want>, Fault> {
        let (Phase::Payload { seq, start, left }, Some(open)) = (&mut self.phase, &mut self.open)
        else {
            return Ok(None);
        };
        let bytes = &mut open.window.bytes;
        if *left > 0 {
            if input.is_empty() {
                return Ok(Some(Want::Bytes));
            }
            let room = open.granted.saturating_sub(bytes.len());
            if room == 0 {
                return Ok(Some(Want::Room));
            }
            let (now, rest) = input.split_at((*left).min(input.len()).min(room));
            bytes.extend_from_slice(now);
            *left -= now.len();
            *input = rest;
        }
        if *left == 0 {
            let (seq, place) = (*seq, *start..bytes.len());
            open.add(seq, place)?;
            self.phase = BETWEEN_FRAMES;
        }
        Ok(None)
    }

    fn deflated(&mut self, input: &mut &[u8]) -> Result<Option<Want>, Fault> {
        let (Phase::Deflated(inflate), Some(open)) = (&mut self.phase, &mut self.open) else {
            return Ok(None);
        };
        if input.is_empty() && inflate.left > 0 {
            return Ok(Some(Want::Bytes));
        }
        let before = open.window.bytes.len();
        if before >= open.granted {
            return Ok(Some(Want::Room));
        }
        let given = &input[..inflate.left.min(input.len())];
        let taken_before = inflate.stream.total_in();
        let status = inflate
            .stream
            .decompress_vec(given, &mut open.window.bytes, FlushDecompress::None)
            .map_err(|_| Fault::Zlib)?;
        let taken = usize::try_from(inflate.stream.total_in() - taken_before)
            .expect("it takes at most what it is given");
        *input = &input[taken..];
        inflate.left -= taken;
        let grown = open.window.bytes.len() - before;
        if open.window.bytes.len() > self.limits.window_bytes {
            return Err(Fault::WindowBytes(self.limits.window_bytes));
        }
        open.cut_frames(&mut inflate.cut, &self.limits)?;
        if status == Status::StreamEnd {
            if inflate.left > 0 {
                return Err(Fault::ZlibTrailing(inflate.left));
            }
            if inflate.cut < open.window.bytes.len() {
                return Err(Fault::CutFrame);
            }
            self.phase = BETWEEN_FRAMES;
        } else if grown == 0 && taken == 0 {
            return Err(Fault::ZlibShort);
        }
        Ok(None)
    }
}

impl Open {
    fn is_full(&self) -> bool {
        self.window.count() >= self.announced as usize
    }

    /// Cuts all whole frames behind `cut` out of what was inflated.
    fn cut_frames(&mut self, cut: &mut usize, limits: &Limits) -> Result<(), Fault> {
        loop {
            let rest = &self.window.bytes[*cut..];
            match rest {
                [VERSION, JSON, ..] | [VERSION] | [] => {}
                [VERSION, COMPRESSED, ..] => return Err(Fault::Nested),
                [VERSION, WINDOW, ..] => return Err(Fault::WindowInCompressed),
                [version, kind, ..] => return Err(Fault::strange([*version, *kind], false)),
                [byte] => return Err(Fault::strange([*byte, 0], false)),
            }
            if !rest.is_empty() && self.is_full() {
                return Err(Fault::TooManyFrames(self.announced));
            }
            let Some((head, rest)) = rest.split_at_checked(FRAME_HEAD_BYTES) else {
                return Ok(());
            };
            let start = *cut + FRAME_HEAD_BYTES;
            let len = payload_len(number(&head[6..10]), start, limits)?;
            if rest.len() < len {
                return Ok(());
            }
            let seq = number(&head[2..6]);
            self.add(seq, start..start + len)?;
            *cut = start + len;
        }
    }

    /// Checks the payload at `place` and adds it to the window.
    fn add(&mut self, seq: u32, place: Range<usize>) -> Result<(), Fault> {
        let window = &mut self.window;
        check_object(&window.bytes[place.clone()], window.places.len() + 1)?;
        window.places.push(narrow(place.start)..narrow(place.end));
        window.last_seq = seq;
        Ok(())
    }
}

/// The length of a payload that begins at `start` of the window's bytes, if it may be that long.
fn payload_len(len: u32, start: usize, limits: &Limits) -> Result<usize, Fault> {
    let len = len as usize;
    if len > limits.frame_bytes {
        return Err(Fault::FrameTooLarge {
            announced: len,
            limit: limits.frame_bytes,
        });
    }
    if start + len > limits.window_bytes {
        return Err(Fault::WindowBytes(limits.window_bytes));
    }
    Ok(len)
}

/// Refuses everything but one JSON object in UTF-8; `number` is the event's place in its window.
fn check_object(payload: &[u8], number: usize) -> Result<(), Fault> {
    let text = std::str::from_utf8(payload).map_err(|_| Fault::NotUtf8(number))?;
    if !text.trim_start().starts_with('{') {
        return Err(Fault::NotAnObject(number));
    }
    // Iterative in serde_json, so that deep nesting costs heap within the frame's limit, no stack.
    serde_json::from_str::<IgnoredAny>(text)
        .map(|_| ())
        .map_err(|error| Fault::NotJson {
            number,
            error: error.to_string(),
        })
}

fn number(bytes: &[u8]) -> u32 {
    bytes
        .iter()
        .fold(0, |value, &byte| value << 8 | u32::from(byte))
}

fn narrow(place: usize) -> u32 {
    u32::try_from(place).expect("a window is at most WINDOW_BYTES_MAX bytes")
}
