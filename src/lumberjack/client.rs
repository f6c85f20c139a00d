//! A Lumberjack client for whoever has events in hand: a call returns when they are acknowledged.
//!
//! Keeps the events of the call that is under way and nothing else: there is no queue, no task in
//! the background and, unless asked for, no second try. Must never know where events come from.

use std::collections::BTreeSet;
use std::collections::VecDeque;
use std::collections::hash_map::RandomState;
use std::fmt;
use std::hash::BuildHasher;
use std::hash::Hasher;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;
use std::time::Duration;

use serde::Serialize;

use crate::clock;
use crate::event::FRAME_HEAD_BYTES;
use crate::event::Frames;
use crate::event::envelope::fit;
use crate::lumberjack::connection::Connection;
use crate::lumberjack::connection::Dial;
use crate::lumberjack::connection::Turn;
use crate::protocol::client::IDLE_REUSE_MAX;
use crate::protocol::client::Session;
use crate::protocol::client::Settings as SessionSettings;
use crate::protocol::frame;
use crate::protocol::frame::Deflater;
use crate::protocol::frame::Version;
use crate::protocol::frame::WINDOW_EVENTS_MAX;
use crate::protocol::pairs;
use crate::tls;
use crate::units::LUMBERJACK_PORT;
use crate::units::parse_address;
use crate::units::show_duration;
use crate::window::WINDOW_BYTES_MAX;

mod finite;
mod lost;

use lost::Lost;

/// Largest event: the longest string that Logstash's JSON reader takes. Larger ones are refused
/// before anything is sent; Graylog's limit is 16 MiB, our own receiver's 10 MiB.
pub const PAYLOAD_BYTES_MAX: usize = 20_000_000;

/// Most windows in flight that can be asked for; each may hold [`WINDOW_BYTES_MAX`].
pub const PIPELINING_MAX: u32 = 64;

/// What the caller of a failed call should do next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Advice {
    /// Send what is not acknowledged again, after a pause: the server or the way to it failed.
    Retry,
    /// Leave the event out: it is the one behind those that are acknowledged, and no server would
    /// take it. The connection stands, the events behind it can be sent.
    Reject,
    /// Ask a person: as things are set up, no try can succeed.
    Misconfigured,
}

/// Why a call failed, and how far it came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Error {
    /// What to do next.
    pub advice: Advice,
    /// How many events of this call, from its first one on, the server has taken over. They need
    /// not be sent again; whether it got more than these is not known.
    pub acked: u64,
    /// For people.
    pub reason: String,
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.reason)
    }
}

impl std::error::Error for Error {}

/// What can be sent as an event: whatever serde writes as a JSON object, or [`Json`].
pub trait Payload {
    /// Appends the event's JSON object to `out`.
    ///
    /// # Errors
    /// Why this is not an event that every receiver can read; `out` is then of no use.
    fn write(&self, out: &mut Vec<u8>) -> Result<(), String>;
}

impl<T: Serialize> Payload for T {
    fn write(&self, out: &mut Vec<u8>) -> Result<(), String> {
        finite::check(self)?;
        serde_json::to_writer(&mut *out, self).map_err(|error| format!("not JSON: {error}"))?;
        fit(out)
    }
}

/// A JSON object that is there as bytes; it is checked, and sent byte for byte.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Json<B>(pub B);

impl<B: AsRef<[u8]>> Payload for Json<B> {
    fn write(&self, out: &mut Vec<u8>) -> Result<(), String> {
        fit(self.0.as_ref())?;
        out.extend_from_slice(self.0.as_ref());
        Ok(())
    }
}

/// A JSON object that was checked before, or that we wrote ourselves.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Checked<B>(pub(crate) B);

impl<B: AsRef<[u8]>> Payload for Checked<B> {
    fn write(&self, out: &mut Vec<u8>) -> Result<(), String> {
        out.extend_from_slice(self.0.as_ref());
        Ok(())
    }
}

