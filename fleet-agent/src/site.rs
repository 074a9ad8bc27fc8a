//! The site policy, which limits every scan regardless of the server, and the site's local subnets. Start with
//! [`SitePolicy`].

use std::{collections::BTreeSet, net::IpAddr};

use fleet_core::{AddressPolicy, Endpoint, Port, RefusedAddress, canonical, classify};
use fleet_discovery::{SubnetChoice, site_subnets};
use ipnetwork::{IpNetwork, Ipv4Network};

/// Most local subnets in a Hello.
const SUBNETS: usize = 16;
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

    /// Decides which local subnets the node scans, and why. `named` are those that the administrator named; otherwise the
    /// networks of this machine's interfaces are judged.
    pub fn choose_subnets(&self, named: Option<&[Ipv4Network]>) -> Vec<SubnetChoice> {
        let choices = match named {
            Some(named) => named.iter().map(|subnet| named_choice(*subnet)).collect(),
            None => {
                let interfaces = fleet_scan::interfaces().unwrap_or_else(|error| {
                    tracing::warn!(%error, "cannot list the network interfaces; specify the local subnets with --local-subnet");
                    Vec::new()
                });
                site_subnets(&interfaces)
            }
        };
        self.restrict(choices)
    }

    /// The local subnets that the node scans, at most 16.
    pub(crate) fn local_subnets(&self, named: Option<&[Ipv4Network]>) -> Vec<Ipv4Network> {
        let choices = self.choose_subnets(named).into_iter();
        choices
            .filter(|choice| choice.is_chosen)
            .map(|choice| choice.subnet)
            .collect()
    }

    /// Reduces the chosen subnets to their allowed parts, without duplicates, at most 16.
    fn restrict(&self, choices: Vec<SubnetChoice>) -> Vec<SubnetChoice> {
        let mut restricted: Vec<SubnetChoice> = Vec::new();
        for choice in choices {
            let parts = if choice.is_chosen {
                self.allowed_parts(choice.subnet)
            } else {
                Vec::new()
            };
            if choice.is_chosen && parts.is_empty() {
                let reason = "outside the networks that this site allows";
                restricted.push(left_out(choice, reason.to_owned()));
                continue;
            }
            if !choice.is_chosen {
                restricted.push(choice);
                continue;
            }
            for part in parts {
                let mut choice = choice.clone();
                if choice.subnet != part {
                    choice.subnet = part;
                    choice.reason.push_str(", the part that this site allows");
                }
                // A part of another subnet would be scanned twice.
                let mut chosen = restricted.iter().filter(|other| other.is_chosen);
                let covering = chosen.clone().find(|other| part.is_subnet_of(other.subnet));
                let choice = match covering {
                    Some(other) => {
                        let reason = format!("already covered by {}", other.subnet);
                        left_out(choice, reason)
                    }
                    None if chosen.by_ref().count() >= SUBNETS => {
                        left_out(choice, format!("more than {SUBNETS} subnets"))
                    }
                    None => choice,
                };
                restricted.push(choice);
            }
        }
        restricted
    }

    fn allowed_parts(&self, subnet: Ipv4Network) -> Vec<Ipv4Network> {
        if self.allowed_networks.is_empty() {
            return vec![subnet];
        }
        let allowed = self.allowed_networks.iter();
        let v4 = allowed.filter_map(|network| match network {
            IpNetwork::V4(network) => masked(*network),
            IpNetwork::V6(_) => None,
        });
        v4.filter_map(|network| overlap(network, subnet)).collect()
    }
}

fn named_choice(subnet: Ipv4Network) -> SubnetChoice {
    SubnetChoice {
        subnet: masked(subnet).unwrap_or(subnet),
        interface: String::new(),
        is_chosen: true,
        reason: "named by --local-subnet".to_owned(),
    }
}

fn left_out(choice: SubnetChoice, reason: String) -> SubnetChoice {
    SubnetChoice {
        is_chosen: false,
        reason,
        ..choice
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
                .local_subnets(Some(&subnets))
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
    fn every_subnet_has_a_reason() {
        let many = (0..17).map(|n| format!("10.1.{n}.0/24"));
        let named: Vec<String> = ["10.0.0.0/16", "10.0.7.0/24", "10.9.0.0/16"]
            .map(str::to_owned)
            .into_iter()
            .chain(many)
            .collect();
        let named: Vec<&str> = named.iter().map(String::as_str).collect();
        let policy = SitePolicy {
            allowed_networks: networks(&["10.0.0.0/15", "10.2.0.0/16"]),
            ..SitePolicy::default()
        };
        let choices = policy.choose_subnets(Some(&networks(&named)));
        let reason = |subnet: &str| {
            let mut choices = choices.iter();
            let choice = choices.find(|choice| choice.subnet.to_string() == subnet);
            let choice = choice.expect(subnet);
            (choice.is_chosen, choice.reason.as_str())
        };
        assert_eq!(reason("10.0.0.0/16"), (true, "named by --local-subnet"));
        assert_eq!(
            reason("10.0.7.0/24"),
            (false, "already covered by 10.0.0.0/16")
        );
        assert_eq!(
            reason("10.9.0.0/16"),
            (false, "outside the networks that this site allows")
        );
        assert_eq!(reason("10.1.14.0/24"), (true, "named by --local-subnet"));
        assert_eq!(reason("10.1.15.0/24"), (false, "more than 16 subnets"));
        let policy = SitePolicy {
            allowed_networks: networks(&["10.0.1.0/24"]),
            ..SitePolicy::default()
        };
        let choices = policy.choose_subnets(Some(&networks(&["10.0.0.0/16"])));
        assert_eq!(choices[0].subnet.to_string(), "10.0.1.0/24");
        assert_eq!(
            choices[0].reason,
            "named by --local-subnet, the part that this site allows"
        );
    }
}
