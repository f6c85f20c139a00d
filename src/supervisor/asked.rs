//! What people ask of the daemon, and the answers.
//!
//! A refusal says in plain words what stands against it. Knows no socket and no command line.

use std::sync::Arc;

use crate::config;
use crate::config::Problem;
use crate::event::RunId;
use crate::runner::Order;
use crate::schedule::scheduler::Act;
use crate::schedule::scheduler::Input;
use crate::status::Answer;
use crate::status::Request;
use crate::supervisor::Ask;
use crate::supervisor::Effect;
use crate::supervisor::Now;
use crate::supervisor::Phase;
use crate::supervisor::Say;
use crate::supervisor::Settings;
use crate::supervisor::Supervisor;

/// Most paused jobs: as many as are kept in mind of those that are gone.
const PAUSED_MAX: usize = super::REMOVED_MAX;

impl Supervisor {
    /// Answers a person.
    pub(super) fn asked(
        &mut self,
        now: Now,
        ask: Ask,
        request: Request,
        effects: &mut Vec<Effect>,
    ) {
        let answer = match request {
            Request::Status => {
                let snapshot = Box::new(self.snapshot(now));
                effects.push(Effect::Report { ask, snapshot });
                return;
            }
            Request::Stop => {
                self.stop(now, effects);
                Ok(Answer::Accepted)
            }
            Request::Reload => {
                effects.push(Effect::Reload { ask: Some(ask) });
                return;
            }
            Request::ForgetOutput { output } => {
                effects.push(Effect::ForgetOutput { ask, output });
                return;
            }
            Request::Trigger { job } => self.trigger(now, &job, effects),
            Request::Pause { job } => self.pause_job(&job, ask, effects),
            Request::Resume { job } => self.resume_job(now, &job, ask, effects),
            Request::End { target } => self.end(&target, effects),
            Request::Skip { output, to } => {
                effects.push(Effect::Skip { ask, output, to });
                return;
            }
        };
        match answer {
            // Answered when it has been written down.
            Ok(Answer::Accepted) if matches!(effects.last(), Some(Effect::KeepPaused { .. })) => {}
            Ok(answer) => effects.push(Effect::Reply { ask, answer }),
            Err(reason) => effects.push(Effect::Reply {
                ask,
                answer: Answer::Refused { reason },
            }),
        }
    }

    /// A job's name as it is kept, if there is such a job.
    fn name_of(&self, name: &str) -> Result<Arc<str>, String> {
        let known = self.jobs.get_key_value(name);
        known
            .map(|(name, _)| Arc::clone(name))
            .ok_or_else(|| format!("there is no job `{name}`; `spoolbeat status` lists them"))
    }

    fn trigger(
        &mut self,
        now: Now,
        name: &str,
        effects: &mut Vec<Effect>,
    ) -> Result<Answer, String> {
        let name = self.name_of(name)?;
        self.may_be_triggered(&name)?;
        let acts = self.scheduler.step(Input::Trigger {
            job: Arc::clone(&name),
            now: now.wall,
        });
        let mut started = None;
        for act in acts {
            let is_it = matches!(&act, Act::Fire(fire) if fire.job == name);
            let run = self.act(now, act, effects);
            if is_it {
                started = run;
            }
        }
        match started {
            Some(run) => Ok(Answer::Started { run }),
            None => Err(format!("job `{name}` cannot be run now")),
        }
    }

    fn may_be_triggered(&self, name: &Arc<str>) -> Result<(), String> {
        let Some(known) = self.jobs.get(name) else {
            return Err(format!("there is no job `{name}`"));
        };
        let Some(job) = &known.job else {
            return Err(format!(
                "job `{name}` has no good generation to run; `spoolbeat status` says what is wrong"
            ));
        };
        if !job.enabled {
            return Err(format!(
                "job `{name}` is disabled; set enabled = true in its job.toml"
            ));
        }
        let Some(task) = &job.task else {
            return Err(format!("job `{name}` has no [script] to run"));
        };
        if self.phase != Phase::Running || self.once.is_some() {
            return Err("the daemon starts no further runs".to_owned());
        }
        if known.closing > 0 {
            return Err(format!(
                "job `{name}` waits until the end of an interrupted run is recorded"
            ));
        }
        if let Some(step) = known.gate() {
            return Err(format!(
                "job `{name}` cannot be run before `{}` in its job.toml has succeeded; `spoolbeat status` says how far it is",
                step.name()
            ));
        }
        if known.runs.len() >= task.policy.overlap.runs_max()
            && let Some(run) = known.runs.first()
        {
            return Err(format!("job `{name}` is already running as {run}"));
        }
        Ok(())
    }

