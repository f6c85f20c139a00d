//! A small typed reader on a spanned TOML tree.
//!
//! It differs from a derived deserializer in what people need of it: every problem is reported
//! and not only the first, each at its line and column, and a key that nobody asked for is
//! unknown. Must never know what the keys mean.

use std::cell::Cell;
use std::cell::RefCell;
use std::ops::Range;
use std::time::Duration;

use toml::Spanned;
use toml::de::DeTable;
use toml::de::DeValue;

use super::Problem;
use super::expand::expand;
use super::words::nearest;
use crate::units::parse_bytes;
use crate::units::parse_duration;

/// Most problems that are kept of one file; beyond it they are counted. A file of 1 MiB can
/// hold 300,000 unknown keys, and nobody reads more than a screen of them.
const PROBLEMS_MAX: usize = 100;

/// Deepest nesting of a value that may hold anything (`fields`): Logstash and Elasticsearch
/// refuse deep objects themselves (Elasticsearch at 20).
const DEPTH_MAX: usize = 16;

/// Longest value that a message repeats; the rest would hide what is wrong with it.
const SHOWN_MAX: usize = 60;

/// How variables of the daemon's environment are looked up.
pub(super) type Lookup = fn(&str) -> Option<String>;

/// Text that a tree was read from; several lie behind each other in one range of offsets, so
/// that a merged tree still knows where each value stands.
#[derive(Debug, Clone)]
pub(super) struct Segment {
    /// Offset of its first byte.
    pub(super) start: usize,
    /// Its name in messages.
    pub(super) file: String,
    /// The text.
    pub(super) text: String,
    /// Where it came from.
    pub(super) origin: Origin,
}

/// Where a text came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Origin {
    /// A file: places in it have lines.
    File,
    /// An argument (`-E key=value`): it has none, and wins over the file.
    Argument,
}

/// What is read, and what was found wrong with it.
#[derive(Debug)]
pub(super) struct Source {
    segments: Vec<Segment>,
    problems: RefCell<Vec<(usize, Problem)>>,
    more: Cell<usize>,
    damaged: Cell<Damage>,
    lookup: Lookup,
}

/// Whether the text was whole TOML.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Damage {
    None,
    /// The tree is a guess: what is missing in it may only have been misread.
    Syntax,
}

/// A value with its place.
#[derive(Debug, Clone)]
pub(super) struct Leaf<T> {
    pub(super) value: T,
    pub(super) at: Range<usize>,
    pub(super) key: String,
}

impl Source {
    pub(super) fn new(segments: Vec<Segment>, lookup: Lookup) -> Self {
        Self {
            segments,
            problems: RefCell::default(),
            more: Cell::new(0),
            damaged: Cell::new(Damage::None),
            lookup,
        }
    }

    /// Parses one segment as far as it goes; syntax errors become problems.
    fn parse<'s>(&'s self, segment: &'s Segment) -> DeTable<'s> {
        let text = segment.text.as_str();
        let (table, errors) = DeTable::parse_recoverable(text);
        let start = segment.start;
        let place = |at: Range<usize>| at.start + start..at.end + start;
        for error in &errors {
            self.damaged.set(Damage::Syntax);
            let at = error.span().unwrap_or(0..0);
            let message = syntax_message(text, &at, error.message());
            self.problem(&place(at), "", message);
        }
        if start == 0 {
            return table.into_inner();
        }
        moved_table(table.get_ref(), &place)
    }

