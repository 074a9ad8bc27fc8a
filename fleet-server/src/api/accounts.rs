//! `fleet.v1.AccountService`: the caller's own account. Sign-in is plain HTTP, in [`crate::http`].

use fleet_core::{BrowserSessionId, Password, Permission};
use fleet_store::{Credential, MemberSession, PasswordHash};
use fleet_wire::{
    Context, Reply, RpcError,
    fleet::{
        AccountService, BrowserSession, ChangePasswordRequest, ChangePasswordResponse,
        EndSessionRequest, EndSessionResponse, ListSessionsRequest, ListSessionsResponse,
        WhoAmIRequest, WhoAmIResponse,
    },
};
use zeroize::Zeroizing;

use super::Api;
use crate::{
    auth::permit,
    convert::timestamp,
    failure::Answered,
    passwords::{PASSWORDS, Source, chosen, passwords_off},
};

/// Maximum number of sessions in a list of all operators.
const SESSIONS_MOST: u32 = 10_000;

impl AccountService for Api {
    async fn who_am_i(
        &self,
        context: Context,
        _: WhoAmIRequest,
    ) -> Result<Reply<WhoAmIResponse>, RpcError> {
        let call = self.operator(&context)?;
        let permissions = Permission::ALL
            .into_iter()
            .filter(|permission| call.role.may(*permission));
        Ok(Reply::new(WhoAmIResponse {
            email: call.email.clone(),
            organization: call.org_name.clone(),
            role: call.role.to_string(),
            permissions: permissions
                .map(|permission| permission.to_string())
                .collect(),
            server_version: self.app.config.version.clone(),
        }))
    }

    async fn list_sessions(
        &self,
        context: Context,
        request: ListSessionsRequest,
    ) -> Result<Reply<ListSessionsResponse>, RpcError> {
        let call = self.operator(&context)?;
        let store = &self.app.store;
        let sessions = if request.all_operators {
            let path = "fleet.v1.AccountService/ListSessions";
            permit(&self.app, &call, Permission::OrgAdmin, path, call.from).await?;
            let listed = store.list_member_sessions(call.org, SESSIONS_MOST, call.now);
            listed.await.answered()?
        } else {
            let own = store.list_browser_sessions(call.operator, call.now).await;
            let own = own.answered()?.into_iter();
            own.map(|session| MemberSession {
                operator: call.operator,
                email: call.email.clone(),
                session,
            })
            .collect()
        };
        let shown = |member: MemberSession| BrowserSession {
            session_id: member.session.id.0,
            created_at: Some(timestamp(member.session.created_at)),
            expires_at: Some(timestamp(member.session.expires_at)),
            from_address: member
                .session
                .from
                .map(|from| from.to_string())
                .unwrap_or_default(),
            user_agent: member.session.agent,
            key_id: member.session.key.map_or(0, |key| key.0),
            current: call.credential == Credential::Session(member.session.id),
            operator_id: member.operator.0,
            email: member.email,
            sign_in_issuer: member.session.issuer.unwrap_or_default(),
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
        let call = self.operator(&context)?;
        let id = BrowserSessionId(request.session_id);
        let store = &self.app.store;
        let ended = if call.role.may(Permission::OrgAdmin) {
            store
                .end_member_session(call.org, id, call.actor(), call.now)
                .await
        } else {
            store
                .end_browser_session(call.operator, id, call.actor(), call.now)
                .await
        };
        let ended = ended.answered()?.then_some(()).ok_or_else(|| {
            RpcError::not_found(format!(
                "no session {id} that you can end: `fleetctl sessions list` shows your sessions"
            ))
            .with_reason("SESSION_NOT_FOUND")
            .with_fact("session_id", id)
        });
        call.attempt("operator.end_session", format!("session {id}"))
            .or_refused(&self.app.auditor, ended)
            .await?;
        self.app.notify_credentials(call.org);
        Ok(Reply::new(EndSessionResponse {}))
    }

    async fn change_password(
        &self,
        context: Context,
        request: ChangePasswordRequest,
    ) -> Result<Reply<ChangePasswordResponse>, RpcError> {
        let call = self.operator(&context)?;
        let attempt = call.attempt("operator.set_password", "own password");
        if !self.app.config.password_sign_in {
            let refused = passwords_off();
            return Err(attempt.refused(&self.app.auditor, refused).await);
        }
        let current = Password::presented(Zeroizing::new(request.current_password));
        let new = chosen(Zeroizing::new(request.new_password), &call.email)?;
        if let Some(limits) = &self.app.limiters {
            let key = ("change", call.operator.0);
            limits
                .passwords_of_an_account
                .allow(key, PASSWORDS, self.app.environment.instant())?;
        }
        let store = &self.app.store;
        let account = store.account_in(Some(&call.org_name), &call.email, None);
        let stored = account
            .await
            .answered()?
            .and_then(|account| account.password);
        let stored = stored.map(|stored| stored.phc);
        // Without a password, the call comes from a key, or from a session that a key opened. A key must not become a
        // password, which outlives it.
        let Some(stored) = stored else {
            let first = RpcError::failed_precondition(
                "this account has no password, and a key cannot set the first one: ask an administrator for a one-time password (`fleetctl operators reset-password`), or use `fleetd admin reset-password`",
            ).with_reason("PASSWORD_NOT_SET");
            return Err(attempt.refused(&self.app.auditor, first).await);
        };
        // An unreadable password is a wrong one: no check may be skipped because a value could not be read.
        let is_right = match current {
            Some(current) => {
                self.app
                    .passwords
                    .verify(current, Some(stored.clone()), Source::Known)
                    .await?
            }
            None => false,
        };
        if !is_right {
            let wrong = RpcError::failed_precondition(
                "the current password is wrong: if it is forgotten, an administrator can reset it",
            )
            .with_reason("PASSWORD_WRONG");
            return Err(attempt.refused(&self.app.auditor, wrong).await);
        }
        let salt = self.app.environment.random();
        let password = PasswordHash {
            phc: self.app.passwords.hash(new, salt).await?,
            one_time_until: None,
        };
        let keep = match call.credential {
            Credential::Session(session) => Some(session),
            Credential::Key(_) => None,
        };
        let (operator, actor) = (call.operator, call.actor());
        let set = store.replace_password(operator, Some(stored), password, keep, actor, call.now);
        attempt.or_refused(&self.app.auditor, set.await).await?;
        self.app.notify_credentials(call.org);
        Ok(Reply::new(ChangePasswordResponse {}))
    }
}
