//! A record as bytes: header, body of sections, checksums. FORMAT.md shows each byte.
//!
//! The unit of commit: appended wholly or not at all. Knows no names of files and no order of commits.

use std::io;

use byteorder::ByteOrder;
use byteorder::LittleEndian;

use super::fact::Counters;
use super::fact::Fact;
use super::fact::Part;
use super::segment::Position;
use crate::disk::DiskFile;
use crate::event::Route;
use crate::event::Stream;
use crate::units::Timestamp;

/// `SPR1`: how every record begins; recovery looks for it behind damage.
pub(crate) const MAGIC: [u8; 4] = *b"SPR1";

/// Length of a record's header.
pub const HEADER_BYTES: usize = 56;

/// Largest body: a batch of `batch_bytes` plus one event of the largest size, raw, with room for
/// its directory. A length above it is damage, so no allocation follows a flipped bit.
pub const BODY_BYTES_MAX: u32 = 32 << 20;

const FLAG_ZLIB: u32 = 1;
const FLAG_SETTLED: u32 = 2;

const SECTION_EVENTS: u16 = 1;
const SECTION_DIRECTORY: u16 = 2;
const SECTION_ROUTE: u16 = 3;
const SECTION_FACTS: u16 = 4;
const SECTION_COUNTERS: u16 = 5;
/// A reader that does not know a section with this flag must refuse the record.
const SECTION_CRITICAL: u16 = 1;
const SECTION_HEAD_BYTES: usize = 8;

/// A record's header, read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// Length of the body that follows.
    pub body_bytes: u32,
    /// Checksum of the body.
    pub body_crc: u32,
    /// Number of this record; counts on without gaps over the whole log.
    pub number: u64,
    /// Number of its first event.
    pub seq: u64,
    /// How many events it holds.
    pub count: u32,
    /// Whose events these are: [`route_hash`]; 0 when it holds none.
    pub route: u32,
    /// Length of the events' frames when inflated.
    pub raw_bytes: u32,
    /// Whether the events' frames are one zlib stream.
    pub zlib: bool,
    /// Whether everything before it was durable when it was written. Of records that were not, a power
    /// cut may leave a later one and take an earlier one.
    pub settled: bool,
    /// When it was written.
    pub at: Timestamp,
}

impl Header {
    /// Length of the whole record.
    #[must_use]
    pub fn record_bytes(&self) -> u64 {
        HEADER_BYTES as u64 + u64::from(self.body_bytes)
    }
}

/// The events of a record as they are stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredEvents {
    /// `2J` frames numbered 1..=count, or their zlib stream.
    pub bytes: Vec<u8>,
    /// How many events.
    pub count: u32,
    /// Length of the frames when inflated.
    pub raw_bytes: u32,
    /// Whether `bytes` is a zlib stream.
    pub zlib: bool,
}

/// A record before it has a place in the log.
#[derive(Debug, Clone)]
pub struct Draft {
    /// The events.
    pub events: StoredEvents,
    /// The outputs that want them.
    pub route: Route,
    /// Where they came from.
    pub parts: Vec<Part>,
    /// The facts that ride with them.
    pub facts: Vec<Fact>,
    /// The counters that ride with them.
    pub counters: Counters,
}

/// A record's body, read.
#[derive(Debug, Clone)]
pub struct Body {
    /// The events' bytes as stored; empty when there are none.
    pub events: Vec<u8>,
    /// Names of the outputs that want them.
    pub route: Route,
    /// Where they came from.
    pub parts: Vec<Part>,
    /// The facts.
    pub facts: Vec<Fact>,
    /// The counters.
    pub counters: Counters,
}

/// Why bytes are not a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bad {
    /// Not (all of) a record is there, or a checksum does not fit.
    Damaged,
    /// It was written by a newer version: it holds a section we must not ignore.
    Newer,
}

/// The number under which a record's header names its route: CRC-32 of the sorted output names.
#[must_use]
pub fn route_hash(route: &Route) -> u32 {
    let mut hash = crc32fast::Hasher::new();
    for name in route.outputs() {
        hash.update(name.as_bytes());
        hash.update(b"\n");
    }
    hash.finalize()
}

