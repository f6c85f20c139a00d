//! Queues that somebody or something has changed: `queue skip` and `queue repair`, which do nothing unasked,
//! cursors that cannot be read, and records that rotted at the end.

#![expect(clippy::unwrap_used, reason = "tests")]

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Command;

use crate::harness::Keep;
use crate::harness::Logstash;
use crate::harness::Mode;
use crate::harness::SOON;
use crate::harness::Spool;
use crate::harness::needs_root;
use crate::harness::said;
use crate::harness::spoolbeat;
use crate::harness::wait_until;

const ONCE: &str = "[script]\nrun = \"job.sh\"\n[schedule]\nonce = true\n";

/// A root whose server is away, with the 52 events of one run of each job captured.
fn waiting(logstash: &mut Logstash, jobs: &[&str]) -> Spool {
    let mut spool = Spool::new(logstash.port());
    logstash.close();
    spool.start();
    for job in jobs {
        spool.job(job, ONCE, "job.sh", "seq 1 50\n");
        wait_until(SOON, "the run has ended", || {
            spool.job_status(job)["last_run"]["outcome"] == "success"
        });
    }
    spool
}

/// What the cursor of the only output says of how events were passed, and how many wait.
fn passed(spool: &Spool, way: &str) -> (u64, u64) {
    let stat = spool.command(&["queue", "stat", "--json"]);
    let stat: serde_json::Value = serde_json::from_slice(&stat.stdout).unwrap();
    let output = &stat["outputs"]["lumberjack"];
    let number = |value: &serde_json::Value| value.as_u64().unwrap();
    (number(&output["passed"][way]), number(&output["waiting"]))
}

fn is_sound(spool: &Spool) {
    let report = spool.command(&["doctor", "--json"]);
    let report: serde_json::Value = serde_json::from_slice(&report.stdout).unwrap();
    let accounts = report["checks"].as_array().unwrap().iter();
    let mut accounts = accounts.filter(|one| one["check"] == "accounts");
    assert!(accounts.clone().count() >= 3, "{report}");
    assert!(accounts.all(|one| one["verdict"] == "ok"), "{report}");
}

#[test]
fn a_skip_counts_what_is_on_its_way_as_sent_when_it_is_acknowledged_and_lets_its_file_go() {
    let logstash = Logstash::new(Keep::Events);
    logstash.answer(Mode::Never);
    let mut spool = Spool::new(logstash.port());
    let folder = spool.root().join("source");
    fs::create_dir(&folder).unwrap();
    let file = folder.join("a.log");
    fs::write(&file, "1\n2\n").unwrap();
    let toml = format!(
        "[[files]]\npaths = [\"{}/*.log\"]\nscan = \"200ms\"\nquiet = \"200ms\"\nafter_ack = \"delete\"\n",
        folder.display()
    );
    spool.job("files", &toml, "README", "");
    spool.start();
    wait_until(SOON, "the file's events are on their way", || {
        logstash.arrived() > 0 && spool.job_status("files")["files"]["waiting_releases"] == 1
    });
    spool.job("many", ONCE, "job.sh", "seq 1 20000\n");
    wait_until(SOON, "more waits than can be on its way", || {
        spool.job_status("many")["last_run"]["outcome"] == "success"
    });
    let skipped = std::thread::scope(|scope| {
        let skip =
            scope.spawn(|| spool.command(&["queue", "skip", "lumberjack", "--all", "--yes"]));
        wait_until(SOON, "the output is told to skip", || {
            let log = fs::read_to_string(spool.log()).unwrap();
            log.contains("an ACK of what is in flight is waited for")
        });
        logstash.answer(Mode::All);
        skip.join().unwrap()
    });
    let words = said(&skipped);
    assert!(skipped.status.success(), "{words}");
    assert!(
        words.contains("what is on its way now and is acknowledged within 10 s counts as sent"),
        "{words}"
    );
    assert!(words.contains(" acknowledged meanwhile"), "{words}");
    wait_until(SOON, "the file is gone", || !file.exists());
    wait_until(SOON, "all is acknowledged or skipped", || {
        spool.status()["totals"]["waiting_events"] == 0
    });
    let output = &spool.status()["outputs"][0];
    let (acked, skipped) = (&output["acked_events"], &output["skipped_events"]);
    assert_eq!(acked.as_u64().unwrap(), logstash.count() as u64, "{output}");
    assert!(skipped.as_u64().unwrap() > 10_000, "{output}");
    is_sound(&spool);
}

