//! Recording the devices that the server found. Candidate records are loaded and locked, `fleet_pairing`
//! decides on each row, and the changed records are written.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use fleet_core::DeviceReport;
use fleet_inventory::{Day, DayCounts};
use fleet_pairing::{
    Binding, DirectDecision, DirectRefusal, KnownDevice, SERVER, SharedIdentity, Sightings,
};

use crate::{
    DirectOutcome, NewSightings, Sighted,
    sql::{
        days, devices, endpoints,
        entity::{binding, device, device_alias, direct_lease},
        inserts,
        prelude::*,
    },
};

pub(super) async fn record(tx: &DatabaseTransaction, new: &NewSightings) -> Result<Sighted, DbErr> {
    let released = released(tx, new).await?;
    let mut records = Records::load(tx, new).await?;
    let mut outcomes = Vec::with_capacity(new.rows.len());
    for report in &new.rows {
        outcomes.push(if released.contains(&report.endpoint.ip) {
            records.decide(new, report)
        } else {
            RowOutcome::NotReleased
        });
    }
    let ids = records.save(tx).await?;
    days::add(tx, new.org, None, records.counts, new.now).await?;
    let shared = records.shared.clone();
    let refused = new
        .rows
        .iter()
        .zip(&outcomes)
        .filter_map(|(report, outcome)| {
            let RowOutcome::Refused(refusal) = outcome else {
                return None;
            };
            Some((report.endpoint, refusal.node()))
        });
    // The server found a node's device at an endpoint that the node has not reported. The address is never
    // dialed again.
    let refused: Vec<(Endpoint, NodeId)> = refused.collect();
    let names = endpoints::names(tx, refused.iter().map(|(_, node)| *node).collect()).await?;
    endpoints::record(tx, new.org, refused.into_iter(), new.now).await?;
    let outcomes = outcomes
        .into_iter()
        .map(|outcome| {
            Ok(match outcome {
                RowOutcome::NotReleased => DirectOutcome::NotReleased,
                RowOutcome::Refused(refusal) => DirectOutcome::OfNode {
                    refusal,
                    node_name: names.get(&refusal.node()).cloned().unwrap_or_default(),
                },
                RowOutcome::Stored(provisional) => {
                    let model = records.model(provisional, &ids)?;
                    DirectOutcome::Stored(Box::new(devices::row(model, Vec::new())?))
                }
            })
        })
        .collect::<Result<_, DbErr>>()?;
    Ok(Sighted { outcomes, shared })
}

/// The addresses that are currently released for this scan.
async fn released(tx: &DatabaseTransaction, new: &NewSightings) -> Result<BTreeSet<IpAddr>, DbErr> {
    use direct_lease::Column as C;
    let addresses = new.rows.iter().map(|report| AsText(report.endpoint.ip));
    let leases = direct_lease::Entity::find()
        .filter(C::OrgId.eq(new.org.0))
        .filter(C::ScanId.eq(AsText(new.scan)))
        .filter(C::Ip.is_in(addresses))
        .filter(C::Until.gt(Micros(new.now)))
        .all(tx)
        .await?;
    Ok(leases.into_iter().map(|lease| lease.ip.0).collect())
}

/// The result for a row. The id of a record that is not stored yet is provisional.
enum RowOutcome {
    Stored(DeviceId),
    Refused(DirectRefusal),
    NotReleased,
}

/// The loaded records.
struct Records {
    rules: Sightings,
    models: BTreeMap<DeviceId, device::Model>,
    changed: BTreeSet<DeviceId>,
    /// Identifiers that do not count.
    shared: Vec<SharedIdentity>,
    /// The devices that are seen for the first time today, and in all.
    counts: DayCounts,
}

impl Records {
    /// Loads and locks every record that a row may match: by its current and former identities, and the
    /// server's own records at the endpoints.
    async fn load(tx: &DatabaseTransaction, new: &NewSightings) -> Result<Self, DbErr> {
        let names: BTreeSet<_> = new.rows.iter().flat_map(identities).map(AsText).collect();
        let addresses = new.rows.iter().map(|report| AsText(report.endpoint.ip));
        let former = device_alias::Entity::find()
            .filter(device_alias::Column::OrgId.eq(new.org.0))
            .filter(device_alias::Column::Identifier.is_in(names.iter().cloned()))
            .all(tx)
            .await?;
        let live = || {
            device::Entity::find()
                .select_only()
                .column(device::Column::Id)
                .filter(device::Column::OrgId.eq(new.org.0))
                .filter(device::Column::DeletedAt.is_null())
        };
        let named = live().filter(device::Column::Identifier.is_in(names));
        let here = live()
            .filter(device::Column::NodeId.is_null())
            .filter(device::Column::Ip.is_in(addresses));
        let mut candidates: BTreeSet<i64> = former.iter().map(|alias| alias.device_id).collect();
        candidates.extend(named.into_tuple::<i64>().all(tx).await?);
        candidates.extend(here.into_tuple::<i64>().all(tx).await?);
        let models = device::Entity::find()
            .filter(device::Column::Id.is_in(candidates.iter().copied()))
            .order_by_asc(device::Column::Id)
            .lock(LockType::NoKeyUpdate)
            .all(tx)
            .await?;
        let bindings: BTreeMap<i64, Option<i64>> = binding::Entity::find()
            .filter(binding::Column::DeviceId.is_in(candidates))
            .all(tx)
            .await?
            .into_iter()
            .map(|row| (row.device_id, row.node_id))
            .collect();
        let known = models
            .iter()
            .map(|model| {
                Ok(KnownDevice {
                    id: DeviceId(model.id),
                    identifier: model.identifier.0.clone(),
                    former: former
                        .iter()
                        .filter(|alias| alias.device_id == model.id)
                        .map(|alias| alias.identifier.0.clone())
                        .collect(),
                    live: model.deleted_at.is_none(),
                    endpoint: devices::endpoint(model)?,
                    owner: model.node_id.map(NodeId),
                    binding: match bindings.get(&model.id) {
                        None => Binding::Free,
                        Some(None) => Binding::Server,
                        Some(Some(node)) => Binding::Node(NodeId(*node)),
                    },
                    shared: model.shared,
                    seen_at: new.seen.get(&DeviceId(model.id)).copied(),
                })
            })
            .collect::<Result<_, DbErr>>()?;
        Ok(Self {
            rules: Sightings::new(known),
            models: models
                .into_iter()
                .map(|model| (DeviceId(model.id), model))
                .collect(),
            changed: BTreeSet::new(),
            shared: Vec::new(),
            counts: DayCounts::default(),
        })
    }

