//! The command line: what can be asked of the program, and with which exit code it answers.
//!
//! Each command has its own file; this one names them, finds the root and dispatches. Must never
//! decide anything that a test of a lower floor could not see.

use std::io;
use std::path::Path;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use clap::CommandFactory;
use clap::Parser;
use tracing::Level;

use crate::config;
use crate::config::Output;
use crate::daemon;
use crate::disk;
use crate::disk::OsDisk;
use crate::job::Job;
use crate::log;
use crate::lumberjack;
use crate::lumberjack::client::Advice;
use crate::process;
use crate::results::Results;
use crate::sink;
use crate::sink::lumberjack::Settings;

pub mod check;
pub mod completions;
pub mod doctor;
pub mod explain;
pub mod import;
pub mod init;
pub mod new;
pub mod outputs;
mod place;
pub mod queue;
pub mod receive;
pub mod replay;
pub mod results;
pub mod run;
pub mod send;
pub mod status;
pub mod steer;
pub mod tail;
pub mod test_output;
pub mod try_job;

mod feed;
mod say;
mod select;
mod signals;
mod tls_flags;

/// sysexits `EX_OSERR`: the system refuses a thread, a folder or an identifier.
const EXIT_SYSTEM: u8 = 71;

/// sysexits `EX_UNAVAILABLE`: events are left that no server took, or an address cannot be had.
const EXIT_UNAVAILABLE: u8 = 69;

/// Anything else that went wrong.
const EXIT_ERROR: u8 = 1;

/// The command line is not right: what clap returns too.
const EXIT_USAGE: u8 = 2;

/// The whole command line.
#[derive(Debug, clap::Parser)]
#[command(
    name = "spoolbeat",
    version,
    about = "Runs the jobs of a spool directory and ships what they print to Logstash",
    propagate_version = true,
    arg_required_else_help = true,
    after_help = "Examples:
  spoolbeat init /srv/spool                make a root directory
  spoolbeat new disk --root /srv/spool     make a job in it
  spoolbeat run /srv/spool                 run the jobs there until Ctrl-C
  spoolbeat run /srv/spool --once          run each job once, ship, leave
  spoolbeat status /srv/spool              what the daemon there is doing
  spoolbeat doctor /srv/spool              what is wrong there, and what helps
  spoolbeat try disk --root /srv/spool     run one job and look at its events
  spoolbeat results disk latest            what its newest run did
  app | spoolbeat send --to logstash:5044  lines of your own, acknowledged

The root directory is, in this order: the one that is given, SPOOLBEAT_ROOT, the nearest
folder upward with a spoolbeat.toml, the one that /etc/spoolbeat/spoolbeat.toml names.