#[test]
fn a_skip_whose_daemon_is_killed_meanwhile_says_so_and_how_far_it_came() {
    let logstash = Logstash::new(Keep::Events);
    logstash.answer(Mode::Never);
    let mut spool = Spool::new(logstash.port());
    spool.start();
    spool.job("many", ONCE, "job.sh", "seq 1 20000\n");
    wait_until(SOON, "something is on its way", || {
        logstash.arrived() > 0 && spool.job_status("many")["last_run"]["outcome"] == "success"
    });
    let skip = spoolbeat()
        .current_dir(spool.root())
        .args(["queue", "skip", "lumberjack", "--all", "--yes"])
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    wait_until(SOON, "the output is told to skip", || {
        let log = fs::read_to_string(spool.log()).unwrap();
        log.contains("an ACK of what is in flight is waited for")
    });
    spool.kill();
    let skip = skip.wait_with_output().unwrap();
    let words = said(&skip);
    assert_eq!(skip.status.code(), Some(1), "{words}");
    assert!(
        words.contains("the daemon has ended meanwhile: 0 events skipped, and no more will be; lumberjack is at event "),
        "{words}"
    );
    assert!(words.contains("run this again"), "{words}");
    let again = spool.command(&["queue", "skip", "lumberjack", "--all", "--yes"]);
    assert!(again.status.success(), "{}", said(&again));
}

#[test]
fn an_output_skips_what_a_person_has_seen_and_agreed_to_live_and_stopped() {
    let mut logstash = Logstash::new(Keep::Events);
    let mut spool = waiting(&mut logstash, &["a", "b"]);
    let (_, all) = passed(&spool, "skipped");
    assert!(all >= 104);

    // Nobody is there to be asked.
    let asked = spool.command(&["queue", "skip", "lumberjack", "--all"]);
    assert_eq!(asked.status.code(), Some(2), "{}", said(&asked));
    for words in [
        &format!("would not be sent {all} events"),
        " of a, ",
        " of b",
        "give --yes",
    ] {
        assert!(said(&asked).contains(words), "{}", said(&asked));
    }
    assert_eq!(passed(&spool, "skipped"), (0, all));
    let other = spool.command(&["queue", "skip", "lumberjak", "--all", "--yes"]);
    assert_eq!(other.status.code(), Some(1));
    assert!(
        said(&other).contains("it has lumberjack"),
        "{}",
        said(&other)
    );

    let strange = spool.command(&["queue", "skip", "lumberjack", "--to", "abc"]);
    let words = said(&strange);
    assert!(
        words.contains("`abc` is no number of an event; write --to 5000"),
        "{words}"
    );
    // What is asked for lies behind the end: that is told before anything is done.
    let beyond = spool.command(&["queue", "skip", "lumberjack", "--to", "999999"]);
    let words = said(&beyond);
    assert!(
        words.contains("event 999999 is not captured yet, the last one is"),
        "{words}"
    );
    assert!(words.contains("give --yes"), "{words}");

    let live = spool.command(&["queue", "skip", "lumberjack", "--to", "7", "--yes"]);
    assert!(live.status.success(), "{}", said(&live));
    assert!(said(&live).contains("7 events skipped"), "{}", said(&live));
    // With the event that tells of it.
    let all = all + 1;
    wait_until(SOON, "the daemon tells of it", || {
        passed(&spool, "skipped") == (7, all - 7)
    });
    assert_eq!(spool.status()["outputs"][0]["skipped_events"], 7);
    is_sound(&spool);
    spool.kill();

    let stopped = spool.command(&["queue", "skip", "lumberjack", "--to", "9", "--yes"]);
    assert!(
        said(&stopped).contains("2 events skipped"),
        "{}",
        said(&stopped)
    );
    assert_eq!(passed(&spool, "skipped"), (9, all - 9));
    let again = spool.command(&["queue", "skip", "lumberjack", "--to", "9"]);
    assert!(again.status.success(), "{}", said(&again));
    assert!(said(&again).contains("nothing to skip"), "{}", said(&again));
    let record = spool.command(&["queue", "skip", "lumberjack", "--record", "--yes"]);
    assert!(record.status.success(), "{}", said(&record));
    let (skipped, left) = passed(&spool, "skipped");
    assert!(
        skipped > 9 && left > 0 && skipped + left == all,
        "{skipped} {left}"
    );
    is_sound(&spool);

    // The rest is sent, and nothing of what was skipped.
    logstash.open();
    spool.start();
    wait_until(SOON, "the rest has arrived", || {
        let status = spool.status();
        status["totals"]["waiting_events"] == 0 && status["outputs"][0]["acked_events"] != 0
    });
    let status = spool.status();
    assert_eq!(status["outputs"][0]["skipped_events"], skipped, "{status}");
    let acked = status["outputs"][0]["acked_events"].as_u64().unwrap();
    assert_eq!(logstash.count() as u64, acked, "{status}");
    let told = logstash.missed("lumberjack", "skipped");
    assert_eq!(told.len(), 1, "{told:?}");
    assert_eq!(
        (&told[0]["events"], &told[0]["from"], &told[0]["to"]),
        (&7.into(), &1.into(), &7.into())
    );
    is_sound(&spool);
    let nothing = spool.command(&["queue", "skip", "lumberjack", "--segment"]);
    assert!(
        said(&nothing).contains("nothing to skip"),
        "{}",
        said(&nothing)
    );
    spool.stop();
}

