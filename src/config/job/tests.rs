//! `job.toml`: what is taken, what is refused, and where.
#![expect(clippy::unwrap_used, reason = "tests")]

use super::*;
use crate::job::Capture;
use crate::job::Format;
use crate::run::Phase;
use crate::schedule::Policy;
use crate::schedule::Schedule;
use crate::schedule::policy::Missed;
use crate::schedule::policy::OnPressure;
use crate::schedule::policy::Overlap;
use crate::schedule::policy::Restart;
use std::fs;
use std::os::unix::fs::PermissionsExt;

use proptest::prelude::*;

mod defaults;

/// Every key of this step.
const WHOLE: &str = r#"description = "Failed logins from ${HOST}"
enabled = false
tags = ["idp", "soc"]
fields = { team = "soc", level = 3, deep = { list = [1, 2.5, true, 2026-11-21] } }

[script]
run = "./collect.py"
language = "python"
args = ["--since", "${SPOOLBEAT_LAST_SUCCESS_AT}", "--host=${HOST}"]
env = { API_URL = "https://${MISSING:-idp.example}" }
pass_env = ["HTTPS_PROXY"]
timeout = "5m"
kill_grace = "3s"
cwd = "state"
on_stop = "finish"
on_remove = "terminate"

[schedule]
cron = "*/5 * * * *"
timezone = "Europe/Berlin"

[capture.stdout]
to = ["events", "log"]
format = "json"
max_event = "64KiB"

[capture.stderr]
to = []

[output]
to = ["lumberjack"]

[results]
keep = { runs = 5, age = "1d", bytes = "1MiB" }
"#;

const SMALL: &str = "[script]\nrun = 'collect.py'\n[schedule]\nevery = '5m'\n";

fn lookup(name: &str) -> Option<String> {
    (name == "HOST").then(|| "h1".to_owned())
}

/// A folder of whoever runs the tests.
fn own() -> Standing {
    Standing {
        owner: crate::process::own_uid(),
        daemon: crate::process::own_uid(),
        grants: super::super::Grants::default(),
    }
}

fn folder() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for (name, mode) in [("collect.py", 0o644), ("tool", 0o755), ("plain", 0o644)] {
        fs::write(dir.path().join(name), "").unwrap();
        let mode = fs::Permissions::from_mode(mode);
        fs::set_permissions(dir.path().join(name), mode).unwrap();
    }
    dir
}

#[test]
fn a_variable_that_is_withheld_is_not_called_unset_and_the_cure_is_named() {
    let dir = folder();
    let text = format!("description = '${{HOST}}'\ntag = '${{HOST:-none}}'\n{SMALL}");
    fs::write(dir.path().join(JOB_FILE), text).unwrap();
    let standing = Standing {
        owner: 65_534,
        daemon: 0,
        grants: super::super::Grants::default(),
    };
    let place = Place {
        name: "idp",
        folder: dir.path(),
        generation: "0123",
        standing: &standing,
    };
    let outlets = ["lumberjack"].map(Outlet::to);
    let found = load_job_with(&place, &Defaults::none(), &outlets, lookup).unwrap_err();
    let told: Vec<String> = found.iter().map(ToString::to_string).collect();
    let told = told.join("\n");
    assert!(
        told.contains("description: the variable HOST is of the daemon's environment"),
        "{told}"
    );
    assert!(
        told.contains("[credentials] with allow = { HOST = [\"idp\"] }"),
        "{told}"
    );
    assert!(
        !told.contains("not set") && !told.contains("tag:"),
        "{told}"
    );
}

fn load_bytes(bytes: &[u8], defaults: &Defaults) -> Result<Job, Vec<Problem>> {
    load_for(&["lumberjack", "archive"].map(Outlet::to), bytes, defaults)
}

fn load_for(outlets: &[Outlet], bytes: &[u8], defaults: &Defaults) -> Result<Job, Vec<Problem>> {
    let dir = folder();
    fs::write(dir.path().join(JOB_FILE), bytes).unwrap();
    let standing = own();
    let place = Place {
        name: "idp",
        folder: dir.path(),
        generation: "0123",
        standing: &standing,
    };
    load_job_with(&place, defaults, outlets, lookup)
}

fn load(text: &str) -> Result<Job, Vec<Problem>> {
    load_bytes(text.as_bytes(), &Defaults::none())
}

fn defaults(text: &str) -> Defaults {
    Defaults::new(vec![Segment {
        start: 0,
        file: "spoolbeat.toml".to_owned(),
        text: text.to_owned(),
        origin: Origin::File,
    }])
}

fn problems(text: &str) -> Vec<String> {
    match load(text) {
        Ok(job) => panic!("{job:?}"),
        Err(problems) => problems.iter().map(ToString::to_string).collect(),
    }
}

/// The one problem of a small job in which `from` was replaced.
fn problem(from: &str, to: &str) -> String {
    let problems = problems(&SMALL.replace(from, to));
    assert_eq!(problems.len(), 1, "{problems:#?}");
    problems[0].clone()
}

