//! From the entries of a request to a selection: addresses and names to scan, each once, and what is
//! left out. All skips are decided here, before there are chunks.

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr},
};

use fleet_core::{AddressPolicy, classify, limits, parse_literal};
use ipnetwork::{IpNetwork, Ipv4Network};

use super::{PlanError, PlanPolicy};
use crate::{AddressList, HostName, Listening, NodeProfile, Tally, Target, shown::shown};

/// What is to be scanned.
#[derive(Debug)]
pub(super) struct Selection {
    pub(super) what: What,
    pub(super) skipped: Vec<Tally>,
    pub(super) notes: Vec<String>,
}

/// The shapes in which a node is asked.
#[derive(Debug)]
pub(super) enum What {
    /// Addresses and names that go out as lists.
    Listed {
        addresses: AddressList,
        names: Vec<HostName>,
    },
    /// One target with the addresses that it means; an upstream node gets it as it is.
    Aimed {
        target: Target,
        addresses: AddressList,
    },
    /// One name, asked for as a target.
    Named(HostName),
    /// Addresses of subnets that the node announced.
    Announced(AddressList),
    /// The word by which a node picks its own subnet.
    LocalSubnet,
    /// Addresses of the node's subnets, of which those are tried that announce a service.
    Heard {
        listening: Listening,
        addresses: AddressList,
    },
}

pub(super) fn list(
    entries: &[String],
    node: &NodeProfile,
    policy: &PlanPolicy,
) -> Result<Selection, PlanError> {
    if entries.is_empty() {
        return Err(PlanError::EmptyList);
    }
    let mut addresses = Vec::new();
    let mut names = BTreeSet::new();
    for entry in entries {
        match entry.parse::<Target>()? {
            Target::Address(ip) => addresses.push(policy.addresses.admit(ip)?),
            Target::Name(name) => {
                names.insert(name_for(name, node, policy)?);
            }
            Target::Network(_) | Target::Span { .. } | Target::LocalSubnet => {
                return Err(PlanError::NotForList(shown(entry)));
            }
        }
    }
    addresses.sort_unstable();
    addresses.dedup();
    // A name may become as many addresses as it can be pinned to.
    let count = (addresses.len() + names.len() * limits::NAME_ADDRESSES) as u64;
    bounded("the list, a name counting as 8,", count)?;
    Ok(Selection::of(What::Listed {
        addresses: addresses.into_iter().collect(),
        names: names.into_iter().collect(),
    }))
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
    let [.., octet] = start.octets();
    let left_out = match octet {
        0 | 1 if !start.is_loopback() => u64::from(2 - octet),
        _ => 0,
    };
    let first = u64::from(start.to_bits()) + left_out;
    let Some(first) = u32::try_from(first)
        .ok()
        .filter(|first| *first <= end.to_bits())
    else {
        return Err(PlanError::RangeEmpty { start, end });
    };
    let addresses =
        AddressList::span(Ipv4Addr::from_bits(first).into(), end.into()).unwrap_or_default();
    permitted(&entry, &addresses, policy.addresses)?;
    let mut selection = Selection::of(What::Listed {
        addresses,
        names: Vec::new(),
    });
    selection.skip("range starts at .0 or .1", left_out, start.into());
    Ok(selection)
}

pub(super) fn target(
    text: &str,
    node: &NodeProfile,
    policy: &PlanPolicy,
) -> Result<Selection, PlanError> {
    let target: Target = text.parse()?;
    let mut addresses = match &target {
        Target::LocalSubnet => return local_subnet(node, policy),
        Target::Name(name) => {
            let name = name_for(name.clone(), node, policy)?;
            return Ok(Selection::of(What::Named(name)));
        }
        Target::Address(ip) => AddressList::from_iter([policy.addresses.admit(*ip)?]),
        Target::Network(_) | Target::Span { .. } => target.addresses().unwrap_or_default(),
    };
    permitted(&target.to_string(), &addresses, policy.addresses)?;
    let mut skipped = Vec::new();
    if let Target::Network(network) = &target {
        addresses = without_edges(*network, addresses, &mut skipped);
    }
    Ok(Selection {
        skipped,
        ..Selection::of(What::Aimed { target, addresses })
    })
}

/// The subnets that the node announced, as far as they can be swept; the word itself when it
/// announced none.
fn local_subnet(node: &NodeProfile, policy: &PlanPolicy) -> Result<Selection, PlanError> {
    if node.local_subnets.is_empty() {
        return Ok(Selection::of(What::LocalSubnet));
    }
    let announced = announced(node, policy, limits::SCAN_TARGETS);
    announced.map_err(|fault| match fault {
        SubnetFault::TooLarge { subnet, count } => PlanError::LocalSubnetTooLarge { subnet, count },
        SubnetFault::None { subnets } => PlanError::NoLocalSubnet { subnets },
    })
}

/// The subnets that the node announced, in one command.
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
    if let What::Announced(addresses) = selection.what {
        selection.what = What::Heard {
            listening,
            addresses,
        };
    }
    Ok(selection)
}

/// Why a node's subnets cannot be scanned.
enum SubnetFault {
    /// With this subnet they are too many targets.
    TooLarge { subnet: IpNetwork, count: u64 },
    /// None of these can be swept.
    None { subnets: String },
}

/// The subnets that the node announced, as far as they can be swept.
fn announced(
    node: &NodeProfile,
    policy: &PlanPolicy,
    most: usize,
) -> Result<Selection, SubnetFault> {
    let mut selection = Selection::of(What::LocalSubnet);
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
        let Some(addresses) = span.filter(|_| size + all.len() as u64 <= most as u64) else {
            return Err(SubnetFault::TooLarge {
                subnet: *subnet,
                count: size + all.len() as u64,
            });
        };
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
    selection.what = What::Announced(addresses);
    Ok(selection)
}

impl Selection {
    fn of(what: What) -> Self {
        Self {
            what,
            skipped: Vec::new(),
            notes: Vec::new(),
        }
    }

    fn skip(&mut self, reason: &str, count: u64, example: IpAddr) {
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

/// A name, if the node or the policy lets it be asked for.
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

/// Whether every address may be scanned.
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
