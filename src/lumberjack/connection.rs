//! The client's end of a Lumberjack connection: an address becomes bytes that come and go.
//!
//! This module must never know what a window or an event is.

use std::collections::VecDeque;
use std::fmt;
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::Context;
use std::task::Poll;
use std::time::Duration;

use socket2::SockRef;
use socket2::TcpKeepalive;
use tokio::io::AsyncRead;
use tokio::io::AsyncWrite;
use tokio::io::ReadBuf;
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use crate::clock;
use crate::tls;
use crate::tls::Secured;
use crate::tls::Stream;
use crate::units::show_duration;

/// ACKs are 6 bytes; some hundred of them fit.
const READ_BYTES: usize = 4096;

/// How long an address may leave us waiting until the next one is tried beside it (RFC 8305
/// recommends this value), so that a black hole costs no more.
const NEXT_ADDRESS_AFTER: Duration = Duration::from_millis(250);

/// Most addresses of one name that are tried; more would be many connections at once to find one.
const ADDRESSES_MAX: usize = 16;

/// Longest TLS handshake: it takes a few round trips, and a server that is not one of TLS may
/// wait for ever. `timeout` counts if it is shorter.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// A quiet connection is probed after this long, since firewalls forget it otherwise: some after 5
/// minutes, many after an hour, while the system's own default is two hours.
const KEEP_ALIVE_AFTER: Duration = Duration::from_secs(60);

/// Pause between probes without an answer, and how many of them end the connection.
const KEEP_ALIVE_EVERY: Duration = Duration::from_secs(10);
const KEEP_ALIVE_PROBES: u32 = 6;

/// How servers are reached.
#[derive(Debug, Clone)]
pub struct Dial {
    /// From the first look-up to a connection that can be written to.
    pub timeout: Duration,
    /// Encryption; `None`: plain.
    pub tls: Option<tls::Connector>,
}

/// Why a connection could not be made or is over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Broken {
    /// For people.
    pub reason: String,
    /// What it may mean of a server that never acknowledged anything; goes behind the reason, else empty.
    pub guess: &'static str,
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
    /// Comes back until somebody changes a setting or a certificate, here or there.
    Misconfigured,
}

/// One step that was done on the way to a connection, with the time it took.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// The name was looked up.
    Resolved {
        /// Its addresses in the order in which they are tried.
        addresses: Vec<SocketAddr>,
        /// The time it took.
        took: Duration,
    },
    /// One of the addresses was connected to.
    Connected {
        /// Which.
        address: SocketAddr,
        /// Those that had failed until then, with the reason.
        failed: Vec<(SocketAddr, String)>,
        /// The time it took.
        took: Duration,
    },
    /// The TLS handshake was done, and the server's certificate found good.
    Secured {
        /// What was agreed on, and whom the server proved to be.
        secured: Secured,
        /// The time it took.
        took: Duration,
    },
}

impl Broken {
    fn unreachable(reason: String) -> Self {
        Self {
            reason,
            guess: "",
            cause: Cause::Unreachable,
        }
    }

    fn by_peer(reason: String) -> Self {
        Self {
            reason,
            guess: "",
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

impl From<tls::Fault> for Broken {
    fn from(fault: tls::Fault) -> Self {
        let cause = match fault.kind {
            tls::Kind::Configuration => Cause::Misconfigured,
            tls::Kind::Transport | tls::Kind::Closed => Cause::Unreachable,
        };
        Self {
            reason: fault.reason,
            guess: "",
            cause,
        }
    }
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.reason, self.guess)
    }
}

impl std::error::Error for Broken {}

/// A connection to a server, plain or encrypted.
#[derive(Debug)]
pub struct Connection {
    stream: Stream<TcpStream>,
    tls: Option<tls::Connector>,
    /// What is to be written, oldest first; at most `pipelining` windows, as the session allows.
    outgoing: VecDeque<Vec<u8>>,
    /// How much of the oldest is written.
    written: usize,
    /// What was written may not have left yet: TLS holds it back.
    unflushed: bool,
    /// Whether the server has said anything yet.
    answered: bool,
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
    /// Connects to `host` (`name:port`), trying all its addresses, looked up anew, with TLS if
    /// that is set.
    ///
    /// # Errors
    /// Why not, and what to do.
    pub async fn open(host: &str, dial: &Dial) -> Result<Self, Broken> {
        Self::open_by_steps(host, dial, &mut |_| {}).await
    }

