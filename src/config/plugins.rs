//! `ROOT/plugins`: which executables there are, and whether one can be trusted.
//!
//! Looked at when one is needed, so that what is put there works at once. Must never start one or
//! know what it is for.

use std::io;
use std::path::Path;
use std::path::PathBuf;

use super::check_name;
use super::check_place;
use super::words::nearest;
use crate::files;
use crate::files::Kind;

/// Most names that are given where one is not known.
const NAMED_MAX: usize = 10;

/// The plugins of a root.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plugins {
    dir: PathBuf,
    /// The user that the daemon acts as.
    daemon: u32,
}

impl Plugins {
    /// Those of the root `dir`, for a daemon of the user `daemon`.
    #[must_use]
    pub fn new(dir: &Path, daemon: u32) -> Self {
        Self {
            dir: dir.join("plugins"),
            daemon,
        }
    }

    /// The executable of this name: the file `plugins/NAME`, or `plugins/NAME/NAME` where that is a
    /// folder. Nobody could have written it but root or, for a daemon that is not root, whoever its
    /// user lets; links are followed.
    ///
    /// # Errors
    /// In words: there is none, or it cannot be trusted or executed.
    pub fn find(&self, name: &str) -> Result<PathBuf, String> {
        if check_name(name).is_err() {
            return Err(format!("`{name}` cannot be the name of a plugin"));
        }
        let mut path = self.dir.join(name);
        let look = |path: &Path| files::real_path(path).and_then(|real| files::look(&real));
        let mut found = look(&path);
        if found.as_ref().is_ok_and(|item| item.kind == Kind::Dir) {
            path.push(name);
            found = look(&path);
        }
        let shown = path.display();
        let item = match found {
            Ok(item) => item,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(format!("there is no {shown}; {}", self.instead(name)));
            }
            Err(error) => return Err(format!("{shown} cannot be looked at: {error}")),
        };
        if item.kind != Kind::File {
            return Err(format!("{shown} is not a plain file"));
        }
        let place = files::look(&self.dir.join("."));
        let modes = place.iter().map(|place| (&*self.dir, place.mode));
        if let Some((open, mode)) = modes
            .chain([(&*path, item.mode)])
            .find(|(_, mode)| mode & 0o002 != 0)
        {
            return Err(format!(
                "{} may be written by everybody (mode {mode:04o}), who could run anything by it; run chmod o-w",
                open.display()
            ));
        }
        check_place(&path, self.daemon)?;
        if item.mode & 0o111 == 0 {
            return Err(format!("{shown} is not executable; run chmod +x {shown}"));
        }
        Ok(path)
    }

    /// What may have been meant.
    fn instead(&self, name: &str) -> String {
        let mut names = files::names(&self.dir).unwrap_or_default();
        names.retain(|name| self.is_plugin(name));
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        match nearest(name, &names) {
            Some(near) => format!("did you mean `{near}`?"),
            None if names.is_empty() => {
                "put an executable of that name there; no plugin is there yet".to_owned()
            }
            None => format!(
                "put an executable of that name there, or name one of {}",
                names[..names.len().min(NAMED_MAX)].join(", ")
            ),
        }
    }

    /// Whether a name in the folder is one that could be meant: a README is none.
    fn is_plugin(&self, name: &str) -> bool {
        let path = self.dir.join(name);
        let is_executable = |path: &Path| {
            let real = files::real_path(path).and_then(|real| files::look(&real));
            real.is_ok_and(|item| item.kind == Kind::File && item.mode & 0o111 != 0)
        };
        check_name(name).is_ok() && (is_executable(&path) || is_executable(&path.join(name)))
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::process;

    fn put(path: &Path, mode: u32) {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, "#!/bin/sh\n").unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }

    #[test]
    fn a_plugin_is_an_executable_of_its_name_that_no_stranger_can_write() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join("plugins").join(name);
        put(&at("webhook/webhook"), 0o755);
        put(&at("README.md"), 0o644);
        let plugins = Plugins::new(dir.path(), process::own_uid());
        assert_eq!(plugins.find("webhook"), Ok(at("webhook/webhook")));
        // What comes later is there at once.
        put(&at("notify.sh"), 0o755);
        std::os::unix::fs::symlink(at("notify.sh"), at("linked")).unwrap();
        assert_eq!(plugins.find("notify.sh"), Ok(at("notify.sh")));
        assert_eq!(plugins.find("linked"), Ok(at("linked")));
        put(&at("plain"), 0o644);
        put(&at("open"), 0o777);
        fs::create_dir(at("empty")).unwrap();
        for (name, words) in [
            ("webhok", "did you mean `webhook`?"),
            ("zzzzzzzz", "name one of linked, notify.sh, open, webhook"),
            ("empty", "there is no"),
            ("plain", "run chmod +x"),
            ("open", "may be written by everybody (mode 0777)"),
            ("../jobs", "cannot be the name of a plugin"),
        ] {
            let why = plugins.find(name).unwrap_err();
            assert!(why.contains(words), "{name}: {why}");
        }
        fs::set_permissions(at("."), fs::Permissions::from_mode(0o777)).unwrap();
        let why = plugins.find("webhook").unwrap_err();
        assert!(why.contains("may be written by everybody"), "{why}");
    }
}
