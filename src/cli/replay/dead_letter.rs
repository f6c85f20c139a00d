//! `spoolbeat replay --dead-letter`: sends events again that a server had refused, to it or to another output.
//!
//! A file is renamed before it is read, so that the daemon begins another and never adds to one
//! that is about to go. What is acknowledged leaves it, what is refused again stays, also when a
//! person ends it in the middle. Must never know why an event was refused.

use std::cell::Cell;
use std::collections::BTreeSet;
use std::io;
use std::io::BufWriter;
use std::io::Write;
use std::path::Path;
use std::path::PathBuf;
use std::pin::pin;
use std::process::ExitCode;
use std::slice;

use crate::cli::EXIT_ERROR;
use crate::cli::EXIT_SYSTEM;
use crate::cli::EXIT_UNAVAILABLE;
use crate::cli::say;
use crate::cli::say::CANNOT_READ;
use crate::cli::say::count;
use crate::cli::signals::Signals;
use crate::clock;
use crate::config::Output;
use crate::deadletter;
use crate::deadletter::CLAIMED;
use crate::deadletter::Letter;
use crate::disk;
use crate::disk::Disk;
use crate::disk::Replace;
use crate::disk::UNFINISHED;
use crate::event::RunId;
use crate::event::envelope::Replay;
use crate::lumberjack::client::Advice;
use crate::lumberjack::client::Error;
use crate::lumberjack::client::Json;
use crate::units::Timestamp;
use crate::units::show_bytes;

use super::EXIT_INTERRUPTED;
use super::to;
use super::to::To;

/// Most bytes of one file, as its daemon writes them.
const FILE_BYTES_MAX: u64 = 64 << 20;

/// A server that has refused so many events, and taken none, refuses all of them.
const REFUSED_MAX: u64 = 3;

/// Events in flight, each a window of its own: so the one that is refused is known.
const IN_FLIGHT: u32 = 16;

/// After so many letters those that are taken leave the file: as many a `kill -9` makes be sent
/// twice. Each time costs as much writing as is left of a file, of which the daemon fills 16 MiB.
const LETTERS_BETWEEN: usize = 8192;

/// How it went.
#[derive(Debug, Default)]
struct Counts {
    sent: u64,
    /// Of those, how many lie here no longer.
    removed: u64,
    refused: u64,
    unreadable: u64,
}

/// Why it ended early.
enum Stop {
    Disk(PathBuf, io::Error),
    Output(Error),
    /// By a person.
    Interrupted,
}

/// What is done with them.
pub(super) enum What<'a> {
    /// They are counted.
    Count,
    /// They are printed.
    Print,
    /// They are sent again, to this output.
    Send(Replay, &'a Output),
}

/// Does so with the dead letters of output `name`.
pub(super) async fn run(disk: &dyn Disk, root: &Path, name: &str, what: What<'_>) -> ExitCode {
    let dir = deadletter::dir(root, name);
    let at_dir = |error: io::Error| say::fail(CANNOT_READ, &format!("{}: {error}", dir.display()));
    let files = match files(disk, &dir) {
        Ok(files) => files,
        Err(error) => return at_dir(error),
    };
    if files.is_empty() {
        return say::done(&format!("there are no dead letters of {name}"));
    }
    let (replay, to) = match what {
        What::Send(replay, to) => (replay, to),
        What::Count => {
            return match tell(disk, &files) {
                Ok(code) => code,
                Err(error) => at_dir(error),
            };
        }
        What::Print => {
            return match print(disk, &files) {
                Err(error) if error.kind() != io::ErrorKind::BrokenPipe => at_dir(error),
                _ => ExitCode::SUCCESS,
            };
        }
    };
    let _lock = match disk::lock_folder(&dir) {
        Ok(Some(lock)) => lock,
        Ok(None) => return say::fail(75, &format!("{}: is being replayed already", dir.display())),
        Err(error) => return at_dir(error),
    };
    if let Err(error) = tidy(disk, &dir) {
        return at_dir(error);
    }
    let signals = match Signals::new() {
        Ok(signals) => signals,
        Err(error) => return say::fail(EXIT_SYSTEM, &error.to_string()),
    };
    let mut replay = Resend {
        disk,
        to,
        replay,
        counts: Counts::default(),
        signals,
        is_ending: Cell::new(false),
    };
    let mut stopped = None;
    for file in files {
        if let Err(stop) = replay.file(&file).await {
            stopped = Some(stop);
            break;
        }
    }
    match stopped {
        Some(Stop::Interrupted) => match left(disk, &dir) {
            Ok(left) => interrupted(&replay.counts, left, name, to),
            Err(error) => at_dir(error),
        },
        stopped => conclude(&replay.counts, stopped, name, to),
    }
}

