//! The spool's thread: looks at folders when the watcher or the clock says so, loads what has
//! settled, and tells what changed.
//!
//! The periodic look is the truth; the watcher only makes it sooner (it misses what is written
//! into a folder that it does not know yet, and it overflows). The thread may wait for the
//! supervisor, never the other way round. Must never run a job.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::io;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;

use super::Change;
use super::generations::Generations;
use super::inbox::Inbox;
use super::inbox::Mail;
use super::watch::Now;
use super::watch::Seen;
use super::watch::Step;
use super::watch::Watch;
use super::watches::Watches;
use crate::clock;
use crate::clock::Tick;
use crate::config;
use crate::config::Defaults;
use crate::config::Grants;
use crate::config::Outlet;
use crate::config::Problem;
use crate::config::Standing;
use crate::config::check_folder;
use crate::config::check_jobs;
use crate::config::check_owners;
use crate::config::load_job;
use crate::disk::Disk;
use crate::files;
use crate::files::Kind;
use crate::files::Tree;
use crate::files::Unusable;
use crate::files::is_passing;
use crate::job::Job;

/// Changes that wait for the supervisor; then the thread waits. A change is small, and a start
/// with thousands of jobs is the only time when there are many.
const CHANGES_MAX: usize = 256;

/// Longest time between looks at a `jobs/` that cannot be read.
const UNREADABLE_RETRY: Duration = Duration::from_secs(2);

/// What the spool needs to know.
#[derive(Debug, Clone)]
pub struct Settings {
    /// `ROOT/jobs`, absolute.
    pub jobs: PathBuf,
    /// `ROOT/state`, absolute.
    pub state: PathBuf,
    /// The user that the daemon acts as.
    pub daemon: u32,
}

/// What may change while the daemon runs: when jobs are looked at, and what they are checked
/// against besides their own folder.
#[derive(Debug, Clone, PartialEq)]
pub struct Checks {
    /// How long a folder must be quiet before it is loaded.
    pub settle: Duration,
    /// Period of the full look.
    pub rescan: Duration,
    /// `[defaults]`.
    pub defaults: Defaults,
    /// The outputs that they may write to.
    pub outlets: Vec<Outlet>,
    /// `[credentials]`.
    pub grants: Grants,
}

/// The running spool; dropping it ends its thread after what it is doing.
#[derive(Debug)]
pub struct Spool {
    inbox: Arc<Inbox>,
}

impl Spool {
    /// Looks at everything now.
    pub fn rescan(&self) {
        self.inbox.post(|mail| mail.scan = true);
    }

    /// Checks all jobs anew, against other settings; those that come out different are told.
    pub fn configure(&self, checks: Checks) {
        self.inbox.post(|mail| mail.checks = Some(checks));
    }

    /// Lets go of a job's generations but the current one, the one before and those in use.
    pub fn retire(&self, job: &str, in_use: BTreeSet<String>) {
        self.inbox.post(|mail| {
            mail.in_use.insert(job.to_owned(), in_use);
        });
    }
}

impl Drop for Spool {
    fn drop(&mut self) {
        self.inbox.post(|mail| mail.stop = true);
    }
}

/// Starts the spool's thread; the first changes are the jobs that are there.
///
/// # Errors
/// When there can be no thread.
pub fn start(
    settings: Settings,
    checks: Checks,
    disk: Arc<dyn Disk>,
) -> io::Result<(Spool, mpsc::Receiver<Change>)> {
    let (changes, taken) = mpsc::channel(CHANGES_MAX);
    let inbox = Arc::new(Inbox::default());
    let driver = Driver {
        watch: Watch::new(checks.settle),
        watcher: Watches::new(&settings.jobs, &inbox),
        generations: Generations::new(disk, settings.state.clone()),
        jobs: BTreeMap::new(),
        retry: BTreeSet::new(),
        device: None,
        unreadable: None,
        next_scan: clock::tick(),
        inbox: Arc::clone(&inbox),
        settings,
        checks,
        changes,
    };
    std::thread::Builder::new()
        .name("spool".to_owned())
        .spawn(move || {
            // It ends when nobody listens any more, which is how it is meant to end.
            if driver.run().is_err() {
                tracing::debug!("nobody takes changes of the spool any more");
            }
        })?;
    Ok((Spool { inbox }, taken))
}

/// Nobody takes changes any more.
#[derive(Debug)]
struct Closed;

