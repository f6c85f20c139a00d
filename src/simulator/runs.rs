//! Runs without processes: the real run machine and the real events of a script that chance wrote.

use std::time::Duration;

use super::outside::Outside;
use crate::clock::Tick;
use crate::event::Stream;
use crate::event::envelope::Identity;
use crate::event::envelope::Labels;
use crate::event::envelope::Shape;
use crate::queue::Fact;
use crate::queue::Portion;
use crate::run;
use crate::run::Exit;
use crate::run::Order;
use crate::run::Outcome;
use crate::run::Run;
use crate::runner::Ended;
use crate::runner::Spec;
use crate::source::gather::End;
use crate::source::gather::Gather;
use crate::source::gather::Lane;
use crate::source::gather::Lanes;
use crate::source::gather::Limits;
use crate::source::lines::Line;
use crate::units::Timestamp;

/// Portions of a run that the queue has not captured yet, as in the runner.
const UNCAPTURED_MAX: u32 = 4;

/// Small, so that portions are many.
pub(super) const LIMITS: Limits = Limits {
    batch_events: 16,
    batch_bytes: 8 << 10,
};

pub(super) fn identity() -> Identity {
    Identity {
        host_name: "host".to_owned(),
        agent_id: "agent".to_owned(),
        agent_ephemeral_id: "life".to_owned(),
        shape: Shape::Ecs,
    }
}

/// What a script will do.
#[derive(Debug)]
struct Script {
    lines: u64,
    exit: Exit,
    /// Ignores TERM.
    stubborn: bool,
    alive: bool,
    /// When it does the next thing.
    next: Tick,
}

/// One run.
#[derive(Debug)]
pub(super) struct Running {
    pub(super) spec: Spec,
    machine: Run,
    gather: Gather,
    script: Option<Script>,
    timer: Option<(Tick, run::Input)>,
    uncaptured: u32,
    started_at: Timestamp,
    started: Tick,
    /// How often the clock had been set back when it was due.
    set_back: u32,
    ended: Option<(Outcome, Option<Exit>, Timestamp)>,
}

impl Running {
    /// A run, and the fire that is to be recorded.
    pub(super) fn new(spec: Spec, out: &Outside) -> (Self, Portion) {
        let job = &spec.job;
        let labels = Labels {
            job: &job.name,
            run: &spec.run,
            generation: &job.generation,
            trigger: spec.trigger.name(),
            scheduled_at: spec.scheduled_at,
            tags: &job.tags,
            fields: &job.fields,
        };
        let lanes = Lanes {
            stdout: Lane::Text,
            stderr: Lane::Text,
        };
        let mut gather = Gather::new(LIMITS, job.route.clone(), &identity(), &labels, lanes);
        gather.run_started(out.now.wall, None);
        let mut portion = gather.take();
        portion.facts.push(Fact::Fired {
            job: job.name.clone(),
            run: spec.run.clone(),
            generation: job.generation.clone(),
            trigger: spec.trigger,
            scheduled_at: spec.scheduled_at.map(|at| at.0),
            outputs: job.route.outputs().to_vec(),
            at: out.now.wall.0,
        });
        let machine = Run::new(spec.task.script.timeout, spec.task.script.kill_grace);
        let run = Self {
            machine,
            gather,
            script: None,
            timer: None,
            uncaptured: 1,
            started_at: out.now.wall,
            started: out.now.tick,
            // What waited for its turn while the clock was set back was due before that.
            set_back: out.oracle.set_back
                - u32::from(spec.scheduled_at.is_some_and(|at| at > out.now.wall)),
            ended: None,
            spec,
        };
        (run, portion)
    }

    /// When something is to be done for it.
    pub(super) fn wake(&self) -> Option<Tick> {
        let script = self.script.as_ref().filter(|script| {
            script.alive && (self.uncaptured < UNCAPTURED_MAX || script.lines == 0)
        });
        let next = script.map(|script| script.next);
        [next, self.timer.map(|(at, _)| at)]
            .into_iter()
            .flatten()
            .min()
    }

    /// Does what is due; gives what is to be captured.
    pub(super) fn go_on(&mut self, out: &mut Outside) -> Vec<Portion> {
        let now = out.now.tick;
        let mut portions = Vec::new();
        if let Some((at, input)) = self.timer
            && at <= now
        {
            self.timer = None;
            self.tell(input, out, &mut portions);
            return portions;
        }
        let blocked = self.uncaptured >= UNCAPTURED_MAX;
        let Some(script) = self.script.as_mut().filter(|script| script.alive) else {
            return portions;
        };
        if script.next > now || (blocked && script.lines > 0) {
            return portions;
        }
        script.next = out.soon(3_000);
        if script.lines == 0 {
            let exit = script.exit;
            self.dies(exit, out, &mut portions);
            return portions;
        }
        let some = 1 + out.chance.below(script.lines.min(12));
        script.lines -= some;
        for n in 0..some {
            let stream = match out.chance.below(4) {
                0 => Stream::Stderr,
                _ => Stream::Stdout,
            };
            let text = format!("line {n} {:0width$}", 0, width = out.chance.index(900));
            let line = Line {
                text: text.as_bytes(),
                skipped: 0,
                ending: 1,
                lines: 1,
                is_crowded: false,
            };
            if self.gather.line(stream, out.now.wall, line).is_break() {
                self.hand_over(&mut portions);
            }
        }
        if out.chance.one_in(2) {
            self.hand_over(&mut portions);
        }
        portions
    }

