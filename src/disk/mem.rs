//! A disk in memory whose power can be cut and whose calls fail on demand, for tests.
//!
//! What programs see and what a power cut would leave are kept apart: the second is a [`Platter`],
//! fed with every operation in order. Operations can be recorded and replayed later.

#![expect(
    clippy::unwrap_used,
    reason = "a poisoned lock means that a test has failed already"
)]

pub(crate) mod platter;

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::fmt;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;

use super::Disk;
use super::DiskFile;
use super::Entry;
use super::EntryKind;
use super::Open;
use super::Replace;
use super::Room;
use platter::Change;
use platter::Dice;
use platter::Inode;
use platter::Name;
use platter::Op;
use platter::Platter;

/// What a disk may refuse with.
pub(crate) const REFUSALS: [i32; 5] = [
    libc::ENOSPC,
    libc::EIO,
    libc::EDQUOT,
    libc::EROFS,
    libc::EMFILE,
];

/// So many states are built when one of them is to be chosen.
const POWER_CUT_STATES: usize = 64;

/// What a call on the disk is about to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verb {
    Open(Open),
    Read,
    Write,
    Sync,
    Truncate,
    Reserve,
    Lock,
    List,
    MakeDir,
    Remove,
    SyncDir,
    Rename,
}

/// A call, before it happens. A `replace` is five: create, write, sync, rename, sync of the folder.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Call<'a> {
    /// How many came before it.
    pub(crate) index: u64,
    pub(crate) verb: Verb,
    pub(crate) path: &'a str,
    /// How many bytes it writes.
    pub(crate) bytes: usize,
}

/// What becomes of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It is carried out.
    Go,
    /// It fails with this errno, and nothing happens; a failed sync leaves open what arrived.
    Fail(i32),
    /// A write of which so many bytes are written before it fails.
    Part(usize, i32),
    /// It says that it was carried out, and was not.
    Lie,
    /// A write of which so many bytes are written, and which says that all were. A sync that fails and
    /// says nothing of it.
    LiePart(usize),
    /// A write of which one bit of this byte is another, and which says nothing of it.
    Flip(usize),
}

/// Decides about each call.
pub(crate) type Script = Box<dyn FnMut(&Call<'_>) -> Verdict + Send>;

/// What fails from now on.
#[derive(Default)]
pub(crate) enum Fault {
    /// Nothing.
    #[default]
    None,
    /// Writes give ENOSPC after half of their bytes.
    WritesFull,
    /// The next sync gives EIO, once.
    NextSync,
    /// The next sync gives EIO, and the disk is full from then on.
    NextSyncThenFull,
    /// Writes give ENOSPC until this file is removed.
    FullUntilRemoved(&'static str),
    /// What the script says.
    Script(Script),
}

impl fmt::Debug for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Fault")
    }
}

#[derive(Debug, Default)]
struct State {
    names: BTreeMap<Arc<str>, Inode>,
    /// Folders that were made; those of files that were there before need not be.
    dirs: BTreeSet<Arc<str>>,
    contents: Vec<Arc<Vec<u8>>>,
    /// Files on which a handle has the lock.
    locks: BTreeSet<Inode>,
    /// What a power cut would leave, where somebody wants to know.
    platter: Option<Platter>,
    /// How it began, and every operation since.
    journal: Option<(Platter, Vec<Op>)>,
    fault: Fault,
    /// How many bytes its files may hold together, where there is an end.
    capacity: Option<u64>,
    calls: u64,
    /// Temporary files so far.
    fresh: u64,
}

