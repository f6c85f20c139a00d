//! Harvesters: one task per job that reads files, and the cleaner for all of them.
//!
//! The driver of `source::files`: it gives the time, a thread and memory for each look, hands the
//! portions to the queue, and looks again when something changes. Each look and each watch is done with
//! the rights of the job's user. Must never know schedules, runs or where events go.

use std::collections::BTreeMap;
use std::collections::VecDeque;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::Mutex;
use std::time::Duration;

use tokio::sync::OwnedSemaphorePermit;
use tokio::sync::mpsc;
use tokio::sync::watch;

use crate::clock;
use crate::clock::Tick;
use crate::event::envelope::Identity;
use crate::job::Files;
use crate::job::Format;
use crate::job::Job;
use crate::job::When;
use crate::process::User;
use crate::process::as_user;
use crate::queue::Captured;
use crate::queue::Intake;
use crate::queue::Ledger;
use crate::queue::Portion;
use crate::queue::Refused;
use crate::queue::locked;
use crate::source::files::Harvest;
use crate::source::files::Look;
use crate::source::files::Looked;
use crate::source::files::Now;
use crate::source::files::Setup;
use crate::source::files::View;
use crate::source::files::Wanted;
use crate::source::files::pattern::Pattern;
use crate::source::files::slots::Slots;
use crate::source::gather::Limits;
use crate::source::pool::Pool;

pub mod cleaner;
mod watches;

use watches::Watches;

/// Portions of one job that the queue has not captured yet. As with runs: four cover the time of a
/// sync at full rate; at the limit nothing is read.
const UNCAPTURED_MAX: usize = 4;

/// Least time between two looks that a change asked for: a file that is written to line by line
/// would be looked at for each of them.
const LOOK_GAP: Duration = Duration::from_millis(50);

/// Least time between two scans that changes of names asked for.
const SCAN_GAP: Duration = Duration::from_millis(200);

/// A scan may take this share of the time, however many files there are.
const SCAN_REST: u32 = 20;

/// How soon the log is asked what became of a clean-up.
const ASK_EVERY: Duration = Duration::from_secs(1);

/// Orders that may lie before one harvester: the one of a run's end may be given several times, and
/// means the same.
pub const ORDERS_MAX: usize = 8;

/// What all harvesters of a daemon share.
#[derive(Debug)]
pub struct Host {
    /// The door to the queue.
    pub intake: Intake,
    /// Memory for what is gathered.
    pub pool: Pool,
    /// How many files are held open.
    pub slots: Slots,
    /// Who ships.
    pub identity: Identity,
    /// When a portion is full.
    pub limits: Limits,
    /// What the log adds up to.
    pub ledger: Arc<Mutex<Ledger>>,
    /// What each job at work reads.
    pub readers: Readers,
}

/// What each job at work reads.
pub type Readers = Arc<Mutex<BTreeMap<String, Arc<Setup>>>>;

/// What a harvester may be told. That nobody can tell it anything any more means: stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// A run of the job has ended.
    RunEnded,
    /// Read everything that is there, then stop.
    Last,
}

/// What a job harvests; `home` is where its relative paths begin.
#[must_use]
pub fn setup(job: &Job, home: &Path, host: &Host, seed: u64) -> Setup {
    Setup {
        job: job.name.as_str().into(),
        generation: job.generation.clone(),
        fields: job.fields.clone(),
        user: job.rights.user.clone(),
        route: job.route.clone(),
        waits_for: job.waits_for.clone(),
        identity: host.identity.clone(),
        limits: host.limits,
        slots: host.slots.of_another_job(),
        wanted: job
            .files
            .iter()
            .map(|files| wanted(files, &job.tags, home))
            .collect(),
        seed,
    }
}

fn wanted(files: &Files, tags: &[String], home: &Path) -> Wanted {
    // All of them were found good when the job was checked.
    let patterns = |texts: &[String]| -> Vec<Pattern> {
        texts
            .iter()
            .filter_map(|text| Pattern::parse(text, home).ok())
            .collect()
    };
    Wanted {
        patterns: patterns(&files.paths),
        exclude: patterns(&files.exclude),
        at_run_end: files.when == When::RunEnd,
        json: files.format == Format::Json,
        max_event: files.max_event,
        tags: tags.iter().chain(&files.tags).cloned().collect(),
        partial_timeout: files.partial_timeout,
        after_ack: files.after_ack.clone(),
        quiet: files.quiet,
        roots: files.roots.clone(),
        prune: files.prune,
    }
}

