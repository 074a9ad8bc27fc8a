//! Operators' API keys.

use std::collections::{BTreeMap, BTreeSet};

use super::{lock, sessions};
use crate::{
    CreatedKey, Credential, KEYS_OF_AN_OPERATOR, KeyError, KeyScope, Keys, NewKey, OperatorKey,
    Rotation,
    sql::{
        audit,
        entity::{browser_session, operator, operator_key},
        operators::is_live,
        prelude::*,
    },
};

#[async_trait]
impl Keys for SqlStore {
    async fn list_keys(
        &self,
        org: OrgId,
        reach: KeyScope,
        limit: u32,
        now: Timestamp,
    ) -> Result<Vec<OperatorKey>, StoreError> {
        let db = self.reader();
        let read = async {
            let mut of_org = operator::Entity::find()
                .filter(operator::Column::OrgId.eq(org.0))
                .filter(operator::Column::RemovedAt.is_null());
            if let KeyScope::Own(own) = reach {
                of_org = of_org.filter(operator::Column::Id.eq(own.0));
            }
            let ids = of_org.clone().select_only().column(operator::Column::Id);
            let emails: BTreeMap<i64, String> = of_org
                .all(db)
                .await?
                .into_iter()
                .map(|operator| (operator.id, operator.email))
                .collect();
            let rows = operator_key::Entity::find()
                .filter(operator_key::Column::OperatorId.in_subquery(ids.into_query()))
                .filter(living(now))
                .order_by_asc(operator_key::Column::Id)
                .limit(u64::from(limit))
                .all(db)
                .await?;
            let key = |row: operator_key::Model| OperatorKey {
                id: KeyId(row.id),
                operator: OperatorId(row.operator_id),
                email: emails.get(&row.operator_id).cloned().unwrap_or_default(),
                name: row.name,
                created_at: row.created_at.0,
                last_used_at: row.last_used_at.map(|at| at.0),
                expires_at: row.expires_at.map(|at| at.0),
                made_by: row.made_by.map(KeyId),
            };
            Ok(rows.into_iter().map(key).collect())
        };
        read.await.during("list_keys")
    }

    async fn create_key(
        &self,
        org: OrgId,
        new: NewKey,
        actor: Actor,
        now: Timestamp,
    ) -> Result<CreatedKey, KeyError> {
        transaction!(self, "create_key", |tx| {
            let owner = lock(tx, new.operator).await?;
            let Some(owner) = owner.filter(|owner| owner.org_id == org.0) else {
                return refuse(KeyError::NoOperator(new.operator));
            };
            let maker = maker(tx, new.maker, now).await?;
            let expires_at = earlier(new.expires_at, maker.as_ref());
            let made_by = maker.map(|maker| maker.id);
            let id = insert(tx, &owner, &new, expires_at, made_by, now).await?;
            let subject = format!(
                "key {id} of operator {} ({}), {}",
                owner.id, owner.email, new.name
            );
            audit::done(tx, org, &actor, "operator.create_key", subject, now).await?;
            Ok(CreatedKey { id, expires_at })
        })
    }

    async fn revoke_key(
        &self,
        org: OrgId,
        reach: KeyScope,
        key: KeyId,
        actor: Actor,
        now: Timestamp,
    ) -> Result<(), KeyError> {
        transaction!(self, "revoke_key", |tx| {
            let (owner, found) = within_reach(tx, org, reach, key, now).await?;
            let made = revoke_with_made(tx, vec![found.id], now).await?;
            let made = match made {
                0 => String::new(),
                made => format!(", with {made} keys that were made with it"),
            };
            let subject = format!("key {key} of operator {} ({}){made}", owner.id, owner.email);
            audit::done(tx, org, &actor, "operator.revoke_key", subject, now).await?;
            Ok(())
        })
    }

