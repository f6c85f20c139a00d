//! The driver on a real file system, with a short settle; waits are on the channel, with a deadline.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::fs;
use std::os::unix::fs::PermissionsExt;

use super::*;
use crate::disk::OsDisk;
use crate::process;

/// Longer than a busy machine takes between two steps of one edit.
const SETTLE: Duration = Duration::from_millis(300);
/// Far longer than anything here takes.
const DEADLINE: Duration = Duration::from_secs(20);
/// Long enough for a second, wrong, reload to show itself.
const QUIET: Duration = Duration::from_millis(700);

struct Bench {
    dir: tempfile::TempDir,
    spool: Option<Spool>,
    changes: mpsc::Receiver<Change>,
    runtime: tokio::runtime::Runtime,
}

fn checks(output: &str) -> Checks {
    Checks {
        settle: SETTLE,
        rescan: Duration::from_secs(30),
        defaults: Defaults::none(),
        outlets: vec![Outlet::to(output)],
        grants: Grants::default(),
    }
}

impl Bench {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("jobs")).unwrap();
        Self::on(dir)
    }

    fn on(dir: tempfile::TempDir) -> Self {
        let (spool, changes) = start(
            Settings {
                jobs: dir.path().join("jobs"),
                state: dir.path().join("state"),
                daemon: process::own_uid(),
            },
            checks("lumberjack"),
            Arc::new(OsDisk),
        )
        .unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build()
            .unwrap();
        Self {
            dir,
            spool: Some(spool),
            changes,
            runtime,
        }
    }

    /// The same root under a new daemon.
    fn restarted(mut self) -> Self {
        drop(self.spool.take());
        while self.next(DEADLINE).is_some() {}
        Self::on(self.dir)
    }

    fn job(&self, name: &str) -> PathBuf {
        self.dir.path().join("jobs").join(name)
    }

    fn next(&mut self, limit: Duration) -> Option<String> {
        let change = self
            .runtime
            .block_on(async { clock::within(limit, self.changes.recv()).await })??;
        Some(match change {
            Change::Loaded(job) => {
                let script =
                    fs::read_to_string(job.folder.join(&job.task.as_ref().unwrap().script.run))
                        .unwrap();
                format!("loaded {} {} {}", job.name, job.description, script.trim())
            }
            Change::Refused { job, problems } => format!("refused {job} {}", problems[0]),
            Change::Removed { job } => format!("removed {job}"),
            Change::Unreadable { reason } => format!("unreadable {reason}"),
            Change::Readable => "readable".to_owned(),
            Change::Complete => return self.next(limit),
        })
    }

    fn expect(&mut self, change: &str) {
        let next = self.next(DEADLINE).expect("a change before the deadline");
        assert!(next.starts_with(change), "{next:?} instead of {change:?}");
    }

    fn expect_quiet(&mut self) {
        assert_eq!(self.next(QUIET), None);
    }
}

fn toml(description: &str) -> String {
    format!("description = '{description}'\n[script]\nrun = 'a.sh'\n[schedule]\nevery = '1h'\n")
}

fn write_job(folder: &Path, description: &str) {
    fs::create_dir_all(folder).unwrap();
    fs::write(folder.join("a.sh"), "echo 1").unwrap();
    fs::write(folder.join("job.toml"), toml(description)).unwrap();
}

/// A bench with one loaded job.
fn with_job() -> Bench {
    let mut bench = Bench::new();
    write_job(&bench.job("j"), "v1");
    bench.expect("loaded j v1");
    bench
}

#[test]
fn a_folder_that_is_copied_in_is_loaded_once_when_it_is_whole() {
    let mut bench = Bench::new();
    fs::create_dir(bench.job("j")).unwrap();
    fs::write(bench.job("j").join("job.toml"), toml("v1")).unwrap();
    fs::write(bench.job("j").join("a.sh"), "echo 1").unwrap();
    bench.expect("loaded j v1 echo 1");
    bench.expect_quiet();
}

