//! The queue's promises, with a disk whose power can be cut.

#![expect(clippy::unwrap_used, reason = "tests")]

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::batch::Batch;
use super::fact::Counters;
use super::fact::Fact;
use super::fact::Part;
use super::fact::Portion;
use super::log::LogReader;
use super::record::Body;
use super::record::Draft;
use super::segment::Position;
use super::writer::AppendError;
use super::writer::Pressure;
use super::writer::Writer;
use super::*;
use crate::disk::Disk;
use crate::disk::Open;
use crate::disk::Replace;
use crate::disk::mem::Fault;
use crate::disk::mem::MemDisk;
use crate::disk::mem::Verb;
use crate::disk::mem::Verdict;
use crate::disk::mem::platter::Dice;
use crate::event::Frames;
use crate::event::Route;
use crate::event::RunId;
use crate::event::Stream;
use crate::run::Outcome;
use crate::run::Trigger;
use crate::units::Timestamp;

mod bench;
mod crash;
mod damage;
mod errno;
mod full;
mod golden;
mod model;
mod repair;
mod service;

const DIR: &str = "/q";

fn settings() -> Settings {
    Settings {
        max_bytes: 16 << 20,
        retain_age: Duration::from_secs(3600),
        retain_bytes: 0,
        durability: Durability::Sync,
        batch_events: 2048,
        batch_bytes: 1 << 20,
        flush: Duration::from_millis(100),
        compression_level: 3,
        on_full: OnFull::Block,
    }
}

fn portion(first: u64, count: u64, bytes: usize) -> Portion {
    let mut frames = Frames::default();
    for n in first..first + count {
        frames.push(|out| {
            out.extend_from_slice(format!("{{\"n\":{n},\"pad\":\"").as_bytes());
            // Hard to deflate, so that segments fill.
            let mut x = n.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
            for _ in 0..bytes {
                x ^= x << 13;
                x ^= x >> 7;
                x ^= x << 17;
                out.push(b'a' + (x % 26) as u8);
            }
            out.extend_from_slice(b"\"}");
        });
    }
    Portion {
        route: Route::to(vec!["out".into()]),
        parts: vec![Part {
            job: "job".into(),
            stream: Stream::Stdout,
            count: count as u32,
            first: Timestamp(1),
            last: Timestamp(1),
        }],
        frames,
        facts: Vec::new(),
        counters: Counters {
            framed: count,
            ..Counters::default()
        },
    }
}

fn draft(portion: Portion) -> Draft {
    let mut batch = Batch::default();
    batch.add(portion);
    batch.close(3)
}

fn open(disk: &MemDisk) -> Writer {
    Writer::open(
        Arc::new(disk.clone()),
        Path::new(DIR),
        settings(),
        Timestamp(1_000),
    )
    .unwrap()
    .0
}

/// The `n` of every event in the log, in order.
fn events(disk: &MemDisk, writer: &Writer) -> Vec<u64> {
    let mut reader = LogReader::new(Arc::new(disk.clone()), Path::new(DIR), Position::default());
    let mut found = Vec::new();
    while let Some(record) = reader.next(writer.durable_end()).unwrap() {
        let Some(body) = reader.body(&record).unwrap() else {
            continue;
        };
        let body = Body::read(&body).unwrap();
        let stored = record::StoredEvents {
            bytes: body.events,
            count: record.header.count,
            raw_bytes: record.header.raw_bytes,
            zlib: record.header.zlib,
        };
        for payload in stored.frames().unwrap().payloads() {
            let event: serde_json::Value = serde_json::from_slice(payload).unwrap();
            found.push(event["n"].as_u64().unwrap());
        }
    }
    found
}

