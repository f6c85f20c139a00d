//! The shim and its scripts, with real processes: how they start, end and are ended.

#![expect(clippy::unwrap_used, reason = "tests")]

use std::ffi::OsString;
use std::fs;
use std::io::Read;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::path::PathBuf;
use std::time::Duration;

use spoolbeat::clock;
use spoolbeat::process;
use spoolbeat::process::Child;
use spoolbeat::process::Command;
use spoolbeat::process::Note;
use spoolbeat::process::Rights;
use spoolbeat::run::Exit;
use spoolbeat::run::Order;
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe::Receiver;

/// Longest wait for anything that must happen; reaching it is the failure.
const PATIENCE: Duration = Duration::from_secs(20);

fn shim() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_spoolbeat"))
}

fn command(program: &str, args: &[&str]) -> Command {
    Command {
        program: program.into(),
        args: args.iter().map(OsString::from).collect(),
        env: vec![
            ("PATH".into(), "/usr/bin:/bin".into()),
            ("GREETING".into(), "hello".into()),
        ],
        secrets: Vec::new(),
        cwd: PathBuf::from("/"),
        rights: Rights::own(),
        stdin: None,
        cgroup: None,
    }
}

fn spawn(program: &str, args: &[&str]) -> Child {
    process::spawn(shim(), command(program, args)).unwrap()
}

fn sh(text: &str) -> Child {
    spawn("sh", &["-c", text])
}

async fn soon<F: Future>(future: F) -> F::Output {
    clock::within(PATIENCE, future).await.expect("in time")
}

async fn started(child: &mut Child) -> i32 {
    match soon(child.watch.next()).await {
        Note::Started { pid } => pid,
        other => panic!("not started: {other:?}"),
    }
}

async fn exit(child: &mut Child) -> Exit {
    match soon(child.watch.next()).await {
        Note::Exited(exit) => exit,
        other => panic!("not exited: {other:?}"),
    }
}

async fn gone(child: &mut Child) {
    assert_eq!(soon(child.watch.next()).await, Note::Gone { left: 0 });
}

async fn text(pipe: &mut Receiver) -> String {
    let mut text = String::new();
    soon(pipe.read_to_string(&mut text)).await.unwrap();
    text
}

/// Reads one line: scripts that are to be signalled say `ready` first.
async fn line(pipe: &mut Receiver) -> String {
    let mut bytes = Vec::new();
    while bytes.last() != Some(&b'\n') {
        bytes.push(soon(pipe.read_u8()).await.unwrap());
    }
    String::from_utf8(bytes).unwrap().trim_end().to_owned()
}

/// The reason why `program` could not be started.
async fn refusal(command: Command) -> String {
    let mut child = process::spawn(shim(), command).unwrap();
    let Note::CouldNotStart { reason } = soon(child.watch.next()).await else {
        panic!("it was started");
    };
    assert_eq!(text(&mut child.stdout).await, "");
    gone(&mut child).await;
    reason
}

/// Whether a process lives (a zombie does not).
fn lives(pid: i32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/stat"))
        .is_ok_and(|stat| !stat.rsplit_once(") ").unwrap().1.starts_with('Z'))
}

fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    let end = clock::tick().after(PATIENCE);
    while !holds() {
        assert!(clock::tick() < end, "{what}");
        clock::pause(Duration::from_millis(5));
    }
}

fn file(dir: &Path, name: &str, mode: u32, content: &str) -> PathBuf {
    let path = dir.join(name);
    fs::write(&path, content).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
    path
}

