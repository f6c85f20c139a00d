//! `spoolbeat queue`: looks into a queue, live or stopped; changes it only in `skip` and `repair`.

use std::io;
use std::io::BufWriter;
use std::io::Write;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use crate::cli::EXIT_ERROR;
use crate::cli::say::CANNOT_READ;
use crate::cli::say::count;
use crate::cli::select::Select;
use crate::config;
use crate::disk::Disk;
use crate::disk::OsDisk;
use crate::files;
use crate::queue::inspect;
use crate::queue::inspect::Survey;
use crate::queue::select;
use crate::queue::select::Event;
use crate::queue::select::Filter;
use crate::queue::select::Go;
use crate::queue::verify;
use crate::units;

pub(super) mod consent;
mod repair;
mod skip;

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
    /// The segments: what they hold, who still needs them, and what is wrong with them.
    #[command(after_help = "Example: spoolbeat queue ls /srv/spool")]
    Ls {
        /// The root directory.
        root: Option<std::path::PathBuf>,
        /// As one JSON object a line.
        #[arg(long)]
        json: bool,
    },
    /// The events that are kept, one JSON object a line, in the order of capture.
    #[command(after_help = "Examples:
  spoolbeat queue cat /srv/spool --job disk --since 15m | jq .message
  spoolbeat queue cat --grep 'user\":\"root' --limit 10")]
    Cat {
        /// The root directory.
        root: Option<std::path::PathBuf>,
        /// Only of this job.
        #[arg(long)]
        job: Option<String>,
        /// Which of them.
        #[command(flatten)]
        select: Box<Select>,
        /// Only the first so many.
        #[arg(long, value_name = "N")]
        limit: Option<u64>,
        /// Each with its number, job and stream around it: {"seq":7,"job":"disk","stream":"stdout","event":{...}}
        #[arg(long)]
        json: bool,
    },
    /// Lets an output pass over events without sending them; they are counted as skipped
    ///
    /// Says first what it would skip, and asks. What is skipped stays in the queue as long as what was sent:
    /// `replay` sends it after all. Files that were to be removed when their events arrive are kept.
    #[command(after_help = "Examples:
  spoolbeat queue skip backup --all
  spoolbeat queue skip backup /srv/spool --to 5000 --yes")]
    Skip(skip::Args),
    /// Reads every record and checks every checksum; exit code 1 when something is damaged.
    #[command(after_help = "Example: spoolbeat queue verify /srv/spool && echo sound")]
    Verify {
        /// The root directory.
        root: Option<std::path::PathBuf>,
        /// As one JSON object.
        #[arg(long)]
        json: bool,
    },
    /// Sets aside what `verify` calls damaged, and makes anew what can be
    ///
    /// Says first what is damaged, what it would do and how many events are lost, and asks. Damaged bytes are
    /// copied to queue/quarantine, with the reason, and settled: `verify` is content then. Unreadable cursors
    /// and checkpoints are made anew, never so that an output is further than it was; what was not finished is
    /// removed. While the daemon runs only damaged records are set aside; the rest needs it stopped.
    #[command(after_help = "Examples:
  spoolbeat queue repair /srv/spool
  systemctl stop spoolbeat && spoolbeat queue repair /srv/spool --yes")]
    Repair(repair::Args),
}

impl Command {
    /// The root that was named.
    #[must_use]
    pub fn root(&self) -> Option<&Path> {
        match self {
            Self::Stat { root, .. }
            | Self::Ls { root, .. }
            | Self::Cat { root, .. }
            | Self::Verify { root, .. } => root.as_deref(),
            Self::Skip(args) => args.root.as_deref(),
            Self::Repair(args) => args.root.as_deref(),
        }
    }
}

/// Runs the command on the root of `config`.
#[must_use]
pub fn run(command: &Command, config: &config::Root) -> ExitCode {
    let disk: Arc<dyn Disk> = Arc::new(OsDisk);
    let root = &*config.dir;
    if let Command::Repair(args) = command {
        return repair::run(args, &disk, config);
    }
    if let Command::Cat { select, .. } = command
        && let Err(said) = select.check()
    {
        return said;
    }
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
        Command::Ls { json, .. } => list(&disk, &dir, &survey, *json),
        Command::Cat {
            job,
            select,
            limit,
            json,
            ..
        } => {
            let cat = Cat {
                filter: select.filter(job.as_deref()),
                limit: *limit,
                json: *json,
            };
            cat.run(&disk, &dir, &survey, select)
        }
        Command::Skip(args) => return skip::run(args, &disk, root, &survey),
        Command::Verify { json, .. } => return verify(&disk, &dir, &survey, *json),
        Command::Repair(args) => return repair::run(args, &disk, config),
    };
    match done {
        Ok(code) => code,
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(error) => super::say::fail(74, &format!("{}: {error}", dir.display())),
    }
}

/// Surveys the queue of `root`; says why it cannot.
pub(super) fn survey(disk: &Arc<dyn Disk>, root: &Path) -> Result<Survey, ExitCode> {
    exists(root)?;
    let dir = root.join("queue");
    inspect::survey(disk, &dir).map_err(|error| super::say::fail(74, &error.to_string()))
}

