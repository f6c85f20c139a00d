//! What sending costs: our client's CPU time against go-lumber's, which is what Beats send with.
//!
//! One run, one server, the same events of 310 bytes. Both clients have their events serialised and in
//! memory: ours as batches of the queue, ready for the wire, or one by one to be joined; go-lumber's as
//! JSON. Then what a thousand connections cost our receiver. `cargo bench --bench lumberjack`;
//! `SPOOLBEAT_BENCH_EVENTS` sets the number of events of a run (1,000,000). Needs go for the reference.

#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a benchmark prints, and ends at the first fault"
)]

use std::fs;
use std::fs::File;
use std::io::BufRead;
use std::io::BufReader;
use std::net::Ipv4Addr;
use std::net::SocketAddr;
use std::path::Path;
use std::path::PathBuf;
use std::process::Child;
use std::process::Command;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::Duration;
use std::time::Instant;

use spoolbeat::clock;
use spoolbeat::event::Frames;
use spoolbeat::lumberjack::connection::Connection;
use spoolbeat::lumberjack::connection::Dial;
use spoolbeat::lumberjack::connection::Turn;
use spoolbeat::protocol::client::Session;
use spoolbeat::protocol::client::Settings;
use spoolbeat::protocol::frame::Deflater;
use spoolbeat::protocol::frame::Version;
use spoolbeat::protocol::frame::compressed_window;
use spoolbeat::queue::batch::deflate;
use spoolbeat::queue::record::StoredEvents;
use spoolbeat::window::Builder;
use spoolbeat::window::Format;
use spoolbeat::window::Limits;
use spoolbeat::window::WINDOW_BYTES_MAX;
use spoolbeat::window::Window;
use tokio::io::AsyncReadExt;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpSocket;
use tokio::net::TcpStream;

const WINDOW: usize = 2048;
const PIPELINING: u32 = 2;

/// Different events; then they come again, far behind zlib's window.
const EVENTS: usize = 10 * WINDOW;

/// Each figure is the best of so many runs, ours and theirs in turn.
const ROUNDS: usize = 3;

/// How long connections are looked at.
const LOOK: Duration = Duration::from_secs(10);

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    if let [child, way, addr, level, count, events] = &args[..]
        && child == "client"
    {
        return client(
            way,
            addr,
            level.parse().unwrap(),
            count.parse().unwrap(),
            Path::new(events),
        );
    }
    let count: u64 = std::env::var("SPOOLBEAT_BENCH_EVENTS")
        .ok()
        .and_then(|n| n.parse().ok())
        .unwrap_or(1_000_000);
    let work = tempfile::tempdir().unwrap();
    let events = work.path().join("events");
    fs::write(&events, generate()).unwrap();
    match golumber(work.path()) {
        Ok(golumber) => against_go_lumber(&golumber, &events, count),
        Err(reason) => println!("SKIP go-lumber: {reason}"),
    }
    many_connections();
}

/// Log events as Filebeat writes them, 310 bytes each, one a line.
fn generate() -> String {
    const WORDS: [&str; 10] = [
        "accepted", "denied", "session", "user", "from", "port", "opened", "closed", "policy",
        "rule",
    ];
    let mut seed = 7_u64;
    let mut chance = |below: u64| {
        seed = seed
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (seed >> 33) % below
    };
    let mut out = String::new();
    for n in 0..EVENTS {
        let (second, milli) = (n / 1000 % 60, n % 1000);
        let mut event = format!(
            "{{\"@timestamp\":\"2026-11-21T08:08:{second:02}.{milli:03}Z\",\
             \"@metadata\":{{\"beat\":\"filebeat\",\"type\":\"_doc\",\"version\":\"8.17.0\"}},\
             \"host\":{{\"name\":\"web-{}\"}},\"log\":{{\"offset\":{},\"file\":{{\"path\":\"/var/log/auth.log\"}}}},\"message\":\"",
            chance(10),
            n * 131,
        );
        while event.len() < 308 {
            event.push_str(WORDS[usize::try_from(chance(10)).unwrap()]);
            let bits = 8 * (1 + chance(2));
            event.push_str(&format!("={:x} ", chance(1 << bits)));
        }
        event.truncate(308);
        event.push_str("\"}\n");
        out.push_str(&event);
    }
    out
}

