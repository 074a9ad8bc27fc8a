//! Devices that were refused to a node because they belong to another owner. A refusal is shown while it still
//! applies: each stored row is compared with the current state of the conflicting record.

use std::collections::{BTreeMap, BTreeSet};

use fleet_core::RejectReason;
use fleet_pairing::{Binding, DeviceRecord, Reporter};

use super::{
    codec,
    entity::{device, node, refused_device},
    nodes,
    report::inventory::load,
};
use crate::{RefusedDevice, sql::prelude::*};

/// The number of rows that a sweep reads in one step.
pub(super) const SWEPT: u32 = 1_000;

/// A page of refused rows.
pub(super) struct Page {
    /// Rows that are still refused.
    pub(super) refused: Vec<RefusedDevice>,
    /// Rows that their reporter can now store, or whose device or reporter is missing.
    resolved: Vec<i64>,
    /// The id to continue after.
    pub(super) next: Option<i64>,
}

pub(super) async fn page(
    db: &impl ConnectionTrait,
    org: Option<OrgId>,
    reporter: Option<NodeId>,
    after: i64,
    limit: u32,
) -> Result<Page, DbErr> {
    use refused_device::{Column as C, Entity};
    let mut query = Entity::find().filter(C::Id.gt(after));
    if let Some(org) = org {
        query = query.filter(C::OrgId.eq(org.0));
    }
    if let Some(reporter) = reporter {
        query = query.filter(C::NodeId.eq(reporter.0));
    }
    let ids: Vec<i64> = query
        .order_by_asc(C::Id)
        .limit(u64::from(limit))
        .select_only()
        .column(C::Id)
        .into_tuple()
        .all(db)
        .await?;
    let mut page = Page {
        refused: Vec::new(),
        resolved: Vec::new(),
        // From all rows, because a page without refused rows can have successors too.
        next: ids.last().copied().filter(|_| ids.len() >= limit as usize),
    };
    match judge(db, &ids, &mut page).await {
        // One row, or the record of its device, cannot be read. It must not hide the others.
        Err(DbErr::Type(_)) => {
            for id in ids {
                match judge(db, &[id], &mut page).await {
                    Err(DbErr::Type(error)) => {
                        tracing::error!(id, error, "a refused device cannot be read");
                    }
                    other => other?,
                }
            }
        }
        other => other?,
    }
    Ok(page)
}

/// Adds rows to a page. After an error, the page is unchanged.
async fn judge(db: &impl ConnectionTrait, ids: &[i64], page: &mut Page) -> Result<(), DbErr> {
    if ids.is_empty() {
        return Ok(());
    }
    let rows = refused_device::Entity::find()
        .filter(refused_device::Column::Id.is_in(ids.iter().copied()))
        .order_by_asc(refused_device::Column::Id)
        .all(db)
        .await?;
    let devices = in_the_way(db, &rows).await?;
    let reporters = living_reporters(db, &rows).await?;
    let (mut refused, mut resolved) = (Vec::new(), Vec::new());
    for row in rows {
        let device = devices.get(&DeviceId(row.device_id));
        let (Some(device), Some(reporter)) = (device, reporters.get(&row.node_id)) else {
            resolved.push(row.id);
            continue;
        };
        // Judged when it is shown, so no other operation has to maintain this list (decision 0008).
        match device.writable_by(*reporter, endpoint(&row)?) {
            Err(reason) => refused.push(shown(row, device, reason)?),
            Ok(()) => resolved.push(row.id),
        }
    }
    page.refused.extend(refused);
    page.resolved.extend(resolved);
    Ok(())
}

impl Page {
    /// The rows that can be deleted.
    pub(super) fn to_forget(&self, now: Timestamp) -> Vec<i64> {
        let old = self
            .refused
            .iter()
            .filter(|row| now.since(row.last_seen) > limits::REFUSED_DEVICE_KEPT)
            .map(|row| row.id);
        self.resolved.iter().copied().chain(old).collect()
    }
}

/// Deletes rows, except those that were reported again in the meantime.
pub(super) async fn forget(
    tx: &DatabaseTransaction,
    ids: &[i64],
    now: Timestamp,
) -> Result<(), Failure<StoreError>> {
    refused_device::Entity::delete_many()
        .filter(refused_device::Column::Id.is_in(ids.iter().copied()))
        .filter(refused_device::Column::LastSeen.lt(Micros(now)))
        .exec(tx)
        .await?;
    Ok(())
}

async fn in_the_way(
    db: &impl ConnectionTrait,
    rows: &[refused_device::Model],
) -> Result<BTreeMap<DeviceId, DeviceRecord>, DbErr> {
    let ids: BTreeSet<i64> = rows.iter().map(|row| row.device_id).collect();
    let models = device::Entity::find()
        .filter(device::Column::Id.is_in(ids))
        .filter(device::Column::DeletedAt.is_null())
        .all(db)
        .await?;
    let bindings = load::bindings(db, &models).await?;
    let records = load::records(db, &models, &bindings).await?;
    Ok(records
        .into_iter()
        .map(|record| (record.id, record))
        .collect())
}

async fn living_reporters(
    db: &impl ConnectionTrait,
    rows: &[refused_device::Model],
) -> Result<BTreeMap<i64, Reporter>, DbErr> {
    let ids: BTreeSet<i64> = rows.iter().map(|row| row.node_id).collect();
    let living = node::Entity::find()
        .filter(node::Column::Id.is_in(ids))
        .filter(node::Column::DeletedAt.is_null())
        .all(db)
        .await?;
    Ok(living
        .into_iter()
        .map(|node| (node.id, nodes::reporter(&node)))
        .collect())
}

fn endpoint(row: &refused_device::Model) -> Result<Endpoint, DbErr> {
    Ok(Endpoint {
        ip: row.ip.0,
        port: codec::read_port(row.port)?,
    })
}

fn shown(
    row: refused_device::Model,
    device: &DeviceRecord,
    now: RejectReason,
) -> Result<RefusedDevice, DbErr> {
    let conflict = row.reason.0 == RejectReason::IdentityConflict;
    Ok(RefusedDevice {
        id: row.id,
        reporter: NodeId(row.node_id),
        endpoint: endpoint(&row)?,
        identifier: row.identifier.0,
        reason: if conflict { row.reason.0 } else { now },
        device: device.id,
        owner: device.owner,
        bound_to: match device.binding {
            Binding::Node(node) => Some(node),
            Binding::Free | Binding::Server => None,
        },
        count: read_count(row.count)?,
        first_seen: row.first_seen.0,
        last_seen: row.last_seen.0,
    })
}
