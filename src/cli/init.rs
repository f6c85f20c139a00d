//! `spoolbeat init`: a root directory to begin with.
//!
//! Must never change one that is there.

use std::io;
use std::path::Path;
use std::path::PathBuf;
use std::process::ExitCode;

use super::say;
use crate::config::ROOT_FILE;
use crate::disk::Disk;
use crate::files;

/// Cannot make a file: `EX_CANTCREAT` of sysexits(3).
const CANNOT_MAKE: u8 = 73;

/// What a new root begins with; every key that is shown has its default value.
const TEXT: &str = r#"# Root configuration of spoolbeat. Check it with `spoolbeat check`.
# Every key that is commented out shows its default.

[output.lumberjack]                    # a Logstash with a beats input
hosts = ["127.0.0.1:5044"]
# loadbalance = false                  # true: all hosts at once
# version = 2                          # of the protocol; 1 for servers that know no JSON
# bulk_max_size = 2048
# bulk_max_bytes = "8MiB"
# compression_level = 3
# pipelining = 2
# ttl = "0s"                           # age at which a connection is made anew; 0s: none
# timeout = "30s"
# ack_stall_timeout = "5m"             # keep-alives without progress
# backoff = { init = "1s", max = "60s" }
# tags = ["*"]                         # of which jobs: patterns of their `tag`
# start = "newest"                     # a new output: "oldest" begins with all that is kept
# required = true                      # false: it gives up its oldest events when the queue is full

# [output.archive]                     # one JSON object a line, rotated
# kind = "file"                        # "stdout" has no keys of its own: the same lines, for containers
# path = "/var/log/spoolbeat/events.ndjson"
# rotate_bytes = "100MiB"
# keep = 5

# A table [output.lumberjack.ssl] encrypts the connection; the README shows one.

# [receiver]                           # a Lumberjack server inside, to try things out without Logstash
# listen = "127.0.0.1:5044"
# print = true

# [defaults]                           # keys of job.toml for all jobs; a job's own win
# timezone = "Europe/Berlin"

# [spool]
# settle = "1s"                        # how long a job's folder must be quiet before it is loaded
# rescan = "30s"
# max_concurrent_runs = 64

# [queue]
# max_bytes = "10GiB"
# retain = { age = "24h", bytes = "1GiB" }   # kept after the server has it
# on_full = "block"                    # or "drop_oldest": required outputs give up events too
# durability = "sync"                  # or { interval = "1s" }
# batch_events = 2048
# batch_bytes = "1MiB"
# flush = "100ms"
# compression_level = 3

# [results]
# bytes = "1GiB"                       # of all jobs together

# [stop]
# timeout = "5s"                       # how long a stop waits for the server

# [startup]
# require_output = false               # true: no job runs before a server has been reached

# [heartbeat]                          # off unless there
# every = "60s"

# [log]
# level = "info"                       # error | warn | info | debug
"#;

/// Make a root directory: spoolbeat.toml, jobs/ and plugins/.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:
  spoolbeat init /var/lib/spoolbeat && spoolbeat new hello --root /var/lib/spoolbeat")]
pub struct Args {
    /// The directory; it is made if it is missing. Default: --root, else where you are.
    #[arg(value_name = "ROOT")]
    place: Option<PathBuf>,
}

/// Makes the root that is named, or `given` (`--root`), or the working directory.
#[must_use]
pub fn run(args: &Args, given: Option<&Path>, disk: &dyn Disk) -> ExitCode {
    let place = args.place.as_deref().or(given).unwrap_or(Path::new("."));
    let shown = place.display();
    match make(place, disk) {
        Ok(()) => say::report(
            &format!(
                "made {shown}\nnext: spoolbeat new hello --root {shown}\n      spoolbeat check {shown}\n"
            ),
            0,
        ),
        Err(error)
            if error.kind() == io::ErrorKind::AlreadyExists
                && files::look(&place.join(ROOT_FILE)).is_ok() =>
        {
            say::fail(
                CANNOT_MAKE,
                &format!("{shown} has a {ROOT_FILE} already; it was left as it is"),
            )
        }
        Err(error) => say::fail(CANNOT_MAKE, &format!("{shown} cannot be made: {error}")),
    }
}

fn make(root: &Path, disk: &dyn Disk) -> io::Result<()> {
    disk.make_dir(root)?;
    files::make_file(&root.join(ROOT_FILE), TEXT, 0o644)?;
    disk.make_dir(&root.join("jobs"))?;
    disk.make_dir(&root.join("plugins"))
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use crate::config::load_root;
    use crate::disk::OsDisk;

    #[test]
    fn a_new_root_is_good_and_none_is_overwritten() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("a/b");
        make(&root, &OsDisk).unwrap();
        let loaded = load_root(&root, &[]).unwrap();
        assert_eq!(loaded.dir, root);
        assert_eq!(files::names(&root).unwrap(), ["jobs", "plugins", ROOT_FILE]);
        assert!(make(&root, &OsDisk).is_err());
    }

    #[test]
    fn every_key_of_an_output_is_shown() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        let wrong = "[output.lumberjack]\nhosts = [\"a:1\"]\nunlike_any_key = 1\n";
        files::make_file(&root.join(ROOT_FILE), wrong, 0o644).unwrap();
        let problems = format!("{:?}", load_root(root, &[]).unwrap_err());
        let (_, known) = problems.split_once("known here: ").unwrap();
        let (known, _) = known.split_once('"').unwrap();
        let shown = |key: &str| TEXT.contains(&format!("\n# {key} = "));
        let missing: Vec<&str> = known
            .split(", ")
            .filter(|key| !["kind", "hosts", "ssl"].contains(key) && !shown(key))
            .collect();
        assert!(missing.is_empty(), "{missing:?}");
        assert!(known.contains("ttl"), "{known}");
    }

    #[test]
    fn what_is_commented_out_shows_the_defaults() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        make(root, &OsDisk).unwrap();
        let plain = load_root(root, &[]).unwrap();
        let shown: String = TEXT
            .lines()
            .map(|line| match line.strip_prefix("# ") {
                Some(rest) if rest.starts_with('[') || rest.contains(" = ") => rest,
                _ => line,
            })
            .flat_map(|line| [line, "\n"])
            .collect();
        files::make_file(&root.join("all.toml"), &shown, 0o644).unwrap();
        let all = load_root(&root.join("all.toml"), &[]).unwrap();
        assert_eq!(all.queue, plain.queue);
        assert_eq!(all.outputs.len(), 2);
        assert_eq!(all.outputs[0].kind, plain.outputs[0].kind);
        assert_eq!((all.settle, all.rescan), (plain.settle, plain.rescan));
        assert_eq!(all.stop_timeout, plain.stop_timeout);
        assert!(all.receiver.is_some());
    }
}
