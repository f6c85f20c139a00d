//! What a script prints, from its pipes to portions for the queue.
//!
//! Reads big chunks, cuts them into lines and gathers these as events, in plain calls. All runs
//! share one pool of memory; a run that finds it empty first hands over what it has gathered,
//! then waits, so that whoever holds room always gives it back. Must never know processes,
//! timeouts or schedules.

use std::cell::RefCell;
use std::future::Future;
use std::future::pending;
use std::future::poll_fn;
use std::io;
use std::ops::ControlFlow;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use tokio::net::unix::pipe::Receiver;
use tokio::sync::OwnedSemaphorePermit;

use crate::clock;
use crate::clock::Tick;
use crate::event::Stream;
use crate::job::Capture;
use crate::job::Format;
use crate::queue::Fact;
use crate::queue::Portion;
use crate::results::Document;
use crate::runner::log_lines::LogLines;
use crate::runner::uplink::Uplink;
use crate::source::gather::Gather;
use crate::source::lines::Line;
use crate::source::lines::Lines;
use crate::source::multiline::Joiner;
use crate::source::pool::Pool;
use crate::units::Timestamp;

/// What one read takes: all that a pipe of the default size holds. One such buffer per thread of
/// the runtime serves all runs, since what was read is gathered before the next run has its turn.
const CHUNK_BYTES: usize = 64 << 10;

/// What the pool reserves for an event beside its line, before its true size is known.
const ENVELOPE_BYTES: usize = 800;

/// Most that is reserved at once: a batch. Chunks of many short lines are taken in pieces.
const PIECE_COST_MAX: usize = 1 << 20;

/// Pieces are not made smaller than this, whatever they cost.
const PIECE_BYTES_MIN: usize = 1 << 10;

type Room = Pin<Box<dyn Future<Output = OwnedSemaphorePermit> + Send>>;

/// One stream: its pipe until that has ended, its lines, what becomes of them.
#[derive(Debug)]
struct Pipe {
    stream: Stream,
    receiver: Option<Receiver>,
    lines: Lines,
    joiner: Option<Joiner>,
    /// When the last line came that waits in `joiner` for others.
    joined_at: Option<Tick>,
    capture: Capture,
}

/// What a read was told by the pipe.
enum Chunk {
    Bytes(usize),
    NotYet,
    End,
}

thread_local! {
    static CHUNK: RefCell<Vec<u8>> = RefCell::new(vec![0; CHUNK_BYTES]);
}

/// What an output can do next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ready {
    /// Gather what had to wait for room.
    Room,
    /// Read from this pipe.
    Readable(Stream),
}

/// A run's output.
pub(super) struct Output {
    stdout: Pipe,
    stderr: Pipe,
    gather: Gather,
    /// Where the first events are written down for the job's plugin.
    document: Option<Document>,
    log: LogLines,
    pool: Pool,
    /// What the pool gave for what is gathered.
    room: Option<OwnedSemaphorePermit>,
    /// The place in the pool's queue of waiters, while this run is one.
    asked: Option<Room>,
    /// What was read and could not be gathered yet; while there is any, nothing is read.
    rest: Vec<u8>,
    rest_of: Stream,
    rest_at: Timestamp,
    /// When the oldest gathered event was gathered.
    first_at: Option<Tick>,
    /// Which pipe was read last: the other one has its turn first.
    last_read: Stream,
}

impl Output {
    pub(super) fn new(
        job: &str,
        stdout: Capture,
        stderr: Capture,
        gather: Gather,
        pool: Pool,
    ) -> Self {
        let (stdout, stderr) = (
            Pipe::new(Stream::Stdout, stdout),
            Pipe::new(Stream::Stderr, stderr),
        );
        Self::with(stdout, stderr, job, gather, pool)
    }

    fn with(stdout: Pipe, stderr: Pipe, job: &str, gather: Gather, pool: Pool) -> Self {
        Self {
            stdout,
            stderr,
            gather,
            document: None,
            log: LogLines::new(job),
            pool,
            room: None,
            asked: None,
            rest: Vec::new(),
            rest_of: Stream::Stdout,
            rest_at: Timestamp(0),
            first_at: None,
            last_read: Stream::Stderr,
        }
    }

