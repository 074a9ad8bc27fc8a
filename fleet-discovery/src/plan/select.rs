//! Converts the entries of a request to a selection: distinct addresses and names, and the skipped addresses.
//! All skips are decided here, before the selection is cut into chunks.

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr},
};

use fleet_core::{AddressPolicy, classify, limits, parse_literal};
use ipnetwork::{IpNetwork, Ipv4Network};

use super::{PlanError, PlanPolicy};
use crate::{
    AddressList, HostName, Listening, NodeProfile, Tally, Target, TargetEntry, TargetSet,
    shown::shown,
};

/// The targets of a scan.
#[derive(Debug)]
pub(super) struct Selection {
    pub(super) group: TargetGroup,
    pub(super) skipped: Vec<Tally>,
    pub(super) notes: Vec<String>,
}

/// The forms in which a node gets targets.
#[derive(Clone, Debug)]
pub(super) enum TargetGroup {
    /// Addresses and names, sent as lists.
    Listed {
        addresses: AddressList,
        names: Vec<HostName>,
    },
    /// Addresses and names of a set with networks or ranges. An upstream node gets ranges, not lists.
    Written {
        addresses: AddressList,
        names: Vec<HostName>,
    },
    /// One target with its addresses. An upstream node gets it unchanged.
    Aimed {
        target: Target,
        addresses: AddressList,
    },
    /// One name as a target.
    Named(HostName),
    /// Addresses of subnets that the node announced.
    Announced(AddressList),
    /// The keyword for the node's own subnet.
    LocalSubnet,
    /// Addresses of the node's subnets. Only hosts that announce a service are probed.
    Announcing {
        listening: Listening,
        addresses: AddressList,
    },
}

pub(super) fn list(
    entries: &[String],
    node: &NodeProfile,
    policy: &PlanPolicy,
) -> Result<Selection, PlanError> {
    // An empty entry is probably a mistake, but a set ignores it.
    if let Some(empty) = entries.iter().find(|entry| entry.trim().is_empty()) {
        empty.trim().parse::<Target>()?;
    }
    let set = TargetSet::parse(entries)?;
    compose(&set, node, policy)
}

/// How often the addresses of a list may be repeated on average.
const REPETITIONS: u64 = 4;

/// Selects the addresses and names of a set without its excludes.
fn compose(
    set: &TargetSet,
    node: &NodeProfile,
    policy: &PlanPolicy,
) -> Result<Selection, PlanError> {
    if set.included().is_empty() {
        return Err(PlanError::EmptyList);
    }
    let mut selection = Selection::of(TargetGroup::LocalSubnet);
    let mut addresses: Vec<IpAddr> = Vec::new();
    let mut names = BTreeSet::new();
    let mut edges = Vec::new();
    // An upstream node waits up to ten seconds for each address of a
    // list, so only addresses that were written as a list are sent as one.
    let mut listed = set.excluded().is_empty();
    let mut written = 0_u64;
    let mut has_local = false;
    for entry in set.included() {
        match entry {
            TargetEntry::Target(Target::Address(ip)) => {
                addresses.push(policy.addresses.admit(*ip)?)
            }
            TargetEntry::Target(Target::Name(name)) => {
                names.insert(name_for(name.clone(), node, policy)?);
            }
            TargetEntry::Target(Target::LocalSubnet) => {
                listed = false;
                // A message has room for thousands of them, and each would cost as much as the first.
                if std::mem::replace(&mut has_local, true) {
                    continue;
                }
                let local = local_subnet(node, policy)?;
                let TargetGroup::Announced(announced) = local.group else {
                    return Err(PlanError::LocalSubnetCombined);
                };
                addresses.extend(announced.iter());
                selection.notes.extend(local.notes);
                for tally in local.skipped {
                    Tally::add(
                        &mut selection.skipped,
                        &tally.reason,
                        tally.count,
                        &tally.example,
                    );
                }
            }
            TargetEntry::Target(Target::Network(_) | Target::LastOctetRange { .. })
            | TargetEntry::Range(..)
            | TargetEntry::Octets(_) => {
                listed = false;
                let text = entry.to_string();
                // `addresses` returns none for an entry above
                // the limit, which must not count as empty.
                bounded(&text, entry.count())?;
                let all = entry.addresses().unwrap_or_default();
                permitted(&text, &all, policy.addresses)?;
                if let TargetEntry::Target(Target::Network(network)) = entry
                    && network.prefix() < 31
                {
                    let inside = without_edges(*network, all, &mut Vec::new());
                    addresses.extend(inside.iter());
                    edges.push(("network address", network.network()));
                    edges.push(("broadcast address", network.broadcast()));
                } else {
                    addresses.extend(all.iter());
                }
            }
        }
        // A short entry can name 65,536 addresses, and a message has room for thousands of entries.
        written = written.saturating_add(entry.count());
        if written > REPETITIONS * limits::SCAN_TARGETS as u64 {
            return Err(PlanError::TooManyTargets {
                entry: "the list with its repetitions".to_owned(),
                count: written,
            });
        }
        // Repeated entries must not add up to more than the memory of one scan.
        if addresses.len() > 2 * limits::SCAN_TARGETS {
            addresses.sort_unstable();
            addresses.dedup();
            bounded("the list", addresses.len() as u64)?;
        }
    }
    let all: AddressList = addresses.into_iter().collect();
    // Another entry may include the edge of a network.
    edges.sort_unstable();
    edges.dedup();
    for (reason, edge) in edges {
        let skipped = u64::from(!all.contains(edge.into()));
        selection.skip(reason, skipped, edge.into());
    }
    let is_excluded = |ip: IpAddr| set.excluded().iter().any(|entry| entry.contains(ip));
    let addresses = all.filtered(|ip| !is_excluded(ip));
    if let Some(first) = all.iter().find(|ip| is_excluded(*ip)) {
        selection.skip("excluded", all.len() - addresses.len(), first);
    }
    if addresses.is_empty() && names.is_empty() {
        return Err(PlanError::NothingLeft);
    }
    // A name can resolve to several addresses.
    let count = addresses.len() + (names.len() * limits::NAME_ADDRESSES) as u64;
    bounded("the list, a name counting as 8,", count)?;
    let names = names.into_iter().collect();
    selection.group = if listed {
        TargetGroup::Listed { addresses, names }
    } else {
        TargetGroup::Written { addresses, names }
    };
    Ok(selection)
}

