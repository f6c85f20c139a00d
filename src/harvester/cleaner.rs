//! The cleaner: carries releases out when the outputs have passed what they wait for.
//!
//! One for all jobs; a release outlives its job, and is carried out with the rights that the job had. What it decides is `cleanup::release`'s, what it does
//! to a file is `files::reach`'s; it records both. Must never look into a file itself.

use std::collections::BTreeMap;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::sync::watch;

use crate::cleanup::release::Cursors;
use crate::cleanup::release::Verdict;
use crate::cleanup::release::Watch;
use crate::cleanup::release::is_system;
use crate::cleanup::release::judge;
use crate::clock;
use crate::clock::Tick;
use crate::event::Route;
use crate::event::Stream;
use crate::event::envelope::Envelope;
use crate::event::envelope::FileLabels;
use crate::event::envelope::FileReleased;
use crate::fileid::path_of;
use crate::files::reach;
use crate::files::reach::Done;
use crate::harvester::Host;
use crate::harvester::home;
use crate::process::User;
use crate::process::as_user;
use crate::queue::Action;
use crate::queue::Fact;
use crate::queue::FilePast;
use crate::queue::Ledger;
use crate::queue::Marks;
use crate::queue::Part;
use crate::queue::Portion;
use crate::queue::Refused;
use crate::queue::Release;
use crate::queue::ReleaseEnd;
use crate::queue::locked;
use crate::source::files::Setup;
use crate::source::files::pattern::TRASH_PREFIX;
use crate::units::Timestamp;

/// How often cursors are looked at: so late a file may go.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// Releases of one round; the rest has its turn in the next.
const ROUND_MAX: usize = 512;

/// How long a file rests under its last name: no writer takes so long from finding a name to opening it.
const TRASH_REST: Duration = Duration::from_secs(1);

/// When a release is tried again that somebody was in the way of.
const LATER: Duration = Duration::from_secs(5);

/// Folders of the root that are the program's or people's, not sources of events.
const OURS: [&str; 6] = [
    "dead-letter",
    "jobs",
    "plugins",
    "queue",
    "results",
    "state",
];

/// What the cleaner works with.
#[derive(Debug)]
pub struct Cleaner {
    /// What it shares with the harvesters.
    pub host: Arc<Host>,
    /// How far every output is, durably.
    pub marks: Marks,
    /// How far those were that left the configuration: what they had acknowledged counts.
    pub frozen: Marks,
    /// The root directory.
    pub root: PathBuf,
    /// Whether all jobs are known: before, nobody knows who else reads a file.
    pub complete: Arc<AtomicBool>,
}

/// A release that may be carried out, as it was when that was decided.
#[derive(Debug)]
struct Item {
    file: String,
    past: FilePast,
    release: Release,
    end: Option<ReleaseEnd>,
}

/// How long to wait before a release is tried again, and why.
type Wait = (Duration, String);

/// Cleans until `stop` says so; then once more, for what was acknowledged last.
pub async fn clean(cleaner: Cleaner, mut stop: watch::Receiver<bool>) {
    let mut watch = Watch::default();
    let mut later: BTreeMap<String, Tick> = BTreeMap::new();
    loop {
        let stopping = *stop.borrow();
        if let Err(refused) = cleaner.round(&mut watch, &mut later).await {
            if refused != Refused::Closed {
                tracing::error!(?refused, "files are not cleaned up any more");
            }
            return;
        }
        if stopping {
            return;
        }
        if let Some(Err(_)) = clock::within(LOOK_EVERY, stop.changed()).await {
            // Nobody is left who could want the last round.
            return;
        }
    }
}

