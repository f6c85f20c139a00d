//! The shipper: takes one output from its cursor to the end of the queue, again and again.
//!
//! A step machine, `(state, input) -> effects`; its driver is in `driver`. Invariant: the cursor
//! moves over the contiguous prefix of what was acknowledged, and of what became a durable dead
//! letter; after a broken connection everything not acknowledged, and nothing else, is sent again.
//! Memory holds where windows lie, never their bytes. Knows nothing of jobs, schedules and processes.

use std::time::Duration;

use crate::clock::Tick;
use crate::event::Ack;
use crate::lumberjack::connection::Broken;
use crate::lumberjack::connection::Cause;
use crate::queue::cursor::Cursor;
use crate::sink::Plan;
use crate::units::show_duration;
use crate::window::Window;

mod doubt;
pub mod driver;
mod lane;
mod load;
mod pass;
mod pick;
mod trail;
mod view;

#[cfg(test)]
mod tests;

use doubt::Doubt;
use lane::Lane;
use lane::Link;
use load::Found;
use load::Loaded;
use load::Order;
use trail::Holder;
use trail::Span;
use trail::SpanId;
use trail::Step;
use trail::Trail;

#[cfg(test)]
pub(crate) use load::Loader;
pub use pass::skip;
pub use view::Host;
pub use view::View;

/// How long a cursor that was written may wait for its sync: what a power cut may send twice.
const CURSOR_SYNC_EVERY: Duration = Duration::from_millis(200);

/// How long a failed read of the queue, or a failed write of a dead letter, waits before the next try.
const RETRY_EVERY: Duration = Duration::from_secs(1);

/// How far lanes may read ahead of the cursor, in full windows: what lies between is sent again when
/// the daemon dies, so a host that holds on to its window holds up the others in the end.
const AHEAD_WINDOWS_MAX: u64 = 256;

/// What can make a shipper act. Lanes are numbered from 0.
#[derive(Debug)]
pub enum Input<'a> {
    /// The connection that was asked for is there.
    Connected(usize),
    /// The connection broke or could not be made.
    Lost {
        /// The lane.
        lane: usize,
        /// Why.
        broken: Broken,
        /// Whether every byte of the windows in flight had left.
        flushed: bool,
    },
    /// Bytes came from the server.
    Received(usize, &'a [u8]),
    /// Bytes could be written to it.
    Wrote(usize),
    /// The window that was sent is where it belongs.
    Took(usize),
    /// The queue has grown.
    Captured,
    /// The queue is full: the events before this one are given up.
    GiveUp(u64),
    /// A person passes over the events before this one.
    Skip(u64),
    /// A load is done.
    #[expect(
        private_interfaces,
        reason = "made by the loader, driven inside this module"
    )]
    Loaded(Loaded),
    /// A load failed; the reason in words.
    LoadFailed(String),
    /// The event is a durable dead letter; `false`: it could not be read any more.
    SetAside(bool),
    /// It could not be made one; the reason in words.
    SetAsideFailed(String),
    /// Nothing more is to be sent: another shipper goes on from the cursor.
    Leave,
    /// Time has passed.
    Clock,
}

/// What a shipper wants done.
#[derive(Debug, PartialEq, Eq)]
pub enum Effect {
    /// Connect a lane to this host.
    Connect(usize, String),
    /// Close a lane's connection.
    Close(usize),
    /// Load a window of at most so many events.
    #[expect(
        private_interfaces,
        reason = "taken by the loader, driven inside this module"
    )]
    Load(Order, u32),
    /// Write these bytes to a lane's connection.
    Send(usize, Vec<u8>),
    /// Make the first event of this step a dead letter.
    #[expect(
        private_interfaces,
        reason = "taken by the loader, driven inside this module"
    )]
    SetAside {
        /// Where it lies.
        step: Step,
        /// The host that refused it last.
        host: String,
        /// What it did.
        reason: String,
    },
    /// Store the cursor.
    Store(Cursor),
    /// Make the stored cursor durable.
    Sync(Cursor),
}

/// A load that was asked for and has not come back.
#[derive(Debug, Clone, Copy)]
struct Loading {
    /// For this lane; none: only to know what lies further on.
    lane: Option<usize>,
    /// Of this span; none: of what comes next.
    span: Option<SpanId>,
}

