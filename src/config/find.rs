//! How the root directory is found.
//!
//! The first of: what was given, `SPOOLBEAT_ROOT`, the nearest `spoolbeat.toml` upward, the
//! system's. Must never read what is in it.

use std::path::Path;
use std::path::PathBuf;

use super::ROOT_FILE;
use crate::files;

/// The system's configuration; it names `root = "..."`.
const SYSTEM_FILE: &str = "/etc/spoolbeat/spoolbeat.toml";

/// Finds the root configuration: a file or folder for [`super::load_root`].
///
/// `given` is `--root` or the positional argument.
///
/// # Errors
/// Says where was looked and how a root is made.
pub fn find_root(given: Option<&Path>) -> Result<PathBuf, String> {
    let variable = std::env::var_os("SPOOLBEAT_ROOT").filter(|value| !value.is_empty());
    let here = std::path::absolute(".")
        .map_err(|error| format!("the working directory is gone: {error}"))?;
    find(
        given,
        variable.as_ref().map(Path::new),
        &here,
        Path::new(SYSTEM_FILE),
    )
}

fn find(
    given: Option<&Path>,
    variable: Option<&Path>,
    here: &Path,
    system: &Path,
) -> Result<PathBuf, String> {
    if let Some(place) = given.or(variable) {
        return Ok(place.to_path_buf());
    }
    let is_file = |path: &PathBuf| files::look(path).is_ok();
    here.ancestors()
        .map(|dir| dir.join(ROOT_FILE))
        .chain([system.to_path_buf()])
        .find(is_file)
        .ok_or_else(|| {
            format!(
                "no {ROOT_FILE} in {} or above, none at {}, and neither --root nor SPOOLBEAT_ROOT is given; `spoolbeat init DIR` makes one",
                here.display(),
                system.display()
            )
        })
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn what_is_given_wins_then_the_variable_then_the_nearest_file_then_the_system() {
        let dir = tempfile::tempdir().unwrap();
        let below = dir.path().join("a/b");
        std::fs::create_dir_all(&below).unwrap();
        let file = dir.path().join(ROOT_FILE);
        let system = dir.path().join("etc.toml");
        let (g, v) = (Path::new("given"), Path::new("variable"));
        assert!(
            find(None, None, &below, &system)
                .unwrap_err()
                .contains("init")
        );
        std::fs::write(&system, "").unwrap();
        assert_eq!(find(None, None, &below, &system).unwrap(), system);
        std::fs::write(&file, "").unwrap();
        assert_eq!(find(None, None, &below, &system).unwrap(), file);
        assert_eq!(find(None, Some(v), &below, &system).unwrap(), v);
        assert_eq!(find(Some(g), Some(v), &below, &system).unwrap(), g);
    }
}
