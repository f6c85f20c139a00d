//! What happens to files while they are read: every numbered line exactly once.
#![expect(clippy::unwrap_used, reason = "tests")]

use super::*;
use std::fs;
use std::fs::File;
use std::io::Seek;
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::symlink;
use std::path::Path;

use proptest::prelude::*;
use serde_json::Value;

use crate::event::envelope::Shape;
use crate::queue::Counters;
use crate::queue::Ledger;
use crate::queue::Release;

/// A job's folder of files, its harvest, and the log behind it.
struct Rig {
    dir: tempfile::TempDir,
    setup: Setup,
    harvest: Harvest,
    ledger: Ledger,
    tick: u64,
    events: Vec<Value>,
}

fn rig(globs: &[&str], change: impl FnOnce(&mut Wanted)) -> Rig {
    let dir = tempfile::tempdir().unwrap();
    let patterns = globs
        .iter()
        .map(|glob| Pattern::parse(glob, dir.path()).unwrap())
        .collect();
    let mut wanted = Wanted {
        patterns,
        exclude: Vec::new(),
        at_run_end: false,
        json: false,
        max_event: 1 << 20,
        tags: Vec::new(),
        partial_timeout: Duration::from_secs(5),
        after_ack: None,
        quiet: Duration::from_secs(5),
        roots: Vec::new(),
        prune: false,
    };
    change(&mut wanted);
    let setup = Setup {
        job: "j".into(),
        generation: "g".to_owned(),
        fields: serde_json::Map::new(),
        user: User::own(),
        route: Route::to(vec!["out".to_owned()]),
        waits_for: vec!["out".to_owned()],
        identity: Identity {
            host_name: "h".to_owned(),
            agent_id: "a".to_owned(),
            agent_ephemeral_id: "e".to_owned(),
            shape: Shape::Ecs,
        },
        slots: Slots::new(1024),
        limits: Limits {
            batch_events: 100,
            batch_bytes: 1 << 20,
        },
        wanted: vec![wanted],
        seed: 7,
    };
    Rig {
        dir,
        harvest: Harvest::new(setup.clone(), Vec::new(), true),
        setup,
        ledger: Ledger::empty(),
        tick: 1_000,
        events: Vec::new(),
    }
}

