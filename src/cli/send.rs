//! `spoolbeat send`: lines of files or of standard input become events at a server.
//!
//! Holds no more than some windows of them. Knows nothing of jobs and queues.

use std::io;
use std::io::IsTerminal;
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;
use std::time::Duration;

use serde_json::Map;
use serde_json::Value;

use crate::cli::EXIT_SYSTEM;
use crate::cli::EXIT_UNAVAILABLE;
use crate::cli::exit_of;
use crate::cli::feed;
use crate::cli::feed::Feed;
use crate::cli::say;
use crate::cli::say::CANNOT_READ;
use crate::cli::say::count;
use crate::cli::send::input::Format;
use crate::cli::send::input::Input;
use crate::cli::send::input::Stopped;
use crate::cli::send::input::Summary;
use crate::cli::signals::Signals;
use crate::cli::tls_flags::TlsFlags;
use crate::clock;
use crate::daemon;
use crate::event::EVENT_BYTES_MAX;
use crate::event::RunId;
use crate::event::envelope::Lines;
use crate::event::envelope::Shape;
use crate::lumberjack::Client;
use crate::lumberjack::client::Builder;
use crate::lumberjack::client::Checked;
use crate::lumberjack::client::Error;
use crate::units::parse_bytes;
use crate::units::show_bytes;
use crate::units::show_duration;

mod input;

/// Longest line of text that is not cut, as for jobs.
const MAX_EVENT: usize = 1 << 20;

/// sysexits `EX_DATAERR`: lines are no events.
const EXIT_DATA: u8 = 65;

/// sysexits `EX_NOINPUT`: an input cannot be opened.
const EXIT_NO_INPUT: u8 = 66;

/// As shells say of what was ended by SIGINT.
const EXIT_INTERRUPTED: u8 = 130;

/// Between two looks at how far it is, for people.
const SHOW_EVERY: Duration = Duration::from_millis(250);

/// Send lines to a Beats server and wait until it has acknowledged them
///
/// Each line is the `message` of an event, or, with --json, an event as it is, sent byte for byte.
/// A line goes as soon as it is read; memory is bounded however much there is. What is not
/// acknowledged is sent again on a new connection, to the next host if there are several.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  journalctl -f | spoolbeat send --to logstash-1:5044 --field site=berlin
  spoolbeat send --json events.ndjson --to logstash-1:5044 --to logstash-2:5044
  spoolbeat send app.log --output lumberjack --root /srv/spool

Exit codes: 0 every event is acknowledged, 65 lines of --json are no events (all others are
acknowledged, without --strict), 66 a file cannot be opened, 69 no server took the rest, 74 an
input cannot be read on, 78 the settings are wrong, 130 interrupted. The last line on standard
error says how many events are acknowledged.")]
pub struct Args {
    /// Files to read one after the other; `-` or none: standard input
    #[arg(value_name = "FILE")]
    pub files: Vec<PathBuf>,
    /// The server; given several times, the next is tried when one fails. The port is 5044 if none is given
    #[arg(
        long,
        value_name = "HOST:PORT",
        required_unless_present = "output",
        conflicts_with = "output"
    )]
    pub to: Vec<String>,
    /// Send as this output of spoolbeat.toml does
    #[arg(
        long,
        value_name = "NAME",
        conflicts_with_all = ["tls", "ca", "cert", "key", "insecure"]
    )]
    pub output: Option<String>,
    /// Each line is text: the `message` of an event (the default)
    #[arg(long, conflicts_with = "json")]
    pub text: bool,
    /// Each line is an event: one JSON object
    #[arg(long)]
    pub json: bool,
    /// With --json: end at the first line that is no event, instead of leaving it out
    #[arg(long, requires = "json")]
    pub strict: bool,
    /// With text: add this under `fields` of each event; may be given several times
    #[arg(long = "field", value_name = "KEY=VALUE", conflicts_with = "json", value_parser = field)]
    pub fields: Vec<(String, String)>,
    /// Longest line, at most 9MiB: longer ones are cut and marked, with --json left out [default: 1MiB; with --json 9MiB]
    #[arg(long, value_name = "SIZE", value_parser = max_event)]
    pub max_event: Option<usize>,
    /// How often in a row to try again what failed, 1 s to 60 s apart
    #[arg(long, value_name = "N", default_value_t = 3)]
    pub retries: u32,
    /// How the server is proven
    #[command(flatten)]
    pub tls: TlsFlags,
}

fn field(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err("write KEY=VALUE, like site=berlin".to_owned()),
    }
}

fn max_event(text: &str) -> Result<usize, String> {
    let bytes = parse_bytes(text)?;
    usize::try_from(bytes)
        .ok()
        .filter(|bytes| (1..=EVENT_BYTES_MAX).contains(bytes))
        .ok_or_else(|| {
            format!(
                "{text} is not from 1B to {}",
                show_bytes(EVENT_BYTES_MAX as u64)
            )
        })
}

impl Args {
    /// The client that the flags alone describe.
    ///
    /// # Errors
    /// What is wrong with the files of TLS.
    pub(super) fn client(&self) -> Result<Option<Builder>, String> {
        let Some((first, others)) = self.to.split_first() else {
            return Ok(None);
        };
        let client = others
            .iter()
            .fold(Client::to(first), |client, host| client.or(host));
        Ok(Some(match self.tls.checked()? {
            Some(settings) => client.tls(settings),
            None => client,
        }))
    }