    /// [`Connection::open`], telling `done` of each step when it is done. An error belongs to the
    /// step behind the last one that was told of.
    ///
    /// # Errors
    /// Why not, and what to do.
    pub async fn open_by_steps(
        host: &str,
        dial: &Dial,
        done: &mut (dyn FnMut(Step) + Send),
    ) -> Result<Self, Broken> {
        let limit = dial.timeout;
        let start = clock::tick();
        let Some(looked_up) = clock::within(limit, look_up(host)).await else {
            return Err(Broken::unreachable(format!(
                "no address for {host}: DNS did not answer within {}",
                show_duration(limit)
            )));
        };
        let addresses = looked_up?;
        let took = clock::tick().since(start);
        done(Step::Resolved {
            addresses: addresses.clone(),
            took,
        });

        let start = clock::tick();
        let mut failed = Vec::new();
        let left = limit.saturating_sub(took);
        let reached = clock::within(left, reach(&addresses, &mut failed)).await;
        let Some((address, stream)) = reached.flatten() else {
            return Err(not_reached(host, &addresses, &failed, limit));
        };
        let took = clock::tick().since(start);
        prepare(&stream).map_err(|error| Broken::over(&error))?;
        done(Step::Connected {
            address,
            failed,
            took,
        });

        let stream = match &dial.tls {
            None => Stream::Plain(stream),
            Some(connector) => {
                let start = clock::tick();
                let limit = limit.min(HANDSHAKE_TIMEOUT);
                let connecting = connector.connect(tls::host_of(host), stream);
                let Some(connected) = clock::within(limit, connecting).await else {
                    return Err(stalled(host, limit));
                };
                let (stream, secured) = connected.map_err(|fault| named(host, fault))?;
                let took = clock::tick().since(start);
                done(Step::Secured { secured, took });
                stream
            }
        };
        Ok(Self {
            stream,
            tls: dial.tls.clone(),
            outgoing: VecDeque::new(),
            written: 0,
            unflushed: false,
            answered: false,
            buffer: Box::new([0; READ_BYTES]),
        })
    }

    /// Puts bytes behind those that are to be written.
    pub fn send(&mut self, bytes: Vec<u8>) {
        self.outgoing.push_back(bytes);
    }

    /// Whether everything that was given to [`Connection::send`] has left.
    #[must_use]
    pub fn is_flushed(&self) -> bool {
        self.outgoing.is_empty() && !self.unflushed
    }

    /// Writes what is to be written and reads, until at least one of both has done something.
    /// May be dropped at any time without losing bytes.
    ///
    /// # Errors
    /// Why the connection is over.
    pub async fn turn(&mut self) -> Result<Turn, Broken> {
        poll_fn(|cx| self.poll_turn(cx)).await
    }

    fn poll_turn(&mut self, cx: &mut Context<'_>) -> Poll<Result<Turn, Broken>> {
        let wrote = self.poll_write(cx);
        // Also when writing failed: what the server said last tells why.
        match self.poll_read(cx) {
            Poll::Ready(turn) => Poll::Ready(turn),
            Poll::Pending => wrote.map(|wrote| match wrote {
                Ok(()) => Ok(Turn::Wrote),
                Err(error) => Err(self.over(&error)),
            }),
        }
    }

    fn poll_write(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let stream = Pin::new(&mut self.stream);
        let Some(oldest) = self.outgoing.front() else {
            if !self.unflushed {
                return Poll::Pending;
            }
            return stream.poll_flush(cx).map_ok(|()| self.unflushed = false);
        };
        let Poll::Ready(written) = stream.poll_write(cx, &oldest[self.written..])? else {
            return Poll::Pending;
        };
        self.written += written;
        self.unflushed = matches!(self.stream, Stream::Tls(_));
        if self.written == oldest.len() {
            self.outgoing.pop_front();
            self.written = 0;
        }
        Poll::Ready(Ok(()))
    }

    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<Result<Turn, Broken>> {
        let mut into = ReadBuf::new(&mut self.buffer[..]);
        let Poll::Ready(read) = Pin::new(&mut self.stream).poll_read(cx, &mut into) else {
            return Poll::Pending;
        };
        let bytes = into.filled().to_vec();
        Poll::Ready(match read {
            Err(error) => Err(self.over(&error)),
            Ok(()) if bytes.is_empty() => Err(self.closed()),
            Ok(()) => {
                self.answered = true;
                Ok(Turn::Received(bytes))
            }
        })
    }

