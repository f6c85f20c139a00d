//! The shipper's driver: gives its step machine a socket, a disk and a clock.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::sync::watch;

use super::Effect;
use super::Input;
use super::Shipper;
use super::View;
use super::load::Loader;
use crate::clock;
use crate::lumberjack::connection::Broken;
use crate::lumberjack::connection::Connection;
use crate::lumberjack::connection::Dial;
use crate::lumberjack::connection::Turn;
use crate::queue::Level;
use crate::queue::Tap;
use crate::queue::cursor::CursorFile;
use crate::queue::locked;
use crate::sink::lumberjack::Settings;
use crate::window::Limits;

/// Longest sleep at a time: a suspended machine is noticed soon after it wakes.
const SLEEP_MAX: Duration = Duration::from_secs(1);

/// Runs one output until `stop` holds an event number and everything before that is passed, or for ever.
/// `views` shows what people may know; `through` becomes true at the end.
pub async fn ship(
    tap: Tap,
    settings: Settings,
    salt: u64,
    views: watch::Sender<Option<View>>,
    mut stop: watch::Receiver<Option<u64>>,
) {
    let Tap {
        output,
        disk,
        dir,
        mut level,
        marks,
        file,
        cursor,
    } = tap;
    let limits = Limits {
        events: settings.bulk_max_size,
        compression_level: settings.compression_level,
    };
    let mut hands = Hands {
        loader: Loader::new(disk, &dir, &output, &cursor, limits),
        dial: settings.dial(),
        connection: None,
        file,
        marks,
        output,
    };
    let mut shipper = Shipper::new(settings, cursor, salt);
    let mut connecting: Option<Connecting> = None;
    let mut queue_gone = false;
    let mut effects: VecDeque<Effect> = shipper.step(Input::Clock, clock::tick()).into();
    loop {
        while let Some(effect) = effects.pop_front() {
            if let Some(input) = hands.carry_out(effect, &mut connecting, &level) {
                effects.extend(shipper.step(input, clock::tick()));
            }
        }
        let next_seq = level.borrow().next_seq;
        views.send_if_modified(|shown| {
            let view = Some(shipper.view(next_seq));
            let changed = *shown != view;
            *shown = view;
            changed
        });
        if stop.borrow().is_some_and(|seq| shipper.is_through(seq)) {
            return;
        }
        let now = clock::tick();
        let wake = shipper
            .wake_at()
            .unwrap_or(now.after(SLEEP_MAX))
            .min(now.after(SLEEP_MAX));
        let happened = tokio::select! {
            turn = turn(hands.connection.as_mut()) => Happened::Turn(turn),
            made = made(connecting.as_mut()) => Happened::Made(made),
            // The queue may be closed before its outputs: nothing more comes then, what is there is still shipped.
            changed = level.changed(), if !queue_gone => if changed.is_ok() { Happened::Captured } else { Happened::QueueGone },
            _ = stop.changed() => Happened::Clock,
            () = clock::sleep_until(wake) => Happened::Clock,
        };
        effects.extend(match happened {
            Happened::Turn(Ok(Turn::Received(bytes))) => {
                shipper.step(Input::Received(&bytes), clock::tick())
            }
            Happened::Turn(Ok(Turn::Wrote)) => shipper.step(Input::Wrote, clock::tick()),
            Happened::Turn(Err(broken)) => shipper.step(Input::Lost(broken.reason), clock::tick()),
            Happened::Made(made) => {
                connecting = None;
                match made {
                    Ok(connection) => {
                        hands.connection = Some(connection);
                        shipper.step(Input::Connected, clock::tick())
                    }
                    Err(broken) => shipper.step(Input::Lost(broken.reason), clock::tick()),
                }
            }
            Happened::Captured => shipper.step(Input::Captured, clock::tick()),
            Happened::Clock => shipper.step(Input::Clock, clock::tick()),
            Happened::QueueGone => {
                queue_gone = true;
                shipper.step(Input::Clock, clock::tick())
            }
        });
    }
}

enum Happened {
    Turn(Result<Turn, Broken>),
    Made(Result<Connection, Broken>),
    Captured,
    QueueGone,
    Clock,
}

type Connecting = std::pin::Pin<Box<dyn Future<Output = Result<Connection, Broken>> + Send>>;

async fn turn(connection: Option<&mut Connection>) -> Result<Turn, Broken> {
    match connection {
        Some(connection) => connection.turn().await,
        None => std::future::pending().await,
    }
}

async fn made(connecting: Option<&mut Connecting>) -> Result<Connection, Broken> {
    match connecting {
        Some(connecting) => connecting.await,
        None => std::future::pending().await,
    }
}

struct Hands {
    loader: Loader,
    dial: Dial,
    connection: Option<Connection>,
    file: CursorFile,
    marks: crate::queue::service::Marks,
    output: String,
}

impl Hands {
    fn carry_out(
        &mut self,
        effect: Effect,
        connecting: &mut Option<Connecting>,
        level: &watch::Receiver<Level>,
    ) -> Option<Input<'static>> {
        match effect {
            Effect::Connect(host) => {
                let dial = self.dial.clone();
                *connecting = Some(Box::pin(
                    async move { Connection::open(&host, &dial).await },
                ));
                None
            }
            Effect::Close => {
                self.connection = None;
                None
            }
            Effect::Send(bytes) => {
                if let Some(connection) = &mut self.connection {
                    connection.send(bytes);
                }
                None
            }
            Effect::Load => {
                let end = level.borrow().end;
                Some(
                    match tokio::task::block_in_place(|| self.loader.load(end)) {
                        Ok(loaded) => Input::Loaded(loaded),
                        Err(error) => Input::LoadFailed(error.to_string()),
                    },
                )
            }
            Effect::Rewind(cursor) => {
                self.loader.rewind(&cursor);
                None
            }
            Effect::Store(cursor) => {
                // A cursor that cannot be stored costs duplicates after a crash, never events.
                if let Err(error) = self.file.store(&cursor) {
                    tracing::warn!(output = self.output, %error, "the cursor could not be stored");
                }
                None
            }
            Effect::Sync(cursor) => {
                match tokio::task::block_in_place(|| self.file.sync()) {
                    Ok(()) => {
                        locked(&self.marks).insert(self.output.clone(), cursor.at);
                    }
                    Err(error) => {
                        tracing::warn!(output = self.output, %error, "the cursor could not be synced");
                    }
                }
                None
            }
        }
    }
}