    fn hand_over(&mut self, portions: &mut Vec<Portion>) {
        if !self.gather.is_empty() {
            self.uncaptured += 1;
            portions.push(self.gather.take());
        }
    }

    fn dies(&mut self, exit: Exit, out: &mut Outside, portions: &mut Vec<Portion>) {
        if let Some(script) = &mut self.script {
            script.alive = false;
        }
        self.hand_over(portions);
        for input in [
            run::Input::Exited(exit),
            run::Input::PipesClosed,
            run::Input::Gone,
        ] {
            self.tell(input, out, portions);
        }
    }

    /// A portion of it is captured; gives the end of the run when that was the last.
    pub(super) fn captured(&mut self, out: &mut Outside) -> (Vec<Portion>, Option<Ended>) {
        self.uncaptured -= 1;
        let mut portions = Vec::new();
        self.tell(run::Input::Recorded, out, &mut portions);
        let ended = self
            .ended
            .filter(|_| self.uncaptured == 0 && portions.is_empty());
        let ended = ended.map(|(outcome, exit, at)| Ended {
            run: self.spec.run.clone(),
            job: self.spec.job.clone(),
            outcome,
            exit,
            delivery: None,
            reason: None,
            started_at: self.started_at,
            at,
            took: out.now.tick.since(self.started),
        });
        (portions, ended)
    }

    /// Somebody wants it to end.
    pub(super) fn order(&mut self, order: Order, out: &mut Outside) -> Vec<Portion> {
        let mut portions = Vec::new();
        self.tell(run::Input::Order(order), out, &mut portions);
        portions
    }

    fn tell(&mut self, input: run::Input, out: &mut Outside, portions: &mut Vec<Portion>) {
        for effect in self.machine.step(input) {
            let timer = |after: Duration, input| Some((out.now.tick.after(after), input));
            match effect {
                run::Effect::Spawn => self.spawn(out, portions),
                run::Effect::Term => {
                    let stubborn = self.script.as_ref().is_some_and(|script| script.stubborn);
                    if !stubborn && self.is_alive() {
                        self.dies(Exit::Signal(15), out, portions);
                    }
                }
                run::Effect::Kill => {
                    if self.is_alive() {
                        self.dies(Exit::Signal(9), out, portions);
                    }
                }
                run::Effect::StartTimeout(after) => self.timer = timer(after, run::Input::Timeout),
                run::Effect::StartGrace(after) | run::Effect::StartDrain(after) => {
                    self.timer = timer(after, run::Input::GraceOver);
                }
                run::Effect::Finish(outcome, exit) => self.finish(outcome, exit, out, portions),
            }
        }
    }

    fn is_alive(&self) -> bool {
        self.script.as_ref().is_some_and(|script| script.alive)
    }

    fn spawn(&mut self, out: &mut Outside, portions: &mut Vec<Portion>) {
        let tick = self.spec.scheduled_at.map(|at| at.0);
        let job = &self.spec.job.name;
        out.oracle.spawned(job, &self.spec.run, tick, self.set_back);
        if out.chance.one_in(40) {
            self.tell(run::Input::CouldNotStart, out, portions);
            return;
        }
        let exit = match out.chance.below(6) {
            0 => Exit::Code(3),
            1 => Exit::Signal(11),
            _ => Exit::Code(0),
        };
        self.script = Some(Script {
            lines: match out.chance.below(8) {
                0 => 0,
                1 => out.chance.below(300),
                _ => out.chance.below(20),
            },
            exit,
            stubborn: out.chance.one_in(3),
            alive: true,
            next: out.soon(2_000),
        });
        self.tell(run::Input::Started, out, portions);
    }

    fn finish(
        &mut self,
        outcome: Outcome,
        exit: Option<Exit>,
        out: &Outside,
        portions: &mut Vec<Portion>,
    ) {
        let at = out.now.wall;
        self.timer = None;
        self.gather.run_ended(&End {
            started_at: self.started_at,
            at,
            took: out.now.tick.since(self.started),
            outcome,
            exit,
            pid: None,
            reason: None,
        });
        let mut portion = self.gather.take();
        portion.facts.push(Fact::Ended {
            job: self.spec.job.name.clone(),
            run: self.spec.run.clone(),
            generation: self.spec.job.generation.clone(),
            trigger: self.spec.trigger,
            outcome,
            started_at: self.started_at.0,
            at: at.0,
        });
        self.uncaptured += 1;
        portions.push(portion);
        self.ended = Some((outcome, exit, at));
    }
}
