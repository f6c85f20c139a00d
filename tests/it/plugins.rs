//! Results on their way to plugins: the real binary, plugins that do what a test tells them, and those
//! that come with Spoolbeat.

#![expect(clippy::unwrap_used, reason = "tests")]

use std::fs;
use std::io::Read;
use std::io::Write;
use std::net::TcpListener;
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use serde_json::Value;

use crate::harness::Keep;
use crate::harness::Logstash;
use crate::harness::SOON;
use crate::harness::Spool;
use crate::harness::lives;
use crate::harness::needs_root;
use crate::harness::said;
use crate::harness::wait_until;

/// Patience with three tries and the waits between them.
const TRIES: Duration = Duration::from_secs(60);

const ONCE: &str = "[script]\nrun = \"job.sh\"\n[schedule]\nonce = true\n";

fn put_plugin(spool: &Spool, name: &str, text: &str) {
    let path = spool.root().join("plugins").join(name);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    // As by a person's `mv`: a try that comes meanwhile sees it whole or not at all.
    let aside = path.with_extension("new");
    fs::write(&aside, text).unwrap();
    fs::set_permissions(&aside, fs::Permissions::from_mode(0o755)).unwrap();
    fs::rename(aside, path).unwrap();
}

/// Puts a plugin there that comes with Spoolbeat, as the manual says.
fn put_shipped(spool: &Spool, name: &str) {
    let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("plugins");
    let to = spool.root().join("plugins");
    fs::create_dir_all(&to).unwrap();
    let copied = Command::new("cp")
        .arg("-r")
        .args([from.join(name), to])
        .status();
    assert!(copied.unwrap().success());
}

fn on_result(name: &str) -> String {
    format!("{ONCE}[results]\non_result = \"{name}\"\n")
}

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or(Value::Null)
}

/// What the result's folder says of the delivery.
fn delivery(spool: &Spool, job: &str) -> Value {
    json(&spool.latest_result(job, "on_result.json"))
}

fn wait_for_delivery(spool: &Spool, job: &str, state: &str) -> Value {
    wait_until(TRIES, &format!("the delivery is {state}"), || {
        delivery(spool, job)["state"] == state
    });
    delivery(spool, job)
}

/// A file in the job's own folder.
fn data(spool: &Spool, job: &str, file: &str) -> PathBuf {
    let state = spool.root().join("state").join(job);
    state.join("data").join(file)
}

#[test]
fn a_plugin_gets_one_document_and_what_the_script_gets_and_no_secret_is_seen() {
    let logstash = Logstash::new(Keep::Events);
    let mut spool = Spool::new(logstash.port());
    let secret = spool.root().join("token");
    fs::write(&secret, "canary-4711\n").unwrap();
    put_plugin(
        &spool,
        "notify.sh",
        "#!/bin/sh\ncat >\"$SPOOLBEAT_STATE_DIR/got\"\nenv >\"$SPOOLBEAT_STATE_DIR/env\"\n\
         echo \"$# arguments in $PWD\"\necho warning >&2\n[ \"$TOKEN\" = canary-4711 ]\n",
    );
    let toml = format!(
        "[script]\nrun = \"job.sh\"\nenv = {{ URL = \"http://there/\" }}\nsecrets = {{ TOKEN = \"file:{}\" }}\n\
         [schedule]\nonce = true\n[results]\non_result = \"notify.sh\"\n",
        secret.display()
    );
    spool.job(
        "disk",
        &toml,
        "job.sh",
        "echo one\necho two\necho three >&2\nexit 3\n",
    );
    spool.start();
    let delivery = wait_for_delivery(&spool, "disk", "delivered");
    assert_eq!(
        (&delivery["plugin"], &delivery["tries"]),
        (&"notify.sh".into(), &1.into())
    );
    let got = json(&fs::read_to_string(data(&spool, "disk", "got")).unwrap());
    // The document is the record of run.json and the events.
    let record = json(&spool.latest_result("disk", "run.json"));
    for (key, value) in record.as_object().unwrap() {
        assert_eq!(&got[key], value, "{key}");
    }
    assert_eq!(
        (&got["outcome"], &got["exit_code"]),
        (&"failed".into(), &3.into())
    );
    assert_eq!(got["events_truncated"], false);
    let mut messages: Vec<&str> = got["events"]
        .as_array()
        .unwrap()
        .iter()
        .map(|event| event["message"].as_str().unwrap())
        .collect();
    messages.sort_unstable();
    assert_eq!(messages, ["one", "three", "two"]);
    // What was sent is what the plugin got, event for event.
    wait_until(SOON, "all events arrive", || {
        logstash.events("disk").len() == 5
    });
    for event in got["events"].as_array().unwrap() {
        let id = &event["event"]["id"];
        let sent = logstash.events("disk");
        let sent = sent.iter().find(|sent| sent["event"]["id"] == *id);
        assert_eq!(sent.unwrap()["message"], event["message"]);
    }
    let env = fs::read_to_string(data(&spool, "disk", "env")).unwrap();
    let run = got["run"].as_str().unwrap();
    for line in [
        "SPOOLBEAT_JOB=disk",
        &format!("SPOOLBEAT_RUN_ID={run}"),
        "URL=http://there/",
        "LANG=C.UTF-8",
    ] {
        assert!(env.lines().any(|is| is == line), "{line} in {env}");
    }
    let printed = spool.latest_result("disk", "on_result.log");
    assert!(printed.contains("0 arguments in /"), "{printed}");
    assert!(printed.contains("warning\n"), "{printed}");
    let status = spool.status();
    assert_eq!(status["totals"]["deliveries"]["delivered"], 1);
    let told = &spool.job_status("disk")["on_result"];
    assert_eq!(
        (&told["plugin"], &told["delivered"], &told["waiting"]),
        (&"notify.sh".into(), &1.into(), &0.into())
    );
    spool.stop();
    let results = Command::new("grep")
        .args(["-r", "canary-4711"])
        .args([spool.root().join("results"), spool.log()])
        .output()
        .unwrap();
    assert_eq!(said(&results), "");
    assert!(!status.to_string().contains("canary-4711"));
}

