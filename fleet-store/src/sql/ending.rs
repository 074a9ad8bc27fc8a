//! How commands, chunks and scans end: by ack, deadline, cancel, revocation. The terminal event itself
//! is written by [`LockedScan::finish`] alone.

use std::time::Duration;

use fleet_core::{
    CommandId, CommandState, Epoch, NodeId, OrgId, ScanId, ScanState, Timestamp, limits,
    outcome::{AckVerdict, Code, Conclusion, Verdict},
};
use sea_orm::{
    ColumnTrait, Condition, ConnectionTrait, DatabaseTransaction, DbErr, EntityTrait, QueryFilter,
    QueryOrder, QuerySelect,
};

use super::{
    audit,
    entity::{command, scan},
    locked::{LockedScan, canceled},
    nodes,
    pairing::{commands as pairing, ends},
    scans,
    streams::{command_of, in_flight, newest_epoch},
    transaction::{Failure, refuse},
    value::{AsText, Micros},
};
use crate::{Ack, Acked, Actor, AuditEntry, CancelScanError, Canceled, StoreError};

/// First and last ceiling of the wait of a scan whose node said BUSY.
const BUSY_WAITS: (Duration, Duration) = (Duration::from_secs(2), Duration::from_secs(60));

#[async_trait]
impl Completion for SqlStore {
    async fn record_ack(&self, ack: Ack) -> Result<Acked, StoreError> {
        transaction!(self, "record_ack", |tx| {
    let Some(command) = spoken_for(tx, ack.node, ack.epoch, ack.command).await? else {
        return ack_of_pairing(tx, &ack).await;
    };
    let id = command.scan_id.0;
    let Some(mut scan) = LockedScan::lock(tx, id).await? else {
        return Ok(Acked::Stale);
    };
    scan.end_command(&command, CommandState::Acked, ack.now)
        .await?;
    scan.warn(ack.notes.iter().cloned(), ack.now).await?;
    let mut waits = None;
    match &ack.verdict {
        AckVerdict::Ended(verdict) => {
            scan.end_chunk(&command, verdict.clone(), ack.outcomes.clone(), ack.now)
                .await?;
        }
        AckVerdict::Busy(_) if !scan.is_open() => {}
        AckVerdict::Busy(_) if scan.row().cancel_until.is_some() => {
            scan.requeue_chunk(&command, false).await?;
            scan.finish(canceled(), ack.now).await?;
        }
        AckVerdict::Busy(verdict) if !scan.row().queues => {
            scan.give_up(verdict.clone(), ack.now).await?
        }
        AckVerdict::Busy(_) => {
            scan.requeue_chunk(&command, false).await?;
            waits = Some(wait_longer(&mut scan, ack.now));
        }
    }
    let ended = scan.ended_now();
    scan.save().await?;
    Ok(match waits {
        Some(until) => Acked::Waits { scan: id, until },
        None => Acked::Chunk { scan: id, ended },
    })
})
    }

    async fn record_progress(
        &self,
        node: NodeId,
        epoch: Epoch,
        command: CommandId,
        done: u64,
        phase: &str,
    ) -> Result<Option<ScanId>, StoreError> {
        transaction!(self, "record_progress", |tx| {
    let Some(command) = spoken_for(tx, node, epoch, command).await? else {
        return Ok(None);
    };
    let Some(mut scan) = LockedScan::lock(tx, command.scan_id.0).await? else {
        return Ok(None);
    };
    if !scan.is_open() {
        return Ok(None);
    }
    let done = i64::try_from(done)
        .unwrap_or(i64::MAX)
        .min(command.scope.0.targets().try_into().unwrap_or(i64::MAX));
    let row = scan.row_mut();
    row.units_done = row.units_settled.saturating_add(done);
    phase.clone_into(&mut row.phase);
    // It works: the next BUSY is the first in its row.
    row.busy_answers = 0;
    scan.save().await?;
    Ok(Some(command.scan_id.0))
})
    }

