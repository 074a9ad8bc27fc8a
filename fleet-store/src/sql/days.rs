//! Counts of the inventory per day. Every count is written in the transaction that it counts, under the lock of the
//! node, so the rows of different nodes never wait for each other.

use fleet_inventory::{DAYS, Day, DayCounts, last_days};
use sea_orm::sea_query::{Alias, ExprTrait};

use super::entity::inventory_day;
use crate::sql::prelude::*;

/// Adds counts to the current day. `node` is none for devices that the server found.
pub(super) async fn add(
    tx: &DatabaseTransaction,
    org: OrgId,
    node: Option<NodeId>,
    counts: DayCounts,
    now: Timestamp,
) -> Result<(), DbErr> {
    use inventory_day::{Column as C, Entity};
    if counts.is_zero() {
        return Ok(());
    }
    let today = Day::of(now);
    let row = inventory_day::ActiveModel {
        org_id: Set(org.0),
        day: Set(today.number()),
        node_id: Set(node.map_or(0, |node| node.0)),
        seen: Set(count(counts.seen)),
        added: Set(count(counts.new)),
        missing: Set(count(counts.missing)),
    };
    let sum =
        |column: C| Expr::col((Entity, column)).add(Expr::col((Alias::new("excluded"), column)));
    let again = OnConflict::columns([C::OrgId, C::Day, C::NodeId])
        .value(C::Seen, sum(C::Seen))
        .value(C::Added, sum(C::Added))
        .value(C::Missing, sum(C::Missing))
        .to_owned();
    Entity::insert(row)
        .on_conflict(again)
        .exec_without_returning(tx)
        .await?;
    Entity::delete_many()
        .filter(C::OrgId.eq(org.0))
        .filter(C::Day.lte(today.minus(DAYS).number()))
        .exec(tx)
        .await?;
    Ok(())
}

/// The counts of the last days.
pub(super) async fn last(
    db: &impl ConnectionTrait,
    org: OrgId,
    now: Timestamp,
) -> Result<Vec<(Day, DayCounts)>, DbErr> {
    use inventory_day::{Column as C, Entity};
    let today = Day::of(now);
    let rows = Entity::find()
        .filter(C::OrgId.eq(org.0))
        .filter(C::Day.gt(today.minus(DAYS).number()))
        .all(db)
        .await?;
    let read = |row: inventory_day::Model| {
        let counts = DayCounts {
            seen: read_count(row.seen)?,
            new: read_count(row.added)?,
            missing: read_count(row.missing)?,
        };
        Ok((Day::from_number(row.day), counts))
    };
    let rows = rows
        .into_iter()
        .map(read)
        .collect::<Result<Vec<_>, DbErr>>()?;
    Ok(last_days(today, rows))
}