pub(super) fn range(start: &str, end: &str, policy: &PlanPolicy) -> Result<Selection, PlanError> {
    let (start, end) = (range_end("start", start)?, range_end("end", end)?);
    for ip in [start, end] {
        policy.addresses.admit(ip.into())?;
    }
    if end < start {
        return Err(PlanError::RangeOrder { start, end });
    }
    let entry = format!("{start}-{end}");
    bounded(
        &entry,
        u64::from(end.to_bits()) - u64::from(start.to_bits()) + 1,
    )?;
    let addresses = AddressList::span(start.into(), end.into()).unwrap_or_default();
    // Between two permitted ends there can be the metadata service of a cloud.
    permitted(&entry, &addresses, policy.addresses)?;
    Ok(Selection::of(TargetGroup::Listed {
        addresses,
        names: Vec::new(),
    }))
}

pub(super) fn target(
    text: &str,
    node: &NodeProfile,
    policy: &PlanPolicy,
) -> Result<Selection, PlanError> {
    let set = TargetSet::parse(&[text])?;
    let Some(target) = set.single().cloned() else {
        if set.included().is_empty() && set.excluded().is_empty() {
            // Reports the empty text as an invalid target.
            text.trim().parse::<Target>()?;
        }
        return compose(&set, node, policy);
    };
    let mut addresses = match &target {
        Target::LocalSubnet => return local_subnet(node, policy),
        Target::Name(name) => {
            let name = name_for(name.clone(), node, policy)?;
            return Ok(Selection::of(TargetGroup::Named(name)));
        }
        Target::Address(ip) => AddressList::from_iter([policy.addresses.admit(*ip)?]),
        Target::Network(_) | Target::LastOctetRange { .. } => {
            target.addresses().unwrap_or_default()
        }
    };
    permitted(&target.to_string(), &addresses, policy.addresses)?;
    let mut skipped = Vec::new();
    if let Target::Network(network) = &target {
        addresses = without_edges(*network, addresses, &mut skipped);
    }
    Ok(Selection {
        skipped,
        ..Selection::of(TargetGroup::Aimed { target, addresses })
    })
}

/// Selects the announced subnets that are small enough to scan, or the keyword itself if the node announced none.
fn local_subnet(node: &NodeProfile, policy: &PlanPolicy) -> Result<Selection, PlanError> {
    if node.local_subnets.is_empty() {
        return Ok(Selection::of(TargetGroup::LocalSubnet));
    }
    let announced = announced(node, policy, limits::SCAN_TARGETS);
    announced.map_err(|fault| match fault {
        SubnetFault::TooLarge { subnet, count } => PlanError::LocalSubnetTooLarge { subnet, count },
        SubnetFault::None { subnets } => PlanError::NoLocalSubnet { subnets },
    })
}

/// Selects the announced subnets for one command.
pub(super) fn announcers(
    listening: Listening,
    node: &NodeProfile,
    policy: &PlanPolicy,
) -> Result<Selection, PlanError> {
    let most = node.max_targets.min(limits::COMMAND_TARGETS);
    let announced = announced(node, policy, most);
    let mut selection = announced.map_err(|fault| match fault {
        SubnetFault::TooLarge { subnet, count } => PlanError::MdnsTooLarge {
            subnet,
            count,
            most,
        },
        SubnetFault::None { subnets } if subnets.is_empty() => PlanError::MdnsNoSubnet {
            subnets: "it announced none".to_owned(),
        },
        SubnetFault::None { subnets } => PlanError::MdnsNoSubnet { subnets },
    })?;
    if let TargetGroup::Announced(addresses) = selection.group {
        selection.group = TargetGroup::Announcing {
            listening,
            addresses,
        };
    }
    Ok(selection)
}

