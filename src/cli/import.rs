//! `spoolbeat import`: job folders that do what another program's configuration says.
//!
//! Each kind of configuration has a file of its own, which turns values into `Draft`s and says
//! what could not be carried over. Folders appear whole, by rename. Must never change a job or a
//! configuration that is there, and never run anything.

use std::io;
use std::path::Path;
use std::path::PathBuf;
use std::process::ExitCode;

use serde_json::Value;

use super::check;
use super::new;
use super::say;
use crate::clock;
use crate::config::JOB_FILE;
use crate::config::Problem;
use crate::config::check_name;
use crate::config::draft_root;
use crate::config::find_root;
use crate::config::load_root;
use crate::disk::Disk;
use crate::files;

mod draft;
mod execbeat;
mod keys;
mod logstash;
mod scriptablebeat;
mod telegraf;
mod yaml;

use draft::Draft;

/// Input cannot be used: `EX_DATAERR` of sysexits(3).
const BAD_INPUT: u8 = 65;

/// Cannot make a file: `EX_CANTCREAT` of sysexits(3).
const CANNOT_MAKE: u8 = 73;

/// A root that takes any job.
const ANY_ROOT: &str = "[output.stdout]\n";

/// Longest configuration that is read: far beyond what a person writes.
const INPUT_BYTES_MAX: u64 = 1 << 20;

/// Make jobs that do what a Scriptable Beat, execbeat or Telegraf configuration says.
///
/// Which of the three it is, its content says. Says what could not be carried over, and what
/// belongs into spoolbeat.toml. Jobs that are there are never changed.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  spoolbeat import /beats/scriptablebeat/config/scriptablebeat.yml --into /srv/spool
  spoolbeat import /etc/execbeat/execbeat.yml --name disk --root /srv/spool
  spoolbeat import /etc/telegraf/telegraf.conf --dry-run")]
pub struct Args {
    /// scriptablebeat.yml, execbeat.yml, or a Telegraf configuration with [[inputs.exec]]
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// The root directory to make the jobs in
    #[arg(long, value_name = "ROOT")]
    into: Option<PathBuf>,
    /// Name of the job; further ones get -2, -3, ... Default: what the file suggests
    #[arg(long, value_name = "JOB")]
    name: Option<String>,
    /// Print what would be made, and make nothing
    #[arg(long)]
    dry_run: bool,
}

/// What a configuration comes to.
#[derive(Debug, Default)]
struct Import {
    /// What wrote it.
    program: &'static str,
    jobs: Vec<Draft>,
    /// What belongs into spoolbeat.toml.
    root: String,
    /// What concerns no single job and could not be carried over.
    left_out: Vec<String>,
}

/// Makes the jobs in the root that is named, `given` or found.
#[must_use]
pub fn run(args: &Args, given: Option<&Path>, disk: &dyn Disk) -> ExitCode {
    let shown = args.file.display();
    let text = match files::read_named(&args.file, INPUT_BYTES_MAX) {
        Ok(bytes) => bytes,
        Err(error) => return say::fail(say::CANNOT_READ, &format!("{shown}: {error}")),
    };
    let imported = String::from_utf8(text)
        .map_err(|_| "it is not UTF-8".to_owned())
        .and_then(|text| import(&text));
    let mut imported = match imported {
        Ok(imported) => imported,
        Err(why) => return say::fail(BAD_INPUT, &format!("{shown}: {why}")),
    };
    if let Err(why) = name_jobs(&mut imported.jobs, args.name.as_deref()) {
        return say::fail(BAD_INPUT, &why);
    }
    if let Err(error) = check_aside(&mut imported, args.dry_run, disk) {
        let line = format!("whether `spoolbeat check` takes all this could not be seen: {error}");
        imported.left_out.push(line);
    }
    if args.dry_run {
        return say::report(&report(&imported, None), 0);
    }
    let dir = match find_root(args.into.as_deref().or(given)) {
        Ok(place) => match load_root(&place, &[]) {
            Ok(root) => root.dir,
            Err(problems) => return say::fail_config(&problems),
        },
        Err(message) => return say::fail(say::BAD_CONFIG, &message),
    };
    let jobs = dir.join("jobs");
    // All or nothing, as far as it can be known before.
    for job in &imported.jobs {
        let folder = jobs.join(&job.name);
        if files::look(&folder).is_ok() {
            let message = format!(
                "{} is there already and is not changed; choose another name, like --name {}-new",
                folder.display(),
                job.name
            );
            return say::fail(CANNOT_MAKE, &message);
        }
    }
    for job in &imported.jobs {
        if let Err(error) = make(&jobs, job, disk) {
            let folder = jobs.join(&job.name);
            let message = format!("{} cannot be made: {error}", folder.display());
            return say::fail(CANNOT_MAKE, &message);
        }
    }
    note_refused(&mut imported.jobs, &dir);
    say::report(&report(&imported, Some(&jobs)), 0)
}

