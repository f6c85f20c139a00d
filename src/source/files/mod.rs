//! Harvesting files: which there are, how far each was read, and what has happened to it.
//!
//! One [`Harvest`] per job. A look finds files, reads on in them, and makes a portion of events with
//! the positions that belong to them, so that the log itself says where each file was. Asks for no
//! time and waits for nothing; all it sees of files comes through `files::reach`. Must never know
//! schedules, runs or outputs' states.

use std::collections::BTreeMap;
use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::clock::Tick;
use crate::event::Route;
use crate::event::envelope::Identity;
use crate::fileid::FileId;
use crate::fileid::path_of;
use crate::files::reach;
use crate::files::reach::Meta;
use crate::process::User;
use crate::queue::Action;
use crate::queue::Fact;
use crate::queue::FilePast;
use crate::queue::Portion;
use crate::source::files::pattern::Pattern;
use crate::source::gather::Limits;
use crate::units::Timestamp;

mod draft;
pub mod pattern;
mod rest;
pub mod slots;
#[cfg(test)]
mod tests;
mod tracked;

use draft::Draft;
use slots::Slots;
use tracked::Tracked;

/// Files of one job that are known at a time, those that are gone and may come back among them. Each
/// costs some 500 bytes here and in every checkpoint. What is beyond is not read, and counted.
pub const TRACKED_MAX: usize = 10_000;

/// Files of one job that are held open; see also [`Slots`]. At the limit those that rested longest are
/// closed.
pub const OPEN_MAX: usize = 128;

/// Entries that one glob's walk looks at; some 50 ms. What is beyond is not found, and told.
pub const ENTRIES_MAX: usize = 100_000;

/// Bytes that one look reads: so that a long line, or lines without content, do not hold up the rest.
const LOOK_BYTES_MAX: u64 = 8 << 20;

/// How long a file that was removed is read on without growing; then its blocks are given back.
const REMOVED_REST: Duration = Duration::from_secs(5);

/// How long a file that was renamed to where no glob looks is read on without growing: its writer may
/// not have noticed yet.
const RENAMED_REST: Duration = Duration::from_secs(30);

/// How long the position in a file that is gone is kept: its file system may only be unmounted.
const FORGET_AFTER: Duration = Duration::from_secs(24 * 3600);

/// One `[[files]]`, with its globs read.
#[derive(Debug, Clone)]
pub struct Wanted {
    /// Which files.
    pub patterns: Vec<Pattern>,
    /// Which not.
    pub exclude: Vec<Pattern>,
    /// Whether they are read only when [`Harvest::run_ended`] says so.
    pub at_run_end: bool,
    /// Whether a line is tried as a JSON object.
    pub json: bool,
    /// Longest line in bytes.
    pub max_event: usize,
    /// The job's tags and its own.
    pub tags: Vec<String>,
    /// How long a last line waits for its end.
    pub partial_timeout: Duration,
    /// What is done after the ACK.
    pub after_ack: Option<Action>,
    /// How long a file rests before that.
    pub quiet: Duration,
    /// Where that may be done; none: below the glob's literal part.
    pub roots: Vec<PathBuf>,
    /// Whether empty folders are removed.
    pub prune: bool,
}

impl Wanted {
    /// Which of its globs names this file, if one does.
    #[must_use]
    pub fn names(&self, path: &std::path::Path) -> Option<&Pattern> {
        if self.exclude.iter().any(|pattern| pattern.names(path)) {
            return None;
        }
        self.patterns.iter().find(|pattern| pattern.names(path))
    }
}

/// What a job harvests, and for whom.
#[derive(Debug, Clone)]
pub struct Setup {
    /// The job.
    pub job: Arc<str>,
    /// Its generation.
    pub generation: String,
    /// Its fields.
    pub fields: serde_json::Map<String, serde_json::Value>,
    /// Whose rights the files are read and cleaned up with.
    pub user: User,
    /// The outputs that get the events.
    pub route: Route,
    /// Those of them that its clean-ups wait for.
    pub waits_for: Vec<String>,
    /// Who ships.
    pub identity: Identity,
    /// When a portion is full.
    pub limits: Limits,
    /// Its `[[files]]`.
    pub wanted: Vec<Wanted>,
    /// How many files it may hold open.
    pub slots: Slots,
    /// A random number: the ids of files come from it.
    pub seed: u64,
}

