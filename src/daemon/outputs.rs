//! The outputs as the daemon sees them: started, asked how they are, waited for.
//!
//! Each works on its own cursor of the queue. Knows no window and no socket: that is `shipper`.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::clock;
use crate::config;
use crate::deadletter;
use crate::queue::Frozen;
use crate::queue::Ledger;
use crate::queue::Marks;
use crate::queue::Tap;
use crate::queue::cursor::Cursor;
use crate::queue::cursor::Passed;
use crate::queue::locked;
use crate::queue::readers;
use crate::shipper::Host;
use crate::shipper::View;
use crate::shipper::driver::Start;
use crate::shipper::driver::ship;
use crate::sink::Settings;
use crate::status;

/// One output's handle.
#[derive(Debug)]
struct Output {
    name: String,
    /// Its kind's own settings, as they are from now on.
    settings: watch::Sender<Settings>,
    /// How far it was at the start, and the number of the next event then: so it is until its first view.
    begun: (Cursor, u64),
    view: watch::Receiver<Option<View>>,
    /// Before which event it passes over all.
    skip: watch::Sender<u64>,
}

/// How the outputs are; outlives them.
#[derive(Debug, Clone)]
pub(super) struct Views(Arc<[Output]>);

impl Views {
    pub(super) fn status(&self) -> Vec<status::Output> {
        self.0.iter().map(Output::status).collect()
    }

    /// Of each that has begun, the number of its next event and how it passed those before.
    pub(super) fn cursors(&self) -> impl Iterator<Item = (&str, u64, Passed)> {
        self.0.iter().filter_map(|output| {
            let view = output.view.borrow();
            let view = view.as_ref()?;
            Some((&*output.name, view.next_seq(), view.passed))
        })
    }

    /// All of them, and behind them those that left the configuration and were at `frozen`.
    pub(super) fn all(
        &self,
        ledger: &Ledger,
        marks: &Marks,
        frozen: &Marks,
    ) -> Vec<status::Output> {
        let mut outputs = self.status();
        for output in &mut outputs {
            let cursor = locked(marks).get(&output.name).copied();
            let files = |at| readers::waiting_files(ledger, &output.name, &at);
            output.waiting_files = cursor.map_or(0, files);
        }
        let is_configured = |name: &str| self.0.iter().any(|output| output.name == name);
        let gone = readers::frozen(&locked(frozen), ledger, is_configured);
        outputs.extend(
            gone.into_iter()
                .map(|one| self::frozen(one, ledger.next_seq)),
        );
        outputs
    }
}

/// All outputs, in the order of the configuration. Dropping it ends them where they are: what is
/// not acknowledged is sent again by the next start.
#[derive(Debug)]
pub(super) struct Outputs {
    views: Views,
    tasks: JoinSet<()>,
    /// Up to which event they are to ship before they end.
    stop: watch::Sender<Option<u64>>,
}

impl Outputs {
    /// Starts a shipper for each output; `salt` spreads the retries of many daemons.
    /// Dead letters go under `root`.
    pub(super) fn start(
        configured: &[config::Output],
        taps: Vec<Tap>,
        root: &Path,
        salt: u64,
    ) -> Self {
        let (stop, stopped) = watch::channel(None);
        let mut taps: BTreeMap<String, Tap> = taps
            .into_iter()
            .map(|tap| (tap.output.clone(), tap))
            .collect();
        let mut tasks = JoinSet::new();
        let mut list = Vec::new();
        for output in configured {
            let Some(tap) = taps.remove(&output.name) else {
                continue;
            };
            let (views, view) = watch::channel(None);
            let (skip, skipped) = watch::channel(0);
            let (settings, given) = watch::channel(output.kind.clone());
            let begun = (tap.cursor, tap.level.borrow().next_seq);
            let start = Start {
                tap,
                settings: given,
                dead_letters: deadletter::dir(root, &output.name),
                salt,
                skip: skipped,
            };
            tasks.spawn(ship(start, views, stopped.clone()));
            let name = output.name.clone();
            list.push(Output {
                name,
                settings,
                begun,
                view,
                skip,
            });
        }
        let views = Views(list.into());
        Self { views, tasks, stop }
    }

    pub(super) fn views(&self) -> Views {
        self.views.clone()
    }

