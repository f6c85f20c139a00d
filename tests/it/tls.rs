//! TLS from both sides: every way in which it can be wrong is refused, and the message says which.
//!
//! The matrix goes through the library's own client and server on real sockets; below it the real
//! binary does what a user sees.

#![expect(clippy::unwrap_used, reason = "tests")]

use std::fs;
use std::io;
use std::io::Read;
use std::io::Write;
use std::net::SocketAddr;
use std::net::TcpListener;
use std::net::TcpStream;
use std::path::Path;
use std::path::PathBuf;
use std::process::Child;
use std::process::Command;
use std::process::Stdio;
use std::thread;
use std::time::Duration;

use rcgen::BasicConstraints;
use rcgen::ExtendedKeyUsagePurpose;
use rcgen::IsCa;
use serde_json::Value;
use spoolbeat::clock::Tick;
use spoolbeat::lumberjack::connection::Broken;
use spoolbeat::lumberjack::connection::Cause;
use spoolbeat::lumberjack::connection::Connection;
use spoolbeat::lumberjack::connection::Dial;
use spoolbeat::lumberjack::connection::Step;
use spoolbeat::lumberjack::connection::Turn;
use spoolbeat::lumberjack::server::Delivery;
use spoolbeat::lumberjack::server::ServerSettings;
use spoolbeat::lumberjack::server::bind;
use spoolbeat::lumberjack::server::serve;
use spoolbeat::process::User;
use spoolbeat::protocol::client;
use spoolbeat::tls;
use spoolbeat::tls::Acceptor;
use spoolbeat::tls::ClientAuthentication;
use spoolbeat::tls::Connector;
use spoolbeat::tls::Identity;
use spoolbeat::tls::Secured;
use spoolbeat::tls::VerificationMode;
use spoolbeat::tls::Versions;
use tokio::io::AsyncReadExt;
use tokio::sync::mpsc;
use tokio::sync::watch;

use crate::harness::Keep;
use crate::harness::Logstash;
use crate::harness::SOON;
use crate::harness::Spool;
use crate::harness::authority::Authority;
use crate::harness::authority::Wanted;
use crate::harness::authority::replace;
use crate::harness::authority::self_signed;
use crate::harness::said;
use crate::harness::wait_until;

const ONCE: &str = "[script]\nrun = \"job.sh\"\n[schedule]\nonce = true\n";

/// One window of one event.
const WINDOW: &[u8] = b"2W\0\0\0\x012J\0\0\0\x01\0\0\0\x02{}";

/// For rows in which nothing comes: as short as a busy machine allows for what does come before.
const STALL: Duration = Duration::from_millis(500);

fn server_settings(identity: Identity) -> tls::ServerSettings {
    tls::ServerSettings {
        identity,
        certificate_authorities: Vec::new(),
        client_authentication: ClientAuthentication::None,
        supported_protocols: Versions::Both,
    }
}

/// Our server with an acknowledgement for each window; it ends with the value.
struct Ours {
    port: u16,
    _stop: watch::Sender<bool>,
}

impl Ours {
    async fn start(tls: Option<tls::ServerSettings>) -> Self {
        let listener = bind("127.0.0.1:0", &User::own()).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (deliver, mut deliveries) = mpsc::channel::<Delivery>(1);
        let (stop, stopping) = watch::channel(false);
        let settings = ServerSettings {
            tls: tls.map(Acceptor::new),
            ..ServerSettings::default()
        };
        tokio::spawn(serve(listener, settings, deliver, stopping));
        tokio::spawn(async move {
            while let Some(delivery) = deliveries.recv().await {
                delivery.done.send(()).unwrap();
            }
        });
        Self { port, _stop: stop }
    }
}

/// A server that does with its first connection what a test says.
fn scripted(act: impl FnOnce(TcpStream) + Send + 'static) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    thread::spawn(move || act(listener.accept().unwrap().0));
    port
}

/// Reads a record of TLS, answers with `bytes` and closes.
fn answers(bytes: &'static [u8]) -> u16 {
    scripted(move |mut socket| {
        let mut head = [0; 5];
        socket.read_exact(&mut head).unwrap();
        let length = u64::from(u16::from_be_bytes([head[3], head[4]]));
        io::copy(&mut (&socket).take(length), &mut io::sink()).unwrap();
        socket.write_all(bytes).unwrap();
    })
}

/// Connects, sends a window and waits for its acknowledgement.
async fn exchange(host: &str, dial: &Dial) -> Result<Option<Secured>, Broken> {
    let mut agreed = None;
    let mut connection = Connection::open_by_steps(host, dial, &mut |step| {
        if let Step::Secured { secured, .. } = step {
            agreed = Some(secured);
        }
    })
    .await?;
    let settings = client::Settings {
        version: spoolbeat::protocol::frame::Version::V2,
        pipelining: 1,
        timeout: SOON,
        ack_stall_timeout: SOON,
    };
    let mut session = client::Session::new(settings, Tick::default());
    session.sent(1, Tick::default());
    connection.send(WINDOW.to_vec());
    loop {
        if let Turn::Received(bytes) = connection.turn().await? {
            let heard = session.received(&bytes, Tick::default());
            match heard {
                Ok(progress) if progress.events == 1 => return Ok(agreed),
                Ok(_) => {}
                Err(fault) => {
                    return Err(Broken {
                        reason: fault.to_string(),
                        guess: "",
                        // The session has no word for it; what matters here is the reason.
                        cause: Unreachable,
                    });
                }
            }
        }
    }
}

