//! The house rules that a compiler does not know: who may import whom, what may be called where,
//! how long a file may get. Reads the sources as text, so it holds for code behind any `cfg`.

use std::fs;
use std::path::Path;
use std::path::PathBuf;

/// Which top-level modules the code (not the tests) of a module may name. Imports go down or
/// sideways by floor, never up; a new module gets its line here.
const MAY_USE: &[(&str, &str)] = &[
    // floor 0: words
    ("units", ""),
    ("clock", "units"),
    ("disk", "units"),
    ("event", "units"),
    ("fileid", ""),
    ("log", "clock units"),
    // floor 1: pure machines
    ("schedule", "clock run units"),
    ("run", "clock units"),
    ("pipeline", "event units"),
    ("queue", "clock disk event fileid run units"),
    ("protocol", "clock event units"),
    ("cleanup", "event fileid queue units"),
    ("window", "clock event protocol queue units"),
    ("deadletter", "disk units"),
    // floor 2: hands
    ("process", "clock disk event run units"),
    ("files", "clock disk event fileid process queue units"),
    // Knows no sockets: TLS is laid over any stream, and tested so.
    ("tls", "clock disk process units"),
    (
        "lumberjack",
        "clock event process protocol tls units window",
    ),
    // Finds interpreters and installers, and starts the latter: as a child of a run, never in the daemon.
    ("modules", "disk files"),
    ("results", "cleanup clock disk event files run units"),
    (
        "source",
        "clock disk event fileid files lumberjack pipeline process protocol queue run tls units",
    ),
    (
        "sink",
        "clock disk event lumberjack process protocol queue tls units window",
    ),
    // floor 3: the text world
    (
        "job",
        "cleanup clock event modules pipeline process queue results run schedule source units",
    ),
    (
        "config",
        "cleanup clock disk event files job log modules pipeline process protocol queue results run schedule sink source tls units window",
    ),
    (
        "spool",
        "clock config disk event files job process schedule units",
    ),
    // floor 4: acting parts, which do not know each other
    (
        "harvester",
        "cleanup clock event fileid files job process queue source units",
    ),
    (
        "runner",
        "cleanup clock config disk event files job modules pipeline process queue results run schedule source spool units",
    ),
    (
        "shipper",
        "cleanup clock config deadletter disk event files lumberjack protocol queue sink units window",
    ),
    // floor 5: the head, which may use everything below
    ("status", BELOW_THE_HEAD),
    ("supervisor", BELOW_THE_HEAD),
    ("control", BELOW_THE_HEAD),
    ("daemon", BELOW_THE_HEAD),
    // Only in tests: everything that is decided below `cli`, in one world.
    ("simulator", BELOW_THE_HEAD),
    ("cli", BELOW_THE_HEAD),
    ("main", "cli log modules process"),
    ("lib", ""),
];

/// All modules of floors 0 to 4, and the head itself without `cli`.
const BELOW_THE_HEAD: &str = "cleanup clock config control daemon deadletter disk event fileid files harvester job log \
     lumberjack modules pipeline process protocol queue results run runner schedule shipper sink source spool \
     status supervisor tls units window";

/// Imports against the table that were there when it came. Only ever fewer.
const UPWARD: &[(&str, &str)] = &[("src/daemon/receiver.rs", "cli")];

/// Words that only some modules may write, and what the others do instead.
const ONLY_IN: &[(&str, &[&str], &str)] = &[
    ("Instant::now", &["clock"], "call clock::tick"),
    ("SystemTime::now", &["clock"], "call clock::now"),
    (
        "tokio::time",
        &["clock"],
        "call clock::sleep or clock::within",
    ),
    ("thread::sleep", &["clock"], "call clock::pause"),
    ("std::fs", HANDS_ON_FILES, "go through disk::Disk or files"),
    (
        "File::open",
        HANDS_ON_FILES,
        "go through disk::Disk or files",
    ),
    (
        "File::options",
        HANDS_ON_FILES,
        "go through disk::Disk or files",
    ),
    (
        "fs::rename",
        // `files` renames what belongs to others, below a descriptor, and promises no durability.
        &["disk", "files"],
        "call Disk::replace or Disk::rename",
    ),
    (".persist(", &["disk"], "call Disk::replace"),
    (
        ".sync_all(",
        &["disk"],
        "call Disk::replace or Disk::sync_dir",
    ),
    (".sync_data(", &["disk"], "call DiskFile::sync"),
    (
        "TcpStream",
        &["lumberjack", "cli"],
        "let lumberjack connect",
    ),
    (
        "TcpListener",
        &["lumberjack", "cli"],
        "let lumberjack listen",
    ),
    (
        "UnixStream",
        &["control", "process"],
        "let control or process speak",
    ),
    (
        "UnixListener",
        &["control", "process"],
        "let control listen",
    ),
    (
        "unsafe",
        &["process"],
        "put the call behind a safe function of process",
    ),
    (
        "libc::",
        &["disk", "files", "process"],
        "put the call behind a function of process",
    ),
    (
        "Ack::witnessed",
        &["sink", "event"],
        "only a sink that read the peer's ACK makes one",
    ),
];

