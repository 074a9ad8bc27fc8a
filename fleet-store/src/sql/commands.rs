//! The lifecycle of commands, shared by chunks of scans and parts of pairings. A command is issued to one node,
//! adopted by that node's next stream, and ended once. [`super::completion`] and [`super::pairing`] decide what
//! its end means for the scan or the pairing.

use std::fmt;

use super::{
    entity::{command, pairing, report},
    nodes,
    streams::newest_epoch,
};
use crate::sql::prelude::*;

/// The scan chunk or pairing part that a command belongs to.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Work {
    Scan(ScanId),
    Pairing(PairingId),
}

/// Reads the scan chunk or pairing part that a command belongs to.
pub(crate) fn work(command: &command::Model) -> Result<Work, DbErr> {
    match (command.scan_id, command.pairing_id) {
        (Some(AsText(scan)), None) => Ok(Work::Scan(scan)),
        (None, Some(AsText(pairing))) => Ok(Work::Pairing(pairing)),
        _ => Err(unreadable("command", "it belongs to no scan or pairing")),
    }
}

/// The columns of a command that scans and pairings share.
pub(crate) fn issued(
    id: CommandId,
    (org, node): (i64, i64),
    work: Work,
    position: i64,
    epoch: Epoch,
    now: Timestamp,
) -> command::ActiveModel {
    let (scan, pairing) = match work {
        Work::Scan(scan) => (Some(AsText(scan)), None),
        Work::Pairing(pairing) => (None, Some(AsText(pairing))),
    };
    command::ActiveModel {
        id: Set(AsText(id)),
        org_id: Set(org),
        node_id: Set(node),
        scan_id: Set(scan),
        pairing_id: Set(pairing),
        position: Set(position),
        epoch: Set(epoch.0),
        state: Set(AsText(CommandState::Issued)),
        scope: Set(None),
        issued_at: Set(Micros(now)),
        deadline: Set(Micros(now.plus(limits::COMMAND_DEADLINE))),
        ended_at: Set(None),
        rows: Set(0),
        refused_rows: Set(0),
        flooded: Set(false),
    }
}

/// The command that a node has in flight. A unique index allows at most one.
pub(crate) async fn in_flight(
    db: &impl ConnectionTrait,
    node: NodeId,
) -> Result<Option<command::Model>, DbErr> {
    command::Entity::find()
        .filter(command::Column::NodeId.eq(node.0))
        .filter(command::Column::State.eq(AsText(CommandState::Issued)))
        .one(db)
        .await
}

/// Whether a node has a command in flight or an open pairing. In both cases no other command is issued to it.
pub(crate) async fn is_busy(db: &impl ConnectionTrait, node: NodeId) -> Result<bool, DbErr> {
    let open = pairing::Entity::find()
        .filter(pairing::Column::NodeId.eq(node.0))
        .filter(pairing::Column::EndedAt.is_null());
    Ok(in_flight(db, node).await?.is_some() || open.count(db).await? > 0)
}

/// Locks a command of a node that is in flight. The node must be locked already.
pub(crate) async fn lock_issued(
    tx: &DatabaseTransaction,
    node: NodeId,
    id: CommandId,
) -> Result<Option<command::Model>, DbErr> {
    let command = lock(tx, node, id).await?;
    Ok(command.filter(|command| command.state.0 == CommandState::Issued))
}

/// Locks a command of a node, in flight or ended.
pub(crate) async fn lock(
    tx: &DatabaseTransaction,
    node: NodeId,
    id: CommandId,
) -> Result<Option<command::Model>, DbErr> {
    command::Entity::find_by_id(AsText(id))
        // A command of another node has to look like an unknown one.
        .filter(command::Column::NodeId.eq(node.0))
        .lock(LockType::NoKeyUpdate)
        .one(tx)
        .await
}

/// Locks a node and its command, for a message that arrived on the stream of `epoch`. Messages of an older
/// stream have no effect.
pub(crate) async fn lock_for_stream(
    tx: &DatabaseTransaction,
    node: NodeId,
    epoch: Epoch,
    id: CommandId,
) -> Result<Option<command::Model>, DbErr> {
    if nodes::lock(tx, node).await?.is_none() || newest_epoch(tx, node).await? != Some(epoch) {
        return Ok(None);
    }
    lock_issued(tx, node, id).await
}

/// Marks a command as no longer in flight.
pub(crate) async fn end(
    tx: &DatabaseTransaction,
    command: &command::Model,
    state: CommandState,
    now: Timestamp,
) -> Result<(), DbErr> {
    let ended = command::ActiveModel {
        state: Set(AsText(state)),
        ended_at: Set(Some(Micros(now))),
        ..Default::default()
    };
    update(tx, command, ended).await?;
    // Repeated reports are answered only while their command is in flight.
    report::Entity::delete_many()
        .filter(report::Column::CommandId.eq(command.id))
        .exec(tx)
        .await?;
    Ok(())
}

/// Continues a command under the epoch of its node's new stream.
pub(crate) async fn adopt(
    tx: &DatabaseTransaction,
    command: &command::Model,
    epoch: Epoch,
) -> Result<(), DbErr> {
    let adopted = command::ActiveModel {
        epoch: Set(epoch.0),
        ..Default::default()
    };
    update(tx, command, adopted).await
}

/// Changes columns of a locked command.
pub(crate) async fn update(
    tx: &DatabaseTransaction,
    command: &command::Model,
    change: command::ActiveModel,
) -> Result<(), DbErr> {
    command::Entity::update_many()
        .set(change)
        .filter(command::Column::Id.eq(command.id))
        .exec(tx)
        .await?;
    Ok(())
}

/// Commands past their deadline, with their nodes.
pub(crate) async fn overdue(
    db: &impl ConnectionTrait,
    now: Timestamp,
) -> Result<Vec<(NodeId, CommandId)>, DbErr> {
    let rows = command::Entity::find()
        .filter(command::Column::State.eq(AsText(CommandState::Issued)))
        .filter(command::Column::Deadline.lte(Micros(now)))
        .order_by_asc(command::Column::Deadline)
        .select_only()
        .columns([command::Column::NodeId, command::Column::Id])
        .into_tuple::<(i64, String)>()
        .all(db)
        .await?;
    let readable = |(node, id): (i64, String)| Some((NodeId(node), read_id("command", &id)?));
    Ok(rows.into_iter().filter_map(readable).collect())
}

/// Reads the id of a row that a sweep has found. A sweep logs and skips an unreadable row, because one bad row
/// must not delay the deadlines of the others.
pub(crate) fn read_id<T: std::str::FromStr>(table: &'static str, text: &str) -> Option<T> {
    let id = text.parse().ok();
    if id.is_none() {
        tracing::error!(table, "a sweep skips a row whose id it cannot read");
    }
    id
}

/// Handles a row whose transaction failed in the same way. Only an unavailable database ends the sweep.
pub(crate) fn skip_unreadable<T: Default>(
    row: &impl fmt::Display,
    result: Result<T, StoreError>,
) -> Result<T, StoreError> {
    match result {
        Err(StoreError::Broken { operation, detail }) => {
            tracing::error!(%row, operation, detail, "a sweep skips a row that it cannot process");
            Ok(T::default())
        }
        other => other,
    }
}