/// How a [`Client`] behaves; begun by [`Client::to`].
#[derive(Debug, Clone)]
pub struct Builder {
    hosts: Vec<String>,
    version: Version,
    window: u32,
    compression_level: u32,
    pipelining: u32,
    timeout: Duration,
    ack_stall_timeout: Duration,
    retries: u32,
    backoff_init: Duration,
    backoff_max: Duration,
    tls: Option<tls::Settings>,
}

impl Builder {
    /// Another server, for when those before it cannot be reached: they are tried in turn.
    #[must_use]
    pub fn or(mut self, host: &str) -> Self {
        self.hosts.push(host.to_owned());
        self
    }

    /// Encrypts the connection, and proves the server as `settings` say; its files are read again
    /// when they have changed. Default: not encrypted.
    #[must_use]
    pub fn tls(mut self, settings: tls::Settings) -> Self {
        self.tls = Some(settings);
        self
    }

    /// The protocol's version. Default: 2. In version 1 an event's keys go as texts, see
    /// [`crate::protocol::pairs`].
    #[must_use]
    pub const fn version(mut self, version: Version) -> Self {
        self.version = version;
        self
    }

    /// Most events of a window, 1 to 10000. Default 2048.
    #[must_use]
    pub const fn window(mut self, events: u32) -> Self {
        self.window = events;
        self
    }

    /// zlib level, 0 (plain) to 9. Default 3.
    #[must_use]
    pub const fn compression_level(mut self, level: u32) -> Self {
        self.compression_level = level;
        self
    }

    /// Most windows in flight, 1 to 64. Default 2: one is written while the server works on another.
    #[must_use]
    pub const fn pipelining(mut self, windows: u32) -> Self {
        self.pipelining = windows;
        self
    }

    /// Longest time to a connection, and longest silence of a server that owes an ACK. Default 30 s.
    #[must_use]
    pub const fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Longest time for which a server may say only that it is alive. Default 5 min.
    #[must_use]
    pub const fn ack_stall_timeout(mut self, timeout: Duration) -> Self {
        self.ack_stall_timeout = timeout;
        self
    }

    /// How often in a row a call tries again by itself what [`Advice::Retry`] is about; an ACK
    /// begins the count anew. Default 0: no second try that the caller does not know of.
    #[must_use]
    pub const fn retries(mut self, retries: u32) -> Self {
        self.retries = retries;
        self
    }

    /// Wait before the first further try and longest wait; it doubles in between. Default 1 s, 60 s.
    #[must_use]
    pub const fn backoff(mut self, init: Duration, max: Duration) -> Self {
        self.backoff_init = init;
        self.backoff_max = max;
        self
    }

    /// Connects to the first of the servers that can be reached.
    ///
    /// # Errors
    /// [`Advice::Misconfigured`] for a value out of its bounds, else why none was reached.
    pub async fn connect(mut self) -> Result<Client, Error> {
        self.check()?;
        let mut client = Client {
            dial: Dial {
                timeout: self.timeout,
                tls: self.tls.clone().map(tls::Connector::new),
            },
            deflater: Deflater::new(self.compression_level),
            settings: self,
            link: None,
            next_host: 0,
            acked: Arc::default(),
            proven: BTreeSet::new(),
        };
        let mut call = Call::default();
        loop {
            match Link::open(&client.settings, &client.dial, &mut client.next_host).await {
                Ok(link) => {
                    client.link = Some(link);
                    return Ok(client);
                }
                Err(lost) => client.lost(lost, &mut call).await?,
            }
        }
    }

    fn check(&mut self) -> Result<(), Error> {
        let refuse = |reason: String| {
            Err(Error {
                advice: Advice::Misconfigured,
                acked: 0,
                reason,
            })
        };
        for host in &mut self.hosts {
            match parse_address(host, Some(LUMBERJACK_PORT)) {
                Ok(address) => *host = address,
                Err(why) => return refuse(format!("{why}; write one like logstash-1:5044")),
            }
        }
        for (name, value, bounds, example) in [
            ("window", self.window, 1..=WINDOW_EVENTS_MAX, 2048),
            ("compression_level", self.compression_level, 0..=9, 3),
            ("pipelining", self.pipelining, 1..=PIPELINING_MAX, 2),
        ] {
            if !bounds.contains(&value) {
                let (least, most) = bounds.into_inner();
                return refuse(format!(
                    "{name} is {value}; it goes from {least} to {most}, like {example}"
                ));
            }
        }
        if let Some(Err(problems)) = self.tls.as_ref().map(tls::Settings::check) {
            let problems: Vec<String> = problems.iter().map(ToString::to_string).collect();
            return refuse(problems.join("; "));
        }
        Ok(())
    }

