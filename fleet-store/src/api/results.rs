//! The results of scans and the differences between them.

use std::{collections::BTreeMap, net::IpAddr};

use async_trait::async_trait;
use fleet_core::{
    DeviceId, DeviceIdentifier, Endpoint, HostReport, NodeId, OrgId, RejectReason, ScanId, SiteId,
    Timestamp,
};
use fleet_discovery::Tally;

use crate::{ScanChanges, ScanRow, StoreError};

/// The scan to compare with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Against {
    /// The newest earlier scan of the same targets on the same site that completed, at least in part.
    Previous,
    /// This scan.
    Scan(ScanId),
}

/// The difference between two scans.
#[derive(Clone, Debug, PartialEq)]
pub struct ScanDifference {
    /// The later scan.
    pub scan: ScanRow,
    /// The scan that it is compared with; none if there is no previous scan. Every device then is new.
    pub against: Option<ScanRow>,
    /// The devices of both results, by group and endpoint.
    pub rows: Vec<fleet_inventory::Row>,
    /// The nodes of both results, with their current sites.
    pub nodes: BTreeMap<NodeId, NodeOfSite>,
    /// The current identifiers of these devices.
    pub identifiers: BTreeMap<DeviceId, DeviceIdentifier>,
    /// The hosts of the later scan that answered without being identified.
    pub unidentified: Vec<UnidentifiedHost>,
    /// The devices of the later scan that the server rejected, by endpoint.
    pub rejected: Vec<RejectedReport>,
    /// Rejected reports without an endpoint of their own, by reason.
    pub rejected_otherwise: Vec<Tally>,
}

/// A host that answered without being identified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnidentifiedHost {
    /// The host.
    pub ip: IpAddr,
    /// The node that probed it; none in results of older versions.
    pub node: Option<NodeId>,
    /// The node's report of it; none from a node that reports only outcomes.
    pub report: Option<HostReport>,
}

/// A device whose report was rejected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RejectedReport {
    /// Where it answered.
    pub endpoint: Endpoint,
    /// The identifier that the node sent, as it sent it.
    pub identifier: String,
    /// Why.
    pub reason: RejectReason,
    /// The record of the other owner, if the reason is ownership.
    pub device: Option<DeviceId>,
    /// The node that reported it.
    pub node: NodeId,
}

/// A node of a result.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeOfSite {
    /// Its name.
    pub name: String,
    /// Its current site.
    pub site: SiteId,
    /// The name of that site.
    pub site_name: String,
}

/// Why two scans cannot be compared.
#[derive(Debug, thiserror::Error)]
pub enum DifferenceError {
    /// No such scan in this organization.
    #[error("no scan {0} in this organization")]
    NotFound(ScanId),
    /// A scan does not differ from itself.
    #[error("scan {0} cannot be compared with itself: name another scan")]
    Itself(ScanId),
    /// The database failed.
    #[error(transparent)]
    Storage(#[from] StoreError),
}

/// The results of scans.
#[async_trait]
pub trait Results: Send + Sync {
    /// Compares a scan with another one. A scan that has not ended is compared as far as its chunks have ended.
    async fn scan_difference(
        &self,
        org: OrgId,
        scan: ScanId,
        against: Against,
        now: Timestamp,
    ) -> Result<ScanDifference, DifferenceError>;

    /// Lists ended scans whose changes are not stored, the last ended first, at most `limit`.
    async fn uncompared_scans(&self, limit: u32) -> Result<Vec<(OrgId, ScanId)>, StoreError>;

    /// Stores the changes between a scan and the previous one, for lists of scans.
    async fn store_scan_changes(
        &self,
        scan: ScanId,
        changes: ScanChanges,
    ) -> Result<(), StoreError>;
}
