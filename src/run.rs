//! A run as a pure machine: waiting, running, terminating, ended.
//!
//! Input in, effects out; late or repeated input has no effect, by design. Must never know
//! a clock, a process or a file: its driver is `runner`.

use std::time::Duration;

use serde::Deserialize;
use serde::Serialize;

/// Why a run was started; the value of `job.trigger`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Trigger {
    /// Its schedule said so.
    Schedule,
    /// A kept-running script ended and was started again.
    Restart,
    /// A person asked for it.
    Manual,
    /// Its modules are installed.
    Modules,
    /// Its `first_run` has not succeeded yet.
    FirstRun,
    /// Its `startup` has not succeeded since the daemon started or the job changed.
    Startup,
}

impl Trigger {
    /// The part of the job's life that such a run is.
    #[must_use]
    pub const fn phase(self) -> Phase {
        match self {
            Self::Schedule | Self::Restart | Self::Manual => Phase::Run,
            Self::Modules => Phase::Modules,
            Self::FirstRun => Phase::FirstRun,
            Self::Startup => Phase::Startup,
        }
    }

    /// The value of `job.trigger`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Schedule => "schedule",
            Self::Restart => "restart",
            Self::Manual => "manual",
            Self::Modules => "modules",
            Self::FirstRun => "first_run",
            Self::Startup => "startup",
        }
    }
}

/// Which part of a job's life a run is. Each must have succeeded before the next begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// What its scripts need is installed.
    Modules,
    /// What must have succeeded once before anything else of it is run.
    FirstRun,
    /// What must have succeeded since the daemon started and the job last changed.
    Startup,
    /// What the schedule is for.
    Run,
}

impl Phase {
    /// What stands before a job's schedule, in order.
    pub const STEPS: [Self; 3] = [Self::Modules, Self::FirstRun, Self::Startup];

    /// The name in results, status and events: that of its trigger, but for the schedule's runs.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Modules => "modules",
            Self::FirstRun => "first_run",
            Self::Startup => "startup",
            Self::Run => "run",
        }
    }

    /// Those whose output may go anywhere but to the results, with their names.
    pub const NAMES: [(&'static str, Self); 3] = [
        ("first_run", Self::FirstRun),
        ("startup", Self::Startup),
        ("run", Self::Run),
    ];
}

/// The one way in which a started run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// Exit code 0.
    Success,
    /// Another exit code.
    Failed,
    /// Ended by a signal that we did not send (also when its shim was killed with it).
    Signalled,
    /// Ended by the kernel since its run used more memory than `limits.memory` allows.
    Oom,
    /// Ran longer than `timeout` and was told to end, whatever its exit code then was.
    TimedOut,
    /// Told to end for another reason (stop of the daemon, removal of the job, a person), whatever
    /// its exit code then was; or not wanted any more before it was started.
    Killed,
    /// The daemon died while it ran; found at the next start.
    Interrupted,
    /// It could not be started.
    CouldNotStart,
}

impl Exit {
    /// The exit code, or the signal that ended it.
    #[must_use]
    pub const fn code_or_signal(self) -> (Option<i32>, Option<i32>) {
        match self {
            Self::Code(code) => (Some(code), None),
            Self::Signal(signal) => (None, Some(signal)),
            Self::OutOfMemory => (None, Some(9)),
        }
    }
}

impl Outcome {
    /// The name in results, status and events.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Success => "success",
            Self::Failed => "failed",
            Self::Signalled => "signalled",
            Self::Oom => "oom",
            Self::TimedOut => "timed_out",
            Self::Killed => "killed",
            Self::Interrupted => "interrupted",
            Self::CouldNotStart => "could_not_start",
        }
    }

    /// Whether the run came to an end of its own, by its timeout at the latest, and not because the
    /// daemon stopped or died: a job that runs once has then done so.
    #[must_use]
    pub const fn is_own_end(self) -> bool {
        !matches!(self, Self::Killed | Self::Interrupted)
    }
}

/// How the script's own process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// With this exit code.
    Code(i32),
    /// By this signal.
    Signal(i32),
    /// By signal 9 of the kernel, since the run's cgroup was out of memory.
    OutOfMemory,
}

/// What a person or the daemon wants of a running run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// TERM, grace, KILL.
    Terminate,
    /// KILL now.
    Kill,
}

