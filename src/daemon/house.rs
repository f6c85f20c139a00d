//! What the daemon lives in: the root, the queue, the outputs, the results.
//!
//! Opens them in the right order, tells the status what it knows of them, and closes them in the
//! reverse order. Decides nothing about jobs and runs.

use std::collections::BTreeMap;
use std::hash::BuildHasher;
use std::hash::RandomState;
use std::io;
use std::sync::Arc;
use std::sync::Mutex;
use std::time::Duration;

use tokio::sync::watch;

use crate::clock;
use crate::clock::Tick;
use crate::config;
use crate::daemon::Error;
use crate::daemon::claim::Claim;
use crate::daemon::deliveries;
use crate::daemon::deliveries::Deliveries;
use crate::daemon::disk_watch::DiskWatch;
use crate::daemon::forget;
use crate::daemon::harvesters::Harvesters;
use crate::daemon::herald::Herald;
use crate::daemon::identity;
use crate::daemon::keeper;
use crate::daemon::keeper::Keeper;
use crate::daemon::listeners::Listeners;
use crate::daemon::listeners::Shared;
use crate::daemon::missed;
use crate::daemon::missed::Missed;
use crate::daemon::outputs::Outputs;
use crate::daemon::outputs::Views;
use crate::disk::Disk;
use crate::disk::OsDisk;
use crate::disk::Replace;
use crate::event::Notice;
use crate::event::OWN_JOB;
use crate::event::Route;
use crate::event::RunId;
use crate::harvester;
use crate::lumberjack::server::Memory;
use crate::lumberjack::server::Places;
use crate::process;
use crate::process::Cgroups;
use crate::queue;
use crate::queue::JobPast;
use crate::queue::Ledger;
use crate::queue::Level;
use crate::queue::Marks;
use crate::queue::Queue;
use crate::queue::Reader;
use crate::queue::locked;
use crate::results::Results;
use crate::runner;
use crate::runner::Ended;
use crate::runner::Host;
use crate::source::files::slots::Slots;
use crate::source::gather::Limits;
use crate::source::pool::Pool;
use crate::spool::Change;
use crate::status;
use crate::status::Answer;
use crate::status::At;
use crate::status::JobState;
use crate::status::Status;
use crate::supervisor::Mode;
use crate::supervisor::OpenRun;
use crate::supervisor::Past;
use crate::supervisor::QueueLevel;
use crate::supervisor::Snapshot;
use crate::units::Timestamp;

/// How long the queue may take at the end to write its checkpoint. Everything that was promised
/// is on disk before; without the checkpoint the next start reads more of the log.
const CLOSE_PATIENCE: Duration = Duration::from_secs(5);

/// Names of paused jobs in `ROOT/state`, as a JSON list.
const PAUSED: &str = "paused.json";

/// Names of 10,000 jobs, and more than that.
const PAUSED_BYTES_MAX: u64 = 1 << 20;

/// See the module's header.
#[derive(Debug)]
pub(super) struct House {
    claim: Claim,
    started_at: Timestamp,
    started: Tick,
    /// The settings that hold.
    settings: Box<config::Root>,
    /// What of the newest ones holds from the next start.
    needs_restart: Vec<String>,
    herald: Option<Herald>,
    /// How many of the herald's events were dropped, once it is gone.
    dropped: u64,
    /// Whether an output has answered.
    answered: bool,
    /// Given away when the drain begins, like `outputs`.
    queue: Option<Queue>,
    outputs: Option<Outputs>,
    level: watch::Receiver<Level>,
    ledger: Arc<Mutex<Ledger>>,
    marks: Marks,
    /// The outputs that left the configuration.
    frozen: Marks,
    views: Views,
    keeper: Keeper,
    /// None with `--once`, and when the drain has begun.
    listeners: Option<Listeners>,
    disk: DiskWatch,
    missed: Missed,
    /// Configured outputs whose cursors were lost before this start.
    lost_cursors: Vec<String>,
    /// Started with the first host.
    harvesters: Option<Harvesters>,
    /// Likewise.
    deliveries: Option<Deliveries>,
}

/// What the supervisor has to know of the former daemon.
#[derive(Debug)]
pub(crate) struct Before {
    pub(crate) pasts: BTreeMap<String, Past>,
    pub(crate) open: Vec<OpenRun>,
}

