//! `spoolbeat run`: the daemon, until it is stopped or (`--once`) every job has run.

use std::path::Path;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use tracing::Level;

use crate::cli::Done;
use crate::cli::EXIT_ERROR;
use crate::cli::EXIT_SYSTEM;
use crate::cli::EXIT_UNAVAILABLE;
use crate::cli::block_on;
use crate::cli::say;
use crate::cli::say::BAD_CONFIG;
use crate::config;
use crate::daemon;
use crate::daemon::Error;
use crate::daemon::Origin;
use crate::log;
use crate::supervisor::Exit;
use crate::supervisor::Mode;
use crate::units::parse_duration;

/// sysexits `EX_CANTCREAT`: a folder of the root cannot be made.
const EXIT_CANNOT_CREATE: u8 = 73;

/// sysexits `EX_IOERR`: the disk fails.
const EXIT_DISK: u8 = 74;

/// sysexits `EX_TEMPFAIL`: another daemon has the root.
const EXIT_LOCKED: u8 = 75;

/// As shells say of what was ended by SIGINT: a second signal ended the daemon at once.
const EXIT_NOW: u8 = 130;

/// Run the jobs of a root directory and ship what they print
///
/// SIGTERM and Ctrl-C stop: runs end by their `on_stop`, their output is made durable, ACKs are
/// waited for as long as `[stop] timeout` says, and the rest stays queued. A second one ends at
/// once. SIGHUP reads spoolbeat.toml and all jobs again.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  spoolbeat run spool-example
  spoolbeat run /srv/spool -E queue.max_bytes=1GiB --log-format json
  spoolbeat run /srv/spool --once --for 30s")]
pub struct Args {
    /// The root directory, or its spoolbeat.toml
    #[arg(value_name = "ROOT")]
    pub root: Option<PathBuf>,
    /// Run every enabled job once, ship, and leave; the exit code says whether all went well
    #[arg(long)]
    pub once: bool,
    /// With --once: how long scripts that are kept running may run
    #[arg(long = "for", value_name = "DURATION", default_value = "10s", value_parser = parse_duration, requires = "once")]
    pub keep_running: Duration,
    /// Override a key of spoolbeat.toml; may be given several times
    #[arg(short = 'E', value_name = "KEY=VALUE")]
    pub overrides: Vec<String>,
    /// How the daemon's own log is written to standard error
    #[arg(long, value_enum, default_value_t = log::Format::Auto)]
    pub log_format: log::Format,
}

/// Runs the daemon. `given` is `--root`, `verbose` wins over the configured level.
pub(super) fn run(args: Args, given: Option<&Path>, verbose: Option<Level>) -> Done {
    let place = config::find_root(args.root.as_deref().or(given))
        .map_err(|why| say::fail(BAD_CONFIG, &why))?;
    let root = config::load_root(&place, &args.overrides)
        .map_err(|problems| say::fail_config(&problems))?;
    if !root.unusable.is_empty() {
        return Err(say::fail_config(&root.unusable));
    }
    let level = log::level(&root.log.level).map_err(|why| say::fail(BAD_CONFIG, &why))?;
    log::start(args.log_format, verbose.unwrap_or(level));
    let mode = match args.once {
        true => Mode::Once {
            keep_running: args.keep_running,
        },
        false => Mode::Serve,
    };
    let origin = Origin {
        place,
        overrides: args.overrides,
        level: verbose,
    };
    block_on(async {
        match daemon::run(root, mode, origin).await {
            Ok(exit) => ExitCode::from(code_of_exit(exit)),
            Err(error) => say::fail(code_of_error(&error), &error.to_string()),
        }
    })
}

const fn code_of_exit(exit: Exit) -> u8 {
    match exit {
        Exit::Clean => 0,
        Exit::Failed => EXIT_ERROR,
        Exit::Unshipped => EXIT_UNAVAILABLE,
        Exit::Refused => BAD_CONFIG,
        Exit::Now => EXIT_NOW,
    }
}

pub(super) const fn code_of_error(error: &Error) -> u8 {
    match error {
        Error::Locked { .. } => EXIT_LOCKED,
        Error::Place(_) => BAD_CONFIG,
        Error::Folder { .. } => EXIT_CANNOT_CREATE,
        Error::Disk { .. } | Error::Queue(_) => EXIT_DISK,
        Error::Receiver(_) => EXIT_UNAVAILABLE,
        Error::System(_) | Error::Leaving => EXIT_SYSTEM,
    }
}
