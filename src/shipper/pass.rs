//! Passing over: what an output does with events that it is not to send, because the queue is full and
//! does not hold them, or because a person says so.
//!
//! Decides nothing about which events: that is the queue's, and the person's.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::Effect;
use super::Link;
use super::Loading;
use super::Shipper;
use super::load::Found;
use super::load::Loader;
use super::load::Order;
use super::trail::Trail;
use super::trail::Way;
use crate::clock::Tick;
use crate::disk::Disk;
use crate::queue::Position;
use crate::queue::cursor::Cursor;
use crate::queue::cursor::CursorFile;
use crate::queue::cursor::Stored;
use crate::queue::log;
use crate::queue::readers::over_gone;
use crate::window::Format;
use crate::window::Limits;

/// How long a skip waits for the ACK of what is in flight. A server that is stuck may keep its connection
/// for ever.
pub(super) const SKIP_PATIENCE: Duration = Duration::from_secs(10);

/// Nothing is loaded where all is passed over.
const NO_WINDOW: Limits = Limits {
    events: 1,
    bytes: 1,
    compression_level: 0,
    format: Format::V2,
};

impl Shipper {
    /// Gives up the events before `seq`.
    pub(super) fn give_up(&mut self, seq: u64) {
        let from = self.trail.cursor().seq;
        if seq <= self.given_up || seq <= from {
            return;
        }
        tracing::warn!(
            output = self.output,
            from,
            to = seq,
            "the queue is full: events are given up for an output that it does not hold them for"
        );
        self.given_up = seq;
        // What is in flight of these is in memory: its ACK is waited for as long as its connection lives.
        self.trail.pass_over(seq, Way::Dropped);
    }

    /// Passes over the events before `seq`, as a person says.
    pub(super) fn skip(&mut self, seq: u64, now: Tick) {
        let from = self.trail.cursor().seq;
        if seq <= self.skipped || seq <= from {
            return;
        }
        tracing::warn!(
            output = self.output,
            from,
            to = seq,
            "events are skipped, as a person has said; an ACK of what is in flight is waited for"
        );
        self.skipped = seq;
        self.skip_by = Some(now.after(SKIP_PATIENCE));
    }

    /// Passes over what is to be skipped and is not in flight, or has been for too long.
    pub(super) fn keep_skipping(&mut self, now: Tick, effects: &mut Vec<Effect>) {
        if self.trail.cursor().seq >= self.skipped {
            self.skip_by = None;
            return;
        }
        if self.skip_by.is_some_and(|by| now >= by) {
            self.skip_by = None;
            self.land_all(now, effects);
        }
        self.trail.pass_over(self.skipped, Way::Skipped);
    }

    /// Has the log read only to pass over it, if it is to be.
    pub(super) fn load_over(&mut self, effects: &mut Vec<Effect>) -> bool {
        let ways = [(self.given_up, Way::Dropped), (self.skipped, Way::Skipped)];
        let end = self.trail.end();
        let Some((until, way)) = ways.into_iter().find(|(until, _)| end < *until) else {
            return false;
        };
        self.loading = Some(Loading {
            lane: None,
            span: None,
        });
        effects.push(Effect::Load(Order::PassOver(until, way), 0));
        true
    }

    /// What is in flight is not waited for any more: what of it is not skipped is sent again.
    fn land_all(&mut self, now: Tick, effects: &mut Vec<Effect>) {
        for (number, lane) in self.lanes.iter_mut().enumerate() {
            if lane.flying.is_empty() {
                continue;
            }
            for id in lane.flying.drain(..) {
                self.trail.landed(id);
            }
            lane.alone = false;
            lane.link = Link::Down { retry_at: now };
            effects.push(Effect::Close(number));
        }
    }
}

/// Passes over the events before `until` for an output whose daemon does not run; the caller holds the
/// root's lock. The log ends at `end`, where the event of that number will be.
///
/// # Errors
/// What the disk said; the cursor is where it was.
pub fn skip(
    disk: &Arc<dyn Disk>,
    dir: &Path,
    output: &str,
    until: u64,
    end: (Position, u64),
) -> io::Result<Cursor> {
    let (mut file, stored) = CursorFile::open(disk, dir, output)?;
    let Stored::Cursor(mut cursor) = stored else {
        return Err(io::Error::other("its cursor cannot be read"));
    };
    if cursor.is_frozen()
        && let Some(oldest) = log::first_segment(&**disk, dir, 0)?
    {
        over_gone(&mut cursor, log::begin_of(disk, dir, oldest, end)?);
    }
    let mut trail = Trail::new(cursor);
    let mut loader = Loader::new(Arc::clone(disk), dir, output, &cursor, NO_WINDOW);
    let order = Order::PassOver(until, Way::Skipped);
    while trail.end() < until
        && let Found::Next { steps, .. } = loader.load(&order, 0, end)?.found
        && !steps.is_empty()
    {
        trail.read(steps);
    }
    file.sync(&trail.cursor())?;
    Ok(trail.cursor())
}
