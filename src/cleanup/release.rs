//! Whether a file may be cleaned up now: pure decisions.
//!
//! A file goes only when every required output of its events has passed all of them, by an ACK or
//! because they were not for it, and when every job that reads it has got so far. Must never touch a
//! file or ask for the time.

use std::collections::BTreeMap;
use std::path::Path;

use crate::queue::Fact;
use crate::queue::FilePast;
use crate::queue::Ledger;
use crate::queue::cursor::Cursor;

/// Folders of the system: nothing below them is ever cleaned up, whatever `roots` says.
const SYSTEM: [&str; 9] = [
    "/bin", "/boot", "/dev", "/etc", "/lib", "/proc", "/sbin", "/sys", "/usr",
];

/// Whether this is the root of all, or a folder of the system or below one.
#[must_use]
pub fn is_system(folder: &Path) -> bool {
    folder == Path::new("/")
        || SYSTEM.iter().any(|system| folder.starts_with(system))
        // `/lib64`, `/lib32` and their like.
        || folder
            .components()
            .nth(1)
            .is_some_and(|first| first.as_os_str().as_encoded_bytes().starts_with(b"lib"))
}

/// What may be done now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing yet.
    Wait,
    /// The release may be carried out.
    Go,
    /// It must never be, for this reason.
    Keep(String),
}

/// How far every output is, durably, or was when it left the configuration.
pub type Cursors = BTreeMap<String, Cursor>;

/// Judges the release of `file`. `readers` are the jobs at work whose globs name it.
#[must_use]
pub fn judge(ledger: &Ledger, cursors: &Cursors, file: &str, readers: &[String]) -> Verdict {
    let Some((past, release)) = ledger
        .files
        .get(file)
        .and_then(|past| Some((past, past.release.as_ref()?)))
    else {
        return Verdict::Wait;
    };
    let own = passed(ledger, cursors, past);
    if own != Verdict::Go {
        return own;
    }
    for reader in readers.iter().filter(|reader| **reader != past.of.job) {
        let theirs = ledger
            .files
            .values()
            .find(|other| other.of.job == *reader && other.of.id == past.of.id);
        let verdict = match theirs {
            Some(other) if other.to >= release.stamp.bytes => passed(ledger, cursors, other),
            _ => Verdict::Wait,
        };
        if verdict != Verdict::Go {
            return verdict;
        }
    }
    Verdict::Go
}

/// Whether all outputs that a file waits for have passed the events of a file, and how.
fn passed(ledger: &Ledger, cursors: &Cursors, past: &FilePast) -> Verdict {
    for output in &past.of.waits_for {
        let spoilt = ledger.spoilt.get(output).is_some_and(|spoilt| {
            let mut ranges = spoilt.ranges.iter();
            ranges.any(|(from, to)| *from < past.end_seq && past.first_seq < *to)
        });
        if spoilt {
            return Verdict::Keep(format!(
                "output {output} passed events of that time without an ACK"
            ));
        }
        // One that lost its cursor begins where what is kept does; what it had of that before nobody knows.
        let first = ledger.outputs.get(output).copied().unwrap_or(0);
        if cursors
            .get(output)
            .is_some_and(|cursor| cursor.born > first.max(past.first_seq))
        {
            return Verdict::Keep(format!(
                "output {output} has lost its cursor, and nobody knows whether all of it arrived"
            ));
        }
        // Without a cursor nobody knows what it has acknowledged: its files stay.
        if cursors
            .get(output)
            .is_none_or(|cursor| cursor.seq < past.end_seq)
        {
            return Verdict::Wait;
        }
    }
    Verdict::Go
}

/// Sees which outputs passed events without an ACK since the last look.
#[derive(Debug, Default)]
pub struct Watch {
    /// Up to where nothing new was found.
    clean: BTreeMap<String, u64>,
}

