//! `spoolbeat.toml`: what is taken, what is refused, and where.
#![expect(clippy::unwrap_used, reason = "tests")]

use super::*;
use crate::protocol::frame::Version;
use std::fs;

fn server(output: &crate::config::Output) -> &sink::lumberjack::Settings {
    match &output.kind {
        sink::Settings::Lumberjack(settings) => settings,
        other => panic!("{other:?} is no server"),
    }
}

/// Every key of this step.
const WHOLE: &str = r#"root = "data"
[defaults]
timezone = "Europe/Berlin"
tags = ["all"]
[defaults.script]
timeout = "10m"
[spool]
settle = "2s"
rescan = "10s"
max_concurrent_runs = 8
[output.second]
kind = "lumberjack"
hosts = ["a", "b:1", "[::1]", "[::1]:9"]
bulk_max_size = 100
bulk_max_bytes = "1MiB"
loadbalance = true
version = 1
ttl = "10m"
compression_level = 0
pipelining = 0
timeout = "1s"
ack_stall_timeout = "2s"
backoff = { init = "3s", max = "4s" }
required = false
[output.lumberjack]
hosts = ["${HOST}:5044"]
[queue]
max_bytes = "16MiB"
retain = { age = "0s", bytes = "0" }
durability = { interval = "1s" }
batch_events = 10
batch_bytes = "64KiB"
flush = "50ms"
on_full = "drop_oldest"
compression_level = 9
[results]
bytes = "10MiB"
[receiver]
listen = "127.0.0.1:0"
print = false
[stop]
timeout = "9s"
[log]
level = "debug"
"#;

const SMALL: &str = "[output.lumberjack]\nhosts = ['h']\n";

fn load(text: &str, overrides: &[&str]) -> Result<Root, Vec<String>> {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join(ROOT_FILE), text).unwrap();
    let overrides: Vec<String> = overrides.iter().map(ToString::to_string).collect();
    let lookup: Lookup = |name| (name == "HOST").then(|| "logs".to_owned());
    let place = format!("{}/", dir.path().display());
    load_root_with(dir.path(), &overrides, lookup).map_err(|problems| {
        let texts = problems.iter().map(ToString::to_string);
        texts.map(|text| text.replace(&place, "")).collect()
    })
}

#[test]
fn every_key_is_taken() {
    let root = load(WHOLE, &[]).unwrap();
    assert!(root.dir.is_absolute() && root.dir.ends_with("data"));
    assert_eq!(root.settle, Duration::from_secs(2));
    assert_eq!(root.rescan, Duration::from_secs(10));
    assert_eq!(root.max_concurrent_runs, 8);
    let names: Vec<&str> = root.outputs.iter().map(|o| o.name.as_str()).collect();
    assert_eq!(names, ["second", "lumberjack"], "in the order of the file");
    let second = server(&root.outputs[0]);
    assert_eq!(second.hosts, ["a:5044", "b:1", "[::1]:5044", "[::1]:9"]);
    assert_eq!(
        (
            second.bulk_max_size,
            second.compression_level,
            second.pipelining
        ),
        (100, 0, 0)
    );
    assert_eq!(
        (second.bulk_max_bytes, second.loadbalance, second.version),
        (1 << 20, true, Version::V1)
    );
    assert_eq!(second.ttl, Duration::from_secs(600));
    assert_eq!(second.timeout, Duration::from_secs(1));
    assert_eq!(second.ack_stall_timeout, Duration::from_secs(2));
    assert_eq!(second.backoff_init, Duration::from_secs(3));
    assert_eq!(second.backoff_max, Duration::from_secs(4));
    assert!(!root.outputs[0].required && root.outputs[1].required);
    let first = server(&root.outputs[1]);
    assert_eq!(first.hosts, ["logs:5044"]);
    let queue = queue::Settings {
        max_bytes: 16 << 20,
        retain_age: Duration::ZERO,
        retain_bytes: 0,
        durability: Durability::Interval(Duration::from_secs(1)),
        batch_events: 10,
        batch_bytes: 65_536,
        flush: Duration::from_millis(50),
        compression_level: 9,
        on_full: OnFull::DropOldest,
    };
    assert_eq!(root.queue, queue);
    assert_eq!(root.results_bytes, 10 << 20);
    let receiver = Receiver {
        server: crate::source::lumberjack::Settings::new("127.0.0.1:0", User::own()),
        print: false,
    };
    assert_eq!(root.receiver, Some(receiver));
    assert_eq!(root.stop_timeout, Duration::from_secs(9));
    assert_eq!(root.log.level, "debug");
}

