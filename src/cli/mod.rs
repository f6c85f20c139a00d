//! Being written.

pub mod receive;
pub mod results;
