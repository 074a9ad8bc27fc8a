//! `fleet.v1.DeviceService`: devices with their former names, changes of identity, and devices that were refused because
//! another node owns them.

use std::{collections::BTreeSet, str::FromStr};

use fleet_core::{DeviceId, DeviceIdentifier, IdentityChangeId, OrgId, RejectReason};
use fleet_store::{DeviceName, DevicePairing, DeviceRow, RefusedDevice};
use fleet_wire::{
    Context, Reply, RpcError,
    fleet::{
        self, DeleteDevicesRequest, DeleteDevicesResponse, DeviceService, GetDeviceRequest,
        GetDeviceResponse, ListDevicesRequest, ListDevicesResponse, ListRefusedDevicesRequest,
        ListRefusedDevicesResponse, UndoIdentityChangeRequest, UndoIdentityChangeResponse,
    },
};

use super::Api;
use crate::{
    convert::{self, timestamp},
    failure::Answered,
};

/// Default and maximum number of devices on a page.
const PAGE: u32 = 1_000;

fn page(limit: u32) -> u32 {
    convert::page_size(limit, PAGE, PAGE)
}

impl DeviceService for Api {
    async fn list_devices(
        &self,
        context: Context,
        request: ListDevicesRequest,
    ) -> Result<Reply<ListDevicesResponse>, RpcError> {
        let call = self.operator(&context)?;
        let limit = page(request.limit);
        let node = convert::node_filter(request.fleet_node_id);
        let rows = self
            .app
            .store
            .list_devices(call.org, node, DeviceId(request.cursor), limit)
            .await
            .answered()?;
        let full = rows.len() >= limit as usize;
        let next_cursor = rows.last().filter(|_| full).map_or(0, |row| row.id.0);
        Ok(Reply::new(ListDevicesResponse {
            devices: self.with_pairings(call.org, rows).await?,
            next_cursor,
        }))
    }

    async fn get_device(
        &self,
        context: Context,
        request: GetDeviceRequest,
    ) -> Result<Reply<GetDeviceResponse>, RpcError> {
        let call = self.operator(&context)?;
        let name = if request.device_id == 0 {
            let identifier = DeviceIdentifier::from_str(&request.identifier).map_err(|error| {
                RpcError::invalid_argument(format!("identifier: {error}"))
                    .with_reason("INVALID_FIELD")
                    .with_fact("field", "identifier")
            })?;
            DeviceName::Identifier(identifier)
        } else {
            DeviceName::Id(DeviceId(request.device_id))
        };
        let device = self.device(call.org, name).await?;
        Ok(Reply::new(GetDeviceResponse {
            device: Some(device),
        }))
    }

    async fn undo_identity_change(
        &self,
        context: Context,
        request: UndoIdentityChangeRequest,
    ) -> Result<Reply<UndoIdentityChangeResponse>, RpcError> {
        let call = self.operator(&context)?;
        let change = IdentityChangeId(request.identity_change_id);
        let store = &self.app.store;
        let undone = store.undo_identity_change(call.org, change, call.actor(), call.now);
        let apart = call
            .attempt("device.separate", format!("identity change {change}"))
            .or_refused(&self.app.auditor, undone.await)
            .await?;
        let kept = self.device(call.org, DeviceName::Id(apart.kept)).await?;
        let restored = self
            .device(call.org, DeviceName::Id(apart.restored))
            .await?;
        Ok(Reply::new(UndoIdentityChangeResponse {
            kept: Some(kept),
            restored: Some(restored),
        }))
    }

    async fn delete_devices(
        &self,
        context: Context,
        request: DeleteDevicesRequest,
    ) -> Result<Reply<DeleteDevicesResponse>, RpcError> {
        let call = self.operator(&context)?;
        let devices: BTreeSet<DeviceId> = request.device_ids.into_iter().map(DeviceId).collect();
        let ids: Vec<String> = devices.iter().take(8).map(ToString::to_string).collect();
        let subject = format!("{} devices: {}", devices.len(), ids.join(", "));
        let store = &self.app.store;
        let deleted =
            store.delete_devices(call.org, devices, request.reason, call.actor(), call.now);
        call.attempt("device.delete", subject)
            .or_refused(&self.app.auditor, deleted.await)
            .await?;
        Ok(Reply::new(DeleteDevicesResponse {}))
    }

