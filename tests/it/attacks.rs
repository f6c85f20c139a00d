//! A folder of an unprivileged user before a daemon of root: no key and no link in it may read, change,
//! delete or run what that user could not.
//!
//! `nobody` attacks; the daemon's environment, root's files and the jobs of root and of `daemon` are what
//! there is to gain. Root prepares what a user could have prepared by a race or an older kernel, like hard links.

#![expect(clippy::unwrap_used, reason = "tests")]

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::fs::chown;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use crate::harness::Keep;
use crate::harness::Logstash;
use crate::harness::SOON;
use crate::harness::Spool;
use crate::harness::needs_root;
use crate::harness::said;
use crate::harness::wait_until;

mod files;
mod listener;

/// The attacker: `nobody` on every Linux.
const MALLORY: u32 = 65534;

/// Another user: `daemon`.
const BOB: u32 = 1;

/// What must never be seen.
const CANARY: &str = "canary-7f3a9c";

const ONCE: &str = "[script]\nrun = \"job.sh\"\n[schedule]\nonce = true\n";

fn with(keys: &str) -> String {
    format!("[script]\nrun = \"job.sh\"\n{keys}\n[schedule]\nonce = true\n")
}

fn mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

fn give(path: &Path, uid: u32) {
    let gid = if uid == MALLORY { MALLORY } else { uid };
    for entry in walk(path) {
        std::os::unix::fs::lchown(entry, Some(uid), Some(gid)).unwrap();
    }
}

/// A path and, if it is a folder, all below it.
fn walk(path: &Path) -> Vec<std::path::PathBuf> {
    let mut all = vec![path.to_path_buf()];
    if fs::symlink_metadata(path).is_ok_and(|meta| meta.is_dir()) {
        for entry in fs::read_dir(path).unwrap() {
            all.extend(walk(&entry.unwrap().path()));
        }
    }
    all
}

/// A field with a root that users can reach, and root's secret beside it.
fn field(logstash: &Logstash) -> Spool {
    let spool = Spool::new(logstash.port());
    spool.open_to_users();
    let secret = spool.root().parent().unwrap().join("secret");
    fs::write(&secret, format!("echo {CANARY}\n")).unwrap();
    mode(&secret, 0o600);
    spool
}

/// One folder that must not become a job: what is done to it, and words of the refusal.
type Refused<'a> = (&'a str, String, &'a dyn Fn(&Path, &Path), &'a str);

