//! The loop of one run: waits for whatever comes next, tells the machine, does what it says.
//!
//! The only place of a run that waits. Must never decide an outcome or look into a line.

use std::future::pending;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::sync::mpsc;

use super::Ended;
use super::Host;
use super::Progress;
use super::Spec;
use crate::clock;
use crate::clock::Tick;
use crate::disk;
use crate::event::Seq;
use crate::event::Stream;
use crate::event::envelope::Labels;
use crate::job::Capture;
use crate::job::Format;
use crate::modules;
use crate::process;
use crate::process::Note;
use crate::process::Watch;
use crate::queue::Fact;
use crate::queue::Refused;
use crate::results;
use crate::results::Document;
use crate::results::RunFiles;
use crate::results::Started;
use crate::run::Effect;
use crate::run::Exit;
use crate::run::Input;
use crate::run::Order;
use crate::run::Outcome;
use crate::run::Phase;
use crate::run::Run;
use crate::runner::Delivery;
use crate::runner::environment;
use crate::runner::output::Output;
use crate::runner::output::Ready;
use crate::runner::uplink::Durable;
use crate::runner::uplink::Uplink;
use crate::source::gather::End;
use crate::source::gather::Gather;
use crate::source::gather::Lane;
use crate::source::gather::Lanes;
use crate::units::Timestamp;
use crate::units::write_duration;

/// The job's own folder for environments of modules, beside its data.
const VENVS: &str = "venv";

/// How long the files of a result may lag behind what was printed.
const REFRESH: Duration = Duration::from_secs(5);

/// What ended a wait.
enum Woke {
    Order(Option<Order>),
    Note(Note),
    Time,
    Captured(Result<Durable, Refused>),
    Output(Ready),
}

/// Whether a timer goes on while the script's output waits for us.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Pace {
    Always,
    WhileReading,
}

/// The machine's timer.
#[derive(Debug, Clone, Copy)]
struct Timer {
    set: Tick,
    at: Tick,
    pace: Pace,
    tells: Input,
}

/// The way a run ended, once the machine has said so.
#[derive(Debug, Clone, Copy)]
struct Finish {
    outcome: Outcome,
    exit: Option<Exit>,
}

/// What is said of a run's end.
struct Ending {
    at: Timestamp,
    took: Duration,
    outcome: Outcome,
    exit: Option<Exit>,
    reason: Option<String>,
}

/// One run.
pub(super) struct Driver {
    spec: Spec,
    host: Arc<Host>,
    orders: mpsc::Receiver<Order>,
    orders_open: bool,
    progress: Arc<Progress>,
    machine: Run,
    watch: Option<Watch>,
    output: Output,
    uplink: Uplink,
    files: Option<RunFiles>,
    timer: Option<Timer>,
    /// Since when the script's output waits for us.
    blocked_since: Option<Tick>,
    /// When the result's files are due; `None` while they show all that was printed.
    refresh_at: Option<Tick>,
    /// When something was last printed.
    printed_at: Tick,
    started_at: Timestamp,
    started: Tick,
    pid: Option<u32>,
    could_not: Option<String>,
    refused: Option<Refused>,
    captured: Option<Seq>,
    finish: Option<Finish>,
}

impl Driver {
    pub(super) fn new(
        spec: Spec,
        host: Arc<Host>,
        orders: mpsc::Receiver<Order>,
        progress: Arc<Progress>,
    ) -> Self {
        let (job, task) = (&spec.job, &spec.task);
        let labels = Labels {
            job: &job.name,
            run: &spec.run,
            generation: &job.generation,
            trigger: spec.trigger.name(),
            scheduled_at: spec.scheduled_at,
            tags: &job.tags,
            fields: &job.fields,
        };
        let (stdout, stderr) = (
            task.stdout.in_phase(spec.trigger.phase()),
            task.stderr.in_phase(spec.trigger.phase()),
        );
        let lanes = Lanes {
            stdout: lane(&stdout),
            stderr: lane(&stderr),
        };
        let gather = Gather::new(
            host.limits,
            job.route.clone(),
            &host.identity,
            &labels,
            lanes,
        );
        Self {
            orders,
            orders_open: true,
            progress,
            machine: Run::new(task.script.timeout, task.script.kill_grace),
            watch: None,
            output: Output::new(&job.name, stdout, stderr, gather, host.pool.clone()),
            uplink: Uplink::new(host.intake.clone()),
            files: None,
            timer: None,
            blocked_since: None,
            refresh_at: None,
            printed_at: Tick::default(),
            started_at: clock::now(),
            started: clock::tick(),
            pid: None,
            could_not: None,
            refused: None,
            captured: None,
            finish: None,
            spec,
            host,
        }
    }

