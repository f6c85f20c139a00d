//! The driver: names what happened, lets the supervisor decide, carries its effects out.
//!
//! One task; nothing here is awaited but the next happening. Decides nothing.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use tokio::sync::mpsc;
use tokio::sync::oneshot;
use tokio::task::Id;
use tokio::task::JoinError;
use tokio::task::JoinSet;
use tracing::Level;

use crate::clock;
use crate::clock::Tick;
use crate::config;
use crate::config::Problem;
use crate::control::Asked;
use crate::daemon::checks;
use crate::daemon::house::House;
use crate::daemon::signals::Signals;
use crate::event::RunId;
use crate::log;
use crate::run::Order;
use crate::run::Outcome;
use crate::runner;
use crate::runner::Ended;
use crate::runner::Host;
use crate::runner::Progress;
use crate::runner::Spec;
use crate::spool::Change;
use crate::spool::Spool;
use crate::status;
use crate::status::Answer;
use crate::status::JobState;
use crate::supervisor::Ask;
use crate::supervisor::Effect;
use crate::supervisor::Exit;
use crate::supervisor::Note;
use crate::supervisor::Now;
use crate::supervisor::OpenRun;
use crate::supervisor::Say;
use crate::supervisor::Supervisor;

/// Orders that may lie before one run: the supervisor gives each kind at most once.
const ORDERS_MAX: usize = 2;

/// Where notes come from, besides the driver's own tasks.
#[derive(Debug)]
pub(super) struct Sources {
    pub(super) signals: Signals,
    pub(super) spool: Spool,
    pub(super) changes: mpsc::Receiver<Change>,
    pub(super) asked: mpsc::Receiver<Asked>,
    pub(super) origin: Origin,
}

/// Where the settings came from, to read them again.
#[derive(Debug, Clone)]
pub struct Origin {
    /// `spoolbeat.toml`, or the folder that it is in.
    pub place: PathBuf,
    /// What was given with `-E`.
    pub overrides: Vec<String>,
    /// The level of the log that the command line asked for: it wins over the settings.
    pub level: Option<Level>,
}

/// See the module's header.
#[derive(Debug)]
pub(super) struct Driver {
    supervisor: Supervisor,
    house: House,
    /// What runs share; given up when the drain begins.
    host: Option<Arc<Host>>,
    runs: JoinSet<Ended>,
    /// Tasks that answer with one note.
    helpers: JoinSet<Note>,
    /// What a task's panic means, by its id.
    lost: HashMap<Id, Note>,
    orders: HashMap<RunId, mpsc::Sender<Order>>,
    /// How far these are.
    progress: HashMap<RunId, Arc<Progress>>,
    asks: HashMap<Ask, oneshot::Sender<Answer>>,
    next_ask: u64,
    /// When the clock is given next.
    wake: Tick,
}

impl Driver {
    pub(super) fn new(supervisor: Supervisor, house: House, host: Host) -> Self {
        Self {
            supervisor,
            house,
            host: Some(Arc::new(host)),
            runs: JoinSet::new(),
            helpers: JoinSet::new(),
            lost: HashMap::new(),
            orders: HashMap::new(),
            progress: HashMap::new(),
            asks: HashMap::new(),
            next_ask: 0,
            wake: clock::tick(),
        }
    }

    /// Drives until the supervisor orders the exit.
    pub(super) async fn drive(mut self, first: Vec<Effect>, mut sources: Sources) -> (Exit, House) {
        let mut exit = self.carry_out(first, &sources);
        while exit.is_none() {
            let note = tokio::select! {
                signal = sources.signals.next() => Note::Signal(signal),
                Some(over) = self.runs.join_next_with_id() => self.run_over(over),
                Some(over) = self.helpers.join_next_with_id() => self.helper_over(over),
                Some(change) = sources.changes.recv() => self.seen(change),
                Some(asked) = sources.asked.recv() => self.asked(asked),
                () = clock::sleep_until(self.wake) => Note::Clock,
            };
            exit = self.take(note, &sources);
        }
        // Dropping a run's task closes its shim's line, and the shim kills what it started.
        self.runs.shutdown().await;
        (exit.unwrap_or(Exit::Now), self.house)
    }

    fn take(&mut self, note: Note, sources: &Sources) -> Option<Exit> {
        let is_clock = matches!(note, Note::Clock);
        let effects = self.supervisor.step(now(), note);
        let mut exit = self.carry_out(effects, sources);
        if is_clock {
            let level = self.house.look_after().map(Note::Queue);
            let answered = self.house.has_answered().then_some(Note::OutputAnswered);
            for note in level.into_iter().chain(answered) {
                let effects = self.supervisor.step(now(), note);
                exit = exit.or(self.carry_out(effects, sources));
            }
        }
        let now = now();
        let due = now.tick.after(self.supervisor.patience(now));
        // Other notes must not put the look at the clock off.
        self.wake = if is_clock { due } else { due.min(self.wake) };
        exit
    }

