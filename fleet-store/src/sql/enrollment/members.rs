//! Nodes: registered with a code, confirmed by an operator, permanently revoked.

use std::collections::{BTreeMap, BTreeSet};

use fleet_core::enrollment::{InvitationStep, NodeState};

use super::{fetches, invitations};
use crate::{
    ConfirmError, Enrollment, FetchKeyError, FetchingNode, KeyAnswer, KeyRequest, ListPage,
    MoveNodeError, NewNode, NodeRow, RegisterError, Registered, RenameNodeError, RevokeError,
    Revoked,
    sql::{
        audit, completion,
        entity::{node, node_challenge, node_key, node_session},
        nodes,
        nodes::Which,
        pairing,
        prelude::*,
        sites,
    },
};

#[async_trait]
impl Enrollment for SqlStore {
    async fn register_node(&self, new: NewNode) -> Result<Registered, RegisterError> {
        transaction!(self, "register_node", |tx| {
            let code = invitations::lock_by_code(tx, new.code).await?;
            // The same refusal for unknown, used and expired codes, so guesses learn nothing.
            let Some(code) = code.filter(|code| code.expires_at.0 > new.now) else {
                return refuse(RegisterError::Code);
            };
            let Ok(next) = code.state.0.step(InvitationStep::Register) else {
                return refuse(RegisterError::Code);
            };
            // A refusal from here on rolls back, so the code stays usable.
            check_unique(tx, OrgId(code.org_id), &new).await?;
            let replaces = code.replaces_node_id.map(NodeId);
            if let Some(node) = replaces
                && let Some(by) = replacement_of(tx, node).await?
            {
                return refuse(RegisterError::ReplacementTaken { node, by });
            }
            let site = sites::create_for_node(tx, code.org_id, &new.name, new.now).await?;
            let created = node::ActiveModel {
                id: NotSet,
                org_id: Set(code.org_id),
                site_id: Set(site),
                name: Set(new.name.clone()),
                state: Set(AsText(NodeState::Pending)),
                identity_key: Set(Bytes32(new.identity_key)),
                encryption_key: Set(Bytes32(new.encryption_key)),
                keys_proved: Set(new.keys_proved),
                created_at: Set(Micros(new.now)),
                last_seen_at: Set(None),
                deleted_at: Set(None),
                duplicate_identity: Set(false),
                hello: Set(None),
                halt_reason: Set(None),
                stream_problem: Set(None),
                replaces_node_id: Set(code.replaces_node_id),
            };
            let created = created.insert(tx).await?;
            invitations::advance(tx, &code, next, Some(created.id)).await?;
            let registered = Registered {
                node: NodeId(created.id),
                org: OrgId(code.org_id),
                invitation: PendingEnrollmentId(code.id),
            };
            let subject = format!("{} by enrollment code {}", shown(&created), code.id);
            audit::done(
                tx,
                registered.org,
                &new.actor,
                "node.register",
                subject,
                new.now,
            )
            .await?;
            Ok(registered)
        })
    }

    async fn confirm_node(
        &self,
        org: OrgId,
        id: NodeId,
        invitation: PendingEnrollmentId,
        key: SecretHash,
        actor: Actor,
        now: Timestamp,
    ) -> Result<(), ConfirmError> {
        transaction!(self, "confirm_node", |tx| {
            let node = confirm(tx, org, id, invitation, now).await?;
            let key = node_key::ActiveModel {
                id: NotSet,
                node_id: Set(node.id),
                hash: Set(Hash(key)),
                created_at: Set(Micros(now)),
                revoked_at: Set(None),
            };
            key.insert(tx).await?;
            audit::done(tx, org, &actor, "node.confirm", shown(&node), now).await?;
            Ok(())
        })
    }

    async fn confirm_fetching_node(
        &self,
        org: OrgId,
        id: NodeId,
        invitation: PendingEnrollmentId,
        actor: Actor,
        now: Timestamp,
    ) -> Result<(), ConfirmError> {
        transaction!(self, "confirm_fetching_node", |tx| {
            let node = confirm(tx, org, id, invitation, now).await?;
            if !fetches::allow(tx, node.id, now).await? {
                return refuse(ConfirmError::Refused(format!(
                    "node {id} does not fetch its API key itself: confirm it with ConfirmFleetNode, and paste the key"
                )));
            }
            audit::done(tx, org, &actor, "node.confirm", shown(&node), now).await?;
            Ok(())
        })
    }

