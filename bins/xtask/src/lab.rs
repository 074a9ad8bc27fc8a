//! A site behind a real network boundary, on one machine: three network namespaces, the site's addresses
//! routed and mostly dark. [`network`] makes and removes them, [`services`] runs the fleet in them; [`run`] is
//! the command.
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
pub(crate) use bed::{Bed, IdleNode, Site};
use network::{HUB_ADDRESS, Network};
pub(crate) use network::{Layout, Place};
use services::Services;

use crate::{proc, session};

/// The lab that is meant when none is named.
const NAME: &str = "fleet";

/// How long a lab's name may be, in bytes.
const LONGEST_NAME: usize = 32;

/// How many hosts the site has unless told otherwise; the rest of [`SUBNET`] is dark.
const DEVICES: usize = 300;

/// The network of the site.
const SUBNET: &str = "10.77.0.0/22";

/// How long a program of the lab may take to get ready.
const START: Duration = Duration::from_secs(30);

/// What to do with which lab; labs of different names stand side by side.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Order {
    /// Namespaces are this and the name of the place.
    name: String,
    request: Request,
}

impl Order {
    /// Reads what follows `lab` on the command line.
    pub(crate) fn parse(options: &[&str]) -> Result<Self> {
        let (name, rest) = match options {
            ["--name", name, rest @ ..] => (*name, rest),
            rest => (NAME, rest),
        };
        let is_plain =
            |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        if name.is_empty() || name.len() > LONGEST_NAME || !name.bytes().all(is_plain) {
            bail!("--name `{name}`: up to {LONGEST_NAME} of a-z, 0-9 and - name a lab");
        }
        Ok(Self {
            name: name.to_owned(),
            request: Request::parse(rest)?,
        })
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Request {
    /// Make it, in place of one that is there.
    Up { devices: usize },
    /// Remove it, if it is there.
    Down,
    /// Run a scan from its hub and watch it; the words are for `fleetctl scan start`.
    Scan { words: Vec<String> },
    /// Run a command inside one of its places.
    Exec { place: Place, words: Vec<String> },
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
            ["scan", words @ ..] => {
                let has_target = words.first().is_some_and(|word| !word.starts_with('-'));
                let target = (!has_target).then_some(&SUBNET);
                let words = target.into_iter().chain(words);
                Ok(Self::Scan {
                    words: words.map(|word| (*word).to_owned()).collect(),
                })
            }
            ["exec", place, words @ ..] if !words.is_empty() => {
                let place = Place::ALL.into_iter().find(|known| known.name() == *place);
                let place = place.context("lab exec: the places are hub, node and site")?;
                Ok(Self::Exec {
                    place,
                    words: words.iter().map(|word| (*word).to_owned()).collect(),
                })
            }
            other => bail!(
                "lab `{}`: up [--devices N], scan [TARGET], down and exec PLACE COMMAND... are known",
                other.join(" ")
            ),
        }
    }
}

/// Does what was asked and says whether it went well.
pub(crate) fn run(order: &Order) -> Result<bool> {
    permitted()?;
    let network = Network::new(&order.name)?;
    let files = files(&order.name);
    match &order.request {
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
                    "there was no lab"
                } else {
                    "the lab is gone"
                }
            );
            Ok(true)
        }
        Request::Scan { words } => {
            standing(&network)?;
            let bin_dir = session::bin_dir()?;
            let mut scan = Services::new(&network, &bin_dir, &files).scan()?;
            Ok(scan.args(words).status()?.success())
        }
        Request::Exec { place, words } => {
            standing(&network)?;
            let mut command = network.exec(*place, &words[0]);
            Ok(command.args(&words[1..]).status()?.success())
        }
    }
}

fn standing(network: &Network) -> Result<()> {
    if !network.is_up()? {
        bail!("there is no lab; `cargo xtask lab up` makes one");
    }
    Ok(())
}

/// Says why this machine or user cannot have a lab, if so.
pub(crate) fn permitted() -> Result<()> {
    if !proc::is_root() {
        bail!("network namespaces are made by root");
    }
    let ip = proc::which("ip").context("`ip` (the iproute2 package) is missing")?;
    // Containers often have root without the right to make namespaces.
    let probe = format!("{NAME}-probe-{}", std::process::id());
    proc::capture(Command::new(&ip).args(["netns", "add", &probe]))
        .context("namespaces are refused here")?;
    proc::capture(Command::new(&ip).args(["netns", "delete", &probe]))?;
    Ok(())
}

