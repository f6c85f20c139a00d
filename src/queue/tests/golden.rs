//! Queues as older versions wrote them, in `tests/data/`: what could be read once can be read for ever.
//!
//! `UPDATE_GOLDEN=1 cargo test --lib golden` writes the image of the present format; do that only
//! before its first release. Each later format gets a folder of its own, and these stay.

use std::collections::BTreeMap;
use std::path::PathBuf;

use super::*;
use crate::disk::OsDisk;

/// Where the image of format 1 lies.
fn data() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/queue-v1")
}

/// Every file of a folder and those below it, with what is in it.
fn image(dir: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut files = BTreeMap::new();
    for entry in walkdir::WalkDir::new(dir) {
        let entry = entry.unwrap();
        if entry.file_type().is_file() {
            let name = entry
                .path()
                .strip_prefix(dir)
                .unwrap()
                .display()
                .to_string();
            files.insert(name, std::fs::read(entry.path()).unwrap());
        }
    }
    files
}

/// A copy of the image that may be changed.
fn copy() -> (tempfile::TempDir, PathBuf) {
    let home = tempfile::tempdir().unwrap();
    let dir = home.path().join("queue");
    std::fs::create_dir(&dir).unwrap();
    for (name, bytes) in image(&data().join("queue")) {
        std::fs::write(dir.join(name), bytes).unwrap();
    }
    (home, dir)
}

/// Events of several jobs and streams, facts of each kind, raw and deflated records, three epochs.
fn write(dir: &Path) {
    let run = |n: u64| RunId::from_text(&format!("20261121-08000{n}.000-0000000{n}"));
    let fired = |n: u64| Fact::Fired {
        job: "job".into(),
        run: run(n),
        generation: "0123456789abcdef".into(),
        trigger: Trigger::Schedule,
        scheduled_at: Some(1_000 * n as i64),
        outputs: vec!["out".into()],
        at: 1_000 * n as i64,
    };
    let ended = |n: u64| Fact::Ended {
        job: "job".into(),
        run: run(n),
        generation: "0123456789abcdef".into(),
        trigger: Trigger::Schedule,
        outcome: Outcome::Success,
        started_at: 1_000 * n as i64,
        at: 2_000 * n as i64,
    };
    for epoch in 1..=3_u64 {
        let now = Timestamp(1_763_712_488_000 + 1_000 * epoch as i64);
        let mut writer = Writer::open(Arc::new(OsDisk), dir, settings(), now)
            .unwrap()
            .0;
        let first = writer.captured_seq();
        let mut small = portion(first, 2, 10);
        small.facts = vec![fired(epoch)];
        small.counters.bytes_read = 24;
        small.counters.bytes_framed = 20;
        small.counters.bytes_cut = 4;
        writer.append(&draft(small), now).unwrap();
        // Large enough to be deflated.
        writer
            .append(&draft(portion(first + 2, 200, 400)), now)
            .unwrap();
        let mut last = portion(first + 202, 1, 10);
        last.parts[0].stream = Stream::Run;
        last.facts = match epoch {
            3 => vec![
                files("read"),
                files("release"),
                Fact::ForgottenOutput {
                    output: "old".into(),
                },
            ],
            _ => vec![ended(epoch)],
        };
        last.counters = Counters {
            created: 1,
            ..Counters::default()
        };
        writer.append(&draft(last), now).unwrap();
        writer.commit(now).unwrap();
        if epoch < 3 {
            writer.checkpoint().unwrap();
        }
        let at = writer.durable_end();
        if epoch < 3 {
            let disk: Arc<dyn Disk> = Arc::new(OsDisk);
            let (mut file, _) = cursor::CursorFile::open(&disk, dir, "out").unwrap();
            file.sync(&passed(at, writer.captured_seq())).unwrap();
        }
    }
    std::fs::remove_file(dir.join("reserve")).unwrap();
}

/// A fact of a file, as it lies in the log.
fn files(fact: &str) -> Fact {
    let of = r#"{"job":"job","path":"/var/log/a","id":{"device":1,"inode":2,"born":3},"head":{"bytes":4,"hash":5},"outputs":["out"],"waits_for":["out"],"at":6}"#;
    let release = r#"{"action":"delete","path":"/var/log/a","root":"/var/log","stamp":{"bytes":4,"mtime":7,"ctime":8},"tail":{"bytes":4,"hash":5},"uid":1000,"gid":1000}"#;
    let text = match fact {
        "read" => {
            format!(
                r#"{{"fact":"read","file":"00000000000000aa","of":{of},"from":0,"to":4,"events":1}}"#
            )
        }
        _ => format!(r#"{{"fact":"release","file":"00000000000000aa","release":{release}}}"#),
    };
    serde_json::from_str(&text).unwrap()
}

/// Everything that can be read of a queue, as text.
fn listing(dir: &Path) -> String {
    let disk: Arc<dyn Disk> = Arc::new(OsDisk);
    let survey = inspect::survey(&disk, dir).unwrap();
    let mut lines = vec![
        format!("epoch {} end {:?}", survey.epoch, survey.end),
        serde_json::to_string(&survey.ledger).unwrap(),
    ];
    for (output, cursor) in &survey.cursors {
        lines.push(format!("{output} {cursor:?}"));
    }
    for segment in inspect::segments(&disk, dir, &survey).unwrap() {
        lines.push(serde_json::to_string(&segment).unwrap());
    }
    let all = select::Filter::default();
    select::events(&disk, dir, survey.end, &all, |event| {
        let json = String::from_utf8_lossy(event.json);
        lines.push(format!(
            "{} {:?} {} {}",
            event.seq,
            event.part.stream,
            event.part.job,
            &json[..json.len().min(40)]
        ));
        select::Go::On
    })
    .unwrap();
    lines.push(serde_json::to_string(&verify::verify(&disk, dir, &survey).unwrap()).unwrap());
    lines.join("\n") + "\n"
}

#[test]
fn a_queue_of_format_1_is_read_to_what_it_always_was() {
    let (home, dir) = (data(), data().join("queue"));
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        drop(std::fs::remove_dir_all(&home));
        std::fs::create_dir_all(&home).unwrap();
        write(&dir);
        std::fs::write(home.join("listing.txt"), listing(&dir)).unwrap();
    }
    let before = image(&home);
    let expected = std::fs::read_to_string(home.join("listing.txt")).unwrap();
    assert_eq!(listing(&dir), expected, "see the head of this file");
    assert_eq!(image(&home), before, "looking changes nothing");
    // And goes on: the next event follows, the cursor fits, the counts stay.
    let (_home, copy) = copy();
    let now = Timestamp(1_763_712_500_000);
    let mut writer = Writer::open(Arc::new(OsDisk), &copy, settings(), now)
        .unwrap()
        .0;
    assert_eq!(writer.captured_seq(), 610);
    writer.append(&draft(portion(0, 1, 5)), now).unwrap();
    writer.commit(now).unwrap();
    let disk: Arc<dyn Disk> = Arc::new(OsDisk);
    let survey = inspect::survey(&disk, &copy).unwrap();
    assert_eq!(survey.epoch, 4);
    for identity in inspect::identities(&survey) {
        assert!(identity.holds(), "{identity}");
    }
}

