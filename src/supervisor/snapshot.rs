//! What the supervisor knows, as plain data. The driver adds process, queue and outputs.
//!
//! Made only when somebody asks; the one place that looks at all jobs.

use std::sync::Arc;

use crate::config::Problem;
use crate::job::Job;
use crate::schedule::policy::OnPressure;
use crate::schedule::scheduler::Hold;
use crate::schedule::scheduler::View;
use crate::status;
use crate::status::At;
use crate::status::DaemonState;
use crate::status::JobState;
use crate::supervisor::Known;
use crate::supervisor::Now;
use crate::supervisor::Phase;
use crate::supervisor::Supervisor;

/// What the supervisor can tell of itself.
#[derive(Debug, Clone, PartialEq)]
pub struct Snapshot {
    /// What the daemon is doing.
    pub state: DaemonState,
    /// Why schedules are paused.
    pub paused: Option<String>,
    /// What is wrong with the newest edit of spoolbeat.toml.
    pub settings_problems: Vec<Problem>,
    /// Why `jobs/` cannot be looked at.
    pub unreadable: Option<String>,
    /// The jobs, by name; their captured events, and which scripts are over, are not known here.
    pub jobs: Vec<status::Job>,
}

impl Supervisor {
    pub(super) fn snapshot(&self, now: Now) -> Snapshot {
        let paused = self.pressure.paused();
        let state = match (self.phase, &paused) {
            (Phase::Running, None) => DaemonState::Running,
            (Phase::Running, Some(_)) => DaemonState::Paused,
            (Phase::Stopping { .. }, _) => DaemonState::Stopping,
            (Phase::Draining { .. } | Phase::Over, _) => DaemonState::Draining,
        };
        let jobs = self.jobs.iter();
        Snapshot {
            state,
            settings_problems: self.settings_problems.clone(),
            paused,
            unreadable: self.unreadable.clone(),
            jobs: jobs
                .map(|(name, known)| self.job(now, name, known))
                .collect(),
        }
    }

    fn job(&self, now: Now, name: &Arc<str>, known: &Known) -> status::Job {
        let view = self.scheduler.view(name);
        let runs = known.runs.iter().chain(&known.life.step);
        let running = runs.filter_map(|run| {
            self.runs.get(run).map(|live| status::Running {
                run: run.clone(),
                trigger: live.trigger,
                generation: live.job.generation.clone(),
                started_at: At(live.started_at),
                script_over: false,
            })
        });
        let rights = known.job.as_ref().map(|job| &job.rights);
        status::Job {
            name: name.to_string(),
            state: self.job_state(known, view.as_ref()),
            generation: known.job.as_ref().map(|job| job.generation.clone()),
            running: running.collect(),
            last_run: known.past.last_run.clone(),
            next_at: view.as_ref().and_then(|view| view.next).map(At),
            last_success_at: known.past.last_success_at.map(At),
            runs: known.past.runs,
            captured_events: 0,
            source: None,
            files: None,
            on_result: None,
            skipped_ticks: view.map_or(0, |view| view.skipped),
            waiting_runs: view.map_or(0, |view| view.waiting),
            restarts: view.map_or(0, |view| view.restarts),
            stretch: view.map_or(1, |view| view.stretch),
            preparation: known.preparation(now),
            overdue: self.expectations.is_overdue(name),
            user: rights.map(|rights| rights.user.name.clone()),
            notes: rights.map_or(Vec::new(), |rights| {
                self.can.lacks(&rights.limits, rights.user.uid)
            }),
            problems: known.problems.clone(),
        }
    }

    /// Whether the queue or the outputs keep the job from running now.
    fn is_held(&self, job: &Job) -> bool {
        let policy = job.task.as_ref().map(|task| task.policy);
        let stretches = policy.is_some_and(|policy| policy.on_pressure == OnPressure::Stretch);
        match self.pressure.hold() {
            Hold::Free => false,
            Hold::Pressed => !stretches,
            Hold::Held => true,
        }
    }

    fn job_state(&self, known: &Known, view: Option<&View>) -> JobState {
        let Some(job) = &known.job else {
            return if known.problems.is_empty() {
                JobState::Removed
            } else {
                JobState::Refused
            };
        };
        if !known.runs.is_empty() {
            JobState::Running
        } else if !job.enabled {
            JobState::Disabled
        } else if view.is_some_and(|view| view.paused) {
            JobState::Paused
        } else if self.is_held(job) {
            JobState::Held
        } else if known.closing > 0 || view.is_some_and(|view| view.waiting > 0) {
            JobState::Waiting
        } else if known.gate().is_some() {
            if known.has_failed() {
                JobState::Failed
            } else {
                JobState::Preparing
            }
        } else {
            JobState::Idle
        }
    }
}
