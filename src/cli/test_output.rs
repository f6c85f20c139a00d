//! `spoolbeat test output`: tries the way to each server, step by step, and whether files can be written.
//!
//! Sends no event unless asked: a test event would be stored with the others. Must never know
//! the queue; the daemon's connections are not touched.

use std::io;
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use serde::Serialize;
use serde_json::Map;

use crate::cli::EXIT_ERROR;
use crate::cli::EXIT_UNAVAILABLE;
use crate::cli::place;
use crate::cli::say;
use crate::cli::say::shown;
use crate::cli::send::event_lines;
use crate::clock;
use crate::clock::Tick;
use crate::config::Output;
use crate::event::envelope::Marks;
use crate::lumberjack::client::Json;
use crate::lumberjack::connection::Connection;
use crate::lumberjack::connection::Step;
use crate::lumberjack::connection::Turn;
use crate::protocol::client::Session;
use crate::protocol::client::Settings as SessionSettings;
use crate::protocol::frame::window_head;
use crate::sink;
use crate::sink::lumberjack::Settings;
use crate::tls::Certificate;
use crate::tls::Secured;
use crate::units::Timestamp;
use crate::units::show_duration;

/// How long a server may take to say something against us, or to answer an empty window.
const ANSWER_WAIT: Duration = Duration::from_secs(1);

/// A certificate that is good for less than this is pointed out.
const SOON: Duration = Duration::from_secs(14 * 24 * 3600);

/// Longest text of a peer that is shown.
const TEXT_CHARS_MAX: usize = 1_000;

/// What is tried, in this order.
const STEPS: [&str; 5] = ["dns", "connect", "tls", "protocol", "event"];

/// What is tried of an output that is a file.
const FILE_STEPS: [&str; 1] = ["write"];

/// Try the way to all outputs, step by step
///
/// Looks the name up, connects, encrypts, and sends an empty window, which no server stores: Logstash
/// answers it, others say nothing. With --send an event is sent, with the tag `spoolbeat-test`, and
/// its acknowledgement awaited. Of an output with kind = "file" it is tried, with the rights of who asks,
/// whether its file can be written and others be made beside it; nothing is written to it. What fails is said with what to do about it; the exit code is then 69.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  spoolbeat test output /srv/spool
  spoolbeat test output --output lumberjack --send")]
pub struct Args {
    /// The root directory, or its spoolbeat.toml
    #[arg(value_name = "ROOT")]
    pub root: Option<PathBuf>,
    /// Only this output
    #[arg(long, value_name = "NAME")]
    pub output: Option<String>,
    /// Send an event and wait until it is acknowledged
    #[arg(long)]
    pub send: bool,
    /// Print one JSON array for programs
    #[arg(long)]
    pub json: bool,
}

/// A server or file, and what was found on the way to it.
#[derive(Debug, Serialize)]
struct Server {
    output: String,
    host: String,
    ok: bool,
    steps: Vec<Tried>,
}

#[derive(Debug, Serialize)]
struct Tried {
    step: &'static str,
    result: Outcome,
    #[serde(skip_serializing_if = "Option::is_none")]
    took_ms: Option<u64>,
    words: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    tls: Option<Secured>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Outcome {
    Ok,
    Failed,
    NotTried,
}

/// Tries these outputs.
pub(super) async fn run(args: &Args, outputs: &[&Output]) -> ExitCode {
    let mut servers = Vec::new();
    for output in outputs {
        let name = &output.name;
        match &output.kind {
            sink::Settings::Lumberjack(settings) => {
                for host in &settings.hosts {
                    let settings = Settings {
                        hosts: vec![host.clone()],
                        ..(**settings).clone()
                    };
                    let mut trial = Trial::new(name, host, &STEPS, args.json);
                    trial.run(&settings, args.send).await;
                    servers.push(trial.server);
                }
            }
            sink::Settings::File(settings) => {
                let path = &settings.path;
                let host = path.display().to_string();
                let mut trial = Trial::new(name, &host, &FILE_STEPS, args.json);
                let start = clock::tick();
                match place::try_out(path) {
                    Ok(()) => {
                        let words = "the file can be written".to_owned();
                        trial.done(clock::tick().since(start), words, None);
                    }
                    Err(why) => trial.failed(start, &why),
                }
                servers.push(trial.server);
            }
            sink::Settings::Stdout => {}
        }
    }
    let code = match servers.iter().all(|server| server.ok) {
        true => 0,
        false => EXIT_UNAVAILABLE,
    };
    if !args.json {
        return ExitCode::from(code);
    }
    match serde_json::to_string_pretty(&servers) {
        Ok(text) => say::report(&(text + "\n"), code),
        Err(error) => say::fail(EXIT_ERROR, &format!("no JSON: {error}")),
    }
}

/// One server, while it is tried.
struct Trial {
    server: Server,
    steps: &'static [&'static str],
    quiet: bool,
}

