//! The shim: the small process between the daemon and one script, started by re-exec of our own
//! binary (`spoolbeat exec-shim`, which is told the rest by `wire`).
//!
//! It prepares the script's process (cgroup, session, limits, user, secrets, signals), starts it, reports its
//! end, and ends everything that the script left behind, also when the daemon dies: it then reads
//! the end of its control socket. It has one thread and no runtime, and it must never know
//! jobs, runs or configuration.
//!
//! Control socket (descriptor 0 at the start): the daemon writes the start, then one byte per [`Order`], the shim
//! writes [`Message`]s of eight bytes. The shim leaves as soon as nothing of the script is left.

use std::convert::Infallible;
use std::ffi::CStr;
use std::ffi::CString;
use std::ffi::OsStr;
use std::fs::File;
use std::fs::read_dir;
use std::fs::read_to_string;
use std::io;
use std::io::Read;
use std::io::Write;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use nix::sys::resource::Resource;
use rustix::fs::OFlags;

use super::cgroup::Can;
use super::cgroup::Group;
use super::open_files;
use super::sys;
use super::sys::Forked;
use super::sys::Waited;
use super::wire::START_BYTES_MAX;
use super::wire::SecretFile;
use super::wire::Start;
use crate::clock;
use crate::clock::Tick;
use crate::disk;
use crate::run::Exit;
use crate::run::Order;

/// The first argument that makes our binary a shim.
pub const SHIM_ARGUMENT: &str = "exec-shim";

/// Largest secret: keys and tokens have kilobytes, and an environment variable at most 128 KiB.
const SECRET_BYTES_MAX: u64 = 64 << 10;

/// How long a sweep may take. Only a process that the kernel holds (a dead network disk) needs
/// more than milliseconds; it is left to die with its KILL pending, and counted.
pub(super) const SWEEP_LIMIT: std::time::Duration = std::time::Duration::from_secs(5);

/// Pause between two looks for children that are not dead yet.
const SWEEP_PAUSE_MS: i32 = 10;

/// A file that somebody holds open for writing cannot be executed. A writer that has just been
/// closed may live on for moments in a process that is being started elsewhere: try this often.
const BUSY_TRIES: u32 = 20;

/// Pause between two such tries.
const BUSY_PAUSE: std::time::Duration = std::time::Duration::from_millis(10);

/// An order's byte on the control socket. `T`: TERM (and CONT, so that a stopped process gets it)
/// to the script's process group. `K`: KILL to the group and to all that descends from the script.
pub(super) const fn order_byte(order: Order) -> u8 {
    match order {
        Order::Terminate => b'T',
        Order::Kill => b'K',
    }
}

/// The step at which a start failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    /// The shim could not prepare itself.
    Shim,
    /// No process could be made.
    Fork,
    /// The new process could not be prepared.
    Prepare,
    /// The run's cgroup could not be made or entered.
    Cgroup,
    /// A limit could not be set.
    Limit,
    /// The user could not be become.
    User,
    /// A secret could not be read.
    Secret,
    /// Its standard input could not be opened.
    Stdin,
    /// The working directory could not be entered.
    Cwd,
    /// The program could not be executed.
    Exec,
}

impl Stage {
    const ALL: [Self; 10] = [
        Self::Shim,
        Self::Fork,
        Self::Prepare,
        Self::Cgroup,
        Self::Limit,
        Self::User,
        Self::Secret,
        Self::Stdin,
        Self::Cwd,
        Self::Exec,
    ];

    fn byte(self) -> u8 {
        self as u8
    }

    fn from_byte(byte: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|stage| stage.byte() == byte)
    }
}

/// Why there is no script.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Failure {
    /// At which step.
    pub(super) stage: Stage,
    /// Which of several of its kind: the secret, by its place among those that are files.
    pub(super) which: u16,
    /// The system's error number.
    pub(super) errno: i32,
}

impl Failure {
    fn at(stage: Stage) -> impl Fn(io::Error) -> Self {
        move |error| Self {
            stage,
            which: 0,
            errno: error.raw_os_error().unwrap_or(0),
        }
    }
}

