//! The way of a job to its schedule, on the real binary.

#![expect(clippy::unwrap_used, reason = "tests")]

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::MetadataExt;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::fs::chown;
use std::path::PathBuf;
use std::process::Command;

use crate::harness::Keep;
use crate::harness::Logstash;
use crate::harness::SOON;
use crate::harness::Spool;
use crate::harness::needs_root;
use crate::harness::said;
use crate::harness::wait_until;

/// A file of the job's own.
fn own(spool: &Spool, job: &str, name: &str) -> PathBuf {
    spool.root().join("state").join(job).join("data").join(name)
}

fn add(spool: &Spool, job: &str, name: &str, text: &str) {
    let folder = spool.root().join("jobs").join(job);
    fs::create_dir_all(&folder).unwrap();
    fs::write(folder.join(name), text).unwrap();
}

fn lines(spool: &Spool, job: &str, name: &str) -> usize {
    let text = fs::read_to_string(own(spool, job, name)).unwrap_or_default();
    text.lines().count()
}

#[test]
fn defect_01_a_first_run_that_fails_keeps_startup_away_and_is_tried_until_it_has_succeeded_once() {
    const JOB: &str = "[script]\nrun = \"job.sh\"\nfirst_run = \"setup.sh\"\nstartup = \"warmup.sh\"\n[schedule]\nevery = \"200ms\"\n[capture.stdout]\nphases = [\"first_run\", \"run\"]\n";
    let logstash = Logstash::new(Keep::Events);
    let mut spool = Spool::new(logstash.port());
    let setup =
        "cd $SPOOLBEAT_STATE_DIR; echo >> setups; echo setting up; test -e good || exit 3\n";
    add(&spool, "idp", "setup.sh", setup);
    let warmup = "echo >> $SPOOLBEAT_STATE_DIR/warmups; echo warm\n";
    add(&spool, "idp", "warmup.sh", warmup);
    spool.job("idp", JOB, "job.sh", "echo tick\n");
    for tries in 1..=2 {
        spool.start();
        wait_until(SOON, "the failure is seen", || {
            spool.job_status("idp")["state"] == "failed"
        });
        let status = spool.job_status("idp");
        let preparation = &status["preparation"];
        assert_eq!(preparation["step"], "first_run", "{status}");
        assert_eq!(preparation["problem"], "exit code 3", "{status}");
        assert!(preparation["next_try_at"].is_string(), "{status}");
        let shown = said(&spool.command(&["status"]));
        assert!(shown.contains("failed: first_run"), "{shown}");
        assert!(
            shown.contains("job idp: first_run: exit code 3; the job waits for it, next try in "),
            "{shown}"
        );
        let record = spool.latest_result("idp", "run.json");
        assert!(record.contains("\"trigger\": \"first_run\""), "{record}");
        spool.stop();
        assert_eq!(lines(&spool, "idp", "setups"), tries, "tries so far");
        assert_eq!(lines(&spool, "idp", "warmups"), 0);
    }
    fs::write(own(&spool, "idp", "good"), "").unwrap();
    spool.start();
    wait_until(SOON, "it runs by its schedule", || {
        logstash.lines("idp").iter().any(|line| line == "tick")
            && spool.status()["totals"]["waiting_events"] == 0
    });
    spool.kill();
    fs::remove_file(own(&spool, "idp", "good")).unwrap();
    spool.start();
    wait_until(SOON, "it is started up again, not set up again", || {
        lines(&spool, "idp", "warmups") == 2
    });
    spool.stop();
    assert_eq!(lines(&spool, "idp", "setups"), 3);
    let printed = logstash.lines("idp");
    let count = |text: &str| printed.iter().filter(|line| *line == text).count();
    assert_eq!((count("setting up"), count("warm")), (3, 0), "{printed:?}");
}

