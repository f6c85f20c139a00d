//! A connection that ends at any byte, in either direction: nothing is lost, and only windows
//! without an ACK come twice.
//!
//! First without sockets, where every byte can be tried: the client's session and window builder
//! against the server's session. Then the real binary through a proxy that cuts.

#![expect(clippy::unwrap_used, reason = "tests")]

use std::collections::BTreeMap;
use std::io::Write;
use std::ops::Range;
use std::time::Duration;

use spoolbeat::clock::Tick;
use spoolbeat::event::Frames;
use spoolbeat::protocol::client;
use spoolbeat::protocol::frame::KEEP_ALIVE;
use spoolbeat::protocol::frame::Version;
use spoolbeat::protocol::frame::ack;
use spoolbeat::protocol::server;
use spoolbeat::protocol::server::Want;
use spoolbeat::window::Builder;
use spoolbeat::window::Limits;
use spoolbeat::window::WINDOW_BYTES_MAX;

use crate::harness::Cut;
use crate::harness::Direction;
use crate::harness::Keep;
use crate::harness::Logstash;
use crate::harness::Proxy;
use crate::harness::Spool;
use crate::harness::wait_until;

/// One way of talking.
#[derive(Debug, Clone, Copy)]
struct Talk {
    name: &'static str,
    events: u32,
    window: u32,
    pipelining: u32,
    level: u32,
    /// Whether the server says that it is alive and acknowledges in parts; clients must bear both.
    parts: bool,
}

const TALKS: [Talk; 4] = [
    Talk {
        name: "plain",
        events: 23,
        window: 3,
        pipelining: 3,
        level: 0,
        parts: true,
    },
    Talk {
        name: "compressed",
        events: 25,
        window: 5,
        pipelining: 4,
        level: 3,
        parts: true,
    },
    Talk {
        name: "plain, one window at a time",
        events: 20,
        window: 7,
        pipelining: 0,
        level: 0,
        parts: false,
    },
    Talk {
        name: "compressed, one ACK a window",
        events: 40,
        window: 10,
        pipelining: 2,
        level: 3,
        parts: false,
    },
];

/// The client's side: what a shipper keeps over connections is only `acked`.
struct Client<'a> {
    talk: Talk,
    events: &'a Frames,
    session: client::Session,
    builder: Builder,
    acked: u32,
    sent: u32,
}

impl<'a> Client<'a> {
    fn connect(talk: Talk, events: &'a Frames, acked: u32) -> Self {
        let settings = client::Settings {
            version: Version::V2,
            pipelining: talk.pipelining,
            timeout: Duration::from_secs(30),
            ack_stall_timeout: Duration::from_secs(300),
        };
        let limits = Limits {
            events: talk.window,
            bytes: WINDOW_BYTES_MAX,
            compression_level: talk.level,
            version: Version::V2,
        };
        Self {
            talk,
            events,
            session: client::Session::new(settings, Tick(0)),
            builder: Builder::new(limits),
            acked,
            sent: acked,
        }
    }

    /// Writes as many windows as may be in flight.
    fn write(&mut self, wire: &mut Vec<u8>) {
        while self.session.can_send() && self.sent < self.talk.events {
            self.sent += self.builder.add(self.events, self.sent);
            let window = self.builder.finish().unwrap();
            self.session.sent(window.events, Tick(0));
            wire.extend_from_slice(&window.bytes);
        }
    }

    fn read(&mut self, bytes: &[u8]) {
        let progress = self.session.received(bytes, Tick(0)).unwrap();
        self.acked += u32::try_from(progress.events).unwrap();
    }
}

/// The server's side of one connection.
struct Server {
    talk: Talk,
    session: server::Session,
    /// The numbers of the events that it took over.
    taken: Vec<u32>,
    /// After how many bytes of its answers how many events are acknowledged.
    acks: Vec<(usize, u32)>,
}

impl Server {
    fn accept(talk: Talk) -> Self {
        Self {
            talk,
            session: server::Session::new(server::Limits::default()),
            taken: Vec::new(),
            acks: vec![(0, 0)],
        }
    }

    fn read(&mut self, mut bytes: &[u8], wire: &mut Vec<u8>) {
        loop {
            match self.session.feed(&mut bytes).unwrap() {
                Want::Bytes => return,
                Want::Room => self.session.grant(64),
                Want::Taking => {
                    let window = self.session.next_window().unwrap();
                    let before = u32::try_from(self.taken.len()).unwrap();
                    self.taken.extend(window.events().map(number));
                    let count = u32::try_from(window.count()).unwrap();
                    if self.talk.parts && count > 1 {
                        wire.extend_from_slice(&ack(count / 2));
                        self.acks.push((wire.len(), before + count / 2));
                        wire.extend_from_slice(&KEEP_ALIVE);
                    }
                    wire.extend_from_slice(&ack(window.last_seq()));
                    self.acks.push((wire.len(), before + count));
                }
            }
        }
    }

