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
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::io::AsyncReadExt;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpListener;
use tokio::net::TcpSocket;
use tokio::net::TcpStream;
use tokio::sync::OwnedSemaphorePermit;
use tokio::sync::Semaphore;
use tokio::sync::mpsc;
use tokio::sync::oneshot;
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::clock;
use crate::lumberjack::connection::prepare;
use crate::process::User;
use crate::process::as_user;
use crate::protocol::frame::KEEP_ALIVE;
use crate::protocol::frame::SHORT_BYTES;
use crate::protocol::frame::Version;
use crate::protocol::frame::ack_of;
use crate::protocol::server::Limits;
use crate::protocol::server::Session;
use crate::protocol::server::WINDOW_BYTES_MAX;
use crate::protocol::server::Want;
use crate::protocol::server::Window;
use crate::tls;
use crate::tls::Stream;

use door::Door;
use door::Place;
pub use door::Places;
pub use door::Tally;
use end::End;

mod door;
mod end;

#[cfg(test)]
mod tests;

/// How often `A 0` says that a window is being worked on: go-lumber's rhythm. Clients give a
/// silent server up after 30 s.
pub const KEEP_ALIVE_EVERY: Duration = Duration::from_secs(3);

/// From a window's first byte to its last: what go-lumber grants. A client that is slower, or
/// one that waits for memory in vain, is closed and sends again.
pub const WINDOW_TIMEOUT: Duration = Duration::from_secs(30);

/// How long a connection may be silent between windows: for ever, because a Beat has nothing to
/// send for hours, and closing under it costs it a resend. [`CONNECTIONS_MAX`] bounds their number,
/// and TCP keep-alive finds those whose client is gone without a word.
pub const IDLE_TIMEOUT: Option<Duration> = None;

/// Most connections at once; further ones are closed as soon as they come. Each costs a file
/// descriptor (of usually 1,024 or more) and one buffer.
pub const CONNECTIONS_MAX: usize = 1_024;

/// Most connections from one address at once: a quarter of all, so that one client that leaks them
/// leaves room for the others. Beats have one or a few; behind a proxy many share an address.
pub const CONNECTIONS_PER_PEER_MAX: usize = 256;

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

/// Connections that have come and wait to be accepted: the library's own number for it.
const BACKLOG: u32 = 1_024;

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
    /// Most connections from one address at once.
    pub connections_per_peer: usize,
    /// What the windows of all connections together may hold.
    pub memory: Memory,
    /// What it shares its connections with.
    pub places: Places,
    /// Where it is counted what was done.
    pub tally: Arc<Tally>,
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
            connections_per_peer: CONNECTIONS_PER_PEER_MAX,
            memory: Memory::new(MEMORY_BYTES_MAX),
            places: Places::new(usize::MAX),
            tally: Arc::default(),
        }
    }
}

/// A bound for what windows hold in memory. A clone is the same one: servers share it by that.
#[derive(Debug, Clone)]
pub struct Memory {
    bytes: usize,
    free: Arc<Semaphore>,
}

impl Memory {
    /// Room for so many bytes; less than [`MEMORY_BYTES_MAX`] may be too little for a large window.
    #[must_use]
    pub fn new(bytes: usize) -> Self {
        Self {
            bytes,
            free: Arc::new(Semaphore::new(bytes)),
        }
    }

    async fn get(&self, bytes: usize) -> OwnedSemaphorePermit {
        let permits =
            u32::try_from(bytes).expect("a grant is at most GRANT_BYTES_MAX and the extra");
        let free = Arc::clone(&self.free);
        let got = free.acquire_many_owned(permits).await;
        got.expect("the semaphore is never closed")
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
    listen: String,
    cause: Cause,
}

#[derive(Debug)]
enum Cause {
    /// What the operating system said; with the name of the user, if it is another than ours.
    System(io::Error, Option<String>),
    /// What is wrong with the files of TLS.
    Tls(Vec<tls::Problem>),
}

impl BindError {
    pub(super) fn system(listen: &str, user: &User, error: io::Error) -> Self {
        Self {
            listen: listen.to_owned(),
            cause: Cause::System(error, (!user.is_own()).then(|| user.name.clone())),
        }
    }

    pub(super) fn tls(listen: &str, problems: Vec<tls::Problem>) -> Self {
        Self {
            listen: listen.to_owned(),
            cause: Cause::Tls(problems),
        }
    }
}

impl fmt::Display for BindError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cannot listen on `{}`: ", self.listen)?;
        let (source, user) = match &self.cause {
            Cause::System(source, user) => (source, user),
            Cause::Tls(problems) => {
                let problems: Vec<String> = problems.iter().map(ToString::to_string).collect();
                return f.write_str(&problems.join("; "));
            }
        };
        match source.kind() {
            io::ErrorKind::AddrInUse => f.write_str(
                "something listens there already; choose another port, like 127.0.0.1:5045",
            ),
            io::ErrorKind::PermissionDenied => {
                write!(f, "{source}; ports below 1024 need rights")?;
                if let Some(user) = user {
                    write!(f, " that user {user} does not have")?;
                }
                f.write_str(", choose one like 127.0.0.1:5044")
            }
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
        match &self.cause {
            Cause::System(source, _) => Some(source),
            Cause::Tls(_) => None,
        }
    }
}