impl Watch {
    /// The facts to record before anything is judged by these cursors.
    #[must_use]
    pub fn look(&mut self, ledger: &Ledger, cursors: &Cursors) -> Vec<Fact> {
        let mut facts = Vec::new();
        for (output, cursor) in cursors {
            let unacked = cursor.unacked;
            let total = unacked.total;
            let known = ledger.spoilt.get(output).map_or(0, |spoilt| spoilt.total);
            let from = self.clean.insert(output.clone(), cursor.seq).unwrap_or(0);
            if total != known {
                let (from, to) = match total.checked_sub(known) {
                    // All that are new follow on each other.
                    Some(new) if new <= unacked.to - unacked.from => (unacked.to - new, unacked.to),
                    Some(_) => (from, unacked.to),
                    // A cursor that was lost began anew.
                    None => (from, cursor.seq),
                };
                facts.push(Fact::Spoilt {
                    output: output.clone(),
                    from,
                    to,
                    total,
                });
            }
        }
        facts
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use crate::event::Route;
    use crate::fileid::FileId;
    use crate::fileid::Head;
    use crate::fileid::Stamp;
    use crate::queue::Action;
    use crate::queue::Counters;
    use crate::queue::FileFacts;
    use crate::queue::Part;
    use crate::queue::Release;
    use crate::queue::cursor::Passed;
    use crate::queue::cursor::Unacked;
    use crate::units::Timestamp;

    fn read(job: &str, file: &str, to: u64, outputs: &[&str]) -> Fact {
        Fact::Read {
            file: file.to_owned(),
            of: FileFacts {
                job: job.to_owned(),
                path: "/s/a".to_owned(),
                id: FileId {
                    device: 1,
                    inode: 2,
                    born: 3,
                },
                head: Head::default(),
                outputs: Vec::new(),
                waits_for: outputs.iter().map(|name| (*name).to_owned()).collect(),
                at: 0,
            },
            from: 0,
            to,
            before: 0,
            events: 10,
            partial: 0,
        }
    }

    fn release(file: &str, bytes: u64) -> Fact {
        Fact::Release {
            file: file.to_owned(),
            release: Release {
                action: Action::Delete,
                path: "/s/a".to_owned(),
                root: "/s".to_owned(),
                stamp: Stamp {
                    bytes,
                    ..Stamp::default()
                },
                tail: Head::default(),
                prune: None,
                uid: 0,
                gid: 0,
            },
        }
    }

    fn fold(ledger: &mut Ledger, events: u32, facts: &[Fact]) {
        let part = Part {
            job: "j".into(),
            stream: crate::event::Stream::File,
            count: events,
            first: Timestamp(0),
            last: Timestamp(0),
        };
        let (number, seq) = (ledger.next_number, ledger.next_seq);
        let facts: Vec<Fact> = facts
            .iter()
            .cloned()
            .map(|mut fact| {
                if let Fact::Read { events: own, .. } = &mut fact {
                    *own = (*own).min(events);
                }
                fact
            })
            .collect();
        ledger.fold(
            number,
            seq,
            &Route::default(),
            &[part],
            &facts,
            &Counters::default(),
        );
    }

    fn cursors(list: &[(&str, u64, u64)]) -> Cursors {
        list.iter()
            .map(|(output, seq, damaged)| {
                let cursor = Cursor {
                    seq: *seq,
                    passed: Passed {
                        acked: *seq - *damaged,
                        damaged: *damaged,
                        ..Passed::default()
                    },
                    unacked: Unacked::run(*seq - *damaged, *seq),
                    ..Cursor::default()
                };
                ((*output).to_owned(), cursor)
            })
            .collect()
    }

    #[test]
    fn a_file_goes_only_when_every_output_has_passed_every_event_of_it() {
        let mut ledger = Ledger::empty();
        fold(
            &mut ledger,
            10,
            &[read("j", "f", 99, &["a", "b"]), release("f", 99)],
        );
        let judged = |list: &[(&str, u64, u64)]| judge(&ledger, &cursors(list), "f", &[]);
        assert_eq!(judged(&[("a", 11, 0), ("b", 10, 0)]), Verdict::Wait);
        assert_eq!(judged(&[("a", 11, 0)]), Verdict::Wait);
        assert_eq!(judged(&[("a", 11, 0), ("b", 11, 0)]), Verdict::Go);
    }

    #[test]
    fn an_output_that_lost_its_cursor_lets_no_file_go_of_which_it_may_not_have_all() {
        let mut ledger = Ledger::empty();
        fold(
            &mut ledger,
            10,
            &[read("j", "f", 9, &["a"]), release("f", 9)],
        );
        fold(
            &mut ledger,
            10,
            &[read("j", "g", 9, &["a"]), release("g", 9)],
        );
        let judged = |ledger: &Ledger, born: u64, file: &str| {
            let cursor = Cursor {
                seq: 21,
                born,
                ..Cursor::default()
            };
            judge(
                ledger,
                &Cursors::from([("a".to_owned(), cursor)]),
                file,
                &[],
            )
        };
        assert_eq!(judged(&ledger, 1, "f"), Verdict::Go);
        assert!(matches!(judged(&ledger, 21, "f"), Verdict::Keep(_)));
        assert!(matches!(judged(&ledger, 2, "f"), Verdict::Keep(_)));
        assert_eq!(judged(&ledger, 11, "g"), Verdict::Go);
        // One that came while the file was being read was never to have what lay before.
        ledger.outputs.insert("a".to_owned(), 6);
        assert_eq!(judged(&ledger, 6, "f"), Verdict::Go);
    }

    #[test]
    fn an_event_that_an_output_passed_without_an_ack_keeps_its_file() {
        let mut ledger = Ledger::empty();
        let mut watch = Watch::default();
        fold(
            &mut ledger,
            10,
            &[read("j", "before", 9, &["a"]), release("before", 9)],
        );
        assert!(watch.look(&ledger, &cursors(&[("a", 11, 0)])).is_empty());
        fold(
            &mut ledger,
            10,
            &[read("j", "f", 9, &["a"]), release("f", 9)],
        );
        let now = cursors(&[("a", 21, 1)]);
        let facts = watch.look(&ledger, &now);
        fold(&mut ledger, 0, &facts);
        assert!(matches!(judge(&ledger, &now, "f", &[]), Verdict::Keep(_)));
        assert_eq!(judge(&ledger, &now, "before", &[]), Verdict::Go);
        assert!(watch.look(&ledger, &now).is_empty());
        // What happened while no daemon looked, and not all at one place, may be any of them.
        let mut now = cursors(&[("a", 11, 1)]);
        let later = Cursor {
            seq: 21,
            ..now["a"]
        };
        now.insert("a".to_owned(), later);
        if let Some(cursor) = now.get_mut("a") {
            cursor.unacked.add(&Unacked::run(20, 21));
        }
        let mut ledger = Ledger::empty();
        fold(
            &mut ledger,
            10,
            &[read("j", "before", 9, &["a"]), release("before", 9)],
        );
        let facts = Watch::default().look(&ledger, &now);
        fold(&mut ledger, 0, &facts);
        assert!(matches!(
            judge(&ledger, &now, "before", &[]),
            Verdict::Keep(_)
        ));
    }

    #[test]
    fn only_files_with_events_that_were_passed_without_an_ack_are_kept() {
        let mut ledger = Ledger::empty();
        // Four files in one record, of which a person skips the first 15 events.
        let mut facts = Vec::new();
        for (place, file) in ["f0", "f1", "f2", "f3"].into_iter().enumerate() {
            let mut of_it = read("j", file, 9, &["a"]);
            if let Fact::Read { before, .. } = &mut of_it {
                *before = 10 * u32::try_from(place).unwrap();
            }
            facts.extend([of_it, release(file, 9)]);
        }
        fold(&mut ledger, 40, &facts);
        let cursor = Cursor {
            seq: 41,
            unacked: Unacked::run(1, 16),
            ..Cursor::default()
        };
        let now = Cursors::from([("a".to_owned(), cursor)]);
        let facts = Watch::default().look(&ledger, &now);
        fold(&mut ledger, 0, &facts);
        for (file, keeps) in [("f0", true), ("f1", true), ("f2", false), ("f3", false)] {
            let judged = judge(&ledger, &now, file, &[]);
            assert_eq!(
                matches!(judged, Verdict::Keep(_)),
                keeps,
                "{file}: {judged:?}"
            );
            assert!(keeps || judged == Verdict::Go);
        }
        assert!(
            Watch::default().look(&ledger, &now).is_empty(),
            "after a start nothing is new"
        );
    }

    #[test]
    fn a_file_that_is_kept_is_counted_once_however_often_it_is_asked_for() {
        let mut ledger = Ledger::empty();
        fold(&mut ledger, 10, &[read("j", "f", 9, &["a"])]);
        let kept = |why: &str| Fact::Released {
            file: "f".to_owned(),
            end: crate::queue::ReleaseEnd::Kept(why.to_owned()),
        };
        for (why, refused) in [("x", 1), ("x", 1), ("y", 2)] {
            fold(&mut ledger, 0, &[release("f", 9), kept(why)]);
            assert_eq!(ledger.jobs["j"].files.refused, refused);
            assert!(ledger.files["f"].release.is_none());
        }
    }

    #[test]
    fn a_file_that_two_jobs_read_goes_only_after_both() {
        let mut ledger = Ledger::empty();
        fold(
            &mut ledger,
            10,
            &[read("j", "f", 99, &["a"]), release("f", 99)],
        );
        let now = cursors(&[("a", 21, 0)]);
        let readers = ["j".to_owned(), "other".to_owned()];
        assert_eq!(judge(&ledger, &now, "f", &readers), Verdict::Wait);
        fold(&mut ledger, 5, &[read("other", "g", 50, &["a"])]);
        assert_eq!(judge(&ledger, &now, "f", &readers), Verdict::Wait);
        fold(&mut ledger, 5, &[read("other", "g", 99, &["a"])]);
        assert_eq!(judge(&ledger, &now, "f", &readers), Verdict::Go);
        assert_eq!(
            judge(&ledger, &cursors(&[("a", 20, 0)]), "f", &readers),
            Verdict::Wait
        );
    }

    #[test]
    fn a_file_that_was_read_on_is_not_released_any_more() {
        let mut ledger = Ledger::empty();
        fold(
            &mut ledger,
            1,
            &[read("j", "f", 9, &["a"]), release("f", 9)],
        );
        fold(&mut ledger, 1, &[read("j", "f", 19, &["a"])]);
        assert_eq!(
            judge(&ledger, &cursors(&[("a", 9, 0)]), "f", &[]),
            Verdict::Wait
        );
        assert!(ledger.files.get("f").unwrap().release.is_none());
    }

    #[test]
    fn the_position_in_a_file_that_was_renamed_before_its_clean_up_is_kept() {
        let mut ledger = Ledger::empty();
        fold(
            &mut ledger,
            1,
            &[read("j", "f", 9, &["a"]), release("f", 9)],
        );
        let gone = Fact::Released {
            file: "f".to_owned(),
            end: crate::queue::ReleaseEnd::Gone,
        };
        fold(&mut ledger, 0, &[gone]);
        let past = ledger.files.get("f").unwrap();
        assert_eq!((past.to, past.release.as_ref()), (9, None));
    }

    #[test]
    fn nothing_of_the_system_is_cleaned_up() {
        for folder in [
            "/",
            "/etc",
            "/usr/share",
            "/lib64",
            "/proc/1",
            "/sys",
            "/dev/shm",
        ] {
            assert!(is_system(Path::new(folder)), "{folder}");
        }
        for folder in ["/var/lib/x", "/srv", "/home/etc", "/etcetera"] {
            assert!(!is_system(Path::new(folder)), "{folder}");
        }
    }
}
