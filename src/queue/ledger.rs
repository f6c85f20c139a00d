//! The ledger: what all records so far add up to.
//!
//! A pure fold: the same records give the same ledger, so recovery is the newest checkpoint's
//! ledger plus the log after it. Only durable records are folded in.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde::Serialize;

use super::fact::Counters;
use super::fact::Fact;
use super::fact::FileFacts;
use super::fact::Part;
use super::fact::Release;
use super::fact::ReleaseEnd;
use crate::event::Route;
use crate::event::RunId;
use crate::run::Outcome;
use crate::run::Phase;
use crate::run::Trigger;

/// What the log says about a job.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct JobPast {
    /// Its last fire: the tick it belonged to, or when it was, in milliseconds since 1970.
    pub last_fire: Option<i64>,
    /// Start of the last successful run whose last event is durable, in milliseconds since 1970.
    pub last_success_at: Option<i64>,
    /// The generation of which a run has ended last.
    pub done_generation: Option<String>,
    /// Whether its `first_run` has succeeded, whatever is in it by now.
    pub first_run_done: bool,
    /// The last run that ended, those that prepare it apart.
    pub last_run: Option<LastRun>,
    /// How many of its events were captured.
    pub captured: u64,
    /// How many of its runs ended, those that prepare it apart.
    pub runs: u64,
    /// What became of the files that it reads.
    pub files: FileCounts,
}

impl JobPast {
    /// A run of this generation has ended.
    fn add(&mut self, trigger: Trigger, generation: &str, last: LastRun) {
        let is_success = last.outcome == Outcome::Success;
        match trigger.phase() {
            Phase::FirstRun => self.first_run_done |= is_success,
            Phase::Modules | Phase::Startup => {}
            Phase::Run => {
                self.runs += 1;
                if last.outcome.is_own_end() {
                    self.done_generation = Some(generation.to_owned());
                }
                if is_success {
                    self.last_success_at = Some(last.started_at);
                }
                self.last_run = Some(last);
            }
        }
    }
}

/// What became of the files that a job reads, since the queue was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct FileCounts {
    /// Files that were cleaned up.
    pub released: u64,
    /// Clean-ups that were refused.
    pub refused: u64,
    /// Last lines without an end that became events.
    pub partial_lines: u64,
    /// Files that were cut or replaced before what was seen in them had been read.
    pub cut_short: u64,
    /// Bytes that were seen in those and never read; more may have come and gone unseen.
    pub lost_bytes: u64,
}

/// What the log says about a generation of a file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FilePast {
    /// What is known of it.
    pub of: FileFacts,
    /// Where its next line begins.
    pub to: u64,
    /// The first event that may be its.
    pub first_seq: u64,
    /// The first event behind those that may be its.
    pub end_seq: u64,
    /// Its clean-up, while it waits.
    pub release: Option<Release>,
    /// Whether that clean-up had begun, so that what the file is now says nothing of what it was.
    pub releasing: bool,
    /// Why its clean-up was refused, and the file kept.
    pub kept: Option<String>,
}

/// Events that an output passed without an ACK.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Spoilt {
    /// How many it had passed so when that was looked at.
    pub total: u64,
    /// Where they may be: first, and first behind.
    pub ranges: Vec<(u64, u64)>,
}

/// The last run of a job that ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LastRun {
    /// The run.
    pub run: RunId,
    /// How it ended.
    pub outcome: Outcome,
    /// When it was started, in milliseconds since 1970.
    pub started_at: i64,
    /// When it ended, in milliseconds since 1970.
    pub at: i64,
}

/// A run that was fired and has not ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OpenRun {
    /// The job.
    pub job: String,
    /// The job's generation.
    pub generation: String,
    /// Why it was fired.
    pub trigger: Trigger,
    /// The tick it belongs to, in milliseconds since 1970.
    pub scheduled_at: Option<i64>,
    /// The outputs that get its events.
    pub outputs: Vec<String>,
    /// When it was fired, in milliseconds since 1970.
    pub at: i64,
}

