//! A site behind a real network boundary, on one machine: three network namespaces, the site's addresses
//! routed and mostly dark. [`network`] makes and removes it; [`run`] is the command.
//!
//! ```text
//!   fleet-hub  10.78.0.1 --- 10.78.0.2  fleet-node  10.77.255.1 --- 10.77.255.2  fleet-site  10.77.0.0/22
//!   (server, operators)                 (fleetnode)                              (devices)
//! ```

mod network;

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

use crate::{proc, session};
use network::{HUB_ADDRESS, Network, Place};

/// Namespaces are this and the name of the place.
const NAME: &str = "fleet";

/// How many hosts the site has unless told otherwise; the rest of [`SUBNET`] is dark.
const DEVICES: usize = 300;

/// The network of the site.
const SUBNET: &str = "10.77.0.0/22";

/// How long a program of the lab may take to get ready.
const START: Duration = Duration::from_secs(30);

/// What to do with the lab.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Request {
    /// Make it, in place of one that is there.
    Up { devices: usize },
    /// Remove it, if it is there.
    Down,
    /// Run a command inside one of its places.
    Exec { place: Place, words: Vec<String> },
}

impl Request {
    /// Reads what follows `lab` on the command line.
    pub(crate) fn parse(options: &[&str]) -> Result<Self> {
        match options {
            ["up"] => Ok(Self::Up { devices: DEVICES }),
            ["up", "--devices", number] => {
                let devices = number
                    .parse()
                    .with_context(|| format!("--devices `{number}` is not a number"))?;
                Ok(Self::Up { devices })
            }
            ["down"] => Ok(Self::Down),
            ["exec", place, words @ ..] if !words.is_empty() => {
                let place = Place::ALL.into_iter().find(|known| known.name() == *place);
                let place = place.context("lab exec: the places are hub, node and site")?;
                Ok(Self::Exec {
                    place,
                    words: words.iter().map(|word| (*word).to_owned()).collect(),
                })
            }
            other => bail!(
                "lab `{}`: up [--devices N], down and exec PLACE COMMAND... are known",
                other.join(" ")
            ),
        }
    }
}

/// Does what was asked and says whether it went well.
pub(crate) fn run(request: &Request) -> Result<bool> {
    permitted()?;
    let network = Network::new(NAME)?;
    match request {
        Request::Up { devices } => {
            network.down()?;
            let made = up(&network, *devices);
            if made.is_err() {
                network.down()?;
            }
            made.map(|()| true)
        }
        Request::Down => {
            let removed = network.down()?;
            let files = files();
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
        Request::Exec { place, words } => {
            if !network.is_up()? {
                bail!("there is no lab; `cargo xtask lab up` makes one");
            }
            let mut command = network.exec(*place, &words[0]);
            Ok(command.args(&words[1..]).status()?.success())
        }
    }
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

fn up(network: &Network, devices: usize) -> Result<()> {
    let simulator = session::bin_dir()?.join("fleet-sim");
    if !simulator.exists() {
        bail!(
            "{} is missing: `cargo build --workspace --bins` makes it",
            simulator.display()
        );
    }
    let site = [
        "--subnet".to_owned(),
        SUBNET.into(),
        "--devices".into(),
        devices.to_string(),
    ];
    let truth = proc::capture(Command::new(&simulator).args(&site).arg("--print-truth"))?;
    network.up(SUBNET, &addresses(&truth)?)?;
    let files = files();
    std::fs::create_dir_all(&files).with_context(|| format!("making {}", files.display()))?;
    std::fs::write(files.join("truth.ndjson"), truth)?;
    let mut simulate = network.exec(Place::Site, &simulator);
    simulate
        .args(&site)
        .arg("--journal")
        .arg(files.join("journal.ndjson"));
    start(simulate, &files.join("fleet-sim.log"), "ready:")?;
    println!(
        "{devices} hosts in {SUBNET}, seen from the node; the hub ({HUB_ADDRESS}) has no way there\n\
         what exists and what was touched: {}",
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
fn files() -> PathBuf {
    Path::new("/run").join(format!("{NAME}-lab"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_read_and_wrong_ones_name_what_would_do() {
        assert_eq!(
            Request::parse(&["up"]).expect("up"),
            Request::Up { devices: DEVICES }
        );
        assert_eq!(
            Request::parse(&["up", "--devices", "5"]).expect("up"),
            Request::Up { devices: 5 }
        );
        let exec = Request::Exec {
            place: Place::Node,
            words: vec!["ip".into(), "addr".into()],
        };
        assert_eq!(
            Request::parse(&["exec", "node", "ip", "addr"]).expect("exec"),
            exec
        );
        for (wrong, hint) in [
            (&["up", "--devices", "many"][..], "many"),
            (&["exec", "moon", "ip"], "hub, node and site"),
            (&["exec", "node"], "exec PLACE COMMAND"),
            (&[], "down"),
        ] {
            let error = format!("{:#}", Request::parse(wrong).expect_err("wrong"));
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
