//! `job.toml`, raw to checked, laid over `[defaults]` of the root configuration.
//!
//! Two steps: read the keys that are there ([`Raw`]), then decide what they mean together.
//! Must never run, copy or watch anything.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Component;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::FILE_BYTES_MAX;
use super::JOB_FILE;
use super::Problem;
use super::Standing;
use super::check_name;
use super::defaults::Defaults;
use super::defaults::lay_over;
use super::expand::is_name;
use super::plugins::Plugins;
use super::reader::Leaf;
use super::reader::Table;
use super::reader::not_one_of;
use super::routing;
use super::routing::Outlet;
use super::source::Lookup;
use super::source::Origin;
use super::source::Segment;
use super::source::Source;
use super::text_of;
use super::variable;
use crate::cleanup::Keep;
use crate::event::OWN_JOB;
use crate::event::Route;
use crate::job::AtEnd;
use crate::job::Cwd;
use crate::job::Files;
use crate::job::Job;
use crate::job::Language;
use crate::job::Script;
use crate::job::SecretSource;
use crate::job::Step;
use crate::job::Task;
use crate::job::When;
use crate::modules;
use crate::process::Rights;
use crate::schedule::cron;
use crate::sink;

mod rights;

use receive::Receive;

mod receive;
use capture::Goal;
use capture::RawCapture;

mod capture;
mod files;
mod plugin;
mod schedule;

use schedule::Checked;
use schedule::RawSchedule;

const RUN_EXAMPLE: &str = "run = \"collect.py\"";
const FIRST_RUN_EXAMPLE: &str = "first_run = \"setup.sh\"";
const STARTUP_EXAMPLE: &str = "startup = \"warmup.py\"";

/// Shortest time limit.
const LEAST: Duration = Duration::from_millis(1);

/// Longest run of a scheduled job that does not say it; a kept-running one has no limit.
const TIMEOUT: Duration = Duration::from_secs(3600);

/// From TERM to KILL when a job does not say it.
const KILL_GRACE: Duration = Duration::from_secs(10);

/// Loads the job `name` from its folder, or from a copy of it.
///
/// `generation` is the folder's content hash, `standing` who owns the folder, `outlets` the
/// outputs that a job may write to.
/// Files are looked at in `folder`; who owns them is [`super::check_folder`]'s matter.
///
/// # Errors
/// Everything that is wrong with it, in the order of the text.
pub fn load_job(
    name: &str,
    folder: &Path,
    generation: &str,
    standing: &Standing,
    defaults: &Defaults,
    outlets: &[Outlet],
) -> Result<Job, Vec<Problem>> {
    let place = Place {
        name,
        folder,
        generation,
        standing,
    };
    load_job_with(&place, defaults, outlets, variable)
}

/// Which job it is.
struct Place<'a> {
    name: &'a str,
    folder: &'a Path,
    generation: &'a str,
    standing: &'a Standing,
}

fn load_job_with(
    place: &Place<'_>,
    defaults: &Defaults,
    outlets: &[Outlet],
    lookup: Lookup,
) -> Result<Job, Vec<Problem>> {
    let Place { name, folder, .. } = place;
    let file = format!("jobs/{name}/{JOB_FILE}");
    if let Err(message) = check_name(name) {
        return Err(vec![Problem::of_file(format!("jobs/{name}"), message)]);
    }
    if **name == *OWN_JOB {
        let message =
            format!("`{OWN_JOB}` is the name of the daemon's own events; choose another one");
        return Err(vec![Problem::of_file(format!("jobs/{name}"), message)]);
    }
    let path = folder.join(JOB_FILE);
    let read = crate::files::read_beneath(folder, Path::new(JOB_FILE), FILE_BYTES_MAX);
    let text = text_of(read, &file).map_err(|mut problem| {
        if crate::files::look(&path).is_err() {
            let message = format!(
                "; write one: [script] with {RUN_EXAMPLE} and [schedule] with every = \"5m\""
            );
            problem.message.push_str(&message);
        }
        vec![problem]
    })?;
    let mut segments = vec![Segment {
        start: 0,
        file,
        text,
        origin: Origin::File,
    }];
    segments.extend(defaults.behind(segments[0].text.len()));
    let source = Source::new(segments, lookup).for_job(name, place.standing);
    let mut tree = source.tree(0);
    if !defaults.is_none() {
        lay_over(&mut tree, source.tree(1));
    }
    let mut table = Table::root(&source, tree);
    let mut raw = Raw::read(&mut table, &defaults.written);
    let rights = raw.rights.check(&table, place.standing);
    let user = rights.as_ref().map(|rights| &rights.user);
    let is_enabled = raw.enabled.as_ref().is_none_or(|leaf| leaf.value);
    raw.receive = Receive::read(&mut table, defaults, user, is_enabled);
    let unusable = std::mem::take(&mut raw.receive.unusable);
    let plugins = defaults.plugins.as_ref();
    let job = raw.check(&table, place, rights, outlets, plugins);
    table.finish();
    let mut problems = source.into_problems();
    problems.extend(unusable);
    match job {
        Some(job) if problems.is_empty() => Ok(job),
        _ => Err(problems),
    }
}

