//! The timeline of devices, and the labels and notes of operators. `fleet_inventory::changes` decides which events a
//! report causes.

use std::collections::{BTreeMap, BTreeSet};

use fleet_core::{PairingStatus, Port};
use fleet_inventory::{Appearance, Change, EventKind, Label};
use sea_orm::sea_query::Query;

use super::{
    audit, codec, devices,
    entity::{
        device, device_event, device_label, device_note, device_pairing, identity_change, node,
        node_endpoint, operator,
    },
    identity, inserts,
    pairing::bindings,
};
use crate::{
    AnnotateError, DeviceDetail, DeviceDetails, DeviceEvent, DeviceName, DeviceNote,
    sql::prelude::*,
};

/// The most events of a device that are kept and shown.
const EVENTS: usize = 200;

/// An event to store.
pub(super) struct NewEvent {
    pub(super) device: i64,
    pub(super) kind: EventKind,
    pub(super) former: String,
    pub(super) became: String,
}

impl NewEvent {
    pub(super) fn new(device: DeviceId, change: Change) -> Self {
        Self {
            device: device.0,
            kind: change.kind,
            former: change.former,
            became: change.became,
        }
    }
}

#[async_trait]
impl DeviceDetails for SqlStore {
    async fn device_detail(
        &self,
        org: OrgId,
        device: DeviceId,
    ) -> Result<Option<DeviceDetail>, StoreError> {
        detail(self.reader(), org, device)
            .await
            .during("device_detail")
    }

    async fn label_devices(
        &self,
        org: OrgId,
        devices: BTreeSet<DeviceId>,
        add: BTreeSet<Label>,
        remove: BTreeSet<Label>,
        actor: Actor,
        now: Timestamp,
    ) -> Result<(), AnnotateError> {
        transaction!(self, "label_devices", |tx| {
            use device_label::{Column as C, Entity};
            let found = lock(tx, org, &devices).await?;
            let ids = || devices.iter().map(|device| device.0);
            let removed = remove.iter().map(Label::as_str);
            Entity::delete_many()
                .filter(C::DeviceId.is_in(ids()))
                .filter(C::Label.is_in(removed))
                .exec(tx)
                .await?;
            let row = |device: i64, label: &Label| device_label::ActiveModel {
                device_id: Set(device),
                label: Set(label.as_str().to_owned()),
                org_id: Set(org.0),
            };
            let rows = ids().flat_map(|device| add.iter().map(move |label| row(device, label)));
            let known = OnConflict::columns([C::DeviceId, C::Label])
                .do_nothing()
                .to_owned();
            inserts::all_or(tx, rows.collect(), known).await?;
            for (device, labels) in labels(tx, ids()).await? {
                if labels.len() > limits::DEVICE_LABELS {
                    return refuse(AnnotateError::TooMany {
                        device: DeviceId(device),
                        count: labels.len(),
                        most: limits::DEVICE_LABELS,
                    });
                }
            }
            let signed = |sign: char, labels: &BTreeSet<Label>| {
                let texts = labels.iter().map(|label| format!(" {sign}{label}"));
                texts.collect::<String>()
            };
            let change = format!("{}{}", signed('+', &add), signed('-', &remove));
            for device in &found {
                let subject = format!("{}:{change}", bindings::shown(device));
                audit::done(tx, org, &actor, "device.label", subject, now).await?;
            }
            Ok(())
        })
    }

    async fn set_device_note(
        &self,
        org: OrgId,
        device: DeviceId,
        text: String,
        operator: OperatorId,
        actor: Actor,
        now: Timestamp,
    ) -> Result<(), AnnotateError> {
        transaction!(self, "set_device_note", |tx| {
            use device_note::{Column as C, Entity};
            let found = lock(tx, org, &[device].into()).await?;
            if text.is_empty() {
                Entity::delete_by_id(device.0).exec(tx).await?;
            } else {
                let row = device_note::ActiveModel {
                    device_id: Set(device.0),
                    org_id: Set(org.0),
                    text: Set(text.clone()),
                    changed_by: Set(operator.0),
                    changed_at: Set(Micros(now)),
                };
                let newest = OnConflict::column(C::DeviceId)
                    .update_columns([C::Text, C::ChangedBy, C::ChangedAt])
                    .to_owned();
                Entity::insert(row)
                    .on_conflict(newest)
                    .exec_without_returning(tx)
                    .await?;
            }
            for device in &found {
                let length = text.chars().count();
                let subject = format!("{}: {length} characters", bindings::shown(device));
                audit::done(tx, org, &actor, "device.note", subject, now).await?;
            }
            Ok(())
        })
    }
}

