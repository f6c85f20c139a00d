//! `[defaults]`: every key of `job.toml` may stand there, and a job's own wins.
//!
//! The keys are asked of the reader itself, so that a new one cannot be forgotten here.

use std::collections::BTreeMap;
use std::collections::BTreeSet;

use super::*;

/// A key that nobody knows.
const ODD: &str = "zzzzzzzz";

/// What a job says that says nothing else.
const BASE: [&str; 2] = ["script.run = 'collect.py'", "schedule.every = '5m'"];

/// The kinds of schedule: one of them stands for all.
const KINDS: [&str; 5] = ["cron", "every", "every_after", "once", "keep_running"];

/// A key with two values, as TOML, and what else a job needs for it to mean something.
struct Row {
    key: String,
    default: String,
    own: String,
    with: &'static str,
}

fn keys_of(stem: &str, list: &[(&str, &str, &str)], with: &'static str) -> Vec<Row> {
    let row = |(key, default, own): &(&str, &str, &str)| {
        let (start, end) = match stem {
            "files" => ("files = [{ ".to_owned(), " }]"),
            "" => (String::new(), ""),
            _ => (format!("{stem}."), ""),
        };
        let paths = if stem == "files" && *key != "paths" {
            "paths = ['/var/a/*'], "
        } else {
            ""
        };
        let line = |value: &str| match value.split_once(": ") {
            // Another key, which displaces this one.
            Some((other, value)) => format!("{other} = {value}"),
            None => format!("{start}{paths}{key} = {value}{end}"),
        };
        let stem = if stem.is_empty() {
            String::new()
        } else {
            format!("{stem}.")
        };
        Row {
            key: format!("{stem}{key}"),
            default: line(default),
            own: line(own),
            with,
        }
    };
    list.iter().map(row).collect()
}