impl State {
    fn decide(&mut self, verb: Verb, path: &str, bytes: usize) -> Verdict {
        let index = self.calls;
        self.calls += 1;
        let grows = matches!(verb, Verb::Write | Verb::Open(Open::CreateNew));
        let full = || match verb {
            Verb::Write => Verdict::Part(bytes / 2, libc::ENOSPC),
            _ => Verdict::Fail(libc::ENOSPC),
        };
        match &mut self.fault {
            Fault::Script(script) => {
                let call = Call {
                    index,
                    verb,
                    path,
                    bytes,
                };
                script(&call)
            }
            Fault::WritesFull if verb == Verb::Write => full(),
            Fault::FullUntilRemoved(name) if grows && self.names.contains_key(*name) => full(),
            Fault::NextSync if verb == Verb::Sync => {
                self.fault = Fault::None;
                Verdict::Fail(libc::EIO)
            }
            Fault::NextSyncThenFull if verb == Verb::Sync => {
                self.fault = Fault::WritesFull;
                Verdict::Fail(libc::EIO)
            }
            _ => Verdict::Go,
        }
    }

    /// Whether the call is carried out, `false` when it only says so.
    fn may(&mut self, verb: Verb, path: &str) -> io::Result<bool> {
        match self.decide(verb, path, 0) {
            Verdict::Go => Ok(true),
            Verdict::Lie | Verdict::LiePart(_) | Verdict::Flip(_) => Ok(false),
            Verdict::Fail(errno) | Verdict::Part(_, errno) => {
                Err(io::Error::from_raw_os_error(errno))
            }
        }
    }

    fn note(&mut self, op: Op) {
        if let Some(platter) = &mut self.platter {
            platter.apply(&op);
        }
        if let Some((_, journal)) = &mut self.journal {
            journal.push(op);
        }
    }

    fn is_noted(&self) -> bool {
        self.platter.is_some() || self.journal.is_some()
    }

    fn create(&mut self, path: &str) -> Inode {
        let inode = self.contents.len();
        self.contents.push(Arc::default());
        let path: Arc<str> = path.into();
        self.names.insert(path.clone(), inode);
        self.note(Op::Name(Name::Link(path, inode)));
        inode
    }

    fn change(&mut self, inode: Inode, change: Change) {
        change.put(Arc::make_mut(&mut self.contents[inode]));
        if self.is_noted() {
            self.note(Op::Change(inode, change));
        }
    }

    fn write(&mut self, path: &str, inode: Inode, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let (arrives, said) = match self.decide(Verb::Write, path, bytes.len()) {
            Verdict::Go => (bytes.len(), Ok(())),
            Verdict::Fail(errno) => (0, Err(errno)),
            Verdict::Part(most, errno) => (most.min(bytes.len()), Err(errno)),
            Verdict::Lie => (0, Ok(())),
            Verdict::LiePart(most) => (most.min(bytes.len()), Ok(())),
            Verdict::Flip(at) => {
                let mut wrong = bytes.to_vec();
                wrong[at % bytes.len()] ^= 1;
                self.change(inode, Change::Write(offset, wrong.into()));
                (0, Ok(()))
            }
        };
        let fits = self.fits(inode, offset + arrives as u64) - offset.min(self.fits(inode, offset));
        let (arrives, said) = match usize::try_from(fits) {
            Ok(fits) if fits < arrives => (fits, Err(libc::ENOSPC)),
            _ => (arrives, said),
        };
        if arrives > 0 {
            self.change(inode, Change::Write(offset, bytes[..arrives].into()));
        }
        said.map_err(io::Error::from_raw_os_error)
    }

    fn used(&self) -> u64 {
        let bytes = self.names.values().map(|inode| self.contents[*inode].len());
        bytes.sum::<usize>() as u64
    }

    /// How far a file may grow on the way to `end`.
    fn fits(&self, inode: Inode, end: u64) -> u64 {
        let now = self.contents[inode].len() as u64;
        let free = self
            .capacity
            .map_or(u64::MAX, |all| all.saturating_sub(self.used()));
        end.min(now.saturating_add(free))
    }