    const fn session(&self) -> SessionSettings {
        SessionSettings {
            version: self.version,
            pipelining: self.pipelining,
            timeout: self.timeout,
            ack_stall_timeout: self.ack_stall_timeout,
        }
    }
}

/// A client of one server, or of several of which one is used at a time.
///
/// Dropping it closes the connection. A call that fails, or whose future is dropped before its
/// end, leaves it without a connection; the next call makes a new one. So does a call on a
/// connection that has been idle for more than 50 s, or that the server has closed meanwhile:
/// servers close idle connections, and that is no error.
#[derive(Debug)]
pub struct Client {
    settings: Builder,
    dial: Dial,
    deflater: Deflater,
    link: Option<Link>,
    /// Which of the hosts is tried next.
    next_host: usize,
    acked: Arc<AtomicU64>,
    /// The hosts that have acknowledged something.
    proven: BTreeSet<String>,
}

#[derive(Debug)]
struct Link {
    host: String,
    connection: Connection,
    session: Session,
}

impl Link {
    /// Connects; each server is tried once, from `next_host` on.
    async fn open(settings: &Builder, dial: &Dial, next_host: &mut usize) -> Result<Self, Lost> {
        let hosts = &settings.hosts;
        let mut why: Option<Lost> = None;
        for _ in 0..hosts.len() {
            let host = &hosts[*next_host % hosts.len()];
            match Connection::open(host, dial).await {
                Ok(connection) => {
                    return Ok(Self {
                        host: host.clone(),
                        connection,
                        session: Session::new(settings.session(), clock::tick()),
                    });
                }
                Err(broken) => {
                    *next_host = next_host.wrapping_add(1);
                    let lost = Lost::unmade(broken);
                    why = Some(match why {
                        None => lost,
                        Some(before) => before.and(lost),
                    });
                }
            }
        }
        Err(why.expect("there is at least one host"))
    }
}

/// Events in one window: on the wire, or to be sent.
#[derive(Debug)]
struct Flight {
    frames: Frames,
    /// How many of them are acknowledged.
    acked: u32,
}

/// What a call has in hand.
#[derive(Debug, Default)]
struct Call {
    /// Windows without a whole ACK, oldest first; at most `pipelining`.
    flights: VecDeque<Flight>,
    /// How many of those are on the wire.
    sent: usize,
    acked: u64,
    /// Failures since the last ACK.
    failures: u32,
}

impl Call {
    fn acknowledge(&mut self, mut events: u64) {
        self.acked += events;
        if events > 0 {
            self.failures = 0;
        }
        while let (true, Some(oldest)) = (events > 0, self.flights.front_mut()) {
            let left = oldest.frames.count() - oldest.acked;
            if let Ok(part) = u32::try_from(events)
                && part < left
            {
                oldest.acked += part;
                return;
            }
            events -= u64::from(left);
            self.flights.pop_front();
            self.sent -= 1;
        }
    }

    /// Prepares what is not acknowledged for a new connection, numbered from 1 again.
    fn rewind(&mut self) {
        self.sent = 0;
        if let Some(oldest) = self.flights.front_mut()
            && oldest.acked > 0
        {
            let mut frames = Frames::default();
            for payload in oldest.frames.payloads().skip(oldest.acked as usize) {
                frames.push(|out| out.extend_from_slice(payload));
            }
            *oldest = Flight { frames, acked: 0 };
        }
    }
}

/// The events of a call that are not in a window yet: a source, and one event that did not fit.
struct Intake<S> {
    source: S,
    event: Vec<u8>,
    /// Whether `event` waits for the next window.
    held: bool,
    /// Set when nothing more comes; with the reason when an event is refused.
    end: Option<Result<(), String>>,
}

