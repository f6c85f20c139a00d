//! The trail: what lies between an output's cursor and what was read last, in the order of the log.
//!
//! Windows in flight, and those to be sent again, are *spans* of it: where their events lie, not
//! their bytes. Turns "the peer took k further events of this span" into where the cursor is, which
//! moves over the contiguous prefix only. Pure; knows no windows and no connections.

use std::collections::BTreeMap;
use std::collections::VecDeque;

use super::doubt::Doubt;
use crate::event::Ack;
use crate::queue::Position;
use crate::queue::cursor::Cursor;
use crate::queue::cursor::Passed;
use crate::queue::cursor::Unacked;

/// How events of a step get passed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    /// By the peer's ACK.
    Sent,
    /// They are for other outputs.
    NotMine,
    /// They could not be read.
    Damaged,
    /// They were given up, so that the queue could take others.
    Dropped,
    /// A person passed them over.
    Skipped,
}

/// Some events of one record, one after the other; of many records when no ACK is needed for them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Step {
    /// The record they are in.
    pub(crate) at: Position,
    /// Events of that record before these.
    pub(crate) done: u32,
    /// Number of the first one.
    pub(crate) seq: u64,
    /// How many these are.
    pub(crate) events: u64,
    /// Where the log goes on when they are passed, if that ends their record.
    pub(crate) next: Option<Position>,
    /// How they get passed.
    pub(crate) way: Way,
}

impl Step {
    /// The place behind its first `events`.
    fn place(&self, events: u64) -> Place {
        match self.next {
            Some(next) if events == self.events => Place { at: next, done: 0 },
            _ => Place {
                at: self.at,
                done: self.done + u32::try_from(events).unwrap_or(u32::MAX),
            },
        }
    }

    /// Takes its first `events` off.
    fn split_off_front(&mut self, events: u64) -> Self {
        let place = self.place(events);
        let front = Self {
            events,
            next: (events == self.events).then_some(self.next).flatten(),
            ..*self
        };
        self.done = place.done;
        self.seq += events;
        self.events -= events;
        front
    }
}

/// Where the log goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Place {
    at: Position,
    done: u32,
}

/// Who has a span.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Holder {
    /// Nobody: it is to be sent, or sent again.
    Waiting,
    /// A lane, in flight.
    Lane,
    /// Nobody any more: its one event becomes a dead letter.
    Condemned {
        /// The host that refused it last.
        host: String,
        /// What it did.
        reason: String,
    },
}

/// A name of a span; never used again.
pub(crate) type SpanId = u64;

/// A stretch of the log whose events make up one window.
#[derive(Debug)]
pub(crate) struct Span {
    /// Its name.
    pub(crate) id: SpanId,
    /// Who has it.
    pub(crate) holder: Holder,
    /// What speaks against its one event.
    pub(crate) doubt: Option<Doubt>,
    /// Where its events lie; the first one is always to be sent.
    steps: VecDeque<Step>,
}

impl Span {
    /// How many events the peer has yet to acknowledge.
    pub(crate) fn events(&self) -> u64 {
        self.sent().map(|step| step.events).sum()
    }

    /// The steps whose events are to be sent.
    pub(crate) fn sent(&self) -> impl Iterator<Item = &Step> {
        self.steps.iter().filter(|step| step.way == Way::Sent)
    }

    /// Whether it waits to be sent and nothing speaks against it.
    pub(crate) fn is_clean(&self) -> bool {
        self.holder == Holder::Waiting && self.doubt.is_none()
    }
}

#[derive(Debug)]
enum Stretch {
    /// Passed, but something before it is not.
    Past {
        passed: Passed,
        unacked: Unacked,
        end: Place,
    },
    /// Not passed.
    Open(Span),
}

/// The cursor and the stretches behind it.
#[derive(Debug)]
pub(crate) struct Trail {
    cursor: Cursor,
    stretches: VecDeque<Stretch>,
    /// How many events of a window in flight are given up, its first ones: they count as dropped until
    /// its ACK comes.
    late: BTreeMap<SpanId, u64>,
    /// Number of the event behind everything that was read.
    end: u64,
    next_id: SpanId,
}

