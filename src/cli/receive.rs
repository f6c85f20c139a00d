//! `spoolbeat receive`: a Lumberjack server that prints what it gets, or keeps it in files.
//!
//! For trying things out without Logstash. Each event is acknowledged when it has been written
//! to standard output, or is on disk. Knows nothing of jobs, queues or configuration.

use std::fmt;
use std::io;
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::sync::oneshot;
use tokio::sync::watch;

use crate::cli::receive::printer::End;
use crate::cli::receive::printer::Printed;
use crate::cli::receive::printer::Shown;
use crate::cli::receive::store::Store;
use crate::cli::say::BAD_CONFIG;
use crate::cli::signals::Signals;
use crate::clock;
use crate::disk;
use crate::disk::Disk;
use crate::disk::OsDisk;
use crate::lumberjack::server::Delivery;
use crate::lumberjack::server::ServerSettings;
use crate::lumberjack::server::bind;
use crate::lumberjack::server::serve;
use crate::process::User;
use crate::tls;
use crate::tls::ClientAuthentication;
use crate::units::parse_bytes;

pub(crate) mod printer;
mod store;

/// Windows waiting for the printer. Their memory is bounded by the server; a few are enough for
/// the printer never to wait for a hand-over.
pub(crate) const WINDOWS_WAITING_MAX: usize = 16;

/// How long a printer that is blocked by its reader may hold up the end.
const PRINTER_WAIT: Duration = Duration::from_secs(1);

/// How long a disk may take for the last sync.
const STORE_WAIT: Duration = Duration::from_secs(10);

/// sysexits `EX_CANTCREAT`: the folder cannot be made.
const EXIT_CANNOT_CREATE: u8 = 73;
/// sysexits `EX_TEMPFAIL`: somebody else writes there.
const EXIT_LOCKED: u8 = 75;
/// sysexits `EX_UNAVAILABLE`: the address cannot be had.
const EXIT_UNAVAILABLE: u8 = 69;
/// sysexits `EX_OSERR`: the system refuses a thread or a signal handler.
const EXIT_SYSTEM: u8 = 71;
/// sysexits `EX_IOERR`: standard output or the folder cannot be written.
const EXIT_OUTPUT: u8 = 74;

/// Flags of `spoolbeat receive`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Address and port to listen on; port 0 picks a free one
    #[arg(long, value_name = "ADDR:PORT", default_value = "127.0.0.1:5044")]
    pub listen: String,
    /// Keep the events in this folder instead of printing them: received.ndjson, on disk before
    /// they are acknowledged
    #[arg(long, value_name = "DIR", conflicts_with = "raw")]
    pub to: Option<PathBuf>,
    /// With --to: begin another file when one is as large as this
    #[arg(long, value_name = "SIZE", default_value = "64MiB", value_parser = parse_bytes, requires = "to")]
    pub rotate_bytes: u64,
    /// With --to: remove the oldest files when there are more than this many full ones [default: keep all]
    #[arg(long, value_name = "N", requires = "to")]
    pub keep: Option<usize>,
    /// Print the bytes of each event as they came, line breaks included, on a terminal too
    #[arg(long)]
    pub raw: bool,
    /// Encrypt: PEM file of the certificate to show, the intermediate ones behind it
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    pub tls_cert: Option<PathBuf>,
    /// PEM file of its private key
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    pub tls_key: Option<PathBuf>,
    /// PEM file of an authority that signs clients' certificates: then each client must show one
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    pub client_ca: Vec<PathBuf>,
}

