//! Gathering a run's lines into portions for the queue.
//!
//! One per run: numbers the events of each stream from 1, writes them as frames, and keeps the
//! accounts that ride with them. Must never wait, read or write anything.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

use crate::event::Frames;
use crate::event::Route;
use crate::event::Stream;
use crate::event::envelope::Counts;
use crate::event::envelope::Envelope;
use crate::event::envelope::Identity;
use crate::event::envelope::Labels;
use crate::event::envelope::Marks;
use crate::event::envelope::RunEnd;
use crate::event::envelope::Tells;
use crate::event::envelope::Verdict;
use crate::event::envelope::Wrapped;
use crate::queue::Counters;
use crate::queue::Part;
use crate::queue::Portion;
use crate::run::Exit;
use crate::run::Outcome;
use crate::source::lines::Line;
use crate::units::Timestamp;

/// When a portion is full. It may be larger by one event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Events.
    pub batch_events: u32,
    /// Bytes of frames.
    pub batch_bytes: u64,
}

/// What becomes of a stream's lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lane {
    /// Each is the `message` of an event.
    Text,
    /// Each is an event if it is a JSON object, else as text.
    Json,
    /// Each is told as an error.
    Error,
    /// Each is told as an event and as an error.
    Both,
    /// They are counted for the result and are no events.
    Off,
}

/// What becomes of each stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lanes {
    /// Of standard output.
    pub stdout: Lane,
    /// Of standard error.
    pub stderr: Lane,
}

/// How a run ended.
#[derive(Debug, Clone, Copy)]
pub struct End<'a> {
    /// When it was started.
    pub started_at: Timestamp,
    /// When it ended.
    pub at: Timestamp,
    /// How long it took, by the monotonic clock.
    pub took: Duration,
    /// How it ended.
    pub outcome: Outcome,
    /// How its process ended; `None` when there was none.
    pub exit: Option<Exit>,
    /// Process number; `None` likewise.
    pub pid: Option<u32>,
    /// Reason in words, for everything but success.
    pub reason: Option<&'a str>,
}

/// A stream of a run: its prepared envelope and the number of its last event.
#[derive(Debug)]
struct Voice {
    envelope: Envelope,
    lane: Lane,
    n: u64,
}

/// Gathers the events of one run.
#[derive(Debug)]
pub struct Gather {
    limits: Limits,
    route: Route,
    job: Arc<str>,
    stdout: Voice,
    stderr: Voice,
    run: Voice,
    counts: Counts,
    frames: Frames,
    parts: Vec<Part>,
    counters: Counters,
}

impl Gather {
    /// Gathers for a run of the job that `labels` names.
    #[must_use]
    pub fn new(
        limits: Limits,
        route: Route,
        identity: &Identity,
        labels: &Labels<'_>,
        lanes: Lanes,
    ) -> Self {
        let voice = |stream, lane| Voice {
            envelope: Envelope::new(identity, labels, stream),
            lane,
            n: 0,
        };
        Self {
            limits,
            route,
            job: labels.job.into(),
            stdout: voice(Stream::Stdout, lanes.stdout),
            stderr: voice(Stream::Stderr, lanes.stderr),
            run: voice(Stream::Run, Lane::Text),
            counts: Counts::default(),
            frames: Frames::default(),
            parts: Vec::new(),
            counters: Counters::default(),
        }
    }

