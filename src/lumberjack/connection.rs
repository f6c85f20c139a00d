//! The client's end of a Lumberjack connection: an address becomes bytes that come and go.
//!
//! This module must never know what a window or an event is.

use std::collections::VecDeque;
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
