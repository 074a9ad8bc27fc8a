//! The devices that a report may touch: loaded and locked at once, changed in memory row by row as
//! `fleet_pairing` decides, and written at once.

mod load;

use std::collections::{BTreeMap, BTreeSet};

use fleet_core::{
    DeviceId, DeviceIdentifier, DeviceReport, Endpoint, NodeId, OrgId, RejectReason, Serial,
    Timestamp,
};
use fleet_pairing::{Inventory as Rules, ReportDecision};
use sea_orm::{DatabaseTransaction, DbErr, NotSet, Set, sea_query::OnConflict};

use crate::{
    NewReport,
    sql::{
        entity::{device, device_alias, node_endpoint},
        inserts,
        transaction::unreadable,
        value::{AsText, Micros},
    },
};

/// A device in memory. Until it is saved, a new one goes by the provisional id of the rules.
struct Held {
    model: device::Model,
    change: Change,
    /// What an operator sees of it has changed.
    visibly: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Change {
    None,
    Updated,
    Created,
}

pub(super) struct Inventory {
    org: OrgId,
    reporter: NodeId,
    now: Timestamp,
    rules: Rules,
    held: BTreeMap<DeviceId, Held>,
    /// Former names to keep.
    aliases: BTreeSet<(DeviceIdentifier, DeviceId)>,
    /// Places where the reporter was taken at its word.
    places: BTreeSet<Endpoint>,
}

/// The ids that provisional ones became.
pub(super) struct SavedIds(BTreeMap<DeviceId, DeviceId>);

impl SavedIds {
    pub(super) fn of(&self, device: DeviceId) -> DeviceId {
        self.0.get(&device).copied().unwrap_or(device)
    }
}

impl Inventory {
    /// Loads and locks every device that a row may turn out to be: by its identity, and by its place on
    /// the reporter's network. Four statements, whatever the number of rows.
    pub(super) async fn load(
        tx: &DatabaseTransaction,
        new: &NewReport,
        reports: &[&DeviceReport],
    ) -> Result<Self, DbErr> {
        let models = if reports.is_empty() {
            Vec::new()
        } else {
            load::locked(tx, new, reports).await?
        };
        let records = if models.is_empty() {
            Vec::new()
        } else {
            load::records(tx, &models).await?
        };
        let held = |model: device::Model| {
            (
                DeviceId(model.id),
                Held {
                    model,
                    change: Change::None,
                    visibly: false,
                },
            )
        };
        Ok(Self {
            org: new.org,
            reporter: new.node,
            now: new.now,
            rules: Rules::new(records),
            held: models.into_iter().map(held).collect(),
            aliases: BTreeSet::new(),
            places: BTreeSet::new(),
        })
    }

    /// Judges a row and does at once what is decided, for the rows after it.
    pub(super) fn decide(&mut self, report: &DeviceReport) -> Result<DeviceId, RejectReason> {
        let planned = self.rules.decide(self.reporter, report)?;
        let (device, losers) = match planned.decision {
            ReportDecision::Refuse(reason) => return Err(reason),
            ReportDecision::Create {
                endpoint_taken_from,
            } => {
                let created = Held {
                    model: self.blank(report),
                    change: Change::Created,
                    visibly: true,
                };
                self.held.insert(planned.device, created);
                (planned.device, endpoint_taken_from)
            }
            ReportDecision::Update {
                device,
                rekey,
                endpoint_taken_from,
            } => {
                if let (Some(identifier), Some(held)) = (rekey, self.held.get_mut(&device)) {
                    let former = std::mem::replace(&mut held.model.identifier.0, identifier);
                    held.visibly = true;
                    self.aliases.insert((former, device));
                }
                (device, endpoint_taken_from)
            }
        };
        for loser in losers {
            if let Some(held) = self.held.get_mut(&loser) {
                held.displace();
            }
        }
        if let Some(held) = self.held.get_mut(&device) {
            held.take(self.reporter, report, self.now);
        }
        self.places.insert(report.endpoint);
        Ok(device)
    }

    fn blank(&self, report: &DeviceReport) -> device::Model {
        device::Model {
            id: 0,
            org_id: self.org.0,
            identifier: AsText(report.identifier(self.reporter)),
            node_id: Some(self.reporter.0),
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
            first_seen: Micros(self.now),
            last_seen: Micros(self.now),
            deleted_at: None,
        }
    }

    /// The device as it is after the rows so far.
    pub(super) fn device(&self, device: DeviceId) -> Option<&device::Model> {
        self.held.get(&device).map(|held| &held.model)
    }

    /// Whether an operator would see a difference to what was stored before this report.
    pub(super) fn changed_visibly(&self, device: DeviceId) -> bool {
        self.held.get(&device).is_some_and(|held| held.visibly)
    }