fn rows() -> Vec<Row> {
    let is_root = crate::process::own_uid() == 0;
    let me = crate::process::User::own().name;
    let (me, other) = (
        format!("'{me}'"),
        if is_root {
            "'nobody'".to_owned()
        } else {
            format!("'{me}'")
        },
    );
    let mut rows = keys_of(
        "",
        &[
            ("description", "'a'", "'b'"),
            ("enabled", "false", "true"),
            ("tag", "'a'", "'b'"),
            ("tags", "['a']", "['b']"),
            ("fields", "{ a = 1 }", "{ a = 2 }"),
        ],
        "",
    );
    rows.extend(keys_of(
        "script",
        &[
            ("run", "'tool'", "'plain'"),
            ("first_run", "'tool'", "'collect.py'"),
            ("startup", "'tool'", "'collect.py'"),
            ("modules", "['a==1']", "['b==1']"),
            ("args", "['a']", "['b']"),
            ("env", "{ A = '1' }", "{ A = '2' }"),
            ("pass_env", "['A']", "['B']"),
            ("user", &other, &me),
            ("umask", "'022'", "'077'"),
            ("secrets", "{ A = 'file:/a' }", "{ A = 'file:/b' }"),
            ("timeout", "'7s'", "'8s'"),
            ("kill_grace", "'7s'", "'8s'"),
            ("cwd", "'state'", "'job'"),
            ("on_stop", "'finish'", "'terminate'"),
            ("on_remove", "'finish'", "'terminate'"),
        ],
        "script.language = 'python'",
    ));
    rows.extend(keys_of("script", &[("language", "'bash'", "'sh'")], ""));
    let groups = if is_root {
        ("group", "'nogroup'", "'root'")
    } else {
        ("group", "'1'", "'2'")
    };
    if is_root {
        rows.extend(keys_of("script", &[groups], ""));
    }
    rows.extend(keys_of(
        "script.limits",
        &[
            ("memory", "'64MiB'", "'65MiB'"),
            ("processes", "7", "8"),
            ("open_files", "17", "18"),
            ("cpu", "'7%'", "'8%'"),
            ("file_size", "'7MiB'", "'8MiB'"),
            ("core", "'7MiB'", "'8MiB'"),
        ],
        "",
    ));
    rows.extend(keys_of(
        "schedule",
        &[
            ("cron", "'1 * * * *'", "'2 * * * *'"),
            ("every", "'7s'", "'8s'"),
            ("every_after", "'7s'", "'8s'"),
            ("once", "true", "schedule.every: '5m'"),
            ("keep_running", "true", "schedule.once: true"),
            ("jitter", "'1s'", "'2s'"),
            ("overlap", "'queue'", "{ parallel = 2 }"),
            ("overlap.parallel", "2", "3"),
            ("missed", "'skip'", "{ all = 2 }"),
            ("missed.all", "2", "3"),
            ("on_pressure", "'stretch'", "'pause'"),
            ("expect_every", "'1h'", "'2h'"),
        ],
        "",
    ));
    let cron = "schedule.cron = '@daily'";
    rows.extend(keys_of(
        "schedule",
        &[("timezone", "'Europe/Berlin'", "'Asia/Tokyo'")],
        cron,
    ));
    rows.extend(keys_of("schedule.restart", &[("max", "1", "2")], ""));
    let most = "schedule.restart.max = 3";
    rows.extend(keys_of(
        "schedule.restart",
        &[("backoff", "'7s'", "'8s'")],
        most,
    ));
    for stream in ["capture.stdout", "capture.stderr"] {
        rows.extend(keys_of(
            stream,
            &[
                ("to", "['log']", "['events']"),
                ("format", "'json'", "'document'"),
                ("max_event", "'7KiB'", "'8KiB'"),
                ("phases", "['startup']", "['run']"),
            ],
            "",
        ));
    }
    let joined = [
        ("pattern", "'^a'", "'^b'"),
        ("negate", "true", "false"),
        ("match", "'after'", "'before'"),
        ("max_lines", "7", "8"),
        ("timeout", "'7s'", "'8s'"),
    ];
    let stdout =
        "capture.stdout.multiline.pattern = '^ '\ncapture.stdout.multiline.match = 'after'";
    let stderr =
        "capture.stderr.multiline.pattern = '^ '\ncapture.stderr.multiline.match = 'after'";
    rows.extend(keys_of("capture.stdout.multiline", &joined, stdout));
    rows.extend(keys_of("capture.stderr.multiline", &joined, stderr));
    rows.extend(keys_of(
        "files",
        &[
            ("paths", "['/var/a/*']", "['/var/b/*']"),
            ("exclude", "['/var/a/x']", "['/var/a/y']"),
            ("when", "'run_end'", "'live'"),
            ("format", "'json'", "'text'"),
            ("max_event", "'7KiB'", "'8KiB'"),
            ("tags", "['a']", "['b']"),
            ("scan", "'7s'", "'8s'"),
            ("partial_timeout", "'7s'", "'8s'"),
            ("after_ack", "'delete'", "{ move = '/var/done' }"),
            ("quiet", "'7s'", "'8s'"),
            ("roots", "['/var/a/b']", "['/var/a/c']"),
            ("empty_folder", "'delete'", "'keep'"),
        ],
        "",
    ));
    rows.extend(keys_of(
        "output",
        &[("to", "['archive']", "['lumberjack']")],
        "",
    ));
    rows.extend(keys_of("results", &[("on_result", "'a'", "'b'")], ""));
    rows.extend(keys_of(
        "results",
        &[("on_result_timeout", "'7s'", "'8s'")],
        "results.on_result = 'a'",
    ));
    rows.extend(keys_of(
        "results.keep",
        &[
            ("runs", "7", "8"),
            ("age", "'7h'", "'8h'"),
            ("bytes", "'7MiB'", "'8MiB'"),
        ],
        "",
    ));
    rows
}

/// The names behind `known here` of a problem about [`ODD`].
fn known_here(text: &str) -> Option<Vec<String>> {
    let Err(problems) = load(text) else {
        return None;
    };
    let odd = format!("unknown key `{ODD}`");
    let message = problems.iter().map(ToString::to_string);
    let mut about = message.filter(|message| message.contains(&odd));
    let (_, names) = about
        .next()?
        .split_once("known here: ")
        .map(|(a, b)| (a.to_owned(), b.to_owned()))?;
    Some(names.split(", ").map(str::to_owned).collect())
}

/// All keys below `stem` that are no tables of keys themselves.
fn leaves(stem: &str, found: &mut BTreeSet<String>) {
    let text = match stem {
        "" => format!("{ODD} = 1"),
        "files" => format!("files = [{{ {ODD} = 1 }}]"),
        stem => format!("{stem}.{ODD} = 1"),
    };
    match known_here(&text) {
        Some(names) => {
            for name in names {
                let dot = if stem.is_empty() { "" } else { "." };
                leaves(&format!("{stem}{dot}{name}"), found);
            }
        }
        None => {
            found.insert(stem.to_owned());
        }
    }
}

