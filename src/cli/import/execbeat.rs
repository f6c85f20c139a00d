//! execbeat.yml: one job for each command.
//!
//! Keys as of its documentation: `execs` with `cron` in 1.x, `commands` with `schedule` later; each
//! with `command`, `args`, `document_type`, `fields`. It shipped one event a run, with all output.

use serde_json::Value;

use super::Import;
use super::draft::Draft;
use super::draft::command_script;
use super::draft::duration;
use super::draft::text;
use super::keys::Keys;
use super::logstash;

/// When a command is run that does not say it.
const DEFAULT_SCHEDULE: &str = "@every 1m";

/// Where events go that are to go nowhere else.
const DEFAULT_HOST: &str = "localhost:5044";

pub(super) fn import(yaml: &Value) -> Result<Import, String> {
    let yaml = Keys::new("", yaml);
    let list = |value: &Value| value.as_array().cloned();
    let commands = ["execbeat.commands", "execbeat.execs"]
        .into_iter()
        .find_map(|at| yaml.read(at, list))
        .ok_or("no list execbeat.commands in it")?;
    let mut import = Import {
        program: "execbeat",
        ..Import::default()
    };
    for (at, command) in commands.iter().enumerate() {
        match job(&Keys::new("", command)) {
            Some(draft) => import.jobs.push(draft),
            None => import.left_out.push(format!(
                "number {} of execbeat.commands: it names no command",
                at + 1
            )),
        }
    }
    if import.jobs.is_empty() {
        return Err("execbeat.commands names no command".to_owned());
    }
    if yaml.is_table("output.logstash") {
        import.root = logstash::output(&yaml, DEFAULT_HOST, None, &mut import.left_out);
    } else {
        import.left_out.push(
            "outputs other than output.logstash; write [output.lumberjack] with hosts".to_owned(),
        );
    }
    import.left_out.extend(yaml.unread());
    Ok(import)
}

fn job(command: &Keys) -> Option<Draft> {
    let program = command.read("command", text)?;
    let args = command.read("args", text).unwrap_or_default();
    // It split them at blanks and knew no quotes.
    let words: Vec<String> = std::iter::once(program.as_str())
        .chain(args.split(' ').filter(|word| !word.is_empty()))
        .map(str::to_owned)
        .collect();
    let base = program.rsplit('/').next().unwrap_or(&program);
    let mut draft = Draft {
        name: command
            .read("name", text)
            .unwrap_or_else(|| base.to_owned()),
        ..Draft::default()
    };
    draft.text("description", &format!("from execbeat: {program} {args}"));
    let fields = command.read("fields", |value| value.as_object().cloned());
    let mut fields = fields.unwrap_or_default();
    if let Some(kind) = command.read("document_type", text) {
        fields.insert("document_type".to_owned(), Value::from(kind));
        draft.leave_out("document_type is fields.document_type: events have no `type` any more");
    }
    draft.map("fields", &fields);
    draft.section("script");
    draft.text("run", "run.sh");
    draft.text("language", "sh");
    if let Some(timeout) = command.read("timeout", duration) {
        draft.text("timeout", &timeout);
    }
    draft.section("schedule");
    let schedule = ["schedule", "cron"]
        .into_iter()
        .find_map(|key| command.read(key, text))
        .filter(|text| !text.trim().is_empty())
        .unwrap_or_else(|| DEFAULT_SCHEDULE.to_owned());
    schedule_line(&mut draft, schedule.trim());
    // One event a run and stream, as before.
    draft.section("capture.stdout");
    draft.text("format", "document");
    draft.section("capture.stderr");
    draft.texts("to", &["errors"]);
    draft.text("format", "document");
    draft.leave_out(
        "exec.command, exec.stdout, exec.stderr and exec.exitCode in one event: output is `message` \
         (or the keys of a JSON object), errors an event of their own, and the exit code is \
         process.exit_code of the event that ends the run",
    );
    draft
        .files
        .push(("run.sh".to_owned(), command_script(&words)));
    draft.left_out.extend(command.unread());
    Some(draft)
}

/// Its cron library reads seconds first, and takes a missing day of the week for any.
fn schedule_line(draft: &mut Draft, schedule: &str) {
    if let Some(every) = schedule.strip_prefix("@every ") {
        let every = duration(&Value::from(every.trim()));
        draft.text("every", &every.unwrap_or_default());
        return;
    }
    let fields = schedule.split_whitespace().count();
    if !schedule.starts_with('@') && fields == 5 {
        draft.line("# 5 fields were second, minute, hour, day of month and month");
        draft.text("cron", &format!("{schedule} *"));
        return;
    }
    draft.text("cron", schedule);
}
