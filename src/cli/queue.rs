//! `spoolbeat queue stat | cat | verify`: looks into a queue, live or stopped, and changes nothing.

use std::io;
use std::io::BufWriter;
use std::io::Write;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use crate::clock;
use crate::disk::Disk;
use crate::disk::OsDisk;
use crate::files;
use crate::queue::inspect;
use crate::queue::inspect::Filter;
use crate::queue::inspect::Go;
use crate::queue::inspect::Survey;
use crate::units;
use crate::units::Timestamp;

/// What to look at.
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Sizes, counters and how far each output is.
    #[command(after_help = "Example: spoolbeat queue stat /srv/spool --json | jq .outputs")]
    Stat {
        /// The root directory; found as `spoolbeat help` says when it is left out.
        root: Option<std::path::PathBuf>,
        /// As one JSON object.
        #[arg(long)]
        json: bool,
    },
    /// The events that are kept, one JSON object a line, in the order of capture.
    #[command(
        after_help = "Example: spoolbeat queue cat /srv/spool --job disk --since 15m | jq .message"
    )]
    Cat {
        /// The root directory.
        root: Option<std::path::PathBuf>,
        /// Only of this job.
        #[arg(long)]
        job: Option<String>,
        /// Only from this time on: RFC 3339, or how long ago, like 15m.
        #[arg(long, value_parser = since)]
        since: Option<Timestamp>,
        /// As JSON; events always are, so this changes nothing.
        #[arg(long)]
        json: bool,
    },
    /// Reads every record and checks every checksum; exit code 1 when something is damaged.
    #[command(after_help = "Example: spoolbeat queue verify /srv/spool && echo sound")]
    Verify {
        /// The root directory.
        root: Option<std::path::PathBuf>,
        /// As one JSON object.
        #[arg(long)]
        json: bool,
    },
}

impl Command {
    /// The root that was named.
    #[must_use]
    pub fn root(&self) -> Option<&Path> {
        match self {
            Self::Stat { root, .. } | Self::Cat { root, .. } | Self::Verify { root, .. } => {
                root.as_deref()
            }
        }
    }
}

/// Reads a point in time: RFC 3339, or a duration back from now.
///
/// # Errors
/// What is wrong, with correct examples.
pub fn since(text: &str) -> Result<Timestamp, String> {
    if let Ok(at) = text.parse() {
        return Ok(at);
    }
    units::parse_duration(text).map_or_else(
        |_| {
            Err(format!("`{text}` is neither a time like 2026-11-21T08:00:00Z nor a duration like 15m, 2h or 1d"))
        },
        |back| Ok(Timestamp(clock::now().0 - i64::try_from(back.as_millis()).unwrap_or(i64::MAX))),
    )
}

/// Runs the command on the root `root`.
#[must_use]
pub fn run(command: &Command, root: &Path) -> ExitCode {
    let disk: Arc<dyn Disk> = Arc::new(OsDisk);
    let dir = root.join("queue");
    let survey = match survey(&disk, root) {
        Ok(survey) => survey,
        Err(said) => return said,
    };
    if let Command::Cat { job: Some(job), .. } = command
        && let Some(why) = lacks(&survey, job)
    {
        return super::say::fail(1, &why);
    }
    let done = match command {
        Command::Stat { json, .. } => stat(&survey, *json).map(|()| ExitCode::SUCCESS),
        Command::Cat { job, since, .. } => cat(
            &disk,
            &dir,
            &survey,
            &Filter {
                job: job.clone(),
                since: *since,
            },
        ),
        Command::Verify { json, .. } => verify(&disk, &dir, &survey, *json),
    };
    match done {
        Ok(code) => code,
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(error) => super::say::fail(74, &format!("{}: {error}", dir.display())),
    }
}

/// Surveys the queue of `root`; says why it cannot.
pub(super) fn survey(disk: &Arc<dyn Disk>, root: &Path) -> Result<Survey, ExitCode> {
    let dir = root.join("queue");
    if files::look(&dir).is_err_and(|error| error.kind() == io::ErrorKind::NotFound) {
        let root = root.display();
        return Err(super::say::fail(
            1,
            &format!("no daemon has run on {root} yet; `spoolbeat run {root}` makes its queue"),
        ));
    }
    inspect::survey(disk, &dir).map_err(|error| super::say::fail(74, &error.to_string()))
}

/// Most jobs that are named where one is not known.
const NAMED_MAX: usize = 10;

