//! A device's record as decisions need it, and whether a node may write it.

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
    /// Where it was last reached; none when another device took the place.
    pub endpoint: Option<Endpoint>,
    /// The node that it is attributed to; none when the server itself found it.
    pub owner: Option<NodeId>,
    /// Whether that node is not revoked.
    pub owner_live: bool,
    /// Whom it is bound to.
    pub binding: Binding,
    /// What is known of it: the last MAC and serial that it showed included.
    pub facts: DeviceFacts,
    /// Identifiers of devices that an operator told it apart from: it takes on none of them, and never
    /// ends in a record that has one.
    pub kept_apart: Vec<DeviceIdentifier>,
}

/// Whom a device is bound to: one row, so never both.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Binding {
    /// Nobody.
    Free,
    /// This node.
    Node(NodeId),
    /// The server.
    Server,
}

/// Whether a node may write a record that is bound and attributed so.
pub(crate) fn writable(
    binding: Binding,
    owner: Option<NodeId>,
    owner_live: bool,
    reporter: NodeId,
) -> Result<(), RejectReason> {
    match (binding, owner) {
        (Binding::Server, _) => Err(RejectReason::PairedByServer),
        (Binding::Node(node), _) if node == reporter => Ok(()),
        (Binding::Node(_), _) => Err(RejectReason::BoundToOtherNode),
        (Binding::Free, None) => Err(RejectReason::Unattributed),
        (Binding::Free, Some(owner)) if owner == reporter || !owner_live => Ok(()),
        (Binding::Free, Some(_)) => Err(RejectReason::OwnedByOtherNode),
    }
}

impl DeviceRecord {
    /// Whether a node that reports the device inside its command's scope may write the record. Where
    /// it may, the record is attributed to it from then on.
    ///
    /// # Errors
    ///
    /// Who has it instead.
    pub fn writable_by(&self, reporter: NodeId) -> Result<(), RejectReason> {
        writable(self.binding, self.owner, self.owner_live, reporter)
    }

    /// Whether this is what the node knows at that place. The same private address behind another
    /// node is another place.
    pub(crate) fn is_at(&self, reporter: NodeId, endpoint: Endpoint) -> bool {
        self.owner == Some(reporter) && self.endpoint == Some(endpoint)
    }

    /// Whether a strong identity of the report is one that this record showed before, without the
    /// other kind speaking against it. Holds at one place only: serials repeat across makes.
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

    /// Whether both sides know make or model, and disagree.
    pub(crate) fn contradicts(&self, report: &DeviceReport) -> bool {
        let differ = |ours: &str, theirs: &str| {
            let (ours, theirs) = (ours.trim(), theirs.trim());
            !ours.is_empty() && !theirs.is_empty() && !ours.eq_ignore_ascii_case(theirs)
        };
        let (ours, theirs) = (&self.facts, &report.facts);
        differ(&ours.manufacturer, &theirs.manufacturer) || differ(&ours.model, &theirs.model)
    }
}