#[test]
fn what_failed_before_a_pause_is_tried_at_once_when_the_job_is_resumed() {
    const JOB: &str =
        "[script]\nrun = \"job.sh\"\nfirst_run = \"setup.sh\"\n[schedule]\nevery = \"1h\"\n";
    let logstash = Logstash::new(Keep::Events);
    let mut spool = Spool::new(logstash.port());
    add(&spool, "idp", "setup.sh", "exit 3\n");
    spool.job("idp", JOB, "job.sh", "echo tick\n");
    spool.start();
    let fails = |run: &serde_json::Value| {
        wait_until(SOON, "a try of its own fails", || {
            let preparation = spool.job_status("idp")["preparation"].clone();
            preparation["run"].is_string() && preparation["run"] != *run
        });
        spool.job_status("idp")["preparation"].clone()
    };
    let first = fails(&serde_json::Value::Null);
    assert!(spool.command(&["pause", "idp"]).status.success());
    let status = spool.job_status("idp");
    assert_eq!(status["state"], "paused", "{status}");
    assert!(status["preparation"]["next_try_at"].is_null(), "{status}");
    let shown = said(&spool.command(&["status"]));
    let wanted = "exit code 3; the job waits for it, next try after `spoolbeat resume idp`";
    assert!(shown.contains(wanted), "{shown}");
    assert!(spool.command(&["resume", "idp"]).status.success());
    let second = fails(&first["run"]);
    assert_eq!(second["failures"], 2, "{second}");
}

#[test]
fn defect_02_a_job_without_first_run_or_startup_reaches_its_schedule() {
    let logstash = Logstash::new(Keep::Events);
    let mut spool = Spool::new(logstash.port());
    for (job, key) in [
        ("neither", ""),
        ("first", "first_run = \"ok.sh\"\n"),
        ("startup", "startup = \"ok.sh\"\n"),
    ] {
        let toml = format!("[script]\nrun = \"job.sh\"\n{key}[schedule]\nonce = true\n");
        add(&spool, job, "ok.sh", "exit 0\n");
        spool.job(job, &toml, "job.sh", "echo ran\n");
    }
    for start in 1..=2 {
        spool.start();
        for job in ["neither", "first", "startup"] {
            wait_until(SOON, "it has run", || logstash.lines(job) == ["ran"]);
            wait_until(SOON, "nothing stands before it", || {
                let status = spool.job_status(job);
                status["state"] == "idle" && status["preparation"].is_null()
            });
        }
        spool.stop();
        assert_eq!(logstash.lines("startup").len(), 1, "start {start}");
    }
    let checked = said(&spool.command(&["check"]));
    assert!(
        checked.contains("first first_run ok.sh, until it has succeeded once"),
        "{checked}"
    );
}

#[test]
fn a_step_that_is_no_script_is_refused_with_the_others() {
    let spool = Spool::new(1);
    let toml = "[script]\nrun = \"job.sh\"\nfirst_run = \"setup.sh\"\nstartup = \"warm up\"\n[schedule]\nonce = true\n";
    spool.job("bad", toml, "job.sh", "");
    let checked = said(&spool.command(&["check"]));
    assert!(
        checked.contains(
            "script.first_run: `setup.sh` is no file in the folder; write first_run = \"setup.sh\""
        ),
        "{checked}"
    );
    assert!(checked.contains("script.startup: `warm up`"), "{checked}");
}

/// A folder of programs that stand in for others, which jobs have on their PATH.
fn stand_in(spool: &Spool, name: &str, text: &str) -> String {
    let bin = spool.root().join("bin");
    fs::create_dir_all(&bin).unwrap();
    let program = bin.join(name);
    fs::write(&program, text).unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    let path = std::env::var("PATH").unwrap();
    format!("env = {{ PATH = \"{}:{path}\" }}\n", bin.display())
}

#[expect(clippy::print_stdout, reason = "who reads the tests is to know")]
fn skip(why: &str) {
    println!("SKIP {why}");
}

fn python(args: &[&str]) -> bool {
    let said = Command::new("python3").args(args).output();
    said.is_ok_and(|said| said.status.success())
}

/// Writes a wheel of a package `greet` that says `text`.
const WHEEL: &str = "import sys, zipfile
with zipfile.ZipFile(sys.argv[1] + '/greet-1.0-py3-none-any.whl', 'w') as wheel:
    wheel.writestr('greet.py', 'TEXT = %r' % sys.argv[2])
    meta = 'greet-1.0.dist-info/'
    wheel.writestr(meta + 'METADATA', 'Metadata-Version: 2.1\\nName: greet\\nVersion: 1.0\\n')
    wheel.writestr(meta + 'WHEEL', 'Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n')
    wheel.writestr(meta + 'RECORD', 'greet.py,,\\n')
";

