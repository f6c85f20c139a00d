//! Units: instants, durations, sizes and addresses as people write them.
//!
//! A value that exists is valid: text becomes a type once, and a refusal shows a
//! correct example. Knows nothing of clocks (it never asks for the time), jobs or files.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use chrono::DateTime;
use chrono::Datelike;
use chrono::TimeZone;
use chrono::Timelike;
use chrono::Utc;

/// Port that Logstash's beats input listens on by default.
pub const LUMBERJACK_PORT: u16 = 5044;

/// A wall-clock instant: milliseconds since 1970-01-01T00:00:00Z, the resolution of Beats events.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Timestamp(pub i64);

/// Length of [`Timestamp::write`]'s output for the years 0..=9999: `2026-11-21T08:08:08.123Z`.
pub const TIMESTAMP_TEXT_BYTES: usize = 24;

impl Timestamp {
    /// The instant as a UTC date; years outside chrono's range clamp to the epoch.
    #[must_use]
    pub fn utc(self) -> DateTime<Utc> {
        Utc.timestamp_millis_opt(self.0)
            .single()
            .unwrap_or_default()
    }

    /// Appends the ISO 8601 form with milliseconds and `Z` that Beats use.
    pub fn write(self, out: &mut Vec<u8>) {
        let at = self.utc();
        let year = at.year().clamp(0, 9999).unsigned_abs();
        let mut text = *b"0000-00-00T00:00:00.000Z";
        digits(&mut text[0..4], year);
        digits(&mut text[5..7], at.month());
        digits(&mut text[8..10], at.day());
        digits(&mut text[11..13], at.hour());
        digits(&mut text[14..16], at.minute());
        digits(&mut text[17..19], at.second());
        digits(&mut text[20..23], at.timestamp_subsec_millis());
        out.extend_from_slice(&text);
    }

    /// This instant moved forward by `by`, saturating.
    #[must_use]
    pub fn after(self, by: Duration) -> Self {
        Self(
            self.0
                .saturating_add(i64::try_from(by.as_millis()).unwrap_or(i64::MAX)),
        )
    }

    /// How long after `earlier` this is; zero when it is not after it.
    #[must_use]
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(u64::try_from(self.0.saturating_sub(earlier.0)).unwrap_or(0))
    }
}

fn digits(out: &mut [u8], mut value: u32) {
    for slot in out.iter_mut().rev() {
        *slot = b'0' + (value % 10) as u8;
        value /= 10;
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = Vec::with_capacity(TIMESTAMP_TEXT_BYTES);
        self.write(&mut text);
        f.write_str(&String::from_utf8_lossy(&text))
    }
}

impl FromStr for Timestamp {
    type Err = String;

    /// Takes RFC 3339 (`2026-11-21T08:08:08Z`, any offset, up to nanoseconds, which are cut to milliseconds).
    fn from_str(text: &str) -> Result<Self, String> {
        DateTime::parse_from_rfc3339(text)
            .map(|at| Self(at.timestamp_millis()))
            .map_err(|error| {
                format!("`{text}` is not a time ({error}); write it like 2026-11-21T08:08:08Z")
            })
    }
}

/// What stands before a number of events that wait for an output: some of them may turn out to be for
/// others only, and finding out would mean to read them all.
#[must_use]
pub const fn up_to(waiting: u64) -> &'static str {
    match waiting {
        0 => "",
        _ => "up to ",
    }
}

