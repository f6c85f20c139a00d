//! A sink on this machine: a thread that writes lines and says when they are where they belong.
//!
//! A thread of its own, as a disk or a reader that hangs must hold up nobody else. Knows nothing of
//! what it writes to.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::mpsc::SyncSender;
use std::sync::mpsc::sync_channel;

use tokio::sync::mpsc;

use crate::lumberjack::connection::Broken;
use crate::lumberjack::connection::Cause;
use crate::queue::locked;

/// What takes lines.
pub trait Target: fmt::Debug + Send {
    /// Sees whether lines could be written.
    ///
    /// # Errors
    /// What the operating system said.
    fn open(&mut self) -> io::Result<()>;

    /// Writes whole lines; they are where they belong when it returns.
    ///
    /// # Errors
    /// What the operating system said. The same lines are written again later.
    fn write(&mut self, lines: &[u8]) -> io::Result<()>;
}

/// A target that is open, and its thread. Dropping it ends the thread when it has written what it has.
#[derive(Debug)]
pub struct Connection {
    name: String,
    windows: SyncSender<Vec<u8>>,
    done: mpsc::Receiver<io::Result<()>>,
}

impl Connection {
    pub(super) async fn open(name: &str, target: Arc<Mutex<dyn Target>>) -> Result<Self, Broken> {
        // A session sends one window at a time.
        let (windows, taken) = sync_channel::<Vec<u8>>(1);
        let (told, done) = mpsc::channel(1);
        std::thread::Builder::new()
            .name("output".to_owned())
            .spawn(move || {
                // The thread of the connection before may still hang in its write.
                let mut target = locked(&target);
                let mut last = target.open();
                loop {
                    let failed = last.is_err();
                    if told.blocking_send(last).is_err() || failed {
                        return;
                    }
                    let Ok(lines) = taken.recv() else { return };
                    last = target.write(&lines);
                }
            })
            .map_err(|error| broken(name, &error))?;
        let mut open = Self {
            name: name.to_owned(),
            windows,
            done,
        };
        open.took().await?;
        Ok(open)
    }

    pub(super) fn send(&self, window: Vec<u8>) {
        // A thread that is gone says so by `took`.
        drop(self.windows.try_send(window));
    }

    /// Waits until what was asked for last is done; may be dropped at any time.
    pub(super) async fn took(&mut self) -> Result<(), Broken> {
        let gone = || Err(io::Error::other("its thread has panicked"));
        let done = self.done.recv().await.unwrap_or_else(gone);
        done.map_err(|error| broken(&self.name, &error))
    }
}

fn broken(name: &str, error: &io::Error) -> Broken {
    Broken {
        reason: format!("{name} cannot be written: {error}"),
        guess: "",
        cause: Cause::Unreachable,
    }
}
