//! `fleet.v1`: the caller's account, keys, and the operators of an organization. Signing in itself is plain
//! HTTP, in [`crate::http`].

use std::{str::FromStr, sync::Arc, time::Duration};

use fleet_core::{
    BrowserSessionId, KeyId, OperatorId, Password, Permission, Role, SecretKind, Timestamp, limits,
};
use fleet_store::{
    Actor, Credential, NewKey, NewOperator, OperatorIdentity, PasswordHash, Reach, Rotation, Who,
};
use fleet_wire::{
    Context, Reply, RpcError,
    fleet::{
        AccountService, BrowserSession, ChangePasswordRequest, ChangePasswordResponse,
        CreateKeyRequest, CreateKeyResponse, CreateOperatorRequest, CreateOperatorResponse,
        EndSessionRequest, EndSessionResponse, KeyService, ListKeysRequest, ListKeysResponse,
        ListOperatorsRequest, ListOperatorsResponse, ListSessionsRequest, ListSessionsResponse,
        Operator, OperatorKey, OperatorService, RemoveOperatorRequest, RemoveOperatorResponse,
        ResetOperatorPasswordRequest, ResetOperatorPasswordResponse, RevokeKeyRequest,
        RevokeKeyResponse, RotateKeyRequest, RotateKeyResponse, SetOperatorRoleRequest,
        SetOperatorRoleResponse, WhoAmIRequest, WhoAmIResponse,
    },
};
use zeroize::Zeroizing;

use crate::{
    app::App,
    audit::Attempt,
    auth::{calling_operator, permit},
    convert::{printable, timestamp},
    failure::Refusal,
};

/// The services around accounts.
#[derive(Clone, Debug)]
pub(crate) struct Accounts {
    pub(crate) app: Arc<App>,
}

/// Keys of one list.
const KEYS_MOST: u32 = 10_000;

impl Accounts {
    /// The caller, what is attempted, and the moment.
    fn attempt<'a>(
        &self,
        context: &'a Context,
        action: &'static str,
        subject: String,
    ) -> Result<(&'a OperatorIdentity, Attempt, Timestamp), RpcError> {
        let (operator, actor) = calling_operator(context)?;
        let attempt = Attempt {
            org: Some(operator.org),
            actor,
            action,
            subject,
        };
        Ok((operator, attempt, self.app.environment.now()))
    }

    /// Records a refusal and hands it on.
    async fn or_refused<T>(
        &self,
        attempt: Attempt,
        done: Result<T, impl Refusal>,
    ) -> Result<T, RpcError> {
        match done {
            Ok(value) => Ok(value),
            Err(error) => Err(attempt.refused(&self.app, error.refusal()).await),
        }
    }

    /// A new one-time password, to show and to store.
    async fn one_time(&self, now: Timestamp) -> Result<(Password, PasswordHash), RpcError> {
        let password = Password::one_time(&self.app.environment.random());
        let salt = self.app.environment.random();
        let phc = self.app.passwords.hash(password.clone(), salt).await?;
        let one_time_until = Some(now.plus(limits::ONE_TIME_PASSWORD_LIFE));
        Ok((
            password,
            PasswordHash {
                phc,
                one_time_until,
            },
        ))
    }
}

impl AccountService for Accounts {
    async fn who_am_i(
        &self,
        context: Context,
        _: WhoAmIRequest,
    ) -> Result<Reply<WhoAmIResponse>, RpcError> {
        let (operator, _) = calling_operator(&context)?;
        let permissions = Permission::ALL
            .into_iter()
            .filter(|permission| operator.role.may(*permission));
        Ok(Reply::new(WhoAmIResponse {
            email: operator.email.clone(),
            organization: operator.org_name.clone(),
            role: operator.role.to_string(),
            permissions: permissions
                .map(|permission| permission.to_string())
                .collect(),
            server_version: self.app.config.version.clone(),
        }))
    }

    async fn list_sessions(
        &self,
        context: Context,
        _: ListSessionsRequest,
    ) -> Result<Reply<ListSessionsResponse>, RpcError> {
        let (operator, _) = calling_operator(&context)?;
        let now = self.app.environment.now();
        let store = &self.app.store;
        let sessions = store
            .list_browser_sessions(operator.operator, now)
            .await
            .map_err(Refusal::refusal)?;
        let shown = |session: fleet_store::BrowserSession| BrowserSession {
            session_id: session.id.0,
            created_at: Some(timestamp(session.created_at)),
            expires_at: Some(timestamp(session.expires_at)),
            from_address: session
                .from
                .map(|from| from.to_string())
                .unwrap_or_default(),
            agent: session.agent,
            key_id: session.key.map_or(0, |key| key.0),
            current: operator.credential == Credential::Session(session.id),
        };
        Ok(Reply::new(ListSessionsResponse {
            sessions: sessions.into_iter().map(shown).collect(),
        }))
    }

