//! The names in JSON are a promise to scripts, the table is one to people.
#![expect(clippy::unwrap_used, reason = "tests")]

use super::*;
use crate::queue::Counters;

fn at(ms: i64) -> At {
    At(Timestamp(1_763_712_488_000 + ms))
}

fn sample() -> Status {
    Status {
        daemon: Daemon {
            version: "0.1.0".to_owned(),
            pid: 42,
            root: "/srv/spool".to_owned(),
            started_at: at(0),
            uptime_ms: 61_000,
            state: DaemonState::Running,
            paused: None,
            unreadable: None,
            settings_problems: Vec::new(),
            needs_restart: vec!["[queue]".to_owned()],
            notices_dropped: 0,
        },
        totals: Totals {
            captured_events: 1200,
            acked_events: 1000,
            waiting_events: 200,
            lost_events: 0,
            deliveries: Deliveries::NONE,
            sources: Counters {
                framed: 1190,
                created: 10,
                bytes_read: 5000,
                bytes_framed: 5000,
                ..Counters::default()
            },
        },
        queue: Queue {
            held_bytes: 1 << 20,
            waiting_bytes: 1 << 20,
            max_bytes: 10 << 20,
            total_bytes: 3 << 20,
            free_bytes: Some(1 << 30),
            reserve_bytes: 1 << 26,
            quarantined: 0,
            quarantined_bytes: 0,
            lost_cursors: Vec::new(),
            quarantine_removed: 0,
            broken: None,
        },
        outputs: vec![Output {
            tls: "off".to_owned(),
            name: "lumberjack".to_owned(),
            state: "connected".to_owned(),
            host: "127.0.0.1:5044".to_owned(),
            before_events: 0,
            acked_events: 1000,
            waiting_events: 200,
            not_mine_events: 0,
            damaged_events: 0,
            set_aside_events: 0,
            dropped_events: 0,
            skipped_events: 0,
            waiting_files: 0,
            in_flight_windows: 1,
            windows: 7,
            connections: 2,
            last_error: None,
            hosts: Vec::new(),
        }],
        jobs: vec![Job {
            source: None,
            name: "disk".to_owned(),
            state: JobState::Idle,
            generation: Some("00c0ffee00c0ffee".to_owned()),
            running: Vec::new(),
            last_run: Some(LastRun {
                run: RunId::from_text("20251121-080808.000-00000001"),
                outcome: Outcome::Failed,
                reason: Some("exit code 3 \x1b[31m".to_owned()),
                started_at: at(0),
                ended_at: at(1_200),
                duration_ms: 1_200,
            }),
            next_at: Some(at(10_000)),
            last_success_at: None,
            runs: Outcomes {
                failed: 2,
                success: 1,
                ..Outcomes::default()
            },
            captured_events: 1200,
            files: None,
            on_result: Some(OnResult {
                plugin: "webhook".to_owned(),
                counts: Deliveries {
                    delivered: 1,
                    retried: 4,
                    failed: 2,
                    ..Deliveries::NONE
                },
                last_error: Some("exit code 3".to_owned()),
            }),
            skipped_ticks: 4,
            waiting_runs: 0,
            restarts: 0,
            stretch: 1,
            preparation: None,
            overdue: false,
            user: Some("idp".to_owned()),
            notes: vec!["limits.cpu is not enforced: no controller".to_owned()],
            problems: vec![Problem {
                file: "jobs/disk/job.toml".to_owned(),
                line: 12,
                column: 9,
                key: "schedule.every".to_owned(),
                message: "`30\x1b[31m` is not a duration; write one like 30s".to_owned(),
            }],
        }],
    }
}

