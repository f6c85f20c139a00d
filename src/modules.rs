//! What a job's scripts need beyond their language: says what is to be installed, and installs it.
//!
//! The installation is a run like any other: our own binary, started as the job's user with the
//! job's environment, which calls the installers one after the other, with arguments and never
//! through a shell. Must never know jobs, schedules or queues, nor run inside the daemon.
//!
//! Python: `VENVS/<key>` is a virtual environment, where the key is the hash of the interpreter's
//! version and of all that is wanted; `VENVS/current` is a link to the one in use. It is moved when
//! a new one is whole, so a failure leaves the former in use. It is built at its final place, since
//! programs in it begin with their own path.

use std::ffi::OsStr;
use std::ffi::OsString;
use std::io;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;

use ring::digest;

use crate::disk;
use crate::files;

/// The first argument that makes our binary install modules.
pub const ARGUMENT: &str = "install-modules";

/// Exit code of an installation that failed while an earlier environment of the job is good; that
/// stays in use. sysexits `EX_TEMPFAIL`.
pub const EXIT_FORMER: i32 = 75;

/// Exit code of an installation that failed.
const EXIT_FAILED: i32 = 1;

/// The link to the environment in use.
const CURRENT: &str = "current";

/// Marks an environment that is whole.
const WHOLE: &str = "spoolbeat-whole";

/// Bytes of a file of requirements that are read: ten thousand lines.
const REQUIREMENTS_BYTES_MAX: u64 = 1 << 20;

/// Installs what `$SPOOLBEAT_MODULE` names. Values come by the environment: nothing is put into its text.
const INSTALL_MODULE: &str = "$ErrorActionPreference = 'Stop'; \
    $want = @{ Name = $env:SPOOLBEAT_MODULE }; $version = $env:SPOOLBEAT_MODULE_VERSION; \
    $have = Get-Module -ListAvailable @want; \
    if ($version) { $want.RequiredVersion = $version; $have = $have | Where-Object Version -eq $version }; \
    if (-not $have) { Install-Module @want -Scope CurrentUser -Force }";

/// Who installs modules.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Installer {
    /// `uv`, else `venv` and `pip`: into an environment of the job's own.
    Python,
    /// `Install-Module`: into the home of the job.
    Powershell,
    /// Nobody: packages of the system or programs, which are looked for only.
    System,
}

impl Installer {
    const NAMES: [(&'static str, Self); 3] = [
        ("python", Self::Python),
        ("powershell", Self::Powershell),
        ("system", Self::System),
    ];

    fn name(self) -> &'static str {
        let is_it = |(_, one): &&(&str, Self)| *one == self;
        Self::NAMES.iter().find(is_it).map_or("", |(name, _)| name)
    }

    /// Whether such a module names the one version that is wanted.
    #[must_use]
    pub fn is_pinned(self, module: &str) -> bool {
        self == Self::System || requirements_file(module).is_some() || module.contains("==")
    }
}

/// The file that an entry like `-r requirements.txt` names.
#[must_use]
pub fn requirements_file(module: &str) -> Option<&str> {
    module.strip_prefix("-r ").map(str::trim)
}

/// The arguments of our binary that install `modules`; `venvs` is the job's own folder for them,
/// `folder` that of the job.
#[must_use]
pub fn arguments(
    installer: Installer,
    venvs: &Path,
    folder: &Path,
    modules: &[String],
) -> Vec<OsString> {
    let mut args: Vec<OsString> = vec![ARGUMENT.into(), installer.name().into()];
    args.extend([venvs.into(), folder.into()]);
    args.extend(modules.iter().map(OsString::from));
    args
}

/// The environment that runs of the job use; `None`: there is none.
#[must_use]
pub fn environment(venvs: &Path) -> Option<PathBuf> {
    let target = disk::link_target(&venvs.join(CURRENT)).ok()?;
    let environment = venvs.join(target);
    let whole = files::look(&environment.join(WHOLE)).is_ok();
    whole.then_some(environment)
}

/// Installs; `args` are those after [`ARGUMENT`]. Returns the exit code. What it does and why it
/// fails is printed, as are the words of the installers.
pub fn main(args: impl Iterator<Item = OsString>) -> i32 {
    let args: Vec<OsString> = args.collect();
    let [installer, venvs, folder, modules @ ..] = args.as_slice() else {
        return 2;
    };
    let modules: Vec<String> = modules
        .iter()
        .map(|module| module.to_string_lossy().into_owned())
        .collect();
    let (venvs, folder) = (Path::new(venvs), Path::new(folder));
    let known = Installer::NAMES.iter().find(|(name, _)| installer == name);
    let installed = match known.map(|(_, installer)| installer) {
        Some(Installer::Python) => python(venvs, folder, &modules),
        Some(Installer::Powershell) => powershell(&modules),
        Some(Installer::System) => system(&modules),
        None => return 2,
    };
    match installed {
        Ok(()) => 0,
        Err(why) if environment(venvs).is_some() => {
            tell(&format!("{why}; the last good environment stays in use"));
            EXIT_FORMER
        }
        Err(why) => {
            tell(&why);
            EXIT_FAILED
        }
    }
}

fn tell(text: &str) {
    // Without a place to say it the exit code has to do.
    drop(io::Write::write_all(
        &mut io::stderr(),
        format!("spoolbeat: {text}\n").as_bytes(),
    ));
}

