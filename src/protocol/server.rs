//! The server's side of a connection: bytes in, complete windows of checked events out.
//!
//! A window is given out whole or not at all, so the ACK can mean all of it. The ACK's number is
//! the sequence number of the window's last frame, in the window's version: equal to the count for
//! clients that number from 1 in each window, and what clients that number on across windows
//! (pylogbeat) wait for. The numbers are not checked otherwise. The first byte of a window's `W`
//! says its version. Events of version 2 stay byte for byte; those of version 1 (pairs of texts)
//! become JSON objects.
//!
//! This module must never know sockets, or what becomes of the events. It trusts no announced
//! number: memory grows with the bytes that have come, by steps that the caller grants.

use std::ops::Range;

use crate::event::FRAME_HEAD_BYTES;
use crate::protocol::frame::COMPRESSED;
use crate::protocol::frame::DATA;
use crate::protocol::frame::JSON;
use crate::protocol::frame::SHORT_BYTES;
use crate::protocol::frame::Version;
use crate::protocol::frame::WINDOW;
use crate::protocol::frame::WINDOW_EVENTS_MAX;

use data::Scan;
pub use fault::Fault;
use inflate::Inflate;

mod data;
mod fault;
mod inflate;
mod object;
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
    /// Largest payload of one event, also of one that was made of pairs.
    pub frame_bytes: usize,
    /// Largest window: all its frames with their heads, inflated. At most [`WINDOW_BYTES_MAX`].
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

/// A complete window: every event in it is a JSON object in UTF-8, in version 2 byte for byte as
/// it was sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Window {
    version: Version,
    /// The payloads, one behind the other.
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

    /// The version of its frames, and so of its ACK.
    #[must_use]
    pub const fn version(&self) -> Version {
        self.version
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
    /// The frame that is being received, from the connection or from inside a `C` frame.
    phase: Phase,
    /// The `C` frame that is being received.
    inflate: Option<Box<Inflate>>,
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
    /// Bytes of its frames that have come or been announced, inflated.
    taken: usize,
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
    /// A JSON event's payload is being received.
    Payload { seq: u32, start: usize, left: usize },
    /// An event of pairs is being received.
    Data { seq: u32, scan: Scan },
}

const BETWEEN_FRAMES: Phase = Phase::Head {
    bytes: [0; FRAME_HEAD_BYTES],
    have: 0,
};

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
            inflate: None,
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
            let stopped = match self.inflate.take() {
                None => self.frame(input, false),
                Some(inflate) => self.inflated(inflate, input),
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
        match &self.open {
            Some(open) => Some((open.window.count(), open.announced)),
            None if self.is_between_frames() => None,
            None => Some((0, 0)),
        }
    }

    const fn is_between_frames(&self) -> bool {
        matches!(self.phase, Phase::Head { have: 0, .. }) && self.inflate.is_none()
    }

    fn is_complete(&self) -> bool {
        self.is_between_frames() && self.open.as_ref().is_some_and(Open::is_full)
    }

    /// Takes a part of a frame; `inside`: of one that a `C` frame holds.
    fn frame(&mut self, input: &mut &[u8], inside: bool) -> Result<Option<Want>, Fault> {
        match self.phase {
            Phase::Head { .. } => self.head(input, inside),
            Phase::Payload { .. } => self.payload(input),
            Phase::Data { .. } => self.data(input),
        }
    }

    /// Takes what the `C` frame holds, and inflates more of it when that is gone.
    fn inflated(
        &mut self,
        mut inflate: Box<Inflate>,
        input: &mut &[u8],
    ) -> Result<Option<Want>, Fault> {
        let mut ready = inflate.ready();
        let wanted = self.frame(&mut ready, true)?;
        let left = ready.len();
        inflate.keep(left);
        if wanted != Some(Want::Bytes) {
            self.inflate = Some(inflate);
            return Ok(wanted);
        }
        if inflate.is_over()? {
            if !self.is_between_frames() {
                return Err(Fault::CutFrame);
            }
            return Ok(None);
        }
        let wanted = inflate.go_on(input)?.then_some(Want::Bytes);
        self.inflate = Some(inflate);
        Ok(wanted)
    }

    fn head(&mut self, input: &mut &[u8], inside: bool) -> Result<Option<Want>, Fault> {
        let Phase::Head { bytes, have } = &mut self.phase else {
            return Ok(None);
        };
        let full = self.open.as_ref().filter(|open| open.is_full());
        if let (Some(open), [_, ..]) = (full, &**input) {
            return Err(Fault::TooManyFrames(open.announced));
        }
        loop {
            let need = match (*have, bytes[1]) {
                (0 | 1, _) => 2,
                (_, JSON | DATA) => FRAME_HEAD_BYTES,
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
            if need == 2 {
                let window = self.open.as_ref().map(|open| open.window.version);
                admit([bytes[0], bytes[1]], window, inside, self.fresh)?;
            }
        }
        let (version, kind) = (Version::of(bytes[0]).unwrap_or_default(), bytes[1]);
        let first = number(&bytes[2..6]);
        let second = number(&bytes[6..10]);
        self.fresh = false;
        self.phase = BETWEEN_FRAMES;
        match kind {
            WINDOW => self.begin_window(version, first)?,
            JSON => self.begin_payload(first, second)?,
            DATA => self.begin_data(first, second)?,
            _ => self.begin_deflated(first)?,
        }
        Ok(None)
    }

    fn begin_window(&mut self, version: Version, announced: u32) -> Result<(), Fault> {
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
                taken: 0,
                granted: 0,
                window: Window {
                    version,
                    bytes: Vec::new(),
                    places: Vec::new(),
                    last_seq: 0,
                },
            });
        }
        Ok(())
    }

    fn begin_payload(&mut self, seq: u32, len: u32) -> Result<(), Fault> {
        let open = self.open.as_mut().ok_or(Fault::NoWindow)?;
        let left = len as usize;
        if left > self.limits.frame_bytes {
            return Err(Fault::FrameTooLarge {
                announced: left,
                limit: self.limits.frame_bytes,
            });
        }
        open.take(FRAME_HEAD_BYTES + left, &self.limits)?;
        let start = open.window.bytes.len();
        self.phase = Phase::Payload { seq, start, left };
        Ok(())
    }

    fn begin_data(&mut self, seq: u32, pairs: u32) -> Result<(), Fault> {
        let open = self.open.as_mut().ok_or(Fault::NoWindow)?;
        open.take(FRAME_HEAD_BYTES, &self.limits)?;
        let scan = Scan::new(open.window.bytes.len(), pairs)?;
        self.phase = Phase::Data { seq, scan };
        Ok(())
    }

    fn begin_deflated(&mut self, len: u32) -> Result<(), Fault> {
        if self.open.is_none() {
            return Err(Fault::NoWindow);
        }
        let len = len as usize;
        // Not kept but inflated as it comes, and a stream is hardly ever longer than what it holds.
        if len > self.limits.window_bytes {
            return Err(Fault::WindowBytes(self.limits.window_bytes));
        }
        self.inflate = Some(Box::new(Inflate::new(len)));
        Ok(())
    }

    fn payload(&mut self, input: &mut &[u8]) -> Result<Option<Want>, Fault> {
        let (Phase::Payload { seq, start, left }, Some(open)) = (&mut self.phase, &mut self.open)
        else {
            return Ok(None);
        };
        if *left > 0 {
            match open.copy(input, *left) {
                Ok(copied) => *left -= copied,
                Err(want) => return Ok(Some(want)),
            }
        }
        if *left == 0 {
            let payload = &open.window.bytes[*start..];
            object::check(payload, open.window.count() + 1)?;
            open.window.add(*seq, *start);
            self.phase = BETWEEN_FRAMES;
        }
        Ok(None)
    }

    fn data(&mut self, input: &mut &[u8]) -> Result<Option<Want>, Fault> {
        let (Phase::Data { seq, scan }, Some(open)) = (&mut self.phase, &mut self.open) else {
            return Ok(None);
        };
        let bytes = &mut open.window.bytes;
        if let Some(end) = scan.reach(bytes, self.limits.frame_bytes)? {
            let missing = end - bytes.len();
            return match open.copy(input, missing) {
                Ok(copied) => open.take(copied, &self.limits).map(|()| None),
                Err(want) => Ok(Some(want)),
            };
        }
        let limit = self.limits.frame_bytes;
        let object = data::object(&bytes[scan.start()..], limit)
            .map_err(|announced| Fault::FrameTooLarge { announced, limit })?;
        let end = scan.start() + object.len();
        if end > self.limits.window_bytes {
            return Err(Fault::WindowBytes(self.limits.window_bytes));
        }
        if end > open.granted {
            return Ok(Some(Want::Room));
        }
        bytes.truncate(scan.start());
        bytes.extend_from_slice(&object);
        open.window.add(*seq, scan.start());
        self.phase = BETWEEN_FRAMES;
        Ok(None)
    }
}