/// Checks `[defaults]` by itself, so that a mistake in it is reported once and at its place.
pub(super) fn check_defaults(mut table: Table<'_, '_>, outlets: &[Outlet]) {
    let timezone = table.text("timezone", "timezone = \"Europe/Berlin\"");
    let raw = Raw::read(&mut table, &[]);
    if let Some(zone) = &timezone
        && let Err(message) = cron::zone(&zone.value)
    {
        table.refuse(zone, message);
    }
    raw.schedule.check_alone(&table);
    raw.check_names(&table);
    raw.on_result.check_name(&table);
    raw.check_outputs(&table, outlets);
    table.finish();
}

/// The keys that are there, each of its type.
#[derive(Debug, Default)]
struct Raw {
    description: Option<Leaf<String>>,
    enabled: Option<Leaf<bool>>,
    tags: Option<Vec<Leaf<String>>>,
    tag: Option<Leaf<String>>,
    fields: Option<serde_json::Map<String, serde_json::Value>>,
    fields_at: Option<Range<usize>>,
    /// Where `[script]` is, whatever is in it.
    script_at: Option<Range<usize>>,
    /// Whether the job's own `[script]` says more than whose rights its files are read with.
    has_script: bool,
    run: Option<Leaf<String>>,
    /// Whether `run` is there, also when it could not be read.
    has_run: bool,
    language: Option<Language>,
    modules: Option<Vec<Leaf<String>>>,
    first_run: Option<Leaf<String>>,
    startup: Option<Leaf<String>>,
    args: Option<Vec<Leaf<String>>>,
    env: Vec<(Leaf<String>, Leaf<String>)>,
    pass_env: Option<Vec<Leaf<String>>>,
    rights: rights::Raw,
    timeout: Option<Leaf<Duration>>,
    kill_grace: Option<Leaf<Duration>>,
    cwd: Option<Cwd>,
    on_stop: Option<AtEnd>,
    on_remove: Option<AtEnd>,
    schedule: RawSchedule,
    stdout: RawCapture,
    stderr: RawCapture,
    files: Vec<Files>,
    /// Whether `[[files]]` is there, also when it could not be read.
    has_files: bool,
    to: Option<Vec<Leaf<String>>>,
    receive: Receive,
    keep_runs: Option<u32>,
    keep_age: Option<Leaf<Duration>>,
    keep_bytes: Option<Leaf<u64>>,
    on_result: plugin::Raw,
}

