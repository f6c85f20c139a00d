//! Job folders as they lie on disk: what is in one, whether it changed, what it contains, a
//! copy of it, and whether its owners and modes can be trusted.
//!
//! Links are never followed and nothing but plain files is opened, as the folder belongs to
//! somebody else; [`open_named`] is for what does not. Must never know what a job is or what its
//! files mean. Nothing of ours is renamed here: that verb lives in `disk`.

use std::ffi::OsStr;
use std::fmt;
use std::fs;
use std::io;
use std::io::Read;
use std::io::Write;
use std::os::fd::AsRawFd;
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::fs::MetadataExt;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::path::PathBuf;

use walkdir::WalkDir;

use crate::process;
use crate::process::User;
use crate::units::Timestamp;

mod open;
pub mod reach;

use open::open_beneath;
use open::open_plain;

/// Most bytes of one folder: a job is scripts and samples, not data. Above: refused.
pub const TREE_BYTES_MAX: u64 = 64 << 20;

/// Most entries of one folder; it is walked at each look. Above: refused.
pub const TREE_ITEMS_MAX: usize = 2_000;

/// Deepest entry below the folder. Above: refused.
pub const TREE_DEPTH_MAX: usize = 16;

/// Chunk in which files are hashed and copied.
const CHUNK_BYTES: usize = 64 << 10;

/// Mode bits that a copy keeps: whoever may read and execute, nobody may write.
const COPY_MODE: u32 = 0o555;

/// What an entry is; only the first two belong into a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A plain file.
    File,
    /// A folder.
    Dir,
    /// A symbolic link.
    Link,
    /// A FIFO, socket or device.
    Special,
}

/// One entry of a folder, as lstat sees it.
#[derive(Debug, Clone)]
pub struct Item {
    /// Relative to the folder, with `/`; empty for the folder itself.
    pub path: String,
    /// What it is.
    pub kind: Kind,
    /// Size in bytes.
    pub bytes: u64,
    /// Permission bits.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// How many names it has.
    pub links: u64,
    /// Device and inode: which object this is.
    pub identity: (u64, u64),
    /// Time of the last change of content, seconds and nanoseconds.
    pub mtime: (i64, i64),
    /// Time of the last change of content or of owner, mode, name: no tool can set it back.
    pub ctime: (i64, i64),
}

/// A folder at one look: sorted, bounded, without the entries of [`is_passing`].
#[derive(Debug, Clone)]
pub struct Tree {
    /// The folder itself and what is below it.
    pub items: Vec<Item>,
    /// Entries that could not be looked at, with the reason.
    pub unreadable: Vec<(String, String)>,
    /// Whether the walk ended at [`TREE_ITEMS_MAX`].
    pub overfull: bool,
}

/// Two folders with equal prints are the same for all that lstat can see.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Print {
    /// Of path, kind, size, times, inode, mode and owner of each entry.
    pub whole: u64,
    /// The same without times: changes when something grows or appears, not when it is touched.
    pub shape: u64,
}

/// Why a folder cannot be hashed or copied.
#[derive(Debug)]
pub enum Unusable {
    /// It changed meanwhile: look again later.
    Changed,
    /// This entry cannot be read: somebody has to act.
    Entry {
        /// Relative to the folder.
        path: String,
        /// What the operating system said.
        error: io::Error,
    },
    /// The copy cannot be written.
    Copy(io::Error),
}

/// Whether entries of this name come and go while people and tools work: hidden files, saved
/// and temporary copies, Python's cache. They are no part of a job.
#[must_use]
pub fn is_passing(name: &str) -> bool {
    name.starts_with('.')
        || name.starts_with('#')
        || name == "__pycache__"
        || ["~", ".tmp", ".part", ".swp"]
            .iter()
            .any(|end| name.ends_with(end))
}