fn up(network: &Network, files: &Path, devices: usize) -> Result<()> {
    let bin_dir = session::bin_dir()?;
    for name in ["fleet-sim", "fleetd", "fleetctl", "fleetnode"] {
        let program = bin_dir.join(name);
        if !program.exists() {
            bail!(
                "{} is missing: `cargo build --workspace --bins` makes it",
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
    let mut simulate = network.exec(Place::Site, &simulator);
    simulate
        .args(&site)
        .arg("--journal")
        .arg(files.join("journal.ndjson"));
    start(simulate, &files.join("fleet-sim.log"), "ready:")?;
    Services::new(network, &bin_dir, files).up(&[])?;
    println!(
        "{devices} hosts in {SUBNET}, seen from the node; the hub ({HUB_ADDRESS}) has no way there\n\
         logs, what exists and what was touched: {}\n\
         `cargo xtask lab scan` scans it, `cargo xtask lab down` removes it",
        files.display()
    );
    Ok(())
}

/// Starts a program that outlives this one (`lab down` ends it) and waits for `ready` in its log.
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
        let said = std::fs::read(log).unwrap_or_default();
        if String::from_utf8_lossy(&said).contains(ready) {
            return Ok(());
        }
        let ended = child.try_wait()?;
        if ended.is_some() || Instant::now() >= deadline {
            let how = ended.map_or("it is not ready in time".into(), |status| {
                status.to_string()
            });
            bail!(
                "{} tells: {} ({how})",
                log.display(),
                proc::last_line(&said).unwrap_or_default()
            );
        }
        thread::sleep(Duration::from_millis(20));
    }
}

/// Takes the addresses out of the simulator's lines, `{"address":"10.77.0.9","truth":...}`.
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
            address(line)
                .with_context(|| format!("fleet-sim said `{line}`, which starts with no address"))
        })
        .collect()
}

/// Where a lab keeps its logs and records.
fn files(name: &str) -> PathBuf {
    Path::new("/run").join(format!("{name}-lab"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn orders_are_read_and_wrong_ones_name_what_would_do() {
        let owned = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect();
        let up = |devices| Request::Up { devices };
        let scan = |words| Request::Scan {
            words: owned(words),
        };
        let exec = Request::Exec {
            place: Place::Node,
            words: owned(&["ip", "addr"]),
        };
        for (words, name, request) in [
            (&["up"][..], NAME, up(DEVICES)),
            (&["up", "--devices", "5"], NAME, up(5)),
            (&["--name", "other-1", "up"], "other-1", up(DEVICES)),
            (&["scan"], NAME, scan(&[SUBNET])),
            (&["scan", "-o", "csv"], NAME, scan(&[SUBNET, "-o", "csv"])),
            (&["scan", "10.77.1.1"], NAME, scan(&["10.77.1.1"])),
            (&["exec", "node", "ip", "addr"], NAME, exec),
        ] {
            let order = Order {
                name: name.to_owned(),
                request,
            };
            assert_eq!(Order::parse(words).expect("an order"), order, "{words:?}");
        }
        for (wrong, hint) in [
            (&["up", "--devices", "many"][..], "many"),
            (&["exec", "moon", "ip"], "hub, node and site"),
            (&["exec", "node"], "exec PLACE COMMAND"),
            (&["--name", "../up", "up"], "a-z"),
            (&["--name", "", "up"], "a-z"),
            (&[], "down"),
        ] {
            let error = format!("{:#}", Order::parse(wrong).expect_err("wrong"));
            assert!(error.contains(hint), "{wrong:?}: {error}");
        }
    }

    #[test]
    fn addresses_come_out_of_the_simulators_lines() {
        let truth = "{\"address\":\"10.77.0.9\",\"truth\":{}}\n{\"address\":\"10.77.3.1\",\"truth\":null}\n";
        let expected = [Ipv4Addr::new(10, 77, 0, 9), Ipv4Addr::new(10, 77, 3, 1)];
        assert_eq!(addresses(truth).expect("two lines"), expected);
        let error = addresses("oops").expect_err("no address").to_string();
        assert!(error.contains("oops"), "{error}");
    }
}
