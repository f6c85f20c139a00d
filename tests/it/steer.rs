//! What people do with a running daemon: every verb, on the real binary.

#![expect(clippy::unwrap_used, reason = "tests")]

use std::fs;
use std::process::Command;
use std::process::Output;
use std::process::Stdio;

use rcgen::IsCa;
use serde_json::Value;
use serde_json::json;

use crate::harness::Keep;
use crate::harness::Logstash;
use crate::harness::SOON;
use crate::harness::Spool;
use crate::harness::authority::Wanted;
use crate::harness::authority::self_signed;
use crate::harness::said;
use crate::harness::signal;
use crate::harness::wait_until;

const MANUAL: &str = "[script]\nrun = \"job.sh\"\n[schedule]\ncron = \"0 0 1 1 *\"\n";
const KEPT: &str = "[script]\nrun = \"job.sh\"\n[schedule]\nkeep_running = true\n";

fn code(output: &Output) -> i32 {
    output.status.code().unwrap()
}

/// The daemon's own events with this action.
fn notices(logstash: &Logstash, action: &str) -> Vec<Value> {
    let mut events = logstash.events("spoolbeat");
    events.retain(|event| event["event"]["action"] == action);
    events
}

fn await_state(spool: &Spool, job: &str, state: &str) {
    wait_until(SOON, &format!("{job} is {state}"), || {
        spool.job_status(job)["state"] == state
    });
}

#[test]
fn a_job_is_triggered_and_its_end_awaited() {
    let logstash = Logstash::new(Keep::Events);
    let mut spool = Spool::new(logstash.port());
    spool.job("good", MANUAL, "job.sh", "echo hello\n");
    spool.job("bad", MANUAL, "job.sh", "exit 3\n");
    let none = spool.command(&["trigger", "good"]);
    assert_eq!(code(&none), 1);
    assert!(said(&none).contains("spoolbeat run "), "{}", said(&none));
    spool.start();
    await_state(&spool, "good", "idle");
    await_state(&spool, "bad", "idle");
    let good = spool.command(&["trigger", "good", "--wait"]);
    assert_eq!(code(&good), 0, "{}", said(&good));
    assert!(said(&good).contains(": success in "), "{}", said(&good));
    let bad = spool.command(&["trigger", "bad", "--wait", "--json"]);
    assert_eq!(code(&bad), 1, "{}", said(&bad));
    let record: Value = serde_json::from_slice(&bad.stdout).unwrap();
    assert_eq!(
        (&record["outcome"], &record["exit_code"]),
        (&"failed".into(), &3.into())
    );
    let none = spool.command(&["trigger", "god"]);
    assert_eq!(code(&none), 1);
    assert!(said(&none).contains("no job `god`"), "{}", said(&none));
}

#[test]
fn a_pause_survives_a_restart_of_the_daemon() {
    let logstash = Logstash::new(Keep::Events);
    let mut spool = Spool::new(logstash.port());
    let toml = "[script]\nrun = \"job.sh\"\n[schedule]\nevery = \"200ms\"\n";
    spool.job("tick", toml, "job.sh", "echo tick\n");
    spool.start();
    wait_until(SOON, "it ticks", || logstash.lines("tick").len() > 1);
    let paused = spool.command(&["pause", "tick"]);
    assert_eq!(code(&paused), 0, "{}", said(&paused));
    await_state(&spool, "tick", "paused");
    assert_eq!(code(&spool.command(&["pause", "tick"])), 1, "it is already");
    spool.kill();
    spool.start();
    await_state(&spool, "tick", "paused");
    let skipped = || spool.job_status("tick")["skipped_ticks"].as_u64().unwrap();
    wait_until(SOON, "ticks are skipped and counted", || skipped() > 2);
    let before = spool.job_status("tick")["runs"]["success"].clone();
    assert_eq!(before, 0);
    assert_eq!(code(&spool.command(&["resume", "tick"])), 0);
    wait_until(SOON, "it ticks again", || {
        spool.job_status("tick")["runs"]["success"].as_u64() > Some(0)
    });
}