impl Cleaner {
    async fn round(
        &self,
        watch: &mut Watch,
        later: &mut BTreeMap<String, Tick>,
    ) -> Result<(), Refused> {
        let mut cursors: Cursors = locked(&self.marks).clone();
        cursors.extend(
            locked(&self.frozen)
                .iter()
                .map(|(name, at)| (name.clone(), *at)),
        );
        let facts = watch.look(&locked(&self.host.ledger), &cursors);
        if !facts.is_empty() {
            self.record(Portion {
                facts,
                ..Portion::default()
            })
            .await?;
        }
        if !self.complete.load(Ordering::Relaxed) {
            return Ok(());
        }
        let now = clock::tick();
        later.retain(|_, at| *at > now);
        let mut items = self.due(&cursors, later);
        if items.is_empty() {
            return Ok(());
        }
        let begun: Vec<Fact> = items
            .iter()
            .filter(|item| item.end.is_none() && item.release.action == Action::Truncate)
            .map(|item| Fact::Releasing {
                file: item.file.clone(),
            })
            .collect();
        if !begun.is_empty() {
            self.record(Portion {
                facts: begun,
                ..Portion::default()
            })
            .await?;
        }
        let root = self.root.clone();
        let carried = tokio::task::spawn_blocking(move || {
            let root = root.canonicalize().unwrap_or(root);
            let waits = carry_all_out(&mut items, &root);
            items.retain(|item| item.end.is_some());
            (items, waits)
        });
        let Ok((items, waits)) = carried.await else {
            return Err(Refused::Broken("a clean-up has panicked".to_owned()));
        };
        for (file, (how_long, why)) in waits {
            tracing::debug!(file, why, "a clean-up waits");
            later.insert(file, clock::tick().after(how_long));
        }
        self.tell(items).await
    }

    /// What is to be done in this round.
    fn due(&self, cursors: &Cursors, later: &BTreeMap<String, Tick>) -> Vec<Item> {
        let ledger = locked(&self.host.ledger);
        let readers = locked(&self.host.readers);
        let waiting = ledger
            .files
            .iter()
            .filter(|(file, past)| past.release.is_some() && !later.contains_key(*file));
        waiting
            .filter_map(|(file, past)| {
                let release = past.release.clone()?;
                let path = path_of(&release.path);
                let end = match judge(&ledger, cursors, file, &readers_of(&readers, &path)) {
                    Verdict::Wait => return None,
                    Verdict::Go => None,
                    Verdict::Keep(reason) => Some(ReleaseEnd::Kept(reason)),
                };
                Some(Item {
                    file: file.clone(),
                    past: past.clone(),
                    release,
                    end,
                })
            })
            .take(ROUND_MAX)
            .collect()
    }

    /// Records what became of the releases, each with its event where people want to know.
    async fn tell(&self, items: Vec<Item>) -> Result<(), Refused> {
        let mut by_route: BTreeMap<Route, Portion> = BTreeMap::new();
        let at = clock::now();
        let gone: Vec<String> = locked(&self.frozen).keys().cloned().collect();
        for item in items {
            let Some(end) = item.end.clone() else {
                continue;
            };
            let mut outputs = item.past.of.outputs.clone();
            outputs.retain(|output| !gone.contains(output));
            let route = Route::to(outputs);
            let portion = by_route.entry(route.clone()).or_default();
            portion.route = route;
            let refused = match &end {
                ReleaseEnd::Done => Some(None),
                // It was told before the last start.
                ReleaseEnd::Kept(reason) if item.past.kept.as_ref() == Some(reason) => None,
                ReleaseEnd::Kept(reason) => Some(Some(reason.as_str())),
                ReleaseEnd::Gone | ReleaseEnd::Changed => None,
            };
            if let Some(refused) = refused {
                self.event(portion, at, &item, refused);
            }
            portion.facts.push(Fact::Released {
                file: item.file,
                end,
            });
        }
        for portion in by_route.into_values() {
            self.record(portion).await?;
        }
        Ok(())
    }

