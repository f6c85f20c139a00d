//! `spoolbeat doctor`: looks at everything a root needs and says what is wrong and what helps.
//!
//! Works on a live and on a stopped root, and changes nothing. Finds by the same functions as the
//! daemon, `check`, `status` and `queue verify`. Must never repair: that is asked for by name.

use std::path::Path;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use serde::Serialize;

use crate::cli::Done;
use crate::cli::EXIT_ERROR;
use crate::cli::block_on;
use crate::cli::check;
use crate::cli::queue::consent;
use crate::cli::say;
use crate::cli::say::count;
use crate::clock;
use crate::config;
use crate::config::Draft;
use crate::control;
use crate::control::AskError;
use crate::deadletter;
use crate::disk;
use crate::disk::Disk;
use crate::disk::EntryKind;
use crate::disk::OsDisk;
use crate::files;
use crate::log::printable;
use crate::queue::inspect;
use crate::queue::inspect::Survey;
use crate::queue::quarantine;
use crate::queue::reserve;
use crate::queue::verify;
use crate::sink;
use crate::status::Answer;
use crate::status::Request;
use crate::status::Status;
use crate::units::Timestamp;
use crate::units::show_bytes;
use crate::units::show_duration;
use crate::units::up_to;

/// Look at a root, with or without a daemon, and say what is wrong with it and what helps
///
/// The exit code is 1 when something is wrong; warnings leave it at 0.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  spoolbeat doctor /srv/spool
  spoolbeat doctor --json | jq '.checks[] | select(.verdict != \"ok\")'")]
pub struct Args {
    /// The root directory, or its spoolbeat.toml
    #[arg(value_name = "ROOT")]
    pub root: Option<PathBuf>,
    /// Print one JSON object for programs
    #[arg(long)]
    pub json: bool,
}

/// How a check came out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
enum Verdict {
    Ok,
    Warning,
    Wrong,
}

/// One thing that was looked at.
#[derive(Debug, Serialize)]
struct Check {
    check: &'static str,
    verdict: Verdict,
    found: String,
    /// What helps; absent when nothing has to.
    #[serde(skip_serializing_if = "Option::is_none")]
    fix: Option<String>,
}

#[derive(Debug, Serialize)]
struct Report {
    root: PathBuf,
    ok: bool,
    checks: Vec<Check>,
}

/// A clock may be so much behind the newest record before it is said: NTP steps by less.
const CLOCK_BACK_MAX_MS: i64 = 60_000;

/// Before this a clock has not been set: Spoolbeat did not exist. 2026-01-01.
const CLOCK_MIN: Timestamp = Timestamp(1_767_225_600_000);

/// An output whose next event is older than this lags.
const LAG_MAX_MS: i64 = 3_600_000;

/// Fewer watches than this leave none for jobs when an editor or two run on the machine.
const WATCHES_MIN: u64 = 8192;

/// Each daemon takes one, and so does each program that watches files.
const INSTANCES_MIN: u64 = 16;

/// Longest number in `/proc/sys`.
const SYSCTL_BYTES_MAX: u64 = 64;

/// Most levels below `results/`: job, run, files.
const RESULTS_DEPTH: u32 = 3;

/// Looks and tells.
pub(super) fn run(args: &Args, given: Option<&Path>) -> Done {
    let place = config::find_root(args.root.as_deref().or(given))
        .map_err(|why| say::fail(say::BAD_CONFIG, &why))?;
    let draft = config::draft_root(&place, &[]).map_err(|problems| say::fail_config(&problems))?;
    let root = draft.root.dir.clone();
    let json = args.json;
    block_on(async move {
        let asked = control::ask(&root.join("state"), &Request::Status).await;
        let checks = look(&place, &draft, asked);
        let ok = checks.iter().all(|check| check.verdict < Verdict::Wrong);
        print(&Report { root, ok, checks }, json)
    })
}