/// Removes what an earlier replay was just writing when it was killed.
fn tidy(disk: &dyn Disk, dir: &Path) -> io::Result<()> {
    let entries = disk.list(dir)?;
    let mut names = entries.iter().map(|entry| &entry.name);
    names.try_for_each(|name| match name.starts_with(UNFINISHED) {
        true => disk.remove(&dir.join(name)),
        false => Ok(()),
    })
}

/// How many letters lie in the folder.
fn left(disk: &dyn Disk, dir: &Path) -> io::Result<usize> {
    files(disk, dir)?.iter().try_fold(0, |left, file| {
        let letters = deadletter::read(disk, file)?;
        Ok(left + letters.iter().filter(|(_, letter)| letter.is_ok()).count())
    })
}

fn told(counts: &Counts, to: &Output) -> String {
    let mut told = format!("{} sent again to {}", count(counts.sent, "event"), to.name);
    match counts.sent - counts.removed {
        0 => told.push_str(" and removed"),
        kept => told.push_str(&format!(
            ", {kept} of which could not be removed and will be sent once more by the next replay"
        )),
    }
    if counts.refused > 0 {
        told.push_str(&format!(", {} refused again", counts.refused));
    }
    if counts.unreadable > 0 {
        told.push_str(&format!(
            ", {} cannot be read",
            count(counts.unreadable, "line")
        ));
    }
    told
}

fn interrupted(counts: &Counts, left: usize, name: &str, to: &Output) -> ExitCode {
    let why = format!(
        "interrupted: {}; {} left in dead-letter/{name}, and the same command goes on with what is left",
        told(counts, to),
        count(left as u64, "event")
    );
    say::fail(EXIT_INTERRUPTED, &why)
}

fn conclude(counts: &Counts, stopped: Option<Stop>, name: &str, to: &Output) -> ExitCode {
    let mut told = told(counts, to);
    if counts.refused + counts.unreadable > 0 || stopped.is_some() {
        told.push_str(&format!("; the rest stays in dead-letter/{name}"));
    }
    match stopped {
        Some(Stop::Disk(path, error)) => {
            say::fail(CANNOT_READ, &format!("{}: {error}; {told}", path.display()))
        }
        Some(Stop::Output(error)) => {
            say::fail(to::exit_code(&to.kind, &error), &format!("{error}; {told}"))
        }
        Some(Stop::Interrupted) => say::fail(EXIT_INTERRUPTED, &told),
        None if counts.refused > 0 => say::fail(EXIT_UNAVAILABLE, &told),
        None if counts.unreadable > 0 => say::fail(EXIT_ERROR, &told),
        None => say::done(&told),
    }
}

/// Those that an earlier replay left, then the others, oldest first.
fn files(disk: &dyn Disk, dir: &Path) -> io::Result<Vec<PathBuf>> {
    let entries = match disk.list(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
        entries => entries?,
    };
    let left = entries.iter().filter(|entry| entry.name.ends_with(CLAIMED));
    let mut files: Vec<PathBuf> = left.map(|entry| dir.join(&entry.name)).collect();
    files.extend(deadletter::files(disk, dir)?);
    Ok(files)
}

fn print(disk: &dyn Disk, files: &[PathBuf]) -> io::Result<()> {
    let mut out = BufWriter::new(io::stdout().lock());
    for file in files {
        for (line, letter) in deadletter::read(disk, file)? {
            match letter {
                Ok(letter) => {
                    out.write_all(&letter.event)?;
                    out.write_all(b"\n")?;
                }
                Err(why) => say::note(&format!("{}:{line}: {why}", file.display())),
            }
        }
    }
    out.flush()
}

