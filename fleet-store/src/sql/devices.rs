//! The inventory as operators read it.

use std::{collections::BTreeMap, mem::take, net::IpAddr};

use fleet_core::{DeviceFacts, Serial};
use fleet_pairing::{IdentityChange, decide_undo};

use super::{
    audit, codec, details,
    entity::{device, device_alias, device_sighting, identity_change},
    identity,
    identity::{create, give_back, holder, lock_survivor, revive},
    refused,
};
use crate::{
    DeviceAlias, DeviceName, DeviceRow, DeviceSighting, Inventory, RefusedDevice, SeparatedDevices,
    UndoError, sql::prelude::*,
};

/// The text by which a device sorts in the order of addresses, with numbers of a fixed width: IPv4 before IPv6, then the
/// port. Empty without an address.
pub(super) fn address_key(model: &device::Model) -> String {
    let Some(AsText(ip)) = model.ip else {
        return String::new();
    };
    address_text(ip, model.port.unwrap_or(0))
}

/// The text of an address and a port in [`address_key`].
pub(super) fn address_text(ip: IpAddr, port: i64) -> String {
    match ip {
        IpAddr::V4(ip) => {
            let [a, b, c, d] = ip.octets();
            format!("4{a:03}{b:03}{c:03}{d:03}{port:05}")
        }
        IpAddr::V6(ip) => format!("6{:032x}{port:05}", ip.to_bits()),
    }
}

/// The texts in which a word of a search may occur, in lower case, one per line.
pub(super) fn search_text(model: &device::Model) -> String {
    let ip = model.ip.map(|ip| ip.0.to_string()).unwrap_or_default();
    let mac = model.mac.map(|mac| mac.0.to_string()).unwrap_or_default();
    let identifier = model.identifier.0.to_string();
    let texts = [
        &identifier,
        &ip,
        &model.manufacturer,
        &model.model,
        &model.firmware,
        &mac,
        &model.serial,
    ];
    texts.map(String::as_str).join("\n").to_lowercase()
}

/// A new row, without an id and without facts.
pub(super) fn blank(
    org: i64,
    node: Option<i64>,
    identifier: DeviceIdentifier,
    now: Timestamp,
) -> device::Model {
    device::Model {
        id: 0,
        org_id: org,
        identifier: AsText(identifier),
        node_id: node,
        ip: None,
        port: None,
        scheme: String::new(),
        driver: String::new(),
        model: String::new(),
        manufacturer: String::new(),
        firmware: String::new(),
        mac: None,
        serial: String::new(),
        evidence: String::new(),
        host_name: None,
        first_seen: Micros(now),
        last_seen: Micros(now),
        deleted_at: None,
        kept_apart: None,
        shared: false,
        claimed_from_node_id: None,
        address_key: String::new(),
        search_text: String::new(),
        missing_since: None,
    }
}

#[async_trait]
impl Inventory for SqlStore {
    async fn list_devices(
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
        if let Some(node) = node {
            let seen = device_sighting::Entity::find()
                .select_only()
                .column(device_sighting::Column::DeviceId)
                .filter(device_sighting::Column::NodeId.eq(node.0));
            query = query.filter(
                Condition::any()
                    .add(device::Column::NodeId.eq(node.0))
                    .add(device::Column::Id.in_subquery(seen.into_query())),
            );
        }
        let models = query
            .order_by_asc(device::Column::Id)
            .limit(u64::from(limit))
            .all(self.reader())
            .await;
        let rows = match models {
            Ok(models) => rows(self.reader(), models).await,
            Err(error) => Err(error),
        };
        rows.during("list_devices")
    }

    async fn device(&self, org: OrgId, name: DeviceName) -> Result<Option<DeviceRow>, StoreError> {
        let found = match identity::find(self.reader(), org, &name).await {
            Ok(Some(model)) => rows(self.reader(), vec![model]).await,
            Ok(None) => Ok(Vec::new()),
            Err(error) => Err(error),
        };
        found.map(|rows| rows.into_iter().next()).during("device")
    }