#[test]
fn a_run_is_stopped_and_its_schedule_goes_on() {
    let logstash = Logstash::new(Keep::Events);
    let mut spool = Spool::new(logstash.port());
    spool.job("kept", KEPT, "job.sh", "echo up\nexec sleep 1000\n");
    spool.start();
    wait_until(SOON, "it is up", || logstash.lines("kept").len() == 1);
    let run = spool.job_status("kept")["running"][0]["run"].clone();
    let stopped = spool.command(&["stop", run.as_str().unwrap()]);
    assert_eq!(code(&stopped), 0, "{}", said(&stopped));
    wait_until(SOON, "it is up again", || logstash.lines("kept").len() == 2);
    assert_eq!(spool.job_status("kept")["runs"]["killed"], 1);
    let none = spool.command(&["stop", "nothing"]);
    assert_eq!(code(&none), 1);
    assert!(
        said(&none).contains("no job and no running run"),
        "{}",
        said(&none)
    );
}

#[test]
fn tail_follows_a_run_and_the_next_ones() {
    let logstash = Logstash::new(Keep::Events);
    let mut spool = Spool::new(logstash.port());
    let script = "printf 'out \\033[31m\\n'; echo err >&2; while [ ! -e \"$SPOOLBEAT_STATE_DIR/go\" ]; do sleep 0.05; done; echo end\n";
    spool.job("talk", MANUAL, "job.sh", script);
    spool.start();
    await_state(&spool, "talk", "idle");
    let none = spool.command(&["tail", "talk"]);
    assert_eq!(code(&none), 1);
    assert!(said(&none).contains("was not run yet"), "{}", said(&none));
    let tail = Command::new(env!("CARGO_BIN_EXE_spoolbeat"))
        .args(["tail", "-f", "talk"])
        .env_remove("SPOOLBEAT_ROOT")
        .current_dir(spool.root())
        .stdout(Stdio::from(
            fs::File::create(spool.root().join("tail.out")).unwrap(),
        ))
        .stderr(Stdio::null())
        .spawn();
    let mut tail = tail.unwrap();
    let shown = || fs::read_to_string(spool.root().join("tail.out")).unwrap();
    assert_eq!(code(&spool.command(&["trigger", "talk"])), 0);
    wait_until(SOON, "what it prints is seen while it runs", || {
        shown() == "out \\u{1b}[31m\n"
    });
    let now = spool.command(&["tail", "talk"]);
    assert!(said(&now).contains("running since"), "{}", said(&now));
    assert!(said(&now).contains("err"), "{}", said(&now));
    fs::write(spool.root().join("state/talk/data/go"), "").unwrap();
    wait_until(SOON, "to its end", || shown().ends_with("end\n"));
    assert_eq!(code(&spool.command(&["trigger", "talk", "--wait"])), 0);
    wait_until(SOON, "and the next run", || {
        shown().matches("end\n").count() == 2
    });
    tail.kill().unwrap();
    tail.wait().unwrap();
}

#[test]
fn explain_says_the_next_times_and_what_summer_time_does() {
    let spool = Spool::new(1);
    let toml = "[script]\nrun = \"job.sh\"\n[schedule]\ncron = \"30 2 * * *\"\ntimezone = \"Europe/Berlin\"\njitter = \"1m\"\noverlap = \"queue\"\n";
    spool.job("night", toml, "job.sh", "");
    let output = spool.command(&["explain", "night"]);
    assert_eq!(code(&output), 0, "{}", said(&output));
    for words in [
        "night: cron 30 2 * * * in Europe/Berlin",
        "overlap queue",
        "missed once",
        " 02:00 to 03:00 is skipped: due at 02:30:00, which does not exist: runs once, at ",
        " 02:00 to 03:00 is doubled: runs in the first pass only",
    ] {
        assert!(said(&output).contains(words), "{words}: {}", said(&output));
    }
    let output = spool.command(&["explain", "night", "--json"]);
    let told: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(told["next"].as_array().unwrap().len(), 10);
    assert_eq!(told["clock_changes"].as_array().unwrap().len(), 2);
    assert_eq!(code(&spool.command(&["explain", "nigth"])), 78);
}