#[test]
fn what_would_give_a_folder_the_rights_of_others_is_refused_and_never_runs() {
    if needs_root("what_would_give_a_folder_the_rights_of_others_is_refused_and_never_runs") {
        return;
    }
    let logstash = Logstash::new(Keep::Events);
    let mut spool = field(&logstash);
    let nothing: &dyn Fn(&Path, &Path) = &|_, _| {};
    let attacks: Vec<Refused<'_>> = vec![
        (
            "dots",
            ONCE.replace("job.sh", "../../../secret"),
            nothing,
            "leads out",
        ),
        (
            "absolute",
            ONCE.replace("job.sh", "/bin/sh"),
            nothing,
            "leads out",
        ),
        (
            "link",
            ONCE.into(),
            &|job, secret| {
                fs::remove_file(job.join("job.sh")).unwrap();
                symlink(secret, job.join("job.sh")).unwrap();
            },
            "symbolic link",
        ),
        (
            "link-beside",
            ONCE.into(),
            &|job, secret| symlink(secret, job.join("data")).unwrap(),
            "symbolic link",
        ),
        (
            "folder-link",
            ONCE.into(),
            &|job, secret| {
                fs::create_dir(job.join("sub")).unwrap();
                symlink(secret.parent().unwrap(), job.join("sub/all")).unwrap();
            },
            "symbolic link",
        ),
        (
            "hard-link",
            ONCE.into(),
            &|job, secret| {
                fs::remove_file(job.join("job.sh")).unwrap();
                fs::hard_link(secret, job.join("job.sh")).unwrap();
            },
            "Permission denied",
        ),
        (
            "own-hard-link",
            ONCE.into(),
            &|job, _| {
                fs::hard_link(job.join("job.sh"), job.with_file_name(".other")).unwrap();
            },
            "hard link",
        ),
        (
            "toml-link",
            ONCE.into(),
            &|job, secret| {
                fs::remove_file(job.join("job.toml")).unwrap();
                symlink(secret, job.join("job.toml")).unwrap();
            },
            "symbolic link",
        ),
        (
            "toml-hard-link",
            ONCE.into(),
            &|job, secret| {
                fs::remove_file(job.join("job.toml")).unwrap();
                fs::hard_link(secret, job.join("job.toml")).unwrap();
            },
            "Permission denied",
        ),
        (
            "toml-fifo",
            ONCE.into(),
            &|job, _| make_node(&job.join("job.toml"), &["p"]),
            "FIFO",
        ),
        (
            "toml-device",
            ONCE.into(),
            &|job, _| make_node(&job.join("job.toml"), &["c", "1", "3"]),
            "device",
        ),
        (
            "user-root",
            with("user = \"root\""),
            nothing,
            "is not the folder's owner",
        ),
        (
            "user-0",
            with("user = \"0\""),
            nothing,
            "is not the folder's owner",
        ),
        (
            "user-other",
            with("user = \"daemon\""),
            nothing,
            "is not the folder's owner",
        ),
        (
            "group-root",
            with("group = \"root\""),
            nothing,
            "is not in group `root`",
        ),
        (
            "group-shadow",
            with("group = \"shadow\""),
            nothing,
            "is not in group `shadow`",
        ),
        (
            "secret-env",
            with("secrets = { A = \"env:DAEMONS_OWN\" }"),
            nothing,
            "[credentials]",
        ),
        (
            "secret-credential",
            with("secrets = { A = \"credential:token\" }"),
            nothing,
            "[credentials]",
        ),
        (
            "secret-outside",
            with("secrets = { A = \"credential:../../etc/shadow\" }"),
            nothing,
            "never the secret",
        ),
        (
            "pass-env",
            with("pass_env = [\"DAEMONS_OWN\"]"),
            nothing,
            "[credentials]",
        ),
        (
            "fill-in",
            with("args = [\"${DAEMONS_OWN}\"]"),
            nothing,
            "DAEMONS_OWN",
        ),
        (
            "file-of-another",
            ONCE.into(),
            &|job, _| chown(job.join("job.sh"), Some(BOB), None).unwrap(),
            "belongs to user 1",
        ),
        (
            "written-by-a-group",
            ONCE.into(),
            &|job, _| mode(&job.join("job.sh"), 0o664),
            "written by a group",
        ),
        (
            "folder-of-a-group",
            ONCE.into(),
            &|job, _| mode(job, 0o2775),
            "written by a group",
        ),
        (
            "written-by-all",
            ONCE.into(),
            &|job, _| mode(&job.join("job.sh"), 0o666),
            "by everybody",
        ),
        (
            "sticky-folder",
            ONCE.into(),
            &|job, _| mode(job, 0o1777),
            "by everybody",
        ),
        (
            "huge",
            ONCE.into(),
            &|job, _| {
                fs::File::create(job.join("big"))
                    .unwrap()
                    .set_len(65 << 20)
                    .unwrap();
                chown(job.join("big"), Some(MALLORY), None).unwrap();
            },
            "may hold 64.0 MiB",
        ),
        (
            "roots-folder",
            ONCE.into(),
            &|job, _| chown(job, Some(0), None).unwrap(),
            "belongs to user 65534",
        ),
        (
            "roots-folder-user",
            with("user = \"daemon\""),
            &|job, _| {
                chown(job, Some(0), None).unwrap();
                chown(job.join("job.sh"), Some(0), None).unwrap();
            },
            "belongs to user 65534",
        ),
    ];
    let secret = spool.root().parent().unwrap().join("secret");
    for (name, toml, prepare, _) in &attacks {
        spool.job(name, toml, "job.sh", "echo it ran\n");
        let job = spool.root().join("jobs").join(name);
        give(&job, MALLORY);
        prepare(&job, &secret);
    }
    symlink("/etc", spool.root().join("jobs/whole-folder")).unwrap();
    spool.start_with(&[("DAEMONS_OWN", CANARY)]);
    wait_until(SOON, "all folders are decided on", || {
        spool.status()["jobs"].as_array().is_some_and(|jobs| {
            jobs.len() == attacks.len() + 1
                && jobs
                    .iter()
                    .all(|job| job["problems"] != serde_json::json!([]))
        })
    });
    for (name, _, _, words) in &attacks {
        let job = spool.job_status(name);
        assert_eq!(job["state"], "refused", "{name}: {job}");
        assert!(job["problems"].to_string().contains(words), "{name}: {job}");
    }
    assert_eq!(spool.job_status("whole-folder")["state"], "refused");
    assert!(!spool.root().join("results").join("dots").exists());
    spool.stop();
    assert_eq!(with_canary(&spool), [""; 0]);
}

