//! One file: how far it was read, and what it was like when it was looked at last.

use std::io;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::Arc;

use tokio::sync::OwnedSemaphorePermit;

use crate::clock::Tick;
use crate::event::envelope::Envelope;
use crate::event::envelope::FileLabels;
use crate::fileid::FileId;
use crate::fileid::HEAD_BYTES_MAX;
use crate::fileid::Head;
use crate::fileid::Stamp;
use crate::fileid::path_text;
use crate::files::reach::Base;
use crate::files::reach::Handle;
use crate::files::reach::Meta;
use crate::queue::Fact;
use crate::queue::FileFacts;
use crate::queue::FilePast;
use crate::source::files::Now;
use crate::source::files::Setup;
use crate::source::files::draft::Draft;
use crate::source::lines::Line;
use crate::source::lines::Lines;

/// What one read takes.
const CHUNK_BYTES: usize = 128 << 10;

/// A last line without its end is kept in memory up to this; a longer one is read again when more of
/// it comes, so that many open files do not each hold a longest line.
const CARRY_MAX: u64 = 64 << 10;

/// A clean-up that was asked for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Asked {
    /// What the file was like then.
    pub(super) stamp: Stamp,
    /// It was seen to differ, and who did that is not known yet.
    differs: bool,
    /// Whether it has not come to an end.
    pending: bool,
}

/// What reading a file on came to.
#[derive(Debug)]
pub(super) enum Read {
    /// It was read to its end.
    Done,
    /// There is more.
    More,
    /// It is not the file any more that was read: it was emptied, or written anew.
    Cut {
        /// Bytes that were seen and not read.
        lost: u64,
    },
}

/// See the module's header.
#[derive(Debug)]
pub(super) struct Tracked {
    /// Its generation: the first part of its events' ids.
    pub(super) id: Arc<str>,
    /// Which `[[files]]` of the job names it.
    pub(super) place: usize,
    pub(super) path: PathBuf,
    pub(super) of: FileId,
    head: Head,
    /// Where the first line begins that is not an event yet.
    pub(super) at: u64,
    /// How far it was read: what is between is in `lines`.
    read_to: u64,
    lines: Lines,
    handle: Option<(Handle, OwnedSemaphorePermit)>,
    voice: Option<Envelope>,
    /// What it was like at the last look; `None`: not looked at yet.
    pub(super) meta: Option<Meta>,
    /// What it was like when it had been read to its end.
    done: Option<Stamp>,
    /// What it was like when it was seen to be the same file.
    proved: Option<Stamp>,
    /// How large it was when it was last seen to be the same file.
    seen_bytes: u64,
    /// When it was last seen to have changed, or first seen.
    pub(super) changed_at: Tick,
    /// Since when no glob finds it.
    missing_since: Option<Tick>,
    /// Whether the log knows it.
    pub(super) is_recorded: bool,
    pub(super) asked: Option<Asked>,
    /// How it ended before a clean-up that had begun when the daemon died: only what still has that
    /// at its place is what was read.
    suspect: Option<Head>,
}

impl Tracked {
    /// A file that is seen for the first time.
    pub(super) fn fresh(
        id: Arc<str>,
        place: usize,
        path: PathBuf,
        meta: Meta,
        max_event: usize,
        now: Now,
    ) -> Self {
        Self {
            id,
            place,
            path,
            of: meta.id,
            head: Head::default(),
            at: 0,
            read_to: 0,
            lines: Lines::new(max_event),
            handle: None,
            voice: None,
            meta: Some(meta),
            done: None,
            proved: None,
            seen_bytes: 0,
            changed_at: now.tick,
            missing_since: None,
            is_recorded: false,
            asked: None,
            suspect: None,
        }
    }