/// Begins to listen on `ADDRESS:PORT` with the rights of `user`; port 0 picks a free one.
///
/// # Errors
/// Names the address, the cause and an address that would do.
pub async fn bind(listen: &str, user: &User) -> Result<TcpListener, BindError> {
    let bound = async {
        let mut last = io::Error::new(io::ErrorKind::InvalidInput, "no address");
        for address in tokio::net::lookup_host(listen).await? {
            match bind_address(address, user) {
                Ok(listener) => return Ok(listener),
                Err(error) => last = error,
            }
        }
        Err(last)
    };
    let bound = bound.await;
    bound.map_err(|error| BindError::system(listen, user, error))
}

fn bind_address(address: SocketAddr, user: &User) -> io::Result<TcpListener> {
    let socket = match address {
        SocketAddr::V4(_) => TcpSocket::new_v4()?,
        SocketAddr::V6(_) => TcpSocket::new_v6()?,
    };
    // As everybody does who listens: the address can be had again at once after a restart.
    socket.set_reuseaddr(true)?;
    as_user(user, || socket.bind(address))??;
    socket.listen(BACKLOG)
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
    let mut door = Door::default();
    let mut connections = JoinSet::new();
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
                settings.tally.not_accepted(&error);
                clock::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        settings.tally.accepted();
        let Some(place) = door.place(peer, &settings) else {
            continue;
        };
        let guest = Guest {
            peer,
            settings: settings.clone(),
            deliver: deliver.clone(),
            _place: place,
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

/// A client that has connected, and what is needed to serve it.
struct Guest {
    peer: SocketAddr,
    settings: ServerSettings,
    deliver: mpsc::Sender<Delivery>,
    _place: Place,
}

impl Guest {
    async fn run(self, stream: TcpStream, stop: watch::Receiver<bool>) {
        let peer = self.peer;
        tracing::debug!(%peer, "client connected");
        if let Err(error) = prepare(&stream) {
            // Costs latency, and a place when the client goes without a word; nothing else.
            tracing::debug!(%peer, %error, "cannot set the socket's options");
        }
        let greeted = tokio::select! {
            biased;
            () = stopped(stop.clone()) => Err(End::Stopping),
            greeted = self.greet(stream) => greeted,
        };
        match greeted {
            Ok(stream) => Connection::new(stream, self).run(stop).await,
            Err(end) => end.tell(peer, &self.settings),
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
    /// Fires when the taker lets go of a window whose client is gone.
    abandoned: Option<oneshot::Receiver<()>>,
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
            abandoned: None,
        }
    }

    async fn run(mut self, stop: watch::Receiver<bool>) {
        let end = self.talk(stop).await;
        end.tell(self.guest.peer, &self.guest.settings);
        // A window that did not come whole goes before its share of the memory does, not after the linger.
        self.session = Session::new(self.guest.settings.limits);
        if self.abandoned.is_none() {
            self.held = None;
        }
        if !matches!(end, End::Io(_)) {
            self.close().await;
        }
        if let Some(let_go) = self.abandoned.take() {
            // Until then the window is in memory, and counts there.
            drop(let_go.await);
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
            if let Err(end) = worked {
                return end;
            }
            self.held = None;
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
        self.starving = true;
        let permit = self.guest.settings.memory.get(grant + extra).await;
        self.starving = false;
        match &mut self.held {
            None => self.held = Some(permit),
            Some(held) => held.merge(permit),
        }
        self.session.grant(grant);
        Ok(())
    }

    /// Hands the window over and answers for it when it is safe.
    async fn work(&mut self, window: Window) -> Result<(), End> {
        let (version, seq, events) = (window.version(), window.last_seq(), window.count());
        let deliver = self.guest.deliver.clone();
        let reserved = self.keep_alive_until(version, deliver.reserve()).await?;
        let place = reserved.map_err(|_| End::NotTaken)?;
        let (done, mut taken) = oneshot::channel();
        place.send(Delivery {
            peer: self.guest.peer,
            window,
            done,
        });
        match self.keep_alive_until(version, &mut taken).await {
            Ok(taken) => taken.map_err(|_| End::NotTaken)?,
            Err(end) => {
                self.abandoned = Some(taken);
                return Err(end);
            }
        }
        let tally = &self.guest.settings.tally;
        tally.windows.fetch_add(1, Ordering::Relaxed);
        tally.events.fetch_add(events as u64, Ordering::Relaxed);
        self.answer(ack_of(version, seq)).await
    }

    /// Waits for `work`, and says meanwhile that it goes on. Version 1 has no word for that
    /// (logstash-forwarder takes any answer for the ACK), so its client is not made to wait for
    /// longer than it would.
    async fn keep_alive_until<W: Future>(
        &mut self,
        version: Version,
        work: W,
    ) -> Result<W::Output, End> {
        if version == Version::V1 {
            let limit = self.guest.settings.window_timeout;
            return clock::within(limit, work).await.ok_or(End::Unheard);
        }
        let mut work = pin!(work);
        loop {
            let pause = self.guest.settings.keep_alive;
            match clock::within(pause, &mut work).await {
                Some(done) => return Ok(done),
                None => self.answer(KEEP_ALIVE).await?,
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
