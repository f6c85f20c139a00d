//! The client's side of a connection: which of the events in flight the server has taken over.
//!
//! ACKs carry no window's name: they are matched with the windows in flight in the order of
//! sending, and their values start again in each window. This module must never know what an
//! event is or how bytes travel; it trusts nothing that the server says.

use std::collections::VecDeque;
use std::fmt;
use std::time::Duration;

use crate::clock::Tick;
use crate::protocol::frame::ACK;
use crate::protocol::frame::SHORT_BYTES;
use crate::protocol::frame::Version;
use crate::units::show_duration;

/// A connection that has been idle for longer is not used again but made anew: Logstash resets
/// idle connections after 60 s, and a window written into that moment would have to be resent.
pub const IDLE_REUSE_MAX: Duration = Duration::from_secs(50);

/// What a session needs to know; from the output's settings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    /// The version that the windows are in, so that the answers are too.
    pub version: Version,
    /// Most windows in flight; 0 and 1 both mean one at a time.
    pub pipelining: u32,
    /// Liveness: while windows are in flight, some byte must come within this time.
    pub timeout: Duration,
    /// Progress: while windows are in flight, the acknowledged number must grow within this time.
    /// Keep-alives are not progress (a server may send them for ever).
    pub ack_stall_timeout: Duration,
}

/// What some received bytes mean.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[must_use = "events that are not counted as acknowledged are sent again"]
pub struct Progress {
    /// How many further events are acknowledged, in the order they were sent.
    pub events: u64,
    /// How many keep-alives (`A 0`) came.
    pub keep_alives: u32,
}

/// Why the connection must be closed. Events without an ACK are to be sent again on a new one;
/// what was acknowledged before stays acknowledged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The first byte of an answer is not the protocol's version.
    Version(u8),
    /// The answer is a frame, but not an ACK.
    Kind(u8),
    /// The ACK's number is larger than the oldest window in flight.
    Beyond {
        /// The number.
        value: u32,
        /// Events of that window.
        window: u32,
    },
    /// An ACK came while nothing was in flight.
    Unasked(u32),
    /// No byte came for this long.
    Silent(Duration),
    /// The server is alive, but has acknowledged nothing further for this long.
    Stalled(Duration),
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Version(0x15 | 0x16) => f.write_str(
                "the server answers in TLS: it expects an encrypted connection; \
                 set up `ssl` for this output or use the server's plain port",
            ),
            Self::Version(b'H') => f.write_str(
                "the server answers in HTTP: this is not a Beats port; \
                 use the port of Logstash's beats input, like logstash:5044",
            ),
            Self::Version(b'1') => f.write_str(
                "the server answers in Lumberjack version 1; \
                 write version = 1 for this output, or use a server like Logstash's beats input",
            ),
            Self::Version(b'2') => f.write_str(
                "the server answers in Lumberjack version 2; \
                 leave out version = 1 for this output",
            ),
            Self::Version(byte) => write!(
                f,
                "the server's answer begins with byte 0x{byte:02x} instead of the protocol's version: \
                 this is not a Beats port; use one like logstash:5044"
            ),
            Self::Kind(byte) => write!(
                f,
                "the server sent a frame of type `{}` where only ACKs may come; \
                 close and connect again",
                byte.escape_ascii()
            ),
            Self::Beyond { value, window } => write!(
                f,
                "the server acknowledged event {value} of a window of {window}; \
                 close, connect again and send the window again"
            ),
            Self::Unasked(value) => write!(
                f,
                "the server acknowledged event {value} although nothing was in flight; \
                 close and connect again"
            ),
            Self::Silent(limit) => write!(
                f,
                "the server sent nothing for {} (`timeout`); \
                 close, connect again and send the window again",
                show_duration(*limit)
            ),
            Self::Stalled(limit) => write!(
                f,
                "the server is alive but acknowledged nothing for {} (`ack_stall_timeout`); \
                 close and send the window to another host",
                show_duration(*limit)
            ),
        }
    }
}

impl std::error::Error for Fault {}

