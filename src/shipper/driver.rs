//! The shipper's driver: gives its step machine sockets, a disk and a clock.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::pin::Pin;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use tokio::sync::watch;

use super::Effect;
use super::Input;
use super::Shipper;
use super::View;
use super::load::Loader;
use super::trail::Step;
use crate::clock;
use crate::clock::Tick;
use crate::deadletter;
use crate::deadletter::Letter;
use crate::disk::Disk;
use crate::lumberjack::connection::Broken;
use crate::queue::Level;
use crate::queue::Position;
use crate::queue::Tap;
use crate::queue::cursor::Cursor;
use crate::queue::cursor::CursorFile;
use crate::queue::locked;
use crate::sink::Connection;
use crate::sink::Dial;
use crate::sink::Settings;
use crate::sink::Turn;

/// Longest sleep at a time: a suspended machine is noticed soon after it wakes.
const SLEEP_MAX: Duration = Duration::from_secs(1);

/// How long windows in flight may still be acknowledged when the settings have changed; then they are
/// sent again by the new ones.
const LEAVE_PATIENCE: Duration = Duration::from_secs(5);

/// A segment that could not be read so often in a row is given up, if nothing can change that.
const LOADS_MAX: u32 = 3;

/// What one output starts with: where it reads, how it sends, where what is refused goes.
#[derive(Debug)]
pub struct Start {
    /// Its place in the queue.
    pub tap: Tap,
    /// `[output.NAME]`, as it is from now on.
    pub settings: watch::Receiver<Settings>,
    /// The folder of its dead letters.
    pub dead_letters: PathBuf,
    /// Spreads the retries of many daemons.
    pub salt: u64,
    /// A person passes over the events before this one.
    pub skip: watch::Receiver<u64>,
}

/// Runs one output until `stop` holds an event number and everything before that is passed, or for ever.
/// `views` shows what people may know.
pub async fn ship(
    start: Start,
    views: watch::Sender<Option<View>>,
    stop: watch::Receiver<Option<u64>>,
) {
    let Start {
        tap,
        settings,
        dead_letters,
        salt,
        skip,
    } = start;
    let mut cursor = tap.cursor;
    let mut wires = Wires {
        level: tap.level.clone(),
        gives_up: tap.gives_up,
        settings,
        skip,
        skip_to: 0,
        views,
        stop,
        queue_gone: false,
    };
    let mut by = wires.settings.borrow_and_update().clone();
    let mut hands = Hands::new(tap, &by, dead_letters);
    while let Some(at) = ship_by(&by, cursor, salt, &mut hands, &mut wires).await {
        by = wires.settings.borrow_and_update().clone();
        tracing::info!(
            output = hands.output,
            "the output goes on by its new settings"
        );
        cursor = at;
        hands.begin(&cursor, &by);
    }
}

/// What an output hears, and where it is seen.
struct Wires {
    level: watch::Receiver<Level>,
    gives_up: bool,
    settings: watch::Receiver<Settings>,
    skip: watch::Receiver<u64>,
    /// Before which event all are skipped.
    skip_to: u64,
    views: watch::Sender<Option<View>>,
    stop: watch::Receiver<Option<u64>>,
    queue_gone: bool,
}

impl Wires {
    /// Waits for the next thing that is to be heard; may be dropped at any time.
    async fn hear(&mut self) -> Happened {
        tokio::select! {
            // The queue may be closed before its outputs: nothing more comes then, what is there is still shipped.
            changed = self.level.changed(), if !self.queue_gone => match changed {
                Ok(()) => Happened::Captured,
                Err(_) => {
                    self.queue_gone = true;
                    Happened::Clock
                }
            },
            _ = self.stop.changed() => Happened::Clock,
            Ok(()) = self.skip.changed() => {
                // What is not captured yet was not seen by the person.
                self.skip_to = (*self.skip.borrow_and_update()).min(self.level.borrow().next_seq);
                Happened::Skipped
            }
            Ok(()) = self.settings.changed() => Happened::Changed,
        }
    }

    /// Before which event all are given up.
    fn given_up(&self) -> u64 {
        match self.gives_up {
            true => self.level.borrow().given_up,
            false => 0,
        }
    }

    /// Shows how the output is.
    fn show(&self, shipper: &Shipper) {
        let view = Some(shipper.view(self.level.borrow().next_seq));
        self.views.send_if_modified(|shown| {
            let changed = *shown != view;
            *shown = view;
            changed
        });
    }
}

