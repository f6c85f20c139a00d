//! Events of version 1: pairs of texts become a JSON object.
//!
//! A `D` frame says how many pairs follow and never how many bytes, so its end is found string by
//! string. Must never know frames' heads, windows, or what is told by the pairs.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::io;

use super::Fault;
use super::number;

/// Most pairs of one event: logstash-forwarder sends four and its configured fields. What an event
/// costs while it is turned into an object grows with them.
pub(super) const PAIRS_MAX: u32 = 10_000;

/// Bytes of a string's length.
const LENGTH_BYTES: usize = 4;

/// How far a `D` frame's pairs have been understood.
#[derive(Debug)]
pub(super) struct Scan {
    /// Where the pairs begin.
    start: usize,
    /// Where the next string's length is.
    at: usize,
    /// Keys and values that are still to come.
    strings: u32,
}

impl Scan {
    /// The pairs begin at `start` of the bytes that [`Scan::reach`] is given.
    pub(super) fn new(start: usize, pairs: u32) -> Result<Self, Fault> {
        if pairs > PAIRS_MAX {
            return Err(Fault::TooManyPairs {
                announced: pairs,
                limit: PAIRS_MAX,
            });
        }
        Ok(Self {
            start,
            at: start,
            strings: 2 * pairs,
        })
    }

    pub(super) const fn start(&self) -> usize {
        self.start
    }

    /// Up to where `bytes` must reach before more can be known; `None` when all pairs are there.
    pub(super) fn reach(&mut self, bytes: &[u8], limit: usize) -> Result<Option<usize>, Fault> {
        while self.strings > 0 {
            let text = self.at + LENGTH_BYTES;
            let Some(length) = bytes.get(self.at..text) else {
                return Ok(Some(text));
            };
            let end = text + number(length) as usize;
            let announced = end - self.start;
            if announced > limit {
                return Err(Fault::FrameTooLarge { announced, limit });
            }
            if bytes.len() < end {
                return Ok(Some(end));
            }
            self.at = end;
            self.strings -= 1;
        }
        Ok(None)
    }
}

/// Whole pairs as a JSON object of texts, its keys in order. Of a key that comes twice, the last
/// value stands; bytes that are not UTF-8 become U+FFFD. JSON writes some bytes with six: the error is
/// the size of an object larger than `limit`, of which no more than that was kept.
pub(super) fn object(mut pairs: &[u8], limit: usize) -> Result<Vec<u8>, usize> {
    let mut object = BTreeMap::new();
    while let Some(key) = next_text(&mut pairs)
        && let Some(value) = next_text(&mut pairs)
    {
        object.insert(key, value);
    }
    let mut out = Bounded {
        bytes: Vec::new(),
        size: 0,
        limit,
    };
    serde_json::to_writer(&mut out, &object).expect("texts are JSON, and memory takes them");
    if out.size > limit {
        return Err(out.size);
    }
    Ok(out.bytes)
}

/// Keeps what is written up to its limit, and counts the rest.
struct Bounded {
    bytes: Vec<u8>,
    size: usize,
    limit: usize,
}

impl io::Write for Bounded {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.size += bytes.len();
        if self.size <= self.limit {
            self.bytes.extend_from_slice(bytes);
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn next_text<'p>(pairs: &mut &'p [u8]) -> Option<Cow<'p, str>> {
    let (length, rest) = pairs.split_at_checked(LENGTH_BYTES)?;
    let (text, rest) = rest.split_at_checked(number(length) as usize)?;
    *pairs = rest;
    Some(String::from_utf8_lossy(text))
}