fn print(report: &Report, json: bool) -> ExitCode {
    let code = u8::from(!report.ok);
    if json {
        return match serde_json::to_string(report) {
            Ok(json) => say::report(&(json + "\n"), code),
            Err(error) => say::fail(EXIT_ERROR, &format!("no JSON: {error}")),
        };
    }
    let mut text = String::new();
    for check in &report.checks {
        let verdict = match check.verdict {
            Verdict::Ok => "ok",
            Verdict::Warning => "warning",
            Verdict::Wrong => "WRONG",
        };
        text.push_str(&format!(
            "{verdict:<8} {:<12} {}\n",
            check.check,
            printable(&check.found)
        ));
        if let Some(fix) = &check.fix {
            text.push_str(&format!("{:21} fix: {}\n", "", printable(fix)));
        }
    }
    let of = |verdict| {
        let checks = report.checks.iter();
        checks.filter(|check| check.verdict == verdict).count() as u64
    };
    let (wrong, warnings) = (of(Verdict::Wrong), of(Verdict::Warning));
    text.push_str(&match (wrong, warnings) {
        (0, 0) => format!("{} is well\n", report.root.display()),
        (0, warnings) => format!(
            "{} works; {}\n",
            report.root.display(),
            count(warnings, "warning")
        ),
        (wrong, warnings) => format!(
            "{} needs care: {wrong} wrong, {}\n",
            report.root.display(),
            count(warnings, "warning")
        ),
    });
    say::report(&text, code)
}

fn look(place: &Path, draft: &Draft, asked: Result<Answer, AskError>) -> Vec<Check> {
    let root = &draft.root.dir;
    let disk: Arc<dyn Disk> = Arc::new(OsDisk);
    let mut doctor = Doctor {
        root: root.clone(),
        checks: Vec::new(),
    };
    let status = doctor.daemon(asked);
    doctor.jobs(place);
    doctor.rights();
    let dir = root.join("queue");
    if files::look(&dir).is_err() {
        doctor.ok(
            "queue",
            "there is none yet: no daemon has run here".to_owned(),
        );
    } else {
        match inspect::survey(&disk, &dir) {
            Ok(survey) => doctor.queue(&disk, draft, &survey, status.as_ref()),
            Err(error) => {
                let fix = "see to what it says; the queue was left as it is";
                doctor.wrong("queue", error.to_string(), fix);
            }
        }
    }
    doctor.results(&disk, draft.root.results_bytes);
    doctor.letters(&disk, draft);
    doctor.watches(&disk);
    doctor.checks
}

struct Doctor {
    root: PathBuf,
    checks: Vec<Check>,
}

impl Doctor {
    fn add(&mut self, check: &'static str, verdict: Verdict, found: String, fix: Option<String>) {
        self.checks.push(Check {
            check,
            verdict,
            found,
            fix,
        });
    }

    fn ok(&mut self, check: &'static str, found: String) {
        self.add(check, Verdict::Ok, found, None);
    }

    fn warn(&mut self, check: &'static str, found: String, fix: impl Into<String>) {
        self.add(check, Verdict::Warning, found, Some(fix.into()));
    }

    fn wrong(&mut self, check: &'static str, found: String, fix: impl Into<String>) {
        self.add(check, Verdict::Wrong, found, Some(fix.into()));
    }

    /// Whether a daemon runs, by its lock, and answers.
    fn daemon(&mut self, asked: Result<Answer, AskError>) -> Option<Status> {
        let root = self.root.display().to_string();
        let lock = self.root.join("queue").join("lock");
        let held = files::look(&lock).is_ok() && matches!(disk::lock(&lock), Ok(None));
        match asked {
            Ok(Answer::Status(status)) => {
                let daemon = &status.daemon;
                let found = format!(
                    "runs as process {}, version {}, {}",
                    daemon.pid,
                    daemon.version,
                    daemon.state.name()
                );
                match &daemon.paused {
                    Some(why) => {
                        self.warn("daemon", format!("{found}: {why}"), "see the other checks")
                    }
                    None => self.ok("daemon", found),
                }
                if !daemon.settings_problems.is_empty() {
                    let fix = "correct it, then `spoolbeat reload`";
                    let found = "spoolbeat.toml is not good; the former settings hold";
                    self.wrong("daemon", found.to_owned(), fix);
                }
                if !daemon.needs_restart.is_empty() {
                    let changed = daemon.needs_restart.join(", ");
                    let found =
                        format!("what changed in {changed} of spoolbeat.toml does not hold yet");
                    self.warn("daemon", found, "restart it");
                }
                return Some(*status);
            }
            Ok(_) => self.wrong(
                "daemon",
                "it answers another question".to_owned(),
                "restart it",
            ),
            Err(AskError::NoDaemon { .. }) if !held => {
                self.ok(
                    "daemon",
                    format!("none runs; `spoolbeat run {root}` starts one"),
                );
            }
            Err(AskError::NoDaemon { .. }) => {
                let found = "a process holds the lock and does not answer";
                let fix = format!(
                    "it is starting or leaving, or its socket was removed; `fuser {}` names it",
                    lock.display()
                );
                self.warn("daemon", found.to_owned(), fix);
            }
            Err(error) => self.wrong("daemon", error.to_string(), "see its log; restart it"),
        }
        None
    }

