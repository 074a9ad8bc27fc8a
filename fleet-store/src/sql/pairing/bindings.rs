//! The bindings of devices. A binding and a pairing status change only under the lock of the device's row. A
//! binding to a node also needs the node's lock, which prevents a binding to a node that is being revoked.

use std::{collections::BTreeMap, net::IpAddr};

use fleet_core::PairingStatus;
use fleet_pairing::{BindDecision, Binding, ServerClaim, decide_bind, decide_bind_to_server};

use crate::{
    BindError, Bindings, BoundDevice, Changed, DevicePairing, DeviceRow, ListPage, UnbindError,
    sql::{
        audit, details, devices, endpoints,
        entity::{
            binding, device, device_credential, device_pairing, node_endpoint, pairing_target,
        },
        inserts, nodes,
        prelude::*,
    },
};

/// The bindings to one node, or to any node.
fn bound_to(org: OrgId, node: Option<NodeId>) -> Select<binding::Entity> {
    let bindings = binding::Entity::find()
        .filter(binding::Column::OrgId.eq(org.0))
        .filter(binding::Column::NodeId.is_not_null());
    match node {
        Some(node) => bindings.filter(binding::Column::NodeId.eq(node.0)),
        None => bindings,
    }
}

/// Locks a live device of an organization.
async fn lock_device(
    tx: &DatabaseTransaction,
    org: OrgId,
    id: DeviceId,
) -> Result<Option<device::Model>, DbErr> {
    Ok(lock_devices(tx, org, [id.0]).await?.pop())
}

/// Locks live devices of an organization in the order of their ids.
pub(in crate::sql) async fn lock_devices(
    tx: &DatabaseTransaction,
    org: OrgId,
    ids: impl IntoIterator<Item = i64>,
) -> Result<Vec<device::Model>, DbErr> {
    device::Entity::find()
        .filter(device::Column::Id.is_in(ids))
        .filter(device::Column::OrgId.eq(org.0))
        .filter(device::Column::DeletedAt.is_null())
        .order_by_asc(device::Column::Id)
        .lock(LockType::NoKeyUpdate)
        .all(tx)
        .await
}

async fn binding_of(tx: &DatabaseTransaction, device: i64) -> Result<Binding, DbErr> {
    let row = binding::Entity::find_by_id(device).one(tx).await?;
    Ok(row.map_or(Binding::Free, |row| bound(&row)))
}

/// The node or server that a row binds its device to.
pub(in crate::sql) fn bound(row: &binding::Model) -> Binding {
    row.node_id
        .map_or(Binding::Server, |id| Binding::Node(NodeId(id)))
}

/// The device's name in audit records.
pub(in crate::sql) fn shown(device: &device::Model) -> String {
    format!("device {} ({})", device.id, device.identifier.0)
}

/// A node to which an endpoint at this address was ever attributed, on any port. A device that a node found at
/// one port answers at other ports too.
async fn node_of_endpoint(
    tx: &DatabaseTransaction,
    org: OrgId,
    endpoint: Endpoint,
) -> Result<Option<NodeId>, DbErr> {
    let row = node_endpoint::Entity::find()
        .filter(node_endpoint::Column::OrgId.eq(org.0))
        .filter(node_endpoint::Column::Ip.eq(AsText(endpoint.ip)))
        .order_by_asc(node_endpoint::Column::NodeId)
        .one(tx)
        .await?;
    Ok(row.map(|row| NodeId(row.node_id)))
}

/// Writes the single binding row of a device. If another binding was written first, its key is violated: the
/// transaction is retried and the rules see that binding.
pub(in crate::sql) async fn write_binding(
    tx: &DatabaseTransaction,
    device: &device::Model,
    node: Option<NodeId>,
    assigned_by: Option<i64>,
    now: Timestamp,
) -> Result<(), DbErr> {
    let row = binding::ActiveModel {
        device_id: Set(device.id),
        org_id: Set(device.org_id),
        node_id: Set(node.map(|node| node.0)),
        created_at: Set(Micros(now)),
        assigned_by: Set(assigned_by),
    };
    binding::Entity::insert(row)
        .exec_without_returning(tx)
        .await?;
    Ok(())
}

/// Attributes a device to the node that it is bound to, and records its endpoint. The server itself never dials
/// that endpoint again. If the server is dialing there now, this returns the address, and the caller must roll
/// back.
pub(in crate::sql) async fn attribute(
    tx: &DatabaseTransaction,
    device: &device::Model,
    node: NodeId,
    now: Timestamp,
) -> Result<Option<IpAddr>, DbErr> {
    // An operator who binds a claimed device, or pairs it, confirms the claim.
    if device.node_id != Some(node.0) || device.claimed_from_node_id.is_some() {
        let moved = device::ActiveModel {
            node_id: Set(Some(node.0)),
            claimed_from_node_id: Set(None),
            ..Default::default()
        };
        device::Entity::update_many()
            .set(moved)
            .filter(device::Column::Id.eq(device.id))
            .exec(tx)
            .await?;
    }
    let endpoints = devices::endpoint(device)?.into_iter().collect();
    endpoints::attribute(tx, OrgId(device.org_id), node, &endpoints, now).await
}

