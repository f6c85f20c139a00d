//! JSON objects from scripts, spliced into events as bytes.
//!
//! The fast lane copies the line's bytes behind ours. Only an object that has a member of ours,
//! or the same member twice, is taken apart (still as bytes, so numbers keep all their digits).
//! Must never let a script's member stand where a receiver looks for the job's identity.

use std::borrow::Cow;
use std::collections::HashMap;

use crate::event::EVENT_BYTES_MAX;
use crate::units::Timestamp;

use super::Envelope;
use super::Marks;
use super::check::Found;
use super::check::Time;
use super::check::check;
use super::check::time_of;
use super::escape::number;
use super::escape::quoted;
use super::lines::head;

impl Envelope {
    /// Appends the event that `line` is. Returns false, with `out` as it was, when `line` is not a
    /// JSON object that every receiver can read, or would make too large an event.
    pub(super) fn object(&self, out: &mut Vec<u8>, at: Timestamp, n: u64, line: &[u8]) -> bool {
        let Ok(text) = std::str::from_utf8(line) else {
            return false;
        };
        let text = text.trim_matches([' ', '\t', '\r', '\n']);
        if !text.starts_with('{') || text.len() + self.lines.fixed_bytes() > EVENT_BYTES_MAX {
            return false;
        }
        let start = out.len();
        match check(text, !self.lines.file.is_empty()) {
            Some(Found::Plain(plain)) => {
                if plain.has_timestamp {
                    out.push(b'{');
                } else {
                    head(out, at);
                }
                self.lines.provenance(out, n);
                self.lines.log(out, n, false, Marks::default());
                out.push(if plain.is_empty { b'}' } else { b',' });
                if !plain.is_empty {
                    out.extend_from_slice(&text.as_bytes()[1..]);
                }
            }
            Some(Found::Mixed) => self.merged(out, at, n, text),
            None => return false,
        }
        if out.len() - start > EVENT_BYTES_MAX {
            out.truncate(start);
            return false;
        }
        true
    }

    /// The slow lane: member by member.
    fn merged(&self, out: &mut Vec<u8>, at: Timestamp, n: u64, text: &str) {
        let mut script = Displaced::default();
        let mut parts = Parts::default();
        for (key, value) in members(text) {
            parts.take(key, value, self, &mut script);
        }
        out.push(b'{');
        match &parts.timestamp {
            Some(text) => member(out, "@timestamp", text.as_bytes()),
            None => {
                out.extend_from_slice(b"\"@timestamp\":\"");
                at.write(out);
                out.extend_from_slice(b"\",");
            }
        }
        self.merged_event(out, n, &parts, &mut script);
        self.merged_host(out, &parts);
        out.extend_from_slice(&self.agent);
        out.extend_from_slice(&self.job);
        out.extend_from_slice(b"},");
        self.merged_tags(out, &parts);
        self.merged_fields(out, &parts, &mut script);
        self.merged_log(out, n, &parts, &mut script);
        for (key, value) in &parts.others {
            member(out, key, value.as_bytes());
        }
        script.write(out, parts.script);
        out.extend_from_slice(&self.metadata);
        number(out, n);
        out.extend_from_slice(b"\"}}");
    }

    fn merged_event(&self, out: &mut Vec<u8>, n: u64, parts: &Parts<'_>, script: &mut Displaced) {
        out.extend_from_slice(b"\"event\":{\"id\":\"");
        out.extend_from_slice(&self.lines.id);
        number(out, n);
        out.push(b'"');
        let mut lost = Vec::new();
        let mut has_dataset = parts.has_dotted_dataset;
        for (key, value) in parts.event.iter().flat_map(|text| members(text)) {
            if first_part(&key) == "id" {
                lost.push((key, value));
                continue;
            }
            has_dataset |= key == "dataset";
            out.push(b',');
            pair(out, &key, value.as_bytes());
        }
        if !has_dataset {
            out.push(b',');
            pair(out, "dataset", &self.dataset);
        }
        out.extend_from_slice(b"},");
        script.object("event", &lost);
    }

