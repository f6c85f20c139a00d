//! Results: what a run printed and how it ended, as files for people.
//!
//! `results/<job>/<run-id>/` holds `running.json` while the run goes on, `run.json` after it,
//! and the beginning and end of `stdout` and `stderr`. They are a projection of the queue's
//! facts: written without fsync, never read back as truth, and a failure to write them never
//! fails a run. Must never know how runs are started or events are stored.

use std::fmt;
use std::io;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use serde::Deserialize;
use serde::Serialize;

use crate::cleanup;
use crate::cleanup::Keep;
use crate::cleanup::Kept;
use crate::cleanup::State;
use crate::clock;
use crate::clock::Tick;
use crate::disk;
use crate::disk::Disk;
use crate::disk::DiskFile;
use crate::disk::EntryKind;
use crate::disk::Open;
use crate::disk::OsDisk;
use crate::disk::Replace;
use crate::event::RunId;
use crate::event::Seq;
use crate::event::Stream;
use crate::event::envelope::Counts;
use crate::run::Exit;
use crate::run::Outcome;
use crate::run::Trigger;
use crate::units::Timestamp;
use crate::units::show_duration;

use output::Output;

mod document;
mod follow;
mod output;

pub use document::DOCUMENT_BYTES_MAX;
pub use document::DOCUMENT_EVENTS_MAX;
pub use document::Delivery;
pub use document::DeliveryState;
pub use document::Document;
pub use follow::Follow;
pub use follow::Printed;

const RUNNING: &str = "running.json";
const ENDED: &str = "run.json";
const LATEST: &str = "latest";

/// Largest `run.json` that is read: ours are about 1 KiB, with a reason of some more.
const RECORD_BYTES_MAX: u64 = 1 << 20;

/// Most failures of one sweep that are told one by one; the rest is only counted.
const SWEEP_NOTES_MAX: usize = 10;

/// The results of all jobs.
#[derive(Debug, Clone)]
pub struct Results {
    dir: PathBuf,
}

/// What `running.json` and `run.json` say. Times are ISO 8601 in UTC. Reading is tolerant: what
/// is missing takes its empty value, what is unknown is passed over.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(default)]
pub struct Record {
    /// The job.
    pub job: String,
    /// The run's id.
    pub run: String,
    /// The job's generation.
    pub generation: String,
    /// Why it was started.
    pub trigger: String,
    /// The tick it belongs to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scheduled_at: Option<String>,
    /// When it was started.
    pub started_at: String,
    /// When it ended; missing while it runs, like all that follows.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ended_at: Option<String>,
    /// How long it took, for people.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub duration: Option<String>,
    /// How long it took, in milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub duration_ms: Option<u64>,
    /// How it ended: the name of an [`Outcome`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub outcome: Option<String>,
    /// Exit code, when its process exited.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<i32>,
    /// The signal that ended its process, if one did.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub signal: Option<i32>,
    /// Reason in words, for everything but success.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// What it did.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub counts: Option<Counts>,
    /// Number of its last event in the queue.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub captured_up_to: Option<u64>,
}

/// What is known when a run starts.
#[derive(Debug, Clone, Copy)]
pub struct Started<'a> {
    /// The job.
    pub job: &'a str,
    /// The run.
    pub run: &'a RunId,
    /// The job's generation.
    pub generation: &'a str,
    /// Why.
    pub trigger: Trigger,
    /// The tick it belongs to.
    pub scheduled_at: Option<Timestamp>,
    /// The group that may read the result; `None`: that of the daemon.
    pub group: Option<u32>,
    /// When.
    pub at: Timestamp,
}

/// What is known when a run has ended and its last event is durable.
#[derive(Debug, Clone, Copy)]
pub struct Ended<'a> {
    /// When.
    pub at: Timestamp,
    /// How long it took, by the monotonic clock.
    pub took: Duration,
    /// How.
    pub outcome: Outcome,
    /// How its process ended; `None` when there was none.
    pub exit: Option<Exit>,
    /// Reason in words.
    pub reason: Option<&'a str>,
    /// What it did.
    pub counts: Counts,
    /// Number of its last event; `None` when nothing could be captured.
    pub captured: Option<Seq>,
}

