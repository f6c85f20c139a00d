//! Events as bytes: identities, the frame an event lies in, the proof that one arrived.
//!
//! An event is one JSON object in one Lumberjack `2J` frame from the moment it is captured,
//! so that a full batch is already what the wire wants. This module must never know where
//! events come from (jobs, scripts, files) or where they go (sockets, outputs).

use std::fmt;

use crate::units::Timestamp;

pub mod envelope;
mod notice;

pub use notice::Notice;
pub use notice::OWN_JOB;
pub use notice::ServiceState;
pub use notice::WhyMissed;

/// `2J`, sequence number (4), payload length (4): the head of a version 2 JSON frame.
/// Source: Lumberjack v2, as go-lumber and the Logstash input read it; integers are big-endian.
pub const FRAME_HEAD_BYTES: usize = 10;

/// Largest payload of one event. Longer lines are cut and marked by the source; the receivers'
/// own limits start at 10 MiB (frame) and 20 MB (one JSON string, Jackson).
pub const EVENT_BYTES_MAX: usize = 9 << 20;

/// A number in the order of capture. Never reused: `epoch` grows each time the queue is opened,
/// so a tail that was cut away never shares a number with what is written after it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Seq(pub u64);

impl fmt::Display for Seq {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Which of a run's voices an event speaks with; the letter stands in its `event.id`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Stream {
    /// A line of standard output: `o`.
    Stdout,
    /// A line of standard error: `e`.
    Stderr,
    /// The run's own start and end events: `r`.
    Run,
    /// What the daemon itself has to tell, which is no run's: `d`.
    Daemon,
    /// What Beats sent, with an `event.id` of theirs or none: `l`.
    Lumberjack,
    /// Lines of harvested files, and what became of the files: `f`.
    File,
}

impl Stream {
    /// The letter in `event.id`.
    #[must_use]
    pub const fn letter(self) -> char {
        match self {
            Self::Stdout => 'o',
            Self::Stderr => 'e',
            Self::Run => 'r',
            Self::Daemon => 'd',
            Self::Lumberjack => 'l',
            Self::File => 'f',
        }
    }

    /// The value of `job.stream` and of the last part of `event.dataset`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Stdout => "stdout",
            Self::Stderr => "stderr",
            Self::Run => "run",
            Self::Daemon => "daemon",
            Self::Lumberjack => "lumberjack",
            Self::File => "file",
        }
    }

    /// The stream with this [`Stream::letter`].
    #[must_use]
    pub fn from_letter(letter: char) -> Option<Self> {
        [
            Self::Stdout,
            Self::Stderr,
            Self::Run,
            Self::Daemon,
            Self::Lumberjack,
            Self::File,
        ]
        .into_iter()
        .find(|stream| stream.letter() == letter)
    }
}

/// Names one run: sorts by time, never reused, safe as a folder name: `20261121-080808.123-7f3a9c01`.
#[derive(
    Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize,
)]
pub struct RunId(String);

impl RunId {
    /// Makes the id of a run that starts at `at`; `salt` tells runs of the same millisecond apart.
    #[must_use]
    pub fn new(at: Timestamp, salt: u32) -> Self {
        let text = at.utc().format("%Y%m%d-%H%M%S%.3f");
        Self(format!("{text}-{salt:08x}"))
    }

    /// Takes an id that was made by [`RunId::new`] from text.
    #[must_use]
    pub fn from_text(text: &str) -> Self {
        Self(text.to_owned())
    }

    /// The id as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for RunId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The set of outputs that want an event: sorted names. A batch holds events of one route.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Route(Vec<String>);

impl Route {
    /// The route to these outputs.
    #[must_use]
    pub fn to(mut outputs: Vec<String>) -> Self {
        outputs.sort();
        outputs.dedup();
        Self(outputs)
    }

    /// The outputs' names, sorted.
    #[must_use]
    pub fn outputs(&self) -> &[String] {
        &self.0
    }

    /// Whether `output` wants events of this route.
    #[must_use]
    pub fn wants(&self, output: &str) -> bool {
        self.0.iter().any(|name| name == output)
    }
}

/// Events as they lie in a batch and on the wire: `2J` frames, one after the other, numbered 1..=count.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Frames {
    bytes: Vec<u8>,
    count: u32,
}

impl Frames {
    /// Appends one event: `write` adds its JSON object to the buffer that it is given.
    /// Returns the frame's whole length in bytes.
    pub fn push(&mut self, write: impl FnOnce(&mut Vec<u8>)) -> usize {
        let start = self.bytes.len();
        self.count += 1;
        self.bytes.extend_from_slice(b"2J");
        self.bytes.extend_from_slice(&self.count.to_be_bytes());
        self.bytes.extend_from_slice(&[0; 4]);
        write(&mut self.bytes);
        let payload = u32::try_from(self.bytes.len() - start - FRAME_HEAD_BYTES)
            .expect("an event is at most EVENT_BYTES_MAX bytes, far below 4 GiB");
        self.bytes[start + 6..start + 10].copy_from_slice(&payload.to_be_bytes());
        self.bytes.len() - start
    }