    async fn fetching_node(&self, node: NodeId) -> Result<Option<FetchingNode>, StoreError> {
        fetches::find(self.reader(), node)
            .await
            .during("fetching_node")
    }

    async fn fetch_key(&self, request: KeyRequest) -> Result<KeyAnswer, FetchKeyError> {
        transaction!(self, "fetch_key", |tx| {
            fetches::fetch(tx, &request).await
        })
    }

    async fn revoke_node(
        &self,
        org: OrgId,
        id: NodeId,
        invitation: Option<PendingEnrollmentId>,
        actor: Actor,
        now: Timestamp,
    ) -> Result<Revoked, RevokeError> {
        transaction!(self, "revoke_node", |tx| {
            let Some(node) = nodes::lock_of(tx, org, id).await? else {
                return refuse(RevokeError::NotFound(id));
            };
            if node.state.0 == NodeState::Pending {
                check_invitation(tx, &node, invitation).await?;
            }
            invitations::cancel_all_of(tx, node.id).await?;
            bury(tx, node.id, now).await?;
            let scans = completion::end_work_of_revoked(tx, id, now).await?;
            // Devices are locked first, because a release of a device locks it before the targets of a pairing.
            pairing::release_all_of(tx, org, id).await?;
            pairing::ends::end_of_revoked(tx, id, now).await?;
            audit::done(tx, org, &actor, "node.revoke", shown(&node), now).await?;
            Ok(Revoked { scans })
        })
    }

    async fn rename_node(
        &self,
        org: OrgId,
        id: NodeId,
        name: String,
        actor: Actor,
        now: Timestamp,
    ) -> Result<(), RenameNodeError> {
        transaction!(self, "rename_node", |tx| {
            let Some(node) = nodes::lock_of(tx, org, id).await? else {
                return refuse(RenameNodeError::NotFound(id));
            };
            if node.name == name {
                return Ok(());
            }
            // The unique index decides a race.
            let other = node::Entity::find()
                .filter(node::Column::OrgId.eq(org.0))
                .filter(node::Column::Name.eq(name.as_str()))
                .filter(node::Column::DeletedAt.is_null())
                .one(tx)
                .await?;
            if let Some(other) = other {
                let (name, node) = (name.clone(), NodeId(other.id));
                return refuse(RenameNodeError::NameTaken { name, node });
            }
            let change = node::ActiveModel {
                id: Set(node.id),
                name: Set(name.clone()),
                ..Default::default()
            };
            change.update(tx).await?;
            let subject = format!("{} to {name}", shown(&node));
            audit::done(tx, org, &actor, "node.rename", subject, now).await?;
            Ok(())
        })
    }

    async fn move_node(
        &self,
        org: OrgId,
        id: NodeId,
        to: Option<SiteId>,
        actor: Actor,
        now: Timestamp,
    ) -> Result<SiteId, MoveNodeError> {
        transaction!(self, "move_node", |tx| {
            let Some(node) = nodes::lock_of(tx, org, id).await? else {
                return refuse(MoveNodeError::NotFound(id));
            };
            let from = SiteId(node.site_id);
            // In the order of ids, because another node may move the other way.
            let wanted: BTreeSet<SiteId> = to.into_iter().chain([from]).collect();
            let mut locked = BTreeMap::new();
            for site in wanted {
                if let Some(row) = sites::lock(tx, org, site).await? {
                    locked.insert(site, row);
                }
            }
            let to = match to {
                None => sites::create_for_node(tx, org.0, &node.name, now).await?,
                Some(site) if locked.contains_key(&site) => site.0,
                Some(site) => return refuse(MoveNodeError::NoSite(site)),
            };
            let change = node::ActiveModel {
                id: Set(node.id),
                site_id: Set(to),
                ..Default::default()
            };
            change.update(tx).await?;
            let subject = format!("{} from site {} to site {to}", shown(&node), node.site_id);
            audit::done(tx, org, &actor, "node.move", subject, now).await?;
            if let Some(left) = locked.get(&from) {
                sites::delete_if_unused(tx, left, &actor, now).await?;
            }
            Ok(SiteId(to))
        })
    }

