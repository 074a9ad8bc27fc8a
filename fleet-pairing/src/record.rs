//! The record of a device as decisions need it, and whether a node may write it.

use std::net::IpAddr;

use fleet_core::{
    DeviceFacts, DeviceId, DeviceIdentifier, DeviceReport, Endpoint, NodeId, RejectReason, SiteId,
};

use crate::{Claim, ClaimBasis, Reporter};

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
    /// The site of that node; none if the server found it.
    pub site: Option<SiteId>,
    /// The node or server that it is bound to.
    pub binding: Binding,
    /// Facts about the device, including its last MAC and serial.
    pub facts: DeviceFacts,
    /// Identifiers of devices from which an operator separated it. It never takes one of them, and is never
    /// merged into a record that has one.
    pub kept_apart: Vec<DeviceIdentifier>,
    /// Whether one scan saw its identifier at two addresses. The identifier then means this device only where the
    /// record is.
    pub shared: bool,
    /// The node and the address at which the scan of the report saw it before.
    pub seen_at: Option<(NodeId, IpAddr)>,
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

impl DeviceRecord {
    /// Checks whether a node that reports the device at an endpoint inside the scope of its command may write the
    /// record.
    ///
    /// Within a site, every node may write what another node of the site found. A record of a revoked node needs more
    /// than a MAC or serial, which another site can copy: see [`ClaimBasis`].
    ///
    /// # Errors
    ///
    /// Why the node may not write it.
    pub fn writable_by(&self, reporter: Reporter, endpoint: Endpoint) -> Result<(), RejectReason> {
        let is_of_site = self.site == Some(reporter.site);
        match (self.binding, self.owner) {
            (Binding::Server, _) => Err(RejectReason::PairedByServer),
            // The binding is the operator's decision, so it counts more than the attribution.
            (Binding::Node(node), _) if node == reporter.node => Ok(()),
            (Binding::Node(node), Some(owner)) if node == owner && is_of_site => Ok(()),
            (Binding::Node(_), _) => Err(RejectReason::BoundToOtherNode),
            (Binding::Free, None) => Err(RejectReason::Unattributed),
            (Binding::Free, Some(owner)) if owner == reporter.node || is_of_site => Ok(()),
            (Binding::Free, Some(_)) if self.owner_live => Err(RejectReason::OwnedByOtherNode),
            (Binding::Free, Some(_)) => match self.claim(reporter, endpoint) {
                Some(_) => Ok(()),
                None => Err(RejectReason::OwnedByRevokedNode),
            },
        }
    }

    /// The claim that the reporter of a writable record makes, if the record belongs to a revoked node.
    pub(crate) fn claim(&self, reporter: Reporter, endpoint: Endpoint) -> Option<Claim> {
        let from = self
            .owner
            .filter(|owner| !self.owner_live && *owner != reporter.node)?;
        let basis = if self.binding == Binding::Node(reporter.node) {
            ClaimBasis::Binding
        } else if reporter.replaces == Some(from) {
            ClaimBasis::Replacement
        } else if self.site == Some(reporter.site) {
            ClaimBasis::Site
        } else if self.endpoint == Some(endpoint) {
            ClaimBasis::Endpoint
        } else {
            return None;
        };
        Some(Claim { from, basis })
    }

    /// The node to which the record belongs after a report: the one that it is bound to, or the live node that found
    /// it, or the reporter.
    pub(crate) fn owner_after(&self, reporter: NodeId) -> NodeId {
        match self.binding {
            Binding::Node(node) => node,
            Binding::Free | Binding::Server => {
                self.owner.filter(|_| self.owner_live).unwrap_or(reporter)
            }
        }
    }

    /// Whether this is a record of the reporter's site at the endpoint. The same private address at another site is
    /// another endpoint.
    pub(crate) fn is_at(&self, site: SiteId, endpoint: Endpoint) -> bool {
        self.site == Some(site) && self.endpoint == Some(endpoint)
    }

    /// Whether the record's identifier means another device at this address, because one scan saw it at two. An IPv4
    /// and an IPv6 address may belong to one interface.
    pub(crate) fn is_another_at(&self, reporter: NodeId, ip: IpAddr) -> bool {
        let here = self.endpoint.is_some_and(|known| known.ip == ip);
        let seen_elsewhere = self.seen_at.is_some_and(|(node, seen)| {
            node == reporter && seen != ip && seen.is_ipv4() == ip.is_ipv4()
        });
        (self.shared && !here) || seen_elsewhere
    }

    /// Whether the report shows a MAC or serial that contradicts the identifier of the record.
    pub(crate) fn is_contradicted_by(&self, report: &DeviceReport) -> bool {
        match &self.identifier {
            DeviceIdentifier::Mac(mac) => report.facts.mac.is_some_and(|shown| shown != *mac),
            DeviceIdentifier::Serial(serial) => {
                let shown = report.facts.serial.as_ref();
                shown.is_some_and(|shown| shown != serial)
            }
            DeviceIdentifier::Auto(_) => false,
        }
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
