//! `spoolbeat queue repair`: what is damaged in a queue is set aside, and what can be is made anew.
//!
//! Looks, says what it would do, asks, does it, and looks again until nothing is left. On a live root
//! this process sets damaged records aside, which the daemon does not notice; all else needs it stopped.

use std::path::Path;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use super::consent;
use super::exists;
use crate::cli::EXIT_ERROR;
use crate::cli::say;
use crate::cli::say::CANNOT_READ;
use crate::cli::say::count;
use crate::clock;
use crate::config;
use crate::disk::Disk;
use crate::log::printable;
use crate::queue::inspect;
use crate::queue::inspect::Survey;
use crate::queue::quarantine;
use crate::queue::recover::OpenError;
use crate::queue::repair;
use crate::queue::repair::Daemon;
use crate::queue::repair::Look;
use crate::queue::segment;
use crate::queue::verify::Damage;
use crate::queue::verify::Lost;
use crate::units::show_bytes;

/// Most things of a kind that are told one by one.
const TOLD_MAX: usize = 100;

/// Which queue.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The root directory
    pub root: Option<PathBuf>,
    /// Do not ask
    #[arg(long)]
    pub yes: bool,
}

pub(super) fn run(args: &Args, disk: &Arc<dyn Disk>, root: &config::Root) -> ExitCode {
    repair(args, disk, root).unwrap_or_else(|said| said)
}

fn failed(error: &OpenError) -> ExitCode {
    say::fail(CANNOT_READ, &error.to_string())
}

fn repair(args: &Args, disk: &Arc<dyn Disk>, root: &config::Root) -> Result<ExitCode, ExitCode> {
    exists(&root.dir)?;
    let dir = root.dir.join("queue");
    let see = |daemon| repair::look(disk, &dir, daemon).map_err(|error| failed(&error));
    let mut done: Option<Look> = None;
    loop {
        let daemon = match consent::is_live(&root.dir) {
            true => Daemon::Runs,
            false => Daemon::Stopped,
        };
        let (found, survey) = see(daemon)?;
        if found.is_nothing() {
            return end(&found, done.is_some());
        }
        if done.as_ref() == Some(&found) {
            return Err(say::fail(EXIT_ERROR, "this is still so after the repair"));
        }
        let told = Told {
            disk,
            dir: &dir,
            found: &found,
            survey: survey.as_ref(),
        };
        say::note(&format!(
            "to be repaired in {}:\n{}",
            dir.display(),
            told.text(daemon).map_err(|error| failed(&error))?
        ));
        if daemon == Daemon::Runs && found.damage.is_empty() {
            let why = "the daemon has these in memory, and would not see the repair: stop it (`systemctl stop spoolbeat`), and run this again";
            return Err(say::fail(EXIT_ERROR, why));
        }
        consent::ask("Do this?", args.yes)?;
        let now = clock::now();
        let claim = consent::claim(&root.dir)?;
        let mended = match &claim {
            // Nobody else has the root now: what a daemon did meanwhile counts, and is to be told.
            Some(_) if see(daemon)?.0 != found => {
                say::note("the queue has changed meanwhile");
                continue;
            }
            Some(_) => repair::mend(disk, &dir, root.queue.clone(), &found, now),
            None if daemon == Daemon::Stopped => continue,
            None => {
                consent::is_ours(&root.dir)?;
                repair::settle(&**disk, &dir, &found.damage, now)
            }
        };
        mended.map_err(|error| failed(&error))?;
        done = Some(found);
    }
}

/// Nothing is left to be done.
fn end(found: &Look, repaired: bool) -> Result<ExitCode, ExitCode> {
    if found.beyond.is_empty() {
        let done = match repaired {
            true => "the queue is repaired; what was damaged lies in queue/quarantine",
            false => "nothing is damaged; nothing was changed",
        };
        return Ok(say::done(done));
    }
    let mut why = "this cannot be repaired, and was left as it is:".to_owned();
    for damage in found.beyond.iter().take(TOLD_MAX) {
        why += &format!("\n  {}", place(damage));
    }
    Err(say::fail(EXIT_ERROR, &why))
}

fn place(damage: &Damage) -> String {
    format!("{} at {}: {}", damage.segment, damage.offset, damage.what)
}

/// What there is to be done, for a person.
struct Told<'a> {
    disk: &'a Arc<dyn Disk>,
    dir: &'a Path,
    found: &'a Look,
    survey: Option<&'a Survey>,
}