/// Looks at a folder and all that is below it.
///
/// # Errors
/// What the operating system said of the folder itself; `NotFound` when it is gone.
pub fn walk(folder: &Path) -> io::Result<Tree> {
    let mut tree = Tree {
        items: Vec::new(),
        unreadable: Vec::new(),
        overfull: false,
    };
    let entries = WalkDir::new(folder)
        .follow_links(false)
        .follow_root_links(false)
        .max_depth(TREE_DEPTH_MAX + 1)
        .sort_by_file_name()
        .into_iter()
        .filter_entry(|entry| entry.depth() == 0 || !is_passing_os(entry.file_name()));
    for entry in entries {
        if tree.items.len() + tree.unreadable.len() > TREE_ITEMS_MAX {
            tree.overfull = true;
            break;
        }
        let entry = match entry {
            Ok(entry) => entry,
            Err(error) if tree.items.is_empty() => return Err(error.into()),
            Err(error) => {
                let path = error.path().unwrap_or(folder);
                let path = relative(folder, path).unwrap_or_default();
                let error = io::Error::from(error);
                if error.kind() != io::ErrorKind::NotFound {
                    tree.unreadable.push((path, error.to_string()));
                }
                continue;
            }
        };
        let Some(path) = relative(folder, entry.path()) else {
            let name = entry.path().to_string_lossy().into_owned();
            tree.unreadable
                .push((name, "its name is not UTF-8".to_owned()));
            continue;
        };
        match entry.metadata() {
            Ok(meta) if meta.is_symlink() => {
                let led = through_link(folder, &path);
                tree.items.push(led.unwrap_or_else(|| item(path, &meta)));
            }
            Ok(meta) => tree.items.push(item(path, &meta)),
            Err(error) => {
                let error = io::Error::from(error);
                if entry.depth() == 0 {
                    return Err(error);
                }
                if error.kind() != io::ErrorKind::NotFound {
                    tree.unreadable.push((path, error.to_string()));
                }
            }
        }
    }
    Ok(tree)
}

fn is_passing_os(name: &OsStr) -> bool {
    is_passing(&name.to_string_lossy())
}

fn relative(folder: &Path, path: &Path) -> Option<String> {
    path.strip_prefix(folder).ok()?.to_str().map(str::to_owned)
}

fn item(path: String, meta: &fs::Metadata) -> Item {
    let kind = meta.file_type();
    Item {
        path,
        kind: if kind.is_file() {
            Kind::File
        } else if kind.is_dir() {
            Kind::Dir
        } else if kind.is_symlink() {
            Kind::Link
        } else {
            Kind::Special
        },
        bytes: if kind.is_file() { meta.len() } else { 0 },
        mode: meta.mode() & 0o7777,
        uid: meta.uid(),
        gid: meta.gid(),
        links: meta.nlink(),
        identity: (meta.dev(), meta.ino()),
        mtime: (meta.mtime(), meta.mtime_nsec()),
        ctime: (meta.ctime(), meta.ctime_nsec()),
    }
}

/// The plain file inside `folder` that the link at `path` leads to: so a Kubernetes ConfigMap is laid out,
/// whose files are links into a hidden folder beside them. Who may write a folder on the way may choose
/// the file, so those count for its mode and its owner. `None`: it leads elsewhere.
fn through_link(folder: &Path, path: &str) -> Option<Item> {
    let (file, meta) = open_beneath(folder, Path::new(path)).ok()?;
    let real = fs::read_link(format!("/proc/self/fd/{}", file.as_raw_fd())).ok()?;
    let folder = fs::canonicalize(folder).ok()?;
    let mut item = item(path.to_owned(), &meta);
    let owner = item.uid;
    for dir in real.ancestors().skip(1).take_while(|dir| **dir != folder) {
        let meta = fs::symlink_metadata(dir)
            .ok()
            .filter(|_| dir.starts_with(&folder))?;
        item.mode |= meta.mode() & 0o022;
        if ![0, owner].contains(&meta.uid()) {
            item.uid = meta.uid();
        }
    }
    Some(item)
}

