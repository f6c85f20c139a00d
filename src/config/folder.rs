//! What a job's folder must be before its `job.toml` is read: its name, its files, their owners.
//!
//! Must never change anything in it.

use std::path::Path;

use super::Problem;
use crate::files;
use crate::files::Item;
use crate::files::Kind;
use crate::files::Tree;
use crate::process;
use crate::process::User;

/// Longest name of a job: it becomes part of many paths and of each event.
const NAME_MAX: usize = 64;

/// Names that would collide with files of our own in `state/`.
const TAKEN: [&str; 2] = ["agent.id", "control.sock"];

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
    if TAKEN.contains(&name) {
        return Err(format!(
            "`{name}` is the name of a file of the daemon's own; choose another one, like idp-logins"
        ));
    }
    if name.starts_with(['.', '-']) {
        return Err(format!(
            "`{name}` cannot be a name; begin it with a letter or a digit, like idp-logins"
        ));
    }
    Ok(())
}

/// Looks at the folder of all jobs; returns what it is. `daemon` is the user that the daemon acts as.
///
/// # Errors
/// Says in words why nothing in it can be taken for a job.
pub fn check_jobs(jobs: &Path, daemon: u32) -> Result<Item, String> {
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
    check_place(jobs, daemon)?;
    Ok(place)
}

/// Checks, for a daemon of root, that nobody else can put another folder in the place of this
/// one: it and all above it, links among them, belong to root and are written by nobody else. Sticky ones of
/// root above it (`/tmp`) are fine. Other daemons run nothing but what is their own user's.
///
/// # Errors
/// Names the folder that somebody else may write, and what helps.
pub fn check_place(place: &Path, daemon: u32) -> Result<(), String> {
    if daemon != 0 {
        return Ok(());
    }
    let cannot = |error| format!("{} cannot be looked at: {error}", place.display());
    let real = files::real_path(place).map_err(cannot)?;
    let chain = place.ancestors().chain(real.ancestors());
    for (depth, path) in chain.enumerate() {
        if path.as_os_str().is_empty() {
            continue;
        }
        let item = files::look(path).map_err(cannot)?;
        let shown = path.display();
        if item.uid != 0 {
            return Err(format!(
                "{shown} belongs to user {}, who could put anything in the place of what root runs here; run chown root {shown}, or start spoolbeat as that user",
                item.uid
            ));
        }
        let is_link = item.kind == Kind::Link;
        let is_sticky = depth > 0 && item.mode & 0o1000 != 0;
        if !is_link && !is_sticky && is_written_by_others(&item) {
            return Err(format!(
                "{shown} may be written by others than root (mode {:04o}), who could put anything in the place of what root runs here; run chmod go-w {shown}",
                item.mode
            ));
        }
    }
    Ok(())
}

/// Everybody, or a group other than root's.
const fn is_written_by_others(item: &Item) -> bool {
    item.mode & 0o002 != 0 || item.mode & 0o020 != 0 && item.gid != 0
}

/// With whose rights a folder of `owner` is read: a daemon of root must not be led by a link to what
/// the owner may not read.
///
/// # Errors
/// In words: there is no such user.
pub fn reader_of(owner: u32, daemon: u32) -> Result<User, String> {
    User::of_uid(if daemon == 0 { owner } else { daemon })
}

/// Looks at a job's folder, with the rights of its owner, and checks all but its `job.toml` and, which
/// only that decides, whether its owners are the right ones: see [`check_owners`].
///
/// `daemon` is the user that the daemon acts as.
///
/// # Errors
/// Everything that keeps the folder from being a job.
pub fn check_folder(name: &str, folder: &Path, daemon: u32) -> Result<Tree, Vec<Problem>> {
    let shown = format!("jobs/{name}");
    if let Err(message) = check_name(name) {
        return Err(vec![Problem::of_file(shown, message)]);
    }
    let whole = |message| vec![Problem::of_file(shown.clone(), message)];
    let unreadable = |error: std::io::Error| {
        whole(match error.kind() {
            std::io::ErrorKind::NotFound => {
                format!("there is no such job; `spoolbeat new {name}` makes one")
            }
            _ => format!("cannot be read ({error})"),
        })
    };
    let owner = files::look(folder).map_err(unreadable)?.uid;
    let reader = reader_of(owner, daemon).map_err(|why| {
        whole(format!(
            "its owner cannot run it: {why}; run chown -R with one that there is"
        ))
    })?;
    let tree = process::as_user(&reader, || files::walk(folder))
        .and_then(|walked| walked)
        .map_err(unreadable)?;
    if tree.owner() != owner {
        return Err(whole("changed its owner while it was read".to_owned()));
    }
    let problems = problems_of(&shown, tree.strange());
    if problems.is_empty() {
        Ok(tree)
    } else {
        Err(problems)
    }
}

/// Checks that nobody could have written this folder but root, the daemon and the job's user, who is
/// `user`. Where that is the daemon's own user and not root, modes and owners are its own matter.
#[must_use]
pub fn check_owners(name: &str, tree: &Tree, user: &User, daemon: u32) -> Vec<Problem> {
    if daemon != 0 {
        return Vec::new();
    }
    let strange = tree.items.iter().filter_map(|item| {
        let why = if ![0, user.uid].contains(&item.uid) {
            format!(
                "belongs to user {}, who could do by it what user {}, as whom the job runs, may; run chown -R {} on the folder",
                item.uid, user.name, user.name
            )
        } else if is_written_by_others(item) {
            format!(
                "may be written by a group (mode {:04o}), which could do by it what user {} may; run chmod g-w",
                item.mode, user.name
            )
        } else if item.kind == Kind::File && item.links > 1 {
            "has another name somewhere (a hard link), so nobody knows whose it is; run cp on it and put the copy here".to_owned()
        } else {
            return None;
        };
        Some((item.path.clone(), why))
    });
    problems_of(&format!("jobs/{name}"), strange.collect())
}

fn problems_of(shown: &str, strange: Vec<(String, String)>) -> Vec<Problem> {
    let of = |(path, message): (String, String)| {
        let file = match path.as_str() {
            "" => shown.to_owned(),
            path => format!("{shown}/{path}"),
        };
        Problem::of_file(file, message)
    };
    strange.into_iter().map(of).collect()
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
            "agent.id",
            "control.sock",
        ] {
            assert!(check_name(bad).is_err(), "{bad}");
        }
    }
}
