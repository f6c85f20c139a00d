//! What the daemon is asked and what it answers: plain data with stable JSON names, and the table for people.
//!
//! A snapshot is made when somebody asks, never per event. Knows no socket, no queue and no
//! running thing: whoever answers fills it in.

use std::str::FromStr;
use std::time::Duration;

use serde::Deserialize;
use serde::Deserializer;
use serde::Serialize;
use serde::Serializer;

use crate::config::Problem;
use crate::event::RunId;
use crate::queue::Counters;
use crate::run::Outcome;
use crate::run::Phase;
use crate::run::Trigger;
use crate::units::Timestamp;
use crate::units::show_bytes;

mod table;

pub use table::Look;
pub use table::show;

/// What may be asked of the daemon: one line of JSON, like `{"do":"trigger","job":"disk"}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "snake_case", deny_unknown_fields)]
pub enum Request {
    /// How are you?
    Status,
    /// Stop as if by SIGTERM; asking twice is not a second signal.
    Stop,
    /// Read spoolbeat.toml and all jobs again.
    Reload,
    /// Have nothing wait for an output any more that left the configuration.
    ForgetOutput {
        /// The output.
        output: String,
    },
    /// Run a job now.
    Trigger {
        /// The job.
        job: String,
    },
    /// Do not run a job by its schedule until it is resumed.
    Pause {
        /// The job.
        job: String,
    },
    /// Let a paused job go on.
    Resume {
        /// The job.
        job: String,
    },
    /// End a run, or all runs of a job.
    End {
        /// The run or the job.
        target: String,
    },
    /// Let an output pass over the events before one, without sending them.
    Skip {
        /// The output.
        output: String,
        /// The first event that it still sends.
        to: u64,
    },
}

/// What the daemon answers: one line of JSON.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "answer", rename_all = "snake_case")]
pub enum Answer {
    /// To [`Request::Status`].
    Status(Box<Status>),
    /// It is under way.
    Accepted,
    /// The job's run has been started.
    Started {
        /// The run.
        run: RunId,
    },
    /// The runs have been told to end.
    Ending {
        /// The runs.
        runs: Vec<RunId>,
    },
    /// spoolbeat.toml and the jobs are read again.
    Reloaded {
        /// Sections that changed and need a restart of the daemon.
        left: Vec<String>,
    },
    /// spoolbeat.toml is not good: the former settings stay. The jobs are read again.
    Unusable {
        /// Everything that is wrong with it.
        problems: Vec<Problem>,
    },
    /// It will not be done.
    Refused {
        /// Why, in words.
        reason: String,
    },
}

/// An instant as text: `2026-11-21T08:08:08.123Z`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct At(pub Timestamp);

impl Serialize for At {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for At {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Timestamp::from_str(&text)
            .map(Self)
            .map_err(serde::de::Error::custom)
    }
}

/// The whole daemon at one moment.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// The process.
    pub daemon: Daemon,
    /// Where the events are.
    pub totals: Totals,
    /// The queue on disk.
    pub queue: Queue,
    /// The outputs, in the order of the configuration; then those that left it, which the totals leave out.
    pub outputs: Vec<Output>,
    /// The jobs, by name.
    pub jobs: Vec<Job>,
}

/// The process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Daemon {
    /// Version of Spoolbeat.
    pub version: String,
    /// Process id.
    pub pid: u32,
    /// The root directory.
    pub root: String,
    /// When it was started.
    pub started_at: At,
    /// How long ago that is, in milliseconds of monotonic time.
    pub uptime_ms: u64,
    /// What it is doing.
    pub state: DaemonState,
    /// Why schedules are paused, in words; absent when they are not.
    pub paused: Option<String>,
    /// Why `jobs/` cannot be looked at, in words; absent when it can.
    pub unreadable: Option<String>,
    /// What is wrong with the newest edit of spoolbeat.toml; the former settings hold.
    pub settings_problems: Vec<Problem>,
    /// What changed in spoolbeat.toml and holds only from the next start.
    #[serde(default)]
    pub needs_restart: Vec<String>,
    /// Events of the daemon's own that were dropped since its start, as too many waited for the queue.
    pub notices_dropped: u64,
}

/// What the daemon is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DaemonState {
    /// Schedules go on.
    Running,
    /// Schedules wait for the queue; events are still shipped.
    Paused,
    /// No new runs; the running ones come to their end.
    Stopping,
    /// All runs have ended; waiting for ACKs.
    Draining,
}

impl DaemonState {
    /// The name in JSON and for people.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Stopping => "stopping",
            Self::Draining => "draining",
        }
    }
}