    /// Reads from these pipes from now on.
    pub(super) fn open(&mut self, stdout: Receiver, stderr: Receiver) {
        self.stdout.receiver = Some(stdout);
        self.stderr.receiver = Some(stderr);
    }

    /// Writes the events that are handed over from now on into `document` too.
    pub(super) fn copy_to(&mut self, document: Document) {
        self.document = Some(document);
    }

    /// The document that was written; only once.
    pub(super) fn copied(&mut self) -> Option<Document> {
        self.document.take()
    }

    /// Whether the script's output waits for us.
    pub(super) fn is_blocked(&self) -> bool {
        !self.rest.is_empty()
    }

    /// Whether both pipes are closed and all that came from them is gathered.
    pub(super) fn is_closed(&self) -> bool {
        self.stdout.receiver.is_none() && self.stderr.receiver.is_none() && !self.is_blocked()
    }

    /// The gatherer, for the run's own events and counts.
    pub(super) fn gather(&mut self) -> &mut Gather {
        &mut self.gather
    }

    /// When the oldest gathered event was gathered; `None` when there is none.
    pub(super) fn first_at(&self) -> Option<Tick> {
        self.first_at
    }

    /// Waits until it can go on: with room, or by reading. For ever while only the queue can help.
    pub(super) async fn ready(&mut self) -> Ready {
        if self.asked.is_some() {
            self.wait_for_room().await;
            Ready::Room
        } else if self.is_blocked() {
            pending().await
        } else {
            Ready::Readable(self.readable().await)
        }
    }

    async fn readable(&mut self) -> Stream {
        let mut pipes = [&self.stdout, &self.stderr];
        if self.last_read == Stream::Stdout {
            pipes.reverse();
        }
        poll_fn(|context| {
            for pipe in pipes {
                if let Some(receiver) = &pipe.receiver
                    && receiver.poll_read_ready(context).is_ready()
                {
                    return Poll::Ready(pipe.stream);
                }
            }
            Poll::Pending
        })
        .await
    }

    /// Waits for the room that was asked of the pool; for ever when none was.
    pub(super) async fn wait_for_room(&mut self) {
        let Some(asked) = &mut self.asked else {
            return pending().await;
        };
        let room = asked.await;
        self.asked = None;
        self.hold(room);
    }

    /// Reads once from a pipe that can be read and gathers what came; `keep` sees the bytes first.
    pub(super) fn read(
        &mut self,
        stream: Stream,
        at: Timestamp,
        uplink: &mut Uplink,
        keep: impl FnOnce(&[u8]),
    ) {
        self.last_read = stream;
        CHUNK.with_borrow_mut(|buffer| {
            let pipe = self.pipe(stream);
            match pipe.read(buffer) {
                Chunk::NotYet => {}
                Chunk::End => self.close(stream, at),
                Chunk::Bytes(count) => {
                    keep(&buffer[..count]);
                    let taken = self.gather_from(stream, at, &buffer[..count], uplink);
                    if taken < count {
                        self.rest.extend_from_slice(&buffer[taken..count]);
                        self.rest_of = stream;
                        self.rest_at = at;
                    }
                }
            }
        });
    }

    /// Reads once from a pipe and forgets it: nobody takes it any more, and the script is to end.
    pub(super) fn skip(&mut self, stream: Stream) {
        self.last_read = stream;
        CHUNK.with_borrow_mut(|buffer| {
            let pipe = self.pipe(stream);
            if matches!(pipe.read(buffer), Chunk::End) {
                pipe.receiver = None;
            }
        });
    }

    /// Goes on with what could not be gathered before.
    pub(super) fn go_on(&mut self, uplink: &mut Uplink) {
        if self.rest.is_empty() || self.asked.is_some() {
            return;
        }
        let mut rest = std::mem::take(&mut self.rest);
        let taken = self.gather_from(self.rest_of, self.rest_at, &rest, uplink);
        rest.drain(..taken);
        if !rest.is_empty() {
            self.rest = rest;
        }
    }

    /// Closes a pipe: its last line needs no line end.
    fn close(&mut self, stream: Stream, at: Timestamp) {
        let (pipe, gather, log) = self.parts(stream);
        pipe.receiver = None;
        // Full or not: the end of the stream brings two events at most.
        let mut lines = std::mem::replace(&mut pipe.lines, Lines::new(1));
        lines.finish(|line| {
            let _full = pipe.take(gather, log, at, line);
        });
        pipe.finish_joined(gather);
        self.note_first();
    }