/// Why a result cannot be shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Unreadable {
    /// There is none: another name may be meant.
    Missing(String),
    /// It is there, but cannot be read.
    Damaged(String),
}

impl fmt::Display for Unreadable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Self::Missing(text) | Self::Damaged(text)) = self;
        f.write_str(text)
    }
}

impl std::error::Error for Unreadable {}

/// What a sweep did.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Swept {
    /// Results that were removed.
    pub removed: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Results that are still there.
    pub kept: u64,
    /// How long it took to look at all that there were, before any was removed.
    pub looked: Duration,
    /// Results and folders that could not be removed or looked at.
    pub failed: u64,
    /// The first failures in words.
    pub notes: Vec<String>,
}

impl Swept {
    fn fail(&mut self, note: String) {
        self.failed += 1;
        if self.notes.len() < SWEEP_NOTES_MAX {
            self.notes.push(note);
        }
    }
}

impl Results {
    /// The results below `dir`, which is `ROOT/results`; made when the first run starts.
    #[must_use]
    pub const fn new(dir: PathBuf) -> Self {
        Self { dir }
    }

    /// Opens the result of a run that starts. Never fails: see [`RunFiles::note`].
    #[must_use]
    pub fn start(&self, started: &Started<'_>) -> RunFiles {
        let dir = self.run_dir(started.job, started.run);
        let record = Record {
            job: started.job.to_owned(),
            run: started.run.to_string(),
            generation: started.generation.to_owned(),
            trigger: started.trigger.name().to_owned(),
            scheduled_at: started.scheduled_at.map(|at| at.to_string()),
            started_at: started.at.to_string(),
            ..Record::default()
        };
        let mut files = RunFiles {
            stdout: Output::new(dir.join(Stream::Stdout.name()), started.group),
            stderr: Output::new(dir.join(Stream::Stderr.name()), started.group),
            dir,
            record,
            file: None,
            note: None,
        };
        let opened = self.open_files(started, &mut files);
        if opened.is_err() {
            files.stdout.abandon();
            files.stderr.abandon();
        }
        files.remember(opened);
        files
    }

    /// Makes as few files as it can: on some file systems each new one costs more than all else of a run.
    fn open_files(&self, started: &Started<'_>, files: &mut RunFiles) -> Result<(), String> {
        let of_job = self.dir.join(started.job);
        for dir in [&of_job, &files.dir] {
            disk::make_shared_dir(dir, started.group).map_err(|error| failure(dir, &error))?;
        }
        let path = files.dir.join(RUNNING);
        let text = record_text(&path, &files.record)?;
        let file = disk::create_shared(&path, started.group)
            .and_then(|file| file.write_at(0, &text).map(|()| file))
            .map_err(|error| failure(&path, &error))?;
        files.file = Some(file);
        let link = of_job.join(LATEST);
        disk::link_latest(&link, started.run.as_str()).map_err(|error| failure(&link, &error))
    }

    /// Runs that have no `run.json` yet, or still a `running.json`: those that go on, which the caller
    /// knows, and those that were not closed when the daemon died. Looks at every result, so it has no place in
    /// the way of the start.
    ///
    /// # Errors
    /// In words, when the folders cannot be listed.
    pub fn left_running(&self) -> Result<Vec<(String, RunId)>, String> {
        let mut left = Vec::new();
        for job in self.jobs()? {
            for run in self.runs(&job)? {
                let dir = self.run_dir(&job, &run);
                let names = list(&dir)?;
                let has = |name| names.iter().any(|entry| entry.name == name);
                if has(RUNNING) || !has(ENDED) {
                    left.push((job.clone(), run));
                }
            }
        }
        Ok(left)
    }

