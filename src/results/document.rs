//! What a job's plugin gets: one JSON document of the run's record and its first events, and what
//! became of handing it over.
//!
//! The document lies beside the result and is what the plugin reads from standard input, so that
//! no event waits in memory for it, and a person can hand it over again. It is written while the
//! run goes on (`document.part`) and whole when `run.json` is there (`document.json`). Must never
//! know plugins or processes.

use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;

use serde::Deserialize;
use serde::Serialize;

use super::ENDED;
use super::Record;
use super::Results;
use super::failure;
use super::list;
use super::read_record;
use super::record_text;
use super::remove_file;
use crate::disk;
use crate::disk::Disk;
use crate::disk::DiskFile;
use crate::disk::OsDisk;
use crate::event::RunId;

/// Most events of a document: what a message to people or a small archive bears.
pub const DOCUMENT_EVENTS_MAX: u64 = 1_000;

/// Most bytes of the events of a document. With the record it is what one request to a web server
/// may have almost everywhere.
pub const DOCUMENT_BYTES_MAX: u64 = 1 << 20;

/// The document while the run goes on.
const PART: &str = "document.part";
/// The document.
const WHOLE: &str = "document.json";
/// What became of handing it over.
const DELIVERY: &str = "on_result.json";
/// What the plugin printed at its last try.
const SAID: &str = "on_result.log";

/// Ours are some hundred bytes, with a reason of some more.
const DELIVERY_BYTES_MAX: u64 = 64 << 10;

const HEAD: &[u8] = b"{\"events\":[";

/// A document that is being written.
#[derive(Debug)]
pub struct Document {
    dir: PathBuf,
    file: Arc<dyn DiskFile>,
    /// Up to where the file is good.
    bytes: u64,
    events: u64,
    /// Whether no further event is taken: the document holds the first ones, without gaps.
    full: bool,
}

/// `on_result.json`: what became of handing a result to its job's plugin.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Delivery {
    /// The plugin.
    pub plugin: String,
    /// How far it is.
    pub state: DeliveryState,
    /// How often the plugin was started for it.
    pub tries: u32,
    /// When this was written.
    pub at: String,
    /// Why the last try failed, in words.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// How far a delivery is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DeliveryState {
    /// To be tried, or tried again.
    #[default]
    Waiting,
    /// The plugin ended with exit code 0.
    Delivered,
    /// Given up.
    Failed,
}

impl Document {
    /// Takes further events, in order; each is one JSON object.
    ///
    /// # Errors
    /// In words; nothing more is taken then, and what was taken before stays.
    pub fn add<'e>(&mut self, events: impl Iterator<Item = &'e [u8]>) -> Result<(), String> {
        if self.full {
            return Ok(());
        }
        let mut text = Vec::new();
        let mut count = self.events;
        for event in events {
            let begins = self.bytes + text.len() as u64;
            let ends = begins + event.len() as u64 + 1;
            if count == DOCUMENT_EVENTS_MAX || ends > HEAD.len() as u64 + DOCUMENT_BYTES_MAX {
                self.full = true;
                break;
            }
            if count > 0 {
                text.push(b',');
            }
            text.extend_from_slice(event);
            count += 1;
        }
        let written = self.file.write_at(self.bytes, &text);
        written.map_err(|error| {
            self.full = true;
            failure(&self.dir.join(PART), &error)
        })?;
        self.bytes += text.len() as u64;
        self.events = count;
        Ok(())
    }

    /// Adds the record of `run.json`, which must be there, and gives the document its name.
    ///
    /// # Errors
    /// In words; there is no document then.
    pub fn finish(self) -> Result<(), String> {
        let (part, whole) = (self.dir.join(PART), self.dir.join(WHOLE));
        let record = read_record(&self.dir.join(ENDED)).map_err(|why| why.to_string())?;
        let tail = tail(&part, &record, self.events)?;
        self.file
            // What a failed write left behind the good part.
            .truncate(self.bytes)
            .and_then(|()| self.file.write_at(self.bytes, &tail))
            .and_then(|()| OsDisk.rename(&part, &whole))
            .map_err(|error| failure(&whole, &error))
    }
}