    /// Takes a line that was read `at`; breaks when the portion is full and is to be handed over.
    ///
    /// Empty lines are no events, as with Filebeat (its inputs drop a line without content); they
    /// count as lines, and their ends as framed bytes.
    pub fn line(&mut self, stream: Stream, at: Timestamp, line: Line<'_>) -> ControlFlow<()> {
        let voice = match stream {
            Stream::Stdout => {
                self.counts.stdout_lines += line.lines;
                &mut self.stdout
            }
            Stream::Stderr => {
                self.counts.stderr_lines += line.lines;
                &mut self.stderr
            }
            Stream::Run | Stream::Daemon | Stream::Lumberjack | Stream::File => &mut self.run,
        };
        let read = line.text.len() as u64 + line.ending + line.skipped;
        self.counts.bytes_read += read;
        let mut cut = line.skipped;
        if voice.lane != Lane::Off {
            if !line.text.is_empty() || cut > 0 {
                voice.n += 1;
                let mut left_out = 0;
                self.frames
                    .push(|out| left_out = voice.write(out, at, line));
                cut += left_out;
                self.counts.events += 1;
                self.counters.framed += 1;
                self.note_part(stream, at);
            }
            self.counters.bytes_read += read;
            self.counters.bytes_cut += cut;
            self.counters.bytes_framed += read - cut;
            self.counters.lines_cut += u64::from(cut > 0);
            self.counters.joined_cut += u64::from(cut > 0 && line.is_crowded);
        }
        self.counts.lines_cut += u64::from(cut > 0);
        if self.is_full() {
            ControlFlow::Break(())
        } else {
            ControlFlow::Continue(())
        }
    }

    /// Adds the event of the run's start.
    pub fn run_started(&mut self, at: Timestamp, pid: Option<u32>) {
        self.run.n += 1;
        let run = &self.run;
        self.frames
            .push(|out| run.envelope.run_started(out, at, run.n, pid));
        self.counters.created += 1;
        self.note_part(Stream::Run, at);
    }

    /// Adds the event of the run's end, with the counts of all its lines so far. Those of an
    /// interrupted run were another daemon's to know.
    pub fn run_ended(&mut self, end: &End<'_>) {
        self.run.n += 1;
        let (exit_code, signal) = end.exit.map(Exit::code_or_signal).unwrap_or_default();
        let told = RunEnd {
            started_at: end.started_at,
            at: end.at,
            took: end.took,
            outcome: end.outcome.name(),
            verdict: verdict(end.outcome),
            reason: end.reason,
            pid: end.pid,
            exit_code,
            signal,
            counts: (end.outcome != Outcome::Interrupted).then_some(self.counts),
        };
        let run = &self.run;
        self.frames
            .push(|out| run.envelope.run_ended(out, run.n, &told));
        self.counters.created += 1;
        self.note_part(Stream::Run, end.at);
    }

    /// Whether the portion is to be handed over before more is added.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.frames.count() >= self.limits.batch_events
            || self.frames.bytes().len() as u64 >= self.limits.batch_bytes
    }

    /// Whether there is nothing to hand over: no event and nothing to account for.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.frames.is_empty() && self.counters == Counters::default()
    }

    /// What was gathered since the last time; facts are the caller's to add.
    #[must_use]
    pub fn take(&mut self) -> Portion {
        Portion {
            route: self.route.clone(),
            frames: std::mem::take(&mut self.frames),
            parts: std::mem::take(&mut self.parts),
            facts: Vec::new(),
            counters: std::mem::take(&mut self.counters),
        }
    }

    /// What the run did so far.
    #[must_use]
    pub const fn counts(&self) -> Counts {
        self.counts
    }

    /// Adds the event that was just pushed to the parts.
    fn note_part(&mut self, stream: Stream, at: Timestamp) {
        match self.parts.last_mut() {
            Some(part) if part.stream == stream => {
                part.count += 1;
                part.last = at;
            }
            _ => self.parts.push(Part {
                job: Arc::clone(&self.job),
                stream,
                count: 1,
                first: at,
                last: at,
            }),
        }
    }
}

