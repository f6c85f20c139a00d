//! What must hold under load, over kills and over a server that is away: takes minutes.
//!
//! Runs with `SPOOLBEAT_SLOW=1`; without it each test prints `SKIP` and passes. `SPOOLBEAT_SOAK=1`
//! makes them longer.

#![expect(clippy::unwrap_used, reason = "tests")]

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::fs;
use std::io::Write;
use std::time::Duration;
use std::time::Instant;

use serde_json::Value;

use crate::harness::Keep;
use crate::harness::Logstash;
use crate::harness::SOON;
use crate::harness::Spool;
use crate::harness::soak;
use crate::harness::wait_until;

/// Patience with a drain of many events.
const DRAIN: Duration = Duration::from_secs(120);

/// Windows that may be in flight at a time, as `pipelining` is by default.
const IN_FLIGHT: usize = 2;

pub(crate) fn say(line: &str) {
    drop(writeln!(std::io::stderr(), "{line}"));
}

pub(crate) fn skipped(test: &str) -> bool {
    let slow = std::env::var_os("SPOOLBEAT_SLOW").is_some();
    if !slow {
        drop(writeln!(
            std::io::stdout(),
            "SKIP {test}: set SPOOLBEAT_SLOW=1 for tests that take minutes"
        ));
    }
    !slow
}

/// A number below `below` that differs from round to round in a fixed way.
fn chance(seed: &mut u64, below: u64) -> u64 {
    *seed = seed
        .wrapping_mul(6_364_136_223_846_793_005)
        .wrapping_add(1_442_695_040_888_963_407);
    (*seed >> 33) % below
}

fn captured(spool: &Spool) -> Option<u64> {
    spool.status()["totals"]["captured_events"].as_u64()
}

/// How often each event arrived, how far from the end of its connection it stood when it came again
/// later, and the order of first arrivals.
fn arrivals(logstash: &Logstash) -> (BTreeMap<String, u32>, Vec<String>) {
    let windows = logstash.windows();
    let mut last_of: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
    for (index, window) in windows.iter().enumerate() {
        last_of.entry(window.connection).or_default().push(index);
    }
    let mut times: BTreeMap<String, u32> = BTreeMap::new();
    let mut came_in: BTreeMap<String, usize> = BTreeMap::new();
    let mut order = Vec::new();
    for (index, window) in windows.iter().enumerate() {
        for id in &window.ids {
            let count = times.entry(id.clone()).or_default();
            *count += 1;
            if *count == 1 {
                order.push(id.clone());
            } else {
                let before = came_in[id];
                let connection = &last_of[&windows[before].connection];
                let place = connection
                    .iter()
                    .rev()
                    .position(|other| *other == before)
                    .unwrap();
                assert!(
                    place < IN_FLIGHT,
                    "{id} came twice although {place} windows after it were sent"
                );
            }
            came_in.insert(id.clone(), index);
        }
    }
    (times, order)
}

/// Per run and stream the numbers rise by one.
fn assert_ordered(order: &[String]) {
    let mut last: BTreeMap<(&str, &str), u64> = BTreeMap::new();
    for id in order {
        let mut parts = id.rsplitn(3, '.');
        let n: u64 = parts.next().unwrap().parse().unwrap();
        let stream = parts.next().unwrap();
        let run = parts.next().unwrap();
        let before = last.insert((run, stream), n).unwrap_or_default();
        assert!(n > before, "{id} came first after number {before}");
    }
}

const CHATTY: &str = r#"
import fcntl, os, sys, time
lock = open(os.environ["SPOOLBEAT_STATE_DIR"] + "/lock", "w")
try:
    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
except OSError:
    print("OVERLAP", flush=True)
    sys.exit(1)
n = 0
while True:
    for _ in range(50):
        n += 1
        print("line", n, "x" * 200)
    sys.stdout.flush()
    time.sleep(0.005)
"#;