    async fn cancel_scan(
        &self,
        org: OrgId,
        scan: ScanId,
        grace: Option<Duration>,
        actor: Actor,
        now: Timestamp,
    ) -> Result<Canceled, CancelScanError> {
        transaction!(self, "cancel_scan", |tx| {
    let Some(mut scan) = lock_with_node(tx, Some(org), scan).await? else {
        return refuse(CancelScanError::NotFound(scan));
    };
    let mut to_cancel = None;
    if scan.is_open() {
        let node = NodeId(scan.row().node_id);
        let command = in_flight(tx, node)
            .await?
            .into_iter()
            .find(|command| command.scan_id.0 == scan);
        match (command, grace) {
            (Some(command), Some(grace)) => {
                to_cancel = Some(command.id.0);
                let until = Micros(now.plus(grace));
                let row = scan.row_mut();
                row.cancel_until = row.cancel_until.or(Some(until));
            }
            (Some(command), None) => {
                scan.keep_scope(&command).await?;
                scan.finish(canceled(), now).await?;
            }
            (None, _) => scan.finish(canceled(), now).await?,
        }
        audit::write(
            tx,
            AuditEntry::done(org, actor.clone(), "scan.cancel", format!("scan {scan}"), now),
        )
        .await?;
    }
    let row = scan.save().await?;
    Ok(Canceled {
        scan: scans::read_one(tx, row, now).await?,
        in_flight: to_cancel,
    })
})
    }

    async fn end_scan(
        &self,
        scan: ScanId,
        conclusion: Conclusion,
        now: Timestamp,
    ) -> Result<bool, StoreError> {
        transaction!(self, "end_scan", |tx| {
    let Some(mut scan) = lock_with_node(tx, None, scan).await? else {
        return Ok(false);
    };
    scan.finish(conclusion.clone(), now).await?;
    let ended = scan.ended_now();
    scan.save().await?;
    Ok(ended)
})
    }

    async fn sweep_scans(&self, now: Timestamp) -> Result<Swept, StoreError> {
        let mut swept = Swept::default();
        // Each in a transaction of its own, so that a sweep holds no node for long.
        for (node, command) in
            Self::reading("sweep_scans", ending::overdue(self.reader(), now).await)?
        {
            let scan = transaction!(self, "sweep_scans", |tx| {
    nodes::lock_any(tx, node.0).await?;
    let command = command_of(tx, node, command).await?;
    let Some(command) = command
        .filter(|command| command.state.0 == CommandState::Issued && command.deadline.0 <= now)
    else {
        return Ok(None);
    };
    let Some(mut scan) = LockedScan::lock(tx, command.scan_id.0).await? else {
        return Ok(None);
    };
    scan.end_command(&command, CommandState::Expired, now)
        .await?;
    let minutes = limits::COMMAND_DEADLINE.as_secs() / 60;
    let verdict = Verdict::failed(
        Code::DeadlineExceeded,
        format!("the node gave no answer within {minutes} minutes"),
    );
    scan.end_chunk(&command, verdict, None, now).await?;
    scan.save().await?;
    Ok(Some(command.scan_id.0))
})?;
            if let Some(scan) = scan {
                swept.commands.push((node, command));
                swept.scans.push(scan);
            }
        }
        for scan in Self::reading("sweep_scans", ending::stale(self.reader(), now).await)? {
            let expired = transaction!(self, "sweep_scans", |tx| {
    let mut expired = Expired {
        ended: false,
        command: None,
    };
    let Some(mut scan) = lock_with_node(tx, None, scan).await? else {
        return Ok(expired);
    };
    let node = NodeId(scan.row().node_id);
    let command = in_flight(tx, node)
        .await?
        .into_iter()
        .find(|command| command.scan_id.0 == scan);
    let row = scan.row();
    let cancel_is_over = row.cancel_until.is_some_and(|until| until.0 <= now);
    let queue_is_over = row.queued_until.0 <= now;
    let abandoned = !row.queues
        && row.state.0 == ScanState::Queued
        && row.created_at.0.plus(limits::NODE_AWAY) <= now;
    match command {
        Some(command) if cancel_is_over => {
            // It was told to stop and had its time: what it sends from now on is not taken.
            scan.end_command(&command, CommandState::Canceled, now)
                .await?;
            scan.keep_scope(&command).await?;
            expired.command = Some((node, command.id.0));
            scan.finish(canceled(), now).await?;
        }
        // In flight: its own deadline decides.
        Some(_) => {}
        None if cancel_is_over => scan.finish(canceled(), now).await?,
        None if queue_is_over => expire_queued(&mut scan, now).await?,
        None if abandoned => {
            let why = "the node has no stream to the server";
            scan.finish(
                Conclusion::new(ScanState::Failed, Code::FailedPrecondition, why),
                now,
            )
            .await?;
        }
        None => {}
    }
    expired.ended = scan.ended_now();
    scan.save().await?;
    Ok(expired)
})?;
            swept.commands.extend(expired.command);
            if expired.ended {
                swept.scans.push(scan);
            }
        }
        swept.scans.sort_unstable();
        swept.scans.dedup();
        Ok(swept)
    }
}


