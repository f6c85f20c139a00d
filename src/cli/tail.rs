//! `spoolbeat tail JOB [-f]`: what the newest run of a job prints, from its result's files.
//!
//! Works without the daemon. What scripts printed is shown with control characters escaped, so
//! that it cannot drive the terminal. Must never change anything.

use std::io;
use std::io::Write;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use crate::cli::Done;
use crate::cli::EXIT_ERROR;
use crate::cli::find_dir;
use crate::cli::say;
use crate::clock;
use crate::event::RunId;
use crate::event::Stream;
use crate::files;
use crate::log::printable;
use crate::results::Follow;
use crate::results::Results;

/// Between two looks.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// Longest line that is held back until its end comes.
const LINE_BYTES_MAX: usize = 64 << 10;

/// Show what the newest run of a job prints; standard error goes to standard error
///
/// Of a long output the first and the last 512 KiB are kept. The end of what a running script
/// prints beyond the first 512 KiB is seen within 5 s.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  spoolbeat tail disk --root /srv/spool
  spoolbeat tail disk -f                   # goes on with the next runs until Ctrl-C")]
pub struct Args {
    /// The job
    pub job: String,
    /// Go on with what comes, across runs, until Ctrl-C
    #[arg(short, long)]
    pub follow: bool,
}

/// One stream, as far as it was shown.
#[derive(Default)]
struct Shown {
    follow: Follow,
    /// A line whose end has not come.
    rest: Vec<u8>,
}

pub(super) fn run(args: &Args, given: Option<&Path>) -> Done {
    let root = find_dir(given)?;
    let results = Results::new(root.join("results"));
    let job = &args.job;
    let fail = |why: &str| say::fail(EXIT_ERROR, why);
    let mut runs = results.runs(job).map_err(|why| fail(&why))?;
    if runs.is_empty() {
        let known = files::look(&root.join("jobs").join(job)).is_ok();
        if !known || !args.follow {
            let what = if known {
                "was not run yet"
            } else {
                "is not there"
            };
            let why = format!("job `{job}` {what}; `spoolbeat results` lists those that were run");
            return Err(fail(&why));
        }
    }
    let mut shown = runs.first().cloned();
    loop {
        if let Some(run) = &shown
            && let Err(why) = one(&results, job, run, args.follow)
        {
            return why.map_or(Ok(ExitCode::SUCCESS), |why| Err(fail(&why)));
        }
        if !args.follow {
            return Ok(ExitCode::SUCCESS);
        }
        // The oldest of those that came since: none is passed over.
        let next = loop {
            let newer = |run: &&RunId| shown.as_ref().is_none_or(|shown| *run > shown);
            if let Some(next) = runs.iter().rev().find(newer) {
                break next.clone();
            }
            clock::pause(LOOK_EVERY);
            runs = results.runs(job).map_err(|why| fail(&why))?;
        };
        shown = Some(next);
    }
}

/// Shows one run, to its end when it is followed. Fails with nothing when nobody reads any more.
fn one(results: &Results, job: &str, run: &RunId, follow: bool) -> Result<(), Option<String>> {
    let mut streams = [
        (Stream::Stdout, Shown::default()),
        (Stream::Stderr, Shown::default()),
    ];
    head(results, job, run);
    loop {
        // Asked before the output is looked at: what came before the end is seen then.
        let over = results
            .read(job, run)
            .map_or(true, |record| record.outcome.is_some());
        for (stream, shown) in &mut streams {
            loop {
                let printed = results
                    .follow(job, run, *stream, &mut shown.follow)
                    .map_err(|error| Some(error.to_string()))?;
                let came = !printed.bytes.is_empty();
                if printed.left_out > 0 {
                    let gap = format!("\n... {} bytes left out ...\n", printed.left_out);
                    shown.rest.extend_from_slice(gap.as_bytes());
                }
                shown.rest.extend_from_slice(&printed.bytes);
                if !came {
                    break;
                }
                put(*stream, shown, false)?;
            }
            put(*stream, shown, over || !follow)?;
        }
        if over || !follow {
            return Ok(());
        }
        clock::pause(LOOK_EVERY);
    }
}

fn head(results: &Results, job: &str, run: &RunId) {
    let how = match results.read(job, run) {
        Ok(record) => match record.outcome {
            Some(outcome) => format!("{outcome}, ended {}", record.ended_at.unwrap_or_default()),
            None => format!("running since {}", record.started_at),
        },
        Err(_) => "unreadable".to_owned(),
    };
    say::done(&printable(&format!("==> {run}: {how} <==")));
}

/// Writes the whole lines that wait; with `all` also one without an end.
fn put(stream: Stream, shown: &mut Shown, all: bool) -> Result<(), Option<String>> {
    let end = match shown.rest.iter().rposition(|byte| *byte == b'\n') {
        _ if all || shown.rest.len() > LINE_BYTES_MAX => shown.rest.len(),
        Some(at) => at + 1,
        None => 0,
    };
    if end == 0 {
        return Ok(());
    }
    let lines: Vec<u8> = shown.rest.drain(..end).collect();
    let mut text = String::new();
    for line in String::from_utf8_lossy(&lines).lines() {
        // A tab is no harm, and is what many tables are made of.
        let cells: Vec<String> = line.split('\t').map(printable).collect();
        text.push_str(&cells.join("\t"));
        text.push('\n');
    }
    let written = match stream {
        Stream::Stderr => io::stderr().lock().write_all(text.as_bytes()),
        _ => {
            let mut out = io::stdout().lock();
            out.write_all(text.as_bytes()).and_then(|()| out.flush())
        }
    };
    written.map_err(|error| match error.kind() {
        io::ErrorKind::BrokenPipe => None,
        _ => Some(format!("cannot write: {error}")),
    })
}