impl Told<'_> {
    fn text(&self, daemon: Daemon) -> Result<String, OpenError> {
        let at_dir = |error| OpenError::Disk {
            path: self.dir.to_path_buf(),
            error,
        };
        let mut lines = Vec::new();
        for (id, why) in &self.found.segments {
            let name = segment::file_name(*id);
            lines.push(format!(
                "{name}: {why}; it is moved to queue/quarantine, and what else is damaged shows then"
            ));
        }
        let damage = &self.found.damage;
        for one in damage.iter().take(TOLD_MAX) {
            lines.push(place(one));
            lines.push(format!("  {}", self.set_aside(one).map_err(at_dir)?));
        }
        let more = damage.len().saturating_sub(TOLD_MAX);
        if more > 0 {
            let more = count(more as u64, "other place");
            lines.push(format!("{more}; `spoolbeat queue verify` shows all"));
        }
        if !damage.is_empty() {
            lines.push(self.losses());
        }
        for output in &self.found.cursors {
            lines.push(self.cursor(output).map_err(at_dir)?);
        }
        if let Some((readable, all)) = self.found.checkpoints {
            lines.push(format!(
                "{readable} of {all} checkpoints can be read: a new one is written"
            ));
        }
        for path in self.found.unfinished.iter().take(TOLD_MAX) {
            let path = printable(&path.display().to_string());
            lines.push(format!("{path} was never finished: it is removed"));
        }
        let unfinished = self.tail();
        if daemon == Daemon::Stopped && self.found.needs_writer() && unfinished > 0 {
            lines.push(format!(
                "{} behind the last whole record, a write that was cut short or a record that was damaged since: cut off, and copied to queue/quarantine",
                show_bytes(unfinished)
            ));
        }
        if daemon == Daemon::Runs && self.found.needs_rest() && !damage.is_empty() {
            lines.push(
                "the daemon runs: only damaged records are set aside now, the rest needs it stopped"
                    .to_owned(),
            );
        }
        let lines: Vec<String> = lines.iter().map(|line| format!("  {line}")).collect();
        Ok(lines.join("\n"))
    }

    /// Bytes behind the last whole record.
    fn tail(&self) -> u64 {
        let Some(survey) = self.survey else { return 0 };
        let last = survey.segments.last().copied().unwrap_or_default();
        match last.0 == survey.end.segment {
            true => last.1.saturating_sub(survey.end.offset),
            false => 0,
        }
    }

    /// What is done about a place.
    fn set_aside(&self, damage: &Damage) -> std::io::Result<String> {
        let Some(place) = damage.place else {
            return Ok(String::new());
        };
        let spans = quarantine::spans(&**self.disk, self.dir, (place.from, place.to))?;
        let bytes: u64 = spans.iter().map(|span| span.to - span.from).sum();
        let bytes = match bytes {
            0 => "nothing is left of it".to_owned(),
            bytes => format!("{} are copied to queue/quarantine", show_bytes(bytes)),
        };
        Ok(match place.lost {
            None => format!("no event is lost; {bytes}"),
            Some(lost) => format!("{} lost; {bytes}", lost_events(&lost)),
        })
    }

    /// All that is lost, and to whom it was not sent yet.
    fn losses(&self) -> String {
        let lost = self.found.damage.iter();
        let lost: Vec<Lost> = lost.filter_map(|damage| damage.place?.lost).collect();
        let events = |from: u64| -> u64 {
            let left = lost
                .iter()
                .map(|lost| lost.events.1.saturating_sub(lost.events.0.max(from)));
            left.sum()
        };
        let mut text = format!("{} lost in all", count(events(0), "event"));
        let cursors = self.survey.iter().flat_map(|survey| &survey.cursors);
        for (output, cursor) in cursors {
            let left = events(cursor.seq);
            if left > 0 {
                text += &format!("; not passed yet by {}: {left}", printable(output));
            }
        }
        text
    }

    fn cursor(&self, output: &str) -> std::io::Result<String> {
        let output = printable(output);
        let again = match self.survey {
            None => 0,
            Some(survey) => {
                let oldest = inspect::kept(self.disk, self.dir, survey)?.seq;
                survey.ledger.next_seq.saturating_sub(oldest)
            }
        };
        Ok(format!(
            "the cursor of {output} cannot be read or is gone: it gets a new one, and {} that are kept are sent to it again, with the same event.id",
            count(again, "event")
        ))
    }
}

/// `1 record with 20 events (301..320)`.
fn lost_events(lost: &Lost) -> String {
    let records = lost.records.1.saturating_sub(lost.records.0);
    let events = lost.events.1.saturating_sub(lost.events.0);
    let text = format!(
        "{} with {}",
        count(records, "record"),
        count(events, "event")
    );
    match events {
        0 => text,
        1 => format!("{text} ({})", lost.events.0),
        _ => format!("{text} ({}..{})", lost.events.0, lost.events.1 - 1),
    }
}
