//! Whose rights something happens with: users, what limits them, and work done as one of them.
//!
//! Everything that a job causes happens with the rights of its user: its script (the shim becomes
//! that user) and every file that the daemon reads or removes for it ([`as_user`]). Must never
//! know jobs or decide whose rights are right.

use std::ffi::CString;
use std::fmt;
use std::io;
use std::path::PathBuf;

use nix::unistd::Gid;
use nix::unistd::Group;
use nix::unistd::Uid;

use super::sys;

/// A user as the kernel and the script see one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    /// Its number.
    pub uid: u32,
    /// Its group.
    pub gid: u32,
    /// All groups that it is in.
    pub groups: Vec<u32>,
    /// Its name; the number as text when it has none.
    pub name: String,
    /// Its home; `None`: that of the daemon.
    pub home: Option<PathBuf>,
}

impl User {
    /// The user that this process acts as: no rights are changed for it.
    #[must_use]
    pub fn own() -> Self {
        let (uid, gid) = (Uid::effective().as_raw(), Gid::effective().as_raw());
        Self {
            uid,
            gid,
            groups: Vec::new(),
            name: uid.to_string(),
            home: None,
        }
    }

    /// The user of this number, as the user database has it.
    ///
    /// # Errors
    /// In words: there is none, or the database cannot be asked.
    pub fn of_uid(uid: u32) -> Result<Self, String> {
        if Self::own().uid == uid {
            return Ok(Self::own());
        }
        let found = nix::unistd::User::from_uid(Uid::from_raw(uid));
        Self::from_entry(found, &uid.to_string())
    }

    /// The user of this name or number.
    ///
    /// # Errors
    /// In words: there is none, or the database cannot be asked.
    pub fn named(text: &str) -> Result<Self, String> {
        if let Ok(uid) = text.parse() {
            return Self::of_uid(uid);
        }
        let user = Self::from_entry(nix::unistd::User::from_name(text), text)?;
        if user.uid == Self::own().uid {
            return Ok(Self::own());
        }
        Ok(user)
    }

    /// The user of this number in this group: what was recorded of a job that may be gone. The other
    /// groups are those that the user database gives it now, and none where it does not know it any more.
    ///
    /// # Errors
    /// In words: the database cannot be asked.
    pub fn of_ids(uid: u32, gid: u32) -> Result<Self, String> {
        if Self::own().uid == uid {
            return Ok(Self::own());
        }
        if let Ok(None) = nix::unistd::User::from_uid(Uid::from_raw(uid)) {
            return Ok(Self {
                uid,
                gid,
                groups: Vec::new(),
                name: uid.to_string(),
                home: None,
            });
        }
        Ok(Self {
            gid,
            ..Self::of_uid(uid)?
        })
    }

    fn from_entry(
        found: nix::Result<Option<nix::unistd::User>>,
        asked: &str,
    ) -> Result<Self, String> {
        let entry = match found {
            Ok(Some(entry)) => entry,
            Ok(None) => return Err(format!("there is no user `{asked}` on this machine")),
            Err(error) => return Err(format!("user `{asked}` cannot be looked up: {error}")),
        };
        let name = CString::new(entry.name.as_str()).unwrap_or_default();
        let groups = nix::unistd::getgrouplist(&name, entry.gid)
            .map_err(|error| format!("the groups of `{asked}` cannot be looked up: {error}"))?;
        Ok(Self {
            uid: entry.uid.as_raw(),
            gid: entry.gid.as_raw(),
            groups: groups.into_iter().map(Gid::as_raw).collect(),
            name: entry.name,
            home: Some(entry.dir),
        })
    }

    /// Whether nothing has to be changed to act as this user.
    #[must_use]
    pub fn is_own(&self) -> bool {
        let own = Self::own();
        (self.uid, self.gid) == (own.uid, own.gid)
    }
}

/// The number of the group of this name or number.
///
/// # Errors
/// In words: there is none, or the database cannot be asked.
pub fn group_named(text: &str) -> Result<u32, String> {
    let found = match text.parse() {
        Ok(gid) => Group::from_gid(Gid::from_raw(gid)),
        Err(_) => Group::from_name(text),
    };
    match found {
        Ok(Some(group)) => Ok(group.gid.as_raw()),
        Ok(None) => Err(format!("there is no group `{text}` on this machine")),
        Err(error) => Err(format!("group `{text}` cannot be looked up: {error}")),
    }
}

/// The rights and limits of everything that a job causes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rights {
    /// As whom.
    pub user: User,
    /// File mode creation mask of its processes.
    pub umask: u32,
    /// What its processes may use.
    pub limits: Limits,
}

impl Rights {
    /// What scripts make is not readable by everybody.
    pub const UMASK: u32 = 0o027;

    /// Those of this process, with the usual mask and without limits.
    #[must_use]
    pub fn own() -> Self {
        Self::of(User::own())
    }

    /// Those of a user, with the usual mask and without limits.
    #[must_use]
    pub fn of(user: User) -> Self {
        Self {
            user,
            umask: Self::UMASK,
            limits: Limits::default(),
        }
    }
}

/// What the processes of one run may use. `None`: what the daemon itself may.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Limits {
    /// Bytes of memory: of the run in a cgroup; otherwise `RLIMIT_DATA` of each process, which
    /// unlike `RLIMIT_AS` does not count address space that is only set aside (JVM, Go, node).
    pub memory: Option<u64>,
    /// Processes and threads: of the run in a cgroup, otherwise `RLIMIT_NPROC`: of the user.
    pub processes: Option<u64>,
    /// Open files of each process.
    pub open_files: Option<u64>,
    /// Hundredths of one core: only in a cgroup.
    pub cpu_percent: Option<u32>,
    /// Largest file that a process may write, in bytes.
    pub file_size: Option<u64>,
    /// Largest core dump in bytes. A dump holds secrets, so there is none by default.
    pub core: u64,
}