    fn event(&self, portion: &mut Portion, at: Timestamp, item: &Item, refused: Option<&str>) {
        let job = &item.past.of.job;
        let setup = locked(&self.host.readers).get(job).cloned();
        let path = path_of(&item.release.path);
        let no_fields = serde_json::Map::new();
        let tags = setup.as_ref().and_then(|setup| {
            let mut wanted = setup.wanted.iter();
            Some(&wanted.find(|wanted| wanted.names(&path).is_some())?.tags)
        });
        let labels = FileLabels {
            job,
            generation: setup.as_ref().map(|setup| setup.generation.as_str()),
            file: &item.file,
            path: &item.release.path,
            tags: tags.map_or(&[], Vec::as_slice),
            fields: setup.as_ref().map_or(&no_fields, |setup| &setup.fields),
        };
        let action = item.release.action.name();
        match refused {
            None => tracing::info!(job, path = item.release.path, action, "file is cleaned up"),
            Some(reason) => {
                tracing::warn!(
                    job,
                    path = item.release.path,
                    action,
                    reason,
                    "file is kept"
                );
            }
        }
        let told = FileReleased {
            action,
            bytes: item.release.stamp.bytes,
            refused,
        };
        let envelope = Envelope::of_file(&self.host.identity, &labels);
        portion
            .frames
            .push(|out| envelope.file_released(out, at, &told));
        portion.counters.created += 1;
        portion.parts.push(Part {
            job: job.as_str().into(),
            stream: Stream::File,
            count: 1,
            first: at,
            last: at,
        });
    }

    async fn record(&self, portion: Portion) -> Result<(), Refused> {
        let captured = self.host.intake.submit(portion).await?;
        captured.await.unwrap_or(Err(Refused::Closed)).map(drop)
    }
}

/// The jobs at work whose globs name this file.
fn readers_of(readers: &BTreeMap<String, Arc<Setup>>, path: &Path) -> Vec<String> {
    readers
        .iter()
        .filter(|(_, setup)| {
            setup
                .wanted
                .iter()
                .any(|wanted| wanted.names(path).is_some())
        })
        .map(|(job, _)| job.clone())
        .collect()
}

/// Carries releases out, those with the same rights together; says of which files it is to be tried again
/// later, and why. Blocks on the disk.
fn carry_all_out(items: &mut [Item], root: &Path) -> Vec<(String, Wait)> {
    let mut by_rights: BTreeMap<(u32, u32), Vec<&mut Item>> = BTreeMap::new();
    for item in items.iter_mut().filter(|item| item.end.is_none()) {
        let rights = (item.release.uid, item.release.gid);
        by_rights.entry(rights).or_default().push(item);
    }
    let mut waits = Vec::new();
    for ((uid, gid), mut items) in by_rights {
        let carried = User::of_ids(uid, gid).and_then(|user| {
            let work = || {
                let each = items.iter_mut();
                each.map(|item| carry_out(item, root)).collect::<Vec<_>>()
            };
            as_user(&user, work).map_err(|error| format!("cannot act as user {uid}: {error}"))
        });
        let carried = carried.unwrap_or_else(|why| vec![Err((LATER, why)); items.len()]);
        for (item, carried) in items.into_iter().zip(carried) {
            match carried {
                Ok(end) => item.end = Some(end),
                Err(wait) => waits.push((item.file.clone(), wait)),
            }
        }
    }
    waits
}

/// Carries one release out, with the rights of the calling thread.
fn carry_out(item: &Item, root: &Path) -> Result<ReleaseEnd, Wait> {
    let own = home(&root.join("state"), &item.past.of.job);
    let forbidden = |folder: &Path| {
        is_system(folder)
            || (OURS.iter().any(|name| folder.starts_with(root.join(name)))
                && !folder.starts_with(&own))
    };
    let order = reach::Order {
        action: item.release.action.clone(),
        path: path_of(&item.release.path),
        root: path_of(&item.release.root),
        id: item.past.of.id,
        head: item.past.of.head,
        stamp: item.release.stamp,
        tag: item.file.clone(),
        trash: format!("{TRASH_PREFIX}{}.trash", item.file),
        prune: item.release.prune.as_deref().map(path_of),
    };
    match reach::release(&order, forbidden) {
        Done::Done => Ok(ReleaseEnd::Done),
        Done::Gone => Ok(ReleaseEnd::Gone),
        Done::Changed => Ok(ReleaseEnd::Changed),
        Done::Refused(reason) => Ok(ReleaseEnd::Kept(reason)),
        Done::Later(why) => Err((LATER, why)),
        Done::Trashed => Err((TRASH_REST, "it rests in the trash".to_owned())),
    }
}

/// How many releases of a job wait.
#[must_use]
pub fn waiting(ledger: &Ledger, job: &str) -> u64 {
    let files = ledger.files.values();
    files
        .filter(|past| past.of.job == job && past.release.is_some())
        .count() as u64
}
