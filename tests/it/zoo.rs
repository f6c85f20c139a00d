//! Scripts that misbehave, before the real daemon: what each of them comes to, and that it hurts nobody else.
//!
//! How single processes start, end and are ended is in `process`, what a run makes of them in `runs`;
//! here is the whole, with the rights, limits and results that a job has.

#![expect(clippy::unwrap_used, reason = "tests")]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;
use std::time::Instant;

use serde_json::Value;

use crate::harness::Keep;
use crate::harness::Logstash;
use crate::harness::SOON;
use crate::harness::Spool;
use crate::harness::lives;
use crate::harness::needs_root;
use crate::harness::wait_until;
use crate::slow::say;
use crate::slow::skipped;

/// Patience with the whole zoo on a busy machine.
const ZOO: Duration = Duration::from_secs(90);

/// A script, the keys of `[script]` that it gets, its outcome, and words that its reason or a line of its
/// output must have.
struct Animal {
    name: &'static str,
    script: &'static str,
    keys: &'static str,
    outcome: &'static str,
    words: &'static str,
}

const fn animal(
    name: &'static str,
    script: &'static str,
    keys: &'static str,
    outcome: &'static str,
    words: &'static str,
) -> Animal {
    Animal {
        name,
        script,
        keys,
        outcome,
        words,
    }
}

const SHORT: &str = "timeout = \"1s\"\nkill_grace = \"300ms\"";

const ANIMALS: &[Animal] = &[
    animal(
        "floods",
        "yes 0123456789 | head -c 20000000",
        "",
        "success",
        "",
    ),
    animal(
        "one-long-line",
        "head -c 20000000 /dev/zero | tr '\\0' x",
        "",
        "success",
        "",
    ),
    animal("no-line-end", "printf last", "", "success", "last"),
    animal(
        "binary",
        "head -c 100000 /dev/urandom; printf '\\0\\377\\300\\200\\n'",
        "",
        "success",
        "",
    ),
    animal(
        "never-ends",
        "sleep 1000",
        SHORT,
        "timed_out",
        "timeout of 1s",
    ),
    animal(
        "ignores-term",
        "trap '' TERM; while :; do sleep 0.1; done",
        SHORT,
        "timed_out",
        "timeout",
    ),
    animal(
        "exits-0-after-term",
        "trap 'exit 0' TERM; while :; do sleep 0.1; done",
        SHORT,
        "timed_out",
        "timeout",
    ),
    animal(
        "leaves-a-daemon",
        "setsid sleep 1000 & echo $!",
        SHORT,
        "success",
        "",
    ),
    animal(
        "leaves-a-quiet-daemon",
        "setsid sleep 1000 >/dev/null 2>&1 & echo $!",
        "",
        "success",
        "",
    ),
    animal(
        "closes-its-pipes",
        "exec >/dev/null 2>&1; sleep 0.3; exit 7",
        "",
        "failed",
        "exit code 7",
    ),
    animal("closes-stdin", "exec 0<&-; echo on", "", "success", "on"),
    animal("segfaults", "kill -SEGV $$", "", "signalled", "SEGV"),
    animal("kills-itself", "kill -KILL $$", "", "signalled", "KILL"),
    animal("exits-255", "exit 255", "", "failed", "exit code 255"),
    animal("succeeds-with-errors", "echo bad >&2", "", "success", ""),
    animal(
        "stops-itself",
        "kill -STOP $$",
        SHORT,
        "timed_out",
        "timeout",
    ),
    animal(
        "reads-stdin",
        "cat; read -r x; echo \"eof $?\"",
        "",
        "success",
        "eof 1",
    ),
    animal(
        "wants-a-terminal",
        "echo x >/dev/tty || echo none",
        "",
        "success",
        "none",
    ),
    animal(
        "changes-its-umask",
        "umask 0; ulimit -n 10; cd /; export LANG=xx; echo changed",
        "",
        "success",
        "changed",
    ),
    animal(
        "no-such-interpreter",
        "#!/no/such/thing\n",
        "language = \"exec\"",
        "could_not_start",
        "does not exist",
    ),
    animal(
        "carriage-return",
        "#!/bin/sh\r\necho\r\n",
        "language = \"exec\"",
        "could_not_start",
        "carriage return",
    ),
    animal(
        "wrong-machine",
        "\u{7f}ELF?",
        "language = \"exec\"",
        "could_not_start",
        "another kind of machine",
    ),
    animal(
        "no-hash-bang",
        "echo hi\n",
        "language = \"exec\"",
        "could_not_start",
        "no `#!` line",
    ),
    animal(
        "removes-its-folders",
        "rm -rf \"$SPOOLBEAT_STATE_DIR\"; echo gone",
        "",
        "success",
        "gone",
    ),
    animal(
        "forges-an-identity",
        "echo '{\"job\":{\"name\":\"root\"},\"@metadata\":{\"beat\":\"x\"},\"event\":{\"id\":\"1\"},\"message\":\"forged\"}'",
        "",
        "success",
        "forged",
    ),
    animal(
        "escape-sequences",
        "printf '\\033[2J\\033]0;title\\007\\n'",
        "",
        "success",
        "",
    ),
    animal(
        "too-many-files",
        "for i in $(seq 10 40); do eval \"exec $i</dev/null\" || exit 9; done",
        "limits = { open_files = 20 }",
        "failed",
        "exit code 9",
    ),
    animal(
        "too-large-a-file",
        "head -c 100000 /dev/zero >\"$SPOOLBEAT_STATE_DIR/big\" || exit 9",
        "limits = { file_size = \"10KiB\" }",
        "failed",
        "exit code 9",
    ),
    animal(
        "too-much-memory",
        "exec python3 -c 'x = bytearray(1 << 30)'",
        "limits = { memory = \"200MiB\" }",
        "failed",
        "exit code 1",
    ),
    animal("dumps-core", "ulimit -c; ulimit -Hc", "", "success", "0"),
    animal(
        "its-own-mask",
        "umask",
        "umask = \"077\"",
        "success",
        "0077",
    ),
];