impl Draft {
    /// The record, without its header; the events' bytes are in it from then on, and no longer here. Of
    /// a large one this takes a good part of the time of writing it: not on the writer's thread.
    ///
    /// # Errors
    /// A text when the body would be larger than [`BODY_BYTES_MAX`] or a fact cannot be written.
    pub(crate) fn take_record(&mut self) -> Result<Record, String> {
        let mut events = std::mem::take(&mut self.events.bytes);
        let bytes = events.len();
        let large = bytes >= LARGE_BYTES_MIN;
        let inside = if large { 0 } else { bytes };
        let mut out = Vec::with_capacity(HEADER_BYTES + inside + 64 * self.parts.len() + 256);
        out.resize(HEADER_BYTES, 0);
        if self.events.count > 0 {
            section(&mut out, SECTION_DIRECTORY, 0, |out| {
                write_parts(out, &self.parts)
            });
            section(&mut out, SECTION_ROUTE, 0, |out| {
                out.extend_from_slice(self.route.outputs().join("\n").as_bytes());
            });
        }
        if !self.facts.is_empty() {
            let mut lines = Vec::new();
            for fact in &self.facts {
                serde_json::to_writer(&mut lines, fact).map_err(|error| error.to_string())?;
                lines.push(b'\n');
            }
            section(&mut out, SECTION_FACTS, SECTION_CRITICAL, |out| {
                out.extend_from_slice(&lines)
            });
        }
        if self.counters != Counters::default() {
            section(&mut out, SECTION_COUNTERS, SECTION_CRITICAL, |out| {
                write_counters(out, &self.counters);
            });
        }
        if self.events.count > 0 {
            section_head(&mut out, SECTION_EVENTS, SECTION_CRITICAL, bytes);
            if !large {
                out.append(&mut events);
            }
        }
        let body = out.len() - HEADER_BYTES + bytes - inside;
        if body > BODY_BYTES_MAX as usize {
            return Err(format!(
                "a record of {body} bytes is larger than {BODY_BYTES_MAX}"
            ));
        }
        let summed = large.then(|| {
            let mut sum = crc32fast::Hasher::new();
            sum.update(&out[HEADER_BYTES..]);
            sum.update(&events);
            sum
        });
        Ok(Record {
            front: out,
            events,
            summed,
        })
    }

    /// The header of this draft at its place in the log; its checksum is [`seal`]'s.
    pub(crate) fn header(&self, number: u64, seq: u64, settled: bool, at: Timestamp) -> Header {
        Header {
            body_bytes: 0,
            body_crc: 0,
            number,
            seq,
            count: self.events.count,
            route: if self.events.count == 0 {
                0
            } else {
                route_hash(&self.route)
            },
            raw_bytes: self.events.raw_bytes,
            zlib: self.events.zlib,
            settled,
            at,
        }
    }
}

/// A record whose place in the log is not known yet, or may change.
#[derive(Debug, Clone)]
pub(crate) struct Record {
    /// Room for the header, which [`Record::seal`] fills in, and what of the body stands before the
    /// events of a large record; of a small one all of it.
    pub(super) front: Vec<u8>,
    /// The events of a large record: they are written from where they were joined.
    events: Vec<u8>,
    /// A large body's own checksum, which saves the writer time.
    summed: Option<crc32fast::Hasher>,
}

/// From this size of the events on joining two checksums is cheaper than going through the body, and
/// a write of two pieces cheaper than copying them. Tests have large ones of any size.
const LARGE_BYTES_MIN: usize = if cfg!(test) { 128 } else { 64 << 10 };

impl Record {
    /// Fills in the header in front of the body, for its place in the log.
    pub(crate) fn seal(&mut self, at: Position, mut header: Header) {
        let body = self.len() - HEADER_BYTES as u64;
        header.body_bytes = u32::try_from(body).expect("checked against BODY_BYTES_MAX");
        header.body_crc = match &self.summed {
            Some(summed) => {
                let mut sum = place_crc(at.segment, header.number);
                sum.combine(summed);
                sum.finalize()
            }
            None => body_crc(at.segment, header.number, &self.front[HEADER_BYTES..]),
        };
        self.front[..HEADER_BYTES].copy_from_slice(&header.write(at));
    }

    /// Bytes of the whole record.
    pub(crate) fn len(&self) -> u64 {
        (self.front.len() + self.events.len()) as u64
    }

    /// Writes it at `at`, its place.
    pub(crate) fn write(&self, file: &dyn DiskFile, at: u64) -> io::Result<()> {
        match self.events.is_empty() {
            true => file.write_at(at, &self.front),
            false => file.write_pieces_at(at, &[&self.front, &self.events]),
        }
    }

    /// The whole record.
    #[cfg(test)]
    pub(crate) fn bytes(&self) -> Vec<u8> {
        [&*self.front, &*self.events].concat()
    }
}

