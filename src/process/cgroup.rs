//! Control groups (version 2): one for each run, below the one that the daemon lies in.
//!
//! A group ends all its processes in one step, however fast they fork, and with controllers it limits
//! them together. Where none can be made, the shim's own sweep and rlimits remain. Files and
//! their meaning: Documentation/admin-guide/cgroup-v2.rst of the kernel. Must never know jobs.

use std::fs;
use std::io;
use std::path::Path;
use std::path::PathBuf;
use std::time::Duration;

use super::Limits;
use crate::clock;

/// What the names of our groups begin with.
const PREFIX: &str = "spoolbeat-";

/// How often the removal of a group is tried: the kernel lets go of it moments after its last process.
const REMOVE_TRIES: u32 = 50;

/// Pause between two such tries.
const REMOVE_PAUSE: Duration = Duration::from_millis(10);

/// Period of `cpu.max` in microseconds, the kernel's default.
const CPU_PERIOD: u64 = 100_000;

/// The controllers that limit runs.
const CONTROLLERS: [&str; 3] = ["memory", "pids", "cpu"];

/// Where the groups of runs are made.
#[derive(Debug, Clone)]
pub struct Cgroups {
    dir: PathBuf,
    /// Tells our groups from those of daemons of other roots.
    key: String,
    can: Can,
}

/// What the groups of runs can limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Can {
    /// Memory, of all processes of a run together.
    pub memory: bool,
    /// The number of processes of a run.
    pub pids: bool,
    /// The share of the processor.
    pub cpu: bool,
}

impl Can {
    fn of(controllers: &str) -> Self {
        let has = |name| {
            controllers
                .split_ascii_whitespace()
                .any(|word| word == name)
        };
        Self {
            memory: has("memory"),
            pids: has("pids"),
            cpu: has("cpu"),
        }
    }

    /// What of `limits` holds only in part or not at all for processes of user `uid`, in words.
    #[must_use]
    pub fn lacks(self, limits: &Limits, uid: u32) -> Vec<String> {
        let mut words = Vec::new();
        let mut say = |words_of: &str| words.push(words_of.to_owned());
        if limits.memory.is_some() && !self.memory {
            say(
                "limits.memory holds for each process, not for the run: no cgroup memory controller",
            );
        }
        if limits.processes.is_some() && !self.pids {
            say(match uid {
                0 => "limits.processes is not enforced for root: no cgroup pids controller",
                _ => "limits.processes counts all processes of the user: no cgroup pids controller",
            });
        }
        if limits.cpu_percent.is_some() && !self.cpu {
            say("limits.cpu is not enforced: no cgroup cpu controller");
        }
        words
    }
}

impl Cgroups {
    /// Finds out where groups can be made and what they can limit; `None`: nowhere. Changes nothing.
    /// `key` is what names of groups of this root have in common.
    #[must_use]
    pub fn find(key: &str) -> Option<Self> {
        let mounts = fs::read_to_string("/proc/self/mountinfo").ok()?;
        let own = fs::read_to_string("/proc/self/cgroup").ok()?;
        let dir = own_dir(&mounts, &own)?;
        sys_writable(&dir).then(|| {
            let control = fs::read_to_string(dir.join("cgroup.subtree_control"));
            Self {
                can: Can::of(&control.unwrap_or_default()),
                key: key.to_owned(),
                dir,
            }
        })
    }

    /// As [`Cgroups::find`]; then has the controllers pass to groups of runs, as far as they are
    /// delegated to us, and ends and removes what groups an earlier daemon left.
    #[must_use]
    pub fn claim(key: &str) -> Option<Self> {
        let mut cgroups = Self::find(key)?;
        cgroups.enable();
        let prefix = format!("{PREFIX}{key}-");
        let entries = fs::read_dir(&cgroups.dir).ok()?;
        for entry in entries.flatten() {
            if entry.file_name().to_string_lossy().starts_with(&prefix) {
                let left = Group { dir: entry.path() };
                left.kill();
                left.remove();
            }
        }
        Some(cgroups)
    }

    /// A group may not have both processes and groups with controllers below it, so the daemon moves aside.
    fn enable(&mut self) {
        let file = |name: &str| self.dir.join(name);
        let there = fs::read_to_string(file("cgroup.controllers")).unwrap_or_default();
        let wanted: Vec<String> = CONTROLLERS
            .iter()
            .filter(|name| there.split_ascii_whitespace().any(|word| word == **name))
            .map(|name| format!("+{name}"))
            .collect();
        if wanted.is_empty() {
            return;
        }
        let enable = || fs::write(file("cgroup.subtree_control"), wanted.join(" "));
        if enable().is_err() {
            let aside = file("spoolbeat.daemon");
            let moved = make(&aside).and_then(|()| fs::write(aside.join("cgroup.procs"), "0"));
            // Others in our group keep it from having controllers; `lacks` then says so.
            drop(moved.and_then(|()| enable()));
        }
        let control = fs::read_to_string(file("cgroup.subtree_control"));
        self.can = Can::of(&control.unwrap_or_default());
    }

    /// What groups of runs can limit.
    #[must_use]
    pub const fn can(&self) -> Can {
        self.can
    }

    /// The path of the group of a run; its shim makes and removes it.
    #[must_use]
    pub fn of_run(&self, run: &str) -> PathBuf {
        self.dir.join(format!("{PREFIX}{}-{run}", self.key))
    }
}

fn sys_writable(dir: &Path) -> bool {
    nix::unistd::access(dir, nix::unistd::AccessFlags::W_OK).is_ok()
}

