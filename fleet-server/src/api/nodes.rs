//! `fleet.v1.NodeService`: nodes and enrollment codes.

use fleet_core::{NodeId, PendingEnrollmentId, SiteId, Timestamp};
use fleet_store::NodeRow;
use fleet_wire::{
    Context, Reply, RpcError,
    fleet::{
        self, CancelEnrollmentCodeRequest, CancelEnrollmentCodeResponse,
        ListEnrollmentCodesRequest, ListEnrollmentCodesResponse, ListNodesRequest,
        ListNodesResponse, ListRevokedNodesRequest, ListRevokedNodesResponse, MoveNodeRequest,
        MoveNodeResponse, NodeService, RenameNodeRequest, RenameNodeResponse,
    },
};

use super::Api;
use crate::{convert, failure::Answered};

impl NodeService for Api {
    async fn list_nodes(
        &self,
        context: Context,
        request: ListNodesRequest,
    ) -> Result<Reply<ListNodesResponse>, RpcError> {
        let call = self.operator(&context)?;
        let page = convert::list_page(request.limit, request.cursor);
        let rows = self.app.store.list_nodes(call.org, page).await;
        let rows = rows.answered()?;
        let node = |row| self.node(row, call.now);
        Ok(Reply::new(ListNodesResponse {
            next_cursor: convert::next_cursor(&rows, page, |row| row.id.0),
            nodes: rows.into_iter().map(node).collect(),
        }))
    }

    async fn list_revoked_nodes(
        &self,
        context: Context,
        request: ListRevokedNodesRequest,
    ) -> Result<Reply<ListRevokedNodesResponse>, RpcError> {
        let call = self.operator(&context)?;
        let page = convert::list_page(request.limit, request.cursor);
        let rows = self.app.store.list_revoked_nodes(call.org, page).await;
        let rows = rows.answered()?;
        let node = |row| self.node(row, call.now);
        Ok(Reply::new(ListRevokedNodesResponse {
            next_cursor: convert::next_cursor(&rows, page, |row| row.id.0),
            nodes: rows.into_iter().map(node).collect(),
        }))
    }

    async fn list_enrollment_codes(
        &self,
        context: Context,
        request: ListEnrollmentCodesRequest,
    ) -> Result<Reply<ListEnrollmentCodesResponse>, RpcError> {
        let call = self.operator(&context)?;
        let page = convert::list_page(request.limit, request.cursor);
        let rows = self.app.store.list_codes(call.org, page).await;
        let rows = rows.answered()?;
        Ok(Reply::new(ListEnrollmentCodesResponse {
            next_cursor: convert::next_cursor(&rows, page, |row| row.id.0),
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

    async fn move_node(
        &self,
        context: Context,
        request: MoveNodeRequest,
    ) -> Result<Reply<MoveNodeResponse>, RpcError> {
        let call = self.operator(&context)?;
        let node = NodeId(request.fleet_node_id);
        let to = (request.site_id != 0).then_some(SiteId(request.site_id));
        let subject = match to {
            Some(site) => format!("node {node} to site {site}"),
            None => format!("node {node} to a site of its own"),
        };
        let store = &self.app.store;
        let moved = store.move_node(call.org, node, to, call.actor(), call.now);
        let site = call
            .attempt("node.move", subject)
            .or_refused(&self.app.auditor, moved.await)
            .await?;
        Ok(Reply::new(MoveNodeResponse { site_id: site.0 }))
    }

    async fn rename_node(
        &self,
        context: Context,
        request: RenameNodeRequest,
    ) -> Result<Reply<RenameNodeResponse>, RpcError> {
        let call = self.operator(&context)?;
        let node = NodeId(request.fleet_node_id);
        let subject = format!("node {node} to {}", request.name);
        let store = &self.app.store;
        let renamed = store.rename_node(call.org, node, request.name, call.actor(), call.now);
        call.attempt("node.rename", subject)
            .or_refused(&self.app.auditor, renamed.await)
            .await?;
        Ok(Reply::new(RenameNodeResponse {}))
    }
}

impl Api {
    fn node(&self, row: NodeRow, now: Timestamp) -> fleet::Node {
        let (online, connected) = (self.app.is_online(&row, now), self.app.is_connected(&row));
        convert::node(row, online, connected)
    }
}
