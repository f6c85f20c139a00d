//! An open file of the operating system's disk.
//!
//! One call of the system for each verb, taken up again where it was interrupted. Must never know
//! what the bytes mean.

use std::fs::File;
use std::io;
use std::io::IoSlice;
use std::os::unix::fs::FileExt;
use std::os::unix::fs::MetadataExt;

use rustix::fs::FallocateFlags;
use rustix::fs::fallocate;
use rustix::io::Errno;

use super::DiskFile;
use super::failpoints::Kind;
use super::try_exclusively;

/// The file, and what kind it is.
#[derive(Debug)]
pub(super) struct OsFile(pub(super) File, pub(super) Kind);

impl DiskFile for OsFile {
    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.1
            .write(bytes, |bytes| self.0.write_all_at(bytes, offset))
    }

    fn write_pieces_at(&self, offset: u64, pieces: &[&[u8]]) -> io::Result<()> {
        self.1.write_pieces(pieces, |pieces| {
            let mut slices: Vec<IoSlice<'_>> =
                pieces.iter().map(|piece| IoSlice::new(piece)).collect();
            let (mut left, mut at) = (&mut *slices, offset);
            while !left.is_empty() {
                match rustix::io::pwritev(&self.0, left, at) {
                    Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                    Ok(written) => {
                        IoSlice::advance_slices(&mut left, written);
                        at += written as u64;
                    }
                    Err(Errno::INTR) => {}
                    Err(error) => return Err(error.into()),
                }
            }
            Ok(())
        })
    }

    fn read_at(&self, offset: u64, into: &mut [u8]) -> io::Result<usize> {
        let mut done = 0;
        while done < into.len() {
            match self.0.read_at(&mut into[done..], offset + done as u64) {
                Ok(0) => break,
                Ok(n) => done += n,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(done)
    }

    fn sync(&self) -> io::Result<()> {
        self.1.step("sync", || self.0.sync_data())
    }

    fn truncate(&self, bytes: u64) -> io::Result<()> {
        self.1.step("truncate", || self.0.set_len(bytes))
    }

    fn size(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }

    fn reserve(&self, bytes: u64) -> io::Result<()> {
        let allocate = || fallocate(&self.0, FallocateFlags::empty(), 0, bytes);
        self.1
            .step("reserve", || Ok(rustix::io::retry_on_intr(allocate)?))
    }

    fn try_lock(&self) -> io::Result<bool> {
        try_exclusively(&self.0)
    }

    fn id(&self) -> io::Result<(u64, u64)> {
        let meta = self.0.metadata()?;
        Ok((meta.dev(), meta.ino()))
    }
}