/// Says so when `root` has no queue yet.
fn exists(root: &Path) -> Result<(), ExitCode> {
    match files::look(&root.join("queue")) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let root = root.display();
            let why =
                format!("no daemon has run on {root} yet; `spoolbeat run {root}` makes its queue");
            Err(super::say::fail(1, &why))
        }
        _ => Ok(()),
    }
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
                    "waiting": cursor.waiting(ledger.next_seq),
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
        let waiting = cursor.waiting(ledger.next_seq);
        writeln!(
            out,
            "output     {output}: {}{waiting} waiting, {} acknowledged, {} not for it, {} damaged, {} set aside, {} dropped, {} skipped",
            units::up_to(waiting),
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

fn list(disk: &Arc<dyn Disk>, dir: &Path, survey: &Survey, json: bool) -> io::Result<ExitCode> {
    let segments = inspect::segments(disk, dir, survey)?;
    let damaged = segments.iter().any(|segment| !segment.damage.is_empty());
    let mut out = BufWriter::new(io::stdout().lock());
    if !json {
        writeln!(
            out,
            "{:<20}  {:>5}  {:>21}  {:>7}  {:>8}  {:>9}  {:<24}  {:<24}  NEEDED BY",
            "SEGMENT",
            "EPOCH",
            "EVENTS",
            "RECORDS",
            "COUNT",
            "SIZE",
            "FIRST WRITTEN",
            "LAST WRITTEN"
        )?;
    }
    for segment in &segments {
        if json {
            serde_json::to_writer(&mut out, segment)?;
            writeln!(out)?;
            continue;
        }
        let dash = || "-".to_owned();
        let seqs = segment
            .seqs
            .map_or_else(dash, |(from, to)| format!("{from}..{to}"));
        let (first, last) = segment.written.unzip();
        writeln!(
            out,
            "{:<20}  {:>5}  {seqs:>21}  {:>7}  {:>8}  {:>9}  {:<24}  {:<24}  {}",
            segment.file,
            segment.epoch.map_or_else(dash, |epoch| epoch.to_string()),
            segment.records,
            segment.events,
            units::show_bytes(segment.bytes),
            first.map_or_else(dash, |at| at.to_string()),
            last.map_or_else(dash, |at| at.to_string()),
            if segment.needed_by.is_empty() {
                "(kept for replay)".to_owned()
            } else {
                segment.needed_by.join(", ")
            },
        )?;
        for damage in &segment.damage {
            writeln!(out, "  damaged: {damage}")?;
        }
    }
    out.flush()?;
    Ok(ExitCode::from(u8::from(damaged)))
}

/// `queue cat`.
struct Cat {
    filter: Filter,
    limit: Option<u64>,
    json: bool,
}

impl Cat {
    fn run(
        &self,
        disk: &Arc<dyn Disk>,
        dir: &Path,
        survey: &Survey,
        select: &Select,
    ) -> io::Result<ExitCode> {
        if let Some(why) = select.too_old(&inspect::kept(disk, dir, survey)?) {
            super::say::note(&why);
        }
        let mut out = BufWriter::new(io::stdout().lock());
        let mut left = self.limit.unwrap_or(u64::MAX);
        let mut wrote = Ok(());
        let missed = select::events(disk, dir, survey.end, &self.filter, |event| {
            if left == 0 {
                return Go::Stop;
            }
            left -= 1;
            wrote = self.write(&mut out, &event);
            if wrote.is_ok() && left > 0 {
                Go::On
            } else {
                Go::Stop
            }
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

    fn write(&self, out: &mut impl Write, event: &Event<'_>) -> io::Result<()> {
        if self.json {
            let job = serde_json::to_string(&*event.part.job)?;
            let stream = event.part.stream.name();
            write!(
                out,
                r#"{{"seq":{},"job":{job},"stream":"{stream}","event":"#,
                event.seq
            )?;
        }
        out.write_all(event.json)?;
        out.write_all(if self.json { b"}\n" } else { b"\n" })
    }
}

fn verify(disk: &Arc<dyn Disk>, dir: &Path, survey: &Survey, json: bool) -> ExitCode {
    let verdict = match verify::verify(disk, dir, survey) {
        Ok(verdict) => verdict,
        Err(error) => return super::say::fail(CANNOT_READ, &error.to_string()),
    };
    let code = u8::from(!verdict.damage.is_empty() || !verdict.lost_cursors.is_empty());
    if json {
        return match serde_json::to_string_pretty(&verdict) {
            Ok(json) => super::say::report(&(json + "\n"), code),
            Err(error) => super::say::fail(EXIT_ERROR, &format!("no JSON: {error}")),
        };
    }
    let mut text = String::new();
    for damage in &verdict.damage {
        let (segment, offset, what) = (&damage.segment, damage.offset, &damage.what);
        text += &format!("{segment} at {offset}: {what}\n");
    }
    for output in &verdict.lost_cursors {
        text += &format!(
            "cursor-{output}: cannot be read or is gone: all that is kept will be sent again\n"
        );
    }
    let cursors = count(verdict.lost_cursors.len() as u64, "cursor");
    let sound = match (verdict.damage.len(), verdict.lost_cursors.len()) {
        (0, 0) => "ok: ".to_owned(),
        (0, _) => format!("damaged: {cursors}; all checksums fit in "),
        (_, 0) => "damaged: as above; looked at ".to_owned(),
        (_, _) => format!("damaged: as above, and {cursors}; looked at "),
    };
    text += &format!(
        "{sound}{} records, {} events, {}; {} bytes of an unfinished record at the end",
        verdict.records,
        verdict.events,
        units::show_bytes(verdict.bytes),
        verdict.unfinished_bytes
    );
    if verdict.settled > 0 {
        text += &format!("; {} settled", count(verdict.settled, "damaged place"));
    }
    super::say::report(&(text + "\n"), code)
}
