//! Settled damage: what cannot be read of the queue, a person has seen, and lies in quarantine.
//!
//! Numbers are given once, so a range of them names a place for good. Nothing depends on this file but
//! what is called damaged: one that is lost or unreadable settles nothing. Must never decide what is
//! damaged.

use std::io;
use std::path::Path;

use serde::Deserialize;
use serde::Serialize;

use super::verify::Place;
use crate::disk::Disk;
use crate::disk::Replace;

/// Name of the file.
pub(super) const FILE: &str = "settled";

/// Most ranges that are kept, the newest: ten times as many places as a verdict names.
const RANGES_MAX: usize = 10_000;

/// Largest file: so many ranges of large numbers, twice.
const BYTES_MAX: u64 = 2 << 20;

/// Numbers, from the first to the one behind the last.
type Range = (u64, u64);

/// Damage that was settled.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Settled {
    records: Vec<Range>,
    events: Vec<Range>,
    /// Segments whose heads are no heads.
    heads: Vec<u64>,
}

impl Settled {
    /// What is settled in the queue in `dir`.
    pub(super) fn read(disk: &dyn Disk, dir: &Path) -> Self {
        let bytes = disk.read(&dir.join(FILE), BYTES_MAX).unwrap_or_default();
        let text = String::from_utf8(bytes).unwrap_or_default();
        // A flipped bit must not settle what nobody has seen.
        let fits = |(crc, json): &(&str, &str)| *crc == check(json);
        let json = text.trim_end().split_once(' ').filter(fits);
        json.and_then(|(_, json)| serde_json::from_str(json).ok())
            .unwrap_or_default()
    }

    /// Makes it durable.
    pub(super) fn store(&self, disk: &dyn Disk, dir: &Path) -> io::Result<()> {
        let json = serde_json::to_string(self)?;
        let text = format!("{} {json}\n", check(&json));
        disk.replace(&dir.join(FILE), text.as_bytes(), Replace::Durable)
    }

    /// Whether this place is settled.
    #[must_use]
    pub fn covers(&self, place: &Place) -> bool {
        match place.lost {
            Some(lost) => self.covers_records(lost.records) && within(&self.events, lost.events),
            None => self.covers_head(place.from.segment),
        }
    }

    pub(super) fn covers_records(&self, records: Range) -> bool {
        within(&self.records, records)
    }

    pub(super) fn covers_head(&self, segment: u64) -> bool {
        self.heads.contains(&segment)
    }

    pub(super) fn add(&mut self, place: &Place) {
        match place.lost {
            Some(lost) => {
                add(&mut self.records, lost.records);
                add(&mut self.events, lost.events);
            }
            None if self.covers_head(place.from.segment) => {}
            None => self.heads.push(place.from.segment),
        }
    }

    /// Forgets what lay before the oldest segment that is kept, and its first record and event; not
    /// what lay just before them, which an output may not have passed.
    pub(super) fn forget_before(&mut self, segment: u64, record: u64, event: u64) {
        self.records.retain(|(_, end)| *end >= record);
        self.events.retain(|(_, end)| *end >= event);
        self.heads.retain(|head| *head >= segment);
        for ranges in [&mut self.records, &mut self.events] {
            ranges.drain(..ranges.len().saturating_sub(RANGES_MAX));
        }
        self.heads
            .drain(..self.heads.len().saturating_sub(RANGES_MAX));
    }
}

fn check(json: &str) -> String {
    format!("{:08x}", crc32fast::hash(json.as_bytes()))
}

/// Whether one of the ranges holds all of this one.
fn within(ranges: &[Range], (from, to): Range) -> bool {
    from >= to || ranges.iter().any(|range| range.0 <= from && to <= range.1)
}

/// Adds a range; those that touch become one.
fn add(ranges: &mut Vec<Range>, (mut from, mut to): Range) {
    if from >= to {
        return;
    }
    ranges.retain(|range| {
        let touches = range.0 <= to && from <= range.1;
        if touches {
            (from, to) = (from.min(range.0), to.max(range.1));
        }
        !touches
    });
    ranges.push((from, to));
    ranges.sort_unstable();
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use crate::disk::mem::MemDisk;
    use crate::queue::segment::Position;
    use crate::queue::verify::Lost;

    fn place(records: Range, events: Range) -> Place {
        Place {
            from: Position::default(),
            to: Position::default(),
            lost: Some(Lost { records, events }),
        }
    }

    #[test]
    fn what_is_settled_stays_so_until_it_is_gone_and_nothing_else_is() {
        let disk = MemDisk::default();
        let dir = Path::new("/q");
        disk.make_dir(dir).unwrap();
        let head = Place {
            lost: None,
            ..place((0, 0), (0, 0))
        };
        let mut settled = Settled::default();
        for one in [
            place((7, 9), (70, 90)),
            place((3, 5), (30, 50)),
            place((5, 6), (50, 50)),
            head,
        ] {
            assert!(!settled.covers(&one));
            settled.add(&one);
            assert!(settled.covers(&one));
        }
        settled.store(&disk, dir).unwrap();
        assert_eq!(Settled::read(&disk, dir), settled);
        for (records, events, covered) in [
            ((3, 6), (30, 50), true),
            ((8, 9), (80, 90), true),
            ((8, 8), (70, 71), true),
            ((5, 8), (50, 80), false),
            ((7, 9), (69, 90), false),
            ((2, 5), (30, 50), false),
        ] {
            assert_eq!(settled.covers(&place(records, events)), covered);
        }
        settled.forget_before(1, 7, 51);
        assert!(settled.covers(&place((7, 9), (70, 90))));
        assert!(!settled.covers(&place((3, 5), (30, 50))) && !settled.covers_head(0));
    }

    #[test]
    fn a_bit_that_was_flipped_in_it_settles_nothing() {
        let disk = MemDisk::default();
        let dir = Path::new("/q");
        disk.make_dir(dir).unwrap();
        let mut settled = Settled::default();
        settled.add(&place((3, 5), (30, 50)));
        settled.store(&disk, dir).unwrap();
        let whole = disk.read(&dir.join(FILE), BYTES_MAX).unwrap();
        for bit in 0..(whole.len() - 1) * 8 {
            let mut bytes = whole.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            disk.replace(&dir.join(FILE), &bytes, Replace::Quick)
                .unwrap();
            assert_eq!(Settled::read(&disk, dir), Settled::default(), "bit {bit}");
        }
    }
}