    async fn end_session(
        &self,
        context: Context,
        request: EndSessionRequest,
    ) -> Result<Reply<EndSessionResponse>, RpcError> {
        let id = BrowserSessionId(request.session_id);
        let subject = format!("session {id}");
        let (operator, attempt, now) = self.attempt(&context, "operator.end_session", subject)?;
        let store = &self.app.store;
        let ended = store
            .end_browser_session(operator.operator, id, attempt.actor.clone(), now)
            .await
            .map_err(Refusal::refusal)?;
        if !ended {
            let unknown = RpcError::not_found(format!(
                "session {id} is none of yours: `fleetctl sessions list` shows those there are"
            ));
            return Err(attempt.refused(&self.app, unknown).await);
        }
        Ok(Reply::new(EndSessionResponse {}))
    }

    async fn change_password(
        &self,
        context: Context,
        request: ChangePasswordRequest,
    ) -> Result<Reply<ChangePasswordResponse>, RpcError> {
        let subject = "own password".to_owned();
        let (operator, attempt, now) = self.attempt(&context, "operator.set_password", subject)?;
        let ChangePasswordRequest {
            current_password,
            new_password,
        } = request;
        let current = Password::presented(Zeroizing::new(current_password));
        let new = chosen(Zeroizing::new(new_password), &operator.email)?;
        if let Some(limits) = &self.app.limiters {
            let key = ("change", operator.operator.0);
            if let Err(wait) = limits.passwords_of_an_account.take(key) {
                return Err(too_many_passwords(wait));
            }
        }
        let store = &self.app.store;
        let account = store
            .account(&operator.email, None)
            .await
            .map_err(Refusal::refusal)?;
        let stored = account.and_then(|account| account.password);
        if let (Some(stored), Some(current)) = (stored, current) {
            let passwords = &self.app.passwords;
            if !passwords.verify(current, Some(stored.phc)).await? {
                let wrong = RpcError::failed_precondition(
                    "the current password is not this one: if it is forgotten, an administrator can reset it",
                );
                return Err(attempt.refused(&self.app, wrong).await);
            }
        }
        let salt = self.app.environment.random();
        let password = PasswordHash {
            phc: self.app.passwords.hash(new, salt).await?,
            one_time_until: None,
        };
        let keep = match operator.credential {
            Credential::Session(session) => Some(session),
            Credential::Key(_) => None,
        };
        let (org, actor) = (Some(operator.org), attempt.actor.clone());
        let set = store.set_password(org, operator.operator, password, keep, actor, now);
        self.or_refused(attempt, set.await).await?;
        Ok(Reply::new(ChangePasswordResponse {}))
    }
}

impl KeyService for Accounts {
    async fn list_keys(
        &self,
        context: Context,
        request: ListKeysRequest,
    ) -> Result<Reply<ListKeysResponse>, RpcError> {
        let (operator, actor) = calling_operator(&context)?;
        let reach = if request.everybody {
            self.administers(operator, &actor, "fleet.v1.KeyService/ListKeys")
                .await?;
            Reach::Org
        } else {
            Reach::Own(operator.operator)
        };
        let now = self.app.environment.now();
        let keys = self
            .app
            .store
            .list_keys(operator.org, reach, KEYS_MOST, now)
            .await
            .map_err(Refusal::refusal)?;
        let shown = |key: fleet_store::OperatorKey| OperatorKey {
            key_id: key.id.0,
            operator_id: key.operator.0,
            email: key.email,
            name: key.name,
            created_at: Some(timestamp(key.created_at)),
            last_used_at: key.last_used_at.map(timestamp),
            expires_at: key.expires_at.map(timestamp),
            current: operator.credential == Credential::Key(key.id),
        };
        Ok(Reply::new(ListKeysResponse {
            keys: keys.into_iter().map(shown).collect(),
        }))
    }

