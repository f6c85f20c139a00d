//! Promises of the results.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::os::unix::fs::PermissionsExt;

use super::*;

const T0: Timestamp = Timestamp(1_763_712_488_123);

struct Home {
    results: Results,
    dir: tempfile::TempDir,
}

fn home() -> Home {
    let dir = tempfile::tempdir().unwrap();
    Home {
        results: Results::new(dir.path().join("results")),
        dir,
    }
}

fn start(home: &Home, run: &RunId) -> RunFiles {
    home.results.start(&Started {
        job: "disk",
        run,
        generation: "0123456789abcdef",
        trigger: Trigger::Schedule,
        scheduled_at: None,
        group: None,
        at: T0,
    })
}

fn success() -> Ended<'static> {
    Ended {
        at: T0.after(Duration::from_millis(1200)),
        took: Duration::from_millis(1200),
        outcome: Outcome::Success,
        exit: Some(Exit::Code(0)),
        reason: None,
        counts: Counts::default(),
        captured: Some(Seq(14)),
    }
}

fn path(home: &Home, run: &RunId, name: &str) -> PathBuf {
    home.dir
        .path()
        .join("results/disk")
        .join(run.as_str())
        .join(name)
}

fn text(home: &Home, run: &RunId, name: &str) -> Vec<u8> {
    OsDisk.read(&path(home, run, name), 1 << 30).unwrap()
}

#[test]
fn a_run_is_running_json_until_its_end_is_durable() {
    let home = home();
    let run = RunId::new(T0, 1);
    let mut files = start(&home, &run);
    files.output(Stream::Stdout, b"hello\n", Tick(0));
    assert_eq!(files.note(), None);
    assert_eq!(text(&home, &run, "stdout"), b"hello\n");
    assert!(OsDisk.read(&path(&home, &run, "run.json"), 9999).is_err());
    assert_eq!(home.results.read("disk", &run).unwrap().outcome, None);
    assert_eq!(files.end(&success()), None);
    assert!(
        OsDisk
            .read(&path(&home, &run, "running.json"), 9999)
            .is_err()
    );
    let record = home.results.read("disk", &run).unwrap();
    assert_eq!(record.outcome.as_deref(), Some("success"));
    assert_eq!(record.duration.as_deref(), Some("1.2s"));
    assert_eq!(record.captured_up_to, Some(14));
    assert_eq!(home.results.left_running().unwrap(), []);
}

#[test]
fn results_are_for_the_group_and_nobody_else() {
    let home = home();
    let run = RunId::new(T0, 1);
    let mut files = start(&home, &run);
    files.output(Stream::Stdout, b"one\n", Tick(0));
    assert_eq!(files.end(&success()), None);
    let mode = |path: PathBuf| {
        format!(
            "{:o}",
            path.metadata().unwrap().permissions().mode() & 0o777
        )
    };
    for name in ["stdout", "run.json"] {
        assert_eq!(mode(path(&home, &run, name)), "640", "{name}");
    }
    assert!(
        !path(&home, &run, "stderr").exists(),
        "what printed nothing has no file"
    );
    assert_eq!(mode(path(&home, &run, "")), "750");
}

#[test]
fn latest_leads_to_the_newest_run() {
    let home = home();
    let first = RunId::new(T0, 1);
    let second = RunId::new(Timestamp(T0.0 + 1), 1);
    for run in [&first, &second] {
        assert_eq!(start(&home, run).end(&success()), None);
    }
    let link = home.dir.path().join("results/disk/latest");
    assert_eq!(link.read_link().unwrap(), Path::new(second.as_str()));
    assert_eq!(home.results.runs("disk").unwrap(), [second, first]);
    assert_eq!(home.results.jobs().unwrap(), ["disk"]);
}

#[test]
fn long_output_keeps_its_beginning_and_its_end() {
    let home = home();
    let run = RunId::new(T0, 1);
    let mut files = start(&home, &run);
    let mut whole = Vec::new();
    for n in 0..300_000 {
        whole.extend_from_slice(format!("line {n}\n").as_bytes());
    }
    for chunk in whole.chunks(70_001) {
        files.output(Stream::Stdout, chunk, Tick(0));
    }
    assert_eq!(files.end(&success()), None);
    let kept = text(&home, &run, "stdout");
    let half = 512 << 10;
    let left_out = whole.len() - 2 * half;
    let marker = format!("\n... {left_out} bytes left out ...\n");
    assert_eq!(kept[..half], whole[..half]);
    assert_eq!(
        String::from_utf8_lossy(&kept[half..half + marker.len()]),
        marker
    );
    assert_eq!(kept[half + marker.len()..], whole[whole.len() - half..]);
}

#[test]
fn output_of_just_the_bound_is_kept_whole() {
    let home = home();
    let run = RunId::new(T0, 1);
    let mut files = start(&home, &run);
    let whole: Vec<u8> = (0..1 << 20).map(|n: u32| (n % 251) as u8).collect();
    for chunk in whole.chunks(99_999) {
        files.output(Stream::Stderr, chunk, Tick(0));
    }
    assert_eq!(files.end(&success()), None);
    assert!(text(&home, &run, "stderr") == whole);
}