#[test]
fn reload_takes_over_what_it_can_and_names_the_rest() {
    let logstash = Logstash::new(Keep::Events);
    let mut spool = Spool::new(logstash.port());
    spool.job("hello", MANUAL, "job.sh", "echo hello\n");
    spool.start();
    await_state(&spool, "hello", "idle");
    let unchanged = spool.command(&["reload"]);
    assert_eq!(code(&unchanged), 0, "{}", said(&unchanged));
    assert!(
        said(&unchanged).contains("is taken over; all"),
        "{}",
        said(&unchanged)
    );
    spool.settings("[defaults]\ntags = [\"new\"]\n[queue]\nflush = \"50ms\"\n");
    let reloaded = spool.command(&["reload"]);
    assert_eq!(code(&reloaded), 0, "{}", said(&reloaded));
    assert!(
        said(&reloaded).contains("[queue] needs a restart"),
        "{}",
        said(&reloaded)
    );
    assert_eq!(spool.status()["daemon"]["needs_restart"][0], "[queue]");
    let table = said(&spool.command(&["status"]));
    assert!(
        table.contains("what changed in [queue] holds from the next start"),
        "{table}"
    );
    wait_until(SOON, "runs have the new default", || {
        assert_eq!(code(&spool.command(&["trigger", "hello", "--wait"])), 0);
        logstash
            .events("hello")
            .iter()
            .any(|event| event["tags"][0] == "new")
    });
    spool.settings("[stpo]\n");
    let bad = spool.command(&["reload"]);
    assert_eq!(code(&bad), 78, "{}", said(&bad));
    assert!(
        said(&bad).contains("[stop]") || said(&bad).contains("stop"),
        "{}",
        said(&bad)
    );
    let problems = spool.status()["daemon"]["settings_problems"].clone();
    assert_eq!(problems[0]["key"], "stpo", "{problems}");
}

#[test]
fn outputs_that_changed_are_named_until_the_restart_and_the_former_ones_hold_for_jobs() {
    let logstash = Logstash::new(Keep::Events);
    let mut spool = Spool::new(logstash.port());
    let file = |path: &str| {
        format!("[output.archive]\nkind = \"file\"\npath = \"/tmp/spoolbeat-none/{path}\"\n")
    };
    let toml = spool.root().join("spoolbeat.toml");
    let before = fs::read_to_string(&toml).unwrap();
    fs::write(&toml, before.clone() + &file("a")).unwrap();
    spool.start();
    wait_until(SOON, "the daemon answers", || !spool.status().is_null());
    let needs = || spool.status()["daemon"]["needs_restart"].clone();
    assert_eq!(needs(), json!([]));
    let pid = spool.pid();
    for (text, expected) in [
        (before.clone() + &file("b"), json!(["[output.archive]"])),
        (
            before.clone() + "[output.stdout]\n",
            json!(["[output.archive]", "[output.stdout]"]),
        ),
        (before.clone() + &file("a"), json!([])),
        (
            before.replace("hosts", "pipelining = 3\nhosts") + &file("b"),
            json!(["[output.archive]"]),
        ),
    ] {
        fs::write(&toml, text).unwrap();
        signal("HUP", pid);
        wait_until(SOON, "what changed is named", || needs() == expected);
    }
    let told = "what changed in [output.archive], [output.stdout] holds from the next start";
    assert_eq!(spool.said_of(told), 1);
    let read = "[[files]]\npaths = [\"/tmp/spoolbeat-none/*\"]\n";
    spool.job("loop", read, "README", "");
    wait_until(SOON, "the job is refused", || {
        let message = spool.job_status("loop")["problems"][0]["message"].to_string();
        message.contains("names /tmp/spoolbeat-none/a, which output `archive` writes")
    });
    spool.stop();
}

#[test]
fn a_reload_checks_jobs_anew_that_lacked_something_outside_of_their_folder() {
    let logstash = Logstash::new(Keep::Ids);
    let mut spool = Spool::new(logstash.port());
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name).display().to_string();
    let toml = format!(
        "[source.lumberjack]\nlisten = \"127.0.0.1:0\"\n[source.lumberjack.ssl]\ncertificate = \"{}\"\nkey = \"{}\"\n",
        at("late.pem"),
        at("late.key")
    );
    spool.job("beats", &toml, "README", "");
    spool.start();
    await_state(&spool, "beats", "refused");
    self_signed(folder.path(), "late", &Wanted::default(), IsCa::NoCa);
    assert_eq!(code(&spool.command(&["reload"])), 0);
    await_state(&spool, "beats", "listening");
    spool.stop();
}

