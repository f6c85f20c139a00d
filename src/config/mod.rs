//! Configuration: raw text to checked values, all problems at once.
//!
//! `spoolbeat.toml` becomes a [`Root`], a job's `job.toml` a [`crate::job::Job`]. A problem says
//! file, line, column, key, value and a correct example. Must never start, watch or write anything.

use std::collections::BTreeSet;
use std::fmt;
use std::path::Path;
use std::path::PathBuf;
use std::time::Duration;

use crate::event::envelope::Shape;
use crate::files;

use crate::queue;
use crate::sink;
use crate::source::lumberjack;

mod credentials;
mod defaults;
mod expand;
mod find;
mod folder;
mod job;
mod listen;
mod output;
mod plugins;
mod reader;
mod root;
mod routing;
mod source;
mod ssl;
mod words;

pub use credentials::Grants;
pub use credentials::Standing;
pub use defaults::Defaults;
pub use find::find_root;
pub use folder::check_folder;
pub use folder::check_jobs;
pub use folder::check_name;
pub use folder::check_owners;
pub use folder::check_place;
pub use folder::reader_of;
pub use job::load_job;
pub use plugins::Plugins;
pub use root::Draft;
pub use root::draft_root;
pub use root::load_root;
pub use routing::Outlet;
pub use routing::route;
pub use ssl::ssl_warnings;

/// Name of the root configuration.
pub const ROOT_FILE: &str = "spoolbeat.toml";

/// Name of a job's configuration in its folder.
pub const JOB_FILE: &str = "job.toml";

/// Largest configuration file: people write kilobytes; more is a mistake or an attack.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// One problem of a configuration file.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Problem {
    /// The file, as the user would type it.
    pub file: String,
    /// Line, from 1; 0 when the problem is not at a place in the text (a missing file).
    pub line: usize,
    /// Column in characters, from 1; 0 likewise.
    pub column: usize,
    /// Dotted key, like `schedule.every`; empty for syntax errors.
    pub key: String,
    /// What is wrong, with the value, and a correct example.
    pub message: String,
}

impl Problem {
    /// A problem that is not at a place in the text.
    #[must_use]
    pub fn of_file(file: String, message: String) -> Self {
        Self {
            file,
            line: 0,
            column: 0,
            key: String::new(),
            message,
        }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.file)?;
        if self.line > 0 {
            write!(f, ":{}:{}", self.line, self.column)?;
        }
        if !self.key.is_empty() {
            write!(f, ": {}", self.key)?;
        }
        write!(f, ": {}", self.message)
    }
}

/// Reads the text of a configuration file that messages call `file`.
fn read_text(path: &Path, file: &str) -> Result<String, Problem> {
    text_of(files::read_plain(path, FILE_BYTES_MAX), file)
}

fn text_of(read: std::io::Result<Vec<u8>>, file: &str) -> Result<String, Problem> {
    let problem = |message| Problem::of_file(file.to_owned(), message);
    let bytes = read.map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => problem("there is no such file".to_owned()),
        _ => problem(format!("cannot be read: {error}")),
    })?;
    let place = |at: usize, message: &str| {
        let before = String::from_utf8_lossy(&bytes[..at]);
        let (line, column) = source::line_and_column(&before, before.len());
        Problem {
            line,
            column,
            ..problem(message.to_owned())
        }
    };
    if let Some(at) = bytes.iter().position(|byte| *byte == 0) {
        return Err(place(
            at,
            "a NUL byte: this is not a text file, or one saved as UTF-16; save it as UTF-8",
        ));
    }
    match std::str::from_utf8(&bytes) {
        // A byte order mark is what some editors put before UTF-8; it is not part of the text.
        Ok(text) => Ok(text.strip_prefix('\u{feff}').unwrap_or(text).to_owned()),
        Err(error) => Err(place(
            error.valid_up_to(),
            "not UTF-8 here; save the file as UTF-8",
        )),
    }
}

/// A variable of the daemon's environment.
fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

