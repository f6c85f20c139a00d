//! What commands say to people on standard error, and with which exit code.
//!
//! Codes are sysexits': 69 an output is not reachable, 74 the disk fails, 75 the root is locked,
//! 78 the configuration is wrong; 1 anything else.

use std::io;
use std::io::Write;
use std::process::ExitCode;

/// Says what went wrong.
pub(crate) fn fail(code: u8, what: &str) -> ExitCode {
    line(&format!("spoolbeat: {what}"));
    ExitCode::from(code)
}

/// Says how it went.
pub(crate) fn say(what: &str) -> ExitCode {
    line(what);
    ExitCode::SUCCESS
}

fn line(text: &str) {
    // Whoever closed standard error does not want to know.
    drop(writeln!(io::stderr().lock(), "{text}"));
}
