//! Reading the log forward, record by record, over damage.
//!
//! Used by recovery, by every output and by the commands that look at a queue. Only reads; what a
//! damaged span means is its caller's business, who sees it as a jump in record and event numbers.

use std::io;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;

use super::record;
use super::record::Header;
use super::segment;
use super::segment::BadHead;
use super::segment::Head;
use super::segment::Position;
use crate::disk::Disk;
use crate::disk::DiskFile;
use crate::disk::EntryKind;
use crate::disk::Open;
use crate::disk::is_no_file;

/// How much of a damaged segment is looked through at a time.
const RESYNC_BYTES: usize = 1 << 20;

/// A record that was found; its body is not read yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Found {
    /// Its header, whose checksum fits.
    pub header: Header,
    /// Where it lies.
    pub at: Position,
    /// Where the next one may begin.
    pub next: Position,
}

/// A forward reader.
#[derive(Debug)]
pub struct LogReader {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    at: Position,
    /// Records below this number were read before: what was written again is read once.
    floor: u64,
    current: Option<Current>,
}

#[derive(Debug)]
struct Current {
    id: u64,
    file: Arc<dyn DiskFile>,
    /// Number from which records are void; known once the segment is sealed.
    void_from: Option<u64>,
}

impl LogReader {
    /// A reader of the queue folder `dir` that begins at `at`.
    #[must_use]
    pub fn new(disk: Arc<dyn Disk>, dir: &Path, at: Position) -> Self {
        Self {
            disk,
            dir: dir.to_path_buf(),
            at,
            floor: 0,
            current: None,
        }
    }

    /// Passes over records whose number is below `number`.
    #[must_use]
    pub(crate) const fn at_number(mut self, number: u64) -> Self {
        self.floor = number;
        self
    }

    /// Where the next look begins.
    #[must_use]
    pub const fn position(&self) -> Position {
        self.at
    }

    /// Goes to `at`.
    pub fn seek(&mut self, at: Position) {
        self.at = at;
        self.floor = 0;
    }

    /// The next record before `end`; `None` when there is none. Damaged spans are stepped over.
    ///
    /// # Errors
    /// What the disk said; the reader stays where it was.
    pub fn next(&mut self, end: Position) -> io::Result<Option<Found>> {
        while self.at < end {
            if !self.enter(end)? {
                continue;
            }
            let Some(current) = &self.current else {
                return Ok(None);
            };
            let limit = if self.at.segment == end.segment {
                end.offset
            } else {
                current.file.size()?
            };
            let found = find(current.id, &*current.file, self.at.offset, limit)?;
            let found = found
                .filter(|(header, _)| current.void_from.is_none_or(|from| header.number < from));
            if let Some((header, offset)) = found {
                let at = Position {
                    segment: self.at.segment,
                    offset,
                };
                if header.number < self.floor {
                    self.at.offset = offset + record::HEADER_BYTES as u64;
                    continue;
                }
                let next = Position {
                    offset: offset + header.record_bytes(),
                    ..at
                };
                self.at = next;
                self.floor = header.number + 1;
                return Ok(Some(Found { header, at, next }));
            }
            if self.at.segment == end.segment {
                self.at = end;
                return Ok(None);
            }
            self.at = Position {
                segment: self.at.segment + 1,
                offset: 0,
            };
        }
        Ok(None)
    }

    /// The body of a record, `None` when its checksum does not fit.
    ///
    /// # Errors
    /// What the disk said.
    pub fn body(&mut self, found: &Found) -> io::Result<Option<Vec<u8>>> {
        let mut bytes = vec![0; found.header.body_bytes as usize];
        let Some(current) = self
            .current
            .as_ref()
            .filter(|current| current.id == found.at.segment)
        else {
            return Ok(None);
        };
        let read = current
            .file
            .read_at(found.at.offset + record::HEADER_BYTES as u64, &mut bytes)?;
        bytes.truncate(read);
        Ok(found.header.fits(found.at.segment, &bytes).then_some(bytes))
    }

    /// Opens the segment of `self.at`, or moves on to the next one that is there: `false` then.
    fn enter(&mut self, end: Position) -> io::Result<bool> {
        let id = self.at.segment;
        if self.current.as_ref().is_none_or(|current| current.id != id) {
            let path = self.dir.join(segment::file_name(id));
            match self.disk.open(&path, Open::Read) {
                Ok(file) => {
                    self.current = Some(Current {
                        id,
                        file,
                        void_from: None,
                    })
                }
                // What is no plain file in the place of one is no segment: the one that was there is gone.
                Err(error) if error.kind() == io::ErrorKind::NotFound || is_no_file(&error) => {
                    let next = first_segment(&*self.disk, &self.dir, id + 1)?;
                    let segment = next.filter(|next| *next <= end.segment);
                    self.at = segment.map_or(end, |segment| Position { segment, offset: 0 });
                    return Ok(false);
                }
                Err(error) => return Err(error),
            }
        }
        self.at.offset = self.at.offset.max(segment::HEAD_BYTES as u64);
        if id < end.segment
            && let Some(current) = self
                .current
                .as_mut()
                .filter(|current| current.void_from.is_none())
        {
            let head = head_behind(&*self.disk, &self.dir, id)?;
            current.void_from = Some(head.map_or(u64::MAX, |head| head.first_number));
        }
        Ok(true)
    }
}

