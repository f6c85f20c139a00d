//! What a harvested file is known by: object, beginning, state, and its path as text.
//!
//! An inode is no identity: ext4 gives a freed one to the next file at once. Device, inode, time of
//! birth and the hash of what was read first are, taken together. Pure words; must never touch a disk.

use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::ffi::OsStringExt;
use std::path::Path;
use std::path::PathBuf;

use serde::Deserialize;
use serde::Serialize;

/// How much of a file's beginning tells it from others: long enough to get past a common header
/// line, short enough to be read at each look.
pub const HEAD_BYTES_MAX: u32 = 1 << 10;

/// Which object of a file system it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct FileId {
    /// Device number.
    pub device: u64,
    /// Inode number.
    pub inode: u64,
    /// Time of birth in nanoseconds since 1970; 0 where the file system does not keep it.
    pub born: i64,
}

/// What of a file changes when somebody changes the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Stamp {
    /// Size in bytes.
    pub bytes: u64,
    /// Last change of content, nanoseconds since 1970; anybody may set it back.
    pub mtime: i64,
    /// Last change of content, name, mode or owner; no tool sets it back. A rename changes it too.
    pub ctime: i64,
}

/// The hash of a file's first bytes: FNV-1a with 64 bits, which can be continued as a file grows.
/// Only equality matters, and whoever forges a collision hides lines of their own file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Head {
    /// How many bytes it covers, at most [`HEAD_BYTES_MAX`].
    pub bytes: u32,
    /// Their hash.
    pub hash: u64,
}

impl Default for Head {
    fn default() -> Self {
        Self {
            bytes: 0,
            hash: 0xcbf2_9ce4_8422_2325,
        }
    }
}

impl Head {
    /// Continues with the bytes that follow, as far as it covers any more.
    pub fn extend(&mut self, bytes: &[u8]) {
        let room = HEAD_BYTES_MAX.saturating_sub(self.bytes) as usize;
        for byte in bytes.iter().take(room) {
            self.hash = (self.hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
            self.bytes += 1;
        }
    }

    /// Whether a file that begins with `bytes` may be the one that this was taken of.
    #[must_use]
    pub fn fits(&self, bytes: &[u8]) -> bool {
        let mut other = Self::default();
        other.extend(&bytes[..bytes.len().min(self.bytes as usize)]);
        other == *self
    }
}

/// A path as text without loss: what is not UTF-8, control characters and the backslash become `\xNN`.
#[must_use]
pub fn path_text(path: &Path) -> String {
    let mut text = String::new();
    for chunk in path.as_os_str().as_bytes().utf8_chunks() {
        for c in chunk.valid().chars() {
            if c == '\\' || c.is_control() {
                let mut bytes = [0; 4];
                for byte in c.encode_utf8(&mut bytes).bytes() {
                    text.push_str(&format!("\\x{byte:02x}"));
                }
            } else {
                text.push(c);
            }
        }
        for byte in chunk.invalid() {
            text.push_str(&format!("\\x{byte:02x}"));
        }
    }
    text
}

/// The path that [`path_text`] wrote as `text`.
#[must_use]
pub fn path_of(text: &str) -> PathBuf {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        let escaped = after
            .strip_prefix(b"x")
            .and_then(|hex| std::str::from_utf8(hex.get(..2)?).ok())
            .and_then(|hex| u8::from_str_radix(hex, 16).ok());
        match (first, escaped) {
            (b'\\', Some(byte)) => {
                bytes.push(byte);
                rest = &after[3..];
            }
            _ => {
                bytes.push(*first);
                rest = after;
            }
        }
    }
    PathBuf::from(OsString::from_vec(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_head_is_the_same_in_one_piece_and_in_many() {
        let bytes: Vec<u8> = (0..3000_u32).map(|n| n as u8).collect();
        let mut whole = Head::default();
        whole.extend(&bytes);
        let mut pieces = Head::default();
        for piece in bytes.chunks(7) {
            pieces.extend(piece);
        }
        assert_eq!(whole, pieces);
        assert!(whole.fits(&bytes) && !whole.fits(&bytes[1..]) && !whole.fits(&bytes[..10]));
    }

    proptest! {
        #[test]
        fn names_of_any_bytes_survive_as_text(bytes in proptest::collection::vec(1..=255_u8, 0..40)) {
            let path = PathBuf::from(OsString::from_vec(bytes));
            let text = path_text(&path);
            prop_assert!(!text.contains(char::is_control));
            prop_assert_eq!(path_of(&text), path);
        }
    }
}