    /// Has each go on by the settings that it has among these, if they are others; from its cursor.
    pub(super) fn change(&self, configured: &[config::Output]) {
        for output in &*self.views.0 {
            let mut all = configured.iter();
            if let Some(new) = all.find(|new| new.name == output.name) {
                output.settings.send_if_modified(|now| {
                    let changed = *now != new.kind;
                    now.clone_from(&new.kind);
                    changed
                });
            }
        }
    }

    /// Has an output pass over the events before `to`.
    ///
    /// # Errors
    /// There is no such output; in words.
    pub(super) fn skip(&self, name: &str, to: u64) -> Result<(), String> {
        let outputs = &self.views.0;
        let Some(output) = outputs.iter().find(|output| output.name == name) else {
            let names: Vec<&str> = outputs.iter().map(|output| &*output.name).collect();
            let names = names.join(", ");
            return Err(format!(
                "the daemon has no output `{name}`; it has {names}; what is left of an output that was removed can be skipped when the daemon is stopped"
            ));
        };
        output.skip.send_if_modified(|at| {
            let further = to > *at;
            *at = to.max(*at);
            further
        });
        Ok(())
    }

    /// Waits until all of them have passed every event before `end`, at most `limit`; then ends
    /// them. Returns how many events the one that is furthest behind has left.
    pub(super) async fn drain(mut self, end: u64, limit: Duration) -> u64 {
        self.stop.send_replace(Some(end));
        let all = async { while self.tasks.join_next().await.is_some() {} };
        if clock::within(limit, all).await.is_some() {
            return 0;
        }
        let outputs = self.views.status();
        let left = outputs.iter().map(|output| output.waiting_events).max();
        self.tasks.shutdown().await;
        left.unwrap_or(0)
    }
}

impl Output {
    fn status(&self) -> status::Output {
        let view = self.view.borrow().clone();
        let tls = match &*self.settings.borrow() {
            Settings::Lumberjack(settings) => settings.tls.as_ref(),
            Settings::File(_) | Settings::Stdout => None,
        }
        .map_or("off", |tls| tls.verification_mode.name());
        let nothing = nothing(&self.name, "starting", tls);
        let Some(view) = view else {
            let (cursor, next_seq) = self.begun;
            return status::Output {
                before_events: cursor.born.saturating_sub(1),
                waiting_events: next_seq.saturating_sub(cursor.seq),
                ..passed(nothing, &cursor.passed)
            };
        };
        status::Output {
            state: view.state,
            host: view.host,
            before_events: view.before,
            waiting_events: view.waiting,
            in_flight_windows: view.in_flight,
            windows: view.windows,
            connections: view.connections,
            last_error: view.last_error,
            hosts: view.hosts.into_iter().map(host).collect(),
            ..passed(nothing, &view.passed)
        }
    }
}

/// The status of an output that left the configuration, when the next event is `next_seq`.
fn frozen(frozen: Frozen, next_seq: u64) -> status::Output {
    let cursor = frozen.cursor;
    let waiting = cursor.waiting(next_seq);
    let told = passed(nothing(&frozen.output, "frozen", "off"), &cursor.passed);
    status::Output {
        before_events: cursor.born.saturating_sub(1),
        waiting_events: waiting,
        // What comes in its absence is for others.
        not_mine_events: told.not_mine_events + next_seq.saturating_sub(cursor.seq) - waiting,
        waiting_files: frozen.files,
        ..told
    }
}

fn nothing(name: &str, state: &str, tls: &str) -> status::Output {
    status::Output {
        name: name.to_owned(),
        state: state.to_owned(),
        host: String::new(),
        tls: tls.to_owned(),
        before_events: 0,
        acked_events: 0,
        waiting_events: 0,
        not_mine_events: 0,
        damaged_events: 0,
        set_aside_events: 0,
        dropped_events: 0,
        skipped_events: 0,
        waiting_files: 0,
        in_flight_windows: 0,
        windows: 0,
        connections: 0,
        last_error: None,
        hosts: Vec::new(),
    }
}

fn passed(output: status::Output, passed: &Passed) -> status::Output {
    status::Output {
        acked_events: passed.acked,
        not_mine_events: passed.not_mine,
        damaged_events: passed.damaged,
        set_aside_events: passed.set_aside,
        dropped_events: passed.dropped,
        skipped_events: passed.skipped,
        ..output
    }
}

fn host(host: Host) -> status::Host {
    status::Host {
        host: host.host,
        state: host.state,
        acked_events: host.acked,
        in_flight_windows: host.in_flight,
        last_error: host.last_error,
    }
}