    /// A file that the log knows; where it is now, if anywhere, the first scan says.
    pub(super) fn known(
        id: Arc<str>,
        place: usize,
        path: PathBuf,
        past: &FilePast,
        max_event: usize,
    ) -> Self {
        Self {
            id,
            place,
            path,
            of: past.of.id,
            head: past.of.head,
            at: past.to,
            read_to: past.to,
            lines: Lines::new(max_event),
            handle: None,
            voice: None,
            meta: None,
            done: None,
            proved: None,
            seen_bytes: 0,
            changed_at: Tick::default(),
            missing_since: None,
            is_recorded: true,
            asked: past.release.as_ref().map(|release| Asked {
                stamp: release.stamp,
                differs: false,
                pending: true,
            }),
            suspect: past
                .release
                .as_ref()
                .filter(|_| past.releasing)
                .map(|release| release.tail),
        }
    }

    /// The file that now is where this one was.
    pub(super) fn begin_anew(self, id: Arc<str>, now: Now) -> Self {
        Self {
            id,
            head: Head::default(),
            at: 0,
            read_to: 0,
            lines: self.lines.anew(),
            voice: None,
            done: None,
            proved: None,
            seen_bytes: 0,
            changed_at: now.tick,
            is_recorded: false,
            asked: None,
            suspect: None,
            ..self
        }
    }

    /// It was found under this name.
    pub(super) fn seen(&mut self, now: Now, path: PathBuf, meta: Meta) {
        if self.path != path {
            self.path = path;
            self.voice = None;
        }
        self.missing_since = None;
        self.note(now, meta);
    }

    fn note(&mut self, now: Now, meta: Meta) {
        if self.meta.is_none_or(|before| before.stamp != meta.stamp) {
            self.changed_at = now.tick;
        }
        self.meta = Some(meta);
    }

    /// No glob finds it.
    pub(super) fn missing(&mut self, now: Now) {
        self.missing_since.get_or_insert(now.tick);
    }

    pub(super) const fn is_missing(&self) -> bool {
        self.missing_since.is_some()
    }

    /// Whether it is missing and not held open: what it had is out of reach.
    pub(super) const fn is_gone(&self) -> bool {
        self.missing_since.is_some() && self.handle.is_none()
    }

    pub(super) const fn missing_since(&self) -> Option<Tick> {
        self.missing_since
    }

    pub(super) const fn is_open(&self) -> bool {
        self.handle.is_some()
    }

    /// Whether it has, or may have, what was not read.
    pub(super) fn is_due(&self) -> bool {
        let Some(meta) = &self.meta else {
            return false;
        };
        // An open file costs one look; another only when it was seen to differ.
        (self.handle.is_some() || (self.missing_since.is_none() && self.done != Some(meta.stamp)))
            && meta.links <= 1
    }

    /// Whether it was read to the end of what was seen of it.
    pub(super) fn is_read(&self) -> bool {
        self.meta.is_some_and(|meta| self.done == Some(meta.stamp))
    }

    /// Whether a long line of it is in memory.
    pub(super) const fn holds_much(&self) -> bool {
        self.read_to - self.at > CARRY_MAX
    }

    /// Whether it was read to the end of what was seen of it, and what it was like there.
    pub(super) fn rested(&self) -> Option<Stamp> {
        let stamp = self.meta?.stamp;
        (self.done == Some(stamp) && self.at == stamp.bytes).then_some(stamp)
    }

    /// Whether a last line waits for its end.
    pub(super) const fn has_partial(&self) -> bool {
        self.read_to > self.at
    }

    /// Bytes that were seen and not read.
    pub(super) fn unread(&self) -> u64 {
        let seen = self.meta.map_or(0, |meta| meta.stamp.bytes);
        seen.saturating_sub(self.at)
    }

    pub(super) fn links(&self) -> u32 {
        self.meta.map_or(0, |meta| meta.links)
    }

    /// How it ends, if it may be cleaned up: nobody has it open for writing, and it is what was read.
    ///
    /// # Errors
    /// What the operating system said.
    pub(super) fn end(&mut self, setup: &Setup, stamp: Stamp) -> io::Result<Option<Head>> {
        let at = self.at;
        let handle = self.open(setup)?;
        if handle.has_writer().unwrap_or(false) {
            return Ok(None);
        }
        let tail = tail_of(handle, at)?;
        Ok((handle.meta()?.stamp == stamp).then_some(tail))
    }

    /// Lets go of the file; what waits for its end is read again.
    pub(super) fn close(&mut self) {
        self.handle = None;
        self.voice = None;
        self.put_back();
    }

