//! A lab without server and node, for measuring scanners: a uniform site that goes away with its value.

use std::{net::Ipv4Addr, path::Path, process::Command};

use anyhow::Result;

use super::{
    addresses, files,
    network::{Network, Place},
    services, start,
};
use crate::proc;

/// The namespaces' name; what an interrupted run left is removed by the next.
const NAME: &str = "fleet-prove";

/// What is to be put on the network.
#[derive(Debug)]
pub(crate) struct Site<'a> {
    pub(crate) subnet: &'a str,
    pub(crate) devices: usize,
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
        bed.network.up(site.subnet, &bed.devices)?;
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

    /// The hardware address of the site's router as the node sees it.
    pub(crate) fn site_mac(&self) -> Result<String> {
        let interface = format!("/sys/class/net/{}/address", Place::Node.name());
        let mac = proc::capture(self.exec(Place::Site, "cat").arg(interface))?;
        Ok(mac.trim().to_owned())
    }
}

impl Drop for Bed {
    fn drop(&mut self) {
        if let Err(error) = self.network.down() {
            eprintln!("xtask: the lab {NAME} could not be removed: {error:#}");
        }
    }
}
