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
use crate::disk;
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
    match daemon::claim(root) {
        Ok(claim) => is_ours(root).map(|()| Some(claim)),
        Err(daemon::Error::Locked { .. }) => Ok(None),
        Err(error) => Err(say::fail(EXIT_ERROR, &error.to_string())),
    }
}

/// The user that the daemon of this root acts as: the queue's owner; ourselves where there is none yet.
pub(in crate::cli) fn owner(root: &Path) -> u32 {
    let queue = files::look(&root.join("queue"));
    queue.map_or_else(|_| process::own_uid(), |item| item.uid)
}

/// Whether files may be made for the daemon: what others make the daemon could not change afterwards.
pub(in crate::cli) fn is_ours(root: &Path) -> Result<(), ExitCode> {
    let (own, owner) = (process::own_uid(), owner(root));
    if owner == own {
        return Ok(());
    }
    let why = format!(
        "nothing was changed: the queue belongs to user {owner}, and you are user {own}; run this as `sudo -u '#{owner}' spoolbeat ...`"
    );
    Err(say::fail(EXIT_ERROR, &why))
}

/// Whether a daemon has the root; changes nothing.
pub(super) fn is_live(root: &Path) -> bool {
    let lock = root.join("queue").join("lock");
    files::look(&lock).is_ok() && matches!(disk::lock(&lock), Ok(None))
}
