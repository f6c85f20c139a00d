//! A disk in memory whose power can be cut, for tests.
//!
//! Keeps what was written apart from what was synced, and fails on demand.

#![expect(
    clippy::unwrap_used,
    reason = "a poisoned lock means that a test has failed already"
)]

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::Mutex;

use super::Disk;
use super::DiskFile;
use super::Entry;
use super::Open;
use super::Replace;

/// What fails next.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Fault {
    /// Nothing.
    #[default]
    None,
    /// Writes give ENOSPC after half of their bytes.
    WritesFull,
    /// The next sync gives EIO, once.
    NextSync,
    /// The next sync gives EIO, and the disk is full from then on.
    NextSyncThenFull,
    /// Writes give ENOSPC until this file is removed.
    FullUntilRemoved(&'static str),
}

#[derive(Debug, Clone, Default)]
struct Content {
    live: Vec<u8>,
    synced: Vec<u8>,
    /// Ranges written since the last sync, oldest first.
    unsynced: Vec<(u64, Vec<u8>)>,
    /// Whether the name survives a power cut.
    linked: bool,
}

#[derive(Debug, Default)]
struct State {
    files: BTreeMap<PathBuf, Arc<Mutex<Content>>>,
    fault: Fault,
}

impl State {
    fn is_full(&self) -> bool {
        match self.fault {
            Fault::WritesFull => true,
            Fault::FullUntilRemoved(path) => self.files.contains_key(Path::new(path)),
            Fault::None | Fault::NextSync | Fault::NextSyncThenFull => false,
        }
    }
}

/// The disk.
#[derive(Debug, Clone, Default)]
pub(crate) struct MemDisk(Arc<Mutex<State>>);

#[derive(Debug)]
struct MemFile {
    content: Arc<Mutex<Content>>,
    disk: MemDisk,
}

impl MemDisk {
    /// Sets what fails from now on.
    pub(crate) fn fail(&self, fault: Fault) {
        self.0.lock().unwrap().fault = fault;
    }

    /// The disk after a power cut: of what was not synced, the first `kept` bytes of each file survived.
    pub(crate) fn crash(&self, kept: usize) -> Self {
        let state = self.0.lock().unwrap();
        let mut files = BTreeMap::new();
        for (path, content) in &state.files {
            let content = content.lock().unwrap();
            if !content.linked {
                continue;
            }
            let mut bytes = content.synced.clone();
            let mut left = kept;
            for (offset, written) in &content.unsynced {
                let part = &written[..written.len().min(left)];
                left -= part.len();
                put(&mut bytes, *offset, part);
            }
            let survived = Content {
                live: bytes.clone(),
                synced: bytes,
                unsynced: Vec::new(),
                linked: true,
            };
            files.insert(path.clone(), Arc::new(Mutex::new(survived)));
        }
        Self(Arc::new(Mutex::new(State {
            files,
            fault: Fault::None,
        })))
    }
}

fn put(bytes: &mut Vec<u8>, offset: u64, part: &[u8]) {
    if part.is_empty() {
        return;
    }
    let offset = offset as usize;
    if bytes.len() < offset + part.len() {
        bytes.resize(offset + part.len(), 0);
    }
    bytes[offset..offset + part.len()].copy_from_slice(part);
}

