//! What an event looks like: a line or a fact of a run, and what is known of where it came from.
//!
//! The shape is that of Beats events (`@metadata`, `agent`, `ecs`, `host`) with ECS names for
//! runs; what is our own lies under `job`. Everything that is the same for all events of one
//! (run, stream) is prepared as bytes once, so that an event costs a few copies and no
//! allocation. Must never know of files, processes, schedules or queues; asks for no time.

use std::fmt;
use std::time::Duration;

use serde::Deserialize;
use serde::Serialize;
use serde_json::Map;
use serde_json::Value;

use crate::event::RunId;
use crate::event::Stream;
use crate::units::Timestamp;
use crate::units::show_duration;

use escape::number;
use escape::quoted;

mod check;
mod escape;
mod file;
mod lines;
mod notice;
mod object;
mod replay;

pub use check::fit;
pub use file::FileLabels;
pub use file::FileReleased;
pub use lines::Lines;
pub use replay::Replay;

/// `agent.type`, and the index prefix in `@metadata.beat`.
const BEAT: &str = "spoolbeat";

/// `agent.version` and `@metadata.version`.
const VERSION: &str = env!("CARGO_PKG_VERSION");

/// The ECS release that the field names are taken from.
const ECS_VERSION: &str = "8.17.0";

/// Longest reason of a run's end that an event repeats; more is cut, as the whole stands in the results.
const REASON_BYTES_MAX: usize = 8 << 10;

/// Who ships: the same for all events of one daemon.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// `host.name` and `agent.name`.
    pub host_name: String,
    /// `agent.id`: kept for the life of a root directory.
    pub agent_id: String,
    /// `agent.ephemeral_id`: new with each start of the daemon.
    pub agent_ephemeral_id: String,
    /// What events look like.
    pub shape: Shape,
}

/// What events look like: `[events] shape`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Shape {
    /// Beats events with ECS names.
    #[default]
    Ecs,
    /// The same with what LogRhythm's Open Collector tells beats apart by: `fullyqualifiedbeatname`,
    /// `beat` and `@version` as Scriptable Beat sends them; the text of an error is `errormessage`.
    OpenCollector(Beat),
}

/// Which beat the Open Collector is to see.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Beat {
    /// `beat.name`, and in lower case the first part of `fullyqualifiedbeatname`.
    pub name: String,
    /// The second part of it: which one of several.
    pub identifier: String,
}

/// What is known of a run before its first event.
#[derive(Debug, Clone, Copy)]
pub struct Labels<'a> {
    /// `job.name`.
    pub job: &'a str,
    /// `job.run_id`, and the first part of `event.id`.
    pub run: &'a RunId,
    /// `job.generation`.
    pub generation: &'a str,
    /// `job.trigger`.
    pub trigger: &'a str,
    /// `job.scheduled_at`: the tick that the run belongs to, if one.
    pub scheduled_at: Option<Timestamp>,
    /// The job's `tags`.
    pub tags: &'a [String],
    /// The job's `fields`.
    pub fields: &'a Map<String, Value>,
}

/// What is to be said of a text beside its bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Marks {
    /// Bytes of it that were cut off before.
    pub skipped: u64,
    /// It is several lines, joined.
    pub is_joined: bool,
    /// What it is told as.
    pub tells: Tells,
}

/// What a text is told as.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Tells {
    /// The message of an event.
    #[default]
    Event,
    /// The message of an error.
    Error,
    /// Both.
    Both,
}

/// What became of a line that was offered as JSON.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wrapped {
    /// It is an object and lies at the top level of the event.
    Object,
    /// It is not an object that every receiver can read, and is the event's `message`.
    Text {
        /// As [`Envelope::text`] returns it.
        left_out: u64,
    },
}

/// What a run did, in numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Counts {
    /// Lines of standard output, empty ones too.
    pub stdout_lines: u64,
    /// Lines of standard error, empty ones too.
    pub stderr_lines: u64,
    /// Lines that became events.
    pub events: u64,
    /// Bytes read from both streams.
    pub bytes_read: u64,
    /// Lines that were cut because they were too long.
    pub lines_cut: u64,
}

