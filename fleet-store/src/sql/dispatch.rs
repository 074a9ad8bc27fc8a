//! Issuing the chunks of scans one by one, and withdrawing a command that did not reach its node.

use fleet_core::enrollment::NodeState;
use sea_orm::{
    JoinType,
    sea_query::{ExprTrait, Query},
};

use super::{
    codec,
    commands::{self, Work},
    entity::{chunk, command, node_stream, scan, scan_request, scan_share},
    locked::LockedScan,
    nodes, pairing,
    streams::current_epoch,
};
use crate::{Dispatch, IssuedCommand, sql::prelude::*};

#[async_trait]
impl Dispatch for SqlStore {
    async fn issue_command(
        &self,
        node: NodeId,
        epoch: Epoch,
        id: CommandId,
        now: Timestamp,
    ) -> Result<Option<IssuedCommand>, StoreError> {
        transaction!(self, "issue_command", |tx| {
            let row = nodes::lock(tx, node).await?;
            let Some(row) = row.filter(|row| row.state.0 == NodeState::Confirmed) else {
                return Ok(None);
            };
            // Another server may have claimed the node since the caller looked for work.
            if current_epoch(tx, node).await? != Some(epoch) || commands::is_busy(tx, node).await? {
                return Ok(None);
            }
            let mut candidates = ready(now);
            if nodes::is_held(tx, &row, now).await? {
                candidates = candidates.filter(scan::Column::IgnoresBlackout.eq(true));
            }
            let next = candidates
                .filter(scan_share::Column::NodeId.eq(node.0))
                // "interactive" sorts before "scheduled". A share that was never served has the time 0.
                .order_by_asc(scan::Column::Priority)
                .order_by_asc(scan_share::Column::ServedAt)
                .order_by_asc(scan_share::Column::ScanId)
                .one(tx)
                .await?;
            let Some(next) = next else {
                return Ok(None);
            };
            let Some(mut scan) = LockedScan::lock(tx, next.scan_id.0).await? else {
                return Ok(None);
            };
            let chunk = chunk::Entity::find()
                .filter(chunk::Column::ScanId.eq(next.scan_id))
                .filter(chunk::Column::NodeId.eq(node.0))
                .filter(chunk::Column::State.eq(AsText(ChunkState::Waiting)))
                .order_by_asc(chunk::Column::Position)
                .one(tx)
                .await?;
            let Some(chunk) = chunk else {
                return Ok(None);
            };
            let request = scan_request::Entity::find_by_id(next.scan_id)
                .one(tx)
                .await?;
            let request = request.map(|row| codec::read_request(&row.request));
            let work = Work::Scan(next.scan_id.0);
            let rate = read_count(scan.row().rate)?;
            let command = command::ActiveModel {
                // Stored before the command is sent, because reports are judged by it and not by
                // the node's word.
                scope: Set(Some(chunk.scope.clone())),
                ..commands::issued(id, (row.org_id, row.id), work, chunk.position, epoch, now)
            };
            command::Entity::insert(command)
                .exec_without_returning(tx)
                .await?;
            let taken = chunk::ActiveModel {
                state: Set(AsText(ChunkState::Issued)),
                attempts: Set(chunk.attempts + 1),
                ..Default::default()
            };
            scan.update_chunk(chunk.position, taken).await?;
            scan.serve(node, now).await?;
            let scan = scan.save().await?;
            Ok(Some(IssuedCommand {
                command: id,
                scan: scan.id.0,
                priority: scan.priority.0,
                request: codec::read_command(&chunk.command)?,
                ports: codec::read_ports(&chunk.ports)?,
                rate,
                is_explicit: request
                    .transpose()?
                    .is_some_and(|request| request.is_explicit()),
                deadline: now.plus(limits::COMMAND_DEADLINE),
            }))
        })
    }

    async fn withdraw_command(
        &self,
        node: NodeId,
        id: CommandId,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        transaction!(self, "withdraw_command", |tx| {
            // The node's lock waits for a COMMIT of the command that is still going on, although its answer was lost.
            nodes::lock_any(tx, node.0).await?;
            let Some(command) = commands::lock_issued(tx, node, id).await? else {
                return Ok(());
            };
            let Work::Scan(scan) = commands::work(&command)? else {
                return Ok(());
            };
            let Some(mut scan) = LockedScan::lock(tx, scan).await? else {
                return Ok(());
            };
            commands::end(tx, &command, CommandState::Lost, now).await?;
            scan.withdraw_chunk(&command, now).await?;
            scan.save().await?;
            Ok(())
        })
    }

    async fn nodes_with_work(&self, now: Timestamp) -> Result<Vec<NodeId>, StoreError> {
        let streams = node_stream::Entity::find()
            .select_only()
            .column(node_stream::Column::NodeId)
            .filter(node_stream::Column::ReleasedAt.is_null());
        let in_flight = command::Entity::find()
            .select_only()
            .column(command::Column::NodeId)
            .filter(command::Column::State.eq(AsText(CommandState::Issued)));
        let nodes = ready(now)
            .filter(scan_share::Column::NodeId.in_subquery(streams.into_query()))
            .filter(scan_share::Column::NodeId.not_in_subquery(in_flight.into_query()))
            .filter(scan_share::Column::NodeId.not_in_subquery(pairing::pairing_nodes()))
            .select_only()
            .column(scan_share::Column::NodeId)
            .column(scan::Column::IgnoresBlackout)
            .distinct()
            .order_by_asc(scan_share::Column::NodeId)
            .into_tuple::<(i64, bool)>()
            .all(self.reader());
        let found = async {
            let mut nodes = nodes.await?;
            let held = nodes::in_blackout(self.reader(), now).await?;
            nodes.retain(|(node, ignores)| *ignores || !held.contains(node));
            nodes.dedup_by_key(|(node, _)| *node);
            Ok::<_, DbErr>(nodes.into_iter().map(|(node, _)| NodeId(node)).collect())
        };
        found.await.during("nodes_with_work")
    }
}

/// Shares of scans that may have a chunk to issue at `now`.
fn ready(now: Timestamp) -> Select<scan_share::Entity> {
    use scan_share::Column as C;
    let same = |column: chunk::Column, share: C| {
        let column = Expr::col((chunk::Entity, column));
        ExprTrait::equals(column, (scan_share::Entity, share))
    };
    let waiting = Query::select()
        .expr(Expr::val(1))
        .from(chunk::Entity)
        .and_where(same(chunk::Column::ScanId, C::ScanId))
        .and_where(same(chunk::Column::NodeId, C::NodeId))
        .and_where(chunk::Column::State.eq(AsText(ChunkState::Waiting)))
        .to_owned();
    scan_share::Entity::find()
        .join(
            JoinType::InnerJoin,
            scan_share::Entity::belongs_to(scan::Entity)
                .from(C::ScanId)
                .to(scan::Column::Id)
                .into(),
        )
        .filter(C::State.is_in(nodes::open_states()))
        .filter(scan::Column::CancelUntil.is_null())
        .filter(C::NotBefore.lte(Micros(now)))
        .filter(C::QueuedUntil.gt(Micros(now)))
        .filter(Expr::exists(waiting))
}
