//! The place of an output that is a file, for `check` and `test output`.
//!
//! Must never touch the output's own file: its daemon may be writing it.

use std::io;
use std::path::Path;

use crate::disk::Disk;
use crate::disk::Open;
use crate::disk::OsDisk;
use crate::files;
use crate::files::Kind;

/// Why no file can be at `path`, whoever writes it.
pub(super) fn misplaced(path: &Path) -> Option<String> {
    let kind_of = |path: &Path| Ok(files::look(&files::real_path(path)?)?.kind);
    let found: io::Result<Kind> = kind_of(path);
    let (path, folder) = (path.display(), path.parent()?);
    if matches!(found, Ok(Kind::Dir)) {
        return Some(format!(
            "{path} is a folder; name a file in it, like path = \"{path}/events.ndjson\""
        ));
    }
    let above: io::Result<Kind> = kind_of(folder);
    let folder = folder.display();
    match above {
        Ok(Kind::Dir) => None,
        Ok(_) => Some(format!(
            "{folder} is no folder; {path} cannot be made in it"
        )),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Some(format!(
            "there is no folder {folder}, and the daemon makes none; make it: mkdir -p {folder}"
        )),
        // Who looks need not be who writes.
        Err(_) => None,
    }
}

/// Tries with the rights of this process whether the file can be written, and others be made beside it.
///
/// # Errors
/// Why not.
pub(super) fn try_out(path: &Path) -> Result<(), String> {
    if let Some(why) = misplaced(path) {
        return Err(why);
    }
    let cannot = |error| format!("{} cannot be written: {error}", path.display());
    match OsDisk.open(path, Open::Named) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(cannot(error)),
        _ => {}
    }
    let trial = path.with_file_name(format!(".spoolbeat-test-{}", std::process::id()));
    OsDisk
        .open(&trial, Open::CreateNew)
        .and_then(|_| OsDisk.remove(&trial))
        .map_err(|error| format!("no file can be made beside {}: {error}", path.display()))
}
