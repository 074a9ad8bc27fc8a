//! Tenants, operators, their keys and browser sessions.

use async_trait::async_trait;
use fleet_core::{KeyId, OperatorId, OrgId, SecretHash, Timestamp};
use sea_orm::{
    ActiveModelTrait, ColumnTrait, ConnectionTrait, DbErr, EntityTrait, NotSet, PaginatorTrait,
    QueryFilter, Set,
};

use super::{
    audit,
    entity::{operator, operator_key, operator_session, org},
    transaction::refuse,
    value::{AsText, Hash, Micros},
};
use crate::{
    Actor, AuditEntry, CreateKeyError, CreateOperatorError, NewOperator, OperatorIdentity,
    Operators, SqlStore, StoreError,
};

#[async_trait]
impl Operators for SqlStore {
    async fn ping(&self) -> Result<(), StoreError> {
        // The writer too: a SQLite reader answers while nothing can be written.
        for pool in [self.writer(), self.reader()] {
            Self::reading("ping", pool.execute_unprepared("SELECT 1").await)?;
        }
        Ok(())
    }

    async fn has_operators(&self) -> Result<bool, StoreError> {
        let count = operator::Entity::find().count(self.reader()).await;
        Self::reading("has_operators", count.map(|count| count > 0))
    }

    async fn create_operator(
        &self,
        new: NewOperator,
        actor: Actor,
    ) -> Result<OperatorId, CreateOperatorError> {
        self.transaction("create_operator", (new, actor), |tx, (new, actor)| {
            Box::pin(async move {
                let email = canonical_email(&new.email);
                if by_email(tx, &email).await?.is_some() {
                    return refuse(CreateOperatorError::EmailTaken(email));
                }
                let org = OrgId(org_named(tx, &new.org, new.now).await?);
                let created = operator::ActiveModel {
                    id: NotSet,
                    org_id: Set(org.0),
                    email: Set(email.clone()),
                    role: Set(AsText(new.role)),
                    created_at: Set(Micros(new.now)),
                };
                let id = OperatorId(created.insert(tx).await?.id);
                let subject = format!("operator {id} ({email}) as {}", new.role);
                audit::write(
                    tx,
                    AuditEntry::done(org, actor.clone(), "operator.create", subject, new.now),
                )
                .await?;
                Ok(id)
            })
        })
        .await
    }

    async fn create_operator_key(
        &self,
        email: &str,
        key: SecretHash,
        actor: Actor,
        now: Timestamp,
    ) -> Result<KeyId, CreateKeyError> {
        let email = canonical_email(email);
        self.transaction(
            "create_operator_key",
            (email, key, actor, now),
            |tx, (email, key, actor, now)| {
                Box::pin(async move {
                    let Some(operator) = by_email(tx, email).await? else {
                        return refuse(CreateKeyError::UnknownEmail(email.clone()));
                    };
                    let created = operator_key::ActiveModel {
                        id: NotSet,
                        operator_id: Set(operator.id),
                        hash: Set(Hash(*key)),
                        created_at: Set(Micros(*now)),
                        revoked_at: Set(None),
                    };
                    let id = KeyId(created.insert(tx).await?.id);
                    let subject = format!("key {id} of operator {} ({email})", operator.id);
                    audit::write(
                        tx,
                        AuditEntry::done(
                            OrgId(operator.org_id),
                            actor.clone(),
                            "operator.create_key",
                            subject,
                            *now,
                        ),
                    )
                    .await?;
                    Ok(id)
                })
            },
        )
        .await
    }

    async fn operator_by_key(
        &self,
        key: SecretHash,
    ) -> Result<Option<OperatorIdentity>, StoreError> {
        let found = async {
            let key = operator_key::Entity::find()
                .filter(operator_key::Column::Hash.eq(Hash(key)))
                .one(self.reader())
                .await?;
            identity(self.reader(), key).await
        };
        Self::reading("operator_by_key", found.await)
    }

