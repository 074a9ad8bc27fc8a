//! `fleet.v1.NodeKeyService` and `NodeConfirmationService`: a node of ours fetches its API key itself after an operator
//! has compared its fingerprint.

use ed25519_dalek::{Signature, VerifyingKey};
use fleet_core::{NodeId, PendingEnrollmentId, SecretKind, key_statement};
use fleet_store::{FetchKeyError, FetchingNode, KeyAnswer, KeyRequest};
use fleet_wire::{
    Context, Reply, RpcError,
    fleet::{
        ConfirmFetchingNodeRequest, ConfirmFetchingNodeResponse, FetchNodeKeyRequest,
        FetchNodeKeyResponse, NodeConfirmationService, NodeKeyService, NodeKeyState,
    },
};

use super::Api;
use crate::{
    audit::Attempt,
    auth::calling_address,
    failure::{Answered, Refusal},
    sealed_key,
};

impl NodeConfirmationService for Api {
    async fn confirm_fetching_node(
        &self,
        context: Context,
        request: ConfirmFetchingNodeRequest,
    ) -> Result<Reply<ConfirmFetchingNodeResponse>, RpcError> {
        let call = self.operator(&context)?;
        let node = NodeId(request.fleet_node_id);
        let code = PendingEnrollmentId(request.pending_enrollment_id);
        let store = &self.app.store;
        let confirmed = store.confirm_fetching_node(call.org, node, code, call.actor(), call.now);
        call.attempt(
            "node.confirm",
            format!("node {node}, enrollment code {code}"),
        )
        .or_refused(&self.app.auditor, confirmed.await)
        .await?;
        tracing::info!(%node, "node confirmed; it fetches its API key");
        Ok(Reply::new(ConfirmFetchingNodeResponse {}))
    }
}

impl NodeKeyService for Api {
    async fn fetch_node_key(
        &self,
        context: Context,
        request: FetchNodeKeyRequest,
    ) -> Result<Reply<FetchNodeKeyResponse>, RpcError> {
        let from = calling_address(&self.app, &context);
        if let Some(limits) = &self.app.limiters {
            let now = self.app.environment.instant();
            limits
                .key_fetches
                .allow(from, "requests for API keys", now)?;
        }
        let id = NodeId(request.fleet_node_id);
        let store = &self.app.store;
        let node = store.fetching_node(id).await.answered()?;
        let mut attempt = Attempt::anonymous(from, "node.fetch_key", format!("node {id}"));
        let statement = key_statement(id, request.sequence);
        // The same answer for an unknown node and for a wrong signature, so guesses learn nothing.
        let signed = node.filter(|node| is_signed(node, &statement, &request.signature));
        let Some(node) = signed else {
            let refused = FetchKeyError::NotFound.refusal();
            return Err(attempt.refused(&self.app.auditor, refused).await);
        };
        attempt.org = Some(node.org);
        let key = self.app.environment.secret(SecretKind::NodeKey);
        let wanted = KeyRequest {
            node: id,
            sequence: request.sequence,
            key: key.hash(),
            from,
            now: self.app.environment.now(),
        };
        let answer = store.fetch_key(wanted).await;
        let answer = attempt.or_refused(&self.app.auditor, answer).await?;
        Ok(Reply::new(match answer {
            KeyAnswer::AwaitingConfirmation => state(NodeKeyState::AwaitingConfirmation),
            KeyAnswer::Pasted => state(NodeKeyState::Pasted),
            KeyAnswer::Fetched => {
                tracing::info!(node = %id, "node fetched its API key");
                let sealed = sealed_key::seal(&node.encryption_key, &key, &statement)?;
                FetchNodeKeyResponse {
                    sealed_key: sealed.into(),
                    ..state(NodeKeyState::Fetched)
                }
            }
        }))
    }
}

fn state(state: NodeKeyState) -> FetchNodeKeyResponse {
    FetchNodeKeyResponse {
        state: state.into(),
        ..FetchNodeKeyResponse::default()
    }
}

fn is_signed(node: &FetchingNode, statement: &[u8], signature: &[u8]) -> bool {
    let key = VerifyingKey::from_bytes(&node.identity_key);
    let signature = Signature::from_slice(signature);
    match (key, signature) {
        (Ok(key), Ok(signature)) => key.verify_strict(statement, &signature).is_ok(),
        _ => false,
    }
}