impl Trail {
    pub(crate) const fn new(cursor: Cursor) -> Self {
        Self {
            cursor,
            stretches: VecDeque::new(),
            late: BTreeMap::new(),
            end: cursor.seq,
            next_id: 0,
        }
    }

    /// How far the output is.
    pub(crate) const fn cursor(&self) -> Cursor {
        self.cursor
    }

    /// Number of the event behind everything that was read.
    pub(crate) const fn end(&self) -> u64 {
        self.end
    }

    /// How many events were read that the cursor has not passed.
    pub(crate) const fn ahead(&self) -> u64 {
        self.end - self.cursor.seq
    }

    /// The spans, in the order of the log.
    pub(crate) fn spans(&self) -> impl Iterator<Item = &Span> {
        self.stretches.iter().filter_map(|stretch| match stretch {
            Stretch::Open(span) => Some(span),
            Stretch::Past { .. } => None,
        })
    }

    /// Changes what speaks against the events in doubt.
    pub(crate) fn each_doubt(&mut self, change: impl Fn(&mut Doubt)) {
        for stretch in &mut self.stretches {
            if let Stretch::Open(Span {
                doubt: Some(doubt), ..
            }) = stretch
            {
                change(doubt);
            }
        }
    }

    /// A span that is not passed yet.
    pub(crate) fn span(&mut self, id: SpanId) -> Option<&mut Span> {
        self.index(id).and_then(|index| self.open(index))
    }

    /// Adds steps that were read; returns the span of those that need an ACK, waiting to be sent.
    pub(crate) fn read(&mut self, steps: impl IntoIterator<Item = Step>) -> Option<SpanId> {
        let mut run: VecDeque<Step> = VecDeque::new();
        for step in steps {
            self.end += step.events;
            match run.back_mut() {
                // Long stretches of whole records that are for other outputs are one step.
                Some(last)
                    if last.way != Way::Sent
                        && last.way == step.way
                        && last.next == Some(step.at)
                        && step.next.is_some() =>
                {
                    last.events += step.events;
                    last.next = step.next;
                }
                _ => run.push_back(step),
            }
        }
        let id = self.insert(self.stretches.len(), run);
        self.pass(id, 0, |passed| &mut passed.acked);
        self.index(id).map(|_| id)
    }

    /// Passes what the peer acknowledged of the oldest of `flying`; spans that are through leave it.
    /// Returns whether the one that is the oldest now has been acknowledged in part.
    pub(crate) fn acked(&mut self, flying: &mut VecDeque<SpanId>, ack: &Ack) -> bool {
        let mut left = ack.events;
        while let (true, Some(id)) = (left > 0, flying.front().copied()) {
            left -= self.acked_late(id, left);
            left -= self.pass(id, left, |passed| &mut passed.acked);
            if self.late.contains_key(&id) || self.index(id).is_some() {
                return true;
            }
            flying.pop_front();
        }
        debug_assert_eq!(left, 0, "a session never acknowledges more than was sent");
        false
    }

    /// Counts events as acknowledged that had been given up while they were in flight; returns how many.
    fn acked_late(&mut self, id: SpanId, most: u64) -> u64 {
        let Some(events) = self.late.remove(&id) else {
            return 0;
        };
        let acked = events.min(most);
        if acked < events {
            self.late.insert(id, events - acked);
        }
        self.cursor.passed.dropped -= acked;
        self.cursor.passed.acked += acked;
        acked
    }

    /// A window is not in flight any more: what was given up of it stays dropped, the rest waits.
    pub(crate) fn landed(&mut self, id: SpanId) {
        self.late.remove(&id);
        if let Some(span) = self.span(id) {
            span.holder = Holder::Waiting;
        }
    }

    /// Passes a span whose event is a durable dead letter.
    pub(crate) fn set_aside(&mut self, id: SpanId) {
        self.pass(id, u64::MAX, |passed| &mut passed.set_aside);
    }

    /// States that the events of a span that lie at `records` cannot be read any more.
    pub(crate) fn damaged(&mut self, id: SpanId, records: &[Position]) {
        let Some(span) = self.span(id) else { return };
        for step in &mut span.steps {
            if step.way == Way::Sent && records.contains(&step.at) {
                step.way = Way::Damaged;
            }
        }
        self.pass(id, 0, |passed| &mut passed.acked);
    }

