//! `spoolbeat results [JOB] [RUN] [--json]`: what runs did, from the results' files.
//!
//! Works without the daemon. What scripts printed is shown with control characters escaped, so
//! that it cannot drive the terminal. Must never change anything.

use std::fmt;
use std::io;
use std::io::Write;

use serde::Serialize;

use crate::event::RunId;
use crate::event::Stream;
use crate::event::envelope::Counts;
use crate::results::Record;
use crate::results::Results;
use crate::results::Unreadable;
use crate::units::show_bytes;

/// How much of each stream is looked at for showing its first lines.
const HEAD_BYTES: usize = 4 << 10;

/// How many lines of each stream are shown.
const HEAD_LINES: usize = 20;

/// The name that stands for a job's newest run.
const LATEST: &str = "latest";

/// Show what runs did: all jobs, the runs of a job, or one run.
#[derive(Debug, Clone, clap::Args)]
pub struct ResultsArgs {
    /// The job whose runs are shown.
    pub job: Option<String>,
    /// The run that is shown: its id, or `latest`.
    pub run: Option<String>,
    /// Print JSON for programs.
    #[arg(long)]
    pub json: bool,
}

/// Why nothing could be shown.
#[derive(Debug)]
pub enum Failure {
    /// There is no such job or run: another name may be meant.
    NotThere(String),
    /// Results could not be read.
    Unreadable(String),
    /// The text could not be written; a reader that went away is none of our business.
    Write(io::Error),
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotThere(text) | Self::Unreadable(text) => f.write_str(text),
            Self::Write(error) => write!(f, "cannot write the results: {error}"),
        }
    }
}

impl std::error::Error for Failure {}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::Write(error)
    }
}

impl From<Unreadable> for Failure {
    fn from(error: Unreadable) -> Self {
        match error {
            Unreadable::Missing(text) => Self::NotThere(text),
            Unreadable::Damaged(text) => Self::Unreadable(text),
        }
    }
}

/// One line of the table of jobs.
#[derive(Debug, Serialize)]
struct JobLine {
    job: String,
    runs: usize,
    last: Record,
}

/// Shows what `args` ask for.
///
/// # Errors
/// See [`Failure`].
pub fn show(results: &Results, args: &ResultsArgs, out: &mut dyn Write) -> Result<(), Failure> {
    match (&args.job, &args.run) {
        (None, _) => {
            let lines = job_lines(results)?;
            if args.json {
                return json(out, &lines);
            }
            jobs_table(&lines, out)
        }
        (Some(job), None) => {
            let records = records(results, job)?;
            if args.json {
                return json(out, &records);
            }
            runs_table(&records, out)
        }
        (Some(job), Some(run)) => {
            let run = find_run(results, job, run)?;
            let record = results.read(job, &run)?;
            if args.json {
                return json(out, &record);
            }
            one_run(&record, out)?;
            for stream in [Stream::Stdout, Stream::Stderr] {
                output(results, job, &run, stream, out)?;
            }
            Ok(())
        }
    }
}

fn job_lines(results: &Results) -> Result<Vec<JobLine>, Failure> {
    let mut lines = Vec::new();
    for job in results.jobs().map_err(Failure::Unreadable)? {
        let runs = results.runs(&job).map_err(Failure::Unreadable)?;
        if let Some(newest) = runs.first() {
            lines.push(JobLine {
                last: record(results, &job, newest),
                runs: runs.len(),
                job,
            });
        }
    }
    Ok(lines)
}

fn records(results: &Results, job: &str) -> Result<Vec<Record>, Failure> {
    let runs = results.runs(job).map_err(Failure::Unreadable)?;
    if runs.is_empty() {
        return Err(Failure::NotThere(no_results(job)));
    }
    Ok(runs.iter().map(|run| record(results, job, run)).collect())
}

