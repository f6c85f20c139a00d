//! `spoolbeat receive` as a child: where it listens, what it printed, what it costs.

#![expect(clippy::unwrap_used, reason = "tests")]

use std::fs;
use std::fs::File;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Child;

use super::SOON;
use super::peak_memory;
use super::spoolbeat;
use super::wait_until;

/// The receiver; killed when it is dropped.
#[derive(Debug)]
pub(crate) struct Receiver {
    folder: tempfile::TempDir,
    child: Child,
    addr: SocketAddr,
}

impl Receiver {
    /// A receiver on a free port of the loopback address, with these further flags.
    pub(crate) fn start(flags: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let file = |name| File::create(folder.path().join(name)).unwrap();
        let child = spoolbeat()
            .args(["receive", "--listen", "127.0.0.1:0"])
            .args(flags)
            .stdout(file("out"))
            .stderr(file("err"))
            .spawn()
            .unwrap();
        let mut addr = None;
        wait_until(SOON, "the receiver says where it listens", || {
            addr = listening(folder.path());
            addr.is_some()
        });
        Self {
            folder,
            child,
            addr: addr.unwrap(),
        }
    }

    /// Where it listens.
    pub(crate) const fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// What it printed: the events, one a line.
    pub(crate) fn printed(&self) -> String {
        fs::read_to_string(self.folder.path().join("out")).unwrap()
    }

    /// The most memory that it has had resident, in bytes.
    pub(crate) fn peak_memory(&self) -> u64 {
        peak_memory(self.child.id())
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        // It may have ended already.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

fn listening(folder: &Path) -> Option<SocketAddr> {
    let said = fs::read_to_string(folder.join("err")).unwrap();
    let line = said
        .lines()
        .find_map(|line| line.strip_prefix("listening on "))?;
    line.parse().ok()
}
