//! A run's way into the queue: portions go up in order, a few at a time, and come back captured.
//!
//! This is where back-pressure comes from: while the queue has not captured what it was given,
//! nothing more is gathered. Must never look into a portion's events.

use std::collections::VecDeque;
use std::future::Future;
use std::future::poll_fn;
use std::pin::Pin;
use std::task::Context;
use std::task::Poll;

use tokio::sync::OwnedSemaphorePermit;

use crate::event::Seq;
use crate::queue::Captured;
use crate::queue::Intake;
use crate::queue::Portion;
use crate::queue::Refused;

/// Portions of one run that the queue has not captured yet. Four cover the time of a sync at full
/// rate; more would only be memory. At the limit the run stops reading its script's output.
const UNCAPTURED_MAX: usize = 4;

/// A portion and the share of the pool that pays for its bytes.
type Load = (Portion, Option<OwnedSemaphorePermit>);

type Handing = Pin<Box<dyn Future<Output = Result<Captured, Refused>> + Send>>;

/// A portion on its way.
struct Underway {
    events: u32,
    room: Option<OwnedSemaphorePermit>,
}

/// What became durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Durable {
    /// Events of the portion.
    pub(super) events: u32,
    /// The number of its last.
    pub(super) seq: Seq,
}

/// Hands portions over, one after the other.
pub(super) struct Uplink {
    intake: Intake,
    waiting: VecDeque<Load>,
    handing: Option<(Handing, Underway)>,
    uncaptured: VecDeque<(Captured, Underway)>,
}

impl Uplink {
    pub(super) fn new(intake: Intake) -> Self {
        Self {
            intake,
            waiting: VecDeque::new(),
            handing: None,
            uncaptured: VecDeque::new(),
        }
    }

    /// Whether no further portion may be pushed now.
    pub(super) fn is_full(&self) -> bool {
        self.underway() >= UNCAPTURED_MAX
    }

    /// Whether everything that was pushed is captured.
    pub(super) fn is_empty(&self) -> bool {
        self.underway() == 0
    }

    fn underway(&self) -> usize {
        self.waiting.len() + usize::from(self.handing.is_some()) + self.uncaptured.len()
    }

    /// Sends a portion on its way; `room` is given back when it is captured.
    pub(super) fn push(&mut self, portion: Portion, room: Option<OwnedSemaphorePermit>) {
        self.waiting.push_back((portion, room));
    }

    /// Waits until the oldest portion is captured; for ever when there is none. Nothing is lost
    /// when the future is dropped.
    ///
    /// # Errors
    /// The queue takes no more; nothing that was not captured will be.
    pub(super) async fn captured(&mut self) -> Result<Durable, Refused> {
        poll_fn(|context| self.poll_captured(context)).await
    }

    fn poll_captured(&mut self, context: &mut Context<'_>) -> Poll<Result<Durable, Refused>> {
        loop {
            if self.handing.is_none()
                && let Some((portion, room)) = self.waiting.pop_front()
            {
                let events = portion.frames.count();
                let intake = self.intake.clone();
                let handing = Box::pin(async move { intake.submit(portion).await });
                self.handing = Some((handing, Underway { events, room }));
            }
            let Some((handing, _)) = &mut self.handing else {
                break;
            };
            let Poll::Ready(handed) = handing.as_mut().poll(context) else {
                break;
            };
            let (_, underway) = self.handing.take().expect("it has just been polled");
            self.uncaptured.push_back((handed?, underway));
        }
        let Some((captured, _)) = self.uncaptured.front_mut() else {
            return Poll::Pending;
        };
        let Poll::Ready(answer) = Pin::new(captured).poll(context) else {
            return Poll::Pending;
        };
        // A queue that drops the question is closing.
        let seq = answer.unwrap_or(Err(Refused::Closed))?;
        let (_, underway) = self
            .uncaptured
            .pop_front()
            .expect("it has just been polled");
        drop(underway.room);
        Poll::Ready(Ok(Durable {
            events: underway.events,
            seq,
        }))
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::*;

    fn portion(text: &[u8]) -> Portion {
        let mut portion = Portion::default();
        portion.frames.push(|out| out.extend_from_slice(text));
        portion
    }

    #[tokio::test]
    async fn portions_arrive_in_order_and_hold_the_run_until_they_are_captured() {
        let (intake, mut taken) = Intake::channel(8);
        let mut uplink = Uplink::new(intake);
        for text in [b"0", b"1", b"2", b"3"] {
            assert!(!uplink.is_full());
            uplink.push(portion(text), None);
        }
        assert!(uplink.is_full());
        let answers = tokio::spawn(async move {
            for n in 0..4_u8 {
                let (portion, captured) = taken.recv().await.unwrap();
                assert_eq!(portion.frames.payloads().next().unwrap(), [b'0' + n]);
                captured.send(Ok(Seq(u64::from(n)))).unwrap();
            }
        });
        for n in 0..4 {
            let durable = uplink.captured().await.unwrap();
            let wanted = Durable {
                events: 1,
                seq: Seq(n),
            };
            assert_eq!(durable, wanted);
            assert!(!uplink.is_full());
        }
        assert!(uplink.is_empty());
        answers.await.unwrap();
    }

    #[tokio::test]
    async fn a_queue_that_goes_away_refuses_what_it_has_not_captured() {
        let (intake, mut taken) = Intake::channel(8);
        let mut uplink = Uplink::new(intake);
        uplink.push(portion(b"0"), None);
        uplink.push(portion(b"1"), None);
        tokio::spawn(async move {
            let (_, captured) = taken.recv().await.unwrap();
            captured.send(Ok(Seq(1))).unwrap();
        });
        assert!(uplink.captured().await.is_ok());
        assert_eq!(uplink.captured().await, Err(Refused::Closed));
    }
}