fn make_node(path: &Path, kind: &[&str]) {
    fs::remove_file(path).unwrap();
    assert!(
        Command::new("mknod")
            .arg(path)
            .args(kind)
            .status()
            .unwrap()
            .success()
    );
    chown(path, Some(MALLORY), None).unwrap();
}

/// The files that the daemon wrote, its log among them, in which the canary is found.
fn with_canary(spool: &Spool) -> Vec<String> {
    let root = spool.root();
    let written = ["queue", "state", "results", "dead-letter"].map(|name| root.join(name));
    let mut files: Vec<_> = written.iter().flat_map(|path| walk(path)).collect();
    files.push(spool.log());
    files
        .into_iter()
        .filter(|path| fs::symlink_metadata(path).is_ok_and(|meta| meta.is_file()))
        .filter(|path| {
            let bytes = fs::read(path).unwrap();
            bytes
                .windows(CANARY.len())
                .any(|part| part == CANARY.as_bytes())
        })
        .map(|path| path.display().to_string())
        .collect()
}

/// Each line that a script tries: what it is and a command that must fail.
const TRIES: &str = r#"
t() { name=$1; shift; if "$@" >/dev/null 2>&1; then echo "OPEN $name"; else echo "shut $name"; fi; }
D=$(dirname "$ROOT")
t 'read the shadow file' cat /etc/shadow
t 'read the secret beside the root' cat "$D/secret"
t 'list the queue' ls "$ROOT/queue"
t 'read the queue' sh -c 'cat "$ROOT"/queue/*.seg'
t 'list the state' ls "$ROOT/state"
t 'read the agent id' cat "$ROOT/state/agent.id"
t 'list the dead letters' ls "$ROOT/dead-letter"
t 'read the data of root' ls "$ROOT/state/of-root/data"
t 'read the generations of root' ls "$ROOT/state/of-root"
t 'read the data of another' ls "$ROOT/state/of-bob/data"
t 'list generations of another' ls "$ROOT/state/of-bob/generations"
t 'read the results of another' ls "$ROOT/results/of-bob"
t 'read the results of root' ls "$ROOT/results/of-root"
t 'write into the generation' touch ./new
t 'open the generation' chmod u+w .
t 'change the script' sh -c 'echo x >> job.sh'
t 'write a result' touch "$SPOOLBEAT_RESULT_DIR/stdout.2"
t 'forge the record' sh -c 'echo {} > "$SPOOLBEAT_RESULT_DIR/running.json"'
t 'put a link for the results' sh -c 'mv "$SPOOLBEAT_RESULT_DIR" /tmp/gone && ln -s /etc "$SPOOLBEAT_RESULT_DIR"'
t 'turn latest around' ln -sfn /etc "$ROOT/results/$SPOOLBEAT_JOB/latest"
t 'put a link for the data' sh -c 'mv "$SPOOLBEAT_STATE_DIR" "$SPOOLBEAT_STATE_DIR.old" && ln -s /etc "$SPOOLBEAT_STATE_DIR"'
t 'remove the data folder' rmdir "$SPOOLBEAT_STATE_DIR"
t 'put a generation aside' mv "$ROOT/state/$SPOOLBEAT_JOB/generations" "$ROOT/state/$SPOOLBEAT_JOB/g"
t 'add a job' mkdir "$ROOT/jobs/mine"
t 'write the configuration' sh -c 'echo >> "$ROOT/spoolbeat.toml"'
t 'ask the daemon' python3 -c 'import os,socket; socket.socket(socket.AF_UNIX).connect(os.environ["ROOT"]+"/state/control.sock")'
t 'signal the daemon' kill -0 "$DAEMON"
t 'signal the shim' kill -0 "$PPID"
t 'signal a run of another' kill -0 "$(pgrep -u daemon -f of-bob-sleeps | head -1)"
t 'read the daemons environment' cat "/proc/$DAEMON/environ"
t 'read the shims environment' cat "/proc/$PPID/environ"
t 'read the daemons memory' head -c1 "/proc/$DAEMON/mem"
t 'use the daemons descriptors' ls "/proc/$DAEMON/fd"
t 'trace the shim' python3 -c 'import ctypes,sys; sys.exit(ctypes.CDLL(None).ptrace(16, int(sys.argv[1]), 0, 0) != 0)' "$PPID"
t 'leave the cgroup' sh -c 'echo $$ > /sys/fs/cgroup/unified/cgroup.procs || echo $$ > /sys/fs/cgroup/cgroup.procs'
t 'become root by a set-uid program' sh -c 'test "$("$D/suid-id" -u)" = 0'
t 'become root' python3 -c 'import os; os.setuid(0)'
t 'take a group' python3 -c 'import os; os.setgroups([0])'
t 'have another descriptor' sh -c 'ls /proc/self/fd | grep -v "^[0123]$"'
t 'see the daemons own variable' printenv DAEMONS_OWN
t 'be in a group of root' sh -c 'id -G | grep -w 0'
t 'have a capability' sh -c 'grep -E "^Cap(Inh|Prm|Eff|Bnd|Amb):" /proc/self/status | grep -v 0000000000000000'
"#;

