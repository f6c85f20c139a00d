//! One run from start to result.
//!
//! The driver of the pure machine in `run`: it turns what the script, the queue, the clock and
//! people do into inputs, and carries out the effects. The order in which things become durable
//! is the point: the fire before the spawn, every line before the end, the end before the result.
//! Must never know schedules, other runs or where events go.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::sync::mpsc;

use crate::event::Route;
use crate::event::RunId;
use crate::event::envelope::Counts;
use crate::event::envelope::Identity;
use crate::event::envelope::Labels;
use crate::job::Job;
use crate::job::Task;
use crate::process::Cgroups;
use crate::queue::Fact;
use crate::queue::Intake;
use crate::queue::Portion;
use crate::queue::Refused;
use crate::results::Results;
use crate::run::Exit;
use crate::run::Outcome;
use crate::run::Trigger;
use crate::runner::driver::Driver;
use crate::source::gather::End;
use crate::source::gather::Gather;
use crate::source::gather::Lane;
use crate::source::gather::Lanes;
use crate::source::gather::Limits;
use crate::source::pool::Pool;
use crate::units::Timestamp;

mod driver;
mod environment;
mod log_lines;
mod output;
mod plugin;
mod uplink;

pub use crate::run::Order;
pub use plugin::Courier;
pub use plugin::Delivery;
pub use plugin::Tried;
pub use plugin::deliver;

/// What all runs of a daemon share.
#[derive(Debug)]
pub struct Host {
    /// The door to the queue.
    pub intake: Intake,
    /// Memory for gathered output.
    pub pool: Pool,
    /// Who ships.
    pub identity: Identity,
    /// The executable that shims are started from; see `process::self_exe`.
    pub shim: PathBuf,
    /// The daemon's own environment.
    pub environment: BTreeMap<OsString, OsString>,
    /// When gathered events are handed over.
    pub limits: Limits,
    /// Longest time an event waits for others before it is handed over.
    pub flush: Duration,
    /// Where runs get a cgroup each; `None`: they get none.
    pub cgroups: Option<Cgroups>,
    /// Where results go; `None`: nowhere.
    pub results: Option<Results>,
}

/// What is to be run.
#[derive(Debug, Clone)]
pub struct Spec {
    /// The job, one generation of it.
    pub job: Arc<Job>,
    /// What of it is run: in each phase another script.
    pub task: Arc<Task>,
    /// The run.
    pub run: RunId,
    /// Why.
    pub trigger: Trigger,
    /// The tick it belongs to.
    pub scheduled_at: Option<Timestamp>,
    /// Start of the last successful run whose last event is durable.
    pub last_success_at: Option<Timestamp>,
    /// `state/<job>/data`.
    pub state_dir: PathBuf,
}

/// How far a run is; written by the run, read by `status`.
#[derive(Debug, Default)]
pub struct Progress {
    /// Lines of both streams.
    pub lines: AtomicU64,
    /// Bytes read from both streams.
    pub bytes: AtomicU64,
    /// Events that are durable, the run's own among them.
    pub captured: AtomicU64,
    /// Lines that were cut because they were too long.
    pub lines_cut: AtomicU64,
    /// Whether its script has ended; what it printed, and its end, may have to wait for the queue.
    pub script_over: AtomicBool,
}

impl Progress {
    fn note(&self, counts: &Counts) {
        let lines = counts.stdout_lines + counts.stderr_lines;
        self.lines.store(lines, Ordering::Relaxed);
        self.bytes.store(counts.bytes_read, Ordering::Relaxed);
        self.lines_cut.store(counts.lines_cut, Ordering::Relaxed);
    }
}

