//! Generations: read-only copies of job folders under `state/<job>/generations/<hash>/`, and the
//! note of which one is current.
//!
//! A copy appears by rename, so what bears its hash as name is whole. Nothing is synced: after a
//! power cut a copy that does not have the content that its name says is made again, and
//! without a source it is not used. Must never know what makes a job good.

use std::io;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;

use crate::disk;
use crate::disk::Disk;
use crate::disk::PASS_MODE;
use crate::disk::Replace;
use crate::files;
use crate::files::Tree;
use crate::files::Unusable;
use crate::process;
use crate::process::User;

/// Name of the note in `generations/`.
const CURRENT: &str = "current";

/// Length of the note: 16 hexadecimal digits and a number; anything longer is not ours.
const CURRENT_BYTES_MAX: u64 = 64;

/// What the names of unfinished copies begin with.
const UNFINISHED: &str = ".new-";

/// The copies of all jobs.
#[derive(Debug)]
pub(super) struct Generations {
    disk: Arc<dyn Disk>,
    state: PathBuf,
}

/// A copy that may still be thrown away.
#[derive(Debug)]
pub(super) enum Copy {
    /// It was there before.
    There { folder: PathBuf },
    /// It was made just now and does not have its name yet.
    Fresh {
        unfinished: PathBuf,
        folder: PathBuf,
    },
}

impl Copy {
    /// Where its files are now.
    pub(super) fn place(&self) -> &Path {
        match self {
            Self::There { folder } => folder,
            Self::Fresh { unfinished, .. } => unfinished,
        }
    }
}

impl Generations {
    pub(super) fn new(disk: Arc<dyn Disk>, state: PathBuf) -> Self {
        Self { disk, state }
    }

    fn home(&self, job: &str) -> PathBuf {
        self.state.join(job).join("generations")
    }

    /// Where a generation lies.
    pub(super) fn folder(&self, job: &str, hash: &str) -> PathBuf {
        self.home(job).join(hash)
    }

    /// Makes the generation `hash` of a job from its folder, which looked like `tree`, with the
    /// rights of `reader`, its owner.
    ///
    /// # Errors
    /// [`Unusable::Changed`] when the folder is not what it was any more.
    pub(super) fn copy(
        &self,
        job: &str,
        hash: &str,
        source: &Path,
        tree: &Tree,
        reader: &User,
    ) -> Result<Copy, Unusable> {
        let folder = self.folder(job, hash);
        let owner = tree.owner();
        if is_whole(&folder, hash, owner) {
            return Ok(Copy::There { folder });
        }
        let home = self.home(job);
        self.disk.make_dir(&home).map_err(Unusable::Copy)?;
        let unfinished = home.join(format!("{UNFINISHED}{hash}"));
        files::remove_tree(&unfinished).map_err(Unusable::Copy)?;
        let made = tree.copy(source, reader, &unfinished).and_then(|()| {
            let same = process::as_user(reader, || files::walk(source))
                .is_ok_and(|now| now.is_ok_and(|now| now.print() == tree.print()));
            if same && is_whole(&unfinished, hash, owner) {
                Ok(())
            } else {
                Err(Unusable::Changed)
            }
        });
        let copy = Copy::Fresh { unfinished, folder };
        match made {
            Ok(()) => Ok(copy),
            Err(error) => {
                self.throw_away(&copy).map_err(Unusable::Copy)?;
                Err(error)
            }
        }
    }

    /// Throws a fresh copy away; one that was there before stays.
    pub(super) fn throw_away(&self, copy: &Copy) -> io::Result<()> {
        match copy {
            Copy::There { .. } => Ok(()),
            Copy::Fresh { unfinished, .. } => files::remove_tree(unfinished),
        }
    }

    /// Gives a copy its name, and lets `user`, as whom the job runs, read it; returns its folder.
    pub(super) fn keep(&self, job: &str, copy: Copy, user: &User) -> io::Result<PathBuf> {
        let of_job = self.state.join(job);
        if user.is_own() {
            disk::set_mode(&of_job, 0o700)?;
        } else {
            disk::set_mode(&of_job, PASS_MODE)?;
            disk::set_mode(&self.home(job), PASS_MODE)?;
            files::share_copy(copy.place(), user.gid)?;
        }
        match copy {
            Copy::There { folder } => Ok(folder),
            Copy::Fresh { unfinished, folder } => {
                // What bears the name is not what it says, or it would have been used.
                files::remove_tree(&folder)?;
                self.disk.rename(&unfinished, &folder)?;
                Ok(folder)
            }
        }
    }

    /// Notes which generation is the last good one, and who owned its folder.
    pub(super) fn set_current(&self, job: &str, hash: &str, owner: u32) -> io::Result<()> {
        let path = self.home(job).join(CURRENT);
        let note = format!("{hash} {owner}");
        self.disk.replace(&path, note.as_bytes(), Replace::Quick)
    }

