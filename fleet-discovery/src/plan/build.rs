//! Cuts a selection into chunks for the node, with their scopes.

use std::{net::IpAddr, time::Duration};

use fleet_core::{Port, limits};
use ipnetwork::Ipv4Network;

use super::{
    Chunk, ChunkCommand, Plan,
    select::{Selection, TargetGroup},
};
use crate::{
    AddressList, HostName, LOCAL_SUBNET, NodeProfile, Scope, ScopeKind, Target,
    estimate::{UPSTREAM_DEFAULT_PORTS, distinct, within},
    scope::ScopePorts,
};

/// Probes of a list that an upstream node finishes within its ten minutes if nothing answers, with a sixth in
/// reserve. A node that takes longer reports nothing at all, because it uploads at the end.
const UPSTREAM_LIST_PROBES: usize = 1_600;
/// Shortest run of addresses that is sent as a range. Each range takes a command of its own.
const SHORTEST_SPAN: usize = 8;

pub(super) fn build(selection: Selection, ports: Vec<Port>, node: &NodeProfile) -> Plan {
    let Selection {
        group,
        skipped,
        mut notes,
    } = selection;
    let groups: Vec<&[Port]> = if ports.is_empty() {
        vec![&[]]
    } else {
        ports
            // `chunks` panics at zero.
            .chunks(node.max_ports.clamp(1, limits::COMMAND_PORTS))
            .collect()
    };
    let mut chunks = Vec::new();
    for ports in &groups {
        Cutter {
            node,
            ports,
            chunks: &mut chunks,
        }
        .cut(&group);
    }
    let targets = scanned(&group) + skipped.iter().map(|tally| tally.count).sum::<u64>();
    notes.extend(policy_notes(&chunks, &ports, node));
    let open_scope = chunks
        .iter()
        .any(|chunk| chunk.scope.kind() == ScopeKind::Open);
    notes.extend(notes_on(&group, &ports, node));
    Plan {
        targets,
        skipped,
        estimate: Duration::ZERO,
        ports,
        chunks,
        notes,
        open_scope,
    }
}

/// Cuts a selection into chunks for one group of ports.
struct Cutter<'a> {
    node: &'a NodeProfile,
    ports: &'a [Port],
    chunks: &'a mut Vec<Chunk>,
}