#[test]
fn sighup_takes_over_the_defaults_names_what_needs_a_restart_and_drops_a_broken_file() {
    let logstash = Logstash::new(Keep::Events);
    let mut spool = Spool::new(logstash.port());
    let every = "[script]\nrun = \"job.sh\"\n[schedule]\nevery = \"200ms\"\n";
    spool.job("hello", every, "job.sh", "echo hello\n");
    spool.job(
        "own",
        &format!("tags = [\"own\"]\n{every}"),
        "job.sh",
        "echo own\n",
    );
    spool.start();
    let pid = spool.pid();
    // The newest line of a job, with its tags.
    let tags = |job: &str| {
        let mut events = logstash.events(job);
        events.retain(|event| event["message"] == job || event["message"] == "hello");
        events.pop().map(|event| event["tags"].clone())
    };
    let newest = |job: &str, tag: &str| {
        wait_until(SOON, &format!("{job} has the tag {tag:?}"), || {
            tags(job).is_some_and(|tags| tags[0].as_str().unwrap_or_default() == tag)
        });
    };
    newest("hello", "");
    newest("own", "own");
    let file = spool.root().join("spoolbeat.toml");
    let before = fs::read_to_string(&file).unwrap();
    let edit = |text: &str| {
        fs::write(&file, format!("{before}{text}")).unwrap();
        signal("HUP", pid);
    };
    edit("[defaults]\ntags = [\"first\"]\n[queue]\nflush = \"50ms\"\n");
    newest("hello", "first");
    newest("own", "own");
    let left = "what changed in [queue] holds from the next start";
    wait_until(SOON, "what needs a restart is named", || {
        spool.said_of(left) == 1
    });
    edit("[defaults]\ntags = [\"second\"]\nscript.timeuot = \"1s\"\n");
    wait_until(SOON, "the broken file is reported", || {
        spool.said_of("the former settings hold") == 1
    });
    let problems = spool.status()["daemon"]["settings_problems"].clone();
    let problem = problems[0].to_string();
    assert!(
        problem.contains("timeuot") && problem.contains("`timeout`"),
        "{problem}"
    );
    let count = logstash.events("hello").len();
    wait_until(SOON, "more runs come", || {
        logstash.events("hello").len() > count + 6
    });
    assert_eq!(tags("hello").unwrap()[0], "first", "nothing has changed");
    edit("[defaults]\ntags = [\"third\"]\n[queue]\nflush = \"50ms\"\n");
    newest("hello", "third");
    let problems = spool.status()["daemon"]["settings_problems"].clone();
    assert_eq!(problems, serde_json::json!([]));
    assert_eq!(spool.status()["daemon"]["pid"], pid, "the same daemon");
    spool.stop();
}

#[test]
fn a_daemon_of_an_ordinary_user_does_all_of_it() {
    /// `nobody` on every Linux.
    const NOBODY: u32 = 65534;
    if crate::harness::needs_root("a_daemon_of_an_ordinary_user_does_all_of_it") {
        return;
    }
    let logstash = Logstash::new(Keep::Events);
    let mut spool = Spool::new(logstash.port());
    spool.open_to_users();
    let source = spool.root().join("source");
    fs::create_dir(&source).unwrap();
    fs::write(source.join("a.log"), "from a file\n").unwrap();
    let toml = format!(
        "[script]\nrun = \"job.sh\"\nlimits = {{ open_files = 64, memory = \"200MiB\" }}\n[schedule]\nevery = \"1h\"\n[[files]]\npaths = [\"{}/*.log\"]\nscan = \"200ms\"\nquiet = \"200ms\"\nafter_ack = \"delete\"\n",
        source.display()
    );
    let script = "id -u; echo error >&2; touch \"$SPOOLBEAT_STATE_DIR/mine\"\n";
    spool.job("job", &toml, "job.sh", script);
    spool.job("kept", KEPT, "job.sh", "echo $$; sleep 1000\n");
    spool.give_to(NOBODY);
    let check = spool.command(&["check"]);
    assert_eq!(code(&check), 0, "{}", said(&check));
    let made = spool.command(&["new", "fresh", "--language", "sh"]);
    assert_eq!(code(&made), 0, "{}", said(&made));
    spool.start();
    let messages = |job: &str| {
        let events = logstash.events(job);
        let messages: Vec<String> = events
            .iter()
            .map(|event| event["message"].as_str().unwrap_or_default().to_owned())
            .collect();
        messages
    };
    wait_until(SOON, "the script's lines and the file's arrive", || {
        let messages = messages("job");
        ["65534", "error", "from a file"]
            .iter()
            .all(|line| messages.iter().any(|message| message == line))
    });
    wait_until(SOON, "the file is cleaned up after its ACK", || {
        !source.join("a.log").exists()
    });
    wait_until(SOON, "the result is there", || {
        spool.latest_result("job", "stdout") == "65534\n"
    });
    assert_eq!(spool.job_status("job")["user"], "65534");
    let again = spool.command(&["trigger", "job", "--wait"]);
    assert_eq!(code(&again), 0, "{}", said(&again));
    spool.settings("[defaults]\ntags = [\"new\"]\n");
    let reload = spool.command(&["reload"]);
    assert_eq!(code(&reload), 0, "{}", said(&reload));
    let verify = spool.command(&["queue", "verify"]);
    assert_eq!(code(&verify), 0, "{}", said(&verify));
    await_state(&spool, "kept", "running");
    // The new defaults have made another generation, and so another run, of it.
    wait_until(SOON, "the one that goes on says who it is", || {
        let last = logstash.lines("kept").pop();
        last.is_some_and(|pid| crate::harness::lives(&pid))
    });
    spool.stop();
    let pid = logstash.lines("kept").pop().unwrap();
    assert!(!crate::harness::lives(&pid), "{pid}");
    assert_eq!(spool.last_words()["labels"]["waiting_events"], 0);
}