/// Looks at one entry, not following a link.
///
/// # Errors
/// What the operating system said.
pub fn look(path: &Path) -> io::Result<Item> {
    Ok(item(String::new(), &fs::symlink_metadata(path)?))
}

/// Looks at an entry of a job's folder, as [`walk`] does.
///
/// # Errors
/// What the operating system said.
pub fn look_beneath(folder: &Path, path: &str) -> io::Result<Item> {
    let item = look(&folder.join(path))?;
    let led = (item.kind == Kind::Link).then(|| through_link(folder, path));
    Ok(led.flatten().unwrap_or(item))
}

impl Tree {
    /// A folder that is there and cannot be looked at, for this reason.
    #[must_use]
    pub fn unreadable(reason: String) -> Self {
        Self {
            items: Vec::new(),
            unreadable: vec![(String::new(), reason)],
            overfull: false,
        }
    }

    /// Who owns the folder.
    #[must_use]
    pub fn owner(&self) -> u32 {
        self.items.first().map_or(0, |item| item.uid)
    }

    /// The folder's print.
    #[must_use]
    pub fn print(&self) -> Print {
        let mut whole = Hash64::new();
        let mut shape = Hash64::new();
        for item in &self.items {
            for hash in [&mut whole, &mut shape] {
                hash.text(&item.path);
                hash.number(item.kind as u64);
                hash.number(item.bytes);
                hash.number(u64::from(item.mode));
                hash.number(u64::from(item.uid));
            }
            whole.number(item.identity.0);
            whole.number(item.identity.1);
            for part in [item.mtime.0, item.mtime.1, item.ctime.0, item.ctime.1] {
                whole.number(part.cast_unsigned());
            }
        }
        for (path, reason) in &self.unreadable {
            for hash in [&mut whole, &mut shape] {
                hash.text(path);
                hash.text(reason);
            }
        }
        Print {
            whole: whole.value,
            shape: shape.value,
        }
    }

    /// When anything in it last changed, by the file system's clock.
    #[must_use]
    pub fn newest_change(&self) -> Timestamp {
        let (s, ns) = self
            .items
            .iter()
            .map(|item| item.ctime)
            .max()
            .unwrap_or_default();
        Timestamp(s.saturating_mul(1000).saturating_add(ns / 1_000_000))
    }

    /// What keeps it from being a job, entry by entry, whoever owns it: strange kinds, sizes, modes. Only
    /// what everybody may write is refused, so that a umask of 002 does no harm.
    #[must_use]
    pub fn strange(&self) -> Vec<(String, String)> {
        let mut found = self
            .unreadable
            .iter()
            .map(|(path, reason)| (path.clone(), format!("cannot be read ({reason})")))
            .collect::<Vec<_>>();
        for item in &self.items {
            if let Some(reason) = strange_item(item) {
                found.push((item.path.clone(), reason));
            }
        }
        let bytes: u64 = self.items.iter().map(|item| item.bytes).sum();
        if bytes > TREE_BYTES_MAX {
            found.push((
                String::new(),
                format!(
                    "holds {}; a job folder may hold {}: keep data elsewhere",
                    crate::units::show_bytes(bytes),
                    crate::units::show_bytes(TREE_BYTES_MAX)
                ),
            ));
        }
        if self.overfull {
            found.push((
                String::new(),
                format!("holds more than {TREE_ITEMS_MAX} files; keep data elsewhere"),
            ));
        }
        found
    }

    /// The content as 16 hexadecimal digits: `owner`, whose rights it has, paths, what is executable,
    /// and every byte; read with the rights of `reader`.
    ///
    /// FNV-1a with 64 bits: stable for ever in ten lines, and only equality matters here. Whoever
    /// forges a collision hides an edit of their own job. Two CRC-32 would be no better than one:
    /// they differ by a constant for texts of the same length.
    ///
    /// # Errors
    /// [`Unusable`], naming the entry.
    pub fn content(&self, folder: &Path, owner: u32, reader: &User) -> Result<String, Unusable> {
        let mut hash = Hash64::new();
        hash.number(owner.into());
        for item in &self.items {
            hash.text(&item.path);
            hash.number(item.kind as u64);
            if item.kind == Kind::File {
                hash.number(u64::from(item.mode & 0o111 != 0));
                hash.number(item.bytes);
                each_chunk(folder, item, reader, |chunk| {
                    hash.bytes(chunk);
                    Ok(())
                })?;
            }
        }
        Ok(format!("{:016x}", hash.value))
    }