    /// Passes everything that was read and not passed before event `seq` in this way. What is in flight
    /// may still be acknowledged: when it is given up it counts so then, and it is skipped only when it
    /// is not in flight any more.
    pub(crate) fn pass_over(&mut self, seq: u64, way: Way) {
        let ids: Vec<SpanId> = self.spans().map(|span| span.id).collect();
        for id in ids {
            let Some(span) = self.span(id) else { continue };
            let is_flying = span.holder == Holder::Lane;
            if is_flying && way == Way::Skipped {
                continue;
            }
            let mut over = 0;
            let mut steps = VecDeque::with_capacity(span.steps.len() + 1);
            for mut step in span.steps.drain(..) {
                if step.way == Way::Sent && step.seq < seq {
                    let front = step.split_off_front(step.events.min(seq - step.seq));
                    over += front.events;
                    steps.push_back(Step { way, ..front });
                    if step.events == 0 {
                        continue;
                    }
                }
                steps.push_back(step);
            }
            span.steps = steps;
            if is_flying && over > 0 {
                *self.late.entry(id).or_default() += over;
            }
            self.pass(id, 0, |passed| &mut passed.acked);
        }
    }

    /// Cuts a span behind its first `events`; returns the rest, which waits, if there is one.
    pub(crate) fn split(&mut self, id: SpanId, events: u64) -> Option<SpanId> {
        let index = self.index(id)?;
        let span = self.open(index)?;
        let mut front = VecDeque::new();
        let mut left = events;
        while let Some(step) = span.steps.front_mut() {
            match step.way {
                Way::Sent if left == 0 => break,
                Way::Sent if step.events > left => {
                    front.push_back(step.split_off_front(left));
                    left = 0;
                }
                _ => {
                    left -= if step.way == Way::Sent {
                        step.events
                    } else {
                        0
                    };
                    front.extend(span.steps.pop_front());
                }
            }
        }
        let rest = std::mem::replace(&mut span.steps, front);
        (!rest.is_empty()).then(|| self.insert(index + 1, rest))
    }

    fn insert(&mut self, index: usize, steps: VecDeque<Step>) -> SpanId {
        let id = self.next_id;
        self.next_id += 1;
        let span = Span {
            id,
            holder: Holder::Waiting,
            doubt: None,
            steps,
        };
        self.stretches.insert(index, Stretch::Open(span));
        id
    }

    fn index(&self, id: SpanId) -> Option<usize> {
        let named = |stretch: &Stretch| matches!(stretch, Stretch::Open(span) if span.id == id);
        self.stretches.iter().position(named)
    }

    fn open(&mut self, index: usize) -> Option<&mut Span> {
        match self.stretches.get_mut(index)? {
            Stretch::Open(span) => Some(span),
            Stretch::Past { .. } => None,
        }
    }

    /// Passes up to `most` events of a span under `count`, and what needs no ACK behind them.
    /// Returns how many that were; the span is gone when nothing of it is left.
    fn pass(&mut self, id: SpanId, most: u64, count: fn(&mut Passed) -> &mut u64) -> u64 {
        let Some(index) = self.index(id) else {
            return 0;
        };
        let Some(span) = self.open(index) else {
            return 0;
        };
        let mut left = most;
        let mut passed = Passed::default();
        let mut unacked = Unacked::default();
        let mut end = None;
        while let Some(step) = span.steps.front_mut() {
            let reached = passed.acked + passed.not_mine;
            let part = match step.way {
                Way::Sent if left == 0 => break,
                Way::Sent => {
                    let part = left.min(step.events);
                    left -= part;
                    *count(&mut passed) += part;
                    part
                }
                Way::NotMine => {
                    passed.not_mine += step.events;
                    step.events
                }
                Way::Damaged => {
                    passed.damaged += step.events;
                    step.events
                }
                Way::Dropped => {
                    passed.dropped += step.events;
                    step.events
                }
                Way::Skipped => {
                    passed.skipped += step.events;
                    step.events
                }
            };
            if passed.acked + passed.not_mine == reached {
                unacked.add(&Unacked::run(step.seq, step.seq + part));
            }
            end = Some(step.place(part));
            if part == step.events {
                span.steps.pop_front();
            } else {
                step.split_off_front(part);
            }
        }
        let gone = span.steps.is_empty();
        if let Some(end) = end {
            let past = Stretch::Past {
                passed,
                unacked,
                end,
            };
            self.stretches.insert(index, past);
            if gone {
                self.stretches.remove(index + 1);
            }
            self.join(index);
            self.join(index.saturating_sub(1));
            self.settle();
        } else if gone {
            self.stretches.remove(index);
        }
        most - left
    }