impl Trial {
    fn new(output: &str, host: &str, steps: &'static [&'static str], quiet: bool) -> Self {
        let trial = Self {
            server: Server {
                output: output.to_owned(),
                host: host.to_owned(),
                ok: true,
                steps: Vec::new(),
            },
            steps,
            quiet,
        };
        trial.print(&format!("{output}: {host}"));
        trial
    }

    async fn run(&mut self, settings: &Settings, send: bool) {
        let host = self.server.host.clone();
        let start = clock::tick();
        let opened = Connection::open_by_steps(&host, &settings.dial(), &mut |step| {
            self.reached(step);
        })
        .await;
        let connection = match opened {
            Ok(connection) => connection,
            Err(broken) => return self.failed(start, &broken.to_string()),
        };
        if settings.tls.is_none() {
            self.skipped("not encrypted: the output has no ssl");
        }
        let start = clock::tick();
        match answer(connection, settings, start).await {
            Ok(words) => self.done(clock::tick().since(start), words.to_owned(), None),
            Err(why) => return self.failed(start, &why),
        }
        if !send {
            return self.skipped("--send sends one, with the tag spoolbeat-test");
        }
        let start = clock::tick();
        match send_event(settings).await {
            Ok(()) => self.done(clock::tick().since(start), "acknowledged".to_owned(), None),
            Err(why) => self.failed(start, &why),
        }
    }

    fn reached(&mut self, step: Step) {
        match step {
            Step::Resolved { addresses, took } => {
                let addresses: Vec<String> = addresses.iter().map(ToString::to_string).collect();
                self.done(took, addresses.join(", "), None);
            }
            Step::Connected {
                address,
                failed,
                took,
            } => {
                let failed = failed.iter().map(|(one, why)| format!("; {one}: {why}"));
                self.done(
                    took,
                    format!("{address}{}", failed.collect::<String>()),
                    None,
                );
            }
            Step::Secured { secured, took } => {
                let words = describe(&secured, clock::now());
                self.done(took, words, Some(secured));
            }
        }
    }

    fn done(&mut self, took: Duration, words: String, tls: Option<Secured>) {
        self.add(Outcome::Ok, Some(took), words, tls);
    }

    fn skipped(&mut self, why: &str) {
        self.add(Outcome::NotTried, None, why.to_owned(), None);
    }

    /// The step that is next failed, and those behind it are not tried.
    fn failed(&mut self, start: Tick, why: &str) {
        self.server.ok = false;
        let took = clock::tick().since(start);
        self.add(Outcome::Failed, Some(took), why.to_owned(), None);
        while self.server.steps.len() < self.steps.len() {
            self.skipped("a step before it failed");
        }
    }

    fn add(
        &mut self,
        result: Outcome,
        took: Option<Duration>,
        words: String,
        tls: Option<Secured>,
    ) {
        let step = self.steps[self.server.steps.len()];
        let outcome = match result {
            Outcome::Ok => "ok",
            Outcome::Failed => "FAILED",
            Outcome::NotTried => "not tried",
        };
        let time = took.map(show_duration).unwrap_or_default();
        let lines: Vec<String> = words
            .lines()
            .map(|line| shown(line, TEXT_CHARS_MAX))
            .collect();
        let text = lines.join("\n                             ");
        self.print(&format!("  {step:<8} {outcome:<9} {time:>7}  {text}"));
        let took_ms = took.map(|took| u64::try_from(took.as_millis()).unwrap_or(u64::MAX));
        self.server.steps.push(Tried {
            step,
            result,
            took_ms,
            words,
            tls,
        });
    }

    fn print(&self, line: &str) {
        if !self.quiet {
            // Whoever closed standard output has seen enough; the exit code still tells.
            drop(writeln!(io::stdout().lock(), "{line}"));
        }
    }
}

/// What the server has to say to an empty window; silence is no fault.
async fn answer(
    mut connection: Connection,
    settings: &Settings,
    start: Tick,
) -> Result<&'static str, String> {
    let mut session = Session::new(
        SessionSettings {
            version: settings.version,
            pipelining: 1,
            timeout: settings.timeout,
            ack_stall_timeout: settings.ack_stall_timeout,
        },
        start,
    );
    connection.send(window_head(0).to_vec());
    let until = start.after(ANSWER_WAIT);
    loop {
        let left = until.since(clock::tick());
        match clock::within(left, connection.turn()).await {
            None => {
                return Ok(
                    "no objection within 1s, as from most Beats servers; --send proves more",
                );
            }
            Some(Ok(Turn::Wrote)) => {}
            Some(Ok(Turn::Received(bytes))) => {
                let heard = session.received(&bytes, clock::tick());
                let progress = heard.map_err(|fault| fault.to_string())?;
                if progress.keep_alives > 0 {
                    return Ok("a Beats server answers");
                }
            }
            Some(Err(broken)) => return Err(broken.to_string()),
        }
    }
}

async fn send_event(settings: &Settings) -> Result<(), String> {
    let lines = event_lines(&["spoolbeat-test"], &Map::new()).map_err(|error| error.to_string())?;
    let mut event = Vec::new();
    let message = b"test event, sent by `spoolbeat test output --send`";
    lines.text(&mut event, clock::now(), 1, message, Marks::default());
    let connected = settings.client().connect().await;
    let mut client = connected.map_err(|error| error.reason)?;
    client.send(Json(event)).await.map_err(|error| error.reason)
}

/// What was agreed on, and a line for each certificate.
fn describe(secured: &Secured, now: Timestamp) -> String {
    let checked = match secured.verification_mode {
        "full" => "the certificate is trusted and for this host",
        "certificate" => {
            "the certificate is trusted; its names were NOT checked (verification_mode)"
        }
        _ => "the certificate was NOT checked (verification_mode)",
    };
    let (version, cipher) = (&secured.version, &secured.cipher);
    let mut words = format!("{version}, {cipher}; {checked}");
    for certificate in &secured.chain {
        words.push('\n');
        words.push_str(&describe_certificate(certificate, now));
    }
    words
}

fn describe_certificate(certificate: &Certificate, now: Timestamp) -> String {
    let names = match certificate.names.as_slice() {
        [] => String::new(),
        names => format!(" for {}", names.join(", ")),
    };
    let left = certificate.not_after.since(now);
    let soon = match left < SOON {
        true => format!(" (ONLY {} LEFT)", show_duration(left)),
        false => format!(" ({} left)", show_duration(left)),
    };
    format!(
        "{}{names}, signed by `{}`, good until {}{soon}",
        certificate.called(),
        certificate.issuer,
        certificate.not_after
    )
}
