//! How commands, chunks and scans progress and end: by ack, deadline, cancel or revocation. The rules are in
//! `fleet_discovery`. Only [`LockedScan::finish`] writes the terminal event.

use std::collections::BTreeMap;

use fleet_core::outcome::{AckVerdict, Code, Conclusion, Verdict};
use fleet_discovery::{Expiry, WaitingScan, canceled, expiry};

use super::{
    audit,
    commands::{self, Work},
    deadlines::continue_deadlines,
    entity::{command, scan, scan_share},
    locked::{LockedScan, read_shares},
    nodes,
    pairing::ends,
    scans,
};
use crate::{Ack, Acked, CancelScanError, Canceled, Completion, Expired, Grace, sql::prelude::*};

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
            scan.progress(node, done.min(targets)).await?;
            phase.clone_into(&mut scan.row_mut().phase);
            scan.save().await?;
            Ok(Some(id))
        })
    }

    async fn cancel_scan(
        &self,
        org: OrgId,
        id: ScanId,
        grace: Grace,
        actor: Actor,
        now: Timestamp,
    ) -> Result<Canceled, CancelScanError> {
        transaction!(self, "cancel_scan", |tx| {
            let Some(mut scan) = lock_with_nodes(tx, Some(org), id).await? else {
                return refuse(CancelScanError::NotFound(id));
            };
            let mut to_cancel = Vec::new();
            if scan.is_open() {
                to_cancel = cancel(&mut scan, &grace, now).await?;
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
            let Some(mut scan) = lock_with_nodes(tx, None, id).await? else {
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
            let swept = commands::skip_unreadable(&id, swept)?;
            expired.commands.extend(swept.commands);
            expired.scans.extend(swept.changed.then_some(id));
        }
        expired.scans.sort_unstable();
        expired.scans.dedup();
        Ok(expired)
    }
}

/// Locks a scan's nodes and then the scan. A scan never changes its nodes or organization.
async fn lock_with_nodes(
    tx: &DatabaseTransaction,
    org: Option<OrgId>,
    id: ScanId,
) -> Result<Option<LockedScan<'_>>, DbErr> {
    // Without a lock, only to learn the nodes, which have to be locked first and by id.
    let found = scan::Entity::find_by_id(AsText(id)).one(tx).await?;
    if found.is_none_or(|scan| org.is_some_and(|org| scan.org_id != org.0)) {
        return Ok(None);
    }
    for share in read_shares(tx, AsText(id)).await? {
        nodes::lock_any(tx, share.node_id).await?;
    }
    LockedScan::lock(tx, id).await
}

/// Ends the shares of a scan that is being canceled, except those of nodes that are asked to stop. Returns the commands
/// of these.
async fn cancel(
    scan: &mut LockedScan<'_>,
    grace: &Grace,
    now: Timestamp,
) -> Result<Vec<CommandId>, DbErr> {
    let mut stopping = BTreeMap::new();
    for command in scan.in_flight().await? {
        let node = NodeId(command.node_id);
        if grace.nodes.contains(&node) {
            stopping.insert(node, command.id.0);
        } else {
            // An upstream node cannot be asked to stop. Its command keeps running and may report (decision 0007).
            scan.keep_scope(&command).await?;
        }
    }
    if stopping.is_empty() {
        scan.finish(canceled(), now).await?;
        return Ok(Vec::new());
    }
    let until = Micros(now.plus(grace.time));
    let row = scan.row_mut();
    // A second cancel must not extend the grace period.
    row.cancel_until = row.cancel_until.or(Some(until));
    let nodes: Vec<_> = scan
        .shares()
        .await?
        .iter()
        .map(|share| share.node_id)
        .collect();
    for node in nodes.into_iter().map(NodeId) {
        if !stopping.contains_key(&node) {
            scan.end_share(node, canceled(), now).await?;
        }
    }
    Ok(stopping.into_values().collect())
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

/// The effect of a sweep on a scan.
#[derive(Default)]
struct Swept {
    /// Whether the scan or one of its shares ended.
    changed: bool,
    /// The commands that ended with it.
    commands: Vec<(NodeId, CommandId)>,
}

/// Ends the shares of a scan that have waited too long, after checking again under the lock.
async fn expire_scan(tx: &DatabaseTransaction, id: ScanId, now: Timestamp) -> Result<Swept, DbErr> {
    let mut swept = Swept::default();
    let Some(mut scan) = lock_with_nodes(tx, None, id).await? else {
        return Ok(swept);
    };
    if !scan.is_open() {
        return Ok(swept);
    }
    let in_flight = scan.in_flight().await?;
    let row = scan.row();
    let (queues, created_at) = (row.queues, row.created_at.0);
    let cancel_until = row.cancel_until.map(|until| until.0);
    let ignores_blackout = row.ignores_blackout;
    for share in scan.shares().await?.to_vec() {
        let node = NodeId(share.node_id);
        let waiting = WaitingScan {
            state: share.state.0,
            queues,
            created_at,
            queued_until: share.queued_until.0,
            cancel_until,
            in_flight: in_flight.iter().any(|command| command.node_id == node.0),
            was_busy: share.busy_answers > 0,
            has_run: share.chunks_done > 0,
        };
        if share.state.0.is_terminal() {
            continue;
        }
        // A blackout that began since the scan was stored pauses the share: the time in the queue begins when the
        // blackout ends.
        let waits_only = cancel_until.is_none() && !waiting.in_flight;
        if waits_only
            && waiting.queued_until <= now
            && !ignores_blackout
            && let Some(blackout) = nodes::blackout(tx, node, now).await?
        {
            let until = blackout.at.plus(limits::QUEUE_FOR);
            scan.share(node).await?.queued_until = Micros(until);
            continue;
        }
        let Some(expiry) = expiry(&waiting, now) else {
            continue;
        };
        swept.changed = true;
        match expiry {
            Expiry::Cancel => {
                // The node was asked to stop and its grace period is over. Its reports are refused from now on.
                for command in in_flight.iter().filter(|one| one.node_id == node.0) {
                    commands::end(tx, command, CommandState::Canceled, now).await?;
                    scan.keep_scope(command).await?;
                    swept.commands.push((node, command.id.0));
                }
                scan.end_share(node, canceled(), now).await?;
            }
            Expiry::GiveUp(verdict) => scan.give_up(node, verdict, now).await?,
            Expiry::Finish(conclusion) => scan.end_share(node, conclusion, now).await?,
        }
    }
    scan.save().await?;
    Ok(swept)
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
    let open = scan_share::Entity::find()
        .filter(scan_share::Column::NodeId.eq(node.0))
        .filter(scan_share::Column::State.is_in(nodes::open_states()))
        .order_by_asc(scan_share::Column::ScanId)
        .select_only()
        .column(scan_share::Column::ScanId)
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
        scan.end_share(node, conclusion, now).await?;
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
    let waited = scan_share::Entity::find()
        .select_only()
        .column(scan_share::Column::ScanId)
        .filter(scan_share::Column::State.is_in(nodes::open_states()))
        .filter(scan_share::Column::QueuedUntil.lte(Micros(now)));
    let rows = scan::Entity::find()
        .filter(scan::Column::State.is_in(nodes::open_states()))
        .filter(
            Condition::any()
                .add(scan::Column::CancelUntil.lte(Micros(now)))
                .add(scan::Column::Id.in_subquery(waited.into_query()))
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