    /// The configuration, and jobs that are refused.
    fn jobs(&mut self, place: &Path) {
        let problems = check::problems(place, clock::now());
        if problems.is_empty() {
            self.ok("jobs", "spoolbeat.toml and all jobs are good".to_owned());
        }
        for problem in problems {
            self.wrong("jobs", problem.to_string(), "`spoolbeat check` shows all");
        }
    }

    /// Who may look at what is ours.
    fn rights(&mut self) {
        if let Err(why) = config::check_place(&self.root, consent::owner(&self.root)) {
            self.wrong("rights", why, "as it says");
            return;
        }
        for name in ["queue", "dead-letter"] {
            let path = self.root.join(name);
            if let Ok(item) = files::look(&path)
                && item.mode & 0o077 != 0
            {
                let found = format!(
                    "{} may be read by others (mode {:04o})",
                    path.display(),
                    item.mode
                );
                self.warn("rights", found, format!("chmod 700 {}", path.display()));
                return;
            }
        }
        self.ok(
            "rights",
            "owners and modes are as they should be".to_owned(),
        );
    }

    fn queue(
        &mut self,
        disk: &Arc<dyn Disk>,
        draft: &Draft,
        survey: &Survey,
        status: Option<&Status>,
    ) {
        let dir = self.root.join("queue");
        self.records(disk, &dir, survey);
        self.checkpoints(disk, &dir);
        for identity in inspect::identities(survey) {
            let found = identity.to_string();
            if identity.holds() {
                self.ok("accounts", found);
            } else {
                let fix = "please report this with `queue stat --json`; events themselves are not affected";
                self.wrong("accounts", found, fix);
            }
        }
        if survey.ledger.lost > 0 {
            let found = format!(
                "{} were in damaged records: what their sources counted is not known",
                count(survey.ledger.lost, "event")
            );
            self.add("accounts", Verdict::Warning, found, None);
        }
        for (output, cursor) in &survey.cursors {
            let damaged = cursor.passed.damaged;
            if damaged > 0 {
                let found = format!("{output}: {} lost by damage", count(damaged, "event"));
                self.add("outputs", Verdict::Warning, found, None);
            }
        }
        for output in &survey.unreadable_cursors {
            let found = format!("the cursor of {output} cannot be read or is gone");
            let is_configured = draft.outlets.iter().any(|outlet| outlet.name == *output);
            let fix = match is_configured || !draft.serves_jobs() {
                true => "the next start, or `spoolbeat queue repair`, makes a new one: everything is sent again that is kept; receivers know it by event.id".to_owned(),
                false => format!("it is not configured any more: configure it again, and everything is sent to it that is kept, or `spoolbeat outputs forget {output}`"),
            };
            self.wrong("cursors", found, fix);
        }
        self.quarantine(disk, &dir);
        self.outputs(disk, draft, survey, status);
        self.space(disk, &dir, draft, survey);
        self.time(survey);
    }

    fn records(&mut self, disk: &Arc<dyn Disk>, dir: &Path, survey: &Survey) {
        match verify::verify(disk, dir, survey) {
            Err(error) => {
                let fix = "see to the disk and to permissions";
                self.wrong("queue", error.to_string(), fix);
            }
            Ok(verdict) => {
                for damage in &verdict.damage {
                    let found = format!("{} at {}: {}", damage.segment, damage.offset, damage.what);
                    let fix = format!(
                        "look after the disk; `spoolbeat queue repair {}` sets this aside; its events are counted as damaged, all others are not affected",
                        self.root.display()
                    );
                    self.wrong("queue", found, fix);
                }
                if verdict.damage.is_empty() && verdict.settled > 0 {
                    let found = format!(
                        "{}; all other checksums fit",
                        count(verdict.settled, "damaged place") + " settled"
                    );
                    self.ok("queue", found);
                } else if verdict.damage.is_empty() {
                    let found = format!(
                        "{}, {}, {}: all checksums fit",
                        count(survey.segments.len() as u64, "segment"),
                        count(verdict.events, "event"),
                        show_bytes(verdict.bytes)
                    );
                    self.ok("queue", found);
                }
            }
        }
    }

