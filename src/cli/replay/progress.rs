//! How far a replay is: a bar on a terminal, a line now and then elsewhere.
//!
//! Measures by event numbers, so that nothing has to be counted beforehand.

use std::io;
use std::io::IsTerminal;
use std::io::Write;
use std::time::Duration;

use crate::clock;
use crate::clock::Tick;
use crate::units;

/// Between two lines where there is no terminal.
const LINE_EVERY: Duration = Duration::from_secs(10);

/// Width of the bar in characters.
const BAR: usize = 30;

/// See the module's header.
#[derive(Debug)]
pub(super) struct Progress {
    /// Numbers of the first and the last event that may be sent.
    span: (u64, u64),
    acked: u64,
    /// The last event that was acknowledged.
    at: u64,
    started: Tick,
    said: Tick,
    terminal: bool,
}

impl Progress {
    /// `between_lines`: events are printed to the terminal, too, where a bar would be in their way.
    pub(super) fn new(span: (u64, u64), between_lines: bool) -> Self {
        let now = clock::tick();
        Self {
            span,
            acked: 0,
            at: span.0.saturating_sub(1),
            started: now,
            said: now,
            terminal: io::stderr().is_terminal() && !between_lines,
        }
    }

    /// Events that were acknowledged.
    pub(super) const fn acked(&self) -> u64 {
        self.acked
    }

    /// One more is acknowledged.
    pub(super) const fn passed(&mut self, seq: u64) {
        self.acked += 1;
        self.at = seq;
    }

    /// Shows it, if it is time.
    pub(super) fn show(&mut self, now: Tick) {
        let mut err = io::stderr().lock();
        // Whoever closed standard error does not want to know.
        if self.terminal {
            drop(write!(err, "\r{}\x1b[K", self.line(now)));
            drop(err.flush());
        } else if now.since(self.said) >= LINE_EVERY {
            self.said = now;
            drop(writeln!(err, "{}", self.line(now)));
        }
    }

    /// Makes room for what is said next.
    pub(super) fn clear(&self) {
        if self.terminal {
            drop(write!(io::stderr().lock(), "\r\x1b[K"));
        }
    }

    fn line(&self, now: Tick) -> String {
        let (first, last) = self.span;
        let all = (last + 1).saturating_sub(first).max(1);
        let done = (self.at + 1).saturating_sub(first).min(all);
        let percent = done * 100 / all;
        let filled = usize::try_from(done * BAR as u64 / all).unwrap_or(BAR);
        let bar = format!("{}{}", "=".repeat(filled), " ".repeat(BAR - filled));
        let ran = now.since(self.started);
        let per_second = self.acked as f64 / ran.as_secs_f64().max(0.001);
        let left = ran.mul_f64((all - done) as f64 / done.max(1) as f64);
        let left = match done {
            0 => String::new(),
            _ => format!(", {} left", units::show_duration(left)),
        };
        format!(
            "[{bar}] {percent:>3} %  {} events sent, at number {} of {last}, {per_second:.0}/s{left}",
            self.acked, self.at
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_says_how_far_it_is_and_never_divides_by_nothing() {
        let mut progress = Progress {
            span: (11, 110),
            acked: 0,
            at: 10,
            started: Tick(0),
            said: Tick(0),
            terminal: false,
        };
        let line = progress.line(Tick(0));
        assert!(line.contains("]   0 %  0 events sent"), "{line}");
        for seq in 11..61 {
            progress.passed(seq);
        }
        let line = progress.line(Tick(10_000));
        assert!(
            line.contains("]  50 %  50 events sent, at number 60 of 110, 5/s, 10.0s left"),
            "{line}"
        );
        progress.span = (5, 4);
        assert!(progress.line(Tick(1)).contains(" 100 %"));
    }
}
