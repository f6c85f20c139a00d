//! A portion in the making: events of files, the positions behind them, the accounts.

use std::sync::Arc;

use crate::event::Frames;
use crate::event::Stream;
use crate::event::envelope::Envelope;
use crate::event::envelope::Marks;
use crate::event::envelope::Wrapped;
use crate::queue::Counters;
use crate::queue::Fact;
use crate::queue::Part;
use crate::queue::Portion;
use crate::source::files::Setup;
use crate::source::gather::Limits;
use crate::source::lines::Line;
use crate::units::Timestamp;

/// Facts of one portion, at some 400 bytes each.
const FACTS_MAX: usize = 512;

/// See the module's header.
#[derive(Debug)]
pub(super) struct Draft {
    limits: Limits,
    pub(super) at: Timestamp,
    frames: Frames,
    pub(super) facts: Vec<Fact>,
    counters: Counters,
    /// Events before those of the next file whose position is told.
    told: u32,
}

impl Draft {
    pub(super) fn new(limits: Limits, at: Timestamp) -> Self {
        Self {
            limits,
            at,
            frames: Frames::default(),
            facts: Vec::new(),
            counters: Counters::default(),
            told: 0,
        }
    }

    /// The events that were added since this was last asked: how many lie before them, and how many.
    pub(super) fn own(&mut self) -> (u32, u32) {
        let count = self.frames.count();
        let before = std::mem::replace(&mut self.told, count);
        (before, count - before)
    }

    pub(super) fn is_full(&self) -> bool {
        self.frames.count() >= self.limits.batch_events
            || self.frames.bytes().len() as u64 >= self.limits.batch_bytes
            || self.facts.len() >= FACTS_MAX
    }

    /// Adds the line that begins at `offset`; returns how many bytes of the file it is.
    pub(super) fn line(
        &mut self,
        envelope: &Envelope,
        json: bool,
        offset: u64,
        line: Line<'_>,
    ) -> u64 {
        let read = line.text.len() as u64 + line.ending + line.skipped;
        let mut cut = line.skipped;
        // As with runs: a line without content is no event.
        if !line.text.is_empty() || cut > 0 {
            let at = self.at;
            let marks = Marks {
                skipped: line.skipped,
                ..Marks::default()
            };
            let mut left_out = 0;
            self.frames.push(|out| {
                left_out = if json {
                    match envelope.json(out, at, offset, line.text, marks) {
                        Wrapped::Object => 0,
                        Wrapped::Text { left_out } => left_out,
                    }
                } else {
                    envelope.text(out, at, offset, line.text, marks)
                };
            });
            cut += left_out;
            self.counters.framed += 1;
        }
        self.counters.bytes_read += read;
        self.counters.bytes_cut += cut;
        self.counters.bytes_framed += read - cut;
        self.counters.lines_cut += u64::from(cut > 0);
        read
    }

    /// What is to be captured, if there is anything.
    pub(super) fn into_portion(self, setup: &Setup) -> Option<Portion> {
        if self.facts.is_empty() && self.frames.is_empty() {
            return None;
        }
        let count = self.frames.count();
        let part = Part {
            job: Arc::clone(&setup.job),
            stream: Stream::File,
            count,
            first: self.at,
            last: self.at,
        };
        Some(Portion {
            route: setup.route.clone(),
            frames: self.frames,
            parts: if count > 0 { vec![part] } else { Vec::new() },
            facts: self.facts,
            counters: self.counters,
        })
    }
}