/// Where the events are, over all outputs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Totals {
    /// Events that were captured since the queue was made.
    pub captured_events: u64,
    /// Events that every output has had acknowledged (the least of the counts of the required outputs, or of all where none is).
    pub acked_events: u64,
    /// Events that some output still has before it (the most of the outputs' counts), those among them
    /// that will turn out to be for others only.
    pub waiting_events: u64,
    /// Events of damaged records that were found so when the queue was opened: what their sources
    /// counted is not known.
    pub lost_events: u64,
    /// Results on their way to plugins.
    #[serde(default)]
    pub deliveries: Deliveries,
    /// What the sources brought. Always `framed + created + lost_events` is `captured_events`, and
    /// `bytes_read` is `bytes_framed + bytes_cut`.
    pub sources: Counters,
}

/// Results that were to be handed to plugins, since the daemon was started.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Deliveries {
    /// To be handed over, or being handed over.
    pub waiting: u64,
    /// Handed over.
    pub delivered: u64,
    /// Tries that failed and were not the last.
    pub retried: u64,
    /// Given up after the last try.
    pub failed: u64,
    /// Put off until the next start of the daemon, as too many waited.
    pub dropped: u64,
}

impl Deliveries {
    /// No delivery at all.
    pub const NONE: Self = Self {
        waiting: 0,
        delivered: 0,
        retried: 0,
        failed: 0,
        dropped: 0,
    };

    /// Adds another account to this one.
    pub const fn add(&mut self, more: &Self) {
        self.waiting += more.waiting;
        self.delivered += more.delivered;
        self.retried += more.retried;
        self.failed += more.failed;
        self.dropped += more.dropped;
    }
}

/// A job's plugin, and what became of the results that it was to get.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OnResult {
    /// Its name in `plugins/`.
    pub plugin: String,
    /// The counts.
    #[serde(flatten)]
    pub counts: Deliveries,
    /// Why the last try failed, in words, if none has gone well since.
    pub last_error: Option<String>,
}

/// The queue on disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Queue {
    /// Bytes that some output still has before it for which the queue holds them.
    pub held_bytes: u64,
    /// Bytes that some output still has before it: what is more than `held_bytes` is given up when the
    /// queue is full.
    pub waiting_bytes: u64,
    /// How many bytes may be held: schedules pause at 80 % of it.
    pub max_bytes: u64,
    /// Bytes of all its files, those kept for replay among them.
    pub total_bytes: u64,
    /// Bytes that are free on its file system; absent when that cannot be known.
    pub free_bytes: Option<u64>,
    /// Bytes set aside for a full disk, so that runs can still end; 0: none.
    pub reserve_bytes: u64,
    /// Damaged parts of it that are set aside in `queue/quarantine/`.
    pub quarantined: u64,
    /// Their bytes.
    pub quarantined_bytes: u64,
    /// How many were removed there to make room for newer ones.
    pub quarantine_removed: u64,
    /// Outputs whose cursors were lost before this start of the daemon: all that was kept was sent again.
    pub lost_cursors: Vec<String>,
    /// Why it cannot be written, in words; absent when it can.
    pub broken: Option<String>,
}

impl Queue {
    /// What is missing on the disk for it to grow as far as it may, in words.
    #[must_use]
    pub fn lacks_space(&self) -> Option<String> {
        let room = self.max_bytes.saturating_sub(self.total_bytes);
        let free = self.free_bytes.filter(|free| *free < room)?;
        Some(format!(
            "{} are free on its disk beside a reserve of {}, and it may grow by {}: make room, or set a lower [queue] max_bytes",
            show_bytes(free),
            show_bytes(self.reserve_bytes),
            show_bytes(room)
        ))
    }
}

/// One output.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Output {
    /// Its name.
    pub name: String,
    /// `connected`, `connecting`, `down`, `idle`: closed while there is nothing to send, or `frozen`: not
    /// configured any more.
    pub state: String,
    /// The host of the connection, or the one that is tried next; with `loadbalance` all of them.
    pub host: String,
    /// How its servers are proved: `full`, `certificate`, `none` (TLS without any check), or `off`
    /// without TLS.
    pub tls: String,
    /// Events that were captured before it existed. This and its counts of events below add up to
    /// those captured.
    pub before_events: u64,
    /// Events that it has had acknowledged since it exists.
    pub acked_events: u64,
    /// Events that it still has before it, those in flight among them, and those that will turn out to
    /// be for others only.
    pub waiting_events: u64,
    /// Events that were for other outputs only.
    pub not_mine_events: u64,
    /// Events that it could not get, as their record in the queue cannot be read any more.
    pub damaged_events: u64,
    /// Events that its servers refused again and again: they are in `dead-letter/<output>/`.
    pub set_aside_events: u64,
    /// Events that were given up for it, so that the queue could take others.
    pub dropped_events: u64,
    /// Events that a person passed over for it.
    pub skipped_events: u64,
    /// Files that are cleaned up only when it has got further.
    pub waiting_files: u64,
    /// Windows that were sent and not yet acknowledged.
    pub in_flight_windows: u64,
    /// Windows sent since the daemon was started, or the output got other settings; those sent again
    /// counted again.
    pub windows: u64,
    /// Connections made since then.
    pub connections: u64,
    /// Why the queue cannot be read or a dead letter not be written, else why the last connection
    /// broke or failed, in words, if none has made progress since.
    pub last_error: Option<String>,
    /// With `loadbalance` each of its hosts, else empty.
    pub hosts: Vec<Host>,
}