    /// Appends all of `other`, numbered on from here.
    pub fn append(&mut self, other: &Self) {
        let mut at = self.bytes.len();
        self.bytes.extend_from_slice(&other.bytes);
        for payload in other.payloads() {
            self.count += 1;
            self.bytes[at + 2..at + 6].copy_from_slice(&self.count.to_be_bytes());
            at += FRAME_HEAD_BYTES + payload.len();
        }
    }

    /// Takes frames that were written by this type before; `None` when they are not exactly
    /// whole `2J` frames numbered 1, 2, 3 and so on.
    #[must_use]
    pub fn from_bytes(bytes: Vec<u8>) -> Option<Self> {
        let mut count = 0_u32;
        let mut rest = bytes.as_slice();
        while !rest.is_empty() {
            let (seq, payload) = split_frame(rest)?;
            count += 1;
            if seq != count {
                return None;
            }
            rest = &rest[FRAME_HEAD_BYTES + payload.len()..];
        }
        Some(Self { bytes, count })
    }

    /// The frames' bytes.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The frames' bytes, given away.
    #[must_use]
    pub fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }

    /// How many events these are.
    #[must_use]
    pub const fn count(&self) -> u32 {
        self.count
    }

    /// Whether there is no event.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Each event's JSON object, in order.
    pub fn payloads(&self) -> impl Iterator<Item = &[u8]> {
        let mut rest = self.bytes.as_slice();
        std::iter::from_fn(move || {
            let (_, payload) = split_frame(rest)?;
            rest = &rest[FRAME_HEAD_BYTES + payload.len()..];
            Some(payload)
        })
    }
}

/// The sequence number and payload of the `2J` frame that `bytes` begins with.
fn split_frame(bytes: &[u8]) -> Option<(u32, &[u8])> {
    let (head, rest) = bytes.split_at_checked(FRAME_HEAD_BYTES)?;
    if &head[..2] != b"2J" {
        return None;
    }
    let seq = u32::from_be_bytes(head[2..6].try_into().ok()?);
    let len = u32::from_be_bytes(head[6..10].try_into().ok()?);
    Some((seq, rest.get(..usize::try_from(len).ok()?)?))
}

/// Proof that a peer acknowledged events: the cursor moves on nothing else.
///
/// Only a sink that saw the peer's ACK may make one; the tidy test holds the callers of
/// `Ack::witnessed` to `src/sink/` and the sessions that sinks drive.
#[derive(Debug, PartialEq, Eq)]
#[must_use = "an Ack that is dropped means that the same events are sent again"]
pub struct Ack {
    /// How many further events the peer took over, in the order they were sent.
    pub events: u64,
}

impl Ack {
    /// States that the peer's ACK for `events` further events has been read from its connection.
    pub(crate) const fn witnessed(events: u64) -> Self {
        Self { events }
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn frames_are_numbered_and_read_back() {
        let mut frames = Frames::default();
        frames.push(|out| out.extend_from_slice(br#"{"message":"a"}"#));
        // Vector: lumberjack v2 `J` with sequence number 1, as go-lumber writes it.
        assert_eq!(
            frames.bytes(),
            b"\x32\x4a\x00\x00\x00\x01\x00\x00\x00\x0f{\"message\":\"a\"}"
        );
        let mut more = Frames::default();
        more.push(|out| out.extend_from_slice(b"{}"));
        frames.append(&more);
        assert_eq!(frames.count(), 2);
        let again = Frames::from_bytes(frames.bytes().to_vec()).unwrap();
        assert_eq!(
            again.payloads().collect::<Vec<_>>(),
            [b"{\"message\":\"a\"}".as_slice(), b"{}"]
        );
    }

    #[test]
    fn damaged_frames_are_refused() {
        let mut frames = Frames::default();
        frames.push(|out| out.extend_from_slice(b"{}"));
        for cut in 1..frames.bytes().len() {
            assert!(
                Frames::from_bytes(frames.bytes()[..cut].to_vec()).is_none(),
                "cut at {cut}"
            );
        }
        let mut wrong = frames.into_bytes();
        wrong[5] = 2;
        assert!(
            Frames::from_bytes(wrong).is_none(),
            "numbering does not start at 1"
        );
    }

    #[test]
    fn run_ids_sort_by_time() {
        let first = RunId::new(Timestamp(1_763_712_488_123), 9);
        let second = RunId::new(Timestamp(1_763_712_488_124), 1);
        assert!(first < second);
        assert_eq!(first.as_str(), "20251121-080808.123-00000009");
    }
}
