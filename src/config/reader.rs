//! A small typed reader on a spanned TOML tree.
//!
//! It differs from a derived deserializer in what people need of it: every problem is reported
//! and not only the first, each at its line and column, and a key that nobody asked for is
//! unknown. Must never know what the keys mean.

use std::ops::Range;
use std::time::Duration;

use toml::Spanned;
use toml::de::DeTable;
use toml::de::DeValue;

use super::expand::expand;
use super::source::Source;
use super::source::cut;
use super::words::nearest;
use crate::units::parse_bytes;
use crate::units::parse_duration;
use crate::units::write_duration;

/// Deepest nesting of a value that may hold anything (`fields`): Logstash and Elasticsearch
/// refuse deep objects themselves (Elasticsearch at 20).
const DEPTH_MAX: usize = 16;

/// A value with its place.
#[derive(Debug, Clone)]
pub(super) struct Leaf<T> {
    pub(super) value: T,
    pub(super) at: Range<usize>,
    pub(super) key: String,
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
}

impl<'s, 't> Table<'s, 't> {
    pub(super) fn root(source: &'s Source, values: DeTable<'t>) -> Self {
        Self {
            source,
            at: 0..0,
            path: String::new(),
            values,
            known: Vec::new(),
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

    /// Whether the key is there and holds text; it must still be taken.
    pub(super) fn is_text(&self, key: &str) -> bool {
        self.values
            .get(key)
            .is_some_and(|value| value.get_ref().is_str())
    }

    /// Whether the job's own text has a key here that is none of `keys`; all must still be taken.
    pub(super) fn has_own_besides(&self, keys: &[&str]) -> bool {
        let mut own = self
            .values
            .iter()
            .filter(|(_, value)| self.source.is_own(&value.span()));
        own.any(|(key, _)| !keys.contains(&&**key.get_ref()))
    }

    /// Names a key that may stand here without taking it.
    pub(super) fn known(&mut self, key: &'static str) {
        self.known.push(key);
    }

    /// Where a key's value is; it must still be taken.
    pub(super) fn place_of(&self, key: &str) -> Option<Range<usize>> {
        self.values.get(key).map(Spanned::span)
    }

    /// Takes a key, whatever its value is.
    pub(super) fn take(&mut self, key: &'static str) -> Option<Leaf<DeValue<'t>>> {
        self.known.push(key);
        let value = self.values.remove(key)?;
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

    /// Takes a list of tables, `[[key]]`.
    pub(super) fn tables(&mut self, key: &'static str, example: &str) -> Vec<Table<'s, 't>> {
        let Some(leaf) = self.take(key) else {
            return Vec::new();
        };
        let name = leaf.key.clone();
        let DeValue::Array(items) = leaf.value else {
            self.wrong_type(&leaf, "a list of tables", example);
            return Vec::new();
        };
        items
            .into_iter()
            .filter_map(|item| {
                let item = Leaf {
                    at: item.span(),
                    value: item.into_inner(),
                    key: name.clone(),
                };
                self.as_table(item, example)
            })
            .collect()
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
        self.as_texts(leaf, example)
    }

    fn as_texts(&self, leaf: Leaf<DeValue<'t>>, example: &str) -> Option<Vec<Leaf<String>>> {
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

    /// Takes a table of lists of texts.
    pub(super) fn lists(&mut self, key: &'static str, example: &str) -> Vec<(String, Vec<String>)> {
        let Some(leaf) = self.take(key) else {
            return Vec::new();
        };
        let Some(table) = self.as_table(leaf, example) else {
            return Vec::new();
        };
        let mut lists = Vec::new();
        for (name, value) in table.values {
            let leaf = Leaf {
                at: value.span(),
                value: value.into_inner(),
                key: format!("{}.{}", table.path, name.get_ref()),
            };
            if let Some(texts) = self.as_texts(leaf, example) {
                let texts = texts.into_iter().map(|text| text.value).collect();
                lists.push((name.get_ref().to_string(), texts));
            }
        }
        lists
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
                        write_duration(min)
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
        match expand(text, |name| self.source.variable(at, name)) {
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
