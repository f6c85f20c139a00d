//! A Lumberjack version 2 server in threads: it answers as told and remembers what it got.
//!
//! Written from the protocol, not from our client, and strict: whatever a real server might
//! refuse is a fault that fails the test. Must never use `spoolbeat::lumberjack`.

#![expect(clippy::unwrap_used, reason = "tests")]

use std::collections::BTreeMap;
use std::io;
use std::io::BufReader;
use std::io::Read;
use std::io::Write;
use std::net::Shutdown;
use std::net::TcpListener;
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::Condvar;
use std::sync::Mutex;
use std::thread;
use std::thread::JoinHandle;

use flate2::read::ZlibDecoder;
use serde_json::Value;

/// Most bytes that one compressed frame may inflate to; Graylog's limit.
const INFLATED_BYTES_MAX: u64 = 64 << 20;

/// How the server answers a whole window.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    /// With one ACK for all of it.
    All,
    /// With an ACK for its first events, at most this many; then it closes the connection.
    First(u32),
    /// With one ACK, but it closes the connection on a window that holds an event with this in it.
    Refuse(&'static str),
    /// Not, until the mode changes; the windows that wait are then answered in the new mode.
    Never,
}

/// What the server remembers of events.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Keep {
    /// All of them.
    Events,
    /// Their `event.id`, for tests with many.
    Ids,
}

/// The server.
#[derive(Debug)]
pub(crate) struct Logstash {
    port: u16,
    shared: Arc<Shared>,
    door: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    keep: Keep,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug)]
struct State {
    mode: Mode,
    open: bool,
    connections: usize,
    /// Those of connections that have not ended.
    sockets: BTreeMap<usize, TcpStream>,
    windows: Vec<Window>,
    faults: Vec<String>,
}

/// One window as it arrived.
#[derive(Debug, Clone)]
pub(crate) struct Window {
    /// Which connection it came by, from 1.
    pub(crate) connection: usize,
    /// The `event.id` of each event.
    pub(crate) ids: Vec<String>,
    /// The events, with [`Keep::Events`].
    pub(crate) events: Vec<Value>,
    /// How many of them were acknowledged.
    pub(crate) acked: usize,
}

impl Logstash {
    /// A server on a free port of the loopback address that acknowledges everything.
    pub(crate) fn new(keep: Keep) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let state = State {
            mode: Mode::All,
            open: true,
            connections: 0,
            sockets: BTreeMap::new(),
            windows: Vec::new(),
            faults: Vec::new(),
        };
        let shared = Arc::new(Shared {
            keep,
            state: Mutex::new(state),
            changed: Condvar::new(),
        });
        let door = Some(serve(listener, &shared));
        Self { port, shared, door }
    }

    /// The port, which stays the same when the server closes and opens.
    pub(crate) const fn port(&self) -> u16 {
        self.port
    }

    /// Changes how windows are answered, those that wait included.
    pub(crate) fn answer(&self, mode: Mode) {
        self.shared.state.lock().unwrap().mode = mode;
        self.shared.changed.notify_all();
    }

    /// Ends all connections and refuses new ones.
    pub(crate) fn close(&mut self) {
        {
            let mut state = self.shared.state.lock().unwrap();
            state.open = false;
            for socket in std::mem::take(&mut state.sockets).values() {
                // An error means that the connection has ended already.
                drop(socket.shutdown(Shutdown::Both));
            }
        }
        self.shared.changed.notify_all();
        // Wakes the thread that waits in accept, which then sees that the door is closed.
        drop(TcpStream::connect(("127.0.0.1", self.port)));
        if let Some(door) = self.door.take() {
            door.join().unwrap();
        }
    }

    /// Listens again on the same port.
    pub(crate) fn open(&mut self) {
        let listener = TcpListener::bind(("127.0.0.1", self.port)).unwrap();
        self.shared.state.lock().unwrap().open = true;
        self.door = Some(serve(listener, &self.shared));
    }

    /// Every window that arrived, in order; a fault of the client fails the test here.
    pub(crate) fn windows(&self) -> Vec<Window> {
        self.windows_from(0)
    }

    /// Those that arrived behind the first `seen`.
    pub(crate) fn windows_from(&self, seen: usize) -> Vec<Window> {
        let state = self.shared.state.lock().unwrap();
        assert!(state.faults.is_empty(), "faults: {:?}", state.faults);
        state.windows[seen..].to_vec()
    }

    /// How many windows arrived.
    pub(crate) fn arrived(&self) -> usize {
        self.shared.state.lock().unwrap().windows.len()
    }

    /// How many events arrived, resent ones counted again.
    pub(crate) fn count(&self) -> usize {
        self.windows().iter().map(|window| window.ids.len()).sum()
    }

    /// The ids of the events that were acknowledged, in order.
    pub(crate) fn acked_ids(&self) -> Vec<String> {
        self.windows()
            .into_iter()
            .flat_map(|window| window.ids.into_iter().take(window.acked))
            .collect()
    }

    /// The events of one job, in the order of arrival.
    pub(crate) fn events(&self, job: &str) -> Vec<Value> {
        assert_eq!(self.shared.keep, Keep::Events, "the events are not kept");
        self.windows()
            .into_iter()
            .flat_map(|window| window.events)
            .filter(|event| event["job"]["name"] == job)
            .collect()
    }

    /// What the daemon has told of an output that misses events for this reason.
    pub(crate) fn missed(&self, output: &str, reason: &str) -> Vec<Value> {
        let told = self.events("spoolbeat").into_iter();
        told.filter(|event| event["event"]["action"] == "output-missed")
            .map(|event| event["job"]["output"].clone())
            .filter(|one| one["name"] == output && one["reason"] == reason)
            .collect()
    }

    /// The messages that one job printed, in the order of arrival.
    pub(crate) fn lines(&self, job: &str) -> Vec<String> {
        self.events(job)
            .iter()
            .filter(|event| !super::is_run_event(event))
            .map(|event| event["message"].as_str().unwrap_or_default().to_owned())
            .collect()
    }
}

