//! Prints received events: one line each, exact for programs, short and coloured for people.
//!
//! Runs on a thread of its own, because standard output may block for as long as its reader
//! likes. A window is answered for only when all of it has been written and flushed. Knows
//! nothing of sockets.

use std::io;
use std::io::IsTerminal;
use std::io::Write;

use chrono_tz::Tz;
use memchr::memchr2;
use tokio::sync::mpsc;
use tokio::sync::oneshot;

use crate::cli::receive::printer::line::Line;
use crate::lumberjack::server::Delivery;
use crate::protocol::server::Window;

mod line;
#[cfg(test)]
pub(super) mod tests;

/// Written at once; a window that is larger is written in parts and flushed at its end.
const BUFFER_BYTES: usize = 1 << 20;

/// What was printed, and why no more is.
#[derive(Debug)]
pub(crate) struct Printed {
    /// Windows printed whole.
    pub(crate) windows: u64,
    /// Events of those.
    pub(crate) events: u64,
    /// Why it ended.
    pub(crate) end: End,
}

/// Why printing ended.
#[derive(Debug)]
pub(crate) enum End {
    /// The server is gone.
    NoMore,
    /// Nobody reads standard output any more.
    BrokenPipe,
    /// Standard output cannot be written.
    Failed(io::Error),
}

/// How events are to be shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Shown {
    /// To a person at a terminal in short, to anything else one JSON object a line.
    AsFits,
    /// The bytes that came, and a line's end behind each event.
    Raw,
}

/// Starts to print to standard output what comes by `deliveries`; resolves at the end.
///
/// # Errors
/// When the system refuses a thread.
pub(crate) fn spawn(
    deliveries: mpsc::Receiver<Delivery>,
    shown: Shown,
) -> io::Result<oneshot::Receiver<Printed>> {
    let look = match shown {
        Shown::AsFits => Look::of_stdout(),
        Shown::Raw => Look::Raw,
    };
    on_thread("printer", deliveries, move |deliveries| {
        print(deliveries, &mut io::stdout().lock(), &look)
    })
}

/// Lets `take` have what comes by `deliveries`; resolves at the end.
///
/// A thread and not a task of the runtime's blocking pool: the runtime waits for those when it
/// ends, and this one may hang for as long as nobody reads.
pub(super) fn on_thread(
    name: &str,
    mut deliveries: mpsc::Receiver<Delivery>,
    take: impl FnOnce(&mut mpsc::Receiver<Delivery>) -> Printed + Send + 'static,
) -> io::Result<oneshot::Receiver<Printed>> {
    let (ended, end) = oneshot::channel();
    std::thread::Builder::new()
        .name(name.to_owned())
        .spawn(move || {
            let printed = take(&mut deliveries);
            // Events that nobody will take must not come: this closes their connections.
            drop(deliveries);
            // Whoever started it may be gone.
            drop(ended.send(printed));
        })?;
    Ok(end)
}

/// How an event becomes a line.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Look {
    /// The event itself, on one line.
    Json,
    /// The event byte for byte.
    Raw,
    /// For a person: time in this zone, job, stream, message.
    Short { zone: Tz, screen: Screen },
}

/// What the terminal can do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Screen {
    /// Colours, and cutting lines at its edge.
    Coloured,
    /// Cutting lines at its edge; colours are not wanted (`NO_COLOR`).
    Monochrome,
    /// Neither (`TERM=dumb`).
    Dumb,
}

impl Look {
    fn of_stdout() -> Self {
        if !io::stdout().is_terminal() {
            return Self::Json;
        }
        let set = |name| std::env::var(name).is_ok_and(|value| !value.is_empty());
        let screen = match std::env::var("TERM").as_deref() {
            Err(_) | Ok("" | "dumb") => Screen::Dumb,
            Ok(_) if set("NO_COLOR") => Screen::Monochrome,
            Ok(_) => Screen::Coloured,
        };
        Self::Short {
            zone: local_zone(),
            screen,
        }
    }
}

/// `TZ` if it names a zone, else the machine's own, else UTC.
fn local_zone() -> Tz {
    std::env::var("TZ")
        .ok()
        .and_then(|name| name.parse().ok())
        .or_else(|| iana_time_zone::get_timezone().ok()?.parse().ok())
        .unwrap_or(Tz::UTC)
}

fn print(deliveries: &mut mpsc::Receiver<Delivery>, out: &mut dyn Write, look: &Look) -> Printed {
    let mut printed = Printed {
        windows: 0,
        events: 0,
        end: End::NoMore,
    };
    let mut buffer = Vec::with_capacity(BUFFER_BYTES);
    while let Some(Delivery { peer, window, done }) = deliveries.blocking_recv() {
        if let Err(error) = print_window(&window, out, look, &mut buffer) {
            printed.end = match error.kind() {
                io::ErrorKind::BrokenPipe => End::BrokenPipe,
                _ => End::Failed(error),
            };
            return printed;
        }
        printed.windows += 1;
        printed.events += window.count() as u64;
        if done.send(()).is_err() {
            tracing::debug!(%peer, "client left before the ACK, it will send the window again");
        }
    }
    printed
}

fn print_window(
    window: &Window,
    out: &mut dyn Write,
    look: &Look,
    buffer: &mut Vec<u8>,
) -> io::Result<()> {
    for event in window.events() {
        match look {
            Look::Json => push_json(event, buffer),
            Look::Raw => {
                buffer.extend_from_slice(event);
                buffer.push(b'\n');
            }
            Look::Short { zone, screen } => Line::of(event, *zone).push(*screen, buffer),
        }
        if buffer.len() >= BUFFER_BYTES {
            out.write_all(buffer)?;
            buffer.clear();
        }
    }
    out.write_all(buffer)?;
    buffer.clear();
    out.flush()
}

/// Appends the event's own bytes as one line. A line break in JSON can only stand between
/// tokens, where a blank means the same.
pub(super) fn push_json(event: &[u8], buffer: &mut Vec<u8>) {
    let start = buffer.len();
    buffer.extend_from_slice(event);
    let mut rest = &mut buffer[start..];
    while let Some(at) = memchr2(b'\n', b'\r', rest) {
        rest[at] = b' ';
        rest = &mut rest[at + 1..];
    }
    buffer.push(b'\n');
}