/// Reads a duration: one or more numbers with a unit, like `200ms`, `30s`, `1m30s`, `2h`, `30d`.
///
/// # Errors
/// Names the text and a correct example.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let refuse = || {
        format!(
            "`{text}` is not a duration; write a number and a unit, like 200ms, 30s, 1m30s, 2h or 30d"
        )
    };
    let mut rest = text.trim();
    if rest.is_empty() {
        return Err(refuse());
    }
    let mut total = Duration::ZERO;
    while !rest.is_empty() {
        let end = rest
            .find(|c: char| !c.is_ascii_digit())
            .ok_or_else(refuse)?;
        let number: u64 = rest[..end].parse().map_err(|_| refuse())?;
        rest = &rest[end..];
        let end = rest
            .find(|c: char| c.is_ascii_digit())
            .unwrap_or(rest.len());
        let unit_ms: u64 = match rest[..end].trim() {
            "ms" => 1,
            "s" => 1_000,
            "m" | "min" => 60_000,
            "h" => 3_600_000,
            "d" => 86_400_000,
            _ => return Err(refuse()),
        };
        rest = rest[end..].trim_start();
        let part = number.checked_mul(unit_ms).ok_or_else(refuse)?;
        total = total
            .checked_add(Duration::from_millis(part))
            .ok_or_else(refuse)?;
    }
    Ok(total)
}

/// Reads a size in bytes: a number and a unit, like `64KiB`, `1MiB`, `10GiB` or `500MB`; `0` needs no unit.
///
/// # Errors
/// Names the text and a correct example.
pub fn parse_bytes(text: &str) -> Result<u64, String> {
    let refuse = || {
        format!(
            "`{text}` is not a size; write a number and a unit, like 64KiB, 1MiB, 10GiB or 500MB"
        )
    };
    let trimmed = text.trim();
    let end = trimmed
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(trimmed.len());
    let number: u64 = trimmed[..end].parse().map_err(|_| refuse())?;
    let unit: u64 = match trimmed[end..].trim() {
        "" if number == 0 => 1,
        "B" => 1,
        "KB" | "kB" => 1_000,
        "MB" => 1_000_000,
        "GB" => 1_000_000_000,
        "TB" => 1_000_000_000_000,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        "TiB" => 1 << 40,
        _ => return Err(refuse()),
    };
    number.checked_mul(unit).ok_or_else(refuse)
}

/// `host:port` of a text in which the port may be left out where there is a usual one.
///
/// # Errors
/// What is wrong with the text; the caller knows the example.
pub fn parse_address(text: &str, usual_port: Option<u16>) -> Result<String, String> {
    let refuse = |why: &str| Err(format!("`{text}` is not an address: {why}"));
    if text.contains("://") {
        return refuse("it is a URL");
    }
    let (host, port) = match text.strip_prefix('[') {
        Some(rest) => {
            let Some((host, port)) = rest.split_once(']') else {
                return refuse("`[` without `]`");
            };
            if host.parse::<std::net::Ipv6Addr>().is_err() {
                return refuse("what stands in brackets is not an IPv6 address");
            }
            (format!("[{host}]"), port)
        }
        None if text.matches(':').count() > 1 => {
            return refuse("an IPv6 address stands in brackets");
        }
        None => {
            let end = text.find(':').unwrap_or(text.len());
            (text[..end].to_owned(), &text[end..])
        }
    };
    let odd = |c: char| c.is_whitespace() || c.is_control() || "/@,;".contains(c);
    if host.is_empty() || host.contains(odd) {
        return refuse("there is no host name");
    }
    let port = match (port.strip_prefix(':'), usual_port) {
        (Some(port), _) => port.parse::<u16>().ok(),
        (None, usual) if port.is_empty() => usual,
        (None, _) => None,
    };
    // Port 0 is a listener's way to say "any".
    match port.filter(|port| *port > 0 || usual_port.is_none()) {
        Some(port) => Ok(format!("{host}:{port}")),
        None => refuse("there is no port from 1 to 65535"),
    }
}

/// Writes a size the way people read it: `512 B`, `1.5 MiB`.
#[must_use]
pub fn show_bytes(bytes: u64) -> String {
    let mut unit = "B";
    let mut scaled = bytes as f64;
    for next in ["KiB", "MiB", "GiB", "TiB"] {
        if scaled < 1024.0 {
            break;
        }
        scaled /= 1024.0;
        unit = next;
    }
    if unit == "B" {
        format!("{bytes} B")
    } else {
        format!("{scaled:.1} {unit}")
    }
}