/// How long a run waits for the end of a script that was KILLed, and for pipes that nothing of
/// the script holds any more. Only a process inside the kernel (a dead network disk) takes
/// longer; the run then ends without it, and its shim goes on trying. Longer than the shim's sweep.
const LAST_WAIT: Duration = Duration::from_secs(10);

/// What a run can be told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Input {
    /// The fire is durable: the script may be started.
    Recorded,
    /// The fire could not be recorded: the script must not be started.
    Unrecorded,
    /// The script runs.
    Started,
    /// There is no script.
    CouldNotStart,
    /// The script's own process has ended.
    Exited(Exit),
    /// Both pipes have been read to their ends.
    PipesClosed,
    /// Nothing of the script is left.
    Gone,
    /// The time of [`Effect::StartTimeout`] has passed.
    Timeout,
    /// The time of [`Effect::StartGrace`] or [`Effect::StartDrain`] has passed.
    GraceOver,
    /// Somebody wants it to end.
    Order(Order),
}

/// What a run wants done. At most one of its timers runs: starting one ends the one before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    /// Start the script.
    Spawn,
    /// TERM to its process group.
    Term,
    /// KILL to all that is left of it.
    Kill,
    /// Tell [`Input::Timeout`] after this long; stands still while the script's output waits for us.
    StartTimeout(Duration),
    /// Tell [`Input::GraceOver`] after this long, whatever else happens.
    StartGrace(Duration),
    /// Tell [`Input::GraceOver`] after this long; stands still while the output waits for us.
    StartDrain(Duration),
    /// The run is over: close the pipes, drop the child, record the end.
    Finish(Outcome, Option<Exit>),
}

/// Why a running script was told to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Why {
    Timeout,
    Order,
}

/// Where a run stands. "Exited" and "pipes closed" are two facts: a script may close its pipes
/// and run on, and a process that it left behind may hold them when it has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Its fire is being recorded; `ordered`: it is not wanted any more.
    Waiting { ordered: bool },
    /// The script runs, or is about to.
    Running { pipes_closed: bool },
    /// The script was told to end.
    Terminating {
        why: Why,
        killed: bool,
        pipes_closed: bool,
    },
    /// The script has ended, its pipes have not.
    Draining {
        outcome: Outcome,
        exit: Exit,
        killed: bool,
    },
    /// Both have; what the script left is being killed.
    Sweeping { outcome: Outcome, exit: Exit },
    /// Over.
    Ended,
}

/// One run's state.
#[derive(Debug)]
pub struct Run {
    state: State,
    timeout: Option<Duration>,
    grace: Duration,
    /// Nothing of the script is left (once it has exited).
    gone: bool,
}

impl Run {
    /// A run whose fire is about to be recorded. `timeout` is the longest time it may run,
    /// `grace` the time between TERM and KILL and how long pipes may outlive the script.
    #[must_use]
    pub const fn new(timeout: Option<Duration>, grace: Duration) -> Self {
        Self {
            state: State::Waiting { ordered: false },
            timeout,
            grace,
            gone: false,
        }
    }

    /// Takes an input; gives what is to be done, in this order. Input that comes late, twice or
    /// out of place has no effect.
    pub fn step(&mut self, input: Input) -> Vec<Effect> {
        if input == Input::Gone {
            self.gone = true;
        }
        match self.state {
            State::Waiting { ordered } => self.waiting(ordered, input),
            State::Running { pipes_closed } => self.running(pipes_closed, input),
            State::Terminating {
                why,
                killed,
                pipes_closed,
            } => self.terminating(why, killed, pipes_closed, input),
            State::Draining {
                outcome,
                exit,
                killed,
            } => self.draining(outcome, exit, killed, input),
            State::Sweeping { outcome, exit } => match input {
                Input::Gone | Input::GraceOver => self.finish(outcome, Some(exit)),
                _ => Vec::new(),
            },
            State::Ended => Vec::new(),
        }
    }

    fn waiting(&mut self, ordered: bool, input: Input) -> Vec<Effect> {
        match input {
            Input::Recorded if ordered => self.finish(Outcome::Killed, None),
            Input::Recorded => {
                self.state = State::Running {
                    pipes_closed: false,
                };
                vec![Effect::Spawn]
            }
            Input::Unrecorded => self.finish(Outcome::CouldNotStart, None),
            Input::Order(_) => {
                self.state = State::Waiting { ordered: true };
                Vec::new()
            }
            _ => Vec::new(),
        }
    }

