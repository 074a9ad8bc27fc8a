//! Endpoints that were ever attributed to a node, which the server itself never dials. Attributing an endpoint
//! and leasing its address for dialing are ordered here.
//!
//! Each side reads the other's rows before it writes its own, so two such transactions must not overlap. On
//! PostgreSQL an advisory lock separates them: shared to attribute, exclusive to lease. It is the last lock of
//! every transaction. SQLite has only one writer.
//!
//! Both count by address, for all organizations together: the server's network belongs to one of them, and the
//! device at an address may be another's.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use sea_orm::{DbBackend, Statement};

use super::{
    entity::{direct_lease, node, node_endpoint},
    inserts,
};
use crate::sql::prelude::*;

/// The first half of the advisory lock's key. The other half is 0.
const ENDPOINTS: i32 = 0x706c_6163;

/// Attributes endpoints to a node permanently. If the server is dialing one of their addresses, this writes
/// nothing and returns that address.
pub(crate) async fn attribute(
    tx: &DatabaseTransaction,
    org: OrgId,
    node: NodeId,
    endpoints: &BTreeSet<Endpoint>,
    now: Timestamp,
) -> Result<Option<IpAddr>, DbErr> {
    if endpoints.is_empty() {
        return Ok(None);
    }
    lock(tx, "SELECT pg_advisory_xact_lock_shared($1, $2)").await?;
    let addresses: BTreeSet<_> = endpoints
        .iter()
        .map(|endpoint| AsText(endpoint.ip))
        .collect();
    // Under the lock, so no lease can begin between this check and the commit.
    let dialed = direct_lease::Entity::find()
        .filter(direct_lease::Column::Ip.is_in(addresses))
        .filter(direct_lease::Column::Until.gt(Micros(now)))
        .one(tx)
        .await?;
    if let Some(lease) = dialed {
        return Ok(Some(lease.ip.0));
    }
    record(
        tx,
        org,
        endpoints.iter().map(|endpoint| (*endpoint, node)),
        now,
    )
    .await?;
    Ok(None)
}

/// Blocks the attribution and leasing of endpoints until this transaction ends.
pub(crate) async fn lock_exclusive(tx: &DatabaseTransaction) -> Result<(), DbErr> {
    lock(tx, "SELECT pg_advisory_xact_lock($1, $2)").await
}

/// Writes the node that each endpoint was attributed to. The caller has checked that none of them is being
/// dialed.
pub(crate) async fn record(
    tx: &DatabaseTransaction,
    org: OrgId,
    endpoints: impl Iterator<Item = (Endpoint, NodeId)>,
    now: Timestamp,
) -> Result<(), DbErr> {
    use node_endpoint::Column as C;
    let row = |(endpoint, node): (Endpoint, NodeId)| node_endpoint::ActiveModel {
        org_id: Set(org.0),
        ip: Set(AsText(endpoint.ip)),
        port: Set(i64::from(endpoint.port.number())),
        node_id: Set(node.0),
        since: Set(Micros(now)),
    };
    let known = OnConflict::columns([C::OrgId, C::Ip, C::Port, C::NodeId])
        .do_nothing()
        .to_owned();
    inserts::all_or(tx, endpoints.map(row).collect(), known).await
}

/// The names of nodes, revoked ones included.
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

async fn lock(tx: &DatabaseTransaction, sql: &str) -> Result<(), DbErr> {
    if tx.get_database_backend() != DbBackend::Postgres {
        return Ok(());
    }
    let lock =
        Statement::from_sql_and_values(DbBackend::Postgres, sql, [ENDPOINTS.into(), 0.into()]);
    tx.execute_raw(lock).await?;
    Ok(())
}
