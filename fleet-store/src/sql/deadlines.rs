//! Open deadlines after an interruption. [`fleet_discovery::continuation`] decides by how much they move.

use fleet_discovery::{Continuation, SWEEP_STORED_EVERY, continuation};
use sea_orm::sea_query::{CaseStatement, ExprTrait};

use super::{
    entity::{command, pairing, scan, scan_share, sweep},
    nodes,
};
use crate::sql::prelude::*;

/// The row of the deadlines.
const ROW: i64 = 1;

/// Stores the time of a sweep. If the service was interrupted before it, open deadlines move.
pub(crate) async fn continue_deadlines(store: &SqlStore, now: Timestamp) -> Result<(), StoreError> {
    let operation = "continue_deadlines";
    let last = sweep::Entity::find_by_id(ROW).one(store.reader()).await;
    if last
        .during(operation)?
        .is_some_and(|last| !is_due(last.at.0, now))
    {
        return Ok(());
    }
    let moved: Result<_, StoreError> = transaction!(store, operation, |tx| {
        // Locked, because several servers find the same interruption.
        let last = sweep::Entity::find_by_id(ROW)
            .lock(LockType::NoKeyUpdate)
            .one(tx)
            .await?;
        let moved = last.and_then(|last| continuation(last.at.0, now));
        if let Some(continuation) = moved {
            move_deadlines(tx, continuation).await?;
        }
        let row = sweep::ActiveModel {
            id: Set(ROW),
            at: Set(Micros(now)),
        };
        let newest = OnConflict::column(sweep::Column::Id)
            .update_column(sweep::Column::At)
            .to_owned();
        sweep::Entity::insert(row)
            .on_conflict(newest)
            .exec_without_returning(tx)
            .await?;
        Ok(moved)
    });
    if let Some(Continuation { shift, .. }) = moved? {
        let seconds = shift / 1_000_000;
        tracing::warn!(
            seconds,
            "deadlines move, because the service was interrupted or the clock was set"
        );
    }
    Ok(())
}

/// Whether the time of a sweep must be stored.
fn is_due(last: Timestamp, now: Timestamp) -> bool {
    now.since(last) >= SWEEP_STORED_EVERY || continuation(last, now).is_some()
}

async fn move_deadlines(tx: &DatabaseTransaction, continuation: Continuation) -> Result<(), DbErr> {
    command::Entity::update_many()
        .col_expr(
            command::Column::Deadline,
            at_least(command::Column::Deadline, continuation),
        )
        .filter(command::Column::State.eq(AsText(CommandState::Issued)))
        .exec(tx)
        .await?;
    scan_share::Entity::update_many()
        .col_expr(
            scan_share::Column::QueuedUntil,
            at_least(scan_share::Column::QueuedUntil, continuation),
        )
        .col_expr(
            scan_share::Column::NotBefore,
            moved(scan_share::Column::NotBefore, continuation),
        )
        .filter(scan_share::Column::State.is_in(nodes::open_states()))
        .exec(tx)
        .await?;
    scan::Entity::update_many()
        .col_expr(
            scan::Column::CancelUntil,
            moved(scan::Column::CancelUntil, continuation),
        )
        .filter(scan::Column::State.is_in(nodes::open_states()))
        .exec(tx)
        .await?;
    pairing::Entity::update_many()
        .col_expr(
            pairing::Column::LeaseUntil,
            moved(pairing::Column::LeaseUntil, continuation),
        )
        .filter(pairing::Column::EndedAt.is_null())
        .exec(tx)
        .await?;
    Ok(())
}

fn moved(column: impl ColumnTrait, continuation: Continuation) -> Expr {
    Expr::col(column).add(continuation.shift)
}

/// The moved deadline, with time for nodes to return.
fn at_least(column: impl ColumnTrait, continuation: Continuation) -> Expr {
    let earliest = continuation.nodes_return_by.as_micros();
    CaseStatement::new()
        .case(moved(column, continuation).lt(earliest), earliest)
        .finally(moved(column, continuation))
        .into()
}
