//! `fleetnodeadmin.v1.FleetNodeAdminService`: enrollment, discovery and pairing in the upstream format.

use fleet_core::{DeviceId, NodeId, PendingEnrollmentId, SecretKind, limits};
use fleet_store::{DevicePairing, ListPage, NewCode};
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

use super::Api;
use crate::{
    convert::{self, timestamp},
    discover,
    failure::{Answered, Refusal},
    pair,
};

/// The most nodes in the upstream list, which has no pages: as many as an organization can have connected.
const NODES: u32 = 10_000;
/// The most bound devices in the upstream list, which has no pages: as many as one scan can find.
const BOUND: u32 = 65_536;
/// Devices on a page unless the request names a limit.
const DEVICES: u32 = 1_024;

impl FleetNodeAdminService for Api {
    async fn create_enrollment_code(
        &self,
        context: Context,
        request: CreateEnrollmentCodeRequest,
    ) -> Result<Reply<CreateEnrollmentCodeResponse>, RpcError> {
        let call = self.operator(&context)?;
        let code = self.app.environment.secret(SecretKind::EnrollmentCode);
        let expires = call.now.plus(limits::CODE_LIFE);
        let replaces = convert::node_filter(request.replaces_fleet_node_id);
        let new = NewCode {
            org: call.org,
            code: code.hash(),
            expires,
            replaces,
            actor: call.actor(),
            now: call.now,
        };
        let subject = replaces.map_or_else(String::new, |node| format!("to replace node {node}"));
        let id = call
            .attempt("code.create", subject)
            .or_refused(&self.app.auditor, self.app.store.create_code(new).await)
            .await?;
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
        let call = self.operator(&context)?;
        self.answer_whole(&context, call.org).await?;
        let page = ListPage {
            after: 0,
            limit: NODES + 1,
        };
        let rows = self.app.store.list_nodes(call.org, page).await;
        let remedy = "read `fleet.v1.NodeService/ListNodes`, which has pages";
        let rows = convert::whole(rows.answered()?, NODES, remedy)?;
        Ok(Reply::new(ListFleetNodesResponse {
            fleet_nodes: rows.into_iter().map(convert::node_summary).collect(),
        }))
    }

    async fn confirm_fleet_node(
        &self,
        context: Context,
        request: ConfirmFleetNodeRequest,
    ) -> Result<Reply<ConfirmFleetNodeResponse>, RpcError> {
        let call = self.operator(&context)?;
        let key = self.app.environment.secret(SecretKind::NodeKey);
        let node = NodeId(request.fleet_node_id);
        let code = PendingEnrollmentId(request.pending_enrollment_id);
        let store = &self.app.store;
        let confirmed =
            store.confirm_node(call.org, node, code, key.hash(), call.actor(), call.now);
        call.attempt(
            "node.confirm",
            format!("node {node}, enrollment code {code}"),
        )
        .or_refused(&self.app.auditor, confirmed.await)
        .await?;
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
        let call = self.operator(&context)?;
        let node = NodeId(request.fleet_node_id);
        let code = request.pending_enrollment_id.map(PendingEnrollmentId);
        let attempt = call.attempt("node.revoke", format!("node {node}"));
        let app = self.app.clone();
        // A caller that hangs up must not leave the stream of a revoked node open.
        let revoked = self.app.carry_through(async move {
            let revoked = app
                .store
                .revoke_node(call.org, node, code, call.actor(), call.now)
                .await
                .map_err(Refusal::refusal)?;
            app.notify_node(node);
            for scan in revoked.scans {
                app.wakeups.notify(scan);
            }
            tracing::info!(%node, "node revoked");
            Ok(())
        });
        attempt.or_refused(&self.app.auditor, revoked.await).await?;
        Ok(Reply::new(RevokeFleetNodeResponse {}))
    }

