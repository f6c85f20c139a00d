//! Being written.

pub mod results;
