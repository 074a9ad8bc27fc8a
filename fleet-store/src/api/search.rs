//! Searching the inventory, page by page.

use async_trait::async_trait;
use fleet_core::{DeviceId, NodeId, OrgId, PairingStatus, Timestamp};
use fleet_inventory::Search;

use crate::{DeviceRow, StoreError};

/// The order of a list of devices.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum DeviceOrder {
    /// By id, which is the order of discovery.
    #[default]
    Id,
    /// By the last report.
    LastSeen,
    /// By the first report.
    FirstSeen,
    /// By model.
    Model,
    /// By firmware version.
    Firmware,
    /// By address, then by port. Devices without an address are first.
    Address,
}

/// The position after a device in a list. Its text form is a page cursor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DevicePosition {
    /// The value by which the list is ordered.
    pub key: String,
    /// The device.
    pub device: DeviceId,
}

/// A page to read.
#[derive(Clone, Debug)]
pub struct DeviceQuery {
    /// The conditions.
    pub search: Search,
    /// The node that found the devices or sees them; none for every node.
    pub node: Option<NodeId>,
    /// The order.
    pub order: DeviceOrder,
    /// Whether the order is reversed.
    pub descending: bool,
    /// The last device of the previous page.
    pub after: Option<DevicePosition>,
    /// The maximum number of devices.
    pub limit: u32,
    /// The current time, for ages.
    pub now: Timestamp,
}

/// A page of devices.
#[derive(Clone, Debug, PartialEq)]
pub struct DevicePage {
    /// The devices.
    pub devices: Vec<DeviceRow>,
    /// The position after the last one; none at the end.
    pub next: Option<DevicePosition>,
}

/// How many devices match, and their most frequent values.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DeviceFacets {
    /// All matching devices.
    pub total: u64,
    /// The makes, the most frequent first.
    pub makes: Vec<(String, u64)>,
    /// The models, the most frequent first.
    pub models: Vec<(String, u64)>,
    /// The firmware versions, the most frequent first.
    pub firmware: Vec<(String, u64)>,
    /// The nodes that found them, the most frequent first; none for the server.
    pub nodes: Vec<(Option<NodeId>, u64)>,
    /// The pairing states.
    pub pairing: Vec<(PairingStatus, u64)>,
}

/// Searches of the inventory.
#[async_trait]
pub trait DeviceSearch: Send + Sync {
    /// Returns a page of the devices that match.
    async fn search_devices(
        &self,
        org: OrgId,
        query: DeviceQuery,
    ) -> Result<DevicePage, StoreError>;

    /// Counts the devices that match, in total and by their most frequent values.
    async fn device_facets(
        &self,
        org: OrgId,
        search: &Search,
        node: Option<NodeId>,
        now: Timestamp,
    ) -> Result<DeviceFacets, StoreError>;
}
