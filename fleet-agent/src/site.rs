//! The site policy, which limits every scan regardless of the server, and the site's local subnets. Start with
//! [`SitePolicy`].

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr},
};

use fleet_core::{
    AddressClass, AddressPolicy, Endpoint, Port, RefusedAddress, canonical, classify,
};
use ipnetwork::{IpNetwork, Ipv4Network};

/// Most local subnets in a Hello.
const SUBNETS: usize = 16;
/// Name prefixes of interfaces for containers and virtual machines, whose networks belong to this machine and not to
/// the site.
const VIRTUAL: [&str; 9] = [
    "lo", "docker", "br-", "veth", "cni", "virbr", "flannel", "cali", "podman",
];

/// The site's rules for scanning. The default allows all private networks and ports.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SitePolicy {
    /// The only networks that may be scanned. If empty, every network that `addresses` permits.
    pub allowed_networks: Vec<IpNetwork>,
    /// Ports that are never dialed.
    pub denied_ports: BTreeSet<Port>,
    /// Which classes of addresses may be scanned.
    pub addresses: AddressPolicy,
}

/// The rule that forbids an endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PolicyViolation {
    /// The class of the address is never scanned.
    #[error(transparent)]
    Class(#[from] RefusedAddress),
    /// The address is outside the allowed networks.
    #[error("{0} is outside the networks that this site allows")]
    Network(IpAddr),
    /// The site denies the port.
    #[error("this site denies port {0}")]
    Port(Port),
}

impl SitePolicy {
    /// Whether an address is in the allowed networks. Its class is checked separately.
    pub(crate) fn allows(&self, ip: IpAddr) -> bool {
        self.allowed_networks.is_empty() || self.network_of(ip).is_some()
    }

    fn network_of(&self, ip: IpAddr) -> Option<&IpNetwork> {
        let ip = canonical(ip);
        let mut networks = self.allowed_networks.iter();
        networks.find(|network| network.contains(ip))
    }

    pub(crate) fn check_network(&self, ip: IpAddr) -> Result<(), PolicyViolation> {
        if self.allows(ip) {
            Ok(())
        } else {
            Err(PolicyViolation::Network(ip))
        }
    }

    pub(crate) fn check_port(&self, port: Port) -> Result<(), PolicyViolation> {
        if self.denied_ports.contains(&port) {
            Err(PolicyViolation::Port(port))
        } else {
            Ok(())
        }
    }

    /// Checks whether an endpoint may be dialed.
    ///
    /// # Errors
    ///
    /// [`PolicyViolation`]: the first rule that forbids it.
    pub fn check(&self, endpoint: Endpoint) -> Result<(), PolicyViolation> {
        self.addresses.admit(endpoint.ip)?;
        self.check_network(endpoint.ip)?;
        self.check_port(endpoint.port)
    }

    /// States why an endpoint may be dialed.
    ///
    /// # Errors
    ///
    /// [`PolicyViolation`]: the first rule that forbids it.
    pub fn explain(&self, endpoint: Endpoint) -> Result<String, PolicyViolation> {
        self.check(endpoint)?;
        let class = classify(endpoint.ip).as_str();
        Ok(match self.network_of(endpoint.ip) {
            Some(network) => format!("{class} address in the allowed network {network}"),
            None => {
                format!("{class} address; the policy lists no networks, so all of them are allowed")
            }
        })
    }

    /// The parts of `subnets` that may be scanned, without duplicates, at most 16.
    pub(crate) fn local_subnets(&self, subnets: &[Ipv4Network]) -> Vec<Ipv4Network> {
        let allowed: Vec<Ipv4Network> = self
            .allowed_networks
            .iter()
            .filter_map(|network| match network {
                IpNetwork::V4(network) => masked(*network),
                IpNetwork::V6(_) => None,
            })
            .collect();
        let mut kept: Vec<Ipv4Network> = Vec::new();
        for subnet in subnets.iter().copied().filter_map(masked) {
            let parts: Vec<Ipv4Network> = if self.allowed_networks.is_empty() {
                vec![subnet]
            } else {
                allowed
                    .iter()
                    .filter_map(|network| overlap(*network, subnet))
                    .collect()
            };
            for part in parts {
                // A part of another subnet would be scanned twice.
                if !kept.iter().any(|other| part.is_subnet_of(*other)) {
                    kept.push(part);
                }
            }
        }
        kept.truncate(SUBNETS);
        kept
    }
}

