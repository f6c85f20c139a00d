//! `[[files]]` with the real daemon: harvested, shipped, and cleaned up only after the ACK.

#![expect(clippy::unwrap_used, reason = "tests")]

use std::collections::BTreeSet;
use std::fs;
use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::path::PathBuf;

use serde_json::Value;

use crate::harness::Keep;
use crate::harness::Logstash;
use crate::harness::Mode;
use crate::harness::SOON;
use crate::harness::Spool;
use crate::harness::wait_until;

fn append(path: &Path, text: &str) {
    let mut file = File::options()
        .create(true)
        .append(true)
        .open(path)
        .unwrap();
    file.write_all(text.as_bytes()).unwrap();
}

/// A folder of files that a job named `logs` reads, as `more` says.
fn job(spool: &Spool, glob: &str, more: &str) -> PathBuf {
    let folder = spool.root().join("source");
    fs::create_dir_all(&folder).unwrap();
    let toml = format!(
        "[[files]]\npaths = [\"{}/{glob}\"]\nscan = \"200ms\"\nquiet = \"200ms\"\n{more}",
        folder.display()
    );
    let job = spool.root().join("jobs/logs");
    fs::create_dir_all(&job).unwrap();
    fs::write(job.join("job.toml"), toml).unwrap();
    folder
}

fn sorted(mut lines: Vec<String>) -> Vec<String> {
    lines.sort();
    lines
}

/// Lines of files alone, without what is told of their clean-up.
fn lines(logstash: &Logstash) -> Vec<String> {
    let told = |event: &Value| event["event"]["kind"] == "event";
    logstash
        .events("logs")
        .iter()
        .filter(|event| !told(event))
        .map(|event| event["message"].as_str().unwrap().to_owned())
        .collect()
}

fn files(spool: &Spool) -> Value {
    spool.job_status("logs")["files"].clone()
}

#[test]
fn files_are_read_as_they_grow_and_every_line_comes_once_over_a_kill() {
    let logstash = Logstash::new(Keep::Events);
    let mut spool = Spool::new(logstash.port());
    let folder = job(&spool, "*.log", "tags = [\"app\"]\n");
    append(&folder.join("a.log"), "1\n2\n");
    spool.start();
    wait_until(SOON, "what was there arrives", || {
        lines(&logstash).len() == 2
    });
    append(&folder.join("a.log"), "3\nhal");
    append(&folder.join("b.log"), "4\n");
    // Known to the daemon, too: what it does not know to be acknowledged comes twice after a kill.
    wait_until(SOON, "what is new has arrived", || {
        lines(&logstash).len() == 4 && spool.status()["totals"]["waiting_events"] == 0
    });
    spool.kill();
    append(&folder.join("a.log"), "f\n");
    fs::rename(folder.join("b.log"), folder.join("c.log")).unwrap();
    append(&folder.join("c.log"), "5\n");
    spool.start();
    wait_until(SOON, "what came meanwhile arrives", || {
        lines(&logstash).len() >= 6
    });
    spool.stop();
    assert_eq!(sorted(lines(&logstash)), ["1", "2", "3", "4", "5", "half"]);
    let event = &logstash.events("logs")[0];
    assert_eq!(event["tags"][0], "app");
    assert_eq!(event["log"]["offset"], 0);
    assert_eq!(
        event["log"]["file"]["path"],
        folder.join("a.log").to_str().unwrap()
    );
}