/// What the shim tells the daemon.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Message {
    /// The script runs, as this process, which leads a group of the same number.
    Started(i32),
    /// There is no script.
    CouldNotStart(Failure),
    /// The script's own process has ended.
    Exited(Exit),
    /// So many processes outlived the sweep.
    Left(u32),
}

/// Length of a message on the control socket.
pub(super) const MESSAGE_BYTES: usize = 8;

impl Message {
    fn to_bytes(self) -> [u8; MESSAGE_BYTES] {
        let (kind, stage, which, number) = match self {
            Self::Started(pid) => (b'S', 0, 0, pid),
            Self::CouldNotStart(why) => (b'F', why.stage.byte(), why.which, why.errno),
            Self::Exited(Exit::Code(code)) => (b'X', 0, 0, code),
            Self::Exited(Exit::Signal(signal)) => (b'G', 0, 0, signal),
            Self::Exited(Exit::OutOfMemory) => (b'O', 0, 0, 0),
            Self::Left(count) => (b'L', 0, 0, i32::try_from(count).unwrap_or(i32::MAX)),
        };
        let ([w, v], [a, b, c, d]) = (which.to_be_bytes(), number.to_be_bytes());
        [kind, stage, w, v, a, b, c, d]
    }

    /// Reads a message; `None` when it is none.
    pub(super) fn from_bytes(bytes: [u8; MESSAGE_BYTES]) -> Option<Self> {
        let [kind, stage, w, v, a, b, c, d] = bytes;
        let number = i32::from_be_bytes([a, b, c, d]);
        match kind {
            b'S' => Some(Self::Started(number)),
            b'F' => Some(Self::CouldNotStart(Failure {
                stage: Stage::from_byte(stage)?,
                which: u16::from_be_bytes([w, v]),
                errno: number,
            })),
            b'X' => Some(Self::Exited(Exit::Code(number))),
            b'G' => Some(Self::Exited(Exit::Signal(number))),
            b'O' => Some(Self::Exited(Exit::OutOfMemory)),
            b'L' => Some(Self::Left(u32::try_from(number).ok()?)),
            _ => None,
        }
    }
}

/// Runs as a shim. Returns the exit code when nothing of the script is left. Call it before the
/// program starts threads or opens anything.
pub fn shim_main() -> i32 {
    sys::close_from(3);
    let Ok(control) = sys::duplicate(0) else {
        return 1;
    };
    let mut control = Control(File::from(control));
    let Some(order) = control.hear_start() else {
        return 1;
    };
    match start(&order) {
        Ok((leader, children, group)) => {
            control.tell(Message::Started(leader));
            Watch::new(leader, control, children, group).run()
        }
        Err(failure) => {
            control.tell(Message::CouldNotStart(failure));
            1
        }
    }
}

/// The shim's end of the control socket.
struct Control(File);

impl Control {
    fn tell(&mut self, message: Message) {
        // A daemon that is gone is noticed by the next read, which then sees the end.
        drop(self.0.write_all(&message.to_bytes()));
    }

    /// What is to be started; `None` when the daemon is gone already.
    fn hear_start(&mut self) -> Option<Start> {
        let mut length = [0; size_of::<u64>()];
        self.0.read_exact(&mut length).ok()?;
        let length = usize::try_from(u64::from_be_bytes(length)).ok()?;
        let mut bytes = vec![0; Some(length).filter(|length| *length <= START_BYTES_MAX)?];
        self.0.read_exact(&mut bytes).ok()?;
        Start::from_bytes(&bytes)
    }
}

/// Prepares the shim, starts the script; gives its process id, the descriptor that tells of
/// children's ends, and the group that the script is in.
fn start(order: &Start) -> Result<(i32, OwnedFd, Option<Group>), Failure> {
    let shim = Failure::at(Stage::Shim);
    sys::set_name(c"spoolbeat-shim");
    let null: OwnedFd = File::options()
        .read(true)
        .write(true)
        .open("/dev/null")
        .map_err(&shim)?
        .into();
    sys::duplicate_onto(&null, 0).map_err(&shim)?;
    sys::become_subreaper().map_err(&shim)?;
    let children = sys::watch_children().map_err(&shim)?;
    let (group, can) = match &order.cgroup {
        None => (None, Can::default()),
        Some(dir) => Group::make(as_path(dir), &order.limits)
            .map(|(group, can)| (Some(group), can))
            .map_err(Failure::at(Stage::Cgroup))?,
    };
    let started = start_in(order, group.as_ref(), can, &null);
    match (started, group) {
        (Ok(leader), group) => Ok((leader, children, group)),
        (Err(failure), group) => {
            group.iter().for_each(Group::remove);
            Err(failure)
        }
    }
}

