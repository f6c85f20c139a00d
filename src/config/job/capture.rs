//! `[capture.stdout]` and `[capture.stderr]`: what becomes of what a script prints.
//!
//! Must never know scripts or schedules.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use regex::bytes::RegexBuilder;

use super::LEAST;
use crate::config::reader::Leaf;
use crate::config::reader::Table;
use crate::event::EVENT_BYTES_MAX;
use crate::job::Capture;
use crate::job::Format;
use crate::run::Phase;
use crate::source::multiline;
use crate::source::multiline::Side;

/// Longest event's text when a job does not say it.
pub(super) const MAX_EVENT: u64 = 1 << 20;

/// Smallest and largest `max_event`: the largest leaves 1 MiB of an event to its metadata.
pub(super) const MAX_EVENT_RANGE: Range<u64> = 1 << 10..EVENT_BYTES_MAX as u64 - (1 << 20) + 1;

/// Most memory of a compiled pattern: room for any that a person writes.
const PATTERN_BYTES_MAX: usize = 1 << 20;

/// Filebeat's default.
const MAX_LINES: u32 = 500;

/// Filebeat's default.
const JOIN_TIMEOUT: Duration = Duration::from_secs(5);

const MULTILINE_EXAMPLE: &str =
    r#"multiline = { pattern = '^\s', negate = false, match = "after" }"#;

/// The keys of one stream, each of its type.
#[derive(Debug, Default)]
pub(super) struct RawCapture {
    to: Option<Vec<Goal>>,
    format: Option<(Leaf<String>, Format)>,
    multiline: Option<multiline::Settings>,
    max_event: Option<Leaf<u64>>,
    phases: Option<Vec<Phase>>,
}

/// Where a stream's lines go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Goal {
    Events,
    Errors,
    Log,
}

impl RawCapture {
    pub(super) fn read(table: Option<Table<'_, '_>>) -> Self {
        const GOALS: [(&str, Goal); 3] = [
            ("events", Goal::Events),
            ("errors", Goal::Errors),
            ("log", Goal::Log),
        ];
        const FORMATS: [(&str, Format); 3] = [
            ("text", Format::Text),
            ("json", Format::Json),
            ("document", Format::Document),
        ];
        let Some(mut table) = table else {
            return Self::default();
        };
        let to = picked(&mut table, "to", "to = [\"events\"]", &GOALS);
        let phases = picked(&mut table, "phases", "phases = [\"run\"]", &Phase::NAMES);
        let format = table
            .text("format", "format = \"text\"")
            .and_then(|leaf| Some((leaf.clone(), table.pick(&leaf, &FORMATS)?)));
        if let (Some((leaf, Format::Document)), true) = (&format, table.has("multiline")) {
            let message = "a document is all that a run prints, so there is nothing to join; \
                           remove multiline, or write format = \"text\"";
            table.refuse(leaf, message.to_owned());
        }
        let multiline = read_multiline(&mut table);
        let max_event = table.bytes("max_event", MAX_EVENT_RANGE, "max_event = \"1MiB\"");
        table.finish();
        Self {
            to,
            format,
            multiline,
            max_event,
            phases,
        }
    }

    pub(super) fn check(self, table: &Table<'_, '_>, usual: &[Goal]) -> Capture {
        let to = self.to.unwrap_or_else(|| usual.to_vec());
        let max_event = self.max_event.map_or(MAX_EVENT, |leaf| leaf.value);
        let errors = to.contains(&Goal::Errors);
        if let (Some((leaf, Format::Json)), true) = (&self.format, errors) {
            let message = "what goes to errors is the text of an error; write format = \"text\", \
                           or to = [\"events\"] with objects that say log.level themselves";
            table.refuse(leaf, message.to_owned());
        }
        Capture {
            events: to.contains(&Goal::Events),
            errors,
            log: to.contains(&Goal::Log),
            format: self.format.map_or(Format::Text, |(_, format)| format),
            multiline: self.multiline.map(Arc::new),
            max_event: usize::try_from(max_event).unwrap_or(usize::MAX),
            phases: self.phases.unwrap_or_else(|| vec![Phase::Run]),
        }
    }
}

/// The choices that a list of texts names.
fn picked<T: Copy>(
    table: &mut Table<'_, '_>,
    key: &'static str,
    example: &str,
    choices: &[(&'static str, T)],
) -> Option<Vec<T>> {
    let leaves = table.texts(key, example)?;
    let picked = leaves.iter().filter_map(|leaf| table.pick(leaf, choices));
    Some(picked.collect())
}

fn read_multiline(table: &mut Table<'_, '_>) -> Option<multiline::Settings> {
    const SIDES: [(&str, Side); 2] = [("after", Side::After), ("before", Side::Before)];
    let mut table = table.table("multiline")?;
    let pattern = table.text("pattern", "pattern = '^\\s'");
    if pattern.is_none() && !table.has("pattern") {
        table.lacks("pattern", format!("is missing; write {MULTILINE_EXAMPLE}"));
    }
    let negate = table.truth("negate", "negate = false");
    let side = table.choice("match", &SIDES);
    if side.is_none() && !table.has("match") {
        table.lacks("match", format!("is missing; write {MULTILINE_EXAMPLE}"));
    }
    let max_lines = table.number("max_lines", 1..1_000_001, "max_lines = 500");
    let timeout = table.duration("timeout", LEAST, "timeout = \"5s\"");
    let regex = pattern.and_then(|leaf| {
        let mut builder = RegexBuilder::new(&leaf.value);
        match builder.size_limit(PATTERN_BYTES_MAX).build() {
            Ok(regex) => Some(regex),
            Err(error) => {
                let message = format!("is no pattern: {error}; write {MULTILINE_EXAMPLE}");
                table.refuse(&leaf, message);
                None
            }
        }
    });
    table.finish();
    Some(multiline::Settings {
        pattern: regex?,
        negate: negate.is_some_and(|leaf| leaf.value),
        side: side?,
        max_lines: u64::from(max_lines.unwrap_or(MAX_LINES)),
        timeout: timeout.map_or(JOIN_TIMEOUT, |leaf| leaf.value),
    })
}