/// The intersection of two networks: the smaller one, or none, because prefixes never partly overlap.
fn overlap(one: Ipv4Network, other: Ipv4Network) -> Option<Ipv4Network> {
    if one.is_subnet_of(other) {
        Some(one)
    } else {
        other.is_subnet_of(one).then_some(other)
    }
}

fn masked(network: Ipv4Network) -> Option<Ipv4Network> {
    Ipv4Network::new_checked(network.network(), network.prefix())
}

/// The private IPv4 networks of this machine's interfaces, except those for containers and virtual machines. Empty if
/// the system does not list them.
pub(crate) fn own_subnets() -> Vec<Ipv4Network> {
    let interfaces = if_addrs::get_if_addrs().unwrap_or_else(|error| {
        tracing::warn!(%error, "cannot list the network interfaces; specify the local subnets with --local-subnet");
        Vec::new()
    });
    interfaces
        .into_iter()
        .filter_map(|interface| match interface.addr {
            if_addrs::IfAddr::V4(address) => {
                subnet_of(&interface.name, address.ip, address.prefixlen)
            }
            if_addrs::IfAddr::V6(_) => None,
        })
        .collect()
}

/// The subnet of an interface, if it is private and has room for other hosts.
fn subnet_of(interface: &str, ip: Ipv4Addr, prefix: u8) -> Option<Ipv4Network> {
    let belongs_to_site = !VIRTUAL.iter().any(|name| interface.starts_with(name));
    let private = classify(ip.into()) == AddressClass::Private;
    (belongs_to_site && private && prefix < 32)
        .then(|| Ipv4Network::new_checked(ip, prefix))
        .flatten()
        .and_then(masked)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn networks<T: std::str::FromStr>(texts: &[&str]) -> Vec<T> {
        texts.iter().filter_map(|text| text.parse().ok()).collect()
    }

    #[test]
    fn the_policy_checks_class_network_and_port() {
        let policy = SitePolicy {
            allowed_networks: networks(&["10.0.0.0/24", "127.0.0.0/8"]),
            denied_ports: Port::new(22).into_iter().collect(),
            addresses: AddressPolicy::default(),
        };
        let check = |ip: &str, port| {
            let endpoint = Endpoint {
                ip: ip.parse().expect("an address"),
                port: Port::new(port).expect("a port"),
            };
            policy.check(endpoint).map_err(|why| why.to_string())
        };
        assert_eq!(check("10.0.0.7", 80), Ok(()));
        assert_eq!(check("::ffff:10.0.0.7", 80), Ok(()));
        for (ip, port, why) in [
            ("10.0.1.7", 80, "outside"),
            ("10.0.0.7", 22, "denies port 22"),
            ("127.0.0.1", 80, "loopback"),
        ] {
            let refused = check(ip, port).expect_err(ip);
            assert!(refused.contains(why), "{refused}");
        }
    }

    #[test]
    fn local_subnets_are_restricted_to_the_allowed_networks() {
        let subnets: Vec<Ipv4Network> = networks(&["10.0.3.9/16", "192.168.1.0/24", "10.0.0.0/16"]);
        let kept = |allowed: &[&str]| {
            let policy = SitePolicy {
                allowed_networks: networks(allowed),
                ..SitePolicy::default()
            };
            policy
                .local_subnets(&subnets)
                .iter()
                .map(ToString::to_string)
                .collect::<Vec<_>>()
        };
        assert_eq!(kept(&[]), ["10.0.0.0/16", "192.168.1.0/24"]);
        assert_eq!(
            kept(&["10.0.1.0/24", "192.168.0.0/16", "fd00::/8"]),
            ["10.0.1.0/24", "192.168.1.0/24"]
        );
        assert_eq!(kept(&["172.16.0.0/12"]), [""; 0]);
    }

    #[test]
    fn container_bridges_are_not_local_subnets() {
        let subnet = |name, ip: [u8; 4], prefix| {
            subnet_of(name, ip.into(), prefix).map(|network| network.to_string())
        };
        assert_eq!(
            subnet("eth0", [10, 77, 1, 5], 22).as_deref(),
            Some("10.77.0.0/22")
        );
        for (name, ip, prefix) in [
            ("docker0", [172, 17, 0, 1], 16),
            ("br-1234", [172, 18, 0, 1], 16),
            ("virbr0", [192, 168, 122, 1], 24),
            ("lo", [127, 0, 0, 1], 8),
            ("eth1", [203, 0, 113, 7], 24),
            ("eth2", [100, 64, 0, 7], 10),
            ("ppp0", [10, 0, 0, 1], 32),
        ] {
            assert_eq!(subnet(name, ip, prefix), None, "{name}");
        }
    }
}