    async fn create_key(
        &self,
        context: Context,
        request: CreateKeyRequest,
    ) -> Result<Reply<CreateKeyResponse>, RpcError> {
        let subject = format!("key {}", printable(&request.name, 64));
        let (operator, attempt, now) = self.attempt(&context, "operator.create_key", subject)?;
        if request.name.chars().any(char::is_control) {
            return Err(RpcError::invalid_argument(format!(
                "name is `{}`, with control characters in it: choose another one",
                printable(&request.name, 64)
            )));
        }
        let owner = OperatorId(request.operator_id);
        let owner = if request.operator_id == 0 || owner == operator.operator {
            operator.operator
        } else {
            let path = "fleet.v1.KeyService/CreateKey";
            self.administers(operator, &attempt.actor, path).await?;
            owner
        };
        let expires_at = request.expires_in.map(|wanted| now.plus(whole(&wanted)));
        let key = self.app.environment.secret(SecretKind::OperatorKey);
        let new = NewKey {
            operator: owner,
            name: request.name,
            hash: key.hash(),
            expires_at,
        };
        let actor = attempt.actor.clone();
        let made = self
            .app
            .store
            .create_key(operator.org, new, actor, now)
            .await;
        let id = self.or_refused(attempt, made).await?;
        Ok(Reply::new(CreateKeyResponse {
            key_id: id.0,
            key: key.expose().to_owned(),
            expires_at: expires_at.map(timestamp),
        }))
    }

    async fn revoke_key(
        &self,
        context: Context,
        request: RevokeKeyRequest,
    ) -> Result<Reply<RevokeKeyResponse>, RpcError> {
        let id = KeyId(request.key_id);
        let (operator, attempt, now) =
            self.attempt(&context, "operator.revoke_key", format!("key {id}"))?;
        let (reach, actor) = (reach(operator), attempt.actor.clone());
        let store = &self.app.store;
        let revoked = store.revoke_key(operator.org, reach, id, actor, now).await;
        self.or_refused(attempt, revoked).await?;
        Ok(Reply::new(RevokeKeyResponse {}))
    }

    async fn rotate_key(
        &self,
        context: Context,
        request: RotateKeyRequest,
    ) -> Result<Reply<RotateKeyResponse>, RpcError> {
        let id = KeyId(request.key_id);
        let (operator, attempt, now) =
            self.attempt(&context, "operator.rotate_key", format!("key {id}"))?;
        let grace = request.grace.as_ref().map_or(Duration::ZERO, whole);
        let old_until = now.plus(grace.min(limits::KEY_GRACE_MOST));
        let key = self.app.environment.secret(SecretKind::OperatorKey);
        let (reach, actor) = (reach(operator), attempt.actor.clone());
        let store = &self.app.store;
        let rotation = Rotation {
            key: id,
            hash: key.hash(),
            old_until,
        };
        let rotated = store
            .rotate_key(operator.org, reach, rotation, actor, now)
            .await;
        let made = self.or_refused(attempt, rotated).await?;
        Ok(Reply::new(RotateKeyResponse {
            key_id: made.0,
            key: key.expose().to_owned(),
            old_key_ends_at: Some(timestamp(old_until)),
        }))
    }
}

impl Accounts {
    /// Refuses, with a record, who may look after their own keys only.
    async fn administers(
        &self,
        operator: &OperatorIdentity,
        actor: &Actor,
        path: &str,
    ) -> Result<(), RpcError> {
        let from = actor
            .from
            .unwrap_or(std::net::IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED));
        permit(&self.app, operator, Permission::OrgAdmin, path, from).await
    }
}

impl OperatorService for Accounts {
    async fn list_operators(
        &self,
        context: Context,
        _: ListOperatorsRequest,
    ) -> Result<Reply<ListOperatorsResponse>, RpcError> {
        let (operator, _) = calling_operator(&context)?;
        let now = self.app.environment.now();
        let members = self.app.store.list_members(operator.org, now).await;
        let shown = |member: fleet_store::Member| Operator {
            operator_id: member.id.0,
            email: member.email,
            role: member.role.to_string(),
            created_at: Some(timestamp(member.created_at)),
            has_password: member.has_password,
            keys: member.keys,
        };
        let members = members.map_err(Refusal::refusal)?;
        Ok(Reply::new(ListOperatorsResponse {
            operators: members.into_iter().map(shown).collect(),
        }))
    }

