//! Handshakes, sessions and heartbeats of nodes.

use fleet_core::{ReplicaId, enrollment::NodeState};

use super::{
    audit,
    entity::{node, node_challenge, node_key, node_session, node_stream},
    nodes,
};
use crate::{
    BeginError, Challenged, Halt, Heartbeat, NodeIdentity, OpenSessionError, Sessions,
    sql::prelude::*,
};

#[async_trait]
impl Sessions for SqlStore {
    async fn begin_handshake(
        &self,
        key: SecretHash,
        identity_key: [u8; 32],
        challenge: SecretHash,
        expires: Timestamp,
    ) -> Result<NodeId, BeginError> {
        transaction!(self, "begin_handshake", |tx| {
            let Some(known) = live_key(tx, node_key::Column::Hash.eq(Hash(key))).await? else {
                return refuse(BeginError::Credentials);
            };
            let Some(node) = nodes::lock(tx, NodeId(known.node_id)).await? else {
                return refuse(BeginError::Credentials);
            };
            // `SecretHash` compares in constant time.
            if SecretHash::from_stored(node.identity_key.0) != SecretHash::from_stored(identity_key)
            {
                return refuse(BeginError::Credentials);
            }
            // After the comparison, so only a holder of the API key learns the node's state.
            if node.state.0 != NodeState::Confirmed {
                return refuse(BeginError::NotConfirmed(NodeId(node.id)));
            }
            let pending = node_challenge::ActiveModel {
                node_id: Set(node.id),
                key_id: Set(known.id),
                hash: Set(Hash(challenge)),
                expires_at: Set(Micros(expires)),
            };
            let newest = OnConflict::column(node_challenge::Column::NodeId)
                .update_columns([
                    node_challenge::Column::KeyId,
                    node_challenge::Column::Hash,
                    node_challenge::Column::ExpiresAt,
                ])
                .to_owned();
            node_challenge::Entity::insert(pending)
                .on_conflict(newest)
                .exec_without_returning(tx)
                .await?;
            Ok(NodeId(node.id))
        })
    }

    async fn handshake_refused(
        &self,
        identity_key: [u8; 32],
        live: Vec<ReplicaId>,
        reason: String,
    ) -> Result<(), StoreError> {
        let live = live.iter().map(|replica| Bytes16(replica.0));
        let streaming = node_stream::Entity::find()
            .select_only()
            .column(node_stream::Column::NodeId)
            .filter(node_stream::Column::ReleasedAt.is_null())
            .filter(node_stream::Column::Replica.is_in(live));
        // Repeated attempts with the same reason write nothing.
        let differs = Condition::any()
            .add(node::Column::StreamProblem.is_null())
            .add(node::Column::StreamProblem.ne(&reason));
        let refused = node::ActiveModel {
            stream_problem: Set(Some(reason)),
            ..Default::default()
        };
        node::Entity::update_many()
            .set(refused)
            .filter(node::Column::IdentityKey.eq(Bytes32(identity_key)))
            .filter(node::Column::DeletedAt.is_null())
            .filter(node::Column::State.eq(AsText(NodeState::Confirmed)))
            .filter(node::Column::Id.not_in_subquery(streaming.into_query()))
            .filter(differs)
            .exec(self.writer())
            .await
            .map(drop)
            .during("handshake_refused")
    }

    async fn take_challenge(
        &self,
        challenge: SecretHash,
        now: Timestamp,
    ) -> Result<Option<Challenged>, StoreError> {
        transaction!(self, "take_challenge", |tx| {
            // A single statement consumes the challenge, so only one of two concurrent callers gets it.
            let taken = node_challenge::Entity::delete_many()
                .filter(node_challenge::Column::Hash.eq(Hash(challenge)))
                .exec_with_returning(tx)
                .await?;
            let Some(taken) = taken.into_iter().next() else {
                return Ok(None);
            };
            let node = node::Entity::find_by_id(taken.node_id).one(tx).await?;
            Ok(node.map(|node| Challenged {
                node: NodeId(node.id),
                identity_key: node.identity_key.0,
                key: KeyId(taken.key_id),
                alive: taken.expires_at.0 > now,
            }))
        })
    }

    async fn open_session(
        &self,
        node: NodeId,
        key: KeyId,
        token: SecretHash,
        expires: Timestamp,
        actor: Actor,
        now: Timestamp,
    ) -> Result<SessionId, OpenSessionError> {
        transaction!(self, "open_session", |tx| {
            let node = nodes::lock(tx, node)
                .await?
                .filter(|node| node.state.0 == NodeState::Confirmed);
            // Read again: node or key may have been revoked since the challenge.
            let key = live_key(tx, node_key::Column::Id.eq(key.0)).await?;
            let (Some(node), Some(key)) = (node, key) else {
                return refuse(OpenSessionError::Refused);
            };
            if key.node_id != node.id {
                return refuse(OpenSessionError::Refused);
            }
            retire_sessions(tx, node.id, now).await?;
            let session = node_session::ActiveModel {
                id: NotSet,
                node_id: Set(node.id),
                key_id: Set(key.id),
                hash: Set(Hash(token)),
                created_at: Set(Micros(now)),
                expires_at: Set(Micros(expires)),
            };
            let session = session.insert(tx).await?;
            let subject = format!("node {} ({}) by key {}", node.id, node.name, key.id);
            audit::done(tx, OrgId(node.org_id), &actor, "node.sign_in", subject, now).await?;
            Ok(SessionId(session.id))
        })
    }

