//! An event as version 1 of the protocol wants it: `D` frames of keys and values, all of them texts.
//!
//! Each key of the JSON object is a pair: a string goes as its text, anything else as its JSON.
//! `message` goes under the name `line`: servers of version 1 hand `line` to their codec, which makes
//! it the `message` again (Logstash's beats input takes either and keeps the other as a field, so
//! sending both would store the text twice). An event with a `line` of its own goes under its own
//! names. Must never know windows, and refuses nothing: what has no keys is one `line` as it is.

use std::borrow::Cow;
use std::fmt;

use serde::Deserialize;
use serde::de::MapAccess;
use serde::de::Visitor;
use serde_json::value::RawValue;

use super::frame::DATA;
use super::frame::Version;
use crate::event::Frames;

/// What servers of version 1 take for the log's line.
const LINE: &str = "line";
const MESSAGE: &str = "message";

/// The `1D` frames of these events, numbered as they are.
#[must_use]
pub fn data_frames(events: &Frames) -> Vec<u8> {
    let mut out = Vec::with_capacity(events.bytes().len());
    for (seq, payload) in (1..).zip(events.payloads()) {
        data_frame(seq, payload, &mut out);
    }
    out
}

/// Appends one `1D` frame: sequence number, count of pairs, and each key and value with its length.
///
/// # Panics
/// When a key or value has 4 GiB; events are far smaller.
pub fn data_frame(seq: u32, payload: &[u8], out: &mut Vec<u8>) {
    let Pairs(mut pairs) = serde_json::from_slice(payload).unwrap_or_default();
    let has_line = pairs.iter().any(|(key, _)| key == LINE);
    for (key, _) in &mut pairs {
        if key == MESSAGE && !has_line {
            LINE.clone_into(key);
        }
    }
    out.extend_from_slice(&[Version::V1.byte(), DATA]);
    out.extend_from_slice(&seq.to_be_bytes());
    // Logstash resets the connection on an event without pairs.
    out.extend_from_slice(&len(pairs.len().max(1)));
    if pairs.is_empty() {
        pair(LINE.as_bytes(), payload, out);
    }
    for (key, value) in pairs {
        pair(key.as_bytes(), text(value).as_bytes(), out);
    }
}

fn pair(key: &[u8], value: &[u8], out: &mut Vec<u8>) {
    for bytes in [key, value] {
        out.extend_from_slice(&len(bytes.len()));
        out.extend_from_slice(bytes);
    }
}

fn len(of: usize) -> [u8; 4] {
    u32::try_from(of)
        .expect("an event is far smaller than 4 GiB")
        .to_be_bytes()
}

/// A string's text; the JSON of anything else, also of a string that is no Unicode (`"\ud800"`).
fn text(value: &RawValue) -> Cow<'_, str> {
    if value.get().starts_with('"')
        && let Ok(text) = serde_json::from_str::<String>(value.get())
    {
        return text.into();
    }
    value.get().into()
}

/// The keys and values of an object, in their order, those that stand there twice too.
#[derive(Default)]
struct Pairs<'a>(Vec<(String, &'a RawValue)>);

impl<'de> Deserialize<'de> for Pairs<'de> {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Object;
        impl<'de> Visitor<'de> for Object {
            type Value = Pairs<'de>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a JSON object")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Pairs<'de>, A::Error> {
                let mut pairs = Vec::new();
                while let Some(pair) = map.next_entry()? {
                    pairs.push(pair);
                }
                Ok(Pairs(pairs))
            }
        }
        deserializer.deserialize_map(Object)
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::*;

    fn read(mut bytes: &[u8]) -> (u32, Vec<(String, String)>) {
        fn number(bytes: &mut &[u8]) -> u32 {
            let (head, rest) = bytes.split_at(4);
            *bytes = rest;
            u32::from_be_bytes(head.try_into().unwrap())
        }
        fn one(bytes: &mut &[u8]) -> String {
            let len = number(bytes) as usize;
            let (text, rest) = bytes.split_at(len);
            *bytes = rest;
            String::from_utf8(text.to_vec()).unwrap()
        }
        assert_eq!(&bytes[..2], b"1D");
        bytes = &bytes[2..];
        let seq = number(&mut bytes);
        let count = number(&mut bytes);
        let pairs = (0..count)
            .map(|_| (one(&mut bytes), one(&mut bytes)))
            .collect();
        assert!(bytes.is_empty());
        (seq, pairs)
    }

    fn pairs(payload: &str) -> Vec<(String, String)> {
        let mut out = Vec::new();
        data_frame(7, payload.as_bytes(), &mut out);
        let (seq, pairs) = read(&out);
        assert_eq!(seq, 7);
        pairs
    }

    fn expect(payload: &str, expected: &[(&str, &str)]) {
        let expected: Vec<(String, String)> = expected
            .iter()
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
            .collect();
        assert_eq!(pairs(payload), expected, "{payload}");
    }

    #[test]
    fn a_data_frame_is_the_bytes_that_logstash_forwarder_writes() {
        let mut out = Vec::new();
        data_frame(1, br#"{"message":"hello","host":"h1"}"#, &mut out);
        // Vector: `1D`, seq 1, two pairs line=hello host=h1.
        assert_eq!(
            out,
            b"\x31\x44\x00\x00\x00\x01\x00\x00\x00\x02\x00\x00\x00\x04line\x00\x00\x00\x05hello\
              \x00\x00\x00\x04host\x00\x00\x00\x02h1"
        );
    }

    #[test]
    fn every_key_is_a_pair_and_nothing_of_an_event_is_lost() {
        expect(
            r#"{"message":"a\n\u00e4","n": 1.50,"o":{"p":[1, 2]},"z":null,"s":"\ud800"}"#,
            &[
                ("line", "a\n\u{e4}"),
                ("n", "1.50"),
                ("o", r#"{"p":[1, 2]}"#),
                ("z", "null"),
                ("s", r#""\ud800""#),
            ],
        );
        expect(
            r#"{"message":"a","line":"b"}"#,
            &[("message", "a"), ("line", "b")],
        );
        expect(r#"{"message":{"a":1}}"#, &[("line", r#"{"a":1}"#)]);
        expect(
            r#"{"":"x","a":1,"a":2}"#,
            &[("", "x"), ("a", "1"), ("a", "2")],
        );
    }

    #[test]
    fn there_is_always_a_pair() {
        expect("{}", &[("line", "{}")]);
        expect("[1]", &[("line", "[1]")]);
        expect("{broken", &[("line", "{broken")]);
    }
}
