//! `spoolbeat outputs`: which outputs a root has, and how far each is; forgets those that left.
//!
//! Reads spoolbeat.toml and the queue, with or without a daemon. Must never forget an output that is
//! configured.

use std::collections::BTreeMap;
use std::io;
use std::io::IsTerminal;
use std::io::Write;
use std::path::Path;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use serde::Serialize;

use crate::cli::Done;
use crate::cli::EXIT_ERROR;
use crate::cli::block_on;
use crate::cli::load;
use crate::cli::queue::consent;
use crate::cli::queue::survey;
use crate::cli::run::code_of_error;
use crate::cli::say;
use crate::cli::say::count;
use crate::cli::steer::not_an_answer;
use crate::config;
use crate::config::Outlet;
use crate::control;
use crate::control::AskError;
use crate::daemon;
use crate::disk::Disk;
use crate::disk::OsDisk;
use crate::files;
use crate::log::printable;
use crate::process;
use crate::queue::Frozen;
use crate::queue::cursor::Cursor;
use crate::queue::inspect;
use crate::queue::inspect::Survey;
use crate::queue::readers;
use crate::status::Answer;
use crate::status::Request;
use crate::units::up_to;

/// Wrong usage, as clap has it.
const EXIT_USAGE: u8 = 2;

/// Longest answer to a question: more than `yes`.
const ANSWER_BYTES_MAX: u64 = 64;

/// List the outputs: those of spoolbeat.toml, and those that left it and are frozen
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  spoolbeat outputs /srv/spool
  spoolbeat outputs --json | jq '.[] | select(.state == \"frozen\").name'
  spoolbeat outputs forget old-logstash --root /srv/spool")]
pub struct Args {
    /// The root directory, or its spoolbeat.toml
    #[arg(value_name = "ROOT")]
    pub root: Option<PathBuf>,
    /// Print a JSON list for programs
    #[arg(long)]
    pub json: bool,
    /// What to do with one of them
    #[command(subcommand)]
    pub what: Option<Command>,
}

/// What is done with an output.
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Forget an output that was removed from spoolbeat.toml: files wait for it no longer
    ///
    /// Events that it did not get are lost to it. Works with and without a daemon.
    #[command(
        after_help = "Example: spoolbeat outputs forget old-logstash --root /srv/spool --yes"
    )]
    Forget {
        /// The output
        name: String,
        /// Do not ask
        #[arg(long)]
        yes: bool,
    },
}

/// An output as it is listed.
#[derive(Debug, Serialize)]
struct Row {
    name: String,
    /// `new`: no daemon has run with it yet; `lost`: its cursor cannot be read or is gone.
    state: &'static str,
    kind: Option<&'static str>,
    required: Option<bool>,
    /// Empty: it takes all.
    tags: Option<Vec<String>>,
    /// Number of the next event that it has to pass.
    next_event: Option<u64>,
    waiting_events: u64,
    dropped_events: u64,
    waiting_files: u64,
}

/// Lists or forgets.
pub(super) fn run(args: &Args, given: Option<&Path>) -> Done {
    let root = load(args.root.as_deref().or(given), &[])?;
    match &args.what {
        None => list(&root, args.json),
        Some(_) if args.json => Err(say::fail(EXIT_USAGE, "--json is for the list of outputs")),
        Some(Command::Forget { name, yes }) => forget(&root, name, *yes),
    }
}

fn list(root: &config::Root, json: bool) -> Done {
    let disk: Arc<dyn Disk> = Arc::new(OsDisk);
    let survey = match files::look(&root.dir.join("queue")) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        _ => Some(survey(&disk, &root.dir)?),
    };
    let oldest = match &survey {
        Some(survey) => {
            inspect::kept(&disk, &root.dir.join("queue"), survey)
                .map_err(|error| say::fail(EXIT_ERROR, &error.to_string()))?
                .seq
        }
        None => 1,
    };
    let rows = rows(root, survey.as_ref(), oldest);
    if json {
        return match serde_json::to_string(&rows) {
            Ok(json) => Ok(say::report(&(json + "\n"), 0)),
            Err(error) => Err(say::fail(EXIT_ERROR, &format!("no JSON: {error}"))),
        };
    }
    Ok(say::report(&table(&rows), 0))
}

