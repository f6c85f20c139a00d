//! A job as it was checked: immutable, of one generation. A change makes a new `Job`.
//!
//! Text has become types here; nothing in it can be wrong any more. Must never read files,
//! parse TOML or start anything.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::cleanup::Keep;
use crate::event::Route;
use crate::modules::Installer;
use crate::process::Rights;
use crate::queue::Action;
use crate::run::Phase;
use crate::schedule::Policy;
use crate::schedule::Schedule;
use crate::source::lumberjack;
use crate::source::multiline;

/// What a script is told by its environment, and what `args` and `env` may refer to.
pub const RUN_VARIABLES: [&str; 10] = [
    "SPOOLBEAT_JOB",
    "SPOOLBEAT_RUN_ID",
    "SPOOLBEAT_GENERATION",
    "SPOOLBEAT_TRIGGER",
    "SPOOLBEAT_SCHEDULED_AT",
    "SPOOLBEAT_STARTED_AT",
    "SPOOLBEAT_LAST_SUCCESS_AT",
    "SPOOLBEAT_STATE_DIR",
    "SPOOLBEAT_JOB_DIR",
    "SPOOLBEAT_RESULT_DIR",
];

/// Longest installation of modules: a slow network and a compiler fit in.
pub const MODULES_TIMEOUT: Duration = Duration::from_secs(600);

/// Longest `first_run` or `startup` of a kept-running job without a timeout: these are to end.
pub const STEP_TIMEOUT: Duration = Duration::from_secs(3600);

/// A job, checked.
#[derive(Debug, Clone, PartialEq)]
pub struct Job {
    /// Identity: the name of its folder under `jobs/`.
    pub name: String,
    /// Content hash of its folder: which edit of the job this is. 16 hexadecimal digits.
    pub generation: String,
    /// The read-only copy of its folder that runs execute from.
    pub folder: PathBuf,
    /// For people.
    pub description: String,
    /// A disabled job is loaded and shown, never run.
    pub enabled: bool,
    /// Added to each event's `tags`.
    pub tags: Vec<String>,
    /// Added to each event under `fields`.
    pub fields: serde_json::Map<String, serde_json::Value>,
    /// Whose rights everything has that it causes, and within which limits.
    pub rights: Rights,
    /// What is run, for a job that runs something.
    pub task: Option<Arc<Task>>,
    /// `[source.lumberjack]`: it takes events from Beats.
    pub receive: Option<lumberjack::Settings>,
    /// The files that it reads.
    pub files: Vec<Files>,
    /// The outputs that get its events.
    pub route: Route,
    /// Those of them that the clean-up of its files waits for.
    pub waits_for: Vec<String>,
    /// How many results are kept.
    pub keep: Keep,
    /// Who is told of each result.
    pub on_result: Option<OnResult>,
}

/// `[results] on_result`: the plugin that gets each result of the job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OnResult {
    /// Its name in `ROOT/plugins`; whether it is there is seen when it is started.
    pub plugin: String,
    /// Longest time that it may take for one result.
    pub timeout: Duration,
}

/// `[script]`, `[schedule]` and `[capture]`: what is run, when, and what becomes of its output.
#[derive(Debug, Clone, PartialEq)]
pub struct Task {
    /// What is run.
    pub script: Script,
    /// When it is run.
    pub schedule: Schedule,
    /// What becomes of times at which it cannot be run.
    pub policy: Policy,
    /// It is to succeed at least once in any such time; else that is said.
    pub expect_every: Option<Duration>,
    /// What must have succeeded once before anything else of it is run.
    pub first_run: Option<Step>,
    /// What must have succeeded at each start of the daemon and after each change of the job.
    pub startup: Option<Step>,
    /// What becomes of standard output.
    pub stdout: Capture,
    /// What becomes of standard error.
    pub stderr: Capture,
}

impl Task {
    /// Whether anything is to be done in `phase`.
    #[must_use]
    pub const fn has(&self, phase: Phase) -> bool {
        match phase {
            Phase::Modules => !self.script.modules.is_empty(),
            Phase::FirstRun => self.first_run.is_some(),
            Phase::Startup => self.startup.is_some(),
            Phase::Run => true,
        }
    }