#[test]
fn a_plugin_that_fails_is_tried_three_times_and_is_no_matter_of_the_run() {
    let logstash = Logstash::new(Keep::Events);
    let mut spool = Spool::new(logstash.port());
    put_plugin(
        &spool,
        "fails",
        "#!/bin/sh\necho no >&2\necho x >>\"$SPOOLBEAT_STATE_DIR/tries\"\nexit 7\n",
    );
    spool.job("disk", &on_result("fails"), "job.sh", "echo hi\n");
    spool.start();
    let first = wait_for_delivery(&spool, "disk", "waiting");
    assert_eq!(first["reason"], "exit code 7");
    assert_eq!(spool.job_status("disk")["on_result"]["waiting"], 1);
    let last = wait_for_delivery(&spool, "disk", "failed");
    assert_eq!(
        (&last["tries"], &last["reason"]),
        (&3.into(), &"exit code 7".into())
    );
    let tries = fs::read_to_string(data(&spool, "disk", "tries")).unwrap();
    assert_eq!(tries, "x\nx\nx\n");
    let job = spool.job_status("disk");
    assert_eq!(
        (&job["on_result"]["failed"], &job["on_result"]["retried"]),
        (&1.into(), &2.into())
    );
    assert_eq!(job["last_run"]["outcome"], "success");
    assert_eq!(spool.latest_result("disk", "on_result.log"), "no\n");
    let table = spool.command(&["status"]);
    assert!(
        said(&table).contains("plugins/fails failed: exit code 7 (0 waiting, 1 given up)"),
        "{}",
        said(&table)
    );
    // Given up is given up, also for the next start.
    spool.stop();
    spool.start();
    spool.job("other", ONCE, "job.sh", "echo hi\n");
    wait_until(SOON, "the daemon has looked at all jobs", || {
        spool.job_status("other")["runs"]["success"] == 1
    });
    assert_eq!(spool.job_status("disk")["on_result"]["waiting"], 0);
    assert_eq!(delivery(&spool, "disk"), last);
    spool.stop();
}