    /// Copies the folder, which is read with the rights of `reader`, to `to`, which must not exist and is
    /// written with our own; modes are kept without the write bits.
    ///
    /// # Errors
    /// [`Unusable`]; what was copied so far stays.
    pub fn copy(&self, folder: &Path, reader: &User, to: &Path) -> Result<(), Unusable> {
        for item in &self.items {
            let target = to.join(&item.path);
            match item.kind {
                Kind::Dir => fs::DirBuilder::new()
                    .mode(0o700)
                    .create(if item.path.is_empty() { to } else { &target })
                    .map_err(Unusable::Copy)?,
                Kind::File => {
                    let mut file = fs::File::options()
                        .write(true)
                        .create_new(true)
                        .mode(0o600)
                        .open(&target)
                        .map_err(Unusable::Copy)?;
                    each_chunk(folder, item, reader, |chunk| {
                        file.write_all(chunk).map_err(Unusable::Copy)
                    })?;
                    // The owner may always read: the owner of the copy is the daemon.
                    let mode = item.mode & COPY_MODE | 0o400;
                    file.set_permissions(fs::Permissions::from_mode(mode))
                        .map_err(Unusable::Copy)?;
                }
                Kind::Link | Kind::Special => return Err(Unusable::Changed),
            }
        }
        // Last, from below: a folder without write bits takes no more files.
        for item in self.items.iter().rev().filter(|i| i.kind == Kind::Dir) {
            let mode = fs::Permissions::from_mode(item.mode & COPY_MODE | 0o500);
            let path = if item.path.is_empty() {
                to.to_path_buf()
            } else {
                to.join(&item.path)
            };
            fs::set_permissions(path, mode).map_err(Unusable::Copy)?;
        }
        Ok(())
    }
}

fn strange_item(item: &Item) -> Option<String> {
    match item.kind {
        Kind::Link => {
            return Some(
                "is a symbolic link to no file inside this folder; put the file itself here"
                    .to_owned(),
            );
        }
        Kind::Special => {
            return Some("is a FIFO, a socket or a device; only files and folders here".to_owned());
        }
        Kind::File | Kind::Dir => {}
    }
    if item.path.split('/').count() > TREE_DEPTH_MAX {
        return Some(format!("lies more than {TREE_DEPTH_MAX} folders deep"));
    }
    if item.mode & 0o002 != 0 {
        return Some(format!(
            "may be written by everybody (mode {:04o}); run chmod o-w",
            item.mode
        ));
    }
    None
}

fn each_chunk(
    folder: &Path,
    item: &Item,
    reader: &User,
    mut take: impl FnMut(&[u8]) -> Result<(), Unusable>,
) -> Result<(), Unusable> {
    let unusable = |error: io::Error| match error.kind() {
        io::ErrorKind::NotFound => Unusable::Changed,
        _ => Unusable::Entry {
            path: item.path.clone(),
            error,
        },
    };
    let (file, meta) = process::as_user(reader, || open_beneath(folder, Path::new(&item.path)))
        .and_then(|opened| opened)
        .map_err(unusable)?;
    if (meta.dev(), meta.ino()) != item.identity || meta.len() != item.bytes {
        return Err(Unusable::Changed);
    }
    let mut left = item.bytes;
    let mut file = file.take(item.bytes);
    let mut buffer = vec![0_u8; CHUNK_BYTES.min(usize::try_from(left).unwrap_or(CHUNK_BYTES))];
    while left > 0 {
        match file.read(&mut buffer) {
            Ok(0) => return Err(Unusable::Changed),
            Ok(n) => {
                take(&buffer[..n])?;
                left -= n as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(unusable(error)),
        }
    }
    Ok(())
}

/// Whether a folder is on a file system that takes nothing: mounted for reading only, or made so by the
/// kernel after an error.
#[must_use]
pub fn is_read_only(folder: &Path) -> bool {
    rustix::fs::access(folder, rustix::fs::Access::WRITE_OK) == Err(rustix::io::Errno::ROFS)
}

/// Reads a whole plain file, refusing links, FIFOs, devices and more than `max` bytes.
///
/// # Errors
/// What the operating system said, or words of our own for the refusals.
pub fn read_plain(path: &Path, max: u64) -> io::Result<Vec<u8>> {
    if fs::symlink_metadata(path)?.file_type().is_symlink() {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "is a symbolic link",
        ));
    }
    read_all(open_plain(path)?, max)
}

