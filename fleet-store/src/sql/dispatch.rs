//! From a plan to commands: creating a scan, issuing its chunks one by one, taking one back.

use fleet_core::{
    ChunkState, CommandId, CommandState, Epoch, NodeId, ScanState, Timestamp,
    enrollment::NodeState, limits,
};
use fleet_discovery::Scope;
use sea_orm::{
    ColumnTrait, ConnectionTrait, DatabaseTransaction, DbErr, EntityTrait, PaginatorTrait,
    QueryFilter, QueryOrder, QuerySelect, QueryTrait, Select, Set,
};

use super::{
    audit, codec,
    entity::{chunk, command, node_stream, scan, scan_request},
    inserts,
    locked::{LockedScan, canceled},
    nodes,
    pairing::commands as pairing,
    scans,
    streams::{current_epoch, in_flight},
    transaction::{Failure, refuse},
    value::{AsText, Micros},
};
use crate::{
    Actor, AuditEntry, CreateScanError, CreatedScan, IssuedCommand, NewScan, Queueing, StoreError,
};

pub(crate) async fn create(
    tx: &DatabaseTransaction,
    new: &NewScan,
    actor: &Actor,
) -> Result<CreatedScan, Failure<CreateScanError>> {
    if let Some(scan) = by_request_id(tx, new).await? {
        return Ok(CreatedScan {
            scan,
            existing: true,
        });
    }
    let Some(node) = nodes::lock_of(tx, new.org, new.node).await? else {
        return refuse(CreateScanError::NodeNotFound(new.node));
    };
    if node.state.0 != NodeState::Confirmed {
        return refuse(CreateScanError::NotConfirmed(new.node));
    }
    check_room(tx, new).await?;
    let (row, chunks) = rows(new)?;
    scan::Entity::insert(row).exec_without_returning(tx).await?;
    let request = scan_request::ActiveModel {
        scan_id: Set(AsText(new.id)),
        request: Set(codec::write_request(&new.request)?),
    };
    scan_request::Entity::insert(request)
        .exec_without_returning(tx)
        .await?;
    let empty = chunks.is_empty();
    inserts::all(tx, chunks).await?;
    let subject = format!(
        "scan {} on node {} ({} targets)",
        new.id, new.node, new.plan.targets
    );
    audit::write(
        tx,
        AuditEntry::done(new.org, actor.clone(), "scan.start", subject, new.now),
    )
    .await?;
    let Some(mut scan) = LockedScan::lock(tx, new.id).await? else {
        return Err(DbErr::RecordNotFound("the scan that was just stored".into()).into());
    };
    scan.warn(new.plan.notes.iter().cloned(), new.now).await?;
    if empty {
        scan.conclude(new.now).await?;
    }
    let row = scan.save().await?;
    Ok(CreatedScan {
        scan: scans::read_one(tx, row, new.now).await?,
        existing: false,
    })
}

async fn by_request_id(
    tx: &DatabaseTransaction,
    new: &NewScan,
) -> Result<Option<crate::ScanRow>, DbErr> {
    match &new.request_id {
        Some(request_id) => scans::by_request_id(tx, new.org, request_id, new.now).await,
        None => Ok(None),
    }
}

/// A scan that never queues needs an idle node, any other a place in its queue.
async fn check_room(
    tx: &DatabaseTransaction,
    new: &NewScan,
) -> Result<(), Failure<CreateScanError>> {
    let of_node = scan::Entity::find().filter(scan::Column::NodeId.eq(new.node.0));
    match new.queueing {
        Queueing::Never => {
            let open = of_node
                .filter(scan::Column::State.is_in(nodes::open_states()))
                .count(tx)
                .await?;
            if open > 0
                || pairing::is_open(tx, new.node).await?
                || !in_flight(tx, new.node).await?.is_empty()
            {
                return refuse(CreateScanError::Busy(new.node));
            }
        }
        Queueing::Until(_) => {
            let queued = of_node
                .filter(scan::Column::State.eq(AsText(ScanState::Queued)))
                .count(tx)
                .await?;
            if queued >= limits::QUEUED_SCANS as u64 {
                return refuse(CreateScanError::QueueFull {
                    node: new.node,
                    most: limits::QUEUED_SCANS,
                });
            }
        }
    }
    Ok(())
}

