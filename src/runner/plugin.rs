//! One try to hand a run's result to its job's plugin.
//!
//! The plugin is an executable that reads the result's document from standard input; its life is
//! that of a script, by the same machine. Must never decide whether it is tried again.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::future::pending;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use tokio::net::unix::pipe::Receiver;

use super::Spec;
use super::environment;
use crate::clock;
use crate::clock::Tick;
use crate::config::Plugins;
use crate::disk;
use crate::job::OnResult;
use crate::process;
use crate::process::Cgroups;
use crate::process::Note;
use crate::process::Watch;
use crate::results::Results;
use crate::run::Effect;
use crate::run::Exit;
use crate::run::Input;
use crate::run::Order;
use crate::run::Outcome;
use crate::run::Run;
use crate::units::Timestamp;
use crate::units::write_duration;

/// From TERM to KILL of a plugin that took too long: it has nothing to finish.
const GRACE: Duration = Duration::from_secs(2);

/// What is kept of what a plugin prints: words for people, from the beginning.
const SAID_BYTES_MAX: usize = 64 << 10;

/// What one read takes.
const CHUNK_BYTES: usize = 4 << 10;

/// A result that is to be handed to its job's plugin.
#[derive(Debug, Clone)]
pub struct Delivery {
    /// The run that it is of.
    pub spec: Spec,
    /// When that was started.
    pub started_at: Timestamp,
    /// Who gets it.
    pub to: OnResult,
}

/// What is needed to start plugins.
#[derive(Debug)]
pub struct Courier {
    /// Where the results are.
    pub results: Results,
    /// Where the plugins are.
    pub plugins: Plugins,
    /// As of runs: see [`super::Host`].
    pub shim: PathBuf,
    /// Likewise.
    pub environment: BTreeMap<OsString, OsString>,
    /// Likewise.
    pub cgroups: Option<Cgroups>,
}

/// What became of a try.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tried {
    /// Whether the plugin took the result over; else why not, in words.
    pub done: Result<(), String>,
    /// What it printed, of both streams as it came.
    pub said: Vec<u8>,
}

/// Starts the plugin once and waits for its end. Dropping the future kills it.
pub async fn deliver(delivery: &Delivery, courier: &Courier) -> Tried {
    match Call::start(delivery, courier) {
        Ok(call) => call.drive().await,
        Err(why) => Tried {
            done: Err(why),
            said: Vec::new(),
        },
    }
}

/// A plugin that runs.
struct Call {
    timeout: Duration,
    machine: Run,
    watch: Option<Watch>,
    pipes: [Option<Receiver>; 2],
    timer: Option<(Tick, Input)>,
    could_not: Option<String>,
    said: Vec<u8>,
    left_out: u64,
}

/// What ended a wait.
enum Woke {
    Note(Note),
    Time(Input),
    Read(usize, io::Result<usize>),
}

impl Call {
    fn start(delivery: &Delivery, courier: &Courier) -> Result<Self, String> {
        let Delivery {
            spec,
            started_at,
            to,
        } = delivery;
        let user = &spec.job.rights.user;
        let group = (!user.is_own()).then_some(user.gid);
        // Only a run sets it aside: a result may be of a run of the job's former user.
        let place = spec.state_dir.display();
        let stranger = disk::stranger(&spec.state_dir, user.uid, group).map_err(|error| {
            format!("its working directory {place} cannot be looked at: {error}")
        })?;
        if let Some(stranger) = stranger {
            return Err(format!(
                "its working directory {place} belongs to user {stranger}, and the plugin would run as {}",
                user.name
            ));
        }
        let program = courier.plugins.find(&to.plugin)?;
        let document = courier.results.document_path(&spec.job.name, &spec.run);
        let environment = &courier.environment;
        let mut command = environment::plugin(spec, *started_at, program, document, environment)?;
        let cgroups = courier.cgroups.as_ref();
        command.cgroup = cgroups.map(|cgroups| cgroups.of_run(&format!("{}-result", spec.run)));
        let child = process::spawn(&courier.shim, command).map_err(|error| error.to_string())?;
        Ok(Self {
            timeout: to.timeout,
            machine: Run::new(Some(to.timeout), GRACE),
            watch: Some(child.watch),
            pipes: [Some(child.stdout), Some(child.stderr)],
            timer: None,
            could_not: None,
            said: Vec::new(),
            left_out: 0,
        })
    }

