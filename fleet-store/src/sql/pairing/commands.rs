//! Pairing that operators asked nodes for: stored, and issued part by part, each part once. The node's row
//! is the lock for all of it, as for scans; then the pairing's own row, the command's, the devices'.

use fleet_core::{
    CommandId, CommandState, DeviceFacts, DeviceId, DeviceIdentifier, Endpoint, Epoch, NodeId,
    OrgId, PairingId, Timestamp,
    enrollment::NodeState,
    limits,
    outcome::{Code, Verdict},
};
use sea_orm::{
    ColumnTrait, ConnectionTrait, DatabaseTransaction, DbErr, EntityTrait, PaginatorTrait,
    QueryFilter, QueryOrder, QuerySelect, QueryTrait, Set, sea_query::LockType,
};

use super::ends::{canceled, conclude, finish, save};
use crate::{
    Actor, AuditEntry, CreatePairingError, NewPairing, PairPage, PairResultRow, PairTarget,
    PairingRow, PairingStep, StoreError,
    sql::{
        audit, codec,
        dispatch::count,
        entity::{pairing, pairing_command, pairing_target},
        inserts, nodes,
        streams::{current_epoch, in_flight},
        transaction::{Failure, refuse, unreadable},
        value::{AsText, Micros},
    },
};

/// The open pairing of a node, which has its priority: nothing else is issued to it meanwhile.
pub(crate) async fn is_open(db: &impl ConnectionTrait, node: NodeId) -> Result<bool, DbErr> {
    let open = pairing::Entity::find()
        .filter(pairing::Column::NodeId.eq(node.0))
        .filter(pairing::Column::EndedAt.is_null())
        .count(db)
        .await?;
    Ok(open > 0)
}

/// The nodes with an open pairing, as a subquery.
pub(crate) fn nodes_at_it() -> sea_orm::sea_query::SelectStatement {
    pairing::Entity::find()
        .select_only()
        .column(pairing::Column::NodeId)
        .filter(pairing::Column::EndedAt.is_null())
        .into_query()
}

pub(crate) async fn create(
    tx: &DatabaseTransaction,
    new: &NewPairing,
    actor: &Actor,
) -> Result<(), Failure<CreatePairingError>> {
    let Some(node) = nodes::lock_of(tx, new.org, new.node).await? else {
        return refuse(CreatePairingError::NodeNotFound(new.node));
    };
    if node.state.0 != NodeState::Confirmed {
        return refuse(CreatePairingError::NotConfirmed(new.node));
    }
    if is_open(tx, new.node).await? || !in_flight(tx, new.node).await?.is_empty() {
        return refuse(CreatePairingError::Busy(new.node));
    }
    let parts = u32::try_from(new.parts.len()).unwrap_or(u32::MAX);
    let row = pairing::ActiveModel {
        id: Set(AsText(new.id)),
        org_id: Set(new.org.0),
        node_id: Set(new.node.0),
        operator_id: Set(new.operator.0),
        parts: Set(i64::from(parts)),
        created_at: Set(Micros(new.now)),
        kept_until: Set(Micros(new.now.plus(limits::PAIRING_LEASE))),
        canceled_at: Set(None),
        ended_at: Set(None),
        code: Set(None),
        reason: Set(String::new()),
        last_sequence: Set(0),
    };
    pairing::Entity::insert(row)
        .exec_without_returning(tx)
        .await?;
    let rows: Vec<_> = new
        .parts
        .iter()
        .zip(0_i64..)
        .flat_map(|(targets, part)| targets.iter().map(move |target| (target, part)))
        .map(|(target, part)| pairing_target::ActiveModel {
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
            told: Set(None),
            error: Set(String::new()),
            sequence: Set(None),
        })
        .collect();
    let subject = format!("{} devices on node {} ({})", rows.len(), new.node, new.id);
    inserts::all(tx, rows).await?;
    let entry = AuditEntry::done(new.org, actor.clone(), "pairing.start", subject, new.now);
    audit::write(tx, entry).await?;
    Ok(())
}