    /// The server ended the connection in an orderly way.
    fn closed(&self) -> Broken {
        Broken {
            guess: self.guess(),
            ..Broken::by_peer("the server closed the connection".to_owned())
        }
    }

    /// The connection failed.
    fn over(&self, error: &io::Error) -> Broken {
        if let Some(connector) = &self.tls {
            if error.kind() == io::ErrorKind::UnexpectedEof {
                return self.closed();
            }
            if let Some(fault) = tls::explain_read(error, connector.settings()) {
                return fault.into();
            }
        }
        let mut broken = Broken::over(error);
        if broken.cause == Cause::ByPeer {
            broken.guess = self.guess();
        }
        broken
    }

    /// What it may mean that a server ends a connection before it has said anything. It may as
    /// well refuse the window, so this is a guess, and no [`Cause::Misconfigured`].
    fn guess(&self) -> &'static str {
        let shows_identity = |tls: &tls::Connector| tls.settings().identity.is_some();
        match &self.tls {
            _ if self.answered => "",
            None => {
                " before it answered anything; does it expect TLS (`ssl`), or something else than Beats on this port?"
            }
            Some(tls) if shows_identity(tls) => {
                " before it answered anything; does it refuse the client certificate? Its log may say"
            }
            Some(_) => {
                " before it answered anything; does it demand a client certificate (certificate and key under ssl)? Its log may say"
            }
        }
    }
}

impl Drop for Connection {
    /// Says goodbye where TLS wants it, so that the server does not take it for an attack; a socket
    /// that takes no more bytes goes without.
    fn drop(&mut self) {
        let bytes = self.stream.last_bytes();
        if !bytes.is_empty()
            && let Err(error) = self.stream.below().try_write(&bytes)
        {
            tracing::debug!(%error, "the connection closes without TLS's goodbye");
        }
    }
}

async fn look_up(host: &str) -> Result<Vec<SocketAddr>, Broken> {
    let found = tokio::net::lookup_host(host).await;
    let addresses: Vec<SocketAddr> = found
        .map_err(|error| {
            Broken::unreachable(format!(
                "no address for {host}: {error}; is the name right, and does DNS work?"
            ))
        })?
        .take(ADDRESSES_MAX)
        .collect();
    if addresses.is_empty() {
        let reason = format!("no address for {host}: DNS knows the name, but no address of it");
        return Err(Broken::unreachable(reason));
    }
    Ok(addresses)
}

/// Connects to the first address that answers. The next one is tried when one has failed, or has
/// left us waiting for a moment. `None`: all have failed.
async fn reach(
    addresses: &[SocketAddr],
    failed: &mut Vec<(SocketAddr, String)>,
) -> Option<(SocketAddr, TcpStream)> {
    let mut tries = JoinSet::new();
    let mut untried = addresses.iter().copied();
    loop {
        let next = untried.next();
        if let Some(address) = next {
            tries.spawn(async move { (address, TcpStream::connect(address).await) });
        }
        let tried = match next {
            Some(_) if untried.len() > 0 => {
                clock::within(NEXT_ADDRESS_AFTER, tries.join_next()).await
            }
            _ => Some(tries.join_next().await),
        };
        match tried {
            Some(Some(Ok((address, Ok(stream))))) => return Some((address, stream)),
            Some(Some(Ok((address, Err(error))))) => failed.push((address, error.to_string())),
            // The others go on; a task that failed is an address that did.
            None | Some(Some(Err(_))) => {}
            Some(None) => return None,
        }
    }
}

/// Sets what a socket should be: ACKs are small and wanted at once, and a peer that is gone must show.
pub(super) fn prepare(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let keep_alive = TcpKeepalive::new()
        .with_time(KEEP_ALIVE_AFTER)
        .with_interval(KEEP_ALIVE_EVERY)
        .with_retries(KEEP_ALIVE_PROBES);
    SockRef::from(stream).set_tcp_keepalive(&keep_alive)
}

