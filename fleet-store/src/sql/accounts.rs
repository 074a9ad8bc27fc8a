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
        transaction!(self, "set_password", |tx| {
    let found = lock(tx, operator).await?;
    let found = found.filter(|found| org.is_none_or(|org| org.0 == found.org_id));
    let Some(found) = found else {
        return refuse(MemberError::NotFound(operator));
    };
    write(tx, operator, &password, now).await?;
    sessions::end_all_but(tx, operator, keep).await?;
    let action = if password.one_time_until.is_some() {
        "operator.reset_password"
    } else {
        "operator.set_password"
    };
    let org = OrgId(found.org_id);
    audit::write(
        tx,
        AuditEntry::done(org, actor.clone(), action, shown(&found), now),
    )
    .await?;
    Ok(())
})
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
        transaction!(self, "end_browser_session", |tx| {
let which = Condition::all()
                        .add(browser_session::Column::Id.eq(session.0))
                        .add(browser_session::Column::OperatorId.eq(operator.0));
                    let action = "operator.end_session";
                    Ok(sessions::end(tx, which, action, actor, now).await?)
})
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