impl House {
    /// Opens the queue and starts the outputs. Must be called within a tokio runtime.
    pub(super) fn open(claim: Claim, root: &config::Root) -> Result<(Self, Before), Error> {
        let outputs: Vec<Reader> = readers(root);
        let start = queue::Start {
            disk: Arc::new(OsDisk),
            dir: &claim.root.join("queue"),
            settings: root.queue.clone(),
            outputs: &outputs,
        };
        let handle = tokio::runtime::Handle::current();
        // Before it is opened, so that what that sets aside is told.
        let disk = DiskWatch::new(start.dir);
        let (queue, taps, report) = Queue::start(start, &handle).map_err(Error::Queue)?;
        if report.damaged_records > 0 {
            tracing::error!(
                records = report.damaged_records,
                "records of the queue cannot be read; their events are lost"
            );
        }
        if report.torn_bytes > 0 {
            tracing::warn!(
                bytes = report.torn_bytes,
                "what lay behind the last whole record of the queue was cut off and is kept in its quarantine: a write that was cut short, or a record that was damaged since"
            );
        }
        let ledger = queue.ledger();
        let is_configured = |output: &String| root.outputs.iter().any(|one| one.name == *output);
        let before = before(&locked(&ledger), is_configured);
        let results = Results::new(claim.root.join("results"));
        keeper::settle(&results, &locked(&ledger), clock::now());
        let outputs = Outputs::start(&root.outputs, taps, &claim.root, random());
        let lost_cursors = report.lost_cursors.into_iter().filter(is_configured);
        let house = Self {
            started_at: clock::now(),
            started: clock::tick(),
            lost_cursors: lost_cursors.collect(),
            settings: Box::new(root.clone()),
            needs_restart: Vec::new(),
            herald: None,
            dropped: 0,
            answered: false,
            level: queue.level(),
            marks: queue.marks(),
            frozen: queue.frozen(),
            missed: Missed::new(&locked(&queue.marks())),
            views: outputs.views(),
            queue: Some(queue),
            outputs: Some(outputs),
            ledger,
            keeper: Keeper::new(results, root.results_bytes),
            listeners: None,
            disk,
            harvesters: None,
            deliveries: None,
            claim,
        };
        Ok((house, before))
    }

    /// What runs share, and the harvesters with them; the daemon's own events can be told from here on.
    pub(super) fn host(&mut self, root: &config::Root, mode: Mode) -> Result<Host, Error> {
        let Some(queue) = &self.queue else {
            return Err(Error::Leaving);
        };
        let intake = queue.intake();
        let identity = identity::of_root(&self.claim.root, &root.shape)?;
        let life = RunId::new(self.started_at, random() as u32);
        let route = config::route(&root.outlets(), OWN_JOB);
        self.herald = Some(Herald::start(&identity, &life, route, intake.clone()));
        for output in self.lost_cursors.clone() {
            self.tell(&Notice::CursorLost { output });
        }
        let pool = Pool::new();
        let limits = Limits {
            batch_events: root.queue.batch_events,
            batch_bytes: root.queue.batch_bytes,
        };
        let harvesters = harvester::Host {
            intake: intake.clone(),
            pool: pool.clone(),
            slots: Slots::new(process::open_files_max()),
            identity: identity.clone(),
            limits,
            ledger: Arc::clone(&self.ledger),
            readers: harvester::Readers::default(),
        };
        self.harvesters = Some(Harvesters::start(
            harvesters,
            (Arc::clone(&self.marks), Arc::clone(&self.frozen)),
            self.claim.root.clone(),
            mode != Mode::Serve,
        ));
        let host = Host {
            intake,
            pool,
            identity,
            shim: process::self_exe(),
            environment: std::env::vars_os().collect(),
            limits,
            flush: root.queue.flush,
            cgroups: Cgroups::claim(&self.claim.key()),
            results: Some(Results::new(self.claim.root.join("results"))),
        };
        let root = self.claim.root.clone();
        self.deliveries = Some(Deliveries::start(&host, root, self.started_at));
        Ok(host)
    }

    /// Lets jobs listen for Beats from now on.
    pub(super) fn listen(&mut self, host: &Host, memory: Memory, places: Places) {
        self.listeners = Some(Listeners::new(Shared {
            intake: host.intake.clone(),
            pool: host.pool.clone(),
            limits: host.limits,
            memory,
            places,
        }));
    }

    /// Records the end of a run that was open when the former daemon died.
    pub(super) async fn close_interrupted(
        host: &Host,
        deliveries: Option<Arc<deliveries::Shared>>,
        open: OpenRun,
    ) {
        let route = open.route;
        let run = runner::Open {
            job: open.job,
            run: open.run,
            generation: open.generation,
            trigger: open.trigger,
            scheduled_at: open.scheduled_at,
            started_at: open.at,
        };
        // The job may be gone or another by now: the event goes where its start went, with nothing of its own.
        if let Err(refused) = runner::interrupted(&run, None, route, clock::now(), host).await {
            tracing::error!(job = run.job, run = %run.run, ?refused, "the end of an interrupted run cannot be recorded; the next start tries again");
        } else if let Some(deliveries) = deliveries {
            deliveries.closed(&run.job);
        }
    }

