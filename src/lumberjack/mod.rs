//! Lumberjack on sockets: the protocol of `crate::protocol` given TCP, for both sides.
//!
//! Serves the shipper, the receivers, and whoever uses this crate as a library. Must never know
//! queues, jobs or configuration files.
//!
#![doc = include_str!("PEERS.md")]

pub mod connection;
pub mod server;
