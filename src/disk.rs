//! The disk: the few verbs by which this program writes what must last.
//!
//! The only file that renames or fsyncs. Everything durable goes through [`Disk`], so a test
//! can stand in for the power switch. Must never know what the bytes mean.
//!
//! Assumptions about the medium: a successful `fdatasync` means the bytes survive a power cut;
//! a rename is atomic; after a failed sync nothing about that file is believed any more.

use std::fmt;
use std::fs;
use std::fs::File;
use std::io;
use std::io::Read;
use std::io::Write;
use std::os::fd::AsFd;
use std::os::fd::AsRawFd;
use std::os::fd::OwnedFd;
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::fs::MetadataExt;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::PoisonError;

use fs2::FileExt as LockExt;
use rustix::fs::CWD;
use rustix::fs::Mode;
use rustix::fs::OFlags;
use rustix::fs::ResolveFlags;
use rustix::io::Errno;

mod failpoints;
mod file;
#[cfg(test)]
pub(crate) mod mem;
mod plain;

use failpoints::Kind;
use file::OsFile;
pub use plain::is_no_file;
use plain::not_a_file;
use plain::open_plain;

/// How the name of a file begins that [`Disk::replace`] has not finished; one that is left after the
/// death of its process is of no use.
pub const UNFINISHED: &str = ".new-";

/// How [`Disk::open`] opens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Open {
    /// For reading; the file must exist.
    Read,
    /// For reading and writing; the file must exist.
    Write,
    /// As `Write`, of what a person named: links are followed, where the others refuse them.
    Named,
    /// For reading and writing; the file must not exist. Not durable before [`Disk::sync_dir`].
    CreateNew,
}

/// Whether a [`Disk::replace`] survives a power cut or only the death of the process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Replace {
    /// fsync, rename, fsync of the folder.
    Durable,
    /// Rename only: readers never see half a file, a power cut may lose it.
    Quick,
}

/// One entry of a folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// File name; names that are not UTF-8 are left out of listings, as we never make any.
    pub name: String,
    /// Size in bytes.
    pub bytes: u64,
    /// What it is (links are not followed).
    pub kind: EntryKind,
}

/// What an [`Entry`] is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EntryKind {
    /// A plain file.
    File,
    /// A folder.
    Folder,
    /// A link, FIFO, socket or device.
    Other,
}

/// The room of a file system.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Room {
    /// Bytes that an unprivileged writer may still use.
    pub free: u64,
    /// Bytes of all of it.
    pub total: u64,
}

impl Room {
    /// Without an end that is known.
    pub const UNKNOWN: Self = Self {
        free: u64::MAX,
        total: u64::MAX,
    };
}

/// An open file, addressed by offset.
pub trait DiskFile: Send + Sync + fmt::Debug {
    /// Writes all of `bytes` at `offset`. After an error any prefix may have been written.
    ///
    /// # Errors
    /// What the operating system said (ENOSPC, EIO, EDQUOT, EROFS, EFBIG and so on).
    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()>;
    /// [`DiskFile::write_at`] of all of `pieces`, one behind the other.
    ///
    /// # Errors
    /// As [`DiskFile::write_at`].
    fn write_pieces_at(&self, offset: u64, pieces: &[&[u8]]) -> io::Result<()>;
    /// Reads up to `into.len()` bytes at `offset`; fewer only at the end of the file.
    ///
    /// # Errors
    /// What the operating system said.
    fn read_at(&self, offset: u64, into: &mut [u8]) -> io::Result<usize>;
    /// Makes written bytes durable (fdatasync). After an error the file must not be trusted again.
    ///
    /// # Errors
    /// What the operating system said.
    fn sync(&self) -> io::Result<()>;
    /// Cuts the file to `bytes`.
    ///
    /// # Errors
    /// What the operating system said.
    fn truncate(&self, bytes: u64) -> io::Result<()>;
    /// Current size in bytes.
    ///
    /// # Errors
    /// What the operating system said.
    fn size(&self) -> io::Result<u64>;
    /// Reserves blocks up to `bytes`, so that a full disk shows now and not later.
    ///
    /// # Errors
    /// ENOSPC, or `Unsupported` where the file system cannot.
    fn reserve(&self, bytes: u64) -> io::Result<()>;
    /// Takes the lock on the file, which this handle then has until it is dropped; `false`: another handle has
    /// it, in this process or in another. It holds off only those that ask for it.
    ///
    /// # Errors
    /// What the operating system said; some network file systems know no locks.
    fn try_lock(&self) -> io::Result<bool>;
    /// Device and inode: no other file has these as long as this handle is open.
    ///
    /// # Errors
    /// What the operating system said.
    fn id(&self) -> io::Result<(u64, u64)>;
}

