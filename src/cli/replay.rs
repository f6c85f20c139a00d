//! `spoolbeat replay [JOB] --since T`: sends kept events again, under the same `event.id`.
//!
//! Reads the queue, live or stopped, and speaks to the output itself: the daemon's cursors and
//! counters do not move.

use std::io;
use std::io::BufWriter;
use std::io::Write;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use crate::clock;
use crate::config::Output;
use crate::config::OutputKind;
use crate::disk::Disk;
use crate::disk::OsDisk;
use crate::event::Frames;
use crate::lumberjack::connection::Connection;
use crate::lumberjack::connection::Turn;
use crate::queue::inspect;
use crate::queue::inspect::Filter;
use crate::queue::inspect::Go;
use crate::queue::inspect::Survey;
use crate::sink::lumberjack::Session;
use crate::sink::lumberjack::Settings;
use crate::units::Timestamp;
use crate::window::Builder;
use crate::window::Limits;

/// `spoolbeat replay`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Only events of this job.
    pub job: Option<String>,
    /// From when on: RFC 3339, or how long ago, like 15m or 2h.
    #[arg(long, value_parser = super::queue::since)]
    pub since: Timestamp,
    /// The output to send to; default: the first one of spoolbeat.toml.
    #[arg(long)]
    pub to: Option<String>,
    /// Print the events instead of sending them.
    #[arg(long)]
    pub dry_run: bool,
}

/// How often a window is tried before the replay is given up.
const TRIES_MAX: u32 = 3;

/// Windows between the reader of the queue and the connection.
const WINDOWS_WAITING_MAX: usize = 2;

/// Runs it.
pub async fn run(args: Args, root: &Path, outputs: &[Output]) -> ExitCode {
    let filter = Filter {
        job: args.job,
        since: Some(args.since),
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
    let chosen = match &args.to {
        None => outputs.first(),
        Some(name) => outputs.iter().find(|output| output.name == *name),
    };
    let Some(Output {
        kind: OutputKind::Lumberjack(settings),
        name,
        ..
    }) = chosen
    else {
        let names: Vec<&str> = outputs.iter().map(|output| output.name.as_str()).collect();
        return super::say::fail(
            78,
            &format!(
                "there is no output `{}`; spoolbeat.toml has: {}",
                args.to.as_deref().unwrap_or_default(),
                names.join(", ")
            ),
        );
    };
    let limits = Limits {
        events: settings.bulk_max_size,
        compression_level: settings.compression_level,
    };
    let (windows_tx, windows) = tokio::sync::mpsc::channel(WINDOWS_WAITING_MAX);
    let reader = tokio::task::spawn_blocking(move || {
        read(&disk, &dir, &survey, &filter, limits, &windows_tx)
    });
    let sent = send(windows, settings).await;
    let read = reader.await.unwrap_or_else(|error| Err(error.to_string()));
    match (sent, read) {
        (Ok(events), Ok(0)) => super::say::done(&format!("{events} events sent again to {name}")),
        (Ok(events), Ok(missed)) => super::say::fail(
            1,
            &format!(
                "{events} events sent again to {name}; {missed} damaged records were left out"
            ),
        ),
        (Err(why), _) => super::say::fail(69, &why),
        (_, Err(why)) => super::say::fail(74, &why),
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

type Windows = tokio::sync::mpsc::Sender<crate::window::Window>;

/// Reads the wanted events into windows; returns how many records were damaged.
fn read(
    disk: &Arc<dyn Disk>,
    dir: &Path,
    survey: &Survey,
    filter: &Filter,
    limits: Limits,
    windows: &Windows,
) -> Result<u64, String> {
    let mut builder = Builder::new(limits);
    let missed = inspect::events(disk, dir, survey.end, filter, |_, event| {
        let mut one = Frames::default();
        one.push(|out| out.extend_from_slice(event));
        if builder.add(&one, 0) == 1 {
            return Go::On;
        }
        let full = builder.finish();
        builder.add(&one, 0);
        match full.map(|window| windows.blocking_send(window)) {
            Some(Err(_)) => Go::Stop,
            _ => Go::On,
        }
    })
    .map_err(|error| error.to_string())?;
    if let Some(window) = builder.finish() {
        // The sender has given up when nobody takes it; it says why.
        drop(windows.blocking_send(window));
    }
    Ok(missed.records)
}

async fn send(
    mut windows: tokio::sync::mpsc::Receiver<crate::window::Window>,
    settings: &Settings,
) -> Result<u64, String> {
    let mut events = 0;
    let mut link = None;
    while let Some(window) = windows.recv().await {
        let mut tries = 0;
        loop {
            tries += 1;
            match one_window(&mut link, &window, settings, tries).await {
                Ok(()) => break,
                Err(why) if tries >= TRIES_MAX => {
                    return Err(format!(
                        "{why}; given up after {events} events and {tries} tries"
                    ));
                }
                Err(why) => {
                    tracing::warn!(error = why, "the window is sent again");
                    link = None;
                    clock::sleep(settings.backoff_init).await;
                }
            }
        }
        events += u64::from(window.events);
    }
    Ok(events)
}

async fn one_window(
    link: &mut Option<(Connection, Session)>,
    window: &crate::window::Window,
    settings: &Settings,
    tries: u32,
) -> Result<(), String> {
    let (connection, session) = match link {
        Some(link) => link,
        None => {
            let host = &settings.hosts[(tries - 1) as usize % settings.hosts.len()];
            let connection = Connection::open(host, &settings.dial())
                .await
                .map_err(|broken| broken.reason)?;
            link.insert((connection, Session::new(settings, clock::tick())))
        }
    };
    session.sent(window.events, clock::tick());
    connection.send(window.bytes.clone());
    while session.in_flight() > 0 {
        let wait = session
            .deadline()
            .map_or(Duration::ZERO, |at| at.since(clock::tick()));
        match clock::within(wait, connection.turn()).await {
            Some(Ok(Turn::Received(bytes))) => {
                // Nothing depends on a partial ACK here: a window that breaks is sent whole again.
                session.received(&bytes, clock::tick())?;
            }
            Some(Ok(Turn::Wrote)) => session.wrote(clock::tick()),
            Some(Err(broken)) => return Err(broken.reason),
            None => session.check(clock::tick())?,
        }
    }
    Ok(())
}
