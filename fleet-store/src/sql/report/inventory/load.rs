//! Loading and locking the devices that a report can affect.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use fleet_core::DeviceReport;
use fleet_pairing::{Binding, DeviceRecord, Reporter, predecessor_identifier};
use sea_orm::sea_query::UnionType;

use crate::{
    NewReport,
    sql::{
        codec, devices,
        entity::{binding, device, node, report_row},
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
            let succeeded = predecessor_identifier(reporter, report);
            let shown = report.identifiers(reporter.node);
            succeeded.into_iter().chain(shown)
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
        .filter(device::Column::NodeId.in_subquery(nodes_of(reporter.site).into_query()))
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

fn nodes_of(site: SiteId) -> Select<node::Entity> {
    node::Entity::find()
        .select_only()
        .column(node::Column::Id)
        .filter(node::Column::SiteId.eq(site.0))
}

/// Notes where the scan saw devices that now show up at another address. A device can be at one address only, so
/// nothing is read unless a device seems to have moved.
pub(super) async fn see(
    tx: &DatabaseTransaction,
    scan: ScanId,
    reporter: NodeId,
    records: &mut [DeviceRecord],
    reports: &[&DeviceReport],
) -> Result<(), DbErr> {
    let mut shown: BTreeMap<DeviceIdentifier, BTreeSet<IpAddr>> = BTreeMap::new();
    for report in reports {
        let strong = report
            .identifiers(reporter)
            .filter(|shown| shown.is_strong());
        for identifier in strong {
            shown
                .entry(identifier)
                .or_default()
                .insert(report.endpoint.ip);
        }
    }
    let moved: BTreeMap<DeviceId, IpAddr> = records
        .iter()
        .filter_map(|record| {
            let (addresses, known) = (shown.get(&record.identifier)?, record.endpoint?);
            let moved = addresses.iter().any(|ip| *ip != known.ip);
            moved.then_some((record.id, known.ip))
        })
        .collect();
    if moved.is_empty() {
        return Ok(());
    }
    let addresses: BTreeSet<_> = moved.values().copied().map(AsText).collect();
    let seen: BTreeSet<(IpAddr, i64)> = report_row::Entity::find()
        .select_only()
        .columns([report_row::Column::Ip, report_row::Column::DeviceId])
        .filter(report_row::Column::ScanId.eq(AsText(scan)))
        .filter(report_row::Column::Ip.is_in(addresses))
        .filter(report_row::Column::Refusal.is_null())
        .filter(report_row::Column::DeviceId.is_not_null())
        .into_tuple::<(AsText<IpAddr>, i64)>()
        .all(tx)
        .await?
        .into_iter()
        .map(|(ip, device)| (ip.0, device))
        .collect();
    for record in records {
        record.seen_at = moved
            .get(&record.id)
            .filter(|ip| seen.contains(&(**ip, record.id.0)))
            .map(|ip| (reporter, *ip));
    }
    Ok(())
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
    let owners: BTreeMap<i64, (SiteId, bool)> = node::Entity::find()
        .select_only()
        .columns([
            node::Column::Id,
            node::Column::SiteId,
            node::Column::DeletedAt,
        ])
        .filter(node::Column::Id.is_in(owners))
        .into_tuple::<(i64, i64, Option<Micros>)>()
        .all(db)
        .await?
        .into_iter()
        .map(|(id, site, deleted)| (id, (SiteId(site), deleted.is_none())))
        .collect();
    let record = |model: &device::Model| {
        let binding = bindings.get(&DeviceId(model.id));
        let owner = model.node_id.and_then(|owner| owners.get(&owner));
        Ok(DeviceRecord {
            id: DeviceId(model.id),
            identifier: model.identifier.0.clone(),
            endpoint: devices::endpoint(model)?,
            owner: model.node_id.map(NodeId),
            owner_live: owner.is_some_and(|(_, live)| *live),
            site: owner.map(|(site, _)| *site),
            binding: match binding.map(|row| row.node_id) {
                None => Binding::Free,
                Some(None) => Binding::Server,
                Some(Some(node)) => Binding::Node(NodeId(node)),
            },
            facts: devices::facts(model),
            kept_apart: codec::read_identifiers(model.kept_apart.as_deref())?,
            shared: model.shared,
            seen_at: None,
        })
    };
    models.iter().map(record).collect()
}
