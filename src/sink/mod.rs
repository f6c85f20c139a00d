//! Where events go: one file per kind of output, and here what they have in common.
//!
//! A sink owns its connection and is the only place that may state that a peer has acknowledged
//! something. Knows nothing of the queue's files, of jobs and of cursors.

use std::sync::Arc;
use std::sync::Mutex;
use std::time::Duration;

use crate::clock::Tick;
use crate::event::Ack;
use crate::lumberjack::connection;
use crate::lumberjack::connection::Broken;
use crate::protocol::client;
use crate::window::Format;
use crate::window::Limits;

pub mod file;
mod local;
pub mod lumberjack;
mod stdout;

/// Most events that are written to a file or to standard output at once.
const LINES_MAX: u32 = 2048;

/// Most bytes of them; a larger event goes alone.
const LINES_BYTES_MAX: u64 = 1 << 20;

/// First and longest wait after a failed write of a file or of standard output.
const LOCAL_BACKOFF: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(30));

/// `[output.NAME]`: a kind of output with its own settings, checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Settings {
    /// `kind = "lumberjack"`: a server that speaks Lumberjack.
    Lumberjack(Box<lumberjack::Settings>),
    /// `kind = "file"`: one JSON object a line, to a file that is rotated.
    File(file::Settings),
    /// `kind = "stdout"`: one JSON object a line, to the daemon's standard output.
    Stdout,
}

/// What a shipper has to know of its output, whatever its kind.
#[derive(Debug, Clone)]
pub struct Plan {
    /// What is connected to, by name. At least one; one at a time without `loadbalance`.
    pub hosts: Vec<String>,
    /// Whether all of them get windows at once.
    pub loadbalance: bool,
    /// Most events of one window.
    pub bulk_max_size: u32,
    /// How old a connection gets; zero: any age.
    pub ttl: Duration,
    /// First wait after a failed connection.
    pub backoff_init: Duration,
    /// Longest wait after failed connections.
    pub backoff_max: Duration,
    /// The protocol's rules; none where there is no peer that could answer.
    pub peer: Option<client::Settings>,
}

impl Settings {
    /// The name of its kind.
    #[must_use]
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Lumberjack(_) => "lumberjack",
            Self::File(_) => "file",
            Self::Stdout => "stdout",
        }
    }

    /// How it is shipped to.
    #[must_use]
    pub fn plan(&self) -> Plan {
        let host = match self {
            Self::Lumberjack(settings) => return settings.plan(),
            Self::File(settings) => settings.path.display().to_string(),
            Self::Stdout => "standard output".to_owned(),
        };
        Plan {
            hosts: vec![host],
            loadbalance: false,
            bulk_max_size: LINES_MAX,
            ttl: Duration::ZERO,
            backoff_init: LOCAL_BACKOFF.0,
            backoff_max: LOCAL_BACKOFF.1,
            peer: None,
        }
    }

    /// What its windows may hold.
    #[must_use]
    pub fn limits(&self) -> Limits {
        let bytes = match self {
            Self::Lumberjack(settings) => return settings.limits(),
            Self::File(settings) => settings.rotate_bytes.min(LINES_BYTES_MAX),
            Self::Stdout => LINES_BYTES_MAX,
        };
        Limits {
            events: LINES_MAX,
            bytes: usize::try_from(bytes).unwrap_or(usize::MAX),
            compression_level: 0,
            format: Format::Lines,
        }
    }

    /// How it is reached.
    #[must_use]
    pub fn dial(&self) -> Dial {
        match self {
            Self::Lumberjack(settings) => Dial::Peer(settings.dial()),
            Self::File(settings) => {
                Dial::Local(Arc::new(Mutex::new(file::Target::new(settings.clone()))))
            }
            Self::Stdout => Dial::Local(Arc::new(Mutex::new(stdout::Target))),
        }
    }
}

impl Plan {
    /// The rules' state on a fresh connection.
    #[must_use]
    pub fn session(&self, now: Tick) -> Session {
        match self.peer {
            Some(settings) => Session::Peer(lumberjack::Session::new(settings, now)),
            None => Session::Local(None),
        }
    }
}

/// How an output is reached.
#[derive(Debug, Clone)]
pub enum Dial {
    /// By a socket.
    Peer(connection::Dial),
    /// On this machine.
    Local(Arc<Mutex<dyn local::Target>>),
}

