//! The shipper: takes one output from its cursor to the end of the queue, again and again.
//!
//! A step machine, `(state, input) -> effects`; its driver is in `driver`. Invariant: the cursor
//! moves only on an `Ack`; after a broken connection everything not acknowledged, and nothing
//! else, is sent again. Knows nothing of jobs, schedules and processes.

use std::collections::VecDeque;
use std::time::Duration;

use crate::clock::Tick;
use crate::queue::cursor::Cursor;
use crate::sink::lumberjack::Session;
use crate::sink::lumberjack::Settings;
use crate::window::Window;

pub mod driver;
mod load;
mod trail;

#[cfg(test)]
mod tests;

use load::Loaded;
use trail::Trail;

/// How long a cursor that was written may wait for its sync: what a power cut may send twice.
const CURSOR_SYNC_EVERY: Duration = Duration::from_millis(200);

/// How long a failed read of the queue waits before it is tried again.
const READ_RETRY: Duration = Duration::from_secs(1);

/// What can make a shipper act.
#[derive(Debug)]
pub enum Input<'a> {
    /// The connection that was asked for is there.
    Connected,
    /// The connection broke or could not be made; the reason in words.
    Lost(String),
    /// Bytes came from the server.
    Received(&'a [u8]),
    /// Bytes could be written to it.
    Wrote,
    /// The queue has grown.
    Captured,
    /// A load is done.
    #[expect(
        private_interfaces,
        reason = "made by the loader, driven inside this module"
    )]
    Loaded(Loaded),
    /// A load failed; the reason in words.
    LoadFailed(String),
    /// Time has passed.
    Clock,
}

/// What a shipper wants done.
#[derive(Debug, PartialEq, Eq)]
pub enum Effect {
    /// Connect to this host.
    Connect(String),
    /// Close the connection.
    Close,
    /// Load the next window.
    Load,
    /// Forget what was loaded; the next load begins at this cursor.
    Rewind(Cursor),
    /// Write these bytes.
    Send(Vec<u8>),
    /// Store the cursor.
    Store(Cursor),
    /// Make the stored cursor durable.
    Sync(Cursor),
}

/// The state of the connection.
#[derive(Debug)]
enum Link {
    /// There is none; one is made when this time has come and something waits, or at the start.
    Down { retry_at: Tick },
    /// One is being made.
    Connecting,
    /// There is one.
    Up(Session),
}

/// What people may know about a shipper.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct View {
    /// `connected`, `connecting`, `down` or `idle` (closed while there is nothing to send).
    pub state: String,
    /// The host of the connection, or the one tried next.
    pub host: String,
    /// Events that were acknowledged since the output exists.
    pub acked: u64,
    /// Events that could not be read any more.
    pub damaged: u64,
    /// Events for other outputs.
    pub not_mine: u64,
    /// Events that wait for this output, those in flight among them.
    pub waiting: u64,
    /// Windows in flight.
    pub in_flight: u64,
    /// Windows sent since the daemon started.
    pub windows: u64,
    /// Connections made since the daemon started.
    pub connections: u64,
    /// Why the last connection broke or failed, if none has made progress since.
    pub last_error: Option<String>,
}

/// One output's state.
#[derive(Debug)]
pub struct Shipper {
    settings: Settings,
    link: Link,
    host: usize,
    trail: Trail,
    /// A load was asked for and has not come back.
    loading: bool,
    /// The log has been read to the end of what may be read.
    at_end: bool,
    /// The last load failed; the next one waits until then.
    load_after: Tick,
    /// Cursor as it was stored last, and as it was synced last.
    stored: Cursor,
    synced: Cursor,
    sync_at: Tick,
    failures: u32,
    salt: u64,
    windows: u64,
    connections: u64,
    last_error: Option<String>,
}

