//! `[schedule]`: when a job runs, and what becomes of a time at which it cannot.
//!
//! Must never know the clock: a schedule is good or not on every day.

use std::ops::Range;
use std::time::Duration;

use super::LEAST;
use crate::config::defaults::KINDS;
use crate::config::reader::Leaf;
use crate::config::reader::Table;
use crate::schedule::Cron;
use crate::schedule::Policy;
use crate::schedule::Schedule;
use crate::schedule::cron;
use crate::schedule::policy::ALL_MAX;
use crate::schedule::policy::Missed;
use crate::schedule::policy::OnPressure;
use crate::schedule::policy::Overlap;
use crate::schedule::policy::PARALLEL_MAX;
use crate::schedule::policy::Restart;

const SCHEDULE_EXAMPLE: &str = "every = \"5m\", or cron = \"*/5 * * * *\"";

/// Shortest period: below it, starting processes is all the machine would do.
const EVERY_MIN: Duration = Duration::from_millis(100);

/// Shortest `expect_every`: successes are looked for once a second.
const EXPECT_MIN: Duration = Duration::from_secs(1);

/// Most restarts for one tick; who wants more wants `keep_running`.
const RESTARTS_MAX: u32 = 1_000;

/// Keys that mean something with some kinds of schedules only.
const GOES_WITH: [(&str, &[&str]); 6] = [
    ("timezone", &["cron"]),
    ("jitter", &["cron", "every"]),
    ("overlap", &["cron", "every"]),
    ("missed", &["cron", "every"]),
    ("restart", &["cron", "every", "every_after", "once"]),
    (
        "expect_every",
        &["cron", "every", "every_after", "keep_running"],
    ),
];

/// A checked `[schedule]`.
#[derive(Debug)]
pub(super) struct Checked {
    pub(super) schedule: Schedule,
    pub(super) policy: Policy,
    pub(super) expect_every: Option<Duration>,
}

