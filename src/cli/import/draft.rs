//! A job folder as it is to be written.
//!
//! Must never know which program it comes from.

use std::fmt::Write;

use serde_json::Map;
use serde_json::Value;

use crate::units::parse_duration;

/// One job.
#[derive(Debug, Default)]
pub(super) struct Draft {
    /// What it might be called.
    pub(super) name: String,
    /// `job.toml`.
    pub(super) toml: String,
    /// Name and text of each script.
    pub(super) files: Vec<(String, String)>,
    /// What could not be carried over, and why.
    pub(super) left_out: Vec<String>,
}

impl Draft {
    /// Adds a line.
    pub(super) fn line(&mut self, line: &str) {
        self.toml.push_str(line);
        self.toml.push('\n');
    }

    /// Adds a section's head, with an empty line before it.
    pub(super) fn section(&mut self, head: &str) {
        self.line(&format!("\n[{head}]"));
    }

    /// Adds `key = "value"`.
    pub(super) fn text(&mut self, key: &str, value: &str) {
        self.line(&format!("{key} = {}", quoted(value)));
    }

    /// Adds `key = ["value", ...]`.
    pub(super) fn texts<T: AsRef<str>>(&mut self, key: &str, values: &[T]) {
        self.line(&format!("{key} = {}", list(values)));
    }

    /// Adds `key = { name = value, ... }`, unless there is none. Values are kept as text where TOML
    /// has nothing like them.
    pub(super) fn map(&mut self, key: &str, values: &Map<String, Value>) {
        if values.is_empty() {
            return;
        }
        let members: Vec<String> = values
            .iter()
            .map(|(name, value)| {
                let value = match value {
                    Value::Bool(_) | Value::Number(_) => value.to_string(),
                    Value::String(text) => quoted(text),
                    Value::Null | Value::Array(_) | Value::Object(_) => quoted(&value.to_string()),
                };
                format!("{} = {value}", quoted(name))
            })
            .collect();
        self.line(&format!("{key} = {{ {} }}", members.join(", ")));
    }

    /// Notes that something is not carried over.
    pub(super) fn leave_out(&mut self, what: impl Into<String>) {
        self.left_out.push(what.into());
    }
}

/// A TOML string that stands for the very text: nothing is filled into it. JSON's escapes are TOML's,
/// but for DEL, which TOML wants escaped too.
pub(super) fn quoted(text: &str) -> String {
    let text = Value::from(text).to_string();
    text.replace('\x7f', "\\u007f").replace("${", "$${")
}

/// A TOML list of strings.
pub(super) fn list<T: AsRef<str>>(values: &[T]) -> String {
    let values: Vec<String> = values.iter().map(|value| quoted(value.as_ref())).collect();
    format!("[{}]", values.join(", "))
}

/// A name that a job may have, from any text.
pub(super) fn name_of(text: &str) -> String {
    let mut name = String::new();
    for c in text.chars().take(64) {
        if c.is_ascii_alphanumeric() || matches!(c, '_' | '-') {
            name.push(c);
        } else if !name.ends_with('-') {
            name.push('-');
        }
    }
    let name = name.trim_matches('-');
    if name.is_empty() {
        "imported".to_owned()
    } else {
        name.to_owned()
    }
}

/// A script of one command, each word as it is: no shell reads anything into it.
pub(super) fn command_script(words: &[String]) -> String {
    let mut script = "#!/bin/sh\nexec".to_owned();
    for word in words {
        // Writing to a String cannot fail.
        let _written = write!(script, " {}", shell_word(word));
    }
    script.push('\n');
    script
}

/// A word that the shell takes as it is.
pub(super) fn shell_word(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''"))
}

/// Whether a value says yes, in YAML 1.1 (which PyYAML and older Go programs read) or 1.2.
pub(super) fn truth(value: &Value) -> Option<bool> {
    match value {
        Value::Bool(truth) => Some(*truth),
        Value::String(text) => match text.to_lowercase().as_str() {
            "yes" | "on" | "true" | "y" => Some(true),
            "no" | "off" | "false" | "n" => Some(false),
            _ => None,
        },
        _ => None,
    }
}

/// The texts of a list of scalars, or of a single one.
pub(super) fn texts(value: &Value) -> Option<Vec<String>> {
    match value {
        Value::Array(items) => items.iter().map(text).collect(),
        single => text(single).map(|text| vec![text]),
    }
}

/// A duration: a number without a unit is of seconds, there as in Go programs.
pub(super) fn duration(value: &Value) -> Option<String> {
    let given = text(value)?.trim().to_owned();
    match given.parse::<f64>() {
        Ok(seconds) if given.contains('.') => Some(format!("{:.0}ms", seconds * 1000.0)),
        Ok(_) => Some(format!("{given}s")),
        Err(_) if given.is_empty() => None,
        Err(_) if parse_duration(&given).is_ok() => Some(given),
        Err(_) => Some(of_go(&given).unwrap_or(given)),
    }
}

/// A duration as of Go's `time.ParseDuration`, with fractions and small units, in whole ones of ours;
/// `None` when it is none, or has parts of a millisecond.
pub(super) fn of_go(text: &str) -> Option<String> {
    const UNITS: [(&str, u64); 7] = [
        ("ns", 1),
        ("us", 1_000),
        ("\u{b5}s", 1_000),
        ("ms", 1_000_000),
        ("s", 1_000_000_000),
        ("m", 60_000_000_000),
        ("h", 3_600_000_000_000),
    ];
    let is_number = |c: char| c.is_ascii_digit() || c == '.';
    let mut rest = text;
    let mut nanoseconds: u64 = 0;
    while !rest.is_empty() {
        let (number, behind) = rest.split_at(rest.find(|c| !is_number(c))?);
        let (unit, behind) = behind.split_at(behind.find(is_number).unwrap_or(behind.len()));
        rest = behind;
        if !number.contains(|c: char| c.is_ascii_digit()) {
            return None;
        }
        let (_, unit) = UNITS.into_iter().find(|(name, _)| *name == unit)?;
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        let whole: u64 = format!("0{whole}").parse().ok()?;
        nanoseconds = nanoseconds.checked_add(whole.checked_mul(unit)?)?;
        let mut part = unit;
        for digit in fraction.chars() {
            part /= 10;
            nanoseconds = nanoseconds.checked_add(u64::from(digit.to_digit(10)?) * part)?;
        }
    }
    let (milliseconds, parts) = (nanoseconds / 1_000_000, nanoseconds % 1_000_000);
    let units = [("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)];
    let (unit, size) = units
        .into_iter()
        .find(|(_, size)| milliseconds % size == 0)?;
    (parts == 0).then(|| format!("{}{unit}", milliseconds / size))
}

/// A scalar as text.
pub(super) fn text(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        Value::Bool(truth) => Some(truth.to_string()),
        Value::Null | Value::Array(_) | Value::Object(_) => None,
    }
}