/// Ships by these settings; returns the place at which others take over.
async fn ship_by(
    settings: &Settings,
    cursor: Cursor,
    salt: u64,
    hands: &mut Hands,
    wires: &mut Wires,
) -> Option<Cursor> {
    let plan = settings.plan();
    let mut ports = Ports {
        dial: settings.dial(),
        ports: plan.hosts.iter().map(|_| Port::Closed).collect(),
        first: 0,
    };
    let mut shipper = Shipper::new(&hands.output, plan, cursor, salt);
    let mut leave_by: Option<Tick> = None;
    let mut effects: VecDeque<Effect> = shipper.step(Input::Clock, clock::tick()).into();
    // What was to be passed over before, and is not.
    for input in [Input::GiveUp(wires.given_up()), Input::Skip(wires.skip_to)] {
        effects.extend(shipper.step(input, clock::tick()));
    }
    loop {
        while let Some(effect) = effects.pop_front() {
            if let Some(input) = hands.carry_out(effect, &mut ports, &wires.level) {
                effects.extend(shipper.step(input, clock::tick()));
            }
        }
        wires.show(&shipper);
        if wires
            .stop
            .borrow()
            .is_some_and(|seq| shipper.is_through(seq))
        {
            return None;
        }
        let now = clock::tick();
        if leave_by.is_some_and(|by| now >= by || shipper.is_at_rest()) {
            let cursor = shipper.cursor();
            hands.carry_out(Effect::Sync(cursor), &mut ports, &wires.level);
            return Some(cursor);
        }
        let wake = shipper
            .wake_at()
            .unwrap_or(now.after(SLEEP_MAX))
            .min(now.after(SLEEP_MAX))
            .min(leave_by.unwrap_or(now.after(SLEEP_MAX)));
        let happened = tokio::select! {
            (lane, at) = ports.happened() => Happened::Port(lane, at),
            heard = wires.hear() => heard,
            () = clock::sleep_until(wake) => Happened::Clock,
        };
        let now = clock::tick();
        effects.extend(match happened {
            Happened::Port(lane, AtPort::Connected) => shipper.step(Input::Connected(lane), now),
            Happened::Port(lane, AtPort::Received(bytes)) => {
                // With one CPU a server that sends without end would hold up the timers of all others.
                tokio::task::yield_now().await;
                shipper.step(Input::Received(lane, &bytes), now)
            }
            Happened::Port(lane, AtPort::Wrote) => shipper.step(Input::Wrote(lane), now),
            Happened::Port(lane, AtPort::Took) => shipper.step(Input::Took(lane), now),
            Happened::Port(lane, AtPort::Lost(broken, flushed)) => {
                let lost = Input::Lost {
                    lane,
                    broken,
                    flushed,
                };
                shipper.step(lost, now)
            }
            Happened::Captured => {
                let mut effects = shipper.step(Input::GiveUp(wires.given_up()), now);
                effects.extend(shipper.step(Input::Captured, now));
                effects
            }
            Happened::Skipped => shipper.step(Input::Skip(wires.skip_to), now),
            Happened::Changed => {
                leave_by.get_or_insert(now.after(LEAVE_PATIENCE));
                shipper.step(Input::Leave, now)
            }
            Happened::Clock => shipper.step(Input::Clock, now),
        });
    }
}

enum Happened {
    Port(usize, AtPort),
    Captured,
    Skipped,
    Changed,
    Clock,
}

enum AtPort {
    Connected,
    Received(Vec<u8>),
    Wrote,
    Took,
    /// Also whether everything that was to be written had left.
    Lost(Broken, bool),
}

type Connecting = Pin<Box<dyn Future<Output = Result<Connection, Broken>> + Send>>;

/// A lane's socket.
enum Port {
    Closed,
    Connecting(Connecting),
    Open(Connection),
}

impl Port {
    /// Waits for the next thing to happen; may be dropped at any time.
    async fn happened(&mut self) -> AtPort {
        match self {
            Self::Closed => std::future::pending().await,
            Self::Connecting(connecting) => match connecting.await {
                Ok(connection) => {
                    *self = Self::Open(connection);
                    AtPort::Connected
                }
                Err(broken) => self.lost(broken, false),
            },
            Self::Open(connection) => match connection.turn().await {
                Ok(Turn::Received(bytes)) => AtPort::Received(bytes),
                Ok(Turn::Wrote) => AtPort::Wrote,
                Ok(Turn::Took) => AtPort::Took,
                Err(broken) => {
                    let flushed = connection.is_flushed();
                    self.lost(broken, flushed)
                }
            },
        }
    }

    fn lost(&mut self, broken: Broken, flushed: bool) -> AtPort {
        *self = Self::Closed;
        AtPort::Lost(broken, flushed)
    }
}

/// The sockets of all lanes.
struct Ports {
    dial: Dial,
    ports: Vec<Port>,
    /// The one that is looked at first, so that a busy one does not starve the others.
    first: usize,
}