    fn sync(&mut self, path: &str, inode: Inode) -> io::Result<()> {
        let (op, said) = match self.decide(Verb::Sync, path, 0) {
            Verdict::Go => (Op::Sync(inode), Ok(())),
            Verdict::Fail(errno) | Verdict::Part(_, errno) => (Op::SyncFailed(inode), Err(errno)),
            Verdict::LiePart(_) => (Op::SyncFailed(inode), Ok(())),
            Verdict::Lie | Verdict::Flip(_) => return Ok(()),
        };
        self.note(op);
        said.map_err(io::Error::from_raw_os_error)
    }

    fn rename(&mut self, from: &str, to: &str) -> io::Result<()> {
        if !self.may(Verb::Rename, to)? {
            return Ok(());
        }
        let inode = self.names.remove(from).ok_or(io::ErrorKind::NotFound)?;
        let to: Arc<str> = to.into();
        self.names.insert(to.clone(), inode);
        self.note(Op::Name(Name::Rename(from.into(), to, inode)));
        Ok(())
    }

    fn sync_dir(&mut self, dir: &str) -> io::Result<()> {
        if self.may(Verb::SyncDir, dir)? {
            self.note(Op::SyncDir(dir.into()));
        }
        Ok(())
    }

    fn replace(&mut self, path: &Path, bytes: &[u8], how: Replace) -> io::Result<()> {
        let dir = text(path.parent().unwrap());
        self.fresh += 1;
        let fresh = format!("{dir}/.new-{}", self.fresh);
        if !self.may(Verb::Open(Open::CreateNew), &fresh)? {
            return Ok(());
        }
        let inode = self.create(&fresh);
        let mut done = self.write(&fresh, inode, 0, bytes);
        if how == Replace::Durable {
            done = done.and_then(|()| self.sync(&fresh, inode));
        }
        done = done.and_then(|()| self.rename(&fresh, text(path)));
        if done.is_err() {
            // What a library does on its way out of an error; a rename that only said so leaves it.
            self.names.remove(&*fresh);
            self.note(Op::Name(Name::Unlink(fresh.into())));
            return done;
        }
        if how == Replace::Durable {
            self.sync_dir(dir)?;
        }
        Ok(())
    }
}

/// The disk.
#[derive(Debug, Clone)]
pub(crate) struct MemDisk(Arc<Mutex<State>>);

impl Default for MemDisk {
    fn default() -> Self {
        Self(Arc::new(Mutex::new(State {
            platter: Some(Platter::default()),
            ..State::default()
        })))
    }
}

#[derive(Debug)]
struct MemFile {
    path: Arc<str>,
    inode: Inode,
    disk: MemDisk,
    has_lock: AtomicBool,
}

impl Drop for MemFile {
    fn drop(&mut self) {
        if *self.has_lock.get_mut() {
            // A test that fails may have poisoned it.
            let state = self.disk.0.lock();
            let mut state = state.unwrap_or_else(PoisonError::into_inner);
            state.locks.remove(&self.inode);
        }
    }
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// What a disk holds: names with contents.
pub(crate) type Files = Vec<(Arc<str>, Arc<Vec<u8>>)>;

impl MemDisk {
    /// A disk that holds these files, durably, but whose power is not to be cut again: it is quicker.
    pub(crate) fn holding(files: &[(Arc<str>, Arc<Vec<u8>>)]) -> Self {
        let mut state = State::default();
        for (path, content) in files {
            state.names.insert(path.clone(), state.contents.len());
            state.contents.push(content.clone());
        }
        Self(Arc::new(Mutex::new(state)))
    }

    /// This disk, and what it does from now on is put down for [`MemDisk::recorded`].
    #[must_use]
    pub(crate) fn recording(self) -> Self {
        {
            let mut state = self.state();
            let platter = Platter::holding(&files(&state));
            // From here on, numbers of files are the platter's.
            state.names = platter.names();
            state.contents = platter.contents();
            state.journal = Some((platter.clone(), Vec::new()));
            state.platter = Some(platter);
        }
        self
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }

    /// Sets what fails from now on.
    pub(crate) fn fail(&self, fault: Fault) {
        self.state().fault = fault;
    }

    /// Lets a script decide about each call from now on.
    pub(crate) fn script(&self, script: impl FnMut(&Call<'_>) -> Verdict + Send + 'static) {
        self.fail(Fault::Script(Box::new(script)));
    }

    /// Sets how many bytes its files may hold together from now on.
    pub(crate) fn limit(&self, capacity: u64) {
        self.state().capacity = Some(capacity);
    }

    /// How many calls there were.
    pub(crate) fn calls(&self) -> u64 {
        self.state().calls
    }

    /// How many operations were recorded.
    pub(crate) fn recorded_len(&self) -> usize {
        self.state()
            .journal
            .as_ref()
            .map_or(0, |(_, ops)| ops.len())
    }

    /// What was durable when recording began, and what was done since.
    pub(crate) fn recorded(&self) -> (Platter, Vec<Op>) {
        self.state().journal.clone().unwrap_or_default()
    }

    /// What programs see at the moment.
    pub(crate) fn files(&self) -> Files {
        files(&self.state())
    }

    /// The disk after a power cut: one of the states that it may leave, by chance.
    pub(crate) fn power_cut(&self, dice: &mut Dice) -> Self {
        let state = self.state();
        let platter = state.platter.as_ref().unwrap();
        let mut seen = 0;
        let mut chosen = None;
        let mut rolls = Dice::new(dice.next());
        platter.states(POWER_CUT_STATES, dice, &mut |image| {
            seen += 1;
            if rolls.roll(seen) == 0 {
                chosen = Some(image.files);
            }
        });
        Self::after(Platter::holding(&chosen.unwrap()))
    }

    fn after(survived: Platter) -> Self {
        Self(Arc::new(Mutex::new(State {
            names: survived.names(),
            contents: survived.contents(),
            platter: Some(survived),
            ..State::default()
        })))
    }

    /// The disk after a power cut: no unsynced change of a folder survived, and of the unsynced
    /// writes the first `kept` bytes of each file.
    pub(crate) fn crash(&self, kept: usize) -> Self {
        let state = self.state();
        let platter = state.platter.as_ref().unwrap();
        Self::after(Platter::holding(&platter.worst(kept)))
    }
}

fn files(state: &State) -> Files {
    state
        .names
        .iter()
        .map(|(path, inode)| (path.clone(), state.contents[*inode].clone()))
        .collect()
}

impl DiskFile for MemFile {
    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.disk
            .state()
            .write(&self.path, self.inode, offset, bytes)
    }

    /// As several writes: each of them may fail.
    fn write_pieces_at(&self, mut offset: u64, pieces: &[&[u8]]) -> io::Result<()> {
        for piece in pieces {
            self.write_at(offset, piece)?;
            offset += piece.len() as u64;
        }
        Ok(())
    }

    fn read_at(&self, offset: u64, into: &mut [u8]) -> io::Result<usize> {
        let mut state = self.disk.state();
        state.may(Verb::Read, &self.path)?;
        let content = &state.contents[self.inode];
        let from = (offset as usize).min(content.len());
        let read = into.len().min(content.len() - from);
        into[..read].copy_from_slice(&content[from..from + read]);
        Ok(read)
    }

    fn sync(&self) -> io::Result<()> {
        self.disk.state().sync(&self.path, self.inode)
    }

    fn truncate(&self, bytes: u64) -> io::Result<()> {
        let mut state = self.disk.state();
        if state.may(Verb::Truncate, &self.path)? {
            state.change(self.inode, Change::Resize(bytes));
        }
        Ok(())
    }

    fn size(&self) -> io::Result<u64> {
        Ok(self.disk.state().contents[self.inode].len() as u64)
    }

