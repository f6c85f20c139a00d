//! The listeners of `[source.lumberjack]` jobs: opened, replaced and closed as jobs come and go.
//!
//! A window is acknowledged when all of its events are captured; until then its connection gets
//! keep-alives and is not read, which is the back-pressure of a full queue. Knows nothing of runs
//! and schedules, and nothing of frames: that is `lumberjack`.

use std::collections::BTreeMap;
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::task::JoinSet;

use crate::clock;
use crate::event::Route;
use crate::job::Job;
use crate::lumberjack::server::Delivery;
use crate::lumberjack::server::Memory;
use crate::lumberjack::server::Places;
use crate::lumberjack::server::Tally;
use crate::lumberjack::server::bind;
use crate::lumberjack::server::serve;
use crate::protocol::server::Window;
use crate::queue::Captured;
use crate::queue::Intake;
use crate::queue::Refused;
use crate::source::gather::Limits;
use crate::source::lumberjack::Settings;
use crate::source::lumberjack::portions;
use crate::source::pool::Pool;
use crate::spool::Change;
use crate::status;

/// How soon an address that could not be had is tried again.
const BIND_AGAIN: Duration = Duration::from_secs(1);

/// Windows of one listener that are being captured at once: enough that one sync serves many
/// connections. Further ones wait in their connections.
const WINDOWS_MAX: usize = 64;

/// Portions of one window that the queue has not captured yet; see a run's uplink.
const UNCAPTURED_MAX: usize = 4;

/// How long listeners may take to finish their windows when the daemon stops: a little more than
/// each gives its own connections.
const CLOSE_PATIENCE: Duration = Duration::from_secs(6);

/// What all listeners share.
#[derive(Debug, Clone)]
pub(super) struct Shared {
    pub(super) intake: Intake,
    pub(super) pool: Pool,
    pub(super) limits: Limits,
    pub(super) memory: Memory,
    pub(super) places: Places,
}

/// All listeners, by job. Dropping it closes them without waiting.
#[derive(Debug)]
pub(super) struct Listeners {
    shared: Shared,
    open: BTreeMap<String, Listener>,
}

#[derive(Debug)]
struct Listener {
    settings: Settings,
    route: Route,
    tally: Arc<Tally>,
    state: watch::Receiver<State>,
    stop: watch::Sender<bool>,
    task: JoinHandle<()>,
}

#[derive(Debug, Clone, Default)]
enum State {
    /// Nobody has tried yet.
    #[default]
    Starting,
    /// On this address.
    Listening(SocketAddr),
    /// Why not; it is tried again.
    Failed(String),
}

impl Listeners {
    pub(super) const fn new(shared: Shared) -> Self {
        Self {
            shared,
            open: BTreeMap::new(),
        }
    }

    /// Follows what became of a job.
    pub(super) fn seen(&mut self, change: &Change) {
        match change {
            Change::Loaded(job) => {
                let settings = job.receive.as_ref().filter(|_| job.enabled);
                self.set(job, settings);
            }
            Change::Removed { job } => drop(self.open.remove(job)),
            Change::Refused { .. }
            | Change::Unreadable { .. }
            | Change::Readable
            | Change::Complete => {}
        }
    }

    /// Lets a job listen so, or no more. Connections stay when nothing has changed for them.
    fn set(&mut self, job: &Job, settings: Option<&Settings>) {
        let before = self.open.remove(&job.name);
        let Some(settings) = settings else {
            return;
        };
        let listener = match before {
            Some(same) if same.settings == *settings && same.route == job.route => same,
            before => Listener::start(job, settings, &self.shared, before),
        };
        self.open.insert(job.name.clone(), listener);
    }

    pub(super) fn status(&self, job: &str) -> Option<status::Source> {
        self.open.get(job).map(Listener::status)
    }

    /// Closes all of them. The future ends when what they had taken is captured, or after a while.
    pub(super) fn close(self) -> impl Future<Output = ()> + Send + 'static {
        let mut tasks = Vec::new();
        for (_, listener) in self.open {
            listener.stop.send_replace(true);
            tasks.push(listener.task);
        }
        async move {
            let all = async {
                for task in tasks {
                    // One that has failed has closed its connections with it.
                    drop(task.await);
                }
            };
            if clock::within(CLOSE_PATIENCE, all).await.is_none() {
                tracing::warn!("windows that were not captured in time were not acknowledged");
            }
        }
    }
}

impl Listener {
    /// Listens as soon as the job's listener `before` has gone: it may have the same address.
    fn start(job: &Job, settings: &Settings, shared: &Shared, before: Option<Self>) -> Self {
        let tally = Arc::<Tally>::default();
        let (told, state) = watch::channel(State::default());
        let (stop, stopping) = watch::channel(false);
        let inlet = Inlet {
            job: Arc::from(job.name.as_str()),
            route: job.route.clone(),
            shared: shared.clone(),
        };
        let (how, counted) = (settings.clone(), Arc::clone(&tally));
        let gone = before.map(|before| {
            before.stop.send_replace(true);
            before.task
        });
        Self {
            settings: settings.clone(),
            route: job.route.clone(),
            tally,
            state,
            stop,
            task: tokio::spawn(async move {
                if let Some(gone) = gone {
                    // One that has failed is gone too.
                    drop(gone.await);
                }
                listen(inlet, how, counted, told, stopping).await;
            }),
        }
    }

