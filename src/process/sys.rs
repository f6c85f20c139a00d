//! The system calls that processes need and the standard library does not have, each behind
//! a safe function. The only file with `unsafe`; must never know what a run or a shim is.
#![expect(
    unsafe_code,
    reason = "libc calls; each block says why its arguments are good"
)]

use std::ffi::CString;
use std::io;
use std::os::fd::AsRawFd;
use std::os::fd::FromRawFd;
use std::os::fd::OwnedFd;
use std::os::fd::RawFd;

use nix::sys::resource::Resource;
use nix::sys::resource::getrlimit;
use nix::sys::resource::setrlimit;
use nix::unistd::Gid;
use nix::unistd::Uid;

use crate::run::Exit;

/// Which side of a fork the caller is on.
pub(super) enum Forked {
    /// In the new process.
    Child,
    /// In the old one; the new one's process id.
    Parent(i32),
}

/// What a look at the children found.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Waited {
    /// This child has ended and is reaped.
    Ended(i32, Exit),
    /// There are children, none has ended.
    None,
    /// There are no children.
    Childless,
}

fn check(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(result)
    }
}

/// Closes every descriptor from `first` on. Call it before anything is opened.
pub(super) fn close_from(first: u32) {
    /// Descriptors that are closed one by one where the kernel (before 5.9) has no `close_range`.
    const ONE_BY_ONE: i32 = 1024;
    // SAFETY: only numbers go in; nothing of this process owns a descriptor from `first` on yet.
    let done = unsafe { libc::syscall(libc::SYS_close_range, first, u32::MAX, 0_u32) } == 0;
    if !done {
        for fd in i32::try_from(first).unwrap_or(3)..ONE_BY_ONE {
            // SAFETY: as above.
            unsafe { libc::close(fd) };
        }
    }
}

/// A second descriptor for what `fd` is, above 2 and closed by exec.
pub(super) fn duplicate(fd: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: a bad `fd` is an error, not a crash; the new descriptor belongs to nobody else.
    unsafe {
        let fresh = check(libc::fcntl(fd, libc::F_DUPFD_CLOEXEC, 3))?;
        Ok(OwnedFd::from_raw_fd(fresh))
    }
}

/// Makes `onto` another descriptor for what `fd` is, open across exec.
pub(super) fn duplicate_onto(fd: &OwnedFd, onto: RawFd) -> io::Result<()> {
    // SAFETY: callers name only 0, 1 and 2, which no Rust value owns.
    check(unsafe { libc::dup2(fd.as_raw_fd(), onto) }).map(drop)
}

/// From now on orphans among the descendants become children of this process.
pub(super) fn become_subreaper() -> io::Result<()> {
    // SAFETY: numbers only.
    check(unsafe { libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) }).map(drop)
}

/// Most heaps that the C library's allocator keeps, one for several threads each.
#[cfg(target_env = "gnu")]
pub(super) fn set_heaps_max(heaps: i32) {
    // SAFETY: numbers only. Refusal changes nothing.
    unsafe { libc::mallopt(libc::M_ARENA_MAX, heaps) };
}

/// Other C libraries have one heap anyway.
#[cfg(not(target_env = "gnu"))]
pub(super) fn set_heaps_max(_: i32) {}

/// Gives free pages of all heaps back to the system.
#[cfg(target_env = "gnu")]
pub(super) fn trim_heaps() {
    // SAFETY: a number only; it takes the heaps' locks itself.
    unsafe { libc::malloc_trim(0) };
}

/// Other C libraries give back by themselves, or cannot.
#[cfg(not(target_env = "gnu"))]
pub(super) fn trim_heaps() {}

/// Names this process, for `ps`.
pub(super) fn set_name(name: &std::ffi::CStr) {
    // SAFETY: the kernel reads at most 16 bytes of a string that outlives the call.
    unsafe { libc::prctl(libc::PR_SET_NAME, name.as_ptr(), 0, 0, 0) };
}

/// The kernel kills this process when the thread that forked it ends.
pub(super) fn die_with_parent() -> io::Result<()> {
    // SAFETY: numbers only.
    check(unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL, 0, 0, 0) }).map(drop)
}

