//! The end of old scans. A removed scan is hidden at once with an audit record, and its rows are deleted in parts that
//! hold no lock for long. Its id is kept in `removed_scan`.

use sea_orm::{Statement, sea_query::LockBehavior};

use super::events;
use crate::{
    RemovedScans, ScanRetention,
    sql::{
        audit,
        entity::{
            alert_scan, chunk, command, removed_scan, report, report_refusal, report_row, scan,
            scan_host, scan_request, scan_share, sweep,
        },
        prelude::*,
    },
};

/// The row of `sweep` that is locked while scans are removed.
const TURN: i64 = 2;
/// Scans that one call hides at most.
const SCANS: u64 = 50;
/// Commands of one read.
const COMMANDS: u64 = 32;

/// Hides old scans, and deletes at least `limit` rows of hidden ones if there are as many. One command reports at most
/// some thousand rows, by which a call exceeds the limit.
pub(super) async fn remove(
    tx: &DatabaseTransaction,
    policy: &ScanRetention,
    limit: u64,
    now: Timestamp,
) -> Result<RemovedScans, DbErr> {
    // One server at a time: the others find no row while this transaction holds it.
    let turn = sweep::Entity::find_by_id(TURN)
        .lock_with_behavior(LockType::Update, LockBehavior::SkipLocked)
        .one(tx)
        .await?;
    if turn.is_none() {
        return Ok(RemovedScans::default());
    }
    let mut removed = RemovedScans {
        scans: hide(tx, policy, now).await?,
        rows: 0,
    };
    while removed.rows < limit {
        let Some(scan) = hidden(tx).await? else {
            break;
        };
        removed.rows += delete_rows(tx, scan, limit - removed.rows).await?;
    }
    Ok(removed)
}

/// When a scan of an organization was removed.
pub(super) async fn removed_at(
    db: &impl ConnectionTrait,
    org: OrgId,
    scan: ScanId,
) -> Result<Option<Timestamp>, DbErr> {
    let row = removed_scan::Entity::find_by_id(AsText(scan))
        .filter(removed_scan::Column::OrgId.eq(org.0))
        .one(db)
        .await?;
    Ok(row.map(|row| row.removed_at.0))
}

/// Whether a scan is old enough, or hidden and not yet deleted.
pub(super) async fn any(db: &impl ConnectionTrait, policy: &ScanRetention) -> Result<bool, DbErr> {
    Ok(hidden(db).await?.is_some() || !old(db, policy, 1).await?.is_empty())
}

/// The hidden scan whose rows are deleted next.
async fn hidden(db: &impl ConnectionTrait) -> Result<Option<AsText<ScanId>>, DbErr> {
    scan::Entity::find()
        .select_only()
        .column(scan::Column::Id)
        .filter(scan::Column::RemovedAt.is_not_null())
        .order_by_asc(scan::Column::RemovedAt)
        .limit(1)
        .into_tuple()
        .one(db)
        .await
}

/// The scans to remove, the first ended first.
async fn old(
    db: &impl ConnectionTrait,
    policy: &ScanRetention,
    limit: u64,
) -> Result<Vec<ScanId>, DbErr> {
    let before = policy.ended_before.as_micros();
    let kept = if policy.keeps_last {
        SUPERSEDED
    } else {
        "TRUE"
    };
    let sql = format!(
        "SELECT old.id FROM scan AS old WHERE old.ended_at < {before} AND old.removed_at IS NULL AND ({kept}) ORDER BY old.ended_at LIMIT {limit}"
    );
    let found = db.query_all_raw(Statement::from_string(db.get_database_backend(), sql));
    let read = |row: sea_orm::QueryResult| {
        let id: String = row.try_get("", "id")?;
        id.parse().map_err(|error| unreadable("scan", error))
    };
    found.await?.into_iter().map(read).collect()
}

/// Hides scans that ended before the time of the policy. Returns their number.
async fn hide(
    tx: &DatabaseTransaction,
    policy: &ScanRetention,
    now: Timestamp,
) -> Result<u64, DbErr> {
    let mut hidden = 0;
    for id in old(tx, policy, SCANS).await? {
        // Locked before it is judged as ended: a scan that runs is never removed.
        let locked = scan::Entity::find_by_id(AsText(id))
            .lock(LockType::Update)
            .one(tx)
            .await?;
        let Some(row) = locked.filter(|row| row.state.0.is_terminal() && row.removed_at.is_none())
        else {
            continue;
        };
        hide_one(tx, row, now).await?;
        hidden += 1;
    }
    Ok(hidden)
}

