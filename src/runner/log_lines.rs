//! Lines of scripts in the daemon's own log, for a person who watches: standard output at level
//! info, standard error at level error.
//!
//! Events carry everything; here a line is shortened and a flood is thinned out, since the log
//! is shared by all jobs. Must never hold anything back from the events.

use crate::clock;
use crate::clock::Tick;
use crate::event::Stream;

/// Longest part of a line that is logged.
const LOGGED_BYTES_MAX: usize = 1 << 10;

/// Lines of one run that are logged within [`WINDOW`]; of the others only their number is.
const LOGGED_LINES_MAX: u64 = 100;

/// What is counted together.
const WINDOW: std::time::Duration = std::time::Duration::from_secs(1);

/// Logs the lines of one run.
#[derive(Debug)]
pub(super) struct LogLines {
    job: String,
    window_from: Tick,
    in_window: u64,
}

impl LogLines {
    pub(super) fn new(job: &str) -> Self {
        Self {
            job: job.to_owned(),
            window_from: clock::tick(),
            in_window: 0,
        }
    }

    /// Logs a line, unless too many came just now.
    pub(super) fn line(&mut self, stream: Stream, text: &[u8]) {
        if !tracing::enabled!(tracing::Level::ERROR) {
            return;
        }
        let now = clock::tick();
        if now.since(self.window_from) >= WINDOW {
            self.say_left_out();
            self.window_from = now;
            self.in_window = 0;
        }
        self.in_window += 1;
        if self.in_window <= LOGGED_LINES_MAX {
            let (job, name) = (self.job.as_str(), stream.name());
            match stream {
                Stream::Stderr => tracing::error!(job, stream = name, "{}", shown(text)),
                _ => tracing::info!(job, stream = name, "{}", shown(text)),
            }
        }
    }

    fn say_left_out(&self) {
        let left_out = self.in_window.saturating_sub(LOGGED_LINES_MAX);
        if left_out > 0 {
            let job = self.job.as_str();
            tracing::info!(job, left_out, "lines came too fast for the log");
        }
    }
}

impl Drop for LogLines {
    fn drop(&mut self) {
        self.say_left_out();
    }
}

/// A line as it may stand in a log: short, and without characters that steer a terminal.
fn shown(text: &[u8]) -> String {
    let kept = &text[..text.len().min(LOGGED_BYTES_MAX)];
    let mut out = String::with_capacity(kept.len());
    for c in String::from_utf8_lossy(kept).chars() {
        if c.is_control() && c != '\t' {
            out.extend(c.escape_default());
        } else {
            out.push(c);
        }
    }
    if kept.len() < text.len() {
        out.push_str("...");
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_logged_line_is_short_and_steers_no_terminal() {
        assert_eq!(shown(b"a\tb \x1b[31mred"), "a\tb \\u{1b}[31mred");
        assert_eq!(shown(&[b'x'; 5000]).len(), LOGGED_BYTES_MAX + 3);
    }
}
