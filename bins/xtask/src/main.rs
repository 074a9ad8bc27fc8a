//! Checks, labs and proofs of the workspace. `cargo xtask test` is what CI and contributors run.
//! This file parses the command line; [`steps`] lists the steps of a test run.
#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a program for terminals"
)]

mod apt;
mod checks;
mod dist;
mod engine;
mod files;
mod lab;
mod links;
mod live;
mod page;
mod postgres;
mod proc;
mod prove;
mod purity;
mod python;
mod session;
mod steps;
mod tally;
mod words;

use std::process::ExitCode;

use anyhow::Result;

/// The exit code for a command line that is invalid (EX_USAGE of sysexits.h).
const USAGE: u8 = 64;

const HELP: &str = "\
Usage: cargo xtask COMMAND

  test [--only STEP]... [--skip STEP]... [--list]
               run everything that CI runs, or some of its steps
  purity       check that the pure crates use no clock, randomness or IO
  postgres     start a temporary PostgreSQL, print its URL, remove it at Ctrl-C
  lab [--name NAME] up [--devices N] | scan [TARGET] | down | exec hub|node|site COMMAND...
               a site behind a real network boundary, in network namespaces (root, Linux);
               arguments after TARGET go to `fleetctl scan start`
  prove boundary [PROOF]...
               exhaustive and large random tests of the trust boundary (minutes, release build,
               both databases)
  prove faults [PROOF]...
               full disks, a second replica and dead networks, each with a ledger on the client's side
               (minutes, root, both databases)
  prove engine [--quick] [CASE]...
               our scan engine beside nmap, zmap and RustScan on a simulated site (half an hour,
               minutes with --quick; release build, root, Linux)
  dial-patiently NETWORK PORT...
               connect 32 at a time and wait 10 s each: the baseline of `prove engine`
  openapi      write docs/openapi.json, the description of the API in JSON, from the definitions
  dist         build the programs for deployment into target/dist, debug information beside them
  help         show this help

Missing Debian packages are installed where that is possible. FLEET_NO_INSTALL=1 prevents it.
";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let result = match arguments.as_slice() {
        ["test", options @ ..] => match steps::Plan::parse(options) {
            Ok(plan) => steps::run(&plan),
            Err(error) => return usage(&error),
        },
        ["purity"] => run_purity(),
        ["postgres"] => run_postgres(),
        ["lab", options @ ..] => match lab::LabCommand::parse(options) {
            Ok(order) => lab::run(&order),
            Err(error) => return usage(&error),
        },
        ["prove", "boundary", names @ ..] => prove::boundary(names),
        ["prove", "faults", names @ ..] => prove::faults(names),
        ["prove", "engine", names @ ..] => engine::prove(names),
        ["dial-patiently", network, ports @ ..] => engine::dial_patiently(network, ports),
        ["openapi"] => openapi(),
        ["dist"] => dist::run(),
        ["help" | "--help" | "-h"] => {
            print!("{HELP}");
            Ok(true)
        }
        [] => return usage(&anyhow::anyhow!("a command is missing")),
        other => return usage(&anyhow::anyhow!("unknown command `{}`", other.join(" "))),
    };
    match result {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn usage(error: &anyhow::Error) -> ExitCode {
    eprintln!("xtask: {error:#}\n\n{HELP}");
    ExitCode::from(USAGE)
}

fn run_purity() -> Result<bool> {
    let findings = purity::check(&session::root())?;
    findings
        .violations
        .iter()
        .for_each(|violation| println!("{violation}"));
    if let Some(reason) = &findings.without_wasm {
        println!("skipped the build for a target without an operating system: {reason}");
    }
    println!("purity: {} violations", findings.violations.len());
    Ok(findings.violations.is_empty())
}

/// The test that compares the file also writes it.
fn openapi() -> Result<bool> {
    let mut cargo = std::process::Command::new("cargo");
    cargo
        .current_dir(session::root())
        .env("FLEET_WRITE_OPENAPI", "1")
        .args(["test", "-p", "fleet-wire", "--test", "it", "--", "openapi"]);
    Ok(cargo.status()?.success())
}

fn run_postgres() -> Result<bool> {
    let cluster = postgres::Cluster::start()?;
    println!("{}={}", postgres::ENV, cluster.url());
    println!("Press Ctrl-C to remove it.");
    loop {
        std::thread::park();
    }
}
