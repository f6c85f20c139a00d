//! The supervisor's words: everything that can happen, and everything that may be done about it.
//!
//! Closed enums, so that the compiler lists what a new one needs. Plain data.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::clock::Tick;
use crate::config;
use crate::config::Problem;
use crate::event::Notice;
use crate::event::Route;
use crate::event::RunId;
use crate::process::Can;
use crate::run;
use crate::run::Trigger;
use crate::runner::Ended;
use crate::runner::Order;
use crate::runner::Spec;
use crate::spool::Change;
use crate::status;
use crate::status::Answer;
use crate::status::Request;
use crate::supervisor::Snapshot;
use crate::units::Timestamp;

/// The clocks, read once per note.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Now {
    /// For schedules and for people.
    pub wall: Timestamp,
    /// For deadlines.
    pub tick: Tick,
}

/// Who asked; the driver knows where the answer goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Ask(pub u64);

/// Everything that can make the program act.
#[derive(Debug)]
pub enum Note {
    /// Time has passed.
    Clock,
    /// Something changed under `jobs/`.
    Spool(Change),
    /// A run has ended and its end event is durable.
    RunEnded(Ended),
    /// A run's task is gone without a word (a panic): nothing is known of its end.
    RunLost {
        /// The run.
        run: RunId,
    },
    /// The end of an interrupted run has been recorded, or cannot be.
    Closed {
        /// The run.
        run: RunId,
    },
    /// How full the queue is.
    Queue(QueueLevel),
    /// An output has a connection, or got an ACK; told once.
    OutputAnswered,
    /// `spoolbeat.toml` has been read again; answers [`Effect::Reload`].
    Reread {
        /// Who asked for it.
        ask: Option<Ask>,
        /// What it says, or all that is wrong with it.
        read: Result<Box<config::Root>, Vec<Problem>>,
    },
    /// A question has found its answer.
    Answered {
        /// Whose.
        ask: Ask,
        /// The answer.
        answer: Answer,
    },
    /// The operating system tells us something.
    Signal(Signal),
    /// A person asks for something.
    Asked {
        /// Where the answer goes.
        ask: Ask,
        /// What.
        request: Request,
    },
    /// The wait for ACKs has ended.
    DrainOver {
        /// Events that some required output still has before it.
        waiting_events: u64,
    },
}

/// How full the queue is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QueueLevel {
    /// Bytes of its files that cannot be freed now.
    pub bytes: u64,
    /// Its upper bound.
    pub max_bytes: u64,
    /// Why it cannot be written, in words.
    pub broken: Option<String>,
}

/// A signal that we act upon.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signal {
    /// SIGHUP: read spoolbeat.toml and all jobs again.
    Hangup,
    /// SIGTERM or SIGINT: stop; the second means now.
    Terminate,
}

/// What is to be done. The driver carries effects out in order.
#[derive(Debug)]
pub enum Effect {
    /// Start a run.
    StartRun(Box<Spec>),
    /// Tell a running run. At most one of each [`Order`] per run.
    OrderRun {
        /// The run.
        run: RunId,
        /// What.
        order: Order,
    },
    /// Record the end of a run that was open when the daemon died; answered by [`Note::Closed`].
    CloseInterrupted(OpenRun),
    /// Look at the whole spool now.
    Rescan,
    /// Read `spoolbeat.toml` again; answered by [`Note::Reread`].
    Reload {
        /// Who asked for it.
        ask: Option<Ask>,
    },
    /// Take over of the settings what can be taken over, then answer with what cannot.
    TakeOver {
        /// Who asked for it.
        ask: Option<Ask>,
        /// The settings.
        root: Box<config::Root>,
    },
    /// Have an output pass over events, then answer.
    Skip {
        /// Who asks.
        ask: Ask,
        /// The output.
        output: String,
        /// The first event that it still sends.
        to: u64,
    },
    /// Write down which jobs are paused, then answer.
    KeepPaused {
        /// Whose question it was.
        ask: Ask,
        /// All paused jobs.
        jobs: Vec<String>,
    },
    /// Have nothing wait for an output any more that left the configuration; answered by
    /// [`Note::Answered`].
    ForgetOutput {
        /// Who asked for it.
        ask: Ask,
        /// The output.
        output: String,
    },
    /// Make an event of what the daemon itself has to tell.
    Tell(Notice),
    /// A job's generations may go, but the current one, the one before it and these.
    Retire {
        /// The job.
        job: Arc<str>,
        /// Generations that its runs use.
        in_use: BTreeSet<String>,
    },
    /// Answer a question.
    Reply {
        /// Whose.
        ask: Ask,
        /// The answer.
        answer: Answer,
    },
    /// Answer a question for the status; the driver adds what it knows itself.
    Report {
        /// Whose.
        ask: Ask,
        /// The supervisor's part.
        snapshot: Box<Snapshot>,
    },
    /// Say something in the daemon's log.
    Say(Say),
    /// Close the queue's door, wait for ACKs; answered by [`Note::DrainOver`].
    BeginDrain,
    /// Leave. Nothing follows it.
    Exit(Exit),
}