/// A job's harvest at work.
struct Harvester {
    host: Arc<Host>,
    user: User,
    /// `None` only while a look has it.
    harvest: Option<Harvest>,
    watches: Watches,
    uncaptured: VecDeque<(Captured, OwnedSemaphorePermit)>,
    /// What one look may gather, in units of the pool.
    room: u32,
    scan_every: Duration,
    /// When the next scan is due.
    scan_at: Tick,
    /// When it may come at the earliest, if names have changed.
    scan_rest: Tick,
    last: bool,
}

/// Harvests for one job until it is told to stop, or the queue takes no more. `scan` is the
/// shortest of its files' times between two scans.
pub async fn harvest(
    setup: Arc<Setup>,
    scan: Duration,
    after_crash: bool,
    host: Arc<Host>,
    mut orders: mpsc::Receiver<Order>,
    views: watch::Sender<View>,
) {
    let known = locked(&host.ledger)
        .files
        .iter()
        .filter(|(_, past)| *past.of.job == *setup.job)
        .map(|(file, past)| (file.clone(), past.clone()))
        .collect();
    let longest = setup.wanted.iter().map(|wanted| wanted.max_event).max();
    let bytes = usize::try_from(setup.limits.batch_bytes).unwrap_or(usize::MAX);
    let harvester = Harvester {
        room: Pool::units(bytes.saturating_add(longest.unwrap_or(0))),
        harvest: Some(Harvest::new(Setup::clone(&setup), known, after_crash)),
        watches: Watches::new(&setup.user),
        user: setup.user.clone(),
        uncaptured: VecDeque::new(),
        scan_every: scan,
        scan_at: Tick::default(),
        scan_rest: Tick::default(),
        last: false,
        host,
    };
    let job = Arc::clone(&setup.job);
    match harvester.go_on(&mut orders, &views).await {
        Ok(()) | Err(Refused::Closed) => {}
        Err(Refused::Broken(why)) => {
            tracing::error!(job = &*job, why, "files are not read any more");
            views.send_modify(|view| view.problem = Some(why));
        }
    }
}

impl Harvester {
    async fn go_on(
        mut self,
        orders: &mut mpsc::Receiver<Order>,
        views: &watch::Sender<View>,
    ) -> Result<(), Refused> {
        loop {
            loop {
                match orders.try_recv() {
                    Ok(order) => self.take(order),
                    Err(mpsc::error::TryRecvError::Empty) => break,
                    Err(mpsc::error::TryRecvError::Disconnected) if self.last => break,
                    Err(mpsc::error::TryRecvError::Disconnected) => return self.settle().await,
                }
            }
            let (more, wake) = self.look(views).await?;
            if more {
                continue;
            }
            if self.last {
                return self.settle().await;
            }
            self.wait(orders, wake).await?;
        }
    }

    fn take(&mut self, order: Order) {
        self.scan_at = Tick::default();
        match order {
            Order::RunEnded => {
                if let Some(harvest) = &mut self.harvest {
                    harvest.run_ended();
                }
            }
            Order::Last => self.last = true,
        }
    }