#[test]
fn what_was_captured_survives_a_power_cut_at_every_byte_of_the_next_record() {
    let disk = MemDisk::default();
    let mut writer = open(&disk);
    writer
        .append(&draft(portion(0, 10, 20)), Timestamp(1))
        .unwrap();
    writer.commit(Timestamp(1)).unwrap();
    writer
        .append(&draft(portion(10, 5, 20)), Timestamp(1))
        .unwrap();
    let unsynced = draft(portion(10, 5, 20)).take_record().unwrap().len() as usize;
    for kept in 0..=unsynced {
        let after = disk.crash(kept);
        let writer = open(&after);
        let found = events(&after, &writer);
        let expected: Vec<u64> = if kept == unsynced {
            (0..15).collect()
        } else {
            (0..10).collect()
        };
        assert_eq!(found, expected, "{kept} bytes of {unsynced} survived");
        let ledger = writer.ledger();
        assert_eq!(locked(&ledger).counters.framed, expected.len() as u64);
        assert_eq!(locked(&ledger).queued(), expected.len() as u64);
        // A second crash right after recovery changes nothing.
        let again = after.crash(0);
        let writer = open(&again);
        assert_eq!(events(&again, &writer), expected);
    }
}

#[test]
fn what_a_killed_daemon_wrote_and_did_not_sync_counts_only_when_it_is_durable() {
    let disk = MemDisk::default();
    let mut writer = open(&disk);
    writer
        .append(&draft(portion(0, 5, 20)), Timestamp(1))
        .unwrap();
    drop(writer);
    // It was written, so the next daemon finds it and goes on from there.
    let writer = open(&disk);
    assert_eq!(locked(&writer.ledger()).queued(), 5);
    let after = disk.crash(0);
    let writer = open(&after);
    assert_eq!(locked(&writer.ledger()).queued(), 5);
    assert_eq!(events(&after, &writer), (0..5).collect::<Vec<_>>());
}

#[test]
fn a_start_that_dies_after_it_removed_an_empty_segment_costs_nothing() {
    let disk = MemDisk::default();
    let mut writer = open(&disk);
    writer
        .append(&draft(portion(0, 5, 20)), Timestamp(1))
        .unwrap();
    writer.commit(Timestamp(1)).unwrap();
    drop(writer);
    // Its checkpoint lies in its segment, which stays empty.
    let writer = open(&disk);
    let empty = segment::file_name(writer.durable_end().segment);
    drop(writer);
    disk.remove(&Path::new(DIR).join(empty)).unwrap();
    let writer = open(&disk);
    assert_eq!(events(&disk, &writer), (0..5).collect::<Vec<_>>());
}

#[test]
fn a_failed_sync_poisons_the_segment_and_loses_nothing() {
    let disk = MemDisk::default();
    let mut writer = open(&disk);
    writer
        .append(&draft(portion(0, 3, 20)), Timestamp(1))
        .unwrap();
    writer.commit(Timestamp(1)).unwrap();
    let before = writer.durable_end();
    writer
        .append(&draft(portion(3, 3, 20)), Timestamp(1))
        .unwrap();
    disk.fail(Fault::NextSync);
    writer.commit(Timestamp(1)).unwrap();
    assert_eq!(
        writer.durable_end().segment,
        before.segment + 1,
        "the tail went to a new segment"
    );
    let after = disk.crash(0);
    let writer = open(&after);
    assert_eq!(events(&after, &writer), (0..6).collect::<Vec<_>>());
    assert_eq!(locked(&writer.ledger()).counters.framed, 6);
}

#[test]
fn a_segment_whose_sync_failed_is_not_synced_again_when_no_other_can_be_made() {
    let disk = MemDisk::default();
    let mut writer = open(&disk);
    writer
        .append(&draft(portion(0, 3, 20)), Timestamp(1))
        .unwrap();
    disk.fail(Fault::NextSyncThenFull);
    for _ in 0..3 {
        assert!(writer.commit(Timestamp(1)).is_err(), "nothing is captured");
    }
    disk.fail(Fault::None);
    writer.commit(Timestamp(1)).unwrap();
    let after = disk.crash(0);
    let writer = open(&after);
    assert_eq!(events(&after, &writer), (0..3).collect::<Vec<_>>());
}