fn as_path(text: &CStr) -> &Path {
    Path::new(OsStr::from_bytes(text.to_bytes()))
}

fn start_in(
    order: &Start,
    group: Option<&Group>,
    can: Can,
    null: &OwnedFd,
) -> Result<i32, Failure> {
    let shim = Failure::at(Stage::Shim);
    let (mut failure, mut report) = io::pipe().map_err(&shim)?;
    let me = i32::try_from(std::process::id()).unwrap_or(0);
    let leader = match sys::fork().map_err(Failure::at(Stage::Fork))? {
        Forked::Parent(pid) => pid,
        Forked::Child => {
            let Err(failure) = become_script(me, order, group, can);
            drop(report.write_all(&Message::CouldNotStart(failure).to_bytes()));
            sys::exit_now(127)
        }
    };
    drop(report);
    // The script's pipes must end with the script, not with us.
    sys::duplicate_onto(null, 1).map_err(&shim)?;
    sys::duplicate_onto(null, 2).map_err(&shim)?;
    // The other end closes at exec, so no report means that it runs.
    let mut told = [0; MESSAGE_BYTES];
    match failure.read_exact(&mut told) {
        Err(_) => Ok(leader),
        Ok(()) => {
            while !matches!(sys::reap_one(), Waited::Ended(..) | Waited::Childless) {
                clock::pause(BUSY_PAUSE);
            }
            match Message::from_bytes(told) {
                Some(Message::CouldNotStart(failure)) => Err(failure),
                _ => Err(Failure::at(Stage::Prepare)(io::Error::other("no reason"))),
            }
        }
    }
}

/// In the forked process: becomes the script, or says why not. The order matters: what needs the
/// daemon's rights comes before they are given up, what the job names comes after.
fn become_script(
    shim: i32,
    order: &Start,
    group: Option<&Group>,
    can: Can,
) -> Result<Infallible, Failure> {
    let prepare = Failure::at(Stage::Prepare);
    if let Some(group) = group {
        group.join().map_err(Failure::at(Stage::Cgroup))?;
    }
    sys::new_session().map_err(&prepare)?;
    sys::set_umask(order.umask);
    limit(order, can).map_err(Failure::at(Stage::Limit))?;
    let mut secrets = Vec::new();
    read_secrets(order, true, &mut secrets)?;
    sys::refuse_new_privileges().map_err(&prepare)?;
    if let Some(user) = &order.user {
        sys::become_user(user.uid, user.gid, &user.groups).map_err(Failure::at(Stage::User))?;
    }
    // A change of user clears it, so it comes after.
    sys::die_with_parent().map_err(&prepare)?;
    // A shim that died before the line above sends no signal any more.
    if sys::parent_id() != shim {
        sys::exit_now(127);
    }
    read_secrets(order, false, &mut secrets)?;
    if let Some(stdin) = &order.stdin {
        disk::open_by_name(as_path(stdin), OFlags::RDONLY)
            .and_then(|file| sys::duplicate_onto(&file.into(), 0))
            .map_err(Failure::at(Stage::Stdin))?;
    }
    std::env::set_current_dir(as_path(&order.cwd)).map_err(Failure::at(Stage::Cwd))?;
    sys::default_signals();
    let env: Vec<CString> = order.env.iter().cloned().chain(secrets).collect();
    let mut tries = 1;
    loop {
        let error = sys::exec(&order.argv, &env);
        if error.raw_os_error() != Some(libc::ETXTBSY) || tries == BUSY_TRIES {
            return Err(Failure::at(Stage::Exec)(error));
        }
        tries += 1;
        clock::pause(BUSY_PAUSE);
    }
}

