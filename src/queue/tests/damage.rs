//! Damage of every kind to the files of a queue: it always opens, only the records that were hit are
//! gone, and no cursor moves forward.

#![expect(
    clippy::print_stdout,
    reason = "what was looked at is the report of a harness"
)]

use std::collections::BTreeSet;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use super::super::cursor;
use super::super::inspect;
use super::super::log::LogReader;
use super::super::readers::open_cursors;
use super::super::segment::Position;
use super::super::writer::Writer;
use super::bench;
use super::bench::Bench;
use super::bench::Given;
use super::crash::scale;
use crate::disk::Disk;
use crate::disk::mem::Files;
use crate::disk::mem::MemDisk;
use crate::disk::mem::platter::Dice;
use crate::units::Timestamp;

/// Where a record lies, in a file by its place among the files.
pub(super) struct Lies {
    number: u64,
    pub(super) file: usize,
    pub(super) bytes: Range<usize>,
}

/// A queue of several segments, with cursors and checkpoints, after an orderly stop.
pub(super) struct Whole {
    pub(super) files: Files,
    records: Vec<Given>,
    pub(super) lies: Vec<Lies>,
    cursors: [u64; 2],
    pub(super) segment_bytes: u64,
}

impl Whole {
    pub(super) fn new(segment_bytes: u64) -> Self {
        let disk = MemDisk::default();
        let mut bench = Bench::new(disk.clone(), 77);
        bench.segment_bytes = segment_bytes;
        bench.open().unwrap();
        let size = || {
            let files = disk.files();
            let logs = files.iter().filter(|(path, _)| path.ends_with(".seg"));
            logs.map(|(_, content)| content.len() as u64).sum::<u64>()
        };
        while size() < 14 * segment_bytes {
            bench.append();
            bench.commit();
            if size() < 3 * segment_bytes {
                bench.ship(0, 2);
                bench.ship(1, 1);
            }
        }
        bench.sync_cursor(0);
        bench.sync_cursor(1);
        bench.restart(false).unwrap();
        // What is set aside for run ends holds nothing.
        let mut files = disk.files();
        files.retain(|(path, _)| !path.ends_with("reserve"));
        let shared: Arc<dyn Disk> = Arc::new(disk);
        let dir = Path::new(bench::DIR);
        let mut reader = LogReader::new(shared.clone(), dir, Position::default());
        let end = Position {
            segment: u64::MAX,
            offset: 0,
        };
        let mut lies = Vec::new();
        while let Some(found) = reader.next(end).unwrap() {
            let name = super::super::segment::file_name(found.at.segment);
            let file = files.iter().position(|(path, _)| path.ends_with(&name));
            lies.push(Lies {
                number: found.header.number,
                file: file.unwrap(),
                bytes: found.at.offset as usize..found.next.offset as usize,
            });
        }
        let seq = |name| cursor::peek(&*shared, dir, name).unwrap().unwrap().seq;
        Self {
            files,
            records: bench.lineages[bench.promise.lineage].clone(),
            lies,
            cursors: [seq("a"), seq("b")],
            segment_bytes,
        }
    }

    pub(super) fn hit(&self, file: usize, bytes: &Range<usize>) -> BTreeSet<u64> {
        let hit = |lies: &&Lies| {
            lies.file == file && lies.bytes.start < bytes.end && bytes.start < lies.bytes.end
        };
        self.lies
            .iter()
            .filter(hit)
            .map(|lies| lies.number)
            .collect()
    }

    pub(super) fn with(&self, file: usize, change: impl FnOnce(&mut Vec<u8>)) -> Files {
        let mut files = self.files.clone();
        change(Arc::make_mut(&mut files[file].1));
        files
    }

    /// Opens damaged files; records of `gone` may be missing, and no others.
    pub(super) fn check(&self, files: &Files, gone: &BTreeSet<u64>, what: &str) {
        let disk = MemDisk::holding(files);
        let shared: Arc<dyn Disk> = Arc::new(disk);
        let dir = Path::new(bench::DIR);
        let opened = Writer::open_with(
            shared.clone(),
            dir,
            bench::settings(self.segment_bytes),
            self.segment_bytes,
            Timestamp(5),
        );
        let (writer, _) = opened.unwrap_or_else(|error| panic!("{what}: {error}"));
        let cursors = open_cursors(&shared, dir, &writer, &bench::outputs()).unwrap();
        for (n, (_, cursor)) in cursors.iter().enumerate() {
            assert!(
                cursor.seq <= self.cursors[n],
                "{what}: output {n}: {cursor:?}"
            );
        }
        let mut reader = LogReader::new(shared.clone(), dir, Position::default());
        let mut left: BTreeSet<u64> = (1..=self.records.len() as u64).collect();
        let mut last = 0;
        while let Some(found) = reader.next(writer.durable_end()).unwrap() {
            let number = found.header.number;
            assert!(number > last, "{what}: record {number} behind {last}");
            last = number;
            let given = &self.records[number as usize - 1];
            if let Some(body) = reader.body(&found).unwrap() {
                assert!(body == *given.body, "{what}: record {number} is another");
                left.remove(&number);
            }
        }
        assert!(
            left.is_subset(gone),
            "{what}: {left:?} are gone, only {gone:?} were hit"
        );
        let next = self
            .records
            .last()
            .map_or(1, |given| given.seq + u64::from(given.count));
        assert!(
            writer.captured_seq() >= next,
            "{what}: numbers are given again"
        );
        let survey = inspect::survey(&shared, dir).unwrap();
        for identity in inspect::identities(&survey) {
            assert!(identity.holds(), "{what}: {identity}");
        }
    }

