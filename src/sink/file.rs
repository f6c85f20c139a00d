//! A file as an output: one JSON object a line, durable before it counts, rotated by size.
//!
//! The file is opened anew for each window: whoever removes or renames it gets the next events in
//! a new one. What a crash left of a line behind the last whole one is cut off. Several processes may
//! write it, each for itself: the one that has the lock on the file writes and rotates.
//! Knows no queue.

use std::io;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::LINES_BYTES_MAX;
use super::local;
use crate::clock;
use crate::disk::Disk;
use crate::disk::DiskFile;
use crate::disk::Open;
use crate::disk::OsDisk;
use crate::event::EVENT_BYTES_MAX;
use crate::units::show_duration;

/// How much of a file's end may be unfinished after a crash: what one window may hold.
const TAIL_BYTES_MAX: u64 = EVENT_BYTES_MAX as u64 + LINES_BYTES_MAX;

/// How long another process may have the lock before the write fails. It has it for one window: a slow
/// disk takes seconds to sync that, and a rotation syncs the folder for each file that is kept.
const LOCK_PATIENCE: Duration = Duration::from_secs(30);

/// How soon a lock that another has is tried again: it is free for moments only when that one is busy.
const LOCK_PAUSE: Duration = Duration::from_millis(1);

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

impl Settings {
    /// All files that it may write, the current one first.
    pub fn files(&self) -> impl Iterator<Item = PathBuf> {
        (0..=self.keep).map(|n| self.older(n))
    }

    /// The `n`-th file before the one that is written, which is the 0th.
    fn older(&self, n: u32) -> PathBuf {
        if n == 0 {
            return self.path.clone();
        }
        let mut name = self.path.clone().into_os_string();
        name.push(format!(".{n}"));
        name.into()
    }
}

/// See the module's header.
#[derive(Debug)]
pub(super) struct Target {
    disk: Arc<dyn Disk>,
    settings: Settings,
    /// A sync has failed: what lies in the file by now is not trusted, and nothing is added to it.
    poisoned: bool,
    /// The file whose name is known to be durable, too.
    placed: Option<(u64, u64)>,
    /// How long another may have the lock.
    patience: Duration,
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
            placed: None,
            patience: LOCK_PATIENCE,
        }
    }

    /// The file, locked, and where its whole lines end.
    fn file(&mut self, look: Look) -> io::Result<(Arc<dyn DiskFile>, u64)> {
        let file = self.locked()?;
        let id = file.id()?;
        // Whoever made it may have died, or met an error, before that was durable.
        if self.placed != Some(id) {
            self.place()?;
            self.placed = Some(id);
        }
        let path = self.settings.path.display();
        let bytes = file.size()?;
        let end = whole_lines(&*file, bytes, look)?;
        if end < bytes {
            tracing::warn!(%path, bytes = bytes - end, "an unfinished line is cut off the end of an output's file");
            file.truncate(end)?;
        }
        Ok((file, end))
    }

    /// The file that has the path's name, made if there is none, with the lock on it.
    fn locked(&mut self) -> io::Result<Arc<dyn DiskFile>> {
        let started = clock::tick();
        loop {
            let file = match self.named()? {
                Some(file) => file,
                None => self.create()?,
            };
            let locked = file.try_lock();
            let locked = locked.map_err(|error| {
                io::Error::new(error.kind(), format!("it cannot be locked: {error}"))
            })?;
            // Whoever had the lock before may have rotated it.
            if locked && self.named()?.map(|named| named.id()).transpose()? == Some(file.id()?) {
                return Ok(file);
            }
            if clock::tick().since(started) >= self.patience {
                let why = format!(
                    "another process has held the lock on it for {}",
                    show_duration(self.patience)
                );
                return Err(io::Error::new(io::ErrorKind::TimedOut, why));
            }
            drop(file);
            clock::pause(LOCK_PAUSE);
        }
    }

    /// The file that has the path's name now.
    fn named(&self) -> io::Result<Option<Arc<dyn DiskFile>>> {
        match self.disk.open(&self.settings.path, Open::Named) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            other => other.map(Some),
        }
    }

    fn create(&mut self) -> io::Result<Arc<dyn DiskFile>> {
        // It may get the number of one that is gone.
        self.placed = None;
        let path = &self.settings.path;
        match self.disk.open(path, Open::CreateNew) {
            // Another process was quicker; a link that leads nowhere cannot be opened either.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                self.disk.open(path, Open::Named)
            }
            other => other,
        }
    }

    /// Makes the names in the file's folder durable.
    fn place(&self) -> io::Result<()> {
        let folder = self.settings.path.parent();
        self.disk.sync_dir(folder.unwrap_or(Path::new("/")))
    }

    fn rotate(&self) -> io::Result<()> {
        for n in (0..self.settings.keep).rev() {
            match self
                .disk
                .rename(&self.settings.older(n), &self.settings.older(n + 1))
            {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
                // One by one: a power cut may keep a later rename and lose this one, and with it a file.
                Ok(()) => self.place()?,
            }
        }
        Ok(())
    }
}

