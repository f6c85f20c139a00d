//! The executable: a shim when it is started as one, else the command line.

use std::process::ExitCode;

use spoolbeat::process;

fn main() -> ExitCode {
    let mut args = std::env::args_os().skip(1);
    if args
        .next()
        .is_some_and(|first| first == process::SHIM_ARGUMENT)
    {
        return ExitCode::from(u8::try_from(process::shim_main(args)).unwrap_or(1));
    }
    ExitCode::from(2)
}
