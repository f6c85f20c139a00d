//! `spoolbeat status`: asks the daemon and shows its answer, as a table or as JSON.

use std::io;
use std::io::IsTerminal;
use std::path::Path;
use std::path::PathBuf;
use std::process::ExitCode;

use crate::cli::Done;
use crate::cli::EXIT_ERROR;
use crate::cli::block_on;
use crate::cli::find_dir;
use crate::cli::say;
use crate::cli::steer::ask;
use crate::cli::steer::not_an_answer;
use crate::clock;
use crate::status::Answer;
use crate::status::Look;
use crate::status::Request;
use crate::status::Status;
use crate::status::show;

/// Show what the daemon of a root directory is doing
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  spoolbeat status /srv/spool
  spoolbeat status --json | jq '.jobs[] | select(.problems != [])'")]
pub struct Args {
    /// The root directory, or its spoolbeat.toml
    #[arg(value_name = "ROOT")]
    pub root: Option<PathBuf>,
    /// Print one JSON object for programs
    #[arg(long)]
    pub json: bool,
}

/// Asks and shows; exit code 1 when no daemon answers.
pub(super) fn run(args: &Args, given: Option<&Path>) -> Done {
    let root = find_dir(args.root.as_deref().or(given))?;
    block_on(async {
        match ask(&root, &Request::Status).await {
            Ok(Answer::Status(status)) => print(&status, args),
            Ok(_) => not_an_answer(),
            Err(said) => said,
        }
    })
}

fn print(status: &Status, args: &Args) -> ExitCode {
    let plain = !io::stdout().is_terminal() || std::env::var_os("NO_COLOR").is_some();
    let look = if plain { Look::Plain } else { Look::Coloured };
    let text = if args.json {
        match serde_json::to_string(status) {
            Ok(json) => json + "\n",
            Err(error) => return say::fail(EXIT_ERROR, &format!("no JSON: {error}")),
        }
    } else {
        show(status, clock::now(), look)
    };
    say::report(&text, 0)
}
