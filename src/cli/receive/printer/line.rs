//! One event as a short line for a person at a terminal.
//!
//! What an event says is never trusted: control characters and escape sequences in it are shown,
//! not obeyed. Knows nothing of where the line goes.

use std::fmt::Write;

use chrono_tz::Tz;
use serde_json::Map;
use serde_json::Value;

use crate::cli::receive::printer::Screen;
use crate::cli::say::shown;
use crate::units::Timestamp;

/// Characters of a message that are shown: more than any terminal is wide. The terminal itself
/// cuts the line at its edge, wherever that is at the moment.
const MESSAGE_CHARS_MAX: usize = 1_000;

/// Characters of a job's name or a stream that are shown.
const NAME_CHARS_MAX: usize = 64;

/// Keys that shippers add to every event; they say nothing that this line does not say better.
const ADDED_KEYS: [&str; 11] = [
    "@metadata",
    "@timestamp",
    "@version",
    "agent",
    "ecs",
    "event",
    "fields",
    "host",
    "input",
    "job",
    "tags",
];

/// SGR codes that jobs are told apart by; red is left to standard error.
const JOB_COLOURS: [u8; 10] = [36, 33, 32, 35, 34, 96, 93, 92, 95, 94];

/// DECAWM off: what does not fit into the line is not shown.
const WRAP_OFF: &str = "\x1b[?7l";
/// Clears the last column, where cut characters pile up, and switches DECAWM on again.
const WRAP_ON: &str = "\x1b[K\x1b[?7h";
const RED: &str = "\x1b[31m";
const NO_COLOUR: &str = "\x1b[0m";

/// An event's line, in parts that are safe to show.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Line {
    time: String,
    job: String,
    stream: String,
    message: String,
}

impl Line {
    /// The line of `event`, with its time in `zone`. Events of other Beats have no job: the
    /// Beat's own name stands there, and no stream.
    pub(super) fn of(event: &[u8], zone: Tz) -> Self {
        // Not an object only when it is nested deeper than serde_json builds values.
        let Ok(Value::Object(object)) = serde_json::from_slice(event) else {
            return Self {
                time: "--:--:--".to_owned(),
                job: "-".to_owned(),
                stream: "-".to_owned(),
                message: shown(&String::from_utf8_lossy(event), MESSAGE_CHARS_MAX),
            };
        };
        let text = |key: &str, inner: &str| object.get(key)?.get(inner)?.as_str();
        let time = object
            .get("@timestamp")
            .and_then(Value::as_str)
            .and_then(|text| text.parse::<Timestamp>().ok())
            .map_or_else(
                || "--:--:--".to_owned(),
                |at| at.utc().with_timezone(&zone).format("%T").to_string(),
            );
        let job = text("job", "name").or_else(|| text("agent", "type"));
        Self {
            time,
            job: shown(job.unwrap_or("-"), NAME_CHARS_MAX),
            stream: shown(text("job", "stream").unwrap_or("-"), NAME_CHARS_MAX),
            message: shown(&message(&object), MESSAGE_CHARS_MAX),
        }
    }

    /// Appends it, with its line end.
    pub(super) fn push(&self, screen: Screen, out: &mut Vec<u8>) {
        let Self {
            time,
            job,
            stream,
            message,
        } = self;
        let text = match screen {
            Screen::Dumb => format!("{time} {job} {stream} | {message}\n"),
            Screen::Monochrome => {
                format!("{WRAP_OFF}{time} {job} {stream} | {message}{WRAP_ON}\n")
            }
            Screen::Coloured => {
                let colour = colour_of(job);
                let stream_colour = if stream == "stderr" { RED } else { NO_COLOUR };
                format!(
                    "{WRAP_OFF}{time} \x1b[{colour}m{job} {stream_colour}{stream}{NO_COLOUR} \
                     | {message}{WRAP_ON}\n"
                )
            }
        };
        out.extend_from_slice(text.as_bytes());
    }
}

/// The same colour for the same job, whatever else runs.
pub(super) fn colour_of(job: &str) -> u8 {
    let hash = crc32fast::hash(job.as_bytes()) as usize;
    JOB_COLOURS[hash % JOB_COLOURS.len()]
}

/// `message`; without one, the event's own keys; without any, what its `event` object says.
fn message(object: &Map<String, Value>) -> String {
    match object.get("message") {
        Some(Value::String(text)) => return text.clone(),
        None | Some(Value::Null) => {}
        Some(other) => return other.to_string(),
    }
    let own = object
        .iter()
        .filter(|(key, _)| !ADDED_KEYS.contains(&key.as_str()));
    let own = pairs(own);
    if !own.is_empty() {
        return own;
    }
    let Some(Value::Object(event)) = object.get("event") else {
        return String::new();
    };
    pairs(event.iter().filter(|(key, _)| key.as_str() != "id"))
}

/// `key=value key=value`; values that could be misread are written as JSON.
fn pairs<'a>(of: impl Iterator<Item = (&'a String, &'a Value)>) -> String {
    let mut text = String::new();
    for (key, value) in of {
        if text.len() > MESSAGE_CHARS_MAX {
            break;
        }
        if !text.is_empty() {
            text.push(' ');
        }
        let written = match value.as_str() {
            Some(word) if is_word(word) => write!(text, "{key}={word}"),
            _ => write!(text, "{key}={value}"),
        };
        written.expect("writing to a String cannot fail");
    }
    text
}

fn is_word(text: &str) -> bool {
    !text.is_empty() && !text.contains(|c: char| c.is_whitespace() || c == '"' || c == '=')
}