impl Raw {
    fn read(table: &mut Table<'_, '_>, written: &[(String, sink::file::Settings)]) -> Self {
        let fields_at = table.place_of("fields");
        let mut raw = Self {
            fields_at,
            description: table.text("description", "description = \"Failed logins\""),
            enabled: table.truth("enabled", "enabled = true"),
            tags: table.texts("tags", "tags = [\"idp\"]"),
            tag: table.text("tag", "tag = \"idp.logins\""),
            fields: table.json_map("fields", "fields = { team = \"soc\" }"),
            ..Self::default()
        };
        raw.script_at = table.place_of("script");
        if let Some(table) = table.table("script") {
            raw.read_script(table);
        }
        raw.schedule = RawSchedule::read(table);
        if let Some(mut table) = table.table("capture") {
            raw.stdout = RawCapture::read(table.table("stdout"));
            raw.stderr = RawCapture::read(table.table("stderr"));
            table.finish();
        }
        raw.has_files = table.has("files");
        raw.files = files::read(table, written);
        if let Some(mut table) = table.table("output") {
            raw.to = table.texts("to", "to = [\"lumberjack\"]");
            table.finish();
        }
        if let Some(mut table) = table.table("results") {
            if let Some(mut keep) = table.table("keep") {
                raw.keep_runs = keep.number("runs", 1..1_000_001, "runs = 50");
                raw.keep_age = keep.duration("age", LEAST, "age = \"30d\"");
                raw.keep_bytes = keep.bytes("bytes", 1 << 10..1 << 50, "bytes = \"100MiB\"");
                keep.finish();
            }
            raw.on_result = plugin::Raw::read(&mut table);
            table.finish();
        }
        raw
    }

    fn read_script(&mut self, mut table: Table<'_, '_>) {
        const AT_END: [(&str, AtEnd); 2] =
            [("terminate", AtEnd::Terminate), ("finish", AtEnd::Finish)];
        self.has_script = table.has_own_besides(&["user", "group"]);
        self.has_run = table.has("run");
        self.run = table.text("run", RUN_EXAMPLE);
        self.language = table.choice("language", &Language::NAMES);
        self.modules = table.texts("modules", "modules = [\"requests==2.32.4\"]");
        self.first_run = table.text("first_run", FIRST_RUN_EXAMPLE);
        self.startup = table.text("startup", STARTUP_EXAMPLE);
        self.args = table.texts("args", "args = [\"--since\", \"1h\"]");
        self.env = table.text_map("env", "env = { API_URL = \"https://idp.example\" }");
        self.pass_env = table.texts("pass_env", "pass_env = [\"HTTPS_PROXY\"]");
        self.rights = rights::Raw::read(&mut table);
        self.timeout = table.duration("timeout", LEAST, "timeout = \"5m\"");
        self.kill_grace = table.duration("kill_grace", LEAST, "kill_grace = \"10s\"");
        self.cwd = table.choice("cwd", &[("job", Cwd::Job), ("state", Cwd::State)]);
        self.on_stop = table.choice("on_stop", &AT_END);
        self.on_remove = table.choice("on_remove", &AT_END);
        table.finish();
    }

    /// Decides what the keys mean together.
    fn check(
        mut self,
        table: &Table<'_, '_>,
        place: &Place<'_>,
        rights: Option<Rights>,
        outlets: &[Outlet],
        plugins: Option<&Plugins>,
    ) -> Option<Job> {
        let Place { name, folder, .. } = *place;
        self.check_names(table);
        for leaf in self.pass_env.iter().flatten() {
            rights::is_granted(table, leaf, &leaf.value, name, place.standing);
        }
        let secrets = self.rights.secrets(table, name, place.standing);
        let route = self.route(table, place.name, outlets);
        let runs = self.runs(table);
        let on_result = self.on_result.check(table, plugins, runs);
        let task = if runs {
            Some(Arc::new(self.task(table, folder, secrets)?))
        } else {
            if !self.has_files {
                self.check_untouched(table);
            }
            self.check_live(table);
            None
        };
        Some(Job {
            name: name.to_owned(),
            generation: place.generation.to_owned(),
            folder: folder.to_path_buf(),
            description: self.description.map_or(String::new(), |leaf| leaf.value),
            enabled: self.enabled.is_none_or(|leaf| leaf.value),
            tags: values(self.tags),
            fields: self.fields.unwrap_or_default(),
            rights: rights?,
            task,
            receive: self.receive.settings,
            files: self.files,
            waits_for: routing::waits_for(outlets, &route),
            route,
            keep: Keep {
                runs: self.keep_runs.unwrap_or(50),
                age: self
                    .keep_age
                    .map_or(Duration::from_secs(30 * 86_400), |leaf| leaf.value),
                bytes: self.keep_bytes.map_or(100 << 20, |leaf| leaf.value),
            },
            on_result,
        })
    }