/// A command that is in flight for this node, under the stream that speaks: whatever an older stream
/// still says has no effect.
async fn spoken_for(
    tx: &DatabaseTransaction,
    node: NodeId,
    epoch: Epoch,
    id: CommandId,
) -> Result<Option<command::Model>, DbErr> {
    if nodes::lock(tx, node).await?.is_none() || newest_epoch(tx, node).await? != Some(epoch) {
        return Ok(None);
    }
    let command = command_of(tx, node, id).await?;
    Ok(command.filter(|command| command.state.0 == CommandState::Issued))
}


/// The ack of a command of pairing. One that was refused as busy is not issued again: its credentials
/// are gone.
async fn ack_of_pairing(tx: &DatabaseTransaction, ack: &Ack) -> Result<Acked, Failure<StoreError>> {
    if newest_epoch(tx, ack.node).await? != Some(ack.epoch) {
        return Ok(Acked::Stale);
    }
    let command = pairing::command_of(tx, ack.node, ack.command).await?;
    let Some(command) = command.filter(|command| command.state.0 == CommandState::Issued) else {
        return Ok(Acked::Stale);
    };
    let (AckVerdict::Ended(verdict) | AckVerdict::Busy(verdict)) = ack.verdict.clone();
    let ended = ends::conclude(tx, &command, CommandState::Acked, verdict, ack.now).await?;
    Ok(ended.map_or(Acked::Stale, Acked::Pairing))
}

/// Doubles the wait of a scan with every BUSY in a row.
fn wait_longer(scan: &mut LockedScan<'_>, now: Timestamp) -> Timestamp {
    let row = scan.row_mut();
    let doublings = u32::try_from(row.busy_answers).unwrap_or(u32::MAX).min(16);
    let until = now.plus(
        BUSY_WAITS
            .0
            .saturating_mul(1 << doublings)
            .min(BUSY_WAITS.1),
    );
    row.busy_answers += 1;
    row.not_before = Micros(until);
    until
}


/// Locks a scan's node and then the scan. Both never change hands.
async fn lock_with_node(
    tx: &DatabaseTransaction,
    org: Option<OrgId>,
    id: ScanId,
) -> Result<Option<LockedScan<'_>>, DbErr> {
    let found = scan::Entity::find_by_id(AsText(id)).one(tx).await?;
    let Some(found) = found.filter(|scan| org.is_none_or(|org| scan.org_id == org.0)) else {
        return Ok(None);
    };
    nodes::lock_any(tx, found.node_id).await?;
    LockedScan::lock(tx, id).await
}