Exit codes: 0 done, 1 failed, 2 wrong usage, 65 and 66 bad input of send, 69 output or address unavailable,
73 a folder cannot be made, 74 the disk fails, 75 another daemon has the root,
78 the configuration is wrong, 130 ended by a second signal."
)]
struct Cli {
    /// The root directory, or its spoolbeat.toml
    #[arg(long = "root", global = true, value_name = "DIR")]
    given_root: Option<PathBuf>,
    /// Log more: debug instead of what the configuration says
    #[arg(long, short, global = true)]
    verbose: bool,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    Init(init::Args),
    New(new::Args),
    Import(import::Args),
    Check(check::Args),
    Run(run::Args),
    Status(status::Args),
    Doctor(doctor::Args),
    Outputs(outputs::Args),
    Explain(explain::Args),
    Trigger(steer::TriggerArgs),
    /// Do not run a job by its schedule until it is resumed, also across restarts of the daemon
    #[command(after_help = "Example: spoolbeat pause disk --root /srv/spool")]
    Pause(steer::JobArgs),
    /// Let a paused job go on with its schedule
    #[command(after_help = "Example: spoolbeat resume disk --root /srv/spool")]
    Resume(steer::JobArgs),
    /// End the runs of a job, or one run: TERM, `kill_grace`, KILL; its schedule goes on
    #[command(after_help = "Examples:
  spoolbeat stop disk --root /srv/spool
  spoolbeat stop 20261121-100720.631-18f145b8")]
    Stop(steer::StopArgs),
    Tail(tail::Args),
    /// Have the daemon read spoolbeat.toml and all jobs again, as SIGHUP does
    ///
    /// The exit code is 78 when spoolbeat.toml is not good; the former settings hold then.
    #[command(after_help = "Example: spoolbeat reload --root /srv/spool")]
    Reload,
    /// Run one job now and print its events as JSON; nothing is queued, shipped or kept
    ///
    /// The script gets an empty folder as $SPOOLBEAT_STATE_DIR, so that the daemon's own runs
    /// are not disturbed. The exit code is the script's; 124 means a timeout, 126 that it could
    /// not be started, 128 + n that it was ended by signal n.
    #[command(after_help = "Example: spoolbeat try disk --root /srv/spool | jq .message")]
    Try {
        /// The job
        job: String,
    },
    #[command(after_help = "Examples:
  spoolbeat results                        all jobs
  spoolbeat results disk                   its runs, newest first
  spoolbeat results disk latest            one run and how its output begins")]
    Results(results::ResultsArgs),
    /// Look into the queue on disk, with or without a daemon
    #[command(after_help = "Examples:
  spoolbeat queue stat /srv/spool
  spoolbeat queue ls /srv/spool
  spoolbeat queue cat /srv/spool --job disk --since 15m
  spoolbeat queue verify /srv/spool")]
    Queue {
        #[command(subcommand)]
        what: queue::Command,
    },
    /// Send kept events again, or those set aside, to any output, under the same event.id; the daemon's cursors do not move
    #[command(after_help = "Examples:
  spoolbeat replay disk --since 2h --root /srv/spool
  spoolbeat replay --seq 5000..9000 --rate 500/s --dry-run
  spoolbeat replay disk --run 20261121-100720.631-18f145b8 --stdout
  spoolbeat replay disk --since 2h --output archive
  spoolbeat replay --dead-letter lumberjack --dry-run
  spoolbeat replay --dead-letter lumberjack
  spoolbeat replay --dead-letter lumberjack --output archive")]
    Replay(replay::Args),
    /// Receive events as Logstash would, and print them or keep them in files
    #[command(after_help = "Examples:
  spoolbeat receive --listen 127.0.0.1:5044 | jq .message
  spoolbeat receive --listen 0.0.0.0:5044 --to /var/lib/received --keep 100
  spoolbeat receive --tls-cert server.pem --tls-key server.key --client-ca ca.pem")]
    Receive(receive::Args),
    Send(send::Args),
    /// Try what is configured, without changing anything
    #[command(after_help = "Example: spoolbeat test output /srv/spool")]
    Test {
        #[command(subcommand)]
        what: Test,
    },
    Completions(completions::Args),
}

#[derive(Debug, clap::Subcommand)]
enum Test {
    Output(test_output::Args),
}

/// Runs what the command line asks for.
#[must_use]
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    dispatch(cli).unwrap_or_else(|said| said)
}

/// The exit code; as an error when something went wrong that has been said already.
type Done = Result<ExitCode, ExitCode>;