    /// The tree of the segments from `first` up to the next file: what stands in that file,
    /// under the arguments that win over it.
    pub(super) fn tree(&self, first: usize) -> DeTable<'_> {
        let file = self.parse(&self.segments[first]);
        let mut tree = DeTable::new();
        let arguments = self.segments[first + 1..]
            .iter()
            .take_while(|segment| segment.origin == Origin::Argument);
        for argument in arguments.collect::<Vec<_>>().into_iter().rev() {
            merge(&mut tree, self.parse(argument));
        }
        merge(&mut tree, file);
        tree
    }

    /// Whether a place lies in the first text, and not in one that was merged under it.
    pub(super) fn is_own(&self, at: &Range<usize>) -> bool {
        self.segments
            .get(1)
            .is_none_or(|next| at.start < next.start)
    }

    /// Reports a problem at a place.
    pub(super) fn problem(&self, at: &Range<usize>, key: &str, message: String) {
        let mut problems = self.problems.borrow_mut();
        if problems.len() >= PROBLEMS_MAX {
            self.more.set(self.more.get() + 1);
            return;
        }
        let (file, line, column) = self.place(at.start);
        let problem = Problem {
            file,
            line,
            column,
            key: key.to_owned(),
            message,
        };
        if !problems.iter().any(|(_, known)| known == &problem) {
            problems.push((at.start, problem));
        }
    }

    /// Reports that something is not there; silent when the text could not be read to its end.
    pub(super) fn missing(&self, at: &Range<usize>, key: &str, message: String) {
        if self.damaged.get() == Damage::None {
            self.problem(at, key, message);
        }
    }

    /// All problems in the order of the text.
    pub(super) fn into_problems(self) -> Vec<Problem> {
        let mut problems = self.problems.into_inner();
        let broken: Vec<(String, usize)> = problems
            .iter()
            .filter(|(_, problem)| problem.key.is_empty() && problem.line > 0)
            .map(|(_, problem)| (problem.file.clone(), problem.line))
            .collect();
        // What a misread line seems to mean would only hide what is wrong with it.
        problems.retain(|(_, problem)| {
            problem.key.is_empty()
                || !broken
                    .iter()
                    .any(|(file, line)| *line == problem.line && *file == problem.file)
        });
        problems.sort_by_key(|(start, _)| *start);
        let mut problems: Vec<Problem> = problems.into_iter().map(|(_, problem)| problem).collect();
        if self.more.get() > 0 {
            let file = self.segments[0].file.clone();
            problems.push(Problem::of_file(
                file,
                format!("and {} more problems", self.more.get()),
            ));
        }
        problems
    }

    fn place(&self, offset: usize) -> (String, usize, usize) {
        let segment = self
            .segments
            .iter()
            .rev()
            .find(|segment| segment.start <= offset)
            .unwrap_or(&self.segments[0]);
        if segment.origin == Origin::Argument {
            return (segment.file.clone(), 0, 0);
        }
        let (line, column) = line_and_column(&segment.text, offset - segment.start);
        (segment.file.clone(), line, column)
    }
}

/// Line and column (in characters), both from 1, of a byte of `text`.
pub(super) fn line_and_column(text: &str, offset: usize) -> (usize, usize) {
    let mut offset = offset.min(text.len());
    while !text.is_char_boundary(offset) {
        offset -= 1;
    }
    let before = &text[..offset];
    let line = before.matches('\n').count() + 1;
    let start = before.rfind('\n').map_or(0, |at| at + 1);
    (line, before[start..].chars().count() + 1)
}

fn syntax_message(text: &str, at: &Range<usize>, message: &str) -> String {
    let shown = text.get(at.clone()).unwrap_or_default().trim();
    match message {
        "duplicate key" => format!("`{}` is there twice; keep one of them", cut(shown)),
        _ if message.contains("recurs") => "nested too deeply".to_owned(),
        _ if message.starts_with("string values must be quoted") => format!(
            "`{}` is not a value; text stands in quotes, like \"{}\"",
            cut(shown),
            cut(shown)
        ),
        _ if shown.is_empty() => format!("not TOML here: {message}"),
        _ => format!("not TOML here: {message} (at `{}`)", cut(shown)),
    }
}

fn cut(text: &str) -> String {
    let first = text.lines().next().unwrap_or_default();
    if first.chars().count() <= SHOWN_MAX {
        return first.to_owned();
    }
    let mut short: String = first.chars().take(SHOWN_MAX).collect();
    short.push_str("...");
    short
}

