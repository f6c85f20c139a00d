//! scriptablebeat.yml: one job.
//!
//! What each key did, and did not do in spite of its name, is known from Scriptable Beat 1.0's
//! source; where the two differ, the job does what the program did, and the difference is told.

use serde_json::Value;

use super::Import;
use super::draft::Draft;
use super::draft::duration;
use super::draft::quoted;
use super::draft::text;
use super::draft::texts;
use super::draft::truth;
use super::keys::Keys;
use super::logstash;

pub(super) const PROGRAM: &str = "Scriptable Beat";

/// Where its keys are, and what its job is called if it has no name.
const KEY: &str = "scriptablebeat";

/// Where events went that were to go nowhere else.
const DEFAULT_HOST: &str = "opencollector:5044";

/// Keys that the program never read.
const READ_NOWHERE: [(&str, &str); 6] = [
    (
        "scheduler.run_mode",
        "scheduler.run_mode was read nowhere; [schedule] keep_running = true does what it says",
    ),
    (
        "scheduler.restart_script_on_error",
        "scheduler.restart_script_on_error was read nowhere; [schedule] restart does what it says",
    ),
    (
        "scheduler.restart_script_on_crash",
        "scheduler.restart_script_on_crash was read nowhere; [schedule] restart does what it says",
    ),
    (
        "logsource_name",
        "logsource_name was read nowhere; `fields` adds to each event",
    ),
    (
        "logging.level",
        "logging.level was read nowhere; [log] level in spoolbeat.toml does what it says",
    ),
    (
        "logging.metrics.enabled",
        "logging.metrics was read nowhere",
    ),
];

/// The seconds that a script waited after its run, when the configuration did not say it.
const FREQUENCY: &str = "1m";

pub(super) fn import(yaml: &Value) -> Result<Import, String> {
    if !yaml["scriptablebeat"].is_object() {
        return Err("there is nothing under `scriptablebeat:`".to_owned());
    }
    let beat = &Keys::new(KEY, &yaml[KEY]);
    let yaml = &Keys::new("", yaml);
    yaml.has(KEY);
    let mut draft = Draft {
        name: beat
            .read("beatIdentifier", text)
            .filter(|name| !name.is_empty())
            .unwrap_or_else(|| KEY.to_owned()),
        ..Draft::default()
    };
    draft.text("description", "from scriptablebeat.yml");
    let has_script = scripts(&mut draft, beat);
    let sources = sources(beat, &mut draft);
    let is_source = |name: &str| sources.iter().any(|source| source == name);
    for (at, why) in READ_NOWHERE {
        if beat.has(at) || yaml.has(at) {
            draft.leave_out(why);
        }
    }
    if has_script {
        schedule(&mut draft, beat);
        for stream in ["stdout", "stderr"] {
            capture(&mut draft, beat, stream, is_source(stream));
        }
    } else {
        // Nothing was run, which is told.
        for at in ["scheduler", "required_modules", "scripts", "language"] {
            beat.has(at);
        }
        for at in ["capture", "stdout", "stderr"] {
            beat.has(&format!("data_stream.{at}"));
        }
    }
    if is_source("files") {
        files(&mut draft, beat);
    } else if beat.has("data_stream.files") {
        draft
            .leave_out("data_stream.files: moniror_sources does not name files, so none were read");
    }
    if beat.read("data_stream.format", text).as_deref() == Some("json") {
        draft.leave_out(
            "data_stream.format = json was never used; format = \"json\" under [capture.stdout] does what it says",
        );
    }
    let root = root(yaml, beat, &mut draft);
    draft.left_out.extend(beat.unread());
    Ok(Import {
        program: PROGRAM,
        root,
        jobs: vec![draft],
        left_out: yaml.unread(),
    })
}

