//! `fleet.v1.KeyService`: API keys of operators.

use std::time::Duration;

use fleet_core::{KeyId, OperatorId, Permission, SecretKind, limits};
use fleet_store::{Credential, KeyScope, NewKey, Rotation};
use fleet_wire::{
    Context, Reply, RpcError,
    fleet::{
        CreateKeyRequest, CreateKeyResponse, KeyService, ListKeysRequest, ListKeysResponse,
        OperatorKey, RevokeKeyRequest, RevokeKeyResponse, RotateKeyRequest, RotateKeyResponse,
    },
};

use super::Api;
use crate::{auth::permit, call::OperatorCall, convert::timestamp, failure::Answered};

/// Maximum number of keys in one list.
const KEYS_MOST: u32 = 10_000;

impl KeyService for Api {
    async fn list_keys(
        &self,
        context: Context,
        request: ListKeysRequest,
    ) -> Result<Reply<ListKeysResponse>, RpcError> {
        let call = self.operator(&context)?;
        let reach = if request.all_operators {
            self.administers(&call, "fleet.v1.KeyService/ListKeys")
                .await?;
            KeyScope::Org
        } else {
            KeyScope::Own(call.operator)
        };
        let store = &self.app.store;
        let keys = store.list_keys(call.org, reach, KEYS_MOST, call.now);
        let shown = |key: fleet_store::OperatorKey| OperatorKey {
            key_id: key.id.0,
            operator_id: key.operator.0,
            email: key.email,
            name: key.name,
            created_at: Some(timestamp(key.created_at)),
            last_used_at: key.last_used_at.map(timestamp),
            expires_at: key.expires_at.map(timestamp),
            current: call.credential == Credential::Key(key.id),
            made_by_key_id: key.made_by.map_or(0, |maker| maker.0),
        };
        Ok(Reply::new(ListKeysResponse {
            keys: keys.await.answered()?.into_iter().map(shown).collect(),
        }))
    }

    async fn create_key(
        &self,
        context: Context,
        request: CreateKeyRequest,
    ) -> Result<Reply<CreateKeyResponse>, RpcError> {
        let call = self.operator(&context)?;
        let subject = format!("key {}", request.name);
        let owner = match OperatorId(request.operator_id) {
            OperatorId(0) => call.operator,
            owner if owner == call.operator => owner,
            owner => {
                self.administers(&call, "fleet.v1.KeyService/CreateKey")
                    .await?;
                owner
            }
        };
        let expires_at = request
            .expires_in
            .map(|duration| call.now.plus(whole(&duration)));
        let key = self.app.environment.secret(SecretKind::OperatorKey);
        let new = NewKey {
            operator: owner,
            name: request.name,
            hash: key.hash(),
            expires_at,
            maker: Some(call.credential),
        };
        let store = &self.app.store;
        let created = store.create_key(call.org, new, call.actor(), call.now);
        let created = call
            .attempt("operator.create_key", subject)
            .or_refused(&self.app.auditor, created.await)
            .await?;
        Ok(Reply::new(CreateKeyResponse {
            key_id: created.id.0,
            key: key.expose().to_owned(),
            expires_at: created.expires_at.map(timestamp),
        }))
    }

    async fn revoke_key(
        &self,
        context: Context,
        request: RevokeKeyRequest,
    ) -> Result<Reply<RevokeKeyResponse>, RpcError> {
        let call = self.operator(&context)?;
        let id = KeyId(request.key_id);
        let store = &self.app.store;
        let revoked = store.revoke_key(call.org, reach(&call), id, call.actor(), call.now);
        call.attempt("operator.revoke_key", format!("key {id}"))
            .or_refused(&self.app.auditor, revoked.await)
            .await?;
        self.app.notify_credentials(call.org);
        Ok(Reply::new(RevokeKeyResponse {}))
    }

    async fn rotate_key(
        &self,
        context: Context,
        request: RotateKeyRequest,
    ) -> Result<Reply<RotateKeyResponse>, RpcError> {
        let call = self.operator(&context)?;
        let id = KeyId(request.key_id);
        let grace = request.grace.as_ref().map_or(Duration::ZERO, whole);
        let old_until = call.now.plus(grace.min(limits::KEY_GRACE_MOST));
        let key = self.app.environment.secret(SecretKind::OperatorKey);
        let rotation = Rotation {
            key: id,
            hash: key.hash(),
            old_until,
            maker: Some(call.credential),
        };
        let store = &self.app.store;
        let rotated = store.rotate_key(call.org, reach(&call), rotation, call.actor(), call.now);
        let new = call
            .attempt("operator.rotate_key", format!("key {id}"))
            .or_refused(&self.app.auditor, rotated.await)
            .await?;
        self.app.notify_credentials(call.org);
        Ok(Reply::new(RotateKeyResponse {
            key_id: new.0,
            key: key.expose().to_owned(),
            old_key_expires_at: Some(timestamp(old_until)),
        }))
    }
}

impl Api {
    /// Refuses, with an audit record, an operator who may manage only their own keys.
    async fn administers(&self, call: &OperatorCall, path: &str) -> Result<(), RpcError> {
        permit(&self.app, call, Permission::OrgAdmin, path, call.from).await
    }
}

/// The keys that the caller may revoke and rotate.
fn reach(call: &OperatorCall) -> KeyScope {
    if call.role.may(Permission::OrgAdmin) {
        KeyScope::Org
    } else {
        KeyScope::Own(call.operator)
    }
}

/// The whole seconds of a duration whose bounds were checked.
fn whole(duration: &fleet_wire::Duration) -> Duration {
    Duration::from_secs(u64::try_from(duration.seconds).unwrap_or(0))
}
