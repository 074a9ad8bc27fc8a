//! Loading and locking the devices that a report can affect.

use std::collections::{BTreeMap, BTreeSet};

use fleet_core::DeviceReport;
use fleet_pairing::{Binding, DeviceRecord, Reporter, heir_identifier};
use sea_orm::sea_query::UnionType;

use crate::{
    NewReport,
    sql::{
        codec, devices,
        entity::{binding, device, node},
        prelude::*,
    },
};

/// The devices that a row may match, locked in the order of their ids.
pub(super) async fn locked(
    tx: &DatabaseTransaction,
    new: &NewReport,
    reporter: Reporter,
    reports: &[&DeviceReport],
) -> Result<Vec<device::Model>, DbErr> {
    let names: BTreeSet<_> = reports
        .iter()
        .flat_map(|report| {
            let inherited = heir_identifier(reporter, report);
            inherited
                .into_iter()
                .chain([report.identifier(reporter.node)])
        })
        .map(AsText)
        .collect();
    let addresses: BTreeSet<_> = reports
        .iter()
        .map(|report| AsText(report.endpoint.ip))
        .collect();
    let by_endpoint = device::Entity::find()
        .select_only()
        .column(device::Column::Id)
        .filter(device::Column::NodeId.eq(new.node.0))
        .filter(device::Column::Ip.is_in(addresses))
        .filter(device::Column::DeletedAt.is_null());
    let mut candidates = device::Entity::find()
        .select_only()
        .column(device::Column::Id)
        .filter(device::Column::OrgId.eq(new.org.0))
        .filter(device::Column::Identifier.is_in(names))
        .filter(device::Column::DeletedAt.is_null());
    // The union uses two indexes. An OR of the two conditions would use neither.
    QueryTrait::query(&mut candidates).union(UnionType::Distinct, by_endpoint.into_query());
    let candidates: Vec<i64> = candidates.into_tuple().all(tx).await?;
    if candidates.is_empty() {
        return Ok(Vec::new());
    }
    device::Entity::find()
        .filter(device::Column::Id.is_in(candidates))
        // Again, because a candidate may have been merged before it was locked.
        .filter(device::Column::DeletedAt.is_null())
        .order_by_asc(device::Column::Id)
        .lock(LockType::NoKeyUpdate)
        .all(tx)
        .await
}

/// The devices' bindings, which change only under the lock of their device.
pub(in crate::sql) async fn bindings(
    db: &impl ConnectionTrait,
    models: &[device::Model],
) -> Result<BTreeMap<DeviceId, binding::Model>, DbErr> {
    let rows = binding::Entity::find()
        .filter(binding::Column::DeviceId.is_in(models.iter().map(|device| device.id)))
        .all(db)
        .await?;
    Ok(rows
        .into_iter()
        .map(|row| (DeviceId(row.device_id), row))
        .collect())
}

/// The devices in the form that the rules use.
pub(in crate::sql) async fn records(
    db: &impl ConnectionTrait,
    models: &[device::Model],
    bindings: &BTreeMap<DeviceId, binding::Model>,
) -> Result<Vec<DeviceRecord>, DbErr> {
    let owners: BTreeSet<i64> = models.iter().filter_map(|device| device.node_id).collect();
    let live: BTreeSet<i64> = node::Entity::find()
        .select_only()
        .column(node::Column::Id)
        .filter(node::Column::Id.is_in(owners))
        .filter(node::Column::DeletedAt.is_null())
        .into_tuple::<i64>()
        .all(db)
        .await?
        .into_iter()
        .collect();
    let record = |model: &device::Model| {
        let binding = bindings.get(&DeviceId(model.id));
        Ok(DeviceRecord {
            id: DeviceId(model.id),
            identifier: model.identifier.0.clone(),
            endpoint: devices::endpoint(model)?,
            owner: model.node_id.map(NodeId),
            owner_live: model.node_id.is_some_and(|owner| live.contains(&owner)),
            binding: match binding.map(|row| row.node_id) {
                None => Binding::Free,
                Some(None) => Binding::Server,
                Some(Some(node)) => Binding::Node(NodeId(node)),
            },
            facts: devices::facts(model),
            kept_apart: codec::read_identifiers(model.kept_apart.as_deref())?,
        })
    };
    models.iter().map(record).collect()
}
