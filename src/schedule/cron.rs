//! Cron expressions in a time zone: the next time after a given one.
//!
//! The `cron` crate finds matches on a wall clock without a zone; what the zone makes of them is
//! decided here, because across a change of the clocks the crate goes back in time, fires twice or
//! forgets. The rules are those of Debian's cron:
//!
//! | | clocks go forward (02:00 -> 03:00) | clocks go back (03:00 -> 02:00) |
//! |---|---|---|
//! | fixed time, `30 2 * * *` | once, at the first valid minute (03:00) | once, in the first pass |
//! | minute or hour begins with `*` | goes on in real time | runs in both passes |
//!
//! Must never read a clock: the time comes in as an argument.

use std::fmt;

use chrono::DateTime;
use chrono::LocalResult;
use chrono::NaiveDateTime;
use chrono::Offset;
use chrono::TimeDelta;
use chrono::TimeZone;
use chrono::Utc;
use chrono_tz::GapInfo;
use chrono_tz::Tz;

use crate::schedule::crontab::Fields;
use crate::units::Timestamp;

/// Most matches that are looked at for one answer. Passed over are only those inside a gap or a
/// fold of the wall clock: at one a second, the longest gap in the zone data, a whole day
/// (Pacific/Apia, 2011), fits. Beyond it there would be no next time.
const MATCHES_MAX: usize = 90_000;

/// A checked cron expression with its time zone.
#[derive(Debug, Clone, PartialEq)]
pub struct Cron {
    text: String,
    zone: Tz,
    passes: Passes,
    /// One, or two of which either may match; on a wall clock that is carried as if it were UTC.
    wall: Vec<cron::Schedule>,
}

/// What becomes of times that the wall clock shows twice or not at all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Passes {
    /// A fixed time of day: exactly once.
    Once,
    /// A wildcard: as real time passes.
    All,
}

impl Cron {
    /// Reads an expression: five fields as in crontab(5), six with the second first, or `@daily`
    /// and its like. `timezone` is an IANA name; `None` is the machine's own zone (the variable
    /// TZ, else the system's setting, else UTC).
    ///
    /// # Errors
    /// A lower-case fragment with the text and a correct example; also for an expression that
    /// never matches, like the 31st of February.
    pub fn parse(text: &str, timezone: Option<&str>) -> Result<Self, String> {
        let fields = Fields::read(text)?;
        let text = text.trim().to_owned();
        let wall = fields
            .expressions()
            .iter()
            .map(|line| line.parse())
            .collect::<Result<Vec<cron::Schedule>, _>>()
            .map_err(|error| {
                format!("`{text}` is not understood ({error}); write it like `*/5 * * * *`")
            })?;
        let zone = match timezone {
            Some(name) => zone(name)?,
            None => machine_zone(
                std::env::var("TZ").ok().as_deref(),
                iana_time_zone::get_timezone().ok().as_deref(),
            ),
        };
        let passes = if fields.is_wildcard() {
            Passes::All
        } else {
            Passes::Once
        };
        let cron = Self {
            text,
            zone,
            passes,
            wall,
        };
        // The calendar repeats its leap days and weekdays within 40 years, and the crate knows 1970 to 2100.
        if cron.matches(NaiveDateTime::default()).next().is_none() {
            return Err(format!(
                "`{}` never fires: no month has such a day; write it like `0 0 28 2 *`",
                cron.text
            ));
        }
        Ok(cron)
    }

    /// The first time strictly after `after`; `None` beyond the year 2100. Monotone.
    #[must_use]
    pub fn next_after(&self, after: Timestamp) -> Option<Timestamp> {
        let asked = after;
        let after = Timestamp(after.0.max(0)).utc();
        let here = self
            .zone
            .from_utc_datetime(&after.naive_utc())
            .naive_local();
        let next = match self.passes {
            Passes::Once => self.first(here, |wall| self.once(wall).filter(|at| *at > after)),
            Passes::All => {
                let at_least = |wall| self.all(wall, after);
                let onward = self.first(here, at_least);
                match self.second_pass(after, here) {
                    Some(again) => [onward, self.first(again, at_least)]
                        .into_iter()
                        .flatten()
                        .min(),
                    None => onward,
                }
            }
        };
        // A time so far off that it is no date reads as the epoch; the answer to it is none.
        next.map(|at| Timestamp(at.timestamp_millis()))
            .filter(|at| *at > asked)
    }

