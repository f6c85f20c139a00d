//! Damage of every kind, repaired: what is damaged is set aside byte for byte and settled, nothing that
//! can be read is lost, all accounts hold, and a repair that is killed anywhere is done by the next one.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use super::super::OpenError;
use super::super::inspect;
use super::super::quarantine;
use super::super::repair;
use super::super::repair::Daemon;
use super::super::repair::Look;
use super::super::verify;
use super::super::writer::Writer;
use super::bench;
use super::crash::scale;
use super::damage::Whole;
use crate::disk::Disk;
use crate::disk::Open;
use crate::disk::mem::Files;
use crate::disk::mem::MemDisk;
use crate::disk::mem::Verb;
use crate::disk::mem::Verdict;
use crate::disk::mem::platter::Dice;
use crate::units::Timestamp;

/// A repair looks so often at most: segments that are moved away, what they held, and that nothing is left.
const LOOKS_MAX: usize = 3;

fn look(disk: &MemDisk) -> Look {
    let shared: Arc<dyn Disk> = Arc::new(disk.clone());
    let before = disk.files();
    let found = repair::look(&shared, Path::new(bench::DIR), Daemon::Stopped);
    assert!(disk.files() == before, "looking changes nothing");
    found.unwrap().0
}

fn mend(whole: &Whole, disk: &MemDisk, found: &Look) -> Result<(), OpenError> {
    let shared: Arc<dyn Disk> = Arc::new(disk.clone());
    let settings = bench::settings(whole.segment_bytes);
    repair::mend(
        &shared,
        Path::new(bench::DIR),
        settings,
        found,
        Timestamp(4),
    )
}

/// Repairs until nothing is left; returns what was found.
fn repair_all(whole: &Whole, disk: &MemDisk, what: &str) -> Vec<Look> {
    let mut all = Vec::new();
    loop {
        let found = look(disk);
        assert_eq!(found.beyond, [], "{what}");
        if found.is_nothing() {
            return all;
        }
        assert!(all.len() < LOOKS_MAX, "{what}: still {found:?}");
        mend(whole, disk, &found).unwrap();
        all.push(found);
    }
}

fn is_sound(whole: &Whole, disk: &MemDisk, what: &str) {
    let shared: Arc<dyn Disk> = Arc::new(disk.clone());
    let dir = Path::new(bench::DIR);
    let bytes = whole.segment_bytes;
    for is_open in [false, true] {
        if is_open {
            let opened = Writer::open_with(
                shared.clone(),
                dir,
                bench::settings(bytes),
                bytes,
                Timestamp(5),
            );
            drop(opened.unwrap());
        }
        let survey = inspect::survey(&shared, dir).unwrap();
        let verdict = verify::verify(&shared, dir, &survey).unwrap();
        assert_eq!(verdict.damage, [], "{what}, opened again: {is_open}");
        for segment in inspect::segments(&shared, dir, &survey).unwrap() {
            assert!(segment.damage.is_empty(), "{what}: {segment:?}");
        }
        for identity in inspect::identities(&survey) {
            assert!(identity.holds(), "{what}: {identity}");
        }
    }
}

/// What lies in quarantine, by the places that it was at: segment and offset.
fn set_aside(disk: &MemDisk) -> BTreeMap<(u64, u64), Vec<u8>> {
    let hex = |text: &str| u64::from_str_radix(text, 16).unwrap();
    let files = disk.files().into_iter();
    let kept = files.filter(|(path, _)| path.ends_with(".bytes"));
    kept.map(|(path, content)| {
        let name = path.rsplit('/').next().unwrap();
        let place = (hex(&name[..16]), hex(&name[17..33]));
        (place, content.to_vec())
    })
    .collect()
}

/// Repairs damaged files, of which records of `gone` were hit, and looks at everything afterwards.
fn check(whole: &Whole, files: &Files, gone: &BTreeSet<u64>, what: &str) -> Vec<Look> {
    check_begun(whole, (files, files), gone, what)
}

