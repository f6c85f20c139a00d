//! The shipper against a server that cuts, delays and acknowledges in parts: one seed decides.

#![expect(clippy::unwrap_used, reason = "tests")]

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;

use super::load::Loader;
use super::*;
use crate::disk::mem::MemDisk;
use crate::event::Frames;
use crate::event::Route;
use crate::event::Stream;
use crate::protocol::frame;
use crate::protocol::server;
use crate::queue::Counters;
use crate::queue::Durability;
use crate::queue::Part;
use crate::queue::Portion;
use crate::queue::batch::Batch;
use crate::queue::cursor::Cursor;
use crate::queue::writer::Writer;
use crate::units::Timestamp;
use crate::window::Limits;

fn settings(bulk: u32, level: u32, pipelining: u32) -> Settings {
    Settings {
        hosts: vec!["a:1".into(), "b:2".into()],
        bulk_max_size: bulk,
        compression_level: level,
        pipelining,
        timeout: Duration::from_secs(30),
        ack_stall_timeout: Duration::from_secs(300),
        backoff_init: Duration::from_secs(1),
        backoff_max: Duration::from_secs(60),
        tls: None,
    }
}

/// A queue of records of these sizes; every third one is for another output.
fn queue(disk: &MemDisk, records: &[u32]) -> (Writer, Vec<u64>) {
    let settings = crate::queue::Settings {
        max_bytes: 64 << 20,
        retain_age: Duration::from_secs(1),
        retain_bytes: 0,
        durability: Durability::Sync,
        batch_events: 2048,
        batch_bytes: 1 << 20,
        flush: Duration::from_millis(100),
        compression_level: 3,
    };
    let (mut writer, _) = Writer::open(
        Arc::new(disk.clone()),
        Path::new("/q"),
        settings,
        Timestamp(0),
    )
    .unwrap();
    let mut mine = Vec::new();
    let mut n = 0;
    for (index, count) in records.iter().enumerate() {
        let foreign = index % 3 == 2;
        let mut frames = Frames::default();
        for _ in 0..*count {
            n += 1;
            frames.push(|out| {
                out.extend_from_slice(format!("{{\"n\":{n},\"pad\":\"{:0100}\"}}", 0).as_bytes())
            });
            if !foreign {
                mine.push(n);
            }
        }
        let mut batch = Batch::default();
        batch.add(Portion {
            route: Route::to(vec![if foreign { "other" } else { "out" }.into()]),
            parts: vec![Part {
                job: "job".into(),
                stream: Stream::Stdout,
                count: *count,
                first: Timestamp(0),
                last: Timestamp(0),
            }],
            frames,
            facts: Vec::new(),
            counters: Counters {
                framed: u64::from(*count),
                ..Counters::default()
            },
        });
        writer.append(&batch.close(3), Timestamp(0)).unwrap();
    }
    writer.commit(Timestamp(0)).unwrap();
    (writer, mine)
}

/// A server on one connection: takes bytes, gives ACKs.
struct Peer {
    session: server::Session,
    /// Windows taken but not answered: their events.
    open: Vec<Vec<u64>>,
}

/// What the whole world did.
struct World {
    shipper: Shipper,
    loader: Loader,
    end: crate::queue::Position,
    now: Tick,
    peer: Option<Peer>,
    stored: Cursor,
    /// How often each event came.
    came: BTreeMap<u64, u32>,
    order: Vec<u64>,
}

impl World {
    fn input(&mut self, input: Input<'_>) {
        let mut effects: VecDeque<Effect> = self.shipper.step(input, self.now).into();
        while let Some(effect) = effects.pop_front() {
            let next = match effect {
                Effect::Connect(_) => {
                    self.peer = Some(Peer {
                        session: server::Session::new(server::Limits::default()),
                        open: Vec::new(),
                    });
                    Some(Input::Connected)
                }
                Effect::Close => {
                    self.peer = None;
                    None
                }
                Effect::Load => Some(Input::Loaded(self.loader.load(self.end).unwrap())),
                Effect::Rewind(cursor) => {
                    self.loader.rewind(&cursor);
                    None
                }
                Effect::Send(bytes) => {
                    self.take(&bytes);
                    None
                }
                Effect::Store(cursor) => {
                    assert!(cursor.seq >= self.stored.seq, "a cursor never moves back");
                    assert_eq!(
                        cursor.seq,
                        cursor.born + cursor.passed.total(),
                        "every event has one disposition"
                    );
                    self.stored = cursor;
                    None
                }
                Effect::Sync(_) => None,
            };
            if let Some(input) = next {
                effects.extend(self.shipper.step(input, self.now));
            }
        }
    }