#[test]
fn half_a_record_at_the_end_of_a_segment_that_was_cut_is_kept_aside() {
    let disk = MemDisk::default();
    let mut writer = open(&disk);
    for n in 0..2 {
        let portion = portion(3 * n, 3, 20);
        writer.append(&draft(portion), Timestamp(1)).unwrap();
        writer.commit(Timestamp(1)).unwrap();
    }
    writer.checkpoint().unwrap();
    let end = writer.durable_end();
    drop(writer);
    let path = Path::new(DIR).join(segment::file_name(end.segment));
    let file = disk.open(&path, Open::Write).unwrap();
    file.truncate(end.offset - 7).unwrap();
    let writer = open(&disk);
    assert_eq!(events(&disk, &writer), (0..3).collect::<Vec<_>>());
    let cut = end.offset - 7 - file.size().unwrap();
    let kept = quarantine::summary(&disk, Path::new(DIR)).unwrap();
    assert_eq!((kept.entries, kept.bytes), (1, cut));
    assert!(cut > 0);
}

#[test]
fn a_queue_on_a_full_disk_opens_on_its_reserve_and_loses_nothing() {
    let disk = MemDisk::default();
    let mut writer = open(&disk);
    writer
        .append(&draft(portion(0, 3, 20)), Timestamp(1))
        .unwrap();
    writer.commit(Timestamp(1)).unwrap();
    disk.fail(Fault::FullUntilRemoved("/q/reserve"));
    let writer = open(&disk);
    assert_eq!(events(&disk, &writer), (0..3).collect::<Vec<_>>());
}

#[test]
fn a_queue_that_was_removed_under_us_captures_nothing_more() {
    let disk = MemDisk::default();
    let mut writer = open(&disk);
    writer
        .append(&draft(portion(0, 3, 20)), Timestamp(1))
        .unwrap();
    writer.commit(Timestamp(1)).unwrap();
    for entry in disk.list(Path::new(DIR)).unwrap() {
        disk.remove(&Path::new(DIR).join(entry.name)).unwrap();
    }
    let end = writer.durable_end();
    assert!(writer.tidy(end, Pressure::None, Timestamp(1)).is_err());
    let refused = writer
        .append(&draft(portion(3, 3, 20)), Timestamp(1))
        .unwrap_err();
    assert!(refused.to_string().contains("removed"), "{refused}");
}

#[test]
fn a_full_disk_stops_and_goes_on_by_itself() {
    let disk = MemDisk::default();
    let mut writer = open(&disk);
    writer
        .append(&draft(portion(0, 3, 20)), Timestamp(1))
        .unwrap();
    writer.commit(Timestamp(1)).unwrap();
    disk.fail(Fault::WritesFull);
    for _ in 0..3 {
        assert!(matches!(
            writer.append(&draft(portion(3, 3, 20)), Timestamp(1)),
            Err(AppendError::Disk(_))
        ));
    }
    disk.fail(Fault::None);
    writer
        .append(&draft(portion(3, 3, 20)), Timestamp(1))
        .unwrap();
    writer.commit(Timestamp(1)).unwrap();
    assert_eq!(events(&disk, &writer), (0..6).collect::<Vec<_>>());
}

#[test]
fn events_stop_at_the_limit_and_run_ends_still_find_room() {
    let disk = MemDisk::default();
    let mut writer = open(&disk);
    let mut next = 0;
    loop {
        match writer.append(&draft(portion(next, 100, 4000)), Timestamp(1)) {
            Ok(_) => next += 100,
            Err(AppendError::Full) => break,
            Err(other) => panic!("{other}"),
        }
        writer.commit(Timestamp(1)).unwrap();
    }
    assert!(writer.total_bytes() <= settings().max_bytes);
    let mut end = portion(next, 1, 10);
    end.facts.push(Fact::Ended {
        job: "job".into(),
        run: RunId::from_text("r"),
        generation: "g".into(),
        trigger: Trigger::Schedule,
        outcome: Outcome::Success,
        started_at: 1,
        at: 2,
    });
    writer.append(&draft(end), Timestamp(1)).unwrap();
    writer.commit(Timestamp(1)).unwrap();
    // Outputs have passed half: their segments go, and events flow again.
    let passed = Position {
        segment: writer.durable_end().segment / 2,
        offset: 0,
    };
    writer
        .tidy(passed, Pressure::Pressed, Timestamp(1))
        .unwrap();
    writer
        .append(&draft(portion(next + 1, 100, 4000)), Timestamp(1))
        .unwrap();
}