/// The head of the segment behind `id`, if there is one and it can be read.
fn head_behind(disk: &dyn Disk, dir: &Path, id: u64) -> io::Result<Option<Head>> {
    // Nearly always the next number: listing the folder at each of many segments takes its time.
    if let Ok(head) = read_head(disk, dir, id + 1) {
        return Ok(head.ok());
    }
    let next = first_segment(disk, dir, id + 1)?;
    let head = next.map(|next| read_head(disk, dir, next)).transpose()?;
    Ok(head.and_then(Result::ok))
}

/// The lowest segment id in `dir` that is at least `from`.
pub(crate) fn first_segment(disk: &dyn Disk, dir: &Path, from: u64) -> io::Result<Option<u64>> {
    let ids = disk
        .list(dir)?
        .into_iter()
        // A folder of such a name is none of ours.
        .filter(|entry| entry.kind == EntryKind::File)
        .filter_map(|entry| segment::id_of(&entry.name));
    Ok(ids.filter(|id| *id >= from).min())
}

/// Reads the header of a segment's file.
pub(crate) fn read_head(disk: &dyn Disk, dir: &Path, id: u64) -> io::Result<Result<Head, BadHead>> {
    let file = disk.open(&dir.join(segment::file_name(id)), Open::Read)?;
    let mut bytes = [0; segment::HEAD_BYTES];
    let read = file.read_at(0, &mut bytes)?;
    Ok(Head::read(id, &bytes[..read]))
}

/// Number of the first event of a segment, where its header says it.
pub(crate) fn first_seq(disk: &dyn Disk, dir: &Path, id: u64) -> io::Result<Option<u64>> {
    let head = read_head(disk, dir, id)?;
    Ok(head.ok().map(|head| head.first_seq))
}

/// Where a segment begins, and the number of the first event from there. The log ends at `end`, where the
/// event of that number will be.
pub(crate) fn begin_of(
    disk: &Arc<dyn Disk>,
    dir: &Path,
    segment: u64,
    end: (Position, u64),
) -> io::Result<(Position, u64)> {
    let at = Position { segment, offset: 0 };
    if let Some(seq) = first_seq(&**disk, dir, segment)? {
        return Ok((at, seq));
    }
    // Its head is damaged: the first record that can be read says it too.
    let first = LogReader::new(Arc::clone(disk), dir, at).next(end.0)?;
    Ok((at, first.map_or(end.1, |found| found.header.seq)))
}

/// The first record of a segment that begins at or behind `from` and ends before `limit`.
fn find(id: u64, file: &dyn DiskFile, from: u64, limit: u64) -> io::Result<Option<(Header, u64)>> {
    if let Some(header) = header_at(id, file, from, limit)? {
        return Ok(Some((header, from)));
    }
    let mut at = from + 1;
    let mut chunk = Vec::new();
    while at + record::HEADER_BYTES as u64 <= limit {
        let want = usize::try_from(limit - at)
            .unwrap_or(RESYNC_BYTES)
            .min(RESYNC_BYTES);
        chunk.resize(want, 0);
        let read = file.read_at(at, &mut chunk[..want])?;
        if read < record::MAGIC.len() {
            break;
        }
        for hit in memchr::memmem::find_iter(&chunk[..read], &record::MAGIC) {
            let offset = at + hit as u64;
            if let Some(header) = header_at(id, file, offset, limit)? {
                return Ok(Some((header, offset)));
            }
        }
        at += (read + 1 - record::MAGIC.len()) as u64;
    }
    Ok(None)
}

fn header_at(id: u64, file: &dyn DiskFile, at: u64, limit: u64) -> io::Result<Option<Header>> {
    let mut bytes = [0; record::HEADER_BYTES];
    let read = file.read_at(at, &mut bytes)?;
    let place = Position {
        segment: id,
        offset: at,
    };
    let header = Header::read(place, &bytes[..read]);
    Ok(header.filter(|header| at + header.record_bytes() <= limit))
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use crate::disk::OsDisk;

    #[test]
    fn a_folder_that_is_named_like_a_segment_is_passed_over() {
        let home = tempfile::tempdir().unwrap();
        let (disk, dir) = (OsDisk, home.path());
        disk.make_dir(&dir.join(segment::file_name(3))).unwrap();
        assert_eq!(disk.list(dir).unwrap().len(), 1);
        assert_eq!(first_segment(&disk, dir, 1).unwrap(), None);
    }
}