/// One host of an output with `loadbalance`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Host {
    /// Its address.
    pub host: String,
    /// As of an output.
    pub state: String,
    /// Events that it has acknowledged since then.
    pub acked_events: u64,
    /// Windows that were sent to it and not yet acknowledged.
    pub in_flight_windows: u64,
    /// Why its last connection broke or failed, in words, if it has made no progress since.
    pub last_error: Option<String>,
}

/// One job.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Job {
    /// Its name.
    pub name: String,
    /// What it is doing.
    pub state: JobState,
    /// Which edit of it runs next; absent when none was ever good.
    pub generation: Option<String>,
    /// Runs that have not ended.
    pub running: Vec<Running>,
    /// The run that ended last.
    pub last_run: Option<LastRun>,
    /// When its schedule is next due; absent when it is not, or only after a run has ended.
    pub next_at: Option<At>,
    /// Start of the last successful run.
    pub last_success_at: Option<At>,
    /// Ended runs since the daemon was started, by outcome.
    pub runs: Outcomes,
    /// Events captured from it since the queue was made.
    pub captured_events: u64,
    /// What it takes from Beats; absent when it does not listen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<Source>,
    /// The files that it reads; absent when it reads none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub files: Option<Files>,
    /// Who gets its results; absent when nobody does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub on_result: Option<OnResult>,
    /// Ticks since it was loaded at which it was due and did not run: it still ran, waited for a
    /// slot, or schedules were paused.
    pub skipped_ticks: u64,
    /// Runs that are due and wait: for a free place, the end of another run, or of a pause.
    pub waiting_runs: u32,
    /// How often it was restarted since it last did well.
    pub restarts: u32,
    /// By how much its period is multiplied while the queue is under pressure; 1 when it is not.
    pub stretch: u32,
    /// What stands before its schedule; absent when nothing does.
    pub preparation: Option<Preparation>,
    /// Whether it has not succeeded for longer than its `expect_every`.
    pub overdue: bool,
    /// Whose rights it has; absent when no generation of it was ever good.
    pub user: Option<String>,
    /// Which of its limits hold only in part or not at all here, in words.
    pub notes: Vec<String>,
    /// What is wrong with the newest edit of it; the last good generation stays.
    pub problems: Vec<Problem>,
}

/// A step on a job's way to its schedule that has not succeeded yet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Preparation {
    /// `modules`, `first_run` or `startup`.
    pub step: Phase,
    /// Whether the job waits for it: modules may be there from an earlier time.
    pub gates: bool,
    /// How often in a row it did not succeed.
    pub failures: u32,
    /// Why it did not, in words; absent before its first failure.
    pub problem: Option<String>,
    /// The run of the last failure: its result holds what was printed.
    pub run: Option<RunId>,
    /// When it is tried again after a failure; absent while it runs, while its job is
    /// paused, or waits for something else.
    pub next_try_at: Option<At>,
}

/// What a job takes from Beats, counted since it began to listen on this address.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Source {
    /// The address.
    pub listen: String,
    /// `listening`, `starting` or `failed`: the address cannot be had, and is tried again.
    pub state: String,
    /// Connections that are open.
    pub open_connections: u64,
    /// Connections that were taken.
    pub connections: u64,
    /// Connections that were closed at once because there were too many.
    pub turned_away_connections: u64,
    /// Times that a connection could not be accepted: the process has too many files open.
    pub unaccepted: u64,
    /// Windows that were captured and acknowledged.
    pub windows: u64,
    /// Events in them.
    pub events: u64,
    /// Connections that were closed without an ACK because of what the client did, or because its
    /// window could not be taken.
    pub refused: u64,
    /// Why it does not listen or take connections, in words.
    pub problem: Option<String>,
    /// Why the last connection was refused, in words.
    pub last_refused: Option<String>,
}

