//! A Lumberjack server on TCP: takes windows from Beats, answers when they have been taken over.
//!
//! The ACK is written only after the window's taker has said [`Delivery::done`]; a taker that
//! drops it instead makes the client send the window again. One window of a connection is worked
//! on at a time, and its socket is not read meanwhile: the bounded channel to the taker is the
//! back-pressure. This module must never know what becomes of the events.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::ops::Range;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::AsyncReadExt;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpListener;
use tokio::net::TcpStream;
use tokio::sync::OwnedSemaphorePermit;
use tokio::sync::Semaphore;
use tokio::sync::mpsc;
use tokio::sync::oneshot;
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::clock;
use crate::protocol::frame::KEEP_ALIVE;
use crate::protocol::frame::SHORT_BYTES;
use crate::protocol::frame::ack;
use crate::protocol::server::Fault;
use crate::protocol::server::Limits;
use crate::protocol::server::Session;
use crate::protocol::server::WINDOW_BYTES_MAX;
use crate::protocol::server::Want;
use crate::protocol::server::Window;
use crate::tls;
use crate::tls::Stream;
use crate::units::show_duration;

#[cfg(test)]
mod tests;

/// How often `A 0` says that a window is being worked on: go-lumber's rhythm. Clients give a
/// silent server up after 30 s.
pub const KEEP_ALIVE_EVERY: Duration = Duration::from_secs(3);

/// From a window's first byte to its last: what go-lumber grants. A client that is slower, or
/// one that waits for memory in vain, is closed and sends again.
pub const WINDOW_TIMEOUT: Duration = Duration::from_secs(30);

/// How long a connection may be silent between windows: for ever, because a Beat has nothing to
/// send for hours, and closing under it costs it a resend. [`CONNECTIONS_MAX`] bounds their number.
pub const IDLE_TIMEOUT: Option<Duration> = None;

/// Most connections at once; further ones are closed as soon as they come. Each costs a file
/// descriptor (of usually 1,024 or more) and one buffer.
pub const CONNECTIONS_MAX: usize = 1_024;

/// What the windows of all connections together may hold, inflated. A connection that needs more
/// waits for the others, within [`WINDOW_TIMEOUT`].
pub const MEMORY_BYTES_MAX: usize = 256 << 20;

/// Read from a socket at once; held by every connection, so 16 MiB for all of them.
const CHUNK_BYTES: usize = 16 << 10;

/// What a window costs besides its bytes: the inflater (about 50 kB) and the places of 10,000
/// events (up to 128 KiB).
const WINDOW_EXTRA_BYTES: usize = 192 << 10;

/// First grant of memory to a window; it is doubled with each further one, so that large windows
/// are moved seldom and small ones hold little.
const GRANT_FIRST_BYTES: usize = 16 << 10;

/// Largest single grant: bounds what a window holds beyond what it needs.
const GRANT_BYTES_MAX: usize = 1 << 20;

// Any window fits when it is alone, and all connections can have begun one.
const _: () = assert!(WINDOW_EXTRA_BYTES + WINDOW_BYTES_MAX + GRANT_BYTES_MAX <= MEMORY_BYTES_MAX);
const _: () =
    assert!(CONNECTIONS_MAX * (WINDOW_EXTRA_BYTES + GRANT_FIRST_BYTES) <= MEMORY_BYTES_MAX);

/// From a connection to the end of its TLS handshake: it takes a few round trips, and one that
/// stalls holds a place among [`CONNECTIONS_MAX`].
pub const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// How long to read on after our FIN, so that the system does not send a reset instead, which
/// could destroy ACKs that the client has not read yet.
const LINGER: Duration = Duration::from_secs(1);

/// How long connections may take to finish the window they work on when the server stops.
const STOP_TIMEOUT: Duration = Duration::from_secs(5);

/// Pause after a failed accept (no file descriptors left, most likely), so as not to spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

/// How a server behaves.
#[derive(Debug, Clone)]
pub struct ServerSettings {
    /// Encryption; `None`: plain.
    pub tls: Option<tls::Acceptor>,
    /// Longest time for the TLS handshake.
    pub handshake_timeout: Duration,
    /// What a window may be.
    pub limits: Limits,
    /// Pause between keep-alives while a window is worked on.
    pub keep_alive: Duration,
    /// Longest time from a window's first byte to its last.
    pub window_timeout: Duration,
    /// Longest silence between windows; `None`: no limit.
    pub idle_timeout: Option<Duration>,
    /// Most connections at once.
    pub connections: usize,
    /// Most bytes that the windows of all connections together may hold.
    pub memory_bytes: usize,
}