    /// Takes the note back: when a job is gone, a bad one of its name must not bring it back.
    pub(super) fn forget_current(&self, job: &str) {
        let path = self.home(job).join(CURRENT);
        match self.disk.remove(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                tracing::warn!(job, %error, "the note of the last good generation stays");
            }
            _ => {}
        }
    }

    /// The last good generation and the owner of its folder, if they are noted.
    pub(super) fn current(&self, job: &str) -> Option<(String, u32)> {
        let path = self.home(job).join(CURRENT);
        let bytes = self.disk.read(&path, CURRENT_BYTES_MAX).ok()?;
        let note = String::from_utf8(bytes).ok()?;
        let (hash, owner) = note.split_once(' ')?;
        let is_hash = hash.len() == 16 && hash.chars().all(|c| c.is_ascii_hexdigit());
        is_hash.then_some((hash.to_owned(), owner.parse().ok()?))
    }

    /// The last good generation and the owner of its folder, if it is noted and whole.
    pub(super) fn last_good(&self, job: &str) -> Option<(String, u32)> {
        self.current(job)
            .filter(|(hash, owner)| is_whole(&self.folder(job, hash), hash, *owner))
    }

    /// Removes the generations that are not in `keep`, and what unfinished copies left.
    pub(super) fn retire(&self, job: &str, keep: &[&str]) -> io::Result<()> {
        let home = self.home(job);
        for name in files::names(&home)? {
            let is_ours = name.starts_with(UNFINISHED) || name.len() == 16;
            if is_ours && !keep.contains(&name.as_str()) {
                files::remove_tree(&home.join(name))?;
            }
        }
        Ok(())
    }
}

/// Whether a folder has the content that `hash` says.
fn is_whole(folder: &Path, hash: &str, owner: u32) -> bool {
    files::walk(folder)
        .ok()
        .and_then(|tree| tree.content(folder, owner, &User::own()).ok())
        .is_some_and(|content| content == hash)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use crate::disk::OsDisk;
    use std::fs;

    struct Bench {
        dir: tempfile::TempDir,
        store: Generations,
    }

    fn bench() -> Bench {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("src")).unwrap();
        fs::write(dir.path().join("src/a.sh"), "echo 1").unwrap();
        let store = Generations::new(Arc::new(OsDisk), dir.path().join("state"));
        Bench { dir, store }
    }

    fn make(bench: &Bench) -> String {
        let source = bench.dir.path().join("src");
        let tree = files::walk(&source).unwrap();
        let hash = tree.content(&source, tree.owner(), &User::own()).unwrap();
        let copy = bench
            .store
            .copy("j", &hash, &source, &tree, &User::own())
            .unwrap();
        bench.store.keep("j", copy, &User::own()).unwrap();
        bench.store.set_current("j", &hash, tree.owner()).unwrap();
        hash
    }

    #[test]
    fn a_generation_is_made_once_and_found_again() {
        let bench = bench();
        let hash = make(&bench);
        let folder = bench.store.folder("j", &hash);
        assert_eq!(fs::read_to_string(folder.join("a.sh")).unwrap(), "echo 1");
        assert_eq!(make(&bench), hash);
        assert_eq!(bench.store.last_good("j").unwrap().0, hash);
    }

    #[test]
    fn a_damaged_generation_is_not_used_and_is_made_again() {
        let bench = bench();
        let hash = make(&bench);
        let folder = bench.store.folder("j", &hash);
        files::remove_tree(&folder).unwrap();
        fs::create_dir(&folder).unwrap();
        fs::write(folder.join("a.sh"), "").unwrap();
        assert_eq!(bench.store.last_good("j"), None);
        assert_eq!(make(&bench), hash);
        assert_eq!(bench.store.last_good("j").unwrap().0, hash);
    }

    #[test]
    fn a_source_that_changed_after_the_look_is_not_copied() {
        let bench = bench();
        let source = bench.dir.path().join("src");
        let tree = files::walk(&source).unwrap();
        let hash = tree.content(&source, tree.owner(), &User::own()).unwrap();
        fs::write(source.join("new.sh"), "").unwrap();
        let made = bench.store.copy("j", &hash, &source, &tree, &User::own());
        assert!(matches!(made, Err(Unusable::Changed)));
        assert_eq!(files::names(&bench.store.home("j")).unwrap().len(), 0);
    }

    #[test]
    fn retiring_keeps_what_it_is_told_and_the_note() {
        let bench = bench();
        let first = make(&bench);
        fs::write(bench.dir.path().join("src/a.sh"), "echo 2").unwrap();
        let second = make(&bench);
        fs::create_dir(bench.store.home("j").join(".new-0123456789abcdef")).unwrap();
        bench.store.retire("j", &[&second]).unwrap();
        assert!(!bench.store.folder("j", &first).exists());
        assert_eq!(bench.store.last_good("j").unwrap().0, second);
        assert_eq!(files::names(&bench.store.home("j")).unwrap().len(), 2);
    }
}