// ---- our client, in a process of its own ---------------------------------------------------------

/// Sends, then says what it cost, as the other client does.
fn client(way: &str, addr: &str, level: u32, count: u64, events: &Path) {
    let lines = BufReader::new(File::open(events).unwrap()).lines();
    let lines: Vec<String> = lines.map(Result::unwrap).collect();
    let ready: Vec<Frames> = match way {
        "ready" => lines.chunks(WINDOW).map(frames).collect(),
        _ => lines.chunks(1).map(frames).collect(),
    };
    let stored: Vec<StoredEvents> = ready
        .into_iter()
        .map(|frames| store(frames, way, level))
        .collect();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .unwrap();
    let sending = runtime.block_on(async {
        let dial = Dial {
            timeout: Duration::from_secs(10),
            tls: None,
        };
        let connection = Connection::open(addr, &dial).await.unwrap();
        let (started, before) = (Instant::now(), cpu());
        tokio::spawn(send(connection, stored, way == "ready", level, count))
            .await
            .unwrap();
        (started.elapsed(), cpu() - before)
    });
    println!(
        "events {count} cpu_us {} wall_us {}",
        sending.1.as_micros(),
        sending.0.as_micros()
    );
}

fn frames(lines: &[String]) -> Frames {
    let mut frames = Frames::default();
    for line in lines {
        frames.push(|out| out.extend_from_slice(line.as_bytes()));
    }
    frames
}

/// As the queue stores a batch: a large one deflated, a small one raw.
fn store(frames: Frames, way: &str, level: u32) -> StoredEvents {
    let (count, raw) = (frames.count(), frames.bytes().len());
    let zlib = way == "ready" && level > 0;
    StoredEvents {
        bytes: if zlib {
            deflate(frames.bytes(), level).unwrap()
        } else {
            frames.into_bytes()
        },
        count,
        raw_bytes: u32::try_from(raw).unwrap(),
        zlib,
    }
}

async fn send(
    mut connection: Connection,
    stored: Vec<StoredEvents>,
    ready: bool,
    level: u32,
    count: u64,
) {
    let settings = Settings {
        version: Version::V2,
        pipelining: PIPELINING,
        timeout: Duration::from_secs(30),
        ack_stall_timeout: Duration::from_secs(300),
    };
    let mut session = Session::new(settings, clock::tick());
    let mut builder = Builder::new(Limits {
        format: Format::V2,
        bytes: WINDOW_BYTES_MAX,
        events: u32::try_from(WINDOW).unwrap(),
        compression_level: level,
    });
    let mut batches = stored.iter().cycle();
    let (mut sent, mut acked) = (0, 0);
    while acked < sent.max(count) {
        while sent < count && session.can_send() {
            let window = if ready {
                Builder::as_it_lies(batches.next().unwrap())
            } else {
                join(&mut builder, &mut batches)
            };
            session.sent(window.events, clock::tick());
            sent += u64::from(window.events);
            connection.send(window.bytes);
        }
        match connection.turn().await.unwrap() {
            Turn::Received(bytes) => {
                acked += session.received(&bytes, clock::tick()).unwrap().events
            }
            Turn::Wrote => session.wrote(clock::tick()),
        }
    }
}

/// One window of records of one event each, as the shipper joins them.
fn join<'a>(builder: &mut Builder, batches: &mut impl Iterator<Item = &'a StoredEvents>) -> Window {
    for stored in batches.take(WINDOW) {
        let taken = builder.add(&stored.clone().frames().unwrap(), 0);
        assert_eq!(taken, 1);
    }
    builder.finish().unwrap()
}