/// Clean-up did not wait for the ACK, so a send that failed lost the file.
#[test]
fn defect_08_a_file_is_deleted_only_after_the_server_has_acknowledged_its_last_line() {
    let logstash = Logstash::new(Keep::Events);
    logstash.answer(Mode::Never);
    let mut spool = Spool::new(logstash.port());
    let folder = job(
        &spool,
        "**/*.json",
        "after_ack = \"delete\"\nempty_folder = \"delete\"\n",
    );
    fs::create_dir_all(folder.join("sub/deep")).unwrap();
    append(&folder.join("sub/deep/a.json"), "1\n2\n");
    append(&folder.join("b.json"), "3\n");
    spool.start();
    wait_until(SOON, "both wait for the ACK", || {
        files(&spool)["waiting_releases"] == 2
    });
    spool.kill();
    spool.start();
    wait_until(SOON, "they still do", || {
        files(&spool)["waiting_releases"] == 2 && logstash.count() > 0
    });
    assert!(folder.join("b.json").exists() && folder.join("sub/deep/a.json").exists());
    logstash.answer(Mode::All);
    wait_until(SOON, "they are gone", || {
        files(&spool)["released"] == 2 && !folder.join("b.json").exists()
    });
    assert!(!folder.join("sub").exists() && folder.exists());
    wait_until(SOON, "both clean-ups are told", || {
        let events = logstash.events("logs");
        let told = events.iter().filter(|event| {
            event["event"]["action"] == "file-delete" && event["event"]["outcome"] == "success"
        });
        told.count() == 2
    });
    spool.stop();
    assert_eq!(
        sorted(lines(&logstash))
            .into_iter()
            .collect::<BTreeSet<_>>()
            .len(),
        3
    );
}

#[test]
fn while_the_server_is_away_files_are_read_on_and_stay() {
    let mut logstash = Logstash::new(Keep::Events);
    let mut spool = Spool::new(logstash.port());
    let folder = job(&spool, "*.log", "after_ack = \"delete\"\n");
    spool.start();
    wait_until(SOON, "the job is at work", || files(&spool).is_object());
    logstash.close();
    for n in 1..=20 {
        append(&folder.join(format!("{n}.log")), &format!("{n}\n"));
    }
    wait_until(SOON, "all of them wait for the server", || {
        files(&spool)["waiting_releases"] == 20
    });
    assert_eq!(fs::read_dir(&folder).unwrap().count(), 20);
    logstash.open();
    wait_until(SOON, "they are gone", || {
        fs::read_dir(&folder).unwrap().count() == 0
    });
    spool.stop();
    assert_eq!(lines(&logstash).len(), 20);
}

#[test]
fn files_are_emptied_or_moved_after_the_ack_and_go_on_being_read() {
    for action in ["\"truncate\"", "{ move = \"DONE\" }"] {
        let logstash = Logstash::new(Keep::Events);
        let mut spool = Spool::new(logstash.port());
        let done = spool.root().join("done");
        fs::create_dir(&done).unwrap();
        let more = action.replace("DONE", done.to_str().unwrap());
        let folder = job(&spool, "*", &format!("after_ack = {more}\n"));
        let path = folder.join("a");
        append(&path, "1\n2\n");
        spool.start();
        let released = |count: u64| {
            wait_until(SOON, "the file was cleaned up", || {
                files(&spool)["released"] == count
            });
        };
        released(1);
        append(&path, "3\n");
        released(2);
        if action.contains("DONE") {
            assert_eq!(fs::read_dir(&done).unwrap().count(), 2);
            assert!(!path.exists());
        } else {
            assert_eq!(fs::read(&path).unwrap(), b"");
        }
        wait_until(SOON, "all arrive", || lines(&logstash).len() == 3);
        spool.stop();
        assert_eq!(sorted(lines(&logstash)), ["1", "2", "3"], "{action}");
    }
}

#[test]
fn a_clean_up_that_must_not_be_is_refused_told_and_keeps_the_file() {
    let logstash = Logstash::new(Keep::Events);
    let mut spool = Spool::new(logstash.port());
    let more = format!(
        "after_ack = \"delete\"\nroots = [\"{}/jobs\", \"{}/elsewhere\"]\n",
        spool.root().display(),
        spool.root().display()
    );
    let folder = job(&spool, "*", &more);
    append(&folder.join("a"), "1\n");
    spool.start();
    wait_until(SOON, "it is refused", || {
        files(&spool)["refused_releases"] == 1
    });
    assert!(files(&spool)["kept"].as_str().unwrap().contains("roots"));
    assert!(folder.join("a").exists());
    spool.stop();
}

