//! Consent: nothing of a queue is changed before a person has seen what and said yes.
//!
//! Also sees to it that a stopped root is really stopped, and is changed by the user it belongs to.
//! Must never know what the change is.

use std::io;
use std::io::IsTerminal;
use std::io::Write;
use std::path::Path;
use std::process::ExitCode;

use crate::cli::EXIT_ERROR;
use crate::cli::EXIT_USAGE;
use crate::cli::say;
use crate::daemon;
use crate::daemon::Claim;
use crate::files;
use crate::process;

/// Asks `question`; `yes`: it is answered already. Without a person to ask nothing is done.
pub(super) fn ask(question: &str, yes: bool) -> Result<(), ExitCode> {
    if yes {
        return Ok(());
    }
    if !io::stdin().is_terminal() {
        let why = "nothing was changed: nobody is there to be asked; give --yes";
        return Err(say::fail(EXIT_USAGE, why));
    }
    let mut answer = String::new();
    let asked = write!(io::stderr(), "{question} [y/N] ");
    let read = asked.and_then(|()| io::stdin().read_line(&mut answer));
    let said = answer.trim().to_ascii_lowercase();
    if read.is_ok() && ["y", "yes"].contains(&&*said) {
        return Ok(());
    }
    Err(say::fail(EXIT_ERROR, "nothing was changed"))
}

/// Locks a root whose daemon is stopped; `None`: one runs.
pub(super) fn claim(root: &Path) -> Result<Option<Claim>, ExitCode> {
    let own = process::own_uid();
    let owner = files::look(&root.join("queue")).map_or(own, |item| item.uid);
    match daemon::claim(root) {
        // What root makes here the daemon could not change afterwards.
        Ok(_) if owner != own => Err(say::fail(
            EXIT_ERROR,
            &format!(
                "nothing was changed: the queue belongs to user {owner}, and you are user {own}; run this as `sudo -u '#{owner}' spoolbeat ...`"
            ),
        )),
        Ok(claim) => Ok(Some(claim)),
        Err(daemon::Error::Locked { .. }) => Ok(None),
        Err(error) => Err(say::fail(EXIT_ERROR, &error.to_string())),
    }
}
