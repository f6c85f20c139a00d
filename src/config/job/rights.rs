//! `[script]` `user`, `group`, `umask`, `limits` and `secrets`: whose rights a job has.
//!
//! The rule is cron's: what a folder says cannot give its owner the rights of somebody else. Asks
//! the user database; must never read the folder or take anybody's rights.

use std::collections::BTreeMap;
use std::path::Path;

use super::is_name;
use crate::config::Standing;
use crate::config::reader::Leaf;
use crate::config::reader::Table;
use crate::job::SecretSource;
use crate::process::Limits;
use crate::process::Rights;
use crate::process::User;
use crate::process::group_named;

const SECRETS_EXAMPLE: &str = "secrets = { API_TOKEN = \"file:/etc/idp/token\" }";
const CREDENTIALS_EXAMPLE: &str = "[credentials] with allow";

/// The keys that are there, each of its type.
#[derive(Debug, Default)]
pub(super) struct Raw {
    user: Option<Leaf<String>>,
    group: Option<Leaf<String>>,
    umask: Option<u32>,
    limits: Limits,
    secrets: Vec<(Leaf<String>, Leaf<String>)>,
}

impl Raw {
    /// Takes its keys from `[script]`.
    pub(super) fn read(script: &mut Table<'_, '_>) -> Self {
        Self {
            user: script.text("user", "user = \"idp\""),
            group: script.text("group", "group = \"idp\""),
            umask: read_umask(script),
            limits: read_limits(script.table("limits")).unwrap_or_default(),
            secrets: script.text_map("secrets", SECRETS_EXAMPLE),
        }
    }

    /// The names of variables that secrets set.
    pub(super) fn variables(&self) -> impl Iterator<Item = &Leaf<String>> {
        self.secrets.iter().map(|(name, _)| name)
    }

    /// Whose rights the job has; `None` when it cannot have those that it names.
    pub(super) fn check(&self, table: &Table<'_, '_>, standing: &Standing) -> Option<Rights> {
        let user = self.user(table, standing)?;
        Some(Rights {
            user: self.with_group(user, table, standing)?,
            umask: self.umask.unwrap_or(Rights::UMASK),
            limits: self.limits,
        })
    }

    fn user(&self, table: &Table<'_, '_>, standing: &Standing) -> Option<User> {
        let lacks = |message| table.source.missing(&table.at, "script.user", message);
        // A default is for folders of root: anybody else's rights are their own.
        let stands = |leaf: &&Leaf<String>| standing.is_trusted() || table.source.is_own(&leaf.at);
        let Some(leaf) = self.user.as_ref().filter(stands) else {
            let acts_as = match standing.daemon {
                0 => standing.owner,
                daemon => daemon,
            };
            return User::of_uid(acts_as)
                .map_err(|message| {
                    let example = "run chown -R idp on the folder, with a user that there is";
                    lacks(format!(
                        "the folder's owner cannot run it: {message}; {example}"
                    ));
                })
                .ok();
        };
        let user = match User::named(&leaf.value) {
            Ok(user) => user,
            Err(message) => {
                table.refuse(
                    leaf,
                    format!("{message}; write user = \"nobody\", or make it"),
                );
                return None;
            }
        };
        if standing.daemon != 0 && user.uid != standing.daemon {
            let message = format!(
                "`{}` is not the user of this daemon, and only root can start scripts as others; remove it, or start spoolbeat as root",
                leaf.value
            );
            table.refuse(leaf, message);
            return None;
        }
        if !standing.is_trusted() && user.uid != standing.owner {
            let message = format!(
                "`{}` is not the folder's owner (user {}), who can give a job no rights but their own; remove it, or run chown -R root on the folder",
                leaf.value, standing.owner
            );
            table.refuse(leaf, message);
            return None;
        }
        Some(user)
    }

    fn with_group(
        &self,
        mut user: User,
        table: &Table<'_, '_>,
        standing: &Standing,
    ) -> Option<User> {
        let stands = |leaf: &&Leaf<String>| standing.is_trusted() || table.source.is_own(&leaf.at);
        let Some(leaf) = self.group.as_ref().filter(stands) else {
            return Some(user);
        };
        let gid = match group_named(&leaf.value) {
            Ok(gid) => gid,
            Err(message) => {
                table.refuse(
                    leaf,
                    format!("{message}; write group = \"nogroup\", or make it"),
                );
                return None;
            }
        };
        let is_theirs = gid == user.gid || user.groups.contains(&gid);
        let may = standing.daemon == 0 && standing.is_trusted();
        if !is_theirs && !may {
            let message = format!(
                "user {} is not in group `{}`; remove it, or write one of the user's own groups",
                user.name, leaf.value
            );
            table.refuse(leaf, message);
            return None;
        }
        user.gid = gid;
        Some(user)
    }

