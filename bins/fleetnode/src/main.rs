//! `fleetnode`: parses the command line and runs a command. The node itself is the library fleet-agent.

mod cli;
mod enroll;
mod exit;
mod halt;
mod identify;
mod logging;
mod options;
mod plugins;
mod policy;
mod run;
mod scan;
mod status;

use std::{
    io::{self, Write},
    process::ExitCode,
};

use clap::{CommandFactory, Parser};
use cli::{Cli, Command, Policy};

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            let _ = error.print();
            return if error.use_stderr() {
                exit::USAGE.into()
            } else {
                ExitCode::SUCCESS
            };
        }
    };
    if let Command::PluginGuard { program } = &cli.command {
        return fleet_plugin::guard(program);
    }
    let result = logging::start(&cli.log).and_then(|()| start(cli));
    result.unwrap_or_else(|error| {
        let mut out = fleet_wire::VisibleWriter::new(io::stderr());
        let _ = writeln!(out, "fleetnode: {error:#}");
        exit::code(&error).into()
    })
}

fn start(cli: Cli) -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    let result = runtime.block_on(run_command(cli));
    // Tasks that still run need not finish: every result has reached the server.
    runtime.shutdown_background();
    result
}

async fn run_command(cli: Cli) -> anyhow::Result<ExitCode> {
    let state_dir = cli.state_dir()?;
    match cli.command {
        Command::Enroll(args) => enroll::enroll(&state_dir, args).await?,
        Command::Import { path, name } => enroll::import(&state_dir, &path, name)?,
        Command::Configure(args) => enroll::configure(&state_dir, args).await?,
        Command::Unenroll { yes } => enroll::unenroll(&state_dir, yes)?,
        Command::Refresh => enroll::refresh(&state_dir).await?,
        Command::Status { output } => status::show(&state_dir, output)?,
        Command::Run(args) => return run::run(&state_dir, args).await,
        Command::Scan(args) => return scan::run(&state_dir, args).await,
        Command::Identify(args) => return identify::run(&state_dir, args).await,
        Command::Policy(Policy::Check { endpoints, site }) => {
            return policy::check(&endpoints, site);
        }
        Command::Halt { reason } => halt::halt(&state_dir, &reason)?,
        Command::Resume => halt::resume(&state_dir)?,
        // Handled in `main`, before the runtime starts.
        Command::PluginGuard { .. } => {}
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "fleetnode", &mut script);
            // A reader that closed the pipe, such as `head`, is not an error.
            let _ = io::stdout().write_all(&script);
        }
    }
    Ok(ExitCode::SUCCESS)
}
