//! Keeps received events in files of a folder: on disk before they are acknowledged.
//!
//! `received.ndjson` is written to, one event a line; when it is large enough it becomes
//! `received-0000000001.ndjson` and so on, which are never touched again but for `--keep`. All
//! windows that wait share one sync. A window that the disk did not take is not acknowledged, so
//! its client sends it again. Knows nothing of sockets.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use tokio::sync::mpsc;
use tokio::sync::oneshot;

use crate::cli::receive::WINDOWS_WAITING_MAX;
use crate::cli::receive::printer::End;
use crate::cli::receive::printer::Printed;
use crate::cli::receive::printer::on_thread;
use crate::cli::receive::printer::push_json;
use crate::disk::Disk;
use crate::disk::DiskFile;
use crate::disk::Open;
use crate::lumberjack::server::Delivery;

const CURRENT: &str = "received.ndjson";

/// Bytes that are looked at once for the last whole line, from the end of the file.
const LOOK_BYTES: u64 = 64 << 10;

/// Written at once.
const BUFFER_BYTES: usize = 1 << 20;

/// Where events are kept, and how much of them.
#[derive(Debug)]
pub(super) struct Store {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    /// From this size on a new file is begun.
    rotate_bytes: u64,
    /// How many files are kept behind the one that is written; `None`: all.
    keep: Option<usize>,
    current: Option<Current>,
}

#[derive(Debug)]
struct Current {
    file: Arc<dyn DiskFile>,
    /// Where the last acknowledged event ends.
    size: u64,
}

impl Store {
    /// Opens the folder, which must be there; half an event at the end of the file, which was
    /// never acknowledged, is cut off.
    pub(super) fn open(
        disk: Arc<dyn Disk>,
        dir: PathBuf,
        rotate_bytes: u64,
        keep: Option<usize>,
    ) -> io::Result<Self> {
        let mut store = Self {
            disk,
            dir,
            rotate_bytes,
            keep,
            current: None,
        };
        store.current = Some(store.begin()?);
        Ok(store)
    }

    /// Starts to keep what comes by `deliveries`; resolves at the end.
    pub(super) fn spawn(
        mut self,
        deliveries: mpsc::Receiver<Delivery>,
    ) -> io::Result<oneshot::Receiver<Printed>> {
        on_thread("store", deliveries, move |deliveries| self.run(deliveries))
    }

    fn run(&mut self, deliveries: &mut mpsc::Receiver<Delivery>) -> Printed {
        let mut kept = Printed {
            windows: 0,
            events: 0,
            end: End::NoMore,
        };
        while let Some(first) = deliveries.blocking_recv() {
            let mut group = vec![first];
            while group.len() < WINDOWS_WAITING_MAX
                && let Ok(next) = deliveries.try_recv()
            {
                group.push(next);
            }
            if let Err(error) = self.add(&group) {
                let (dir, windows) = (self.dir.display(), group.len());
                tracing::error!(%dir, %error, windows, "cannot keep events; their clients will send them again");
                continue;
            }
            for Delivery { peer, window, done } in group {
                kept.windows += 1;
                kept.events += window.count() as u64;
                if done.send(()).is_err() {
                    tracing::debug!(%peer, "client left before the ACK, it will send the window again");
                }
            }
        }
        kept
    }

    /// Makes all of these windows durable, or none of them counts.
    fn add(&mut self, group: &[Delivery]) -> io::Result<()> {
        let current = match self.current.take() {
            Some(current) if current.size < self.rotate_bytes => current,
            _ => self.rotate()?,
        };
        match write(&current, group) {
            Ok(size) => {
                current.file.sync().inspect_err(|_| {
                    // What the file holds is not believed any more: it is left as it is, and
                    // another one begun.
                    tracing::error!("a sync failed, going on in a new file");
                })?;
                let file = current.file;
                self.current = Some(Current { file, size });
                Ok(())
            }
            Err(error) => {
                current.file.truncate(current.size)?;
                self.current = Some(current);
                Err(error)
            }
        }
    }

