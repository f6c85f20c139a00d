//! Where a replay goes: to a server, into an output's file, or to standard output.
//!
//! A call returns when all its events are where they belong. Must never know where they come from.

use std::io;
use std::io::IsTerminal;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::cli::exit_of;
use crate::cli::say;
use crate::clock;
use crate::event::Frames;
use crate::lumberjack;
use crate::lumberjack::client::Advice;
use crate::lumberjack::client::Builder;
use crate::lumberjack::client::Error;
use crate::lumberjack::client::Payload;
use crate::lumberjack::connection::Broken;
use crate::sink;
use crate::sink::Connection;
use crate::sink::Dial;
use crate::sink::Plan;
use crate::sink::Session;
use crate::window;
use crate::window::Window;

/// How often in a row a server or a file is tried again before it is given up.
const RETRIES: u32 = 2;

/// How long what is on its way when a person has had enough may take to be finished.
pub(super) const SETTLE_PATIENCE: Duration = Duration::from_secs(2);

/// See the module's header.
pub(super) enum To {
    /// A server.
    Server(Box<lumberjack::Client>),
    /// A file or standard output.
    Lines(Box<Lines>),
}

impl To {
    /// Reaches an output; `how` says how a server is spoken to.
    ///
    /// # Errors
    /// Why it cannot be reached.
    pub(super) async fn open(
        settings: &sink::Settings,
        how: impl FnOnce(Builder) -> Builder,
    ) -> Result<Self, Error> {
        Ok(match settings {
            sink::Settings::Lumberjack(settings) => {
                Self::Server(Box::new(how(settings.client()).connect().await?))
            }
            sink::Settings::File(_) | sink::Settings::Stdout => {
                Self::Lines(Box::new(Lines::open(settings).await?))
            }
        })
    }

    /// Sends events; returns when all of them are where they belong.
    ///
    /// # Errors
    /// As [`lumberjack::Client::send_all`]; a file that cannot be written is for a person to look at.
    pub(super) async fn send_all<I>(&mut self, events: I) -> Result<(), Error>
    where
        I: IntoIterator,
        I::Item: Payload,
    {
        match self {
            Self::Server(client) => client.send_all(events).await.map(drop),
            Self::Lines(lines) => lines.send_all(events).await,
        }
    }

    /// How many events are where they belong, for whoever shows it while a call is under way.
    pub(super) fn acked_counter(&self) -> Arc<AtomicU64> {
        match self {
            Self::Server(client) => client.acked_counter(),
            Self::Lines(lines) => Arc::clone(&lines.acked),
        }
    }

    /// How many events are where they belong.
    pub(super) fn acked(&self) -> u64 {
        self.acked_counter().load(Ordering::Relaxed)
    }

    /// After a call that was dropped: waits a little for the lines that are being written, so that
    /// they count, and no half of one is left.
    pub(super) async fn settle(&mut self) {
        if let Self::Lines(lines) = self
            && let Some((connection, session)) = &mut lines.open
            && !session.can_send()
        {
            let took = took(connection, session, &lines.acked);
            // What is not finished by then does not count.
            drop(clock::within(SETTLE_PATIENCE, took).await);
        }
    }
}

/// How often in a row an output is tried again. A standard output that was closed stays so.
pub(super) const fn retries(settings: &sink::Settings) -> u32 {
    match settings {
        sink::Settings::Lumberjack(_) | sink::Settings::File(_) => RETRIES,
        sink::Settings::Stdout => 0,
    }
}

/// The exit code of a failure on the way to this output.
pub(super) const fn exit_code(settings: &sink::Settings, error: &Error) -> u8 {
    match settings {
        sink::Settings::Lumberjack(_) => exit_of(error),
        sink::Settings::File(_) | sink::Settings::Stdout => say::CANNOT_WRITE,
    }
}

/// Whether what is sent to this output goes to the terminal.
pub(super) fn is_on_terminal(settings: &sink::Settings) -> bool {
    *settings == sink::Settings::Stdout && io::stdout().is_terminal()
}

/// Writes lines as the daemon writes them to the same output.
pub(super) struct Lines {
    dial: Dial,
    plan: Plan,
    builder: window::Builder,
    open: Option<(Connection, Session)>,
    retries: u32,
    acked: Arc<AtomicU64>,
}

impl Lines {
    async fn open(settings: &sink::Settings) -> Result<Self, Error> {
        let mut lines = Self {
            dial: settings.dial(),
            plan: settings.plan(),
            builder: window::Builder::new(settings.limits()),
            open: None,
            retries: retries(settings),
            acked: Arc::default(),
        };
        match lines.connect().await {
            Ok(open) => lines.open = Some(open),
            Err(broken) => return Err(failed(broken)),
        }
        Ok(lines)
    }

    async fn connect(&self) -> Result<(Connection, Session), Broken> {
        let connection = Connection::open(&self.plan.hosts[0], &self.dial).await?;
        Ok((connection, self.plan.session(clock::tick())))
    }

    async fn send_all<I>(&mut self, events: I) -> Result<(), Error>
    where
        I: IntoIterator,
        I::Item: Payload,
    {
        let mut refused = None;
        for event in events {
            let mut one = Frames::default();
            let mut written = Ok(());
            one.push(|out| written = event.write(out));
            if let Err(reason) = written {
                refused = Some(reason);
                break;
            }
            if self.builder.add(&one, 0) == 0 {
                self.flush().await?;
                self.builder.add(&one, 0);
            }
        }
        self.flush().await?;
        refused.map_or(Ok(()), |reason| {
            Err(Error {
                advice: Advice::Reject,
                acked: 0,
                reason,
            })
        })
    }

    /// Writes what was added, several times if need be.
    async fn flush(&mut self) -> Result<(), Error> {
        let Some(window) = self.builder.finish() else {
            return Ok(());
        };
        let mut wait = self.plan.backoff_init;
        for attempt in 1.. {
            let Err(broken) = self.write(&window).await else {
                break;
            };
            self.open = None;
            if attempt > self.retries {
                return Err(failed(broken));
            }
            tracing::warn!(
                error = broken.reason,
                attempt,
                "writing again after a pause"
            );
            clock::sleep(wait).await;
            wait *= 2;
        }
        Ok(())
    }

    async fn write(&mut self, window: &Window) -> Result<(), Broken> {
        if self.open.is_none() {
            self.open = Some(self.connect().await?);
        }
        let Some((connection, session)) = &mut self.open else {
            return Ok(());
        };
        session.sent(window.events, clock::tick());
        connection.send(window.bytes.clone());
        took(connection, session, &self.acked).await
    }
}

/// Waits until the window that was sent is where it belongs, and counts it.
async fn took(
    connection: &mut Connection,
    session: &mut Session,
    acked: &AtomicU64,
) -> Result<(), Broken> {
    connection.turn().await?;
    if let Some(ack) = session.took() {
        acked.fetch_add(ack.events, Ordering::Relaxed);
    }
    Ok(())
}

fn failed(broken: Broken) -> Error {
    Error {
        advice: Advice::Misconfigured,
        acked: 0,
        reason: broken.reason,
    }
}
