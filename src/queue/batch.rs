//! Joining portions into drafts: who shares a record, and what is stored deflated.
//!
//! Portions of one route are joined in the order they came until a batch is full. A large batch
//! is stored wire-ready: its frames deflated once. Small ones stay raw; the output that ships
//! them joins and deflates. Pure; the driver decides when nothing more is waiting.

use std::io;
use std::io::Read;
use std::io::Write;

use flate2::Compression;
use flate2::read::ZlibDecoder;
use flate2::write::ZlibEncoder;

use super::Settings;
use super::fact::Counters;
use super::fact::Fact;
use super::fact::Part;
use super::fact::Portion;
use super::record::Draft;
use super::record::StoredEvents;
use crate::event::Frames;
use crate::event::Route;

/// From this size on a batch is deflated before it is stored: below, most of a window's ratio is lost
/// (one event alone deflates to 374 B, in a full batch to 31 B).
const DEFLATE_BYTES_MIN: usize = 64 << 10;

/// Portions of one route, being joined.
#[derive(Debug, Default)]
pub(crate) struct Batch {
    route: Route,
    frames: Frames,
    parts: Vec<Part>,
    facts: Vec<Fact>,
    counters: Counters,
    portions: usize,
}

impl Batch {
    /// Whether nothing was added.
    pub(crate) fn is_empty(&self) -> bool {
        self.portions == 0
    }

    /// Whether `portion` may share a record with what is here.
    pub(crate) fn takes(&self, portion: &Portion, settings: &Settings) -> bool {
        self.is_empty()
            || ((portion.frames.is_empty()
                || self.frames.is_empty()
                || portion.route == self.route)
                && self.frames.count() + portion.frames.count() <= settings.batch_events
                && (self.frames.bytes().len() + portion.frames.bytes().len()) as u64
                    <= settings.batch_bytes)
    }

    /// Adds a portion behind those that are here.
    pub(crate) fn add(&mut self, mut portion: Portion) {
        for fact in &mut portion.facts {
            if let Fact::Read { before, .. } = fact {
                *before += self.frames.count();
            }
        }
        if self.frames.is_empty() {
            self.route = portion.route;
            self.frames = portion.frames;
        } else {
            self.frames.append(&portion.frames);
        }
        for part in portion.parts {
            match self.parts.last_mut() {
                Some(last) if last.job == part.job && last.stream == part.stream => {
                    last.count += part.count;
                    last.last = part.last;
                }
                _ => self.parts.push(part),
            }
        }
        self.facts.extend(portion.facts);
        self.counters.add(&portion.counters);
        self.portions += 1;
    }

    /// What happened with its events.
    pub(crate) fn facts(&self) -> &[Fact] {
        &self.facts
    }

    /// Closes the batch. Deflating takes milliseconds: not on the writer's thread.
    pub(crate) fn close(self, compression_level: u32) -> Draft {
        let raw = self.frames.bytes().len();
        let count = self.frames.count();
        let mut events = StoredEvents {
            raw_bytes: u32::try_from(raw)
                .expect("portions are bounded by batch_bytes and one event"),
            count,
            bytes: self.frames.into_bytes(),
            zlib: false,
        };
        if raw >= DEFLATE_BYTES_MIN && compression_level > 0 {
            match deflate(&events.bytes, compression_level) {
                Ok(bytes) => {
                    events = StoredEvents {
                        bytes,
                        zlib: true,
                        ..events
                    }
                }
                Err(error) => {
                    tracing::warn!(%error, "a batch could not be deflated and is stored raw")
                }
            }
        }
        Draft {
            events,
            route: self.route,
            parts: self.parts,
            facts: self.facts,
            counters: self.counters,
        }
    }

    /// Whether closing this batch costs enough CPU to be worth another thread.
    pub(crate) fn is_large(&self) -> bool {
        self.frames.bytes().len() >= DEFLATE_BYTES_MIN
    }
}

/// One zlib stream (RFC 1950) of `bytes`.
///
/// # Errors
/// None in practice: it writes to memory.
pub fn deflate(bytes: &[u8], level: u32) -> io::Result<Vec<u8>> {
    let mut out = ZlibEncoder::new(
        Vec::with_capacity(bytes.len() / 6 + 64),
        Compression::new(level.min(9)),
    );
    out.write_all(bytes)?;
    out.finish()
}

impl StoredEvents {
    /// The frames, inflated when they are stored deflated.
    ///
    /// # Errors
    /// `InvalidData` when they are not what the record's header says.
    pub fn frames(self) -> io::Result<Frames> {
        let wrong = || {
            io::Error::new(
                io::ErrorKind::InvalidData,
                "the record's events are damaged",
            )
        };
        let bytes = if self.zlib {
            let mut raw = Vec::with_capacity(self.raw_bytes as usize);
            let limit = u64::from(self.raw_bytes) + 1;
            ZlibDecoder::new(self.bytes.as_slice())
                .take(limit)
                .read_to_end(&mut raw)?;
            raw
        } else {
            self.bytes
        };
        let frames = Frames::from_bytes(bytes).ok_or_else(wrong)?;
        if frames.count() == self.count {
            Ok(frames)
        } else {
            Err(wrong())
        }
    }
}
