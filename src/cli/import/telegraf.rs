//! Telegraf's `[[inputs.exec]]`: one job for each command.
//!
//! Keys as of its documentation: `commands` (split into words as a shell does, patterns matched at
//! every run), `environment`, `interval` (else that of `[agent]`), `timeout`, `data_format`,
//! `ignore_error`, `log_stderr`, `name_*`, `tags`.

use serde_json::Map;
use serde_json::Value;

use super::Import;
use super::draft::Draft;
use super::draft::command_script;
use super::draft::duration;
use super::draft::shell_word;
use super::draft::text;
use super::draft::texts;
use super::keys::Keys;

/// Telegraf's own defaults.
const INTERVAL: &str = "10s";
const TIMEOUT: &str = "5s";

/// A Logstash, as examples have it.
const HOST: &str = "logstash:5044";

pub(super) fn import(toml: &Value) -> Result<Import, String> {
    let inputs = match toml.pointer("/inputs/exec") {
        Some(Value::Array(inputs)) => inputs.as_slice(),
        Some(input) => std::slice::from_ref(input),
        None => &[],
    };
    let keys = Keys::new("", toml);
    keys.has("inputs.exec");
    let usual = keys.read("agent.interval", duration);
    let usual = usual.unwrap_or_else(|| INTERVAL.to_owned());
    let mut import = Import {
        program: "Telegraf inputs.exec",
        ..Import::default()
    };
    for input in inputs {
        let keys = Keys::new("inputs.exec", input);
        let mut commands = keys.read("commands", texts).unwrap_or_default();
        commands.extend(keys.read("command", texts).unwrap_or_default());
        for command in commands {
            import.jobs.push(job(&keys, &command, &usual)?);
        }
        // What was read for one command was read for all.
        import.left_out.extend(keys.unread());
    }
    if import.jobs.is_empty() {
        return Err("[[inputs.exec]] names no command".to_owned());
    }
    for (section, why) in [
        ("inputs", "only inputs.exec runs commands"),
        ("outputs", "write an [output.NAME] for it"),
        (
            "processors",
            "events are changed in the script or in Logstash",
        ),
        ("aggregators", "events are not metrics"),
    ] {
        let names = toml.get(section).and_then(Value::as_object);
        for name in names.into_iter().flat_map(Map::keys) {
            let name = format!("{section}.{name}");
            if name != "inputs.exec" && keys.has(&name) {
                import.left_out.push(format!("{name}: {why}"));
            }
        }
    }
    import.left_out.extend(keys.unread());
    import.root = format!("[output.lumberjack]\nhosts = [\"{HOST}\"]\n");
    import.left_out.push(format!(
        "where events go: {HOST} is made up; write your Logstash into [output.lumberjack]"
    ));
    Ok(import)
}

