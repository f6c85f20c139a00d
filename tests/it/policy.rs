//! What an output does about servers that refuse an event, that share its load, and that should be
//! asked anew from time to time.

#![expect(clippy::unwrap_used, reason = "tests")]

use std::collections::BTreeSet;
use std::fs;

use serde_json::Value;

use crate::harness::Keep;
use crate::harness::Logstash;
use crate::harness::Mode;
use crate::harness::SOON;
use crate::harness::Spool;
use crate::harness::said;
use crate::harness::wait_until;

const ONCE: &str = "[script]\nrun = \"job.sh\"\n[schedule]\nonce = true\n";

/// Prints without end, in small steps.
const STEADY: &str = "n=0; while :; do for i in 1 2 3 4 5 6 7 8 9 10; do n=$((n+1)); echo line $n; done; sleep 0.01; done\n";
const KEEP_RUNNING: &str = "[script]\nrun = \"job.sh\"\n[schedule]\nkeep_running = true\n";

fn output(spool: &Spool) -> Value {
    spool.status()["outputs"][0].clone()
}

#[test]
fn an_event_that_the_server_refuses_is_set_aside_and_all_others_arrive() {
    let logstash = Logstash::new(Keep::Events);
    logstash.answer(Mode::Refuse("poison"));
    let mut spool = Spool::new(logstash.port());
    let script = "for i in $(seq 1 150); do echo line $i; done; echo poison; for i in $(seq 1 150); do echo line $i; done\n";
    spool.job("job", ONCE, "job.sh", script);
    spool.start();
    wait_until(4 * SOON, "the queue is empty", || {
        let status = spool.status();
        status["totals"]["captured_events"] == 303 && status["totals"]["waiting_events"] == 0
    });
    let status = output(&spool);
    assert_eq!(status["set_aside_events"], 1, "{status}");
    assert_eq!(status["acked_events"], 302, "{status}");
    let ids = logstash.acked_ids();
    assert_eq!(ids.len(), 302);
    assert_eq!(ids.iter().collect::<BTreeSet<_>>().len(), 302, "none twice");
    spool.stop();

    let folder = spool.root().join("dead-letter").join("lumberjack");
    let text = fs::read_to_string(folder.join("0000000001.ndjson")).unwrap();
    let letter: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(letter["event"]["message"], "poison");
    assert_eq!(letter["output"], "lumberjack");
    assert_eq!(letter["host"], format!("127.0.0.1:{}", logstash.port()));
    let reason = letter["reason"].as_str().unwrap();
    assert!(
        reason.contains("closed") && reason.contains("alone"),
        "{reason}"
    );
    let root = spool.root();
    let stat = spool.command(&["queue", "stat", root.to_str().unwrap()]);
    assert!(said(&stat).contains("1 set aside"), "{}", said(&stat));
}

#[test]
fn with_loadbalance_both_servers_get_events_and_the_one_that_dies_costs_none() {
    let (mut first, second) = (Logstash::new(Keep::Ids), Logstash::new(Keep::Ids));
    let mut spool = Spool::new(first.port());
    let toml = spool.root().join("spoolbeat.toml");
    let text = fs::read_to_string(&toml).unwrap().replace(
        "hosts = [",
        &format!(
            "loadbalance = true\nbulk_max_size = 20\nhosts = [\"127.0.0.1:{}\", ",
            second.port()
        ),
    );
    fs::write(&toml, text).unwrap();
    spool.job("job", KEEP_RUNNING, "job.sh", STEADY);
    spool.start();
    wait_until(SOON, "both get events", || {
        first.acked_ids().len() > 100 && second.acked_ids().len() > 100
    });
    first.close();
    let before = second.acked_ids().len();
    wait_until(SOON, "the other one goes on", || {
        second.acked_ids().len() > before + 500
    });
    let status = output(&spool);
    let hosts = status["hosts"].as_array().unwrap();
    assert_eq!(hosts.len(), 2, "{status}");
    assert_eq!(status["state"], "connected", "{status}");
    assert_ne!(hosts[1]["state"], "connected", "{status}");
    assert!(!hosts[1]["last_error"].is_null(), "{status}");
    spool.remove("job");
    wait_until(SOON, "all that was captured is acknowledged", || {
        let status = spool.status();
        status["totals"]["waiting_events"] == 0
            && status["jobs"].as_array().is_some_and(Vec::is_empty)
    });
    let captured = spool.status()["totals"]["captured_events"]
        .as_u64()
        .unwrap();
    let mut ids = first.acked_ids();
    ids.extend(second.acked_ids());
    let distinct = ids.iter().collect::<BTreeSet<_>>().len();
    assert_eq!(distinct as u64, captured, "every event arrived");
    spool.stop();
}

#[test]
fn ttl_makes_new_connections_under_load_and_sends_nothing_twice() {
    let logstash = Logstash::new(Keep::Ids);
    let mut spool = Spool::new(logstash.port());
    let toml = spool.root().join("spoolbeat.toml");
    let text = fs::read_to_string(&toml).unwrap().replace(
        "hosts = [",
        "ttl = \"300ms\"\nbulk_max_size = 20\nhosts = [",
    );
    fs::write(&toml, text).unwrap();
    spool.job("job", KEEP_RUNNING, "job.sh", STEADY);
    spool.start();
    wait_until(SOON, "connections are made anew", || {
        logstash
            .windows()
            .last()
            .is_some_and(|last| last.connection >= 5)
    });
    let status = output(&spool);
    assert!(status["last_error"].is_null(), "{status}");
    spool.stop();
    let ids = logstash.acked_ids();
    assert_eq!(ids.len(), ids.iter().collect::<BTreeSet<_>>().len());
    assert_eq!(logstash.count(), ids.len(), "nothing was sent twice");
}
