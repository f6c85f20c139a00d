//! What the shim is told at its start: everything of the script, over its control socket.
//!
//! Not by arguments and environment, because the shim may be root: a job's `LD_PRELOAD` must not
//! reach it, and what is in them can be read in /proc. Plain bytes: numbers of eight bytes,
//! texts with their length before them. Must never know what the parts are used for.

use std::ffi::CString;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use super::Command;
use super::SecretFrom;
use super::open_files;
use super::rights::Limits;

/// Most bytes of a start. The kernel takes 6 MiB of arguments and environment at most (a quarter
/// of a stack of 24 MiB); what is longer cannot be executed.
pub(super) const START_BYTES_MAX: usize = 8 << 20;

/// A secret that the script's process reads by itself.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct SecretFile {
    /// The variable that takes it.
    pub(super) name: CString,
    /// The file.
    pub(super) path: CString,
    /// Whether it is read before the rights are given up: it is the daemon's file.
    pub(super) is_daemons: bool,
}

/// A user to become.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Become {
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) groups: Vec<u32>,
}

/// All that a shim has to know.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Start {
    pub(super) cwd: CString,
    /// The file that is its standard input.
    pub(super) stdin: Option<CString>,
    /// The program, then its arguments.
    pub(super) argv: Vec<CString>,
    /// `NAME=value`, secrets that need no file among them.
    pub(super) env: Vec<CString>,
    pub(super) files: Vec<SecretFile>,
    /// `None`: the user that the daemon is.
    pub(super) user: Option<Become>,
    pub(super) umask: u32,
    pub(super) limits: Limits,
    /// Files that it may have open when its limits do not say it.
    pub(super) usual_open_files: Option<u64>,
    /// The cgroup to make for it.
    pub(super) cgroup: Option<CString>,
}

/// The bytes of a command's start, with their number before them; `None` when they are too many.
pub(super) fn start_bytes(command: &Command) -> Option<Vec<u8>> {
    let mut out = Writer(vec![0; size_of::<u64>()]);
    out.text(command.cwd.as_os_str());
    out.path(command.stdin.as_deref());
    out.number(1 + command.args.len() as u64);
    out.text(&command.program);
    for arg in &command.args {
        out.text(arg);
    }
    let plain = command.env.iter().map(|(name, value)| (name, &**value));
    let secret = command
        .secrets
        .iter()
        .filter_map(|(name, from)| match from {
            SecretFrom::Text(secret) => Some((name, secret.reveal())),
            _ => None,
        });
    let env: Vec<_> = plain.chain(secret).collect();
    out.number(env.len() as u64);
    for (name, value) in env {
        out.number((name.len() + 1 + value.len()) as u64);
        out.0.extend_from_slice(name.as_bytes());
        out.0.push(b'=');
        out.0.extend_from_slice(value.as_bytes());
    }
    let files = command
        .secrets
        .iter()
        .filter_map(|(name, from)| match from {
            SecretFrom::JobsFile(path) => Some((name, path, false)),
            SecretFrom::DaemonsFile(path) => Some((name, path, true)),
            SecretFrom::Text(_) => None,
        });
    let files: Vec<_> = files.collect();
    out.number(files.len() as u64);
    for (name, path, is_daemons) in files {
        out.text(name);
        out.text(path.as_os_str());
        out.number(u64::from(is_daemons));
    }
    let user = Some(&command.rights.user).filter(|user| !user.is_own());
    out.number(u64::from(user.is_some()));
    if let Some(user) = user {
        out.number(user.uid.into());
        out.number(user.gid.into());
        out.number(user.groups.len() as u64);
        for group in &user.groups {
            out.number((*group).into());
        }
    }
    out.number(command.rights.umask.into());
    let limits = &command.rights.limits;
    for limit in [
        limits.memory,
        limits.processes,
        limits.open_files,
        limits.cpu_percent.map(u64::from),
        limits.file_size,
    ] {
        out.option(limit);
    }
    out.number(limits.core);
    out.option(open_files::usual());
    out.path(command.cgroup.as_deref());
    let mut bytes = out.0;
    let length = bytes.len() - size_of::<u64>();
    if length > START_BYTES_MAX {
        return None;
    }
    bytes[..size_of::<u64>()].copy_from_slice(&(length as u64).to_be_bytes());
    Some(bytes)
}

struct Writer(Vec<u8>);

impl Writer {
    fn number(&mut self, number: u64) {
        self.0.extend_from_slice(&number.to_be_bytes());
    }

    fn text(&mut self, text: &OsStr) {
        self.number(text.len() as u64);
        self.0.extend_from_slice(text.as_bytes());
    }

    /// A path; none is written as an empty one.
    fn path(&mut self, path: Option<&Path>) {
        self.text(path.map_or(OsStr::new(""), Path::as_os_str));
    }