#[tokio::test]
async fn a_script_has_its_own_session_a_clean_environment_and_only_three_descriptors() {
    let mut child = sh(
        "echo $GREETING; env | wc -l; ls /proc/self/fd | tr '\\n' ' '; umask; \
         cat; readlink /proc/self/fd/0; grep -E 'SigBlk|SigIgn|NoNewPrivs' /proc/self/status | tr -d '\\n'; echo; \
         ps -o pid=,sid=,pgid=,tty= -p $$; echo bad >&2; exit 3",
    );
    let pid = started(&mut child).await;
    let out = text(&mut child.stdout).await;
    assert_eq!(text(&mut child.stderr).await, "bad\n");
    let lines: Vec<&str> = out.lines().collect();
    assert_eq!(lines[0], "hello");
    // PATH and GREETING are ours; PWD (and in bash SHLVL and _) are the shell's.
    assert!(lines[1].trim().parse::<u32>().unwrap() <= 5, "{out}");
    assert_eq!(lines[2], "0 1 2 3 0027", "3 is the folder that ls reads");
    assert_eq!(lines[3], "/dev/null");
    assert!(lines[4].contains("NoNewPrivs:\t1"), "{out}");
    assert!(lines[4].contains("SigBlk:\t0000000000000000"), "{out}");
    // 32 and 33 belong to the C library, which lets nobody set them.
    let ignored = lines[4].split_once("SigIgn:\t").unwrap().1;
    let ignored = u64::from_str_radix(&ignored[..16], 16).unwrap();
    assert_eq!(ignored & !0x1_8000_0000, 0, "{out}");
    let ids: Vec<&str> = lines[5].split_whitespace().collect();
    let pid = pid.to_string();
    assert_eq!(ids, [pid.as_str(), pid.as_str(), pid.as_str(), "?"]);
    assert_eq!(exit(&mut child).await, Exit::Code(3));
    gone(&mut child).await;
}

#[tokio::test]
async fn exit_codes_and_signals_are_told_apart() {
    for (text, end) in [
        ("exit 0", Exit::Code(0)),
        ("exit 255", Exit::Code(255)),
        ("exit 137", Exit::Code(137)),
        ("kill -9 $$", Exit::Signal(9)),
        ("kill -SEGV $$", Exit::Signal(11)),
    ] {
        let mut child = sh(text);
        started(&mut child).await;
        assert_eq!(exit(&mut child).await, end, "{text}");
        gone(&mut child).await;
    }
}

#[tokio::test]
async fn a_script_that_ignores_term_dies_by_kill() {
    let mut child = sh("trap 'echo no' TERM; echo ready; while :; do sleep 1; done");
    started(&mut child).await;
    assert_eq!(line(&mut child.stdout).await, "ready");
    child.watch.order(Order::Terminate);
    assert_eq!(line(&mut child.stdout).await, "no");
    child.watch.order(Order::Kill);
    assert_eq!(exit(&mut child).await, Exit::Signal(9));
    gone(&mut child).await;
}

#[tokio::test]
async fn a_stopped_script_gets_its_term() {
    let mut child = sh("echo ready; kill -STOP $$; echo never");
    let pid = started(&mut child).await;
    assert_eq!(line(&mut child.stdout).await, "ready");
    wait_until("it stops", || {
        fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| stat.contains(") T "))
    });
    child.watch.order(Order::Terminate);
    assert_eq!(exit(&mut child).await, Exit::Signal(15));
    gone(&mut child).await;
}

#[tokio::test]
async fn a_stopped_script_dies_by_kill() {
    let mut child = sh("echo ready; kill -STOP $$");
    started(&mut child).await;
    assert_eq!(line(&mut child.stdout).await, "ready");
    child.watch.order(Order::Kill);
    assert_eq!(exit(&mut child).await, Exit::Signal(9));
    gone(&mut child).await;
}

#[tokio::test]
async fn a_daemon_that_a_script_left_holds_its_pipe_until_the_sweep() {
    let mut child = sh("setsid sh -c 'echo $$; exec sleep 1000' & sleep 0.1; exit 0");
    started(&mut child).await;
    let daemon: i32 = line(&mut child.stdout).await.parse().unwrap();
    assert_eq!(exit(&mut child).await, Exit::Code(0));
    assert!(lives(daemon), "it outlives its parent");
    child.watch.order(Order::Kill);
    assert_eq!(text(&mut child.stdout).await, "");
    gone(&mut child).await;
    assert!(!lives(daemon));
}

#[tokio::test]
async fn a_whole_tree_of_sessions_is_swept() {
    let tree = "deep() { echo $$; if [ $1 -gt 0 ]; then setsid sh -c \"$TREE\" x $(($1 - 1)) & fi; exec sleep 1000; }; deep $1";
    let mut tree_command = command("sh", &["-c", tree, "x", "6"]);
    tree_command.env.push(("TREE".into(), tree.into()));
    let mut child = process::spawn(shim(), tree_command).unwrap();
    started(&mut child).await;
    let mut pids = Vec::new();
    for _ in 0..7 {
        pids.push(line(&mut child.stdout).await.parse::<i32>().unwrap());
    }
    child.watch.order(Order::Kill);
    assert_eq!(exit(&mut child).await, Exit::Signal(9));
    gone(&mut child).await;
    assert!(!pids.into_iter().any(lives));
}