#[test]
fn damage_of_each_kind_costs_an_old_queue_no_more_than_it_hits() {
    let whole = image(&data().join("queue"));
    for name in whole.keys() {
        for damage in ["gone", "empty", "half", "zeros"] {
            let (_home, dir) = copy();
            let path = dir.join(name);
            let bytes = &whole[name];
            match damage {
                "gone" => std::fs::remove_file(&path).unwrap(),
                "empty" => std::fs::write(&path, "").unwrap(),
                "half" => std::fs::write(&path, &bytes[..bytes.len() / 2]).unwrap(),
                _ => std::fs::write(&path, vec![0; bytes.len()]).unwrap(),
            }
            let now = Timestamp(1_763_712_500_000);
            let opened = Writer::open(Arc::new(OsDisk), &dir, settings(), now);
            let writer = opened
                .unwrap_or_else(|error| panic!("{name} {damage}: {error}"))
                .0;
            let disk: Arc<dyn Disk> = Arc::new(OsDisk);
            let survey = inspect::survey(&disk, &dir).unwrap();
            for identity in inspect::identities(&survey) {
                assert!(identity.holds(), "{name} {damage}: {identity}");
            }
            let mut left = 0;
            let all = select::Filter::default();
            select::events(&disk, &dir, writer.durable_end(), &all, |_| {
                left += 1;
                select::Go::On
            })
            .unwrap();
            let least = if name.ends_with(".seg") {
                609 - 203
            } else {
                609
            };
            assert!(left >= least && left <= 609, "{name} {damage}: {left}");
        }
    }
}

/// Gives a file of the image another version, its checksum made right.
fn newer(bytes: &mut [u8], crc_at: usize, covers: &[std::ops::Range<usize>]) {
    bytes[8..12].copy_from_slice(&2_u32.to_le_bytes());
    let mut crc = crc32fast::Hasher::new();
    for range in covers {
        crc.update(&bytes[range.clone()]);
    }
    bytes[crc_at..crc_at + 4].copy_from_slice(&crc.finalize().to_le_bytes());
}

#[test]
fn a_newer_format_is_refused_by_name_and_nothing_is_touched() {
    let (_home, first) = copy();
    let names: Vec<String> = image(&first).into_keys().collect();
    for name in names.iter().filter(|name| !name.starts_with("cursor-")) {
        let (_home, dir) = copy();
        let path = dir.join(name);
        let mut bytes = std::fs::read(&path).unwrap();
        if name.ends_with(".seg") {
            newer(&mut bytes, 48, &[0..40, 40..48]);
        } else {
            let end = bytes.len();
            newer(&mut bytes, 12, &[8..12, 16..end]);
        }
        std::fs::write(&path, bytes).unwrap();
        refused(&dir, name, "format 2");
    }
    // A record with a section that must not be ignored.
    let (_home, dir) = copy();
    let last = names.iter().rfind(|name| name.ends_with(".seg")).unwrap();
    let mut bytes = std::fs::read(dir.join(last)).unwrap();
    let mut record = draft(portion(0, 1, 5)).take_record().unwrap();
    record.front.extend_from_slice(&[0xe7, 3, 1, 0, 0, 0, 0, 0]);
    let header = draft(portion(0, 1, 5)).header(10, 610, true, Timestamp(1));
    let place = Position {
        segment: segment::id_of(last).unwrap(),
        offset: bytes.len() as u64,
    };
    record.seal(place, header);
    bytes.extend_from_slice(&record.bytes());
    std::fs::write(dir.join(last), bytes).unwrap();
    refused(&dir, last, "a record of an unknown kind");
}

fn refused(dir: &Path, name: &str, what: &str) {
    let before = image(dir);
    let opened = Writer::open(Arc::new(OsDisk), dir, settings(), Timestamp(1));
    let said = opened
        .err()
        .map(|error| error.to_string())
        .unwrap_or_default();
    assert!(said.contains(name) && said.contains(what), "{name}: {said}");
    assert!(said.contains("untouched"), "{said}");
    assert!(image(dir) == before, "{name}: something was touched");
}