#[test]
fn the_end_of_long_output_is_brought_up_to_date_while_the_run_goes_on() {
    let home = home();
    let run = RunId::new(T0, 1);
    let mut files = start(&home, &run);
    files.output(Stream::Stdout, &[b'x'; 600 << 10], Tick(0));
    files.output(Stream::Stdout, b"news", Tick(1_000));
    assert!(!text(&home, &run, "stdout").ends_with(b"news"));
    files.refresh(Tick(4_999));
    assert!(!text(&home, &run, "stdout").ends_with(b"news"));
    files.refresh(Tick(5_000));
    assert!(text(&home, &run, "stdout").ends_with(b"news"));
}

#[test]
fn a_result_that_cannot_be_written_is_a_note_and_no_failure() {
    let home = home();
    OsDisk
        .replace(&home.dir.path().join("results"), b"a file", Replace::Quick)
        .unwrap();
    let mut files = start(&home, &RunId::new(T0, 1));
    files.output(Stream::Stdout, b"hello\n", Tick(0));
    assert!(files.note().unwrap().contains("results"));
    assert!(files.end(&success()).is_some());
}

#[test]
fn a_run_that_the_daemon_left_is_settled_once() {
    let home = home();
    let run = RunId::new(T0, 1);
    drop(start(&home, &run));
    assert_eq!(
        home.results.left_running().unwrap(),
        [("disk".to_owned(), run.clone())]
    );
    let settle = |outcome| {
        home.results
            .settle(
                "disk",
                &run,
                outcome,
                T0.after(Duration::from_secs(60)),
                Some("the daemon died"),
            )
            .unwrap();
    };
    settle(Outcome::Interrupted);
    settle(Outcome::Failed);
    let record = home.results.read("disk", &run).unwrap();
    assert_eq!(record.outcome.as_deref(), Some("interrupted"));
    assert_eq!(record.duration.as_deref(), Some("1m00s"));
    assert_eq!(record.generation, "0123456789abcdef");
    assert_eq!(home.results.left_running().unwrap(), []);
}

#[test]
fn a_run_whose_daemon_died_before_its_first_write_has_a_record_all_the_same() {
    let home = home();
    let run = RunId::new(T0, 1);
    drop(start(&home, &run));
    OsDisk.remove(&path(&home, &run, "running.json")).unwrap();
    let left = home.results.left_running().unwrap();
    assert_eq!(left, [("disk".to_owned(), run.clone())]);
    let at = T0.after(Duration::from_secs(1));
    home.results
        .settle("disk", &run, Outcome::Interrupted, at, None)
        .unwrap();
    let record = home.results.read("disk", &run).unwrap();
    assert_eq!(record.outcome.as_deref(), Some("interrupted"));
    assert_eq!(record.started_at, T0.to_string());
    assert_eq!(home.results.left_running().unwrap(), []);
}

