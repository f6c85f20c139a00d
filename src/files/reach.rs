//! The way to harvested files: found by name, opened below a folder without following a link, read,
//! and cleaned up. All access to files of others goes through here, so that one place decides with
//! whose rights.
//!
//! The folder that a glob or a root begins with is taken as its writer means it; what lies below
//! belongs to somebody else: no link is followed there, nothing but plain files is opened, and no
//! open waits for the other end of a FIFO. Must never know jobs, lines or outputs.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::os::fd::AsRawFd;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::path::Component;
use std::path::Path;
use std::path::PathBuf;

use rustix::fs::AtFlags;
use rustix::fs::Mode;
use rustix::fs::OFlags;
use rustix::fs::ResolveFlags;
use rustix::fs::StatxFlags;
use rustix::io::Errno;
use walkdir::WalkDir;

use crate::disk;
use crate::fileid::FileId;
use crate::fileid::HEAD_BYTES_MAX;
use crate::fileid::Head;
use crate::fileid::Stamp;

mod release;

pub use release::Done;
pub use release::Order;
pub use release::release;

/// What a walk found.
#[derive(Debug, Default)]
pub struct Walked {
    /// Plain files that were wanted, in the order of their names.
    pub files: Vec<(PathBuf, Meta)>,
    /// The folders that were looked into.
    pub folders: Vec<PathBuf>,
    /// Entries that were wanted and are no plain files: links, FIFOs, devices.
    pub strange: u64,
    /// Entries that could not be looked at, and why the first could not.
    pub unreadable: (u64, Option<String>),
    /// Whether the walk ended because there is too much to look at.
    pub overfull: bool,
}

/// Looks for the plain files that `wanted` names, `depth` deep below `base`, among `entries_max`
/// entries at most.
///
/// # Errors
/// What the operating system said of `base` itself.
pub fn walk(
    base: &Path,
    depth: usize,
    entries_max: usize,
    wanted: impl Fn(&Path) -> bool,
) -> io::Result<Walked> {
    let mut walked = Walked::default();
    let entries = WalkDir::new(base)
        .max_depth(depth)
        .sort_by_file_name()
        .into_iter();
    for (count, entry) in entries.enumerate() {
        if count > entries_max {
            walked.overfull = true;
            break;
        }
        let entry = match entry {
            Ok(entry) => entry,
            Err(error) => {
                let at_base = error.depth() == 0;
                let text = error.to_string();
                let error = io::Error::from(error);
                if at_base {
                    return Err(error);
                }
                if error.kind() != io::ErrorKind::NotFound {
                    walked.unreadable.0 += 1;
                    walked.unreadable.1.get_or_insert(text);
                }
                continue;
            }
        };
        let kind = entry.file_type();
        if kind.is_dir() || entry.depth() == 0 {
            walked.folders.push(entry.into_path());
        } else if wanted(entry.path()) {
            match meta_at(rustix::fs::CWD, entry.path(), AtFlags::empty()) {
                Ok(meta) if meta.is_plain => walked.files.push((entry.into_path(), meta)),
                // Gone meanwhile.
                Err(_) => {}
                Ok(_) => walked.strange += 1,
            }
        }
    }
    Ok(walked)
}

/// What a file is like at one look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Meta {
    /// Which object it is.
    pub id: FileId,
    /// Size and times.
    pub stamp: Stamp,
    /// How many names it has.
    pub links: u32,
    /// Whether it is a plain file.
    pub is_plain: bool,
}

/// An open file, for reading.
#[derive(Debug)]
pub struct Handle(File);

impl Handle {
    /// What it is like now.
    ///
    /// # Errors
    /// What the operating system said.
    pub fn meta(&self) -> io::Result<Meta> {
        meta_at(&self.0, "", AtFlags::EMPTY_PATH)
    }

    /// Reads at `offset`; 0 only at the end of the file.
    ///
    /// # Errors
    /// What the operating system said.
    pub fn read_at(&self, offset: u64, into: &mut [u8]) -> io::Result<usize> {
        loop {
            match self.0.read_at(into, offset) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                other => return other,
            }
        }
    }

    /// Whether it still begins as it did when `head` was taken.
    ///
    /// # Errors
    /// What the operating system said.
    pub fn begins_with(&self, head: &Head) -> io::Result<bool> {
        let mut bytes = [0; HEAD_BYTES_MAX as usize];
        let mut filled = 0;
        while filled < head.bytes as usize {
            match self.read_at(filled as u64, &mut bytes[filled..head.bytes as usize])? {
                0 => break,
                n => filled += n,
            }
        }
        Ok(head.fits(&bytes[..filled]))
    }

    /// Whether somebody has it open for writing; `None` where the system does not say: it takes the
    /// rights of the file's owner, and a file system that knows leases.
    #[must_use]
    pub fn has_writer(&self) -> Option<bool> {
        match crate::process::lease(&self.0, crate::process::LeaseKind::NoWriters) {
            Ok(held) => {
                drop(held);
                Some(false)
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Some(true),
            Err(_) => None,
        }
    }
}

