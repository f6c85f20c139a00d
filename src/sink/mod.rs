//! Where events go: one file per kind of output.
//!
//! A sink owns its connection and is the only place that may state that a peer has acknowledged
//! something. Knows nothing of the queue's files, of jobs and of cursors.

pub mod lumberjack;
