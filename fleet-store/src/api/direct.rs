//! Direct scans by the server itself: the addresses it may dial, and the devices it found there.
//!
//! The server never dials an address where a node has or had a device. A node can report a device at any
//! moment, on any replica, and a check before the dial would come too early. Therefore an address is
//! *released* for one direct scan, and while it is, no transaction attributes an endpoint there to a node.
//! See [`Direct`].

use std::{collections::BTreeSet, net::IpAddr};

use async_trait::async_trait;
use fleet_core::{DeviceIdentifier, DeviceReport, NodeId, OrgId, ScanId, Timestamp};
use fleet_pairing::DirectRefusal;

use crate::{DeviceRow, StoreError};

/// Addresses that the server would like to dial next.
#[derive(Clone, Debug)]
pub struct DialRequest {
    /// The organization.
    pub org: OrgId,
    /// The direct scan or pairing. It has no row of its own.
    pub scan: ScanId,
    /// At most 1,024.
    pub addresses: Vec<IpAddr>,
    /// How long nodes' reports wait for this release if it is never given back: the server that asked
    /// must have stopped dialing well before.
    pub until: Timestamp,
    /// The current time.
    pub now: Timestamp,
}

/// The addresses that the server may dial.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Released {
    /// Canonical, each once, in the order asked.
    pub allowed: Vec<IpAddr>,
    /// The others.
    pub excluded: Vec<Exclusion>,
}

/// An address where a node has or had a device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exclusion {
    /// The address.
    pub ip: IpAddr,
    /// The first node that it was attributed to, revoked or not.
    pub node: NodeId,
    /// The name of that node.
    pub node_name: String,
}

/// Why nothing was released.
#[derive(Debug, thiserror::Error)]
pub enum ReleaseError {
    /// Another scan of the server's own is dialing for this organization.
    #[error(
        "the server is dialing for another scan or pairing of this organization (run {0}): try again when it is over"
    )]
    Busy(ScanId),
    /// The database failed.
    #[error(transparent)]
    Storage(#[from] StoreError),
}

/// Devices that the server found at released addresses.
#[derive(Clone, Debug)]
pub struct NewSightings {
    /// The organization.
    pub org: OrgId,
    /// The scan that the addresses were released for.
    pub scan: ScanId,
    /// In order.
    pub rows: Vec<DeviceReport>,
    /// The current time.
    pub now: Timestamp,
}

/// The outcome for a device that the server found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Sighted {
    /// Stored without attribution.
    Stored(Box<DeviceRow>),
    /// It belongs to a node. Its address is excluded from now on.
    OfNode {
        /// Why.
        refusal: DirectRefusal,
        /// The name of that node.
        node_name: String,
    },
    /// Its address is not, or no longer, released for this scan.
    NotReleased,
}

/// Direct scans by the server itself.
///
/// The guarantee: between the commit of [`Direct::release_for_dialing`] and the earlier of
/// [`Direct::give_back`] and [`DialRequest::until`], no transaction commits that attributes an endpoint
/// at an allowed address to a node. An address where an endpoint was ever attributed is never allowed. A
/// server that dials only in that time thus never dials an address after a node's report of it was
/// accepted. The nodes' side waits meanwhile: [`ReportError::BeingDialed`](crate::ReportError).
#[async_trait]
pub trait Direct: Send + Sync {
    /// Releases addresses for one scan of the server's own; one at a time an organization.
    async fn release_for_dialing(&self, request: DialRequest) -> Result<Released, ReleaseError>;

    /// Stores what was found at addresses that are released for the scan: new records and updates of
    /// unattributed ones. Returns one outcome for each row, in order.
    async fn record_direct(&self, sightings: NewSightings) -> Result<Vec<Sighted>, StoreError>;

    /// The live devices that go by one of these identifiers now.
    async fn devices_named(
        &self,
        org: OrgId,
        identifiers: BTreeSet<DeviceIdentifier>,
    ) -> Result<Vec<DeviceRow>, StoreError>;

    /// Ends every release of a scan that no longer dials.
    async fn give_back(&self, org: OrgId, scan: ScanId) -> Result<(), StoreError>;
}
