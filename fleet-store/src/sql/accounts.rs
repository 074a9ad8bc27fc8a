//! The operations on accounts: [`passwords`], browser [`sessions`], [`keys`], [`members`] and [`links`]. Each operation is
//! one transaction. An operator's row is the lock for everything that belongs to the operator. The
//! organization's row is the lock for its set of administrators, and is locked first.

pub(super) mod keys;
mod links;
mod members;
pub(super) mod passwords;
pub(super) mod sessions;

use std::net::IpAddr;

use sessions::MOST;

use super::{
    entity::{browser_session, operator, operator_password, operator_source, org},
    operators::{by_email, canonical_email},
};
use crate::{
    Account, Accounts, BrowserSession, MemberError, PasswordHash,
    sql::{
        accounts::passwords::{current, write},
        audit,
        prelude::*,
    },
};

#[async_trait]
impl Accounts for SqlStore {
    async fn account_in(
        &self,
        org: Option<&str>,
        email: &str,
        source: Option<IpAddr>,
    ) -> Result<Option<Account>, StoreError> {
        let db = self.reader();
        let read = async {
            let operators = by_email(db, &canonical_email(email)).await?;
            let org = org.map(str::to_lowercase);
            // The same query with and without an organization, for every name.
            let operator = operators
                .into_iter()
                .find(|(_, name)| org.as_ref().is_none_or(|org| *org == name.to_lowercase()));
            let operator = operator.map(|(operator, _)| operator);
            // An unknown e-mail costs the same queries, so their duration does not reveal who
            // exists.
            let id = operator.as_ref().map_or(0, |operator| operator.id);
            let password = operator_password::Entity::find_by_id(id).one(db).await?;
            let source = source.unwrap_or(IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED));
            let known = operator_source::Entity::find_by_id((id, AsText(source)))
                .one(db)
                .await?;
            Ok(operator.map(|operator| Account {
                operator: OperatorId(operator.id),
                org: OrgId(operator.org_id),
                email: operator.email,
                password: password.map(|password| PasswordHash {
                    phc: password.hash,
                    one_time_until: password.one_time_until.map(|until| until.0),
                }),
                known_source: known.is_some(),
            }))
        };
        read.await.during("account")
    }

    async fn orgs_of_email(&self, email: &str) -> Result<Vec<String>, StoreError> {
        let found = by_email(self.reader(), &canonical_email(email)).await;
        let names = |found: Vec<(operator::Model, String)>| found.into_iter().map(|of| of.1);
        found
            .map(|found| names(found).collect())
            .during("orgs_of_email")
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
            Ok(write_password(tx, &found, &password, keep, &actor, now).await?)
        })
    }

    async fn replace_password(
        &self,
        operator: OperatorId,
        verified: Option<String>,
        password: PasswordHash,
        keep: Option<BrowserSessionId>,
        actor: Actor,
        now: Timestamp,
    ) -> Result<(), MemberError> {
        transaction!(self, "replace_password", |tx| {
            let Some(found) = lock(tx, operator).await? else {
                return refuse(MemberError::NotFound(operator));
            };
            if current(tx, operator.0).await? != verified {
                return refuse(MemberError::PasswordChanged(operator));
            }
            Ok(write_password(tx, &found, &password, keep, &actor, now).await?)
        })
    }

    async fn list_browser_sessions(
        &self,
        operator: OperatorId,
        now: Timestamp,
    ) -> Result<Vec<BrowserSession>, StoreError> {
        let db = self.reader();
        let read = async {
            use browser_session::Column as C;
            let rows = browser_session::Entity::find()
                .filter(C::OperatorId.eq(operator.0))
                .filter(C::ExpiresAt.gt(Micros(now)))
                .order_by_desc(C::Id)
                .limit(MOST)
                .all(db)
                .await?;
            Ok(rows.into_iter().map(sessions::read).collect())
        };
        read.await.during("list_browser_sessions")
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
            Ok(sessions::end(tx, which, action, &actor, now).await?)
        })
    }
}

/// Locks an organization. Counts of its rows that have a limit do not change until the transaction ends.
pub(in crate::sql) async fn lock_org(tx: &DatabaseTransaction, org: OrgId) -> Result<(), DbErr> {
    org::Entity::find_by_id(org.0)
        .lock(LockType::NoKeyUpdate)
        .one(tx)
        .await?;
    Ok(())
}

/// Locks the row of an operator that is not removed.
pub(super) async fn lock(
    tx: &DatabaseTransaction,
    operator: OperatorId,
) -> Result<Option<operator::Model>, DbErr> {
    operator::Entity::find_by_id(operator.0)
        .filter(operator::Column::RemovedAt.is_null())
        .lock(LockType::NoKeyUpdate)
        .one(tx)
        .await
}

/// The operator's name in audit records.
pub(super) fn shown(operator: &operator::Model) -> String {
    format!("operator {} ({})", operator.id, operator.email)
}

/// Writes the password of a locked operator, ends its other sessions, and records that.
async fn write_password(
    tx: &DatabaseTransaction,
    found: &operator::Model,
    password: &PasswordHash,
    keep: Option<BrowserSessionId>,
    actor: &Actor,
    now: Timestamp,
) -> Result<(), DbErr> {
    let operator = OperatorId(found.id);
    write(tx, operator, password, now).await?;
    // A person who knew the old password must not stay signed in.
    sessions::end_all_but(tx, operator, keep).await?;
    let action = if password.one_time_until.is_some() {
        "operator.reset_password"
    } else {
        "operator.set_password"
    };
    let org = OrgId(found.org_id);
    audit::done(tx, org, actor, action, shown(found), now).await
}
