//! The queue on a disk that has an end.

use std::path::Path;
use std::sync::Arc;

use super::DIR;
use super::draft;
use super::events;
use super::open;
use super::portion;
use super::settings;
use crate::disk::Disk;
use crate::disk::Open;
use crate::disk::mem::Fault;
use crate::disk::mem::MemDisk;
use crate::disk::mem::Verb;
use crate::disk::mem::Verdict;
use crate::event::RunId;
use crate::queue::fact::Fact;
use crate::queue::fact::Portion;
use crate::queue::writer::AppendError;
use crate::queue::writer::Pressure;
use crate::queue::writer::Writer;
use crate::run::Outcome;
use crate::run::Trigger;
use crate::units::Timestamp;

const RESERVE: &str = "/q/reserve";

/// Larger than any disk here: all of it is one segment.
const SEGMENT_BYTES: u64 = 256 << 10;

fn open_large(disk: &MemDisk) -> Writer {
    let disk = Arc::new(disk.clone());
    Writer::open_with(
        disk,
        Path::new(DIR),
        settings(),
        SEGMENT_BYTES,
        Timestamp(1),
    )
    .unwrap()
    .0
}

pub(super) fn used(disk: &MemDisk) -> u64 {
    let files = disk.files();
    files.iter().map(|(_, bytes)| bytes.len() as u64).sum()
}

fn reserved(disk: &MemDisk) -> Option<u64> {
    let file = disk.open(Path::new(RESERVE), Open::Read).ok()?;
    Some(file.size().unwrap())
}

/// Captures events until the disk takes no more; returns how many there are.
fn fill(writer: &mut Writer) -> u64 {
    let mut next = 0;
    loop {
        match writer.append(&draft(portion(next, 5, 200)), Timestamp(1)) {
            Ok(_) => next += 5,
            Err(AppendError::Disk(_)) => return next,
            Err(other) => panic!("{other}"),
        }
        writer.commit(Timestamp(1)).unwrap();
    }
}

pub(super) fn end_of_a_run(first: u64) -> Portion {
    let mut end = portion(first, 1, 10);
    end.facts.push(Fact::Ended {
        job: "job".into(),
        run: RunId::from_text("r"),
        generation: "g".into(),
        trigger: Trigger::Schedule,
        outcome: Outcome::Success,
        started_at: 1,
        at: 2,
    });
    end
}

#[test]
fn a_reserve_fits_the_disk_and_leaves_more_than_it_takes() {
    for room in [1_000, 4_000, 20_000, 1 << 20] {
        let disk = MemDisk::default();
        drop(open(&disk));
        disk.remove(Path::new(RESERVE)).unwrap();
        // What a daemon of another mind left: the start takes it away first.
        disk.limit(used(&disk) + room);
        let all = disk.room(Path::new(DIR)).unwrap();
        let left = disk.open(Path::new(RESERVE), Open::CreateNew).unwrap();
        drop(left.reserve(1 << 22));
        open(&disk);
        let reserved = reserved(&disk).unwrap_or(0);
        assert!(reserved * 4 <= all.free, "{reserved} of {room}");
        assert_eq!(reserved > 0, room > 4_000, "{room}");
    }
}

#[test]
fn the_end_of_a_run_is_written_on_a_full_disk_whatever_size_the_reserve_has() {
    for room in [24_000, 60_000] {
        let disk = MemDisk::default();
        disk.limit(room);
        let mut writer = open_large(&disk);
        let next = fill(&mut writer);
        let held = reserved(&disk).unwrap();
        // Another program takes the rest.
        disk.limit(used(&disk));
        for n in 0..3 {
            writer
                .append(&draft(end_of_a_run(next + n)), Timestamp(1))
                .unwrap();
            writer.commit(Timestamp(1)).unwrap();
            let end = writer.durable_end();
            drop(writer.tidy(end, Pressure::None, Timestamp(1)));
        }
        let taken = reserved(&disk).unwrap_or(0);
        assert!(taken < held, "given, and less is taken again");
        assert_eq!(events(&disk, &writer).len() as u64, next + 3);
    }
}

#[test]
fn a_disk_full_of_events_that_were_all_passed_goes_on_by_itself() {
    let disk = MemDisk::default();
    disk.limit(60_000);
    let mut writer = open_large(&disk);
    let next = fill(&mut writer);
    disk.limit(used(&disk));
    // Runs take what they may of the reserve: not the last, which this needs.
    let mut run = next;
    while writer
        .append(&draft(end_of_a_run(run)), Timestamp(1))
        .is_ok()
    {
        run += 1;
        writer.commit(Timestamp(1)).unwrap();
    }
    assert!(run > next);
    let end = writer.durable_end();
    writer.tidy(end, Pressure::Pressed, Timestamp(1)).unwrap();
    let again = draft(portion(next, 5, 200));
    writer.append(&again, Timestamp(1)).unwrap();
    writer.commit(Timestamp(1)).unwrap();
    assert_eq!(events(&disk, &writer), (next..next + 5).collect::<Vec<_>>());
    assert!(used(&disk) < 30_000, "the room is back");
    drop(writer);
    let writer = open_large(&disk);
    assert_eq!(events(&disk, &writer), (next..next + 5).collect::<Vec<_>>());
}

