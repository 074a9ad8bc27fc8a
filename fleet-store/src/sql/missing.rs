//! Devices that a scan did not find: their address was probed, and found silent or refused. The rule is that of the
//! differences between scans, `fleet_discovery::endpoint_outcomes`.

use std::collections::{BTreeMap, BTreeSet};

use fleet_core::{EndpointOutcome, TargetOutcome};
use fleet_discovery::{ScannedChunk, endpoint_outcomes, quiet_hosts};
use fleet_inventory::{DayCounts, EventKind};
use sea_orm::sea_query::Query;

use super::{
    days,
    details::{self, NewEvent},
    devices,
    entity::{device, node, scan},
    results,
};
use crate::{DirectEnd, sql::prelude::*};

/// Addresses in one query.
const ADDRESSES: usize = 1_000;

/// Marks the devices of the scan's sites that are missing now. It runs once, at the end of the scan: a device that moved
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
    let of_scan: BTreeSet<i64> = chunks.iter().map(|chunk| chunk.node).collect();
    let sites = Query::select()
        .column(node::Column::SiteId)
        .from(node::Entity)
        .and_where(node::Column::Id.is_in(of_scan.iter().copied()))
        .to_owned();
    let rows: Vec<(i64, i64)> = node::Entity::find()
        .filter(node::Column::SiteId.in_subquery(sites))
        .select_only()
        .columns([node::Column::SiteId, node::Column::Id])
        .into_tuple()
        .all(tx)
        .await?;
    let mut sites: BTreeMap<i64, BTreeSet<i64>> = BTreeMap::new();
    for (site, node) in rows {
        sites.entry(site).or_default().insert(node);
    }
    let mut marked = 0;
    // An address means one host only within a site.
    for nodes in sites.values() {
        let own: Vec<_> = chunks
            .iter()
            .filter(|chunk| nodes.contains(&chunk.node))
            .collect();
        let Some(first) = own.first() else { continue };
        let scanned: Vec<_> = own.iter().map(|chunk| chunk.scanned()).collect();
        let at = quiet_devices(tx, &scanned, nodes, started).await?;
        let by = (OrgId(scan.org_id), Some(NodeId(first.node)));
        marked += mark_devices(tx, by, at, started, now).await?;
    }
    Ok(marked)
}

/// Marks the devices of the server's own network that an ended direct scan did not find, and counts them.
pub(super) async fn mark_direct(tx: &DatabaseTransaction, end: &DirectEnd) -> Result<(), DbErr> {
    let quiet = end
        .outcomes
        .iter()
        .filter(|(_, outcome)| matches!(**outcome, TargetOutcome::Silent | TargetOutcome::Refused));
    let quiet: Vec<_> = quiet.map(|(ip, _)| AsText(*ip)).collect();
    let started = Micros(end.started);
    let ports = || end.ports.iter().map(|port| i64::from(port.number()));
    let mut ids = Vec::new();
    for part in quiet.chunks(ADDRESSES) {
        let found: Vec<i64> = unseen(started)
            .filter(device::Column::OrgId.eq(end.org.0))
            .filter(device::Column::NodeId.is_null())
            .filter(device::Column::Ip.is_in(part.iter().copied()))
            .filter(device::Column::Port.is_in(ports()))
            .select_only()
            .column(device::Column::Id)
            .into_tuple()
            .all(tx)
            .await?;
        ids.extend(found);
    }
    let missing = mark_devices(tx, (end.org, None), ids, started, end.now).await?;
    let counts = DayCounts {
        missing,
        ..DayCounts::default()
    };
    days::add(tx, end.org, None, counts, end.now).await
}

fn unseen(started: Micros) -> Select<device::Entity> {
    device::Entity::find()
        .filter(device::Column::DeletedAt.is_null())
        .filter(device::Column::MissingSince.is_null())
        .filter(device::Column::LastSeen.lt(started))
}

/// The devices of a site's nodes whose endpoint the scan probed in vain.
async fn quiet_devices(
    tx: &DatabaseTransaction,
    scanned: &[ScannedChunk<'_>],
    nodes: &BTreeSet<i64>,
    started: Micros,
) -> Result<Vec<i64>, DbErr> {
    let quiet: Vec<_> = quiet_hosts(scanned).into_iter().map(AsText).collect();
    if quiet.is_empty() {
        return Ok(Vec::new());
    }
    let mut at: BTreeMap<i64, Endpoint> = BTreeMap::new();
    for part in quiet.chunks(ADDRESSES) {
        let found = unseen(started)
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
    let outcomes = endpoint_outcomes(scanned, &at.values().copied().collect());
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
    Ok(at.into_keys().collect())
}

/// Marks devices as missing, which a node found out, or the server itself. Returns their number.
async fn mark_devices(
    tx: &DatabaseTransaction,
    (org, node): (OrgId, Option<NodeId>),
    ids: Vec<i64>,
    started: Micros,
    now: Timestamp,
) -> Result<u64, DbErr> {
    let mut marked = 0;
    for part in ids.chunks(ADDRESSES) {
        // Locked in the order of ids, and judged again: a report of another node may have come in between.
        let locked: Vec<device::Model> = unseen(started)
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
        details::record(tx, org, node, events, now).await?;
    }
    Ok(marked)
}