    fn quarantine(&mut self, disk: &Arc<dyn Disk>, dir: &Path) {
        match quarantine::summary(&**disk, dir) {
            Err(error) => self.wrong("quarantine", error.to_string(), "see to the disk"),
            Ok(found) if found.entries > 0 => {
                let said = format!(
                    "{} of damage set aside ({})",
                    count(found.entries, "part"),
                    show_bytes(found.bytes)
                );
                let fix = format!(
                    "look after the disk; the reasons lie in {}, yours to remove",
                    dir.join(quarantine::DIR).display()
                );
                self.warn("quarantine", said, fix);
            }
            Ok(_) => self.ok("quarantine", "empty".to_owned()),
        }
    }

    fn checkpoints(&mut self, disk: &Arc<dyn Disk>, dir: &Path) {
        match inspect::checkpoints(&**disk, dir) {
            Err(error) => self.wrong("checkpoint", error.to_string(), "see to the disk"),
            Ok((0, _)) => {
                let found = "none can be read; counts begin with what is kept";
                self.warn(
                    "checkpoint",
                    found.to_owned(),
                    "the next start of the daemon writes one",
                );
            }
            Ok((readable, all)) if readable < all => {
                let found = format!("{readable} of {all} can be read, which is enough");
                self.warn(
                    "checkpoint",
                    found,
                    "the daemon replaces it; look after the disk",
                );
            }
            Ok((readable, _)) => self.ok("checkpoint", format!("{readable} can be read")),
        }
    }

    fn outputs(
        &mut self,
        disk: &Arc<dyn Disk>,
        draft: &Draft,
        survey: &Survey,
        status: Option<&Status>,
    ) {
        let dir = self.root.join("queue");
        let frozen = match draft.serves_jobs() {
            true => super::outputs::frozen(&draft.outlets, survey),
            false => Vec::new(),
        };
        for one in &frozen {
            let name = &one.output;
            let waiting = one.cursor.waiting(survey.ledger.next_seq);
            let found = format!(
                "{name} is not configured any more: it is frozen, {}{} behind, and {} for it",
                up_to(waiting),
                count(waiting, "event"),
                super::outputs::files_wait(one.files)
            );
            let fix = format!(
                "configure it again, or `spoolbeat outputs forget {name}`: files then wait for it no longer"
            );
            self.warn("outputs", found, fix);
        }
        let is_frozen = |name: &str| frozen.iter().any(|one| one.output == name);
        let configured = survey.cursors.iter().filter(|(name, _)| !is_frozen(name));
        for (output, cursor) in configured {
            let waiting = cursor.waiting(survey.ledger.next_seq);
            let written = inspect::written_at(disk, &dir, survey, cursor.at);
            let age = written.map_or(0, |at| clock::now().0 - at.0);
            let old = show_duration(std::time::Duration::from_millis(age.max(0).unsigned_abs()));
            let live =
                status.and_then(|status| status.outputs.iter().find(|one| one.name == *output));
            let found = match waiting {
                0 => format!("{output} has everything"),
                _ => format!(
                    "{output}: {}{} wait, the next for {old}",
                    up_to(waiting),
                    count(waiting, "event")
                ),
            };
            match live {
                Some(one) if one.state == "down" => {
                    let why = one.last_error.as_deref().unwrap_or("it cannot be reached");
                    let fix = way_to(draft, output);
                    self.wrong("outputs", format!("{found}; it is down: {why}"), fix);
                }
                _ if waiting > 0 && age > LAG_MAX_MS => {
                    let fix = match status {
                        Some(_) => format!(
                            "`spoolbeat status` shows its state; {}",
                            way_to(draft, output)
                        ),
                        None => {
                            format!("start the daemon: `spoolbeat run {}`", self.root.display())
                        }
                    };
                    self.warn("outputs", found, fix);
                }
                _ => self.ok("outputs", found),
            }
        }
    }

    /// Room on the file system for what the queue may still grow to.
    fn space(&mut self, disk: &Arc<dyn Disk>, dir: &Path, draft: &Draft, survey: &Survey) {
        let used: u64 = survey.segments.iter().map(|(_, bytes)| bytes).sum();
        let max = draft.root.queue.max_bytes;
        let free = match disk.room(dir) {
            Ok(room) => room.free,
            Err(error) => {
                self.wrong(
                    "space",
                    format!("{}: {error}", dir.display()),
                    "see to the disk",
                );
                return;
            }
        };
        let found = format!(
            "{} free beside a reserve of {}; the queue has {} of at most {}",
            show_bytes(free),
            show_bytes(reserve::bytes(&**disk, dir)),
            show_bytes(used),
            show_bytes(max)
        );
        if files::is_read_only(dir) {
            let found = format!("{} is on a read-only file system", dir.display());
            let fix = "`dmesg` may say why; have it checked, then `mount -o remount,rw`";
            self.wrong("space", found, fix);
        } else if free < max.saturating_sub(used) {
            let fix =
                "make room, or set a lower [queue] max_bytes: when the disk is full, jobs wait";
            self.warn("space", found, fix);
        } else {
            self.ok("space", found);
        }
    }