/// A lock on a file, held until dropped or until the process ends.
#[derive(Debug)]
pub struct Lock(#[expect(dead_code, reason = "held for its lock")] File);

/// The verbs. See the module's header for what is assumed of the medium. Files are plain ones: a link,
/// FIFO or folder in the place of one is neither followed nor waited for, but an error.
pub trait Disk: Send + Sync + fmt::Debug {
    /// Opens a file.
    ///
    /// # Errors
    /// What the operating system said; one that [`is_no_file`] tells.
    fn open(&self, path: &Path, how: Open) -> io::Result<Arc<dyn DiskFile>>;
    /// Makes `path` hold `bytes`: temporary file in the same folder, then rename.
    ///
    /// # Errors
    /// What the operating system said; the former content then stays.
    fn replace(&self, path: &Path, bytes: &[u8], how: Replace) -> io::Result<()>;
    /// Reads a whole file, refusing more than `max` bytes.
    ///
    /// # Errors
    /// What the operating system said, `InvalidData` when it is larger; one that [`is_no_file`] tells.
    fn read(&self, path: &Path, max: u64) -> io::Result<Vec<u8>>;
    /// The entries of a folder, sorted by name.
    ///
    /// # Errors
    /// What the operating system said.
    fn list(&self, dir: &Path) -> io::Result<Vec<Entry>>;
    /// Makes a folder and those above it; existing ones are fine.
    ///
    /// # Errors
    /// What the operating system said.
    fn make_dir(&self, dir: &Path) -> io::Result<()>;
    /// Removes a file.
    ///
    /// # Errors
    /// What the operating system said.
    fn remove(&self, path: &Path) -> io::Result<()>;
    /// Makes creations and removals in a folder durable.
    ///
    /// # Errors
    /// What the operating system said.
    fn sync_dir(&self, dir: &Path) -> io::Result<()>;
    /// Renames within one file system; the target must not be a non-empty folder.
    ///
    /// # Errors
    /// What the operating system said.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// How large the file system of `dir` is, and how much of it is free.
    ///
    /// # Errors
    /// What the operating system said.
    fn room(&self, dir: &Path) -> io::Result<Room>;
}

/// The operating system's disk.
#[derive(Debug, Clone, Copy, Default)]
pub struct OsDisk;

/// Mode of the files that hold events: they may hold secrets that a script printed.
const FILE_MODE: u32 = 0o600;

/// Mode of a folder that others may pass through on the way to what is theirs, and not look into.
pub const PASS_MODE: u32 = 0o711;

impl Disk for OsDisk {
    fn open(&self, path: &Path, how: Open) -> io::Result<Arc<dyn DiskFile>> {
        let kind = Kind::of(path);
        let mut options = File::options();
        options.read(true).mode(FILE_MODE);
        let file = match how {
            Open::Read => open_plain(&mut options, path),
            Open::Write => open_plain(options.write(true), path),
            Open::Named => options.write(true).open(path),
            Open::CreateNew => {
                options.write(true).create_new(true);
                kind.step("create", || options.open(path))
            }
        };
        Ok(Arc::new(OsFile(file?, kind)))
    }

    fn replace(&self, path: &Path, bytes: &[u8], how: Replace) -> io::Result<()> {
        let dir = parent(path)?;
        let kind = Kind::of(path);
        let mut fresh = tempfile::Builder::new()
            .prefix(UNFINISHED)
            .tempfile_in(dir)?;
        kind.write(bytes, |bytes| fresh.write_all(bytes))?;
        if how == Replace::Durable {
            kind.step("sync", || fresh.as_file().sync_all())?;
        }
        kind.step("rename", || {
            fresh.persist(path).map_err(|error| error.error)
        })?;
        if how == Replace::Durable {
            self.sync_dir(dir)?;
        }
        Ok(())
    }

    fn read(&self, path: &Path, max: u64) -> io::Result<Vec<u8>> {
        read_all(open_plain(File::options().read(true), path)?, path, max)
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<Entry>> {
        let mut entries = Vec::new();
        for entry in fs::read_dir(dir)? {
            let entry = entry?;
            let Ok(name) = entry.file_name().into_string() else {
                continue;
            };
            match entry.metadata() {
                Ok(meta) => entries.push(Entry {
                    name,
                    bytes: meta.len(),
                    kind: match meta.file_type() {
                        kind if kind.is_file() => EntryKind::File,
                        kind if kind.is_dir() => EntryKind::Folder,
                        _ => EntryKind::Other,
                    },
                }),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        entries.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(entries)
    }

    fn make_dir(&self, dir: &Path) -> io::Result<()> {
        fs::create_dir_all(dir)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        Kind::of(path).step("remove", || fs::remove_file(path))
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        Kind::of(dir).step("sync", || File::open(dir)?.sync_all())
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        Kind::of(to).step("rename", || fs::rename(from, to))
    }

    fn room(&self, dir: &Path) -> io::Result<Room> {
        let stats = fs2::statvfs(dir)?;
        Ok(match stats.total_space() {
            // Some network file systems do not say.
            0 => Room::UNKNOWN,
            total => Room {
                free: stats.available_space(),
                total,
            },
        })
    }
}

/// Takes the lock on `path`, making the file when it is missing; `None` when another process holds it.
///
/// # Errors
/// What the operating system said.
pub fn lock(path: &Path) -> io::Result<Option<Lock>> {
    let mut options = File::options();
    options.create(true).truncate(false).write(true);
    exclusively(open_plain(options.mode(FILE_MODE), path)?)
}

/// Takes the lock on a folder itself, which outlives whatever is removed from it; `None` when
/// another process holds it.
///
/// # Errors
/// What the operating system said; network file systems may know no locks on folders.
pub fn lock_folder(dir: &Path) -> io::Result<Option<Lock>> {
    exclusively(File::open(dir)?)
}

fn exclusively(file: File) -> io::Result<Option<Lock>> {
    Ok(try_exclusively(&file)?.then(|| Lock(file)))
}

/// `flock(2)`; `false` when another handle has the lock.
fn try_exclusively(file: &File) -> io::Result<bool> {
    match LockExt::try_lock_exclusive(file) {
        Ok(()) => Ok(true),
        Err(error) if error.raw_os_error() == fs2::lock_contended_error().raw_os_error() => {
            Ok(false)
        }
        Err(error) => Err(error),
    }
}

/// A folder held open. A path into it is short whatever the folder's own length, which sockets
/// need: `sun_path` has 108 bytes.
#[derive(Debug)]
pub struct Folder(File);

impl Folder {
    /// Opens a folder.
    ///
    /// # Errors
    /// What the operating system said.
    pub fn open(dir: &Path) -> io::Result<Self> {
        Ok(Self(File::open(dir)?))
    }

    /// The way to `name` inside, good as long as this value lives. Needs `/proc`.
    #[must_use]
    pub fn reach(&self, name: &str) -> PathBuf {
        PathBuf::from(format!("/proc/self/fd/{}/{name}", self.0.as_raw_fd()))
    }
}

/// Sets the permission bits of a file that exists.
///
/// # Errors
/// What the operating system said.
pub fn set_mode(path: &Path, mode: u32) -> io::Result<()> {
    fs::set_permissions(path, fs::Permissions::from_mode(mode))
}

/// Makes a file that a group may read (`None`: our own), and nobody else: for what people look at. It
/// must not exist.
///
/// # Errors
/// What the operating system said.
pub fn create_shared(path: &Path, group: Option<u32>) -> io::Result<Arc<dyn DiskFile>> {
    let mut options = File::options();
    options.read(true).write(true).create_new(true).mode(0o640);
    let kind = Kind::of(path);
    let file = kind.step("create", || options.open(path))?;
    if group.is_some() {
        std::os::unix::fs::fchown(&file, None, group)?;
    }
    Ok(Arc::new(OsFile(file, kind)))
}

/// Makes a folder, and those above it, that a group may look into (`None`: our own), and nobody else; an
/// existing one is given to the group.
///
/// # Errors
/// What the operating system said.
pub fn make_shared_dir(dir: &Path, group: Option<u32>) -> io::Result<()> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o750)
        .create(dir)?;
    match group {
        None => Ok(()),
        Some(_) => std::os::unix::fs::lchown(dir, None, group),
    }
}

/// Makes a folder that nobody but its owner may look into: the user `uid` with the group `gid`, or (`None`)
/// ourselves, who are `uid` then. The folders above it are ours. What another user has in its place is
/// never given away, as it may hold what was planted for the next owner: it is set aside, as
/// `<name>.<uid of that user>` beside it. Returns where it is then.
///
/// # Errors
/// What the operating system said.
pub fn make_private_dir(dir: &Path, uid: u32, gid: Option<u32>) -> io::Result<Option<PathBuf>> {
    // Two runs of one job must not take each other's new folder for the former one.
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    fs::create_dir_all(parent(dir)?)?;
    let turn = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let aside = match stranger(dir, uid, gid)? {
        Some(stranger) => Some(set_aside(dir, stranger)?),
        None => None,
    };
    match fs::DirBuilder::new().mode(0o700).create(dir) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        made => made?,
    }
    give(dir, uid, gid)?;
    drop(turn);
    Ok(aside)
}

/// The user, other than that of [`make_private_dir`], whom a folder belongs to; `None`: it is that user's, or
/// is not there.
///
/// # Errors
/// What the operating system said.
pub fn stranger(dir: &Path, uid: u32, gid: Option<u32>) -> io::Result<Option<u32>> {
    let owner = match fs::metadata(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        meta => meta?.uid(),
    };
    if owner == uid {
        return Ok(None);
    }
    // Some file systems have one owner for all that is in them.
    let sample = tempfile::Builder::new()
        .prefix(UNFINISHED)
        .tempdir_in(parent(dir)?)?;
    give(sample.path(), uid, gid)?;
    let is_same = fs::metadata(sample.path())?.uid() == owner;
    Ok((!is_same).then_some(owner))
}

fn give(dir: &Path, uid: u32, gid: Option<u32>) -> io::Result<()> {
    match gid {
        // A link in its place, which only we could have made, would be given away, not what it points to.
        Some(gid) => std::os::unix::fs::lchown(dir, Some(uid), Some(gid)),
        None => Ok(()),
    }
}

/// Renames `dir`, which belongs to the user `owner`, to the first free name beside it.
fn set_aside(dir: &Path, owner: u32) -> io::Result<PathBuf> {
    let name = dir.file_name().unwrap_or_default();
    let mut count = 1_u64;
    loop {
        let mut aside = name.to_owned();
        aside.push(match count {
            1 => format!(".{owner}"),
            _ => format!(".{owner}.{count}"),
        });
        let aside = dir.with_file_name(aside);
        match fs::symlink_metadata(&aside) {
            Ok(_) => count += 1,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                fs::rename(dir, &aside)?;
                return Ok(aside);
            }
            Err(error) => return Err(error),
        }
    }
}