fn dispatch(cli: Cli) -> Done {
    let given = cli.given_root.as_deref();
    let verbose = cli.verbose.then_some(Level::DEBUG);
    match cli.command {
        Command::Init(args) => Ok(init::run(&args, given, &OsDisk)),
        Command::New(args) => Ok(new::run(&args, given, &OsDisk)),
        Command::Import(args) => Ok(import::run(&args, given, &OsDisk)),
        Command::Check(args) => Ok(check::run(&args, given, &[])),
        Command::Completions(args) => Ok(completions::run(&args, Cli::command())),
        Command::Run(args) => run::run(args, given, verbose),
        Command::Status(args) => status::run(&args, given),
        Command::Doctor(args) => doctor::run(&args, given),
        Command::Outputs(args) => outputs::run(&args, given),
        Command::Explain(args) => explain::run(&args, given),
        Command::Trigger(args) => steer::trigger(args, given),
        Command::Pause(args) => steer::pause(args, given),
        Command::Resume(args) => steer::resume(args, given),
        Command::Stop(args) => steer::stop(args, given),
        Command::Tail(args) => tail::run(&args, given),
        Command::Reload => steer::reload(given),
        Command::Try { job } => try_one(&job, given, verbose),
        Command::Results(args) => show_results(&args, given),
        Command::Queue { what } => {
            let root = load(what.root().or(given), &[])?;
            Ok(queue::run(&what, &root))
        }
        Command::Replay(args) => {
            let root = load(given, &[])?;
            log::start(log::Format::Auto, verbose.unwrap_or(Level::WARN));
            block_on(replay::run(args, &root.dir, &root.outputs))
        }
        Command::Send(args) => {
            log::start(log::Format::Auto, verbose.unwrap_or(Level::WARN));
            let wrong =
                |why: String| say::fail(say::BAD_CONFIG, &format!("{why}; nothing was sent"));
            let client = match args.client().map_err(wrong)? {
                Some(client) => client,
                None => {
                    let root = load(given, &[])?;
                    let instead = "give --to HOST:PORT, or an output with kind = \"lumberjack\"";
                    choose(&root.outputs, args.output.as_deref(), instead)?
                        .1
                        .client()
                }
            };
            block_on(send::run(args, client))
        }
        Command::Test {
            what: Test::Output(args),
        } => {
            let root = load(args.root.as_deref().or(given), &[])?;
            log::start(log::Format::Auto, verbose.unwrap_or(Level::ERROR));
            let instead = "`spoolbeat status` shows whether it can be written";
            let name = args.output.as_deref();
            let is_meant = |one: &&Output| {
                name.is_none_or(|name| name == one.name) && one.kind != sink::Settings::Stdout
            };
            let chosen: Vec<&Output> = root.outputs.iter().filter(is_meant).collect();
            if chosen.is_empty() {
                choose(&root.outputs, name, instead)?;
            }
            block_on(async { test_output::run(&args, &chosen).await })
        }
        Command::Receive(args) => {
            log::start(log::Format::Auto, verbose.unwrap_or(Level::WARN));
            block_on(receive::run(args))
        }
    }
}

/// The exit code of a client's failure.
const fn exit_of(error: &lumberjack::client::Error) -> u8 {
    match error.advice {
        Advice::Misconfigured => say::BAD_CONFIG,
        Advice::Retry | Advice::Reject => EXIT_UNAVAILABLE,
    }
}

/// The outputs that are servers, each with its name.
fn servers(outputs: &[Output]) -> impl Iterator<Item = (&str, &Settings)> {
    outputs.iter().filter_map(|output| match &output.kind {
        sink::Settings::Lumberjack(settings) => Some((output.name.as_str(), &**settings)),
        sink::Settings::File(_) | sink::Settings::Stdout => None,
    })
}

/// The output of this name, without one the first; says which there are when there is none.
fn named<'a>(outputs: &'a [Output], name: Option<&str>) -> Result<&'a Output, ExitCode> {
    let is_meant = |output: &&Output| name.is_none_or(|name| name == output.name);
    outputs.iter().find(is_meant).ok_or_else(|| {
        let names: Vec<&str> = outputs.iter().map(|output| output.name.as_str()).collect();
        let (name, names) = (name.unwrap_or_default(), names.join(", "));
        let why = format!("there is no output `{name}`; spoolbeat.toml has: {names}");
        say::fail(say::BAD_CONFIG, &why)
    })
}

/// The output of this name, without one the first that is a server; of one that is no server, and when
/// there is none, says what to do instead.
fn choose<'a>(
    outputs: &'a [Output],
    name: Option<&str>,
    instead: &str,
) -> Result<(&'a str, &'a Settings), ExitCode> {
    let why = match name {
        None => match servers(outputs).next() {
            Some(server) => return Ok(server),
            None => format!(
                "no output of spoolbeat.toml is a server, with kind = \"lumberjack\"; {instead}"
            ),
        },
        Some(name) => {
            let output = named(outputs, Some(name))?;
            match servers(std::slice::from_ref(output)).next() {
                Some(server) => return Ok(server),
                None => format!(
                    "output `{name}` is no server but of kind \"{}\"; {instead}",
                    output.kind.kind()
                ),
            }
        }
    };
    Err(say::fail(say::BAD_CONFIG, &why))
}

/// Finds and loads the root configuration; says all its problems.
fn load(given: Option<&Path>, overrides: &[String]) -> Result<config::Root, ExitCode> {
    let place = config::find_root(given).map_err(|why| say::fail(say::BAD_CONFIG, &why))?;
    config::load_root(&place, overrides).map_err(|problems| say::fail_config(&problems))
}