#[test]
fn segments_behind_every_cursor_go_and_a_restart_still_knows_the_past() {
    let disk = MemDisk::default();
    let mut writer = open(&disk);
    let mut fired = portion(0, 1, 10);
    fired.facts.push(Fact::Fired {
        job: "job".into(),
        run: RunId::from_text("open"),
        generation: "g".into(),
        trigger: Trigger::Schedule,
        scheduled_at: Some(42),
        outputs: vec!["out".into()],
        at: 43,
    });
    writer.append(&draft(fired), Timestamp(1)).unwrap();
    for n in 0..40 {
        writer
            .append(&draft(portion(1 + n * 100, 100, 2000)), Timestamp(1))
            .unwrap();
        writer.commit(Timestamp(1)).unwrap();
        writer
            .tidy(writer.durable_end(), Pressure::None, Timestamp(1))
            .unwrap();
    }
    assert!(
        writer.segments() <= 2,
        "{} segments are left",
        writer.segments()
    );
    let after = disk.crash(0);
    let writer = open(&after);
    let ledger = writer.ledger();
    let ledger = locked(&ledger);
    assert_eq!(ledger.queued(), 4001);
    assert_eq!(ledger.jobs["job"].captured, 4001);
    assert_eq!(ledger.jobs["job"].last_fire, Some(42));
    assert_eq!(ledger.open.len(), 1, "the run without an end is known");
}

#[test]
fn no_power_cut_brings_back_a_segment_without_those_behind_it() {
    let disk = MemDisk::default().recording();
    let mut writer = open(&disk);
    for n in 0..80 {
        writer
            .append(&draft(portion(n * 100, 100, 2000)), Timestamp(1))
            .unwrap();
        writer.commit(Timestamp(1)).unwrap();
    }
    let before = writer.segments();
    let end = writer.durable_end();
    writer.tidy(end, Pressure::Pressed, Timestamp(1)).unwrap();
    let after = writer.segments();
    assert!(before > 8 && after < 4, "{before} and then {after}");
    // The head of the next one says which records of a segment are void.
    let mut dice = Dice::new(7);
    for _ in 0..8 {
        let after = disk.power_cut(&mut dice);
        let names = after.list(Path::new(DIR)).unwrap().into_iter();
        let mut ids: Vec<u64> = names
            .filter_map(|entry| segment::id_of(&entry.name))
            .collect();
        ids.sort_unstable();
        assert!(ids.windows(2).all(|two| two[1] == two[0] + 1), "{ids:?}");
    }
}

#[test]
fn a_flipped_bit_costs_its_record_and_nothing_else() {
    let disk = MemDisk::default();
    let mut writer = open(&disk);
    for n in 0..5 {
        writer
            .append(&draft(portion(n * 2, 2, 10)), Timestamp(1))
            .unwrap();
    }
    writer.commit(Timestamp(1)).unwrap();
    let segment = disk
        .open(&Path::new(DIR).join("0000000000000001.seg"), Open::Write)
        .unwrap();
    let size = segment.size().unwrap();
    let mut survivors = std::collections::BTreeMap::new();
    for bit in (segment::HEAD_BYTES as u64 * 8)..size * 8 {
        let mut byte = [0];
        segment.read_at(bit / 8, &mut byte).unwrap();
        let flipped = [byte[0] ^ (1 << (bit % 8))];
        segment.write_at(bit / 8, &flipped).unwrap();
        let found = events(&disk, &writer);
        assert_eq!(
            found.len(),
            8,
            "bit {bit} cost more than its record: {found:?}"
        );
        *survivors.entry(found).or_insert(0) += 1;
        segment.write_at(bit / 8, &byte).unwrap();
    }
    assert_eq!(survivors.len(), 5, "each record was hit");
}

