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
    /// Given at first acceptance.
    pub id: DeviceId,
    /// What makes it the same device.
    pub identifier: DeviceIdentifier,
    /// Which node found it; none when the server itself did.
    pub node: Option<NodeId>,
    /// Where it was last reached; none when another device took the place.
    pub endpoint: Option<Endpoint>,
    /// What is known of it.
    pub facts: DeviceFacts,
    /// The first accepted report.
    pub first_seen: Timestamp,
    /// The last accepted report.
    pub last_seen: Timestamp,
    /// What it was called before, newest first; 32 at the most.
    pub aliases: Vec<DeviceAlias>,
}

/// A name that a device had, or that a record had which ended in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceAlias {
    /// Names the change for taking it back.
    pub change: IdentityChangeId,
    /// The name.
    pub identifier: DeviceIdentifier,
    /// Why it is a name of this device.
    pub reason: IdentityReason,
    /// The record that ended in this one; none where it only changed its identifier.
    pub merged: Option<DeviceId>,
    /// The node whose report made the change; none for changes older than the keeping of reasons.
    pub node: Option<NodeId>,
    /// What had named the device under this name, escaped.
    pub evidence: String,
    /// When.
    pub since: Timestamp,
}

/// How an operator names a device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DeviceName {
    /// By id, also that of a record that has ended in another.
    Id(DeviceId),
    /// By identifier, also one that it had before.
    Identifier(DeviceIdentifier),
}

/// A device that was refused to a node because another has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RefusedDevice {
    /// Pages go by it.
    pub id: i64,
    /// The node that reported it.
    pub reporter: NodeId,
    /// Where it found the device.
    pub endpoint: Endpoint,
    /// The identity that the report showed.
    pub identifier: DeviceIdentifier,
    /// Why it is refused now.
    pub reason: RejectReason,
    /// The record that stands in the way.
    pub device: DeviceId,
    /// Whom that is attributed to; none when the server found it.
    pub owner: Option<NodeId>,
    /// The node that it is bound to, if it is to one.
    pub bound_to: Option<NodeId>,
    /// Reports of it that were refused.
    pub count: u64,
    /// The first of them.
    pub first_seen: Timestamp,
    /// The last of them.
    pub last_seen: Timestamp,
}

/// Two devices that were one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ToldApart {
    /// The one that keeps place, history and the stronger name.
    pub kept: DeviceId,
    /// The one with the former name: a record that lives again, or a new one.
    pub restored: DeviceId,
}

/// Why a change of identity was not taken back.
#[derive(Debug, thiserror::Error)]
pub enum UndoError {
    /// No such change in this organization.
    #[error(
        "no identity change {0} in this organization: `fleetctl devices show` lists those of a device"
    )]
    NotFound(IdentityChangeId),
    /// By its state.
    #[error(transparent)]
    Refused(#[from] UndoRefusal),
    /// Storage trouble.
    #[error(transparent)]
    Storage(#[from] StoreError),
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

    /// One device by any of its names; of a record that has ended in another, that other.
    async fn device(&self, org: OrgId, name: DeviceName) -> Result<Option<DeviceRow>, StoreError>;

    /// Takes back what a report made one, with its audit record: the two are two devices again, and stay
    /// so until the weaker one shows another identity.
    async fn undo_identity_change(
        &self,
        org: OrgId,
        change: IdentityChangeId,
        actor: Actor,
        now: Timestamp,
    ) -> Result<ToldApart, UndoError>;

    /// Devices that are refused still because another has them, of one reporter or of all, from ids above
    /// `after`. With them the id to go on after; none at the end. At most 4,096 are kept for a reporter.
    async fn list_refused_devices(
        &self,
        org: OrgId,
        reporter: Option<NodeId>,
        after: i64,
        limit: u32,
    ) -> Result<(Vec<RefusedDevice>, Option<i64>), StoreError>;

    /// Forgets refused devices that are not refused any more, or were not reported for 30 days, among
    /// 1,000 from ids above `after`. Answers the id to go on after; none at the end.
    async fn sweep_refused_devices(
        &self,
        after: i64,
        now: Timestamp,
    ) -> Result<Option<i64>, StoreError>;
}
