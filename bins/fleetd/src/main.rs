//! `fleetd`: parses the command line and runs the command.

mod admin;
mod authorities;
mod cli;
mod config;
#[cfg(feature = "demo")]
mod demo;
mod dev_cert;
mod direct;
mod lock;
mod logging;
mod oidc;
mod serve;
mod smtp;

use std::{io::Write, process::ExitCode};

use clap::{CommandFactory, Parser};
use cli::{Cli, Command};

/// Exit status for invalid flags or configuration (EX_USAGE of sysexits.h).
const USAGE: u8 = 64;
/// Exit status for an unavailable database or port (EX_UNAVAILABLE of sysexits.h).
const UNAVAILABLE: u8 = 69;

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            let _ = error.print();
            return if error.use_stderr() {
                USAGE.into()
            } else {
                ExitCode::SUCCESS
            };
        }
    };
    let runtime = match tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(error) => {
            return failed(&anyhow::Error::new(error).context("cannot start the runtime"));
        }
    };
    let done = runtime.block_on(run(cli.command));
    // Tasks that still run are not awaited: all state that matters is in the database.
    runtime.shutdown_background();
    done.map_or_else(|error| failed(&error), |()| ExitCode::SUCCESS)
}

async fn run(command: Command) -> anyhow::Result<()> {
    match command {
        Command::Serve(args) => serve::run(*args).await,
        #[cfg(feature = "demo")]
        Command::Demo(args) => demo::run(args).await,
        Command::Migrate(args) => serve::migrate(args).await,
        Command::Admin(args) => admin::run(args.command).await,
        Command::DevCert(args) => dev_cert::run(&args),
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "fleetd", &mut script);
            // A reader that closes the pipe early, such as `head`, is not an error.
            let _ = std::io::stdout().write_all(&script);
            Ok(())
        }
    }
}

fn failed(error: &anyhow::Error) -> ExitCode {
    let mut out = fleet_wire::VisibleWriter::new(std::io::stderr());
    let _ = writeln!(out, "fleetd: {error:#}");
    if error.is::<config::ConfigError>() {
        return USAGE.into();
    }
    match error.downcast_ref::<fleet_store::StoreError>() {
        Some(fleet_store::StoreError::Url { .. }) => USAGE.into(),
        Some(_) => UNAVAILABLE.into(),
        None if error.is::<serve::BindError>() || error.is::<lock::LockError>() => {
            UNAVAILABLE.into()
        }
        None => ExitCode::FAILURE,
    }
}