    /// How full the queue is, if that has changed; also does what falls due.
    pub(super) fn look_after(&mut self) -> Option<QueueLevel> {
        let now = clock::tick();
        self.keeper.look_after(now);
        let damaged = self.disk.look_after(now, &self.level.borrow());
        if let Some(parts) = damaged {
            self.tell(&Notice::Quarantined { parts });
        }
        self.tell_missed(Some(now));
        let changed = self.level.has_changed();
        let level = self.level.borrow_and_update();
        if changed.is_err() && self.queue.is_some() {
            // Nobody closed the queue, so its thread has died: no run may begin that cannot be recorded.
            let broken =
                "the queue's writer has died; what was captured is on disk: start the daemon again";
            return Some(QueueLevel {
                bytes: level.held_bytes,
                max_bytes: level.max_bytes,
                broken: Some(broken.to_owned()),
            });
        }
        // After the drain a sender that is gone is as it should be: its last level stays.
        if !changed.unwrap_or(false) {
            return None;
        }
        Some(QueueLevel {
            bytes: level.held_bytes,
            max_bytes: level.max_bytes,
            broken: level.stuck.clone(),
        })
    }

    /// Tells what outputs gave up and skipped, if that is due; without a time all of it.
    fn tell_missed(&mut self, now: Option<Tick>) {
        for notice in self.missed.look(self.views.cursors(), now) {
            self.tell(&notice);
        }
    }

    /// Whether an output has a connection or an ACK, if that is news.
    pub(super) fn has_answered(&mut self) -> bool {
        if self.answered {
            return false;
        }
        let outputs = self.views.status();
        self.answered = outputs.iter().any(|output| output.connections > 0);
        self.answered
    }

    /// Makes an event of what the daemon itself has to tell.
    pub(super) fn tell(&mut self, notice: &Notice) {
        if let Some(herald) = &mut self.herald {
            herald.tell(notice, clock::now());
        }
    }

