//! Power cuts and failing disks under real file systems; needs root, loop devices, and takes minutes.
//!
//! A child of this test binary writes through the queue's service and prints what it was promised. It
//! is stopped before its file system is shut down: the kernel lets a sync that is under way succeed
//! while it shuts down. After the next mount everything promised must be there.

#![expect(clippy::unwrap_used, reason = "tests")]

use std::fs;
use std::fs::File;
use std::io::BufRead;
use std::io::BufReader;
use std::io::Write;
use std::path::Path;
use std::path::PathBuf;
use std::process::Child;
use std::process::Command;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;
use std::thread;
use std::thread::JoinHandle;
use std::time::Duration;
use std::time::Instant;

use spoolbeat::disk::Disk;
use spoolbeat::disk::OsDisk;
use spoolbeat::event::Frames;
use spoolbeat::event::Route;
use spoolbeat::event::Stream;
use spoolbeat::queue;
use spoolbeat::queue::Begin;
use spoolbeat::queue::Counters;
use spoolbeat::queue::Durability;
use spoolbeat::queue::OnFull;
use spoolbeat::queue::Part;
use spoolbeat::queue::Portion;
use spoolbeat::queue::Queue;
use spoolbeat::queue::Reader;
use spoolbeat::queue::Settings;
use spoolbeat::queue::cursor::Cursor;
use spoolbeat::queue::cursor::Passed;
use spoolbeat::queue::inspect;
use spoolbeat::queue::verify;
use spoolbeat::units::Timestamp;

use crate::harness::SOON;
use crate::harness::is_root;
use crate::harness::said;
use crate::harness::signal;
use crate::harness::soak;
use crate::harness::wait_until;

const AT: Timestamp = Timestamp(1_763_712_488_123);

/// Where the child writes.
const PLACE: &str = "SPOOLBEAT_TEST_WRITES_TO";

const OUTPUT: &str = "out";

/// `EXT4_IOC_SHUTDOWN` with `NOLOGFLUSH`; XFS knows the same number as `XFS_IOC_GOINGDOWN`. From
/// Python, so that no test needs `unsafe`.
const SHUT_DOWN: &str = "import fcntl, os, struct, sys
fcntl.ioctl(os.open(sys.argv[1], os.O_RDONLY), 0x8004587d, struct.pack('I', 2))";

fn say(line: &str) {
    drop(writeln!(std::io::stderr(), "{line}"));
}

/// Says why a test does not run.
fn skip(test: &str, why: &str) {
    drop(writeln!(std::io::stdout(), "SKIP {test}: {why}"));
}

fn cannot(test: &str, tools: &[&str]) -> bool {
    if std::env::var_os("SPOOLBEAT_SLOW").is_none() {
        skip(test, "set SPOOLBEAT_SLOW=1 for tests that take minutes");
        return true;
    }
    if !is_root() {
        skip(test, "needs root");
        return true;
    }
    let missing = tools.iter().find(|tool| run(&["which", tool]).is_err());
    if let Some(tool) = missing {
        skip(test, &format!("{tool} is missing"));
    }
    missing.is_some()
}

