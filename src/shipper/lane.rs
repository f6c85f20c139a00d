//! A lane: one connection at a time to one host, and what is in flight on it.
//!
//! An output has one lane, or one for each host with `loadbalance`. Decides how large a window its
//! host may have next and how long to wait after a failure. Knows no log and no cursor.

use std::collections::VecDeque;
use std::time::Duration;

use super::trail::SpanId;
use crate::clock::Tick;
use crate::sink::Plan;
use crate::sink::Session;

/// Longest wait after a refusal that tells more about what was sent than about the server: while a
/// window is being halved down to the event that is refused, ten times for 2048 events.
const HALVING_WAIT_MAX: Duration = Duration::from_secs(5);

/// The state of the connection.
#[derive(Debug)]
pub(super) enum Link {
    /// There is none; one is made when this time has come and something waits, or at the start.
    Down { retry_at: Tick },
    /// One is being made.
    Connecting,
    /// There is one, since then.
    Up(Session, Tick),
}

/// One connection's state.
#[derive(Debug)]
pub(super) struct Lane {
    /// Number of the host in the plan.
    pub(super) host: usize,
    pub(super) link: Link,
    /// Spans in flight, oldest first: one for each window of the session.
    pub(super) flying: VecDeque<SpanId>,
    /// The oldest has been acknowledged in part on this connection.
    pub(super) progressed: bool,
    /// Something was lost and nothing acknowledged since: one window at a time, so that it is known
    /// which one the server does not like.
    pub(super) careful: bool,
    /// The window in flight is an event in doubt: nothing goes with it.
    pub(super) alone: bool,
    /// Most events of the next window: halved when a connection ends without progress, half as
    /// much again with each window that is acknowledged, so a server that lives for moments gets on.
    pub(super) most: u32,
    pub(super) connections: u64,
    pub(super) last_error: Option<String>,
    /// It was told that there is no connection, and not yet that there is one again.
    missed: bool,
    /// It was told that there is one again, which has not acknowledged anything yet.
    unproven: bool,
    failures: u32,
    salt: u64,
}

impl Lane {
    pub(super) fn new(host: usize, plan: &Plan, salt: u64) -> Self {
        Self {
            host,
            link: Link::Down {
                retry_at: Tick::default(),
            },
            flying: VecDeque::new(),
            progressed: false,
            careful: false,
            alone: false,
            most: plan.bulk_max_size,
            connections: 0,
            last_error: None,
            missed: false,
            unproven: false,
            failures: 0,
            salt,
        }
    }

    /// Takes a connection that was made; returns whether that is news: there was none before. Of a
    /// server that takes connections and ends each at once it is news one time.
    pub(super) fn connected(&mut self, plan: &Plan, now: Tick) -> bool {
        self.link = Link::Up(plan.session(now), now);
        self.connections += 1;
        self.progressed = false;
        let is_news = std::mem::take(&mut self.missed);
        self.unproven |= is_news;
        is_news
    }

    /// States that it was told that there is no connection; `was_up`: there was one until now.
    pub(super) fn told_missing(&mut self, was_up: bool) {
        self.missed = !was_up || !self.unproven;
    }

    /// Whether it may be given another window now; `ttl` zero: connections have no age.
    pub(super) fn can_send(&self, ttl: Duration, now: Tick) -> bool {
        let one = self.careful || self.alone;
        match &self.link {
            Link::Up(session, since) => {
                session.can_send() && (!one || self.flying.is_empty()) && !is_over(ttl, *since, now)
            }
            Link::Down { .. } | Link::Connecting => false,
        }
    }

    /// Whether the connection is over its `ttl` and nothing is in flight on it any more.
    pub(super) fn is_aged(&self, ttl: Duration, now: Tick) -> bool {
        matches!(self.link, Link::Up(_, since) if is_over(ttl, since, now))
            && self.flying.is_empty()
    }

    /// Whether the server is about to close the connection because nothing came.
    pub(super) fn is_stale(&self, now: Tick) -> bool {
        matches!(&self.link, Link::Up(session, _) if session.is_stale(now))
    }

    /// States that a window was acknowledged whole or in part.
    pub(super) fn progress(&mut self, whole: bool, plan: &Plan) {
        self.failures = 0;
        self.last_error = None;
        self.unproven = false;
        if whole {
            self.careful = false;
            self.alone = false;
            let more = self.most.saturating_add(self.most / 2 + 1);
            self.most = more.min(plan.bulk_max_size);
        }
    }

    /// Halves the next window.
    pub(super) fn shrink(&mut self, events: u64) {
        let half = u32::try_from(events / 2).unwrap_or(u32::MAX);
        self.most = self.most.min(half).max(1);
    }

    /// States that an event was condemned: the server works, so nothing is waited for.
    pub(super) const fn forgive(&mut self) {
        self.failures = 0;
    }

    /// The wait after a failure: doubling, half of it by chance, so that many daemons spread.
    pub(super) fn back_off(&mut self, plan: &Plan, halving: bool) -> Duration {
        let doubled = plan.backoff_init.saturating_mul(1 << self.failures.min(16));
        let mut full = doubled.min(plan.backoff_max);
        if halving {
            full = full.min(HALVING_WAIT_MAX.max(plan.backoff_init));
        }
        self.failures = self.failures.saturating_add(1);
        self.salt = self
            .salt
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        let chance = (self.salt >> 33) as f64 / f64::from(1_u32 << 31);
        full.mul_f64(0.5 + chance / 2.0)
    }
}

fn is_over(ttl: Duration, since: Tick, now: Tick) -> bool {
    !ttl.is_zero() && now >= since.after(ttl)
}