#[test]
fn python_modules_are_installed_once_and_the_last_good_environment_stays_in_use() {
    if !python(&["-c", "import venv, ensurepip"]) {
        skip("no python3 with venv and ensurepip");
        return;
    }
    let logstash = Logstash::new(Keep::Events);
    let mut spool = Spool::new(logstash.port());
    let toml = "[script]\nrun = \"job.py\"\nmodules = [\"-r needs.txt\"]\npass_env = [\"LANG\"]\n[schedule]\nonce = true\n";
    add(
        &spool,
        "greet",
        "needs.txt",
        "./greet-1.0-py3-none-any.whl\n",
    );
    let folder = spool.root().join("jobs/greet");
    assert!(python(&["-c", WHEEL, folder.to_str().unwrap(), "hello"]));
    spool.job("greet", toml, "job.py", "import greet; print(greet.TEXT)\n");
    spool.start();
    wait_until(3 * SOON, "it greets", || {
        logstash.lines("greet") == ["hello"]
    });
    // What cannot be had any more leaves the job with what it had.
    add(
        &spool,
        "greet",
        "needs.txt",
        "./gone-1.0-py3-none-any.whl\n",
    );
    spool.job(
        "greet",
        toml,
        "job.py",
        "import greet; print('still', greet.TEXT)\n",
    );
    wait_until(3 * SOON, "it greets still", || {
        logstash.lines("greet") == ["hello", "still hello"]
    });
    let status = spool.job_status("greet");
    assert_eq!(status["preparation"]["step"], "modules", "{status}");
    assert_eq!(status["preparation"]["gates"], false, "{status}");
    let shown = said(&spool.command(&["status"]));
    assert!(
        shown.contains("the last good environment is in use"),
        "{shown}"
    );
    assert!(
        shown.contains("its modules could not be had (exit code 75 of the installer)"),
        "{shown}"
    );
    // What was installed before is there at once.
    add(
        &spool,
        "greet",
        "needs.txt",
        "./greet-1.0-py3-none-any.whl\n",
    );
    wait_until(SOON, "nothing is wrong any more", || {
        spool.job_status("greet")["preparation"].is_null()
    });
    // Nor is anything installed again by the next start.
    spool.stop();
    let printed = spool.root().join("results/greet");
    let installed = || {
        // By the name `latest` one of them is there a second time.
        let runs = fs::read_dir(&printed)
            .unwrap()
            .map(|run| run.unwrap().path())
            .filter(|run| !run.is_symlink());
        let said = runs.map(|run| fs::read_to_string(run.join("stderr")).unwrap_or_default());
        said.filter(|said| said.contains("is there already"))
            .count()
    };
    let before = installed();
    spool.start();
    wait_until(SOON, "it is looked after", || installed() == before + 1);
}

#[test]
fn without_a_network_the_job_waits_says_why_and_goes_on_by_itself_when_the_modules_can_be_had() {
    if !python(&["-c", "import venv, ensurepip"]) {
        skip("no python3 with venv and ensurepip");
        return;
    }
    let logstash = Logstash::new(Keep::Events);
    let mut spool = Spool::new(logstash.port());
    let wheels = spool.root().join("wheels");
    fs::create_dir(&wheels).unwrap();
    let nobody = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = nobody.local_addr().unwrap().port();
    drop(nobody);
    let toml = format!(
        "[script]\nrun = \"job.py\"\nmodules = [\"greet==1.0\", \"x;touch pwned\"]\nenv = {{ PIP_INDEX_URL = \"http://127.0.0.1:{port}/simple\", PIP_RETRIES = \"0\", PIP_FIND_LINKS = \"{}\" }}\n[schedule]\nonce = true\n",
        wheels.display()
    );
    spool.job(
        "greet",
        &toml,
        "job.py",
        "import greet; print(greet.TEXT)\n",
    );
    spool.start();
    wait_until(3 * SOON, "it waits", || {
        spool.job_status("greet")["state"] == "failed"
    });
    let shown = said(&spool.command(&["status"]));
    assert!(
        shown.contains(
            "job greet: modules: its modules could not be had (exit code 1 of the installer); the job waits for it, next try in "
        ),
        "{shown}"
    );
    let printed = spool.latest_result("greet", "stderr");
    assert!(
        printed.contains("spoolbeat: ") && printed.contains("failed"),
        "{printed}"
    );
    assert_eq!(
        logstash.lines("greet"),
        [""; 0],
        "it has not run without them"
    );
    assert!(
        !own(&spool, "greet", "pwned").exists(),
        "no shell reads the list"
    );
    assert!(python(&["-c", WHEEL, wheels.to_str().unwrap(), "at last"]));
    let toml = toml.replace(", \"x;touch pwned\"", "");
    spool.job(
        "greet",
        &toml,
        "job.py",
        "import greet; print(greet.TEXT)\n",
    );
    wait_until(3 * SOON, "it greets", || {
        logstash.lines("greet") == ["at last"]
    });
}

