//! `[[files]]` of an unprivileged user under a daemon of root: nothing is read, emptied, moved or
//! deleted that the user could not, and what is the user's own is.

use std::fs;
use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::os::unix::fs::chown;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::path::PathBuf;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;
use std::time::Duration;
use std::time::Instant;

use serde_json::Value;

use super::BOB;
use super::CANARY;
use super::MALLORY;
use super::field;
use super::give;
use super::make_node;
use super::mode;
use super::with_canary;
use crate::harness::Keep;
use crate::harness::Logstash;
use crate::harness::Mode;
use crate::harness::SOON;
use crate::harness::Spool;
use crate::harness::needs_root;
use crate::harness::wait_until;

/// How long names are swapped: enough to hit each gap between a look and an open many times.
const SWAP_FOR: Duration = Duration::from_secs(2);

/// The same in the slow form.
const SWAP_LONG: Duration = Duration::from_secs(60);

/// A folder beside the root that belongs to the attacker.
fn land(spool: &Spool) -> PathBuf {
    let land = spool.root().parent().unwrap().join("land");
    fs::create_dir(&land).unwrap();
    chown(&land, Some(MALLORY), Some(MALLORY)).unwrap();
    land
}

/// A file of this owner with this mode.
fn put(path: &Path, text: &str, uid: u32, bits: u32) {
    fs::write(path, text).unwrap();
    mode(path, bits);
    let gid = if uid == 0 { 0 } else { MALLORY };
    chown(path, Some(uid), Some(gid)).unwrap();
}

fn folder(path: &Path, uid: u32, bits: u32) {
    fs::create_dir(path).unwrap();
    mode(path, bits);
    chown(path, Some(uid), None).unwrap();
}

/// The text of a job that reads `glob`.
fn reads(glob: &Path, more: &str) -> String {
    format!(
        "[[files]]\npaths = [\"{}\"]\nscan = \"100ms\"\nquiet = \"100ms\"\n{more}",
        glob.display()
    )
}

/// A job of the attacker, put in at once as a user would.
fn job(spool: &Spool, name: &str, toml: &str) {
    job_of(spool, name, toml, MALLORY);
}

fn job_of(spool: &Spool, name: &str, toml: &str, uid: u32) {
    let job = spool.root().join("jobs").join(name);
    fs::create_dir_all(&job).unwrap();
    fs::write(job.join("job.toml"), toml).unwrap();
    give(&job, uid);
}

fn files(spool: &Spool, job: &str) -> Value {
    spool.job_status(job)["files"].clone()
}

/// Lines that arrived, without what is told of clean-ups.
fn lines(logstash: &Logstash, job: &str) -> Vec<String> {
    let events = logstash.events(job);
    let read = events
        .iter()
        .filter(|event| event["event"]["kind"] != "event");
    let mut lines: Vec<String> = read
        .map(|event| event["message"].as_str().unwrap().to_owned())
        .collect();
    lines.sort();
    lines
}

/// Waits until the job has read two files that were written one after the other: what was there before
/// has been looked at by then.
fn scanned(spool: &Spool, logstash: &Logstash, name: &str, seen: &Path) {
    for round in 0..2 {
        fs::write(seen.join(format!("seen-{round}")), format!("{round}\n")).unwrap();
        mode(&seen.join(format!("seen-{round}")), 0o644);
        wait_until(SOON, name, || {
            assert_ne!(
                spool.job_status(name)["state"],
                "refused",
                "{}",
                spool.job_status(name)
            );
            lines(logstash, name).contains(&round.to_string())
        });
    }
}

