//! The crate as a library: `lumberjack::Client` and `lumberjack::Server`, and the examples of their docs.
//!
//! Bad servers are scripts of bytes on a real socket; none of them uses our own server.

use std::error::Error;
use std::fs;
use std::io::Read;
use std::io::Write;
use std::net::TcpListener;
use std::net::TcpStream;
use std::thread;
use std::thread::JoinHandle;
use std::time::Duration;

use serde_json::Value;
use serde_json::json;
use spoolbeat::lumberjack::Client;
use spoolbeat::lumberjack::Server;
use spoolbeat::lumberjack::client;
use spoolbeat::lumberjack::client::Advice;
use spoolbeat::lumberjack::client::Builder;
use spoolbeat::lumberjack::client::Json;
use spoolbeat::lumberjack::server::ServerSettings;
use spoolbeat::tls;
use tokio::task;

use crate::harness::Keep;
use crate::harness::Logstash;
use crate::harness::Mode;
use crate::harness::SOON;
use crate::receive::certificates;

type Done = Result<(), Box<dyn Error>>;

const PAUSE: Duration = Duration::from_millis(1);

/// A server that keeps what it gets, and the task that fills its store until it is closed.
async fn store() -> Result<(String, task::JoinHandle<Vec<Value>>), Box<dyn Error>> {
    let mut server = Server::bind("127.0.0.1:0", ServerSettings::default()).await?;
    let host = server.addr().to_string();
    let stored = tokio::spawn(async move {
        let mut stored = Vec::new();
        while let Some(batch) = server.next().await {
            stored.extend(batch.events().map(|event| {
                serde_json::from_slice::<Value>(event).expect("the server checks that it is JSON")
            }));
            batch.ack();
            if stored.last().is_some_and(|event| event["last"] == true) {
                server.close();
            }
        }
        stored
    });
    Ok((host, stored))
}

