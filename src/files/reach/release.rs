//! Carrying out a release: only on the very file that was read, unchanged, inside its root.
//!
//! A file that goes is first renamed within its folder, and removed or moved when it has rested there:
//! a writer that had found it by its old name, and opens it only then, is seen, and the file gets its
//! name back. Where the system grants a lease, it says whether there is a writer.

use std::io;
use std::os::fd::AsFd;
use std::path::Path;
use std::path::PathBuf;

use rustix::fs::Access;
use rustix::fs::AtFlags;
use rustix::fs::OFlags;
use rustix::fs::RenameFlags;
use rustix::io::Errno;

use super::Base;
use super::Handle;
use super::meta_at;
use super::plain;
use crate::fileid::FileId;
use crate::fileid::Head;
use crate::fileid::Stamp;
use crate::process::LeaseKind;
use crate::process::lease;
use crate::queue::Action;

/// What it takes to put a name into a folder.
const WRITE_INTO: Access = Access::WRITE_OK.union(Access::EXEC_OK);

/// What is to be done, and to what.
#[derive(Debug, Clone)]
pub struct Order {
    /// What is to be done.
    pub action: Action,
    /// Where the file lies.
    pub path: PathBuf,
    /// Nothing outside of this folder is touched.
    pub root: PathBuf,
    /// The file that was read.
    pub id: FileId,
    /// How it begins.
    pub head: Head,
    /// What it was like when it had been read.
    pub stamp: Stamp,
    /// The name that it gets, in its folder, before it is removed or moved.
    pub trash: String,
    /// What its name gets at the end where another file has it.
    pub tag: String,
    /// Empty folders are removed strictly below this one.
    pub prune: Option<PathBuf>,
}

/// What became of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Done {
    /// It has its last name and is to rest there: give the order again in a second.
    Trashed,
    /// It was carried out, now or before a crash.
    Done,
    /// The file is not there.
    Gone,
    /// The file is another by now, or was changed: nothing was done.
    Changed,
    /// Not now: somebody has it open, or the disk does not answer.
    Later(String),
    /// Never, for this reason.
    Refused(String),
}

/// Carries `order` out. `forbidden` says of a folder, by where it really is, that nothing in it may
/// be touched. Blocks on the disk.
pub fn release(order: &Order, forbidden: impl Fn(&Path) -> bool) -> Done {
    match try_release(order, forbidden) {
        Ok(done) => done,
        Err(error) => match Errno::from_io_error(&error) {
            Some(Errno::NOENT) => Done::Gone,
            Some(Errno::LOOP | Errno::XDEV | Errno::NOTDIR) => {
                Done::Refused("a symbolic link or a file lies on the way to it".to_owned())
            }
            Some(Errno::ACCESS | Errno::PERM | Errno::ROFS) => Done::Refused(error.to_string()),
            _ if error.kind() == io::ErrorKind::InvalidInput => Done::Refused(error.to_string()),
            _ => Done::Later(error.to_string()),
        },
    }
}

fn try_release(order: &Order, forbidden: impl Fn(&Path) -> bool) -> io::Result<Done> {
    if !order.path.starts_with(&order.root) {
        return Ok(Done::Refused("it lies outside of `roots`".to_owned()));
    }
    let root = Base::open(&order.root)?;
    let forbidden = &forbidden;
    let (Some(folder), Some(name)) = (order.path.parent(), order.path.file_name()) else {
        return Ok(Done::Refused("it has no name".to_owned()));
    };
    let folder = root.folder(folder)?;
    let real = folder.real_path()?;
    if forbidden(&real) {
        let why = format!("{} is not to be cleaned up", real.display());
        return Ok(Done::Refused(why));
    }
    let name = Path::new(name);
    if let Some(trashed) = trashed(order, &folder)? {
        let done = finish(order, &folder, name, &trashed, forbidden)?;
        if done == Done::Done {
            prune(order, &root);
        }
        return Ok(done);
    }
    let flags = match order.action {
        Action::Truncate => OFlags::RDWR,
        Action::Delete | Action::Move(_) => OFlags::RDONLY,
    };
    let flags = flags | OFlags::NONBLOCK | OFlags::NOCTTY;
    let handle = folder.open_below(&order.path, flags).and_then(plain)?;
    // Whoever writes to it may have it open for ever: that it has changed is said at once.
    if handle.meta()?.stamp != order.stamp {
        return Ok(Done::Changed);
    }
    // Truncating needs a descriptor for writing: then only being alone keeps writers out.
    let kind = match order.action {
        Action::Truncate => LeaseKind::Alone,
        Action::Delete | Action::Move(_) => LeaseKind::NoWriters,
    };
    let held = match lease(&handle.0, kind) {
        Ok(held) => Some(held),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
            return Ok(Done::Later("somebody has it open".to_owned()));
        }
        // Not the owner, or a file system without leases: what is compared has to do.
        Err(_) => None,
    };
    let meta = handle.meta()?;
    if meta.links != 1 {
        return Ok(Done::Refused(format!("it has {} names", meta.links)));
    }
    if meta.id != order.id || meta.stamp != order.stamp || !handle.begins_with(&order.head)? {
        return Ok(Done::Changed);
    }
    if order.action == Action::Truncate {
        rustix::fs::ftruncate(&handle.0, 0)?;
        return Ok(Done::Done);
    }
    // Said before the file is touched: one that was changed by that would be released again and again.
    if let Action::Move(to) = &order.action
        && let Err(why) = open_target(&folder, Path::new(to), forbidden)
    {
        return Ok(Done::Refused(why));
    }
    let trash = Path::new(&order.trash);
    rename(&folder.folder, name, &folder.folder, trash)?;
    drop(held);
    if meta_at(&folder.folder, trash, AtFlags::empty())?.id != order.id {
        return put_back(order, &folder, name);
    }
    Ok(Done::Trashed)
}