    fn decide(&mut self, new: &NewSightings, report: &DeviceReport) -> RowOutcome {
        let known = self.shared.len();
        let decision = self.rules.decide(report, &mut self.shared);
        for shared in self.shared.get(known..).unwrap_or_default() {
            if let Some(model) = self.models.get_mut(&shared.record)
                && model.node_id.is_none()
            {
                model.shared = true;
                self.changed.insert(shared.record);
            }
        }
        let (device, losers) = match decision {
            DirectDecision::Refuse(refusal) => return RowOutcome::Refused(refusal),
            DirectDecision::Create {
                identifier,
                device,
                endpoint_taken_from,
            } => {
                let blank = devices::blank(new.org.0, None, identifier, new.now);
                self.models.insert(device, blank);
                (device, endpoint_taken_from)
            }
            DirectDecision::Update {
                device,
                endpoint_taken_from,
            } => (device, endpoint_taken_from),
        };
        for loser in losers {
            if let Some(model) = self.models.get_mut(&loser) {
                (model.ip, model.port) = (None, None);
                self.changed.insert(loser);
            }
        }
        if let Some(model) = self.models.get_mut(&device) {
            let is_new = device.0 < 0 && !self.changed.contains(&device);
            let is_first = Day::of(model.last_seen.0) < Day::of(new.now);
            self.counts.new += u64::from(is_new);
            self.counts.seen += u64::from(is_new || is_first);
            learn(model, report, new.now);
            self.changed.insert(device);
        }
        RowOutcome::Stored(device)
    }

    /// Writes the changed records. Returns the ids of created records.
    async fn save(
        &self,
        tx: &DatabaseTransaction,
    ) -> Result<BTreeMap<DeviceIdentifier, i64>, DbErr> {
        let changed = || {
            let with_model = |id: &DeviceId| Some((*id, self.models.get(id)?));
            // Provisional ids decrease, so this order is the order in which the devices were found.
            self.changed.iter().rev().filter_map(with_model)
        };
        // Provisional ids are negative.
        for (id, model) in changed().filter(|(id, _)| id.0 > 0) {
            device::Entity::update_many()
                .set(mutable(model))
                .filter(device::Column::Id.eq(id.0))
                .exec(tx)
                .await?;
        }
        let created = changed()
            .filter(|(id, _)| id.0 < 0)
            .map(|(_, model)| device::ActiveModel {
                id: NotSet,
                org_id: Set(model.org_id),
                identifier: Set(model.identifier.clone()),
                node_id: Set(None),
                first_seen: Set(model.first_seen),
                deleted_at: Set(None),
                kept_apart: Set(None),
                shared: Set(model.shared),
                claimed_from_node_id: Set(None),
                ..mutable(model)
            })
            .collect();
        let created = inserts::returning(tx, created).await?;
        Ok(created
            .into_iter()
            .map(|model| (model.identifier.0, model.id))
            .collect())
    }

    fn model(
        &self,
        device: DeviceId,
        ids: &BTreeMap<DeviceIdentifier, i64>,
    ) -> Result<device::Model, DbErr> {
        let mut model = self
            .models
            .get(&device)
            .cloned()
            .ok_or_else(|| unreadable("device", "a decided record is not there"))?;
        if device.0 < 0 {
            model.id = *ids
                .get(&model.identifier.0)
                .ok_or_else(|| unreadable("device", "an inserted row was not returned"))?;
        }
        Ok(model)
    }
}

/// Every identity under which a found device may be stored already.
fn identities(report: &DeviceReport) -> impl Iterator<Item = DeviceIdentifier> {
    report.identifiers(SERVER)
}

/// Copies the reported facts. Empty fields keep their stored value.
fn learn(model: &mut device::Model, report: &DeviceReport, now: Timestamp) {
    let mut facts = devices::take_facts(model);
    facts.update(&report.facts);
    devices::put_facts(model, facts);
    model.ip = Some(AsText(report.endpoint.ip));
    model.port = Some(i64::from(report.endpoint.port.number()));
    model.last_seen = Micros(now);
    model.missing_since = None;
}

/// The columns that a direct scan can change.
fn mutable(model: &device::Model) -> device::ActiveModel {
    let model = model.clone();
    device::ActiveModel {
        address_key: Set(devices::address_key(&model)),
        search_text: Set(devices::search_text(&model)),
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
        last_seen: Set(model.last_seen),
        shared: Set(model.shared),
        missing_since: Set(model.missing_since),
        ..Default::default()
    }
}