/// `oldest` is the first event that is kept: where those begin whose cursors are lost.
fn rows(root: &config::Root, survey: Option<&Survey>, oldest: u64) -> Vec<Row> {
    let cursors: BTreeMap<&String, &Cursor> = survey
        .iter()
        .flat_map(|survey| survey.cursors.iter().map(|(name, cursor)| (name, cursor)))
        .collect();
    let row = |name: &str, state: &'static str, cursor: Option<&Cursor>| Row {
        name: name.to_owned(),
        state,
        kind: None,
        required: None,
        tags: None,
        next_event: cursor.map(|cursor| cursor.seq),
        waiting_events: match (survey, cursor) {
            (Some(survey), Some(cursor)) => cursor.waiting(survey.ledger.next_seq),
            _ => 0,
        },
        dropped_events: cursor.map_or(0, |cursor| cursor.passed.dropped),
        waiting_files: match (survey, cursor) {
            (Some(survey), Some(cursor)) => readers::waiting_files(&survey.ledger, name, cursor),
            _ => 0,
        },
    };
    let lost = Cursor {
        seq: oldest,
        born: oldest,
        ..Cursor::default()
    };
    let all_lost = survey.map_or(&[][..], |survey| &survey.unreadable_cursors);
    let configured = root.outputs.iter().map(|output| {
        let (state, cursor) = match cursors.get(&output.name) {
            Some(cursor) => ("configured", Some(**cursor)),
            None if all_lost.contains(&output.name) => ("lost", Some(lost)),
            None => ("new", None),
        };
        Row {
            kind: Some(output.kind.kind()),
            required: Some(output.required),
            tags: Some(output.tags.texts()),
            ..row(&output.name, state, cursor.as_ref())
        }
    });
    let mut rows: Vec<Row> = configured.collect();
    let gone = survey.map(|survey| frozen(&root.outlets(), survey));
    let gone = gone.unwrap_or_default().into_iter();
    for one in gone.filter(|one| !all_lost.contains(&one.output)) {
        rows.push(row(&one.output, "frozen", Some(&one.cursor)));
    }
    for name in all_lost {
        if !root.outputs.iter().any(|output| output.name == *name) {
            rows.push(row(name, "lost", Some(&lost)));
        }
    }
    rows
}

/// The outputs that left the configuration, which has these.
pub(super) fn frozen(outlets: &[Outlet], survey: &Survey) -> Vec<Frozen> {
    let is_configured = |name: &str| outlets.iter().any(|outlet| outlet.name == name);
    let cursors = survey.cursors.iter().cloned().collect();
    readers::frozen(&cursors, &survey.ledger, is_configured)
}

/// `1 file waits`, `2 files wait`.
pub(super) fn files_wait(files: u64) -> String {
    match files {
        1 => "1 file waits".to_owned(),
        files => format!("{files} files wait"),
    }
}

fn table(rows: &[Row]) -> String {
    const HEAD: [&str; 9] = [
        "OUTPUT",
        "STATE",
        "KIND",
        "REQUIRED",
        "TAGS",
        "NEXT EVENT",
        "WAITING",
        "DROPPED",
        "FILES WAIT",
    ];
    let mut lines = vec![HEAD.map(str::to_owned)];
    let dash = || "-".to_owned();
    for row in rows {
        lines.push([
            printable(&row.name),
            row.state.to_owned(),
            row.kind.map_or_else(dash, str::to_owned),
            row.required
                .map_or_else(dash, |yes| if yes { "yes" } else { "no" }.to_owned()),
            match row.tags.as_deref() {
                None => dash(),
                Some([]) => "all".to_owned(),
                Some(tags) => tags.join(" "),
            },
            row.next_event.map_or_else(dash, |seq| seq.to_string()),
            format!("{}{}", up_to(row.waiting_events), row.waiting_events),
            row.dropped_events.to_string(),
            row.waiting_files.to_string(),
        ]);
    }
    let widths: Vec<usize> = (0..HEAD.len())
        .map(|column| {
            lines
                .iter()
                .map(|line| line[column].chars().count())
                .max()
                .unwrap_or(0)
        })
        .collect();
    let mut text = String::new();
    for line in &lines {
        let cells = line.iter().zip(&widths);
        let cells: Vec<String> = cells
            .map(|(cell, width)| format!("{cell:<width$}"))
            .collect();
        text.push_str(cells.join("  ").trim_end());
        text.push('\n');
    }
    text
}