/// Notes what is wrong with what belongs into spoolbeat.toml, and with jobs that are not made.
fn check_aside(imported: &mut Import, with_jobs: bool, disk: &dyn Disk) -> io::Result<()> {
    let aside = tempfile::tempdir()?;
    let toml = aside.path().join("spoolbeat.toml");
    if !imported.root.is_empty() {
        files::make_file(&toml, &imported.root, 0o600)?;
        let problems = match draft_root(aside.path(), &[]) {
            Ok(draft) => draft.problems,
            Err(problems) => problems,
        };
        let lines = problems.into_iter().map(|problem| {
            let Problem { key, message, .. } = problem;
            format!("what belongs into spoolbeat.toml has to be mended: {key}: {message}")
        });
        imported.left_out.extend(lines);
    }
    if with_jobs {
        let root = aside.path().join("root");
        disk.make_dir(&root)?;
        files::make_file(&root.join("spoolbeat.toml"), ANY_ROOT, 0o600)?;
        for job in &imported.jobs {
            make(&root.join("jobs"), job, disk)?;
        }
        note_refused(&mut imported.jobs, &root);
    }
    Ok(())
}

/// Notes what `spoolbeat check` says against jobs in this root.
fn note_refused(jobs: &mut [Draft], root: &Path) {
    let problems = check::problems(root, clock::now());
    for job in jobs {
        let folder = format!("jobs/{}", job.name);
        let of_job = |problem: &&Problem| {
            let rest = problem.file.strip_prefix(&folder);
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        };
        let lines = problems.iter().filter(of_job);
        let lines =
            lines.map(|problem| format!("it does not load before this is mended: {problem}"));
        job.left_out.extend(lines);
    }
}

/// What a configuration's text comes to.
fn import(text: &str) -> Result<Import, String> {
    let mut imported = import_known(text)?;
    imported.left_out.push(
        "the environment: scripts had all of it, and have now what env, pass_env and secrets name"
            .to_owned(),
    );
    if text.contains("${") && imported.program != scriptablebeat::PROGRAM {
        imported.left_out.push(
            "${...} stands for itself, and was filled in from the environment before".to_owned(),
        );
    }
    Ok(imported)
}

fn import_known(text: &str) -> Result<Import, String> {
    let what = "no [[inputs.exec]], no `scriptablebeat:` and no `execbeat:` in it";
    if let Ok(toml) = toml::from_str::<Value>(text) {
        return match toml.pointer("/inputs/exec") {
            Some(_) => telegraf::import(&toml),
            None => Err(what.to_owned()),
        };
    }
    let mut twice = Vec::new();
    let yaml = keys::nested(yaml::parse(text)?, "", &mut twice);
    let mut imported = if yaml.get("scriptablebeat").is_some() {
        scriptablebeat::import(&yaml)
    } else if yaml.get("execbeat").is_some() {
        execbeat::import(&yaml)
    } else {
        Err(what.to_owned())
    }?;
    let twice = twice.iter().map(|key| {
        format!("{key} is written twice, with dots and without; the one without is taken")
    });
    imported.left_out.extend(twice);
    Ok(imported)
}

/// Gives each job a name of its own.
fn name_jobs(jobs: &mut [Draft], wanted: Option<&str>) -> Result<(), String> {
    if let Some(name) = wanted {
        check_name(name)?;
    }
    let mut used = Vec::new();
    for job in jobs {
        let base = wanted.map_or_else(|| draft::name_of(&job.name), str::to_owned);
        let mut names =
            std::iter::once(base.clone()).chain((2_u32..).map(|number| format!("{base}-{number}")));
        job.name = names
            .find(|name| !used.contains(name))
            .unwrap_or_else(|| base.clone());
        used.push(job.name.clone());
    }
    Ok(())
}

fn make(jobs: &Path, job: &Draft, disk: &dyn Disk) -> io::Result<()> {
    new::make_folder(jobs, &job.name, disk, |folder| {
        for (name, text) in &job.files {
            files::make_file(&folder.join(name), text, 0o755)?;
        }
        files::make_file(&folder.join(JOB_FILE), &job.toml, 0o644)
    })
    .map(drop)
}

/// What was made or would be, what is to be done by hand, what is lost.
fn report(imported: &Import, jobs: Option<&Path>) -> String {
    let mut out = format!("{}:\n", imported.program);
    for job in &imported.jobs {
        match jobs {
            Some(jobs) => {
                out.push_str(&format!("made {}\n", jobs.join(&job.name).display()));
            }
            None => {
                out.push_str(&format!("would make jobs/{}\n", job.name));
                out.push_str(&indented(&format!("# job.toml\n{}", job.toml)));
                for (name, text) in &job.files {
                    out.push_str(&indented(&format!("# {name}\n{text}")));
                }
            }
        }
        for line in &job.left_out {
            out.push_str(&format!("  note: {}\n", say::shown(line, usize::MAX)));
        }
    }
    for line in &imported.left_out {
        out.push_str(&format!("note: {}\n", say::shown(line, usize::MAX)));
    }
    if !imported.root.is_empty() {
        out.push_str("belongs into spoolbeat.toml, which is not changed:\n");
        out.push_str(&indented(&imported.root));
    }
    if let Some(jobs) = jobs {
        let root = jobs.parent().unwrap_or(jobs).display();
        out.push_str(&format!("next: spoolbeat check {root}\n"));
    }
    out
}

fn indented(text: &str) -> String {
    text.lines().map(|line| format!("    {line}\n")).collect()
}

#[cfg(test)]
mod tests;
