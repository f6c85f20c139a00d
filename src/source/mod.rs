//! Where events come from besides scripts: one file per kind of source.
//!
//! A source takes events in and answers for them only when whoever takes them over has said so.
//! Must never know queues, jobs or outputs: it hands over through a channel.

pub mod lumberjack;
