//! `fleet.v1.OperatorService`: the operators of an organization.

use std::str::FromStr;

use fleet_core::{OperatorId, Password, Role, limits};
use fleet_store::{NewOperator, PasswordHash};
use fleet_wire::{
    Context, Reply, RpcError,
    fleet::{
        CreateOperatorRequest, CreateOperatorResponse, ListOperatorsRequest, ListOperatorsResponse,
        Operator, OperatorService, RemoveOperatorRequest, RemoveOperatorResponse,
        ResetOperatorPasswordRequest, ResetOperatorPasswordResponse, SetOperatorRoleRequest,
        SetOperatorRoleResponse, UnlinkOperatorRequest, UnlinkOperatorResponse,
    },
};

use super::Api;
use crate::{
    call::OperatorCall,
    convert::{list_page, next_cursor, printable, timestamp},
    failure::Answered,
    passwords::passwords_off,
};

impl OperatorService for Api {
    async fn list_operators(
        &self,
        context: Context,
        request: ListOperatorsRequest,
    ) -> Result<Reply<ListOperatorsResponse>, RpcError> {
        let call = self.operator(&context)?;
        let page = list_page(request.limit, request.cursor);
        let members = self.app.store.list_members(call.org, page, call.now).await;
        let members = members.answered()?;
        let shown = |member: fleet_store::Member| Operator {
            operator_id: member.id.0,
            email: member.email,
            role: member.role.to_string(),
            created_at: Some(timestamp(member.created_at)),
            has_password: member.has_password,
            keys: member.keys,
            sign_in_issuer: member.issuer.unwrap_or_default(),
        };
        Ok(Reply::new(ListOperatorsResponse {
            next_cursor: next_cursor(&members, page, |member| member.id.0),
            operators: members.into_iter().map(shown).collect(),
        }))
    }

    async fn create_operator(
        &self,
        context: Context,
        request: CreateOperatorRequest,
    ) -> Result<Reply<CreateOperatorResponse>, RpcError> {
        let call = self.operator(&context)?;
        let email = request.email.trim();
        let is_email = email.split_once('@').is_some_and(|(name, host)| {
            !name.is_empty() && !host.is_empty() && !email.contains(char::is_whitespace)
        });
        if !is_email {
            return Err(RpcError::invalid_argument(format!(
                "email is `{}`: write it as name@example.org",
                printable(email, 254)
            ))
            .with_reason("INVALID_FIELD")
            .with_fact("field", "email")
            .with_fact("value", printable(email, 254)));
        }
        let role = role(&request.role)?;
        let one_time = if self.app.config.password_sign_in {
            Some(self.one_time_password(&call).await?)
        } else {
            None
        };
        let (password, hash) = one_time.unzip();
        let until = hash.as_ref().and_then(|hash| hash.one_time_until);
        let new = NewOperator {
            org: call.org_name.clone(),
            email: email.to_owned(),
            role,
            now: call.now,
        };
        let store = &self.app.store;
        let created = store.create_operator_with(new, hash, call.actor());
        let id = call
            .attempt(
                "operator.create",
                format!("operator {}", printable(email, 200)),
            )
            .or_refused(&self.app.auditor, created.await)
            .await?;
        Ok(Reply::new(CreateOperatorResponse {
            operator_id: id.0,
            one_time_password: password
                .map_or_else(String::new, |password| password.expose().to_owned()),
            expires_at: until.map(timestamp),
        }))
    }

    async fn set_operator_role(
        &self,
        context: Context,
        request: SetOperatorRoleRequest,
    ) -> Result<Reply<SetOperatorRoleResponse>, RpcError> {
        let call = self.operator(&context)?;
        let (id, role) = (OperatorId(request.operator_id), role(&request.role)?);
        let store = &self.app.store;
        let set = store.set_role(call.org, id, role, call.actor(), call.now);
        call.attempt("operator.set_role", format!("operator {id} to {role}"))
            .or_refused(&self.app.auditor, set.await)
            .await?;
        self.app.notify_credentials(call.org);
        Ok(Reply::new(SetOperatorRoleResponse {}))
    }

    async fn remove_operator(
        &self,
        context: Context,
        request: RemoveOperatorRequest,
    ) -> Result<Reply<RemoveOperatorResponse>, RpcError> {
        let call = self.operator(&context)?;
        let id = OperatorId(request.operator_id);
        let store = &self.app.store;
        let removed = store.remove_member(call.org, id, call.actor(), call.now);
        call.attempt("operator.remove", format!("operator {id}"))
            .or_refused(&self.app.auditor, removed.await)
            .await?;
        self.app.notify_credentials(call.org);
        Ok(Reply::new(RemoveOperatorResponse {}))
    }

    async fn reset_operator_password(
        &self,
        context: Context,
        request: ResetOperatorPasswordRequest,
    ) -> Result<Reply<ResetOperatorPasswordResponse>, RpcError> {
        let call = self.operator(&context)?;
        let id = OperatorId(request.operator_id);
        if id == call.operator {
            // Otherwise a stolen key that expires would open the account for good.
            let refused = RpcError::failed_precondition(
                "you cannot reset your own password: `fleetctl password` changes it, and another administrator can reset it",
            ).with_reason("OWN_PASSWORD");
            let attempt = call.attempt("operator.reset_password", format!("operator {id}"));
            return Err(attempt.refused(&self.app.auditor, refused).await);
        }
        if !self.app.config.password_sign_in {
            let attempt = call.attempt("operator.reset_password", format!("operator {id}"));
            return Err(attempt.refused(&self.app.auditor, passwords_off()).await);
        }
        let (password, hash) = self.one_time_password(&call).await?;
        let expires_at = hash.one_time_until.map(timestamp);
        let store = &self.app.store;
        let set = store.set_password(Some(call.org), id, hash, None, call.actor(), call.now);
        call.attempt("operator.reset_password", format!("operator {id}"))
            .or_refused(&self.app.auditor, set.await)
            .await?;
        self.app.notify_credentials(call.org);
        Ok(Reply::new(ResetOperatorPasswordResponse {
            one_time_password: password.expose().to_owned(),
            expires_at,
        }))
    }

    async fn unlink_operator(
        &self,
        context: Context,
        request: UnlinkOperatorRequest,
    ) -> Result<Reply<UnlinkOperatorResponse>, RpcError> {
        let call = self.operator(&context)?;
        let id = OperatorId(request.operator_id);
        let store = &self.app.store;
        let unlinked = store.unlink_member(call.org, id, call.actor(), call.now);
        call.attempt("operator.unlink", format!("operator {id}"))
            .or_refused(&self.app.auditor, unlinked.await)
            .await?;
        self.app.notify_credentials(call.org);
        Ok(Reply::new(UnlinkOperatorResponse {}))
    }
}

impl Api {
    /// A new one-time password, to show and to store.
    async fn one_time_password(
        &self,
        call: &OperatorCall,
    ) -> Result<(Password, PasswordHash), RpcError> {
        let password = Password::one_time(&self.app.environment.random());
        let salt = self.app.environment.random();
        let hash = PasswordHash {
            phc: self.app.passwords.hash(password.clone(), salt).await?,
            one_time_until: Some(call.now.plus(limits::ONE_TIME_PASSWORD_LIFE)),
        };
        Ok((password, hash))
    }
}

fn role(text: &str) -> Result<Role, RpcError> {
    Role::from_str(text).map_err(|error| {
        RpcError::invalid_argument(format!("role: {error}"))
            .with_reason("INVALID_FIELD")
            .with_fact("field", "role")
            .with_fact("value", printable(text, 64))
    })
}
