//! The properties of a node that affect a plan: limits, capabilities, default ports and local subnets. They are
//! parsed tolerantly from the node's Hello.

use std::net::IpAddr;

use fleet_core::{Port, limits};
use ipnetwork::{IpNetwork, Ipv4Network, Ipv6Network};

/// Maximum number of local subnets that are kept from an announcement.
const LOCAL_SUBNETS: usize = 16;
/// Maximum number of allowed networks that are kept from an announcement.
const ALLOWED_NETWORKS: usize = 64;

/// The limits and capabilities of a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeProfile {
    /// Maximum number of targets per command, 1,024..=16,384.
    pub max_targets: usize,
    /// Maximum number of ports per command, 10..=64.
    pub max_ports: usize,
    /// Whether the node accepts commands beyond the upstream bounds, always as exact addresses.
    pub big_commands: bool,
    /// Whether the node resolves names once and reports their addresses.
    pub pins: bool,
    /// Whether the node can listen to multicast DNS.
    pub mdns: bool,
    /// Whether the node can listen for the announcements of IP report buttons.
    pub announcements: bool,
    /// Whether its acks report the outcome of every target.
    pub outcomes: bool,
    /// Whether the node reports progress.
    pub progress: bool,
    /// Whether the node can cancel a command.
    pub cancel: bool,
    /// The default ports of the node; empty if it does not announce them.
    pub default_ports: Vec<Port>,
    /// The node's own subnets with host bits masked; empty if it does not announce them.
    pub local_subnets: Vec<IpNetwork>,
    /// Probes per second.
    pub rate: u32,
    /// Whether the node resolves neighbors itself, by ARP.
    pub arp: bool,
    /// Ports that the site denies.
    pub denied_ports: Vec<Port>,
    /// The only networks that the site allows; empty for all.
    pub allowed_networks: Vec<IpNetwork>,
}

/// The fields of a node's Hello as received.
#[derive(Clone, Copy, Debug, Default)]
pub struct Announcement<'a> {
    /// Names of capabilities; unknown ones are ignored.
    pub capabilities: &'a [String],
    /// Ports in decimal.
    pub default_ports: &'a [String],
    /// Subnets as CIDR.
    pub local_subnets: &'a [String],
    /// 0 if the node does not announce it.
    pub max_targets: u32,
    /// 0 if the node does not announce it.
    pub max_ports: u32,
    /// Probes per second; 0 if the node does not announce it.
    pub rate: u32,
    /// Whether the node resolves neighbors itself.
    pub arp: bool,
    /// Ports in decimal that the site denies.
    pub denied_ports: &'a [String],
    /// Networks as CIDR outside of which the site allows no scan.
    pub allowed_networks: &'a [String],
}

impl NodeProfile {
    /// The profile of a node that announces nothing.
    pub fn upstream() -> Self {
        Self {
            max_targets: limits::UPSTREAM_COMMAND_TARGETS,
            max_ports: limits::UPSTREAM_COMMAND_PORTS,
            big_commands: false,
            pins: false,
            mdns: false,
            announcements: false,
            outcomes: false,
            progress: false,
            cancel: false,
            default_ports: Vec::new(),
            local_subnets: Vec::new(),
            rate: limits::DEFAULT_RATE,
            arp: false,
            denied_ports: Vec::new(),
            allowed_networks: Vec::new(),
        }
    }

    /// The profile for a scan with at most this many probes per second; 0 for the node's rate.
    #[must_use]
    pub fn at_most(self, rate: u32) -> Self {
        let rate = match rate {
            0 => self.rate,
            rate => rate.min(self.rate),
        };
        Self { rate, ..self }
    }

