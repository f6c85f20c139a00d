//! The ledger: what all records so far add up to.
//!
//! A pure fold: the same records give the same ledger, so recovery is the newest checkpoint's
//! ledger plus the log after it. Only durable records are folded in.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde::Serialize;

use super::fact::Counters;
use super::fact::Fact;
use super::fact::Part;
use crate::event::RunId;
use crate::run::Outcome;
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
    /// The last run that ended.
    pub last_run: Option<LastRun>,
    /// How many of its events were captured.
    pub captured: u64,
    /// How many of its runs ended.
    pub runs: u64,
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
    /// The sources' counters.
    pub counters: Counters,
    /// What is known of each job.
    pub jobs: BTreeMap<String, JobPast>,
    /// Runs without an end.
    pub open: BTreeMap<RunId, OpenRun>,
}

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
        parts: &[Part],
        facts: &[Fact],
        counters: &Counters,
    ) {
        let events: u64 = parts.iter().map(|part| u64::from(part.count)).sum();
        self.next_number = number + 1;
        self.next_seq = seq + events;
        self.counters.add(counters);
        for part in parts {
            self.past(&part.job).captured += u64::from(part.count);
        }
        for fact in facts {
            self.apply(fact);
        }
    }

    fn apply(&mut self, fact: &Fact) {
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
                // A run by hand does not move the phase of the schedule.
                if *trigger != Trigger::Manual {
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
                outcome,
                started_at,
                at,
            } => {
                self.open.remove(run);
                let past = self.past(job);
                past.runs += 1;
                if outcome.is_own_end() {
                    past.done_generation = Some(generation.clone());
                }
                past.last_run = Some(LastRun {
                    run: run.clone(),
                    outcome: *outcome,
                    started_at: *started_at,
                    at: *at,
                });
                if *outcome == Outcome::Success {
                    past.last_success_at = Some(*started_at);
                }
            }
        }
    }

    fn past(&mut self, job: &str) -> &mut JobPast {
        if !self.jobs.contains_key(job) {
            self.jobs.insert(job.to_owned(), JobPast::default());
        }
        self.jobs.get_mut(job).expect("inserted just above")
    }
}