#[tokio::test]
async fn the_documented_ways_to_send_arrive() -> Done {
    let (host, stored) = store().await?;
    let address = host.as_str();
    {
        let event = json!({"@timestamp": "2026-11-21T08:30:00Z", "message": "hello world"});
        let mut client = Client::to(address).connect().await?;
        client.send(event).await?;
    }
    let mut client = Client::to(address).window(2).connect().await?;
    let readings: Vec<Value> = (0..5).map(|n| json!({"reading": n})).collect();
    let acked = client.send_all(&readings).await?;
    assert_eq!(acked, 5);
    client.send(Json(r#"{"message": "ready made"}"#)).await?;
    let lines = "{\"line\": 1}\n{\"line\": 2}\n";
    client.send_all(lines.lines().map(Json)).await?;
    client.send(json!({"last": true})).await?;
    assert_eq!(client.acked(), 9);
    let got = stored.await?;
    assert_eq!(got.len(), 10);
    assert_eq!(got[0]["message"], "hello world");
    assert_eq!(got[1..6], readings);
    assert_eq!(got[8]["line"], 2);
    Ok(())
}

#[tokio::test]
async fn the_documented_loop_ends_with_every_event_sent_or_left_out() -> Done {
    let logstash = Logstash::new(Keep::Events);
    logstash.answer(Mode::First(1));
    let mut client = to(logstash.port()).connect().await?;
    let mut events = [
        event(1),
        event(2),
        json!("not an object"),
        event(4),
        event(5),
    ]
    .to_vec();
    let mut left_out = Vec::new();
    while !events.is_empty() {
        match client.send_all(events.iter()).await {
            Ok(_) => events.clear(),
            Err(error) => {
                events.drain(..error.acked as usize);
                match error.advice {
                    Advice::Retry => tokio::time::sleep(PAUSE).await,
                    Advice::Reject => left_out.push(events.remove(0)),
                    Advice::Misconfigured => return Err(error.into()),
                }
            }
        }
    }
    assert_eq!(left_out, [json!("not an object")]);
    assert_eq!(logstash.acked_ids(), ["1", "2", "4", "5"]);
    Ok(())
}

#[tokio::test]
async fn the_documented_server_keeps_what_it_acknowledges() -> Done {
    let mut server = Server::bind("127.0.0.1:0", ServerSettings::default()).await?;
    let host = server.addr().to_string();
    let sent = tokio::spawn(async move {
        let mut client = Client::to(&host)
            .retries(1)
            .backoff(PAUSE, PAUSE)
            .connect()
            .await?;
        client.send_all([json!({"n": 1}), json!({"n": 2})]).await
    });
    // Not acknowledged, so it comes again.
    drop(server.next().await.ok_or("no batch")?);
    let mut stored = Vec::new();
    while let Some(batch) = server.next().await {
        for event in batch.events() {
            stored.push(event.to_vec());
        }
        batch.ack();
        server.close();
    }
    assert_eq!(stored, [b"{\"n\":1}", b"{\"n\":2}"]);
    assert_eq!(sent.await??, 2);
    Ok(())
}

#[tokio::test]
async fn the_documented_way_to_encrypt_proves_both_sides() -> Done {
    let folder = tempfile::tempdir()?;
    let dir = folder.path();
    certificates(dir, &["server", "client"]);
    let acceptor = tls::Acceptor::new(tls::ServerSettings {
        identity: tls::Identity {
            certificate: dir.join("server.pem"),
            key: dir.join("server.key"),
        },
        certificate_authorities: vec![dir.join("ca.pem")],
        client_authentication: tls::ClientAuthentication::Required,
        supported_protocols: tls::Versions::Both,
    });
    let absent = tls::Acceptor::new(tls::ServerSettings {
        identity: tls::Identity {
            certificate: dir.join("server.pem"),
            key: dir.join("absent.key"),
        },
        certificate_authorities: Vec::new(),
        client_authentication: tls::ClientAuthentication::None,
        supported_protocols: tls::Versions::Both,
    });
    let settings = ServerSettings {
        tls: Some(absent),
        ..ServerSettings::default()
    };
    let refused = Server::bind("127.0.0.1:0", settings).await;
    let why = refused.err().ok_or("it listens without a key")?.to_string();
    assert!(why.contains("absent.key cannot be read"), "{why}");
    let settings = ServerSettings {
        tls: Some(acceptor),
        ..ServerSettings::default()
    };
    let mut server = Server::bind("127.0.0.1:0", settings).await?;
    let address = &server.addr().to_string();
    let stored = tokio::spawn(async move {
        let batch = server.next().await.expect("a batch");
        let events = batch.events().len();
        batch.ack();
        events
    });
    let tls = tls::Settings {
        certificate_authorities: vec![dir.join("ca.pem")],
        identity: Some(tls::Identity {
            certificate: dir.join("client.pem"),
            key: dir.join("client.key"),
        }),
        ..tls::Settings::default()
    };
    let mut client = Client::to(address).tls(tls).connect().await?;
    client.send(event(1)).await?;
    assert_eq!(stored.await?, 1);
    let missing = tls::Settings {
        certificate_authorities: vec![dir.join("none.pem")],
        ..tls::Settings::default()
    };
    let error = error_of(Client::to(address).tls(missing).connect().await);
    assert_eq!(error.advice, Advice::Misconfigured, "{error}");
    assert!(error.reason.contains("none.pem cannot be read"), "{error}");
    Ok(())
}

/// Every line of code that the docs of `lumberjack` show stands in this file, so it compiles.
#[test]
fn the_examples_of_the_docs_are_code_that_is_tested() {
    let read = |file: &str| {
        fs::read_to_string(format!("{}/{file}", env!("CARGO_MANIFEST_DIR"))).expect("a source")
    };
    let tested: Vec<String> = read("tests/it/library.rs")
        .replace("(address)", "(\"localhost:5044\")")
        .replace("127.0.0.1:0", "127.0.0.1:5044")
        .lines()
        .map(|line| line.trim().to_owned())
        .collect();
    let docs = read("src/lumberjack/mod.rs");
    let mut in_code = false;
    let mut shown = 0;
    for line in docs.lines().filter_map(|line| line.strip_prefix("//!")) {
        if line.trim().starts_with("```") {
            in_code = !in_code;
        } else if in_code {
            shown += 1;
            assert!(tested.iter().any(|code| code == line.trim()), "{line}");
        }
    }
    assert!(shown > 20, "the docs have lost their examples");
}

/// An event that the strict double takes.
fn event(n: u32) -> Value {
    json!({"event": {"id": n.to_string()}, "message": format!("line {n}")})
}

fn to(port: u16) -> Builder {
    Client::to(&format!("127.0.0.1:{port}")).timeout(SOON)
}

fn error_of<T: std::fmt::Debug>(result: Result<T, client::Error>) -> client::Error {
    result.expect_err("it fails")
}

#[tokio::test]
async fn windows_have_their_exact_size_and_arrive_in_order() -> Done {
    for level in [0, 3] {
        let logstash = Logstash::new(Keep::Ids);
        let mut client = to(logstash.port())
            .window(3)
            .compression_level(level)
            .pipelining(4)
            .connect()
            .await?;
        assert_eq!(client.send_all((1..=10).map(event)).await?, 10);
        let sizes: Vec<usize> = logstash
            .windows()
            .iter()
            .map(|window| window.ids.len())
            .collect();
        assert_eq!(sizes, [3, 3, 3, 1]);
        let wanted: Vec<String> = (1..=10).map(|n| n.to_string()).collect();
        assert_eq!(logstash.acked_ids(), wanted);
        assert_eq!(client.send_all(Vec::<Value>::new()).await?, 0);
    }
    Ok(())
}

#[tokio::test]
async fn a_window_holds_at_most_its_bytes_and_a_larger_event_goes_alone() -> Done {
    let logstash = Logstash::new(Keep::Ids);
    let mut client = to(logstash.port()).compression_level(0).connect().await?;
    let big = |n: u32, bytes: usize| json!({"event": {"id": n.to_string()}, "message": "x".repeat(bytes)});
    let events = [
        big(1, 5 << 20),
        big(2, 5 << 20),
        big(3, 9 << 20),
        event(4),
        event(5),
    ];
    assert_eq!(client.send_all(&events).await?, 5);
    let windows: Vec<Vec<String>> = logstash
        .windows()
        .into_iter()
        .map(|window| window.ids)
        .collect();
    assert_eq!(windows, [vec!["1"], vec!["2"], vec!["3"], vec!["4", "5"]]);
    Ok(())
}

#[tokio::test]
async fn what_no_server_would_take_is_refused_before_it_is_sent() -> Done {
    let logstash = Logstash::new(Keep::Ids);
    let mut client = to(logstash.port()).connect().await?;
    let deep = format!("{}1{}", "{\"a\":".repeat(101), "}".repeat(101));
    let long = format!("{{\"a\":\"{}\"}}", "x".repeat(20_000_000));
    for (bytes, word) in [
        (b"[1]".as_slice(), "expected an object"),
        (b"17", "expected an object"),
        (b"", "EOF"),
        (b"{\"a\":NaN}", "expected value"),
        (b"{\"a\":1} x", "trailing"),
        (b"{\"a\":\"\xff\"}", "not UTF-8 from byte 6"),
        (deep.as_bytes(), "nested deeper than 100"),
        (long.as_bytes(), "20000008 bytes; the most is 20000000"),
    ] {
        let error = error_of(client.send(Json(bytes)).await);
        assert_eq!((error.advice, error.acked), (Advice::Reject, 0));
        assert!(error.reason.contains(word), "{error}");
    }
    let error = error_of(client.send(json!("text")).await);
    assert_eq!(error.advice, Advice::Reject, "{error}");
    let error = error_of(
        client
            .send(std::collections::BTreeMap::from([("a", f64::NAN)]))
            .await,
    );
    assert!(
        error
            .reason
            .contains("NaN is a number that JSON has no form for"),
        "{error}"
    );
    assert_eq!(logstash.count(), 0);
    client.send(event(1)).await?;
    assert_eq!(
        logstash.windows()[0].connection,
        1,
        "the connection stood all the time"
    );
    Ok(())
}

#[tokio::test]
async fn events_before_a_refused_one_are_delivered_and_none_behind_it() -> Done {
    let logstash = Logstash::new(Keep::Ids);
    let mut client = to(logstash.port()).window(2).connect().await?;
    let events = [event(1), event(2), event(3), json!([]), event(5)];
    let error = error_of(client.send_all(&events).await);
    assert_eq!((error.advice, error.acked), (Advice::Reject, 3));
    assert!(error.reason.contains("event 4 is refused"), "{error}");
    assert_eq!(logstash.acked_ids(), ["1", "2", "3"]);
    Ok(())
}

#[tokio::test]
async fn a_failed_call_says_how_far_it_came_and_tries_again_only_when_asked() -> Done {
    let logstash = Logstash::new(Keep::Ids);
    logstash.answer(Mode::First(2));
    let events: Vec<Value> = (1..=5).map(event).collect();
    let mut client = to(logstash.port()).connect().await?;
    let error = error_of(client.send_all(&events).await);
    assert_eq!((error.advice, error.acked), (Advice::Retry, 2), "{error}");
    assert_eq!(logstash.windows().len(), 1, "no try that nobody asked for");
    assert_eq!(client.host(), None);

    let mut client = to(logstash.port())
        .retries(1)
        .backoff(PAUSE, PAUSE)
        .connect()
        .await?;
    assert_eq!(client.send_all(&events).await?, 5);
    let windows = logstash.windows();
    let again: Vec<&[String]> = windows[1..]
        .iter()
        .map(|window| window.ids.as_slice())
        .collect();
    assert_eq!(
        again,
        [&["1", "2", "3", "4", "5"][..], &["3", "4", "5"], &["5"]]
    );
    Ok(())
}

#[tokio::test]
async fn a_host_that_is_gone_is_replaced_by_the_next() -> Done {
    let mut first = Logstash::new(Keep::Ids);
    let second = Logstash::new(Keep::Ids);
    let mut client = to(first.port())
        .or(&format!("127.0.0.1:{}", second.port()))
        .connect()
        .await?;
    client.send(event(1)).await?;
    first.close();
    // The connection was idle, so its end is no failure; a reset in the middle of the call may be one,
    // which says that the call is worth another try.
    while let Err(error) = client.send(event(2)).await {
        assert_eq!(error.advice, Advice::Retry, "{error}");
    }
    assert_eq!(
        (first.acked_ids(), second.acked_ids()),
        (vec!["1".to_owned()], vec!["2".to_owned()])
    );
    Ok(())
}

#[tokio::test]
async fn settings_that_cannot_work_are_named_at_once() {
    for (builder, word) in [
        (
            Client::to("http://logstash:5044"),
            "it is a URL; write one like logstash-1:5044",
        ),
        (
            Client::to("h").window(0),
            "window is 0; it goes from 1 to 10000",
        ),
        (Client::to("h").window(10_001), "window is 10001"),
        (
            Client::to("h").compression_level(10),
            "compression_level is 10",
        ),
        (Client::to("h").pipelining(0), "pipelining is 0"),
    ] {
        let error = error_of(builder.connect().await);
        assert_eq!(error.advice, Advice::Misconfigured);
        assert!(error.reason.contains(word), "{error}");
    }
    let error = error_of(Client::to("127.0.0.1:1").or("127.0.0.1:2").connect().await);
    assert_eq!(error.advice, Advice::Retry);
    assert!(
        error.reason.contains("127.0.0.1:1: ") && error.reason.contains("127.0.0.1:2: "),
        "{error}"
    );
}

#[tokio::test]
async fn a_call_that_is_dropped_half_way_does_not_spoil_the_next() -> Done {
    let logstash = Logstash::new(Keep::Ids);
    logstash.answer(Mode::Never);
    let mut client = to(logstash.port()).connect().await?;
    tokio::select! {
        done = client.send(event(1)) => return Err(format!("{done:?} without an ACK").into()),
        () = arrived(&logstash, 1) => {}
    }
    assert_eq!(client.acked(), 0);
    logstash.answer(Mode::All);
    client.send(event(2)).await?;
    assert_eq!(logstash.windows()[1].connection, 2);
    Ok(())
}

async fn arrived(logstash: &Logstash, events: usize) {
    let all = async {
        while logstash.count() < events {
            tokio::time::sleep(PAUSE).await;
        }
    };
    tokio::time::timeout(SOON, all)
        .await
        .expect("the events arrive in time");
}

/// A server that takes one connection and does as the script says.
fn scripted(script: impl FnOnce(TcpStream) + Send + 'static) -> (u16, JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let port = listener.local_addr().expect("an address").port();
    let played = thread::spawn(move || {
        let (socket, _) = listener.accept().expect("a connection");
        script(socket);
    });
    (port, played)
}

#[tokio::test]
async fn a_server_that_closes_in_the_handshake_is_worth_another_try() -> Done {
    let (port, played) = scripted(|mut socket| {
        let mut hello = [0; 16];
        socket.read_exact(&mut hello).expect("a handshake begins");
    });
    let unchecked = tls::Settings {
        verification_mode: tls::VerificationMode::None,
        ..tls::Settings::default()
    };
    let error = error_of(to(port).tls(unchecked).connect().await);
    assert_eq!(error.advice, Advice::Retry, "{error}");
    played.join().expect("the server has played its part");
    Ok(())
}

/// What a bad server does with one window of ten events, and what the caller is told.
type Bad = (&'static str, &'static [u8], End, Advice, u64, &'static str);

#[derive(Debug, Clone, Copy)]
enum End {
    Fin,
    Silence,
}

const BAD: &[Bad] = &[
    ("closes at once", b"", End::Fin, Advice::Retry, 0, "closed"),
    (
        "part, then closes",
        b"2A\0\0\0\x04",
        End::Fin,
        Advice::Retry,
        4,
        "closed",
    ),
    (
        "keep-alives, then closes",
        b"2A\0\0\0\0",
        End::Fin,
        Advice::Retry,
        0,
        "closed",
    ),
    (
        "half an ACK, then closes",
        b"2A\0\0",
        End::Fin,
        Advice::Retry,
        0,
        "closed",
    ),
    (
        "never answers",
        b"",
        End::Silence,
        Advice::Retry,
        0,
        "sent nothing for 200ms",
    ),
    (
        "part, then silence",
        b"2A\0\0\0\x07",
        End::Silence,
        Advice::Retry,
        7,
        "sent nothing for 200ms",
    ),
    (
        "beyond the window",
        b"2A\0\0\0\x0f",
        End::Silence,
        Advice::Retry,
        0,
        "event 15 of a window of 10",
    ),
    (
        "part, then beyond",
        b"2A\0\0\0\x032A\0\0\0\x0f",
        End::Silence,
        Advice::Retry,
        3,
        "event 15",
    ),
    (
        "no ACK but a window",
        b"2W\0\0\0\x01",
        End::Silence,
        Advice::Retry,
        0,
        "frame of type `W`",
    ),
    (
        "speaks TLS",
        b"\x15\x03\x03\0\x02\x02\x28",
        End::Silence,
        Advice::Misconfigured,
        0,
        "in TLS",
    ),
    (
        "speaks HTTP",
        b"HTTP/1.1 400 Bad Request\r\n",
        End::Silence,
        Advice::Misconfigured,
        0,
        "in HTTP",
    ),
];

#[tokio::test]
async fn every_bad_server_ends_the_call_with_the_right_advice() -> Done {
    for &(what, answer, end, advice, acked, word) in BAD {
        let (port, played) = scripted(move |mut socket| {
            let mut window = [0; 6];
            socket.read_exact(&mut window).expect("a window");
            assert_eq!(&window, b"2W\0\0\0\x0a", "{what}");
            let (mut come, mut chunk) = (Vec::new(), [0; 1024]);
            while !come.ends_with(b"\"message\":\"line 10\"}") {
                let read = socket.read(&mut chunk).expect("the events");
                assert!(read > 0, "{what}: all events come");
                come.extend_from_slice(&chunk[..read]);
            }
            socket.write_all(answer).expect("an answer");
            match end {
                End::Fin => {}
                End::Silence => drop(socket.read(&mut chunk)),
            }
        });
        let mut client = to(port)
            .timeout(Duration::from_millis(200))
            .compression_level(0)
            .connect()
            .await?;
        let error = error_of(client.send_all((1..=10).map(event)).await);
        assert_eq!(
            (error.advice, error.acked),
            (advice, acked),
            "{what}: {error}"
        );
        assert!(error.reason.contains(word), "{what}: {error}");
        drop(client);
        task::spawn_blocking(move || played.join())
            .await?
            .map_err(|_| what)?;
    }
    Ok(())
}

#[tokio::test]
async fn a_flood_of_keep_alives_does_not_hold_a_call_beyond_its_stall_timeout() -> Done {
    let (port, played) = scripted(|mut socket| {
        let flood = b"2A\0\0\0\0".repeat(1000);
        while socket.write_all(&flood).is_ok() {}
    });
    let mut client = to(port)
        .ack_stall_timeout(Duration::from_millis(200))
        .connect()
        .await?;
    let call = tokio::time::timeout(SOON, client.send(event(1)));
    let error = error_of(call.await?);
    assert!(error.reason.contains("ack_stall_timeout"), "{error}");
    drop(client);
    task::spawn_blocking(move || played.join())
        .await?
        .map_err(|_| "the flood")?;
    Ok(())
}