#[test]
fn only_files_of_skipped_events_are_kept_and_that_is_told_once_over_restarts() {
    let mut logstash = Logstash::new(Keep::Events);
    let mut spool = Spool::new(logstash.port());
    let folder = job(&spool, "*.log", "after_ack = \"delete\"\n");
    for file in ["a", "b", "c", "d"] {
        let lines: String = (0..10).map(|n| format!("{file}{n}\n")).collect();
        append(&folder.join(format!("{file}.log")), &lines);
    }
    logstash.close();
    spool.start();
    wait_until(SOON, "all of them wait for the server", || {
        files(&spool)["waiting_releases"] == 4
    });
    let skipped = spool.command(&["queue", "skip", "lumberjack", "--to", "15", "--yes"]);
    assert!(skipped.status.success());
    logstash.open();
    wait_until(SOON, "two are gone and two are kept", || {
        files(&spool)["released"] == 2 && files(&spool)["refused_releases"] == 2
    });
    for round in 0..2 {
        spool.stop();
        spool.start();
        // What is new is done behind what is asked for again.
        append(&folder.join(format!("new{round}.log")), "new\n");
        wait_until(SOON, "what is new is gone", || {
            files(&spool)["released"] == 3 + round
        });
    }
    assert_eq!(files(&spool)["refused_releases"], 2);
    spool.stop();
    assert_eq!(fs::read_dir(&folder).unwrap().count(), 2);
    assert_eq!(lines(&logstash).len(), 25 + 2);
    let told = logstash.events("logs");
    let told = told.iter().filter(|event| {
        event["event"]["action"] == "file-delete" && event["event"]["outcome"] == "failure"
    });
    assert_eq!(told.count(), 2);
}

#[test]
fn a_file_that_two_jobs_read_goes_only_after_both() {
    let (first, second) = (Logstash::new(Keep::Events), Logstash::new(Keep::Events));
    second.answer(Mode::Never);
    let mut spool = Spool::new(first.port());
    spool.settings(&format!(
        "[output.second]\nkind = \"lumberjack\"\nhosts = [\"127.0.0.1:{}\"]\n",
        second.port()
    ));
    let folder = job(
        &spool,
        "*",
        "after_ack = \"delete\"\n[output]\nto = [\"lumberjack\"]\n",
    );
    let other = spool.root().join("jobs/other");
    fs::create_dir_all(&other).unwrap();
    let toml = format!(
        "[[files]]\npaths = [\"{}/*\"]\nscan = \"200ms\"\n[output]\nto = [\"second\"]\n",
        folder.display()
    );
    fs::write(other.join("job.toml"), toml).unwrap();
    append(&folder.join("a"), "1\n");
    spool.start();
    wait_until(SOON, "the first has all and the second waits", || {
        first.events("logs").len() == 1
            && second.count() == 1
            && files(&spool)["waiting_releases"] == 1
    });
    assert!(folder.join("a").exists());
    second.answer(Mode::All);
    wait_until(SOON, "it goes", || !folder.join("a").exists());
    spool.stop();
}

#[test]
fn what_a_run_leaves_in_its_data_folder_is_read_when_it_has_ended() {
    let logstash = Logstash::new(Keep::Events);
    let spool = Spool::new(logstash.port());
    let toml = concat!(
        "[script]\nrun = \"job.sh\"\n[schedule]\nonce = true\n",
        "[[files]]\npaths = [\"out/*.json\"]\nwhen = \"run_end\"\nformat = \"json\"\n",
        "after_ack = \"delete\"\nquiet = \"1ms\"\n",
    );
    let script = concat!(
        "mkdir -p \"$SPOOLBEAT_STATE_DIR/out\"\n",
        "printf '{\"n\":1}\\n{\"n\":2}' > \"$SPOOLBEAT_STATE_DIR/out/a.json\"\n",
    );
    spool.job("logs", toml, "job.sh", script);
    let root = spool.root();
    let ended = spool.command(&["run", "--once", root.to_str().unwrap()]);
    assert!(ended.status.success(), "{}", crate::harness::said(&ended));
    let events = logstash.events("logs");
    let numbers: Vec<&Value> = events.iter().filter_map(|event| event.get("n")).collect();
    assert_eq!(numbers, [1, 2], "{events:?}");
}

