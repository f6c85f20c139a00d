//! Editors and tools that people change a job's folder with, the real ones: what each of them does is one
//! reload, of the whole change.
//!
//! Where a tool is missing, its way prints `SKIP`; the calls that these tools make are in the tests of
//! `spool::driver`.

#![expect(clippy::unwrap_used, reason = "tests")]

use std::fs;
use std::io::Write;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;
use std::time::Duration;
use std::time::Instant;

use crate::harness::Keep;
use crate::harness::Logstash;
use crate::harness::SOON;
use crate::harness::Spool;
use crate::harness::spoolbeat;
use crate::harness::wait_until;

/// Never runs while a test does.
const MANUAL: &str = "[script]\nrun = \"job.sh\"\n[schedule]\ncron = \"0 0 1 1 *\"\n";

/// What a way changes: a text that stands in `job.toml` and in `job.sh`.
const BEFORE: &str = "one-before";
const AFTER: &str = "two-after";

/// A way to change a folder.
struct Way {
    job: &'static str,
    /// The program that it needs.
    needs: &'static str,
    /// What the folder is made ready with; run in it, before the daemon is started.
    ready: &'static str,
    /// The change; run in the folder.
    change: &'static str,
}

const fn way(
    job: &'static str,
    needs: &'static str,
    ready: &'static str,
    change: &'static str,
) -> Way {
    Way {
        job,
        needs,
        ready,
        change,
    }
}

const EDITS: &str = "-c '%s/one-before/two-after/' -c wq";

const WAYS: &[Way] = &[
    way(
        "vim-renames",
        "vim",
        "",
        "for f in job.toml job.sh; do vim -N -u NONE -es --cmd 'set backup backupcopy=no' EDITS $f; done",
    ),
    way(
        "vim-in-place",
        "vim",
        "",
        "for f in job.toml job.sh; do vim -N -u NONE -es --cmd 'set backup backupcopy=yes' EDITS $f; done",
    ),
    way(
        "sed-i",
        "sed",
        "",
        "sed -i s/one-before/two-after/ job.toml job.sh",
    ),
    way(
        "rsync",
        "rsync",
        "",
        "rm -rf ../../other && cp -r . ../../other && sed -i s/one-before/two-after/ ../../other/job.* && rsync -a ../../other/ .",
    ),
    way(
        "git-checkout",
        "git",
        "git init -q -b main . && git add . && GIT commit -q -m 1 && git tag first && sed -i s/one-before/two-after/ job.* && GIT commit -q -a -m 2 && git checkout -q first",
        "git checkout -q main",
    ),
    way(
        "cp-over",
        "cp",
        "mkdir ../../copied && sed s/one-before/two-after/ job.toml >../../copied/job.toml && sed s/one-before/two-after/ job.sh >../../copied/job.sh",
        "cp ../../copied/* .",
    ),
    way(
        "mv-onto",
        "mv",
        "cp -r . ../../moved && sed -i s/one-before/two-after/ ../../moved/job.*",
        "cd .. && mv mv-onto ../away && mv ../moved mv-onto",
    ),
    way(
        "mv-exchange",
        "mv",
        "",
        "cd .. && cp -r mv-exchange .mv-exchange && sed -i s/one-before/two-after/ .mv-exchange/job.* && mv mv-exchange .old && mv .mv-exchange mv-exchange && rm -r .old",
    ),
    way(
        "rm-and-cp",
        "cp",
        "cp -r . ../../again && sed -i s/one-before/two-after/ ../../again/job.*",
        "cd .. && rm -r rm-and-cp && cp -r ../again rm-and-cp",
    ),
    way(
        "tar",
        "tar",
        "mkdir ../../packed && for f in job.toml job.sh; do sed s/one-before/two-after/ $f >../../packed/$f; done && tar -C ../../packed -cf ../../packed.tar .",
        "tar -xf ../../packed.tar",
    ),
];

