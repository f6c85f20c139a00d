//! Sources of `[[files]]` without their files: lines that are written, read, and cleaned up.
//!
//! Reading is a stand-in that tells the queue what `source::files` would; which file may go, and
//! when, is decided by the real clean-up.

use std::collections::BTreeMap;
use std::collections::BTreeSet;

use super::daemon::From;
use super::daemon::Intake;
use super::outside::Outside;
use crate::cleanup::release::Cursors;
use crate::cleanup::release::Verdict;
use crate::cleanup::release::Watch;
use crate::cleanup::release::judge;
use crate::event::Frames;
use crate::event::Route;
use crate::event::Stream;
use crate::fileid::FileId;
use crate::fileid::Head;
use crate::fileid::Stamp;
use crate::queue::Action;
use crate::queue::Counters;
use crate::queue::Fact;
use crate::queue::FileFacts;
use crate::queue::Ledger;
use crate::queue::Part;
use crate::queue::Portion;
use crate::queue::Release;
use crate::queue::ReleaseEnd;

/// Bytes of each line.
const LINE_BYTES: u64 = 10;

/// The job that reads files.
pub(super) const READER: &str = "files";

/// A file that somebody writes.
#[derive(Debug)]
pub(super) struct Source {
    pub(super) lines: u64,
    /// Nobody writes to it any more.
    pub(super) closed: bool,
    pub(super) removed: bool,
}

/// What a daemon knows of the files.
#[derive(Debug, Default)]
pub(super) struct Files {
    /// By generation, the inode and how far it is read.
    read: BTreeMap<String, (u64, u64)>,
    released: BTreeSet<String>,
    /// Clean-ups that are being recorded.
    cleaning: BTreeSet<String>,
    watch: Watch,
    /// Facts of spoilt ranges on their way into the log: nothing is judged before.
    looking: bool,
    /// A portion that is not captured yet.
    pub(super) in_flight: bool,
}

impl Files {
    /// What the log says of them.
    pub(super) fn known(ledger: &Ledger) -> Self {
        let files = ledger.files.iter();
        Self {
            read: files
                .clone()
                .map(|(file, past)| (file.clone(), (past.of.id.inode, past.to / LINE_BYTES)))
                .collect(),
            released: files
                .filter(|(_, past)| past.release.is_some() || past.kept.is_some())
                .map(|(file, _)| file.clone())
                .collect(),
            ..Self::default()
        }
    }

    /// Reads on in one of the files; gives what the queue is to capture.
    pub(super) fn read(&mut self, out: &mut Outside, route: &Route) -> Option<Portion> {
        let known: BTreeSet<u64> = self.read.values().map(|(inode, _)| *inode).collect();
        for (inode, source) in &out.sources {
            if !source.removed && !known.contains(inode) {
                self.read.insert(format!("{inode:016x}"), (*inode, 0));
            }
        }
        let wanted: Vec<String> = self
            .read
            .iter()
            .filter(|(file, (inode, to))| {
                out.sources.get(inode).is_some_and(|source| {
                    !source.removed
                        && (source.lines > *to || source.closed && !self.released.contains(*file))
                })
            })
            .map(|(file, _)| file.clone())
            .collect();
        if wanted.is_empty() {
            return None;
        }
        let file = wanted[out.chance.index(wanted.len())].clone();
        let (inode, from) = self.read[&file];
        let source = &out.sources[&inode];
        let left = source.lines - from;
        let lines = if left == 0 {
            0
        } else {
            1 + out.chance.below(left)
        };
        let to = from + lines;
        let portion = portion(&file, inode, (from, to), route, out);
        let source = &out.sources[&inode];
        let mut portion = portion;
        if source.closed && to == source.lines {
            portion.facts.push(release(&file, inode, to));
            self.released.insert(file.clone());
        }
        self.read.insert(file, (inode, to));
        self.in_flight = true;
        Some(portion)
    }