#[test]
fn slow_200_kills_of_the_daemon_lose_no_captured_event() {
    if skipped("slow_200_kills_of_the_daemon_lose_no_captured_event") {
        return;
    }
    let rounds = if soak() { 2000 } else { 200 };
    let logstash = Logstash::new(Keep::Ids);
    let mut spool = Spool::new(logstash.port());
    let chatty = "[script]\nrun = \"job.py\"\n[schedule]\nkeep_running = true\n";
    spool.job("chatty", chatty, "job.py", CHATTY);
    let quick = "[script]\nrun = \"job.sh\"\n[schedule]\nevery = \"100ms\"\n";
    for name in ["quick-1", "quick-2", "quick-3"] {
        spool.job(name, quick, "job.sh", "echo one; echo two >&2\n");
    }
    let mut seed = 42;
    let mut most = 0;
    for round in 0..rounds {
        spool.start();
        let life = Duration::from_millis(100 + chance(&mut seed, 500));
        let started = Instant::now();
        let mut polled = 0;
        wait_until(SOON, "the daemon has lived long enough", || {
            if let Some(now) = captured(&spool) {
                assert!(
                    now >= most,
                    "round {round}: {now} captured events after {most} were reported"
                );
                most = now;
                polled += 1;
            }
            polled > 0 && started.elapsed() >= life
        });
        spool.kill();
    }
    for name in ["chatty", "quick-1", "quick-2", "quick-3"] {
        spool.remove(name);
    }
    spool.start();
    wait_until(DRAIN, "the queue is empty", || {
        let status = spool.status();
        let waiting = status["totals"]["waiting_events"].as_u64();
        status["jobs"]
            .as_array()
            .is_some_and(|jobs| jobs.iter().all(|job| job["state"] != "running"))
            && waiting == Some(0)
    });
    let total = captured(&spool).unwrap();
    assert!(total >= most);
    spool.stop();
    let (times, order) = arrivals(&logstash);
    assert_eq!(
        times.len() as u64,
        total,
        "distinct events that arrived, and events that were captured"
    );
    assert_ordered(&order);
    let twice: u32 = times.values().map(|count| count - 1).sum();
    let overlaps = fs::read_dir(spool.root().join("results/chatty"))
        .unwrap()
        .filter_map(|run| fs::read_to_string(run.unwrap().path().join("stdout")).ok())
        .filter(|out| out.contains("OVERLAP"))
        .count();
    assert_eq!(
        overlaps, 0,
        "a script of a dead daemon ran beside the next one's"
    );
    say(&format!(
        "{rounds} kills: {total} events captured, {} arrived, {twice} came twice",
        times.len()
    ));
}

#[test]
fn slow_a_server_that_is_away_costs_disk_and_not_events() {
    if skipped("slow_a_server_that_is_away_costs_disk_and_not_events") {
        return;
    }
    let mut logstash = Logstash::new(Keep::Ids);
    logstash.close();
    let mut spool = Spool::new(logstash.port());
    spool.settings("[queue]\nmax_bytes = \"16MiB\"\ncompression_level = 0\nretain = { age = \"1h\", bytes = \"0\" }\n");
    let chatty = "[script]\nrun = \"job.py\"\n[schedule]\nkeep_running = true\n";
    spool.job("chatty", chatty, "job.py", CHATTY);
    let quick = "[script]\nrun = \"job.sh\"\n[schedule]\nevery = \"500ms\"\n";
    spool.job("quick", quick, "job.sh", "echo one\n");
    spool.start();
    let away = Instant::now();
    let mut held = false;
    let mut largest = 0;
    wait_until(
        Duration::from_secs(90),
        "the server was away for 60 s and the schedule paused",
        || {
            let status = spool.status();
            held |= status["daemon"]["state"] == "paused";
            let bytes: u64 = fs::read_dir(spool.root().join("queue"))
                .into_iter()
                .flatten()
                .filter_map(|entry| Some(entry.ok()?.metadata().ok()?.len()))
                .sum();
            largest = largest.max(bytes);
            away.elapsed() >= Duration::from_secs(60) && held
        },
    );
    // Segments, the reserved one, checkpoints and cursors.
    assert!(largest < 18 << 20, "the queue took {largest} bytes");
    logstash.open();
    wait_until(DRAIN, "the schedule goes on by itself", || {
        spool.status()["daemon"]["state"] == "running"
    });
    spool.remove("chatty");
    spool.remove("quick");
    wait_until(DRAIN, "everything is shipped", || {
        let status = spool.status();
        status["jobs"].as_array().is_some_and(Vec::is_empty)
            && status["totals"]["waiting_events"] == 0
    });
    let total = captured(&spool).unwrap();
    spool.stop();
    let (times, order) = arrivals(&logstash);
    assert_eq!(times.len() as u64, total);
    assert_ordered(&order);
    say(&format!(
        "away for {:?}: {total} events, at most {largest} bytes on disk",
        away.elapsed()
    ));
}

