//! `fleetnodeadmin.v1`: enrollment as operators do it, and discovery in the stock shape.

use std::sync::Arc;

use fleet_core::{NodeId, PendingEnrollmentId, SecretKind, limits};
use fleet_store::NewCode;
use fleet_wire::{
    BoxStream, Context, Reply, RpcError,
    admin::{
        ConfirmFleetNodeRequest, ConfirmFleetNodeResponse, CreateEnrollmentCodeRequest,
        CreateEnrollmentCodeResponse, DiscoverOnFleetNodeRequest, DiscoverOnFleetNodeResponse,
        FleetNodeAdminService, ListFleetNodeDevicesRequest, ListFleetNodeDevicesResponse,
        ListFleetNodeDiscoveredDevicesRequest, ListFleetNodeDiscoveredDevicesResponse,
        ListFleetNodesRequest, ListFleetNodesResponse, PairDeviceToFleetNodeRequest,
        PairDeviceToFleetNodeResponse, PairDiscoveredDevicesOnFleetNodeRequest,
        PairDiscoveredDevicesOnFleetNodeResponse, RevokeFleetNodeRequest, RevokeFleetNodeResponse,
        UnpairDeviceRequest, UnpairDeviceResponse,
    },
};

use crate::{
    app::App,
    audit::Attempt,
    auth::calling_operator,
    convert::{self, timestamp},
    discover,
    failure::Refusal,
};

/// The administration services.
#[derive(Clone, Debug)]
pub(crate) struct Admin {
    pub(crate) app: Arc<App>,
}

impl FleetNodeAdminService for Admin {
    async fn create_enrollment_code(
        &self,
        context: Context,
        request: CreateEnrollmentCodeRequest,
    ) -> Result<Reply<CreateEnrollmentCodeResponse>, RpcError> {
        let (operator, actor) = calling_operator(&context)?;
        let code = self.app.environment.secret(SecretKind::EnrollmentCode);
        let now = self.app.environment.now();
        let expires = now.plus(limits::CODE_LIFE);
        let replaces =
            (request.replaces_fleet_node_id != 0).then_some(NodeId(request.replaces_fleet_node_id));
        let attempt = Attempt {
            org: Some(operator.org),
            actor: actor.clone(),
            action: "code.create",
            subject: replaces.map_or_else(String::new, |node| format!("to replace node {node}")),
        };
        let new = NewCode {
            org: operator.org,
            code: code.hash(),
            expires,
            replaces,
            actor,
            now,
        };
        let id = match self.app.store.create_code(new).await {
            Ok(id) => id,
            Err(error) => return Err(attempt.refused(&self.app, error.refusal()).await),
        };
        Ok(Reply::new(CreateEnrollmentCodeResponse {
            code: code.expose().to_owned(),
            expires_at: Some(timestamp(expires)),
            pending_enrollment_id: id.0,
        }))
    }

    async fn list_fleet_nodes(
        &self,
        context: Context,
        _: ListFleetNodesRequest,
    ) -> Result<Reply<ListFleetNodesResponse>, RpcError> {
        let (operator, _) = calling_operator(&context)?;
        let rows = self
            .app
            .store
            .list_nodes(operator.org)
            .await
            .map_err(Refusal::refusal)?;
        Ok(Reply::new(ListFleetNodesResponse {
            fleet_nodes: rows.into_iter().map(convert::node_summary).collect(),
        }))
    }

    async fn confirm_fleet_node(
        &self,
        context: Context,
        request: ConfirmFleetNodeRequest,
    ) -> Result<Reply<ConfirmFleetNodeResponse>, RpcError> {
        let (operator, actor) = calling_operator(&context)?;
        let key = self.app.environment.secret(SecretKind::NodeKey);
        let (node, invitation) = (
            NodeId(request.fleet_node_id),
            PendingEnrollmentId(request.pending_enrollment_id),
        );
        let now = self.app.environment.now();
        let attempt = Attempt {
            org: Some(operator.org),
            actor: actor.clone(),
            action: "node.confirm",
            subject: format!("node {node}, enrollment code {invitation}"),
        };
        let confirmed = self
            .app
            .store
            .confirm_node(operator.org, node, invitation, key.hash(), actor, now)
            .await;
        if let Err(error) = confirmed {
            return Err(attempt.refused(&self.app, error.refusal()).await);
        }
        tracing::info!(%node, "node confirmed");
        Ok(Reply::new(ConfirmFleetNodeResponse {
            api_key: key.expose().to_owned(),
            expires_at: None,
        }))
    }

