//! `spoolbeat check`: everything that is wrong with a root and its jobs, before it is run.
//!
//! It decides as the daemon does, with the same functions. Must never change anything.

use std::fmt::Write;
use std::path::Path;
use std::path::PathBuf;
use std::process::ExitCode;

use serde::Serialize;

use super::place;
use super::queue::consent;
use super::say;
use crate::clock;
use crate::config::Draft;
use crate::config::Output;
use crate::config::Problem;
use crate::config::Root;
use crate::config::Standing;
use crate::config::check_folder;
use crate::config::check_jobs;
use crate::config::check_owners;
use crate::config::check_place;
use crate::config::draft_root;
use crate::config::find_root;
use crate::config::load_job;
use crate::config::route;
use crate::config::ssl_warnings;

use crate::event::OWN_JOB;
use crate::files;
use crate::job::Job;
use crate::job::Task;
use crate::process;
use crate::process::Cgroups;
use crate::schedule::Schedule;
use crate::sink;
use crate::units::Timestamp;
use crate::units::write_duration;

/// How many of a job's next times are shown.
const TIMES_SHOWN: usize = 5;

/// Check the configuration and all jobs; exit code 78 if something is wrong.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  spoolbeat check
  spoolbeat check /var/lib/spoolbeat --job idp-logins
  spoolbeat check --json | jq .problems")]
