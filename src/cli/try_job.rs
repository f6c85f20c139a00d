//! `spoolbeat try JOB`: runs a job now and shows its events, one JSON object a line.
//!
//! The same runner as the daemon's, before a queue that only prints: nothing is stored, shipped
//! or kept as a result. Must never write below the root directory, except what the script does.

use std::io;
use std::io::Write;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;

use crate::clock;
use crate::event::RunId;
use crate::event::Seq;
use crate::event::envelope::Identity;
use crate::job::Job;
use crate::job::Task;
use crate::process::Cgroups;
use crate::queue::Intake;
use crate::queue::Portion;
use crate::run::Exit;
use crate::run::Order;
use crate::run::Outcome;
use crate::run::Phase;
use crate::run::Trigger;
use crate::runner;
use crate::runner::Ended;
use crate::runner::Host;
use crate::runner::Progress;
use crate::runner::Spec;
use crate::source::gather::Limits;
use crate::source::pool::Pool;

/// Portions between the run and the printer: enough that both work at the same time.
const INTAKE_DEPTH: usize = 4;

/// Ctrl-C twice, and the end of who reads.
const ORDERS_MAX: usize = 3;

/// Events appear soon after they were printed, many at once only when there are many.
const LIMITS: Limits = Limits {
    batch_events: 256,
    batch_bytes: 256 << 10,
};

/// How long an event may wait for others: a person is watching.
const FLUSH: Duration = Duration::from_millis(20);

/// Exit code of a run that ran longer than its timeout; as that of timeout(1).
const EXIT_TIMED_OUT: u8 = 124;

/// Exit code of a script that could not be started; as a shell's.
const EXIT_COULD_NOT_START: u8 = 126;

/// Added to a signal's number, as shells do.
const EXIT_SIGNAL: i32 = 128;

/// Runs the task of `job` with its data in `state_dir`, by shims from the executable `shim`; its modules are
/// installed beside that folder first. Returns the exit code: that of the script (or of the installation that
/// failed), or 124 for a timeout, 126 for a script that could not be started and 128 + n for signal n.
/// Ctrl-C asks the script to end, a second one kills it.
pub async fn run(
    job: Arc<Job>,
    task: Arc<Task>,
    identity: Identity,
    state_dir: PathBuf,
    shim: PathBuf,
) -> u8 {
    let spec = |task, trigger| {
        let at = clock::now();
        Spec {
            job: Arc::clone(&job),
            task,
            run: RunId::new(at, std::process::id()),
            trigger,
            scheduled_at: None,
            last_success_at: None,
            state_dir: state_dir.clone(),
        }
    };
    if let Some(mut modules) = task.in_phase(Phase::Modules) {
        // No result keeps what the installer says of its trouble.
        modules.stderr.events = true;
        modules.stderr.phases.push(Phase::Modules);
        let spec = spec(Arc::new(modules), Trigger::Modules);
        let code = run_one(spec, identity.clone(), shim.clone()).await;
        if code != 0 {
            return code;
        }
    }
    run_one(spec(task, Trigger::Manual), identity, shim).await
}

async fn run_one(spec: Spec, identity: Identity, shim: PathBuf) -> u8 {
    let (intake, mut portions) = Intake::channel(INTAKE_DEPTH);
    let host = Arc::new(Host {
        intake,
        pool: Pool::new(),
        identity,
        shim,
        environment: std::env::vars_os().collect(),
        limits: LIMITS,
        flush: FLUSH,
        results: None,
        cgroups: Cgroups::find("try"),
    });
    let (orders, taken) = mpsc::channel(ORDERS_MAX);
    let unread = orders.clone();
    let interrupts = tokio::spawn(order_on_interrupt(orders));
    let run = runner::run(spec, host, taken, Arc::new(Progress::default()));
    let print = async {
        let mut seq = 0;
        let mut read = true;
        while let Some((portion, captured)) = portions.recv().await {
            seq += u64::from(portion.frames.count());
            if read && show(&portion).is_err() {
                // Nobody reads on (`| head`): the run is ended as by Ctrl-C, and without a word.
                read = false;
                let heard = unread.try_send(Order::Terminate);
                tracing::debug!(?heard, "nobody reads the events");
            }
            // A run that does not wait for the answer has ended.
            drop(captured.send(Ok(Seq(seq))));
        }
        read
    };
    let (ended, read) = tokio::join!(run, print);
    interrupts.abort();
    if let (Some(reason), true) = (&ended.reason, read) {
        let outcome = ended.outcome.name();
        // Without a place to say it the exit code has to do.
        drop(writeln!(io::stderr(), "spoolbeat: {outcome}: {reason}"));
    }
    exit_code(&ended)
}

async fn order_on_interrupt(orders: mpsc::Sender<Order>) {
    for order in [Order::Terminate, Order::Kill] {
        if tokio::signal::ctrl_c().await.is_err() || orders.send(order).await.is_err() {
            return;
        }
    }
}

fn show(portion: &Portion) -> io::Result<()> {
    let mut text = Vec::with_capacity(portion.frames.bytes().len());
    for payload in portion.frames.payloads() {
        text.extend_from_slice(payload);
        text.push(b'\n');
    }
    let mut out = io::stdout().lock();
    out.write_all(&text)?;
    out.flush()
}

fn exit_code(ended: &Ended) -> u8 {
    let exit = ended.exit.map(Exit::code_or_signal).unwrap_or_default();
    match (ended.outcome, exit) {
        (Outcome::TimedOut, _) => EXIT_TIMED_OUT,
        (Outcome::CouldNotStart, _) => EXIT_COULD_NOT_START,
        (_, (Some(code), _)) => u8::try_from(code & 0xff).unwrap_or(1),
        (_, (None, Some(signal))) => u8::try_from(EXIT_SIGNAL + signal).unwrap_or(1),
        (_, (None, None)) => 1,
    }
}
