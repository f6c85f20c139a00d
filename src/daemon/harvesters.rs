//! The harvesters as the daemon sees them: one per job with files, started, replaced and ended; and
//! the cleaner.
//!
//! Knows no file: that is `harvester`.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::clock;
use crate::harvester::Host;
use crate::harvester::ORDERS_MAX;
use crate::harvester::Order;
use crate::harvester::cleaner;
use crate::harvester::cleaner::Cleaner;
use crate::harvester::harvest;
use crate::harvester::home;
use crate::harvester::setup;
use crate::job::Job;
use crate::process::User;
use crate::queue::Ledger;
use crate::queue::Marks;
use crate::queue::locked;
use crate::runner::Ended;
use crate::source::files::View;
use crate::spool::Change;
use crate::status;

/// One job's harvester; it is the last one's when `orders` is gone and the task still ends.
#[derive(Debug)]
struct Live {
    generation: String,
    /// Whose rights it has: they may change with `[defaults]` and with the user database.
    user: User,
    orders: Option<mpsc::Sender<Order>>,
    task: JoinHandle<()>,
    view: watch::Receiver<View>,
}

/// See the module's header.
#[derive(Debug)]
pub(super) struct Harvesters {
    /// Given up when the drain begins.
    host: Option<Arc<Host>>,
    live: BTreeMap<String, Live>,
    /// `ROOT/state`.
    state: PathBuf,
    complete: Arc<AtomicBool>,
    cleaner: Option<(JoinHandle<()>, watch::Sender<bool>)>,
    /// Whether everything that is there is read before the end.
    to_the_end: bool,
}

impl Harvesters {
    /// Starts the cleaner, with the cursors of the outputs and of those that left the configuration;
    /// harvesters follow the jobs. Must be called within a tokio runtime.
    pub(super) fn start(
        host: Host,
        (marks, frozen): (Marks, Marks),
        root: PathBuf,
        to_the_end: bool,
    ) -> Self {
        let host = Arc::new(host);
        let complete = Arc::new(AtomicBool::new(false));
        let (stop, stopped) = watch::channel(false);
        let state = root.join("state");
        let cleaner = Cleaner {
            host: Arc::clone(&host),
            marks,
            frozen,
            root,
            complete: Arc::clone(&complete),
        };
        Self {
            cleaner: Some((tokio::spawn(cleaner::clean(cleaner, stopped)), stop)),
            host: Some(host),
            live: BTreeMap::new(),
            state,
            complete,
            to_the_end,
        }
    }

    /// Follows a change of the jobs.
    pub(super) fn seen(&mut self, change: &Change) {
        match change {
            Change::Loaded(job) if job.enabled && !job.files.is_empty() => self.load(job),
            Change::Loaded(job) => self.unload(&job.name),
            Change::Removed { job } => self.unload(job),
            Change::Complete => self.complete.store(true, Ordering::Relaxed),
            Change::Refused { .. } | Change::Unreadable { .. } | Change::Readable => {}
        }
    }

    fn load(&mut self, job: &Job) {
        let Some(host) = &self.host else { return };
        let before = self.live.remove(&job.name);
        if let Some(live) = before {
            if live.generation == job.generation
                && live.user == job.rights.user
                && live.orders.is_some()
            {
                self.live.insert(job.name.clone(), live);
                return;
            }
            self.begin(job, Arc::clone(host), Some(live.task));
        } else {
            self.begin(job, Arc::clone(host), None);
        }
    }

