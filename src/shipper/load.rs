//! Loading windows: reads the log from an output's place and builds the next window.
//!
//! The only part of a shipper that reads the disk. Knows nothing of connections and ACKs.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use super::trail::Step;
use super::trail::Way;
use crate::disk::Disk;
use crate::event::Frames;
use crate::queue::Position;
use crate::queue::cursor::Cursor;
use crate::queue::log::Found;
use crate::queue::log::LogReader;
use crate::queue::record::Body;
use crate::queue::record::Header;
use crate::queue::record::StoredEvents;
use crate::window::Builder;
use crate::window::Limits;
use crate::window::Window;

/// Most records that one load steps over without finding an event to send: then it lets others run.
const RECORDS_MAX: usize = 4096;

/// What a load found.
#[derive(Debug)]
pub(crate) struct Loaded {
    /// The next window, if there is something to send.
    pub(crate) window: Option<Window>,
    /// The steps over everything that was read.
    pub(crate) steps: Vec<Step>,
    /// Whether the end of what may be read was reached.
    pub(crate) at_end: bool,
}

/// Reads the log for one output.
#[derive(Debug)]
pub(crate) struct Loader {
    output: String,
    reader: LogReader,
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
    found: Found,
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
            reader: LogReader::new(disk, dir, cursor.at),
            builder: Builder::new(limits),
            seq: cursor.seq,
            done: cursor.done,
            held: None,
            mine: BTreeMap::new(),
        }
    }

    /// Goes back to `cursor`.
    pub(crate) fn rewind(&mut self, cursor: &Cursor) {
        self.reader.seek(cursor.at);
        self.seq = cursor.seq;
        self.done = cursor.done;
        self.held = None;
        drop(self.builder.finish());
    }

    /// Reads on, up to `end`, until a window is full or nothing more is there.
    ///
    /// # Errors
    /// What the disk said. Rewind before the next load: what was read so far is forgotten.
    pub(crate) fn load(&mut self, end: Position) -> io::Result<Loaded> {
        let mut steps = Vec::new();
        for _ in 0..RECORDS_MAX {
            let held = match self.held.take() {
                Some(held) => held,
                None => match self.next_record(end, &mut steps)? {
                    Next::Held(held) => held,
                    Next::Passed => continue,
                    Next::End => {
                        return Ok(Loaded {
                            window: self.builder.finish(),
                            steps,
                            at_end: true,
                        });
                    }
                },
            };
            if let Some(window) = self.take(held, end, &mut steps)? {
                return Ok(Loaded {
                    window: Some(window),
                    steps,
                    at_end: false,
                });
            }
        }
        Ok(Loaded {
            window: self.builder.finish(),
            steps,
            at_end: false,
        })
    }

    /// Puts a record into the window; returns the window when that closes it.
    fn take(
        &mut self,
        mut held: Held,
        end: Position,
        steps: &mut Vec<Step>,
    ) -> io::Result<Option<Window>> {
        let Header { count, .. } = held.found.header;
        if self.is_window(&held, end) {
            if !self.builder.is_empty() {
                self.held = Some(held);
                return Ok(self.builder.finish());
            }
            steps.push(sent(&held.found, 0, count, count));
            return Ok(Some(Builder::as_it_lies(&held.stored)));
        }
        let frames = match held.frames.take() {
            Some(frames) => frames,
            None => match held.stored.clone().frames() {
                Ok(frames) => frames,
                Err(error) => {
                    tracing::error!(at = ?held.found.at, %error, "a record's events cannot be read and are passed over");
                    steps.push(Step {
                        at: held.found.at,
                        done: held.from,
                        events: u64::from(count - held.from.min(count)),
                        next: Some(held.found.next),
                        way: Way::Damaged,
                    });
                    return Ok(None);
                }
            },
        };
        let taken = self.builder.add(&frames, held.from);
        if taken > 0 {
            steps.push(sent(&held.found, held.from, taken, count));
        }
        if held.from + taken < count {
            held.from += taken;
            held.frames = Some(frames);
            self.held = Some(held);
            return Ok(self.builder.finish());
        }
        Ok(None)
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

    fn next_record(&mut self, end: Position, steps: &mut Vec<Step>) -> io::Result<Next> {
        let before = self.reader.position();
        let Some(found) = self.reader.next(end)? else {
            return Ok(Next::End);
        };
        let header = found.header;
        // The cursor's own record is the only one that begins before the next event.
        let expected = self.seq - u64::from(self.done);
        if header.seq > expected {
            tracing::error!(
                events = header.seq - self.seq,
                from = self.seq,
                "events in a damaged part of the queue are lost to this output"
            );
            steps.push(Step {
                at: before,
                done: 0,
                events: header.seq - self.seq,
                next: Some(found.at),
                way: Way::Damaged,
            });
            self.seq = header.seq;
            self.done = 0;
        }
        let from = std::mem::take(&mut self.done).min(header.count);
        let rest = u64::from(header.count - from);
        self.seq += rest;
        let pass = |way| Step {
            at: found.at,
            done: from,
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
            tracing::error!(at = ?found.at, events = rest, "a record is damaged; its events are lost to this output");
            steps.push(pass(Way::Damaged));
            return Ok(Next::Passed);
        };
        let mine = body.route.wants(&self.output);
        self.mine.insert(header.route, mine);
        if !mine {
            steps.push(pass(Way::NotMine));
            return Ok(Next::Passed);
        }
        let stored = StoredEvents {
            bytes: body.events,
            count: header.count,
            raw_bytes: header.raw_bytes,
            zlib: header.zlib,
        };
        Ok(Next::Held(Held {
            found,
            stored,
            frames: None,
            from,
        }))
    }
}

enum Next {
    Held(Held),
    Passed,
    End,
}

fn sent(found: &Found, from: u32, taken: u32, count: u32) -> Step {
    Step {
        at: found.at,
        done: from,
        events: u64::from(taken),
        next: (from + taken >= count).then_some(found.next),
        way: Way::Sent,
    }
}
