//! Lumberjack on sockets: the protocol of `crate::protocol` given TCP, for both sides.
//!
//! Serves the shipper, the receivers, and whoever uses this crate as a library. Must never know
//! queues, jobs or configuration files.
//!
#![doc = include_str!("PEERS.md")]
//! # Sending
//!
//! A [`Client`] sends whatever serde can write as an object, and returns when the server has
//! acknowledged it:
//!
//! ```no_run
//! let event = json!({"@timestamp": "2026-11-21T08:30:00Z", "message": "hello world"});
//! let mut client = Client::to("localhost:5044").connect().await?;
//! client.send(event).await?;
//! ```
//!
//! It closes its connection when it is dropped, so a scope does what a context manager does elsewhere.
//! Many events go in full windows; the number that comes back is that of the acknowledged ones:
//!
//! ```no_run
//! let acked = client.send_all(&readings).await?;
//! ```
//!
//! Objects that are JSON already are sent byte for byte:
//!
//! ```no_run
//! client.send(Json(r#"{"message": "ready made"}"#)).await?;
//! client.send_all(lines.lines().map(Json)).await?;
//! ```
//!
//! Over TLS, with a certificate that says who the client is (the files' names are in a folder `dir`):
//!
//! ```no_run
//! let tls = tls::Settings {
//!     certificate_authorities: vec![dir.join("ca.pem")],
//!     identity: Some(tls::Identity {
//!         certificate: dir.join("client.pem"),
//!         key: dir.join("client.key"),
//!     }),
//!     ..tls::Settings::default()
//! };
//! let mut client = Client::to("localhost:5044").tls(tls).connect().await?;
//! ```
//!
//! Nothing is tried a second time unless asked for ([`client::Builder::retries`]). An [`client::Error`]
//! says what to do next, and how many events of the call need not be sent again:
//!
//! ```no_run
//! while !events.is_empty() {
//!     match client.send_all(events.iter()).await {
//!         Ok(_) => events.clear(),
//!         Err(error) => {
//!             events.drain(..error.acked as usize);
//!             match error.advice {
//!                 Advice::Retry => tokio::time::sleep(PAUSE).await,
//!                 Advice::Reject => left_out.push(events.remove(0)),
//!                 Advice::Misconfigured => return Err(error.into()),
//!             }
//!         }
//!     }
//! }
//! ```
//!
//! # Receiving
//!
//! A [`Server`] gives out one batch after the other, and acknowledges it when it is told to:
//!
//! ```no_run
//! let mut server = Server::bind("127.0.0.1:5044", ServerSettings::default()).await?;
//! while let Some(batch) = server.next().await {
//!     for event in batch.events() {
//!         stored.push(event.to_vec());
//!     }
//!     batch.ack();
//! }
//! ```

pub mod client;
pub mod connection;
pub mod receiver;
pub mod server;

pub use client::Client;
pub use receiver::Server;