#[test]
fn a_plugin_that_is_missing_is_named_and_works_once_it_is_put_there() {
    let logstash = Logstash::new(Keep::Events);
    let mut spool = Spool::new(logstash.port());
    put_plugin(&spool, "webhook/webhook", "#!/bin/sh\nexit 0\n");
    spool.job("disk", &on_result("webhok"), "job.sh", "echo hi\n");
    let checked = spool.command(&["check"]);
    assert_eq!(checked.status.code(), Some(78), "{}", said(&checked));
    assert!(
        said(&checked).contains("jobs/disk/job.toml:6:13: results.on_result: there is no")
            && said(&checked).contains("did you mean `webhook`?"),
        "{}",
        said(&checked)
    );
    spool.start();
    let first = wait_for_delivery(&spool, "disk", "waiting");
    let why = first["reason"].as_str().unwrap();
    assert!(why.contains("did you mean `webhook`?"), "{why}");
    assert_eq!(spool.job_status("disk")["last_run"]["outcome"], "success");
    put_plugin(&spool, "webhok", "#!/bin/sh\nexit 0\n");
    wait_for_delivery(&spool, "disk", "delivered");
    let checked = spool.command(&["check"]);
    assert!(
        checked.status.success() && said(&checked).contains("results go to plugins/webhok"),
        "{}",
        said(&checked)
    );
    spool.stop();
}

#[test]
fn a_plugin_that_a_stranger_could_write_is_never_started() {
    let logstash = Logstash::new(Keep::Events);
    let mut spool = Spool::new(logstash.port());
    put_plugin(
        &spool,
        "open",
        "#!/bin/sh\ntouch \"$SPOOLBEAT_STATE_DIR/ran\"\n",
    );
    let path = spool.root().join("plugins/open");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o777)).unwrap();
    spool.job("disk", &on_result("open"), "job.sh", "echo hi\n");
    spool.start();
    let tried = wait_for_delivery(&spool, "disk", "waiting");
    let why = tried["reason"].as_str().unwrap();
    assert!(
        why.contains("plugins/open may be written by everybody"),
        "{why}"
    );
    spool.stop();
    assert!(!data(&spool, "disk", "ran").exists());
}

#[test]
fn a_plugin_is_not_started_in_a_data_folder_of_another_user() {
    if needs_root("a folder of another user") {
        return;
    }
    let logstash = Logstash::new(Keep::Events);
    let mut spool = Spool::new(logstash.port());
    put_plugin(&spool, "late", "#!/bin/sh\nexit 1\n");
    spool.job("disk", &on_result("late"), "job.sh", "echo hi\n");
    spool.start();
    wait_for_delivery(&spool, "disk", "waiting");
    spool.kill();
    put_plugin(
        &spool,
        "late",
        "#!/bin/sh\ntouch \"$SPOOLBEAT_STATE_DIR/ran\"\n",
    );
    let folder = spool.root().join("state/disk/data");
    let owner = |to: &str| {
        let chown = Command::new("chown").arg(to).arg(&folder).status();
        assert!(chown.unwrap().success());
    };
    owner("nobody");
    spool.start();
    wait_until(TRIES, "it is refused for its folder", || {
        let reason = &delivery(&spool, "disk")["reason"];
        reason.as_str().is_some_and(|why| {
            why.contains("state/disk/data belongs to user 65534, and the plugin would run as")
        })
    });
    assert!(!data(&spool, "disk", "ran").exists());
    owner("root");
    wait_for_delivery(&spool, "disk", "delivered");
    assert!(data(&spool, "disk", "ran").exists());
    spool.stop();
}

#[test]
fn a_plugin_that_takes_too_long_is_killed_with_all_that_it_started() {
    let logstash = Logstash::new(Keep::Events);
    let mut spool = Spool::new(logstash.port());
    put_plugin(
        &spool,
        "hangs",
        "#!/bin/sh\ntrap '' TERM\nsetsid sleep 1000 &\necho $! $$ >\"$SPOOLBEAT_STATE_DIR/pids\"\nyes\n",
    );
    let toml = format!("{}on_result_timeout = \"300ms\"\n", on_result("hangs"));
    spool.job("disk", &toml, "job.sh", "echo hi\n");
    spool.start();
    let tried = wait_for_delivery(&spool, "disk", "waiting");
    assert_eq!(
        tried["reason"],
        "took longer than its on_result_timeout of 300ms"
    );
    let pids = fs::read_to_string(data(&spool, "disk", "pids")).unwrap();
    for pid in pids.split_whitespace() {
        wait_until(SOON, "it is gone", || !lives(pid));
    }
    let printed = spool.latest_result("disk", "on_result.log");
    assert!(printed.len() < 70_000, "{}", printed.len());
    assert!(printed.ends_with(" bytes left out\n"));
    spool.stop();
}