    /// One look: memory, a thread, and its portion on its way.
    async fn look(&mut self, views: &watch::Sender<View>) -> Result<(bool, Option<Tick>), Refused> {
        while self.uncaptured.len() >= UNCAPTURED_MAX {
            self.captured().await?;
        }
        let mut room = self.host.pool.reserve(self.room).await;
        self.resolve();
        let started = clock::tick();
        let look = match (self.last, started >= self.scan_at) {
            (true, _) => Look::Last,
            (false, true) => Look::Scan,
            (false, false) => Look::Open,
        };
        let now = Now {
            wall: clock::now(),
            tick: started,
        };
        let Some(mut harvest) = self.harvest.take() else {
            return Err(Refused::Closed);
        };
        let user = self.user.clone();
        let looking = tokio::task::spawn_blocking(move || {
            let looked = as_user(&user, || harvest.look(now, look));
            (harvest, looked)
        });
        let Ok((harvest, looked)) = looking.await else {
            return Err(Refused::Broken("a look at files has panicked".to_owned()));
        };
        let mut view = harvest.view();
        let looked = looked.unwrap_or_else(|error| {
            view.problem = Some(format!("cannot act as user {}: {error}", self.user.name));
            Looked {
                wake: Some(clock::tick().after(self.scan_every)),
                ..Looked::default()
            }
        });
        views.send_replace(view);
        if look >= Look::Scan {
            let done = clock::tick();
            let rest = done.since(started).saturating_mul(SCAN_REST).max(SCAN_GAP);
            self.scan_rest = done.after(rest);
            self.scan_at = done.after(rest.max(self.scan_every));
            self.watches.keep(harvest.folders());
        }
        let asks = harvest.asked().next().is_some();
        self.harvest = Some(harvest);
        if let Some(portion) = looked.portion {
            let used = Pool::units(portion.frames.bytes().len()) as usize;
            let spare = room.num_permits().saturating_sub(used.max(1));
            drop(room.split(spare));
            self.submit(portion, room).await?;
        }
        let soon = asks.then(|| clock::tick().after(ASK_EVERY));
        Ok((looked.more, [looked.wake, soon].into_iter().flatten().min()))
    }

    async fn submit(
        &mut self,
        portion: Portion,
        room: OwnedSemaphorePermit,
    ) -> Result<(), Refused> {
        let captured = self.host.intake.submit(portion).await?;
        self.uncaptured.push_back((captured, room));
        Ok(())
    }

    /// Asks the log what became of clean-ups. Only when all that was handed over is in it.
    fn resolve(&mut self) {
        let Some(harvest) = &mut self.harvest else {
            return;
        };
        if !self.uncaptured.is_empty() {
            return;
        }
        let asked: Vec<Arc<str>> = harvest.asked().cloned().collect();
        if asked.is_empty() {
            return;
        }
        let ledger = locked(&self.host.ledger);
        for file in asked {
            match ledger.files.get(&*file) {
                None => harvest.over(&file),
                Some(past) if past.releasing => {}
                Some(past) => harvest.settled(&file, past.release.is_some()),
            }
        }
    }

    /// Waits for a change, an order, or the time.
    async fn wait(
        &mut self,
        orders: &mut mpsc::Receiver<Order>,
        wake: Option<Tick>,
    ) -> Result<(), Refused> {
        let earliest = clock::tick().after(LOOK_GAP);
        loop {
            let wake = wake.map_or(self.scan_at, |wake| wake.min(self.scan_at));
            let changed = tokio::select! {
                order = orders.recv() => {
                    // The end of orders is seen before the next look.
                    if let Some(order) = order {
                        self.take(order);
                    }
                    return Ok(());
                }
                captured = next_captured(&mut self.uncaptured) => {
                    captured?;
                    self.uncaptured.pop_front();
                    continue;
                }
                changed = self.watches.changed() => changed,
                () = clock::sleep_until(wake) => return Ok(()),
            };
            if changed == watches::Change::Names {
                self.scan_at = self.scan_at.min(self.scan_rest);
            }
            clock::sleep_until(earliest).await;
            return Ok(());
        }
    }

    async fn captured(&mut self) -> Result<(), Refused> {
        next_captured(&mut self.uncaptured).await?;
        self.uncaptured.pop_front();
        Ok(())
    }

    /// Waits until everything is captured.
    async fn settle(mut self) -> Result<(), Refused> {
        while !self.uncaptured.is_empty() {
            self.captured().await?;
        }
        Ok(())
    }
}

/// Waits for the oldest portion; for ever when there is none.
async fn next_captured(
    uncaptured: &mut VecDeque<(Captured, OwnedSemaphorePermit)>,
) -> Result<(), Refused> {
    match uncaptured.front_mut() {
        // A queue that drops the question is closing.
        Some((captured, _)) => captured.await.unwrap_or(Err(Refused::Closed)).map(drop),
        None => std::future::pending().await,
    }
}

/// Where a job's relative paths begin: `state/<job>/data`.
#[must_use]
pub fn home(state: &Path, job: &str) -> PathBuf {
    state.join(job).join("data")
}