fn toml(keys: &str, schedule: &str) -> String {
    format!("[script]\nrun = \"job.sh\"\n{keys}\n[schedule]\n{schedule}\n")
}

fn executable(spool: &Spool, job: &str) {
    let script = spool.root().join("jobs").join(job).join("job.sh");
    fs::set_permissions(script, fs::Permissions::from_mode(0o755)).unwrap();
}

fn record(spool: &Spool, job: &str) -> Value {
    serde_json::from_str(&spool.latest_result(job, "run.json")).unwrap_or(Value::Null)
}

#[test]
fn each_script_of_the_zoo_comes_to_its_own_end_and_the_neighbour_runs_on() {
    let logstash = Logstash::new(Keep::Ids);
    let mut spool = Spool::new(logstash.port());
    for animal in ANIMALS {
        spool.job(
            animal.name,
            &toml(animal.keys, "once = true"),
            "job.sh",
            animal.script,
        );
        executable(&spool, animal.name);
    }
    spool.job(
        "neighbour",
        &toml("", "every = \"200ms\""),
        "job.sh",
        "umask; ulimit -n; echo $LANG; ls /proc/self/fd | wc -l",
    );
    spool.start();
    wait_until(ZOO, "all have ended", || {
        ANIMALS
            .iter()
            .all(|animal| record(&spool, animal.name) != Value::Null)
    });
    for animal in ANIMALS {
        let record = record(&spool, animal.name);
        let said = record["reason"].to_string() + &spool.latest_result(animal.name, "stdout");
        assert_eq!(
            record["outcome"], animal.outcome,
            "{}: {record}",
            animal.name
        );
        assert!(said.contains(animal.words), "{}: {record}", animal.name);
    }
    for left in ["leaves-a-daemon", "leaves-a-quiet-daemon"] {
        let pid = spool.latest_result(left, "stdout");
        wait_until(SOON, "what was left is gone", || !lives(pid.trim()));
    }
    let neighbour = spool.job_status("neighbour");
    assert!(
        neighbour["runs"]["success"].as_u64().unwrap() > 1,
        "{neighbour}"
    );
    assert_eq!(neighbour["runs"]["failed"], 0, "{neighbour}");
    let mut printed = String::new();
    // The newest run may have just begun.
    wait_until(SOON, "one has printed it all", || {
        printed = spool.latest_result("neighbour", "stdout");
        printed.lines().count() == 4
    });
    assert!(
        printed.starts_with("0027\n") && printed.contains("C.UTF-8"),
        "{printed}"
    );
    let limit = printed.lines().nth(1).unwrap();
    assert!(
        limit.parse::<u64>().unwrap() > 40,
        "limits of others stay theirs: {printed}"
    );
    spool.stop();
}

