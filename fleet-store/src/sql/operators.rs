//! Tenants, operators, and the authentication of API keys and browser sessions. The accounts of operators are
//! in [`super::accounts`].

use super::{
    accounts::{keys::has_most, lock, passwords, sessions, sessions::make_room, shown},
    audit,
    entity::{browser_session, operator, operator_key, org},
};
use crate::{
    CreateKeyError, CreateOperatorError, Credential, NewBrowserSession, NewOperator,
    OpenBrowserSessionError, OperatorIdentity, Operators, PasswordHash, Proof, sql::prelude::*,
};

/// The resolution of a key's last use. A busy key costs one write per minute.
const USE_EVERY: std::time::Duration = std::time::Duration::from_secs(60);
/// A statement that PostgreSQL can execute only with space for new pages, unlike an update of one row. SQLite needs
/// space in its log for every commit.
const NEEDS_SPACE: &str = "CREATE TEMPORARY TABLE space_check ON COMMIT DROP AS SELECT generate_series(1, 2000) AS number";
/// The name of a key that was created on the server's own machine.
const FIRST_KEY: &str = "made by fleetd admin";

#[async_trait]
impl Operators for SqlStore {
    async fn ping(&self) -> Result<(), StoreError> {
        // The writer is checked as well, because a SQLite reader answers while no write is possible.
        for pool in [self.writer(), self.reader()] {
            pool.execute_unprepared("SELECT 1").await.during("ping")?;
        }
        if self.health().is_fresh() {
            return Ok(());
        }
        // Reads succeed on a full disk or a read-only file system. Only a commit shows that writes succeed.
        let check_space = self.health().is_suspect() && !self.is_sqlite();
        let checked: Result<(), StoreError> = transaction!(self, "ping", |tx| {
            let write = "INSERT INTO write_check (id, writes) VALUES (1, 1) \
                         ON CONFLICT (id) DO UPDATE SET writes = write_check.writes + 1";
            tx.execute_unprepared(write).await?;
            if check_space {
                tx.execute_unprepared(NEEDS_SPACE).await?;
            }
            Ok(())
        });
        checked?;
        self.health().writes_succeed();
        Ok(())
    }

    async fn has_operators(&self) -> Result<bool, StoreError> {
        let living = operator::Entity::find().filter(operator::Column::RemovedAt.is_null());
        let count = living.count(self.reader()).await;
        count.map(|count| count > 0).during("has_operators")
    }

    async fn has_several_orgs(&self) -> Result<bool, StoreError> {
        let orgs = org::Entity::find().limit(2).all(self.reader()).await;
        orgs.map(|orgs| orgs.len() > 1).during("has_several_orgs")
    }

    async fn owns_network(&self, org: OrgId, owner: Option<&str>) -> Result<bool, StoreError> {
        let Some(owner) = owner else {
            return self.has_several_orgs().await.map(|several| !several);
        };
        let named = org::Entity::find_by_id(org.0).one(self.reader()).await;
        let named = named.during("owns_network")?;
        Ok(named.is_some_and(|row| row.name.to_lowercase() == owner.to_lowercase()))
    }

    async fn create_operator_with(
        &self,
        new: NewOperator,
        password: Option<PasswordHash>,
        actor: Actor,
    ) -> Result<OperatorId, CreateOperatorError> {
        transaction!(self, "create_operator", |tx| {
            let email = canonical_email(&new.email);
            let org = match org_named(tx, &new.org, new.now).await? {
                Ok(org) => org,
                Err(existing) => {
                    let named = new.org.clone();
                    return refuse(CreateOperatorError::OrgDiffersInCase { named, existing });
                }
            };
            let namesakes = by_email(tx, &email).await?;
            if namesakes.iter().any(|(known, _)| known.org_id == org.0) {
                return refuse(CreateOperatorError::EmailTaken(email));
            }
            let created = operator::ActiveModel {
                id: NotSet,
                org_id: Set(org.0),
                email: Set(email.clone()),
                role: Set(AsText(new.role)),
                created_at: Set(Micros(new.now)),
                removed_at: Set(None),
            };
            let id = OperatorId(created.insert(tx).await?.id);
            if let Some(password) = &password {
                passwords::write(tx, id, password, new.now).await?;
            }
            let subject = format!("operator {id} ({email}) as {}", new.role);
            let action = "operator.create";
            audit::done(tx, org, &actor, action, subject, new.now).await?;
            Ok(id)
        })
    }