/// Locks a pairing's node, and the pairing: open or not.
pub(super) async fn lock_with_node(
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
pub(super) async fn lock(
    tx: &DatabaseTransaction,
    id: PairingId,
) -> Result<Option<pairing::Model>, DbErr> {
    pairing::Entity::find_by_id(AsText(id))
        .lock(LockType::NoKeyUpdate)
        .one(tx)
        .await
}

/// The command of a node's pairing that is in flight: one at the most, by an index.
pub(crate) async fn pairing_in_flight(
    tx: &impl ConnectionTrait,
    node: NodeId,
) -> Result<Option<pairing_command::Model>, DbErr> {
    pairing_command::Entity::find()
        .filter(pairing_command::Column::NodeId.eq(node.0))
        .filter(pairing_command::Column::State.eq(AsText(CommandState::Issued)))
        .one(tx)
        .await
}

/// Locks a command of a node's pairing; none when it is unknown or another's.
pub(crate) async fn command_of(
    tx: &DatabaseTransaction,
    node: NodeId,
    id: CommandId,
) -> Result<Option<pairing_command::Model>, DbErr> {
    pairing_command::Entity::find_by_id(AsText(id))
        .filter(pairing_command::Column::NodeId.eq(node.0))
        .lock(LockType::NoKeyUpdate)
        .one(tx)
        .await
}

pub(crate) async fn issue(
    tx: &DatabaseTransaction,
    id: PairingId,
    epoch: Option<Epoch>,
    command: CommandId,
    now: Timestamp,
) -> Result<PairingStep, Failure<StoreError>> {
    let Some(mut row) = lock_with_node(tx, id).await? else {
        return Ok(PairingStep::Over);
    };
    if row.ended_at.is_some() {
        return Ok(PairingStep::Over);
    }
    let node = NodeId(row.node_id);
    let busy =
        pairing_in_flight(tx, node).await?.is_some() || !in_flight(tx, node).await?.is_empty();
    if row.canceled_at.is_some() && !busy {
        finish(tx, &mut row, canceled(), now).await?;
        return Ok(PairingStep::Over);
    }
    if epoch.is_none() && !busy {
        let why = "the node's stream was lost before it was sent: run it again";
        finish(tx, &mut row, (Code::Unavailable, why.to_owned()), now).await?;
        return Ok(PairingStep::Over);
    }
    row.kept_until = Micros(now.plus(limits::PAIRING_LEASE));
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
        .filter(pairing_target::Column::Told.is_null())
        .order_by_asc(pairing_target::Column::DeviceId)
        .all(tx)
        .await?;
    let targets: Vec<_> = rows
        .into_iter()
        .map(stored_target)
        .collect::<Result<_, _>>()?;
    // Every device of the part was released since: there is nothing to send, and nothing to wait for.
    let nothing = targets.is_empty();
    let deadline = now.plus(limits::COMMAND_DEADLINE);
    let issued = pairing_command::ActiveModel {
        id: Set(AsText(command)),
        pairing_id: Set(row.id),
        part: Set(part),
        node_id: Set(row.node_id),
        epoch: Set(epoch.0),
        state: Set(AsText(if nothing {
            CommandState::Ended
        } else {
            CommandState::Issued
        })),
        issued_at: Set(Micros(now)),
        deadline: Set(Micros(deadline)),
        ended_at: Set(nothing.then_some(Micros(now))),
    };
    pairing_command::Entity::insert(issued)
        .exec_without_returning(tx)
        .await?;
    if !nothing {
        return Ok(PairingStep::Issued { targets, deadline });
    }
    if part + 1 < row.parts {
        return Ok(PairingStep::Waits);
    }
    finish(tx, &mut row, (Code::Ok, String::new()), now).await?;
    Ok(PairingStep::Over)
}

pub(super) async fn issued_parts(tx: &impl ConnectionTrait, id: PairingId) -> Result<i64, DbErr> {
    let issued = pairing_command::Entity::find()
        .filter(pairing_command::Column::PairingId.eq(AsText(id)))
        .count(tx)
        .await?;
    Ok(count(issued))
}

fn stored_target(row: pairing_target::Model) -> Result<PairTarget, DbErr> {
    let identifier: DeviceIdentifier = row
        .identifier
        .parse()
        .map_err(|error| unreadable("pairing target", error))?;
    Ok(PairTarget {
        device: DeviceId(row.device_id),
        identifier,
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

pub(crate) async fn keep(
    tx: &DatabaseTransaction,
    id: PairingId,
    now: Timestamp,
) -> Result<bool, Failure<StoreError>> {
    let kept = pairing::ActiveModel {
        kept_until: Set(Micros(now.plus(limits::PAIRING_LEASE))),
        ..Default::default()
    };
    let changed = pairing::Entity::update_many()
        .set(kept)
        .filter(pairing::Column::Id.eq(AsText(id)))
        .filter(pairing::Column::EndedAt.is_null())
        .exec(tx)
        .await?;
    Ok(changed.rows_affected > 0)
}

/// What a new stream makes of the pairing in flight: it goes on when the node still runs it, else it
/// is lost for good, since its credentials are gone.
pub(crate) async fn adopt_or_lose(
    tx: &DatabaseTransaction,
    node: NodeId,
    epoch: Epoch,
    running: &[CommandId],
    now: Timestamp,
) -> Result<Option<crate::AdoptedCommand>, DbErr> {
    let Some(command) = pairing_in_flight(tx, node).await? else {
        return Ok(None);
    };
    if !running.contains(&command.id.0) {
        let why = "the node does not know the command any more: run it again";
        let lost = Verdict::failed(Code::Unavailable, why);
        conclude(tx, &command, CommandState::Lost, lost, now).await?;
        return Ok(None);
    }
    let adopted = pairing_command::ActiveModel {
        epoch: Set(epoch.0),
        ..Default::default()
    };
    pairing_command::Entity::update_many()
        .set(adopted)
        .filter(pairing_command::Column::Id.eq(command.id))
        .exec(tx)
        .await?;
    let row = lock(tx, command.pairing_id.0).await?;
    Ok(Some(crate::AdoptedCommand {
        command: command.id.0,
        priority: fleet_core::Priority::Interactive,
        deadline: command.deadline.0,
        canceled: row.is_some_and(|row| row.canceled_at.is_some()),
    }))
}

pub(crate) async fn read(
    db: &impl ConnectionTrait,
    org: OrgId,
    id: PairingId,
    after: i64,
    limit: u32,
) -> Result<Option<PairPage>, DbErr> {
    let row = pairing::Entity::find_by_id(AsText(id))
        .filter(pairing::Column::OrgId.eq(org.0))
        .one(db)
        .await?;
    let Some(row) = row else {
        return Ok(None);
    };
    let of_pairing =
        pairing_target::Entity::find().filter(pairing_target::Column::PairingId.eq(AsText(id)));
    let targets = of_pairing.clone().count(db).await?;
    // Not beyond what the row knows: a result stored since is told by the next page.
    let rows = of_pairing
        .filter(pairing_target::Column::Sequence.gt(after))
        .filter(pairing_target::Column::Sequence.lte(row.last_sequence))
        .order_by_asc(pairing_target::Column::Sequence)
        .limit(u64::from(limit))
        .all(db)
        .await?;
    let results = rows
        .into_iter()
        .filter_map(|target| {
            Some(PairResultRow {
                sequence: target.sequence?,
                device: DeviceId(target.device_id),
                identifier: target.identifier,
                told: target.told?.0,
                error: target.error,
            })
        })
        .collect();
    let ended = match &row.code {
        Some(code) => Some((codec::read_code(code)?, row.reason.clone())),
        None => None,
    };
    Ok(Some(PairPage {
        pairing: PairingRow {
            id,
            node: NodeId(row.node_id),
            operator: fleet_core::OperatorId(row.operator_id),
            created_at: row.created_at.0,
            targets,
            done: u64::try_from(row.last_sequence).unwrap_or(0),
            ended,
        },
        results,
    }))
}
