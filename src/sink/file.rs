//! A file as an output: one JSON object a line, durable before it counts, rotated by size.
//!
//! The file is opened anew for each window: whoever removes or renames it gets the next events in
//! a new one. What a crash left of a line behind the last whole one is cut off. Knows no queue.

use std::io;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;

use super::LINES_BYTES_MAX;
use super::local;
use crate::disk::Disk;
use crate::disk::DiskFile;
use crate::disk::Open;
use crate::disk::OsDisk;
use crate::event::EVENT_BYTES_MAX;

/// How much of a file's end may be unfinished after a crash: what one window may hold.
const TAIL_BYTES_MAX: u64 = EVENT_BYTES_MAX as u64 + LINES_BYTES_MAX;

/// `[output.NAME]` with `kind = "file"`, checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Where the events go; absolute.
    pub path: PathBuf,
    /// From this size on the file becomes `path.1`, at least 64 KiB. Default 100 MiB.
    pub rotate_bytes: u64,
    /// How many such files are kept, 1..=1000. Default 5.
    pub keep: u32,
}

/// See the module's header.
#[derive(Debug)]
pub(super) struct Target {
    disk: Arc<dyn Disk>,
    settings: Settings,
    /// A sync has failed: what lies in the file by now is not trusted, and nothing is added to it.
    poisoned: bool,
}

impl Target {
    pub(super) fn new(settings: Settings) -> Self {
        Self::on(Arc::new(OsDisk), settings)
    }

    fn on(disk: Arc<dyn Disk>, settings: Settings) -> Self {
        Self {
            disk,
            settings,
            poisoned: false,
        }
    }

    /// The file, and where its whole lines end.
    fn file(&self, look: Look) -> io::Result<(Arc<dyn DiskFile>, u64)> {
        let path = &self.settings.path;
        let file = match self.disk.open(path, Open::Write) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return self.create(),
            other => other?,
        };
        let bytes = file.size()?;
        let end = whole_lines(&*file, bytes, look)?;
        if end < bytes {
            tracing::warn!(path = %path.display(), bytes = bytes - end, "an unfinished line is cut off the end of an output's file");
            file.truncate(end)?;
        }
        Ok((file, end))
    }

    fn create(&self) -> io::Result<(Arc<dyn DiskFile>, u64)> {
        let path = &self.settings.path;
        let file = self.disk.open(path, Open::CreateNew)?;
        self.disk
            .sync_dir(path.parent().unwrap_or(Path::new("/")))?;
        Ok((file, 0))
    }

    fn rotate(&self) -> io::Result<()> {
        for n in (1..self.settings.keep).rev() {
            match self.disk.rename(&self.older(n), &self.older(n + 1)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        self.disk.rename(&self.settings.path, &self.older(1))
    }

    fn older(&self, n: u32) -> PathBuf {
        let mut name = self.settings.path.clone().into_os_string();
        name.push(format!(".{n}"));
        name.into()
    }
}

impl local::Target for Target {
    fn open(&mut self) -> io::Result<()> {
        self.file(Look::Closely).map(drop)
    }

    fn write(&mut self, lines: &[u8]) -> io::Result<()> {
        let (mut file, mut end) = self.file(Look::Quickly)?;
        let is_full = end + lines.len() as u64 > self.settings.rotate_bytes;
        if self.poisoned || (end > 0 && is_full) {
            self.rotate()?;
            self.poisoned = false;
            (file, end) = self.create()?;
        }
        let written = file.write_at(end, lines).and_then(|()| {
            let synced = file.sync();
            self.poisoned = synced.is_err();
            synced
        });
        if written.is_err()
            && let Err(error) = file.truncate(end)
        {
            let path = self.settings.path.display();
            tracing::warn!(%path, %error, "lines that are written again could not be cut off");
        }
        written
    }
}

/// How a file's end is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Look {
    /// At its last byte: it was looked at closely before.
    Quickly,
    /// At all that a power cut may have spoilt.
    Closely,
}