impl Cutter<'_> {
    fn cut(&mut self, group: &TargetGroup) {
        match group {
            TargetGroup::Listed { addresses, names } => {
                self.lists(addresses, Scope::exact);
                self.names(names);
            }
            TargetGroup::Written { addresses, names } => {
                if self.node.big_commands {
                    self.lists(addresses, Scope::exact);
                } else {
                    self.spans(addresses);
                }
                self.names(names);
            }
            // Server and node could expand a network differently,
            // and outcome bytes follow the order of addresses.
            TargetGroup::Aimed { addresses, .. } if self.node.big_commands => {
                self.lists(addresses, Scope::exact);
            }
            TargetGroup::Aimed { target, addresses } => self.pieces(target, addresses),
            TargetGroup::Named(name) if self.node.pins => self.names(std::slice::from_ref(name)),
            TargetGroup::Named(name) => self.push(
                ChunkCommand::Target(name.to_string()),
                Scope::unpinned(name.clone(), self.scope_ports()),
            ),
            TargetGroup::Announced(addresses) => self.lists(addresses, Scope::announced),
            TargetGroup::LocalSubnet => self.push(
                ChunkCommand::Target(LOCAL_SUBNET.to_owned()),
                Scope::subnet(self.scope_ports()),
            ),
            TargetGroup::Announcing {
                listening,
                addresses,
            } => self.push(
                ChunkCommand::Mdns(listening.clone()),
                Scope::announced(addresses.clone(), self.scope_ports()),
            ),
        }
    }

    fn lists(&mut self, addresses: &AddressList, scope: fn(AddressList, ScopePorts) -> Scope) {
        for piece in addresses.chunks(self.list_size()) {
            let literals = piece.iter().map(|ip| ip.to_string()).collect();
            self.push(
                ChunkCommand::List(literals),
                scope(piece, self.scope_ports()),
            );
        }
    }

    /// Addresses for an upstream node: a range for each long run within the last octet, a list for the others. An
    /// upstream node waits up to ten seconds for each address of a list, and probes ranges much faster.
    fn spans(&mut self, addresses: &AddressList) {
        let mut rest = Vec::new();
        let all: Vec<IpAddr> = addresses.iter().collect();
        let follow = |one: &IpAddr, next: &IpAddr| match (one, next) {
            (IpAddr::V4(one), IpAddr::V4(next)) => {
                // The form `A.B.C.D-N` cannot cross the last octet.
                one.octets()[3] < 255 && one.to_bits() + 1 == next.to_bits()
            }
            _ => false,
        };
        for run in all.chunk_by(follow) {
            match run {
                [IpAddr::V4(first), .., IpAddr::V4(last)] if run.len() >= SHORTEST_SPAN => {
                    let target = Target::LastOctetRange {
                        first: *first,
                        last_octet: last.octets()[3],
                    };
                    let scope = Scope::exact(run.iter().copied().collect(), self.scope_ports());
                    self.push(ChunkCommand::Target(target.to_string()), scope);
                }
                run => rest.extend_from_slice(run),
            }
        }
        let rest: AddressList = rest.into_iter().collect();
        if !rest.is_empty() {
            self.lists(&rest, Scope::exact);
        }
    }

    fn names(&mut self, names: &[HostName]) {
        if self.node.pins {
            let most = (self.node.max_targets / limits::NAME_ADDRESSES).max(1);
            for piece in names.chunks(most) {
                self.push(
                    ChunkCommand::List(piece.iter().map(ToString::to_string).collect()),
                    Scope::names(piece.iter().cloned(), self.scope_ports()),
                );
            }
        } else {
            // The scope of a command takes the first addresses that
            // arrive. One name must not use up those of another.
            for name in names {
                self.push(
                    ChunkCommand::List(vec![name.to_string()]),
                    Scope::unpinned(name.clone(), self.scope_ports()),
                );
            }
        }
    }

    /// A target for an upstream node: networks in aligned pieces of at most /22 (/20 for version 1
    /// of the command protocol), anything else unchanged.
    fn pieces(&mut self, target: &Target, addresses: &AddressList) {
        let Target::Network(network) = target else {
            let scope = Scope::exact(addresses.clone(), self.scope_ports());
            return self.push(ChunkCommand::Target(target.to_string()), scope);
        };
        for piece in aligned(*network, self.node.max_targets) {
            let inside = addresses.filtered(|ip| match ip {
                IpAddr::V4(ip) => piece.contains(ip),
                IpAddr::V6(_) => false,
            });
            let scope = Scope::exact(inside, self.scope_ports());
            self.push(
                ChunkCommand::Target(Target::Network(piece).to_string()),
                scope,
            );
        }
    }

    fn push(&mut self, command: ChunkCommand, scope: Scope) {
        self.chunks.push(Chunk {
            command,
            ports: self.ports.to_vec(),
            scope,
        });
    }

    fn scope_ports(&self) -> ScopePorts {
        ScopePorts::new(self.ports, &self.node.default_ports)
    }

    /// Addresses that one list may carry.
    fn list_size(&self) -> usize {
        if self.node.big_commands {
            return self.node.max_targets.clamp(1, limits::COMMAND_TARGETS);
        }
        let ports = match self.ports {
            [] => UPSTREAM_DEFAULT_PORTS as usize,
            ports => ports.len(),
        };
        (UPSTREAM_LIST_PROBES / ports)
            .min(self.node.max_targets)
            .max(1)
    }
}

/// The network itself, or its parts of the widest prefix that an upstream node accepts in one command.
fn aligned(network: Ipv4Network, max_targets: usize) -> Vec<Ipv4Network> {
    let bits = max_targets
        .clamp(
            limits::UPSTREAM_COMMAND_TARGETS,
            limits::UPSTREAM_V1_COMMAND_TARGETS,
        )
        .ilog2();
    // 10 to 12 bits.
    let prefix = 32 - bits as u8;
    if network.prefix() >= prefix {
        return vec![network];
    }
    let first = network.network().to_bits();
    let last = network.broadcast().to_bits();
    (first..=last)
        .step_by(1 << (32 - prefix))
        .filter_map(|base| Ipv4Network::new_checked(base.into(), prefix))
        .collect()
}