    pub(super) async fn drive(mut self) -> Ended {
        self.record_fire();
        while self.finish.is_none() {
            let woke = self.wake().await;
            self.handle(woke);
            self.forward();
        }
        self.end().await
    }

    /// Sends the fire and the start event up; the machine waits until they are durable.
    fn record_fire(&mut self) {
        let spec = &self.spec;
        let fact = Fact::Fired {
            job: spec.job.name.clone(),
            run: spec.run.clone(),
            generation: spec.job.generation.clone(),
            trigger: spec.trigger,
            scheduled_at: spec.scheduled_at.map(|at| at.0),
            outputs: spec.job.route.outputs().to_vec(),
            at: self.started_at.0,
        };
        let gather = self.output.gather();
        gather.run_started(self.started_at, None);
        let mut portion = gather.take();
        portion.facts.push(fact);
        self.uplink.push(portion, None);
    }

    async fn wake(&mut self) -> Woke {
        let due = self.due();
        let (orders, watch, output, uplink) = (
            &mut self.orders,
            &mut self.watch,
            &mut self.output,
            &mut self.uplink,
        );
        // Reading comes last: a script that prints without end must not keep the others waiting.
        tokio::select! {
            biased;
            order = orders.recv(), if self.orders_open => Woke::Order(order),
            note = next_note(watch) => Woke::Note(note),
            () = sleep_until(due) => Woke::Time,
            captured = uplink.captured() => Woke::Captured(captured),
            ready = output.ready() => Woke::Output(ready),
        }
    }

    /// When the next timer is due: the machine's, the hand-over's or the files'.
    fn due(&self) -> Option<Tick> {
        let timer = self
            .timer
            .filter(|timer| timer.pace == Pace::Always || self.blocked_since.is_none());
        // A full uplink wakes by itself when the next hand-over is possible.
        let hand_over = self
            .output
            .first_at()
            .filter(|_| !self.uplink.is_full())
            .map(|first| first.after(self.host.flush));
        let joined = self.output.joined_due();
        [
            timer.map(|timer| timer.at),
            hand_over,
            joined,
            self.refresh_at,
        ]
        .into_iter()
        .flatten()
        .min()
    }

    fn handle(&mut self, woke: Woke) {
        match woke {
            Woke::Order(Some(order)) => self.tell(Input::Order(order)),
            Woke::Order(None) => self.orders_open = false,
            Woke::Note(note) => self.noted(note),
            Woke::Time => self.time_passed(),
            Woke::Captured(Ok(durable)) => {
                self.captured = Some(durable.seq);
                let events = u64::from(durable.events);
                self.progress.captured.fetch_add(events, Ordering::Relaxed);
                // Of all portions only the first, the fire, means anything to the machine.
                self.tell(Input::Recorded);
            }
            Woke::Captured(Err(refused)) => self.queue_refused(refused),
            Woke::Output(Ready::Room) => {}
            Woke::Output(Ready::Readable(stream)) => self.read(stream),
        }
    }

    fn noted(&mut self, note: Note) {
        match note {
            Note::Started { pid } => {
                self.pid = u32::try_from(pid).ok();
                self.tell(Input::Started);
            }
            Note::CouldNotStart { reason } => {
                self.could_not = Some(reason);
                self.tell(Input::CouldNotStart);
            }
            Note::Exited(exit) => {
                self.progress.script_over.store(true, Ordering::Relaxed);
                self.tell(Input::Exited(exit));
            }
            Note::Gone { left } => {
                self.watch = None;
                if left > 0 {
                    let (job, run) = (self.spec.job.name.as_str(), &self.spec.run);
                    tracing::warn!(job, %run, left, "processes of the script cannot be killed");
                }
                self.tell(Input::Gone);
            }
        }
    }

