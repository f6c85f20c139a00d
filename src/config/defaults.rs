//! What of the root configuration a job is checked against: `[defaults]`, which its own is laid
//! over, and where the outputs lead.
//!
//! Must never decide what a key means, only which of two values stands.

use std::path::Path;

use toml::Spanned;
use toml::de::DeTable;
use toml::de::DeValue;

use super::Output;
use super::output::real_place;
use super::plugins::Plugins;
use super::source::Segment;
use super::source::merge;
use crate::sink;

/// The keys of `[schedule]` of which a job has exactly one.
pub(super) const KINDS: [&str; 5] = ["cron", "every", "every_after", "once", "keep_running"];

/// `[defaults]` of the root configuration, as text: each job is laid over it anew, so that a
/// problem still names the file that a value stands in. With them, where the outputs lead.
#[derive(Debug, Clone)]
pub struct Defaults {
    segments: Vec<Segment>,
    /// Each output's name with each of its hosts, `host:port`.
    pub(super) hosts: Vec<(String, String)>,
    /// Each output that writes files, with how it does.
    pub(super) written: Vec<(String, sink::file::Settings)>,
    /// Who listens already, in words, and where, `host:port`.
    pub(super) listeners: Vec<(String, String)>,
    /// The plugins that there must be; `None`: whether there is one is seen when it is started.
    pub(super) plugins: Option<Plugins>,
}

impl Defaults {
    /// Defaults that set nothing.
    #[must_use]
    pub const fn none() -> Self {
        Self::new(Vec::new())
    }

    /// Whether they set nothing.
    pub(super) fn is_none(&self) -> bool {
        self.segments.is_empty()
    }

    pub(super) const fn new(segments: Vec<Segment>) -> Self {
        Self {
            segments,
            hosts: Vec::new(),
            written: Vec::new(),
            listeners: Vec::new(),
            plugins: None,
        }
    }

    /// The same, with a look at the plugins of the root `dir` by a daemon of the user `daemon`: a job
    /// that names one that could not be started is refused.
    #[must_use]
    pub fn with_plugins(mut self, dir: &Path, daemon: u32) -> Self {
        self.plugins = Some(Plugins::new(dir, daemon));
        self
    }

    /// The same for a daemon that has these outputs, and listens as `now` says until its next start.
    #[must_use]
    pub fn of_daemon(mut self, now: &Self, outputs: &[Output]) -> Self {
        self.listeners.clone_from(&now.listeners);
        self.lead_to(outputs);
        self
    }

    /// Notes where these outputs lead.
    pub(super) fn lead_to(&mut self, outputs: &[Output]) {
        (self.hosts, self.written) = (Vec::new(), Vec::new());
        for output in outputs {
            let name = &output.name;
            match &output.kind {
                sink::Settings::Lumberjack(settings) => {
                    let hosts = settings.hosts.iter();
                    self.hosts
                        .extend(hosts.map(|host| (name.clone(), host.clone())));
                }
                sink::Settings::File(settings) => {
                    // Also by its other name: globs may be written by either.
                    let real = sink::file::Settings {
                        path: real_place(&settings.path),
                        ..settings.clone()
                    };
                    self.written.push((name.clone(), settings.clone()));
                    if real != *settings {
                        self.written.push((name.clone(), real));
                    }
                }
                sink::Settings::Stdout => {}
            }
        }
    }

    /// The same, with what jobs that were looked at before listen on: one that would listen there too is
    /// refused. Each is a job's name and its address.
    #[must_use]
    pub fn with_listeners(mut self, jobs: &[(String, String)]) -> Self {
        let job = |(job, listen): &(String, String)| (format!("job {job}"), listen.clone());
        self.listeners.extend(jobs.iter().map(job));
        self
    }

    /// The texts behind a job's own of `length` bytes.
    pub(super) fn behind(&self, length: usize) -> impl Iterator<Item = Segment> {
        self.segments.iter().map(move |segment| Segment {
            start: segment.start + length + 1,
            ..segment.clone()
        })
    }
}

/// Two defaults are equal when they come from equal texts.
impl PartialEq for Defaults {
    fn eq(&self, other: &Self) -> bool {
        let texts = |of: &Self| -> Vec<String> {
            of.segments
                .iter()
                .map(|segment| segment.text.clone())
                .collect()
        };
        texts(self) == texts(other)
            && (&self.hosts, &self.written, &self.listeners)
                == (&other.hosts, &other.written, &other.listeners)
    }
}

/// Lays a job's own tree over `[defaults]` of the root's tree.
pub(super) fn lay_over<'t>(own: &mut DeTable<'t>, mut root: DeTable<'t>) {
    let Some(defaults) = root.remove("defaults") else {
        return;
    };
    let at = defaults.span();
    let DeValue::Table(mut defaults) = defaults.into_inner() else {
        return;
    };
    // `[defaults] timezone` is short for the one key of `[schedule]` that all jobs share.
    if let Some(zone) = defaults.remove_entry("timezone") {
        let mut schedule = DeTable::new();
        schedule.insert(zone.0, zone.1);
        let mut short = DeTable::new();
        let key = Spanned::new(at.clone(), "schedule".into());
        short.insert(key, Spanned::new(at, DeValue::Table(schedule)));
        merge(&mut defaults, short);
    }
    // A job's own kind of schedule displaces the default kind; they would be two.
    let has_kind = |tree: &DeTable<'_>| {
        let schedule = tree.get("schedule").and_then(|s| s.get_ref().as_table());
        schedule.is_some_and(|table| KINDS.iter().any(|kind| table.contains_key(*kind)))
    };
    if has_kind(own)
        && let Some(DeValue::Table(schedule)) = defaults.get_mut("schedule").map(Spanned::get_mut)
    {
        for kind in KINDS {
            schedule.remove(kind);
        }
    }
    merge(own, defaults);
}
