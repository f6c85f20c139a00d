//! The limit of open files: raised for the daemon, as it was for scripts, and shared out so that
//! connections and harvested files leave enough for runs, the queue and the control socket.

#![expect(clippy::unwrap_used, reason = "tests")]

use std::fs;
use std::net::TcpStream;
use std::process::Command;

use serde_json::Value;

use crate::harness::Keep;
use crate::harness::Logstash;
use crate::harness::SOON;
use crate::harness::Spool;
use crate::harness::wait_until;

#[test]
fn the_daemon_takes_all_files_that_it_may_have_open_and_scripts_keep_the_usual_number() {
    let logstash = Logstash::new(Keep::Events);
    let mut spool = Spool::new(logstash.port());
    let script = "ulimit -S -n; ulimit -H -n\n";
    let once = "[script]\nrun = \"job.sh\"\nLIMITS\n[schedule]\nonce = true\n";
    spool.job("usual", &once.replace("LIMITS", ""), "job.sh", script);
    let limits = "limits = { open_files = 100 }";
    spool.job("own", &once.replace("LIMITS", limits), "job.sh", script);
    spool.start_within("ulimit -S -n 200; ulimit -H -n 4000");
    for (job, said) in [("usual", "200\n4000\n"), ("own", "100\n100\n")] {
        wait_until(SOON, job, || spool.latest_result(job, "stdout") == said);
    }
    let limits = fs::read_to_string(format!("/proc/{}/limits", spool.pid())).unwrap();
    let of_files = limits
        .lines()
        .find(|line| line.starts_with("Max open files"));
    let numbers: Vec<&str> = of_files.unwrap().split_whitespace().skip(3).collect();
    assert_eq!(numbers[..2], ["4000", "4000"]);
    let log = fs::read_to_string(spool.log()).unwrap();
    assert!(log.contains("\"open_files\":4000"), "{log}");
    spool.stop();
}

#[test]
fn connections_and_files_that_take_all_they_can_get_starve_neither_runs_nor_the_control_socket() {
    let logstash = Logstash::new(Keep::Events);
    let mut spool = Spool::new(logstash.port());
    let often = "[script]\nrun = \"job.sh\"\n[schedule]\nevery = \"100ms\"\n";
    spool.job("runs", often, "job.sh", "echo run\n");
    let listens = "[source.lumberjack]\nlisten = \"127.0.0.1:0\"\nmax_connections = 10000\nmax_connections_per_peer = 10000\n";
    spool.job("beats", listens, "README", "");
    let files = spool.root().join("files");
    fs::create_dir(&files).unwrap();
    for n in 0..300 {
        fs::write(files.join(format!("{n}.log")), format!("{n}\n")).unwrap();
    }
    let reads = format!(
        "[[files]]\npaths = [\"{}/*.log\"]\nscan = \"100ms\"\n",
        files.display()
    );
    spool.job("reads", &reads, "README", "");
    spool.start_within("ulimit -n 256");
    let source = |spool: &Spool| spool.job_status("beats")["source"].clone();
    wait_until(SOON, "it listens", || {
        source(&spool)["state"] == "listening"
    });
    let address = source(&spool)["listen"].as_str().unwrap().to_owned();
    let connections: Vec<TcpStream> = (0..300)
        .map(|_| TcpStream::connect(&address).unwrap())
        .collect();
    wait_until(SOON, "a quarter of what may be open is connections", || {
        let source = source(&spool);
        source["open_connections"] == 64 && source["turned_away_connections"] == 236
    });
    assert_eq!(source(&spool)["unaccepted"], 0);
    let ran = |spool: &Spool| spool.job_status("runs")["runs"].clone();
    let before = ran(&spool)["success"].as_u64().unwrap();
    wait_until(SOON, "runs go on", || {
        ran(&spool)["success"].as_u64().unwrap() >= before + 5
    });
    assert_eq!(ran(&spool)["could_not_start"].as_u64().unwrap_or(0), 0);
    wait_until(SOON, "all files are read", || {
        let lines = logstash.events("reads");
        lines
            .iter()
            .filter(|event| event.get("message").is_some())
            .count()
            == 300
    });
    let open: Value = spool.job_status("reads")["files"]["open"].clone();
    assert!(open.as_u64().unwrap() <= 33, "{open}");
    let log = fs::read_to_string(spool.log()).unwrap();
    assert!(log.contains("LimitNOFILE"), "{log}");
    drop(connections);
    wait_until(SOON, "there is room again", || {
        source(&spool)["open_connections"] == 0
    });
    assert!(TcpStream::connect(&address).is_ok());
    wait_until(SOON, "and it is taken", || {
        source(&spool)["open_connections"].as_u64() <= Some(1)
    });
    spool.stop();
}

#[test]
fn a_connection_that_cannot_be_accepted_waits_is_counted_and_told_once() {
    let logstash = Logstash::new(Keep::Events);
    let mut spool = Spool::new(logstash.port());
    let listens = "[source.lumberjack]\nlisten = \"127.0.0.1:0\"\n";
    spool.job("beats", listens, "README", "");
    spool.start();
    let source = |spool: &Spool| spool.job_status("beats")["source"].clone();
    wait_until(SOON, "it listens", || {
        source(&spool)["state"] == "listening"
    });
    let address = source(&spool)["listen"].as_str().unwrap().to_owned();
    let limit = |soft: &str| {
        let pid = spool.pid().to_string();
        let set = Command::new("prlimit")
            .args(["--pid", &pid, &format!("--nofile={soft}:")])
            .status();
        assert!(set.unwrap().success());
    };
    let told = || {
        let log = fs::read_to_string(spool.log()).unwrap();
        log.matches("cannot accept connections").count()
    };
    limit("3");
    let connection = TcpStream::connect(&address).unwrap();
    wait_until(SOON, "it is told", || told() == 1);
    limit("100");
    wait_until(SOON, "it is accepted", || {
        let source = source(&spool);
        source["open_connections"] == 1 && source["problem"].is_null()
    });
    assert!(source(&spool)["unaccepted"].as_u64().unwrap() > 0);
    assert_eq!(told(), 1);
    drop(connection);
    spool.stop();
}
