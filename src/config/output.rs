//! `[output.NAME]`: where events go, raw to checked.
//!
//! Must never know what the outputs do with their settings.

use std::collections::BTreeSet;
use std::path::Component;
use std::path::Path;
use std::path::PathBuf;
use std::time::Duration;

use super::Output;
use super::reader::Leaf;
use super::reader::Table;
use super::reader::not_one_of;
use super::root::LEAST;
use super::root::set;
use super::routing::Outlet;
use super::routing::Tags;
use super::ssl;
use crate::files;
use crate::protocol::frame::Version;
use crate::queue::Begin;
use crate::sink;
use crate::units;
use crate::units::LUMBERJACK_PORT;
use crate::window::WINDOW_BYTES_MAX;

/// Most hosts of one output.
const HOSTS_MAX: usize = 64;

/// Smallest cap on a window's bytes: below it the frames' heads weigh more than what they carry.
const BULK_BYTES_MIN: u64 = 64 << 10;

/// Largest cap on a window's bytes: half of the 64 MiB to which Graylog inflates.
const BULK_BYTES_MAX: u64 = 32 << 20;

/// Most outputs; each has a cursor that the queue keeps.
const OUTPUTS_MAX: usize = 64;

const OUTPUT_EXAMPLE: &str = "[output.lumberjack] with hosts = [\"logstash-1:5044\"] under it";

/// The outputs of the root directory `dir`, and what jobs have to know of all that are there.
pub(super) fn read(
    root: &mut Table<'_, '_>,
    dir: &Path,
    files: &mut ssl::Files<'_>,
) -> (Vec<Output>, Vec<Outlet>) {
    let given = root.has("output");
    let Some(mut outputs) = root.table("output") else {
        if !given {
            root.lacks(
                "output",
                format!("there is no output; write {OUTPUT_EXAMPLE}"),
            );
        }
        return (Vec::new(), Vec::new());
    };
    let tables = outputs.named_tables(OUTPUT_EXAMPLE);
    if tables.is_empty() {
        let message = format!("there is no output; write {OUTPUT_EXAMPLE}");
        root.lacks("output", message);
    }
    if tables.len() > OUTPUTS_MAX {
        let message = format!("{} outputs; the most is {OUTPUTS_MAX}", tables.len());
        root.lacks("output", message);
    }
    let (mut good, mut outlets) = (Vec::new(), Vec::new());
    let mut places: BTreeSet<String> = BTreeSet::new();
    for (name, table) in tables {
        let (output, outlet) = read_output(&name, table, dir, files);
        let taken = output.iter().flat_map(|output| places_of(&output.kind));
        let taken: Vec<String> = taken.collect();
        if let Some(place) = taken.iter().find(|place| places.contains(*place)) {
            let message = format!("another output writes to {place} already; choose one of them");
            outputs.refuse(&name, message);
        }
        places.extend(taken);
        good.extend(output);
        outlets.push(outlet);
    }
    (good, outlets)
}

/// What only one output can write to.
fn places_of(sink: &sink::Settings) -> Vec<String> {
    match sink {
        sink::Settings::Lumberjack(_) => Vec::new(),
        sink::Settings::File(settings) => {
            let files = settings.files().map(|path| real_place(&path));
            files.map(|path| path.display().to_string()).collect()
        }
        sink::Settings::Stdout => vec!["standard output".to_owned()],
    }
}

fn read_output(
    name: &Leaf<String>,
    mut table: Table<'_, '_>,
    dir: &Path,
    files: &mut ssl::Files<'_>,
) -> (Option<Output>, Outlet) {
    // The name is a folder's name (dead-letter/) and a file's (the cursor).
    if let Err(message) = super::check_name(&name.value) {
        table.refuse(name, message);
    }
    let kind = read_kind(&name.value, &mut table);
    let required = table.truth("required", "required = true");
    let outlet = Outlet {
        name: name.value.clone(),
        required: required.is_none_or(|leaf| leaf.value),
        tags: read_tags(&mut table),
    };
    let starts = [("newest", Begin::Newest), ("oldest", Begin::Oldest)];
    let start = table.choice("start", &starts).unwrap_or(Begin::Newest);
    let kind = match kind {
        None => None,
        Some(Kind::Lumberjack) => {
            read_lumberjack(&mut table, files).map(|it| sink::Settings::Lumberjack(Box::new(it)))
        }
        Some(Kind::File) => read_file(&mut table, dir, files.folder).map(sink::Settings::File),
        Some(Kind::Stdout) => Some(sink::Settings::Stdout),
    };
    table.finish();
    let output = kind.map(|kind| Output {
        name: outlet.name.clone(),
        required: outlet.required,
        tags: outlet.tags.clone(),
        start,
        kind,
    });
    (output, outlet)
}

