//! The client's end of a Lumberjack connection: an address becomes bytes that come and go.
//!
//! This module must never know what a window or an event is.

use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::time::Duration;

use tokio::io::AsyncReadExt;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::net::tcp::OwnedReadHalf;
use tokio::net::tcp::OwnedWriteHalf;

use crate::clock;

/// ACKs are 6 bytes; some hundred of them fit.
const READ_BYTES: usize = 4096;

/// How servers are reached.
#[derive(Debug, Clone)]
pub struct Dial {
    /// From the first look-up to a connection that can be written to.
    pub timeout: Duration,
}

/// Why a connection could not be made or is over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Broken {
    /// For people.
    pub reason: String,
    /// For deciding what to do next.
    pub cause: Cause,
}

/// Whose doing the end of a connection was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// Nobody was reached, or the way broke: worth trying again.
    Unreachable,
    /// The peer closed or reset a connection that stood: it may not like what it was sent.
    ByPeer,
}

impl Broken {
    fn unreachable(reason: String) -> Self {
        Self {
            reason,
            cause: Cause::Unreachable,
        }
    }

    fn by_peer(reason: String) -> Self {
        Self {
            reason,
            cause: Cause::ByPeer,
        }
    }

    fn over(error: &io::Error) -> Self {
        let reason = format!("the connection broke: {error}");
        match error.kind() {
            io::ErrorKind::ConnectionReset
            | io::ErrorKind::BrokenPipe
            | io::ErrorKind::ConnectionAborted => Self::by_peer(reason),
            _ => Self::unreachable(reason),
        }
    }
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.reason)
    }
}

impl std::error::Error for Broken {}

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
    /// Why not.
    pub async fn open(host: &str, dial: &Dial) -> Result<Self, Broken> {
        let stream = match clock::within(dial.timeout, TcpStream::connect(host)).await {
            None => {
                return Err(Broken::unreachable(format!(
                    "no connection to {host} within {}",
                    crate::units::show_duration(dial.timeout)
                )));
            }
            Some(Err(error)) => {
                let reason = format!("no connection to {host}: {error}");
                return Err(Broken::unreachable(reason));
            }
            Some(Ok(stream)) => stream,
        };
        stream
            .set_nodelay(true)
            .map_err(|error| Broken::over(&error))?;
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
    /// Why the connection is over.
    pub async fn turn(&mut self) -> Result<Turn, Broken> {
        let over = |error: io::Error| Broken::over(&error);
        let pending = self.outgoing.front().map(|bytes| &bytes[self.written..]);
        tokio::select! {
            read = self.read.read(&mut self.buffer[..]) => match read.map_err(over)? {
                0 => Err(Broken::by_peer("the server closed the connection".to_owned())),
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