/// What the supervisor has to say by itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Say {
    /// Schedules are paused; why, in words.
    Paused {
        /// Why.
        reason: String,
    },
    /// Schedules go on.
    Resumed,
    /// The stop has begun.
    Stopping {
        /// Runs that have not ended yet.
        runs: usize,
    },
    /// The runs did not end in the time that their own limits give them.
    Abandoned {
        /// How many.
        runs: usize,
    },
    /// A job has not succeeded for as long as it may take.
    Overdue {
        /// The job.
        job: Arc<str>,
        /// Its `expect_every`.
        expect_every: Duration,
    },
    /// It has succeeded again.
    OnTime {
        /// The job.
        job: Arc<str>,
    },
    /// spoolbeat.toml was read again and is not good.
    SettingsRefused {
        /// All that is wrong with it.
        problems: Vec<Problem>,
    },
    /// A step before a job's schedule did not succeed.
    StepFailed {
        /// The job.
        job: Arc<str>,
        /// The step.
        step: run::Phase,
        /// Why, in words.
        why: String,
        /// When it is tried again.
        wait: Duration,
    },
    /// A job was not run by `run --once`.
    NotRun {
        /// The job.
        job: Arc<str>,
        /// Why.
        reason: String,
    },
}

/// How the program ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// As it should.
    Clean,
    /// `--once`: a run failed; or runs did not end at a stop.
    Failed,
    /// `--once`: the drain ended with events not acknowledged.
    Unshipped,
    /// `--once`: a job was refused.
    Refused,
    /// A second signal came: runs are killed, what was captured stays queued.
    Now,
}

impl Exit {
    /// The name in the daemon's log.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Clean => "clean",
            Self::Failed => "failed",
            Self::Unshipped => "unshipped",
            Self::Refused => "refused",
            Self::Now => "now",
        }
    }
}

/// What a job's past was, as the queue's ledger tells it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Past {
    /// The tick of its newest run that belonged to one.
    pub last_fire: Option<Timestamp>,
    /// Start of the last successful run whose last event is durable.
    pub last_success_at: Option<Timestamp>,
    /// The generation of which a run has ended last.
    pub done_generation: Option<String>,
    /// Whether its `first_run` has succeeded.
    pub first_run_done: bool,
    /// The run that ended last, those that prepare it apart.
    pub last_run: Option<status::LastRun>,
    /// Ended runs since the daemon was started, those that prepare it apart.
    pub runs: status::Outcomes,
}

/// A run that the ledger has a start of, and no end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OpenRun {
    /// The run.
    pub run: RunId,
    /// Its job.
    pub job: String,
    /// Its generation.
    pub generation: String,
    /// Why it was started.
    pub trigger: Trigger,
    /// The tick it belonged to.
    pub scheduled_at: Option<Timestamp>,
    /// The outputs that get its events.
    pub route: Route,
    /// When it was started.
    pub at: Timestamp,
}

/// What the supervisor works for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Until it is stopped.
    Serve,
    /// Every enabled job once.
    Once {
        /// How long scripts that are kept running may run.
        keep_running: Duration,
    },
}

/// What of `spoolbeat.toml` the supervisor itself needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    /// `[spool] max_concurrent_runs`.
    pub max_concurrent: u32,
    /// `[stop] timeout`.
    pub stop_timeout: Duration,
    /// `[heartbeat] every`.
    pub heartbeat: Option<Duration>,
}

impl Settings {
    /// The supervisor's part of a root configuration.
    #[must_use]
    pub const fn of(root: &config::Root) -> Self {
        Self {
            max_concurrent: root.max_concurrent_runs,
            stop_timeout: root.stop_timeout,
            heartbeat: root.heartbeat,
        }
    }
}

/// What the supervisor begins with.
#[derive(Debug)]
pub struct Start {
    /// The clocks.
    pub now: Now,
    /// The host's name, from which jitter is made.
    pub host: String,
    /// Jobs that a person paused.
    pub paused: Vec<String>,
    /// `[startup] require_output`.
    pub require_output: bool,
    /// What it works for.
    pub mode: Mode,
    /// `ROOT/state`.
    pub state_dir: PathBuf,
    /// What holds until `spoolbeat.toml` is read again.
    pub settings: Settings,
    /// What the cgroups of runs can limit.
    pub can: Can,
    /// The jobs' pasts.
    pub pasts: BTreeMap<String, Past>,
    /// Runs that were open when the former daemon died.
    pub open: Vec<OpenRun>,
    /// Tells our run ids from those of another process in the same millisecond.
    pub seed: u32,
}
