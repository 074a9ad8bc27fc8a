//! `fleet.v1.NodeService`: nodes and enrollment codes.

use fleet_core::{PendingEnrollmentId, Timestamp};
use fleet_store::NodeRow;
use fleet_wire::{
    Context, Reply, RpcError,
    fleet::{
        self, CancelEnrollmentCodeRequest, CancelEnrollmentCodeResponse,
        ListEnrollmentCodesRequest, ListEnrollmentCodesResponse, ListNodesRequest,
        ListNodesResponse, ListRevokedNodesRequest, ListRevokedNodesResponse, NodeService,
    },
};

use super::Api;
use crate::{convert, failure::Answered};

impl NodeService for Api {
    async fn list_nodes(
        &self,
        context: Context,
        _: ListNodesRequest,
    ) -> Result<Reply<ListNodesResponse>, RpcError> {
        let call = self.operator(&context)?;
        let rows = self.app.store.list_nodes(call.org).await.answered()?;
        let node = |row| self.node(row, call.now);
        Ok(Reply::new(ListNodesResponse {
            nodes: rows.into_iter().map(node).collect(),
        }))
    }

    async fn list_revoked_nodes(
        &self,
        context: Context,
        _: ListRevokedNodesRequest,
    ) -> Result<Reply<ListRevokedNodesResponse>, RpcError> {
        let call = self.operator(&context)?;
        let rows = self.app.store.list_revoked_nodes(call.org).await;
        let node = |row| self.node(row, call.now);
        Ok(Reply::new(ListRevokedNodesResponse {
            nodes: rows.answered()?.into_iter().map(node).collect(),
        }))
    }

    async fn list_enrollment_codes(
        &self,
        context: Context,
        _: ListEnrollmentCodesRequest,
    ) -> Result<Reply<ListEnrollmentCodesResponse>, RpcError> {
        let call = self.operator(&context)?;
        let rows = self.app.store.list_codes(call.org).await.answered()?;
        Ok(Reply::new(ListEnrollmentCodesResponse {
            codes: rows.into_iter().map(convert::invitation).collect(),
        }))
    }

    async fn cancel_enrollment_code(
        &self,
        context: Context,
        request: CancelEnrollmentCodeRequest,
    ) -> Result<Reply<CancelEnrollmentCodeResponse>, RpcError> {
        let call = self.operator(&context)?;
        let id = PendingEnrollmentId(request.pending_enrollment_id);
        let store = &self.app.store;
        let canceled = store.cancel_code(call.org, id, call.actor(), call.now);
        call.attempt("code.cancel", format!("enrollment code {id}"))
            .or_refused(&self.app.auditor, canceled.await)
            .await?;
        Ok(Reply::new(CancelEnrollmentCodeResponse {}))
    }
}

impl Api {
    fn node(&self, row: NodeRow, now: Timestamp) -> fleet::Node {
        let (online, connected) = (self.app.is_online(&row, now), self.app.is_connected(&row));
        convert::node(row, online, connected)
    }
}
