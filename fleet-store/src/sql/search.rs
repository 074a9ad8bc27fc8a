//! Searching the inventory. `fleet_inventory::Search` is the parsed text; this file converts it to conditions and reads
//! pages by keyset.

mod conditions;

use std::cmp::Reverse;

pub(super) use conditions::matching;
use fleet_core::PairingStatus;
use fleet_inventory::Search;
use sea_orm::{FromQueryResult, JoinType, Order, Statement, sea_query::ExprTrait};

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
        let selected = matching(org, search, node, now);
        // Without a search, indexes count the whole inventory.
        let found = if *search == Search::default() && node.is_none() {
            facets(self.reader(), selected).await
        } else {
            facets_of(self.reader(), selected).await
        };
        found.during("device_facets")
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
    let mut selected = matching(org, &query.search, query.node, query.now);
    if query.order != DeviceOrder::Id && query.search != Search::default() {
        let found = few(db, selected.clone()).await?;
        if let Some(ids) = found {
            selected = Condition::all().add(device::Column::Id.is_in(ids));
        }
    }
    let mut select = device::Entity::find().filter(selected);
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

/// The most devices that are sorted after they were found.
const FEW: u64 = 1_000;

/// The devices that match, if they are few. SQLite would read an index of the order to its end for them, with one look
/// into the table for each entry.
async fn few(db: &impl ConnectionTrait, matching: Condition) -> Result<Option<Vec<i64>>, DbErr> {
    let ids: Vec<i64> = device::Entity::find()
        .filter(matching)
        .select_only()
        .column(device::Column::Id)
        // Without an order, so that the index of a condition is used and not that of the order.
        .limit(FEW + 1)
        .into_tuple()
        .all(db)
        .await?;
    Ok((ids.len() as u64 <= FEW).then_some(ids))
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
    // A comparison of rows is a range of the index. PostgreSQL reads the index from its start for an OR.
    let row = Expr::tuple([
        Expr::col(column.as_column_ref()),
        Expr::col(id.as_column_ref()),
    ]);
    let position = Expr::tuple([Expr::value(value), Expr::value(after.device.0)]);
    let beyond = if descending {
        ExprTrait::lt(row, position)
    } else {
        ExprTrait::gt(row, position)
    };
    Ok(Condition::all().add(beyond))
}

/// Counts the devices that a search selects, with one read of them: the search is costly, and its result is small.
async fn facets_of(db: &impl ConnectionTrait, matching: Condition) -> Result<DeviceFacets, DbErr> {
    let inner = device::Entity::find()
        .filter(matching)
        .select_only()
        .columns([
            device::Column::Manufacturer,
            device::Column::Model,
            device::Column::Firmware,
            device::Column::NodeId,
        ])
        .column(device_pairing::Column::Status)
        .join(
            JoinType::LeftJoin,
            device::Entity::belongs_to(device_pairing::Entity)
                .from(device::Column::Id)
                .to(device_pairing::Column::DeviceId)
                .into(),
        )
        .build(db.get_database_backend());
    let part = |column: &str| {
        format!(
            "SELECT * FROM (SELECT '{column}' AS kind, CAST({column} AS TEXT) AS value, count(*) AS devices FROM found GROUP BY {column} ORDER BY count(*) DESC, {column} LIMIT {FACETS}) AS by_{column}"
        )
    };
    let columns = ["manufacturer", "model", "firmware", "node_id", "status"];
    let sql = format!(
        "WITH found AS MATERIALIZED ({}) SELECT 'total' AS kind, CAST(NULL AS TEXT) AS value, count(*) AS devices FROM found UNION ALL {}",
        inner.sql,
        columns.map(part).join(" UNION ALL ")
    );
    let statement = Statement { sql, ..inner };
    let mut facets = DeviceFacets::default();
    let mut statuses = Vec::new();
    for row in Counted::find_by_statement(statement).all(db).await? {
        let devices = read_count(row.devices)?;
        let value = row.value.clone().unwrap_or_default();
        match row.kind.as_str() {
            "total" => facets.total = devices,
            "manufacturer" => facets.makes.push((value, devices)),
            "model" => facets.models.push((value, devices)),
            "firmware" => facets.firmware.push((value, devices)),
            "node_id" => {
                let node = row.value.map(|id| id.parse()).transpose();
                let node = node.map_err(|_| unreadable("device", "its node is not a number"))?;
                facets.nodes.push((node.map(NodeId), devices));
            }
            _ => {
                let status = row.value.map(|text| text.parse().map(AsText)).transpose();
                let status = status.map_err(|_| unreadable("pairing", "it has no known status"))?;
                statuses.push((status, row.devices));
            }
        }
    }
    // The order of the parts of a union is not defined.
    for texts in [&mut facets.makes, &mut facets.models, &mut facets.firmware] {
        texts.sort_by(|a, b| (Reverse(a.1), &a.0).cmp(&(Reverse(b.1), &b.0)));
    }
    facets
        .nodes
        .sort_by_key(|(node, devices)| (Reverse(*devices), *node));
    facets.pairing = by_status(statuses)?;
    Ok(facets)
}

/// A value of a facet.
#[derive(FromQueryResult)]
struct Counted {
    kind: String,
    value: Option<String>,
    devices: i64,
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
    by_status(rows)
}

fn by_status(
    rows: Vec<(Option<AsText<PairingStatus>>, i64)>,
) -> Result<Vec<(PairingStatus, u64)>, DbErr> {
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