impl local::Target for Target {
    fn open(&mut self) -> io::Result<()> {
        self.file(Look::Closely).map(drop)
    }

    fn write(&mut self, lines: &[u8]) -> io::Result<()> {
        let (file, end) = loop {
            let (file, end) = self.file(Look::Quickly)?;
            let is_full = end + lines.len() as u64 > self.settings.rotate_bytes;
            if !self.poisoned && (end == 0 || !is_full) {
                break (file, end);
            }
            // Another process may have the next one first, and fill it.
            self.rotate()?;
            self.poisoned = false;
        };
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
        // At once, while nobody else can have the lock: others do not know of the sync.
        if self.poisoned {
            self.poisoned = self.rotate().is_err();
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
    use crate::disk::mem::Fault;
    use crate::disk::mem::MemDisk;
    use crate::disk::mem::Verb;
    use crate::disk::mem::Verdict;
    use crate::disk::mem::platter::Dice;

    const PATH: &str = "/out/events.ndjson";

    fn target(disk: &MemDisk, rotate_bytes: u64, keep: u32) -> Target {
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

    /// The whole lines of all files.
    fn whole_lines_of(disk: &MemDisk) -> Vec<u64> {
        let mut found = Vec::new();
        for (path, content) in disk.files() {
            assert!(path.starts_with(PATH), "{path}");
            for line in content.split(|byte| *byte == b'\n') {
                if let Ok(line) = serde_json::from_slice::<serde_json::Value>(line) {
                    found.push(line["n"].as_u64().unwrap());
                }
            }
        }
        found.sort_unstable();
        found
    }

    fn assert_kept(disk: &MemDisk, acked: u64, case: &str) {
        let found = whole_lines_of(disk);
        for n in 0..acked {
            assert!(found.binary_search(&n).is_ok(), "{case}: {n} is lost");
        }
    }

    /// Writes windows of two lines as the connections of two processes do, in turns: after an error it opens
    /// anew and writes the same again. What counts must outlive a power cut at once.
    fn write_all(disk: &MemDisk, windows: std::ops::Range<u64>, case: &str, dice: &mut Dice) {
        let mut both = [target(disk, 40, 100), target(disk, 40, 100)];
        for window in windows {
            let target = &mut both[usize::try_from(window % 2).unwrap()];
            let first = 2 * window;
            let lines = format!("{{\"n\":{first}}}\n{{\"n\":{}}}\n", first + 1);
            let mut tries = 0;
            while target
                .open()
                .and_then(|()| target.write(lines.as_bytes()))
                .is_err()
            {
                tries += 1;
                assert!(tries < 50, "{case}: it does not go on");
                for _ in 0..8 {
                    assert_kept(&disk.power_cut(dice), first, case);
                }
            }
            assert_kept(&disk.crash(0), first + 2, case);
            assert_kept(&disk.power_cut(dice), first + 2, case);
        }
    }

    #[test]
    fn whichever_call_fails_nothing_that_counts_is_lost_and_only_what_was_in_flight_comes_twice() {
        const WINDOWS: u64 = 9;
        let mut dice = Dice::new(7);
        let disk = MemDisk::default();
        write_all(&disk, 0..WINDOWS, "no fault", &mut dice);
        assert!(disk.files().len() > 3, "it was rotated");
        let calls = disk.calls();
        for at in 0..calls + 5 {
            for (errno, many) in [
                (libc::EIO, 1),
                (libc::ENOSPC, 1),
                (libc::EIO, 6),
                (libc::ENOSPC, 6),
            ] {
                let case = format!("call {at} and {many} in all, errno {errno}");
                let disk = MemDisk::default();
                disk.script(move |call| match call.verb {
                    _ if call.index < at || call.index >= at + many => Verdict::Go,
                    // A full disk still reads, and still removes.
                    Verb::Read | Verb::Open(Open::Named) | Verb::Truncate | Verb::Rename
                        if errno == libc::ENOSPC =>
                    {
                        Verdict::Go
                    }
                    Verb::Write => Verdict::Part(call.bytes * (at as usize % 4) / 3, errno),
                    _ => Verdict::Fail(errno),
                });
                write_all(&disk, 0..WINDOWS, &case, &mut dice);
                let found = whole_lines_of(&disk);
                let files = disk.files();
                let text = files.iter().flat_map(|(_, content)| content.iter());
                let lines = text.filter(|byte| **byte == b'\n').count();
                assert_eq!(lines, found.len(), "{case}: a line is glued to half of one");
                let mut distinct = found.clone();
                distinct.dedup();
                assert_eq!(distinct, (0..2 * WINDOWS).collect::<Vec<u64>>(), "{case}");
                let twice = found.len() - distinct.len();
                assert!(
                    twice <= 2 * many as usize,
                    "{case}: {twice} lines came twice"
                );
                // A power cut, and the next daemon sends what did not count to this one, and more.
                let after = disk.power_cut(&mut dice);
                write_all(&after, WINDOWS..WINDOWS + 2, &case, &mut dice);
                assert_kept(&after, 2 * WINDOWS + 4, &case);
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
    fn two_that_take_turns_on_one_file_lose_nothing_over_rotations() {
        let disk = MemDisk::default();
        let mut dice = Dice::new(3);
        let mut both = [target(&disk, 40, 1000), target(&disk, 30, 1000)];
        for n in 0..100 {
            let turn = usize::try_from(dice.roll(2)).unwrap();
            if dice.roll(5) == 0 {
                both[turn].open().unwrap();
            }
            both[turn]
                .write(format!("{{\"n\":{n}}}\n").as_bytes())
                .unwrap();
            assert_kept(&disk.crash(0), n + 1, "in turns");
        }
        assert_eq!(whole_lines_of(&disk), (0..100).collect::<Vec<_>>());
        assert!(disk.files().len() > 20, "it was rotated");
    }

    #[test]
    fn two_that_write_one_file_at_once_lose_nothing_over_rotations() {
        let disk = MemDisk::default();
        std::thread::scope(|scope| {
            for part in 0..2 {
                let mut target = target(&disk, 40, 1000);
                scope.spawn(move || {
                    for n in part * 200..part * 200 + 200 {
                        let line = format!("{{\"n\":{n}}}\n");
                        target.write(line.as_bytes()).unwrap();
                    }
                });
            }
        });
        assert_eq!(whole_lines_of(&disk), (0..400).collect::<Vec<_>>());
        assert!(disk.files().len() > 40, "it was rotated");
    }

    #[test]
    fn what_was_not_synced_for_one_is_added_to_by_nobody() {
        let disk = MemDisk::default();
        let mut both = [target(&disk, 1000, 9), target(&disk, 1000, 9)];
        both[0].write(b"{\"n\":0}\n").unwrap();
        disk.fail(Fault::NextSync);
        both[0].write(b"{\"n\":1}\n").unwrap_err();
        both[1].write(b"{\"n\":2}\n").unwrap();
        assert_eq!(text(&disk, PATH), "{\"n\":2}\n");
    }

    #[test]
    fn a_file_that_another_has_locked_is_left_alone_and_that_is_said() {
        let disk = MemDisk::default();
        let mut target = target(&disk, 1000, 2);
        target.patience = Duration::ZERO;
        let other = disk.open(Path::new(PATH), Open::CreateNew).unwrap();
        assert!(other.try_lock().unwrap());
        let refused = target.write(b"{}\n").unwrap_err();
        assert!(refused.to_string().contains("has held the lock on it"));
        assert_eq!(other.size().unwrap(), 0);
        drop(other);
        target.write(b"{}\n").unwrap();
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