    /// Writes what changed: an insert of the new ones, an upsert by id of the others, former names and
    /// places. A device that another node's report made meanwhile violates the index and starts the
    /// transaction over.
    pub(super) async fn save(&self, tx: &DatabaseTransaction) -> Result<SavedIds, DbErr> {
        let changed = |change| {
            self.held
                .iter()
                .filter(move |(_, held)| held.change == change)
        };
        let updated = changed(Change::Updated)
            .map(|(_, held)| active(&held.model))
            .collect();
        let by_id = OnConflict::column(device::Column::Id)
            .update_columns(MUTABLE)
            .to_owned();
        inserts::all_or(tx, updated, by_id).await?;
        let created = changed(Change::Created)
            .map(|(_, held)| device::ActiveModel {
                id: NotSet,
                ..active(&held.model)
            })
            .collect();
        let created: BTreeMap<DeviceIdentifier, i64> = inserts::returning(tx, created)
            .await?
            .into_iter()
            .map(|device| (device.identifier.0, device.id))
            .collect();
        let ids = changed(Change::Created)
            .map(
                |(provisional, held)| match created.get(&held.model.identifier.0) {
                    Some(id) => Ok((*provisional, DeviceId(*id))),
                    None => Err(unreadable("device", "an inserted row was not returned")),
                },
            )
            .collect::<Result<_, _>>()?;
        let ids = SavedIds(ids);
        self.save_aliases(tx, &ids).await?;
        self.save_places(tx).await?;
        Ok(ids)
    }

    async fn save_aliases(&self, tx: &DatabaseTransaction, ids: &SavedIds) -> Result<(), DbErr> {
        use device_alias::Column as C;
        let row = |(former, device): &(DeviceIdentifier, DeviceId)| device_alias::ActiveModel {
            org_id: Set(self.org.0),
            identifier: Set(AsText(former.clone())),
            device_id: Set(ids.of(*device).0),
            since: Set(Micros(self.now)),
        };
        let rows = self.aliases.iter().map(row).collect();
        let known = OnConflict::columns([C::OrgId, C::Identifier, C::DeviceId])
            .do_nothing()
            .to_owned();
        inserts::all_or(tx, rows, known).await
    }

    /// Remembers every place ever attributed to a node: the server itself never dials those.
    async fn save_places(&self, tx: &DatabaseTransaction) -> Result<(), DbErr> {
        use node_endpoint::Column as C;
        let row = |place: &Endpoint| node_endpoint::ActiveModel {
            org_id: Set(self.org.0),
            ip: Set(AsText(place.ip)),
            port: Set(i64::from(place.port.number())),
            node_id: Set(self.reporter.0),
            since: Set(Micros(self.now)),
        };
        let rows = self.places.iter().map(row).collect();
        let known = OnConflict::columns([C::OrgId, C::Ip, C::Port, C::NodeId])
            .do_nothing()
            .to_owned();
        inserts::all_or(tx, rows, known).await
    }
}

impl Held {
    /// Takes over what a row says: what it leaves blank stays as it was known.
    fn take(&mut self, reporter: NodeId, report: &DeviceReport, now: Timestamp) {
        let model = &mut self.model;
        for (known, said) in [
            (&mut model.scheme, report.scheme.as_str()),
            (&mut model.driver, report.driver.as_str()),
            (&mut model.model, report.model.as_str()),
            (&mut model.manufacturer, report.manufacturer.as_str()),
            (&mut model.firmware, report.firmware.as_str()),
            (
                &mut model.serial,
                report.serial.as_ref().map_or("", Serial::as_str),
            ),
            (&mut model.evidence, report.evidence.as_str()),
        ] {
            if !said.is_empty() && known != said {
                said.clone_into(known);
                self.visibly = true;
            }
        }
        model.mac = report.mac.map(AsText).or(model.mac);
        model.node_id = Some(reporter.0);
        model.ip = Some(AsText(report.endpoint.ip));
        model.port = Some(i64::from(report.endpoint.port.number()));
        model.last_seen = Micros(now);
        self.touch();
    }

    /// Another device is at its place: where it is now is not known.
    fn displace(&mut self) {
        self.model.ip = None;
        self.model.port = None;
        self.touch();
    }

    fn touch(&mut self) {
        if self.change == Change::None {
            self.change = Change::Updated;
        }
    }
}

/// What a report can change of a device.
const MUTABLE: [device::Column; 13] = [
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
    device::Column::LastSeen,
];

fn active(model: &device::Model) -> device::ActiveModel {
    let model = model.clone();
    device::ActiveModel {
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
        first_seen: Set(model.first_seen),
        last_seen: Set(model.last_seen),
        deleted_at: Set(model.deleted_at),
    }
}
