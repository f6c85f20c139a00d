//! `[credentials]` of spoolbeat.toml, and what a folder's owner means for what it may ask.
//!
//! Must never know the values, only who may have them.

use std::collections::BTreeMap;

use super::reader::Table;

const EXAMPLE: &str = "allow = { API_TOKEN = [\"idp-logins\"] }";

/// Stands for all jobs.
const ALL: &str = "*";

/// Which variables of the daemon's environment, and which of its credentials, jobs of other owners may have.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Grants(BTreeMap<String, Vec<String>>);

impl Grants {
    pub(super) fn read(root: &mut Table<'_, '_>) -> Self {
        let mut grants = Self::default();
        if let Some(mut table) = root.table("credentials") {
            let lists = table.lists("allow", EXAMPLE);
            grants.0.extend(lists);
            table.finish();
        }
        grants
    }

    /// Whether a job may have what is called `name`.
    #[must_use]
    pub fn allow(&self, name: &str, job: &str) -> bool {
        let jobs = self.0.get(name).map_or(&[][..], Vec::as_slice);
        jobs.iter().any(|other| other == job || other == ALL)
    }

    /// All that a job may have.
    pub(super) fn of(&self, job: &str) -> Vec<String> {
        let names = self.0.keys().filter(|name| self.allow(name, job));
        names.cloned().collect()
    }
}

/// Where a job stands: whose folder it is, before which daemon.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Standing {
    /// Owner of the folder.
    pub owner: u32,
    /// The user that the daemon acts as.
    pub daemon: u32,
    /// What it may have although its owner is another user.
    pub grants: Grants,
}

impl Standing {
    /// Whether whoever writes into the folder may do all that the daemon may: root and its own user.
    /// A daemon that is not root runs everything as itself, so there nothing could be kept apart.
    #[must_use]
    pub const fn is_trusted(&self) -> bool {
        self.owner == 0 || self.daemon != 0
    }
}