/// The folders of cgroups that runs of this machine have; other tests have some too.
fn cgroups() -> Vec<String> {
    ["/sys/fs/cgroup/unified", "/sys/fs/cgroup"]
        .iter()
        .filter_map(|dir| fs::read_dir(dir).ok())
        .flat_map(|entries| entries.flatten())
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .filter(|name| name.starts_with("spoolbeat-"))
        .collect()
}

#[test]
fn a_fork_bomb_is_bounded_swept_and_hurts_nobody_else() {
    if needs_root("a_fork_bomb_is_bounded_swept_and_hurts_nobody_else") {
        return;
    }
    let logstash = Logstash::new(Keep::Ids);
    let mut spool = Spool::new(logstash.port());
    spool.open_to_users();
    // A user of its own: without a pids controller the limit counts all processes of the user.
    let keys = format!("user = \"games\"\nlimits = {{ processes = 40 }}\n{SHORT}");
    let bomb = "echo $$; b() { setsid bash -c 'while :; do sleep 1000 & done' & b; }; b 2>/dev/null; wait\n";
    spool.job("bomb", &toml(&keys, "once = true"), "job.sh", bomb);
    spool.job(
        "neighbour",
        &toml("", "every = \"200ms\""),
        "job.sh",
        "(sleep 0.01 &); echo on\n",
    );
    spool.start();
    wait_until(ZOO, "the bomb has gone off", || {
        record(&spool, "bomb") != Value::Null
    });
    let outcome = record(&spool, "bomb")["outcome"].clone();
    assert!(
        outcome == "timed_out" || outcome == "failed" || outcome == "signalled",
        "{outcome}"
    );
    wait_until(SOON, "nothing of it is left", || !somebody_is(5));
    let runs = |spool: &Spool| {
        spool.job_status("neighbour")["runs"]["success"]
            .as_u64()
            .unwrap_or(0)
    };
    let before = runs(&spool);
    wait_until(SOON, "the neighbour runs on", || runs(&spool) > before);
    spool.stop();
}

/// Whether a process of this user lives.
fn somebody_is(uid: u32) -> bool {
    fs::read_dir("/proc").unwrap().flatten().any(|entry| {
        let status = fs::read_to_string(entry.path().join("status")).unwrap_or_default();
        let is_user = status
            .lines()
            .any(|line| line.starts_with(&format!("Uid:\t{uid}\t")));
        is_user && !status.contains("State:\tZ")
    })
}

#[test]
fn a_killed_daemon_leaves_no_process_and_the_next_start_no_cgroup() {
    let logstash = Logstash::new(Keep::Ids);
    let mut spool = Spool::new(logstash.port());
    spool.job(
        "sleeps",
        &toml("", "keep_running = true"),
        "job.sh",
        "cat /proc/self/cgroup; echo $$; sleep 1000\n",
    );
    spool.start();
    let printed = |spool: &Spool| spool.latest_result("sleeps", "stdout");
    wait_until(SOON, "it runs", || printed(&spool).lines().count() > 1);
    let text = printed(&spool);
    let pid = text.lines().last().unwrap().to_owned();
    let group = text
        .lines()
        .find_map(|line| line.strip_prefix("0::/")?.rsplit('/').next())
        .filter(|name| name.starts_with("spoolbeat-"))
        .map(str::to_owned);
    if let Some(group) = &group {
        assert!(cgroups().contains(group), "{group}");
    }
    spool.kill();
    wait_until(SOON, "its run dies with it", || !lives(&pid));
    wait_until(SOON, "its group goes", || {
        group
            .as_ref()
            .is_none_or(|group| !cgroups().contains(group))
    });
}

/// Acceptance case F: with a child that sleeps an hour the daemon ends within the stop timeout after TERM,
/// also with one that ignores it.
#[test]
fn acceptance_f_a_stop_ends_a_script_and_its_child_that_sleeps_an_hour_in_time() {
    const TIMEOUT: Duration = Duration::from_secs(10);
    let logstash = Logstash::new(Keep::Ids);
    let mut spool = Spool::new(logstash.port());
    spool.settings("[stop]\ntimeout = \"10s\"\n");
    let script =
        "trap '' TERM; sleep 3600 & echo $!; setsid sleep 3600 & echo $!; wait; wait; sleep 3600\n";
    spool.job(
        "sleeps",
        &toml("kill_grace = \"500ms\"", "keep_running = true"),
        "job.sh",
        script,
    );
    spool.start();
    wait_until(SOON, "it sleeps", || {
        spool.latest_result("sleeps", "stdout").lines().count() == 2
    });
    let pids = spool.latest_result("sleeps", "stdout");
    let told = Instant::now();
    // Waits for the end, and the exit code 0.
    spool.stop();
    assert!(told.elapsed() < TIMEOUT, "{:?}", told.elapsed());
    assert!(!pids.lines().any(lives), "{pids}");
    assert_eq!(record(&spool, "sleeps")["outcome"], "killed");
}