#[test]
fn what_a_user_may_not_read_is_not_read_for_their_job() {
    if needs_root("what_a_user_may_not_read_is_not_read_for_their_job") {
        return;
    }
    let logstash = Logstash::new(Keep::Events);
    let mut spool = field(&logstash);
    let land = land(&spool);
    let above = land.parent().unwrap().to_path_buf();
    let secret = above.join("secret");
    let closed = above.join("closed");
    folder(&closed, 0, 0o700);
    put(&closed.join("x.log"), &format!("{CANARY}\n"), 0, 0o644);
    folder(&above.join("bobs"), BOB, 0o700);
    put(
        &above.join("bobs/x.log"),
        &format!("{CANARY}\n"),
        BOB,
        0o644,
    );
    symlink(&secret, land.join("link.log")).unwrap();
    fs::hard_link(&secret, land.join("hard.log")).unwrap();
    symlink(&closed, land.join("way")).unwrap();
    make_new_node(&land.join("fifo.log"), &["p"]);
    make_new_node(&land.join("zero.log"), &["c", "1", "5"]);
    put(&land.join("roots.log"), CANARY, 0, 0o600);
    put(&land.join("groups.log"), CANARY, 0, 0o640);
    let seen = land.join("seen");
    folder(&seen, 0, 0o755);
    let queue = spool.root().join("queue");
    let attacks: Vec<(&str, PathBuf)> = vec![
        ("shadow", "/etc/shadow*".into()),
        ("secret", secret.clone()),
        ("shut-folder", closed.join("*")),
        ("shut-below", closed.join("**/*")),
        ("of-another", above.join("bobs/*.log")),
        ("in-own-folder", land.join("*.log")),
        ("link-as-base", land.join("way/*")),
        ("link-below", land.join("**/*.log")),
        ("environ", "/proc/self/environ".into()),
        ("task", "/proc/self/task/*/environ".into()),
        ("queue", queue.join("*")),
        ("control", spool.root().join("state/*")),
        ("data-of-root", spool.root().join("state/of-root/data/*")),
    ];
    let of_root = spool.root().join("state/of-root/data");
    fs::create_dir_all(&of_root).unwrap();
    put(&of_root.join("x"), CANARY, 0, 0o644);
    mode(&of_root, 0o700);
    for (name, glob) in &attacks {
        let glob = glob.display();
        let toml = format!(
            "[[files]]\npaths = [\"{glob}\", \"{}/*\"]\nscan = \"100ms\"\nquiet = \"100ms\"\nafter_ack = \"delete\"\n",
            seen.join(name).display()
        );
        // Nobody's clean-up takes away what the test is to see.
        folder(&seen.join(name), 0, 0o755);
        let toml = match ["/etc", "/proc"]
            .iter()
            .any(|at| glob.to_string().starts_with(at))
        {
            true => toml.replace("\"delete\"", "\"keep\""),
            false => toml,
        };
        job(&spool, name, &toml);
    }
    spool.start_with(&[("DAEMONS_OWN", CANARY)]);
    for (name, _) in &attacks {
        scanned(&spool, &logstash, name, &seen.join(name));
    }
    assert_eq!(files(&spool, "in-own-folder")["refused_files"], 4);
    spool.stop();
    for (name, _) in &attacks {
        assert_eq!(lines(&logstash, name), ["0", "1"], "{name}");
    }
    fs::remove_dir_all(&of_root).unwrap();
    assert_eq!(with_canary(&spool), [""; 0]);
    for kept in [
        &secret,
        &closed.join("x.log"),
        &land.join("hard.log"),
        &land.join("roots.log"),
    ] {
        assert!(
            fs::read_to_string(kept).unwrap().contains(CANARY),
            "{}",
            kept.display()
        );
    }
}

fn make_new_node(path: &Path, kind: &[&str]) {
    File::create(path).unwrap();
    make_node(path, kind);
}

#[test]
fn a_users_own_files_are_read_and_deleted_after_the_ack_also_when_their_job_is_gone() {
    if needs_root(
        "a_users_own_files_are_read_and_deleted_after_the_ack_also_when_their_job_is_gone",
    ) {
        return;
    }
    let logstash = Logstash::new(Keep::Events);
    logstash.answer(Mode::Never);
    let mut spool = field(&logstash);
    let land = land(&spool);
    mode(&land, 0o700);
    folder(&land.join("sub"), MALLORY, 0o700);
    put(&land.join("a.log"), "1\n2\n", MALLORY, 0o600);
    put(&land.join("sub/b.log"), "3\n", MALLORY, 0o600);
    let toml = reads(
        &land.join("**/*.log"),
        "after_ack = \"delete\"\nempty_folder = \"delete\"\n",
    );
    job(&spool, "own", &toml);
    spool.start();
    wait_until(SOON, "both wait for the ACK", || {
        files(&spool, "own")["waiting_releases"] == 2
    });
    assert_eq!(spool.job_status("own")["user"], "nobody");
    spool.remove("own");
    wait_until(SOON, "the job is gone", || {
        spool.job_status("own")["state"] != "harvesting" && !spool.root().join("jobs/own").exists()
    });
    spool.kill();
    assert!(land.join("a.log").exists() && land.join("sub/b.log").exists());
    spool.start();
    logstash.answer(Mode::All);
    wait_until(SOON, "they are gone", || {
        !land.join("a.log").exists() && !land.join("sub").exists()
    });
    spool.stop();
    let mut arrived = lines(&logstash, "own");
    arrived.dedup();
    assert_eq!(arrived, ["1", "2", "3"]);
}

