//! Being written.

pub mod check;
pub mod completions;
pub mod init;
pub mod new;
mod say;
