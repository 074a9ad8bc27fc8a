//! The server's own scans: the addresses that the server may dial, and the decision about each device that it finds.
//! The server never touches a device that is or was attributed to a node.
//!
//! Call [`divide`] before dialing and [`Sightings`] afterwards.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use fleet_core::{DeviceId, DeviceIdentifier, DeviceReport, Endpoint, NodeId, canonical};

use crate::{Binding, SharedIdentity};

/// The id that stands for the server. The `auto:` identifiers of devices that the server found contain it.
pub const SERVER: NodeId = NodeId(0);

/// Addresses that the server asked to dial, divided into allowed and excluded ones.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Divided {
    /// Addresses at which no node ever had a device, each once, in the requested order.
    pub allowed: Vec<IpAddr>,
    /// Addresses at which a node has or had a device, each with the first such node.
    pub excluded: Vec<(IpAddr, NodeId)>,
}

/// Divides addresses by whether one was ever attributed to a node. The results are canonical and contain each address
/// once.
///
/// An address is excluded on every port as soon as one of its endpoints was attributed. A device is attributed at one
/// port, but it also answers at others.
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

/// An existing record that can match a device found by the server, or hold its endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KnownDevice {
    /// The id of the record.
    pub id: DeviceId,
    /// The current identifier.
    pub identifier: DeviceIdentifier,
    /// Earlier identifiers of the record and of the records merged into it.
    pub former: Vec<DeviceIdentifier>,
    /// Whether the record is still in the inventory. A merged record is not.
    pub live: bool,
    /// The endpoint at which the device was last reached.
    pub endpoint: Option<Endpoint>,
    /// The node to which the record is attributed, enrolled or revoked; none if the server found it.
    pub owner: Option<NodeId>,
    /// The binding of the device.
    pub binding: Binding,
    /// Whether other devices show the identifier too, so that it counts only at the endpoint of this record.
    pub shared: bool,
    /// The address at which this scan has seen the device, if it has.
    pub seen_at: Option<IpAddr>,
}

/// The decision about a device that the server found. The written record stays unattributed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DirectDecision {
    /// The device is new.
    Create {
        /// The identifier of the record.
        identifier: DeviceIdentifier,
        /// A provisional id, below zero, until the record is stored.
        device: DeviceId,
        /// Unattributed records of other devices that lose the endpoint to this one. They are not merged.
        endpoint_taken_from: Vec<DeviceId>,
    },
    /// An unattributed record has the same identifier and is updated.
    Update {
        /// The id of that record.
        device: DeviceId,
        /// Unattributed records of other devices that lose the endpoint to this one. They are not merged.
        endpoint_taken_from: Vec<DeviceId>,
    },
    /// Nothing is written.
    Refuse(DirectRefusal),
}

/// Why the server may not write a device that it found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum DirectRefusal {
    /// The device is or was attributed to this node.
    Attributed(NodeId),
    /// The device is bound to this node.
    Bound(NodeId),
}

impl DirectRefusal {
    /// Returns the node that has the device.
    pub fn node(self) -> NodeId {
        match self {
            Self::Attributed(node) | Self::Bound(node) => node,
        }
    }
}

/// The records that the server's findings affect, updated while the findings are decided in order.
#[derive(Clone, Debug, Default)]
pub struct Sightings {
    known: Vec<KnownDevice>,
    created: i64,
}

impl Sightings {
    /// Starts with all records of the organization that match an identity of the findings, including former
    /// identities and merged records. The unattributed records at the findings' endpoints are required too.
    pub fn new(known: Vec<KnownDevice>) -> Self {
        Self { known, created: 0 }
    }

    /// Decides about one device that the server found and applies the decision.
    ///
    /// A claim by a node comes first and may match any identity of the device. Otherwise the unattributed record with
    /// the same identifier is updated. Another record at the same endpoint loses the endpoint and is otherwise
    /// unchanged.
    ///
    /// A MAC or serial that one scan sees at two addresses identifies neither device. Its record keeps it, and the
    /// device at the other address gets a record by its next identifier. The identifiers that do not count are added
    /// to `shared`.
    pub fn decide(
        &mut self,
        report: &DeviceReport,
        shared: &mut Vec<SharedIdentity>,
    ) -> DirectDecision {
        // Merged records count too: the claim of a node to one of them is still valid.
        let claim = self
            .known
            .iter()
            .filter(|known| known.is_shown_by(report) && !known.is_another_at(report.endpoint.ip))
            .find_map(KnownDevice::claim);
        if let Some(refusal) = claim {
            return DirectDecision::Refuse(refusal);
        }
        let identifier = self.identity(report, shared);
        let found = self
            .known
            .iter()
            .find(|known| known.live && known.identifier == identifier)
            .map(|known| known.id);
        let mut endpoint_taken_from = Vec::new();
        for known in &mut self.known {
            // A node's record keeps its endpoint: the same private
            // address at another site is another endpoint.
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
            known.seen_at = Some(report.endpoint.ip);
        }
        DirectDecision::Update {
            device,
            endpoint_taken_from,
        }
    }

    /// The strongest identifier of a report that means one device. The records of stronger ones are marked.
    fn identity(
        &mut self,
        report: &DeviceReport,
        shared: &mut Vec<SharedIdentity>,
    ) -> DeviceIdentifier {
        let second = report.endpoint.ip;
        for identifier in report.identifiers(SERVER) {
            let another = self.known.iter_mut().find(|known| {
                known.live
                    && known.identifier == identifier
                    && identifier.is_strong()
                    && known.is_another_at(second)
            });
            let Some(record) = another else {
                return identifier;
            };
            record.shared = true;
            shared.push(SharedIdentity {
                identifier,
                record: record.id,
                first: record.endpoint.map(|endpoint| endpoint.ip),
                second,
            });
        }
        report.identifier(SERVER)
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
            identifier: identifier.clone(),
            former: Vec::new(),
            live: true,
            endpoint: Some(endpoint),
            owner: None,
            binding: Binding::Free,
            shared: false,
            seen_at: Some(endpoint.ip),
        });
        DirectDecision::Create {
            identifier,
            device,
            endpoint_taken_from,
        }
    }
}

impl KnownDevice {
    /// Whether the identifier means another device at this address. An IPv4 and an IPv6 address may belong to one
    /// interface.
    fn is_another_at(&self, ip: IpAddr) -> bool {
        let here = self.endpoint.is_some_and(|known| known.ip == ip);
        let seen_elsewhere = self
            .seen_at
            .is_some_and(|seen| seen != ip && seen.is_ipv4() == ip.is_ipv4());
        (self.shared && !here) || seen_elsewhere
    }

    /// Whether a found device shows an identity of this record. Serials repeat across makes, so a serial counts only
    /// if one side has no MAC.
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

    /// Returns the node's claim to the record, if a node has one.
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
