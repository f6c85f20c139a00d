//! Being written.

pub mod results;
pub mod try_job;
