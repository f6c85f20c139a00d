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
use super::draft::shell_word;
use super::draft::text;
use super::draft::texts;

/// Telegraf's own defaults.
const INTERVAL: &str = "10s";
const TIMEOUT: &str = "5s";

pub(super) fn import(toml: &Value) -> Result<Import, String> {
    let inputs = match toml.pointer("/inputs/exec") {
        Some(Value::Array(inputs)) => inputs.as_slice(),
        Some(input) => std::slice::from_ref(input),
        None => &[],
    };
    let usual = toml.pointer("/agent/interval").and_then(text);
    let usual = usual.unwrap_or_else(|| INTERVAL.to_owned());
    let mut import = Import {
        program: "Telegraf inputs.exec",
        ..Import::default()
    };
    for input in inputs {
        let mut commands = texts(input.get("commands"));
        commands.extend(texts(input.get("command")));
        for command in commands {
            import.jobs.push(job(input, &command, &usual)?);
        }
    }
    if import.jobs.is_empty() {
        return Err("[[inputs.exec]] names no command".to_owned());
    }
    let others = toml.get("inputs").and_then(Value::as_object);
    let others = others.into_iter().flat_map(Map::keys);
    for other in others.filter(|name| *name != "exec") {
        import
            .left_out
            .push(format!("inputs.{other}: only inputs.exec runs commands"));
    }
    for section in ["outputs", "processors", "aggregators"] {
        for name in toml
            .get(section)
            .and_then(Value::as_object)
            .into_iter()
            .flat_map(Map::keys)
        {
            import.left_out.push(format!("{section}.{name}"));
        }
    }
    import.root = "[output.lumberjack]\nhosts = [\"logstash:5044\"]\n".to_owned();
    Ok(import)
}

fn job(input: &Value, command: &str, usual: &str) -> Result<Draft, String> {
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
    if let Some(Value::Object(tags)) = input.get("tags") {
        draft.map("fields", tags);
    }
    draft.section("script");
    draft.text("run", "run.sh");
    draft.text("language", "sh");
    let variables: Map<String, Value> = texts(input.get("environment"))
        .iter()
        .filter_map(|pair| pair.split_once('='))
        .map(|(name, value)| (name.to_owned(), Value::from(value)))
        .collect();
    draft.map("env", &variables);
    draft.text(
        "timeout",
        &input
            .get("timeout")
            .and_then(text)
            .unwrap_or_else(|| TIMEOUT.to_owned()),
    );
    draft.section("schedule");
    draft.text(
        "every",
        &input
            .get("interval")
            .and_then(text)
            .unwrap_or_else(|| usual.to_owned()),
    );
    let format = input
        .get("data_format")
        .and_then(text)
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
        if let Some(value) = input.get(key) {
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
