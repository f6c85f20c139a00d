//! Doubt: what speaks against one event that a server refused.
//!
//! A refusal has no reason code: the connection ends. That may be the event's fault, the server's, or
//! that of a network that cuts connections. So an event is condemned only on evidence: the host must
//! acknowledge others, go on refusing this one, and show no sign of refusing without a reason.
//! Pure; knows no connections.

use std::time::Duration;

use crate::clock::Tick;

/// Refusals that condemn an event. A network that cuts one connection in three, just when the event
/// is sent alone, would have to do so eight times in a row, and spare all that goes between.
const REFUSALS_MAX: u32 = 8;

/// How long an event is in doubt at least: a restart, a roll-out or a network that flaps is over by
/// then, or has shown itself by more than this event.
const DOUBT_MIN: Duration = Duration::from_secs(10);

/// How long an event in doubt is first in its place, tried again and again: order is kept over every
/// fault that is over by then. Later the events behind it go on.
const FIRST_FOR: Duration = Duration::from_secs(5);

/// Most events in doubt at once of which nothing shows that the server takes others. A server that
/// refuses so many different ones is taken to be at fault itself: no further ones are tried, until it
/// takes one of these.
pub(crate) const UNPROVEN_MAX: usize = 16;

/// What one host has to say about one event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Case {
    /// How many events it had acknowledged when this one was first refused.
    first: u64,
    /// And when it last refused it.
    last: u64,
    /// Refusals that count.
    counted: u32,
}

/// The case against one event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Doubt {
    cases: Vec<Case>,
    since: Tick,
    /// All refusals.
    tries: u32,
}

impl Doubt {
    /// The first refusal, when the hosts had acknowledged so many events.
    pub(crate) fn new(acked: &[u64], now: Tick) -> Self {
        let case = |acked: &u64| Case {
            first: *acked,
            last: *acked,
            counted: 0,
        };
        Self {
            cases: acked.iter().map(case).collect(),
            since: now,
            tries: 1,
        }
    }

    /// Whether `host` has acknowledged other events since it last refused this one.
    pub(crate) fn is_fresh(&self, host: usize, acked: &[u64]) -> bool {
        acked[host] > self.cases[host].last
    }

    /// Whether any host has acknowledged other events since the first refusal.
    pub(crate) fn has_proof(&self, acked: &[u64]) -> bool {
        let mut cases = self.cases.iter().zip(acked);
        cases.any(|(case, acked)| *acked > case.first)
    }

    /// One more refusal, by `host`. `only`: there was nothing else to send in between.
    pub(crate) fn refused(&mut self, host: usize, acked: &[u64], only: bool) {
        let counts = self.is_fresh(host, acked) || (only && acked[host] > self.cases[host].first);
        self.tries = self.tries.saturating_add(1);
        self.cases[host].counted += u32::from(counts);
        self.cases[host].last = acked[host];
    }

    /// `host` ends connections for other reasons too: its refusals so far say nothing.
    pub(crate) fn doubt_host(&mut self, host: usize) {
        self.cases[host].counted = 0;
    }

    /// Whether the event is the fault.
    pub(crate) fn is_proven(&self, now: Tick) -> bool {
        let counted: u32 = self.cases.iter().map(|case| case.counted).sum();
        counted + 1 >= REFUSALS_MAX && !self.is_young(now)
    }

    /// Whether the events behind it still wait for it.
    pub(crate) fn is_first(&self, now: Tick) -> bool {
        now.since(self.since) < FIRST_FOR
    }

    /// Whether it is too early to judge it.
    pub(crate) fn is_young(&self, now: Tick) -> bool {
        now.since(self.since) < DOUBT_MIN
    }

    /// How often it was refused.
    pub(crate) const fn tries(&self) -> u32 {
        self.tries
    }
}

/// How many events to leap over when the next one is tried while `unproven` events are in doubt and
/// nothing was acknowledged since: none, one, three, seven. So a long run of bad events is left
/// behind within [`UNPROVEN_MAX`] tries.
pub(crate) fn leap(unproven: usize) -> u64 {
    (1 << unproven.saturating_sub(1).min(UNPROVEN_MAX)) - 1
}

#[cfg(test)]
mod tests {
    use super::*;

    const LATER: Tick = Tick(10_000);

    #[test]
    fn refusals_without_proof_never_condemn() {
        let mut acked = [5, 9];
        let mut doubt = Doubt::new(&acked, Tick(0));
        for _ in 0..100 {
            doubt.refused(0, &acked, true);
            doubt.refused(1, &acked, true);
        }
        assert!(!doubt.is_proven(LATER) && !doubt.has_proof(&acked));
        // The other host works; this one has yet to prove it.
        acked[1] += 1;
        assert!(doubt.has_proof(&acked) && !doubt.is_fresh(0, &acked));
        doubt.refused(0, &acked, true);
        assert!(!doubt.is_proven(LATER));
        for counted in 2..=REFUSALS_MAX {
            assert!(!doubt.is_proven(LATER));
            doubt.refused(1, &acked, false);
            doubt.refused(1, &acked, false);
            assert_eq!(doubt.is_proven(LATER), counted == REFUSALS_MAX);
            acked[1] += 1;
        }
    }

    #[test]
    fn with_nothing_else_to_send_one_proof_is_enough() {
        let mut doubt = Doubt::new(&[5], Tick(0));
        for counted in 2..=REFUSALS_MAX {
            assert!(!doubt.is_proven(LATER));
            doubt.refused(0, &[6], true);
            assert_eq!(doubt.is_proven(LATER), counted == REFUSALS_MAX);
        }
        assert!(!doubt.is_proven(Tick(9_999)), "too soon");
        doubt.doubt_host(0);
        assert!(!doubt.is_proven(LATER));
    }

    #[test]
    fn leaps_double() {
        let leaps: Vec<u64> = (0..6).map(leap).collect();
        assert_eq!(leaps, [0, 0, 1, 3, 7, 15]);
        assert_eq!(leap(1000), 65_535);
    }
}