fn rows(new: &NewScan) -> Result<(scan::ActiveModel, Vec<chunk::ActiveModel>), DbErr> {
    let skipped: u64 = new.plan.skipped.iter().map(|tally| tally.count).sum();
    let skipped = count(skipped);
    let targets = |scope: &Scope| count(scope.targets());
    let planned: i64 = new
        .plan
        .chunks
        .iter()
        .map(|chunk| targets(&chunk.scope))
        .sum();
    let (queues, queued_until) = match new.queueing {
        Queueing::Never => (false, new.now.plus(limits::QUEUE_FOR)),
        Queueing::Until(until) => (true, until),
    };
    let row = scan::ActiveModel {
        id: Set(AsText(new.id)),
        org_id: Set(new.org.0),
        node_id: Set(new.node.0),
        operator_id: Set(new.operator.0),
        request_id: Set(new.request_id.clone()),
        state: Set(AsText(ScanState::Queued)),
        priority: Set(AsText(new.priority)),
        queues: Set(queues),
        queued_until: Set(Micros(queued_until)),
        created_at: Set(Micros(new.now)),
        started_at: Set(None),
        ended_at: Set(None),
        served_at: Set(Micros(Timestamp::from_micros(0))),
        not_before: Set(Micros(new.now)),
        busy_answers: Set(0),
        cancel_until: Set(None),
        code: Set(None),
        reason: Set(String::new()),
        open_scope: Set(new.plan.open_scope),
        skipped: Set(codec::write_tallies(&new.plan.skipped)?),
        chunks: Set(count(new.plan.chunks.len() as u64)),
        chunks_done: Set(0),
        targets: Set(count(new.plan.targets)),
        units: Set(skipped + planned),
        units_done: Set(skipped),
        units_settled: Set(skipped),
        phase: Set(String::new()),
        last_sequence: Set(0),
        accepted: Set(0),
        rejected: Set(0),
        first_device_at: Set(None),
        ledger: Set(None),
    };
    let chunk = |(position, chunk): (usize, &fleet_discovery::Chunk)| {
        Ok(chunk::ActiveModel {
            scan_id: Set(AsText(new.id)),
            position: Set(count(position as u64)),
            state: Set(AsText(ChunkState::Waiting)),
            command: Set(codec::write_command(&chunk.command)?),
            ports: Set(codec::write_ports(&chunk.ports)),
            scope: Set(AsText(chunk.scope.clone())),
            targets: Set(targets(&chunk.scope)),
            attempts: Set(0),
            grade: Set(None),
            code: Set(None),
            reason: Set(String::new()),
            outcomes: Set(None),
        })
    };
    let chunks = new
        .plan
        .chunks
        .iter()
        .enumerate()
        .map(chunk)
        .collect::<Result<_, DbErr>>()?;
    Ok((row, chunks))
}

