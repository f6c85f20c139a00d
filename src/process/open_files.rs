//! How many files may be open at a time, connections and pipes among them: the daemon takes all that it
//! may have, its scripts get what they would have without it.
//!
//! Must never know what is open.

use std::io;
use std::sync::OnceLock;

use nix::sys::resource::Resource;
use nix::sys::resource::getrlimit;
use nix::sys::resource::setrlimit;

/// The soft limit before it was raised. Programs that call `select` break above 1,024, so it stays
/// as it was for scripts.
static USUAL: OnceLock<u64> = OnceLock::new();

/// Lets this process have as many files open as it may; gives that number.
///
/// # Errors
/// What the operating system said; the limit is as it was.
pub fn raise_open_files() -> io::Result<u64> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    USUAL.get_or_init(|| soft);
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
    Ok(hard)
}

/// How many files this process may have open now.
#[must_use]
pub fn open_files_max() -> u64 {
    // It can always be asked; should that change, the least that POSIX allows.
    getrlimit(Resource::RLIMIT_NOFILE).map_or(20, |(soft, _)| soft)
}

/// What scripts may have open when their job does not say it; `None`: as much as this process.
pub(super) fn usual() -> Option<u64> {
    USUAL.get().copied()
}

/// Sets what this process may have open; it may raise that again itself.
pub(super) fn set_usual(most: u64) -> io::Result<()> {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    Ok(setrlimit(Resource::RLIMIT_NOFILE, most.min(hard), hard)?)
}