    /// Turns a left `running.json` into `run.json`: [`Outcome::Interrupted`] unless the queue
    /// knows how the run ended. Does nothing where the run has no folder, or its `run.json`.
    ///
    /// # Errors
    /// In words, for status; the run itself is not concerned.
    pub fn settle(
        &self,
        job: &str,
        run: &RunId,
        outcome: Outcome,
        at: Timestamp,
        reason: Option<&str>,
    ) -> Result<(), String> {
        let dir = self.run_dir(job, run);
        let running = dir.join(RUNNING);
        let ended = dir.join(ENDED);
        if read_record(&ended).is_err() {
            let mut record = match read_record(&running) {
                Ok(record) => record,
                Err(Unreadable::Missing(_)) if !self.runs(job)?.contains(run) => return Ok(()),
                // The daemon died before or in the first write.
                Err(_) => Record {
                    job: job.to_owned(),
                    run: run.to_string(),
                    started_at: started_at(run).map(|at| at.to_string()).unwrap_or_default(),
                    ..Record::default()
                },
            };
            record.outcome = Some(outcome.name().to_owned());
            record.reason = reason.map(str::to_owned);
            record.ended_at = Some(at.to_string());
            if let Ok(started_at) = record.started_at.parse::<Timestamp>() {
                record.took(at.since(started_at));
            }
            write_record(&ended, &record)?;
        }
        remove_file(&running)
    }

    /// The jobs that have results, by name.
    ///
    /// # Errors
    /// In words, when the folder cannot be listed.
    pub fn jobs(&self) -> Result<Vec<String>, String> {
        let entries = list(&self.dir)?;
        Ok(entries
            .into_iter()
            .filter(|entry| entry.kind == EntryKind::Folder && is_plain_name(&entry.name))
            .map(|entry| entry.name)
            .collect())
    }

    /// A job's runs, newest first; none when it has no folder.
    ///
    /// # Errors
    /// In words, when the folder cannot be listed.
    pub fn runs(&self, job: &str) -> Result<Vec<RunId>, String> {
        if !is_plain_name(job) {
            return Ok(Vec::new());
        }
        let mut entries = list(&self.dir.join(job))?;
        entries.reverse();
        Ok(entries
            .into_iter()
            .filter(|entry| entry.kind == EntryKind::Folder && is_plain_name(&entry.name))
            .map(|entry| RunId::from_text(&entry.name))
            .collect())
    }

    /// What `run.json` says of a run or, while it has not ended, `running.json`.
    ///
    /// # Errors
    /// See [`Unreadable`].
    pub fn read(&self, job: &str, run: &RunId) -> Result<Record, Unreadable> {
        if !is_plain_name(job) || !is_plain_name(run.as_str()) {
            return Err(Unreadable::Missing(format!(
                "no result of {job}, run {run}"
            )));
        }
        let dir = self.run_dir(job, run);
        match read_record(&dir.join(ENDED)) {
            Err(Unreadable::Missing(_)) => read_record(&dir.join(RUNNING)),
            other => other,
        }
    }

    /// The first bytes, at most `max`, of what a run printed to a stream; nothing when it printed
    /// nothing, as there is no file then.
    ///
    /// # Errors
    /// See [`Unreadable`].
    pub fn output_head(
        &self,
        job: &str,
        run: &RunId,
        stream: Stream,
        max: usize,
    ) -> Result<Vec<u8>, Unreadable> {
        let path = self.run_dir(job, run).join(stream.name());
        let mut bytes = vec![0; max];
        let read = OsDisk
            .open(&path, Open::Read)
            .and_then(|file| file.read_at(0, &mut bytes));
        match read {
            Err(error) if error.kind() == io::ErrorKind::NotFound => bytes.clear(),
            read => bytes.truncate(read.map_err(|error| unreadable(&path, &error))?),
        }
        Ok(bytes)
    }

    /// What a run has printed to a stream since `follow` last looked.
    ///
    /// # Errors
    /// See [`Unreadable`].
    pub fn follow(
        &self,
        job: &str,
        run: &RunId,
        stream: Stream,
        follow: &mut Follow,
    ) -> Result<Printed, Unreadable> {
        let path = self.run_dir(job, run).join(stream.name());
        follow
            .look(&path)
            .map_err(|error| unreadable(&path, &error))
    }

