//! Events of harvested files: where a line lies, and what became of a file's clean-up.
//!
//! Must never touch a file.

use serde_json::Map;
use serde_json::Value;

use super::Envelope;
use super::Identity;
use super::REASON_BYTES_MAX;
use super::escape::quoted;
use super::lines::head;
use super::member;
use super::shortened;
use crate::event::Stream;
use crate::units::Timestamp;

/// What is known of a harvested file before its first event.
#[derive(Debug, Clone, Copy)]
pub struct FileLabels<'a> {
    /// `job.name`.
    pub job: &'a str,
    /// `job.generation`, where a job is at work.
    pub generation: Option<&'a str>,
    /// The file's generation: the first part of `event.id`.
    pub file: &'a str,
    /// `log.file.path`.
    pub path: &'a str,
    /// The job's `tags` and those of its `[[files]]`.
    pub tags: &'a [String],
    /// The job's `fields`.
    pub fields: &'a Map<String, Value>,
}

/// What became of the clean-up of a file, for an event.
#[derive(Debug, Clone, Copy)]
pub struct FileReleased<'a> {
    /// `delete`, `truncate`, `move`.
    pub action: &'a str,
    /// Size of the file when it was read to its end.
    pub bytes: u64,
    /// Why it was refused; `None`: it was carried out.
    pub refused: Option<&'a str>,
}

impl Envelope {
    /// Prepares the events of a harvested file: the number of each is where its line begins.
    #[must_use]
    pub fn of_file(identity: &Identity, labels: &FileLabels<'_>) -> Self {
        let mut job = b"\"job\":{".to_vec();
        member(&mut job, "name", labels.job);
        if let Some(generation) = labels.generation {
            member(&mut job, "generation", generation);
        }
        job.extend_from_slice(b"\"stream\":");
        quoted(&mut job, Stream::File.name());
        let mut envelope = Self::prepare(
            identity,
            labels.job,
            Stream::File,
            &format!("{}.", labels.file),
            (labels.tags, labels.fields),
            job,
        );
        let file = &mut envelope.lines.file;
        file.extend_from_slice(b"\"file\":{\"path\":");
        quoted(file, labels.path);
        file.push(b'}');
        envelope
    }

    /// Appends the event of what became of a file's clean-up. Only for [`Envelope::of_file`].
    pub fn file_released(&self, out: &mut Vec<u8>, at: Timestamp, told: &FileReleased<'_>) {
        let (past, level, outcome) = match told.refused {
            None => ("done", "info", "success"),
            Some(_) => ("refused", "warn", "failure"),
        };
        let id = format!("{}-{}", told.bytes, told.action);
        head(out, at);
        out.extend_from_slice(b"\"message\":");
        let reason = told
            .refused
            .map_or_else(String::new, |why| format!(": {why}"));
        quoted(
            out,
            &format!("clean-up of a file {past} ({}){reason}", told.action),
        );
        out.extend_from_slice(b",\"log\":{\"level\":");
        quoted(out, level);
        out.push(b',');
        self.lines.place(out, told.bytes);
        out.extend_from_slice(b"},\"event\":{\"id\":\"");
        out.extend_from_slice(&self.lines.id);
        out.extend_from_slice(id.as_bytes());
        out.extend_from_slice(b"\",\"dataset\":");
        out.extend_from_slice(&self.dataset);
        out.extend_from_slice(b",\"kind\":\"event\",\"category\":[\"file\"],\"action\":");
        quoted(out, &format!("file-{}", told.action));
        out.extend_from_slice(b",\"outcome\":");
        quoted(out, outcome);
        if let Some(reason) = told.refused {
            out.extend_from_slice(b",\"reason\":");
            quoted(out, shortened(reason, REASON_BYTES_MAX));
        }
        out.extend_from_slice(b"},\"host\":{\"name\":");
        out.extend_from_slice(&self.host_name);
        out.extend_from_slice(b"},");
        out.extend_from_slice(&self.agent);
        out.extend_from_slice(&self.job);
        out.extend_from_slice(b"},");
        out.extend_from_slice(&self.labels);
        out.extend_from_slice(&self.metadata);
        out.extend_from_slice(id.as_bytes());
        out.extend_from_slice(b"\"}}");
    }
}