/// Ends all work of a node that is being revoked, under its lock.
pub(crate) async fn end_work_of_revoked(
    tx: &DatabaseTransaction,
    node: NodeId,
    now: Timestamp,
) -> Result<Vec<ScanId>, DbErr> {
    let commands = in_flight(tx, node).await?;
    let open = scan::Entity::find()
        .filter(scan::Column::NodeId.eq(node.0))
        .filter(scan::Column::State.is_in(nodes::open_states()))
        .order_by_asc(scan::Column::Id)
        .select_only()
        .column(scan::Column::Id)
        .into_tuple::<AsText<ScanId>>()
        .all(tx)
        .await?;
    let mut ids: Vec<ScanId> = open.into_iter().map(|id| id.0).collect();
    // A command may outlive its scan.
    ids.extend(commands.iter().map(|command| command.scan_id.0));
    ids.sort_unstable();
    ids.dedup();
    let mut ended = Vec::new();
    for id in ids {
        let Some(mut scan) = LockedScan::lock(tx, id).await? else {
            continue;
        };
        for command in commands.iter().filter(|command| command.scan_id.0 == id) {
            scan.end_command(command, CommandState::Ended, now).await?;
            if scan.is_open() {
                scan.keep_scope(command).await?;
            }
        }
        let why = format!("node {node} was revoked; what was found is kept");
        scan.finish(
            Conclusion::new(ScanState::Failed, Code::FailedPrecondition, why),
            now,
        )
        .await?;
        if scan.ended_now() {
            ended.push(id);
        }
        scan.save().await?;
    }
    Ok(ended)
}

/// Commands that are past their deadline, with their nodes.
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
        .into_tuple::<(i64, AsText<CommandId>)>()
        .all(db)
        .await?;
    Ok(rows
        .into_iter()
        .map(|(node, command)| (NodeId(node), command.0))
        .collect())
}


/// Scans that wait for nothing any more: canceled past their grace, or queued for too long.
pub(crate) async fn stale(db: &impl ConnectionTrait, now: Timestamp) -> Result<Vec<ScanId>, DbErr> {
    let abandoned = Condition::all()
        .add(scan::Column::Queues.eq(false))
        .add(scan::Column::State.eq(AsText(ScanState::Queued)))
        .add(scan::Column::CreatedAt.lte(Micros(now.minus(limits::NODE_AWAY))));
    let rows = scan::Entity::find()
        .filter(scan::Column::State.is_in(nodes::open_states()))
        .filter(
            Condition::any()
                .add(scan::Column::CancelUntil.lte(Micros(now)))
                .add(scan::Column::QueuedUntil.lte(Micros(now)))
                .add(abandoned),
        )
        .order_by_asc(scan::Column::Id)
        .select_only()
        .column(scan::Column::Id)
        .into_tuple::<AsText<ScanId>>()
        .all(db)
        .await?;
    Ok(rows.into_iter().map(|id| id.0).collect())
}

/// What a sweep did to one scan.
pub(crate) struct Expired {
    pub(crate) ended: bool,
    /// A command that ended with it.
    pub(crate) command: Option<(NodeId, CommandId)>,
}


/// The node did not come in time, or was busy all along. A scan that has run ends by its chunks.
async fn expire_queued(scan: &mut LockedScan<'_>, now: Timestamp) -> Result<(), DbErr> {
    let (code, why) = if scan.row().busy_answers > 0 {
        (
            Code::ResourceExhausted,
            "the node was busy until the scan's time in the queue was over",
        )
    } else {
        (
            Code::DeadlineExceeded,
            "the node did not come before the scan's time in the queue was over",
        )
    };
    if scan.row().chunks_done > 0 {
        return scan.give_up(Verdict::failed(code, why), now).await;
    }
    scan.finish(Conclusion::new(ScanState::Expired, code, why), now)
        .await
}
