//! Invitations and nodes, from the code to the revocation.

use std::collections::BTreeMap;

use async_trait::async_trait;
use fleet_core::{
    NodeId, OrgId, PendingEnrollmentId, SecretHash, Timestamp,
    enrollment::{InvitationState, InvitationStep, NodeState},
};
use sea_orm::{
    ActiveModelTrait, ColumnTrait, Condition, ConnectionTrait, DatabaseTransaction, DbErr,
    EntityTrait, NotSet, QueryFilter, QueryOrder, QuerySelect, Set, sea_query::LockType,
};

use super::{
    audit, ending,
    entity::{
        binding, invitation, node, node_challenge, node_key, node_session, node_stream, operator,
    },
    nodes,
    transaction::{Failure, refuse},
    value::{AsText, Bytes32, Hash, Micros},
};
use crate::{
    Actor, AuditEntry, CancelCodeError, ConfirmError, Enrollment, Invitation, NewNode, NodeRow,
    RegisterError, Registered, RevokeError, Revoked, SqlStore, StoreError, Who,
};

#[async_trait]
impl Enrollment for SqlStore {
    async fn create_code(
        &self,
        org: OrgId,
        code: SecretHash,
        expires: Timestamp,
        actor: Actor,
        now: Timestamp,
    ) -> Result<PendingEnrollmentId, StoreError> {
        self.transaction(
            "create_code",
            (org, code, expires, actor, now),
            |tx, (org, code, expires, actor, now)| {
                Box::pin(async move {
                    let created = invitation::ActiveModel {
                        id: NotSet,
                        org_id: Set(org.0),
                        hash: Set(Hash(*code)),
                        state: Set(AsText(InvitationState::Pending)),
                        created_at: Set(Micros(*now)),
                        expires_at: Set(Micros(*expires)),
                        created_by: Set(match actor.who {
                            Who::Operator(id) => Some(id.0),
                            Who::Node(_) | Who::System | Who::Anonymous => None,
                        }),
                        node_id: Set(None),
                    };
                    let id = PendingEnrollmentId(created.insert(tx).await?.id);
                    audit::write(
                        tx,
                        AuditEntry::done(
                            *org,
                            actor.clone(),
                            "code.create",
                            format!("enrollment code {id}"),
                            *now,
                        ),
                    )
                    .await?;
                    Ok(id)
                })
            },
        )
        .await
    }

    async fn list_codes(&self, org: OrgId) -> Result<Vec<Invitation>, StoreError> {
        Self::reading("list_codes", codes(self.reader(), org).await)
    }

    async fn cancel_code(
        &self,
        org: OrgId,
        id: PendingEnrollmentId,
        actor: Actor,
        now: Timestamp,
    ) -> Result<(), CancelCodeError> {
        self.transaction(
            "cancel_code",
            (org, id, actor, now),
            |tx, (org, id, actor, now)| {
                Box::pin(async move {
                    let Some(found) = lock_invitation(tx, *id, *org).await? else {
                        return refuse(CancelCodeError::NotFound(*id));
                    };
                    let state = found.state.0;
                    let Ok(next) = state.step(InvitationStep::Cancel) else {
                        return refuse(CancelCodeError::NotPending(*id, state));
                    };
                    move_invitation(tx, &found, next, None).await?;
                    audit::write(
                        tx,
                        AuditEntry::done(
                            *org,
                            actor.clone(),
                            "code.cancel",
                            format!("enrollment code {id}"),
                            *now,
                        ),
                    )
                    .await?;
                    Ok(())
                })
            },
        )
        .await
    }

    async fn register_node(&self, new: NewNode) -> Result<Registered, RegisterError> {
        self.transaction("register_node", new, |tx, new| Box::pin(register(tx, new)))
            .await
    }

