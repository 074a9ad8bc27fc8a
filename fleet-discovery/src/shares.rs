//! Which node scans which targets, by the subnets that nodes announce. Start with [`coverage`].

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use fleet_core::NodeId;
use ipnetwork::IpNetwork;

use crate::AddressList;

/// A node that may scan targets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Candidate<'a> {
    /// The node.
    pub node: NodeId,
    /// Whether it has a control stream now.
    pub connected: bool,
    /// The subnets that it announced.
    pub subnets: &'a [IpNetwork],
}

/// The targets of each node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Coverage {
    /// The targets that each node scans. Nodes without targets are missing.
    pub shares: BTreeMap<NodeId, AddressList>,
    /// The targets in the subnets of no node.
    pub uncovered: AddressList,
    /// For each node and another one, the number of its targets that the other one covers too. Of the other nodes around a
    /// target, the 16 with the smallest ids are counted.
    pub overlaps: BTreeMap<(NodeId, NodeId), u64>,
}

/// Other nodes that are counted for one target. Each of a thousand nodes can announce the networks of all others.
const OVERLAPS: usize = 16;

/// Assigns each target to exactly one node whose subnets contain it, or to none. Connected nodes come first, then the
/// nodes with the narrowest subnet around the target, then the node with the smallest id.
///
/// Targets in the same announced networks have the same node. The cost is that of finding these networks, one look for
/// each length of a prefix and a few nodes of each network, and does not grow with the number of nodes.
pub fn coverage(targets: &AddressList, candidates: &[Candidate<'_>]) -> Coverage {
    let announced = Announced::of(candidates);
    let mut groups: BTreeMap<Vec<Network>, Vec<IpAddr>> = BTreeMap::new();
    for ip in targets.iter() {
        groups.entry(announced.around(ip)).or_default().push(ip);
    }
    let mut shares: BTreeMap<NodeId, Vec<IpAddr>> = BTreeMap::new();
    let mut uncovered = Vec::new();
    let mut overlaps = BTreeMap::new();
    for (networks, addresses) in groups {
        let Some(chosen) = announced.best(&networks) else {
            uncovered.extend(addresses);
            continue;
        };
        for other in announced.others(&networks, chosen) {
            *overlaps.entry((chosen, other)).or_default() += addresses.len() as u64;
        }
        shares.entry(chosen).or_default().extend(addresses);
    }
    let list = |(node, addresses): (NodeId, Vec<IpAddr>)| (node, addresses.into_iter().collect());
    Coverage {
        shares: shares.into_iter().map(list).collect(),
        uncovered: uncovered.into_iter().collect(),
        overlaps,
    }
}

/// The first address and the prefix of a network.
type Network = (IpAddr, u8);

/// The networks that nodes announce.
struct Announced {
    nodes: BTreeMap<Network, Announcers>,
    /// The lengths of their prefixes, for IPv4 and IPv6.
    prefixes: [BTreeSet<u8>; 2],
}

/// The nodes that announce a network.
#[derive(Default)]
struct Announcers {
    /// The node with the smallest id among those with a control stream.
    connected: Option<NodeId>,
    /// All of them.
    nodes: BTreeSet<NodeId>,
}

impl Announced {
    fn of(candidates: &[Candidate<'_>]) -> Self {
        let mut announced = Self {
            nodes: BTreeMap::new(),
            prefixes: Default::default(),
        };
        for candidate in candidates {
            let node = candidate.node;
            for subnet in candidate.subnets {
                let network = (subnet.network(), subnet.prefix());
                let around = announced.nodes.entry(network).or_default();
                around.nodes.insert(node);
                if candidate.connected {
                    around.connected = Some(around.connected.map_or(node, |one| one.min(node)));
                }
                let family = usize::from(subnet.is_ipv6());
                announced.prefixes[family].insert(subnet.prefix());
            }
        }
        announced
    }

    /// The announced networks that contain an address, the widest first.
    fn around(&self, ip: IpAddr) -> Vec<Network> {
        let [v4, v6] = &self.prefixes;
        let prefixes = if ip.is_ipv4() { v4 } else { v6 };
        let network = |prefix: &u8| {
            let network = IpNetwork::new(ip, *prefix).ok()?;
            let network = (network.network(), *prefix);
            self.nodes.contains_key(&network).then_some(network)
        };
        prefixes.iter().filter_map(network).collect()
    }

    /// The nodes of these networks, the narrowest network first.
    fn narrowest<'a>(&'a self, networks: &'a [Network]) -> impl Iterator<Item = &'a Announcers> {
        networks.iter().rev().filter_map(|one| self.nodes.get(one))
    }

    /// The node that scans the targets in these networks.
    fn best(&self, networks: &[Network]) -> Option<NodeId> {
        let connected = self.narrowest(networks).find_map(|around| around.connected);
        let any = || {
            self.narrowest(networks)
                .find_map(|around| around.nodes.first())
        };
        connected.or_else(|| any().copied())
    }

    /// The other nodes of these networks with the smallest ids.
    fn others(&self, networks: &[Network], chosen: NodeId) -> impl Iterator<Item = NodeId> {
        let mut others = BTreeSet::new();
        for around in self.narrowest(networks) {
            let nodes = around.nodes.iter().filter(|node| **node != chosen);
            others.extend(nodes.take(OVERLAPS));
        }
        others.into_iter().take(OVERLAPS)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn networks(texts: &str) -> Vec<IpNetwork> {
        let words = texts.split_whitespace();
        words.map(|text| text.parse().expect(text)).collect()
    }

    /// Formats the shares of nodes that are written as `id[!] subnets`, where `!` marks a node without a stream.
    fn split(targets: &str, nodes: &[&str]) -> String {
        let targets: AddressList = targets.parse().expect(targets);
        let nodes: Vec<_> = nodes
            .iter()
            .map(|text| {
                let (id, subnets) = text.split_once(' ').unwrap_or((text, ""));
                let connected = !id.ends_with('!');
                let id = id.trim_end_matches('!').parse().expect(text);
                (NodeId(id), connected, networks(subnets))
            })
            .collect();
        let candidates: Vec<_> = nodes
            .iter()
            .map(|(node, connected, subnets)| Candidate {
                node: *node,
                connected: *connected,
                subnets,
            })
            .collect();
        let found = coverage(&targets, &candidates);
        let mut parts: Vec<String> = found
            .shares
            .iter()
            .map(|(node, share)| format!("{node}: {share}"))
            .collect();
        if !found.uncovered.is_empty() {
            parts.push(format!("none: {}", found.uncovered));
        }
        for ((node, other), count) in &found.overlaps {
            parts.push(format!("{node} over {other}: {count}"));
        }
        parts.join("; ")
    }

    #[test]
    fn targets_go_to_the_node_whose_subnet_is_narrowest() {
        for (targets, nodes, expected) in [
            (
                "10.0.0.1-10.0.0.3",
                &["1 10.0.0.0/24"][..],
                "1: 10.0.0.1-10.0.0.3",
            ),
            ("10.0.0.1-10.0.0.3", &[], "none: 10.0.0.1-10.0.0.3"),
            ("10.0.0.1-10.0.0.3", &["1"], "none: 10.0.0.1-10.0.0.3"),
            (
                "10.0.0.254-10.0.1.1",
                &["1 10.0.0.0/24", "2 10.0.1.0/24"],
                "1: 10.0.0.254-10.0.0.255; 2: 10.0.1.0-10.0.1.1",
            ),
            // The narrower subnet wins, and the order of the nodes does not matter.
            (
                "10.0.0.1-10.0.0.2",
                &["1 10.0.0.0/16", "2 10.0.0.0/24"],
                "2: 10.0.0.1-10.0.0.2; 2 over 1: 2",
            ),
            // Two nodes of one subnet: the smaller id.
            (
                "10.0.0.1-10.0.0.2",
                &["2 10.0.0.0/24", "1 10.0.0.0/24"],
                "1: 10.0.0.1-10.0.0.2; 1 over 2: 2",
            ),
            // A node without a stream scans only targets that no connected one covers.
            (
                "10.0.0.1,10.0.1.1",
                &["1! 10.0.0.0/23", "2 10.0.0.0/24"],
                "1: 10.0.1.1; 2: 10.0.0.1; 2 over 1: 1",
            ),
            (
                "10.0.0.1,fd00::1,fd01::1",
                &["1 10.0.0.0/24 fd00::/64"],
                "1: 10.0.0.1,fd00::1; none: fd01::1",
            ),
        ] {
            assert_eq!(split(targets, nodes), expected, "{targets} {nodes:?}");
        }
    }

    #[test]
    fn a_thousand_nodes_share_a_network_of_the_largest_scan() {
        // Each node announces a /26 of its own and the /16 of all.
        let nodes: Vec<(NodeId, Vec<IpNetwork>)> = (0..1_024_i64)
            .map(|at| {
                let own = format!("10.0.{}.{}/26", at / 4, at % 4 * 64);
                (NodeId(at + 1), networks(&format!("10.0.0.0/16 {own}")))
            })
            .collect();
        let candidates: Vec<_> = nodes
            .iter()
            .map(|(node, subnets)| Candidate {
                node: *node,
                connected: node.0 != 7,
                subnets,
            })
            .collect();
        let targets: AddressList = "10.0.0.0-10.0.255.255".parse().expect("a range");
        let found = coverage(&targets, &candidates);
        // The addresses of the node without a stream go to the first of the others.
        assert_eq!(found.shares.len(), 1_023);
        assert_eq!(found.shares[&NodeId(1)].len(), 128);
        assert!(
            found
                .shares
                .iter()
                .skip(1)
                .all(|(_, share)| share.len() == 64)
        );
        assert!(found.uncovered.is_empty());
        assert_eq!(found.overlaps[&(NodeId(1), NodeId(7))], 128);
    }

    /// Each node announces the network of all and some addresses of its own, so that thousands of targets are in networks
    /// of their own.
    /// An organization enrolls its nodes itself: without the bound, each target would cost as much as there are nodes.
    #[test]
    fn few_of_a_thousand_nodes_are_counted_for_each_target() {
        let nodes: Vec<(NodeId, Vec<IpNetwork>)> = (0..1_024_u32)
            .map(|at| {
                let own = (0..15).map(|n| {
                    let ip = std::net::Ipv4Addr::from(0x0a00_0000 + at * 15 + n);
                    IpNetwork::new(ip.into(), 32).expect("an address")
                });
                let all = networks("10.0.0.0/16");
                (NodeId(i64::from(at) + 1), own.chain(all).collect())
            })
            .collect();
        let candidates: Vec<_> = nodes
            .iter()
            .map(|(node, subnets)| Candidate {
                node: *node,
                connected: true,
                subnets,
            })
            .collect();
        let targets: AddressList = "10.0.0.0-10.0.255.255".parse().expect("a range");
        let found = coverage(&targets, &candidates);
        assert_eq!(found.shares.len(), 1_024);
        assert_eq!(found.overlaps.len(), 1_024 * OVERLAPS);
        assert_eq!(found.overlaps[&(NodeId(500), NodeId(1))], 15);
        assert!(!found.overlaps.contains_key(&(NodeId(500), NodeId(17))));
    }

    fn subnet() -> impl Strategy<Value = IpNetwork> {
        (0_u8..4, 0_u8..4, 16_u8..=32).prop_map(|(third, fourth, prefix)| {
            let ip = std::net::Ipv4Addr::new(10, 0, third, fourth * 64);
            IpNetwork::new(ip.into(), prefix).expect("a network")
        })
    }

    proptest! {
        #[test]
        fn every_target_has_exactly_one_node_that_covers_it_or_none(
            targets in prop::collection::vec((0_u8..5, any::<u8>()), 0..60),
            nodes in prop::collection::vec((any::<bool>(), prop::collection::vec(subnet(), 0..3)), 0..5),
            order in any::<prop::sample::Index>(),
        ) {
            let targets: AddressList = targets
                .into_iter()
                .map(|(third, fourth)| IpAddr::from([10, 0, third, fourth]))
                .collect();
            let mut candidates: Vec<_> = nodes
                .iter()
                .enumerate()
                .map(|(at, (connected, subnets))| Candidate {
                    node: NodeId(at as i64 + 1),
                    connected: *connected,
                    subnets,
                })
                .collect();
            let found = coverage(&targets, &candidates);
            for ip in targets.iter() {
                let of_nodes = found.shares.iter().filter(|(_, share)| share.contains(ip));
                let owners: Vec<NodeId> = of_nodes.map(|(node, _)| *node).collect();
                let covers = |one: &&Candidate<'_>| one.subnets.iter().any(|net| net.contains(ip));
                if let [owner] = owners[..] {
                    let owner = candidates.iter().find(|one| one.node == owner).expect("a node");
                    prop_assert!(covers(&owner));
                    prop_assert!(owner.connected || !candidates.iter().filter(covers).any(|one| one.connected));
                    prop_assert!(!found.uncovered.contains(ip));
                    let narrowest = |one: &Candidate<'_>| {
                        one.subnets.iter().filter(|net| net.contains(ip)).map(|net| net.prefix()).max()
                    };
                    let best = candidates
                        .iter()
                        .filter(covers)
                        .max_by_key(|one| (one.connected, narrowest(one), std::cmp::Reverse(one.node)));
                    prop_assert_eq!(best.map(|one| one.node), Some(owner.node));
                } else {
                    prop_assert!(owners.is_empty() && found.uncovered.contains(ip));
                    prop_assert_eq!(candidates.iter().find(covers), None);
                }
            }
            let shared: u64 = found.shares.values().map(AddressList::len).sum();
            prop_assert_eq!(shared + found.uncovered.len(), targets.len());
            // The order of the candidates changes nothing.
            if !candidates.is_empty() {
                let middle = order.index(candidates.len());
                candidates.rotate_left(middle);
                prop_assert_eq!(coverage(&targets, &candidates), found);
            }
        }
    }
}
