//! The operating system's signals, named.
//!
//! Decides nothing; see `supervisor` for what they do.

use std::io;

use tokio::signal::unix;
use tokio::signal::unix::SignalKind;

use crate::supervisor::Signal;

/// The signals that we act upon.
#[derive(Debug)]
pub(super) struct Signals {
    terminate: unix::Signal,
    interrupt: unix::Signal,
    hangup: unix::Signal,
    #[expect(dead_code, reason = "held so that it does nothing")]
    ignored: [unix::Signal; 2],
}

impl Signals {
    /// Listens from now on. Must be called within a tokio runtime.
    pub(super) fn listen() -> io::Result<Self> {
        Ok(Self {
            terminate: unix::signal(SignalKind::terminate())?,
            interrupt: unix::signal(SignalKind::interrupt())?,
            hangup: unix::signal(SignalKind::hangup())?,
            // Log rotators and operators send these by habit; their default action would end us.
            ignored: [
                unix::signal(SignalKind::user_defined1())?,
                unix::signal(SignalKind::user_defined2())?,
            ],
        })
    }

    /// The next one.
    pub(super) async fn next(&mut self) -> Signal {
        tokio::select! {
            _ = self.terminate.recv() => Signal::Terminate,
            _ = self.interrupt.recv() => Signal::Terminate,
            _ = self.hangup.recv() => Signal::Hangup,
        }
    }
}
