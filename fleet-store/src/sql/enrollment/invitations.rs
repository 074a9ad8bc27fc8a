//! Invitations: the code that one node may use, from its creation to its end.

use std::collections::{BTreeMap, BTreeSet};

use fleet_core::enrollment::{InvitationState, InvitationStep};

use super::members;
use crate::{
    CancelCodeError, CreateCodeError, Invitation, Invitations, ListPage, NewCode, OPEN_CODES,
    sql::{
        accounts::lock_org,
        audit, commands,
        entity::{invitation, operator},
        nodes,
        prelude::*,
    },
};

#[async_trait]
impl Invitations for SqlStore {
    async fn create_code(&self, new: NewCode) -> Result<PendingEnrollmentId, CreateCodeError> {
        transaction!(self, "create_code", |tx| {
            lock_org(tx, new.org).await?;
            let open = in_open_states().filter(invitation::Column::OrgId.eq(new.org.0));
            if open.count(tx).await? >= OPEN_CODES {
                return refuse(CreateCodeError::TooMany);
            }
            if let Some(replaced) = new.replaces {
                check_replaceable(tx, new.org, replaced).await?;
            }
            let created = invitation::ActiveModel {
                id: NotSet,
                org_id: Set(new.org.0),
                hash: Set(Hash(new.code)),
                state: Set(AsText(InvitationState::Pending)),
                created_at: Set(Micros(new.now)),
                expires_at: Set(Micros(new.expires)),
                created_by: Set(match new.actor.principal {
                    Principal::Operator(id) => Some(id.0),
                    Principal::Node(_) | Principal::System | Principal::Anonymous => None,
                }),
                node_id: Set(None),
                replaces_node_id: Set(new.replaces.map(|node| node.0)),
            };
            let id = PendingEnrollmentId(created.insert(tx).await?.id);
            let subject = match new.replaces {
                Some(node) => format!("enrollment code {id} for a node that replaces node {node}"),
                None => format!("enrollment code {id}"),
            };
            audit::done(tx, new.org, &new.actor, "code.create", subject, new.now).await?;
            Ok(id)
        })
    }

    async fn list_codes(&self, org: OrgId, page: ListPage) -> Result<Vec<Invitation>, StoreError> {
        let db = self.reader();
        let read = async {
            let mut open = in_open_states().filter(invitation::Column::OrgId.eq(org.0));
            if page.after != 0 {
                open = open.filter(invitation::Column::Id.lt(page.after));
            }
            let rows = open
                .order_by_desc(invitation::Column::Id)
                .limit(u64::from(page.limit))
                .all(db)
                .await?;
            let creators: BTreeSet<i64> = rows.iter().filter_map(|row| row.created_by).collect();
            let emails: BTreeMap<i64, String> = operator::Entity::find()
                .filter(operator::Column::OrgId.eq(org.0))
                .filter(operator::Column::Id.is_in(creators))
                .all(db)
                .await?
                .into_iter()
                .map(|operator| (operator.id, operator.email))
                .collect();
            let email = |id: Option<i64>| id.and_then(|id| emails.get(&id).cloned());
            let invitation = |row: invitation::Model| Invitation {
                id: PendingEnrollmentId(row.id),
                state: row.state.0,
                created_at: row.created_at.0,
                expires_at: row.expires_at.0,
                created_by: email(row.created_by).unwrap_or_default(),
                node: row.node_id.map(NodeId),
                replaces: row.replaces_node_id.map(NodeId),
            };
            Ok(rows.into_iter().map(invitation).collect())
        };
        read.await.during("list_codes")
    }

    async fn cancel_code(
        &self,
        org: OrgId,
        id: PendingEnrollmentId,
        actor: Actor,
        now: Timestamp,
    ) -> Result<(), CancelCodeError> {
        transaction!(self, "cancel_code", |tx| {
            let Some(found) = lock(tx, id, org).await? else {
                return refuse(CancelCodeError::NotFound(id));
            };
            let state = found.state.0;
            let Ok(next) = state.step(InvitationStep::Cancel) else {
                return refuse(CancelCodeError::NotPending(id, state));
            };
            advance(tx, &found, next, None).await?;
            let subject = format!("enrollment code {id}");
            audit::done(tx, org, &actor, "code.cancel", subject, now).await?;
            Ok(())
        })
    }