/// Locks devices, all or none.
async fn lock(
    tx: &DatabaseTransaction,
    org: OrgId,
    devices: &BTreeSet<DeviceId>,
) -> Result<Vec<device::Model>, Failure<AnnotateError>> {
    let found = bindings::lock_devices(tx, org, devices.iter().map(|device| device.0)).await?;
    let known: BTreeSet<i64> = found.iter().map(|device| device.id).collect();
    match devices.iter().find(|device| !known.contains(&device.0)) {
        Some(missing) => refuse(AnnotateError::NotFound(*missing)),
        None => Ok(found),
    }
}

/// The labels of devices.
pub(super) async fn labels(
    db: &impl ConnectionTrait,
    devices: impl Iterator<Item = i64>,
) -> Result<BTreeMap<i64, Vec<String>>, DbErr> {
    use device_label::{Column as C, Entity};
    let rows = Entity::find()
        .filter(C::DeviceId.is_in(devices))
        .order_by_asc(C::Label)
        .all(db)
        .await?;
    let mut labels: BTreeMap<i64, Vec<String>> = BTreeMap::new();
    for row in rows {
        labels.entry(row.device_id).or_default().push(row.label);
    }
    Ok(labels)
}

/// What the timeline compares of a device.
pub(super) fn appearance(model: &device::Model) -> Appearance {
    let name = format!("{} {}", model.manufacturer, model.model);
    Appearance {
        endpoint: devices::endpoint(model).ok().flatten(),
        name: name.trim().to_owned(),
        host_name: model
            .host_name
            .as_ref()
            .map_or_else(String::new, |host| host.0.name.clone()),
        firmware: model.firmware.clone(),
        missing: model.missing_since.is_some(),
    }
}

/// Stores events, and deletes the oldest ones of these devices above the limit.
pub(super) async fn record(
    tx: &DatabaseTransaction,
    org: OrgId,
    node: Option<NodeId>,
    events: Vec<NewEvent>,
    now: Timestamp,
) -> Result<(), DbErr> {
    if events.is_empty() {
        return Ok(());
    }
    let devices: BTreeSet<i64> = events.iter().map(|event| event.device).collect();
    let row = |event: NewEvent| device_event::ActiveModel {
        id: NotSet,
        org_id: Set(org.0),
        device_id: Set(event.device),
        kind: Set(AsText(event.kind)),
        former: Set(event.former),
        became: Set(event.became),
        node_id: Set(node.map(|node| node.0)),
        at: Set(Micros(now)),
    };
    inserts::all(tx, events.into_iter().map(row).collect()).await?;
    // The ids are integers of the database.
    let devices: Vec<String> = devices.iter().map(ToString::to_string).collect();
    let sql = format!(
        "DELETE FROM device_event WHERE id IN (SELECT id FROM (SELECT id, row_number() OVER (PARTITION BY device_id ORDER BY id DESC) AS place FROM device_event WHERE device_id IN ({})) AS numbered WHERE place > {EVENTS})",
        devices.join(", ")
    );
    tx.execute_unprepared(&sql).await?;
    Ok(())
}

/// Stores the changes of pairing statuses. It reads the old statuses, so it comes before they are written.
pub(super) async fn record_pairings(
    tx: &DatabaseTransaction,
    org: OrgId,
    statuses: &[(i64, PairingStatus)],
    now: Timestamp,
) -> Result<(), DbErr> {
    use device_pairing::{Column as C, Entity};
    let known: BTreeMap<i64, PairingStatus> = Entity::find()
        .filter(C::DeviceId.is_in(statuses.iter().map(|(device, _)| *device)))
        .all(tx)
        .await?
        .into_iter()
        .map(|row| (row.device_id, row.status.0))
        .collect();
    let event = |(device, status): &(i64, PairingStatus)| {
        let former = known.get(device).copied();
        let former = former.unwrap_or(PairingStatus::Unpaired);
        (former != *status).then(|| NewEvent {
            device: *device,
            kind: EventKind::Pairing,
            former: former.to_string(),
            became: status.to_string(),
        })
    };
    let events = statuses.iter().filter_map(event).collect();
    record(tx, org, None, events, now).await
}

/// Copies the labels and the note of a merged record, unless the survivor has a note.
pub(super) async fn hand_over(
    tx: &DatabaseTransaction,
    from: DeviceId,
    to: DeviceId,
) -> Result<(), DbErr> {
    for sql in [
        format!(
            "INSERT INTO device_label (device_id, label, org_id) SELECT {to}, label, org_id FROM device_label WHERE device_id = {from} ON CONFLICT DO NOTHING"
        ),
        format!(
            "INSERT INTO device_note (device_id, org_id, text, changed_by, changed_at) SELECT {to}, org_id, text, changed_by, changed_at FROM device_note WHERE device_id = {from} ON CONFLICT DO NOTHING"
        ),
    ] {
        tx.execute_unprepared(&sql).await?;
    }
    Ok(())
}