/// One connection of an output.
#[derive(Debug)]
pub enum Connection {
    /// To a server.
    Peer(Box<connection::Connection>),
    /// To what takes lines on this machine.
    Local(local::Connection),
}

/// What happened on a connection.
#[derive(Debug)]
pub enum Turn {
    /// The server said this.
    Received(Vec<u8>),
    /// Bytes could be written to it.
    Wrote,
    /// The window that was sent is where it belongs.
    Took,
}

impl Connection {
    /// Connects to `host`, one of the plan's.
    ///
    /// # Errors
    /// Why it cannot be reached.
    pub async fn open(host: &str, dial: &Dial) -> Result<Self, Broken> {
        match dial {
            Dial::Peer(dial) => {
                let open = connection::Connection::open(host, dial).await?;
                Ok(Self::Peer(Box::new(open)))
            }
            Dial::Local(target) => Ok(Self::Local(
                local::Connection::open(host, Arc::clone(target)).await?,
            )),
        }
    }

    /// Sends a window.
    pub fn send(&mut self, window: Vec<u8>) {
        match self {
            Self::Peer(connection) => connection.send(window),
            Self::Local(connection) => connection.send(window),
        }
    }

    /// Whether every byte of what was sent has left.
    #[must_use]
    pub fn is_flushed(&self) -> bool {
        match self {
            Self::Peer(connection) => connection.is_flushed(),
            Self::Local(_) => false,
        }
    }

    /// Waits for the next thing to happen; may be dropped at any time.
    ///
    /// # Errors
    /// Why the connection is over.
    pub async fn turn(&mut self) -> Result<Turn, Broken> {
        match self {
            Self::Peer(connection) => Ok(match connection.turn().await? {
                connection::Turn::Received(bytes) => Turn::Received(bytes),
                connection::Turn::Wrote => Turn::Wrote,
            }),
            Self::Local(connection) => connection.took().await.map(|()| Turn::Took),
        }
    }
}

/// The rules' state on one connection.
#[derive(Debug)]
pub enum Session {
    /// With a server that acknowledges.
    Peer(lumberjack::Session),
    /// With what takes one window after the other; holds the events of the one that it has.
    Local(Option<u32>),
}

impl Session {
    /// Whether another window may be sent now.
    #[must_use]
    pub fn can_send(&self) -> bool {
        match self {
            Self::Peer(session) => session.can_send(),
            Self::Local(window) => window.is_none(),
        }
    }

    /// States that a window of `events` is being sent.
    pub fn sent(&mut self, events: u32, now: Tick) {
        match self {
            Self::Peer(session) => session.sent(events, now),
            Self::Local(window) => *window = Some(events),
        }
    }

    /// States that bytes of a window could be written.
    pub fn wrote(&mut self, now: Tick) {
        if let Self::Peer(session) = self {
            session.wrote(now);
        }
    }

    /// Takes bytes from the server; the ACK in them, if there is one.
    ///
    /// # Errors
    /// The fault that ends the connection, in words.
    pub fn received(&mut self, bytes: &[u8], now: Tick) -> Result<Option<Ack>, String> {
        match self {
            Self::Peer(session) => session.received(bytes, now),
            Self::Local(_) => Ok(None),
        }
    }

    /// States that the window that was sent is where it belongs.
    pub fn took(&mut self) -> Option<Ack> {
        match self {
            Self::Peer(_) => None,
            Self::Local(window) => window.take().map(|events| Ack::witnessed(events.into())),
        }
    }

    /// Looks at the timers.
    ///
    /// # Errors
    /// The fault that ends the connection, in words.
    pub fn check(&mut self, now: Tick) -> Result<(), String> {
        match self {
            Self::Peer(session) => session.check(now),
            Self::Local(_) => Ok(()),
        }
    }

    /// When the timers must be looked at.
    #[must_use]
    pub fn deadline(&self) -> Option<Tick> {
        match self {
            Self::Peer(session) => session.deadline(),
            Self::Local(_) => None,
        }
    }

    /// Whether the connection has been idle for so long that a window belongs on a new one.
    #[must_use]
    pub fn is_stale(&self, now: Tick) -> bool {
        match self {
            Self::Peer(session) => session.is_stale(now),
            Self::Local(_) => false,
        }
    }
}
