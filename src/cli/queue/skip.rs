//! `spoolbeat queue skip`: an output passes over events without sending them.
//!
//! On a live root the daemon's shipper does it, on a stopped one this process, under the root's lock.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use super::consent;
use crate::cli::EXIT_ERROR;
use crate::cli::block_on;
use crate::cli::say;
use crate::cli::say::CANNOT_READ;
use crate::cli::say::count;
use crate::cli::steer;
use crate::clock;
use crate::control;
use crate::control::AskError;
use crate::disk::Disk;
use crate::queue::cursor;
use crate::queue::cursor::Cursor;
use crate::queue::inspect;
use crate::queue::inspect::Far;
use crate::queue::inspect::Survey;
use crate::queue::select;
use crate::queue::select::Filter;
use crate::queue::select::Go;
use crate::shipper;
use crate::status::Answer;
use crate::status::Daemon;
use crate::status::Request;
use crate::units::Timestamp;

/// How long the daemon may take to pass over what it was told to: it reads the heads of all records.
const PATIENCE: Duration = Duration::from_secs(60);

/// Between two looks at the cursor.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// Looks between two questions whether it is still the same daemon: one a second.
const LOOKS_PER_QUESTION: u32 = 20;

/// Most jobs that are named.
const JOBS_MAX: usize = 10;

/// Which output, and how far.
#[derive(Debug, clap::Args)]
#[command(group = clap::ArgGroup::new("far").required(true).args(["to", "record", "segment", "all"]))]
pub struct Args {
    /// The output
    pub output: String,
    /// The root directory
    pub root: Option<PathBuf>,
    /// Up to the event with this number, it included; `queue cat --json` shows numbers
    #[arg(long, value_name = "SEQ", value_parser = event_number)]
    pub to: Option<u64>,
    /// To the end of the record that it is in
    #[arg(long)]
    pub record: bool,
    /// To the end of the segment that it is in
    #[arg(long)]
    pub segment: bool,
    /// Everything that is captured now
    #[arg(long)]
    pub all: bool,
    /// Do not ask
    #[arg(long)]
    pub yes: bool,
}

impl Args {
    fn far(&self) -> Far {
        match self.to {
            Some(seq) => Far::Event(seq),
            None if self.record => Far::Record,
            None if self.segment => Far::Segment,
            None => Far::All,
        }
    }
}

pub(super) fn run(args: &Args, disk: &Arc<dyn Disk>, root: &Path, survey: &Survey) -> ExitCode {
    match skip(args, disk, root, survey) {
        Ok(code) | Err(Refused::Said(code)) => code,
        Err(Refused::Disk(error)) => {
            let dir = root.join("queue");
            say::fail(CANNOT_READ, &format!("{}: {error}", dir.display()))
        }
    }
}

enum Refused {
    Said(ExitCode),
    Disk(io::Error),
}

impl From<ExitCode> for Refused {
    fn from(said: ExitCode) -> Self {
        Self::Said(said)
    }
}

impl From<io::Error> for Refused {
    fn from(error: io::Error) -> Self {
        Self::Disk(error)
    }
}

fn skip(
    args: &Args,
    disk: &Arc<dyn Disk>,
    root: &Path,
    survey: &Survey,
) -> Result<ExitCode, Refused> {
    let (dir, output) = (root.join("queue"), &*args.output);
    let before = cursor_of(survey, output)?;
    let until = inspect::far(disk, &dir, survey, output, &before, args.far())?;
    if let Some(to) = args.to.filter(|to| *to >= survey.ledger.next_seq) {
        let last = survey.ledger.next_seq - 1;
        say::note(&format!(
            "event {to} is not captured yet, the last one is {last}: that is {} further",
            count(to - last, "event")
        ));
    }
    let ahead = Ahead::of(disk, &dir, survey, output, (before.seq, until))?;
    if until <= before.seq {
        return Ok(say::done(&format!(
            "nothing to skip: {output} waits for no event up to there"
        )));
    }
    let live = consent::is_live(root);
    say::note(&ahead.told(output, until, live));
    consent::ask("Skip them?", args.yes)?;
    let after = match consent::claim(root)? {
        Some(_claim) => {
            // Nobody else has the root now: what a daemon did meanwhile counts.
            let survey = super::survey(disk, root)?;
            let end = (survey.end, survey.ledger.next_seq);
            shipper::skip(disk, &dir, output, until, end)?
        }
        None => block_on(by_daemon(disk, root, output, (&before, until)))??,
    };
    let skipped = after.passed.skipped.saturating_sub(before.passed.skipped);
    let acked = after.passed.acked.saturating_sub(before.passed.acked);
    let meanwhile = match acked {
        0 => String::new(),
        _ => format!(", {acked} acknowledged meanwhile"),
    };
    Ok(say::done(&format!(
        "{} skipped{meanwhile}; {output} goes on with event {}",
        count(skipped, "event"),
        after.seq
    )))
}

fn event_number(text: &str) -> Result<u64, String> {
    text.parse()
        .map_err(|_| format!("`{text}` is no number of an event; write --to 5000"))
}

