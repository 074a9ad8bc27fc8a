//! The operations on accounts, each a transaction around its steps: [`passwords`], browser [`sessions`],
//! [`keys`], [`members`]. An operator's row is the lock for what belongs to the operator, the organization's
//! for who administers it; the organization comes first.

mod keys;
mod members;
pub(super) mod passwords;
pub(super) mod sessions;

use std::net::IpAddr;

use async_trait::async_trait;
use fleet_core::{BrowserSessionId, KeyId, OperatorId, OrgId, Role, Timestamp};
use sea_orm::{
    ColumnTrait, Condition, DatabaseTransaction, DbErr, EntityTrait, QueryFilter, QuerySelect,
    sea_query::LockType,
};

use super::entity::{browser_session, operator};
use crate::{
    Account, Accounts, Actor, BrowserSession, KeyError, Member, MemberError, NewKey, OperatorKey,
    PasswordHash, Reach, Rotation, SqlStore, StoreError,
};

#[async_trait]
impl Accounts for SqlStore {
    async fn account(
        &self,
        email: &str,
        source: Option<IpAddr>,
    ) -> Result<Option<Account>, StoreError> {
        let found = passwords::account(self.reader(), email, source).await;
        Self::reading("account", found)
    }

    async fn set_password(
        &self,
        org: Option<OrgId>,
        operator: OperatorId,
        password: PasswordHash,
        keep: Option<BrowserSessionId>,
        actor: Actor,
        now: Timestamp,
    ) -> Result<(), MemberError> {
        self.transaction(
            "set_password",
            (org, operator, password, keep, actor, now),
            |tx, (org, operator, password, keep, actor, now)| {
                Box::pin(passwords::set(
                    tx, *org, *operator, password, *keep, actor, *now,
                ))
            },
        )
        .await
    }

    async fn list_browser_sessions(
        &self,
        operator: OperatorId,
        now: Timestamp,
    ) -> Result<Vec<BrowserSession>, StoreError> {
        let found = sessions::of(self.reader(), operator, now).await;
        Self::reading("list_browser_sessions", found)
    }

    async fn end_browser_session(
        &self,
        operator: OperatorId,
        session: BrowserSessionId,
        actor: Actor,
        now: Timestamp,
    ) -> Result<bool, StoreError> {
        self.transaction(
            "end_browser_session",
            (operator, session, actor, now),
            |tx, (operator, session, actor, now)| {
                Box::pin(async move {
                    let which = Condition::all()
                        .add(browser_session::Column::Id.eq(session.0))
                        .add(browser_session::Column::OperatorId.eq(operator.0));
                    let action = "operator.end_session";
                    Ok(sessions::end(tx, which, action, actor, *now).await?)
                })
            },
        )
        .await
    }

    async fn list_keys(
        &self,
        org: OrgId,
        reach: Reach,
        limit: u32,
        now: Timestamp,
    ) -> Result<Vec<OperatorKey>, StoreError> {
        let found = keys::list(self.reader(), org, reach, limit, now).await;
        Self::reading("list_keys", found)
    }

    async fn create_key(
        &self,
        org: OrgId,
        new: NewKey,
        actor: Actor,
        now: Timestamp,
    ) -> Result<KeyId, KeyError> {
        self.transaction(
            "create_key",
            (org, new, actor, now),
            |tx, (org, new, actor, now)| Box::pin(keys::create(tx, *org, new, actor, *now)),
        )
        .await
    }

    async fn revoke_key(
        &self,
        org: OrgId,
        reach: Reach,
        key: KeyId,
        actor: Actor,
        now: Timestamp,
    ) -> Result<(), KeyError> {
        self.transaction(
            "revoke_key",
            (org, reach, key, actor, now),
            |tx, (org, reach, key, actor, now)| {
                Box::pin(keys::revoke(tx, *org, *reach, *key, actor, *now))
            },
        )
        .await
    }

    async fn rotate_key(
        &self,
        org: OrgId,
        reach: Reach,
        rotation: Rotation,
        actor: Actor,
        now: Timestamp,
    ) -> Result<KeyId, KeyError> {
        self.transaction(
            "rotate_key",
            (org, reach, rotation, actor, now),
            |tx, (org, reach, rotation, actor, now)| {
                Box::pin(keys::rotate(tx, *org, *reach, *rotation, actor, *now))
            },
        )
        .await
    }

    async fn list_members(&self, org: OrgId, now: Timestamp) -> Result<Vec<Member>, StoreError> {
        Self::reading("list_members", members::of(self.reader(), org, now).await)
    }

    async fn set_role(
        &self,
        org: OrgId,
        operator: OperatorId,
        role: Role,
        actor: Actor,
        now: Timestamp,
    ) -> Result<(), MemberError> {
        self.transaction(
            "set_role",
            (org, operator, role, actor, now),
            |tx, (org, operator, role, actor, now)| {
                Box::pin(members::set_role(tx, *org, *operator, *role, actor, *now))
            },
        )
        .await
    }

    async fn remove_member(
        &self,
        org: OrgId,
        operator: OperatorId,
        actor: Actor,
        now: Timestamp,
    ) -> Result<(), MemberError> {
        self.transaction(
            "remove_member",
            (org, operator, actor, now),
            |tx, (org, operator, actor, now)| {
                Box::pin(members::remove(tx, *org, *operator, actor, *now))
            },
        )
        .await
    }
}

/// Locks a living operator.
async fn lock(
    tx: &DatabaseTransaction,
    operator: OperatorId,
) -> Result<Option<operator::Model>, DbErr> {
    operator::Entity::find_by_id(operator.0)
        .filter(operator::Column::RemovedAt.is_null())
        .lock(LockType::NoKeyUpdate)
        .one(tx)
        .await
}

/// The operator as audit records name it.
fn shown(operator: &operator::Model) -> String {
    format!("operator {} ({})", operator.id, operator.email)
}