/// What lies under the trash name.
fn trashed(order: &Order, folder: &Base) -> io::Result<Option<Handle>> {
    match folder.file(&folder.path.join(&order.trash)) {
        Ok(handle) => Ok(Some(handle)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Removes or moves what rested under the trash name, or gives it its name back.
fn finish(
    order: &Order,
    folder: &Base,
    name: &Path,
    handle: &Handle,
    forbidden: impl Fn(&Path) -> bool,
) -> io::Result<Done> {
    let held = lease(&handle.0, LeaseKind::NoWriters);
    let written = matches!(&held, Err(error) if error.kind() == io::ErrorKind::WouldBlock);
    if written || handle.meta()?.id != order.id || !is_rested(order, handle)? {
        return put_back(order, folder, name);
    }
    let trash = Path::new(&order.trash);
    let Action::Move(to) = &order.action else {
        rustix::fs::unlinkat(&folder.folder, trash, AtFlags::empty())?;
        return Ok(Done::Done);
    };
    match move_to(order, folder, name, Path::new(to), forbidden) {
        Ok(()) => Ok(Done::Done),
        Err(why) => Ok(match put_back(order, folder, name)? {
            Done::Changed => Done::Refused(why),
            other => other,
        }),
    }
}

/// Moves what is in the trash; an error is why that cannot be.
fn move_to(
    order: &Order,
    folder: &Base,
    name: &Path,
    to: &Path,
    forbidden: impl Fn(&Path) -> bool,
) -> Result<(), String> {
    let target = open_target(folder, to, forbidden)?;
    let trash = Path::new(&order.trash);
    let mut moved = rename(&folder.folder, trash, &target.folder, name);
    if moved == Err(Errno::EXIST) {
        // Another of that name was moved there before.
        let other = other_name(order, name);
        moved = rename(&folder.folder, trash, &target.folder, &other);
    }
    moved.map_err(|error| cannot_move(to, error.into()))
}

fn cannot_move(to: &Path, error: io::Error) -> String {
    match Errno::from_io_error(&error) {
        Some(Errno::XDEV) => format!("{} is on another file system", to.display()),
        _ => format!("{} cannot be moved to: {error}", to.display()),
    }
}

/// Opens the folder that files are moved to from `folder`; an error is why none can be.
fn open_target(
    folder: &Base,
    to: &Path,
    forbidden: impl Fn(&Path) -> bool,
) -> Result<Base, String> {
    let opened = || {
        let target = Base::open(to)?;
        let device =
            |of: &Base| Ok::<_, io::Error>(meta_at(&of.folder, "", AtFlags::EMPTY_PATH)?.id.device);
        if device(&target)? != device(folder)? {
            return Err(Errno::XDEV.into());
        }
        match rustix::fs::accessat(&target.folder, ".", WRITE_INTO, AtFlags::EACCESS) {
            // Kernels before 5.8: the rename will say it.
            Ok(()) | Err(Errno::NOSYS) => {}
            Err(error) => return Err(error.into()),
        }
        Ok((target.real_path()?, target))
    };
    let (real, target) = opened().map_err(|error| cannot_move(to, error))?;
    if forbidden(&real) {
        return Err(format!("{} is not to be moved to", to.display()));
    }
    Ok(target)
}

/// Whether the content is what was read; a rename has changed the ctime meanwhile.
fn is_rested(order: &Order, handle: &Handle) -> io::Result<bool> {
    let stamp = handle.meta()?.stamp;
    Ok(stamp.bytes == order.stamp.bytes
        && stamp.mtime == order.stamp.mtime
        && handle.begins_with(&order.head)?)
}

/// A name for a file whose own is taken.
fn other_name(order: &Order, name: &Path) -> PathBuf {
    let mut other = name.to_path_buf();
    other.as_mut_os_string().push(".");
    other.as_mut_os_string().push(&order.tag);
    other
}

fn put_back(order: &Order, folder: &Base, name: &Path) -> io::Result<Done> {
    let trash = Path::new(&order.trash);
    if rename(&folder.folder, trash, &folder.folder, name).is_ok() {
        return Ok(Done::Changed);
    }
    // A writer has made a new file of that name.
    let other = other_name(order, name);
    rename(&folder.folder, trash, &folder.folder, &other)?;
    Ok(Done::Refused(format!(
        "it was written to while it was removed, and is now {}",
        folder.path.join(other).display()
    )))
}

/// Never over another file.
fn rename(from: impl AsFd, name: &Path, to: impl AsFd, new: &Path) -> Result<(), Errno> {
    rustix::fs::renameat_with(from, name, to, new, RenameFlags::NOREPLACE)
}

/// Removes the folders that became empty, from below.
fn prune(order: &Order, root: &Base) {
    let Some(limit) = &order.prune else { return };
    let folders = order.path.ancestors().skip(1);
    for folder in folders.take_while(|folder| *folder != limit && folder.starts_with(limit)) {
        let (Some(above), Some(name)) = (folder.parent(), folder.file_name()) else {
            return;
        };
        let removed = root.folder(above).and_then(|above| {
            let name = Path::new(name);
            Ok(rustix::fs::unlinkat(
                &above.folder,
                name,
                AtFlags::REMOVEDIR,
            )?)
        });
        // Not empty, as a rule.
        if removed.is_err() {
            return;
        }
    }
}