impl Drop for Logstash {
    fn drop(&mut self) {
        if self.door.is_some() && !thread::panicking() {
            self.close();
        }
    }
}

fn serve(listener: TcpListener, shared: &Arc<Shared>) -> JoinHandle<()> {
    let shared = Arc::clone(shared);
    thread::spawn(move || {
        for socket in listener.incoming() {
            let socket = socket.unwrap();
            let connection = {
                let mut state = shared.state.lock().unwrap();
                if !state.open {
                    return;
                }
                state.connections += 1;
                let connection = state.connections;
                let handle = socket.try_clone().unwrap();
                state.sockets.insert(connection, handle);
                connection
            };
            let shared = Arc::clone(&shared);
            thread::spawn(move || {
                talk(connection, &socket, &shared);
                shared.state.lock().unwrap().sockets.remove(&connection);
            });
        }
    })
}

/// One connection, until either side ends it. That it ends is ordinary; a wrong byte is a fault.
fn talk(connection: usize, socket: &TcpStream, shared: &Shared) {
    let mut reader = BufReader::new(socket);
    loop {
        match read_window(&mut reader) {
            Ok(Some(payloads)) => {
                let number = remember(connection, &payloads, shared);
                if !answer(socket, number, payloads.len(), shared) {
                    break;
                }
            }
            Ok(None) => break,
            Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                let fault = error.to_string();
                shared.state.lock().unwrap().faults.push(fault);
                break;
            }
            Err(_) => break,
        }
    }
    // Reading to the end first: closing with unread bytes would reset the connection, and a
    // reset destroys an ACK that is still on its way.
    drop(socket.shutdown(Shutdown::Write));
    drop(io::copy(&mut reader, &mut io::sink()));
}

/// Notes a window; returns its place among all windows.
fn remember(connection: usize, payloads: &[Vec<u8>], shared: &Shared) -> usize {
    let mut window = Window {
        connection,
        ids: Vec::new(),
        events: Vec::new(),
        acked: 0,
    };
    let mut faults = Vec::new();
    for payload in payloads {
        match serde_json::from_slice::<Value>(payload) {
            Ok(event) if event["event"]["id"].is_string() => {
                window
                    .ids
                    .push(event["event"]["id"].as_str().unwrap().to_owned());
                if shared.keep == Keep::Events {
                    window.events.push(event);
                }
            }
            other => faults.push(format!("an event without event.id: {other:?}")),
        }
    }
    let mut state = shared.state.lock().unwrap();
    state.faults.append(&mut faults);
    state.windows.push(window);
    state.windows.len() - 1
}

