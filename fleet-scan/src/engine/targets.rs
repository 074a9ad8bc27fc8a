//! The distinct addresses of a scan in ascending order, and their subnets. Pure.

use std::{net::IpAddr, ops::RangeInclusive};

use fleet_core::canonical;

/// Distinct canonical addresses, ascending. A host is an index here.
#[derive(Debug)]
pub(super) struct Targets {
    hosts: Vec<IpAddr>,
    /// The subnet index of each host. Hosts of a subnet are nearly always contiguous.
    subnets: Vec<u32>,
}

impl Targets {
    pub(super) fn new(targets: &[IpAddr]) -> Self {
        let mut hosts: Vec<IpAddr> = targets.iter().copied().map(canonical).collect();
        hosts.sort_unstable();
        hosts.dedup();
        hosts.shrink_to_fit();
        let mut subnet = 0;
        let mut subnets = Vec::with_capacity(hosts.len());
        let mut before = None;
        for host in &hosts {
            let network = Some(network(*host));
            if before.is_some() && before != network {
                subnet += 1;
            }
            before = network;
            subnets.push(subnet);
        }
        Self { hosts, subnets }
    }

    pub(super) fn len(&self) -> usize {
        self.hosts.len()
    }

    /// Every host, ascending.
    pub(super) fn iter(&self) -> impl Iterator<Item = (u32, IpAddr)> {
        (0..).zip(self.hosts.iter().copied())
    }

    /// The lowest and the highest address; none without hosts.
    pub(super) fn range(&self) -> Option<RangeInclusive<IpAddr>> {
        Some(*self.hosts.first()?..=*self.hosts.last()?)
    }

    /// How many subnets the hosts are in.
    pub(super) fn subnets(&self) -> usize {
        self.subnets.last().map_or(0, |last| *last as usize + 1)
    }

    pub(super) fn address(&self, host: u32) -> Option<IpAddr> {
        self.hosts.get(host as usize).copied()
    }

    /// The subnet of a host.
    pub(super) fn subnet(&self, host: u32) -> usize {
        self.subnets
            .get(host as usize)
            .map_or(0, |subnet| *subnet as usize)
    }

    /// The host of a target address.
    pub(super) fn host(&self, target: IpAddr) -> Option<usize> {
        self.hosts.binary_search(&canonical(target)).ok()
    }
}

/// The network whose hosts share round-trip times: a /24, or a /64 for IPv6.
fn network(ip: IpAddr) -> u64 {
    match ip {
        IpAddr::V4(ip) => u64::from(ip.to_bits() >> 8),
        // The upper half of the bits fits.
        IpAddr::V6(ip) => (ip.to_bits() >> 64) as u64,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    #[test]
    fn targets_of_every_form_and_number_are_hosts_in_order() {
        let named = [
            "10.0.1.9",
            "10.0.0.3",
            "::ffff:10.0.1.9",
            "fd00::1",
            "10.0.0.3",
        ]
        .map(ip);
        let targets = Targets::new(&named);
        assert_eq!(targets.len(), 3);
        let hosts = named.map(|target| targets.host(target));
        assert_eq!(hosts, [Some(1), Some(0), Some(1), Some(2), Some(0)]);
        assert_eq!(targets.address(0), Some(ip("10.0.0.3")));
        assert_eq!(targets.host(ip("10.0.0.4")), None);
        assert_eq!(targets.address(3), None);
        assert_eq!(targets.iter().nth(1), Some((1, ip("10.0.1.9"))));
        assert_eq!(targets.range(), Some(ip("10.0.0.3")..=ip("fd00::1")));
        assert_eq!(Targets::new(&[]).range(), None);
    }

    #[test]
    fn a_subnet_is_a_24_or_of_ipv6_a_64() {
        let targets = Targets::new(
            &[
                "10.0.0.1",
                "10.0.0.255",
                "10.0.1.0",
                "fd00::1",
                "fd00::ffff:1",
                "fd00:0:0:1::1",
            ]
            .map(ip),
        );
        let subnets: Vec<_> = (0..6).map(|host| targets.subnet(host)).collect();
        assert_eq!(subnets, [0, 0, 1, 2, 2, 3]);
        assert_eq!(targets.subnets(), 4);
        assert_eq!(Targets::new(&[]).subnets(), 0);
    }
}
