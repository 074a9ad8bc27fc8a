//! The record of a direct scan from its begin to its end. It lets another server find a scan whose server has stopped.

use std::collections::BTreeMap;

use fleet_core::ReplicaId;
use fleet_inventory::Seen;
use fleet_pairing::SERVER;

use crate::{
    DirectEnd, DirectRun,
    sql::{
        devices,
        entity::{device, direct_run},
        prelude::*,
    },
};

/// Why such a scan failed.
const STOPPED: &str = "The server stopped before the end of the scan. Start the scan again: some addresses were not dialed.";

pub(super) async fn begin(tx: &DatabaseTransaction, run: &DirectRun) -> Result<(), DbErr> {
    let row = direct_run::ActiveModel {
        scan_id: Set(AsText(run.scan)),
        org_id: Set(run.org.0),
        replica: Set(Bytes16(run.replica.0)),
        started: Set(Micros(run.started)),
    };
    direct_run::Entity::insert(row)
        .exec_without_returning(tx)
        .await?;
    Ok(())
}

pub(super) async fn list(db: &impl ConnectionTrait) -> Result<Vec<DirectRun>, DbErr> {
    let rows = direct_run::Entity::find()
        .order_by_asc(direct_run::Column::Started)
        .order_by_asc(direct_run::Column::ScanId)
        .all(db)
        .await?;
    Ok(rows.into_iter().map(run).collect())
}

fn run(row: direct_run::Model) -> DirectRun {
    DirectRun {
        org: OrgId(row.org_id),
        scan: row.scan_id.0,
        replica: ReplicaId(row.replica.0),
        started: row.started.0,
    }
}

/// Removes the record of a scan. Returns whether there was one: of several servers, one ends a scan.
pub(super) async fn end(tx: &DatabaseTransaction, scan: ScanId) -> Result<bool, DbErr> {
    let removed = direct_run::Entity::delete_by_id(AsText(scan))
        .exec(tx)
        .await?;
    Ok(removed.rows_affected > 0)
}

/// Removes the record of a scan whose server has stopped, and returns its end; `None` if it has ended before.
pub(super) async fn stopped(
    tx: &DatabaseTransaction,
    scan: ScanId,
    now: Timestamp,
) -> Result<Option<DirectEnd>, DbErr> {
    let Some(row) = direct_run::Entity::find_by_id(AsText(scan)).one(tx).await? else {
        return Ok(None);
    };
    let run = run(row);
    if !end(tx, scan).await? {
        return Ok(None);
    }
    // A later scan may have found a device again. Its alerts are stored already, with the state of the device, so that
    // the same state leads to no other ones.
    let models = device::Entity::find()
        .filter(device::Column::OrgId.eq(run.org.0))
        .filter(device::Column::DeletedAt.is_null())
        .filter(device::Column::NodeId.is_null())
        .filter(device::Column::LastSeen.gte(Micros(run.started)))
        .all(tx)
        .await?;
    let mut seen = Vec::with_capacity(models.len());
    for model in models {
        // Another device has its endpoint now.
        let Some(endpoint) = devices::endpoint(&model)? else {
            continue;
        };
        seen.push(Seen {
            device: DeviceId(model.id),
            site: SiteId(0),
            node: SERVER,
            endpoint,
            facts: devices::facts(&model),
        });
    }
    Ok(Some(DirectEnd {
        org: run.org,
        scan,
        started: run.started,
        failure: Some(STOPPED.to_owned()),
        seen,
        outcomes: BTreeMap::new(),
        ports: Vec::new(),
        now,
    }))
}
