//! `[[files]]`, raw to checked.
//!
//! Must never look for a file: whether there is one is not a matter of configuration.

use std::path::Path;
use std::path::PathBuf;
use std::time::Duration;

use super::LEAST;
use super::capture::MAX_EVENT;
use super::capture::MAX_EVENT_RANGE;
use crate::cleanup::release::is_system;
use crate::config::reader::Leaf;
use crate::config::reader::Table;
use crate::config::reader::not_one_of;
use crate::job::Files;
use crate::job::Format;
use crate::job::When;
use crate::queue::Action;
use crate::sink;
use crate::source::files::pattern::Pattern;
use crate::source::files::pattern::plain_folder;

const EXAMPLE: &str = "paths = [\"/var/log/app/*.log\"]";
const ACTIONS: [&str; 4] = ["keep", "delete", "truncate", "move"];
const ACTION_EXAMPLE: &str =
    "after_ack = \"delete\", or after_ack = { move = \"/var/spool/done\" }";

/// What relative paths are checked as: they lie in a folder that only the daemon knows.
const HOME: &str = "/data-of-the-job";

/// How long a line without an end waits for the rest of it.
const PARTIAL_TIMEOUT: Duration = Duration::from_secs(5);

/// How often folders are looked at where no change was told.
const SCAN: Duration = Duration::from_secs(5);

/// How long a file rests before its clean-up.
const QUIET: Duration = Duration::from_secs(5);

/// Reads all `[[files]]`; those that are wrong are reported and left out. `written` are the files of
/// outputs, by their names.
pub(super) fn read(
    table: &mut Table<'_, '_>,
    written: &[(String, sink::file::Settings)],
) -> Vec<Files> {
    let tables = table.tables("files", &format!("[[files]] with {EXAMPLE}"));
    let files = |table| read_one(table, written);
    tables.into_iter().filter_map(files).collect()
}

fn read_one(mut table: Table<'_, '_>, written: &[(String, sink::file::Settings)]) -> Option<Files> {
    let has_paths = table.has("paths");
    let paths = table.texts("paths", EXAMPLE);
    if paths.as_ref().is_some_and(Vec::is_empty) || !has_paths {
        table.lacks("paths", format!("names no file; write {EXAMPLE}"));
    }
    let paths = paths.unwrap_or_default();
    let exclude = table
        .texts("exclude", "exclude = [\"/var/log/app/debug*\"]")
        .unwrap_or_default();
    let patterns = patterns(&table, &paths);
    let excluded = self::patterns(&table, &exclude);
    check_written(&table, &paths, &excluded, written);
    let when = table.choice("when", &[("live", When::Live), ("run_end", When::RunEnd)]);
    let format = table.choice("format", &[("text", Format::Text), ("json", Format::Json)]);
    let max_event = table.bytes("max_event", MAX_EVENT_RANGE, "max_event = \"1MiB\"");
    let tags = table.texts("tags", "tags = [\"idp\"]");
    let scan = table.duration("scan", Duration::from_millis(100), "scan = \"5s\"");
    let partial = table.duration("partial_timeout", LEAST, "partial_timeout = \"5s\"");
    let after_ack = after_ack(&mut table);
    let quiet = table.duration("quiet", LEAST, "quiet = \"5s\"");
    let roots = table.texts("roots", "roots = [\"/var/spool/idp\"]");
    let prune = table.choice("empty_folder", &[("keep", false), ("delete", true)]);
    let roots = check_roots(&table, roots, after_ack.as_ref(), &patterns);
    check_move(&table, after_ack.as_ref(), &patterns);
    table.finish();
    let text = |leaf: Leaf<String>| leaf.value;
    Some(Files {
        paths: paths.into_iter().map(text).collect(),
        exclude: exclude.into_iter().map(text).collect(),
        when: when.unwrap_or(When::Live),
        format: format.unwrap_or(Format::Text),
        max_event: usize::try_from(max_event.map_or(MAX_EVENT, |leaf| leaf.value)).ok()?,
        tags: super::values(tags),
        scan: scan.map_or(SCAN, |leaf| leaf.value),
        partial_timeout: partial.map_or(PARTIAL_TIMEOUT, |leaf| leaf.value),
        after_ack: after_ack.map(|leaf| leaf.value),
        quiet: quiet.map_or(QUIET, |leaf| leaf.value),
        roots,
        prune: prune.unwrap_or(false),
    })
}