/// User and system time of this process.
#[expect(unsafe_code, reason = "nothing else says it to the microsecond")]
fn cpu() -> Duration {
    // SAFETY: getrusage fills the whole struct that it is given, and rusage is plain numbers.
    let usage = unsafe {
        let mut usage: libc::rusage = std::mem::zeroed();
        assert_eq!(libc::getrusage(libc::RUSAGE_SELF, &mut usage), 0);
        usage
    };
    let time = |time: libc::timeval| {
        Duration::from_secs(u64::try_from(time.tv_sec).unwrap())
            + Duration::from_micros(u64::try_from(time.tv_usec).unwrap())
    };
    time(usage.ru_utime) + time(usage.ru_stime)
}

// ---- against go-lumber ---------------------------------------------------------------------------

/// Builds the peer of the interop suite.
fn golumber(work: &Path) -> Result<PathBuf, String> {
    let program = work.join("golumber");
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/interop/golumber");
    let built = Command::new("go")
        .args(["build", "-mod=readonly", "-o"])
        .arg(&program)
        .arg(".")
        .current_dir(source)
        .output()
        .map_err(|error| format!("go: {error}"))?;
    if built.status.success() {
        return Ok(program);
    }
    let said = String::from_utf8_lossy(&built.stderr);
    Err(said.lines().next_back().unwrap_or_default().to_owned())
}

/// A server that ends with the benchmark.
struct Server {
    child: Child,
    addr: String,
}