/// The files that a job reads. Counts are since the queue was made.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Files {
    /// Files that are known, those that are gone and may come back among them.
    pub tracked: u64,
    /// Files that are held open.
    pub open: u64,
    /// Bytes that were seen in files and are not events yet; 0: all was read to the end.
    pub behind_bytes: u64,
    /// Links, FIFOs, files with several names and the like that are named by `paths` and not read.
    pub refused_files: u64,
    /// Clean-ups that wait for ACKs, or for somebody who has the file open.
    pub waiting_releases: u64,
    /// Files that were cleaned up.
    pub released: u64,
    /// Clean-ups that were refused; the files stay.
    pub refused_releases: u64,
    /// Last lines without an end that became events.
    pub partial_lines: u64,
    /// Files that were cut or replaced before what was seen in them had been read.
    pub cut_short: u64,
    /// Bytes that were seen in those and never read.
    pub lost_bytes: u64,
    /// A file that is kept though it was to be cleaned up, and why.
    pub kept: Option<String>,
    /// What cannot be read at the moment, and why.
    pub problem: Option<String>,
}

/// What a job is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum JobState {
    /// Nothing to do now.
    Idle,
    /// Takes events from Beats; no run goes on.
    Listening,
    /// A run goes on.
    Running,
    /// Its script has ended; what it printed, and its end, have yet to be captured.
    Ending,
    /// Is on the way to its schedule: modules, `first_run` or `startup`.
    Preparing,
    /// A step on the way to its schedule did not succeed; it is tried again.
    Failed,
    /// Due; waits for a slot, or for the record of a run that a crash interrupted.
    Waiting,
    /// Schedules are paused.
    Held,
    /// A person paused it.
    Paused,
    /// `enabled = false`.
    Disabled,
    /// No generation of it was ever good.
    Refused,
    /// Its folder is gone; its last run comes to its end.
    Removed,
}

impl JobState {
    /// The name in JSON and for people.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Idle => "idle",
            Self::Listening => "listening",
            Self::Running => "running",
            Self::Ending => "ending",
            Self::Preparing => "preparing",
            Self::Failed => "failed",
            Self::Waiting => "waiting",
            Self::Held => "held",
            Self::Paused => "paused",
            Self::Disabled => "disabled",
            Self::Refused => "refused",
            Self::Removed => "removed",
        }
    }
}

/// A run that has not ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Running {
    /// The run.
    pub run: RunId,
    /// Why it was started.
    pub trigger: Trigger,
    /// The generation that it runs.
    pub generation: String,
    /// When it was started.
    pub started_at: At,
    /// Whether its script has ended: what it printed, and its end, wait for the queue.
    pub script_over: bool,
}

/// A run that has ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LastRun {
    /// The run.
    pub run: RunId,
    /// How.
    pub outcome: Outcome,
    /// Why, in words; absent when it succeeded.
    pub reason: Option<String>,
    /// When it was started.
    pub started_at: At,
    /// When it ended.
    pub ended_at: At,
    /// How long it ran, in milliseconds.
    pub duration_ms: u64,
}

/// Ended runs by outcome.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[expect(
    missing_docs,
    reason = "the names are those of Outcome, documented there"
)]
pub struct Outcomes {
    pub success: u64,
    pub failed: u64,
    pub signalled: u64,
    pub oom: u64,
    pub timed_out: u64,
    pub killed: u64,
    pub interrupted: u64,
    pub could_not_start: u64,
}

impl Outcomes {
    /// Counts one more.
    pub const fn add(&mut self, outcome: Outcome) {
        let slot = match outcome {
            Outcome::Success => &mut self.success,
            Outcome::Failed => &mut self.failed,
            Outcome::Signalled => &mut self.signalled,
            Outcome::Oom => &mut self.oom,
            Outcome::TimedOut => &mut self.timed_out,
            Outcome::Killed => &mut self.killed,
            Outcome::Interrupted => &mut self.interrupted,
            Outcome::CouldNotStart => &mut self.could_not_start,
        };
        *slot += 1;
    }

    /// All ended runs.
    #[must_use]
    pub const fn ended(&self) -> u64 {
        self.success + self.unsuccessful()
    }

    /// All ended runs but the successful ones.
    #[must_use]
    pub const fn unsuccessful(&self) -> u64 {
        self.failed
            + self.signalled
            + self.oom
            + self.timed_out
            + self.killed
            + self.interrupted
            + self.could_not_start
    }
}

/// Whole milliseconds, saturating.
#[must_use]
pub fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
