//! Selecting events of a queue: by job, time, run, id, number or pattern.
//!
//! Each condition is looked at where it is cheapest: numbers in a record's header, jobs and times
//! in its directory, the rest in the events. What is not wanted is not inflated. Only reads.

use std::io;
use std::path::Path;
use std::sync::Arc;

use memchr::memmem;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::fact::Part;
use super::inspect::first;
use super::inspect::first_head;
use super::log::LogReader;
use super::record::Body;
use super::record::Header;
use super::record::StoredEvents;
use super::segment::Position;
use crate::disk::Disk;
use crate::event::Frames;
use crate::units::Timestamp;

/// Which events are wanted: those that meet every condition.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    /// For this output.
    pub output: Option<String>,
    /// Of this job.
    pub job: Option<String>,
    /// Of this run: its id stands in `event.id`, or in `job.run_id`.
    pub run: Option<String>,
    /// With this `event.id`, or `@metadata._id`.
    pub id: Option<String>,
    /// With a number between these, both included.
    pub seqs: Option<(u64, u64)>,
    /// Read at or after this time.
    pub since: Option<Timestamp>,
    /// Read at or before this time.
    pub until: Option<Timestamp>,
    /// Whose JSON text, as it lies in the queue, holds a match.
    pub grep: Option<regex::bytes::Regex>,
}

/// An event that is wanted.
#[derive(Debug, Clone, Copy)]
pub struct Event<'a> {
    /// Its number.
    pub seq: u64,
    /// Where it came from, with others.
    pub part: &'a Part,
    /// Its JSON.
    pub json: &'a [u8],
}

/// Whether a walk goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Go {
    /// It does.
    On,
    /// It ends here.
    Stop,
}

/// What [`events`] could not show.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Missed {
    /// Records that could not be read, or were removed meanwhile.
    pub records: u64,
}

impl Filter {
    fn takes_header(&self, header: &Header) -> bool {
        let last = header.seq + u64::from(header.count) - 1;
        self.seqs
            .is_none_or(|(from, to)| header.seq <= to && last >= from)
    }

    fn takes_part(&self, part: &Part) -> bool {
        self.job.as_deref().is_none_or(|job| *part.job == *job)
            && self.since.is_none_or(|since| part.last >= since)
            && self.until.is_none_or(|until| part.first <= until)
    }

    fn takes(&self, event: &Event<'_>) -> bool {
        let number = |(from, to)| event.seq >= from && event.seq <= to;
        self.seqs.is_none_or(number)
            && self
                .grep
                .as_ref()
                .is_none_or(|grep| grep.is_match(event.json))
            && self.run.as_deref().is_none_or(|run| {
                holds(event.json, run) && ids(event.json).is_some_and(|ids| ids.are_of_run(run))
            })
            && self.id.as_deref().is_none_or(|id| {
                holds(event.json, id)
                    && ids(event.json).is_some_and(|ids| ids.event == id || ids.meta == id)
            })
    }
}

/// Whether the JSON has the text in it as it is written there: most events are told apart so,
/// without being taken apart.
fn holds(json: &[u8], text: &str) -> bool {
    let quoted = serde_json::to_string(text).unwrap_or_default();
    !text.is_empty() && memmem::find(json, quoted.trim_matches('"').as_bytes()).is_some()
}

/// What an event is called by.
#[derive(Debug, Default)]
struct Ids {
    event: String,
    meta: String,
    run: String,
}

impl Ids {
    fn are_of_run(&self, run: &str) -> bool {
        let of_run = self.event.strip_prefix(run);
        self.run == run || of_run.is_some_and(|rest| rest.starts_with('.'))
    }
}

/// The ids of an event; members that are not what ours are have none.
fn ids(json: &[u8]) -> Option<Ids> {
    #[derive(Deserialize)]
    struct Outer<'a> {
        #[serde(borrow)]
        event: Option<&'a RawValue>,
        #[serde(borrow, rename = "@metadata")]
        meta: Option<&'a RawValue>,
        #[serde(borrow)]
        job: Option<&'a RawValue>,
    }
    #[derive(Deserialize, Default)]
    #[serde(default)]
    struct Inner {
        id: String,
        _id: String,
        run_id: String,
    }
    let inner = |value: Option<&RawValue>| -> Inner {
        value
            .and_then(|value| serde_json::from_str(value.get()).ok())
            .unwrap_or_default()
    };
    let outer: Outer<'_> = serde_json::from_slice(json).ok()?;
    Some(Ids {
        event: inner(outer.event).id,
        meta: inner(outer.meta)._id,
        run: inner(outer.job).run_id,
    })
}