    async fn rotate_key(
        &self,
        org: OrgId,
        reach: KeyScope,
        rotation: Rotation,
        actor: Actor,
        now: Timestamp,
    ) -> Result<KeyId, KeyError> {
        let Rotation {
            key,
            hash,
            old_until,
            maker: by,
        } = rotation;
        transaction!(self, "rotate_key", |tx| {
            let (owner, found) = within_reach(tx, org, reach, key, now).await?;
            let maker = maker(tx, by, now).await?;
            if let Some(maker) = &maker
                && made_with(tx, &[found.id]).await?.contains(&maker.id)
            {
                // The new key would be made by a key that it made.
                return refuse(KeyError::MadeByIt(key));
            }
            // A key that replaces itself leaves its place to the new one.
            let maker = maker.filter(|maker| maker.id != found.id);
            let made_by = maker.as_ref().map_or(found.made_by, |maker| Some(maker.id));
            // A rotation must not extend the life of a key.
            let expires_at = earlier(found.expires_at.map(|end| end.0), maker.as_ref());
            let new = NewKey {
                operator: OperatorId(owner.id),
                name: found.name.clone(),
                hash,
                expires_at,
                maker: by,
            };
            let end = found
                .expires_at
                .map_or(old_until, |end| end.0.min(old_until));
            let ending = operator_key::ActiveModel {
                id: Set(found.id),
                expires_at: Set(Some(Micros(end))),
                ..Default::default()
            };
            ending.update(tx).await?;
            let id = insert(tx, &owner, &new, expires_at, made_by, now).await?;
            hand_over(tx, found.id, id, expires_at).await?;
            let subject = format!(
                "key {key} of operator {} ({}) by key {id}",
                owner.id, owner.email
            );
            audit::done(tx, org, &actor, "operator.rotate_key", subject, now).await?;
            Ok(id)
        })
    }
}

/// Keys that are neither revoked nor expired.
pub(super) fn living(now: Timestamp) -> Condition {
    use operator_key::Column as C;
    let lasts = Condition::any()
        .add(C::ExpiresAt.is_null())
        .add(C::ExpiresAt.gt(Micros(now)));
    Condition::all().add(C::RevokedAt.is_null()).add(lasts)
}

async fn insert(
    tx: &DatabaseTransaction,
    owner: &operator::Model,
    new: &NewKey,
    expires_at: Option<Timestamp>,
    made_by: Option<i64>,
    now: Timestamp,
) -> Result<KeyId, Failure<KeyError>> {
    if has_most(tx, owner, now).await? {
        return refuse(KeyError::TooMany(new.operator));
    }
    let created = operator_key::ActiveModel {
        id: NotSet,
        operator_id: Set(owner.id),
        hash: Set(Hash(new.hash)),
        created_at: Set(Micros(now)),
        revoked_at: Set(None),
        name: Set(new.name.clone()),
        last_used_at: Set(None),
        expires_at: Set(expires_at.map(Micros)),
        made_by: Set(made_by),
    };
    Ok(KeyId(created.insert(tx).await?.id))
}

/// Whether an operator holds the most keys allowed. The owner's lock keeps two calls from passing this check together.
pub(in crate::sql) async fn has_most(
    tx: &DatabaseTransaction,
    owner: &operator::Model,
    now: Timestamp,
) -> Result<bool, DbErr> {
    let held = operator_key::Entity::find()
        .filter(operator_key::Column::OperatorId.eq(owner.id))
        .filter(living(now))
        .count(tx)
        .await?;
    Ok(held >= KEYS_OF_AN_OPERATOR)
}

/// The key that makes a key: the one of the call, or the one that opened its session. It is locked until the
/// transaction ends, so that a revocation either finds the new key or prevents it.
async fn maker(
    tx: &DatabaseTransaction,
    by: Option<Credential>,
    now: Timestamp,
) -> Result<Option<operator_key::Model>, Failure<KeyError>> {
    let key = match by {
        None => return Ok(None),
        Some(Credential::Key(key)) => key.0,
        Some(Credential::Session(session)) => {
            let session = browser_session::Entity::find_by_id(session.0)
                .one(tx)
                .await?;
            let Some(session) = session else {
                return refuse(KeyError::MakerEnded);
            };
            match session.key_id {
                Some(key) => key,
                None => return Ok(None),
            }
        }
    };
    let key = operator_key::Entity::find_by_id(key)
        .lock(LockType::NoKeyUpdate)
        .one(tx)
        .await?;
    match key.filter(|key| is_live(key, now)) {
        Some(key) => Ok(Some(key)),
        None => refuse(KeyError::MakerEnded),
    }
}