    /// What is run in `phase`: the same rights, limits and environment, another script, which has
    /// no arguments and always a timeout. `None`: nothing.
    #[must_use]
    pub fn in_phase(&self, phase: Phase) -> Option<Self> {
        let mut task = Self {
            schedule: Schedule::Once,
            ..self.clone()
        };
        let script = &mut task.script;
        let step = match phase {
            Phase::Run => return Some(self.clone()),
            Phase::Modules if script.modules.is_empty() => return None,
            Phase::Modules => {
                script.timeout = Some(MODULES_TIMEOUT);
                return Some(task);
            }
            Phase::FirstRun => self.first_run.clone()?,
            Phase::Startup => self.startup.clone()?,
        };
        script.run = step.run;
        script.language = step.language;
        script.args.clear();
        script.timeout.get_or_insert(STEP_TIMEOUT);
        Some(task)
    }

    /// Whether its runs end by themselves only if they like to: "let it finish" cannot be waited for.
    #[must_use]
    pub const fn is_endless(&self) -> bool {
        self.script.timeout.is_none()
    }
}

/// A script that stands before the schedule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// The file to run, relative to the job's folder.
    pub run: String,
    /// What runs it.
    pub language: Language,
}

/// The `[script]` section, checked.
#[derive(Debug, Clone, PartialEq)]
pub struct Script {
    /// The file to run, relative to the job's folder.
    pub run: String,
    /// What runs it.
    pub language: Language,
    /// What is installed for it before anything of it is run, by the installer of its language.
    pub modules: Vec<String>,
    /// Arguments; `${SPOOLBEAT_*}` in them is filled in per run.
    pub args: Vec<String>,
    /// Variables set for it.
    pub env: BTreeMap<String, String>,
    /// Names of variables passed on from the daemon's environment.
    pub pass_env: Vec<String>,
    /// Variables whose values nobody but the script sees, and where those are.
    pub secrets: BTreeMap<String, SecretSource>,
    /// Longest run; `None`: no limit. Time during which we do not read its output does not count.
    pub timeout: Option<Duration>,
    /// Between TERM and KILL, and how long pipes may stay open after the script has exited.
    pub kill_grace: Duration,
    /// Where it runs.
    pub cwd: Cwd,
    /// What becomes of a run when the daemon stops.
    pub on_stop: AtEnd,
    /// What becomes of a run when its job is removed.
    pub on_remove: AtEnd,
}

/// Where the value of a secret is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SecretSource {
    /// `file:/etc/idp/token`: in this file, read with the job's rights at each run.
    File(PathBuf),
    /// `env:API_TOKEN`: in the daemon's environment.
    Env(String),
    /// `credential:idp-token`: in the file of this name in the daemon's `$CREDENTIALS_DIRECTORY`
    /// (systemd.exec(5), LoadCredential).
    Credential(String),
}

/// What a script is run by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Language {
    /// `python3 -u SCRIPT`
    Python,
    /// `bash SCRIPT`
    Bash,
    /// `sh SCRIPT`
    Sh,
    /// `pwsh -NoProfile -NonInteractive -File SCRIPT`
    Powershell,
    /// `node SCRIPT`
    Node,
    /// `perl SCRIPT`
    Perl,
    /// `ruby SCRIPT`
    Ruby,
    /// The file itself; it must be executable.
    Exec,
}

