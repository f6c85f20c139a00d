//! The Lumberjack output: its settings, its socket, and the proof of what the peer took over.
//!
//! The protocol's rules are in `crate::lumberjack`; this file only gives them a TCP connection.

use std::collections::VecDeque;
use std::io;
use std::time::Duration;

use tokio::io::AsyncReadExt;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::net::tcp::OwnedReadHalf;
use tokio::net::tcp::OwnedWriteHalf;

use crate::clock;
use crate::clock::Tick;
use crate::event::Ack;
use crate::lumberjack::client;

/// `[output.NAME]` with `kind = "lumberjack"`, checked. Names and defaults as in Filebeat.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// `host:port` each; port default 5044. IPv6 in brackets. Tried in turn on failure.
    pub hosts: Vec<String>,
    /// Most events of one window, 1..=10000. Default 2048.
    pub bulk_max_size: u32,
    /// zlib level 0..=9 of windows that are joined at ship. Default 3. 0: not compressed.
    pub compression_level: u32,
    /// Windows in flight; 0 and 1 both mean one at a time. Default 2.
    pub pipelining: u32,
    /// Liveness: no byte from the server for this long ends the connection. Default 30s.
    pub timeout: Duration,
    /// Progress: keep-alives without a higher ACK for this long end it too. Default 5m.
    pub ack_stall_timeout: Duration,
    /// First wait after a failed connection. Default 1s.
    pub backoff_init: Duration,
    /// Longest wait after failed connections. Default 60s.
    pub backoff_max: Duration,
}

/// The protocol's state on one connection.
#[derive(Debug)]
pub struct Session(client::Session);

/// What the server said.
#[derive(Debug)]
pub struct Heard {
    /// Events that it took over, if any.
    pub ack: Option<Ack>,
    /// How often it said that it is alive.
    pub keep_alives: u32,
}

impl Session {
    /// A session on a fresh connection.
    #[must_use]
    pub fn new(settings: &Settings, now: Tick) -> Self {
        let settings = client::Settings {
            pipelining: settings.pipelining,
            timeout: settings.timeout,
            ack_stall_timeout: settings.ack_stall_timeout,
        };
        Self(client::Session::new(settings, now))
    }

    /// Whether another window may be sent now.
    #[must_use]
    pub fn can_send(&self) -> bool {
        self.0.can_send()
    }

    /// States that a window of `events` is being sent.
    pub fn sent(&mut self, events: u32, now: Tick) {
        self.0.sent(events, now);
    }

    /// States that bytes of a window could be written.
    pub fn wrote(&mut self, now: Tick) {
        self.0.wrote(now);
    }

    /// Takes bytes from the server.
    ///
    /// # Errors
    /// The fault that ends the connection, in words.
    pub fn received(&mut self, bytes: &[u8], now: Tick) -> Result<Heard, String> {
        let progress = self
            .0
            .received(bytes, now)
            .map_err(|fault| fault.to_string())?;
        let ack = (progress.events > 0).then(|| Ack::witnessed(progress.events));
        Ok(Heard {
            ack,
            keep_alives: progress.keep_alives,
        })
    }

    /// Looks at the timers.
    ///
    /// # Errors
    /// The fault that ends the connection, in words.
    pub fn check(&mut self, now: Tick) -> Result<(), String> {
        self.0.check(now).map_err(|fault| fault.to_string())
    }

    /// When the timers must be looked at.
    #[must_use]
    pub fn deadline(&self) -> Option<Tick> {
        self.0.deadline()
    }

    /// How many windows are in flight.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.0.in_flight()
    }

    /// Whether the connection has been idle for so long that a window belongs on a new one.
    #[must_use]
    pub fn is_stale(&self, now: Tick) -> bool {
        self.0
            .idle_since()
            .is_some_and(|since| now.since(since) > client::IDLE_REUSE_MAX)
    }
}

/// ACKs are 6 bytes; some hundred of them fit.
const READ_BYTES: usize = 4096;

/// A TCP connection to a server.
#[derive(Debug)]
pub struct Connection {
    read: OwnedReadHalf,
    write: OwnedWriteHalf,
    /// What is to be written, oldest first; at most `pipelining` windows, as the session allows.
    outgoing: VecDeque<Vec<u8>>,
    /// How much of the oldest is written.
    written: usize,
    buffer: Box<[u8; READ_BYTES]>,
}

/// What happened on a connection.
#[derive(Debug)]
pub enum Turn {
    /// Bytes came.
    Received(Vec<u8>),
    /// Bytes could be written.
    Wrote,
}

impl Connection {
    /// Connects to `host`, trying all its addresses, looked up anew.
    ///
    /// # Errors
    /// Why not, in words.
    pub async fn open(host: &str, timeout: Duration) -> Result<Self, String> {
        let stream = match clock::within(timeout, TcpStream::connect(host)).await {
            None => {
                return Err(format!(
                    "no connection to {host} within {}",
                    crate::units::show_duration(timeout)
                ));
            }
            Some(Err(error)) => return Err(format!("no connection to {host}: {error}")),
            Some(Ok(stream)) => stream,
        };
        stream
            .set_nodelay(true)
            .map_err(|error| format!("the connection to {host} fails: {error}"))?;
        let (read, write) = stream.into_split();
        Ok(Self {
            read,
            write,
            outgoing: VecDeque::new(),
            written: 0,
            buffer: Box::new([0; READ_BYTES]),
        })
    }

    /// Puts bytes behind those that are to be written.
    pub fn send(&mut self, bytes: Vec<u8>) {
        self.outgoing.push_back(bytes);
    }

    /// Writes what is to be written and reads, until one of both has done something.
    /// May be dropped at any time without losing bytes.
    ///
    /// # Errors
    /// Why the connection is over, in words.
    pub async fn turn(&mut self) -> Result<Turn, String> {
        let over = |error: io::Error| format!("the connection broke: {error}");
        let pending = self.outgoing.front().map(|bytes| &bytes[self.written..]);
        tokio::select! {
            read = self.read.read(&mut self.buffer[..]) => match read.map_err(over)? {
                0 => Err("the server closed the connection".to_owned()),
                n => Ok(Turn::Received(self.buffer[..n].to_vec())),
            },
            wrote = self.write.write(pending.unwrap_or_default()), if pending.is_some() => {
                self.written += wrote.map_err(over)?;
                if self.outgoing.front().is_some_and(|bytes| self.written == bytes.len()) {
                    self.outgoing.pop_front();
                    self.written = 0;
                }
                Ok(Turn::Wrote)
            }
        }
    }
}