pub struct Args {
    /// The root directory, or its spoolbeat.toml; found as always if it is left out.
    #[arg(value_name = "ROOT")]
    place: Option<PathBuf>,
    /// Check this job only.
    #[arg(long, value_name = "JOB")]
    job: Option<String>,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

/// What was found.
#[derive(Debug, Serialize)]
struct Report {
    root: Option<PathBuf>,
    outputs: Vec<Shown>,
    jobs: Vec<Checked>,
    problems: Vec<Problem>,
    warnings: Vec<String>,
    /// Jobs that listen, with their addresses.
    #[serde(skip)]
    listeners: Vec<(String, String)>,
}

/// An output.
#[derive(Debug, Serialize)]
struct Shown {
    output: String,
    kind: &'static str,
    /// Where it leads to: hosts, a file.
    to: Vec<String>,
    required: bool,
}

impl Shown {
    fn of(output: &Output) -> Self {
        Self {
            output: output.name.clone(),
            kind: output.kind.kind(),
            to: output.kind.plan().hosts,
            required: output.required,
        }
    }
}

/// A job that is good.
#[derive(Debug, Serialize)]
struct Checked {
    job: String,
    enabled: bool,
    /// When it runs, in words.
    schedule: String,
    /// What stands before its schedule, in order.
    first: Vec<String>,
    /// The outputs that get its events.
    outputs: Vec<String>,
    /// The next times; for `every`, if it were new now. None of a disabled job.
    next: Vec<String>,
    /// The plugin that gets its results.
    #[serde(skip_serializing_if = "Option::is_none")]
    on_result: Option<String>,
}

/// Checks the root that is named, `given` (`--root`) or found, and prints what was found.
#[must_use]
pub fn run(args: &Args, given: Option<&Path>, overrides: &[String]) -> ExitCode {
    let place = match find_root(args.place.as_deref().or(given)) {
        Ok(place) => place,
        Err(message) => return say::fail(say::BAD_CONFIG, &message),
    };
    let report = check(&place, args.job.as_deref(), overrides, clock::now());
    let code = if report.problems.is_empty() {
        0
    } else {
        say::BAD_CONFIG
    };
    if !args.json {
        return say::report(&report.text(), code);
    }
    match serde_json::to_string(&report) {
        Ok(json) => say::report(&format!("{json}\n"), code),
        Err(error) => say::fail(1, &format!("the report cannot be written: {error}")),
    }
}

/// Everything that is wrong with the root at `place` and its jobs.
pub(super) fn problems(place: &Path, now: Timestamp) -> Vec<Problem> {
    check(place, None, &[], now).problems
}

fn check(place: &Path, only: Option<&str>, overrides: &[String], now: Timestamp) -> Report {
    let mut report = Report {
        root: None,
        outputs: Vec::new(),
        jobs: Vec::new(),
        problems: Vec::new(),
        warnings: Vec::new(),
        listeners: Vec::new(),
    };
    let draft = match draft_root(place, overrides) {
        Ok(draft) => draft,
        Err(problems) => {
            report.problems = problems;
            return report;
        }
    };
    report.problems.clone_from(&draft.problems);
    report.problems.extend_from_slice(&draft.root.unusable);
    report.warnings.extend(ssl_warnings(&draft.root));
    if !draft.serves_jobs() {
        let message = "the jobs were not checked: what they are checked against is not good";
        report.warnings.push(message.to_owned());
        return report;
    }
    let root = &draft.root;
    report.root = Some(root.dir.clone());
    report.outputs = root.outputs.iter().map(Shown::of).collect();
    report.problems.extend(misplaced(root));
    if draft.outlets.iter().all(|outlet| !outlet.required) {
        let message =
            "no output is required: when the queue is full, each gives up its oldest events";
        report.warnings.push(message.to_owned());
    }
    if route(&draft.outlets, OWN_JOB).outputs().is_empty() {
        let message = format!(
            "no output takes the tag `{OWN_JOB}`: the daemon's own events, like heartbeats, go nowhere"
        );
        report.warnings.push(message);
    }
    let jobs = root.dir.join("jobs");
    // Only root can look at things as that user.
    let daemon = match process::own_uid() {
        0 => consent::owner(&root.dir),
        own => own,
    };
    let names = check_place(&root.dir, daemon)
        .and_then(|()| check_jobs(&jobs, daemon))
        .and_then(|_| {
            files::names(&jobs)
                .map_err(|error| format!("{} cannot be read: {error}", jobs.display()))
        });
    match (names, only) {
        (Err(message), _) => report.whole(message),
        (Ok(names), Some(name)) if !names.iter().any(|known| known == name) => {
            let message = format!("there is no job `{name}` in {}", jobs.display());
            report.whole(message);
        }
        (Ok(_), Some(name)) => report.job(&draft, &jobs, name, daemon, now),
        (Ok(names), None) => {
            for name in names {
                let beside = files::look(&jobs.join(&name)).is_ok_and(|item| {
                    matches!(item.kind, files::Kind::File | files::Kind::Special)
                });
                if !beside && !files::is_passing(&name) {
                    report.job(&draft, &jobs, &name, daemon, now);
                }
            }
        }
    }
    report
}

/// Outputs whose files cannot be where they are to be.
fn misplaced(root: &Root) -> Vec<Problem> {
    let file = root.dir.join("spoolbeat.toml");
    let found = root.outputs.iter().filter_map(|output| {
        let sink::Settings::File(settings) = &output.kind else {
            return None;
        };
        let message = place::misplaced(&settings.path)?;
        Some(Problem {
            key: format!("output.{}.path", output.name),
            ..Problem::of_file(file.display().to_string(), message)
        })
    });
    found.collect()
}

impl Report {
    fn whole(&mut self, message: String) {
        self.problems
            .push(Problem::of_file("jobs".to_owned(), message));
    }

    fn job(&mut self, draft: &Draft, jobs: &Path, name: &str, daemon: u32, now: Timestamp) {
        let folder = jobs.join(name);
        let (tree, mut problems) = match check_folder(name, &folder, daemon) {
            Ok(tree) => (Some(tree), Vec::new()),
            Err(problems) => (None, problems),
        };
        let standing = Standing {
            owner: files::look(&folder).map_or(daemon, |item| item.uid),
            daemon,
            grants: draft.root.grants.clone(),
        };
        let Draft { root, outlets, .. } = draft;
        let defaults = root.defaults.clone().with_plugins(&root.dir, daemon);
        let defaults = defaults.with_listeners(&self.listeners);
        let checked = load_job(name, &folder, "", &standing, &defaults, outlets);
        if let (Some(tree), Ok(job)) = (&tree, &checked) {
            problems = check_owners(name, tree, &job.rights.user, daemon);
        }
        if let Ok(job) = &checked
            && let Some(how) = job.receive.as_ref().filter(|_| job.enabled)
        {
            let listens = (job.name.clone(), how.listen.clone());
            self.listeners.push(listens);
        }
        // The text is checked also where an owner or a mode is wrong: all problems at once.
        match checked {
            Ok(job) if problems.is_empty() => self.good(&job, now),
            Ok(_) => {}
            Err(more) => {
                for problem in more {
                    // What is wrong in [defaults] is wrong in each job, and reported already.
                    if !problems.contains(&problem) && !self.has_at(&problem) {
                        problems.push(problem);
                    }
                }
            }
        }
        self.problems.extend(problems);
    }

