//! The daemon: `spoolbeat run` from the lock on its root to the last ACK that it waits for.
//!
//! Opens what there is (`house`), starts what tells it things (spool, control socket, signals,
//! the receiver), and lets the `driver` work until the supervisor orders the exit. Decides
//! nothing: that is `supervisor`.

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use tokio::sync::mpsc;

use crate::config;
use crate::control;
use crate::disk::OsDisk;
use crate::lumberjack::server::BindError;
use crate::lumberjack::server::MEMORY_BYTES_MAX;
use crate::lumberjack::server::Memory;
use crate::lumberjack::server::Places;
use crate::process;
use crate::queue::OpenError;
use crate::spool;
use crate::spool::Change;
use crate::spool::Spool;
use crate::supervisor::Exit;
use crate::supervisor::Mode;
use crate::supervisor::Settings;
use crate::supervisor::Start;
use crate::supervisor::Supervisor;

mod claim;
mod deliveries;
mod disk_watch;
mod driver;
mod forget;
mod harvesters;
mod herald;
mod house;
mod identity;
mod keeper;
mod listeners;
mod missed;
mod outputs;
mod receiver;
mod signals;

pub use claim::Claim;
pub use claim::claim;

use driver::Driver;
pub use driver::Origin;
use driver::Sources;
pub use forget::stopped as forget_output;
use house::House;
#[cfg(test)]
pub(crate) use house::before;
pub(crate) use identity::passing_identity;
use receiver::Receiver;
use signals::Signals;

/// Questions that wait for the driver, which takes them at once: as many as may be asked at a time.
const QUESTIONS_MAX: usize = 16;

/// Which part of what the process may have open is for connections at most; an eighth is for harvested
/// files. The rest is for the queue, the control socket and runs, of which each has seven: with a limit of
/// 1,024 it holds the 64 runs that there are at a time by default.
const CONNECTIONS_SHARE: u64 = 4;

/// Why the daemon did not run.
#[derive(Debug)]
pub enum Error {
    /// Another daemon has the root: leave it alone.
    Locked {
        /// The root.
        root: PathBuf,
    },
    /// The root is not safe from other users: see to its owners and modes.
    Place(String),
    /// A folder cannot be made: see to permissions or to the disk.
    Folder {
        /// The folder.
        path: PathBuf,
        /// What the operating system said.
        error: io::Error,
    },
    /// A file cannot be used: see to the disk.
    Disk {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        error: io::Error,
    },
    /// The queue cannot be opened: see to its disk, or use the newer version.
    Queue(OpenError),
    /// The built-in receiver cannot listen: choose another address.
    Receiver(BindError),
    /// The operating system refuses something else: signals, a thread.
    System(io::Error),
    /// The queue has been closed already.
    Leaving,
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Locked { root } => write!(
                f,
                "another daemon runs on {}; see it with `spoolbeat status`, or give another root",
                root.display()
            ),
            Self::Folder { path, error } => {
                write!(f, "cannot make the folder {}: {error}", path.display())
            }
            Self::Place(why) => f.write_str(why),
            Self::Disk { path, error } => write!(f, "cannot use {}: {error}", path.display()),
            Self::Queue(error) => write!(f, "{error}"),
            Self::Receiver(error) => write!(f, "receiver: {error}"),
            Self::System(error) => write!(f, "the system refuses: {error}"),
            Self::Leaving => f.write_str("the queue is closed"),
        }
    }
}

impl std::error::Error for Error {}