fn find_run(results: &Results, job: &str, run: &str) -> Result<RunId, Failure> {
    let runs = results.runs(job).map_err(Failure::Unreadable)?;
    let Some(newest) = runs.first() else {
        return Err(Failure::NotThere(no_results(job)));
    };
    if run == LATEST {
        return Ok(newest.clone());
    }
    runs.iter()
        .find(|id| id.as_str() == run)
        .cloned()
        .ok_or_else(|| {
            Failure::NotThere(format!(
                "job `{}` has no run `{}`; its newest is {newest}",
                visible(job),
                visible(run)
            ))
        })
}

fn no_results(job: &str) -> String {
    format!(
        "job `{}` has no results; `spoolbeat results` lists the jobs that have",
        visible(job)
    )
}

/// A record, or what stands for one that cannot be read: a table goes on with the others.
fn record(results: &Results, job: &str, run: &RunId) -> Record {
    results.read(job, run).unwrap_or_else(|error| Record {
        job: job.to_owned(),
        run: run.to_string(),
        outcome: Some("unreadable".to_owned()),
        reason: Some(error.to_string()),
        ..Record::default()
    })
}

fn json(out: &mut dyn Write, value: &impl Serialize) -> Result<(), Failure> {
    serde_json::to_writer_pretty(&mut *out, value).map_err(io::Error::from)?;
    writeln!(out)?;
    Ok(())
}

fn jobs_table(lines: &[JobLine], out: &mut dyn Write) -> Result<(), Failure> {
    if lines.is_empty() {
        writeln!(out, "no results yet")?;
        return Ok(());
    }
    let rows = lines.iter().map(|line| {
        [
            visible(&line.job),
            outcome(&line.last),
            when(&line.last),
            took(&line.last),
            line.runs.to_string(),
        ]
    });
    table(
        ["JOB", "LAST OUTCOME", "STARTED", "TOOK", "RUNS"],
        rows,
        out,
    )
}

fn runs_table(records: &[Record], out: &mut dyn Write) -> Result<(), Failure> {
    let rows = records.iter().map(|record| {
        [
            visible(&record.run),
            outcome(record),
            when(record),
            took(record),
            record
                .counts
                .map_or_else(|| "-".to_owned(), |counts| counts.events.to_string()),
            visible(record.reason.as_deref().unwrap_or("")),
        ]
    });
    table(
        ["RUN", "OUTCOME", "STARTED", "TOOK", "EVENTS", "REASON"],
        rows,
        out,
    )
}

fn one_run(record: &Record, out: &mut dyn Write) -> Result<(), Failure> {
    let counts = record.counts.unwrap_or_default();
    let lines = [
        ("job", record.job.clone()),
        ("run", record.run.clone()),
        ("generation", record.generation.clone()),
        ("trigger", record.trigger.clone()),
        ("scheduled", record.scheduled_at.clone().unwrap_or_default()),
        ("started", record.started_at.clone()),
        ("ended", record.ended_at.clone().unwrap_or_default()),
        ("took", record.duration.clone().unwrap_or_default()),
        ("outcome", ending(record)),
        ("reason", record.reason.clone().unwrap_or_default()),
        ("lines", record.counts.map_or_else(String::new, printed)),
        ("events", counts_of_events(record, counts)),
    ];
    for (name, value) in lines {
        if !value.is_empty() {
            writeln!(out, "{name:<11} {}", visible(&value))?;
        }
    }
    Ok(())
}

fn ending(record: &Record) -> String {
    let name = outcome(record);
    match (record.exit_code, record.signal) {
        (Some(code), _) => format!("{name}, exit code {code}"),
        (None, Some(signal)) => format!("{name}, by signal {signal}"),
        (None, None) => name,
    }
}

fn printed(counts: Counts) -> String {
    let cut = match counts.lines_cut {
        0 => String::new(),
        cut => format!(", {cut} cut"),
    };
    format!(
        "{} on stdout, {} on stderr, {}{cut}",
        counts.stdout_lines,
        counts.stderr_lines,
        show_bytes(counts.bytes_read)
    )
}

fn counts_of_events(record: &Record, counts: Counts) -> String {
    match record.captured_up_to {
        Some(seq) => format!("{}, captured up to {seq}", counts.events),
        None => String::new(),
    }
}