#[test]
fn the_open_collector_has_a_beat_of_its_own() {
    let with = |events: &str| {
        load(
            &format!("[events]\n{events}\n[output.lumberjack]\nhosts = ['a']\n"),
            &[],
        )
    };
    let beat = |name: &str, identifier: &str| {
        Shape::OpenCollector(Beat {
            name: name.to_owned(),
            identifier: identifier.to_owned(),
        })
    };
    assert_eq!(with("shape = 'ecs'").unwrap().shape, Shape::Ecs);
    assert_eq!(
        with("shape = 'opencollector'").unwrap().shape,
        beat("scriptablebeat", "")
    );
    let named = with("shape = 'opencollector'\nbeat = 'jsBeat'\nidentifier = 'edge'").unwrap();
    assert_eq!(named.shape, beat("jsBeat", "edge"));
    let problems = with("identifier = 'edge'").unwrap_err();
    assert!(problems[0].contains("opencollector"), "{problems:?}");
}

#[test]
fn missing_sections_take_their_defaults() {
    let root = load(SMALL, &[]).unwrap();
    assert_eq!(
        (root.settle, root.rescan),
        (Duration::from_secs(1), Duration::from_secs(30))
    );
    assert_eq!(root.max_concurrent_runs, 64);
    assert_eq!(root.queue.max_bytes, 10 << 30);
    assert_eq!(root.queue.durability, Durability::Sync);
    let output = server(&root.outputs[0]);
    assert_eq!((output.bulk_max_size, output.pipelining), (2048, 2));
    assert_eq!(
        (output.bulk_max_bytes, output.version),
        (8 << 20, Version::V2)
    );
    assert!(!output.loadbalance && output.ttl.is_zero());
    assert_eq!(root.results_bytes, 1 << 30);
    assert_eq!(root.receiver, None);
    assert_eq!(root.stop_timeout, Duration::from_secs(5));
    assert_eq!(root.log.level, "info");
    assert!(root.dir.is_absolute());
}

#[test]
fn overrides_win_over_the_file_and_are_named_when_they_are_wrong() {
    let root = load(
        SMALL,
        &[
            "queue.max_bytes=1GiB",
            "queue.batch_events=7",
            "queue.batch_events=8",
            "output.lumberjack.hosts=[\"x:1\"]",
        ],
    )
    .unwrap();
    assert_eq!(root.queue.max_bytes, 1 << 30);
    assert_eq!(root.queue.batch_events, 8, "the last one wins");
    let output = server(&root.outputs[0]);
    assert_eq!(output.hosts, ["x:1"]);
    let found = load(SMALL, &["queue.max_bytes=7", "nonsense=1"]).unwrap_err();
    assert!(
        found[0].starts_with("-E queue.max_bytes=7: queue.max_bytes: `7` is not text"),
        "{found:#?}"
    );
    assert!(
        found[1].starts_with("-E nonsense=1: nonsense: unknown key"),
        "{found:#?}"
    );
    assert!(load(SMALL, &["a"]).unwrap_err()[0].contains("write key=value"));
}

