//! Processes: scripts as children behind a shim, and what the system says about ourselves.
//!
//! The daemon never forks: [`spawn`] starts our own binary again as a shim (posix_spawn, whose
//! price does not grow with the daemon), and the shim starts the script. Between the two lies a
//! socket; when it ends, because the daemon dies or a [`Child`] is dropped, the shim ends all
//! that the script left. The only place for `libc` and `unsafe`, besides `disk`. Must never know
//! jobs, runs or what a script prints.
//!
//! A script is started as another user, within limits and in a cgroup of its own, and the shim
//! is told all of that by the socket: see `wire`.

use std::ffi::OsString;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream as StdStream;
use std::path::PathBuf;
use std::process::Stdio;

use tokio::io::Interest;
use tokio::net::UnixStream;
use tokio::net::unix::pipe::Receiver;

use self::shim::MESSAGE_BYTES;
use self::shim::Message;
use crate::run::Exit;
use crate::run::Order;

mod cgroup;
mod open_files;
mod rights;
mod shim;
mod sys;
mod wire;
mod words;

pub use self::cgroup::Can;
pub use self::cgroup::Cgroups;
pub use self::open_files::open_files_max;
pub use self::open_files::raise_open_files;
pub use self::rights::Limits;
pub use self::rights::Rights;
pub use self::rights::Secret;
pub use self::rights::User;
pub use self::rights::as_user;
pub use self::rights::group_named;
pub use self::rights::has_borrowed_rights;
pub use self::shim::SHIM_ARGUMENT;
pub use self::shim::shim_main;

/// A program to start.
#[derive(Debug, Clone)]
pub struct Command {
    /// A path, or a name that is looked up on the PATH of `env`.
    pub program: OsString,
    /// Its arguments.
    pub args: Vec<OsString>,
    /// Its whole environment: nothing else is added.
    pub env: Vec<(OsString, OsString)>,
    /// Variables whose values nobody but the script may see.
    pub secrets: Vec<(OsString, SecretFrom)>,
    /// Its working directory.
    pub cwd: PathBuf,
    /// What it reads from standard input: a file, opened with its own rights; `None`: nothing.
    pub stdin: Option<PathBuf>,
    /// As whom and within which limits.
    pub rights: Rights,
    /// The cgroup that is made for it, if one can be: see [`Cgroups::of_run`].
    pub cgroup: Option<PathBuf>,
}

/// Where the value of a secret comes from. Files are read at each start, by the script's own
/// process, so that what is in them is never in the daemon's memory. One line end at the end is cut off.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SecretFrom {
    /// From here.
    Text(Secret),
    /// From a file that is read with the rights of the script.
    JobsFile(PathBuf),
    /// From a file that is read with the rights of the daemon.
    DaemonsFile(PathBuf),
}

/// Why not even a shim could be started: the machine or its limits, never the script.
#[derive(Debug)]
pub struct SpawnError {
    step: &'static str,
    error: io::Error,
}

impl std::fmt::Display for SpawnError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { step, error } = self;
        write!(f, "{step}: {error}")?;
        match error.raw_os_error() {
            Some(libc::EMFILE | libc::ENFILE) => {
                f.write_str(" (raise the limit of open files, like LimitNOFILE=65536)")
            }
            Some(libc::EAGAIN) => {
                f.write_str(" (raise the limit of processes, like TasksMax=65536)")
            }
            _ => Ok(()),
        }
    }
}

impl std::error::Error for SpawnError {}

/// What became known of a child. `Started` or `CouldNotStart` comes first, once; `Exited` once
/// after `Started`; `Gone` last.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Note {
    /// The script runs.
    Started {
        /// Its process, which leads a session and a group of its own.
        pid: i32,
    },
    /// There is no script.
    CouldNotStart {
        /// Why, in words for people.
        reason: String,
    },
    /// The script's own process has ended; others that it started may live.
    Exited(Exit),
    /// The shim is reaped: nothing of the script is left.
    Gone {
        /// Except for so many processes that could not be killed within the sweep.
        left: u32,
    },
}

/// A started script: its pipes and its shim. Dropping `watch` kills all of it.
#[derive(Debug)]
pub struct Child {
    /// Standard output.
    pub stdout: Receiver,
    /// Standard error.
    pub stderr: Receiver,
    /// Its shim.
    pub watch: Watch,
}

/// The daemon's side of a shim: notes come from here, orders go in here.
#[derive(Debug)]
pub struct Watch {
    shim: tokio::process::Child,
    control: UnixStream,
    command: Command,
    /// Bytes for the shim that the socket did not take yet; at most one start and two orders.
    unsent: Vec<u8>,
    /// Bytes of the control socket that are not a whole message yet.
    unread: Vec<u8>,
    facts: Facts,
}

