//! `trigger`, `pause`, `resume`, `stop` and `reload`: what a person asks of the running daemon.
//!
//! Each asks over the control socket and says the answer in words; exit code 1 when it is refused
//! or no daemon answers. Must never do anything by itself.

use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use crate::cli::Done;
use crate::cli::EXIT_ERROR;
use crate::cli::block_on;
use crate::cli::find_dir;
use crate::cli::say;
use crate::clock;
use crate::control;
use crate::control::AskError;
use crate::event::RunId;
use crate::results::Record;
use crate::results::Results;
use crate::status::Answer;
use crate::status::Request;

/// Between two looks for the end of a run.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// Looks between two questions whether the daemon is still there.
const LOOKS_PER_QUESTION: u32 = 10;

/// Run a job now, whatever its schedule says
///
/// Neither `max_concurrent_runs` nor a pause nor a full queue stands against it, only a run of the
/// same job (`overlap`). With --wait the exit code is 0 when the run succeeded, else 1.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  spoolbeat trigger disk --root /srv/spool
  spoolbeat trigger disk --wait")]
pub struct TriggerArgs {
    /// The job
    pub job: String,
    /// Wait until the run has ended, and say how
    #[arg(long)]
    pub wait: bool,
    /// Print JSON for programs
    #[arg(long)]
    pub json: bool,
}

/// A job.
#[derive(Debug, clap::Args)]
pub struct JobArgs {
    /// The job
    pub job: String,
}

/// What is ended.
#[derive(Debug, clap::Args)]
pub struct StopArgs {
    /// The job, or one of its runs
    #[arg(value_name = "JOB|RUN")]
    pub target: String,
}

/// Asks the daemon of `root` one thing; a refusal is said and becomes the exit code.
pub(super) async fn ask(root: &Path, request: &Request) -> Result<Answer, ExitCode> {
    match control::ask(&root.join("state"), request).await {
        Ok(Answer::Refused { reason }) => Err(say::fail(EXIT_ERROR, &reason)),
        Ok(answer) => Ok(answer),
        Err(error) => Err(say::fail(EXIT_ERROR, &error.to_string())),
    }
}

/// The daemon's answer is not one to the question: it is of another version.
pub(super) fn not_an_answer() -> ExitCode {
    say::fail(EXIT_ERROR, "the daemon answers another question")
}

/// Asks one thing and says that it is done.
fn simple(given: Option<&Path>, request: Request, done: &str) -> Done {
    let root = find_dir(given)?;
    block_on(async {
        match ask(&root, &request).await {
            Ok(Answer::Accepted) => say::done(done),
            Ok(_) => not_an_answer(),
            Err(said) => said,
        }
    })
}

pub(super) fn pause(args: JobArgs, given: Option<&Path>) -> Done {
    let done = format!(
        "job {0} is paused, also across restarts of the daemon; a run that goes on is left to end; `spoolbeat resume {0}` ends the pause",
        args.job
    );
    simple(given, Request::Pause { job: args.job }, &done)
}

pub(super) fn resume(args: JobArgs, given: Option<&Path>) -> Done {
    let done = format!("job {} goes on with its schedule", args.job);
    simple(given, Request::Resume { job: args.job }, &done)
}

pub(super) fn stop(args: StopArgs, given: Option<&Path>) -> Done {
    let root = find_dir(given)?;
    let target = args.target;
    block_on(async {
        match ask(&root, &Request::End { target }).await {
            Ok(Answer::Ending { runs }) => {
                let runs: Vec<String> = runs.iter().map(ToString::to_string).collect();
                say::done(&format!("told to end: {}", runs.join(", ")))
            }
            Ok(_) => not_an_answer(),
            Err(said) => said,
        }
    })
}

pub(super) fn reload(given: Option<&Path>) -> Done {
    let root = find_dir(given)?;
    block_on(async {
        match ask(&root, &Request::Reload).await {
            Ok(Answer::Reloaded { left }) if left.is_empty() => {
                say::done("spoolbeat.toml is taken over; all jobs are looked at")
            }
            Ok(Answer::Reloaded { left }) => say::done(&format!(
                "spoolbeat.toml is taken over, but what changed in {} needs a restart of the daemon; all jobs are looked at",
                left.join(", ")
            )),
            Ok(Answer::Unusable { problems }) => {
                let said = say::fail_config(&problems);
                say::done("the former settings hold; all jobs are looked at");
                said
            }
            Ok(_) => not_an_answer(),
            Err(said) => said,
        }
    })
}

pub(super) fn trigger(args: TriggerArgs, given: Option<&Path>) -> Done {
    let root = find_dir(given)?;
    let TriggerArgs { job, wait, json } = args;
    block_on(async {
        let request = Request::Trigger { job: job.clone() };
        let run = match ask(&root, &request).await {
            Ok(Answer::Started { run }) => run,
            Ok(_) => return not_an_answer(),
            Err(said) => return said,
        };
        if !wait {
            let text = match json {
                true => format!("{}\n", serde_json::json!({"job": job, "run": run})),
                false => format!("{run}\n"),
            };
            return say::report(&text, 0);
        }
        match end_of(&root, &job, &run).await {
            Ok(record) => tell_end(&record, json),
            Err(said) => said,
        }
    })
}

/// Waits until the run's result says how it ended.
async fn end_of(root: &Path, job: &str, run: &RunId) -> Result<Record, ExitCode> {
    let results = Results::new(root.join("results"));
    let state_dir = root.join("state");
    for look in 1_u32.. {
        if let Ok(record) = results.read(job, run)
            && record.outcome.is_some()
        {
            return Ok(record);
        }
        if look % LOOKS_PER_QUESTION == 0
            && let Err(AskError::NoDaemon { .. }) = control::ask(&state_dir, &Request::Status).await
        {
            let why = format!(
                "the daemon has ended before run {run}; see `spoolbeat results {job} {run}` after its next start"
            );
            return Err(say::fail(EXIT_ERROR, &why));
        }
        clock::sleep(LOOK_EVERY).await;
    }
    Err(not_an_answer())
}

fn tell_end(record: &Record, json: bool) -> ExitCode {
    let outcome = record.outcome.as_deref().unwrap_or_default();
    let code = if outcome == "success" { 0 } else { EXIT_ERROR };
    let text = if json {
        serde_json::to_string(record).unwrap_or_default()
    } else {
        let took = record.duration.as_deref().unwrap_or_default();
        let reason = record.reason.as_ref();
        let reason = reason.map_or_else(String::new, |why| format!(": {why}"));
        format!("{}: {outcome} in {took}{reason}", record.run)
    };
    say::report(&(crate::log::printable(&text) + "\n"), code)
}
