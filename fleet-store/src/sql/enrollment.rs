//! The operations of enrollment, each a transaction around its steps. Start with [`members`] for what a
//! node goes through, [`invitations`] for the code it begins with.

mod invitations;
mod members;

use async_trait::async_trait;
use fleet_core::{NodeId, OrgId, PendingEnrollmentId, SecretHash, Timestamp};

use super::nodes::{self, Which};
use crate::{
    Actor, CancelCodeError, ConfirmError, CreateCodeError, Enrollment, Invitation, NewCode,
    NewNode, NodeRow, RegisterError, Registered, RevokeError, Revoked, SqlStore, StoreError,
};

#[async_trait]
impl Enrollment for SqlStore {
    async fn create_code(&self, new: NewCode) -> Result<PendingEnrollmentId, CreateCodeError> {
        self.transaction("create_code", new, |tx, new| {
            Box::pin(invitations::create(tx, new))
        })
        .await
    }

    async fn list_codes(&self, org: OrgId) -> Result<Vec<Invitation>, StoreError> {
        Self::reading("list_codes", invitations::open(self.reader(), org).await)
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
            |tx, (org, id, actor, now)| Box::pin(invitations::cancel(tx, *org, *id, actor, *now)),
        )
        .await
    }

    async fn register_node(&self, new: NewNode) -> Result<Registered, RegisterError> {
        self.transaction("register_node", new, |tx, new| {
            Box::pin(members::register(tx, new))
        })
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
        self.transaction(
            "confirm_node",
            (org, node, invitation, key, actor, now),
            |tx, (org, node, invitation, key, actor, now)| {
                Box::pin(members::confirm(
                    tx,
                    *org,
                    *node,
                    *invitation,
                    *key,
                    actor,
                    *now,
                ))
            },
        )
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
                Box::pin(members::revoke(tx, *org, *node, *invitation, actor, *now))
            },
        )
        .await
    }

    async fn sweep_enrollments(&self, now: Timestamp) -> Result<u64, StoreError> {
        let due = invitations::due(self.reader(), now).await;
        let mut swept = 0;
        for due in Self::reading("sweep_enrollments", due)? {
            let expired = self
                .transaction("sweep_enrollments", (due, now), |tx, (due, now)| {
                    Box::pin(invitations::expire(tx, due, *now))
                })
                .await?;
            swept += u64::from(expired);
        }
        Ok(swept)
    }

    async fn list_nodes(&self, org: OrgId) -> Result<Vec<NodeRow>, StoreError> {
        let rows = nodes::rows(self.reader(), org, Which::Live).await;
        Self::reading("list_nodes", rows)
    }

    async fn list_revoked_nodes(&self, org: OrgId) -> Result<Vec<NodeRow>, StoreError> {
        let rows = nodes::rows(self.reader(), org, Which::Revoked).await;
        Self::reading("list_revoked_nodes", rows)
    }

    async fn node(&self, org: OrgId, node: NodeId) -> Result<Option<NodeRow>, StoreError> {
        let rows = nodes::rows(self.reader(), org, Which::One(node)).await;
        Self::reading("node", rows.map(|rows| rows.into_iter().next()))
    }
}
