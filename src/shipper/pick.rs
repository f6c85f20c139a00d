//! What is read next of the log, and for which lane; and without a lane, what is passed over because
//! it is for other outputs.
//!
//! Reads nothing itself: that is `load`. Decides nothing about connections.

use super::AHEAD_WINDOWS_MAX;
use super::Effect;
use super::Holder;
use super::Lane;
use super::Link;
use super::Loading;
use super::Shipper;
use super::SpanId;
use super::doubt;
use super::doubt::UNPROVEN_MAX;
use super::load::Order;
use crate::clock::Tick;

/// What a lane is to send next.
#[derive(Debug, PartialEq, Eq)]
enum Pick {
    /// A span that waits.
    Again(SpanId),
    /// A span, but first cut off and leave so many of its events.
    Behind(SpanId, u64),
    /// What comes next in the log.
    Next,
    /// Nothing, but it has to be known what comes next in the log.
    Look,
}

impl Shipper {
    /// Has what comes next be read, if somebody can send it or nobody has to.
    pub(super) fn load(&mut self, now: Tick, effects: &mut Vec<Effect>) {
        if self.load_over(effects) {
            return;
        }
        let lanes = self.lanes.len();
        for number in (0..lanes).map(|n| (self.turn + n) % lanes) {
            let lane = &self.lanes[number];
            if !lane.can_send(self.plan.ttl, now) {
                continue;
            }
            let Some(pick) = self.pick(lane, now) else {
                continue;
            };
            let most = lane.most;
            let (lane, span) = match pick {
                Pick::Again(id) => (Some(number), Some(id)),
                Pick::Behind(id, events) => (Some(number), self.trail.split(id, events)),
                Pick::Next => (Some(number), None),
                Pick::Look => (None, None),
            };
            let order = match span.and_then(|id| self.trail.span(id)) {
                Some(span) => Order::Again(span.sent().copied().collect()),
                None => Order::Next,
            };
            self.turn = (number + 1) % lanes;
            self.loading = Some(Loading { lane, span });
            let most = if lane.is_some() {
                most
            } else {
                self.plan.bulk_max_size
            };
            effects.push(Effect::Load(order, most));
            return;
        }
        self.load_foreign(effects);
    }

    /// Without a connection the cursor still passes what is for other outputs, up to the first event
    /// of its own: or a server that is down would hold segments of which it wants nothing.
    fn load_foreign(&mut self, effects: &mut Vec<Effect>) {
        let is_up = |lane: &Lane| matches!(lane.link, Link::Up(..));
        let leads_on = !self.at_end && !self.mine_next && self.trail.spans().next().is_none();
        if leads_on && !self.lanes.iter().any(is_up) {
            self.loading = Some(Loading {
                lane: None,
                span: None,
            });
            effects.push(Effect::Load(Order::Foreign, 0));
        }
    }

    /// What a lane that may send is to send.
    fn pick(&self, lane: &Lane, now: Tick) -> Option<Pick> {
        let idle = lane.flying.is_empty();
        let in_doubt = |fresh: bool| {
            let waiting = self.trail.spans().filter_map(move |span| {
                let doubt = span.doubt.as_ref()?;
                let fits = !fresh || doubt.is_fresh(lane.host, &self.acked);
                (span.holder == Holder::Waiting && fits).then_some((doubt.tries(), span.id))
            });
            waiting.min().map(|(_, id)| Pick::Again(id))
        };
        // The host has shown that it works: an event in doubt is tried again, alone.
        if let Some(pick) = in_doubt(true) {
            return idle.then_some(pick);
        }
        self.pick_clean(now)
            .or_else(|| idle.then(|| in_doubt(false)).flatten())
    }

    /// The next events against which nothing speaks.
    fn pick_clean(&self, now: Tick) -> Option<Pick> {
        let unproven = self.unproven();
        let mut doubts = self.trail.spans().filter_map(|span| span.doubt.as_ref());
        let ordered = !self.plan.loadbalance && unproven > 0;
        if unproven >= UNPROVEN_MAX || (ordered && doubts.all(|doubt| doubt.is_first(now))) {
            return None;
        }
        let full = u64::from(self.plan.bulk_max_size) * AHEAD_WINDOWS_MAX;
        let may_read = !self.at_end && self.trail.ahead() < full;
        let mut leap = doubt::leap(unproven);
        let mut last = None;
        for span in self.trail.spans().filter(|span| span.is_clean()) {
            let events = span.events();
            if leap < events {
                return Some(if leap == 0 {
                    Pick::Again(span.id)
                } else {
                    Pick::Behind(span.id, leap)
                });
            }
            leap -= events;
            last = Some((span.id, events));
        }
        match last {
            None if may_read && leap == 0 => Some(Pick::Next),
            _ if may_read => Some(Pick::Look),
            Some((id, 1)) => Some(Pick::Again(id)),
            Some((id, events)) => Some(Pick::Behind(id, events - 1)),
            None => None,
        }
    }
}