#[test]
fn a_script_of_a_user_can_do_nothing_that_the_user_could_not() {
    if needs_root("a_script_of_a_user_can_do_nothing_that_the_user_could_not") {
        return;
    }
    let logstash = Logstash::new(Keep::Events);
    let mut spool = field(&logstash);
    let root = spool.root();
    let folder = root.parent().unwrap().to_path_buf();
    fs::copy("/usr/bin/id", folder.join("suid-id")).unwrap();
    mode(&folder.join("suid-id"), 0o4755);
    let sleeps = "touch \"$SPOOLBEAT_STATE_DIR/x\"; exec -a of-bob-sleeps sleep 1000\n";
    spool.job(
        "of-root",
        ONCE,
        "job.sh",
        "touch \"$SPOOLBEAT_STATE_DIR/x\"\n",
    );
    spool.job("of-bob", ONCE, "job.sh", sleeps);
    give(&root.join("jobs/of-bob"), BOB);
    spool.start_with(&[("DAEMONS_OWN", CANARY)]);
    wait_until(SOON, "bob's job runs", || {
        root.join("state/of-bob/data/x").exists()
            && spool.job_status("of-root")["runs"]["success"] == 1
    });
    let env = format!(
        "env = {{ ROOT = \"{}\", DAEMON = \"{}\" }}",
        root.display(),
        spool.pid()
    );
    // Put in as a user would: all at once, by rename.
    let aside = root.join("jobs/.new");
    fs::create_dir(&aside).unwrap();
    fs::write(aside.join("job.toml"), with(&env)).unwrap();
    fs::write(aside.join("job.sh"), TRIES).unwrap();
    give(&aside, MALLORY);
    fs::rename(&aside, root.join("jobs/mallory")).unwrap();
    wait_until(SOON, "the attacks are over", || {
        spool
            .latest_result("mallory", "run.json")
            .contains("success")
    });
    let tries = spool.latest_result("mallory", "stdout");
    let open: Vec<&str> = tries
        .lines()
        .filter(|line| line.starts_with("OPEN"))
        .collect();
    assert_eq!(open, [""; 0]);
    assert_eq!(
        tries.lines().count(),
        TRIES.matches("\nt '").count(),
        "{tries}"
    );
    assert_eq!(spool.job_status("mallory")["user"], "nobody");
    let state = root.join("state");
    assert_eq!(fs::metadata(&state).unwrap().mode() & 0o7777, 0o711);
    assert_eq!(
        fs::metadata(state.join("mallory/data")).unwrap().mode() & 0o7777,
        0o700
    );
    assert_eq!(
        fs::metadata(state.join("control.sock")).unwrap().mode() & 0o777,
        0o600
    );
}

