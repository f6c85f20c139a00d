//! What a run has printed since somebody last looked, from the file that keeps its beginning and end.
//!
//! Works while the run goes on, and from another process. Must never change anything.

use std::io;
use std::path::Path;

use super::output::HEAD_BYTES_MAX;
use super::output::TAIL_BYTES_MAX;
use crate::disk::Disk;
use crate::disk::Open;
use crate::disk::OsDisk;

/// Longest line that says how much is left out: twenty digits and some words.
const MARKER_BYTES_MAX: usize = 64;

/// One stream of one run, as far as it was looked at.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Follow {
    /// Bytes of the stream that were given out, or were gone before they could be.
    seen: u64,
}

/// What came since the last look.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Printed {
    /// Bytes that are gone: neither in the beginning nor in the end that is kept.
    pub left_out: u64,
    /// The bytes behind them.
    pub bytes: Vec<u8>,
}

impl Follow {
    /// What came since the last look; nothing when there is no file.
    pub(super) fn look(&mut self, path: &Path) -> io::Result<Printed> {
        let file = match OsDisk.open(path, Open::Read) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Printed::default()),
            file => file?,
        };
        let size = file.size()?;
        let read = |from: u64, to: u64| {
            let mut bytes = vec![0; usize::try_from(to.saturating_sub(from)).unwrap_or(0)];
            let read = file.read_at(from, &mut bytes)?;
            bytes.truncate(read);
            Ok::<_, io::Error>(bytes)
        };
        if size <= HEAD_BYTES_MAX + TAIL_BYTES_MAX as u64 {
            let bytes = read(self.seen, size)?;
            self.seen += bytes.len() as u64;
            return Ok(Printed { left_out: 0, bytes });
        }
        let mut bytes = read(self.seen.min(HEAD_BYTES_MAX), HEAD_BYTES_MAX)?;
        self.seen = self.seen.max(HEAD_BYTES_MAX);
        let rest = read(HEAD_BYTES_MAX, size)?;
        let (gone, tail) = split(&rest);
        let tail_at = HEAD_BYTES_MAX + gone;
        let left_out = tail_at.saturating_sub(self.seen);
        let known = usize::try_from(self.seen.saturating_sub(tail_at)).unwrap_or(usize::MAX);
        if left_out > 0 && !bytes.is_empty() {
            // The beginning is given out by itself, so that the gap lies before what follows.
            return Ok(Printed { left_out: 0, bytes });
        }
        bytes.extend_from_slice(tail.get(known..).unwrap_or_default());
        self.seen = self.seen.max(tail_at + tail.len() as u64);
        Ok(Printed { left_out, bytes })
    }
}

/// How many bytes are left out before the end that is kept, and that end.
fn split(rest: &[u8]) -> (u64, &[u8]) {
    let start = usize::from(rest.first() == Some(&b'\n'));
    let window = &rest[start..rest.len().min(start + MARKER_BYTES_MAX)];
    let line = window
        .split(|byte| *byte == b'\n')
        .next()
        .unwrap_or_default();
    let number = std::str::from_utf8(line)
        .ok()
        .and_then(|line| line.strip_prefix("... "))
        .and_then(|line| line.strip_suffix(" bytes left out ..."))
        .and_then(|number| number.parse().ok());
    match number {
        Some(gone) => (gone, rest.get(start + line.len() + 1..).unwrap_or_default()),
        None => (0, rest),
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::super::output::Output;
    use super::*;
    use crate::clock::Tick;

    #[test]
    fn a_stream_is_followed_to_its_end_and_what_is_gone_is_counted() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("stdout");
        let mut follow = Follow::default();
        assert_eq!(follow.look(&path).unwrap(), Printed::default());
        let mut output = Output::new(path.clone(), None);
        let all: Vec<u8> = (0..400_000_u32)
            .flat_map(|n| format!("{n}\n").into_bytes())
            .collect();
        let (mut got, mut left_out, mut tick) = (Vec::new(), 0, 0);
        for chunk in all.chunks(300_000) {
            output.write(chunk, Tick(tick)).unwrap();
            tick += 6_000;
            output.refresh(Tick(tick)).unwrap();
            loop {
                let printed = follow.look(&path).unwrap();
                left_out += printed.left_out;
                got.extend_from_slice(&printed.bytes);
                if printed.bytes.is_empty() {
                    break;
                }
            }
        }
        assert_eq!((left_out, got == all), (0, true), "who keeps up sees all");
        let mut late = Follow::default();
        let first = late.look(&path).unwrap();
        let second = late.look(&path).unwrap();
        assert_eq!(first.left_out, 0);
        assert!(all.starts_with(&first.bytes) && all.ends_with(&second.bytes));
        let sum = first.bytes.len() + second.bytes.len();
        assert_eq!(second.left_out, (all.len() - sum) as u64);
        assert_eq!(late.look(&path).unwrap(), Printed::default());
    }
}
