//! `fleet.v1`: the inventory as operators use it: devices and their names, what a report made one, and
//! what was refused because another has it.

use std::str::FromStr;

use fleet_core::{DeviceId, DeviceIdentifier, IdentityChangeId, NodeId, OrgId, RejectReason};
use fleet_store::{DeviceAlias, DeviceName, DevicePairing, DeviceRow, RefusedDevice};
use fleet_wire::{
    Context, Reply, RpcError,
    fleet::{
        self, DeviceService, GetDeviceRequest, GetDeviceResponse, ListDevicesRequest,
        ListDevicesResponse, ListRefusedDevicesRequest, ListRefusedDevicesResponse,
        UndoIdentityChangeRequest, UndoIdentityChangeResponse,
    },
};

use crate::{
    audit::Attempt,
    auth::calling_operator,
    convert::{self, timestamp},
    failure::Refusal,
    operators::OperatorApi,
};

/// Devices of a page at the most, and unless the caller says.
const DEVICES_MOST: u32 = 1_000;

/// The size of a page that is asked for.
fn page(limit: u32) -> u32 {
    if limit == 0 {
        DEVICES_MOST
    } else {
        limit.min(DEVICES_MOST)
    }
}

impl DeviceService for OperatorApi {
    async fn list_devices(
        &self,
        context: Context,
        request: ListDevicesRequest,
    ) -> Result<Reply<ListDevicesResponse>, RpcError> {
        let (operator, _) = calling_operator(&context)?;
        let limit = page(request.limit);
        let node = (request.fleet_node_id != 0).then_some(NodeId(request.fleet_node_id));
        let rows = self
            .app
            .store
            .list_devices(operator.org, node, DeviceId(request.cursor), limit)
            .await
            .map_err(Refusal::refusal)?;
        let full = rows.len() >= limit as usize;
        let next_cursor = rows.last().filter(|_| full).map_or(0, |row| row.id.0);
        Ok(Reply::new(ListDevicesResponse {
            devices: self.with_pairings(operator.org, rows).await?,
            next_cursor,
        }))
    }

    async fn get_device(
        &self,
        context: Context,
        request: GetDeviceRequest,
    ) -> Result<Reply<GetDeviceResponse>, RpcError> {
        let (operator, _) = calling_operator(&context)?;
        let name = if request.device_id == 0 {
            let identifier = DeviceIdentifier::from_str(&request.identifier)
                .map_err(|error| RpcError::invalid_argument(format!("identifier: {error}")))?;
            DeviceName::Identifier(identifier)
        } else {
            DeviceName::Id(DeviceId(request.device_id))
        };
        let device = self.device(operator.org, name).await?;
        Ok(Reply::new(GetDeviceResponse {
            device: Some(device),
        }))
    }

    async fn undo_identity_change(
        &self,
        context: Context,
        request: UndoIdentityChangeRequest,
    ) -> Result<Reply<UndoIdentityChangeResponse>, RpcError> {
        let (operator, actor) = calling_operator(&context)?;
        let change = IdentityChangeId(request.identity_change_id);
        let attempt = Attempt {
            org: Some(operator.org),
            actor: actor.clone(),
            action: "device.tell_apart",
            subject: format!("identity change {change}"),
        };
        let now = self.app.environment.now();
        let undone = self
            .app
            .store
            .undo_identity_change(operator.org, change, actor, now)
            .await;
        let apart = match undone {
            Ok(apart) => apart,
            Err(error) => return Err(attempt.refused(&self.app, error.refusal()).await),
        };
        let kept = self
            .device(operator.org, DeviceName::Id(apart.kept))
            .await?;
        let restored = self
            .device(operator.org, DeviceName::Id(apart.restored))
            .await?;
        Ok(Reply::new(UndoIdentityChangeResponse {
            kept: Some(kept),
            restored: Some(restored),
        }))
    }

    async fn list_refused_devices(
        &self,
        context: Context,
        request: ListRefusedDevicesRequest,
    ) -> Result<Reply<ListRefusedDevicesResponse>, RpcError> {
        let (operator, _) = calling_operator(&context)?;
        let reporter = (request.fleet_node_id != 0).then_some(NodeId(request.fleet_node_id));
        let (rows, next) = self
            .app
            .store
            .list_refused_devices(operator.org, reporter, request.cursor, page(request.limit))
            .await
            .map_err(Refusal::refusal)?;
        Ok(Reply::new(ListRefusedDevicesResponse {
            devices: rows.into_iter().map(refused).collect(),
            next_cursor: next.unwrap_or(0),
        }))
    }
}