    fn time(&mut self, survey: &Survey) {
        let now = clock::now();
        let newest = survey.newest.unwrap_or(now);
        if now < CLOCK_MIN {
            let found = format!("the clock says {now}: it has not been set");
            self.wrong("clock", found, "set it, or see to NTP; schedules follow it");
        } else if newest.0 - now.0 > CLOCK_BACK_MAX_MS {
            let found = format!("the clock says {now}, and the queue has events of {newest}");
            self.warn(
                "clock",
                found,
                "it went back, or was wrong before; see to NTP",
            );
        } else {
            self.ok("clock", format!("{now}"));
        }
    }

    fn results(&mut self, disk: &Arc<dyn Disk>, max: u64) {
        let used = bytes_below(&**disk, &self.root.join("results"), RESULTS_DEPTH);
        let found = format!("{} of at most {}", show_bytes(used), show_bytes(max));
        if used > max {
            let fix = "a running daemon removes the oldest ones once a minute; see its log if it does not";
            self.warn("results", found, fix);
        } else {
            self.ok("results", found);
        }
    }

    fn letters(&mut self, disk: &Arc<dyn Disk>, draft: &Draft) {
        let mut none = true;
        for output in &draft.root.outputs {
            let dir = deadletter::dir(&self.root, &output.name);
            let bytes = bytes_below(&**disk, &dir, 0);
            if bytes > 0 {
                none = false;
                let name = &output.name;
                let found = format!(
                    "{} of events that {name} refuses are set aside",
                    show_bytes(bytes)
                );
                let fix = format!(
                    "each line in {} says why; `spoolbeat replay --dead-letter --output {name}` sends them again",
                    dir.display()
                );
                self.warn("dead letters", found, fix);
            }
        }
        if none {
            self.ok("dead letters", "none".to_owned());
        }
    }

    /// What the kernel lets us watch: without it jobs are found by looking every `[spool] rescan`.
    fn watches(&mut self, disk: &Arc<dyn Disk>) {
        let read = |name: &str| -> Option<u64> {
            let path = Path::new("/proc/sys/fs/inotify").join(name);
            let bytes = disk.read(&path, SYSCTL_BYTES_MAX).ok()?;
            std::str::from_utf8(&bytes).ok()?.trim().parse().ok()
        };
        let limits = [
            ("max_user_watches", WATCHES_MIN),
            ("max_user_instances", INSTANCES_MIN),
        ];
        let mut found = Vec::new();
        for (name, min) in limits {
            let Some(value) = read(name) else { continue };
            found.push(format!("{name} {value}"));
            if value < min {
                let low = format!(
                    "fs.inotify.{name} is {value}: changes are then found only every [spool] rescan"
                );
                self.warn("inotify", low, format!("sysctl fs.inotify.{name}={min}"));
            }
        }
        self.ok("inotify", found.join(", "));
    }
}

/// How a person finds out what is between us and an output.
fn way_to(draft: &Draft, output: &str) -> String {
    let mut outputs = draft.root.outputs.iter();
    match outputs.find(|one| one.name == output).map(|one| &one.kind) {
        Some(sink::Settings::Stdout) => {
            "whatever reads the daemon's standard output has ended or does not read on: see to it; with a new reader the daemon has to be started again".to_owned()
        }
        Some(sink::Settings::File(settings)) => format!(
            "`spoolbeat test output --output {output}`, as the daemon's user, tries whether {} can be written, and writes nothing",
            settings.path.display()
        ),
        Some(sink::Settings::Lumberjack(_)) | None => {
            format!("`spoolbeat test output --output {output}` tries the way to it")
        }
    }
}

/// Sizes of all files at most `depth` folders below `dir`; what cannot be looked at counts nothing.
fn bytes_below(disk: &dyn Disk, dir: &Path, depth: u32) -> u64 {
    let entries = disk.list(dir).unwrap_or_default();
    let sizes = entries.iter().map(|entry| match (entry.kind, depth) {
        (EntryKind::Folder, 0) => 0,
        (EntryKind::Folder, depth) => bytes_below(disk, &dir.join(&entry.name), depth - 1),
        _ => entry.bytes,
    });
    sizes.sum()
}