/// Makes `link` a symbolic link to `target`, a name in the same folder. Readers see the former
/// link or the new one; a power cut may lose the change.
///
/// # Errors
/// What the operating system said; the former link then stays.
pub fn link_latest(link: &Path, target: &str) -> io::Result<()> {
    let dir = parent(link)?;
    let fresh = tempfile::Builder::new()
        .prefix(UNFINISHED)
        .make_in(dir, |path| std::os::unix::fs::symlink(target, path))?;
    // Persisting is a rename; a failure removes the fresh link.
    fresh
        .into_temp_path()
        .persist(link)
        .map_err(|error| error.error)
}

/// What a symbolic link points to.
///
/// # Errors
/// What the operating system said.
pub fn link_target(link: &Path) -> io::Result<PathBuf> {
    fs::read_link(link)
}

/// Removes a folder and all that is in it, never what links in it point to; a link in its place
/// is refused.
///
/// # Errors
/// What the operating system said; a part may then be gone.
pub fn remove_tree(dir: &Path) -> io::Result<()> {
    if !fs::symlink_metadata(dir)?.is_dir() {
        return Err(io::Error::new(
            io::ErrorKind::NotADirectory,
            format!("{} is not a folder", dir.display()),
        ));
    }
    fs::remove_dir_all(dir)
}

