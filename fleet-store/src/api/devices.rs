//! The inventory as operators read it.

use async_trait::async_trait;
use fleet_core::{DeviceId, DeviceIdentifier, Endpoint, Mac, NodeId, OrgId, Timestamp};

use crate::StoreError;

/// A device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceRow {
    /// Given at first acceptance.
    pub id: DeviceId,
    /// What makes it the same device.
    pub identifier: DeviceIdentifier,
    /// Which node found it; none when the server itself did.
    pub node: Option<NodeId>,
    /// Where it was last reached; none when another device took the place.
    pub endpoint: Option<Endpoint>,
    /// Data, not a link.
    pub scheme: String,
    /// The driver that named it.
    pub driver: String,
    /// May be empty.
    pub model: String,
    /// May be empty.
    pub manufacturer: String,
    /// May be empty.
    pub firmware: String,
    /// If it ever showed one.
    pub mac: Option<Mac>,
    /// May be empty.
    pub serial: String,
    /// What named it, escaped.
    pub evidence: String,
    /// The first accepted report.
    pub first_seen: Timestamp,
    /// The last accepted report.
    pub last_seen: Timestamp,
}

/// The inventory.
#[async_trait]
pub trait Inventory: Send + Sync {
    /// Devices with ids above `after`, by id, at most `limit`; of one node or of all.
    async fn list_devices(
        &self,
        org: OrgId,
        node: Option<NodeId>,
        after: DeviceId,
        limit: u32,
    ) -> Result<Vec<DeviceRow>, StoreError>;
}