/// The value of `event.outcome`, as ECS defines it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// The run did what it was to do.
    Success,
    /// It did not.
    Failure,
    /// It was ended before that could be known.
    Unknown,
}

impl Verdict {
    const fn name(self) -> &'static str {
        match self {
            Self::Success => "success",
            Self::Failure => "failure",
            Self::Unknown => "unknown",
        }
    }

    const fn level(self) -> &'static str {
        match self {
            Self::Success => "info",
            Self::Failure => "error",
            Self::Unknown => "warn",
        }
    }
}

/// How a run ended, for its last event.
#[derive(Debug, Clone, Copy)]
pub struct RunEnd<'a> {
    /// When it was started.
    pub started_at: Timestamp,
    /// When it ended.
    pub at: Timestamp,
    /// How long it took, by the monotonic clock.
    pub took: Duration,
    /// `job.outcome`.
    pub outcome: &'a str,
    /// What the outcome means to ECS.
    pub verdict: Verdict,
    /// Reason in words.
    pub reason: Option<&'a str>,
    /// Process number, when there was a process.
    pub pid: Option<u32>,
    /// Exit code, when it exited.
    pub exit_code: Option<i32>,
    /// Number of the signal that ended it, if one did.
    pub signal: Option<i32>,
    /// What it did; `None` when that died with the daemon. Then `took` and `at` are the latest possible.
    pub counts: Option<Counts>,
}

/// The prepared parts of the events of one stream of one run.
#[derive(Clone)]
pub struct Envelope {
    /// Those of its lines.
    lines: Lines,
    /// The value of `event.dataset`, quoted.
    dataset: Vec<u8>,
    /// The value of `host.name`, quoted.
    host_name: Vec<u8>,
    /// The members `agent` and `ecs`, with a comma after them.
    agent: Vec<u8>,
    /// The member `job` without its closing brace.
    job: Vec<u8>,
    /// Each tag, quoted.
    tags: Vec<Vec<u8>>,
    /// Each field: its name, and its value as JSON.
    fields: Vec<(String, Vec<u8>)>,
    /// The members `tags` and `fields`, each with a comma after it.
    labels: Vec<u8>,
    /// `@metadata` up to and with the first part of `_id`.
    metadata: Vec<u8>,
    /// `service.name` of what the daemon tells of itself.
    service: String,
    job_name: String,
    trigger: String,
}

impl fmt::Debug for Envelope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Envelope")
            .field(&String::from_utf8_lossy(&self.lines.id))
            .finish()
    }
}

impl Envelope {
    /// Prepares the events of one stream of one run.
    #[must_use]
    pub fn new(identity: &Identity, labels: &Labels<'_>, stream: Stream) -> Self {
        let run = labels.run.as_str();
        Self {
            trigger: labels.trigger.to_owned(),
            ..Self::prepare(
                identity,
                labels.job,
                stream,
                &format!("{run}.{}.", stream.letter()),
                (labels.tags, labels.fields),
                job_member(labels, stream),
            )
        }
    }

    fn prepare(
        identity: &Identity,
        job_name: &str,
        stream: Stream,
        id_prefix: &str,
        (tags, fields): (&[String], &Map<String, Value>),
        job: Vec<u8>,
    ) -> Self {
        let mut id = Vec::new();
        escape::escaped(&mut id, id_prefix.as_bytes());
        let dataset = string(&format!("{job_name}.{}", stream.name()));
        let host_name = string(&identity.host_name);
        let agent = agent_members(identity);
        let tags: Vec<Vec<u8>> = tags.iter().map(|tag| string(tag)).collect();
        let fields = prepared(fields);
        let labels_members = label_members(&tags, &fields);
        let metadata = metadata(&id);
        let between = [
            b"\",\"dataset\":",
            dataset.as_slice(),
            b"},\"host\":{\"name\":",
            &host_name,
            b"},",
            &agent,
            &job,
            b"},",
            &labels_members,
            &metadata,
        ]
        .concat();
        Self {
            lines: Lines {
                id,
                between,
                file: Vec::new(),
                is_open_collector: identity.shape != Shape::Ecs,
            },
            dataset,
            host_name,
            agent,
            job,
            tags,
            fields,
            labels: labels_members,
            metadata,
            service: match &identity.shape {
                Shape::Ecs => BEAT.to_owned(),
                Shape::OpenCollector(beat) => beat.name.clone(),
            },
            job_name: job_name.to_owned(),
            trigger: String::new(),
        }
    }

