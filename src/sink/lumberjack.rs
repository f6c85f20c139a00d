//! The Lumberjack output (being written): settings that `config` fills in.

use std::time::Duration;

/// `[output.NAME]` with `kind = "lumberjack"`, checked. Names and defaults as in Filebeat.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// `host:port` each; port default 5044. IPv6 in brackets. Tried in turn on failure.
    pub hosts: Vec<String>,
    /// Most events of one window, 1..=10000. Default 2048.
    pub bulk_max_size: u32,
    /// zlib level 0..=9 of windows that are joined at ship. Default 3. 0: not compressed.
    pub compression_level: u32,
    /// Windows in flight; 0 and 1 both mean one at a time. Default 2.
    pub pipelining: u32,
    /// Liveness: no byte from the server for this long ends the connection. Default 30s.
    pub timeout: Duration,
    /// Progress: keep-alives without a higher ACK for this long end it too. Default 5m.
    pub ack_stall_timeout: Duration,
    /// First wait after a failed connection. Default 1s.
    pub backoff_init: Duration,
    /// Longest wait after failed connections. Default 60s.
    pub backoff_max: Duration,
}
