//! What outputs do not get, told now and then: a sum for each output and reason, never each event.
//!
//! Compares how far the outputs are with what was told. Knows neither the queue nor the event that
//! is made of it.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::clock::Tick;
use crate::event::Notice;
use crate::event::WhyMissed;
use crate::queue::cursor::Cursor;
use crate::queue::cursor::Passed;

/// Least time between two notices of one output and reason: what is down for a night makes some
/// hundred events of that, whatever passes it.
const TELL_EVERY: Duration = Duration::from_secs(60);

/// See the module's header.
#[derive(Debug)]
pub(super) struct Missed {
    seen: BTreeMap<(String, WhyMissed), Seen>,
    /// Where each output was at the last look.
    places: BTreeMap<String, u64>,
}

/// An output's events that were missed for one reason.
#[derive(Debug, Default)]
struct Seen {
    /// How many at the last look, and of which it is told.
    events: u64,
    told: u64,
    /// Between which events those are that are not told.
    from: u64,
    to: u64,
    next: Tick,
}

impl Missed {
    /// Outputs that are here; what they missed before is known.
    pub(super) fn new(cursors: &BTreeMap<String, Cursor>) -> Self {
        let mut missed = Self {
            seen: BTreeMap::new(),
            places: BTreeMap::new(),
        };
        for (output, cursor) in cursors {
            missed.places.insert(output.clone(), cursor.seq);
            for (why, events) in reasons(&cursor.passed) {
                let seen = Seen {
                    events,
                    told: events,
                    ..Seen::default()
                };
                missed.seen.insert((output.clone(), why), seen);
            }
        }
        missed
    }

    /// What is to be told of outputs of these names that have these events next and passed those before
    /// so; without a time all that is not told.
    pub(super) fn look<'a>(
        &mut self,
        outputs: impl Iterator<Item = (&'a str, u64, Passed)>,
        now: Option<Tick>,
    ) -> Vec<Notice> {
        let mut notices = Vec::new();
        for (output, seq, passed) in outputs {
            let before = self.places.insert(output.to_owned(), seq).unwrap_or(seq);
            for (why, events) in reasons(&passed) {
                let seen = self.seen.entry((output.to_owned(), why)).or_default();
                if events > seen.events {
                    if seen.events == seen.told {
                        seen.from = before;
                    }
                    (seen.events, seen.to) = (events, seq.saturating_sub(1));
                }
                if events < seen.events {
                    // The ACK of a window came of which events had been given up.
                    (seen.events, seen.told) = (events, seen.told.min(events));
                }
                let due = now.is_none_or(|now| now >= seen.next);
                if seen.events > seen.told && due {
                    notices.push(Notice::Missed {
                        output: output.to_owned(),
                        why,
                        events: seen.events - seen.told,
                        from: seen.from,
                        to: seen.to,
                    });
                    seen.told = seen.events;
                    seen.next = now.unwrap_or_default().after(TELL_EVERY);
                }
            }
        }
        notices
    }
}

const fn reasons(passed: &Passed) -> [(WhyMissed, u64); 2] {
    [
        (WhyMissed::QueueFull, passed.dropped),
        (WhyMissed::Skipped, passed.skipped),
    ]
}

/// What an output at `cursor` misses when it is forgotten, and event `next_seq` comes next.
pub(super) fn forgotten(output: &str, cursor: &Cursor, next_seq: u64) -> Option<Notice> {
    let events = cursor.waiting(next_seq);
    (events > 0).then(|| Notice::Missed {
        output: output.to_owned(),
        why: WhyMissed::Forgotten,
        events,
        from: cursor.seq,
        to: next_seq - 1,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn passed(acked: u64, dropped: u64, skipped: u64) -> Passed {
        Passed {
            acked,
            dropped,
            skipped,
            ..Passed::default()
        }
    }

    fn notice(why: WhyMissed, events: u64, from: u64, to: u64) -> Notice {
        Notice::Missed {
            output: "out".to_owned(),
            why,
            events,
            from,
            to,
        }
    }

    #[test]
    fn what_an_output_misses_is_told_at_once_and_then_as_a_sum_a_minute() {
        let cursor = Cursor {
            seq: 11,
            born: 1,
            passed: passed(5, 5, 0),
            ..Cursor::default()
        };
        let mut missed = Missed::new(&BTreeMap::from([("out".to_owned(), cursor)]));
        let mut look = |second: Option<u64>, acked, dropped, skipped| {
            let passed = passed(acked, dropped, skipped);
            let outputs = [("out", 1 + passed.total(), passed)];
            missed.look(outputs.into_iter(), second.map(|at| Tick(at * 1000)))
        };
        assert_eq!(look(Some(1), 5, 5, 0), [], "what was there is known");
        assert_eq!(look(Some(2), 6, 5, 0), []);
        let first = notice(WhyMissed::QueueFull, 3, 12, 14);
        assert_eq!(look(Some(3), 6, 8, 0), [first]);
        for at in 4..63 {
            assert_eq!(look(Some(at), 6, 8 + at, 0), [], "{at}");
        }
        let sum = notice(WhyMissed::QueueFull, 62, 15, 76);
        assert_eq!(look(Some(63), 10, 70, 0), [sum]);
        assert_eq!(look(Some(200), 99, 70, 0), [], "nothing more is missed");
        let skipped = notice(WhyMissed::Skipped, 4, 170, 173);
        assert_eq!(
            look(Some(201), 99, 70, 4),
            [skipped],
            "each reason for itself"
        );
        assert_eq!(look(Some(202), 99, 70, 5), []);
        let rest = notice(WhyMissed::Skipped, 1, 174, 174);
        assert_eq!(look(None, 99, 70, 5), [rest], "all is told at the end");
        assert_eq!(look(None, 99, 70, 5), []);
    }

    #[test]
    fn what_arrived_after_it_was_given_up_is_not_told_and_hides_nothing_that_is_missed_later() {
        let mut missed = Missed::new(&BTreeMap::new());
        let mut look = |second: u64, acked, dropped| {
            let passed = passed(acked, dropped, 0);
            let outputs = [("out", 1 + passed.total(), passed)];
            missed.look(outputs.into_iter(), Some(Tick(second * 1000)))
        };
        assert_eq!(look(1, 0, 0), []);
        assert_eq!(look(2, 0, 9), [notice(WhyMissed::QueueFull, 9, 1, 9)]);
        assert_eq!(look(3, 0, 29), []);
        assert_eq!(look(4, 16, 13), []);
        assert_eq!(look(63, 16, 13), [notice(WhyMissed::QueueFull, 4, 10, 29)]);
        assert_eq!(look(64, 26, 3), []);
        assert_eq!(look(200, 26, 8), [notice(WhyMissed::QueueFull, 5, 30, 34)]);
    }

    #[test]
    fn an_output_that_is_forgotten_misses_what_waits_for_it() {
        let cursor = Cursor {
            seq: 7,
            ..Cursor::default()
        };
        let all = notice(WhyMissed::Forgotten, 3, 7, 9);
        assert_eq!(forgotten("out", &cursor, 10), Some(all));
        assert_eq!(forgotten("out", &cursor, 7), None);
    }
}