impl Shipper {
    /// A shipper whose output is at `cursor`. `salt` spreads the retries of many daemons.
    #[must_use]
    pub fn new(settings: Settings, cursor: Cursor, salt: u64) -> Self {
        Self {
            settings,
            link: Link::Down {
                retry_at: Tick::default(),
            },
            host: 0,
            trail: Trail::new(cursor),
            loading: false,
            at_end: false,
            load_after: Tick::default(),
            stored: cursor,
            synced: cursor,
            sync_at: Tick::default(),
            failures: 0,
            salt,
            windows: 0,
            connections: 0,
            last_error: None,
        }
    }

    /// One step.
    pub fn step(&mut self, input: Input<'_>, now: Tick) -> Vec<Effect> {
        let mut effects = Vec::new();
        match input {
            Input::Connected => {
                self.link = Link::Up(Session::new(&self.settings, now));
                self.connections += 1;
            }
            Input::Lost(reason) => self.lost(reason, now, &mut effects),
            Input::Received(bytes) => self.received(bytes, now, &mut effects),
            Input::Wrote => {
                if let Link::Up(session) = &mut self.link {
                    session.wrote(now);
                }
            }
            Input::Captured => self.at_end = false,
            Input::Loaded(loaded) => self.loaded(loaded, now, &mut effects),
            Input::LoadFailed(reason) => {
                tracing::error!(%reason, "the queue cannot be read; it is tried again");
                self.loading = false;
                self.load_after = now.after(READ_RETRY);
                self.lost(reason, now, &mut effects);
                effects.push(Effect::Rewind(self.trail.cursor()));
            }
            Input::Clock => self.check(now, &mut effects),
        }
        self.go_on(now, &mut effects);
        effects
    }

    /// When the next [`Input::Clock`] is due.
    #[must_use]
    pub fn wake_at(&self) -> Option<Tick> {
        let mut wake = VecDeque::new();
        match &self.link {
            Link::Down { retry_at } if !self.at_end || self.connections == 0 => {
                wake.push_back(*retry_at)
            }
            Link::Up(session) => {
                wake.extend(session.deadline());
                if !self.loading && !self.at_end && session.can_send() {
                    wake.push_back(self.load_after);
                }
            }
            Link::Down { .. } | Link::Connecting => {}
        }
        if self.stored != self.synced {
            wake.push_back(self.sync_at);
        }
        wake.into_iter().min()
    }

    /// Whether everything up to event `seq` (not itself) is passed and the cursor is durable.
    #[must_use]
    pub fn is_through(&self, seq: u64) -> bool {
        self.synced.seq >= seq
    }

    /// How far the output is.
    #[must_use]
    pub const fn cursor(&self) -> Cursor {
        self.trail.cursor()
    }

    /// What people may know, when the next event to be captured is `next_seq`.
    #[must_use]
    pub fn view(&self, next_seq: u64) -> View {
        let cursor = self.trail.cursor();
        let (state, in_flight) = match &self.link {
            Link::Up(session) => ("connected", session.in_flight()),
            Link::Connecting => ("connecting", 0),
            Link::Down { .. }
                if self.at_end && self.last_error.is_none() && self.connections > 0 =>
            {
                ("idle", 0)
            }
            Link::Down { .. } => ("down", 0),
        };
        View {
            state: state.to_owned(),
            host: self.host().to_owned(),
            acked: cursor.passed.acked,
            damaged: cursor.passed.damaged,
            not_mine: cursor.passed.not_mine,
            waiting: next_seq.saturating_sub(cursor.seq),
            in_flight: in_flight as u64,
            windows: self.windows,
            connections: self.connections,
            last_error: self.last_error.clone(),
        }
    }

    fn host(&self) -> &str {
        &self.settings.hosts[self.host % self.settings.hosts.len()]
    }

    fn received(&mut self, bytes: &[u8], now: Tick, effects: &mut Vec<Effect>) {
        let Link::Up(session) = &mut self.link else {
            return;
        };
        match session.received(bytes, now) {
            Ok(heard) => {
                if let Some(ack) = heard.ack {
                    self.trail.acked(&ack);
                    self.failures = 0;
                    self.last_error = None;
                }
            }
            Err(reason) => self.lost(reason, now, effects),
        }
    }