fn patterns(table: &Table<'_, '_>, texts: &[Leaf<String>]) -> Vec<Pattern> {
    let parse = |leaf: &Leaf<String>| match Pattern::parse(&leaf.value, Path::new(HOME)) {
        Ok(pattern) => Some(pattern),
        Err(message) => {
            table.refuse(leaf, message);
            None
        }
    };
    texts.iter().filter_map(parse).collect()
}

/// `"keep"`, `"delete"`, `"truncate"` or `{ move = "/dir" }`; `None` for the first.
fn after_ack(table: &mut Table<'_, '_>) -> Option<Leaf<Action>> {
    if table.is_table("after_ack") {
        let mut inner = table.table("after_ack")?;
        let has_move = inner.has("move");
        let to = inner.text("move", "move = \"/var/spool/done\"");
        if !has_move {
            inner.lacks("move", format!("is missing; write {ACTION_EXAMPLE}"));
        }
        let folder = to.as_ref().and_then(|to| {
            let folder = plain_folder(&to.value);
            if folder.is_none() {
                let message = format!(
                    "`{}` is no absolute path without `..`; write {ACTION_EXAMPLE}",
                    to.value
                );
                inner.refuse(to, message);
            }
            folder
        });
        inner.finish();
        let folder = folder?.to_string_lossy().into_owned();
        return Some(to?.with(Action::Move(folder)));
    }
    let leaf = table.text("after_ack", ACTION_EXAMPLE)?;
    match leaf.value.as_str() {
        "keep" => None,
        "delete" => Some(leaf.with(Action::Delete)),
        "truncate" => Some(leaf.with(Action::Truncate)),
        "move" => {
            let message = format!("`move` has to say where to; write {ACTION_EXAMPLE}");
            table.refuse(&leaf, message);
            None
        }
        other => {
            table.refuse(&leaf, not_one_of(other, &ACTIONS));
            None
        }
    }
}

fn check_roots(
    table: &Table<'_, '_>,
    roots: Option<Vec<Leaf<String>>>,
    after_ack: Option<&Leaf<Action>>,
    patterns: &[Pattern],
) -> Vec<PathBuf> {
    let mut checked = Vec::new();
    for leaf in roots.iter().flatten() {
        match plain_folder(&leaf.value) {
            None => {
                let message = format!(
                    "`{}` is no absolute path without `..`; write roots = [\"/var/spool/idp\"]",
                    leaf.value
                );
                table.refuse(leaf, message);
            }
            Some(root) if is_system(&root) => table.refuse(leaf, is_of_system(&root)),
            Some(root) => checked.push(root),
        }
    }
    if let (Some(action), None) = (after_ack, &roots) {
        for pattern in patterns.iter().filter(|pattern| is_system(&pattern.base)) {
            table.refuse(action, is_of_system(&pattern.base));
        }
    }
    checked
}

fn is_of_system(folder: &Path) -> String {
    format!(
        "`{}` belongs to the system, where nothing is cleaned up; write after_ack = \"keep\", or name other roots",
        folder.display()
    )
}

/// What outputs write must not be read: each event of it would be written again, without end.
fn check_written(
    table: &Table<'_, '_>,
    paths: &[Leaf<String>],
    excluded: &[Pattern],
    written: &[(String, sink::file::Settings)],
) {
    for leaf in paths {
        let Ok(pattern) = Pattern::parse(&leaf.value, Path::new(HOME)) else {
            continue;
        };
        let is_read = |file: &PathBuf| {
            pattern.names(file) && !excluded.iter().any(|exclude| exclude.names(file))
        };
        for (output, settings) in written {
            if let Some(file) = settings.files().find(is_read) {
                let path = settings.path.display();
                let message = format!(
                    "`{}` names {}, which output `{output}` writes: its events would be read and written again without end; write exclude = [\"{path}*\"], or have the output write elsewhere",
                    leaf.value,
                    file.display()
                );
                table.refuse(leaf, message);
            }
        }
    }
}

/// A file must not be moved to where it is read again.
fn check_move(table: &Table<'_, '_>, after_ack: Option<&Leaf<Action>>, patterns: &[Pattern]) {
    let Some(leaf) = after_ack else { return };
    let Action::Move(folder) = &leaf.value else {
        return;
    };
    let folder = Path::new(folder);
    if is_system(folder) {
        table.refuse(leaf, is_of_system(folder));
    } else if patterns.iter().any(|pattern| pattern.reads_in(folder)) {
        let message = format!(
            "files moved to `{}` would be read again, as `paths` names them there; move them elsewhere",
            folder.display()
        );
        table.refuse(leaf, message);
    }
}
