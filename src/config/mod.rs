//! Configuration (being written): raw text to checked values, all problems at once.

use std::path::PathBuf;
use std::time::Duration;

use crate::queue;
use crate::sink;

/// One problem of a configuration file.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
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

/// `spoolbeat.toml`, checked.
#[derive(Debug, Clone, PartialEq)]
pub struct Root {
    /// The root directory, absolute.
    pub dir: PathBuf,
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
    /// `[results] bytes`: of all jobs together. Default 1 GiB.
    pub results_bytes: u64,
    /// `[receiver]`: a Lumberjack server inside, for trying out.
    pub receiver: Option<Receiver>,
    /// `[stop] timeout`: how long the drain waits for ACKs. Default 5s.
    pub stop_timeout: Duration,
    /// `[log]`.
    pub log: Log,
}

/// `[output.NAME]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Output {
    /// Its name.
    pub name: String,
    /// Whether clean-up and the queue wait for it. Default true.
    pub required: bool,
    /// Its kind's own settings.
    pub kind: OutputKind,
}

/// The kinds of outputs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OutputKind {
    /// Lumberjack v2 to a Beats server.
    Lumberjack(sink::lumberjack::Settings),
}

/// `[receiver]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Receiver {
    /// `ADDR:PORT` to listen on; port 0 picks one.
    pub listen: String,
    /// Whether received events are printed to standard output. Default true.
    pub print: bool,
}

/// `[log]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Log {
    /// Least severe level that is written: error | warn | info | debug. Default info.
    pub level: String,
}