/// Sets the pairing status of devices. Each device may appear at most once.
pub(in crate::sql) async fn write_status(
    tx: &DatabaseTransaction,
    org: OrgId,
    devices: impl IntoIterator<Item = (i64, PairingStatus, String)>,
    now: Timestamp,
) -> Result<(), DbErr> {
    use device_pairing::Column as C;
    let row = |(device, status, error)| device_pairing::ActiveModel {
        device_id: Set(device),
        org_id: Set(org.0),
        status: Set(AsText(status)),
        error: Set(error),
        changed_at: Set(Micros(now)),
    };
    let devices: Vec<_> = devices.into_iter().collect();
    let statuses: Vec<_> = devices
        .iter()
        .map(|(id, status, _)| (*id, *status))
        .collect();
    details::record_pairings(tx, org, &statuses, now).await?;
    let newest = OnConflict::column(C::DeviceId)
        .update_columns([C::Status, C::Error, C::ChangedAt])
        .to_owned();
    inserts::all_or(tx, devices.into_iter().map(row).collect(), newest).await
}

/// Deletes the credentials that nodes sealed for devices.
pub(in crate::sql) async fn forget_credentials(
    tx: &DatabaseTransaction,
    devices: impl IntoIterator<Item = i64>,
) -> Result<(), DbErr> {
    device_credential::Entity::delete_many()
        .filter(device_credential::Column::DeviceId.is_in(devices))
        .exec(tx)
        .await?;
    Ok(())
}

/// Releases locked devices. Their binding, pairing status and sealed credentials are deleted, and results of
/// earlier requests are refused. Returns whether anything changed.
pub(in crate::sql) async fn release(
    tx: &DatabaseTransaction,
    devices: &[i64],
    why: &'static str,
) -> Result<bool, DbErr> {
    if devices.is_empty() {
        return Ok(false);
    }
    let ids = || devices.iter().copied();
    let bindings = binding::Entity::delete_many()
        .filter(binding::Column::DeviceId.is_in(ids()))
        .exec(tx)
        .await?;
    let statuses = device_pairing::Entity::delete_many()
        .filter(device_pairing::Column::DeviceId.is_in(ids()))
        .exec(tx)
        .await?;
    forget_credentials(tx, ids()).await?;
    let withdrawn = pairing_target::ActiveModel {
        result: Set(Some(AsText(PairingStatus::Unpaired))),
        error: Set(why.to_owned()),
        ..Default::default()
    };
    let targets = pairing_target::Entity::update_many()
        .set(withdrawn)
        .filter(pairing_target::Column::DeviceId.is_in(ids()))
        .filter(pairing_target::Column::Result.is_null())
        .exec(tx)
        .await?;
    Ok(bindings.rows_affected + statuses.rows_affected + targets.rows_affected > 0)
}

/// Transfers the pairing status and sealed credentials of a record to another record, together with its
/// binding. Both records are locked.
pub(crate) async fn hand_over(
    tx: &DatabaseTransaction,
    from: DeviceId,
    to: DeviceId,
) -> Result<(), DbErr> {
    // The survivor may have a status from an earlier binding, whose key the update would violate.
    forget_pairing(tx, to).await?;
    device_pairing::Entity::update_many()
        .col_expr(device_pairing::Column::DeviceId, Expr::value(to.0))
        .filter(device_pairing::Column::DeviceId.eq(from.0))
        .exec(tx)
        .await?;
    device_credential::Entity::update_many()
        .col_expr(device_credential::Column::DeviceId, Expr::value(to.0))
        .filter(device_credential::Column::DeviceId.eq(from.0))
        .exec(tx)
        .await?;
    Ok(())
}

/// Deletes the pairing status and the sealed credentials of a record.
pub(crate) async fn forget_pairing(
    tx: &DatabaseTransaction,
    device: DeviceId,
) -> Result<(), DbErr> {
    device_pairing::Entity::delete_many()
        .filter(device_pairing::Column::DeviceId.eq(device.0))
        .exec(tx)
        .await?;
    forget_credentials(tx, [device.0]).await
}

