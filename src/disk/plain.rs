//! Opening plain files and nothing else: links are not followed, and nothing is waited for.
//!
//! Must never know what a file is for.

use std::fs::File;
use std::fs::OpenOptions;
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use rustix::io::Errno;

pub(super) fn not_a_file() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, "not a file")
}

/// Whether an error says that a link, FIFO, folder, socket or device is in the place of a file.
#[must_use]
pub fn is_no_file(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::InvalidInput && error.raw_os_error().is_none()
}

/// Opens a file that only this program makes; what somebody put in its place is refused.
pub(super) fn open_plain(options: &mut OpenOptions, path: &Path) -> io::Result<File> {
    match options
        .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
        .open(path)
    {
        Ok(file) if file.metadata()?.is_file() => Ok(file),
        Ok(_) => Err(not_a_file()),
        Err(error) => Err(match Errno::from_io_error(&error) {
            Some(Errno::LOOP | Errno::ISDIR | Errno::NXIO) => not_a_file(),
            _ => error,
        }),
    }
}