/// The earlier one of the requested end and the maker's.
fn earlier(requested: Option<Timestamp>, maker: Option<&operator_key::Model>) -> Option<Timestamp> {
    let ends = maker.and_then(|maker| maker.expires_at).map(|end| end.0);
    requested.into_iter().chain(ends).min()
}

/// The keys that were made with these keys, directly or not.
async fn made_with(tx: &DatabaseTransaction, keys: &[i64]) -> Result<BTreeSet<i64>, DbErr> {
    let (mut made, mut makers) = (BTreeSet::new(), keys.to_vec());
    while !makers.is_empty() {
        makers = made_directly_with(tx, makers).await?;
        makers.retain(|key| made.insert(*key));
    }
    Ok(made)
}

async fn made_directly_with(tx: &DatabaseTransaction, makers: Vec<i64>) -> Result<Vec<i64>, DbErr> {
    operator_key::Entity::find()
        .select_only()
        .column(operator_key::Column::Id)
        .filter(operator_key::Column::MadeBy.is_in(makers))
        .into_tuple()
        .all(tx)
        .await
}

/// Revokes keys and all that were made with them, and ends their sessions. Returns how many of the latter were in use.
pub(super) async fn revoke_with_made(
    tx: &DatabaseTransaction,
    keys: Vec<i64>,
    now: Timestamp,
) -> Result<u64, DbErr> {
    let revoke = |keys: Vec<i64>| {
        operator_key::Entity::update_many()
            .col_expr(operator_key::Column::RevokedAt, Micros(now).into())
            .filter(operator_key::Column::Id.is_in(keys))
            .filter(operator_key::Column::RevokedAt.is_null())
    };
    let mut all: BTreeSet<i64> = keys.iter().copied().collect();
    revoke(keys.clone()).exec(tx).await?;
    // Each generation is revoked before its keys are searched: a call that makes a key holds the lock of its maker, and
    // its key must be found.
    let (mut makers, mut revoked) = (keys, 0);
    while !makers.is_empty() {
        makers = made_directly_with(tx, makers).await?;
        makers.retain(|key| all.insert(*key));
        revoked += revoke(makers.clone()).exec(tx).await?.rows_affected;
    }
    for key in all {
        sessions::end_of_key(tx, key).await?;
    }
    Ok(revoked)
}

/// Gives the keys that one key made to the key that replaces it, and ends them with it.
async fn hand_over(
    tx: &DatabaseTransaction,
    from: i64,
    to: KeyId,
    end: Option<Timestamp>,
) -> Result<(), DbErr> {
    use operator_key::Column as C;
    operator_key::Entity::update_many()
        .col_expr(C::MadeBy, to.0.into())
        .filter(C::MadeBy.eq(from))
        .exec(tx)
        .await?;
    let Some(end) = end else { return Ok(()) };
    let lasts = Condition::any()
        .add(C::ExpiresAt.is_null())
        .add(C::ExpiresAt.gt(Micros(end)));
    operator_key::Entity::update_many()
        .col_expr(C::ExpiresAt, Micros(end).into())
        .filter(C::Id.is_in(made_with(tx, &[to.0]).await?))
        .filter(lasts)
        .exec(tx)
        .await?;
    Ok(())
}

/// Locks the owner of a live key, and then the key.
async fn within_reach(
    tx: &DatabaseTransaction,
    org: OrgId,
    reach: KeyScope,
    id: KeyId,
    now: Timestamp,
) -> Result<(operator::Model, operator_key::Model), Failure<KeyError>> {
    let find = || operator_key::Entity::find_by_id(id.0);
    // Without a lock, only to learn the owner, who is locked first.
    let Some(key) = find().one(tx).await? else {
        return refuse(KeyError::NotFound(id));
    };
    let owner = lock(tx, OperatorId(key.operator_id)).await?;
    let owner = owner.filter(|owner| {
        owner.org_id == org.0
            && match reach {
                KeyScope::Own(own) => own.0 == owner.id,
                KeyScope::Org => true,
            }
    });
    // Read again under the owner's lock, because the key may have changed in between.
    let key = find().one(tx).await?.filter(|key| is_live(key, now));
    match (owner, key) {
        (Some(owner), Some(key)) => Ok((owner, key)),
        _ => refuse(KeyError::NotFound(id)),
    }
}