    async fn undo_identity_change(
        &self,
        org: OrgId,
        id: IdentityChangeId,
        actor: Actor,
        now: Timestamp,
    ) -> Result<SeparatedDevices, UndoError> {
        transaction!(self, "undo_identity_change", |tx| {
            let row = identity_change::Entity::find_by_id(id.0)
                .filter(identity_change::Column::OrgId.eq(org.0))
                .lock(LockType::NoKeyUpdate)
                .one(tx)
                .await?;
            let Some(row) = row else {
                return refuse(UndoError::NotFound(id));
            };
            // An operator has deleted the device of the change.
            let name = DeviceName::Id(DeviceId(row.device_id));
            if identity::find(tx, org, &name).await?.is_none() {
                return refuse(UndoError::NotFound(id));
            }
            let survivor = lock_survivor(tx, org, &row).await?;
            let change = IdentityChange {
                device: survivor.id,
                merged: row.merged_device_id.map(DeviceId),
                former: row.former.0.clone(),
                became: row.became.0.clone(),
                undone: row.undone_at.is_some(),
            };
            let holding = holder(tx, org, &change.former).await?;
            let undo = decide_undo(&change, &survivor, holding.map(|model| DeviceId(model.id)));
            let undo = match undo {
                Ok(undo) => undo,
                Err(refusal) => return refuse(refusal.into()),
            };
            let restored = match undo.revive {
                Some(ended) => revive(tx, ended, undo).await?,
                None => create(tx, &survivor, &row, undo).await?,
            };
            if let Some(since) = row.binding_since {
                give_back(tx, survivor.id, restored, since).await?;
            }
            device_alias::Entity::delete_many()
                .filter(device_alias::Column::OrgId.eq(org.0))
                .filter(device_alias::Column::Identifier.eq(row.former.clone()))
                .filter(device_alias::Column::DeviceId.eq(row.device_id))
                .exec(tx)
                .await?;
            let undone = identity_change::ActiveModel {
                id: Set(row.id),
                undone_at: Set(Some(Micros(now))),
                ..Default::default()
            };
            undone.update(tx).await?;
            let subject = format!(
                "device {restored} ({}) is not device {} ({})",
                change.former, survivor.id, survivor.identifier
            );
            audit::done(tx, org, &actor, "device.separate", subject, now).await?;
            Ok(SeparatedDevices {
                kept: change.device,
                restored,
            })
        })
    }

    async fn list_refused_devices(
        &self,
        org: OrgId,
        reporter: Option<NodeId>,
        after: i64,
        limit: u32,
    ) -> Result<(Vec<RefusedDevice>, Option<i64>), StoreError> {
        let page = refused::page(self.reader(), Some(org), reporter, after, limit).await;
        page.map(|page| (page.refused, page.next))
            .during("list_refused_devices")
    }

    async fn sweep_refused_devices(
        &self,
        after: i64,
        now: Timestamp,
    ) -> Result<Option<i64>, StoreError> {
        let page = refused::page(self.reader(), None, None, after, refused::SWEPT).await;
        let page = page.during("sweep_refused_devices")?;
        let forget = page.to_forget(now);
        if !forget.is_empty() {
            transaction!(self, "sweep_refused_devices", |tx| {
                refused::forget(tx, &forget, now).await
            })?;
        }
        Ok(page.next)
    }
}

/// The most former names shown for a device.
const ALIASES: usize = 32;

/// Adds former names and the nodes that see them to devices, with one query each for all of them.
pub(super) async fn rows(
    db: &impl ConnectionTrait,
    models: Vec<device::Model>,
) -> Result<Vec<DeviceRow>, DbErr> {
    let mut aliases: BTreeMap<i64, Vec<DeviceAlias>> = BTreeMap::new();
    if !models.is_empty() {
        let changes = identity_change::Entity::find()
            .filter(identity_change::Column::DeviceId.is_in(models.iter().map(|model| model.id)))
            .filter(identity_change::Column::UndoneAt.is_null())
            .order_by_desc(identity_change::Column::Id)
            .all(db)
            .await?;
        for change in changes {
            let of_device = aliases.entry(change.device_id).or_default();
            if of_device.len() < ALIASES {
                of_device.push(alias(change));
            }
        }
    }
    let mut seen_by = sightings(db, &models).await?;
    let mut labels = details::labels(db, models.iter().map(|model| model.id)).await?;
    models
        .into_iter()
        .map(|model| {
            let aliases = aliases.remove(&model.id).unwrap_or_default();
            let seen_by = seen_by.remove(&model.id).unwrap_or_default();
            let labels = labels.remove(&model.id).unwrap_or_default();
            Ok(DeviceRow {
                seen_by,
                labels,
                ..row(model, aliases)?
            })
        })
        .collect()
}

