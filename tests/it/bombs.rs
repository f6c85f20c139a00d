//! Small input that asks for much memory, against the real receiver: refused, and what it costs
//! stays below what the receiver may hold.

#![expect(clippy::unwrap_used, reason = "tests")]

use std::io::ErrorKind;
use std::io::Read;
use std::io::Write;
use std::net::TcpStream;

use flate2::Compression;
use flate2::write::ZlibEncoder;

use crate::harness::Receiver;
use crate::harness::SOON;

/// What the windows of all connections together may hold.
const CAP_BYTES: u64 = 256 << 20;

/// What one window may hold.
const WINDOW_BYTES: u64 = 64 << 20;

/// What else a receiver may need over idle: buffers of connections, of the allocator, of the printer.
const EXTRA_BYTES: u64 = 32 << 20;

fn window(count: u32) -> Vec<u8> {
    [b"2W", count.to_be_bytes().as_slice()].concat()
}

fn event(seq: u32, announced: u32, payload: &[u8]) -> Vec<u8> {
    let numbers = [seq.to_be_bytes(), announced.to_be_bytes()].concat();
    [b"2J", numbers.as_slice(), payload].concat()
}

fn compressed(frames: &[u8]) -> Vec<u8> {
    let mut encoder = ZlibEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(frames).unwrap();
    let stream = encoder.finish().unwrap();
    let length = u32::try_from(stream.len()).unwrap();
    [b"2C", length.to_be_bytes().as_slice(), &stream].concat()
}

/// One event of `bytes` bytes that deflates to a thousandth: an object with blanks in it.
fn blank(seq: u32, bytes: u32) -> Vec<u8> {
    let mut payload = vec![b' '; usize::try_from(bytes).unwrap()];
    payload[0] = b'{';
    *payload.last_mut().unwrap() = b'}';
    event(seq, bytes, &payload)
}

/// Events that fill a window to its limit and go beyond it.
fn blanks() -> Vec<u8> {
    (1..=20).flat_map(|seq| blank(seq, 9 << 20)).collect()
}

fn bombs() -> Vec<(&'static str, Vec<u8>)> {
    let zeros = vec![0; 100 << 20];
    let zeros_once = compressed(&zeros);
    let zeros_twice = compressed(&zeros_once);
    let in_event = event(1, 100 << 20, &zeros);
    vec![
        (
            "100 MiB of zeros in a C frame",
            [window(1), zeros_once].concat(),
        ),
        (
            "100 MiB of zeros in a C frame in a C frame",
            [window(1), zeros_twice].concat(),
        ),
        (
            "100 MiB of zeros as an event in a C frame",
            [window(1), compressed(&in_event)].concat(),
        ),
        (
            "180 MiB of valid events in a C frame",
            [window(20), compressed(&blanks())].concat(),
        ),
        (
            "an event announced with 4 GiB",
            [window(1), event(1, u32::MAX, b"{}")].concat(),
        ),
        (
            "an event announced with 4 GiB in a C frame",
            [window(1), compressed(&event(1, u32::MAX, b"{}"))].concat(),
        ),
        (
            "a C frame announced with 4 GiB",
            [window(1), b"2C\xff\xff\xff\xff\x78\x9c".to_vec()].concat(),
        ),
        ("a window of 2^32-1 events", window(u32::MAX)),
        (
            "10 MiB of version 1 that are 60 MiB of JSON, in a C frame",
            swelling(),
        ),
    ]
}

/// An event of version 1 whose object is six times as large: each byte becomes `\u0001`.
fn swelling() -> Vec<u8> {
    let value = vec![1; (10 << 20) - 100];
    let length = u32::try_from(value.len()).unwrap().to_be_bytes();
    let head = b"1D\0\0\0\x01\0\0\0\x01\0\0\0\x01k";
    let frame = [head, length.as_slice(), &value].concat();
    let mut bomb = [window(1), compressed(&frame)].concat();
    // Both frames are of version 1.
    (bomb[0], bomb[6]) = (b'1', b'1');
    bomb
}

fn connect(receiver: &Receiver) -> TcpStream {
    let socket = TcpStream::connect(receiver.addr()).unwrap();
    socket.set_read_timeout(Some(SOON)).unwrap();
    socket
}

/// What comes until the receiver closes. A receiver that has closed may reset what is still sent.
fn rest(mut socket: TcpStream) -> Vec<u8> {
    let mut rest = Vec::new();
    if let Err(error) = socket.read_to_end(&mut rest) {
        assert_eq!(error.kind(), ErrorKind::ConnectionReset, "not closed");
    }
    rest
}

#[test]
fn bombs_are_refused_and_cost_no_more_than_a_window() {
    let receiver = Receiver::start(&[]);
    let idle = receiver.peak_memory();
    for (name, bomb) in bombs() {
        let mut socket = connect(&receiver);
        drop(socket.write_all(&bomb));
        assert_eq!(rest(socket), b"", "{name}: refused, no ACK");
        let used = receiver.peak_memory() - idle;
        assert!(
            used <= WINDOW_BYTES + EXTRA_BYTES,
            "{name}: {used} bytes over idle"
        );
        say(&format!(
            "{name}: {} bytes refused, peak {} KiB over idle",
            bomb.len(),
            used >> 10
        ));
    }
    assert_sound(&receiver);
}

#[test]
fn bombs_on_many_connections_at_once_share_one_bound() {
    let receiver = Receiver::start(&[]);
    let idle = receiver.peak_memory();
    let bomb = [window(20), compressed(&blanks())].concat();
    let sockets: Vec<TcpStream> = (0..12)
        .map(|_| {
            let mut socket = connect(&receiver);
            socket.write_all(&bomb).unwrap();
            socket
        })
        .collect();
    for socket in sockets {
        assert_eq!(rest(socket), b"");
    }
    let used = receiver.peak_memory() - idle;
    assert!(used <= CAP_BYTES + EXTRA_BYTES, "{used} bytes over idle");
    say(&format!(
        "12 bombs at once: peak {} KiB over idle",
        used >> 10
    ));
    assert_sound(&receiver);
}

/// The receiver still takes an honest window, and nothing else was given out.
fn assert_sound(receiver: &Receiver) {
    let mut socket = connect(receiver);
    let honest = [window(1), compressed(&event(1, 2, b"{}"))].concat();
    socket.write_all(&honest).unwrap();
    let mut ack = [0; 6];
    socket.read_exact(&mut ack).unwrap();
    assert_eq!(&ack, b"2A\0\0\0\x01");
    assert_eq!(receiver.printed(), "{}\n");
}

fn say(line: &str) {
    drop(writeln!(std::io::stderr(), "{line}"));
}