/// One output's state.
#[derive(Debug)]
pub struct Shipper {
    /// Its name, for the log.
    output: String,
    plan: Plan,
    lanes: Vec<Lane>,
    /// The lane that is asked first for the next window.
    turn: usize,
    trail: Trail,
    /// Events acknowledged by each host since the start: the proof that it works.
    acked: Vec<u64>,
    loading: Option<Loading>,
    /// The log has been read to the end of what may be read.
    at_end: bool,
    /// What comes next in the log is for this output: only a connection leads on.
    mine_next: bool,
    /// A dead letter is being written.
    setting_aside: Option<SpanId>,
    /// The disk failed; it is left alone until then.
    disk_after: Option<Tick>,
    /// Why the queue cannot be read or a dead letter not be written.
    trouble: Option<String>,
    /// Cursor as it was stored last, and as it was synced last.
    stored: Cursor,
    synced: Cursor,
    sync_at: Tick,
    windows: u64,
    /// The events before these are given up, and skipped for a person.
    given_up: u64,
    skipped: u64,
    /// Until then a skip waits for what is in flight.
    skip_by: Option<Tick>,
    /// Nothing more is loaded.
    leaving: bool,
}

impl Shipper {
    /// A shipper for the output of this name, which is at `cursor`. `salt` spreads the first hosts and
    /// the retries of many daemons.
    #[must_use]
    pub fn new(output: &str, plan: Plan, cursor: Cursor, salt: u64) -> Self {
        let hosts = plan.hosts.len();
        let lane = |host: usize| Lane::new(host, &plan, salt.wrapping_add(host as u64));
        let lanes = if plan.loadbalance {
            (0..hosts).map(lane).collect()
        } else {
            vec![lane(usize::try_from(salt % hosts as u64).unwrap_or(0))]
        };
        Self {
            output: output.to_owned(),
            lanes,
            turn: 0,
            trail: Trail::new(cursor),
            acked: vec![0; hosts],
            loading: None,
            at_end: false,
            mine_next: false,
            setting_aside: None,
            disk_after: None,
            trouble: None,
            stored: cursor,
            synced: cursor,
            sync_at: Tick::default(),
            windows: 0,
            given_up: 0,
            skipped: 0,
            skip_by: None,
            leaving: false,
            plan,
        }
    }

    /// One step.
    pub fn step(&mut self, input: Input<'_>, now: Tick) -> Vec<Effect> {
        let mut effects = Vec::new();
        match input {
            Input::Connected(lane) => self.connected(lane, now),
            Input::Lost {
                lane,
                broken,
                flushed,
            } => self.lost(lane, broken, flushed, now, &mut effects),
            Input::Received(lane, bytes) => self.received(lane, bytes, now, &mut effects),
            Input::Wrote(lane) => {
                if let Link::Up(session, _) = &mut self.lanes[lane].link {
                    session.wrote(now);
                }
            }
            Input::Took(lane) => {
                if let Link::Up(session, _) = &mut self.lanes[lane].link
                    && let Some(ack) = session.took()
                {
                    self.acked(lane, &ack);
                }
            }
            Input::Captured => self.at_end = false,
            Input::Leave => self.leaving = true,
            Input::GiveUp(seq) => self.give_up(seq),
            Input::Skip(seq) => self.skip(seq, now),
            Input::Loaded(loaded) => self.loaded(loaded, now, &mut effects),
            Input::LoadFailed(reason) => {
                tracing::error!(output = self.output, %reason, "the queue cannot be read; it is tried again");
                (self.loading, self.mine_next) = (None, false);
                self.disk_after = Some(now.after(RETRY_EVERY));
                self.trouble = Some(format!("the queue cannot be read: {reason}"));
            }
            Input::SetAside(kept) => self.was_set_aside(kept),
            Input::SetAsideFailed(reason) => {
                tracing::error!(output = self.output, %reason, "a refused event cannot be set aside; it is tried again");
                self.setting_aside = None;
                self.disk_after = Some(now.after(RETRY_EVERY));
                self.trouble = Some(format!("a refused event cannot be set aside: {reason}"));
            }
            Input::Clock => {
                for lane in 0..self.lanes.len() {
                    if let Link::Up(session, _) = &mut self.lanes[lane].link
                        && let Err(reason) = session.check(now)
                    {
                        self.lost(lane, by_us(reason), false, now, &mut effects);
                    }
                }
            }
        }
        self.go_on(now, &mut effects);
        effects
    }

