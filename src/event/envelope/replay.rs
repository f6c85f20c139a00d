//! Replayed events: as they were captured, and marked as sent again.
//!
//! Only `@metadata.replay` is added, so that a receiver can tell a replay from the first time.
//! Must never touch `event.id`: by it a receiver knows what it has already.

use std::fmt;

use crate::event::RunId;
use crate::units::Timestamp;

use super::object::members;
use super::object::pair;

/// What `@metadata.replay` says: one value for all events of a replay.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Replay {
    /// Which replay this is.
    pub id: RunId,
    /// When it began.
    pub at: Timestamp,
}

impl fmt::Display for Replay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, r#"{{"id":"{}","at":"{}"}}"#, self.id, self.at)
    }
}

impl Replay {
    /// Appends `event` with the mark. What is no JSON object, or has another kind of `@metadata`, stays
    /// as it is.
    pub fn mark(&self, out: &mut Vec<u8>, event: &[u8]) {
        let text = std::str::from_utf8(event)
            .unwrap_or_default()
            .trim_ascii_start();
        let Some(inside) = text.strip_prefix('{') else {
            out.extend_from_slice(event);
            return;
        };
        let found = members(text);
        let metadata = found.iter().find(|(key, _)| key == "@metadata");
        match metadata.map(|(_, value)| *value) {
            Some(value) if value.starts_with('{') => {
                // A member's value is a part of the text.
                let start = value.as_ptr().addr() - text.as_ptr().addr();
                out.extend_from_slice(&text.as_bytes()[..start]);
                self.open(out);
                for (key, value) in members(value).iter().filter(|(key, _)| key != "replay") {
                    out.push(b',');
                    pair(out, key, value.as_bytes());
                }
                out.push(b'}');
                out.extend_from_slice(&text.as_bytes()[start + value.len()..]);
            }
            Some(_) => out.extend_from_slice(event),
            None => {
                out.extend_from_slice(b"{\"@metadata\":");
                self.open(out);
                out.push(b'}');
                if !found.is_empty() {
                    out.push(b',');
                }
                out.extend_from_slice(inside.as_bytes());
            }
        }
    }

    fn open(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(format!("{{\"replay\":{self}").as_bytes());
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn a_replayed_event_is_marked_and_otherwise_as_it_was() {
        let replay = Replay {
            id: RunId::from_text("r1"),
            at: Timestamp(1_763_712_488_123),
        };
        let mark = r#"{"replay":{"id":"r1","at":"2025-11-21T08:08:08.123Z"}"#;
        for (event, expected) in [
            (
                r#"{"a":1.50,"@metadata":{"_id":"x"},"b":[]}"#,
                format!(r#"{{"a":1.50,"@metadata":{mark},"_id":"x"}},"b":[]}}"#),
            ),
            (
                r#"{"@metadata":{"replay":{"id":"old"}}}"#,
                format!(r#"{{"@metadata":{mark}}}}}"#),
            ),
            (
                r#"{"event":{"id":"x"}}"#,
                format!(r#"{{"@metadata":{mark}}},"event":{{"id":"x"}}}}"#),
            ),
            ("{}", format!(r#"{{"@metadata":{mark}}}}}"#)),
            (r#"{"@metadata":"x"}"#, r#"{"@metadata":"x"}"#.to_owned()),
            ("[]", "[]".to_owned()),
        ] {
            let mut out = Vec::new();
            replay.mark(&mut out, event.as_bytes());
            assert_eq!(std::str::from_utf8(&out).unwrap(), expected);
            serde_json::from_slice::<serde_json::Value>(&out).unwrap();
        }
    }
}