#[test]
fn all_problems_are_reported_at_once_in_the_order_of_the_text() {
    let text = r#"
[spool]
settel = "1s"
[defaults]
timezone = 3
[defaults.script]
timeout = "x"
[output.lumberjack]
hosts = ["::1", "http://x", "a:0", ""]
ssl = { ca = "x" }
backoff = { init = "2s", max = "1s" }
[output.kafka]
hosts = ["a"]
[queue]
max_bytes = "1MiB"
durability = "async"
[receiver]
listen = "5044"
[http]
listen = "127.0.0.1:5067"
[log]
level = "trace"
"#;
    let expected = [
        "spoolbeat.toml:3:1: spool.settel: unknown key `settel`; did you mean `settle`?",
        "spoolbeat.toml:5:12: defaults.timezone: `3` is not text; write timezone = \"Europe/Berlin\"",
        "spoolbeat.toml:7:11: defaults.script.timeout: `x` is not a duration",
        "spoolbeat.toml:9:10: output.lumberjack.hosts: `::1` is not an address: an IPv6 address stands in brackets",
        "spoolbeat.toml:9:17: output.lumberjack.hosts: `http://x` is not an address: it is a URL",
        "spoolbeat.toml:9:29: output.lumberjack.hosts: `a:0` is not an address: there is no port",
        "spoolbeat.toml:9:36: output.lumberjack.hosts: `` is not an address: there is no host",
        "spoolbeat.toml:10:9: output.lumberjack.ssl.ca: unknown key `ca`",
        "spoolbeat.toml:11:32: output.lumberjack.backoff.max: init is longer than max",
        "spoolbeat.toml:12:1: output.kafka.kind: `kafka` is not known here; write one of lumberjack",
        "spoolbeat.toml:15:13: queue.max_bytes: `1MiB` is too small; the least is 16.0 MiB",
        "spoolbeat.toml:16:14: queue.durability: `async` is not known here; did you mean `sync`?",
        "spoolbeat.toml:18:10: receiver.listen: `5044` is not an address: there is no port",
        "spoolbeat.toml:19:2: http: unknown key `http`",
        "spoolbeat.toml:22:9: log.level: `trace` is not known here",
    ];
    let found = load(text, &[]).unwrap_err();
    for (found, expected) in found.iter().zip(expected) {
        assert!(
            found.starts_with(expected),
            "{found}\n  instead of\n{expected}"
        );
    }
    assert_eq!(found.len(), expected.len(), "{found:#?}");
}

#[test]
fn a_root_without_outputs_or_without_a_file_says_what_to_do() {
    let found = load("", &[]).unwrap_err();
    assert!(
        found[0].contains("[output.lumberjack] with hosts"),
        "{found:#?}"
    );
    assert_eq!(load("output = 1", &[]).unwrap_err().len(), 1);
    assert_eq!(load("[output]", &[]).unwrap_err().len(), 1);
    assert!(load("[output.lumberjack]", &[]).unwrap_err()[0].contains("hosts: is missing"));
    let found = load_root(Path::new("/nonexistent"), &[]).unwrap_err();
    assert!(
        found[0].to_string().contains("spoolbeat init DIR"),
        "{found:#?}"
    );
}

#[test]
fn defaults_are_equal_when_they_come_from_equal_text() {
    let with = |text: &str| load(&format!("{SMALL}{text}"), &[]).unwrap().defaults;
    assert_eq!(with(""), with(""));
    assert_ne!(with(""), with("[defaults]\ntags = ['a']\n"));
}

#[test]
fn no_prefix_of_a_valid_file_panics() {
    for end in 0..WHOLE.len() {
        if let Err(problems) = load(&WHOLE[..end], &[]) {
            assert!(!problems.is_empty());
        }
    }
}

