//! The way out: runs end by their `on_stop`, events drain, the program leaves.
//!
//! Each phase has an end that does not depend on anybody's good will. Knows no signal numbers.

use std::time::Duration;

use crate::clock::Tick;
use crate::event::RunId;
use crate::job::AtEnd;
use crate::runner::Order;
use crate::schedule::scheduler::Input;
use crate::supervisor::Effect;
use crate::supervisor::Exit;
use crate::supervisor::Live;
use crate::supervisor::Now;
use crate::supervisor::Say;
use crate::supervisor::Supervisor;

/// What a run may take at a stop beyond its own limits: to be swept, and to have its last events
/// captured by a queue that may be nearly full. Beyond it the run is given up, and found as
/// interrupted by the next start.
pub(super) const STOP_SLACK: Duration = Duration::from_secs(15);

/// How far the stop is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    /// There is none.
    Running,
    /// No new runs; the open ones come to their end.
    Stopping {
        /// When the last of them has used up its own limits.
        over_at: Tick,
    },
    /// Waiting for ACKs.
    Draining {
        /// How many runs were given up though the queue would have taken their ends.
        abandoned: usize,
    },
    /// The exit has been ordered.
    Over,
}

impl Supervisor {
    /// A signal to stop: the first stops, any further one means now.
    pub(super) fn terminate(&mut self, now: Now, effects: &mut Vec<Effect>) {
        match self.phase {
            Phase::Running => self.stop(now, effects),
            Phase::Stopping { .. } | Phase::Draining { .. } => {
                self.kill_all(effects);
                self.leave(Exit::Now, effects);
            }
            Phase::Over => {}
        }
    }

    /// Begins the stop; has no effect when it has begun.
    pub(super) fn stop(&mut self, now: Now, effects: &mut Vec<Effect>) {
        if self.phase != Phase::Running {
            return;
        }
        effects.push(Effect::Say(Say::Stopping {
            runs: self.runs.len(),
        }));
        self.schedule(now, Input::Stop, effects);
        self.once_stop();
        self.expectations.stop();
        let mut longest = Duration::ZERO;
        let mut terminate = Vec::new();
        for (run, live) in &self.runs {
            if live.task.script.on_stop == AtEnd::Terminate || live.task.is_endless() {
                terminate.push(run.clone());
            }
            longest = longest.max(allowance(live, now));
        }
        for run in in_order(terminate) {
            self.order(&run, Order::Terminate, effects);
        }
        self.phase = Phase::Stopping {
            over_at: now.tick.after(longest),
        };
    }

    /// Takes the next step of a stop when its time has come.
    pub(super) fn stop_go_on(&mut self, now: Now, effects: &mut Vec<Effect>) {
        let Phase::Stopping { over_at } = self.phase else {
            return;
        };
        let give_up_at = self.give_up_at(over_at);
        let open = self.runs.len() + self.closing.len();
        if open > 0 && now.tick < give_up_at {
            return;
        }
        if open > 0 {
            self.kill_all(effects);
            effects.push(Effect::Say(Say::Abandoned { runs: open }));
        }
        // What a queue that is full could not take was never captured: the stop has kept its word.
        let abandoned = if self.pressure.is_stuck() { 0 } else { open };
        self.phase = Phase::Draining { abandoned };
        self.heartbeat_stopped(effects);
        effects.push(Effect::BeginDrain);
    }

    /// When open runs are given up. A queue that takes nothing will not take their last events
    /// within the slack either: with the receiver away that is a matter of hours.
    fn give_up_at(&self, over_at: Tick) -> Tick {
        if self.pressure.is_stuck() {
            over_at
        } else {
            over_at.after(STOP_SLACK)
        }
    }

    /// The drain is over: leave.
    pub(super) fn drained(&mut self, waiting_events: u64, effects: &mut Vec<Effect>) {
        let Phase::Draining { abandoned } = self.phase else {
            return;
        };
        let exit = match &self.once {
            _ if abandoned > 0 => Exit::Failed,
            None => Exit::Clean,
            Some(once) => once.verdict(waiting_events),
        };
        self.leave(exit, effects);
    }

    /// Moments at which [`crate::supervisor::Note::Clock`] must not be late.
    pub(super) fn deadlines(&self) -> impl Iterator<Item = Tick> {
        let stop = match self.phase {
            Phase::Stopping { over_at } => Some(self.give_up_at(over_at)),
            Phase::Running | Phase::Draining { .. } | Phase::Over => None,
        };
        let once = self.once.as_ref();
        stop.into_iter()
            .chain(once.into_iter().flat_map(|once| once.deadlines()))
    }

    fn kill_all(&mut self, effects: &mut Vec<Effect>) {
        for run in in_order(self.runs.keys().cloned().collect()) {
            self.order(&run, Order::Kill, effects);
        }
    }

    fn leave(&mut self, exit: Exit, effects: &mut Vec<Effect>) {
        self.phase = Phase::Over;
        effects.push(Effect::Exit(exit));
    }
}

/// How long a run may still take by its own limits, from now on.
fn allowance(live: &Live, now: Now) -> Duration {
    let script = &live.task.script;
    match (script.on_stop, script.timeout) {
        (AtEnd::Finish, Some(timeout)) if live.ordered.is_none() => timeout
            .saturating_sub(now.tick.since(live.started))
            .saturating_add(script.kill_grace),
        _ => script.kill_grace,
    }
}

fn in_order(mut runs: Vec<RunId>) -> Vec<RunId> {
    runs.sort();
    runs
}
