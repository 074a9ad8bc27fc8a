//! Operators' API keys.

use std::collections::BTreeMap;

use super::{lock, sessions};
use crate::{
    KEYS_OF_AN_OPERATOR, KeyError, KeyScope, Keys, NewKey, OperatorKey, Rotation,
    sql::{
        audit,
        entity::{operator, operator_key},
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
    ) -> Result<KeyId, KeyError> {
        transaction!(self, "create_key", |tx| {
            let owner = lock(tx, new.operator).await?;
            let Some(owner) = owner.filter(|owner| owner.org_id == org.0) else {
                return refuse(KeyError::NoOperator(new.operator));
            };
            let id = insert(tx, &owner, &new, now).await?;
            let subject = format!(
                "key {id} of operator {} ({}), {}",
                owner.id, owner.email, new.name
            );
            audit::done(tx, org, &actor, "operator.create_key", subject, now).await?;
            Ok(id)
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
            let revoked = operator_key::ActiveModel {
                id: Set(found.id),
                revoked_at: Set(Some(Micros(now))),
                ..Default::default()
            };
            revoked.update(tx).await?;
            sessions::end_of_key(tx, found.id).await?;
            let subject = format!("key {key} of operator {} ({})", owner.id, owner.email);
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
        } = rotation;
        transaction!(self, "rotate_key", |tx| {
            let (owner, found) = within_reach(tx, org, reach, key, now).await?;
            let new = NewKey {
                operator: OperatorId(owner.id),
                name: found.name.clone(),
                hash,
                // A rotation must not extend the life of a key.
                expires_at: found.expires_at.map(|end| end.0),
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
            let id = insert(tx, &owner, &new, now).await?;
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
    now: Timestamp,
) -> Result<KeyId, Failure<KeyError>> {
    let held = operator_key::Entity::find()
        .filter(operator_key::Column::OperatorId.eq(owner.id))
        .filter(living(now))
        .count(tx)
        .await?;
    // The owner's lock keeps two calls from passing this check together.
    if held >= KEYS_OF_AN_OPERATOR {
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
        expires_at: Set(new.expires_at.map(Micros)),
    };
    Ok(KeyId(created.insert(tx).await?.id))
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
