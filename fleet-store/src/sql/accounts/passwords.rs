//! Passwords, and the source addresses from which operators have signed in.

use std::net::IpAddr;

use crate::{
    PasswordHash,
    sql::{
        entity::{operator_password, operator_source},
        prelude::*,
    },
};

/// The most sources remembered for one operator.
const SOURCES: u64 = 16;

/// Writes the password of an operator. The operator's row is locked or new.
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

/// The current password hash of an operator.
pub(in crate::sql) async fn current(
    tx: &DatabaseTransaction,
    operator: i64,
) -> Result<Option<String>, DbErr> {
    let password = operator_password::Entity::find_by_id(operator)
        .one(tx)
        .await?;
    Ok(password.map(|password| password.hash))
}

/// Remembers a source for an operator. Above the limit, the least recently seen source is deleted.
pub(in crate::sql) async fn remember_source(
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
    // The new source is never the oldest one, even when several have the same time.
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

/// Deletes the credentials of an operator.
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