#[test]
fn a_newer_format_is_refused_and_left_alone() {
    let disk = MemDisk::default();
    let writer = open(&disk);
    drop(writer);
    let path = Path::new(DIR).join("0000000000000001.seg");
    let segment = disk.open(&path, Open::Write).unwrap();
    let mut head = [0; segment::HEAD_BYTES];
    segment.read_at(0, &mut head).unwrap();
    head[8] = 9;
    let crc = crc32fast::hash(&head[..48]);
    head[48..52].copy_from_slice(&crc.to_le_bytes());
    segment.write_at(0, &head).unwrap();
    let before = disk.list(Path::new(DIR)).unwrap();
    let refused = Writer::open(
        Arc::new(disk.clone()),
        Path::new(DIR),
        settings(),
        Timestamp(1),
    )
    .unwrap_err();
    assert!(
        refused.to_string().contains("newer version (format 9)"),
        "{refused}"
    );
    assert_eq!(disk.list(Path::new(DIR)).unwrap(), before);
}

#[test]
fn a_checkpoint_of_a_newer_version_is_refused_and_left_alone() {
    let disk = MemDisk::default();
    drop(open(&disk));
    let path = Path::new(DIR).join("checkpoint-0000000000000001");
    let mut bytes = disk.read(&path, u64::MAX).unwrap();
    bytes[8] = 9;
    let mut crc = crc32fast::Hasher::new();
    crc.update(&bytes[8..12]);
    crc.update(&bytes[16..]);
    bytes[12..16].copy_from_slice(&crc.finalize().to_le_bytes());
    disk.replace(&path, &bytes, Replace::Durable).unwrap();
    let before = disk.list(Path::new(DIR)).unwrap();
    let refused = Writer::open(
        Arc::new(disk.clone()),
        Path::new(DIR),
        settings(),
        Timestamp(1),
    )
    .unwrap_err();
    assert!(
        refused.to_string().contains("newer version (format 9)"),
        "{refused}"
    );
    assert_eq!(disk.list(Path::new(DIR)).unwrap(), before);
}

/// A cursor that has passed the events before `seq`.
fn passed(at: Position, seq: u64) -> cursor::Cursor {
    cursor::Cursor {
        at,
        seq,
        born: 1,
        passed: cursor::Passed {
            acked: seq - 1,
            ..cursor::Passed::default()
        },
        ..cursor::Cursor::default()
    }
}

#[test]
fn no_number_is_given_twice_when_an_output_has_passed_more_than_is_left() {
    let disk = MemDisk::default();
    let mut writer = open(&disk);
    writer
        .append(&draft(portion(0, 10, 20)), Timestamp(1))
        .unwrap();
    writer.commit(Timestamp(1)).unwrap();
    writer.checkpoint().unwrap();
    let dir = Path::new(DIR);
    let shared: Arc<dyn Disk> = Arc::new(disk.clone());
    let (mut file, _) = cursor::CursorFile::open(&shared, dir, "out").unwrap();
    let ahead = Position {
        segment: 70,
        offset: 900,
    };
    file.sync(&passed(ahead, 501)).unwrap();
    drop(writer);
    // The segments are from an older backup, or gone.
    for segments in ["older", "gone"] {
        if segments == "gone" {
            for entry in disk.list(dir).unwrap() {
                if !entry.name.starts_with("cursor-") {
                    disk.remove(&dir.join(&entry.name)).unwrap();
                }
            }
        }
        let writer = open(&disk);
        assert!(writer.captured_seq() >= 501, "{segments}");
        assert!(writer.durable_end() > ahead, "{segments}");
        let disk: Arc<dyn Disk> = Arc::new(disk.clone());
        let survey = inspect::survey(&disk, dir).unwrap();
        let lost = if segments == "older" { 490 } else { 500 };
        assert_eq!(survey.ledger.lost, lost, "{segments}");
        for identity in inspect::identities(&survey) {
            assert!(identity.holds(), "{segments}: {identity}");
        }
    }
}