#[derive(Debug, Clone, Copy)]
enum Kind {
    Lumberjack,
    File,
    Stdout,
}

/// `kind`, without it the output's name.
fn read_kind(name: &str, table: &mut Table<'_, '_>) -> Option<Kind> {
    const KINDS: [(&str, Kind); 3] = [
        ("lumberjack", Kind::Lumberjack),
        ("file", Kind::File),
        ("stdout", Kind::Stdout),
    ];
    if table.has("kind") {
        return table.choice("kind", &KINDS);
    }
    table.known("kind");
    let named = KINDS.iter().find(|(kind, _)| *kind == name);
    if named.is_none() {
        let kinds = KINDS.map(|(kind, _)| kind);
        let message = format!(
            "{}; or write kind = \"{}\" under it",
            not_one_of(name, &kinds),
            kinds[0]
        );
        table.lacks("kind", message);
        // Most likely it is one; its keys are then no problems of their own.
        return Some(Kind::Lumberjack);
    }
    named.map(|(_, kind)| *kind)
}

const TAGS_EXAMPLE: &str = "tags = [\"idp.*\", \"!idp.noise\"]";

fn read_tags(table: &mut Table<'_, '_>) -> Tags {
    let Some(leaves) = table.texts("tags", TAGS_EXAMPLE) else {
        return Tags::default();
    };
    if leaves.is_empty() {
        table.lacks(
            "tags",
            "names no tag; remove it to get the events of all jobs".to_owned(),
        );
    }
    let mut tags = Tags::default();
    for leaf in &leaves {
        if let Err(message) = tags.add(&leaf.value) {
            table.refuse(leaf, format!("{message}; write {TAGS_EXAMPLE}"));
        }
    }
    tags
}

/// Smallest size at which a file is rotated.
const ROTATE_BYTES_MIN: u64 = 64 << 10;

/// Folders of the root that are not for outputs.
const OURS: [&str; 6] = [
    "dead-letter",
    "jobs",
    "plugins",
    "queue",
    "results",
    "state",
];

fn read_file(table: &mut Table<'_, '_>, dir: &Path, folder: &Path) -> Option<sink::file::Settings> {
    const EXAMPLE: &str = "path = \"/var/log/spoolbeat/events.ndjson\"";
    let given = table.has("path");
    let path = table.text("path", EXAMPLE);
    if !given {
        table.lacks("path", format!("is missing; write {EXAMPLE}"));
    }
    let rotate = table.bytes(
        "rotate_bytes",
        ROTATE_BYTES_MIN..1 << 50,
        "rotate_bytes = \"100MiB\"",
    );
    let keep = table.number("keep", 1..1001, "keep = 5");
    let leaf = path?;
    let path = std::path::absolute(folder.join(&leaf.value)).ok()?;
    if path.file_name().is_none() || leaf.value.ends_with('/') {
        table.refuse(&leaf, format!("names no file; write {EXAMPLE}"));
        return None;
    }
    let mut parts = Path::new(&leaf.value).components();
    if parts.any(|part| part == Component::ParentDir) {
        let message = format!("`..` hides where it leads; write the path out, like {EXAMPLE}");
        table.refuse(&leaf, message);
        return None;
    }
    let (place, root) = (real_place(&path), real_place(&dir.join(super::ROOT_FILE)));
    if [root.clone(), real_place(&folder.join(super::ROOT_FILE))].contains(&place) {
        let message = format!("is this configuration itself; write {EXAMPLE}");
        table.refuse(&leaf, message);
        return None;
    }
    if let Some(ours) = OURS
        .iter()
        .find(|name| place.starts_with(root.with_file_name(name)))
    {
        let message = format!("{ours}/ of the root is no place for it; write {EXAMPLE}");
        table.refuse(&leaf, message);
        return None;
    }
    Some(sink::file::Settings {
        path,
        rotate_bytes: rotate.map_or(100 << 20, |leaf| leaf.value),
        keep: keep.unwrap_or(5),
    })
}