#[test]
fn every_key_of_capture_is_taken() {
    let text = format!(
        "{SMALL}\n[capture.stdout]\nformat = 'document'\nphases = ['first_run', 'run']\n\
         [capture.stderr]\nto = ['errors']\n\
         multiline = {{ pattern = '^\\s', negate = true, match = 'before', max_lines = 9, timeout = '1s' }}\n"
    );
    let task = load(&text).unwrap().task.unwrap();
    assert_eq!(task.stdout.format, Format::Document);
    assert_eq!(task.stdout.phases, [Phase::FirstRun, Phase::Run]);
    assert!(task.stdout.in_phase(Phase::FirstRun).events);
    assert!(!task.stdout.in_phase(Phase::Startup).events);
    assert!(task.stderr.errors && !task.stderr.events && !task.stderr.log);
    let multiline = task.stderr.multiline.as_ref().unwrap();
    assert_eq!(multiline.pattern.as_str(), r"^\s");
    assert!(multiline.negate);
    assert_eq!(multiline.side, crate::source::multiline::Side::Before);
    assert_eq!(
        (multiline.max_lines, multiline.timeout),
        (9, Duration::from_secs(1))
    );
}

#[test]
fn captures_that_contradict_themselves_are_refused_with_a_way_out() {
    for (text, word) in [
        (
            "format = 'document'\nmultiline = { pattern = 'a', match = 'after' }",
            "remove multiline",
        ),
        ("format = 'json'\nto = ['errors']", "format = \"text\""),
        (
            "multiline = { pattern = '(', match = 'after' }",
            "is no pattern",
        ),
        ("multiline = { pattern = 'a' }", "match"),
        ("multiline = { match = 'after' }", "pattern"),
        ("phases = ['runs']", "run"),
        ("to = ['event']", "events"),
    ] {
        let problems = load(&format!("{SMALL}\n[capture.stdout]\n{text}\n")).unwrap_err();
        assert_eq!(problems.len(), 1, "{text}: {problems:?}");
        assert!(
            problems[0].to_string().contains(word),
            "{text}: {}",
            problems[0]
        );
    }
}

#[test]
fn every_key_is_taken() {
    let job = load(WHOLE).unwrap();
    assert_eq!(job.description, "Failed logins from h1");
    assert!(!job.enabled);
    assert_eq!(job.tags, ["idp", "soc"]);
    assert_eq!(
        serde_json::Value::Object(job.fields).to_string(),
        r#"{"deep":{"list":[1,2.5,true,"2026-11-21"]},"level":3,"team":"soc"}"#
    );
    assert_eq!(job.task.as_ref().unwrap().script.run, "collect.py");
    assert_eq!(
        job.task.as_ref().unwrap().script.args,
        ["--since", "${SPOOLBEAT_LAST_SUCCESS_AT}", "--host=h1"]
    );
    assert_eq!(
        job.task.as_ref().unwrap().script.env["API_URL"],
        "https://idp.example"
    );
    assert_eq!(job.task.as_ref().unwrap().script.pass_env, ["HTTPS_PROXY"]);
    assert_eq!(
        job.task.as_ref().unwrap().script.timeout,
        Some(Duration::from_secs(300))
    );
    assert_eq!(
        job.task.as_ref().unwrap().script.kill_grace,
        Duration::from_secs(3)
    );
    assert_eq!(job.task.as_ref().unwrap().script.cwd, Cwd::State);
    assert_eq!(job.task.as_ref().unwrap().script.on_stop, AtEnd::Finish);
    assert_eq!(
        job.task.as_ref().unwrap().script.on_remove,
        AtEnd::Terminate
    );
    assert!(matches!(
        job.task.as_ref().unwrap().schedule,
        Schedule::Cron(_)
    ));
    let expected = Capture {
        events: true,
        errors: false,
        log: true,
        format: Format::Json,
        multiline: None,
        max_event: 65_536,
        phases: vec![Phase::Run],
    };
    assert_eq!(job.task.as_ref().unwrap().stdout, expected);
    assert!(!job.task.as_ref().unwrap().stderr.events && !job.task.as_ref().unwrap().stderr.log);
    assert_eq!(job.route, Route::to(vec!["lumberjack".to_owned()]));
    assert_eq!((job.keep.runs, job.keep.bytes), (5, 1 << 20));
}

#[test]
fn what_is_left_out_takes_its_default() {
    let job = load(SMALL).unwrap();
    assert_eq!(job.task.as_ref().unwrap().script.language, Language::Python);
    assert_eq!(job.task.as_ref().unwrap().script.timeout, Some(TIMEOUT));
    assert_eq!(job.task.as_ref().unwrap().script.kill_grace, KILL_GRACE);
    assert!(
        job.enabled
            && job.task.as_ref().unwrap().stdout.events
            && !job.task.as_ref().unwrap().stdout.log
    );
    assert!(job.task.as_ref().unwrap().stderr.events && job.task.as_ref().unwrap().stderr.log);
    assert_eq!(job.task.as_ref().unwrap().stdout.max_event, 1 << 20);
    assert_eq!(job.route.outputs(), ["archive", "lumberjack"]);
    assert_eq!(job.keep.runs, 50);
}