/// What stands behind the events: whether they are all, and the record's own keys.
fn tail(path: &Path, record: &Record, events: u64) -> Result<Vec<u8>, String> {
    let had = record.counts.map_or(u64::MAX, |counts| counts.events);
    let mut text = format!("],\"events_truncated\":{},", had > events).into_bytes();
    let record = record_text(path, record)?;
    text.extend_from_slice(record.strip_prefix(b"{").unwrap_or(&record));
    Ok(text)
}

impl Results {
    /// Begins the document of a run whose result was started, for the job's `group` too.
    ///
    /// # Errors
    /// In words; the run goes on without one.
    pub fn document(&self, job: &str, run: &RunId, group: Option<u32>) -> Result<Document, String> {
        let dir = self.run_dir(job, run);
        let path = dir.join(PART);
        let file = disk::create_shared(&path, group)
            .and_then(|file| file.write_at(0, HEAD).map(|()| file))
            .map_err(|error| failure(&path, &error))?;
        Ok(Document {
            dir,
            file,
            bytes: HEAD.len() as u64,
            events: 0,
            full: false,
        })
    }

    /// The document of a run.
    #[must_use]
    pub fn document_path(&self, job: &str, run: &RunId) -> PathBuf {
        self.run_dir(job, run).join(WHOLE)
    }

    /// Writes down what became of a delivery.
    ///
    /// # Errors
    /// In words; the next start of the daemon may deliver once more.
    pub fn write_delivery(
        &self,
        job: &str,
        run: &RunId,
        delivery: &Delivery,
        group: Option<u32>,
    ) -> Result<(), String> {
        let path = self.run_dir(job, run).join(DELIVERY);
        let mut text = serde_json::to_vec_pretty(delivery)
            .map_err(|error| format!("cannot write {}: {error}", path.display()))?;
        text.push(b'\n');
        write_shared(&path, &text, group)
    }

    /// What became of a delivery; of none that is known: `None`.
    #[must_use]
    pub fn delivery(&self, job: &str, run: &RunId) -> Option<Delivery> {
        let path = self.run_dir(job, run).join(DELIVERY);
        let text = OsDisk.read(&path, DELIVERY_BYTES_MAX).ok()?;
        serde_json::from_slice(&text).ok()
    }

    /// Writes down what a plugin printed; nothing leaves what the try before printed.
    ///
    /// # Errors
    /// In words, for the log.
    pub fn write_said(
        &self,
        job: &str,
        run: &RunId,
        said: &[u8],
        group: Option<u32>,
    ) -> Result<(), String> {
        let path = self.run_dir(job, run).join(SAID);
        if said.is_empty() {
            return remove_file(&path);
        }
        write_shared(&path, said, group)
    }

    /// Ended runs of a job, oldest first, that were to be handed to a plugin and neither were nor
    /// were given up, with their records and tries; those that had no time to write their document
    /// get one without events. Looks at every result of the job.
    ///
    /// # Errors
    /// In words, when the job's results cannot be listed.
    pub fn undelivered(
        &self,
        job: &str,
        group: Option<u32>,
    ) -> Result<Vec<(RunId, Record, u32)>, String> {
        let mut found = Vec::new();
        for run in self.runs(job)?.into_iter().rev() {
            let dir = self.run_dir(job, &run);
            let entries = list(&dir)?;
            let has = |name| entries.iter().any(|entry| entry.name == name);
            if !has(ENDED) || !(has(PART) || has(WHOLE)) {
                continue;
            }
            let delivery = self.delivery(job, &run).unwrap_or_default();
            if delivery.state != DeliveryState::Waiting {
                continue;
            }
            let Ok(record) = read_record(&dir.join(ENDED)) else {
                continue;
            };
            if !has(WHOLE) {
                // What it had printed may not have been captured, and would be news of what never was.
                let mut text = HEAD.to_vec();
                text.extend(tail(&dir, &record, 0)?);
                write_shared(&dir.join(WHOLE), &text, group)?;
                remove_file(&dir.join(PART))?;
            }
            found.push((run, record, delivery.tries));
        }
        Ok(found)
    }
}

/// Makes `path` hold `bytes`, for the group `group` too: readers see the former content or this.
fn write_shared(path: &Path, bytes: &[u8], group: Option<u32>) -> Result<(), String> {
    let fresh = path.with_extension("new");
    remove_file(&fresh)?;
    disk::create_shared(&fresh, group)
        .and_then(|file| file.write_at(0, bytes))
        .and_then(|()| OsDisk.rename(&fresh, path))
        .map_err(|error| failure(path, &error))
}
