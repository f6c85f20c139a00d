//! `spoolbeat replay`: sends events again, under the same `event.id`: kept ones, or dead letters.
//!
//! Reads the queue, live or stopped, and speaks to the output itself: the daemon's cursors and
//! counters do not move.

use std::io;
use std::io::BufWriter;
use std::io::Write;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use crate::cli::choose;
use crate::cli::exit_of;
use crate::cli::feed;
use crate::cli::feed::Feeder;
use crate::cli::feed::Gone;
use crate::config::Output;
use crate::disk::Disk;
use crate::disk::OsDisk;
use crate::queue::inspect;
use crate::queue::inspect::Filter;
use crate::queue::inspect::Go;
use crate::queue::inspect::Survey;
use crate::units::Timestamp;

mod dead_letter;

/// `spoolbeat replay`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Only events of this job.
    pub job: Option<String>,
    /// From when on: RFC 3339, or how long ago, like 15m or 2h.
    #[arg(
        long,
        value_parser = super::queue::since,
        required_unless_present = "dead_letter",
        conflicts_with = "dead_letter"
    )]
    pub since: Option<Timestamp>,
    /// The output to send to; default: the first one of spoolbeat.toml.
    #[arg(long, value_name = "NAME")]
    pub output: Option<String>,
    /// Instead of kept events, those that the output's server had refused and that were set aside
    /// in dead-letter/; what is acknowledged now is removed there.
    #[arg(long, conflicts_with = "job")]
    pub dead_letter: bool,
    /// Print the events instead of sending them.
    #[arg(long)]
    pub dry_run: bool,
}

/// How often in a row the replay tries again before it is given up.
const RETRIES: u32 = 2;

/// Runs it.
pub async fn run(args: Args, root: &Path, outputs: &[Output]) -> ExitCode {
    let (name, settings) = match choose(outputs, args.output.as_deref()) {
        Ok(chosen) => chosen,
        Err(said) => return said,
    };
    if args.dead_letter {
        return dead_letter::run(&OsDisk, root, name, settings, args.dry_run).await;
    }
    let filter = Filter {
        job: args.job,
        since: args.since,
    };
    let disk: Arc<dyn Disk> = Arc::new(OsDisk);
    let dir = root.join("queue");
    let survey = match super::queue::survey(&disk, root) {
        Ok(survey) => survey,
        Err(said) => return said,
    };
    if let Some(job) = &filter.job
        && let Some(why) = super::queue::lacks(&survey, job)
    {
        return super::say::fail(1, &why);
    }
    if args.dry_run {
        return match print(&disk, &dir, &survey, &filter) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
            Err(error) => super::say::fail(74, &format!("{}: {error}", dir.display())),
        };
    }
    let mut client = match settings.client().retries(RETRIES).connect().await {
        Ok(client) => client,
        Err(error) => return super::say::fail(exit_of(&error), &error.reason),
    };
    let (feeder, feed) = feed::new();
    let reader = tokio::task::spawn_blocking(move || read(&disk, &dir, &survey, &filter, &feeder));
    let sent = feed.send_by(&mut client).await;
    // The reader sees that nobody sends any more.
    drop(feed);
    let read = reader.await.map_err(io::Error::other).flatten();
    let events = client.acked();
    match (sent, read) {
        (Ok(()), Ok(0)) => super::say::done(&format!("{events} events sent again to {name}")),
        (Ok(()), Ok(missed)) => super::say::fail(
            1,
            &format!(
                "{events} events sent again to {name}; {missed} damaged records were left out"
            ),
        ),
        (Err(error), _) => super::say::fail(
            exit_of(&error),
            &format!("{error}; given up after {events} events and {RETRIES} further tries"),
        ),
        (_, Err(error)) => super::say::fail(74, &format!("after {events} events: {error}")),
    }
}

fn print(disk: &Arc<dyn Disk>, dir: &Path, survey: &Survey, filter: &Filter) -> io::Result<()> {
    let mut out = BufWriter::new(io::stdout().lock());
    let mut wrote = Ok(());
    inspect::events(disk, dir, survey.end, filter, |_, event| {
        wrote = out.write_all(event).and_then(|()| out.write_all(b"\n"));
        if wrote.is_ok() { Go::On } else { Go::Stop }
    })?;
    wrote?;
    out.flush()
}

/// Reads the wanted events; returns how many records were damaged.
fn read(
    disk: &Arc<dyn Disk>,
    dir: &Path,
    survey: &Survey,
    filter: &Filter,
    feeder: &Feeder,
) -> io::Result<u64> {
    let missed = inspect::events(disk, dir, survey.end, filter, |_, event| {
        match feeder.push(|out| out.extend_from_slice(event)) {
            Ok(()) => Go::On,
            Err(Gone) => Go::Stop,
        }
    })?;
    Ok(missed.records)
}