#[test]
fn modules_of_another_users_job_are_installed_with_its_rights_and_are_its_own() {
    const NOBODY: u32 = 65534;
    const TOML: &str = "[script]\nrun = \"job.py\"\nmodules = [\"./greet-1.0-py3-none-any.whl\"]\n[schedule]\nonce = true\n";
    if needs_root("modules_of_another_users_job_are_installed_with_its_rights_and_are_its_own") {
        return;
    }
    if !python(&["-c", "import venv, ensurepip"]) {
        skip("no python3 with venv and ensurepip");
        return;
    }
    let logstash = Logstash::new(Keep::Events);
    let mut spool = Spool::new(logstash.port());
    spool.open_to_users();
    let aside = spool.root().join("jobs/.aside");
    fs::create_dir(&aside).unwrap();
    assert!(python(&["-c", WHEEL, aside.to_str().unwrap(), "hello"]));
    fs::write(aside.join("job.toml"), TOML).unwrap();
    let script = "import greet, os; print(greet.TEXT, os.getuid())\n";
    fs::write(aside.join("job.py"), script).unwrap();
    for entry in fs::read_dir(&aside).unwrap() {
        let path = entry.unwrap().path();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        chown(path, Some(NOBODY), Some(NOBODY)).unwrap();
    }
    chown(&aside, Some(NOBODY), Some(NOBODY)).unwrap();
    fs::rename(&aside, spool.root().join("jobs/greet")).unwrap();
    spool.start();
    wait_until(3 * SOON, "it greets", || {
        logstash.lines("greet") == [format!("hello {NOBODY}")]
    });
    let venvs = spool.root().join("state/greet/venv");
    let held = fs::metadata(&venvs).unwrap();
    assert_eq!((held.uid(), held.mode() & 0o7777), (NOBODY, 0o700));
    for inside in fs::read_dir(&venvs).unwrap() {
        let inside = fs::symlink_metadata(inside.unwrap().path()).unwrap();
        assert_eq!(inside.uid(), NOBODY);
    }
}