/// Whether no later scan is compared with a scan: it has no result, or a newer scan of the same targets has one at no
/// other sites. The previous scan of any later one is then that or a newer scan, see `results.rs`.
const SUPERSEDED: &str = "old.state NOT IN ('completed', 'partial') OR old.targets_key IS NULL OR EXISTS (\
    SELECT 1 FROM scan AS newer WHERE newer.org_id = old.org_id AND newer.targets_key = old.targets_key \
    AND newer.id > old.id AND newer.state IN ('completed', 'partial') AND newer.removed_at IS NULL \
    AND NOT EXISTS (SELECT 1 FROM scan_share AS other JOIN node AS other_node ON other_node.id = other.node_id \
    WHERE other.scan_id = newer.id AND other_node.site_id NOT IN (\
    SELECT own_node.site_id FROM scan_share AS own JOIN node AS own_node ON own_node.id = own.node_id WHERE own.scan_id = old.id)))";

async fn hide_one(tx: &DatabaseTransaction, row: scan::Model, now: Timestamp) -> Result<(), DbErr> {
    let (id, org) = (row.id, OrgId(row.org_id));
    let tombstone = removed_scan::ActiveModel {
        scan_id: Set(id),
        org_id: Set(org.0),
        removed_at: Set(Micros(now)),
    };
    removed_scan::Entity::insert(tombstone)
        .exec_without_returning(tx)
        .await?;
    let change = scan::ActiveModel {
        id: Set(id),
        removed_at: Set(Some(Micros(now))),
        // The same request starts a scan again.
        request_id: Set(None),
        ..Default::default()
    };
    change.update(tx).await?;
    alert_scan::Entity::delete_by_id(id).exec(tx).await?;
    let subject = format!("scan {} with its results, by retention", id.0);
    audit::done(tx, org, &Actor::SYSTEM, "scan.remove", subject, now).await
}

/// Deletes rows of a hidden scan and, with the last ones, the scan. Returns the number of deleted rows, which is at
/// least 1.
async fn delete_rows(
    tx: &DatabaseTransaction,
    scan: AsText<ScanId>,
    limit: u64,
) -> Result<u64, DbErr> {
    let mut deleted = 0;
    loop {
        let commands = command::Entity::find()
            .select_only()
            .column(command::Column::Id)
            .filter(command::Column::ScanId.eq(scan))
            .order_by_asc(command::Column::Id)
            .limit(COMMANDS)
            .into_tuple::<AsText<CommandId>>()
            .all(tx)
            .await?;
        if commands.is_empty() {
            break;
        }
        for command in commands {
            if deleted >= limit {
                return Ok(deleted);
            }
            deleted += delete_command(tx, command).await?;
        }
    }
    let (events, all) = events::delete_some(tx, scan, limit.saturating_sub(deleted)).await?;
    deleted += events;
    if !all {
        return Ok(deleted);
    }
    let (hosts, all) = delete_hosts(tx, scan, limit.saturating_sub(deleted)).await?;
    deleted += hosts;
    if !all {
        return Ok(deleted);
    }
    let of_scan = [
        report_refusal::Entity::delete_many()
            .filter(report_refusal::Column::ScanId.eq(scan))
            .exec(tx)
            .await?,
        chunk::Entity::delete_many()
            .filter(chunk::Column::ScanId.eq(scan))
            .exec(tx)
            .await?,
        scan_share::Entity::delete_many()
            .filter(scan_share::Column::ScanId.eq(scan))
            .exec(tx)
            .await?,
        scan_request::Entity::delete_by_id(scan).exec(tx).await?,
        // A scan that ended in the meantime under an older version of the server.
        alert_scan::Entity::delete_by_id(scan).exec(tx).await?,
        scan::Entity::delete_by_id(scan).exec(tx).await?,
    ];
    let rows = of_scan.iter().map(|result| result.rows_affected);
    Ok(deleted + rows.sum::<u64>())
}

/// Deletes a command with everything that its node reported.
async fn delete_command(
    tx: &DatabaseTransaction,
    command: AsText<CommandId>,
) -> Result<u64, DbErr> {
    let rows = report_row::Entity::delete_many()
        .filter(report_row::Column::CommandId.eq(command))
        .exec(tx)
        .await?;
    let reports = report::Entity::delete_many()
        .filter(report::Column::CommandId.eq(command))
        .exec(tx)
        .await?;
    command::Entity::delete_by_id(command).exec(tx).await?;
    Ok(rows.rows_affected + reports.rows_affected + 1)
}

/// Deletes hosts of a scan. Returns their number, and whether these were all.
async fn delete_hosts(
    tx: &DatabaseTransaction,
    scan: AsText<ScanId>,
    limit: u64,
) -> Result<(u64, bool), DbErr> {
    use scan_host::Column as C;
    let first_kept = scan_host::Entity::find()
        .select_only()
        .column(C::Id)
        .filter(C::ScanId.eq(scan))
        .order_by_asc(C::Id)
        .offset(limit)
        .limit(1)
        .into_tuple::<i64>()
        .one(tx)
        .await?;
    let mut hosts = scan_host::Entity::delete_many().filter(C::ScanId.eq(scan));
    if let Some(first) = first_kept {
        hosts = hosts.filter(C::Id.lt(first));
    }
    let deleted = hosts.exec(tx).await?.rows_affected;
    Ok((deleted, first_kept.is_none()))
}
