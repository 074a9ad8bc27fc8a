//! Claims of control streams: the epoch that fences older streams, and the handling of commands in flight.

use std::time::Duration;

use fleet_core::{
    InstanceId, Priority, ReplicaId,
    enrollment::NodeState,
    limits::DUPLICATE_HOLD,
    outcome::{Code, Verdict},
    takeover::{Claimant, Judgement, Takeovers},
};

use super::{
    audit, codec,
    commands::{self, Work},
    entity::{command, node, node_stream},
    locked::LockedScan,
    nodes,
    pairing::ends,
};
use crate::{AdoptedCommand, ClaimError, ClaimedStream, StreamClaim, Streams, sql::prelude::*};

#[async_trait]
impl Streams for SqlStore {
    async fn claim_stream(&self, claim: StreamClaim) -> Result<ClaimedStream, ClaimError> {
        let id = claim.node;
        let judged = transaction!(self, "claim_stream", |tx| {
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
            let hold = judge(&mut known, last.as_ref(), &claim);
            show_duplicate(tx, &node, known.is_contested(claim.now), claim.now).await?;
            let known = codec::write_takeovers(&known)?;
            if let Some(hold) = hold {
                node_stream::Entity::update_many()
                    .col_expr(node_stream::Column::Takeovers, known.into())
                    .filter(node_stream::Column::NodeId.eq(claim.node.0))
                    .exec(tx)
                    .await?;
                // Not `refuse`, which would roll back what the judgement has to remember.
                return Ok(Err(hold));
            }
            // The node's lock keeps two claims from reading the same epoch.
            let epoch = next_epoch(tx, &claim, last.map_or(0, |last| last.epoch), known).await?;
            let hello = codec::write_hello(&claim.hello)?;
            let seen = node::ActiveModel {
                last_seen_at: Set(Some(Micros(claim.now))),
                hello: Set(Some(hello)),
                stream_problem: Set(None),
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
            if let Some(command) = commands::in_flight(tx, claim.node).await? {
                let work = commands::work(&command)?;
                if claim.running.contains(&command.id.0) {
                    claimed
                        .adopted
                        .extend(adopt(tx, &command, work, epoch).await?);
                } else {
                    let ended = lose(tx, &command, work, claim.now).await?;
                    claimed.ended.extend(ended);
                }
            }
            Ok(Ok(claimed))
        })?;
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
        let claimed = claimed.during("claimed_elsewhere")?;
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
            .select_only()
            .column(node::Column::Id)
            .into_tuple::<i64>()
            .all(self.reader())
            .await;
        let mut cleared = 0;
        for id in flagged.during("sweep_duplicates")? {
            let done = transaction!(self, "sweep_duplicates", |tx| {
                // The list was read without locks, so each node is judged again.
                let Some(node) = nodes::lock(tx, NodeId(id)).await? else {
                    return Ok(false);
                };
                let stream = node_stream::Entity::find_by_id(node.id).one(tx).await?;
                let contested = takeovers(stream.as_ref())?.is_contested(now);
                Ok(show_duplicate(tx, &node, contested, now).await?)
            });
            cleared += u64::from(commands::skip_unreadable(&id, done)?);
        }
        Ok(cleared)
    }

    async fn release_stream(
        &self,
        node: NodeId,
        epoch: Epoch,
        reason: String,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        transaction!(self, "release_stream", |tx| {
            // A server whose clock is ahead may have dated an earlier heartbeat, which must not count as a later one.
            let row = node::Entity::find_by_id(node.0).one(tx).await?;
            let seen = row.and_then(|row| row.last_seen_at);
            let ended = seen.map_or(now, |seen| seen.0.max(now));
            node_stream::Entity::update_many()
                .col_expr(node_stream::Column::ReleasedAt, Micros(ended).into())
                .col_expr(node_stream::Column::EndReason, reason.clone().into())
                .filter(node_stream::Column::NodeId.eq(node.0))
                // An old stream that ends late must not release its successor's claim.
                .filter(node_stream::Column::Epoch.eq(epoch.0))
                .filter(node_stream::Column::ReleasedAt.is_null())
                .exec(tx)
                .await?;
            Ok(())
        })
    }

    async fn is_current(&self, node: NodeId, epoch: Epoch) -> Result<bool, StoreError> {
        let read = async {
            let live = node::Entity::find_by_id(node.0)
                .filter(node::Column::DeletedAt.is_null())
                .count(self.reader())
                .await?;
            Ok(live > 0 && current_epoch(self.reader(), node).await? == Some(epoch))
        };
        read.await.during("is_current")
    }
}

/// The epoch of a node's stream, if it is claimed and not released.
pub(crate) async fn current_epoch(
    db: &impl ConnectionTrait,
    node: NodeId,
) -> Result<Option<Epoch>, DbErr> {
    let stream = node_stream::Entity::find_by_id(node.0).one(db).await?;
    Ok(stream
        .filter(|stream| stream.released_at.is_none())
        .map(|stream| Epoch(stream.epoch)))
}

/// The newest epoch of a node, released or not. Messages that arrived under it before it ended still count.
pub(crate) async fn newest_epoch(
    db: &impl ConnectionTrait,
    node: NodeId,
) -> Result<Option<Epoch>, DbErr> {
    let stream = node_stream::Entity::find_by_id(node.0).one(db).await?;
    Ok(stream.map(|stream| Epoch(stream.epoch)))
}

/// How long the claimant is held off, if it is.
fn judge(
    known: &mut Takeovers,
    last: Option<&node_stream::Model>,
    claim: &StreamClaim,
) -> Option<Duration> {
    let incumbent = last
        // A released stream has no holder, so its claim is no takeover.
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

/// Marks a node as a duplicate, or as single again. Returns whether this is a change, which is audited.
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
    audit::done(tx, OrgId(node.org_id), &Actor::SYSTEM, action, subject, now).await?;
    Ok(true)
}

/// One conditional upsert. An epoch only grows, including across releases.
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
        end_reason: Set(None),
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
            C::EndReason,
        ])
        .to_owned();
    node_stream::Entity::insert(stream)
        .on_conflict(newest)
        .exec_without_returning(tx)
        .await?;
    Ok(Epoch(last + 1))
}

