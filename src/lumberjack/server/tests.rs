#![expect(clippy::unwrap_used, reason = "tests")]
use tokio::task::JoinHandle;

mod table;

use super::*;
use crate::event::Frames;
use crate::protocol::frame::Deflater;
use crate::protocol::frame::Version;
use crate::protocol::frame::ack;
use crate::protocol::frame::compressed_window;
use crate::protocol::frame::plain_window;
use crate::protocol::frame::window_head;

/// A running server whose windows the test takes.
struct Server {
    addr: SocketAddr,
    deliveries: mpsc::Receiver<Delivery>,
    stop: watch::Sender<bool>,
    serving: JoinHandle<()>,
    tally: Arc<Tally>,
}

impl Server {
    async fn start(settings: ServerSettings) -> Self {
        let listener = bind("127.0.0.1:0", &User::own()).await.unwrap();
        let addr = listener.local_addr().unwrap();
        let (deliver, deliveries) = mpsc::channel(1);
        let (stop, stopping) = watch::channel(false);
        let tally = Arc::clone(&settings.tally);
        let serving = tokio::spawn(serve(listener, settings, deliver, stopping));
        Self {
            addr,
            deliveries,
            stop,
            serving,
            tally,
        }
    }

    async fn client(&self) -> Client {
        Client(TcpStream::connect(self.addr).await.unwrap())
    }

    async fn delivery(&mut self) -> Delivery {
        self.deliveries.recv().await.unwrap()
    }

    /// Takes one window over; its number of events.
    async fn take(&mut self) -> usize {
        let delivery = self.delivery().await;
        delivery.done.send(()).unwrap();
        delivery.window.count()
    }
}

struct Client(TcpStream);

impl Client {
    async fn send(&mut self, bytes: &[u8]) {
        self.0.write_all(bytes).await.unwrap();
    }

    async fn answer(&mut self) -> [u8; 6] {
        let mut frame = [0; 6];
        self.0.read_exact(&mut frame).await.unwrap();
        frame
    }

    /// All bytes until the server's FIN; a reset would be an error.
    async fn rest(&mut self) -> Vec<u8> {
        let mut rest = Vec::new();
        self.0.read_to_end(&mut rest).await.unwrap();
        rest
    }
}

fn frames(count: u32, payload: &str) -> Frames {
    let mut frames = Frames::default();
    for _ in 0..count {
        frames.push(|out| out.extend_from_slice(payload.as_bytes()));
    }
    frames
}

fn window(count: u32, payload: &str) -> Vec<u8> {
    let mut out = Vec::new();
    plain_window(count, frames(count, payload).bytes(), &mut out);
    out
}

