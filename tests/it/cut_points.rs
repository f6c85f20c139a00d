//! A connection that ends at any byte, in either direction: nothing is lost, and only windows
//! without an ACK come twice.
//!
//! First without sockets, where every byte can be tried: the client's session and window builder
//! against the server's session. Then the real binary through a proxy that cuts.

#![expect(clippy::unwrap_used, reason = "tests")]

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::io::Write;
use std::ops::Range;
use std::path::Path;
use std::time::Duration;

use serde_json::Value;
use spoolbeat::clock::Tick;
use spoolbeat::event::Frames;
use spoolbeat::protocol::client;
use spoolbeat::protocol::frame::KEEP_ALIVE;
use spoolbeat::protocol::frame::Version;
use spoolbeat::protocol::frame::ack_of;
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
use crate::harness::Receiver;
use crate::harness::Spool;
use crate::harness::Window;
use crate::harness::authority::Authority;
use crate::harness::authority::Wanted;
use crate::harness::wait_until;

/// One way of talking.
#[derive(Debug, Clone, Copy)]
struct Talk {
    name: &'static str,
    events: u32,
    window: u32,
    pipelining: u32,
    level: u32,
    version: Version,
    /// Whether the server says that it is alive and acknowledges in parts; clients must bear both.
    parts: bool,
}

const TALKS: [Talk; 6] = [
    Talk {
        name: "version 2, plain",
        events: 11,
        window: 3,
        pipelining: 3,
        level: 0,
        version: Version::V2,
        parts: true,
    },
    Talk {
        name: "version 2, compressed",
        events: 14,
        window: 5,
        pipelining: 4,
        level: 3,
        version: Version::V2,
        parts: true,
    },
    Talk {
        name: "version 2, plain, one window at a time",
        events: 20,
        window: 7,
        pipelining: 0,
        level: 0,
        version: Version::V2,
        parts: false,
    },
    Talk {
        name: "version 2, compressed, one ACK a window",
        events: 40,
        window: 10,
        pipelining: 2,
        level: 3,
        version: Version::V2,
        parts: false,
    },
    Talk {
        name: "version 1, not compressed in its C frames",
        events: 10,
        window: 3,
        pipelining: 3,
        level: 0,
        version: Version::V1,
        parts: true,
    },
    Talk {
        name: "version 1, compressed",
        events: 14,
        window: 5,
        pipelining: 4,
        level: 3,
        version: Version::V1,
        parts: true,
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
            version: talk.version,
            pipelining: talk.pipelining,
            timeout: Duration::from_secs(30),
            ack_stall_timeout: Duration::from_secs(300),
        };
        let limits = Limits {
            events: talk.window,
            bytes: WINDOW_BYTES_MAX,
            compression_level: talk.level,
            format: talk.version.into(),
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
                        wire.extend_from_slice(&ack_of(window.version(), count / 2));
                        self.acks.push((wire.len(), before + count / 2));
                        wire.extend_from_slice(&KEEP_ALIVE);
                    }
                    wire.extend_from_slice(&ack_of(window.version(), window.last_seq()));
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
    let event: Value = serde_json::from_slice(event).unwrap();
    // A number in version 2, a text in version 1.
    event["n"].to_string().trim_matches('"').parse().unwrap()
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

/// The lines, and the start and the end of the run.
const EVENTS: usize = LINES + 2;

/// A connection is cut, made again and fed in milliseconds; there are hundreds of them.
const PATIENCE: Duration = Duration::from_secs(120);

/// Cuts spread over the first windows of a connection, each at another byte, every fifth in an ACK; in
/// an order without a pattern, so that hardly ever many in a row hit the same event.
fn cuts(count: usize, window_bytes: usize) -> Vec<Cut> {
    let stride = (3 * window_bytes).div_ceil(count);
    let mut cuts: Vec<Cut> = (0..count)
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
        .collect();
    let mut seed = 1;
    cuts.sort_by_cached_key(|_| chance(&mut seed, 1 << 30));
    cuts
}

/// Ships the lines of one job through a proxy that makes the cuts, to the server on this port; `keys` are
/// the output's. Returns when all is acknowledged.
fn ship_through(cuts: Vec<Cut>, server: u16, keys: &str) -> Spool {
    let count = cuts.len();
    let proxy = Proxy::new(server, cuts);
    let mut spool = Spool::with_settings(&format!(
        "[spool]\nsettle = \"100ms\"\n[output.lumberjack]\nhosts = [\"localhost:{}\"]\n\
         bulk_max_size = {WINDOW}\npipelining = {IN_FLIGHT}\nbackoff = {{ init = \"1ms\", max = \"2ms\" }}\n{keys}",
        proxy.port()
    ));
    let once = "[script]\nrun = \"job.sh\"\n[schedule]\nonce = true\n";
    let script = format!("seq -f 'line %.0f' {LINES}\n");
    spool.job("lines", once, "job.sh", &script);
    spool.start();
    wait_until(PATIENCE, "no event waits any more", || {
        let totals = &spool.status()["totals"];
        totals["captured_events"] == EVENTS && totals["waiting_events"] == 0
    });
    let mut made = proxy.made();
    assert_eq!(made.len(), count, "the events ended before the cuts");
    made.sort_by_key(|cut| cut.after);
    made.dedup();
    say(&format!("{count} connections cut at {} places", made.len()));
    spool
}

/// How many events arrived again, which is right only for those of the last windows of a connection.
fn came_twice(mut windows: Vec<Window>) -> usize {
    // Of a connection that was cut, a last window may be read when the next one is talking already.
    windows.sort_by_key(|window| window.connection);
    let mut twice = 0;
    let mut came_in = BTreeMap::new();
    for (index, window) in windows.iter().enumerate() {
        for id in &window.ids {
            let Some(before) = came_in.insert(id, index) else {
                continue;
            };
            twice += 1;
            let same = |later: &&Window| later.connection == windows[before].connection;
            let behind = windows[before + 1..].iter().filter(same).count();
            assert!(
                behind < IN_FLIGHT,
                "{id} came twice although {behind} windows after it were sent"
            );
        }
    }
    twice
}

/// Every event arrived or was set aside, since chance may cut five times in a row where one event is
/// sent alone, which cannot be told from a server that refuses it. `ids` are those that arrived.
fn assert_none_lost<'a>(spool: &Spool, ids: impl Iterator<Item = &'a str>) {
    let mut there: BTreeSet<String> = ids.map(str::to_owned).collect();
    let output = spool.status()["outputs"][0].clone();
    let aside = output["set_aside_events"].as_u64().unwrap();
    assert_eq!(
        output["acked_events"],
        u64::try_from(EVENTS).unwrap() - aside
    );
    assert!(aside < 5, "{aside} events set aside");
    let letters = spool.command(&["replay", "--dead-letter", "--stdout"]);
    let letters = String::from_utf8(letters.stdout).unwrap();
    there.extend(
        letters
            .lines()
            .filter(|line| line.starts_with('{'))
            .map(event_id),
    );
    assert_eq!(there.len(), EVENTS);
}