    /// Takes a job off its schedule, and off the way to it.
    pub(super) fn pause(&mut self, name: Arc<str>) {
        let acts = self.scheduler.step(Input::Pause {
            job: Arc::clone(&name),
        });
        debug_assert!(acts.is_empty(), "a pause starts nothing");
        self.paused_jobs.insert(Arc::clone(&name));
        self.prepare_at(&name, None);
    }

    fn pause_job(
        &mut self,
        name: &str,
        ask: Ask,
        effects: &mut Vec<Effect>,
    ) -> Result<Answer, String> {
        let name = self.name_of(name)?;
        if self.paused_jobs.contains(&name) {
            return Err(format!(
                "job `{name}` is paused already; `spoolbeat resume {name}` ends that"
            ));
        }
        if self.paused_jobs.len() >= PAUSED_MAX {
            return Err(format!("{PAUSED_MAX} jobs are paused, which is the most"));
        }
        self.pause(name);
        self.keep_paused(ask, effects);
        Ok(Answer::Accepted)
    }

    fn resume_job(
        &mut self,
        now: Now,
        name: &str,
        ask: Ask,
        effects: &mut Vec<Effect>,
    ) -> Result<Answer, String> {
        if !self.paused_jobs.remove(name) {
            let name = self.name_of(name)?;
            return Err(format!("job `{name}` is not paused"));
        }
        let input = Input::Resume {
            job: Arc::from(name),
            now: now.wall,
        };
        self.schedule(now, input, effects);
        self.prepare_soon(now, &Arc::from(name));
        self.keep_paused(ask, effects);
        Ok(Answer::Accepted)
    }

    fn keep_paused(&self, ask: Ask, effects: &mut Vec<Effect>) {
        let jobs = self.paused_jobs.iter().map(ToString::to_string).collect();
        effects.push(Effect::KeepPaused { ask, jobs });
    }

    /// Ends a run, or all runs of a job.
    fn end(&mut self, target: &str, effects: &mut Vec<Effect>) -> Result<Answer, String> {
        let run = RunId::from_text(target);
        let runs = match (self.runs.contains_key(&run), self.jobs.get(target)) {
            (true, _) => vec![run],
            (false, Some(known)) => known.runs.iter().chain(&known.life.step).cloned().collect(),
            (false, None) => {
                return Err(format!(
                    "there is no job and no running run `{target}`; `spoolbeat status` lists them"
                ));
            }
        };
        if runs.is_empty() {
            return Err(format!("job `{target}` is not running"));
        }
        for run in &runs {
            self.order(run, Order::Terminate, effects);
        }
        Ok(Answer::Ending { runs })
    }

    /// spoolbeat.toml was read again.
    pub(super) fn reread(
        &mut self,
        now: Now,
        ask: Option<Ask>,
        read: Result<Box<config::Root>, Vec<Problem>>,
        effects: &mut Vec<Effect>,
    ) {
        match read {
            Err(problems) => {
                self.settings_problems.clone_from(&problems);
                effects.push(Effect::Say(Say::SettingsRefused {
                    problems: problems.clone(),
                }));
                if let Some(ask) = ask {
                    let answer = Answer::Unusable { problems };
                    effects.push(Effect::Reply { ask, answer });
                }
            }
            Ok(root) => {
                let settings = Settings::of(&root);
                let max_concurrent = settings.max_concurrent;
                self.settings_problems.clear();
                self.stop_timeout = settings.stop_timeout;
                self.set_heartbeat(now, settings.heartbeat);
                self.preparations.most = max_concurrent;
                effects.push(Effect::TakeOver { ask, root });
                self.schedule(now, Input::Limit { max_concurrent }, effects);
            }
        }
        effects.push(Effect::Rescan);
    }
}
