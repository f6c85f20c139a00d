//! The text of a cron expression: five or six fields, names, ranges, steps, lists, `@daily`.
//!
//! Follows crontab(5) of Debian's cron, and refuses by name what other dialects mean differently,
//! because a schedule that is silently understood in another way runs at the wrong time for years.
//! Must never know time zones or instants.

/// Longest expression: one that lists every minute, hour and day takes about 400 bytes.
const EXPRESSION_BYTES_MAX: usize = 1024;

/// An expression as sets of numbers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Fields {
    second: Field,
    minute: Field,
    hour: Field,
    day: Field,
    month: Field,
    weekday: Field,
}

/// One field: its values in order, and whether its text begins with `*`.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Field {
    values: Vec<u8>,
    star: bool,
    all: bool,
}

/// What a field may hold.
struct Kind {
    name: &'static str,
    min: u8,
    max: u8,
    /// Largest number of `*` and of an open step; Sunday is both 0 and 7, and `*` has it once.
    star_max: u8,
    names: &'static [&'static str],
    example: &'static str,
}

const SECOND: Kind = Kind {
    name: "second",
    min: 0,
    max: 59,
    star_max: 59,
    names: &[],
    example: "0, */10 or 0,30",
};
const MINUTE: Kind = Kind {
    name: "minute",
    min: 0,
    max: 59,
    star_max: 59,
    names: &[],
    example: "0, */5 or 10-20",
};
const HOUR: Kind = Kind {
    name: "hour",
    min: 0,
    max: 23,
    star_max: 23,
    names: &[],
    example: "*, 8-17 or */2",
};
const DAY: Kind = Kind {
    name: "day of month",
    min: 1,
    max: 31,
    star_max: 31,
    names: &[],
    example: "*, 1 or 1,15",
};
const MONTH: Kind = Kind {
    name: "month",
    min: 1,
    max: 12,
    star_max: 12,
    names: &[
        "JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC",
    ],
    example: "*, 1-6 or JAN,JUL",
};
const WEEKDAY: Kind = Kind {
    name: "day of week",
    min: 0,
    max: 7,
    star_max: 6,
    names: &["SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT"],
    example: "*, 1-5 or SAT,SUN",
};

impl Fields {
    /// Reads an expression.
    ///
    /// # Errors
    /// A lower-case fragment with the text, the field and a correct example.
    pub(super) fn read(text: &str) -> Result<Self, String> {
        if text.len() > EXPRESSION_BYTES_MAX {
            return Err(format!(
                "the expression has {} bytes, at most {EXPRESSION_BYTES_MAX} are read; write ranges and steps, like `*/5 8-17 * * 1-5`",
                text.len()
            ));
        }
        let text = text.trim();
        let plain = if text.starts_with('@') {
            nickname(text)?
        } else {
            text
        };
        let mut fields: Vec<&str> = plain.split_whitespace().collect();
        if fields.first().is_some_and(|first| first.contains('=')) {
            return Err(format!(
                "`{text}` sets a variable; the time zone is a key of its own, like timezone = \"Europe/Berlin\""
            ));
        }
        if fields.len() == 5 {
            fields.insert(0, "0");
        }
        let [second, minute, hour, day, month, weekday] = fields[..] else {
            return Err(wrong_count(text, fields.len()));
        };
        let read = |kind: &Kind, field: &str| {
            kind.read(field)
                .map_err(|problem| format!("`{text}`: {problem}"))
        };
        Ok(Self {
            second: read(&SECOND, second)?,
            minute: read(&MINUTE, minute)?,
            hour: read(&HOUR, hour)?,
            day: read(&DAY, day)?,
            month: read(&MONTH, month)?,
            weekday: read(&WEEKDAY, weekday)?.sunday_once(),
        })
    }

    /// Whether the job runs "all the time", as Debian's cron has it: minute or hour begins with `*`.
    /// Such a job follows real time through a change of the clocks, another one the wall clock.
    pub(super) fn is_wildcard(&self) -> bool {
        self.minute.star || self.hour.star
    }

    /// The same times in the words of the `cron` crate: six fields, Sunday is 1, days of month and
    /// of week are joined by AND. So where crontab means OR (neither field begins with `*`) these are two.
    pub(super) fn expressions(&self) -> Vec<String> {
        let Self {
            second,
            minute,
            hour,
            day,
            month,
            weekday,
        } = self;
        let line = |day: String, weekday: String| {
            format!(
                "{} {} {} {day} {} {weekday}",
                second.list(0),
                minute.list(0),
                hour.list(0),
                month.list(0)
            )
        };
        if day.star || weekday.star {
            vec![line(day.list(0), weekday.list(1))]
        } else {
            vec![
                line(day.list(0), "*".to_owned()),
                line("*".to_owned(), weekday.list(1)),
            ]
        }
    }
}

