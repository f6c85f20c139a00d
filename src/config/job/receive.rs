//! `[source.lumberjack]`: a job that takes events from Beats.
//!
//! Must never know what else a job may have.

use std::path::Path;

use crate::config::Defaults;
use crate::config::Problem;
use crate::config::listen;
use crate::config::reader::Table;
use crate::config::ssl;
use crate::process::User;
use crate::source::lumberjack::Settings;

const EXAMPLE: &str = "[source.lumberjack] with listen = \"0.0.0.0:5044\" under it";

/// What `[source]` says.
#[derive(Debug, Default)]
pub(super) struct Receive {
    /// Whether it is there, also when it could not be read.
    pub(super) is_there: bool,
    pub(super) settings: Option<Settings>,
    /// Files of `ssl` that cannot be used.
    pub(super) unusable: Vec<Problem>,
}

impl Receive {
    /// Takes `[source]`; `defaults` know where outputs lead and who listens already, `user` is the job's,
    /// with whose rights it listens and reads; `None` when it cannot have them. One that is not enabled is in
    /// nobody's way.
    pub(super) fn read(
        job: &mut Table<'_, '_>,
        defaults: &Defaults,
        user: Option<&User>,
        is_enabled: bool,
    ) -> Self {
        let is_there = job.has("source");
        let Some(mut sources) = job.table("source") else {
            return Self {
                is_there,
                ..Self::default()
            };
        };
        if !sources.has("lumberjack") {
            sources.lacks("lumberjack", format!("is missing; write {EXAMPLE}"));
        }
        let mut files = ssl::Files {
            // The job's folder is copied for each version of it, and keys should not be.
            folder: Path::new("/"),
            unusable: Vec::new(),
        };
        let settings = sources.table("lumberjack").map(|mut table| {
            let (settings, listens) = listen::read(&mut table, &mut files, None, user);
            let reaches = |(_, host): &&(String, String)| listen::reaches(host, &settings.listen);
            if let (Some(leaf), Some((output, host))) = (&listens, defaults.hosts.iter().find(reaches)) {
                table.refuse(
                    leaf,
                    format!(
                        "output `{output}` sends to {host}, which is here: its events would come \
                         back for ever; write another port, like listen = \"0.0.0.0:5045\""
                    ),
                );
            }
            let collides = |(_, other): &&(String, String)| listen::collide(other, &settings.listen);
            let other = defaults.listeners.iter().find(collides);
            let other = other.filter(|_| is_enabled);
            if let (Some(leaf), Some((who, other))) = (&listens, other) {
                table.refuse(
                    leaf,
                    format!(
                        "{who} listens on {other} already, and only one can; write another port, like \
                         listen = \"0.0.0.0:5045\""
                    ),
                );
            }
            table.finish();
            settings
        });
        sources.finish();
        Self {
            is_there,
            settings,
            unusable: files.unusable,
        }
    }
}
