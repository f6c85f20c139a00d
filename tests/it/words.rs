//! What the program says to somebody who is new to it or has mistyped something.
//!
//! Each test runs the real binary and reads what a person would read.

#![expect(clippy::unwrap_used, reason = "tests")]

use std::collections::BTreeSet;
use std::fs;
use std::io::BufRead;
use std::io::BufReader;
use std::process::Command;
use std::process::Stdio;

use spoolbeat::job::RUN_VARIABLES;

use crate::harness::Keep;
use crate::harness::Logstash;
use crate::harness::SOON;
use crate::harness::Spool;
use crate::harness::said;
use crate::harness::wait_until;

const ONCE: &str = "[script]\nrun = \"job.sh\"\n[schedule]\nonce = true\n";

#[test]
fn the_last_line_of_the_log_says_whether_all_events_are_acknowledged() {
    let mut logstash = Logstash::new(Keep::Events);
    let mut spool = Spool::new(logstash.port());
    spool.settings("[stop]\ntimeout = \"300ms\"\n");
    spool.job("hello", ONCE, "job.sh", "echo hello\n");
    spool.start();
    wait_until(SOON, "all three events are acknowledged", || {
        spool.status()["totals"]["acked_events"] == 3
    });
    spool.stop();
    let words = spool.last_words();
    assert_eq!(
        words["message"], "spoolbeat stops: no event waits in the queue",
        "{words}"
    );
    assert_eq!(words["labels"]["exit"], "clean", "{words}");

    logstash.close();
    spool.job("again", ONCE, "job.sh", "echo again\n");
    spool.start();
    wait_until(SOON, "three events wait", || {
        spool.status()["totals"]["waiting_events"] == 3
    });
    spool.stop();
    let words = spool.last_words();
    assert_eq!(
        words["message"], "spoolbeat stops: up to 3 events wait in the queue for the next start",
        "{words}"
    );
    assert_eq!(words["labels"]["waiting_events"], 3, "{words}");
}