#[derive(Debug)]
struct Driver {
    settings: Settings,
    checks: Checks,
    inbox: Arc<Inbox>,
    changes: mpsc::Sender<Change>,
    watch: Watch,
    watcher: Watches,
    generations: Generations,
    jobs: BTreeMap<String, Known>,
    /// Jobs that could not be copied for a reason that may pass (a full disk).
    retry: BTreeSet<String>,
    /// File system of `jobs/`, to tell an unmounted one from an emptied one.
    device: Option<u64>,
    /// Why `jobs/` cannot be looked at.
    unreadable: Option<String>,
    next_scan: Tick,
}

/// What was told of a job.
#[derive(Debug, Default)]
struct Known {
    /// The last good one.
    job: Option<Arc<Job>>,
    /// The generation before that one.
    previous: Option<String>,
    /// Content that the last decision was about; another look at the same changes nothing.
    decided: Option<String>,
    /// What was wrong at the last decision.
    problems: Vec<Problem>,
}

impl Driver {
    fn run(mut self) -> Result<(), Closed> {
        self.scan()?;
        let mut complete = false;
        loop {
            if !complete && self.unreadable.is_none() && self.watch.next_due().is_none() {
                complete = true;
                self.tell(Change::Complete)?;
            }
            let due = match self.unreadable {
                None => self.watch.next_due().unwrap_or(self.next_scan),
                Some(_) => self.next_scan,
            };
            let limit = due.min(self.next_scan).since(clock::tick());
            let mail = self.inbox.take(limit);
            if mail.stop {
                return Ok(());
            }
            let scan = self.read(mail);
            if scan || clock::tick() >= self.next_scan {
                self.scan()?;
            } else if self.unreadable.is_none() {
                let due = self.watch.due(now_both());
                self.look_at(due)?;
            }
        }
    }

    /// Takes the mail in; whether everything is to be looked at.
    fn read(&mut self, mail: Mail) -> bool {
        for (job, in_use) in mail.in_use {
            self.retire(&job, &in_use);
        }
        for (name, hint) in mail.hints {
            // What is watched under a name may be another folder by now.
            self.watcher.forget(&self.settings.jobs.join(&name));
            self.watch.hint(&name, hint, now_both());
        }
        if let Some(checks) = mail.checks {
            self.watch.set_settle(checks.settle);
            self.checks = checks;
            // Also when nothing in them is other: users, keys and programs may be there by now.
            for (name, known) in &mut self.jobs {
                known.decided = None;
                self.watch.unsettle(name, now_both());
            }
        }
        mail.scan
    }

    /// Looks at everything.
    fn scan(&mut self) -> Result<(), Closed> {
        self.next_scan = clock::tick().after(self.checks.rescan);
        let names = match self.list() {
            Ok(names) => names,
            Err(reason) => return self.tell_unreadable(reason),
        };
        if self.unreadable.take().is_some() {
            self.tell(Change::Readable)?;
        }
        for name in std::mem::take(&mut self.retry) {
            self.watch.unsettle(&name, now_both());
        }
        let mut all: BTreeSet<String> = names.into_iter().collect();
        all.extend(self.watch.known().map(str::to_owned));
        self.look_at(all.into_iter().collect())
    }

    /// The names in `jobs/`, or why they cannot be believed.
    fn list(&mut self) -> Result<Vec<String>, String> {
        let jobs = &self.settings.jobs;
        let place = check_jobs(jobs, self.settings.daemon)?;
        self.watcher.watch(jobs, place.identity);
        let mut names = files::names(jobs)
            .map_err(|error| format!("{} cannot be read: {error}", jobs.display()))?;
        names.retain(|name| !is_passing(name));
        let moved = self.device.is_some_and(|device| device != place.identity.0);
        if moved && names.is_empty() && !self.jobs.is_empty() {
            return Err(format!(
                "{} is empty and on another file system than before: it seems to be unmounted",
                jobs.display()
            ));
        }
        self.device = Some(place.identity.0);
        Ok(names)
    }

    fn tell_unreadable(&mut self, reason: String) -> Result<(), Closed> {
        self.next_scan = clock::tick().after(self.checks.rescan.min(UNREADABLE_RETRY));
        if self.unreadable.as_ref() == Some(&reason) {
            return Ok(());
        }
        self.unreadable = Some(reason.clone());
        self.tell(Change::Unreadable { reason })
    }