/// Reads a whole plain file of a job's folder, also through links that stay inside it.
///
/// # Errors
/// As [`read_plain`].
pub fn read_beneath(folder: &Path, path: &Path, max: u64) -> io::Result<Vec<u8>> {
    read_all(open_beneath(folder, path)?, max)
}

fn read_all((file, meta): (fs::File, fs::Metadata), max: u64) -> io::Result<Vec<u8>> {
    let too_large = || {
        let limit = crate::units::show_bytes(max);
        io::Error::new(
            io::ErrorKind::InvalidInput,
            format!("is larger than {limit}"),
        )
    };
    if meta.len() > max {
        return Err(too_large());
    }
    let mut bytes = Vec::new();
    file.take(max + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > max {
        return Err(too_large());
    }
    Ok(bytes)
}

/// Opens what a person named, to read it from its beginning: here a link is followed, and a FIFO
/// is as good as a file.
///
/// # Errors
/// What the operating system said; `IsADirectory` for a folder.
pub fn open_named(path: &Path) -> io::Result<impl Read + Send> {
    let file = fs::File::open(path)?;
    if file.metadata()?.is_dir() {
        return Err(io::ErrorKind::IsADirectory.into());
    }
    Ok(file)
}

/// Reads all of what a person named, opened as by [`open_named`], refusing more than `max` bytes.
///
/// # Errors
/// As [`open_named`], or words of our own when it is larger.
pub fn read_named(path: &Path, max: u64) -> io::Result<Vec<u8>> {
    let file = fs::File::open(path)?;
    let meta = file.metadata()?;
    if meta.is_dir() {
        return Err(io::ErrorKind::IsADirectory.into());
    }
    read_all((file, meta), max)
}

/// Makes a new file; the mode is narrowed by the umask.
///
/// # Errors
/// What the operating system said; `AlreadyExists` when there is one.
pub fn make_file(path: &Path, text: &str, mode: u32) -> io::Result<()> {
    fs::File::options()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(path)?
        .write_all(text.as_bytes())
}

/// Removes a folder and all in it, also where write bits are missing; a missing one is fine.
///
/// # Errors
/// What the operating system said.
pub fn remove_tree(path: &Path) -> io::Result<()> {
    for entry in WalkDir::new(path).follow_links(false) {
        match entry {
            Ok(entry) if entry.file_type().is_dir() => {
                fs::set_permissions(entry.path(), fs::Permissions::from_mode(0o700))?;
            }
            Ok(_) => {}
            Err(error) if error.depth() == 0 => {
                let error = io::Error::from(error);
                return match error.kind() {
                    io::ErrorKind::NotFound => Ok(()),
                    _ => Err(error),
                };
            }
            Err(error) => return Err(error.into()),
        }
    }
    fs::remove_dir_all(path)
}

/// The names in a folder, sorted, whatever they are; those that are not UTF-8 with replacement characters.
///
/// # Errors
/// What the operating system said.
pub fn names(dir: &Path) -> io::Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(dir)? {
        names.push(entry?.file_name().to_string_lossy().into_owned());
    }
    names.sort();
    Ok(names)
}

