//! `spoolbeat.toml`, raw to checked.
//!
//! Sections that are missing take their defaults; what is not built yet is an unknown key.
//! Must never know what the outputs and the queue do with their settings.

use std::io;
use std::path::Component;
use std::path::Path;
use std::path::PathBuf;
use std::time::Duration;

use super::Defaults;
use super::Grants;
use super::Log;
use super::Problem;
use super::ROOT_FILE;
use super::Receiver;
use super::Root;
use super::job;
use super::listen;
use super::output;
use super::read_text;
use super::reader::Leaf;
use super::reader::Table;
use super::routing::Outlet;
use super::source::Lookup;
use super::source::Origin;
use super::source::Segment;
use super::source::Source;
use super::ssl;
use super::variable;
use crate::event::envelope::Beat;
use crate::event::envelope::Shape;
use crate::files;
use crate::process::User;
use crate::queue;
use crate::queue::Durability;
use crate::queue::OnFull;
use crate::sink;
use crate::units::LUMBERJACK_PORT;

/// Shortest time that any wait may be set to.
pub(super) const LEAST: Duration = Duration::from_millis(1);

/// Shortest period of the full look at `jobs/`: with 10,000 jobs one look takes 0.14 s of CPU.
const RESCAN_MIN: Duration = Duration::from_millis(100);

/// Shortest period of heartbeats.
const HEARTBEAT_MIN: Duration = Duration::from_secs(1);

/// Loads the root configuration.
///
/// `place` is `spoolbeat.toml` or the folder that it is in; each of `overrides` is `key=value` with a
/// dotted key and wins over the file; a value that is not TOML is taken as text.
///
/// # Errors
/// Everything that is wrong with it, in the order of the text.
pub fn load_root(place: &Path, overrides: &[String]) -> Result<Root, Vec<Problem>> {
    load_root_with(place, overrides, variable)
}

fn load_root_with(
    place: &Path,
    overrides: &[String],
    lookup: Lookup,
) -> Result<Root, Vec<Problem>> {
    let draft = draft_root_with(place, overrides, lookup)?;
    if draft.problems.is_empty() {
        Ok(draft.root)
    } else {
        Err(draft.problems)
    }
}

/// A root configuration as far as it could be taken, for those who look on in spite of problems.
#[derive(Debug)]
pub struct Draft {
    /// What was wrong has its default here, or is missing.
    pub root: Root,
    /// All outputs that the file names, also those with problems.
    pub outlets: Vec<Outlet>,
    /// Everything that is wrong with it, in the order of the text.
    pub problems: Vec<Problem>,
}

impl Draft {
    /// Whether enough is known to check jobs against it: where they are, and the outputs' names.
    #[must_use]
    pub fn serves_jobs(&self) -> bool {
        // Behind an error of TOML itself, which has no key, anything may be missing.
        let vital = |problem: &Problem| ["", "root"].contains(&problem.key.as_str());
        !self.outlets.is_empty() && !self.problems.iter().any(vital)
    }
}

/// Takes of a root configuration what can be taken.
///
/// # Errors
/// It cannot be read.
pub fn draft_root(place: &Path, overrides: &[String]) -> Result<Draft, Vec<Problem>> {
    draft_root_with(place, overrides, variable)
}

fn draft_root_with(
    place: &Path,
    overrides: &[String],
    lookup: Lookup,
) -> Result<Draft, Vec<Problem>> {
    let is_dir = files::look(place).is_ok_and(|item| item.kind == files::Kind::Dir);
    let path = if is_dir {
        place.join(ROOT_FILE)
    } else {
        place.to_path_buf()
    };
    let file = path.display().to_string();
    let text = read_text(&path, &file).map_err(|mut problem| {
        if files::look(&path).is_err() {
            problem
                .message
                .push_str("; `spoolbeat init DIR` makes a root directory with one");
        }
        vec![problem]
    })?;
    let segments = segments(file, text, overrides).map_err(|problem| vec![problem])?;
    let source = Source::new(segments.clone(), lookup);
    let mut table = Table::root(&source, source.tree(0));
    let folder = path.parent().filter(|folder| *folder != Path::new(""));
    let folder = folder.unwrap_or(Path::new("."));
    let folder = straight(folder).unwrap_or_else(|_| folder.to_path_buf());
    let (mut root, outlets) = read_root(&mut table, &folder, Defaults::new(segments));
    root.unusable
        .sort_by_key(|problem| (problem.line, problem.column));
    table.finish();
    let problems = source.into_problems();
    Ok(Draft {
        root,
        outlets,
        problems,
    })
}

