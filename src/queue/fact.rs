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
use crate::fileid::FileId;
use crate::fileid::Head;
use crate::fileid::Stamp;
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
        /// Why it was started.
        trigger: Trigger,
        /// How.
        outcome: Outcome,
        /// When it was started, in milliseconds since 1970.
        started_at: i64,
        /// When it ended, in milliseconds since 1970.
        at: i64,
    },
    /// A file was read on: the events between are in the same record.
    Read {
        /// The generation of the file: the first part of its events' ids.
        file: String,
        /// What is known of it.
        of: FileFacts,
        /// Where the first line of these began.
        from: u64,
        /// Where the next line begins.
        to: u64,
        /// Events of the same record before those that these lines became.
        #[serde(default, skip_serializing_if = "is_none")]
        before: u32,
        /// How many events these lines became.
        events: u32,
        /// Lines without an end that became events after `partial_timeout`.
        #[serde(default, skip_serializing_if = "is_zero")]
        partial: u64,
    },
    /// A file is not read on: it is gone, or another took its place.
    Forgotten {
        /// The job that read it.
        job: String,
        /// Its generation.
        file: String,
        /// Bytes that were seen in it and never read; 0 as far as anybody can know.
        #[serde(default, skip_serializing_if = "is_zero")]
        lost: u64,
    },
    /// A file was read to its end and has rested: it may be cleaned up once its events have arrived.
    Release {
        /// Its generation.
        file: String,
        /// What is to be done, and to what.
        release: Release,
    },
    /// A clean-up that cannot be told from a writer's own doing is about to happen.
    Releasing {
        /// The file's generation.
        file: String,
    },
    /// What became of a release.
    Released {
        /// The file's generation.
        file: String,
        /// What.
        end: ReleaseEnd,
    },
    /// An output passed events without an ACK: what they came from must be kept.
    Spoilt {
        /// The output.
        output: String,
        /// The first event that may be one of them.
        from: u64,
        /// The first event behind them.
        to: u64,
        /// How many the output has passed so since it exists.
        total: u64,
    },
    /// A person has said that an output which left the configuration does not come back: nothing waits
    /// for it any more.
    ForgottenOutput {
        /// The output.
        output: String,
    },
}

impl Fact {
    /// Whether it may use the room that is kept for what must not wait: a reader of files can wait.
    #[must_use]
    pub const fn is_vital(&self) -> bool {
        !matches!(self, Self::Read { .. })
    }
}

#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "serde passes a reference"
)]
const fn is_zero(number: &u64) -> bool {
    *number == 0
}

#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "serde passes a reference"
)]
const fn is_none(number: &u32) -> bool {
    *number == 0
}

/// What the log knows of a generation of a file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileFacts {
    /// The job that reads it.
    pub job: String,
    /// Where it was last seen; see [`crate::fileid::path_text`].
    pub path: String,
    /// Which object it is.
    pub id: FileId,
    /// How it begins.
    pub head: Head,
    /// The outputs that get its events.
    pub outputs: Vec<String>,
    /// Those of them that its clean-up waits for.
    pub waits_for: Vec<String>,
    /// When it was last read, in milliseconds since 1970.
    pub at: i64,
}

/// A clean-up, as it was asked for: it outlives its job.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Release {
    /// What is to be done.
    pub action: Action,
    /// Where the file lies.
    pub path: String,
    /// The folder that nothing is done outside of.
    pub root: String,
    /// What the file was like when it had been read.
    pub stamp: Stamp,
    /// How it ended: the hash of its last bytes, at most [`crate::fileid::HEAD_BYTES_MAX`].
    pub tail: Head,
    /// Empty folders are removed strictly below this one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prune: Option<String>,
    /// The user whose rights the job had when the file had been read: it is done with those.
    pub uid: u32,
    /// The group of those rights.
    pub gid: u32,
}

/// What is done to a file whose events have arrived.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// It is removed.
    Delete,
    /// It is emptied.
    Truncate,
    /// It is moved into this folder.
    Move(String),
}

impl Action {
    /// The word for people, and of `event.action`.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Delete => "delete",
            Self::Truncate => "truncate",
            Self::Move(_) => "move",
        }
    }
}

/// What became of a release.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ReleaseEnd {
    /// It was carried out; what the file's generation was is over.
    Done,
    /// The file is not there any more: removed, or renamed.
    Gone,
    /// The file was changed: when it has been read again there is another release.
    Changed,
    /// It was refused, for this reason, and the file stays.
    Kept(String),
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
    /// Bytes of those that were cut off because a line was too long, or too many were joined.
    pub bytes_cut: u64,
    /// Lines that were cut; those that were joined are one.
    pub lines_cut: u64,
    /// Those of them that were cut since more were joined than `max_lines`.
    pub joined_cut: u64,
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
        self.joined_cut += delta.joined_cut;
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
