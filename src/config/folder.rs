//! What a job's folder must be before its `job.toml` is read: its name, its files, their owners.
//!
//! Must never change anything in it.

use std::path::Path;

use super::Problem;
use crate::files;
use crate::files::Item;
use crate::files::Tree;

/// Longest name of a job: it becomes part of many paths and of each event.
const NAME_MAX: usize = 64;

/// Names that would collide with files of our own in `state/`.
const TAKEN: [&str; 1] = ["control.sock"];

/// Checks a job's name.
///
/// # Errors
/// Says what a name may be.
pub fn check_name(name: &str) -> Result<(), String> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    if name.is_empty() || name.len() > NAME_MAX || !name.chars().all(allowed) {
        return Err(format!(
            "`{name}` cannot be a name; use 1 to {NAME_MAX} letters, digits, `.`, `_` and `-`, like idp-logins"
        ));
    }
    if name.starts_with(['.', '-']) || TAKEN.contains(&name) {
        return Err(format!(
            "`{name}` cannot be a name; begin it with a letter or a digit, like idp-logins"
        ));
    }
    Ok(())
}

/// Looks at the folder of all jobs; returns what it is.
///
/// # Errors
/// Says in words why nothing in it can be taken for a job.
pub fn check_jobs(jobs: &Path) -> Result<Item, String> {
    // With the dot it is the folder also where `jobs` is a link to one.
    let place = files::look(&jobs.join(".")).map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => {
            let jobs = jobs.display();
            format!("there is no folder {jobs}; run mkdir {jobs}, and put jobs into it")
        }
        _ => format!("{} cannot be read: {error}", jobs.display()),
    })?;
    if place.mode & 0o002 != 0 {
        return Err(format!(
            "{} may be written by everybody (mode {:04o}), who could run anything by it; run chmod o-w",
            jobs.display(),
            place.mode
        ));
    }
    Ok(place)
}

/// Looks at a job's folder and checks all but its `job.toml`.
///
/// `daemon` is the user that jobs run as: [`files::own_uid`] of the daemon.
///
/// # Errors
/// Everything that keeps the folder from being a job.
pub fn check_folder(name: &str, folder: &Path, daemon: u32) -> Result<Tree, Vec<Problem>> {
    let shown = format!("jobs/{name}");
    if let Err(message) = check_name(name) {
        return Err(vec![Problem::of_file(shown, message)]);
    }
    let tree = files::walk(folder).map_err(|error| {
        let message = match files::look(folder) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                format!("there is no such job; `spoolbeat new {name}` makes one")
            }
            _ => format!("cannot be read ({error})"),
        };
        vec![Problem::of_file(shown.clone(), message)]
    })?;
    let problems: Vec<Problem> = tree
        .strange(daemon)
        .into_iter()
        .map(|(path, message)| {
            let file = if path.is_empty() {
                shown.clone()
            } else {
                format!("{shown}/{path}")
            };
            Problem::of_file(file, message)
        })
        .collect();
    if problems.is_empty() {
        Ok(tree)
    } else {
        Err(problems)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_job_name_is_short_plain_and_not_hidden() {
        for good in ["a", "idp-logins", "A.b_c-9", "9", &"x".repeat(64)] {
            assert_eq!(check_name(good), Ok(()), "{good}");
        }
        let long = "x".repeat(65);
        for bad in [
            "",
            ".a",
            "-a",
            "a b",
            "a/b",
            "\u{fc}",
            &long,
            "control.sock",
        ] {
            assert!(check_name(bad).is_err(), "{bad}");
        }
    }
}
