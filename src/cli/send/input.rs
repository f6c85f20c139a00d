//! What `spoolbeat send` reads: files or standard input, line by line, into events.
//!
//! Runs on a thread of its own, as reading blocks. Knows nothing of servers.

use std::fmt;
use std::io;
use std::io::Read;
use std::ops::ControlFlow;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;

use crate::cli::feed::Feeder;
use crate::cli::say::count;
use crate::cli::say::note;
use crate::clock;
use crate::event::envelope;
use crate::event::envelope::Lines as Envelope;
use crate::event::envelope::Marks;
use crate::files;
use crate::source::lines::Line;
use crate::source::lines::Lines;

/// Read at once: what a pipe holds.
const CHUNK_BYTES: usize = 64 << 10;

/// Bad lines that are named; a wrong file has millions of them, which are only counted.
const NAMED_MAX: u64 = 20;

/// What a line becomes.
pub(super) enum Format {
    /// The `message` of an event.
    Text(Envelope),
    /// An event, byte for byte.
    Json {
        /// Whether a line that is none ends it all.
        strict: bool,
    },
}

/// What was read, and what became of it.
#[derive(Debug, Default)]
pub(super) struct Summary {
    /// Events handed over.
    pub(super) events: u64,
    /// Lines that were cut because they were too long.
    pub(super) cut: u64,
    /// Bytes that were cut off.
    pub(super) cut_bytes: u64,
    /// Lines that are no events.
    pub(super) bad: u64,
    /// Why reading ended early, if it did.
    pub(super) stopped: Option<Stopped>,
}

/// Why reading ended before the end of the last input.
#[derive(Debug)]
pub(super) enum Stopped {
    /// An input cannot be opened.
    Open(String, io::Error),
    /// An input cannot be read on.
    Read(String, io::Error),
    /// A line is no event, and that is the end.
    Strict,
    /// Nobody sends any more.
    Gone,
}

/// Reads all inputs.
pub(super) struct Input {
    format: Format,
    max_event: usize,
    feeder: Feeder,
    /// How many bytes have been read, for whoever shows it.
    read: Arc<AtomicU64>,
    summary: Summary,
    /// The input that is being read, and the number of its line.
    name: String,
    line: u64,
}

impl Input {
    pub(super) fn new(
        format: Format,
        max_event: usize,
        feeder: Feeder,
        read: Arc<AtomicU64>,
    ) -> Self {
        Self {
            format,
            max_event,
            feeder,
            read,
            summary: Summary::default(),
            name: String::new(),
            line: 0,
        }
    }

    /// Reads `inputs` one after the other, `-` being standard input; without any, standard input.
    pub(super) fn run(mut self, inputs: &[PathBuf]) -> Summary {
        let stdin = [PathBuf::from("-")];
        let inputs = if inputs.is_empty() { &stdin } else { inputs };
        for input in inputs {
            if let ControlFlow::Break(stopped) = self.input(input) {
                self.summary.stopped = Some(stopped);
                break;
            }
        }
        self.summary
    }

    fn input(&mut self, path: &Path) -> ControlFlow<Stopped> {
        self.line = 0;
        if path == Path::new("-") {
            "standard input".clone_into(&mut self.name);
            return self.stream(&mut io::stdin().lock());
        }
        self.name = path.display().to_string();
        match files::open_named(path) {
            Ok(mut file) => self.stream(&mut file),
            Err(error) => ControlFlow::Break(Stopped::Open(self.name.clone(), error)),
        }
    }

    fn stream(&mut self, input: &mut dyn Read) -> ControlFlow<Stopped> {
        let mut lines = Lines::new(self.max_event);
        let mut chunk = vec![0; CHUNK_BYTES];
        let mut flow = ControlFlow::Continue(());
        loop {
            let read = match input.read(&mut chunk) {
                Ok(0) => break,
                Ok(read) => read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => {
                    return ControlFlow::Break(Stopped::Read(self.name.clone(), error));
                }
            };
            self.read.fetch_add(read as u64, Ordering::Relaxed);
            lines.push(&chunk[..read], |line| {
                flow = self.line(&line);
                match flow {
                    ControlFlow::Continue(()) => ControlFlow::Continue(()),
                    ControlFlow::Break(_) => ControlFlow::Break(()),
                }
            });
            if flow.is_break() {
                return flow;
            }
        }
        lines.finish(|line| flow = self.line(&line));
        flow
    }

    fn line(&mut self, line: &Line<'_>) -> ControlFlow<Stopped> {
        self.line += 1;
        let blank = line.text.trim_ascii().is_empty();
        let pushed = match &self.format {
            Format::Text(_) if line.text.is_empty() => return ControlFlow::Continue(()),
            Format::Json { .. } if blank && line.skipped == 0 => return ControlFlow::Continue(()),
            Format::Text(envelope) => {
                let number = self.summary.events + 1;
                let mut skipped = line.skipped;
                let pushed = self.feeder.push(|out| {
                    let marks = Marks {
                        skipped: line.skipped,
                        ..Marks::default()
                    };
                    skipped += envelope.text(out, clock::now(), number, line.text, marks);
                });
                self.summary.cut += u64::from(skipped > 0);
                self.summary.cut_bytes += skipped;
                pushed
            }
            Format::Json { strict } => {
                let why = match line.skipped {
                    0 => envelope::fit(line.text).err(),
                    _ => Some(format!("longer than --max-event {}", self.max_event)),
                };
                if let Some(why) = why {
                    let strict = *strict;
                    self.bad(&why);
                    return match strict {
                        true => ControlFlow::Break(Stopped::Strict),
                        false => ControlFlow::Continue(()),
                    };
                }
                self.feeder.push(|out| out.extend_from_slice(line.text))
            }
        };
        match pushed {
            Ok(()) => self.summary.events += 1,
            Err(_) => return ControlFlow::Break(Stopped::Gone),
        }
        ControlFlow::Continue(())
    }

    fn bad(&mut self, why: &str) {
        self.summary.bad += 1;
        let (name, line) = (&self.name, self.line);
        if self.summary.bad <= NAMED_MAX {
            note(&format!("{name}:{line}: left out: {why}"));
        }
        if self.summary.bad == NAMED_MAX {
            note("further lines that are left out are only counted");
        }
    }
}

impl fmt::Display for Summary {
    /// What was not sent as it was, each part with a comma before it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.cut > 0 {
            let (lines, bytes) = (count(self.cut, "line"), count(self.cut_bytes, "byte"));
            write!(f, ", {lines} cut ({bytes} left out)")?;
        }
        if self.bad > 0 {
            write!(f, ", {} left out: no events", count(self.bad, "line"))?;
        }
        Ok(())
    }
}
