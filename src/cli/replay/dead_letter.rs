//! `spoolbeat replay --dead-letter`: sends events again that a server had refused, to it or to another output.
//!
//! A file is renamed before it is read, so that the daemon begins another and never adds to one
//! that is about to go. What is acknowledged leaves it, what is refused again stays. Must never
//! know why an event was refused.

use std::io;
use std::io::BufWriter;
use std::io::Write;
use std::path::Path;
use std::path::PathBuf;
use std::process::ExitCode;

use crate::cli::EXIT_ERROR;
use crate::cli::EXIT_UNAVAILABLE;
use crate::cli::say;
use crate::cli::say::CANNOT_READ;
use crate::cli::say::count;
use crate::clock;
use crate::config::Output;
use crate::deadletter;
use crate::deadletter::Letter;
use crate::disk;
use crate::disk::Disk;
use crate::disk::Replace;
use crate::event::RunId;
use crate::event::envelope::Replay;
use crate::lumberjack::client::Advice;
use crate::lumberjack::client::Error;
use crate::lumberjack::client::Json;
use crate::units::Timestamp;
use crate::units::show_bytes;

use super::to;
use super::to::To;

/// Ends the name of a file that is being replayed.
const CLAIMED: &str = ".replay";

/// Most bytes of one file, as its daemon writes them.
const FILE_BYTES_MAX: u64 = 64 << 20;

/// A server that has refused so many events, and taken none, refuses all of them.
const REFUSED_MAX: u64 = 3;

/// Events in flight, each a window of its own: so the one that is refused is known.
const IN_FLIGHT: u32 = 16;

/// How it went.
#[derive(Debug, Default)]
struct Counts {
    sent: u64,
    refused: u64,
    unreadable: u64,
}

/// Why it ended early.
enum Stop {
    Disk(PathBuf, io::Error),
    Output(Error),
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
    let mut replay = Resend {
        disk,
        to,
        replay,
        counts: Counts::default(),
    };
    let mut stopped = None;
    for file in files {
        if let Err(stop) = replay.file(&file).await {
            stopped = Some(stop);
            break;
        }
    }
    conclude(&replay.counts, stopped, name, to)
}

fn conclude(counts: &Counts, stopped: Option<Stop>, name: &str, to: &Output) -> ExitCode {
    let mut told = format!(
        "{} sent again to {} and removed",
        count(counts.sent, "event"),
        to.name
    );
    if counts.refused > 0 {
        told.push_str(&format!(", {} refused again", counts.refused));
    }
    if counts.unreadable > 0 {
        told.push_str(&format!(
            ", {} cannot be read",
            count(counts.unreadable, "line")
        ));
    }
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
}

struct Resend<'a> {
    replay: Replay,
    disk: &'a dyn Disk,
    to: &'a Output,
    counts: Counts,
}

impl Resend<'_> {
    async fn file(&mut self, file: &Path) -> Result<(), Stop> {
        let failed = |error| Stop::Disk(file.to_owned(), error);
        let claimed = self.claim(file).map_err(failed)?;
        let bytes = self.disk.read(&claimed, FILE_BYTES_MAX).map_err(failed)?;
        let lines: Vec<&[u8]> = bytes.split(|byte| *byte == b'\n').collect();
        let mut kept: Vec<usize> = Vec::new();
        let mut letters: Vec<(usize, Letter)> = Vec::new();
        for (line, letter) in deadletter::read(self.disk, &claimed).map_err(failed)? {
            match letter {
                Ok(letter) => letters.push((line, letter)),
                Err(why) => {
                    self.counts.unreadable += 1;
                    say::note(&format!("{}:{line}: {why}", claimed.display()));
                    kept.push(line);
                }
            }
        }
        let sent = self.letters(&letters, &mut kept).await;
        kept.sort_unstable();
        let rest: Vec<u8> = kept
            .iter()
            .flat_map(|line| [lines[line - 1], b"\n"].concat())
            .collect();
        self.put_back(file, &claimed, &rest).map_err(failed)?;
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

    /// Sends the letters; the lines of those that are not acknowledged go to `kept`.
    async fn letters(
        &mut self,
        letters: &[(usize, Letter)],
        kept: &mut Vec<usize>,
    ) -> Result<(), Stop> {
        let mut rest = letters;
        while let Err(error) = self.many(&mut rest).await {
            let Some(((line, letter), behind)) = rest.split_first() else {
                return Err(Stop::Output(error));
            };
            let verdict = match error.advice {
                Advice::Retry => self.alone(letter).await,
                Advice::Reject => Verdict::Refused(error),
                Advice::Misconfigured => Verdict::Down(error),
            };
            match verdict {
                Verdict::Taken => self.counts.sent += 1,
                Verdict::Refused(why)
                    if self.counts.sent > 0 || self.counts.refused < REFUSED_MAX =>
                {
                    say::note(&format!("event {} is refused again: {why}", letter.seq));
                    self.counts.refused += 1;
                    kept.push(*line);
                }
                Verdict::Refused(why) | Verdict::Down(why) => {
                    kept.extend(rest.iter().map(|(line, _)| line));
                    return Err(Stop::Output(why));
                }
            }
            rest = behind;
        }
        Ok(())
    }

    /// Sends one event on a connection of its own, so that no other can be meant.
    async fn alone(&self, letter: &Letter) -> Verdict {
        match self.connect().await {
            Err(error) => Verdict::Down(error),
            Ok(mut to) => match to.send_all([Json(self.marked(letter))]).await {
                Ok(()) => Verdict::Taken,
                Err(error) => Verdict::Refused(error),
            },
        }
    }

    /// Sends all of `rest`; when that fails, `rest` begins with the first that is not acknowledged.
    async fn many(&mut self, rest: &mut &[(usize, Letter)]) -> Result<(), Error> {
        if rest.is_empty() {
            return Ok(());
        }
        let mut to = self.connect().await?;
        let events = rest.iter().map(|(_, letter)| Json(self.marked(letter)));
        let sent = to.send_all(events).await;
        let acked = to.acked();
        self.counts.sent += acked;
        *rest = &rest[usize::try_from(acked).unwrap_or(rest.len())..];
        sent
    }

    fn marked(&self, letter: &Letter) -> Vec<u8> {
        let mut out = Vec::new();
        self.replay.mark(&mut out, &letter.event);
        out
    }

    async fn connect(&self) -> Result<To, Error> {
        To::open(&self.to.kind, |client| {
            client.window(1).pipelining(IN_FLIGHT)
        })
        .await
    }
}
