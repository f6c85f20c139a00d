//! What the writer lets go of: checkpoints when they are due, segments that all outputs have passed.
//!
//! Must never remove what a cursor has yet to pass, or what no checkpoint covers.

use std::io;

use super::SEGMENTS_MAX;
use super::Writer;
use super::checkpoint;
use super::checkpoint::Checkpoint;
use super::locked;
use super::reserve;
use super::segment;
use super::segment::Position;
use crate::units::Timestamp;

/// Whether something waits for room.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pressure {
    /// Nothing waits.
    None,
    /// An append was refused as full.
    Pressed,
}

impl Writer {
    /// Writes checkpoints when they are due and removes segments that nobody needs any more.
    ///
    /// `passed` is the lowest durable cursor of the outputs that hold the queue; `pressed` says that
    /// an append is waiting for room.
    ///
    /// # Errors
    /// What the disk said; try again later.
    pub fn tidy(&mut self, passed: Position, pressed: Pressure, now: Timestamp) -> io::Result<()> {
        self.check_home()?;
        let mut tidied = self.let_go(passed, pressed, now);
        let first = self.sealed.keys().next().unwrap_or(&self.active.id);
        let frees = passed.segment > *first || passed >= self.active.place();
        if frees && tidied.as_ref().is_err_and(reserve::is_full) && self.reserve.give(&*self.disk) {
            tidied = self.let_go(passed, pressed, now);
        }
        if pressed == Pressure::Pressed
            && tidied.as_ref().is_err_and(reserve::is_full)
            && self.let_go_unwritten(passed)?
        {
            tidied = self.let_go(passed, pressed, now);
        }
        self.reserve.take(&*self.disk, &self.dir);
        tidied
    }

    fn let_go(
        &mut self,
        mut passed: Position,
        pressed: Pressure,
        now: Timestamp,
    ) -> io::Result<()> {
        let written = self.active.end > segment::HEAD_BYTES as u64;
        if pressed == Pressure::Pressed && written && passed >= self.active.place() {
            // All of it was passed: it may be the very room that is missing.
            self.rotate(now)?;
            passed = self.active.place();
        }
        if self.needs_checkpoint() {
            self.checkpoint()?;
        }
        let mut passed_bytes: u64 = self
            .sealed
            .range(..passed.segment)
            .map(|(_, sealed)| sealed.bytes)
            .sum();
        while let Some((id, sealed)) = self.sealed.first_key_value() {
            let (id, sealed) = (*id, *sealed);
            let unwanted = pressed == Pressure::Pressed
                || self.sealed.len() > SEGMENTS_MAX
                || passed_bytes > self.settings.retain_bytes
                || now.since(sealed.at) > self.settings.retain_age;
            if id >= passed.segment || !unwanted {
                break;
            }
            if id >= self.older_checkpoint.segment {
                self.checkpoint()?;
                if id >= self.older_checkpoint.segment {
                    self.checkpoint()?;
                }
            }
            self.remove_sealed(id)?;
            passed_bytes -= sealed.bytes;
        }
        Ok(())
    }

    /// Removes what the newest checkpoint covers of the segments that were passed: where there is no room
    /// to write another one, and no reserve, the older one is of less use than room. Returns whether
    /// there was any.
    fn let_go_unwritten(&mut self, passed: Position) -> io::Result<bool> {
        let below = passed.segment.min(self.newest_checkpoint.segment);
        let ids: Vec<u64> = self.sealed.range(..below).map(|(id, _)| *id).collect();
        for id in &ids {
            self.remove_sealed(*id)?;
        }
        Ok(!ids.is_empty())
    }

    fn remove_sealed(&mut self, id: u64) -> io::Result<()> {
        match self.disk.remove(&self.dir.join(segment::file_name(id))) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        // A power cut may undo removals in any order, and without the next one's head records that are void
        // in this one would be taken for good ones.
        self.disk.sync_dir(&self.dir)?;
        self.sealed.remove(&id);
        Ok(())
    }

    /// Whether so much was captured since the last checkpoint that the next start should not have to
    /// read more.
    #[must_use]
    pub fn needs_checkpoint(&self) -> bool {
        self.since_checkpoint >= self.segment_bytes.max(2 * self.checkpoint_bytes)
    }

    /// Writes a checkpoint of everything captured so far.
    ///
    /// # Errors
    /// What the disk said; the older ones stay.
    pub fn checkpoint(&mut self) -> io::Result<()> {
        let at = self.durable_end();
        let next = Checkpoint {
            id: self.last_checkpoint_id + 1,
            epoch: self.epoch,
            at,
            ledger: locked(&self.ledger).clone(),
        };
        self.checkpoint_bytes = next.store(&*self.disk, &self.dir)?;
        let former = std::mem::replace(&mut self.checkpoint_id, next.id);
        self.last_checkpoint_id = next.id;
        self.older_checkpoint = self.newest_checkpoint;
        self.newest_checkpoint = at;
        self.since_checkpoint = 0;
        checkpoint::prune(&*self.disk, &self.dir, [former, next.id])
    }
}