/// Writes a duration the way people read it: `850ms`, `12.3s`, `4m05s`, `2h03m`, `3d04h`.
#[must_use]
pub fn show_duration(duration: Duration) -> String {
    let ms = duration.as_millis();
    let s = duration.as_secs();
    match ms {
        0..1_000 => format!("{ms}ms"),
        1_000..60_000 => format!("{:.1}s", duration.as_secs_f64()),
        60_000..3_600_000 => format!("{}m{:02}s", s / 60, s % 60),
        3_600_000..86_400_000 => format!("{}h{:02}m", s / 3600, s / 60 % 60),
        _ => format!("{}d{:02}h", s / 86_400, s / 3600 % 24),
    }
}

/// A duration as it is written in a configuration, to the millisecond: `90s` is `1m30s`. What
/// was measured is shown by [`show_duration`], which rounds.
#[must_use]
pub fn write_duration(duration: Duration) -> String {
    const UNITS: [(&str, u128); 5] = [
        ("d", 86_400_000),
        ("h", 3_600_000),
        ("m", 60_000),
        ("s", 1_000),
        ("ms", 1),
    ];
    let mut text = String::new();
    let mut left = duration.as_millis();
    for (unit, ms) in UNITS {
        if left >= ms {
            text.push_str(&format!("{}{unit}", left / ms));
            left %= ms;
        }
    }
    if text.is_empty() {
        text.push_str("0s");
    }
    text
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn times_read_back_as_written() {
        for ms in [0, 1, 1_763_712_488_123, 253_402_300_799_999] {
            let text = Timestamp(ms).to_string();
            assert_eq!(text.len(), TIMESTAMP_TEXT_BYTES);
            assert_eq!(text.parse::<Timestamp>().unwrap(), Timestamp(ms));
        }
        assert_eq!(
            Timestamp(1_763_712_488_123).to_string(),
            "2025-11-21T08:08:08.123Z"
        );
        assert!(
            "yesterday"
                .parse::<Timestamp>()
                .unwrap_err()
                .contains("2026-11-21T08:08:08Z")
        );
    }

    #[test]
    fn written_durations_read_back_as_they_are() {
        for text in [
            "0s",
            "1ms",
            "200ms",
            "10s",
            "1m",
            "1m30s",
            "1s500ms",
            "2h",
            "1d",
            "1d1h1m1s1ms",
            "30d",
        ] {
            let duration = parse_duration(text).unwrap();
            assert_eq!(write_duration(duration), text);
        }
    }

    #[test]
    fn durations_take_units_and_refuse_bare_numbers() {
        let ok = |text: &str| parse_duration(text).unwrap().as_millis();
        assert_eq!(ok("200ms"), 200);
        assert_eq!(ok("1m30s"), 90_000);
        assert_eq!(ok("1h 5m"), 3_900_000);
        assert_eq!(ok("30d"), 30 * 86_400_000);
        for bad in ["", "30", "s", "-1s", "1.5s", "1y", "99999999999999999999s"] {
            assert!(parse_duration(bad).unwrap_err().contains("1m30s"), "{bad}");
        }
    }

    #[test]
    fn sizes_take_units_and_refuse_bare_numbers() {
        assert_eq!(parse_bytes("64KiB").unwrap(), 65_536);
        assert_eq!(parse_bytes("500MB").unwrap(), 500_000_000);
        assert_eq!(parse_bytes("0").unwrap(), 0);
        for bad in ["", "10", "MiB", "1.5GiB", "9999999999TiB"] {
            assert!(parse_bytes(bad).unwrap_err().contains("10GiB"), "{bad}");
        }
        assert_eq!(show_bytes(1_572_864), "1.5 MiB");
    }
}
