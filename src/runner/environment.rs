//! What a script is started with: program, arguments, environment, working directory.
//!
//! Pure: a run's facts in, a command out. The environment is clean: what is not written here or
//! in the job does not reach the script. Must never start anything or look at files.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::ffi::OsString;
use std::path::Path;
use std::path::PathBuf;

use crate::job::Cwd;
use crate::job::Language;
use crate::job::SecretSource;
use crate::modules;
use crate::process::Command;
use crate::process::Secret;
use crate::process::SecretFrom;
use crate::run::Phase;
use crate::runner::Spec;
use crate::units::Timestamp;

/// Where programs are looked up when the daemon itself has no PATH.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Begins a reference to one of a run's own variables in `args` and `env`.
const REFERENCE: &str = "${SPOOLBEAT_";

/// Where systemd puts the credentials of a service, by systemd.exec(5).
const CREDENTIALS: &str = "CREDENTIALS_DIRECTORY";

/// What a run is started with beside its own facts.
#[derive(Debug, Clone, Copy)]
pub(super) struct Surroundings<'a> {
    /// Our own executable.
    pub(super) exe: &'a Path,
    /// Where its results are.
    pub(super) result_dir: Option<&'a Path>,
    /// The job's own folder for environments of modules.
    pub(super) venvs: &'a Path,
    /// The one of them that is in use.
    pub(super) venv: Option<&'a Path>,
    /// The daemon's own environment.
    pub(super) daemon: &'a BTreeMap<OsString, OsString>,
}

/// The command of a run that starts at `started_at`.
///
/// # Errors
/// In words: a secret is not where it should be.
pub(super) fn command(
    spec: &Spec,
    started_at: Timestamp,
    around: Surroundings<'_>,
) -> Result<Command, String> {
    let script = &spec.task.script;
    let own = own_variables(spec, started_at, around.result_dir);
    let (program, args) = match (spec.trigger.phase(), script.language.installer()) {
        (Phase::Modules, Some(installer)) => (
            around.exe.into(),
            modules::arguments(installer, around.venvs, &spec.job.folder, &script.modules),
        ),
        _ => program(spec, &own, around.venv),
    };
    Ok(Command {
        args,
        cwd: match script.cwd {
            Cwd::Job => spec.job.folder.clone(),
            Cwd::State => spec.state_dir.clone(),
        },
        ..of_job(spec, program, own, around.venv, around.daemon)?
    })
}

/// The command of the plugin in the file `program`, which reads the file `document`: the script's
/// environment without its modules, and the working directory that outlives generations.
///
/// # Errors
/// As of [`command`].
pub(super) fn plugin(
    spec: &Spec,
    started_at: Timestamp,
    program: PathBuf,
    document: PathBuf,
    daemon: &BTreeMap<OsString, OsString>,
) -> Result<Command, String> {
    let own = own_variables(spec, started_at, document.parent());
    Ok(Command {
        stdin: Some(document),
        ..of_job(spec, program.into(), own, None, daemon)?
    })
}

/// What everything that a job starts has: its rights, its environment, its secrets.
fn of_job(
    spec: &Spec,
    program: OsString,
    own: BTreeMap<&'static str, OsString>,
    venv: Option<&Path>,
    daemon: &BTreeMap<OsString, OsString>,
) -> Result<Command, String> {
    let secrets = spec.task.script.secrets.iter();
    Ok(Command {
        program,
        args: Vec::new(),
        env: environment(spec, own, venv, daemon),
        secrets: secrets
            .map(|(name, source)| Ok((name.into(), secret(name, source, daemon)?)))
            .collect::<Result<_, String>>()?,
        cwd: spec.state_dir.clone(),
        rights: spec.job.rights.clone(),
        stdin: None,
        cgroup: None,
    })
}

/// The script or its interpreter, that of the environment if there is one, and the arguments.
fn program(
    spec: &Spec,
    own: &BTreeMap<&'static str, OsString>,
    venv: Option<&Path>,
) -> (OsString, Vec<OsString>) {
    let script = &spec.task.script;
    let file = spec.job.folder.join(&script.run);
    let mut args: Vec<OsString> = Vec::new();
    let program = match script.language.interpreter() {
        Some((interpreter, flags)) => {
            args.extend(flags.iter().map(OsString::from));
            args.push(file.into());
            match venv.filter(|_| script.language == Language::Python) {
                Some(venv) => venv.join("bin").join(interpreter).into(),
                None => interpreter.into(),
            }
        }
        None => file.into(),
    };
    args.extend(script.args.iter().map(|arg| filled(arg, own).into()));
    (program, args)
}

fn secret(
    name: &str,
    source: &SecretSource,
    daemon: &BTreeMap<OsString, OsString>,
) -> Result<SecretFrom, String> {
    match source {
        SecretSource::File(path) => Ok(SecretFrom::JobsFile(path.clone())),
        SecretSource::Env(variable) => daemon
            .get(OsStr::new(variable))
            .map(|value| SecretFrom::Text(Secret::new(value.clone())))
            .ok_or_else(|| {
                format!("its secret {name}: {variable} is not in the daemon's environment")
            }),
        SecretSource::Credential(credential) => daemon
            .get(OsStr::new(CREDENTIALS))
            .map(|folder| SecretFrom::DaemonsFile(Path::new(folder).join(credential)))
            .ok_or_else(|| {
                format!(
                    "its secret {name}: the daemon has no credentials; give it some, like LoadCredential={credential}:/etc/spoolbeat/{credential} in its unit"
                )
            }),
    }
}

