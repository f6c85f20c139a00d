//! `[results]` `on_result` and `on_result_timeout`: the plugin that gets a job's results.
//!
//! Must never look into `plugins/` by itself: whether one is there may change at any time.

use std::time::Duration;

use super::LEAST;
use crate::config::check_name;
use crate::config::plugins::Plugins;
use crate::config::reader::Leaf;
use crate::config::reader::Table;
use crate::job::OnResult;

const EXAMPLE: &str = "on_result = \"webhook\"";

/// Longest time of a plugin when a job does not say it: what a web server may take on a bad day.
const TIMEOUT: Duration = Duration::from_secs(30);

/// The keys that are there, each of its type.
#[derive(Debug, Default)]
pub(super) struct Raw {
    name: Option<Leaf<String>>,
    timeout: Option<Leaf<Duration>>,
}

impl Raw {
    /// Takes its keys from `[results]`.
    pub(super) fn read(results: &mut Table<'_, '_>) -> Self {
        Self {
            name: results.text("on_result", EXAMPLE),
            timeout: results.duration("on_result_timeout", LEAST, "on_result_timeout = \"30s\""),
        }
    }

    /// Checks that the name can be one; an empty one is that of no plugin.
    pub(super) fn check_name(&self, table: &Table<'_, '_>) -> Option<&Leaf<String>> {
        let leaf = self.name.as_ref().filter(|leaf| !leaf.value.is_empty())?;
        if check_name(&leaf.value).is_err() {
            let message = format!(
                "`{}` cannot be the name of a plugin, which is an executable in plugins/ of the root directory; write {EXAMPLE}",
                leaf.value
            );
            table.refuse(leaf, message);
            return None;
        }
        Some(leaf)
    }

    /// Who is told of each result; `runs` says whether there will be any, `plugins` where the plugin must be.
    pub(super) fn check(
        &self,
        table: &Table<'_, '_>,
        plugins: Option<&Plugins>,
        runs: bool,
    ) -> Option<OnResult> {
        let leaf = self.check_name(table)?;
        if !runs {
            if table.source.is_own(&leaf.at) {
                let message = "waits for the results of runs, and nothing runs; remove it, or add [script] and [schedule]";
                table.refuse(leaf, message.to_owned());
            }
            return None;
        }
        if let Some(Err(why)) = plugins.map(|plugins| plugins.find(&leaf.value)) {
            table.refuse(leaf, why);
        }
        Some(OnResult {
            plugin: leaf.value.clone(),
            timeout: self.timeout.as_ref().map_or(TIMEOUT, |leaf| leaf.value),
        })
    }
}