#[test]
fn a_start_that_died_before_it_made_its_segment_costs_nothing() {
    let disk = MemDisk::default();
    let mut writer = open(&disk);
    writer
        .append(&draft(portion(0, 3, 20)), Timestamp(1))
        .unwrap();
    writer.commit(Timestamp(1)).unwrap();
    writer.checkpoint().unwrap();
    // The next start makes an empty segment and a checkpoint behind it; the one after that begins by
    // removing the empty segment, and dies.
    drop(open(&disk));
    disk.remove(&Path::new(DIR).join("0000000000000002.seg"))
        .unwrap();
    let writer = open(&disk);
    assert_eq!(events(&disk, &writer), (0..3).collect::<Vec<_>>());
}

#[test]
fn what_a_killed_daemon_had_not_synced_is_durable_before_the_next_one_counts_it() {
    for failed in [false, true] {
        let disk = MemDisk::default();
        let mut writer = open(&disk);
        writer
            .append(&draft(portion(0, 3, 20)), Timestamp(1))
            .unwrap();
        if failed {
            disk.fail(Fault::NextSyncThenFull);
            writer.commit(Timestamp(1)).unwrap_err();
            disk.fail(Fault::None);
        }
        drop(writer);
        let counted = locked(&open(&disk).ledger()).queued();
        let after = disk.crash(0);
        let writer = open(&after);
        assert_eq!(counted, 3);
        assert_eq!(events(&after, &writer), (0..3).collect::<Vec<_>>());
    }
}

#[test]
fn the_accounts_come_out_even_wherever_the_log_is_damaged() {
    let disk = MemDisk::default();
    let mut writer = open(&disk);
    for first in [0, 3, 7] {
        writer
            .append(&draft(portion(first, 3, 5)), Timestamp(1))
            .unwrap();
        writer.commit(Timestamp(1)).unwrap();
    }
    let path = Path::new(DIR).join(segment::file_name(1));
    let bytes = disk.read(&path, 1 << 20).unwrap();
    for at in (0..bytes.len()).step_by(7) {
        let damaged = disk.crash(usize::MAX);
        let file = damaged.open(&path, Open::Write).unwrap();
        file.write_at(at as u64, &[bytes[at] ^ 0x10]).unwrap();
        let writer = open(&damaged);
        assert!(writer.captured_seq() >= 7, "byte {at}");
        let disk: Arc<dyn Disk> = Arc::new(damaged.clone());
        let survey = inspect::survey(&disk, Path::new(DIR)).unwrap();
        for identity in inspect::identities(&survey) {
            assert!(identity.holds(), "byte {at}: {identity}");
        }
    }
}

/// A queue of three segments or more, of events 1 to 60.
fn segments_of(disk: &MemDisk) -> Writer {
    let mut writer = open(disk);
    for first in (0..60).step_by(10) {
        writer
            .append(&draft(portion(first, 10, 60_000)), Timestamp(1))
            .unwrap();
        writer.commit(Timestamp(1)).unwrap();
    }
    assert!(writer.segments() >= 3);
    writer
}

fn segment_path(id: u64) -> std::path::PathBuf {
    Path::new(DIR).join(segment::file_name(id))
}

#[test]
fn a_segment_under_another_s_name_is_set_aside_and_all_others_are_read() {
    let disk = MemDisk::default();
    drop(segments_of(&disk));
    let other = disk.read(&segment_path(3), 4 << 20).unwrap();
    let file = disk.open(&segment_path(2), Open::Write).unwrap();
    file.truncate(0).unwrap();
    file.write_at(0, &other).unwrap();
    let writer = open(&disk);
    let found = events(&disk, &writer);
    assert!(
        found.len() >= 20 && found.len() < 60 && found[0] == 0,
        "{found:?}"
    );
    assert_eq!(found.last(), Some(&59));
    assert_eq!(writer.captured_seq(), 61);
    let kept = quarantine::summary(&disk, Path::new(DIR)).unwrap();
    assert_eq!((kept.entries, kept.bytes), (1, other.len() as u64));
    drop(writer);
    let writer = open(&disk);
    assert_eq!(
        events(&disk, &writer),
        found,
        "a second start finds the same"
    );
    assert_eq!(quarantine::summary(&disk, Path::new(DIR)).unwrap(), kept);
}