    async fn list_refused_devices(
        &self,
        context: Context,
        request: ListRefusedDevicesRequest,
    ) -> Result<Reply<ListRefusedDevicesResponse>, RpcError> {
        let call = self.operator(&context)?;
        let reporter = convert::node_filter(request.fleet_node_id);
        let (rows, next) = self
            .app
            .store
            .list_refused_devices(call.org, reporter, request.cursor, page(request.limit))
            .await
            .answered()?;
        Ok(Reply::new(ListRefusedDevicesResponse {
            devices: rows.into_iter().map(refused).collect(),
            next_cursor: next.unwrap_or(0),
        }))
    }
}

impl Api {
    async fn device(&self, org: OrgId, name: DeviceName) -> Result<fleet::Device, RpcError> {
        let wanted = match &name {
            DeviceName::Id(id) => id.to_string(),
            DeviceName::Identifier(identifier) => identifier.to_string(),
        };
        let unknown = match &name {
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
            .answered()?
            .ok_or_else(|| {
                RpcError::not_found(unknown)
                    .with_reason("DEVICE_NOT_FOUND")
                    .with_fact("value", wanted)
            })?;
        let mut devices = self.with_pairings(org, vec![row]).await?;
        devices
            .pop()
            .ok_or_else(|| RpcError::internal("internal error"))
    }

    /// Adds the pairing of each device, with three queries for any number of devices.
    pub(super) async fn with_pairings(
        &self,
        org: OrgId,
        rows: Vec<DeviceRow>,
    ) -> Result<Vec<fleet::Device>, RpcError> {
        let ids: Vec<DeviceId> = rows.iter().map(|row| row.id).collect();
        let mut pairings = self.app.store.pairings_of(org, &ids).await.answered()?;
        let device = |row: DeviceRow| {
            let pairing = pairings.remove(&row.id).unwrap_or(DevicePairing::NONE);
            convert::device(row, pairing)
        };
        Ok(rows.into_iter().map(device).collect())
    }
}

fn refused(row: RefusedDevice) -> fleet::RefusedDevice {
    fleet::RefusedDevice {
        fleet_node_id: row.reporter.0,
        ip: row.endpoint.ip.to_string(),
        port: row.endpoint.port.number().into(),
        identifier: row.identifier.to_string(),
        reason: row.reason.as_str().to_owned(),
        remedy: remedy(&row),
        device_id: row.device.0,
        owner_fleet_node_id: row.owner.map_or(0, |node| node.0),
        count: row.count,
        first_seen: Some(timestamp(row.first_seen)),
        last_seen: Some(timestamp(row.last_seen)),
    }
}

/// What an operator can do to give the device to the reporter.
fn remedy(row: &RefusedDevice) -> String {
    let RefusedDevice {
        device, reporter, ..
    } = row;
    let pair = format!("pair device {device} to node {reporter}");
    let owner = |subject: &str| match (row.bound_to, row.owner) {
        (Some(node), _) => {
            format!("{subject} is paired to node {node}: unpair it first, then {pair}")
        }
        (None, Some(node)) => {
            format!(
                "{subject} belongs to node {node}: {pair} if it has moved, or move both nodes to one site"
            )
        }
        (None, None) => format!("{subject} belongs to the server: {pair}"),
    };
    match row.reason {
        RejectReason::OwnedByOtherNode | RejectReason::BoundToOtherNode => {
            owner(&format!("device {device}"))
        }
        RejectReason::OwnedByRevokedNode => {
            let owner = row.owner.map_or(0, |node| node.0);
            format!(
                "device {device} belonged to revoked node {owner} at another address: if it has moved to node {reporter}, {pair}"
            )
        }
        RejectReason::IdentityConflict => {
            owner(&format!("the identity is that of device {device}, which"))
        }
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
