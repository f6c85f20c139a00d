//! The watches of the operating system on the folders of one job's files.
//!
//! They only make the next look come sooner: what they miss, the periodic scan finds.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;

use notify::EventKind;
use notify::RecursiveMode;
use notify::Watcher;
use notify::event::ModifyKind;
use tokio::sync::Notify;

use crate::process::User;
use crate::process::as_user;

/// Folders that one job has watched: the system has some 200,000 watches for all. The others are
/// looked at by the periodic scan.
const WATCHED_MAX: usize = 256;

/// What has changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Change {
    /// The content of files.
    Content,
    /// Which files there are, too.
    Names,
}

#[derive(Debug, Default)]
struct Bell {
    rung: Notify,
    names: AtomicBool,
}

/// See the module's header.
pub(super) struct Watches {
    /// `None` where the system has no more watchers.
    watcher: Option<notify::RecommendedWatcher>,
    watched: BTreeSet<PathBuf>,
    bell: Arc<Bell>,
    complained: bool,
}

impl Watches {
    /// Watches with the rights of `user`, so that a link leads to nothing that the user could not watch.
    pub(super) fn new(user: &User) -> Self {
        let bell = Arc::new(Bell::default());
        let ringer = Arc::clone(&bell);
        let ring = move |event: notify::Result<notify::Event>| {
            match event.map(|event| event.kind) {
                // Our own reading makes these.
                Ok(EventKind::Access(_)) => return,
                Ok(EventKind::Modify(ModifyKind::Data(_) | ModifyKind::Metadata(_))) => {}
                // Others, and lost events: look at everything.
                Ok(_) | Err(_) => ringer.names.store(true, Ordering::Relaxed),
            }
            ringer.rung.notify_one();
        };
        // Folders are opened by the watcher's own thread, which has the rights of the one that starts it.
        let watcher = as_user(user, || notify::recommended_watcher(ring))
            .unwrap_or_else(|error| Err(notify::Error::io(error)));
        let mut watches = Self {
            watcher: None,
            watched: BTreeSet::new(),
            bell,
            complained: false,
        };
        match watcher {
            Ok(watcher) => watches.watcher = Some(watcher),
            Err(error) => watches.complain(&error),
        }
        watches
    }

    /// Watches these folders and no others.
    pub(super) fn keep(&mut self, folders: &[PathBuf]) {
        let Some(watcher) = &mut self.watcher else {
            return;
        };
        let wanted: BTreeSet<&PathBuf> = folders.iter().take(WATCHED_MAX).collect();
        self.watched.retain(|folder| {
            let stays = wanted.contains(folder);
            if !stays {
                // The kernel ends the watch of what is deleted by itself.
                drop(watcher.unwatch(folder));
            }
            stays
        });
        let mut failed = None;
        for folder in wanted {
            if !self.watched.contains(folder) {
                match watcher.watch(folder, RecursiveMode::NonRecursive) {
                    Ok(()) => {
                        self.watched.insert(folder.clone());
                    }
                    Err(error) => failed = Some(error),
                }
            }
        }
        if let Some(error) = failed {
            self.complain(&error);
        }
    }

    /// Waits for a change; for ever where nothing can be watched.
    pub(super) async fn changed(&self) -> Change {
        self.bell.rung.notified().await;
        if self.bell.names.swap(false, Ordering::Relaxed) {
            Change::Names
        } else {
            Change::Content
        }
    }

    fn complain(&mut self, error: &notify::Error) {
        if !self.complained {
            self.complained = true;
            tracing::warn!(%error, "folders of files cannot be watched; changes are found by the periodic scan only");
        }
    }
}
