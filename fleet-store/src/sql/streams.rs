//! Claims of control streams: the epoch that fences older ones, and what becomes of commands in flight.

use std::time::Duration;

use async_trait::async_trait;
use fleet_core::{
    CommandId, CommandState, Epoch, InstanceId, NodeId, OrgId, ReplicaId, ScanId, ScanState,
    SessionId, Timestamp,
    enrollment::NodeState,
    limits::DUPLICATE_HOLD,
    takeover::{Claimant, Judgement, Takeovers},
};
use sea_orm::{
    ColumnTrait, ConnectionTrait, DatabaseTransaction, DbErr, EntityTrait, QueryFilter, QueryOrder,
    QuerySelect, Set,
    sea_query::{LockType, OnConflict},
};

use super::{
    audit, codec,
    entity::{command, node, node_stream},
    locked::LockedScan,
    nodes,
    pairing::commands as pairing,
    transaction::{Failure, refuse},
    value::{AsText, Bytes16, Micros},
};
use crate::{
    Actor, AdoptedCommand, AuditEntry, ClaimError, ClaimedStream, SqlStore, StoreError,
    StreamClaim, Streams,
};

#[async_trait]
impl Streams for SqlStore {
    async fn claim_stream(&self, claim: StreamClaim) -> Result<ClaimedStream, ClaimError> {
        let id = claim.node;
        let judged = self
            .transaction("claim_stream", claim, |tx, claim| {
                Box::pin(claim_stream(tx, claim))
            })
            .await?;
        judged.map_err(|hold| ClaimError::Duplicate { node: id, hold })
    }

    async fn claimed_elsewhere(
        &self,
        replica: ReplicaId,
        since: Timestamp,
    ) -> Result<Vec<(NodeId, Epoch)>, StoreError> {
        use node_stream::Column as C;
        let claimed = node_stream::Entity::find()
            .filter(C::ClaimedAt.gte(Micros(since)))
            .filter(C::Replica.ne(Bytes16(replica.0)))
            .select_only()
            .columns([C::NodeId, C::Epoch])
            .into_tuple::<(i64, i64)>()
            .all(self.reader())
            .await;
        let claimed = Self::reading("claimed_elsewhere", claimed)?;
        Ok(claimed
            .into_iter()
            .map(|(node, epoch)| (NodeId(node), Epoch(epoch)))
            .collect())
    }

    async fn sweep_duplicates(&self, now: Timestamp) -> Result<u64, StoreError> {
        let flagged = node::Entity::find()
            .filter(node::Column::DuplicateIdentity.eq(true))
            .filter(node::Column::DeletedAt.is_null())
            .order_by_asc(node::Column::Id)
            .all(self.reader())
            .await;
        let mut cleared = 0;
        for node in Self::reading("sweep_duplicates", flagged)? {
            let done = self
                .transaction("sweep_duplicates", (node.id, now), |tx, (node, now)| {
                    Box::pin(async move {
                        let Some(node) = nodes::lock(tx, NodeId(*node)).await? else {
                            return Ok(false);
                        };
                        let stream = node_stream::Entity::find_by_id(node.id).one(tx).await?;
                        let contested = takeovers(stream.as_ref())?.is_contested(*now);
                        Ok(show_duplicate(tx, &node, contested, *now).await?)
                    })
                })
                .await?;
            cleared += u64::from(done);
        }
        Ok(cleared)
    }

    async fn release_stream(
        &self,
        node: NodeId,
        epoch: Epoch,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        self.transaction(
            "release_stream",
            (node, epoch, now),
            |tx, (node, epoch, now)| {
                Box::pin(async move {
                    node_stream::Entity::update_many()
                        .col_expr(node_stream::Column::ReleasedAt, Micros(*now).into())
                        .filter(node_stream::Column::NodeId.eq(node.0))
                        .filter(node_stream::Column::Epoch.eq(epoch.0))
                        .filter(node_stream::Column::ReleasedAt.is_null())
                        .exec(tx)
                        .await?;
                    Ok(())
                })
            },
        )
        .await
    }

    async fn is_current(&self, node: NodeId, epoch: Epoch) -> Result<bool, StoreError> {
        let current = current_epoch(self.reader(), node).await;
        Self::reading("is_current", current.map(|current| current == Some(epoch)))
    }
}

