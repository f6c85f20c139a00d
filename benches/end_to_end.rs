//! How fast lines get from a script's pipe through the queue to an acknowledged window.
//!
//! One run of the real binary with its built-in receiver, against a named reference in the same run:
//! zlib alone, at the same level on the same frames on one thread, which is most of the work.
//! `cargo bench --bench end_to_end`; `SPOOLBEAT_BENCH_LINES` sets the number of lines (1,000,000).

#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a benchmark prints, and ends at the first fault"
)]

use std::fs;
use std::fs::File;
use std::path::Path;
use std::process::Child;
use std::process::Command;
use std::process::Stdio;
use std::thread;
use std::time::Duration;
use std::time::Instant;

use serde_json::Value;
use spoolbeat::event::Frames;
use spoolbeat::queue::batch::deflate;

/// Writes numbered lines of 300 bytes as fast as Python can. The ends of 997 of them differ and come
/// again only behind zlib's window, so that they deflate as logs do and not as a repeated line does.
const FLOOD: &str = r#"
import random, sys
random.seed(7)
words = ["accepted", "denied", "session", "user", "from", "port", "opened", "closed", "policy", "rule"]
ends = []
while len(ends) < 997:
    end = ""
    while len(end) < 289:
        end += random.choice(words) + "=%x " % random.getrandbits(random.choice([8, 16, 32]))
    ends.append(" " + end[:289] + "\n")
write = sys.stdout.write
for n in range(0, int(sys.argv[1]), 1000):
    write("".join(["%09d%s" % (i, ends[i % 997]) for i in range(n, n + 1000)]))
"#;

fn main() {
    let lines: u64 = std::env::var("SPOOLBEAT_BENCH_LINES")
        .ok()
        .and_then(|n| n.parse().ok())
        .unwrap_or(1_000_000);
    let root = tempfile::tempdir().unwrap();
    let job = root.path().join("jobs/flood");
    fs::create_dir_all(&job).unwrap();
    let toml =
        format!("[script]\nrun = \"flood.py\"\nargs = [\"{lines}\"]\n[schedule]\nonce = true\n");
    fs::write(job.join("flood.py"), FLOOD).unwrap();
    fs::write(job.join("job.toml"), toml).unwrap();
    let port = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    let settings = format!(
        "[output.lumberjack]\nhosts = [\"127.0.0.1:{port}\"]\n[receiver]\nlisten = \"127.0.0.1:{port}\"\n"
    );
    fs::write(root.path().join("spoolbeat.toml"), settings).unwrap();

    let mut daemon = Command::new(env!("CARGO_BIN_EXE_spoolbeat"))
        .arg("run")
        .arg(root.path())
        .stdin(Stdio::null())
        .stdout(File::create("/dev/null").unwrap())
        .stderr(File::create(root.path().join("log")).unwrap())
        .spawn()
        .unwrap();
    // The clock starts with the first captured event: loading the folder is not what is measured.
    wait(root.path(), &mut daemon, |status| captured(status) > 0);
    let (started, cpu, first) = (Instant::now(), cpu(&daemon), captured(&status(root.path())));
    wait(root.path(), &mut daemon, |status| {
        captured(status) >= lines + 2 && status["totals"]["waiting_events"] == 0
    });
    let took = started.elapsed();
    let used = self::cpu(&daemon) - cpu;
    let peak = fs::read_to_string(format!("/proc/{}/status", daemon.id())).unwrap();
    let peak = peak
        .lines()
        .find(|line| line.starts_with("VmHWM"))
        .unwrap()
        .to_owned();
    daemon.kill().unwrap();
    daemon.wait().unwrap();

    let events = (lines + 2 - first) as f64;
    println!(
        "end to end   {:>9.0} events/s, {:.2} CPU-s per million (runner and receiver), {peak}",
        events / took.as_secs_f64(),
        used.as_secs_f64() * 1e6 / events
    );
    let (rate, cost) = zlib_alone(root.path());
    println!("zlib alone   {rate:>9.0} events/s on one thread, {cost:.2} s per million");
    println!(
        "ratio        {:.2} of zlib alone in events/s, {:.2} in CPU",
        events / took.as_secs_f64() / rate,
        used.as_secs_f64() * 1e6 / events / cost
    );
}

/// Deflates the events that the run captured, in the same batches at the same level.
fn zlib_alone(root: &Path) -> (f64, f64) {
    let out = Command::new(env!("CARGO_BIN_EXE_spoolbeat"))
        .args(["queue", "cat"])
        .arg(root)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let mut batches = vec![Frames::default()];
    for event in out
        .stdout
        .split(|byte| *byte == b'\n')
        .filter(|event| !event.is_empty())
        .take(200_000)
    {
        if batches.last().unwrap().count() == 2048 {
            batches.push(Frames::default());
        }
        batches
            .last_mut()
            .unwrap()
            .push(|out| out.extend_from_slice(event));
    }
    let events: u32 = batches.iter().map(Frames::count).sum();
    let started = Instant::now();
    for batch in &batches {
        std::hint::black_box(deflate(batch.bytes(), 3).unwrap());
    }
    let took = started.elapsed().as_secs_f64();
    (f64::from(events) / took, took * 1e6 / f64::from(events))
}

fn status(root: &Path) -> Value {
    let out = Command::new(env!("CARGO_BIN_EXE_spoolbeat"))
        .args(["status", "--json"])
        .arg(root)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    serde_json::from_slice(&out.stdout).unwrap_or_default()
}

fn captured(status: &Value) -> u64 {
    status["totals"]["captured_events"]
        .as_u64()
        .unwrap_or_default()
}

fn wait(root: &Path, daemon: &mut Child, mut done: impl FnMut(&Value) -> bool) {
    let started = Instant::now();
    while !done(&status(root)) {
        assert!(
            daemon.try_wait().unwrap().is_none(),
            "{}",
            fs::read_to_string(root.join("log")).unwrap()
        );
        assert!(
            started.elapsed() < Duration::from_secs(600),
            "no end in sight"
        );
        thread::sleep(Duration::from_millis(20));
    }
}

/// CPU time of the daemon, its children apart.
fn cpu(daemon: &Child) -> Duration {
    let stat = fs::read_to_string(format!("/proc/{}/stat", daemon.id())).unwrap();
    let fields: Vec<&str> = stat.rsplit(") ").next().unwrap().split(' ').collect();
    let ticks: u64 = fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap();
    Duration::from_millis(ticks * 10)
}