#[test]
fn an_edit_of_the_job_goes_on_where_the_former_one_was() {
    let logstash = Logstash::new(Keep::Events);
    let mut spool = Spool::new(logstash.port());
    let folder = job(&spool, "*", "");
    append(&folder.join("a"), "1\n");
    spool.start();
    wait_until(SOON, "the first line arrives", || {
        lines(&logstash).len() == 1
    });
    job(&spool, "*", "tags = [\"new\"]\n");
    wait_until(SOON, "the edit is at work", || {
        append(&folder.join("a"), "x\n");
        let events = logstash.events("logs");
        events.iter().any(|event| event["tags"][0] == "new")
    });
    spool.stop();
    let ids: Vec<String> = logstash.acked_ids();
    let distinct: BTreeSet<&String> = ids.iter().collect();
    assert_eq!(ids.len(), distinct.len());
    let firsts = lines(&logstash).iter().filter(|line| *line == "1").count();
    assert_eq!(firsts, 1);
}

/// A file was cleaned up when it had not grown for a moment: also one that a slow writer still had open, and
/// an empty one at first sight.
#[test]
fn defect_09_a_file_that_is_still_open_for_writing_and_an_empty_one_are_not_cleaned_up() {
    let logstash = Logstash::new(Keep::Events);
    let mut spool = Spool::new(logstash.port());
    let folder = job(&spool, "*", "after_ack = \"delete\"\n");
    let (open, empty) = (folder.join("open"), folder.join("empty"));
    let mut writer = File::create(&open).unwrap();
    writer.write_all(b"1\n").unwrap();
    drop(File::create(&empty).unwrap());
    append(&folder.join("closed-1"), "2\n");
    spool.start();
    let goes = |path: &Path| wait_until(SOON, "it is cleaned up", || !path.exists());
    goes(&folder.join("closed-1"));
    // One that comes later and is cleaned up says that the others had their time.
    append(&folder.join("closed-2"), "3\n");
    goes(&folder.join("closed-2"));
    assert!(open.exists() && empty.exists());
    writer.write_all(b"4\n").unwrap();
    append(&folder.join("closed-3"), "5\n");
    goes(&folder.join("closed-3"));
    assert!(open.exists() && empty.exists());
    drop(writer);
    goes(&open);
    append(&empty, "6\n");
    goes(&empty);
    spool.stop();
    assert_eq!(sorted(lines(&logstash)), ["1", "2", "3", "4", "5", "6"]);
}

/// A file was known by its path: another one of that name that was larger was read from the old offset, a
/// smaller one made everything come again.
#[test]
fn defect_10_another_file_of_the_same_name_is_read_from_its_beginning_and_nothing_comes_twice() {
    let logstash = Logstash::new(Keep::Events);
    let mut spool = Spool::new(logstash.port());
    let folder = job(&spool, "a.log", "");
    let path = folder.join("a.log");
    let rotate = |text: &str| {
        let fresh = folder.join("fresh");
        append(&fresh, text);
        fs::rename(&fresh, &path).unwrap();
    };
    append(&path, "1\n2\n");
    spool.start();
    wait_until(SOON, "the first arrives", || lines(&logstash).len() == 2);
    rotate("3, which is longer\n4\n5\n");
    wait_until(SOON, "a larger one does", || lines(&logstash).len() == 5);
    rotate("6\n");
    wait_until(SOON, "and a smaller one", || {
        lines(&logstash).len() == 6 && spool.status()["totals"]["waiting_events"] == 0
    });
    spool.kill();
    rotate("7, of the time without a daemon\n8\n");
    spool.start();
    wait_until(SOON, "and one that came meanwhile", || {
        lines(&logstash).len() >= 8
    });
    append(&path, "9\n");
    wait_until(SOON, "which is read on", || lines(&logstash).len() >= 9);
    spool.stop();
    let wanted = ["1", "2", "3", "4", "5", "6", "7", "8", "9"];
    let lines = lines(&logstash);
    let firsts: Vec<&str> = lines.iter().map(|line| &line[..1]).collect();
    assert_eq!(firsts, wanted, "{lines:?}");
}

