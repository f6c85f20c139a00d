//! What becomes of files that rest: their clean-up is asked for, or they are closed and forgotten.

use std::path::PathBuf;
use std::sync::Arc;

use crate::clock::Tick;
use crate::fileid::path_text;
use crate::queue::Fact;
use crate::queue::Release;
use crate::source::files::FORGET_AFTER;
use crate::source::files::Harvest;
use crate::source::files::Look;
use crate::source::files::Now;
use crate::source::files::REMOVED_REST;
use crate::source::files::RENAMED_REST;
use crate::source::files::Setup;
use crate::source::files::Wanted;
use crate::source::files::draft::Draft;
use crate::source::files::tracked::Tracked;

/// What is to be done about a file.
enum Due {
    /// Nothing before then, changes apart.
    At(Option<Tick>),
    /// Ask for its clean-up.
    Ask,
    /// Let go of it.
    Close,
    /// It never comes back.
    Forget,
}

impl Harvest {
    /// Goes through all files; returns when to look again. While there is `more` to read, files
    /// are only let go of.
    pub(super) fn rest(
        &mut self,
        now: Now,
        look: Look,
        more: bool,
        draft: &mut Draft,
    ) -> Option<Tick> {
        let mut wake: Option<Tick> = None;
        let mut forget: Vec<Arc<str>> = Vec::new();
        for file in self.files.values_mut() {
            let Some(wanted) = self.setup.wanted.get(file.place) else {
                continue;
            };
            match due(file, wanted, now, look) {
                Due::At(at) => wake = [wake, at].into_iter().flatten().min(),
                Due::Ask if draft.is_full() || more => wake = Some(now.tick),
                Due::Ask => ask(file, &self.setup, wanted, draft),
                Due::Close => file.close(),
                Due::Forget => forget.push(Arc::clone(&file.id)),
            }
        }
        for id in forget {
            if let Some(file) = self.files.remove(&id) {
                if self.by_id.get(&file.of) == Some(&id) {
                    self.by_id.remove(&file.of);
                }
                self.forget(&file, file.unread());
            }
        }
        wake
    }
}

fn due(file: &Tracked, wanted: &Wanted, now: Now, look: Look) -> Due {
    let rested = now.tick.since(file.changed_at);
    if let Some(since) = file.missing_since() {
        if !file.is_open() {
            // A pending clean-up is the cleaner's to end.
            let long_ago = now.tick.since(since) >= FORGET_AFTER || !file.is_recorded;
            return if long_ago && !file.is_pending() {
                Due::Forget
            } else {
                Due::At(Some(since.after(FORGET_AFTER)))
            };
        }
        let removed = file.links() == 0;
        let patience = if removed { REMOVED_REST } else { RENAMED_REST };
        let from = since.max(file.changed_at);
        if now.tick.since(from) < patience && look != Look::Last {
            return Due::At(Some(from.after(patience)));
        }
        if file.has_partial() {
            // Its last line has waited for `partial_timeout` at least once more.
            return Due::At(Some(now.tick.after(wanted.partial_timeout)));
        }
        return if removed { Due::Forget } else { Due::Close };
    }
    if file.has_partial() {
        return Due::At(Some(file.changed_at.after(wanted.partial_timeout)));
    }
    let asks = wanted.after_ack.is_some() && file.asked.is_none() && file.at > 0;
    match file.rested() {
        Some(_) if asks && rested < wanted.quiet => {
            Due::At(Some(file.changed_at.after(wanted.quiet)))
        }
        Some(_) if asks => Due::Ask,
        _ => Due::At(None),
    }
}

fn ask(file: &mut Tracked, setup: &Setup, wanted: &Wanted, draft: &mut Draft) {
    let (Some(stamp), Some(action)) = (file.rested(), &wanted.after_ack) else {
        return;
    };
    let was_open = file.is_open();
    let Ok(Some(tail)) = file.end(setup, stamp) else {
        // The next look tries again.
        if !was_open {
            file.close();
        }
        return;
    };
    if file.links() != 1 {
        return;
    }
    let Some(base) = wanted.names(&file.path).map(|pattern| &pattern.base) else {
        return;
    };
    let within = |root: &&PathBuf| file.path.starts_with(root);
    // That it lies in none of them is for the clean-up to refuse and to tell.
    let mut roots = wanted.roots.iter();
    let root = roots.find(within).or(wanted.roots.first());
    draft.facts.push(Fact::Release {
        file: file.id.to_string(),
        release: Release {
            action: action.clone(),
            path: path_text(&file.path),
            root: path_text(root.unwrap_or(base)),
            stamp,
            tail,
            prune: wanted.prune.then(|| path_text(base)),
            uid: setup.user.uid,
            gid: setup.user.gid,
        },
    });
    file.ask(stamp);
}
