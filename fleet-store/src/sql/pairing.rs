//! Pairing that operators request from nodes. Each part of a pairing is issued once. The node's row is
//! the lock for all of it, as for scans. Then come the rows of the pairing and of the command, whose order does
//! not matter under that lock, and the devices.
//!
//! `bindings.rs` records which node a device is bound to, `ends.rs` how a pairing ends, `forwarded.rs` how it
//! reaches another server, `results.rs` what nodes report, and `targets.rs` which devices a node can pair.

pub(in crate::sql) mod bindings;
pub(crate) mod ends;
mod forwarded;
mod results;
mod targets;

pub(crate) use bindings::{forget_pairing, hand_over, release_all_of};
use ends::{canceled, finish, save};
use fleet_core::{DeviceFacts, ReplicaId, enrollment::NodeState, outcome::Code};

use super::{
    audit, codec,
    commands::{self, Work},
    entity::{command, pairing, pairing_target},
    inserts, nodes,
    streams::current_epoch,
};
use crate::{
    CancelPairingError, CreatePairingError, ForwardedPairing, NewPairResults, NewPairing, PairPage,
    PairResultRow, PairResultsAnswer, PairSelection, PairTarget, PairTargets, Pairing, PairingRow,
    PairingStep, ReportError, sql::prelude::*,
};

#[async_trait]
impl Pairing for SqlStore {
    async fn pair_targets(
        &self,
        org: OrgId,
        node: NodeId,
        selection: PairSelection,
    ) -> Result<PairTargets, StoreError> {
        let targets = targets::select(self.reader(), org, node, &selection).await;
        targets.during("pair_targets")
    }

    async fn create_pairing(
        &self,
        new: NewPairing,
        actor: Actor,
    ) -> Result<(), CreatePairingError> {
        transaction!(self, "create_pairing", |tx| {
            let Some(node) = nodes::lock_of(tx, new.org, new.node).await? else {
                return refuse(CreatePairingError::NodeNotFound(new.node));
            };
            if node.state.0 != NodeState::Confirmed {
                return refuse(CreatePairingError::NotConfirmed(new.node));
            }
            if commands::is_busy(tx, new.node).await? {
                return refuse(CreatePairingError::Busy(new.node));
            }
            let row = pairing::ActiveModel {
                id: Set(AsText(new.id)),
                org_id: Set(new.org.0),
                node_id: Set(new.node.0),
                operator_id: Set(new.operator.0),
                parts: Set(count(new.parts.len() as u64)),
                created_at: Set(Micros(new.now)),
                lease_until: Set(Micros(new.now.plus(limits::PAIRING_LEASE))),
                canceled_at: Set(None),
                ended_at: Set(None),
                code: Set(None),
                reason: Set(String::new()),
                last_sequence: Set(0),
            };
            pairing::Entity::insert(row)
                .exec_without_returning(tx)
                .await?;
            let parts = new.parts.iter().zip(0_i64..);
            let rows: Vec<_> = parts
                .flat_map(|(targets, part)| targets.iter().map(move |target| (target, part)))
                .map(|(target, part)| new_target(&new, target, part))
                .collect();
            let subject = format!("{} devices on node {} ({})", rows.len(), new.node, new.id);
            inserts::all(tx, rows).await?;
            if let Some(forwarded) = &new.forwarded {
                forwarded::store(tx, new.id, forwarded).await?;
            }
            audit::done(tx, new.org, &actor, "pairing.start", subject, new.now).await?;
            Ok(())
        })
    }

    async fn take_forwarded(
        &self,
        replica: ReplicaId,
        now: Timestamp,
    ) -> Result<Vec<ForwardedPairing>, StoreError> {
        let operation = "take_forwarded";
        let waiting = forwarded::waiting(self.reader(), replica).await;
        let mut taken = Vec::new();
        for id in waiting.during(operation)? {
            let one: Result<Option<ForwardedPairing>, StoreError> =
                transaction!(self, operation, |tx| {
                    let Some(mut row) = lock_with_node(tx, id).await?.filter(is_open) else {
                        return Ok(None);
                    };
                    Ok(forwarded::take(tx, &mut row, now).await?)
                });
            match commands::skip_unreadable(&id, one) {
                Ok(one) => taken.extend(one),
                // The rows of those that were taken are gone. The caller must get them.
                Err(error) if !taken.is_empty() => {
                    tracing::warn!(%id, %error, "a forwarded pairing could not be taken; it is tried again");
                    break;
                }
                Err(error) => return Err(error),
            }
        }
        Ok(taken)
    }