    /// The jobs that a person has paused.
    ///
    /// # Errors
    /// The file is there and cannot be used.
    pub(super) fn paused(&self) -> Result<Vec<String>, Error> {
        let path = self.claim.root.join("state").join(PAUSED);
        let unusable = |error| Error::Disk {
            path: path.clone(),
            error,
        };
        match OsDisk.read(&path, PAUSED_BYTES_MAX) {
            Ok(bytes) => serde_json::from_slice(&bytes).map_err(|error| unusable(error.into())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
            Err(error) => Err(unusable(error)),
        }
    }

    /// Writes down which jobs are paused; answers the person who wanted it.
    pub(super) fn keep_paused(&self, jobs: &[String]) -> Answer {
        let path = self.claim.root.join("state").join(PAUSED);
        let bytes = serde_json::to_vec(jobs).map_err(io::Error::from);
        match bytes.and_then(|bytes| OsDisk.replace(&path, &bytes, Replace::Durable)) {
            Ok(()) => Answer::Accepted,
            Err(error) => Answer::Refused {
                reason: format!(
                    "done, but a restart of the daemon will not know of it: {} cannot be written: {error}",
                    path.display()
                ),
            },
        }
    }

    /// Has an output pass over the events before `to`.
    pub(super) fn skip(&self, output: &str, to: u64) -> Answer {
        let leaving = || Err("the daemon is stopping".to_owned());
        let outputs = self.outputs.as_ref();
        match outputs.map_or_else(leaving, |outputs| outputs.skip(output, to)) {
            Ok(()) => Answer::Accepted,
            Err(reason) => Answer::Refused { reason },
        }
    }

    /// Takes over what can be taken over of new settings; names what cannot.
    pub(super) fn take_over(&mut self, root: Box<config::Root>) -> Vec<String> {
        let now = &self.settings;
        let held = config::held(&now.outputs, &root.outputs);
        if let Some(outputs) = &self.outputs {
            outputs.change(&held);
        }
        self.needs_restart = config::needs_restart(now, &held, &root);
        self.keeper.set_total_bytes(root.results_bytes);
        // Of what needs a restart the former settings hold.
        let (queue, receiver) = (now.queue.clone(), now.receiver.clone());
        let defaults = root.defaults.of_daemon(&now.defaults, &held);
        *self.settings = config::Root {
            dir: now.dir.clone(),
            defaults,
            outputs: held,
            queue,
            receiver,
            require_output: now.require_output,
            ..*root
        };
        self.needs_restart.clone()
    }

    /// The settings that hold.
    pub(super) const fn settings(&self) -> &config::Root {
        &self.settings
    }

    pub(super) fn seen(&mut self, change: &Change) {
        self.keeper.seen(change);
        if let Some(listeners) = &mut self.listeners {
            listeners.seen(change);
        }
        if let Some(harvesters) = &mut self.harvesters {
            harvesters.seen(change);
        }
        if let Some(deliveries) = &self.deliveries {
            deliveries.seen(change);
        }
    }

    pub(super) fn run_ended(&mut self, ended: &Ended) {
        self.keeper.run_ended();
        if let Some(harvesters) = &mut self.harvesters {
            harvesters.run_ended(ended);
        }
        if let (Some(deliveries), Some(delivery)) = (&self.deliveries, &ended.delivery) {
            deliveries.offer(delivery);
        }
    }

    /// For those who close runs of the former daemon.
    pub(super) fn deliveries(&self) -> Option<Arc<deliveries::Shared>> {
        self.deliveries.as_ref().map(Deliveries::shared)
    }

    /// Waits for ACKs at most `[stop] timeout`, then closes the queue. The future returns how many
    /// events wait for the next start. All runs have ended, so all of theirs is captured.
    pub(super) fn drain(&mut self) -> impl Future<Output = u64> + Send + 'static {
        self.tell_missed(None);
        let (queue, outputs) = (self.queue.take(), self.outputs.take());
        let (herald, level) = (self.herald.take(), self.level.clone());
        self.dropped = herald.as_ref().map_or(0, Herald::dropped);
        let limit = self.settings.stop_timeout;
        let closed = self.listeners.take().map(Listeners::close);
        let harvested = self.harvesters.as_mut().map(|all| all.drain(limit));
        // Works beside the others from here on.
        let delivered = self.deliveries.as_mut().map(|all| all.close(limit));
        async move {
            if let Some(herald) = herald {
                let told = clock::within(limit, herald.close()).await;
                tracing::debug!(?told, "the daemon's own events are told");
            }
            let mut left = 0;
            if let Some(closed) = closed {
                closed.await;
            }
            let cleaner = match harvested {
                Some(harvested) => Some(harvested.await),
                None => None,
            };
            let end = level.borrow().next_seq;
            if let Some(outputs) = outputs {
                left = outputs.drain(end, limit).await;
            }
            if let Some(cleaner) = cleaner {
                cleaner.finish(limit).await;
            }
            if let Some(delivered) = delivered {
                delivered.await;
            }
            if let Some(queue) = queue {
                queue.close(CLOSE_PATIENCE).await;
            }
            left
        }
    }

    /// The whole status: the supervisor's part and what is known here.
    pub(super) fn status(&self, snapshot: Snapshot) -> Status {
        let ledger = locked(&self.ledger);
        let mut jobs = snapshot.jobs;
        for job in &mut jobs {
            job.captured_events = ledger.jobs.get(&job.name).map_or(0, |past| past.captured);
            job.source = self
                .listeners
                .as_ref()
                .and_then(|all| all.status(&job.name));
            let listens = job.source.as_ref().is_some_and(|one| one.problem.is_none());
            if listens && job.state == JobState::Idle {
                job.state = JobState::Listening;
            }
            let harvesters = self.harvesters.as_ref();
            job.files = harvesters.and_then(|all| all.status(&job.name, &ledger));
            let deliveries = self.deliveries.as_ref();
            job.on_result = deliveries.and_then(|all| all.status(&job.name));
        }
        let at_work = self.views.status();
        let required = |output: &&status::Output| {
            let mut outputs = self.settings.outputs.iter();
            outputs.any(|one| one.required && one.name == output.name)
        };
        // Where none is required, all of them.
        let acked = at_work
            .iter()
            .filter(required)
            .map(|output| output.acked_events)
            .min();
        let acked = acked.or_else(|| at_work.iter().map(|output| output.acked_events).min());
        Status {
            daemon: status::Daemon {
                version: env!("CARGO_PKG_VERSION").to_owned(),
                pid: std::process::id(),
                root: self.claim.root.display().to_string(),
                started_at: At(self.started_at),
                uptime_ms: status::millis(clock::tick().since(self.started)),
                state: snapshot.state,
                paused: snapshot.paused,
                unreadable: snapshot.unreadable,
                settings_problems: snapshot.settings_problems,
                needs_restart: self.needs_restart.clone(),
                notices_dropped: self.herald.as_ref().map_or(self.dropped, Herald::dropped),
            },
            totals: status::Totals {
                captured_events: ledger.queued(),
                acked_events: acked.unwrap_or(0),
                waiting_events: self.waiting_events(),
                lost_events: ledger.lost,
                deliveries: self
                    .deliveries
                    .as_ref()
                    .map_or(status::Deliveries::NONE, Deliveries::totals),
                sources: ledger.counters,
            },
            queue: status::Queue {
                lost_cursors: self.lost_cursors.clone(),
                ..self.disk.status(&self.level.borrow())
            },
            outputs: self.views.all(&ledger, &self.marks, &self.frozen),
            jobs,
        }
    }