/// A last line without its end was one event, and its rest another.
#[test]
fn defect_11_a_line_that_is_written_in_two_pieces_is_one_event() {
    let logstash = Logstash::new(Keep::Events);
    let mut spool = Spool::new(logstash.port());
    let folder = job(&spool, "*", "partial_timeout = \"10m\"\n");
    append(&folder.join("a"), "one ha");
    append(&folder.join("b"), "other\n");
    spool.start();
    wait_until(SOON, "the other file arrives", || {
        lines(&logstash) == ["other"]
    });
    append(&folder.join("a"), "lf\n");
    wait_until(SOON, "the line arrives", || lines(&logstash).len() > 1);
    append(&folder.join("b"), "last\n");
    wait_until(SOON, "a later one too", || lines(&logstash).len() > 2);
    spool.stop();
    assert_eq!(lines(&logstash), ["other", "one half", "last"]);
}

/// Bytes that are not UTF-8 ended the look at all files, so those behind this one starved.
#[test]
fn defect_12_bytes_that_are_not_utf_8_are_marked_and_no_other_file_starves() {
    let logstash = Logstash::new(Keep::Events);
    let mut spool = Spool::new(logstash.port());
    let folder = job(&spool, "*", "");
    fs::write(folder.join("a"), b"bad \xff\xfe\ngood\n").unwrap();
    append(&folder.join("b"), "behind it\n");
    spool.start();
    wait_until(SOON, "all of it arrives", || lines(&logstash).len() == 3);
    append(&folder.join("c"), "new\n");
    wait_until(SOON, "and a new file", || lines(&logstash).len() == 4);
    spool.stop();
    let texts = sorted(lines(&logstash));
    assert_eq!(texts, ["bad \u{fffd}\u{fffd}", "behind it", "good", "new"]);
    let events = logstash.events("logs");
    let bad = events.iter().find(|event| event["message"] == texts[0]);
    let flags = bad.unwrap()["log"]["flags"].clone();
    assert_eq!(flags, serde_json::json!(["invalid_utf8"]));
}

/// Positions were written in place, and a damaged file of them sent everything again.
#[test]
fn defect_13_damaged_state_and_a_kill_send_no_line_again_and_lose_none() {
    let logstash = Logstash::new(Keep::Events);
    let mut spool = Spool::new(logstash.port());
    let folder = job(&spool, "*", "");
    append(&folder.join("a"), "1\n2\n");
    spool.start();
    wait_until(SOON, "it arrives", || lines(&logstash).len() == 2);
    // Makes a checkpoint, and moves the cursor behind all of it.
    spool.stop();
    let queue = spool.root().join("queue");
    let mut damaged = 0;
    for entry in fs::read_dir(&queue).unwrap().flatten() {
        if entry
            .file_name()
            .to_string_lossy()
            .starts_with("checkpoint")
        {
            damaged += 1;
            fs::write(entry.path(), "{").unwrap();
        }
    }
    assert!(damaged > 0);
    append(&folder.join("a"), "3\n");
    spool.start();
    wait_until(SOON, "what is new arrives", || lines(&logstash).len() > 2);
    spool.stop();
    assert!(spool.said_of("checkpoint is damaged") > 0, "it is told");
    append(&folder.join("a"), "4\n");
    spool.start();
    wait_until(SOON, "and later lines", || lines(&logstash).len() > 3);
    spool.stop();
    assert_eq!(lines(&logstash), ["1", "2", "3", "4"]);
}
