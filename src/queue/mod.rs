//! The durable on-disk queue (being written): signatures that others build on.

use std::sync::Arc;

use serde::Deserialize;
use serde::Serialize;

use crate::event::Frames;
use crate::event::Route;
use crate::event::RunId;
use crate::event::Seq;
use crate::event::Stream;
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
        trigger: crate::run::Trigger,
        /// The tick it belongs to; `None` when it was not due by the clock.
        scheduled_at: Option<i64>,
        /// When.
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
        outcome: crate::run::Outcome,
        /// When it was started.
        started_at: i64,
        /// When it ended.
        at: i64,
    },
}

/// Counters whose deltas ride in the records, so that they are exact after any crash.
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

/// Resolves when the portion is durable, to the number of its last event.
pub type Captured = tokio::sync::oneshot::Receiver<Result<Seq, Refused>>;

/// Why a portion was not captured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refused {
    /// The queue is closing.
    Closed,
    /// The queue cannot be written any more; the reason in words.
    Broken(String),
}

/// The door to the queue: cheap to clone, one per source.
#[derive(Debug, Clone)]
pub struct Intake {
    portions:
        tokio::sync::mpsc::Sender<(Portion, tokio::sync::oneshot::Sender<Result<Seq, Refused>>)>,
}

impl Intake {
    /// An intake and the end that the queue (or a test, or `try`) takes portions from.
    #[must_use]
    #[expect(clippy::type_complexity, reason = "being written")]
    pub fn channel(
        depth: usize,
    ) -> (
        Self,
        tokio::sync::mpsc::Receiver<(Portion, tokio::sync::oneshot::Sender<Result<Seq, Refused>>)>,
    ) {
        let (portions, taken) = tokio::sync::mpsc::channel(depth);
        (Self { portions }, taken)
    }

    /// Hands a portion over; waits while the queue is busy or full (this is the back-pressure).
    /// The order of one caller's portions is kept.
    ///
    /// # Errors
    /// [`Refused::Closed`] when the queue is gone.
    pub async fn submit(&self, portion: Portion) -> Result<Captured, Refused> {
        let (done, captured) = tokio::sync::oneshot::channel();
        self.portions
            .send((portion, done))
            .await
            .map_err(|_| Refused::Closed)?;
        Ok(captured)
    }
}

/// `[queue]` of `spoolbeat.toml`, checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Upper bound of the queue's files in bytes; at least 16 MiB. Default 10 GiB.
    pub max_bytes: u64,
    /// How long acknowledged events are kept for replay. Default 24h.
    pub retain_age: std::time::Duration,
    /// How many bytes of acknowledged events are kept for replay. Default 1 GiB.
    pub retain_bytes: u64,
    /// When events count as captured. Default: sync.
    pub durability: Durability,
    /// Most events of one batch, 1..=10000. Default 2048.
    pub batch_events: u32,
    /// Most raw bytes of one batch. Default 1 MiB.
    pub batch_bytes: u64,
    /// Longest time an event waits for others before its batch is closed. Default 100ms.
    pub flush: std::time::Duration,
    /// zlib level 0..=9 of stored batches. Default 3.
    pub compression_level: u32,
}

/// When events count as captured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    /// When they are on disk.
    Sync,
    /// When they are written; synced at this interval, which a power cut may cost.
    Interval(std::time::Duration),
}
