//! Devices that a scan did not find: their address was probed, and found silent or refused. The rule is that of the
//! differences between scans, `fleet_discovery::endpoint_outcomes`.

use std::collections::BTreeMap;

use fleet_core::EndpointOutcome;
use fleet_discovery::{endpoint_outcomes, quiet_hosts};
use fleet_inventory::EventKind;
use sea_orm::sea_query::Query;

use super::{
    details::{self, NewEvent},
    devices,
    entity::{device, node, scan},
    results,
};
use crate::sql::prelude::*;

/// Addresses in one query.
const ADDRESSES: usize = 1_000;

/// Marks the devices of the scan's site that are missing now. It runs once, at the end of the scan: a device that moved
/// has been reported at its new address by then. Returns the number of marked devices.
pub(super) async fn mark(
    tx: &DatabaseTransaction,
    scan: &scan::Model,
    now: Timestamp,
) -> Result<u64, DbErr> {
    let Some(started) = scan.started_at else {
        return Ok(0);
    };
    let chunks = results::chunks(tx, scan.id.0).await?;
    let scanned: Vec<_> = chunks.iter().map(results::Chunk::scanned).collect();
    let quiet: Vec<_> = quiet_hosts(&scanned).into_iter().map(AsText).collect();
    if quiet.is_empty() {
        return Ok(0);
    }
    let site = Query::select()
        .column(node::Column::SiteId)
        .from(node::Entity)
        .and_where(node::Column::Id.eq(scan.node_id))
        .to_owned();
    let nodes: Vec<i64> = node::Entity::find()
        .filter(node::Column::SiteId.in_subquery(site))
        .select_only()
        .column(node::Column::Id)
        .into_tuple()
        .all(tx)
        .await?;
    let unseen = || {
        device::Entity::find()
            .filter(device::Column::DeletedAt.is_null())
            .filter(device::Column::MissingSince.is_null())
            .filter(device::Column::LastSeen.lt(started))
    };
    let mut at: BTreeMap<i64, Endpoint> = BTreeMap::new();
    for part in quiet.chunks(ADDRESSES) {
        let found = unseen()
            .filter(device::Column::NodeId.is_in(nodes.iter().copied()))
            .filter(device::Column::Ip.is_in(part.iter().copied()))
            .all(tx)
            .await?;
        for model in &found {
            if let Some(endpoint) = devices::endpoint(model)? {
                at.insert(model.id, endpoint);
            }
        }
    }
    let outcomes = endpoint_outcomes(&scanned, &at.values().copied().collect());
    let is_quiet = |endpoint: &Endpoint| match outcomes.get(endpoint) {
        Some(EndpointOutcome::Silent | EndpointOutcome::Refused) => true,
        Some(
            EndpointOutcome::NotATarget
            | EndpointOutcome::PortNotScanned
            | EndpointOutcome::Skipped
            | EndpointOutcome::NotReached
            | EndpointOutcome::NotAnnounced
            | EndpointOutcome::Unknown
            | EndpointOutcome::Answered,
        )
        | None => false,
    };
    at.retain(|_, endpoint| is_quiet(endpoint));
    let ids: Vec<i64> = at.into_keys().collect();
    let mut marked = 0;
    for part in ids.chunks(ADDRESSES) {
        // Locked in the order of ids, and judged again: a report of another node may have come in between.
        let locked: Vec<device::Model> = unseen()
            .filter(device::Column::Id.is_in(part.iter().copied()))
            .order_by_asc(device::Column::Id)
            .lock(LockType::NoKeyUpdate)
            .all(tx)
            .await?;
        let updated = device::Entity::update_many()
            .col_expr(device::Column::MissingSince, Micros(now).into())
            .filter(device::Column::Id.is_in(locked.iter().map(|model| model.id)))
            .exec(tx)
            .await?;
        marked += updated.rows_affected;
        let mut events = Vec::with_capacity(locked.len());
        for model in &locked {
            events.push(NewEvent {
                device: model.id,
                kind: EventKind::Missing,
                former: devices::endpoint(model)?.map_or(String::new(), |at| at.to_string()),
                became: String::new(),
            });
        }
        let node = Some(NodeId(scan.node_id));
        details::record(tx, OrgId(scan.org_id), node, events, now).await?;
    }
    Ok(marked)
}