impl<S: FnMut(&mut Vec<u8>) -> Option<Result<(), String>>> Intake<S> {
    /// The events of the next window; none at the end.
    fn window(&mut self, events: u32) -> Frames {
        let mut frames = Frames::default();
        while self.end.is_none() && frames.count() < events {
            if !self.held {
                self.event.clear();
                self.end = self.next();
                self.held = self.end.is_none();
            }
            let bytes = frames.bytes().len() + FRAME_HEAD_BYTES + self.event.len();
            if !self.held || (bytes > WINDOW_BYTES_MAX && !frames.is_empty()) {
                break;
            }
            frames.push(|out| out.extend_from_slice(&self.event));
            self.held = false;
        }
        frames
    }

    fn next(&mut self) -> Option<Result<(), String>> {
        match (self.source)(&mut self.event) {
            None => Some(Ok(())),
            Some(Err(why)) => Some(Err(why)),
            Some(Ok(())) if self.event.len() > PAYLOAD_BYTES_MAX => Some(Err(format!(
                "{} bytes; the most is {PAYLOAD_BYTES_MAX}",
                self.event.len()
            ))),
            Some(Ok(())) => None,
        }
    }
}

impl Client {
    /// Begins a client of the server `host:port`; the port is 5044 if none is given.
    #[must_use]
    pub fn to(host: &str) -> Builder {
        Builder {
            hosts: vec![host.to_owned()],
            version: Version::V2,
            window: 2048,
            compression_level: 3,
            pipelining: 2,
            timeout: Duration::from_secs(30),
            ack_stall_timeout: Duration::from_secs(300),
            retries: 0,
            backoff_init: Duration::from_secs(1),
            backoff_max: Duration::from_secs(60),
            tls: None,
        }
    }

    /// Sends one event and returns when the server has taken it over.
    ///
    /// # Errors
    /// [`Error`]: what to do next.
    pub async fn send(&mut self, event: impl Payload) -> Result<(), Error> {
        self.send_all(std::iter::once(event)).await.map(drop)
    }

    /// Sends events in full windows, several of them under way at once, and returns how many
    /// there were when the server has taken over all of them. Holds no more of them than the
    /// windows in flight, so there may be any number.
    ///
    /// # Errors
    /// [`Error`]: what to do next, and how many were taken over. When an event is refused
    /// ([`Advice::Reject`]), all those before it have been delivered and none behind it was looked at.
    pub async fn send_all<I>(&mut self, events: I) -> Result<u64, Error>
    where
        I: IntoIterator,
        I::Item: Payload,
    {
        let mut events = events.into_iter();
        let mut intake = Intake {
            source: |out: &mut Vec<u8>| Some(events.next()?.write(out)),
            event: Vec::new(),
            held: false,
            end: None,
        };
        self.prepare().await;
        let mut call = Call::default();
        loop {
            while call.flights.len() < self.settings.pipelining as usize && intake.end.is_none() {
                let frames = intake.window(self.settings.window);
                if !frames.is_empty() {
                    call.flights.push_back(Flight { frames, acked: 0 });
                }
            }
            if call.flights.is_empty() {
                break;
            }
            if let Err(lost) = self.step(&mut call).await {
                self.lost(lost, &mut call).await?;
            }
        }
        match intake.end {
            Some(Err(why)) => Err(Error {
                advice: Advice::Reject,
                acked: call.acked,
                reason: format!("event {} is refused: {why}", call.acked + 1),
            }),
            _ => Ok(call.acked),
        }
    }

    /// How many events servers have taken over from this client, those of a call that was dropped
    /// before its end included.
    #[must_use]
    pub fn acked(&self) -> u64 {
        self.acked.load(Ordering::Relaxed)
    }

