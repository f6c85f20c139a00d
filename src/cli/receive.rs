//! `spoolbeat receive`: a Lumberjack server that prints what it gets.
//!
//! For trying things out without Logstash. Each event is acknowledged when it has been written
//! to standard output. Knows nothing of jobs, queues or configuration.

use std::fmt;
use std::io;
use std::io::Write;
use std::process::ExitCode;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::sync::watch;

use crate::cli::receive::printer::End;
use crate::cli::receive::printer::Printed;
use crate::cli::signals::Signals;
use crate::clock;
use crate::lumberjack::server::ServerSettings;
use crate::lumberjack::server::bind;
use crate::lumberjack::server::serve;

pub(crate) mod printer;

/// Windows waiting for the printer. Their memory is bounded by the server; a few are enough for
/// the printer never to wait for a hand-over.
pub(crate) const WINDOWS_WAITING_MAX: usize = 16;

/// How long a printer that is blocked by its reader may hold up the end.
const PRINTER_WAIT: Duration = Duration::from_secs(1);

/// sysexits `EX_UNAVAILABLE`: the address cannot be had.
const EXIT_UNAVAILABLE: u8 = 69;
/// sysexits `EX_OSERR`: the system refuses a thread or a signal handler.
const EXIT_SYSTEM: u8 = 71;
/// sysexits `EX_IOERR`: standard output cannot be written.
const EXIT_OUTPUT: u8 = 74;

/// Flags of `spoolbeat receive`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Address and port to listen on; port 0 picks a free one
    #[arg(long, value_name = "ADDR:PORT", default_value = "127.0.0.1:5044")]
    pub listen: String,
}

/// Receives and prints until Ctrl-C, or until nobody reads standard output any more.
pub async fn run(args: Args) -> ExitCode {
    match receive(&args.listen).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            say(format_args!("spoolbeat: {}", failure.message));
            ExitCode::from(failure.code)
        }
    }
}

struct Failure {
    code: u8,
    message: String,
}

impl Failure {
    fn system(error: &io::Error) -> Self {
        Self {
            code: EXIT_SYSTEM,
            message: format!("cannot begin to receive: {error}"),
        }
    }
}

async fn receive(listen: &str) -> Result<(), Failure> {
    let listener = bind(listen).await.map_err(|error| Failure {
        code: EXIT_UNAVAILABLE,
        message: error.to_string(),
    })?;
    let addr = listener
        .local_addr()
        .map_err(|error| Failure::system(&error))?;
    let mut signals = Signals::new().map_err(|error| Failure::system(&error))?;
    let (deliver, deliveries) = mpsc::channel(WINDOWS_WAITING_MAX);
    let mut printed = printer::spawn(deliveries).map_err(|error| Failure::system(&error))?;
    let (stop, stopping) = watch::channel(false);
    let serving = tokio::spawn(serve(
        listener,
        ServerSettings::default(),
        deliver,
        stopping,
    ));
    say(format_args!("listening on {addr}"));
    let broken = tokio::select! {
        broken = &mut printed => Some(broken),
        () = signals.next() => None,
    };
    stop.send_replace(true);
    // Windows that are being printed may be finished; a second signal means now.
    tokio::select! {
        ended = serving => {
            if let Err(error) = ended {
                tracing::error!(%error, "the server's task failed");
            }
        }
        () = signals.next() => {}
    }
    let printed = match broken {
        Some(printed) => Some(printed),
        None => clock::within(PRINTER_WAIT, printed).await,
    };
    conclude(printed.and_then(Result::ok))
}

/// Says what was received; the failure if there was one.
fn conclude(printed: Option<Printed>) -> Result<(), Failure> {
    let Some(Printed {
        events,
        windows,
        end,
    }) = printed
    else {
        say(format_args!(
            "nobody reads standard output; what it did not take was not acknowledged"
        ));
        return Ok(());
    };
    say(format_args!(
        "received {events} events in {windows} windows"
    ));
    match end {
        End::NoMore | End::BrokenPipe => Ok(()),
        End::Failed(error) => Err(Failure {
            code: EXIT_OUTPUT,
            message: format!("cannot write to standard output: {error}"),
        }),
    }
}

/// One line on standard error.
fn say(line: fmt::Arguments<'_>) {
    // Nobody is left to tell when standard error is gone.
    drop(writeln!(io::stderr().lock(), "{line}"));
}
