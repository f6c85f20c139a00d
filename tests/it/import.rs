//! A Scriptable Beat that moves in: imported, checked and run by the real binary.

#![expect(clippy::unwrap_used, reason = "tests")]

use std::collections::BTreeSet;
use std::fs;
use std::time::Duration;
use std::time::Instant;

use crate::harness::Keep;
use crate::harness::Logstash;
use crate::harness::SOON;
use crate::harness::Spool;
use crate::harness::said;
use crate::harness::wait_until;
use crate::slow;

/// A configuration as Scriptable Beat's own template has it, before this server.
fn configuration(port: u16, language: &str, scripts: &str, data_stream: &str) -> String {
    format!(
        "scriptablebeat:
  beatIdentifier: edge
  heartbeatdisabled: true
  language: {language}
  required_modules: []
  scripts:
{scripts}
  scheduler:
    frequency: \"1s\"
    run_mode: keep_running
  data_stream:
    format: text
    capture:
      first_run: false
      startup_run: true
      scheduled_run: true
    moniror_sources: [stdout, stderr, files]
    stdout:
      report_as_log_in_stream: true
    stderr:
      report_as_error_in_stream: true
{data_stream}
output:
  logstash:
    hosts: [\"127.0.0.1:{port}\"]
    ssl_enable: false
    timeout: 30
"
    )
}

/// A root with the imported job `edge` and what `import` says belongs into spoolbeat.toml.
fn import(yaml: &str) -> Spool {
    let spool = Spool::with_settings("");
    let toml = spool.root().join("spoolbeat.toml");
    let none = "[output.lumberjack]\nhosts = [\"127.0.0.1:1\"]\n";
    fs::write(&toml, none).unwrap();
    let file = spool.root().join("scriptablebeat.yml");
    fs::write(&file, yaml).unwrap();
    let (root, file) = (spool.root(), file.to_str().unwrap().to_owned());
    let imported = spool.command(&["import", &file, "--into", root.to_str().unwrap()]);
    assert_eq!(imported.status.code(), Some(0), "{}", said(&imported));
    let report = said(&imported);
    let settings = report.lines().filter_map(|line| line.strip_prefix("    "));
    let settings: Vec<&str> = settings.collect();
    fs::write(&toml, settings.join("\n")).unwrap();
    spool.settings("\n[spool]\nsettle = \"100ms\"\n");
    let checked = spool.command(&["check"]);
    assert_eq!(checked.status.code(), Some(0), "{}", said(&checked));
    spool
}

#[test]
fn an_imported_scriptable_beat_goes_the_same_way_to_its_schedule() {
    let logstash = Logstash::new(Keep::Events);
    let scripts = "    first_run: |
      open('marker', 'w').write('it is set up')
    startup_run: |
      print('warm:', open('marker').read())
    scheduled_run: |
      import sys
      print('tick ${HOME}')
      print('oops', file=sys.stderr)";
    let spool = import(&configuration(logstash.port(), "python", scripts, ""));
    let root = spool.root();
    let once = spool.command(&["run", root.to_str().unwrap(), "--once"]);
    assert_eq!(once.status.code(), Some(0), "{}", said(&once));
    let events = logstash.events("edge");
    let texts = |key: &str| -> Vec<&str> {
        let printed = events
            .iter()
            .filter(|event| event["event"]["kind"].is_null());
        printed.filter_map(|event| event[key].as_str()).collect()
    };
    assert_eq!(texts("message"), ["warm: it is set up", "tick ${HOME}"]);
    assert_eq!(texts("errormessage"), ["oops"]);
    assert!(
        events
            .iter()
            .all(|event| event["fullyqualifiedbeatname"] == "scriptablebeat_edge")
    );
}

/// Lines of the script and of a file are produced while the server is away, at least for `away`.
fn server_goes_away(away: Duration) {
    let mut logstash = Logstash::new(Keep::Events);
    let scripts = "    scheduled_run: |
      n=$(cat n || echo 0)
      for i in 1 2 3; do n=$((n + 1)); echo \"line $n\"; done
      echo $n > n";
    let harvested = tempfile::tempdir().unwrap();
    let file = harvested.path().join("a.log");
    let files = format!(
        "    files:\n      paths: [\"{}/*.log\"]\n      after_reading: delete",
        harvested.path().display()
    );
    let mut spool = import(&configuration(logstash.port(), "bash", scripts, &files));
    spool.start();
    wait_until(SOON, "lines arrive", || !logstash.events("edge").is_empty());
    logstash.close();
    let went = Instant::now();
    let in_file: Vec<String> = (1..=1000)
        .map(|line| format!("in the file {line}"))
        .collect();
    fs::write(&file, in_file.join("\n") + "\n").unwrap();
    wait_until(away + SOON, "runs go on and the file is read", || {
        let job = spool.job_status("edge");
        let runs = job["runs"]["success"].as_u64().unwrap_or(0);
        went.elapsed() >= away && runs >= 4 && job["files"]["waiting_releases"] == 1
    });
    assert!(file.exists(), "nothing has acknowledged it");
    logstash.open();
    wait_until(SOON, "the file goes with the acknowledgement", || {
        !file.exists()
    });
    let paused = spool.command(&["pause", "edge"]);
    assert_eq!(paused.status.code(), Some(0), "{}", said(&paused));
    wait_until(SOON, "no run goes on", || {
        spool.job_status("edge")["state"] == "paused"
    });
    spool.stop();
    let printed = fs::read_to_string(spool.root().join("state/edge/data/n")).unwrap();
    let printed: u32 = printed.trim().parse().unwrap();
    let of_runs = (1..=printed).map(|line| format!("line {line}"));
    let wanted: BTreeSet<String> = of_runs.chain(in_file).collect();
    let events = logstash.events("edge");
    let arrived = events
        .iter()
        .filter(|event| event["event"]["kind"].is_null());
    let arrived = arrived.filter_map(|event| event["message"].as_str().map(str::to_owned));
    assert_eq!(arrived.collect::<BTreeSet<_>>(), wanted);
}

#[test]
fn while_the_server_is_away_every_line_waits_and_files_stay_until_the_ack() {
    server_goes_away(Duration::ZERO);
}

#[test]
fn after_20_seconds_without_a_server_every_line_arrives_and_files_stayed_until_the_ack() {
    if slow::skipped("after_20_seconds_without_a_server_every_line_arrives") {
        return;
    }
    server_goes_away(Duration::from_secs(20));
}

#[test]
fn a_job_that_is_there_is_never_changed_by_an_import() {
    let spool = import(&configuration(1, "bash", "    scheduled_run: echo one", ""));
    let script = spool.root().join("jobs/edge/run.sh");
    let before = fs::read_to_string(&script).unwrap();
    let file = spool.root().join("scriptablebeat.yml");
    let yaml = configuration(1, "bash", "    scheduled_run: echo two", "");
    fs::write(&file, yaml).unwrap();
    let again = spool.command(&["import", file.to_str().unwrap()]);
    assert_eq!(again.status.code(), Some(73), "{}", said(&again));
    assert!(said(&again).contains("--name edge-new"), "{}", said(&again));
    let dry = spool.command(&["import", file.to_str().unwrap(), "--name", "b", "--dry-run"]);
    assert!(said(&dry).contains("    echo two"), "{}", said(&dry));
    assert!(!spool.root().join("jobs/b").exists());
    assert_eq!(fs::read_to_string(&script).unwrap(), before);
}
