//! The end of old events, oldest first. Sequences are dense, so that readers see from the next sequence whether events
//! are missing.

use crate::sql::{
    entity::{scan, scan_event},
    prelude::*,
};

/// Scans that one call visits at most.
const SCANS: u64 = 100;

/// Deletes at most `limit` events of scans that ended before a time.
pub(super) async fn delete(
    tx: &DatabaseTransaction,
    ended_before: Timestamp,
    limit: u64,
    now: Timestamp,
) -> Result<u64, DbErr> {
    let old = scan::Entity::find()
        .select_only()
        .column(scan::Column::Id)
        .filter(scan::Column::EndedAt.lt(Micros(ended_before)))
        .filter(scan::Column::EventsDeletedAt.is_null())
        .order_by_asc(scan::Column::EndedAt)
        .limit(SCANS)
        .into_tuple::<AsText<ScanId>>()
        .all(tx)
        .await?;
    let mut deleted = 0;
    for scan in old {
        let (events, all) = delete_some(tx, scan, limit - deleted).await?;
        if all {
            scan::Entity::update_many()
                .col_expr(scan::Column::EventsDeletedAt, Micros(now).into())
                .filter(scan::Column::Id.eq(scan))
                .exec(tx)
                .await?;
        }
        deleted += events;
        if deleted >= limit {
            break;
        }
    }
    Ok(deleted)
}

/// Deletes the oldest events of a scan, at most `limit`. Returns their number, and whether these were all.
pub(super) async fn delete_some(
    tx: &DatabaseTransaction,
    scan: AsText<ScanId>,
    limit: u64,
) -> Result<(u64, bool), DbErr> {
    use scan_event::Column as E;
    let first_kept = scan_event::Entity::find()
        .select_only()
        .column(E::Sequence)
        .filter(E::ScanId.eq(scan))
        .order_by_asc(E::Sequence)
        .offset(limit)
        .limit(1)
        .into_tuple::<i64>()
        .one(tx)
        .await?;
    let mut events = scan_event::Entity::delete_many().filter(E::ScanId.eq(scan));
    if let Some(first) = first_kept {
        events = events.filter(E::Sequence.lt(first));
    }
    let deleted = events.exec(tx).await?.rows_affected;
    Ok((deleted, first_kept.is_none()))
}
