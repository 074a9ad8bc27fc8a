//! How commands, chunks and scans progress and end: by ack, deadline, cancel or revocation. The rules are in
//! `fleet_discovery`. Only [`LockedScan::finish`] writes the terminal event.

use std::time::Duration;

use fleet_core::outcome::{AckVerdict, Code, Conclusion, Verdict};
use fleet_discovery::{Expiry, WaitingScan, canceled, expiry};

use super::{
    audit,
    commands::{self, Work},
    deadlines::continue_deadlines,
    entity::{command, scan},
    locked::LockedScan,
    nodes,
    pairing::ends,
    scans,
};
use crate::{Ack, Acked, CancelScanError, Canceled, Completion, Expired, sql::prelude::*};

#[async_trait]
impl Completion for SqlStore {
    async fn record_ack(&self, ack: Ack) -> Result<Acked, StoreError> {
        transaction!(self, "record_ack", |tx| {
            let found = commands::lock_for_stream(tx, ack.node, ack.epoch, ack.command).await?;
            let Some(command) = found else {
                return Ok(Acked::Stale);
            };
            let id = match commands::work(&command)? {
                Work::Scan(id) => id,
                Work::Pairing(id) => {
                    // A pairing that was refused as busy is not issued again, because its credentials are no
                    // longer available.
                    let (AckVerdict::Ended(verdict) | AckVerdict::Busy(verdict)) =
                        ack.verdict.clone();
                    let state = CommandState::Acked;
                    ends::conclude(tx, &command, id, state, verdict, ack.now).await?;
                    return Ok(Acked::Pairing(id));
                }
            };
            let Some(mut scan) = LockedScan::lock(tx, id).await? else {
                return Ok(Acked::Stale);
            };
            commands::end(tx, &command, CommandState::Acked, ack.now).await?;
            scan.warn(ack.notes.iter().cloned(), ack.now).await?;
            let mut waits = None;
            match &ack.verdict {
                AckVerdict::Ended(verdict) => {
                    let outcomes = ack.outcomes.clone();
                    scan.end_chunk(&command, verdict.clone(), outcomes, ack.now)
                        .await?;
                }
                AckVerdict::Busy(verdict) => {
                    waits = scan.refused_as_busy(&command, verdict, ack.now).await?;
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
            let found = commands::lock_for_stream(tx, node, epoch, command).await?;
            let Some(command) = found else {
                return Ok(None);
            };
            let Work::Scan(id) = commands::work(&command)? else {
                return Ok(None);
            };
            let Some(mut scan) = LockedScan::lock(tx, id).await? else {
                return Ok(None);
            };
            if !scan.is_open() {
                return Ok(None);
            }
            let targets = command.scope.as_ref().map_or(0, |scope| scope.0.targets());
            let row = scan.row_mut();
            row.units_done = row.units_settled.saturating_add(count(done.min(targets)));
            phase.clone_into(&mut row.phase);
            // Progress shows that the node is working, which ends a series of BUSY answers.
            row.busy_answers = 0;
            scan.save().await?;
            Ok(Some(id))
        })
    }

    async fn cancel_scan(
        &self,
        org: OrgId,
        id: ScanId,
        grace: Option<Duration>,
        actor: Actor,
        now: Timestamp,
    ) -> Result<Canceled, CancelScanError> {
        transaction!(self, "cancel_scan", |tx| {
            let Some(mut scan) = lock_with_node(tx, Some(org), id).await? else {
                return refuse(CancelScanError::NotFound(id));
            };
            let mut to_cancel = None;
            if scan.is_open() {
                match (in_flight(tx, &scan).await?, grace) {
                    (Some(command), Some(grace)) => {
                        to_cancel = Some(command.id.0);
                        let until = Micros(now.plus(grace));
                        let row = scan.row_mut();
                        // A second cancel must not extend the grace period.
                        row.cancel_until = row.cancel_until.or(Some(until));
                    }
                    // An upstream node cannot be asked to stop. Its command keeps running and may
                    // report (decision 0007).
                    (Some(command), None) => {
                        scan.keep_scope(&command).await?;
                        scan.finish(canceled(), now).await?;
                    }
                    (None, _) => scan.finish(canceled(), now).await?,
                }
                let subject = format!("scan {id}");
                audit::done(tx, org, &actor, "scan.cancel", subject, now).await?;
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
        id: ScanId,
        conclusion: Conclusion,
        now: Timestamp,
    ) -> Result<bool, StoreError> {
        transaction!(self, "end_scan", |tx| {
            let Some(mut scan) = lock_with_node(tx, None, id).await? else {
                return Ok(false);
            };
            scan.finish(conclusion.clone(), now).await?;
            let ended = scan.ended_now();
            scan.save().await?;
            Ok(ended)
        })
    }

    async fn is_in_flight(&self, command: CommandId) -> Result<bool, StoreError> {
        let issued = command::Entity::find_by_id(AsText(command))
            .filter(command::Column::State.eq(AsText(CommandState::Issued)));
        let count = issued.count(self.reader()).await;
        count.map(|count| count > 0).during("is_in_flight")
    }

    async fn sweep_commands(&self, now: Timestamp) -> Result<Expired, StoreError> {
        let operation = "sweep_commands";
        continue_deadlines(self, now).await?;
        let mut expired = Expired::default();
        // Each row has its own transaction, which keeps the sweep from holding a node's lock for long.
        for (node, id) in commands::overdue(self.reader(), now)
            .await
            .during(operation)?
        {
            let work = transaction!(self, operation, |tx| {
                Ok(expire_command(tx, node, id, now).await?)
            });
            let Some(work) = commands::skip_unreadable(&id, work)? else {
                continue;
            };
            expired.commands.push((node, id));
            match work {
                Work::Scan(scan) => expired.scans.push(scan),
                Work::Pairing(pairing) => expired.pairings.push(pairing),
            }
        }
        for id in waiting(self.reader(), now).await.during(operation)? {
            let swept = transaction!(self, operation, |tx| {
                Ok(expire_scan(tx, id, now).await?)
            });
            let (ended, command) = commands::skip_unreadable(&id, swept)?;
            expired.commands.extend(command);
            expired.scans.extend(ended.then_some(id));
        }
        expired.scans.sort_unstable();
        expired.scans.dedup();
        Ok(expired)
    }
}

/// Locks a scan's node and then the scan. A scan never changes its node or organization.
async fn lock_with_node(
    tx: &DatabaseTransaction,
    org: Option<OrgId>,
    id: ScanId,
) -> Result<Option<LockedScan<'_>>, DbErr> {
    // Without a lock, only to learn the node, which has to be locked first.
    let found = scan::Entity::find_by_id(AsText(id)).one(tx).await?;
    let Some(found) = found.filter(|scan| org.is_none_or(|org| scan.org_id == org.0)) else {
        return Ok(None);
    };
    nodes::lock_any(tx, found.node_id).await?;
    LockedScan::lock(tx, id).await
}

/// The command of a locked scan that is in flight.
async fn in_flight(
    tx: &DatabaseTransaction,
    scan: &LockedScan<'_>,
) -> Result<Option<command::Model>, DbErr> {
    let command = commands::in_flight(tx, NodeId(scan.row().node_id)).await?;
    Ok(command.filter(|command| command.scan_id == Some(scan.row().id)))
}

/// Ends a command that its node has not acknowledged in time, if it is still in flight.
async fn expire_command(
    tx: &DatabaseTransaction,
    node: NodeId,
    id: CommandId,
    now: Timestamp,
) -> Result<Option<Work>, DbErr> {
    nodes::lock_any(tx, node.0).await?;
    let command = commands::lock_issued(tx, node, id).await?;
    // Its ack may have arrived since the list was read.
    let Some(command) = command.filter(|command| command.deadline.0 <= now) else {
        return Ok(None);
    };
    let work = commands::work(&command)?;
    match work {
        Work::Pairing(id) => {
            let minutes = limits::COMMAND_DEADLINE.as_secs() / 60;
            let why = format!("the node gave no answer within {minutes} minutes");
            let verdict = Verdict::failed(Code::DeadlineExceeded, why);
            ends::conclude(tx, &command, id, CommandState::Expired, verdict, now).await?;
        }
        Work::Scan(id) => {
            let Some(mut scan) = LockedScan::lock(tx, id).await? else {
                return Ok(None);
            };
            commands::end(tx, &command, CommandState::Expired, now).await?;
            scan.expire_chunk(&command, now).await?;
            scan.save().await?;
        }
    }
    Ok(Some(work))
}

/// Ends a scan that has waited too long, after checking again under the lock. Returns whether the scan ended,
/// and the command that ended with it.
async fn expire_scan(
    tx: &DatabaseTransaction,
    id: ScanId,
    now: Timestamp,
) -> Result<(bool, Option<(NodeId, CommandId)>), DbErr> {
    let Some(mut scan) = lock_with_node(tx, None, id).await? else {
        return Ok((false, None));
    };
    let command = in_flight(tx, &scan).await?;
    let row = scan.row();
    let node = NodeId(row.node_id);
    let waiting = WaitingScan {
        state: row.state.0,
        queues: row.queues,
        created_at: row.created_at.0,
        queued_until: row.queued_until.0,
        cancel_until: row.cancel_until.map(|until| until.0),
        in_flight: command.is_some(),
        was_busy: row.busy_answers > 0,
        has_run: row.chunks_done > 0,
    };
    // A blackout that began since the scan was stored pauses it: the time in the queue begins when the blackout ends.
    let waits_only = waiting.cancel_until.is_none() && !waiting.in_flight;
    if scan.is_open()
        && waits_only
        && waiting.queued_until <= now
        && !row.ignores_blackout
        && let Some(blackout) = nodes::blackout(tx, node, now).await?
    {
        scan.row_mut().queued_until = Micros(blackout.at.plus(limits::QUEUE_FOR));
        scan.save().await?;
        return Ok((false, None));
    }
    let mut ended_command = None;
    match expiry(&waiting, now) {
        None => {}
        Some(Expiry::Cancel) => {
            // The node was asked to stop and its grace period is over. Its reports are refused from now on.
            if let Some(command) = command {
                commands::end(tx, &command, CommandState::Canceled, now).await?;
                scan.keep_scope(&command).await?;
                ended_command = Some((node, command.id.0));
            }
            scan.finish(canceled(), now).await?;
        }
        Some(Expiry::GiveUp(verdict)) => scan.give_up(verdict, now).await?,
        Some(Expiry::Finish(conclusion)) => scan.finish(conclusion, now).await?,
    }
    let ended = scan.ended_now();
    scan.save().await?;
    Ok((ended, ended_command))
}

/// Ends the command and the scans of a node that is being revoked, under its lock.
pub(crate) async fn end_work_of_revoked(
    tx: &DatabaseTransaction,
    node: NodeId,
    now: Timestamp,
) -> Result<Vec<ScanId>, DbErr> {
    let command = commands::in_flight(tx, node).await?;
    if let Some(command) = &command {
        commands::end(tx, command, CommandState::Ended, now).await?;
    }
    let open = scan::Entity::find()
        .filter(scan::Column::NodeId.eq(node.0))
        .filter(scan::Column::State.is_in(nodes::open_states()))
        .order_by_asc(scan::Column::Id)
        .select_only()
        .column(scan::Column::Id)
        .into_tuple::<AsText<ScanId>>()
        .all(tx)
        .await?;
    let mut ended = Vec::new();
    for AsText(id) in open {
        let Some(mut scan) = LockedScan::lock(tx, id).await? else {
            continue;
        };
        let own = |command: &&command::Model| command.scan_id == Some(AsText(id));
        if let Some(command) = command.as_ref().filter(own) {
            scan.keep_scope(command).await?;
        }
        let why = format!("node {node} was revoked; what was found is kept");
        let conclusion = Conclusion::new(ScanState::Failed, Code::FailedPrecondition, why);
        scan.finish(conclusion, now).await?;
        if scan.ended_now() {
            ended.push(id);
        }
        scan.save().await?;
    }
    Ok(ended)
}

/// Scans that an index shows as possibly expired. [`expiry`] makes the decision.
async fn waiting(db: &impl ConnectionTrait, now: Timestamp) -> Result<Vec<ScanId>, DbErr> {
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
        .into_tuple::<String>()
        .all(db)
        .await?;
    let readable = |id: String| commands::read_id("scan", &id);
    Ok(rows.into_iter().filter_map(readable).collect())
}