/// The epoch of a node's stream that is claimed and not released.
pub(crate) async fn current_epoch(
    db: &impl ConnectionTrait,
    node: NodeId,
) -> Result<Option<Epoch>, DbErr> {
    let stream = node_stream::Entity::find_by_id(node.0).one(db).await?;
    Ok(stream
        .filter(|stream| stream.released_at.is_none())
        .map(|stream| Epoch(stream.epoch)))
}

/// The newest epoch of a node, released or not: what came in by it before it ended still counts.
pub(crate) async fn newest_epoch(
    db: &impl ConnectionTrait,
    node: NodeId,
) -> Result<Option<Epoch>, DbErr> {
    let stream = node_stream::Entity::find_by_id(node.0).one(db).await?;
    Ok(stream.map(|stream| Epoch(stream.epoch)))
}

/// Claims, or answers for how long the claimant is held off because another machine has the node's identity:
/// the refusal is remembered too, so it is no failure of the transaction.
async fn claim_stream(
    tx: &DatabaseTransaction,
    claim: &StreamClaim,
) -> Result<Result<ClaimedStream, Duration>, Failure<ClaimError>> {
    let node = nodes::lock(tx, claim.node)
        .await?
        .filter(|node| node.state.0 == NodeState::Confirmed);
    let Some(node) = node else {
        return refuse(ClaimError::NotFound(claim.node));
    };
    let last = node_stream::Entity::find_by_id(claim.node.0)
        .one(tx)
        .await?;
    let mut known = takeovers(last.as_ref())?;
    let hold = judge(&mut known, last.as_ref(), claim);
    show_duplicate(tx, &node, known.is_contested(claim.now), claim.now).await?;
    let known = codec::write_takeovers(&known)?;
    if let Some(hold) = hold {
        node_stream::Entity::update_many()
            .col_expr(node_stream::Column::Takeovers, known.into())
            .filter(node_stream::Column::NodeId.eq(claim.node.0))
            .exec(tx)
            .await?;
        return Ok(Err(hold));
    }
    let epoch = next_epoch(tx, claim, last.map_or(0, |last| last.epoch), known).await?;
    let hello = codec::write_hello(&claim.hello)?;
    let seen = node::ActiveModel {
        last_seen_at: Set(Some(Micros(claim.now))),
        hello: Set(Some(hello)),
        ..Default::default()
    };
    node::Entity::update_many()
        .set(seen)
        .filter(node::Column::Id.eq(claim.node.0))
        .exec(tx)
        .await?;
    let mut claimed = ClaimedStream {
        epoch,
        adopted: Vec::new(),
        ended: Vec::new(),
    };
    for command in in_flight(tx, claim.node).await? {
        if claim.running.contains(&command.id.0) {
            claimed.adopted.extend(adopt(tx, &command, epoch).await?);
        } else if let Some(ended) = lose(tx, &command, claim.now).await? {
            claimed.ended.push(ended);
        }
    }
    let (running, now) = (&claim.running, claim.now);
    claimed
        .adopted
        .extend(pairing::adopt_or_lose(tx, claim.node, epoch, running, now).await?);
    Ok(Ok(claimed))
}

/// For how long the claimant is held off, if it is.
fn judge(
    known: &mut Takeovers,
    last: Option<&node_stream::Model>,
    claim: &StreamClaim,
) -> Option<Duration> {
    let incumbent = last
        .filter(|stream| stream.released_at.is_none())
        .map(|stream| {
            let instance = stream.instance.map(|instance| InstanceId(instance.0));
            Claimant::new(instance, SessionId(stream.session_id))
        });
    match known.judge(
        claim.now,
        incumbent,
        Claimant::new(claim.instance, claim.session),
    ) {
        Judgement::Proceed => None,
        Judgement::Held(rest) => Some(rest),
        Judgement::Duplicate => Some(DUPLICATE_HOLD),
    }
}

fn takeovers(stream: Option<&node_stream::Model>) -> Result<Takeovers, DbErr> {
    let stored = stream.and_then(|stream| stream.takeovers.as_deref());
    stored.map_or_else(|| Ok(Takeovers::default()), codec::read_takeovers)
}

