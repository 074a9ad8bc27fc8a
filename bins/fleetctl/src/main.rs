//! `fleetctl`: parses the command line, calls the server, prints the result and exits with a documented status.

mod again;
mod alerts;
mod ask;
mod audit;
mod choice;
mod cli;
mod details;
mod devices;
mod difference;
mod direct;
mod failure;
mod keys;
mod nodes;
mod operators;
mod output;
mod overview;
mod pair;
mod scans;
mod schedules;
mod search;
mod server;
mod sites;
mod times;
mod watch;

use std::{
    io::{self, Write},
    process::ExitCode,
};

use clap::{CommandFactory, Parser};
use cli::{Cli, Command};
use failure::Failure;
use fleet_wire::VisibleWriter;
use server::Server;

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            let _ = error.print();
            return if error.use_stderr() {
                64.into()
            } else {
                ExitCode::SUCCESS
            };
        }
    };
    if let Command::Completions { shell } = cli.command {
        let mut script = Vec::new();
        clap_complete::generate(shell, &mut Cli::command(), "fleetctl", &mut script);
        // A reader that closes the pipe early, such as `head`, is not an error.
        let _ = io::stdout().write_all(&script);
        return ExitCode::SUCCESS;
    }
    let done = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(Failure::Runtime)
        .and_then(|runtime| runtime.block_on(run(cli)));
    match done {
        Ok(status) => status.into(),
        // A reader that closes the pipe early, such as `head`, is not an error.
        Err(Failure::Output(error)) if error.kind() == io::ErrorKind::BrokenPipe => {
            ExitCode::SUCCESS
        }
        Err(failure) => {
            // The message can quote a server or a file.
            let mut out = VisibleWriter::new(io::stderr());
            let _ = writeln!(out, "fleetctl: {failure}{}", failure.advice());
            failure.status().into()
        }
    }
}

async fn run(cli: Cli) -> Result<u8, Failure> {
    let server = Server::new(&cli)?;
    let format = cli.format();
    match cli.command {
        Command::Overview(arguments) => overview::run(&server, format, arguments).await,
        Command::Nodes(command) => nodes::run(&server, format, command).await,
        Command::Sites(command) => sites::run(&server, format, command).await,
        Command::Scan(command) => scans::run(&server, format, command).await,
        Command::Schedule(command) => schedules::run(&server, format, command).await,
        Command::Alerts(command) => alerts::run(&server, format, command).await,
        Command::Devices(command) => devices::run(&server, format, command).await,
        Command::Direct(command) => direct::run(&server, format, command).await,
        Command::Audit(command) => audit::run(&server, format, command).await,
        Command::Keys(command) => keys::run(&server, format, command).await,
        Command::Operators(command) => operators::run(&server, format, command).await,
        Command::Sessions(command) => operators::sessions(&server, format, command).await,
        Command::Password => operators::password(&server).await,
        Command::Whoami => devices::whoami(&server, format).await,
        Command::Completions { .. } => Ok(0),
    }
}