impl Voice {
    /// Writes a line's event; returns the bytes of it that did not fit.
    fn write(&self, out: &mut Vec<u8>, at: Timestamp, line: Line<'_>) -> u64 {
        let envelope = &self.envelope;
        let marks = Marks {
            skipped: line.skipped,
            is_joined: line.lines > 1,
            tells: match self.lane {
                Lane::Error => Tells::Error,
                Lane::Both => Tells::Both,
                Lane::Text | Lane::Json | Lane::Off => Tells::Event,
            },
        };
        match self.lane {
            Lane::Json => match envelope.json(out, at, self.n, line.text, marks) {
                Wrapped::Object => 0,
                Wrapped::Text { left_out } => left_out,
            },
            Lane::Text | Lane::Error | Lane::Both | Lane::Off => {
                envelope.text(out, at, self.n, line.text, marks)
            }
        }
    }
}

/// What an outcome means to ECS: a run that we ended on purpose or lost sight of neither
/// succeeded nor failed.
const fn verdict(outcome: Outcome) -> Verdict {
    match outcome {
        Outcome::Success => Verdict::Success,
        Outcome::Killed | Outcome::Interrupted => Verdict::Unknown,
        Outcome::Failed
        | Outcome::Signalled
        | Outcome::Oom
        | Outcome::TimedOut
        | Outcome::CouldNotStart => Verdict::Failure,
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use crate::event::EVENT_BYTES_MAX;
    use crate::event::RunId;
    use crate::event::envelope::Shape;
    use serde_json::Map;
    use serde_json::Value;

    const AT: Timestamp = Timestamp(1_763_712_488_123);

    fn gather(limits: Limits, lanes: Lanes) -> Gather {
        let identity = Identity {
            host_name: "web-1".to_owned(),
            agent_id: "a".to_owned(),
            agent_ephemeral_id: "e".to_owned(),
            shape: Shape::Ecs,
        };
        let labels = Labels {
            job: "disk",
            run: &RunId::from_text("R"),
            generation: "g",
            trigger: "manual",
            scheduled_at: None,
            tags: &[],
            fields: &Map::new(),
        };
        let route = Route::to(vec!["lumberjack".to_owned()]);
        Gather::new(limits, route, &identity, &labels, lanes)
    }

    fn text_lanes() -> Lanes {
        Lanes {
            stdout: Lane::Text,
            stderr: Lane::Json,
        }
    }

    const WIDE: Limits = Limits {
        batch_events: 1000,
        batch_bytes: 1 << 30,
    };

    fn line(text: &[u8]) -> Line<'_> {
        Line {
            text,
            skipped: 0,
            ending: 1,
            lines: 1,
            is_crowded: false,
        }
    }

    fn ids(portion: &Portion) -> Vec<String> {
        portion
            .frames
            .payloads()
            .map(|payload| {
                let event: Value = serde_json::from_slice(payload).unwrap();
                event["event"]["id"].as_str().unwrap().to_owned()
            })
            .collect()
    }

    #[test]
    fn events_are_numbered_by_stream_over_all_portions() {
        let mut gather = gather(WIDE, text_lanes());
        gather.run_started(AT, Some(7));
        let later = Timestamp(AT.0 + 5);
        assert!(gather.line(Stream::Stdout, AT, line(b"a")).is_continue());
        assert!(gather.line(Stream::Stdout, later, line(b"b")).is_continue());
        assert!(gather.line(Stream::Stderr, AT, line(b"{}")).is_continue());
        let first = gather.take();
        assert_eq!(ids(&first), ["R.r.1", "R.o.1", "R.o.2", "R.e.1"]);
        let parts: Vec<_> = first
            .parts
            .iter()
            .map(|part| (part.stream, part.count, part.first, part.last))
            .collect();
        assert_eq!(
            parts,
            [
                (Stream::Run, 1, AT, AT),
                (Stream::Stdout, 2, AT, later),
                (Stream::Stderr, 1, AT, AT)
            ]
        );
        assert!(gather.is_empty());
        assert!(gather.line(Stream::Stdout, AT, line(b"c")).is_continue());
        assert_eq!(ids(&gather.take()), ["R.o.3"]);
    }

    #[test]
    fn a_full_portion_asks_to_be_handed_over() {
        let limits = Limits {
            batch_events: 2,
            ..WIDE
        };
        let mut few = gather(limits, text_lanes());
        assert!(few.line(Stream::Stdout, AT, line(b"a")).is_continue());
        assert!(few.line(Stream::Stdout, AT, line(b"b")).is_break());
        let limits = Limits {
            batch_bytes: 1000,
            ..WIDE
        };
        let mut small = gather(limits, text_lanes());
        assert!(
            small
                .line(Stream::Stdout, AT, line(&[b'x'; 1000]))
                .is_break()
        );
    }

    #[test]
    fn empty_lines_are_no_events_but_are_accounted_for() {
        let mut gather = gather(WIDE, text_lanes());
        let empty = Line {
            text: b"",
            skipped: 0,
            ending: 2,
            lines: 1,
            is_crowded: false,
        };
        assert!(gather.line(Stream::Stdout, AT, empty).is_continue());
        assert!(!gather.is_empty());
        let portion = gather.take();
        assert!(portion.frames.is_empty());
        assert_eq!(portion.counters.bytes_read, 2);
        assert_eq!(portion.counters.bytes_framed, 2);
        assert_eq!(gather.counts().stdout_lines, 1);
        assert_eq!(gather.counts().events, 0);
    }

    #[test]
    fn bytes_read_are_framed_or_cut() {
        let mut gather = gather(WIDE, text_lanes());
        let cut = Line {
            text: b"long",
            skipped: 6,
            ending: 1,
            lines: 1,
            is_crowded: false,
        };
        assert!(gather.line(Stream::Stderr, AT, cut).is_continue());
        // Escaped, this would be larger than any event may be.
        let dense = vec![1; EVENT_BYTES_MAX];
        assert!(gather.line(Stream::Stderr, AT, line(&dense)).is_continue());
        let portion = gather.take();
        let counters = portion.counters;
        assert_eq!(counters.bytes_read, 11 + 1 + dense.len() as u64);
        assert_eq!(
            counters.bytes_read,
            counters.bytes_framed + counters.bytes_cut
        );
        assert_eq!((counters.lines_cut, gather.counts().lines_cut), (2, 2));
        for payload in portion.frames.payloads() {
            assert!(payload.len() <= EVENT_BYTES_MAX);
        }
    }

    #[test]
    fn lines_of_a_stream_that_is_off_are_only_counted() {
        let lanes = Lanes {
            stderr: Lane::Off,
            ..text_lanes()
        };
        let mut gather = gather(WIDE, lanes);
        assert!(
            gather
                .line(Stream::Stderr, AT, line(b"noise"))
                .is_continue()
        );
        assert!(gather.is_empty());
        assert_eq!(gather.counts().stderr_lines, 1);
        assert_eq!(gather.counts().bytes_read, 6);
    }

    #[test]
    fn the_end_event_tells_what_the_run_did() {
        let mut gather = gather(WIDE, text_lanes());
        assert!(gather.line(Stream::Stdout, AT, line(b"a")).is_continue());
        gather.run_ended(&End {
            started_at: AT,
            at: AT,
            took: Duration::from_millis(1200),
            outcome: Outcome::Failed,
            exit: Some(Exit::Code(3)),
            pid: Some(42),
            reason: Some("exit code 3"),
        });
        let portion = gather.take();
        assert_eq!(portion.counters.created, 1);
        assert_eq!(portion.counters.framed, 1);
        let last = portion.frames.payloads().last().unwrap();
        let event: Value = serde_json::from_slice(last).unwrap();
        assert_eq!(
            event["message"],
            "run of disk ended: failed in 1.2s, 1 event: exit code 3"
        );
        assert_eq!(event["event"]["outcome"], "failure");
        assert_eq!(event["event"]["duration"], 1_200_000_000_u64);
        assert_eq!(event["process"]["exit_code"], 3);
        assert_eq!(event["job"]["counts"]["stdout_lines"], 1);
        assert_eq!(event["error"]["message"], "exit code 3");
    }
}
