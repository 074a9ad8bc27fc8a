//! The overview of an organization: counts, the last days, and the maps of its sites.

use async_trait::async_trait;
use fleet_core::{DeviceId, OrgId, ScanId, SiteId, Timestamp};
use fleet_inventory::{BlockNumber, CellState, Day, DayCounts, WideCounts, WideNetwork};

use crate::StoreError;

/// Counts of an organization. Each is the length of the list that a search shows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OverviewCounts {
    /// All devices.
    pub devices: u64,
    /// Devices of the search `first:today`.
    pub new_today: u64,
    /// Devices of the search `missing:yes`.
    pub missing: u64,
    /// Devices of the search `pairing:password`.
    pub need_password: u64,
    /// Scans that run.
    pub scans_running: u64,
}

/// Some blocks of a site's map.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SiteMap {
    /// The blocks, by address.
    pub blocks: Vec<MapBlock>,
    /// The last block of this page; none at the end.
    pub next: Option<BlockNumber>,
    /// The number of all blocks.
    pub total: u64,
    /// On the first page: the first IPv6 networks, by address.
    pub wide: Vec<(WideNetwork, WideCounts)>,
    /// The number of all IPv6 networks; 0 on later pages.
    pub wide_total: u64,
}

/// A /24 network of a site.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MapBlock {
    /// The network.
    pub block: BlockNumber,
    /// Its 256 addresses, in order.
    pub cells: Vec<MapCell>,
    /// When a chunk with addresses of it last ended; none if no scan had any.
    pub scanned_at: Option<Timestamp>,
}

/// An address on the map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MapCell {
    /// What is known about it.
    pub state: CellState,
    /// The device that has the address.
    pub device: Option<DeviceId>,
    /// The last scan that describes an unidentified host at the address.
    pub host_scan: Option<ScanId>,
    /// When it last answered.
    pub answered: Option<Timestamp>,
}

/// The overview.
#[async_trait]
pub trait Overview: Send + Sync {
    /// Counts devices and scans.
    async fn overview_counts(
        &self,
        org: OrgId,
        now: Timestamp,
    ) -> Result<OverviewCounts, StoreError>;

    /// Returns the counts of the last [`fleet_inventory::DAYS`] days, oldest first.
    async fn overview_days(
        &self,
        org: OrgId,
        now: Timestamp,
    ) -> Result<Vec<(Day, DayCounts)>, StoreError>;

    /// Returns blocks of a site's map: those with scanned addresses, and those of the subnets that its nodes announced.
    /// None if the organization has no such site.
    async fn site_map(
        &self,
        org: OrgId,
        site: SiteId,
        after: Option<BlockNumber>,
        limit: u32,
    ) -> Result<Option<SiteMap>, StoreError>;
}
