//! Accounts of an OpenID provider. The organization's row is locked first, then the operator's.

use fleet_core::{
    Role,
    sso::{Admitted, KnownAccount, SignInProblem},
};

use super::{lock, lock_org, members, sessions, shown};
use crate::{
    Links, MemberError, ProviderSignIn, ProviderSignInError, ProviderSignedIn,
    sql::{
        audit,
        entity::{browser_session, operator, operator_link, org, used_attempt},
        prelude::*,
    },
};

#[async_trait]
impl Links for SqlStore {
    async fn sign_in_by_provider(
        &self,
        new: ProviderSignIn,
        actor: Actor,
        now: Timestamp,
    ) -> Result<ProviderSignedIn, ProviderSignInError> {
        transaction!(self, "sign_in_by_provider", |tx| {
            let Some(org) = org_of(tx, new.org.as_deref()).await? else {
                return refuse(ProviderSignInError::NoOrganization);
            };
            lock_org(tx, org).await?;
            if !use_attempt(tx, &new, now).await? {
                return refuse(ProviderSignInError::Used);
            }
            let known = known(tx, org, &new).await?;
            let admitted = match new.policy.admit(&new.claims, known.state) {
                Ok(admitted) => admitted,
                Err(why) => return refuse(ProviderSignInError::Refused { org, why }),
            };
            let (operator, role_changed) =
                apply(tx, org, &new, known.operator, admitted, &actor, now).await?;
            sessions::make_room(tx, operator.id, now).await?;
            let session = browser_session::ActiveModel {
                id: NotSet,
                hash: Set(Hash(new.token)),
                operator_id: Set(operator.id),
                key_id: Set(None),
                created_at: Set(Micros(now)),
                expires_at: Set(Micros(new.expires)),
                from_address: Set(actor.from.map(AsText)),
                agent: Set(new.agent.clone()),
                issuer: Set(Some(new.claims.issuer.clone())),
            };
            session.insert(tx).await?;
            let id = OperatorId(operator.id);
            let subject = format!("{} by {}", shown(&operator), account(&new));
            let action = "operator.sign_in";
            audit::done(tx, org, &by(&actor, id), action, subject, now).await?;
            Ok(ProviderSignedIn {
                operator: id,
                org,
                role_changed,
            })
        })
    }

    async fn unlink_member(
        &self,
        org: OrgId,
        id: OperatorId,
        actor: Actor,
        now: Timestamp,
    ) -> Result<(), MemberError> {
        transaction!(self, "unlink_member", |tx| {
            let found = members::member(tx, org, id).await?;
            let removed = operator_link::Entity::delete_many()
                .filter(operator_link::Column::OperatorId.eq(found.id))
                .exec_with_returning(tx)
                .await?;
            let Some(link) = removed.into_iter().next() else {
                return refuse(MemberError::NotLinked(id));
            };
            browser_session::Entity::delete_many()
                .filter(browser_session::Column::OperatorId.eq(found.id))
                .filter(browser_session::Column::Issuer.is_not_null())
                .exec(tx)
                .await?;
            let subject = format!(
                "{} from account {} of {}",
                shown(&found),
                printable(&link.subject),
                link.issuer
            );
            audit::done(tx, org, &actor, "operator.unlink", subject, now).await?;
            Ok(())
        })
    }
}

/// What the database knows about an account, and its operator if there is one.
struct Known {
    state: KnownAccount,
    operator: Option<operator::Model>,
}

/// The organization of the provider.
async fn org_of(tx: &DatabaseTransaction, name: Option<&str>) -> Result<Option<OrgId>, DbErr> {
    let mut orgs = org::Entity::find()
        .order_by_asc(org::Column::Id)
        .all(tx)
        .await?;
    match name.map(str::to_lowercase) {
        // SQLite folds only ASCII letters, so the few names are compared here.
        Some(name) => orgs.retain(|org| org.name.to_lowercase() == name),
        None if orgs.len() > 1 => return Ok(None),
        None => {}
    }
    Ok(orgs.first().map(|org| OrgId(org.id)))
}

/// Marks an attempt as used. Returns false if it was used before.
async fn use_attempt(
    tx: &DatabaseTransaction,
    new: &ProviderSignIn,
    now: Timestamp,
) -> Result<bool, DbErr> {
    used_attempt::Entity::delete_many()
        .filter(used_attempt::Column::ExpiresAt.lte(Micros(now)))
        .exec(tx)
        .await?;
    let used = used_attempt::ActiveModel {
        hash: Set(Hash(new.attempt)),
        expires_at: Set(Micros(new.attempt_expires)),
    };
    let once = OnConflict::column(used_attempt::Column::Hash)
        .do_nothing()
        .to_owned();
    let written = used_attempt::Entity::insert(used)
        .on_conflict(once)
        .exec_without_returning(tx)
        .await?;
    Ok(written > 0)
}