impl Header {
    /// The header's bytes at this place in the log.
    pub(crate) fn write(&self, at: Position) -> [u8; HEADER_BYTES] {
        let mut out = [0; HEADER_BYTES];
        out[0..4].copy_from_slice(&MAGIC);
        LittleEndian::write_u32(&mut out[8..12], self.body_bytes);
        LittleEndian::write_u32(&mut out[12..16], self.body_crc);
        LittleEndian::write_u64(&mut out[16..24], self.number);
        LittleEndian::write_u64(&mut out[24..32], self.seq);
        LittleEndian::write_u32(&mut out[32..36], self.count);
        LittleEndian::write_u32(&mut out[36..40], self.route);
        LittleEndian::write_u32(&mut out[40..44], self.raw_bytes);
        let flag = |set: bool, flag| if set { flag } else { 0 };
        let flags = flag(self.zlib, FLAG_ZLIB) | flag(self.settled, FLAG_SETTLED);
        LittleEndian::write_u32(&mut out[44..48], flags);
        LittleEndian::write_i64(&mut out[48..56], self.at.0);
        let crc = header_crc(at, &out);
        LittleEndian::write_u32(&mut out[4..8], crc);
        out
    }

    /// Reads the header at this place in the log; `None` when these bytes are none.
    pub(crate) fn read(at: Position, bytes: &[u8]) -> Option<Self> {
        let bytes: &[u8; HEADER_BYTES] = bytes.get(..HEADER_BYTES)?.try_into().ok()?;
        if bytes[0..4] != MAGIC || LittleEndian::read_u32(&bytes[4..8]) != header_crc(at, bytes) {
            return None;
        }
        let flags = LittleEndian::read_u32(&bytes[44..48]);
        let header = Self {
            body_bytes: LittleEndian::read_u32(&bytes[8..12]),
            body_crc: LittleEndian::read_u32(&bytes[12..16]),
            number: LittleEndian::read_u64(&bytes[16..24]),
            seq: LittleEndian::read_u64(&bytes[24..32]),
            count: LittleEndian::read_u32(&bytes[32..36]),
            route: LittleEndian::read_u32(&bytes[36..40]),
            raw_bytes: LittleEndian::read_u32(&bytes[40..44]),
            zlib: flags & FLAG_ZLIB != 0,
            settled: flags & FLAG_SETTLED != 0,
            at: Timestamp(LittleEndian::read_i64(&bytes[48..56])),
        };
        (header.body_bytes <= BODY_BYTES_MAX).then_some(header)
    }

    /// Whether `body` is this header's body in segment `segment`.
    pub(crate) fn fits(&self, segment: u64, body: &[u8]) -> bool {
        body.len() == self.body_bytes as usize
            && body_crc(segment, self.number, body) == self.body_crc
    }
}

/// The place is in the checksum, so that a block of an older segment, or one that lies twice, is never
/// taken for a record.
fn header_crc(at: Position, bytes: &[u8; HEADER_BYTES]) -> u32 {
    let mut hash = crc32fast::Hasher::new();
    hash.update(&at.segment.to_le_bytes());
    hash.update(&at.offset.to_le_bytes());
    hash.update(&bytes[8..]);
    hash.finalize()
}

fn body_crc(segment: u64, number: u64, body: &[u8]) -> u32 {
    let mut hash = place_crc(segment, number);
    hash.update(body);
    hash.finalize()
}

/// The checksum of a body, before the body.
fn place_crc(segment: u64, number: u64) -> crc32fast::Hasher {
    let mut hash = crc32fast::Hasher::new();
    hash.update(&segment.to_le_bytes());
    hash.update(&number.to_le_bytes());
    hash
}

impl Body {
    /// Reads a body whose checksum was found right.
    ///
    /// # Errors
    /// [`Bad::Newer`] for an unknown critical section, [`Bad::Damaged`] when it is no body.
    pub fn read(body: &[u8]) -> Result<Self, Bad> {
        let mut read = Self {
            events: Vec::new(),
            route: Route::default(),
            parts: Vec::new(),
            facts: Vec::new(),
            counters: Counters::default(),
        };
        for section in sections(body) {
            let (kind, flags, data) = section?;
            match kind {
                SECTION_EVENTS => read.events = data.to_vec(),
                SECTION_DIRECTORY => read.parts = read_parts(data).ok_or(Bad::Damaged)?,
                SECTION_ROUTE => {
                    let names = std::str::from_utf8(data).map_err(|_| Bad::Damaged)?;
                    read.route = Route::to(
                        names
                            .split('\n')
                            .filter(|n| !n.is_empty())
                            .map(str::to_owned)
                            .collect(),
                    );
                }
                SECTION_FACTS => read.facts = read_facts(data).ok_or(Bad::Damaged)?,
                SECTION_COUNTERS => read.counters = read_counters(data).ok_or(Bad::Damaged)?,
                _ if flags & SECTION_CRITICAL != 0 => return Err(Bad::Newer),
                _ => {}
            }
        }
        Ok(read)
    }
}