/// Where a program lies, looked for as execvp does it in the list `path`.
#[must_use]
pub fn find_program(name: &str, path: &OsStr) -> Option<PathBuf> {
    std::env::split_paths(path)
        .map(|dir| dir.join(name))
        .find(|file| {
            fs::metadata(file).is_ok_and(|meta| meta.is_file() && meta.mode() & 0o111 != 0)
        })
}

/// A path without links.
///
/// # Errors
/// What the operating system said.
pub fn real_path(path: &Path) -> io::Result<PathBuf> {
    fs::canonicalize(path)
}

/// Lets a group, and besides its owner nobody else, read a copy that [`Tree::copy`] made, and
/// execute of it what the owner may.
///
/// # Errors
/// What the operating system said.
pub fn share_copy(copy: &Path, gid: u32) -> io::Result<()> {
    for entry in WalkDir::new(copy).follow_links(false) {
        let entry = entry?;
        let of_owner = entry.metadata()?.mode() & 0o500;
        std::os::unix::fs::lchown(entry.path(), None, Some(gid))?;
        let mode = of_owner | of_owner >> 3;
        fs::set_permissions(entry.path(), fs::Permissions::from_mode(mode))?;
    }
    Ok(())
}

/// FNV-1a, 64 bits: offset basis and prime as in its reference (Fowler, Noll, Vo).
#[derive(Debug)]
struct Hash64 {
    value: u64,
}

impl Hash64 {
    const fn new() -> Self {
        Self {
            value: 0xcbf2_9ce4_8422_2325,
        }
    }

    fn bytes(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.value = (self.value ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
    }

    fn number(&mut self, number: u64) {
        self.bytes(&number.to_le_bytes());
    }

    /// With its length, so that two texts never look like another two.
    fn text(&mut self, text: &str) {
        self.number(text.len() as u64);
        self.bytes(text.as_bytes());
    }
}

impl fmt::Display for Unusable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Changed => f.write_str("changed while it was read"),
            Self::Entry { path, error } => write!(f, "{path} cannot be read ({error})"),
            Self::Copy(error) => write!(f, "cannot be copied ({error})"),
        }
    }
}