    /// Whether a problem at the same place has been reported.
    fn has_at(&self, problem: &Problem) -> bool {
        let place = |of: &Problem| (of.file.clone(), of.line, of.column);
        self.problems
            .iter()
            .any(|known| place(known) == place(problem))
    }

    fn good(&mut self, job: &Job, now: Timestamp) {
        let (when, next) = match &job.task {
            Some(task) => self.task(job, task, now),
            None => (self.standing(job, now), Vec::new()),
        };
        self.jobs.push(Checked {
            job: job.name.clone(),
            enabled: job.enabled,
            schedule: when,
            first: job.task.as_deref().map(before).unwrap_or_default(),
            outputs: job.route.outputs().to_vec(),
            next: match job.enabled {
                true => next.iter().map(ToString::to_string).collect(),
                false => Vec::new(),
            },
            on_result: job.on_result.as_ref().map(|told| told.plugin.clone()),
        });
    }

    /// What a job without a schedule does.
    fn standing(&mut self, job: &Job, now: Timestamp) -> String {
        let mut does = Vec::new();
        if let Some(how) = &job.receive {
            let found = how.warnings(now).into_iter();
            let of_job = found.map(|one| format!("jobs/{}: {one}", job.name));
            self.warnings.extend(of_job);
            does.push(format!("listens for Beats on {}", how.listen));
        }
        let paths = job.files.iter().flat_map(|files| &files.paths);
        let paths: Vec<&str> = paths.map(String::as_str).collect();
        if !paths.is_empty() {
            does.push(format!("reads {}", paths.join(", ")));
        }
        does.join(", ")
    }

    fn task(&mut self, job: &Job, task: &Task, now: Timestamp) -> (String, Vec<Timestamp>) {
        let path = std::env::var_os("PATH").unwrap_or_default();
        if let Some((program, _)) = task.script.language.interpreter()
            && files::find_program(program, &path).is_none()
        {
            self.warnings.push(format!(
                "jobs/{}: {program} is not on this PATH; runs will fail until it is installed",
                job.name
            ));
        }
        let can = Cgroups::find("check").map_or_else(Default::default, |groups| groups.can());
        for why in can.lacks(&job.rights.limits, job.rights.user.uid) {
            self.warnings.push(format!(
                "jobs/{}: {why} for what is started from here",
                job.name
            ));
        }
        let script = &task.script;
        let installer = script.language.installer();
        let unpinned = |entry: &&String| installer.is_some_and(|one| !one.is_pinned(entry));
        for entry in script.modules.iter().filter(unpinned) {
            self.warnings.push(format!(
                "jobs/{}: modules: `{entry}` names no version, so each installation may be another one; write {entry}==1.2.3",
                job.name
            ));
        }
        let (schedule, next) = times(&task.schedule, now);
        if matches!(task.schedule, Schedule::Cron(_)) && next.is_empty() {
            self.warnings.push(format!(
                "jobs/{}: its cron expression names no time that ever comes",
                job.name
            ));
        }
        (schedule, next)
    }