#[test]
fn each_kind_of_schedule_is_taken() {
    for (text, schedule) in [
        (
            "every_after = '100ms'",
            Schedule::EveryAfter(Duration::from_millis(100)),
        ),
        ("once = true", Schedule::Once),
        ("keep_running = true\nonce = false", Schedule::KeepRunning),
    ] {
        let job = load(&SMALL.replace("every = '5m'", text)).unwrap();
        assert_eq!(job.task.as_ref().unwrap().schedule, schedule);
        let limit = (schedule != Schedule::KeepRunning).then_some(TIMEOUT);
        assert_eq!(job.task.as_ref().unwrap().script.timeout, limit);
    }
}

#[test]
fn all_problems_are_reported_at_once_in_the_order_of_the_text() {
    let text = r#"descripton = "x"
enabled = "yes"
[script]
run = "../escape.sh"
timeout = "30"
kill_grace = "0s"
env = { "A-B" = "x", SPOOLBEAT_X = "y" }
[schedule]
every = "30"
cron = "* * * * *"
[capture.stdout]
to = ["event"]
format = "jsonl"
[capture.stdin]
[output]
to = ["lumberjak"]
"#;
    let expected = [
        "jobs/idp/job.toml:1:1: descripton: unknown key `descripton`; did you mean `description`?",
        "jobs/idp/job.toml:2:11: enabled: `\"yes\"` is not true or false; write enabled = true",
        "jobs/idp/job.toml:4:7: script.run: `../escape.sh` leads out of the job's folder",
        "jobs/idp/job.toml:5:11: script.timeout: `30` is not a duration; write a number and a unit, like 200ms, 30s",
        "jobs/idp/job.toml:6:14: script.kill_grace: `0s` is too short; the least is 1ms",
        "jobs/idp/job.toml:7:9: script.env.A-B: `A-B` cannot name a variable",
        "jobs/idp/job.toml:7:22: script.env.SPOOLBEAT_X: `SPOOLBEAT_X` is set by spoolbeat itself",
        "jobs/idp/job.toml:8:1: schedule: has cron and every; keep exactly one of cron, every,",
        "jobs/idp/job.toml:9:9: schedule.every: `30` is not a duration",
        "jobs/idp/job.toml:12:7: capture.stdout.to: `event` is not known here; did you mean `events`?",
        "jobs/idp/job.toml:13:10: capture.stdout.format: `jsonl` is not known here; did you mean `json`?",
        "jobs/idp/job.toml:14:10: capture.stdin: unknown key `stdin`; known here: stdout, stderr",
        "jobs/idp/job.toml:16:7: output.to: `lumberjak` is not known here; did you mean `lumberjack`? (the outputs of spoolbeat.toml)",
    ];
    let found = problems(text);
    assert_eq!(found.len(), expected.len(), "{found:#?}");
    for (found, expected) in found.iter().zip(expected) {
        assert!(
            found.starts_with(expected),
            "{found}\n  instead of\n{expected}"
        );
    }
}

#[test]
fn what_is_missing_is_named_with_an_example() {
    let found = problems("");
    assert_eq!(found.len(), 2, "{found:#?}");
    assert!(
        found[0].contains("[schedule] with every = \"5m\""),
        "{found:#?}"
    );
    assert!(found[1].contains("[script] with run ="), "{found:#?}");
    assert!(
        problem("run = 'collect.py'", "")
            .starts_with("jobs/idp/job.toml:1:1: script.run: is missing")
    );
    assert!(
        problem("every = '5m'", "").starts_with("jobs/idp/job.toml:3:1: schedule: says nothing")
    );
}

/// The policy of a small job with these lines in `[schedule]`.
fn policy(lines: &str) -> Policy {
    let job = load(&SMALL.replace("every = '5m'", lines)).unwrap();
    job.task.unwrap().policy
}

#[test]
fn each_policy_is_taken() {
    let usual = Policy::default();
    assert_eq!(policy("every = '5m'"), usual);
    let restart = Some(Restart {
        max: 5,
        backoff: Duration::from_secs(7),
    });
    for (line, expected) in [
        (
            "jitter = '10s'",
            Policy {
                jitter: Duration::from_secs(10),
                ..usual
            },
        ),
        (
            "overlap = 'queue'",
            Policy {
                overlap: Overlap::Queue,
                ..usual
            },
        ),
        (
            "overlap = 'kill_old'",
            Policy {
                overlap: Overlap::KillOld,
                ..usual
            },
        ),
        (
            "overlap = { parallel = 4 }",
            Policy {
                overlap: Overlap::Parallel(4),
                ..usual
            },
        ),
        (
            "missed = 'skip'",
            Policy {
                missed: Missed::Skip,
                ..usual
            },
        ),
        (
            "missed = { all = 5 }",
            Policy {
                missed: Missed::All(5),
                ..usual
            },
        ),
        (
            "restart = { max = 5, backoff = '7s' }",
            Policy { restart, ..usual },
        ),
        (
            "on_pressure = 'stretch'",
            Policy {
                on_pressure: OnPressure::Stretch,
                ..usual
            },
        ),
    ] {
        assert_eq!(policy(&format!("every = '5m'\n{line}")), expected, "{line}");
    }
    let job = load(&SMALL.replace("every = '5m'", "every = '5m'\nexpect_every = '1h'")).unwrap();
    let expected = Some(Duration::from_secs(3600));
    assert_eq!(job.task.unwrap().expect_every, expected);
}

