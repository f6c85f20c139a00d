//! `spoolbeat explain JOB`: when a job runs, what becomes of times at which it cannot, and what the
//! next changes of the clocks do to it.
//!
//! Works without the daemon, and asks it only where the phase of a period is. Must never change
//! anything.

use std::fmt::Write;
use std::path::Path;
use std::time::Duration;

use serde::Serialize;

use crate::cli::Done;
use crate::cli::block_on;
use crate::cli::check::words;
use crate::cli::load;
use crate::cli::load_job;
use crate::cli::say;
use crate::clock;
use crate::config;
use crate::control;
use crate::job::Job;
use crate::job::Task;
use crate::process;
use crate::schedule::ClockChange;
use crate::schedule::Cron;
use crate::schedule::Policy;
use crate::schedule::Schedule;
use crate::schedule::policy;
use crate::schedule::policy::Missed;
use crate::schedule::policy::OnPressure;
use crate::schedule::policy::Overlap;
use crate::schedule::policy::STRETCH_MAX;
use crate::status::Answer;
use crate::status::At;
use crate::status::Request;
use crate::units::Timestamp;
use crate::units::write_duration;

/// How many times are shown.
const TIMES_SHOWN: usize = 10;

/// How far ahead changes of the clocks are looked for.
const AHEAD: Duration = Duration::from_secs(366 * 86_400);

/// Say when a job runs next, what its policies mean, and what summer time does to it
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  spoolbeat explain disk --root /srv/spool
  spoolbeat explain disk --json | jq '.next[0].at'")]
pub struct Args {
    /// The job
    pub job: String,
    /// Print one JSON object for programs
    #[arg(long)]
    pub json: bool,
}

/// Everything that is known beforehand.
#[derive(Debug, Serialize)]
struct Explained {
    job: String,
    enabled: bool,
    schedule: String,
    timezone: Option<&'static str>,
    /// How far each tick is moved on this host.
    jitter_offset_ms: u64,
    /// What becomes of ticks that cannot be run at their time.
    policies: Vec<String>,
    next: Vec<Time>,
    clock_changes: Vec<Changed>,
}

/// A time at which the job is due.
#[derive(Debug, Serialize)]
struct Time {
    /// The tick, which is `scheduled_at` of the run.
    tick: At,
    /// When the run starts.
    at: At,
    /// The same on the wall clock of the job.
    local: String,
}

/// A change of the clocks within a year.
#[derive(Debug, Serialize)]
struct Changed {
    at: At,
    /// `skipped` or `doubled`.
    kind: &'static str,
    /// The first reading that is skipped or doubled, and the end of them.
    from: String,
    to: String,
    /// What the job does then.
    job: String,
}

pub(super) fn run(args: &Args, given: Option<&Path>) -> Done {
    let root = load(given, &[])?;
    let job = load_job(&root, &args.job)?;
    let Some(task) = job.task.clone() else {
        return Ok(say::done(&format!(
            "job {} has no [script]: it runs nothing",
            job.name
        )));
    };
    block_on(async {
        let explained = explain(&job, &task, phase(&root, &job.name).await, clock::now());
        let text = match args.json {
            true => serde_json::to_string(&explained).unwrap_or_default() + "\n",
            false => show(&explained),
        };
        say::report(&text, 0)
    })
}

/// When the daemon, if there is one, will run the job next.
async fn phase(root: &config::Root, name: &str) -> Option<Timestamp> {
    let state_dir = root.dir.join("state");
    let answer = control::ask(&state_dir, &Request::Status).await.ok()?;
    let Answer::Status(status) = answer else {
        return None;
    };
    let job = status.jobs.into_iter().find(|job| job.name == name)?;
    job.next_at.map(|at| at.0)
}

fn explain(job: &Job, task: &Task, phase: Option<Timestamp>, now: Timestamp) -> Explained {
    let policy = &task.policy;
    let offset = policy::offset(&process::hostname(), &job.name, policy.jitter);
    let time = |tick: Timestamp, local: &dyn Fn(Timestamp) -> String| {
        let at = tick.after(offset);
        Time {
            tick: At(tick),
            at: At(at),
            local: local(at),
        }
    };
    let mut policies = policies(&task.schedule, policy, offset);
    if let Some(every) = task.expect_every {
        let every = write_duration(every);
        policies.push(format!("expect_every {every}: an event when it has not succeeded for that long, and one when it has again"));
    }
    let (timezone, next, clock_changes) = match &task.schedule {
        Schedule::Cron(cron) => {
            let looked = Timestamp(now.0 - i64::try_from(offset.as_millis()).unwrap_or(0));
            let ticks = std::iter::successors(cron.next_after(looked), |at| cron.next_after(*at));
            let next = ticks.take(TIMES_SHOWN);
            let changes = cron.clock_changes(now, now.after(AHEAD));
            (
                Some(cron.timezone()),
                next.map(|tick| time(tick, &|at| cron.local(at))).collect(),
                changes.iter().map(|one| changed(cron, one)).collect(),
            )
        }
        Schedule::Every(period) => {
            let back = i64::try_from(offset.as_millis()).unwrap_or(0);
            let first = phase.map_or(now, |at| Timestamp(at.0 - back));
            let ticks = std::iter::successors(Some(first), |at| Some(at.after(*period)));
            let next = ticks.take(TIMES_SHOWN);
            let local = |at: Timestamp| at.to_string();
            (
                None,
                next.map(|tick| time(tick, &local)).collect(),
                Vec::new(),
            )
        }
        Schedule::EveryAfter(_) | Schedule::Once | Schedule::KeepRunning => {
            (None, Vec::new(), Vec::new())
        }
    };
    Explained {
        job: job.name.clone(),
        enabled: job.enabled,
        schedule: words(&task.schedule),
        timezone,
        jitter_offset_ms: crate::status::millis(offset),
        policies,
        next,
        clock_changes,
    }
}

