//! API keys that confirmed nodes fetch themselves. The server never stores a key, so each request makes a new one, until
//! the node has used one.

use std::net::IpAddr;

use fleet_core::enrollment::NodeState;

use super::members::shown;
use crate::{
    FetchKeyError, FetchingNode, KeyAnswer, KeyRequest,
    sql::{
        audit,
        entity::{key_fetch, node, node_key, node_session},
        nodes,
        prelude::*,
    },
};

/// Permits a confirmed node to fetch its key. Returns whether it announced that it does.
pub(super) async fn allow(
    tx: &DatabaseTransaction,
    node: i64,
    now: Timestamp,
) -> Result<bool, DbErr> {
    let allowed = key_fetch::ActiveModel {
        allowed_until: Set(Some(Micros(now.plus(limits::KEY_FETCH_LIFE)))),
        ..Default::default()
    };
    Ok(update(tx, node, allowed).await? > 0)
}

/// The keys of a live node. Without a proof, the encryption key could be another party's.
pub(super) async fn find(
    db: &impl ConnectionTrait,
    id: NodeId,
) -> Result<Option<FetchingNode>, DbErr> {
    let node = node::Entity::find_by_id(id.0)
        .filter(node::Column::DeletedAt.is_null())
        .filter(node::Column::KeysProved.eq(true))
        .one(db)
        .await?;
    Ok(node.map(|node| FetchingNode {
        org: OrgId(node.org_id),
        identity_key: node.identity_key.0,
        encryption_key: node.encryption_key.0,
    }))
}

/// Answers a request whose signature is verified.
pub(super) async fn fetch(
    tx: &DatabaseTransaction,
    request: &KeyRequest,
) -> Result<KeyAnswer, Failure<FetchKeyError>> {
    let Some(node) = nodes::lock(tx, request.node).await? else {
        return refuse(FetchKeyError::NotFound);
    };
    let row = key_fetch::Entity::find_by_id(node.id).one(tx).await?;
    let Some(row) = row else {
        if node.state.0 == NodeState::Pending {
            announce(tx, request).await?;
            return Ok(KeyAnswer::AwaitingConfirmation);
        }
        return Ok(KeyAnswer::Pasted);
    };
    if request.sequence <= row.sequence {
        return refuse(FetchKeyError::Repeated(request.sequence));
    }
    let answer = match (node.state.0, row.allowed_until) {
        (NodeState::Pending, _) => KeyAnswer::AwaitingConfirmation,
        (NodeState::Confirmed, None) => KeyAnswer::Pasted,
        (NodeState::Confirmed, Some(until)) if until.0 <= request.now => {
            return refuse(FetchKeyError::Expired);
        }
        (NodeState::Confirmed, Some(_)) => {
            replace_key(tx, &node, &row, request).await?;
            KeyAnswer::Fetched
        }
        (NodeState::Revoked, _) => return refuse(FetchKeyError::NotFound),
    };
    let newest = key_fetch::ActiveModel {
        sequence: Set(request.sequence),
        ..Default::default()
    };
    update(tx, node.id, newest).await?;
    Ok(answer)
}

/// Stores that an awaiting node fetches its key.
async fn announce(tx: &DatabaseTransaction, request: &KeyRequest) -> Result<(), DbErr> {
    let row = key_fetch::ActiveModel {
        node_id: Set(request.node.0),
        allowed_until: Set(None),
        sequence: Set(request.sequence),
        key_id: Set(None),
        fetched_at: Set(None),
    };
    key_fetch::Entity::insert(row)
        .exec_without_returning(tx)
        .await?;
    Ok(())
}

/// Replaces the key that the node fetched before and has not used.
async fn replace_key(
    tx: &DatabaseTransaction,
    node: &node::Model,
    row: &key_fetch::Model,
    request: &KeyRequest,
) -> Result<(), Failure<FetchKeyError>> {
    if let Some(old) = row.key_id {
        if is_used(tx, old).await? {
            return refuse(FetchKeyError::Used);
        }
        revoke(tx, old, request.now).await?;
    }
    let fetched = key_fetch::ActiveModel {
        key_id: Set(Some(insert(tx, node.id, request).await?)),
        fetched_at: Set(Some(Micros(request.now))),
        ..Default::default()
    };
    update(tx, node.id, fetched).await?;
    record(tx, node, request.from, request.now).await?;
    Ok(())
}

/// Whether a session was opened with a key. Sessions live longer than a key can be fetched.
async fn is_used(tx: &DatabaseTransaction, key: i64) -> Result<bool, DbErr> {
    let sessions = node_session::Entity::find().filter(node_session::Column::KeyId.eq(key));
    Ok(sessions.count(tx).await? > 0)
}

async fn revoke(tx: &DatabaseTransaction, key: i64, now: Timestamp) -> Result<(), DbErr> {
    let revoked = node_key::ActiveModel {
        id: Set(key),
        revoked_at: Set(Some(Micros(now))),
        ..Default::default()
    };
    revoked.update(tx).await?;
    Ok(())
}

async fn insert(tx: &DatabaseTransaction, node: i64, request: &KeyRequest) -> Result<i64, DbErr> {
    let key = node_key::ActiveModel {
        id: NotSet,
        node_id: Set(node),
        hash: Set(Hash(request.key)),
        created_at: Set(Micros(request.now)),
        revoked_at: Set(None),
    };
    Ok(key.insert(tx).await?.id)
}

async fn record(
    tx: &DatabaseTransaction,
    node: &node::Model,
    from: IpAddr,
    now: Timestamp,
) -> Result<(), DbErr> {
    let actor = Actor {
        principal: Principal::Node(NodeId(node.id)),
        from: Some(from),
    };
    let org = OrgId(node.org_id);
    audit::done(tx, org, &actor, "node.fetch_key", shown(node), now).await
}

async fn update(
    tx: &DatabaseTransaction,
    node: i64,
    changed: key_fetch::ActiveModel,
) -> Result<u64, DbErr> {
    let updated = key_fetch::Entity::update_many()
        .set(changed)
        .filter(key_fetch::Column::NodeId.eq(node))
        .exec(tx)
        .await?;
    Ok(updated.rows_affected)
}