/// A text that must be seen by nobody but the script: it has no way to be shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(std::ffi::OsString);

impl Secret {
    /// Takes a text over.
    #[must_use]
    pub const fn new(text: std::ffi::OsString) -> Self {
        Self(text)
    }

    pub(super) fn reveal(&self) -> &std::ffi::OsStr {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}

/// Does blocking file work with the rights of `user`, and with no others; gives what it returns.
///
/// The work runs on a thread of its own, which takes the user's effective id, group and
/// groups by raw system calls: those change one thread only, and with them its capabilities go. A
/// link or a race that leads the work elsewhere buys nothing: the kernel refuses what it would
/// refuse the user. The thread's real id stays that of the daemon, so the user cannot signal
/// it. When `user` is the daemon's own, the work is simply called.
///
/// The mode of a file that is made must be given at its making: the umask is the daemon's.
/// A thread costs some 50 us: do what belongs together in one call.
///
/// # Errors
/// The rights cannot be had (the daemon is not root, no thread): the work was not called.
pub fn as_user<T: Send>(user: &User, work: impl FnOnce() -> T + Send) -> io::Result<T> {
    if user.uid == Uid::effective().as_raw() {
        return Ok(work());
    }
    let task = || {
        sys::borrow_rights(user.uid, user.gid, &user.groups)?;
        Ok(work())
    };
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new()
            .name(format!("as-{}", user.uid))
            .spawn_scoped(scope, task)?;
        match thread.join() {
            Ok(done) => done,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    })
}

/// Whether the calling thread works for [`as_user`] with the rights of another user than the daemon's.
#[must_use]
pub fn has_borrowed_rights() -> bool {
    Uid::effective() != Uid::current()
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use std::fs;
    use std::os::unix::fs::MetadataExt;
    use std::os::unix::fs::PermissionsExt;

    fn nobody() -> Option<User> {
        let user = User::named("nobody").ok()?;
        if User::own().uid == 0 {
            return Some(user);
        }
        drop(io::Write::write_all(
            &mut io::stdout(),
            b"SKIP rights of others: needs root\n",
        ));
        None
    }

    #[test]
    fn work_as_a_user_has_no_rights_but_the_users_and_leaves_the_daemon_its_own() {
        let Some(user) = nobody() else { return };
        let dir = tempfile::tempdir().unwrap();
        let theirs = dir.path().join("theirs");
        fs::create_dir(&theirs).unwrap();
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o711)).unwrap();
        std::os::unix::fs::chown(&theirs, Some(user.uid), Some(user.gid)).unwrap();
        let made = theirs.join("made");
        as_user(&user, || {
            assert!(fs::read("/etc/shadow").is_err());
            // Refused by ptrace's check, which looks at ids and at capabilities.
            assert!(fs::read("/proc/1/environ").is_err());
            assert!(fs::write(dir.path().join("ours"), "x").is_err());
            fs::write(&made, "x").unwrap();
            let status = fs::read_to_string("/proc/thread-self/status").unwrap();
            assert!(status.contains("CapEff:\t0000000000000000"), "{status}");
        })
        .unwrap();
        assert_eq!(fs::metadata(&made).unwrap().uid(), user.uid);
        let status = fs::read_to_string("/proc/self/status").unwrap();
        assert!(!status.contains("CapEff:\t0000000000000000"), "{status}");
        assert!(fs::read("/etc/shadow").is_ok());
    }

    #[test]
    fn a_thread_that_acts_as_a_user_cannot_be_signalled_by_that_user() {
        let Some(user) = nobody() else { return };
        let (tell, told) = std::sync::mpsc::channel();
        let (end, ended) = std::sync::mpsc::channel::<()>();
        std::thread::scope(|scope| {
            let victim = &user;
            scope.spawn(move || {
                as_user(victim, move || {
                    let me = fs::read_link("/proc/thread-self").unwrap();
                    tell.send(me).unwrap();
                    assert!(ended.recv().is_err());
                })
            });
            let me = told.recv().unwrap();
            let ids: Vec<&str> = me.to_str().unwrap().split("/task/").collect();
            let attack = format!(
                "import ctypes; c = ctypes.CDLL(None, use_errno=True); \
                 r = c.syscall({}, {}, {}, 0); print(r, ctypes.get_errno())",
                libc::SYS_tgkill,
                ids[0],
                ids[1]
            );
            let mut attacker = std::process::Command::new("python3");
            std::os::unix::process::CommandExt::uid(&mut attacker, user.uid);
            let output = attacker.args(["-c", &attack]).output().unwrap();
            drop(end);
            let said = String::from_utf8(output.stdout).unwrap();
            assert_eq!(said.trim(), format!("-1 {}", libc::EPERM));
        });
    }

    #[test]
    fn ones_own_rights_need_no_thread_and_unknown_users_are_named() {
        let here = std::thread::current().id();
        let there = as_user(&User::own(), || std::thread::current().id()).unwrap();
        assert_eq!(here, there);
        let words = User::named("no-such-user-here").unwrap_err();
        assert!(words.contains("no user `no-such-user-here`"), "{words}");
        assert!(User::of_uid(4_000_000_001).is_err());
        assert!(group_named("no-such-group").is_err());
    }

    #[test]
    fn a_secret_cannot_be_printed() {
        let secret = Secret::new("canary".into());
        assert_eq!(format!("{secret:?}"), "Secret");
    }
}