#[test]
fn nothing_of_a_job_reaches_the_process_of_root_that_starts_it() {
    if needs_root("nothing_of_a_job_reaches_the_process_of_root_that_starts_it") {
        return;
    }
    let logstash = Logstash::new(Keep::Events);
    let mut spool = field(&logstash);
    // The loader writes such a file for each process that has these variables, as that process's user.
    let loader = spool.root().parent().unwrap().join("loader");
    fs::create_dir(&loader).unwrap();
    mode(&loader, 0o777);
    let env = format!(
        "env = {{ LD_DEBUG = \"libs\", LD_DEBUG_OUTPUT = \"{}/out\" }}",
        loader.display()
    );
    spool.job("loader", &with(&env), "job.sh", "echo done\n");
    give(&spool.root().join("jobs/loader"), MALLORY);
    spool.start();
    wait_until(SOON, "it has run", || {
        spool
            .latest_result("loader", "run.json")
            .contains("success")
    });
    let owners: Vec<u32> = walk(&loader)[1..]
        .iter()
        .map(|path| fs::metadata(path).unwrap().uid())
        .collect();
    assert!(
        !owners.is_empty() && owners.iter().all(|uid| *uid == MALLORY),
        "{owners:?}"
    );
}

#[test]
fn a_secret_that_the_user_may_not_read_starts_nothing() {
    if needs_root("a_secret_that_the_user_may_not_read_starts_nothing") {
        return;
    }
    let logstash = Logstash::new(Keep::Events);
    let mut spool = field(&logstash);
    let folder = spool.root().parent().unwrap().to_path_buf();
    symlink(folder.join("secret"), folder.join("way")).unwrap();
    std::os::unix::fs::lchown(folder.join("way"), Some(MALLORY), None).unwrap();
    let secret = folder.join("secret").display().to_string();
    let way = folder.join("way").display().to_string();
    let cases = [
        ("shadow", "/etc/shadow", "user nobody may not read it"),
        ("canary", secret.as_str(), "user nobody may not read it"),
        ("by-link", way.as_str(), "user nobody may not read it"),
        ("environ", "/proc/1/environ", "user nobody may not read it"),
        ("device", "/dev/zero", "not a plain file"),
        ("folder", "/etc", "not a plain file"),
    ];
    ask_for_secrets(&spool, &cases);
    spool.start();
    refused_secrets(&spool, &cases);
    spool.stop();
    assert_eq!(with_canary(&spool), [""; 0]);
}

/// Jobs of the attacker, each by name with a file that is to be its secret, and why it does not get it.
fn ask_for_secrets(spool: &Spool, cases: &[(&str, &str, &str)]) {
    for (name, path, _) in cases {
        let keys = format!("secrets = {{ A = \"file:{path}\" }}");
        spool.job(name, &with(&keys), "job.sh", "printenv A\n");
        give(&spool.root().join("jobs").join(name), MALLORY);
    }
}

fn refused_secrets(spool: &Spool, cases: &[(&str, &str, &str)]) {
    for (name, _, words) in cases {
        wait_until(SOON, name, || {
            !spool.latest_result(name, "run.json").is_empty()
        });
        let record = spool.latest_result(name, "run.json");
        assert!(
            record.contains("could_not_start") && record.contains(words),
            "{record}"
        );
    }
}

/// An open folder, in which the daemon is started, in one that is shut to users.
fn shut(spool: &Spool) -> std::path::PathBuf {
    let shut = spool.root().parent().unwrap().join("shut");
    let inside = shut.join("inside");
    fs::create_dir_all(&inside).unwrap();
    mode(&inside, 0o755);
    mode(&shut, 0o700);
    inside
}

#[test]
fn no_link_of_proc_leads_to_a_secret_in_a_folder_that_the_user_cannot_pass() {
    if needs_root("no_link_of_proc_leads_to_a_secret_in_a_folder_that_the_user_cannot_pass") {
        return;
    }
    let logstash = Logstash::new(Keep::Events);
    let mut spool = field(&logstash);
    let shut = shut(&spool);
    fs::write(shut.join("key"), CANARY).unwrap();
    mode(&shut.join("key"), 0o644);
    let way = spool.root().parent().unwrap().join("way");
    symlink("/proc/self/cwd/key", &way).unwrap();
    let way = way.display().to_string();
    let cases = [
        ("cwd", "/proc/self/cwd/key", "a link of /proc"),
        ("thread", "/proc/thread-self/cwd/key", "a link of /proc"),
        ("by-link", way.as_str(), "a link of /proc"),
        ("descriptor", "/proc/self/fd/0", "a link of /proc"),
        ("of-proc", "/proc/self/cmdline", "not a plain file"),
    ];
    ask_for_secrets(&spool, &cases);
    spool.start_within(&format!("cd '{}'", shut.display()));
    refused_secrets(&spool, &cases);
    spool.stop();
    fs::remove_dir_all(&shut).unwrap();
    assert_eq!(with_canary(&spool), [""; 0]);
}

