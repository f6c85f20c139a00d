//! One `C` frame: a zlib stream that is inflated a little at a time, as its bytes come.
//!
//! Holds no more than one piece of what came out. Must never know what frames that is.

use std::fmt;

use flate2::Decompress;
use flate2::FlushDecompress;
use flate2::Status;

use super::Fault;

/// Inflated at once.
const PIECE_BYTES: usize = 16 << 10;

/// A `C` frame that is being received.
pub(super) struct Inflate {
    stream: Decompress,
    /// Bytes of the frame that are still to come.
    left: usize,
    /// Whether the stream has come to its end.
    ended: bool,
    piece: [u8; PIECE_BYTES],
    /// What of `piece` has not been taken: from here, to there.
    ready: (usize, usize),
}

impl fmt::Debug for Inflate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Inflate")
            .field("left", &self.left)
            .field("ended", &self.ended)
            .field("ready", &self.ready)
            .finish_non_exhaustive()
    }
}

impl Inflate {
    /// A frame of which `left` bytes are still to come.
    pub(super) fn new(left: usize) -> Self {
        Self {
            stream: Decompress::new(true),
            left,
            ended: false,
            piece: [0; PIECE_BYTES],
            ready: (0, 0),
        }
    }

    /// What came out and has not been taken.
    pub(super) fn ready(&self) -> &[u8] {
        &self.piece[self.ready.0..self.ready.1]
    }

    /// Takes all of [`Inflate::ready`] but its last `left` bytes.
    pub(super) const fn keep(&mut self, left: usize) {
        self.ready.0 = self.ready.1 - left;
    }

    /// Whether the whole stream has come, and nothing behind it.
    pub(super) const fn is_over(&self) -> Result<bool, Fault> {
        if self.ended && self.left > 0 {
            return Err(Fault::ZlibTrailing(self.left));
        }
        Ok(self.ended)
    }

    /// Inflates the next piece from the front of `input`; whether it needs more bytes for that.
    pub(super) fn go_on(&mut self, input: &mut &[u8]) -> Result<bool, Fault> {
        if input.is_empty() && self.left > 0 {
            return Ok(true);
        }
        let given = &input[..self.left.min(input.len())];
        let (in_before, out_before) = (self.stream.total_in(), self.stream.total_out());
        let status = self
            .stream
            .decompress(given, &mut self.piece, FlushDecompress::None)
            .map_err(|_| Fault::Zlib)?;
        let taken = usize::try_from(self.stream.total_in() - in_before)
            .expect("it takes at most what it is given");
        let made = usize::try_from(self.stream.total_out() - out_before)
            .expect("it makes at most one piece");
        *input = &input[taken..];
        self.left -= taken;
        self.ready = (0, made);
        self.ended = status == Status::StreamEnd;
        if !self.ended && taken == 0 && made == 0 {
            return Err(Fault::ZlibShort);
        }
        Ok(false)
    }
}