/// No exec of this process or its descendants gains rights (set-uid files, file capabilities).
pub(super) fn refuse_new_privileges() -> io::Result<()> {
    // SAFETY: numbers only.
    check(unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) }).map(drop)
}

/// Gives the calling thread, and no other of this process, the effective id, group and groups of a
/// user. With the effective id go the effective capabilities. There is no way back: let the thread end.
pub(super) fn borrow_rights(uid: u32, gid: u32, groups: &[u32]) -> io::Result<()> {
    /// Leaves an id as it is.
    const KEEP: u32 = u32::MAX;
    let done = |result: libc::c_long| {
        if result < 0 {
            Err(io::Error::last_os_error())
        } else {
            Ok(())
        }
    };
    // The library's own functions would change all threads; the kernel's change the calling one.
    // SAFETY: the list outlives the call and is as long as said; the other calls take numbers only.
    unsafe {
        done(libc::syscall(
            libc::SYS_setgroups,
            groups.len(),
            groups.as_ptr(),
        ))?;
        done(libc::syscall(libc::SYS_setresgid, KEEP, gid, KEEP))?;
        done(libc::syscall(libc::SYS_setresuid, KEEP, uid, KEEP))?;
    }
    let now = (
        nix::unistd::geteuid().as_raw(),
        nix::unistd::getegid().as_raw(),
    );
    if now != (uid, gid) {
        return Err(io::Error::from_raw_os_error(libc::EPERM));
    }
    Ok(())
}

/// Becomes a user for good: groups, group, user, each checked and then verified; no capability is
/// left, nor any that an exec could give back.
pub(super) fn become_user(uid: u32, gid: u32, groups: &[u32]) -> io::Result<()> {
    let groups: Vec<Gid> = groups.iter().copied().map(Gid::from_raw).collect();
    let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
    if !uid.is_root() {
        drop_bounding_set();
    }
    nix::unistd::setgroups(&groups)?;
    nix::unistd::setresgid(gid, gid, gid)?;
    nix::unistd::setresuid(uid, uid, uid)?;
    let refused = || io::Error::from_raw_os_error(libc::EPERM);
    let (users, group_ids) = (nix::unistd::getresuid()?, nix::unistd::getresgid()?);
    let is_user = [users.real, users.effective, users.saved] == [uid; 3];
    let is_group = [group_ids.real, group_ids.effective, group_ids.saved] == [gid; 3];
    let mut now = nix::unistd::getgroups()?;
    let mut wanted = groups;
    now.sort_by_key(|group| group.as_raw());
    wanted.sort_by_key(|group| group.as_raw());
    wanted.dedup();
    now.dedup();
    if !is_user || !is_group || now != wanted {
        return Err(refused());
    }
    if !uid.is_root() {
        drop_capabilities()?;
        if nix::unistd::setuid(Uid::from_raw(0)).is_ok() {
            return Err(refused());
        }
    }
    Ok(())
}

/// Takes away what an exec could give. Refusals are passed over: `no_new_privs` forbids it as well.
fn drop_bounding_set() {
    /// The kernel has 41 of at most 64.
    const LAST: libc::c_ulong = 63;
    for capability in 0..=LAST {
        // SAFETY: numbers only.
        unsafe { libc::prctl(libc::PR_CAPBSET_DROP, capability, 0, 0, 0) };
    }
}