fn event_id(event: &str) -> String {
    let event: Value = serde_json::from_str(event).unwrap();
    event["event"]["id"].as_str().unwrap().to_owned()
}

#[test]
fn five_hundred_broken_connections_lose_nothing_and_resend_only_what_has_no_ack() {
    for (cuts, level) in [(cuts(260, 7_000), 0), (cuts(260, 1_000), 3)] {
        let logstash = Logstash::new(Keep::Ids);
        let keys = format!("compression_level = {level}\n");
        let mut spool = ship_through(cuts, logstash.port(), &keys);
        let windows = logstash.windows();
        let ids = windows.iter().flat_map(|window| &window.ids);
        assert_none_lost(&spool, ids.map(String::as_str));
        let twice = came_twice(windows);
        say(&format!(
            "level {level}: {EVENTS} events, {twice} of them twice"
        ));
        spool.stop();
    }
}

#[test]
fn a_hundred_broken_tls_connections_lose_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let authority = Authority::new(folder.path(), "authority");
    let server = authority.signs("server", &Wanted::default());
    let path = |path: &Path| path.to_str().unwrap().to_owned();
    let (certificate, key) = (path(&server.certificate), path(&server.key));
    let receiver = Receiver::start(&["--tls-cert", &certificate, "--tls-key", &key]);
    let keys = format!(
        "[output.lumberjack.ssl]\ncertificate_authorities = [\"{}\"]\n",
        path(&authority.file())
    );
    // Towards the client the handshake is more than all ACKs.
    let cuts = cuts(120, 2_000).into_iter().map(|cut| match cut.direction {
        Direction::ToClient => Cut {
            after: cut.after * 80,
            ..cut
        },
        Direction::ToServer => cut,
    });
    let mut spool = ship_through(cuts.collect(), receiver.addr().port(), &keys);
    let printed = receiver.printed();
    let ids: Vec<String> = printed.lines().map(event_id).collect();
    assert_none_lost(&spool, ids.iter().map(String::as_str));
    let different: BTreeSet<&String> = ids.iter().collect();
    let twice = ids.len() - different.len();
    say(&format!("TLS: {EVENTS} events, {twice} of them twice"));
    assert!(twice <= 120 * IN_FLIGHT * WINDOW, "{twice} came twice");
    spool.stop();
}