/// A table that is being read: each accessor takes a key out; what is left at
/// [`Table::finish`] is unknown.
#[derive(Debug)]
pub(super) struct Table<'s, 't> {
    pub(super) source: &'s Source,
    pub(super) at: Range<usize>,
    path: String,
    values: DeTable<'t>,
    known: Vec<&'static str>,
    taken: Vec<&'static str>,
}

impl<'s, 't> Table<'s, 't> {
    pub(super) fn root(source: &'s Source, values: DeTable<'t>) -> Self {
        Self {
            source,
            at: 0..0,
            path: String::new(),
            values,
            known: Vec::new(),
            taken: Vec::new(),
        }
    }

    /// The dotted name of one of its keys.
    pub(super) fn name(&self, key: &str) -> String {
        if self.path.is_empty() {
            key.to_owned()
        } else {
            format!("{}.{key}", self.path)
        }
    }

    /// Whether the key is there; it must still be taken.
    pub(super) fn has(&self, key: &str) -> bool {
        self.values.contains_key(key)
    }

    /// Whether the key is there and holds a table; it must still be taken.
    pub(super) fn is_table(&self, key: &str) -> bool {
        self.values
            .get(key)
            .is_some_and(|value| value.get_ref().is_table())
    }

    /// Names a key that may stand here without taking it.
    pub(super) fn known(&mut self, key: &'static str) {
        self.known.push(key);
    }

    /// Whether the key was there when it was taken.
    pub(super) fn seen(&self, key: &'static str) -> bool {
        self.taken.contains(&key)
    }

