//! Several outputs on one queue: each gets exactly its events, in order, whatever becomes of the others.

#![expect(clippy::unwrap_used, reason = "tests")]

use std::collections::BTreeSet;
use std::fs;
use std::io::Read;
use std::io::Write;
use std::path::Path;
use std::process::Stdio;

use serde_json::Value;

use crate::harness::Keep;
use crate::harness::Logstash;
use crate::harness::Mode;
use crate::harness::SOON;
use crate::harness::Spool;
use crate::harness::said;
use crate::harness::signal;
use crate::harness::spoolbeat;
use crate::harness::wait_until;

const OFTEN: &str = "[script]\nrun = \"job.sh\"\n[schedule]\nevery = \"100ms\"\n";
const ONCE: &str = "[script]\nrun = \"job.sh\"\n[schedule]\nonce = true\n";

/// The events of a file output, those rotated away first.
pub(crate) fn lines(path: &Path, rotated: u32) -> Vec<Value> {
    let older = (1..=rotated)
        .rev()
        .map(|n| format!("{}.{n}", path.display()));
    let text: String = older
        .chain([path.display().to_string()])
        .filter_map(|path| fs::read_to_string(path).ok())
        .collect();
    assert!(text.is_empty() || text.ends_with('\n'), "half a line");
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

/// What a job printed, as far as it is among these, without those that came twice.
fn messages(events: &[Value], job: &str) -> Vec<String> {
    let mut seen = BTreeSet::new();
    events
        .iter()
        .filter(|event| {
            event["job"]["name"] == job && event["event"]["id"].as_str().unwrap().contains(".o.")
        })
        .filter(|event| seen.insert(event["event"]["id"].as_str().unwrap().to_owned()))
        .map(|event| event["message"].as_str().unwrap().to_owned())
        .collect()
}

#[test]
fn a_file_gets_its_tags_in_order_over_kills_and_rotation() {
    let logstash = Logstash::new(Keep::Events);
    let mut spool = Spool::new(logstash.port());
    spool.settings(
        "[output.archive]\nkind = \"file\"\npath = \"out/a.ndjson\"\nrotate_bytes = \"64KiB\"\nkeep = 1000\ntags = [\"idp.*\", \"!idp.noise\"]\n",
    );
    fs::create_dir(spool.root().join("out")).unwrap();
    let count = "n=$(cat \"$SPOOLBEAT_STATE_DIR/n\" 2>/dev/null || echo 0)\nfor i in 1 2 3 4 5 6 7 8 9 10; do n=$((n+1)); echo $n; done\necho $n > \"$SPOOLBEAT_STATE_DIR/n\"\n";
    let tagged = |tag: &str| format!("tag = \"{tag}\"\n{OFTEN}");
    spool.job("logins", &tagged("idp.logins"), "job.sh", count);
    spool.job("noise", &tagged("idp.noise"), "job.sh", "echo noise\n");
    spool.job("disk", OFTEN, "job.sh", "echo disk\n");
    let path = spool.root().join("out/a.ndjson");
    for _ in 0..3 {
        let before = fs::read_dir(spool.root().join("out")).unwrap().count();
        spool.start();
        wait_until(SOON, "the file is rotated", || {
            fs::read_dir(spool.root().join("out")).unwrap().count() > before
        });
        spool.kill();
        // What a kill in the middle of a write leaves.
        let mut file = fs::OpenOptions::new()
            .append(true)
            .create(true)
            .open(&path)
            .unwrap();
        file.write_all(b"{\"half").unwrap();
    }
    for job in ["logins", "noise", "disk"] {
        spool.remove(job);
    }
    spool.start();
    wait_until(SOON, "all is quiet", || {
        let status = spool.status();
        status["totals"]["waiting_events"] == 0
            && status["jobs"].as_array().is_some_and(Vec::is_empty)
    });
    let events = lines(&path, 1000);
    let numbers: Vec<u64> = messages(&events, "logins")
        .iter()
        .map(|n| n.parse().unwrap())
        .collect();
    assert!(numbers.len() > 50 && numbers.is_sorted(), "{numbers:?}");
    let sent: Vec<String> = logstash.lines("logins");
    assert!(numbers.iter().all(|n| sent.contains(&n.to_string())));
    for foreign in ["noise", "disk", "spoolbeat"] {
        assert!(messages(&events, foreign).is_empty(), "{foreign}");
    }
    let status = spool.status();
    let archive = &status["outputs"][1];
    assert!(archive["not_mine_events"].as_u64() > Some(0), "{archive}");
    assert_eq!(archive["state"], "connected");
    spool.stop();
}

#[test]
fn standard_output_takes_lines_and_its_end_is_no_end_of_the_daemon() {
    let logstash = Logstash::new(Keep::Events);
    let spool = Spool::new(logstash.port());
    spool.settings("[output.stdout]\n");
    spool.job("hello", ONCE, "job.sh", "echo one; echo two\n");
    let root = spool.root();
    let once = spool.command(&["run", "--once", root.to_str().unwrap()]);
    assert!(once.status.success(), "{}", said(&once));
    let text = String::from_utf8(once.stdout).unwrap();
    let events: Vec<Value> = text
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(messages(&events, "hello"), ["one", "two"]);
    assert!(events.iter().all(|event| event["@metadata"].is_object()));

    spool.job("hello", OFTEN, "job.sh", "echo more\n");
    let mut daemon = spoolbeat()
        .arg("run")
        .arg(&root)
        .stdout(Stdio::piped())
        .stderr(fs::File::create(spool.log()).unwrap())
        .spawn()
        .unwrap();
    let mut stdout = daemon.stdout.take().unwrap();
    stdout.read_exact(&mut [0; 10]).unwrap();
    drop(stdout);
    wait_until(SOON, "the output says that its reader is gone", || {
        let said = spool.status()["outputs"][1]["last_error"].to_string();
        said.contains("standard output cannot be written")
    });
    let before = logstash.count();
    wait_until(SOON, "the other output goes on", || {
        logstash.count() > before + 5
    });
    signal("TERM", daemon.id());
    assert_eq!(daemon.wait().unwrap().code(), Some(0));
}

/// That every event captured is somewhere, for each output.
/// Between the record's write and the outputs' look at it, their counts are one commit behind.
fn is_accounted(status: &Value) -> bool {
    let number = |value: &Value| value.as_u64().unwrap();
    let sum_of = |output: &Value| -> u64 {
        let counts = output.as_object().unwrap().iter();
        let events = counts.filter(|(name, _)| name.ends_with("_events"));
        events.map(|(_, value)| number(value)).sum()
    };
    let outputs = status["outputs"].as_array().unwrap();
    let captured = number(&status["totals"]["captured_events"]);
    outputs.iter().all(|output| sum_of(output) == captured)
}

/// What comes to a quiet moment is accounted for.
fn assert_accounted(spool: &Spool) {
    wait_until(SOON, "each output's counts add up", || {
        is_accounted(&spool.status())
    });
}

#[test]
fn a_dead_output_that_is_not_required_gives_up_its_oldest_events_and_holds_up_nobody() {
    let logstash = Logstash::new(Keep::Events);
    let mut dead = Logstash::new(Keep::Events);
    let mut spool = Spool::new(logstash.port());
    spool.settings(&format!(
        "[queue]\nmax_bytes = \"16MiB\"\ncompression_level = 0\n[output.dead]\nkind = \"lumberjack\"\nhosts = [\"127.0.0.1:{}\"]\nrequired = false\nbackoff = {{ init = \"100ms\", max = \"1s\" }}\n",
        dead.port()
    ));
    dead.close();
    let script = "head -c 18000000 /dev/urandom | base64 -w 1000\n";
    spool.job("much", ONCE, "job.sh", script);
    spool.start();
    let mut status = Value::Null;
    wait_until(SOON * 3, "the required output has all", || {
        status = spool.status();
        status["jobs"][0]["last_run"]["outcome"] == "success"
            && status["outputs"][0]["waiting_events"] == 0
    });
    assert_eq!(logstash.lines("much").len(), 24_000);
    assert_accounted(&spool);
    let of_dead = |status: &Value| status["outputs"][1].clone();
    assert!(
        of_dead(&status)["dropped_events"].as_u64() > Some(1000),
        "{status}"
    );
    assert_eq!(status["outputs"][0]["dropped_events"], 0);
    wait_until(SOON, "what waits for it alone is shown", || {
        let queue = &spool.status()["queue"];
        queue["held_bytes"] == 0 && queue["waiting_bytes"].as_u64() > Some(1 << 20)
    });
    spool.kill();
    dead.open();
    spool.start();
    wait_until(SOON * 3, "what was kept for it arrives", || {
        status = spool.status();
        of_dead(&status)["waiting_events"] == 0
    });
    assert_accounted(&spool);
    let lines = dead.lines("much");
    let all = logstash.lines("much");
    assert!(all.ends_with(&lines), "the newest, in order");
    assert!(lines.len() > 1000);
    spool.stop();
    assert_told(&logstash, "dead", "queue-full", 1);
}

/// That the daemon has told what an output missed, not more often than it may: once at first, once a
/// minute, and
/// what is left at the end of each of its `lives`.
fn assert_told(logstash: &Logstash, output: &str, reason: &str, lives: usize) {
    let told = logstash.missed(output, reason);
    assert!(!told.is_empty() && told.len() <= 4 * lives, "{told:?}");
    for one in &told {
        let number = |key: &str| one[key].as_u64().unwrap();
        let span = number("to") + 1 - number("from");
        assert!((1..=span).contains(&number("events")), "{one}");
    }
}

#[test]
fn over_kills_each_output_has_its_own_and_what_an_optional_one_misses_is_counted() {
    let slow = Logstash::new(Keep::Events);
    let mut dead = Logstash::new(Keep::Events);
    let mut spool = Spool::new(slow.port());
    spool.settings(&format!(
        "[queue]\nmax_bytes = \"16MiB\"\ncompression_level = 0\n\
         [output.dead]\nkind = \"lumberjack\"\nhosts = [\"127.0.0.1:{}\"]\nrequired = false\ntags = [\"idp.*\"]\n\
         backoff = {{ init = \"100ms\", max = \"1s\" }}\n\
         [output.archive]\nkind = \"file\"\npath = \"out/a.ndjson\"\ntags = [\"audit.*\"]\n",
        dead.port()
    ));
    fs::create_dir(spool.root().join("out")).unwrap();
    dead.close();
    let (logins, audit) = ("tag = \"idp.logins\"\n", "tag = \"audit.log\"\n");
    let much = "head -c 300000 /dev/urandom | base64 -w 1000\n";
    spool.job("logins", &format!("{logins}{OFTEN}"), "job.sh", much);
    let some = "seq 20\n";
    spool.job("audit", &format!("{audit}{OFTEN}"), "job.sh", some);
    let captured = |status: &Value| status["totals"]["captured_events"].as_u64().unwrap_or(0);
    let mut status = Value::Null;
    for round in 0..4 {
        slow.answer(Mode::Never);
        spool.start();
        let mut before = None;
        wait_until(SOON, "events are captured", || {
            status = spool.status();
            let now = captured(&status);
            now > *before.get_or_insert(now) + 1500
        });
        let arrived = slow.count();
        if round % 2 == 1 {
            slow.answer(Mode::All);
            wait_until(SOON, "events arrive", || slow.count() > arrived + 3000);
        }
        spool.kill();
    }
    slow.answer(Mode::All);
    spool.start();
    let of = |status: &Value, output: usize, key: &str| {
        let count = &status["outputs"][output][key];
        count.as_u64().unwrap_or(0)
    };
    wait_until(SOON * 3, "the queue is full", || {
        status = spool.status();
        let bytes = status["queue"]["total_bytes"].as_u64();
        assert!(bytes <= Some(16 << 20), "{status}");
        of(&status, 1, "dropped_events") > 1000
    });
    spool.job(
        "logins",
        &format!("enabled = false\n{logins}{OFTEN}"),
        "job.sh",
        much,
    );
    spool.job(
        "audit",
        &format!("enabled = false\n{audit}{OFTEN}"),
        "job.sh",
        some,
    );
    wait_until(SOON * 3, "all is quiet", || {
        status = spool.status();
        let over = |job: &Value| {
            job["state"] == "disabled" && job["running"].as_array().is_some_and(Vec::is_empty)
        };
        let jobs = status["jobs"].as_array();
        jobs.is_some_and(|jobs| jobs.len() == 2 && jobs.iter().all(over))
            && of(&status, 0, "waiting_events") + of(&status, 2, "waiting_events") == 0
            && is_accounted(&status)
    });
    assert_eq!(of(&status, 1, "acked_events"), 0, "{status}");
    assert!(of(&status, 1, "waiting_events") > 1000, "{status}");
    for output in [0, 2] {
        assert_eq!(of(&status, output, "dropped_events"), 0, "{status}");
    }
    let captured_of =
        |job: &str| spool.job_status(job)["captured_events"].as_u64().unwrap() as usize;
    let ids = |events: &[Value]| -> BTreeSet<String> {
        let id = |event: &Value| event["event"]["id"].as_str().unwrap().to_owned();
        events.iter().map(id).collect()
    };
    let archive = lines(&spool.root().join("out/a.ndjson"), 0);
    assert!(archive.iter().all(|event| event["job"]["name"] == "audit"));
    assert_eq!(ids(&archive).len(), captured_of("audit"));
    assert_eq!(ids(&archive), ids(&slow.events("audit")));
    assert_eq!(ids(&slow.events("logins")).len(), captured_of("logins"));
    dead.open();
    wait_until(SOON * 3, "what was kept for the dead one arrives", || {
        status = spool.status();
        of(&status, 1, "waiting_events") == 0 && is_accounted(&status)
    });
    let came = ids(&dead.events("logins"));
    assert!(
        dead.windows()
            .iter()
            .flat_map(|window| &window.events)
            .all(|event| event["job"]["name"] == "logins")
    );
    assert!(came.is_subset(&ids(&slow.events("logins"))));
    assert_eq!(came.len() as u64, of(&status, 1, "acked_events"));
    assert_eq!(
        came.len() as u64 + of(&status, 1, "dropped_events"),
        captured_of("logins") as u64,
        "{status}"
    );
    spool.stop();
    assert_told(&slow, "dead", "queue-full", 5);
}

#[test]
fn a_reload_takes_an_output_to_its_new_hosts_without_a_restart_and_loses_nothing() {
    let (old, new) = (Logstash::new(Keep::Events), Logstash::new(Keep::Events));
    let mut spool = Spool::new(old.port());
    spool.settings("[output.archive]\nkind = \"file\"\npath = \"a.ndjson\"\n");
    spool.job("count", OFTEN, "job.sh", "seq 50\n");
    spool.start();
    wait_until(SOON, "events arrive", || old.count() > 200);
    let toml = spool.root().join("spoolbeat.toml");
    let move_to = |from: u16, to: u16| {
        let text = fs::read_to_string(&toml).unwrap();
        let text = text.replace(&format!(":{from}\""), &format!(":{to}\""));
        fs::write(&toml, text).unwrap();
        signal("HUP", spool.pid());
    };
    move_to(old.port(), new.port());
    wait_until(SOON, "events arrive there", || new.count() > 200);
    let here = old.count();
    // This one does not let go of what it has.
    new.answer(Mode::Never);
    let there = new.count();
    wait_until(SOON, "a window is in flight", || new.count() > there);
    move_to(new.port(), old.port());
    wait_until(SOON, "events arrive here again", || {
        old.count() > here + 200
    });
    spool.remove("count");
    let mut status = Value::Null;
    wait_until(SOON, "all is quiet", || {
        status = spool.status();
        status["totals"]["waiting_events"] == 0
            && status["jobs"].as_array().is_some_and(Vec::is_empty)
    });
    assert_accounted(&spool);
    assert_eq!(status["daemon"]["needs_restart"], Value::Array(Vec::new()));
    assert_eq!(
        status["outputs"][0]["host"],
        format!("127.0.0.1:{}", old.port())
    );
    assert_eq!(
        status["outputs"][1]["connections"], 1,
        "others are not touched"
    );
    let acked: Vec<String> = [old.acked_ids(), new.acked_ids()].concat();
    let distinct: BTreeSet<&String> = acked.iter().collect();
    assert_eq!(
        distinct.len(),
        acked.len(),
        "what was acknowledged is not sent again"
    );
    assert_eq!(status["totals"]["captured_events"], acked.len());
    spool.stop();
}

#[test]
fn a_server_that_is_down_holds_nothing_that_is_for_others() {
    let logstash = Logstash::new(Keep::Events);
    let mut down = Logstash::new(Keep::Events);
    down.close();
    let mut spool = Spool::new(logstash.port());
    spool.settings(&format!(
        "[output.idp]\nkind = \"lumberjack\"\nhosts = [\"127.0.0.1:{}\"]\ntags = [\"idp.*\"]\nbackoff = {{ init = \"100ms\", max = \"1s\" }}\n",
        down.port()
    ));
    spool.job("disk", OFTEN, "job.sh", "echo disk\n");
    let passed = |spool: &Spool, more: u64| {
        wait_until(SOON, "what is for others is passed", || {
            let output = &spool.status()["outputs"][1];
            let foreign = output["not_mine_events"].as_u64();
            output["waiting_events"] == 0 && foreign > Some(more)
        });
    };
    spool.start();
    passed(&spool, 20);
    spool.kill();
    spool.start();
    passed(&spool, 40);
    spool.remove("disk");
    let logins = format!("tag = \"idp.logins\"\n{ONCE}");
    spool.job("logins", &logins, "job.sh", "echo one; echo two\n");
    wait_until(SOON, "its own wait", || {
        let output = &spool.status()["outputs"][1];
        output["waiting_events"].as_u64() >= Some(4) && output["last_error"].is_string()
    });
    down.open();
    wait_until(SOON, "and are sent", || down.lines("logins").len() == 2);
    assert_eq!(down.events("disk").len(), 0);
    spool.stop();
}
