//! What the site lets the node do, whatever the server asks, and which networks are the site's own. Start with
//! [`SitePolicy`].

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr},
};

use fleet_core::{
    AddressClass, AddressPolicy, Endpoint, Port, RefusedAddress, canonical, classify,
};
use ipnetwork::{IpNetwork, Ipv4Network};

/// Local subnets that a Hello may name.
const SUBNETS: usize = 16;
/// How the interfaces of container bridges and virtual machines are called: what is behind them is this machine's
/// own, not the site's.
const VIRTUAL: [&str; 9] = [
    "lo", "docker", "br-", "veth", "cni", "virbr", "flannel", "cali", "podman",
];

/// The site's last word on what may be scanned. The default allows private networks on every port.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SitePolicy {
    /// The only networks that may be scanned; none means every network that `addresses` permits.
    pub allowed_networks: Vec<IpNetwork>,
    /// Ports that are never dialed.
    pub denied_ports: BTreeSet<Port>,
    /// Which classes of addresses may be scanned.
    pub addresses: AddressPolicy,
}

/// Why a node does not dial an endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unscannable {
    /// Its class is never scanned.
    #[error(transparent)]
    Class(#[from] RefusedAddress),
    /// The site names networks, and it is in none.
    #[error("{0} is outside of the networks that this site lets its node scan")]
    Network(IpAddr),
    /// The site denies the port.
    #[error("port {0} is denied by this site")]
    Port(Port),
}

impl SitePolicy {
    /// Whether an address lies in the site's allowed networks; its class is another question.
    pub(crate) fn allows(&self, ip: IpAddr) -> bool {
        self.allowed_networks.is_empty() || self.network_of(ip).is_some()
    }

    fn network_of(&self, ip: IpAddr) -> Option<&IpNetwork> {
        let ip = canonical(ip);
        let mut networks = self.allowed_networks.iter();
        networks.find(|network| network.contains(ip))
    }

    pub(crate) fn check_network(&self, ip: IpAddr) -> Result<(), Unscannable> {
        if self.allows(ip) {
            Ok(())
        } else {
            Err(Unscannable::Network(ip))
        }
    }

    pub(crate) fn check_port(&self, port: Port) -> Result<(), Unscannable> {
        if self.denied_ports.contains(&port) {
            Err(Unscannable::Port(port))
        } else {
            Ok(())
        }
    }

    /// Whether an endpoint may be dialed.
    ///
    /// # Errors
    ///
    /// [`Unscannable`]: the first rule against it.
    pub fn check(&self, endpoint: Endpoint) -> Result<(), Unscannable> {
        self.addresses.admit(endpoint.ip)?;
        self.check_network(endpoint.ip)?;
        self.check_port(endpoint.port)
    }

    /// Why an endpoint may be dialed, for people.
    ///
    /// # Errors
    ///
    /// [`Unscannable`]: the first rule against it.
    pub fn explain(&self, endpoint: Endpoint) -> Result<String, Unscannable> {
        self.check(endpoint)?;
        let class = classify(endpoint.ip).as_str();
        Ok(match self.network_of(endpoint.ip) {
            Some(network) => format!("{class} address in the allowed network {network}"),
            None => {
                format!("{class} address; no networks are named, so that all of them are allowed")
            }
        })
    }

    /// What of `subnets` may be scanned, each network once, at most 16.
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
                if !kept.iter().any(|other| part.is_subnet_of(*other)) {
                    kept.push(part);
                }
            }
        }
        kept.truncate(SUBNETS);
        kept
    }
}

/// What two networks share: one of them, since networks nest or are apart.
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

/// The private IPv4 networks of this machine's own interfaces, those of containers and virtual machines left out.
/// Empty when the system does not tell.
pub(crate) fn own_subnets() -> Vec<Ipv4Network> {
    let interfaces = if_addrs::get_if_addrs().unwrap_or_else(|error| {
        tracing::warn!(%error, "the network interfaces cannot be listed; name the local subnets yourself");
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

/// The subnet behind an interface, if it is a private one with room for others.
fn subnet_of(interface: &str, ip: Ipv4Addr, prefix: u8) -> Option<Ipv4Network> {
    let of_the_site = !VIRTUAL.iter().any(|name| interface.starts_with(name));
    let private = classify(ip.into()) == AddressClass::Private;
    (of_the_site && private && prefix < 32)
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
    fn the_site_has_the_last_word() {
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
            policy.check(endpoint).map_err(|why| {
                let why = why.to_string();
                why.split_once(' ')
                    .map_or(why.clone(), |(_, rest)| rest.to_owned())
            })
        };
        assert_eq!(check("10.0.0.7", 80), Ok(()));
        assert_eq!(check("::ffff:10.0.0.7", 80), Ok(()));
        for (ip, port, why) in [
            ("10.0.1.7", 80, "outside"),
            ("10.0.0.7", 22, "denied"),
            ("127.0.0.1", 80, "loopback"),
        ] {
            let refused = check(ip, port).expect_err(ip);
            assert!(refused.contains(why), "{refused}");
        }
    }

    #[test]
    fn local_subnets_are_cut_to_what_is_allowed() {
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
    fn bridges_of_containers_are_not_the_site() {
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