#[test]
fn a_secret_reaches_the_script_and_nothing_that_the_daemon_writes_or_shows() {
    if needs_root("a_secret_reaches_the_script_and_nothing_that_the_daemon_writes_or_shows") {
        return;
    }
    let logstash = Logstash::new(Keep::Events);
    let mut spool = field(&logstash);
    let folder = spool.root().parent().unwrap().to_path_buf();
    let credentials = folder.join("credentials");
    fs::create_dir(&credentials).unwrap();
    mode(&credentials, 0o700);
    fs::write(credentials.join("token"), CANARY).unwrap();
    let file = folder.join("file");
    fs::write(&file, format!("{CANARY}\n")).unwrap();
    mode(&file, 0o600);
    chown(&file, Some(MALLORY), None).unwrap();
    spool.settings("[credentials]\nallow = { TOKEN = [\"keeps\"], token = [\"*\"] }\n[log]\nlevel = \"debug\"\n");
    let keys = format!(
        "secrets = {{ A = \"file:{}\", B = \"env:TOKEN\", C = \"credential:token\" }}",
        file.display()
    );
    let script = "echo ${#A} ${#B} ${#C}; test \"$A\" = \"$B\" && test \"$B\" = \"$C\"; echo same $?; \
                  tr '\\0' '\\n' </proc/$$/cmdline; ulimit -c; kill -ABRT $$\n";
    spool.job("keeps", &with(&keys), "job.sh", script);
    give(&spool.root().join("jobs/keeps"), MALLORY);
    let place = credentials.to_str().unwrap();
    spool.start_with(&[("TOKEN", CANARY), ("CREDENTIALS_DIRECTORY", place)]);
    wait_until(SOON, "it has run", || {
        !spool.latest_result("keeps", "run.json").is_empty()
    });
    let length = CANARY.len();
    let printed = spool.latest_result("keeps", "stdout");
    assert!(
        printed.starts_with(&format!("{length} {length} {length}\nsame 0\n")),
        "{printed}"
    );
    assert!(printed.ends_with("\n0\n"), "no core dump: {printed}");
    let root = spool.root().display().to_string();
    for args in [
        &["status", root.as_str(), "--json"][..],
        &["check", "--json"],
        &["results", "keeps", "latest"],
    ] {
        let shown = said(&spool.command(args));
        assert!(!shown.contains(CANARY), "{shown}");
    }
    let command_line = fs::read_to_string(format!("/proc/{}/cmdline", spool.pid())).unwrap();
    assert!(!command_line.contains(CANARY));
    spool.stop();
    assert_eq!(with_canary(&spool), [""; 0]);
    // What finds nothing must be able to find.
    fs::write(spool.root().join("results/found"), CANARY).unwrap();
    assert_eq!(with_canary(&spool).len(), 1);
}

#[test]
fn files_that_are_swapped_between_the_look_and_the_copy_lead_nowhere() {
    if needs_root("files_that_are_swapped_between_the_look_and_the_copy_lead_nowhere") {
        return;
    }
    let logstash = Logstash::new(Keep::Events);
    let mut spool = field(&logstash);
    spool.settings("rescan = \"100ms\"\n");
    let secret = spool.root().parent().unwrap().join("secret");
    let closed = spool.root().parent().unwrap().join("closed");
    fs::create_dir(&closed).unwrap();
    fs::write(closed.join("part.sh"), format!("echo {CANARY}\n")).unwrap();
    mode(&closed, 0o700);
    let job = spool.root().join("jobs/swaps");
    fs::create_dir_all(job.join("sub")).unwrap();
    fs::write(job.join("job.toml"), ONCE).unwrap();
    fs::write(job.join("job.sh"), "echo plain\n").unwrap();
    fs::write(job.join("sub/part.sh"), "echo plain\n").unwrap();
    give(&job, MALLORY);
    // Hidden names are no part of the job; each rename is one step.
    symlink(&secret, job.join(".link")).unwrap();
    symlink(&closed, job.join(".sub")).unwrap();
    let swap = |name: &str, aside: &str| {
        let (name, aside, third) = (job.join(name), job.join(aside), job.join(".third"));
        fs::rename(&name, &third).unwrap();
        fs::rename(&aside, &name).unwrap();
        fs::rename(&third, &aside).unwrap();
    };
    spool.start();
    for round in 0..40 {
        // A folder is looked at and copied when it was quiet for 100 ms: now before, now after that.
        let quiet = Duration::from_millis(90 + round % 20);
        let since = std::time::Instant::now();
        wait_until(SOON, "it was quiet", || since.elapsed() >= quiet);
        for (name, aside) in [
            ("job.sh", ".link"),
            ("sub", ".sub"),
            ("job.sh", ".link"),
            ("sub", ".sub"),
        ] {
            swap(name, aside);
        }
    }
    wait_until(SOON, "what is left is decided on", || {
        spool.latest_result("swaps", "stdout") == "plain\n"
    });
    spool.stop();
    assert_eq!(with_canary(&spool), [""; 0]);
}

