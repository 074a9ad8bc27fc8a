//! The inventory as operators read it.

use std::{collections::BTreeMap, mem::take};

use async_trait::async_trait;
use fleet_core::{
    DeviceFacts, DeviceId, Endpoint, IdentityChangeId, NodeId, OrgId, Serial, Timestamp,
};
use sea_orm::{
    ColumnTrait, ConnectionTrait, DbErr, EntityTrait, QueryFilter, QueryOrder, QuerySelect,
};

use super::{
    codec,
    entity::{device, identity_change},
    identity, refused,
    value::AsText,
};
use crate::{
    Actor, DeviceAlias, DeviceName, DeviceRow, Inventory, RefusedDevice, SqlStore, StoreError,
    ToldApart, UndoError,
};

#[async_trait]
impl Inventory for SqlStore {
    async fn list_devices(
        &self,
        org: OrgId,
        node: Option<NodeId>,
        after: DeviceId,
        limit: u32,
    ) -> Result<Vec<DeviceRow>, StoreError> {
        let mut query = device::Entity::find()
            .filter(device::Column::OrgId.eq(org.0))
            .filter(device::Column::DeletedAt.is_null())
            .filter(device::Column::Id.gt(after.0));
        if let Some(node) = node {
            query = query.filter(device::Column::NodeId.eq(node.0));
        }
        let models = query
            .order_by_asc(device::Column::Id)
            .limit(u64::from(limit))
            .all(self.reader())
            .await;
        let rows = match models {
            Ok(models) => rows(self.reader(), models).await,
            Err(error) => Err(error),
        };
        Self::reading("list_devices", rows)
    }

    async fn device(&self, org: OrgId, name: DeviceName) -> Result<Option<DeviceRow>, StoreError> {
        let found = match identity::find(self.reader(), org, &name).await {
            Ok(Some(model)) => rows(self.reader(), vec![model]).await,
            Ok(None) => Ok(Vec::new()),
            Err(error) => Err(error),
        };
        Self::reading("device", found.map(|rows| rows.into_iter().next()))
    }

    async fn undo_identity_change(
        &self,
        org: OrgId,
        change: IdentityChangeId,
        actor: Actor,
        now: Timestamp,
    ) -> Result<ToldApart, UndoError> {
        self.transaction(
            "undo_identity_change",
            (org, change, actor, now),
            |tx, (org, change, actor, now)| {
                Box::pin(identity::undo(tx, *org, *change, actor, *now))
            },
        )
        .await
    }

    async fn list_refused_devices(
        &self,
        org: OrgId,
        reporter: Option<NodeId>,
        after: i64,
        limit: u32,
    ) -> Result<(Vec<RefusedDevice>, Option<i64>), StoreError> {
        let page = refused::page(self.reader(), Some(org), reporter, after, limit).await;
        Self::reading(
            "list_refused_devices",
            page.map(|page| (page.refused, page.next)),
        )
    }

    async fn sweep_refused_devices(
        &self,
        after: i64,
        now: Timestamp,
    ) -> Result<Option<i64>, StoreError> {
        let page = refused::page(self.reader(), None, None, after, refused::SWEPT).await;
        let page = Self::reading("sweep_refused_devices", page)?;
        let forget = page.to_forget(now);
        if !forget.is_empty() {
            self.transaction("sweep_refused_devices", (forget, now), |tx, (ids, now)| {
                Box::pin(refused::forget(tx, ids, *now))
            })
            .await?;
        }
        Ok(page.next)
    }
}

/// Former names shown of a device.
const ALIASES: usize = 32;

/// Devices with their former names: one query more, however many there are.
pub(super) async fn rows(
    db: &impl ConnectionTrait,
    models: Vec<device::Model>,
) -> Result<Vec<DeviceRow>, DbErr> {
    let mut aliases: BTreeMap<i64, Vec<DeviceAlias>> = BTreeMap::new();
    if !models.is_empty() {
        let changes = identity_change::Entity::find()
            .filter(identity_change::Column::DeviceId.is_in(models.iter().map(|model| model.id)))
            .filter(identity_change::Column::UndoneAt.is_null())
            .order_by_desc(identity_change::Column::Id)
            .all(db)
            .await?;
        for change in changes {
            let of_device = aliases.entry(change.device_id).or_default();
            if of_device.len() < ALIASES {
                of_device.push(alias(change));
            }
        }
    }
    models
        .into_iter()
        .map(|model| {
            let aliases = aliases.remove(&model.id).unwrap_or_default();
            row(model, aliases)
        })
        .collect()
}

fn alias(change: identity_change::Model) -> DeviceAlias {
    DeviceAlias {
        change: IdentityChangeId(change.id),
        identifier: change.former.0,
        reason: change.reason.0,
        merged: change.merged_device_id.map(DeviceId),
        node: change.node_id.map(NodeId),
        evidence: change.evidence,
        since: change.at.0,
    }
}

/// Where a device is, if it is anywhere.
pub(super) fn endpoint(model: &device::Model) -> Result<Option<Endpoint>, DbErr> {
    match (model.ip, model.port) {
        (Some(ip), Some(port)) => Ok(Some(Endpoint {
            ip: ip.0,
            port: codec::read_port(port)?,
        })),
        _ => Ok(None),
    }
}

/// What a row says of its device.
pub(super) fn facts(model: &device::Model) -> DeviceFacts {
    take_facts(&mut model.clone())
}

/// Moves the facts out of a row, which has none afterwards.
pub(super) fn take_facts(model: &mut device::Model) -> DeviceFacts {
    DeviceFacts {
        driver: take(&mut model.driver),
        scheme: take(&mut model.scheme),
        model: take(&mut model.model),
        manufacturer: take(&mut model.manufacturer),
        firmware: take(&mut model.firmware),
        mac: model.mac.take().map(|mac| mac.0),
        serial: Serial::new(&take(&mut model.serial)),
        evidence: take(&mut model.evidence),
    }
}

/// Writes facts into a row.
pub(super) fn put_facts(model: &mut device::Model, facts: DeviceFacts) {
    model.driver = facts.driver;
    model.scheme = facts.scheme;
    model.model = facts.model;
    model.manufacturer = facts.manufacturer;
    model.firmware = facts.firmware;
    model.mac = facts.mac.map(AsText);
    model.serial = facts
        .serial
        .map_or_else(String::new, |serial| serial.as_str().to_owned());
    model.evidence = facts.evidence;
}

/// A device as others see it.
pub(super) fn row(mut model: device::Model, aliases: Vec<DeviceAlias>) -> Result<DeviceRow, DbErr> {
    Ok(DeviceRow {
        facts: take_facts(&mut model),
        id: DeviceId(model.id),
        endpoint: endpoint(&model)?,
        identifier: model.identifier.0,
        node: model.node_id.map(NodeId),
        first_seen: model.first_seen.0,
        last_seen: model.last_seen.0,
        aliases,
    })
}
