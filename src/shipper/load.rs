//! Loading windows: reads the log from an output's place and builds the next window.
//!
//! Goes on where it stopped, and reads single places again for windows that are sent again: bytes
//! are not kept once they are written. The only part of a shipper that reads the disk. Knows
//! nothing of connections and ACKs.

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use super::trail::Step;
use super::trail::Way;
use crate::clock;
use crate::disk::Disk;
use crate::event::Frames;
use crate::queue::Position;
use crate::queue::cursor::Cursor;
use crate::queue::log;
use crate::queue::log::LogReader;
use crate::queue::quarantine;
use crate::queue::record::Body;
use crate::queue::record::Header;
use crate::queue::record::StoredEvents;
use crate::window::Builder;
use crate::window::Limits;
use crate::window::Window;

/// Most records that one load steps over without finding an event to send: then it lets others run.
const RECORDS_MAX: usize = 4096;

/// What is to be loaded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Order {
    /// The next events of the log.
    Next,
    /// None: only what lies before the next event for this output is passed.
    Foreign,
    /// None of the events before this one: they are passed in this way.
    PassOver(u64, Way),
    /// Those of these steps, whose events are all to be sent.
    Again(Vec<Step>),
}

/// What a load found.
#[derive(Debug)]
pub(crate) struct Loaded {
    /// The window, if there is something to send.
    pub(crate) window: Option<Window>,
    /// What it was.
    pub(crate) found: Found,
}

/// What a load has read.
#[derive(Debug)]
pub(crate) enum Found {
    /// The log went on.
    Next {
        /// The steps over everything that was read.
        steps: Vec<Step>,
        /// Whether the end of what may be read was reached.
        at_end: bool,
        /// Whether what comes next is known to be for this output.
        mine_next: bool,
    },
    /// The window holds as many events of the steps as fit, from the first on.
    Again {
        /// Records among them that cannot be read any more.
        damaged: Vec<Position>,
    },
}

/// Reads the log for one output.
#[derive(Debug)]
pub(crate) struct Loader {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    output: String,
    reader: LogReader,
    /// For single places, so that the other one stays where it is.
    again: LogReader,
    /// The segment in which the last load that failed was reading.
    stuck: u64,
    builder: Builder,
    /// Number of the next event.
    seq: u64,
    /// Events of the next record that are passed already.
    done: u32,
    /// A record of which the last window took only a part, or that did not fit into it.
    held: Option<Held>,
    /// Whether records of a route are for this output, by the route's number.
    mine: BTreeMap<u32, bool>,
}

#[derive(Debug)]
struct Held {
    found: log::Found,
    stored: StoredEvents,
    frames: Option<Frames>,
    from: u32,
}

impl Loader {
    pub(crate) fn new(
        disk: Arc<dyn Disk>,
        dir: &std::path::Path,
        output: &str,
        cursor: &Cursor,
        limits: Limits,
    ) -> Self {
        Self {
            output: output.to_owned(),
            reader: LogReader::new(disk.clone(), dir, cursor.at),
            again: LogReader::new(disk.clone(), dir, cursor.at),
            stuck: cursor.at.segment,
            disk,
            dir: dir.to_path_buf(),
            builder: Builder::new(limits),
            seq: cursor.seq,
            done: cursor.done,
            held: None,
            mine: BTreeMap::new(),
        }
    }

    /// Loads a window of at most `most` events; what it reads ends at `end`, where event `next_seq`
    /// will be.
    ///
    /// # Errors
    /// What the disk said. The next load begins where this one did.
    pub(crate) fn load(
        &mut self,
        order: &Order,
        most: u32,
        (end, next_seq): (Position, u64),
    ) -> io::Result<Loaded> {
        self.builder.hold(most);
        let (at, seq, done) = match &self.held {
            Some(held) => (
                held.found.at,
                held.found.header.seq + u64::from(held.from),
                held.from,
            ),
            None => (self.reader.position(), self.seq, self.done),
        };
        let loaded = match order {
            Order::Next => self.next(end, next_seq),
            Order::Foreign => self.foreign(end, next_seq),
            Order::PassOver(until, way) => self.pass_over(*until, *way, end, next_seq),
            Order::Again(steps) => self.again(steps, most, end),
        };
        if loaded.is_err() {
            let reader = match order {
                Order::Again(_) => &self.again,
                _ => &self.reader,
            };
            self.stuck = reader.position().segment;
            self.builder.clear();
            self.reader.seek(at);
            (self.seq, self.done, self.held) = (seq, done, None);
        }
        loaded
    }