    /// When lines that wait for others have waited long enough; `None` when there are none, or
    /// while nothing can be gathered.
    pub(super) fn joined_due(&self) -> Option<Tick> {
        let due = |pipe: &Pipe| Some(pipe.joined_at?.after(pipe.joiner.as_ref()?.timeout()));
        let due = [&self.stdout, &self.stderr].into_iter().filter_map(due);
        due.min().filter(|_| !self.is_blocked())
    }

    /// Gathers lines that have waited for others long enough.
    pub(super) fn gather_joined(&mut self, now: Tick) {
        while self.joined_due().is_some_and(|due| due <= now) {
            for stream in [Stream::Stdout, Stream::Stderr] {
                let (pipe, gather, _) = self.parts(stream);
                let wait = pipe.joiner.as_ref().map_or(Duration::MAX, Joiner::timeout);
                if pipe.joined_at.is_some_and(|last| last.after(wait) <= now) {
                    pipe.finish_joined(gather);
                }
            }
            self.note_first();
        }
    }

    /// Closes both pipes, read to their ends or not.
    pub(super) fn close_all(&mut self, at: Timestamp) {
        for stream in [Stream::Stdout, Stream::Stderr] {
            if self.pipe(stream).receiver.is_some() {
                self.close(stream, at);
            }
        }
    }

    /// Forgets everything that is not handed over, and whatever may come: the queue is broken.
    pub(super) fn discard(&mut self) {
        self.rest.clear();
        self.asked = None;
        self.room = None;
        self.first_at = None;
        drop(self.gather.take());
    }

    /// Hands over what is gathered, with the facts that hold once it is captured. The uplink
    /// takes it also when it is full, which only the last portions of a run may rely on.
    pub(super) fn hand_over(&mut self, uplink: &mut Uplink, facts: Vec<Fact>) {
        let mut portion = self.gather.take();
        portion.facts = facts;
        self.first_at = None;
        if let Some(document) = &mut self.document
            && let Err(note) = document.add(printed(&portion))
        {
            tracing::warn!(note, "the result's document is not complete");
        }
        let room = self.settle_room(portion.frames.bytes().len());
        uplink.push(portion, room);
    }

    /// What the pool is to get back for a portion of `bytes`: the reserve, made true. A portion
    /// that became larger than was thought is not held up for it.
    fn settle_room(&mut self, bytes: usize) -> Option<OwnedSemaphorePermit> {
        let units = Pool::units(bytes);
        let mut room = self.room.take()?;
        let reserved = u32::try_from(room.num_permits()).unwrap_or(u32::MAX);
        if reserved > units {
            drop(room.split((reserved - units) as usize));
        } else if let Some(more) = self.pool.reserve_now(units - reserved) {
            room.merge(more);
        }
        Some(room)
    }

    fn hold(&mut self, more: OwnedSemaphorePermit) {
        match &mut self.room {
            Some(room) => room.merge(more),
            None => self.room = Some(more),
        }
    }

    /// Gathers lines of `bytes` while there is room for them; returns how many bytes were taken.
    fn gather_from(
        &mut self,
        stream: Stream,
        at: Timestamp,
        bytes: &[u8],
        uplink: &mut Uplink,
    ) -> usize {
        let mut taken = 0;
        while taken < bytes.len() {
            if self.gather.is_full() {
                if uplink.is_full() {
                    break;
                }
                self.hand_over(uplink, Vec::new());
            }
            let (piece, cost) = piece(&bytes[taken..]);
            if !self.reserve(cost, uplink) {
                break;
            }
            let (pipe, gather, log) = self.parts(stream);
            let mut lines = std::mem::replace(&mut pipe.lines, Lines::new(1));
            taken += lines.push(piece, |line| pipe.take(gather, log, at, line));
            pipe.lines = lines;
            self.note_first();
            if self.gather.is_empty() {
                // Only gathered events may hold room: an unfinished line cannot be handed over.
                self.room = None;
            }
        }
        taken
    }

