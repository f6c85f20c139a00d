//! Whether a line is a JSON object that every receiver can read, and whether it needs taking apart.
//!
//! One pass, no allocation on the way. Stricter than JSON where receivers are: depth, lone
//! surrogates, numbers beyond 64-bit floats. Must never change or build anything.

use std::fmt;

use serde::de::DeserializeSeed;
use serde::de::Deserializer;
use serde::de::MapAccess;
use serde::de::SeqAccess;
use serde::de::Visitor;

use crate::units::Timestamp;

use super::object::first_part;

/// Deepest nesting of an object that stays an object. Receivers' own limits differ (Jackson 1000,
/// serde_json 128, some 100); deeper lines are text.
const DEPTH_MAX: usize = 100;

/// Most members of an object that can go the fast lane; objects with more are taken apart.
const FAST_MEMBERS_MAX: usize = 64;

/// What a line is that is an object.
pub(super) enum Found {
    /// No member of ours, none twice: its bytes can stand behind ours.
    Plain(Plain),
    /// It has to be taken apart.
    Mixed,
}

/// What is to be known of a plain object.
pub(super) struct Plain {
    /// It has no members.
    pub(super) is_empty: bool,
    /// It has its own `@timestamp`, which can stay as it is.
    pub(super) has_timestamp: bool,
}

/// Looks at the whole of `text`; `None` when it is not an object that every receiver can read.
/// `has_log` says that the event has a member `log` of ours.
pub(super) fn check(text: &str, has_log: bool) -> Option<Found> {
    let seen = look(text, has_log).ok()?;
    if !seen.plain {
        return Some(Found::Mixed);
    }
    Some(Found::Plain(Plain {
        is_empty: seen.count == 0,
        has_timestamp: seen.has_timestamp,
    }))
}

/// Whether `payload` is one JSON object, and one that every receiver can read.
///
/// # Errors
/// Why it is not.
pub fn fit(payload: &[u8]) -> Result<(), String> {
    let text = std::str::from_utf8(payload)
        .map_err(|error| format!("not UTF-8 from byte {} on", error.valid_up_to()))?;
    look(text, false).map(drop).map_err(|error| {
        let what = error.to_string();
        // Most objects are one line, and its number would be taken for that of a file.
        let what = what.replace(" at line 1 column", " at column");
        format!(
            "not a JSON object that every receiver can read, like {{\"message\":\"hello\"}}: {what}"
        )
    })
}

fn look(text: &str, has_log: bool) -> serde_json::Result<Seen> {
    let mut seen = Seen {
        has_log,
        ..Seen::default()
    };
    let mut reader = serde_json::Deserializer::from_str(text);
    Top(&mut seen).deserialize(&mut reader)?;
    reader.end()?;
    Ok(seen)
}

/// What a script's `@timestamp` is good for.
pub(super) enum Time {
    /// RFC 3339 as every receiver reads it: stays as it is.
    Fit,
    /// RFC 3339, but in a form that Logstash does not read (`t`, blank, leap second): rewritten.
    Odd(Timestamp),
    /// Not a time.
    None,
}

/// Judges the text of an `@timestamp`.
pub(super) fn time_of(text: &str) -> Time {
    let Ok(at) = text.parse::<Timestamp>() else {
        return Time::None;
    };
    let bytes = text.as_bytes();
    let fit = bytes.get(10) == Some(&b'T')
        && !bytes.ends_with(b"z")
        && bytes
            .get(17..19)
            .is_some_and(|second| second < b"60".as_slice());
    if fit { Time::Fit } else { Time::Odd(at) }
}

/// What has been found at the top level so far.
struct Seen {
    has_log: bool,
    plain: bool,
    has_timestamp: bool,
    count: usize,
    hashes: [u64; FAST_MEMBERS_MAX],
}

impl Default for Seen {
    fn default() -> Self {
        Self {
            has_log: false,
            plain: true,
            has_timestamp: false,
            count: 0,
            hashes: [0; FAST_MEMBERS_MAX],
        }
    }
}

