//! Searching the inventory. `fleet_inventory::Search` is the parsed text; this file converts it to conditions and reads
//! pages by keyset.

mod conditions;

use std::cmp::Reverse;

pub(super) use conditions::matching;
use fleet_core::PairingStatus;
use fleet_inventory::Search;
use sea_orm::{JoinType, Order};

use super::{
    devices,
    entity::{device, device_pairing},
};
use crate::{
    DeviceFacets, DeviceOrder, DevicePage, DevicePosition, DeviceQuery, DeviceSearch,
    sql::prelude::*,
};

/// The most values of a facet.
const FACETS: u64 = 20;

#[async_trait]
impl DeviceSearch for SqlStore {
    async fn search_devices(
        &self,
        org: OrgId,
        query: DeviceQuery,
    ) -> Result<DevicePage, StoreError> {
        page(self.reader(), org, query)
            .await
            .during("search_devices")
    }

    async fn device_facets(
        &self,
        org: OrgId,
        search: &Search,
        node: Option<NodeId>,
        now: Timestamp,
    ) -> Result<DeviceFacets, StoreError> {
        facets(self.reader(), matching(org, search, node, now))
            .await
            .during("device_facets")
    }
}

async fn page(
    db: &impl ConnectionTrait,
    org: OrgId,
    query: DeviceQuery,
) -> Result<DevicePage, DbErr> {
    let order = if query.descending {
        Order::Desc
    } else {
        Order::Asc
    };
    let column = column(query.order);
    let mut select =
        device::Entity::find().filter(matching(org, &query.search, query.node, query.now));
    if let Some(after) = &query.after {
        select = select.filter(beyond(query.order, query.descending, after)?);
    }
    if query.order != DeviceOrder::Id {
        select = select.order_by(column, order.clone());
    }
    let limit = u64::from(query.limit);
    let mut models = select
        .order_by(device::Column::Id, order)
        // One more shows whether there is another page.
        .limit(limit + 1)
        .all(db)
        .await?;
    let has_more = models.len() as u64 > limit;
    models.truncate(query.limit as usize);
    let last = models.last().filter(|_| has_more);
    let next = last.map(|model| DevicePosition {
        key: key(query.order, model),
        device: DeviceId(model.id),
    });
    Ok(DevicePage {
        devices: devices::rows(db, models).await?,
        next,
    })
}

fn column(order: DeviceOrder) -> device::Column {
    match order {
        DeviceOrder::Id => device::Column::Id,
        DeviceOrder::LastSeen => device::Column::LastSeen,
        DeviceOrder::FirstSeen => device::Column::FirstSeen,
        DeviceOrder::Model => device::Column::Model,
        DeviceOrder::Firmware => device::Column::Firmware,
        DeviceOrder::Address => device::Column::AddressKey,
    }
}

fn key(order: DeviceOrder, model: &device::Model) -> String {
    match order {
        DeviceOrder::Id => String::new(),
        DeviceOrder::LastSeen => model.last_seen.0.as_micros().to_string(),
        DeviceOrder::FirstSeen => model.first_seen.0.as_micros().to_string(),
        DeviceOrder::Model => model.model.clone(),
        DeviceOrder::Firmware => model.firmware.clone(),
        DeviceOrder::Address => model.address_key.clone(),
    }
}

/// The devices after a position. Equal keys continue by id.
fn beyond(
    order: DeviceOrder,
    descending: bool,
    after: &DevicePosition,
) -> Result<Condition, DbErr> {
    let id = device::Column::Id;
    let later = if descending {
        id.lt(after.device.0)
    } else {
        id.gt(after.device.0)
    };
    let column = column(order);
    let value: sea_orm::Value = match order {
        DeviceOrder::Id => return Ok(Condition::all().add(later)),
        DeviceOrder::LastSeen | DeviceOrder::FirstSeen => {
            let micros: i64 = after
                .key
                .parse()
                .map_err(|_| unreadable("position", "its key is not a time"))?;
            micros.into()
        }
        DeviceOrder::Model | DeviceOrder::Firmware | DeviceOrder::Address => {
            after.key.clone().into()
        }
    };
    let further = if descending {
        column.lt(value.clone())
    } else {
        column.gt(value.clone())
    };
    let equal = Condition::all().add(column.eq(value)).add(later);
    Ok(Condition::any().add(further).add(equal))
}

async fn facets(db: &impl ConnectionTrait, matching: Condition) -> Result<DeviceFacets, DbErr> {
    let select = || device::Entity::find().filter(matching.clone());
    let texts = async |column: device::Column| {
        let values: Vec<(String, i64)> = select()
            .select_only()
            .column(column)
            .column_as(device::Column::Id.count(), "devices")
            .group_by(column)
            .order_by_desc(device::Column::Id.count())
            .order_by_asc(column)
            .limit(FACETS)
            .into_tuple()
            .all(db)
            .await?;
        values
            .into_iter()
            .map(|(value, devices)| Ok((value, read_count(devices)?)))
            .collect::<Result<Vec<_>, DbErr>>()
    };
    let nodes: Vec<(Option<i64>, i64)> = select()
        .select_only()
        .column(device::Column::NodeId)
        .column_as(device::Column::Id.count(), "devices")
        .group_by(device::Column::NodeId)
        .order_by_desc(device::Column::Id.count())
        .order_by_asc(device::Column::NodeId)
        .limit(FACETS)
        .into_tuple()
        .all(db)
        .await?;
    let nodes = nodes
        .into_iter()
        .map(|(node, devices)| Ok((node.map(NodeId), read_count(devices)?)))
        .collect::<Result<Vec<_>, DbErr>>()?;
    Ok(DeviceFacets {
        total: select().count(db).await?,
        makes: texts(device::Column::Manufacturer).await?,
        models: texts(device::Column::Model).await?,
        firmware: texts(device::Column::Firmware).await?,
        nodes,
        pairing: pairing(db, select()).await?,
    })
}

async fn pairing(
    db: &impl ConnectionTrait,
    select: Select<device::Entity>,
) -> Result<Vec<(PairingStatus, u64)>, DbErr> {
    let rows: Vec<(Option<AsText<PairingStatus>>, i64)> = select
        .select_only()
        .column(device_pairing::Column::Status)
        .column_as(device::Column::Id.count(), "devices")
        .join(
            JoinType::LeftJoin,
            device::Entity::belongs_to(device_pairing::Entity)
                .from(device::Column::Id)
                .to(device_pairing::Column::DeviceId)
                .into(),
        )
        .group_by(device_pairing::Column::Status)
        .into_tuple()
        .all(db)
        .await?;
    let mut found: Vec<(PairingStatus, u64)> = Vec::new();
    for (status, devices) in rows {
        // A device without a row was never paired.
        let status = status.map_or(PairingStatus::Unpaired, |status| status.0);
        let devices = read_count(devices)?;
        match found.iter_mut().find(|(known, _)| *known == status) {
            Some((_, sum)) => *sum += devices,
            None => found.push((status, devices)),
        }
    }
    found.sort_by_key(|(status, devices)| (Reverse(*devices), status.as_str()));
    Ok(found)
}