    /// Puts the file that was written to aside and begins another.
    fn rotate(&mut self) -> io::Result<Current> {
        let numbers = self.numbers()?;
        let next = numbers.last().map_or(1, |number| number + 1);
        self.disk
            .rename(&self.dir.join(CURRENT), &self.dir.join(name(next)))
            .or_else(|error| match error.kind() {
                // Somebody took it away, or the last try came as far as this.
                io::ErrorKind::NotFound => Ok(()),
                _ => Err(error),
            })?;
        let current = self.begin()?;
        let keep = self.keep.unwrap_or(usize::MAX);
        let surplus = (numbers.len() + 1).saturating_sub(keep);
        for number in numbers.iter().copied().chain([next]).take(surplus) {
            let old = name(number);
            match self.disk.remove(&self.dir.join(&old)) {
                Ok(()) => tracing::info!(file = old, "removed an old file (--keep)"),
                Err(error) => tracing::warn!(file = old, %error, "cannot remove an old file"),
            }
        }
        Ok(current)
    }

    /// Opens the file to write to, or makes it.
    fn begin(&self) -> io::Result<Current> {
        let path = self.dir.join(CURRENT);
        let file = match self.disk.open(&path, Open::Named) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let file = self.disk.open(&path, Open::CreateNew)?;
                self.disk.sync_dir(&self.dir)?;
                file
            }
            opened => opened?,
        };
        let found = file.size()?;
        let size = whole_lines(&*file, found)?;
        if size < found {
            let (file_name, bytes) = (path.display(), found - size);
            tracing::warn!(file = %file_name, bytes, "cut off half an event, which was never acknowledged");
            file.truncate(size)?;
        }
        Ok(Current { file, size })
    }

    /// The numbers of the files that were put aside, oldest first.
    fn numbers(&self) -> io::Result<Vec<u64>> {
        let entries = self.disk.list(&self.dir)?;
        let mut numbers: Vec<u64> = entries
            .iter()
            .filter_map(|entry| {
                let number = entry.name.strip_prefix("received-")?;
                let number = number.strip_suffix(".ndjson")?.parse().ok()?;
                (name(number) == entry.name).then_some(number)
            })
            .collect();
        numbers.sort_unstable();
        Ok(numbers)
    }
}

fn name(number: u64) -> String {
    format!("received-{number:010}.ndjson")
}

/// Where the last whole line of the first `size` bytes ends.
fn whole_lines(file: &dyn DiskFile, size: u64) -> io::Result<u64> {
    let mut end = size;
    let mut chunk = vec![0; LOOK_BYTES as usize];
    while end > 0 {
        let start = end.saturating_sub(LOOK_BYTES);
        let part = &mut chunk[..(end - start) as usize];
        let read = file.read_at(start, part)?;
        if let Some(at) = memchr::memrchr(b'\n', &part[..read]) {
            return Ok(start + at as u64 + 1);
        }
        end = start;
    }
    Ok(0)
}