    /// Looks at these folders; those that are gone first, so that a renamed job goes before it comes.
    fn look_at(&mut self, mut names: Vec<String>) -> Result<(), Closed> {
        names.sort_by_cached_key(|name| files::look(&self.settings.jobs.join(name)).is_ok());
        for name in names {
            if self.inbox.is_stopped() {
                return Ok(());
            }
            let folder = self.settings.jobs.join(&name);
            let tree = match self.walk(&folder) {
                Ok(tree) => tree,
                Err(reason) => return self.tell_unreadable(reason),
            };
            let seen = tree.as_ref().map_or(Seen::Nothing, |tree| Seen::Folder {
                print: tree.print(),
                newest_change: tree.newest_change(),
            });
            match (self.watch.look(&name, seen, now_both()), tree) {
                (Some(Step::Settled(_)), Some(tree)) => self.load(&name, &folder, &tree)?,
                (Some(Step::Restless(_)), _) => {
                    let message = "keeps changing; it is loaded when it is quiet".to_owned();
                    let problem = Problem::of_file(format!("jobs/{name}"), message);
                    self.refuse(&name, None, vec![problem])?;
                }
                (Some(Step::Gone(_)), _) => {
                    self.watcher.drop_below(&folder);
                    self.generations.forget_current(&name);
                    self.jobs.remove(&name);
                    self.retry.remove(&name);
                    self.tell(Change::Removed { job: name })?;
                }
                (Some(Step::Settled(_)) | None, _) => {}
            }
        }
        Ok(())
    }

    /// What is in a folder; `None` when it is no folder; why nothing can be believed any more.
    fn walk(&mut self, folder: &Path) -> Result<Option<Tree>, String> {
        let found = files::look(folder).and_then(|item| match item.kind {
            Kind::Dir => {
                self.watcher.watch(folder, item.identity);
                files::walk(folder).map(Some)
            }
            Kind::Link => files::walk(folder).map(Some),
            Kind::File | Kind::Special => Ok(None),
        });
        match found {
            Ok(None) => Ok(None),
            Ok(Some(tree)) => {
                for item in tree.items.iter().filter(|item| item.kind == Kind::Dir) {
                    if !item.path.is_empty() {
                        self.watcher.watch(&folder.join(&item.path), item.identity);
                    }
                }
                Ok(Some(tree))
            }
            Err(error) => {
                self.still_there()?;
                let tree = || Tree::unreadable(error.to_string());
                Ok((error.kind() != io::ErrorKind::NotFound).then(tree))
            }
        }
    }

    /// Whether `jobs/` is what it was, when a folder in it is not.
    fn still_there(&mut self) -> Result<(), String> {
        match files::look(&self.settings.jobs.join(".")) {
            Ok(place) if Some(place.identity.0) == self.device => Ok(()),
            _ => self.list().map(|_| ()),
        }
    }

    /// Loads a folder that has settled and looked like `seen`.
    fn load(&mut self, name: &str, folder: &Path, seen: &Tree) -> Result<(), Closed> {
        let tree = match check_folder(name, folder, self.settings.daemon) {
            Ok(tree) => tree,
            Err(problems) => return self.refuse(name, None, problems),
        };
        let made = if tree.print() == seen.print() {
            self.generation(name, folder, &tree)
        } else {
            Err(Unusable::Changed)
        };
        match made {
            Ok(None) => {
                // The text is the one that was decided on, but owners and modes may be others.
                let known = self.jobs.get(name).and_then(|known| known.job.as_ref());
                let problems = known.map(|job| self.owners(name, &tree, job));
                match problems.unwrap_or_default() {
                    problems if problems.is_empty() => Ok(()),
                    problems => self.refuse(name, None, problems),
                }
            }
            Ok(Some((hash, Ok(job)))) => self.accept(name, hash, job),
            Ok(Some((hash, Err(problems)))) => self.refuse(name, Some(hash), problems),
            Err(Unusable::Changed) => {
                self.watch.unsettle(name, now_both());
                Ok(())
            }
            Err(error) => {
                self.retry.insert(name.to_owned());
                let problem = Problem::of_file(format!("jobs/{name}"), error.to_string());
                self.refuse(name, None, vec![problem])
            }
        }
    }

