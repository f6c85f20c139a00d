//! One output: the real shipper with the disk, and servers instead of sockets.

use std::collections::BTreeMap;
use std::collections::VecDeque;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::DIR;
use super::outside::Connection;
use super::outside::Outside;
use super::outside::Reply;
use super::outside::id_of;
use crate::clock::Tick;
use crate::deadletter;
use crate::deadletter::Letter;
use crate::disk::Disk;
use crate::lumberjack::connection::Broken;
use crate::lumberjack::connection::Cause;
use crate::protocol::frame::Version;
use crate::queue::Position;
use crate::queue::cursor::Cursor;
use crate::queue::cursor::CursorFile;
use crate::shipper::Effect;
use crate::shipper::Input;
use crate::shipper::Loader;
use crate::shipper::Shipper;
use crate::sink::lumberjack::Settings;

/// A lane's connection.
enum Port {
    Closed,
    /// To this host, answered then.
    Dialling(usize, Tick),
    Open(Box<Connection>),
}

/// See the module's header.
pub(super) struct Output {
    pub(super) name: String,
    shipper: Shipper,
    loader: Loader,
    letters: deadletter::Writer,
    file: CursorFile,
    ports: Vec<Port>,
    /// How far it may read, and which event comes then.
    pub(super) end: (Position, u64),
    pub(super) answered: bool,
}

/// What outputs are called, which servers they have, and whether they use all of them at once.
pub(super) const OUTPUTS: [(&str, &[usize], bool); 3] = [
    ("one", &[0], false),
    ("two", &[1, 2], false),
    ("all", &[3, 4], true),
];

fn settings(hosts: &[usize], loadbalance: bool) -> Settings {
    Settings {
        hosts: hosts.iter().map(|host| format!("{host}:5044")).collect(),
        loadbalance,
        version: Version::V2,
        bulk_max_size: 24,
        bulk_max_bytes: 8 << 20,
        compression_level: 0,
        pipelining: 2,
        ttl: Duration::ZERO,
        timeout: Duration::from_secs(30),
        ack_stall_timeout: Duration::from_secs(300),
        backoff_init: Duration::from_secs(1),
        backoff_max: Duration::from_secs(60),
        tls: None,
    }
}

impl Output {
    pub(super) fn start(
        index: usize,
        (file, cursor): (CursorFile, Cursor),
        end: (Position, u64),
        out: &mut Outside,
        marks: &mut BTreeMap<String, Cursor>,
    ) -> Self {
        let (name, hosts, loadbalance) = OUTPUTS[index];
        let settings = settings(hosts, loadbalance);
        let disk: Arc<dyn Disk> = Arc::new(out.disk.clone());
        let salt = out.chance.below(1000);
        let mut output = Self {
            loader: Loader::new(
                Arc::clone(&disk),
                Path::new(DIR),
                name,
                &cursor,
                settings.limits(),
            ),
            letters: deadletter::Writer::new(disk, deadletter::dir(Path::new("/r"), name)),
            file,
            ports: hosts.iter().map(|_| Port::Closed).collect(),
            end,
            answered: false,
            name: name.to_owned(),
            shipper: Shipper::new(name, settings.plan(), cursor, salt),
        };
        output.step(Input::Clock, out, marks);
        output
    }

    pub(super) fn is_through(&self, seq: u64) -> bool {
        self.shipper.is_through(seq)
    }

    /// When something happens to it next.
    pub(super) fn wake(&self) -> Option<Tick> {
        let ports = self.ports.iter().filter_map(|port| match port {
            Port::Closed => None,
            Port::Dialling(_, at) => Some(*at),
            Port::Open(connection) => connection.replies.front().map(|(at, _)| *at),
        });
        ports.chain(self.shipper.wake_at()).min()
    }

    /// The queue has grown.
    pub(super) fn captured(
        &mut self,
        end: (Position, u64),
        out: &mut Outside,
        marks: &mut BTreeMap<String, Cursor>,
    ) {
        self.end = end;
        self.step(Input::Captured, out, marks);
    }