    async fn create_operator_key_in(
        &self,
        org: Option<&str>,
        email: &str,
        key: SecretHash,
        actor: Actor,
        now: Timestamp,
    ) -> Result<KeyId, CreateKeyError> {
        let email = canonical_email(email);
        transaction!(self, "create_operator_key", |tx| {
            let mut named = by_email(tx, &email).await?;
            named.retain(|(_, name)| {
                org.is_none_or(|org| org.to_lowercase() == name.to_lowercase())
            });
            if named.len() > 1 {
                return refuse(CreateKeyError::AmbiguousEmail(email.clone()));
            }
            let operator = match named.pop() {
                Some((operator, _)) => lock(tx, OperatorId(operator.id)).await?,
                None => None,
            };
            let Some(operator) = operator else {
                return refuse(CreateKeyError::UnknownEmail(email.clone()));
            };
            if has_most(tx, &operator, now).await? {
                return refuse(CreateKeyError::TooMany(OperatorId(operator.id)));
            }
            let created = operator_key::ActiveModel {
                id: NotSet,
                operator_id: Set(operator.id),
                hash: Set(Hash(key)),
                created_at: Set(Micros(now)),
                revoked_at: Set(None),
                name: Set(FIRST_KEY.to_owned()),
                last_used_at: Set(None),
                expires_at: Set(None),
                made_by: Set(None),
            };
            let id = KeyId(created.insert(tx).await?.id);
            let subject = format!("key {id} of operator {} ({email})", operator.id);
            let org = OrgId(operator.org_id);
            let action = "operator.create_key";
            audit::done(tx, org, &actor, action, subject, now).await?;
            Ok(id)
        })
    }

    async fn operator_by_key(
        &self,
        key: SecretHash,
        now: Timestamp,
    ) -> Result<Option<OperatorIdentity>, StoreError> {
        let found = async {
            let key = operator_key::Entity::find()
                // A lookup by hash needs no comparison in constant time: callers cannot choose the
                // hash.
                .filter(operator_key::Column::Hash.eq(Hash(key)))
                .one(self.reader())
                .await?;
            let Some(key) = key.filter(|key| is_live(key, now)) else {
                return Ok(None);
            };
            let id = Credential::Key(KeyId(key.id));
            let identity = identity(self.reader(), key.operator_id, id).await?;
            Ok(identity.map(|identity| (identity, key)))
        };
        let Some((identity, key)) = found.await.during("operator_by_key")? else {
            return Ok(None);
        };
        // Calls that only read must succeed while the database accepts no writes.
        if let Err(error) = self.remember_use(&key, now).await {
            tracing::warn!(key = key.id, %error, "a key's use was not remembered");
        }
        Ok(Some(identity))
    }

    async fn operator_by_session(
        &self,
        token: SecretHash,
        now: Timestamp,
    ) -> Result<Option<OperatorIdentity>, StoreError> {
        let which = browser_session::Column::Hash.eq(Hash(token));
        by_session(self.reader(), which, now)
            .await
            .during("operator_by_session")
    }

    async fn operator_by_credential(
        &self,
        credential: Credential,
        now: Timestamp,
    ) -> Result<Option<OperatorIdentity>, StoreError> {
        let found = async {
            match credential {
                Credential::Session(id) => {
                    let which = browser_session::Column::Id.eq(id.0);
                    by_session(self.reader(), which, now).await
                }
                Credential::Key(id) => match live_key(self.reader(), id.0, now).await? {
                    Some(key) => identity(self.reader(), key.operator_id, credential).await,
                    None => Ok(None),
                },
            }
        };
        found.await.during("operator_by_credential")
    }

    async fn open_browser_session(
        &self,
        new: NewBrowserSession,
        actor: Actor,
        now: Timestamp,
    ) -> Result<BrowserSessionId, OpenBrowserSessionError> {
        transaction!(self, "open_browser_session", |tx| {
            let Some(operator) = lock(tx, new.operator).await? else {
                return refuse(OpenBrowserSessionError::Refused);
            };
            let (by, key) = match &new.proof {
                Proof::Key(key) => {
                    let live = live_key(tx, key.0, now).await?;
                    if live.is_none_or(|live| live.operator_id != operator.id) {
                        return refuse(OpenBrowserSessionError::Refused);
                    }
                    (format!("key {key}"), Some(key.0))
                }
                Proof::Password { phc, source } => {
                    // The password was verified outside this transaction and may have changed
                    // since.
                    if passwords::current(tx, operator.id).await?.as_ref() != Some(phc) {
                        return refuse(OpenBrowserSessionError::Refused);
                    }
                    if let Some(source) = source {
                        passwords::remember_source(tx, operator.id, *source, now).await?;
                    }
                    ("password".to_owned(), None)
                }
            };
            make_room(tx, operator.id, now).await?;
            let session = browser_session::ActiveModel {
                id: NotSet,
                hash: Set(Hash(new.token)),
                operator_id: Set(operator.id),
                key_id: Set(key),
                created_at: Set(Micros(now)),
                expires_at: Set(Micros(new.expires)),
                from_address: Set(actor.from.map(AsText)),
                agent: Set(new.agent.clone()),
                issuer: Set(None),
            };
            let session = session.insert(tx).await?;
            let subject = format!("{} by {by}", shown(&operator));
            let (org, action) = (OrgId(operator.org_id), "operator.sign_in");
            audit::done(tx, org, &actor, action, subject, now).await?;
            Ok(BrowserSessionId(session.id))
        })
    }

    async fn close_browser_session(
        &self,
        token: SecretHash,
        actor: Actor,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        transaction!(self, "close_browser_session", |tx| {
            let which = browser_session::Column::Hash.eq(Hash(token));
            let action = "operator.sign_out";
            sessions::end(tx, Condition::all().add(which), action, &actor, now).await?;
            Ok(())
        })
    }
}