/// Answers a window as the mode says; returns whether the connection goes on.
fn answer(socket: &TcpStream, number: usize, count: usize, shared: &Shared) -> bool {
    let mut state = shared.state.lock().unwrap();
    while state.open && state.mode == Mode::Never {
        state = shared.changed.wait(state).unwrap();
    }
    if !state.open {
        return false;
    }
    let (acked, goes_on) = match state.mode {
        Mode::First(most) => (count.min(usize::try_from(most).unwrap()), false),
        Mode::Refuse(word) => {
            let mut events = state.windows[number].events.iter();
            if events.any(|event| event.to_string().contains(word)) {
                return false;
            }
            (count, true)
        }
        Mode::All | Mode::Never => (count, true),
    };
    let mut ack = b"2A".to_vec();
    ack.extend_from_slice(&u32::try_from(acked).unwrap().to_be_bytes());
    // Noted before it is sent, and under the lock: a test never sees the effect of an ACK that is not noted.
    state.windows[number].acked = acked;
    let mut socket = socket;
    socket.write_all(&ack).is_ok() && goes_on
}

/// Reads `W n` and the n events that follow it; `None` at the end of the connection.
pub(crate) fn read_window(reader: &mut impl Read) -> io::Result<Option<Vec<Vec<u8>>>> {
    let mut kind = [0; 2];
    if reader.read(&mut kind[..1])? == 0 {
        return Ok(None);
    }
    reader.read_exact(&mut kind[1..])?;
    if &kind != b"2W" {
        return Err(fault(format!("{kind:?} where a window should begin")));
    }
    let count = read_u32(reader)?;
    let mut payloads = Vec::new();
    while payloads.len() < count {
        let before = payloads.len();
        read_frame(reader, &mut payloads)?;
        // Several compressed frames in one window are the end of a connection to go-lumber.
        if payloads.len() - before > 1 && payloads.len() - before != count {
            return Err(fault("a compressed frame holds part of a window"));
        }
    }
    if payloads.len() != count || count == 0 {
        return Err(fault(format!(
            "{} events in a window of {count}",
            payloads.len()
        )));
    }
    Ok(Some(payloads))
}

/// Reads one `J`, or one `C` with everything in it; events must be numbered from 1 in each window.
fn read_frame(reader: &mut impl Read, payloads: &mut Vec<Vec<u8>>) -> io::Result<()> {
    let mut kind = [0; 2];
    reader.read_exact(&mut kind)?;
    match &kind {
        b"2J" => {
            let seq = read_u32(reader)?;
            if seq != payloads.len() + 1 {
                return Err(fault(format!("number {seq} at {}", payloads.len() + 1)));
            }
            let length = read_u32(reader)?;
            payloads.push(read_bytes(reader, length)?);
            Ok(())
        }
        b"2C" => {
            let length = read_u32(reader)?;
            let deflated = read_bytes(reader, length)?;
            let mut inflated = Vec::new();
            ZlibDecoder::new(deflated.as_slice())
                .take(INFLATED_BYTES_MAX)
                .read_to_end(&mut inflated)
                .map_err(fault)?;
            let mut rest = inflated.as_slice();
            while !rest.is_empty() {
                if !rest.starts_with(b"2J") {
                    return Err(fault("something else than events in a compressed frame"));
                }
                read_frame(&mut rest, payloads).map_err(fault)?;
            }
            Ok(())
        }
        _ => Err(fault(format!("{kind:?} where an event should begin"))),
    }
}

fn read_u32(reader: &mut impl Read) -> io::Result<usize> {
    let mut bytes = [0; 4];
    reader.read_exact(&mut bytes)?;
    Ok(usize::try_from(u32::from_be_bytes(bytes)).unwrap())
}

/// Grows with what arrives, not with what was announced.
fn read_bytes(reader: &mut impl Read, length: usize) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    reader
        .take(u64::try_from(length).unwrap())
        .read_to_end(&mut bytes)?;
    if bytes.len() == length {
        Ok(bytes)
    } else {
        Err(io::ErrorKind::UnexpectedEof.into())
    }
}