    /// Lets one thing happen that is due.
    pub(super) fn go_on(&mut self, out: &mut Outside, marks: &mut BTreeMap<String, Cursor>) {
        let now = out.now.tick;
        for lane in 0..self.ports.len() {
            match &mut self.ports[lane] {
                Port::Dialling(host, at) if *at <= now => {
                    let host = *host;
                    let Some(connection) = out.connect(host) else {
                        self.ports[lane] = Port::Closed;
                        let broken = broken(Cause::Unreachable);
                        return self.lost(lane, broken, out, marks);
                    };
                    self.ports[lane] = Port::Open(Box::new(connection));
                    self.answered = true;
                    return self.step(Input::Connected(lane), out, marks);
                }
                Port::Open(connection)
                    if connection.replies.front().is_some_and(|(at, _)| *at <= now) =>
                {
                    let reply = connection.replies.pop_front();
                    return match reply {
                        Some((_, Reply::Bytes(bytes, ids))) => {
                            out.trace(|| {
                                format!("{} lane {lane} acks {bytes:?} {ids:?}", self.name)
                            });
                            for id in ids {
                                out.oracle.done(&self.name, &id);
                            }
                            self.step(Input::Received(lane, &bytes), out, marks);
                        }
                        _ => {
                            self.ports[lane] = Port::Closed;
                            self.lost(lane, broken(Cause::ByPeer), out, marks);
                        }
                    };
                }
                _ => {}
            }
        }
        if self.shipper.wake_at().is_some_and(|at| at <= now) {
            self.step(Input::Clock, out, marks);
        }
    }

    fn lost(
        &mut self,
        lane: usize,
        broken: Broken,
        out: &mut Outside,
        marks: &mut BTreeMap<String, Cursor>,
    ) {
        let flushed = true;
        let input = Input::Lost {
            lane,
            broken,
            flushed,
        };
        self.step(input, out, marks);
    }

    fn step(&mut self, input: Input<'_>, out: &mut Outside, marks: &mut BTreeMap<String, Cursor>) {
        let mut effects: VecDeque<Effect> = self.shipper.step(input, out.now.tick).into();
        while let Some(effect) = effects.pop_front() {
            if let Some(input) = self.carry_out(effect, out, marks) {
                effects.extend(self.shipper.step(input, out.now.tick));
            }
        }
    }

    fn carry_out(
        &mut self,
        effect: Effect,
        out: &mut Outside,
        marks: &mut BTreeMap<String, Cursor>,
    ) -> Option<Input<'static>> {
        match effect {
            Effect::Connect(lane, host) => {
                let host = host.split(':').next().and_then(|host| host.parse().ok());
                self.ports[lane] = Port::Dialling(host.unwrap_or(0), out.soon(20));
                None
            }
            Effect::Close(lane) => {
                self.ports[lane] = Port::Closed;
                None
            }
            Effect::Send(lane, bytes) => {
                if let Port::Open(connection) = &mut self.ports[lane] {
                    out.trace(|| format!("{} lane {lane} sends {} bytes", self.name, bytes.len()));
                    out.take(&self.name, connection, &bytes);
                }
                Some(Input::Wrote(lane))
            }
            Effect::Load(order, most) => Some(match self.loader.load(&order, most, self.end) {
                Ok(loaded) => Input::Loaded(loaded),
                Err(error) => Input::LoadFailed(error.to_string()),
            }),
            Effect::SetAside { step, host, reason } => {
                let event = match self.loader.event(&step, self.end.0) {
                    Ok(Some(event)) => event,
                    Ok(None) => panic!("P7: {} cannot be read, and nothing was damaged", step.seq),
                    Err(error) => return Some(Input::SetAsideFailed(error.to_string())),
                };
                let id = id_of(&event);
                let letter = Letter {
                    set_aside_at: out.now.wall,
                    output: self.name.clone(),
                    host,
                    reason,
                    seq: step.seq,
                    event,
                };
                Some(match self.letters.add(&letter) {
                    Ok(()) => {
                        out.oracle.aside += 1;
                        out.oracle.done(&self.name, &id);
                        Input::SetAside(true)
                    }
                    Err(refused) => Input::SetAsideFailed(refused.to_string()),
                })
            }
            Effect::Store(cursor) => {
                out.trace(|| format!("{} stores {cursor:?}", self.name));
                out.oracle.cursor(&self.name, &cursor);
                drop(self.file.store(&cursor));
                None
            }
            Effect::Sync(cursor) => {
                if self.file.sync(&cursor).is_ok() {
                    out.oracle.synced(&self.name, &cursor);
                    marks.insert(self.name.clone(), cursor);
                }
                None
            }
        }
    }
}

fn broken(cause: Cause) -> Broken {
    Broken {
        reason: "the simulator says so".to_owned(),
        guess: "",
        cause,
    }
}
