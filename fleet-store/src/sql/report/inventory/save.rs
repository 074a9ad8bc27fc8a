//! Writing the inventory changes of a report: one statement for each table, for any number of rows.

use std::collections::{BTreeMap, BTreeSet};

use fleet_inventory::{Change as Event, Day, DayCounts};
use fleet_pairing::{Inventory as Rules, Refused};
use sea_orm::sea_query::{Alias, ExprTrait};

use super::{
    Changed, Inventory, SavedIds, Sighting,
    held::{Change, Held},
};
use crate::sql::{
    days,
    details::{self, NewEvent},
    devices,
    entity::{binding, device, device_alias, device_sighting, identity_change, refused_device},
    inserts, pairing,
    prelude::*,
};

impl Inventory {
    /// Writes the changes: an insert of new devices, an upsert by id of the others, the former names with their
    /// reasons, and the refused devices. If another node's report created the same device in the meantime, the
    /// index is violated and the transaction is retried.
    pub(in crate::sql::report) async fn save(
        &self,
        tx: &DatabaseTransaction,
    ) -> Result<SavedIds, DbErr> {
        self.free_identifiers(tx).await?;
        let changed = |change| {
            self.held
                .iter()
                .filter(move |(_, held)| held.change() == change)
        };
        // Before the inserts: a merged or renamed record frees an identifier that a new one may
        // take. All these rows exist, so the upsert is an UPDATE of many rows.
        let updated = changed(Change::Updated)
            .map(|(_, held)| active(held.model()))
            .collect();
        let by_id = OnConflict::column(device::Column::Id)
            .update_columns(MUTABLE)
            .to_owned();
        inserts::all_or(tx, updated, by_id).await?;
        // Provisional ids decrease. In reverse order, devices get their ids in the order of their rows.
        let created = changed(Change::Created)
            .rev()
            .map(|(_, held)| device::ActiveModel {
                id: NotSet,
                ..active(held.model())
            })
            .collect();
        let created: BTreeMap<DeviceIdentifier, i64> = inserts::returning(tx, created)
            .await?
            .into_iter()
            .map(|device| (device.identifier.0, device.id))
            .collect();
        let stored_as = |(provisional, held): (&DeviceId, &Held)| match created
            .get(&held.model().identifier.0)
        {
            Some(id) => Ok((*provisional, DeviceId(*id))),
            None => Err(unreadable("device", "an inserted row was not returned")),
        };
        let ids = SavedIds(
            changed(Change::Created)
                .map(stored_as)
                .collect::<Result<_, _>>()?,
        );
        self.save_changes(tx, &ids).await?;
        self.save_refused(tx).await?;
        self.save_sightings(tx, &ids).await?;
        let node = Some(self.reporter.node);
        let changed = self.held.iter().flat_map(|(device, held)| {
            let event = |change: Event| NewEvent::new(ids.of(*device), change);
            held.changes().into_iter().map(event).collect::<Vec<_>>()
        });
        details::record(tx, self.org, node, changed.collect(), self.now).await?;
        days::add(tx, self.org, node, self.day_counts(), self.now).await?;
        Ok(ids)
    }

    /// The devices that this report shows for the first time today, and in all.
    fn day_counts(&self) -> DayCounts {
        let today = Day::of(self.now);
        let first = |held: &&Held| held.is_first_of(today);
        let seen = || self.held.values().filter(first);
        DayCounts {
            seen: seen().count() as u64,
            new: seen()
                .filter(|held| held.change() == Change::Created)
                .count() as u64,
            missing: 0,
        }
    }