/// `spoolbeat.toml`, checked.
#[derive(Debug, Clone, PartialEq)]
pub struct Root {
    /// The root directory, absolute.
    pub dir: PathBuf,
    /// `[defaults]`: what a job's own configuration is laid over.
    pub defaults: Defaults,
    /// `[spool] settle`: how long a folder must be quiet before it is loaded. Default 1s.
    pub settle: Duration,
    /// `[spool] rescan`: period of the full look at `jobs/`, whatever the watcher says. Default 30s.
    pub rescan: Duration,
    /// `[spool] max_concurrent_runs`. Default 64.
    pub max_concurrent_runs: u32,
    /// `[output.NAME]`, in the order of the file. At least one.
    pub outputs: Vec<Output>,
    /// `[queue]`.
    pub queue: queue::Settings,
    /// `[events]`: what events look like.
    pub shape: Shape,
    /// `[results] bytes`: of all jobs together. Default 1 GiB.
    pub results_bytes: u64,
    /// `[receiver]`: a Lumberjack server inside, for trying out.
    pub receiver: Option<Receiver>,
    /// `[credentials]`: what jobs of other owners may have of the daemon's own.
    pub grants: Grants,
    /// `[stop] timeout`: how long the drain waits for ACKs. Default 5s.
    pub stop_timeout: Duration,
    /// `[startup] require_output`: no job is run before an output has answered. Default false.
    pub require_output: bool,
    /// `[heartbeat] every`: period of the daemon's signs of life. Default: none.
    pub heartbeat: Option<Duration>,
    /// `[log]`.
    pub log: Log,
    /// Files of TLS that cannot be used. Who only looks at the root need not be able to read private
    /// keys; who runs it does.
    pub unusable: Vec<Problem>,
}

/// `[output.NAME]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Output {
    /// Its name.
    pub name: String,
    /// Whether clean-up and the queue wait for it. Default true.
    pub required: bool,
    /// `tags`: of which jobs it gets events. Default: of all.
    pub tags: routing::Tags,
    /// Where a new one begins. Default newest.
    pub start: queue::Begin,
    /// Its kind's own settings.
    pub kind: sink::Settings,
}

impl Root {
    /// What jobs have to know of the outputs.
    #[must_use]
    pub fn outlets(&self) -> Vec<Outlet> {
        let outlet = |output: &Output| Outlet {
            name: output.name.clone(),
            required: output.required,
            tags: output.tags.clone(),
        };
        self.outputs.iter().map(outlet).collect()
    }
}

/// The outputs of a daemon that has `now` when `new` are configured: a server gets its new settings,
/// everything else holds from the next start.
#[must_use]
pub fn held(now: &[Output], new: &[Output]) -> Vec<Output> {
    let hold = |one: &Output| {
        let of_name = new.iter().find(|other| other.name == one.name);
        let kind = match (&one.kind, of_name.map(|other| &other.kind)) {
            (sink::Settings::Lumberjack(_), Some(kind @ sink::Settings::Lumberjack(_))) => kind,
            // The thread that hangs in a write to the former file could still write to the new one.
            (kind, _) => kind,
        };
        Output {
            kind: kind.clone(),
            ..one.clone()
        }
    };
    now.iter().map(hold).collect()
}

/// What of the settings `new` can hold only from the next start of a daemon that has `now`, and now the
/// outputs `held`.
#[must_use]
pub fn needs_restart(now: &Root, held: &[Output], new: &Root) -> Vec<String> {
    let changed = [
        ("root", now.dir != new.dir),
        ("[queue]", now.queue != new.queue),
        ("[receiver]", now.receiver != new.receiver),
        ("[startup]", now.require_output != new.require_output),
    ];
    let sections = changed.into_iter().filter(|(_, changed)| *changed);
    let outputs = held.iter().chain(&new.outputs);
    let outputs = outputs.filter(|one| !(held.contains(one) && new.outputs.contains(one)));
    let outputs: BTreeSet<String> = outputs
        .map(|one| format!("[output.{}]", one.name))
        .collect();
    let sections = sections.map(|(name, _)| name.to_owned());
    sections.chain(outputs).collect()
}

/// `[receiver]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Receiver {
    /// How it listens.
    pub server: lumberjack::Settings,
    /// Whether received events are printed to standard output. Default true.
    pub print: bool,
}

/// `[log]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Log {
    /// Least severe level that is written: error | warn | info | debug. Default info.
    pub level: String,
}