/// The clocks, read once per look.
#[derive(Debug, Clone, Copy)]
pub struct Now {
    /// For events.
    pub wall: Timestamp,
    /// For waits.
    pub tick: Tick,
}

/// How hard to look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Look {
    /// On in the files that are open.
    Open,
    /// For new, renamed and removed files too.
    Scan,
    /// As a scan, and last lines do not wait for their ends: nothing is read after this.
    Last,
}

/// What a look brought.
#[derive(Debug, Default)]
pub struct Looked {
    /// What is to be captured, if anything.
    pub portion: Option<Portion>,
    /// Whether there is more to be read at once.
    pub more: bool,
    /// When the next look must not be late, changes apart.
    pub wake: Option<Tick>,
}

/// How a harvest is, for `status`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct View {
    /// Files that are known.
    pub tracked: u64,
    /// Files that are held open.
    pub open: u64,
    /// Bytes that were seen in files and not read yet.
    pub behind_bytes: u64,
    /// Files, links and the like that are named by a glob and not read, with the reason of one.
    pub refused: u64,
    /// Why something cannot be read, in words.
    pub problem: Option<String>,
}

/// See the module's header.
#[derive(Debug)]
pub struct Harvest {
    setup: Setup,
    files: BTreeMap<Arc<str>, Tracked>,
    by_id: HashMap<FileId, Arc<str>>,
    /// Which `[[files]]` are read at the moment: all but those that wait for the end of a run.
    armed: Vec<bool>,
    /// The folders that the last scan looked into.
    folders: Vec<PathBuf>,
    /// The file that was read last: the others have their turn first.
    turn: Option<Arc<str>>,
    /// Facts that wait for the next portion.
    facts: Vec<Fact>,
    refused: u64,
    problem: Option<String>,
    /// How many ids were made.
    made: u64,
}

impl Harvest {
    /// Goes on where the log says that the job's files were. Files of runs are read once at the
    /// start if `after_crash`: the daemon may have died between a run and its files.
    #[must_use]
    pub fn new(setup: Setup, known: Vec<(String, FilePast)>, after_crash: bool) -> Self {
        let armed = setup
            .wanted
            .iter()
            .map(|wanted| !wanted.at_run_end || after_crash)
            .collect();
        let mut harvest = Self {
            armed,
            files: BTreeMap::new(),
            by_id: HashMap::new(),
            folders: Vec::new(),
            turn: None,
            facts: Vec::new(),
            refused: 0,
            problem: None,
            made: 0,
            setup,
        };
        for (file, past) in known {
            let path = path_of(&past.of.path);
            let place = harvest.place_of(&path).unwrap_or(0);
            let max_event = harvest
                .setup
                .wanted
                .get(place)
                .map_or(1, |wanted| wanted.max_event);
            let file: Arc<str> = file.into();
            harvest.by_id.insert(past.of.id, Arc::clone(&file));
            let tracked = Tracked::known(Arc::clone(&file), place, path, &past, max_event);
            harvest.files.insert(file, tracked);
        }
        harvest
    }

    /// A run of the job has ended: what waits for that is read.
    pub fn run_ended(&mut self) {
        self.armed.fill(true);
    }

    /// The folders that the last scan looked into, to be watched.
    #[must_use]
    pub fn folders(&self) -> &[PathBuf] {
        &self.folders
    }

    /// Files whose clean-up was asked for and has not come to an end, as far as is known here.
    pub fn asked(&self) -> impl Iterator<Item = &Arc<str>> {
        let asked = self.files.values().filter(|file| file.is_pending());
        asked.map(|file| &file.id)
    }

    /// A clean-up was carried out, or the file is gone: the generation is over.
    pub fn over(&mut self, file: &str) {
        if let Some(tracked) = self.files.remove(file)
            && self.by_id.get(&tracked.of) == Some(&tracked.id)
        {
            self.by_id.remove(&tracked.of);
        }
    }

    /// No clean-up of it goes on at this moment: that the file differs from what was to be cleaned up
    /// is its writer's doing. `pending` says that one still waits.
    pub fn settled(&mut self, file: &str, pending: bool) {
        if let Some(tracked) = self.files.get_mut(file) {
            tracked.settle(pending);
        }
    }

