//! The globs of `[[files]]`: what they name, and where a walk for it begins and ends.
//!
//! Knows text and paths; must never look at a disk.

use std::path::Component;
use std::path::Path;
use std::path::PathBuf;

use globset::GlobBuilder;
use globset::GlobMatcher;

/// Deepest folder below a pattern's literal part that `**` looks into. What lies deeper is not
/// read: on a file system such a path is nearly at its longest.
pub const DEPTH_MAX: usize = 64;

/// How the names begin under which files wait to be removed.
pub const TRASH_PREFIX: &str = ".spoolbeat-";

/// A glob: `*` and `?` within a name, `**` for any folders, `[...]` and `{a,b}`.
#[derive(Debug, Clone)]
pub struct Pattern {
    /// The folder that it begins with: all parts before the first with a wildcard, without the last.
    pub base: PathBuf,
    /// How many names below `base` a match has at most.
    pub depth: usize,
    matcher: GlobMatcher,
    /// What its folders have to match, for [`Pattern::reads_in`].
    folders: GlobMatcher,
}

impl Pattern {
    /// Reads a glob; a relative one is below `home`.
    ///
    /// # Errors
    /// What is wrong with it, in words.
    pub fn parse(text: &str, home: &Path) -> Result<Self, String> {
        let whole = home.join(text);
        let parts: Vec<&str> = text.split('/').filter(|part| !part.is_empty()).collect();
        if parts.is_empty() || text.ends_with('/') {
            return Err(format!(
                "`{text}` names no file; write \"/var/spool/idp/*.json\""
            ));
        }
        if parts.contains(&"..") {
            return Err(format!(
                "`{text}` has `..` in it, which hides where it leads; write the path out"
            ));
        }
        let literal = parts[..parts.len() - 1]
            .iter()
            .take_while(|part| !is_wild(part))
            .count();
        let mut base = if text.starts_with('/') {
            PathBuf::from("/")
        } else {
            home.to_path_buf()
        };
        base.extend(&parts[..literal]);
        let depth = if parts.contains(&"**") {
            DEPTH_MAX
        } else {
            parts.len() - literal
        };
        let whole = whole.to_string_lossy();
        let folders = match whole.rsplit_once('/') {
            Some((folders, last)) if last != "**" && !folders.is_empty() => folders,
            _ => &whole,
        };
        Ok(Self {
            matcher: glob(&whole)?,
            folders: glob(folders)?,
            base,
            depth,
        })
    }

    /// Whether it names this file.
    #[must_use]
    pub fn names(&self, path: &Path) -> bool {
        self.matcher.is_match(path) && !is_trash(path)
    }

    /// Whether it may name files that lie in this folder.
    #[must_use]
    pub fn reads_in(&self, folder: &Path) -> bool {
        self.folders.is_match(folder)
    }
}

/// Whether a file waits under this name to be removed.
#[must_use]
pub fn is_trash(path: &Path) -> bool {
    path.file_name()
        .is_some_and(|name| name.as_encoded_bytes().starts_with(TRASH_PREFIX.as_bytes()))
}

fn is_wild(part: &str) -> bool {
    part.contains(['*', '?', '[', '{', '\\'])
}

fn glob(text: &str) -> Result<GlobMatcher, String> {
    GlobBuilder::new(text)
        .literal_separator(true)
        .build()
        .map(|glob| glob.compile_matcher())
        .map_err(|error| format!("`{text}` is no glob: {}", error.kind()))
}

/// The path with its `.` left out; `None` when it is not absolute or leads up.
#[must_use]
pub fn plain_folder(text: &str) -> Option<PathBuf> {
    let mut path = PathBuf::new();
    for part in Path::new(text).components() {
        match part {
            Component::RootDir => path.push("/"),
            Component::Normal(name) => path.push(name),
            Component::CurDir => {}
            Component::ParentDir | Component::Prefix(_) => return None,
        }
    }
    path.is_absolute().then_some(path)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;

    fn pattern(text: &str) -> Pattern {
        Pattern::parse(text, Path::new("/root/state/j/data")).unwrap()
    }

    #[test]
    fn a_walk_begins_at_the_literal_part_and_goes_no_deeper_than_the_glob() {
        let base = |text| (pattern(text).base, pattern(text).depth);
        assert_eq!(base("/var/log/app.log"), ("/var/log".into(), 1));
        assert_eq!(base("/var/log/*/x-?.log"), ("/var/log".into(), 2));
        assert_eq!(base("/var/**/x.log"), ("/var".into(), DEPTH_MAX));
        assert_eq!(base("*.json"), ("/root/state/j/data".into(), 1));
        assert_eq!(base("out/*.json"), ("/root/state/j/data/out".into(), 1));
    }

    #[test]
    fn a_star_stays_in_its_folder_and_two_stars_do_not() {
        assert!(pattern("/a/*.log").names(Path::new("/a/x.log")));
        assert!(!pattern("/a/*.log").names(Path::new("/a/b/x.log")));
        assert!(pattern("/a/**/*.log").names(Path::new("/a/x.log")));
        assert!(pattern("/a/**/*.log").names(Path::new("/a/b/c/x.log")));
        assert!(pattern("/a/*").names(Path::new(OsStr::from_bytes(b"/a/\xff\n-'\x1b[0m"))));
        assert!(!pattern("/a/*").names(Path::new("/a/.spoolbeat-1.trash")));
    }

    #[test]
    fn it_is_known_which_folders_a_glob_reads_in() {
        assert!(pattern("/a/*.log").reads_in(Path::new("/a")));
        assert!(!pattern("/a/*.log").reads_in(Path::new("/a/done")));
        assert!(pattern("/a/**").reads_in(Path::new("/a/done")));
        assert!(pattern("/a/**/*.log").reads_in(Path::new("/a/b/done")));
    }

    #[test]
    fn what_names_no_file_is_refused() {
        for text in ["", "/", "/a/", "/a/../b", "/a/[", "/a/{b"] {
            assert!(Pattern::parse(text, Path::new("/h")).is_err(), "{text}");
        }
    }
}