    fn is_configured(&self, name: &str) -> bool {
        let mut outputs = self.settings.outputs.iter();
        outputs.any(|output| output.name == name)
    }

    /// Has nothing wait for an output any more that left the configuration.
    ///
    /// # Errors
    /// Why that is not done, in words.
    pub(super) fn forget_output(
        &mut self,
        output: String,
    ) -> Result<impl Future<Output = Answer> + Send + 'static, String> {
        if self.is_configured(&output) {
            return Err(format!(
                "output `{output}` is at work; remove it from spoolbeat.toml and restart the daemon first"
            ));
        }
        config::check_name(&output)?;
        let Some(queue) = &self.queue else {
            return Err("the daemon is leaving".to_owned());
        };
        let dir = self.claim.root.join("queue");
        let frozen = Arc::clone(&self.frozen);
        let cursor = locked(&frozen).get(&output).copied();
        let notice =
            cursor.and_then(|at| missed::forgotten(&output, &at, queue.level().borrow().next_seq));
        let letter = self
            .herald
            .as_mut()
            .zip(notice)
            .map(|(herald, notice)| herald.letter(&notice, clock::now()));
        Ok(forget::live(dir, queue.intake(), frozen, output, letter))
    }

    /// How many events the output that is furthest behind has not been acknowledged.
    pub(super) fn waiting_events(&self) -> u64 {
        let outputs = self.views.status();
        let waiting = outputs.iter().map(|output| output.waiting_events).max();
        waiting.unwrap_or(0)
    }

    /// Lets everything go, the lock last.
    pub(super) async fn leave(self) {
        let Self {
            claim,
            outputs,
            keeper,
            ..
        } = self;
        keeper.finish().await;
        drop(outputs);
        drop(claim.root_lock);
        drop(claim.lock);
    }
}

/// The configured outputs as the queue sees them.
fn readers(root: &config::Root) -> Vec<Reader> {
    let reader = |output: &config::Output| Reader {
        output: output.name.clone(),
        start: output.start,
        required: output.required,
    };
    root.outputs.iter().map(reader).collect()
}

/// A number that no other process has, most likely.
pub(super) fn random() -> u64 {
    RandomState::new().hash_one(std::process::id())
}

/// What the log says of the time before this start; nothing that comes now is for an output that left.
pub(crate) fn before(ledger: &Ledger, is_configured: impl Fn(&String) -> bool) -> Before {
    let jobs = ledger.jobs.iter();
    let open = ledger.open.iter();
    let route = |outputs: &[String]| {
        let wanted = outputs.iter().filter(|output| is_configured(output));
        Route::to(wanted.cloned().collect())
    };
    Before {
        pasts: jobs
            .map(|(job, past)| (job.clone(), past_of(past)))
            .collect(),
        open: open
            .map(|(run, open)| OpenRun {
                run: run.clone(),
                job: open.job.clone(),
                generation: open.generation.clone(),
                trigger: open.trigger,
                scheduled_at: open.scheduled_at.map(Timestamp),
                route: route(&open.outputs),
                at: Timestamp(open.at),
            })
            .collect(),
    }
}

fn past_of(past: &JobPast) -> Past {
    Past {
        last_fire: past.last_fire.map(Timestamp),
        last_success_at: past.last_success_at.map(Timestamp),
        done_generation: past.done_generation.clone(),
        first_run_done: past.first_run_done,
        last_run: past.last_run.as_ref().map(|last| status::LastRun {
            run: last.run.clone(),
            outcome: last.outcome,
            reason: None,
            started_at: At(Timestamp(last.started_at)),
            ended_at: At(Timestamp(last.at)),
            duration_ms: status::millis(Timestamp(last.at).since(Timestamp(last.started_at))),
        }),
        runs: status::Outcomes::default(),
    }
}