fn not_reached(
    host: &str,
    addresses: &[SocketAddr],
    failed: &[(SocketAddr, String)],
    limit: Duration,
) -> Broken {
    let of = |address: &SocketAddr| {
        let reason = failed.iter().find(|(one, _)| one == address);
        reason.map_or_else(
            || format!("no answer within {}", show_duration(limit)),
            |(_, reason)| reason.clone(),
        )
    };
    let reasons: Vec<String> = match addresses {
        [only] => vec![of(only)],
        all => all
            .iter()
            .map(|address| format!("{address}: {}", of(address)))
            .collect(),
    };
    Broken::unreachable(format!("no connection to {host}: {}", reasons.join("; ")))
}

fn stalled(host: &str, limit: Duration) -> Broken {
    Broken {
        reason: format!(
            "no TLS with {host}: the server did not finish the handshake within {}; does it speak TLS on this port? Where not, enabled = false under ssl",
            show_duration(limit)
        ),
        guess: "",
        cause: Cause::Unreachable,
    }
}

fn named(host: &str, fault: tls::Fault) -> Broken {
    let broken = Broken::from(fault);
    Broken {
        reason: format!("no TLS with {host}: {}", broken.reason),
        ..broken
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use std::net::TcpListener;

    use socket2::Domain;
    use socket2::Socket;
    use socket2::Type;

    use super::*;

    /// An address that leaves everybody waiting: its queue is full, and nobody accepts.
    fn black_hole() -> (Socket, SocketAddr, Vec<std::net::TcpStream>) {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        socket.bind(&any.into()).unwrap();
        socket.listen(0).unwrap();
        let address = socket.local_addr().unwrap().as_socket().unwrap();
        let mut waiting = Vec::new();
        while let Ok(one) = std::net::TcpStream::connect_timeout(&address, NEXT_ADDRESS_AFTER) {
            waiting.push(one);
        }
        (socket, address, waiting)
    }

    fn closed() -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.local_addr().unwrap()
    }

    #[tokio::test]
    async fn a_black_hole_and_a_closed_port_do_not_keep_from_the_address_that_works() {
        let (_hole, hole, _waiting) = black_hole();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let good = listener.local_addr().unwrap();
        let closed = closed();
        let mut failed = Vec::new();
        let (reached, stream) = reach(&[hole, closed, good], &mut failed).await.unwrap();
        assert_eq!((reached, failed[0].0), (good, closed));
        prepare(&stream).unwrap();
        let socket = SockRef::from(&stream);
        assert!(socket.keepalive().unwrap() && socket.tcp_nodelay().unwrap());
        assert_eq!(socket.tcp_keepalive_time().unwrap(), KEEP_ALIVE_AFTER);
    }

    #[tokio::test]
    async fn an_address_that_cannot_be_reached_is_named_with_its_reason() {
        let (_hole, hole, _waiting) = black_hole();
        let dial = Dial {
            timeout: NEXT_ADDRESS_AFTER,
            tls: None,
        };
        let silent = Connection::open(&hole.to_string(), &dial)
            .await
            .unwrap_err();
        assert_eq!(
            silent.to_string(),
            format!("no connection to {hole}: no answer within 250ms")
        );
        let closed = closed();
        let refused = Connection::open(&closed.to_string(), &dial)
            .await
            .unwrap_err();
        assert!(refused.reason.contains("refused"), "{refused}");
        let of_two = not_reached(
            "h:1",
            &[hole, closed],
            &[(closed, "x".to_owned())],
            dial.timeout,
        );
        let reason = format!("no connection to h:1: {hole}: no answer within 250ms; {closed}: x");
        assert_eq!(of_two.reason, reason);
        let mut failed = Vec::new();
        assert!(reach(&[closed, closed], &mut failed).await.is_none());
        assert_eq!(failed.len(), 2);
    }

    #[tokio::test]
    async fn a_name_without_an_address_is_said_so() {
        let dial = Dial {
            timeout: Duration::from_secs(20),
            tls: None,
        };
        let broken = Connection::open("no-such-host.invalid:5044", &dial)
            .await
            .unwrap_err();
        assert_eq!(broken.cause, Cause::Unreachable);
        assert!(
            broken
                .reason
                .contains("no address for no-such-host.invalid:5044"),
            "{broken}"
        );
    }
}