    /// What is run, and when.
    fn task(
        &mut self,
        table: &Table<'_, '_>,
        folder: &Path,
        secrets: BTreeMap<String, SecretSource>,
    ) -> Option<Task> {
        let schedule = self.schedule.check(table);
        let file = self.script_file(table, folder);
        let language = self.language(table, folder, file.as_deref());
        self.check_modules(table, folder, language);
        let first_run = self.first_run.as_ref();
        let first_run = first_run.map(|leaf| self.step(table, folder, leaf, FIRST_RUN_EXAMPLE));
        let startup = self.startup.as_ref();
        let startup = startup.map(|leaf| self.step(table, folder, leaf, STARTUP_EXAMPLE));
        let timeout = match self.schedule.is_kept_running() {
            // A default limit is meant for runs that are expected to end.
            true => self
                .timeout
                .as_ref()
                .filter(|leaf| table.source.is_own(&leaf.at))
                .map(|leaf| leaf.value),
            false => Some(self.timeout.as_ref().map_or(TIMEOUT, |leaf| leaf.value)),
        };
        let Checked {
            schedule,
            policy,
            expect_every,
        } = schedule?;
        Some(Task {
            script: Script {
                run: file?,
                language: language?,
                modules: values(self.modules.take()),
                args: values(self.args.take()),
                env: std::mem::take(&mut self.env)
                    .into_iter()
                    .map(|(name, value)| (name.value, value.value))
                    .collect::<BTreeMap<_, _>>(),
                pass_env: values(self.pass_env.take()),
                secrets,
                timeout,
                kill_grace: self
                    .kill_grace
                    .as_ref()
                    .map_or(KILL_GRACE, |leaf| leaf.value),
                cwd: self.cwd.unwrap_or(Cwd::Job),
                on_stop: self.on_stop.unwrap_or(AtEnd::Terminate),
                on_remove: self.on_remove.unwrap_or(AtEnd::Terminate),
            },
            schedule,
            policy,
            expect_every,
            first_run: transposed(first_run)?,
            startup: transposed(startup)?,
            stdout: std::mem::take(&mut self.stdout).check(table, &[Goal::Events]),
            stderr: std::mem::take(&mut self.stderr).check(table, &[Goal::Events, Goal::Log]),
        })
    }

    /// Refuses files that are to be read after runs when there are none.
    fn check_live(&self, table: &Table<'_, '_>) {
        let mut files = self.files.iter();
        if let Some(files) = files.find(|files| files.when == When::RunEnd) {
            let message = format!(
                "when = \"run_end\" of {} waits for runs, and nothing runs; write when = \"live\", or add [script]",
                files.paths.join(", ")
            );
            table.source.problem(&table.at, "files.when", message);
        }
    }

    /// Whether there is something to run, or half of it, which is a mistake.
    fn runs(&self, table: &Table<'_, '_>) -> bool {
        let scheduled = self.schedule.at.as_ref();
        let scheduled = scheduled.is_some_and(|at| table.source.is_own(at));
        !(self.receive.is_there || self.has_files) || self.has_script || scheduled
    }

    /// Refuses what would be added to events that pass byte for byte.
    fn check_untouched(&self, table: &Table<'_, '_>) {
        let tags = self.tags.as_ref().and_then(|tags| tags.first());
        let own_tags = tags.filter(|leaf| table.source.is_own(&leaf.at));
        let own_fields = self.fields_at.as_ref().filter(|at| table.source.is_own(at));
        let message = "events of [source.lumberjack] pass byte for byte; remove it, and add it where they come from, in Filebeat by `tags` or `fields`";
        if let Some(leaf) = own_tags {
            table.refuse(leaf, message.to_owned());
        }
        if let Some(at) = own_fields {
            table.source.problem(at, "fields", message.to_owned());
        }
    }

