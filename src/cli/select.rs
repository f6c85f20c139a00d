//! The flags that select kept events, the same for every command that does.

use std::process::ExitCode;

use regex::bytes::Regex;

use crate::cli::EXIT_USAGE;
use crate::cli::say;
use crate::clock;
use crate::queue::inspect::Kept;
use crate::queue::select::Filter;
use crate::units;
use crate::units::Timestamp;

/// Which events; all that are given must hold.
#[derive(Debug, Clone, clap::Args)]
pub struct Select {
    /// Only of this run
    #[arg(long, value_name = "RUN")]
    pub run: Option<String>,
    /// Only read at or after this time: RFC 3339, or how long ago, like 15m or 2h
    #[arg(long, value_name = "WHEN", value_parser = time)]
    pub since: Option<Timestamp>,
    /// Only read at or before this time
    #[arg(long, value_name = "WHEN", value_parser = time)]
    pub until: Option<Timestamp>,
    /// Only the event with this `event.id`
    #[arg(long, value_name = "EVENT.ID")]
    pub id: Option<String>,
    /// Only with these numbers, as `queue ls` shows them: 5..90, 5.., ..90 or 7; both ends count
    #[arg(long, value_name = "A..B", value_parser = seqs)]
    pub seq: Option<(u64, u64)>,
    /// Only whose JSON, as one line of text, matches this regular expression
    #[arg(long, value_name = "PATTERN", value_parser = pattern)]
    pub grep: Option<Regex>,
}

impl Select {
    /// Refuses what no event can meet.
    pub(super) fn check(&self) -> Result<(), ExitCode> {
        match (self.since, self.until) {
            (Some(since), Some(until)) if since > until => {
                let why = format!(
                    "--since {since} is later than --until {until}: no event can be between them; exchange the two, like --since 2h --until 1h"
                );
                Err(say::fail(EXIT_USAGE, &why))
            }
            _ => Ok(()),
        }
    }

    /// As the queue takes it; `job`: only of that job.
    pub(super) fn filter(&self, job: Option<&str>) -> Filter {
        Filter {
            output: None,
            job: job.map(str::to_owned),
            run: self.run.clone(),
            id: self.id.clone(),
            seqs: self.seq,
            since: self.since,
            until: self.until,
            grep: self.grep.clone(),
        }
    }

    /// What is asked for and no longer kept, in words.
    pub(super) fn too_old(&self, kept: &Kept) -> Option<String> {
        let older_time = kept
            .since
            .is_some_and(|kept| self.since.is_some_and(|since| since < kept));
        let older_seq = self.seq.is_some_and(|(from, _)| from.max(1) < kept.seq);
        if kept.seq <= 1 || !(older_time || older_seq) {
            return None;
        }
        Some(format!(
            "what lies before was let go of, by [queue] retain or because the queue was full: {}",
            since(kept)
        ))
    }

    /// Whether something is asked for by its name or number, so that finding nothing is a mistake.
    pub(super) const fn names_something(&self) -> bool {
        self.run.is_some() || self.id.is_some() || self.seq.is_some()
    }
}

/// `kept since 2026-11-21T08:00:00Z, event 17`.
pub(super) fn since(kept: &Kept) -> String {
    match kept.since {
        Some(at) => format!("kept since {at}, event {}", kept.seq),
        None => format!("no event is kept; the next one is {}", kept.seq),
    }
}

/// Reads a point in time: RFC 3339, or a duration back from now.
fn time(text: &str) -> Result<Timestamp, String> {
    if let Ok(at) = text.parse() {
        return Ok(at);
    }
    units::parse_duration(text).map_or_else(
        |_| {
            Err(format!("`{text}` is neither a time like 2026-11-21T08:00:00Z nor a duration like 15m, 2h or 1d"))
        },
        |back| Ok(Timestamp(clock::now().0 - i64::try_from(back.as_millis()).unwrap_or(i64::MAX))),
    )
}

fn seqs(text: &str) -> Result<(u64, u64), String> {
    let number = |text: &str, default| match text {
        "" => Some(default),
        text => text.parse().ok(),
    };
    let read = match text.split_once("..") {
        Some((from, to)) => Some((number(from, 0), number(to, u64::MAX))),
        None => text.parse().ok().map(|one| (Some(one), Some(one))),
    };
    match read {
        Some((Some(from), Some(to))) if from <= to => Ok((from, to)),
        _ => Err(format!(
            "`{text}` is no range of event numbers like 5..90, 5.., ..90 or 7"
        )),
    }
}

fn pattern(text: &str) -> Result<Regex, String> {
    Regex::new(text).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_of_numbers_take_open_ends_and_refuse_what_is_none() {
        assert_eq!(seqs("5..90"), Ok((5, 90)));
        assert_eq!(seqs("5.."), Ok((5, u64::MAX)));
        assert_eq!(seqs("..90"), Ok((0, 90)));
        assert_eq!(seqs("7"), Ok((7, 7)));
        for wrong in ["", "a", "9..5", "1...3", "-1", "1..x"] {
            let said = seqs(wrong).expect_err(wrong);
            assert!(said.contains("like 5..90"), "{said}");
        }
    }

    #[test]
    fn what_is_no_longer_kept_is_said() {
        let select = |since, seq| Select {
            run: None,
            since,
            until: None,
            id: None,
            seq,
            grep: None,
        };
        let kept = Kept {
            seq: 17,
            since: Some(Timestamp(1_000)),
        };
        assert!(
            select(Some(Timestamp(1_000)), Some((17, 20)))
                .too_old(&kept)
                .is_none()
        );
        for asked in [
            select(Some(Timestamp(999)), None),
            select(None, Some((16, 20))),
        ] {
            let said = asked.too_old(&kept).expect("older");
            assert!(said.contains("event 17"), "{said}");
        }
        let all = Kept { seq: 1, ..kept };
        assert!(select(Some(Timestamp(0)), None).too_old(&all).is_none());
    }
}