    fn take(&mut self, bytes: &[u8]) {
        let Some(peer) = &mut self.peer else { return };
        let mut bytes = bytes;
        loop {
            match peer.session.feed(&mut bytes).unwrap() {
                server::Want::Bytes => break,
                server::Want::Room => {
                    peer.session.grant(1 << 20);
                    continue;
                }
                server::Want::Taking => {}
            }
            let window = peer.session.next_window().unwrap();
            let events: Vec<u64> = window
                .events()
                .map(|payload| {
                    serde_json::from_slice::<serde_json::Value>(payload).unwrap()["n"]
                        .as_u64()
                        .unwrap()
                })
                .collect();
            assert_eq!(
                window.last_seq() as usize,
                events.len(),
                "numbered 1..n in each window"
            );
            for n in &events {
                *self.came.entry(*n).or_default() += 1;
                self.order.push(*n);
            }
            peer.open.push(events);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]

    #[test]
    fn everything_arrives_in_order_and_only_what_was_not_acknowledged_comes_twice(
        records in proptest::collection::vec(0_u32..900, 1..25),
        bulk in 1_u32..1200,
        level in prop_oneof![Just(0_u32), Just(3)],
        pipelining in 0_u32..4,
        moves in proptest::collection::vec((0_u8..6, 1_u32..100), 0..60),
    ) {
        let disk = MemDisk::default();
        let (writer, mine) = queue(&disk, &records);
        let cursor = Cursor { at: crate::queue::Position { segment: 1, offset: 0 }, seq: 1, born: 1, ..Cursor::default() };
        let limits = Limits { events: bulk, compression_level: level };
        let mut world = World {
            shipper: Shipper::new(settings(bulk, level, pipelining), cursor, 7),
            loader: Loader::new(Arc::new(disk.clone()), Path::new("/q"), "out", &cursor, limits),
            end: writer.durable_end(),
            now: Tick(1),
            peer: None,
            stored: cursor,
            came: BTreeMap::new(),
            order: Vec::new(),
        };
        world.input(Input::Clock);
        let mut allowed_twice = 0;
        for (kind, amount) in moves {
            world.now = world.now.after(Duration::from_millis(10));
            let oldest = world.peer.as_ref().and_then(|peer| peer.open.first().map(Vec::len));
            match (kind, oldest) {
                // The oldest window is acknowledged in part, or as a whole.
                (0 | 1, Some(len)) => {
                    let value = (len as u32 * amount / 100).clamp(1, len as u32);
                    if value == len as u32 {
                        world.peer.as_mut().unwrap().open.remove(0);
                    }
                    world.input(Input::Received(&frame::ack(value)));
                }
                (2 | 3, Some(len)) => {
                    world.peer.as_mut().unwrap().open.remove(0);
                    world.input(Input::Received(&frame::ack(len as u32)));
                }
                (4, _) => world.input(Input::Received(&frame::KEEP_ALIVE)),
                (5, _) if world.peer.is_some() => {
                    let open = &world.peer.as_ref().unwrap().open;
                    allowed_twice += open.iter().map(Vec::len).sum::<usize>();
                    world.input(Input::Lost("cut".to_owned()));
                    world.now = world.now.after(Duration::from_secs(61));
                    world.input(Input::Clock);
                }
                _ => {}
            }
        }
        // The server answers everything from now on.
        for _ in 0..20_000 {
            let Some(len) = world.peer.as_ref().and_then(|peer| peer.open.first().map(Vec::len)) else { break };
            world.peer.as_mut().unwrap().open.remove(0);
            world.input(Input::Received(&frame::ack(len as u32)));
        }
        world.now = world.now.after(Duration::from_secs(1));
        world.input(Input::Clock);
        prop_assert!(world.shipper.is_through(writer.captured_seq()), "{:?}", world.shipper);
        prop_assert_eq!(world.came.keys().copied().collect::<Vec<_>>(), mine.clone());
        let twice: u32 = world.came.values().map(|times| times - 1).sum();
        prop_assert!(twice as usize <= allowed_twice, "{} came twice, {} were not acknowledged", twice, allowed_twice);
        let mut firsts = world.order.clone();
        let mut seen = std::collections::BTreeSet::new();
        firsts.retain(|n| seen.insert(*n));
        prop_assert_eq!(firsts, mine);
        prop_assert_eq!(world.stored.passed.acked as usize, world.came.len());
        prop_assert_eq!(world.stored.passed.damaged, 0);
    }
}

#[test]
fn a_server_that_never_answers_is_left_after_the_timeout_and_the_next_host_tried() {
    let mut shipper = Shipper::new(settings(10, 3, 1), Cursor::default(), 1);
    let effects = shipper.step(Input::Clock, Tick(0));
    assert_eq!(effects, [Effect::Connect("a:1".into())]);
    assert_eq!(shipper.step(Input::Connected, Tick(5)), [Effect::Load]);
    let window = Window {
        bytes: vec![1],
        events: 1,
    };
    let step = trail::Step {
        at: crate::queue::Position::default(),
        done: 0,
        events: 1,
        next: Some(crate::queue::Position {
            segment: 1,
            offset: 9,
        }),
        way: trail::Way::Sent,
    };
    let loaded = Loaded {
        window: Some(window),
        steps: vec![step],
        at_end: true,
    };
    assert_eq!(
        shipper.step(Input::Loaded(loaded), Tick(5)),
        [Effect::Send(vec![1])]
    );
    assert_eq!(shipper.wake_at(), Some(Tick(30_005)));
    let effects = shipper.step(Input::Clock, Tick(30_005));
    assert_eq!(effects, [Effect::Close, Effect::Rewind(Cursor::default())]);
    assert!(
        shipper
            .view(2)
            .last_error
            .is_some_and(|error| error.contains("timeout"))
    );
    let retry = shipper.wake_at().unwrap();
    assert!(
        (30_505..=31_005).contains(&retry.0),
        "half of the back-off is by chance: {retry:?}"
    );
    assert_eq!(
        shipper.step(Input::Clock, retry),
        [Effect::Connect("b:2".into())]
    );
}