#[test]
fn run_once_says_why_it_did_not_succeed() {
    let logstash = Logstash::new(Keep::Events);
    let spool = Spool::new(logstash.port());
    spool.job("fails", ONCE, "job.sh", "exit 3\n");
    let root = spool.root();
    let output = spool.command(&["run", "--once", root.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(1), "{}", said(&output));
    assert!(
        said(&output).contains("not all runs succeeded; no event waits in the queue"),
        "{}",
        said(&output)
    );
    spool.job("typo", "[scirpt]\n", "job.sh", "");
    let output = spool.command(&["run", "--once", root.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(78), "{}", said(&output));
    assert!(
        said(&output).contains("not all jobs could be loaded; no event waits in the queue"),
        "{}",
        said(&output)
    );
}

#[test]
fn a_mistyped_job_is_named_and_never_taken_for_a_quiet_one() {
    let logstash = Logstash::new(Keep::Events);
    let spool = Spool::new(logstash.port());
    spool.job("hello", ONCE, "job.sh", "echo hello\n");
    assert!(spool.command(&["run", "--once"]).status.success());
    for (args, code, words) in [
        (&["try", "helo"][..], 78, "`spoolbeat new helo` makes one"),
        (&["check", "--job", "helo"], 78, "there is no job `helo`"),
        (&["results", "helo"], 1, "job `helo` has no results"),
        (
            &["queue", "cat", "--job", "helo"],
            1,
            "no events of job `helo`; it knows hello",
        ),
        (
            &["replay", "helo", "--since", "1h"],
            1,
            "no events of job `helo`; it knows hello",
        ),
        (
            &["replay", "hello", "--since", "1h", "--output", "lumberjak"],
            78,
            "no output `lumberjak`; spoolbeat.toml has: lumberjack",
        ),
    ] {
        let output = spool.command(args);
        assert_eq!(
            output.status.code(),
            Some(code),
            "{args:?}: {}",
            said(&output)
        );
        assert!(said(&output).contains(words), "{args:?}: {}", said(&output));
    }
    let output = spool.command(&["replay", "hello", "--since", "1h"]);
    assert!(output.status.success(), "{}", said(&output));
    assert!(
        said(&output).contains("3 events sent again"),
        "{}",
        said(&output)
    );
}

#[test]
fn init_makes_the_root_that_is_named_either_way() {
    let spool = Spool::new(1);
    let folder = spool.root();
    for args in [&["init", "one"][..], &["init", "--root", "two"]] {
        assert!(spool.command(args).status.success());
    }
    for root in ["one", "two"] {
        assert!(folder.join(root).join("spoolbeat.toml").is_file());
        assert!(folder.join(root).join("jobs").is_dir());
    }
    let again = spool.command(&["init", "two"]);
    assert_eq!(again.status.code(), Some(73));
    assert!(said(&again).contains("already"), "{}", said(&again));
    fs::write(folder.join("file"), "mine").unwrap();
    let beside = spool.command(&["init", "file"]);
    assert_eq!(beside.status.code(), Some(73));
    assert!(
        !said(&beside).contains("spoolbeat.toml"),
        "{}",
        said(&beside)
    );
    assert_eq!(fs::read_to_string(folder.join("file")).unwrap(), "mine");
}

#[test]
fn a_root_is_found_by_each_way_to_name_it() {
    let spool = Spool::new(1);
    spool.job("fails", ONCE, "job.sh", "exit 3\n");
    for place in [
        ".",
        "spoolbeat.toml",
        "./spoolbeat.toml",
        "jobs/..",
        "jobs/../spoolbeat.toml",
    ] {
        let checked = spool.command(&["check", place]);
        assert!(checked.status.success(), "{place}: {}", said(&checked));
    }
}

#[test]
fn a_script_gets_all_variables_that_the_manual_names_and_no_others() {
    let logstash = Logstash::new(Keep::Events);
    let mut spool = Spool::new(logstash.port());
    let toml = "[script]\nrun = \"job.sh\"\n[schedule]\nevery = \"1s\"\n";
    let script = "env | grep -o '^SPOOLBEAT_[A-Z_]*'\n";
    spool.job("names", toml, "job.sh", script);
    spool.start();
    let wanted: BTreeSet<String> = RUN_VARIABLES.map(str::to_owned).into();
    // The first run has no last success yet.
    wait_until(SOON, "a run after a success knows all of them", || {
        let lines: BTreeSet<String> = logstash.lines("names").into_iter().collect();
        lines == wanted
    });
}

/// The keys that are known where `problem` found one that is not.
fn known_keys(problem: &str) -> Vec<&str> {
    let (_, keys) = problem.split_once("known here: ").unwrap();
    keys.split(", ").collect()
}

#[test]
fn the_manual_names_every_key_and_every_command() {
    let manual = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/README.md")).unwrap();
    let spool = Spool::new(1);
    let odd = "zzzzzzzz = 1";
    let sections = [
        "script",
        "schedule",
        "schedule.restart",
        "capture.stdout",
        "output",
        "results",
        "source",
        "source.lumberjack",
        "source.lumberjack.ssl",
    ];
    let mut job = format!("{odd}\n");
    for section in sections {
        job.push_str(&format!("[{section}]\n{odd}\n"));
    }
    job.push_str(&format!("[[files]]\n{odd}\n"));
    spool.job("odd", &job, "job.sh", "");
    let jobs = spool.command(&["check"]);
    let sections = [
        "spool",
        "queue",
        "results",
        "credentials",
        "receiver",
        "stop",
        "startup",
        "heartbeat",
        "log",
        "zzzzzzzz",
    ];
    for section in sections {
        spool.settings(&format!("[{section}]\n{odd}\n"));
    }
    spool.settings(&format!("[receiver.ssl]\n{odd}\n"));
    spool.settings(&format!("[output.tls]\n{odd}\n[output.tls.ssl]\n{odd}\n"));
    spool.settings("[output.file]\nzzzzzzzz = 1\n[output.stdout]\nzzzzzzzz = 1\n");
    spool.settings("[output.second]\nkind = \"lumberjack\"\nhosts = [\"h\"]\nzzzzzzzz = 1\n");
    let root = spool.command(&["check"]);
    let (jobs, root) = (said(&jobs), said(&root));
    let problems: Vec<&str> = jobs
        .lines()
        .chain(root.lines())
        .filter(|line| line.contains("unknown key `zzzzzzzz`"))
        .collect();
    assert!(problems.len() >= 18, "{problems:#?}");
    for problem in problems {
        for key in known_keys(problem) {
            let named = [format!("`{key}`"), format!("[{key}]"), format!("[{key}.")];
            assert!(
                named.iter().any(|name| manual.contains(name)),
                "README.md does not name `{key}` of {problem}"
            );
        }
    }
    let help = said(&spool.command(&["help"]));
    let commands = help.split_once("Commands:").unwrap().1;
    for line in commands.lines().take_while(|line| *line != "Options:") {
        if let Some(name) = line
            .strip_prefix("  ")
            .and_then(|line| line.split(' ').next())
            && !["", "help"].contains(&name)
        {
            let row = format!("`spoolbeat {name}");
            assert!(manual.contains(&row), "README.md does not name {row}`");
        }
    }
}

#[test]
fn every_command_has_examples_in_its_help() {
    let spool = Spool::new(1);
    for command in [
        &["init"][..],
        &["new"],
        &["check"],
        &["run"],
        &["status"],
        &["doctor"],
        &["explain"],
        &["trigger"],
        &["pause"],
        &["resume"],
        &["stop"],
        &["tail"],
        &["reload"],
        &["try"],
        &["results"],
        &["queue"],
        &["queue", "stat"],
        &["queue", "ls"],
        &["queue", "cat"],
        &["queue", "verify"],
        &["replay"],
        &["receive"],
        &["send"],
        &["test"],
        &["test", "output"],
        &["completions"],
    ] {
        let help = spool.command(&[command, &["--help"]].concat());
        assert!(help.status.success(), "{command:?}");
        let example = format!("spoolbeat {} ", command.join(" "));
        let text = said(&help);
        let (_, behind) = text.split_once("Example").unwrap_or_default();
        assert!(behind.contains(example.trim_end()), "{command:?}: {text}");
    }
}

#[test]
fn try_ends_quietly_when_nobody_reads_on() {
    let spool = Spool::new(1);
    let script = "while :; do echo x; sleep 0.05; done\n";
    spool.job("endless", ONCE, "job.sh", script);
    let mut child = Command::new(env!("CARGO_BIN_EXE_spoolbeat"))
        .args(["try", "endless"])
        .current_dir(spool.root())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap())
        .read_line(&mut line)
        .unwrap();
    assert!(line.starts_with("{\"@timestamp\""), "{line}");
    let output = child.wait_with_output().unwrap();
    assert_eq!(said(&output), "");
    assert!(!output.status.success());
}

#[test]
fn what_is_not_there_yet_is_not_taken_for_a_fault_of_the_disk() {
    let spool = Spool::new(1);
    for args in [
        &["queue", "stat"][..],
        &["queue", "ls"],
        &["queue", "cat"],
        &["queue", "verify"],
        &["replay", "--since", "1h"],
        &["status"],
    ] {
        let output = spool.command(args);
        assert_eq!(output.status.code(), Some(1), "{args:?}: {}", said(&output));
        assert!(
            said(&output).contains("`spoolbeat run "),
            "{args:?}: {}",
            said(&output)
        );
    }
    fs::remove_dir(spool.root().join("jobs")).unwrap();
    let output = spool.command(&["check"]);
    assert_eq!(output.status.code(), Some(78), "{}", said(&output));
    assert!(said(&output).contains("run mkdir "), "{}", said(&output));
}