impl Rig {
    fn at(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn append(&self, name: &str, text: &str) {
        let mut file = File::options()
            .create(true)
            .append(true)
            .open(self.at(name))
            .unwrap();
        file.write_all(text.as_bytes()).unwrap();
    }

    /// Looks until there is nothing more to read.
    fn look(&mut self, look: Look) -> Option<Tick> {
        loop {
            let now = Now {
                wall: Timestamp(1_763_712_488_123),
                tick: Tick(self.tick),
            };
            let looked = self.harvest.look(now, look);
            if let Some(portion) = looked.portion {
                for payload in portion.frames.payloads() {
                    self.events.push(serde_json::from_slice(payload).unwrap());
                }
                let (number, seq) = (self.ledger.next_number, self.ledger.next_seq);
                self.ledger.fold(
                    number,
                    seq,
                    &portion.route,
                    &portion.parts,
                    &portion.facts,
                    &portion.counters,
                );
            }
            if !looked.more {
                return looked.wake;
            }
        }
    }

    fn scan(&mut self) {
        self.look(Look::Scan);
    }

    fn pass(&mut self, seconds: u64) {
        self.tick += seconds * 1000;
    }

    /// The daemon dies and is started again: only the log is left.
    fn restart(&mut self) {
        let known = self.ledger.files.clone().into_iter().collect();
        self.setup.seed += 1;
        self.harvest = Harvest::new(self.setup.clone(), known, true);
    }

    /// The messages that arrived; no id may be twice.
    fn messages(&self) -> Vec<String> {
        let mut ids: Vec<&str> = self
            .events
            .iter()
            .map(|event| event["event"]["id"].as_str().unwrap())
            .collect();
        ids.sort_unstable();
        assert!(ids.windows(2).all(|pair| pair[0] != pair[1]), "{ids:?}");
        self.events
            .iter()
            .map(|event| event["message"].as_str().unwrap_or("object").to_owned())
            .collect()
    }

    fn releases(&self) -> Vec<&Release> {
        let files = self.ledger.files.values();
        files.filter_map(|past| past.release.as_ref()).collect()
    }

    fn counters(&self) -> &Counters {
        &self.ledger.counters
    }
}

#[test]
fn a_growing_file_is_read_on_and_every_event_says_where_its_line_lies() {
    let mut rig = rig(&["*.log"], |_| {});
    rig.append("a.log", "one\n\ntwo\r\n");
    rig.scan();
    rig.append("a.log", "three\n");
    rig.look(Look::Open);
    assert_eq!(rig.messages(), ["one", "two", "three"]);
    let event = &rig.events[1];
    assert_eq!(event["log"]["offset"], 5);
    assert_eq!(
        event["log"]["file"]["path"],
        rig.at("a.log").to_str().unwrap()
    );
    let id = event["event"]["id"].as_str().unwrap();
    assert!(id.ends_with(".5") && id.len() == 18, "{id}");
    assert_eq!(event["@metadata"]["_id"], id);
    assert_eq!(event["job"]["stream"], "file");
    assert_eq!(rig.counters().bytes_read, 16);
    assert_eq!(rig.counters().framed, 3);
    assert_eq!(rig.harvest.view().behind_bytes, 0);
}

#[test]
fn after_a_crash_the_log_says_where_each_file_was() {
    let mut rig = rig(&["*.log"], |_| {});
    rig.append("a.log", "one\ntwo\npart");
    rig.scan();
    rig.restart();
    rig.append("a.log", "ial\nthree\n");
    rig.scan();
    rig.restart();
    rig.scan();
    assert_eq!(rig.messages(), ["one", "two", "partial", "three"]);
}

#[test]
fn rotation_by_rename_finishes_the_old_file_and_begins_the_new_one() {
    for glob in ["app.log", "app.log*"] {
        let mut rig = rig(&[glob], |_| {});
        rig.append("app.log", "1\n2\n");
        rig.scan();
        rig.append("app.log", "3\n");
        fs::rename(rig.at("app.log"), rig.at("app.log.1")).unwrap();
        rig.append("app.log", "4\n");
        // Its writer has not noticed yet.
        rig.append("app.log.1", "late\n");
        rig.scan();
        rig.append("app.log.1", "later\n");
        rig.look(Look::Open);
        let mut messages = rig.messages();
        messages.sort();
        assert_eq!(messages, ["1", "2", "3", "4", "late", "later"], "{glob}");
        rig.pass(31);
        rig.scan();
        rig.scan();
        assert_eq!(
            rig.harvest.view().open,
            if glob == "app.log" { 1 } else { 2 }
        );
        rig.restart();
        rig.scan();
        assert_eq!(rig.messages().len(), 6, "{glob}");
    }
}

#[test]
fn a_file_that_was_copied_and_truncated_is_read_from_its_beginning() {
    let mut rig = rig(&["a.log"], |_| {});
    rig.append("a.log", "1\n2\n3\n");
    rig.scan();
    fs::copy(rig.at("a.log"), rig.at("a.log.1")).unwrap();
    File::options()
        .write(true)
        .open(rig.at("a.log"))
        .unwrap()
        .set_len(0)
        .unwrap();
    rig.append("a.log", "4\n");
    rig.scan();
    assert_eq!(rig.messages(), ["1", "2", "3", "4"]);
    assert_eq!(rig.ledger.files.len(), 1);
    assert_eq!(rig.ledger.jobs["j"].files.cut_short, 0);
}

#[test]
fn what_was_seen_and_cut_off_before_it_was_read_is_counted() {
    let mut rig = rig(&["a.log"], |_| {});
    rig.append("a.log", "1\nhalf a line");
    rig.scan();
    fs::write(rig.at("a.log"), "2\n").unwrap();
    rig.scan();
    assert_eq!(rig.messages(), ["1", "2"]);
    let counts = rig.ledger.jobs["j"].files;
    assert_eq!((counts.cut_short, counts.lost_bytes), (1, 11));
}

#[test]
fn truncated_and_regrown_beyond_the_old_end_is_seen_by_the_beginning() {
    let mut rig = rig(&["a.log"], |_| {});
    rig.append("a.log", "1\n2\n");
    rig.scan();
    fs::write(rig.at("a.log"), "3\n4\n5\n6\n").unwrap();
    rig.look(Look::Open);
    assert_eq!(rig.messages(), ["1", "2", "3", "4", "5", "6"]);
    fs::write(rig.at("a.log"), "7\n8\n9\n10\n11\n").unwrap();
    rig.restart();
    rig.scan();
    assert_eq!(rig.messages().len(), 11);
}

#[test]
fn a_new_file_with_the_inode_of_the_old_one_is_a_new_file() {
    let mut rig = rig(&["a.log"], |_| {});
    for n in 0..50 {
        rig.append("a.log", &format!("{n}\n"));
        rig.scan();
        // So that nothing holds the inode.
        rig.restart();
        fs::remove_file(rig.at("a.log")).unwrap();
    }
    assert_eq!(rig.messages().len(), 50);
}

#[test]
fn a_file_that_is_deleted_while_it_is_read_is_read_to_its_end_and_let_go() {
    let mut rig = rig(&["a.log"], |_| {});
    rig.append("a.log", "1\n");
    rig.scan();
    let mut writer = File::options().append(true).open(rig.at("a.log")).unwrap();
    fs::remove_file(rig.at("a.log")).unwrap();
    rig.scan();
    writer.write_all(b"2\nlast").unwrap();
    rig.look(Look::Open);
    for _ in 0..3 {
        rig.pass(6);
        rig.look(Look::Open);
    }
    assert_eq!(rig.messages(), ["1", "2", "last"]);
    assert_eq!(rig.harvest.view(), View::default());
    assert!(rig.ledger.files.is_empty());
}

#[test]
fn what_is_no_plain_file_is_refused_and_nothing_hangs() {
    let mut rig = rig(&["*"], |_| {});
    fs::create_dir(rig.at("dir")).unwrap();
    symlink("/etc/hostname", rig.at("link")).unwrap();
    let fifo = rig.at("fifo");
    rustix::fs::mkfifoat(rustix::fs::CWD, fifo, rustix::fs::Mode::RUSR).unwrap();
    rig.append("a.log", "1\n");
    rig.scan();
    assert_eq!(rig.messages(), ["1"]);
    assert_eq!(rig.harvest.view().refused, 2);
    fs::remove_file(rig.at("a.log")).unwrap();
    symlink("/etc/hostname", rig.at("a.log")).unwrap();
    rig.scan();
    rig.pass(60);
    rig.scan();
    assert_eq!(rig.messages(), ["1"]);
}

#[test]
fn a_file_with_two_names_is_not_read_and_never_cleaned_up() {
    let mut rig = rig(&["*.log"], |wanted| wanted.after_ack = Some(Action::Delete));
    fs::write(rig.at("secret"), "x\n").unwrap();
    fs::hard_link(rig.at("secret"), rig.at("a.log")).unwrap();
    rig.append("b.log", "1\n");
    rig.scan();
    fs::hard_link(rig.at("b.log"), rig.at("other")).unwrap();
    rig.pass(60);
    rig.scan();
    rig.scan();
    assert_eq!(rig.messages(), ["1"]);
    assert!(rig.releases().is_empty());
    let view = rig.harvest.view();
    assert_eq!(view.refused, 2);
    assert!(view.problem.unwrap().contains("hard links"));
}

#[test]
fn a_last_line_without_its_end_is_held_then_joined_once() {
    let mut rig = rig(&["a.log"], |_| {});
    rig.append("a.log", "be");
    rig.scan();
    rig.pass(4);
    rig.append("a.log", "gun\nsecond");
    rig.look(Look::Open);
    assert_eq!(rig.messages(), ["begun"]);
    rig.pass(4);
    let wake = rig.look(Look::Open).unwrap();
    assert_eq!(wake, Tick(rig.tick + 1000));
    rig.pass(1);
    rig.look(Look::Open);
    assert_eq!(rig.messages(), ["begun", "second"]);
    assert_eq!(rig.ledger.jobs["j"].files.partial_lines, 1);
    rig.append("a.log", " half\nthird\n");
    rig.look(Look::Open);
    assert_eq!(rig.messages(), ["begun", "second", " half", "third"]);
}

#[test]
fn characters_and_line_ends_that_are_split_are_joined() {
    let mut rig = rig(&["a.log"], |_| {});
    let mut file = File::create(rig.at("a.log")).unwrap();
    for byte in "\u{20ac}uro\r\n\u{1f600}\r\n".as_bytes() {
        file.write_all(&[*byte]).unwrap();
        rig.scan();
    }
    assert_eq!(rig.messages(), ["\u{20ac}uro", "\u{1f600}"]);
    assert!(
        rig.events
            .iter()
            .all(|event| event["log"].get("flags").is_none())
    );
}

#[test]
fn a_file_that_goes_on_growing_is_not_released() {
    let mut rig = rig(&["a.log"], |wanted| wanted.after_ack = Some(Action::Delete));
    for n in 0..4 {
        rig.append("a.log", &format!("{n}\n"));
        rig.scan();
        rig.pass(4);
        rig.scan();
        assert!(rig.releases().is_empty());
    }
    rig.pass(2);
    rig.scan();
    assert_eq!(rig.releases()[0].stamp.bytes, 8);
    assert_eq!(rig.releases()[0].root, rig.dir.path().to_str().unwrap());
    rig.append("a.log", "more\n");
    rig.scan();
    let file = rig.harvest.asked().next().unwrap().clone();
    rig.harvest.settled(&file, true);
    rig.scan();
    assert!(rig.releases().is_empty());
    assert_eq!(rig.messages().len(), 5);
}

#[test]
fn a_file_that_somebody_has_open_for_writing_is_not_released() {
    let mut rig = rig(&["a.log"], |wanted| wanted.after_ack = Some(Action::Delete));
    rig.append("a.log", "1\n");
    let writer = File::options().append(true).open(rig.at("a.log")).unwrap();
    rig.scan();
    rig.pass(60);
    rig.scan();
    let held = rig.releases().is_empty();
    drop(writer);
    rig.scan();
    assert_eq!(rig.releases().len(), 1);
    if !held {
        drop(writeln!(
            std::io::stdout(),
            "SKIP the system does not say who writes"
        ));
    }
}

/// A file with a long header whose clean-up by truncation has begun, and how it begins.
fn releasing() -> (Rig, String) {
    let mut rig = rig(&["a.log"], |wanted| {
        wanted.after_ack = Some(Action::Truncate)
    });
    let header = format!("{}\n", "h".repeat(1500));
    rig.append("a.log", &format!("{header}one\n"));
    rig.scan();
    rig.pass(6);
    rig.scan();
    let file = rig.harvest.asked().next().unwrap().clone();
    let begun = Fact::Releasing {
        file: file.to_string(),
    };
    let (number, seq) = (rig.ledger.next_number, rig.ledger.next_seq);
    rig.ledger.fold(
        number,
        seq,
        &Route::default(),
        &[],
        &[begun],
        &Counters::default(),
    );
    (rig, header)
}

#[test]
fn what_a_clean_up_has_done_is_not_taken_for_growth() {
    let (mut rig, header) = releasing();
    // Truncated by us, then written by its writer with the same beginning, then a crash.
    fs::write(rig.at("a.log"), format!("{header}two\nthree\n")).unwrap();
    rig.scan();
    assert_eq!(rig.messages().len(), 2, "nobody has said yet who did that");
    rig.restart();
    rig.scan();
    rig.scan();
    assert_eq!(rig.messages()[3..], ["two", "three"]);
    assert_eq!(rig.ledger.jobs["j"].files.released, 1);
}

#[test]
fn growth_is_not_taken_for_what_a_clean_up_has_done() {
    let (mut rig, _) = releasing();
    rig.append("a.log", "two\n");
    fs::rename(rig.at("a.log"), rig.at("moved")).unwrap();
    fs::rename(rig.at("moved"), rig.at("a.log")).unwrap();
    rig.restart();
    rig.scan();
    assert_eq!(
        rig.messages().len(),
        2,
        "the cleaner has not said yet that it changed"
    );
    let file = rig.harvest.asked().next().unwrap().clone();
    rig.harvest.settled(&file, false);
    rig.scan();
    assert_eq!(rig.messages()[1..], ["one", "two"]);
}

#[test]
fn sparse_empty_and_many_files_are_bounded() {
    let mut rig = rig(&["**"], |wanted| wanted.max_event = 4096);
    fs::create_dir_all(rig.at(&"d/".repeat(100))).unwrap();
    rig.append(&format!("{}deep", "d/".repeat(40)), "deep\n");
    rig.append(&format!("{}deeper", "d/".repeat(90)), "deeper\n");
    rig.append(&"n".repeat(255), "long name\n");
    File::create(rig.at("empty")).unwrap();
    let mut sparse = File::create(rig.at("sparse")).unwrap();
    sparse.set_len(64 << 20).unwrap();
    sparse.seek(std::io::SeekFrom::End(0)).unwrap();
    sparse.write_all(b"\nbehind\n").unwrap();
    for n in 0..300 {
        rig.append(&format!("f{n}"), "x\n");
    }
    rig.scan();
    let messages = rig.messages();
    for wanted in ["deep", "long name", "behind"] {
        assert!(messages.iter().any(|message| message == wanted), "{wanted}");
    }
    assert!(!messages.iter().any(|message| message == "deeper"));
    assert_eq!(
        messages.iter().filter(|message| *message == "x").count(),
        300
    );
    assert!(rig.harvest.view().open <= OPEN_MAX as u64);
    assert_eq!(rig.counters().lines_cut, 1);
    let counters = *rig.counters();
    assert_eq!(
        counters.bytes_read,
        counters.bytes_framed + counters.bytes_cut
    );
}

#[test]
fn a_job_reads_on_when_other_jobs_hold_all_files_open() {
    let mut rig = rig(&["*"], |_| {});
    let others = rig.setup.slots.of_another_job();
    let held: Vec<_> = std::iter::from_fn(|| others.take().ok()).collect();
    assert!(rig.setup.slots.are_scarce() && held.len() > 1);
    for n in 0..3 {
        rig.append(&format!("f{n}"), "x\n");
    }
    rig.scan();
    assert_eq!(rig.messages(), ["x", "x", "x"]);
    assert!(rig.harvest.view().open <= 1);
    drop(held);
    for n in 0..3 {
        rig.append(&format!("f{n}"), "y\n");
    }
    rig.scan();
    assert_eq!(rig.messages().len(), 6);
    assert_eq!(rig.harvest.view().open, 3);
}

#[test]
fn names_of_any_bytes_are_carried_without_loss() {
    let mut rig = rig(&["*"], |_| {});
    let name = std::ffi::OsStr::from_bytes(b"-\xff\n'\"\x1b[31m \\x41");
    fs::write(rig.dir.path().join(name), "1\n").unwrap();
    rig.scan();
    rig.restart();
    fs::write(rig.dir.path().join(name), "1\n2\n").unwrap();
    rig.scan();
    assert_eq!(rig.messages(), ["1", "2"]);
    let path = rig.events[0]["log"]["file"]["path"].as_str().unwrap();
    assert_eq!(path_of(path), rig.dir.path().join(name));
    assert!(!path.contains(char::is_control));
}

#[test]
fn a_file_that_cannot_be_read_is_told_and_tried_again() {
    let mut rig = rig(&["sub/*.log"], |_| {});
    rig.scan();
    assert!(rig.harvest.view().problem.is_some());
    fs::create_dir(rig.at("sub")).unwrap();
    rig.append("sub/a.log", "1\n");
    rig.scan();
    assert_eq!(rig.messages(), ["1"]);
    assert_eq!(rig.harvest.view().problem, None);
}

#[test]
fn only_the_size_counts_where_times_stand_still() {
    let mut rig = rig(&["a.log"], |_| {});
    rig.append("a.log", "1\n");
    rig.scan();
    let times = fs::metadata(rig.at("a.log")).unwrap().modified().unwrap();
    rig.append("a.log", "2\n");
    let file = File::options().append(true).open(rig.at("a.log")).unwrap();
    file.set_modified(times).unwrap();
    rig.look(Look::Open);
    assert_eq!(rig.messages(), ["1", "2"]);
}

#[test]
fn files_of_runs_are_read_when_a_run_has_ended_with_their_last_lines() {
    let mut rig = rig(&["*.out"], |wanted| wanted.at_run_end = true);
    rig.scan();
    rig.append("a.out", "1\nno end");
    rig.scan();
    assert!(rig.messages().is_empty());
    rig.harvest.run_ended();
    rig.scan();
    assert_eq!(rig.messages(), ["1", "no end"]);
    rig.append("a.out", "\n2\n");
    rig.scan();
    assert_eq!(rig.messages().len(), 2);
}

#[test]
fn json_lines_keep_their_members_and_their_log_but_not_where_they_lie() {
    let mut rig = rig(&["a.json"], |wanted| wanted.json = true);
    rig.append(
        "a.json",
        concat!(
            "{\"user\":\"x\"}\n",
            "{\"log\":{\"level\":\"warn\",\"offset\":9,\"file\":{\"path\":\"/fake\"}}}\n",
            "{\"log.offset\":3,\"log.logger\":\"l\"}\n",
            "not json\n",
        ),
    );
    rig.scan();
    let path = rig.at("a.json");
    for event in &rig.events {
        assert_eq!(
            event["log"]["file"]["path"],
            path.to_str().unwrap(),
            "{event}"
        );
    }
    assert_eq!(rig.events[0]["user"], "x");
    assert_eq!(rig.events[1]["log"]["level"], "warn");
    assert_eq!(rig.events[1]["log"]["offset"], 13);
    assert_eq!(rig.events[1]["script"]["log"]["file"]["path"], "/fake");
    assert_eq!(rig.events[2]["script"]["log.offset"], 3);
    assert_eq!(rig.events[2]["log.logger"], "l");
    assert_eq!(rig.events[3]["message"], "not json");
}

#[test]
fn exclude_leaves_files_out() {
    let mut rig = rig(&["**/*.log"], |_| {});
    let exclude = Pattern::parse("**/debug*", rig.dir.path()).unwrap();
    rig.setup.wanted[0].exclude.push(exclude);
    rig.restart();
    fs::create_dir(rig.at("sub")).unwrap();
    rig.append("sub/a.log", "1\n");
    rig.append("sub/debug.log", "2\n");
    rig.scan();
    assert_eq!(rig.messages(), ["1"]);
}

#[test]
fn the_number_of_files_is_bounded_and_told() {
    let mut rig = rig(&["*"], |_| {});
    for n in 0..TRACKED_MAX + 5 {
        rig.append(&format!("f{n}"), "");
    }
    rig.scan();
    let view = rig.harvest.view();
    assert_eq!((view.tracked, view.refused), (TRACKED_MAX as u64, 5));
    assert!(view.problem.unwrap().contains("more than"));
}

/// What a writer may do to a file between two looks.
#[derive(Debug, Clone)]
enum Deed {
    Append(u8),
    Half,
    Rotate,
    Replace,
    Look,
    Scan,
    Restart,
}

fn deed() -> impl Strategy<Value = Deed> {
    prop_oneof![
        4 => (1..200_u8).prop_map(Deed::Append),
        2 => Just(Deed::Half),
        1 => Just(Deed::Rotate),
        1 => Just(Deed::Replace),
        3 => Just(Deed::Look),
        3 => Just(Deed::Scan),
        2 => Just(Deed::Restart),
    ]
}

fn write_line(path: &Path, n: &mut u32) {
    *n += 1;
    let mut file = File::options()
        .create(true)
        .append(true)
        .open(path)
        .unwrap();
    file.write_all(format!("line {n}\n").as_bytes()).unwrap();
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]
    #[test]
    fn every_numbered_line_comes_exactly_once_whatever_a_writer_does(
        deeds in proptest::collection::vec(deed(), 1..60),
    ) {
        let mut rig = rig(&["app.log*"], |_| {});
        let path = rig.at("app.log");
        let (mut n, mut rotated, mut half) = (0, 0, false);
        let end_line = |half: &mut bool| {
            if std::mem::take(half) {
                let mut file = File::options().append(true).open(&path).unwrap();
                file.write_all(b"\n").unwrap();
            }
        };
        for deed in deeds {
            match deed {
                Deed::Append(count) => {
                    end_line(&mut half);
                    for _ in 0..count {
                        write_line(&path, &mut n);
                    }
                }
                Deed::Half if !half => {
                    n += 1;
                    let mut file = File::options().create(true).append(true).open(&path).unwrap();
                    file.write_all(format!("line {n}").as_bytes()).unwrap();
                    half = true;
                }
                Deed::Half => end_line(&mut half),
                Deed::Rotate | Deed::Replace if !path.exists() => {}
                Deed::Rotate => {
                    end_line(&mut half);
                    rotated += 1;
                    fs::rename(&path, rig.at(&format!("app.log.{rotated}"))).unwrap();
                }
                Deed::Replace => {
                    // As editors do: only what was read may be thrown away.
                    end_line(&mut half);
                    rig.scan();
                    n += 1;
                    fs::write(rig.at("new"), format!("line {n}\n")).unwrap();
                    fs::rename(rig.at("new"), &path).unwrap();
                }
                Deed::Look => drop(rig.look(Look::Open)),
                Deed::Scan => rig.scan(),
                Deed::Restart => rig.restart(),
            }
        }
        rig.look(Look::Last);
        let mut lines: Vec<u32> = rig
            .messages()
            .iter()
            .map(|message| message.strip_prefix("line ").unwrap().parse().unwrap())
            .collect();
        lines.sort_unstable();
        prop_assert_eq!(lines, (1..=n).collect::<Vec<_>>());
        let counters = *rig.counters();
        prop_assert_eq!(counters.bytes_read, counters.bytes_framed + counters.bytes_cut);
    }
}