#[test]
fn a_disk_without_room_for_a_checkpoint_and_without_a_reserve_goes_on_when_all_was_passed() {
    let disk = MemDisk::default();
    disk.limit(120_000);
    let (dir, at) = (Path::new(DIR), Timestamp(1));
    let mut writer = Writer::open_with(Arc::new(disk.clone()), dir, settings(), 16 << 10, at)
        .unwrap()
        .0;
    for n in 0..40 {
        writer.append(&draft(portion(n * 5, 5, 200)), at).unwrap();
        writer.commit(at).unwrap();
    }
    writer.checkpoint().unwrap();
    // What comes after it fills the disk.
    let mut next = 200;
    while writer.append(&draft(portion(next, 5, 200)), at).is_ok() {
        writer.commit(at).unwrap();
        next += 5;
    }
    disk.remove(Path::new(RESERVE)).unwrap();
    disk.limit(used(&disk));
    let end = writer.durable_end();
    writer.tidy(end, Pressure::Pressed, at).unwrap();
    writer.append(&draft(portion(next, 5, 200)), at).unwrap();
    writer.commit(at).unwrap();
    assert_eq!(events(&disk, &writer), (next..next + 5).collect::<Vec<_>>());
}

#[test]
fn a_queue_whose_last_segment_fills_the_disk_opens_without_a_second_copy_of_it() {
    let disk = MemDisk::default();
    disk.limit(60_000);
    let mut writer = open_large(&disk);
    let next = fill(&mut writer);
    drop(writer);
    disk.limit(used(&disk));
    let writer = open_large(&disk);
    assert_eq!(events(&disk, &writer), (0..next).collect::<Vec<_>>());
}

#[test]
fn nothing_is_written_to_a_segment_when_the_next_one_was_begun_in_vain() {
    let disk = MemDisk::default();
    let mut writer = open_large(&disk);
    writer
        .append(&draft(portion(0, 5, 200)), Timestamp(1))
        .unwrap();
    writer.commit(Timestamp(1)).unwrap();
    let passed = writer.durable_end();
    disk.script(|call| match call.verb {
        Verb::SyncDir => Verdict::Fail(libc::EMFILE),
        _ => Verdict::Go,
    });
    let tidied = writer.tidy(passed, Pressure::Pressed, Timestamp(1));
    assert!(tidied.is_err(), "the next segment cannot be made durable");
    let refused = writer.append(&draft(portion(5, 5, 200)), Timestamp(1));
    assert!(matches!(refused, Err(AppendError::Disk(_))));
    disk.fail(Fault::None);
    writer
        .append(&draft(portion(5, 5, 200)), Timestamp(1))
        .unwrap();
    writer.commit(Timestamp(1)).unwrap();
    drop(writer);
    let disk = MemDisk::holding(&disk.files());
    let ledger = open_large(&disk).ledger();
    let ledger = crate::queue::locked(&ledger);
    assert_eq!((ledger.next_seq, ledger.queued()), (11, 10));
}

#[test]
fn a_queue_that_is_killed_on_a_full_disk_opens_each_time_and_drains() {
    let disk = MemDisk::default();
    disk.limit(60_000);
    let mut writer = open_large(&disk);
    let mut next = fill(&mut writer);
    // The last record's beginning stays behind, as a kill in a write leaves it.
    for _ in 0..20 {
        drop(writer);
        writer = open_large(&disk);
        next += fill(&mut writer);
        assert!(used(&disk) <= 60_000);
    }
    let end = writer.durable_end();
    writer.tidy(end, Pressure::Pressed, Timestamp(1)).unwrap();
    writer
        .append(&draft(portion(next, 5, 200)), Timestamp(1))
        .unwrap();
    writer.commit(Timestamp(1)).unwrap();
}

#[test]
fn what_is_cut_off_is_not_kept_where_little_room_is_left() {
    let disk = MemDisk::default();
    let mut writer = open(&disk);
    writer
        .append(&draft(portion(0, 50, 200)), Timestamp(1))
        .unwrap();
    drop(writer);
    let kept = |room: u64| {
        let after = disk.crash(6_000);
        after.limit(used(&after) + room);
        drop(open(&after));
        let files = after.files();
        files.iter().any(|(path, _)| path.ends_with(".bytes"))
    };
    assert!(kept(100_000));
    assert!(!kept(15_000));
}
