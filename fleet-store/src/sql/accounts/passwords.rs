//! Passwords, and the sources from which their owners come.

use std::net::IpAddr;

use fleet_core::{BrowserSessionId, OperatorId, OrgId, Timestamp};
use sea_orm::{
    ColumnTrait, ConnectionTrait, DatabaseTransaction, DbErr, EntityTrait, QueryFilter, QueryOrder,
    QuerySelect, Set, sea_query::OnConflict,
};

use super::{lock, sessions, shown};
use crate::{
    Account, Actor, AuditEntry, MemberError, PasswordHash,
    sql::{
        audit,
        entity::{operator_password, operator_source},
        operators::{by_email, canonical_email},
        transaction::{Failure, refuse},
        value::{AsText, Micros},
    },
};

/// Sources remembered an operator.
const SOURCES: u64 = 16;

/// Asks the same questions whether the operator is there or not, so that time tells nothing.
pub(super) async fn account(
    db: &impl ConnectionTrait,
    email: &str,
    source: Option<IpAddr>,
) -> Result<Option<Account>, DbErr> {
    let operator = by_email(db, &canonical_email(email)).await?;
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
}


/// Writes the password of an operator whose row is locked or new.
pub(in crate::sql) async fn write(
    tx: &DatabaseTransaction,
    operator: OperatorId,
    password: &PasswordHash,
    now: Timestamp,
) -> Result<(), DbErr> {
    use operator_password::Column as C;
    let row = operator_password::ActiveModel {
        operator_id: Set(operator.0),
        hash: Set(password.phc.clone()),
        changed_at: Set(Micros(now)),
        one_time_until: Set(password.one_time_until.map(Micros)),
    };
    let newest = OnConflict::column(C::OperatorId)
        .update_columns([C::Hash, C::ChangedAt, C::OneTimeUntil])
        .to_owned();
    operator_password::Entity::insert(row)
        .on_conflict(newest)
        .exec_without_returning(tx)
        .await?;
    Ok(())
}

/// The hash of an operator's password now.
pub(super) async fn current(
    tx: &DatabaseTransaction,
    operator: i64,
) -> Result<Option<String>, DbErr> {
    let password = operator_password::Entity::find_by_id(operator)
        .one(tx)
        .await?;
    Ok(password.map(|password| password.hash))
}

/// Remembers a source as the operator's own; of too many the longest unseen is forgotten.
pub(super) async fn remember_source(
    tx: &DatabaseTransaction,
    operator: i64,
    source: IpAddr,
    now: Timestamp,
) -> Result<(), DbErr> {
    use operator_source::Column as C;
    let row = operator_source::ActiveModel {
        operator_id: Set(operator),
        source: Set(AsText(source)),
        seen_at: Set(Micros(now)),
    };
    let seen = OnConflict::columns([C::OperatorId, C::Source])
        .update_column(C::SeenAt)
        .to_owned();
    operator_source::Entity::insert(row)
        .on_conflict(seen)
        .exec_without_returning(tx)
        .await?;
    // This one is never the oldest, even when several were seen at one moment.
    let others = operator_source::Entity::find()
        .filter(C::OperatorId.eq(operator))
        .filter(C::Source.ne(AsText(source)));
    let too_old = others
        .order_by_desc(C::SeenAt)
        .offset(SOURCES - 1)
        .limit(SOURCES)
        .all(tx)
        .await?;
    for old in too_old {
        operator_source::Entity::delete_by_id((old.operator_id, old.source))
            .exec(tx)
            .await?;
    }
    Ok(())
}

/// Removes what an operator signed in with.
pub(super) async fn forget(tx: &DatabaseTransaction, operator: i64) -> Result<(), DbErr> {
    operator_password::Entity::delete_by_id(operator)
        .exec(tx)
        .await?;
    operator_source::Entity::delete_many()
        .filter(operator_source::Column::OperatorId.eq(operator))
        .exec(tx)
        .await?;
    Ok(())
}