/// The fold of all durable records.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Ledger {
    /// Number of the next event.
    pub next_seq: u64,
    /// Number of the next record.
    pub next_number: u64,
    /// Events whose records could not be read when the log was: they are captured and numbered, and
    /// what their sources counted is not known.
    pub lost: u64,
    /// The sources' counters.
    pub counters: Counters,
    /// What is known of each job.
    pub jobs: BTreeMap<String, JobPast>,
    /// Runs without an end.
    pub open: BTreeMap<RunId, OpenRun>,
    /// Files that are read, by generation.
    pub files: BTreeMap<String, FilePast>,
    /// By output, the first event that was for it: so one whose cursor is gone is not taken for a new one.
    pub outputs: BTreeMap<String, u64>,
    /// By output, what it passed without an ACK.
    pub spoilt: BTreeMap<String, Spoilt>,
}

/// Adds names that are not there yet.
fn join(names: &mut Vec<String>, others: Vec<String>) {
    for name in others {
        if !names.contains(&name) {
            names.push(name);
        }
    }
}

/// Most ranges that are kept for an output; beyond it the oldest two become one, which keeps more
/// files than need be.
const SPOILT_RANGES_MAX: usize = 64;

impl Ledger {
    /// The ledger of an empty queue: events and records count from 1.
    #[must_use]
    pub fn empty() -> Self {
        Self {
            next_seq: 1,
            next_number: 1,
            ..Self::default()
        }
    }

    /// How many events were ever queued.
    #[must_use]
    pub const fn queued(&self) -> u64 {
        self.next_seq.saturating_sub(1)
    }

    /// Folds one durable record in. `seq` is the number of its first event, `number` its own.
    pub fn fold(
        &mut self,
        number: u64,
        seq: u64,
        route: &Route,
        parts: &[Part],
        facts: &[Fact],
        counters: &Counters,
    ) {
        let events: u64 = parts.iter().map(|part| u64::from(part.count)).sum();
        self.pass(seq);
        self.next_number = number + 1;
        self.next_seq = seq + events;
        self.counters.add(counters);
        for output in route.outputs().iter().filter(|_| events > 0) {
            if !self.outputs.contains_key(output) {
                self.outputs.insert(output.clone(), seq);
            }
        }
        for part in parts {
            self.past(&part.job).captured += u64::from(part.count);
        }
        for fact in facts {
            self.apply(fact, seq);
        }
    }

    /// Passes events that have no record up to `seq`, the number of the next one.
    pub(super) fn pass(&mut self, seq: u64) {
        self.lost += seq.saturating_sub(self.next_seq);
        self.next_seq = self.next_seq.max(seq);
    }

    /// Takes a fact from the record whose events begin with number `first`.
    fn apply(&mut self, fact: &Fact, first: u64) {
        match fact {
            Fact::Fired {
                job,
                run,
                generation,
                trigger,
                scheduled_at,
                outputs,
                at,
            } => {
                // Only what the schedule fired moves its phase.
                if matches!(trigger, Trigger::Schedule | Trigger::Restart) {
                    self.past(job).last_fire = Some(scheduled_at.unwrap_or(*at));
                }
                let open = OpenRun {
                    job: job.clone(),
                    generation: generation.clone(),
                    trigger: *trigger,
                    scheduled_at: *scheduled_at,
                    outputs: outputs.clone(),
                    at: *at,
                };
                self.open.insert(run.clone(), open);
            }
            Fact::Ended {
                job,
                run,
                generation,
                trigger,
                outcome,
                started_at,
                at,
            } => {
                self.open.remove(run);
                let last = LastRun {
                    run: run.clone(),
                    outcome: *outcome,
                    started_at: *started_at,
                    at: *at,
                };
                self.past(job).add(*trigger, generation, last);
            }
            Fact::Read {
                file,
                of,
                to,
                before,
                events,
                partial,
                ..
            } => {
                self.past(&of.job).files.partial_lines += partial;
                let first = first + u64::from(*before);
                self.read(file, of, *to, (first, first + u64::from(*events)));
            }
            Fact::Forgotten { job, file, lost } => {
                // Emptied by us, and read anew before that was recorded.
                let was_ours = self.files.remove(file).is_some_and(|past| past.releasing);
                let counts = &mut self.past(job).files;
                counts.released += u64::from(was_ours);
                counts.cut_short += u64::from(*lost > 0);
                counts.lost_bytes += lost;
            }
            Fact::Release { file, release } => {
                if let Some(past) = self.files.get_mut(file) {
                    past.release = Some(release.clone());
                }
            }
            Fact::Releasing { file } => {
                if let Some(past) = self.files.get_mut(file) {
                    past.releasing = true;
                }
            }
            Fact::Released { file, end } => self.released(file, end),
            Fact::Spoilt {
                output,
                from,
                to,
                total,
            } => self.spoil(output, (*from, *to), *total),
            Fact::ForgottenOutput { output } => self.forget_output(output),
        }
    }