/// Runs a command that waits, on all cores. Threads that hang at the end are left behind.
fn block_on<T>(command: impl Future<Output = T>) -> Result<T, ExitCode> {
    process::bound_memory();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| say::fail(EXIT_SYSTEM, &format!("no threads: {error}")))?;
    let done = runtime.block_on(command);
    runtime.shutdown_background();
    Ok(done)
}

/// Finds the root directory of a daemon, also when its configuration has become wrong since it was
/// started: that is when people look at it.
fn find_dir(given: Option<&Path>) -> Result<PathBuf, ExitCode> {
    let place = config::find_root(given).map_err(|why| say::fail(say::BAD_CONFIG, &why))?;
    config::draft_root(&place, &[])
        .map(|draft| draft.root.dir)
        .map_err(|problems| say::fail_config(&problems))
}

/// Loads one job as it lies in its folder; says all its problems.
fn load_job(root: &config::Root, name: &str) -> Result<Job, ExitCode> {
    config::check_name(name).map_err(|why| say::fail(say::BAD_CONFIG, &why))?;
    let folder = root.dir.join("jobs").join(name);
    let uid = process::own_uid();
    let tree =
        config::check_folder(name, &folder, uid).map_err(|problems| say::fail_config(&problems))?;
    let bad = |problem: String| say::fail(say::BAD_CONFIG, &problem);
    let reader = config::reader_of(tree.owner(), uid).map_err(bad)?;
    let generation = tree
        .content(&folder, tree.owner(), &reader)
        .map_err(|why| say::fail(EXIT_ERROR, &format!("jobs/{name}: {why}")))?;
    let standing = config::Standing {
        owner: tree.owner(),
        daemon: uid,
        grants: root.grants.clone(),
    };
    let job = config::load_job(
        name,
        &folder,
        &generation,
        &standing,
        &root.defaults,
        &root.outlets(),
    )
    .map_err(|problems| say::fail_config(&problems))?;
    let strange = config::check_owners(name, &tree, &job.rights.user, uid);
    if !strange.is_empty() {
        return Err(say::fail_config(&strange));
    }
    Ok(job)
}

fn try_one(name: &str, given: Option<&Path>, verbose: Option<Level>) -> Done {
    let root = load(given, &[])?;
    log::start(log::Format::Auto, verbose.unwrap_or(Level::WARN));
    let job = load_job(&root, name)?;
    let system = |error: &dyn std::fmt::Display| say::fail(EXIT_SYSTEM, &error.to_string());
    let Some(task) = job.task.clone() else {
        let why = format!("jobs/{name}: there is no [script] to try");
        return Err(say::fail(EXIT_ERROR, &why));
    };
    let identity = daemon::passing_identity(root.shape).map_err(|error| system(&error))?;
    let state = tempfile::Builder::new()
        .prefix("spoolbeat-try-")
        .tempdir()
        .map_err(|error| system(&error))?;
    // Below a folder of ours, so that the job's user cannot put a link in its place.
    disk::set_mode(state.path(), disk::PASS_MODE).map_err(|error| system(&error))?;
    let state_dir = state.path().join("data");
    block_on(async {
        let run = try_job::run(
            Arc::new(job),
            task,
            identity,
            state_dir,
            process::self_exe(),
        );
        ExitCode::from(run.await)
    })
}

fn show_results(args: &results::ResultsArgs, given: Option<&Path>) -> Done {
    let root = load(given, &[])?;
    let results = Results::new(root.dir.join("results"));
    match results::show(&results, args, &mut io::stdout().lock()) {
        Ok(()) => Ok(ExitCode::SUCCESS),
        Err(results::Failure::Write(error)) if error.kind() == io::ErrorKind::BrokenPipe => {
            Ok(ExitCode::SUCCESS)
        }
        Err(failure) => Err(say::fail(EXIT_ERROR, &failure.to_string())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_tree_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_command_shows_an_example() {
        fn look(command: &clap::Command) {
            for command in command
                .get_subcommands()
                .filter(|one| one.get_name() != "help")
            {
                let help = command.get_after_help().map(ToString::to_string);
                let name = command.get_name();
                assert!(help.is_some_and(|text| text.contains("Example")), "{name}");
                look(command);
            }
        }
        look(&Cli::command());
    }
}