/// Number of targets that are not skipped.
fn scanned(group: &TargetGroup) -> u64 {
    match group {
        TargetGroup::Listed { addresses, names } | TargetGroup::Written { addresses, names } => {
            addresses.len() + names.len() as u64
        }
        TargetGroup::Aimed { addresses, .. }
        | TargetGroup::Announced(addresses)
        | TargetGroup::Announcing { addresses, .. } => addresses.len(),
        TargetGroup::Named(_) => 1,
        TargetGroup::LocalSubnet => 0,
    }
}

/// Hints on unexpected properties of the commands and their scopes.
fn notes_on(group: &TargetGroup, ports: &[Port], node: &NodeProfile) -> Vec<String> {
    let mut notes = Vec::new();
    match group {
        TargetGroup::LocalSubnet => notes.push(format!(
            "this node does not announce its subnets: it picks one itself, and what it reports is taken from the one /{} of its first device",
            limits::UPSTREAM_COMMAND_PREFIX
        )),
        TargetGroup::Listed { names, .. } | TargetGroup::Written { names, .. }
            if !names.is_empty() && !node.pins =>
        {
            notes.push(unpinned());
        }
        TargetGroup::Named(_) if !node.pins => notes.push(unpinned()),
        TargetGroup::Announcing { listening, .. } if listening.service.is_ip_reports() => {
            notes.push(format!(
                "the node listens for {} seconds: press the IP report buttons during that time; devices without an announcement are not dialed, and count as silent",
                listening.time.as_secs()
            ));
        }
        TargetGroup::Announcing { listening, .. } => notes.push(format!(
            "the node listens for {} for {} seconds: addresses that do not announce it are not dialed, and count as silent",
            listening.service,
            listening.time.as_secs()
        )),
        TargetGroup::Listed { .. }
        | TargetGroup::Written { .. }
        | TargetGroup::Aimed { .. }
        | TargetGroup::Named(_)
        | TargetGroup::Announced(_) => {}
    }
    if ports.is_empty() && node.default_ports.is_empty() {
        notes.push(format!(
            "this node does not announce its default ports: up to {} different ports are taken from each command",
            limits::QUOTA_PORTS
        ));
    }
    notes
}

/// Hints on what the policy of the node's site removes from the commands.
fn policy_notes(chunks: &[Chunk], ports: &[Port], node: &NodeProfile) -> Vec<String> {
    let texts = |ports: Vec<&Port>| {
        let texts: Vec<String> = ports.iter().map(ToString::to_string).collect();
        texts.join(", ")
    };
    let mut notes = Vec::new();
    let denied: Vec<&Port> = node.denied_ports.iter().collect();
    let requested: Vec<&Port> = ports
        .iter()
        .filter(|port| node.denied_ports.contains(port))
        .collect();
    if !requested.is_empty() {
        notes.push(format!(
            "the node's site denies these ports, and the node refuses a command with them: {}",
            texts(requested)
        ));
    } else if ports.is_empty() && !denied.is_empty() {
        notes.push(format!(
            "the node's site denies these ports, so they are not scanned: {}",
            texts(denied)
        ));
    }
    if let Some((count, example)) = outside(chunks.iter().map(|chunk| &chunk.scope), node) {
        notes.push(format!(
            "the node skips {count} addresses outside the networks that its site allows, first {example}"
        ));
    }
    notes
}

/// The number of addresses outside the networks that the node's site allows, and the first one.
fn outside<'a>(
    scopes: impl Iterator<Item = &'a Scope>,
    node: &NodeProfile,
) -> Option<(u64, IpAddr)> {
    if node.allowed_networks.is_empty() {
        return None;
    }
    let lists = distinct(scopes.map(Scope::address_list));
    let is_outside = |ip: &IpAddr| !node.allowed_networks.iter().any(|one| one.contains(*ip));
    let example = lists.iter().flat_map(AddressList::iter).find(is_outside)?;
    let all: u64 = lists.iter().map(AddressList::len).sum();
    let inside = within(&lists, &node.allowed_networks);
    Some((all.saturating_sub(inside), example))
}

fn unpinned() -> String {
    format!(
        "this node does not say what a host name resolves to: the first {} private addresses that it reports for a name are taken",
        limits::NAME_ADDRESSES
    )
}
