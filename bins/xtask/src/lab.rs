//! A site behind a real network boundary, on one machine: three network namespaces, the site's addresses
//! routed and mostly dark. [`network`] creates and removes them, [`services`] runs server and node in them, and
//! [`run`] executes the command.
//!
//! ```text
//!   fleet-hub  10.78.0.1 --- 10.78.0.2  fleet-node  10.77.255.1 --- 10.77.255.2  fleet-site  10.77.0.0/22
//!   (server, operators)                 (fleetnode)                              (devices)
//! ```

mod bed;
mod network;
mod services;

use std::{
    fs::File,
    net::Ipv4Addr,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
pub(crate) use bed::{IdleNode, Site, TestBed};
use network::{HUB_ADDRESS, Network};
pub(crate) use network::{Layout, Zone};
use services::Services;

use crate::{proc, session};

/// Name of the lab if none is given.
const NAME: &str = "fleet";

/// Longest name of a lab, in bytes.
const LONGEST_NAME: usize = 32;

/// Default number of hosts of the site. The rest of [`SUBNET`] is dark.
const DEVICES: usize = 300;

/// The network of the site.
const SUBNET: &str = "10.77.0.0/22";

/// Time limit for a program of the lab to become ready.
const START: Duration = Duration::from_secs(30);

/// A request for one lab. Labs with different names can exist at the same time.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct LabCommand {
    /// Prefix of the namespaces' names.
    name: String,
    request: Request,
}