    fn time_passed(&mut self) {
        let now = clock::tick();
        if self.refresh_at.is_some_and(|at| at <= now) {
            // What came since the files were last written may have been too new for this time.
            let again = now.since(self.printed_at) <= REFRESH;
            self.refresh_at = again.then(|| now.after(REFRESH));
            if let Some(files) = &mut self.files {
                files.refresh(now);
            }
        }
        let runs = |timer: &Timer| timer.pace == Pace::Always || self.blocked_since.is_none();
        if let Some(timer) = self.timer.filter(|timer| timer.at <= now && runs(timer)) {
            self.timer = None;
            self.tell(timer.tells);
        }
    }

    fn read(&mut self, stream: Stream) {
        let now = clock::tick();
        let (files, refresh_at) = (&mut self.files, &mut self.refresh_at);
        self.printed_at = now;
        let keep = |bytes: &[u8]| {
            if let Some(files) = files {
                files.output(stream, bytes, now);
                refresh_at.get_or_insert(now.after(REFRESH));
            }
        };
        if self.refused.is_some() {
            // Nobody takes it any more, and the script is being killed.
            self.output.skip(stream);
        } else {
            self.output
                .read(stream, clock::now(), &mut self.uplink, keep);
            self.progress.note(&self.output.gather().counts());
        }
    }

    /// After anything happened: moves on what can move, and sees what that means.
    fn forward(&mut self) {
        if self.refused.is_none() {
            self.output.go_on(&mut self.uplink);
            let now = clock::tick();
            self.output.gather_joined(now);
            let is_due = |first: Tick| first.after(self.host.flush) <= now;
            if !self.uplink.is_full() && self.output.first_at().is_some_and(is_due) {
                self.output.hand_over(&mut self.uplink, Vec::new());
            }
        }
        self.keep_time();
        if self.pid.is_some() && self.output.is_closed() {
            self.tell(Input::PipesClosed);
        }
    }

    /// Lets timers stand still while the script's output waits for us.
    fn keep_time(&mut self) {
        let now = clock::tick();
        match (self.blocked_since, self.output.is_blocked()) {
            (None, true) => self.blocked_since = Some(now),
            (Some(since), false) => {
                self.blocked_since = None;
                if let Some(timer) = &mut self.timer
                    && timer.pace == Pace::WhileReading
                {
                    timer.at = timer.at.after(now.since(since.max(timer.set)));
                }
            }
            _ => {}
        }
    }

    /// The queue takes no more: what was gathered cannot become durable, so the script must not
    /// go on printing.
    fn queue_refused(&mut self, refused: Refused) {
        let (job, run) = (self.spec.job.name.as_str(), &self.spec.run);
        tracing::error!(job, %run, ?refused, "the queue takes no more: the run is ended and stays open");
        self.refused = Some(refused);
        self.output.discard();
        self.uplink = Uplink::new(self.host.intake.clone());
        self.tell(Input::Unrecorded);
        self.tell(Input::Order(Order::Kill));
    }

    fn tell(&mut self, input: Input) {
        for effect in self.machine.step(input) {
            self.carry_out(effect);
        }
    }

    fn carry_out(&mut self, effect: Effect) {
        match effect {
            Effect::Spawn => self.spawn(),
            Effect::Term => self.order(Order::Terminate),
            Effect::Kill => self.order(Order::Kill),
            Effect::StartTimeout(after) => {
                self.set_timer(after, Pace::WhileReading, Input::Timeout)
            }
            Effect::StartGrace(after) => self.set_timer(after, Pace::Always, Input::GraceOver),
            Effect::StartDrain(after) => {
                self.set_timer(after, Pace::WhileReading, Input::GraceOver);
            }
            Effect::Finish(outcome, exit) => self.finish = Some(Finish { outcome, exit }),
        }
    }

    fn order(&mut self, order: Order) {
        if let Some(watch) = &mut self.watch {
            watch.order(order);
        }
    }

    fn set_timer(&mut self, after: Duration, pace: Pace, tells: Input) {
        let set = clock::tick();
        self.timer = Some(Timer {
            set,
            at: set.after(after),
            pace,
            tells,
        });
    }