/// What was said of a child so far.
#[derive(Debug, Default)]
struct Facts {
    pid: Option<i32>,
    start_decided: bool,
    exited: bool,
    ended: bool,
    left: u32,
}

/// Starts `command` behind the shim in the executable `shim` (see [`self_exe`]). Call it within
/// the runtime. Whether the script itself could be started is told by [`Watch::next`].
///
/// # Errors
/// When the machine has no descriptors, processes or memory left.
pub fn spawn(shim: &std::path::Path, command: Command) -> Result<Child, SpawnError> {
    let failed = |step| move |error| SpawnError { step, error };
    let unsent = wire::start_bytes(&command)
        .ok_or_else(|| io::Error::from_raw_os_error(libc::E2BIG))
        .map_err(failed("cannot pass on arguments and environment"))?;
    let (ours, theirs) = StdStream::pair().map_err(failed("cannot make a socket pair"))?;
    ours.set_nonblocking(true)
        .map_err(failed("cannot make a socket pair"))?;
    let control = UnixStream::from_std(ours).map_err(failed("cannot watch a socket"))?;
    let (stdout, stdout_writer) = pipe().map_err(failed("cannot make a pipe"))?;
    let (stderr, stderr_writer) = pipe().map_err(failed("cannot make a pipe"))?;
    let child = tokio::process::Command::new(shim)
        .arg0("spoolbeat")
        .arg(SHIM_ARGUMENT)
        // The shim has the daemon's rights: nothing that a job says may reach its environment.
        .env_clear()
        .stdin(Stdio::from(OwnedFd::from(theirs)))
        .stdout(Stdio::from(stdout_writer))
        .stderr(Stdio::from(stderr_writer))
        // Not of our process group: Ctrl-C at a terminal is for the daemon, which then decides.
        .process_group(0)
        .spawn()
        .map_err(failed("cannot start a process"))?;
    Ok(Child {
        stdout,
        stderr,
        watch: Watch {
            shim: child,
            control,
            command,
            unsent,
            unread: Vec::with_capacity(4 * MESSAGE_BYTES),
            facts: Facts::default(),
        },
    })
}

fn pipe() -> io::Result<(Receiver, io::PipeWriter)> {
    let (reader, writer) = io::pipe()?;
    Ok((Receiver::from_owned_fd(OwnedFd::from(reader))?, writer))
}

impl Watch {
    /// The next thing that became known. Nothing is lost when the future is dropped. After
    /// [`Note::Gone`] it gives that again.
    pub async fn next(&mut self) -> Note {
        loop {
            if let Some(message) = self.take_message() {
                if let Some(note) = self.note(message) {
                    return note;
                }
                continue;
            }
            if self.facts.ended {
                return self.after_the_end().await;
            }
            self.read().await;
        }
    }

    /// Asks the shim for something. One that is gone has nothing left to do it to.
    pub fn order(&mut self, order: Order) {
        self.unsent.push(shim::order_byte(order));
        self.write();
    }

    /// Writes what the socket takes.
    fn write(&mut self) {
        match self.control.try_write(&self.unsent) {
            Ok(count) => drop(self.unsent.drain(..count)),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            // The shim is gone, which reading tells; trying again would only keep that from being heard.
            Err(_) => self.unsent.clear(),
        }
    }

    async fn read(&mut self) {
        let mut bytes = [0; 4 * MESSAGE_BYTES];
        let interest = match self.unsent.is_empty() {
            true => Interest::READABLE,
            false => Interest::READABLE | Interest::WRITABLE,
        };
        let Ok(ready) = self.control.ready(interest).await else {
            self.facts.ended = true;
            return;
        };
        if ready.is_writable() {
            self.write();
        }
        if !ready.is_readable() {
            return;
        }
        match self.control.try_read(&mut bytes) {
            Ok(0) => self.facts.ended = true,
            Ok(count) => self.unread.extend_from_slice(&bytes[..count]),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            // A reset means that the shim left with an order unread.
            Err(_) => self.facts.ended = true,
        }
    }

    fn take_message(&mut self) -> Option<Message> {
        while let Some((head, _)) = self.unread.split_first_chunk::<MESSAGE_BYTES>() {
            let message = Message::from_bytes(*head);
            self.unread.drain(..MESSAGE_BYTES);
            if message.is_some() {
                return message;
            }
        }
        None
    }

