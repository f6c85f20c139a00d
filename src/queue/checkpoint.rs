//! Checkpoints: the ledger at a place in the log, so that recovery reads what came after, not all.
//!
//! Two are kept. One that cannot be read costs time, never events.

use std::io;
use std::path::Path;

use byteorder::ByteOrder;
use byteorder::LittleEndian;
use serde::Deserialize;
use serde::Serialize;

use super::ledger::Ledger;
use super::quarantine;
use super::recover::OpenError;
use super::segment;
use super::segment::BadHead;
use super::segment::Position;
use crate::disk::Disk;
use crate::disk::Entry;
use crate::disk::EntryKind;
use crate::disk::Replace;

const MAGIC: [u8; 8] = *b"SPLBCKP\n";
const VERSION: u32 = 1;
const HEAD_BYTES: usize = 16;

/// Largest checkpoint that is read: 100,000 jobs with long names, several times over.
const BYTES_MAX: u64 = 256 << 20;

/// The state of the queue at a place in the log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Checkpoint {
    /// Which checkpoint this is; they count up.
    pub id: u64,
    /// How often the queue had been opened.
    pub epoch: u32,
    /// Where the log goes on from here.
    pub at: Position,
    /// What the records before that add up to.
    pub ledger: Ledger,
}

impl Checkpoint {
    fn bytes(&self) -> io::Result<Vec<u8>> {
        let mut out = vec![0; HEAD_BYTES];
        serde_json::to_writer(&mut out, self)?;
        out[0..8].copy_from_slice(&MAGIC);
        LittleEndian::write_u32(&mut out[8..12], VERSION);
        let crc = crc(VERSION, &out[HEAD_BYTES..]);
        LittleEndian::write_u32(&mut out[12..16], crc);
        Ok(out)
    }

    fn read(bytes: &[u8]) -> Result<Self, BadHead> {
        let (head, body) = bytes.split_at_checked(HEAD_BYTES).ok_or(BadHead::Damaged)?;
        let version = LittleEndian::read_u32(&head[8..12]);
        let fits =
            head[0..8] == MAGIC && LittleEndian::read_u32(&head[12..16]) == crc(version, body);
        match version {
            _ if !fits => Err(BadHead::Damaged),
            VERSION => serde_json::from_slice(body).map_err(|_| BadHead::Damaged),
            newer => Err(BadHead::Newer(newer)),
        }
    }

    /// Writes it durably; returns its size in bytes.
    ///
    /// # Errors
    /// What the disk said; the older checkpoints stay.
    pub(crate) fn store(&self, disk: &dyn Disk, dir: &Path) -> io::Result<u64> {
        let bytes = self.bytes()?;
        disk.replace(&dir.join(file_name(self.id)), &bytes, Replace::Durable)?;
        Ok(bytes.len() as u64)
    }
}

/// The version is in the checksum: a flipped bit in it must not look like a newer program's work.
fn crc(version: u32, body: &[u8]) -> u32 {
    let mut hash = crc32fast::Hasher::new();
    hash.update(&version.to_le_bytes());
    hash.update(body);
    hash.finalize()
}

fn file_name(id: u64) -> String {
    format!("checkpoint-{id:016x}")
}

fn id_of(file_name: &str) -> Option<u64> {
    let hex = file_name.strip_prefix("checkpoint-")?;
    let id = u64::from_str_radix(hex, 16).ok()?;
    (hex.len() == 16 && id < segment::ID_END).then_some(id)
}

fn id_of_file(entry: &Entry) -> Option<u64> {
    id_of(&entry.name).filter(|_| entry.kind == EntryKind::File)
}

/// The checkpoints of a folder.
#[derive(Debug)]
pub(crate) struct All {
    /// Those that can be read, newest first.
    pub(crate) readable: Vec<Checkpoint>,
    /// The highest id of all, readable or not: what comes next must win over them.
    pub(crate) last_id: u64,
}

/// Looks at the checkpoints in `dir`.
///
/// # Errors
/// [`OpenError`]: the disk fails for now, or one is of a newer version.
pub(crate) fn all(disk: &dyn Disk, dir: &Path) -> Result<All, OpenError> {
    let at_dir = |error| OpenError::Disk {
        path: dir.to_path_buf(),
        error,
    };
    let entries = disk.list(dir).map_err(at_dir)?;
    // Also of what is no file: its name is not used.
    let named = entries.iter().filter_map(|entry| id_of(&entry.name));
    let mut found = All {
        readable: Vec::new(),
        last_id: named.max().unwrap_or_default(),
    };
    let mut ids: Vec<u64> = entries.iter().filter_map(id_of_file).collect();
    ids.sort_unstable_by(|a, b| b.cmp(a));
    for id in ids {
        let path = dir.join(file_name(id));
        match disk
            .read(&path, BYTES_MAX)
            .map(|bytes| Checkpoint::read(&bytes))
        {
            Ok(Ok(checkpoint)) if checkpoint.id == id => found.readable.push(checkpoint),
            Ok(Err(BadHead::Newer(version))) => {
                let what = format!("format {version}");
                return Err(OpenError::Newer { path, what });
            }
            Ok(_) => {
                tracing::warn!(checkpoint = id, "checkpoint is damaged and was passed over");
            }
            Err(error)
                if quarantine::is_lasting(&error) || error.kind() == io::ErrorKind::InvalidData =>
            {
                tracing::warn!(checkpoint = id, %error, "checkpoint could not be read and was passed over");
            }
            // It may be readable in a moment: what it knows must not be forgotten for that.
            Err(error) => return Err(OpenError::Disk { path, error }),
        }
    }
    Ok(found)
}

/// How many checkpoints can be read, and how many there are.
///
/// # Errors
/// [`OpenError`]: the folder cannot be listed, or one is of a newer version.
pub(crate) fn count(disk: &dyn Disk, dir: &Path) -> Result<(usize, usize), OpenError> {
    let at_dir = |error| OpenError::Disk {
        path: dir.to_path_buf(),
        error,
    };
    let entries = disk.list(dir).map_err(at_dir)?;
    let files = entries.iter().filter_map(id_of_file);
    Ok((all(disk, dir)?.readable.len(), files.count()))
}

/// Removes all checkpoints but these.
///
/// # Errors
/// What the disk said.
pub(crate) fn prune(disk: &dyn Disk, dir: &Path, keep: [u64; 2]) -> io::Result<()> {
    for entry in disk.list(dir)? {
        if id_of_file(&entry).is_some_and(|id| !keep.contains(&id)) {
            disk.remove(&dir.join(&entry.name))?;
        }
    }
    Ok(())
}