    /// Forgets the last line without its end: it is read again.
    fn put_back(&mut self) {
        if self.read_to > self.at {
            self.lines = self.lines.anew();
            self.read_to = self.at;
        }
    }

    /// Its clean-up is asked for.
    pub(super) fn ask(&mut self, stamp: Stamp) {
        self.asked = Some(Asked {
            stamp,
            differs: false,
            pending: true,
        });
        self.close();
    }

    /// See [`super::Harvest::settled`].
    pub(super) fn settle(&mut self, pending: bool) {
        if let Some(asked) = &mut self.asked {
            asked.pending = pending;
            if asked.differs {
                self.asked = None;
            }
        }
    }

    /// Whether a clean-up was asked for that has not come to an end.
    pub(super) fn is_pending(&self) -> bool {
        self.asked.is_some_and(|asked| asked.pending)
    }

    /// Reads on until the end, the draft is full or the budget is used up.
    ///
    /// # Errors
    /// What the operating system said; it is tried again at the next look.
    pub(super) fn read(
        &mut self,
        setup: &Setup,
        now: Now,
        flush: bool,
        budget: &mut u64,
        draft: &mut Draft,
    ) -> io::Result<Read> {
        let from = self.at;
        let mut partial = 0;
        let read = self.read_on(setup, now, budget, draft);
        if let (Ok(read), Some(wanted)) = (&read, setup.wanted.get(self.place)) {
            let rested = now.tick.since(self.changed_at);
            let is_end = matches!(read, Read::Done) && self.has_partial();
            if is_end && (flush || wanted.at_run_end || rested >= wanted.partial_timeout) {
                partial = u64::from(self.finish_line(setup, draft));
            } else if is_end && self.holds_much() {
                self.put_back();
            }
        }
        if let Err(error) = &read {
            // Gone between two looks: the next scan says so.
            let is_gone = error.kind() == io::ErrorKind::NotFound;
            self.close();
            self.record(setup, draft, from, partial);
            return if is_gone { Ok(Read::Done) } else { read };
        }
        self.record(setup, draft, from, partial);
        read
    }

    fn read_on(
        &mut self,
        setup: &Setup,
        now: Now,
        budget: &mut u64,
        draft: &mut Draft,
    ) -> io::Result<Read> {
        let json = setup
            .wanted
            .get(self.place)
            .is_some_and(|wanted| wanted.json);
        let mut chunk = vec![0; CHUNK_BYTES];
        loop {
            let meta = self.open(setup)?.meta()?;
            if meta.id != self.of {
                // Another file has taken its name; the next scan finds both.
                self.handle = None;
                return Ok(Read::Done);
            }
            self.note(now, meta);
            if self.is_another(&meta)? {
                return Ok(self.cut());
            }
            if let Some(asked) = &mut self.asked
                && asked.stamp != meta.stamp
                && asked.pending
            {
                // Perhaps our own clean-up did that: the log will say so.
                asked.differs = true;
                self.handle = None;
                return Ok(Read::Done);
            }
            if self.asked.is_some_and(|asked| asked.stamp != meta.stamp) {
                self.asked = None;
            }
            if meta.stamp.bytes == self.read_to {
                self.done = Some(meta.stamp);
                return Ok(Read::Done);
            }
            if draft.is_full() || *budget == 0 {
                return Ok(Read::More);
            }
            self.seen_bytes = meta.stamp.bytes;
            let at = self.read_to;
            let n = self.open(setup)?.read_at(at, &mut chunk)?;
            // What was read is believed only if it was the same file before and after.
            let after = self.open(setup)?.meta()?;
            if after.stamp.bytes < self.read_to + n as u64 || self.is_another(&after)? {
                return Ok(self.cut());
            }
            *budget = budget.saturating_sub(n as u64);
            self.take(setup, json, &chunk[..n], draft);
        }
    }

