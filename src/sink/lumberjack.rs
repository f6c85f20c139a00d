//! The Lumberjack output: its settings, and the proof of what the peer took over.
//!
//! The protocol's rules are in `crate::protocol`, its sockets in `crate::lumberjack`.

use std::time::Duration;

use super::Plan;
use crate::clock::Tick;
use crate::event::Ack;
use crate::lumberjack::Client;
use crate::lumberjack::client::Builder;
use crate::lumberjack::connection::Dial;
use crate::protocol::client;
use crate::protocol::frame::Version;
use crate::tls;
use crate::window::Limits;

/// `[output.NAME]` with `kind = "lumberjack"`, checked. Names and defaults as in Filebeat.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// `host:port` each; port default 5044. IPv6 in brackets. One at a time, beginning with one by
    /// chance and going on with the next on failure; all at once with `loadbalance`.
    pub hosts: Vec<String>,
    /// Whether all hosts get windows at once; the order of a job's events is then not kept.
    pub loadbalance: bool,
    /// The protocol's version. Default 2.
    pub version: Version,
    /// Most events of one window, 1..=10000. Default 2048.
    pub bulk_max_size: u32,
    /// Most bytes of one window, inflated; a larger event goes alone. Default 8 MiB: well under
    /// Graylog's 16 MiB frames and 64 MiB inflated.
    pub bulk_max_bytes: u64,
    /// zlib level 0..=9 of windows that are joined at ship. Default 3. 0: not compressed.
    pub compression_level: u32,
    /// Windows in flight on one connection; 0 and 1 both mean one at a time. Default 2.
    pub pipelining: u32,
    /// How old a connection gets before the next window goes on a new one. Zero, the default: any age.
    pub ttl: Duration,
    /// Liveness: no byte from the server for this long ends the connection. Default 30s.
    pub timeout: Duration,
    /// Progress: keep-alives without a higher ACK for this long end it too. Default 5m.
    pub ack_stall_timeout: Duration,
    /// First wait after a failed connection. Default 1s.
    pub backoff_init: Duration,
    /// Longest wait after failed connections. Default 60s.
    pub backoff_max: Duration,
    /// `ssl`: encryption. Default none.
    pub tls: Option<tls::Settings>,
}

impl Settings {
    /// What its windows may hold.
    #[must_use]
    pub fn limits(&self) -> Limits {
        Limits {
            events: self.bulk_max_size,
            bytes: usize::try_from(self.bulk_max_bytes).unwrap_or(usize::MAX),
            compression_level: self.compression_level,
            format: self.version.into(),
        }
    }

    /// How it is shipped to.
    #[must_use]
    pub fn plan(&self) -> Plan {
        Plan {
            hosts: self.hosts.clone(),
            loadbalance: self.loadbalance,
            bulk_max_size: self.bulk_max_size,
            ttl: self.ttl,
            backoff_init: self.backoff_init,
            backoff_max: self.backoff_max,
            peer: Some(client::Settings {
                version: self.version,
                pipelining: self.pipelining,
                timeout: self.timeout,
                ack_stall_timeout: self.ack_stall_timeout,
            }),
        }
    }

    /// How its servers are reached.
    #[must_use]
    pub fn dial(&self) -> Dial {
        Dial {
            timeout: self.timeout,
            tls: self.tls.clone().map(tls::Connector::new),
        }
    }

    /// A client of its servers, for commands that send events themselves.
    ///
    /// # Panics
    /// When there is no host; a checked output has one.
    #[must_use]
    pub fn client(&self) -> Builder {
        let (first, others) = self.hosts.split_first().expect("an output has a host");
        let client = others
            .iter()
            .fold(Client::to(first), |client, host| client.or(host));
        let client = match &self.tls {
            Some(settings) => client.tls(settings.clone()),
            None => client,
        };
        client
            .version(self.version)
            .window(self.bulk_max_size)
            .compression_level(self.compression_level)
            .pipelining(self.pipelining.max(1))
            .timeout(self.timeout)
            .ack_stall_timeout(self.ack_stall_timeout)
            .backoff(self.backoff_init, self.backoff_max)
    }
}

/// The protocol's state on one connection.
#[derive(Debug)]
pub struct Session(client::Session);

impl Session {
    /// A session on a fresh connection.
    #[must_use]
    pub fn new(settings: client::Settings, now: Tick) -> Self {
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

    /// Takes bytes from the server; the ACK in them, if there is one.
    ///
    /// # Errors
    /// The fault that ends the connection, in words.
    pub fn received(&mut self, bytes: &[u8], now: Tick) -> Result<Option<Ack>, String> {
        let progress = self
            .0
            .received(bytes, now)
            .map_err(|fault| fault.to_string())?;
        Ok((progress.events > 0).then(|| Ack::witnessed(progress.events)))
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
