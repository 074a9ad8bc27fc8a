//! Pairings that one server stores for another, which holds the node's stream. The row exists until that server takes
//! it, or until the pairing ends.

use fleet_core::ReplicaId;

use super::ends::save;
use crate::{
    ForwardedCredentials, ForwardedPairing,
    sql::{
        commands,
        entity::{forwarded_pairing, pairing},
        prelude::*,
    },
};

pub(super) async fn store(
    tx: &DatabaseTransaction,
    id: PairingId,
    forwarded: &ForwardedCredentials,
) -> Result<(), DbErr> {
    let row = forwarded_pairing::ActiveModel {
        pairing_id: Set(AsText(id)),
        replica: Set(Bytes16(forwarded.replica.0)),
        sealed: Set(forwarded.sealed.clone()),
    };
    forwarded_pairing::Entity::insert(row)
        .exec_without_returning(tx)
        .await?;
    Ok(())
}

/// The pairings that wait for a server.
pub(super) async fn waiting(
    db: &impl ConnectionTrait,
    replica: ReplicaId,
) -> Result<Vec<PairingId>, DbErr> {
    let ids = forwarded_pairing::Entity::find()
        .filter(forwarded_pairing::Column::Replica.eq(Bytes16(replica.0)))
        .order_by_asc(forwarded_pairing::Column::PairingId)
        .select_only()
        .column(forwarded_pairing::Column::PairingId)
        .into_tuple::<String>()
        .all(db)
        .await?;
    let readable = |id: String| commands::read_id("forwarded_pairing", &id);
    Ok(ids.into_iter().filter_map(readable).collect())
}

/// Removes the credentials of a locked pairing, and renews its lease for the server that took them.
pub(super) async fn take(
    tx: &DatabaseTransaction,
    row: &mut pairing::Model,
    now: Timestamp,
) -> Result<Option<ForwardedPairing>, DbErr> {
    let found = forwarded_pairing::Entity::find_by_id(row.id)
        .one(tx)
        .await?;
    let Some(found) = found else {
        return Ok(None);
    };
    remove(tx, row.id.0).await?;
    row.lease_until = Micros(now.plus(limits::PAIRING_LEASE));
    save(tx, row).await?;
    Ok(Some(ForwardedPairing {
        pairing: row.id.0,
        node: NodeId(row.node_id),
        parts: read_count(row.parts)?,
        sealed: found.sealed,
    }))
}

pub(super) async fn remove(tx: &DatabaseTransaction, id: PairingId) -> Result<(), DbErr> {
    forwarded_pairing::Entity::delete_many()
        .filter(forwarded_pairing::Column::PairingId.eq(AsText(id)))
        .exec(tx)
        .await?;
    Ok(())
}
