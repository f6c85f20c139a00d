//! Standard output as an output: one JSON object a line, for containers whose runtime collects it.
//!
//! The log of the daemon goes to standard error. An event counts as acknowledged when the pipe or
//! file has taken its line. Knows no queue.

use std::io;
use std::sync::Mutex;
use std::time::Duration;

use super::local;
use crate::clock;
use crate::process;
use crate::queue::locked;

/// Whether the last line was cut short by an error. There is one standard output, so there is one of
/// these; holding it keeps lines of two connections apart.
static IS_CUT: Mutex<bool> = Mutex::new(false);

/// How soon a standard output that does not block is tried again when it is full.
const FULL_PAUSE: Duration = Duration::from_millis(20);

/// See the module's header.
#[derive(Debug)]
pub(super) struct Target;

impl local::Target for Target {
    fn open(&mut self) -> io::Result<()> {
        Ok(())
    }

    fn write(&mut self, lines: &[u8]) -> io::Result<()> {
        let mut is_cut = locked(&IS_CUT);
        if *is_cut {
            write_all(b"\n").map_err(|(_, error)| error)?;
            *is_cut = false;
        }
        write_all(lines).map_err(|(written, error)| {
            *is_cut = written > 0 && lines[written - 1] != b'\n';
            error
        })
    }
}

/// Writes all of `bytes`; with an error goes how many were written.
fn write_all(bytes: &[u8]) -> Result<(), (usize, io::Error)> {
    let mut written = 0;
    while written < bytes.len() {
        match process::write_stdout(&bytes[written..]) {
            Ok(0) => return Err((written, io::ErrorKind::WriteZero.into())),
            Ok(more) => written += more,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => clock::pause(FULL_PAUSE),
            Err(error) => return Err((written, error)),
        }
    }
    Ok(())
}