#[test]
fn each_kind_of_output_has_its_keys_and_no_two_write_to_one_place() {
    let text = "[output.archive]\nkind = 'file'\npath = 'out/a.ndjson'\nrotate_bytes = '1MiB'\nkeep = 2\ntags = ['idp.*', '!idp.noise']\nrequired = false\nstart = 'oldest'\n[output.stdout]\n";
    let root = load(text, &[]).unwrap();
    let sink::Settings::File(file) = &root.outputs[0].kind else {
        panic!("{:?}", root.outputs[0]);
    };
    assert!(file.path.is_absolute() && file.path.ends_with("out/a.ndjson"));
    assert_eq!((file.rotate_bytes, file.keep), (1 << 20, 2));
    assert_eq!(root.outputs[0].start, queue::Begin::Oldest);
    assert!(root.outputs[0].tags.take("idp.x") && !root.outputs[0].tags.take("idp.noise"));
    assert_eq!(root.outputs[1].kind, sink::Settings::Stdout);
    assert_eq!(root.outputs[1].start, queue::Begin::Newest);
    for (text, expected) in [
        ("[output.file]", "output.file.path: is missing"),
        (
            "[output.file]\npath = 'queue/x'",
            "queue/ of the root is no place",
        ),
        (
            "[output.file]\npath = 'x/../queue/x'",
            "`..` hides where it leads",
        ),
        (
            "[output.file]\npath = './spoolbeat.toml'",
            "is this configuration itself",
        ),
        (
            "[output.file]\npath = 'x'\n[output.b]\nkind = 'file'\npath = 'x.2'",
            "another output writes to",
        ),
        ("[output.file]\npath = '/var/log/'", "names no file"),
        (
            "[output.file]\npath = 'x'\nhosts = ['a']",
            "unknown key `hosts`",
        ),
        (
            "[output.file]\npath = 'x'\ntags = ['!']",
            "an empty pattern",
        ),
        ("[output.file]\npath = 'x'\ntags = []", "names no tag"),
        (
            "[output.file]\npath = 'x'\n[output.b]\nkind = 'file'\npath = './x'",
            "another output writes to",
        ),
        (
            "[output.stdout]\n[output.b]\nkind = 'stdout'",
            "another output writes to standard output",
        ),
        (
            "[output.stdout]\n[receiver]\nlisten = '127.0.0.1:1'",
            "write print = false",
        ),
    ] {
        let found = load(text, &[]).unwrap_err();
        assert_eq!(found.len(), 1, "{found:#?}");
        assert!(found[0].contains(expected), "{text}: {found:#?}");
    }
}

#[test]
fn the_place_of_an_outputs_file_is_known_through_links_and_detours() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("root");
    fs::create_dir_all(root.join("queue")).unwrap();
    std::os::unix::fs::symlink(root.join("queue"), folder.path().join("link")).unwrap();
    let real = root.canonicalize().unwrap();
    assert_eq!(
        output::real_place(&folder.path().join("root/queue/../new/a.ndjson")),
        real.join("new/a.ndjson")
    );
    let text = format!(
        "[output.file]\npath = '{}/a.ndjson'\n",
        folder.path().join("link").display()
    );
    fs::write(root.join("spoolbeat.toml"), text).unwrap();
    // The root is given with a detour, too.
    let found = load_root(&root.join("../root"), &[]).unwrap_err();
    let found = found[0].to_string();
    assert!(found.contains("queue/ of the root is no place"), "{found}");
    fs::write(
        root.join("spoolbeat.toml"),
        "[output.file]\npath = 'a.ndjson'\n",
    )
    .unwrap();
    let taken = load_root(&root.join("../root"), &[]).unwrap();
    assert_eq!(taken.dir, real, "no job has to go through the detour");
    let sink::Settings::File(file) = &taken.outputs[0].kind else {
        panic!("{:?}", taken.outputs)
    };
    assert_eq!(file.path, real.join("a.ndjson"));
    let written = &taken.defaults.written;
    assert!(
        written
            .iter()
            .any(|(_, settings)| settings.path == real.join("a.ndjson")),
        "{written:?}"
    );
}

#[test]
fn two_outputs_do_not_write_to_one_file_by_two_names() {
    let dir = tempfile::tempdir().unwrap();
    let (file, link) = (dir.path().join("x"), dir.path().join("link"));
    fs::write(&file, "").unwrap();
    std::os::unix::fs::symlink(&file, &link).unwrap();
    let text = format!(
        "[output.file]\npath = '{}'\n[output.b]\nkind = 'file'\npath = '{}'",
        file.display(),
        link.display()
    );
    let found = load(&text, &[]).unwrap_err();
    assert!(
        found
            .iter()
            .any(|problem| problem.contains("another output writes to"))
    );
}