#[test]
fn a_root_that_others_may_write_is_not_run_by_root() {
    if needs_root("a_root_that_others_may_write_is_not_run_by_root") {
        return;
    }
    let logstash = Logstash::new(Keep::Events);
    let spool = field(&logstash);
    let root = spool.root();
    let above = root.parent().unwrap().to_path_buf();
    spool.job("job", ONCE, "job.sh", "echo hi\n");
    let refused = |words: &str| {
        for args in [&["run", "--once"][..], &["check"]] {
            let output = spool.command(args);
            assert_eq!(output.status.code(), Some(78), "{}", said(&output));
            assert!(said(&output).contains(words), "{}", said(&output));
        }
        assert!(!root.join("queue").exists());
    };
    mode(&above, 0o777);
    refused("may be written by others than root");
    mode(&above, 0o711);
    chown(&above, Some(MALLORY), None).unwrap();
    refused("belongs to user 65534");
    chown(&above, Some(0), None).unwrap();
    chown(&root, Some(0), Some(MALLORY)).unwrap();
    mode(&root, 0o775);
    refused("may be written by others than root");
    mode(&root, 0o755);
    mode(&above, 0o1777);
    let output = spool.command(&["run", "--once"]);
    assert_eq!(
        output.status.code(),
        Some(0),
        "sticky is fine: {}",
        said(&output)
    );
}

#[test]
fn the_last_good_version_goes_on_when_an_edit_asks_for_more_rights() {
    if needs_root("the_last_good_version_goes_on_when_an_edit_asks_for_more_rights") {
        return;
    }
    let logstash = Logstash::new(Keep::Events);
    let mut spool = field(&logstash);
    let job = spool.root().join("jobs/edits");
    let often = ONCE.replace("once = true", "every = \"100ms\"");
    spool.job("edits", &often, "job.sh", "id -un\n");
    give(&job, MALLORY);
    spool.start();
    wait_until(SOON, "it runs", || {
        spool.latest_result("edits", "stdout") == "nobody\n"
    });
    let good = spool.job_status("edits")["generation"].clone();
    fs::write(
        job.join("job.toml"),
        often.replace("[schedule]", "user = \"root\"\n[schedule]"),
    )
    .unwrap();
    wait_until(SOON, "it is refused", || {
        spool.job_status("edits")["problems"]
            .to_string()
            .contains("is not the folder's owner")
    });
    let before = spool.job_status("edits")["runs"]["success"]
        .as_u64()
        .unwrap();
    wait_until(SOON, "the good one runs on", || {
        spool.job_status("edits")["runs"]["success"]
            .as_u64()
            .unwrap()
            > before
    });
    assert_eq!(spool.job_status("edits")["generation"], good);
    // Also when it was refused at the start, and when only a mode makes it bad.
    spool.stop();
    spool.start();
    wait_until(SOON, "the good one runs again", || {
        spool.job_status("edits")["runs"]["success"]
            .as_u64()
            .is_some_and(|runs| runs > 0)
    });
    wait_until(SOON, "still as nobody", || {
        spool.latest_result("edits", "stdout") == "nobody\n"
    });
    fs::write(job.join("job.toml"), &often).unwrap();
    wait_until(SOON, "it is good", || {
        spool.job_status("edits")["problems"] == serde_json::json!([])
    });
    mode(&job.join("job.sh"), 0o664);
    wait_until(SOON, "a group may write it", || {
        spool.job_status("edits")["problems"]
            .to_string()
            .contains("written by a group")
    });
    give(&job, BOB);
    mode(&job.join("job.sh"), 0o644);
    wait_until(SOON, "a new owner is another job", || {
        spool.latest_result("edits", "stdout") == "daemon\n"
    });
}
