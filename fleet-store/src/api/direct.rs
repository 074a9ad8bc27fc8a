//! Direct scans by the server itself: the addresses it may dial, and the devices it found there.
//!
//! The server never dials an address where a node has or had a device. A node can report a device at any
//! moment, on any replica, so a check before the dial would not be enough. Therefore an address is *released*
//! for one direct scan. During the release, no transaction attributes an endpoint at that address to a node.
//! See [`Direct`].

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use async_trait::async_trait;
use fleet_core::{
    DeviceId, DeviceIdentifier, DeviceReport, NodeId, OrgId, Port, ReplicaId, ScanId,
    TargetOutcome, Timestamp,
};
use fleet_inventory::Seen;
use fleet_pairing::{DirectRefusal, SharedIdentity};

use crate::{DeviceRow, StoreError};

/// Addresses that the server requests permission to dial.
#[derive(Clone, Debug)]
pub struct DialRequest {
    /// The organization.
    pub org: OrgId,
    /// The direct scan or pairing.
    pub scan: ScanId,
    /// The addresses, at most 1,024.
    pub addresses: Vec<IpAddr>,
    /// When the release ends if it is never given back. Until then, nodes' reports for these addresses wait.
    /// The server that requested it must stop dialing well before.
    pub until: Timestamp,
    /// The current time.
    pub now: Timestamp,
}

/// The addresses that the server may dial.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Released {
    /// Allowed addresses in canonical form, without duplicates, in the order of the request.
    pub allowed: Vec<IpAddr>,
    /// Excluded addresses.
    pub excluded: Vec<Exclusion>,
}

/// An address where a node has or had a device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exclusion {
    /// The address.
    pub ip: IpAddr,
    /// The first node that it was attributed to, revoked or not, and its name. None if that node is of another
    /// organization.
    pub node: Option<(NodeId, String)>,
}

/// Why no address was released.
#[derive(Debug, thiserror::Error)]
pub enum ReleaseError {
    /// Another direct scan of this organization is dialing.
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
    /// The found devices, in order.
    pub rows: Vec<DeviceReport>,
    /// The devices that this scan has stored before, each with the address where it was seen.
    pub seen: BTreeMap<DeviceId, IpAddr>,
    /// The current time.
    pub now: Timestamp,
}

/// The result of storing devices that the server found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sighted {
    /// One outcome for each row, in order.
    pub outcomes: Vec<DirectOutcome>,
    /// The MACs and serials that identify no device, because two of them show each.
    pub shared: Vec<SharedIdentity>,
}

/// The outcome for a device that the server found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DirectOutcome {
    /// Stored without attribution.
    Stored(Box<DeviceRow>),
    /// The device belongs to a node. Its address is excluded from now on.
    OfNode {
        /// The reason.
        refusal: DirectRefusal,
        /// The name of that node.
        node_name: String,
    },
    /// The address is not released for this scan, or not any more.
    NotReleased,
}

/// A direct scan that has begun and has not ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DirectRun {
    /// The organization.
    pub org: OrgId,
    /// The scan.
    pub scan: ScanId,
    /// The server that runs it.
    pub replica: ReplicaId,
    /// When it started.
    pub started: Timestamp,
}

/// A direct scan that ended: it ran to its end, failed, or was canceled.
#[derive(Clone, Debug)]
pub struct DirectEnd {
    /// The organization.
    pub org: OrgId,
    /// The scan.
    pub scan: ScanId,
    /// When it started.
    pub started: Timestamp,
    /// Why it failed; none if it did not.
    pub failure: Option<String>,
    /// The devices that it stored, with the facts that it found. Their node and site are 0.
    pub seen: Vec<Seen>,
    /// The outcome of each address that it dialed, at most 65,536.
    pub outcomes: BTreeMap<IpAddr, TargetOutcome>,
    /// The ports that it dialed at each address.
    pub ports: Vec<Port>,
    /// The current time.
    pub now: Timestamp,
}

/// Direct scans by the server itself.
///
/// The store guarantees the following. A release lasts from the commit of [`Direct::release_for_dialing`] to
/// the earlier of [`Direct::give_back`] and [`DialRequest::until`]. During that time, no transaction commits
/// that attributes an endpoint at an allowed address to a node. An address where an endpoint was ever
/// attributed to a node of any organization is never allowed. A server that dials only during a release thus never dials an address after a
/// node's report of it was accepted. Reports of such addresses are refused with
/// [`ReportError::BeingDialed`](crate::ReportError).
#[async_trait]
pub trait Direct: Send + Sync {
    /// Releases addresses for one direct scan. An organization can have one such scan at a time.
    async fn release_for_dialing(&self, request: DialRequest) -> Result<Released, ReleaseError>;

    /// Stores the devices found at addresses that are released for the scan: new records, and updates of
    /// unattributed records.
    async fn record_direct(&self, sightings: NewSightings) -> Result<Sighted, StoreError>;

    /// Lists the live devices that currently have one of these identifiers.
    async fn devices_named(
        &self,
        org: OrgId,
        identifiers: BTreeSet<DeviceIdentifier>,
    ) -> Result<Vec<DeviceRow>, StoreError>;

    /// Records that a server begins a direct scan. Call it before the first dial, so that another server finds the scan
    /// if this one stops before [`Direct::end_direct`].
    async fn begin_direct(&self, run: DirectRun) -> Result<(), StoreError>;

    /// Marks the devices of the server's own network that an ended scan did not find, and stores the messages of alerts
    /// about it, in one transaction with the state of its devices and the end of its record. Returns the number of
    /// messages.
    async fn end_direct(&self, end: DirectEnd) -> Result<u64, StoreError>;

    /// Lists the direct scans of all organizations that have not ended, oldest first.
    async fn direct_runs(&self) -> Result<Vec<DirectRun>, StoreError>;

    /// Ends a direct scan whose server has stopped: as failed, with the devices that it stored. No device is marked as
    /// missing, because the outcomes of the addresses were in the memory of that server. Of several calls, one ends the
    /// scan. Returns the number of messages; `None` if the scan has ended before.
    async fn end_stopped_direct(
        &self,
        scan: ScanId,
        now: Timestamp,
    ) -> Result<Option<u64>, StoreError>;

    /// Ends every release of a scan that has stopped dialing.
    async fn give_back(&self, org: OrgId, scan: ScanId) -> Result<(), StoreError>;
}
