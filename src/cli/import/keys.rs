//! A configuration's keys, and which of them were read.
//!
//! What is not read is told, so that no importer can lose a key in silence. Must never know what a
//! key means to the program it is from.

use std::cell::RefCell;
use std::collections::BTreeSet;

use serde_json::Map;
use serde_json::Value;

/// Longest dotted key that is taken apart: people write up to five names.
const NAMES_MAX: usize = 16;

/// Why a key that nothing here reads is not carried over, by its last name.
const WHY: [(&str, &str); 9] = [
    (
        "processors",
        "events are changed in the script or in Logstash",
    ),
    ("key_passphrase", "keys have to be unencrypted here"),
    (
        "worker",
        "each host has one connection; loadbalance = true uses all hosts at once",
    ),
    (
        "verification_mode",
        "\"full\", \"certificate\" and \"none\" are known here; \"full\" holds",
    ),
    ("global_tags", "write them into `fields` of each job"),
    (
        "tagpass",
        "nothing is filtered; leave out in the script or in Logstash",
    ),
    (
        "tagdrop",
        "nothing is filtered; leave out in the script or in Logstash",
    ),
    (
        "namepass",
        "nothing is filtered; leave out in the script or in Logstash",
    ),
    (
        "namedrop",
        "nothing is filtered; leave out in the script or in Logstash",
    ),
];

/// Part of a configuration.
#[derive(Debug)]
pub(super) struct Keys {
    /// Where it is in the whole, to be shown.
    at: &'static str,
    tree: Value,
    read: RefCell<BTreeSet<String>>,
}

impl Keys {
    pub(super) fn new(at: &'static str, tree: &Value) -> Self {
        Self {
            at,
            tree: tree.clone(),
            read: RefCell::default(),
        }
    }

    /// What `read` makes of the value at `path`, like `output.logstash.hosts`. The key counts as
    /// read if that is something.
    pub(super) fn read<T>(&self, path: &str, read: impl Fn(&Value) -> Option<T>) -> Option<T> {
        let found = self.find(path).and_then(read);
        if found.is_some() {
            self.read.borrow_mut().insert(path.to_owned());
        }
        found
    }

    /// Whether there is something at `path`, with all that is under it.
    pub(super) fn has(&self, path: &str) -> bool {
        self.read(path, |_| Some(())).is_some()
    }

    /// Whether there is a table at `path`. That does not count as reading it.
    pub(super) fn is_table(&self, path: &str) -> bool {
        self.find(path).is_some_and(Value::is_object)
    }

    fn find(&self, path: &str) -> Option<&Value> {
        path.split('.')
            .try_fold(&self.tree, |value, name| value.get(name))
            .filter(|value| !value.is_null())
    }

    /// Each key that was not read, and why it is not carried over.
    pub(super) fn unread(&self) -> Vec<String> {
        let mut found = Vec::new();
        self.look(&self.tree, "", &mut found);
        let shown = |path: String| {
            let why = why(&path).unwrap_or("not known here");
            format!("{}: {why}", join(self.at, &path))
        };
        found.into_iter().map(shown).collect()
    }

    fn look(&self, value: &Value, at: &str, found: &mut Vec<String>) {
        if self.read.borrow().contains(at) {
            return;
        }
        match value {
            Value::Null => {}
            Value::Array(items) if items.is_empty() => {}
            Value::Object(members) if why(at).is_none() => {
                for (name, member) in members {
                    self.look(member, &join(at, name), found);
                }
            }
            _ => found.push(at.to_owned()),
        }
    }
}

fn why(path: &str) -> Option<&'static str> {
    let name = path.rsplit('.').next().unwrap_or(path);
    let known = WHY.iter().find(|(key, _)| *key == name);
    known.map(|(_, why)| *why)
}

fn join(at: &str, name: &str) -> String {
    match at {
        "" => name.to_owned(),
        at => format!("{at}.{name}"),
    }
}

/// Dotted keys as Beats read them: `a.b: 1` is `a: { b: 1 }`. The names of `fields` are the user's
/// and stay. `twice` gets what is written in both ways and differs: the nested one is taken.
pub(super) fn nested(value: Value, at: &str, twice: &mut Vec<String>) -> Value {
    match value {
        Value::Array(items) => {
            let items = items.into_iter().map(|item| nested(item, at, twice));
            Value::Array(items.collect())
        }
        Value::Object(members) => {
            let (dotted, plain): (Vec<_>, Vec<_>) = members
                .into_iter()
                .partition(|(key, _)| key.contains('.') && key.split('.').count() <= NAMES_MAX);
            let mut out = Map::new();
            for (key, value) in plain {
                let value = match key.as_str() {
                    "fields" => value,
                    _ => nested(value, &join(at, &key), twice),
                };
                out.insert(key, value);
            }
            for (key, value) in dotted {
                let value = nested(value, &join(at, &key), twice);
                let value = key.rsplit('.').fold(value, |value, name| {
                    Value::Object(Map::from_iter([(name.to_owned(), value)]))
                });
                merge(&mut out, value, at, twice);
            }
            Value::Object(out)
        }
        value => value,
    }
}

fn merge(into: &mut Map<String, Value>, from: Value, at: &str, twice: &mut Vec<String>) {
    let Value::Object(members) = from else {
        return;
    };
    for (name, value) in members {
        let path = join(at, &name);
        match (into.get_mut(&name), &value) {
            (Some(Value::Object(known)), Value::Object(_)) => merge(known, value, &path, twice),
            (Some(known @ Value::Null), _) => *known = value,
            (Some(known), _) if *known == value => {}
            (Some(_), _) => twice.push(path),
            (None, _) => {
                into.insert(name, value);
            }
        }
    }
}
