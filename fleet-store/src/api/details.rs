//! One device as its page shows it: its timeline, its open ports, and the labels and the note of operators.

use std::collections::BTreeSet;

use async_trait::async_trait;
use fleet_core::{DeviceId, IdentityChangeId, NodeId, OperatorId, OrgId, Port, Timestamp};
use fleet_inventory::{EventKind, Label};

use crate::{Actor, DeviceRow, StoreError};

/// What is known of one device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceDetail {
    /// The device.
    pub device: DeviceRow,
    /// The ports of its address at which nodes of its site found devices, in order.
    pub ports: Vec<Port>,
    /// What happened to it, newest first, at most 200.
    pub events: Vec<DeviceEvent>,
    /// The note of operators.
    pub note: Option<DeviceNote>,
}

/// What happened to a device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceEvent {
    /// What happened.
    pub kind: EventKind,
    /// The value before, or the merged identifier.
    pub former: String,
    /// The value after.
    pub became: String,
    /// Why identifiers were merged, as part of a sentence; empty for other events.
    pub reason: String,
    /// The merge, if an undo is possible.
    pub undo: Option<IdentityChangeId>,
    /// The node that reported it.
    pub node: Option<NodeId>,
    /// When.
    pub at: Timestamp,
}

/// A note on a device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceNote {
    /// The text.
    pub text: String,
    /// The e-mail of the operator who wrote it.
    pub author: String,
    /// When it was written.
    pub changed_at: Timestamp,
}

/// Why a device did not change.
#[derive(Debug, thiserror::Error)]
pub enum AnnotateError {
    /// No such device in the organization. Nothing was changed.
    #[error("no device {0} in this organization: nothing was changed")]
    NotFound(DeviceId),
    /// A device would have too many labels.
    #[error(
        "device {device} would have {count} labels, and {most} are the most: remove some first"
    )]
    TooMany {
        /// The device.
        device: DeviceId,
        /// The number of its labels with the new ones.
        count: usize,
        /// The limit.
        most: usize,
    },
    /// The database failed.
    #[error(transparent)]
    Storage(#[from] StoreError),
}

/// Device pages.
#[async_trait]
pub trait DeviceDetails: Send + Sync {
    /// Returns what is known of a device. The id of a merged record resolves to the surviving record.
    async fn device_detail(
        &self,
        org: OrgId,
        device: DeviceId,
    ) -> Result<Option<DeviceDetail>, StoreError>;

    /// Adds labels to devices and removes others, of all devices or none. Audited, once for each device.
    async fn label_devices(
        &self,
        org: OrgId,
        devices: BTreeSet<DeviceId>,
        add: BTreeSet<Label>,
        remove: BTreeSet<Label>,
        actor: Actor,
        now: Timestamp,
    ) -> Result<(), AnnotateError>;

    /// Replaces the note of a device; an empty text deletes it. Audited.
    async fn set_device_note(
        &self,
        org: OrgId,
        device: DeviceId,
        text: String,
        operator: OperatorId,
        actor: Actor,
        now: Timestamp,
    ) -> Result<(), AnnotateError>;
}