fn run(command: &[&str]) -> Result<String, String> {
    let out = Command::new(command[0]).args(&command[1..]).output();
    let out = out.map_err(|error| format!("{command:?}: {error}"))?;
    if out.status.success() {
        Ok(String::from_utf8_lossy(&out.stdout).trim().to_owned())
    } else {
        Err(format!("{command:?}: {}", said(&out)))
    }
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// A file system that is mounted until it is dropped.
struct Mount {
    device: PathBuf,
    at: PathBuf,
}

impl Mount {
    fn new(device: &Path, at: &Path) -> Result<Self, String> {
        let device_is_file = device.is_file();
        let options: &[&str] = if device_is_file { &["-o", "loop"] } else { &[] };
        let command = [&["mount"], options, &[text(device), text(at)]].concat();
        run(&command)?;
        let (device, at) = (device.to_owned(), at.to_owned());
        Ok(Self { device, at })
    }

    /// Unmounts and mounts again, which replays the journal.
    fn again(self) -> Self {
        run(&["umount", text(&self.at)]).unwrap();
        let (device, at) = (self.device.clone(), self.at.clone());
        std::mem::forget(self);
        Self::new(&device, &at).unwrap()
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        drop(run(&["umount", "-l", text(&self.at)]));
    }
}

/// The child, and what it was promised.
struct Writer {
    child: Child,
    captured: Arc<AtomicU64>,
    passed: Arc<AtomicU64>,
    reader: JoinHandle<()>,
}

impl Writer {
    fn start(dir: &Path) -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args([
                "power::writes_until_it_is_killed",
                "--exact",
                "--ignored",
                "--nocapture",
            ])
            .env(PLACE, dir)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let (captured, passed) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let seen = (Arc::clone(&captured), Arc::clone(&passed));
        let reader = thread::spawn(move || {
            for line in lines {
                let Ok(line) = line else { return };
                match line.split_once(' ') {
                    Some(("captured", n)) => seen.0.store(n.parse().unwrap(), Ordering::Relaxed),
                    Some(("passed", n)) => seen.1.store(n.parse().unwrap(), Ordering::Relaxed),
                    _ => {}
                }
            }
        });
        Self {
            child,
            captured,
            passed,
            reader,
        }
    }

    fn captured(&self) -> u64 {
        self.captured.load(Ordering::Relaxed)
    }

    /// Stops it, so that it is told nothing more.
    fn freeze(&self) {
        signal("STOP", self.child.id());
        let stat = format!("/proc/{}/stat", self.child.id());
        wait_until(SOON, "the writer stands still", || {
            let stat = fs::read_to_string(&stat).unwrap();
            stat.rsplit(") ").next().unwrap().starts_with('T')
        });
    }

    /// Kills it; returns how many events it was told are captured, and the event that its cursor was at.
    fn kill(mut self) -> (u64, u64) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        self.reader.join().unwrap();
        let promised = |number: &AtomicU64| number.load(Ordering::Relaxed);
        (promised(&self.captured), promised(&self.passed))
    }
}

/// What is in the queue after a crash holds all that was promised, and is whole.
fn check(dir: &Path, (captured, passed): (u64, u64), round: usize) -> u64 {
    let disk: Arc<dyn Disk> = Arc::new(OsDisk);
    let survey = inspect::survey(&disk, dir).unwrap();
    let queued = survey.ledger.queued();
    assert!(
        queued >= captured,
        "round {round}: {captured} promised, {queued} there"
    );
    let verdict = verify::verify(&disk, dir, &survey).unwrap();
    assert_eq!(verdict.damage, [], "round {round}");
    let cursor = survey.cursors.iter().find(|(output, _)| output == OUTPUT);
    let at = cursor.map_or(0, |(_, cursor)| cursor.seq);
    assert!(
        at >= passed && at <= queued + 1,
        "round {round}: cursor {at} after {passed}"
    );
    queued
}