    /// Makes events of the lines that end in `chunk`, which begins at `read_to`.
    fn take(&mut self, setup: &Setup, json: bool, chunk: &[u8], draft: &mut Draft) {
        let covered = u64::from(self.head.bytes);
        if (self.read_to..self.read_to + chunk.len() as u64).contains(&covered) {
            self.head
                .extend(&chunk[(covered - self.read_to) as usize..]);
        }
        let envelope = match self.voice.take() {
            Some(envelope) => envelope,
            None => self.envelope(setup),
        };
        let mut at = self.at;
        let taken = self.lines.push(chunk, |line: Line<'_>| {
            at += draft.line(&envelope, json, at, line);
            if draft.is_full() {
                ControlFlow::Break(())
            } else {
                ControlFlow::Continue(())
            }
        });
        self.at = at;
        self.read_to += taken as u64;
        self.voice = Some(envelope);
    }

    /// Makes an event of a last line without its end; whether there was one.
    fn finish_line(&mut self, setup: &Setup, draft: &mut Draft) -> bool {
        let json = setup
            .wanted
            .get(self.place)
            .is_some_and(|wanted| wanted.json);
        let envelope = self.envelope(setup);
        let mut at = self.at;
        self.lines
            .finish(|line| at += draft.line(&envelope, json, at, line));
        let had = at > self.at;
        self.at = at;
        had
    }

    /// Records how far it was read.
    fn record(&mut self, setup: &Setup, draft: &mut Draft, from: u64, partial: u64) {
        if self.at == from {
            return;
        }
        self.is_recorded = true;
        let (before, events) = draft.own();
        draft.facts.push(Fact::Read {
            file: self.id.to_string(),
            of: FileFacts {
                job: setup.job.to_string(),
                path: path_text(&self.path),
                id: self.of,
                head: self.head,
                outputs: setup.route.outputs().to_vec(),
                waits_for: setup.waits_for.clone(),
                at: draft.at.0,
            },
            from,
            to: self.at,
            before,
            events,
            partial,
        });
    }

    fn open(&mut self, setup: &Setup) -> io::Result<&Handle> {
        if self.handle.is_none() {
            let slot = setup.slots.take()?;
            let wanted = setup.wanted.get(self.place);
            let pattern = wanted.and_then(|wanted| wanted.names(&self.path));
            let base = pattern.map_or_else(|| self.path.clone(), |pattern| pattern.base.clone());
            self.handle = Some((Base::open(&base)?.file(&self.path)?, slot));
        }
        let (handle, _) = self.handle.as_ref().expect("it has just been opened");
        Ok(handle)
    }

    /// Whether what is open is not what was read before.
    fn is_another(&mut self, meta: &Meta) -> io::Result<bool> {
        if meta.stamp.bytes < self.read_to {
            return Ok(true);
        }
        if self.proved == Some(meta.stamp) {
            return Ok(false);
        }
        let Some((handle, _)) = &self.handle else {
            return Ok(false);
        };
        let mut same = handle.begins_with(&self.head)?;
        if let Some(tail) = &self.suspect {
            same &= tail_of(handle, self.at)? == *tail;
        }
        self.proved = same.then_some(meta.stamp);
        Ok(!same)
    }

    fn cut(&self) -> Read {
        Read::Cut {
            lost: self.seen_bytes.saturating_sub(self.at),
        }
    }

    fn envelope(&self, setup: &Setup) -> Envelope {
        let wanted = setup.wanted.get(self.place);
        let labels = FileLabels {
            job: &setup.job,
            generation: Some(&setup.generation),
            file: &self.id,
            path: &path_text(&self.path),
            tags: wanted.map_or(&[], |wanted| &wanted.tags),
            fields: &setup.fields,
        };
        Envelope::of_file(&setup.identity, &labels)
    }
}

/// The hash of the last bytes before `end`.
fn tail_of(handle: &Handle, end: u64) -> io::Result<Head> {
    let mut bytes = [0; HEAD_BYTES_MAX as usize];
    let from = end.saturating_sub(u64::from(HEAD_BYTES_MAX));
    let length = (end - from) as usize;
    let mut filled = 0;
    while filled < length {
        match handle.read_at(from + filled as u64, &mut bytes[filled..length])? {
            0 => break,
            n => filled += n,
        }
    }
    let mut tail = Head::default();
    tail.extend(&bytes[..filled]);
    Ok(tail)
}