/// Says that the queue never had an event of this job, and of which it had: a name that was
/// mistyped must not look like a job that was quiet.
pub(super) fn lacks(survey: &Survey, job: &str) -> Option<String> {
    let jobs = &survey.ledger.jobs;
    if jobs.contains_key(job) {
        return None;
    }
    let named: Vec<&str> = jobs.keys().map(|name| &**name).take(NAMED_MAX).collect();
    let others = match (named.as_slice(), jobs.len().saturating_sub(NAMED_MAX)) {
        ([], _) => "it has none of any job".to_owned(),
        (_, 0) => format!("it knows {}", named.join(", ")),
        (_, more) => format!("it knows {} and {more} more", named.join(", ")),
    };
    Some(format!("the queue has no events of job `{job}`; {others}"))
}

fn stat(survey: &Survey, json: bool) -> io::Result<()> {
    let ledger = &survey.ledger;
    let bytes: u64 = survey.segments.iter().map(|(_, bytes)| bytes).sum();
    let mut out = io::stdout().lock();
    if json {
        let outputs: serde_json::Map<String, serde_json::Value> = survey
            .cursors
            .iter()
            .map(|(output, cursor)| {
                let value = serde_json::json!({
                    "waiting": ledger.next_seq.saturating_sub(cursor.seq),
                    "passed": cursor.passed,
                    "segment": cursor.at.segment,
                    "offset": cursor.at.offset,
                    "done": cursor.done,
                });
                (output.clone(), value)
            })
            .collect();
        let all = serde_json::json!({
            "segments": survey.segments.len(),
            "bytes": bytes,
            "epoch": survey.epoch,
            "captured": ledger.queued(),
            "records": ledger.next_number - 1,
            "counters": ledger.counters,
            "open_runs": ledger.open.len(),
            "jobs": ledger.jobs.iter().map(|(job, past)| (job.clone(), past.captured)).collect::<std::collections::BTreeMap<_, _>>(),
            "outputs": outputs,
        });
        return writeln!(out, "{all:#}");
    }
    writeln!(
        out,
        "captured   {} events in {} records",
        ledger.queued(),
        ledger.next_number - 1
    )?;
    writeln!(
        out,
        "on disk    {} in {} segments",
        units::show_bytes(bytes),
        survey.segments.len()
    )?;
    writeln!(out, "open runs  {}", ledger.open.len())?;
    for (output, cursor) in &survey.cursors {
        let passed = cursor.passed;
        writeln!(
            out,
            "output     {output}: {} waiting, {} acknowledged, {} not for it, {} damaged, {} set aside, {} dropped, {} skipped",
            ledger.next_seq.saturating_sub(cursor.seq),
            passed.acked,
            passed.not_mine,
            passed.damaged,
            passed.set_aside,
            passed.dropped,
            passed.skipped
        )?;
    }
    for (job, past) in &ledger.jobs {
        writeln!(
            out,
            "job        {job}: {} events of {} runs",
            past.captured, past.runs
        )?;
    }
    Ok(())
}

fn cat(disk: &Arc<dyn Disk>, dir: &Path, survey: &Survey, filter: &Filter) -> io::Result<ExitCode> {
    let mut out = BufWriter::new(io::stdout().lock());
    let mut wrote = Ok(());
    let missed = inspect::events(disk, dir, survey.end, filter, |_, event| {
        wrote = out.write_all(event).and_then(|()| out.write_all(b"\n"));
        if wrote.is_ok() { Go::On } else { Go::Stop }
    })?;
    wrote?;
    out.flush()?;
    if missed.records > 0 {
        return Ok(super::say::fail(
            1,
            &format!("{} records are damaged and were left out", missed.records),
        ));
    }
    Ok(ExitCode::SUCCESS)
}

fn verify(disk: &Arc<dyn Disk>, dir: &Path, survey: &Survey, json: bool) -> io::Result<ExitCode> {
    let verdict = inspect::verify(disk, dir, survey)?;
    let mut out = io::stdout().lock();
    if json {
        serde_json::to_writer_pretty(&mut out, &verdict)?;
        writeln!(out)?;
    } else {
        for damage in &verdict.damage {
            writeln!(
                out,
                "{} at {}: {}",
                damage.segment, damage.offset, damage.what
            )?;
        }
        writeln!(
            out,
            "{}: {} records, {} events, {}; {} bytes of an unfinished record at the end",
            if verdict.damage.is_empty() {
                "ok"
            } else {
                "damaged"
            },
            verdict.records,
            verdict.events,
            units::show_bytes(verdict.bytes),
            verdict.unfinished_bytes
        )?;
    }
    Ok(if verdict.damage.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::from(1)
    })
}