#[test]
fn records_of_other_versions_are_read_as_far_as_they_go() {
    let home = home();
    let run = RunId::new(T0, 1);
    assert_eq!(start(&home, &run).end(&success()), None);
    let record = path(&home, &run, "run.json");
    let write = |text: &str| {
        OsDisk
            .replace(&record, text.as_bytes(), Replace::Quick)
            .unwrap();
    };
    write(r#"{"outcome":"abducted","counts":{"events":3,"aliens":1},"more":[]}"#);
    let read = home.results.read("disk", &run).unwrap();
    assert_eq!(read.outcome.as_deref(), Some("abducted"));
    assert_eq!(read.counts.unwrap().events, 3);
    write("{");
    assert!(matches!(
        home.results.read("disk", &run),
        Err(Unreadable::Damaged(_))
    ));
    let escape = home.results.read("..", &RunId::from_text(".."));
    assert!(matches!(escape, Err(Unreadable::Missing(_))));
}

#[test]
fn a_sweep_removes_old_results_and_follows_no_links() {
    let home = home();
    let treasure = home.dir.path().join("treasure");
    OsDisk.make_dir(&treasure).unwrap();
    OsDisk
        .replace(&treasure.join("gold"), b"gold", Replace::Quick)
        .unwrap();
    let day = 86_400_000;
    let runs: Vec<RunId> = (0..3)
        .map(|n| RunId::new(Timestamp(T0.0 + n * day), 1))
        .collect();
    for run in &runs {
        assert_eq!(start(&home, run).end(&success()), None);
    }
    let going = RunId::new(Timestamp(T0.0 - day), 1);
    let _going = start(&home, &going);
    disk::link_latest(&path(&home, &runs[0], "trap"), "../../../treasure").unwrap();
    let keep = Keep {
        runs: 1,
        age: Duration::from_secs(3600),
        bytes: 0,
    };
    let swept = home.results.sweep(Timestamp(T0.0 + 9 * day), &|_| keep, 0);
    assert_eq!((swept.removed, swept.failed), (2, 0));
    assert_eq!(home.results.runs("disk").unwrap(), [runs[2].clone(), going]);
    assert!(treasure.join("gold").exists());
    let trap = home.dir.path().join("trap");
    disk::link_latest(&trap, "treasure").unwrap();
    assert!(disk::remove_tree(&trap).is_err());
}

#[test]
fn the_age_of_a_result_counts_from_the_end_of_its_run() {
    let home = home();
    let day = 86_400_000;
    let long = RunId::new(T0, 1);
    let short = RunId::new(Timestamp(T0.0 + day), 1);
    let ended = Ended {
        at: Timestamp(T0.0 + 30 * day),
        ..success()
    };
    assert_eq!(start(&home, &long).end(&ended), None);
    assert_eq!(start(&home, &short).end(&success()), None);
    let keep = Keep {
        runs: 9,
        age: Duration::from_secs(86_400 * 2),
        bytes: u64::MAX,
    };
    let swept = |at: i64| {
        home.results
            .sweep(Timestamp(T0.0 + at * day), &|_| keep, u64::MAX)
            .removed
    };
    assert_eq!(swept(31), 0);
    assert_eq!(swept(33), 1);
}

fn document(home: &Home, run: &RunId) -> serde_json::Value {
    serde_json::from_slice(&text(home, run, "document.json")).unwrap()
}

#[test]
fn a_document_is_the_record_and_the_first_events_and_whole_when_it_appears() {
    let home = home();
    let run = RunId::new(T0, 1);
    let files = start(&home, &run);
    let mut document_of = home.results.document("disk", &run, None).unwrap();
    let events = [br#"{"message":"a"}"#.as_slice(), br#"{"message":"b"}"#];
    document_of.add(events[..1].iter().copied()).unwrap();
    document_of.add(events[1..].iter().copied()).unwrap();
    let ended = Ended {
        counts: Counts {
            events: 2,
            ..Counts::default()
        },
        ..success()
    };
    assert_eq!(files.end(&ended), None);
    assert!(
        !OsDisk
            .list(&home.dir.path().join("results/disk").join(run.as_str()))
            .unwrap()
            .iter()
            .any(|entry| entry.name == "document.json")
    );
    document_of.finish().unwrap();
    let whole = document(&home, &run);
    assert_eq!(whole["events"][1]["message"], "b");
    assert_eq!(whole["events_truncated"], false);
    assert_eq!(whole["run"], run.as_str());
    assert_eq!(whole["outcome"], "success");
}

#[test]
fn a_document_takes_no_event_after_one_that_it_has_no_room_for() {
    let home = home();
    let run = RunId::new(T0, 1);
    let files = start(&home, &run);
    let mut half = home.results.document("disk", &run, None).unwrap();
    let large = format!("\"{}\"", "x".repeat(DOCUMENT_BYTES_MAX as usize / 2));
    let events = [large.as_bytes(), large.as_bytes(), b"{}"];
    half.add(events.into_iter()).unwrap();
    half.add([b"{}".as_slice()].into_iter()).unwrap();
    assert_eq!(files.end(&success()), None);
    half.finish().unwrap();
    assert_eq!(document(&home, &run)["events"].as_array().unwrap().len(), 1);
}

#[test]
fn what_is_not_delivered_is_found_again_with_its_tries_and_gets_a_document() {
    let home = home();
    let runs: Vec<RunId> = (0..5).map(|n| RunId::new(T0, n)).collect();
    let ended = Ended {
        counts: Counts {
            events: 1,
            ..Counts::default()
        },
        ..success()
    };
    for run in &runs {
        let files = start(&home, run);
        let mut of = home.results.document("disk", run, None).unwrap();
        of.add([b"{}".as_slice()].into_iter()).unwrap();
        match run {
            // Still running, and not delivered by far.
            _ if *run == runs[4] => continue,
            _ => assert_eq!(files.end(&ended), None),
        }
        if *run != runs[3] {
            of.finish().unwrap();
        }
    }
    let note = |run: &RunId, state, tries| {
        let delivery = Delivery {
            state,
            tries,
            ..Delivery::default()
        };
        let written = home.results.write_delivery("disk", run, &delivery, None);
        written.unwrap();
        assert_eq!(home.results.delivery("disk", run), Some(delivery));
    };
    note(&runs[0], DeliveryState::Delivered, 1);
    note(&runs[1], DeliveryState::Failed, 3);
    note(&runs[2], DeliveryState::Waiting, 2);
    let found = home.results.undelivered("disk", None).unwrap();
    let found: Vec<_> = found.iter().map(|(run, _, tries)| (run, *tries)).collect();
    assert_eq!(found, [(&runs[2], 2), (&runs[3], 0)]);
    // Nobody knows whether what the crash left of it was captured.
    let cut = document(&home, &runs[3]);
    assert_eq!(cut["events"], serde_json::json!([]));
    assert_eq!(cut["events_truncated"], true);
    assert_eq!(
        home.results.undelivered("none", None).unwrap(),
        Vec::new(),
        "a job without results"
    );
}