#[test]
fn a_document_holds_the_first_events_of_a_run_and_says_when_there_were_more() {
    let logstash = Logstash::new(Keep::Events);
    let mut spool = Spool::new(logstash.port());
    put_plugin(
        &spool,
        "keep",
        "#!/bin/sh\ncat >\"$SPOOLBEAT_STATE_DIR/got\"\n",
    );
    let toml = on_result("keep");
    spool.job("many", &toml, "job.sh", "seq 3000\n");
    let long = "for n in $(seq 300); do printf '%0*d\\n' 10000 $n; done\n";
    spool.job("long", &toml, "job.sh", long);
    spool.job("exact", &toml, "job.sh", "seq 1000\n");
    spool.start();
    let got = |job: &str| {
        wait_for_delivery(&spool, job, "delivered");
        let text = fs::read_to_string(data(&spool, job, "got")).unwrap();
        assert!(text.len() < (1 << 20) + (16 << 10), "{}", text.len());
        json(&text)
    };
    let many = got("many");
    let events = many["events"].as_array().unwrap();
    assert_eq!(
        (events.len(), &many["events_truncated"]),
        (1000, &true.into())
    );
    assert_eq!(events[999]["message"], "1000");
    assert_eq!(many["counts"]["events"], 3000);
    let long = got("long");
    let events = long["events"].as_array().unwrap();
    assert!((50..105).contains(&events.len()), "{}", events.len());
    assert_eq!(long["events_truncated"], true);
    let exact = got("exact");
    assert_eq!(exact["events"].as_array().unwrap().len(), 1000);
    assert_eq!(exact["events_truncated"], false);
    spool.stop();
}

#[test]
fn what_a_crash_or_a_stop_keeps_from_its_plugin_is_handed_over_by_the_next_start() {
    let logstash = Logstash::new(Keep::Events);
    let mut spool = Spool::new(logstash.port());
    spool.settings("[stop]\ntimeout = \"300ms\"\n");
    let hang = "#!/bin/sh\ntouch \"$SPOOLBEAT_STATE_DIR/begun\"\nexec sleep 1000\n";
    put_plugin(&spool, "keep", hang);
    spool.job("disk", &on_result("keep"), "job.sh", "echo hi\n");
    spool.start();
    wait_until(SOON, "the plugin hangs", || {
        data(&spool, "disk", "begun").exists()
    });
    // The stop is not held up by it.
    spool.stop();
    assert_eq!(delivery(&spool, "disk"), Value::Null);
    spool.job(
        "cut",
        &on_result("keep"),
        "job.sh",
        "[ -e $SPOOLBEAT_STATE_DIR/second ] && exit\ntouch $SPOOLBEAT_STATE_DIR/second\necho hi\nsleep 1000\n",
    );
    fs::remove_file(data(&spool, "disk", "begun")).unwrap();
    spool.start();
    wait_until(SOON, "the plugin hangs again, and a script", || {
        data(&spool, "disk", "begun").exists() && data(&spool, "cut", "second").exists()
    });
    let run = json(&spool.latest_result("cut", "running.json"))["run"].clone();
    spool.kill();
    put_plugin(
        &spool,
        "keep",
        "#!/bin/sh\ncat >\"$SPOOLBEAT_STATE_DIR/got.$SPOOLBEAT_RUN_ID\"\n",
    );
    spool.start();
    wait_for_delivery(&spool, "disk", "delivered");
    let cut = data(&spool, "cut", &format!("got.{}", run.as_str().unwrap()));
    let mut got = Value::Null;
    wait_until(SOON, "the interrupted run's result", || {
        got = json(&fs::read_to_string(&cut).unwrap_or_default());
        !got.is_null()
    });
    assert_eq!(got["outcome"], "interrupted");
    assert_eq!(
        (&got["events"], &got["events_truncated"]),
        (&serde_json::json!([]), &true.into())
    );
    spool.stop();
}

#[test]
fn run_once_hands_over_what_it_ran() {
    let logstash = Logstash::new(Keep::Events);
    let spool = Spool::new(logstash.port());
    put_plugin(&spool, "ok", "#!/bin/sh\necho done\n");
    spool.job("disk", &on_result("ok"), "job.sh", "echo hi\n");
    let output = spool.command(&["run", "--once"]);
    assert!(output.status.success(), "{}", said(&output));
    assert_eq!(delivery(&spool, "disk")["state"], "delivered");
    assert_eq!(spool.latest_result("disk", "on_result.log"), "done\n");
}