    fn spawn(&mut self) {
        let spec = &self.spec;
        let user = &spec.job.rights.user;
        let group = (!user.is_own()).then_some(user.gid);
        self.files = self.host.results.as_ref().map(|results| {
            results.start(&Started {
                job: &spec.job.name,
                run: &spec.run,
                generation: &spec.job.generation,
                trigger: spec.trigger,
                scheduled_at: spec.scheduled_at,
                group,
                at: self.started_at,
            })
        });
        if let (Some(results), Some(_)) = (&self.host.results, &spec.job.on_result) {
            match results.document(&spec.job.name, &spec.run, group) {
                Ok(document) => self.output.copy_to(document),
                Err(note) => {
                    let (job, run) = (spec.job.name.as_str(), &spec.run);
                    tracing::warn!(job, %run, note, "the result's document cannot be written");
                }
            }
        }
        match self.start_script() {
            Ok(watch) => self.watch = Some(watch),
            Err(reason) => {
                self.could_not = Some(reason);
                self.tell(Input::CouldNotStart);
            }
        }
    }

    fn start_script(&mut self) -> Result<Watch, String> {
        let (state_dir, user) = (&self.spec.state_dir, &self.spec.job.rights.user);
        self.make_own(state_dir)?;
        let venvs = state_dir.with_file_name(VENVS);
        let installs = self.spec.trigger.phase() == Phase::Modules;
        let uses = !installs && !self.spec.task.script.modules.is_empty();
        if installs || uses {
            self.make_own(&venvs)?;
        }
        let venv = match uses {
            true => process::as_user(user, || modules::environment(&venvs))
                .map_err(|error| format!("its modules cannot be looked at: {error}"))?,
            false => None,
        };
        let around = environment::Surroundings {
            exe: &self.host.shim,
            result_dir: self.files.as_ref().map(RunFiles::dir),
            venvs: &venvs,
            venv: venv.as_deref(),
            daemon: &self.host.environment,
        };
        let mut command = environment::command(&self.spec, self.started_at, around)?;
        let cgroups = self.host.cgroups.as_ref();
        command.cgroup = cgroups.map(|cgroups| cgroups.of_run(self.spec.run.as_str()));
        let child = process::spawn(&self.host.shim, command).map_err(|error| error.to_string())?;
        self.output.open(child.stdout, child.stderr);
        Ok(child.watch)
    }

    /// Makes a folder of the job that its user works in. What a former user of the job left there may lead
    /// whoever runs it now, and is set aside.
    fn make_own(&self, dir: &Path) -> Result<(), String> {
        let user = &self.spec.job.rights.user;
        let group = (!user.is_own()).then_some(user.gid);
        let aside = disk::make_private_dir(dir, user.uid, group)
            .map_err(|error| format!("its folder {} cannot be made: {error}", dir.display()))?;
        if let Some(aside) = aside {
            let (job, user) = (self.spec.job.name.as_str(), &*user.name);
            tracing::warn!(
                job, user, folder = %dir.display(), aside = %aside.display(),
                "the job's folder belonged to another user than it runs as now: it is set aside, and an empty one made"
            );
        }
        Ok(())
    }

    /// Brings the rest up, then the end; returns when that is durable.
    async fn end(mut self) -> Ended {
        // The shim ends with its socket, and whatever it could not kill with it.
        self.watch = None;
        let Finish { outcome, exit } = self.finish.expect("the loop ends with it");
        while self.refused.is_none() && self.output.is_blocked() {
            self.wait_for_queue().await;
            self.output.go_on(&mut self.uplink);
        }
        let at = clock::now();
        self.output.close_all(at);
        self.progress.note(&self.output.gather().counts());
        let ending = Ending {
            at,
            took: clock::tick().since(self.started),
            outcome,
            exit,
            reason: self.reason(outcome, exit),
        };
        if self.refused.is_none() {
            self.record_end(&ending);
        }
        while self.refused.is_none() && !self.uplink.is_empty() {
            self.wait_for_queue().await;
        }
        let has_result = self.refused.is_none() && self.write_result(&ending);
        let to = self.spec.job.on_result.clone();
        let delivery = to.filter(|_| has_result).map(|to| {
            Box::new(Delivery {
                spec: self.spec.clone(),
                started_at: self.started_at,
                to,
            })
        });
        Ended {
            delivery,
            run: self.spec.run,
            job: self.spec.job,
            outcome,
            exit,
            reason: ending.reason,
            started_at: self.started_at,
            at,
            took: ending.took,
        }
    }