    fn loaded(&mut self, loaded: Loaded, now: Tick, effects: &mut Vec<Effect>) {
        self.loading = false;
        self.trail.read(loaded.steps);
        self.at_end = loaded.at_end;
        let Some(Window { bytes, events }) = loaded.window else {
            return;
        };
        match &mut self.link {
            Link::Up(session) => {
                session.sent(events, now);
                self.windows += 1;
                effects.push(Effect::Send(bytes));
            }
            // The connection went while the disk was read.
            Link::Down { .. } | Link::Connecting => self.forget(effects),
        }
    }

    /// Forgets what was loaded and not acknowledged.
    fn forget(&mut self, effects: &mut Vec<Effect>) {
        self.trail.rewind();
        self.at_end = false;
        effects.push(Effect::Rewind(self.trail.cursor()));
    }

    fn lost(&mut self, reason: String, now: Tick, effects: &mut Vec<Effect>) {
        let idle = match &self.link {
            Link::Up(session) => {
                effects.push(Effect::Close);
                session.in_flight() == 0 && self.at_end
            }
            Link::Connecting => false,
            Link::Down { .. } => return,
        };
        if idle {
            // A server that closes an idle connection is right to do so.
            tracing::debug!(host = self.host(), reason, "idle connection ended");
            self.link = Link::Down { retry_at: now };
            return;
        }
        let wait = self.back_off();
        tracing::warn!(
            host = self.host(),
            error = reason,
            retry_in = crate::units::show_duration(wait),
            "output is not reachable; its events wait in the queue"
        );
        self.last_error = Some(reason);
        self.host += 1;
        self.link = Link::Down {
            retry_at: now.after(wait),
        };
        if !self.loading {
            self.forget(effects);
        }
    }

    /// The wait after a failure: doubling, half of it by chance, so that many daemons spread.
    fn back_off(&mut self) -> Duration {
        let doubled = self
            .settings
            .backoff_init
            .saturating_mul(1 << self.failures.min(16));
        let full = doubled.min(self.settings.backoff_max);
        self.failures = self.failures.saturating_add(1);
        self.salt = self
            .salt
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        let chance = (self.salt >> 33) as f64 / f64::from(1_u32 << 31);
        full.mul_f64(0.5 + chance / 2.0)
    }

    fn check(&mut self, now: Tick, effects: &mut Vec<Effect>) {
        if let Link::Up(session) = &mut self.link
            && let Err(reason) = session.check(now)
        {
            self.lost(reason, now, effects);
        }
    }

    /// Does what the state allows: store, sync, connect, load.
    fn go_on(&mut self, now: Tick, effects: &mut Vec<Effect>) {
        let cursor = self.trail.cursor();
        if cursor != self.stored {
            if self.stored == self.synced {
                self.sync_at = now.after(CURSOR_SYNC_EVERY);
            }
            self.stored = cursor;
            effects.push(Effect::Store(cursor));
        }
        if self.stored != self.synced && now >= self.sync_at {
            self.synced = self.stored;
            effects.push(Effect::Sync(self.synced));
        }
        match &mut self.link {
            Link::Down { retry_at } => {
                let wanted = !self.at_end || self.connections == 0;
                if wanted && now >= *retry_at && !self.loading {
                    self.link = Link::Connecting;
                    effects.push(Effect::Connect(self.host().to_owned()));
                }
            }
            Link::Connecting => {}
            Link::Up(session) => {
                if self.loading || self.at_end || !session.can_send() || now < self.load_after {
                    return;
                }
                if session.is_stale(now) {
                    effects.push(Effect::Close);
                    self.link = Link::Connecting;
                    effects.push(Effect::Connect(self.host().to_owned()));
                    return;
                }
                self.loading = true;
                effects.push(Effect::Load);
            }
        }
    }
}
