//! The record of a device as decisions need it, and whether a node may write it.

use fleet_core::{
    DeviceFacts, DeviceId, DeviceIdentifier, DeviceReport, Endpoint, NodeId, RejectReason,
};

/// A live record of the inventory, as loaded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceRecord {
    /// Its id.
    pub id: DeviceId,
    /// Its identity, unique among the live records of the organization.
    pub identifier: DeviceIdentifier,
    /// The last endpoint; none if another device has taken it.
    pub endpoint: Option<Endpoint>,
    /// The node that it is attributed to; none if the server found it.
    pub owner: Option<NodeId>,
    /// Whether that node is still enrolled.
    pub owner_live: bool,
    /// The node or server that it is bound to.
    pub binding: Binding,
    /// Facts about the device, including its last MAC and serial.
    pub facts: DeviceFacts,
    /// Identifiers of devices from which an operator separated it. It never takes one of them, and is never
    /// merged into a record that has one.
    pub kept_apart: Vec<DeviceIdentifier>,
}

/// The binding of a device. There is one row per device, which excludes two bindings.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Binding {
    /// Not bound.
    Free,
    /// Bound to this node.
    Node(NodeId),
    /// Bound to the server.
    Server,
}

/// Whether a node may write a record with this binding and attribution.
pub(crate) fn writable(
    binding: Binding,
    owner: Option<NodeId>,
    owner_live: bool,
    reporter: NodeId,
) -> Result<(), RejectReason> {
    match (binding, owner) {
        (Binding::Server, _) => Err(RejectReason::PairedByServer),
        // The binding is the operator's decision, so it counts more than the attribution.
        (Binding::Node(node), _) if node == reporter => Ok(()),
        (Binding::Node(_), _) => Err(RejectReason::BoundToOtherNode),
        (Binding::Free, None) => Err(RejectReason::Unattributed),
        (Binding::Free, Some(owner)) if owner == reporter || !owner_live => Ok(()),
        (Binding::Free, Some(_)) => Err(RejectReason::OwnedByOtherNode),
    }
}

impl DeviceRecord {
    /// Checks whether a node that reports the device inside the scope of its command may write the record. The
    /// record is then attributed to that node.
    ///
    /// # Errors
    ///
    /// Why the node may not write it.
    pub fn writable_by(&self, reporter: NodeId) -> Result<(), RejectReason> {
        writable(self.binding, self.owner, self.owner_live, reporter)
    }

    /// Whether this is the node's record at the endpoint. The same private address behind another node is
    /// another endpoint.
    pub(crate) fn is_at(&self, reporter: NodeId, endpoint: Endpoint) -> bool {
        self.owner == Some(reporter) && self.endpoint == Some(endpoint)
    }

    /// Whether the record had a strong identity of the report before, and no other identity contradicts it.
    /// Valid at one endpoint only, because serials repeat across makes.
    pub(crate) fn showed(&self, report: &DeviceReport) -> bool {
        let ours = &self.facts;
        let (mac, serial) = match &self.identifier {
            DeviceIdentifier::Mac(mac) => (Some(*mac), ours.serial.as_ref()),
            DeviceIdentifier::Serial(serial) => (ours.mac, Some(serial)),
            DeviceIdentifier::Auto(_) => (ours.mac, ours.serial.as_ref()),
        };
        match (mac, report.facts.mac) {
            (Some(ours), Some(theirs)) => ours == theirs,
            (None, _) | (_, None) => serial.is_some() && serial == report.facts.serial.as_ref(),
        }
    }

    /// Whether make or model are known on both sides and differ.
    pub(crate) fn contradicts(&self, report: &DeviceReport) -> bool {
        let differ = |ours: &str, theirs: &str| {
            let (ours, theirs) = (ours.trim(), theirs.trim());
            !ours.is_empty() && !theirs.is_empty() && !ours.eq_ignore_ascii_case(theirs)
        };
        let (ours, theirs) = (&self.facts, &report.facts);
        differ(&ours.manufacturer, &theirs.manufacturer) || differ(&ours.model, &theirs.model)
    }
}