#[test]
fn a_plugin_has_the_rights_of_its_job() {
    if needs_root("a plugin of another user's job") {
        return;
    }
    let logstash = Logstash::new(Keep::Events);
    let mut spool = Spool::new(logstash.port());
    spool.open_to_users();
    put_plugin(
        &spool,
        "who",
        "#!/bin/sh\nid -un\ncat >\"$SPOOLBEAT_STATE_DIR/got\"\ntouch \"$SPOOLBEAT_RESULT_DIR/mine\" 2>/dev/null && echo writes\n\
         head -c 1 <\"$SPOOLBEAT_RESULT_DIR/run.json\"\n",
    );
    spool.job("disk", &on_result("who"), "job.sh", "echo hi\n");
    let folder = spool.root().join("jobs/disk");
    let chown = Command::new("chown")
        .args(["-R", "nobody"])
        .arg(folder)
        .status();
    assert!(chown.unwrap().success());
    spool.start();
    wait_for_delivery(&spool, "disk", "delivered");
    assert_eq!(spool.latest_result("disk", "on_result.log"), "nobody\n{");
    let got = json(&fs::read_to_string(data(&spool, "disk", "got")).unwrap());
    assert_eq!(got["events"][0]["message"], "hi");
    spool.stop();
    // Not even the job's own user can put another plugin in the place of root's.
    let path = spool.root().join("plugins/who");
    let chown = Command::new("chown").arg("nobody").arg(path).status();
    assert!(chown.unwrap().success());
    let checked = said(&spool.command(&["check"]));
    assert!(
        checked.contains("plugins/who belongs to user 65534"),
        "{checked}"
    );
}

/// A web server that answers each request with the next of these statuses, and what it was sent.
fn web_server(statuses: &'static [u16]) -> (u16, mpsc::Receiver<(String, Vec<u8>)>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let (send, received) = mpsc::channel();
    thread::spawn(move || {
        for status in statuses {
            let (mut stream, _) = listener.accept().unwrap();
            send.send(request(&mut stream)).unwrap();
            let answer = format!(
                "HTTP/1.1 {status} X\r\nLocation: http://127.0.0.1:{port}/elsewhere\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
            );
            stream.write_all(answer.as_bytes()).unwrap();
        }
    });
    (port, received)
}

/// Head and body of a request.
fn request(stream: &mut TcpStream) -> (String, Vec<u8>) {
    let mut bytes = Vec::new();
    let mut chunk = [0; 4096];
    loop {
        let end = bytes.windows(4).position(|four| four == b"\r\n\r\n");
        if let Some(end) = end {
            let head = String::from_utf8(bytes[..end].to_vec()).unwrap();
            let length = head.lines().find_map(|line| {
                let (name, value) = line.split_once(": ")?;
                let is_length = name.eq_ignore_ascii_case("content-length");
                is_length.then(|| value.parse::<usize>().unwrap())
            });
            if bytes.len() - end - 4 >= length.unwrap() {
                return (head, bytes[end + 4..].to_vec());
            }
        }
        let count = stream.read(&mut chunk).unwrap();
        assert!(count > 0, "the request ends early");
        bytes.extend_from_slice(&chunk[..count]);
    }
}

/// Whether this machine lacks a program; says so.
fn lacks(program: &str) -> bool {
    let is_there = Command::new(program).arg("--version").output().is_ok();
    if !is_there {
        drop(writeln!(std::io::stdout(), "SKIP no {program}"));
    }
    !is_there
}