    /// How it is.
    #[must_use]
    pub fn view(&self) -> View {
        let behind = |file: &Tracked| file.meta.map_or(0, |meta| meta.stamp.bytes);
        View {
            tracked: self.files.len() as u64,
            open: self.files.values().filter(|file| file.is_open()).count() as u64,
            behind_bytes: self
                .files
                .values()
                .filter(|file| !file.is_missing())
                .map(|file| behind(file).saturating_sub(file.at))
                .sum(),
            refused: self.refused,
            problem: self.problem.clone(),
        }
    }

    /// Looks, with the rights of the thread that it is called on: see [`Setup::user`]. Blocks on the disk.
    pub fn look(&mut self, now: Now, look: Look) -> Looked {
        self.problem = None;
        if look >= Look::Scan {
            self.scan(now);
        }
        let mut draft = Draft::new(self.setup.limits, now.wall);
        draft.facts.append(&mut self.facts);
        let more = self.read(now, look, &mut draft);
        let wake = self.rest(now, look, more, &mut draft);
        draft.facts.append(&mut self.facts);
        let portion = draft.into_portion(&self.setup);
        Looked {
            portion,
            more,
            wake,
        }
    }

    /// Reads on, file by file in turn; whether there is more.
    fn read(&mut self, now: Now, look: Look, draft: &mut Draft) -> bool {
        let ids: Vec<Arc<str>> = match &self.turn {
            Some(turn) => {
                let after = (std::ops::Bound::Excluded(turn), std::ops::Bound::Unbounded);
                let behind = self.files.range::<Arc<str>, _>(after);
                let before = self.files.range::<Arc<str>, _>(..=turn);
                behind.chain(before).map(|(id, _)| Arc::clone(id)).collect()
            }
            None => self.files.keys().cloned().collect(),
        };
        let mut budget = LOOK_BYTES_MAX;
        let mut open = self.files.values().filter(|file| file.is_open()).count();
        if self.setup.slots.are_scarce() {
            open -= self.close_some();
        }
        let mut crowded = false;
        for id in ids {
            if draft.is_full() || budget == 0 {
                return true;
            }
            let Some(file) = self.files.get_mut(&id) else {
                continue;
            };
            if !self.armed.get(file.place).is_some_and(|armed| *armed) || !file.is_due() {
                continue;
            }
            if !file.is_open() {
                if open >= OPEN_MAX || self.setup.slots.are_scarce() {
                    open -= self.close_some();
                }
                if open >= OPEN_MAX {
                    // All are being read, or are gone and out of reach once they are closed.
                    self.problem = Some(format!("more than {OPEN_MAX} files are read at a time"));
                    crowded = true;
                    continue;
                }
                open += 1;
            }
            let Some(file) = self.files.get_mut(&id) else {
                continue;
            };
            let flush = look == Look::Last;
            match file.read(&self.setup, now, flush, &mut budget, draft) {
                Ok(tracked::Read::Done) => {}
                Ok(tracked::Read::More) => {
                    // A line that is longer than what was read is read to its end first, so that
                    // there is only one of those in memory.
                    if !file.holds_much() {
                        self.turn = Some(id);
                    }
                    return true;
                }
                Ok(tracked::Read::Cut { lost }) => {
                    self.replace(&id, lost, now);
                    return true;
                }
                Err(error) => {
                    crowded |= error.kind() == std::io::ErrorKind::ResourceBusy;
                    let path = crate::fileid::path_text(&file.path);
                    self.problem = Some(format!("{path}: {error}"));
                }
            }
        }
        self.turn = None;
        if crowded {
            return false;
        }
        for (armed, wanted) in self.armed.iter_mut().zip(&self.setup.wanted) {
            *armed &= !wanted.at_run_end;
        }
        false
    }

    /// What was read as one file is another now, in the same place: begin anew.
    fn replace(&mut self, id: &Arc<str>, lost: u64, now: Now) {
        let Some(old) = self.files.remove(id) else {
            return;
        };
        self.forget(&old, lost);
        let fresh = self.new_id();
        let tracked = old.begin_anew(Arc::clone(&fresh), now);
        self.by_id.insert(tracked.of, Arc::clone(&fresh));
        self.files.insert(fresh, tracked);
    }

    fn forget(&mut self, file: &Tracked, lost: u64) {
        if file.is_recorded || lost > 0 {
            self.facts.push(Fact::Forgotten {
                job: self.setup.job.to_string(),
                file: file.id.to_string(),
                lost,
            });
        }
    }