/// What a row of the matrix expects.
enum Outcome {
    /// An acknowledgement.
    Works,
    /// An end for this cause, with these words in its reason.
    Refused(Cause, &'static [&'static str]),
}

use Cause::ByPeer;
use Cause::Misconfigured;
use Cause::Unreachable;
use Outcome::Refused;
use Outcome::Works;

/// The rows, as they are tried: each is printed, and all that are wrong fail together.
#[derive(Default)]
struct Matrix {
    lines: Vec<String>,
    wrong: usize,
}

impl Matrix {
    async fn row(&mut self, what: &str, host: &str, dial: &Dial, expected: Outcome) {
        let found = exchange(host, dial).await;
        let good = match (&found, &expected) {
            (Ok(_), Works) => true,
            (Err(broken), Refused(cause, words)) => {
                broken.cause == *cause && words.iter().all(|word| broken.to_string().contains(word))
            }
            _ => false,
        };
        let shown = match found {
            Ok(Some(secured)) => format!("works, {} {}", secured.version, secured.cipher),
            Ok(None) => "works, plain".to_owned(),
            Err(broken) => format!("{:?}: {broken}", broken.cause),
        };
        self.line(what, &shown, good);
    }

    fn line(&mut self, what: &str, shown: &str, good: bool) {
        self.wrong += usize::from(!good);
        let mark = if good { "ok   " } else { "WRONG" };
        self.lines.push(format!("{mark} {what:<44} {shown}"));
    }

    fn end(self) {
        let table = self.lines.join("\n");
        show(&table);
        assert_eq!(self.wrong, 0, "\n{table}\n");
    }
}

/// Prints to the test's own output, which is shown with `--nocapture`.
#[expect(clippy::print_stdout, reason = "the matrix is there to be read")]
fn show(text: &str) {
    println!("{text}");
}

fn dial(tls: tls::Settings) -> Dial {
    Dial {
        timeout: SOON,
        tls: Some(Connector::new(tls)),
    }
}