    fn note(&mut self, message: Message) -> Option<Note> {
        match message {
            Message::Started(pid) => {
                self.facts.start_decided = true;
                self.facts.pid = Some(pid);
                Some(Note::Started { pid })
            }
            Message::CouldNotStart(failure) => {
                self.facts.start_decided = true;
                let reason = words::could_not_start(failure, &self.command);
                Some(Note::CouldNotStart { reason })
            }
            Message::Exited(exit) => {
                self.facts.exited = true;
                Some(Note::Exited(exit))
            }
            Message::Left(count) => {
                self.facts.left = count;
                None
            }
        }
    }

    /// What is still owed when the socket has ended: a shim that died took the script with it.
    async fn after_the_end(&mut self) -> Note {
        if !self.facts.start_decided {
            self.facts.start_decided = true;
            let reason = "its shim ended before it had started the script".to_owned();
            return Note::CouldNotStart { reason };
        }
        if let Some(pid) = self.facts.pid
            && !self.facts.exited
        {
            self.facts.exited = true;
            // The kernel killed the script's own process with the shim; this is for its group.
            sys::signal_group(pid, libc::SIGKILL);
            return Note::Exited(Exit::Signal(libc::SIGKILL));
        }
        // An error means that somebody else reaped it, which is as good.
        drop(self.shim.wait().await);
        Note::Gone {
            left: self.facts.left,
        }
    }
}

/// A signal as people call it: `signal 11 (SEGV)`.
#[must_use]
pub fn signal_name(signal: i32) -> String {
    words::signal(signal)
}

/// Writes to standard output as it is, past every buffer; returns how many bytes it took.
///
/// # Errors
/// What the operating system said.
pub fn write_stdout(bytes: &[u8]) -> io::Result<usize> {
    Ok(nix::unistd::write(io::stdout(), bytes)?)
}

/// The user that this process acts as (effective uid).
#[must_use]
pub fn own_uid() -> u32 {
    User::own().uid
}

/// The path by which our own binary is started again. It names the file that runs now, also
/// after an upgrade has put another one in its place.
#[must_use]
pub fn self_exe() -> PathBuf {
    PathBuf::from("/proc/self/exe")
}

/// Lets writes beyond the limit for the size of a file (`ulimit -f`) fail, as on a full disk, where they would
/// end this process. Scripts are not touched by it.
pub fn outlive_file_size_limit() {
    sys::ignore_file_size_signal();
}

/// Heaps of the allocator. glibc makes one for each busy thread, up to 8 per core, and each keeps what
/// a batch of a megabyte once took: two instead of those of 2 cores hold a flood at some 45 MiB where it
/// took 60, at the same speed; one costs a tenth of it.
const HEAPS_MAX: i32 = 2;

/// Keeps what the process holds of memory near what it uses. To be called before threads are started.
pub fn bound_memory() {
    sys::set_heaps_max(HEAPS_MAX);
}

/// Gives what a burst took of memory, and nobody uses any more, back to the system: by itself the
/// allocator keeps the most that ever came together. Takes milliseconds: for now and then.
pub fn give_back_memory() {
    sys::trim_heaps();
}

/// The machine's host name; `localhost` when the system does not say.
#[must_use]
pub fn hostname() -> String {
    sys::host_name()
        .ok()
        .filter(|name| !name.is_empty())
        .unwrap_or_else(|| "localhost".to_owned())
}

/// Whether this machine has the address: then a socket can be bound to it. Nothing is sent.
#[must_use]
pub fn is_own_address(address: std::net::IpAddr) -> bool {
    std::net::UdpSocket::bind((address, 0)).is_ok()
}
/// What a lease promises while it is held: others that open the file wait, up to
/// `/proc/sys/fs/lease-break-time`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LeaseKind {
    /// Nobody has the file open for writing. The file must be open for reading only.
    NoWriters,
    /// Nobody else has the file open at all.
    Alone,
}

/// A lease, held until dropped.
#[derive(Debug)]
pub struct Lease<'f>(&'f std::fs::File);

/// Takes a lease on a file (fcntl(2), F_SETLEASE).
///
/// # Errors
/// `WouldBlock` when somebody has it open who must not; others where the system grants none: the
/// file belongs to another user, or its file system knows no leases.
pub fn lease(file: &std::fs::File, kind: LeaseKind) -> io::Result<Lease<'_>> {
    let kind = match kind {
        LeaseKind::NoWriters => libc::F_RDLCK,
        LeaseKind::Alone => libc::F_WRLCK,
    };
    sys::set_lease(std::os::fd::AsRawFd::as_raw_fd(file), kind)?;
    Ok(Lease(file))
}

impl Drop for Lease<'_> {
    fn drop(&mut self) {
        // Closing the file would give it back too.
        drop(sys::set_lease(
            std::os::fd::AsRawFd::as_raw_fd(self.0),
            libc::F_UNLCK,
        ));
    }
}
