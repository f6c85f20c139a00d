//! The executable: a shim when it is started as one, else the command line.

use std::process::ExitCode;

use spoolbeat::cli;
use spoolbeat::process;

fn main() -> ExitCode {
    let first = std::env::args_os().nth(1);
    if first.is_some_and(|first| first == process::SHIM_ARGUMENT) {
        return ExitCode::from(u8::try_from(process::shim_main()).unwrap_or(1));
    }
    cli::main()
}
