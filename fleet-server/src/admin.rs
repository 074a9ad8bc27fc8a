//! `fleetnodeadmin.v1`: enrollment as operators do it, and discovery in the upstream shape.

use std::sync::Arc;

use fleet_core::{DeviceId, NodeId, PendingEnrollmentId, SecretKind, limits};
use fleet_store::{DevicePairing, NewCode};
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
    pair,
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
        context: Context,
        request: PairDeviceToFleetNodeRequest,
    ) -> Result<Reply<PairDeviceToFleetNodeResponse>, RpcError> {
        let (operator, actor) = calling_operator(&context)?;
        let (node, device) = (NodeId(request.fleet_node_id), DeviceId(request.device_id));
        pair::bind(&self.app, operator, actor, node, device).await?;
        Ok(Reply::new(PairDeviceToFleetNodeResponse {}))
    }

    async fn unpair_device(
        &self,
        context: Context,
        request: UnpairDeviceRequest,
    ) -> Result<Reply<UnpairDeviceResponse>, RpcError> {
        let (operator, actor) = calling_operator(&context)?;
        pair::unbind(&self.app, operator, actor, DeviceId(request.device_id)).await?;
        Ok(Reply::new(UnpairDeviceResponse {}))
    }

    async fn list_fleet_node_devices(
        &self,
        context: Context,
        request: ListFleetNodeDevicesRequest,
    ) -> Result<Reply<ListFleetNodeDevicesResponse>, RpcError> {
        let (operator, _) = calling_operator(&context)?;
        let pairs = self
            .app
            .store
            .list_bound_devices(operator.org, one_or_all(request.fleet_node_id))
            .await
            .map_err(Refusal::refusal)?;
        Ok(Reply::new(ListFleetNodeDevicesResponse {
            pairs: pairs.into_iter().map(convert::bound_device).collect(),
        }))
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
        let node = one_or_all(request.fleet_node_id);
        let rows = self
            .app
            .store
            .list_found_devices(operator.org, node, DeviceId(request.cursor), limit)
            .await
            .map_err(Refusal::refusal)?;
        let next_cursor = rows
            .last()
            .filter(|_| rows.len() >= limit as usize)
            .map_or(0, |row| row.id.0);
        let ids: Vec<DeviceId> = rows.iter().map(|row| row.id).collect();
        let pairings = self
            .app
            .store
            .pairings_of(operator.org, &ids)
            .await
            .map_err(Refusal::refusal)?;
        let devices = rows
            .into_iter()
            .map(|row| {
                let status = pairings
                    .get(&row.id)
                    .map_or(DevicePairing::NONE.status, |pairing| pairing.status);
                convert::discovered_device(row, status)
            })
            .collect();
        Ok(Reply::new(ListFleetNodeDiscoveredDevicesResponse {
            devices,
            next_cursor,
        }))
    }

    async fn pair_discovered_devices_on_fleet_node(
        &self,
        context: Context,
        request: PairDiscoveredDevicesOnFleetNodeRequest,
    ) -> Result<Reply<BoxStream<PairDiscoveredDevicesOnFleetNodeResponse>>, RpcError> {
        let (operator, actor) = calling_operator(&context)?;
        pair::pair(&self.app, operator, actor, request).await
    }
}

/// A node of a list; 0 means every node.
fn one_or_all(node: i64) -> Option<NodeId> {
    (node != 0).then_some(NodeId(node))
}
