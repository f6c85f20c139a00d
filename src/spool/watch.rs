//! When a folder has settled: a pure step machine.
//!
//! Looks go in, `Settled` and `Gone` come out; the time comes with each input. It errs towards
//! waiting: a half-copied folder must never run, a finished one may wait a second longer.
//! Must never read a folder or a clock, and knows nothing of jobs but their folders' names.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::time::Duration;

use crate::clock::Tick;
use crate::files::Print;
use crate::units::Timestamp;

/// From an event of the watcher to the look at its folder: one save makes several events.
/// It counts from the first event and is not extended, so a storm cannot put the look off.
const LOOK_DELAY: Duration = Duration::from_millis(100);

/// From the news that a folder was renamed in to the look at it: the watcher tells where it came
/// from a moment later, and a renamed job goes under its old name before it comes.
const RENAME_DELAY: Duration = Duration::from_millis(10);

/// A folder that is only touched, over and over, while nothing in it grows or appears, is taken
/// for settled after this many times `settle`.
const TOUCHED_SETTLES: u32 = 10;

/// A folder that has changed for this long without settling is reported once. It is not loaded:
/// whatever writes there may be half done.
const RESTLESS: Duration = Duration::from_secs(60);

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Step {
    /// The folder is quiet, or came whole: load it.
    Settled(String),
    /// The folder went away.
    Gone(String),
    /// The folder has kept changing for [`RESTLESS`]; it is still not loaded.
    Restless(String),
}

/// Why a folder is to be looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Hint {
    /// Something happened in it.
    Touched,
    /// It went away by a rename to another job's name.
    RenamedAway,
    /// It came by a rename: whoever did that had made it whole before.
    RenamedIn,
}

/// What a look at a folder found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Seen {
    /// It is not there.
    Nothing,
    /// It is there.
    Folder {
        print: Print,
        /// When anything in it last changed, by the file system's clock.
        newest_change: Timestamp,
    },
}

/// The time of an input, by both clocks.
#[derive(Debug, Clone, Copy)]
pub(super) struct Now {
    pub(super) tick: Tick,
    pub(super) wall: Timestamp,
}

/// The machine for all folders.
#[derive(Debug)]
pub(super) struct Watch {
    settle: Duration,
    folders: BTreeMap<String, Folder>,
    /// The looks that are due, in order: with 10,000 folders nobody wants to search for them.
    dues: BTreeSet<(Tick, String)>,
}

#[derive(Debug)]
struct Folder {
    /// What the last look found; `None` before the first.
    seen: Option<Seen>,
    /// Since when looks have found the same.
    since: Tick,
    /// Since when looks have found the same but for times.
    shape_since: Tick,
    /// Since when it has been changing without settling.
    restless_since: Option<Tick>,
    /// What was found when it was last given out as settled.
    given: Option<Print>,
    /// Whether it was ever given out: its going then has to be told.
    was_given: bool,
    /// Why the next look is due, if a hint says so.
    hint: Option<Hint>,
    /// When the next look is due.
    due: Option<Tick>,
}

/// What a look means for its folder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Wait,
    Known,
    Settled,
    Restless,
    Gone,
}

impl Watch {
    /// Takes over another time to settle, for all that is still to settle.
    pub(super) const fn set_settle(&mut self, settle: Duration) {
        self.settle = settle;
    }

    pub(super) const fn new(settle: Duration) -> Self {
        Self {
            settle,
            folders: BTreeMap::new(),
            dues: BTreeSet::new(),
        }
    }

    /// Takes a hint that a folder changed; it only brings the next look forward.
    pub(super) fn hint(&mut self, folder: &str, hint: Hint, now: Now) {
        let entry = self
            .folders
            .entry(folder.to_owned())
            .or_insert_with(|| Folder::new(now.tick));
        entry.hint = entry.hint.max(Some(hint));
        let at = match hint {
            Hint::Touched => now.tick.after(LOOK_DELAY),
            Hint::RenamedIn => now.tick.after(RENAME_DELAY),
            Hint::RenamedAway => now.tick,
        };
        let at = entry.due.map_or(at, |due| due.min(at));
        self.set_due(folder, Some(at));
    }

