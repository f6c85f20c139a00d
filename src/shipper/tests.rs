//! The shipper against servers that cut, delay, refuse and acknowledge in parts, without a socket.

#![expect(clippy::unwrap_used, reason = "tests")]

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::collections::VecDeque;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;

use super::load::Loader;
use super::trail::Way;
use super::*;
use crate::disk::Open;
use crate::disk::mem::MemDisk;
use crate::disk::mem::Verb;
use crate::event::Frames;
use crate::event::Route;
use crate::event::Stream;
use crate::protocol::frame;
use crate::protocol::frame::Version;
use crate::protocol::server;
use crate::queue::Counters;
use crate::queue::Durability;
use crate::queue::Part;
use crate::queue::Portion;
use crate::queue::Position;
use crate::queue::batch::Batch;
use crate::queue::cursor::Passed;
use crate::queue::cursor::Unacked;
use crate::queue::writer::Writer;
use crate::sink::lumberjack::Settings;
use crate::units::Timestamp;

fn settings(hosts: usize) -> Settings {
    Settings {
        hosts: (0..hosts).map(|n| format!("{n}:5044")).collect(),
        loadbalance: false,
        version: Version::V2,
        bulk_max_size: 64,
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

/// A queue of records of these sizes; with `foreign` every third one is for another output.
/// Each event holds its own number.
fn queue(disk: &MemDisk, records: &[u32], foreign: bool) -> (Writer, BTreeSet<u64>) {
    let settings = crate::queue::Settings {
        max_bytes: 64 << 20,
        retain_age: Duration::from_secs(1),
        retain_bytes: 0,
        durability: Durability::Sync,
        batch_events: 2048,
        batch_bytes: 1 << 20,
        flush: Duration::from_millis(100),
        compression_level: 3,
        on_full: crate::queue::OnFull::Block,
    };
    let (mut writer, _) = Writer::open(
        Arc::new(disk.clone()),
        Path::new("/q"),
        settings,
        Timestamp(0),
    )
    .unwrap();
    let mut mine = BTreeSet::new();
    let mut n = 0;
    for (index, count) in records.iter().enumerate() {
        let foreign = foreign && index % 3 == 2;
        let mut frames = Frames::default();
        for _ in 0..*count {
            n += 1;
            frames.push(|out| {
                out.extend_from_slice(format!("{{\"n\":{n},\"pad\":\"{:0100}\"}}", 0).as_bytes())
            });
            if !foreign {
                mine.insert(n);
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
    /// Windows taken but not answered: their events, and how many of them are acknowledged.
    open: VecDeque<(Vec<u64>, u32)>,
    /// Events of the window that was completed last.
    completed: u32,
}

/// What a server does with its oldest window.
enum Verdict {
    Ack,
    Close,
    Cut,
    Silence,
}

/// What the whole world did.
struct World {
    shipper: Shipper,
    loader: Loader,
    end: Position,
    next_seq: u64,
    now: Tick,
    hosts: Vec<String>,
    peers: Vec<Option<Peer>>,
    /// The host that each lane was connected to, in order.
    dialled: Vec<String>,
    /// Hosts that nobody can connect to.
    dead: BTreeSet<String>,
    /// Hosts that never say whether somebody can.
    silent: BTreeSet<String>,
    stored: Cursor,
    mine: BTreeSet<u64>,
    /// What is neither acknowledged nor set aside.
    open: BTreeSet<u64>,
    acked: BTreeSet<u64>,
    aside: BTreeSet<u64>,
    dead_letters_full: bool,
    came: BTreeMap<u64, u32>,
    order: Vec<u64>,
    /// The largest window in flight at any time, in windows.
    most_open: usize,
}

impl World {
    fn new(settings: Settings, records: &[u32], foreign: bool) -> Self {
        let mut world = Self::before(settings, records, foreign);
        world.input(Input::Clock);
        world
    }

    /// Before the shipper's first step.
    fn before(settings: Settings, records: &[u32], foreign: bool) -> Self {
        let disk = MemDisk::default();
        let (writer, mine) = queue(&disk, records, foreign);
        let cursor = Cursor {
            at: Position {
                segment: 1,
                offset: 0,
            },
            seq: 1,
            born: 1,
            ..Cursor::default()
        };
        let disk = Arc::new(disk);
        Self {
            loader: Loader::new(disk, Path::new("/q"), "out", &cursor, settings.limits()),
            end: writer.durable_end(),
            next_seq: writer.captured_seq(),
            now: Tick(1),
            hosts: settings.hosts.clone(),
            peers: settings.hosts.iter().map(|_| None).collect(),
            dialled: Vec::new(),
            dead: BTreeSet::new(),
            silent: BTreeSet::new(),
            shipper: Shipper::new("out", settings.plan(), cursor, 0),
            stored: cursor,
            open: mine.clone(),
            mine,
            acked: BTreeSet::new(),
            aside: BTreeSet::new(),
            dead_letters_full: false,
            came: BTreeMap::new(),
            order: Vec::new(),
            most_open: 0,
        }
    }

    fn input(&mut self, input: Input<'_>) {
        let mut effects: VecDeque<Effect> = self.shipper.step(input, self.now).into();
        while let Some(effect) = effects.pop_front() {
            if let Some(input) = self.carry_out(effect) {
                effects.extend(self.shipper.step(input, self.now));
            }
        }
        self.check_cursor();
    }

    fn carry_out(&mut self, effect: Effect) -> Option<Input<'static>> {
        match effect {
            Effect::Connect(lane, host) => {
                self.dialled.push(host.clone());
                if self.dead.contains(&host) {
                    return Some(lost(lane, Cause::Unreachable));
                }
                if self.silent.contains(&host) {
                    return None;
                }
                assert!(self.peers[lane].is_none(), "the former one was closed");
                self.peers[lane] = Some(Peer {
                    session: server::Session::new(server::Limits::default()),
                    open: VecDeque::new(),
                    completed: 0,
                });
                Some(Input::Connected(lane))
            }
            Effect::Close(lane) => {
                self.peers[lane] = None;
                None
            }
            Effect::Load(order, most) => Some(Input::Loaded(
                self.loader
                    .load(&order, most, (self.end, self.next_seq))
                    .unwrap(),
            )),
            Effect::Send(lane, bytes) => {
                self.take(lane, &bytes);
                Some(Input::Wrote(lane))
            }
            Effect::SetAside { step, host, reason } => {
                if self.dead_letters_full {
                    return Some(Input::SetAsideFailed("full".to_owned()));
                }
                assert!(self.hosts.contains(&host) && reason.contains("alone"));
                let event = self.loader.event(&step, self.end).unwrap().unwrap();
                let n = number(&event);
                assert_eq!(n, step.seq);
                assert!(!self.acked.contains(&n), "{n} was acknowledged");
                assert!(self.aside.insert(n), "{n} was set aside twice");
                self.open.remove(&n);
                Some(Input::SetAside(true))
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
            Effect::Sync(cursor) => {
                assert_eq!(cursor, self.stored);
                None
            }
        }
    }

    /// The cursor is exactly behind the contiguous prefix of what is done with; without a connection
    /// also behind what is for others.
    fn check_cursor(&self) {
        let first = self.open.first().copied().unwrap_or(u64::MAX);
        let at = self.stored.seq;
        assert!(at <= first, "the cursor is at {at}, but {first} is open");
        assert_eq!(
            self.mine.range(at..).next().copied().unwrap_or(u64::MAX),
            first,
            "the cursor lags behind at {at}"
        );
        if self.peers.iter().all(Option::is_none) {
            assert_eq!(
                at,
                first.min(self.next_seq),
                "what is for others holds it up"
            );
        }
    }

    fn take(&mut self, lane: usize, bytes: &[u8]) {
        let Some(peer) = &mut self.peers[lane] else {
            panic!("bytes for a lane that is closed");
        };
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
            let events: Vec<u64> = window.events().map(number).collect();
            assert_eq!(
                window.last_seq() as usize,
                events.len(),
                "numbered 1..n in each window"
            );
            for n in &events {
                assert!(
                    !self.acked.contains(n),
                    "{n} was acknowledged and comes again"
                );
                *self.came.entry(*n).or_default() += 1;
                self.order.push(*n);
            }
            peer.open.push_back((events, 0));
            self.most_open = self.most_open.max(peer.open.len());
        }
    }

    fn oldest(&self, lane: usize) -> Option<&(Vec<u64>, u32)> {
        self.peers[lane].as_ref()?.open.front()
    }

    /// Acknowledges the oldest window of a lane up to its event `value`.
    fn ack(&mut self, lane: usize, value: u32) {
        let peer = self.peers[lane].as_mut().unwrap();
        let (events, acked) = peer.open.front_mut().unwrap();
        if *acked == 0 && value == peer.completed && (value as usize) < events.len() {
            // Cannot be told from a repeat of the last window's ACK: it confirms nothing.
            return;
        }
        for n in &events[*acked as usize..value.max(*acked) as usize] {
            assert!(self.acked.insert(*n), "{n} is acknowledged twice");
            self.open.remove(n);
        }
        *acked = value.max(*acked);
        if *acked as usize == events.len() {
            peer.completed = *acked;
            peer.open.pop_front();
        }
        self.input(Input::Received(lane, &frame::ack(value)));
    }

    fn lose(&mut self, lane: usize, cause: Cause) {
        self.peers[lane] = None;
        self.input(lost(lane, cause));
    }

    /// Lets the servers go on until all is shipped, or nothing has changed for an hour.
    fn serve(&mut self, mut server: impl FnMut(&str, &[u64], Tick) -> Verdict) -> bool {
        let mut changed = self.now;
        while !self.shipper.is_through(self.next_seq) {
            if self.now.since(changed) > Duration::from_secs(3600) {
                return false;
            }
            let before = (self.acked.len(), self.aside.len());
            for lane in 0..self.peers.len() {
                let Some((events, _)) = self.oldest(lane) else {
                    continue;
                };
                let host = self.shipper.plan.hosts[self.shipper.lanes[lane].host].clone();
                match server(&host, events, self.now) {
                    Verdict::Ack => {
                        let all = u32::try_from(events.len()).unwrap();
                        self.ack(lane, all);
                    }
                    Verdict::Close => self.lose(lane, Cause::ByPeer),
                    Verdict::Cut => self.lose(lane, Cause::Unreachable),
                    Verdict::Silence => {}
                }
            }
            if before != (self.acked.len(), self.aside.len()) {
                changed = self.now;
            }
            let soon = self.now.after(Duration::from_millis(20));
            let wake = self.shipper.wake_at().unwrap_or(soon);
            let busy = (0..self.peers.len()).any(|lane| self.oldest(lane).is_some());
            self.now = if busy { soon } else { wake.max(soon) };
            self.input(Input::Clock);
        }
        true
    }

    fn assert_all(&self, poison: &[u64]) {
        assert_eq!(self.aside, poison.iter().copied().collect());
        let good: BTreeSet<u64> = self.mine.difference(&self.aside).copied().collect();
        assert_eq!(self.acked, good);
        let passed = self.stored.passed;
        assert_eq!(passed.acked as usize, self.acked.len());
        assert_eq!(passed.set_aside as usize, self.aside.len());
        assert_eq!(passed.damaged, 0);
    }

    fn last_error(&self) -> String {
        self.shipper
            .view(self.next_seq)
            .last_error
            .unwrap_or_default()
    }
}

fn number(event: &[u8]) -> u64 {
    let text = str::from_utf8(event).unwrap();
    let (number, _) = text[5..].split_once(',').unwrap();
    number.parse().unwrap()
}

fn lost(lane: usize, cause: Cause) -> Input<'static> {
    let broken = Broken {
        reason: "the server closed the connection".to_owned(),
        guess: "; does it speak this?",
        cause,
    };
    Input::Lost {
        lane,
        broken,
        flushed: true,
    }
}

/// A server that closes on every window that holds one of these.
fn refusing(poison: &[u64]) -> impl FnMut(&str, &[u64], Tick) -> Verdict {
    let poison: BTreeSet<u64> = poison.iter().copied().collect();
    move |_, events, _| {
        if events.iter().any(|n| poison.contains(n)) {
            Verdict::Close
        } else {
            Verdict::Ack
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]

    #[test]
    fn everything_arrives_in_order_and_only_what_was_not_acknowledged_comes_twice(
        records in proptest::collection::vec(0_u32..300, 1..25),
        bulk in 1_u32..400,
        level in prop_oneof![Just(0_u32), Just(3)],
        pipelining in 0_u32..4,
        moves in proptest::collection::vec((0_u8..6, 1_u32..100), 0..60),
    ) {
        let settings = Settings { bulk_max_size: bulk, compression_level: level, pipelining, ..settings(2) };
        let mut world = World::new(settings, &records, true);
        let mut allowed_twice = 0;
        for (kind, amount) in moves {
            world.now = world.now.after(Duration::from_millis(10));
            let oldest = world.oldest(0).map(|(events, _)| events.len() as u32);
            match (kind, oldest) {
                (0 | 1, Some(len)) => world.ack(0, (len * amount / 100).clamp(1, len)),
                (2 | 3, Some(len)) => world.ack(0, len),
                (4, _) => world.input(Input::Received(0, &frame::KEEP_ALIVE)),
                (5, _) if world.peers[0].is_some() => {
                    let open = &world.peers[0].as_ref().unwrap().open;
                    allowed_twice += open.iter().map(|(events, acked)| events.len() - *acked as usize).sum::<usize>();
                    world.lose(0, Cause::Unreachable);
                    world.now = world.now.after(Duration::from_secs(61));
                    world.input(Input::Clock);
                }
                _ => {}
            }
        }
        prop_assert!(world.serve(|_, _, _| Verdict::Ack), "{:?}", world.shipper);
        world.assert_all(&[]);
        let twice: u32 = world.came.values().map(|times| times - 1).sum();
        prop_assert!(twice as usize <= allowed_twice, "{} came twice, {} were not acknowledged", twice, allowed_twice);
        let mut seen = BTreeSet::new();
        world.order.retain(|n| seen.insert(*n));
        prop_assert_eq!(world.order, world.mine.into_iter().collect::<Vec<_>>());
    }

    #[test]
    fn whatever_lanes_and_servers_do_every_event_is_acknowledged_or_set_aside_once(
        records in proptest::collection::vec(0_u32..40, 1..25),
        hosts in 1_usize..4,
        loadbalance in any::<bool>(),
        bulk in 1_u32..50,
        pipelining in 0_u32..4,
        poison in proptest::collection::btree_set(1_u64..300, 0..6),
        moves in proptest::collection::vec((0_u8..8, 0_usize..4, 1_u32..100), 0..200),
    ) {
        let settings = Settings { bulk_max_size: bulk, pipelining, loadbalance, ..settings(hosts) };
        let mut world = World::new(settings, &records, true);
        for (kind, lane, amount) in moves {
            let lane = lane % hosts;
            world.now = world.now.after(Duration::from_millis(500));
            // A server acknowledges no window with poison beyond it.
            let oldest = world.oldest(lane).map(|(events, acked)| {
                let good = events.iter().position(|n| poison.contains(n)).unwrap_or(events.len());
                (good as u32, *acked, events.len() as u32)
            });
            match (kind, oldest) {
                (0 | 1, Some((good, acked, len))) if good > acked => {
                    world.ack(lane, (acked + len * amount / 100).clamp(acked + 1, good));
                }
                (2 | 3, Some((good, _, len))) if good == len => world.ack(lane, len),
                (2..=4, Some((good, _, len))) if good < len => world.lose(lane, Cause::ByPeer),
                (5, Some(_)) => world.lose(lane, Cause::ByPeer),
                (6, Some(_)) => world.lose(lane, Cause::Unreachable),
                _ => world.input(Input::Clock),
            }
        }
        let refused: Vec<u64> = poison.intersection(&world.mine).copied().collect();
        let through = world.serve(refusing(&refused));
        // Without any good event left nothing can prove that the server works.
        prop_assert!(through || world.acked.len() + refused.len() == world.mine.len(), "{:?}", world.shipper);
        prop_assert!(world.aside.iter().all(|n| refused.contains(n)), "{:?}", world.aside);
        if through {
            prop_assert_eq!(world.acked.len() + world.aside.len(), world.mine.len());
        }
    }
}

#[test]
fn a_server_that_never_answers_is_left_after_the_timeout_and_the_next_host_tried() {
    let mut world = World::new(settings(2), &[1], false);
    assert_eq!(world.dialled, ["0:5044"]);
    assert_eq!(world.shipper.wake_at(), Some(Tick(30_001)));
    world.now = Tick(30_001);
    world.input(Input::Clock);
    assert!(world.last_error().contains("timeout"));
    let retry = world.shipper.wake_at().unwrap();
    assert!(
        (30_501..=31_001).contains(&retry.0),
        "half of the back-off is by chance: {retry:?}"
    );
    world.now = retry;
    world.input(Input::Clock);
    assert_eq!(world.dialled, ["0:5044", "1:5044"]);
    assert!(world.aside.is_empty());
}

#[test]
fn the_first_host_is_by_chance_and_the_back_off_ends_with_progress_not_with_a_connection() {
    let cursor = Cursor::default();
    for salt in 0..3 {
        let mut shipper = Shipper::new("out", settings(3).plan(), cursor, salt);
        let effects = shipper.step(Input::Clock, Tick(0));
        assert_eq!(effects[0], Effect::Connect(0, format!("{salt}:5044")));
    }
    let mut world = World::new(settings(1), &[500], false);
    let mut waits = Vec::new();
    for _ in 0..8 {
        world.lose(0, Cause::Unreachable);
        let retry = world.shipper.wake_at().unwrap();
        waits.push(retry.since(world.now));
        world.now = retry;
        world.input(Input::Clock);
        assert!(world.peers[0].is_some(), "connected again");
    }
    assert!(waits[7] >= Duration::from_secs(2), "{waits:?}");
    world.ack(0, 1);
    world.lose(0, Cause::Unreachable);
    let retry = world.shipper.wake_at().unwrap();
    assert!(retry.since(world.now) <= Duration::from_secs(1));
}

#[test]
fn an_output_that_is_down_passes_what_is_for_others_and_nothing_of_its_own() {
    // Each third record is for another output.
    let records = [0, 0, 5, 0, 0, 6, 3, 2, 4, 0, 0, 7];
    for loadbalance in [false, true] {
        let settings = || Settings {
            loadbalance,
            ..settings(2)
        };
        let hosts: BTreeSet<String> = settings().hosts.into_iter().collect();
        let mut refused = World::before(settings(), &records, true);
        refused.dead.clone_from(&hosts);
        let mut silent = World::before(settings(), &records, true);
        silent.silent.clone_from(&hosts);
        for mut world in [refused, silent] {
            let (all_end, next_seq) = (world.end, world.next_seq);
            world.input(Input::Clock);
            assert_eq!((world.stored.seq, world.stored.passed.not_mine), (12, 11));
            world.now = world.now.after(Duration::from_secs(1));
            world.input(Input::Clock);
            assert!(world.shipper.is_through(12), "the cursor is durable");
            assert_eq!(world.shipper.view(next_seq).waiting, 16);
            assert!(world.order.is_empty() && world.aside.is_empty());
            // Given up, its own let the ones behind them be passed too.
            world.open.retain(|n| *n >= 14);
            world.mine.retain(|n| *n >= 14);
            world.input(Input::GiveUp(14));
            assert_eq!((world.stored.seq, world.stored.passed.dropped), (14, 2));
            world.open.clear();
            world.mine.clear();
            world.input(Input::GiveUp(17));
            let passed = world.stored.passed;
            assert_eq!((passed.dropped, passed.not_mine, passed.acked), (5, 22, 0));
            assert_eq!((world.stored.seq, world.stored.at), (next_seq, all_end));
            world.now = world.now.after(Duration::from_secs(1));
            world.input(Input::Clock);
            assert!(world.shipper.is_through(next_seq));
        }
    }
}

#[test]
fn windows_in_flight_when_their_events_are_given_up_stay_awaited_and_count_as_acknowledged() {
    let mut world = World::new(settings(1), &[100; 5], false);
    assert_eq!(world.order.len(), 128, "two windows are in flight");
    for (seq, dropped) in [(101, 100), (200, 199)] {
        world.open.retain(|n| *n >= seq);
        world.mine.retain(|n| *n >= seq);
        world.input(Input::GiveUp(seq));
        assert_eq!(
            (world.stored.seq, world.stored.passed.dropped),
            (seq, dropped)
        );
    }
    world.ack(0, 64);
    let Passed { acked, dropped, .. } = world.stored.passed;
    assert_eq!((acked, dropped), (64, 135), "the ACK comes after all");
    world.ack(0, 10);
    // What was given up and is in flight no more is gone; the rest is sent as ever.
    world.lose(0, Cause::ByPeer);
    assert_eq!(world.stored.passed.acked, 74);
    assert!(world.serve(|_, _, _| Verdict::Ack));
    assert_eq!(world.dialled.len(), 2, "only the server ended a connection");
    let Passed { acked, dropped, .. } = world.stored.passed;
    assert_eq!((acked, dropped), (74 + 301, 125));
    assert_eq!(world.stored.seq, 501);
    assert!(
        world.came.range(..200).all(|(_, times)| *times == 1),
        "nothing of it came twice"
    );
    assert_eq!(
        world.stored.unacked,
        Unacked::run(1, 200),
        "what it came from is kept"
    );
}

#[test]
fn what_a_window_holds_behind_what_is_given_up_is_acknowledged_or_sent_again() {
    for is_lost in [false, true] {
        let mut world = World::new(settings(1), &[64, 64], false);
        world.open.retain(|n| *n >= 100);
        world.mine.retain(|n| *n >= 100);
        world.input(Input::GiveUp(100));
        world.ack(0, 64);
        world.ack(0, 20);
        if is_lost {
            world.lose(0, Cause::ByPeer);
        }
        assert!(world.serve(|_, _, _| Verdict::Ack));
        let Passed { acked, dropped, .. } = world.stored.passed;
        let lost = if is_lost { 15 } else { 0 };
        assert_eq!((acked, dropped), (128 - lost, lost));
        assert_eq!(world.dialled.len(), 1 + usize::from(is_lost));
    }
}

#[test]
fn a_skip_waits_for_what_is_in_flight_and_passes_over_what_is_not_acknowledged() {
    enum Then {
        Acks,
        Dies,
        Stalls,
    }
    for then in [Then::Acks, Then::Dies, Then::Stalls] {
        let mut world = World::new(settings(1), &[100; 5], false);
        world.ack(0, 64);
        assert_eq!(world.order.len(), 192, "two windows are in flight");
        let skipped = |n: &u64| *n > 192 && *n < 301;
        world.open.retain(|n| !skipped(n));
        world.mine.retain(|n| !skipped(n));
        world.input(Input::Skip(301));
        assert_eq!((world.stored.seq, world.stored.passed.skipped), (65, 0));
        let acked = match then {
            Then::Acks => {
                world.ack(0, 64);
                world.ack(0, 64);
                assert_eq!(world.stored.passed.skipped, 108);
                192
            }
            Then::Dies | Then::Stalls => {
                world.ack(0, 10);
                world.open.retain(|n| *n >= 301);
                world.mine.retain(|n| *n >= 301);
                if matches!(then, Then::Dies) {
                    world.lose(0, Cause::Unreachable);
                } else {
                    world.now = world.now.after(pass::SKIP_PATIENCE);
                    world.input(Input::Clock);
                }
                74
            }
        };
        assert!(world.serve(|_, _, _| Verdict::Ack));
        let passed = world.stored.passed;
        assert_eq!((passed.acked, passed.skipped), (acked + 200, 300 - acked));
        assert!(
            world.came.values().all(|times| *times == 1),
            "what was in flight comes once"
        );
        assert_eq!(world.stored.unacked, Unacked::run(acked + 1, 301));
    }
}

#[test]
fn what_was_passed_without_a_connection_is_not_sent_and_all_else_is_sent_once() {
    let records = [0, 0, 5, 3, 2, 4, 0, 0, 7, 1];
    let mut world = World::before(settings(1), &records, true);
    world.dead.insert("0:5044".to_owned());
    world.input(Input::Clock);
    assert_eq!(world.stored.passed.not_mine, 5);
    world.dead.clear();
    assert!(world.serve(|_, _, _| Verdict::Ack));
    world.assert_all(&[]);
    assert!(world.came.values().all(|times| *times == 1));
    assert_eq!(world.order, world.mine.iter().copied().collect::<Vec<_>>());
}

#[test]
fn a_shipper_that_leaves_sends_nothing_more_and_rests_when_what_is_in_flight_is_acknowledged() {
    let mut world = World::new(settings(1), &[500], false);
    world.input(Input::Leave);
    for _ in 0..2 {
        assert!(!world.shipper.is_at_rest());
        world.ack(0, 64);
    }
    assert!(world.shipper.is_at_rest());
    assert_eq!((world.order.len(), world.shipper.cursor().seq), (128, 129));
    assert_eq!(world.shipper.cursor(), world.stored);
    let mut lost = World::new(settings(1), &[500], false);
    lost.input(Input::Leave);
    lost.lose(0, Cause::Unreachable);
    assert!(lost.shipper.is_at_rest(), "the next one sends them again");
    assert_eq!(lost.shipper.cursor().seq, 1);
}

#[test]
fn a_partial_ack_is_kept_over_a_broken_connection() {
    let mut world = World::new(settings(1), &[64, 64, 64], false);
    world.ack(0, 40);
    world.lose(0, Cause::ByPeer);
    assert!(world.serve(|_, _, _| Verdict::Ack));
    world.assert_all(&[]);
    let once = world.came.iter().filter(|(_, times)| **times == 1);
    assert_eq!(once.count(), 192 - 24 - 64);
}

#[test]
fn with_loadbalance_all_hosts_get_windows_and_a_dead_one_holds_up_nothing() {
    let balanced = Settings {
        loadbalance: true,
        ..settings(3)
    };
    let mut world = World::new(balanced, &[2000], false);
    let mut by_host: BTreeMap<String, usize> = BTreeMap::new();
    world.dead.insert("1:5044".to_owned());
    world.lose(1, Cause::ByPeer);
    assert!(world.serve(|host, events, _| {
        *by_host.entry(host.to_owned()).or_default() += events.len();
        Verdict::Ack
    }));
    world.assert_all(&[]);
    let twice = world.came.values().filter(|times| **times == 2).count();
    assert_eq!(twice, 128, "what the dead one had");
    assert!(
        by_host["0:5044"] > 500 && by_host["2:5044"] > 500,
        "{by_host:?}"
    );
    let view = world.shipper.view(world.next_seq);
    let states: Vec<&str> = view.hosts.iter().map(|host| host.state.as_str()).collect();
    assert_eq!(states, ["connected", "down", "connected"]);
    assert_eq!(view.hosts[0].acked as usize, by_host["0:5044"]);
}

#[test]
fn windows_of_a_lane_that_is_lost_are_taken_over_before_anything_new() {
    let balanced = Settings {
        loadbalance: true,
        ..settings(2)
    };
    let mut world = World::new(balanced, &[2000], false);
    world.ack(0, 10);
    world.dead.insert("0:5044".to_owned());
    world.lose(0, Cause::ByPeer);
    let first: u64 = 11;
    world.ack(1, 64);
    assert!(
        world.peers[1]
            .as_ref()
            .unwrap()
            .open
            .iter()
            .any(|(events, _)| events[0] == first),
        "the other lane has what was lost"
    );
    assert!(world.serve(|_, _, _| Verdict::Ack));
    world.assert_all(&[]);
}

#[test]
fn a_host_that_holds_its_window_stops_the_cursor_at_once_and_the_others_only_far_ahead() {
    let balanced = Settings {
        loadbalance: true,
        bulk_max_size: 4,
        ..settings(2)
    };
    let mut world = World::new(balanced, &[1000; 2], false);
    let mut events = 0;
    while let Some((window, _)) = world.oldest(1) {
        events += window.len() as u64;
        world.ack(1, 4);
        assert_eq!(world.stored.seq, 1);
    }
    let bound = 4 * AHEAD_WINDOWS_MAX;
    assert!((bound - 16..bound).contains(&events), "{events}");
    assert!(world.serve(|_, _, _| Verdict::Ack));
    world.assert_all(&[]);
}

#[test]
fn poison_is_found_and_set_aside_wherever_it_stands() {
    for poison in [
        vec![1],
        vec![64],
        vec![65],
        vec![300],
        vec![150],
        vec![150, 151],
        vec![1, 2],
        vec![1, 150, 300],
        vec![299],
    ] {
        for (hosts, loadbalance) in [(1, false), (2, false), (2, true)] {
            let settings = Settings {
                loadbalance,
                ..settings(hosts)
            };
            let mut world = World::new(settings, &[300], false);
            // The last event alone has nothing behind it: what was acknowledged must have come since.
            let alone = poison.contains(&300);
            let through = world.serve(refusing(&poison));
            if alone && !through {
                assert!(
                    world.aside.len() + 1 == poison.len()
                        && world.acked.len() + poison.len() == 300
                );
                continue;
            }
            assert!(
                through,
                "{poison:?} {hosts} {loadbalance}: {:?}",
                world.shipper
            );
            world.assert_all(&poison);
        }
    }
}

#[test]
fn a_long_run_of_poison_is_leapt_over() {
    let poison: Vec<u64> = (100..400).collect();
    let mut world = World::new(settings(1), &[1000], false);
    assert!(world.serve(refusing(&poison)), "{:?}", world.shipper);
    world.assert_all(&poison);
}

#[test]
fn a_server_that_refuses_everything_gets_nothing_set_aside_and_the_status_says_so() {
    for hosts in [1, 2] {
        let mut world = World::new(settings(hosts), &[1000], false);
        assert!(!world.serve(|_, _, _| Verdict::Close));
        assert!(world.aside.is_empty());
        assert_eq!(world.stored.seq, 1);
        assert!(
            world.last_error().contains("nothing is set aside"),
            "{}",
            world.last_error()
        );
        let tried = world.came.keys().count();
        assert!(tried < 1000, "{tried}");
        // It comes back with one event that it does not like; the others were innocent.
        assert!(world.serve(refusing(&[1])));
        world.assert_all(&[1]);
    }
}

#[test]
fn everything_poison_waits_until_another_event_proves_that_the_server_works() {
    let mut world = World::new(settings(1), &[3], false);
    assert!(!world.serve(|_, _, _| Verdict::Close));
    assert!(world.aside.is_empty());
    assert!(world.last_error().contains("nothing is set aside"));
}

#[test]
fn a_full_dead_letter_folder_stops_the_cursor_and_not_the_events_behind() {
    let mut world = World::new(settings(1), &[500], false);
    world.dead_letters_full = true;
    assert!(!world.serve(refusing(&[100])));
    assert_eq!((world.stored.seq, world.acked.len()), (100, 499));
    assert!(world.last_error().contains("set aside: full"));
    world.dead_letters_full = false;
    assert!(world.serve(refusing(&[100])));
    world.assert_all(&[100]);
    assert_eq!(world.last_error(), "");
}

#[test]
fn losses_that_are_no_refusals_condemn_nothing() {
    let mut world = World::new(settings(1), &[50], false);
    let mut cuts = 0;
    assert!(world.serve(|_, events, _| {
        if events.contains(&7) && cuts < 40 {
            cuts += 1;
            Verdict::Cut
        } else {
            Verdict::Ack
        }
    }));
    world.assert_all(&[]);
}

#[test]
fn a_network_that_cuts_every_connection_after_moments_condemns_nothing_and_keeps_the_order() {
    let quick = Settings {
        bulk_max_size: 10,
        backoff_init: Duration::from_millis(1),
        backoff_max: Duration::from_millis(2),
        ..settings(1)
    };
    let mut seed = 1_u64;
    let mut chance = |below: u64| {
        seed = seed
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (seed >> 33) % below
    };
    // Connections of one to three windows, all cut just when a window has been taken whole.
    for _ in 0..10 {
        let mut world = World::new(quick.clone(), &[2000], false);
        let mut left = 0;
        let mut bad = 300;
        assert!(world.serve(|_, _, _| {
            if bad > 0 && left == 0 {
                (left, bad) = (chance(3), bad - 1);
                return Verdict::Close;
            }
            left = left.saturating_sub(1);
            Verdict::Ack
        }));
        world.assert_all(&[]);
        let mut seen = BTreeSet::new();
        world.order.retain(|n| seen.insert(*n));
        assert!(world.order.is_sorted(), "{:?}", world.order);
    }
}

#[test]
fn a_server_that_lives_for_moments_gets_windows_that_it_can_finish() {
    let mut world = World::new(settings(1), &[2000], false);
    // 10 ms of work for each event, and a restart every 300 ms: a full window never gets through.
    let mut began = Tick(0);
    let mut served: Vec<u64> = Vec::new();
    assert!(world.serve(|_, events, now| {
        if served != events {
            (began, served) = (now, events.to_vec());
        }
        let needed = Duration::from_millis(10 * events.len() as u64);
        if now.0 / 300 != began.0 / 300 {
            served.clear();
            Verdict::Cut
        } else if now.since(began) >= needed {
            Verdict::Ack
        } else {
            Verdict::Silence
        }
    }));
    world.assert_all(&[]);
}

#[test]
fn windows_grow_again_after_a_loss() {
    let mut world = World::new(settings(1), &[5000], false);
    for _ in 0..5 {
        world.lose(0, Cause::Unreachable);
        world.now = world.shipper.wake_at().unwrap();
        world.input(Input::Clock);
    }
    assert_eq!(world.oldest(0).unwrap().0.len(), 2, "64 halved five times");
    assert!(world.serve(|_, _, _| Verdict::Ack));
    let last = &world.order[world.order.len() - 1000..];
    assert!(last.is_sorted());
    assert_eq!(world.shipper.lanes[0].most, 64);
}

#[test]
fn ttl_drains_what_is_in_flight_and_goes_on_with_the_next_host() {
    let ttl = Settings {
        ttl: Duration::from_secs(5),
        ..settings(2)
    };
    let mut world = World::new(ttl, &[2000; 5], false);
    assert!(world.serve(|_, _, _| Verdict::Ack));
    world.assert_all(&[]);
    assert!(
        world.came.values().all(|times| *times == 1),
        "nothing twice"
    );
    assert_eq!(world.most_open, 2, "pipelining goes on");
    let connections = world.dialled.len();
    assert!(world.now > Tick(3_000));
    // Under continuous load the age alone ends connections, and none is an error.
    assert!(
        connections as u64 >= world.now.0 / 6_000,
        "{connections} in {:?}",
        world.now
    );
    for pair in world.dialled.windows(2) {
        assert_ne!(pair[0], pair[1], "the hosts take turns");
    }
    assert_eq!(world.last_error(), "");
    // An idle connection that is over its time is closed and not made anew.
    world.now = world.now.after(Duration::from_secs(6));
    world.input(Input::Clock);
    assert!(world.peers[0].is_none());
    assert_eq!(world.dialled.len(), connections);
    assert_eq!(world.shipper.view(world.next_seq).state, "idle");
    assert_eq!(world.shipper.wake_at(), None);
}

#[test]
fn an_idle_connection_that_the_server_ends_is_no_error() {
    let mut world = World::new(settings(1), &[10], false);
    assert!(world.serve(|_, _, _| Verdict::Ack));
    world.lose(0, Cause::ByPeer);
    assert_eq!(world.shipper.view(world.next_seq).state, "idle");
    assert_eq!(world.last_error(), "");
}

#[test]
fn what_a_refusal_may_mean_is_guessed_only_of_a_host_that_never_acknowledged() {
    for (acked, guessed) in [(0, true), (1, false)] {
        let mut world = World::new(settings(1), &[10], false);
        world.shipper.acked[0] = acked;
        world.lose(0, Cause::ByPeer);
        let told = world.last_error();
        assert_eq!(told.contains("does it speak this?"), guessed, "{told}");
    }
}

#[test]
fn a_connection_after_a_failure_is_news_once_until_something_is_acknowledged() {
    let world = World::new(settings(1), &[], false);
    let (plan, now) = (&world.shipper.plan, world.now);
    let mut lane = Lane::new(0, plan, 0);
    assert!(!lane.connected(plan, now), "the first one");
    lane.told_missing(true);
    assert!(lane.connected(plan, now));
    lane.told_missing(true);
    assert!(!lane.connected(plan, now), "taken and ended at once");
    lane.told_missing(false);
    assert!(lane.connected(plan, now), "it was not even taken");
    lane.progress(true, plan);
    lane.told_missing(true);
    assert!(lane.connected(plan, now));
    assert!(!lane.connected(plan, now));
}

#[test]
fn the_segment_that_cannot_be_read_is_set_aside_and_none_that_can() {
    for (verb, errno) in [
        (Verb::Read, libc::EIO),
        (Verb::Open(Open::Read), libc::EACCES),
    ] {
        let disk = MemDisk::default();
        // Each start begins a segment: all of them fit into one window.
        let starts: Vec<Writer> = (0..5).map(|_| queue(&disk, &[10], false).0).collect();
        let writer = starts.last().unwrap();
        let end = (writer.durable_end(), writer.captured_seq());
        let cursor = Cursor {
            at: Position {
                segment: 1,
                offset: 0,
            },
            seq: 1,
            born: 1,
            ..Cursor::default()
        };
        let (shared, limits) = (Arc::new(disk.clone()), settings(1).limits());
        let mut loader = Loader::new(shared, Path::new("/q"), "out", &cursor, limits);
        disk.script(
            move |call| match call.verb == verb && call.path.ends_with("3.seg") {
                true => crate::disk::mem::Verdict::Fail(errno),
                false => crate::disk::mem::Verdict::Go,
            },
        );
        let error = loader.load(&Order::Next, 2048, end).unwrap_err();
        loader.give_up_segment(&error, end.0);
        disk.fail(crate::disk::mem::Fault::None);
        let files = disk.files();
        let names: Vec<&str> = files
            .iter()
            .filter_map(|(path, _)| path.strip_prefix("/q/"))
            .filter(|name| name.ends_with(".seg"))
            .collect();
        let there = [1, 2, 4, 5].map(crate::queue::segment::file_name);
        assert_eq!(names, there, "{errno}");
        let Found::Next { steps, .. } = loader.load(&Order::Next, 2048, end).unwrap().found else {
            panic!("another answer");
        };
        let damaged = steps.iter().filter(|step| step.way == Way::Damaged);
        let damaged: Vec<(u64, u64)> = damaged.map(|step| (step.seq, step.events)).collect();
        assert_eq!(damaged, [(21, 10)], "{errno}");
        let events: u64 = steps.iter().map(|step| step.events).sum();
        assert_eq!(events, 50, "{errno}");
    }
}
