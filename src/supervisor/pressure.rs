//! Why schedules may have to wait: the queue is getting full or cannot be written, or no output has
//! answered yet.
//!
//! Must never know what a job does about it: that is its policy.

use crate::event::Notice;
use crate::schedule::scheduler::Hold;
use crate::schedule::scheduler::Input;
use crate::supervisor::Effect;
use crate::supervisor::Now;
use crate::supervisor::QueueLevel;
use crate::supervisor::Say;
use crate::supervisor::Supervisor;

/// Schedules pause when the queue is this full: the rest is room for the runs that go on.
pub const HOLD_PERCENT: u64 = 80;

/// Paused schedules resume below this; the gap keeps them from flapping with every window ACKed.
pub const FREE_PERCENT: u64 = 70;

const _: () = assert!(FREE_PERCENT < HOLD_PERCENT && HOLD_PERCENT < 100);

/// What stands against starting runs.
#[derive(Debug, Default)]
pub(super) struct Pressure {
    /// `require_output`, and none has answered yet.
    unanswered: bool,
    /// Why the queue takes nothing.
    broken: Option<String>,
    /// How full the queue is, in percent, once that is too much.
    full: Option<u64>,
}

impl Pressure {
    pub(super) fn new(require_output: bool) -> Self {
        Self {
            unanswered: require_output,
            ..Self::default()
        }
    }

    /// Whether the queue takes nothing at the moment.
    pub(super) const fn is_stuck(&self) -> bool {
        self.broken.is_some()
    }

    /// Why schedules are paused, in words.
    pub(super) fn paused(&self) -> Option<String> {
        if let Some(why) = &self.broken {
            return Some(format!(
                "schedules are paused, and scripts wait with what they print: {why}"
            ));
        }
        if let Some(percent) = self.full {
            return Some(format!(
                "schedules are paused: the queue is {percent} % full; they resume below {FREE_PERCENT} %"
            ));
        }
        self.unanswered.then(|| {
            "schedules wait: [startup] require_output = true, and no output has answered yet"
                .to_owned()
        })
    }

    /// What it means to the scheduler.
    pub(super) fn hold(&self) -> Hold {
        if self.broken.is_some() || self.unanswered {
            Hold::Held
        } else if self.full.is_some() {
            Hold::Pressed
        } else {
            Hold::Free
        }
    }

    fn take(&mut self, level: &QueueLevel) {
        let percent = level
            .bytes
            .saturating_mul(100)
            .checked_div(level.max_bytes)
            .unwrap_or(0);
        let least = match self.full {
            None => HOLD_PERCENT,
            Some(_) => FREE_PERCENT,
        };
        self.full = (percent >= least).then_some(percent);
        self.broken.clone_from(&level.broken);
    }
}

impl Supervisor {
    /// How full the queue is.
    pub(super) fn level(&mut self, now: Now, level: &QueueLevel, effects: &mut Vec<Effect>) {
        let was_paused = self.pressure.paused().is_some();
        let (held, full) = (self.pressure.hold(), self.pressure.full);
        self.pressure.take(level);
        let paused = self.pressure.paused();
        match (was_paused, &paused) {
            (false, Some(reason)) => effects.push(Effect::Say(Say::Paused {
                reason: reason.clone(),
            })),
            (true, None) => effects.push(Effect::Say(Say::Resumed)),
            (true, Some(_)) | (false, None) => {}
        }
        match (full, self.pressure.full) {
            (None, Some(percent)) => effects.push(Effect::Tell(Notice::Pressure { percent })),
            (Some(_), None) => effects.push(Effect::Tell(Notice::PressureOver)),
            _ => {}
        }
        self.hold_if_changed(now, held, effects);
    }

    /// An output has answered for the first time.
    pub(super) fn output_answered(&mut self, now: Now, effects: &mut Vec<Effect>) {
        let held = self.pressure.hold();
        if std::mem::take(&mut self.pressure.unanswered) && self.pressure.paused().is_none() {
            effects.push(Effect::Say(Say::Resumed));
        }
        self.hold_if_changed(now, held, effects);
    }

    /// Tells the scheduler, unless all is as before.
    pub(super) fn hold_if_changed(&mut self, now: Now, before: Hold, effects: &mut Vec<Effect>) {
        let on = self.pressure.hold();
        if on != before {
            let now_wall = now.wall;
            self.schedule(now, Input::Hold { on, now: now_wall }, effects);
        }
    }
}