#[test]
fn a_clean_up_does_nothing_that_the_user_could_not() {
    if needs_root("a_clean_up_does_nothing_that_the_user_could_not") {
        return;
    }
    let logstash = Logstash::new(Keep::Events);
    let mut spool = field(&logstash);
    let land = land(&spool);
    let above = land.parent().unwrap().to_path_buf();
    let roots = above.join("roots");
    folder(&roots, 0, 0o755);
    put(&roots.join("a.log"), "1\n", 0, 0o644);
    let sticky = above.join("sticky");
    folder(&sticky, 0, 0o1777);
    put(&sticky.join("a.log"), "1\n", 0, 0o644);
    for name in ["empties", "moves", "outside", "by-link"] {
        folder(&land.join(name), MALLORY, 0o755);
    }
    put(&land.join("empties/a.log"), "1\n", 0, 0o644);
    put(&land.join("moves/a.log"), "1\n", MALLORY, 0o600);
    put(&land.join("outside/a.log"), "1\n", MALLORY, 0o600);
    put(&land.join("by-link/a.log"), "1\n", MALLORY, 0o600);
    symlink(&roots, land.join("to-roots")).unwrap();
    let delete = "after_ack = \"delete\"\n";
    let to = |folder: &Path| format!("after_ack = {{ move = \"{}\" }}\n", folder.display());
    let outside = format!("{delete}roots = [\"{}\"]\n", roots.display());
    let cases = [
        (
            "deletes",
            roots.join("*.log"),
            delete.to_owned(),
            "Permission denied",
        ),
        (
            "sticky",
            sticky.join("*.log"),
            delete.to_owned(),
            "not permitted",
        ),
        (
            "empties",
            land.join("empties/*.log"),
            "after_ack = \"truncate\"\n".to_owned(),
            "Permission denied",
        ),
        (
            "moves",
            land.join("moves/*.log"),
            to(&roots),
            "Permission denied",
        ),
        (
            "by-link",
            land.join("by-link/*.log"),
            to(&land.join("to-roots")),
            "Permission denied",
        ),
        (
            "outside",
            land.join("outside/*.log"),
            outside,
            "outside of `roots`",
        ),
    ];
    for (name, glob, more, _) in &cases {
        job(&spool, name, &reads(glob, more));
    }
    spool.start();
    for (name, _, _, words) in &cases {
        wait_until(SOON, name, || files(&spool, name)["refused_releases"] == 1);
        let kept = files(&spool, name)["kept"].to_string();
        assert!(kept.contains(words), "{name}: {kept}");
    }
    for (_, glob, ..) in &cases {
        let uid = fs::metadata(glob.with_file_name("a.log")).unwrap().uid();
        put(&glob.with_file_name("b.log"), "2\n", uid, 0o644);
    }
    for (name, ..) in &cases {
        wait_until(SOON, name, || lines(&logstash, name) == ["1", "2"]);
        wait_until(SOON, name, || files(&spool, name)["refused_releases"] == 2);
    }
    spool.stop();
    for (name, glob, ..) in &cases {
        let path = glob.with_file_name("a.log");
        assert_eq!(fs::read_to_string(path).unwrap(), "1\n", "{name}");
        let told = logstash.events(name).len() - lines(&logstash, name).len();
        assert_eq!(told, 2, "{name}: each is told once");
    }
}

#[test]
fn a_file_that_may_not_be_read_any_more_is_told_and_read_on_when_it_may() {
    if needs_root("a_file_that_may_not_be_read_any_more_is_told_and_read_on_when_it_may") {
        return;
    }
    let logstash = Logstash::new(Keep::Events);
    let mut spool = field(&logstash);
    let land = land(&spool);
    let path = land.join("a.log");
    put(&path, "1\n", MALLORY, 0o600);
    job(&spool, "own", &reads(&land.join("*.log"), ""));
    spool.start();
    wait_until(SOON, "the first line arrives", || {
        lines(&logstash, "own") == ["1"]
    });
    spool.stop();
    put(&path, "1\n2\n", 0, 0o600);
    spool.start();
    wait_until(SOON, "it is told", || {
        let problem = files(&spool, "own")["problem"].to_string();
        problem.contains("a.log") && problem.contains("Permission denied")
    });
    chown(&path, Some(MALLORY), None).unwrap();
    wait_until(SOON, "it is read on", || {
        lines(&logstash, "own") == ["1", "2"]
    });
    wait_until(SOON, "nothing is told any more", || {
        files(&spool, "own")["problem"].is_null()
    });
    spool.stop();
}