/// The keys that are there, each of its type.
#[derive(Debug, Default)]
pub(super) struct RawSchedule {
    /// Where it is, whatever is in it.
    pub(super) at: Option<Range<usize>>,
    /// The kinds of schedule that are there, also those that could not be read.
    kinds: Vec<&'static str>,
    /// Where the keys of [`GOES_WITH`] are that are there.
    places: Vec<(&'static str, &'static [&'static str], Range<usize>)>,
    pub(super) cron: Option<Leaf<String>>,
    pub(super) timezone: Option<Leaf<String>>,
    every: Option<Leaf<Duration>>,
    every_after: Option<Leaf<Duration>>,
    jitter: Option<Leaf<Duration>>,
    overlap: Option<Overlap>,
    missed: Option<Missed>,
    restart: Option<Restart>,
    on_pressure: Option<Leaf<OnPressure>>,
    expect_every: Option<Leaf<Duration>>,
}

impl RawSchedule {
    /// Takes `[schedule]` out of a job.
    pub(super) fn read(job: &mut Table<'_, '_>) -> Self {
        let at = job.place_of("schedule");
        let Some(mut table) = job.table("schedule") else {
            return Self {
                at,
                ..Self::default()
            };
        };
        let place = |(key, kinds)| table.place_of(key).map(|at| (key, kinds, at));
        let places = GOES_WITH.into_iter().filter_map(place).collect();
        let kinds = kinds(&mut table);
        let raw = Self {
            at,
            kinds,
            places,
            cron: table.text("cron", "cron = \"*/5 * * * *\""),
            timezone: table.text("timezone", "timezone = \"Europe/Berlin\""),
            every: table.duration("every", EVERY_MIN, "every = \"30s\""),
            every_after: table.duration("every_after", EVERY_MIN, "every_after = \"30s\""),
            jitter: table.duration("jitter", LEAST, "jitter = \"10s\""),
            overlap: read_overlap(&mut table),
            missed: read_missed(&mut table),
            restart: read_restart(&mut table),
            on_pressure: read_on_pressure(&mut table),
            expect_every: table.duration("expect_every", EXPECT_MIN, "expect_every = \"1h\""),
        };
        table.finish();
        raw
    }

    /// Whether scripts of this job are kept running.
    pub(super) fn is_kept_running(&self) -> bool {
        self.kinds == ["keep_running"]
    }

    /// Checks what stands for itself, whatever kind a job chooses.
    pub(super) fn check_alone(&self, table: &Table<'_, '_>) {
        if let Some(zone) = &self.timezone
            && let Err(message) = cron::zone(&zone.value)
        {
            table.refuse(zone, message);
        }
        if let Some(leaf) = &self.cron
            && let Err(message) = Cron::parse(&leaf.value, None)
        {
            table.refuse(leaf, message);
        }
    }

    /// Decides what the keys mean together.
    pub(super) fn check(&self, table: &Table<'_, '_>) -> Option<Checked> {
        let schedule = self.schedule(table);
        let usual = Policy::default();
        let policy = Policy {
            jitter: self.jitter.as_ref().map_or(usual.jitter, |leaf| leaf.value),
            overlap: self.overlap.unwrap_or(usual.overlap),
            missed: self.missed.unwrap_or(usual.missed),
            restart: self.restart,
            on_pressure: self
                .on_pressure
                .as_ref()
                .map_or(usual.on_pressure, |leaf| leaf.value),
        };
        let schedule = schedule?;
        let expect_every = self.expect_every.as_ref().map(|leaf| leaf.value);
        // What a default says and this kind does not know has no meaning here.
        Some(match schedule {
            Schedule::Cron(_) | Schedule::Every(_) => Checked {
                schedule,
                policy,
                expect_every,
            },
            Schedule::EveryAfter(_) => Checked {
                schedule,
                policy: Policy {
                    restart: policy.restart,
                    on_pressure: policy.on_pressure,
                    ..usual
                },
                expect_every,
            },
            Schedule::Once => Checked {
                schedule,
                policy: Policy {
                    restart: policy.restart,
                    ..usual
                },
                expect_every: None,
            },
            Schedule::KeepRunning => Checked {
                schedule,
                policy: usual,
                expect_every,
            },
        })
    }

    fn schedule(&self, table: &Table<'_, '_>) -> Option<Schedule> {
        let kind = match self.kinds.as_slice() {
            [kind] => *kind,
            [] => {
                let at = self.at.as_ref().unwrap_or(&table.at);
                let message = format!(
                    "says nothing of when to run; write [schedule] with {SCHEDULE_EXAMPLE} under it"
                );
                table.source.missing(at, "schedule", message);
                return None;
            }
            _ => return None,
        };
        self.check_belonging(table, kind);
        match kind {
            "cron" => self.cron(table),
            "every" => Some(Schedule::Every(self.every.as_ref()?.value)),
            "every_after" => Some(Schedule::EveryAfter(self.every_after.as_ref()?.value)),
            "once" => Some(Schedule::Once),
            _ => Some(Schedule::KeepRunning),
        }
    }

    fn cron(&self, table: &Table<'_, '_>) -> Option<Schedule> {
        let text = self.cron.as_ref()?;
        // Checked apart, so that each of the two is reported where it stands.
        let mut zone = self.timezone.as_ref();
        if let Some(leaf) = zone
            && let Err(message) = cron::zone(&leaf.value)
        {
            table.refuse(leaf, message);
            zone = None;
        }
        match Cron::parse(&text.value, zone.map(|leaf| leaf.value.as_str())) {
            Ok(cron) => Some(Schedule::Cron(cron)),
            Err(message) => {
                table.refuse(text, message);
                None
            }
        }
    }

    /// Refuses the job's own keys that mean nothing with its kind of schedule.
    fn check_belonging(&self, table: &Table<'_, '_>, kind: &str) {
        for (key, kinds, at) in &self.places {
            if !kinds.contains(&kind) && table.source.is_own(at) {
                let message = format!(
                    "goes with {} only, and means nothing with {kind}; remove it",
                    kinds.join(", ")
                );
                let key = format!("schedule.{key}");
                table.source.problem(at, &key, message);
            }
        }
        if let Some(leaf) = &self.on_pressure
            && leaf.value == OnPressure::Stretch
            && ["once", "keep_running"].contains(&kind)
            && table.source.is_own(&leaf.at)
        {
            let message = format!(
                "`stretch` needs a period, which {kind} has not; write on_pressure = \"pause\""
            );
            table.refuse(leaf, message);
        }
    }
}

/// The kinds of schedule that are there; reports more than one.
fn kinds(table: &mut Table<'_, '_>) -> Vec<&'static str> {
    let mut kinds: Vec<&str> = KINDS.into_iter().filter(|kind| table.has(kind)).collect();
    for (key, example) in [
        ("once", "once = true"),
        ("keep_running", "keep_running = true"),
    ] {
        if table.truth(key, example).is_some_and(|leaf| !leaf.value) {
            kinds.retain(|kind| *kind != key);
        }
    }
    if let [_, _, ..] = kinds.as_slice() {
        let message = format!(
            "has {}; keep exactly one of {}",
            kinds.join(" and "),
            KINDS.join(", ")
        );
        table.source.problem(&table.at, "schedule", message);
    }
    kinds
}

fn read_overlap(table: &mut Table<'_, '_>) -> Option<Overlap> {
    const EXAMPLE: &str = "overlap = \"skip\", \"queue\", \"kill_old\" or { parallel = 4 }";
    const NAMES: [(&str, Overlap); 3] = [
        ("skip", Overlap::Skip),
        ("queue", Overlap::Queue),
        ("kill_old", Overlap::KillOld),
    ];
    if table.is_table("overlap") {
        let most = read_count(table, "overlap", "parallel", PARALLEL_MAX, EXAMPLE);
        return most.map(Overlap::Parallel);
    }
    let leaf = table.text("overlap", EXAMPLE)?;
    table.pick(&leaf, &NAMES)
}

fn read_missed(table: &mut Table<'_, '_>) -> Option<Missed> {
    const EXAMPLE: &str = "missed = \"skip\", \"once\" or { all = 5 }";
    if table.is_table("missed") {
        let most = read_count(table, "missed", "all", ALL_MAX, EXAMPLE);
        return most.map(Missed::All);
    }
    let leaf = table.text("missed", EXAMPLE)?;
    table.pick(&leaf, &[("skip", Missed::Skip), ("once", Missed::Once)])
}

/// The one number of a table like `{ parallel = 4 }`.
fn read_count(
    table: &mut Table<'_, '_>,
    key: &'static str,
    name: &'static str,
    most: u32,
    example: &str,
) -> Option<u32> {
    let mut table = table.table(key)?;
    let given = table.has(name);
    let count = table.number(name, 1..most + 1, example);
    if !given {
        table.lacks(name, format!("is missing; write {example}"));
    }
    table.finish();
    count
}

fn read_restart(table: &mut Table<'_, '_>) -> Option<Restart> {
    const EXAMPLE: &str = "restart = { max = 5, backoff = \"10s\" }";
    let mut table = table.table("restart")?;
    let given = table.has("max");
    let max = table.number("max", 1..RESTARTS_MAX + 1, EXAMPLE);
    if !given {
        table.lacks("max", format!("is missing; write {EXAMPLE}"));
    }
    let backoff = table.duration("backoff", EVERY_MIN, EXAMPLE);
    table.finish();
    Some(Restart {
        max: max?,
        backoff: backoff.map_or(Duration::from_secs(10), |leaf| leaf.value),
    })
}

fn read_on_pressure(table: &mut Table<'_, '_>) -> Option<Leaf<OnPressure>> {
    const NAMES: [(&str, OnPressure); 2] = [
        ("pause", OnPressure::Pause),
        ("stretch", OnPressure::Stretch),
    ];
    let leaf = table.text("on_pressure", "on_pressure = \"pause\" or \"stretch\"")?;
    let value = table.pick(&leaf, &NAMES)?;
    Some(leaf.with(value))
}
