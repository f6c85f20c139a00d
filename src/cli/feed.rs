//! From a thread that reads to a task that sends: in order, and bounded.
//!
//! All that has been read goes as soon as what went before is taken over, so a slow source is not
//! held up and a fast one fills its windows. Must never know where events come from, or go.

use std::sync::Arc;
use std::sync::Condvar;
use std::sync::Mutex;

use tokio::sync::Notify;

use crate::event::Frames;
use crate::queue::locked;

/// The reader waits while this much has been read and not been taken by the sender: some full
/// windows, so that one lot can be read while another is sent.
const WAITING_BYTES: usize = 4 << 20;

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    /// Told when there is room, or the sender is gone.
    room: Condvar,
    /// Told when there are events, or the reader is gone.
    events: Notify,
}

#[derive(Debug, Default)]
struct State {
    frames: Frames,
    reader_gone: bool,
    sender_gone: bool,
}

/// The reader's end.
#[derive(Debug)]
pub(super) struct Feeder(Arc<Shared>);

/// The sender's end.
#[derive(Debug)]
pub(super) struct Feed(Arc<Shared>);

/// Nobody sends any more; whoever did says why.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Gone;

/// Both ends.
pub(super) fn new() -> (Feeder, Feed) {
    let shared = Arc::<Shared>::default();
    (Feeder(Arc::clone(&shared)), Feed(shared))
}

impl Feeder {
    /// Adds one event, which must be fit to be sent: `write` appends its JSON object. Blocks while
    /// too much waits.
    pub(super) fn push(&self, write: impl FnOnce(&mut Vec<u8>)) -> Result<(), Gone> {
        let is_full =
            |state: &mut State| state.frames.bytes().len() >= WAITING_BYTES && !state.sender_gone;
        let mut state = self
            .0
            .room
            .wait_while(locked(&self.0.state), is_full)
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        if state.sender_gone {
            return Err(Gone);
        }
        state.frames.push(write);
        self.0.events.notify_one();
        Ok(())
    }
}

impl Drop for Feeder {
    fn drop(&mut self) {
        locked(&self.0.state).reader_gone = true;
        self.0.events.notify_one();
    }
}

impl Feed {
    /// All that has been read since the last call; waits for it. `None`: the reader is gone.
    pub(super) async fn next(&self) -> Option<Frames> {
        loop {
            let (frames, last) = {
                let mut state = locked(&self.0.state);
                (std::mem::take(&mut state.frames), state.reader_gone)
            };
            self.0.room.notify_one();
            if !frames.is_empty() {
                return Some(frames);
            } else if last {
                return None;
            } else {
                self.0.events.notified().await;
            }
        }
    }
}

impl Drop for Feed {
    fn drop(&mut self) {
        locked(&self.0.state).sender_gone = true;
        self.0.room.notify_one();
    }
}