    async fn confirm_node(
        &self,
        org: OrgId,
        node: NodeId,
        invitation: PendingEnrollmentId,
        key: SecretHash,
        actor: Actor,
        now: Timestamp,
    ) -> Result<(), ConfirmError> {
        self.transaction("confirm_node", (org, node, invitation, key, actor, now), |tx, (org, node, invitation, key, actor, now)| {
            Box::pin(async move {
                let Some(row) = nodes::lock_of(tx, *org, *node).await? else {
                    return refuse(ConfirmError::NotFound(*node));
                };
                if row.state.0 != NodeState::Pending {
                    return refuse(ConfirmError::Refused(format!("node {node} is {} already", row.state.0)));
                }
                let bound = lock_invitation(tx, *invitation, *org).await?.filter(|bound| bound.node_id == Some(node.0));
                let Some(bound) = bound else {
                    return refuse(ConfirmError::Refused(format!("pending_enrollment_id {invitation} does not belong to node {node}")));
                };
                let state = bound.state.0;
                let Ok(next) = state.step(InvitationStep::Confirm) else {
                    return refuse(ConfirmError::Refused(format!("the enrollment of node {node} is {state}: enroll it again with a new code")));
                };
                if bound.expires_at.0 <= *now {
                    return refuse(ConfirmError::Refused(format!("the enrollment of node {node} has expired: enroll it again with a new code")));
                }
                move_invitation(tx, &bound, next, bound.node_id).await?;
                set_state(tx, row.id, NodeState::Confirmed, None).await?;
                let key = node_key::ActiveModel {
                    id: NotSet,
                    node_id: Set(row.id),
                    hash: Set(Hash(*key)),
                    created_at: Set(Micros(*now)),
                    revoked_at: Set(None),
                };
                key.insert(tx).await?;
                audit::write(tx, AuditEntry::done(*org, actor.clone(), "node.confirm", format!("node {node} ({})", row.name), *now)).await?;
                Ok(())
            })
        })
        .await
    }

    async fn revoke_node(
        &self,
        org: OrgId,
        node: NodeId,
        invitation: Option<PendingEnrollmentId>,
        actor: Actor,
        now: Timestamp,
    ) -> Result<Revoked, RevokeError> {
        self.transaction(
            "revoke_node",
            (org, node, invitation, actor, now),
            |tx, (org, node, invitation, actor, now)| {
                Box::pin(async move {
                    let Some(row) = nodes::lock_of(tx, *org, *node).await? else {
                        return refuse(RevokeError::NotFound(*node));
                    };
                    check_revocation(tx, &row, *invitation).await?;
                    cancel_invitations(tx, &row).await?;
                    bury(tx, row.id, *now).await?;
                    let scans = ending::end_work_of_revoked(tx, *node, *now).await?;
                    binding::Entity::delete_many()
                        .filter(binding::Column::NodeId.eq(row.id))
                        .exec(tx)
                        .await?;
                    audit::write(
                        tx,
                        AuditEntry::done(
                            *org,
                            actor.clone(),
                            "node.revoke",
                            format!("node {node} ({})", row.name),
                            *now,
                        ),
                    )
                    .await?;
                    Ok(Revoked { scans })
                })
            },
        )
        .await
    }

    async fn sweep_enrollments(&self, now: Timestamp) -> Result<u64, StoreError> {
        let due = invitation::Entity::find()
            .filter(
                invitation::Column::State.is_in(
                    [
                        InvitationState::Pending,
                        InvitationState::AwaitingConfirmation,
                    ]
                    .map(AsText),
                ),
            )
            .filter(invitation::Column::ExpiresAt.lte(Micros(now)))
            .order_by_asc(invitation::Column::Id)
            .all(self.reader())
            .await;
        let mut swept = 0;
        for due in Self::reading("sweep_enrollments", due)? {
            let expired = self
                .transaction("sweep_enrollments", (due, now), |tx, (due, now)| {
                    Box::pin(expire(tx, due, *now))
                })
                .await?;
            swept += u64::from(expired);
        }
        Ok(swept)
    }

    async fn list_nodes(&self, org: OrgId) -> Result<Vec<NodeRow>, StoreError> {
        Self::reading("list_nodes", nodes::rows(self.reader(), org, None).await)
    }

    async fn node(&self, org: OrgId, node: NodeId) -> Result<Option<NodeRow>, StoreError> {
        let rows = nodes::rows(self.reader(), org, Some(node)).await;
        Self::reading("node", rows.map(|rows| rows.into_iter().next()))
    }