impl Args {
    /// Encryption as the flags ask for it, its files checked.
    fn acceptor(&self) -> Result<Option<tls::Acceptor>, Failure> {
        let (Some(certificate), Some(key)) = (&self.tls_cert, &self.tls_key) else {
            return Ok(None);
        };
        let settings = tls::ServerSettings {
            identity: tls::Identity {
                certificate: certificate.clone(),
                key: key.clone(),
            },
            certificate_authorities: self.client_ca.clone(),
            client_authentication: match self.client_ca.is_empty() {
                true => ClientAuthentication::None,
                false => ClientAuthentication::Required,
            },
            supported_protocols: tls::Versions::default(),
        };
        let acceptor = tls::Acceptor::new(settings);
        acceptor.check().map_err(|problems| {
            let problems: Vec<String> = problems.iter().map(ToString::to_string).collect();
            Failure {
                code: BAD_CONFIG,
                message: problems.join("\nspoolbeat: "),
            }
        })?;
        Ok(Some(acceptor))
    }

    /// Starts whoever takes the events.
    fn taker(&self, deliveries: mpsc::Receiver<Delivery>) -> Result<Taker, Failure> {
        let Some(dir) = &self.to else {
            let shown = match self.raw {
                true => Shown::Raw,
                false => Shown::AsFits,
            };
            return Ok(Taker {
                ended: printer::spawn(deliveries, shown)
                    .map_err(|error| Failure::system(&error))?,
                wait: PRINTER_WAIT,
                late: "nobody reads standard output; what it did not take was not acknowledged",
                lock: None,
            });
        };
        let failed = |code, error: &io::Error| Failure {
            code,
            message: format!("{}: {error}", dir.display()),
        };
        OsDisk
            .make_dir(dir)
            .map_err(|error| failed(EXIT_CANNOT_CREATE, &error))?;
        let lock = disk::lock_folder(dir).map_err(|error| failed(EXIT_OUTPUT, &error))?;
        if lock.is_none() {
            return Err(Failure {
                code: EXIT_LOCKED,
                message: format!(
                    "{}: another `spoolbeat receive` writes there",
                    dir.display()
                ),
            });
        }
        let ended = Store::open(Arc::new(OsDisk), dir.clone(), self.rotate_bytes, self.keep)
            .map_err(|error| failed(EXIT_OUTPUT, &error))?
            .spawn(deliveries)
            .map_err(|error| Failure::system(&error))?;
        Ok(Taker {
            ended,
            wait: STORE_WAIT,
            late: "the disk hangs; what it did not take was not acknowledged",
            lock,
        })
    }
}

/// The thread that takes the events.
struct Taker {
    /// What it did.
    ended: oneshot::Receiver<Printed>,
    /// How long it may hold up the end, and what is said when it does for longer.
    wait: Duration,
    late: &'static str,
    #[expect(dead_code, reason = "held for its lock")]
    lock: Option<disk::Lock>,
}

/// Receives until Ctrl-C, or until nobody reads standard output any more.
pub async fn run(args: Args) -> ExitCode {
    match receive(&args).await {
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

async fn receive(args: &Args) -> Result<(), Failure> {
    let settings = ServerSettings {
        tls: args.acceptor()?,
        ..ServerSettings::default()
    };
    let listener = bind(&args.listen, &User::own())
        .await
        .map_err(|error| Failure {
            code: EXIT_UNAVAILABLE,
            message: error.to_string(),
        })?;
    let addr = listener
        .local_addr()
        .map_err(|error| Failure::system(&error))?;
    let mut signals = Signals::new().map_err(|error| Failure::system(&error))?;
    let (deliver, deliveries) = mpsc::channel(WINDOWS_WAITING_MAX);
    let mut taker = args.taker(deliveries)?;
    let (stop, stopping) = watch::channel(false);
    let serving = tokio::spawn(serve(listener, settings, deliver, stopping));
    say(format_args!("listening on {addr}"));
    let broken = tokio::select! {
        broken = &mut taker.ended => Some(broken),
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
        None => clock::within(taker.wait, taker.ended).await,
    };
    conclude(printed.and_then(Result::ok), taker.late)
}

/// Says what was received; the failure if there was one.
fn conclude(printed: Option<Printed>, late: &str) -> Result<(), Failure> {
    let Some(Printed {
        events,
        windows,
        end,
    }) = printed
    else {
        say(format_args!("{late}"));
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