#[test]
fn the_json_names_are_stable() {
    let expected = serde_json::json!({
        "daemon": {
            "version": "0.1.0", "pid": 42, "root": "/srv/spool",
            "started_at": "2025-11-21T08:08:08.000Z", "uptime_ms": 61000,
            "state": "running", "paused": null, "unreadable": null,
            "settings_problems": [], "needs_restart": ["[queue]"], "notices_dropped": 0,
        },
        "totals": {
            "captured_events": 1200, "acked_events": 1000, "waiting_events": 200,
            "lost_events": 0,
            "deliveries": { "waiting": 0, "delivered": 0, "retried": 0, "failed": 0, "dropped": 0 },
            "sources": {
                "framed": 1190, "created": 10, "bytes_read": 5000, "bytes_framed": 5000,
                "bytes_cut": 0, "lines_cut": 0, "joined_cut": 0,
            },
        },
        "queue": {
            "held_bytes": 1_048_576, "waiting_bytes": 1_048_576, "max_bytes": 10_485_760, "total_bytes": 3_145_728,
            "free_bytes": 1_073_741_824, "reserve_bytes": 67_108_864, "quarantined": 0, "quarantined_bytes": 0,
            "quarantine_removed": 0, "lost_cursors": [], "broken": null,
        },
        "outputs": [{
            "name": "lumberjack", "state": "connected", "host": "127.0.0.1:5044",
            "tls": "off",
            "before_events": 0, "acked_events": 1000, "waiting_events": 200, "not_mine_events": 0,
            "damaged_events": 0, "set_aside_events": 0, "dropped_events": 0, "skipped_events": 0,
            "waiting_files": 0,
            "in_flight_windows": 1, "windows": 7,
            "connections": 2, "last_error": null, "hosts": [], "tls": "off",
        }],
        "jobs": [{
            "name": "disk", "state": "idle", "generation": "00c0ffee00c0ffee", "running": [],
            "last_run": {
                "run": "20251121-080808.000-00000001", "outcome": "failed",
                "reason": "exit code 3 \u{1b}[31m", "started_at": "2025-11-21T08:08:08.000Z",
                "ended_at": "2025-11-21T08:08:09.200Z", "duration_ms": 1200,
            },
            "next_at": "2025-11-21T08:08:18.000Z", "last_success_at": null,
            "runs": {
                "success": 1, "failed": 2, "signalled": 0, "oom": 0, "timed_out": 0, "killed": 0,
                "interrupted": 0, "could_not_start": 0,
            },
            "captured_events": 1200, "skipped_ticks": 4,
            "on_result": {
                "plugin": "webhook", "waiting": 0, "delivered": 1, "retried": 4, "failed": 2,
                "dropped": 0, "last_error": "exit code 3",
            },
            "waiting_runs": 0, "restarts": 0, "stretch": 1, "preparation": null, "overdue": false,
            "user": "idp", "notes": ["limits.cpu is not enforced: no controller"],
            "problems": [{
                "file": "jobs/disk/job.toml", "line": 12, "column": 9, "key": "schedule.every",
                "message": "`30\u{1b}[31m` is not a duration; write one like 30s",
            }],
        }],
    });
    let status = sample();
    assert_eq!(serde_json::to_value(&status).unwrap(), expected);
    assert_eq!(
        serde_json::from_value::<Status>(expected).unwrap(),
        status,
        "it reads back"
    );
}

#[test]
fn lines_that_were_too_long_and_joined_ones_that_were_too_many_are_told_apart() {
    for (lines_cut, joined_cut, told) in [
        (
            3,
            0,
            "  3 lines were longer than max_event: 2.0 KiB were cut off\n",
        ),
        (
            3,
            3,
            "  3 events were joined of more than max_lines lines: 2.0 KiB were cut off\n",
        ),
        (
            3,
            1,
            "  2 lines were longer than max_event, 1 event was joined of more than max_lines lines: 2.0 KiB were cut off\n",
        ),
    ] {
        let mut status = sample();
        let sources = &mut status.totals.sources;
        (sources.lines_cut, sources.joined_cut, sources.bytes_cut) = (lines_cut, joined_cut, 2048);
        let text = show(&status, at(5_200).0, Look::Plain);
        assert!(text.contains(told), "{text}");
    }
}

