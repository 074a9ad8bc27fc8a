//! Looking up devices by current or former names, and undoing the merge that a report made.

use fleet_pairing::{DeviceRecord, Undo, keep_apart};

use super::{
    codec, devices,
    entity::{binding, device, identity_change},
    pairing,
    report::inventory::load,
};
use crate::{DeviceName, sql::prelude::*};

/// The longest chain of merged records that is followed. It exceeds the number of identity kinds of a device.
const HOPS: usize = 64;

/// The live device that has a name.
pub(super) async fn find(
    db: &impl ConnectionTrait,
    org: OrgId,
    name: &DeviceName,
) -> Result<Option<device::Model>, DbErr> {
    match name {
        DeviceName::Id(id) => living(db, org, *id).await,
        DeviceName::Identifier(identifier) => {
            if let Some(model) = holder(db, org, identifier).await? {
                return Ok(Some(model));
            }
            let former = identity_change::Entity::find()
                .filter(identity_change::Column::OrgId.eq(org.0))
                .filter(identity_change::Column::Former.eq(AsText(identifier.clone())))
                .filter(identity_change::Column::UndoneAt.is_null())
                .order_by_desc(identity_change::Column::Id)
                .one(db)
                .await?;
            match former {
                Some(change) => living(db, org, DeviceId(change.device_id)).await,
                None => Ok(None),
            }
        }
    }
}

/// The live record with an identifier.
pub(super) async fn holder(
    db: &impl ConnectionTrait,
    org: OrgId,
    identifier: &DeviceIdentifier,
) -> Result<Option<device::Model>, DbErr> {
    device::Entity::find()
        .filter(device::Column::OrgId.eq(org.0))
        .filter(device::Column::Identifier.eq(AsText(identifier.clone())))
        .filter(device::Column::DeletedAt.is_null())
        .one(db)
        .await
}

/// Returns the record with this id, or the surviving record that it was merged into.
async fn living(
    db: &impl ConnectionTrait,
    org: OrgId,
    mut id: DeviceId,
) -> Result<Option<device::Model>, DbErr> {
    for _ in 0..HOPS {
        let model = device::Entity::find_by_id(id.0)
            .filter(device::Column::OrgId.eq(org.0))
            .one(db)
            .await?;
        match model {
            None => return Ok(None),
            Some(model) if model.deleted_at.is_none() => return Ok(Some(model)),
            Some(_) => {}
        }
        let ended = identity_change::Entity::find()
            .filter(identity_change::Column::MergedDeviceId.eq(id.0))
            .filter(identity_change::Column::UndoneAt.is_null())
            .order_by_desc(identity_change::Column::Id)
            .one(db)
            .await?;
        match ended {
            Some(change) => id = DeviceId(change.device_id),
            None => return Ok(None),
        }
    }
    Err(unreadable("identity_change", "records end in a circle"))
}

/// Locks the records of a change in the order of their ids, and returns the surviving record.
pub(super) async fn lock_survivor(
    tx: &DatabaseTransaction,
    org: OrgId,
    change: &identity_change::Model,
) -> Result<DeviceRecord, DbErr> {
    for _ in 0..HOPS {
        let Some(found) = living(tx, org, DeviceId(change.device_id)).await? else {
            break;
        };
        let concerned = [Some(found.id), change.merged_device_id];
        let locked = device::Entity::find()
            .filter(device::Column::Id.is_in(concerned.into_iter().flatten()))
            .order_by_asc(device::Column::Id)
            .lock(LockType::NoKeyUpdate)
            .all(tx)
            .await?;
        let survivor = locked.into_iter().find(|model| model.id == found.id);
        // The record may have been merged into another between the two reads. In that case the other record
        // survives.
        if let Some(survivor) = survivor.filter(|model| model.deleted_at.is_none()) {
            let survivor = [survivor];
            let bindings = load::bindings(tx, &survivor).await?;
            let records = load::records(tx, &survivor, &bindings).await?;
            if let Some(record) = records.into_iter().next() {
                return Ok(record);
            }
        }
    }
    Err(unreadable("identity_change", "its device is gone"))
}

/// Restores the merged record with its stored facts.
pub(super) async fn revive(
    tx: &DatabaseTransaction,
    ended: DeviceId,
    undo: Undo,
) -> Result<DeviceId, DbErr> {
    let Some(model) = device::Entity::find_by_id(ended.0).one(tx).await? else {
        return Err(unreadable("device", "a record that ended is gone"));
    };
    let known = codec::read_identifiers(model.kept_apart.as_deref())?;
    let revived = device::ActiveModel {
        id: Set(ended.0),
        deleted_at: Set(None),
        kept_apart: Set(codec::write_identifiers(&keep_apart(
            &known,
            undo.keep_apart,
        ))),
        ..Default::default()
    };
    revived.update(tx).await?;
    Ok(ended)
}

/// Creates a record for the former name, with the state from when the name changed.
pub(super) async fn create(
    tx: &DatabaseTransaction,
    survivor: &DeviceRecord,
    change: &identity_change::Model,
    undo: Undo,
) -> Result<DeviceId, DbErr> {
    let serial = match &change.former.0 {
        DeviceIdentifier::Serial(serial) => serial.as_str().to_owned(),
        DeviceIdentifier::Mac(_) | DeviceIdentifier::Auto(_) => String::new(),
    };
    let first_seen = device::Entity::find_by_id(survivor.id.0)
        .one(tx)
        .await?
        .map_or(change.last_seen, |model| model.first_seen);
    let former = change.former.0.clone();
    let named = device::Model {
        model: change.model.clone(),
        manufacturer: change.manufacturer.clone(),
        serial: serial.clone(),
        ..devices::blank(
            change.org_id,
            change.former_node_id,
            former,
            change.last_seen.0,
        )
    };
    let created = device::ActiveModel {
        id: NotSet,
        org_id: Set(change.org_id),
        identifier: Set(change.former.clone()),
        // Attribution is never cleared: the record returns to its former owner.
        node_id: Set(change.former_node_id),
        ip: Set(None),
        port: Set(None),
        scheme: Set(String::new()),
        driver: Set(change.driver.clone()),
        model: Set(change.model.clone()),
        manufacturer: Set(change.manufacturer.clone()),
        firmware: Set(String::new()),
        mac: Set(None),
        serial: Set(serial),
        evidence: Set(change.evidence.clone()),
        host_name: Set(None),
        first_seen: Set(first_seen),
        last_seen: Set(change.last_seen),
        deleted_at: Set(None),
        kept_apart: Set(codec::write_identifiers(&undo.keep_apart)),
        shared: Set(false),
        claimed_from_node_id: Set(None),
        address_key: Set(String::new()),
        search_text: Set(devices::search_text(&named)),
        missing_since: Set(None),
    };
    Ok(DeviceId(created.insert(tx).await?.id))
}

/// Returns the transferred binding, unless the survivor was bound again in the meantime.
pub(super) async fn give_back(
    tx: &DatabaseTransaction,
    from: DeviceId,
    to: DeviceId,
    since: Micros,
) -> Result<(), DbErr> {
    let given = binding::Entity::update_many()
        .col_expr(binding::Column::DeviceId, Expr::value(to.0))
        .filter(binding::Column::DeviceId.eq(from.0))
        .filter(binding::Column::CreatedAt.eq(since))
        .exec(tx)
        .await?;
    if given.rows_affected > 0 {
        pairing::hand_over(tx, from, to).await?;
    }
    Ok(())
}