/// Sets the limits of this process; those that its group keeps for all together are not set twice.
fn limit(order: &Start, can: Can) -> io::Result<()> {
    let limits = &order.limits;
    if let Some(most) = order.usual_open_files {
        open_files::set_usual(most)?;
    }
    let memory = limits.memory.filter(|_| !can.memory);
    let processes = limits.processes.filter(|_| !can.pids);
    for (resource, most) in [
        (Resource::RLIMIT_DATA, memory),
        (Resource::RLIMIT_NPROC, processes),
        (Resource::RLIMIT_NOFILE, limits.open_files),
        (Resource::RLIMIT_FSIZE, limits.file_size),
        (Resource::RLIMIT_CORE, Some(limits.core)),
    ] {
        if let Some(most) = most {
            sys::set_limit(resource, most)?;
        }
    }
    Ok(())
}

/// Reads the secrets that are files of the daemon, or those of the job, as `NAME=value`.
fn read_secrets(order: &Start, daemons: bool, into: &mut Vec<CString>) -> Result<(), Failure> {
    for (place, secret) in order.files.iter().enumerate() {
        if secret.is_daemons == daemons {
            let variable = read_secret(secret).map_err(|error| Failure {
                which: u16::try_from(place).unwrap_or(u16::MAX),
                ..Failure::at(Stage::Secret)(error)
            })?;
            into.push(variable);
        }
    }
    Ok(())
}

fn read_secret(secret: &SecretFile) -> io::Result<CString> {
    let refuse = |errno| Err(io::Error::from_raw_os_error(errno));
    // Links are followed: with the job's own rights they lead nowhere that it could not read itself. Those of
    // `/proc` are not: our working directory is still the daemon's.
    let read = disk::read_plain(as_path(&secret.path), SECRET_BYTES_MAX);
    let mut value = match read.as_ref().map_err(io::Error::kind) {
        Err(io::ErrorKind::InvalidInput) => return refuse(libc::EISDIR),
        Err(io::ErrorKind::InvalidData) => return refuse(libc::EFBIG),
        _ => read?,
    };
    if value.last() == Some(&b'\n') {
        value.pop();
        if value.last() == Some(&b'\r') {
            value.pop();
        }
    }
    let mut variable = secret.name.as_bytes().to_vec();
    variable.push(b'=');
    variable.extend_from_slice(&value);
    CString::new(variable).or_else(|_| refuse(libc::EILSEQ))
}

/// The shim while its script runs.
struct Watch {
    /// The script's process, until it is reaped: till then its number and group are its own.
    leader: Option<i32>,
    control: Control,
    /// Readable when a child has changed.
    children: File,
    /// What the script and all that it starts are in.
    group: Option<Group>,
    /// Set by the first KILL: until when everything must be gone.
    sweep_until: Option<Tick>,
}

impl Watch {
    fn new(leader: i32, control: Control, children: OwnedFd, group: Option<Group>) -> Self {
        Self {
            leader: Some(leader),
            control,
            children: File::from(children),
            group,
            sweep_until: None,
        }
    }

    fn run(mut self) -> i32 {
        loop {
            if self.reap() {
                self.group.iter().for_each(Group::remove);
                return 0;
            }
            if let Some(until) = self.sweep_until {
                if clock::tick() >= until {
                    return self.give_up();
                }
                self.kill_all();
            }
            let limit = self.sweep_until.map_or(-1, |_| SWEEP_PAUSE_MS);
            let Ok((orders, ended)) = self.wait(limit) else {
                // Interrupted; every signal that matters comes by descriptor.
                continue;
            };
            if ended {
                self.forget_signals();
            }
            if orders {
                self.obey();
            }
        }
    }

    fn wait(&self, limit_ms: i32) -> io::Result<(bool, bool)> {
        let control = &self.control.0;
        // While a sweep runs nothing more can be asked: an ended socket must not spin the loop.
        if self.sweep_until.is_some() {
            let (_, ended) = sys::wait_readable(&self.children, &self.children, limit_ms)?;
            return Ok((false, ended));
        }
        sys::wait_readable(control, &self.children, limit_ms)
    }

