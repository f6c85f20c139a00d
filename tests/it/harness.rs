//! What the integration tests speak: a spool directory with the real daemon on it, and a Logstash.
//!
//! [`wait_until`] is the only place that sleeps; tests name conditions and deadlines. This module
//! must never link the daemon's own modules: it sees what a user and a server see.

#![expect(clippy::unwrap_used, reason = "tests")]

use std::fs;
use std::fs::File;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::path::PathBuf;
use std::process::Child;
use std::process::Command;
use std::process::ExitStatus;
use std::process::Output;
use std::process::Stdio;
use std::thread;
use std::time::Duration;
use std::time::Instant;

use serde_json::Value;

pub(crate) mod authority;
mod logstash;
mod proxy;
mod receiver;

pub(crate) use logstash::Keep;
pub(crate) use logstash::Logstash;
pub(crate) use logstash::Mode;
pub(crate) use logstash::Window;
pub(crate) use logstash::read_window;
pub(crate) use proxy::Cut;
pub(crate) use proxy::Direction;
pub(crate) use proxy::Proxy;
pub(crate) use receiver::Receiver;

/// Patience with anything that should come, on a machine that is busy with other tests.
pub(crate) const SOON: Duration = Duration::from_secs(60);

/// Between two looks at a condition.
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// Waits until `check` holds; panics with `what` when it has not by the deadline.
pub(crate) fn wait_until(deadline: Duration, what: &str, mut check: impl FnMut() -> bool) {
    let started = Instant::now();
    while !check() {
        assert!(
            started.elapsed() < deadline,
            "not within {deadline:?}: {what}"
        );
        thread::sleep(LOOK_EVERY);
    }
}

/// A root directory in a temporary folder, and the daemon on it.
#[derive(Debug)]
pub(crate) struct Spool {
    folder: tempfile::TempDir,
    daemon: Option<Child>,
    /// As whom the binary runs, if not as the tests.
    user: Option<User>,
}

/// A user that the binary runs as, and a copy of the binary that this user may read.
#[derive(Debug)]
struct User {
    id: u32,
    binary: PathBuf,
}

impl Spool {
    /// A root whose output is the server on this port of the loopback address; loads and
    /// reconnects faster than the defaults, for tests that are not about those times.
    pub(crate) fn new(port: u16) -> Self {
        let spool = Self::with_defaults(port);
        spool.settings("[spool]\nsettle = \"100ms\"\n");
        spool
    }

    /// A root whose output is the server on this port, otherwise with the default settings.
    pub(crate) fn with_defaults(port: u16) -> Self {
        Self::with_settings(&format!(
            "[output.lumberjack]\nhosts = [\"127.0.0.1:{port}\"]\nbackoff = {{ init = \"100ms\", max = \"1s\" }}\n"
        ))
    }

    /// A root whose `spoolbeat.toml` is this.
    pub(crate) fn with_settings(settings: &str) -> Self {
        Self::in_folder(tempfile::tempdir().unwrap(), settings)
    }

    /// The same in memory, for tests that are about processes and not about the disk.
    pub(crate) fn in_memory(settings: &str) -> Self {
        Self::in_folder(tempfile::tempdir_in("/dev/shm").unwrap(), settings)
    }

    fn in_folder(folder: tempfile::TempDir, settings: &str) -> Self {
        let spool = Self {
            folder,
            daemon: None,
            user: None,
        };
        fs::create_dir_all(spool.root().join("jobs")).unwrap();
        spool.settings(settings);
        spool
    }

    /// The root directory.
    pub(crate) fn root(&self) -> PathBuf {
        self.folder.path().join("root")
    }

    /// Adds lines to `spoolbeat.toml`.
    pub(crate) fn settings(&self, more: &str) {
        let mut file = File::options()
            .create(true)
            .append(true)
            .open(self.root().join("spoolbeat.toml"))
            .unwrap();
        file.write_all(more.as_bytes()).unwrap();
    }