fn cursor_of(survey: &Survey, output: &str) -> Result<Cursor, ExitCode> {
    let mut cursors = survey.cursors.iter();
    if let Some((_, cursor)) = cursors.find(|(name, _)| name == output) {
        return Ok(*cursor);
    }
    let unreadable = survey.unreadable_cursors.iter().any(|name| name == output);
    let why = if unreadable {
        format!(
            "the cursor of {output} cannot be read or is gone; the next start makes a new one, and sends all that is kept"
        )
    } else {
        let known: Vec<&str> = survey.cursors.iter().map(|(name, _)| &**name).collect();
        let known = known.join(", ");
        format!("there is no output `{output}` in the queue; it has {known}")
    };
    Err(say::fail(EXIT_ERROR, &why))
}

/// Has the daemon do it, and waits until the cursor is there.
async fn by_daemon(
    disk: &Arc<dyn Disk>,
    root: &Path,
    output: &str,
    (before, until): (&Cursor, u64),
) -> Result<Cursor, Refused> {
    let Answer::Status(told) = steer::ask(root, &Request::Status).await? else {
        return Err(steer::not_an_answer().into());
    };
    let request = Request::Skip {
        output: output.to_owned(),
        to: until,
    };
    let Answer::Accepted = steer::ask(root, &request).await? else {
        return Err(steer::not_an_answer().into());
    };
    let there = async {
        for look in 1_u32.. {
            // Before the cursor is looked at: so it is seen where it stays.
            let has_ended = look % LOOKS_PER_QUESTION == 0 && has_ended(root, &told.daemon).await;
            let cursor = cursor::peek(&**disk, &root.join("queue"), output)?;
            if let Some(cursor) = cursor.filter(|cursor| cursor.seq >= until) {
                return Ok(cursor);
            }
            if has_ended {
                let cursor = cursor.unwrap_or(*before);
                let skipped = cursor.passed.skipped.saturating_sub(before.passed.skipped);
                let why = format!(
                    "the daemon has ended meanwhile: {} skipped, and no more will be; {output} is at event {}; run this again to skip the rest",
                    count(skipped, "event"),
                    cursor.seq
                );
                return Err(say::fail(EXIT_ERROR, &why).into());
            }
            clock::sleep(LOOK_EVERY).await;
        }
        Err(steer::not_an_answer().into())
    };
    let why =
        "the daemon has been told, and is not there yet; `spoolbeat status` shows how far it is";
    clock::within(PATIENCE, there)
        .await
        .unwrap_or_else(|| Err(say::fail(EXIT_ERROR, why).into()))
}

/// Whether the daemon that was told is gone, also when another has come: that one knows nothing of it.
async fn has_ended(root: &Path, told: &Daemon) -> bool {
    match control::ask(&root.join("state"), &Request::Status).await {
        Ok(Answer::Status(status)) => {
            (status.daemon.pid, status.daemon.started_at) != (told.pid, told.started_at)
        }
        // Its socket may have been tidied away.
        Err(AskError::NoDaemon { .. }) => !consent::is_live(root),
        _ => false,
    }
}

/// What lies ahead of an output, up to some place.
#[derive(Debug, Default)]
struct Ahead {
    events: u64,
    jobs: BTreeMap<Arc<str>, u64>,
    times: Option<(Timestamp, Timestamp)>,
    damaged: u64,
}

impl Ahead {
    fn of(
        disk: &Arc<dyn Disk>,
        dir: &Path,
        survey: &Survey,
        output: &str,
        (from, until): (u64, u64),
    ) -> io::Result<Self> {
        let mut ahead = Self::default();
        let filter = Filter {
            output: Some(output.to_owned()),
            seqs: Some((from, until.saturating_sub(1))),
            ..Filter::default()
        };
        let missed = select::events(disk, dir, survey.end, &filter, |event| {
            let part = event.part;
            ahead.events += 1;
            *ahead.jobs.entry(Arc::clone(&part.job)).or_default() += 1;
            let (first, last) = ahead.times.unwrap_or((part.first, part.last));
            ahead.times = Some((first.min(part.first), last.max(part.last)));
            Go::On
        })?;
        ahead.damaged = missed.records;
        Ok(ahead)
    }

    fn told(&self, output: &str, until: u64, live: bool) -> String {
        let mut text = format!("{output} would not be sent {}", count(self.events, "event"));
        if let Some((first, last)) = self.times {
            text += &format!(" read from {first} to {last}");
        }
        let named = self.jobs.iter().take(JOBS_MAX);
        let named: Vec<String> = named
            .map(|(job, events)| format!("{events} of {job}"))
            .collect();
        if !named.is_empty() {
            text += &format!(": {}", named.join(", "));
        }
        if self.jobs.len() > JOBS_MAX {
            text += &format!(" and those of {} more", self.jobs.len() - JOBS_MAX);
        }
        if self.damaged > 0 {
            text += &format!("; {} cannot be read", count(self.damaged, "record"));
        }
        text += &format!("; it would go on with event {until}");
        if live {
            text += "; what is on its way now and is acknowledged within 10 s counts as sent";
        }
        text
    }
}