#[test]
fn slow_ten_thousand_one_line_runs_arrive_in_full_windows() {
    if skipped("slow_ten_thousand_one_line_runs_arrive_in_full_windows") {
        return;
    }
    let mut logstash = Logstash::new(Keep::Ids);
    logstash.close();
    let mut spool = Spool::new(logstash.port());
    let quick = "[script]\nrun = \"job.sh\"\nlanguage = \"sh\"\n[schedule]\nevery = \"100ms\"\n[results]\nkeep = { runs = 1 }\n";
    let jobs = 60;
    for n in 0..jobs {
        spool.job(&format!("job-{n}"), quick, "job.sh", "echo one\n");
    }
    spool.start();
    // Each run gives its line, its start and its end.
    wait_until(Duration::from_secs(240), "10,000 runs are captured", || {
        captured(&spool) >= Some(30_000)
    });
    for n in 0..jobs {
        spool.remove(&format!("job-{n}"));
    }
    wait_until(SOON, "the jobs are gone", || {
        spool.status()["jobs"].as_array().is_some_and(Vec::is_empty)
    });
    let total = captured(&spool).unwrap() as usize;
    logstash.open();
    wait_until(DRAIN, "everything arrives", || logstash.count() >= total);
    spool.stop();
    let windows = logstash.windows();
    assert!(
        windows.len() <= total / 2048 + 3,
        "{total} events came in {} windows",
        windows.len()
    );
    say(&format!(
        "{total} events of one-line runs came in {} windows",
        windows.len()
    ));
}

/// Prints `lines` lines of 300 bytes as fast as it can.
fn flood(lines: u64) -> String {
    format!(
        "import sys\nwrite = sys.stdout.write\nfor n in range(0, {lines}, 1000):\n    write(''.join('%09d %s\\n' % (i, 'x' * 289) for i in range(n, n + 1000)))\n"
    )
}

#[test]
fn slow_a_million_lines_arrive_in_bounded_memory() {
    if skipped("slow_a_million_lines_arrive_in_bounded_memory") {
        return;
    }
    let lines = if soak() { 20_000_000 } else { 1_000_000 };
    let logstash = Logstash::new(Keep::Ids);
    let mut spool = Spool::new(logstash.port());
    spool.job(
        "flood",
        "[script]\nrun = \"job.py\"\n[schedule]\nonce = true\n",
        "job.py",
        &flood(lines),
    );
    let started = Instant::now();
    spool.start();
    wait_until(
        Duration::from_secs(600),
        "all lines are acknowledged",
        || {
            let status = spool.status();
            status["totals"]["captured_events"].as_u64() >= Some(lines + 2)
                && status["totals"]["waiting_events"] == 0
        },
    );
    let took = started.elapsed();
    let peak = spool.peak_memory();
    spool.stop();
    let (times, order) = arrivals(&logstash);
    assert_eq!(times.len() as u64, lines + 2);
    assert_ordered(&order);
    assert!(
        peak < 64 << 20,
        "the daemon's memory peaked at {peak} bytes"
    );
    say(&format!(
        "{lines} lines in {took:?} (with a slow server), peak memory {} KiB",
        peak >> 10
    ));
}

/// How many runs of a job have ended since the daemon was started, whatever their outcome.
fn ended_runs(job: &Value) -> u64 {
    job["runs"]
        .as_object()
        .unwrap()
        .values()
        .map(|runs| runs.as_u64().unwrap())
        .sum()
}