#[test]
fn a_folder_that_is_renamed_in_is_loaded_without_waiting() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("jobs")).unwrap();
    let (spool, mut changes) = start(
        Settings {
            jobs: dir.path().join("jobs"),
            state: dir.path().join("state"),
            daemon: process::own_uid(),
        },
        Checks {
            settle: Duration::from_secs(3600),
            rescan: Duration::from_secs(3600),
            ..checks("lumberjack")
        },
        Arc::new(OsDisk),
    )
    .unwrap();
    // The first job is loaded only if the watch on jobs/ stands, so wait for that by trying anew.
    for n in 0.. {
        let fresh = dir.path().join("jobs/.new");
        write_job(&fresh, "v1");
        fs::rename(&fresh, dir.path().join(format!("jobs/j{n}"))).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build()
            .unwrap();
        let limit = Duration::from_secs(2);
        let change = runtime.block_on(async { clock::within(limit, changes.recv()).await });
        if let Some(Some(Change::Loaded(job))) = change {
            assert_eq!(job.description, "v1");
            break;
        }
        assert!(n < 10, "never loaded");
    }
    drop(spool);
}

#[test]
fn each_way_to_save_a_file_is_one_reload() {
    let mut bench = with_job();
    let file = bench.job("j").join("job.toml");
    let beside = |name: &str| file.with_file_name(name);

    // vim: backup by rename, write anew, remove the backup; and its probe and swap files.
    fs::write(beside(".job.toml.swp"), "swap").unwrap();
    fs::write(beside("4913"), "").unwrap();
    fs::remove_file(beside("4913")).unwrap();
    fs::rename(&file, beside("job.toml~")).unwrap();
    fs::write(&file, toml("vim")).unwrap();
    fs::remove_file(beside("job.toml~")).unwrap();
    bench.expect("loaded j vim");
    bench.expect_quiet();

    // sed -i and rsync: a temporary file beside it, renamed over it.
    for (how, name) in [("sed", "sedq7Xk2p"), ("rsync", ".job.toml.Xk2p1a")] {
        fs::write(beside(name), toml(how)).unwrap();
        fs::set_permissions(beside(name), fs::Permissions::from_mode(0o644)).unwrap();
        fs::rename(beside(name), &file).unwrap();
        bench.expect(&format!("loaded j {how}"));
        bench.expect_quiet();
    }

    // git checkout: each file unlinked and written anew, one after the other.
    for (name, text) in [("a.sh", "echo 2".to_owned()), ("job.toml", toml("git"))] {
        fs::remove_file(beside(name)).unwrap();
        fs::write(beside(name), text).unwrap();
    }
    bench.expect("loaded j git echo 2");
    bench.expect_quiet();

    // In place.
    fs::write(&file, toml("place")).unwrap();
    bench.expect("loaded j place");
    bench.expect_quiet();
    fs::remove_file(beside(".job.toml.swp")).unwrap();
}

#[test]
fn a_touch_reloads_nothing() {
    let mut bench = with_job();
    fs::write(bench.job("j").join("job.toml"), toml("v1")).unwrap();
    bench.spool.as_ref().unwrap().rescan();
    bench.expect_quiet();
}

#[test]
fn a_bad_edit_keeps_the_last_good_generation_also_across_a_restart() {
    let mut bench = with_job();
    let file = bench.job("j").join("job.toml");
    fs::write(&file, toml("v2").replace("1h", "30")).unwrap();
    bench.expect("refused j jobs/j/job.toml:5:9: schedule.every: `30` is not a duration");
    bench.expect_quiet();
    let mut bench = bench.restarted();
    bench.expect("loaded j v1 echo 1");
    bench.expect("refused j jobs/j/job.toml:5:9");
    fs::write(&file, toml("v1")).unwrap();
    bench.expect("loaded j v1");
    bench.expect_quiet();
}

