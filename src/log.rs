//! The daemon's own log: short lines for a terminal, ECS JSON for everything else.
//!
//! One record is one line and one write, whatever the message holds. Knows nothing of events of
//! jobs: those go to the queue.

use std::fmt;
use std::fmt::Write;
use std::io::IsTerminal;
use std::sync::OnceLock;

use serde_json::Map;
use serde_json::Value;
use tracing::Level;
use tracing::Subscriber;
use tracing::field::Field;
use tracing::field::Visit;
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::fmt::FmtContext;
use tracing_subscriber::fmt::FormatEvent;
use tracing_subscriber::fmt::FormatFields;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::reload;

use crate::clock;
use crate::units::Timestamp;

/// `ecs.version` of the records.
const ECS_VERSION: &str = "8.17.0";

/// Sets the level of the log that was started.
static SET_LEVEL: OnceLock<Box<dyn Fn(Level) + Send + Sync>> = OnceLock::new();

/// How records are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// Short lines for people.
    Human,
    /// One ECS JSON object a line.
    Json,
    /// `human` on a terminal, `json` else.
    Auto,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Style {
    Plain,
    Coloured,
    Json,
}

/// The level with this name in the configuration: error | warn | info | debug.
///
/// # Errors
/// Names the text and the levels there are.
pub fn level(name: &str) -> Result<Level, String> {
    match name {
        "error" => Ok(Level::ERROR),
        "warn" => Ok(Level::WARN),
        "info" => Ok(Level::INFO),
        "debug" => Ok(Level::DEBUG),
        _ => Err(format!(
            "`{name}` is not a log level; write error, warn, info or debug"
        )),
    }
}

/// Starts logging to standard error. Has no effect when logging was started before.
pub fn start(format: Format, level: Level) {
    let terminal = std::io::stderr().is_terminal();
    let style = match (format, terminal) {
        (Format::Json, _) | (Format::Auto, false) => Style::Json,
        (Format::Human | Format::Auto, true) => Style::Coloured,
        (Format::Human, false) => Style::Plain,
    };
    let (filter, handle) = reload::Layer::new(LevelFilter::from_level(level));
    let lines = tracing_subscriber::fmt::layer()
        .with_writer(std::io::stderr)
        .event_format(Lines(style));
    let subscriber = tracing_subscriber::registry().with(filter).with(lines);
    let set = move |level: Level| {
        // The only way to fail is that the subscriber is gone, and with it the log.
        drop(handle.reload(LevelFilter::from_level(level)));
    };
    drop(SET_LEVEL.set(Box::new(set)));
    // A second start loses against the first; both want the same.
    drop(tracing::subscriber::set_global_default(subscriber));
}

/// Logs from now on what is at least as severe as `level`. Has no effect before [`start`].
pub fn set_level(level: Level) {
    if let Some(set) = SET_LEVEL.get() {
        set(level);
    }
}

/// The text with control characters (C0, DEL, C1) and direction overrides as `\u{1b}`, so that
/// nothing from outside can drive a terminal or forge a line.
#[must_use]
pub fn printable(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_control() || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}') {
            out.extend(c.escape_default());
        } else {
            out.push(c);
        }
    }
    out
}

struct Lines(Style);

impl<S, N> FormatEvent<S, N> for Lines
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        _context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &tracing::Event<'_>,
    ) -> fmt::Result {
        let mut fields = Fields::default();
        event.record(&mut fields);
        let meta = event.metadata();
        let text = match self.0 {
            Style::Json => json(clock::now(), *meta.level(), meta.target(), fields),
            Style::Plain | Style::Coloured => human(self.0, clock::now(), *meta.level(), &fields)?,
        };
        writeln!(writer, "{text}")
    }
}

/// A record's message and its other fields, in their order.
#[derive(Debug, Default)]
struct Fields {
    message: String,
    others: Vec<(&'static str, Value)>,
}

impl Fields {
    fn put(&mut self, field: &Field, value: Value) {
        match (field.name(), value) {
            ("message", Value::String(text)) => self.message = text,
            (name, value) => self.others.push((name, value)),
        }
    }
}

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.put(field, Value::String(format!("{value:?}")));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.put(field, Value::from(value));
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.put(field, Value::from(value));
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.put(field, Value::from(value));
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.put(field, Value::from(value));
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.put(field, Value::from(value));
    }
}

