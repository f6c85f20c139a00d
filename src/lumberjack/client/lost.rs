//! Why a client has no connection, and whether to try again helps.
//!
//! Must never try anything itself.

use super::Advice;
use crate::lumberjack::connection::Broken;
use crate::lumberjack::connection::Cause;
use crate::protocol::client::Fault;

/// Why there is no connection any more.
pub(super) struct Lost {
    pub(super) advice: Advice,
    pub(super) reason: String,
}

impl Lost {
    /// A connection that was not made; the reason names the host.
    pub(super) fn unmade(broken: Broken) -> Self {
        let advice = match broken.cause {
            Cause::Misconfigured => Advice::Misconfigured,
            Cause::Unreachable | Cause::ByPeer => Advice::Retry,
        };
        Self {
            advice,
            reason: broken.reason,
        }
    }

    /// One that stood.
    pub(super) fn broken(host: &str, mut broken: Broken, is_proven: bool) -> Self {
        if is_proven {
            broken.guess = "";
        }
        Self::unmade(Broken {
            reason: format!("{host}: {broken}"),
            ..broken
        })
    }

    /// Both: a try can only fail for good when it does so everywhere.
    pub(super) fn and(self, other: Self) -> Self {
        let advice = match self.advice {
            Advice::Misconfigured => other.advice,
            advice => advice,
        };
        Self {
            advice,
            reason: format!("{}; {}", self.reason, other.reason),
        }
    }

    pub(super) fn fault(host: &str, fault: Fault) -> Self {
        let advice = match fault {
            Fault::Version(_) => Advice::Misconfigured,
            _ => Advice::Retry,
        };
        Self {
            advice,
            reason: format!("{host}: {fault}"),
        }
    }
}
