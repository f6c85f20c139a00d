//! `[source.lumberjack]`: what a listener of ours is set to, and how its windows become portions.
//!
//! The events pass byte for byte: no envelope is added, nothing is compared with what came before.
//! Must never know what the queue does with a portion, or hold a socket.

use std::sync::Arc;
use std::time::Duration;

use crate::event::Frames;
use crate::event::Route;
use crate::event::Stream;
use crate::lumberjack::server;
use crate::lumberjack::server::Memory;
use crate::lumberjack::server::Places;
use crate::lumberjack::server::ServerSettings;
use crate::lumberjack::server::Tally;
use crate::process::User;
use crate::protocol::server::Limits;
use crate::protocol::server::Window;
use crate::queue::Counters;
use crate::queue::Part;
use crate::queue::Portion;
use crate::source::gather;
use crate::tls;
use crate::units::Timestamp;

/// How we listen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// `ADDRESS:PORT`; port 0 picks one.
    pub listen: String,
    /// With whose rights it listens, and reads the files of `ssl`.
    pub user: User,
    /// `ssl`: encryption. Default none.
    pub tls: Option<tls::ServerSettings>,
    /// What a window may be; default as [`Limits::default`].
    pub limits: Limits,
    /// Most connections at once; default [`server::CONNECTIONS_MAX`].
    pub connections: usize,
    /// Most connections from one address; default [`server::CONNECTIONS_PER_PEER_MAX`].
    pub connections_per_peer: usize,
    /// Longest silence between windows; default none: no limit.
    pub idle_timeout: Option<Duration>,
}

impl Settings {
    /// The defaults.
    #[must_use]
    pub fn new(listen: &str, user: User) -> Self {
        Self {
            listen: listen.to_owned(),
            user,
            tls: None,
            limits: Limits::default(),
            connections: server::CONNECTIONS_MAX,
            connections_per_peer: server::CONNECTIONS_PER_PEER_MAX,
            idle_timeout: server::IDLE_TIMEOUT,
        }
    }

    /// What somebody should look at some day, at the time `now`.
    #[must_use]
    pub fn warnings(&self, now: Timestamp) -> Vec<String> {
        let tls = self.tls.as_ref();
        tls.map_or_else(Vec::new, |tls| tls.warnings(&self.user, now))
    }

    /// As a server takes them; `memory` and `places` may be shared with others.
    #[must_use]
    pub fn server(&self, memory: Memory, places: Places, tally: Arc<Tally>) -> ServerSettings {
        let acceptor = |tls| tls::Acceptor::of(tls, self.user.clone());
        ServerSettings {
            tls: self.tls.clone().map(acceptor),
            limits: self.limits,
            connections: self.connections,
            connections_per_peer: self.connections_per_peer,
            idle_timeout: self.idle_timeout,
            memory,
            places,
            tally,
            ..ServerSettings::default()
        }
    }
}

/// A window's events as portions for the queue, in order, each as large as a batch may be.
pub fn portions<'w>(
    window: &'w Window,
    limits: gather::Limits,
    job: &'w Arc<str>,
    route: &'w Route,
    at: Timestamp,
) -> impl Iterator<Item = Portion> + 'w {
    let mut events = window.events().peekable();
    std::iter::from_fn(move || {
        let mut frames = Frames::default();
        let mut bytes = 0;
        while frames.count() < limits.batch_events
            && (frames.bytes().len() as u64) < limits.batch_bytes
            && let Some(event) = events.next()
        {
            frames.push(|out| out.extend_from_slice(event));
            bytes += event.len() as u64;
        }
        let count = frames.count();
        (count > 0).then(|| Portion {
            route: route.clone(),
            frames,
            parts: vec![Part {
                job: Arc::clone(job),
                stream: Stream::Lumberjack,
                count,
                first: at,
                last: at,
            }],
            facts: Vec::new(),
            counters: Counters {
                framed: u64::from(count),
                bytes_read: bytes,
                bytes_framed: bytes,
                ..Counters::default()
            },
        })
    })
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use crate::protocol::frame::plain_window;
    use crate::protocol::server::Session;
    use crate::protocol::server::Want;

    fn window(events: &[&str]) -> Window {
        let mut frames = Frames::default();
        for event in events {
            frames.push(|out| out.extend_from_slice(event.as_bytes()));
        }
        let mut bytes = Vec::new();
        plain_window(frames.count(), frames.bytes(), &mut bytes);
        let mut session = Session::new(Limits::default());
        let mut input = bytes.as_slice();
        while session.feed(&mut input).unwrap() != Want::Taking {
            session.grant(1 << 10);
        }
        session.next_window().unwrap()
    }

    #[test]
    fn a_windows_events_are_cut_into_batches_and_stay_as_they_are() {
        let events = [r#"{"a":1}"#, "{ }", r#"{"@metadata":{"x":[]}}"#, "{}", "{}"];
        let window = window(&events);
        let limits = gather::Limits {
            batch_events: 2,
            batch_bytes: 1 << 20,
        };
        let (job, route) = (Arc::from("beats"), Route::to(vec!["out".to_owned()]));
        let all: Vec<Portion> = portions(&window, limits, &job, &route, Timestamp(5)).collect();
        let counts: Vec<u32> = all.iter().map(|portion| portion.frames.count()).collect();
        assert_eq!(counts, [2, 2, 1]);
        let payloads = all.iter().flat_map(|portion| portion.frames.payloads());
        assert!(payloads.eq(events.map(str::as_bytes)));
        let mut sum = Counters::default();
        for portion in &all {
            assert_eq!(portion.route, route);
            assert_eq!(portion.parts[0].count, portion.frames.count());
            assert_eq!(portion.parts[0].stream, Stream::Lumberjack);
            sum.add(&portion.counters);
        }
        let bytes = events.iter().map(|event| event.len() as u64).sum();
        assert_eq!(
            (sum.framed, sum.bytes_read, sum.bytes_framed),
            (5, bytes, bytes)
        );
        let limits = gather::Limits {
            batch_events: 100,
            batch_bytes: 1,
        };
        assert_eq!(
            portions(&window, limits, &job, &route, Timestamp(5)).count(),
            5
        );
    }
}