impl Default for ServerSettings {
    /// The values that the constants of this module give reasons for.
    fn default() -> Self {
        Self {
            tls: None,
            handshake_timeout: HANDSHAKE_TIMEOUT,
            limits: Limits::default(),
            keep_alive: KEEP_ALIVE_EVERY,
            window_timeout: WINDOW_TIMEOUT,
            idle_timeout: IDLE_TIMEOUT,
            connections: CONNECTIONS_MAX,
            memory_bytes: MEMORY_BYTES_MAX,
        }
    }
}

/// A complete window on its way to whoever takes it over.
#[derive(Debug)]
pub struct Delivery {
    /// The client.
    pub peer: SocketAddr,
    /// Its events.
    pub window: Window,
    /// To be fired when the events are safe: only then is the window acknowledged. Dropped
    /// unfired, it closes the connection without ACK, and the client sends the window again.
    pub done: oneshot::Sender<()>,
}

/// Why listening did not begin.
#[derive(Debug)]
pub struct BindError {
    pub(super) listen: String,
    pub(super) source: io::Error,
}

impl fmt::Display for BindError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { listen, source } = self;
        write!(f, "cannot listen on `{listen}`: ")?;
        match source.kind() {
            io::ErrorKind::AddrInUse => f.write_str(
                "something listens there already; choose another port, like 127.0.0.1:5045",
            ),
            io::ErrorKind::PermissionDenied => write!(
                f,
                "{source}; ports below 1024 need rights, choose one like 127.0.0.1:5044"
            ),
            io::ErrorKind::AddrNotAvailable => write!(
                f,
                "{source}; use an address of this machine, like 127.0.0.1:5044 or 0.0.0.0:5044"
            ),
            _ => write!(f, "{source}; write ADDRESS:PORT, like 127.0.0.1:5044"),
        }
    }
}

impl std::error::Error for BindError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.source)
    }
}

/// Begins to listen on `ADDRESS:PORT`; port 0 picks a free one.
///
/// # Errors
/// Names the address, the cause and an address that would do.
pub async fn bind(listen: &str) -> Result<TcpListener, BindError> {
    TcpListener::bind(listen).await.map_err(|source| BindError {
        listen: listen.to_owned(),
        source,
    })
}