/// Starts the daemon and waits until its output has passed all that is kept.
fn start_and_send(spool: &mut Spool) -> serde_json::Value {
    spool.start();
    wait_until(SOON, "nothing waits any more", || {
        let status = spool.status();
        status["totals"]["waiting_events"] == 0 && status["outputs"][0]["windows"] != 0
    });
    spool.status()
}

fn cursor(spool: &Spool) -> PathBuf {
    spool.root().join("queue/cursor-lumberjack")
}

#[test]
fn without_a_cursor_that_can_be_read_all_that_is_kept_is_sent_again_and_said() {
    let mut logstash = Logstash::new(Keep::Ids);
    let mut spool = waiting(&mut logstash, &["a"]);
    logstash.open();
    spool.stop();
    let sent = logstash.count();
    assert!(sent >= 52);
    fs::write(cursor(&spool), [0x55; 1024]).unwrap();
    start_and_send(&mut spool);
    assert!(logstash.count() >= 2 * sent, "{} {sent}", logstash.count());
    assert_eq!(spool.said_of("everything kept is sent again"), 1);
    is_sound(&spool);
    spool.stop();
}

const FILES: &str = "[[files]]\npaths = [\"source/*.log\"]\nscan = \"200ms\"\nquiet = \"200ms\"\nafter_ack = \"delete\"\n";