    /// How many events the first `bytes` of the answers acknowledge.
    fn acknowledged(&self, bytes: usize) -> u32 {
        let within = self.acks.iter().rev().find(|(end, _)| *end <= bytes);
        within.unwrap().1
    }
}

fn event(number: u32) -> String {
    format!(
        "{{\"n\":{number},\"m\":\"{:x}\"}}",
        number.wrapping_mul(2_654_435_761)
    )
}

fn number(event: &[u8]) -> u32 {
    let event: serde_json::Value = serde_json::from_slice(event).unwrap();
    u32::try_from(event["n"].as_u64().unwrap()).unwrap()
}

fn events(talk: Talk) -> Frames {
    let mut frames = Frames::default();
    for number in 0..talk.events {
        frames.push(|out| out.extend_from_slice(event(number).as_bytes()));
    }
    frames
}

/// Where a connection was cut, and what both sides know then.
struct End<'a> {
    client: Client<'a>,
    server: Server,
    /// Bytes that reached the server, and the client.
    asked: usize,
    answered: usize,
}

/// One connection from event `acked` on that carries so many bytes each way and then is gone.
fn connection<'a>(
    talk: Talk,
    events: &'a Frames,
    acked: u32,
    (ask, answer): (usize, usize),
) -> End<'a> {
    let mut client = Client::connect(talk, events, acked);
    let mut server = Server::accept(talk);
    let (mut asking, mut answering) = (Vec::new(), Vec::new());
    let (mut asked, mut answered) = (0, 0);
    loop {
        client.write(&mut asking);
        let ask = part(&asking, asked, ask);
        server.read(&asking[ask.clone()], &mut answering);
        let answer = part(&answering, answered, answer);
        client.read(&answering[answer.clone()]);
        if ask.is_empty() && answer.is_empty() {
            return End {
                client,
                server,
                asked,
                answered,
            };
        }
        (asked, answered) = (ask.end, answer.end);
    }
}

/// What of `wire` goes through now: behind `done`, up to `limit`.
fn part(wire: &[u8], done: usize, limit: usize) -> Range<usize> {
    done..limit.min(wire.len()).max(done)
}

/// Both sides agree as far as they can after a connection from event `before` on.
fn assert_sound(talk: Talk, before: u32, end: &End<'_>) {
    let taken: Vec<u32> =
        (before..before + u32::try_from(end.server.taken.len()).unwrap()).collect();
    assert_eq!(end.server.taken, taken, "no gap and no other order");
    let acked = before + end.server.acknowledged(end.answered);
    assert_eq!(end.client.acked, acked, "exactly what the ACKs say");
    let twice = before + u32::try_from(taken.len()).unwrap() - acked;
    assert!(
        twice <= talk.window * talk.pipelining.max(1),
        "{twice} events come twice"
    );
}

const ALL: (usize, usize) = (usize::MAX, usize::MAX);

#[test]
fn a_session_cut_at_any_byte_loses_nothing_and_resends_only_what_has_no_ack() {
    let mut cuts = 0;
    for talk in TALKS {
        let events = events(talk);
        let whole = connection(talk, &events, 0, ALL);
        assert_eq!(whole.client.acked, talk.events);
        let mut here = 0;
        for asked in 0..=whole.asked {
            for answered in 0..=whole.answered {
                let end = connection(talk, &events, 0, (asked, answered));
                if end.answered < answered {
                    break; // the server has nothing more to say to so few bytes
                }
                if end.asked < asked {
                    continue; // the client waits for more ACKs before it writes so many
                }
                here += 1;
                assert_sound(talk, 0, &end);
                let acked = end.client.acked;
                let rest = connection(talk, &events, acked, ALL);
                assert_sound(talk, acked, &rest);
                assert_eq!(rest.client.acked, talk.events, "cut at {asked}, {answered}");
            }
        }
        say(&format!(
            "{here} cut points of a session of {} + {} bytes, {}",
            whole.asked, whole.answered, talk.name
        ));
        cuts += here;
    }
    assert!(cuts >= 20_000, "only {cuts} cut points");
}

