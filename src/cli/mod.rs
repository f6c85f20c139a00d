//! Being written.

pub mod receive;
