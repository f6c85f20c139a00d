//! Writing JSON strings and numbers as bytes, long plain runs at once.
//!
//! On the hot path of each event: nothing here allocates. Must never know what the strings mean.

const ONES: u64 = 0x0101_0101_0101_0101;
const HIGHS: u64 = 0x8080_8080_8080_8080;
const HEX: &[u8; 16] = b"0123456789abcdef";

/// U+FFFD, which stands for each run of bytes that is not UTF-8.
const REPLACEMENT: &str = "\u{fffd}";

/// Appends `text` as a JSON string, quotes included.
pub(super) fn quoted(out: &mut Vec<u8>, text: &str) {
    out.push(b'"');
    escaped(out, text.as_bytes());
    out.push(b'"');
}

/// Appends the inside of a JSON string. Returns whether something was not UTF-8 and replaced.
pub(super) fn escaped_lossy(out: &mut Vec<u8>, text: &[u8]) -> bool {
    if std::str::from_utf8(text).is_ok() {
        escaped(out, text);
        return false;
    }
    for chunk in text.utf8_chunks() {
        escaped(out, chunk.valid().as_bytes());
        if !chunk.invalid().is_empty() {
            out.extend_from_slice(REPLACEMENT.as_bytes());
        }
    }
    true
}

/// Appends the inside of a JSON string; `text` is UTF-8.
pub(super) fn escaped(out: &mut Vec<u8>, text: &[u8]) {
    let mut start = 0;
    let mut at = 0;
    while let Some(found) = next_special(text, at) {
        out.extend_from_slice(&text[start..found]);
        escape_byte(out, text[found]);
        at = found + 1;
        start = at;
    }
    out.extend_from_slice(&text[start..]);
}

/// How long the prefix of `text` is that needs at most `budget` bytes when escaped and made UTF-8.
/// The prefix ends at the start of a character.
pub(super) fn fitting_prefix(text: &[u8], budget: usize) -> usize {
    let mut used = 0;
    let mut taken = 0;
    for chunk in text.utf8_chunks() {
        for c in chunk.valid().chars() {
            used += match c {
                '"' | '\\' | '\n' | '\r' | '\t' => 2,
                '\0'..='\x1f' => 6,
                _ => c.len_utf8(),
            };
            if used > budget {
                return taken;
            }
            taken += c.len_utf8();
        }
        if !chunk.invalid().is_empty() {
            used += REPLACEMENT.len();
            if used > budget {
                return taken;
            }
            taken += chunk.invalid().len();
        }
    }
    taken
}

/// Where the first byte at or after `from` lies that cannot stand in a JSON string as it is.
fn next_special(text: &[u8], from: usize) -> Option<usize> {
    let mut at = from;
    while let Some(word) = text.get(at..).and_then(<[u8]>::first_chunk::<8>) {
        // Eight bytes at once (Mycroft's test); the lowest mark is always a true one.
        let word = u64::from_le_bytes(*word);
        let quote = word ^ (ONES * b'"' as u64);
        let slash = word ^ (ONES * b'\\' as u64);
        let marks = (word.wrapping_sub(ONES * 0x20) & !word
            | quote.wrapping_sub(ONES) & !quote
            | slash.wrapping_sub(ONES) & !slash)
            & HIGHS;
        if marks != 0 {
            return Some(at + (marks.trailing_zeros() / 8) as usize);
        }
        at += 8;
    }
    text[at..]
        .iter()
        .position(|byte| matches!(byte, b'"' | b'\\' | 0..0x20))
        .map(|found| at + found)
}

fn escape_byte(out: &mut Vec<u8>, byte: u8) {
    match byte {
        b'"' => out.extend_from_slice(b"\\\""),
        b'\\' => out.extend_from_slice(b"\\\\"),
        b'\n' => out.extend_from_slice(b"\\n"),
        b'\r' => out.extend_from_slice(b"\\r"),
        b'\t' => out.extend_from_slice(b"\\t"),
        _ => {
            out.extend_from_slice(b"\\u00");
            out.push(HEX[usize::from(byte >> 4)]);
            out.push(HEX[usize::from(byte & 0xf)]);
        }
    }
}

/// Appends `value` in decimal.
pub(super) fn number(out: &mut Vec<u8>, mut value: u64) {
    let mut text = [0_u8; 20];
    let mut start = text.len();
    loop {
        start -= 1;
        text[start] = b'0' + (value % 10) as u8;
        value /= 10;
        if value == 0 {
            break;
        }
    }
    out.extend_from_slice(&text[start..]);
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_was_escaped_reads_back(text in any::<String>(), pad in 0..20_usize) {
            let text = format!("{}{text}", "x".repeat(pad));
            let mut out = Vec::new();
            quoted(&mut out, &text);
            prop_assert_eq!(serde_json::from_slice::<String>(&out).unwrap(), text);
        }

        #[test]
        fn any_bytes_read_back_as_lossy_text(text in proptest::collection::vec(any::<u8>(), 0..80)) {
            let mut out = vec![b'"'];
            let flagged = escaped_lossy(&mut out, &text);
            out.push(b'"');
            let lossy = String::from_utf8_lossy(&text);
            prop_assert_eq!(&serde_json::from_slice::<String>(&out).unwrap(), &lossy);
            prop_assert_eq!(flagged, std::str::from_utf8(&text).is_err());
        }

        #[test]
        fn the_fitting_prefix_fits_and_is_the_longest(text in proptest::collection::vec(any::<u8>(), 0..60), budget in 0..80_usize) {
            let size = |upto: usize| {
                let mut out = Vec::new();
                escaped_lossy(&mut out, &text[..upto]);
                out.len()
            };
            let taken = fitting_prefix(&text, budget);
            prop_assert!(size(taken) <= budget);
            if taken < text.len() {
                // The longest character has four bytes.
                prop_assert!(size(text.len().min(taken + 4)) > budget);
            }
        }

        #[test]
        fn numbers_are_decimal(value in any::<u64>()) {
            let mut out = Vec::new();
            number(&mut out, value);
            prop_assert_eq!(out, value.to_string().into_bytes());
        }
    }
}