    fn next(&mut self, end: Position, next_seq: u64) -> io::Result<Loaded> {
        let mut steps = Vec::new();
        let mut at_end = false;
        let mut window = None;
        for _ in 0..RECORDS_MAX {
            let held = match self.held.take() {
                Some(held) => held,
                None => match self.next_record(end, &mut steps)? {
                    Next::Held(held) => held,
                    Next::Passed => continue,
                    Next::End => {
                        // What the end of the log held is gone: nothing comes that would show it.
                        self.pass_damaged(end, next_seq, end, &mut steps);
                        at_end = true;
                        break;
                    }
                },
            };
            window = self.take(held, end, &mut steps);
            if window.is_some() {
                break;
            }
        }
        Ok(Loaded {
            window: window.or_else(|| self.builder.finish()),
            found: self.read(steps, at_end),
        })
    }

    const fn read(&self, steps: Vec<Step>, at_end: bool) -> Found {
        Found::Next {
            steps,
            at_end,
            mine_next: self.held.is_some(),
        }
    }

    fn foreign(&mut self, end: Position, next_seq: u64) -> io::Result<Loaded> {
        let mut steps = Vec::new();
        let mut at_end = false;
        for _ in 0..RECORDS_MAX {
            if self.held.is_some() || at_end {
                break;
            }
            match self.next_record(end, &mut steps)? {
                Next::Held(held) => self.held = Some(held),
                Next::Passed => {}
                Next::End => {
                    self.pass_damaged(end, next_seq, end, &mut steps);
                    at_end = true;
                }
            }
        }
        Ok(Loaded {
            window: None,
            found: self.read(steps, at_end),
        })
    }

    fn pass_over(
        &mut self,
        until: u64,
        way: Way,
        end: Position,
        next_seq: u64,
    ) -> io::Result<Loaded> {
        let mut steps = Vec::new();
        for _ in 0..RECORDS_MAX {
            let mut held = match self.held.take() {
                Some(held) => held,
                None if self.seq >= until => break,
                None => match self.next_record(end, &mut steps)? {
                    Next::Held(held) => held,
                    Next::Passed => continue,
                    Next::End => {
                        self.pass_damaged(end, next_seq, end, &mut steps);
                        break;
                    }
                },
            };
            let Header { count, seq, .. } = held.found.header;
            let (from, first) = (held.from, seq + u64::from(held.from));
            let wanted = u32::try_from(until.saturating_sub(first)).unwrap_or(u32::MAX);
            let taken = wanted.min(count - from);
            if taken > 0 {
                let step = sent(&held.found, first, from, taken, count);
                steps.push(Step { way, ..step });
            }
            held.from += taken;
            if held.from < count {
                self.held = Some(held);
                break;
            }
        }
        Ok(Loaded {
            window: None,
            found: self.read(steps, false),
        })
    }

    fn again(&mut self, steps: &[Step], most: u32, end: Position) -> io::Result<Loaded> {
        let mut damaged = Vec::new();
        let mut window = None;
        let mut events = 0;
        for step in steps {
            let Some((count, stored)) = self.stored(step.at, end)? else {
                tracing::error!(output = self.output, at = ?step.at, events = step.events, "a record is damaged; its events are lost to this output");
                self.quarantine(step.at, step.next, (step.seq, step.events));
                damaged.push(step.at);
                continue;
            };
            let whole = steps.len() == 1 && step.events == u64::from(count);
            if whole
                && self
                    .builder
                    .fits_as_it_lies(count, stored.raw_bytes, stored.zlib)
            {
                window = Some(Builder::as_it_lies(&stored));
                break;
            }
            let Ok(frames) = stored.frames() else {
                tracing::error!(output = self.output, at = ?step.at, events = step.events, "a record's events cannot be read and are passed over");
                damaged.push(step.at);
                continue;
            };
            let wanted = u32::try_from(step.events).unwrap_or(u32::MAX);
            self.builder.hold(most.min(events + wanted));
            let taken = self.builder.add(&frames, step.done);
            events += taken;
            if taken < wanted {
                break;
            }
        }
        Ok(Loaded {
            window: window.or_else(|| self.builder.finish()),
            found: Found::Again { damaged },
        })
    }