/// What became of a run; sent when its end event is durable.
#[derive(Debug, Clone)]
pub struct Ended {
    /// The run.
    pub run: RunId,
    /// Its job.
    pub job: Arc<Job>,
    /// How it ended.
    pub outcome: Outcome,
    /// How its process ended; `None` when there was none.
    pub exit: Option<Exit>,
    /// Reason in words, for everything but success.
    pub reason: Option<String>,
    /// When it was started.
    pub started_at: Timestamp,
    /// When it ended.
    pub at: Timestamp,
    /// How long it took, by the monotonic clock.
    pub took: Duration,
    /// Its result, if there is one and somebody is to be told of it.
    pub delivery: Option<Box<Delivery>>,
}

/// Runs `spec` and returns when the end of it is durable, or when the queue takes no more: the
/// script is killed then, and the next start of the daemon finds the run open.
///
/// `orders` may be closed at any time, which asks for nothing. Dropping the future kills the
/// script and leaves the run open.
pub async fn run(
    spec: Spec,
    host: Arc<Host>,
    orders: mpsc::Receiver<Order>,
    progress: Arc<Progress>,
) -> Ended {
    Driver::new(spec, host, orders, progress).drive().await
}

/// A run that the ledger says was open when the daemon started.
#[derive(Debug, Clone, PartialEq)]
pub struct Open {
    /// Its job.
    pub job: String,
    /// The run.
    pub run: RunId,
    /// The job's generation.
    pub generation: String,
    /// Why it was started.
    pub trigger: Trigger,
    /// The tick it belongs to.
    pub scheduled_at: Option<Timestamp>,
    /// When it was started.
    pub started_at: Timestamp,
}

/// Closes a run that died with an earlier daemon, at `at`: records its end as
/// [`Outcome::Interrupted`], then its result. `job` is the job as it is now, if there still is
/// one: it lends the event its tags and fields. The event goes to `route`.
///
/// # Errors
/// The queue takes no more; the run is still open.
pub async fn interrupted(
    open: &Open,
    job: Option<&Job>,
    route: Route,
    at: Timestamp,
    host: &Host,
) -> Result<(), Refused> {
    let portion = end_of_interrupted(open, job, route, at, host.limits, &host.identity);
    let captured = host.intake.submit(portion).await?;
    captured.await.unwrap_or(Err(Refused::Closed))?;
    if let Some(results) = &host.results {
        let settled = results.settle(
            &open.job,
            &open.run,
            Outcome::Interrupted,
            at,
            Some(INTERRUPTED),
        );
        if let Err(note) = settled {
            tracing::warn!(job = open.job, run = %open.run, note, "the result cannot be written");
        }
    }
    Ok(())
}

/// Why a run is recorded as interrupted.
const INTERRUPTED: &str = "the daemon ended while it ran";

/// The end of a run that died with an earlier daemon, as the queue is told it; see [`interrupted`].
pub(crate) fn end_of_interrupted(
    open: &Open,
    job: Option<&Job>,
    route: Route,
    at: Timestamp,
    limits: Limits,
    identity: &Identity,
) -> Portion {
    let no_fields = serde_json::Map::new();
    let labels = Labels {
        job: &open.job,
        run: &open.run,
        generation: &open.generation,
        trigger: open.trigger.name(),
        scheduled_at: open.scheduled_at,
        tags: job.map_or(&[], |job| &job.tags),
        fields: job.map_or(&no_fields, |job| &job.fields),
    };
    let lanes = Lanes {
        stdout: Lane::Off,
        stderr: Lane::Off,
    };
    let mut gather = Gather::new(limits, route, identity, &labels, lanes);
    // Written once more to count it: its number belongs to the event that the dead daemon captured.
    gather.run_started(open.started_at, None);
    drop(gather.take());
    gather.run_ended(&End {
        started_at: open.started_at,
        at,
        took: at.since(open.started_at),
        outcome: Outcome::Interrupted,
        exit: None,
        pid: None,
        reason: Some(INTERRUPTED),
    });
    let mut portion = gather.take();
    portion.facts.push(Fact::Ended {
        job: open.job.clone(),
        run: open.run.clone(),
        generation: open.generation.clone(),
        trigger: open.trigger,
        outcome: Outcome::Interrupted,
        started_at: open.started_at.0,
        at: at.0,
    });
    portion
}
