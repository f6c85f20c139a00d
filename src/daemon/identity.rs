//! Who ships: the identifiers of a root and of one life of its daemon, as Beats have them.
//!
//! Must never know what is shipped.

use std::io;
use std::path::Path;
use std::path::PathBuf;

use crate::daemon::Error;
use crate::disk::Disk;
use crate::disk::OsDisk;
use crate::disk::Replace;
use crate::event::envelope::Identity;
use crate::event::envelope::Shape;
use crate::process;

/// Where the kernel hands out random identifiers.
const KERNEL_UUID: &str = "/proc/sys/kernel/random/uuid";

/// Length of an identifier as text, and one more for the line's end.
const UUID_BYTES_MAX: u64 = 37;

/// `agent.id` of this root, in `ROOT/state`.
const AGENT_ID: &str = "agent.id";

/// Who ships from this root: the same for ever, but for what names this life of the daemon.
///
/// # Errors
/// The disk, or a file that holds no identifier.
pub(super) fn of_root(root: &Path, shape: &Shape) -> Result<Identity, Error> {
    let path = root.join("state").join(AGENT_ID);
    let agent_id = match read_uuid(&path) {
        Ok(id) => id,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let id = new_uuid()?;
            OsDisk
                .replace(&path, id.as_bytes(), Replace::Durable)
                .map_err(|error| Error::Disk { path, error })?;
            id
        }
        Err(error) => return Err(Error::Disk { path, error }),
    };
    Ok(Identity {
        host_name: process::hostname(),
        agent_id,
        agent_ephemeral_id: new_uuid()?,
        shape: shape.clone(),
    })
}

/// Who ships when nothing is shipped (`try`): identifiers that are used once.
pub(crate) fn passing_identity(shape: Shape) -> Result<Identity, Error> {
    Ok(Identity {
        host_name: process::hostname(),
        agent_id: new_uuid()?,
        agent_ephemeral_id: new_uuid()?,
        shape,
    })
}

fn new_uuid() -> Result<String, Error> {
    let path = PathBuf::from(KERNEL_UUID);
    read_uuid(&path).map_err(|error| Error::Disk { path, error })
}

fn read_uuid(path: &Path) -> io::Result<String> {
    let bytes = OsDisk.read(path, UUID_BYTES_MAX)?;
    let text = String::from_utf8_lossy(&bytes).trim().to_owned();
    let is_id = |c: char| c.is_ascii_hexdigit() || c == '-';
    if text.is_empty() || !text.chars().all(is_id) {
        let message = "not an identifier; remove the file to get a new one";
        return Err(io::Error::new(io::ErrorKind::InvalidData, message));
    }
    Ok(text)
}