#[test]
fn a_policy_that_is_none_or_means_nothing_is_refused_where_it_stands() {
    for (lines, expected) in [
        (
            "every = '5m'\noverlap = 'kill'",
            "4:11|5:11: schedule.overlap",
        ),
        (
            "every = '5m'\noverlap = { paralel = 4 }",
            "did you mean `parallel`",
        ),
        (
            "every = '5m'\noverlap = { parallel = 0 }",
            "`0` is not in 1..=1000",
        ),
        (
            "every = '5m'\nmissed = { all = 97 }",
            "`97` is not in 1..=96",
        ),
        (
            "every = '5m'\nrestart = { backoff = '1s' }",
            "schedule.restart.max: is missing",
        ),
        (
            "once = true\njitter = '1s'",
            "5:10: schedule.jitter: goes with cron, every only",
        ),
        (
            "every_after = '5m'\nmissed = 'skip'",
            "5:10: schedule.missed: goes with cron, every only",
        ),
        (
            "keep_running = true\nrestart = { max = 1 }",
            "schedule.restart: goes with cron, every, every_after, once only",
        ),
        (
            "once = true\non_pressure = 'stretch'",
            "needs a period, which once has not",
        ),
        (
            "every = '5m'\ntimezone = 'UTC'",
            "5:12: schedule.timezone: goes with cron only",
        ),
        (
            "once = true\nexpect_every = '5m'",
            "schedule.expect_every: goes with cron",
        ),
    ] {
        let found = problems(&SMALL.replace("every = '5m'", lines)).join("\n");
        let any = expected.split('|').any(|words| found.contains(words));
        assert!(any, "{lines}: {found}");
    }
}

#[test]
fn a_default_policy_holds_where_it_means_something() {
    let text = "[defaults.schedule]\njitter = '9s'\noverlap = { parallel = 3 }\nmissed = 'skip'\n\
        restart = { max = 2 }\non_pressure = 'stretch'\nexpect_every = '1h'\n";
    let of = |lines: &str| {
        let toml = SMALL.replace("every = '5m'", lines);
        let job = load_bytes(toml.as_bytes(), &defaults(text)).unwrap();
        let task = job.task.unwrap();
        (task.policy, task.expect_every.is_some())
    };
    let (every, expects) = of("every = '5m'\noverlap = 'queue'");
    assert_eq!(
        (every.overlap, every.missed),
        (Overlap::Queue, Missed::Skip)
    );
    assert!(expects && every.jitter == Duration::from_secs(9));
    let (once, expects) = of("once = true");
    assert_eq!((once.on_pressure, expects), (OnPressure::Pause, false));
    assert_eq!(once.restart.map(|restart| restart.max), Some(2));
    assert_eq!(of("keep_running = true"), (Policy::default(), true));
}

#[test]
fn a_script_must_be_a_file_of_the_folder_that_can_be_run() {
    for (run, words) in [
        ("/etc/passwd", "leads out"),
        ("a/../../b", "leads out"),
        ("missing.py", "is no file in the folder"),
        ("python collect.py", "arguments stand in args"),
        (".hidden.py", "hidden"),
        ("plain", "language = \"exec\""),
        (".", "is not a plain file"),
        ("", "is not a plain file"),
    ] {
        let found = problem("collect.py", run);
        assert!(
            found.contains(words) && found.contains(":2:7: script.run"),
            "{found}"
        );
    }
    let exec = "collect.py'\nlanguage = 'exec";
    assert!(problem("collect.py", exec).contains("chmod +x collect.py"));
    let tool = SMALL.replace("collect.py", "tool'\nlanguage = 'exec");
    assert_eq!(
        load(&tool).unwrap().task.unwrap().script.language,
        Language::Exec
    );
}

#[test]
fn limits_are_named() {
    assert!(problem("5m", "99ms").contains("`99ms` is too short; the least is 100ms"));
    let big = "5m'\n[capture.stdout]\nmax_event = '9MiB";
    assert!(problem("5m", big).contains("too large; the most is 8.0 MiB"));
    let none = "5m'\n[results]\nkeep = { runs = 0 }\n[output]\nto = ['archive";
    let found = problems(&SMALL.replace("5m'", &format!("{none}']")));
    assert!(found[0].contains("`0` is not in 1..=1000000"), "{found:#?}");
}

#[test]
fn a_variable_that_is_not_set_is_a_problem_at_its_place() {
    let found = problem("every = '5m'", "every = '${PERIOD}'");
    assert!(
        found.contains(":4:9: schedule.every: the variable PERIOD is not set"),
        "{found}"
    );
}