/// Releases every device that is bound to a node which is being revoked, and deletes the credentials that the
/// node sealed. The caller holds the node's lock. Attribution stays.
pub(crate) async fn release_all_of(
    tx: &DatabaseTransaction,
    org: OrgId,
    node: NodeId,
) -> Result<(), DbErr> {
    let bound: Vec<i64> = binding::Entity::find()
        .select_only()
        .column(binding::Column::DeviceId)
        .filter(binding::Column::NodeId.eq(node.0))
        .into_tuple()
        .all(tx)
        .await?;
    for part in bound.chunks(DEVICES_A_STATEMENT) {
        lock_devices(tx, org, part.iter().copied()).await?;
        // Some devices may have been released before they were locked. The node's lock prevents new bindings.
        release(tx, part, "its node was revoked").await?;
    }
    device_credential::Entity::delete_many()
        .filter(device_credential::Column::NodeId.eq(node.0))
        .exec(tx)
        .await?;
    Ok(())
}

/// Well below the databases' bind limits.
const DEVICES_A_STATEMENT: usize = 10_000;

#[async_trait]
impl Bindings for SqlStore {
    async fn bind_device(
        &self,
        org: OrgId,
        node: NodeId,
        device: DeviceId,
        actor: Actor,
        now: Timestamp,
    ) -> Result<Changed, BindError> {
        transaction!(self, "bind_device", |tx| {
            let Some(row) = nodes::lock_of(tx, org, node).await? else {
                return refuse(BindError::NodeNotFound(node));
            };
            let Some(found) = lock_device(tx, org, device).await? else {
                return refuse(BindError::DeviceNotFound(device));
            };
            match decide_bind(node, row.state.0, binding_of(tx, device.0).await?) {
                Err(why) => return refuse(BindError::Refused { device, why }),
                Ok(BindDecision::Already) => return Ok(Changed::No),
                Ok(BindDecision::Bind) => {}
            }
            let assigned_by = match actor.principal {
                Principal::Operator(OperatorId(id)) => Some(id),
                Principal::Node(_) | Principal::System | Principal::Anonymous => None,
            };
            // Another node may have sealed them, and no other can open them.
            forget_credentials(tx, [device.0]).await?;
            write_binding(tx, &found, Some(node), assigned_by, now).await?;
            if let Some(ip) = attribute(tx, &found, node, now).await? {
                return refuse(BindError::BeingDialed(ip));
            }
            let subject = format!("{} to node {node}", shown(&found));
            audit::done(tx, org, &actor, "device.pair", subject, now).await?;
            Ok(Changed::Yes)
        })
    }

    async fn unbind_device(
        &self,
        org: OrgId,
        device: DeviceId,
        actor: Actor,
        now: Timestamp,
    ) -> Result<Changed, UnbindError> {
        transaction!(self, "unbind_device", |tx| {
            let Some(found) = lock_device(tx, org, device).await? else {
                return refuse(UnbindError::NotFound(device));
            };
            let unpaired = [(device.0, PairingStatus::Unpaired)];
            details::record_pairings(tx, org, &unpaired, now).await?;
            if !release(tx, &[device.0], "unpaired before its result came").await? {
                return Ok(Changed::No);
            }
            audit::done(tx, org, &actor, "device.unpair", shown(&found), now).await?;
            Ok(Changed::Yes)
        })
    }

    async fn bind_to_server(
        &self,
        org: OrgId,
        device: DeviceId,
        status: PairingStatus,
        actor: Actor,
        now: Timestamp,
    ) -> Result<Changed, BindError> {
        transaction!(self, "bind_to_server", |tx| {
            let Some(found) = lock_device(tx, org, device).await? else {
                return refuse(BindError::DeviceNotFound(device));
            };
            let endpoint = devices::endpoint(&found)?;
            // This is the last lock. No node can claim the endpoint between this check and the commit.
            endpoints::lock_exclusive(tx).await?;
            let claim = ServerClaim {
                binding: binding_of(tx, device.0).await?,
                owner: found.node_id.map(NodeId),
                has_endpoint: endpoint.is_some(),
                endpoint_node: match endpoint {
                    Some(endpoint) => node_of_endpoint(tx, org, endpoint).await?,
                    None => None,
                },
            };
            match decide_bind_to_server(claim) {
                Err(why) => return refuse(BindError::Refused { device, why }),
                Ok(BindDecision::Already) => return Ok(Changed::No),
                Ok(BindDecision::Bind) => {}
            }
            forget_credentials(tx, [device.0]).await?;
            write_binding(tx, &found, None, None, now).await?;
            write_status(tx, org, [(device.0, status, String::new())], now).await?;
            let subject = format!("{} by the server itself", shown(&found));
            audit::done(tx, org, &actor, "device.pair", subject, now).await?;
            Ok(Changed::Yes)
        })
    }

