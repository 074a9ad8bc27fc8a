//! `fleet-plugin-guard PROGRAM`: runs a plugin that must not outlive the process that started it. For programs that
//! embed the host and cannot be their own guard. Not for manual use.

use std::process::ExitCode;

fn main() -> ExitCode {
    let program = std::env::args_os().nth(1).unwrap_or_default();
    fleet_plugin::guard(program.as_ref())
}
