//! Results on their way to the plugins of their jobs: one task that starts what is due.
//!
//! Nothing waits for it: neither runs nor schedules nor the queue. What is left at the end, and
//! what a crash leaves, is found in the results and tried by the next start: at least once while
//! its result is kept. Decides nothing: that is `plan`.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::Mutex;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::task::Id;
use tokio::task::JoinHandle;
use tokio::task::JoinSet;

use crate::clock;
use crate::clock::Tick;
use crate::config::Plugins;
use crate::disk;
use crate::event::RunId;
use crate::job::Job;
use crate::process;
use crate::queue::locked;
use crate::results;
use crate::results::DeliveryState;
use crate::results::Record;
use crate::results::Results;
use crate::run::Trigger;
use crate::runner;
use crate::runner::Courier;
use crate::runner::Delivery;
use crate::runner::Host;
use crate::runner::Spec;
use crate::runner::Tried;
use crate::spool::Change;
use crate::status;
use crate::units::Timestamp;
use crate::units::show_duration;

use plan::Item;
use plan::Plan;
use plan::Verdict;

mod plan;

/// Longest sleep without a look at the plan; only a wait of the plan's own is ever shorter.
const IDLE: Duration = Duration::from_secs(3600);

/// What a stop waits beyond its limit, for plugins to be killed.
const SLACK: Duration = Duration::from_secs(1);

/// See the module's header.
#[derive(Debug)]
pub(super) struct Deliveries {
    shared: Arc<Shared>,
    task: Option<JoinHandle<()>>,
}

/// What the task and those who ask have in common.
#[derive(Debug)]
pub(super) struct Shared {
    courier: Courier,
    /// `ROOT/state`.
    state: PathBuf,
    /// Runs from then on are this daemon's own.
    started_at: Timestamp,
    plan: Mutex<Plan<Delivery>>,
    wake: Notify,
    left: Mutex<Left>,
}

/// What former daemons left.
#[derive(Debug, Default)]
struct Left {
    /// The jobs that tell somebody of their results, as they are now.
    jobs: BTreeMap<String, Arc<Job>>,
    /// Runs that were found and taken: at most as many as may wait.
    taken: BTreeSet<RunId>,
}

impl Deliveries {
    /// Starts the task for runs of `host` in the root directory `root`. Must be called within a tokio runtime.
    pub(super) fn start(host: &Host, root: PathBuf, started_at: Timestamp) -> Self {
        let shared = Arc::new(Shared {
            courier: Courier {
                results: Results::new(root.join("results")),
                plugins: Plugins::new(&root, process::own_uid()),
                shim: host.shim.clone(),
                environment: host.environment.clone(),
                cgroups: host.cgroups.clone(),
            },
            state: root.join("state"),
            started_at,
            plan: Mutex::new(Plan::new()),
            wake: Notify::new(),
            left: Mutex::default(),
        });
        Self {
            task: Some(tokio::spawn(work(Arc::clone(&shared)))),
            shared,
        }
    }

    /// For those who find what was left.
    pub(super) fn shared(&self) -> Arc<Shared> {
        Arc::clone(&self.shared)
    }

    /// Takes the result of a run that has ended.
    pub(super) fn offer(&self, delivery: &Delivery) {
        self.shared.offer(delivery.clone(), 0);
    }

    /// Follows a change of the jobs.
    pub(super) fn seen(&self, change: &Change) {
        match change {
            Change::Loaded(job) if job.on_result.is_some() => {
                let mut left = locked(&self.shared.left);
                let before = left.jobs.insert(job.name.clone(), Arc::clone(job));
                if before.is_none() {
                    self.shared.find(Arc::clone(job));
                }
            }
            Change::Loaded(job) => self.forget(&job.name),
            Change::Removed { job } => self.forget(job),
            Change::Refused { .. }
            | Change::Unreadable { .. }
            | Change::Readable
            | Change::Complete => {}
        }
    }

    fn forget(&self, job: &str) {
        locked(&self.shared.left).jobs.remove(job);
        locked(&self.shared.plan).forget(job);
    }

    /// What `status` says of a job; `None` for one that tells nobody.
    pub(super) fn status(&self, job: &str) -> Option<status::OnResult> {
        let left = locked(&self.shared.left);
        let told = left.jobs.get(job)?.on_result.as_ref()?;
        let (counts, last_error) = locked(&self.shared.plan).of_job(job);
        Some(status::OnResult {
            plugin: told.plugin.clone(),
            counts,
            last_error,
        })
    }

    /// What became of all deliveries.
    pub(super) fn totals(&self) -> status::Deliveries {
        locked(&self.shared.plan).totals()
    }

    /// Ends within `limit`; what is not handed over by then waits for the next start.
    pub(super) fn close(&mut self, limit: Duration) -> impl Future<Output = ()> + Send + use<> {
        let task = self.task.take();
        let shared = Arc::clone(&self.shared);
        locked(&shared.plan).close(clock::tick().after(limit));
        shared.wake.notify_one();
        async move {
            let Some(mut task) = task else { return };
            if clock::within(limit + SLACK, &mut task).await.is_none() {
                task.abort();
            }
            let left = locked(&shared.plan).left();
            if left > 0 {
                tracing::warn!(
                    left,
                    "results were not handed to their plugins in time; the next start tries again"
                );
            }
        }
    }
}

impl Shared {
    fn offer(&self, delivery: Delivery, tries: u32) -> bool {
        let (job, run) = (delivery.spec.job.name.clone(), delivery.spec.run.clone());
        let taken = locked(&self.plan).offer(&job, delivery, tries, clock::tick());
        if taken {
            self.wake.notify_one();
        } else {
            tracing::warn!(job, %run, "too many results wait for their plugins: this one waits for the next start");
        }
        taken
    }