    /// Where the secrets are; what is wrong with one is reported.
    pub(super) fn secrets(
        &self,
        table: &Table<'_, '_>,
        job: &str,
        standing: &Standing,
    ) -> BTreeMap<String, SecretSource> {
        let mut secrets = BTreeMap::new();
        for (name, leaf) in &self.secrets {
            if let Some(source) = secret(table, leaf, job, standing) {
                secrets.insert(name.value.clone(), source);
            }
        }
        secrets
    }
}

fn secret(
    table: &Table<'_, '_>,
    leaf: &Leaf<String>,
    job: &str,
    standing: &Standing,
) -> Option<SecretSource> {
    // The value may be the secret itself, put here by mistake: it is not repeated.
    let source = match leaf.value.split_once(':') {
        Some(("file", path)) if Path::new(path).is_absolute() => SecretSource::File(path.into()),
        Some(("env", name)) if is_name(name) => SecretSource::Env(name.to_owned()),
        Some(("credential", name)) if is_credential(name) => {
            SecretSource::Credential(name.to_owned())
        }
        _ => {
            let message = format!(
                "says where the secret is, and never the secret: `file:` and an absolute path, `env:` or `credential:` and a name; write {SECRETS_EXAMPLE}"
            );
            table.refuse(leaf, message);
            return None;
        }
    };
    if let SecretSource::Env(name) | SecretSource::Credential(name) = &source
        && !is_granted(table, leaf, name, job, standing)
    {
        return None;
    }
    Some(source)
}

/// Whether a job may have this of the daemon's environment or credentials; reported when not.
pub(super) fn is_granted<T>(
    table: &Table<'_, '_>,
    leaf: &Leaf<T>,
    name: &str,
    job: &str,
    standing: &Standing,
) -> bool {
    let may =
        standing.is_trusted() || !table.source.is_own(&leaf.at) || standing.grants.allow(name, job);
    if !may {
        let message = format!(
            "`{name}` is the daemon's, and the folder another user's; ask for {CREDENTIALS_EXAMPLE} = {{ {name} = [\"{job}\"] }} in spoolbeat.toml"
        );
        table.refuse(leaf, message);
    }
    may
}

/// A file directly in a folder.
fn is_credential(name: &str) -> bool {
    !name.is_empty() && !name.starts_with('.') && !name.contains('/')
}

fn read_umask(script: &mut Table<'_, '_>) -> Option<u32> {
    const EXAMPLE: &str = "umask = \"027\"";
    let leaf = script.text("umask", EXAMPLE)?;
    let mask = u32::from_str_radix(&leaf.value, 8)
        .ok()
        .filter(|mask| *mask <= 0o777 && leaf.value.len() <= 4);
    if mask.is_none() {
        let message = format!(
            "`{}` is no mask of three octal digits; write {EXAMPLE}",
            leaf.value
        );
        script.refuse(&leaf, message);
    }
    mask
}

fn read_limits(table: Option<Table<'_, '_>>) -> Option<Limits> {
    let mut table = table?;
    let value = |leaf: Option<Leaf<u64>>| leaf.map(|leaf| leaf.value);
    let memory = table.bytes("memory", 1 << 20..1 << 50, "memory = \"512MiB\"");
    let file_size = table.bytes("file_size", 1 << 10..1 << 50, "file_size = \"1GiB\"");
    let core = table.bytes("core", 0..1 << 50, "core = \"64MiB\"");
    let limits = Limits {
        memory: value(memory),
        processes: table
            .number("processes", 1..4_194_305, "processes = 64")
            .map(u64::from),
        open_files: table
            .number("open_files", 8..1_048_577, "open_files = 1024")
            .map(u64::from),
        cpu_percent: read_cpu(&mut table),
        file_size: value(file_size),
        core: value(core).unwrap_or(0),
    };
    table.finish();
    Some(limits)
}

fn read_cpu(table: &mut Table<'_, '_>) -> Option<u32> {
    /// 100 is one core.
    const RANGE: std::ops::RangeInclusive<u32> = 1..=100_000;
    let leaf = table.text("cpu", "cpu = \"50%\"")?;
    let percent = leaf
        .value
        .strip_suffix('%')
        .and_then(|text| text.parse().ok());
    let percent = percent.filter(|percent| RANGE.contains(percent));
    if percent.is_none() {
        let message = format!(
            "`{}` is no share of one core; write cpu = \"50%\", or \"200%\" for two cores",
            leaf.value
        );
        table.refuse(&leaf, message);
    }
    percent
}