/// Gives every wanted event to `each`, in the order of capture, until it says [`Go::Stop`].
/// Times are those of a record's parts, so a few events around them may come along.
///
/// # Errors
/// What the disk said.
pub fn events(
    disk: &Arc<dyn Disk>,
    dir: &Path,
    end: Position,
    filter: &Filter,
    mut each: impl FnMut(Event<'_>) -> Go,
) -> io::Result<Missed> {
    let mut reader = LogReader::new(disk.clone(), dir, first(&**disk, dir)?);
    let mut missed = Missed::default();
    let mut expected = first_head(&**disk, dir)?.map(|head| head.first_number);
    while let Some(found) = reader.next(end)? {
        let header = found.header;
        let number = header.number;
        missed.records += expected.map_or(0, |expected| number.saturating_sub(expected));
        expected = Some(number + 1);
        if filter.seqs.is_some_and(|(_, to)| header.seq > to) {
            break;
        }
        if header.count == 0 || !filter.takes_header(&header) {
            continue;
        }
        let Some(body) = reader
            .body(&found)?
            .and_then(|bytes| Body::read(&bytes).ok())
        else {
            missed.records += 1;
            continue;
        };
        let output = filter.output.as_deref();
        let is_for = output.is_none_or(|output| body.route.wants(output));
        if !is_for || !body.parts.iter().any(|part| filter.takes_part(part)) {
            continue;
        }
        let stored = StoredEvents {
            bytes: body.events,
            count: header.count,
            raw_bytes: header.raw_bytes,
            zlib: header.zlib,
        };
        let Ok(frames) = stored.frames() else {
            missed.records += 1;
            continue;
        };
        if each_event(header.seq, &frames, &body.parts, filter, &mut each) == Go::Stop {
            break;
        }
    }
    Ok(missed)
}

fn each_event(
    mut seq: u64,
    frames: &Frames,
    parts: &[Part],
    filter: &Filter,
    each: &mut impl FnMut(Event<'_>) -> Go,
) -> Go {
    let mut payloads = frames.payloads();
    for part in parts {
        let wanted = filter.takes_part(part);
        for json in payloads.by_ref().take(part.count as usize) {
            let event = Event { seq, part, json };
            seq += 1;
            if wanted && filter.takes(&event) && each(event) == Go::Stop {
                return Go::Stop;
            }
        }
    }
    Go::On
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_known_by_their_run_and_id_only_where_those_stand() {
        let json = br#"{"message":"20261121-a","event":{"id":"20261121-b.o.7"},"job":{"run_id":"20261121-b"}}"#;
        let part = Part {
            job: "disk".into(),
            stream: crate::event::Stream::Stdout,
            count: 1,
            first: Timestamp(1),
            last: Timestamp(1),
        };
        let event = Event {
            seq: 5,
            part: &part,
            json,
        };
        let run = |run: &str| Filter {
            run: Some(run.to_owned()),
            ..Filter::default()
        };
        let id = |id: &str| Filter {
            id: Some(id.to_owned()),
            ..Filter::default()
        };
        assert!(run("20261121-b").takes(&event) && id("20261121-b.o.7").takes(&event));
        for other in ["20261121-a", "20261121", "o.7", ""] {
            assert!(!run(other).takes(&event), "{other}");
            assert!(!id(other).takes(&event), "{other}");
        }
        let seqs = |from, to| Filter {
            seqs: Some((from, to)),
            ..Filter::default()
        };
        assert!(seqs(5, 5).takes(&event) && !seqs(6, 9).takes(&event));
        let strange = Event {
            json: br#"{"event":"x","@metadata":{"_id":"m"}}"#,
            ..event
        };
        assert!(id("m").takes(&strange) && !id("x").takes(&strange));
    }
}