    fn merged_host(&self, out: &mut Vec<u8>, parts: &Parts<'_>) {
        let Some(host) = parts.host else {
            if !parts.has_dotted_host_name {
                out.extend_from_slice(b"\"host\":{\"name\":");
                out.extend_from_slice(&self.host_name);
                out.extend_from_slice(b"},");
            }
            return;
        };
        if host.starts_with('"') {
            out.extend_from_slice(b"\"host\":{");
            pair(out, "name", host.as_bytes());
            out.extend_from_slice(b"},");
            return;
        }
        let mut found = members(host);
        let has_name =
            parts.has_dotted_host_name || found.iter().any(|(key, _)| first_part(key) == "name");
        if !has_name {
            let name = std::str::from_utf8(&self.host_name).unwrap_or("\"\"");
            found.push((Cow::Borrowed("name"), name));
        }
        object_member(out, "host", &found);
    }

    fn merged_tags(&self, out: &mut Vec<u8>, parts: &Parts<'_>) {
        let theirs = parts.tags.map_or("", |tags| inside(tags));
        if theirs.is_empty() && self.tags.is_empty() {
            return;
        }
        out.extend_from_slice(b"\"tags\":[");
        out.extend_from_slice(&self.tags.join(&b','));
        if !theirs.is_empty() && !self.tags.is_empty() {
            out.push(b',');
        }
        out.extend_from_slice(theirs.as_bytes());
        out.extend_from_slice(b"],");
    }

    fn merged_fields(&self, out: &mut Vec<u8>, parts: &Parts<'_>, script: &mut Displaced) {
        let found = parts.fields.map(members).unwrap_or_default();
        let (lost, mut kept): (Vec<_>, Vec<_>) =
            found.into_iter().partition(|(key, _)| self.has_field(key));
        script.object("fields", &lost);
        for (key, value) in &self.fields {
            let value = std::str::from_utf8(value).unwrap_or("null");
            kept.push((Cow::Borrowed(key.as_str()), value));
        }
        if !kept.is_empty() {
            object_member(out, "fields", &kept);
        }
    }

    /// Where the line of a file lies stands beside what else the script's `log` says.
    fn merged_log(&self, out: &mut Vec<u8>, n: u64, parts: &Parts<'_>, script: &mut Displaced) {
        if self.lines.file.is_empty() {
            return;
        }
        let found = parts.log.map(members).unwrap_or_default();
        let (lost, kept): (Vec<_>, Vec<_>) = found
            .into_iter()
            .partition(|(key, _)| is_log_of_file(first_part(key)));
        script.object("log", &lost);
        out.extend_from_slice(b"\"log\":{");
        self.lines.place(out, n);
        for (key, value) in &kept {
            out.push(b',');
            pair(out, key, value.as_bytes());
        }
        out.extend_from_slice(b"},");
    }

    /// Whether the job's own fields have one that `key` (perhaps dotted) would stand in for.
    fn has_field(&self, key: &str) -> bool {
        self.fields
            .iter()
            .any(|(ours, _)| first_part(ours) == first_part(key))
    }
}

/// The members of a script's object, sorted by what becomes of them; values are JSON text.
#[derive(Default)]
struct Parts<'a> {
    timestamp: Option<Cow<'a, str>>,
    event: Option<&'a str>,
    host: Option<&'a str>,
    tags: Option<&'a str>,
    fields: Option<&'a str>,
    script: Option<&'a str>,
    /// Only for files: whose `log` has members of ours.
    log: Option<&'a str>,
    has_dotted_dataset: bool,
    has_dotted_host_name: bool,
    others: Vec<(Cow<'a, str>, &'a str)>,
}

impl<'a> Parts<'a> {
    fn take(&mut self, key: Cow<'a, str>, value: &'a str, ours: &Envelope, script: &mut Displaced) {
        let is_object = value.starts_with('{');
        match key.as_ref() {
            "@timestamp" => match time_of(&decoded(value)) {
                Time::Fit => self.timestamp = Some(Cow::Borrowed(value)),
                Time::Odd(at) => {
                    self.timestamp = Some(Cow::Owned(format!("\"{at}\"")));
                    script.add(&key, value);
                }
                Time::None => script.add(&key, value),
            },
            "event" if is_object => self.event = Some(value),
            "host" if is_object || value.starts_with('"') => self.host = Some(value),
            "tags" if is_strings(value) => self.tags = Some(value),
            "fields" if is_object => self.fields = Some(value),
            "log" if is_object && !ours.lines.file.is_empty() => self.log = Some(value),
            "script" => self.script = Some(value),
            "event.dataset" => {
                self.has_dotted_dataset = true;
                self.others.push((key, value));
            }
            "host.name" => {
                self.has_dotted_host_name = true;
                self.others.push((key, value));
            }
            other if is_ours(other, ours) => script.add(other, value),
            _ => self.others.push((key, value)),
        }
    }
}

