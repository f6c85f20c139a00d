//! The daemon's own events on their way into the queue: the one way for all of them.
//!
//! Nobody waits for it: what the queue does not take in time is dropped and counted. Decides
//! nothing; what is told is the supervisor's matter.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;

use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use crate::event::Notice;
use crate::event::OWN_JOB;
use crate::event::Route;
use crate::event::RunId;
use crate::event::Stream;
use crate::event::envelope::Envelope;
use crate::event::envelope::Identity;
use crate::event::envelope::Labels;
use crate::queue::Counters;
use crate::queue::Intake;
use crate::queue::Part;
use crate::queue::Portion;
use crate::units::Timestamp;

/// Events that wait for the queue; with one a minute the queue has not moved for an hour then.
const WAITING_MAX: usize = 64;

/// See the module's header.
#[derive(Debug)]
pub(super) struct Herald {
    envelope: Envelope,
    route: Route,
    n: u64,
    dropped: Arc<AtomicU64>,
    waiting: mpsc::Sender<Portion>,
    task: JoinHandle<()>,
}

/// A notice that is not sent yet.
#[derive(Debug)]
pub(super) struct Letter {
    portion: Portion,
    notice: Notice,
    dropped: Arc<AtomicU64>,
    waiting: mpsc::Sender<Portion>,
}

impl Letter {
    /// Sends it on its way.
    pub(super) fn send(self) {
        if self.waiting.try_send(self.portion).is_err() {
            self.dropped.fetch_add(1, Ordering::Relaxed);
            tracing::warn!(notice = ?self.notice, "the queue does not take this in time: dropped");
        }
    }
}

impl Herald {
    /// Starts the task that hands events over. `run` names this life of the daemon.
    pub(super) fn start(identity: &Identity, run: &RunId, route: Route, intake: Intake) -> Self {
        let labels = Labels {
            job: OWN_JOB,
            run,
            generation: env!("CARGO_PKG_VERSION"),
            trigger: "daemon",
            scheduled_at: None,
            tags: &[],
            fields: &serde_json::Map::new(),
        };
        let (waiting, mut taken) = mpsc::channel(WAITING_MAX);
        let task = tokio::spawn(async move {
            while let Some(portion) = taken.recv().await {
                let Ok(captured) = intake.submit(portion).await else {
                    return;
                };
                // A queue that breaks says so itself.
                drop(captured.await);
            }
        });
        Self {
            envelope: Envelope::new(identity, &labels, Stream::Daemon),
            route,
            n: 0,
            dropped: Arc::default(),
            waiting,
            task,
        }
    }

    /// Sends a notice on its way.
    pub(super) fn tell(&mut self, notice: &Notice, at: Timestamp) {
        self.letter(notice, at).send();
    }

    /// A notice, to be sent by who knows when.
    pub(super) fn letter(&mut self, notice: &Notice, at: Timestamp) -> Letter {
        self.n += 1;
        let mut portion = Portion {
            route: self.route.clone(),
            parts: vec![Part {
                job: Arc::from(OWN_JOB),
                stream: Stream::Daemon,
                count: 1,
                first: at,
                last: at,
            }],
            counters: Counters {
                created: 1,
                ..Counters::default()
            },
            ..Portion::default()
        };
        let (envelope, n) = (&self.envelope, self.n);
        portion
            .frames
            .push(|out| envelope.notice(out, at, n, notice));
        Letter {
            portion,
            notice: notice.clone(),
            dropped: Arc::clone(&self.dropped),
            waiting: self.waiting.clone(),
        }
    }

    /// How many were dropped.
    pub(super) fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    /// Nothing more comes; ends when the queue has all that was told.
    pub(super) fn close(self) -> JoinHandle<()> {
        self.task
    }
}