impl OperatorApi {
    async fn device(&self, org: OrgId, name: DeviceName) -> Result<fleet::Device, RpcError> {
        let asked = match &name {
            DeviceName::Id(id) => format!("no device {id} in this organization"),
            DeviceName::Identifier(identifier) => {
                format!("no device is or was known as {identifier} in this organization")
            }
        };
        let row = self
            .app
            .store
            .device(org, name)
            .await
            .map_err(Refusal::refusal)?
            .ok_or_else(|| RpcError::not_found(asked))?;
        let mut devices = self.with_pairings(org, vec![row]).await?;
        devices
            .pop()
            .ok_or_else(|| RpcError::internal("internal error"))
    }

    /// Devices with where their pairing stands: three queries more, however many there are.
    async fn with_pairings(
        &self,
        org: OrgId,
        rows: Vec<DeviceRow>,
    ) -> Result<Vec<fleet::Device>, RpcError> {
        let ids: Vec<DeviceId> = rows.iter().map(|row| row.id).collect();
        let mut pairings = self
            .app
            .store
            .pairings_of(org, &ids)
            .await
            .map_err(Refusal::refusal)?;
        let device = |row: DeviceRow| {
            let pairing = pairings.remove(&row.id).unwrap_or(DevicePairing::NONE);
            convert::device(row, pairing)
        };
        Ok(rows.into_iter().map(device).collect())
    }
}

/// A former name on the wire.
pub(crate) fn alias(alias: DeviceAlias) -> fleet::DeviceAlias {
    fleet::DeviceAlias {
        identity_change_id: alias.change.0,
        identifier: alias.identifier.to_string(),
        reason: alias.reason.sentence().to_owned(),
        merged_device_id: alias.merged.map_or(0, |device| device.0),
        fleet_node_id: alias.node.map_or(0, |node| node.0),
        evidence: alias.evidence,
        since: Some(timestamp(alias.since)),
    }
}

fn refused(row: RefusedDevice) -> fleet::RefusedDevice {
    fleet::RefusedDevice {
        fleet_node_id: row.reporter.0,
        ip: row.endpoint.ip.to_string(),
        port: row.endpoint.port.number().into(),
        identifier: row.identifier.to_string(),
        reason: row.reason.as_str().to_owned(),
        way_out: way_out(&row),
        device_id: row.device.0,
        owner_fleet_node_id: row.owner.map_or(0, |node| node.0),
        count: row.count,
        first_seen: Some(timestamp(row.first_seen)),
        last_seen: Some(timestamp(row.last_seen)),
    }
}

/// What an operator can do so that the reporter gets the device.
fn way_out(row: &RefusedDevice) -> String {
    let RefusedDevice {
        device, reporter, ..
    } = row;
    let pair = format!("pair device {device} to node {reporter}");
    let owner = |say: &str| match (row.bound_to, row.owner) {
        (Some(node), _) => format!("{say}paired to node {node}: unpair it first, then {pair}"),
        (None, Some(node)) => {
            format!("{say}of node {node}: revoke node {node} if it is gone, or {pair}")
        }
        (None, None) => format!("{say}the server's own: {pair}"),
    };
    match row.reason {
        RejectReason::OwnedByOtherNode | RejectReason::BoundToOtherNode => {
            owner(&format!("device {device} is "))
        }
        RejectReason::IdentityConflict => owner(&format!(
            "the identity is that of device {device}, which is "
        )),
        RejectReason::PairedByServer => {
            format!("device {device} is paired by the server: unpair it first, then {pair}")
        }
        RejectReason::Unattributed => {
            format!("device {device} was found by the server itself: {pair}")
        }
        RejectReason::Identifier
        | RejectReason::Address
        | RejectReason::Port
        | RejectReason::Scheme
        | RejectReason::Driver
        | RejectReason::Text
        | RejectReason::AddressOutOfScope
        | RejectReason::PortOutOfScope
        | RejectReason::AddressClass
        | RejectReason::AlreadyReported => String::new(),
    }
}