/// Ends a command that its node no longer knows. Returns its scan if the scan ended with it.
async fn lose(
    tx: &DatabaseTransaction,
    command: &command::Model,
    work: Work,
    now: Timestamp,
) -> Result<Option<ScanId>, DbErr> {
    let id = match work {
        Work::Scan(id) => id,
        Work::Pairing(id) => {
            // A part cannot be issued again, because its credentials were only in the lost message.
            let why = "the node does not know the command any more: run it again";
            let verdict = Verdict::failed(Code::Unavailable, why);
            ends::conclude(tx, command, id, CommandState::Lost, verdict, now).await?;
            return Ok(None);
        }
    };
    let Some(mut scan) = LockedScan::lock(tx, id).await? else {
        return Ok(None);
    };
    commands::end(tx, command, CommandState::Lost, now).await?;
    scan.lose_chunk(command, now).await?;
    let ended = scan.ended_now().then_some(id);
    scan.save().await?;
    Ok(ended)
}

/// Continues a command under a new epoch.
async fn adopt(
    tx: &DatabaseTransaction,
    command: &command::Model,
    work: Work,
    epoch: Epoch,
) -> Result<Option<AdoptedCommand>, DbErr> {
    let (priority, canceled) = match work {
        Work::Scan(id) => {
            let Some(scan) = LockedScan::lock(tx, id).await? else {
                return Ok(None);
            };
            let row = scan.row();
            // A scan through an upstream node ends when it is canceled, and its command runs on.
            let canceled = row.cancel_until.is_some() || row.state.0 == ScanState::Canceled;
            (row.priority.0, canceled)
        }
        Work::Pairing(id) => {
            let row = super::pairing::lock(tx, id).await?;
            let canceled = row.is_some_and(|row| row.canceled_at.is_some());
            (Priority::Interactive, canceled)
        }
    };
    commands::adopt(tx, command, epoch).await?;
    Ok(Some(AdoptedCommand {
        command: command.id.0,
        priority,
        deadline: command.deadline.0,
        canceled,
    }))
}
