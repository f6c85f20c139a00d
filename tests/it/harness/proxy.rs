//! A proxy that ends connections after a byte that the test names, or puts a server far away. Knows
//! no protocol.

#![expect(clippy::unwrap_used, reason = "tests")]

use std::collections::VecDeque;
use std::io::Read;
use std::io::Write;
use std::net::Shutdown;
use std::net::TcpListener;
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;
use std::time::Instant;

/// Which way bytes go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Direction {
    ToServer,
    ToClient,
}

/// Where a connection ends: when so many bytes have gone this way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Cut {
    pub(crate) direction: Direction,
    pub(crate) after: usize,
}

/// The proxy; its thread ends with the process.
#[derive(Debug)]
pub(crate) struct Proxy {
    port: u16,
    made: Arc<Mutex<Made>>,
}

#[derive(Debug, Default)]
struct Made {
    /// Cuts of connections to come; without one a connection goes on for ever.
    to_come: VecDeque<Cut>,
    done: Vec<Cut>,
}

impl Proxy {
    /// A proxy in front of the server on this port that makes one of the `cuts` in each connection.
    pub(crate) fn new(server: u16, cuts: impl IntoIterator<Item = Cut>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let made = Arc::new(Mutex::new(Made {
            to_come: cuts.into_iter().collect(),
            done: Vec::new(),
        }));
        let shared = Arc::clone(&made);
        thread::spawn(move || {
            for client in listener.incoming() {
                let client = client.unwrap();
                let Ok(server) = TcpStream::connect(("127.0.0.1", server)) else {
                    continue;
                };
                let cut = shared.lock().unwrap().to_come.pop_front();
                carry(&client, &server, Direction::ToServer, cut, &shared);
                carry(&server, &client, Direction::ToClient, cut, &shared);
            }
        });
        Self { port, made }
    }

    /// A proxy behind which the server is this far away, there and back.
    pub(crate) fn far(server: u16, away: Duration) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        thread::spawn(move || {
            for client in listener.incoming() {
                let client = client.unwrap();
                let Ok(server) = TcpStream::connect(("127.0.0.1", server)) else {
                    continue;
                };
                carry_late(&client, &server, away / 2);
                carry_late(&server, &client, away / 2);
            }
        });
        Self {
            port,
            made: Arc::default(),
        }
    }

    pub(crate) const fn port(&self) -> u16 {
        self.port
    }

    /// The cuts that were made.
    pub(crate) fn made(&self) -> Vec<Cut> {
        self.made.lock().unwrap().done.clone()
    }
}

/// Carries bytes one way until either side ends or the cut comes; then ends both ways.
fn carry(
    from: &TcpStream,
    to: &TcpStream,
    direction: Direction,
    cut: Option<Cut>,
    made: &Arc<Mutex<Made>>,
) {
    let (mut from, mut to) = (from.try_clone().unwrap(), to.try_clone().unwrap());
    let made = Arc::clone(made);
    let cut = cut.filter(|cut| cut.direction == direction);
    let mut left = cut.map_or(usize::MAX, |cut| cut.after);
    thread::spawn(move || {
        let mut chunk = [0; 16 << 10];
        while left > 0 {
            let most = left.min(chunk.len());
            let Ok(read @ 1..) = from.read(&mut chunk[..most]) else {
                break;
            };
            if to.write_all(&chunk[..read]).is_err() {
                break;
            }
            left -= read;
        }
        if let (0, Some(cut)) = (left, cut) {
            made.lock().unwrap().done.push(cut);
        }
        // An error means that it has ended already.
        drop(from.shutdown(Shutdown::Both));
        drop(to.shutdown(Shutdown::Both));
    });
}

/// Chunks on the way at a time: a line of 100 MB/s that is 50 ms long holds fewer.
const ON_THE_WAY: usize = 4096;

/// Carries bytes one way, each chunk so much later, until either side ends.
fn carry_late(from: &TcpStream, to: &TcpStream, late: Duration) {
    let (mut from, mut to) = (from.try_clone().unwrap(), to.try_clone().unwrap());
    let (way, arriving) = mpsc::sync_channel::<(Instant, Vec<u8>)>(ON_THE_WAY);
    thread::spawn(move || {
        let mut chunk = [0; 64 << 10];
        while let Ok(read @ 1..) = from.read(&mut chunk) {
            if way
                .send((Instant::now() + late, chunk[..read].to_vec()))
                .is_err()
            {
                break;
            }
        }
    });
    thread::spawn(move || {
        for (due, chunk) in arriving {
            thread::sleep(due.saturating_duration_since(Instant::now()));
            if to.write_all(&chunk).is_err() {
                break;
            }
        }
        // An error means that it has ended already.
        drop(to.shutdown(Shutdown::Both));
    });
}