    /// The JSON of the first event of a step; `None` when its record cannot be read any more.
    ///
    /// # Errors
    /// What the disk said.
    pub(crate) fn event(&mut self, step: &Step, end: Position) -> io::Result<Option<Vec<u8>>> {
        let frames = self
            .stored(step.at, end)?
            .and_then(|(_, stored)| stored.frames().ok());
        Ok(frames.and_then(|frames| {
            let event = frames.payloads().nth(step.done as usize)?;
            Some(event.to_vec())
        }))
    }

    /// The events of the record at `at`, and how many they are; `None` when it is damaged.
    fn stored(&mut self, at: Position, end: Position) -> io::Result<Option<(u32, StoredEvents)>> {
        self.again.seek(at);
        let Some(found) = self.again.next(end)?.filter(|found| found.at == at) else {
            return Ok(None);
        };
        let bytes = self.again.body(&found)?;
        let body = bytes.and_then(|bytes| Body::read(&bytes).ok());
        Ok(body.map(|body| (found.header.count, stored(&found.header, body))))
    }

    /// Puts a record into the window; returns the window when that closes it.
    fn take(&mut self, mut held: Held, end: Position, steps: &mut Vec<Step>) -> Option<Window> {
        let Header { count, seq, .. } = held.found.header;
        if self.is_window(&held, end) {
            if !self.builder.is_empty() {
                self.held = Some(held);
                return self.builder.finish();
            }
            steps.push(sent(&held.found, seq, 0, count, count));
            return Some(Builder::as_it_lies(&held.stored));
        }
        let frames = match held.frames.take() {
            Some(frames) => frames,
            None => match held.stored.clone().frames() {
                Ok(frames) => frames,
                Err(error) => {
                    tracing::error!(output = self.output, at = ?held.found.at, %error, "a record's events cannot be read and are passed over");
                    steps.push(Step {
                        at: held.found.at,
                        done: held.from,
                        seq: seq + u64::from(held.from),
                        events: u64::from(count - held.from.min(count)),
                        next: Some(held.found.next),
                        way: Way::Damaged,
                    });
                    return None;
                }
            },
        };
        let taken = self.builder.add(&frames, held.from);
        if taken > 0 {
            let first = seq + u64::from(held.from);
            steps.push(sent(&held.found, first, held.from, taken, count));
        }
        if held.from + taken < count {
            held.from += taken;
            held.frames = Some(frames);
            self.held = Some(held);
            return self.builder.finish();
        }
        None
    }

    /// Whether a record is sent as it lies: when it may be, and is a full window or all that there is.
    /// A small one among others is worth being inflated and joined, for the server's sake.
    fn is_window(&self, held: &Held, end: Position) -> bool {
        let Header {
            count,
            raw_bytes,
            zlib,
            ..
        } = held.found.header;
        let may = zlib && held.from == 0 && self.builder.fits_as_it_lies(count, raw_bytes, zlib);
        let alone = self.builder.is_empty() && held.found.next >= end;
        may && (alone || self.builder.is_filled_by(count, raw_bytes))
    }

    /// Passes the events before `seq`, whose records cannot be found, up to `next`.
    fn pass_damaged(&mut self, at: Position, seq: u64, next: Position, steps: &mut Vec<Step>) {
        let events = seq.saturating_sub(self.seq);
        if events > 0 {
            tracing::error!(
                output = self.output,
                events,
                from = self.seq,
                "events in a damaged part of the queue are lost to this output"
            );
            steps.push(Step {
                at,
                done: 0,
                seq: self.seq,
                events,
                next: Some(next),
                way: Way::Damaged,
            });
            self.quarantine(at, Some(next), (self.seq, events));
            self.seq = seq;
        }
    }