#[test]
fn a_session_cut_again_and_again_comes_to_its_end() {
    let mut seed = 7;
    for talk in TALKS {
        let events = events(talk);
        for _ in 0..200 {
            let (mut acked, mut connections) = (0, 0);
            while acked < talk.events {
                let cut = (chance(&mut seed, 600), chance(&mut seed, 60));
                let end = connection(talk, &events, acked, cut);
                assert_sound(talk, acked, &end);
                acked = end.client.acked;
                connections += 1;
                assert!(connections < 10_000, "no progress from event {acked}");
            }
        }
    }
}

/// A number below `below` that differs from time to time in a fixed way.
fn chance(seed: &mut u64, below: u64) -> usize {
    *seed = seed
        .wrapping_mul(6_364_136_223_846_793_005)
        .wrapping_add(1_442_695_040_888_963_407);
    usize::try_from((*seed >> 33) % below).unwrap()
}

fn say(line: &str) {
    drop(writeln!(std::io::stderr(), "{line}"));
}

/// Events of a window, windows in flight, and lines of the job in the tests with the real binary.
const WINDOW: usize = 10;
const IN_FLIGHT: usize = 2;
const LINES: usize = 15_000;

/// A connection is cut, made again and fed in milliseconds; there are hundreds of them.
const PATIENCE: Duration = Duration::from_secs(120);

/// Cuts spread over the first windows of a connection, each at another byte; every fifth is in an ACK.
fn cuts(count: usize, window_bytes: usize) -> Vec<Cut> {
    let stride = (3 * window_bytes).div_ceil(count);
    (0..count)
        .map(|number| match number % 5 {
            4 => Cut {
                direction: Direction::ToClient,
                after: number / 5 % 19,
            },
            _ => Cut {
                direction: Direction::ToServer,
                after: number * stride,
            },
        })
        .collect()
}

/// Ships the lines of one job through a proxy that makes the cuts; returns the ids as they arrived.
fn ship_through(cuts: Vec<Cut>, level: u32) {
    let count = cuts.len();
    let logstash = Logstash::new(Keep::Ids);
    let proxy = Proxy::new(logstash.port(), cuts.clone());
    let mut spool = Spool::with_settings(&format!(
        "[output.lumberjack]\nhosts = [\"127.0.0.1:{}\"]\nbulk_max_size = {WINDOW}\npipelining = {IN_FLIGHT}\n\
         compression_level = {level}\nbackoff = {{ init = \"1ms\", max = \"2ms\" }}\n[spool]\nsettle = \"100ms\"\n",
        proxy.port()
    ));
    let once = "[script]\nrun = \"job.sh\"\n[schedule]\nonce = true\n";
    spool.job(
        "lines",
        once,
        "job.sh",
        &format!("seq -f 'line %.0f' {LINES}\n"),
    );
    spool.start();
    wait_until(
        PATIENCE,
        "every cut is made and every event acknowledged",
        || {
            let status = spool.status();
            status["totals"]["acked_events"] == LINES + 2 && status["totals"]["waiting_events"] == 0
        },
    );
    let mut made = proxy.made();
    assert_eq!(made.len(), count, "the events ended before the cuts");
    made.sort_by_key(|cut| cut.after);
    made.dedup();
    let mut windows = logstash.windows();
    // Of a connection that was cut, a last window may be read when the next one is talking already.
    windows.sort_by_key(|window| window.connection);
    let twice = assert_in_order(windows.into_iter().map(|window| window.ids), LINES + 2);
    say(&format!(
        "{count} connections cut at {} places at level {level}: {} events, {twice} of them twice",
        made.len(),
        LINES + 2
    ));
    spool.stop();
}

/// Every one of `count` events arrived, first in order, and again only while it had no ACK: at most
/// the windows in flight behind the furthest. Returns how often one came again.
fn assert_in_order(windows: impl Iterator<Item = Vec<String>>, count: usize) -> usize {
    let mut places = BTreeMap::new();
    let mut twice = 0;
    for ids in windows {
        for id in ids {
            let seen = places.len();
            let place = *places.entry(id).or_insert(seen);
            twice += usize::from(place < seen);
            assert!(
                place + IN_FLIGHT * WINDOW >= seen,
                "event {place} came again when {seen} had come"
            );
        }
    }
    assert_eq!(places.len(), count);
    twice
}

#[test]
fn five_hundred_broken_connections_lose_nothing_and_resend_only_what_has_no_ack() {
    ship_through(cuts(260, WINDOW * 700), 0);
    ship_through(cuts(260, WINDOW * 100), 3);
}