    /// Removes the results of all jobs that the bounds do not allow: see [`cleanup::sweep`].
    /// Blocks on the disk and looks at every result, so it is for now and then.
    #[must_use]
    pub fn sweep(&self, now: Timestamp, keep_of: &dyn Fn(&str) -> Keep, total_bytes: u64) -> Swept {
        let began = clock::tick();
        let mut swept = Swept::default();
        let mut listing = Vec::new();
        match self.jobs() {
            Ok(jobs) => {
                for job in jobs {
                    self.list_job(now, &job, keep_of(&job), &mut listing, &mut swept);
                }
            }
            Err(note) => swept.fail(note),
        }
        swept.looked = clock::tick().since(began);
        self.remove_all(
            &cleanup::sweep(now, &listing, keep_of, total_bytes),
            &mut swept,
        );
        swept.kept = listing.len() as u64 - swept.removed;
        swept
    }

    fn remove_all(&self, remove: &[&Kept], swept: &mut Swept) {
        for kept in remove {
            let dir = self.run_dir(&kept.job, &kept.run);
            match disk::remove_tree(&dir) {
                Ok(()) => {
                    swept.removed += 1;
                    swept.bytes += kept.bytes;
                }
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => swept.fail(failure(&dir, &error)),
            }
        }
    }

    fn list_job(
        &self,
        now: Timestamp,
        job: &str,
        keep: Keep,
        listing: &mut Vec<Kept>,
        swept: &mut Swept,
    ) {
        let runs = match self.runs(job) {
            Ok(runs) => runs,
            Err(note) => return swept.fail(note),
        };
        for run in runs {
            let dir = self.run_dir(job, &run);
            match OsDisk.list(&dir) {
                Ok(entries) => listing.push(Kept {
                    at: self.age_from(job, &run, now, keep.age),
                    bytes: entries.iter().map(|entry| entry.bytes).sum(),
                    state: state_of(&entries),
                    job: job.to_owned(),
                    run,
                }),
                Err(error) => swept.fail(failure(&dir, &error)),
            }
        }
    }

    /// From when a result's age counts: its run's end. The start is in its name and never later,
    /// so `run.json` is only opened when the age could matter.
    fn age_from(&self, job: &str, run: &RunId, now: Timestamp, age: Duration) -> Timestamp {
        let started_at = started_at(run).unwrap_or(now);
        if now.since(started_at) <= age {
            return started_at;
        }
        self.read(job, run)
            .ok()
            .and_then(|record| record.ended_at?.parse().ok())
            .unwrap_or(started_at)
    }

    fn run_dir(&self, job: &str, run: &RunId) -> PathBuf {
        disk::under(&self.dir, &[job, run.as_str()])
    }
}

/// The result of a run that goes on. Dropped without [`RunFiles::end`] it stays `running.json`,
/// which the next start settles.
#[derive(Debug)]
pub struct RunFiles {
    dir: PathBuf,
    record: Record,
    stdout: Output,
    stderr: Output,
    /// `running.json`, which becomes `run.json`; `None` when it could not be made.
    file: Option<Arc<dyn DiskFile>>,
    note: Option<String>,
}

impl RunFiles {
    /// Takes what was read from a stream, as it came. The beginning is written at once, the rest
    /// now and then: see [`RunFiles::refresh`].
    pub fn output(&mut self, stream: Stream, chunk: &[u8], now: Tick) {
        let done = match stream {
            Stream::Stdout => self.stdout.write(chunk, now),
            Stream::Stderr => self.stderr.write(chunk, now),
            Stream::Run | Stream::Daemon | Stream::Lumberjack | Stream::File => Ok(()),
        };
        self.remember(done);
    }

    /// Brings the files up to date when they have not been for 5 seconds; for the pauses in which
    /// nothing is printed. Cheap when there is nothing to do.
    pub fn refresh(&mut self, now: Tick) {
        let stdout = self.stdout.refresh(now);
        let stderr = self.stderr.refresh(now);
        self.remember(stdout);
        self.remember(stderr);
    }

    /// The run's folder: `$SPOOLBEAT_RESULT_DIR`.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The first thing that went wrong with these files, for status. The run goes on without them.
    #[must_use]
    pub fn note(&self) -> Option<&str> {
        self.note.as_deref()
    }

