//! Labs for measurements, which are removed when dropped: a uniform site without server and node, and a node without a
//! site.

use std::{fs, net::Ipv4Addr, path::Path, process::Command};

use anyhow::{Context, Result, bail};

use super::{
    SUBNET, addresses, files,
    network::{Layout, Network, Zone},
    services::{self, Services},
    start,
};
use crate::proc;

/// Name of the namespaces. A run removes what an interrupted run left behind.
const NAME: &str = "fleet-prove";

/// The site to simulate.
#[derive(Debug)]
pub(crate) struct Site<'a> {
    pub(crate) subnet: &'a str,
    pub(crate) devices: usize,
    pub(crate) layout: Layout,
    /// The program of the simulator.
    pub(crate) simulator: &'a Path,
}

/// A site that is scanned from the node's namespace.
#[derive(Debug)]
pub(crate) struct TestBed {
    network: Network,
    devices: Vec<Ipv4Addr>,
}

impl TestBed {
    /// Creates it, and replaces an existing one.
    pub(crate) fn up(site: &Site<'_>) -> Result<Self> {
        super::permitted()?;
        let network = Network::new(NAME)?;
        network.down()?;
        let arguments = [
            "--uniform".to_owned(),
            "--subnet".to_owned(),
            site.subnet.to_owned(),
            "--devices".to_owned(),
            site.devices.to_string(),
        ];
        let truth = proc::capture(
            Command::new(site.simulator)
                .args(&arguments)
                .arg("--print-truth"),
        )?;
        // From here on, dropping it cleans up.
        let bed = Self {
            network,
            devices: addresses(&truth)?,
        };
        bed.network.up(site.subnet, &bed.devices, site.layout)?;
        let files = files(NAME);
        services::make_folder(&files)?;
        let mut simulate = bed.exec(Zone::Site, site.simulator);
        simulate.args(&arguments);
        start(simulate, &files.join("fleet-sim.log"), "ready:")?;
        Ok(bed)
    }

    /// Every address of a device, ascending.
    pub(crate) fn devices(&self) -> &[Ipv4Addr] {
        &self.devices
    }

    /// A command that runs a program in one of the zones.
    pub(crate) fn exec(&self, zone: Zone, program: impl AsRef<std::ffi::OsStr>) -> Command {
        self.network.exec(zone, program)
    }

    /// Starts a server in the hub, and a node with these options. The programs are in `bin_dir`.
    pub(crate) fn serve(&self, bin_dir: &Path, options: &[&str]) -> Result<()> {
        self.services(bin_dir, |services| services.up(options))
    }

    /// A scan by the node that [`Self::serve`] started, watched from the hub. The caller appends the target.
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

    /// Drops one packet in a hundred in each direction from now on.
    ///
    /// # Errors
    /// If nft (nftables) is missing or the kernel does not support it.
    pub(crate) fn lose(&self) -> Result<()> {
        self.network.lose()
    }

    /// The hardware address of the site's router as the node sees it.
    pub(crate) fn site_mac(&self) -> Result<String> {
        let interface = format!("/sys/class/net/{}/address", Zone::Node.name());
        let mac = proc::capture(self.exec(Zone::Site, "cat").arg(interface))?;
        Ok(mac.trim().to_owned())
    }
}

impl Drop for TestBed {
    fn drop(&mut self) {
        remove(&self.network);
    }
}

/// A server and an idle node that is connected to it.
#[derive(Debug)]
pub(crate) struct IdleNode {
    network: Network,
}

impl IdleNode {
    /// Creates it with the programs in `bin_dir`, and replaces an existing one.
    pub(crate) fn up(bin_dir: &Path) -> Result<Self> {
        super::permitted()?;
        let network = Network::new(NAME)?;
        network.down()?;
        // From here on, dropping it cleans up.
        let idle = Self { network };
        idle.network.up(SUBNET, &[], Layout::Routed)?;
        let files = files(NAME);
        services::make_folder(&files)?;
        Services::new(&idle.network, bin_dir, &files).up(&[])?;
        Ok(idle)
    }

    /// Resident memory of its process, in KiB.
    pub(crate) fn resident(&self) -> Result<u64> {
        let processes = self.network.processes(Zone::Node)?;
        let [node] = processes.as_slice() else {
            bail!("the node should be one process, but there are {processes:?}");
        };
        let status = fs::read_to_string(format!("/proc/{node}/status"))?;
        let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let resident = resident.and_then(|line| line.split_whitespace().next());
        resident
            .context("/proc lacks VmRSS")?
            .parse()
            .context("VmRSS is not a number")
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
