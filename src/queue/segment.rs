//! Segments: the files that records lie in, one after the other. FORMAT.md shows each byte.
//!
//! Sealed segments never change and no header is rewritten. Knows nothing of what records mean.

use byteorder::ByteOrder;
use byteorder::LittleEndian;

use crate::units::Timestamp;

/// How every segment begins.
pub(crate) const MAGIC: [u8; 8] = *b"SPLBSEG\n";

/// Version of the on-disk format; a newer one is refused, untouched.
pub const VERSION: u32 = 1;

/// Length of a segment's header.
pub const HEAD_BYTES: usize = 56;

/// A place in the log: the start of a record, or the end of the last one.
#[derive(
    Debug,
    Clone,
    Copy,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Default,
    serde::Serialize,
    serde::Deserialize,
)]
pub struct Position {
    /// Id of the segment; they count up.
    pub segment: u64,
    /// Offset in it.
    pub offset: u64,
}

/// A segment's header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Head {
    /// How often the queue had been opened when it was made: the same event number in a later
    /// epoch is another event.
    pub epoch: u32,
    /// Its id; the file's name says the same.
    pub id: u64,
    /// Number of the first event in it.
    pub first_seq: u64,
    /// Number of the first record in it. Records of earlier segments with this number or a higher
    /// one are void: they were written again here after a failed sync.
    pub first_number: u64,
    /// When it was made.
    pub created: Timestamp,
}

/// Why a file is not a segment that we can read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BadHead {
    /// Not (all of) a header is there, or it is another segment's.
    Damaged,
    /// A newer format.
    Newer(u32),
}

impl Head {
    /// The header's bytes.
    pub(crate) fn write(&self) -> [u8; HEAD_BYTES] {
        let mut out = [0; HEAD_BYTES];
        out[0..8].copy_from_slice(&MAGIC);
        LittleEndian::write_u32(&mut out[8..12], VERSION);
        LittleEndian::write_u32(&mut out[12..16], self.epoch);
        LittleEndian::write_u64(&mut out[16..24], self.id);
        LittleEndian::write_u64(&mut out[24..32], self.first_seq);
        LittleEndian::write_u64(&mut out[32..40], self.first_number);
        LittleEndian::write_i64(&mut out[40..48], self.created.0);
        let crc = crc32fast::hash(&out[..48]);
        LittleEndian::write_u32(&mut out[48..52], crc);
        out
    }

    /// Reads the header of the segment that its file's name calls `id`.
    ///
    /// # Errors
    /// [`BadHead`].
    pub(crate) fn read(id: u64, bytes: &[u8]) -> Result<Self, BadHead> {
        let bytes = bytes.get(..HEAD_BYTES).ok_or(BadHead::Damaged)?;
        if bytes[0..8] != MAGIC
            || crc32fast::hash(&bytes[..48]) != LittleEndian::read_u32(&bytes[48..52])
        {
            return Err(BadHead::Damaged);
        }
        let version = LittleEndian::read_u32(&bytes[8..12]);
        if version != VERSION {
            return Err(BadHead::Newer(version));
        }
        let head = Self {
            epoch: LittleEndian::read_u32(&bytes[12..16]),
            id: LittleEndian::read_u64(&bytes[16..24]),
            first_seq: LittleEndian::read_u64(&bytes[24..32]),
            first_number: LittleEndian::read_u64(&bytes[32..40]),
            created: Timestamp(LittleEndian::read_i64(&bytes[40..48])),
        };
        if head.id == id {
            Ok(head)
        } else {
            Err(BadHead::Damaged)
        }
    }
}

/// File name of segment `id`.
#[must_use]
pub fn file_name(id: u64) -> String {
    format!("{id:016x}.seg")
}

/// Ids from here on are nobody's: we never count so far, and a file that was renamed to one would
/// leave no ids behind it.
pub(crate) const ID_END: u64 = 1 << 63;

/// The segment that a file name means, if it means one.
#[must_use]
pub fn id_of(file_name: &str) -> Option<u64> {
    let hex = file_name.strip_suffix(".seg")?;
    let id = u64::from_str_radix(hex, 16).ok()?;
    (hex.len() == 16 && id < ID_END).then_some(id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_reads_back_and_any_damage_or_wrong_name_is_seen() {
        let head = Head {
            epoch: 2,
            id: 9,
            first_seq: 10,
            first_number: 3,
            created: Timestamp(1),
        };
        let mut bytes = head.write();
        assert_eq!(Head::read(9, &bytes), Ok(head));
        assert_eq!(Head::read(8, &bytes), Err(BadHead::Damaged));
        for bit in 0..52 * 8 {
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(Head::read(9, &bytes), Err(BadHead::Damaged));
            bytes[bit / 8] ^= 1 << (bit % 8);
        }
        LittleEndian::write_u32(&mut bytes[8..12], 2);
        let crc = crc32fast::hash(&bytes[..48]);
        LittleEndian::write_u32(&mut bytes[48..52], crc);
        assert_eq!(Head::read(9, &bytes), Err(BadHead::Newer(2)));
    }

    #[test]
    fn names_sort_as_their_ids_and_strange_names_are_none() {
        assert!(file_name(9) < file_name(10));
        assert_eq!(id_of(&file_name(ID_END - 1)), Some(ID_END - 1));
        assert_eq!(id_of(&file_name(u64::MAX)), None);
        for strange in [
            "1.seg",
            "reserve",
            "000000000000000g.seg",
            "0000000000000001.seg.bak",
        ] {
            assert_eq!(id_of(strange), None);
        }
    }
}