    async fn create_operator(
        &self,
        context: Context,
        request: CreateOperatorRequest,
    ) -> Result<Reply<CreateOperatorResponse>, RpcError> {
        let email = request.email.trim();
        let subject = format!("operator {}", printable(email, 200));
        let (operator, attempt, now) = self.attempt(&context, "operator.create", subject)?;
        let is_email = email.split_once('@').is_some_and(|(name, host)| {
            !name.is_empty()
                && !host.is_empty()
                && !email.chars().any(|c| c.is_control() || c.is_whitespace())
        });
        if !is_email {
            return Err(RpcError::invalid_argument(format!(
                "email is `{}`: write it as name@example.org",
                printable(email, 254)
            )));
        }
        let role = role(&request.role)?;
        let (password, hash) = self.one_time(now).await?;
        let expires_at = hash.one_time_until.map(timestamp);
        let new = NewOperator {
            org: operator.org_name.clone(),
            email: email.to_owned(),
            role,
            now,
        };
        let actor = attempt.actor.clone();
        let created = self
            .app
            .store
            .create_operator_with(new, Some(hash), actor)
            .await;
        let id = self.or_refused(attempt, created).await?;
        Ok(Reply::new(CreateOperatorResponse {
            operator_id: id.0,
            one_time_password: password.expose().to_owned(),
            expires_at,
        }))
    }

    async fn set_operator_role(
        &self,
        context: Context,
        request: SetOperatorRoleRequest,
    ) -> Result<Reply<SetOperatorRoleResponse>, RpcError> {
        let id = OperatorId(request.operator_id);
        let role = role(&request.role)?;
        let subject = format!("operator {id} to {role}");
        let (operator, attempt, now) = self.attempt(&context, "operator.set_role", subject)?;
        let actor = attempt.actor.clone();
        let store = &self.app.store;
        let set = store.set_role(operator.org, id, role, actor, now).await;
        self.or_refused(attempt, set).await?;
        Ok(Reply::new(SetOperatorRoleResponse {}))
    }

    async fn remove_operator(
        &self,
        context: Context,
        request: RemoveOperatorRequest,
    ) -> Result<Reply<RemoveOperatorResponse>, RpcError> {
        let id = OperatorId(request.operator_id);
        let subject = format!("operator {id}");
        let (operator, attempt, now) = self.attempt(&context, "operator.remove", subject)?;
        let actor = attempt.actor.clone();
        let store = &self.app.store;
        let removed = store.remove_member(operator.org, id, actor, now).await;
        self.or_refused(attempt, removed).await?;
        Ok(Reply::new(RemoveOperatorResponse {}))
    }

    async fn reset_operator_password(
        &self,
        context: Context,
        request: ResetOperatorPasswordRequest,
    ) -> Result<Reply<ResetOperatorPasswordResponse>, RpcError> {
        let id = OperatorId(request.operator_id);
        let subject = format!("operator {id}");
        let (operator, attempt, now) =
            self.attempt(&context, "operator.reset_password", subject)?;
        let (password, hash) = self.one_time(now).await?;
        let expires_at = hash.one_time_until.map(timestamp);
        let (org, actor) = (Some(operator.org), attempt.actor.clone());
        let store = &self.app.store;
        let set = store.set_password(org, id, hash, None, actor, now).await;
        self.or_refused(attempt, set).await?;
        Ok(Reply::new(ResetOperatorPasswordResponse {
            one_time_password: password.expose().to_owned(),
            expires_at,
        }))
    }
}

/// A password that somebody chooses, or what is wrong with it.
pub(crate) fn chosen(text: Zeroizing<String>, email: &str) -> Result<Password, RpcError> {
    Password::chosen(text, email).map_err(|weak| RpcError::invalid_argument(weak.to_string()))
}

/// What is said to who tries too many passwords.
pub(crate) fn too_many_passwords(wait: Duration) -> RpcError {
    RpcError::resource_exhausted(format!(
        "too many passwords were tried: try again in {} s",
        wait.as_secs() + 1
    ))
    .with_retry_after(wait)
}

/// An operator as the author of a action that begins without a credential.
pub(crate) fn author(operator: OperatorId, from: std::net::IpAddr) -> Actor {
    Actor {
        who: Who::Operator(operator),
        from: Some(from),
    }
}

fn reach(operator: &OperatorIdentity) -> Reach {
    if operator.role.may(Permission::OrgAdmin) {
        Reach::Org
    } else {
        Reach::Own(operator.operator)
    }
}

fn role(text: &str) -> Result<Role, RpcError> {
    Role::from_str(text).map_err(|error| RpcError::invalid_argument(format!("role: {error}")))
}

/// The whole seconds of a duration whose bounds were checked.
fn whole(duration: &fleet_wire::Duration) -> Duration {
    Duration::from_secs(u64::try_from(duration.seconds).unwrap_or(0))
}