/// Runs shell text in a folder; it must succeed.
fn shell(folder: &Path, text: &str) {
    let text = text.replace("EDITS", EDITS).replace(
        "GIT",
        "git -c user.name=n -c user.email=n@localhost -c commit.gpgsign=false",
    );
    let done = Command::new("sh")
        .args(["-ec", &text])
        .current_dir(folder)
        .envs([
            ("GIT_CONFIG_GLOBAL", "/dev/null"),
            ("GIT_CONFIG_SYSTEM", "/dev/null"),
        ])
        .output()
        .unwrap();
    assert!(done.status.success(), "{text}: {done:?}");
}

fn is_here(program: &str) -> bool {
    let found = Command::new("sh")
        .args(["-c", &format!("command -v {program}")])
        .output()
        .unwrap();
    found.status.success()
}

/// The folder of a job's current generation.
fn generation(spool: &Spool, job: &str) -> std::path::PathBuf {
    let name = spool.job_status(job)["generation"].clone();
    let copies = spool.root().join("state").join(job).join("generations");
    copies.join(name.as_str().unwrap_or("none"))
}

/// Waits until everything that happened before has been looked at and has settled: a folder that is made
/// after it is loaded.
fn fence(spool: &Spool, name: &str) {
    spool.job(name, MANUAL, "job.sh", "true\n");
    wait_until(SOON, "a later folder is loaded", || spool.loads(name) == 1);
}

#[test]
fn each_editor_and_each_tool_is_exactly_one_reload_of_the_whole_change() {
    let logstash = Logstash::new(Keep::Ids);
    let mut spool = Spool::with_defaults(logstash.port());
    let jobs = spool.root().join("jobs");
    let toml = format!("description = \"{BEFORE}\"\n{MANUAL}");
    let ways: Vec<&Way> = WAYS.iter().filter(|way| here(way)).collect();
    for way in &ways {
        spool.job(way.job, &toml, "job.sh", &format!("echo {BEFORE}\n"));
        shell(&jobs.join(way.job), way.ready);
    }
    spool.start();
    wait_until(SOON, "all are loaded", || {
        ways.iter().all(|way| spool.loads(way.job) == 1)
    });
    fence(&spool, "fence-1");
    for way in &ways {
        shell(&jobs.join(way.job), way.change);
    }
    wait_until(SOON, "all are loaded again", || {
        ways.iter().all(|way| spool.loads(way.job) > 1)
    });
    fence(&spool, "fence-2");
    for way in &ways {
        assert_eq!(spool.loads(way.job), 2, "{}", way.job);
        let copy = generation(&spool, way.job);
        for file in ["job.toml", "job.sh"] {
            let text = fs::read_to_string(copy.join(file)).unwrap();
            assert!(text.contains(AFTER), "{}: {file}: {text}", way.job);
        }
        let problems = spool.job_status(way.job)["problems"].clone();
        assert_eq!(problems, serde_json::json!([]), "{}", way.job);
    }
    assert_eq!(spool.said_of("is removed"), 0);
    spool.stop();
}

fn here(way: &Way) -> bool {
    let here = is_here(way.needs);
    if !here {
        drop(writeln!(
            std::io::stdout(),
            "SKIP {}: needs {}",
            way.job,
            way.needs
        ));
    }
    here
}

/// A ConfigMap as the kubelet lays it out: the files are links through `..data`, which is one itself.
fn config_map(folder: &Path, version: &str) {
    let toml = format!("description = \"{version}\"\n{MANUAL}");
    fs::create_dir_all(folder.join(format!("..{version}"))).unwrap();
    for (file, text) in [("job.toml", toml.as_str()), ("job.sh", "true\n")] {
        fs::write(folder.join(format!("..{version}")).join(file), text).unwrap();
        if !folder.join(file).exists() {
            symlink(format!("..data/{file}"), folder.join(file)).unwrap();
        }
    }
    symlink(format!("..{version}"), folder.join("..data_tmp")).unwrap();
    fs::rename(folder.join("..data_tmp"), folder.join("..data")).unwrap();
}

