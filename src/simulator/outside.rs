//! The world around the program: chance, time, the disk, the servers, the spool and the sources.

use std::collections::BTreeMap;
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use super::files::Source;
use super::oracle::Oracle;
use crate::clock::Tick;
use crate::disk::mem::MemDisk;
use crate::job::Job;
use crate::protocol::frame;
use crate::protocol::frame::Version;
use crate::protocol::server;
use crate::supervisor::Now;
use crate::units::Timestamp;

/// Decides everything that could be otherwise; the same seed decides the same.
#[derive(Debug)]
pub(super) struct Chance(u64);

impl Chance {
    pub(super) fn new(seed: u64) -> Self {
        let mut chance = Self(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1);
        chance.below(2);
        chance
    }

    /// A number below `below`, which is not 0.
    pub(super) fn below(&mut self, below: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33) % below
    }

    pub(super) fn index(&mut self, len: usize) -> usize {
        self.below(len as u64) as usize
    }

    pub(super) fn one_in(&mut self, many: u64) -> bool {
        self.below(many) == 0
    }
}

/// How a server behaves at the moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Manner {
    /// Acknowledges soon.
    Good,
    /// Acknowledges late, with signs of life meanwhile.
    Slow,
    /// Nobody is there.
    Away,
    /// Closes when a window has come.
    Cuts,
    /// Acknowledges a part, then closes.
    Parts,
    /// Takes windows and says nothing.
    Silent,
    /// Acknowledges more than it got.
    Lies,
    /// Speaks another protocol.
    Garbage,
}

impl Manner {
    const ALL: [Self; 8] = [
        Self::Good,
        Self::Slow,
        Self::Away,
        Self::Cuts,
        Self::Parts,
        Self::Silent,
        Self::Lies,
        Self::Garbage,
    ];
}

/// What comes from a server, and when.
#[derive(Debug)]
pub(super) enum Reply {
    /// These bytes; they acknowledge these events.
    Bytes(Vec<u8>, Vec<String>),
    /// The end of the connection.
    Closed,
}

/// A connection, as the server sees it.
#[derive(Debug)]
pub(super) struct Connection {
    host: usize,
    session: server::Session,
    /// It has left a window unanswered: an ACK for the next one would be taken for that one's.
    mute: bool,
    pub(super) replies: VecDeque<(Tick, Reply)>,
}

/// See the module's header.
pub(super) struct Outside {
    pub(super) chance: Chance,
    pub(super) now: Now,
    pub(super) disk: MemDisk,
    pub(super) oracle: Oracle,
    pub(super) manners: Vec<Manner>,
    /// What lies in `jobs/`.
    pub(super) spool: BTreeMap<String, Arc<Job>>,
    pub(super) sources: BTreeMap<u64, Source>,
    /// Generations of jobs, files and daemons: a number that is never used again.
    pub(super) serial: u64,
    /// The daemon has died in a call of the disk; what it still does has no effect.
    pub(super) frozen: Arc<AtomicBool>,
    /// Whether `SPOOLBEAT_TRACE` is set.
    pub(super) traced: bool,
}

impl Outside {
    pub(super) fn pass(&mut self, time: Duration) {
        self.now.tick = self.now.tick.after(time);
        self.now.wall = Timestamp(self.now.wall.0 + time.as_millis() as i64);
    }

    /// Tells a person who looks at one seed what happens.
    pub(super) fn trace(&self, what: impl FnOnce() -> String) {
        if self.traced {
            let Now { wall, tick } = self.now;
            super::say(&format!("{} {} {}", tick.0, wall.0, what()));
        }
    }

    pub(super) fn next_serial(&mut self) -> u64 {
        self.serial += 1;
        self.serial
    }

    pub(super) fn soon(&mut self, ms: u64) -> Tick {
        let wait = Duration::from_millis(1 + self.chance.below(ms));
        self.now.tick.after(wait)
    }

    pub(super) fn change_manners(&mut self) {
        let host = self.chance.index(self.manners.len());
        self.manners[host] = if self.chance.one_in(2) {
            Manner::Good
        } else {
            Manner::ALL[self.chance.index(Manner::ALL.len())]
        };
    }

    /// A connection to `host`, if somebody is there.
    pub(super) fn connect(&mut self, host: usize) -> Option<Connection> {
        (self.manners[host] != Manner::Away).then(|| Connection {
            host,
            session: server::Session::new(server::Limits::default()),
            mute: false,
            replies: VecDeque::new(),
        })
    }

    /// Takes what a client sends, and plans the replies.
    pub(super) fn take(&mut self, output: &str, connection: &mut Connection, mut bytes: &[u8]) {
        loop {
            match connection.session.feed(&mut bytes) {
                Ok(server::Want::Bytes) => return,
                Ok(server::Want::Room) => connection.session.grant(1 << 20),
                Ok(server::Want::Taking) => {
                    let Some(window) = connection.session.next_window() else {
                        return;
                    };
                    let ids: Vec<String> = window.events().map(id_of).collect();
                    for id in &ids {
                        self.oracle.came(output, id, connection.host == 0);
                    }
                    self.reply(connection, ids, window.version());
                }
                Err(fault) => panic!("the client breaks the protocol: {fault}"),
            }
        }
    }

    fn reply(&mut self, connection: &mut Connection, ids: Vec<String>, version: Version) {
        assert_eq!(version, Version::V2);
        if connection.mute {
            return;
        }
        let count = ids.len() as u32;
        let whole = |ids: Vec<String>| Reply::Bytes(frame::ack(count).to_vec(), ids);
        // The bytes of a connection come in their order.
        let after = connection.replies.back().map(|(at, _)| *at);
        let mut at = self.soon(80).max(after.unwrap_or_default());
        let replies = &mut connection.replies;
        // What one host refuses for long, others are sent before it: so there is one that never does.
        let manner = match self.manners[connection.host] {
            Manner::Cuts | Manner::Parts if connection.host == 0 => Manner::Silent,
            manner => manner,
        };
        match manner {
            Manner::Good | Manner::Away => replies.push_back((at, whole(ids))),
            Manner::Slow => {
                for _ in 0..self.chance.below(6) {
                    at = at.after(Duration::from_secs(1 + self.chance.below(20)));
                    replies.push_back((at, Reply::Bytes(frame::ack(0).to_vec(), Vec::new())));
                }
                replies.push_back((at, whole(ids)));
            }
            Manner::Cuts => replies.push_back((at, Reply::Closed)),
            Manner::Parts => {
                let some = self.chance.below(u64::from(count)) as u32;
                let part = ids[..some as usize].to_vec();
                if some > 0 {
                    replies.push_back((at, Reply::Bytes(frame::ack(some).to_vec(), part)));
                }
                if self.chance.one_in(2) {
                    replies.push_back((at, Reply::Closed));
                } else {
                    replies.push_back((at, whole(ids)));
                }
            }
            Manner::Silent => connection.mute = true,
            Manner::Lies => {
                replies.push_back((at, Reply::Bytes(frame::ack(count + 5).to_vec(), Vec::new())));
            }
            Manner::Garbage => {
                let bytes = b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec();
                replies.push_back((at, Reply::Bytes(bytes, Vec::new())));
            }
        }
    }
}

/// `event.id` of an event on the wire.
pub(super) fn id_of(event: &[u8]) -> String {
    let event: serde_json::Value = serde_json::from_slice(event).expect("events are JSON");
    let id = event["event"]["id"].as_str();
    id.expect("every event has an id").to_owned()
}
