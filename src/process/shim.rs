//! The shim: the small process between the daemon and one script, started by re-exec of our own
//! binary (`spoolbeat exec-shim CWD PROGRAM ARGS...`).
//!
//! It prepares the script's process (session, umask, signals, rights), starts it, reports its
//! end, and ends everything that the script left behind, also when the daemon dies: it then reads
//! the end of its control socket. It has one thread and no runtime, and it must never know
//! jobs, runs or configuration.
//!
//! Control socket (descriptor 0 at the start): the daemon writes one byte per [`Order`], the shim
//! writes [`Message`]s of eight bytes. The shim leaves as soon as nothing of the script is left.

use std::ffi::CString;
use std::ffi::OsString;
use std::fs::File;
use std::fs::read_dir;
use std::fs::read_to_string;
use std::io;
use std::io::Read;
use std::io::Write;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStringExt;
use std::path::Path;

use super::sys;
use super::sys::Forked;
use super::sys::Waited;
use crate::clock;
use crate::clock::Tick;
use crate::run::Exit;
use crate::run::Order;

/// The first argument that makes our binary a shim.
pub const SHIM_ARGUMENT: &str = "exec-shim";

/// What scripts make is not readable by everybody.
const SCRIPT_UMASK: u32 = 0o027;

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
    /// The working directory could not be entered.
    Cwd,
    /// The program could not be executed.
    Exec,
}

impl Stage {
    const ALL: [Self; 5] = [Self::Shim, Self::Fork, Self::Prepare, Self::Cwd, Self::Exec];

    fn byte(self) -> u8 {
        self as u8
    }

    fn from_byte(byte: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|stage| stage.byte() == byte)
    }
}

/// What the shim tells the daemon.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Message {
    /// The script runs, as this process, which leads a group of the same number.
    Started(i32),
    /// There is no script; the system's error number.
    CouldNotStart(Stage, i32),
    /// The script's own process has ended.
    Exited(Exit),
    /// So many processes outlived the sweep.
    Left(u32),
}

/// Length of a message on the control socket.
pub(super) const MESSAGE_BYTES: usize = 8;

impl Message {
    fn to_bytes(self) -> [u8; MESSAGE_BYTES] {
        let (kind, stage, number) = match self {
            Self::Started(pid) => (b'S', 0, pid),
            Self::CouldNotStart(stage, errno) => (b'F', stage.byte(), errno),
            Self::Exited(Exit::Code(code)) => (b'X', 0, code),
            Self::Exited(Exit::Signal(signal)) => (b'G', 0, signal),
            Self::Left(count) => (b'L', 0, i32::try_from(count).unwrap_or(i32::MAX)),
        };
        let [a, b, c, d] = number.to_be_bytes();
        [kind, stage, 0, 0, a, b, c, d]
    }

    /// Reads a message; `None` when it is none.
    pub(super) fn from_bytes(bytes: [u8; MESSAGE_BYTES]) -> Option<Self> {
        let [kind, stage, _, _, a, b, c, d] = bytes;
        let number = i32::from_be_bytes([a, b, c, d]);
        match kind {
            b'S' => Some(Self::Started(number)),
            b'F' => Some(Self::CouldNotStart(Stage::from_byte(stage)?, number)),
            b'X' => Some(Self::Exited(Exit::Code(number))),
            b'G' => Some(Self::Exited(Exit::Signal(number))),
            b'L' => Some(Self::Left(u32::try_from(number).ok()?)),
            _ => None,
        }
    }
}