    fn running(&mut self, pipes_closed: bool, input: Input) -> Vec<Effect> {
        match input {
            Input::Started => self.timeout.map(Effect::StartTimeout).into_iter().collect(),
            Input::CouldNotStart => self.finish(Outcome::CouldNotStart, None),
            Input::PipesClosed => {
                self.state = State::Running { pipes_closed: true };
                Vec::new()
            }
            Input::Exited(exit) => {
                let outcome = match exit {
                    Exit::Code(0) => Outcome::Success,
                    Exit::Code(_) => Outcome::Failed,
                    Exit::Signal(_) => Outcome::Signalled,
                    Exit::OutOfMemory => Outcome::Oom,
                };
                self.exited(outcome, exit, pipes_closed, false)
            }
            Input::Timeout => self.terminate(Why::Timeout, pipes_closed),
            Input::Order(Order::Terminate) => self.terminate(Why::Order, pipes_closed),
            Input::Order(Order::Kill) => self.kill(Why::Order, pipes_closed),
            Input::Recorded | Input::Unrecorded | Input::Gone | Input::GraceOver => Vec::new(),
        }
    }

    fn terminating(
        &mut self,
        why: Why,
        killed: bool,
        pipes_closed: bool,
        input: Input,
    ) -> Vec<Effect> {
        let outcome = match why {
            Why::Timeout => Outcome::TimedOut,
            Why::Order => Outcome::Killed,
        };
        match input {
            Input::CouldNotStart => self.finish(Outcome::CouldNotStart, None),
            Input::PipesClosed => {
                self.state = State::Terminating {
                    why,
                    killed,
                    pipes_closed: true,
                };
                Vec::new()
            }
            Input::Exited(exit) => self.exited(outcome, exit, pipes_closed, killed),
            Input::GraceOver if killed => self.finish(outcome, None),
            Input::GraceOver | Input::Order(Order::Kill) if !killed => self.kill(why, pipes_closed),
            _ => Vec::new(),
        }
    }

    fn draining(
        &mut self,
        outcome: Outcome,
        exit: Exit,
        killed: bool,
        input: Input,
    ) -> Vec<Effect> {
        match input {
            Input::PipesClosed => self.sweep(outcome, exit, killed),
            Input::GraceOver if killed || self.gone => self.finish(outcome, Some(exit)),
            Input::GraceOver | Input::Order(Order::Kill) if !killed => {
                self.state = State::Draining {
                    outcome,
                    exit,
                    killed: true,
                };
                vec![Effect::Kill, Effect::StartDrain(LAST_WAIT)]
            }
            _ => Vec::new(),
        }
    }

    fn terminate(&mut self, why: Why, pipes_closed: bool) -> Vec<Effect> {
        self.state = State::Terminating {
            why,
            killed: false,
            pipes_closed,
        };
        vec![Effect::Term, Effect::StartGrace(self.grace)]
    }

    fn kill(&mut self, why: Why, pipes_closed: bool) -> Vec<Effect> {
        self.state = State::Terminating {
            why,
            killed: true,
            pipes_closed,
        };
        vec![Effect::Kill, Effect::StartGrace(LAST_WAIT)]
    }

    fn exited(
        &mut self,
        outcome: Outcome,
        exit: Exit,
        pipes_closed: bool,
        killed: bool,
    ) -> Vec<Effect> {
        if pipes_closed {
            return self.sweep(outcome, exit, killed);
        }
        self.state = State::Draining {
            outcome,
            exit,
            killed,
        };
        let wait = if killed { LAST_WAIT } else { self.grace };
        vec![Effect::StartDrain(wait)]
    }

    fn sweep(&mut self, outcome: Outcome, exit: Exit, killed: bool) -> Vec<Effect> {
        if self.gone {
            return self.finish(outcome, Some(exit));
        }
        self.state = State::Sweeping { outcome, exit };
        let mut effects = vec![Effect::StartGrace(LAST_WAIT)];
        if !killed {
            effects.insert(0, Effect::Kill);
        }
        effects
    }