    async fn issue_pairing(
        &self,
        id: PairingId,
        epoch: Option<Epoch>,
        command: CommandId,
        now: Timestamp,
    ) -> Result<PairingStep, StoreError> {
        transaction!(self, "issue_pairing", |tx| {
            let Some(mut row) = lock_with_node(tx, id).await?.filter(is_open) else {
                return Ok(PairingStep::Over);
            };
            let node = NodeId(row.node_id);
            let busy = commands::in_flight(tx, node).await?.is_some();
            if row.canceled_at.is_some() && !busy {
                finish(tx, &mut row, canceled(), now).await?;
                return Ok(PairingStep::Over);
            }
            if epoch.is_none() && !busy {
                // Never sent on a later stream, because a pairing does not repeat by itself
                // (decision 0011).
                let why = "the node's stream was lost before it was sent: run it again";
                finish(tx, &mut row, (Code::Unavailable, why.to_owned()), now).await?;
                return Ok(PairingStep::Over);
            }
            // Other servers end a pairing whose lease is over.
            row.lease_until = Micros(now.plus(limits::PAIRING_LEASE));
            save(tx, &row).await?;
            let current = current_epoch(tx, node).await?;
            let Some(epoch) = epoch.filter(|epoch| !busy && current == Some(*epoch)) else {
                return Ok(PairingStep::Waits);
            };
            let part = issued_parts(tx, id).await?;
            if part >= row.parts {
                finish(tx, &mut row, (Code::Ok, String::new()), now).await?;
                return Ok(PairingStep::Over);
            }
            let rows = pairing_target::Entity::find()
                .filter(pairing_target::Column::PairingId.eq(row.id))
                .filter(pairing_target::Column::Part.eq(part))
                // A device that was released since the request has a result already.
                .filter(pairing_target::Column::Result.is_null())
                .order_by_asc(pairing_target::Column::DeviceId)
                .all(tx)
                .await?;
            let targets = rows
                .into_iter()
                .map(stored_target)
                .collect::<Result<Vec<_>, _>>()?;
            let work = Work::Pairing(id);
            let mut issued =
                commands::issued(command, (row.org_id, row.node_id), work, part, epoch, now);
            // Every device of the part was released in the meantime, which leaves nothing to send. The ended
            // command still counts the part as issued.
            let nothing = targets.is_empty();
            if nothing {
                issued.state = Set(AsText(CommandState::Ended));
                issued.ended_at = Set(Some(Micros(now)));
            }
            command::Entity::insert(issued)
                .exec_without_returning(tx)
                .await?;
            if !nothing {
                let deadline = now.plus(limits::COMMAND_DEADLINE);
                return Ok(PairingStep::Issued { targets, deadline });
            }
            if part + 1 < row.parts {
                return Ok(PairingStep::Waits);
            }
            finish(tx, &mut row, (Code::Ok, String::new()), now).await?;
            Ok(PairingStep::Over)
        })
    }

    async fn renew_pairing(&self, id: PairingId, now: Timestamp) -> Result<bool, StoreError> {
        transaction!(self, "renew_pairing", |tx| {
            let renewed = pairing::Entity::update_many()
                .col_expr(
                    pairing::Column::LeaseUntil,
                    Micros(now.plus(limits::PAIRING_LEASE)).into(),
                )
                .filter(pairing::Column::Id.eq(AsText(id)))
                .filter(pairing::Column::EndedAt.is_null())
                .exec(tx)
                .await?;
            Ok(renewed.rows_affected > 0)
        })
    }

