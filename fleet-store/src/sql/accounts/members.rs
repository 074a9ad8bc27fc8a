//! The operators of an organization.

use std::collections::{BTreeMap, BTreeSet};

use fleet_core::Role;

use super::{keys::living, lock, lock_org, passwords, sessions, shown};
use crate::{
    ListPage, Member, MemberError, MemberSession, Members,
    sql::{
        audit,
        entity::{browser_session, operator, operator_key, operator_link, operator_password},
        prelude::*,
    },
};

#[async_trait]
impl Members for SqlStore {
    async fn list_members(
        &self,
        org: OrgId,
        page: ListPage,
        now: Timestamp,
    ) -> Result<Vec<Member>, StoreError> {
        let db = self.reader();
        let read = async {
            let rows = operator::Entity::find()
                .filter(operator::Column::OrgId.eq(org.0))
                .filter(operator::Column::RemovedAt.is_null())
                .filter(operator::Column::Id.gt(page.after))
                .order_by_asc(operator::Column::Id)
                .limit(u64::from(page.limit))
                .all(db)
                .await?;
            let ids: Vec<i64> = rows.iter().map(|row| row.id).collect();
            let with_password: BTreeSet<i64> = operator_password::Entity::find()
                .filter(operator_password::Column::OperatorId.is_in(ids.clone()))
                .all(db)
                .await?
                .into_iter()
                .map(|password| password.operator_id)
                .collect();
            let mut issuers: BTreeMap<i64, String> = operator_link::Entity::find()
                .filter(operator_link::Column::OperatorId.is_in(ids.clone()))
                .all(db)
                .await?
                .into_iter()
                .map(|link| (link.operator_id, link.issuer))
                .collect();
            let keys: BTreeMap<i64, i64> = operator_key::Entity::find()
                .filter(operator_key::Column::OperatorId.is_in(ids))
                .filter(living(now))
                .select_only()
                .column(operator_key::Column::OperatorId)
                .column_as(operator_key::Column::Id.count(), "held")
                .group_by(operator_key::Column::OperatorId)
                .into_tuple::<(i64, i64)>()
                .all(db)
                .await?
                .into_iter()
                .collect();
            let held = |id| keys.get(&id).and_then(|held| u32::try_from(*held).ok());
            let member = |row: operator::Model| Member {
                issuer: issuers.remove(&row.id),
                id: OperatorId(row.id),
                email: row.email,
                role: row.role.0,
                created_at: row.created_at.0,
                has_password: with_password.contains(&row.id),
                keys: held(row.id).unwrap_or(0),
            };
            Ok(rows.into_iter().map(member).collect())
        };
        read.await.during("list_members")
    }

    async fn list_member_sessions(
        &self,
        org: OrgId,
        limit: u32,
        now: Timestamp,
    ) -> Result<Vec<MemberSession>, StoreError> {
        let db = self.reader();
        let read = async {
            let emails: BTreeMap<i64, String> = operator::Entity::find()
                .filter(operator::Column::OrgId.eq(org.0))
                .filter(operator::Column::RemovedAt.is_null())
                .all(db)
                .await?
                .into_iter()
                .map(|row| (row.id, row.email))
                .collect();
            let rows = browser_session::Entity::find()
                .filter(browser_session::Column::OperatorId.is_in(emails.keys().copied()))
                .filter(browser_session::Column::ExpiresAt.gt(Micros(now)))
                .order_by_desc(browser_session::Column::Id)
                .limit(u64::from(limit))
                .all(db)
                .await?;
            let session = |row: browser_session::Model| MemberSession {
                operator: OperatorId(row.operator_id),
                email: emails.get(&row.operator_id).cloned().unwrap_or_default(),
                session: sessions::read(row),
            };
            Ok(rows.into_iter().map(session).collect())
        };
        read.await.during("list_member_sessions")
    }