    /// Checks what has to be a name.
    fn check_names(&self, table: &Table<'_, '_>) {
        let set = self.env.iter().map(|(name, _)| name);
        let passed = self.pass_env.iter().flatten();
        let plain: Vec<_> = set.chain(passed).collect();
        for leaf in self.rights.variables() {
            if plain.iter().any(|other| other.value == leaf.value) {
                let message = format!("`{}` is in env or pass_env too; keep one", leaf.value);
                table.refuse(leaf, message);
            }
        }
        for leaf in plain.into_iter().chain(self.rights.variables()) {
            if !is_name(&leaf.value) {
                table.refuse(
                    leaf,
                    format!(
                        "`{}` cannot name a variable; use letters, digits and _, like API_URL",
                        leaf.value
                    ),
                );
            } else if leaf.value.starts_with("SPOOLBEAT_") {
                let message = format!("`{}` is set by spoolbeat itself", leaf.value);
                table.refuse(leaf, message);
            }
        }
        for leaf in self.tags.iter().flatten() {
            if leaf.value.trim().is_empty() {
                table.refuse(leaf, "an empty tag says nothing; write \"idp\"".to_owned());
            }
        }
    }

    /// The script's path below the folder, if it is one that can be run.
    fn script_file(&self, table: &Table<'_, '_>, folder: &Path) -> Option<String> {
        let Some(run) = &self.run else {
            if !self.has_run {
                let at = self.script_at.as_ref().unwrap_or(&table.at);
                let message = format!("is missing; write [script] with {RUN_EXAMPLE} under it");
                table.source.missing(at, "script.run", message);
            }
            return None;
        };
        file_of(table, folder, run, RUN_EXAMPLE)
    }

    /// Refuses what cannot be installed.
    fn check_modules(&self, table: &Table<'_, '_>, folder: &Path, language: Option<Language>) {
        let (Some(all), Some(language)) = (&self.modules, language) else {
            return;
        };
        for leaf in all {
            let entry = leaf.value.as_str();
            let file = modules::requirements_file(entry);
            if language.installer().is_none() {
                let message = "there is no installer for this language; put what it needs into the folder, or install it beside, and remove the key";
                table.refuse(leaf, message.to_owned());
            } else if let (Some(file), Language::Python) = (file, language) {
                let file = Leaf {
                    value: file.to_owned(),
                    ..leaf.clone()
                };
                file_of(table, folder, &file, "modules = [\"-r requirements.txt\"]");
            } else if entry.trim().is_empty() || entry.starts_with('-') {
                let message = format!(
                    "`{entry}` names no module; write \"requests==2.32.4\", or with python \"-r requirements.txt\""
                );
                table.refuse(leaf, message);
            }
        }
    }

    /// A script that stands before the schedule.
    fn step(
        &self,
        table: &Table<'_, '_>,
        folder: &Path,
        leaf: &Leaf<String>,
        example: &str,
    ) -> Option<Step> {
        let run = file_of(table, folder, leaf, example)?;
        let language = Language::from_ending(&run).or(self.language);
        let language = check_language(table, folder, leaf, &run, language)?;
        Some(Step { run, language })
    }

    fn language(
        &self,
        table: &Table<'_, '_>,
        folder: &Path,
        file: Option<&str>,
    ) -> Option<Language> {
        let (file, run) = (file?, self.run.as_ref()?);
        let language = self.language.or_else(|| Language::from_ending(file));
        check_language(table, folder, run, file, language)
    }

    /// Whether all of `[output] to` are outputs.
    fn check_outputs(&self, table: &Table<'_, '_>, outlets: &[Outlet]) {
        let names: Vec<&str> = outlets.iter().map(|one| one.name.as_str()).collect();
        for leaf in self.to.iter().flatten() {
            if !names.contains(&leaf.value.as_str()) {
                table.refuse(
                    leaf,
                    format!(
                        "{} (the outputs of {})",
                        not_one_of(&leaf.value, &names),
                        super::ROOT_FILE
                    ),
                );
            }
        }
        if self.to.as_ref().is_some_and(Vec::is_empty) {
            let message = "names no output; remove it to write to all".to_owned();
            table.lacks("output.to", message);
        }
    }