    async fn end_pairing(
        &self,
        id: PairingId,
        code: Code,
        reason: String,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        transaction!(self, "end_pairing", |tx| {
            let Some(mut row) = lock_with_node(tx, id).await? else {
                return Ok(());
            };
            let command = commands::in_flight(tx, NodeId(row.node_id)).await?;
            if let Some(command) = command.filter(|command| command.pairing_id == Some(row.id)) {
                commands::end(tx, &command, CommandState::Lost, now).await?;
            }
            finish(tx, &mut row, (code, reason.clone()), now).await?;
            Ok(())
        })
    }

    async fn record_pair_results(
        &self,
        new: NewPairResults,
    ) -> Result<PairResultsAnswer, ReportError> {
        transaction!(self, "record_pair_results", |tx| {
            let not_in_flight = ReportError::NotInFlight(new.command);
            if nodes::lock_of(tx, new.org, new.node).await?.is_none() {
                return refuse(not_in_flight);
            }
            let Some(command) = commands::lock_issued(tx, new.node, new.command).await? else {
                return refuse(not_in_flight);
            };
            let Work::Pairing(id) = commands::work(&command)? else {
                return refuse(not_in_flight);
            };
            let Some(mut row) = lock(tx, id).await? else {
                return refuse(not_in_flight);
            };
            let (accepted, rejected) =
                results::record(tx, &new, &mut row, command.position).await?;
            save(tx, &row).await?;
            Ok(PairResultsAnswer {
                accepted,
                rejected,
                pairing: id,
            })
        })
    }

    async fn cancel_pairing(
        &self,
        org: OrgId,
        id: PairingId,
        actor: Actor,
        now: Timestamp,
    ) -> Result<Option<(NodeId, CommandId)>, CancelPairingError> {
        transaction!(self, "cancel_pairing", |tx| {
            let row = lock_with_node(tx, id).await?;
            let Some(mut row) = row.filter(|row| row.org_id == org.0) else {
                return refuse(CancelPairingError::NotFound(id));
            };
            if !is_open(&row) {
                return Ok(None);
            }
            let node = NodeId(row.node_id);
            if row.canceled_at.is_none() {
                let subject = format!("pairing {id} on node {node}");
                audit::done(tx, org, &actor, "pairing.cancel", subject, now).await?;
                row.canceled_at = Some(Micros(now));
            }
            let Some(command) = commands::in_flight(tx, node).await? else {
                finish(tx, &mut row, canceled(), now).await?;
                return Ok(None);
            };
            save(tx, &row).await?;
            Ok(Some((node, command.id.0)))
        })
    }

    async fn sweep_pairings(&self, now: Timestamp) -> Result<(), StoreError> {
        let operation = "sweep_pairings";
        for id in ends::abandoned(self.reader(), now)
            .await
            .during(operation)?
        {
            let ended: Result<(), StoreError> = transaction!(self, operation, |tx| {
                let Some(mut row) = lock_with_node(tx, id).await? else {
                    return Ok(());
                };
                let busy = commands::in_flight(tx, NodeId(row.node_id))
                    .await?
                    .is_some();
                // Its server may have renewed the lease since the list was read.
                if busy || row.lease_until.0 > now {
                    return Ok(());
                }
                let why = "the server was restarted before it was sent, and keeps no passwords: run it again";
                finish(tx, &mut row, (Code::Unavailable, why.to_owned()), now).await?;
                Ok(())
            });
            commands::skip_unreadable(&id, ended)?;
        }
        Ok(())
    }

