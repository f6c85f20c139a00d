//! Whether a version 2 payload is what every server behind us takes: one JSON object in UTF-8.
//!
//! Looks, never changes: the bytes go on as they came. What passes here must not be refused by
//! the servers that we ship to, because a server that refuses an event refuses its whole window.

use serde::de::IgnoredAny;

use super::Fault;

/// Deepest nesting that is taken: Logstash's parser (Jackson) resets the connection beyond it.
pub(super) const DEPTH_MAX: usize = 1_000;

/// Refuses everything but one JSON object; `number` is the event's place in its window.
pub(super) fn check(payload: &[u8], number: usize) -> Result<(), Fault> {
    let text = std::str::from_utf8(payload).map_err(|_| Fault::NotUtf8(number))?;
    if !text.trim_start().starts_with('{') {
        return Err(Fault::NotAnObject(number));
    }
    if is_deep(payload) {
        let limit = DEPTH_MAX;
        return Err(Fault::TooDeep { number, limit });
    }
    // Iterative in serde_json: its own limit of depth does not hold for what is ignored.
    serde_json::from_str::<IgnoredAny>(text)
        .map(|_| ())
        .map_err(|error| Fault::NotJson {
            number,
            error: error.to_string(),
        })
}

/// Whether brackets are nested more than [`DEPTH_MAX`] deep, as far as the text is JSON.
fn is_deep(payload: &[u8]) -> bool {
    // Nearly no event has so many brackets at all, and counting them is far cheaper than this.
    if memchr::memchr2_iter(b'{', b'[', payload)
        .nth(DEPTH_MAX)
        .is_none()
    {
        return false;
    }
    let (mut depth, mut in_text, mut escaped) = (0_usize, false, false);
    for byte in payload {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_text => escaped = true,
            b'"' => in_text = !in_text,
            b'{' | b'[' if !in_text => {
                depth += 1;
                if depth > DEPTH_MAX {
                    return true;
                }
            }
            b'}' | b']' if !in_text => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nested(depth: usize) -> String {
        let inner = depth - 1;
        format!("{{\"a\":{}{}}}", "[".repeat(inner), "]".repeat(inner))
    }

    #[test]
    fn events_are_as_deep_as_logstash_takes_them() {
        assert_eq!(check(nested(DEPTH_MAX).as_bytes(), 1), Ok(()));
        let fault = Fault::TooDeep {
            number: 3,
            limit: DEPTH_MAX,
        };
        assert_eq!(check(nested(DEPTH_MAX + 1).as_bytes(), 3), Err(fault));
    }

    #[test]
    fn brackets_beside_each_other_and_in_texts_are_not_deep() {
        let flat = format!("{{\"a\":[{}1]}}", "[],{},".repeat(5_000));
        assert_eq!(check(flat.as_bytes(), 1), Ok(()));
        let text = format!(
            r#"{{"a":"\"{}","b\\":"{}"}}"#,
            "[".repeat(5_000),
            "{".repeat(5_000)
        );
        assert_eq!(check(text.as_bytes(), 1), Ok(()));
    }
}
