//! Doubt: what speaks against one event that a server refused.
//!
//! A refusal has no reason code: the server closes. That may be the event's fault or the server's,
//! so an event is condemned only on evidence that the server works: it must acknowledge other
//! events and go on refusing this one. Pure; knows no connections.

/// Refusals that condemn an event, all but the first while the server takes others. Where half of all
/// connections are cut by chance, three in a row would hit one event in eight that is in doubt.
const REFUSALS_MAX: u32 = 5;

/// Most events in doubt at once. A server that refuses so many different events and acknowledges
/// none between is taken to be at fault itself: no further ones are tried, until it takes one of these.
pub(crate) const DOUBTS_MAX: usize = 16;

/// The case against one event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Doubt {
    /// How many events each host had acknowledged when this one was first refused.
    marks: Vec<u64>,
    /// Refusals that count: the first, and those of hosts that have acknowledged others since.
    counted: u32,
    /// All refusals.
    tries: u32,
}

impl Doubt {
    /// The first refusal, when the hosts had acknowledged so many events.
    pub(crate) fn new(acked: &[u64]) -> Self {
        Self {
            marks: acked.to_vec(),
            counted: 1,
            tries: 1,
        }
    }

    /// Whether `host` has acknowledged other events since the first refusal.
    pub(crate) fn has_proof(&self, host: usize, acked: &[u64]) -> bool {
        acked[host] > self.marks[host]
    }

    /// Whether any host has.
    pub(crate) fn has_any_proof(&self, acked: &[u64]) -> bool {
        (0..acked.len()).any(|host| self.has_proof(host, acked))
    }

    /// One more refusal, by `host`.
    pub(crate) fn refused(&mut self, host: usize, acked: &[u64]) {
        self.tries = self.tries.saturating_add(1);
        self.counted += u32::from(self.has_proof(host, acked));
    }

    /// Whether the event is the fault.
    pub(crate) const fn is_proven(&self) -> bool {
        self.counted >= REFUSALS_MAX
    }

    /// How often it was refused.
    pub(crate) const fn tries(&self) -> u32 {
        self.tries
    }
}

/// How many events to leap over when the next one is tried while `unproven` events are in doubt and
/// nothing was acknowledged since: none, one, three, seven. So a long run of bad events is left
/// behind within [`DOUBTS_MAX`] tries.
pub(crate) const fn leap(unproven: usize) -> u64 {
    let doublings = unproven.saturating_sub(1);
    if doublings < DOUBTS_MAX {
        (1 << doublings) - 1
    } else {
        (1 << DOUBTS_MAX) - 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_without_proof_never_condemn() {
        let acked = [5, 9];
        let mut doubt = Doubt::new(&acked);
        for _ in 0..100 {
            doubt.refused(0, &acked);
            doubt.refused(1, &acked);
        }
        assert!(!doubt.is_proven());
        // The other host works; this one has yet to prove it.
        doubt.refused(0, &[5, 10]);
        doubt.refused(0, &[5, 10]);
        assert!(!doubt.is_proven());
        for counted in 2..=REFUSALS_MAX {
            assert!(!doubt.is_proven());
            doubt.refused(1, &[5, 10]);
            assert_eq!(doubt.is_proven(), counted == REFUSALS_MAX);
        }
    }

    #[test]
    fn leaps_double() {
        let leaps: Vec<u64> = (0..6).map(leap).collect();
        assert_eq!(leaps, [0, 0, 1, 3, 7, 15]);
        assert_eq!(leap(1000), 65_535);
    }
}
