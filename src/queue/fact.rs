//! What sources hand to the queue: events with the facts and counts that ride with them.
//!
//! Knows nothing of disks and records: this is the vocabulary on the near side of the queue.

use std::sync::Arc;

use serde::Deserialize;
use serde::Serialize;

use crate::event::Frames;
use crate::event::Route;
use crate::event::RunId;
use crate::event::Stream;
use crate::run::Outcome;
use crate::run::Trigger;
use crate::units::Timestamp;

/// A fact that rides in a record beside the events it belongs to; the queue's state is the fold of all facts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "fact", rename_all = "snake_case")]
pub enum Fact {
    /// A run is about to be started: recorded before the spawn, so a tick runs at most once.
    Fired {
        /// The job.
        job: String,
        /// The run.
        run: RunId,
        /// The job's generation.
        generation: String,
        /// Why.
        trigger: Trigger,
        /// The tick it belongs to, in milliseconds since 1970; `None` when it was not due by the clock.
        scheduled_at: Option<i64>,
        /// The outputs that get the run's events: should the daemon die, its end goes there too.
        outputs: Vec<String>,
        /// When, in milliseconds since 1970.
        at: i64,
    },
    /// A run has ended; its last event is in the same record.
    Ended {
        /// The job.
        job: String,
        /// The run.
        run: RunId,
        /// The job's generation.
        generation: String,
        /// How.
        outcome: Outcome,
        /// When it was started, in milliseconds since 1970.
        started_at: i64,
        /// When it ended, in milliseconds since 1970.
        at: i64,
    },
}

/// Counters whose deltas ride in the records, so that they are exact after any crash.
///
/// At any quiet moment `framed + created` is the number of queued events, and
/// `bytes_read` is `bytes_framed + bytes_cut`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Counters {
    /// Events cut out of a source.
    pub framed: u64,
    /// Events we made ourselves (start and end of runs).
    pub created: u64,
    /// Bytes read from sources.
    pub bytes_read: u64,
    /// Bytes of those that went into events (line ends count).
    pub bytes_framed: u64,
    /// Bytes of those that were cut off because a line was too long.
    pub bytes_cut: u64,
    /// Lines that were cut.
    pub lines_cut: u64,
}

impl Counters {
    /// Adds `delta`, counter by counter.
    pub fn add(&mut self, delta: &Self) {
        self.framed += delta.framed;
        self.created += delta.created;
        self.bytes_read += delta.bytes_read;
        self.bytes_framed += delta.bytes_framed;
        self.bytes_cut += delta.bytes_cut;
        self.lines_cut += delta.lines_cut;
    }
}

/// What part of a portion came from one stream of one job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    /// The job.
    pub job: Arc<str>,
    /// The stream.
    pub stream: Stream,
    /// How many events.
    pub count: u32,
    /// When the first was read.
    pub first: Timestamp,
    /// When the last was read.
    pub last: Timestamp,
}

/// What a source hands over at once: captured wholly or not at all.
#[derive(Debug, Clone, Default)]
pub struct Portion {
    /// The outputs that want these events.
    pub route: Route,
    /// The events, in order.
    pub frames: Frames,
    /// Where they came from, in the order of the frames.
    pub parts: Vec<Part>,
    /// Facts that hold once these events are captured.
    pub facts: Vec<Fact>,
    /// What these events add to the counters.
    pub counters: Counters,
}