impl Field {
    fn list(&self, shift: u8) -> String {
        if self.all {
            return "*".to_owned();
        }
        let numbers: Vec<String> = self
            .values
            .iter()
            .map(|value| (value + shift).to_string())
            .collect();
        numbers.join(",")
    }

    /// Turns Sunday's second number, 7, into its first.
    fn sunday_once(mut self) -> Self {
        for value in &mut self.values {
            *value %= 7;
        }
        self.values.sort_unstable();
        self.values.dedup();
        self.all = self.values.len() == 7;
        self
    }
}

impl Kind {
    fn read(&self, text: &str) -> Result<Field, String> {
        let mut values = Vec::new();
        for part in text.split(',') {
            self.read_part(part, &mut values)?;
        }
        values.sort_unstable();
        values.dedup();
        Ok(Field {
            star: text.starts_with('*'),
            all: values.len() == usize::from(self.max - self.min) + 1,
            values,
        })
    }

    fn read_part(&self, part: &str, values: &mut Vec<u8>) -> Result<(), String> {
        let (range, step) = match part.split_once('/') {
            Some((range, step)) => (range, Some(self.step(part, step)?)),
            None => (part, None),
        };
        let (first, last) = if range == "*" {
            (self.min, self.star_max)
        } else if let Some((first, last)) = range.split_once('-') {
            self.range(range, first, last)?
        } else {
            let first = self.value(range)?;
            let last = if step.is_some() {
                self.star_max.max(first)
            } else {
                first
            };
            (first, last)
        };
        values.extend((first..=last).step_by(usize::from(step.unwrap_or(1))));
        Ok(())
    }

    fn range(&self, text: &str, first: &str, last: &str) -> Result<(u8, u8), String> {
        let from = self.value(first)?;
        let mut to = self.value(last)?;
        if last.eq_ignore_ascii_case("SUN") && from > 0 {
            to = 7; // at the end of a range Sunday can only be meant as the last day of the week
        }
        if from > to {
            return Err(format!(
                "the range `{text}` of the {} goes backwards; write two ranges, like {from}-{},{}-{to}",
                self.name, self.star_max, self.min
            ));
        }
        Ok((from, to))
    }

    fn step(&self, part: &str, text: &str) -> Result<u8, String> {
        let most = self.max - self.min;
        match number(text) {
            Some(step) if step >= 1 && step <= most => Ok(step),
            _ => Err(format!(
                "the step of `{part}` in the {} must be 1 to {most}; for a longer period write every = \"90m\" in place of cron",
                self.name
            )),
        }
    }

    fn value(&self, text: &str) -> Result<u8, String> {
        if let Some(at) = self
            .names
            .iter()
            .position(|name| name.eq_ignore_ascii_case(text))
        {
            return Ok(self.min + at as u8);
        }
        match number(text) {
            Some(value) if (self.min..=self.max).contains(&value) => Ok(value),
            Some(_) => Err(format!(
                "`{text}` is not a {}, which is {} to {}; write it like {}",
                self.name, self.min, self.max, self.example
            )),
            None => Err(self.not_a_value(text)),
        }
    }

    fn not_a_value(&self, text: &str) -> String {
        let upper = text.to_ascii_uppercase();
        let letters = upper.trim_matches(|c: char| c.is_ascii_digit());
        let dialect = upper.contains('#') || ["L", "W", "LW"].contains(&letters);
        if text == "?" {
            format!("`?` in the {} is another dialect; write `*`", self.name)
        } else if dialect {
            format!(
                "`{text}` in the {}: last day (L), nearest working day (W) and n-th weekday (#) are not known here; write numbers, like {}",
                self.name, self.example
            )
        } else {
            format!(
                "`{text}` is not a {}; write it like {}",
                self.name, self.example
            )
        }
    }
}

/// One or two digits; more is no value of any field.
fn number(text: &str) -> Option<u8> {
    let digits = (1..=2).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_digit());
    if digits { text.parse().ok() } else { None }
}

fn nickname(text: &str) -> Result<&'static str, String> {
    let (name, rest) = text.split_once(char::is_whitespace).unwrap_or((text, ""));
    if name == "@every" {
        let period = if rest.trim().is_empty() { "5m" } else { rest };
        return Err(format!(
            "`{text}` is a key of its own: write every = \"{}\" in place of cron",
            period.trim()
        ));
    }
    match text {
        "@hourly" => Ok("0 * * * *"),
        "@daily" | "@midnight" => Ok("0 0 * * *"),
        "@weekly" => Ok("0 0 * * 0"),
        "@monthly" => Ok("0 0 1 * *"),
        "@yearly" | "@annually" => Ok("0 0 1 1 *"),
        "@reboot" => {
            Err("`@reboot` is a key of its own: write once = true in place of cron".to_owned())
        }
        _ => Err(format!(
            "`{text}` is not known; write @hourly, @daily, @midnight, @weekly, @monthly, @yearly or @annually, or five fields, like `*/5 * * * *`"
        )),
    }
}