    /// Reaps all that have ended. Whether nothing is left.
    fn reap(&mut self) -> bool {
        loop {
            match sys::reap_one() {
                Waited::Ended(pid, exit) if self.leader == Some(pid) => {
                    self.leader = None;
                    let memory = self.group.as_ref().is_some_and(Group::was_out_of_memory);
                    let exit = match exit {
                        Exit::Signal(libc::SIGKILL) if memory => Exit::OutOfMemory,
                        exit => exit,
                    };
                    self.control.tell(Message::Exited(exit));
                }
                Waited::Ended(..) => {}
                Waited::None => return false,
                Waited::Childless => return true,
            }
        }
    }

    fn forget_signals(&mut self) {
        // Only its readiness counts; what it says is asked again from the kernel by reaping.
        let mut records = [0; 512];
        drop(self.children.read(&mut records));
    }

    fn obey(&mut self) {
        let mut bytes = [0; 16];
        let told = match self.control.0.read(&mut bytes) {
            Ok(0) => &[order_byte(Order::Kill)][..], // the daemon is gone: nothing may outlive it
            Ok(count) => &bytes[..count],
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return,
            Err(_) => &[order_byte(Order::Kill)][..],
        };
        if told.contains(&order_byte(Order::Kill)) {
            self.sweep_until = Some(clock::tick().after(SWEEP_LIMIT));
        } else if let Some(leader) = self.leader {
            sys::signal_group(leader, libc::SIGTERM);
            sys::signal_group(leader, libc::SIGCONT);
        }
    }

    /// KILLs the cgroup, the process group and every child. Only children are aimed at, never grandchildren: the
    /// number of an unreaped child cannot be another process. Theirs become ours when they die.
    fn kill_all(&self) {
        self.group.iter().for_each(Group::kill);
        if let Some(leader) = self.leader {
            sys::signal_group(leader, libc::SIGKILL);
        }
        for child in children() {
            sys::signal(child, libc::SIGKILL);
        }
    }

    fn give_up(&mut self) -> i32 {
        let left = u32::try_from(children().len()).unwrap_or(u32::MAX);
        self.control.tell(Message::Left(left));
        1
    }
}

/// The process ids of this process's children, dead ones that are not reaped among them.
fn children() -> Vec<i32> {
    match read_to_string("/proc/thread-self/children") {
        Ok(text) => text
            .split_ascii_whitespace()
            .filter_map(|word| word.parse().ok())
            .collect(),
        Err(_) => children_by_scan(),
    }
}

/// The same for kernels without CONFIG_PROC_CHILDREN: a look at every process.
fn children_by_scan() -> Vec<i32> {
    let me = std::process::id().to_string();
    let Ok(entries) = read_dir("/proc") else {
        return Vec::new();
    };
    entries
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<i32>().ok())
        .filter(|pid| {
            // `PID (NAME) STATE PPID ...`, where NAME may hold anything, so count from its end.
            read_to_string(format!("/proc/{pid}/stat"))
                .ok()
                .and_then(|stat| {
                    let (_, rest) = stat.rsplit_once(')')?;
                    Some(rest.split_ascii_whitespace().nth(1)? == me)
                })
                .unwrap_or(false)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn messages_read_back_as_written() {
        let mut all = vec![
            Message::Started(4_194_304),
            Message::Exited(Exit::Code(255)),
            Message::Exited(Exit::Signal(9)),
            Message::Exited(Exit::OutOfMemory),
            Message::Left(3),
        ];
        all.extend(Stage::ALL.into_iter().map(|stage| {
            Message::CouldNotStart(Failure {
                stage,
                which: 258,
                errno: libc::ENOENT,
            })
        }));
        for message in all {
            assert_eq!(Message::from_bytes(message.to_bytes()), Some(message));
        }
        assert_eq!(Message::from_bytes(*b"nonsense"), None);
    }

    #[test]
    fn both_ways_to_find_children_find_them() {
        let mut child = std::process::Command::new("sleep")
            .arg("60")
            .spawn()
            .unwrap();
        let pid = i32::try_from(child.id()).unwrap();
        assert!(children().contains(&pid));
        assert!(children_by_scan().contains(&pid));
        child.kill().unwrap();
        child.wait().unwrap();
    }
}