impl DiskFile for MemFile {
    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let full = self.disk.0.lock().unwrap().is_full();
        let part = if full {
            &bytes[..bytes.len() / 2]
        } else {
            bytes
        };
        let mut content = self.content.lock().unwrap();
        put(&mut content.live, offset, part);
        content.unsynced.push((offset, part.to_vec()));
        if full {
            Err(io::ErrorKind::StorageFull.into())
        } else {
            Ok(())
        }
    }

    fn read_at(&self, offset: u64, into: &mut [u8]) -> io::Result<usize> {
        let content = self.content.lock().unwrap();
        let from = (offset as usize).min(content.live.len());
        let read = into.len().min(content.live.len() - from);
        into[..read].copy_from_slice(&content.live[from..from + read]);
        Ok(read)
    }

    fn sync(&self) -> io::Result<()> {
        let mut state = self.disk.0.lock().unwrap();
        let mut content = self.content.lock().unwrap();
        let then = match state.fault {
            Fault::NextSync => Some(Fault::None),
            Fault::NextSyncThenFull => Some(Fault::WritesFull),
            _ => None,
        };
        if let Some(then) = then {
            state.fault = then;
            // As on ext4: the pages are marked clean, and what was not written stays unwritten.
            content.unsynced.clear();
            return Err(io::Error::other("input/output error"));
        }
        content.synced = content.live.clone();
        content.unsynced.clear();
        Ok(())
    }

    fn truncate(&self, bytes: u64) -> io::Result<()> {
        let mut content = self.content.lock().unwrap();
        content.live.resize(bytes as usize, 0);
        Ok(())
    }

    fn size(&self) -> io::Result<u64> {
        Ok(self.content.lock().unwrap().live.len() as u64)
    }

    fn reserve(&self, bytes: u64) -> io::Result<()> {
        self.truncate(bytes)
    }
}

impl Disk for MemDisk {
    fn open(&self, path: &Path, how: Open) -> io::Result<Arc<dyn DiskFile>> {
        let mut state = self.0.lock().unwrap();
        let there = state.files.get(path).cloned();
        let content = match (there, how) {
            (Some(_), Open::CreateNew) => return Err(io::ErrorKind::AlreadyExists.into()),
            (Some(content), _) => content,
            (None, Open::CreateNew) => {
                let content = Arc::new(Mutex::new(Content::default()));
                state.files.insert(path.to_path_buf(), content.clone());
                content
            }
            (None, _) => return Err(io::ErrorKind::NotFound.into()),
        };
        Ok(Arc::new(MemFile {
            content,
            disk: self.clone(),
        }))
    }

    fn replace(&self, path: &Path, bytes: &[u8], how: Replace) -> io::Result<()> {
        let mut state = self.0.lock().unwrap();
        if state.is_full() {
            return Err(io::ErrorKind::StorageFull.into());
        }
        let durable = how == Replace::Durable;
        let synced = if durable { bytes.to_vec() } else { Vec::new() };
        let content = Content {
            live: bytes.to_vec(),
            synced,
            unsynced: Vec::new(),
            linked: durable,
        };
        state
            .files
            .insert(path.to_path_buf(), Arc::new(Mutex::new(content)));
        Ok(())
    }

    fn read(&self, path: &Path, _max: u64) -> io::Result<Vec<u8>> {
        let state = self.0.lock().unwrap();
        let content = state.files.get(path).ok_or(io::ErrorKind::NotFound)?;
        let live = content.lock().unwrap().live.clone();
        Ok(live)
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<Entry>> {
        let state = self.0.lock().unwrap();
        let inside = state
            .files
            .iter()
            .filter(|(path, _)| path.parent() == Some(dir));
        Ok(inside
            .map(|(path, content)| Entry {
                name: path.file_name().unwrap().to_string_lossy().into_owned(),
                bytes: content.lock().unwrap().live.len() as u64,
                is_dir: false,
            })
            .collect())
    }

    fn make_dir(&self, _dir: &Path) -> io::Result<()> {
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let removed = self.0.lock().unwrap().files.remove(path);
        removed
            .map(|_| ())
            .ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        for (path, content) in &self.0.lock().unwrap().files {
            if path.parent() == Some(dir) {
                content.lock().unwrap().linked = true;
            }
        }
        Ok(())
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut state = self.0.lock().unwrap();
        let content = state.files.remove(from).ok_or(io::ErrorKind::NotFound)?;
        state.files.insert(to.to_path_buf(), content);
        Ok(())
    }

    fn free_bytes(&self, _dir: &Path) -> io::Result<u64> {
        Ok(u64::MAX)
    }
}