#[tokio::test]
async fn a_script_that_closes_its_pipes_runs_on() {
    let mut child = sh("exec >/dev/null 2>&1; sleep 0.3; exit 7");
    started(&mut child).await;
    assert_eq!(text(&mut child.stdout).await, "");
    assert_eq!(text(&mut child.stderr).await, "");
    assert_eq!(exit(&mut child).await, Exit::Code(7));
    gone(&mut child).await;
}

#[tokio::test]
async fn a_refused_start_says_in_words_what_helps() {
    let dir = tempfile::tempdir().unwrap();
    let at = |path: &Path| command(path.to_str().unwrap(), &[]);
    let reason = refusal(command("pwsh-that-nobody-has", &[])).await;
    assert!(
        reason.contains("`pwsh-that-nobody-has` is not installed: no such program on PATH"),
        "{reason}"
    );
    let reason = refusal(at(&dir.path().join("absent"))).await;
    assert!(reason.contains("does not exist"), "{reason}");
    let reason = refusal(at(&file(dir.path(), "plain", 0o644, "#!/bin/sh\n"))).await;
    assert!(reason.contains("not executable: chmod +x"), "{reason}");
    let reason = refusal(at(&file(dir.path(), "bare", 0o755, "echo hi\n"))).await;
    assert!(reason.contains("no `#!` line"), "{reason}");
    let reason = refusal(at(&file(dir.path(), "nothing", 0o755, ""))).await;
    assert!(reason.contains("is empty"), "{reason}");
    let reason = refusal(at(&file(
        dir.path(),
        "crlf",
        0o755,
        "#!/bin/sh\r\necho\r\n",
    )))
    .await;
    assert!(reason.contains("carriage return"), "{reason}");
    let reason = refusal(at(&file(dir.path(), "lost", 0o755, "#!/no/such/thing\n"))).await;
    assert!(
        reason.contains("`/no/such/thing`, which does not exist"),
        "{reason}"
    );
    let reason = refusal(at(&file(dir.path(), "alien", 0o755, "\u{7f}ELF?"))).await;
    assert!(reason.contains("another kind of machine"), "{reason}");
    let mut homeless = command("true", &[]);
    homeless.cwd = dir.path().join("away");
    let reason = refusal(homeless).await;
    assert!(reason.contains("working directory"), "{reason}");
    let mut long = command("true", &[]);
    long.args = vec!["x".repeat(120_000).into(); 10];
    long.env
        .extend((0..16).map(|n| (format!("V{n}").into(), "y".repeat(120_000).into())));
    // Too much for one exec; it may already be too much for the shim's own.
    match process::spawn(shim(), long) {
        Err(error) => assert!(error.to_string().contains("cannot start"), "{error}"),
        Ok(mut child) => {
            let note = soon(child.watch.next()).await;
            assert!(
                matches!(&note, Note::CouldNotStart { reason } if reason.contains("too long")),
                "{note:?}"
            );
        }
    }
}

#[tokio::test]
async fn a_file_that_is_open_for_writing_is_tried_again() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("busy");
    fs::copy("/bin/true", &path).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    let writer = fs::File::options()
        .append(true)
        .mode(0o755)
        .open(&path)
        .unwrap();
    let reason = refusal(command(path.to_str().unwrap(), &[])).await;
    assert!(reason.contains("open for writing"), "{reason}");
    let mut child = spawn(path.to_str().unwrap(), &[]);
    drop(writer);
    started(&mut child).await;
    assert_eq!(exit(&mut child).await, Exit::Code(0));
}