/// One connection, from its first window on. A new connection needs a new session.
#[derive(Debug)]
pub struct Session {
    settings: Settings,
    /// Sizes of the windows in flight, oldest first.
    windows: VecDeque<u32>,
    /// How many events of the oldest window are acknowledged.
    acked: u32,
    /// The number that completed the window before the oldest one.
    completed: u32,
    /// The frame that is being received.
    frame: [u8; SHORT_BYTES],
    filled: usize,
    /// When a byte last came, or waiting began.
    heard: Tick,
    /// When the acknowledged number last grew, or waiting began.
    progressed: Tick,
    /// When the last window was completed, or the session began.
    idle: Tick,
    fault: Option<Fault>,
}

impl Session {
    /// A session on a connection that has just been made.
    #[must_use]
    pub fn new(settings: Settings, now: Tick) -> Self {
        Self {
            settings,
            windows: VecDeque::new(),
            acked: 0,
            completed: 0,
            frame: [0; SHORT_BYTES],
            filled: 0,
            heard: now,
            progressed: now,
            idle: now,
            fault: None,
        }
    }

    /// Whether another window may be sent now.
    #[must_use]
    pub fn can_send(&self) -> bool {
        let most = usize::try_from(self.settings.pipelining.max(1)).unwrap_or(usize::MAX);
        self.fault.is_none() && self.windows.len() < most
    }

    /// States that a window of `events` is being sent. To be called before its first byte is
    /// written, so that no answer can come before the question is known.
    ///
    /// # Panics
    /// When `events` is 0: servers never answer such a window.
    pub fn sent(&mut self, events: u32, now: Tick) {
        assert!(events > 0, "a window holds at least one event");
        if self.windows.is_empty() {
            self.heard = now;
            self.progressed = now;
        }
        self.windows.push_back(events);
    }

    /// States that bytes of a window could be written: the server reads, so it is alive.
    /// Without this a window that takes long to write would use up the server's time to answer.
    pub fn wrote(&mut self, now: Tick) {
        self.heard = now;
    }

    /// Takes bytes that came from the server.
    ///
    /// Repeated and lower numbers are ignored, also across the border of two windows where that
    /// can be told: a number equal to the one that completed the window before is taken as a
    /// repeat of it unless it completes the next window too. Real servers never repeat an ACK;
    /// the rule keeps one that does from confirming what it has not seen.
    ///
    /// # Errors
    /// A [`Fault`] ends the session. Progress that came before it in the same bytes is returned
    /// first; the fault then is the answer to the next call and to [`Session::check`].
    pub fn received(&mut self, mut bytes: &[u8], now: Tick) -> Result<Progress, Fault> {
        let mut progress = Progress::default();
        if self.fault.is_none() && !bytes.is_empty() {
            self.heard = now;
        }
        while let (None, Some((byte, rest))) = (self.fault, bytes.split_first()) {
            bytes = rest;
            if let Err(fault) = self.take(*byte, now, &mut progress) {
                self.fault = Some(fault);
            }
        }
        // A server that sends without end leaves nobody the time to look at the timers.
        match self.check(now) {
            Err(fault) if progress == Progress::default() => Err(fault),
            _ => Ok(progress),
        }
    }

    fn take(&mut self, byte: u8, now: Tick, progress: &mut Progress) -> Result<(), Fault> {
        match self.filled {
            // Logstash's keep-alives are of version 2 whatever the client speaks.
            0 if byte != self.settings.version.byte() && byte != Version::V2.byte() => {
                return Err(Fault::Version(byte));
            }
            1 if byte != ACK => return Err(Fault::Kind(byte)),
            _ => {}
        }
        self.frame[self.filled] = byte;
        self.filled += 1;
        if self.filled < SHORT_BYTES {
            return Ok(());
        }
        self.filled = 0;
        let [version, _, a, b, c, d] = self.frame;
        match u32::from_be_bytes([a, b, c, d]) {
            value if value > 0 && version != self.settings.version.byte() => {
                return Err(Fault::Version(version));
            }
            0 => progress.keep_alives = progress.keep_alives.saturating_add(1),
            value => progress.events += u64::from(self.acknowledge(value, now)?),
        }
        Ok(())
    }