/// `[script]` with its files; whether there is one.
fn scripts(draft: &mut Draft, beat: &Keys) -> bool {
    let language = beat
        .read("language", text)
        .unwrap_or_else(|| "bash".to_owned());
    let language = language.to_lowercase();
    let ending = match language.as_str() {
        "python" => "py",
        "powershell" => "ps1",
        _ => "sh",
    };
    if !["python", "powershell", "bash"].contains(&language.as_str()) {
        draft.leave_out(format!(
            "language = {language}: it knew no such language and ran nothing; bash is written instead"
        ));
    }
    let body = |key: &str| beat.read(&format!("scripts.{key}"), text);
    let Some(scheduled) = body("scheduled_run") else {
        draft.leave_out("there is no scripts.scheduled_run, so nothing was ever run on a schedule");
        return false;
    };
    draft.section("script");
    draft.text("run", &format!("run.{ending}"));
    draft.text("language", if ending == "sh" { "bash" } else { &language });
    draft.files.push((format!("run.{ending}"), scheduled));
    for (key, name) in [("first_run", "first_run"), ("startup_run", "startup")] {
        if let Some(script) = body(key).filter(|script| !is_empty(script)) {
            draft.text(name, &format!("{name}.{ending}"));
            draft.files.push((format!("{name}.{ending}"), script));
        }
    }
    if draft
        .files
        .iter()
        .any(|(name, _)| name.starts_with("first_run"))
    {
        draft.leave_out("whether first_run has succeeded there: it is run once more here");
    }
    // A shell read them: some name several.
    let modules = beat.read("required_modules", texts).unwrap_or_default();
    let words = modules.iter().flat_map(|entry| entry.split_whitespace());
    let (options, modules): (Vec<&str>, Vec<&str>) = words.partition(|word| word.starts_with('-'));
    if !options.is_empty() {
        draft.leave_out(format!(
            "{} in required_modules: options of installers; env = {{ PIP_INDEX_URL = \"...\" }} and such set them",
            options.join(" ")
        ));
    }
    if !modules.is_empty() {
        draft.texts("modules", &modules);
        if ending == "sh" {
            draft.leave_out("required_modules of bash were installed with apt-get; they are checked now, install them yourself");
        }
        if modules.iter().any(|module| !module.contains("==")) && ending == "py" {
            draft.leave_out("required_modules name no versions; write them like \"requests==2.32.4\", so that runs stay the same");
        }
    }
    draft.line("# what it writes beside it stays there for its other scripts");
    draft.text("cwd", "state");
    draft.line("# it had no limit; the default is 1h");
    draft.text("timeout", "24h");
    true
}

/// Whether a script does nothing: blank lines and comments.
fn is_empty(script: &str) -> bool {
    let mut lines = script.lines().map(str::trim);
    lines.all(|line| line.is_empty() || line.starts_with('#'))
}

fn schedule(draft: &mut Draft, beat: &Keys) {
    let given = beat.read("scheduler.frequency", text);
    let given = given.unwrap_or_else(|| FREQUENCY.to_owned());
    let (digits, unit) =
        given.split_at(given.len() - given.trim_start_matches(|c: char| c.is_ascii_digit()).len());
    let frequency = match (digits.parse::<u64>(), unit) {
        (Ok(0), "" | "s" | "m" | "h" | "d") => Some("60s".to_owned()),
        (Ok(_), "") => Some(format!("{digits}s")),
        (Ok(_), "s" | "m" | "h" | "d") => Some(given.clone()),
        _ => None,
    };
    draft.section("schedule");
    draft.line("# its period was the time of a run and this");
    match frequency {
        Some(frequency) => draft.text("every_after", &frequency),
        None => {
            draft.text("every_after", FREQUENCY);
            draft.leave_out(format!("scheduler.frequency = {given}: it would have ended the scheduler; {FREQUENCY} is written instead"));
        }
    }
}

/// The sources that are looked at: the key's real name is misspelled, its text says the other one.
fn sources(beat: &Keys, draft: &mut Draft) -> Vec<String> {
    let sources: Vec<String> = ["moniror_sources", "monitor_sources"]
        .iter()
        .filter_map(|key| beat.read(&format!("data_stream.{key}"), texts))
        .flatten()
        .map(|source| source.to_lowercase())
        .collect();
    for source in &sources {
        if !["stdout", "stderr", "files"].contains(&source.as_str()) {
            draft.leave_out(format!(
                "{source} in moniror_sources: there is no such source"
            ));
        }
    }
    sources
}