    async fn node_by_session(
        &self,
        token: SecretHash,
        now: Timestamp,
    ) -> Result<Option<NodeIdentity>, StoreError> {
        let found = async {
            let session = node_session::Entity::find()
                .filter(node_session::Column::Hash.eq(Hash(token)))
                .filter(node_session::Column::ExpiresAt.gt(Micros(now)))
                .one(self.reader())
                .await?;
            let Some(session) = session else {
                return Ok(None);
            };
            let node = confirmed(self.reader(), session.node_id).await?;
            Ok(node.map(|node| NodeIdentity {
                node: NodeId(node.id),
                org: OrgId(node.org_id),
                name: node.name,
                session: SessionId(session.id),
                expires_at: session.expires_at.0,
            }))
        };
        found.await.during("node_by_session")
    }

    async fn has_live_session(&self, node: NodeId, now: Timestamp) -> Result<bool, StoreError> {
        let live = async {
            if confirmed(self.reader(), node.0).await?.is_none() {
                return Ok(false);
            }
            let live = node_session::Entity::find()
                .filter(node_session::Column::NodeId.eq(node.0))
                .filter(node_session::Column::ExpiresAt.gt(Micros(now)))
                .count(self.reader())
                .await?;
            Ok(live > 0)
        };
        live.await.during("has_live_session")
    }

    async fn heartbeat(
        &self,
        node: NodeId,
        heartbeat: Heartbeat,
        now: Timestamp,
    ) -> Result<bool, StoreError> {
        transaction!(self, "heartbeat", |tx| {
            let seen = node::ActiveModel {
                last_seen_at: Set(Some(Micros(now))),
                stream_problem: Set(heartbeat.stream_problem.clone()),
                halt_reason: match heartbeat.halt.clone() {
                    Some(Halt::Halted(reason)) => Set(Some(reason)),
                    Some(Halt::Running) => Set(None),
                    None => NotSet,
                },
                ..Default::default()
            };
            let touched = node::Entity::update_many()
                .set(seen)
                .filter(node::Column::Id.eq(node.0))
                .filter(node::Column::DeletedAt.is_null())
                .filter(node::Column::State.eq(AsText(NodeState::Confirmed)))
                .exec(tx)
                .await?;
            Ok(touched.rows_affected > 0)
        })
    }

    async fn sweep_sessions(&self, now: Timestamp) -> Result<u64, StoreError> {
        transaction!(self, "sweep_sessions", |tx| {
            let now = Micros(now);
            let challenges = node_challenge::Entity::delete_many()
                .filter(node_challenge::Column::ExpiresAt.lte(now))
                .exec(tx)
                .await?;
            let sessions = node_session::Entity::delete_many()
                .filter(node_session::Column::ExpiresAt.lte(now))
                .exec(tx)
                .await?;
            Ok(challenges.rows_affected + sessions.rows_affected)
        })
    }
}

/// A node that is live and confirmed.
async fn confirmed(db: &impl ConnectionTrait, node: i64) -> Result<Option<node::Model>, DbErr> {
    node::Entity::find_by_id(node)
        .filter(node::Column::DeletedAt.is_null())
        .filter(node::Column::State.eq(AsText(NodeState::Confirmed)))
        .one(db)
        .await
}

async fn live_key(tx: &DatabaseTransaction, which: Expr) -> Result<Option<node_key::Model>, DbErr> {
    node_key::Entity::find()
        .filter(which)
        .filter(node_key::Column::RevokedAt.is_null())
        .one(tx)
        .await
}

/// Keeps the newest session for a moment, which lets calls in progress finish. All others end at once.
async fn retire_sessions(tx: &DatabaseTransaction, node: i64, now: Timestamp) -> Result<(), DbErr> {
    let newest = node_session::Entity::find()
        .filter(node_session::Column::NodeId.eq(node))
        .order_by_desc(node_session::Column::Id)
        .one(tx)
        .await?;
    let Some(newest) = newest else {
        return Ok(());
    };
    node_session::Entity::delete_many()
        .filter(node_session::Column::NodeId.eq(node))
        .filter(node_session::Column::Id.ne(newest.id))
        .exec(tx)
        .await?;
    // The overlap must not extend a session that expires earlier.
    let last = newest.expires_at.0.min(now.plus(limits::SESSION_OVERLAP));
    node_session::ActiveModel {
        id: Set(newest.id),
        expires_at: Set(Micros(last)),
        ..Default::default()
    }
    .update(tx)
    .await?;
    Ok(())
}