    fn reserve(&self, bytes: u64) -> io::Result<()> {
        let mut state = self.disk.state();
        let longer = bytes > state.contents[self.inode].len() as u64;
        if !state.may(Verb::Reserve, &self.path)? || !longer {
            return Ok(());
        }
        // What fits is taken all the same, as ext4 does.
        let fits = state.fits(self.inode, bytes);
        state.change(self.inode, Change::Resize(fits));
        match fits < bytes {
            true => Err(io::Error::from_raw_os_error(libc::ENOSPC)),
            false => Ok(()),
        }
    }

    fn try_lock(&self) -> io::Result<bool> {
        let mut state = self.disk.state();
        state.may(Verb::Lock, &self.path)?;
        if state.locks.insert(self.inode) {
            self.has_lock.store(true, Ordering::Relaxed);
        }
        Ok(self.has_lock.load(Ordering::Relaxed))
    }

    fn id(&self) -> io::Result<(u64, u64)> {
        Ok((0, self.inode as u64))
    }
}

impl Disk for MemDisk {
    fn open(&self, path: &Path, how: Open) -> io::Result<Arc<dyn DiskFile>> {
        let mut state = self.state();
        let name = text(path);
        state.may(Verb::Open(how), name)?;
        let there = state.names.get(name).copied();
        let inode = match (there, how) {
            (Some(_), Open::CreateNew) => return Err(io::ErrorKind::AlreadyExists.into()),
            (Some(inode), _) => inode,
            (None, Open::CreateNew) => state.create(name),
            (None, _) => return Err(io::ErrorKind::NotFound.into()),
        };
        Ok(Arc::new(MemFile {
            path: name.into(),
            inode,
            disk: self.clone(),
            has_lock: AtomicBool::new(false),
        }))
    }

    fn replace(&self, path: &Path, bytes: &[u8], how: Replace) -> io::Result<()> {
        self.state().replace(path, bytes, how)
    }

    fn read(&self, path: &Path, max: u64) -> io::Result<Vec<u8>> {
        let mut state = self.state();
        let name = text(path);
        state.may(Verb::Read, name)?;
        let inode = state.names.get(name).ok_or(io::ErrorKind::NotFound)?;
        let content = &state.contents[*inode];
        if content.len() as u64 > max {
            return Err(io::ErrorKind::InvalidData.into());
        }
        Ok(content.to_vec())
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<Entry>> {
        let mut state = self.state();
        state.may(Verb::List, text(dir))?;
        let inside = state.names.iter().filter_map(|(path, inode)| {
            let name = path.strip_prefix(text(dir))?.strip_prefix('/')?;
            (!name.contains('/')).then(|| Entry {
                name: name.to_owned(),
                bytes: state.contents[*inode].len() as u64,
                kind: EntryKind::File,
            })
        });
        Ok(inside.collect())
    }

    fn make_dir(&self, dir: &Path) -> io::Result<()> {
        let mut state = self.state();
        let name = text(dir);
        let known = state.dirs.contains(name)
            || state
                .names
                .keys()
                .any(|path| Path::new(&**path).starts_with(dir));
        if state.may(Verb::MakeDir, name)? && !known {
            state.dirs.insert(name.into());
            state.note(Op::Name(Name::MakeDir(name.into())));
        }
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let mut state = self.state();
        if !state.may(Verb::Remove, text(path))? {
            return Ok(());
        }
        let name = text(path);
        state.names.remove(name).ok_or(io::ErrorKind::NotFound)?;
        state.note(Op::Name(Name::Unlink(name.into())));
        Ok(())
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        self.state().sync_dir(text(dir))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.state().rename(text(from), text(to))
    }

    fn room(&self, _dir: &Path) -> io::Result<Room> {
        let state = self.state();
        Ok(state.capacity.map_or(Room::UNKNOWN, |total| Room {
            free: total.saturating_sub(state.used()),
            total,
        }))
    }
}
