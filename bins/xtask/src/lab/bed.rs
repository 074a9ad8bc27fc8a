//! Labs for measuring, which go away with their values: a uniform site without server and node, and a node without a
//! site.

use std::{fs, net::Ipv4Addr, path::Path, process::Command};

use anyhow::{Context, Result, bail};

use super::{
    SUBNET, addresses, files,
    network::{Layout, Network, Place},
    services::{self, Services},
    start,
};
use crate::proc;

/// The namespaces' name; what an interrupted run left is removed by the next.
const NAME: &str = "fleet-prove";

/// What is to be put on the network.
#[derive(Debug)]
pub(crate) struct Site<'a> {
    pub(crate) subnet: &'a str,
    pub(crate) devices: usize,
    pub(crate) layout: Layout,
    /// The program of the simulator.
    pub(crate) simulator: &'a Path,
}

/// A site that is scanned from the node's place.
#[derive(Debug)]
pub(crate) struct Bed {
    network: Network,
    devices: Vec<Ipv4Addr>,
}

impl Bed {
    /// Makes it, in place of one that is there.
    pub(crate) fn up(site: &Site<'_>) -> Result<Self> {
        super::permitted()?;
        let network = Network::new(NAME)?;
        network.down()?;
        let words = [
            "--uniform".to_owned(),
            "--subnet".to_owned(),
            site.subnet.to_owned(),
            "--devices".to_owned(),
            site.devices.to_string(),
        ];
        let truth = proc::capture(
            Command::new(site.simulator)
                .args(&words)
                .arg("--print-truth"),
        )?;
        // From here on dropping it cleans up.
        let bed = Self {
            network,
            devices: addresses(&truth)?,
        };
        bed.network.up(site.subnet, &bed.devices, site.layout)?;
        let files = files(NAME);
        services::make_folder(&files)?;
        let mut simulate = bed.exec(Place::Site, site.simulator);
        simulate.args(&words);
        start(simulate, &files.join("fleet-sim.log"), "ready:")?;
        Ok(bed)
    }

    /// Every address of a device, ascending.
    pub(crate) fn devices(&self) -> &[Ipv4Addr] {
        &self.devices
    }

    /// A command that runs a program in one of the places.
    pub(crate) fn exec(&self, place: Place, program: impl AsRef<std::ffi::OsStr>) -> Command {
        self.network.exec(place, program)
    }

    /// Starts a server in the hub and a node with these options; the programs are in `bin_dir`.
    pub(crate) fn serve(&self, bin_dir: &Path, options: &[&str]) -> Result<()> {
        self.services(bin_dir, |services| services.up(options))
    }

    /// A scan by the node that [`Self::serve`] started, watched from the hub; the target is missing.
    pub(crate) fn scan_through_server(&self, bin_dir: &Path) -> Result<Command> {
        self.services(bin_dir, |services| services.scan())
    }

    fn services<T>(
        &self,
        bin_dir: &Path,
        run: impl FnOnce(Services<'_>) -> Result<T>,
    ) -> Result<T> {
        run(Services::new(&self.network, bin_dir, &files(NAME)))
    }

    /// Loses one packet in a hundred each way from now on.
    ///
    /// # Errors
    /// When nft (nftables) is missing, or the kernel cannot do that.
    pub(crate) fn lose(&self) -> Result<()> {
        self.network.lose()
    }

    /// The hardware address of the site's router as the node sees it.
    pub(crate) fn site_mac(&self) -> Result<String> {
        let interface = format!("/sys/class/net/{}/address", Place::Node.name());
        let mac = proc::capture(self.exec(Place::Site, "cat").arg(interface))?;
        Ok(mac.trim().to_owned())
    }
}

impl Drop for Bed {
    fn drop(&mut self) {
        remove(&self.network);
    }
}

/// A server and a node that is connected to it and has nothing to do.
#[derive(Debug)]
pub(crate) struct IdleNode {
    network: Network,
}

impl IdleNode {
    /// Makes it of the programs in `bin_dir`, in place of one that is there.
    pub(crate) fn up(bin_dir: &Path) -> Result<Self> {
        super::permitted()?;
        let network = Network::new(NAME)?;
        network.down()?;
        // From here on dropping it cleans up.
        let idle = Self { network };
        idle.network.up(SUBNET, &[], Layout::Routed)?;
        let files = files(NAME);
        services::make_folder(&files)?;
        Services::new(&idle.network, bin_dir, &files).up(&[])?;
        Ok(idle)
    }

    /// What its process holds in memory, in KiB.
    pub(crate) fn resident(&self) -> Result<u64> {
        let processes = self.network.processes(Place::Node)?;
        let [node] = processes.as_slice() else {
            bail!("the node is one process, and there are {processes:?}");
        };
        let status = fs::read_to_string(format!("/proc/{node}/status"))?;
        let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let resident = resident.and_then(|line| line.split_whitespace().next());
        resident
            .context("every process says VmRSS")?
            .parse()
            .context("VmRSS is a number")
    }
}

impl Drop for IdleNode {
    fn drop(&mut self) {
        remove(&self.network);
    }
}

fn remove(network: &Network) {
    if let Err(error) = network.down() {
        eprintln!("xtask: the lab {NAME} could not be removed: {error:#}");
    }
}