/// The `SPOOLBEAT_*` variables; those that say nothing about this run are left out.
fn own_variables(
    spec: &Spec,
    started_at: Timestamp,
    result_dir: Option<&Path>,
) -> BTreeMap<&'static str, OsString> {
    let mut own = BTreeMap::from([
        ("SPOOLBEAT_JOB", OsString::from(&spec.job.name)),
        ("SPOOLBEAT_RUN_ID", spec.run.as_str().into()),
        ("SPOOLBEAT_GENERATION", OsString::from(&spec.job.generation)),
        ("SPOOLBEAT_TRIGGER", spec.trigger.name().into()),
        ("SPOOLBEAT_STARTED_AT", started_at.to_string().into()),
        ("SPOOLBEAT_STATE_DIR", spec.state_dir.clone().into()),
        ("SPOOLBEAT_JOB_DIR", spec.job.folder.clone().into()),
    ]);
    let times = [
        ("SPOOLBEAT_SCHEDULED_AT", spec.scheduled_at),
        ("SPOOLBEAT_LAST_SUCCESS_AT", spec.last_success_at),
    ];
    for (name, at) in times {
        if let Some(at) = at {
            own.insert(name, at.to_string().into());
        }
    }
    if let Some(dir) = result_dir {
        own.insert("SPOOLBEAT_RESULT_DIR", dir.into());
    }
    own
}

fn environment(
    spec: &Spec,
    own: BTreeMap<&'static str, OsString>,
    venv: Option<&Path>,
    daemon: &BTreeMap<OsString, OsString>,
) -> Vec<(OsString, OsString)> {
    let script = &spec.task.script;
    let given: Vec<(OsString, OsString)> = script
        .env
        .iter()
        .map(|(name, value)| (name.into(), filled(value, &own).into()))
        .collect();
    let mut env: BTreeMap<OsString, OsString> = BTreeMap::from([
        ("PATH".into(), DEFAULT_PATH.into()),
        // A script must be able to write below its home; its own folder is read-only.
        ("HOME".into(), spec.state_dir.clone().into()),
        ("LANG".into(), "C.UTF-8".into()),
        // Lines must come when they are printed, and nothing may be written beside the script.
        ("PYTHONUNBUFFERED".into(), "1".into()),
        ("PYTHONDONTWRITEBYTECODE".into(), "1".into()),
    ]);
    let user = &spec.job.rights.user;
    let ours: &[&str] = match &user.home {
        // Another user: it has a name and a home of its own.
        Some(home) => {
            env.insert("HOME".into(), home.clone().into());
            env.insert("USER".into(), OsString::from(&user.name));
            env.insert("LOGNAME".into(), OsString::from(&user.name));
            &["PATH", "TZ"]
        }
        None => &["PATH", "TZ", "USER", "HOME"],
    };
    let passed = ours
        .iter()
        .copied()
        .chain(script.pass_env.iter().map(String::as_str))
        .map(OsStr::new);
    for name in passed {
        if let Some(value) = daemon.get(name).filter(|value| !value.is_empty()) {
            env.insert(name.to_owned(), value.clone());
        }
    }
    if !script.modules.is_empty() {
        // Installers keep there what scripts find there again.
        env.insert("HOME".into(), spec.state_dir.clone().into());
    }
    env.extend(given);
    if let Some(venv) = venv {
        let mut path = venv.join("bin").into_os_string();
        if let Some(others) = env.get(OsStr::new("PATH")) {
            path.push(":");
            path.push(others);
        }
        env.insert("PATH".into(), path);
        env.insert("VIRTUAL_ENV".into(), venv.into());
    }
    // Last: a job cannot say that it is another one.
    env.extend(own.into_iter().map(|(name, value)| (name.into(), value)));
    env.into_iter().collect()
}

/// `text` with each `${SPOOLBEAT_NAME}` replaced by its value, or by nothing when it has none.
fn filled(text: &str, own: &BTreeMap<&'static str, OsString>) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(start) = rest.find(REFERENCE) {
        let Some(length) = rest[start..].find('}') else {
            break;
        };
        let name = &rest[start + 2..start + length];
        out.push_str(&rest[..start]);
        if let Some(value) = own.get(name) {
            out.push_str(&value.to_string_lossy());
        }
        rest = &rest[start + length + 1..];
    }
    out.push_str(rest);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_references_to_our_own_variables_are_filled() {
        let own = BTreeMap::from([("SPOOLBEAT_JOB", OsString::from("disk"))]);
        for (text, wanted) in [
            ("${SPOOLBEAT_JOB}", "disk"),
            ("a ${SPOOLBEAT_JOB}/${SPOOLBEAT_JOB} b", "a disk/disk b"),
            ("since=${SPOOLBEAT_LAST_SUCCESS_AT};", "since=;"),
            ("${HOME} $SPOOLBEAT_JOB", "${HOME} $SPOOLBEAT_JOB"),
            ("${SPOOLBEAT_JOB", "${SPOOLBEAT_JOB"),
            ("", ""),
        ] {
            assert_eq!(filled(text, &own), wanted, "{text}");
        }
    }
}
