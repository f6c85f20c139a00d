//! Why connections end, told once for the log and for the status.
//!
//! Decides nothing.

use std::io;
use std::net::SocketAddr;

use super::ServerSettings;
use crate::protocol::server::Fault;
use crate::tls;
use crate::units::show_bytes;
use crate::units::show_duration;

/// Why a connection ended.
#[derive(Debug)]
pub(super) enum End {
    /// The client closed it between windows.
    Closed,
    /// The server stops.
    Stopping,
    /// The client closed it in the middle of a window.
    Cut { come: usize, announced: u32 },
    /// A window took too long to come.
    Slow { come: usize, announced: u32 },
    /// A window waited too long for the memory that others hold.
    Starved,
    /// Nothing came for the idle timeout.
    Idle,
    /// The client broke the protocol.
    Fault(Fault),
    /// The connection itself failed.
    Io(io::Error),
    /// The window was not taken over.
    NotTaken,
    /// The window was not taken over while a client of version 1 may be made to wait.
    Unheard,
    /// The TLS handshake failed.
    Tls(tls::Fault),
    /// The TLS handshake took too long.
    Stalled,
}

impl From<Fault> for End {
    fn from(fault: Fault) -> Self {
        Self::Fault(fault)
    }
}

impl From<io::Error> for End {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl End {
    /// Says why the connection ended, and counts it when something was refused.
    pub(super) fn tell(&self, peer: SocketAddr, settings: &ServerSettings) {
        let refuse = |why: String| {
            tracing::warn!(%peer, "connection closed: {why}");
            settings.tally.refuse(format!("{peer}: {why}"));
        };
        match self {
            Self::Closed => tracing::debug!(%peer, "client closed the connection"),
            Self::Stopping => tracing::debug!(%peer, "connection closed, the server stops"),
            Self::Idle => tracing::debug!(%peer, "connection closed, it was idle"),
            Self::Cut { come, announced } => tracing::info!(
                %peer, come, announced,
                "client closed the connection in the middle of a window"
            ),
            Self::Io(error) => tracing::info!(%peer, %error, "connection failed"),
            // Load balancers look whether a port is open in this way.
            Self::Tls(fault) if fault.kind == tls::Kind::Closed => {
                tracing::debug!(%peer, error = %fault, "connection closed");
            }
            Self::Slow { come, announced } => refuse(format!(
                "{come} of {announced} events of a window came within {}",
                show_duration(settings.window_timeout)
            )),
            Self::Starved => refuse(format!(
                "windows of other clients hold all of the {}",
                show_bytes(settings.memory.bytes as u64)
            )),
            Self::Fault(error) => refuse(error.to_string()),
            Self::Tls(fault) => refuse(fault.to_string()),
            Self::Stalled => refuse(format!(
                "the client did not finish the TLS handshake within {}; \
                 does it speak TLS? In Filebeat `ssl.enabled: true`",
                show_duration(settings.handshake_timeout)
            )),
            Self::NotTaken => refuse("the events could not be taken over".to_owned()),
            Self::Unheard => refuse(format!(
                "the events were not taken over within {}, and version 1 has no word for `wait`",
                show_duration(settings.window_timeout)
            )),
        }
    }
}
