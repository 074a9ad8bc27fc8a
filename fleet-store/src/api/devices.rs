//! The inventory as operators read it.

use async_trait::async_trait;
use fleet_core::{
    DeviceFacts, DeviceId, DeviceIdentifier, Endpoint, IdentityChangeId, NodeId, OrgId,
    RejectReason, Timestamp,
};
use fleet_pairing::{IdentityReason, UndoRefusal};

use crate::{Actor, StoreError};

/// A device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceRow {
    /// The id that the first accepted report created.
    pub id: DeviceId,
    /// The strongest identity that reports have shown.
    pub identifier: DeviceIdentifier,
    /// The node that found it; `None` when the server found it.
    pub node: Option<NodeId>,
    /// Other nodes that report it, by id.
    pub seen_by: Vec<DeviceSighting>,
    /// The revoked node that had found it, if `node` claimed it by its endpoint and no operator has confirmed that.
    pub claimed_from: Option<NodeId>,
    /// Its last endpoint; `None` when another device answers there now.
    pub endpoint: Option<Endpoint>,
    /// The known facts.
    pub facts: DeviceFacts,
    /// When the first report was accepted.
    pub first_seen: Timestamp,
    /// When the last report was accepted.
    pub last_seen: Timestamp,
    /// When a scan found its address silent or refused, after its last report.
    pub missing_since: Option<Timestamp>,
    /// Its former identifiers, newest first, at most 32.
    pub aliases: Vec<DeviceAlias>,
    /// The labels of operators, in order.
    pub labels: Vec<String>,
}

/// A node that reports a device and to which it is not attributed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeviceSighting {
    /// The node.
    pub node: NodeId,
    /// The endpoint where it last found the device.
    pub endpoint: Endpoint,
    /// When it first reported the device.
    pub first_seen: Timestamp,
    /// When it last reported the device.
    pub last_seen: Timestamp,
}

/// A former identifier of a device, or of a record that was merged into it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceAlias {
    /// The id of the change, which an undo refers to.
    pub change: IdentityChangeId,
    /// The former identifier.
    pub identifier: DeviceIdentifier,
    /// Why the identifier belongs to this device.
    pub reason: IdentityReason,
    /// The record that was merged into this one; `None` when only the identifier changed.
    pub merged: Option<DeviceId>,
    /// The node whose report made the change, if known.
    pub node: Option<NodeId>,
    /// The evidence for the former identifier, escaped.
    pub evidence: String,
    /// When it happened.
    pub since: Timestamp,
}

/// The ways to name a device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DeviceName {
    /// The id. The id of a merged record resolves to the surviving record.
    Id(DeviceId),
    /// The identifier, current or former.
    Identifier(DeviceIdentifier),
}

/// A device that a node reported but that belongs to another node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RefusedDevice {
    /// The position of the row in pages.
    pub id: i64,
    /// The node that reported it.
    pub reporter: NodeId,
    /// The endpoint where the node found the device.
    pub endpoint: Endpoint,
    /// The identity that the report showed.
    pub identifier: DeviceIdentifier,
    /// The reason of the refusal.
    pub reason: RejectReason,
    /// The existing record of the device.
    pub device: DeviceId,
    /// The node that the record is attributed to; `None` when the server found it.
    pub owner: Option<NodeId>,
    /// The node that the record is bound to, if any.
    pub bound_to: Option<NodeId>,
    /// The number of its refused reports.
    pub count: u64,
    /// When the first of them arrived.
    pub first_seen: Timestamp,
    /// When the last of them arrived.
    pub last_seen: Timestamp,
}

/// Two devices that were separated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SeparatedDevices {
    /// The device that keeps endpoint, history and the stronger identifier.
    pub kept: DeviceId,
    /// The device with the former identifier: a restored record, or a new one.
    pub restored: DeviceId,
}

/// Why an identity change was not undone.
#[derive(Debug, thiserror::Error)]
pub enum UndoError {
    /// No such change in this organization.
    #[error(
        "no identity change {0} in this organization: `fleetctl devices show` lists those of a device"
    )]
    NotFound(IdentityChangeId),
    /// The state of the change does not allow it.
    #[error(transparent)]
    Refused(#[from] UndoRefusal),
    /// The database failed.
    #[error(transparent)]
    Storage(#[from] StoreError),
}

/// The inventory.
#[async_trait]
pub trait Inventory: Send + Sync {
    /// Lists devices with ids above `after`, by id, at most `limit`: those that one node found or sees, or all.
    async fn list_devices(
        &self,
        org: OrgId,
        node: Option<NodeId>,
        after: DeviceId,
        limit: u32,
    ) -> Result<Vec<DeviceRow>, StoreError>;

    /// Returns one device by any of its names. A merged record resolves to the surviving record.
    async fn device(&self, org: OrgId, name: DeviceName) -> Result<Option<DeviceRow>, StoreError>;

    /// Separates two devices that a report had merged. They stay separate until the weaker one shows another
    /// identity. Audited.
    async fn undo_identity_change(
        &self,
        org: OrgId,
        change: IdentityChangeId,
        actor: Actor,
        now: Timestamp,
    ) -> Result<SeparatedDevices, UndoError>;

    /// Lists devices that are still refused, of one reporter or of all, with ids above `after`. Also returns
    /// the id to continue after, or `None` at the end. The store keeps at most 4,096 rows per reporter.
    async fn list_refused_devices(
        &self,
        org: OrgId,
        reporter: Option<NodeId>,
        after: i64,
        limit: u32,
    ) -> Result<(Vec<RefusedDevice>, Option<i64>), StoreError>;

    /// Deletes rows of devices that are no longer refused or were not reported for 30 days. It reads 1,000 rows
    /// with ids above `after`. Returns the id to continue after, or `None` at the end.
    async fn sweep_refused_devices(
        &self,
        after: i64,
        now: Timestamp,
    ) -> Result<Option<i64>, StoreError>;
}