/// Shows a node as a duplicate, or as one again. Answers whether that is new; then it is audited.
async fn show_duplicate(
    tx: &DatabaseTransaction,
    node: &node::Model,
    duplicate: bool,
    now: Timestamp,
) -> Result<bool, DbErr> {
    if node.duplicate_identity == duplicate {
        return Ok(false);
    }
    node::Entity::update_many()
        .col_expr(node::Column::DuplicateIdentity, duplicate.into())
        .filter(node::Column::Id.eq(node.id))
        .exec(tx)
        .await?;
    let action = if duplicate {
        "node.duplicate_identity"
    } else {
        "node.single_identity"
    };
    let subject = format!("node {} ({})", node.id, node.name);
    let entry = AuditEntry::done(OrgId(node.org_id), Actor::SYSTEM, action, subject, now);
    audit::write(tx, entry).await?;
    Ok(true)
}

/// One conditional upsert: an epoch only grows, also across releases.
async fn next_epoch(
    tx: &DatabaseTransaction,
    claim: &StreamClaim,
    last: i64,
    takeovers: Option<String>,
) -> Result<Epoch, DbErr> {
    let stream = node_stream::ActiveModel {
        node_id: Set(claim.node.0),
        epoch: Set(last + 1),
        replica: Set(Bytes16(claim.replica.0)),
        session_id: Set(claim.session.0),
        instance: Set(claim.instance.map(|instance| Bytes16(instance.0))),
        claimed_at: Set(Micros(claim.now)),
        released_at: Set(None),
        takeovers: Set(takeovers),
    };
    use node_stream::Column as C;
    let newest = OnConflict::column(C::NodeId)
        .update_columns([
            C::Epoch,
            C::Replica,
            C::SessionId,
            C::Instance,
            C::ClaimedAt,
            C::ReleasedAt,
            C::Takeovers,
        ])
        .to_owned();
    node_stream::Entity::insert(stream)
        .on_conflict(newest)
        .exec_without_returning(tx)
        .await?;
    Ok(Epoch(last + 1))
}

/// The commands of a node that are in flight: one at the most, by an index.
pub(crate) async fn in_flight(
    tx: &impl ConnectionTrait,
    node: NodeId,
) -> Result<Vec<command::Model>, DbErr> {
    command::Entity::find()
        .filter(command::Column::NodeId.eq(node.0))
        .filter(command::Column::State.eq(AsText(CommandState::Issued)))
        .all(tx)
        .await
}

async fn adopt(
    tx: &DatabaseTransaction,
    command: &command::Model,
    epoch: Epoch,
) -> Result<Option<AdoptedCommand>, DbErr> {
    let Some(scan) = LockedScan::lock(tx, command.scan_id.0).await? else {
        return Ok(None);
    };
    let adopted = command::ActiveModel {
        epoch: Set(epoch.0),
        ..Default::default()
    };
    command::Entity::update_many()
        .set(adopted)
        .filter(command::Column::Id.eq(command.id))
        .exec(tx)
        .await?;
    Ok(Some(AdoptedCommand {
        command: command.id.0,
        priority: scan.row().priority.0,
        deadline: command.deadline.0,
        canceled: scan.row().cancel_until.is_some() || scan.row().state.0 == ScanState::Canceled,
    }))
}

/// Gives up a command that its node has forgotten. Answers its scan if that ended it.
async fn lose(
    tx: &DatabaseTransaction,
    command: &command::Model,
    now: Timestamp,
) -> Result<Option<ScanId>, DbErr> {
    let Some(mut scan) = LockedScan::lock(tx, command.scan_id.0).await? else {
        return Ok(None);
    };
    scan.end_command(command, CommandState::Lost, now).await?;
    scan.lose_chunk(command, now).await?;
    let ended = scan.ended_now().then_some(command.scan_id.0);
    scan.save().await?;
    Ok(ended)
}

/// Locks a command of a node; none when it is unknown or another's.
pub(crate) async fn command_of(
    tx: &DatabaseTransaction,
    node: NodeId,
    id: CommandId,
) -> Result<Option<command::Model>, DbErr> {
    command::Entity::find_by_id(AsText(id))
        .filter(command::Column::NodeId.eq(node.0))
        .lock(LockType::NoKeyUpdate)
        .one(tx)
        .await
}