#[test]
fn an_output_whose_cursor_was_removed_is_sent_all_that_is_kept_and_no_file_goes_before() {
    for live in [false, true] {
        let mut logstash = Logstash::new(Keep::Events);
        let mut spool = Spool::new(logstash.port());
        spool.settings("[stop]\ntimeout = \"100ms\"\n");
        logstash.close();
        let source = spool.root().join("state/logs/data/source");
        fs::create_dir_all(&source).unwrap();
        for n in 0..3 {
            fs::write(source.join(format!("{n}.log")), format!("{n}\n").repeat(10)).unwrap();
        }
        spool.job("logs", FILES, "README", "");
        spool.start();
        wait_until(SOON, "the files wait for the output", || {
            spool.status()["outputs"][0]["waiting_files"] == 3
        });
        if live {
            fs::remove_file(cursor(&spool)).unwrap();
            spool.kill();
        } else {
            spool.stop();
            fs::remove_file(cursor(&spool)).unwrap();
        }
        let (code, found) = verify(&spool);
        assert_eq!(code, Some(1), "{found}");
        assert_eq!(found["lost_cursors"][0], "lumberjack", "{found}");
        let doctor = spool.command(&["doctor"]);
        assert!(!doctor.status.success() && said(&doctor).contains("is gone"));
        let root = spool.root();
        let outputs = spool.command(&["outputs", "--json", "--root", root.to_str().unwrap()]);
        let outputs: serde_json::Value = serde_json::from_slice(&outputs.stdout).unwrap();
        assert_eq!(outputs[0]["state"], "lost", "{outputs}");
        assert!(
            outputs[0]["waiting_events"].as_u64().unwrap() >= 30,
            "{outputs}"
        );
        assert_eq!(fs::read_dir(&source).unwrap().count(), 3);

        logstash.open();
        let status = start_and_send(&mut spool);
        assert_eq!(status["queue"]["lost_cursors"][0], "lumberjack", "{status}");
        wait_until(SOON, "the files are gone", || {
            fs::read_dir(&source).unwrap().next().is_none()
        });
        let events = logstash.events("logs");
        let lines = events.iter().filter(|event| {
            event["message"]
                .as_str()
                .is_some_and(|text| text.len() == 1)
        });
        assert_eq!(lines.count(), 30);
        assert_eq!(spool.said_of("everything kept is sent again"), 1);
        wait_until(SOON, "an event tells of it", || {
            let events = logstash.events("spoolbeat");
            events
                .iter()
                .any(|event| event["event"]["action"] == "cursor-lost")
        });
        is_sound(&spool);
        assert_eq!(verify(&spool).0, Some(0));
        spool.stop();
    }
}

#[test]
fn what_is_no_file_in_the_place_of_a_cursor_is_a_lost_cursor_and_neither_followed_nor_waited_for() {
    let mut logstash = Logstash::new(Keep::Ids);
    let mut spool = waiting(&mut logstash, &["a"]);
    logstash.open();
    spool.stop();
    let root = spool.root();
    let elsewhere = root.join("elsewhere");
    let put: [&dyn Fn(); 3] = [
        &|| {
            assert!(
                Command::new("mkfifo")
                    .arg(cursor(&spool))
                    .status()
                    .unwrap()
                    .success()
            );
        },
        &|| {
            fs::create_dir(cursor(&spool)).unwrap();
            fs::write(cursor(&spool).join("kept"), "x").unwrap();
        },
        &|| std::os::unix::fs::symlink(&elsewhere, cursor(&spool)).unwrap(),
    ];
    fs::copy(cursor(&spool), &elsewhere).unwrap();
    let before = fs::read(&elsewhere).unwrap();
    for put in put {
        fs::remove_file(cursor(&spool)).unwrap();
        put();
        assert_eq!(verify(&spool).1["lost_cursors"][0], "lumberjack");
        assert!(!spool.command(&["doctor"]).status.success());
        let outputs = spool.command(&["outputs", "--json", "--root", root.to_str().unwrap()]);
        let outputs: serde_json::Value = serde_json::from_slice(&outputs.stdout).unwrap();
        assert_eq!(outputs[0]["state"], "lost", "{outputs}");
        let (code, told) = repair(&spool, &["--yes"]);
        assert_eq!(code, Some(0), "{told}");
        assert!(fs::symlink_metadata(cursor(&spool)).unwrap().is_file());
        assert_eq!(verify(&spool).0, Some(0));
    }
    assert_eq!(fs::read(&elsewhere).unwrap(), before);
    let aside = spool.root().join("queue/quarantine/cursor-lumberjack.1");
    assert!(aside.join("kept").exists());
    fs::remove_file(cursor(&spool)).unwrap();
    fs::create_dir(cursor(&spool)).unwrap();
    start_and_send(&mut spool);
    assert_eq!(spool.said_of("everything kept is sent again"), 1);
    is_sound(&spool);
    spool.stop();
}

#[test]
fn a_cursor_of_yesterday_costs_what_was_sent_since_a_second_time_and_no_number_twice() {
    let mut logstash = Logstash::new(Keep::Ids);
    let mut spool = waiting(&mut logstash, &["a"]);
    spool.kill();
    let yesterday = fs::read(cursor(&spool)).unwrap();
    logstash.open();
    start_and_send(&mut spool);
    spool.stop();
    let sent = logstash.count();
    fs::write(cursor(&spool), yesterday).unwrap();
    start_and_send(&mut spool);
    assert!(logstash.count() >= 2 * 52, "{} {sent}", logstash.count());
    is_sound(&spool);
    spool.stop();
}