    async fn list_nodes(&self, org: OrgId, page: ListPage) -> Result<Vec<NodeRow>, StoreError> {
        nodes::rows(self.reader(), org, Which::Live(page))
            .await
            .during("list_nodes")
    }

    async fn list_revoked_nodes(
        &self,
        org: OrgId,
        page: ListPage,
    ) -> Result<Vec<NodeRow>, StoreError> {
        nodes::rows(self.reader(), org, Which::Revoked(page))
            .await
            .during("list_revoked_nodes")
    }

    async fn node(&self, org: OrgId, node: NodeId) -> Result<Option<NodeRow>, StoreError> {
        let rows = nodes::rows(self.reader(), org, Which::One(node)).await;
        rows.map(|rows| rows.into_iter().next()).during("node")
    }
}

/// Confirms an awaiting node.
async fn confirm(
    tx: &DatabaseTransaction,
    org: OrgId,
    id: NodeId,
    invitation: PendingEnrollmentId,
    now: Timestamp,
) -> Result<node::Model, Failure<ConfirmError>> {
    let refused = |why: String| refuse(ConfirmError::Refused(why));
    let Some(node) = nodes::lock_of(tx, org, id).await? else {
        return refuse(ConfirmError::NotFound(id));
    };
    if node.state.0 != NodeState::Pending {
        return refused(format!("node {id} is {} already", node.state.0));
    }
    let bound = invitations::lock(tx, invitation, org).await?;
    let Some(bound) = bound.filter(|bound| bound.node_id == Some(id.0)) else {
        return refused(format!(
            "pending_enrollment_id {invitation} does not belong to node {id}"
        ));
    };
    let again = "enroll it again with a new code";
    let state = bound.state.0;
    let Ok(next) = state.step(InvitationStep::Confirm) else {
        return refused(format!("the enrollment of node {id} is {state}: {again}"));
    };
    // The sweep may not have expired it yet.
    if bound.expires_at.0 <= now {
        return refused(format!("the enrollment of node {id} has expired: {again}"));
    }
    invitations::advance(tx, &bound, next, bound.node_id).await?;
    set_state(tx, node.id, NodeState::Confirmed, None).await?;
    Ok(node)
}

/// The live node that replaces a revoked one. The unique index decides a race.
pub(super) async fn replacement_of(
    tx: &DatabaseTransaction,
    replaced: NodeId,
) -> Result<Option<NodeId>, DbErr> {
    let node = node::Entity::find()
        .filter(node::Column::ReplacesNodeId.eq(replaced.0))
        .filter(node::Column::DeletedAt.is_null())
        .one(tx)
        .await?;
    Ok(node.map(|node| NodeId(node.id)))
}

/// Name and identity key are unique among live nodes. The unique index decides a race.
async fn check_unique(
    tx: &DatabaseTransaction,
    org: OrgId,
    new: &NewNode,
) -> Result<(), Failure<RegisterError>> {
    let same = Condition::any()
        .add(node::Column::Name.eq(new.name.as_str()))
        .add(node::Column::IdentityKey.eq(Bytes32(new.identity_key)));
    let alike = node::Entity::find()
        .filter(node::Column::OrgId.eq(org.0))
        .filter(node::Column::DeletedAt.is_null())
        .filter(same)
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
    Ok(())
}

/// An awaiting node is revoked together with its invitation. The caller must name the invitation.
async fn check_invitation(
    tx: &DatabaseTransaction,
    node: &node::Model,
    invitation: Option<PendingEnrollmentId>,
) -> Result<(), Failure<RevokeError>> {
    let id = NodeId(node.id);
    let Some(invitation) = invitation else {
        return refuse(RevokeError::PendingIdMissing(id));
    };
    let bound = invitations::lock(tx, invitation, OrgId(node.org_id)).await?;
    if bound.is_none_or(|bound| bound.node_id != Some(node.id)) {
        return refuse(RevokeError::Refused(format!(
            "pending_enrollment_id {invitation} does not belong to node {id}"
        )));
    }
    Ok(())
}

/// Marks a node as revoked. Its keys, challenges and sessions become invalid. The claim of its stream stays: it tells the
/// server that holds the stream to end it.
pub(super) async fn bury(tx: &DatabaseTransaction, node: i64, now: Timestamp) -> Result<(), DbErr> {
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

/// The node's name in audit records.
pub(super) fn shown(node: &node::Model) -> String {
    format!("node {} ({})", node.id, node.name)
}