fn output(
    results: &Results,
    job: &str,
    run: &RunId,
    stream: Stream,
    out: &mut dyn Write,
) -> Result<(), Failure> {
    let name = stream.name();
    let bytes = match results.output_head(job, run, stream, HEAD_BYTES) {
        Ok(bytes) if bytes.is_empty() => return Ok(()),
        Ok(bytes) => bytes,
        Err(error) => {
            writeln!(out, "\n{name}: {}", visible(&error.to_string()))?;
            return Ok(());
        }
    };
    writeln!(out, "\n{name}:")?;
    let text = String::from_utf8_lossy(&bytes);
    let mut lines = text.lines();
    for line in lines.by_ref().take(HEAD_LINES) {
        writeln!(out, "  {}", visible(line))?;
    }
    if lines.next().is_some() || bytes.len() == HEAD_BYTES {
        let (job, run) = (visible(job), visible(run.as_str()));
        writeln!(out, "  ... more in results/{job}/{run}/{name}")?;
    }
    Ok(())
}

fn outcome(record: &Record) -> String {
    visible(record.outcome.as_deref().unwrap_or("running"))
}

fn when(record: &Record) -> String {
    visible(&record.started_at)
}

fn took(record: &Record) -> String {
    visible(record.duration.as_deref().unwrap_or("-"))
}

