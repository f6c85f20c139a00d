//! What the outside world knows for certain, and holds the program to.
//!
//! Never asks the program what it believes: it hears of promises when they are made, and of what
//! arrived where, and panics with the promise that was broken.

use std::collections::BTreeMap;
use std::collections::BTreeSet;

use crate::event::RunId;
use crate::queue::Ledger;
use crate::queue::cursor::Cursor;

/// An event that was captured.
#[derive(Debug, Clone)]
struct Captured {
    id: String,
    outputs: Vec<String>,
}

/// What is known of an output.
#[derive(Debug, Default)]
struct Arrived {
    /// Events that a server has acknowledged, or that are dead letters.
    done: BTreeSet<String>,
    /// Events that came to any server, and how often.
    came: BTreeMap<String, u32>,
    /// By stream of a run, or generation of a file, the number that came first last.
    newest: BTreeMap<String, u64>,
    /// Every event before this one has been compared with the cursor.
    checked: u64,
    /// The cursor that was durable last.
    synced: u64,
}

/// See the module's header.
#[derive(Debug, Default)]
pub(super) struct Oracle {
    captured: BTreeMap<u64, Captured>,
    ids: BTreeSet<String>,
    outputs: BTreeMap<String, Arrived>,
    /// With how often the clock had been set back when each was due.
    ticks: BTreeSet<(String, u32, i64)>,
    /// How often the wall clock was set back: its minutes come again.
    pub(super) set_back: u32,
    spawned: BTreeSet<RunId>,
    ended: BTreeSet<RunId>,
    /// Events that nobody was promised and that survived.
    pub(super) extra: u64,
    /// Events that became dead letters.
    pub(super) aside: u64,
}

impl Oracle {
    /// An event was captured, or found on the disk by a start: from now on it must not be lost.
    pub(super) fn captured(&mut self, seq: u64, id: String, outputs: &[String]) {
        if let Some(known) = self.captured.get(&seq) {
            assert_eq!(known.id, id, "P6: number {seq} means another event now");
            return;
        }
        assert!(self.ids.insert(id.clone()), "P6: {id} was captured twice");
        let outputs = outputs.to_vec();
        self.captured.insert(seq, Captured { id, outputs });
    }

    /// The daemon has started: the log holds these events, and goes on with `next`.
    pub(super) fn opened(&mut self, log: Vec<(u64, String, Vec<String>)>, ledger: &Ledger) {
        let next = ledger.next_seq;
        let highest = self.captured.keys().next_back().copied().unwrap_or(0);
        assert!(
            next > highest,
            "P1: {highest} was captured, and the log goes on with {next}"
        );
        let found: BTreeSet<u64> = log.iter().map(|(seq, ..)| *seq).collect();
        for (output, arrived) in &self.outputs {
            // What lies behind the durable cursor may be gone by retention.
            for (seq, captured) in self.captured.range(arrived.synced..) {
                let lost = captured.outputs.contains(output)
                    && !found.contains(seq)
                    && !arrived.done.contains(&captured.id);
                assert!(!lost, "P1: {seq} ({}) is not in the log", captured.id);
            }
        }
        for run in &self.ended {
            assert!(
                !ledger.open.contains_key(run),
                "P1: the end of {run} is gone"
            );
        }
        // What was on its way when the daemon died may have arrived on the disk.
        let over = self
            .spawned
            .iter()
            .filter(|run| !ledger.open.contains_key(run));
        self.ended.extend(over.cloned());
        for (seq, id, outputs) in log {
            self.extra += u64::from(!self.captured.contains_key(&seq));
            self.captured(seq, id, &outputs);
        }
    }

    /// How many events were captured so far.
    pub(super) fn count(&self) -> u64 {
        self.captured.len() as u64
    }

    /// An event came to a server of `output`. `stream` and `n` say where it stands in its source.
    pub(super) fn came(&mut self, output: &str, id: &str, in_order: bool) {
        let arrived = self.outputs.entry(output.to_owned()).or_default();
        let count = arrived.came.entry(id.to_owned()).or_default();
        *count += 1;
        if *count > 1 || !in_order {
            return;
        }
        let Some((stream, n)) = id.rsplit_once('.') else {
            panic!("an event without a number: {id}");
        };
        let n = n.parse().unwrap_or_else(|_| panic!("a strange id: {id}"));
        let newest = arrived.newest.entry(stream.to_owned()).or_default();
        assert!(*newest < n, "P5: {id} came to {output} after {newest}");
        *newest = n;
    }

    /// A server of `output` has acknowledged an event, or it is a durable dead letter.
    pub(super) fn done(&mut self, output: &str, id: &str) {
        let arrived = self.outputs.entry(output.to_owned()).or_default();
        arrived.done.insert(id.to_owned());
    }

    /// The output's cursor is stored here.
    pub(super) fn cursor(&mut self, output: &str, cursor: &Cursor) {
        assert_eq!(
            cursor.seq,
            cursor.born + cursor.passed.total(),
            "P17: every event has one disposition"
        );
        let arrived = self.outputs.entry(output.to_owned()).or_default();
        for (seq, captured) in self
            .captured
            .range(arrived.checked..cursor.seq.max(arrived.checked))
        {
            let foreign = !captured.outputs.iter().any(|other| other == output);
            assert!(
                foreign || arrived.done.contains(&captured.id),
                "P3: the cursor of {output} is at {}, and {seq} ({}) was never acknowledged",
                cursor.seq,
                captured.id
            );
        }
        arrived.checked = arrived.checked.max(cursor.seq);
    }

    /// The output's cursor is durable here.
    pub(super) fn synced(&mut self, output: &str, cursor: &Cursor) {
        let arrived = self.outputs.entry(output.to_owned()).or_default();
        arrived.synced = cursor.seq;
    }

    /// A start found the output's cursor here.
    pub(super) fn reopened(&mut self, output: &str, cursor: &Cursor) {
        let arrived = self.outputs.entry(output.to_owned()).or_default();
        assert!(
            cursor.seq >= arrived.synced,
            "P4: the cursor of {output} was durable at {}, and is at {}",
            arrived.synced,
            cursor.seq
        );
        self.cursor(output, cursor);
        self.synced(output, cursor);
    }

    /// A script was started, for a tick that was due after `set_back` steps back of the clock.
    pub(super) fn spawned(&mut self, job: &str, run: &RunId, tick: Option<i64>, set_back: u32) {
        assert!(self.spawned.insert(run.clone()), "{run} was started twice");
        if let Some(tick) = tick {
            let fresh = self.ticks.insert((job.to_owned(), set_back, tick));
            assert!(fresh, "P14: {job} ran twice for the tick {tick}");
        }
    }

    /// A run's end was captured.
    pub(super) fn ended(&mut self, run: &RunId) {
        assert!(self.ended.insert(run.clone()), "{run} ended twice");
    }

    /// Whether an event has arrived at `output`, or is not for it.
    pub(super) fn is_done(&self, output: &str, id: &str) -> bool {
        self.outputs
            .get(output)
            .is_some_and(|arrived| arrived.done.contains(id))
    }

    /// Everything is quiet and healed: nothing may be missing.
    pub(super) fn finish(&self) {
        for run in &self.spawned {
            assert!(self.ended.contains(run), "{run} never ended");
        }
        for (seq, captured) in &self.captured {
            for output in &captured.outputs {
                assert!(
                    self.is_done(output, &captured.id),
                    "P1: {seq} ({}) never came to {output}",
                    captured.id
                );
            }
        }
    }
}
