//! Why a script could not be started, in words that say what to do about it. Looks at the file
//! that was refused; must never know jobs or start anything.

use std::fs;
use std::fs::File;
use std::io;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::path::PathBuf;

use super::Command;
use super::SecretFrom;
use super::shim::Failure;
use super::shim::Stage;

/// How much of a script is looked at: the kernel itself reads 256 bytes for a `#!` line.
const HEAD_BYTES: u64 = 256;

/// The reason for people: what was refused, why, and what helps.
pub(super) fn could_not_start(failure: Failure, command: &Command) -> String {
    let error = io::Error::from_raw_os_error(failure.errno);
    let user = &command.rights.user.name;
    match failure.stage {
        Stage::Shim | Stage::Prepare => format!("the process could not be prepared: {error}"),
        Stage::Fork => format!("no process could be made: {error} (see TasksMax and ulimit -u)"),
        Stage::Cgroup => format!("its cgroup could not be made: {error}"),
        Stage::Limit => format!("its limits could not be set: {error}"),
        Stage::User => format!(
            "it could not become user {user}: {error}; only a daemon of root may start jobs of others"
        ),
        Stage::Secret => refused_secret(failure, &error, command),
        Stage::Stdin => {
            let path = command.stdin.as_deref().unwrap_or(Path::new(""));
            format!(
                "its input {} cannot be opened by user {user}: {error}",
                path.display()
            )
        }
        Stage::Cwd => format!(
            "its working directory {} cannot be entered by user {user}: {error}",
            command.cwd.display()
        ),
        Stage::Exec => refused_exec(&error, command),
    }
}

fn refused_secret(failure: Failure, error: &io::Error, command: &Command) -> String {
    let files = command
        .secrets
        .iter()
        .filter_map(|(name, from)| match from {
            SecretFrom::JobsFile(path) | SecretFrom::DaemonsFile(path) => Some((name, path)),
            SecretFrom::Text(_) => None,
        });
    let Some((name, path)) = files.clone().nth(failure.which.into()) else {
        return format!("a secret cannot be read: {error}");
    };
    let why = match failure.errno {
        libc::EISDIR => "it is not a plain file".to_owned(),
        libc::ELOOP => "the way to it goes in a circle, or by a link of /proc".to_owned(),
        libc::EFBIG => "it is larger than 64 KiB".to_owned(),
        libc::EILSEQ => "it holds a NUL, which no variable can".to_owned(),
        libc::EACCES => format!("user {} may not read it", command.rights.user.name),
        _ => error.to_string(),
    };
    let (name, path) = (name.to_string_lossy(), path.display());
    format!("its secret {name} cannot be read from {path}: {why}")
}

fn refused_exec(error: &io::Error, command: &Command) -> String {
    let program = command.program.to_string_lossy();
    let is_path = program.contains('/');
    // A relative path is meant from where the script would have run.
    let path: PathBuf = command.cwd.join(&command.program);
    match error.raw_os_error() {
        Some(libc::ENOENT) if !is_path => {
            let searched = command
                .env
                .iter()
                .find(|(name, _)| name == "PATH")
                .map_or("which is not set".into(), |(_, value)| {
                    value.to_string_lossy()
                });
            format!("`{program}` is not installed: no such program on PATH ({searched})")
        }
        Some(libc::ENOENT) => match interpreter(&path) {
            None => format!("`{program}` does not exist"),
            Some(line) if line.ends_with('\r') => format!(
                "the `#!` line of {program} ends with a carriage return; save the file with LF line ends, like `sed -i 's/\\r$//' FILE`"
            ),
            Some(line) if line.is_empty() => {
                format!("{program} needs a loader or library that is not on this machine")
            }
            Some(line) => format!(
                "{program} wants to be run by `{line}`, which does not exist; correct its `#!` line, like `#!/usr/bin/env bash`"
            ),
        },
        Some(libc::EACCES) if is_path && !is_executable(&path) => {
            format!("{program} is not executable: chmod +x it, or set `language`")
        }
        Some(libc::EAGAIN) => format!(
            "user {} has as many processes as limits.processes allows",
            command.rights.user.name
        ),
        Some(libc::EACCES) => format!(
            "{program} may not be executed: look at the rights of its folders, of its interpreter, and for a `noexec` mount"
        ),
        Some(libc::ENOEXEC) => match head(&path).as_deref() {
            Some(b"") => format!("{program} is empty"),
            Some([0x7f, b'E', b'L', b'F', ..]) => {
                format!("{program} is built for another kind of machine")
            }
            _ => format!(
                "{program} has no `#!` line: begin it with one, like `#!/usr/bin/env bash`, or set `language`"
            ),
        },
        Some(libc::ETXTBSY) => {
            format!("{program} is still open for writing: end whatever writes it")
        }
        Some(libc::E2BIG) => {
            "its arguments and environment are too long for the system (about 2 MiB in all)"
                .to_owned()
        }
        _ => format!("{program} could not be executed: {error}"),
    }
}

/// The first bytes of a file; `None` when it cannot be read.
fn head(path: &Path) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)
        .ok()?
        .take(HEAD_BYTES)
        .read_to_end(&mut bytes)
        .ok()?;
    Some(bytes)
}

/// What stands after `#!` (its carriage return too); empty without such a line, `None` without
/// such a file.
fn interpreter(path: &Path) -> Option<String> {
    let head = head(path)?;
    let line = head
        .strip_prefix(b"#!")
        .and_then(|rest| rest.split(|byte| *byte == b'\n').next())
        .unwrap_or_default();
    Some(
        String::from_utf8_lossy(line)
            .trim_matches(' ')
            .chars()
            .filter(|c| !c.is_control() || *c == '\r')
            .collect(),
    )
}

fn is_executable(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|meta| meta.permissions().mode() & 0o111 != 0)
}

/// A signal's number and name.
pub(super) fn signal(signal: i32) -> String {
    let name = match signal {
        libc::SIGHUP => "HUP",
        libc::SIGINT => "INT",
        libc::SIGQUIT => "QUIT",
        libc::SIGILL => "ILL",
        libc::SIGTRAP => "TRAP",
        libc::SIGABRT => "ABRT",
        libc::SIGBUS => "BUS",
        libc::SIGFPE => "FPE",
        libc::SIGKILL => "KILL; perhaps by the kernel, for want of memory",
        libc::SIGUSR1 => "USR1",
        libc::SIGSEGV => "SEGV",
        libc::SIGUSR2 => "USR2",
        libc::SIGPIPE => "PIPE",
        libc::SIGALRM => "ALRM",
        libc::SIGTERM => "TERM",
        libc::SIGXCPU => "XCPU",
        libc::SIGXFSZ => "XFSZ",
        libc::SIGSYS => "SYS",
        _ => return format!("signal {signal}"),
    };
    format!("signal {signal} ({name})")
}
