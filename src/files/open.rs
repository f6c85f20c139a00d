//! Opening plain files of a job's folder for reading.
//!
//! Waits for nobody, and leaves no folder that it was given. Must never know what the bytes mean.

use std::fs;
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use rustix::fs::Mode;
use rustix::fs::OFlags;
use rustix::fs::ResolveFlags;
use rustix::io::Errno;

use crate::disk;

/// Opens a plain file for reading: not through a link, and without waiting for the other end of a FIFO.
pub(super) fn open_plain(path: &Path) -> io::Result<(fs::File, fs::Metadata)> {
    let file = fs::File::options()
        .read(true)
        .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_NOCTTY)
        .open(path)?;
    plain(file)
}

fn plain(file: fs::File) -> io::Result<(fs::File, fs::Metadata)> {
    let meta = file.metadata()?;
    if meta.is_file() {
        Ok((file, meta))
    } else {
        let what = "not a plain file";
        Err(io::Error::new(io::ErrorKind::InvalidInput, what))
    }
}

/// Opens a plain file for reading, also through links that stay inside `folder`; where the system cannot
/// see to that, through none.
pub(super) fn open_beneath(folder: &Path, path: &Path) -> io::Result<(fs::File, fs::Metadata)> {
    let base = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let base = rustix::fs::open(folder, base, Mode::empty())?;
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
    match disk::openat2(&base, path, flags, resolve) {
        Err(Errno::NOSYS | Errno::PERM) => open_plain(&folder.join(path)),
        opened => plain(opened?.into()),
    }
}