    async fn open_operator_session(
        &self,
        identity: &OperatorIdentity,
        token: SecretHash,
        expires: Timestamp,
        actor: Actor,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        self.transaction(
            "open_operator_session",
            (identity.clone(), token, expires, actor, now),
            |tx, (identity, token, expires, actor, now)| {
                Box::pin(async move {
                    // Sessions that are over go with the next sign-in; there is no other writer to this table.
                    operator_session::Entity::delete_many()
                        .filter(operator_session::Column::ExpiresAt.lte(Micros(*now)))
                        .exec(tx)
                        .await?;
                    let session = operator_session::ActiveModel {
                        hash: Set(Hash(*token)),
                        key_id: Set(identity.key.0),
                        created_at: Set(Micros(*now)),
                        expires_at: Set(Micros(*expires)),
                    };
                    operator_session::Entity::insert(session)
                        .exec_without_returning(tx)
                        .await?;
                    let subject = format!(
                        "operator {} ({}) by key {}",
                        identity.operator, identity.email, identity.key
                    );
                    audit::write(
                        tx,
                        AuditEntry::done(
                            identity.org,
                            actor.clone(),
                            "operator.sign_in",
                            subject,
                            *now,
                        ),
                    )
                    .await?;
                    Ok(())
                })
            },
        )
        .await
    }

    async fn operator_by_session(
        &self,
        token: SecretHash,
        now: Timestamp,
    ) -> Result<Option<OperatorIdentity>, StoreError> {
        let found = async {
            let session = operator_session::Entity::find()
                .filter(operator_session::Column::Hash.eq(Hash(token)))
                .filter(operator_session::Column::ExpiresAt.gt(Micros(now)))
                .one(self.reader())
                .await?;
            let Some(session) = session else {
                return Ok(None);
            };
            let key = operator_key::Entity::find_by_id(session.key_id)
                .one(self.reader())
                .await?;
            identity(self.reader(), key).await
        };
        Self::reading("operator_by_session", found.await)
    }

    async fn close_operator_session(&self, token: SecretHash) -> Result<(), StoreError> {
        self.transaction("close_operator_session", token, |tx, token| {
            Box::pin(async move {
                operator_session::Entity::delete_many()
                    .filter(operator_session::Column::Hash.eq(Hash(*token)))
                    .exec(tx)
                    .await?;
                Ok(())
            })
        })
        .await
    }
}

fn canonical_email(email: &str) -> String {
    email.trim().to_lowercase()
}

async fn by_email(
    tx: &impl ConnectionTrait,
    email: &str,
) -> Result<Option<operator::Model>, DbErr> {
    operator::Entity::find()
        .filter(operator::Column::Email.eq(email))
        .one(tx)
        .await
}

async fn org_named(tx: &impl ConnectionTrait, name: &str, now: Timestamp) -> Result<i64, DbErr> {
    if let Some(known) = org::Entity::find()
        .filter(org::Column::Name.eq(name))
        .one(tx)
        .await?
    {
        return Ok(known.id);
    }
    let created = org::ActiveModel {
        id: NotSet,
        name: Set(name.to_owned()),
        created_at: Set(Micros(now)),
    };
    Ok(created.insert(tx).await?.id)
}

/// Who holds a key, unless it was revoked.
async fn identity(
    db: &impl ConnectionTrait,
    key: Option<operator_key::Model>,
) -> Result<Option<OperatorIdentity>, DbErr> {
    let Some(key) = key.filter(|key| key.revoked_at.is_none()) else {
        return Ok(None);
    };
    let Some(operator) = operator::Entity::find_by_id(key.operator_id)
        .one(db)
        .await?
    else {
        return Ok(None);
    };
    let org = org::Entity::find_by_id(operator.org_id).one(db).await?;
    Ok(org.map(|org| OperatorIdentity {
        operator: OperatorId(operator.id),
        org: OrgId(org.id),
        org_name: org.name,
        email: operator.email,
        role: operator.role.0,
        key: KeyId(key.id),
    }))
}