/// Whether a member of a script must not stand at the top level under this key.
///
/// Elasticsearch takes `job.name` for the member `name` of `job`. Logstash's Beats input sets each
/// member by `event.set(key, value)`, which takes `[job][name]` for the same, and fails on others
/// with brackets.
fn is_ours(key: &str, ours: &Envelope) -> bool {
    if key.contains(['[', ']']) {
        return true;
    }
    let (first, rest) = key.split_once('.').unwrap_or((key, ""));
    match first {
        "" | "@metadata" | "@timestamp" | "agent" | "ecs" | "job" | "tags" => true,
        "@version" | "beat" | "fullyqualifiedbeatname" => ours.lines.is_open_collector,
        "event" => rest.is_empty() || first_part(rest) == "id",
        "host" => rest.is_empty(),
        "fields" => rest.is_empty() || ours.has_field(rest),
        "log" if !ours.lines.file.is_empty() => rest.is_empty() || is_log_of_file(first_part(rest)),
        _ => false,
    }
}

/// Whether a member of `log` says where a line lies.
fn is_log_of_file(key: &str) -> bool {
    matches!(key, "file" | "offset")
}

/// What stands before the first dot: Elasticsearch reads dots in keys as nesting.
pub(super) fn first_part(key: &str) -> &str {
    key.split_once('.').map_or(key, |(first, _)| first)
}

/// What a script's members were displaced to: the members of `script`.
#[derive(Default)]
struct Displaced(Vec<(String, Vec<u8>)>);

impl Displaced {
    fn add(&mut self, key: &str, value: &str) {
        self.0.push((key.to_owned(), value.as_bytes().to_vec()));
    }