    async fn end_member_session(
        &self,
        org: OrgId,
        session: BrowserSessionId,
        actor: Actor,
        now: Timestamp,
    ) -> Result<bool, StoreError> {
        transaction!(self, "end_member_session", |tx| {
            let members = operator::Entity::find()
                .select_only()
                .column(operator::Column::Id)
                .filter(operator::Column::OrgId.eq(org.0));
            let which = Condition::all()
                .add(browser_session::Column::Id.eq(session.0))
                .add(browser_session::Column::OperatorId.in_subquery(members.into_query()));
            Ok(sessions::end(tx, which, "operator.end_session", &actor, now).await?)
        })
    }

    async fn set_role(
        &self,
        org: OrgId,
        id: OperatorId,
        role: Role,
        actor: Actor,
        now: Timestamp,
    ) -> Result<(), MemberError> {
        transaction!(self, "set_role", |tx| {
            let found = member(tx, org, id).await?;
            if role != Role::Admin {
                leave_an_admin(tx, &found).await?;
            }
            let changed = operator::ActiveModel {
                id: Set(found.id),
                role: Set(AsText(role)),
                ..Default::default()
            };
            changed.update(tx).await?;
            let subject = format!("{} from {} to {role}", shown(&found), found.role.0);
            audit::done(tx, org, &actor, "operator.set_role", subject, now).await?;
            Ok(())
        })
    }

    async fn remove_member(
        &self,
        org: OrgId,
        id: OperatorId,
        actor: Actor,
        now: Timestamp,
    ) -> Result<(), MemberError> {
        transaction!(self, "remove_member", |tx| {
            let found = member(tx, org, id).await?;
            leave_an_admin(tx, &found).await?;
            let removed = operator::ActiveModel {
                id: Set(found.id),
                removed_at: Set(Some(Micros(now))),
                ..Default::default()
            };
            removed.update(tx).await?;
            let keys = operator_key::Entity::find()
                .select_only()
                .column(operator_key::Column::Id)
                .filter(operator_key::Column::OperatorId.eq(found.id))
                .into_tuple::<i64>()
                .all(tx)
                .await?;
            super::keys::revoke_with_made(tx, keys, now).await?;
            sessions::end_all_but(tx, id, None).await?;
            passwords::forget(tx, found.id).await?;
            audit::done(tx, org, &actor, "operator.remove", shown(&found), now).await?;
            Ok(())
        })
    }
}

/// Locks the organization, and then its operator. Two administrators who remove each other are serialized by
/// the first lock.
pub(super) async fn member(
    tx: &DatabaseTransaction,
    org: OrgId,
    id: OperatorId,
) -> Result<operator::Model, Failure<MemberError>> {
    lock_org(tx, org).await?;
    let found = lock(tx, id).await?.filter(|found| found.org_id == org.0);
    found.ok_or(Failure::Refused(MemberError::NotFound(id)))
}

/// Refuses to remove the last administrator of an organization. The caller holds the organization's lock.
async fn leave_an_admin(
    tx: &DatabaseTransaction,
    leaving: &operator::Model,
) -> Result<(), Failure<MemberError>> {
    if is_last_admin(tx, leaving).await? {
        return refuse(MemberError::LastAdmin(OperatorId(leaving.id)));
    }
    Ok(())
}

/// Whether an operator is the last administrator of its organization. The caller holds the organization's lock.
pub(super) async fn is_last_admin(
    tx: &DatabaseTransaction,
    leaving: &operator::Model,
) -> Result<bool, DbErr> {
    if leaving.role.0 != Role::Admin {
        return Ok(false);
    }
    let others = operator::Entity::find()
        .filter(operator::Column::OrgId.eq(leaving.org_id))
        .filter(operator::Column::RemovedAt.is_null())
        .filter(operator::Column::Role.eq(AsText(Role::Admin)))
        .filter(operator::Column::Id.ne(leaving.id))
        .count(tx)
        .await?;
    Ok(others == 0)
}
