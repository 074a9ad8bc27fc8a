//! Deletion of devices by operators.

use std::collections::BTreeSet;

use super::{
    audit, details,
    entity::{device, device_alias, device_sighting, identity_change, refused_device},
    pairing::bindings,
};
use crate::{DeleteDevicesError, Removal, sql::prelude::*};

#[async_trait]
impl Removal for SqlStore {
    async fn delete_devices(
        &self,
        org: OrgId,
        devices: BTreeSet<DeviceId>,
        reason: String,
        actor: Actor,
        now: Timestamp,
    ) -> Result<(), DeleteDevicesError> {
        transaction!(self, "delete_devices", |tx| {
            let ids = || devices.iter().map(|device| device.0);
            let found = bindings::lock_devices(tx, org, ids()).await?;
            let known: BTreeSet<i64> = found.iter().map(|device| device.id).collect();
            if let Some(missing) = devices.iter().find(|device| !known.contains(&device.0)) {
                return refuse(DeleteDevicesError::NotFound(*missing));
            }
            let locked: Vec<i64> = ids().collect();
            bindings::release(tx, &locked, "the device was deleted").await?;
            device::Entity::update_many()
                .col_expr(device::Column::DeletedAt, Micros(now).into())
                .filter(device::Column::Id.is_in(ids()))
                .exec(tx)
                .await?;
            details::forget(tx, locked.iter().copied()).await?;
            device_alias::Entity::delete_many()
                .filter(device_alias::Column::DeviceId.is_in(ids()))
                .exec(tx)
                .await?;
            device_sighting::Entity::delete_many()
                .filter(device_sighting::Column::DeviceId.is_in(ids()))
                .exec(tx)
                .await?;
            refused_device::Entity::delete_many()
                .filter(refused_device::Column::DeviceId.is_in(ids()))
                .exec(tx)
                .await?;
            // A former name must not lead to the deleted record, and nothing can be taken apart any more.
            identity_change::Entity::update_many()
                .col_expr(identity_change::Column::UndoneAt, Micros(now).into())
                .filter(identity_change::Column::DeviceId.is_in(ids()))
                .filter(identity_change::Column::UndoneAt.is_null())
                .exec(tx)
                .await?;
            for device in &found {
                let subject = format!("{}: {reason}", bindings::shown(device));
                audit::done(tx, org, &actor, "device.delete", subject, now).await?;
            }
            Ok(())
        })
    }
}
