//! The executable: a shim or an installer of modules when it is started as one, else the command line.

use std::process::ExitCode;

use spoolbeat::cli;
use spoolbeat::modules;
use spoolbeat::process;

fn main() -> ExitCode {
    let mut args = std::env::args_os().skip(1);
    let first = args.next().unwrap_or_default();
    let code = if first == process::SHIM_ARGUMENT {
        process::shim_main()
    } else if first == modules::ARGUMENT {
        modules::main(args)
    } else {
        process::outlive_file_size_limit();
        return cli::main();
    };
    ExitCode::from(u8::try_from(code).unwrap_or(1))
}