    /// Parses an announcement. Limits are clamped, and invalid values are dropped. Limits count only with the
    /// capability `big-commands`, and only upwards: tiny commands would make a plan huge.
    pub fn announced(announcement: Announcement<'_>) -> Self {
        let upstream = Self::upstream();
        let has = |name: &str| announcement.capabilities.iter().any(|known| known == name);
        let big_commands = has("big-commands");
        let limit = |announced: u32, upstream: usize, most: usize| match usize::try_from(announced)
        {
            Ok(announced) if big_commands => announced.clamp(upstream, most),
            _ => upstream,
        };
        Self {
            max_targets: if big_commands {
                limit(
                    announcement.max_targets,
                    upstream.max_targets,
                    limits::COMMAND_TARGETS,
                )
            } else {
                // Upstream announces a protocol version and no
                // number. The server converts the version to one.
                usize::try_from(announcement.max_targets)
                    .unwrap_or(upstream.max_targets)
                    .clamp(upstream.max_targets, limits::UPSTREAM_V1_COMMAND_TARGETS)
            },
            max_ports: limit(
                announcement.max_ports,
                upstream.max_ports,
                limits::COMMAND_PORTS,
            ),
            big_commands,
            pins: has("pins"),
            mdns: has("mdns"),
            announcements: has("announcements"),
            outcomes: has("outcomes"),
            progress: has("progress"),
            cancel: has("cancel"),
            default_ports: ports(announcement.default_ports),
            local_subnets: networks(announcement.local_subnets, LOCAL_SUBNETS),
            rate: match announcement.rate {
                0 => upstream.rate,
                rate => rate.min(limits::FULL_RATE),
            },
            arp: announcement.arp,
            denied_ports: ports(announcement.denied_ports),
            allowed_networks: networks(announcement.allowed_networks, ALLOWED_NETWORKS),
        }
    }
}

/// The distinct ports among these texts, at most 64.
fn ports(texts: &[String]) -> Vec<Port> {
    let mut ports: Vec<Port> = Vec::new();
    for port in texts.iter().filter_map(|text| text.parse().ok()) {
        if !ports.contains(&port) && ports.len() < limits::COMMAND_PORTS {
            ports.push(port);
        }
    }
    ports
}

/// The distinct networks among these texts, at most `most`.
fn networks(texts: &[String], most: usize) -> Vec<IpNetwork> {
    let mut networks: Vec<IpNetwork> = Vec::new();
    for network in texts.iter().filter_map(|text| subnet(text)) {
        if !networks.contains(&network) && networks.len() < most {
            networks.push(network);
        }
    }
    networks
}

/// A subnet with its host bits masked.
fn subnet(text: &str) -> Option<IpNetwork> {
    let (address, prefix) = text.split_once('/')?;
    let prefix: u8 = prefix.parse().ok()?;
    match fleet_core::parse_literal(address)? {
        IpAddr::V4(ip) => {
            let network = Ipv4Network::new_checked(ip, prefix)?;
            Ipv4Network::new_checked(network.network(), prefix).map(IpNetwork::V4)
        }
        IpAddr::V6(ip) => {
            let network = Ipv6Network::new_checked(ip, prefix)?;
            Ipv6Network::new_checked(network.network(), prefix).map(IpNetwork::V6)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts<const N: usize>(texts: [&str; N]) -> Vec<String> {
        texts.map(str::to_owned).to_vec()
    }

    #[test]
    fn a_node_that_announces_nothing_is_upstream() {
        assert_eq!(
            NodeProfile::announced(Announcement::default()),
            NodeProfile::upstream()
        );
    }

    #[test]
    fn limits_are_clamped_by_capability() {
        let announce = |capabilities: &[String], max_targets, max_ports| {
            let profile = NodeProfile::announced(Announcement {
                capabilities,
                max_targets,
                max_ports,
                ..Announcement::default()
            });
            (profile.max_targets, profile.max_ports)
        };
        let big = texts(["big-commands"]);
        // Version 1 of the command protocol implies 4,096 targets.
        assert_eq!(announce(&[], 5_000, 20), (4_096, 10));
        assert_eq!(announce(&[], 0, 20), (1_024, 10));
        assert_eq!(announce(&big, 5_000, 20), (5_000, 20));
        assert_eq!(announce(&big, u32::MAX, u32::MAX), (16_384, 64));
        assert_eq!(announce(&big, 0, 0), (1_024, 10));
        assert_eq!(announce(&big, 1, 1), (1_024, 10));
    }

    #[test]
    fn unparsable_values_are_dropped() {
        let profile = NodeProfile::announced(Announcement {
            capabilities: &texts(["pins", "teleport", "outcomes"]),
            default_ports: &texts(["4028", "0", "x", "80", "4028"]),
            local_subnets: &texts([
                "10.0.1.7/22",
                "10.0.0.0/22",
                "10.0.0.0/33",
                "fd00::1/64",
                "10.0.0.0",
            ]),
            ..Announcement::default()
        });
        assert!(profile.pins && profile.outcomes && !profile.mdns && !profile.big_commands);
        assert_eq!(
            profile
                .default_ports
                .iter()
                .map(|p| p.number())
                .collect::<Vec<_>>(),
            [4028, 80]
        );
        assert_eq!(
            profile
                .local_subnets
                .iter()
                .map(ToString::to_string)
                .collect::<Vec<_>>(),
            ["10.0.0.0/22", "fd00::/64"]
        );
    }
}