    fn text(&self) -> String {
        let mut text = String::new();
        // With one output there is nothing to tell apart.
        let several = self.outputs.len() > 1;
        for output in self.outputs.iter().filter(|_| several) {
            let held = if output.required {
                ""
            } else {
                ", not required"
            };
            let to = output.to.join(", ");
            line(
                &mut text,
                &format!("output {}: {}, {to}{held}", output.output, output.kind),
            );
        }
        for job in &self.jobs {
            let off = if job.enabled { "" } else { " (disabled)" };
            let to = match several {
                true => format!(", to {}", job.outputs.join(", ")),
                false => String::new(),
            };
            line(
                &mut text,
                &format!("{}: ok{off}, {}{to}", job.job, job.schedule),
            );
            for step in &job.first {
                line(&mut text, &format!("    first {step}"));
            }
            for time in &job.next {
                line(&mut text, &format!("    {time}"));
            }
            if let Some(plugin) = &job.on_result {
                line(&mut text, &format!("    results go to plugins/{plugin}"));
            }
        }
        for warning in &self.warnings {
            line(&mut text, &format!("warning: {warning}"));
        }
        for problem in &self.problems {
            line(&mut text, &problem.to_string());
        }
        let counts = [
            count(self.jobs.len(), "good job"),
            count(self.warnings.len(), "warning"),
            count(self.problems.len(), "problem"),
        ];
        line(&mut text, &counts.join(", "));
        text
    }
}

/// What is done before a job's schedule begins, in words.
fn before(task: &Task) -> Vec<String> {
    let modules = &task.script.modules;
    let modules = (!modules.is_empty()).then(|| format!("modules {}", modules.join(", ")));
    let first_run = task.first_run.as_ref();
    let first_run =
        first_run.map(|step| format!("first_run {}, until it has succeeded once", step.run));
    let startup = task.startup.as_ref();
    let startup = startup.map(|step| {
        format!(
            "startup {}, at each start of the daemon and after each edit",
            step.run
        )
    });
    modules
        .into_iter()
        .chain(first_run)
        .chain(startup)
        .collect()
}

/// A schedule in words.
pub(super) fn words(schedule: &Schedule) -> String {
    times(schedule, Timestamp(0)).0
}

/// When a schedule is due: words, and the next times where they are known beforehand.
fn times(schedule: &Schedule, now: Timestamp) -> (String, Vec<Timestamp>) {
    match schedule {
        Schedule::Cron(cron) => {
            let next = std::iter::successors(cron.next_after(now), |at| cron.next_after(*at));
            let words = format!("cron {cron} in {}", cron.timezone());
            (words, next.take(TIMES_SHOWN).collect())
        }
        Schedule::Every(period) => {
            let next = std::iter::successors(Some(now), |at| Some(at.after(*period)));
            let words = format!("every {}, at once when new", write_duration(*period));
            (words, next.take(TIMES_SHOWN).collect())
        }
        Schedule::EveryAfter(pause) => (
            format!(
                "{} after each end, at once when new",
                write_duration(*pause)
            ),
            Vec::new(),
        ),
        Schedule::Once => ("once per edit".to_owned(), Vec::new()),
        Schedule::KeepRunning => ("always running".to_owned(), Vec::new()),
    }
}

/// Adds a line. Names of files, keys and paths are those of the jobs' owners.
fn line(text: &mut String, line: &str) {
    writeln!(text, "{}", say::shown(line, usize::MAX)).expect("a String takes everything");
}

fn count(number: usize, what: &str) -> String {
    let s = if number == 1 { "" } else { "s" };
    format!("{number} {what}{s}")
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::*;

    const GOOD: &str = "[script]\nrun = 'a.sh'\n[schedule]\nevery = '30s'\n";

    fn root(jobs: &[(&str, &str)]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        let toml = "[output.lumberjack]\nhosts = ['h']\n";
        files::make_file(&dir.path().join("spoolbeat.toml"), toml, 0o644).unwrap();
        for (name, text) in jobs {
            let folder = dir.path().join("jobs").join(name);
            std::fs::create_dir_all(&folder).unwrap();
            files::make_file(&folder.join("a.sh"), "", 0o644).unwrap();
            files::make_file(&folder.join("job.toml"), text, 0o644).unwrap();
        }
        dir
    }

    fn report(dir: &tempfile::TempDir, only: Option<&str>) -> Report {
        check(dir.path(), only, &[], Timestamp(1_763_712_488_123))
    }

    #[test]
    fn nothing_that_a_job_is_made_of_turns_the_terminal() {
        let dir = root(&[
            ("paths", "[[files]]\npaths = [\"/a\\u001b[2J\"]\n"),
            ("key", &GOOD.replace("run", "\"\\u001b[2Jrun\"")),
            ("name", GOOD),
        ]);
        let odd = dir.path().join("jobs/name/\u{1b}[2J\nforged: ok");
        files::make_file(&odd, "", 0o666).unwrap();
        std::fs::set_permissions(&odd, std::os::unix::fs::PermissionsExt::from_mode(0o666))
            .unwrap();
        let text = report(&dir, None).text();
        assert_eq!(text.matches("\\u{1b}[2J").count(), 4, "{text}");
        assert!(
            text.lines().all(|line| !line.contains(char::is_control)),
            "{text}"
        );
        assert!(!text.lines().any(|line| line == "forged: ok"), "{text}");
    }

    #[test]
    fn all_problems_of_all_jobs_and_the_next_times_are_shown() {
        let bad = GOOD.replace("30s", "30");
        let dir = root(&[
            ("bad", &bad),
            ("good", GOOD),
            (".hidden", &bad),
            ("worse", "x = 1"),
        ]);
        let found = report(&dir, None);
        let text = found.text();
        assert!(text.starts_with("good: ok, every 30s, at once when new\n    2025-11-21T08:08:08.123Z\n    2025-11-21T08:08:38.123Z\n"), "{text}");
        assert!(
            text.contains("\njobs/bad/job.toml:4:9: schedule.every: `30` is not a duration"),
            "{text}"
        );
        assert!(
            text.ends_with("1 good job, 0 warnings, 4 problems\n"),
            "{text}"
        );
        assert_eq!(found.jobs[0].next.len(), TIMES_SHOWN);
        assert_eq!(report(&dir, Some("good")).problems, []);
        assert_eq!(report(&dir, Some("none")).problems.len(), 1);
    }

    #[test]
    fn a_schedule_is_shown_as_it_was_written_and_a_disabled_job_has_no_times() {
        let cron = GOOD.replace(
            "every = '30s'",
            "cron = '0 6 * * 1'\ntimezone = 'Asia/Tokyo'",
        );
        let off = format!("enabled = false\n{GOOD}").replace("30s", "1m30s");
        let found = report(&root(&[("cron", &cron), ("off", &off)]), None);
        let text = found.text();
        assert!(
            text.starts_with(
                "cron: ok, cron 0 6 * * 1 in Asia/Tokyo\n    2025-11-23T21:00:00.000Z\n"
            ),
            "{text}"
        );
        assert!(
            text.contains("\noff: ok (disabled), every 1m30s, at once when new\n2 good jobs"),
            "{text}"
        );
    }

    #[test]
    fn a_missing_interpreter_is_a_warning() {
        let dir = root(&[(
            "ps",
            &GOOD.replace("[schedule]", "language = 'powershell'\n[schedule]"),
        )]);
        let found = report(&dir, None);
        assert_eq!(found.problems, []);
        let missing = files::find_program("pwsh", &std::env::var_os("PATH").unwrap()).is_none();
        assert_eq!(found.warnings.len(), usize::from(missing));
    }

    #[test]
    fn problems_of_the_root_and_of_its_jobs_are_shown_at_once() {
        let bad = GOOD.replace("every", "evry");
        let to = format!("{GOOD}[output]\nto = ['second']\n");
        let dir = root(&[("bad", &bad), ("to", &to)]);
        let toml =
            "[output.second]\nkind = 'lumberjack'\n[log]\nlevel = 'loud'\n[defaults]\ntags = 1\n";
        std::fs::write(dir.path().join("spoolbeat.toml"), toml).unwrap();
        let text = report(&dir, None).text();
        for wanted in [
            "output.second.hosts: is missing",
            "log.level: `loud`",
            "defaults.tags: ",
            "jobs/bad/job.toml:4:1: schedule.evry: unknown key",
        ] {
            assert!(text.contains(wanted), "{wanted}: {text}");
        }
        assert!(text.ends_with(" 0 warnings, 5 problems\n"), "{text}");
        std::fs::write(dir.path().join("spoolbeat.toml"), "[output\n").unwrap();
        let text = report(&dir, None).text();
        assert!(
            text.contains("warning: the jobs were not checked"),
            "{text}"
        );
    }

    #[test]
    fn a_root_without_jobs_and_a_bad_root_are_problems() {
        let found = report(&root(&[]), None);
        assert_eq!(found.problems.len(), 1, "{found:?}");
        let dir = root(&[("good", GOOD)]);
        std::fs::write(dir.path().join("spoolbeat.toml"), "x = 1").unwrap();
        let found = report(&dir, None);
        assert_eq!(
            (found.problems.len(), found.jobs.len()),
            (2, 0),
            "{found:?}"
        );
    }
}
