//! Texts that a tree is read from, and what was found wrong with them.
//!
//! Several texts lie behind each other in one range of offsets, so that a tree that was merged
//! from them still knows where each value stands. Must never know what the keys mean.

use std::cell::Cell;
use std::cell::RefCell;
use std::ops::Range;

use toml::Spanned;
use toml::de::DeTable;
use toml::de::DeValue;

use super::Problem;
use super::Standing;

/// Most problems that are kept of one file; beyond it they are counted. A file of 1 MiB can
/// hold 300,000 unknown keys, and nobody reads more than a screen of them.
const PROBLEMS_MAX: usize = 100;

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
    /// The job of the first text and the variables that it may have filled in; `None`: all.
    granted: Option<(String, Vec<String>)>,
}

/// Whether the text was whole TOML.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Damage {
    None,
    /// The tree is a guess: what is missing in it may only have been misread.
    Syntax,
}

impl Source {
    pub(super) fn new(segments: Vec<Segment>, lookup: Lookup) -> Self {
        Self {
            segments,
            problems: RefCell::default(),
            more: Cell::new(0),
            damaged: Cell::new(Damage::None),
            lookup,
            granted: None,
        }
    }

    /// The same for the text of a job: one of a folder of somebody else sees only what it is granted.
    pub(super) fn for_job(mut self, job: &str, standing: &Standing) -> Self {
        self.granted = (!standing.is_trusted()).then(|| (job.to_owned(), standing.grants.of(job)));
        self
    }

    /// A variable of the daemon's environment, if the text at this place may have it.
    ///
    /// # Errors
    /// Why not, and what helps, in words. One that is withheld may be set or not: that is not told.
    pub(super) fn variable(&self, at: &Range<usize>, name: &str) -> Result<String, String> {
        if let Some((job, granted)) = &self.granted
            && self.is_own(at)
            && !granted.iter().any(|other| other == name)
        {
            return Err(format!(
                "the variable {name} is of the daemon's environment, which is withheld from jobs in folders of other users; ask for [credentials] with allow = {{ {name} = [\"{job}\"] }} in spoolbeat.toml"
            ));
        }
        (self.lookup)(name)
            .ok_or_else(|| format!("the variable {name} is not set where spoolbeat runs; set it"))
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
        let problem = self.located(at, key, message);
        if !problems.iter().any(|(_, known)| known == &problem) {
            problems.push((at.start, problem));
        }
    }

    /// A problem at a place, which is not reported.
    pub(super) fn located(&self, at: &Range<usize>, key: &str, message: String) -> Problem {
        let (file, line, column) = self.place(at.start);
        Problem {
            file,
            line,
            column,
            key: key.to_owned(),
            message,
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

const TOML_EXAMPLE: &str = "write tables like [script], and keys like run = \"collect.py\"";

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
        _ if shown.is_empty() => format!("not TOML here: {message}; {TOML_EXAMPLE}"),
        _ => format!(
            "not TOML here: {message} (at `{}`); {TOML_EXAMPLE}",
            cut(shown)
        ),
    }
}

/// The first line of a text, not longer than a message bears.
pub(super) fn cut(text: &str) -> String {
    let first = text.lines().next().unwrap_or_default();
    if first.chars().count() <= SHOWN_MAX {
        return first.to_owned();
    }
    let mut short: String = first.chars().take(SHOWN_MAX).collect();
    short.push_str("...");
    short
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