#[test]
fn duplicate_keys_and_syntax_errors_hide_nothing_else() {
    let found = problems(
        "[script]\nrun = 'collect.py'\nrun = 'x.py'\n[schedule]\nevery = 5m\ntimezon = 'UTC'\n",
    );
    assert_eq!(found.len(), 3, "{found:#?}");
    assert!(
        found[0].starts_with("jobs/idp/job.toml:3:1: `run` is there twice"),
        "{found:#?}"
    );
    assert!(
        found[1].starts_with(
            "jobs/idp/job.toml:5:9: `5m` is not a value; text stands in quotes, like \"5m\""
        ),
        "{found:#?}"
    );
    assert!(
        found[2].contains("6:1: schedule.timezon: unknown key"),
        "{found:#?}"
    );
    let found = problems(&SMALL.replace("[schedule]", "[schedule"));
    assert!(
        found[0].starts_with("jobs/idp/job.toml:3:10: not TOML here: ")
            && found[0].ends_with("write tables like [script], and keys like run = \"collect.py\""),
        "{found:#?}"
    );
}

#[test]
fn a_byte_order_mark_is_taken_and_a_nul_is_refused_with_words() {
    load(&format!("\u{feff}{SMALL}")).unwrap();
    let found = problems(&SMALL.replace("5m", "5\0m"));
    assert!(
        found[0].starts_with("jobs/idp/job.toml:4:11: a NUL byte"),
        "{found:#?}"
    );
    let found = load_bytes(b"a = 'x'\nb = '\xff'\n", &Defaults::none()).unwrap_err();
    assert_eq!((found[0].line, found[0].column), (2, 6));
    assert!(problem("every = '5m'", "every = \"5\\u0000m\"").contains("holds a NUL"));
}

#[test]
fn large_deep_and_crowded_files_are_refused_in_few_words() {
    let large = format!("{SMALL}#{}", "x".repeat(1 << 20));
    assert!(problems(&large)[0].contains("larger than 1.0 MiB"));
    let deep = format!(
        "fields = {{ a = {}1{} }}\n{SMALL}",
        "[".repeat(10_000),
        "]".repeat(10_000)
    );
    assert!(
        problems(&deep)
            .iter()
            .any(|p| p.contains("nested too deeply") || p.contains("deep"))
    );
    let dotted = format!("fields{} = 1\n{SMALL}", ".a".repeat(50_000));
    assert!(!problems(&dotted).is_empty());
    let shallow = format!(
        "fields = {{ a = {}1{} }}\n{SMALL}",
        "[".repeat(20),
        "]".repeat(20)
    );
    assert!(problems(&shallow)[0].contains("nested more than 16 deep"));
    let crowd: String = (0..50_000).map(|n| format!("k{n} = 1\n")).collect();
    let found = problems(&format!("{crowd}{SMALL}"));
    assert_eq!(found.len(), 101);
    assert!(found[100].contains("and 49900 more"), "{}", found[100]);
}

#[test]
fn a_wrong_time_zone_is_reported_where_it_stands_also_beside_a_wrong_cron() {
    let text =
        "[script]\nrun = 'collect.py'\n[schedule]\ncron = '61 * * * *'\ntimezone = 'Berlin'\n";
    let problems = load_bytes(text.as_bytes(), &Defaults::none()).unwrap_err();
    let said: Vec<String> = problems.iter().map(ToString::to_string).collect();
    assert_eq!(said.len(), 2, "{said:?}");
    assert!(said[0].starts_with("jobs/idp/job.toml:4:8: schedule.cron: `61 * * * *`"));
    assert!(said[1].starts_with("jobs/idp/job.toml:5:12: schedule.timezone: `Berlin` is not a"));
    let text = text.replace("61", "*/5");
    let problems = load_bytes(text.as_bytes(), &Defaults::none()).unwrap_err();
    assert_eq!(problems.len(), 1, "{problems:?}");
    assert_eq!(problems[0].key, "schedule.timezone");
}

#[test]
fn a_jobs_own_keys_win_over_the_defaults() {
    let text = "[defaults]\ntags = ['all']\ntimezone = 'Europe/Berlin'\nfields = { site = 'a', team = 'x' }\n\
        [defaults.script]\ntimeout = '7s'\nlanguage = 'bash'\n[defaults.schedule]\nevery = '9m'\n";
    let job = load_bytes(
        format!("fields = {{ team = 'soc' }}\n{SMALL}").as_bytes(),
        &defaults(text),
    )
    .unwrap();
    assert_eq!(
        job.task.as_ref().unwrap().schedule,
        Schedule::Every(Duration::from_secs(300))
    );
    assert_eq!(
        job.task.as_ref().unwrap().script.timeout,
        Some(Duration::from_secs(7))
    );
    assert_eq!(job.task.as_ref().unwrap().script.language, Language::Bash);
    assert_eq!(job.tags, ["all"]);
    assert_eq!(
        serde_json::Value::Object(job.fields).to_string(),
        r#"{"site":"a","team":"soc"}"#
    );
    let only = load_bytes(b"[script]\nrun = 'collect.py'\n", &defaults(text)).unwrap();
    assert_eq!(
        only.task.unwrap().schedule,
        Schedule::Every(Duration::from_secs(540))
    );
    let kept = SMALL.replace("every = '5m'", "keep_running = true");
    let job = load_bytes(kept.as_bytes(), &defaults(text)).unwrap();
    assert_eq!(
        job.task.as_ref().unwrap().script.timeout,
        None,
        "a default limit is not for kept-running jobs"
    );
}