    fn set_due(&mut self, name: &str, due: Option<Tick>) {
        let Some(folder) = self.folders.get_mut(name) else {
            return;
        };
        if let Some(before) = std::mem::replace(&mut folder.due, due) {
            self.dues.remove(&(before, name.to_owned()));
        }
        self.dues.extend(due.map(|due| (due, name.to_owned())));
    }

    /// When the next look is due.
    pub(super) fn next_due(&self) -> Option<Tick> {
        self.dues.first().map(|(due, _)| *due)
    }

    /// The folders whose looks are due.
    pub(super) fn due(&self, now: Now) -> Vec<String> {
        self.dues
            .iter()
            .take_while(|(due, _)| *due <= now.tick)
            .map(|(_, name)| name.clone())
            .collect()
    }

    /// The folders that it knows.
    pub(super) fn known(&self) -> impl Iterator<Item = &str> {
        self.folders.keys().map(String::as_str)
    }

    /// Takes what a look found.
    pub(super) fn look(&mut self, name: &str, seen: Seen, now: Now) -> Option<Step> {
        let folder = self
            .folders
            .entry(name.to_owned())
            .or_insert_with(|| Folder::new(now.tick));
        let verdict = folder.judge(seen, now, self.settle);
        let again = (verdict == Verdict::Wait || verdict == Verdict::Restless)
            .then(|| folder.since.after(self.settle));
        let was_given = folder.was_given;
        self.set_due(name, again);
        let name = name.to_owned();
        match verdict {
            Verdict::Wait | Verdict::Known => None,
            Verdict::Settled => Some(Step::Settled(name)),
            Verdict::Restless => Some(Step::Restless(name)),
            Verdict::Gone => {
                self.folders.remove(&name);
                was_given.then_some(Step::Gone(name))
            }
        }
    }

    /// Takes back that a folder had settled: it changed while it was read.
    pub(super) fn unsettle(&mut self, name: &str, now: Now) {
        if let Some(folder) = self.folders.get_mut(name) {
            folder.given = None;
            folder.since = now.tick;
            self.set_due(name, Some(now.tick.after(self.settle)));
        }
    }
}

impl Folder {
    const fn new(now: Tick) -> Self {
        Self {
            seen: None,
            since: now,
            shape_since: now,
            restless_since: None,
            given: None,
            was_given: false,
            hint: None,
            due: None,
        }
    }

    fn note(&mut self, seen: Seen, now: Now) {
        let shape = |seen| match seen {
            Some(Seen::Folder { print, .. }) => Some(print.shape),
            _ => None,
        };
        if shape(self.seen) != shape(Some(seen)) {
            self.shape_since = now.tick;
        }
        if self.seen != Some(seen) {
            self.since = now.tick;
        }
        self.seen = Some(seen);
    }

    /// Decides on what a look found.
    fn judge(&mut self, seen: Seen, now: Now, settle: Duration) -> Verdict {
        let hint = self.hint.take();
        let first = self.seen.is_none();
        self.note(seen, now);
        let quiet = now.tick.since(self.since) >= settle;
        let Seen::Folder {
            print,
            newest_change,
        } = seen
        else {
            let at_once = hint == Some(Hint::RenamedAway) || !self.was_given;
            return if quiet || at_once {
                Verdict::Gone
            } else {
                Verdict::Wait
            };
        };
        if self.given == Some(print) {
            self.restless_since = None;
            return Verdict::Known;
        }
        let came_whole = hint == Some(Hint::RenamedIn);
        // Only at the first look: later the watcher may have seen what the clock did not.
        let old = first && is_older(newest_change, now.wall, settle);
        let only_touched =
            now.tick.since(self.shape_since) >= settle.saturating_mul(TOUCHED_SETTLES);
        if came_whole || old || quiet || only_touched {
            self.given = Some(print);
            self.was_given = true;
            // A storm of touches counts anew, or each look in it would load.
            self.shape_since = now.tick;
            self.restless_since = None;
            return Verdict::Settled;
        }
        if self.is_restless(now) {
            Verdict::Restless
        } else {
            Verdict::Wait
        }
    }