fn parent(path: &Path) -> io::Result<&Path> {
    path.parent().ok_or_else(|| {
        io::Error::new(
            io::ErrorKind::InvalidInput,
            format!("{} has no folder", path.display()),
        )
    })
}

/// What tells one version of a file from another without reading it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stamp {
    identity: (u64, u64),
    bytes: u64,
    /// Changes with the content, and with the owner and the mode, which decide who can read it.
    ctime: (i64, i64),
    /// Permission bits.
    pub mode: u32,
}

/// Looks at a plain file, links followed as by [`open_by_name`]: certificates often lie behind some.
///
/// # Errors
/// What the operating system said; `InvalidInput` when it is a folder, a FIFO or a device.
pub fn stamp(path: &Path) -> io::Result<Stamp> {
    let meta = open_by_name(path, OFlags::PATH)?.metadata()?;
    if !meta.is_file() {
        return Err(not_a_file());
    }
    Ok(Stamp {
        identity: (meta.dev(), meta.ino()),
        bytes: meta.len(),
        ctime: (meta.ctime(), meta.ctime_nsec()),
        mode: meta.mode() & 0o7777,
    })
}

/// How often an open that a rename crossed is tried again at once.
const CROSSED_MAX: usize = 4;

/// `openat2(2)`, without a mode for what it would make.
///
/// # Errors
/// What the operating system said; `NOSYS` or `PERM` where it does not know the call.
pub fn openat2(
    at: impl AsFd,
    path: &Path,
    flags: OFlags,
    resolve: ResolveFlags,
) -> Result<OwnedFd, Errno> {
    let mut opened = Err(Errno::AGAIN);
    for _ in 0..CROSSED_MAX {
        opened = rustix::fs::openat2(&at, path, flags, Mode::empty(), resolve);
        if opened.as_ref().err() != Some(&Errno::AGAIN) {
            break;
        }
    }
    opened
}