    async fn save_sightings(&self, tx: &DatabaseTransaction, ids: &SavedIds) -> Result<(), DbErr> {
        use device_sighting::Column as C;
        let row = |((device, node), sighting): (&(DeviceId, NodeId), &Sighting)| {
            device_sighting::ActiveModel {
                device_id: Set(ids.of(*device).0),
                node_id: Set(node.0),
                org_id: Set(self.org.0),
                ip: Set(AsText(sighting.endpoint.ip)),
                port: Set(i64::from(sighting.endpoint.port.number())),
                first_seen: Set(sighting.first_seen),
                last_seen: Set(sighting.last_seen),
            }
        };
        let again = OnConflict::columns([C::DeviceId, C::NodeId])
            .update_columns([C::Ip, C::Port, C::LastSeen])
            .to_owned();
        inserts::all_or(tx, self.sightings.iter().map(row).collect(), again).await
    }

    /// Frees the identifiers of records that are renamed or merged. Identifiers are unique among live records, and
    /// the database checks each row of a statement by itself: a record could not take the identifier that another
    /// one gives up in the same report. The upsert that follows makes the renamed records live again.
    async fn free_identifiers(&self, tx: &DatabaseTransaction) -> Result<(), DbErr> {
        let freed: BTreeSet<i64> = self
            .changes
            .iter()
            .map(|change| change.merged.unwrap_or(change.device))
            .filter(|device| !Rules::is_provisional(*device))
            .map(|device| device.0)
            .collect();
        if freed.is_empty() {
            return Ok(());
        }
        device::Entity::update_many()
            .col_expr(device::Column::DeletedAt, Micros(self.now).into())
            .filter(device::Column::Id.is_in(freed))
            .exec(tx)
            .await?;
        Ok(())
    }

    /// Stores every former name with the reason for the change and the record's previous state.
    async fn save_changes(&self, tx: &DatabaseTransaction, ids: &SavedIds) -> Result<(), DbErr> {
        use device_alias::Column as C;
        if self.changes.is_empty() {
            return Ok(());
        }
        for change in &self.changes {
            if let Some(merged) = change.merged {
                let survivor = ids.of(change.device);
                hand_over(tx, ids.of(merged), survivor, change.binding_since).await?;
                details::hand_over(tx, ids.of(merged), survivor).await?;
            }
        }
        let alias = |change: &Changed| device_alias::ActiveModel {
            org_id: Set(self.org.0),
            identifier: Set(change.was.identifier.clone()),
            device_id: Set(ids.of(change.device).0),
            since: Set(Micros(self.now)),
        };
        let known = OnConflict::columns([C::OrgId, C::Identifier, C::DeviceId])
            .do_nothing()
            .to_owned();
        inserts::all_or(tx, self.changes.iter().map(alias).collect(), known).await?;
        let row = |change: &Changed| identity_change::ActiveModel {
            id: NotSet,
            org_id: Set(self.org.0),
            device_id: Set(ids.of(change.device).0),
            merged_device_id: Set(change.merged.map(|merged| ids.of(merged).0)),
            reason: Set(AsText(change.reason)),
            former: Set(change.was.identifier.clone()),
            became: Set(AsText(change.became.clone())),
            node_id: Set(Some(self.reporter.node.0)),
            former_node_id: Set(change.was.node_id),
            driver: Set(change.was.driver.clone()),
            model: Set(change.was.model.clone()),
            manufacturer: Set(change.was.manufacturer.clone()),
            evidence: Set(change.was.evidence.clone()),
            last_seen: Set(change.was.last_seen),
            binding_since: Set(change.binding_since),
            at: Set(Micros(self.now)),
            undone_at: Set(None),
        };
        inserts::all(tx, self.changes.iter().map(row).collect()).await
    }

