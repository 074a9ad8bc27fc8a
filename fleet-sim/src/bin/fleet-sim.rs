//! The simulator as a program, for a lab namespace or a developer's loopback: flags to a [`Site`], then wait for a
//! signal. Everything else is in the library.
#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a program for people and scripts"
)]

use std::{error::Error, path::PathBuf, process::ExitCode};

use clap::Parser;
use fleet_sim::{Lab, Ports, Site};
use ipnetwork::Ipv4Network;
use tokio::signal::unix::{SignalKind, signal};

/// Simulates a LAN of devices on this machine's addresses until SIGTERM or SIGINT.
#[derive(Debug, Parser)]
#[command(version)]
struct Cli {
    /// Network that the devices are scattered over; its addresses must be this machine's (127.0.0.0/8 is on Linux)
    #[arg(
        long,
        value_name = "CIDR",
        default_value = "127.77.0.0/22",
        conflicts_with = "site"
    )]
    subnet: Ipv4Network,
    /// How many hosts, including a few that no scan can identify
    #[arg(long, value_name = "N", default_value_t = 250, conflicts_with = "site")]
    devices: usize,
    /// Upstream Antminers only, which answer at once and properly: for measuring scanners
    #[arg(long, conflicts_with = "site")]
    uniform: bool,
    /// The same seed gives the same site
    #[arg(long, value_name = "S", default_value_t = 1, conflicts_with = "site")]
    seed: u64,
    /// Port of the CGMiner API
    #[arg(long, value_name = "PORT", default_value_t = Ports::REAL.cgminer, conflicts_with = "site")]
    cgminer_port: u16,
    /// Port of the web servers; the default needs root
    #[arg(long, value_name = "PORT", default_value_t = Ports::REAL.http, conflicts_with = "site")]
    http_port: u16,
    /// A site description in JSON (as --print-site writes it) instead
    #[arg(long, value_name = "FILE")]
    site: Option<PathBuf>,
    /// Write a line of JSON for every connection that opens and closes
    #[arg(long, value_name = "FILE")]
    journal: Option<PathBuf>,
    /// Print the site description and end
    #[arg(long)]
    print_site: bool,
    /// Print what a scan should find, a line of JSON a device, and end
    #[arg(long, conflicts_with = "print_site")]
    print_truth: bool,
}

#[tokio::main]
async fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            let _ = error.print();
            return if error.use_stderr() {
                ExitCode::from(64)
            } else {
                ExitCode::SUCCESS
            };
        }
    };
    match run(cli).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("fleet-sim: {error}");
            let mut source = error.source();
            while let Some(cause) = source {
                eprintln!("  because {cause}");
                source = cause.source();
            }
            ExitCode::FAILURE
        }
    }
}

async fn run(cli: Cli) -> Result<(), Box<dyn Error>> {
    let site = match &cli.site {
        Some(path) => Site::from_json(
            &std::fs::read_to_string(path).map_err(|e| format!("{}: {e}", path.display()))?,
        )?,
        None => {
            let site = if cli.uniform {
                Site::uniform(cli.subnet, cli.devices, cli.seed)?
            } else {
                Site::in_network(cli.subnet, cli.devices, cli.seed)?
            };
            site.on_ports(Ports {
                cgminer: cli.cgminer_port,
                http: cli.http_port,
            })
        }
    };
    let ports = site.ports();
    if cli.print_site {
        println!("{}", site.to_json()?);
        return Ok(());
    }
    if cli.print_truth {
        for device in &site.devices {
            let line =
                serde_json::json!({ "address": device.address, "truth": device.truth(&ports) });
            println!("{line}");
        }
        return Ok(());
    }
    let mut terminate = signal(SignalKind::terminate())?;
    let devices = site.devices.len();
    let running = Lab::start(site).await?;
    if let Some(path) = &cli.journal {
        running.journal().write_to(path)?;
    }
    let ports: Vec<String> = ports.iter().map(u16::to_string).collect();
    println!("ready: {devices} devices on ports {}", ports.join(","));
    tokio::select! {
        _ = terminate.recv() => {}
        interrupted = tokio::signal::ctrl_c() => interrupted?,
    }
    running.shutdown().await;
    Ok(())
}
