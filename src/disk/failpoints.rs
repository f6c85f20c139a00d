//! Where a test build of the program dies: before, after or in the middle of a step on the disk.
//!
//! Only the feature `failpoints` fills these functions, and no package has it: without it they
//! do the step and nothing else. Must never know what the bytes mean.
//!
//! `SPOOLBEAT_DIE_AT=<file>-<verb>:<n>` sends SIGKILL to the process before the n-th such step,
//! with `:after` behind it, with `:torn=<k>` when the first k bytes of it are written. Files are
//! `segment`, `cursor`, `checkpoint`, `reserve`, `queue` (the folder) and `other`; verbs are
//! `create`, `write`, `sync`, `truncate`, `reserve`, `rename` and `remove`. `SPOOLBEAT_STEPS_TO=<path>`
//! adds the name of each step that is come to to this file, so that a test can know that it knows all.

use std::io;
use std::path::Path;

/// What kind of file a step is taken on.
#[derive(Debug, Clone, Copy)]
pub(super) struct Kind(#[cfg(feature = "failpoints")] &'static str);

impl Kind {
    /// The kind of the file or folder that this path names.
    pub(super) fn of(path: &Path) -> Self {
        #[cfg(feature = "failpoints")]
        return Self(armed::kind(path));
        #[cfg(not(feature = "failpoints"))]
        {
            let _: &Path = path;
            Self()
        }
    }

    /// Takes a step.
    pub(super) fn step<T>(self, verb: &str, act: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
        #[cfg(not(feature = "failpoints"))]
        let _: &str = verb;
        #[cfg(feature = "failpoints")]
        let due = armed::due(self.0, verb);
        #[cfg(feature = "failpoints")]
        armed::die_if(due == Some(armed::When::Before));
        let done = act();
        #[cfg(feature = "failpoints")]
        armed::die_if(due.is_some());
        done
    }

    /// Writes, perhaps a part.
    pub(super) fn write(
        self,
        bytes: &[u8],
        act: impl FnOnce(&[u8]) -> io::Result<()>,
    ) -> io::Result<()> {
        self.write_pieces(&[bytes], |pieces| act(pieces.first().unwrap_or(&&[][..])))
    }

    /// [`Kind::write`] of pieces that go out at once.
    pub(super) fn write_pieces(
        self,
        pieces: &[&[u8]],
        act: impl FnOnce(&[&[u8]]) -> io::Result<()>,
    ) -> io::Result<()> {
        #[cfg(feature = "failpoints")]
        let due = armed::due(self.0, "write");
        #[cfg(feature = "failpoints")]
        let mut left = match due {
            Some(armed::When::Before) => 0,
            Some(armed::When::Torn(part)) => part,
            Some(armed::When::After) | None => usize::MAX,
        };
        #[cfg(feature = "failpoints")]
        let pieces: Vec<&[u8]> = pieces
            .iter()
            .map(|piece| {
                let part = piece.len().min(left);
                left -= part;
                &piece[..part]
            })
            .filter(|part| !part.is_empty())
            .collect();
        #[cfg(feature = "failpoints")]
        let pieces = &*pieces;
        let done = act(pieces);
        #[cfg(feature = "failpoints")]
        armed::die_if(due.is_some());
        done
    }
}

#[cfg(feature = "failpoints")]
mod armed {
    use std::collections::BTreeSet;
    use std::fs::File;
    use std::io::Write;
    use std::path::Path;
    use std::sync::Mutex;
    use std::sync::OnceLock;
    use std::sync::atomic::AtomicU64;
    use std::sync::atomic::Ordering;

    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub(super) enum When {
        Before,
        Torn(usize),
        After,
    }

    struct Plan {
        name: String,
        nth: u64,
        when: When,
        seen: AtomicU64,
    }

    impl Plan {
        fn read(text: &str) -> Option<Self> {
            let mut words = text.split(':');
            let name = words.next()?.to_owned();
            let nth = words.next()?.parse().ok()?;
            let when = match words.next() {
                None => When::Before,
                Some("after") => When::After,
                Some(torn) => When::Torn(torn.strip_prefix("torn=")?.parse().ok()?),
            };
            Some(Self {
                name,
                nth,
                when,
                seen: AtomicU64::new(0),
            })
        }
    }

    pub(super) fn kind(path: &Path) -> &'static str {
        let name = path.file_name().and_then(|name| name.to_str());
        match name.unwrap_or_default() {
            "reserve" => "reserve",
            "queue" => "queue",
            name if name.ends_with(".seg") => "segment",
            name if name.starts_with("cursor-") => "cursor",
            name if name.starts_with("checkpoint-") => "checkpoint",
            _ => "other",
        }
    }

    /// Writes down that a step was come to, once for each name.
    fn note(kind: &str, verb: &str) {
        static STEPS: OnceLock<Option<(File, Mutex<BTreeSet<String>>)>> = OnceLock::new();
        let steps = STEPS.get_or_init(|| {
            let path = std::env::var_os("SPOOLBEAT_STEPS_TO")?;
            let file = File::options().append(true).create(true).open(path);
            Some((
                file.expect("SPOOLBEAT_STEPS_TO can be written"),
                Mutex::default(),
            ))
        });
        if let Some((file, known)) = steps {
            let name = format!("{kind}-{verb}\n");
            let mut known = known.lock().expect("nobody panics with it");
            if known.insert(name.clone()) {
                let mut file = file;
                file.write_all(name.as_bytes())
                    .expect("SPOOLBEAT_STEPS_TO can be written");
            }
        }
    }

    /// When in this step to die, if it is the one.
    pub(super) fn due(kind: &str, verb: &str) -> Option<When> {
        note(kind, verb);
        static PLAN: OnceLock<Option<Plan>> = OnceLock::new();
        let plan = PLAN.get_or_init(|| {
            let text = std::env::var("SPOOLBEAT_DIE_AT").ok()?;
            let plan = Plan::read(&text);
            assert!(
                plan.is_some(),
                "SPOOLBEAT_DIE_AT=`{text}`: write segment-sync:3, segment-sync:3:after or segment-write:3:torn=100"
            );
            plan
        });
        let plan = plan.as_ref()?;
        let (first, second) = plan.name.split_once('-')?;
        let is_it = first == kind
            && second == verb
            && plan.seen.fetch_add(1, Ordering::Relaxed) + 1 == plan.nth;
        is_it.then_some(plan.when)
    }

    pub(super) fn die_if(now: bool) {
        if now {
            let me = rustix::process::getpid();
            let sent = rustix::process::kill_process(me, rustix::process::Signal::KILL);
            unreachable!("SIGKILL to ourselves: {sent:?}");
        }
    }
}