#[test]
fn heartbeats_and_overdue_jobs_are_events_and_the_accounts_hold() {
    let logstash = Logstash::new(Keep::Events);
    let mut spool = Spool::new(logstash.port());
    spool.settings("[heartbeat]\nevery = \"1s\"\n[startup]\nrequire_output = true\n");
    let toml = "[script]\nrun = \"job.sh\"\n[schedule]\nevery = \"300ms\"\nexpect_every = \"1s\"\n";
    let script = "[ -e \"$SPOOLBEAT_STATE_DIR/go\" ]\n";
    spool.job("fails", toml, "job.sh", script);
    spool.start();
    wait_until(SOON, "the daemon says that a job is overdue", || {
        notices(&logstash, "job-overdue").len() == 1
    });
    assert_eq!(
        notices(&logstash, "job-overdue")[0]["job"]["about"],
        "fails"
    );
    assert_eq!(spool.job_status("fails")["overdue"], true);
    fs::write(spool.root().join("state/fails/data/go"), "").unwrap();
    wait_until(SOON, "and that it succeeds again", || {
        notices(&logstash, "job-on-time").len() == 1
    });
    wait_until(SOON, "and that it lives", || {
        notices(&logstash, "heartbeat").len() > 2
    });
    let table = spool.command(&["status"]);
    assert!(said(&table).contains("fails"), "{}", said(&table));
    let totals = spool.status()["totals"].clone();
    let sum = |keys: [&str; 2]| {
        let value = |key: &str| totals["sources"][key].as_u64().unwrap();
        value(keys[0]) + value(keys[1])
    };
    assert_eq!(
        totals["captured_events"],
        sum(["framed", "created"]),
        "{totals}"
    );
    spool.stop();
    wait_until(SOON, "the last one says that it stops", || {
        let last = notices(&logstash, "heartbeat").pop().unwrap();
        last["service"]["state"] == "stopped"
    });
    assert_eq!(
        notices(&logstash, "heartbeat")[0]["service"]["state"],
        "started"
    );
    assert_eq!(spool.last_words()["labels"]["waiting_events"], 0);
}

#[test]
fn a_job_may_not_have_the_name_of_the_daemons_own_events() {
    let spool = Spool::new(1);
    spool.job("spoolbeat", MANUAL, "job.sh", "");
    let output = spool.command(&["check"]);
    assert_eq!(code(&output), 78);
    assert!(
        said(&output).contains("choose another one"),
        "{}",
        said(&output)
    );
}

#[test]
fn a_control_socket_that_is_removed_comes_back_and_the_lock_keeps_others_out_meanwhile() {
    let logstash = Logstash::new(Keep::Events);
    let mut spool = Spool::new(logstash.port());
    spool.start();
    wait_until(SOON, "the daemon can be asked", || {
        !spool.status().is_null()
    });
    fs::remove_file(spool.root().join("state/control.sock")).unwrap();
    let second = spool.command(&["run"]);
    assert!(!second.status.success());
    let told = said(&second);
    assert!(told.contains("another daemon runs on"), "{told}");
    wait_until(SOON, "the daemon can be asked again", || {
        !spool.status().is_null()
    });
    assert_eq!(spool.said_of("the control socket was removed"), 1);
    spool.stop();
}