#[test]
fn a_cursor_that_may_not_be_read_does_not_stop_a_start() {
    if needs_root("a_cursor_that_may_not_be_read_does_not_stop_a_start") {
        return;
    }
    let mut logstash = Logstash::new(Keep::Ids);
    let mut spool = waiting(&mut logstash, &["a"]);
    logstash.open();
    spool.stop();
    let sent = logstash.count();
    spool.open_to_users();
    spool.give_to(65_534);
    fs::set_permissions(cursor(&spool), fs::Permissions::from_mode(0o000)).unwrap();
    start_and_send(&mut spool);
    assert!(logstash.count() >= 2 * sent, "{} {sent}", logstash.count());
    assert_eq!(spool.said_of("the cursor cannot be read"), 1);
    is_sound(&spool);
    spool.stop();
}

/// Flips a bit in the last byte of the newest segment that holds a record.
fn rot_at_the_end(spool: &Spool) {
    let entries = fs::read_dir(spool.root().join("queue")).unwrap();
    let paths = entries.map(|entry| entry.unwrap().path());
    let holds = |path: &PathBuf| {
        path.extension().is_some_and(|ending| ending == "seg")
            && fs::metadata(path).unwrap().len() > 100
    };
    let path = paths.filter(holds).max().unwrap();
    let mut bytes = fs::read(&path).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(path, bytes).unwrap();
}

#[test]
fn a_last_record_that_rots_is_counted_after_a_stop_and_kept_after_a_kill() {
    let mut logstash = Logstash::new(Keep::Ids);
    let mut spool = waiting(&mut logstash, &["a"]);
    spool.settings("[stop]\ntimeout = \"100ms\"\n");
    spool.kill();
    rot_at_the_end(&spool);
    spool.start();
    wait_until(SOON, "what was cut off is in quarantine", || {
        spool.status()["queue"]["quarantined"] == 1
    });
    is_sound(&spool);
    spool.job("b", ONCE, "job.sh", "seq 1 50\n");
    wait_until(SOON, "the run has ended", || {
        spool.job_status("b")["last_run"]["outcome"] == "success"
    });
    spool.stop();

    rot_at_the_end(&spool);
    logstash.open();
    let status = start_and_send(&mut spool);
    let damaged = status["outputs"][0]["damaged_events"].as_u64().unwrap();
    assert!(damaged > 0, "{status}");
    is_sound(&spool);
    spool.stop();
}

#[test]
fn events_that_wait_and_whose_segments_are_gone_are_called_missing() {
    let mut logstash = Logstash::new(Keep::Ids);
    let mut spool = waiting(&mut logstash, &["a"]);
    spool.settings("[stop]\ntimeout = \"100ms\"\n");
    spool.kill();
    spool.start();
    wait_until(SOON, "the daemon runs", || {
        spool.status()["daemon"]["state"] == "running"
    });
    spool.stop();
    let (_, all) = passed(&spool, "acked");
    for path in files(&spool).into_keys() {
        if path.extension().is_some_and(|ending| ending == "seg") {
            fs::remove_file(path).unwrap();
        }
    }
    let (code, found) = verify(&spool);
    assert_eq!(code, Some(1), "{found}");
    let what = found["damage"][0]["what"].as_str().unwrap();
    assert!(what.contains(&format!("events 1..{all} ")), "{what}");
    assert!(!spool.command(&["doctor"]).status.success());
    logstash.open();
    spool.start();
    wait_until(SOON, "they are counted", || {
        passed(&spool, "damaged").0 == all
    });
    spool.stop();
    let doctor = spool.command(&["doctor"]);
    let lost = format!("{all} events lost by damage");
    assert!(said(&doctor).contains(&lost), "{}", said(&doctor));
}