/// A folder held open, below which files are reached.
#[derive(Debug)]
pub struct Base {
    folder: OwnedFd,
    path: PathBuf,
}

impl Base {
    /// Opens the folder; links on the way to it are followed. For a user whose rights this thread has
    /// borrowed those of `/proc` are not: they lead wherever the daemon has something open, past
    /// folders that are shut to the user.
    ///
    /// # Errors
    /// What the operating system said.
    pub fn open(path: &Path) -> io::Result<Self> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let folder = match crate::process::has_borrowed_rights() {
            true => disk::open_by_name(path, flags)?.into(),
            false => rustix::fs::open(path, flags, Mode::empty())?,
        };
        Ok(Self {
            folder,
            path: path.to_path_buf(),
        })
    }

    /// Opens a plain file below it for reading.
    ///
    /// # Errors
    /// What the operating system said; `InvalidInput` for what is no plain file.
    pub fn file(&self, path: &Path) -> io::Result<Handle> {
        self.open_below(path, OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY)
            .and_then(plain)
    }

    /// Where the folder really is, whatever links led to it.
    ///
    /// # Errors
    /// When `/proc` is not mounted.
    pub fn real_path(&self) -> io::Result<PathBuf> {
        std::fs::read_link(format!("/proc/self/fd/{}", self.folder.as_raw_fd()))
    }

    /// Opens a folder below it.
    fn folder(&self, path: &Path) -> io::Result<Self> {
        let folder = if path == self.path {
            self.folder.try_clone()?
        } else {
            self.open_below(path, OFlags::PATH | OFlags::DIRECTORY)?
        };
        Ok(Self {
            folder,
            path: path.to_path_buf(),
        })
    }

    fn open_below(&self, path: &Path, flags: OFlags) -> io::Result<OwnedFd> {
        let outside = || io::Error::new(io::ErrorKind::InvalidInput, "lies outside of the folder");
        let below = path.strip_prefix(&self.path).map_err(|_| outside())?;
        let flags = flags | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let resolve =
            ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
        match disk::openat2(&self.folder, below, flags, resolve) {
            // Kernels before 5.6, and sandboxes that do not know the call.
            Err(Errno::NOSYS | Errno::PERM) => self.step_below(below, flags),
            other => Ok(other?),
        }
    }

    /// The same name by name, for systems without `openat2`.
    fn step_below(&self, below: &Path, flags: OFlags) -> io::Result<OwnedFd> {
        let on_the_way = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mut folder = self.folder.try_clone()?;
        let mut parts = below.components().peekable();
        while let Some(part) = parts.next() {
            let Component::Normal(name) = part else {
                return Err(io::ErrorKind::InvalidInput.into());
            };
            let flags = if parts.peek().is_some() {
                on_the_way
            } else {
                flags
            };
            folder = rustix::fs::openat(&folder, name, flags, Mode::empty())?;
        }
        Ok(folder)
    }
}

fn plain(fd: OwnedFd) -> io::Result<Handle> {
    let handle = Handle(File::from(fd));
    if handle.meta()?.is_plain {
        Ok(handle)
    } else {
        let what = "not a plain file";
        Err(io::Error::new(io::ErrorKind::InvalidInput, what))
    }
}

fn meta_at(at: impl AsFd, path: impl rustix::path::Arg, flags: AtFlags) -> io::Result<Meta> {
    let wanted = StatxFlags::BASIC_STATS | StatxFlags::BTIME;
    let found = rustix::fs::statx(at, path, flags | AtFlags::SYMLINK_NOFOLLOW, wanted)?;
    let nanos = |time: rustix::fs::StatxTimestamp| {
        time.tv_sec
            .saturating_mul(1_000_000_000)
            .saturating_add(i64::from(time.tv_nsec))
    };
    let has_birth = StatxFlags::from_bits_retain(found.stx_mask).contains(StatxFlags::BTIME);
    Ok(Meta {
        id: FileId {
            device: rustix::fs::makedev(found.stx_dev_major, found.stx_dev_minor),
            inode: found.stx_ino,
            born: if has_birth { nanos(found.stx_btime) } else { 0 },
        },
        stamp: Stamp {
            bytes: found.stx_size,
            mtime: nanos(found.stx_mtime),
            ctime: nanos(found.stx_ctime),
        },
        links: found.stx_nlink,
        is_plain: rustix::fs::FileType::from_raw_mode(found.stx_mode.into()).is_file(),
    })
}

#[cfg(test)]
mod tests;