/// Runs an installer to its end; it prints where we print.
fn call(program: &OsStr, args: &[&OsStr], folder: Option<&Path>) -> Result<(), String> {
    let shown = Path::new(program).display();
    let mut command = Command::new(program);
    command.args(args);
    if let Some(folder) = folder {
        command.current_dir(folder);
    }
    match command.status() {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(format!(
            "{shown} failed ({status}); what it printed says why"
        )),
        Err(error) => Err(format!("{shown} cannot be started: {error}")),
    }
}

fn find(program: &str) -> Option<PathBuf> {
    files::find_program(program, &std::env::var_os("PATH").unwrap_or_default())
}

fn python(venvs: &Path, folder: &Path, modules: &[String]) -> Result<(), String> {
    let version = Command::new("python3")
        .args(["-c", "import sys; print(sys.version, sys.executable)"])
        .output()
        .map_err(|error| format!("python3 cannot be started: {error}"))?;
    let key = key(&version.stdout, folder, modules)?;
    let place = venvs.join(&key);
    let failed = |error: io::Error| format!("{} cannot be used: {error}", place.display());
    let former = environment(venvs);
    if former.as_ref() == Some(&place) {
        tell(&format!("{} is there already", place.display()));
        return Ok(());
    }
    if files::look(&place.join(WHOLE)).is_err() {
        if files::look(&place).is_ok() {
            disk::remove_tree(&place).map_err(failed)?;
        }
        if let Err(why) = build(&place, folder, modules) {
            // Half an environment is of no use, and is removed before the next try at the latest.
            drop(disk::remove_tree(&place));
            return Err(why);
        }
        files::make_file(&place.join(WHOLE), "", 0o640).map_err(failed)?;
    }
    disk::link_latest(&venvs.join(CURRENT), &key).map_err(failed)?;
    // A run may still use the former one.
    for name in files::names(venvs).map_err(failed)? {
        let old = venvs.join(&name);
        if name != CURRENT && old != place && Some(&old) != former.as_ref() {
            disk::remove_tree(&old).map_err(failed)?;
        }
    }
    Ok(())
}

fn build(place: &Path, folder: &Path, modules: &[String]) -> Result<(), String> {
    let own = place.join("bin").join("python3");
    let mut wanted: Vec<&str> = Vec::new();
    for module in modules {
        match requirements_file(module) {
            Some(file) => wanted.extend(["-r", file]),
            None => wanted.push(module),
        }
    }
    let (program, place): (&OsStr, &OsStr) = (own.as_os_str(), place.as_os_str());
    let os = |text: &'static str| OsStr::new(text);
    let mut install: Vec<&OsStr> = if let Some(uv) = find("uv") {
        let uv = uv.as_os_str();
        call(
            uv,
            &[os("venv"), os("--python"), os("python3"), place],
            None,
        )?;
        let mut args = vec![os("pip"), os("install"), os("--python"), program];
        args.extend(wanted.iter().map(OsStr::new));
        return call(uv, &args, Some(folder));
    } else {
        call(os("python3"), &[os("-m"), os("venv"), place], None)?;
        let pip = [
            "-m",
            "pip",
            "install",
            "--no-input",
            "--disable-pip-version-check",
        ];
        pip.map(OsStr::new).to_vec()
    };
    install.extend(wanted.iter().map(OsStr::new));
    call(program, &install, Some(folder))
}

/// What an environment is known by: the interpreter and all that is wanted.
fn key(version: &[u8], folder: &Path, modules: &[String]) -> Result<String, String> {
    let mut whole = digest::Context::new(&digest::SHA256);
    whole.update(version);
    for module in modules {
        whole.update(module.as_bytes());
        whole.update(b"\n");
        if let Some(file) = requirements_file(module) {
            let text = files::read_plain(&folder.join(file), REQUIREMENTS_BYTES_MAX)
                .map_err(|error| format!("{file} cannot be read: {error}"))?;
            whole.update(&text);
        }
    }
    let whole = whole.finish();
    let begin = whole.as_ref().iter().take(8);
    Ok(begin.map(|byte| format!("{byte:02x}")).collect())
}

fn powershell(modules: &[String]) -> Result<(), String> {
    for module in modules {
        let (name, version) = module.split_once("==").unwrap_or((module, ""));
        let status = Command::new("pwsh")
            .args(["-NoLogo", "-NoProfile", "-NonInteractive", "-Command"])
            .arg(INSTALL_MODULE)
            .env("SPOOLBEAT_MODULE", name)
            .env("SPOOLBEAT_MODULE_VERSION", version)
            .status()
            .map_err(|error| format!("pwsh cannot be started: {error}"))?;
        if !status.success() {
            return Err(format!("{module} cannot be installed ({status})"));
        }
    }
    Ok(())
}

/// Looks for packages and programs; installing them is the administrator's.
fn system(modules: &[String]) -> Result<(), String> {
    let is_there = |module: &&String| {
        let asked = |program: &str, args: &[&str]| {
            let said = Command::new(program).args(args).arg(module).output();
            said.ok().filter(|said| said.status.success())
        };
        let dpkg = asked("dpkg-query", &["-W", "-f=${Status}", "--"]);
        find(module).is_some()
            || dpkg.is_some_and(|said| said.stdout.ends_with(b" installed"))
            || asked("rpm", &["-q", "--"]).is_some()
    };
    let missing: Vec<&str> = modules
        .iter()
        .filter(|module| !is_there(module))
        .map(String::as_str)
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    Err(format!(
        "{} {} missing: no package and no program of that name; have it installed, spoolbeat installs no packages of the system",
        missing.join(", "),
        if missing.len() == 1 { "is" } else { "are" }
    ))
}