    fn check_bytes(
        &self,
        file: usize,
        bytes: Range<usize>,
        with: impl FnOnce(&mut Vec<u8>),
        what: &str,
    ) {
        let files = self.with(file, with);
        let gone = self.hit(file, &bytes);
        let what = format!("{what} {bytes:?} of {}", self.files[file].0);
        self.check(&files, &gone, &what);
    }

    /// All damage to one file; returns how many cases.
    fn damage(&self, file: usize, step: usize) -> u64 {
        let length = self.files[file].1.len();
        let mut cases = 0;
        for at in (0..length).step_by(step) {
            self.check_bytes(file, at..length, |content| content.truncate(at), "cut");
            self.check_bytes(file, at..length, |content| content[at..].fill(0), "zeros");
            for bit in 0..8 {
                self.check_bytes(file, at..at + 1, |content| content[at] ^= 1 << bit, "a bit");
            }
            // A length that was written wrong, a block that lies twice.
            let end = (at + 4).min(length);
            self.check_bytes(file, at..end, |content| content[at..end].fill(0xFF), "ones");
            let block = 64.min(length - at);
            let from = (at * 7) % (length - block + 1);
            self.check_bytes(
                file,
                at..at + block,
                |content| content.copy_within(from..from + block, at),
                "copy",
            );
            cases += 12;
        }
        cases
    }
}

#[test]
fn damage_costs_the_records_it_hits_and_never_the_start() {
    let whole = Whole::new(scale(512, 4096, 4096));
    let step = scale(41, 1, 1) as usize;
    let next = std::sync::atomic::AtomicUsize::new(0);
    let cases = std::sync::atomic::AtomicU64::new(0);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                loop {
                    let file = next.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                    if file >= whole.files.len() {
                        break;
                    }
                    let more = whole.damage(file, step);
                    cases.fetch_add(more, std::sync::atomic::Ordering::Relaxed);
                }
            });
        }
    });
    let bytes: usize = whole.files.iter().map(|(_, content)| content.len()).sum();
    println!(
        "damage: {} cases in {} files of {bytes} bytes, 0 bad",
        cases.into_inner(),
        whole.files.len()
    );
}

#[test]
fn two_damages_and_files_that_changed_places_cost_what_they_hit() {
    let whole = Whole::new(scale(512, 4096, 4096));
    let mut dice = Dice::new(4);
    let all: BTreeSet<u64> = (1..=whole.records.len() as u64).collect();
    let logs: Vec<usize> = (0..whole.files.len())
        .filter(|file| whole.files[*file].0.ends_with(".seg"))
        .collect();
    let mut cases = 0;
    for a in &logs {
        for b in &logs {
            let mut files = whole.files.clone();
            let content = files[*a].1.clone();
            files[*a].1 = std::mem::replace(&mut files[*b].1, content);
            let mut gone = whole.hit(*a, &(0..usize::MAX));
            gone.extend(whole.hit(*b, &(0..usize::MAX)));
            whole.check(&files, &gone, &format!("{a} and {b} changed places"));
            cases += 1;
        }
        for name in [
            "ffffffffffffffff.seg",
            "7ffffffffffffffe.seg",
            "0000000000000000.seg",
            "x.seg",
        ] {
            let mut files = whole.files.clone();
            files[*a].0 = format!("{}/{name}", bench::DIR).into();
            let gone = whole.hit(*a, &(0..usize::MAX));
            whole.check(&files, &gone, &format!("{a} is called {name}"));
            cases += 1;
        }
    }
    for _ in 0..scale(200, 50_000, 2_000_000) {
        let mut files = whole.files.clone();
        let mut gone = BTreeSet::new();
        for _ in 0..2 {
            let file = logs[dice.roll(logs.len() as u64) as usize];
            let content = Arc::make_mut(&mut files[file].1);
            let at = dice.roll(content.len() as u64) as usize;
            let end = (at + 1 + dice.roll(64) as usize).min(content.len());
            for byte in &mut content[at..end] {
                *byte = dice.next() as u8;
            }
            gone.extend(whole.hit(file, &(at..end)));
        }
        assert!(gone.is_subset(&all));
        whole.check(&files, &gone, "two damages");
        cases += 1;
    }
    println!("damage to two places: {cases} cases, 0 bad");
}