    fn carry_out(&mut self, effects: Vec<Effect>, sources: &Sources) -> Option<Exit> {
        for effect in effects {
            match effect {
                Effect::StartRun(spec) => self.start_run(*spec),
                Effect::OrderRun { run, order } => self.order(&run, order),
                Effect::CloseInterrupted(open) => self.close_interrupted(open),
                Effect::Rescan => sources.spool.rescan(),
                Effect::Retire { job, in_use } => sources.spool.retire(&job, in_use),
                Effect::Reload { ask } => self.reload(ask, sources.origin.clone()),
                Effect::TakeOver { ask, root } => self.take_over(ask, root, sources),
                Effect::KeepPaused { ask, jobs } => {
                    let answer = self.house.keep_paused(&jobs);
                    self.reply(ask, answer);
                }
                Effect::Skip { ask, output, to } => {
                    let answer = self.house.skip(&output, to);
                    self.reply(ask, answer);
                }
                Effect::ForgetOutput { ask, output } => self.forget_output(ask, output),
                Effect::Tell(notice) => self.house.tell(&notice),
                Effect::Reply { ask, answer } => self.reply(ask, answer),
                Effect::Report { ask, mut snapshot } => {
                    for job in &mut snapshot.jobs {
                        self.see_over(job);
                    }
                    let status = Box::new(self.house.status(*snapshot));
                    self.reply(ask, Answer::Status(status));
                }
                Effect::Say(say) => tell(&say),
                Effect::BeginDrain => self.begin_drain(),
                Effect::Exit(exit) => return Some(exit),
            }
        }
        None
    }

    fn start_run(&mut self, spec: Spec) {
        let Some(host) = self.host.clone() else {
            tracing::error!(run = %spec.run, "a run was to start after the last one");
            return;
        };
        let run = spec.run.clone();
        tracing::debug!(job = spec.job.name, %run, trigger = spec.trigger.name(), "run starts");
        let (order, orders) = mpsc::channel(ORDERS_MAX);
        let progress = Arc::new(Progress::default());
        let task = self
            .runs
            .spawn(runner::run(spec, host, orders, Arc::clone(&progress)));
        self.lost
            .insert(task.id(), Note::RunLost { run: run.clone() });
        self.orders.insert(run.clone(), order);
        self.progress.insert(run, progress);
    }

    /// Sees which of a job's runs go on only until their ends are captured.
    fn see_over(&self, job: &mut status::Job) {
        for run in &mut job.running {
            let progress = self.progress.get(&run.run);
            run.script_over =
                progress.is_some_and(|progress| progress.script_over.load(Ordering::Relaxed));
        }
        let all_over = job.running.iter().all(|run| run.script_over);
        if job.state == JobState::Running && all_over {
            job.state = JobState::Ending;
        }
    }

    fn order(&mut self, run: &RunId, order: Order) {
        // A run that has ended meanwhile hears nothing; its end is on the way here.
        let heard = self.orders.get(run).map(|orders| orders.try_send(order));
        tracing::debug!(%run, ?order, ?heard, "run is ordered");
    }

    fn close_interrupted(&mut self, open: OpenRun) {
        let Some(host) = self.host.clone() else {
            return;
        };
        tracing::warn!(job = open.job, run = %open.run, "run was interrupted by the end of the former daemon");
        let lost = Note::Closed {
            run: open.run.clone(),
        };
        let deliveries = self.house.deliveries();
        self.help(lost, async move {
            let run = open.run.clone();
            House::close_interrupted(&host, deliveries, open).await;
            Note::Closed { run }
        });
    }

    /// Reads spoolbeat.toml again, on a thread that may wait for the disk.
    fn reload(&mut self, ask: Option<Ask>, origin: Origin) {
        let unread = Problem::of_file(
            origin.place.display().to_string(),
            "reading it again has failed; see the log".to_owned(),
        );
        let lost = Note::Reread {
            ask,
            read: Err(vec![unread.clone()]),
        };
        self.help(lost, async move {
            let read = tokio::task::spawn_blocking(move || {
                config::load_root(&origin.place, &origin.overrides)
            });
            let read = read.await.unwrap_or_else(|_| Err(vec![unread]));
            Note::Reread {
                ask,
                read: read.map(Box::new),
            }
        });
    }

    fn take_over(&mut self, ask: Option<Ask>, root: Box<config::Root>, sources: &Sources) {
        let left = self.house.take_over(root);
        let settings = self.house.settings();
        sources.spool.configure(checks(settings));
        match log::level(&settings.log.level) {
            Ok(level) => log::set_level(sources.origin.level.unwrap_or(level)),
            Err(why) => tracing::error!("{why}"),
        }
        tracing::info!("spoolbeat.toml is read again");
        if !left.is_empty() {
            let left = left.join(", ");
            tracing::warn!("what changed in {left} holds from the next start of the daemon");
        }
        if let Some(ask) = ask {
            self.reply(ask, Answer::Reloaded { left });
        }
    }

    fn forget_output(&mut self, ask: Ask, output: String) {
        let forgetting = match self.house.forget_output(output) {
            Ok(forgetting) => forgetting,
            Err(reason) => return self.reply(ask, Answer::Refused { reason }),
        };
        let reason = "forgetting it has failed; see the daemon's log".to_owned();
        let answer = Answer::Refused { reason };
        self.help(Note::Answered { ask, answer }, async move {
            let answer = forgetting.await;
            Note::Answered { ask, answer }
        });
    }