fn job(input: &Keys, command: &str, usual: &str) -> Result<Draft, String> {
    let words = split(command).ok_or_else(|| format!("`{command}`: a quote is not closed"))?;
    let Some((program, args)) = words.split_first() else {
        return Err("[[inputs.exec]] has an empty command".to_owned());
    };
    let stem = program.rsplit('/').next().unwrap_or(program);
    let mut draft = Draft {
        name: stem
            .rsplit_once('.')
            .map_or(stem, |(stem, _)| stem)
            .to_owned(),
        ..Draft::default()
    };
    draft.text("description", &format!("from Telegraf: {command}"));
    if let Some(tags) = input.read("tags", |tags| tags.as_object().cloned()) {
        draft.map("fields", &tags);
    }
    draft.section("script");
    draft.text("run", "run.sh");
    draft.text("language", "sh");
    let mut variables = Map::new();
    for (at, pair) in input
        .read("environment", texts)
        .unwrap_or_default()
        .iter()
        .enumerate()
    {
        match pair.split_once('=') {
            Some((name, value)) => {
                variables.insert(name.to_owned(), Value::from(value));
            }
            // It may be a secret: it is not shown.
            None => draft.leave_out(format!(
                "number {} of environment: it is not NAME=value",
                at + 1
            )),
        }
    }
    draft.map("env", &variables);
    let timeout = input.read("timeout", duration);
    draft.text("timeout", timeout.as_deref().unwrap_or(TIMEOUT));
    draft.section("schedule");
    let interval = input.read("interval", duration);
    draft.text("every", interval.as_deref().unwrap_or(usual));
    let format = input
        .read("data_format", text)
        .unwrap_or_else(|| "json".to_owned());
    draft.section("capture.stdout");
    if format.starts_with("json") {
        draft.text("format", "document");
        draft.leave_out("a list of JSON objects is one event with the text of the list");
    } else {
        draft.leave_out(format!(
            "data_format = \"{format}\": each line is an event, not metrics; parse it in Logstash"
        ));
    }
    draft.section("capture.stderr");
    draft.texts("to", &["log"]);
    for key in [
        "name_override",
        "name_prefix",
        "name_suffix",
        "ignore_error",
    ] {
        if let Some(value) = input.read(key, text) {
            draft.leave_out(format!(
                "{key} = {value}: events have no measurement; a run that fails is an event"
            ));
        }
    }
    let script = if program.contains(['*', '?', '[']) {
        draft.leave_out("the files that match are run one after the other, not at once");
        matching_script(program, args)
    } else {
        command_script(&words)
    };
    draft.files.push(("run.sh".to_owned(), script));
    Ok(draft)
}

/// A script that runs each file that matches, as it is at that time.
fn matching_script(pattern: &str, args: &[String]) -> String {
    let pattern: String = pattern
        .chars()
        .map(|c| match c {
            '*' | '?' | '[' | ']' | '!' | '-' | '/' | '.' | '_' => c.to_string(),
            c if c.is_ascii_alphanumeric() => c.to_string(),
            c => shell_word(&c.to_string()),
        })
        .collect();
    let args: String = args
        .iter()
        .map(|arg| format!(" {}", shell_word(arg)))
        .collect();
    format!(
        "#!/bin/sh\ncode=0\nfor program in {pattern}; do\n    [ -x \"$program\" ] || continue\n    \
         \"$program\"{args} || code=$?\ndone\nexit $code\n"
    )
}

/// The words of a command, as a shell reads quotes and backslashes; `None` when a quote is open.
fn split(command: &str) -> Option<Vec<String>> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quote = None;
    let mut chars = command.chars();
    while let Some(c) = chars.next() {
        match (quote, c) {
            (Some('\''), '\'') | (Some('"'), '"') => quote = None,
            (Some('\''), c) => word.get_or_insert_default().push(c),
            (Some(_), '\\') => match chars.next()? {
                c @ ('"' | '\\' | '$' | '`') => word.get_or_insert_default().push(c),
                c => word.get_or_insert_default().extend(['\\', c]),
            },
            (Some(_), c) => word.get_or_insert_default().push(c),
            (None, '\'' | '"') => {
                word.get_or_insert_default();
                quote = Some(c);
            }
            (None, '\\') => word.get_or_insert_default().push(chars.next()?),
            (None, c) if c.is_whitespace() => words.extend(word.take()),
            (None, c) => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    quote.is_none().then_some(words)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_split_as_a_shell_does() {
        let words = |command: &str| split(command).map(|words| words.join("|"));
        assert_eq!(words("sh  /tmp/a.sh").as_deref(), Some("sh|/tmp/a.sh"));
        assert_eq!(
            words(r#"a "b c" 'd "e' f\ g "" "x\"y""#).as_deref(),
            Some(r#"a|b c|d "e|f g||x"y"#)
        );
        assert_eq!(words("a 'b"), None);
    }

    #[test]
    fn a_pattern_is_left_to_the_shell_and_nothing_else_is() {
        let script = matching_script("/tmp/my dir/$x*.sh", &["a'b".to_owned()]);
        assert!(
            script.contains(r"for program in /tmp/my' 'dir/'$'x*.sh; do"),
            "{script}"
        );
        assert!(script.contains(r"'a'\''b'"), "{script}");
    }
}