/// Where a file lies when no part of its path is a link or leads up, as far as there is one.
pub(super) fn real_place(path: &Path) -> PathBuf {
    let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_path_buf());
    // The deepest part that is there; what is below it cannot be a link.
    if let Ok(real) = files::real_path(&absolute) {
        return real;
    }
    for folder in absolute.ancestors().skip(1) {
        if let (Ok(real), Ok(rest)) = (files::real_path(folder), absolute.strip_prefix(folder)) {
            return real.join(rest);
        }
    }
    absolute
}

fn read_lumberjack(
    table: &mut Table<'_, '_>,
    files: &mut ssl::Files<'_>,
) -> Option<sink::lumberjack::Settings> {
    let mut settings = sink::lumberjack::Settings {
        hosts: read_hosts(table),
        loadbalance: false,
        version: Version::V2,
        bulk_max_size: 2048,
        bulk_max_bytes: WINDOW_BYTES_MAX as u64,
        compression_level: 3,
        pipelining: 2,
        ttl: Duration::ZERO,
        timeout: Duration::from_secs(30),
        ack_stall_timeout: Duration::from_secs(300),
        backoff_init: Duration::from_secs(1),
        backoff_max: Duration::from_secs(60),
        tls: ssl::read_client(table, files),
    };
    let balance = table.truth("loadbalance", "loadbalance = true");
    set(&mut settings.loadbalance, balance);
    if table.number("version", 1..3, "version = 2") == Some(1) {
        settings.version = Version::V1;
    }
    let size = table.number("bulk_max_size", 1..10_001, "bulk_max_size = 2048");
    settings.bulk_max_size = size.unwrap_or(settings.bulk_max_size);
    let bytes = table.bytes(
        "bulk_max_bytes",
        BULK_BYTES_MIN..BULK_BYTES_MAX + 1,
        "bulk_max_bytes = \"8MiB\"",
    );
    set(&mut settings.bulk_max_bytes, bytes);
    let level = table.number("compression_level", 0..10, "compression_level = 3");
    settings.compression_level = level.unwrap_or(settings.compression_level);
    let windows = table.number("pipelining", 0..65, "pipelining = 2");
    settings.pipelining = windows.unwrap_or(settings.pipelining);
    let ttl = table.duration("ttl", Duration::ZERO, "ttl = \"10m\"");
    set(&mut settings.ttl, ttl);
    let timeout = table.duration("timeout", LEAST, "timeout = \"30s\"");
    set(&mut settings.timeout, timeout);
    let stall = table.duration("ack_stall_timeout", LEAST, "ack_stall_timeout = \"5m\"");
    set(&mut settings.ack_stall_timeout, stall);
    if let Some(mut backoff) = table.table("backoff") {
        let init = backoff.duration("init", LEAST, "init = \"1s\"");
        let max = backoff.duration("max", LEAST, "max = \"60s\"");
        set(&mut settings.backoff_init, init.clone());
        set(&mut settings.backoff_max, max.clone());
        if settings.backoff_init > settings.backoff_max
            && let Some(leaf) = max.or(init)
        {
            let message =
                "init is longer than max; write backoff = { init = \"1s\", max = \"60s\" }";
            backoff.refuse(&leaf, message.to_owned());
        }
        backoff.finish();
    }
    (!settings.hosts.is_empty()).then_some(settings)
}

const HOSTS_EXAMPLE: &str = "hosts = [\"logstash-1:5044\", \"[::1]:5044\"]";

fn read_hosts(table: &mut Table<'_, '_>) -> Vec<String> {
    if !table.has("hosts") {
        table.known("hosts");
        table.lacks("hosts", format!("is missing; write {HOSTS_EXAMPLE}"));
        return Vec::new();
    }
    let at = table.at.clone();
    let hosts = table.texts("hosts", HOSTS_EXAMPLE).unwrap_or_default();
    if hosts.len() > HOSTS_MAX {
        let message = format!("{} hosts; the most is {HOSTS_MAX}", hosts.len());
        table.source.problem(&at, &table.name("hosts"), message);
    }
    let mut addresses = Vec::with_capacity(hosts.len());
    for host in &hosts {
        match units::parse_address(&host.value, Some(LUMBERJACK_PORT)) {
            Ok(address) => addresses.push(address),
            Err(message) => table.refuse(host, format!("{message}; write {HOSTS_EXAMPLE}")),
        }
    }
    if hosts.is_empty() {
        table.lacks("hosts", format!("names no host; write {HOSTS_EXAMPLE}"));
    }
    addresses
}