    async fn sweep_enrollments(&self, now: Timestamp) -> Result<u64, StoreError> {
        let due = due(self.reader(), now).await;
        let mut swept = 0;
        for (id, org, node) in due.during("sweep_enrollments")? {
            let expired = transaction!(self, "sweep_enrollments", |tx| {
                if let Some(node) = node {
                    nodes::lock_any(tx, node).await?;
                }
                let due = lock(tx, PendingEnrollmentId(id), OrgId(org))
                    .await?
                    // A node that registered in between is not locked. The next sweep handles it.
                    .filter(|current| current.node_id == node);
                let Some(due) = due else {
                    return Ok(false);
                };
                let Ok(next) = due.state.0.step(InvitationStep::Expire) else {
                    return Ok(false);
                };
                advance(tx, &due, next, due.node_id).await?;
                if let Some(node) = due.node_id {
                    members::bury(tx, node, now).await?;
                }
                let subject = format!("enrollment code {}", due.id);
                let org = OrgId(due.org_id);
                audit::done(tx, org, &Actor::SYSTEM, "code.expire", subject, now).await?;
                Ok(true)
            });
            swept += u64::from(commands::skip_unreadable(&id, expired)?);
        }
        Ok(swept)
    }
}

/// Only a revoked node can be replaced, and by one node at a time. Two replacements would both take over the
/// devices that they report, possibly at two sites that use the same address range.
async fn check_replaceable(
    tx: &DatabaseTransaction,
    org: OrgId,
    id: NodeId,
) -> Result<(), Failure<CreateCodeError>> {
    let node = nodes::lock_any(tx, id.0).await?;
    let Some(node) = node.filter(|node| node.org_id == org.0) else {
        return refuse(CreateCodeError::NotFound(id));
    };
    if node.deleted_at.is_none() {
        return refuse(CreateCodeError::NotRevoked(id));
    }
    match members::replacement_of(tx, id).await? {
        Some(by) => refuse(CreateCodeError::Replaced { node: id, by }),
        None => Ok(()),
    }
}

fn in_open_states() -> Select<invitation::Entity> {
    let open = [
        InvitationState::Pending,
        InvitationState::AwaitingConfirmation,
    ];
    invitation::Entity::find().filter(invitation::Column::State.is_in(open.map(AsText)))
}

/// Open invitations that have expired, with their organizations and nodes. Only the columns that any row can be read
/// from are selected.
async fn due(
    db: &impl ConnectionTrait,
    now: Timestamp,
) -> Result<Vec<(i64, i64, Option<i64>)>, DbErr> {
    use invitation::Column as C;
    in_open_states()
        .filter(C::ExpiresAt.lte(Micros(now)))
        .order_by_asc(C::Id)
        .select_only()
        .columns([C::Id, C::OrgId, C::NodeId])
        .into_tuple()
        .all(db)
        .await
}

pub(super) async fn lock(
    tx: &DatabaseTransaction,
    id: PendingEnrollmentId,
    org: OrgId,
) -> Result<Option<invitation::Model>, DbErr> {
    invitation::Entity::find_by_id(id.0)
        .filter(invitation::Column::OrgId.eq(org.0))
        .lock(LockType::NoKeyUpdate)
        .one(tx)
        .await
}

pub(super) async fn lock_by_code(
    tx: &DatabaseTransaction,
    code: SecretHash,
) -> Result<Option<invitation::Model>, DbErr> {
    invitation::Entity::find()
        .filter(invitation::Column::Hash.eq(Hash(code)))
        .lock(LockType::NoKeyUpdate)
        .one(tx)
        .await
}

/// Cancels the open invitations of a node.
pub(super) async fn cancel_all_of(tx: &DatabaseTransaction, node: i64) -> Result<(), DbErr> {
    let bound = invitation::Entity::find()
        .filter(invitation::Column::NodeId.eq(node))
        .order_by_asc(invitation::Column::Id)
        .lock(LockType::NoKeyUpdate)
        .all(tx)
        .await?;
    for invitation in bound {
        if let Ok(next) = invitation.state.0.step(InvitationStep::Revoke) {
            advance(tx, &invitation, next, invitation.node_id).await?;
        }
    }
    Ok(())
}

pub(super) async fn advance(
    tx: &DatabaseTransaction,
    invitation: &invitation::Model,
    next: InvitationState,
    node: Option<i64>,
) -> Result<(), DbErr> {
    let change = invitation::ActiveModel {
        id: Set(invitation.id),
        state: Set(AsText(next)),
        node_id: Set(node),
        ..Default::default()
    };
    change.update(tx).await?;
    Ok(())
}