/// Why a node's subnets cannot be scanned.
enum SubnetFault {
    /// With this subnet the number of targets exceeds the limit.
    TooLarge { subnet: IpNetwork, count: u64 },
    /// None of these subnets can be scanned.
    None { subnets: String },
}

/// Returns the announced subnets that can be scanned.
fn announced(
    node: &NodeProfile,
    policy: &PlanPolicy,
    most: usize,
) -> Result<Selection, SubnetFault> {
    let mut selection = Selection::of(TargetGroup::LocalSubnet);
    let mut all: BTreeSet<IpAddr> = BTreeSet::new();
    let mut edges: BTreeSet<Ipv4Network> = BTreeSet::new();
    for subnet in &node.local_subnets {
        let network = match subnet {
            IpNetwork::V4(network) => *network,
            IpNetwork::V6(_) => {
                selection.notes.push(format!(
                    "the node's subnet {subnet} is left out: IPv6 networks are too large to be swept"
                ));
                continue;
            }
        };
        let size = 1_u64 << (32 - network.prefix());
        let span = AddressList::span(network.network().into(), network.broadcast().into());
        // Subnets can overlap, for example that of a host behind a router with the router's own.
        let new = span.as_ref().map_or(size, |addresses| {
            addresses.iter().filter(|ip| !all.contains(ip)).count() as u64
        });
        let count = new + all.len() as u64;
        let Some(addresses) = span.filter(|_| count <= most as u64) else {
            return Err(SubnetFault::TooLarge {
                subnet: *subnet,
                count,
            });
        };
        // A machine can have a public interface beside its LAN, which must not prevent the scan.
        if let Err(error) = permitted(&subnet.to_string(), &addresses, policy.addresses) {
            selection
                .notes
                .push(format!("the node's subnet {subnet} is left out: {error}"));
            continue;
        }
        all.extend(addresses.iter());
        edges.insert(network);
    }
    if edges.is_empty() {
        let subnets: Vec<_> = node.local_subnets.iter().map(ToString::to_string).collect();
        return Err(SubnetFault::None {
            subnets: subnets.join(", "),
        });
    }
    let mut addresses: AddressList = all.into_iter().collect();
    for network in edges {
        addresses = without_edges(network, addresses, &mut selection.skipped);
    }
    selection.group = TargetGroup::Announced(addresses);
    Ok(selection)
}

impl Selection {
    fn of(group: TargetGroup) -> Self {
        Self {
            group,
            skipped: Vec::new(),
            notes: Vec::new(),
        }
    }

    pub(super) fn skip(&mut self, reason: &str, count: u64, example: IpAddr) {
        Tally::add(&mut self.skipped, reason, count, &example.to_string());
    }
}

/// The addresses without the network and the broadcast address of a network shorter than /31.
fn without_edges(
    network: Ipv4Network,
    addresses: AddressList,
    skipped: &mut Vec<Tally>,
) -> AddressList {
    if network.prefix() >= 31 {
        return addresses;
    }
    let edges = [
        ("network address", IpAddr::V4(network.network())),
        ("broadcast address", IpAddr::V4(network.broadcast())),
    ];
    for (reason, edge) in edges {
        // Overlapping subnets can share an edge.
        let count = u64::from(addresses.contains(edge));
        Tally::add(skipped, reason, count, &edge.to_string());
    }
    addresses.filtered(|ip| edges.iter().all(|(_, edge)| *edge != ip))
}

fn range_end(end: &'static str, text: &str) -> Result<Ipv4Addr, PlanError> {
    match parse_literal(text).map(fleet_core::canonical) {
        Some(IpAddr::V4(ip)) => Ok(ip),
        Some(IpAddr::V6(_)) | None => Err(PlanError::RangeEnd {
            end,
            input: shown(text),
        }),
    }
}

/// Selects a name, if the node or the policy permits names.
fn name_for(
    name: HostName,
    node: &NodeProfile,
    policy: &PlanPolicy,
) -> Result<HostName, PlanError> {
    if node.pins || policy.unpinned_names {
        Ok(name)
    } else {
        Err(PlanError::NameUnpinned(name))
    }
}

fn bounded(entry: &str, count: u64) -> Result<(), PlanError> {
    if count > limits::SCAN_TARGETS as u64 {
        return Err(PlanError::TooManyTargets {
            entry: entry.to_owned(),
            count,
        });
    }
    Ok(())
}

/// Checks that every address may be scanned.
fn permitted(entry: &str, addresses: &AddressList, policy: AddressPolicy) -> Result<(), PlanError> {
    match addresses.iter().find(|ip| policy.admit(*ip).is_err()) {
        None => Ok(()),
        Some(ip) => Err(PlanError::Holds {
            entry: entry.to_owned(),
            ip,
            class: classify(ip),
        }),
    }
}