/// Empties all three capability sets of this process, and with them the ambient one.
fn drop_capabilities() -> io::Result<()> {
    /// `_LINUX_CAPABILITY_VERSION_3`: two words to a set.
    const VERSION: u32 = 0x2008_0522;
    let header = [VERSION, 0];
    let sets = [0_u32; 6];
    // SAFETY: both have the sizes that this version is defined to have, and outlive the call.
    let result = unsafe { libc::syscall(libc::SYS_capset, header.as_ptr(), sets.as_ptr()) };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// Sets a limit of this process, and the limit of that limit; more than may be had becomes what
/// may be had.
pub(super) fn set_limit(resource: Resource, most: u64) -> io::Result<()> {
    let (_, hard) = getrlimit(resource)?;
    let most = most.min(hard);
    Ok(setrlimit(resource, most, most)?)
}

/// A new session and process group, without a terminal.
pub(super) fn new_session() -> io::Result<()> {
    // SAFETY: no arguments.
    check(unsafe { libc::setsid() }).map(drop)
}

/// Sets the file mode creation mask.
pub(super) fn set_umask(mask: u32) {
    // SAFETY: cannot fail.
    unsafe { libc::umask(mask) };
}

/// The process id of the parent.
pub(super) fn parent_id() -> i32 {
    // SAFETY: cannot fail.
    unsafe { libc::getppid() }
}

/// Blocks every signal and gives a descriptor that is readable when a child has changed.
pub(super) fn watch_children() -> io::Result<OwnedFd> {
    // SAFETY: the sets are initialised by the calls before they are read; the descriptor is ours.
    unsafe {
        let mut all = std::mem::zeroed::<libc::sigset_t>();
        libc::sigfillset(&raw mut all);
        check(libc::sigprocmask(
            libc::SIG_SETMASK,
            &raw const all,
            std::ptr::null_mut(),
        ))?;
        let mut children = std::mem::zeroed::<libc::sigset_t>();
        libc::sigemptyset(&raw mut children);
        libc::sigaddset(&raw mut children, libc::SIGCHLD);
        let flags = libc::SFD_CLOEXEC | libc::SFD_NONBLOCK;
        let fd = check(libc::signalfd(-1, &raw const children, flags))?;
        Ok(OwnedFd::from_raw_fd(fd))
    }
}

/// A write beyond the limit for the size of a file (`ulimit -f`) fails from now on with EFBIG; by default it
/// ends the process. Scripts have the default again: [`default_signals`].
pub(super) fn ignore_file_size_signal() {
    // SAFETY: sets no handler.
    unsafe { libc::signal(libc::SIGXFSZ, libc::SIG_IGN) };
}

/// Gives every signal its default action and blocks none: what a program may expect at its start.
pub(super) fn default_signals() {
    /// Highest signal number of Linux.
    const LAST_SIGNAL: i32 = 64;
    for signal in 1..=LAST_SIGNAL {
        // SAFETY: sets no handler; the numbers that cannot be set are refused.
        unsafe { libc::signal(signal, libc::SIG_DFL) };
    }
    // SAFETY: the set is initialised before it is read.
    unsafe {
        let mut none = std::mem::zeroed::<libc::sigset_t>();
        libc::sigemptyset(&raw mut none);
        libc::sigprocmask(libc::SIG_SETMASK, &raw const none, std::ptr::null_mut());
    }
}

/// Forks. The caller must have one thread only, so that the child may do anything.
pub(super) fn fork() -> io::Result<Forked> {
    // SAFETY: the shim starts no threads, so no lock can be held by one that is not copied.
    match check(unsafe { libc::fork() })? {
        0 => Ok(Forked::Child),
        pid => Ok(Forked::Parent(pid)),
    }
}

/// Becomes the program `args` begins with, a path when it has a slash, else looked up on the PATH
/// of `env`, which becomes its environment. Returns only on failure.
pub(super) fn exec(args: &[CString], env: &[CString]) -> io::Error {
    let pointers = |texts: &[CString]| -> Vec<*const libc::c_char> {
        let all = texts.iter().map(|text| text.as_ptr());
        all.chain([std::ptr::null()]).collect()
    };
    let (argv, envp) = (pointers(args), pointers(env));
    let name = args.first().map_or(&[][..], |name| name.as_bytes());
    let path = env
        .iter()
        .find_map(|text| text.as_bytes().strip_prefix(b"PATH="));
    let folders: Vec<&[u8]> = match path {
        _ if name.contains(&b'/') => vec![b""],
        // Empty ones would mean the working directory, which is the job's.
        Some(path) => path
            .split(|byte| *byte == b':')
            .filter(|dir| !dir.is_empty())
            .collect(),
        None => Vec::new(),
    };
    let mut worst = io::Error::from_raw_os_error(libc::ENOENT);
    for folder in folders {
        let mut file = folder.to_vec();
        if !folder.is_empty() {
            file.push(b'/');
        }
        file.extend_from_slice(name);
        let Ok(file) = CString::new(file) else {
            continue;
        };
        // SAFETY: all are null-terminated and outlive the call. Not `execvp`, since that would
        // feed a file without a `#!` line to the shell.
        unsafe { libc::execve(file.as_ptr(), argv.as_ptr(), envp.as_ptr()) };
        let error = io::Error::last_os_error();
        match error.raw_os_error() {
            Some(libc::ENOENT | libc::ENOTDIR) => {}
            Some(libc::EACCES) => worst = error,
            _ => return error,
        }
    }
    worst
}

/// Ends this process at once, running nothing of what the fork copied.
pub(super) fn exit_now(code: i32) -> ! {
    // SAFETY: does not return.
    unsafe { libc::_exit(code) }
}

/// Reaps one child if one has ended; does not wait.
pub(super) fn reap_one() -> Waited {
    let mut status = 0;
    // SAFETY: `status` outlives the call.
    let pid = unsafe { libc::waitpid(-1, &raw mut status, libc::WNOHANG) };
    match pid {
        0 => Waited::None,
        1.. if libc::WIFSIGNALED(status) => {
            Waited::Ended(pid, Exit::Signal(libc::WTERMSIG(status)))
        }
        1.. => Waited::Ended(pid, Exit::Code(libc::WEXITSTATUS(status))),
        _ => Waited::Childless,
    }
}

/// Sends a signal to one process. That it is gone already is no error.
pub(super) fn signal(pid: i32, signal: i32) {
    // SAFETY: numbers only; 0 and negative ids would mean groups.
    if pid > 0 {
        unsafe { libc::kill(pid, signal) };
    }
}

/// Sends a signal to a process group. That it is gone already is no error.
pub(super) fn signal_group(group: i32, signal: i32) {
    // SAFETY: numbers only; 0 and 1 would mean our own group and everything.
    if group > 1 {
        unsafe { libc::kill(-group, signal) };
    }
}

/// Waits until one of two descriptors can be read, at most `limit_ms` (negative: for ever).
/// Says which of them can.
pub(super) fn wait_readable(
    first: &impl AsRawFd,
    second: &impl AsRawFd,
    limit_ms: i32,
) -> io::Result<(bool, bool)> {
    let entry = |fd| libc::pollfd {
        fd,
        events: libc::POLLIN,
        revents: 0,
    };
    let mut entries = [entry(first.as_raw_fd()), entry(second.as_raw_fd())];
    // SAFETY: the array outlives the call and has two entries.
    check(unsafe { libc::poll(entries.as_mut_ptr(), 2, limit_ms) })?;
    Ok((entries[0].revents != 0, entries[1].revents != 0))
}

/// Asks for a lease of this kind on `fd`, or gives it back. A lease that somebody breaks is told by
/// SIGURG, which nobody minds, in place of SIGIO, which ends the process.
pub(super) fn set_lease(fd: RawFd, kind: libc::c_int) -> io::Result<()> {
    /// `include/uapi/asm-generic/fcntl.h`; the same on all architectures but two dead ones.
    const F_SETSIG: libc::c_int = 10;
    // SAFETY: numbers only; a bad `fd` is an error.
    unsafe {
        check(libc::fcntl(fd, F_SETSIG, libc::SIGURG))?;
        check(libc::fcntl(fd, libc::F_SETLEASE, kind)).map(drop)
    }
}

/// The machine's host name, as the kernel has it.
pub(super) fn host_name() -> io::Result<String> {
    /// POSIX's HOST_NAME_MAX of Linux is 64.
    const ROOM: usize = 256;
    let mut name = [0_u8; ROOM];
    // SAFETY: the buffer is as long as said; its last byte stays 0.
    check(unsafe { libc::gethostname(name.as_mut_ptr().cast(), ROOM - 1) })?;
    let end = name.iter().position(|byte| *byte == 0).unwrap_or(ROOM);
    Ok(String::from_utf8_lossy(&name[..end]).into_owned())
}