/// [`check`] of files of which some are set aside already: how they were before, and now.
fn check_begun(
    whole: &Whole,
    (before, files): (&Files, &Files),
    gone: &BTreeSet<u64>,
    what: &str,
) -> Vec<Look> {
    let disk = MemDisk::holding(files);
    let found = repair_all(whole, &disk, what);
    if found.is_empty() {
        assert!(disk.files() == *files, "{what}: nothing was to be done");
    }
    let logs: BTreeMap<&str, &Arc<Vec<u8>>> = before
        .iter()
        .map(|(path, content)| (&**path, content))
        .collect();
    for ((segment, offset), bytes) in set_aside(&disk) {
        let path = format!("{}/{segment:016x}.seg", bench::DIR);
        let from = offset as usize;
        let was = logs[&*path].get(from..from + bytes.len());
        assert_eq!(was, Some(&*bytes), "{what}: {path} at {offset}");
    }
    for damage in found.iter().flat_map(|found| &found.damage) {
        let place = damage.place.unwrap();
        let left = quarantine::spans(&disk, Path::new(bench::DIR), (place.from, place.to)).unwrap();
        for span in left {
            let kept = &set_aside(&disk)[&(span.segment, span.from)];
            assert!(kept.len() as u64 >= span.to - span.from, "{what}: {span:?}");
        }
    }
    is_sound(whole, &disk, what);
    whole.check(&disk.files(), gone, what);
    found
}

#[test]
fn a_repaired_queue_is_sound_whatever_was_damaged_and_no_record_more_is_lost() {
    let whole = Whole::new(scale(512, 1024, 4096));
    // Of what the third output was to get, nothing is damaged; it never had a cursor.
    let found = look(&MemDisk::holding(&whole.files));
    assert!(found.damage.is_empty() && found.cursors.iter().all(|output| output == "c"));
    let step = scale(97, 7, 1) as usize;
    let mut repaired = 0;
    for (file, (path, content)) in whole.files.iter().enumerate() {
        let length = content.len();
        let mut each = |bytes: Range<usize>, what: &str, change: &dyn Fn(&mut [u8])| {
            let files = whole.with(file, |content| change(&mut content[bytes.clone()]));
            let gone = whole.hit(file, &bytes);
            let what = format!("{what} {bytes:?} of {path}");
            repaired += usize::from(!check(&whole, &files, &gone, &what).is_empty());
        };
        for at in (0..length).step_by(step) {
            each(at..length, "zeros", &|bytes| bytes.fill(0));
            each(at..at + 1, "a bit", &|bytes| bytes[0] ^= 1 << (at % 8));
            let end = (at + 100).min(length);
            each(at..end, "ones", &|bytes| bytes.fill(0xFF));
        }
        for at in (0..length).step_by(step) {
            let files = whole.with(file, |content| content.truncate(at));
            let gone = whole.hit(file, &(at..length));
            check(&whole, &files, &gone, &format!("cut at {at} of {path}"));
        }
        // Without a cursor an output is new.
        if path.contains("cursor-") {
            continue;
        }
        let mut files = whole.files.clone();
        files.remove(file);
        let gone = whole.hit(file, &(0..length));
        check(&whole, &files, &gone, &format!("{path} is gone"));
    }
    assert!(repaired > 100, "only {repaired} cases were damage");
}

/// A queue in which everything is damaged that can be, and the records that were hit.
fn ruin(whole: &Whole) -> (Files, BTreeSet<u64>) {
    let mut files = whole.files.clone();
    let mut gone = BTreeSet::new();
    let logs: Vec<usize> = (0..files.len())
        .filter(|file| files[*file].0.ends_with(".seg"))
        .collect();
    let mut hit = |files: &mut Files, file: usize, bytes: Range<usize>| {
        Arc::make_mut(&mut files[file].1)[bytes.clone()].fill(0x5A);
        gone.extend(whole.hit(file, &bytes));
    };
    let of = |file: usize| {
        let lies = whole.lies.iter().filter(move |lies| lies.file == file);
        lies.map(|lies| lies.bytes.clone()).collect::<Vec<_>>()
    };
    // The first head with the first record, bodies, a header, and a segment whole.
    hit(&mut files, logs[0], 0..60);
    let third = of(logs[2]);
    hit(&mut files, logs[2], third[0].end - 8..third[0].end);
    hit(
        &mut files,
        logs[3],
        of(logs[3])[0].start..of(logs[3])[0].start + 8,
    );
    let length = files[logs[5]].1.len();
    hit(&mut files, logs[5], 0..length);
    for (path, content) in &mut files {
        if path.contains("cursor-a") || path.contains("checkpoint-") {
            Arc::make_mut(content).fill(0);
        }
    }
    let left = |name: &str| {
        (
            format!("{}/{name}", bench::DIR).into(),
            Arc::new(vec![1; 10]),
        )
    };
    files.push(left(".new-checkpoint-00000000000000ff"));
    (files, gone)
}