    async fn flag_duplicate_identity(
        &self,
        node: NodeId,
        duplicate: bool,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        self.transaction(
            "flag_duplicate_identity",
            (node, duplicate, now),
            |tx, (node, duplicate, now)| {
                Box::pin(async move {
                    let Some(row) = nodes::lock(tx, *node)
                        .await?
                        .filter(|row| row.duplicate_identity != *duplicate)
                    else {
                        return Ok(());
                    };
                    node::ActiveModel {
                        id: Set(row.id),
                        duplicate_identity: Set(*duplicate),
                        ..Default::default()
                    }
                    .update(tx)
                    .await?;
                    let action = if *duplicate {
                        "node.duplicate_identity"
                    } else {
                        "node.single_identity"
                    };
                    let subject = format!("node {node} ({})", row.name);
                    audit::write(
                        tx,
                        AuditEntry::done(OrgId(row.org_id), Actor::SYSTEM, action, subject, *now),
                    )
                    .await?;
                    Ok(())
                })
            },
        )
        .await
    }
}

async fn codes(db: &impl ConnectionTrait, org: OrgId) -> Result<Vec<Invitation>, DbErr> {
    let open = [
        InvitationState::Pending,
        InvitationState::AwaitingConfirmation,
    ]
    .map(AsText);
    let rows = invitation::Entity::find()
        .filter(invitation::Column::OrgId.eq(org.0))
        .filter(invitation::Column::State.is_in(open))
        .order_by_desc(invitation::Column::Id)
        .all(db)
        .await?;
    let emails: BTreeMap<i64, String> = operator::Entity::find()
        .filter(operator::Column::OrgId.eq(org.0))
        .all(db)
        .await?
        .into_iter()
        .map(|operator| (operator.id, operator.email))
        .collect();
    let invitation = |row: invitation::Model| Invitation {
        id: PendingEnrollmentId(row.id),
        state: row.state.0,
        created_at: row.created_at.0,
        expires_at: row.expires_at.0,
        created_by: row
            .created_by
            .and_then(|id| emails.get(&id).cloned())
            .unwrap_or_default(),
        node: row.node_id.map(NodeId),
    };
    Ok(rows.into_iter().map(invitation).collect())
}

async fn register(
    tx: &DatabaseTransaction,
    new: &NewNode,
) -> Result<Registered, Failure<RegisterError>> {
    let code = invitation::Entity::find()
        .filter(invitation::Column::Hash.eq(Hash(new.code)))
        .lock(LockType::NoKeyUpdate)
        .one(tx)
        .await?
        .filter(|code| code.expires_at.0 > new.now);
    let Some(code) = code else {
        return refuse(RegisterError::Code);
    };
    let Ok(next) = code.state.0.step(InvitationStep::Register) else {
        return refuse(RegisterError::Code);
    };
    let alike = node::Entity::find()
        .filter(node::Column::OrgId.eq(code.org_id))
        .filter(node::Column::DeletedAt.is_null())
        .filter(
            Condition::any()
                .add(node::Column::Name.eq(new.name.as_str()))
                .add(node::Column::IdentityKey.eq(Bytes32(new.identity_key))),
        )
        .all(tx)
        .await?;
    if alike
        .iter()
        .any(|node| node.identity_key.0 == new.identity_key)
    {
        return refuse(RegisterError::KeyTaken);
    }
    if !alike.is_empty() {
        return refuse(RegisterError::NameTaken(new.name.clone()));
    }
    let created = node::ActiveModel {
        id: NotSet,
        org_id: Set(code.org_id),
        name: Set(new.name.clone()),
        state: Set(AsText(NodeState::Pending)),
        identity_key: Set(Bytes32(new.identity_key)),
        encryption_key: Set(Bytes32(new.encryption_key)),
        created_at: Set(Micros(new.now)),
        last_seen_at: Set(None),
        deleted_at: Set(None),
        duplicate_identity: Set(false),
        hello: Set(None),
    };
    let created = created.insert(tx).await?;
    move_invitation(tx, &code, next, Some(created.id)).await?;
    let registered = Registered {
        node: NodeId(created.id),
        org: OrgId(code.org_id),
        invitation: PendingEnrollmentId(code.id),
    };
    let subject = format!(
        "node {} ({}) by enrollment code {}",
        created.id, created.name, code.id
    );
    audit::write(
        tx,
        AuditEntry::done(
            registered.org,
            new.actor.clone(),
            "node.register",
            subject,
            new.now,
        ),
    )
    .await?;
    Ok(registered)
}

