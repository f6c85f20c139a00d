//! Events that are lines: the prepared bytes around a `message`.
//!
//! Must never know whether a run wrote the line.

use serde_json::Map;
use serde_json::Value;

use crate::event::EVENT_BYTES_MAX;
use crate::units::Timestamp;

use super::Identity;
use super::Marks;
use super::Shape;
use super::Tells;
use super::agent_members;
use super::escape::escaped;
use super::escape::escaped_lossy;
use super::escape::fitting_prefix;
use super::escape::number;
use super::escape::quoted;
use super::label_members;
use super::metadata;
use super::prepared;
use super::process_io;
use super::string;

/// Room for what an event holds beside its prepared bytes and its line: time, numbers, flags, counts.
const EXTRAS_BYTES_MAX: usize = 512;

/// Most bytes that one byte of a line can become: a control character as `\u00XX`.
const ESCAPE_GROWTH_MAX: usize = 6;

/// What stands before a text and behind it.
type Around = (&'static [u8], &'static [u8]);

/// The prepared parts of events that are lines of one source.
#[derive(Debug, Clone)]
pub struct Lines {
    /// `SOURCE.`, to which an event's number is added.
    pub(super) id: Vec<u8>,
    /// All that stands between the two numbers of an event.
    pub(super) between: Vec<u8>,
    /// Of a harvested file the member `file` of `log`; else empty.
    pub(super) file: Vec<u8>,
    pub(super) is_open_collector: bool,
}

impl Lines {
    /// Prepares the events of lines that no run wrote: their `event.id` is `<source>.<n>`.
    #[must_use]
    pub fn of_source(
        identity: &Identity,
        source: &str,
        tags: &[&str],
        fields: &Map<String, Value>,
    ) -> Self {
        let mut id = Vec::new();
        escaped(&mut id, format!("{source}.").as_bytes());
        let tags: Vec<Vec<u8>> = tags.iter().map(|tag| string(tag)).collect();
        let between = [
            b"\"},\"host\":{\"name\":".as_slice(),
            &string(&identity.host_name),
            b"},",
            &agent_members(identity),
            &label_members(&tags, &prepared(fields)),
            &metadata(&id),
        ]
        .concat();
        Self {
            id,
            between,
            file: Vec::new(),
            is_open_collector: identity.shape != Shape::Ecs,
        }
    }

    /// Appends the event whose `message` is `line`: number `n` of its stream, read `at`. That of an
    /// error says it again as `error.message`, with `log.level` "error", as ECS has it; for the Open
    /// Collector it is `errormessage`, and `message` too only if it is also to be an event.
    ///
    /// Always a valid JSON object of at most [`EVENT_BYTES_MAX`] bytes. Bytes that are not UTF-8
    /// become U+FFFD and are told by `log.flags`. Returns how many more bytes of the line were left
    /// out because the event would have been larger than that when escaped; else 0.
    pub fn text(&self, out: &mut Vec<u8>, at: Timestamp, n: u64, line: &[u8], marks: Marks) -> u64 {
        let (first, second) = self.texts(marks.tells);
        let times = if second.is_some() { 2 } else { 1 };
        let room = EVENT_BYTES_MAX.saturating_sub(self.fixed_bytes()) / times;
        let kept = if line.len().saturating_mul(ESCAPE_GROWTH_MAX) <= room {
            line.len()
        } else {
            fitting_prefix(line, room)
        };
        let left_out = (line.len() - kept) as u64;
        head(out, at);
        self.provenance(out, n);
        out.extend_from_slice(first);
        let start = out.len();
        out.push(b'"');
        let replaced = escaped_lossy(out, &line[..kept]);
        out.push(b'"');
        if let Some((open, close)) = second {
            let text = start..out.len();
            out.extend_from_slice(open);
            out.extend_from_within(text);
            out.extend_from_slice(close);
        }
        let skipped = marks.skipped + left_out;
        self.log(out, n, replaced, Marks { skipped, ..marks });
        if skipped > 0 {
            process_io(out, kept as u64, skipped);
        }
        out.push(b'}');
        left_out
    }

    /// What stands before the text, and around it where it is said again.
    fn texts(&self, tells: Tells) -> (&'static [u8], Option<Around>) {
        const MESSAGE: &[u8] = b",\"message\":";
        const ERROR: Around = (b",\"error\":{\"message\":", b"}");
        const COLLECTED: &[u8] = b",\"errormessage\":";
        match (tells, self.is_open_collector) {
            (Tells::Event, _) => (MESSAGE, None),
            (Tells::Error | Tells::Both, false) => (MESSAGE, Some(ERROR)),
            (Tells::Error, true) => (COLLECTED, None),
            (Tells::Both, true) => (MESSAGE, Some((COLLECTED, b""))),
        }
    }

    /// Writes everything of an event but `@timestamp` and what came of the line itself.
    pub(super) fn provenance(&self, out: &mut Vec<u8>, n: u64) {
        out.extend_from_slice(b"\"event\":{\"id\":\"");
        out.extend_from_slice(&self.id);
        number(out, n);
        out.extend_from_slice(&self.between);
        number(out, n);
        out.extend_from_slice(b"\"}");
    }

    /// Appends `log`, when there is something to say: where in its file the line begins, the level of
    /// an error, and `log.flags`, as Filebeat sets them, of a line that was changed on the way.
    pub(super) fn log(&self, out: &mut Vec<u8>, n: u64, replaced: bool, marks: Marks) {
        let flags = [
            (marks.is_joined, "multiline"),
            (marks.skipped > 0, "truncated"),
            (replaced, "invalid_utf8"),
        ];
        let is_flagged = flags.iter().any(|(holds, _)| *holds);
        let is_error = marks.tells != Tells::Event;
        if self.file.is_empty() && !is_flagged && !is_error {
            return;
        }
        out.extend_from_slice(b",\"log\":{");
        if !self.file.is_empty() {
            self.place(out, n);
            out.push(b',');
        }
        if is_error {
            out.extend_from_slice(b"\"level\":\"error\",");
        }
        if is_flagged {
            out.extend_from_slice(b"\"flags\":[");
            for (_, name) in flags.into_iter().filter(|(holds, _)| *holds) {
                quoted(out, name);
                out.push(b',');
            }
            out.pop();
            out.extend_from_slice(b"],");
        }
        out.pop();
        out.push(b'}');
    }

    /// Writes the members `file` and `offset` of `log` for a line of a file.
    pub(super) fn place(&self, out: &mut Vec<u8>, n: u64) {
        out.extend_from_slice(&self.file);
        out.extend_from_slice(b",\"offset\":");
        number(out, n);
    }

    /// Upper bound of what an event holds beside the line.
    pub(super) fn fixed_bytes(&self) -> usize {
        self.id.len() + self.between.len() + self.file.len() + EXTRAS_BYTES_MAX
    }
}

/// Opens an event and writes `@timestamp`, with a comma after it.
pub(super) fn head(out: &mut Vec<u8>, at: Timestamp) {
    out.extend_from_slice(b"{\"@timestamp\":\"");
    at.write(out);
    out.extend_from_slice(b"\",");
}