    fn finish(&mut self, outcome: Outcome, exit: Option<Exit>) -> Vec<Effect> {
        self.state = State::Ended;
        vec![Effect::Finish(outcome, exit)]
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::*;

    const TIMEOUT: Duration = Duration::from_secs(60);
    const GRACE: Duration = Duration::from_secs(3);

    /// The inputs that lead to each state, by the letter that the table calls it.
    const WAYS: [(char, &[Input]); 10] = [
        ('W', &[]),
        ('w', &[Input::Order(Order::Terminate)]),
        ('R', &[Input::Recorded]),
        ('r', &[Input::Recorded, Input::PipesClosed]),
        ('T', &[Input::Recorded, Input::Timeout]),
        ('t', &[Input::Recorded, Input::Timeout, Input::PipesClosed]),
        ('K', &[Input::Recorded, Input::Order(Order::Kill)]),
        ('D', &[Input::Recorded, Input::Exited(Exit::Code(0))]),
        (
            'd',
            &[
                Input::Recorded,
                Input::Exited(Exit::Code(0)),
                Input::Order(Order::Kill),
            ],
        ),
        (
            'S',
            &[
                Input::Recorded,
                Input::Exited(Exit::Code(0)),
                Input::PipesClosed,
            ],
        ),
    ];

    /// What each input does in each state: `.` nothing, else the next state and the effects.
    /// Effects: spawn, term, kill, `timeout`, `grace` (ours), `last` (grace of LAST_WAIT),
    /// `drain` (ours), `lastdrain`, or the outcome with which it finishes.
    const TABLE: &[(Input, &str)] = &[
        (
            Input::Recorded,
            "W R spawn|w E killed|R .|r .|T .|t .|K .|D .|d .|S .",
        ),
        (
            Input::Unrecorded,
            "W E could_not_start|w E could_not_start|R .|r .|T .|t .|K .|D .|d .|S .",
        ),
        (
            Input::Started,
            "W .|w .|R R timeout|r r timeout|T .|t .|K .|D .|d .|S .",
        ),
        (
            Input::CouldNotStart,
            "W .|w .|R E could_not_start|r E could_not_start|T E could_not_start|t E could_not_start|K E could_not_start|D .|d .|S .",
        ),
        (
            Input::Exited(Exit::Code(0)),
            "W .|w .|R D drain|r S kill last|T D drain|t S kill last|K d lastdrain|D .|d .|S .",
        ),
        (
            Input::PipesClosed,
            "W .|w .|R r|r .|T t|t .|K k|D S kill last|d S last|S .",
        ),
        (
            Input::Gone,
            "W .|w .|R .|r .|T .|t .|K .|D .|d .|S E success",
        ),
        (
            Input::Timeout,
            "W .|w .|R T term grace|r t term grace|T .|t .|K .|D .|d .|S .",
        ),
        (
            Input::GraceOver,
            "W .|w .|R .|r .|T K kill last|t k kill last|K E killed|D d kill lastdrain|d E success|S E success",
        ),
        (
            Input::Order(Order::Terminate),
            "W w|w .|R T term grace|r t term grace|T .|t .|K .|D .|d .|S .",
        ),
        (
            Input::Order(Order::Kill),
            "W w|w .|R K kill last|r k kill last|T K kill last|t k kill last|K .|D d kill lastdrain|d .|S .",
        ),
    ];

    fn run_with(inputs: &[Input]) -> Run {
        let mut run = Run::new(Some(TIMEOUT), GRACE);
        for input in inputs {
            run.step(*input);
        }
        run
    }

    fn letter(state: State) -> char {
        match state {
            State::Waiting { ordered: false } => 'W',
            State::Waiting { ordered: true } => 'w',
            State::Running {
                pipes_closed: false,
            } => 'R',
            State::Running { pipes_closed: true } => 'r',
            State::Terminating {
                killed: false,
                pipes_closed: false,
                ..
            } => 'T',
            State::Terminating {
                killed: false,
                pipes_closed: true,
                ..
            } => 't',
            State::Terminating {
                killed: true,
                pipes_closed: false,
                ..
            } => 'K',
            State::Terminating {
                killed: true,
                pipes_closed: true,
                ..
            } => 'k',
            State::Draining { killed: false, .. } => 'D',
            State::Draining { killed: true, .. } => 'd',
            State::Sweeping { .. } => 'S',
            State::Ended => 'E',
        }
    }

    fn words(effects: &[Effect]) -> String {
        let word = |effect: &Effect| match *effect {
            Effect::Spawn => "spawn",
            Effect::Term => "term",
            Effect::Kill => "kill",
            Effect::StartTimeout(TIMEOUT) => "timeout",
            Effect::StartGrace(GRACE) => "grace",
            Effect::StartGrace(LAST_WAIT) => "last",
            Effect::StartDrain(GRACE) => "drain",
            Effect::StartDrain(LAST_WAIT) => "lastdrain",
            Effect::Finish(outcome, _) => outcome.name(),
            _ => "unexpected",
        };
        effects.iter().map(word).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn every_input_has_a_written_answer_in_every_state() {
        for (input, cells) in TABLE {
            let cells: Vec<&str> = cells.split('|').collect();
            assert_eq!(cells.len(), WAYS.len());
            for ((name, way), cell) in WAYS.iter().zip(cells) {
                let mut run = run_with(way);
                assert_eq!(letter(run.state), *name, "the way to {name}");
                let before = run.state;
                let done = words(&run.step(*input));
                let got = if run.state == before && done.is_empty() {
                    format!("{name} .")
                } else {
                    format!("{name} {} {done}", letter(run.state))
                };
                assert_eq!(got.trim(), cell, "{input:?} in {name}");
            }
            let mut over = run_with(&[Input::Unrecorded]);
            assert!(over.step(*input).is_empty() && over.state == State::Ended);
        }
    }

    #[test]
    fn an_outcome_says_who_ended_the_script() {
        let ends = [
            (Input::Started, Exit::Code(0), Outcome::Success),
            (Input::Started, Exit::Code(255), Outcome::Failed),
            (Input::Started, Exit::Signal(11), Outcome::Signalled),
            (Input::Started, Exit::OutOfMemory, Outcome::Oom),
            (Input::Timeout, Exit::Signal(15), Outcome::TimedOut),
            (Input::Timeout, Exit::Code(0), Outcome::TimedOut),
            (
                Input::Order(Order::Terminate),
                Exit::Code(0),
                Outcome::Killed,
            ),
            (Input::Order(Order::Kill), Exit::Signal(9), Outcome::Killed),
        ];
        for (before, exit, outcome) in ends {
            let mut run = run_with(&[Input::Recorded, before, Input::Exited(exit), Input::Gone]);
            assert_eq!(
                run.step(Input::PipesClosed),
                [Effect::Finish(outcome, Some(exit))],
                "{before:?} then {exit:?}"
            );
        }
    }

    #[test]
    fn pipes_that_nobody_of_the_script_holds_are_given_up_after_the_grace() {
        let mut run = run_with(&[Input::Recorded, Input::Exited(Exit::Code(0)), Input::Gone]);
        assert_eq!(words(&run.step(Input::GraceOver)), "success");
    }

    #[test]
    fn a_script_that_cannot_be_killed_does_not_hold_its_run() {
        let mut run = run_with(&[Input::Recorded, Input::Timeout, Input::GraceOver]);
        let last = run.step(Input::GraceOver);
        assert_eq!(last, [Effect::Finish(Outcome::TimedOut, None)]);
    }

    #[test]
    fn a_run_without_timeout_starts_no_timer() {
        let mut run = Run::new(None, GRACE);
        run.step(Input::Recorded);
        assert!(run.step(Input::Started).is_empty());
    }

    #[test]
    fn whatever_comes_in_whatever_order_a_run_ends_at_most_once() {
        use proptest::prelude::*;
        let mut runner = proptest::test_runner::TestRunner::deterministic();
        let some = proptest::collection::vec(0..TABLE.len(), 0..40);
        runner
            .run(&some, |picks| {
                let mut run = Run::new(Some(TIMEOUT), GRACE);
                let mut ends = 0;
                let mut spawns = 0;
                for pick in picks {
                    for effect in run.step(TABLE[pick].0) {
                        ends += u32::from(matches!(effect, Effect::Finish(..)));
                        spawns += u32::from(effect == Effect::Spawn);
                    }
                }
                prop_assert!(ends <= 1 && spawns <= 1);
                prop_assert_eq!(run.state == State::Ended, ends == 1);
                Ok(())
            })
            .unwrap();
    }
}