fn table<const N: usize>(
    head: [&str; N],
    rows: impl Iterator<Item = [String; N]>,
    out: &mut dyn Write,
) -> Result<(), Failure> {
    let mut all = vec![head.map(str::to_owned)];
    all.extend(rows);
    let mut widths = [0; N];
    for row in &all {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    for row in &all {
        let mut line = String::new();
        for (width, cell) in widths.iter().zip(row) {
            line.push_str(&format!("{cell:<width$}  "));
        }
        writeln!(out, "{}", line.trim_end())?;
    }
    Ok(())
}

/// `text` with everything that is not for reading written as an escape: control characters (ANSI
/// sequences begin with one) and characters that change the direction of writing.
fn visible(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\t' => shown.push_str("    "),
            '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => {
                shown.extend(c.escape_unicode());
            }
            c if c.is_control() => shown.extend(c.escape_debug()),
            c => shown.push(c),
        }
    }
    shown
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use std::time::Duration;

    use super::*;
    use crate::clock::Tick;
    use crate::event::Seq;
    use crate::results::Ended;
    use crate::results::Started;
    use crate::run::Exit;
    use crate::run::Outcome;
    use crate::run::Trigger;
    use crate::units::Timestamp;

    const AT: Timestamp = Timestamp(1_763_712_488_123);

    fn ran(results: &Results, job: &str, at: Timestamp, printed: &[u8]) -> RunId {
        let run = RunId::new(at, 0);
        let started = Started {
            job,
            run: &run,
            generation: "0123456789abcdef",
            trigger: Trigger::Manual,
            scheduled_at: None,
            group: None,
            at,
        };
        let mut files = results.start(&started);
        files.output(Stream::Stdout, printed, Tick(0));
        let note = files.end(&Ended {
            at,
            took: Duration::from_secs(2),
            outcome: Outcome::Failed,
            exit: Some(Exit::Code(3)),
            reason: Some("exit code 3"),
            counts: Counts {
                stdout_lines: 1,
                events: 1,
                bytes_read: 2048,
                ..Counts::default()
            },
            captured: Some(Seq(9)),
        });
        assert_eq!(note, None);
        run
    }

    fn shown(results: &Results, words: &[&str]) -> Result<String, Failure> {
        let (names, flags): (Vec<&str>, Vec<&str>) =
            words.iter().partition(|word| !word.starts_with("--"));
        let name = |at: usize| names.get(at).map(|name| (*name).to_owned());
        let args = ResultsArgs {
            job: name(0),
            run: name(1),
            json: !flags.is_empty(),
        };
        let mut out = Vec::new();
        show(results, &args, &mut out)?;
        Ok(String::from_utf8(out).unwrap())
    }

    #[test]
    fn jobs_runs_and_one_run_are_shown() {
        let dir = tempfile::tempdir().unwrap();
        let results = Results::new(dir.path().join("results"));
        assert_eq!(shown(&results, &[]).unwrap(), "no results yet\n");
        ran(&results, "disk", AT, b"hi\n");
        let newest = ran(&results, "disk", Timestamp(AT.0 + 1000), b"hello\n");
        assert_eq!(
            shown(&results, &[]).unwrap(),
            "JOB   LAST OUTCOME  STARTED                   TOOK  RUNS\n\
             disk  failed        2025-11-21T08:08:09.123Z  2.0s  2\n"
        );
        let runs = shown(&results, &["disk"]).unwrap();
        assert_eq!(runs.lines().count(), 3);
        assert!(runs.lines().nth(1).unwrap().starts_with(newest.as_str()));
        let one = shown(&results, &["disk", "latest"]).unwrap();
        assert_eq!(
            one,
            "job         disk\n\
             run         20251121-080809.123-00000000\n\
             generation  0123456789abcdef\n\
             trigger     manual\n\
             started     2025-11-21T08:08:09.123Z\n\
             ended       2025-11-21T08:08:09.123Z\n\
             took        2.0s\n\
             outcome     failed, exit code 3\n\
             reason      exit code 3\n\
             lines       1 on stdout, 0 on stderr, 2.0 KiB\n\
             events      1, captured up to 9\n\
             \n\
             stdout:\n  hello\n"
        );
    }

    #[test]
    fn json_is_for_programs() {
        let dir = tempfile::tempdir().unwrap();
        let results = Results::new(dir.path().join("results"));
        let run = ran(&results, "disk", AT, b"");
        let value = |words: &[&str]| -> serde_json::Value {
            serde_json::from_str(&shown(&results, words).unwrap()).unwrap()
        };
        assert_eq!(value(&["--json"])[0]["last"]["outcome"], "failed");
        assert_eq!(value(&["disk", "--json"])[0]["run"], run.as_str());
        assert_eq!(value(&["disk", run.as_str(), "--json"])["exit_code"], 3);
    }

    #[test]
    fn what_is_not_there_is_named_with_what_is() {
        let dir = tempfile::tempdir().unwrap();
        let results = Results::new(dir.path().join("results"));
        let run = ran(&results, "disk", AT, b"");
        for (words, told) in [
            (vec!["dsik"], "lists the jobs"),
            (vec!["../disk"], "lists the jobs"),
            (vec!["disk", "yesterday"], run.as_str()),
        ] {
            let error = shown(&results, &words).unwrap_err();
            assert!(matches!(error, Failure::NotThere(_)), "{words:?}");
            assert!(error.to_string().contains(told), "{error}");
        }
    }

    #[test]
    fn a_script_cannot_drive_the_terminal() {
        let dir = tempfile::tempdir().unwrap();
        let results = Results::new(dir.path().join("results"));
        ran(
            &results,
            "disk",
            AT,
            "\x1b[2J\u{9b}31m\u{202e}evil\x07\r\n".as_bytes(),
        );
        let one = shown(&results, &["disk", "latest"]).unwrap();
        assert!(
            one.contains("\\u{1b}[2J\\u{9b}31m\\u{202e}evil\\u{7}"),
            "{one}"
        );
        assert!(one.chars().all(|c| c == '\n' || !c.is_control()));
    }

    #[test]
    fn one_damaged_result_does_not_hide_the_others() {
        use crate::disk::Disk;
        let dir = tempfile::tempdir().unwrap();
        let results = Results::new(dir.path().join("results"));
        let run = ran(&results, "disk", AT, b"");
        ran(&results, "web", AT, b"");
        let record = crate::disk::under(dir.path(), &["results", "disk", run.as_str(), "run.json"]);
        crate::disk::OsDisk
            .replace(&record, b"{", crate::disk::Replace::Quick)
            .unwrap();
        let all = shown(&results, &[]).unwrap();
        assert!(all.contains("unreadable") && all.contains("web"), "{all}");
    }
}