    /// Appends the event whose `message` is `line`, as [`Lines::text`] does.
    pub fn text(&self, out: &mut Vec<u8>, at: Timestamp, n: u64, line: &[u8], marks: Marks) -> u64 {
        self.lines.text(out, at, n, line, marks)
    }

    /// Appends the event that `line` is when it is a JSON object, else as [`Envelope::text`].
    ///
    /// It counts as an object only if every receiver can read it: UTF-8, nested less than 100 deep,
    /// no lone surrogates, no numbers beyond 64-bit floats, not cut. Its members stay at the top
    /// level; those that are ours go to `script.<key>`, so that it can never pass for another job.
    pub fn json(
        &self,
        out: &mut Vec<u8>,
        at: Timestamp,
        n: u64,
        line: &[u8],
        marks: Marks,
    ) -> Wrapped {
        if marks.skipped == 0 && self.object(out, at, n, line) {
            return Wrapped::Object;
        }
        Wrapped::Text {
            left_out: self.text(out, at, n, line, marks),
        }
    }

    /// Appends the event of the run's start.
    pub fn run_started(&self, out: &mut Vec<u8>, at: Timestamp, n: u64, pid: Option<u32>) {
        lines::head(out, at);
        out.extend_from_slice(b"\"message\":");
        let message = format!("run of {} started ({})", self.job_name, self.trigger);
        quoted(out, &message);
        out.extend_from_slice(b",\"log\":{\"level\":\"info\"},");
        self.run_event(out, n, "start", at);
        out.extend_from_slice(b"},");
        self.rest(out, b"", n);
        process(out, pid, None);
        out.push(b'}');
    }

    /// Appends the event of the run's end.
    pub fn run_ended(&self, out: &mut Vec<u8>, n: u64, end: &RunEnd<'_>) {
        lines::head(out, end.at);
        out.extend_from_slice(b"\"message\":");
        let reason = end.reason.map(|reason| shortened(reason, REASON_BYTES_MAX));
        quoted(out, &self.end_message(end, reason));
        out.extend_from_slice(b",\"log\":{\"level\":");
        quoted(out, end.verdict.level());
        out.extend_from_slice(b"},");
        self.run_event(out, n, "end", end.started_at);
        out.extend_from_slice(b",\"end\":\"");
        end.at.write(out);
        out.extend_from_slice(b"\",\"duration\":");
        number(out, u64::try_from(end.took.as_nanos()).unwrap_or(u64::MAX));
        out.extend_from_slice(b",\"outcome\":");
        quoted(out, end.verdict.name());
        if let Some(reason) = reason {
            out.extend_from_slice(b",\"reason\":");
            quoted(out, reason);
        }
        out.extend_from_slice(b"},");
        self.rest(out, &end_job_members(end, reason), n);
        process(out, end.pid, end.exit_code);
        if end.verdict == Verdict::Failure {
            let why = string(reason.unwrap_or(end.outcome));
            out.extend_from_slice(b",\"error\":{\"message\":");
            out.extend_from_slice(&why);
            out.push(b'}');
            if self.lines.is_open_collector {
                out.extend_from_slice(b",\"errormessage\":");
                out.extend_from_slice(&why);
            }
        }
        out.push(b'}');
    }

