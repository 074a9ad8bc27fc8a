//! The inventory as operators read it.

use async_trait::async_trait;
use fleet_core::{DeviceId, Endpoint, NodeId, OrgId};
use sea_orm::{ColumnTrait, DbErr, EntityTrait, QueryFilter, QueryOrder, QuerySelect};

use super::{codec, entity::device};
use crate::{DeviceRow, Inventory, SqlStore, StoreError};

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
        let rows = query
            .order_by_asc(device::Column::Id)
            .limit(u64::from(limit))
            .all(self.reader())
            .await;
        let rows = rows.and_then(|rows| rows.into_iter().map(row).collect());
        Self::reading("list_devices", rows)
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

fn row(model: device::Model) -> Result<DeviceRow, DbErr> {
    Ok(DeviceRow {
        id: DeviceId(model.id),
        endpoint: endpoint(&model)?,
        identifier: model.identifier.0,
        node: model.node_id.map(NodeId),
        scheme: model.scheme,
        driver: model.driver,
        model: model.model,
        manufacturer: model.manufacturer,
        firmware: model.firmware,
        mac: model.mac.map(|mac| mac.0),
        serial: model.serial,
        evidence: model.evidence,
        first_seen: model.first_seen.0,
        last_seen: model.last_seen.0,
    })
}
