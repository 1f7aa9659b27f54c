//! Parse, run, print the error, exit code.

use std::io::Write;
use std::process::ExitCode;

fn main() -> ExitCode {
    let cli = match shoal::cli::parse(std::env::args_os()) {
        Ok(cli) => cli,
        Err(usage) => {
            // A closed terminal is no reason to panic.
            let _ = match usage.code {
                0 => std::io::stdout().write_all(usage.text.as_bytes()),
                _ => std::io::stderr().write_all(usage.text.as_bytes()),
            };
            return ExitCode::from(usage.code);
        }
    };
    match shoal::cli::run(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "shoal: {}", shoal::cli::one_line(&error));
            ExitCode::FAILURE
        }
    }
}