    /// Makes the job's folder as `cp -r` does, in place and file by file, or overwrites its files.
    pub(crate) fn job(&self, name: &str, toml: &str, script_name: &str, script: &str) -> &Self {
        let folder = self.root().join("jobs").join(name);
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join("job.toml"), toml).unwrap();
        fs::write(folder.join(script_name), script).unwrap();
        self
    }

    /// Deletes the job's folder.
    pub(crate) fn remove(&self, name: &str) {
        fs::remove_dir_all(self.root().join("jobs").join(name)).unwrap();
    }

    /// Starts the daemon; its own log goes to a file that is shown when the test fails.
    pub(crate) fn start(&mut self) {
        self.start_with(&[]);
    }

    /// The same, with more in the daemon's environment.
    pub(crate) fn start_with(&mut self, environment: &[(&str, &str)]) {
        let mut daemon = self.binary();
        daemon.arg("run").arg(self.root());
        daemon.envs(environment.iter().copied());
        self.start_by(daemon);
    }

    /// The same, within limits that a shell sets by these words.
    pub(crate) fn start_within(&mut self, limits: &str) {
        let mut shell = Command::new("sh");
        shell.args(["-c", &format!("{limits}; exec \"$0\" run \"$1\"")]);
        shell.arg(env!("CARGO_BIN_EXE_spoolbeat")).arg(self.root());
        self.start_by(shell);
    }

    fn start_by(&mut self, mut daemon: Command) {
        assert!(self.daemon.is_none(), "the daemon is running already");
        let log = File::options()
            .create(true)
            .append(true)
            .open(self.log())
            .unwrap();
        daemon
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log);
        self.daemon = Some(daemon.spawn().unwrap());
    }

    /// Stops the daemon with SIGTERM, which must end it with exit code 0.
    pub(crate) fn stop(&mut self) {
        self.terminate();
        self.ended();
    }

    /// Sends SIGTERM.
    pub(crate) fn terminate(&self) {
        signal("TERM", self.daemon.as_ref().unwrap().id());
    }

    /// Waits for the end of a daemon that was told to stop; the exit code must be 0.
    pub(crate) fn ended(&mut self) {
        let mut daemon = self.daemon.take().unwrap();
        let status = end_of(&mut daemon, "the daemon ends after SIGTERM");
        assert_eq!(status.code(), Some(0), "the daemon's exit code");
    }

    /// Kills the daemon with SIGKILL.
    pub(crate) fn kill(&mut self) {
        let mut daemon = self.daemon.take().unwrap();
        daemon.kill().unwrap();
        daemon.wait().unwrap();
    }

    /// Whether the daemon has been killed by SIGKILL, which it may have sent itself; any other end
    /// fails the test.
    pub(crate) fn is_killed(&mut self) -> bool {
        let ended = self.daemon.as_mut().unwrap().try_wait().unwrap();
        if let Some(status) = ended {
            assert_eq!(status.signal(), Some(9), "the daemon ended: {status}");
            self.daemon = None;
        }
        ended.is_some()
    }

    /// CPU time that the daemon itself has used, its children apart.
    pub(crate) fn cpu(&self) -> Duration {
        let stat = fs::read_to_string(self.proc("stat")).unwrap();
        let fields: Vec<&str> = stat.rsplit(") ").next().unwrap().split(' ').collect();
        let ticks: u64 = fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap();
        // 100 ticks a second on every Linux that is not built to differ.
        Duration::from_millis(ticks * 10)
    }

    /// The most memory that the daemon itself has had resident, in bytes.
    pub(crate) fn peak_memory(&self) -> u64 {
        peak_memory(self.daemon.as_ref().unwrap().id())
    }

    fn proc(&self, file: &str) -> PathBuf {
        Path::new("/proc")
            .join(self.daemon.as_ref().unwrap().id().to_string())
            .join(file)
    }

    /// What `status --json` says; null while no daemon answers.
    pub(crate) fn status(&self) -> Value {
        let output = self
            .binary()
            .arg("status")
            .arg(self.root())
            .arg("--json")
            .output()
            .unwrap();
        serde_json::from_slice(&output.stdout).unwrap_or(Value::Null)
    }

    /// What `status --json` says of one job; null when it does not know it.
    pub(crate) fn job_status(&self, job: &str) -> Value {
        self.status()["jobs"]
            .as_array()
            .and_then(|jobs| jobs.iter().find(|entry| entry["name"] == job))
            .cloned()
            .unwrap_or(Value::Null)
    }

    /// Runs another command of the binary to its end; `args` come with the root where they need it.
    pub(crate) fn command(&self, args: &[&str]) -> Output {
        self.binary()
            .args(args)
            .current_dir(self.root())
            .output()
            .unwrap()
    }

    /// A file of the job's newest result; empty when it is not there.
    pub(crate) fn latest_result(&self, job: &str, file: &str) -> String {
        let path = self.root().join("results").join(job).join("latest");
        fs::read_to_string(path.join(file)).unwrap_or_default()
    }

    /// The last line of the daemon's own log.
    pub(crate) fn last_words(&self) -> Value {
        let log = fs::read_to_string(self.log()).unwrap();
        serde_json::from_str(log.lines().next_back().unwrap()).unwrap()
    }

    /// The daemon's own log so far, line by line; the last line may be only half written.
    fn told(&self) -> Vec<Value> {
        let log = fs::read_to_string(self.log()).unwrap_or_default();
        let lines = log.lines().map(serde_json::from_str);
        lines.filter_map(Result::ok).collect()
    }

    /// How often a version of the job has been loaded.
    pub(crate) fn loads(&self, job: &str) -> usize {
        let is_load =
            |line: &Value| line["message"] == "job is loaded" && line["labels"]["job"] == job;
        self.told().iter().filter(|line| is_load(line)).count()
    }

    /// How many lines of the daemon's own log have these words.
    pub(crate) fn said_of(&self, words: &str) -> usize {
        let has = |line: &Value| line["message"].as_str().is_some_and(|m| m.contains(words));
        self.told().iter().filter(|line| has(line)).count()
    }

    /// Lets other users through to the root directory, as they are to one that is in use.
    pub(crate) fn open_to_users(&self) {
        let way = fs::Permissions::from_mode(0o711);
        fs::set_permissions(self.folder.path(), way).unwrap();
    }

    /// Gives all that is there to a user and lets the binary run as that user from here on; needs root.
    pub(crate) fn give_to(&mut self, id: u32) {
        let binary = self.folder.path().join("spoolbeat");
        fs::copy(env!("CARGO_BIN_EXE_spoolbeat"), &binary).unwrap();
        let given = Command::new("chown")
            .args(["-R", &format!("{id}:{id}")])
            .arg(self.folder.path())
            .status()
            .unwrap();
        assert!(given.success());
        self.user = Some(User { id, binary });
    }

    fn binary(&self) -> Command {
        let Some(user) = &self.user else {
            return spoolbeat();
        };
        let mut command = Command::new(&user.binary);
        command.env_remove("SPOOLBEAT_ROOT").stdin(Stdio::null());
        std::os::unix::process::CommandExt::uid(&mut command, user.id);
        std::os::unix::process::CommandExt::gid(&mut command, user.id);
        command
    }

    /// The process id of the daemon.
    pub(crate) fn pid(&self) -> u32 {
        self.daemon.as_ref().unwrap().id()
    }

    /// The daemon's own log.
    pub(crate) fn log(&self) -> PathBuf {
        self.folder.path().join("daemon.err")
    }
}

