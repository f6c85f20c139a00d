//! What people may know about a shipper.

use super::Lane;
use super::Link;
use super::Shipper;
use crate::queue::cursor::Passed;

/// One output at one moment.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct View {
    /// `connected`, `connecting`, `down` or `idle` (closed while there is nothing to send). Of several
    /// connections, the best.
    pub state: String,
    /// The host of the connection, or the one tried next; with `loadbalance` all of them.
    pub host: String,
    /// Events that were captured before the output existed.
    pub before: u64,
    /// How the output passed events since.
    pub passed: Passed,
    /// Events that wait for this output, those in flight among them.
    pub waiting: u64,
    /// Windows in flight.
    pub in_flight: u64,
    /// Windows sent since the daemon started, or the output got other settings.
    pub windows: u64,
    /// Connections made since then.
    pub connections: u64,
    /// Why the queue cannot be read, or a dead letter not be written; else why the last connection
    /// broke or failed, if none has made progress since.
    pub last_error: Option<String>,
    /// With `loadbalance`, each host.
    pub hosts: Vec<Host>,
}

/// One host of an output with `loadbalance`.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Host {
    /// Its address.
    pub host: String,
    /// As in [`View`].
    pub state: String,
    /// Events that it has acknowledged since then.
    pub acked: u64,
    /// Windows in flight to it.
    pub in_flight: u64,
    /// Why its last connection broke or failed, if it has made no progress since.
    pub last_error: Option<String>,
}

impl View {
    /// Number of the next event that the output has to pass.
    #[must_use]
    pub const fn next_seq(&self) -> u64 {
        self.before + 1 + self.passed.total()
    }
}

/// From worst to best.
const STATES: [&str; 4] = ["down", "connecting", "idle", "connected"];

impl Shipper {
    /// What people may know, when the next event to be captured is `next_seq`.
    #[must_use]
    pub fn view(&self, next_seq: u64) -> View {
        let cursor = self.trail.cursor();
        let hosts: Vec<Host> = self.lanes.iter().map(|lane| self.host_view(lane)).collect();
        let state = STATES
            .into_iter()
            .rfind(|state| hosts.iter().any(|host| host.state == *state));
        let names: Vec<&str> = hosts.iter().map(|host| host.host.as_str()).collect();
        let last_error = hosts.iter().find_map(|host| host.last_error.clone());
        View {
            state: state.unwrap_or("down").to_owned(),
            host: names.join(", "),
            before: cursor.born.saturating_sub(1),
            passed: cursor.passed,
            waiting: next_seq.saturating_sub(cursor.seq),
            in_flight: hosts.iter().map(|host| host.in_flight).sum(),
            windows: self.windows,
            connections: self.lanes.iter().map(|lane| lane.connections).sum(),
            last_error: self.trouble.clone().or(last_error),
            hosts: if self.plan.loadbalance {
                hosts
            } else {
                Vec::new()
            },
        }
    }

    fn host_view(&self, lane: &Lane) -> Host {
        let state = match &lane.link {
            Link::Up(..) => "connected",
            Link::Connecting => "connecting",
            Link::Down { .. } if !self.wants(lane) && lane.last_error.is_none() => "idle",
            Link::Down { .. } => "down",
        };
        Host {
            host: self.host(lane).to_owned(),
            state: state.to_owned(),
            acked: self.acked[lane.host],
            in_flight: lane.flying.len() as u64,
            last_error: lane.last_error.clone(),
        }
    }
}