#[tokio::test]
async fn a_window_is_acknowledged_only_after_it_was_taken_over() {
    let mut server = Server::start(ServerSettings::default()).await;
    let mut client = server.client().await;
    client
        .send(
            b"\x32\x57\x00\x00\x00\x02\
              \x32\x4a\x00\x00\x00\x01\x00\x00\x00\x0f{\"message\":\"a\"}\
              \x32\x4a\x00\x00\x00\x02\x00\x00\x00\x0f{\"message\":\"b\"}",
        )
        .await;
    let delivery = server.delivery().await;
    assert_eq!(delivery.peer, client.0.local_addr().unwrap());
    let events: Vec<&[u8]> = delivery.window.events().collect();
    assert_eq!(events, [br#"{"message":"a"}"#, br#"{"message":"b"}"#]);
    let early = client.0.try_read(&mut [0; 6]);
    assert_eq!(early.unwrap_err().kind(), io::ErrorKind::WouldBlock);
    delivery.done.send(()).unwrap();
    assert_eq!(client.answer().await, *b"\x32\x41\x00\x00\x00\x02");
}

#[tokio::test]
async fn a_window_that_nobody_takes_over_is_never_acknowledged() {
    let mut server = Server::start(ServerSettings::default()).await;
    let mut client = server.client().await;
    client.send(&window(1, "{}")).await;
    drop(server.delivery().await.done);
    assert_eq!(client.rest().await, b"");
    let mut client = server.client().await;
    drop(server.deliveries);
    client.send(&window(1, "{}")).await;
    assert_eq!(client.rest().await, b"");
}

#[tokio::test]
async fn the_largest_windows_are_taken_plain_and_compressed() {
    let mut server = Server::start(ServerSettings::default()).await;
    let mut client = server.client().await;
    let payload = format!(r#"{{"message":"{}"}}"#, "x".repeat(600));
    client.send(&window(10_000, &payload)).await;
    assert_eq!(server.take().await, 10_000);
    assert_eq!(client.answer().await, ack(10_000));
    let mut out = Vec::new();
    let all = frames(10_000, &payload);
    compressed_window(
        Version::V2,
        10_000,
        all.bytes(),
        &mut Deflater::new(3),
        &mut out,
    );
    client.send(&out).await;
    assert_eq!(server.take().await, 10_000);
    assert_eq!(client.answer().await, ack(10_000));
    client.send(&window_head(10_001)).await;
    assert_eq!(client.rest().await, b"");
}

#[tokio::test]
async fn pipelined_windows_are_answered_in_order() {
    let mut server = Server::start(ServerSettings::default()).await;
    let mut client = server.client().await;
    client
        .send(&[window(2, "{}"), window(3, "{}")].concat())
        .await;
    assert_eq!(server.take().await, 2);
    assert_eq!(server.take().await, 3);
    assert_eq!(client.answer().await, ack(2));
    assert_eq!(client.answer().await, ack(3));
}

#[tokio::test]
async fn a_slow_taker_keeps_its_client_waiting_with_keep_alives() {
    let mut server = Server::start(ServerSettings {
        keep_alive: Duration::from_millis(2),
        ..ServerSettings::default()
    })
    .await;
    let mut client = server.client().await;
    client.send(&window(2, "{}")).await;
    let delivery = server.delivery().await;
    for _ in 0..3 {
        assert_eq!(client.answer().await, KEEP_ALIVE);
    }
    delivery.done.send(()).unwrap();
    let mut answer = client.answer().await;
    while answer == KEEP_ALIVE {
        answer = client.answer().await;
    }
    assert_eq!(answer, ack(2));
}

#[tokio::test]
async fn a_full_channel_is_work_too() {
    let mut server = Server::start(ServerSettings {
        keep_alive: Duration::from_millis(2),
        ..ServerSettings::default()
    })
    .await;
    let mut first = server.client().await;
    let mut second = server.client().await;
    first.send(&window(1, "{}")).await;
    second.send(&window(2, "{}")).await;
    // One of the two fills the channel, the other waits before it; both are kept alive.
    assert_eq!(first.answer().await, KEEP_ALIVE);
    assert_eq!(second.answer().await, KEEP_ALIVE);
    assert_eq!(server.take().await + server.take().await, 3);
}

#[tokio::test]
async fn junk_ends_its_own_connection_only_and_by_fin() {
    let mut server = Server::start(ServerSettings::default()).await;
    let mut good = server.client().await;
    good.send(&window(1, "{}")[..9]).await;
    for junk in [
        b"GET / HTTP/1.1\r\nHost: here\r\n\r\n".as_slice(),
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"1J\x00\x00\x00\x01",
        b"hello\n",
        &[0; 100_000],
    ] {
        let mut client = server.client().await;
        client.send(junk).await;
        assert_eq!(client.rest().await, b"");
    }
    good.send(&window(1, "{}")[9..]).await;
    assert_eq!(server.take().await, 1);
    assert_eq!(good.answer().await, ack(1));
}

#[tokio::test]
async fn a_good_window_before_junk_is_acknowledged() {
    let mut server = Server::start(ServerSettings::default()).await;
    let mut client = server.client().await;
    client.send(&[&window(1, "{}")[..], b"junk"].concat()).await;
    assert_eq!(server.take().await, 1);
    assert_eq!(client.rest().await, ack(1));
}

#[tokio::test]
async fn a_window_that_does_not_come_to_its_end_is_closed_without_ack() {
    let settings = ServerSettings {
        window_timeout: Duration::from_millis(20),
        ..ServerSettings::default()
    };
    let server = Server::start(settings).await;
    for part in [1, 6, 20] {
        let mut client = server.client().await;
        client.send(&window(2, "{}")[..part]).await;
        assert_eq!(client.rest().await, b"", "after {part} bytes");
    }
}

#[tokio::test]
async fn a_silent_client_is_closed_only_when_a_limit_is_set() {
    let server = Server::start(ServerSettings {
        window_timeout: Duration::from_millis(1),
        idle_timeout: Some(Duration::from_millis(20)),
        ..ServerSettings::default()
    })
    .await;
    let mut client = server.client().await;
    client.send(&window_head(0)).await;
    assert_eq!(client.rest().await, b"");
    assert_eq!(ServerSettings::default().idle_timeout, None);
}

#[tokio::test]
async fn a_client_that_goes_away_in_a_window_leaves_no_delivery() {
    let mut server = Server::start(ServerSettings::default()).await;
    let whole = window(2, "{}");
    for cut in 1..whole.len() {
        let mut client = server.client().await;
        client.send(&whole[..cut]).await;
        client.0.shutdown().await.unwrap();
        assert_eq!(client.rest().await, b"", "cut at {cut}");
    }
    assert!(server.deliveries.try_recv().is_err());
}

#[tokio::test]
async fn connections_beyond_the_limit_are_closed_until_there_is_room() {
    let mut server = Server::start(ServerSettings {
        connections: 1,
        ..ServerSettings::default()
    })
    .await;
    let mut first = server.client().await;
    first.send(&window(1, "{}")).await;
    assert_eq!(server.take().await, 1);
    assert_eq!(first.answer().await, ack(1));
    let mut second = server.client().await;
    assert_eq!(second.rest().await, b"");
    drop(first);
    // The server learns of the first one's end in its own time.
    loop {
        let mut third = server.client().await;
        if third.0.write_all(&window(2, "{}")).await.is_err() {
            continue;
        }
        tokio::select! {
            delivery = server.deliveries.recv() => {
                assert_eq!(delivery.unwrap().window.count(), 2);
                break;
            }
            _ = third.0.readable() => {}
        }
    }
}

#[tokio::test]
async fn one_address_leaves_room_for_others() {
    let mut server = Server::start(ServerSettings {
        connections_per_peer: 1,
        ..ServerSettings::default()
    })
    .await;
    let mut first = server.client().await;
    first.send(&window(1, "{}")).await;
    assert_eq!(server.take().await, 1);
    let mut second = server.client().await;
    assert_eq!(second.rest().await, b"");
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.2:0".parse().unwrap()).unwrap();
    let mut other = Client(socket.connect(server.addr).await.unwrap());
    other.send(&window(2, "{}")).await;
    assert_eq!(server.take().await, 2);
    assert_eq!(other.answer().await, ack(2));
    let count = |count: &std::sync::atomic::AtomicU64| count.load(Ordering::Relaxed);
    let tally = &server.tally;
    assert_eq!((count(&tally.open), count(&tally.turned_away)), (2, 1));
    assert_eq!((count(&tally.windows), count(&tally.events)), (2, 3));
}

#[tokio::test]
async fn a_window_counts_as_held_until_its_taker_lets_it_go() {
    let memory = Memory::new(MEMORY_BYTES_MAX);
    let mut server = Server::start(ServerSettings {
        window_timeout: Duration::from_millis(50),
        memory: memory.clone(),
        ..ServerSettings::default()
    })
    .await;
    let mut client = server.client().await;
    // Version 1 is closed when it has waited for so long.
    client.send(b"1W\0\0\0\x01").await;
    client.send(b"1D\0\0\0\x01\0\0\0\0").await;
    let delivery = server.delivery().await;
    assert_eq!(client.rest().await, b"");
    drop(client);
    let free = || memory.free.available_permits();
    assert!(free() < MEMORY_BYTES_MAX);
    drop(delivery);
    let freed = clock::within(Duration::from_secs(20), async {
        while free() < MEMORY_BYTES_MAX {
            tokio::task::yield_now().await;
        }
    });
    freed.await.unwrap();
}

#[tokio::test]
async fn memory_that_others_hold_is_waited_for_and_not_for_ever() {
    let payload = format!("{{\"a\":\"{}\"}}", "x".repeat(20_000));
    let server_with = |window_timeout| ServerSettings {
        // Enough for one such window, not for two.
        memory: Memory::new(WINDOW_EXTRA_BYTES + 2 * GRANT_FIRST_BYTES),
        window_timeout,
        ..ServerSettings::default()
    };
    for (timeout, waits) in [(WINDOW_TIMEOUT, true), (Duration::from_millis(50), false)] {
        let mut server = Server::start(server_with(timeout)).await;
        let mut first = server.client().await;
        first.send(&window(1, &payload)).await;
        let held = server.delivery().await;
        let mut second = server.client().await;
        second.send(&window(1, &payload)).await;
        if !waits {
            assert_eq!(second.rest().await, b"");
        }
        held.done.send(()).unwrap();
        assert_eq!(first.answer().await, ack(1));
        if waits {
            assert_eq!(server.take().await, 1);
            assert_eq!(second.answer().await, ack(1));
        }
    }
}

#[tokio::test]
async fn a_stop_finishes_the_window_in_work_and_closes_the_rest() {
    let mut server = Server::start(ServerSettings::default()).await;
    let mut idle = server.client().await;
    let mut begun = server.client().await;
    begun.send(&window(2, "{}")[..20]).await;
    let mut working = server.client().await;
    working.send(&window(2, "{}")).await;
    let delivery = server.delivery().await;
    server.stop.send(true).unwrap();
    assert_eq!(idle.rest().await, b"");
    assert_eq!(begun.rest().await, b"");
    delivery.done.send(()).unwrap();
    assert_eq!(working.rest().await, ack(2));
    drop((idle, begun, working));
    server.serving.await.unwrap();
    assert!(TcpStream::connect(server.addr).await.is_err());
}

#[tokio::test]
async fn a_port_that_cannot_be_had_is_explained() {
    let taken = bind("127.0.0.1:0", &User::own()).await.unwrap();
    let addr = taken.local_addr().unwrap().to_string();
    let error = bind(&addr, &User::own()).await.unwrap_err().to_string();
    assert!(
        error.contains(&addr) && error.contains("already"),
        "{error}"
    );
    let error = bind("5044", &User::own()).await.unwrap_err().to_string();
    assert!(error.contains("127.0.0.1:5044"), "{error}");
}