/// `08:08:08 warn  run failed job=disk exit=3`, the time in UTC as everywhere else.
fn human(
    style: Style,
    now: Timestamp,
    level: Level,
    fields: &Fields,
) -> Result<String, fmt::Error> {
    let time = now.utc().format("%H:%M:%S");
    let name = level_name(level);
    let (on, faint, off) = match style {
        Style::Coloured => (level_colour(level), "\x1b[2m", "\x1b[0m"),
        Style::Plain | Style::Json => ("", "", ""),
    };
    let mut out = String::new();
    write!(out, "{faint}{time}{off} {on}{name:<5}{off} ")?;
    out.push_str(&printable(&fields.message));
    for (name, value) in &fields.others {
        write!(out, " {faint}{name}={off}")?;
        match value {
            Value::String(text) => out.push_str(&printable(text)),
            other => write!(out, "{other}")?,
        }
    }
    Ok(out)
}

/// One ECS object; fields with a dot in their name are ECS's own, `error` is `error.message`,
/// the rest are labels (which ECS wants flat, and as text, numbers or booleans).
fn json(now: Timestamp, level: Level, logger: &str, fields: Fields) -> String {
    let mut record = Map::new();
    record.insert("@timestamp".to_owned(), now.to_string().into());
    record.insert("log.level".to_owned(), level_name(level).into());
    record.insert("message".to_owned(), fields.message.into());
    record.insert("ecs.version".to_owned(), ECS_VERSION.into());
    record.insert("log.logger".to_owned(), logger.into());
    let mut labels = Map::new();
    for (name, value) in fields.others {
        if name == "error" {
            record.insert("error.message".to_owned(), value);
        } else if name.contains('.') {
            record.insert(name.to_owned(), value);
        } else {
            labels.insert(name.to_owned(), value);
        }
    }
    if !labels.is_empty() {
        record.insert("labels".to_owned(), labels.into());
    }
    Value::Object(record).to_string()
}

const fn level_name(level: Level) -> &'static str {
    match level {
        Level::ERROR => "error",
        Level::WARN => "warn",
        Level::INFO => "info",
        Level::DEBUG => "debug",
        Level::TRACE => "trace",
    }
}

const fn level_colour(level: Level) -> &'static str {
    match level {
        Level::ERROR => "\x1b[31m",
        Level::WARN => "\x1b[33m",
        Level::INFO => "\x1b[32m",
        Level::DEBUG | Level::TRACE => "\x1b[2m",
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::*;

    fn fields() -> Fields {
        Fields {
            message: "run \x1b[31mfailed\nforged line".to_owned(),
            others: vec![
                ("job", Value::from("disk")),
                ("exit", Value::from(3)),
                ("error", Value::from("no such file")),
                ("process.pid", Value::from(7)),
            ],
        }
    }

    #[test]
    fn a_record_for_people_is_one_line_without_control_characters() {
        let text = human(
            Style::Plain,
            Timestamp(1_763_712_488_123),
            Level::WARN,
            &fields(),
        )
        .unwrap();
        assert_eq!(
            text,
            "08:08:08 warn  run \\u{1b}[31mfailed\\nforged line job=disk exit=3 error=no such file process.pid=7"
        );
    }

    #[test]
    fn a_json_record_has_the_names_of_ecs() {
        let text = json(
            Timestamp(1_763_712_488_123),
            Level::WARN,
            "spoolbeat::daemon",
            fields(),
        );
        assert!(!text.contains('\n') && !text.contains('\x1b'));
        let value: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(value["@timestamp"], "2025-11-21T08:08:08.123Z");
        assert_eq!(value["log.level"], "warn");
        assert_eq!(value["ecs.version"], ECS_VERSION);
        assert_eq!(value["log.logger"], "spoolbeat::daemon");
        assert_eq!(value["error.message"], "no such file");
        assert_eq!(value["process.pid"], 7);
        assert_eq!(value["labels"]["exit"], 3);
    }

    #[test]
    fn a_wrong_level_is_refused_with_the_right_ones() {
        assert_eq!(level("warn"), Ok(Level::WARN));
        assert!(
            level("verbose")
                .unwrap_err()
                .contains("error, warn, info or debug")
        );
    }
}