#[test]
fn slow_a_thousand_jobs_miss_no_tick() {
    if skipped("slow_a_thousand_jobs_miss_no_tick") {
        return;
    }
    let logstash = Logstash::new(Keep::Ids);
    let mut spool = Spool::new(logstash.port());
    spool.settings("[results]\nbytes = \"64MiB\"\n");
    let idle = "[script]\nrun = \"job.sh\"\nlanguage = \"sh\"\n[schedule]\ncron = \"0 0 1 1 *\"\n";
    let toml = "[script]\nrun = \"job.sh\"\nlanguage = \"sh\"\n[schedule]\nevery = \"10s\"\n[results]\nkeep = { runs = 3 }\n";
    for n in 0..1000 {
        spool.job(&format!("job-{n}"), idle, "job.sh", "echo one\n");
    }
    spool.start();
    wait_until(DRAIN, "1,000 jobs are loaded", || {
        spool.status()["jobs"]
            .as_array()
            .is_some_and(|jobs| jobs.len() == 1000)
    });
    let look = Duration::from_secs(10);
    let (before, started) = (spool.cpu(), Instant::now());
    wait_until(SOON, "10 s have passed", || started.elapsed() >= look);
    let idle_share = (spool.cpu() - before).as_secs_f64() / started.elapsed().as_secs_f64();
    // Written as what it is for, a bound: the figure itself is printed.
    say(&format!(
        "1,000 jobs, none due: {:.2} % of a core",
        idle_share * 100.0
    ));
    for n in 0..1000 {
        spool.job(&format!("job-{n}"), toml, "job.sh", "echo one\n");
    }
    wait_until(DRAIN, "all jobs have run", || {
        spool.status()["jobs"]
            .as_array()
            .is_some_and(|jobs| jobs.iter().all(|job| ended_runs(job) >= 1))
    });
    let runs = |spool: &Spool| -> (u64, u64) {
        let status = spool.status();
        let jobs = status["jobs"].as_array().unwrap();
        let skipped = jobs
            .iter()
            .map(|job| job["skipped_ticks"].as_u64().unwrap())
            .sum();
        (jobs.iter().map(ended_runs).sum(), skipped)
    };
    let (first, cpu) = (runs(&spool), spool.cpu());
    let started = Instant::now();
    let periods = if soak() { 60 } else { 4 };
    wait_until(
        Duration::from_secs(1200),
        "some periods have passed",
        || started.elapsed() >= Duration::from_secs(10 * periods),
    );
    let (last, cpu) = (runs(&spool), spool.cpu() - cpu);
    let ran = last.0 - first.0;
    assert_eq!(last.1, 0, "ticks were skipped");
    assert!(
        ran >= (periods - 1) * 1000 && ran <= (periods + 1) * 1000 + 100,
        "{ran} runs in {periods} periods"
    );
    say(&format!(
        "1,000 jobs every 10 s: {ran} runs in {periods} periods, {:.2} ms of the daemon's CPU a run",
        cpu.as_secs_f64() * 1000.0 / ran as f64
    ));
    assert!(
        idle_share < 0.01,
        "an idle daemon with 1,000 jobs took {:.2} % of a core",
        idle_share * 100.0
    );
    spool.stop();
    let distinct: BTreeSet<String> = logstash.acked_ids().into_iter().collect();
    assert!(distinct.len() as u64 >= ran * 3);
}

#[test]
fn slow_ten_thousand_folders_dropped_at_once_are_loaded_and_cost_little() {
    const FOLDERS: usize = 10_000;
    const MEMORY: u64 = 150 << 20;
    if skipped("slow_ten_thousand_folders_dropped_at_once_are_loaded_and_cost_little") {
        return;
    }
    let logstash = Logstash::new(Keep::Ids);
    let mut spool = Spool::with_defaults(logstash.port());
    let idle = "[script]\nrun = \"job.sh\"\nlanguage = \"sh\"\n[schedule]\ncron = \"0 0 1 1 *\"\n";
    let staged = spool.root().join("staged");
    for n in 0..FOLDERS {
        let folder = staged.join(format!("job-{n:05}"));
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join("job.toml"), idle).unwrap();
        fs::write(folder.join("job.sh"), format!("echo {n}\n")).unwrap();
    }
    spool.start();
    wait_until(SOON, "it runs", || spool.status().is_object());
    let jobs = spool.root().join("jobs");
    let dropped = Instant::now();
    for n in 0..FOLDERS {
        let name = format!("job-{n:05}");
        fs::rename(staged.join(&name), jobs.join(&name)).unwrap();
    }
    let log = || fs::read_to_string(spool.log()).unwrap_or_default();
    wait_until(DRAIN, "all folders are loaded", || {
        log().matches("job is loaded").count() == FOLDERS
    });
    let took = dropped.elapsed();
    let mut bad = usize::MAX;
    wait_until(SOON, "status knows them all", || {
        let status = spool.status();
        let jobs = status["jobs"].as_array().cloned().unwrap_or_default();
        bad = jobs.iter().filter(|job| job["state"] != "idle").count();
        jobs.len() == FOLDERS
    });
    assert_eq!(bad, 0, "each is idle");
    let memory = spool.peak_memory();
    // A whole period of the full look, so that just one is in it.
    let look = Duration::from_secs(30);
    let (before, started) = (spool.cpu(), Instant::now());
    wait_until(look * 2, "a period has passed", || {
        started.elapsed() >= look
    });
    let share = (spool.cpu() - before).as_secs_f64() / started.elapsed().as_secs_f64();
    let figures = format!(
        "{FOLDERS} folders: loaded in {took:.1?}, peak memory {} MiB, idle {:.2} % of a core",
        memory >> 20,
        share * 100.0
    );
    say(&figures);
    assert!(
        took < Duration::from_secs(30) && memory < MEMORY && share < 0.02,
        "{figures}"
    );
    spool.stop();
}