    /// Whether it has just been restless for long enough to say so.
    fn is_restless(&mut self, now: Now) -> bool {
        let since = *self.restless_since.get_or_insert(now.tick);
        if now.tick.since(since) < RESTLESS {
            return false;
        }
        self.restless_since = Some(now.tick);
        true
    }
}

/// Whether `change` lies at least `settle` back, by a wall clock that can be believed: a change
/// in the future says that it cannot.
fn is_older(change: Timestamp, now: Timestamp, settle: Duration) -> bool {
    change <= now && now.since(change) >= settle
}

#[cfg(test)]
mod tests {
    use super::*;

    const SETTLE: Duration = Duration::from_secs(1);
    /// A wall clock reading, and a change long before it.
    const WALL: i64 = 1_763_712_488_123;
    const LONG_AGO: Timestamp = Timestamp(WALL - 3_600_000);

    fn at(ms: u64) -> Now {
        Now {
            tick: Tick(ms),
            wall: Timestamp(WALL + ms as i64),
        }
    }

    fn folder(whole: u64, shape: u64, newest_change: Timestamp) -> Seen {
        Seen::Folder {
            print: Print { whole, shape },
            newest_change,
        }
    }

    /// Changed just now.
    fn fresh(whole: u64, ms: u64) -> Seen {
        folder(whole, whole, at(ms).wall)
    }

    fn settled() -> Option<Step> {
        Some(Step::Settled("a".to_owned()))
    }

    fn gone() -> Option<Step> {
        Some(Step::Gone("a".to_owned()))
    }

    /// A machine that has given out folder `a` with print 1.
    fn with_a() -> Watch {
        let mut watch = Watch::new(SETTLE);
        assert_eq!(watch.look("a", folder(1, 1, LONG_AGO), at(0)), settled());
        watch
    }

    #[test]
    fn a_folder_that_has_been_quiet_for_long_is_loaded_at_the_first_look() {
        let mut watch = with_a();
        assert_eq!(watch.next_due(), None);
        assert_eq!(watch.look("a", folder(1, 1, LONG_AGO), at(30_000)), None);
    }

    #[test]
    fn a_folder_from_the_future_waits_for_a_second_look() {
        let mut watch = Watch::new(SETTLE);
        let seen = folder(1, 1, Timestamp(WALL + 1_000_000));
        assert_eq!(watch.look("a", seen, at(0)), None);
        assert_eq!(watch.look("a", seen, at(999)), None);
        assert_eq!(watch.look("a", seen, at(1000)), settled());
    }

    #[test]
    fn a_folder_that_is_being_copied_is_not_loaded_until_it_is_quiet() {
        let mut watch = Watch::new(SETTLE);
        for ms in (0..30_000).step_by(900) {
            assert_eq!(watch.look("a", fresh(ms, ms), at(ms)), None);
            assert_eq!(watch.next_due(), Some(Tick(ms + 1000)));
        }
        let last = fresh(29_700, 29_700);
        assert_eq!(watch.look("a", last, at(30_699)), None);
        assert_eq!(watch.look("a", last, at(30_700)), settled());
    }

    #[test]
    fn a_folder_that_was_renamed_in_is_loaded_at_once() {
        let mut watch = Watch::new(SETTLE);
        watch.hint("a", Hint::RenamedIn, at(5));
        watch.hint("a", Hint::Touched, at(6));
        assert_eq!(watch.due(at(14)), Vec::<String>::new());
        assert_eq!(watch.due(at(15)), ["a"]);
        assert_eq!(watch.look("a", fresh(1, 5), at(15)), settled());
    }

