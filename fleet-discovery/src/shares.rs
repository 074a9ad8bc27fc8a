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

/// Most other nodes that are named for each node and each set of networks. Nodes with one large network in common would
/// have a million pairs.
const OTHERS: usize = 16;

/// The targets of each node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Coverage {
    /// The targets that each node scans. Nodes without targets are missing.
    pub shares: BTreeMap<NodeId, AddressList>,
    /// The targets in the subnets of no node.
    pub uncovered: AddressList,
    /// For each node and another one, the number of its targets that the other one covers too. For each node, the 16
    /// other ones with the smallest ids are complete.
    pub overlaps: BTreeMap<(NodeId, NodeId), u64>,
    /// Whether there are more overlaps than these.
    pub more_overlaps: bool,
}

/// Assigns each target to exactly one node whose subnets contain it, or to none. Connected nodes come first, then the
/// nodes with the narrowest subnet around the target, then the node with the smallest id.
///
/// Targets in the same announced networks have the same node. The cost is that of finding these networks, one look for
/// each length of a prefix, and grows with the number of nodes only as their list does.
pub fn coverage(targets: &AddressList, candidates: &[Candidate<'_>]) -> Coverage {
    let announced = Announced::of(candidates);
    let mut groups: BTreeMap<Vec<Network>, Vec<IpAddr>> = BTreeMap::new();
    for ip in targets.iter() {
        groups.entry(announced.around(ip)).or_default().push(ip);
    }
    let mut shares: BTreeMap<NodeId, Vec<IpAddr>> = BTreeMap::new();
    let mut uncovered = Vec::new();
    let mut overlaps = BTreeMap::new();
    let mut more_overlaps = false;
    for (networks, addresses) in groups {
        let Some(chosen) = announced.best(&networks) else {
            uncovered.extend(addresses);
            continue;
        };
        let others = announced.others(&networks, chosen);
        more_overlaps |= others.len() > OTHERS;
        for other in others.into_iter().take(OTHERS) {
            *overlaps.entry((chosen, other)).or_default() += addresses.len() as u64;
        }
        shares.entry(chosen).or_default().extend(addresses);
    }
    let list = |(node, addresses): (NodeId, Vec<IpAddr>)| (node, addresses.into_iter().collect());
    Coverage {
        shares: shares.into_iter().map(list).collect(),
        uncovered: uncovered.into_iter().collect(),
        overlaps,
        more_overlaps,
    }
}

/// The first address and the prefix of a network.
type Network = (IpAddr, u8);

/// The nodes that announce a network, by id.
#[derive(Default)]
struct Nodes {
    all: BTreeSet<NodeId>,
    /// Those that have a stream.
    connected: BTreeSet<NodeId>,
}

/// The networks that nodes announce.
struct Announced {
    nodes: BTreeMap<Network, Nodes>,
    /// The lengths of their prefixes, for IPv4 and IPv6.
    prefixes: [BTreeSet<u8>; 2],
}

impl Announced {
    fn of(candidates: &[Candidate<'_>]) -> Self {
        let mut announced = Self {
            nodes: BTreeMap::new(),
            prefixes: Default::default(),
        };
        for candidate in candidates {
            for subnet in candidate.subnets {
                let network = (subnet.network(), subnet.prefix());
                let nodes = announced.nodes.entry(network).or_default();
                nodes.all.insert(candidate.node);
                if candidate.connected {
                    nodes.connected.insert(candidate.node);
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

    /// The node that scans the addresses in these networks, of which the last one is the narrowest.
    fn best(&self, networks: &[Network]) -> Option<NodeId> {
        let narrowest_first = || networks.iter().rev().filter_map(|at| self.nodes.get(at));
        let connected = narrowest_first().find_map(|nodes| nodes.connected.first());
        let best = connected.or_else(|| narrowest_first().find_map(|nodes| nodes.all.first()));
        best.copied()
    }

    /// The other nodes of these networks with the smallest ids, at most one more than [`OTHERS`].
    fn others(&self, networks: &[Network], chosen: NodeId) -> BTreeSet<NodeId> {
        let nodes = networks.iter().filter_map(|at| self.nodes.get(at));
        let first = nodes.flat_map(|nodes| nodes.all.iter().take(OTHERS + 2));
        let others: BTreeSet<NodeId> = first.copied().filter(|node| *node != chosen).collect();
        others.into_iter().take(OTHERS + 1).collect()
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
        // Not one for each pair of nodes.
        assert_eq!(found.overlaps.len(), 1_023 * OTHERS);
        assert!(found.more_overlaps);
    }

    #[test]
    fn the_first_overlaps_of_a_node_are_complete() {
        // Node 20 scans both halves. All others cover the first one, and half of them the second one too.
        let nodes: Vec<(NodeId, Vec<IpNetwork>)> = (1..=40_i64)
            .map(|id| {
                let texts = match (id, id % 2) {
                    (20, _) => "10.0.0.0/25 10.0.0.128/25 10.0.0.0/24",
                    (_, 0) => "10.0.0.0/24",
                    _ => "10.0.0.0/25",
                };
                (NodeId(id), networks(texts))
            })
            .collect();
        let candidates: Vec<_> = nodes
            .iter()
            .map(|(node, subnets)| Candidate {
                node: *node,
                connected: node.0 == 20,
                subnets,
            })
            .collect();
        let found = coverage(&"10.0.0.0/24".parse().expect("a network"), &candidates);
        assert_eq!(found.shares[&NodeId(20)].len(), 256);
        let first: Vec<_> = found.overlaps.iter().take(OTHERS).collect();
        for (at, ((chosen, other), count)) in first.into_iter().enumerate() {
            assert_eq!((chosen.0, other.0), (20, at as i64 + 1));
            assert_eq!(*count, if other.0 % 2 == 0 { 256 } else { 128 }, "{other}");
        }
        assert!(found.more_overlaps);
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