    /// When the next [`Input::Clock`] is due.
    #[must_use]
    pub fn wake_at(&self) -> Option<Tick> {
        let mut wake: Option<Tick> = None;
        let mut at = |tick: Tick| wake = Some(wake.map_or(tick, |other| other.min(tick)));
        for lane in &self.lanes {
            match &lane.link {
                Link::Down { retry_at } if self.wants(lane) => at(*retry_at),
                Link::Up(session, since) => {
                    if let Some(deadline) = session.deadline() {
                        at(deadline);
                    } else if !self.plan.ttl.is_zero() {
                        at(since.after(self.plan.ttl));
                    }
                }
                Link::Down { .. } | Link::Connecting => {}
            }
        }
        for due in [self.disk_after, self.skip_by].into_iter().flatten() {
            at(due);
        }
        if self.stored != self.synced {
            at(self.sync_at);
        }
        wake
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

    /// Whether nothing is in flight.
    #[must_use]
    pub fn is_at_rest(&self) -> bool {
        self.lanes.iter().all(|lane| lane.flying.is_empty())
    }

    /// Whether there is anything to send on a connection; the first one is made without.
    fn wants(&self, lane: &Lane) -> bool {
        lane.connections == 0
            || !self.at_end
            || self
                .trail
                .spans()
                .any(|span| span.holder == Holder::Waiting)
    }

    fn host(&self, lane: &Lane) -> &str {
        &self.plan.hosts[lane.host]
    }

    fn received(&mut self, number: usize, bytes: &[u8], now: Tick, effects: &mut Vec<Effect>) {
        let lane = &mut self.lanes[number];
        let Link::Up(session, _) = &mut lane.link else {
            return;
        };
        match session.received(bytes, now) {
            Ok(Some(ack)) => self.acked(number, &ack),
            Ok(None) => {}
            Err(reason) => self.lost(number, by_us(reason), false, now, effects),
        }
    }

    fn connected(&mut self, number: usize, now: Tick) {
        let lane = &mut self.lanes[number];
        if lane.connected(&self.plan, now) {
            let host = &self.plan.hosts[lane.host];
            match self.plan.peer {
                Some(_) => {
                    tracing::info!(output = self.output, host, "the output is connected again")
                }
                None => tracing::info!(
                    output = self.output,
                    path = host,
                    "the output can be written again"
                ),
            }
        }
    }

    /// Takes what a lane's peer, or what stands for one, has taken over.
    fn acked(&mut self, number: usize, ack: &Ack) {
        let lane = &mut self.lanes[number];
        let before = lane.flying.len();
        self.acked[lane.host] += ack.events;
        let innocent = lane.alone;
        lane.progressed = self.trail.acked(&mut lane.flying, ack);
        let host = lane.host;
        lane.progress(lane.flying.len() < before, &self.plan);
        if innocent {
            self.doubt_host(host);
        }
    }

    fn loaded(&mut self, loaded: Loaded, now: Tick, effects: &mut Vec<Effect>) {
        let Some(Loading { lane, span }) = self.loading.take() else {
            return;
        };
        if self.setting_aside.is_none() {
            self.trouble = None;
        }
        let span = match loaded.found {
            Found::Next {
                steps,
                at_end,
                mine_next,
            } => {
                (self.at_end, self.mine_next) = (at_end, mine_next);
                self.trail.read(steps)
            }
            Found::Again { damaged } => {
                if let Some(id) = span.filter(|_| !damaged.is_empty()) {
                    self.trail.damaged(id, &damaged);
                }
                span
            }
        };
        let (Some(Window { bytes, events }), Some(id), Some(number)) = (loaded.window, span, lane)
        else {
            return;
        };
        let lane = &mut self.lanes[number];
        let Link::Up(session, _) = &mut lane.link else {
            // The connection went while the disk was read; the span waits.
            return;
        };
        self.trail.split(id, u64::from(events));
        let Some(span) = self.trail.span(id) else {
            return;
        };
        span.holder = Holder::Lane;
        lane.alone = span.doubt.is_some();
        lane.flying.push_back(id);
        session.sent(events, now);
        self.windows += 1;
        effects.push(Effect::Send(number, bytes));
    }

    fn was_set_aside(&mut self, kept: bool) {
        let Some(id) = self.setting_aside.take() else {
            return;
        };
        self.trouble = None;
        if kept {
            self.trail.set_aside(id);
        } else if let Some(at) = self
            .trail
            .span(id)
            .and_then(|span| Some(span.sent().next()?.at))
        {
            self.trail.damaged(id, &[at]);
        }
    }

    fn lost(
        &mut self,
        number: usize,
        broken: Broken,
        flushed: bool,
        now: Tick,
        effects: &mut Vec<Effect>,
    ) {
        let lane = &mut self.lanes[number];
        match &lane.link {
            Link::Up(..) => effects.push(Effect::Close(number)),
            Link::Connecting => {}
            Link::Down { .. } => return,
        }
        let was_up = matches!(lane.link, Link::Up(..));
        let flying = std::mem::take(&mut lane.flying);
        lane.alone = false;
        if was_up && flying.is_empty() && !self.wants(&self.lanes[number]) {
            // A server that closes an idle connection is right to do so.
            let host = self.host(&self.lanes[number]);
            tracing::debug!(
                output = self.output,
                host,
                reason = broken.reason,
                "idle connection ended"
            );
            self.lanes[number].link = Link::Down { retry_at: now };
            return;
        }
        for id in &flying {
            self.trail.landed(*id);
        }
        let mut halving = false;
        let mut reason = broken.reason;
        if self.acked[self.lanes[number].host] == 0 {
            reason.push_str(broken.guess);
        }
        let by_peer = broken.cause == Cause::ByPeer && flushed;
        if !flying.is_empty() && !by_peer {
            self.doubt_host(self.lanes[number].host);
        }
        if let Some(first) = flying.front().filter(|_| !self.lanes[number].progressed) {
            let refused = by_peer && flying.len() == 1;
            halving = self.without_progress(number, *first, refused.then_some(&reason), now);
            if refused {
                reason.push_str(&self.who_is_to_blame());
            }
        }
        let wait = self.lanes[number].back_off(&self.plan, halving);
        let is_refusal = halving && by_peer;
        if !is_refusal {
            self.lanes[number].told_missing(was_up);
        }
        tracing::warn!(
            output = self.output,
            host = self.host(&self.lanes[number]),
            error = reason,
            retry_in = show_duration(wait),
            "{}",
            match is_refusal {
                true =>
                    "the server did not take a window; its events are sent again, fewer at once",
                false if self.plan.peer.is_none() =>
                    "the output cannot be written; its events wait in the queue",
                false => "the output has no connection; its events wait in the queue",
            }
        );
        self.down(number, reason, wait, now);
    }

    /// A connection ended before anything of its oldest window was acknowledged; `refused`: with which
    /// words the server refused that one window alone. Returns whether that tells more about what was
    /// sent than about the server.
    fn without_progress(
        &mut self,
        number: usize,
        id: SpanId,
        refused: Option<&String>,
        now: Tick,
    ) -> bool {
        let host = self.host(&self.lanes[number]).to_owned();
        let only = self.at_end && !self.trail.spans().any(Span::is_clean);
        let lane = &mut self.lanes[number];
        lane.careful = true;
        let Some(span) = self.trail.span(id) else {
            return false;
        };
        let events = span.events();
        lane.shrink(events);
        if events > 1 {
            self.trail.split(id, events.div_ceil(2));
            return true;
        }
        let Some(why) = refused else {
            return false;
        };
        let Some(doubt) = &mut span.doubt else {
            span.doubt = Some(Doubt::new(&self.acked, now));
            return true;
        };
        doubt.refused(lane.host, &self.acked, only);
        if doubt.is_proven(now) {
            let reason = format!(
                "{why}; {} times when this event was sent alone, while it acknowledged others",
                doubt.tries()
            );
            span.holder = Holder::Condemned { host, reason };
            lane.forgive();
            return false;
        }
        doubt.is_young(now)
    }

    /// What a server's refusal means as far as is known, to be put behind the reason.
    fn who_is_to_blame(&self) -> String {
        let unproven = self.unproven();
        if unproven > 1 {
            format!(
                " (so on each of {unproven} events sent alone, and none was acknowledged since: \
                 the fault is the server's, nothing is set aside)"
            )
        } else {
            String::new()
        }
    }

    /// A host has ended a connection for no fault of an event: no refusal of its so far condemns one.
    fn doubt_host(&mut self, host: usize) {
        self.trail.each_doubt(|doubt| doubt.doubt_host(host));
    }

    /// How many events are in doubt of which no host has yet proven that it takes others.
    fn unproven(&self) -> usize {
        let unproven = |span: &&Span| {
            let doubt = span.doubt.as_ref();
            doubt.is_some_and(|doubt| !doubt.has_proof(&self.acked))
        };
        self.trail.spans().filter(unproven).count()
    }

    /// Takes a lane's link down until it may be tried again, without `loadbalance` with the next host.
    fn down(&mut self, number: usize, reason: String, wait: Duration, now: Tick) {
        let hosts = self.plan.hosts.len();
        let lane = &mut self.lanes[number];
        lane.last_error = Some(reason);
        lane.link = Link::Down {
            retry_at: now.after(wait),
        };
        if !self.plan.loadbalance {
            lane.host = (lane.host + 1) % hosts;
        }
    }

    /// Does what the state allows: store, sync, set aside, connect, load.
    fn go_on(&mut self, now: Tick, effects: &mut Vec<Effect>) {
        self.keep_skipping(now, effects);
        let cursor = self.trail.cursor();
        if cursor != self.stored {
            if self.stored == self.synced {
                self.sync_at = now.after(CURSOR_SYNC_EVERY);
            }
            self.stored = cursor;
            effects.push(Effect::Store(cursor));
        }
        // Somebody waits for what is given up or skipped, and may go on only when that is durable.
        let due = now >= self.sync_at || self.synced.seq < self.given_up.max(self.skipped);
        if self.stored != self.synced && due {
            self.synced = self.stored;
            effects.push(Effect::Sync(self.synced));
        }
        self.disk_after = self.disk_after.filter(|after| now < *after);
        if self.setting_aside.is_none() && self.disk_after.is_none() {
            self.set_next_aside(effects);
        }
        for number in 0..self.lanes.len() {
            self.tend(number, now, effects);
        }
        if self.loading.is_none() && self.disk_after.is_none() && !self.leaving {
            self.load(now, effects);
        }
    }

    fn set_next_aside(&mut self, effects: &mut Vec<Effect>) {
        for span in self.trail.spans() {
            if let (Holder::Condemned { host, reason }, Some(step)) =
                (&span.holder, span.sent().next())
            {
                self.setting_aside = Some(span.id);
                effects.push(Effect::SetAside {
                    step: *step,
                    host: host.clone(),
                    reason: reason.clone(),
                });
                return;
            }
        }
    }

    /// Connects a lane when something waits for it, ends a connection that is over its time. A new one
    /// is looked up anew, and without `loadbalance` goes to the next host, so that load spreads.
    fn tend(&mut self, number: usize, now: Tick, effects: &mut Vec<Effect>) {
        let ttl = self.plan.ttl;
        let wants = self.wants(&self.lanes[number]);
        let lane = &mut self.lanes[number];
        match &lane.link {
            Link::Down { retry_at } if wants && now >= *retry_at => {}
            Link::Up(..) if lane.is_aged(ttl, now) => {
                effects.push(Effect::Close(number));
                lane.link = Link::Down { retry_at: now };
                if !self.plan.loadbalance {
                    lane.host = (lane.host + 1) % self.plan.hosts.len();
                }
                if !wants {
                    return;
                }
            }
            Link::Up(..) if wants && lane.is_stale(now) => effects.push(Effect::Close(number)),
            Link::Down { .. } | Link::Connecting | Link::Up(..) => return,
        }
        let lane = &mut self.lanes[number];
        lane.link = Link::Connecting;
        let host = self.plan.hosts[lane.host].clone();
        effects.push(Effect::Connect(number, host));
    }
}

/// A connection that we end, because the server broke a rule or a timer ran out.
fn by_us(reason: String) -> Broken {
    Broken {
        reason,
        guess: "",
        cause: Cause::Unreachable,
    }
}