#[test]
fn files_are_read_as_the_user_and_group_that_roots_job_names_and_a_new_user_goes_on() {
    if needs_root(
        "files_are_read_as_the_user_and_group_that_roots_job_names_and_a_new_user_goes_on",
    ) {
        return;
    }
    let logstash = Logstash::new(Keep::Events);
    let mut spool = field(&logstash);
    let land = land(&spool);
    fs::remove_dir(&land).unwrap();
    folder(&land, 0, 0o755);
    let at = |name: &str| land.join(name);
    put(&at("all.log"), "all\n", 0, 0o644);
    put(&at("nobodys.log"), "nobodys\n", MALLORY, 0o600);
    put(&at("bobs.log"), "bobs\n", BOB, 0o600);
    put(&at("groups.log"), "groups\n", 0, 0o640);
    chown(at("groups.log"), None, Some(4)).unwrap();
    let as_user = |user: &str| {
        let rights = format!("[script]\n{user}\n");
        reads(&land.join("*.log"), &rights)
    };
    job_of(&spool, "reads", &as_user("user = \"nobody\""), 0);
    spool.start();
    wait_until(SOON, "what nobody may read arrives", || {
        lines(&logstash, "reads") == ["all", "nobodys"]
    });
    job_of(
        &spool,
        "reads",
        &as_user("user = \"nobody\"\ngroup = \"4\""),
        0,
    );
    wait_until(SOON, "what its group may read arrives", || {
        lines(&logstash, "reads") == ["all", "groups", "nobodys"]
    });
    job_of(&spool, "reads", &as_user("user = \"1\""), 0);
    wait_until(SOON, "what another user may read arrives", || {
        lines(&logstash, "reads") == ["all", "bobs", "groups", "nobodys"]
    });
    spool.stop();
}

#[test]
fn names_that_are_swapped_while_files_are_read_and_deleted_lead_nowhere() {
    if needs_root("names_that_are_swapped_while_files_are_read_and_deleted_lead_nowhere") {
        return;
    }
    swap_names(SWAP_FOR);
}

#[test]
fn slow_names_that_are_swapped_for_a_minute_lead_nowhere() {
    let test = "slow_names_that_are_swapped_for_a_minute_lead_nowhere";
    if crate::slow::skipped(test) || needs_root(test) {
        return;
    }
    swap_names(SWAP_LONG);
}

/// Puts links to root's folders and files in the place of the user's own, and takes them away.
fn swap_names(how_long: Duration) {
    let logstash = Logstash::new(Keep::Events);
    let mut spool = field(&logstash);
    let land = land(&spool);
    let closed = land.parent().unwrap().join("closed");
    folder(&closed, 0, 0o700);
    // Readable and deletable by anybody who gets here with root's rights, and so named as the user's own.
    for n in 0..20 {
        put(
            &closed.join(format!("{n}.log")),
            &format!("{CANARY}\n"),
            0,
            0o600,
        );
    }
    folder(&land.join("in"), MALLORY, 0o755);
    symlink(&closed, land.join("way")).unwrap();
    symlink(closed.join("0.log"), land.join("link")).unwrap();
    let more = "after_ack = \"delete\"\n";
    job(&spool, "own", &reads(&land.join("**/*.log"), more));
    job(&spool, "base", &reads(&land.join("in/*.log"), more));
    spool.start();
    let over = AtomicBool::new(false);
    let mut made = 0;
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let third = land.join("third");
            while !over.load(Ordering::Relaxed) {
                for (name, aside) in [("in", "way"), ("in/0.log", "link")] {
                    let (name, aside) = (land.join(name), land.join(aside));
                    // There and back; each rename is one step, and may find nothing.
                    for _ in 0..2 {
                        drop(fs::rename(&name, &third));
                        drop(fs::rename(&aside, &name));
                        drop(fs::rename(&third, &aside));
                    }
                }
            }
        });
        let since = Instant::now();
        wait_until(how_long + SOON, "names were swapped", || {
            let path = land.join(format!("in/{}.log", made % 20));
            // Through the link this would be root's file.
            if fs::symlink_metadata(&path).is_err()
                && let Ok(real) = fs::canonicalize(land.join("in"))
                && real == land.join("in")
            {
                let aside = land.join("fresh");
                put(&aside, &format!("{made}\n"), MALLORY, 0o644);
                drop(fs::rename(&aside, &path));
                made += 1;
            }
            since.elapsed() >= how_long
        });
        over.store(true, Ordering::Relaxed);
    });
    // Whatever became of those that were swapped, all still works.
    put(&land.join("last.log"), "last\n", MALLORY, 0o644);
    wait_until(SOON, "the user's own goes", || {
        files(&spool, "own")["released"].as_u64().unwrap_or(0) > 0
    });
    spool.stop();
    assert!(made > 20, "{made}");
    assert_eq!(with_canary(&spool), [""; 0]);
    for n in 0..20 {
        let path = closed.join(format!("{n}.log"));
        let text = fs::read_to_string(&path).unwrap();
        assert!(
            text.contains(CANARY) || text.trim().parse::<u64>().is_ok(),
            "{n}: {text}"
        );
    }
    assert_eq!(fs::read_dir(&closed).unwrap().count(), 20);
}
