//! Where the clocks change, and what that does to a cron job: for people who ask beforehand.
//!
//! Says what [`Cron::next_after`] does; decides nothing. Must never read a clock.

use chrono::NaiveDateTime;
use chrono::Offset;
use chrono::TimeDelta;
use chrono::TimeZone;

use crate::schedule::Cron;
use crate::units::Timestamp;

/// Step in which changes are looked for; no zone changes twice within it and comes back.
const STEP_MS: i64 = 3_600_000;

/// Most readings of the wall clock that are listed for one change.
const READINGS_MAX: usize = 100;

/// A change of the clocks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClockChange {
    /// When.
    pub at: Timestamp,
    /// What the wall clock shows at that moment by the rule before.
    pub before: NaiveDateTime,
    /// What it shows by the rule after.
    pub after: NaiveDateTime,
    /// Readings of the schedule that the wall clock skips or shows twice.
    pub readings: Vec<NaiveDateTime>,
    /// The job's times from the change (exclusive of what was before it) to the end of what is
    /// skipped or doubled.
    pub fires: Vec<Timestamp>,
}

impl ClockChange {
    /// Whether the clocks go forward: readings are skipped.
    #[must_use]
    pub fn is_forward(&self) -> bool {
        self.after > self.before
    }

    /// The readings that are skipped or come twice: from the first to before the second.
    #[must_use]
    pub fn span(&self) -> (NaiveDateTime, NaiveDateTime) {
        (self.before.min(self.after), self.before.max(self.after))
    }
}

impl Cron {
    /// The changes of the clocks in (`from`, `to`].
    #[must_use]
    pub fn clock_changes(&self, from: Timestamp, to: Timestamp) -> Vec<ClockChange> {
        let offset = |ms: i64| {
            let utc = Timestamp(ms).utc().naive_utc();
            self.zone()
                .offset_from_utc_datetime(&utc)
                .fix()
                .local_minus_utc()
        };
        let mut changes = Vec::new();
        let mut at = from.0;
        while at < to.0 {
            let next = (at + STEP_MS).min(to.0);
            if offset(at) != offset(next) {
                let (mut same, mut other) = (at, next);
                while other - same > 1 {
                    let middle = same + (other - same) / 2;
                    if offset(middle) == offset(at) {
                        same = middle;
                    } else {
                        other = middle;
                    }
                }
                changes.push(self.change(Timestamp(other), offset(at), offset(next)));
            }
            at = next;
        }
        changes
    }

    fn change(&self, at: Timestamp, before_s: i32, after_s: i32) -> ClockChange {
        let utc = at.utc().naive_utc();
        let before = utc + TimeDelta::seconds(i64::from(before_s));
        let after = utc + TimeDelta::seconds(i64::from(after_s));
        let (first, end) = (before.min(after), before.max(after));
        let shift_ms = i64::from((after_s - before_s).abs()) * 1000;
        // Doubled readings come first before the change; what was skipped is made up for at it.
        let (from, to) = if after > before {
            (at.0 - 1, at.0)
        } else {
            (at.0 - shift_ms - 1, at.0 + shift_ms - 1)
        };
        let fires = std::iter::successors(self.next_after(Timestamp(from)), |last| {
            self.next_after(*last)
        });
        ClockChange {
            at,
            before,
            after,
            readings: self
                .matches(first - TimeDelta::seconds(1))
                .take_while(|reading| *reading < end)
                .take(READINGS_MAX)
                .collect(),
            fires: fires
                .take_while(|fire| fire.0 <= to)
                .take(READINGS_MAX * 2)
                .collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::*;

    fn shown(text: &str, zone: &str) -> Vec<String> {
        let cron = Cron::parse(text, Some(zone)).unwrap();
        let (from, to) = ("2026-01-01T00:00:00Z", "2027-01-01T00:00:00Z");
        let changes = cron.clock_changes(from.parse().unwrap(), to.parse().unwrap());
        let time = |at: &NaiveDateTime| at.format("%H:%M").to_string();
        changes
            .iter()
            .map(|change| {
                let (first, end) = change.span();
                let readings: Vec<String> = change.readings.iter().map(time).collect();
                let fires: Vec<String> = change
                    .fires
                    .iter()
                    .map(|at| cron.local(*at)[11..16].to_owned())
                    .collect();
                format!(
                    "{} {}-{} [{}] [{}]",
                    change.before.format("%m-%d"),
                    time(&first),
                    time(&end),
                    readings.join(" "),
                    fires.join(" ")
                )
            })
            .collect()
    }

    #[test]
    fn what_a_change_of_the_clocks_does_to_a_job_is_said_beforehand() {
        assert_eq!(
            shown("30 2 * * *", "Europe/Berlin"),
            [
                "03-29 02:00-03:00 [02:30] [03:00]",
                "10-25 02:00-03:00 [02:30] [02:30]"
            ]
        );
        assert_eq!(
            shown("*/30 * * * *", "Europe/Berlin"),
            [
                "03-29 02:00-03:00 [02:00 02:30] [03:00]",
                "10-25 02:00-03:00 [02:00 02:30] [02:00 02:30 02:00 02:30]"
            ]
        );
        assert_eq!(
            shown("45 1 * * *", "Australia/Lord_Howe"),
            [
                "04-05 01:30-02:00 [01:45] [01:45]",
                "10-04 02:00-02:30 [] []"
            ]
        );
        assert_eq!(shown("30 2 * * *", "UTC"), Vec::<String>::new());
    }
}