/// Runs as a shim; `args` are those after [`SHIM_ARGUMENT`]. Returns the exit code when nothing
/// of the script is left. Call it before the program starts threads or opens anything.
pub fn shim_main(args: impl Iterator<Item = OsString>) -> i32 {
    let mut texts = args.map(|arg| CString::new(arg.into_vec()));
    let (Some(Ok(cwd)), Some(Ok(program))) = (texts.next(), texts.next()) else {
        return 2;
    };
    let mut argv = vec![program];
    for text in texts {
        let Ok(text) = text else { return 2 };
        argv.push(text);
    }
    sys::close_from(3);
    let Ok(control) = sys::duplicate(0) else {
        return 1;
    };
    let mut control = Control(File::from(control));
    match start(&cwd, &argv) {
        Ok((leader, children)) => {
            control.tell(Message::Started(leader));
            Watch::new(leader, control, children).run()
        }
        Err((stage, error)) => {
            control.tell(Message::CouldNotStart(
                stage,
                error.raw_os_error().unwrap_or(0),
            ));
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
}

type Failure = (Stage, io::Error);

/// Prepares the shim, starts the script; gives its process id and the descriptor that tells of
/// children's ends.
fn start(cwd: &CString, argv: &[CString]) -> Result<(i32, OwnedFd), Failure> {
    let shim = |error| (Stage::Shim, error);
    sys::set_name(c"spoolbeat-shim");
    let null: OwnedFd = File::options()
        .read(true)
        .write(true)
        .open("/dev/null")
        .map_err(shim)?
        .into();
    sys::duplicate_onto(&null, 0).map_err(shim)?;
    sys::become_subreaper().map_err(shim)?;
    let children = sys::watch_children().map_err(shim)?;
    let (mut failure, report) = io::pipe().map_err(shim)?;
    let me = i32::try_from(std::process::id()).unwrap_or(0);
    let leader = match sys::fork().map_err(|error| (Stage::Fork, error))? {
        Forked::Parent(pid) => pid,
        Forked::Child => become_script(me, cwd, argv, report),
    };
    drop(report);
    // The script's pipes must end with the script, not with us.
    sys::duplicate_onto(&null, 1).map_err(shim)?;
    sys::duplicate_onto(&null, 2).map_err(shim)?;
    // The other end closes at exec, so no report means that it runs.
    let mut told = [0; MESSAGE_BYTES];
    match failure.read_exact(&mut told) {
        Err(_) => Ok((leader, children)),
        Ok(()) => match Message::from_bytes(told) {
            Some(Message::CouldNotStart(stage, errno)) => {
                Err((stage, io::Error::from_raw_os_error(errno)))
            }
            _ => Err((Stage::Prepare, io::Error::from_raw_os_error(0))),
        },
    }
}

/// In the forked process: becomes the script, or says why not.
fn become_script(shim: i32, cwd: &CString, argv: &[CString], mut report: io::PipeWriter) -> ! {
    let (stage, error) = prepare_and_exec(shim, cwd, argv);
    let errno = error.raw_os_error().unwrap_or(0);
    drop(report.write_all(&Message::CouldNotStart(stage, errno).to_bytes()));
    sys::exit_now(127)
}

fn prepare_and_exec(shim: i32, cwd: &CString, argv: &[CString]) -> Failure {
    match prepare(shim, cwd) {
        Err(failure) => failure,
        Ok(()) => {
            let mut tries = 1;
            loop {
                let error = sys::exec(&argv[0], argv);
                if error.raw_os_error() != Some(libc::ETXTBSY) || tries == BUSY_TRIES {
                    return (Stage::Exec, error);
                }
                tries += 1;
                clock::pause(BUSY_PAUSE);
            }
        }
    }
}

fn prepare(shim: i32, cwd: &CString) -> Result<(), Failure> {
    let prepare = |error| (Stage::Prepare, error);
    sys::new_session().map_err(prepare)?;
    sys::die_with_parent().map_err(prepare)?;
    // A shim that died before the line above sends no signal any more.
    if sys::parent_id() != shim {
        sys::exit_now(127);
    }
    sys::refuse_new_privileges().map_err(prepare)?;
    sys::set_umask(SCRIPT_UMASK);
    let cwd = OsString::from_vec(cwd.as_bytes().to_vec());
    std::env::set_current_dir(Path::new(&cwd)).map_err(|error| (Stage::Cwd, error))?;
    sys::default_signals();
    Ok(())
}

/// The shim while its script runs.
struct Watch {
    /// The script's process, until it is reaped: till then its number and group are its own.
    leader: Option<i32>,
    control: Control,
    /// Readable when a child has changed.
    children: File,
    /// Set by the first KILL: until when everything must be gone.
    sweep_until: Option<Tick>,
}

impl Watch {
    fn new(leader: i32, control: Control, children: OwnedFd) -> Self {
        Self {
            leader: Some(leader),
            control,
            children: File::from(children),
            sweep_until: None,
        }
    }

    fn run(mut self) -> i32 {
        loop {
            if self.reap() {
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

    /// KILLs the group and every child. Only children are aimed at, never grandchildren: the
    /// number of an unreaped child cannot be another process. Theirs become ours when they die.
    fn kill_all(&self) {
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
            Message::Left(3),
        ];
        all.extend(
            Stage::ALL
                .into_iter()
                .map(|stage| Message::CouldNotStart(stage, libc::ENOENT)),
        );
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