    /// Closes the half of the files that rested longest, so that it is not done for each; how many.
    fn close_some(&mut self) -> usize {
        let mut resting: Vec<&mut Tracked> = self
            .files
            .values_mut()
            .filter(|file| file.is_open() && file.is_read() && !file.is_missing())
            .collect();
        resting.sort_by_key(|file| file.changed_at);
        let some = resting.len().div_ceil(2);
        resting.iter_mut().take(some).for_each(|file| file.close());
        some
    }

    /// Finds files by name.
    fn scan(&mut self, now: Now) {
        self.refused = 0;
        self.folders.clear();
        let mut complete = true;
        let mut seen: HashMap<FileId, ()> = HashMap::new();
        for place in 0..self.setup.wanted.len() {
            for at in 0..self.setup.wanted[place].patterns.len() {
                let wanted = &self.setup.wanted[place];
                let pattern = &wanted.patterns[at];
                let names =
                    |path: &std::path::Path| wanted.names(path).is_some() && pattern.names(path);
                let walked = match reach::walk(&pattern.base, pattern.depth, ENTRIES_MAX, names) {
                    Ok(walked) => walked,
                    Err(error) => {
                        if error.kind() != std::io::ErrorKind::NotFound {
                            complete = false;
                        }
                        self.problem = Some(format!("{}: {error}", pattern.base.display()));
                        continue;
                    }
                };
                if walked.overfull {
                    complete = false;
                    self.problem = Some(format!(
                        "{} holds more than {ENTRIES_MAX} entries; only the first are looked at",
                        pattern.base.display()
                    ));
                }
                if let (1.., Some(error)) = &walked.unreadable {
                    complete = false;
                    self.problem = Some(error.clone());
                }
                self.refused += walked.strange;
                self.folders.extend(walked.folders);
                for (path, meta) in walked.files {
                    if seen.insert(meta.id, ()).is_none() {
                        self.sight(now, place, path, meta);
                    }
                }
            }
        }
        for file in self.files.values_mut() {
            if !seen.contains_key(&file.of) && complete {
                file.missing(now);
            }
        }
    }

    /// A file is seen under this name.
    fn sight(&mut self, now: Now, place: usize, path: PathBuf, meta: Meta) {
        if meta.links > 1 {
            // Whoever may write here could have us read, or remove, what is not theirs.
            self.refused += 1;
            self.problem = Some(format!(
                "{}: has {} names (hard links) and is not read",
                crate::fileid::path_text(&path),
                meta.links
            ));
        }
        if let Some(file) = self
            .by_id
            .get(&meta.id)
            .and_then(|id| self.files.get_mut(id))
        {
            file.seen(now, path, meta);
            return;
        }
        if meta.links > 1 {
            return;
        }
        if self.files.len() >= TRACKED_MAX && !self.forget_oldest() {
            self.refused += 1;
            self.problem = Some(format!(
                "more than {TRACKED_MAX} files; the rest is not read until some are gone"
            ));
            return;
        }
        let id = self.new_id();
        let max_event = self.setup.wanted[place].max_event;
        let tracked = Tracked::fresh(Arc::clone(&id), place, path, meta, max_event, now);
        self.by_id.insert(meta.id, Arc::clone(&id));
        self.files.insert(id, tracked);
    }

    /// Makes room by forgetting the file that is gone longest.
    fn forget_oldest(&mut self) -> bool {
        let gone = self.files.values().filter(|file| file.is_gone());
        let Some(id) = gone
            .min_by_key(|file| file.changed_at)
            .map(|f| f.id.clone())
        else {
            return false;
        };
        if let Some(file) = self.files.get(&id) {
            let lost = file.unread();
            let file = self.files.remove(&id).expect("it was just found");
            self.by_id.remove(&file.of);
            self.forget(&file, lost);
        }
        true
    }

    fn place_of(&self, path: &std::path::Path) -> Option<usize> {
        let mut wanted = self.setup.wanted.iter();
        wanted.position(|wanted| wanted.names(path).is_some())
    }

    /// A random id: 16 hexadecimal digits (splitmix64).
    fn new_id(&mut self) -> Arc<str> {
        self.made += 1;
        let mut z = self
            .setup
            .seed
            .wrapping_add(self.made.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        format!("{:016x}", z ^ (z >> 31)).into()
    }
}