impl SqlStore {
    /// Stores the last use of a key, unless the stored time is less than a minute old.
    async fn remember_use(&self, key: &operator_key::Model, now: Timestamp) -> Result<(), DbErr> {
        if key
            .last_used_at
            .is_some_and(|at| at.0 > now.minus(USE_EVERY))
        {
            return Ok(());
        }
        use operator_key::Column as C;
        let stale = Condition::any()
            .add(C::LastUsedAt.is_null())
            .add(C::LastUsedAt.lte(Micros(now.minus(USE_EVERY))));
        operator_key::Entity::update_many()
            .col_expr(C::LastUsedAt, Micros(now).into())
            .filter(C::Id.eq(key.id))
            // Of concurrent calls, on this or other servers, only the first one writes.
            .filter(stale)
            .exec(self.writer())
            .await?;
        Ok(())
    }
}

/// The form in which e-mails are stored and compared.
pub(super) fn canonical_email(email: &str) -> String {
    email.trim().to_lowercase()
}

/// The operators with this e-mail that are not removed, each with the name of its organization, oldest first. There are
/// always two queries.
pub(super) async fn by_email(
    db: &impl ConnectionTrait,
    email: &str,
) -> Result<Vec<(operator::Model, String)>, DbErr> {
    let operators = operator::Entity::find()
        .filter(operator::Column::Email.eq(email))
        .filter(operator::Column::RemovedAt.is_null())
        .order_by_asc(operator::Column::Id)
        .all(db)
        .await?;
    let orgs = org::Entity::find()
        // No organization has the id 0.
        .filter(org::Column::Id.is_in(operators.iter().map(|of| of.org_id).chain([0])))
        .all(db)
        .await?;
    let name = |id: i64| {
        orgs.iter()
            .find(|org| org.id == id)
            .map(|org| org.name.clone())
    };
    Ok(operators
        .into_iter()
        .map(|operator| {
            let name = name(operator.org_id).unwrap_or_default();
            (operator, name)
        })
        .collect())
}

/// The organization with this name, created if it is new. Fails with the name of an existing one that differs only in
/// case.
async fn org_named(
    tx: &impl ConnectionTrait,
    name: &str,
    now: Timestamp,
) -> Result<Result<OrgId, String>, DbErr> {
    let folded = name.to_lowercase();
    // SQLite folds only ASCII letters, so the few names are compared here.
    let mut similar: Vec<org::Model> = org::Entity::find()
        .order_by_asc(org::Column::Id)
        .all(tx)
        .await?
        .into_iter()
        .filter(|org| org.name.to_lowercase() == folded)
        .collect();
    if let Some(known) = similar.iter().find(|org| org.name == name) {
        return Ok(Ok(OrgId(known.id)));
    }
    if let Some(existing) = similar.pop() {
        return Ok(Err(existing.name));
    }
    let created = org::ActiveModel {
        id: NotSet,
        name: Set(name.to_owned()),
        created_at: Set(Micros(now)),
    };
    Ok(Ok(OrgId(created.insert(tx).await?.id)))
}

/// Whether a key is neither revoked nor expired.
pub(super) fn is_live(key: &operator_key::Model, now: Timestamp) -> bool {
    key.revoked_at.is_none() && key.expires_at.is_none_or(|end| end.0 > now)
}

pub(super) async fn live_key(
    db: &impl ConnectionTrait,
    id: i64,
    now: Timestamp,
) -> Result<Option<operator_key::Model>, DbErr> {
    let key = operator_key::Entity::find_by_id(id).one(db).await?;
    Ok(key.filter(|key| is_live(key, now)))
}

async fn by_session(
    db: &impl ConnectionTrait,
    which: sea_orm::sea_query::Expr,
    now: Timestamp,
) -> Result<Option<OperatorIdentity>, DbErr> {
    let session = browser_session::Entity::find()
        .filter(which)
        .filter(browser_session::Column::ExpiresAt.gt(Micros(now)))
        .one(db)
        .await?;
    let Some(session) = session else {
        return Ok(None);
    };
    // Revoking a key ends its sessions, but nothing ends them when the key expires.
    if let Some(key) = session.key_id
        && live_key(db, key, now).await?.is_none()
    {
        return Ok(None);
    }
    let credential = Credential::Session(BrowserSessionId(session.id));
    identity(db, session.operator_id, credential).await
}

/// The identity of an operator that is not removed.
async fn identity(
    db: &impl ConnectionTrait,
    operator: i64,
    credential: Credential,
) -> Result<Option<OperatorIdentity>, DbErr> {
    let operator = operator::Entity::find_by_id(operator).one(db).await?;
    let Some(operator) = operator.filter(|operator| operator.removed_at.is_none()) else {
        return Ok(None);
    };
    let org = org::Entity::find_by_id(operator.org_id).one(db).await?;
    Ok(org.map(|org| OperatorIdentity {
        operator: OperatorId(operator.id),
        org: OrgId(org.id),
        org_name: org.name,
        email: operator.email,
        role: operator.role.0,
        credential,
    }))
}