    /// Makes one of two stretches that are passed: what is kept stays as small as what is not passed.
    fn join(&mut self, index: usize) {
        let (
            Some(Stretch::Past {
                passed, unacked, ..
            }),
            Some(Stretch::Past {
                passed: more,
                unacked: more_unacked,
                end,
            }),
        ) = (self.stretches.get(index), self.stretches.get(index + 1))
        else {
            return;
        };
        let (mut passed, mut unacked, end) = (*passed, *unacked, *end);
        passed.add(more);
        unacked.add(more_unacked);
        self.stretches[index] = Stretch::Past {
            passed,
            unacked,
            end,
        };
        self.stretches.remove(index + 1);
    }

    fn settle(&mut self) {
        while let Some(Stretch::Past {
            passed,
            unacked,
            end,
        }) = self.stretches.front()
        {
            self.cursor.seq += passed.total();
            self.cursor.passed.add(passed);
            self.cursor.unacked.add(unacked);
            self.cursor.at = end.at;
            self.cursor.done = end.done;
            self.stretches.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::*;

    fn at(offset: u64) -> Position {
        Position { segment: 1, offset }
    }

    /// Steps over records of 100 bytes each, numbered as they come.
    fn steps(records: &[(u64, Way)]) -> Vec<Step> {
        let mut seq = 1;
        (0..)
            .zip(records)
            .map(|(n, (events, way))| {
                let step = Step {
                    at: at(n * 100),
                    done: 0,
                    seq,
                    events: *events,
                    next: Some(at(n * 100 + 100)),
                    way: *way,
                };
                seq += events;
                step
            })
            .collect()
    }

    fn trail() -> Trail {
        Trail::new(Cursor {
            at: at(0),
            seq: 1,
            born: 1,
            ..Cursor::default()
        })
    }

    fn ack(trail: &mut Trail, flying: &mut VecDeque<SpanId>, events: u64) -> (Position, u32, u64) {
        trail.acked(flying, &Ack::witnessed(events));
        let cursor = trail.cursor();
        assert_eq!(cursor.seq, cursor.born + cursor.passed.total());
        (cursor.at, cursor.done, cursor.seq)
    }

    use Way::Damaged;
    use Way::NotMine;
    use Way::Sent;

    #[test]
    fn a_partial_ack_leaves_the_cursor_inside_the_record() {
        let mut trail = trail();
        let id = trail.read(steps(&[(10, Sent), (5, Sent)])).unwrap();
        let mut flying = VecDeque::from([id]);
        assert_eq!(ack(&mut trail, &mut flying, 4), (at(0), 4, 5));
        assert_eq!(trail.span(id).unwrap().events(), 11);
        assert_eq!(ack(&mut trail, &mut flying, 8), (at(100), 2, 13));
        assert_eq!(ack(&mut trail, &mut flying, 3), (at(200), 0, 16));
        assert!(flying.is_empty() && trail.spans().next().is_none());
    }

    #[test]
    fn what_needs_no_ack_is_passed_only_behind_what_does() {
        let mut trail = trail();
        let id = trail.read(steps(&[
            (2, NotMine),
            (1, Sent),
            (3, Damaged),
            (0, NotMine),
        ]));
        assert_eq!(
            (trail.cursor().at, trail.cursor().passed.not_mine),
            (at(100), 2)
        );
        let mut flying = VecDeque::from([id.unwrap()]);
        assert_eq!(ack(&mut trail, &mut flying, 1), (at(400), 0, 7));
        assert_eq!(trail.cursor().passed.damaged, 3);
        assert!(trail.read(steps(&[(0, NotMine)])).is_none());
    }

    #[test]
    fn the_cursor_waits_for_the_first_gap_and_what_lies_behind_it_is_one_stretch() {
        let mut trail = trail();
        let all = steps(&[(2, Sent); 500]);
        let ids: Vec<SpanId> = all
            .into_iter()
            .map(|step| trail.read([step]).unwrap())
            .collect();
        for id in &ids[1..] {
            assert_eq!(
                ack(&mut trail, &mut VecDeque::from([*id]), 2),
                (at(0), 0, 1)
            );
        }
        assert_eq!(trail.stretches.len(), 2);
        assert_eq!(trail.ahead(), 1000);
        let end = ack(&mut trail, &mut VecDeque::from([ids[0]]), 2);
        assert_eq!(end, (at(50_000), 0, 1001));
        assert_eq!(trail.ahead(), 0);
    }

    #[test]
    fn a_split_span_is_passed_in_any_order() {
        for (first, second) in [(0, 1), (1, 0)] {
            let mut trail = trail();
            let id = trail
                .read(steps(&[(3, Sent), (2, NotMine), (4, Sent)]))
                .unwrap();
            let rest = trail.split(id, 5).unwrap();
            assert_eq!(trail.split(rest, 9), None);
            let events: Vec<u64> = trail.spans().map(Span::events).collect();
            assert_eq!(events, [5, 2]);
            let halves = [id, rest];
            let mut flying = VecDeque::from([halves[first], halves[second]]);
            assert_eq!(ack(&mut trail, &mut flying, 7), (at(300), 0, 10));
            assert_eq!(trail.cursor().passed.acked, 7);
        }
    }

    #[test]
    fn an_event_set_aside_and_a_record_that_rotted_are_passed_as_such() {
        let mut trail = trail();
        let id = trail.read(steps(&[(3, Sent), (4, Sent)])).unwrap();
        let rest = trail.split(id, 1).unwrap();
        trail.damaged(rest, &[at(100)]);
        assert_eq!(trail.span(rest).unwrap().events(), 2);
        trail.set_aside(id);
        assert_eq!(trail.cursor().passed.set_aside, 1);
        let unacked = trail.cursor().unacked;
        assert_eq!(
            (unacked.total, unacked.to),
            (unacked.to - unacked.from, trail.cursor().seq)
        );
        assert_eq!(
            ack(&mut trail, &mut VecDeque::from([rest]), 2),
            (at(200), 0, 8)
        );
        assert_eq!(trail.cursor().passed.damaged, 4);
    }

    #[test]
    fn what_is_passed_over_may_end_inside_a_record() {
        let mut trail = trail();
        let mut all = steps(&[(1, Way::Skipped), (6, Way::Skipped)]);
        all[1].next = None;
        trail.read(all);
        let cursor = trail.cursor();
        assert_eq!((cursor.seq, cursor.at, cursor.done), (8, at(100), 6));
        assert_eq!(cursor.passed.skipped, 7);
    }

    #[test]
    fn what_is_passed_over_is_counted_and_the_rest_still_waits() {
        let mut trail = trail();
        let records = [(10, Sent), (5, NotMine), (5, Sent)];
        let id = trail.read(steps(&records)).unwrap();
        trail.pass_over(8, Way::Dropped);
        assert_eq!((trail.cursor().seq, trail.cursor().done), (8, 7));
        assert_eq!(trail.span(id).unwrap().events(), 8);
        trail.pass_over(18, Way::Skipped);
        let cursor = trail.cursor();
        assert_eq!((cursor.seq, cursor.at, cursor.done), (18, at(200), 2));
        let Passed {
            dropped,
            skipped,
            not_mine,
            ..
        } = cursor.passed;
        assert_eq!((dropped, skipped, not_mine), (7, 5, 5));
        let mut flying = VecDeque::from([id]);
        assert_eq!(ack(&mut trail, &mut flying, 3), (at(300), 0, 21));
    }
}