/// How many jobs the soak has; all of them run at once at its beginning.
const SOAKED: usize = 24;

/// What grows with each run shows itself over 10,000 of them. What does not is kept out: the memory that
/// 24 runs at once need is there before it is measured, as all first runs wait for each other.
#[test]
fn slow_10000_runs_leave_no_descriptor_process_cgroup_or_memory() {
    const RUNS: u64 = 10_000;
    // What is bounded has come to its bound by then: each job keeps the results of 50 runs.
    const WARM: u64 = 4_000;
    // A sweep of the results, which gives back what moments took, comes every ten seconds.
    const SAMPLED: u64 = 4_000;
    const PATIENCE: Duration = Duration::from_secs(1200);
    if skipped("slow_10000_runs_leave_no_descriptor_process_cgroup_or_memory") {
        return;
    }
    let logstash = Logstash::new(Keep::Ids);
    let mut spool = Spool::new(logstash.port());
    spool.start();
    wait_until(SOON, "it is there", || spool.status().is_object());
    let proc = Path::new("/proc").join(spool.pid().to_string());
    let count = |name: &str| fs::read_dir(proc.join(name)).unwrap().count();
    let idle = count("fd");
    let go = spool.root().join("go");
    let script = format!(
        "echo x >&2; while [ ! -e {} ]; do sleep 0.1; done; (sleep 0 &); echo on\n",
        go.display()
    );
    let names: Vec<String> = (0..SOAKED).map(|n| format!("quick-{n}")).collect();
    let keys = "language = \"sh\"\nlimits = { open_files = 100 }";
    for name in &names {
        spool.job(name, &toml(keys, "every = \"100ms\""), "job.sh", &script);
    }
    let sum = |key: &str| -> u64 {
        let status = spool.status();
        let jobs = status["jobs"].as_array().cloned().unwrap_or_default();
        let each = jobs.iter().filter_map(|job| match key {
            "running" => job["running"].as_array().map(|runs| runs.len() as u64),
            _ => job["runs"][key].as_u64(),
        });
        each.sum()
    };
    wait_until(PATIENCE, "all run at once", || {
        sum("running") == SOAKED as u64
    });
    fs::write(&go, "").unwrap();
    wait_until(PATIENCE, "it is warm", || sum("success") >= WARM);
    let memory = || -> u64 {
        let status = fs::read_to_string(proc.join("status")).unwrap();
        let mut lines = status.lines();
        let line = lines.find(|line| line.starts_with("VmRSS:")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    };
    // The least while some runs end: what a moment needs comes and goes, what leaks stays.
    let least = || {
        let (mut least, until) = (u64::MAX, sum("success") + SAMPLED);
        wait_until(PATIENCE, "some more runs have ended", || {
            least = least.min(memory());
            sum("success") >= until
        });
        least
    };
    let (before, first) = (least(), sum("success"));
    wait_until(PATIENCE, "10,000 more runs have ended", || {
        sum("success") >= first + RUNS - SAMPLED
    });
    let (after, last) = (least(), sum("success"));
    for name in &names {
        spool.remove(name);
    }
    wait_until(SOON, "all jobs are gone", || {
        spool.status()["jobs"].as_array().is_some_and(Vec::is_empty)
    });
    // By now the output has a connection, and the segment that it reads.
    wait_until(SOON, "descriptors are closed", || count("fd") <= idle + 2);
    say(&format!(
        "VmRSS {before} kB after {first} runs, {after} kB after {last}; {idle} descriptors before, {} after",
        count("fd")
    ));
    assert!(
        after * 100 <= before * 105,
        "{before} kB after {first} runs, {after} kB after {last}"
    );
    spool.stop();
    let root = spool.root().display().to_string();
    let here = |entry: &fs::DirEntry| {
        fs::read_link(entry.path().join("cwd")).is_ok_and(|cwd| cwd.starts_with(&root))
    };
    let left: Vec<_> = fs::read_dir("/proc").unwrap().flatten().collect();
    let left: Vec<_> = left.into_iter().filter(here).collect();
    assert!(left.is_empty(), "{left:?}");
    // Other tests may have some at this moment.
    wait_until(SOON, "no folder of a cgroup is left", || {
        cgroups().len() < SOAKED
    });
}
