//! Deletion of devices by operators.

use std::collections::BTreeSet;

use async_trait::async_trait;
use fleet_core::{DeviceId, OrgId, Timestamp};

use crate::{Actor, StoreError};

/// Why devices were not deleted.
#[derive(Debug, thiserror::Error)]
pub enum DeleteDevicesError {
    /// No such device in the organization. Nothing was deleted.
    #[error("no device {0} in this organization: nothing was deleted")]
    NotFound(DeviceId),
    /// The database failed.
    #[error(transparent)]
    Storage(#[from] StoreError),
}

/// Deletion of devices.
#[async_trait]
pub trait Removal: Send + Sync {
    /// Deletes devices from the inventory, all or none: their bindings, credentials, former names and sightings end. A
    /// later report of the same device creates a new record. Addresses stay attributed to the nodes that found devices
    /// there, so that the server never dials them. Audited, with the reason, once for each device.
    async fn delete_devices(
        &self,
        org: OrgId,
        devices: BTreeSet<DeviceId>,
        reason: String,
        actor: Actor,
        now: Timestamp,
    ) -> Result<(), DeleteDevicesError>;
}