    /// Whether the pool has room for `cost` bytes. If not, what is gathered is handed over, and a
    /// place in the queue of waiters is taken.
    fn reserve(&mut self, cost: usize, uplink: &mut Uplink) -> bool {
        let units = Pool::units(cost);
        let has = self.room.as_ref().map_or(0, |room| room.num_permits());
        // Room that was waited for comes here as more than what is gathered needs.
        if self.gather.is_empty() && has >= units as usize {
            return true;
        }
        if let Some(more) = self.pool.reserve_now(units) {
            self.hold(more);
            return true;
        }
        if !self.gather.is_empty() {
            if uplink.is_full() {
                // Its portions give room back when they are captured.
                return false;
            }
            self.hand_over(uplink, Vec::new());
        }
        self.room = None;
        self.asked = Some(Box::pin(self.pool.reserve(units)));
        false
    }

    fn note_first(&mut self) {
        if self.first_at.is_none() && !self.gather.is_empty() {
            self.first_at = Some(clock::tick());
        }
    }

    fn pipe(&mut self, stream: Stream) -> &mut Pipe {
        self.parts(stream).0
    }

    fn parts(&mut self, stream: Stream) -> (&mut Pipe, &mut Gather, &mut LogLines) {
        let pipe = match stream {
            Stream::Stderr => &mut self.stderr,
            Stream::Stdout | Stream::Run | Stream::Daemon | Stream::Lumberjack | Stream::File => {
                &mut self.stdout
            }
        };
        (pipe, &mut self.gather, &mut self.log)
    }
}

impl Pipe {
    fn new(stream: Stream, capture: Capture) -> Self {
        let max_event = capture.max_event;
        Self {
            stream,
            receiver: None,
            lines: match capture.format {
                Format::Document => Lines::whole(max_event),
                Format::Text | Format::Json => Lines::new(max_event),
            },
            joiner: capture
                .multiline
                .as_ref()
                .map(|settings| Joiner::new(Arc::clone(settings), max_event)),
            joined_at: None,
            capture,
        }
    }

    /// Takes one line; breaks when the portion is full now.
    fn take(
        &mut self,
        gather: &mut Gather,
        log: &mut LogLines,
        at: Timestamp,
        line: Line<'_>,
    ) -> ControlFlow<()> {
        if self.capture.log {
            log.line(self.stream, line.text);
        }
        let Some(joiner) = &mut self.joiner else {
            return gather.line(self.stream, at, line);
        };
        let mut flow = ControlFlow::Continue(());
        joiner.push(at, line, |at, line| {
            flow = gather.line(self.stream, at, line)
        });
        self.joined_at = (!joiner.is_empty()).then(clock::tick);
        flow
    }

    fn finish_joined(&mut self, gather: &mut Gather) {
        self.joined_at = None;
        if let Some(joiner) = &mut self.joiner {
            joiner.finish(|at, line| {
                // Full or not: this is one event more.
                let _full = gather.line(self.stream, at, line);
            });
        }
    }

    fn read(&self, buffer: &mut [u8]) -> Chunk {
        let Some(receiver) = &self.receiver else {
            return Chunk::NotYet;
        };
        match receiver.try_read(buffer) {
            Ok(0) => Chunk::End,
            Ok(count) => Chunk::Bytes(count),
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted
                ) =>
            {
                Chunk::NotYet
            }
            Err(error) => {
                let stream = self.stream.name();
                tracing::warn!(stream, %error, "a pipe cannot be read any more");
                Chunk::End
            }
        }
    }
}

/// The events of a portion that a script's lines became; the record of a run says what its own do.
fn printed(portion: &Portion) -> impl Iterator<Item = &[u8]> {
    let parts = portion.parts.iter();
    let streams = parts.flat_map(|part| std::iter::repeat_n(part.stream, part.count as usize));
    let events = streams.zip(portion.frames.payloads());
    events
        .filter(|(stream, _)| *stream != Stream::Run)
        .map(|(_, event)| event)
}

/// The beginning of `bytes` that costs at most a batch when each of its lines is an event, and
/// what it costs.
fn piece(bytes: &[u8]) -> (&[u8], usize) {
    let mut piece = bytes;
    loop {
        let lines = memchr::memchr_iter(b'\n', piece).count();
        let cost = piece.len() + lines * ENVELOPE_BYTES;
        if cost <= PIECE_COST_MAX || piece.len() <= PIECE_BYTES_MIN {
            return (piece, cost);
        }
        piece = &piece[..piece.len() / 2];
    }
}

#[cfg(test)]
mod tests;