    /// The outputs that get the job's events: those it names, of them those that take its tag.
    fn route(&self, table: &Table<'_, '_>, job: &str, outlets: &[Outlet]) -> Route {
        self.check_outputs(table, outlets);
        let tag = self.tag.as_ref().map_or(job, |leaf| leaf.value.as_str());
        if let (Some(leaf), Err(message)) = (&self.tag, check_name(tag)) {
            table.refuse(leaf, message);
        }
        let Some(to) = &self.to else {
            let route = routing::route(outlets, tag);
            if route.outputs().is_empty() && !outlets.is_empty() {
                let message = format!(
                    "the events go nowhere: no output takes the tag `{tag}`; add it to `tags` of one in {}",
                    super::ROOT_FILE
                );
                match &self.tag {
                    Some(leaf) => table.refuse(leaf, message),
                    None => table.lacks("tag", message),
                }
            }
            return route;
        };
        for leaf in to {
            let named = outlets.iter().find(|one| one.name == leaf.value);
            if named.is_some_and(|one| !one.tags.take(tag)) {
                let message = format!(
                    "output {} does not take the tag `{tag}`; add it to its `tags` in {}, or leave the output out",
                    leaf.value,
                    super::ROOT_FILE
                );
                table.refuse(leaf, message);
            }
        }
        Route::to(to.iter().map(|leaf| leaf.value.clone()).collect())
    }
}

/// The path below the folder of the script that `run` names, if it is one that can be run.
fn file_of(
    table: &Table<'_, '_>,
    folder: &Path,
    run: &Leaf<String>,
    example: &str,
) -> Option<String> {
    let mut path = Vec::new();
    for part in Path::new(&run.value).components() {
        match part {
            Component::CurDir => {}
            Component::Normal(name) => path.push(name.to_str()?),
            Component::ParentDir | Component::RootDir | Component::Prefix(_) => {
                let message = format!(
                    "`{}` leads out of the job's folder; put the script into it and write {example}",
                    run.value
                );
                table.refuse(run, message);
                return None;
            }
        }
    }
    if let Some(name) = path.iter().find(|name| crate::files::is_passing(name)) {
        let message = format!(
            "`{name}` is hidden or temporary by its name, which is no part of a job; rename it, like {example}"
        );
        table.refuse(run, message);
        return None;
    }
    let path = path.join("/");
    let refuse = |why: &str| {
        let message = format!("`{}` {why}; write {example}", run.value);
        table.refuse(run, message);
    };
    match crate::files::look_beneath(folder, &path) {
        Ok(item) if item.kind == crate::files::Kind::File => return Some(path),
        Ok(_) => refuse("is not a plain file"),
        Err(_) if run.value.contains(' ') => {
            refuse(
                "is no file in the folder; arguments stand in args, the interpreter in language",
            );
        }
        Err(_) => refuse("is no file in the folder"),
    }
    None
}

/// The language that was found for the script `file`, if it can be run so.
fn check_language(
    table: &Table<'_, '_>,
    folder: &Path,
    run: &Leaf<String>,
    file: &str,
    language: Option<Language>,
) -> Option<Language> {
    let Some(language) = language else {
        let names: Vec<&str> = Language::NAMES.iter().map(|(name, _)| *name).collect();
        let message = format!(
            "`{file}` has no ending that says its language; write language = \"exec\", or one of {}",
            names.join(", ")
        );
        table.refuse(run, message);
        return None;
    };
    let executable =
        crate::files::look_beneath(folder, file).is_ok_and(|item| item.mode & 0o100 != 0);
    if language == Language::Exec && !executable {
        let message = format!("`{file}` is not executable; run chmod +x {file}");
        table.refuse(run, message);
        return None;
    }
    Some(language)
}

/// A step that is refused is no step that is not there.
fn transposed(step: Option<Option<Step>>) -> Option<Option<Step>> {
    match step {
        None => Some(None),
        Some(step) => step.map(Some),
    }
}

fn values(leaves: Option<Vec<Leaf<String>>>) -> Vec<String> {
    leaves
        .into_iter()
        .flatten()
        .map(|leaf| leaf.value)
        .collect()
}

#[cfg(test)]
mod tests;
