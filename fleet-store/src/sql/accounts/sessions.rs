//! Browser sessions.

use super::shown;
use crate::{
    BrowserSession,
    sql::{
        audit,
        entity::{browser_session, operator},
        prelude::*,
    },
};

/// A session as operators see it.
pub(super) fn read(row: browser_session::Model) -> BrowserSession {
    BrowserSession {
        id: BrowserSessionId(row.id),
        created_at: row.created_at.0,
        expires_at: row.expires_at.0,
        from: row.from_address.map(|from| from.0),
        agent: row.agent,
        key: row.key_id.map(KeyId),
        issuer: row.issuer,
    }
}

/// The most sessions of one operator.
pub(super) const MOST: u64 = 32;

/// Deletes the expired sessions of all operators, and the oldest sessions of an operator that has too many.
pub(in crate::sql) async fn make_room(
    tx: &DatabaseTransaction,
    operator: i64,
    now: Timestamp,
) -> Result<(), DbErr> {
    use browser_session::Column as C;
    browser_session::Entity::delete_many()
        .filter(C::ExpiresAt.lte(Micros(now)))
        .exec(tx)
        .await?;
    let newest = browser_session::Entity::find()
        .filter(C::OperatorId.eq(operator))
        .order_by_desc(C::Id)
        // One less than the limit, because the caller adds a session.
        .offset(MOST - 1)
        .limit(1)
        .one(tx)
        .await?;
    if let Some(last) = newest {
        browser_session::Entity::delete_many()
            .filter(C::OperatorId.eq(operator))
            .filter(C::Id.lte(last.id))
            .exec(tx)
            .await?;
    }
    Ok(())
}

/// Ends the given session if it exists, and writes an audit record.
pub(in crate::sql) async fn end(
    tx: &DatabaseTransaction,
    which: Condition,
    action: &'static str,
    actor: &Actor,
    now: Timestamp,
) -> Result<bool, DbErr> {
    let ended = browser_session::Entity::delete_many()
        .filter(which)
        .exec_with_returning(tx)
        .await?;
    let Some(session) = ended.into_iter().next() else {
        return Ok(false);
    };
    let operator = operator::Entity::find_by_id(session.operator_id)
        .one(tx)
        .await?;
    if let Some(operator) = operator {
        let subject = format!("session {} of {}", session.id, shown(&operator));
        let org = OrgId(operator.org_id);
        audit::done(tx, org, actor, action, subject, now).await?;
    }
    Ok(true)
}

pub(super) async fn end_all_but(
    tx: &DatabaseTransaction,
    operator: OperatorId,
    keep: Option<BrowserSessionId>,
) -> Result<(), DbErr> {
    browser_session::Entity::delete_many()
        .filter(browser_session::Column::OperatorId.eq(operator.0))
        // No session has the id 0.
        .filter(browser_session::Column::Id.ne(keep.map_or(0, |keep| keep.0)))
        .exec(tx)
        .await?;
    Ok(())
}

/// Ends the sessions that a key has opened.
pub(super) async fn end_of_key(tx: &DatabaseTransaction, key: i64) -> Result<(), DbErr> {
    browser_session::Entity::delete_many()
        .filter(browser_session::Column::KeyId.eq(key))
        .exec(tx)
        .await?;
    Ok(())
}