    /// One round of the cleaner.
    pub(super) fn clean(
        &mut self,
        out: &mut Outside,
        ledger: &Ledger,
        cursors: &Cursors,
        intake: &mut Intake,
    ) {
        if self.looking {
            return;
        }
        let facts = self.watch.look(ledger, cursors);
        if !facts.is_empty() {
            self.looking = true;
            intake.push(told(facts), From::Spoilt);
            return;
        }
        for (file, past) in &ledger.files {
            if past.release.is_none() || self.cleaning.contains(file) {
                continue;
            }
            let end = match judge(ledger, cursors, file, &[]) {
                Verdict::Wait => continue,
                Verdict::Keep(reason) => ReleaseEnd::Kept(reason),
                Verdict::Go => remove(out, file, past.of.id.inode, &past.of.outputs, past.to),
            };
            self.cleaning.insert(file.clone());
            let released = Fact::Released {
                file: file.clone(),
                end,
            };
            intake.push(told(vec![released]), From::Cleaner(file.clone()));
        }
    }

    /// Something that the cleaner told the log is in it.
    pub(super) fn told(&mut self, from: &From) {
        match from {
            From::Spoilt => self.looking = false,
            From::Cleaner(file) => {
                self.cleaning.remove(file);
            }
            From::Files => self.in_flight = false,
            _ => {}
        }
    }
}

/// Removes a file, as it may be: then nothing of it may be missing anywhere.
fn remove(
    out: &mut Outside,
    file: &str,
    inode: u64,
    outputs: &[String],
    read_to: u64,
) -> ReleaseEnd {
    let Some(source) = out.sources.get_mut(&inode).filter(|one| !one.removed) else {
        return ReleaseEnd::Gone;
    };
    assert_eq!(
        read_to,
        source.lines * LINE_BYTES,
        "P10: {file} would go with lines that nobody read"
    );
    for line in 0..source.lines {
        let id = id(file, line);
        for output in outputs {
            assert!(
                out.oracle.is_done(output, &id),
                "P10: {file} would go, and {id} never came to {output}"
            );
        }
    }
    source.removed = true;
    ReleaseEnd::Done
}

fn told(facts: Vec<Fact>) -> Portion {
    Portion {
        facts,
        ..Portion::default()
    }
}

/// Offsets of lines begin at 0, places in a stream at 1.
fn id(file: &str, line: u64) -> String {
    format!("{file}.{}", line * LINE_BYTES + 1)
}

fn portion(
    file: &str,
    inode: u64,
    (from, to): (u64, u64),
    route: &Route,
    out: &Outside,
) -> Portion {
    let mut frames = Frames::default();
    for line in from..to {
        let id = id(file, line);
        let event = format!(r#"{{"event":{{"id":"{id}"}},"message":"{line:0200}"}}"#);
        frames.push(|out| out.extend_from_slice(event.as_bytes()));
    }
    let at = out.now.wall;
    let count = frames.count();
    let read = Fact::Read {
        file: file.to_owned(),
        of: FileFacts {
            job: READER.to_owned(),
            path: format!("/src/{inode}"),
            id: FileId {
                device: 1,
                inode,
                born: inode as i64,
            },
            head: Head::default(),
            outputs: route.outputs().to_vec(),
            waits_for: route.outputs().to_vec(),
            at: at.0,
        },
        from: from * LINE_BYTES,
        to: to * LINE_BYTES,
        before: 0,
        events: count,
        partial: 0,
    };
    let part = Part {
        job: READER.into(),
        stream: Stream::File,
        count,
        first: at,
        last: at,
    };
    Portion {
        route: if count > 0 {
            route.clone()
        } else {
            Route::default()
        },
        parts: (count > 0).then_some(part).into_iter().collect(),
        frames,
        facts: vec![read],
        counters: Counters {
            framed: u64::from(count),
            bytes_read: (to - from) * LINE_BYTES,
            bytes_framed: (to - from) * LINE_BYTES,
            ..Counters::default()
        },
    }
}

fn release(file: &str, inode: u64, lines: u64) -> Fact {
    Fact::Release {
        file: file.to_owned(),
        release: Release {
            action: Action::Delete,
            path: format!("/src/{inode}"),
            root: "/src".to_owned(),
            stamp: Stamp {
                bytes: lines * LINE_BYTES,
                ..Stamp::default()
            },
            tail: Head::default(),
            prune: None,
            uid: 0,
            gid: 0,
        },
    }
}