impl Language {
    /// All of them, with the names they have in `job.toml`.
    pub const NAMES: [(&'static str, Self); 8] = [
        ("python", Self::Python),
        ("bash", Self::Bash),
        ("sh", Self::Sh),
        ("powershell", Self::Powershell),
        ("node", Self::Node),
        ("perl", Self::Perl),
        ("ruby", Self::Ruby),
        ("exec", Self::Exec),
    ];

    /// Interpreter and its own arguments, to which the script's path is added; `None`: run the file itself.
    #[must_use]
    pub const fn interpreter(self) -> Option<(&'static str, &'static [&'static str])> {
        match self {
            Self::Python => Some(("python3", &["-u"])),
            Self::Bash => Some(("bash", &[])),
            Self::Sh => Some(("sh", &[])),
            Self::Powershell => Some(("pwsh", &["-NoProfile", "-NonInteractive", "-File"])),
            Self::Node => Some(("node", &[])),
            Self::Perl => Some(("perl", &[])),
            Self::Ruby => Some(("ruby", &[])),
            Self::Exec => None,
        }
    }

    /// Who installs its modules; `None`: nobody can.
    #[must_use]
    pub const fn installer(self) -> Option<Installer> {
        match self {
            Self::Python => Some(Installer::Python),
            Self::Powershell => Some(Installer::Powershell),
            Self::Bash | Self::Sh | Self::Exec => Some(Installer::System),
            Self::Node | Self::Perl | Self::Ruby => None,
        }
    }

    /// The language that a file's ending says, if it says one.
    #[must_use]
    pub fn from_ending(file: &str) -> Option<Self> {
        match file.rsplit_once('.')?.1 {
            "py" => Some(Self::Python),
            "bash" => Some(Self::Bash),
            "sh" => Some(Self::Bash),
            "ps1" => Some(Self::Powershell),
            "js" | "mjs" | "cjs" => Some(Self::Node),
            "pl" => Some(Self::Perl),
            "rb" => Some(Self::Ruby),
            _ => None,
        }
    }
}

/// A script's working directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cwd {
    /// The generation's folder, read-only.
    Job,
    /// `$SPOOLBEAT_STATE_DIR`, the script's own.
    State,
}

/// What becomes of a run when the daemon stops or its job is removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AtEnd {
    /// TERM, grace, KILL.
    Terminate,
    /// It may finish (at a stop: within its own timeout).
    Finish,
}

/// One stream's capture.
#[derive(Debug, Clone, PartialEq)]
pub struct Capture {
    /// Lines become events.
    pub events: bool,
    /// Lines become events that tell of an error, also when they are to be `events`.
    pub errors: bool,
    /// Lines go to the daemon's own log.
    pub log: bool,
    /// How a line becomes an event.
    pub format: Format,
    /// Which lines are one event together; `None`: each is one.
    pub multiline: Option<Arc<multiline::Settings>>,
    /// Longest event's text in bytes; longer ones are cut there and marked.
    pub max_event: usize,
    /// The phases whose output goes anywhere but to the results.
    pub phases: Vec<Phase>,
}

impl Capture {
    /// What becomes of the stream in `phase`.
    #[must_use]
    pub fn in_phase(&self, phase: Phase) -> Self {
        let on = self.phases.contains(&phase);
        Self {
            events: self.events && on,
            errors: self.errors && on,
            log: self.log && on,
            ..self.clone()
        }
    }
}

/// One `[[files]]`, checked.
#[derive(Debug, Clone, PartialEq)]
pub struct Files {
    /// Globs; relative ones are below the job's `data/`.
    pub paths: Vec<String>,
    /// Globs of what is not read though `paths` names it.
    pub exclude: Vec<String>,
    /// When they are read.
    pub when: When,
    /// How a line becomes an event.
    pub format: Format,
    /// Longest line in bytes; longer ones are cut there and marked.
    pub max_event: usize,
    /// Added to each event's `tags`, beside the job's.
    pub tags: Vec<String>,
    /// How often folders are looked at where no change was told.
    pub scan: Duration,
    /// How long a last line without an end waits for the rest of it.
    pub partial_timeout: Duration,
    /// What is done to a file whose events have arrived; `None`: nothing.
    pub after_ack: Option<Action>,
    /// How long a file has been read to its end, unchanged and without a writer, before that.
    pub quiet: Duration,
    /// Where that may be done; none: below the literal part of `paths`.
    pub roots: Vec<PathBuf>,
    /// Whether folders that become empty by it are removed.
    pub prune: bool,
}

/// When files are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum When {
    /// As they grow.
    Live,
    /// After a run of the job has ended.
    RunEnd,
}

/// How a line becomes an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// The line is `message`. Never guessed.
    Text,
    /// The line is a JSON object and its keys are the event's; anything else is taken as text.
    Json,
    /// All output of a run is one event: a JSON object as with `Json`, anything else as text.
    Document,
}
