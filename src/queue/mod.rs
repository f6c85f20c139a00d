//! The durable on-disk queue: one log of records, every output a cursor on it.
//!
//! Captured means: appended, synced, counted. The log is the only truth; recovery is the newest
//! checkpoint plus the log after it. Must never know jobs, schedules, sockets or protocols: a batch
//! is frames of bytes, a fact is folded and otherwise not understood.
//!
//! The format, byte for byte:
#![doc = include_str!("FORMAT.md")]

use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;
use std::time::Duration;

use crate::event::Seq;

pub mod batch;
pub mod checkpoint;
pub mod cursor;
pub mod fact;
pub mod inspect;
pub mod ledger;
pub mod log;
pub mod quarantine;
pub mod readers;
pub mod record;
pub mod recover;
pub mod repair;
pub mod reserve;
pub mod segment;
pub mod select;
pub mod service;
pub mod settled;
pub mod verify;
pub mod writer;

pub use fact::Action;
pub use fact::Counters;
pub use fact::Fact;
pub use fact::FileFacts;
pub use fact::Part;
pub use fact::Portion;
pub use fact::Release;
pub use fact::ReleaseEnd;
pub use ledger::FilePast;
pub use ledger::JobPast;
pub use ledger::Ledger;
pub use ledger::OpenRun;
pub use readers::Begin;
pub use readers::Frozen;
pub use readers::Reader;
pub use recover::OpenError;
pub use segment::Position;
pub use service::Intake;
pub use service::Level;
pub use service::Marks;
pub use service::Portions;
pub use service::Queue;
pub use service::Start;
pub use service::Tap;

#[cfg(test)]
mod tests;

/// Resolves when the portion is durable, to the number of its last event.
pub type Captured = tokio::sync::oneshot::Receiver<Result<Seq, Refused>>;

/// Why a portion was not captured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refused {
    /// The queue is closing.
    Closed,
    /// It could not be written; the reason in words.
    Broken(String),
}

/// `[queue]` of `spoolbeat.toml`, checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Upper bound of the queue's files in bytes; at least 16 MiB. Default 10 GiB.
    pub max_bytes: u64,
    /// How long acknowledged events are kept for replay. Default 24h.
    pub retain_age: Duration,
    /// How many bytes of acknowledged events are kept for replay. Default 1 GiB.
    pub retain_bytes: u64,
    /// When events count as captured. Default: sync.
    pub durability: Durability,
    /// Most events of one batch, 1..=10000. Default 2048.
    pub batch_events: u32,
    /// Most raw bytes of one batch. Default 1 MiB.
    pub batch_bytes: u64,
    /// Longest time an event waits for others before its batch is closed. Default 100ms.
    pub flush: Duration,
    /// zlib level 0..=9 of stored batches. Default 3.
    pub compression_level: u32,
    /// What happens when required outputs fill it. Default: block.
    pub on_full: OnFull,
}

/// What happens when required outputs fill the queue; others give up their oldest events in any case.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnFull {
    /// Sources wait.
    Block,
    /// The oldest events are given up, and counted.
    DropOldest,
}

/// When events count as captured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    /// When they are on disk.
    Sync,
    /// When they are written; synced at this interval, which a power cut may cost.
    Interval(Duration),
}

/// Locks what a panic elsewhere may have poisoned: what is locked in this module is changed in whole
/// steps, so what is there is whole.
pub fn locked<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