impl Server {
    /// go-lumber's, without a look into the events.
    fn golumber(program: &Path) -> Self {
        let mut child = Command::new(program)
            .args(["serve", "-quiet"])
            .stdout(Stdio::piped())
            .stderr(Stdio::null()) // it tells of every connection
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap())
            .read_line(&mut line)
            .unwrap();
        let addr = format!("127.0.0.1:{}", line.trim_start_matches("port ").trim());
        Self { child, addr }
    }

    /// Ours, which prints to nowhere.
    fn receiver() -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_spoolbeat"))
            .args(["receive", "--listen", "127.0.0.1:0"])
            .stdout(File::create("/dev/null").unwrap())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut said = BufReader::new(child.stderr.take().unwrap());
        let mut line = String::new();
        said.read_line(&mut line).unwrap();
        let addr = line.trim_start_matches("listening on ").trim().to_owned();
        // Whatever else it says must not fill the pipe.
        thread::spawn(move || std::io::copy(&mut said, &mut std::io::sink()));
        Self { child, addr }
    }

    fn proc(&self, file: &str) -> String {
        fs::read_to_string(format!("/proc/{}/{file}", self.child.id())).unwrap()
    }

    fn cpu(&self) -> Duration {
        let stat = self.proc("stat");
        let fields: Vec<&str> = stat.rsplit(") ").next().unwrap().split(' ').collect();
        let ticks: u64 = fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap();
        Duration::from_millis(ticks * 10)
    }

    /// A line of the process's `status`, in KiB.
    fn memory(&self, name: &str) -> u64 {
        let status = self.proc("status");
        let line = status.lines().find(|line| line.starts_with(name)).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// What one run cost, each for a million events.
#[derive(Clone, Copy)]
struct Cost {
    cpu_s: f64,
    wall_s: f64,
}

fn run(command: &mut Command) -> Cost {
    let out = command.stderr(Stdio::inherit()).output().unwrap();
    let said = String::from_utf8(out.stdout).unwrap();
    let numbers: Vec<f64> = said
        .split_whitespace()
        .filter_map(|word| word.parse().ok())
        .collect();
    let [events, cpu_us, wall_us] = numbers[..] else {
        panic!("a client failed: {said}")
    };
    Cost {
        cpu_s: cpu_us / events,
        wall_s: wall_us / events,
    }
}

fn against_go_lumber(golumber: &Path, events: &Path, count: u64) {
    let server = Server::golumber(golumber);
    let own = std::env::current_exe().unwrap();
    let ours = |way: &str, level: u32, count: u64| {
        let (level, count) = (level.to_string(), count.to_string());
        run(Command::new(&own)
            .args(["client", way, &server.addr, &level, &count])
            .arg(events))
    };
    let theirs = |level: u32, count: u64| {
        let (level, count, window) = (level.to_string(), count.to_string(), WINDOW.to_string());
        run(Command::new(golumber)
            .args(["send", &server.addr, "-async", "2", "-level", &level])
            .args(["-count", &count, "-window", &window, "-events"])
            .arg(events))
    };
    println!("CPU seconds of the client per million events of 310 bytes, best of {ROUNDS}");
    println!(
        "{:34} {:>8} {:>10} {:>6} {:>6}",
        "", "ours", "go-lumber", "ratio", "goal"
    );
    for (name, way, level, goal) in [
        ("ready windows, not compressed", "ready", 0, 0.8),
        ("ready windows, level 3", "ready", 3, 0.2),
        ("2048 single events joined, level 3", "join", 3, 1.1),
    ] {
        // A run must last long enough to be measured: what is not deflated is soon sent.
        let factor = if level == 0 { 3 } else { 1 };
        let mut costs = Vec::new();
        for _ in 0..ROUNDS {
            costs.push((ours(way, level, count * 3), theirs(level, count * factor)));
        }
        let best = |of: fn(&(Cost, Cost)) -> Cost| {
            let costs = costs.iter().map(of);
            costs.min_by(|a, b| a.cpu_s.total_cmp(&b.cpu_s)).unwrap()
        };
        let (ours, theirs) = (best(|pair| pair.0), best(|pair| pair.1));
        let ratio = ours.cpu_s / theirs.cpu_s;
        println!(
            "{name:34} {:>8.3} {:>10.3} {ratio:>6.2} {goal:>6} {}; {:.0} and {:.0} events/s",
            ours.cpu_s,
            theirs.cpu_s,
            if ratio <= goal { "met" } else { "missed" },
            1e6 / ours.wall_s,
            1e6 / theirs.wall_s,
        );
    }
}

// ---- many connections to our receiver ------------------------------------------------------------

fn many_connections() {
    const IDLE: usize = 1000;
    const BUSY: usize = 200;
    let server = Server::receiver();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .unwrap();
    let (alone, addr) = (server.memory("VmRSS"), server.addr.parse().unwrap());
    let mut connections: Vec<TcpStream> = (0..IDLE)
        .map(|n| runtime.block_on(connect(addr, n)))
        .collect();
    let before = server.cpu();
    thread::sleep(LOOK);
    println!(
        "{IDLE} idle connections: {} KiB of memory and {alone} before, {:.1} ms of CPU in {LOOK:?}",
        server.memory("VmRSS"),
        (server.cpu() - before).as_secs_f64() * 1e3,
    );
    let events = Arc::new(AtomicU64::new(0));
    let window: Arc<[u8]> = busy_window().into();
    let before = server.cpu();
    let started = Instant::now();
    for mut socket in connections.drain(..BUSY) {
        let (events, window) = (Arc::clone(&events), Arc::clone(&window));
        runtime.spawn(async move {
            let mut ack = [0; 6];
            loop {
                socket.write_all(&window).await.unwrap();
                socket.read_exact(&mut ack).await.unwrap();
                events.fetch_add(100, Ordering::Relaxed);
            }
        });
    }
    thread::sleep(LOOK);
    let (took, used) = (started.elapsed(), server.cpu() - before);
    let sent = events.load(Ordering::Relaxed) as f64;
    println!(
        "{BUSY} busy ones among them: {:.0} events/s, {:.2} CPU-s per million, {} KiB at most",
        sent / took.as_secs_f64(),
        used.as_secs_f64() * 1e6 / sent,
        server.memory("VmHWM"),
    );
    runtime.shutdown_background();
}

/// A window of 100 events at level 3.
fn busy_window() -> Vec<u8> {
    let lines: Vec<String> = generate().lines().take(100).map(str::to_owned).collect();
    let frames = frames(&lines);
    let mut out = Vec::new();
    compressed_window(
        Version::V2,
        frames.count(),
        frames.bytes(),
        &mut Deflater::new(3),
        &mut out,
    );
    out
}

/// From one of fifty addresses: a receiver may bound the connections of each.
async fn connect(server: SocketAddr, number: usize) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    let from = Ipv4Addr::new(127, 0, 1, u8::try_from(number % 50).unwrap() + 1);
    socket.bind((from, 0).into()).unwrap();
    socket.connect(server).await.unwrap()
}
