//! The status as a table for people: totals first, problems in full and last.
//!
//! Everything that came from outside is shown with its control characters escaped, so that no
//! name or error text can drive the terminal. Knows nothing but the snapshot.

use std::time::Duration;

use crate::log::printable;
use crate::queue::Counters;
use crate::run::Outcome;
use crate::status::Daemon;
use crate::status::DaemonState;
use crate::status::Job;
use crate::status::JobState;
use crate::status::Output;
use crate::status::Status;
use crate::units::Timestamp;
use crate::units::show_bytes;
use crate::units::show_duration;
use crate::units::up_to;

/// Longest text in one cell, in characters; the rest is in `--json`. Two such columns fit a line.
const CELL_CHARS_MAX: usize = 48;

/// Whether colours are used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Look {
    /// No escape sequences: for files and pipes.
    Plain,
    /// ANSI colours: for terminals.
    Coloured,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Paint {
    None,
    Bold,
    Good,
    Warn,
    Bad,
    Faint,
}

struct Cell {
    text: String,
    paint: Paint,
}

impl Cell {
    fn new(text: impl AsRef<str>, paint: Paint) -> Self {
        let mut text = printable(text.as_ref());
        if let Some((cut, _)) = text.char_indices().nth(CELL_CHARS_MAX) {
            text.truncate(cut);
            text.push_str("...");
        }
        Self { text, paint }
    }

    fn plain(text: impl AsRef<str>) -> Self {
        Self::new(text, Paint::None)
    }
}

/// Writes the status for people; `now` is the reader's wall clock, for "3s ago".
#[must_use]
pub fn show(status: &Status, now: Timestamp, look: Look) -> String {
    let mut out = String::new();
    head(&mut out, status, look);
    if !status.outputs.is_empty() {
        out.push('\n');
        table(&mut out, &output_rows(status), look);
    }
    out.push('\n');
    if status.jobs.is_empty() {
        line(
            &mut out,
            "no jobs: put a folder with a job.toml under jobs/",
        );
    } else {
        table(&mut out, &job_rows(status, now), look);
    }
    let sources = source_rows(&status.jobs);
    if sources.len() > 1 {
        out.push('\n');
        table(&mut out, &sources, look);
    }
    if status.jobs.iter().any(|job| job.files.is_some()) {
        out.push('\n');
        table(&mut out, &file_rows(&status.jobs), look);
    }
    notes(&mut out, status);
    problems(&mut out, status, now, look);
    out
}

/// What is no fault and should be known all the same.
fn notes(out: &mut String, status: &Status) {
    let jobs = status.jobs.iter();
    let mut lines = jobs
        .flat_map(|job| job.notes.iter().map(|note| format!("{}: {note}", job.name)))
        .peekable();
    if lines.peek().is_some() {
        out.push_str("\nnotes:\n");
    }
    for text in lines {
        line(out, &format!("  {}", printable(&text)));
    }
}

fn head(out: &mut String, status: &Status, look: Look) {
    let totals = &status.totals;
    line(
        out,
        &painted(
            &format!(
                "events: {} captured, {} acked, {}{} waiting",
                totals.captured_events,
                totals.acked_events,
                up_to(totals.waiting_events),
                totals.waiting_events
            ),
            Paint::Bold,
            look,
        ),
    );
    let queue = &status.queue;
    let more = match queue.waiting_bytes.saturating_sub(queue.held_bytes) {
        0 => String::new(),
        bytes => format!(
            ", and {} until it is full, for outputs that it does not hold them for",
            show_bytes(bytes)
        ),
    };
    line(
        out,
        &format!(
            "queue: {} of {} ({} %){more}",
            show_bytes(queue.held_bytes),
            show_bytes(queue.max_bytes),
            queue
                .held_bytes
                .saturating_mul(100)
                .checked_div(queue.max_bytes)
                .unwrap_or(0)
        ),
    );
    let daemon = &status.daemon;
    line(
        out,
        &format!(
            "daemon: {}, spoolbeat {}, pid {}, up {}, root {}",
            painted(daemon.state.name(), state_paint(daemon.state), look),
            printable(&daemon.version),
            daemon.pid,
            show_duration(Duration::from_millis(daemon.uptime_ms)),
            printable(&daemon.root)
        ),
    );
}