/// The folder of our own group.
fn own_dir(mountinfo: &str, own: &str) -> Option<PathBuf> {
    let path = own.lines().find_map(|line| line.strip_prefix("0::/"))?;
    if path.split('/').any(|part| part == "..") {
        return None;
    }
    // `ID PARENT DEV ROOT POINT OPTIONS ... - TYPE SOURCE OPTIONS`, proc_pid_mountinfo(5).
    let mount = mountinfo.lines().find_map(|line| {
        let (head, tail) = line.split_once(" - ")?;
        tail.starts_with("cgroup2 ")
            .then(|| head.split(' ').nth(4))?
    })?;
    Some(Path::new(mount).join(path))
}

fn make(dir: &Path) -> io::Result<()> {
    match fs::create_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        made => made,
    }
}

/// The group of one run, in the hands of its shim.
#[derive(Debug)]
pub(super) struct Group {
    dir: PathBuf,
}

impl Group {
    /// Makes the group and gives it what it can limit; gives also what it did limit.
    pub(super) fn make(dir: &Path, limits: &Limits) -> io::Result<(Self, Can)> {
        make(dir)?;
        let group = Self {
            dir: dir.to_path_buf(),
        };
        let set = |name: &str, value: Option<String>| {
            value.is_none_or(|value| fs::write(group.dir.join(name), value).is_ok())
        };
        let has = |name: &str| group.dir.join(name).exists();
        let cpu = limits
            .cpu_percent
            .map(|percent| format!("{} {CPU_PERIOD}", u64::from(percent) * CPU_PERIOD / 100));
        let can = Can {
            memory: has("memory.max")
                && set("memory.max", limits.memory.map(|bytes| bytes.to_string()))
                && set("memory.oom.group", Some("1".to_owned())),
            pids: has("pids.max")
                && set("pids.max", limits.processes.map(|count| count.to_string())),
            cpu: has("cpu.max") && set("cpu.max", cpu),
        };
        // Else it could swap for as long as there is swap.
        set("memory.swap.max", limits.memory.map(|_| "0".to_owned()));
        Ok((group, can))
    }

    /// Puts the calling process into it.
    pub(super) fn join(&self) -> io::Result<()> {
        fs::write(self.dir.join("cgroup.procs"), "0")
    }

    /// KILLs all in it, in one step. Kernels before 5.14 cannot; the sweep goes on without.
    pub(super) fn kill(&self) {
        drop(fs::write(self.dir.join("cgroup.kill"), "1"));
    }

    /// Whether the kernel killed something in it for want of memory.
    pub(super) fn was_out_of_memory(&self) -> bool {
        fs::read_to_string(self.dir.join("memory.events")).is_ok_and(|events| {
            events
                .lines()
                .filter_map(|line| line.strip_prefix("oom_kill "))
                .any(|count| count != "0")
        })
    }

    /// Removes it; with processes in it that nobody can kill it stays for the next start.
    pub(super) fn remove(&self) {
        for _ in 0..REMOVE_TRIES {
            match fs::remove_dir(&self.dir) {
                Err(error) if error.kind() == io::ErrorKind::ResourceBusy => {
                    clock::pause(REMOVE_PAUSE);
                }
                _ => return,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::*;

    const MOUNTS: &str = "\
        24 1 0:22 / /sys rw - sysfs sysfs rw\n\
        31 24 0:27 / /sys/fs/cgroup ro,nosuid shared:9 - tmpfs tmpfs ro\n\
        32 31 0:28 / /sys/fs/cgroup/unified rw shared:10 - cgroup2 cgroup2 rw\n";

    #[test]
    fn our_own_group_is_found_also_beside_those_of_version_1() {
        let own = "8:pids:/x\n0::/system.slice/spoolbeat.service\n";
        assert_eq!(
            own_dir(MOUNTS, own),
            Some("/sys/fs/cgroup/unified/system.slice/spoolbeat.service".into())
        );
        assert_eq!(own_dir(MOUNTS, "0::/../outside\n"), None);
        assert_eq!(own_dir(MOUNTS, "8:pids:/x\n"), None);
        assert_eq!(own_dir("", own), None);
    }

    /// A folder stands in for a group: what is written where is all there is to see.
    #[test]
    fn limits_are_written_where_there_are_controllers() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["memory.max", "memory.oom.group", "cpu.max"] {
            fs::write(dir.path().join(name), "max").unwrap();
        }
        let limits = Limits {
            memory: Some(1 << 20),
            processes: Some(5),
            cpu_percent: Some(250),
            ..Limits::default()
        };
        let (group, can) = Group::make(dir.path(), &limits).unwrap();
        let read = |name: &str| fs::read_to_string(dir.path().join(name)).unwrap();
        assert_eq!(read("memory.max"), "1048576");
        assert_eq!(read("cpu.max"), "250000 100000");
        assert_eq!(
            (can.memory, can.cpu, can.pids),
            (true, true, false),
            "there is no pids.max"
        );
        let lacks = can.lacks(&limits, 1000);
        assert!(
            lacks[0].contains("limits.processes counts all"),
            "{lacks:?}"
        );
        assert!(!group.was_out_of_memory());
        fs::write(dir.path().join("memory.events"), "oom 1\noom_kill 1\n").unwrap();
        assert!(group.was_out_of_memory());
    }

    #[test]
    fn what_is_not_enforced_is_said() {
        let limits = Limits {
            memory: Some(1),
            processes: Some(1),
            cpu_percent: Some(1),
            ..Limits::default()
        };
        assert_eq!(Can::default().lacks(&limits, 0).len(), 3);
        assert_eq!(Can::default().lacks(&Limits::default(), 0).len(), 0);
        assert_eq!(
            Can::of("cpu memory pids hugetlb").lacks(&limits, 0).len(),
            0
        );
    }
}