    fn end_message(&self, end: &RunEnd<'_>, reason: Option<&str>) -> String {
        let reason = reason.map_or_else(String::new, |reason| format!(": {reason}"));
        let (job, outcome, took) = (&self.job_name, end.outcome, show_duration(end.took));
        let Some(Counts { events, .. }) = end.counts else {
            return format!("run of {job} ended: {outcome} after {took} at most{reason}");
        };
        let s = if events == 1 { "" } else { "s" };
        format!("run of {job} ended: {outcome} in {took}, {events} event{s}{reason}")
    }

    /// Opens `event` of a run's own event.
    fn run_event(&self, out: &mut Vec<u8>, n: u64, kind: &str, started_at: Timestamp) {
        out.extend_from_slice(b"\"event\":{\"id\":\"");
        out.extend_from_slice(&self.lines.id);
        number(out, n);
        out.extend_from_slice(b"\",\"dataset\":");
        out.extend_from_slice(&self.dataset);
        out.extend_from_slice(
            b",\"kind\":\"event\",\"category\":[\"process\"],\"action\":\"job-run\",\"type\":[",
        );
        quoted(out, kind);
        out.extend_from_slice(b"],\"start\":\"");
        started_at.write(out);
        out.push(b'"');
    }

    /// Writes `host`, `agent`, `ecs`, `job` (with more members), `tags`, `fields` and `@metadata`.
    fn rest(&self, out: &mut Vec<u8>, job_members: &[u8], n: u64) {
        out.extend_from_slice(b"\"host\":{\"name\":");
        out.extend_from_slice(&self.host_name);
        out.extend_from_slice(b"},");
        out.extend_from_slice(&self.agent);
        out.extend_from_slice(&self.job);
        out.extend_from_slice(job_members);
        out.extend_from_slice(b"},");
        out.extend_from_slice(&self.labels);
        out.extend_from_slice(&self.metadata);
        number(out, n);
        out.extend_from_slice(b"\"}");
    }
}

fn string(text: &str) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len() + 2);
    quoted(&mut out, text);
    out
}

/// Appends `"key":"value",`.
fn member(out: &mut Vec<u8>, key: &str, value: &str) {
    quoted(out, key);
    out.push(b':');
    quoted(out, value);
    out.push(b',');
}

/// `agent` and `ecs`, and what the shape adds, with a comma after them.
fn agent_members(identity: &Identity) -> Vec<u8> {
    let mut out = b"\"agent\":{".to_vec();
    member(&mut out, "type", BEAT);
    member(&mut out, "version", VERSION);
    member(&mut out, "name", &identity.host_name);
    member(&mut out, "id", &identity.agent_id);
    out.extend_from_slice(b"\"ephemeral_id\":");
    quoted(&mut out, &identity.agent_ephemeral_id);
    out.extend_from_slice(b"},\"ecs\":{\"version\":");
    quoted(&mut out, ECS_VERSION);
    out.extend_from_slice(b"},");
    if let Shape::OpenCollector(beat) = &identity.shape {
        let full = format!("{}_{}", beat.name.to_lowercase(), beat.identifier);
        member(&mut out, "fullyqualifiedbeatname", &full);
        member(&mut out, "@version", "1");
        out.extend_from_slice(b"\"beat\":{");
        member(&mut out, "hostname", &identity.host_name);
        member(&mut out, "version", VERSION);
        out.extend_from_slice(b"\"name\":");
        quoted(&mut out, &beat.name);
        out.extend_from_slice(b"},");
    }
    out
}

fn job_member(labels: &Labels<'_>, stream: Stream) -> Vec<u8> {
    let mut out = b"\"job\":{".to_vec();
    member(&mut out, "name", labels.job);
    member(&mut out, "run_id", labels.run.as_str());
    member(&mut out, "generation", labels.generation);
    member(&mut out, "trigger", labels.trigger);
    if let Some(at) = labels.scheduled_at {
        member(&mut out, "scheduled_at", &at.to_string());
    }
    out.extend_from_slice(b"\"stream\":");
    quoted(&mut out, stream.name());
    out
}