    fn status(&self) -> status::Source {
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let (listen, state, failed) = match &*self.state.borrow() {
            State::Starting => (self.settings.listen.clone(), "starting", None),
            State::Listening(addr) => (addr.to_string(), "listening", None),
            State::Failed(why) => (self.settings.listen.clone(), "failed", Some(why.clone())),
        };
        let tally = &self.tally;
        status::Source {
            listen,
            state: state.to_owned(),
            open_connections: count(&tally.open),
            connections: count(&tally.connections),
            turned_away_connections: count(&tally.turned_away),
            windows: count(&tally.windows),
            events: count(&tally.events),
            refused: count(&tally.refused),
            unaccepted: count(&tally.unaccepted),
            problem: failed.or_else(|| tally.why_shut()),
            last_refused: tally.last_refused(),
        }
    }
}

/// Where a listener's windows go.
#[derive(Debug, Clone)]
struct Inlet {
    job: Arc<str>,
    route: Route,
    shared: Shared,
}

/// Listens until `stop` becomes true or its sender is gone.
async fn listen(
    inlet: Inlet,
    settings: Settings,
    tally: Arc<Tally>,
    state: watch::Sender<State>,
    mut stop: watch::Receiver<bool>,
) {
    let job = Arc::clone(&inlet.job);
    let listener = loop {
        let bound = bind(&settings.listen, &settings.user).await;
        match bound
            .map_err(|error| error.to_string())
            .and_then(|listener| {
                let addr = listener.local_addr().map_err(|error| error.to_string())?;
                Ok((listener, addr))
            }) {
            Ok((listener, addr)) => {
                tracing::info!(job = &*job, listen = %addr, "job listens for Beats");
                state.send_replace(State::Listening(addr));
                break listener;
            }
            Err(why) => {
                if !matches!(&*state.borrow(), State::Failed(before) if *before == why) {
                    tracing::error!(job = &*job, "{why}; it is tried again every second");
                }
                state.send_replace(State::Failed(why));
            }
        }
        tokio::select! {
            // The error means that nobody wants the listener any more.
            _ = stop.wait_for(|stop| *stop) => return,
            () = clock::sleep(BIND_AGAIN) => {}
        }
    };
    let (deliver, deliveries) = mpsc::channel(1);
    let server = settings.server(
        inlet.shared.memory.clone(),
        inlet.shared.places.clone(),
        tally,
    );
    // When the server has ended nobody is left to acknowledge: what a full queue has not taken by
    // then is sent again, and must not hold up the end.
    tokio::select! {
        () = serve(listener, server, deliver, stop) => {}
        () = capture_all(deliveries, inlet) => {}
    }
    tracing::info!(job = &*job, listen = settings.listen, "job listens no more");
}

/// Captures windows until the server has ended.
async fn capture_all(mut deliveries: mpsc::Receiver<Delivery>, inlet: Inlet) {
    let mut windows = JoinSet::new();
    loop {
        tokio::select! {
            delivery = deliveries.recv(), if windows.len() < WINDOWS_MAX => match delivery {
                Some(delivery) => drop(windows.spawn(capture(delivery, inlet.clone()))),
                None => return,
            },
            Some(_) = windows.join_next() => {}
        }
    }
}

/// Captures a window and lets it be acknowledged. What of it was captured when the queue closes
/// comes again: at least once is the promise.
async fn capture(delivery: Delivery, inlet: Inlet) {
    let Delivery { peer, window, done } = delivery;
    match submit(&window, &inlet).await {
        Ok(()) => {
            if done.send(()).is_err() {
                tracing::debug!(%peer, "a client left before its ACK, and will send again");
            }
        }
        Err(refused) => tracing::warn!(%peer, ?refused, "a window was not captured"),
    }
}

async fn submit(window: &Window, inlet: &Inlet) -> Result<(), Refused> {
    let Shared {
        intake,
        pool,
        limits,
        ..
    } = &inlet.shared;
    let mut uncaptured = VecDeque::new();
    for portion in portions(window, *limits, &inlet.job, &inlet.route, clock::now()) {
        if uncaptured.len() >= UNCAPTURED_MAX {
            settle(&mut uncaptured).await?;
        }
        let room = pool
            .reserve(Pool::units(portion.frames.bytes().len()))
            .await;
        uncaptured.push_back((intake.submit(portion).await?, room));
    }
    while !uncaptured.is_empty() {
        settle(&mut uncaptured).await?;
    }
    Ok(())
}

/// Waits for the oldest portion.
async fn settle<R>(uncaptured: &mut VecDeque<(Captured, R)>) -> Result<(), Refused> {
    if let Some((captured, _room)) = uncaptured.pop_front() {
        // A queue that drops the question is closing.
        captured.await.unwrap_or(Err(Refused::Closed))?;
    }
    Ok(())
}