fn capture(draft: &mut Draft, beat: &Keys, stream: &str, is_source: bool) {
    let truth_at = |at: String| beat.read(&at, truth).unwrap_or(false);
    let flag = |key: &str| truth_at(format!("data_stream.{stream}.{key}"));
    let goals = [
        ("report_as_log_in_stream", "events"),
        ("report_as_error_in_stream", "errors"),
        ("log_in_beats_log", "log"),
    ];
    let mut to: Vec<&str> = goals
        .into_iter()
        .filter(|(key, _)| flag(key))
        .map(|(_, goal)| goal)
        .collect();
    let phases = [
        ("first_run", "first_run"),
        ("startup_run", "startup"),
        ("scheduled_run", "run"),
    ];
    let captured = |key: &str| truth_at(format!("data_stream.capture.{key}"));
    let phases: Vec<&str> = phases
        .into_iter()
        .filter(|(key, _)| captured(key))
        .map(|(_, phase)| phase)
        .collect();
    if is_source && to.is_empty() {
        draft.leave_out(format!(
            "{stream} was monitored with no report_as_* set, which sent events with nothing in them"
        ));
    }
    if !is_source || phases.is_empty() {
        if !to.is_empty() {
            draft.leave_out(format!(
                "{stream} was not captured, whatever report_as_* says: moniror_sources or capture leave it out"
            ));
        }
        to.clear();
    }
    draft.section(&format!("capture.{stream}"));
    draft.texts("to", &to);
    if !to.is_empty() {
        draft.texts("phases", &phases);
    }
}

fn files(draft: &mut Draft, beat: &Keys) {
    let at = |key: &str| format!("data_stream.files.{key}");
    let paths = beat.read(&at("paths"), texts).unwrap_or_default();
    if paths.is_empty() {
        draft.leave_out("files were monitored, but data_stream.files.paths names none");
        return;
    }
    if beat.read(&at("report_as_log_in_stream"), truth) == Some(false) {
        draft.leave_out("data_stream.files.report_as_log_in_stream = false: files were read and thrown away; they are left alone now");
        return;
    }
    for key in ["report_as_error_in_stream", "log_in_beats_log"] {
        if beat.read(&at(key), truth) == Some(true) {
            draft.leave_out(format!(
                "data_stream.files.{key}: lines of files are events"
            ));
        }
    }
    draft.line("\n[[files]]");
    draft.texts("paths", &paths);
    draft.leave_out("file_positions.json: files are read from their beginning, so what is in them now is sent once more");
    let after = beat.read(&at("after_reading"), text);
    let after = match after.as_deref() {
        Some("delete") => "delete",
        Some("flush_to_empty") => "truncate",
        _ => "keep",
    };
    draft.text("after_ack", after);
    if after != "keep" {
        draft.leave_out("files were deleted or emptied before they had arrived; now only after the acknowledgement");
    }
    let folder = beat.read(&at("folder_left_empty"), text);
    if folder.as_deref() == Some("delete") && after == "delete" {
        draft.text("empty_folder", "delete");
    }
}

/// What belongs into spoolbeat.toml.
fn root(yaml: &Keys, beat: &Keys, draft: &mut Draft) -> String {
    let hosts = yaml.read("output.logstash.hosts", texts);
    if hosts.is_some_and(|hosts| hosts.len() > 1) {
        draft.leave_out(
            "of several hosts only the first was used; now the next one is tried when one fails",
        );
    }
    let tls = yaml.read("output.logstash.ssl_enable", truth);
    let mut out = logstash::output(yaml, DEFAULT_HOST, tls, &mut draft.left_out);
    if tls == Some(true) && !out.contains("\nverification_mode = ") {
        draft.leave_out(
            "the certificate's name was never checked; now it is: see ssl in the manual",
        );
    }
    let identifier = beat.read("beatIdentifier", text).unwrap_or_default();
    out.push_str("\n[events]\nshape = \"opencollector\"\n");
    out.push_str(&format!("identifier = {}\n", quoted(&identifier)));
    let every = beat.read("heartbeatinterval", duration);
    if beat.read("heartbeatdisabled", truth) != Some(true) {
        let every = every.unwrap_or_else(|| "60s".to_owned());
        out.push_str(&format!("\n[heartbeat]\nevery = {}\n", quoted(&every)));
    }
    out.push_str("\n[startup]\nrequire_output = true\n");
    out
}