    fn format(&self) -> Result<Format, daemon::Error> {
        if self.json {
            let strict = self.strict;
            return Ok(Format::Json { strict });
        }
        let fields: Map<String, Value> = self
            .fields
            .iter()
            .map(|(key, value)| (key.clone(), Value::from(value.as_str())))
            .collect();
        Ok(Format::Text(event_lines(&[], &fields)?))
    }
}

/// Lines of this command, as a source of their own.
pub(super) fn event_lines(
    tags: &[&str],
    fields: &Map<String, Value>,
) -> Result<Lines, daemon::Error> {
    let identity = daemon::passing_identity(Shape::Ecs)?;
    let salt = crc32fast::hash(identity.agent_ephemeral_id.as_bytes());
    let source = RunId::new(clock::now(), salt);
    Ok(Lines::of_source(&identity, source.as_str(), tags, fields))
}

/// How sending ended.
enum End {
    Done(Result<(), Error>),
    Interrupted,
}

/// Sends by `client`.
pub async fn run(args: Args, client: Builder) -> ExitCode {
    let format = match args.format() {
        Ok(format) => format,
        Err(error) => return say::fail(EXIT_SYSTEM, &error.to_string()),
    };
    let mut signals = match Signals::new() {
        Ok(signals) => signals,
        Err(error) => return say::fail(EXIT_SYSTEM, &format!("cannot begin: {error}")),
    };
    let connecting = client.retries(args.retries).connect();
    let mut client = tokio::select! {
        client = connecting => match client {
            Ok(client) => client,
            Err(error) => return say::fail(exit_of(&error), &format!("{error}; nothing was sent")),
        },
        () = signals.next() => return say::fail(EXIT_INTERRUPTED, "interrupted; nothing was sent"),
    };
    let started = clock::tick();
    let (feeder, feed) = feed::new();
    let read = Arc::new(AtomicU64::new(0));
    let max_event = match args.json {
        true => EVENT_BYTES_MAX,
        false => MAX_EVENT,
    };
    let max_event = args.max_event.unwrap_or(max_event);
    if args.files.is_empty() && io::stdin().is_terminal() {
        say::note("reading what is typed; end with Ctrl-D");
    }
    let input = Input::new(format, max_event, feeder, Arc::clone(&read));
    let reader = tokio::task::spawn_blocking(move || input.run(&args.files));
    let acked = client.acked_counter();
    let end = tokio::select! {
        end = send_all(&feed, &mut client) => End::Done(end),
        () = signals.next() => End::Interrupted,
        () = show(&acked, &read) => End::Interrupted,
    };
    clear();
    let host = client.host().unwrap_or("the server").to_owned();
    let took = clock::tick().since(started);
    let acked = acked.load(Ordering::Relaxed);
    let told = format!(
        "{} acknowledged by {host} in {}",
        count(acked, "event"),
        show_duration(took)
    );
    match end {
        End::Interrupted => say::fail(EXIT_INTERRUPTED, &format!("interrupted; {told}")),
        End::Done(Err(error)) => say::fail(
            exit_of(&error),
            &format!(
                "{error}; given up: {} acknowledged, nothing behind them",
                count(acked, "event")
            ),
        ),
        End::Done(Ok(())) => match reader.await {
            Ok(summary) => conclude(&summary, &told),
            Err(error) => say::fail(EXIT_SYSTEM, &format!("{told}; the reader failed: {error}")),
        },
    }
}

/// Sends all that comes, until the reader is gone; how much that was, the client knows.
async fn send_all(feed: &Feed, client: &mut Client) -> Result<(), Error> {
    while let Some(frames) = feed.next().await {
        client.send_all(frames.payloads().map(Checked)).await?;
    }
    Ok(())
}

/// Says what became of all that was read.
fn conclude(summary: &Summary, told: &str) -> ExitCode {
    let told = format!("{told}{summary}");
    match &summary.stopped {
        None if summary.bad == 0 => say::done(&told),
        None => say::fail(EXIT_DATA, &told),
        Some(Stopped::Strict) => say::fail(EXIT_DATA, &format!("{told}; stopped there")),
        Some(Stopped::Open(name, error)) => say::fail(
            EXIT_NO_INPUT,
            &format!("cannot open {name}: {error}; {told}"),
        ),
        Some(Stopped::Read(name, error)) => {
            say::fail(CANNOT_READ, &format!("cannot read {name}: {error}; {told}"))
        }
        Some(Stopped::Gone) => say::fail(EXIT_UNAVAILABLE, &told),
    }
}

/// Shows a person how far it is, for ever; others nothing.
async fn show(acked: &AtomicU64, read: &AtomicU64) {
    if !io::stderr().is_terminal() {
        return std::future::pending().await;
    }
    let (mut before, mut then) = (0, clock::tick());
    loop {
        clock::sleep(SHOW_EVERY).await;
        let (now, sum) = (clock::tick(), acked.load(Ordering::Relaxed));
        let millis = now.since(then).as_millis().max(1);
        let rate = u128::from(sum - before) * 1000 / millis;
        let bytes = show_bytes(read.load(Ordering::Relaxed));
        let line = format!("\r{sum} events acknowledged, {rate}/s, {bytes} read");
        // Padded over what stood there; standard error that is gone is shown nothing.
        drop(write!(io::stderr().lock(), "{line:<70}"));
        (before, then) = (sum, now);
    }
}

/// Takes the line of [`show`] away.
fn clear() {
    if io::stderr().is_terminal() {
        drop(write!(io::stderr().lock(), "\r{:<70}\r", ""));
    }
}
