//! The disk under the queue, looked at now and then: is there room, and what was set aside as damaged.
//!
//! Warns before the disk is full, and once. Must never touch what it looks at.

use std::path::Path;
use std::path::PathBuf;
use std::time::Duration;

use crate::clock::Tick;
use crate::disk::Disk;
use crate::disk::OsDisk;
use crate::queue::Level;
use crate::queue::quarantine;
use crate::queue::quarantine::Summary;
use crate::queue::reserve;
use crate::status;

/// Between two looks for what outputs have set aside.
const QUARANTINE_EVERY: Duration = Duration::from_secs(1);

/// Between two looks at how much room there is.
const SPACE_EVERY: Duration = Duration::from_secs(60);

/// See the module's header.
#[derive(Debug)]
pub(super) struct DiskWatch {
    dir: PathBuf,
    /// What was in quarantine at the last look.
    quarantine: Summary,
    quarantine_at: Tick,
    space_at: Tick,
    /// Whether it was said that the disk gets full.
    lacks_space: bool,
}

impl DiskWatch {
    /// Begins to watch the queue in `dir`; what is in quarantine there is known.
    pub(super) fn new(dir: &Path) -> Self {
        Self {
            dir: dir.to_path_buf(),
            quarantine: quarantine::summary(&OsDisk, dir).unwrap_or_default(),
            quarantine_at: Tick::default(),
            space_at: Tick::default(),
            lacks_space: false,
        }
    }

    pub(super) fn status(&self, level: &Level) -> status::Queue {
        status::Queue {
            held_bytes: level.held_bytes,
            waiting_bytes: level.waiting_bytes,
            max_bytes: level.max_bytes,
            total_bytes: level.total_bytes,
            free_bytes: OsDisk.room(&self.dir).ok().map(|room| room.free),
            reserve_bytes: reserve::bytes(&OsDisk, &self.dir),
            quarantined: self.quarantine.entries,
            quarantined_bytes: self.quarantine.bytes,
            quarantine_removed: self.quarantine.removed,
            lost_cursors: Vec::new(),
            broken: level.stuck.clone(),
        }
    }

    /// Looks, if it is time; returns how many damaged parts were set aside since the last look, if any.
    pub(super) fn look_after(&mut self, now: Tick, level: &Level) -> Option<u64> {
        if now >= self.space_at {
            self.space_at = now.after(SPACE_EVERY);
            self.space(level);
        }
        if now < self.quarantine_at {
            return None;
        }
        self.quarantine_at = now.after(QUARANTINE_EVERY);
        let found = quarantine::summary(&OsDisk, &self.dir).ok()?;
        let before = self.quarantine.entries + self.quarantine.removed;
        let parts = (found.entries + found.removed).saturating_sub(before);
        self.quarantine = found;
        if parts == 0 {
            return None;
        }
        tracing::error!(
            parts,
            "damaged parts of the queue were set aside in queue/quarantine"
        );
        Some(parts)
    }

    fn space(&mut self, level: &Level) {
        let lacking = self.status(level).lacks_space();
        match &lacking {
            Some(why) if !self.lacks_space => tracing::warn!("the queue's disk gets full: {why}"),
            None if self.lacks_space => tracing::info!("the queue's disk has room again"),
            _ => {}
        }
        self.lacks_space = lacking.is_some();
    }
}