    /// Stores refused devices for operators. The oldest rows of the reporter above the limit are deleted.
    async fn save_refused(&self, tx: &DatabaseTransaction) -> Result<(), DbErr> {
        use refused_device::{Column as C, Entity};
        if self.refused.is_empty() {
            return Ok(());
        }
        let row = |(endpoint, identifier, refused): &(Endpoint, DeviceIdentifier, Refused)| {
            refused_device::ActiveModel {
                id: NotSet,
                org_id: Set(self.org.0),
                node_id: Set(self.reporter.node.0),
                ip: Set(AsText(endpoint.ip)),
                port: Set(i64::from(endpoint.port.number())),
                identifier: Set(AsText(identifier.clone())),
                reason: Set(AsText(refused.reason)),
                device_id: Set(refused.record.0),
                count: Set(1),
                first_seen: Set(Micros(self.now)),
                last_seen: Set(Micros(self.now)),
            }
        };
        let sum = Expr::col((Entity, C::Count)).add(Expr::col((Alias::new("excluded"), C::Count)));
        let again = OnConflict::columns([C::NodeId, C::Ip, C::Port])
            .update_columns([C::Identifier, C::Reason, C::DeviceId, C::LastSeen])
            .value(C::Count, sum)
            .to_owned();
        inserts::all_or(tx, self.refused.iter().map(row).collect(), again).await?;
        let beyond: Vec<i64> = Entity::find()
            .select_only()
            .column(C::Id)
            .filter(C::NodeId.eq(self.reporter.node.0))
            .order_by_desc(C::LastSeen)
            .order_by_desc(C::Id)
            .offset(limits::REFUSED_DEVICES_A_NODE as u64)
            // A report adds at most this many rows, so the list cannot stay above its limit.
            .limit(limits::REPORT_DEVICES as u64)
            .into_tuple()
            .all(tx)
            .await?;
        if !beyond.is_empty() {
            Entity::delete_many()
                .filter(C::Id.is_in(beyond))
                .exec(tx)
                .await?;
        }
        Ok(())
    }
}

/// Transfers a binding row together with the pairing status. If the survivor is bound itself, its own binding
/// stays.
async fn hand_over(
    tx: &DatabaseTransaction,
    from: DeviceId,
    to: DeviceId,
    bound_since: Option<Micros>,
) -> Result<(), DbErr> {
    let ended = binding::Column::DeviceId.eq(from.0);
    if bound_since.is_some() {
        binding::Entity::update_many()
            .col_expr(binding::Column::DeviceId, Expr::value(to.0))
            .filter(ended)
            .exec(tx)
            .await?;
        pairing::hand_over(tx, from, to).await
    } else {
        binding::Entity::delete_many()
            .filter(ended)
            .exec(tx)
            .await?;
        pairing::forget_pairing(tx, from).await
    }
}

/// The columns of a device that a report can change.
const MUTABLE: [device::Column; 21] = [
    device::Column::Identifier,
    device::Column::NodeId,
    device::Column::Ip,
    device::Column::Port,
    device::Column::Scheme,
    device::Column::Driver,
    device::Column::Model,
    device::Column::Manufacturer,
    device::Column::Firmware,
    device::Column::Mac,
    device::Column::Serial,
    device::Column::Evidence,
    device::Column::HostName,
    device::Column::FirstSeen,
    device::Column::LastSeen,
    device::Column::DeletedAt,
    device::Column::Shared,
    device::Column::ClaimedFromNodeId,
    device::Column::AddressKey,
    device::Column::SearchText,
    device::Column::MissingSince,
];

fn active(model: &device::Model) -> device::ActiveModel {
    let model = model.clone();
    device::ActiveModel {
        address_key: Set(devices::address_key(&model)),
        search_text: Set(devices::search_text(&model)),
        id: Set(model.id),
        org_id: Set(model.org_id),
        identifier: Set(model.identifier),
        node_id: Set(model.node_id),
        ip: Set(model.ip),
        port: Set(model.port),
        scheme: Set(model.scheme),
        driver: Set(model.driver),
        model: Set(model.model),
        manufacturer: Set(model.manufacturer),
        firmware: Set(model.firmware),
        mac: Set(model.mac),
        serial: Set(model.serial),
        evidence: Set(model.evidence),
        host_name: Set(model.host_name),
        first_seen: Set(model.first_seen),
        last_seen: Set(model.last_seen),
        deleted_at: Set(model.deleted_at),
        kept_apart: Set(model.kept_apart),
        shared: Set(model.shared),
        claimed_from_node_id: Set(model.claimed_from_node_id),
        missing_since: Set(model.missing_since),
    }
}