    async fn revoke_fleet_node(
        &self,
        context: Context,
        request: RevokeFleetNodeRequest,
    ) -> Result<Reply<RevokeFleetNodeResponse>, RpcError> {
        let (operator, actor) = calling_operator(&context)?;
        let node = NodeId(request.fleet_node_id);
        let invitation = request.pending_enrollment_id.map(PendingEnrollmentId);
        let attempt = Attempt {
            org: Some(operator.org),
            actor: actor.clone(),
            action: "node.revoke",
            subject: format!("node {node}"),
        };
        let (app, org) = (self.app.clone(), operator.org);
        let revoked = self.app.carry_through(async move {
            let now = app.environment.now();
            let revoked = app
                .store
                .revoke_node(org, node, invitation, actor, now)
                .await
                .map_err(Refusal::refusal)?;
            app.hub.revoked(node);
            for scan in revoked.scans {
                app.bells.ring(scan);
            }
            tracing::info!(%node, "node revoked");
            Ok(())
        });
        if let Err(error) = revoked.await {
            return Err(attempt.refused(&self.app, error).await);
        }
        Ok(Reply::new(RevokeFleetNodeResponse {}))
    }

    async fn discover_on_fleet_node(
        &self,
        context: Context,
        request: DiscoverOnFleetNodeRequest,
    ) -> Result<Reply<BoxStream<DiscoverOnFleetNodeResponse>>, RpcError> {
        let (operator, actor) = calling_operator(&context)?;
        discover::start(&self.app, operator, actor, request).await
    }

    async fn pair_device_to_fleet_node(
        &self,
        _: Context,
        _: PairDeviceToFleetNodeRequest,
    ) -> Result<Reply<PairDeviceToFleetNodeResponse>, RpcError> {
        Err(not_yet("PairDeviceToFleetNode"))
    }

    async fn unpair_device(
        &self,
        _: Context,
        _: UnpairDeviceRequest,
    ) -> Result<Reply<UnpairDeviceResponse>, RpcError> {
        Err(not_yet("UnpairDevice"))
    }

    async fn list_fleet_node_devices(
        &self,
        _: Context,
        _: ListFleetNodeDevicesRequest,
    ) -> Result<Reply<ListFleetNodeDevicesResponse>, RpcError> {
        // Nothing can be paired yet, so nothing is.
        Ok(Reply::new(ListFleetNodeDevicesResponse::default()))
    }

    async fn list_fleet_node_discovered_devices(
        &self,
        context: Context,
        request: ListFleetNodeDiscoveredDevicesRequest,
    ) -> Result<Reply<ListFleetNodeDiscoveredDevicesResponse>, RpcError> {
        let (operator, _) = calling_operator(&context)?;
        let limit = if request.limit == 0 {
            1_024
        } else {
            u32::try_from(request.limit).unwrap_or(1_024)
        };
        let node = (request.fleet_node_id != 0).then_some(NodeId(request.fleet_node_id));
        let rows = self
            .app
            .store
            .list_devices(
                operator.org,
                node,
                fleet_core::DeviceId(request.cursor),
                limit,
            )
            .await
            .map_err(Refusal::refusal)?;
        let next_cursor = rows
            .last()
            .filter(|_| rows.len() >= limit as usize)
            .map_or(0, |row| row.id.0);
        let devices = rows
            .into_iter()
            .filter(|row| row.node.is_some())
            .map(convert::discovered_device)
            .collect();
        Ok(Reply::new(ListFleetNodeDiscoveredDevicesResponse {
            devices,
            next_cursor,
        }))
    }

    async fn pair_discovered_devices_on_fleet_node(
        &self,
        _: Context,
        _: PairDiscoveredDevicesOnFleetNodeRequest,
    ) -> Result<Reply<BoxStream<PairDiscoveredDevicesOnFleetNodeResponse>>, RpcError> {
        Err(not_yet("PairDiscoveredDevicesOnFleetNode"))
    }
}

/// Pairing is not part of this version.
fn not_yet(procedure: &str) -> RpcError {
    RpcError::unimplemented(format!(
        "{procedure} is not served by this version: pairing comes with a later one"
    ))
}