/// Where the whole lines of a file of `bytes` end. A line that a power cut left may have NUL bytes in it.
fn whole_lines(file: &dyn DiskFile, bytes: u64, look: Look) -> io::Result<u64> {
    let mut last = [0];
    if bytes == 0 {
        return Ok(0);
    }
    file.read_at(bytes - 1, &mut last)?;
    if look == Look::Quickly && last == *b"\n" {
        return Ok(bytes);
    }
    let start = bytes.saturating_sub(TAIL_BYTES_MAX);
    let mut tail = vec![0; usize::try_from(bytes - start).unwrap_or(usize::MAX)];
    let read = file.read_at(start, &mut tail)?;
    let tail = &tail[..read];
    let whole = &tail[..memchr::memchr(0, tail).unwrap_or(tail.len())];
    let keep = memchr::memrchr(b'\n', whole).map_or(0, |at| at + 1);
    // What is no line of ours is not ours to cut.
    let is_ours = matches!(tail.get(keep), None | Some(b'{' | 0));
    if (keep == 0 && start > 0) || !is_ours {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "its last line has no end and is none that was written here; name another file",
        ));
    }
    Ok(start + keep as u64)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::local::Target as _;
    use super::*;
    use crate::disk::mem::MemDisk;

    const PATH: &str = "/out/events.ndjson";

    fn target(disk: &MemDisk, rotate_bytes: u64, keep: u32) -> Target {
        disk.make_dir(Path::new("/out")).unwrap();
        let settings = Settings {
            path: PATH.into(),
            rotate_bytes,
            keep,
        };
        Target::on(Arc::new(disk.clone()), settings)
    }

    fn text(disk: &MemDisk, path: &str) -> String {
        String::from_utf8(disk.read(Path::new(path), 1 << 20).unwrap()).unwrap()
    }

    #[test]
    fn a_file_is_rotated_before_it_grows_beyond_its_size_and_the_oldest_goes() {
        let disk = MemDisk::default();
        let mut target = target(&disk, 20, 2);
        for n in 0..5 {
            target
                .write(format!("{{\"n\":{n}}}\n{{}}\n").as_bytes())
                .unwrap();
        }
        assert_eq!(text(&disk, PATH), "{\"n\":4}\n{}\n");
        assert_eq!(text(&disk, "/out/events.ndjson.1"), "{\"n\":3}\n{}\n");
        assert_eq!(text(&disk, "/out/events.ndjson.2"), "{\"n\":2}\n{}\n");
        assert_eq!(disk.list(Path::new("/out")).unwrap().len(), 3);
    }

    #[test]
    fn no_crash_leaves_half_a_line_and_none_costs_one_that_counts() {
        let disk = MemDisk::default();
        let mut first = target(&disk, 1000, 2);
        first.write(b"{\"n\":1}\n").unwrap();
        let path = Path::new(PATH);
        let file = disk.open(path, Open::Write).unwrap();
        file.write_at(8, b"{\"n\":2}\n{\"n\":3}\n").unwrap();
        for kept in 0..=24 {
            let after = disk.crash(kept);
            let mut target = target(&after, 1000, 2);
            target.open().unwrap();
            target.write(b"{\"n\":4}\n").unwrap();
            let lines = text(&after, PATH);
            assert!(lines.starts_with("{\"n\":1}\n"), "{kept}: {lines:?}");
            for line in lines.lines() {
                serde_json::from_str::<serde_json::Value>(line).unwrap();
            }
        }
    }

    #[test]
    fn a_tail_that_is_not_ours_is_not_cut() {
        for (text, kept) in [
            ("{\"n\":1}\n{\"n\"", Some(8)),
            ("{\"n\"", Some(0)),
            ("{\"n\":1}\n\0\0\0", Some(8)),
            ("{\"n\":1}\n{\"a\0\0\n", Some(8)),
            ("{\"n\":1}\n", Some(8)),
            ("a note", None),
            ("{\"n\":1}\na note", None),
        ] {
            let disk = MemDisk::default();
            let mut target = target(&disk, 1000, 2);
            let file = disk.open(Path::new(PATH), Open::CreateNew).unwrap();
            file.write_at(0, text.as_bytes()).unwrap();
            assert_eq!(target.open().is_ok(), kept.is_some(), "{text:?}");
            let size = file.size().unwrap();
            assert_eq!(size, kept.unwrap_or(text.len() as u64), "{text:?}");
        }
    }

    #[test]
    fn whoever_removes_the_file_gets_the_next_events_in_a_new_one() {
        let disk = MemDisk::default();
        let mut target = target(&disk, 1000, 2);
        target.write(b"{\"n\":1}\n").unwrap();
        disk.remove(Path::new(PATH)).unwrap();
        target.write(b"{\"n\":2}\n").unwrap();
        assert_eq!(text(&disk, PATH), "{\"n\":2}\n");
    }
}