    /// How many further events the ACK `value` confirms.
    fn acknowledge(&mut self, value: u32, now: Tick) -> Result<u32, Fault> {
        let repeats_the_last = self.acked == 0 && value <= self.completed;
        let Some(&window) = self.windows.front() else {
            return if repeats_the_last {
                Ok(0)
            } else {
                Err(Fault::Unasked(value))
            };
        };
        if value > window {
            return Err(Fault::Beyond { value, window });
        }
        if value <= self.acked {
            return Ok(0);
        }
        if value < window {
            if self.acked == 0 && value == self.completed {
                return Ok(0);
            }
            let further = value - self.acked;
            self.acked = value;
            self.progressed = now;
            return Ok(further);
        }
        let further = window - self.acked;
        self.windows.pop_front();
        self.acked = 0;
        self.completed = window;
        self.progressed = now;
        self.idle = now;
        Ok(further)
    }

    /// When [`Session::check`] has something to say if nothing comes before; `None` while
    /// nothing is in flight.
    #[must_use]
    pub fn deadline(&self) -> Option<Tick> {
        if self.fault.is_some() {
            return Some(Tick(0));
        }
        if self.windows.is_empty() {
            return None;
        }
        let silent = self.heard.after(self.settings.timeout);
        let stalled = self.progressed.after(self.settings.ack_stall_timeout);
        Some(silent.min(stalled))
    }

    /// Looks at both timers.
    ///
    /// # Errors
    /// The fault that ends the session: one found before, [`Fault::Silent`] or [`Fault::Stalled`].
    pub fn check(&mut self, now: Tick) -> Result<(), Fault> {
        if self.fault.is_none() && !self.windows.is_empty() {
            let settings = &self.settings;
            if now >= self.heard.after(settings.timeout) {
                self.fault = Some(Fault::Silent(settings.timeout));
            } else if now >= self.progressed.after(settings.ack_stall_timeout) {
                self.fault = Some(Fault::Stalled(settings.ack_stall_timeout));
            }
        }
        self.fault.map_or(Ok(()), Err)
    }