/// Says what would be sent.
fn tell(disk: &dyn Disk, files: &[PathBuf]) -> io::Result<ExitCode> {
    let (mut events, mut bytes, mut unreadable) = (0, 0, 0);
    let mut times: Option<(Timestamp, Timestamp)> = None;
    for file in files {
        for (line, letter) in deadletter::read(disk, file)? {
            match letter {
                Ok(letter) => {
                    events += 1;
                    bytes += letter.event.len() as u64;
                    let at = letter.set_aside_at;
                    times = Some(times.map_or((at, at), |(from, to)| (from.min(at), to.max(at))));
                }
                Err(why) => {
                    unreadable += 1;
                    say::note(&format!("{}:{line}: {why}", file.display()));
                }
            }
        }
    }
    let mut text = format!(
        "events     {events}\nbytes      {bytes} ({})\n",
        show_bytes(bytes)
    );
    if let Some((from, to)) = times {
        text.push_str(&format!("set aside  from {from} to {to}\n"));
    }
    text.push_str("nothing was sent\n");
    Ok(say::report(&text, u8::from(unreadable > 0)))
}

/// What became of one event.
enum Verdict {
    Taken,
    /// The output can be reached, but it does not take this event.
    Refused(Error),
    /// The output cannot be reached, or a file cannot be written.
    Down(Error),
    /// A person had enough before it was known.
    Unknown,
}

/// Why letters were not sent.
enum Failed {
    /// The output was not reached.
    Unreached(Error),
    Sending(Error),
}

struct Resend<'a> {
    replay: Replay,
    disk: &'a dyn Disk,
    to: &'a Output,
    counts: Counts,
    signals: Signals,
    /// A person has had enough: nothing further is begun.
    is_ending: Cell<bool>,
}

