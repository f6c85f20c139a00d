//! The watches of the operating system on the folders of the spool.
//!
//! They only make the next look come sooner, so a failure is reported once and costs time, not
//! truth. Must never decide what a change means.

use std::collections::BTreeMap;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;

use notify::RecursiveMode;
use notify::Watcher;

use super::inbox::Inbox;

/// The watches on `jobs/` and all folders in it; none is recursive, so that what is hidden
/// stays unwatched.
pub(super) struct Watches {
    /// `None` where the system has no more watchers: then the periodic look is all there is.
    watcher: Option<notify::RecommendedWatcher>,
    /// What is watched, and which object it was.
    watched: BTreeMap<PathBuf, (u64, u64)>,
    /// Whether a failure has been reported; the next ones have the same reason.
    complained: bool,
}

impl std::fmt::Debug for Watches {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Watches")
            .field("watched", &self.watched.len())
            .finish_non_exhaustive()
    }
}

impl Watches {
    pub(super) fn new(jobs: &Path, inbox: &Arc<Inbox>) -> Self {
        let (jobs, inbox) = (jobs.to_path_buf(), Arc::clone(inbox));
        let watcher = notify::recommended_watcher(move |event| inbox.event(&jobs, event));
        let mut watches = Self {
            watcher: None,
            watched: BTreeMap::new(),
            complained: false,
        };
        match watcher {
            Ok(watcher) => watches.watcher = Some(watcher),
            Err(error) => watches.complain(&error),
        }
        watches
    }

    /// Watches a folder, if it is not the one that is watched already.
    pub(super) fn watch(&mut self, path: &Path, identity: (u64, u64)) {
        let Some(watcher) = &mut self.watcher else {
            return;
        };
        if self.watched.get(path) == Some(&identity) {
            return;
        }
        match watcher.watch(path, RecursiveMode::NonRecursive) {
            Ok(()) => {
                self.watched.insert(path.to_path_buf(), identity);
            }
            // It went away meanwhile, which the look after this finds out.
            Err(error) if matches!(error.kind, notify::ErrorKind::PathNotFound) => {}
            Err(error) => self.complain(&error),
        }
    }

    /// Forgets that a folder and those in it are watched, so that the next look watches them anew:
    /// a new folder may have the inode of the old one.
    pub(super) fn forget(&mut self, folder: &Path) {
        self.take_below(folder);
    }

    /// Ends the watches on a folder and those in it.
    pub(super) fn drop_below(&mut self, folder: &Path) {
        for path in self.take_below(folder) {
            if let Some(watcher) = &mut self.watcher
                && let Err(error) = watcher.unwatch(&path)
            {
                // The kernel ends the watch of what is deleted by itself.
                tracing::trace!(path = %path.display(), %error, "not watched any more");
            }
        }
    }

    fn take_below(&mut self, folder: &Path) -> Vec<PathBuf> {
        let paths: Vec<PathBuf> = self
            .watched
            .range(folder.to_path_buf()..)
            .map(|(path, _)| path)
            .take_while(|path| path.starts_with(folder))
            .cloned()
            .collect();
        for path in &paths {
            self.watched.remove(path);
        }
        paths
    }

    fn complain(&mut self, error: &notify::Error) {
        if !self.complained {
            self.complained = true;
            tracing::warn!(%error, "folders cannot be watched; changes are found by the periodic look only");
        }
    }
}