impl Open {
    fn is_full(&self) -> bool {
        self.window.count() >= self.announced as usize
    }

    /// Counts bytes of frames against the window's limit.
    fn take(&mut self, bytes: usize, limits: &Limits) -> Result<(), Fault> {
        self.taken += bytes;
        if self.taken > limits.window_bytes {
            return Err(Fault::WindowBytes(limits.window_bytes));
        }
        Ok(())
    }

    /// Copies at most `most` bytes from the front of `input`; says how many, or what it lacks.
    fn copy(&mut self, input: &mut &[u8], most: usize) -> Result<usize, Want> {
        if input.is_empty() {
            return Err(Want::Bytes);
        }
        let room = self.granted.saturating_sub(self.window.bytes.len());
        if room == 0 {
            return Err(Want::Room);
        }
        let (now, rest) = input.split_at(most.min(input.len()).min(room));
        self.window.bytes.extend_from_slice(now);
        *input = rest;
        Ok(now.len())
    }
}

impl Window {
    /// Adds the event whose payload goes from `start` to the end.
    fn add(&mut self, seq: u32, start: usize) {
        self.places.push(narrow(start)..narrow(self.bytes.len()));
        self.last_seq = seq;
    }
}

/// Refuses a frame that begins with `bytes` in a `window` of that version, or outside of one.
fn admit(bytes: [u8; 2], window: Option<Version>, inside: bool, fresh: bool) -> Result<(), Fault> {
    let Some(version) = Version::of(bytes[0]) else {
        return Err(Fault::strange(bytes, fresh));
    };
    match (version, bytes[1]) {
        (_, WINDOW) if inside => Err(Fault::WindowInCompressed),
        (_, COMPRESSED) if inside => Err(Fault::Nested),
        (_, WINDOW) => Ok(()),
        (_, COMPRESSED) | (Version::V1, DATA) | (Version::V2, JSON) => match window {
            Some(window) if window != version => Err(Fault::MixedVersions {
                window,
                frame: bytes,
            }),
            _ => Ok(()),
        },
        _ => Err(Fault::strange(bytes, fresh)),
    }
}

fn number(bytes: &[u8]) -> u32 {
    bytes
        .iter()
        .fold(0, |value, &byte| value << 8 | u32::from(byte))
}

fn narrow(place: usize) -> u32 {
    u32::try_from(place).expect("a window is at most WINDOW_BYTES_MAX bytes")
}