    /// What [`Client::acked`] says, for whoever shows it while a call is under way.
    #[must_use]
    pub fn acked_counter(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.acked)
    }

    /// The server that is connected; `None` after a failure, until the next call.
    #[must_use]
    pub fn host(&self) -> Option<&str> {
        self.link.as_ref().map(|link| link.host.as_str())
    }

    /// Leaves a connection that cannot be used for another call.
    async fn prepare(&mut self) {
        let Some(link) = &mut self.link else {
            return;
        };
        let now = clock::tick();
        let rested = link
            .session
            .idle_since()
            .is_some_and(|since| now.since(since) <= IDLE_REUSE_MAX);
        // Lets the runtime see what has come meanwhile.
        tokio::task::yield_now().await;
        let goes_on = match clock::within(Duration::ZERO, link.connection.turn()).await {
            Some(Ok(Turn::Received(bytes))) => link.session.received(&bytes, now).is_ok(),
            Some(Ok(Turn::Wrote)) | None => true,
            Some(Err(_)) => false,
        };
        if !rested || !goes_on {
            self.link = None;
        }
    }

    /// Sends what may be sent, then waits for one thing to happen.
    async fn step(&mut self, call: &mut Call) -> Result<(), Lost> {
        let link = match &mut self.link {
            Some(link) => link,
            none => none.insert(Link::open(&self.settings, &self.dial, &mut self.next_host).await?),
        };
        while call.sent < call.flights.len() && link.session.can_send() {
            let frames = &call.flights[call.sent].frames;
            let mut bytes = Vec::new();
            let deflater = &mut self.deflater;
            let count = frames.count();
            match self.settings.version {
                Version::V1 => {
                    let frames = pairs::data_frames(frames);
                    frame::compressed_window(Version::V1, count, &frames, deflater, &mut bytes);
                }
                Version::V2 if self.settings.compression_level > 0 => {
                    let frames = frames.bytes();
                    frame::compressed_window(Version::V2, count, frames, deflater, &mut bytes);
                }
                Version::V2 => frame::plain_window(count, frames.bytes(), &mut bytes),
            }
            link.session.sent(frames.count(), clock::tick());
            link.connection.send(bytes);
            call.sent += 1;
        }
        let wait = link
            .session
            .deadline()
            .map_or(Duration::ZERO, |at| at.since(clock::tick()));
        let turn = clock::within(wait, link.connection.turn()).await;
        let now = clock::tick();
        match turn {
            Some(Ok(Turn::Received(bytes))) => {
                let progress = link
                    .session
                    .received(&bytes, now)
                    .map_err(|fault| Lost::fault(&link.host, fault))?;
                self.acked.fetch_add(progress.events, Ordering::Relaxed);
                call.acknowledge(progress.events);
                if progress.events > 0 && !self.proven.contains(&link.host) {
                    self.proven.insert(link.host.clone());
                }
            }
            Some(Ok(Turn::Wrote)) => link.session.wrote(now),
            Some(Err(broken)) => {
                let is_proven = self.proven.contains(&link.host);
                return Err(Lost::broken(&link.host, broken, is_proven));
            }
            None => link
                .session
                .check(now)
                .map_err(|fault| Lost::fault(&link.host, fault))?,
        }
        Ok(())
    }

    /// Decides whether a failure is the end of the call; waits before the next try if not.
    async fn lost(&mut self, lost: Lost, call: &mut Call) -> Result<(), Error> {
        if self.link.take().is_some() {
            self.next_host = self.next_host.wrapping_add(1);
        }
        if lost.advice == Advice::Misconfigured || call.failures >= self.settings.retries {
            return Err(Error {
                advice: lost.advice,
                acked: call.acked,
                reason: lost.reason,
            });
        }
        let wait = self.back_off(call.failures);
        call.failures += 1;
        call.rewind();
        tracing::warn!(
            error = lost.reason,
            attempt = call.failures,
            wait = show_duration(wait),
            "sending again after a pause"
        );
        clock::sleep(wait).await;
        Ok(())
    }

    /// Half of the wait is left to chance, so that many clients do not come back at once.
    fn back_off(&self, failures: u32) -> Duration {
        let doubled = self
            .settings
            .backoff_init
            .saturating_mul(1 << failures.min(16));
        let chance = RandomState::new().build_hasher().finish() >> 32;
        doubled
            .min(self.settings.backoff_max)
            .mul_f64(0.5 + chance as f64 / (1_u64 << 33) as f64)
    }
}