    /// Makes the generation of a folder and checks it; `None` when it was decided on before.
    #[expect(clippy::type_complexity, reason = "hash, and the job or its problems")]
    fn generation(
        &self,
        name: &str,
        folder: &Path,
        tree: &Tree,
    ) -> Result<Option<(String, Result<Job, Vec<Problem>>)>, Unusable> {
        let owner = tree.owner();
        let reader = config::reader_of(owner, self.settings.daemon)
            .map_err(|why| Unusable::Copy(io::Error::other(why)))?;
        let hash = tree.content(folder, owner, &reader)?;
        let decided = self.jobs.get(name).and_then(|known| known.decided.as_ref());
        if decided == Some(&hash) {
            return Ok(None);
        }
        let copy = self.generations.copy(name, &hash, folder, tree, &reader)?;
        let checked = self.check(name, copy.place(), &hash, owner);
        match checked.and_then(|job| self.with_owners(name, tree, job)) {
            Ok(job) => {
                let folder = self.generations.keep(name, copy, &job.rights.user);
                let folder = folder.map_err(Unusable::Copy)?;
                let note = (hash.clone(), owner);
                if self.generations.current(name).as_ref() != Some(&note) {
                    let noted = self.generations.set_current(name, &hash, owner);
                    noted.map_err(Unusable::Copy)?;
                }
                Ok(Some((hash, Ok(Job { folder, ..job }))))
            }
            Err(problems) => {
                self.generations.throw_away(&copy).map_err(Unusable::Copy)?;
                Ok(Some((hash, Err(problems))))
            }
        }
    }

    fn check(
        &self,
        name: &str,
        folder: &Path,
        hash: &str,
        owner: u32,
    ) -> Result<Job, Vec<Problem>> {
        let Checks {
            defaults,
            outlets,
            grants,
            ..
        } = &self.checks;
        let standing = Standing {
            owner,
            daemon: self.settings.daemon,
            grants: grants.clone(),
        };
        load_job(name, folder, hash, &standing, defaults, outlets)
    }

    fn owners(&self, name: &str, tree: &Tree, job: &Job) -> Vec<Problem> {
        check_owners(name, tree, &job.rights.user, self.settings.daemon)
    }

    fn with_owners(&self, name: &str, tree: &Tree, job: Job) -> Result<Job, Vec<Problem>> {
        match self.owners(name, tree, &job) {
            problems if problems.is_empty() => Ok(job),
            problems => Err(problems),
        }
    }

    fn accept(&mut self, name: &str, hash: String, job: Job) -> Result<(), Closed> {
        let known = self.jobs.entry(name.to_owned()).or_default();
        known.decided = Some(hash);
        let was_refused = !std::mem::take(&mut known.problems).is_empty();
        if known.job.as_deref() == Some(&job) && !was_refused {
            return Ok(());
        }
        let job = Arc::new(job);
        if let Some(before) = known.job.replace(Arc::clone(&job))
            && before.generation != job.generation
        {
            known.previous = Some(before.generation.clone());
        }
        self.tell(Change::Loaded(job))
    }

    fn refuse(
        &mut self,
        name: &str,
        hash: Option<String>,
        problems: Vec<Problem>,
    ) -> Result<(), Closed> {
        if !self.jobs.contains_key(name) {
            self.load_last_good(name)?;
        }
        let known = self.jobs.entry(name.to_owned()).or_default();
        known.decided = hash;
        if known.problems == problems {
            return Ok(());
        }
        known.problems.clone_from(&problems);
        let job = name.to_owned();
        self.tell(Change::Refused { job, problems })
    }

    /// Loads what was good before the daemon was started, in place of a bad edit.
    fn load_last_good(&mut self, name: &str) -> Result<(), Closed> {
        let Some((hash, owner)) = self.generations.last_good(name) else {
            return Ok(());
        };
        let folder = self.generations.folder(name, &hash);
        match self.check(name, &folder, &hash, owner) {
            Ok(job) => self.accept(name, hash, job),
            Err(problems) => {
                tracing::warn!(job = name, problem = %problems[0], "the last good generation is not good any more");
                Ok(())
            }
        }
    }

    fn retire(&self, name: &str, in_use: &BTreeSet<String>) {
        let mut keep: Vec<&str> = in_use.iter().map(String::as_str).collect();
        // Until the job is decided on, nobody knows which one is good.
        let Some(known) = self.jobs.get(name) else {
            return;
        };
        keep.extend(known.job.as_ref().map(|job| job.generation.as_str()));
        keep.extend(known.previous.as_deref());
        let current = self.generations.current(name);
        keep.extend(current.as_ref().map(|(hash, _)| hash.as_str()));
        if let Err(error) = self.generations.retire(name, &keep) {
            tracing::warn!(job = name, %error, "old generations stay");
        }
    }

    fn tell(&self, change: Change) -> Result<(), Closed> {
        self.changes.blocking_send(change).map_err(|_| Closed)
    }
}

fn now_both() -> Now {
    Now {
        tick: clock::tick(),
        wall: clock::now(),
    }
}

#[cfg(test)]
mod tests;