    fn read(&mut self, file: &str, of: &FileFacts, to: u64, (first, end): (u64, u64)) {
        let Some(past) = self.files.get_mut(file) else {
            let past = FilePast {
                of: of.clone(),
                to,
                first_seq: first,
                end_seq: end,
                release: None,
                releasing: false,
                kept: None,
            };
            self.files.insert(file.to_owned(), past);
            return;
        };
        let before = std::mem::replace(&mut past.of, of.clone());
        join(&mut past.of.outputs, before.outputs);
        join(&mut past.of.waits_for, before.waits_for);
        past.to = to;
        past.end_seq = end;
        // What was read on is not what was to be cleaned up.
        past.release = None;
        past.releasing = false;
        past.kept = None;
    }

    fn released(&mut self, file: &str, end: &ReleaseEnd) {
        let Some(past) = self.files.get_mut(file) else {
            return;
        };
        past.release = None;
        past.releasing = false;
        let job = past.of.job.clone();
        match end {
            ReleaseEnd::Done => {
                self.files.remove(file);
                self.past(&job).files.released += 1;
            }
            // It may only have been renamed: the position stays for whoever finds it again.
            ReleaseEnd::Gone | ReleaseEnd::Changed => {}
            // After each start it is asked for again: what was refused for this reason is one refusal.
            ReleaseEnd::Kept(reason) if past.kept.as_ref() == Some(reason) => {}
            ReleaseEnd::Kept(reason) => {
                past.kept = Some(reason.clone());
                self.past(&job).files.refused += 1;
            }
        }
    }

    /// From here on it is as if no event had ever been for `output`.
    fn forget_output(&mut self, output: &str) {
        self.spoilt.remove(output);
        self.outputs.remove(output);
        for open in self.open.values_mut() {
            open.outputs.retain(|wants| wants != output);
        }
        for past in self.files.values_mut() {
            past.of.waits_for.retain(|waited| waited != output);
            past.of.outputs.retain(|wants| wants != output);
        }
    }

    /// Notes where events are that an output passed without an ACK; forgets where no file depends on it.
    fn spoil(&mut self, output: &str, range: (u64, u64), total: u64) {
        let oldest = self.files.values().map(|past| past.first_seq).min();
        let spoilt = self.spoilt.entry(output.to_owned()).or_default();
        spoilt.total = total;
        spoilt
            .ranges
            .retain(|(_, to)| oldest.is_some_and(|oldest| *to > oldest));
        spoilt.ranges.push(range);
        if spoilt.ranges.len() > SPOILT_RANGES_MAX {
            let (from, _) = spoilt.ranges.remove(0);
            spoilt.ranges[0].0 = from;
        }
    }

    fn past(&mut self, job: &str) -> &mut JobPast {
        if !self.jobs.contains_key(job) {
            self.jobs.insert(job.to_owned(), JobPast::default());
        }
        self.jobs.get_mut(job).expect("inserted just above")
    }
}