/// The file's text and behind it one text per override.
fn segments(file: String, text: String, overrides: &[String]) -> Result<Vec<Segment>, Problem> {
    let mut start = text.len() + 1;
    let mut segments = vec![Segment {
        start: 0,
        file,
        text,
        origin: Origin::File,
    }];
    for argument in overrides {
        let file = format!("-E {argument}");
        let Some((key, value)) = argument.split_once('=') else {
            let message = "without `=`; write key=value, like -E queue.max_bytes=1GiB".to_owned();
            return Err(Problem::of_file(file, message));
        };
        let mut text = format!("{key} = {value}");
        if toml::de::DeTable::parse(&text).is_err() {
            text = format!("{key} = {}", serde_json::Value::from(value));
        }
        let end = start + text.len() + 1;
        segments.push(Segment {
            start,
            file,
            text,
            origin: Origin::Argument,
        });
        start = end;
    }
    Ok(segments)
}

/// An absolute path without a way back: that leads through the folder that it leaves, in which a job's
/// user may have no rights.
fn straight(path: &Path) -> io::Result<PathBuf> {
    let path = std::path::absolute(path)?;
    let goes_back = path.components().any(|part| part == Component::ParentDir);
    Ok(match goes_back {
        true => output::real_place(&path),
        false => path,
    })
}

fn read_root(
    table: &mut Table<'_, '_>,
    folder: &Path,
    mut defaults: Defaults,
) -> (Root, Vec<Outlet>) {
    let root = table.text("root", "root = \"/var/lib/spoolbeat\"");
    let dir = root.map_or_else(|| folder.to_path_buf(), |root| folder.join(root.value));
    let dir = match straight(&dir) {
        Ok(dir) => dir,
        Err(error) => {
            table.lacks("root", format!("{} is no place: {error}", dir.display()));
            PathBuf::new()
        }
    };
    let spool = read_spool(table);
    let mut files = ssl::Files {
        folder,
        unusable: Vec::new(),
    };
    let (outputs, outlets) = output::read(table, &dir, &mut files);
    defaults.lead_to(&outputs);
    if let Some(table) = table.table("defaults") {
        job::check_defaults(table, &outlets);
    }
    let receiver = read_receiver(table, &mut files);
    let listens = receiver.iter().map(|one| one.server.listen.clone());
    let listens = listens.map(|listen| ("[receiver] of spoolbeat.toml".to_owned(), listen));
    defaults.listeners.extend(listens);
    let prints = receiver.as_ref().is_some_and(|receiver| receiver.print);
    if prints
        && outputs
            .iter()
            .any(|output| output.kind == sink::Settings::Stdout)
    {
        let message = "an output writes to standard output already; write print = false";
        table.lacks("receiver.print", message.to_owned());
    }
    let root = Root {
        dir,
        defaults,
        settle: spool.0,
        rescan: spool.1,
        max_concurrent_runs: spool.2,
        outputs,
        queue: read_queue(table),
        shape: read_events(table),
        results_bytes: read_results(table),
        receiver,
        grants: Grants::read(table),
        stop_timeout: read_stop(table),
        require_output: read_startup(table),
        heartbeat: read_heartbeat(table),
        log: read_log(table),
        unusable: files.unusable,
    };
    (root, outlets)
}

/// `settle`, `rescan`, `max_concurrent_runs`.
fn read_spool(root: &mut Table<'_, '_>) -> (Duration, Duration, u32) {
    let mut spool = (Duration::from_secs(1), Duration::from_secs(30), 64);
    if let Some(mut table) = root.table("spool") {
        set(
            &mut spool.0,
            table.duration("settle", LEAST, "settle = \"1s\""),
        );
        let rescan = table.duration("rescan", RESCAN_MIN, "rescan = \"30s\"");
        set(&mut spool.1, rescan);
        let runs = table.number("max_concurrent_runs", 1..10_001, "max_concurrent_runs = 64");
        spool.2 = runs.unwrap_or(spool.2);
        table.finish();
    }
    spool
}

pub(super) fn set<T>(value: &mut T, leaf: Option<Leaf<T>>) {
    if let Some(leaf) = leaf {
        *value = leaf.value;
    }
}

fn read_queue(root: &mut Table<'_, '_>) -> queue::Settings {
    let mut settings = queue::Settings {
        max_bytes: 10 << 30,
        retain_age: Duration::from_secs(24 * 3600),
        retain_bytes: 1 << 30,
        durability: Durability::Sync,
        batch_events: 2048,
        batch_bytes: 1 << 20,
        flush: Duration::from_millis(100),
        compression_level: 3,
        on_full: OnFull::Block,
    };
    let Some(mut table) = root.table("queue") else {
        return settings;
    };
    let bytes = table.bytes("max_bytes", 16 << 20..1 << 50, "max_bytes = \"10GiB\"");
    set(&mut settings.max_bytes, bytes);
    if let Some(mut retain) = table.table("retain") {
        let age = retain.duration("age", Duration::ZERO, "age = \"24h\"");
        set(&mut settings.retain_age, age);
        let bytes = retain.bytes("bytes", 0..1 << 50, "bytes = \"1GiB\"");
        set(&mut settings.retain_bytes, bytes);
        retain.finish();
    }
    let on_full = [
        ("block", OnFull::Block),
        ("drop_oldest", OnFull::DropOldest),
    ];
    settings.on_full = table
        .choice("on_full", &on_full)
        .unwrap_or(settings.on_full);
    if let Some(durability) = read_durability(&mut table) {
        settings.durability = durability;
    }
    let events = table.number("batch_events", 1..10_001, "batch_events = 2048");
    settings.batch_events = events.unwrap_or(settings.batch_events);
    let bytes = table.bytes("batch_bytes", 1024..(8 << 20) + 1, "batch_bytes = \"1MiB\"");
    set(&mut settings.batch_bytes, bytes);
    let flush = table.duration("flush", LEAST, "flush = \"100ms\"");
    set(&mut settings.flush, flush);
    let level = table.number("compression_level", 0..10, "compression_level = 3");
    settings.compression_level = level.unwrap_or(settings.compression_level);
    table.finish();
    settings
}