    /// The IANA name of the zone whose wall clock counts.
    #[must_use]
    pub fn timezone(&self) -> &'static str {
        self.zone.name()
    }

    /// What the wall clock shows at `at`, like `2026-03-29 03:00:00 +02:00`.
    #[must_use]
    pub fn local(&self, at: Timestamp) -> String {
        let local = at.utc().with_timezone(&self.zone);
        local.format("%Y-%m-%d %H:%M:%S %:z").to_string()
    }

    /// Whether the job follows real time through a change of the clocks, as minute or hour begin
    /// with `*`; else it keeps to its fixed times.
    #[must_use]
    pub fn is_wildcard(&self) -> bool {
        self.passes == Passes::All
    }

    pub(super) const fn zone(&self) -> Tz {
        self.zone
    }

    /// The first match after `from` that `instant` takes.
    fn first(
        &self,
        from: NaiveDateTime,
        instant: impl Fn(NaiveDateTime) -> Option<DateTime<Utc>>,
    ) -> Option<DateTime<Utc>> {
        self.matches(from).take(MATCHES_MAX).find_map(instant)
    }

    /// The readings of the wall clock after `from` that match, in order.
    pub(super) fn matches(&self, from: NaiveDateTime) -> impl Iterator<Item = NaiveDateTime> {
        let mut reached = from;
        std::iter::from_fn(move || {
            let next = self
                .wall
                .iter()
                .filter_map(|wall| wall.after(&reached.and_utc()).next())
                .min()?;
            reached = next.naive_utc();
            Some(reached)
        })
    }

    /// The instant of a reading, for a fixed time of day.
    fn once(&self, wall: NaiveDateTime) -> Option<DateTime<Utc>> {
        match self.zone.from_local_datetime(&wall) {
            LocalResult::Single(at) | LocalResult::Ambiguous(at, _) => Some(at.to_utc()),
            LocalResult::None => Some(GapInfo::new(&wall, &self.zone)?.end?.to_utc()),
        }
    }

    /// The first instant of a reading that is after `after`, for a wildcard.
    fn all(&self, wall: NaiveDateTime, after: DateTime<Utc>) -> Option<DateTime<Utc>> {
        let (first, second) = match self.zone.from_local_datetime(&wall) {
            LocalResult::Single(at) => (at, at),
            LocalResult::Ambiguous(first, second) => (first, second),
            LocalResult::None => return None,
        };
        [first.to_utc(), second.to_utc()]
            .into_iter()
            .find(|at| *at > after)
    }

    /// When `after` is in the first pass of an hour that comes twice: what the wall clock would
    /// show if it had been set back already. Matches of the second pass lie after this reading,
    /// though not after the real one.
    fn second_pass(&self, after: DateTime<Utc>, here: NaiveDateTime) -> Option<NaiveDateTime> {
        match self.zone.from_local_datetime(&here) {
            LocalResult::Ambiguous(first, second) if first.to_utc() == after => {
                let offset = second.offset().fix().local_minus_utc();
                Some(after.naive_utc() + TimeDelta::seconds(i64::from(offset)))
            }
            _ => None,
        }
    }
}