async fn known(tx: &DatabaseTransaction, org: OrgId, new: &ProviderSignIn) -> Result<Known, DbErr> {
    use operator_link::Column as L;
    let link = operator_link::Entity::find()
        .filter(L::OrgId.eq(org.0))
        .filter(L::Issuer.eq(new.claims.issuer.as_str()))
        .filter(L::Subject.eq(new.claims.subject.as_str()))
        .one(tx)
        .await?;
    let was_linked = link.is_some();
    if let Some(link) = link
        && let Some(operator) = lock(tx, OperatorId(link.operator_id)).await?
    {
        return Ok(Known {
            state: KnownAccount::Linked(operator.role.0),
            operator: Some(operator),
        });
    }
    let unknown = |removed: bool| Known {
        state: if removed {
            KnownAccount::Removed
        } else {
            KnownAccount::Unknown
        },
        operator: None,
    };
    // An e-mail that the provider has not verified must not even find an operator.
    let Ok(email) = new.policy.verified_email(&new.claims) else {
        return Ok(unknown(false));
    };
    let namesakes = operator::Entity::find()
        .filter(operator::Column::OrgId.eq(org.0))
        .filter(operator::Column::Email.eq(email))
        .all(tx)
        .await?;
    let living = namesakes.iter().find(|of| of.removed_at.is_none());
    let Some(living) = living else {
        return Ok(unknown(was_linked || !namesakes.is_empty()));
    };
    let Some(operator) = lock(tx, OperatorId(living.id)).await? else {
        return Ok(unknown(true));
    };
    let linked = operator_link::Entity::find()
        .filter(L::OperatorId.eq(operator.id))
        .one(tx)
        .await?;
    Ok(Known {
        state: KnownAccount::SameEmail {
            role: operator.role.0,
            linked: linked.is_some(),
        },
        operator: Some(operator),
    })
}

/// Writes what a sign-in changes. Returns the operator, and whether the role of an existing one changed.
async fn apply(
    tx: &DatabaseTransaction,
    org: OrgId,
    new: &ProviderSignIn,
    known: Option<operator::Model>,
    admitted: Admitted,
    actor: &Actor,
    now: Timestamp,
) -> Result<(operator::Model, bool), Failure<ProviderSignInError>> {
    match (admitted, known) {
        (Admitted::Linked { role }, Some(operator)) => {
            Ok(set_role(tx, operator, role, actor, now).await?)
        }
        (Admitted::Link { role, .. }, Some(operator)) => {
            link(tx, org, &operator, new, actor, now).await?;
            Ok(set_role(tx, operator, role, actor, now).await?)
        }
        (Admitted::Create { email, role }, _) => {
            let created = operator::ActiveModel {
                id: NotSet,
                org_id: Set(org.0),
                email: Set(email),
                role: Set(AsText(role)),
                created_at: Set(Micros(now)),
                removed_at: Set(None),
            };
            let operator = created.insert(tx).await?;
            let by = by(actor, OperatorId(operator.id));
            let subject = format!("{} as {role} by {}", shown(&operator), account(new));
            audit::done(tx, org, &by, "operator.create", subject, now).await?;
            link(tx, org, &operator, new, actor, now).await?;
            Ok((operator, false))
        }
        (Admitted::Linked { .. } | Admitted::Link { .. }, None) => {
            let why = SignInProblem::Unknown;
            refuse(ProviderSignInError::Refused { org, why })
        }
    }
}

/// Links an operator to an account, which may have belonged to a removed one.
async fn link(
    tx: &DatabaseTransaction,
    org: OrgId,
    operator: &operator::Model,
    new: &ProviderSignIn,
    actor: &Actor,
    now: Timestamp,
) -> Result<(), DbErr> {
    use operator_link::Column as L;
    let (issuer, subject) = (&new.claims.issuer, &new.claims.subject);
    operator_link::Entity::delete_many()
        .filter(L::OrgId.eq(org.0))
        .filter(L::Issuer.eq(issuer.as_str()))
        .filter(L::Subject.eq(subject.as_str()))
        .exec(tx)
        .await?;
    let row = operator_link::ActiveModel {
        id: NotSet,
        org_id: Set(org.0),
        operator_id: Set(operator.id),
        issuer: Set(issuer.clone()),
        subject: Set(subject.clone()),
        linked_at: Set(Micros(now)),
    };
    row.insert(tx).await?;
    let by = by(actor, OperatorId(operator.id));
    let text = format!("{} to {}", shown(operator), account(new));
    audit::done(tx, org, &by, "operator.link", text, now).await
}

/// Gives an operator the role of its groups. The last administrator keeps the role, because nobody could give it back.
async fn set_role(
    tx: &DatabaseTransaction,
    mut operator: operator::Model,
    role: Role,
    actor: &Actor,
    now: Timestamp,
) -> Result<(operator::Model, bool), DbErr> {
    let former = operator.role.0;
    if former == role {
        return Ok((operator, false));
    }
    if role != Role::Admin && members::is_last_admin(tx, &operator).await? {
        tracing::warn!(
            operator = operator.id,
            "the last administrator keeps the role, although the groups of the sign-in provider give another one"
        );
        return Ok((operator, false));
    }
    let changed = operator::ActiveModel {
        id: Set(operator.id),
        role: Set(AsText(role)),
        ..Default::default()
    };
    changed.update(tx).await?;
    operator.role = AsText(role);
    let by = by(actor, OperatorId(operator.id));
    let subject = format!("{} from {former} to {role}", shown(&operator));
    let org = OrgId(operator.org_id);
    audit::done(tx, org, &by, "operator.set_role", subject, now).await?;
    Ok((operator, true))
}

/// The operator as the author of the sign-in.
fn by(actor: &Actor, operator: OperatorId) -> Actor {
    Actor {
        principal: Principal::Operator(operator),
        ..actor.clone()
    }
}

/// The account in audit records.
fn account(new: &ProviderSignIn) -> String {
    let subject = printable(&new.claims.subject);
    format!("account {subject} of {}", new.claims.issuer)
}

/// A subject is text of the provider.
fn printable(subject: &str) -> String {
    subject
        .chars()
        .take(64)
        .flat_map(char::escape_debug)
        .collect()
}
