//! Warnings before a scan starts: plans that are valid and probably not intended. Pure. Start with [`warnings`].

use std::net::Ipv4Addr;

use fleet_core::limits::PRINTER_PORTS;
use ipnetwork::{IpNetwork, Ipv4Network};

use super::Plan;
use crate::{
    AddressList, NodeProfile,
    estimate::{distinct, union, within},
};

/// The port of the Internet Printing Protocol. It speaks HTTP, so it is not one of [`PRINTER_PORTS`].
const PRINTING: u16 = 631;

/// Docker's default network, which exists on every host with Docker.
const CONTAINERS: (Ipv4Addr, u8) = (Ipv4Addr::new(172, 17, 0, 0), 16);

/// Another node of the organization.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OtherNode {
    /// Its name.
    pub name: String,
    /// Whether it belongs to the same site. Nodes of one site have one inventory.
    pub same_site: bool,
    /// Its own subnets.
    pub local_subnets: Vec<IpNetwork>,
}

/// The warnings about a plan, as sentences.
pub fn warnings(plan: &Plan, node: &NodeProfile, others: &[OtherNode]) -> Vec<String> {
    let mut warnings = Vec::new();
    let planned = distinct(plan.chunks.iter().map(|chunk| chunk.scope.address_list()));
    let planned = [union(&planned)];
    warnings.extend(containers(&planned));
    warnings.extend(printers(plan));
    let is_own = |network: &IpNetwork| node.local_subnets.iter().any(|own| overlap(own, network));
    for other in others {
        let shared = other
            .local_subnets
            .iter()
            .find(|network| within(&planned, &[**network]) > 0);
        let Some(network) = shared else {
            continue;
        };
        let name = &other.name;
        warnings.push(match (other.same_site, is_own(network)) {
            (true, true) => format!("node {name} of the same site is in {network} too: one of the two nodes is enough"),
            (true, false) => format!("node {name} of the same site is in {network} and reaches these addresses directly: choose that node, or scan with both"),
            (false, true) => format!("node {name} of another site has the network {network} too: an address there is another device than here"),
            (false, false) => format!("{network} is the network of node {name} at another site: check that this node reaches the same devices"),
        });
    }
    warnings
}

fn containers(planned: &[AddressList]) -> Option<String> {
    let (base, prefix) = CONTAINERS;
    let network = Ipv4Network::new_checked(base, prefix)?;
    let count = within(planned, &[IpNetwork::V4(network)]);
    (count > 0).then(|| {
        format!("{count} addresses are in {network}, the network of containers on hosts with Docker: the node finds containers of its own host there, not devices of the site")
    })
}

fn printers(plan: &Plan) -> Option<String> {
    let ports = plan.ports.iter().map(|port| port.number());
    let printing: Vec<String> = ports
        .filter(|port| PRINTER_PORTS.contains(port) || *port == PRINTING)
        .map(|port| port.to_string())
        .collect();
    match printing.as_slice() {
        [] => None,
        [port] => Some(format!(
            "port {port} is a port of printers, which can print the data of a probe"
        )),
        ports => Some(format!(
            "ports {} are ports of printers, which can print the data of a probe",
            ports.join(", ")
        )),
    }
}

fn overlap(one: &IpNetwork, other: &IpNetwork) -> bool {
    one.contains(other.network()) || other.contains(one.network())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Mode, PlanPolicy, ScanRequest, plan};

    fn node(local: &[&str]) -> NodeProfile {
        NodeProfile {
            local_subnets: networks(local),
            ..NodeProfile::upstream()
        }
    }

    fn networks(texts: &[&str]) -> Vec<IpNetwork> {
        texts.iter().map(|text| text.parse().expect(text)).collect()
    }

    fn other(same_site: bool, local: &[&str]) -> OtherNode {
        OtherNode {
            name: "barn-3".to_owned(),
            same_site,
            local_subnets: networks(local),
        }
    }

    fn check(target: &str, ports: &[&str], others: &[OtherNode], expected: &[&str]) {
        let request = ScanRequest {
            mode: Mode::Target(target.to_owned()),
            ports: ports.iter().map(|port| (*port).to_owned()).collect(),
            rate: 0,
        };
        let node = node(&["10.2.0.0/22"]);
        let plan = plan(&request, &node, &PlanPolicy::default()).expect(target);
        let found = warnings(&plan, &node, others);
        assert_eq!(found.len(), expected.len(), "{target}: {found:?}");
        for (warning, part) in found.iter().zip(expected) {
            assert!(warning.contains(part), "{warning}: {part}");
        }
    }

    #[test]
    fn plans_that_are_probably_not_intended_are_named() {
        check("10.2.0.0/24", &["80"], &[], &[]);
        check(
            "172.17.0.0/24",
            &["80"],
            &[],
            &["254 addresses are in 172.17.0.0/16"],
        );
        check("172.18.0.0/24", &["80"], &[], &[]);
        check(
            "10.2.0.7",
            &["80", "9100"],
            &[],
            &["port 9100 is a port of printers"],
        );
        check(
            "10.2.0.7",
            &["631", "515"],
            &[],
            &["ports 631, 515 are ports of printers"],
        );
        for (same_site, local, expected) in [
            (true, "10.2.0.0/22", "one of the two nodes is enough"),
            (false, "10.2.0.0/22", "another device than here"),
        ] {
            check(
                "10.2.0.0/24",
                &["80"],
                &[other(same_site, &[local])],
                &[expected],
            );
        }
        for (same_site, expected) in [(true, "choose that node"), (false, "at another site")] {
            check(
                "10.9.0.0/24",
                &["80"],
                &[other(same_site, &["10.9.0.0/16"])],
                &[expected],
            );
        }
        check(
            "10.2.0.0/24",
            &["80"],
            &[other(false, &["10.3.0.0/24"])],
            &[],
        );
    }
}