const HANDS_ON_FILES: &[&str] = &["disk", "files", "process"];

/// A file that is longer before its tests holds two things.
const FILE_LINES_MAX: usize = 700;

/// Files that were longer when the limit came, and what they may have until they are split. Only ever shorter.
const LONGER: &[(&str, usize)] = &[
    ("src/config/reader.rs", 760),
    ("src/supervisor/mod.rs", 770),
];

/// A function that is longer cannot be read at once. The aim is 70.
const FUNCTION_LINES_MAX: usize = 90;

/// One source file: where it is, what module it belongs to, its lines before its tests.
struct Source {
    path: String,
    module: String,
    all: String,
    code: Vec<String>,
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn sources() -> Vec<Source> {
    let mut folders = vec![root().join("src")];
    let mut sources = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).expect("a folder of sources") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|ending| ending == "rs") {
                sources.push(Source::read(&path));
            }
        }
    }
    assert!(sources.len() > 10, "the sources are not where they were");
    sources.sort_by(|a, b| a.path.cmp(&b.path));
    sources
}

impl Source {
    fn read(path: &Path) -> Self {
        let all = fs::read_to_string(path).expect("a source in UTF-8");
        let path = path.strip_prefix(root()).expect("a file of ours");
        let path = path.to_str().expect("an ASCII path").to_owned();
        let inside = path.trim_start_matches("src/");
        let module = inside.split(['/', '.']).next().unwrap_or_default();
        let lines: Vec<&str> = all.lines().collect();
        let code = if path.ends_with("tests.rs") || path.contains("/tests/") {
            0
        } else {
            tests_begin(&lines)
        };
        Self {
            module: module.to_owned(),
            code: lines[..code].iter().map(|line| uncommented(line)).collect(),
            path,
            all,
        }
    }

    /// Says of each line of code what `problem` finds in it.
    fn each_line(&self, found: &mut Vec<String>, problem: impl Fn(&str) -> Option<String>) {
        for (number, line) in self.code.iter().enumerate() {
            if let Some(problem) = problem(line) {
                found.push(format!("{}:{}: {problem}", self.path, number + 1));
            }
        }
    }
}

/// The line where the test module begins that ends the file; the end when there is none.
fn tests_begin(lines: &[&str]) -> usize {
    let starts = |at: &usize| {
        let item = lines[*at..].iter().find(|line| !line.starts_with("#["));
        lines[*at] == "#[cfg(test)]"
            && item.is_some_and(|item| item.starts_with("mod ") && item.ends_with('{'))
    };
    (0..lines.len()).find(starts).unwrap_or(lines.len())
}

/// A line without its comment; `://` in a text is none.
fn uncommented(line: &str) -> String {
    let comment = line
        .match_indices("//")
        .find(|(at, _)| !line[..*at].ends_with(':'));
    line[..comment.map_or(line.len(), |(at, _)| at)].to_owned()
}

fn is_word(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_'
}

/// Whether `line` has `word` as a word of its own, so `unsafe_code` is not `unsafe`.
fn has(line: &str, word: &str) -> bool {
    line.match_indices(word).any(|(at, _)| {
        let before = line[..at].chars().next_back();
        let after = line[at + word.len()..].chars().next();
        let open = !word.ends_with(is_word) || !after.is_some_and(is_word);
        open && (!word.starts_with(is_word) || !before.is_some_and(is_word))
    })
}

fn none(found: &[String]) {
    assert!(found.is_empty(), "\n{}\n", found.join("\n"));
}