/// Opens what somebody named: links are followed, but those of `/proc` are not. They lead wherever this
/// process has something open, past folders that are shut to the user with whose rights it opens.
/// Kernels before 5.6, and sandboxes that do not know `openat2`, follow those too.
///
/// # Errors
/// What the operating system said; `ELOOP` for a link of `/proc`.
pub fn open_by_name(path: &Path, flags: OFlags) -> io::Result<File> {
    let flags = flags | OFlags::CLOEXEC;
    let open = |path, flags| openat2(CWD, path, flags, ResolveFlags::NO_MAGICLINKS);
    let opened = match open(path, flags) {
        // A file system of the user's own may say so too.
        Err(Errno::NOSYS | Errno::PERM) if open(Path::new("/"), OFlags::PATH).is_err() => {
            rustix::fs::open(path, flags, Mode::empty())
        }
        opened => opened,
    };
    Ok(File::from(opened?))
}

/// Reads a whole plain file, opened by [`open_by_name`], refusing more than `max` bytes and what `/proc` says
/// of processes, which would be of this one. Never waits for somebody to write into a FIFO, whatever is put in
/// the file's place meanwhile.
///
/// # Errors
/// What the operating system said; `InvalidInput` when it is a folder, a FIFO, a device or a file of `/proc`,
/// `InvalidData` when it is larger.
pub fn read_plain(path: &Path, max: u64) -> io::Result<Vec<u8>> {
    let file = open_by_name(path, OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY)?;
    let is_of_proc = rustix::fs::fstatfs(&file)?.f_type == rustix::fs::PROC_SUPER_MAGIC;
    if is_of_proc || !file.metadata()?.is_file() {
        return Err(not_a_file());
    }
    read_all(file, path, max)
}

fn read_all(file: File, path: &Path, max: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    file.take(max + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > max {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            format!("{} is larger than {max} bytes", path.display()),
        ));
    }
    Ok(bytes)
}