/// Writes the events behind those that are there; returns where they end.
fn write(current: &Current, group: &[Delivery]) -> io::Result<u64> {
    let mut size = current.size;
    let mut buffer = Vec::with_capacity(BUFFER_BYTES);
    let mut write_out = |buffer: &mut Vec<u8>| -> io::Result<u64> {
        current.file.write_at(size, buffer)?;
        size += buffer.len() as u64;
        buffer.clear();
        Ok(size)
    };
    for event in group.iter().flat_map(|delivery| delivery.window.events()) {
        push_json(event, &mut buffer);
        if buffer.len() >= BUFFER_BYTES {
            write_out(&mut buffer)?;
        }
    }
    write_out(&mut buffer)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use std::net::SocketAddr;
    use std::path::Path;

    use super::*;
    use crate::cli::receive::printer::tests::window;
    use crate::disk::mem::Fault;
    use crate::disk::mem::MemDisk;

    const DIR: &str = "/in";

    fn store(disk: &MemDisk, rotate_bytes: u64, keep: Option<usize>) -> Store {
        disk.make_dir(Path::new(DIR)).unwrap();
        Store::open(Arc::new(disk.clone()), DIR.into(), rotate_bytes, keep).unwrap()
    }

    /// Offers each of these groups of windows; which of the windows were acknowledged.
    fn offer(store: &mut Store, windows: &[&[&str]]) -> Vec<bool> {
        let (deliver, mut deliveries) = mpsc::channel(windows.len());
        let mut answers = Vec::new();
        for events in windows {
            let (done, taken) = oneshot::channel();
            let peer = SocketAddr::from(([127, 0, 0, 1], 1));
            let window = window(events);
            deliver.try_send(Delivery { peer, window, done }).unwrap();
            answers.push(taken);
        }
        drop(deliver);
        store.run(&mut deliveries);
        let answers = answers.iter_mut();
        answers.map(|taken| taken.try_recv().is_ok()).collect()
    }

    fn read(disk: &MemDisk, name: &str) -> String {
        let bytes = disk.read(&Path::new(DIR).join(name), u64::MAX).unwrap();
        String::from_utf8(bytes).unwrap()
    }

    fn names(disk: &MemDisk) -> Vec<String> {
        let entries = disk.list(Path::new(DIR)).unwrap();
        entries.into_iter().map(|entry| entry.name).collect()
    }

    #[test]
    fn what_is_acknowledged_survives_a_power_cut() {
        let disk = MemDisk::default();
        let mut store = store(&disk, 1 << 20, None);
        let windows: [&[&str]; 2] = [&["{\"a\":\n1}", "{}"], &["{\"b\":2}"]];
        assert_eq!(offer(&mut store, &windows), [true, true]);
        assert_eq!(read(&disk.crash(0), CURRENT), "{\"a\": 1}\n{}\n{\"b\":2}\n");
    }

    #[test]
    fn files_are_rotated_by_size_and_the_oldest_go() {
        let disk = MemDisk::default();
        let mut store = store(&disk, 6, Some(2));
        for n in 0..5 {
            let event = format!("{{\"n\":{n}}}");
            assert_eq!(offer(&mut store, &[&[&event]]), [true]);
        }
        let kept = ["received-0000000003.ndjson", "received-0000000004.ndjson"];
        assert_eq!(names(&disk), [kept[0], kept[1], CURRENT]);
        assert_eq!(read(&disk, kept[0]), "{\"n\":2}\n");
        assert_eq!(read(&disk, CURRENT), "{\"n\":4}\n");
    }

    #[test]
    fn a_full_disk_acknowledges_nothing_and_leaves_nothing_half() {
        let disk = MemDisk::default();
        let mut store = store(&disk, 1 << 20, None);
        assert_eq!(offer(&mut store, &[&["{\"a\":1}"]]), [true]);
        disk.fail(Fault::WritesFull);
        assert_eq!(
            offer(&mut store, &[&["{\"b\":1}"], &["{\"c\":1}"]]),
            [false, false]
        );
        disk.fail(Fault::None);
        assert_eq!(offer(&mut store, &[&["{\"b\":1}"]]), [true]);
        assert_eq!(read(&disk, CURRENT), "{\"a\":1}\n{\"b\":1}\n");
    }

    #[test]
    fn after_a_failed_sync_another_file_is_begun() {
        let disk = MemDisk::default();
        let mut store = store(&disk, 1 << 20, None);
        disk.fail(Fault::NextSync);
        assert_eq!(offer(&mut store, &[&["{\"a\":1}"]]), [false]);
        assert_eq!(offer(&mut store, &[&["{\"a\":1}"]]), [true]);
        assert_eq!(read(&disk.crash(0), CURRENT), "{\"a\":1}\n");
        assert_eq!(names(&disk).len(), 2);
    }

    #[test]
    fn half_an_event_is_cut_off_at_the_start() {
        let disk = MemDisk::default();
        for (before, after) in [("{}\n{\"half", "{}\n"), ("{\"half", ""), ("{}\n", "{}\n")] {
            disk.make_dir(Path::new(DIR)).unwrap();
            let path = Path::new(DIR).join(CURRENT);
            let how = crate::disk::Replace::Durable;
            disk.replace(&path, before.as_bytes(), how).unwrap();
            store(&disk, 1 << 20, None);
            assert_eq!(read(&disk, CURRENT), after);
        }
    }
}