/// Runs the daemon on `root` until it is told to stop, or all jobs have run once.
///
/// # Errors
/// See [`Error`]; nothing was run then. Must be called within a multi-thread tokio runtime.
pub async fn run(root: config::Root, mode: Mode, origin: Origin) -> Result<Exit, Error> {
    config::check_place(&root.dir, process::own_uid()).map_err(Error::Place)?;
    let claim = claim(&root.dir)?;
    if let Err(error) = process::raise_open_files() {
        tracing::warn!(%error, "the limit of open files cannot be raised");
    }
    let signals = Signals::listen().map_err(Error::System)?;
    let memory = Memory::new(MEMORY_BYTES_MAX);
    let open_files = process::open_files_max();
    let places = Places::new(usize::try_from(open_files / CONNECTIONS_SHARE).unwrap_or(usize::MAX));
    let receiver = match &root.receiver {
        Some(settings) => Some(Receiver::start(settings, memory.clone(), places.clone()).await?),
        None => None,
    };
    let (mut house, before) = House::open(claim, &root)?;
    let host = house.host(&root, mode)?;
    if mode == Mode::Serve {
        house.listen(&host, memory, places);
    }
    let state_dir = root.dir.join("state");
    let control = control::bind(&state_dir).map_err(|error| Error::Disk {
        path: state_dir.clone(),
        error,
    })?;
    let (supervisor, first) = Supervisor::new(Start {
        mode,
        state_dir,
        now: driver::now(),
        host: process::hostname(),
        paused: house.paused()?,
        require_output: root.require_output,
        settings: Settings::of(&root),
        can: host
            .cgroups
            .as_ref()
            .map_or_else(Default::default, process::Cgroups::can),
        pasts: before.pasts,
        open: before.open,
        seed: house::random() as u32,
    });
    let (spool, changes) = watch(&root).map_err(Error::System)?;
    let (questions, asked) = mpsc::channel(QUESTIONS_MAX);
    let control = tokio::spawn(control.serve(questions));
    tracing::info!(root = %root.dir.display(), version = env!("CARGO_PKG_VERSION"), pid = std::process::id(), open_files, "spoolbeat has started");
    let sources = Sources {
        signals,
        spool,
        changes,
        asked,
        origin,
    };
    let driver = Driver::new(supervisor, house, host);
    let (exit, house) = driver.drive(first, sources).await;
    control.abort();
    // Ends with the cancellation that was just asked for; its socket goes with it, before the lock.
    drop(control.await);
    if let Some(receiver) = receiver {
        receiver.stop().await;
    }
    say_goodbye(exit, house.waiting_events());
    house.leave().await;
    Ok(exit)
}

/// The last line of the log: how it ended, and what became of the events.
fn say_goodbye(exit: Exit, waiting_events: u64) {
    let (exit_name, words) = (exit.name(), goodbye(exit, waiting_events));
    match exit {
        Exit::Clean => {
            tracing::info!(exit = exit_name, waiting_events, "spoolbeat stops: {words}");
        }
        // What the killed runs had printed may still be on its way to the disk: no number is exact.
        Exit::Now => tracing::info!(exit = exit_name, "spoolbeat stops: {words}"),
        Exit::Failed | Exit::Unshipped | Exit::Refused => {
            tracing::warn!(exit = exit_name, waiting_events, "spoolbeat stops: {words}");
        }
    }
}

fn goodbye(exit: Exit, waiting_events: u64) -> String {
    let events = match waiting_events {
        0 => "no event waits in the queue".to_owned(),
        1 => "up to 1 event waits in the queue for the next start".to_owned(),
        n => format!("up to {n} events wait in the queue for the next start"),
    };
    match exit {
        Exit::Clean | Exit::Unshipped => events,
        Exit::Failed => format!("not all runs succeeded; {events}"),
        Exit::Refused => format!("not all jobs could be loaded; {events}"),
        Exit::Now => "at once; what was captured waits in the queue for the next start".to_owned(),
    }
}

/// Starts to look at `jobs/`.
fn watch(root: &config::Root) -> io::Result<(Spool, mpsc::Receiver<Change>)> {
    let settings = spool::Settings {
        jobs: root.dir.join("jobs"),
        state: root.dir.join("state"),
        daemon: process::own_uid(),
    };
    spool::start(settings, checks(root), Arc::new(OsDisk))
}

/// What jobs are looked at and checked by.
fn checks(root: &config::Root) -> spool::Checks {
    spool::Checks {
        settle: root.settle,
        rescan: root.rescan,
        defaults: root.defaults.clone(),
        outlets: root.outlets(),
        grants: root.grants.clone(),
    }
}