/// Each field: its name, and its value as JSON.
fn prepared(fields: &Map<String, Value>) -> Vec<(String, Vec<u8>)> {
    fields
        .iter()
        .map(|(key, value)| (key.clone(), value.to_string().into_bytes()))
        .collect()
}

/// `@metadata` up to and with the first part of `_id`.
fn metadata(id: &[u8]) -> Vec<u8> {
    let mut out = b"\"@metadata\":{".to_vec();
    member(&mut out, "beat", BEAT);
    member(&mut out, "type", "_doc");
    member(&mut out, "version", VERSION);
    out.extend_from_slice(b"\"_id\":\"");
    out.extend_from_slice(id);
    out
}

/// `tags` and `fields`, each only when there is something in it.
fn label_members(tags: &[Vec<u8>], fields: &[(String, Vec<u8>)]) -> Vec<u8> {
    let mut out = Vec::new();
    if !tags.is_empty() {
        out.extend_from_slice(b"\"tags\":[");
        out.extend_from_slice(&tags.join(&b','));
        out.extend_from_slice(b"],");
    }
    if !fields.is_empty() {
        out.extend_from_slice(b"\"fields\":{");
        for (at, (key, value)) in fields.iter().enumerate() {
            if at > 0 {
                out.push(b',');
            }
            quoted(&mut out, key);
            out.push(b':');
            out.extend_from_slice(value);
        }
        out.extend_from_slice(b"},");
    }
    out
}

/// Appends the counts that ECS has for output that was not taken whole.
fn process_io(out: &mut Vec<u8>, kept: u64, skipped: u64) {
    out.extend_from_slice(b",\"process\":{\"io\":{\"total_bytes_captured\":");
    number(out, kept);
    out.extend_from_slice(b",\"total_bytes_skipped\":");
    number(out, skipped);
    out.extend_from_slice(b",\"bytes_skipped\":[{\"offset\":");
    number(out, kept);
    out.extend_from_slice(b",\"length\":");
    number(out, skipped);
    out.extend_from_slice(b"}]}}");
}

/// Appends `,"process":{...}` when something is known of the process.
fn process(out: &mut Vec<u8>, pid: Option<u32>, exit_code: Option<i32>) {
    if pid.is_none() && exit_code.is_none() {
        return;
    }
    let pid = pid.map(|pid| format!("\"pid\":{pid}"));
    let exit_code = exit_code.map(|code| format!("\"exit_code\":{code}"));
    let members: Vec<String> = pid.into_iter().chain(exit_code).collect();
    out.extend_from_slice(format!(",\"process\":{{{}}}", members.join(",")).as_bytes());
}

/// The members of `job` that only the end event has, each with a comma before it.
fn end_job_members(end: &RunEnd<'_>, reason: Option<&str>) -> Vec<u8> {
    let mut out = b",\"outcome\":".to_vec();
    quoted(&mut out, end.outcome);
    if let Some(reason) = reason {
        out.extend_from_slice(b",\"reason\":");
        quoted(&mut out, reason);
    }
    if let Some(signal) = end.signal {
        out.extend_from_slice(format!(",\"signal\":{signal}").as_bytes());
    }
    let Some(counts) = end.counts else {
        return out;
    };
    out.extend_from_slice(
        format!(
            ",\"counts\":{{\"stdout_lines\":{},\"stderr_lines\":{},\"events\":{},\"bytes_read\":{},\"lines_cut\":{}}}",
            counts.stdout_lines,
            counts.stderr_lines,
            counts.events,
            counts.bytes_read,
            counts.lines_cut
        )
        .as_bytes(),
    );
    out
}

/// The longest prefix of at most `max` bytes that ends between two characters.
fn shortened(text: &str, max: usize) -> &str {
    let mut end = max.min(text.len());
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

#[cfg(test)]
mod tests;