impl Ports {
    async fn happened(&mut self) -> (usize, AtPort) {
        let count = self.ports.len();
        let mut turns: Vec<_> = self
            .ports
            .iter_mut()
            .map(|port| Box::pin(port.happened()))
            .collect();
        let first = self.first;
        let next = std::future::poll_fn(|context| {
            for lane in (0..count).map(|n| (first + n) % count) {
                if let Poll::Ready(at) = turns[lane].as_mut().poll(context) {
                    return Poll::Ready((lane, at));
                }
            }
            Poll::Pending
        });
        let (lane, at) = pin!(next).await;
        self.first = (lane + 1) % count;
        (lane, at)
    }
}

struct Hands {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    loader: Loader,
    /// Loads in a row that failed.
    failed_loads: u32,
    letters: deadletter::Writer,
    file: CursorFile,
    marks: crate::queue::service::Marks,
    output: String,
}

impl Hands {
    fn new(tap: Tap, settings: &Settings, dead_letters: PathBuf) -> Self {
        let Tap {
            output,
            disk,
            dir,
            marks,
            file,
            cursor,
            ..
        } = tap;
        let letters = deadletter::Writer::new(Arc::<dyn Disk>::clone(&disk), dead_letters);
        Self {
            loader: Loader::new(Arc::clone(&disk), &dir, &output, &cursor, settings.limits()),
            disk,
            dir,
            failed_loads: 0,
            letters,
            file,
            marks,
            output,
        }
    }

    /// Begins to read at `cursor`, for other settings.
    fn begin(&mut self, cursor: &Cursor, settings: &Settings) {
        let disk = Arc::clone(&self.disk);
        self.loader = Loader::new(disk, &self.dir, &self.output, cursor, settings.limits());
    }

    fn carry_out(
        &mut self,
        effect: Effect,
        ports: &mut Ports,
        level: &watch::Receiver<Level>,
    ) -> Option<Input<'static>> {
        match effect {
            Effect::Connect(lane, host) => {
                let dial = ports.dial.clone();
                ports.ports[lane] =
                    Port::Connecting(Box::pin(
                        async move { Connection::open(&host, &dial).await },
                    ));
                None
            }
            Effect::Close(lane) => {
                ports.ports[lane] = Port::Closed;
                None
            }
            Effect::Send(lane, bytes) => {
                if let Port::Open(connection) = &mut ports.ports[lane] {
                    connection.send(bytes);
                }
                None
            }
            Effect::Load(order, most) => {
                let end = {
                    let level = level.borrow();
                    (level.end, level.next_seq)
                };
                let load = || self.loader.load(&order, most, end);
                Some(match tokio::task::block_in_place(load) {
                    Ok(loaded) => {
                        self.failed_loads = 0;
                        Input::Loaded(loaded)
                    }
                    Err(error) => {
                        self.failed_loads += 1;
                        if self.failed_loads >= LOADS_MAX {
                            self.loader.give_up_segment(&error, end.0);
                        }
                        Input::LoadFailed(error.to_string())
                    }
                })
            }
            Effect::SetAside { step, host, reason } => {
                let end = level.borrow().end;
                let kept = tokio::task::block_in_place(|| self.set_aside(&step, end, host, reason));
                Some(kept.map_or_else(Input::SetAsideFailed, Input::SetAside))
            }
            Effect::Store(cursor) => {
                // A cursor that cannot be stored costs duplicates after a crash, never events.
                if let Err(error) = self.file.store(&cursor) {
                    tracing::warn!(output = self.output, %error, "the cursor could not be stored");
                }
                None
            }
            Effect::Sync(cursor) => {
                match tokio::task::block_in_place(|| self.file.sync(&cursor)) {
                    Ok(()) => {
                        locked(&self.marks).insert(self.output.clone(), cursor);
                    }
                    Err(error) => {
                        tracing::warn!(output = self.output, %error, "the cursor could not be synced");
                    }
                }
                None
            }
        }
    }

    /// Makes an event a dead letter; `false` when it cannot be read any more.
    fn set_aside(
        &mut self,
        step: &Step,
        end: Position,
        host: String,
        reason: String,
    ) -> Result<bool, String> {
        let event = self.loader.event(step, end);
        let Some(event) = event.map_err(|error| error.to_string())? else {
            tracing::error!(
                output = self.output,
                seq = step.seq,
                "a refused event cannot be read any more"
            );
            return Ok(false);
        };
        tracing::warn!(
            output = self.output,
            seq = step.seq,
            host,
            reason,
            "an event is refused again and again and is set aside"
        );
        let letter = Letter {
            set_aside_at: clock::now(),
            output: self.output.clone(),
            host,
            reason,
            seq: step.seq,
            event,
        };
        self.letters
            .add(&letter)
            .map_err(|refused| refused.to_string())?;
        Ok(true)
    }
}
