//! Giving up: what an output does when the queue is full and does not hold its events.
//!
//! Decides nothing about which events: that is the queue's.

use super::Effect;
use super::Holder;
use super::Link;
use super::Shipper;
use crate::clock::Tick;

impl Shipper {
    /// Gives up the events before `seq`. What is in flight is not waited for any more, and what of it lies
    /// behind `seq` is sent again.
    pub(super) fn give_up(&mut self, seq: u64, now: Tick, effects: &mut Vec<Effect>) {
        let cursor = self.trail.cursor();
        if seq <= self.given_up || seq <= cursor.seq {
            return;
        }
        tracing::warn!(
            from = cursor.seq,
            to = seq,
            "the queue is full: events are given up for an output that it does not hold them for"
        );
        self.given_up = seq;
        for (number, lane) in self.lanes.iter_mut().enumerate() {
            if lane.flying.is_empty() {
                continue;
            }
            for id in lane.flying.drain(..) {
                if let Some(span) = self.trail.span(id) {
                    span.holder = Holder::Waiting;
                }
            }
            lane.alone = false;
            lane.link = Link::Down { retry_at: now };
            effects.push(Effect::Close(number));
        }
        self.trail.give_up(seq);
    }
}