fn wrong_count(text: &str, count: usize) -> String {
    if count == 7 {
        return format!(
            "`{text}` has seven fields; a year field is not known here, write six, like `0 30 8 * * 1-5` (second first), or five, like `30 8 * * 1-5`"
        );
    }
    let fields = if count == 1 { "field" } else { "fields" };
    format!(
        "`{text}` has {count} {fields}; write five (minute, hour, day of month, month, day of week), like `*/5 * * * *`, or six with the second first, like `30 */5 * * * *`"
    )
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::*;

    fn lines(text: &str) -> Vec<String> {
        Fields::read(text).unwrap().expressions()
    }

    #[test]
    fn crontab_fields_become_the_crates_fields() {
        for (text, expected) in [
            ("* * * * *", "0 * * * * *"),
            ("5/15 * * * *", "0 5,20,35,50 * * * *"),
            ("*/7 * * * *", "0 0,7,14,21,28,35,42,49,56 * * * *"),
            ("10-20/5,3 22 * * *", "0 3,10,15,20 22 * * *"),
            ("0 12 * * 7", "0 0 12 * * 1"),
            ("0 12 * * 0", "0 0 12 * * 1"),
            ("0 12 * * sun", "0 0 12 * * 1"),
            ("0 12 * * 0-7", "0 0 12 * * *"),
            ("0 12 * * 1-7", "0 0 12 * * *"),
            ("0 12 * * MON-FRI", "0 0 12 * * 2,3,4,5,6"),
            ("0 12 * * FRI-SUN", "0 0 12 * * 1,6,7"),
            ("0 12 * * 5-7", "0 0 12 * * 1,6,7"),
            ("0 12 * * */2", "0 0 12 * * 1,3,5,7"),
            ("0 12 * * */7", "0 0 12 * * 1"),
            ("0 0 1 jan,JUL *", "0 0 0 1 1,7 *"),
            ("*/10 30 8 * * 7", "0,10,20,30,40,50 30 8 * * 1"),
            ("\t0  6\t* * *\n", "0 0 6 * * *"),
            ("@daily", "0 0 0 * * *"),
            ("@midnight", "0 0 0 * * *"),
            ("@hourly", "0 0 * * * *"),
            ("@weekly", "0 0 0 * * 1"),
            ("@monthly", "0 0 0 1 * *"),
            ("@yearly", "0 0 0 1 1 *"),
            ("@annually", "0 0 0 1 1 *"),
        ] {
            assert_eq!(lines(text), [expected], "{text}");
        }
    }

    #[test]
    fn a_day_of_month_and_a_day_of_week_are_either_or_unless_one_begins_with_a_star() {
        assert_eq!(lines("0 0 13 * 5"), ["0 0 0 13 * *", "0 0 0 * * 6"]);
        assert_eq!(lines("0 0 */2 * 1").len(), 1);
        assert_eq!(lines("0 0 13 * *").len(), 1);
    }

    #[test]
    fn other_dialects_are_refused_by_name_with_what_to_write() {
        for (text, expected) in [
            ("@every 5m", "every = \"5m\""),
            ("@every", "every = \"5m\""),
            ("@reboot", "once = true"),
            ("@fortnightly", "@monthly"),
            ("@daily 5", "@daily"),
            ("0 0 L * *", "last day (L)"),
            ("0 0 LW * *", "last day (L)"),
            ("0 0 15W * *", "nearest working day (W)"),
            ("0 0 * * 5#2", "n-th weekday (#)"),
            ("0 0 * * 5L", "last day (L)"),
            ("0 0 ? * 1", "write `*`"),
            ("0 0 0 1 1 * 2027", "year field"),
            ("0 0 * * FRI-MON", "5-6,0-1"),
            ("0 22-2 * * *", "22-23,0-2"),
            ("TZ=UTC 0 0 * * *", "timezone = "),
            ("*/90 * * * *", "every = \"90m\""),
            ("*/0 * * * *", "must be 1 to 59"),
            ("60 * * * *", "0 to 59"),
            ("* 24 * * *", "0 to 23"),
            ("* * 0 * *", "1 to 31"),
            ("* * * 13 *", "1 to 12"),
            ("* * * * 8", "0 to 7"),
            ("* * * * MONDAY", "SAT,SUN"),
            ("H * * * *", "*/5"),
            ("-5 * * * *", "*/5"),
            ("1,,2 * * * *", "*/5"),
            ("******", "write five"),
            ("* * * *", "write five"),
            ("", "write five"),
            ("\u{661} * * * *", "*/5"),
        ] {
            let problem = Fields::read(text).unwrap_err();
            assert!(problem.contains(expected), "{text}: {problem}");
            assert!(problem.contains(text), "{text}: {problem}");
        }
        assert!(
            Fields::read(&"1,".repeat(600))
                .unwrap_err()
                .contains("at most")
        );
    }
}