fn trusting(files: &[PathBuf]) -> tls::Settings {
    tls::Settings {
        certificate_authorities: files.to_vec(),
        ..tls::Settings::default()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_is_proved_or_refused_and_the_message_says_why() {
    let folder = tempfile::tempdir().unwrap();
    let ours = Authority::new(folder.path(), "ours");
    let stranger = Authority::new(folder.path(), "stranger");
    let between = ours.below("between");
    let normal = trusting(&[ours.file()]);
    let mode = |verification_mode| tls::Settings {
        verification_mode,
        ..normal.clone()
    };
    let mut matrix = Matrix::default();

    let server = |name: &str, wanted: &Wanted<'_>| ours.signs(name, wanted);
    let good = server("good", &Wanted::default());
    for (versions, what) in [
        (Versions::Both, "good"),
        (Versions::Tls12, "good, TLS 1.2 only"),
        (Versions::Tls13, "good, TLS 1.3 only"),
    ] {
        let peer = Ours::start(Some(tls::ServerSettings {
            supported_protocols: versions,
            ..server_settings(good.clone())
        }))
        .await;
        let host = format!("localhost:{}", peer.port);
        matrix.row(what, &host, &dial(normal.clone()), Works).await;
        let host = format!("127.0.0.1:{}", peer.port);
        let what = format!("{what}, by address");
        matrix.row(&what, &host, &dial(normal.clone()), Works).await;
    }

    let bad_servers: [(&str, Wanted<'_>, &'static [&'static str]); 6] = [
        (
            "expired",
            Wanted {
                years: (2019, 2021),
                ..Wanted::default()
            },
            &["`CN=expired`", "expired on 2021-01-01", "renew"],
        ),
        (
            "not yet valid",
            Wanted {
                years: (2080, 2090),
                ..Wanted::default()
            },
            &["not valid before 2080-01-01", "clocks"],
        ),
        (
            "wrong name",
            Wanted {
                names: &["one.example", "two.example"],
                ..Wanted::default()
            },
            &["is for `one.example`, `two.example`, not for the name `localhost`"],
        ),
        (
            "wrong address",
            Wanted {
                names: &["10.9.8.7", "localhost"],
                ..Wanted::default()
            },
            &["is for `10.9.8.7`, `localhost`, not for the address `127.0.0.1`"],
        ),
        (
            "no names but a CN",
            Wanted {
                names: &[],
                ..Wanted::default()
            },
            &["is for no host at all", "CN does not count"],
        ),
        (
            "for clients only",
            Wanted {
                purpose: ExtendedKeyUsagePurpose::ClientAuth,
                ..Wanted::default()
            },
            &["not for servers"],
        ),
    ];
    for (what, wanted, words) in bad_servers {
        let peer = Ours::start(Some(server_settings(server(what, &wanted)))).await;
        let name = if what == "wrong address" {
            "127.0.0.1"
        } else {
            "localhost"
        };
        let host = format!("{name}:{}", peer.port);
        let refused = Refused(Misconfigured, words);
        matrix
            .row(what, &host, &dial(normal.clone()), refused)
            .await;
        let expected = match what {
            "wrong name" | "no names but a CN" | "wrong address" => Works,
            _ => Refused(Misconfigured, words),
        };
        let lax = dial(mode(VerificationMode::Certificate));
        matrix
            .row(&format!("{what}, mode certificate"), &host, &lax, expected)
            .await;
        let blind = dial(mode(VerificationMode::None));
        matrix
            .row(&format!("{what}, mode none"), &host, &blind, Works)
            .await;
    }

    let peer = Ours::start(Some(server_settings(
        stranger.signs("alien", &Wanted::default()),
    )))
    .await;
    let host = format!("localhost:{}", peer.port);
    let words: &[&str] = &[
        "`CN=alien` is signed by `CN=stranger`",
        "not trusted",
        "ours.pem",
    ];
    matrix
        .row(
            "unknown authority",
            &host,
            &dial(normal.clone()),
            Refused(Misconfigured, words),
        )
        .await;
    let lax = dial(mode(VerificationMode::Certificate));
    matrix
        .row(
            "unknown authority, mode certificate",
            &host,
            &lax,
            Refused(Misconfigured, words),
        )
        .await;
    matrix
        .row(
            "unknown authority, mode none",
            &host,
            &dial(mode(VerificationMode::None)),
            Works,
        )
        .await;
    let system = dial(tls::Settings::default());
    let words: &[&str] = &["not trusted", "the authorities of this machine"];
    if tls::Settings::default().check().is_ok() {
        matrix
            .row(
                "unknown to this machine",
                &host,
                &system,
                Refused(Misconfigured, words),
            )
            .await;
    }

    for (what, is_ca) in [
        ("self-signed", IsCa::NoCa),
        (
            "self-signed as openssl req -x509 does it",
            IsCa::Ca(BasicConstraints::Unconstrained),
        ),
    ] {
        let own = self_signed(folder.path(), "own", &Wanted::default(), is_ca);
        let peer = Ours::start(Some(server_settings(own.clone()))).await;
        let host = format!("localhost:{}", peer.port);
        let words: &[&str] = &["`CN=own`", "certificate_authorities", "SHA-256"];
        matrix
            .row(
                what,
                &host,
                &dial(normal.clone()),
                Refused(Misconfigured, words),
            )
            .await;
        let trusted = dial(trusting(std::slice::from_ref(&own.certificate)));
        matrix
            .row(&format!("{what}, trusted"), &host, &trusted, Works)
            .await;
        let elsewhere = Dial {
            tls: Some(Connector::new(tls::Settings {
                server_name: Some("other.example".to_owned()),
                ..trusting(std::slice::from_ref(&own.certificate))
            })),
            ..trusted
        };
        let words: &[&str] = &["not for the name `other.example`"];
        matrix
            .row(
                &format!("{what}, trusted, wrong name"),
                &host,
                &elsewhere,
                Refused(Misconfigured, words),
            )
            .await;
    }
    let old = Wanted {
        years: (2019, 2021),
        ..Wanted::default()
    };
    let own = self_signed(folder.path(), "old", &old, IsCa::NoCa);
    let peer = Ours::start(Some(server_settings(own.clone()))).await;
    let host = format!("localhost:{}", peer.port);
    let trusted = dial(trusting(&[own.certificate]));
    matrix
        .row(
            "self-signed, trusted, expired",
            &host,
            &trusted,
            Refused(Misconfigured, &["expired on 2021-01-01"]),
        )
        .await;

    let peer = Ours::start(Some(server_settings(
        between.signs("deep", &Wanted::default()),
    )))
    .await;
    let host = format!("localhost:{}", peer.port);
    let words: &[&str] = &["signed by `CN=between`", "intermediate"];
    matrix
        .row(
            "intermediate not sent",
            &host,
            &dial(normal.clone()),
            Refused(Misconfigured, words),
        )
        .await;
    let chain = between.signs_and_shows_itself("chain", &Wanted::default());
    let peer = Ours::start(Some(server_settings(chain))).await;
    let host = format!("localhost:{}", peer.port);
    matrix
        .row("intermediate sent", &host, &dial(normal.clone()), Works)
        .await;

    let named = Wanted {
        names: &["logs.example"],
        ..Wanted::default()
    };
    let peer = Ours::start(Some(server_settings(server("named", &named)))).await;
    let by_name = tls::Settings {
        server_name: Some("logs.example".to_owned()),
        ..normal.clone()
    };
    let host = format!("127.0.0.1:{}", peer.port);
    matrix
        .row("server_name", &host, &dial(by_name), Works)
        .await;

    let shown = ours.signs_and_shows_itself("shown", &Wanted::default());
    let peer = Ours::start(Some(server_settings(shown))).await;
    let host = format!("localhost:{}", peer.port);
    let secured = exchange(&host, &dial(normal.clone()))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(secured.chain[0].subject, "CN=shown");
    assert_eq!(secured.chain[0].names, ["localhost", "127.0.0.1"]);
    assert_eq!(
        secured.chain[0].not_after.to_string(),
        "2090-01-01T00:00:00.000Z"
    );
    let pin = secured.chain[1].fingerprint;
    let pinned = |pin| {
        dial(tls::Settings {
            ca_trusted_fingerprint: vec![pin],
            ..tls::Settings::default()
        })
    };
    matrix
        .row("pinned authority", &host, &pinned(pin), Works)
        .await;
    let words: &[&str] = &["not trusted", "ca_trusted_fingerprint 0000"];
    matrix
        .row(
            "another authority pinned",
            &host,
            &pinned("00".repeat(32).parse().unwrap()),
            Refused(Misconfigured, words),
        )
        .await;
    matrix
        .row(
            "server's own certificate pinned",
            &host,
            &pinned(secured.chain[0].fingerprint),
            Works,
        )
        .await;
    matrix.end();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_is_proved_or_refused_and_the_message_says_why() {
    let folder = tempfile::tempdir().unwrap();
    let ours = Authority::new(folder.path(), "ours");
    let stranger = Authority::new(folder.path(), "stranger");
    let good = ours.signs("server", &Wanted::default());
    let expired = Wanted {
        years: (2019, 2021),
        ..Wanted::client()
    };
    let clients = [
        ("none", None),
        ("good", Some(ours.signs("client", &Wanted::client()))),
        (
            "unknown authority",
            Some(stranger.signs("alien", &Wanted::client())),
        ),
        ("expired", Some(ours.signs("expired", &expired))),
        ("for servers only", Some(good.clone())),
    ];
    let mut matrix = Matrix::default();
    for (versions, what) in [(Versions::Tls12, "1.2"), (Versions::Tls13, "1.3")] {
        for authentication in [
            ClientAuthentication::Required,
            ClientAuthentication::Optional,
        ] {
            let peer = Ours::start(Some(tls::ServerSettings {
                certificate_authorities: vec![ours.file()],
                client_authentication: authentication,
                supported_protocols: versions,
                ..server_settings(good.clone())
            }))
            .await;
            for (client, identity) in &clients {
                let settings = tls::Settings {
                    identity: identity.clone(),
                    ..trusting(&[ours.file()])
                };
                let expected = match (*client, authentication) {
                    ("good", _) | ("none", ClientAuthentication::Optional) => Works,
                    ("none", _) => Refused(
                        Misconfigured,
                        &[
                            "demands a client certificate",
                            "certificate and key under ssl",
                        ],
                    ),
                    ("unknown authority", _) => Refused(
                        Misconfigured,
                        &[
                            "refuses the client certificate",
                            "alien.pem",
                            "does not trust the authority",
                        ],
                    ),
                    ("expired", _) => Refused(
                        Misconfigured,
                        &["refuses the client certificate", "expired; renew"],
                    ),
                    _ => Refused(
                        Misconfigured,
                        &[
                            "refuses the client certificate",
                            "for client authentication",
                        ],
                    ),
                };
                let what = format!("TLS {what}, client {authentication:?}: {client}");
                let host = format!("localhost:{}", peer.port);
                matrix.row(&what, &host, &dial(settings), expected).await;
            }
        }
    }
    matrix.end();
}

/// A server of `openssl` that speaks TLS 1.1 only, and its port; `None` where there is no such program.
fn openssl_1_1(identity: &Identity) -> Option<(Child, u16)> {
    let port = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    let server = Command::new("openssl")
        .args([
            "s_server",
            "-tls1_1",
            "-cipher",
            "DEFAULT@SECLEVEL=0",
            "-quiet",
        ])
        .args(["-accept", &format!("127.0.0.1:{port}")])
        .arg("-cert")
        .arg(&identity.certificate)
        .arg("-key")
        .arg(&identity.key)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .ok()?;
    wait_until(SOON, "openssl listens", || {
        TcpStream::connect(("127.0.0.1", port)).is_ok()
    });
    Some((server, port))
}

#[tokio::test(flavor = "multi_thread")]
async fn what_does_not_speak_our_tls_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let ours = Authority::new(folder.path(), "ours");
    let good = ours.signs("server", &Wanted::default());
    let tls = trusting(&[ours.file()]);
    let encrypted = dial(tls.clone());
    let plain = Dial {
        timeout: SOON,
        tls: None,
    };
    let at = |port: u16| format!("localhost:{port}");
    let mut matrix = Matrix::default();

    let old: &[&str] = &[
        "speaks no version of TLS that is taken here",
        "TLS 1.2 and 1.3",
    ];
    // Alert: fatal, protocol_version, in a record of TLS 1.1.
    let port = answers(&[0x15, 3, 2, 0, 2, 2, 70]);
    matrix
        .row(
            "TLS 1.1 only, by its alert",
            &at(port),
            &encrypted,
            Refused(Misconfigured, old),
        )
        .await;
    match openssl_1_1(&good) {
        Some((mut server, port)) => {
            matrix
                .row(
                    "TLS 1.1 only, openssl s_server",
                    &at(port),
                    &encrypted,
                    Refused(Misconfigured, old),
                )
                .await;
            server.kill().unwrap();
            server.wait().unwrap();
        }
        None => show("SKIP openssl s_server: no openssl here"),
    }
    let newer = tls::ServerSettings {
        supported_protocols: Versions::Tls13,
        ..server_settings(good.clone())
    };
    let peer = Ours::start(Some(newer)).await;
    let older = dial(tls::Settings {
        supported_protocols: Versions::Tls12,
        ..tls.clone()
    });
    let words: &[&str] = &["speaks no version of TLS", "TLS 1.2 only"];
    matrix
        .row(
            "TLS 1.3 server, TLS 1.2 client",
            &at(peer.port),
            &older,
            Refused(Misconfigured, words),
        )
        .await;

    let peer = Ours::start(None).await;
    let words: &[&str] = &["does not speak TLS on this port", "enabled = false"];
    matrix
        .row(
            "plain Beats server",
            &at(peer.port),
            &encrypted,
            Refused(Unreachable, words),
        )
        .await;
    let port = answers(b"HTTP/1.1 400 Bad Request\r\n\r\n");
    matrix
        .row(
            "HTTP server",
            &at(port),
            &encrypted,
            Refused(Misconfigured, &["answers in HTTP"]),
        )
        .await;
    let port = answers(b"\x00\xffsome other protocol");
    matrix
        .row(
            "garbage",
            &at(port),
            &encrypted,
            Refused(Misconfigured, &["does not speak TLS", r"\x00\xffsom"]),
        )
        .await;
    let port = answers(b"");
    matrix
        .row(
            "closes at once",
            &at(port),
            &encrypted,
            Refused(
                Unreachable,
                &["closed the connection when the TLS handshake began"],
            ),
        )
        .await;
    let port = answers(&[0x16, 3, 3, 0, 90, 2]);
    matrix
        .row(
            "closes in the handshake",
            &at(port),
            &encrypted,
            Refused(Unreachable, &["in the middle of the TLS handshake"]),
        )
        .await;
    let impatient = Dial {
        timeout: STALL,
        ..encrypted.clone()
    };
    let port = scripted(|socket| drop(io::copy(&mut &socket, &mut io::sink())));
    matrix
        .row(
            "stalls",
            &at(port),
            &impatient,
            Refused(
                Unreachable,
                &["did not finish the handshake within", "enabled = false"],
            ),
        )
        .await;

    let peer = Ours::start(Some(server_settings(good.clone()))).await;
    matrix
        .row(
            "plain client, TLS server",
            &at(peer.port),
            &plain,
            Refused(Unreachable, &["answers in TLS"]),
        )
        .await;
    let port = scripted(drop);
    matrix
        .row(
            "plain client, closed before an answer",
            &at(port),
            &plain,
            Refused(
                ByPeer,
                &["before it answered anything", "does it expect TLS"],
            ),
        )
        .await;
    matrix.end();
}

/// Serves one connection at the lowest level and says why it failed.
async fn accept_one(
    settings: tls::ServerSettings,
    client: impl FnOnce(TcpStream) + Send + 'static,
) -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let client = thread::spawn(move || client(TcpStream::connect(address).unwrap()));
    let (stream, _) = listener.accept().await.unwrap();
    let fault = Acceptor::new(settings).accept(stream).await.unwrap_err();
    client.join().unwrap();
    fault.reason
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_says_what_its_clients_do_wrong() {
    let folder = tempfile::tempdir().unwrap();
    let ours = Authority::new(folder.path(), "ours");
    let settings = server_settings(ours.signs("server", &Wanted::default()));
    let mut matrix = Matrix::default();
    let says: [(&str, &'static [u8], &str); 5] = [
        (
            "plain Beats client",
            WINDOW,
            "speaks Lumberjack without TLS",
        ),
        (
            "HTTP client",
            b"GET / HTTP/1.1\r\n\r\n",
            "speaks HTTP without TLS",
        ),
        ("garbage", b"\x00\x01\x02\x03\x04\x05", "does not speak TLS"),
        (
            "a port scanner",
            b"",
            "closed the connection before it said anything",
        ),
        (
            "half a handshake",
            &[0x16, 3, 1, 0, 90, 1],
            "in the middle of the TLS handshake",
        ),
    ];
    for (what, bytes, words) in says {
        let reason = accept_one(settings.clone(), move |mut socket| {
            socket.write_all(bytes).unwrap();
            socket.shutdown(std::net::Shutdown::Write).unwrap();
            drop(io::copy(&mut socket, &mut io::sink()));
        })
        .await;
        matrix.line(what, &reason, reason.contains(words));
    }
    matrix.end();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stalled_handshake_holds_up_nobody_and_is_ended() {
    let folder = tempfile::tempdir().unwrap();
    let ours = Authority::new(folder.path(), "ours");
    let listener = bind("127.0.0.1:0", &User::own()).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let (deliver, mut deliveries) = mpsc::channel::<Delivery>(1);
    let (_stop, stopping) = watch::channel(false);
    let settings = ServerSettings {
        tls: Some(Acceptor::new(server_settings(
            ours.signs("server", &Wanted::default()),
        ))),
        handshake_timeout: STALL,
        ..ServerSettings::default()
    };
    tokio::spawn(serve(listener, settings, deliver, stopping));
    let mut stalled = tokio::net::TcpStream::connect(("127.0.0.1", port))
        .await
        .unwrap();
    tokio::spawn(async move { deliveries.recv().await.unwrap().done.send(()).unwrap() });
    exchange(
        &format!("localhost:{port}"),
        &dial(trusting(&[ours.file()])),
    )
    .await
    .unwrap();
    assert_eq!(stalled.read(&mut [0]).await.unwrap(), 0, "it is closed");
}

#[tokio::test(flavor = "multi_thread")]
async fn renewed_files_are_used_and_broken_ones_are_not() {
    let folder = tempfile::tempdir().unwrap();
    let first = Authority::new(folder.path(), "authority");
    let identity = first.signs("server", &Wanted::default());
    let client = first.signs("client", &Wanted::client());
    let peer = Ours::start(Some(tls::ServerSettings {
        certificate_authorities: vec![first.file()],
        client_authentication: ClientAuthentication::Required,
        ..server_settings(identity.clone())
    }))
    .await;
    let dial = dial(tls::Settings {
        identity: Some(client.clone()),
        ..trusting(&[first.file()])
    });
    let host = format!("localhost:{}", peer.port);
    let leaf = |secured: Option<Secured>| secured.unwrap().chain[0].fingerprint;
    let before = leaf(exchange(&host, &dial).await.unwrap());
    assert_eq!(leaf(exchange(&host, &dial).await.unwrap()), before);

    // All of them by another authority of the same name.
    let second = Authority::new(folder.path(), "authority");
    second.signs("server", &Wanted::default());
    second.signs("client", &Wanted::client());
    let after = leaf(exchange(&host, &dial).await.unwrap());
    assert_ne!(after, before);

    for file in [
        &identity.certificate,
        &identity.key,
        &client.key,
        &second.file(),
    ] {
        let good = fs::read(file).unwrap();
        for broken in ["", "-----BEGIN CERTIFICATE-----\nAAAA\n"] {
            fs::write(file, broken).unwrap();
            assert_eq!(
                leaf(exchange(&host, &dial).await.unwrap()),
                after,
                "{file:?}"
            );
        }
        fs::remove_file(file).unwrap();
        assert_eq!(
            leaf(exchange(&host, &dial).await.unwrap()),
            after,
            "{file:?}"
        );
        fs::write(file, good).unwrap();
    }
    // A certificate whose key is not there yet.
    let key = fs::read(&identity.key).unwrap();
    second.signs("server", &Wanted::default());
    let new_key = fs::read(&identity.key).unwrap();
    replace(&identity.key, &key);
    assert_eq!(leaf(exchange(&host, &dial).await.unwrap()), after);
    replace(&identity.key, &new_key);
    assert_ne!(leaf(exchange(&host, &dial).await.unwrap()), after);
}

#[tokio::test(flavor = "multi_thread")]
async fn no_byte_is_lost_when_turns_are_dropped_half_way() {
    const WINDOWS: usize = 3;
    const WINDOW_BYTES: usize = 3_000_001;
    let folder = tempfile::tempdir().unwrap();
    let ours = Authority::new(folder.path(), "ours");
    let identity = ours.signs("server", &Wanted::default());
    for tls in [None, Some(trusting(&[ours.file()]))] {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let acceptor = tls
            .is_some()
            .then(|| Acceptor::new(server_settings(identity.clone())));
        let reading = tokio::spawn(async move {
            let (stream, _) = listener.accept().await.unwrap();
            let mut stream = match acceptor {
                None => tls::Stream::Plain(stream),
                Some(acceptor) => acceptor.accept(stream).await.unwrap(),
            };
            let mut all = vec![0; WINDOWS * WINDOW_BYTES];
            stream.read_exact(&mut all).await.unwrap();
            // The client's goodbye: an end without it would be an error.
            assert_eq!(stream.read(&mut [0]).await.unwrap(), 0);
            all
        });
        let dial = Dial {
            timeout: SOON,
            tls: tls.map(Connector::new),
        };
        let mut connection = Connection::open(&format!("localhost:{port}"), &dial)
            .await
            .unwrap();
        let windows: Vec<Vec<u8>> = (0..WINDOWS)
            .map(|window| {
                (0..WINDOW_BYTES)
                    .map(|at| u8::try_from((at * 7 + window) % 251).unwrap())
                    .collect()
            })
            .collect();
        for window in &windows {
            connection.send(window.clone());
        }
        // A turn without anything to do never ends; until then every other one is dropped at its first rest.
        let mut idle = 0;
        while idle < 1_000 {
            tokio::select! {
                biased;
                turn = connection.turn() => {
                    turn.unwrap();
                    idle = 0;
                }
                () = tokio::task::yield_now() => idle += 1,
            }
        }
        while let Ok(turn) = tokio::time::timeout(STALL, connection.turn()).await {
            turn.unwrap();
        }
        drop(connection);
        assert!(
            reading.await.unwrap() == windows.concat(),
            "the bytes are others"
        );
    }
}

/// The text between two marks of the manual.
fn of_manual(mark: &str) -> String {
    let manual = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/README.md")).unwrap();
    let (_, rest) = manual
        .split_once(&format!("<!-- {mark}: begin -->"))
        .unwrap();
    let (block, _) = rest.split_once(&format!("<!-- {mark}: end -->")).unwrap();
    let lines = block.trim().lines().filter(|line| !line.starts_with("```"));
    lines.collect::<Vec<_>>().join("\n")
}

#[test]
fn the_manuals_own_certificates_carry_events_over_tls_both_ways_proved() {
    let spool = Spool::with_defaults(1);
    let made = Command::new("sh")
        .args(["-e", "-c", &of_manual("certificates")])
        .current_dir(spool.root())
        .output()
        .unwrap();
    if said(&made).contains("not found") {
        writeln!(
            io::stdout(),
            "SKIP the manual's certificates: no openssl here"
        )
        .unwrap();
        return;
    }
    assert!(made.status.success(), "{}", said(&made));
    let port = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    let settings = of_manual("ssl").replace(":5044", &format!(":{port}"));
    let settings = format!("{settings}\n[receiver]\nlisten = \"127.0.0.1:{port}\"\n");
    fs::write(spool.root().join("spoolbeat.toml"), settings).unwrap();
    spool.job("hello", ONCE, "job.sh", "echo hello over TLS\n");
    let checked = spool.command(&["check"]);
    assert!(checked.status.success(), "{}", said(&checked));
    let output = spool.command(&["run", "--once"]);
    assert!(output.status.success(), "{}", said(&output));
    assert!(
        said(&output).contains("hello over TLS"),
        "{}",
        said(&output)
    );

    // Keys of the two older forms.
    for form in ["rsa -traditional", "ec"] {
        let make = match form {
            "ec" => {
                "openssl ecparam -name prime256v1 -genkey -noout -out client.key && openssl req -new -key client.key -subj /CN=ec -out client.csr && openssl x509 -req -in client.csr -CA ca.pem -CAkey ca.key -days 365 -extfile client.ext -out client.pem"
            }
            _ => "openssl rsa -traditional -in client.key -out old.key && mv old.key client.key",
        };
        let made = Command::new("sh")
            .args(["-e", "-c", make])
            .current_dir(spool.root())
            .output()
            .unwrap();
        assert!(made.status.success(), "{form}: {}", said(&made));
        let key = fs::read_to_string(spool.root().join("client.key")).unwrap();
        assert!(
            key.starts_with("-----BEGIN RSA PRIVATE") || key.starts_with("-----BEGIN EC PRIVATE"),
            "{key}"
        );
        spool.job(
            "hello",
            ONCE,
            "job.sh",
            &format!("echo again with {form}\n"),
        );
        let output = spool.command(&["run", "--once"]);
        assert!(output.status.success(), "{form}: {}", said(&output));
        assert!(said(&output).contains("again with"), "{}", said(&output));
    }
}

fn write_ssl(spool: &Spool, hosts: &str, ssl: &str) {
    let text = format!(
        "[output.lumberjack]\nhosts = [\"{hosts}\"]\nbackoff = {{ init = \"100ms\", max = \"1s\" }}\n[output.lumberjack.ssl]\n{ssl}\n[spool]\nsettle = \"100ms\"\n"
    );
    fs::write(spool.root().join("spoolbeat.toml"), text).unwrap();
}

fn toml_path(path: &Path) -> String {
    format!("{:?}", path.to_str().unwrap())
}

/// A server of the harness behind a TLS of this library's: bytes go through as they are.
fn guarded(runtime: &tokio::runtime::Runtime, settings: tls::ServerSettings, behind: u16) -> u16 {
    let listener = runtime
        .block_on(tokio::net::TcpListener::bind("127.0.0.1:0"))
        .unwrap();
    let port = listener.local_addr().unwrap().port();
    let acceptor = Acceptor::new(settings);
    runtime.spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                let behind = SocketAddr::from(([127, 0, 0, 1], behind));
                if let Ok(mut stream) = acceptor.accept(stream).await
                    && let Ok(mut behind) = tokio::net::TcpStream::connect(behind).await
                {
                    drop(tokio::io::copy_bidirectional(&mut stream, &mut behind).await);
                }
            });
        }
    });
    port
}

#[test]
fn events_arrive_over_tls_and_status_names_what_keeps_them() {
    let folder = tempfile::tempdir().unwrap();
    let ours = Authority::new(folder.path(), "ours");
    let stranger = Authority::new(folder.path(), "stranger");
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let logstash = Logstash::new(Keep::Events);
    let settings = server_settings(ours.signs("server", &Wanted::default()));
    let port = guarded(&runtime, settings, logstash.port());
    let mut spool = Spool::new(port);
    let trust = folder.path().join("trust.pem");
    fs::copy(stranger.file(), &trust).unwrap();
    let authorities = format!("certificate_authorities = [{}]", toml_path(&trust));
    write_ssl(&spool, &format!("localhost:{port}"), &authorities);
    let lines: Vec<String> = (0..5_000).map(|n| format!("line {n}")).collect();
    spool.job(
        "job",
        ONCE,
        "job.sh",
        "for n in $(seq 0 4999); do echo \"line $n\"; done\n",
    );
    spool.start();
    let mut output = Value::Null;
    wait_until(SOON, "status names the cause", || {
        output = spool.status()["outputs"][0].clone();
        output["last_error"].is_string()
    });
    let error = output["last_error"].as_str().unwrap();
    for words in [
        "`CN=server` is signed by `CN=ours`",
        "not trusted here",
        "trust.pem",
    ] {
        assert!(error.contains(words), "{output}");
    }
    assert_eq!(output["tls"], "full");
    assert!(logstash.windows().is_empty());
    // Without a restart.
    fs::copy(ours.file(), &trust).unwrap();
    wait_until(SOON, "all lines arrive", || {
        logstash.lines("job").len() >= lines.len()
    });
    assert_eq!(logstash.lines("job"), lines);
    spool.stop();

    write_ssl(
        &spool,
        &format!("127.0.0.1:{port}"),
        "verification_mode = \"none\"",
    );
    spool.job("blind", ONCE, "job.sh", "echo seen\n");
    spool.start();
    wait_until(SOON, "the line arrives", || {
        logstash.lines("blind") == ["seen"]
    });
    assert_eq!(spool.status()["outputs"][0]["tls"], "none");
    let shown = said(&spool.command(&["status"]));
    assert!(shown.contains("its server is not verified"), "{shown}");
    spool.stop();
}

#[test]
fn check_names_the_file_and_the_line_of_what_cannot_be_used() {
    let spool = Spool::new(1);
    spool.job("job", ONCE, "job.sh", "");
    let root = spool.root();
    let ours = Authority::new(&root, "ours");
    let good = ours.signs("good", &Wanted::client());
    let other = ours.signs("other", &Wanted::client());
    fs::write(root.join("garbage.pem"), b"\x00garbage").unwrap();
    fs::write(root.join("cut.pem"), "-----BEGIN CERTIFICATE-----\nAAAA\n").unwrap();
    fs::write(
        root.join("no.pem"),
        "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
    )
    .unwrap();
    fs::write(root.join("der.pem"), b"\x30\x82\x01\x02").unwrap();
    let secret =
        "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n";
    fs::write(root.join("secret.key"), secret).unwrap();
    let pair = "certificate = \"good.pem\"\nkey = \"good.key\"";
    for (ssl, wanted) in [
        (
            "certificate_authorities = [\"ours.pem\", \"missing.pem\"]",
            "toml:5:40: output.lumberjack.ssl.certificate_authorities: ",
        ),
        (
            "certificate_authorities = [\"missing.pem\"]",
            "missing.pem cannot be read: No such file",
        ),
        (
            "certificate_authorities = [\"jobs\"]",
            "jobs cannot be read: not a file",
        ),
        (
            "certificate_authorities = [\"garbage.pem\"]",
            "garbage.pem holds no certificate",
        ),
        (
            "certificate_authorities = [\"cut.pem\"]",
            "cut.pem is a damaged PEM file",
        ),
        (
            "certificate_authorities = [\"no.pem\"]",
            "certificate 1 in ",
        ),
        (
            "certificate_authorities = [\"der.pem\"]",
            "is in DER form, not PEM",
        ),
        (
            "certificate_authorities = [\"good.key\"]",
            "good.key holds a private key, and no certificate",
        ),
        (
            "certificate = \"good.pem\"\nkey = \"good.pem\"",
            "toml:6:7: output.lumberjack.ssl.key: ",
        ),
        (
            "certificate = \"good.pem\"\nkey = \"other.key\"",
            "other.key does not belong to the certificate in ",
        ),
        (
            "certificate = \"good.pem\"\nkey = \"secret.key\"",
            "is encrypted",
        ),
        (
            "certificate = \"good.pem\"",
            "toml:5:15: output.lumberjack.ssl.certificate: is there without its key",
        ),
        (
            "key = \"good.key\"",
            "output.lumberjack.ssl.key: is there without its certificate",
        ),
        ("verification_mode = \"ful\"", "did you mean `full`?"),
        (
            "supported_protocols = [\"TLSv1.1\"]",
            "output.lumberjack.ssl.supported_protocols: `TLSv1.1`",
        ),
        ("supported_protocols = []", "is empty"),
        (
            "server_name = \"a b\"",
            "neither a host name nor an address",
        ),
        ("ca_trusted_fingerprint = \"12\"", "64 hexadecimal digits"),
        ("ca_sha256 = \"12\"", "unknown key `ca_sha256`"),
        ("enabled = 1", "is not true or false"),
    ] {
        write_ssl(&spool, "localhost", ssl);
        let checked = spool.command(&["check"]);
        assert_eq!(checked.status.code(), Some(78), "{ssl}: {}", said(&checked));
        assert!(said(&checked).contains(wanted), "{ssl}: {}", said(&checked));
        let run = spool.command(&["run", "--once"]);
        assert_eq!(run.status.code(), Some(78), "{ssl}: {}", said(&run));
    }
    let all =
        "certificate = \"good.pem\"\nkey = \"no.key\"\ncertificate_authorities = [\"a\", \"b\"]";
    write_ssl(&spool, "localhost", all);
    let text = said(&spool.command(&["check"]));
    let lines: Vec<&str> = text.lines().filter(|line| line.contains(".ssl.")).collect();
    let places = ["toml:6:7: ", "toml:7:28: ", "toml:7:33: "];
    assert_eq!(lines.len(), places.len(), "all at once: {text}");
    for (line, place) in lines.iter().zip(places) {
        assert!(line.contains(place), "{place}: {text}");
    }
    write_ssl(
        &spool,
        "localhost",
        "certificate_authorities = [\"missing.pem\"]",
    );
    let status = spool.command(&["status"]);
    assert_eq!(
        status.status.code(),
        Some(1),
        "no file is wanted for it: {}",
        said(&status)
    );
    write_ssl(
        &spool,
        "localhost",
        "enabled = false\ncertificate_authorities = [\"missing.pem\"]",
    );
    let checked = spool.command(&["check"]);
    assert!(checked.status.success(), "{}", said(&checked));

    fs::set_permissions(
        &good.key,
        std::os::unix::fs::PermissionsExt::from_mode(0o644),
    )
    .unwrap();
    fs::set_permissions(
        &other.key,
        std::os::unix::fs::PermissionsExt::from_mode(0o600),
    )
    .unwrap();
    write_ssl(
        &spool,
        "localhost",
        &format!("verification_mode = \"none\"\n{pair}"),
    );
    let text = said(&spool.command(&["check"]));
    assert!(text.contains("good.key may be read by everybody"), "{text}");
    assert!(text.contains("anybody in between"), "{text}");
    write_ssl(&spool, "localhost", &pair.replace("good", "other"));
    let text = said(&spool.command(&["check"]));
    assert!(text.contains(" 0 warnings, 0 problems"), "{text}");
    let soon = Wanted {
        years: (2019, 2021),
        ..Wanted::client()
    };
    ours.signs("good", &soon);
    write_ssl(&spool, "localhost", pair);
    let text = said(&spool.command(&["check"]));
    assert!(text.contains("good.pem expired on 2021-01-01"), "{text}");
}
