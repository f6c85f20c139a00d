//! `[source.lumberjack]` of an unprivileged user under a daemon of root: its certificate, key and
//! authorities are what the user may read, at each time they are read, and so is its port.

use std::fs;
use std::io::Write;
use std::os::unix::fs::lchown;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::path::PathBuf;

use spoolbeat::lumberjack::client::Client;
use spoolbeat::tls;
use spoolbeat::tls::Identity;

use super::CANARY;
use super::MALLORY;
use super::field;
use super::give;
use super::make_node;
use super::mode;
use super::shut;
use crate::harness::Keep;
use crate::harness::Logstash;
use crate::harness::SOON;
use crate::harness::Spool;
use crate::harness::authority::Authority;
use crate::harness::authority::Wanted;
use crate::harness::needs_root;
use crate::harness::said;
use crate::harness::wait_until;

/// Certificates of one authority in a folder beside the root, with the mode and owner of each file.
struct Keys {
    authority: Authority,
    server: Identity,
}

impl Keys {
    fn new(spool: &Spool, name: &str, uid: u32) -> Self {
        let folder = spool.root().parent().unwrap().join(name);
        fs::create_dir(&folder).unwrap();
        let authority = Authority::new(&folder, "ca");
        let server = authority.signs("server", &Wanted::default());
        mode(&folder, 0o755);
        give(&folder, uid);
        mode(&server.key, 0o600);
        mode(&server.certificate, 0o644);
        mode(&authority.file(), 0o644);
        Self { authority, server }
    }

    /// Whether a client that trusts this authority alone is served at the address.
    fn served(&self, address: &str) -> bool {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let tls = tls::Settings {
            certificate_authorities: vec![self.authority.file()],
            ..tls::Settings::default()
        };
        runtime.block_on(async { Client::to(address).tls(tls).connect().await.is_ok() })
    }
}

fn listens(listen: &str, certificate: &Path, key: &Path, more: &str) -> String {
    format!(
        "[source.lumberjack]\nlisten = \"{listen}\"\n[source.lumberjack.ssl]\ncertificate = \"{}\"\nkey = \"{}\"\n{more}",
        certificate.display(),
        key.display()
    )
}

fn job_of(spool: &Spool, name: &str, toml: &str, uid: u32) {
    let job = spool.root().join("jobs").join(name);
    fs::create_dir_all(&job).unwrap();
    fs::write(job.join("job.toml"), toml).unwrap();
    give(&job, uid);
}

/// Where a job listens, when it does.
fn address(spool: &Spool, job: &str) -> String {
    wait_until(SOON, "the job listens", || {
        let source = &spool.job_status(job)["source"];
        assert_ne!(source["state"], "failed", "{source}");
        source["state"] == "listening"
    });
    let status = spool.job_status(job);
    status["source"]["listen"].as_str().unwrap().to_owned()
}

#[test]
fn a_key_that_a_user_may_not_read_serves_nobody_and_is_told_nothing_of() {
    if needs_root("a_key_that_a_user_may_not_read_serves_nobody_and_is_told_nothing_of") {
        return;
    }
    let logstash = Logstash::new(Keep::Events);
    let mut spool = field(&logstash);
    let secret = spool.root().parent().unwrap().join("secret");
    let roots = Keys::new(&spool, "roots", 0);
    let own = Keys::new(&spool, "own", MALLORY);
    let authorities = format!(
        "client_authentication = \"required\"\ncertificate_authorities = [\"{}\"]\n",
        secret.display()
    );
    let there = |key: &Path, more| listens("127.0.0.1:0", &own.server.certificate, key, more);
    let roots_pair = listens(
        "127.0.0.1:0",
        &roots.server.certificate,
        &roots.server.key,
        "",
    );
    let in_between = own.server.key.with_file_name("link.key");
    symlink(&roots.server.key, &in_between).unwrap();
    lchown(&in_between, Some(MALLORY), Some(MALLORY)).unwrap();
    let shadowed = listens("127.0.0.1:0", &secret, &own.server.key, "");
    for (name, toml) in [
        ("key", roots_pair.clone()),
        ("link", there(&in_between, "")),
        ("secret-key", there(&secret, "")),
        ("secret-certificate", shadowed),
        ("secret-authority", there(&own.server.key, &authorities)),
    ] {
        job_of(&spool, name, &toml, MALLORY);
        let checked = spool.command(&["check", "--job", name]);
        let said = said(&checked);
        assert_eq!(checked.status.code(), Some(78), "{name}: {said}");
        assert!(said.contains("Permission denied"), "{name}: {said}");
        assert!(
            !said.contains(CANARY) && !said.contains("holds"),
            "{name}: {said}"
        );
    }
    // What root's own folder may have.
    job_of(&spool, "roots", &roots_pair, 0);
    spool.start();
    for name in [
        "key",
        "link",
        "secret-key",
        "secret-certificate",
        "secret-authority",
    ] {
        wait_until(SOON, "it is refused", || {
            spool.job_status(name)["state"] == "refused"
        });
        let told = spool.job_status(name).to_string();
        assert!(told.contains("Permission denied"), "{name}: {told}");
    }
    assert!(roots.served(&address(&spool, "roots")));
    spool.stop();
}

