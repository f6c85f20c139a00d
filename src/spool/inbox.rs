//! What the spool's thread is told: hints of the watcher and orders of the supervisor.
//!
//! Everything in it coalesces, so it is bounded without a channel and nobody who writes to it
//! ever waits. Must never look at a folder.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::path::Component;
use std::path::Path;
use std::sync::Condvar;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;
use std::time::Duration;

use notify::EventKind;
use notify::event::ModifyKind;
use notify::event::RenameMode;

use super::driver::Checks;
use super::watch::Hint;
use crate::files::is_passing;

/// Most folders that hints are kept for; beyond it a full look costs no more.
const HINTS_MAX: usize = 20_000;

/// What has come since the last time it was taken.
#[derive(Debug, Default)]
pub(super) struct Mail {
    /// Folders that something happened in.
    pub(super) hints: BTreeMap<String, Hint>,
    /// Whether everything is to be looked at.
    pub(super) scan: bool,
    /// New settings that jobs are checked against.
    pub(super) checks: Option<Checks>,
    /// Per job the generations that runs use; others may go.
    pub(super) in_use: BTreeMap<String, BTreeSet<String>>,
    /// Whether the thread is to end.
    pub(super) stop: bool,
}

/// The mail box.
#[derive(Debug, Default)]
pub(super) struct Inbox {
    mail: Mutex<Mail>,
    bell: Condvar,
}

impl Inbox {
    /// Adds to the mail and wakes the thread.
    pub(super) fn post(&self, write: impl FnOnce(&mut Mail)) {
        write(&mut self.lock());
        self.bell.notify_one();
    }

    /// Whether the thread is to end.
    pub(super) fn is_stopped(&self) -> bool {
        self.lock().stop
    }

    /// Takes the mail; waits for some, but not longer than `limit`.
    pub(super) fn take(&self, limit: Duration) -> Mail {
        let mail = self.lock();
        let is_empty = |mail: &mut Mail| {
            mail.hints.is_empty()
                && !mail.scan
                && !mail.stop
                && mail.checks.is_none()
                && mail.in_use.is_empty()
        };
        let (mut mail, _) = self
            .bell
            .wait_timeout_while(mail, limit, is_empty)
            .unwrap_or_else(PoisonError::into_inner);
        let stop = mail.stop;
        let taken = std::mem::take(&mut *mail);
        mail.stop = stop;
        taken
    }

    /// Takes what the watcher of `jobs` says.
    pub(super) fn event(&self, jobs: &Path, event: notify::Result<notify::Event>) {
        let Ok(event) = event else {
            self.post(|mail| mail.scan = true);
            return;
        };
        if event.need_rescan() {
            self.post(|mail| mail.scan = true);
            return;
        }
        // Our own reading makes these; writing is told by others.
        if matches!(event.kind, EventKind::Access(_)) {
            return;
        }
        if let (EventKind::Modify(ModifyKind::Name(RenameMode::Both)), [from, to]) =
            (event.kind, event.paths.as_slice())
        {
            if let (Place::Folder(from), Place::Folder(_)) = (place(jobs, from), place(jobs, to)) {
                self.hint(from, Hint::RenamedAway);
            }
            return;
        }
        for path in &event.paths {
            match place(jobs, path) {
                Place::Jobs => self.post(|mail| mail.scan = true),
                Place::Folder(name)
                    if event.kind == EventKind::Modify(ModifyKind::Name(RenameMode::To)) =>
                {
                    self.hint(name, Hint::RenamedIn);
                }
                Place::Folder(name) | Place::Inside(name) => self.hint(name, Hint::Touched),
                Place::Nowhere => {}
            }
        }
    }

    fn hint(&self, name: String, hint: Hint) {
        self.post(|mail| {
            if mail.hints.len() >= HINTS_MAX && !mail.hints.contains_key(&name) {
                mail.scan = true;
                return;
            }
            let known = mail.hints.entry(name).or_insert(hint);
            *known = hint.max(*known);
        });
    }