#[test]
fn the_webhook_posts_the_document_and_takes_errors_and_redirects_for_failures() {
    if lacks("python3") {
        return;
    }
    let logstash = Logstash::new(Keep::Events);
    let mut spool = Spool::new(logstash.port());
    put_shipped(&spool, "webhook");
    let (port, received) = web_server(&[503, 302, 202]);
    let token = spool.root().join("token");
    fs::write(&token, "canary-4712\n").unwrap();
    let toml = format!(
        "[script]\nrun = \"job.sh\"\nenv = {{ WEBHOOK_URL = \"http://127.0.0.1:{port}/hook?key=canary-4713\" }}\n\
         secrets = {{ WEBHOOK_TOKEN = \"file:{}\" }}\n[schedule]\nonce = true\n[results]\non_result = \"webhook\"\n",
        token.display()
    );
    spool.job("disk", &toml, "job.sh", "echo hi\n");
    spool.start();
    let mut printed = Vec::new();
    for tries in 1..=3 {
        let (head, body) = received.recv_timeout(TRIES).unwrap();
        assert!(
            head.starts_with("POST /hook?key=canary-4713 HTTP/1.1\r\n"),
            "{head}"
        );
        let header = "\r\nAuthorization: Bearer canary-4712";
        assert!(head.contains(header), "{head}");
        let document = spool.latest_result("disk", "document.json");
        assert_eq!(String::from_utf8(body).unwrap(), document);
        assert_eq!(json(&document)["events"][0]["message"], "hi");
        wait_until(SOON, "what became of it is written down", || {
            delivery(&spool, "disk")["tries"] == tries
        });
        printed.push(spool.latest_result("disk", "on_result.log"));
    }
    assert_eq!(
        printed,
        [
            "webhook: 127.0.0.1 answered 503\n",
            "webhook: 127.0.0.1 answered 302\n",
            "127.0.0.1 answered 202\n"
        ]
    );
    assert_eq!(delivery(&spool, "disk")["state"], "delivered");
    spool.stop();
}

#[test]
fn the_webhook_says_what_is_wrong_and_keeps_its_secrets() {
    if lacks("python3") {
        return;
    }
    let plugin = Path::new(env!("CARGO_MANIFEST_DIR")).join("plugins/webhook/webhook");
    let says = |url: &str, token: &str| {
        let output = Command::new(&plugin)
            .env("WEBHOOK_URL", url)
            .env("WEBHOOK_TOKEN", token)
            .stdin(std::process::Stdio::null())
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(1), "{}", said(&output));
        let text = said(&output);
        assert!(!text.contains("canary"), "{text}");
        text
    };
    assert!(says("", "").contains("set WEBHOOK_URL, like env = {"));
    assert!(says("file:///etc/canary", "").contains("set WEBHOOK_URL"));
    assert!(says("http://[canary", "").contains("set WEBHOOK_URL"));
    let closed = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = closed.local_addr().unwrap().port();
    drop(closed);
    let refused = says(&format!("http://127.0.0.1:{port}/canary"), "canary");
    assert!(refused.contains("Connection refused"), "{refused}");
    // Neither a header nor an address that cannot be sent is shown.
    let port = format!("http://127.0.0.1:{port}/");
    assert!(says(&port, "canary\nX: y").contains("ValueError"));
    assert!(says(&format!("{port}canary\u{e9} x"), "").contains("127.0.0.1: "));
}

#[test]
fn result_files_appear_whole_in_their_folder() {
    let logstash = Logstash::new(Keep::Events);
    let mut spool = Spool::new(logstash.port());
    put_shipped(&spool, "result-file");
    let folder = spool.root().join("archive");
    let toml = format!(
        "[script]\nrun = \"job.sh\"\nenv = {{ RESULT_DIR = \"{}\" }}\n[schedule]\nonce = true\n[results]\non_result = \"result-file\"\n",
        folder.display()
    );
    spool.job("disk", &toml, "job.sh", "echo hi\n");
    spool.start();
    let tried = wait_for_delivery(&spool, "disk", "waiting");
    assert_eq!(tried["reason"], "exit code 1");
    let why = spool.latest_result("disk", "on_result.log");
    assert!(why.contains("there is no folder"), "{why}");
    fs::create_dir(&folder).unwrap();
    wait_for_delivery(&spool, "disk", "delivered");
    let files: Vec<_> = fs::read_dir(&folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    let [file] = files.as_slice() else {
        panic!("{files:?}");
    };
    let run = json(&spool.latest_result("disk", "run.json"))["run"].clone();
    let name = format!("disk.{}.json", run.as_str().unwrap());
    assert_eq!(file.file_name().unwrap().to_str().unwrap(), name);
    let document = spool.latest_result("disk", "document.json");
    assert_eq!(fs::read_to_string(file).unwrap(), document);
    spool.stop();
}
