//! `spoolbeat receive` into files, over TLS, and raw.

#![expect(clippy::unwrap_used, reason = "tests")]

use std::fs;
use std::io::BufRead;
use std::io::BufReader;
use std::io::Read;
use std::io::Write;
use std::path::Path;
use std::process::Child;
use std::process::ChildStderr;
use std::process::Output;
use std::process::Stdio;

use crate::harness::said;
use crate::harness::signal;
use crate::harness::spoolbeat;

/// A receiver that runs, and the address that it said.
pub(crate) struct Receiver {
    child: Option<Child>,
    pub(crate) addr: String,
    words: BufReader<ChildStderr>,
    said: String,
}

impl Receiver {
    pub(crate) fn start(args: &[&str]) -> Self {
        let mut child = spoolbeat()
            .args(["receive", "--listen", "127.0.0.1:0"])
            .args(args)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut words = BufReader::new(child.stderr.take().unwrap());
        let mut said = String::new();
        let addr = loop {
            let before = said.len();
            assert!(words.read_line(&mut said).unwrap() > 0, "{said}");
            if let Some(addr) = said[before..].strip_prefix("listening on ") {
                break addr.trim().to_owned();
            }
        };
        Self {
            child: Some(child),
            addr,
            words,
            said,
        }
    }

    /// Stops it; what it had printed, and what it said.
    pub(crate) fn stop(mut self) -> (Vec<u8>, String) {
        let child = self.child.take().unwrap();
        signal("TERM", child.id());
        self.words.read_to_string(&mut self.said).unwrap();
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success(), "{}", self.said);
        (output.stdout, std::mem::take(&mut self.said))
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            // Nothing can be done about a failure here: it means that it is gone.
            drop(child.kill());
            drop(child.wait());
        }
    }
}

fn send(to: &str, args: &[&str], input: &[u8]) -> Output {
    let mut child = spoolbeat()
        .args(["send", "--retries", "0", "--to", to])
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // Whoever is refused may not read all of it.
    drop(child.stdin.take().unwrap().write_all(input));
    child.wait_with_output().unwrap()
}

fn sent(to: &str, args: &[&str], input: &[u8]) {
    let output = send(to, args, input);
    assert!(output.status.success(), "{}", said(&output));
}

#[test]
fn received_events_are_in_files_when_they_are_acknowledged() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("in/here");
    let to = dir.to_str().unwrap();
    let receiver = Receiver::start(&["--to", to, "--rotate-bytes", "1KiB"]);
    sent(&receiver.addr, &["--json"], b"{\"n\":1}\n{\"n\": 2}\n");
    // Read while it runs: what is acknowledged is there.
    let current = dir.join("received.ndjson");
    assert_eq!(
        fs::read_to_string(&current).unwrap(),
        "{\"n\":1}\n{\"n\": 2}\n"
    );

    let busy = spoolbeat()
        .args(["receive", "--listen", "127.0.0.1:0", "--to", to])
        .output()
        .unwrap();
    assert_eq!(busy.status.code(), Some(75), "{}", said(&busy));
    assert!(said(&busy).contains("another `spoolbeat receive` writes there"));

    sent(&receiver.addr, &[], "x".repeat(2_000).as_bytes());
    sent(&receiver.addr, &["--json"], b"{\"n\":4}\n");
    assert!(receiver.stop().1.contains("received 4 events in "));
    assert_eq!(fs::read_to_string(&current).unwrap(), "{\"n\":4}\n");
    assert!(dir.join("received-0000000001.ndjson").is_file());

    fs::write(&current, "{\"n\":4}\n{\"n\":").unwrap();
    let receiver = Receiver::start(&["--to", to]);
    sent(&receiver.addr, &["--json"], b"{\"n\":5}\n");
    let (_, words) = receiver.stop();
    assert!(words.contains("cut off half an event"), "{words}");
    assert_eq!(
        fs::read_to_string(&current).unwrap(),
        "{\"n\":4}\n{\"n\":5}\n"
    );
}

#[test]
fn raw_events_are_printed_as_they_came() {
    let receiver = Receiver::start(&["--raw"]);
    sent(&receiver.addr, &["--json"], b"{\"a\" : 1.50}\n");
    assert_eq!(receiver.stop().0, b"{\"a\" : 1.50}\n");
}

#[test]
fn a_folder_that_cannot_be_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    fs::write(&file, "mine").unwrap();
    let output = spoolbeat()
        .args([
            "receive",
            "--listen",
            "127.0.0.1:0",
            "--to",
            file.to_str().unwrap(),
        ])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(73), "{}", said(&output));
    assert!(said(&output).contains(file.to_str().unwrap()));
}

/// Makes `ca.pem`, and `NAME.pem` and `NAME.key` for these names.
pub(crate) fn certificates(dir: &Path, names: &[&str]) {
    let key = rcgen::KeyPair::generate().unwrap();
    let mut params = rcgen::CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let ca = params.self_signed(&key).unwrap();
    fs::write(dir.join("ca.pem"), ca.pem()).unwrap();
    let issuer = rcgen::Issuer::new(params, key);
    for name in names {
        let key = rcgen::KeyPair::generate().unwrap();
        let params = rcgen::CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
        let certificate = params.signed_by(&key, &issuer).unwrap();
        fs::write(dir.join(format!("{name}.pem")), certificate.pem()).unwrap();
        fs::write(dir.join(format!("{name}.key")), key.serialize_pem()).unwrap();
    }
}

#[test]
fn clients_and_the_receiver_prove_themselves_to_each_other() {
    let folder = tempfile::tempdir().unwrap();
    certificates(folder.path(), &["server", "client"]);
    let file = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let (ca, cert, key) = (file("ca.pem"), file("client.pem"), file("client.key"));
    let receiver = Receiver::start(&[
        "--tls-cert",
        &file("server.pem"),
        "--tls-key",
        &file("server.key"),
        "--client-ca",
        &ca,
    ]);
    let to = receiver.addr.clone();
    let proven = ["--ca", &ca, "--cert", &cert, "--key", &key];
    sent(&to, &[&["--json"], &proven[..]].concat(), b"{\"n\":1}\n");
    let blind = ["--insecure", "--cert", &cert, "--key", &key];
    sent(&to, &[&["--json"], &blind[..]].concat(), b"{\"n\":2}\n");
    for (args, word) in [
        (
            &["--ca", &ca][..],
            "the server demands a client certificate",
        ),
        (
            &["--ca", &cert, "--cert", &cert, "--key", &key],
            "trusted here",
        ),
        (&[], "the server answers in TLS"),
        (&["--ca", &file("none.pem")], "none.pem cannot be read"),
    ] {
        let output = send(&to, args, b"line\n");
        assert_eq!(
            output.status.code(),
            Some(78),
            "{args:?}: {}",
            said(&output)
        );
        assert!(said(&output).contains(word), "{args:?}: {}", said(&output));
    }
    assert_eq!(receiver.stop().0, b"{\"n\":1}\n{\"n\":2}\n");
}