impl Drop for Spool {
    fn drop(&mut self) {
        if let Some(mut daemon) = self.daemon.take() {
            // Nothing can be done about a failure here: it means that the daemon is gone.
            drop(daemon.kill());
            drop(daemon.wait());
        }
        if thread::panicking() {
            let log = fs::read_to_string(self.log()).unwrap_or_default();
            drop(writeln!(std::io::stderr(), "the daemon's log:\n{log}"));
        }
    }
}

/// Sends a process the signal of this name, like `INT`.
pub(crate) fn signal(name: &str, pid: u32) {
    // The shell's own `kill`: the program of that name is missing on small systems.
    let sent = Command::new("sh")
        .args(["-c", &format!("kill -s {name} {pid}")])
        .status()
        .unwrap();
    assert!(sent.success());
}

/// The binary, with nothing in its environment that would lead it to another root.
pub(crate) fn spoolbeat() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_spoolbeat"));
    command.env_remove("SPOOLBEAT_ROOT").stdin(Stdio::null());
    command
}

/// The most memory that a process has had resident, in bytes.
fn peak_memory(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:"));
    let number = line.unwrap().split_whitespace().nth(1);
    number.unwrap().parse::<u64>().unwrap() * 1024
}

fn end_of(child: &mut Child, what: &str) -> ExitStatus {
    let mut status = None;
    wait_until(SOON, what, || {
        status = child.try_wait().unwrap();
        status.is_some()
    });
    status.unwrap()
}

/// Whether a test that needs root cannot run; says so.
pub(crate) fn needs_root(test: &str) -> bool {
    if !is_root() {
        drop(writeln!(std::io::stdout(), "SKIP {test}: needs root"));
    }
    !is_root()
}

/// Whether the tests run as root.
pub(crate) fn is_root() -> bool {
    std::os::unix::fs::MetadataExt::uid(&fs::metadata("/proc/self").unwrap()) == 0
}

/// Whether tests take their long forms.
pub(crate) fn soak() -> bool {
    std::env::var_os("SPOOLBEAT_SOAK").is_some_and(|value| value == "1")
}

/// Both outputs of a command, as text.
pub(crate) fn said(output: &Output) -> String {
    let mut text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.push_str(&String::from_utf8_lossy(&output.stderr));
    text
}

/// Whether a process with this number exists.
pub(crate) fn lives(pid: &str) -> bool {
    Path::new("/proc").join(pid).join("stat").exists()
}

/// The run that an event belongs to: `event.id` is `<run-id>.<letter>.<n>`.
pub(crate) fn run_of(event: &Value) -> String {
    let (head, _) = id_parts(event);
    head
}

/// Whether an event is one of the start and end events of runs.
pub(crate) fn is_run_event(event: &Value) -> bool {
    id_parts(event).1 == "r"
}

/// Run and stream letter of an event. The run's id has a dot in it, so this reads from the end.
fn id_parts(event: &Value) -> (String, String) {
    let id = event["event"]["id"].as_str().unwrap();
    let mut parts = id.rsplitn(3, '.');
    parts.next();
    let letter = parts.next().unwrap().to_owned();
    (parts.next().unwrap().to_owned(), letter)
}
