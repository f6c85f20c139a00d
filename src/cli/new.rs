//! `spoolbeat new`: a job to begin with.
//!
//! The folder appears whole, by rename, so that a running daemon never sees half of it. Must
//! never change a job that is there.

use std::io;
use std::path::Path;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::ValueEnum;
use clap::builder::PossibleValue;

use super::say;
use crate::config::JOB_FILE;
use crate::config::check_name;
use crate::config::find_root;
use crate::config::load_root;
use crate::disk::Disk;
use crate::files;
use crate::job::Language;

/// Cannot make a file: `EX_CANTCREAT` of sysexits(3).
const CANNOT_MAKE: u8 = 73;

/// Make a job: a folder with job.toml and a script to begin with.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  spoolbeat new hello
  spoolbeat new idp-logins --language python --root /var/lib/spoolbeat")]
pub struct Args {
    /// Name of the job: letters, digits, `.`, `_` and `-`.
    job: String,
    /// What the script is written in.
    #[arg(long, short, value_enum, default_value = "bash")]
    language: Choice,
}

/// A language on the command line.
#[derive(Debug, Clone, Copy)]
struct Choice(&'static str, Language);

impl ValueEnum for Choice {
    fn value_variants<'a>() -> &'a [Self] {
        const ALL: [Choice; 8] = {
            let mut all = [Choice("", Language::Exec); 8];
            let mut at = 0;
            while at < 8 {
                all[at] = Choice(Language::NAMES[at].0, Language::NAMES[at].1);
                at += 1;
            }
            all
        };
        &ALL
    }

    fn to_possible_value(&self) -> Option<PossibleValue> {
        Some(PossibleValue::new(self.0))
    }
}

/// Makes the job in the root that is `given` or found.
#[must_use]
pub fn run(args: &Args, given: Option<&Path>, disk: &dyn Disk) -> ExitCode {
    if let Err(message) = check_name(&args.job) {
        return say::fail(CANNOT_MAKE, &message);
    }
    let root = match find_root(given) {
        Ok(place) => match load_root(&place, &[]) {
            Ok(root) => root,
            Err(problems) => return say::fail_config(&problems),
        },
        Err(message) => return say::fail(say::BAD_CONFIG, &message),
    };
    let jobs = root.dir.join("jobs");
    match make(&jobs, &args.job, args.language, disk) {
        Ok(folder) => say::report(&format!("made {}\n", folder.display()), 0),
        Err(error) => say::fail(
            CANNOT_MAKE,
            &format!("{} cannot be made: {error}", jobs.join(&args.job).display()),
        ),
    }
}

fn make(jobs: &Path, job: &str, language: Choice, disk: &dyn Disk) -> io::Result<PathBuf> {
    make_folder(jobs, job, disk, |folder| {
        let (script, text) = skeleton(language.1);
        files::make_file(&folder.join(script), text, 0o755)?;
        let toml = toml(script, language.0);
        files::make_file(&folder.join(JOB_FILE), &toml, 0o644)
    })
}

/// Makes the folder of a job whole, with what `fill` puts into it.
pub(super) fn make_folder(
    jobs: &Path,
    job: &str,
    disk: &dyn Disk,
    fill: impl FnOnce(&Path) -> io::Result<()>,
) -> io::Result<PathBuf> {
    let folder = jobs.join(job);
    if files::look(&folder).is_ok() {
        return Err(io::Error::new(
            io::ErrorKind::AlreadyExists,
            "it is there already",
        ));
    }
    disk.make_dir(jobs)?;
    let unfinished = tempfile::Builder::new()
        .prefix(".new-")
        .permissions(std::os::unix::fs::PermissionsExt::from_mode(0o755))
        .tempdir_in(jobs)?;
    fill(unfinished.path())?;
    disk.rename(unfinished.path(), &folder)?;
    // It bears another name now: there is nothing to clean up.
    drop(unfinished.keep());
    Ok(folder)
}

fn toml(script: &str, language: &str) -> String {
    format!(
        r#"description = ""
# enabled = true
# tags = ["example"]
# fields = {{ team = "soc" }}            # added to each event under `fields`

[script]
run = "{script}"
language = "{language}"
# args = ["--since", "${{SPOOLBEAT_LAST_SUCCESS_AT}}"]
# env = {{ API_URL = "https://example.org" }}
# pass_env = ["HTTPS_PROXY"]           # the environment is otherwise clean
# timeout = "1h"
# kill_grace = "10s"
# cwd = "job"                          # or "state"

[schedule]                             # exactly one of:
every = "1m"
# every_after = "1m"                   # this long after the last run ended
# cron = "*/5 * * * *"
# once = true
# keep_running = true
# timezone = "Europe/Berlin"           # with cron
# jitter = "10s"                       # with cron and every, like the next two
# overlap = "skip"                     # or queue, kill_old, {{ parallel = 4 }}
# missed = "once"                      # or skip, {{ all = 5 }}
# restart = {{ max = 5, backoff = "10s" }}
# on_pressure = "pause"                # or stretch
# expect_every = "1h"                  # an event when it has not succeeded for this long

# [capture.stdout]
# to = ["events"]                      # any of events, log
# format = "text"                      # or json: one object a line
# max_event = "1MiB"

# [results]
# keep = {{ runs = 50, age = "30d", bytes = "100MiB" }}
# on_result = "webhook"                # an executable in plugins/ that gets each result
"#
    )
}

/// File name and text of a first script. Each line that it prints is an event; an exit code
/// other than 0 makes the run a failed one.
const fn skeleton(language: Language) -> (&'static str, &'static str) {
    match language {
        Language::Python => ("main.py", include_str!("skeletons/python.py")),
        Language::Bash => ("main.sh", include_str!("skeletons/bash.sh")),
        Language::Sh => ("main.sh", include_str!("skeletons/sh.sh")),
        Language::Powershell => ("main.ps1", include_str!("skeletons/powershell.ps1")),
        Language::Node => ("main.js", include_str!("skeletons/node.js")),
        Language::Perl => ("main.pl", include_str!("skeletons/perl.pl")),
        Language::Ruby => ("main.rb", include_str!("skeletons/ruby.rb")),
        Language::Exec => ("main", include_str!("skeletons/exec.sh")),
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use crate::config::Defaults;
    use crate::config::Grants;
    use crate::config::Standing;
    use crate::config::check_folder;
    use crate::config::load_job;
    use crate::disk::OsDisk;
    use crate::process;

    #[test]
    fn each_language_makes_a_job_that_is_good() {
        let dir = tempfile::tempdir().unwrap();
        let jobs = dir.path().join("jobs");
        for choice in Choice::value_variants() {
            let folder = make(&jobs, choice.0, *choice, &OsDisk).unwrap();
            check_folder(choice.0, &folder, process::own_uid()).unwrap();
            let outlets = [crate::config::Outlet::to("lumberjack")];
            let standing = Standing {
                owner: process::own_uid(),
                daemon: process::own_uid(),
                grants: Grants::default(),
            };
            let job = load_job(
                choice.0,
                &folder,
                "0",
                &standing,
                &Defaults::none(),
                &outlets,
            )
            .unwrap();
            assert_eq!(job.task.as_ref().unwrap().script.language, choice.1);
        }
        assert_eq!(
            files::names(&jobs).unwrap().len(),
            8,
            "nothing is left over"
        );
    }

    #[test]
    fn no_job_is_overwritten() {
        let dir = tempfile::tempdir().unwrap();
        let choice = Choice("bash", Language::Bash);
        make(dir.path(), "a", choice, &OsDisk).unwrap();
        let error = make(dir.path(), "a", choice, &OsDisk).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(files::names(dir.path()).unwrap(), ["a"]);
    }
}