fn read_durability(table: &mut Table<'_, '_>) -> Option<Durability> {
    const EXAMPLE: &str = "durability = \"sync\" or { interval = \"1s\" }";
    if table.is_table("durability") {
        let mut table = table.table("durability")?;
        let interval = table.duration("interval", LEAST, "interval = \"1s\"");
        table.finish();
        return interval.map(|leaf| Durability::Interval(leaf.value));
    }
    let leaf = table.text("durability", EXAMPLE)?;
    table.pick(&leaf, &[("sync", Durability::Sync)])
}

/// The beat that Scriptable Beat's parsing rules look for.
const COLLECTED_BEAT: &str = "scriptablebeat";

fn read_events(root: &mut Table<'_, '_>) -> Shape {
    let Some(mut table) = root.table("events") else {
        return Shape::Ecs;
    };
    let shapes = [("ecs", false), ("opencollector", true)];
    let is_collected = table.choice("shape", &shapes).unwrap_or(false);
    let beat = table.text("beat", "beat = \"scriptablebeat\"");
    let identifier = table.text("identifier", "identifier = \"web-1\"");
    if let (false, Some(leaf)) = (is_collected, beat.as_ref().or(identifier.as_ref())) {
        let message = "goes with shape = \"opencollector\" only; write that, or remove it";
        table.refuse(leaf, message.to_owned());
    }
    table.finish();
    if !is_collected {
        return Shape::Ecs;
    }
    Shape::OpenCollector(Beat {
        name: beat.map_or_else(|| COLLECTED_BEAT.to_owned(), |leaf| leaf.value),
        identifier: identifier.map_or_else(String::new, |leaf| leaf.value),
    })
}

fn read_results(root: &mut Table<'_, '_>) -> u64 {
    let mut bytes = 1 << 30;
    if let Some(mut table) = root.table("results") {
        let leaf = table.bytes("bytes", 1 << 20..1 << 50, "bytes = \"1GiB\"");
        set(&mut bytes, leaf);
        table.finish();
    }
    bytes
}

fn read_receiver(root: &mut Table<'_, '_>, files: &mut ssl::Files<'_>) -> Option<Receiver> {
    let mut table = root.table("receiver")?;
    let usual = format!("127.0.0.1:{LUMBERJACK_PORT}");
    let (server, _) = listen::read(&mut table, files, Some(&usual), Some(&User::own()));
    let print = table.truth("print", "print = true");
    table.finish();
    Some(Receiver {
        server,
        print: print.is_none_or(|leaf| leaf.value),
    })
}

fn read_stop(root: &mut Table<'_, '_>) -> Duration {
    let mut timeout = Duration::from_secs(5);
    if let Some(mut table) = root.table("stop") {
        let leaf = table.duration("timeout", LEAST, "timeout = \"5s\"");
        set(&mut timeout, leaf);
        table.finish();
    }
    timeout
}

fn read_startup(root: &mut Table<'_, '_>) -> bool {
    let mut require_output = false;
    if let Some(mut table) = root.table("startup") {
        let leaf = table.truth("require_output", "require_output = true");
        set(&mut require_output, leaf);
        table.finish();
    }
    require_output
}

fn read_heartbeat(root: &mut Table<'_, '_>) -> Option<Duration> {
    const EXAMPLE: &str = "every = \"60s\"";
    let mut table = root.table("heartbeat")?;
    let given = table.has("every");
    let every = table.duration("every", HEARTBEAT_MIN, EXAMPLE);
    if !given {
        table.lacks("every", format!("is missing; write {EXAMPLE}"));
    }
    table.finish();
    every.map(|leaf| leaf.value)
}

fn read_log(root: &mut Table<'_, '_>) -> Log {
    let mut level = "info";
    if let Some(mut table) = root.table("log") {
        let levels = ["error", "warn", "info", "debug"].map(|name| (name, name));
        level = table.choice("level", &levels).unwrap_or(level);
        table.finish();
    }
    Log {
        level: level.to_owned(),
    }
}

#[cfg(test)]
mod tests;