    async fn drive(mut self) -> Tried {
        // There is no fire to record: its result is on disk.
        let mut effects = self.machine.step(Input::Recorded);
        let mut buffer = vec![0; CHUNK_BYTES];
        loop {
            for effect in effects.drain(..) {
                if let Some((outcome, exit)) = self.carry_out(effect) {
                    return self.end(outcome, exit);
                }
            }
            let input = match self.wake(&mut buffer).await {
                Woke::Note(note) => self.noted(note),
                Woke::Time(input) => {
                    self.timer = None;
                    Some(input)
                }
                Woke::Read(pipe, read) => self.read(pipe, read, &buffer),
            };
            if let Some(input) = input {
                effects = self.machine.step(input);
            }
        }
    }

    fn carry_out(&mut self, effect: Effect) -> Option<(Outcome, Option<Exit>)> {
        let now = clock::tick();
        match effect {
            // It was started with the call.
            Effect::Spawn => {}
            Effect::Term => self.order(Order::Terminate),
            Effect::Kill => self.order(Order::Kill),
            Effect::StartTimeout(after) => self.timer = Some((now.after(after), Input::Timeout)),
            Effect::StartGrace(after) | Effect::StartDrain(after) => {
                self.timer = Some((now.after(after), Input::GraceOver));
            }
            Effect::Finish(outcome, exit) => return Some((outcome, exit)),
        }
        None
    }

    fn order(&mut self, order: Order) {
        if let Some(watch) = &mut self.watch {
            watch.order(order);
        }
    }

    async fn wake(&mut self, buffer: &mut [u8]) -> Woke {
        let (watch, timer, pipes) = (&mut self.watch, self.timer, &self.pipes);
        let note = async {
            match watch {
                Some(watch) => watch.next().await,
                None => pending().await,
            }
        };
        let time = async {
            match timer {
                Some((at, input)) => {
                    clock::sleep_until(at).await;
                    input
                }
                None => pending().await,
            }
        };
        // Reading comes last: a plugin that prints without end must not outlive its time.
        let at = tokio::select! {
            biased;
            note = note => return Woke::Note(note),
            input = time => return Woke::Time(input),
            () = readable(pipes[0].as_ref()) => 0,
            () = readable(pipes[1].as_ref()) => 1,
        };
        let read = pipes[at]
            .as_ref()
            .map_or(Ok(0), |pipe| pipe.try_read(buffer));
        Woke::Read(at, read)
    }

    fn noted(&mut self, note: Note) -> Option<Input> {
        match note {
            Note::Started { .. } => Some(Input::Started),
            Note::CouldNotStart { reason } => {
                self.could_not = Some(reason);
                Some(Input::CouldNotStart)
            }
            Note::Exited(exit) => Some(Input::Exited(exit)),
            Note::Gone { .. } => {
                self.watch = None;
                Some(Input::Gone)
            }
        }
    }

    fn read(&mut self, pipe: usize, read: io::Result<usize>, buffer: &[u8]) -> Option<Input> {
        match read {
            Ok(count @ 1..) => {
                let room = SAID_BYTES_MAX - self.said.len();
                self.said.extend_from_slice(&buffer[..count.min(room)]);
                self.left_out += count.saturating_sub(room) as u64;
                None
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => None,
            Ok(0) | Err(_) => {
                self.pipes[pipe] = None;
                let is_closed = self.pipes.iter().all(Option::is_none);
                is_closed.then_some(Input::PipesClosed)
            }
        }
    }

    fn end(mut self, outcome: Outcome, exit: Option<Exit>) -> Tried {
        if self.left_out > 0 {
            let note = format!("\n... {} bytes left out\n", self.left_out);
            self.said.extend_from_slice(note.as_bytes());
        }
        let why = match (outcome, exit) {
            (Outcome::Success, _) => None,
            (Outcome::CouldNotStart, _) => self.could_not,
            (Outcome::TimedOut, _) => Some(format!(
                "took longer than its on_result_timeout of {}",
                write_duration(self.timeout)
            )),
            (Outcome::Oom, _) => Some("used more memory than limits.memory allows".to_owned()),
            (_, Some(Exit::Code(code))) => Some(format!("exit code {code}")),
            (_, Some(Exit::Signal(signal))) => {
                Some(format!("ended by {}", process::signal_name(signal)))
            }
            _ => Some("ended without an exit code".to_owned()),
        };
        Tried {
            done: why.map_or(Ok(()), Err),
            said: self.said,
        }
    }
}

/// Waits until a pipe can be read; for ever when it is closed.
async fn readable(pipe: Option<&Receiver>) {
    match pipe {
        // An error is what reading tells then.
        Some(pipe) => drop(pipe.readable().await),
        None => pending().await,
    }
}