    fn lock(&self) -> MutexGuard<'_, Mail> {
        self.mail.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The link of a Kubernetes ConfigMap through which all of its files are read: the kubelet changes
/// them all at once by renaming another one over it.
const CONFIG_MAP_DATA: &str = "..data";

/// Where something happened.
#[derive(Debug, PartialEq, Eq)]
enum Place {
    /// To `jobs/` itself.
    Jobs,
    /// To the folder of a job, or something beside it.
    Folder(String),
    /// In the folder of a job.
    Inside(String),
    /// Where nothing belongs to a job.
    Nowhere,
}

fn place(jobs: &Path, path: &Path) -> Place {
    let Ok(below) = path.strip_prefix(jobs) else {
        return Place::Nowhere;
    };
    let names: Vec<String> = below
        .components()
        .filter_map(|part| match part {
            Component::Normal(name) => Some(name.to_string_lossy().into_owned()),
            _ => None,
        })
        .collect();
    let is_swap = names.len() == 2 && names[1] == CONFIG_MAP_DATA;
    if names.iter().any(|name| is_passing(name)) && (!is_swap || is_passing(&names[0])) {
        return Place::Nowhere;
    }
    match names.as_slice() {
        [] => Place::Jobs,
        [name] => Place::Folder(name.clone()),
        [name, ..] => Place::Inside(name.clone()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use notify::Event;
    use notify::event::AccessKind;
    use notify::event::CreateKind;
    use notify::event::Flag;

    fn mail_of(events: Vec<Event>) -> Mail {
        let inbox = Inbox::default();
        for event in events {
            inbox.event(Path::new("/r/jobs"), Ok(event));
        }
        inbox.take(Duration::ZERO)
    }

    fn event(kind: EventKind, paths: &[&str]) -> Event {
        paths.iter().fold(Event::new(kind), |event, path| {
            event.add_path(Path::new("/r/jobs").join(path))
        })
    }

    fn renamed(mode: RenameMode) -> EventKind {
        EventKind::Modify(ModifyKind::Name(mode))
    }

    #[test]
    fn a_rename_of_the_folder_itself_is_told_from_one_inside() {
        let mail = mail_of(vec![
            event(renamed(RenameMode::To), &["whole"]),
            event(renamed(RenameMode::To), &["edited/job.toml"]),
            event(renamed(RenameMode::From), &["a"]),
            event(renamed(RenameMode::To), &["b"]),
            event(renamed(RenameMode::Both), &["a", "b"]),
            event(renamed(RenameMode::From), &["c"]),
            event(renamed(RenameMode::Both), &["c", ".old"]),
        ]);
        let hints: Vec<(&str, Hint)> = mail.hints.iter().map(|(n, h)| (n.as_str(), *h)).collect();
        assert_eq!(
            hints,
            [
                ("a", Hint::RenamedAway),
                ("b", Hint::RenamedIn),
                ("c", Hint::Touched),
                ("edited", Hint::Touched),
                ("whole", Hint::RenamedIn),
            ]
        );
    }

    #[test]
    fn reading_and_passing_names_make_no_hints() {
        let mail = mail_of(vec![
            event(EventKind::Access(AccessKind::Any), &["a/job.toml"]),
            event(EventKind::Create(CreateKind::File), &["a/.job.toml.swp"]),
            event(EventKind::Create(CreateKind::Folder), &[".new-a"]),
        ]);
        assert!(mail.hints.is_empty() && !mail.scan);
    }

    #[test]
    fn an_overflow_and_a_crowd_of_hints_become_a_full_look() {
        let lost = Event::new(EventKind::Other).set_flag(Flag::Rescan);
        assert!(mail_of(vec![lost]).scan);
        let crowd = (0..=HINTS_MAX)
            .map(|n| event(EventKind::Create(CreateKind::Folder), &[&format!("j{n}")]))
            .collect();
        let mail = mail_of(crowd);
        assert!(mail.scan);
        assert_eq!(mail.hints.len(), HINTS_MAX);
    }
}