#[test]
fn the_swap_of_a_config_map_is_one_reload() {
    let logstash = Logstash::new(Keep::Ids);
    let mut spool = Spool::with_defaults(logstash.port());
    let jobs = spool.root().join("jobs");
    config_map(&jobs.join("mapped"), "first");
    spool.start();
    wait_until(SOON, "it is loaded", || spool.loads("mapped") == 1);
    for (n, version) in ["second", "third"].iter().enumerate() {
        config_map(&jobs.join("mapped"), version);
        wait_until(SOON, version, || spool.loads("mapped") > n + 1);
        // The kubelet removes what it replaced.
        let former = ["..first", "..second"][n];
        fs::remove_dir_all(jobs.join("mapped").join(former)).unwrap();
        fence(&spool, &format!("fence-{n}"));
        assert_eq!(spool.loads("mapped"), n + 2);
        let copy = generation(&spool, "mapped").join("job.toml");
        assert!(fs::symlink_metadata(&copy).unwrap().is_file());
        assert!(fs::read_to_string(&copy).unwrap().contains(version));
    }
    let check = spoolbeat().arg("check").arg(spool.root()).output().unwrap();
    assert!(check.status.success(), "{check:?}");
    spool.stop();
}

#[test]
fn a_link_that_leads_out_of_its_folder_is_one_clear_refusal() {
    let logstash = Logstash::new(Keep::Ids);
    let mut spool = Spool::with_defaults(logstash.port());
    let jobs = spool.root().join("jobs");
    spool.job("leads-out", MANUAL, "job.sh", "true\n");
    spool.start();
    wait_until(SOON, "it is loaded", || spool.loads("leads-out") == 1);
    fs::write(spool.root().join("outside"), "true\n").unwrap();
    symlink("../../outside", jobs.join("leads-out/new")).unwrap();
    let refused = || spool.job_status("leads-out")["problems"].to_string();
    wait_until(SOON, "it is refused", || {
        refused().contains("put the file itself here")
    });
    let good = spool.job_status("leads-out");
    assert_eq!(good["state"], "idle", "the last good version goes on");
    fence(&spool, "fence");
    assert_eq!(spool.said_of("is a symbolic link"), 1);
    spool.stop();
}

#[test]
fn a_storm_of_writes_is_one_reload_and_costs_little() {
    /// How long it is written.
    const STORM: Duration = Duration::from_secs(3);
    let logstash = Logstash::new(Keep::Ids);
    let mut spool = Spool::with_defaults(logstash.port());
    let file = spool.root().join("jobs/stormy/job.toml");
    let text = |n: u32| format!("description = \"version {n:06}\"\n{MANUAL}");
    spool.job("stormy", &text(0), "job.sh", "true\n");
    spool.start();
    wait_until(SOON, "it is loaded", || spool.loads("stormy") == 1);
    fence(&spool, "fence-1");
    let (started, before) = (Instant::now(), spool.cpu());
    let mut writes = 0;
    // 20 at each look, which are 10 ms and more apart: about 1,000 a second and more.
    wait_until(SOON, "the storm is over", || {
        for _ in 0..20 {
            writes += 1;
            fs::write(&file, text(writes)).unwrap();
        }
        started.elapsed() >= STORM
    });
    let (took, cpu) = (started.elapsed(), spool.cpu() - before);
    let during = spool.loads("stormy");
    wait_until(SOON, "it is loaded again", || spool.loads("stormy") > 1);
    fence(&spool, "fence-2");
    assert_eq!((during, spool.loads("stormy")), (1, 2));
    let copy = fs::read_to_string(generation(&spool, "stormy").join("job.toml")).unwrap();
    assert_eq!(copy, text(writes), "the last one");
    let share = cpu.as_secs_f64() / took.as_secs_f64();
    let figures = format!(
        "{writes} writes in {took:?}: one reload, {:.1} % of a core",
        share * 100.0
    );
    drop(writeln!(std::io::stderr(), "{figures}"));
    assert!(share < 0.2, "{figures}");
    spool.stop();
}