/// Serves until `stop` becomes true (or its sender is gone): then no connection is accepted any
/// more, windows that are being worked on may still be finished and acknowledged, and everything
/// else is closed. Nothing that a client does ends it.
pub async fn serve(
    listener: TcpListener,
    settings: ServerSettings,
    deliver: mpsc::Sender<Delivery>,
    stop: watch::Receiver<bool>,
) {
    let memory = Arc::new(Semaphore::new(settings.memory_bytes));
    let mut connections = JoinSet::new();
    let mut refused = 0_u64;
    let mut stopping = pin!(stopped(stop.clone()));
    loop {
        let accepted = tokio::select! {
            biased;
            () = &mut stopping => break,
            Some(joined) = connections.join_next() => {
                note_panic(joined);
                continue;
            }
            accepted = listener.accept() => accepted,
        };
        let (stream, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection, trying on");
                clock::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        if connections.len() >= settings.connections {
            // One line for a whole flood; the count follows when there is room again.
            if refused == 0 {
                let limit = settings.connections;
                tracing::warn!(%peer, limit, "too many connections, closing further ones");
            }
            refused += 1;
            continue;
        }
        if refused > 0 {
            tracing::warn!(refused, "there is room for connections again");
            refused = 0;
        }
        let guest = Guest {
            peer,
            settings: settings.clone(),
            memory: Arc::clone(&memory),
            deliver: deliver.clone(),
        };
        connections.spawn(guest.run(stream, stop.clone()));
    }
    drop(listener);
    let all_ended = async {
        while let Some(joined) = connections.join_next().await {
            note_panic(joined);
        }
    };
    if clock::within(STOP_TIMEOUT, all_ended).await.is_none() {
        let left = connections.len();
        tracing::warn!(
            left,
            "windows are still being worked on, closing without ACK"
        );
    }
}

/// Resolves when `stop` is true or can never become true any more.
async fn stopped(mut stop: watch::Receiver<bool>) {
    // The error means that the sender is gone: nobody is left who could want the server.
    drop(stop.wait_for(|stop| *stop).await);
}

fn note_panic(joined: Result<(), tokio::task::JoinError>) {
    if let Err(error) = joined {
        tracing::error!(%error, "a connection's task failed; its client will send again");
    }
}

/// Why a connection ended.
#[derive(Debug)]
enum End {
    /// The client closed it between windows.
    Closed,
    /// The server stops.
    Stopping,
    /// The client closed it in the middle of a window.
    Cut { come: usize, announced: u32 },
    /// A window took too long to come.
    Slow { come: usize, announced: u32 },
    /// A window waited too long for the memory that others hold.
    Starved,
    /// Nothing came for the idle timeout.
    Idle,
    /// The client broke the protocol.
    Fault(Fault),
    /// The connection itself failed.
    Io(io::Error),
    /// The window was not taken over.
    NotTaken,
    /// The TLS handshake failed.
    Tls(tls::Fault),
    /// The TLS handshake took too long.
    Stalled,
}

impl From<Fault> for End {
    fn from(fault: Fault) -> Self {
        Self::Fault(fault)
    }
}

impl From<io::Error> for End {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl End {
    fn log(&self, peer: SocketAddr, settings: &ServerSettings) {
        match self {
            Self::Closed => tracing::debug!(%peer, "client closed the connection"),
            Self::Stopping => tracing::debug!(%peer, "connection closed, the server stops"),
            Self::Idle => tracing::debug!(%peer, "connection closed, it was idle"),
            Self::Cut { come, announced } => tracing::info!(
                %peer, come, announced,
                "client closed the connection in the middle of a window"
            ),
            Self::Slow { come, announced } => {
                let limit = show_duration(settings.window_timeout);
                tracing::warn!(
                    %peer, come, announced, limit,
                    "connection closed, a window did not come within the limit"
                );
            }
            Self::Starved => {
                let limit = settings.memory_bytes;
                tracing::warn!(
                    %peer, limit,
                    "connection closed, windows of other clients hold all the memory"
                );
            }
            Self::Fault(error) => tracing::warn!(%peer, %error, "connection closed"),
            Self::Io(error) => tracing::info!(%peer, %error, "connection failed"),
            // Load balancers look whether a port is open in this way.
            Self::Tls(fault) if fault.kind == tls::Kind::Closed => {
                tracing::debug!(%peer, error = %fault, "connection closed");
            }
            Self::Tls(fault) => tracing::warn!(%peer, error = %fault, "connection closed"),
            Self::Stalled => {
                let limit = show_duration(settings.handshake_timeout);
                tracing::warn!(
                    %peer, limit,
                    "connection closed, the client did not finish the TLS handshake within the limit; \
                     does it speak TLS? In Filebeat `ssl.enabled: true`"
                );
            }
            Self::NotTaken => tracing::warn!(
                %peer,
                "connection closed without ACK, the events could not be taken over"
            ),
        }
    }
}

/// A client that has connected, and what is needed to serve it.
struct Guest {
    peer: SocketAddr,
    settings: ServerSettings,
    memory: Arc<Semaphore>,
    deliver: mpsc::Sender<Delivery>,
}

impl Guest {
    async fn run(self, stream: TcpStream, stop: watch::Receiver<bool>) {
        let peer = self.peer;
        tracing::debug!(%peer, "client connected");
        if let Err(error) = stream.set_nodelay(true) {
            // Costs latency, nothing else.
            tracing::debug!(%peer, %error, "cannot set TCP_NODELAY");
        }
        let greeted = tokio::select! {
            biased;
            () = stopped(stop.clone()) => Err(End::Stopping),
            greeted = self.greet(stream) => greeted,
        };
        match greeted {
            Ok(stream) => Connection::new(stream, self).run(stop).await,
            Err(end) => end.log(peer, &self.settings),
        }
    }

    /// Lays TLS over the stream if that is set.
    async fn greet(&self, stream: TcpStream) -> Result<Stream<TcpStream>, End> {
        let Some(acceptor) = &self.settings.tls else {
            return Ok(Stream::Plain(stream));
        };
        let limit = self.settings.handshake_timeout;
        match clock::within(limit, acceptor.accept(stream)).await {
            None => Err(End::Stalled),
            Some(greeted) => greeted.map_err(End::Tls),
        }
    }
}

struct Connection {
    stream: Stream<TcpStream>,
    guest: Guest,
    session: Session,
    chunk: Box<[u8]>,
    /// What of `chunk` the session has not taken yet.
    unread: Range<usize>,
    /// Memory that the window being received or worked on holds.
    held: Option<OwnedSemaphorePermit>,
    /// Whether it waits for more of it.
    starving: bool,
}

impl Connection {
    fn new(stream: Stream<TcpStream>, guest: Guest) -> Self {
        Self {
            stream,
            session: Session::new(guest.settings.limits),
            guest,
            chunk: vec![0; CHUNK_BYTES].into_boxed_slice(),
            unread: 0..0,
            held: None,
            starving: false,
        }
    }

    async fn run(mut self, stop: watch::Receiver<bool>) {
        let end = self.talk(stop).await;
        end.log(self.guest.peer, &self.guest.settings);
        // A window that did not come whole goes before its share of the memory does, not after the linger.
        self.session = Session::new(self.guest.settings.limits);
        self.held = None;
        if !matches!(end, End::Io(_)) {
            self.close().await;
        }
    }

    async fn talk(&mut self, stop: watch::Receiver<bool>) -> End {
        let mut stopping = pin!(stopped(stop));
        loop {
            let window = tokio::select! {
                biased;
                () = &mut stopping => return End::Stopping,
                window = self.next_window() => window,
            };
            let worked = match window {
                Ok(window) => self.work(window).await,
                Err(end) => return end,
            };
            self.held = None;
            if let Err(end) = worked {
                return end;
            }
        }
    }

    async fn next_window(&mut self) -> Result<Window, End> {
        loop {
            if self.unread.is_empty() {
                self.read_between_windows().await?;
            }
            let limit = self.guest.settings.window_timeout;
            match clock::within(limit, self.collect()).await {
                Some(Ok(Some(window))) => return Ok(window),
                Some(Ok(None)) => {}
                Some(Err(end)) => return Err(end),
                None if self.starving => return Err(End::Starved),
                None => {
                    let (come, announced) = self.session.incomplete().unwrap_or_default();
                    return Err(End::Slow { come, announced });
                }
            }
        }
    }

    async fn read_between_windows(&mut self) -> Result<(), End> {
        let read = match self.guest.settings.idle_timeout {
            None => self.read().await,
            Some(limit) => clock::within(limit, self.read()).await.ok_or(End::Idle)?,
        };
        if read? == 0 {
            return Err(End::Closed);
        }
        Ok(())
    }

    /// Receives until a window is complete; `None` when the bytes end between windows.
    async fn collect(&mut self) -> Result<Option<Window>, End> {
        loop {
            let mut input = &self.chunk[self.unread.clone()];
            let want = self.session.feed(&mut input);
            self.unread.start = self.unread.end - input.len();
            match want? {
                Want::Taking => return Ok(self.session.next_window()),
                Want::Room => self.grant().await?,
                Want::Bytes => {
                    let Some((come, announced)) = self.session.incomplete() else {
                        return Ok(None);
                    };
                    if self.read().await? == 0 {
                        return Err(End::Cut { come, announced });
                    }
                }
            }
        }
    }

    async fn read(&mut self) -> io::Result<usize> {
        let read = self.stream.read(&mut self.chunk).await?;
        self.unread = 0..read;
        Ok(read)
    }

    /// Gets the window more of the memory that all connections share.
    async fn grant(&mut self) -> Result<(), End> {
        let (grant, extra) = match &self.held {
            None => (GRANT_FIRST_BYTES, WINDOW_EXTRA_BYTES),
            Some(held) => {
                let granted = held.num_permits().saturating_sub(WINDOW_EXTRA_BYTES);
                (granted.min(GRANT_BYTES_MAX), 0)
            }
        };
        let permits =
            u32::try_from(grant + extra).expect("a grant is at most GRANT_BYTES_MAX and the extra");
        let memory = Arc::clone(&self.guest.memory);
        self.starving = true;
        let permit = memory
            .acquire_many_owned(permits)
            .await
            .expect("the semaphore is never closed");
        self.starving = false;
        match &mut self.held {
            None => self.held = Some(permit),
            Some(held) => held.merge(permit),
        }
        self.session.grant(grant);
        Ok(())
    }

    /// Hands the window over and answers for it, with keep-alives until then.
    async fn work(&mut self, window: Window) -> Result<(), End> {
        let seq = window.last_seq();
        let (done, taken) = oneshot::channel();
        let delivery = Delivery {
            peer: self.guest.peer,
            window,
            done,
        };
        let deliver = self.guest.deliver.clone();
        let mut taking = pin!(async move {
            deliver.send(delivery).await.map_err(|_| End::NotTaken)?;
            taken.await.map_err(|_| End::NotTaken)
        });
        loop {
            tokio::select! {
                biased;
                taken = &mut taking => {
                    taken?;
                    return self.answer(ack(seq)).await;
                }
                () = clock::sleep(self.guest.settings.keep_alive) => self.answer(KEEP_ALIVE).await?,
            }
        }
    }

    /// Writes one ACK; a client that does not read its ACKs is not waited for longer than for
    /// a window.
    async fn answer(&mut self, frame: [u8; SHORT_BYTES]) -> Result<(), End> {
        let limit = self.guest.settings.window_timeout;
        let written = async {
            self.stream.write_all(&frame).await?;
            // TLS holds back what is not flushed.
            self.stream.flush().await
        };
        match clock::within(limit, written).await {
            Some(written) => Ok(written?),
            None => Err(End::Io(io::ErrorKind::TimedOut.into())),
        }
    }

    /// Closes by FIN: says that nothing more comes, then reads what the client still sends, for
    /// a moment.
    async fn close(&mut self) {
        if self.stream.shutdown().await.is_err() {
            return;
        }
        let drained = async { while matches!(self.read().await, Ok(1..)) {} };
        if clock::within(LINGER, drained).await.is_none() {
            tracing::debug!(peer = %self.guest.peer, "client goes on sending, resetting the connection");
        }
    }
}