/// What became of events that were neither acknowledged nor wait; columns of zeros are left out, and
/// what is there adds up to the events that were captured.
const FATES: [Fate; 6] = [
    ("BEFORE IT", Paint::None, |output| output.before_events),
    ("NOT FOR IT", Paint::None, |output| output.not_mine_events),
    ("ASIDE", Paint::Bad, |output| output.set_aside_events),
    ("DROPPED", Paint::Bad, |output| output.dropped_events),
    ("SKIPPED", Paint::None, |output| output.skipped_events),
    ("DAMAGED", Paint::Bad, |output| output.damaged_events),
];

/// A column's name, how what is not zero looks, and its number.
type Fate = (&'static str, Paint, fn(&Output) -> u64);

fn output_rows(status: &Status) -> Vec<Vec<Cell>> {
    let mut fates = FATES.to_vec();
    fates.retain(|(name, _, of)| {
        *name == "ASIDE" || status.outputs.iter().any(|output| of(output) > 0)
    });
    let mut names = vec!["OUTPUT", "STATE", "HOST", "ACKED", "WAITING"];
    names.extend(fates.iter().map(|(name, ..)| *name));
    names.push("LAST ERROR");
    let mut rows = vec![header(&names)];
    for output in &status.outputs {
        let mut row = vec![
            Cell::plain(&output.name),
            Cell::new(&output.state, output_paint(&output.state)),
            Cell::plain(if output.hosts.is_empty() {
                output.host.clone()
            } else {
                format!("{} hosts", output.hosts.len())
            }),
            Cell::plain(output.acked_events.to_string()),
            Cell::plain(format!(
                "{}{}",
                up_to(output.waiting_events),
                output.waiting_events
            )),
        ];
        for (_, paint, of) in &fates {
            let paint = if of(output) > 0 { *paint } else { Paint::None };
            row.push(Cell::new(of(output).to_string(), paint));
        }
        let error = output.last_error.as_deref().unwrap_or("-");
        row.push(Cell::new(error, Paint::Faint));
        rows.push(row);
        for host in &output.hosts {
            let mut row = vec![
                Cell::plain(""),
                Cell::new(&host.state, output_paint(&host.state)),
                Cell::plain(&host.host),
                Cell::plain(host.acked_events.to_string()),
                Cell::plain(""),
            ];
            row.extend(fates.iter().map(|_| Cell::plain("")));
            let error = host.last_error.as_deref().unwrap_or("-");
            row.push(Cell::new(error, Paint::Faint));
            rows.push(row);
        }
    }
    rows
}

fn job_rows(status: &Status, now: Timestamp) -> Vec<Vec<Cell>> {
    let mut rows = vec![header(&[
        "JOB", "STATE", "LAST RUN", "NEXT", "RUNS", "FAILED", "EVENTS", "SKIPPED",
    ])];
    for job in &status.jobs {
        let failed = job.runs.unsuccessful();
        rows.push(vec![
            Cell::plain(&job.name),
            Cell::new(state(job), job_paint(job)),
            last_run(job, now, status.queue.broken.is_some()),
            Cell::plain(next(job, now)),
            Cell::plain(job.runs.ended().to_string()),
            Cell::new(
                failed.to_string(),
                if failed > 0 { Paint::Bad } else { Paint::None },
            ),
            Cell::plain(job.captured_events.to_string()),
            Cell::plain(job.skipped_ticks.to_string()),
        ]);
    }
    rows
}

/// What the job is doing, and what is unusual about it.
fn state(job: &Job) -> String {
    let mut text = job.state.name().to_owned();
    if let (Some(one), JobState::Preparing | JobState::Failed) = (&job.preparation, job.state) {
        text.push_str(&format!(": {}", one.step.name()));
    }
    if job.overdue {
        text.push_str(", overdue");
    }
    if job.stretch > 1 {
        text.push_str(&format!(", stretched {}x", job.stretch));
    }
    if job.state != JobState::Paused && job.restarts > 0 {
        text.push_str(&format!(", restart {}", job.restarts));
    }
    text
}

/// The jobs that listen for Beats, under a header.
fn source_rows(jobs: &[Job]) -> Vec<Vec<Cell>> {
    let mut rows = vec![header(&[
        "SOURCE",
        "STATE",
        "LISTEN",
        "CONNECTIONS",
        "WINDOWS",
        "EVENTS",
        "REFUSED",
        "LAST REFUSED",
    ])];
    for (job, source) in jobs
        .iter()
        .filter_map(|job| Some((job, job.source.as_ref()?)))
    {
        let refused = source.refused + source.turned_away_connections;
        let (good, bad) = (Paint::Good, Paint::Bad);
        rows.push(vec![
            Cell::plain(&job.name),
            Cell::new(
                &source.state,
                if source.problem.is_some() { bad } else { good },
            ),
            Cell::plain(&source.listen),
            Cell::plain(source.open_connections.to_string()),
            Cell::plain(source.windows.to_string()),
            Cell::plain(source.events.to_string()),
            Cell::new(
                refused.to_string(),
                if refused > 0 { bad } else { Paint::None },
            ),
            Cell::new(source.last_refused.as_deref().unwrap_or("-"), Paint::Faint),
        ]);
    }
    rows
}

fn last_run(job: &Job, now: Timestamp, is_stuck: bool) -> Cell {
    if let Some(running) = job.running.first() {
        if running.script_over {
            let waits = if is_stuck {
                ", waits for the queue"
            } else {
                ""
            };
            return Cell::new(format!("has ended{waits}"), Paint::Warn);
        }
        let since = show_duration(now.since(running.started_at.0));
        return Cell::new(format!("running for {since}"), Paint::Good);
    }
    match &job.last_run {
        None => Cell::new("-", Paint::Faint),
        Some(last) => Cell::new(
            format!(
                "{} {}, took {}",
                last.outcome.name(),
                ago(last.ended_at.0, now),
                show_duration(Duration::from_millis(last.duration_ms))
            ),
            match last.outcome {
                Outcome::Success => Paint::Good,
                Outcome::Killed | Outcome::Interrupted => Paint::Warn,
                Outcome::Failed
                | Outcome::Signalled
                | Outcome::Oom
                | Outcome::TimedOut
                | Outcome::CouldNotStart => Paint::Bad,
            },
        ),
    }
}

fn next(job: &Job, now: Timestamp) -> String {
    match job.next_at {
        None => "-".to_owned(),
        Some(at) if at.0 <= now => "now".to_owned(),
        Some(at) => format!("in {}", show_duration(at.0.since(now))),
    }
}

/// What is wrong with a job's preparation.
fn preparation(job: &Job, now: Timestamp) -> Option<String> {
    let one = job.preparation.as_ref()?;
    let (step, why) = (one.step.name(), one.problem.as_ref()?);
    let meanwhile = if one.gates {
        "the job waits for it"
    } else {
        "the last good environment is in use"
    };
    let again = match one.next_try_at {
        Some(at) => format!("next try in {}", show_duration(at.0.since(now))),
        None if job
            .running
            .iter()
            .any(|run| run.trigger.phase() == one.step) =>
        {
            "it is being tried again".to_owned()
        }
        None if job.state == JobState::Paused => {
            format!("next try after `spoolbeat resume {}`", job.name)
        }
        None => "it is tried again as soon as it may be".to_owned(),
    };
    let mut text = format!("job {}: {step}: {why}; {meanwhile}, {again}", job.name);
    if let Some(run) = &one.run {
        let see = format!(
            "; `spoolbeat results {} {run}` shows what it printed",
            job.name
        );
        text.push_str(&see);
    }
    Some(text)
}

/// Says what is wrong with the queue.
fn queue_problems(lines: &mut Vec<String>, queue: &crate::status::Queue) {
    if queue.quarantined > 0 {
        lines.push(format!(
            "queue: {} damaged parts ({}) are set aside in queue/quarantine, with the reasons",
            queue.quarantined,
            show_bytes(queue.quarantined_bytes)
        ));
    }
    let lost = queue.lost_cursors.iter();
    lines.extend(lost.map(|output| {
        format!("output {output}: its cursor was lost before this start: all that was kept is sent to it again")
    }));
    let lacking = queue.lacks_space();
    lines.extend(lacking.map(|why| format!("queue: {why}")));
    let broken = queue.broken.iter();
    lines.extend(broken.map(|why| format!("queue: {why}")));
}

fn daemon_problems(lines: &mut Vec<String>, daemon: &Daemon) {
    lines.extend(daemon.paused.iter().cloned());
    lines.extend(daemon.unreadable.iter().cloned());
    let settings = daemon.settings_problems.iter();
    lines.extend(settings.map(|problem| format!("{problem} (the former settings hold)")));
    if !daemon.needs_restart.is_empty() {
        lines.push(format!(
            "spoolbeat.toml: what changed in {} holds from the next start of the daemon",
            daemon.needs_restart.join(", ")
        ));
    }
    if daemon.notices_dropped > 0 {
        lines.push(format!(
            "{} events of the daemon's own were dropped: the queue did not take them in time",
            daemon.notices_dropped
        ));
    }
}

fn problems(out: &mut String, status: &Status, now: Timestamp, look: Look) {
    let mut lines: Vec<String> = Vec::new();
    daemon_problems(&mut lines, &status.daemon);
    lines.extend(status.jobs.iter().filter_map(|job| preparation(job, now)));
    for job in status.jobs.iter().filter(|job| job.overdue) {
        lines.push(format!(
            "job {}: it has not succeeded for longer than its expect_every",
            job.name
        ));
    }
    for output in &status.outputs {
        if output.tls == "none" {
            lines.push(format!(
                "output {}: its server is not verified (verification_mode = \"none\"): anybody in between can read and change the events",
                output.name
            ));
        }
        if output.state == "frozen" {
            lines.push(frozen(output));
        }
        let error = output.last_error.iter();
        lines.extend(error.map(|why| format!("output {}: {why}", output.name)));
    }
    for output in &status.outputs {
        let name = &output.name;
        let passed = [
            (
                output.damaged_events,
                "were lost to damage in the queue; see `spoolbeat queue verify`",
            ),
            (
                output.dropped_events,
                "were given up, as the queue was full or the output not configured",
            ),
            (output.skipped_events, "were passed over by a person"),
        ];
        lines.extend(
            passed
                .iter()
                .filter(|(events, _)| *events > 0)
                .map(|(events, how)| format!("output {name}: {events} events {how}")),
        );
    }
    for job in &status.jobs {
        let source = job.source.iter();
        let problem = source.filter_map(|source| source.problem.as_ref());
        lines.extend(problem.map(|why| format!("job {}: {why}; it is tried again", job.name)));
    }
    lines.extend(cut_off(&status.totals.sources));
    queue_problems(&mut lines, &status.queue);
    for job in &status.jobs {
        file_problems(&mut lines, job);
        delivery_problems(&mut lines, job);
    }
    let dropped = status.totals.deliveries.dropped;
    if dropped > 0 {
        lines.push(format!(
            "{dropped} results wait for the next start of the daemon: too many were to be handed to plugins"
        ));
    }
    let of_jobs = status.jobs.iter().flat_map(|job| &job.problems);
    lines.extend(of_jobs.map(ToString::to_string));
    if lines.is_empty() {
        return;
    }
    out.push('\n');
    line(out, &painted("problems:", Paint::Bad, look));
    for text in lines {
        line(out, &format!("  {}", printable(&text)));
    }
}

fn delivery_problems(lines: &mut Vec<String>, job: &Job) {
    let Some(told) = &job.on_result else { return };
    let (name, plugin, counts) = (&job.name, &told.plugin, &told.counts);
    if let Some(why) = &told.last_error {
        lines.push(format!(
            "results of {name}: plugins/{plugin} failed: {why} ({} waiting, {} given up); see on_result.json and on_result.log in results/{name}/latest",
            counts.waiting, counts.failed
        ));
    } else if counts.failed > 0 {
        lines.push(format!(
            "results of {name}: {} were given up, as plugins/{plugin} failed; see on_result.json in results/{name}",
            counts.failed
        ));
    }
}

fn file_problems(lines: &mut Vec<String>, job: &Job) {
    let Some(files) = &job.files else { return };
    let name = &job.name;
    let problem = files.problem.iter();
    lines.extend(problem.map(|why| format!("files of {name}: {why}")));
    let kept = files.kept.iter();
    lines.extend(kept.map(|why| format!("files of {name}: not cleaned up: {why}")));
    if files.refused_files > 0 {
        lines.push(format!(
            "files of {name}: {} are not read: links, FIFOs, files with several names, or too many",
            files.refused_files
        ));
    }
    if files.cut_short > 0 {
        lines.push(format!(
            "files of {name}: {} were cut or replaced before they were read; {} that had been seen are lost",
            files.cut_short,
            show_bytes(files.lost_bytes)
        ));
    }
}

/// What is read for jobs that read files.
fn file_rows(jobs: &[Job]) -> Vec<Vec<Cell>> {
    let mut rows = vec![header(&[
        "FILES OF", "TRACKED", "OPEN", "BEHIND", "RELEASED", "WAITING", "KEPT",
    ])];
    for job in jobs {
        if let Some(files) = &job.files {
            rows.push(vec![
                Cell::plain(&job.name),
                Cell::plain(files.tracked.to_string()),
                Cell::plain(files.open.to_string()),
                Cell::plain(show_bytes(files.behind_bytes)),
                Cell::plain(files.released.to_string()),
                Cell::plain(files.waiting_releases.to_string()),
                Cell::plain(files.refused_releases.to_string()),
            ]);
        }
    }
    rows
}

/// What was cut off, and why.
fn cut_off(sources: &Counters) -> Option<String> {
    let long = match sources.lines_cut - sources.joined_cut.min(sources.lines_cut) {
        0 => None,
        1 => Some("1 line was longer than max_event".to_owned()),
        long => Some(format!("{long} lines were longer than max_event")),
    };
    let joined = match sources.joined_cut {
        0 => None,
        1 => Some("1 event was joined of more than max_lines lines".to_owned()),
        joined => Some(format!(
            "{joined} events were joined of more than max_lines lines"
        )),
    };
    let what: Vec<String> = long.into_iter().chain(joined).collect();
    let bytes = show_bytes(sources.bytes_cut);
    (!what.is_empty()).then(|| format!("{}: {bytes} were cut off", what.join(", ")))
}

fn ago(at: Timestamp, now: Timestamp) -> String {
    format!("{} ago", show_duration(now.since(at)))
}

fn frozen(output: &Output) -> String {
    let name = &output.name;
    let files = match output.waiting_files {
        0 => "no file waits for it".to_owned(),
        1 => "1 file waits for it".to_owned(),
        files => format!("{files} files wait for it"),
    };
    format!(
        "output {name}: it is not configured any more, and {files}; `spoolbeat outputs forget {name}` ends that"
    )
}

fn output_paint(state: &str) -> Paint {
    match state {
        "connected" => Paint::Good,
        "down" => Paint::Bad,
        "frozen" => Paint::Warn,
        _ => Paint::None,
    }
}

const fn state_paint(state: DaemonState) -> Paint {
    match state {
        DaemonState::Running => Paint::Good,
        DaemonState::Paused | DaemonState::Stopping | DaemonState::Draining => Paint::Warn,
    }
}

fn job_paint(job: &Job) -> Paint {
    match job.state {
        _ if job.overdue || !job.problems.is_empty() => Paint::Bad,
        JobState::Running | JobState::Ending | JobState::Listening => Paint::Good,
        JobState::Idle => Paint::None,
        JobState::Waiting | JobState::Held | JobState::Paused => Paint::Warn,
        JobState::Disabled | JobState::Removed => Paint::Faint,
        JobState::Preparing => Paint::Warn,
        JobState::Failed | JobState::Refused => Paint::Bad,
    }
}

fn header(names: &[&str]) -> Vec<Cell> {
    names
        .iter()
        .map(|name| Cell::new(name, Paint::Faint))
        .collect()
}

/// Rows as aligned columns, two spaces between them; padding lies outside of the colours.
fn table(out: &mut String, rows: &[Vec<Cell>], look: Look) {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let mut widths = vec![0; columns];
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.text.chars().count());
        }
    }
    for row in rows {
        let mut text = String::new();
        for (cell, width) in row.iter().zip(&widths) {
            text.push_str(&painted(&cell.text, cell.paint, look));
            let gap = width - cell.text.chars().count() + 2;
            text.extend(std::iter::repeat_n(' ', gap));
        }
        line(out, text.trim_end());
    }
}

fn line(out: &mut String, text: &str) {
    out.push_str(text);
    out.push('\n');
}

fn painted(text: &str, paint: Paint, look: Look) -> String {
    let code = match (look, paint) {
        (Look::Plain, _) | (Look::Coloured, Paint::None) => return text.to_owned(),
        (Look::Coloured, Paint::Bold) => "1",
        (Look::Coloured, Paint::Good) => "32",
        (Look::Coloured, Paint::Warn) => "33",
        (Look::Coloured, Paint::Bad) => "31",
        (Look::Coloured, Paint::Faint) => "2",
    };
    format!("\x1b[{code}m{text}\x1b[0m")
}