fn section(out: &mut Vec<u8>, kind: u16, flags: u16, write: impl FnOnce(&mut Vec<u8>)) {
    let head = out.len();
    section_head(out, kind, flags, 0);
    let start = out.len();
    write(out);
    let mut again = Vec::with_capacity(SECTION_HEAD_BYTES);
    section_head(&mut again, kind, flags, out.len() - start);
    out[head..start].copy_from_slice(&again);
}

/// What a section of so many bytes begins with.
fn section_head(out: &mut Vec<u8>, kind: u16, flags: u16, bytes: usize) {
    let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
    out.extend_from_slice(&kind.to_le_bytes());
    out.extend_from_slice(&flags.to_le_bytes());
    out.extend_from_slice(&bytes.to_le_bytes());
}

fn sections(mut body: &[u8]) -> impl Iterator<Item = Result<(u16, u16, &[u8]), Bad>> {
    std::iter::from_fn(move || {
        if body.is_empty() {
            return None;
        }
        let Some((head, rest)) = body.split_at_checked(SECTION_HEAD_BYTES) else {
            body = &[];
            return Some(Err(Bad::Damaged));
        };
        let bytes = LittleEndian::read_u32(&head[4..8]) as usize;
        let Some((data, rest)) = rest.split_at_checked(bytes) else {
            body = &[];
            return Some(Err(Bad::Damaged));
        };
        body = rest;
        Some(Ok((
            LittleEndian::read_u16(&head[0..2]),
            LittleEndian::read_u16(&head[2..4]),
            data,
        )))
    })
}

fn write_parts(out: &mut Vec<u8>, parts: &[Part]) {
    for part in parts {
        let name = &part.job.as_bytes()[..part.job.len().min(u16::MAX as usize)];
        out.extend_from_slice(&(name.len() as u16).to_le_bytes());
        out.extend_from_slice(name);
        out.push(part.stream.letter() as u8);
        out.extend_from_slice(&part.count.to_le_bytes());
        out.extend_from_slice(&part.first.0.to_le_bytes());
        out.extend_from_slice(&part.last.0.to_le_bytes());
    }
}

fn read_parts(mut data: &[u8]) -> Option<Vec<Part>> {
    let mut parts = Vec::new();
    while !data.is_empty() {
        let (head, rest) = data.split_at_checked(2)?;
        let (name, rest) = rest.split_at_checked(LittleEndian::read_u16(head) as usize)?;
        let (tail, rest) = rest.split_at_checked(21)?;
        parts.push(Part {
            job: std::str::from_utf8(name).ok()?.into(),
            stream: Stream::from_letter(tail[0] as char)?,
            count: LittleEndian::read_u32(&tail[1..5]),
            first: Timestamp(LittleEndian::read_i64(&tail[5..13])),
            last: Timestamp(LittleEndian::read_i64(&tail[13..21])),
        });
        data = rest;
    }
    Some(parts)
}

fn read_facts(data: &[u8]) -> Option<Vec<Fact>> {
    data.split(|byte| *byte == b'\n')
        .filter(|line| !line.is_empty())
        .map(|line| serde_json::from_slice(line).ok())
        .collect()
}

fn write_counters(out: &mut Vec<u8>, counters: &Counters) {
    let Counters {
        framed,
        created,
        bytes_read,
        bytes_framed,
        bytes_cut,
        lines_cut,
        joined_cut,
    } = *counters;
    for value in [
        framed,
        created,
        bytes_read,
        bytes_framed,
        bytes_cut,
        lines_cut,
        joined_cut,
    ] {
        out.extend_from_slice(&value.to_le_bytes());
    }
}