#[test]
fn a_segment_that_cannot_be_read_is_set_aside_and_the_queue_opens() {
    for errno in [libc::EACCES, libc::EIO] {
        for id in 1..=3 {
            let disk = MemDisk::default();
            drop(segments_of(&disk));
            let path = format!("{DIR}/{}", segment::file_name(id));
            let mut moved = false;
            disk.fail(Fault::Script(Box::new(move |call| {
                moved |= call.verb == Verb::Rename && call.path.contains("quarantine");
                let reads = call.verb == Verb::Open(Open::Read) || call.verb == Verb::Read;
                if call.path == path && reads && !moved {
                    Verdict::Fail(errno)
                } else {
                    Verdict::Go
                }
            })));
            let writer = open(&disk);
            let found = events(&disk, &writer);
            assert!(found.len() < 60 && found.len() >= 20, "{id}: {found:?}");
            let kept = quarantine::summary(&disk, Path::new(DIR)).unwrap();
            assert_eq!(kept.entries, 1, "{id}");
            let disk: Arc<dyn Disk> = Arc::new(disk.clone());
            let survey = inspect::survey(&disk, Path::new(DIR)).unwrap();
            for identity in inspect::identities(&survey) {
                assert!(identity.holds(), "{id}: {identity}");
            }
        }
    }
}

#[test]
fn what_is_not_of_the_queue_is_left_alone_in_its_folder() {
    let root = tempfile::tempdir().unwrap();
    let dir = root.path().join("queue");
    let open = || {
        Writer::open(
            Arc::new(crate::disk::OsDisk),
            &dir,
            settings(),
            Timestamp(1),
        )
        .unwrap()
        .0
    };
    drop(open());
    let target = root.path().join("target");
    std::fs::write(&target, "theirs").unwrap();
    std::os::unix::fs::symlink(&target, dir.join(segment::file_name(2))).unwrap();
    std::os::unix::fs::symlink(&target, dir.join("cursor-link")).unwrap();
    std::fs::create_dir_all(dir.join(segment::file_name(3)).join("inside")).unwrap();
    std::fs::write(dir.join("notes.txt"), "theirs").unwrap();
    let mut writer = open();
    assert_eq!(writer.durable_end().segment, 4, "their names are not used");
    writer
        .append(&draft(portion(0, 3, 5)), Timestamp(1))
        .unwrap();
    writer.commit(Timestamp(1)).unwrap();
    drop(writer);
    assert_eq!(open().captured_seq(), 4);
    assert_eq!(std::fs::read_to_string(&target).unwrap(), "theirs");
    assert!(dir.join(segment::file_name(2)).is_symlink());
    assert!(dir.join(segment::file_name(3)).join("inside").is_dir());
    assert!(dir.join("notes.txt").is_file() && dir.join("cursor-link").is_symlink());
}

#[test]
fn a_later_record_does_not_outlive_an_earlier_one_of_the_same_group() {
    let disk = MemDisk::default();
    let mut writer = open(&disk);
    writer
        .append(&draft(portion(0, 2, 20)), Timestamp(1))
        .unwrap();
    writer.commit(Timestamp(1)).unwrap();
    let path = Path::new(DIR).join("0000000000000001.seg");
    let before = writer.durable_end().offset;
    for n in 1..3 {
        writer
            .append(&draft(portion(n * 2, 2, 20)), Timestamp(1))
            .unwrap();
    }
    drop(writer);
    // The later of two unsynced blocks has arrived, the earlier one has not.
    disk.open(&path, Open::Write)
        .unwrap()
        .write_at(before, &[0; 64])
        .unwrap();
    let writer = open(&disk);
    assert_eq!(events(&disk, &writer), [0, 1]);
}
