//! The trail: what an output has been given, in the order of the log, until it is passed.
//!
//! Turns "the peer took k further events" into where the cursor is. Pure; knows no windows.

use std::collections::VecDeque;

use crate::event::Ack;
use crate::queue::Position;
use crate::queue::cursor::Cursor;

/// How events of a step get passed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    /// By the peer's ACK.
    Sent,
    /// They are for other outputs.
    NotMine,
    /// They could not be read.
    Damaged,
}

/// Some events of the log, one after the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Step {
    /// The record they are in.
    pub(crate) at: Position,
    /// Events of that record before these.
    pub(crate) done: u32,
    /// How many these are.
    pub(crate) events: u64,
    /// Where the log goes on when they are passed, if that ends their record.
    pub(crate) next: Option<Position>,
    /// How they get passed.
    pub(crate) way: Way,
}

/// The cursor and the steps behind it.
#[derive(Debug)]
pub(crate) struct Trail {
    cursor: Cursor,
    steps: VecDeque<Step>,
}

impl Trail {
    pub(crate) const fn new(cursor: Cursor) -> Self {
        Self {
            cursor,
            steps: VecDeque::new(),
        }
    }

    /// How far the output is.
    pub(crate) const fn cursor(&self) -> Cursor {
        self.cursor
    }

    /// Adds steps that were read; those that need no ACK are passed as soon as all before them are.
    pub(crate) fn read(&mut self, steps: impl IntoIterator<Item = Step>) {
        for step in steps {
            match self.steps.back_mut() {
                // Long stretches of the log that are for other outputs are one step.
                Some(last)
                    if last.way != Way::Sent
                        && last.way == step.way
                        && last.next == Some(step.at) =>
                {
                    last.events += step.events;
                    last.next = step.next;
                }
                _ => self.steps.push_back(step),
            }
        }
        self.settle();
    }

    /// Passes what the peer acknowledged.
    pub(crate) fn acked(&mut self, ack: &Ack) {
        let mut left = ack.events;
        while left > 0 {
            let Some(step) = self.steps.front_mut() else {
                debug_assert!(false, "a session never acknowledges more than was sent");
                return;
            };
            let part = left.min(step.events);
            left -= part;
            self.cursor.seq += part;
            self.cursor.passed.acked += part;
            if part == step.events {
                self.leave();
            } else {
                step.events -= part;
                step.done += u32::try_from(part).unwrap_or(u32::MAX);
                self.cursor.at = step.at;
                self.cursor.done = step.done;
            }
            self.settle();
        }
    }

    /// Forgets what was given but not passed: it is read again from the cursor.
    pub(crate) fn rewind(&mut self) {
        self.steps.clear();
    }

    fn settle(&mut self) {
        while let Some(step) = self.steps.front() {
            match step.way {
                Way::Sent => break,
                Way::NotMine => self.cursor.passed.not_mine += step.events,
                Way::Damaged => self.cursor.passed.damaged += step.events,
            }
            self.cursor.seq += step.events;
            self.leave();
        }
    }

    /// Steps past the first step, whose events are counted already.
    fn leave(&mut self) {
        let Some(step) = self.steps.pop_front() else {
            return;
        };
        match step.next {
            Some(next) => {
                self.cursor.at = next;
                self.cursor.done = 0;
            }
            None => {
                self.cursor.at = step.at;
                self.cursor.done = step.done + u32::try_from(step.events).unwrap_or(u32::MAX);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(offset: u64) -> Position {
        Position { segment: 1, offset }
    }

    fn step(offset: u64, events: u64, way: Way) -> Step {
        Step {
            at: at(offset),
            done: 0,
            events,
            next: Some(at(offset + 100)),
            way,
        }
    }

    fn trail() -> Trail {
        Trail::new(Cursor {
            at: at(0),
            seq: 1,
            born: 1,
            ..Cursor::default()
        })
    }

    fn identity(cursor: &Cursor) {
        assert_eq!(cursor.seq, cursor.born + cursor.passed.total());
    }

    #[test]
    fn a_partial_ack_leaves_the_cursor_inside_the_record() {
        let mut trail = trail();
        trail.read([step(0, 10, Way::Sent), step(100, 5, Way::Sent)]);
        trail.acked(&Ack::witnessed(4));
        assert_eq!(
            (trail.cursor().at, trail.cursor().done, trail.cursor().seq),
            (at(0), 4, 5)
        );
        trail.acked(&Ack::witnessed(8));
        assert_eq!(
            (trail.cursor().at, trail.cursor().done, trail.cursor().seq),
            (at(100), 2, 13)
        );
        trail.acked(&Ack::witnessed(3));
        assert_eq!((trail.cursor().at, trail.cursor().done), (at(200), 0));
        identity(&trail.cursor());
    }

    #[test]
    fn what_needs_no_ack_is_passed_only_behind_what_does() {
        let mut trail = trail();
        trail.read([
            step(0, 2, Way::NotMine),
            step(100, 1, Way::Sent),
            step(200, 3, Way::Damaged),
            step(300, 0, Way::NotMine),
        ]);
        assert_eq!(
            (trail.cursor().at, trail.cursor().passed.not_mine),
            (at(100), 2)
        );
        trail.acked(&Ack::witnessed(1));
        assert_eq!(
            (trail.cursor().at, trail.cursor().passed.damaged),
            (at(400), 3)
        );
        identity(&trail.cursor());
    }

    #[test]
    fn long_stretches_for_other_outputs_are_one_step() {
        let mut trail = trail();
        trail.read([step(0, 1, Way::Sent)]);
        trail.read((1..1000).map(|n| step(n * 100, 2, Way::NotMine)));
        assert_eq!(trail.steps.len(), 2);
        trail.acked(&Ack::witnessed(1));
        assert_eq!(
            (trail.cursor().at, trail.cursor().passed.not_mine),
            (at(100_000), 1998)
        );
        identity(&trail.cursor());
    }

    #[test]
    fn a_record_cut_into_two_windows_is_passed_in_two_steps() {
        let mut trail = trail();
        let first = Step {
            at: at(0),
            done: 0,
            events: 6,
            next: None,
            way: Way::Sent,
        };
        let second = Step {
            at: at(0),
            done: 6,
            events: 4,
            next: Some(at(100)),
            way: Way::Sent,
        };
        trail.read([first, second]);
        trail.acked(&Ack::witnessed(6));
        assert_eq!((trail.cursor().at, trail.cursor().done), (at(0), 6));
        trail.acked(&Ack::witnessed(4));
        assert_eq!((trail.cursor().at, trail.cursor().done), (at(100), 0));
    }

    #[test]
    fn a_lost_connection_forgets_only_what_was_not_acknowledged() {
        let mut trail = trail();
        trail.read([step(0, 10, Way::Sent)]);
        trail.acked(&Ack::witnessed(7));
        trail.rewind();
        assert_eq!(
            (
                trail.cursor().at,
                trail.cursor().done,
                trail.cursor().passed.acked
            ),
            (at(0), 7, 7)
        );
    }
}