    async fn discover_on_fleet_node(
        &self,
        context: Context,
        request: DiscoverOnFleetNodeRequest,
    ) -> Result<Reply<BoxStream<DiscoverOnFleetNodeResponse>>, RpcError> {
        let call = self.operator(&context)?;
        discover::start(&self.app, &call, request).await
    }

    async fn pair_device_to_fleet_node(
        &self,
        context: Context,
        request: PairDeviceToFleetNodeRequest,
    ) -> Result<Reply<PairDeviceToFleetNodeResponse>, RpcError> {
        let call = self.operator(&context)?;
        let (node, device) = (NodeId(request.fleet_node_id), DeviceId(request.device_id));
        let store = &self.app.store;
        let bound = store.bind_device(call.org, node, device, call.actor(), call.now);
        call.attempt("device.pair", format!("device {device} to node {node}"))
            .or_refused(&self.app.auditor, bound.await)
            .await?;
        Ok(Reply::new(PairDeviceToFleetNodeResponse {}))
    }

    async fn unpair_device(
        &self,
        context: Context,
        request: UnpairDeviceRequest,
    ) -> Result<Reply<UnpairDeviceResponse>, RpcError> {
        let call = self.operator(&context)?;
        let device = DeviceId(request.device_id);
        let store = &self.app.store;
        let released = store.unbind_device(call.org, device, call.actor(), call.now);
        call.attempt("device.unpair", format!("device {device}"))
            .or_refused(&self.app.auditor, released.await)
            .await?;
        Ok(Reply::new(UnpairDeviceResponse {}))
    }

    async fn list_fleet_node_devices(
        &self,
        context: Context,
        request: ListFleetNodeDevicesRequest,
    ) -> Result<Reply<ListFleetNodeDevicesResponse>, RpcError> {
        let call = self.operator(&context)?;
        self.answer_whole(&context, call.org).await?;
        let node = convert::node_filter(request.fleet_node_id);
        let store = &self.app.store;
        let remedy =
            "set `fleet_node_id`, or read `fleet.v1.DeviceService/SearchDevices`, which has pages";
        // Before the devices are read, so that a refusal costs nothing.
        let count = store.count_bound_devices(call.org, node).await;
        if count.answered()? > u64::from(BOUND) {
            return Err(convert::too_long(BOUND, remedy));
        }
        let page = ListPage {
            after: 0,
            limit: BOUND + 1,
        };
        let pairs = store.list_bound_devices(call.org, node, page).await;
        let pairs = convert::whole(pairs.answered()?, BOUND, remedy)?;
        Ok(Reply::new(ListFleetNodeDevicesResponse {
            pairs: pairs.into_iter().map(convert::bound_device).collect(),
        }))
    }

    async fn list_fleet_node_discovered_devices(
        &self,
        context: Context,
        request: ListFleetNodeDiscoveredDevicesRequest,
    ) -> Result<Reply<ListFleetNodeDiscoveredDevicesResponse>, RpcError> {
        let call = self.operator(&context)?;
        let limit = u32::try_from(request.limit).unwrap_or(DEVICES);
        let limit = convert::page_size(limit, DEVICES, u32::MAX);
        let node = convert::node_filter(request.fleet_node_id);
        let after = DeviceId(request.cursor);
        let store = &self.app.store;
        let rows = store.list_found_devices(call.org, node, after, limit).await;
        let rows = rows.answered()?;
        let next_cursor = rows
            .last()
            .filter(|_| rows.len() >= limit as usize)
            .map_or(0, |row| row.id.0);
        let ids: Vec<DeviceId> = rows.iter().map(|row| row.id).collect();
        let pairings = store.pairings_of(call.org, &ids).await.answered()?;
        let devices = rows
            .into_iter()
            .map(|row| {
                let pairing = pairings.get(&row.id);
                let status = pairing.map_or(DevicePairing::NONE.status, |pairing| pairing.status);
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
        let call = self.operator(&context)?;
        pair::pair(&self.app, &call, request).await
    }
}