/// A job's text of these lines, with those of [`BASE`] and `with` that they do not displace.
fn text_of(row: &Row, lines: &[&str], displaced: &[&str]) -> String {
    let key_of = |line: &str| line.split(" = ").next().unwrap().to_owned();
    let is_kind = |key: &str| KINDS.iter().any(|kind| key == format!("schedule.{kind}"));
    let mut chosen: BTreeMap<String, String> = BTreeMap::new();
    for line in BASE
        .into_iter()
        .chain(row.with.lines())
        .chain(lines.to_vec())
    {
        let key = key_of(line);
        if line.is_empty() {
            continue;
        }
        if is_kind(&key) {
            chosen.retain(|other, _| !is_kind(other));
        }
        chosen.insert(key, line.to_owned());
    }
    for line in displaced {
        let key = key_of(line);
        chosen.retain(|other, _| *other != key && !(is_kind(other) && is_kind(&key)));
    }
    chosen.into_values().map(|line| line + "\n").collect()
}

/// A job apart from where it lies; it may write to two outputs, and to a third one with the tag `b`.
fn job(text: &str, defaults: &Defaults) -> Job {
    let mut tags = routing::Tags::default();
    tags.add("b").unwrap();
    let tagged = Outlet {
        tags,
        ..Outlet::to("tagged")
    };
    let outlets = [Outlet::to("lumberjack"), Outlet::to("archive"), tagged];
    let loaded = load_for(&outlets, text.as_bytes(), defaults);
    let job = loaded.unwrap_or_else(|why| panic!("{text}: {why:?}"));
    Job {
        folder: "/".into(),
        ..job
    }
}

/// What the root configuration says to this text of `[defaults]`.
fn as_root(line: &str) -> Result<(), Vec<Problem>> {
    let dir = tempfile::tempdir().unwrap();
    let text = format!(
        "[output.lumberjack]\nhosts = ['h']\n[output.archive]\nkind = 'lumberjack'\nhosts = ['i']\n[defaults]\n{line}\n"
    );
    fs::write(dir.path().join("spoolbeat.toml"), text).unwrap();
    crate::config::load_root(dir.path(), &[]).map(drop)
}

#[test]
fn every_key_of_a_job_may_be_a_default_and_a_jobs_own_wins() {
    let rows = rows();
    for row in &rows {
        let under = defaults(&format!("[defaults]\n{}\n", row.default));
        let (first, second) = (
            job(&text_of(row, &[&row.default], &[]), &Defaults::none()),
            job(&text_of(row, &[&row.own], &[]), &Defaults::none()),
        );
        assert!(first != second || row.key == "script.user", "{}", row.key);
        let by_default = text_of(row, &[], &[&row.default]);
        assert_eq!(job(&by_default, &under), first, "{}", row.key);
        let with_own = text_of(row, &[&row.own], &[]);
        assert_eq!(job(&with_own, &under), second, "{}: own wins", row.key);
        // Where one key needs another, both are defaults.
        let stem = format!("{} = ", row.key);
        let with = row.with.lines().filter(|line| !line.starts_with(&stem));
        let lines: Vec<&str> = with.chain([row.default.as_str()]).collect();
        assert_eq!(as_root(&lines.join("\n")), Ok(()), "{}", row.key);
    }
}

#[test]
fn no_key_of_a_job_is_left_out_of_the_test_of_defaults() {
    let mut found = BTreeSet::new();
    leaves("", &mut found);
    // What listens has a port, which jobs cannot share.
    let (listening, others): (BTreeSet<_>, BTreeSet<_>) = found
        .into_iter()
        .partition(|key| key.starts_with("source."));
    assert!(listening.len() > 5 && others.len() > 50, "{others:?}");
    let mut tried: BTreeSet<String> = rows().into_iter().map(|row| row.key).collect();
    // Not every user may be a member of two groups.
    tried.insert("script.group".to_owned());
    let forgotten: Vec<&String> = others.difference(&tried).collect();
    assert!(forgotten.is_empty(), "{forgotten:?}");
    let refused = as_root("source.lumberjack.listen = '127.0.0.1:5045'").unwrap_err();
    assert_eq!(refused[0].key, "defaults.source", "{refused:?}");
}