    /// Closes the result; only to be called when the run's last event is durable, as `run.json`
    /// promises that. Returns [`RunFiles::note`].
    #[must_use]
    pub fn end(mut self, ended: &Ended<'_>) -> Option<String> {
        let closed = self.stdout.close().and(self.stderr.close());
        self.remember(closed);
        let record = &mut self.record;
        record.ended_at = Some(ended.at.to_string());
        record.took(ended.took);
        record.outcome = Some(ended.outcome.name().to_owned());
        (record.exit_code, record.signal) =
            ended.exit.map(Exit::code_or_signal).unwrap_or_default();
        record.reason = ended.reason.map(str::to_owned);
        record.counts = Some(ended.counts);
        record.captured_up_to = ended.captured.map(|seq| seq.0);
        if let Some(file) = self.file.take() {
            let written = self.finish(&*file);
            self.remember(written);
        }
        self.note
    }

    /// Writes the whole record over `running.json`, in one write, then gives it its name: `run.json`
    /// appears whole. The end has more fields than the start, so nothing of the start is left behind.
    fn finish(&self, file: &dyn DiskFile) -> Result<(), String> {
        let (running, ended) = (self.dir.join(RUNNING), self.dir.join(ENDED));
        let text = record_text(&running, &self.record)?;
        file.write_at(0, &text)
            .and_then(|()| OsDisk.rename(&running, &ended))
            .map_err(|error| failure(&ended, &error))
    }

    fn remember(&mut self, done: Result<(), String>) {
        if let Err(note) = done {
            self.note.get_or_insert(note);
        }
    }
}

impl Record {
    fn took(&mut self, took: Duration) {
        self.duration = Some(show_duration(took));
        self.duration_ms = u64::try_from(took.as_millis()).ok();
    }
}

/// The start that a run's id begins with: `20261121-080808.123`.
fn started_at(run: &RunId) -> Option<Timestamp> {
    let text = run.as_str().get(..19)?;
    let at = chrono::NaiveDateTime::parse_from_str(text, "%Y%m%d-%H%M%S%.3f").ok()?;
    Some(Timestamp(at.and_utc().timestamp_millis()))
}

fn state_of(entries: &[disk::Entry]) -> State {
    let has = |name| entries.iter().any(|entry| entry.name == name);
    if has(RUNNING) && !has(ENDED) {
        State::Running
    } else {
        State::Ended
    }
}

/// Whether a name is that of something directly in a folder, and not hidden.
fn is_plain_name(name: &str) -> bool {
    !name.is_empty() && !name.starts_with('.') && !name.contains(['/', '\0'])
}

fn list(dir: &Path) -> Result<Vec<disk::Entry>, String> {
    match OsDisk.list(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        other => other.map_err(|error| failure(dir, &error)),
    }
}

fn record_text(path: &Path, record: &Record) -> Result<Vec<u8>, String> {
    let mut text = serde_json::to_vec_pretty(record)
        .map_err(|error| format!("cannot write {}: {error}", path.display()))?;
    text.push(b'\n');
    Ok(text)
}

fn write_record(path: &Path, record: &Record) -> Result<(), String> {
    let text = record_text(path, record)?;
    OsDisk
        .replace(path, &text, Replace::Quick)
        .and_then(|()| disk::set_mode(path, 0o640))
        .map_err(|error| failure(path, &error))
}

fn read_record(path: &Path) -> Result<Record, Unreadable> {
    let text = OsDisk
        .read(path, RECORD_BYTES_MAX)
        .map_err(|error| unreadable(path, &error))?;
    serde_json::from_slice(&text)
        .map_err(|error| Unreadable::Damaged(format!("{}: {error}", path.display())))
}

fn remove_file(path: &Path) -> Result<(), String> {
    match OsDisk.remove(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other.map_err(|error| failure(path, &error)),
    }
}

fn unreadable(path: &Path, error: &io::Error) -> Unreadable {
    let text = failure(path, error);
    if error.kind() == io::ErrorKind::NotFound {
        Unreadable::Missing(text)
    } else {
        Unreadable::Damaged(text)
    }
}

fn failure(path: &Path, error: &io::Error) -> String {
    format!("{}: {error}", path.display())
}

#[cfg(test)]
mod tests;
