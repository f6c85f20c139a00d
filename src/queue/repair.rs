//! Repairing a queue: what is damaged is set aside and settled, what can be made anew is.
//!
//! First [`look`], which changes nothing, then [`mend`] just that, in steps of which each leaves a
//! whole queue: killed anywhere, it may be begun again. No record is changed and no cursor moves
//! forward. Must never ask anybody.

use std::io;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;

use super::Settings;
use super::checkpoint;
use super::inspect;
use super::inspect::Survey;
use super::quarantine;
use super::readers;
use super::readers::Begin;
use super::readers::Reader;
use super::recover;
use super::recover::OpenError;
use super::segment;
use super::settled::Settled;
use super::verify;
use super::verify::Damage;
use super::verify::Place;
use super::writer::Writer;
use crate::disk::Disk;
use crate::units::Timestamp;

/// What there is to be done about a queue.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Look {
    /// Segments of which nothing can be read, and why. What else is wrong shows only without them.
    pub segments: Vec<(u64, String)>,
    /// Places of the log that can be set aside.
    pub damage: Vec<Damage>,
    /// Outputs whose cursors cannot be read, or are gone.
    pub cursors: Vec<String>,
    /// How many checkpoints can be read, and of how many, when a new one is needed.
    pub checkpoints: Option<(usize, usize)>,
    /// Replacements that were not finished.
    pub unfinished: Vec<PathBuf>,
    /// What cannot be helped.
    pub beyond: Vec<Damage>,
}

impl Look {
    /// Whether there is nothing to be done.
    #[must_use]
    pub fn is_nothing(&self) -> bool {
        self.damage.is_empty() && !self.needs_rest()
    }

    /// Whether something is to be done that a daemon would not see, or undo.
    #[must_use]
    pub fn needs_rest(&self) -> bool {
        !(self.segments.is_empty() && self.unfinished.is_empty()) || self.needs_writer()
    }

    /// Whether the queue is to be opened as a daemon does, so that what lies behind its last whole
    /// record is cut off.
    #[must_use]
    pub fn needs_writer(&self) -> bool {
        !self.cursors.is_empty() || self.checkpoints.is_some()
    }
}

/// Whether a daemon works on the queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Daemon {
    /// One does: what is not finished may be so in a moment.
    Runs,
    /// None does.
    Stopped,
}

/// Looks for everything that can be repaired; changes nothing. With what the queue holds, where that
/// can be known.
///
/// # Errors
/// [`OpenError`]: the queue cannot be read for a reason that no repair takes away.
pub fn look(
    disk: &Arc<dyn Disk>,
    dir: &Path,
    daemon: Daemon,
) -> Result<(Look, Option<Survey>), OpenError> {
    let mut found = Look::default();
    let seen = inspect::survey(disk, dir).and_then(|survey| {
        let verdict = verify::verify(disk, dir, &survey)?;
        Ok((survey, verdict))
    });
    let (survey, verdict) = match seen {
        Err(OpenError::Disk { path, error }) => match rotten(disk, dir, &path, &error) {
            None => return Err(OpenError::Disk { path, error }),
            Some(id) => {
                let why = format!("it cannot be read: {error}");
                found.segments.push((id, why));
                return Ok((found, None));
            }
        },
        seen => seen?,
    };
    let why = "its head is none, or another segment's, and no record of it can be found";
    found.segments = survey
        .strange
        .iter()
        .map(|id| (*id, why.to_owned()))
        .collect();
    if found.segments.is_empty() {
        let damage = verdict.damage.into_iter();
        (found.damage, found.beyond) = damage.partition(|damage| damage.place.is_some());
        found.cursors.clone_from(&survey.unreadable_cursors);
        let (readable, all) = checkpoint::count(&**disk, dir)?;
        let is_needed = readable < all || (readable == 0 && survey.ledger.queued() > 0);
        found.checkpoints = is_needed.then_some((readable, all));
        if daemon == Daemon::Stopped {
            found.unfinished = recover::unfinished(&**disk, dir);
        }
    }
    Ok((found, Some(survey)))
}

/// The segment that the disk does not give back. Who may not read it is to see to that.
fn rotten(disk: &Arc<dyn Disk>, dir: &Path, path: &Path, error: &io::Error) -> Option<u64> {
    if error.kind() == io::ErrorKind::PermissionDenied || !quarantine::is_lasting(error) {
        return None;
    }
    let id = segment::id_of(path.file_name()?.to_str()?)?;
    Some(quarantine::culprit(&**disk, dir, id))
}

/// Sets damaged places aside and settles them; a daemon may work on the queue meanwhile.
///
/// # Errors
/// [`OpenError`]: what the disk said; what was not settled still is damaged.
pub fn settle(
    disk: &dyn Disk,
    dir: &Path,
    damage: &[Damage],
    now: Timestamp,
) -> Result<(), OpenError> {
    let places: Vec<(Place, &Damage)> = damage
        .iter()
        .filter_map(|damage| Some((damage.place?, damage)))
        .collect();
    for (place, damage) in &places {
        let events = place
            .lost
            .map(|lost| (lost.events.0, lost.events.1 - lost.events.0));
        let span = (place.from, place.to);
        quarantine::keep(disk, dir, span, events, &damage.what, now)
            .map_err(at(dir.join(quarantine::DIR)))?;
    }
    let mut settled = Settled::read(disk, dir);
    for (place, _) in &places {
        settled.add(place);
    }
    if let Ok(Some(head)) = inspect::first_head(disk, dir) {
        settled.forget_before(head.id, head.first_number, head.first_seq);
    }
    settled
        .store(disk, dir)
        .map_err(at(dir.join(super::settled::FILE)))
}

/// Does what [`look`] found; the caller holds the root's lock. Look again afterwards: what a segment
/// held that is moved away is damage then.
///
/// # Errors
/// [`OpenError`]: what the disk said; what was not done may be done again.
pub fn mend(
    disk: &Arc<dyn Disk>,
    dir: &Path,
    settings: Settings,
    found: &Look,
    now: Timestamp,
) -> Result<(), OpenError> {
    for (id, why) in &found.segments {
        quarantine::move_segment(&**disk, dir, *id, why, now)
            .map_err(at(dir.join(segment::file_name(*id))))?;
    }
    if !found.damage.is_empty() {
        settle(&**disk, dir, &found.damage, now)?;
    }
    for path in &found.unfinished {
        match disk.remove(path) {
            // A file made just now may have had that name.
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(at(path.clone())(error));
            }
            _ => {}
        }
    }
    if found.needs_writer() {
        let (writer, _) = Writer::open(disk.clone(), dir, settings, now)?;
        let readers = found.cursors.iter().map(|output| Reader {
            output: output.clone(),
            start: Begin::Oldest,
            required: false,
        });
        let readers: Vec<Reader> = readers.collect();
        readers::open_cursors(disk, dir, &writer, &readers)?;
    }
    Ok(())
}

fn at(path: PathBuf) -> impl FnOnce(io::Error) -> OpenError {
    |error| OpenError::Disk { path, error }
}