fn fault(what: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::wait_until;
    use super::*;

    const SOON: Duration = Duration::from_secs(5);

    fn frames(ids: std::ops::RangeInclusive<u32>) -> Vec<u8> {
        let mut bytes = Vec::new();
        for (seq, id) in (1_u32..).zip(ids) {
            let event =
                format!("{{\"event\":{{\"id\":\"run.o.{id}\"}},\"job\":{{\"name\":\"j\"}}}}");
            bytes.extend_from_slice(b"2J");
            bytes.extend_from_slice(&seq.to_be_bytes());
            bytes.extend_from_slice(&u32::try_from(event.len()).unwrap().to_be_bytes());
            bytes.extend_from_slice(event.as_bytes());
        }
        bytes
    }

    fn plain(count: u32, frames: &[u8]) -> Vec<u8> {
        [b"2W", count.to_be_bytes().as_slice(), frames].concat()
    }

    fn compressed(count: u32, frames: &[u8]) -> Vec<u8> {
        let mut deflated = Vec::new();
        flate2::read::ZlibEncoder::new(frames, flate2::Compression::fast())
            .read_to_end(&mut deflated)
            .unwrap();
        let length = u32::try_from(deflated.len()).unwrap();
        let frame = [b"2C", length.to_be_bytes().as_slice(), &deflated].concat();
        plain(count, &frame)
    }

    fn connect(logstash: &Logstash) -> TcpStream {
        let socket = TcpStream::connect(("127.0.0.1", logstash.port())).unwrap();
        socket.set_read_timeout(Some(SOON)).unwrap();
        socket
    }

    fn ack(socket: &mut TcpStream) -> u32 {
        let mut bytes = [0; 6];
        socket.read_exact(&mut bytes).unwrap();
        assert_eq!(&bytes[..2], b"2A");
        u32::from_be_bytes(bytes[2..].try_into().unwrap())
    }

    #[test]
    fn the_double_takes_plain_and_compressed_windows_on_one_connection() {
        let logstash = Logstash::new(Keep::Events);
        let mut socket = connect(&logstash);
        socket.write_all(&plain(2, &frames(1..=2))).unwrap();
        socket.write_all(&compressed(3, &frames(3..=5))).unwrap();
        assert_eq!((ack(&mut socket), ack(&mut socket)), (2, 3));
        let ids = ["run.o.1", "run.o.2", "run.o.3", "run.o.4", "run.o.5"];
        assert_eq!(logstash.acked_ids(), ids);
        assert_eq!(logstash.events("j").len(), 5);
    }

    #[test]
    fn the_double_answers_in_part_late_and_not_at_all() {
        let mut logstash = Logstash::new(Keep::Ids);
        logstash.answer(Mode::First(1));
        let mut socket = connect(&logstash);
        socket.write_all(&compressed(3, &frames(1..=3))).unwrap();
        assert_eq!(ack(&mut socket), 1);
        assert_eq!(socket.read(&mut [0]).unwrap(), 0, "then it closes");
        drop(socket);

        logstash.answer(Mode::Never);
        let mut socket = connect(&logstash);
        socket.write_all(&compressed(2, &frames(2..=3))).unwrap();
        wait_until(SOON, "the window arrives", || logstash.count() == 5);
        logstash.answer(Mode::All);
        assert_eq!(ack(&mut socket), 2);
        assert_eq!(logstash.acked_ids(), ["run.o.1", "run.o.2", "run.o.3"]);

        logstash.close();
        assert!(TcpStream::connect(("127.0.0.1", logstash.port())).is_err());
        logstash.open();
        let mut socket = connect(&logstash);
        socket.write_all(&plain(1, &frames(4..=4))).unwrap();
        assert_eq!(ack(&mut socket), 1);
    }

    #[test]
    #[should_panic(expected = "number 2 at 1")]
    fn the_double_refuses_numbers_that_do_not_start_at_1() {
        let logstash = Logstash::new(Keep::Ids);
        let mut socket = connect(&logstash);
        let mut wrong = frames(1..=1);
        wrong[5] = 2;
        socket.write_all(&plain(1, &wrong)).unwrap();
        assert_eq!(socket.read(&mut [0]).unwrap(), 0, "it closes");
        logstash.windows();
    }
}