/// What the policies mean, as far as they have a meaning for this kind of schedule.
fn policies(schedule: &Schedule, policy: &Policy, offset: Duration) -> Vec<String> {
    let mut said = Vec::new();
    if schedule.has_ticks() {
        if !policy.jitter.is_zero() {
            said.push(format!(
                "jitter {}: on this host each time is moved by {}",
                write_duration(policy.jitter),
                write_duration(offset)
            ));
        }
        said.push(match policy.overlap {
            Overlap::Skip => "overlap skip: a time that comes while it runs is skipped".to_owned(),
            Overlap::Queue => {
                "overlap queue: a time that comes while it runs waits for the end; the newest stands for all".to_owned()
            }
            Overlap::KillOld => {
                "overlap kill_old: a time that comes while it runs has the old run ended".to_owned()
            }
            Overlap::Parallel(most) => {
                format!("overlap parallel: up to {most} runs at a time, then times are skipped")
            }
        });
        said.push(match policy.missed {
            Missed::Skip => "missed skip: a missed time is not made up for".to_owned(),
            Missed::Once => "missed once: one run makes up for all missed times".to_owned(),
            Missed::All(most) => {
                format!("missed all: each of the newest {most} missed times is made up for")
            }
        });
    }
    if let Some(restart) = policy.restart {
        said.push(format!(
            "restart: after a failure up to {} more tries, the first after {}, then twice as long each",
            restart.max,
            write_duration(restart.backoff)
        ));
    }
    if *schedule == Schedule::KeepRunning {
        said.push("restarted when it ends: after 1s, then twice as long each up to 5m; a run of 1m is healthy".to_owned());
    } else {
        said.push(match policy.on_pressure {
            OnPressure::Pause => "on_pressure pause: no run while the queue is 80 % full".to_owned(),
            OnPressure::Stretch => format!(
                "on_pressure stretch: while the queue is 80 % full the period doubles with each run, up to {STRETCH_MAX} times"
            ),
        });
    }
    said
}

fn changed(cron: &Cron, change: &ClockChange) -> Changed {
    let (from, to) = change.span();
    let reading = |at: &chrono::NaiveDateTime| at.format("%H:%M:%S").to_string();
    let readings: Vec<String> = change.readings.iter().map(reading).collect();
    let fires: Vec<String> = change.fires.iter().map(|at| cron.local(*at)).collect();
    let job = match (readings.len(), change.is_forward(), cron.is_wildcard()) {
        (0, _, _) => "nothing: it is not due then".to_owned(),
        (_, true, true) => format!(
            "no run at {}, which do not exist; it goes on in real time",
            short(&readings)
        ),
        (_, true, false) => format!(
            "due at {}, which does not exist: runs once, at {}",
            short(&readings),
            short(&fires)
        ),
        (_, false, true) => format!("runs in both passes: {}", short(&fires)),
        (_, false, false) => format!("runs in the first pass only: {}", short(&fires)),
    };
    Changed {
        at: At(change.at),
        kind: if change.is_forward() {
            "skipped"
        } else {
            "doubled"
        },
        from: from.format("%Y-%m-%d %H:%M").to_string(),
        to: to.format("%H:%M").to_string(),
        job,
    }
}

/// The first few of a list.
fn short(list: &[String]) -> String {
    const SHOWN: usize = 4;
    let first = list.iter().take(SHOWN).cloned().collect::<Vec<_>>();
    let more = list.len().saturating_sub(SHOWN);
    match more {
        0 => first.join(", "),
        more => format!("{} and {more} more", first.join(", ")),
    }
}

fn show(explained: &Explained) -> String {
    let mut text = String::new();
    let off = if explained.enabled {
        ""
    } else {
        " (disabled: it is not run)"
    };
    let mut line = |args: std::fmt::Arguments<'_>| {
        writeln!(text, "{args}").expect("a String takes everything");
    };
    line(format_args!(
        "{}: {}{off}",
        explained.job, explained.schedule
    ));
    for policy in &explained.policies {
        line(format_args!("  {policy}"));
    }
    if !explained.next.is_empty() {
        line(format_args!("next times:"));
    }
    for time in &explained.next {
        line(format_args!("  {}", time.local));
    }
    if explained.timezone.is_some() && explained.clock_changes.is_empty() {
        line(format_args!("changes of the clocks within a year: none"));
    }
    for change in &explained.clock_changes {
        let Changed { kind, from, to, .. } = change;
        line(format_args!("{from} to {to} is {kind}: {}", change.job));
    }
    text
}