impl fmt::Display for Cron {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// The time zone of an IANA name.
///
/// # Errors
/// A lower-case fragment with the text and a correct example.
pub fn zone(name: &str) -> Result<Tz, String> {
    let refuse =
        |_| format!("`{name}` is not a time zone; write its IANA name, like Europe/Berlin");
    name.parse().map_err(refuse)
}

/// The zone of this machine: what TZ names (`Europe/Berlin`, `:Europe/Berlin`, a path below
/// `zoneinfo/`; set but empty is UTC, as for the C library), else the system's, else UTC.
fn machine_zone(variable: Option<&str>, system: Option<&str>) -> Tz {
    let named = |text: &str| {
        let text = text.strip_prefix(':').unwrap_or(text);
        match text.rsplit_once("zoneinfo/") {
            Some((_, name)) => name.parse().ok(),
            None => text.parse().ok(),
        }
    };
    if variable == Some("") {
        return Tz::UTC;
    }
    variable
        .and_then(named)
        .or_else(|| system.and_then(named))
        .unwrap_or(Tz::UTC)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use std::collections::BTreeSet;

    use chrono::Datelike;
    use chrono::Timelike;
    use proptest::prelude::*;

    use super::*;

    const BERLIN: &str = "Europe/Berlin";

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    /// All fires in (from, to], which must be strictly increasing.
    fn fires(text: &str, zone: &str, from: &str, to: &str) -> Vec<Timestamp> {
        let cron = Cron::parse(text, Some(zone)).unwrap();
        let (mut now, to) = (at(from), at(to));
        let mut fires = Vec::new();
        while let Some(next) = cron.next_after(now).filter(|next| *next <= to) {
            assert!(next > now, "{text}: {next} is not after {now}");
            fires.push(next);
            now = next;
        }
        fires
    }

    fn shown(text: &str, zone: &str, from: &str, to: &str) -> Vec<String> {
        let zone_of: Tz = zone.parse().unwrap();
        fires(text, zone, from, to)
            .iter()
            .map(|at| {
                at.utc()
                    .with_timezone(&zone_of)
                    .format("%H:%M%:::z")
                    .to_string()
            })
            .collect()
    }

    /// What croner says for the same time.
    fn croner_says(text: &str, zone: Tz, from: &str, to: &str) -> Vec<Timestamp> {
        let oracle: croner::Cron = text.parse().unwrap();
        let (from, to) = (at(from).utc(), at(to).utc());
        oracle
            .iter_after(from.with_timezone(&zone))
            .take_while(|next| *next <= to)
            .map(|next| Timestamp(next.timestamp_millis()))
            .collect()
    }

    const NEW_YEAR: (&str, &str) = ("2025-12-31T23:59:59+01:00", "2026-12-31T23:59:59+01:00");

    #[test]
    fn a_year_in_a_zone_with_summer_time_has_every_fire_once() {
        for (text, count) in [
            ("*/30 * * * *", 17520),
            ("0 * * * *", 8760),
            ("30 2 * * *", 365),
            ("0,30 2 * * *", 729), // both fall on 03:00 on the day of the gap
            ("@daily", 365),
            ("0 0 29 2 *", 0),
        ] {
            let ours = fires(text, BERLIN, NEW_YEAR.0, NEW_YEAR.1);
            assert_eq!(ours.len(), count, "{text}");
            if text != "0,30 2 * * *" {
                let theirs = croner_says(text, Tz::Europe__Berlin, NEW_YEAR.0, NEW_YEAR.1);
                assert_eq!(ours, theirs, "{text}");
            }
        }
    }

    #[test]
    fn in_spring_a_fixed_time_fires_once_after_the_gap_and_a_wildcard_goes_on() {
        let spring = |text| {
            let (from, to) = ("2026-03-29T01:20:00+01:00", "2026-03-29T04:20:00+02:00");
            shown(text, BERLIN, from, to)
        };
        assert_eq!(spring("30 2 * * *"), ["03:00+02"]);
        assert_eq!(spring("0,30 2,3 * * *"), ["03:00+02", "03:30+02"]);
        assert_eq!(
            spring("*/30 * * * *"),
            ["01:30+01", "03:00+02", "03:30+02", "04:00+02"]
        );
        assert_eq!(spring("15 * * * *"), ["03:15+02", "04:15+02"]);
        assert_eq!(spring("*/30 2 * * *"), Vec::<String>::new());
        assert_eq!(spring("20 30 2 * * *"), ["03:00+02"]);
    }

    #[test]
    fn in_autumn_a_fixed_time_fires_in_the_first_pass_and_a_wildcard_in_both() {
        let autumn = |text| {
            let (from, to) = ("2026-10-25T01:40:00+02:00", "2026-10-25T03:10:00+01:00");
            shown(text, BERLIN, from, to)
        };
        assert_eq!(autumn("30 2 * * *"), ["02:30+02"]);
        assert_eq!(
            autumn("0,30 2,3 * * *"),
            ["02:00+02", "02:30+02", "03:00+01"]
        );
        assert_eq!(
            autumn("*/30 * * * *"),
            ["02:00+02", "02:30+02", "02:00+01", "02:30+01", "03:00+01"]
        );
        // The only matches are inside the hour that comes twice: the second pass is found all the same.
        assert_eq!(
            autumn("*/30 2 25 10 *"),
            ["02:00+02", "02:30+02", "02:00+01", "02:30+01"]
        );
    }

    /// Ten years of a zone, in whole fives of minutes: the instant, and the wall clock in minutes.
    fn ten_years(zone: Tz) -> Vec<(Timestamp, i32)> {
        let (from, to) = (at("2026-01-01T00:00:00Z").0, at("2036-01-01T00:00:00Z").0);
        let quarters = (from..to).step_by(15 * 60_000).flat_map(|quarter| {
            // No zone changes within a quarter of an hour.
            let utc = Timestamp(quarter).utc().naive_utc();
            let offset = zone.offset_from_utc_datetime(&utc).fix().local_minus_utc() / 60;
            [0, 5, 10].map(|minute| {
                let now = Timestamp(quarter + minute * 60_000);
                (now, i32::try_from(now.0 / 60_000).unwrap() + offset)
            })
        });
        quarters.collect()
    }

    /// What Debian's cron does, walking through the time: a wildcard job runs whenever the wall clock
    /// matches; a fixed time when it is shown first or, when it is skipped, right behind the gap.
    fn walked(
        time: &[(Timestamp, i32)],
        minutes: &[i32],
        hours: &[i32],
        wildcard: bool,
    ) -> Vec<Timestamp> {
        const DAY: i32 = 24 * 60;
        let is_due = |wall: i32| {
            let of_day = wall.rem_euclid(DAY);
            minutes.contains(&(of_day % 60)) && hours.contains(&(of_day / 60))
        };
        let mut reached = time[0].1 - 5;
        let mut fires = Vec::new();
        for (now, wall) in time.iter().copied() {
            let due = match wildcard {
                true => is_due(wall),
                false => (reached + 5..=wall).step_by(5).any(is_due),
            };
            if due {
                fires.push(now);
            }
            reached = reached.max(wall);
        }
        fires
    }

    #[test]
    fn ten_years_in_three_zones_go_by_as_with_debians_cron() {
        for zone in [
            Tz::Europe__Berlin,
            Tz::America__New_York,
            Tz::Australia__Lord_Howe,
        ] {
            let time = ten_years(zone);
            for (text, minutes, hours, wildcard) in [
                ("30 2 * * *", &[30][..], &[2][..], false),
                ("15,45 1,2 * * *", &[15, 45], &[1, 2], false),
                ("0 2 * * *", &[0], &[2], false),
                ("45 1 * * *", &[45], &[1], false),
                ("*/30 0-3 * * *", &[0, 30], &[0, 1, 2, 3], true),
                ("*/20 2 * * *", &[0, 20, 40], &[2], true),
                ("10 */6 * * *", &[10], &[0, 6, 12, 18], true),
            ] {
                let cron = Cron::parse(text, Some(zone.name())).unwrap();
                let mut now = Timestamp(at("2026-01-01T00:00:00Z").0 - 1);
                let mut ours = Vec::new();
                while let Some(next) = cron.next_after(now).filter(|next| next.utc().year() < 2036)
                {
                    ours.push(next);
                    now = next;
                }
                let expected = walked(&time, minutes, hours, wildcard);
                let other = ours.iter().zip(&expected).find(|(a, b)| a != b);
                assert_eq!(other, None, "{text} in {zone}");
                assert_eq!(ours.len(), expected.len(), "{text} in {zone}");
            }
        }
    }

    #[test]
    fn a_start_inside_the_second_pass_never_answers_with_the_past() {
        let now = at("2026-10-25T02:40:00+01:00");
        for (text, expected) in [
            ("30 2 * * *", "2026-10-26T02:30:00+01:00"),
            ("45 2 * * *", "2026-10-26T02:45:00+01:00"),
            ("*/30 * * * *", "2026-10-25T03:00:00+01:00"),
            ("45 * * * *", "2026-10-25T02:45:00+01:00"),
        ] {
            let cron = Cron::parse(text, Some(BERLIN)).unwrap();
            assert_eq!(cron.next_after(now), Some(at(expected)), "{text}");
        }
    }

    #[test]
    fn wildcards_follow_real_time_minute_by_minute_through_every_change_of_clocks() {
        for (zone, day) in [
            (BERLIN, "2026-03-28T12:00:00Z"),
            (BERLIN, "2026-10-24T12:00:00Z"),
            ("Australia/Lord_Howe", "2026-04-04T03:00:00Z"), // half an hour
            ("Australia/Lord_Howe", "2026-10-03T03:00:00Z"),
            ("America/St_Johns", "2006-10-29T00:00:00Z"), // at 00:01
            ("Antarctica/Troll", "2026-10-24T12:00:00Z"), // two hours
            ("Pacific/Apia", "2011-12-30T00:00:00Z"),     // a whole day is missing
        ] {
            let tz: Tz = zone.parse().unwrap();
            let from = at(day).0;
            for (text, minutes, hours) in [
                (
                    "*/7 * * * *",
                    (0..60).step_by(7).collect(),
                    (0..24).collect(),
                ),
                ("*/20 2 * * *", vec![0, 20, 40], vec![2]),
                ("59 * * * *", vec![59], (0..24).collect::<Vec<u32>>()),
            ] {
                let expected: Vec<Timestamp> = (1..=48 * 60)
                    .map(|minute| Timestamp(from + minute * 60_000))
                    .filter(|at| {
                        let wall = at.utc().with_timezone(&tz);
                        minutes.contains(&wall.minute()) && hours.contains(&wall.hour())
                    })
                    .collect();
                let to = Timestamp(from + 48 * 3_600_000).to_string();
                assert_eq!(fires(text, zone, day, &to), expected, "{text} {zone} {day}");
            }
        }
    }

    #[test]
    fn leap_days_are_found_and_impossible_days_refused() {
        let leap = fires(
            "0 12 29 2 *",
            "UTC",
            "2026-01-01T00:00:00Z",
            "2034-01-01T00:00:00Z",
        );
        assert_eq!(
            leap,
            [at("2028-02-29T12:00:00Z"), at("2032-02-29T12:00:00Z")]
        );
        for never in ["0 0 31 2 *", "0 0 30 2 *", "0 0 31 4,6,9,11 *"] {
            let problem = Cron::parse(never, Some("UTC")).unwrap_err();
            assert!(
                problem.contains(never) && problem.contains("never fires"),
                "{problem}"
            );
        }
        // Either-or: the day never comes, the weekday does.
        assert!(Cron::parse("0 0 31 2 1", Some("UTC")).is_ok());
    }

    #[test]
    fn clocks_that_are_wrong_by_decades_still_get_an_answer() {
        let cron = Cron::parse("0 12 * * 7", Some(BERLIN)).unwrap();
        assert_eq!(
            cron.next_after(Timestamp(i64::MIN)),
            Some(at("1970-01-04T12:00:00+01:00"))
        );
        assert_eq!(
            cron.next_after(at("2038-01-19T03:14:07Z")),
            Some(at("2038-01-24T12:00:00+01:00"))
        );
        assert_eq!(cron.next_after(Timestamp(i64::MAX)), None);
        assert_eq!(cron.next_after(at("2101-01-01T00:00:00Z")), None);
    }

    #[test]
    fn the_zone_is_the_jobs_own_else_the_machines() {
        let problem = Cron::parse("@daily", Some("Berlin")).unwrap_err();
        assert!(
            problem.contains("`Berlin`") && problem.contains(BERLIN),
            "{problem}"
        );
        let cron = Cron::parse(" 0 8 * * 1-5 ", Some(BERLIN)).unwrap();
        assert_eq!(
            (cron.to_string().as_str(), cron.timezone()),
            ("0 8 * * 1-5", BERLIN)
        );
        assert!(Cron::parse("@daily", None).is_ok());
        for (variable, system, expected) in [
            (Some("Asia/Tokyo"), Some(BERLIN), Tz::Asia__Tokyo),
            (Some(":Asia/Tokyo"), None, Tz::Asia__Tokyo),
            (
                Some("/usr/share/zoneinfo/Asia/Tokyo"),
                None,
                Tz::Asia__Tokyo,
            ),
            (Some(""), Some(BERLIN), Tz::UTC),
            (
                Some("CET-1CEST,M3.5.0,M10.5.0/3"),
                Some(BERLIN),
                Tz::Europe__Berlin,
            ),
            (None, Some(BERLIN), Tz::Europe__Berlin),
            (None, None, Tz::UTC),
        ] {
            assert_eq!(
                machine_zone(variable, system),
                expected,
                "{variable:?} {system:?}"
            );
        }
    }

    /// One field: `*`, `*/n`, numbers, ranges and lists, in the words that croner has too.
    fn field(min: u32, max: u32) -> impl Strategy<Value = String> {
        prop_oneof![
            2 => Just("*".to_owned()),
            1 => (2..=(max - min) / 2).prop_map(|step| format!("*/{step}")),
            2 => proptest::collection::btree_set(min..=max, 1..4).prop_map(|set: BTreeSet<u32>| {
                set.iter().map(u32::to_string).collect::<Vec<_>>().join(",")
            }),
            1 => (min..=max, min..=max).prop_map(|(a, b)| format!("{}-{}", a.min(b), a.max(b))),
        ]
    }

    /// Days without `*/n`: whether that counts as a star differs between croner and crontab.
    fn day(min: u32, max: u32) -> impl Strategy<Value = String> {
        field(min, max).prop_filter("star with a step", |text| !text.starts_with("*/"))
    }

    proptest! {
        #[test]
        fn a_second_opinion_agrees_in_utc(
            second in field(0, 59), minute in field(0, 59), hour in field(0, 23),
            dom in day(1, 28), month in field(1, 12), dow in day(0, 7),
            start in 946_684_800_000_i64..2_500_000_000_000,
        ) {
            let text = format!("{second} {minute} {hour} {dom} {month} {dow}");
            let ours = Cron::parse(&text, Some("UTC")).unwrap();
            let oracle: croner::Cron = text.parse().unwrap();
            let mut now = Timestamp(start);
            for _ in 0..5 {
                let next = ours.next_after(now).unwrap();
                let theirs = oracle.find_next_occurrence(&now.utc(), false).unwrap();
                prop_assert_eq!(next.utc(), theirs.with_nanosecond(0).unwrap(), "{} after {}", text, now);
                now = next;
            }
        }

        #[test]
        fn the_next_time_is_later_and_nothing_lies_between(
            minute in field(0, 59), hour in field(0, 23), dom in day(1, 28), dow in day(0, 7),
            zone in prop_oneof![
                Just(Tz::Europe__Berlin), Just(Tz::America__New_York), Just(Tz::Australia__Lord_Howe),
                Just(Tz::Africa__Casablanca), Just(Tz::Asia__Kolkata), Just(Tz::Pacific__Apia),
            ],
            start in 1_262_304_000_000_i64..2_000_000_000_000,
            ahead in 0_i64..200_000_000,
        ) {
            let text = format!("{minute} {hour} {dom} * {dow}");
            let cron = Cron::parse(&text, Some(zone.name())).unwrap();
            let start = Timestamp(start);
            let next = cron.next_after(start).unwrap();
            prop_assert!(next > start);
            let between = Timestamp(start.0 + ahead);
            let after_between = cron.next_after(between).unwrap();
            if between < next {
                prop_assert_eq!(after_between, next, "{} in {} after {}", text, zone, between);
            } else {
                prop_assert!(after_between > next);
            }
            prop_assert_eq!(next.utc().second(), 0);
            prop_assert!(next.utc().year() >= 2010);
        }
    }
}