    /// How many windows are in flight.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.windows.len()
    }

    /// Since when nothing is in flight; `None` while something is. After [`IDLE_REUSE_MAX`] of
    /// this the next window belongs on a new connection, and that is no error.
    #[must_use]
    pub fn idle_since(&self) -> Option<Tick> {
        self.windows.is_empty().then_some(self.idle)
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use proptest::prelude::*;

    use super::*;
    use crate::protocol::frame::ack;

    fn session() -> Session {
        let settings = Settings {
            version: Version::V2,
            pipelining: 2,
            timeout: Duration::from_secs(30),
            ack_stall_timeout: Duration::from_secs(300),
        };
        Session::new(settings, Tick(0))
    }

    /// A session with these windows in flight, sent at 0.
    fn waiting_for(windows: &[u32]) -> Session {
        let mut session = session();
        for &events in windows {
            session.sent(events, Tick(0));
        }
        session
    }

    fn events(session: &mut Session, value: u32) -> u64 {
        session.received(&ack(value), Tick(1)).unwrap().events
    }

    #[test]
    fn partial_acks_advance_and_the_last_completes_the_window() {
        let mut session = waiting_for(&[10]);
        assert_eq!(events(&mut session, 1), 1);
        assert_eq!(events(&mut session, 5), 4);
        assert_eq!(session.in_flight(), 1);
        assert_eq!(events(&mut session, 10), 5);
        assert_eq!(session.in_flight(), 0);
    }

    #[test]
    fn acks_dripped_byte_by_byte_count_once() {
        let mut session = waiting_for(&[10]);
        let mut total = 0;
        for byte in ack(10) {
            total += session.received(&[byte], Tick(1)).unwrap().events;
        }
        assert_eq!(total, 10);
    }

    #[test]
    fn pipelined_windows_are_confirmed_first_in_first_out() {
        let mut session = waiting_for(&[2, 3]);
        assert!(!session.can_send());
        let bytes = [ack(2), ack(3)].concat();
        assert_eq!(session.received(&bytes, Tick(1)).unwrap().events, 5);
        assert!(session.can_send());
    }

    #[test]
    fn pipelining_of_zero_sends_one_window_at_a_time() {
        let mut session = Session::new(
            Settings {
                version: Version::V2,
                pipelining: 0,
                timeout: Duration::from_secs(30),
                ack_stall_timeout: Duration::from_secs(300),
            },
            Tick(0),
        );
        assert!(session.can_send());
        session.sent(1, Tick(0));
        assert!(!session.can_send());
    }

    #[test]
    fn keep_alives_confirm_nothing() {
        let mut session = waiting_for(&[10]);
        let bytes = [ack(0), ack(5), ack(0), ack(0)].concat();
        let progress = session.received(&bytes, Tick(1)).unwrap();
        assert_eq!(
            progress,
            Progress {
                events: 5,
                keep_alives: 3
            }
        );
        assert_eq!(events(&mut session, 10), 5);
    }

    #[test]
    fn keep_alives_without_a_pause_end_it_as_well_and_an_ack_with_them_counts_before() {
        let mut session = waiting_for(&[10]);
        let second = |n: u64| Tick(0).after(Duration::from_secs(n));
        for n in 1..=300 {
            let progress = session.received(&ack(0), second(n)).unwrap();
            assert_eq!(progress.keep_alives, 1);
        }
        let stalled = Fault::Stalled(Duration::from_secs(300));
        assert_eq!(session.received(&ack(0), second(301)), Err(stalled));
        let mut session = waiting_for(&[10]);
        let at = [(0, 299, 0), (5, 301, 5), (0, 600, 0)];
        for (value, at, events) in at {
            let progress = session.received(&ack(value), second(at)).unwrap();
            assert_eq!(progress.events, events);
        }
    }

    #[test]
    fn repeated_and_lower_acks_are_ignored() {
        let mut session = waiting_for(&[10]);
        assert_eq!(events(&mut session, 5), 5);
        assert_eq!(events(&mut session, 5), 0);
        assert_eq!(events(&mut session, 3), 0);
        assert_eq!(events(&mut session, 10), 5);
        assert_eq!(events(&mut session, 10), 0, "nothing is in flight any more");
    }

    #[test]
    fn a_repeat_of_the_last_windows_ack_does_not_confirm_part_of_the_next() {
        let mut session = waiting_for(&[10, 20]);
        assert_eq!(events(&mut session, 10), 10);
        assert_eq!(events(&mut session, 10), 0, "cannot be told from a repeat");
        assert_eq!(events(&mut session, 11), 11);
        assert_eq!(events(&mut session, 20), 9);
    }

    #[test]
    fn windows_of_equal_size_are_each_completed_by_their_own_ack() {
        let mut session = waiting_for(&[10, 10]);
        assert_eq!(events(&mut session, 10), 10);
        assert_eq!(events(&mut session, 10), 10);
        assert_eq!(session.in_flight(), 0);
    }

    #[test]
    fn an_ack_beyond_the_window_is_refused() {
        let mut session = waiting_for(&[10, 100]);
        let fault = session.received(&ack(15), Tick(1)).unwrap_err();
        assert_eq!(
            fault,
            Fault::Beyond {
                value: 15,
                window: 10
            }
        );
        assert!(!session.can_send());
        assert_eq!(session.received(&ack(10), Tick(1)), Err(fault));
        assert_eq!(session.check(Tick(1)), Err(fault));
    }

    #[test]
    fn an_ack_that_nobody_asked_for_is_refused() {
        assert_eq!(session().received(&ack(1), Tick(1)), Err(Fault::Unasked(1)));
        let mut session = waiting_for(&[10]);
        assert_eq!(events(&mut session, 10), 10);
        assert_eq!(session.received(&ack(11), Tick(1)), Err(Fault::Unasked(11)));
    }

    #[test]
    fn progress_before_a_fault_is_kept() {
        let mut session = waiting_for(&[10]);
        let bytes = [ack(4), ack(15)].concat();
        assert_eq!(session.received(&bytes, Tick(1)).unwrap().events, 4);
        assert_eq!(session.deadline(), Some(Tick(0)));
        assert!(matches!(session.check(Tick(1)), Err(Fault::Beyond { .. })));
        assert!(session.received(b"", Tick(1)).is_err());
    }

    #[test]
    fn only_acks_are_taken_and_what_else_may_answer_has_a_name() {
        for (bytes, word) in [
            (b"HTTP/1.1 400 Bad Request\r\n".as_slice(), "HTTP"),
            (b"\x15\x03\x03\x00\x02\x02\x28", "TLS"),
            (b"1A\x00\x00\x00\x0a", "version 1"),
            (b"3A\x00\x00\x00\x0a", "0x33"),
            (b"2W\x00\x00\x00\x0a", "`W`"),
        ] {
            let fault = waiting_for(&[10]).received(bytes, Tick(1)).unwrap_err();
            assert!(fault.to_string().contains(word), "{fault}");
        }
    }

    #[test]
    fn a_client_of_version_one_takes_its_acks_and_the_keep_alives_of_version_two() {
        let v1 = || {
            let mut session = waiting_for(&[10]);
            session.settings.version = Version::V1;
            session
        };
        let mut session = v1();
        let bytes = [b"2A\0\0\0\0".as_slice(), b"1A\0\0\0\0", b"1A\0\0\0\x0a"].concat();
        let progress = session.received(&bytes, Tick(1)).unwrap();
        assert_eq!((progress.events, progress.keep_alives), (10, 2));
        let fault = v1().received(&ack(10), Tick(1)).unwrap_err();
        assert!(fault.to_string().contains("version 2"), "{fault}");
    }

    #[test]
    fn a_silent_server_is_given_up_after_the_timeout() {
        let mut session = session();
        assert_eq!(session.deadline(), None);
        session.sent(10, Tick(1_000));
        assert_eq!(session.deadline(), Some(Tick(31_000)));
        assert_eq!(session.check(Tick(30_999)), Ok(()));
        assert_eq!(
            session.check(Tick(31_000)),
            Err(Fault::Silent(Duration::from_secs(30)))
        );
    }

    #[test]
    fn a_second_window_does_not_give_a_silent_server_more_time() {
        let mut session = session();
        session.sent(10, Tick(0));
        session.sent(10, Tick(20_000));
        assert_eq!(session.deadline(), Some(Tick(30_000)));
        session.wrote(Tick(25_000));
        assert_eq!(session.deadline(), Some(Tick(55_000)));
    }

    #[test]
    fn keep_alives_cannot_hold_a_window_for_ever() {
        let mut session = waiting_for(&[10]);
        for second in (3..300).step_by(3) {
            let now = Tick(second * 1_000);
            assert_eq!(session.check(now), Ok(()));
            assert_eq!(session.received(&ack(0), now).unwrap().events, 0);
        }
        assert_eq!(session.deadline(), Some(Tick(300_000)));
        assert_eq!(
            session.check(Tick(300_000)),
            Err(Fault::Stalled(Duration::from_secs(300)))
        );
    }

    #[test]
    fn an_idle_connection_has_an_age_and_no_deadline() {
        let mut session = waiting_for(&[10]);
        assert_eq!(session.idle_since(), None);
        assert_eq!(session.received(&ack(10), Tick(7)).unwrap().events, 10);
        assert_eq!(session.idle_since(), Some(Tick(7)));
        assert_eq!(session.deadline(), None);
        assert_eq!(session.check(Tick(1 << 40)), Ok(()));
    }

    proptest! {
        #[test]
        fn chunks_do_not_change_what_is_acknowledged(
            values in proptest::collection::vec(0_u32..25, 1..30),
            cuts in proptest::collection::vec(0_usize..180, 0..20),
        ) {
            let bytes: Vec<u8> = values.iter().flat_map(|&value| ack(value)).collect();
            let windows = [10, 20, 5, 20];
            let mut whole = waiting_for(&windows);
            let expected = whole.received(&bytes, Tick(1)).map_or(0, |p| p.events);
            let mut cut = waiting_for(&windows);
            let mut cuts: Vec<usize> = cuts.into_iter().map(|at| at.min(bytes.len())).collect();
            cuts.extend([0, bytes.len()]);
            cuts.sort_unstable();
            let total: u64 = cuts
                .windows(2)
                .map(|pair| cut.received(&bytes[pair[0]..pair[1]], Tick(1)).map_or(0, |p| p.events))
                .sum();
            prop_assert_eq!(total, expected);
            prop_assert!(total <= 55, "never more than was sent");
            prop_assert_eq!(whole.check(Tick(1)), cut.check(Tick(1)));
            prop_assert_eq!(whole.in_flight(), cut.in_flight());
        }
    }
}
