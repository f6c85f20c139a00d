//! Being written.

pub mod queue;
pub mod receive;
pub mod replay;
pub mod results;
pub mod try_job;

mod out;
