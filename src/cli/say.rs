//! How commands speak: reports to standard output, what went wrong to standard error.
//!
//! Must never decide what is said.

use std::io;
use std::io::Write;
use std::process::ExitCode;

use crate::config::Problem;

/// Invalid configuration: `EX_CONFIG` of sysexits(3), so that systemd's `RestartPreventExitStatus=78`
/// ends a loop of restarts.
pub(super) const BAD_CONFIG: u8 = 78;

/// Output cannot be written: `EX_IOERR` of sysexits(3).
pub(super) const CANNOT_WRITE: u8 = 74;

/// An input fails while it is read: `EX_IOERR` of sysexits(3).
pub(super) const CANNOT_READ: u8 = 74;

/// Writes a report and returns `code`.
pub(super) fn report(text: &str, code: u8) -> ExitCode {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Ok(()) => ExitCode::from(code),
        // Whoever closed the pipe has read enough, but may not take it for success.
        Err(_) => ExitCode::from(CANNOT_WRITE.max(code)),
    }
}

/// Says why nothing was done and returns `code`.
pub(crate) fn fail(code: u8, message: &str) -> ExitCode {
    let text = format!("spoolbeat: {message}\n");
    match io::stderr().lock().write_all(text.as_bytes()) {
        Ok(()) => ExitCode::from(code),
        Err(_) => ExitCode::from(CANNOT_WRITE.max(code)),
    }
}

/// Says something on the way.
pub(super) fn note(message: &str) {
    // Whoever closed standard error does not want to know.
    drop(writeln!(io::stderr().lock(), "spoolbeat: {message}"));
}

/// Says how it went, beside what went to standard output.
pub(super) fn done(message: &str) -> ExitCode {
    // Whoever closed standard error does not want to know.
    drop(writeln!(io::stderr().lock(), "{message}"));
    ExitCode::SUCCESS
}

/// Says what is wrong with the configuration.
pub(super) fn fail_config(problems: &[Problem]) -> ExitCode {
    let lines: Vec<String> = problems
        .iter()
        .map(|problem| shown(&problem.to_string(), usize::MAX))
        .collect();
    fail(BAD_CONFIG, &lines.join("\nspoolbeat: "))
}

/// `1 event`, `2 events`.
pub(super) fn count(number: u64, what: &str) -> String {
    let s = if number == 1 { "" } else { "s" };
    format!("{number} {what}{s}")
}

/// The text with everything in it that a terminal would obey made visible: control characters
/// (C0, DEL, C1), line separators, and marks that turn the direction of writing.
pub(super) fn shown(text: &str, chars_max: usize) -> String {
    let mut safe = String::with_capacity(text.len().min(chars_max));
    for c in text.chars().take(chars_max) {
        if c.is_control() || is_direction_or_break(c) {
            safe.extend(c.escape_default());
        } else {
            safe.push(c);
        }
    }
    safe
}

const fn is_direction_or_break(c: char) -> bool {
    matches!(
        c,
        '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}'
    )
}