#[tokio::test]
async fn a_dead_shim_counts_as_a_killed_script() {
    let mut child = sh("echo $PPID; sleep 1000 & sleep 1000");
    let pid = started(&mut child).await;
    let shim_pid: i32 = line(&mut child.stdout).await.parse().unwrap();
    let mut kill = std::process::Command::new("kill");
    assert!(
        kill.args(["-9", &shim_pid.to_string()])
            .status()
            .unwrap()
            .success()
    );
    assert_eq!(exit(&mut child).await, Exit::Signal(9));
    gone(&mut child).await;
    // The pipe ends, so the background sleep is gone too.
    assert_eq!(text(&mut child.stdout).await, "");
    wait_until("it is gone", || !lives(pid));
}

#[tokio::test]
async fn a_dropped_child_is_killed() {
    let mut child = sh("setsid sleep 1000 & echo ready; trap '' TERM; while :; do sleep 1; done");
    let pid = started(&mut child).await;
    assert_eq!(line(&mut child.stdout).await, "ready");
    let Child {
        mut stdout, watch, ..
    } = child;
    drop(watch);
    assert_eq!(text(&mut stdout).await, "");
    wait_until("it dies", || !lives(pid));
}

/// The daemon of [`the_death_of_the_daemon_leaves_nothing`]: starts a script and waits to be killed.
#[tokio::test]
async fn helper_that_is_killed() {
    let Some(note) = std::env::var_os("SPOOLBEAT_TEST_KILLED") else {
        return;
    };
    let mut script = command(
        "sh",
        &[
            "-c",
            "trap '' TERM HUP INT; setsid sh -c 'trap \"\" TERM HUP; echo $$ >>\"$NOTE\"; sleep 1000; sleep 1000' & \
             sh -c 'echo $$ >>\"$NOTE\"; sleep 1000' & echo $$ >>\"$NOTE\"; echo $PPID >>\"$NOTE\"; while :; do sleep 1; done",
        ],
    );
    script.env.push(("NOTE".into(), note));
    let mut child = process::spawn(shim(), script).unwrap();
    started(&mut child).await;
    clock::sleep(Duration::from_secs(600)).await;
}

#[test]
fn the_death_of_the_daemon_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let note = dir.path().join("pids");
    let mut daemon = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "process::helper_that_is_killed"])
        .env("SPOOLBEAT_TEST_KILLED", &note)
        .stdout(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let pids = || -> Vec<i32> {
        let mut text = String::new();
        if let Ok(mut file) = fs::File::open(&note) {
            file.read_to_string(&mut text).unwrap();
        }
        text.lines().filter_map(|line| line.parse().ok()).collect()
    };
    wait_until("the tree stands", || pids().len() == 4);
    let tree = pids();
    assert!(tree.iter().all(|pid| lives(*pid)));
    daemon.kill().unwrap();
    daemon.wait().unwrap();
    wait_until("the tree is gone", || !tree.iter().any(|pid| lives(*pid)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn five_hundred_runs_leave_no_descriptor_and_no_zombie() {
    let descriptors = || fs::read_dir("/proc/self/fd").unwrap().count();
    let mine = std::process::id().to_string();
    // By name, since other tests of this process have children too.
    let shims = || {
        fs::read_dir("/proc")
            .unwrap()
            .filter_map(|entry| fs::read_to_string(entry.ok()?.path().join("stat")).ok())
            .filter(|stat| {
                stat.rsplit_once(") ")
                    .is_some_and(|(_, rest)| rest.starts_with(&format!("Z {mine} ")))
            })
            .count()
    };
    let before = descriptors();
    for _ in 0..10 {
        let mut runs = tokio::task::JoinSet::new();
        for _ in 0..50 {
            runs.spawn(async {
                let mut child = sh("echo hi; (sleep 0 &)");
                started(&mut child).await;
                assert_eq!(text(&mut child.stdout).await, "hi\n");
                assert_eq!(exit(&mut child).await, Exit::Code(0));
                child.watch.order(Order::Kill);
                gone(&mut child).await;
            });
        }
        while let Some(run) = runs.join_next().await {
            run.unwrap();
        }
    }
    // Other tests hold descriptors meanwhile, but not this many.
    wait_until("descriptors are closed", || descriptors() < before + 60);
    wait_until("zombies are reaped", || shims() < 20);
}

#[test]
fn the_host_has_a_name_and_we_have_a_path() {
    assert!(!process::hostname().is_empty());
    assert!(process::self_exe().exists());
}