#[test]
fn imports_go_down_or_sideways_and_stand_alone() {
    let mut found = Vec::new();
    for source in sources() {
        let module = source.module.as_str();
        let Some((_, allowed)) = MAY_USE.iter().find(|(name, _)| *name == module) else {
            found.push(format!(
                "{}:1: module `{module}` is new; give it a line in MAY_USE of tests/it/tidy.rs",
                source.path
            ));
            continue;
        };
        let top = source.path.matches('/').count() == 1 || source.path.ends_with("/mod.rs");
        source.each_line(&mut found, |line| {
            if line.contains("use crate::") && line.contains('{') {
                return Some("imports of two things; write one `use` per line".to_owned());
            }
            if top && has(line, "super::super") || line.contains("use super::super") {
                return Some("`super` above the module; write `crate::`".to_owned());
            }
            let named = line.match_indices("crate::").map(|(at, name)| {
                let rest = &line[at + name.len()..];
                rest.split(|c| !is_word(c)).next().unwrap_or_default()
            });
            let known = |name: &str| {
                name == module
                    || allowed.split(' ').any(|allowed| allowed == name)
                    || UPWARD.contains(&(source.path.as_str(), name))
            };
            let mut strange = named.filter(|name| !known(name));
            let name = strange.next()?;
            Some(format!(
                "`{module}` names `crate::{name}`, which it must not know; move the code down, or pass the value in (MAY_USE in tests/it/tidy.rs)"
            ))
        });
    }
    none(&found);
}

#[test]
fn the_clock_the_disk_and_sockets_have_one_door_each() {
    let mut found = Vec::new();
    for source in sources() {
        source.each_line(&mut found, |line| {
            let (word, _, instead) = ONLY_IN.iter().find(|(word, modules, _)| {
                has(line, word) && !modules.contains(&source.module.as_str())
            })?;
            Some(format!("`{word}` does not belong here; {instead}"))
        });
    }
    none(&found);
}

#[test]
fn every_file_says_what_it_is_for_in_ascii_and_leaves_nothing_to_do() {
    let mut found = Vec::new();
    for source in sources() {
        let path = &source.path;
        if !source.all.starts_with("//!") && !source.all.starts_with("#![") {
            found.push(format!(
                "{path}:1: no header; begin with `//!` and what the file is for"
            ));
        }
        for (number, line) in source.all.lines().enumerate() {
            let number = number + 1;
            if !line.is_ascii() {
                found.push(format!(
                    "{path}:{number}: not ASCII; write an escape like \\u{{e9}}"
                ));
            }
            for word in ["TODO", "FIXME", "XXX", "todo!", "unimplemented!"] {
                if has(line, word) {
                    found.push(format!(
                        "{path}:{number}: `{word}`; do it now or leave it out"
                    ));
                }
            }
        }
    }
    none(&found);
}

#[test]
fn files_and_functions_can_be_read_at_once() {
    let mut found = Vec::new();
    for source in sources() {
        let (path, code) = (&source.path, &source.code);
        let longer = LONGER.iter().find(|(longer, _)| longer == path);
        let most = longer.map_or(FILE_LINES_MAX, |(_, lines)| *lines);
        if code.len() > most {
            found.push(format!(
                "{path}:{}: {} lines before the tests, at most {most}; split it by what must not know each other",
                code.len(),
                code.len()
            ));
        }
        for (start, line) in code.iter().enumerate() {
            let Some(lines) = function_lines(&code[start..]) else {
                continue;
            };
            if lines > FUNCTION_LINES_MAX {
                found.push(format!(
                    "{path}:{}: `{}` has {lines} lines, at most {FUNCTION_LINES_MAX}; take out a part that has a name",
                    start + 1,
                    line.trim()
                ));
            }
        }
    }
    none(&found);
}

/// The length of the function that begins at the first of `lines`, as rustfmt lays it out: its
/// body ends at the first brace that stands as far left as it does. `None`: none begins, or it has no body.
fn function_lines(lines: &[String]) -> Option<usize> {
    let first = lines.first()?;
    let indent = first.len() - first.trim_start().len();
    let words = first.split('(').next()?;
    if !has(words, "fn") || words.contains('=') || words.contains('"') {
        return None;
    }
    let opens = lines
        .iter()
        .position(|line| line.trim_end().ends_with(['{', ';', '}']))?;
    if !lines[opens].trim_end().ends_with('{') {
        return None;
    }
    let closing = format!("{}}}", " ".repeat(indent));
    let length = lines.iter().position(|line| line.trim_end() == closing)?;
    Some(length + 1)
}