    fn option(&mut self, number: Option<u64>) {
        self.number(u64::from(number.is_some()));
        self.number(number.unwrap_or(0));
    }
}

impl Start {
    /// Reads a start, without its length; `None` when it is none.
    pub(super) fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let mut from = Reader(bytes);
        Some(Self {
            cwd: from.text()?,
            stdin: from.path()?,
            argv: from.list(Reader::text)?,
            env: from.list(Reader::text)?,
            files: from.list(|from| {
                Some(SecretFile {
                    name: from.text()?,
                    path: from.text()?,
                    is_daemons: from.number()? != 0,
                })
            })?,
            user: match from.number()? {
                0 => None,
                _ => Some(Become {
                    uid: from.word()?,
                    gid: from.word()?,
                    groups: from.list(Reader::word)?,
                }),
            },
            umask: from.word()?,
            limits: Limits {
                memory: from.option()?,
                processes: from.option()?,
                open_files: from.option()?,
                cpu_percent: match from.option()? {
                    None => None,
                    Some(percent) => Some(u32::try_from(percent).ok()?),
                },
                file_size: from.option()?,
                core: from.number()?,
            },
            usual_open_files: from.option()?,
            cgroup: from.path()?,
        })
    }
}

struct Reader<'b>(&'b [u8]);

impl Reader<'_> {
    fn number(&mut self) -> Option<u64> {
        let (head, rest) = self.0.split_first_chunk::<{ size_of::<u64>() }>()?;
        self.0 = rest;
        Some(u64::from_be_bytes(*head))
    }

    fn word(&mut self) -> Option<u32> {
        u32::try_from(self.number()?).ok()
    }

    fn text(&mut self) -> Option<CString> {
        let length = usize::try_from(self.number()?).ok()?;
        let (text, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        CString::new(text).ok()
    }

    #[expect(clippy::option_option, reason = "the outer one: not readable")]
    fn path(&mut self) -> Option<Option<CString>> {
        Some(Some(self.text()?).filter(|path| !path.is_empty()))
    }

    #[expect(clippy::option_option, reason = "the outer one: not readable")]
    fn option(&mut self) -> Option<Option<u64>> {
        let (is_some, number) = (self.number()? != 0, self.number()?);
        Some(is_some.then_some(number))
    }

    fn list<T>(&mut self, mut take: impl FnMut(&mut Self) -> Option<T>) -> Option<Vec<T>> {
        let count = self.number()?;
        let mut items = Vec::new();
        for _ in 0..count {
            items.push(take(self)?);
        }
        Some(items)
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::super::Rights;
    use super::super::Secret;
    use super::super::User;
    use super::*;

    fn command() -> Command {
        Command {
            program: "sh".into(),
            args: vec!["-c".into(), "".into()],
            env: vec![("A".into(), "b=c".into())],
            secrets: vec![
                ("S".into(), SecretFrom::Text(Secret::new("t".into()))),
                ("F".into(), SecretFrom::JobsFile("/f".into())),
                ("C".into(), SecretFrom::DaemonsFile("/c".into())),
            ],
            cwd: "/".into(),
            stdin: Some("/i".into()),
            rights: Rights {
                user: User {
                    uid: 4_000_000_000,
                    gid: 7,
                    groups: vec![7, 8],
                    name: "x".into(),
                    home: None,
                },
                umask: 0o77,
                limits: Limits {
                    memory: Some(u64::MAX),
                    cpu_percent: Some(50),
                    ..Limits::default()
                },
            },
            cgroup: Some("/g".into()),
        }
    }

    #[test]
    fn a_start_reads_back_as_it_was_meant() {
        let bytes = start_bytes(&command()).unwrap();
        let start = Start::from_bytes(&bytes[8..]).unwrap();
        assert_eq!(start.argv, [c"sh", c"-c", c""].map(CString::from));
        assert_eq!(start.env, [c"A=b=c", c"S=t"].map(CString::from));
        assert_eq!(start.files.len(), 2);
        assert!(!start.files[0].is_daemons && start.files[1].is_daemons);
        assert_eq!(start.user.unwrap().groups, [7, 8]);
        assert_eq!(start.limits, command().rights.limits);
        assert_eq!(start.cgroup.as_deref(), Some(c"/g"));
        assert_eq!(start.stdin.as_deref(), Some(c"/i"));
        for end in 8..bytes.len() {
            assert_eq!(Start::from_bytes(&bytes[8..end]), None, "{end}");
        }
    }

    #[test]
    fn what_no_exec_takes_is_not_sent() {
        let mut long = command();
        long.args = vec!["x".repeat(START_BYTES_MAX).into()];
        assert_eq!(start_bytes(&long), None);
    }
}