    async fn count_bound_devices(
        &self,
        org: OrgId,
        node: Option<NodeId>,
    ) -> Result<u64, StoreError> {
        let count = bound_to(org, node).count(self.reader()).await;
        count.during("count_bound_devices")
    }

    async fn list_bound_devices(
        &self,
        org: OrgId,
        node: Option<NodeId>,
        page: ListPage,
    ) -> Result<Vec<BoundDevice>, StoreError> {
        let db = self.reader();
        let read = async {
            let bindings = bound_to(org, node)
                .filter(binding::Column::DeviceId.gt(page.after))
                .order_by_asc(binding::Column::DeviceId)
                .limit(u64::from(page.limit))
                .all(db)
                .await?;
            let mut listed = Vec::with_capacity(bindings.len());
            for part in bindings.chunks(DEVICES_A_STATEMENT) {
                let models = device::Entity::find()
                    .filter(device::Column::Id.is_in(part.iter().map(|row| row.device_id)))
                    .filter(device::Column::DeletedAt.is_null())
                    .all(db)
                    .await?;
                let mut devices: BTreeMap<i64, _> = devices::rows(db, models)
                    .await?
                    .into_iter()
                    .map(|device| (device.id.0, device))
                    .collect();
                for row in part {
                    let (Some(device), Some(node)) = (devices.remove(&row.device_id), row.node_id)
                    else {
                        continue;
                    };
                    listed.push(BoundDevice {
                        device,
                        node: NodeId(node),
                        since: row.created_at.0,
                        assigned_by: row.assigned_by.map(OperatorId),
                    });
                }
            }
            Ok(listed)
        };
        read.await.during("list_bound_devices")
    }

    async fn list_found_devices(
        &self,
        org: OrgId,
        node: Option<NodeId>,
        after: DeviceId,
        limit: u32,
    ) -> Result<Vec<DeviceRow>, StoreError> {
        let mut query = device::Entity::find()
            .filter(device::Column::OrgId.eq(org.0))
            .filter(device::Column::DeletedAt.is_null())
            .filter(device::Column::Id.gt(after.0));
        query = match node {
            Some(node) => query.filter(device::Column::NodeId.eq(node.0)),
            None => query.filter(device::Column::NodeId.is_not_null()),
        };
        let models = query
            .order_by_asc(device::Column::Id)
            .limit(u64::from(limit))
            .all(self.reader())
            .await;
        let rows = match models {
            Ok(models) => devices::rows(self.reader(), models).await,
            Err(error) => Err(error),
        };
        rows.during("list_found_devices")
    }

    async fn pairings_of(
        &self,
        org: OrgId,
        devices: &[DeviceId],
    ) -> Result<BTreeMap<DeviceId, DevicePairing>, StoreError> {
        let ids: Vec<i64> = devices.iter().map(|device| device.0).collect();
        pairings(self.reader(), org, &ids)
            .await
            .during("pairings_of")
    }
}

/// Reads the pairing status of devices with three queries for every ten thousand.
pub(in crate::sql) async fn pairings(
    db: &impl ConnectionTrait,
    org: OrgId,
    devices: &[i64],
) -> Result<BTreeMap<DeviceId, DevicePairing>, DbErr> {
    let mut found: BTreeMap<DeviceId, DevicePairing> = BTreeMap::new();
    for part in devices.chunks(DEVICES_A_STATEMENT) {
        let ids = || part.iter().copied();
        let statuses = device_pairing::Entity::find()
            .filter(device_pairing::Column::OrgId.eq(org.0))
            .filter(device_pairing::Column::DeviceId.is_in(ids()))
            .all(db)
            .await?;
        for row in statuses {
            let known = found
                .entry(DeviceId(row.device_id))
                .or_insert(DevicePairing::NONE);
            (known.status, known.error) = (row.status.0, row.error);
        }
        let bindings = binding::Entity::find()
            .filter(binding::Column::OrgId.eq(org.0))
            .filter(binding::Column::DeviceId.is_in(ids()))
            .all(db)
            .await?;
        for row in bindings {
            found
                .entry(DeviceId(row.device_id))
                .or_insert(DevicePairing::NONE)
                .binding = bound(&row);
        }
        let sealed: Vec<i64> = device_credential::Entity::find()
            .select_only()
            .column(device_credential::Column::DeviceId)
            .filter(device_credential::Column::OrgId.eq(org.0))
            .filter(device_credential::Column::DeviceId.is_in(ids()))
            .into_tuple()
            .all(db)
            .await?;
        for device in sealed {
            found
                .entry(DeviceId(device))
                .or_insert(DevicePairing::NONE)
                .has_credentials = true;
        }
    }
    Ok(found)
}
