//! The fuzz targets on the stable toolchain: their corpus, and mutations of it that are the same every time.

#![expect(clippy::unwrap_used, reason = "tests")]

use std::fs;
use std::io::Write;
use std::panic::catch_unwind;
use std::path::Path;

#[path = "../../fuzz/entries.rs"]
mod entries;

/// Mutations of each target's corpus.
const MUTATIONS: usize = 5_000;

fn corpus(target: &str) -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("fuzz/corpus")
        .join(target);
    let mut files: Vec<_> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    files.sort();
    assert!(files.len() >= 5, "{target} has no corpus");
    files.iter().map(|path| fs::read(path).unwrap()).collect()
}

fn replay(target: &str, entry: fn(&[u8])) {
    let corpus = corpus(target);
    for input in &corpus {
        run(target, entry, input);
    }
    let mut chance = Chance(11);
    for _ in 0..MUTATIONS {
        let mut input = corpus[chance.below(corpus.len())].clone();
        let other = &corpus[chance.below(corpus.len())];
        for _ in 0..=chance.below(4) {
            chance.mutate(&mut input, other);
        }
        run(target, entry, &input);
    }
}

/// A panic of `entry` shows the input, to be kept in the corpus.
fn run(target: &str, entry: fn(&[u8]), input: &[u8]) {
    if let Err(panic) = catch_unwind(|| entry(input)) {
        let hex: String = input.iter().map(|byte| format!("{byte:02x}")).collect();
        drop(writeln!(std::io::stderr(), "{target} fails on {hex}"));
        std::panic::resume_unwind(panic);
    }
}

/// Numbers that look like chance and are the same every time.
struct Chance(u64);

impl Chance {
    fn below(&mut self, below: usize) -> usize {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(self.0 >> 33).unwrap() % below.max(1)
    }

    fn mutate(&mut self, input: &mut Vec<u8>, other: &[u8]) {
        let at = self.below(input.len());
        match self.below(6) {
            0 if !input.is_empty() => input[at] = u8::try_from(self.below(256)).unwrap(),
            1 if !input.is_empty() => input[at] ^= 1 << self.below(8),
            2 => input.truncate(at),
            3 => input.insert(
                at,
                [0, 1, 0xff, b'2', b'J', b'W', b'C', b'A'][self.below(8)],
            ),
            4 => {
                let from = self.below(other.len());
                let to = from + self.below(other.len() - from);
                input.splice(at..at, other[from..to].iter().copied());
            }
            _ if !input.is_empty() => drop(input.remove(at)),
            _ => {}
        }
    }
}

#[test]
fn the_server_session_takes_any_bytes_in_any_chunks_alike() {
    replay("server", entries::server);
}

#[test]
fn the_client_session_takes_any_answer_and_never_counts_more_than_was_sent() {
    replay("client", entries::client);
}

#[test]
fn the_frames_that_are_written_are_the_frames_that_are_read() {
    replay("frame", entries::frame);
}

#[test]
fn the_body_of_a_record_may_be_anything() {
    replay("record", entries::record);
}