    /// Keeps what cannot be read for people to look at; without, the queue goes on all the same.
    fn quarantine(&self, at: Position, next: Option<Position>, events: (u64, u64)) {
        if next == Some(at) {
            return;
        }
        let end_of_segment = Position {
            offset: u64::MAX,
            ..at
        };
        let place = (at, next.unwrap_or(end_of_segment));
        let reason = "no record with a checksum that fits was found here";
        let now = clock::now();
        if let Err(error) =
            quarantine::keep(&*self.disk, &self.dir, place, Some(events), reason, now)
        {
            tracing::warn!(output = self.output, %error, ?at, "a damaged part of the queue could not be set aside");
        }
    }

    /// Sets the segment aside that the last load could not read, when it never will be: its events are
    /// lost to this output, and no others have to wait for them.
    pub(crate) fn give_up_segment(&mut self, error: &io::Error, end: Position) {
        let at = self.reader.position();
        let id = quarantine::culprit(&*self.disk, &self.dir, self.stuck);
        if id >= end.segment || !quarantine::is_lasting(error) {
            return;
        }
        let reason = format!("it cannot be read: {error}");
        if let Err(error) =
            quarantine::move_segment(&*self.disk, &self.dir, id, &reason, clock::now())
        {
            tracing::warn!(output = self.output, %error, ?at, "a segment that cannot be read could not be set aside");
        }
        self.reader = LogReader::new(self.disk.clone(), &self.dir, at);
        self.again = LogReader::new(self.disk.clone(), &self.dir, at);
    }

    fn next_record(&mut self, end: Position, steps: &mut Vec<Step>) -> io::Result<Next> {
        let before = self.reader.position();
        let Some(found) = self.reader.next(end)? else {
            return Ok(Next::End);
        };
        let header = found.header;
        // The cursor's own record is the only one that begins before the next event.
        if header.seq > self.seq - u64::from(self.done) {
            self.pass_damaged(before, header.seq, found.at, steps);
            self.done = 0;
        }
        let from = std::mem::take(&mut self.done).min(header.count);
        let rest = u64::from(header.count - from);
        let seq = self.seq;
        self.seq += rest;
        let pass = |way| Step {
            at: found.at,
            done: from,
            seq,
            events: rest,
            next: Some(found.next),
            way,
        };
        if rest == 0 || self.mine.get(&header.route) == Some(&false) {
            steps.push(pass(Way::NotMine));
            return Ok(Next::Passed);
        }
        let Some(body) = self
            .reader
            .body(&found)?
            .and_then(|bytes| Body::read(&bytes).ok())
        else {
            tracing::error!(output = self.output, at = ?found.at, events = rest, "a record is damaged; its events are lost to this output");
            self.quarantine(found.at, Some(found.next), (seq, rest));
            steps.push(pass(Way::Damaged));
            return Ok(Next::Passed);
        };
        let mine = body.route.wants(&self.output);
        self.mine.insert(header.route, mine);
        if !mine {
            steps.push(pass(Way::NotMine));
            return Ok(Next::Passed);
        }
        Ok(Next::Held(Held {
            found,
            stored: stored(&header, body),
            frames: None,
            from,
        }))
    }
}

fn stored(header: &Header, body: Body) -> StoredEvents {
    StoredEvents {
        bytes: body.events,
        count: header.count,
        raw_bytes: header.raw_bytes,
        zlib: header.zlib,
    }
}

enum Next {
    Held(Held),
    Passed,
    End,
}

fn sent(found: &log::Found, seq: u64, from: u32, taken: u32, count: u32) -> Step {
    Step {
        at: found.at,
        done: from,
        seq,
        events: u64::from(taken),
        next: (from + taken >= count).then_some(found.next),
        way: Way::Sent,
    }
}