#[test]
fn a_problem_of_the_defaults_names_the_file_that_it_stands_in() {
    let text = "# root\n[defaults.script]\nrun = 'none.sh'\n";
    let found = load_bytes(b"[schedule]\nevery = '1m'\n", &defaults(text)).unwrap_err();
    assert_eq!(found.len(), 1, "{found:#?}");
    assert!(
        found[0]
            .to_string()
            .starts_with("spoolbeat.toml:3:7: script.run: `none.sh`"),
        "{}",
        found[0]
    );
}

#[test]
fn a_name_that_cannot_be_a_jobs_is_refused() {
    let dir = folder();
    let found = load_job("a b", dir.path(), "0", &own(), &Defaults::none(), &[]).unwrap_err();
    assert!(found[0].to_string().contains("like idp-logins"));
}

#[test]
fn no_prefix_of_a_valid_file_panics_and_none_is_taken_for_another_job() {
    for end in 0..WHOLE.len() {
        if let Ok(job) = load(&WHOLE[..end]) {
            assert_eq!(job.task.as_ref().unwrap().script.run, "collect.py");
            assert!(
                matches!(job.task.as_ref().unwrap().schedule, Schedule::Cron(_)),
                "cut at {end}"
            );
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn no_change_of_a_valid_file_panics(at in 0..WHOLE.len(), len in 0..20_usize, with in "[\\[\\]{}=.,'\"a1\n$ \u{e4}]{0,6}") {
        let mut bytes = WHOLE.as_bytes().to_vec();
        let end = (at + len).min(bytes.len());
        bytes.splice(at..end, with.bytes());
        if let Err(problems) = load_bytes(&bytes, &Defaults::none()) {
            prop_assert!(!problems.is_empty());
        }
    }
}

#[test]
fn a_wrong_expression_and_a_wrong_zone_are_both_reported_at_their_places() {
    let cron = "cron = '61 * * * *'\ntimezone = 'Europe/Berln'";
    let found = problems(&SMALL.replace("every = '5m'", cron));
    assert_eq!(found.len(), 2, "{found:#?}");
    assert!(
        found[0].starts_with("jobs/idp/job.toml:4:8: schedule.cron: `61 * * * *`"),
        "{found:#?}"
    );
    assert!(
        found[1].starts_with("jobs/idp/job.toml:5:12: schedule.timezone: `Europe/Berln`"),
        "{found:#?}"
    );
}

#[test]
fn a_folder_without_a_job_file_is_told_what_to_write() {
    let dir = folder();
    let none = Defaults::none();
    let problems = load_job("idp", dir.path(), "", &own(), &none, &[]).unwrap_err();
    let words = problems[0].to_string();
    assert!(
        words.contains("there is no such file; write one: [script] with run = \"collect.py\""),
        "{words}"
    );
}

const LISTENS: &str = "[source.lumberjack]\nlisten = \"0.0.0.0:5044\"\n";

#[test]
fn a_job_may_only_listen_for_beats() {
    let job = load(LISTENS).unwrap();
    assert!(job.task.is_none());
    let settings = job.receive.unwrap();
    assert_eq!(
        settings,
        crate::source::lumberjack::Settings::new("0.0.0.0:5044", crate::process::User::own())
    );
    let all = format!(
        "{LISTENS}max_window = 2048\nmax_frame = \"1MiB\"\nmax_inflated = \"16MiB\"\nmax_connections = 9\n\
         max_connections_per_peer = 3\nclient_inactivity_timeout = \"60s\"\n"
    );
    let settings = load(&all).unwrap().receive.unwrap();
    let limits = settings.limits;
    assert_eq!(limits.window_events, 2048);
    assert_eq!(
        (limits.frame_bytes, limits.window_bytes),
        (1 << 20, 16 << 20)
    );
    assert_eq!(
        (settings.connections, settings.connections_per_peer),
        (9, 3)
    );
    assert_eq!(settings.idle_timeout, Some(Duration::from_secs(60)));
    // Defaults for scripts and events are none of its business, and a script beside it is.
    let under = defaults(
        "[defaults]\ntags = [\"all\"]\nfields = { a = 1 }\n[defaults.script]\ntimeout = \"1m\"\n",
    );
    let job = load_bytes(LISTENS.as_bytes(), &under).unwrap();
    assert!(job.task.is_none());
    let both = load(&format!("{SMALL}{LISTENS}")).unwrap();
    assert!(both.task.is_some() && both.receive.is_some());
}

#[test]
fn what_cannot_be_listened_by_is_explained_at_its_place() {
    for (text, wanted) in [
        (
            "[source]\n",
            ":1:1: source.lumberjack: is missing; write [source.lumberjack]",
        ),
        (
            "[source.lumberjack]\n",
            ":1:1: source.lumberjack.listen: is missing; write listen = \"0.0.0.0:5044\"",
        ),
        (
            "[source.lumberjack]\nlisten = \"5044\"\n",
            ":2:10: source.lumberjack.listen: `5044` is not an address",
        ),
        (
            "[source.beats]\nlisten = \"0.0.0.0:5044\"\n",
            "unknown key `beats`; known here: lumberjack",
        ),
        (
            &format!("{LISTENS}max_windows = 7\n"),
            ":3:1: source.lumberjack.max_windows: unknown key `max_windows`; did you mean `max_window`?",
        ),
        (
            &format!("{LISTENS}max_window = 20000\n"),
            "`20000` is not in 1..=10000",
        ),
        (
            &format!("{LISTENS}max_frame = \"1GiB\"\n"),
            "`1GiB` is too large; the most is 10.0 MiB",
        ),
        (
            &format!("{LISTENS}[source.lumberjack.ssl]\n"),
            "source.lumberjack.ssl.certificate: is missing",
        ),
        (
            &format!("tags = [\"a\"]\n{LISTENS}"),
            ":1:9: tags: events of [source.lumberjack] pass byte for byte",
        ),
        (
            &format!("fields = {{ a = 1 }}\n{LISTENS}"),
            ":1:10: fields: events of [source.lumberjack] pass byte for byte",
        ),
        (
            &format!("{LISTENS}[schedule]\nevery = \"1m\"\n"),
            "script.run: is missing",
        ),
    ] {
        let found = problems(text);
        assert!(
            found.iter().any(|one| one.contains(wanted)),
            "{text}: {found:#?}"
        );
    }
}

#[test]
fn an_output_that_leads_back_to_the_job_is_refused_with_both_names() {
    let mut root = Defaults::none();
    let host = |host: &str| ("siem".to_owned(), host.to_owned());
    root.hosts = vec![host("192.0.2.1:5044"), host("localhost:5044")];
    let found = load_bytes(LISTENS.as_bytes(), &root).unwrap_err();
    assert_eq!(found.len(), 1, "{found:?}");
    let found = found[0].to_string();
    assert!(
        found.starts_with("jobs/idp/job.toml:2:10: source.lumberjack.listen: output `siem` sends to localhost:5044, which is here"),
        "{found}"
    );
    root.hosts.pop();
    assert!(load_bytes(LISTENS.as_bytes(), &root).is_ok());
}

#[test]
fn a_job_that_reads_what_an_output_writes_is_refused_with_both_places() {
    let mut root = Defaults::none();
    let settings = sink::file::Settings {
        path: "/var/log/out/a.ndjson".into(),
        rotate_bytes: 1 << 20,
        keep: 2,
    };
    root.written = vec![("archive".to_owned(), settings)];
    let load = |paths: &str, exclude: &str| {
        let text = format!("[[files]]\npaths = [{paths}]\nexclude = [{exclude}]\n");
        load_bytes(text.as_bytes(), &root)
    };
    for (paths, at, file) in [
        ("'/x', '/var/log/**'", 16, "a.ndjson"),
        ("'/var/log/out/a.ndjson.?'", 10, "a.ndjson.1"),
        ("'/var/log/*/a.ndjson.2'", 10, "a.ndjson.2"),
    ] {
        let found = load(paths, "").unwrap_err();
        assert_eq!(found.len(), 1, "{found:?}");
        let found = found[0].to_string();
        assert!(
            found.starts_with(&format!("jobs/idp/job.toml:2:{at}: files.paths: ")),
            "{found}"
        );
        let words = format!("names /var/log/out/{file}, which output `archive` writes");
        assert!(found.contains(&words), "{found}");
    }
    assert!(load("'/var/log/**'", "'/var/log/out/a.ndjson*'").is_ok());
    assert!(load("'/var/log/out/a.ndjson.3', 'out/*'", "").is_ok());
}

const FILES: &str = r#"tags = ["a"]
[[files]]
paths = ["/var/spool/idp/**/*.json", "out/*.log"]
exclude = ["/var/spool/idp/x*"]
when = "live"
format = "json"
max_event = "64KiB"
tags = ["b"]
scan = "1s"
partial_timeout = "2s"
after_ack = { move = "/var/spool/done/./" }
quiet = "3s"
roots = ["/var/spool/idp"]
empty_folder = "delete"

[[files]]
paths = ["/var/log/app.log"]
"#;

#[test]
fn a_job_may_do_nothing_but_read_files() {
    let job = load(FILES).unwrap();
    assert_eq!(job.task, None);
    let [first, second] = job.files.as_slice() else {
        panic!("{:?}", job.files)
    };
    assert_eq!(
        first.after_ack,
        Some(crate::queue::Action::Move("/var/spool/done".to_owned()))
    );
    assert!(first.prune && first.quiet == Duration::from_secs(3));
    assert_eq!((first.format, first.max_event), (Format::Json, 64 << 10));
    assert_eq!((second.after_ack.as_ref(), second.when), (None, When::Live));
    let both = format!("{SMALL}{FILES}").replace("tags = [\"a\"]\n", "");
    assert!(load(&both).unwrap().task.is_some());
}

#[test]
fn a_job_that_only_reads_files_may_say_as_whom() {
    let uid = crate::process::own_uid();
    let own = load(&format!("{FILES}[script]\nuser = \"{uid}\"\n")).unwrap();
    assert_eq!((own.task, own.rights.user.uid), (None, uid));
    for more in ["umask = \"022\"", "args = []"] {
        let text = format!("{FILES}[script]\nuser = \"{uid}\"\n{more}\n");
        let problems = load(&text).unwrap_err();
        let lacks = |problem: &Problem| problem.to_string().contains("script.run");
        assert!(problems.iter().any(lacks), "{more}: {problems:?}");
    }
}

#[test]
fn what_is_wrong_with_files_is_told_where_it_stands_with_an_example() {
    for (lines, words) in [
        ("", "names no file; write paths = ["),
        ("paths = [\"/a/[\"]", "is no glob"),
        ("paths = [\"/a/../b\"]", "`..`"),
        ("paths = [\"/a/*\"]\npath = 1", "did you mean `paths`?"),
        (
            "paths = [\"/a/*\"]\nafter_ack = \"delet\"",
            "did you mean `delete`?",
        ),
        (
            "paths = [\"/a/*\"]\nafter_ack = \"move\"",
            "has to say where to",
        ),
        (
            "paths = [\"/a/*\"]\nafter_ack = { move = \"b\" }",
            "no absolute path",
        ),
        (
            "paths = [\"/a/**\"]\nafter_ack = { move = \"/a/done\" }",
            "read again",
        ),
        (
            "paths = [\"/etc/*\"]\nafter_ack = \"delete\"",
            "belongs to the system",
        ),
        (
            "paths = [\"/a/*\"]\nroots = [\"/usr/x\"]",
            "belongs to the system",
        ),
        ("paths = [\"/a/*\"]\nwhen = \"run_end\"", "waits for runs"),
        (
            "paths = [\"/a/*\"]\nempty_folder = \"delet\"",
            "did you mean `delete`?",
        ),
    ] {
        let problems = load(&format!("[[files]]\n{lines}\n")).unwrap_err();
        let said: Vec<String> = problems.iter().map(ToString::to_string).collect();
        assert!(
            said.iter().any(|line| line.contains(words)),
            "{lines}: {said:?}"
        );
    }
    let problems = load("files = 3\n").unwrap_err();
    assert!(
        problems[0].to_string().contains("a list of tables"),
        "{problems:?}"
    );
}

#[test]
fn a_plugin_is_named_by_the_job_or_by_the_defaults_and_can_be_left_out() {
    let told = |text: &str, behind: &str| {
        let job = load_bytes(text.as_bytes(), &defaults(behind)).unwrap();
        job.on_result.map(|to| (to.plugin, to.timeout.as_secs()))
    };
    let all = "[defaults.results]\non_result = 'webhook'\non_result_timeout = '5s'\n";
    let own = |name: &str| format!("{SMALL}[results]\non_result = '{name}'\n");
    assert_eq!(told(SMALL, ""), None);
    assert_eq!(told(&own("mine"), ""), Some(("mine".to_owned(), 30)));
    assert_eq!(told(SMALL, all), Some(("webhook".to_owned(), 5)));
    assert_eq!(told(&own("mine"), all), Some(("mine".to_owned(), 5)));
    assert_eq!(told(&own(""), all), None);
    // Nobody is told of runs that there are not.
    let files = "[[files]]\npaths = [\"/a/*\"]\n";
    assert_eq!(told(files, all), None);
    let said = problems(&format!("{files}[results]\non_result = 'webhook'\n"));
    assert!(said[0].contains("nothing runs"), "{said:?}");
    let said = problems(&own("plugins/mine"));
    assert!(
        said[0].starts_with("jobs/idp/job.toml:6:13: results.on_result: `plugins/mine` cannot be"),
        "{said:?}"
    );
}

#[test]
fn the_tag_chooses_among_the_outputs_and_events_that_go_nowhere_are_a_problem() {
    let mut idp = routing::Tags::default();
    idp.add("idp.*").unwrap();
    let outlets = [
        Outlet {
            required: false,
            tags: idp,
            ..Outlet::to("idp")
        },
        Outlet::to("all"),
    ];
    let load = |text: &str, outlets: &[Outlet]| {
        let dir = folder();
        let text = format!("{text}\n[script]\nrun = 'a.sh'\n[schedule]\nevery = '1m'\n");
        fs::write(dir.path().join(JOB_FILE), text).unwrap();
        fs::write(dir.path().join("a.sh"), "").unwrap();
        let standing = own();
        let place = Place {
            name: "logins",
            folder: dir.path(),
            generation: "0123",
            standing: &standing,
        };
        load_job_with(&place, &Defaults::none(), outlets, lookup)
    };
    let names = |text: &str| {
        let job = load(text, &outlets).unwrap();
        (job.route.outputs().join(" "), job.waits_for.join(" "))
    };
    let both = ("all idp".to_owned(), "all".to_owned());
    assert_eq!(names(""), ("all".to_owned(), "all".to_owned()));
    assert_eq!(names("tag = 'idp.logins'"), both);
    let one = "tag = 'idp.logins'\noutput = { to = ['idp'] }";
    assert_eq!(names(one), ("idp".to_owned(), "idp".to_owned()));
    for (text, outlets, expected) in [
        ("", &outlets[..1], "tag: the events go nowhere"),
        ("tag = 'x y'", &outlets, "cannot be a name"),
        (
            "output = { to = ['idp'] }",
            &outlets,
            "does not take the tag `logins`",
        ),
    ] {
        let problems = load(text, outlets).unwrap_err();
        assert_eq!(problems.len(), 1, "{problems:?}");
        assert!(problems[0].to_string().contains(expected), "{problems:?}");
    }
}