impl Resend<'_> {
    async fn file(&mut self, file: &Path) -> Result<(), Stop> {
        let failed = |error| Stop::Disk(file.to_owned(), error);
        let claimed = self.claim(file).map_err(failed)?;
        let bytes = self.disk.read(&claimed, FILE_BYTES_MAX).map_err(failed)?;
        let mut letters: Vec<(usize, Letter)> = Vec::new();
        for (line, letter) in deadletter::read(self.disk, &claimed).map_err(failed)? {
            match letter {
                Ok(letter) => letters.push((line, letter)),
                Err(why) => {
                    self.counts.unreadable += 1;
                    say::note(&format!("{}:{line}: {why}", claimed.display()));
                }
            }
        }
        let mut taken = BTreeSet::new();
        let mut sent = Ok(());
        for (part, letters) in letters.chunks(LETTERS_BETWEEN).enumerate() {
            if part > 0 {
                let rest = without(&bytes, &taken);
                let kept = self.disk.replace(&claimed, &rest, Replace::Durable);
                kept.map_err(failed)?;
                self.counts.removed = self.counts.sent;
            }
            sent = self.letters(letters, &mut taken).await;
            if sent.is_err() {
                break;
            }
        }
        let rest = without(&bytes, &taken);
        self.put_back(file, &claimed, &rest).map_err(failed)?;
        self.counts.removed = self.counts.sent;
        sent
    }

    /// Gives the file a name that the daemon does not write to.
    fn claim(&self, file: &Path) -> io::Result<PathBuf> {
        if file
            .extension()
            .is_some_and(|ending| ending == &CLAIMED[1..])
        {
            return Ok(file.to_owned());
        }
        let stem = file.file_stem().unwrap_or_default().display().to_string();
        let now = RunId::new(clock::now(), std::process::id());
        let claimed = file.with_file_name(format!("{stem}-{now}{CLAIMED}"));
        self.disk.rename(file, &claimed)?;
        Ok(claimed)
    }

    /// Leaves `rest` of the file, under its former name if that is still free.
    fn put_back(&self, file: &Path, claimed: &Path, rest: &[u8]) -> io::Result<()> {
        let dir = claimed.parent().unwrap_or(Path::new("."));
        if rest.is_empty() {
            self.disk.remove(claimed)?;
            return self.disk.sync_dir(dir);
        }
        self.disk.replace(claimed, rest, Replace::Durable)?;
        if file != claimed && !deadletter::files(self.disk, dir)?.contains(&file.to_owned()) {
            self.disk.rename(claimed, file)?;
        }
        self.disk.sync_dir(dir)
    }

    /// Sends the letters; the lines of those that are acknowledged go to `taken`.
    async fn letters(
        &mut self,
        letters: &[(usize, Letter)],
        taken: &mut BTreeSet<usize>,
    ) -> Result<(), Stop> {
        let mut rest = letters;
        loop {
            let sent = self.send(&mut rest, taken).await;
            let Some((first, behind)) = rest.split_first() else {
                return sent
                    .map_err(|(Failed::Unreached(why) | Failed::Sending(why))| Stop::Output(why));
            };
            let verdict = match sent {
                Err(Failed::Unreached(error) | Failed::Sending(error)) if !self.is_ending.get() => {
                    match error.advice {
                        Advice::Retry => self.alone(first, taken).await,
                        Advice::Reject => Verdict::Refused(error),
                        Advice::Misconfigured => Verdict::Down(error),
                    }
                }
                _ => Verdict::Unknown,
            };
            match verdict {
                Verdict::Taken => {}
                Verdict::Refused(why)
                    if self.counts.sent > 0 || self.counts.refused < REFUSED_MAX =>
                {
                    let seq = first.1.seq;
                    say::note(&format!("event {seq} is refused again: {why}"));
                    self.counts.refused += 1;
                }
                Verdict::Refused(why) | Verdict::Down(why) => return Err(Stop::Output(why)),
                Verdict::Unknown => return Err(Stop::Interrupted),
            }
            rest = behind;
        }
    }

    /// Sends one event on a connection of its own, so that no other can be meant.
    async fn alone(&mut self, letter: &(usize, Letter), taken: &mut BTreeSet<usize>) -> Verdict {
        let mut rest = slice::from_ref(letter);
        match self.send(&mut rest, taken).await {
            Ok(()) if rest.is_empty() => Verdict::Taken,
            Ok(()) => Verdict::Unknown,
            Err(Failed::Unreached(error)) => Verdict::Down(error),
            Err(Failed::Sending(error)) => Verdict::Refused(error),
        }
    }

    /// Sends all of `rest`, unless a person has had enough; `rest` then begins with the first that
    /// is not acknowledged.
    async fn send(
        &mut self,
        rest: &mut &[(usize, Letter)],
        taken: &mut BTreeSet<usize>,
    ) -> Result<(), Failed> {
        let (signals, is_ending) = (&mut self.signals, &self.is_ending);
        if is_ending.get() {
            return Ok(());
        }
        let mut to = tokio::select! {
            open = To::open(&self.to.kind, |client| client.window(1).pipelining(IN_FLIGHT)) => {
                open.map_err(Failed::Unreached)?
            }
            () = signals.next() => {
                is_ending.set(true);
                return Ok(());
            }
        };
        let wanted = rest.iter().take_while(|_| !is_ending.get());
        let events = wanted.map(|(_, letter)| Json(marked(&self.replay, letter)));
        let sent = finish(signals, is_ending, to.send_all(events)).await;
        to.settle().await;
        let acked = usize::try_from(to.acked()).unwrap_or(usize::MAX);
        let (gone, left) = rest.split_at(acked.min(rest.len()));
        taken.extend(gone.iter().map(|(line, _)| line));
        self.counts.sent += gone.len() as u64;
        *rest = left;
        sent.unwrap_or(Ok(())).map_err(Failed::Sending)
    }
}

/// Waits for `work`; when a person has had enough, only a little further, and not at all when they
/// say so again. `None`: it was not finished.
async fn finish<T>(
    signals: &mut Signals,
    is_ending: &Cell<bool>,
    work: impl Future<Output = T>,
) -> Option<T> {
    let mut work = pin!(work);
    tokio::select! {
        done = &mut work => return Some(done),
        () = signals.next() => is_ending.set(true),
    }
    tokio::select! {
        done = clock::within(to::SETTLE_PATIENCE, work) => done,
        () = signals.next() => None,
    }
}

fn marked(replay: &Replay, letter: &Letter) -> Vec<u8> {
    let mut out = Vec::new();
    replay.mark(&mut out, &letter.event);
    out
}

/// The lines of a file but those, counted from 1, that are taken.
fn without(bytes: &[u8], taken: &BTreeSet<usize>) -> Vec<u8> {
    let lines = bytes.split(|byte| *byte == b'\n').zip(1..);
    lines
        .filter(|(line, number)| !line.is_empty() && !taken.contains(number))
        .flat_map(|(line, _)| [line, b"\n"].concat())
        .collect()
}
