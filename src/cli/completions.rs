//! `spoolbeat completions`: what a shell needs to complete our commands.

use std::process::ExitCode;

use super::say;

/// Print completions for a shell.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  spoolbeat completions bash > /usr/share/bash-completion/completions/spoolbeat
  source <(spoolbeat completions bash)")]
pub struct Args {
    /// The shell.
    #[arg(value_enum)]
    shell: clap_complete::Shell,
}

/// Prints the completions of `command`, the whole command line.
#[must_use]
pub fn run(args: &Args, mut command: clap::Command) -> ExitCode {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut command, "spoolbeat", &mut script);
    say::report(&String::from_utf8_lossy(&script), 0)
}