fn read_counters(data: &[u8]) -> Option<Counters> {
    if data.len() != 56 {
        return None;
    }
    let value = |at: usize| LittleEndian::read_u64(&data[at * 8..]);
    Some(Counters {
        framed: value(0),
        created: value(1),
        bytes_read: value(2),
        bytes_framed: value(3),
        bytes_cut: value(4),
        lines_cut: value(5),
        joined_cut: value(6),
    })
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use crate::event::Frames;

    const AT: Position = Position {
        segment: 7,
        offset: 56,
    };

    fn draft() -> Draft {
        let mut frames = Frames::default();
        frames.push(|out| out.extend_from_slice(br#"{"message":"a"}"#));
        frames.push(|out| out.extend_from_slice(br#"{"message":"b"}"#));
        let part = |stream, count| Part {
            job: "disk".into(),
            stream,
            count,
            first: Timestamp(1),
            last: Timestamp(2),
        };
        Draft {
            events: StoredEvents {
                raw_bytes: frames.bytes().len() as u32,
                count: frames.count(),
                bytes: frames.into_bytes(),
                zlib: false,
            },
            route: Route::to(vec!["b".into(), "a".into()]),
            parts: vec![part(Stream::Stdout, 1), part(Stream::Stderr, 1)],
            facts: vec![Fact::Ended {
                job: "disk".into(),
                run: crate::event::RunId::from_text("r"),
                generation: "g".into(),
                trigger: crate::run::Trigger::Schedule,
                outcome: crate::run::Outcome::Success,
                started_at: 1,
                at: 2,
            }],
            counters: Counters {
                framed: 2,
                bytes_read: 4,
                bytes_framed: 4,
                ..Counters::default()
            },
        }
    }

    #[test]
    fn a_record_reads_back_as_written() {
        let draft = draft();
        let mut record = draft.clone().take_record().unwrap();
        record.seal(AT, draft.header(3, 40, false, Timestamp(5)));
        let bytes = record.bytes();
        let header = Header::read(AT, &bytes).unwrap();
        assert_eq!(
            (header.number, header.seq, header.count, header.at),
            (3, 40, 2, Timestamp(5))
        );
        assert!(header.fits(7, &bytes[HEADER_BYTES..]));
        let read = Body::read(&bytes[HEADER_BYTES..]).unwrap();
        assert_eq!(read.events, draft.events.bytes);
        assert_eq!(read.route, draft.route);
        assert_eq!(read.parts, draft.parts);
        assert_eq!(read.facts, draft.facts);
        assert_eq!(read.counters, draft.counters);
    }

    #[test]
    fn a_large_record_has_the_checksum_of_its_place_wherever_it_is_sealed() {
        let mut draft = draft();
        draft.events.bytes = vec![7; 3 * LARGE_BYTES_MIN];
        let mut record = draft.take_record().unwrap();
        assert!(record.summed.is_some());
        for segment in [7, 8] {
            let at = Position { segment, ..AT };
            record.seal(at, draft.header(3, 40, false, Timestamp(5)));
            let bytes = record.bytes();
            let header = Header::read(at, &bytes).unwrap();
            assert!(header.fits(segment, &bytes[HEADER_BYTES..]));
            assert!(!header.fits(segment + 1, &bytes[HEADER_BYTES..]));
        }
    }

    #[test]
    fn every_flipped_bit_and_every_cut_of_a_record_is_seen() {
        let mut draft = draft();
        let mut record = draft.take_record().unwrap();
        record.seal(AT, draft.header(3, 40, false, Timestamp(5)));
        let mut bytes = record.bytes();
        let whole = |bytes: &[u8]| {
            Header::read(AT, bytes).is_some_and(|header| header.fits(7, &bytes[HEADER_BYTES..]))
        };
        assert!(whole(&bytes));
        for bit in 0..bytes.len() * 8 {
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert!(!whole(&bytes), "bit {bit}");
            bytes[bit / 8] ^= 1 << (bit % 8);
        }
        for cut in 0..bytes.len() {
            assert!(!whole(&bytes[..cut]), "cut at {cut}");
        }
        let other = Position { segment: 8, ..AT };
        let behind = Position { offset: 57, ..AT };
        assert!(
            [other, behind]
                .iter()
                .all(|at| Header::read(*at, &bytes).is_none()),
            "a record of another segment is no record here"
        );
    }

    #[test]
    fn an_unknown_optional_section_is_skipped_and_a_critical_one_refused() {
        let record = draft().take_record().unwrap();
        let mut body = record.bytes().split_off(HEADER_BYTES);
        section(&mut body, 999, 0, |out| out.extend_from_slice(b"later"));
        assert_eq!(Body::read(&body).unwrap().parts.len(), 2);
        section(&mut body, 999, SECTION_CRITICAL, |out| {
            out.extend_from_slice(b"later")
        });
        assert_eq!(Body::read(&body).unwrap_err(), Bad::Newer);
    }
}
