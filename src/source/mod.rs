//! Sources: bytes from somewhere become portions of events for the queue.
//!
//! Knows lines, envelopes and portions; must never know why a run was started, how the
//! queue stores what it takes, or where events are sent.

pub mod files;
pub mod gather;
pub mod lines;
pub mod lumberjack;
pub mod multiline;
pub mod pool;