    fn begin(&self, now: Tick) -> Option<Item<Delivery>> {
        locked(&self.plan).begin(now)
    }

    fn over(&self, item: Item<Delivery>, tried: &Tried) {
        let (delivery, tries) = (item.what.clone(), item.tries);
        let verdict = locked(&self.plan).tried(item, tried.done.clone(), clock::tick());
        self.note(&delivery, tries, tried, verdict);
        let job = &delivery.spec.job.name;
        if !locked(&self.left).jobs.contains_key(job) {
            // It went while its result was on the way.
            locked(&self.plan).forget(job);
        }
    }

    /// Looks for what former daemons left of a job, once the end of one of its runs is recorded that
    /// was open.
    pub(super) fn closed(self: &Arc<Self>, job: &str) {
        let job = locked(&self.left).jobs.get(job).cloned();
        if let Some(job) = job {
            self.find(job);
        }
    }

    /// Looks for results of former daemons that are still to be handed over, on a thread that may
    /// wait for the disk.
    fn find(self: &Arc<Self>, job: Arc<Job>) {
        let shared = Arc::clone(self);
        // Nobody waits for it: what it does not come to is for the next start.
        drop(tokio::task::spawn_blocking(move || shared.find_now(&job)));
    }

    fn find_now(&self, job: &Arc<Job>) {
        let found = self.courier.results.undelivered(&job.name, group(job));
        let found = match found {
            Ok(found) => found,
            Err(note) => {
                let job = &job.name;
                tracing::warn!(job, note, "results of former runs cannot be looked at");
                return;
            }
        };
        let first_of_ours = RunId::new(self.started_at, 0);
        for (run, record, tries) in found {
            if run >= first_of_ours || !locked(&self.left).taken.insert(run.clone()) {
                continue;
            }
            let delivery = self.of_former(job, run.clone(), &record);
            if !delivery.is_some_and(|delivery| self.offer(delivery, tries)) {
                locked(&self.left).taken.remove(&run);
            }
        }
    }

    /// A delivery of a run that the record is of, by the job as it is now.
    fn of_former(&self, job: &Arc<Job>, run: RunId, record: &Record) -> Option<Delivery> {
        let time = |text: &str| text.parse::<Timestamp>().ok();
        Some(Delivery {
            to: job.on_result.clone()?,
            started_at: time(&record.started_at).unwrap_or(Timestamp(0)),
            spec: Spec {
                task: Arc::clone(job.task.as_ref()?),
                job: Arc::clone(job),
                run,
                // Only of a damaged record there is none.
                trigger: serde_json::from_value(record.trigger.as_str().into())
                    .unwrap_or(Trigger::Schedule),
                scheduled_at: record.scheduled_at.as_deref().and_then(time),
                last_success_at: None,
                state_dir: disk::under(&self.state, &[&job.name, "data"]),
            },
        })
    }

    /// Writes down and tells what became of a try.
    fn note(&self, delivery: &Delivery, tries: u32, tried: &Tried, verdict: Verdict) {
        let Delivery { spec, to, .. } = delivery;
        let (job, run, plugin) = (&*spec.job.name, &spec.run, &*to.plugin);
        let why = tried.done.as_ref().err();
        let reason = why.map_or("", String::as_str);
        match verdict {
            Verdict::Delivered => {
                tracing::debug!(job, %run, plugin, tries, "result is handed over")
            }
            Verdict::Again(wait) => {
                let again_in = show_duration(wait);
                tracing::warn!(job, %run, plugin, tries, reason, again_in, "result cannot be handed over");
            }
            Verdict::Failed => {
                tracing::error!(job, %run, plugin, tries, reason, "result is not handed over: given up");
            }
        }
        let delivery = results::Delivery {
            plugin: to.plugin.clone(),
            state: match verdict {
                Verdict::Delivered => DeliveryState::Delivered,
                Verdict::Again(_) => DeliveryState::Waiting,
                Verdict::Failed => DeliveryState::Failed,
            },
            tries,
            at: clock::now().to_string(),
            reason: why.cloned(),
        };
        let (results, group) = (&self.courier.results, group(&spec.job));
        let said = results.write_said(job, run, &tried.said, group);
        let written = results.write_delivery(job, run, &delivery, group);
        if let Err(note) = said.and(written) {
            tracing::warn!(job, %run, note, "what became of a result cannot be written down");
        }
    }
}

/// Who may read the results of a job, besides the daemon.
fn group(job: &Job) -> Option<u32> {
    let user = &job.rights.user;
    (!user.is_own()).then_some(user.gid)
}

/// The task: starts what is due, and takes in what ends.
async fn work(shared: Arc<Shared>) {
    let mut calls = JoinSet::new();
    let mut under_way: HashMap<Id, Item<Delivery>> = HashMap::new();
    loop {
        let now = clock::tick();
        while let Some(item) = shared.begin(now) {
            let (delivery, shared) = (item.what.clone(), Arc::clone(&shared));
            let call =
                calls.spawn(async move { runner::deliver(&delivery, &shared.courier).await });
            under_way.insert(call.id(), item);
        }
        let next = {
            let plan = locked(&shared.plan);
            if plan.is_over(now) {
                // Dropping the calls kills what they started.
                return;
            }
            plan.next().unwrap_or(now.after(IDLE))
        };
        let (id, tried) = tokio::select! {
            Some(over) = calls.join_next_with_id() => match over {
                Ok(over) => over,
                Err(error) => (error.id(), Tried {
                    done: Err("its task has panicked; see the log".to_owned()),
                    said: Vec::new(),
                }),
            },
            () = clock::sleep_until(next) => continue,
            () = shared.wake.notified() => continue,
        };
        if let Some(item) = under_way.remove(&id) {
            shared.over(item, &tried);
        }
    }
}