/// An awaiting node is revoked together with its invitation, by name.
async fn check_revocation(
    tx: &DatabaseTransaction,
    node: &node::Model,
    invitation: Option<PendingEnrollmentId>,
) -> Result<(), Failure<RevokeError>> {
    let id = NodeId(node.id);
    if node.state.0 != NodeState::Pending {
        return Ok(());
    }
    let Some(invitation) = invitation else {
        return refuse(RevokeError::PendingIdMissing(id));
    };
    let bound = lock_invitation(tx, invitation, OrgId(node.org_id)).await?;
    if bound.is_none_or(|bound| bound.node_id != Some(node.id)) {
        return refuse(RevokeError::Refused(format!(
            "pending_enrollment_id {invitation} does not belong to node {id}"
        )));
    }
    Ok(())
}

async fn cancel_invitations(tx: &DatabaseTransaction, node: &node::Model) -> Result<(), DbErr> {
    let open = invitation::Entity::find()
        .filter(invitation::Column::NodeId.eq(node.id))
        .order_by_asc(invitation::Column::Id)
        .lock(LockType::NoKeyUpdate)
        .all(tx)
        .await?;
    for invitation in open {
        if let Ok(next) = invitation.state.0.step(InvitationStep::Revoke) {
            move_invitation(tx, &invitation, next, invitation.node_id).await?;
        }
    }
    Ok(())
}

/// Marks a node as gone: no key, challenge, session or stream of it counts any more.
async fn bury(tx: &DatabaseTransaction, node: i64, now: Timestamp) -> Result<(), DbErr> {
    set_state(tx, node, NodeState::Revoked, Some(Micros(now))).await?;
    node_key::Entity::update_many()
        .col_expr(node_key::Column::RevokedAt, Micros(now).into())
        .filter(node_key::Column::NodeId.eq(node))
        .filter(node_key::Column::RevokedAt.is_null())
        .exec(tx)
        .await?;
    node_challenge::Entity::delete_many()
        .filter(node_challenge::Column::NodeId.eq(node))
        .exec(tx)
        .await?;
    node_session::Entity::delete_many()
        .filter(node_session::Column::NodeId.eq(node))
        .exec(tx)
        .await?;
    node_stream::Entity::update_many()
        .col_expr(node_stream::Column::ReleasedAt, Micros(now).into())
        .filter(node_stream::Column::NodeId.eq(node))
        .filter(node_stream::Column::ReleasedAt.is_null())
        .exec(tx)
        .await?;
    Ok(())
}

async fn set_state(
    tx: &DatabaseTransaction,
    node: i64,
    state: NodeState,
    deleted_at: Option<Micros>,
) -> Result<(), DbErr> {
    let change = node::ActiveModel {
        id: Set(node),
        state: Set(AsText(state)),
        deleted_at: Set(deleted_at),
        ..Default::default()
    };
    change.update(tx).await?;
    Ok(())
}

/// Answers whether it expired now: it may have been used since the sweep looked.
async fn expire(
    tx: &DatabaseTransaction,
    due: &invitation::Model,
    now: Timestamp,
) -> Result<bool, Failure<StoreError>> {
    if let Some(id) = due.node_id {
        nodes::lock_any(tx, id).await?;
    }
    let due = lock_invitation(tx, PendingEnrollmentId(due.id), OrgId(due.org_id))
        .await?
        // A node that came in between has not been locked: its turn is the next sweep.
        .filter(|current| current.node_id == due.node_id);
    let Some(due) = due else {
        return Ok(false);
    };
    let Ok(next) = due.state.0.step(InvitationStep::Expire) else {
        return Ok(false);
    };
    move_invitation(tx, &due, next, due.node_id).await?;
    if let Some(node) = due.node_id {
        bury(tx, node, now).await?;
    }
    let subject = format!("enrollment code {}", due.id);
    audit::write(
        tx,
        AuditEntry::done(
            OrgId(due.org_id),
            Actor::SYSTEM,
            "code.expire",
            subject,
            now,
        ),
    )
    .await?;
    Ok(true)
}

async fn lock_invitation(
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

async fn move_invitation(
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