/// Deletes what operators and the timeline know of devices.
pub(super) async fn forget(
    tx: &DatabaseTransaction,
    devices: impl Iterator<Item = i64> + Clone,
) -> Result<(), DbErr> {
    device_event::Entity::delete_many()
        .filter(device_event::Column::DeviceId.is_in(devices.clone()))
        .exec(tx)
        .await?;
    device_label::Entity::delete_many()
        .filter(device_label::Column::DeviceId.is_in(devices.clone()))
        .exec(tx)
        .await?;
    device_note::Entity::delete_many()
        .filter(device_note::Column::DeviceId.is_in(devices))
        .exec(tx)
        .await?;
    Ok(())
}

async fn detail(
    db: &impl ConnectionTrait,
    org: OrgId,
    device: DeviceId,
) -> Result<Option<DeviceDetail>, DbErr> {
    let Some(model) = identity::find(db, org, &DeviceName::Id(device)).await? else {
        return Ok(None);
    };
    let ports = ports(db, &model).await?;
    let events = events(db, &model).await?;
    let note = note(db, model.id).await?;
    let row = devices::rows(db, vec![model]).await?.into_iter().next();
    Ok(row.map(|device| DeviceDetail {
        device,
        ports,
        events,
        note,
    }))
}

/// The ports at which nodes of the device's site found devices at its address.
async fn ports(db: &impl ConnectionTrait, model: &device::Model) -> Result<Vec<Port>, DbErr> {
    use node_endpoint::{Column as C, Entity};
    let (Some(ip), Some(node)) = (model.ip, model.node_id) else {
        let own = model.port.map(codec::read_port).transpose()?;
        return Ok(own.into_iter().collect());
    };
    let site = Query::select()
        .column(node::Column::SiteId)
        .from(node::Entity)
        .and_where(node::Column::Id.eq(node))
        .to_owned();
    let nodes = Query::select()
        .column(node::Column::Id)
        .from(node::Entity)
        .and_where(node::Column::SiteId.in_subquery(site))
        .to_owned();
    let ports: Vec<i64> = Entity::find()
        .select_only()
        .column(C::Port)
        .distinct()
        .filter(C::OrgId.eq(model.org_id))
        .filter(C::Ip.eq(ip))
        .filter(C::NodeId.in_subquery(nodes))
        .order_by_asc(C::Port)
        .into_tuple()
        .all(db)
        .await?;
    ports.into_iter().map(codec::read_port).collect()
}

async fn events(
    db: &impl ConnectionTrait,
    model: &device::Model,
) -> Result<Vec<DeviceEvent>, DbErr> {
    use device_event::{Column as C, Entity};
    let stored = Entity::find()
        .filter(C::DeviceId.eq(model.id))
        .order_by_desc(C::Id)
        .limit(EVENTS as u64)
        .all(db)
        .await?;
    let event = |row: device_event::Model| DeviceEvent {
        kind: row.kind.0,
        former: row.former,
        became: row.became,
        reason: String::new(),
        undo: None,
        node: row.node_id.map(NodeId),
        at: row.at.0,
    };
    let mut events: Vec<DeviceEvent> = stored.into_iter().map(event).collect();
    let changes = identity_change::Entity::find()
        .filter(identity_change::Column::DeviceId.eq(model.id))
        .order_by_desc(identity_change::Column::Id)
        .limit(EVENTS as u64)
        .all(db)
        .await?;
    for change in changes {
        let merged = DeviceEvent {
            kind: EventKind::Merged,
            former: change.former.0.to_string(),
            became: change.became.0.to_string(),
            reason: change.reason.0.sentence().to_owned(),
            undo: change
                .undone_at
                .is_none()
                .then_some(IdentityChangeId(change.id)),
            node: change.node_id.map(NodeId),
            at: change.at.0,
        };
        if let Some(undone) = change.undone_at {
            events.push(DeviceEvent {
                kind: EventKind::Separated,
                node: None,
                at: undone.0,
                ..merged.clone()
            });
        }
        events.push(merged);
    }
    events.push(DeviceEvent {
        kind: EventKind::Found,
        former: String::new(),
        became: String::new(),
        reason: String::new(),
        undo: None,
        node: None,
        at: model.first_seen.0,
    });
    // Stable: events of one moment stay in their order.
    events.sort_by_key(|event| std::cmp::Reverse(event.at));
    events.truncate(EVENTS);
    Ok(events)
}

async fn note(db: &impl ConnectionTrait, device: i64) -> Result<Option<DeviceNote>, DbErr> {
    let Some(row) = device_note::Entity::find_by_id(device).one(db).await? else {
        return Ok(None);
    };
    let author = operator::Entity::find_by_id(row.changed_by).one(db).await?;
    Ok(Some(DeviceNote {
        text: row.text,
        author: author.map_or_else(String::new, |author| author.email),
        changed_at: row.changed_at.0,
    }))
}