    fn object(&mut self, key: &str, lost: &[(Cow<'_, str>, &str)]) {
        if lost.is_empty() {
            return;
        }
        let mut value = Vec::new();
        object(&mut value, lost);
        self.0.push((key.to_owned(), value));
    }

    /// Writes the member `script`, with the script's own one of that name beside what was displaced
    /// or, where it does not fit there, inside it as `script.script`.
    fn write(&self, out: &mut Vec<u8>, own: Option<&str>) {
        if self.0.is_empty() {
            if let Some(own) = own {
                member(out, "script", own.as_bytes());
            }
            return;
        }
        let beside = own
            .filter(|own| own.starts_with('{'))
            .map(members)
            .filter(|own| {
                own.iter()
                    .all(|(key, _)| self.0.iter().all(|(ours, _)| ours != key))
            });
        out.extend_from_slice(b"\"script\":{");
        match (beside, own) {
            (Some(beside), _) => {
                for (key, value) in &beside {
                    member(out, key, value.as_bytes());
                }
            }
            (None, Some(own)) => member(out, "script", own.as_bytes()),
            (None, None) => {}
        }
        for (key, value) in &self.0 {
            member(out, key, value);
        }
        out.pop();
        out.extend_from_slice(b"},");
    }
}

pub(super) fn pair(out: &mut Vec<u8>, key: &str, value: &[u8]) {
    quoted(out, key);
    out.push(b':');
    out.extend_from_slice(value);
}

fn member(out: &mut Vec<u8>, key: &str, value: &[u8]) {
    pair(out, key, value);
    out.push(b',');
}

fn object(out: &mut Vec<u8>, found: &[(Cow<'_, str>, &str)]) {
    out.push(b'{');
    for (at, (key, value)) in found.iter().enumerate() {
        if at > 0 {
            out.push(b',');
        }
        pair(out, key, value.as_bytes());
    }
    out.push(b'}');
}

fn object_member(out: &mut Vec<u8>, key: &str, found: &[(Cow<'_, str>, &str)]) {
    quoted(out, key);
    out.push(b':');
    object(out, found);
    out.push(b',');
}

/// The members of a JSON object that is known to be valid, in order, without those that a later
/// one of the same key replaces. Values are slices of the text, so that they keep all digits.
pub(super) fn members(text: &str) -> Vec<(Cow<'_, str>, &str)> {
    let mut found: Vec<(Cow<'_, str>, &str)> = Vec::new();
    let mut rest = inside(text);
    while rest.starts_with('"') {
        let key_end = value_end(rest);
        let key = decoded(&rest[..key_end]);
        rest = rest[key_end..].trim_ascii_start();
        rest = rest.strip_prefix(':').unwrap_or(rest).trim_ascii_start();
        let end = value_end(rest);
        found.push((key, rest[..end].trim_ascii_end()));
        rest = rest[end..].trim_ascii_start();
        rest = rest.strip_prefix(',').unwrap_or(rest).trim_ascii_start();
    }
    last_of_each(found)
}

/// Up to so many members are compared each with each, which is faster than hashing.
const PAIRWISE_MAX: usize = 32;

fn last_of_each<'a>(mut found: Vec<(Cow<'a, str>, &'a str)>) -> Vec<(Cow<'a, str>, &'a str)> {
    let few = found.len() <= PAIRWISE_MAX;
    if few && (1..found.len()).all(|at| found[..at].iter().all(|(key, _)| *key != found[at].0)) {
        return found;
    }
    let mut last = HashMap::new();
    for (at, (key, _)) in found.iter().enumerate() {
        last.insert(key.clone(), at);
    }
    if last.len() < found.len() {
        let mut at = 0;
        found.retain(|(key, _)| {
            at += 1;
            last.get(key) == Some(&(at - 1))
        });
    }
    found
}

/// What is between the brackets of a JSON object or array.
fn inside(text: &str) -> &str {
    text.get(1..text.len().saturating_sub(1))
        .unwrap_or("")
        .trim_ascii()
}

/// The string that a valid JSON value is; empty when it is another kind of value.
fn decoded(value: &str) -> Cow<'_, str> {
    let plain = value
        .strip_prefix('"')
        .and_then(|value| value.strip_suffix('"'));
    match plain {
        Some(plain) if !plain.contains('\\') => Cow::Borrowed(plain),
        Some(_) => Cow::Owned(serde_json::from_str(value).unwrap_or_default()),
        None => Cow::Borrowed(""),
    }
}

/// Where the JSON value that `text` begins with ends: behind it, or at the `,`, `}` or `]` after it.
fn value_end(text: &str) -> usize {
    let bytes = text.as_bytes();
    let mut depth = 0_usize;
    let mut at = 0;
    while at < bytes.len() {
        match bytes[at] {
            b'"' => {
                at = string_end(bytes, at);
                if depth == 0 {
                    return at;
                }
                continue;
            }
            b'{' | b'[' => depth += 1,
            b'}' | b']' if depth == 0 => return at,
            b'}' | b']' => {
                depth -= 1;
                if depth == 0 {
                    return at + 1;
                }
            }
            b',' if depth == 0 => return at,
            _ => {}
        }
        at += 1;
    }
    at
}

/// Behind the closing quote of the string that opens at `start`.
fn string_end(bytes: &[u8], start: usize) -> usize {
    let mut at = start + 1;
    while let Some(found) = memchr::memchr2(b'"', b'\\', &bytes[at.min(bytes.len())..]) {
        at += found;
        if bytes[at] == b'"' {
            return at + 1;
        }
        at += 2;
    }
    bytes.len()
}

/// Whether a valid JSON value is an array of nothing but strings.
fn is_strings(text: &str) -> bool {
    if !text.starts_with('[') {
        return false;
    }
    let mut rest = inside(text);
    while !rest.is_empty() {
        if !rest.starts_with('"') {
            return false;
        }
        rest = rest[value_end(rest)..].trim_ascii_start();
        rest = rest.strip_prefix(',').unwrap_or(rest).trim_ascii_start();
    }
    true
}
