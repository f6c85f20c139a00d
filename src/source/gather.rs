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
use crate::event::envelope::RunEnd;
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
                self.counts.stdout_lines += 1;
                &mut self.stdout
            }
            Stream::Stderr => {
                self.counts.stderr_lines += 1;
                &mut self.stderr
            }
            Stream::Run => &mut self.run,
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

    /// Adds the event of the run's end, with the counts of all its lines so far.
    pub fn run_ended(&mut self, end: &End<'_>) {
        self.run.n += 1;
        let (exit_code, signal) = match end.exit {
            Some(Exit::Code(code)) => (Some(code), None),
            Some(Exit::Signal(signal)) => (None, Some(signal)),
            None => (None, None),
        };
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
            counts: self.counts,
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
        match self.lane {
            Lane::Json => match envelope.json(out, at, self.n, line.text, line.skipped) {
                Wrapped::Object => 0,
                Wrapped::Text { left_out } => left_out,
            },
            Lane::Text | Lane::Off => envelope.text(out, at, self.n, line.text, line.skipped),
        }
    }
}

/// What an outcome means to ECS: a run that we ended on purpose or lost sight of neither
/// succeeded nor failed.
const fn verdict(outcome: Outcome) -> Verdict {
    match outcome {
        Outcome::Success => Verdict::Success,
        Outcome::Killed | Outcome::Interrupted => Verdict::Unknown,
        Outcome::Failed | Outcome::Signalled | Outcome::TimedOut | Outcome::CouldNotStart => {
            Verdict::Failure
        }
    }
}