/// Joins names to a folder, for the many places that name a file under the root.
#[must_use]
pub fn under(dir: &Path, names: &[&str]) -> PathBuf {
    let mut path = dir.to_path_buf();
    path.extend(names);
    path
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn links_are_followed_but_those_of_proc_are_not() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("key");
        fs::write(&file, "x").unwrap();
        let link = dir.path().join("link");
        std::os::unix::fs::symlink(&file, &link).unwrap();
        assert_eq!(read_plain(&link, 10).unwrap(), b"x");
        assert_eq!(stamp(&link).unwrap(), stamp(&file).unwrap());
        let open = File::open(&file).unwrap();
        let number = format!("/proc/self/fd/{}", open.as_raw_fd());
        // As somebody would hide it.
        let hidden = dir.path().join("hidden");
        std::os::unix::fs::symlink("/proc/self/cwd", &hidden).unwrap();
        for path in [
            Path::new("/proc/self/cwd/Cargo.toml"),
            Path::new("/proc/thread-self/cwd/Cargo.toml"),
            &hidden.join("Cargo.toml"),
            Path::new(&number),
        ] {
            assert!(fs::read(path).is_ok(), "{}", path.display());
            for refused in [
                read_plain(path, 1 << 20).err(),
                stamp(path).err(),
                open_by_name(path, OFlags::RDONLY).err(),
            ] {
                let errno = refused.and_then(|error| error.raw_os_error());
                assert_eq!(errno, Some(libc::ELOOP), "{}", path.display());
            }
        }
        let of_proc = read_plain(Path::new("/proc/self/status"), 1 << 20);
        assert_eq!(of_proc.unwrap_err().kind(), io::ErrorKind::InvalidInput);
    }

    #[test]
    fn only_what_a_person_named_is_opened_through_a_link_and_nothing_but_a_file_is() {
        let dir = tempfile::tempdir().unwrap();
        let [file, link, fifo] = ["file", "link", "fifo"].map(|name| dir.path().join(name));
        fs::write(&file, "x").unwrap();
        std::os::unix::fs::symlink(&file, &link).unwrap();
        rustix::fs::mknodat(CWD, &fifo, rustix::fs::FileType::Fifo, Mode::RWXU, 0).unwrap();
        assert!(OsDisk.open(&link, Open::Named).is_ok());
        for path in [&link, &fifo, dir.path()] {
            for refused in [
                OsDisk.open(path, Open::Read).err(),
                OsDisk.open(path, Open::Write).err(),
                OsDisk.read(path, 10).err(),
                lock(path).err(),
            ] {
                assert!(is_no_file(&refused.unwrap()), "{}", path.display());
            }
        }
    }

    #[test]
    fn a_folder_of_another_user_is_set_aside_whole_and_never_given_away() {
        let dir = tempfile::tempdir().unwrap();
        let data = dir.path().join("data");
        let own = fs::metadata(dir.path()).unwrap().uid();
        assert_eq!(make_private_dir(&data, own, None).unwrap(), None);
        fs::write(data.join("kept"), "x").unwrap();
        assert_eq!(make_private_dir(&data, own, None).unwrap(), None);
        assert!(data.join("kept").exists());
        if own != 0 {
            let skip = b"SKIP folders of others: needs root\n";
            drop(Write::write_all(&mut io::stdout(), skip));
            return;
        }
        let owner = |path: &Path| fs::metadata(path).unwrap().uid();
        for (round, (uid, aside)) in [(7, "data.0"), (0, "data.7"), (7, "data.0.2")]
            .into_iter()
            .enumerate()
        {
            let former = owner(&data);
            fs::write(data.join("round"), round.to_string()).unwrap();
            let gid = (uid != 0).then_some(uid);
            assert_eq!(stranger(&data, uid, gid).unwrap(), Some(former));
            let aside = dir.path().join(aside);
            assert_eq!(
                make_private_dir(&data, uid, gid).unwrap(),
                Some(aside.clone())
            );
            let kept = fs::read_to_string(aside.join("round")).unwrap();
            assert_eq!((kept, owner(&aside)), (round.to_string(), former));
            assert_eq!(
                (owner(&data), fs::read_dir(&data).unwrap().count()),
                (uid, 0)
            );
            assert_eq!(make_private_dir(&data, uid, gid).unwrap(), None);
        }
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 4);
    }
}
