//! A Lumberjack server for whoever uses this crate as a library: one batch after the other.
//!
//! A thin face of [`crate::lumberjack::server`]. Must never know what becomes of the events.

use std::io;
use std::net::SocketAddr;

use tokio::sync::mpsc;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::lumberjack::server;
use crate::lumberjack::server::BindError;
use crate::lumberjack::server::Delivery;
use crate::lumberjack::server::ServerSettings;
use crate::process::User;
use crate::tls::Acceptor;

/// Batches that wait to be taken with [`Server::next`]; their memory is bounded by
/// [`ServerSettings::memory_bytes`], and clients wait when they are not taken.
const BATCHES_WAITING_MAX: usize = 16;

/// A server that listens until it is dropped.
#[derive(Debug)]
pub struct Server {
    addr: SocketAddr,
    deliveries: mpsc::Receiver<Delivery>,
    stop: watch::Sender<bool>,
    serving: JoinHandle<()>,
}

impl Server {
    /// Listens on `ADDRESS:PORT`; port 0 picks a free one.
    ///
    /// # Errors
    /// Names the address, the cause and an address that would do; or what is wrong with the files of TLS.
    pub async fn bind(listen: &str, settings: ServerSettings) -> Result<Self, BindError> {
        let own = User::own();
        if let Some(Err(problems)) = settings.tls.as_ref().map(Acceptor::check) {
            return Err(BindError::tls(listen, problems));
        }
        let listener = server::bind(listen, &own).await?;
        let addr = listener
            .local_addr()
            .map_err(|error| BindError::system(listen, &own, error))?;
        let (deliver, deliveries) = mpsc::channel(BATCHES_WAITING_MAX);
        let (stop, stopping) = watch::channel(false);
        let serving = tokio::spawn(server::serve(listener, settings, deliver, stopping));
        Ok(Self {
            addr,
            deliveries,
            stop,
            serving,
        })
    }

    /// The address that it listens on.
    #[must_use]
    pub const fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// The next batch, when one comes. `None` after [`Server::close`], when all that had come is taken.
    pub async fn next(&mut self) -> Option<Batch> {
        self.deliveries.recv().await.map(Batch)
    }

    /// Takes no connection and no batch any more. What has come can still be taken and acknowledged.
    pub fn close(&self) {
        self.stop.send_replace(true);
    }

    /// Closes, leaves what is not taken unacknowledged, and returns when all connections are closed.
    ///
    /// # Errors
    /// The server's task failed.
    pub async fn stop(self) -> io::Result<()> {
        self.close();
        drop(self.deliveries);
        self.serving.await.map_err(io::Error::other)
    }
}

/// The events of one window.
///
/// Dropped without [`Batch::ack`], it closes its connection, and the client sends the events again.
#[derive(Debug)]
#[must_use = "a batch that is dropped is sent again; acknowledge it when its events are safe"]
pub struct Batch(Delivery);

impl Batch {
    /// Each event's JSON object, byte for byte as it was sent.
    pub fn events(&self) -> impl ExactSizeIterator<Item = &[u8]> {
        self.0.window.events()
    }

    /// The client.
    #[must_use]
    pub const fn peer(&self) -> SocketAddr {
        self.0.peer
    }

    /// Tells the client that its events are safe. Whether it was still there is not known: one
    /// that was not sends them again.
    pub fn ack(self) {
        if self.0.done.send(()).is_err() {
            tracing::debug!(peer = %self.0.peer, "client left before the ACK, it will send the batch again");
        }
    }
}