#[test]
fn an_oldest_segment_that_is_gone_is_called_missing_and_can_be_settled() {
    let mut logstash = Logstash::new(Keep::Ids);
    let mut spool = waiting_in_two_segments(&mut logstash);
    spool.settings("[stop]\ntimeout = \"100ms\"\n");
    spool.stop();
    let is_segment = |path: &PathBuf| path.extension().is_some_and(|ending| ending == "seg");
    let oldest = files(&spool).into_keys().find(is_segment).unwrap();
    fs::remove_file(oldest).unwrap();
    let (code, found) = verify(&spool);
    assert_eq!(code, Some(1), "{found}");
    let what = found["damage"][0]["what"].as_str().unwrap();
    assert!(what.starts_with("events 1.."), "{what}");
    assert!(!spool.command(&["doctor"]).status.success());
    let (code, told) = repair(&spool, &["--yes"]);
    assert_eq!(code, Some(0), "{told}");
    assert_eq!(verify(&spool).0, Some(0));
    logstash.open();
    let status = start_and_send(&mut spool);
    let damaged = status["outputs"][0]["damaged_events"].as_u64().unwrap();
    assert!(damaged > 0, "{status}");
    is_sound(&spool);
}

#[test]
fn a_last_segment_that_is_gone_is_called_missing_by_the_cursor_that_was_in_it() {
    let mut logstash = Logstash::new(Keep::Ids);
    let mut spool = waiting_in_two_segments(&mut logstash);
    logstash.open();
    wait_until(SOON, "all is sent", || {
        spool.status()["totals"]["waiting_events"] == 0
    });
    spool.kill();
    let (all, _) = passed(&spool, "acked");
    let is_segment = |path: &PathBuf| path.extension().is_some_and(|ending| ending == "seg");
    let last = files(&spool).into_keys().rfind(is_segment);
    fs::remove_file(last.unwrap()).unwrap();
    let (code, found) = verify(&spool);
    assert_eq!(code, Some(1), "{found}");
    let what = found["damage"][0]["what"].as_str().unwrap();
    assert!(what.ends_with("at the end are missing"), "{what}");
    assert!(what.contains(&format!("..{all} ")), "{what}");
    let doctor = spool.command(&["doctor"]);
    assert!(said(&doctor).contains(what), "{}", said(&doctor));
    let (code, told) = repair(&spool, &["--yes"]);
    assert_eq!(code, Some(0), "{told}");
    assert_eq!(verify(&spool).0, Some(0));
    start_and_send(&mut spool);
    spool.stop();
    assert_eq!(verify(&spool).0, Some(0));
}

/// Everything in the queue's folder, by name.
fn files(spool: &Spool) -> BTreeMap<PathBuf, Vec<u8>> {
    let entries = fs::read_dir(spool.root().join("queue")).unwrap();
    let paths = entries.map(|entry| entry.unwrap().path());
    paths
        .filter(|path| path.is_file())
        .map(|path| (path.clone(), fs::read(path).unwrap()))
        .collect()
}

/// A live root whose server is away, with a run in a segment of an earlier start, and one in a newer one.
fn waiting_in_two_segments(logstash: &mut Logstash) -> Spool {
    let mut spool = waiting(logstash, &["a"]);
    spool.kill();
    spool.start();
    spool.job("b", ONCE, "job.sh", "seq 1 50\n");
    wait_until(SOON, "the run has ended", || {
        spool.job_status("b")["last_run"]["outcome"] == "success"
    });
    spool
}

