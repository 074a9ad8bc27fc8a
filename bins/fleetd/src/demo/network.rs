//! The loopback network of the simulated site. Each demonstration on a machine has a network of its own.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, UdpSocket},
};

use anyhow::{Context, Result, bail};
use fleet_sim::{Lab, LabError, RunningSite, Site};
use ipnetwork::Ipv4Network;

/// The second octets of the networks 127.x.0.0/16. The simulated site is described for the first.
const NETWORKS: [u8; 9] = [77, 171, 172, 173, 174, 175, 176, 177, 178];
/// The host that a claim binds. No site of the demonstration is large enough to contain it.
const CLAIM: [u8; 2] = [255, 254];
/// Least number of addresses of a network without a device, the first and the last included. Devices move to some of them.
const FREE: usize = 10;
/// The UDP port of a claim.
const CLAIM_PORT: u16 = 8_420;

/// A network that belongs to this demonstration until it is dropped, also while its site is stopped.
#[derive(Debug)]
pub(super) struct Claim {
    _socket: UdpSocket,
}

impl Claim {
    fn of(octet: u8) -> io::Result<Self> {
        let [c, d] = CLAIM;
        let socket = UdpSocket::bind((Ipv4Addr::new(127, octet, c, d), CLAIM_PORT))?;
        Ok(Self { _socket: socket })
    }
}

/// Starts the site in the first network that nothing else uses, which is 127.77.0.0/16 for the first demonstration.
pub(super) async fn start_site(site: &Site) -> Result<(RunningSite, Claim)> {
    for octet in NETWORKS {
        let claim = match Claim::of(octet) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => continue,
            claimed => claimed.context("cannot claim a loopback network")?,
        };
        match Lab::start(moved(site, octet)).await {
            Err(LabError::Bind { source, .. }) if source.kind() == io::ErrorKind::AddrInUse => {}
            started => return Ok((started?, claim)),
        }
    }
    bail!(
        "every network of the demonstration is in use: end the demonstrations that you do not need"
    )
}

fn moved(site: &Site, octet: u8) -> Site {
    let mut moved = site.clone();
    for device in &mut moved.devices {
        if let IpAddr::V4(ip) = device.address {
            let [a, _, c, d] = ip.octets();
            device.address = Ipv4Addr::new(a, octet, c, d).into();
        }
    }
    moved
}

/// Returns the smallest network that contains every device of the site and has some free addresses, which refuse
/// connections.
pub(super) fn covering(site: &Site) -> Result<Ipv4Network> {
    let devices: Vec<_> = site
        .addresses()
        .into_iter()
        .filter_map(|ip| match ip {
            IpAddr::V4(ip) => Some(ip),
            IpAddr::V6(_) => None,
        })
        .collect();
    let first = devices.first().copied().context("the site is empty")?;
    let fits = |prefix: &u8| {
        Ipv4Network::new(first, *prefix).is_ok_and(|net| {
            let has_room = net.size() as usize >= devices.len() + FREE;
            has_room
                && devices
                    .iter()
                    .all(|ip| net.contains(*ip) && *ip != net.broadcast() && *ip != net.network())
        })
    };
    let prefix = (16..=30)
        .rev()
        .find(fits)
        .context("the site does not fit a /16")?;
    Ok(Ipv4Network::new(
        Ipv4Network::new(first, prefix)?.network(),
        prefix,
    )?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_network_contains_the_site_and_has_free_addresses() {
        for (miners, prefix) in [(1, 28), (110, 25), (120, 24), (250, 23), (5_000, 19)] {
            let network = covering(&Site::demo(miners, 1)).expect("it fits");
            assert_eq!(network.prefix(), prefix, "{miners}");
        }
    }

    #[tokio::test]
    async fn sites_at_the_same_time_have_networks_of_their_own() {
        let site = Site::demo(3, 1);
        let (first, claim) = start_site(&site).await.expect("a network is free");
        let (second, _other) = start_site(&site).await.expect("another is free");
        let network = |site: &RunningSite| covering(site.site()).expect("it has devices");
        let taken = network(&first);
        assert_ne!(taken, network(&second));
        // The network stays claimed while its site is stopped.
        first.shutdown().await;
        let (third, _another) = start_site(&site).await.expect("another is free");
        assert_ne!(taken, network(&third));
        drop(claim);
    }
}
