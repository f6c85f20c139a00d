//! scriptablebeat.yml: one job.
//!
//! What each key did, and did not do in spite of its name, is known from Scriptable Beat 1.0's
//! source; where the two differ, the job does what the program did, and the difference is told.

use serde_json::Value;

use super::Import;
use super::draft::Draft;
use super::draft::list;
use super::draft::quoted;
use super::draft::text;
use super::draft::texts;
use super::draft::truth;

pub(super) const PROGRAM: &str = "Scriptable Beat";

/// Keys that the program never read.
const READ_NOWHERE: [(&str, &str); 6] = [
    (
        "/scheduler/run_mode",
        "scheduler.run_mode was read nowhere; [schedule] keep_running = true does what it says",
    ),
    (
        "/scheduler/restart_script_on_error",
        "scheduler.restart_script_on_error was read nowhere; [schedule] restart does what it says",
    ),
    (
        "/scheduler/restart_script_on_crash",
        "scheduler.restart_script_on_crash was read nowhere; [schedule] restart does what it says",
    ),
    (
        "/logsource_name",
        "logsource_name was read nowhere; `fields` adds to each event",
    ),
    (
        "/logging/level",
        "logging.level was read nowhere; [log] level in spoolbeat.toml does what it says",
    ),
    (
        "/logging/metrics/enabled",
        "logging.metrics was read nowhere",
    ),
];

/// The seconds that a script waited after its run, when the configuration did not say it.
const FREQUENCY: &str = "1m";

pub(super) fn import(yaml: &Value) -> Result<Import, String> {
    let beat = &yaml["scriptablebeat"];
    if !beat.is_object() {
        return Err("there is nothing under `scriptablebeat:`".to_owned());
    }
    let mut draft = Draft {
        name: beat
            .get("beatIdentifier")
            .and_then(text)
            .filter(|name| !name.is_empty())
            .unwrap_or_else(|| "scriptablebeat".to_owned()),
        ..Draft::default()
    };
    draft.text("description", "from scriptablebeat.yml");
    let has_script = scripts(&mut draft, beat);
    let sources = sources(beat);
    if has_script {
        schedule(&mut draft, beat);
        for stream in ["stdout", "stderr"] {
            capture(
                &mut draft,
                beat,
                stream,
                sources.iter().any(|source| source == stream),
            );
        }
    }
    if sources.iter().any(|source| source == "files") {
        files(&mut draft, beat);
    }
    for (at, why) in READ_NOWHERE {
        if beat.pointer(at).is_some() || yaml.pointer(at).is_some() {
            draft.leave_out(why);
        }
    }
    if beat
        .pointer("/data_stream/format")
        .and_then(text)
        .as_deref()
        == Some("json")
    {
        draft.leave_out(
            "data_stream.format = json was never used; format = \"json\" under [capture.stdout] does what it says",
        );
    }
    Ok(Import {
        program: PROGRAM,
        root: root(yaml, beat, &mut draft),
        jobs: vec![draft],
        left_out: Vec::new(),
    })
}

/// `[script]` with its files; whether there is one.
fn scripts(draft: &mut Draft, beat: &Value) -> bool {
    let language = beat
        .get("language")
        .and_then(text)
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
    let body = |key: &str| beat.pointer(&format!("/scripts/{key}")).and_then(text);
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
    let modules = texts(beat.get("required_modules"));
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

fn schedule(draft: &mut Draft, beat: &Value) {
    let given = beat.pointer("/scheduler/frequency").and_then(text);
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
fn sources(beat: &Value) -> Vec<String> {
    let stream = &beat["data_stream"];
    ["moniror_sources", "monitor_sources"]
        .iter()
        .flat_map(|key| texts(stream.get(key)))
        .map(|source| source.to_lowercase())
        .collect()
}

fn capture(draft: &mut Draft, beat: &Value, stream: &str, is_source: bool) {
    let flag =
        |key: &str| truth(beat.pointer(&format!("/data_stream/{stream}/{key}"))).unwrap_or(false);
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
    let captured =
        |key: &str| truth(beat.pointer(&format!("/data_stream/capture/{key}"))).unwrap_or(false);
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

fn files(draft: &mut Draft, beat: &Value) {
    let at = |key: &str| beat.pointer(&format!("/data_stream/files/{key}"));
    let paths = texts(at("paths"));
    if paths.is_empty() {
        draft.leave_out("files were monitored, but data_stream.files.paths names none");
        return;
    }
    if truth(at("report_as_log_in_stream")) == Some(false) {
        draft.leave_out("data_stream.files.report_as_log_in_stream = false: files were read and thrown away; they are left alone now");
        return;
    }
    for key in ["report_as_error_in_stream", "log_in_beats_log"] {
        if truth(at(key)) == Some(true) {
            draft.leave_out(format!(
                "data_stream.files.{key}: lines of files are events"
            ));
        }
    }
    draft.line("\n[[files]]");
    draft.texts("paths", &paths);
    draft.leave_out("file_positions.json: files are read from their beginning, so what is in them now is sent once more");
    let after = at("after_reading").and_then(text);
    let after = match after.as_deref() {
        Some("delete") => "delete",
        Some("flush_to_empty") => "truncate",
        _ => "keep",
    };
    draft.text("after_ack", after);
    if after != "keep" {
        draft.leave_out("files were deleted or emptied before they had arrived; now only after the acknowledgement");
    }
    if at("folder_left_empty").and_then(text).as_deref() == Some("delete") && after == "delete" {
        draft.text("empty_folder", "delete");
    }
}

/// What belongs into spoolbeat.toml.
fn root(yaml: &Value, beat: &Value, draft: &mut Draft) -> String {
    let logstash = yaml
        .pointer("/output/logstash")
        .cloned()
        .unwrap_or_default();
    let mut hosts = texts(logstash.get("hosts"));
    if hosts.is_empty() {
        hosts.push("opencollector:5044".to_owned());
    }
    if hosts.len() > 1 {
        draft.leave_out(
            "of several hosts only the first was used; now the next one is tried when one fails",
        );
    }
    let mut out = format!("[output.lumberjack]\nhosts = {}\n", list(&hosts));
    if let Some(timeout) = logstash.get("timeout").and_then(text) {
        let unit = if timeout.ends_with(|c: char| c.is_ascii_digit()) {
            "s"
        } else {
            ""
        };
        out.push_str(&format!(
            "timeout = {}\n",
            quoted(&format!("{timeout}{unit}"))
        ));
    }
    if truth(logstash.get("ssl_enable")) == Some(true) {
        out.push_str("ssl = { enabled = true }\n");
        draft.leave_out(
            "the certificate's name was never checked; now it is: see ssl in the manual",
        );
    }
    let identifier = beat
        .get("beatIdentifier")
        .and_then(text)
        .unwrap_or_default();
    out.push_str("\n[events]\nshape = \"opencollector\"\n");
    out.push_str(&format!("identifier = {}\n", quoted(&identifier)));
    if truth(beat.get("heartbeatdisabled")) != Some(true) {
        let every = beat
            .get("heartbeatinterval")
            .and_then(text)
            .unwrap_or_else(|| "60".to_owned());
        let unit = if every.ends_with(|c: char| c.is_ascii_digit()) {
            "s"
        } else {
            ""
        };
        out.push_str(&format!(
            "\n[heartbeat]\nevery = {}\n",
            quoted(&format!("{every}{unit}"))
        ));
    }
    out.push_str("\n[startup]\nrequire_output = true\n");
    out
}