    /// One wait of the run's end: for the queue, or for room.
    async fn wait_for_queue(&mut self) {
        let (output, uplink) = (&mut self.output, &mut self.uplink);
        let woke = tokio::select! {
            captured = uplink.captured() => Woke::Captured(captured),
            () = output.wait_for_room() => Woke::Output(Ready::Room),
        };
        self.handle(woke);
    }

    /// Sends the end up, with what is gathered before it.
    fn record_end(&mut self, ending: &Ending) {
        let gather = self.output.gather();
        if gather.is_full() {
            self.output.hand_over(&mut self.uplink, Vec::new());
        }
        self.output.gather().run_ended(&End {
            started_at: self.started_at,
            at: ending.at,
            took: ending.took,
            outcome: ending.outcome,
            exit: ending.exit,
            pid: self.pid,
            reason: ending.reason.as_deref(),
        });
        let fact = Fact::Ended {
            job: self.spec.job.name.clone(),
            run: self.spec.run.clone(),
            generation: self.spec.job.generation.clone(),
            trigger: self.spec.trigger,
            outcome: ending.outcome,
            started_at: self.started_at.0,
            at: ending.at.0,
        };
        self.output.hand_over(&mut self.uplink, vec![fact]);
    }

    /// Writes the run's result; whether it has one.
    fn write_result(&mut self, ending: &Ending) -> bool {
        let counts = self.output.gather().counts();
        let Some(files) = self.files.take() else {
            return false;
        };
        let note = files.end(&results::Ended {
            at: ending.at,
            took: ending.took,
            outcome: ending.outcome,
            exit: ending.exit,
            reason: ending.reason.as_deref(),
            counts,
            captured: self.captured,
        });
        // The record must be there: the document ends with it.
        let document = self.output.copied().map(Document::finish);
        for note in note.into_iter().chain(document.and_then(Result::err)) {
            let (job, run) = (self.spec.job.name.as_str(), &self.spec.run);
            tracing::warn!(job, %run, note, "the result is not complete");
        }
        true
    }

    /// Why a run ended as it did, in words.
    fn reason(&self, outcome: Outcome, exit: Option<Exit>) -> Option<String> {
        if self.refused.is_some() {
            return Some("the queue takes no more".to_owned());
        }
        let words = match (outcome, exit) {
            (Outcome::Success, _) => return None,
            (Outcome::CouldNotStart, _) => self.could_not.clone()?,
            (Outcome::TimedOut, _) => {
                let timeout = self.spec.task.script.timeout.unwrap_or_default();
                format!("ran longer than its timeout of {}", write_duration(timeout))
            }
            (_, Some(Exit::Code(code))) if outcome == Outcome::Failed => {
                match self.spec.trigger.phase() {
                    Phase::Modules => {
                        format!("its modules could not be had (exit code {code} of the installer)")
                    }
                    _ => format!("exit code {code}"),
                }
            }
            (Outcome::Oom, _) => "used more memory than limits.memory allows".to_owned(),
            (_, Some(Exit::Signal(signal))) if outcome == Outcome::Signalled => {
                format!("ended by {}", process::signal_name(signal))
            }
            (Outcome::Interrupted, _) => "the daemon ended while it ran".to_owned(),
            _ => "told to end".to_owned(),
        };
        Some(words)
    }
}

fn lane(capture: &Capture) -> Lane {
    match capture.format {
        _ if capture.errors && capture.events => Lane::Both,
        _ if capture.errors => Lane::Error,
        _ if !capture.events => Lane::Off,
        Format::Text => Lane::Text,
        Format::Json | Format::Document => Lane::Json,
    }
}

async fn next_note(watch: &mut Option<Watch>) -> Note {
    match watch {
        Some(watch) => watch.next().await,
        None => pending().await,
    }
}

async fn sleep_until(due: Option<Tick>) {
    match due {
        Some(at) => clock::sleep_until(at).await,
        None => pending().await,
    }
}