    /// From here on nothing is captured any more.
    fn begin_drain(&mut self) {
        self.runs.abort_all();
        self.host = None;
        let drain = self.house.drain();
        self.help(Note::DrainOver { waiting_events: 0 }, async {
            let waiting_events = drain.await;
            Note::DrainOver { waiting_events }
        });
    }

    fn help(&mut self, lost: Note, task: impl Future<Output = Note> + Send + 'static) {
        let task = self.helpers.spawn(task);
        self.lost.insert(task.id(), lost);
    }

    fn run_over(&mut self, over: Result<(Id, Ended), JoinError>) -> Note {
        match over {
            Ok((id, ended)) => {
                self.lost.remove(&id);
                self.orders.remove(&ended.run);
                self.progress.remove(&ended.run);
                self.house.run_ended(&ended);
                tell_end(&ended);
                Note::RunEnded(ended)
            }
            Err(error) => {
                let note = self.lost_note(&error);
                if let Note::RunLost { run } = &note {
                    self.orders.remove(run);
                    self.progress.remove(run);
                }
                note
            }
        }
    }

    fn helper_over(&mut self, over: Result<(Id, Note), JoinError>) -> Note {
        match over {
            Ok((id, note)) => {
                self.lost.remove(&id);
                note
            }
            Err(error) => self.lost_note(&error),
        }
    }

    fn lost_note(&mut self, error: &JoinError) -> Note {
        let note = self.lost.remove(&error.id()).unwrap_or(Note::Clock);
        if error.is_panic() {
            tracing::error!(%error, ?note, "a task of the daemon has panicked");
        }
        note
    }

    fn seen(&mut self, change: Change) -> Note {
        self.house.seen(&change);
        tell_change(&change);
        Note::Spool(change)
    }

    fn asked(&mut self, asked: Asked) -> Note {
        let ask = Ask(self.next_ask);
        self.next_ask += 1;
        self.asks.insert(ask, asked.answer);
        Note::Asked {
            ask,
            request: asked.request,
        }
    }

    fn reply(&mut self, ask: Ask, answer: Answer) {
        if let Some(asker) = self.asks.remove(&ask) {
            // Who went away does not want to know.
            drop(asker.send(answer));
        }
    }
}

pub(super) fn now() -> Now {
    Now {
        wall: clock::now(),
        tick: clock::tick(),
    }
}

fn tell(say: &Say) {
    match say {
        Say::Paused { reason } => tracing::warn!("{reason}"),
        Say::Resumed => tracing::info!("schedules go on"),
        Say::Stopping { runs } => {
            tracing::info!(runs, "stopping; a second signal ends it at once");
        }
        Say::Abandoned { runs } => tracing::error!(
            runs,
            "runs did not end in time and are killed; the next start records them as interrupted"
        ),
        Say::Overdue { job, expect_every } => {
            let every = crate::units::show_duration(*expect_every);
            tracing::warn!(job = &**job, "job has not succeeded for {every}");
        }
        Say::OnTime { job } => tracing::info!(job = &**job, "job has succeeded again"),
        Say::SettingsRefused { problems } => {
            for problem in problems {
                tracing::error!("{problem}; the former settings hold");
            }
        }
        Say::StepFailed {
            job,
            step,
            why,
            wait,
        } => {
            let (step, wait) = (step.name(), crate::units::show_duration(*wait));
            tracing::warn!(
                job = &**job,
                step,
                "{step} did not succeed ({why}); next try in {wait}"
            );
        }
        Say::NotRun { job, reason } => tracing::error!(job = &**job, reason, "job is not run"),
    }
}

fn tell_end(ended: &Ended) {
    let (job, run, outcome) = (&*ended.job.name, &ended.run, ended.outcome.name());
    let took = crate::units::show_duration(ended.took);
    let reason = ended.reason.as_deref().unwrap_or_default();
    match ended.outcome {
        Outcome::Success => tracing::debug!(job, %run, took, "run succeeded"),
        Outcome::Killed => tracing::info!(job, %run, took, reason, "run was ended"),
        Outcome::Failed
        | Outcome::Signalled
        | Outcome::Oom
        | Outcome::TimedOut
        | Outcome::Interrupted
        | Outcome::CouldNotStart => {
            tracing::warn!(job, %run, outcome, took, reason, "run did not succeed");
        }
    }
}

fn tell_change(change: &Change) {
    match change {
        Change::Loaded(job) => {
            tracing::info!(job = job.name, generation = job.generation, "job is loaded");
        }
        Change::Refused { job, problems } => {
            for problem in problems {
                tracing::error!(job, "{problem}");
            }
        }
        Change::Removed { job } => tracing::info!(job, "job is removed"),
        Change::Unreadable { reason } => tracing::error!("{reason}; all jobs stay as they are"),
        Change::Readable => tracing::info!("the jobs can be looked at again"),
        Change::Complete => tracing::debug!("all jobs that were there are known"),
    }
}