impl std::error::Error for Unusable {}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::*;

    fn folder() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        make_file(&dir.path().join("job.toml"), "every = '1s'", 0o644).unwrap();
        fs::create_dir(dir.path().join("lib")).unwrap();
        make_file(&dir.path().join("lib/a.sh"), "echo a", 0o755).unwrap();
        dir
    }

    #[test]
    fn the_hash_is_the_published_one() {
        // Vectors of FNV-1a 64: "", "a", "foobar".
        for (text, value) in [
            ("", 0xcbf2_9ce4_8422_2325),
            ("a", 0xaf63_dc4c_8601_ec8c),
            ("foobar", 0x8594_4171_f739_67e8),
        ] {
            let mut hash = Hash64::new();
            hash.bytes(text.as_bytes());
            assert_eq!(hash.value, value, "{text}");
        }
    }

    #[test]
    fn a_touch_changes_the_print_and_not_the_content() {
        let dir = folder();
        let before = walk(dir.path()).unwrap();
        let later = fs::FileTimes::new().set_modified(std::time::SystemTime::UNIX_EPOCH);
        fs::File::options()
            .write(true)
            .open(dir.path().join("job.toml"))
            .unwrap()
            .set_times(later)
            .unwrap();
        let after = walk(dir.path()).unwrap();
        assert_ne!(before.print().whole, after.print().whole);
        assert_eq!(before.print().shape, after.print().shape);
        assert_eq!(
            before.content(dir.path(), 0, &User::own()).unwrap(),
            after.content(dir.path(), 0, &User::own()).unwrap()
        );
    }

    #[test]
    fn making_a_file_executable_changes_the_content() {
        let dir = folder();
        let before = walk(dir.path())
            .unwrap()
            .content(dir.path(), 0, &User::own())
            .unwrap();
        let file = dir.path().join("job.toml");
        fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).unwrap();
        assert_ne!(
            before,
            walk(dir.path())
                .unwrap()
                .content(dir.path(), 0, &User::own())
                .unwrap()
        );
    }

    #[test]
    fn a_copy_has_the_same_content_and_no_write_bits() {
        let dir = folder();
        fs::write(dir.path().join(".job.toml.swp"), "x").unwrap();
        let tree = walk(dir.path()).unwrap();
        let to = tempfile::tempdir().unwrap();
        let copy = to.path().join("copy");
        tree.copy(dir.path(), &User::own(), &copy).unwrap();
        let copied = walk(&copy).unwrap();
        assert_eq!(
            tree.content(dir.path(), 0, &User::own()).unwrap(),
            copied.content(&copy, 0, &User::own()).unwrap()
        );
        assert!(copied.items.iter().all(|item| item.mode & 0o222 == 0));
        assert!(!copy.join(".job.toml.swp").exists());
        remove_tree(&copy).unwrap();
        assert!(!copy.exists());
        remove_tree(&copy).unwrap();
    }

    #[test]
    fn a_file_that_was_replaced_after_the_look_is_noticed() {
        let dir = folder();
        let tree = walk(dir.path()).unwrap();
        fs::write(dir.path().join("job.toml"), "longer than before").unwrap();
        assert!(matches!(
            tree.content(dir.path(), 0, &User::own()),
            Err(Unusable::Changed)
        ));
        fs::remove_file(dir.path().join("job.toml")).unwrap();
        assert!(matches!(
            tree.content(dir.path(), 0, &User::own()),
            Err(Unusable::Changed)
        ));
    }

    #[test]
    fn links_sockets_and_open_modes_are_refused_with_words() {
        let dir = folder();
        assert_eq!(walk(dir.path()).unwrap().strange(), []);
        std::os::unix::fs::symlink("/etc/passwd", dir.path().join("link")).unwrap();
        let _socket = std::os::unix::net::UnixListener::bind(dir.path().join("sock")).unwrap();
        for (name, mode) in [("lib/a.sh", 0o757), ("job.toml", 0o664)] {
            fs::set_permissions(dir.path().join(name), fs::Permissions::from_mode(mode)).unwrap();
        }
        let found = walk(dir.path()).unwrap().strange();
        let paths: Vec<&str> = found.iter().map(|(path, _)| path.as_str()).collect();
        assert_eq!(paths, ["lib/a.sh", "link", "sock"], "{found:?}");
    }

    #[test]
    fn large_and_crowded_folders_are_refused_without_reading_them() {
        let dir = tempfile::tempdir().unwrap();
        fs::File::create(dir.path().join("big"))
            .unwrap()
            .set_len(TREE_BYTES_MAX + 1)
            .unwrap();
        let found = walk(dir.path()).unwrap().strange();
        assert!(found[0].1.contains("64.0 MiB"), "{found:?}");
        let crowd = tempfile::tempdir().unwrap();
        for n in 0..=TREE_ITEMS_MAX {
            fs::File::create(crowd.path().join(n.to_string())).unwrap();
        }
        let tree = walk(crowd.path()).unwrap();
        assert!(tree.items.len() <= TREE_ITEMS_MAX + 1);
        assert!(tree.strange()[0].1.contains("2000"));
    }

    #[test]
    fn only_plain_files_of_bounded_size_are_read() {
        let dir = folder();
        assert!(read_plain(dir.path(), 10).is_err());
        let file = dir.path().join("job.toml");
        assert_eq!(read_plain(&file, 12).unwrap(), b"every = '1s'");
        assert!(
            read_plain(&file, 11)
                .unwrap_err()
                .to_string()
                .contains("larger")
        );
        std::os::unix::fs::symlink(&file, dir.path().join("link")).unwrap();
        assert!(read_plain(&dir.path().join("link"), 100).is_err());
    }
}
