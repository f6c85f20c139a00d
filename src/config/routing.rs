//! Which outputs get the events of a job: its `[output] to`, and its tag against their `tags`.
//!
//! Must never know what an output does.

use globset::Glob;
use globset::GlobMatcher;

use crate::event::Route;

/// What a job has to know of an output.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outlet {
    /// Its name.
    pub name: String,
    /// Whether clean-up and the queue wait for it.
    pub required: bool,
    /// The tags that it takes.
    pub tags: Tags,
}

impl Outlet {
    /// A required output that takes all tags.
    #[must_use]
    pub fn to(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            required: true,
            tags: Tags::default(),
        }
    }
}

/// `tags` of an output: patterns of which one must fit, and with a `!` patterns of which none may.
#[derive(Debug, Clone, Default)]
pub struct Tags {
    wanted: Vec<GlobMatcher>,
    unwanted: Vec<GlobMatcher>,
}

/// Tags are equal when they come from equal texts.
impl PartialEq for Tags {
    fn eq(&self, other: &Self) -> bool {
        self.texts() == other.texts()
    }
}

impl Eq for Tags {}

impl Tags {
    /// Adds a pattern; says in words what is wrong with it.
    pub(super) fn add(&mut self, pattern: &str) -> Result<(), String> {
        let (list, pattern) = match pattern.strip_prefix('!') {
            Some(pattern) => (&mut self.unwanted, pattern),
            None => (&mut self.wanted, pattern),
        };
        if pattern.is_empty() {
            return Err("an empty pattern fits no tag".to_owned());
        }
        let glob = Glob::new(pattern).map_err(|error| error.to_string())?;
        list.push(glob.compile_matcher());
        Ok(())
    }

    /// The patterns as they may be written, those with a `!` last.
    #[must_use]
    pub fn texts(&self) -> Vec<String> {
        let wanted = self.wanted.iter().map(|glob| glob.glob().to_string());
        let unwanted = self.unwanted.iter().map(|glob| format!("!{}", glob.glob()));
        wanted.chain(unwanted).collect()
    }

    /// Whether events of this tag are wanted.
    #[must_use]
    pub fn take(&self, tag: &str) -> bool {
        let fits = |glob: &GlobMatcher| glob.is_match(tag);
        (self.wanted.is_empty() || self.wanted.iter().any(fits)) && !self.unwanted.iter().any(fits)
    }
}

/// The outputs that take events of this tag.
#[must_use]
pub fn route(outlets: &[Outlet], tag: &str) -> Route {
    let takers = outlets.iter().filter(|outlet| outlet.tags.take(tag));
    Route::to(takers.map(|outlet| outlet.name.clone()).collect())
}

/// The outputs of a route that the clean-up of a file waits for: the required ones, or all when none
/// is: nothing is removed that no output has.
pub(super) fn waits_for(outlets: &[Outlet], route: &Route) -> Vec<String> {
    let of_route = outlets.iter().filter(|outlet| route.wants(&outlet.name));
    let (required, optional): (Vec<&Outlet>, Vec<&Outlet>) =
        of_route.partition(|outlet| outlet.required);
    let waits = if required.is_empty() {
        optional
    } else {
        required
    };
    waits.iter().map(|outlet| outlet.name.clone()).collect()
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::*;

    fn outlet(name: &str, required: bool, patterns: &[&str]) -> Outlet {
        let mut tags = Tags::default();
        for pattern in patterns {
            tags.add(pattern).unwrap();
        }
        Outlet {
            name: name.to_owned(),
            required,
            tags,
        }
    }

    #[test]
    fn an_output_gets_the_tags_that_one_pattern_fits_and_none_forbids() {
        let outlets = [
            outlet("all", true, &[]),
            outlet("idp", true, &["idp.*", "!*.noise"]),
            outlet("rest", true, &["!idp.*"]),
        ];
        let names = |tag: &str| route(&outlets, tag).outputs().to_vec();
        assert_eq!(names("idp.logins"), ["all", "idp"]);
        assert_eq!(names("idp.eu.logins"), ["all", "idp"]);
        assert_eq!(names("idp.noise"), ["all"]);
        assert_eq!(names("disk"), ["all", "rest"]);
        let mut tags = Tags::default();
        assert!(tags.add("!").is_err() && tags.add("[a").is_err());
    }

    #[test]
    fn a_clean_up_waits_for_the_required_outputs_and_for_all_when_none_is() {
        let all = |required: bool| [outlet("a", required, &[]), outlet("b", false, &[])];
        let route = Route::to(vec!["a".to_owned(), "b".to_owned()]);
        assert_eq!(waits_for(&all(true), &route), ["a"]);
        assert_eq!(waits_for(&all(false), &route), ["a", "b"]);
        assert_eq!(
            waits_for(&all(true), &Route::to(vec!["b".to_owned()])),
            ["b"]
        );
    }
}
