//! The IPv6 networks of a site. A /64 has too many addresses to draw, so the overview lists the networks with the number
//! of devices in each. Start with [`wide_networks`].

use std::{
    collections::BTreeMap,
    fmt,
    net::{IpAddr, Ipv6Addr},
};

use fleet_core::parse_literal;

/// A /64 network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WideNetwork(Ipv6Addr);

impl WideNetwork {
    /// The network of an address.
    pub fn of(ip: Ipv6Addr) -> Self {
        Self(Ipv6Addr::from_bits(ip.to_bits() >> 64 << 64))
    }
}

impl fmt::Display for WideNetwork {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/64", self.0)
    }
}

/// What is known about a [`WideNetwork`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WideCounts {
    /// The number of its devices.
    pub devices: u64,
    /// Whether a node announced a subnet in it, or around it.
    pub announced: bool,
}

/// The /64 networks of these devices, and of the subnets that nodes announce as texts such as `fd00::5/64`. Of a subnet
/// that is wider than a /64, the first one counts. Link-local subnets and IPv4 are left out.
pub fn wide_networks<'a>(
    devices: impl IntoIterator<Item = IpAddr>,
    subnets: impl IntoIterator<Item = &'a str>,
) -> BTreeMap<WideNetwork, WideCounts> {
    let mut networks: BTreeMap<WideNetwork, WideCounts> = BTreeMap::new();
    for subnet in subnets {
        let ip = subnet.split_once('/').and_then(|(ip, _)| parse_literal(ip));
        if let Some(IpAddr::V6(ip)) = ip
            && !ip.is_unicast_link_local()
        {
            networks.entry(WideNetwork::of(ip)).or_default().announced = true;
        }
    }
    for device in devices {
        if let IpAddr::V6(ip) = device {
            networks.entry(WideNetwork::of(ip)).or_default().devices += 1;
        }
    }
    networks
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_are_counted_by_their_64() {
        let ip = |text: &str| parse_literal(text).expect(text);
        let devices = ["fd00::7", "fd00::8", "fd00:0:0:1::7", "10.0.0.7"].map(ip);
        let subnets = ["fd00::5/64", "fd01::1/48", "fe80::1/64", "10.0.0.1/24", "x"];
        let found: Vec<String> = wide_networks(devices, subnets)
            .iter()
            .map(|(network, counts)| format!("{network} {} {}", counts.devices, counts.announced))
            .collect();
        let expected = [
            "fd00::/64 2 true",
            "fd00:0:0:1::/64 1 false",
            "fd01::/64 0 true",
        ];
        assert_eq!(found, expected);
    }
}
