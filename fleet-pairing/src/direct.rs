//! The server's own path: which addresses the server may dial itself, and what becomes of a device that
//! it found there. Whatever has or had a node is out of its reach.
//!
//! [`divide`] comes before a dial, [`Sightings`] after it.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use fleet_core::{DeviceId, DeviceIdentifier, DeviceReport, Endpoint, NodeId, canonical};

use crate::Binding;

/// The server among the nodes: what it found itself has this id in its `auto:` identifier.
pub const SERVER: NodeId = NodeId(0);

/// Addresses that the server would like to dial, told apart.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Divided {
    /// No node ever had a device there; each once, in the order asked.
    pub allowed: Vec<IpAddr>,
    /// A node has or had one there, with the first such node.
    pub excluded: Vec<(IpAddr, NodeId)>,
}

/// Divides addresses by what was ever attributed to a node, in canonical form and each once.
///
/// An address is excluded on every port as soon as one of its endpoints was attributed: a device is
/// attributed at one port and answers at others too.
pub fn divide(
    addresses: impl IntoIterator<Item = IpAddr>,
    attributed: impl IntoIterator<Item = (Endpoint, NodeId)>,
) -> Divided {
    let mut owners: BTreeMap<IpAddr, NodeId> = BTreeMap::new();
    for (endpoint, node) in attributed {
        let first = owners.entry(canonical(endpoint.ip)).or_insert(node);
        *first = node.min(*first);
    }
    let mut divided = Divided::default();
    let mut seen = BTreeSet::new();
    for ip in addresses.into_iter().map(canonical) {
        if !seen.insert(ip) {
            continue;
        }
        match owners.get(&ip) {
            Some(node) => divided.excluded.push((ip, *node)),
            None => divided.allowed.push(ip),
        }
    }
    divided
}

/// A record that a device found by the server may be, or whose place it has taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KnownDevice {
    /// Its id.
    pub id: DeviceId,
    /// The identifier that it goes by.
    pub identifier: DeviceIdentifier,
    /// Identifiers that it had before, or that records merged into it had.
    pub former: Vec<DeviceIdentifier>,
    /// Whether it is in the inventory still; a merged record is not.
    pub live: bool,
    /// Where it was last reached.
    pub endpoint: Option<Endpoint>,
    /// The node that it is attributed to, revoked or not; none when the server itself found it.
    pub owner: Option<NodeId>,
    /// Whom it is bound to.
    pub binding: Binding,
}

/// What becomes of a device that the server found. What is written stays unattributed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DirectDecision {
    /// A device that was not known.
    Create {
        /// Its id until it is stored; below zero.
        device: DeviceId,
        /// Unattributed records of other devices that lose the endpoint to it; they are not merged.
        endpoint_taken_from: Vec<DeviceId>,
    },
    /// The unattributed record with the same identifier.
    Update {
        /// Its record.
        device: DeviceId,
        /// As above.
        endpoint_taken_from: Vec<DeviceId>,
    },
    /// Nothing is written.
    Refuse(DirectRefusal),
}

/// Why a device that the server found is not its own to write.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum DirectRefusal {
    /// This node has or had it.
    Attributed(NodeId),
    /// It is bound to this node.
    Bound(NodeId),
}

impl DirectRefusal {
    /// The node that has it.
    pub fn node(self) -> NodeId {
        match self {
            Self::Attributed(node) | Self::Bound(node) => node,
        }
    }
}

/// The records that the server's findings touch, as they become while they are decided in order.
#[derive(Clone, Debug, Default)]
pub struct Sightings {
    known: Vec<KnownDevice>,
    created: i64,
}

impl Sightings {
    /// Begins with every record of the organization, merged ones too, that has or had one of the findings'
    /// identities, and with the unattributed ones at their endpoints.
    pub fn new(known: Vec<KnownDevice>) -> Self {
        Self { known, created: 0 }
    }

    /// Decides about one device that the server found, and takes the decision into account.
    ///
    /// A node's claim comes first, by any identity that the device shows. Then the unattributed record of
    /// the same identifier is updated; another record at the same endpoint loses it and stays what it is.
    pub fn decide(&mut self, report: &DeviceReport) -> DirectDecision {
        let claim = self
            .known
            .iter()
            .filter(|known| known.is_shown_by(report))
            .find_map(KnownDevice::claim);
        if let Some(refusal) = claim {
            return DirectDecision::Refuse(refusal);
        }
        let identifier = report.identifier(SERVER);
        let found = self
            .known
            .iter()
            .find(|known| known.live && known.identifier == identifier)
            .map(|known| known.id);
        let mut endpoint_taken_from = Vec::new();
        for known in &mut self.known {
            let loses = known.claim().is_none()
                && known.endpoint == Some(report.endpoint)
                && Some(known.id) != found;
            if loses {
                known.endpoint = None;
                endpoint_taken_from.push(known.id);
            }
        }
        let Some(device) = found else {
            return self.create(identifier, report.endpoint, endpoint_taken_from);
        };
        if let Some(known) = self.known.iter_mut().find(|known| known.id == device) {
            known.endpoint = Some(report.endpoint);
        }
        DirectDecision::Update {
            device,
            endpoint_taken_from,
        }
    }

    fn create(
        &mut self,
        identifier: DeviceIdentifier,
        endpoint: Endpoint,
        endpoint_taken_from: Vec<DeviceId>,
    ) -> DirectDecision {
        self.created += 1;
        let device = DeviceId(-self.created);
        self.known.push(KnownDevice {
            id: device,
            identifier,
            former: Vec::new(),
            live: true,
            endpoint: Some(endpoint),
            owner: None,
            binding: Binding::Free,
        });
        DirectDecision::Create {
            device,
            endpoint_taken_from,
        }
    }
}

impl KnownDevice {
    /// Whether a found device shows an identity of this record. Serials repeat across makes, so that one
    /// counts only where not both sides know a MAC.
    fn is_shown_by(&self, report: &DeviceReport) -> bool {
        let mut identifiers = std::iter::once(&self.identifier).chain(&self.former);
        let mut macs = identifiers
            .clone()
            .filter_map(|identifier| match identifier {
                DeviceIdentifier::Mac(mac) => Some(*mac),
                DeviceIdentifier::Serial(_) | DeviceIdentifier::Auto(_) => None,
            })
            .peekable();
        if let (Some(mac), true) = (report.facts.mac, macs.peek().is_some()) {
            return macs.any(|known| known == mac);
        }
        let serial = report.facts.serial.clone().map(DeviceIdentifier::Serial);
        let named = report.identifier(SERVER);
        identifiers.any(|known| *known == named || Some(known) == serial.as_ref())
    }

    /// The node that has it, if one does.
    fn claim(&self) -> Option<DirectRefusal> {
        match (self.owner, self.binding) {
            (Some(node), _) => Some(DirectRefusal::Attributed(node)),
            (None, Binding::Node(node)) => Some(DirectRefusal::Bound(node)),
            (None, Binding::Free | Binding::Server) => None,
        }
    }
}

#[cfg(test)]
mod tests;