/// A count as the databases keep it.
pub(crate) fn count(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

/// Scans of which a chunk may be issued at `now`, as far as their own row tells.
fn ready(now: Timestamp) -> Select<scan::Entity> {
    let waiting = chunk::Entity::find()
        .select_only()
        .column(chunk::Column::ScanId)
        .filter(chunk::Column::State.eq(AsText(ChunkState::Waiting)));
    scan::Entity::find()
        .filter(scan::Column::State.is_in(nodes::open_states()))
        .filter(scan::Column::CancelUntil.is_null())
        .filter(scan::Column::NotBefore.lte(Micros(now)))
        .filter(scan::Column::QueuedUntil.gt(Micros(now)))
        .filter(scan::Column::Id.in_subquery(waiting.into_query()))
}

pub(crate) async fn issue(
    tx: &DatabaseTransaction,
    node: NodeId,
    epoch: Epoch,
    command: CommandId,
    now: Timestamp,
) -> Result<Option<IssuedCommand>, Failure<StoreError>> {
    let node = match nodes::lock(tx, node).await? {
        Some(node) if node.state.0 == NodeState::Confirmed => node,
        _ => return Ok(None),
    };
    let id = NodeId(node.id);
    if current_epoch(tx, id).await? != Some(epoch)
        || !in_flight(tx, id).await?.is_empty()
        || pairing::is_open(tx, id).await?
    {
        return Ok(None);
    }
    let next = ready(now)
        .filter(scan::Column::NodeId.eq(node.id))
        // "interactive" sorts before "scheduled"; a scan never served has the time 0.
        .order_by_asc(scan::Column::Priority)
        .order_by_asc(scan::Column::ServedAt)
        .order_by_asc(scan::Column::Id)
        .one(tx)
        .await?;
    let Some(next) = next else {
        return Ok(None);
    };
    let Some(mut scan) = LockedScan::lock(tx, next.id.0).await? else {
        return Ok(None);
    };
    let chunk = chunk::Entity::find()
        .filter(chunk::Column::ScanId.eq(next.id))
        .filter(chunk::Column::State.eq(AsText(ChunkState::Waiting)))
        .order_by_asc(chunk::Column::Position)
        .one(tx)
        .await?;
    let Some(chunk) = chunk else {
        return Ok(None);
    };
    let deadline = now.plus(limits::COMMAND_DEADLINE);
    let issued = IssuedCommand {
        command,
        scan: next.id.0,
        priority: next.priority.0,
        request: codec::read_command(&chunk.command)?,
        ports: codec::read_ports(&chunk.ports)?,
        deadline,
    };
    let row = command::ActiveModel {
        id: Set(AsText(command)),
        org_id: Set(node.org_id),
        node_id: Set(node.id),
        scan_id: Set(next.id),
        chunk: Set(chunk.position),
        epoch: Set(epoch.0),
        state: Set(AsText(CommandState::Issued)),
        scope: Set(chunk.scope.clone()),
        issued_at: Set(Micros(now)),
        deadline: Set(Micros(deadline)),
        ended_at: Set(None),
        rows: Set(0),
        refused_rows: Set(0),
        flooded: Set(false),
    };
    command::Entity::insert(row)
        .exec_without_returning(tx)
        .await?;
    let taken = chunk::ActiveModel {
        state: Set(AsText(ChunkState::Issued)),
        attempts: Set(chunk.attempts + 1),
        ..Default::default()
    };
    chunk::Entity::update_many()
        .set(taken)
        .filter(chunk::Column::ScanId.eq(next.id))
        .filter(chunk::Column::Position.eq(chunk.position))
        .exec(tx)
        .await?;
    let row = scan.row_mut();
    row.state = AsText(ScanState::Running);
    row.started_at = row.started_at.or(Some(Micros(now)));
    row.served_at = Micros(now);
    scan.save().await?;
    Ok(Some(issued))
}

pub(crate) async fn withdraw(
    tx: &DatabaseTransaction,
    id: CommandId,
    now: Timestamp,
) -> Result<(), Failure<StoreError>> {
    let Some(node) = command::Entity::find_by_id(AsText(id))
        .one(tx)
        .await?
        .map(|command| command.node_id)
    else {
        return Ok(());
    };
    nodes::lock_any(tx, node).await?;
    let command = super::streams::command_of(tx, NodeId(node), id).await?;
    let Some(command) = command.filter(|command| command.state.0 == CommandState::Issued) else {
        return Ok(());
    };
    let Some(mut scan) = LockedScan::lock(tx, command.scan_id.0).await? else {
        return Ok(());
    };
    scan.end_command(&command, CommandState::Lost, now).await?;
    if scan.is_open() {
        scan.requeue_chunk(&command, false).await?;
        if scan.row().cancel_until.is_some() {
            scan.finish(canceled(), now).await?;
        }
    }
    scan.save().await?;
    Ok(())
}

/// Nodes with a stream and a free slot for which a chunk waits, each once.
pub(crate) async fn nodes_with_work(
    db: &impl ConnectionTrait,
    now: Timestamp,
) -> Result<Vec<NodeId>, DbErr> {
    let streams = node_stream::Entity::find()
        .select_only()
        .column(node_stream::Column::NodeId)
        .filter(node_stream::Column::ReleasedAt.is_null());
    let at_work = command::Entity::find()
        .select_only()
        .column(command::Column::NodeId)
        .filter(command::Column::State.eq(AsText(CommandState::Issued)));
    let nodes = ready(now)
        .filter(scan::Column::NodeId.in_subquery(streams.into_query()))
        .filter(scan::Column::NodeId.not_in_subquery(at_work.into_query()))
        .filter(scan::Column::NodeId.not_in_subquery(pairing::nodes_at_it()))
        .select_only()
        .column(scan::Column::NodeId)
        .distinct()
        .order_by_asc(scan::Column::NodeId)
        .into_tuple::<i64>()
        .all(db)
        .await?;
    Ok(nodes.into_iter().map(NodeId).collect())
}
