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

use super::new;
use super::say;
use crate::config::JOB_FILE;
use crate::config::check_name;
use crate::config::find_root;
use crate::config::load_root;
use crate::disk::Disk;
use crate::files;

mod draft;
mod execbeat;
mod scriptablebeat;
mod telegraf;
mod yaml;

use draft::Draft;

/// Input cannot be used: `EX_DATAERR` of sysexits(3).
const BAD_INPUT: u8 = 65;

/// Cannot make a file: `EX_CANTCREAT` of sysexits(3).
const CANNOT_MAKE: u8 = 73;

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
    let text = match disk.read(&args.file, INPUT_BYTES_MAX) {
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
    if args.dry_run {
        return say::report(&report(&imported, None), 0);
    }
    let jobs = match find_root(args.into.as_deref().or(given)) {
        Ok(place) => match load_root(&place, &[]) {
            Ok(root) => root.dir.join("jobs"),
            Err(problems) => return say::fail_config(&problems),
        },
        Err(message) => return say::fail(say::BAD_CONFIG, &message),
    };
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
    say::report(&report(&imported, Some(&jobs)), 0)
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
    let yaml = yaml::parse(text)?;
    if yaml.get("scriptablebeat").is_some() {
        scriptablebeat::import(&yaml)
    } else if yaml.get("execbeat").is_some() || yaml.get("execbeat.commands").is_some() {
        execbeat::import(&yaml)
    } else {
        Err(what.to_owned())
    }
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
            out.push_str(&format!("  note: {line}\n"));
        }
    }
    for line in &imported.left_out {
        out.push_str(&format!("note: {line}\n"));
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