#[test]
fn a_key_that_is_swapped_after_the_check_or_between_two_clients_is_not_roots() {
    if needs_root("a_key_that_is_swapped_after_the_check_or_between_two_clients_is_not_roots") {
        return;
    }
    let logstash = Logstash::new(Keep::Events);
    let mut spool = field(&logstash);
    let roots = Keys::new(&spool, "roots", 0);
    let own = Keys::new(&spool, "own", MALLORY);
    let Identity { certificate, key } = own.server.clone();
    let toml = listens("127.0.0.1:0", &certificate, &key, "");
    job_of(&spool, "first", &toml, MALLORY);
    job_of(&spool, "later", &toml, MALLORY);
    spool.start();
    let (first, later) = (address(&spool, "first"), address(&spool, "later"));
    assert!(own.served(&later), "its own key serves");
    let kept =
        |path: &PathBuf| path.with_file_name(format!("kept-{}", path.display()).replace('/', "-"));
    let to_roots = |path: &PathBuf, roots: &Path| {
        fs::rename(path, kept(path)).unwrap();
        symlink(roots, path).unwrap();
    };
    to_roots(&certificate, &roots.server.certificate);
    to_roots(&key, &roots.server.key);
    for round in 0..3 {
        assert!(!roots.served(&first), "at first use, round {round}");
        assert!(!own.served(&first), "nothing was ever good, round {round}");
        assert!(!roots.served(&later), "when read again, round {round}");
        assert!(own.served(&later), "what was good stays, round {round}");
    }
    // A FIFO holds up nobody.
    make_node(&key, &["p"]);
    assert!(own.served(&later), "what was good stays");
    fs::rename(kept(&certificate), &certificate).unwrap();
    fs::rename(kept(&key), &key).unwrap();
    assert!(own.served(&first), "its own again");
    to_roots(&certificate, &roots.server.certificate);
    to_roots(&key, &roots.server.key);
    assert!(own.served(&first), "not roots");
    // Only its owner changes.
    lchown(&roots.server.key, Some(MALLORY), None).unwrap();
    assert!(roots.served(&first), "the user's by now");
    spool.stop();
}

#[test]
fn no_link_of_proc_leads_to_a_key_in_a_folder_that_the_user_cannot_pass() {
    if needs_root("no_link_of_proc_leads_to_a_key_in_a_folder_that_the_user_cannot_pass") {
        return;
    }
    let logstash = Logstash::new(Keep::Events);
    let mut spool = field(&logstash);
    let roots = Keys::new(&spool, "roots", 0);
    mode(&roots.server.key, 0o644);
    let shut = shut(&spool);
    let inside = shut.join("keys");
    fs::rename(roots.server.key.parent().unwrap(), inside).unwrap();
    let by_proc = |file: &Path| {
        let keys = Path::new("/proc/self/cwd/keys");
        keys.join(file.file_name().unwrap())
    };
    let (certificate, key) = (
        by_proc(&roots.server.certificate),
        by_proc(&roots.server.key),
    );
    let toml = listens("127.0.0.1:0", &certificate, &key, "");
    job_of(&spool, "by-proc", &toml, MALLORY);
    spool.start_within(&format!("cd '{}'", shut.display()));
    wait_until(SOON, "it is refused", || {
        spool.job_status("by-proc")["state"] == "refused"
    });
    let told = spool.job_status("by-proc").to_string();
    assert!(told.contains("cannot be read: Too many levels"), "{told}");
    spool.stop();
}

#[test]
fn a_user_listens_on_no_port_that_is_kept_for_root() {
    if needs_root("a_user_listens_on_no_port_that_is_kept_for_root") {
        return;
    }
    let kept = fs::read_to_string("/proc/sys/net/ipv4/ip_unprivileged_port_start").unwrap();
    if kept.trim().parse::<u16>().unwrap() < 1000 {
        let why = "SKIP low ports: those of users begin below 1000 here";
        drop(writeln!(std::io::stdout(), "{why}"));
        return;
    }
    let logstash = Logstash::new(Keep::Events);
    let mut spool = field(&logstash);
    let port = (900..1000)
        .find(|port| std::net::TcpListener::bind(("127.0.0.1", *port)).is_ok())
        .unwrap();
    let toml = format!("[source.lumberjack]\nlisten = \"127.0.0.1:{port}\"\n");
    job_of(&spool, "low", &toml, MALLORY);
    spool.start();
    wait_until(SOON, "it is refused the port", || {
        spool.job_status("low")["source"]["state"] == "failed"
    });
    let told = spool.job_status("low")["source"]["problem"].to_string();
    assert!(
        told.contains("need rights that user nobody does not have"),
        "{told}"
    );
    // The folder is root's now, so the port is as well.
    job_of(&spool, "low", &toml, 0);
    wait_until(SOON, "root has the port", || {
        spool.job_status("low")["source"]["state"] == "listening"
    });
    spool.stop();
}