impl LabCommand {
    /// Parses the arguments after `lab`.
    pub(crate) fn parse(options: &[&str]) -> Result<Self> {
        let (name, rest) = match options {
            ["--name", name, rest @ ..] => (*name, rest),
            rest => (NAME, rest),
        };
        let is_plain =
            |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        if name.is_empty() || name.len() > LONGEST_NAME || !name.bytes().all(is_plain) {
            bail!(
                "--name `{name}` is invalid: use up to {LONGEST_NAME} characters of a-z, 0-9 and -"
            );
        }
        Ok(Self {
            name: name.to_owned(),
            request: Request::parse(rest)?,
        })
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Request {
    /// Create it, and replace an existing one.
    Up { devices: usize },
    /// Remove it, if it exists.
    Down,
    /// Run a scan from its hub and watch it. The arguments are for `fleetctl scan start`.
    Scan { arguments: Vec<String> },
    /// Run a command inside one of its zones.
    Exec { zone: Zone, arguments: Vec<String> },
}

impl Request {
    fn parse(options: &[&str]) -> Result<Self> {
        match options {
            ["up"] => Ok(Self::Up { devices: DEVICES }),
            ["up", "--devices", number] => {
                let devices = number
                    .parse()
                    .with_context(|| format!("--devices `{number}` is not a number"))?;
                Ok(Self::Up { devices })
            }
            ["down"] => Ok(Self::Down),
            ["scan", arguments @ ..] => {
                let has_target = arguments.first().is_some_and(|word| !word.starts_with('-'));
                let target = (!has_target).then_some(&SUBNET);
                let arguments = target.into_iter().chain(arguments);
                Ok(Self::Scan {
                    arguments: arguments.map(|word| (*word).to_owned()).collect(),
                })
            }
            ["exec", zone, arguments @ ..] if !arguments.is_empty() => {
                let zone = Zone::ALL.into_iter().find(|known| known.name() == *zone);
                let zone = zone.context("lab exec: the zones are hub, node and site")?;
                Ok(Self::Exec {
                    zone,
                    arguments: arguments.iter().map(|word| (*word).to_owned()).collect(),
                })
            }
            other => bail!(
                "lab `{}` is invalid; use up [--devices N], scan [TARGET], down, or exec ZONE COMMAND...",
                other.join(" ")
            ),
        }
    }
}

/// Executes the request and returns whether it succeeded.
pub(crate) fn run(command: &LabCommand) -> Result<bool> {
    permitted()?;
    let network = Network::new(&command.name)?;
    let files = files(&command.name);
    match &command.request {
        Request::Up { devices } => {
            network.down()?;
            let made = up(&network, &files, *devices);
            if made.is_err() {
                network.down()?;
            }
            made.map(|()| true)
        }
        Request::Down => {
            let removed = network.down()?;
            if files.exists() {
                std::fs::remove_dir_all(&files)
                    .with_context(|| format!("removing {}", files.display()))?;
            }
            println!(
                "{}",
                if removed == 0 {
                    "there is no lab"
                } else {
                    "the lab is removed"
                }
            );
            Ok(true)
        }
        Request::Scan { arguments } => {
            standing(&network)?;
            let bin_dir = session::bin_dir()?;
            let mut scan = Services::new(&network, &bin_dir, &files).scan()?;
            Ok(scan.args(arguments).status()?.success())
        }
        Request::Exec { zone, arguments } => {
            standing(&network)?;
            let mut command = network.exec(*zone, &arguments[0]);
            Ok(command.args(&arguments[1..]).status()?.success())
        }
    }
}

fn standing(network: &Network) -> Result<()> {
    if !network.is_up()? {
        bail!("there is no lab; run `cargo xtask lab up` first");
    }
    Ok(())
}

/// Fails if this machine or user cannot create a lab.
pub(crate) fn permitted() -> Result<()> {
    if !proc::is_root() {
        bail!("network namespaces need root");
    }
    let ip = proc::which("ip").context("`ip` (the iproute2 package) is missing")?;
    // In containers, root often may not create namespaces.
    let probe = format!("{NAME}-probe-{}", std::process::id());
    proc::capture(Command::new(&ip).args(["netns", "add", &probe]))
        .context("namespaces are not permitted here")?;
    proc::capture(Command::new(&ip).args(["netns", "delete", &probe]))?;
    Ok(())
}

fn up(network: &Network, files: &Path, devices: usize) -> Result<()> {
    let bin_dir = session::bin_dir()?;
    for name in ["fleet-sim", "fleetd", "fleetctl", "fleetnode"] {
        let program = bin_dir.join(name);
        if !program.exists() {
            bail!(
                "{} is missing; run `cargo build --workspace --bins` first",
                program.display()
            );
        }
    }
    let simulator = bin_dir.join("fleet-sim");
    let site = [
        "--subnet".to_owned(),
        SUBNET.into(),
        "--devices".into(),
        devices.to_string(),
    ];
    let truth = proc::capture(Command::new(&simulator).args(&site).arg("--print-truth"))?;
    network.up(SUBNET, &addresses(&truth)?, Layout::Routed)?;
    services::make_folder(files)?;
    std::fs::write(files.join("truth.ndjson"), truth)?;
    let mut simulate = network.exec(Zone::Site, &simulator);
    simulate
        .args(&site)
        .arg("--journal")
        .arg(files.join("journal.ndjson"));
    start(simulate, &files.join("fleet-sim.log"), "ready:")?;
    Services::new(network, &bin_dir, files).up(&[])?;
    println!(
        "{devices} hosts in {SUBNET}, reachable from the node; the hub ({HUB_ADDRESS}) has no route to them\n\
         logs, expected devices and recorded connections: {}\n\
         `cargo xtask lab scan` scans it, `cargo xtask lab down` removes it",
        files.display()
    );
    Ok(())
}

/// Starts a program that outlives this one (`lab down` stops it) and waits for `ready` in its log.
fn start(mut command: Command, log: &Path, ready: &str) -> Result<()> {
    let output = File::create(log).with_context(|| format!("making {}", log.display()))?;
    command
        .stdin(Stdio::null())
        .stdout(output.try_clone()?)
        .stderr(output)
        .process_group(0);
    let mut child = command.spawn().context("starting `ip netns exec`")?;
    let deadline = Instant::now() + START;
    loop {
        let output = std::fs::read(log).unwrap_or_default();
        if String::from_utf8_lossy(&output).contains(ready) {
            return Ok(());
        }
        let ended = child.try_wait()?;
        if ended.is_some() || Instant::now() >= deadline {
            let how = ended.map_or("it did not become ready in time".into(), |status| {
                status.to_string()
            });
            bail!(
                "the last line of {} is: {} ({how})",
                log.display(),
                proc::last_line(&output).unwrap_or_default()
            );
        }
        thread::sleep(Duration::from_millis(20));
    }
}

/// Parses the addresses in the simulator's lines, `{"address":"10.77.0.9","truth":...}`.
fn addresses(truth: &str) -> Result<Vec<Ipv4Addr>> {
    let address = |line: &str| {
        line.strip_prefix(r#"{"address":""#)?
            .split('"')
            .next()?
            .parse()
            .ok()
    };
    truth
        .lines()
        .map(|line| {
            address(line).with_context(|| {
                format!("fleet-sim printed `{line}`, which does not start with an address")
            })
        })
        .collect()
}

/// The directory of a lab's logs and records.
fn files(name: &str) -> PathBuf {
    Path::new("/run").join(format!("{name}-lab"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_parsed_and_errors_list_the_valid_forms() {
        let owned = |arguments: &[&str]| arguments.iter().map(|word| (*word).to_owned()).collect();
        let up = |devices| Request::Up { devices };
        let scan = |arguments| Request::Scan {
            arguments: owned(arguments),
        };
        let exec = Request::Exec {
            zone: Zone::Node,
            arguments: owned(&["ip", "addr"]),
        };
        for (arguments, name, request) in [
            (&["up"][..], NAME, up(DEVICES)),
            (&["up", "--devices", "5"], NAME, up(5)),
            (&["--name", "other-1", "up"], "other-1", up(DEVICES)),
            (&["scan"], NAME, scan(&[SUBNET])),
            (&["scan", "-o", "csv"], NAME, scan(&[SUBNET, "-o", "csv"])),
            (&["scan", "10.77.1.1"], NAME, scan(&["10.77.1.1"])),
            (&["exec", "node", "ip", "addr"], NAME, exec),
        ] {
            let command = LabCommand {
                name: name.to_owned(),
                request,
            };
            assert_eq!(
                LabCommand::parse(arguments).expect("an command"),
                command,
                "{arguments:?}"
            );
        }
        for (wrong, hint) in [
            (&["up", "--devices", "many"][..], "many"),
            (&["exec", "moon", "ip"], "hub, node and site"),
            (&["exec", "node"], "exec ZONE COMMAND"),
            (&["--name", "../up", "up"], "a-z"),
            (&["--name", "", "up"], "a-z"),
            (&[], "down"),
        ] {
            let error = format!("{:#}", LabCommand::parse(wrong).expect_err("wrong"));
            assert!(error.contains(hint), "{wrong:?}: {error}");
        }
    }

    #[test]
    fn addresses_are_parsed_from_the_simulators_lines() {
        let truth = "{\"address\":\"10.77.0.9\",\"truth\":{}}\n{\"address\":\"10.77.3.1\",\"truth\":null}\n";
        let expected = [Ipv4Addr::new(10, 77, 0, 9), Ipv4Addr::new(10, 77, 3, 1)];
        assert_eq!(addresses(truth).expect("two lines"), expected);
        let error = addresses("oops").expect_err("no address").to_string();
        assert!(error.contains("oops"), "{error}");
    }
}