/// The nodes that see devices which are attributed to another owner.
async fn sightings(
    db: &impl ConnectionTrait,
    models: &[device::Model],
) -> Result<BTreeMap<i64, Vec<DeviceSighting>>, DbErr> {
    let mut seen_by: BTreeMap<i64, Vec<DeviceSighting>> = BTreeMap::new();
    let owners: BTreeMap<i64, Option<i64>> = models
        .iter()
        .map(|model| (model.id, model.node_id))
        .collect();
    if owners.is_empty() {
        return Ok(seen_by);
    }
    let rows = device_sighting::Entity::find()
        .filter(device_sighting::Column::DeviceId.is_in(owners.keys().copied()))
        .order_by_asc(device_sighting::Column::NodeId)
        .all(db)
        .await?;
    for row in rows {
        // The attribution may have moved to a node that only saw the device before.
        if owners.get(&row.device_id) == Some(&Some(row.node_id)) {
            continue;
        }
        let sighting = DeviceSighting {
            node: NodeId(row.node_id),
            endpoint: Endpoint {
                ip: row.ip.0,
                port: codec::read_port(row.port)?,
            },
            first_seen: row.first_seen.0,
            last_seen: row.last_seen.0,
        };
        seen_by.entry(row.device_id).or_default().push(sighting);
    }
    Ok(seen_by)
}

fn alias(change: identity_change::Model) -> DeviceAlias {
    DeviceAlias {
        change: IdentityChangeId(change.id),
        identifier: change.former.0,
        reason: change.reason.0,
        merged: change.merged_device_id.map(DeviceId),
        node: change.node_id.map(NodeId),
        evidence: change.evidence,
        since: change.at.0,
    }
}

/// The current endpoint of a device, if it has one.
pub(super) fn endpoint(model: &device::Model) -> Result<Option<Endpoint>, DbErr> {
    match (model.ip, model.port) {
        (Some(ip), Some(port)) => Ok(Some(Endpoint {
            ip: ip.0,
            port: codec::read_port(port)?,
        })),
        _ => Ok(None),
    }
}

/// The facts that a row holds about its device.
pub(super) fn facts(model: &device::Model) -> DeviceFacts {
    take_facts(&mut model.clone())
}

/// Moves the facts out of a row and leaves it without them.
pub(super) fn take_facts(model: &mut device::Model) -> DeviceFacts {
    DeviceFacts {
        driver: take(&mut model.driver),
        scheme: take(&mut model.scheme),
        model: take(&mut model.model),
        manufacturer: take(&mut model.manufacturer),
        firmware: take(&mut model.firmware),
        mac: model.mac.take().map(|mac| mac.0),
        serial: Serial::new(&take(&mut model.serial)),
        host_name: model.host_name.take().map(|name| name.0),
        evidence: take(&mut model.evidence),
    }
}

/// Writes facts into a row.
pub(super) fn put_facts(model: &mut device::Model, facts: DeviceFacts) {
    model.driver = facts.driver;
    model.scheme = facts.scheme;
    model.model = facts.model;
    model.manufacturer = facts.manufacturer;
    model.firmware = facts.firmware;
    model.mac = facts.mac.map(AsText);
    model.serial = facts
        .serial
        .map_or_else(String::new, |serial| serial.as_str().to_owned());
    model.host_name = facts.host_name.map(AsText);
    model.evidence = facts.evidence;
}

/// The device as an API value.
pub(super) fn row(mut model: device::Model, aliases: Vec<DeviceAlias>) -> Result<DeviceRow, DbErr> {
    Ok(DeviceRow {
        facts: take_facts(&mut model),
        id: DeviceId(model.id),
        endpoint: endpoint(&model)?,
        identifier: model.identifier.0,
        node: model.node_id.map(NodeId),
        seen_by: Vec::new(),
        claimed_from: model.claimed_from_node_id.map(NodeId),
        first_seen: model.first_seen.0,
        last_seen: model.last_seen.0,
        missing_since: model.missing_since.map(|since| since.0),
        aliases,
        labels: Vec::new(),
    })
}
