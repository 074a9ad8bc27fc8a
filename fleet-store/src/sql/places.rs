//! Places that were ever attributed to a node, which the server itself never dials, and the order between
//! attributing a place and releasing its address for the server to dial.
//!
//! Both sides look at the other's rows before they write their own, so that they must not do so at the
//! same time. On PostgreSQL an advisory lock of the organization keeps them apart: shared for attributing,
//! exclusive for releasing. It is the last lock of every transaction; SQLite has one writer anyway.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use fleet_core::{Endpoint, NodeId, OrgId, Timestamp};
use sea_orm::{
    ColumnTrait, ConnectionTrait, DatabaseTransaction, DbBackend, DbErr, EntityTrait, QueryFilter,
    QuerySelect, Set, Statement, sea_query::OnConflict,
};

use super::{
    entity::{direct_lease, node, node_endpoint},
    inserts,
    value::{AsText, Micros},
};

/// The kind of our advisory locks, beside an organization.
const PLACES: i32 = 0x706c_6163;

/// Attributes places to a node for ever, unless the server itself is dialing at one of them: then nothing
/// is written, and its address is answered.
pub(crate) async fn attribute(
    tx: &DatabaseTransaction,
    org: OrgId,
    node: NodeId,
    places: &BTreeSet<Endpoint>,
    now: Timestamp,
) -> Result<Option<IpAddr>, DbErr> {
    if places.is_empty() {
        return Ok(None);
    }
    lock(tx, org, "SELECT pg_advisory_xact_lock_shared($1, $2)").await?;
    let addresses: BTreeSet<_> = places.iter().map(|place| AsText(place.ip)).collect();
    let dialed = direct_lease::Entity::find()
        .filter(direct_lease::Column::OrgId.eq(org.0))
        .filter(direct_lease::Column::Ip.is_in(addresses))
        .filter(direct_lease::Column::Until.gt(Micros(now)))
        .one(tx)
        .await?;
    if let Some(lease) = dialed {
        return Ok(Some(lease.ip.0));
    }
    remember(tx, org, places.iter().map(|place| (*place, node)), now).await?;
    Ok(None)
}

/// Keeps attribution and release of an organization's places out until this transaction ends.
pub(crate) async fn alone(tx: &DatabaseTransaction, org: OrgId) -> Result<(), DbErr> {
    lock(tx, org, "SELECT pg_advisory_xact_lock($1, $2)").await
}

/// Writes which node each place was attributed to; for places that nobody can be dialing meanwhile.
pub(crate) async fn remember(
    tx: &DatabaseTransaction,
    org: OrgId,
    places: impl Iterator<Item = (Endpoint, NodeId)>,
    now: Timestamp,
) -> Result<(), DbErr> {
    use node_endpoint::Column as C;
    let row = |(place, node): (Endpoint, NodeId)| node_endpoint::ActiveModel {
        org_id: Set(org.0),
        ip: Set(AsText(place.ip)),
        port: Set(i64::from(place.port.number())),
        node_id: Set(node.0),
        since: Set(Micros(now)),
    };
    let known = OnConflict::columns([C::OrgId, C::Ip, C::Port, C::NodeId])
        .do_nothing()
        .to_owned();
    inserts::all_or(tx, places.map(row).collect(), known).await
}

/// What these nodes call or called themselves.
pub(crate) async fn names(
    db: &impl ConnectionTrait,
    nodes: BTreeSet<NodeId>,
) -> Result<BTreeMap<NodeId, String>, DbErr> {
    if nodes.is_empty() {
        return Ok(BTreeMap::new());
    }
    let named = node::Entity::find()
        .select_only()
        .column(node::Column::Id)
        .column(node::Column::Name)
        .filter(node::Column::Id.is_in(nodes.into_iter().map(|node| node.0)))
        .into_tuple::<(i64, String)>()
        .all(db)
        .await?;
    Ok(named
        .into_iter()
        .map(|(id, name)| (NodeId(id), name))
        .collect())
}

async fn lock(tx: &DatabaseTransaction, org: OrgId, sql: &str) -> Result<(), DbErr> {
    if tx.get_database_backend() != DbBackend::Postgres {
        return Ok(());
    }
    // Two organizations that share a number only wait for each other.
    let [.., a, b, c, d] = org.0.to_be_bytes();
    let org = i32::from_be_bytes([a, b, c, d]);
    let lock =
        Statement::from_sql_and_values(DbBackend::Postgres, sql, [PLACES.into(), org.into()]);
    tx.execute_raw(lock).await?;
    Ok(())
}