fn forget(root: &config::Root, name: &str, yes: bool) -> Done {
    let fail = |why: String| Err(say::fail(EXIT_ERROR, &why));
    if root.outputs.iter().any(|output| output.name == name) {
        return fail(format!(
            "output `{name}` is configured; remove it from spoolbeat.toml and restart the daemon first"
        ));
    }
    let disk: Arc<dyn Disk> = Arc::new(OsDisk);
    let survey = survey(&disk, &root.dir)?;
    let frozen = frozen(&root.outlets(), &survey);
    let known = frozen.iter().find(|one| one.output == name);
    if known.is_none() && !survey.unreadable_cursors.iter().any(|one| one == name) {
        let names: Vec<&str> = frozen.iter().map(|one| one.output.as_str()).collect();
        let which = match names.as_slice() {
            [] => "none is frozen".to_owned(),
            names => format!("frozen: {}", names.join(", ")),
        };
        return fail(format!("there is no output `{name}` to forget; {which}"));
    }
    let files = known.map_or(0, |one| one.files);
    let waiting = known.map_or(0, |one| one.cursor.waiting(survey.ledger.next_seq));
    let what = format!(
        "{}{} and {} wait for output `{name}`",
        up_to(waiting),
        count(waiting, "event"),
        count(files, "file")
    );
    if !yes {
        confirm(&what)?;
    }
    let request = Request::ForgetOutput {
        output: name.to_owned(),
    };
    let done = format!("output `{name}` is forgotten; {what} no longer");
    let state = root.dir.join("state");
    block_on(async {
        match control::ask(&state, &request).await {
            Ok(Answer::Accepted) => say::done(&done),
            Ok(Answer::Refused { reason }) => say::fail(EXIT_ERROR, &reason),
            Ok(_) => not_an_answer(),
            Err(AskError::NoDaemon { .. }) => stopped(root, name, &done),
            Err(error) => say::fail(EXIT_ERROR, &error.to_string()),
        }
    })
}

/// Asks the person; who cannot be asked has to say `--yes`.
fn confirm(what: &str) -> Result<(), ExitCode> {
    if !io::stdin().is_terminal() {
        let why = format!("{what}; this cannot be undone: say --yes to forget it");
        return Err(say::fail(EXIT_USAGE, &why));
    }
    let mut out = io::stderr().lock();
    // Who closed standard error cannot read the question, and answers it with nothing.
    drop(write!(
        out,
        "{what}.\nTo forget it loses these events to it, and lets the clean-up of these files go on; this cannot be undone. Forget it? [y/N] "
    ));
    drop(out.flush());
    let mut answer = String::new();
    let stdin = io::Read::take(io::stdin().lock(), ANSWER_BYTES_MAX);
    let read = io::BufRead::read_line(&mut io::BufReader::new(stdin), &mut answer);
    match (read, answer.trim().to_ascii_lowercase().as_str()) {
        (Ok(_), "y" | "yes") => Ok(()),
        _ => Err(say::fail(EXIT_ERROR, "nothing was done")),
    }
}

fn stopped(root: &config::Root, name: &str, done: &str) -> ExitCode {
    let (own, owner) = (process::own_uid(), consent::owner(&root.dir));
    if owner != own {
        let why = format!(
            "the queue belongs to user {owner}, and this would leave files of user {own} in it; do it as that user"
        );
        return say::fail(EXIT_ERROR, &why);
    }
    match daemon::forget_output(root, name) {
        Ok(()) => say::done(done),
        Err(error) => say::fail(code_of_error(&error), &error.to_string()),
    }
}