    #[test]
    fn one_edit_of_several_steps_settles_once() {
        let mut watch = with_a();
        // vim: backup by rename, a new file, the backup removed.
        for (ms, print) in [(10_000, 2), (10_100, 3), (10_200, 4)] {
            watch.hint("a", Hint::Touched, at(ms));
            assert_eq!(watch.look("a", fresh(print, ms), at(ms + 100)), None);
        }
        let mut steps = 0;
        for ms in (10_300..20_000).step_by(100) {
            steps += u32::from(watch.look("a", fresh(4, 10_200), at(ms)) == settled());
        }
        assert_eq!(steps, 1);
    }

    #[test]
    fn a_hint_storm_neither_multiplies_nor_puts_off_the_look() {
        let mut watch = with_a();
        for ms in 0..1000 {
            watch.hint("a", Hint::Touched, at(ms));
        }
        assert_eq!(watch.next_due(), Some(Tick(100)));
    }

    #[test]
    fn a_touch_storm_neither_starves_a_folder_nor_loads_it_at_each_look() {
        let mut watch = with_a();
        let mut loads = Vec::new();
        for ms in (10_000..35_000).step_by(100) {
            let seen = folder(ms, 7, at(ms).wall);
            if watch.look("a", seen, at(ms)).is_some() {
                loads.push(ms);
            }
        }
        assert_eq!(loads, [20_000, 30_000]);
    }

    #[test]
    fn a_folder_that_goes_while_it_is_loaded_again_is_told_of() {
        let mut watch = with_a();
        watch.unsettle("a", at(10));
        assert_eq!(watch.look("a", Seen::Nothing, at(20)), None);
        assert_eq!(watch.look("a", Seen::Nothing, at(1020)), gone());
    }

    #[test]
    fn a_folder_that_keeps_growing_is_reported_and_never_loaded() {
        let mut watch = Watch::new(SETTLE);
        let mut reports = 0;
        for ms in (0..150_000).step_by(500) {
            match watch.look("a", fresh(ms, ms), at(ms)) {
                None => {}
                Some(Step::Restless(_)) => reports += 1,
                Some(step) => panic!("{step:?} at {ms}"),
            }
        }
        assert_eq!(reports, 2);
    }

    #[test]
    fn a_folder_that_is_swapped_for_another_does_not_go() {
        let mut watch = with_a();
        watch.hint("a", Hint::Touched, at(10_000));
        assert_eq!(watch.look("a", Seen::Nothing, at(10_100)), None);
        watch.hint("a", Hint::RenamedIn, at(10_200));
        assert_eq!(watch.look("a", fresh(2, 10_000), at(10_200)), settled());
    }

    #[test]
    fn a_folder_that_stays_away_goes_once() {
        let mut watch = with_a();
        assert_eq!(watch.look("a", Seen::Nothing, at(10_000)), None);
        assert_eq!(watch.next_due(), Some(Tick(11_000)));
        assert_eq!(watch.look("a", Seen::Nothing, at(11_000)), gone());
        assert_eq!(watch.look("a", Seen::Nothing, at(12_000)), None);
        assert_eq!(watch.known().count(), 0);
    }

    #[test]
    fn a_folder_that_was_renamed_to_another_name_goes_at_once() {
        let mut watch = with_a();
        watch.hint("a", Hint::RenamedAway, at(10_000));
        assert_eq!(watch.look("a", Seen::Nothing, at(10_000)), gone());
    }

    #[test]
    fn a_folder_that_changed_while_it_was_read_settles_again() {
        let mut watch = with_a();
        watch.unsettle("a", at(10));
        assert_eq!(watch.look("a", folder(1, 1, LONG_AGO), at(500)), None);
        assert_eq!(watch.look("a", folder(1, 1, LONG_AGO), at(1010)), settled());
    }
}