#[test]
fn what_waits_only_for_outputs_that_do_not_hold_the_queue_is_shown() {
    let mut status = sample();
    status.queue.held_bytes = 0;
    let text = show(&status, at(5_200).0, Look::Plain);
    let expected = "\nqueue: 0 B of 10.0 MiB (0 %), and 1.0 MiB until it is full, for outputs that it does not hold them for\n";
    assert!(text.contains(expected), "{text}");
}

#[test]
fn the_table_begins_with_the_totals_and_ends_with_the_problems_in_full() {
    let text = show(&sample(), at(5_200).0, Look::Plain);
    let expected = "\
events: 1200 captured, 1000 acked, up to 200 waiting
queue: 1.0 MiB of 10.0 MiB (10 %)
daemon: running, spoolbeat 0.1.0, pid 42, up 1m01s, root /srv/spool

OUTPUT      STATE      HOST            ACKED  WAITING    ASIDE  LAST ERROR
lumberjack  connected  127.0.0.1:5044  1000   up to 200  0      -

JOB   STATE  LAST RUN                    NEXT     RUNS  FAILED  EVENTS  SKIPPED
disk  idle   failed 4.0s ago, took 1.2s  in 4.8s  3     2       1200    4

notes:
  disk: limits.cpu is not enforced: no controller

problems:
  spoolbeat.toml: what changed in [queue] holds from the next start of the daemon
  results of disk: plugins/webhook failed: exit code 3 (0 waiting, 2 given up); see on_result.json and on_result.log in results/disk/latest
  jobs/disk/job.toml:12:9: schedule.every: `30\\u{1b}[31m` is not a duration; write one like 30s
";
    assert_eq!(text, expected);
}

#[test]
fn what_became_of_events_adds_up_and_columns_of_zeros_are_left_out() {
    let mut status = sample();
    let output = &mut status.outputs[0];
    (output.not_mine_events, output.dropped_events) = (30, 70);
    let text = show(&status, at(5_200).0, Look::Plain);
    assert!(
        text.contains(
            "\
OUTPUT      STATE      HOST            ACKED  WAITING    NOT FOR IT  ASIDE  DROPPED  LAST ERROR
lumberjack  connected  127.0.0.1:5044  1000   up to 200  30          0      70       -
"
        ),
        "{text}"
    );
}

#[test]
fn each_host_of_a_balanced_output_has_its_row() {
    let mut status = sample();
    let host = |host: &str, state: &str| Host {
        host: host.to_owned(),
        state: state.to_owned(),
        acked_events: 500,
        in_flight_windows: 1,
        last_error: (state == "down").then(|| "gone".to_owned()),
    };
    status.outputs[0].hosts = vec![host("a:5044", "connected"), host("b:5044", "down")];
    let text = show(&status, at(5_200).0, Look::Plain);
    assert!(
        text.contains(
            "\
OUTPUT      STATE      HOST     ACKED  WAITING    ASIDE  LAST ERROR
lumberjack  connected  2 hosts  1000   up to 200  0      -
            connected  a:5044   500                      -
            down       b:5044   500                      gone
"
        ),
        "{text}"
    );
}

#[test]
fn colours_change_no_column_and_nothing_from_outside_reaches_the_terminal() {
    let plain = show(&sample(), at(5_200).0, Look::Plain);
    assert!(!plain.contains('\x1b'));
    let mut coloured = show(&sample(), at(5_200).0, Look::Coloured);
    for code in ["1", "2", "31", "32", "33", "0"] {
        coloured = coloured.replace(&format!("\x1b[{code}m"), "");
    }
    assert_eq!(coloured, plain);
}

#[test]
fn requests_are_lines_that_people_can_write() {
    let request: Request = serde_json::from_str(r#"{"do":"trigger","job":"disk"}"#).unwrap();
    let job = "disk".to_owned();
    assert_eq!(request, Request::Trigger { job });
    assert!(serde_json::from_str::<Request>(r#"{"do":"trigger"}"#).is_err());
    assert_eq!(
        serde_json::to_string(&Request::Status).unwrap(),
        r#"{"do":"status"}"#
    );
}
