//! Where events go: one file per kind of output (being written).

pub mod lumberjack;