#[test]
fn a_ruin_is_repaired_in_two_steps_and_again_there_is_nothing_to_do() {
    let whole = Whole::new(2048);
    let (files, gone) = ruin(&whole);
    let found = check(&whole, &files, &gone, "a ruin");
    assert_eq!(found.len(), 2, "{found:?}");
    assert_eq!(found[0].segments.len(), 1, "{found:?}");
    let then = &found[1];
    assert!(then.damage.len() >= 4, "{then:?}");
    // Events were for c, and it has no cursor.
    assert_eq!(then.cursors, ["a", "c"]);
    assert_eq!(then.checkpoints, Some((0, 2)));
    assert_eq!(then.unfinished.len(), 1);
}

#[test]
fn a_repair_that_is_killed_anywhere_is_done_by_the_next_one() {
    let whole = Whole::new(2048);
    let (files, gone) = ruin(&whole);
    let disk = MemDisk::holding(&files);
    repair_all(&whole, &disk, "not killed");
    let all = set_aside(&disk);
    let mut dice = Dice::new(7);
    let mut at = 0;
    loop {
        let disk = MemDisk::holding(&files).recording();
        let mut done = 0;
        disk.script(move |call| {
            let changes = !matches!(call.verb, Verb::Open(Open::Read) | Verb::Read | Verb::List);
            done += u64::from(changes);
            match done > at {
                false => Verdict::Go,
                // Half of what is written arrives.
                true => Verdict::Part(call.bytes / 2, libc::EINTR),
            }
        });
        let mut killed = false;
        for _ in 0..LOOKS_MAX {
            let shared: Arc<dyn Disk> = Arc::new(disk.clone());
            let dir = Path::new(bench::DIR);
            let mended = repair::look(&shared, dir, Daemon::Stopped)
                .and_then(|(found, _)| mend(&whole, &disk, &found));
            killed = mended.is_err();
            if killed {
                break;
            }
        }
        for (what, left) in [
            ("killed", disk.files()),
            ("without power", disk.power_cut(&mut dice).files()),
        ] {
            let what = format!("{what} at {at}");
            check_begun(&whole, (&files, &left), &gone, &what);
            let disk = MemDisk::holding(&left);
            repair_all(&whole, &disk, &what);
            assert_eq!(set_aside(&disk), all, "{what}");
        }
        if !killed {
            break;
        }
        at += 1;
    }
    assert!(at > 50, "only {at} operations");
}

#[test]
fn what_a_daemon_is_busy_with_is_left_to_it() {
    let whole = Whole::new(2048);
    let (files, _) = ruin(&whole);
    let disk = MemDisk::holding(&files);
    let shared: Arc<dyn Disk> = Arc::new(disk.clone());
    let dir = Path::new(bench::DIR);
    mend(&whole, &disk, &look(&disk)).unwrap();
    let (found, _) = repair::look(&shared, dir, Daemon::Runs).unwrap();
    assert!(
        found.unfinished.is_empty() && found.needs_rest(),
        "{found:?}"
    );
    let before = disk.files();
    repair::settle(&*shared, dir, &found.damage, Timestamp(4)).unwrap();
    let (left, _) = repair::look(&shared, dir, Daemon::Runs).unwrap();
    assert_eq!(left.damage, []);
    assert_eq!(left.cursors, found.cursors);
    let after: BTreeMap<_, _> = disk.files().into_iter().collect();
    assert!(before.iter().all(|(path, content)| after[path] == *content));
}

#[test]
fn a_segment_that_one_may_not_read_is_named_and_one_that_rotted_is_moved_away() {
    let whole = Whole::new(2048);
    let mut logs = whole.files.iter();
    let mut logs = logs.by_ref().filter(|(path, _)| path.ends_with(".seg"));
    let path = logs.nth(2).unwrap().0.to_string();
    for errno in [libc::EACCES, libc::EIO] {
        let disk = MemDisk::holding(&whole.files);
        let name = path.clone();
        let mut moved = false;
        disk.script(move |call| {
            moved |= call.verb == Verb::Rename && call.path.contains("quarantine");
            match call.verb {
                Verb::Open(Open::Read) if call.path == name && !moved => Verdict::Fail(errno),
                _ => Verdict::Go,
            }
        });
        let shared: Arc<dyn Disk> = Arc::new(disk.clone());
        let found = repair::look(&shared, Path::new(bench::DIR), Daemon::Stopped);
        if errno == libc::EACCES {
            let said = found.unwrap_err().to_string();
            assert!(
                said.contains(&path) && said.contains("Permission denied"),
                "{said}"
            );
            continue;
        }
        assert_eq!(found.unwrap().0.segments.len(), 1);
        let found = repair_all(&whole, &disk, "rotten");
        assert_eq!(found.len(), 2, "{found:?}");
        is_sound(&whole, &disk, "rotten");
    }
}