#[test]
fn a_repaired_mode_is_noticed_without_a_restart() {
    let mut bench = with_job();
    let script = bench.job("j").join("a.sh");
    fs::set_permissions(&script, fs::Permissions::from_mode(0o666)).unwrap();
    bench.expect("refused j jobs/j/a.sh: may be written by everybody");
    fs::set_permissions(&script, fs::Permissions::from_mode(0o644)).unwrap();
    bench.expect("loaded j v1");
    bench.expect_quiet();
}

#[test]
fn a_removed_folder_goes_and_a_bad_one_of_its_name_does_not_bring_it_back() {
    let mut bench = with_job();
    fs::remove_dir_all(bench.job("j")).unwrap();
    bench.expect("removed j");
    write_job(&bench.job("j"), "it's");
    bench.expect("refused j jobs/j/job.toml:1");
    bench.expect_quiet();
}

#[test]
fn a_swapped_folder_is_an_edit_and_a_renamed_one_another_job() {
    let mut bench = with_job();
    let fresh = bench.job(".new");
    write_job(&fresh, "v2");
    fs::rename(bench.job("j"), bench.job(".old")).unwrap();
    fs::rename(&fresh, bench.job("j")).unwrap();
    bench.expect("loaded j v2");
    bench.expect_quiet();
    fs::rename(bench.job("j"), bench.job("k")).unwrap();
    bench.expect("removed j");
    bench.expect("loaded k v2");
    bench.expect_quiet();
}

#[test]
fn jobs_stay_while_their_folder_is_away() {
    let mut bench = with_job();
    let away = bench.dir.path().join("away");
    fs::rename(bench.dir.path().join("jobs"), &away).unwrap();
    bench.spool.as_ref().unwrap().rescan();
    bench.expect("unreadable");
    bench.spool.as_ref().unwrap().rescan();
    bench.expect_quiet();
    fs::rename(&away, bench.dir.path().join("jobs")).unwrap();
    bench.spool.as_ref().unwrap().rescan();
    bench.expect("readable");
    fs::write(bench.job("j").join("job.toml"), toml("v2")).unwrap();
    bench.expect("loaded j v2");
    bench.expect_quiet();
}

#[test]
fn links_and_fifos_are_refused_and_never_waited_for() {
    let mut bench = with_job();
    std::os::unix::fs::symlink(bench.job("j"), bench.job("link")).unwrap();
    bench.expect("refused link jobs/link: is a symbolic link");
    let _socket = std::os::unix::net::UnixListener::bind(bench.job("j").join("job.sock")).unwrap();
    bench.expect("refused j jobs/j/job.sock: is a FIFO");
    fs::write(bench.dir.path().join("jobs/README.md"), "not a job").unwrap();
    bench.expect_quiet();
}

#[test]
fn other_settings_check_all_jobs_anew() {
    let mut bench = with_job();
    bench.spool.as_ref().unwrap().configure(Checks {
        rescan: Duration::from_secs(7),
        ..checks("lumberjack")
    });
    bench.expect_quiet();
    bench.spool.as_ref().unwrap().configure(checks("second"));
    bench.expect("loaded j v1");
    bench.expect_quiet();
}

#[test]
fn generations_go_when_nothing_uses_them() {
    let mut bench = with_job();
    let home = bench.dir.path().join("state/j/generations");
    let count = || {
        let names = files::names(&home).unwrap();
        names.iter().filter(|name| name.len() == 16).count()
    };
    for n in 2..6 {
        fs::write(bench.job("j").join("job.toml"), toml(&format!("v{n}"))).unwrap();
        bench.expect(&format!("loaded j v{n}"));
    }
    assert_eq!(count(), 5);
    let spool = bench.spool.as_ref().unwrap();
    spool.retire("j", BTreeSet::new());
    // Told in order: when this is heard, the retirement is done.
    fs::write(bench.job("j").join("job.toml"), toml("v6")).unwrap();
    bench.expect("loaded j v6");
    assert_eq!(count(), 3);
}