    /// Starts a harvester, after the one before has handed over its last positions.
    fn begin(&mut self, job: &Job, host: Arc<Host>, before: Option<JoinHandle<()>>) {
        let home = home(&self.state, &job.name);
        let setup = Arc::new(setup(job, &home, &host, super::house::random()));
        locked(&host.readers).insert(job.name.clone(), Arc::clone(&setup));
        let (orders, taken) = mpsc::channel(ORDERS_MAX);
        let (views, view) = watch::channel(View::default());
        let scan = job.files.iter().map(|files| files.scan).min();
        let scan = scan.unwrap_or(Duration::MAX);
        let task = tokio::spawn(async move {
            let first = before.is_none();
            if let Some(before) = before {
                // A panic in it was told; the log has its positions.
                drop(before.await);
            }
            harvest(setup, scan, first, host, taken, views).await;
        });
        let live = Live {
            generation: job.generation.clone(),
            user: job.rights.user.clone(),
            orders: Some(orders),
            task,
            view,
        };
        self.live.insert(job.name.clone(), live);
    }

    fn unload(&mut self, job: &str) {
        if let Some(live) = self.live.get_mut(job) {
            live.orders = None;
        }
        if let Some(host) = &self.host {
            locked(&host.readers).remove(job);
        }
    }

    /// Files that wait for the end of a run are read now.
    pub(super) fn run_ended(&mut self, ended: &Ended) {
        if let Some(Live {
            orders: Some(orders),
            ..
        }) = self.live.get(&ended.job.name)
        {
            // A full channel holds the same order already.
            let sent = orders.try_send(Order::RunEnded);
            tracing::trace!(job = ended.job.name, ?sent, "the run's files are read");
        }
    }

    /// Ends the harvesters within `limit`; the future returns what the cleaner is ended by, once the
    /// outputs have passed what they could.
    pub(super) fn drain(&mut self, limit: Duration) -> impl Future<Output = Last> + Send + use<> {
        self.host = None;
        let mut tasks = Vec::new();
        for live in self.live.values_mut() {
            if let Some(orders) = live.orders.take()
                && self.to_the_end
            {
                let sent = orders.try_send(Order::Last);
                tracing::trace!(?sent, "files are read to their ends");
            }
        }
        for (job, live) in std::mem::take(&mut self.live) {
            tasks.push((job, live.task));
        }
        let cleaner = self.cleaner.take();
        async move {
            let all = async {
                for (_, task) in &mut tasks {
                    // A panic was told where it happened.
                    drop(task.await);
                }
            };
            if clock::within(limit, all).await.is_none() {
                tracing::warn!("not all files were read to their ends; the next start goes on");
                for (_, task) in &tasks {
                    task.abort();
                }
            }
            Last(cleaner)
        }
    }

    /// What `status` says of a job's files; `None` for a job that reads none.
    pub(super) fn status(&self, job: &str, ledger: &Ledger) -> Option<status::Files> {
        let counts = ledger.jobs.get(job).map(|past| past.files);
        let view = self.live.get(job).filter(|live| live.orders.is_some());
        let view = view.map(|live| live.view.borrow().clone());
        if view.is_none() && counts.unwrap_or_default() == Default::default() {
            return None;
        }
        let (view, counts) = (view.unwrap_or_default(), counts.unwrap_or_default());
        let mut of_job = ledger.files.values().filter(|past| past.of.job == job);
        Some(status::Files {
            tracked: view.tracked,
            open: view.open,
            behind_bytes: view.behind_bytes,
            refused_files: view.refused,
            waiting_releases: cleaner::waiting(ledger, job),
            released: counts.released,
            refused_releases: counts.refused,
            partial_lines: counts.partial_lines,
            cut_short: counts.cut_short,
            lost_bytes: counts.lost_bytes,
            kept: of_job.find_map(|past| {
                let reason = past.kept.as_ref()?;
                Some(format!("{}: {reason}", past.of.path))
            }),
            problem: view.problem,
        })
    }
}

/// The cleaner, which works until the last ACK.
#[derive(Debug)]
pub(super) struct Last(Option<(JoinHandle<()>, watch::Sender<bool>)>);

impl Last {
    /// One more round, at most `limit`, then the end.
    pub(super) async fn finish(self, limit: Duration) {
        let Some((mut task, stop)) = self.0 else {
            return;
        };
        stop.send_replace(true);
        if clock::within(limit, &mut task).await.is_none() {
            task.abort();
        }
    }
}