#[test]
fn what_a_former_user_of_a_job_left_is_kept_and_is_nothing_that_the_next_user_runs() {
    const NOBODY: u32 = 65534;
    if needs_root("what_a_former_user_of_a_job_left_is_kept_and_is_nothing_that_the_next_user_runs")
    {
        return;
    }
    if !python(&["-c", "import venv, ensurepip"]) {
        skip("no python3 with venv and ensurepip");
        return;
    }
    // The former user plants what python runs at each start, by the environment and by its home.
    let plant = "import os, site, sys, greet
planted = \"import os; print('planted', os.getuid())\\n\"
inside = [path for path in sys.path if path.startswith(os.environ['VIRTUAL_ENV']) and path.endswith('site-packages')]
open(inside[0] + '/planted.pth', 'w').write(planted)
open(os.environ['SPOOLBEAT_STATE_DIR'] + '/planted.py', 'w').write(planted)
print('by', os.getuid(), greet.TEXT)
";
    let next = "import os, sys, greet
home = os.environ['HOME']
assert home == os.environ['SPOOLBEAT_STATE_DIR']
print('by', os.getuid(), greet.TEXT, os.stat(home).st_uid, 'planted.py' in os.listdir(home))
";
    let toml = |user: &str| {
        format!(
            "[script]\nrun = \"job.py\"\nmodules = [\"-r needs.txt\"]\n{user}[schedule]\nonce = true\n"
        )
    };
    let logstash = Logstash::new(Keep::Events);
    let mut spool = Spool::new(logstash.port());
    spool.open_to_users();
    let needs = "./greet-1.0-py3-none-any.whl\n";
    add(&spool, "greet", "needs.txt", needs);
    let folder = spool.root().join("jobs/greet");
    assert!(python(&["-c", WHEEL, folder.to_str().unwrap(), "hello"]));
    spool.job("greet", &toml("user = \"nobody\"\n"), "job.py", plant);
    spool.start();
    let former = format!("by {NOBODY} hello");
    wait_until(3 * SOON, "it has planted", || {
        logstash.lines("greet") == [former.as_str()]
    });
    spool.job("greet", &toml(""), "job.py", next);
    let of_root = "by 0 hello 0 False";
    wait_until(3 * SOON, "it runs as root", || {
        logstash.lines("greet") == [former.as_str(), of_root]
    });
    let state = spool.root().join("state/greet");
    let owner = |name: &str| fs::metadata(state.join(name)).unwrap().uid();
    for name in ["data", "venv"] {
        assert_eq!(owner(name), 0);
        assert_eq!(owner(&format!("{name}.{NOBODY}")), NOBODY);
    }
    assert!(state.join(format!("data.{NOBODY}/planted.py")).exists());
    // Where nothing can be built for the next user, the former one's is not used either.
    add(
        &spool,
        "greet",
        "needs.txt",
        "./gone-1.0-py3-none-any.whl\n",
    );
    spool.job("greet", &toml("user = \"daemon\"\n"), "job.py", next);
    wait_until(3 * SOON, "the step fails", || {
        spool.job_status("greet")["preparation"]["problem"].is_string()
    });
    let status = spool.job_status("greet");
    let preparation = &status["preparation"];
    assert_eq!(preparation["gates"], true, "{status}");
    let problem = preparation["problem"].as_str().unwrap();
    assert!(problem.contains("exit code 1 of the installer"), "{status}");
    let told = || {
        let log = fs::read_to_string(spool.log()).unwrap();
        log.matches("it is set aside, and an empty one made")
            .count()
    };
    assert_eq!(told(), 4, "each of two folders, twice");
    assert!(state.join("data.0").exists() && state.join("venv.0").exists());
    add(&spool, "greet", "needs.txt", needs);
    spool.job("greet", &toml("user = \"daemon\"\n"), "job.py", next);
    wait_until(3 * SOON, "it runs as the next user", || {
        logstash.lines("greet") == [former.as_str(), of_root, "by 1 hello 1 False"]
    });
    assert_eq!(told(), 4, "and once each");
    spool.stop();
}

#[test]
fn try_installs_modules_aside_by_the_exact_command_lines_for_a_stand_in_of_uv() {
    skip("the real uv: a stand-in takes down the command lines that it would be given");
    let spool = Spool::new(1);
    let said_to = spool.root().join("uv.log");
    let uv = format!(
        "#!/bin/sh\necho \"$*\" >> {0}\ncase $1 in venv) mkdir -p \"$4/bin\"; ln -s \"$(command -v python3)\" \"$4/bin/python3\";; esac\n! grep -q offline {0}\n",
        said_to.display()
    );
    let env = stand_in(&spool, "uv", &uv);
    let toml = format!(
        "[script]\nrun = \"job.py\"\nmodules = [\"greet==1.0\", \"-r needs.txt\"]\n{env}[schedule]\nonce = true\n"
    );
    add(&spool, "greet", "needs.txt", "attrs==25.3.0\n");
    spool.job(
        "greet",
        &toml,
        "job.py",
        "import os; print(os.environ['VIRTUAL_ENV'])\n",
    );
    let tried = said(&spool.command(&["try", "greet"]));
    let said_to_uv = fs::read_to_string(&said_to).unwrap();
    let (venv, install) = said_to_uv.split_once('\n').unwrap();
    let place = venv.strip_prefix("venv --python python3 ").unwrap();
    assert_eq!(
        install,
        format!("pip install --python {place}/bin/python3 greet==1.0 -r needs.txt\n")
    );
    assert!(
        tried.contains(&format!("\"message\":\"{place}\"")),
        "{tried}"
    );
    assert!(
        !place.starts_with(spool.root().to_str().unwrap()),
        "{place}"
    );
    fs::write(&said_to, "offline\n").unwrap();
    let tried = spool.command(&["try", "greet"]);
    assert_eq!(tried.status.code(), Some(1), "{}", said(&tried));
    assert!(
        said(&tried).contains("its modules could not be had"),
        "{}",
        said(&tried)
    );
    assert!(
        said(&tried).contains("uv failed (exit status: 1)"),
        "{}",
        said(&tried)
    );
}