/// Flips a bit in the middle of the oldest segment.
fn rot(spool: &Spool) {
    let is_segment = |path: &PathBuf| path.extension().is_some_and(|ending| ending == "seg");
    let path = files(spool).into_keys().find(is_segment).unwrap();
    let mut bytes = fs::read(&path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(path, bytes).unwrap();
}

fn verify(spool: &Spool) -> (Option<i32>, serde_json::Value) {
    let verdict = spool.command(&["queue", "verify", "--json"]);
    let json = serde_json::from_slice(&verdict.stdout).unwrap();
    (verdict.status.code(), json)
}

fn repair(spool: &Spool, flags: &[&str]) -> (Option<i32>, String) {
    let output = spool.command(&[&["queue", "repair"], flags].concat());
    (output.status.code(), said(&output))
}

#[test]
fn a_stopped_queue_is_repaired_after_it_was_said_how_and_a_sound_one_is_left_alone() {
    let mut logstash = Logstash::new(Keep::Ids);
    let mut spool = waiting_in_two_segments(&mut logstash);
    spool.kill();
    let whole = files(&spool);
    let (code, text) = repair(&spool, &["--yes"]);
    assert_eq!(code, Some(0), "{text}");
    assert!(
        text.contains("nothing is damaged; nothing was changed"),
        "{text}"
    );
    assert_eq!(files(&spool), whole);

    rot(&spool);
    fs::write(cursor(&spool), [0x55; 1024]).unwrap();
    fs::write(spool.root().join("queue/.new-cursor-lumberjack"), "x").unwrap();
    let damaged = files(&spool);
    let (code, found) = verify(&spool);
    assert_eq!(code, Some(1), "{found}");
    assert_eq!(found["damage"].as_array().unwrap().len(), 1, "{found}");
    let (code, asked) = repair(&spool, &[]);
    assert_eq!(code, Some(2), "{asked}");
    for words in [
        found["damage"][0]["what"].as_str().unwrap(),
        " lost in all",
        "the cursor of lumberjack cannot be read or is gone",
        "was never finished",
        "give --yes",
    ] {
        assert!(asked.contains(words), "{words}: {asked}");
    }
    assert_eq!(files(&spool), damaged, "nothing is changed unasked");

    let (code, text) = repair(&spool, &["--yes"]);
    assert_eq!(code, Some(0), "{text}");
    let (code, found) = verify(&spool);
    assert_eq!(code, Some(0), "{found}");
    assert_eq!(found["settled"], 1, "{found}");
    is_sound(&spool);
    let doctor = spool.command(&["doctor"]);
    assert!(doctor.status.success(), "{}", said(&doctor));
    assert!(
        said(&doctor).contains("1 damaged place settled"),
        "{}",
        said(&doctor)
    );
    let settled = files(&spool);
    assert_eq!(repair(&spool, &["--yes"]).0, Some(0));
    assert_eq!(files(&spool), settled, "a second repair has nothing to do");

    // Everything that can be read is sent, the rest is counted, and it stays settled.
    logstash.open();
    let status = start_and_send(&mut spool);
    let lost = status["outputs"][0]["damaged_events"].as_u64().unwrap();
    assert!(lost > 0, "{status}");
    assert!(asked.contains(&format!("{lost} event")), "{lost}: {asked}");
    is_sound(&spool);
    spool.stop();
    assert_eq!(verify(&spool).0, Some(0));
}

#[test]
fn damaged_records_are_set_aside_under_a_live_daemon_and_the_rest_needs_it_stopped() {
    let mut logstash = Logstash::new(Keep::Ids);
    let mut spool = waiting_in_two_segments(&mut logstash);
    rot(&spool);
    let (code, asked) = repair(&spool, &[]);
    assert_eq!(code, Some(2), "{asked}");
    assert!(asked.contains("not passed yet by lumberjack: "), "{asked}");
    let (code, text) = repair(&spool, &["--yes"]);
    assert_eq!(code, Some(0), "{text}");
    let (code, found) = verify(&spool);
    assert_eq!((code, &found["settled"]), (Some(0), &1.into()), "{found}");
    wait_until(SOON, "the daemon has seen what was set aside", || {
        spool.status()["queue"]["quarantined"] == 1
    });

    fs::write(cursor(&spool), [0x55; 1024]).unwrap();
    let before = fs::read(cursor(&spool)).unwrap();
    let (code, text) = repair(&spool, &["--yes"]);
    assert_eq!(code, Some(1), "{text}");
    assert!(text.contains("systemctl stop spoolbeat"), "{text}");
    assert_eq!(fs::read(cursor(&spool)).unwrap(), before);
    spool.kill();
    let (code, text) = repair(&spool, &["--yes"]);
    assert_eq!(code, Some(0), "{text}");

    logstash.open();
    let status = start_and_send(&mut spool);
    assert!(status["outputs"][0]["damaged_events"] != 0, "{status}");
    assert_eq!(status["queue"]["quarantined"], 1, "{status}");
    assert_eq!(verify(&spool).0, Some(0));
    is_sound(&spool);
    spool.stop();
}