    /// Takes a key, whatever its value is.
    pub(super) fn take(&mut self, key: &'static str) -> Option<Leaf<DeValue<'t>>> {
        self.known.push(key);
        let value = self.values.remove(key)?;
        self.taken.push(key);
        Some(Leaf {
            at: value.span(),
            value: value.into_inner(),
            key: self.name(key),
        })
    }

    /// Takes a table.
    pub(super) fn table(&mut self, key: &'static str) -> Option<Table<'s, 't>> {
        let leaf = self.take(key)?;
        self.as_table(leaf, &format!("[{}]", self.name(key)))
    }

    /// Takes all tables whose names people choose, in the order of the text.
    pub(super) fn named_tables(&mut self, example: &str) -> Vec<(Leaf<String>, Table<'s, 't>)> {
        let mut entries: Vec<_> = std::mem::take(&mut self.values).into_iter().collect();
        entries.sort_by_key(|(key, _)| key.span().start);
        let mut tables = Vec::with_capacity(entries.len());
        for (key, value) in entries {
            let name = Leaf {
                value: key.get_ref().to_string(),
                at: key.span(),
                key: self.name(key.get_ref()),
            };
            let leaf = Leaf {
                at: value.span(),
                value: value.into_inner(),
                key: name.key.clone(),
            };
            if let Some(table) = self.as_table(leaf, example) {
                tables.push((name, table));
            }
        }
        tables
    }

    fn as_table(&self, leaf: Leaf<DeValue<'t>>, example: &str) -> Option<Table<'s, 't>> {
        let DeValue::Table(values) = leaf.value else {
            self.wrong_type(&leaf, "a table", example);
            return None;
        };
        Some(Table {
            source: self.source,
            at: leaf.at,
            path: leaf.key,
            values,
            known: Vec::new(),
            taken: Vec::new(),
        })
    }

    /// Takes text, with variables of the environment filled in.
    pub(super) fn text(&mut self, key: &'static str, example: &str) -> Option<Leaf<String>> {
        let leaf = self.take(key)?;
        self.as_text(leaf, example)
    }

    /// Takes a list of texts.
    pub(super) fn texts(&mut self, key: &'static str, example: &str) -> Option<Vec<Leaf<String>>> {
        let leaf = self.take(key)?;
        let name = leaf.key.clone();
        let DeValue::Array(items) = leaf.value else {
            self.wrong_type(&leaf, "a list", example);
            return None;
        };
        Some(
            items
                .into_iter()
                .filter_map(|item| {
                    let item = Leaf {
                        at: item.span(),
                        value: item.into_inner(),
                        key: name.clone(),
                    };
                    self.as_text(item, example)
                })
                .collect(),
        )
    }

    /// Takes a table of texts.
    pub(super) fn text_map(
        &mut self,
        key: &'static str,
        example: &str,
    ) -> Vec<(Leaf<String>, Leaf<String>)> {
        let Some(leaf) = self.take(key) else {
            return Vec::new();
        };
        let Some(table) = self.as_table(leaf, example) else {
            return Vec::new();
        };
        let mut texts = Vec::new();
        for (name, value) in table.values {
            let key = format!("{}.{}", table.path, name.get_ref());
            let leaf = Leaf {
                at: value.span(),
                value: value.into_inner(),
                key: key.clone(),
            };
            if let Some(text) = self.as_text(leaf, example) {
                let name = Leaf {
                    value: name.get_ref().to_string(),
                    at: name.span(),
                    key,
                };
                texts.push((name, text));
            }
        }
        texts
    }

    /// Takes a table of anything, as JSON.
    pub(super) fn json_map(
        &mut self,
        key: &'static str,
        example: &str,
    ) -> Option<serde_json::Map<String, serde_json::Value>> {
        let leaf = self.take(key)?;
        let table = self.as_table(leaf, example)?;
        let map = DeValue::Table(table.values);
        match self.as_json(&map, &table.at, &table.path, DEPTH_MAX) {
            Some(serde_json::Value::Object(map)) => Some(map),
            _ => None,
        }
    }

    /// Takes a duration that is at least `min`.
    pub(super) fn duration(
        &mut self,
        key: &'static str,
        min: Duration,
        example: &str,
    ) -> Option<Leaf<Duration>> {
        let leaf = self.text(key, example)?;
        match parse_duration(&leaf.value) {
            Ok(value) if value >= min => Some(leaf.with(value)),
            Ok(_) => {
                self.refuse(
                    &leaf,
                    format!(
                        "`{}` is too short; the least is {}; write {example}",
                        cut(&leaf.value),
                        exact_duration(min)
                    ),
                );
                None
            }
            Err(message) => {
                self.refuse(&leaf, message);
                None
            }
        }
    }

    /// Takes a size in bytes within `range`.
    pub(super) fn bytes(
        &mut self,
        key: &'static str,
        range: Range<u64>,
        example: &str,
    ) -> Option<Leaf<u64>> {
        let leaf = self.text(key, example)?;
        match parse_bytes(&leaf.value) {
            Ok(value) if range.contains(&value) => Some(leaf.with(value)),
            Ok(value) => {
                let bound = if value < range.start {
                    format!(
                        "too small; the least is {}",
                        crate::units::show_bytes(range.start)
                    )
                } else {
                    format!(
                        "too large; the most is {}",
                        crate::units::show_bytes(range.end - 1)
                    )
                };
                self.refuse(
                    &leaf,
                    format!("`{}` is {bound}; write {example}", cut(&leaf.value)),
                );
                None
            }
            Err(message) => {
                self.refuse(&leaf, message);
                None
            }
        }
    }

    /// Takes a whole number within `range`.
    pub(super) fn number(
        &mut self,
        key: &'static str,
        range: Range<u32>,
        example: &str,
    ) -> Option<u32> {
        let leaf = self.take(key)?;
        let DeValue::Integer(number) = &leaf.value else {
            self.wrong_type(&leaf, "a whole number", example);
            return None;
        };
        match i64::from_str_radix(number.as_str(), number.radix())
            .ok()
            .and_then(|value| u32::try_from(value).ok())
            .filter(|value| range.contains(value))
        {
            Some(value) => Some(value),
            None => {
                let message = format!(
                    "`{number}` is not in {}..={}; write {example}",
                    range.start,
                    range.end - 1
                );
                self.refuse(&leaf, message);
                None
            }
        }
    }

    /// Takes true or false.
    pub(super) fn truth(&mut self, key: &'static str, example: &str) -> Option<Leaf<bool>> {
        let leaf = self.take(key)?;
        let DeValue::Boolean(value) = leaf.value else {
            self.wrong_type(&leaf, "true or false", example);
            return None;
        };
        Some(leaf.with(value))
    }

    /// Takes one of the names in `choices`.
    pub(super) fn choice<T: Copy>(
        &mut self,
        key: &'static str,
        choices: &[(&'static str, T)],
    ) -> Option<T> {
        let example = choices.first().map_or("", |(name, _)| name);
        let leaf = self.text(key, &format!("{key} = \"{example}\""))?;
        self.pick(&leaf, choices)
    }

    /// The choice that a text names.
    pub(super) fn pick<T: Copy>(
        &self,
        leaf: &Leaf<String>,
        choices: &[(&'static str, T)],
    ) -> Option<T> {
        if let Some((_, value)) = choices.iter().find(|(name, _)| *name == leaf.value) {
            return Some(*value);
        }
        let names: Vec<&str> = choices.iter().map(|(name, _)| *name).collect();
        self.refuse(leaf, not_one_of(&leaf.value, &names));
        None
    }

    /// Reports a problem with a value.
    pub(super) fn refuse<T>(&self, leaf: &Leaf<T>, message: String) {
        self.source.problem(&leaf.at, &leaf.key, message);
    }

    /// Reports that a key of this table is missing.
    pub(super) fn lacks(&self, key: &str, message: String) {
        self.source.missing(&self.at, &self.name(key), message);
    }

    /// Reports every key that nobody took.
    pub(super) fn finish(self) {
        for key in self.values.keys() {
            let name = key.get_ref();
            let hint = match nearest(name, &self.known) {
                Some(near) => format!("did you mean `{near}`?"),
                None => format!("known here: {}", self.known.join(", ")),
            };
            self.source.problem(
                &key.span(),
                &self.name(&cut(name)),
                format!("unknown key `{}`; {hint}", cut(name)),
            );
        }
    }

    /// Reports a value of another type than the one that is wanted.
    pub(super) fn wrong_type(&self, leaf: &Leaf<DeValue<'_>>, wanted: &str, example: &str) {
        let message = format!(
            "{} is not {wanted}; write {example}",
            show_value(&leaf.value)
        );
        self.refuse(leaf, message);
    }

    fn as_text(&self, leaf: Leaf<DeValue<'t>>, example: &str) -> Option<Leaf<String>> {
        let DeValue::String(text) = &leaf.value else {
            self.wrong_type(&leaf, "text", example);
            return None;
        };
        let text = self.filled(text, &leaf.at, &leaf.key)?;
        Some(leaf.with(text))
    }

    fn filled(&self, text: &str, at: &Range<usize>, key: &str) -> Option<String> {
        if text.contains('\0') {
            let message = "holds a NUL, which no file name, argument or variable can".to_owned();
            self.source.problem(at, key, message);
            return None;
        }
        match expand(text, self.source.lookup) {
            Ok(text) => Some(text),
            Err(message) => {
                self.source.problem(at, key, message);
                None
            }
        }
    }

    fn as_json(
        &self,
        value: &DeValue<'_>,
        at: &Range<usize>,
        key: &str,
        depth: usize,
    ) -> Option<serde_json::Value> {
        if depth == 0 {
            let message = format!("nested more than {DEPTH_MAX} deep");
            self.source.problem(at, key, message);
            return None;
        }
        Some(match value {
            DeValue::String(text) => self.filled(text, at, key)?.into(),
            DeValue::Integer(number) => {
                let number = i64::from_str_radix(number.as_str(), number.radix());
                let Ok(number) = number else {
                    let message = "is larger than a number can be; put it in quotes".to_owned();
                    self.source.problem(at, key, message);
                    return None;
                };
                number.into()
            }
            DeValue::Float(number) => {
                let number = number.as_str().parse().ok();
                let Some(number) = number.and_then(serde_json::Number::from_f64) else {
                    let message = "is not a number that JSON can write; put it in quotes";
                    self.source.problem(at, key, message.to_owned());
                    return None;
                };
                number.into()
            }
            DeValue::Boolean(value) => (*value).into(),
            DeValue::Datetime(time) => time.to_string().into(),
            DeValue::Array(items) => items
                .iter()
                .filter_map(|item| self.as_json(item.get_ref(), &item.span(), key, depth - 1))
                .collect(),
            DeValue::Table(table) => serde_json::Value::Object(
                table
                    .iter()
                    .filter_map(|(name, value)| {
                        let name = name.get_ref().to_string();
                        let key = format!("{key}.{name}");
                        let value =
                            self.as_json(value.get_ref(), &value.span(), &key, depth - 1)?;
                        Some((name, value))
                    })
                    .collect(),
            ),
        })
    }
}

impl<T> Leaf<T> {
    /// The same place with another value.
    pub(super) fn with<U>(self, value: U) -> Leaf<U> {
        Leaf {
            value,
            at: self.at,
            key: self.key,
        }
    }
}

/// Says that `value` is none of `names`, and which it may have been.
pub(super) fn not_one_of(value: &str, names: &[&str]) -> String {
    let hint = match nearest(value, names) {
        Some(near) => format!("did you mean `{near}`?"),
        None => format!("write one of {}", names.join(", ")),
    };
    format!("`{}` is not known here; {hint}", cut(value))
}

fn show_value(value: &DeValue<'_>) -> String {
    match value {
        DeValue::String(text) => format!("`\"{}\"`", cut(text)),
        DeValue::Integer(number) => format!("`{}`", cut(&number.to_string())),
        DeValue::Float(number) => format!("`{}`", cut(&number.to_string())),
        DeValue::Boolean(value) => format!("`{value}`"),
        DeValue::Datetime(time) => format!("`{time}`"),
        DeValue::Array(_) => "a list".to_owned(),
        DeValue::Table(_) => "a table".to_owned(),
    }
}

/// The way a limit is written in a file; [`crate::units::show_duration`] rounds.
fn exact_duration(duration: Duration) -> String {
    match duration.as_millis() {
        ms if ms % 1000 == 0 => format!("{}s", ms / 1000),
        ms => format!("{ms}ms"),
    }
}

/// A copy of `value` in which every place is `place(old place)`: for trees that are merged from several texts.
pub(super) fn moved<'t>(
    value: &Spanned<DeValue<'t>>,
    place: &impl Fn(Range<usize>) -> Range<usize>,
) -> Spanned<DeValue<'t>> {
    let inner = match value.get_ref() {
        DeValue::Array(items) => {
            DeValue::Array(items.iter().map(|item| moved(item, place)).collect())
        }
        DeValue::Table(table) => DeValue::Table(moved_table(table, place)),
        leaf => leaf.clone(),
    };
    Spanned::new(place(value.span()), inner)
}

/// [`moved`] for a table.
pub(super) fn moved_table<'t>(
    table: &DeTable<'t>,
    place: &impl Fn(Range<usize>) -> Range<usize>,
) -> DeTable<'t> {
    table
        .iter()
        .map(|(key, value)| {
            let key = Spanned::new(place(key.span()), key.get_ref().clone());
            (key, moved(value, place))
        })
        .collect()
}

/// Fills what `own` leaves out with what stands in `under`; tables are merged key by key.
pub(super) fn merge<'t>(own: &mut DeTable<'t>, under: DeTable<'t>) {
    for (key, value) in under {
        match own.get_mut(key.get_ref().as_ref()) {
            None => {
                own.insert(key, value);
            }
            Some(mine) => {
                if let (DeValue::Table(mine), DeValue::Table(theirs)) =
                    (mine.get_mut(), value.into_inner())
                {
                    merge(mine, theirs);
                }
            }
        }
    }
}
