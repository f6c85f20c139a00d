//! `[receiver]`: a Lumberjack server inside the daemon, for trying out without Logstash.
//!
//! What it receives is printed, or taken and forgotten. Knows nothing of our own outputs, which
//! find it by its address like any other server.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::sync::oneshot;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::cli::receive::WINDOWS_WAITING_MAX;
use crate::cli::receive::printer;
use crate::cli::receive::printer::Printed;
use crate::cli::receive::printer::Shown;
use crate::clock;
use crate::config;
use crate::daemon::Error;
use crate::lumberjack::server::Delivery;
use crate::lumberjack::server::Memory;
use crate::lumberjack::server::Places;
use crate::lumberjack::server::bind;
use crate::lumberjack::server::serve;

/// How long connections and a printer that is blocked by its reader may hold up the end.
const STOP_WAIT: Duration = Duration::from_secs(1);

/// A receiver that listens.
#[derive(Debug)]
pub(super) struct Receiver {
    stop: watch::Sender<bool>,
    server: JoinHandle<()>,
    printer: Option<oneshot::Receiver<Printed>>,
}

impl Receiver {
    /// Listens from now on.
    pub(super) async fn start(
        settings: &config::Receiver,
        memory: Memory,
        places: Places,
    ) -> Result<Self, Error> {
        let listener = bind(&settings.server.listen, &settings.server.user)
            .await
            .map_err(Error::Receiver)?;
        let addr = listener.local_addr().map_err(Error::System)?;
        let (deliver, deliveries) = mpsc::channel(WINDOWS_WAITING_MAX);
        let printer = if settings.print {
            Some(printer::spawn(deliveries, Shown::AsFits).map_err(Error::System)?)
        } else {
            tokio::spawn(forget(deliveries));
            None
        };
        let (stop, stopping) = watch::channel(false);
        let server = tokio::spawn(serve(
            listener,
            settings.server.server(memory, places, Arc::default()),
            deliver,
            stopping,
        ));
        tracing::info!(listen = %addr, "the built-in receiver listens");
        Ok(Self {
            stop,
            server,
            printer,
        })
    }

    /// Finishes the windows that are being printed, and ends.
    pub(super) async fn stop(self) {
        self.stop.send_replace(true);
        let ended = clock::within(STOP_WAIT, self.server).await;
        tracing::debug!(in_time = ended.is_some(), "the built-in receiver ends");
        if let Some(printer) = self.printer {
            let printed = clock::within(STOP_WAIT, printer).await;
            tracing::debug!(?printed, "the printer ends");
        }
    }
}

/// Takes windows over without looking at them.
async fn forget(mut deliveries: mpsc::Receiver<Delivery>) {
    while let Some(delivery) = deliveries.recv().await {
        if delivery.done.send(()).is_err() {
            tracing::debug!(peer = %delivery.peer, "a connection went before its acknowledgement");
        }
    }
}
