//! Which node scans which targets, by the subnets that nodes announce. Start with [`coverage`].

use std::{cmp::Reverse, collections::BTreeMap, net::IpAddr};

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
    /// For each node and another one, the number of its targets that the other one covers too.
    pub overlaps: BTreeMap<(NodeId, NodeId), u64>,
}

/// Assigns each target to exactly one node whose subnets contain it, or to none. Connected nodes come first, then the
/// nodes with the narrowest subnet around the target, then the node with the smallest id.
pub fn coverage(targets: &AddressList, candidates: &[Candidate<'_>]) -> Coverage {
    let mut shares: BTreeMap<NodeId, Vec<IpAddr>> = BTreeMap::new();
    let mut uncovered = Vec::new();
    let mut overlaps = BTreeMap::new();
    let mut covering: Vec<(bool, u8, Reverse<NodeId>)> = Vec::new();
    for ip in targets.iter() {
        covering.clear();
        covering.extend(candidates.iter().filter_map(|candidate| {
            let around = candidate.subnets.iter().filter(|one| one.contains(ip));
            let prefix = around.map(IpNetwork::prefix).max()?;
            Some((candidate.connected, prefix, Reverse(candidate.node)))
        }));
        let Some((_, _, Reverse(chosen))) = covering.iter().max().copied() else {
            uncovered.push(ip);
            continue;
        };
        shares.entry(chosen).or_default().push(ip);
        for (_, _, Reverse(other)) in &covering {
            if *other != chosen {
                *overlaps.entry((chosen, *other)).or_default() += 1;
            }
        }
    }
    let list = |(node, addresses): (NodeId, Vec<IpAddr>)| (node, addresses.into_iter().collect());
    Coverage {
        shares: shares.into_iter().map(list).collect(),
        uncovered: uncovered.into_iter().collect(),
        overlaps,
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