#[test]
#[ignore = "the child of the tests in this module"]
fn writes_until_it_is_killed() {
    let Some(dir) = std::env::var_os(PLACE) else {
        return;
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(write(Path::new(&dir)));
}

async fn write(dir: &Path) {
    let outputs = [Reader {
        output: OUTPUT.to_owned(),
        start: Begin::Newest,
        required: true,
    }];
    let start = queue::Start {
        disk: Arc::new(OsDisk),
        dir,
        settings: Settings {
            max_bytes: 16 << 20,
            retain_age: Duration::from_secs(3600),
            retain_bytes: 0,
            durability: Durability::Sync,
            batch_events: 2048,
            batch_bytes: 1 << 20,
            flush: Duration::from_millis(100),
            compression_level: 0,
            on_full: OnFull::Block,
        },
        outputs: &outputs,
    };
    let handle = tokio::runtime::Handle::current();
    let (queue, mut taps, _) = Queue::start(start, &handle).unwrap();
    let mut tap = taps.remove(0);
    let (intake, level) = (queue.intake(), queue.level());
    let mut out = std::io::stdout();
    for n in 1_u64.. {
        let first = intake.submit(portion(n, 1 + n % 30)).await.unwrap();
        let second = intake.submit(portion(n, 1 + n % 7)).await.unwrap();
        for captured in [first, second] {
            let last = captured.await.unwrap().unwrap();
            writeln!(out, "captured {}", last.0).unwrap();
        }
        if n % 5 == 0 {
            let level = level.borrow().clone();
            let cursor = Cursor {
                at: level.end,
                seq: level.next_seq,
                born: 1,
                passed: Passed {
                    acked: level.next_seq - 1,
                    ..Passed::default()
                },
                ..Cursor::default()
            };
            if tap.file.sync(&cursor).is_ok() {
                tap.marks.lock().unwrap().insert(OUTPUT.to_owned(), cursor);
                writeln!(out, "passed {}", cursor.seq).unwrap();
            }
        }
    }
}

fn portion(n: u64, count: u64) -> Portion {
    let mut frames = Frames::default();
    for event in 0..count {
        frames.push(|out| {
            out.extend_from_slice(format!("{{\"n\":\"{n}.{event}\",\"pad\":\"").as_bytes());
            out.resize(out.len() + (n * 37 % 3000) as usize, b'x');
            out.extend_from_slice(b"\"}");
        });
    }
    Portion {
        route: Route::to(vec![OUTPUT.to_owned()]),
        parts: vec![Part {
            job: "job".into(),
            stream: Stream::Stdout,
            count: u32::try_from(count).unwrap(),
            first: AT,
            last: AT,
        }],
        frames,
        facts: Vec::new(),
        counters: Counters {
            framed: count,
            ..Counters::default()
        },
    }
}

/// An empty file that takes room only where it is written to.
fn image(folder: &Path, mib: u64) -> PathBuf {
    let path = folder.join("disk.img");
    File::create(&path).unwrap().set_len(mib << 20).unwrap();
    path
}

fn cut_power(test: &str, make: &[&str], mib: u64, rounds: usize) {
    if cannot(test, &[make[0], "python3"]) {
        return;
    }
    let folder = tempfile::tempdir_in("/dev/shm").unwrap();
    let image = image(folder.path(), mib);
    run(&[make, &[text(&image)]].concat()).unwrap();
    let at = folder.path().join("mnt");
    fs::create_dir(&at).unwrap();
    let mut mount = match Mount::new(&image, &at) {
        Ok(mount) => mount,
        Err(why) => return skip(test, &format!("no loop device: {why}")),
    };
    let started = Instant::now();
    let dir = at.join("queue");
    let (mut promised, mut extra) = (0, 0);
    for round in 0..rounds {
        let writer = Writer::start(&dir);
        let wanted = (round as u64 * 53) % 400;
        let before = promised + extra;
        wait_until(SOON, "the writer writes", || {
            writer.captured() > before + wanted
        });
        writer.freeze();
        if let Err(why) = run(&["python3", "-c", SHUT_DOWN, text(&at)]) {
            writer.kill();
            return skip(test, &format!("no shutdown ioctl: {why}"));
        }
        let told = writer.kill();
        mount = mount.again();
        let queued = check(&dir, told, round);
        (promised, extra) = (told.0, queued - told.0);
    }
    drop(mount);
    say(&format!(
        "{rounds} power cuts on {}: {promised} events promised, 0 lost, in {:?}",
        make[0],
        started.elapsed()
    ));
}

#[test]
fn slow_power_cuts_on_ext4_lose_nothing() {
    let rounds = if soak() { 5000 } else { 200 };
    let make = ["mkfs.ext4", "-q", "-F"];
    cut_power("slow_power_cuts_on_ext4_lose_nothing", &make, 64, rounds);
}

#[test]
fn slow_power_cuts_on_xfs_lose_nothing() {
    let rounds = if soak() { 500 } else { 50 };
    let make = ["mkfs.xfs", "-q", "-f"];
    cut_power("slow_power_cuts_on_xfs_lose_nothing", &make, 320, rounds);
}

/// Ends a process when dropped.
struct Helper(Child);

impl Drop for Helper {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

/// A disk whose writes fail as long as a file is there.
struct FailingDisk {
    device: PathBuf,
    flag: PathBuf,
    at: PathBuf,
    /// Ended in this order.
    _fuse: Helper,
    _server: Helper,
}

impl FailingDisk {
    fn new(folder: &Path) -> Result<Self, String> {
        let image = image(folder, 64);
        let (socket, flag) = (folder.join("socket"), folder.join("flag"));
        let at = folder.join("disk");
        File::create(&at).unwrap();
        let spawn = |args: &[&str]| {
            let child = Command::new(args[0])
                .args(&args[1..])
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn();
            child.map(Helper).map_err(|error| error.to_string())
        };
        let at_flag = format!("error-pwrite-file={}", flag.display());
        let server = spawn(&[
            "nbdkit",
            "-f",
            "-U",
            text(&socket),
            "--filter=error",
            "file",
            text(&image),
            "error-pwrite=EIO",
            "error-pwrite-rate=100%",
            &at_flag,
        ])?;
        wait_until(SOON, "nbdkit listens", || socket.exists());
        let fuse = spawn(&["nbdfuse", text(&at), "--unix", text(&socket)])?;
        let size = || fs::metadata(&at).map_or(0, |meta| meta.len());
        wait_until(SOON, "nbdfuse has mounted the disk", || size() == 64 << 20);
        let device = run(&["losetup", "-f", "--show", text(&at)])?;
        Ok(Self {
            device: PathBuf::from(device),
            flag,
            at,
            _fuse: fuse,
            _server: server,
        })
    }
}

impl Drop for FailingDisk {
    fn drop(&mut self) {
        drop(run(&["losetup", "-d", text(&self.device)]));
        drop(run(&["umount", "-l", text(&self.at)]));
    }
}

#[test]
fn slow_a_failed_sync_of_a_real_disk_loses_nothing() {
    const NAME: &str = "slow_a_failed_sync_of_a_real_disk_loses_nothing";
    if cannot(NAME, &["nbdkit", "nbdfuse", "losetup", "mkfs.ext4"]) {
        return;
    }
    if !Path::new("/dev/fuse").exists() {
        return skip(NAME, "/dev/fuse is missing");
    }
    let rounds = if soak() { 30 } else { 3 };
    let (mut went_on, mut promised) = (0, 0);
    for round in 0..rounds {
        let folder = tempfile::tempdir_in("/dev/shm").unwrap();
        let disk = match FailingDisk::new(folder.path()) {
            Ok(disk) => disk,
            Err(why) => return skip(NAME, &why),
        };
        // Without a journal, so that the file system goes on as well.
        let make = [
            "mkfs.ext4",
            "-q",
            "-F",
            "-E",
            "nodiscard",
            "-O",
            "^has_journal",
        ];
        run(&[&make[..], &[text(&disk.device)]].concat()).unwrap();
        let at = folder.path().join("mnt");
        fs::create_dir(&at).unwrap();
        let mount = Mount::new(&disk.device, &at).unwrap();
        let dir = at.join("queue");
        let writer = Writer::start(&dir);
        wait_until(SOON, "the writer writes", || writer.captured() > 200);
        File::create(&disk.flag).unwrap();
        let (mut last, mut still) = (0, 0);
        wait_until(SOON, "nothing is promised any more", || {
            let now = writer.captured();
            still = if now == last { still + 1 } else { 0 };
            last = now;
            still == 30
        });
        fs::remove_file(&disk.flag).unwrap();
        let healed = Instant::now();
        wait_until(SOON, "it goes on, or cannot", || {
            writer.captured() > last + 200 || healed.elapsed() > SOON / 4
        });
        went_on += usize::from(writer.captured() > last);
        let told = writer.kill();
        let mount = mount.again();
        check(&dir, told, round);
        promised += told.0;
        drop(mount);
    }
    assert!(
        went_on > 0,
        "no writer went on when the disk was whole again"
    );
    say(&format!(
        "{rounds} disks that failed a while: {promised} events promised, 0 lost; {went_on} went on by themselves"
    ));
}