/// What `pwsh -Command` is given, to the letter.
const INSTALL_MODULE: &str = "$ErrorActionPreference = 'Stop'; \
    $want = @{ Name = $env:SPOOLBEAT_MODULE }; $version = $env:SPOOLBEAT_MODULE_VERSION; \
    $have = Get-Module -ListAvailable @want; \
    if ($version) { $want.RequiredVersion = $version; $have = $have | Where-Object Version -eq $version }; \
    if (-not $have) { Install-Module @want -Scope CurrentUser -Force }";

#[test]
fn a_stand_in_for_pwsh_is_called_with_the_exact_command_line_and_modules_in_its_environment() {
    skip("the real pwsh: a stand-in takes down the command line that it would be given");
    let logstash = Logstash::new(Keep::Events);
    let mut spool = Spool::new(logstash.port());
    let record = "#!/bin/sh\nif [ \"$SPOOLBEAT_TRIGGER\" = modules ]; then\nfor one; do printf '%s\\n' \"[$one]\" >> \"$HOME/args\"; done\necho \"$SPOOLBEAT_MODULE|$SPOOLBEAT_MODULE_VERSION\" >> \"$HOME/modules\"\nelse echo ran; fi\n";
    let env = stand_in(&spool, "pwsh", record);
    let toml = format!(
        "[script]\nrun = \"job.ps1\"\nmodules = [\"Az==1.2.3\", \"a'; rm b\"]\n{env}[schedule]\nonce = true\n"
    );
    spool.job("shell", &toml, "job.ps1", "");
    spool.start();
    wait_until(SOON, "it runs", || logstash.lines("shell") == ["ran"]);
    let kept = |name: &str| fs::read_to_string(own(&spool, "shell", name)).unwrap();
    assert_eq!(kept("modules"), "Az|1.2.3\na'; rm b|\n");
    let one =
        format!("[-NoLogo]\n[-NoProfile]\n[-NonInteractive]\n[-Command]\n[{INSTALL_MODULE}]\n");
    assert_eq!(kept("args"), one.repeat(2));
}

#[test]
fn packages_of_the_system_are_looked_for_and_never_installed() {
    let logstash = Logstash::new(Keep::Events);
    let mut spool = Spool::new(logstash.port());
    let job = |needs: &str| {
        format!("[script]\nrun = \"job.sh\"\nmodules = [{needs}]\n[schedule]\nonce = true\n")
    };
    spool.job("has", &job("\"sh\""), "job.sh", "echo has\n");
    spool.job(
        "lacks",
        &job("\"sh\", \"no-such-thing\""),
        "job.sh",
        "echo lacks\n",
    );
    spool.start();
    wait_until(SOON, "one runs", || logstash.lines("has") == ["has"]);
    wait_until(SOON, "the other does not", || {
        spool.job_status("lacks")["state"] == "failed"
    });
    let printed = spool.latest_result("lacks", "stderr");
    assert!(
        printed.contains("no-such-thing is missing: no package and no program of that name"),
        "{printed}"
    );
    assert_eq!(logstash.lines("lacks"), [""; 0]);
}

#[test]
fn modules_that_nobody_can_install_are_refused_and_open_versions_warned_of() {
    let spool = Spool::new(1);
    let job = |run: &str, modules: &str| {
        format!("[script]\nrun = \"{run}\"\nmodules = [\"{modules}\"]\n[schedule]\nonce = true\n")
    };
    spool.job("node", &job("job.js", "left-pad"), "job.js", "");
    spool.job("option", &job("job.py", "--index-url=x"), "job.py", "");
    spool.job("file", &job("job.py", "-r none.txt"), "job.py", "");
    spool.job("open", &job("job.py", "requests"), "job.py", "");
    let checked = said(&spool.command(&["check"]));
    for wanted in [
        "there is no installer for this language",
        "`--index-url=x` names no module",
        "`none.txt` is no file in the folder; write modules = [\"-r requirements.txt\"]",
        "jobs/open: modules: `requests` names no version",
        "first modules requests",
    ] {
        assert!(checked.contains(wanted), "{wanted}: {checked}");
    }
}