    async fn read_pairing(
        &self,
        org: OrgId,
        id: PairingId,
        after: i64,
        limit: u32,
    ) -> Result<Option<PairPage>, StoreError> {
        let db = self.reader();
        let page = async {
            let row = pairing::Entity::find_by_id(AsText(id))
                .filter(pairing::Column::OrgId.eq(org.0))
                .one(db)
                .await?;
            let Some(row) = row else {
                return Ok(None);
            };
            let of_pairing = pairing_target::Entity::find()
                .filter(pairing_target::Column::PairingId.eq(AsText(id)));
            let targets = of_pairing.clone().count(db).await?;
            // The page covers the results up to the pairing row that was read. A result stored later is on the
            // next page.
            let rows = of_pairing
                .filter(pairing_target::Column::Sequence.gt(after))
                .filter(pairing_target::Column::Sequence.lte(row.last_sequence))
                .order_by_asc(pairing_target::Column::Sequence)
                .limit(u64::from(limit))
                .all(db)
                .await?;
            let result = |target: pairing_target::Model| {
                Some(PairResultRow {
                    sequence: target.sequence?,
                    device: DeviceId(target.device_id),
                    identifier: target.identifier,
                    result: target.result?.0,
                    error: target.error,
                })
            };
            let ended = match &row.code {
                Some(code) => Some((codec::read_code(code)?, row.reason.clone())),
                None => None,
            };
            Ok(Some(PairPage {
                pairing: PairingRow {
                    id,
                    node: NodeId(row.node_id),
                    operator: OperatorId(row.operator_id),
                    created_at: row.created_at.0,
                    targets,
                    done: read_count(row.last_sequence)?,
                    ended,
                },
                results: rows.into_iter().filter_map(result).collect(),
            }))
        };
        page.await.during("read_pairing")
    }
}

fn is_open(row: &pairing::Model) -> bool {
    row.ended_at.is_none()
}

/// The nodes with an open pairing, as a subquery.
pub(crate) fn pairing_nodes() -> sea_orm::sea_query::SelectStatement {
    pairing::Entity::find()
        .select_only()
        .column(pairing::Column::NodeId)
        .filter(pairing::Column::EndedAt.is_null())
        .into_query()
}

/// Locks a pairing's node, and then the pairing, open or ended.
async fn lock_with_node(
    tx: &DatabaseTransaction,
    id: PairingId,
) -> Result<Option<pairing::Model>, DbErr> {
    let Some(found) = pairing::Entity::find_by_id(AsText(id)).one(tx).await? else {
        return Ok(None);
    };
    nodes::lock_any(tx, found.node_id).await?;
    lock(tx, id).await
}

/// Locks a pairing under its node's lock.
pub(crate) async fn lock(
    tx: &DatabaseTransaction,
    id: PairingId,
) -> Result<Option<pairing::Model>, DbErr> {
    pairing::Entity::find_by_id(AsText(id))
        .lock(LockType::NoKeyUpdate)
        .one(tx)
        .await
}

async fn issued_parts(tx: &impl ConnectionTrait, id: PairingId) -> Result<i64, DbErr> {
    let issued = command::Entity::find()
        .filter(command::Column::PairingId.eq(AsText(id)))
        .count(tx)
        .await?;
    Ok(count(issued))
}

fn new_target(new: &NewPairing, target: &PairTarget, part: i64) -> pairing_target::ActiveModel {
    pairing_target::ActiveModel {
        pairing_id: Set(AsText(new.id)),
        device_id: Set(target.device.0),
        org_id: Set(new.org.0),
        part: Set(part),
        identifier: Set(target.identifier.to_string()),
        ip: Set(AsText(target.endpoint.ip)),
        port: Set(i64::from(target.endpoint.port.number())),
        scheme: Set(target.facts.scheme.clone()),
        driver: Set(target.facts.driver.clone()),
        manufacturer: Set(target.facts.manufacturer.clone()),
        firmware: Set(target.facts.firmware.clone()),
        outcome: Set(None),
        default_password: Set(None),
        result: Set(None),
        error: Set(String::new()),
        sequence: Set(None),
    }
}

fn stored_target(row: pairing_target::Model) -> Result<PairTarget, DbErr> {
    let identifier = row.identifier.parse();
    Ok(PairTarget {
        device: DeviceId(row.device_id),
        identifier: identifier.map_err(|error| unreadable("pairing target", error))?,
        endpoint: Endpoint {
            ip: row.ip.0,
            port: codec::read_port(row.port)?,
        },
        facts: DeviceFacts {
            scheme: row.scheme,
            driver: row.driver,
            manufacturer: row.manufacturer,
            firmware: row.firmware,
            ..DeviceFacts::default()
        },
    })
}