impl Seen {
    /// Notes a key. Keys that only might be the same make it mixed: then they are compared whole.
    fn key(&mut self, key: &str) {
        let hash = key_hash(key.as_bytes());
        match self.hashes.get_mut(self.count) {
            Some(slot) => *slot = hash,
            None => self.plain = false,
        }
        let before = &self.hashes[..self.count.min(FAST_MEMBERS_MAX)];
        self.plain &= !before.contains(&hash) && !needs_merge(key, self.has_log);
        self.count += 1;
    }
}

/// Whether an object with this key has to be taken apart.
fn needs_merge(key: &str, has_log: bool) -> bool {
    let first = first_part(key);
    (has_log && first == "log")
        || matches!(
            first,
            "" | "@metadata"
                | "agent"
                | "ecs"
                | "job"
                | "tags"
                | "event"
                | "host"
                | "fields"
                | "@version"
                | "beat"
                | "fullyqualifiedbeatname"
        )
        || key.starts_with("@timestamp.")
        || memchr::memchr2(b'[', b']', key.as_bytes()).is_some()
}

/// Differs for almost all different keys; only speed depends on it.
fn key_hash(key: &[u8]) -> u64 {
    const MIX: u64 = 0x9e37_79b9_7f4a_7c15;
    let mut hash = key.len() as u64;
    for chunk in key.chunks(8) {
        let mut word = [0; 8];
        word[..chunk.len()].copy_from_slice(chunk);
        hash = (hash.rotate_left(23) ^ u64::from_le_bytes(word)).wrapping_mul(MIX);
    }
    hash
}

/// Reads the whole object; an error is anything that makes the line text.
struct Top<'s>(&'s mut Seen);

impl<'de> DeserializeSeed<'de> for Top<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Top<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(is_time) = map.next_key_seed(TopKey(self.0))? {
            let wanted = if is_time {
                Wanted::Time
            } else {
                Wanted::Nothing
            };
            let fit = map.next_value_seed(Inner { depth: 1, wanted })?;
            if is_time {
                self.0.has_timestamp = true;
                self.0.plain &= fit;
            }
        }
        Ok(())
    }
}

/// Notes a key of the top level; true for `@timestamp`.
struct TopKey<'s>(&'s mut Seen);

impl<'de> DeserializeSeed<'de> for TopKey<'_> {
    type Value = bool;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<bool, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for TopKey<'_> {
    type Value = bool;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key")
    }

    fn visit_str<E>(self, key: &str) -> Result<bool, E> {
        self.0.key(key);
        Ok(key == "@timestamp")
    }
}

/// What is asked of a value beside being readable.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Wanted {
    Nothing,
    /// That it is a time which can stay as it is.
    Time,
}

/// Reads any value; true when it is what was wanted. Keys are read as strings too: skipping
/// them would let lone surrogates through.
#[derive(Clone, Copy)]
struct Inner {
    depth: usize,
    wanted: Wanted,
}

impl Inner {
    fn deeper<E: serde::de::Error>(self) -> Result<Self, E> {
        if self.depth + 1 >= DEPTH_MAX {
            return Err(E::custom(format_args!("nested deeper than {DEPTH_MAX}")));
        }
        Ok(Self {
            depth: self.depth + 1,
            wanted: Wanted::Nothing,
        })
    }
}

impl<'de> DeserializeSeed<'de> for Inner {
    type Value = bool;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<bool, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Inner {
    type Value = bool;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_bool<E>(self, _: bool) -> Result<bool, E> {
        Ok(false)
    }

    fn visit_i64<E>(self, _: i64) -> Result<bool, E> {
        Ok(false)
    }

    fn visit_u64<E>(self, _: u64) -> Result<bool, E> {
        Ok(false)
    }

    fn visit_f64<E>(self, _: f64) -> Result<bool, E> {
        Ok(false)
    }

    fn visit_str<E>(self, text: &str) -> Result<bool, E> {
        Ok(self.wanted == Wanted::Time && matches!(time_of(text), Time::Fit))
    }

    fn visit_unit<E>(self) -> Result<bool, E> {
        Ok(false)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<bool, A::Error> {
        let inner = self.deeper()?;
        while seq.next_element_seed(inner)?.is_some() {}
        Ok(false)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<bool, A::Error> {
        let inner = self.deeper()?;
        while map.next_key_seed(inner)?.is_some() {
            map.next_value_seed(inner)?;
        }
        Ok(false)
    }
}
