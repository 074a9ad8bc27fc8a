//! How commands of pairing and pairing itself end: by ack, loss, deadline, cancel, revocation. A pairing
//! ends in [`finish`] alone, which leaves no target without a word.

use fleet_core::{
    CommandId, CommandState, DeviceId, NodeId, OrgId, PairingId, PairingStatus, Timestamp, limits,
    outcome::{Code, Grade, Verdict},
};
use fleet_pairing::{PairWord, decide_result};
use sea_orm::{
    ColumnTrait, ConnectionTrait, DatabaseTransaction, DbErr, EntityTrait, QueryFilter, QueryOrder,
    QuerySelect, QueryTrait, Set,
    sea_query::{LockType, OnConflict},
};

use super::{
    bindings::{lock_devices, pairings, write_status},
    commands::{command_of, issued_parts, lock, lock_with_node, pairing_in_flight},
};
use crate::{
    Actor, AuditEntry, CancelPairingError, StoreError,
    sql::{
        audit,
        entity::{pairing, pairing_command, pairing_target},
        inserts, nodes,
        transaction::{Failure, refuse},
        value::{AsText, Micros},
    },
};

/// How pairing ends that its operator has canceled.
pub(super) fn canceled() -> (Code, String) {
    (
        Code::Canceled,
        "canceled; what was paired stays paired".to_owned(),
    )
}


async fn end_command(
    tx: &DatabaseTransaction,
    command: &pairing_command::Model,
    state: CommandState,
    now: Timestamp,
) -> Result<(), DbErr> {
    let ended = pairing_command::ActiveModel {
        state: Set(AsText(state)),
        ended_at: Set(Some(Micros(now))),
        ..Default::default()
    };
    pairing_command::Entity::update_many()
        .set(ended)
        .filter(pairing_command::Column::Id.eq(command.id))
        .exec(tx)
        .await?;
    Ok(())
}

/// Ends a command that its node has had: devices of which it said nothing have failed. With the last
/// part, with a failure, or when it was canceled, the pairing ends too.
pub(crate) async fn conclude(
    tx: &DatabaseTransaction,
    command: &pairing_command::Model,
    state: CommandState,
    verdict: Verdict,
    now: Timestamp,
) -> Result<Option<PairingId>, DbErr> {
    let Some(mut row) = lock(tx, command.pairing_id.0).await? else {
        return Ok(None);
    };
    end_command(tx, command, state, now).await?;
    settle_silent(tx, &mut row, command, &verdict, now).await?;
    let id = row.id.0;
    let well = matches!(verdict.grade, Grade::Complete | Grade::Partial);
    let last = issued_parts(tx, id).await? >= row.parts;
    if row.canceled_at.is_some() {
        finish(tx, &mut row, canceled(), now).await?;
    } else if !well {
        finish(tx, &mut row, (verdict.code, verdict.reason), now).await?;
    } else if last {
        finish(tx, &mut row, (Code::Ok, String::new()), now).await?;
    } else {
        save(tx, &row).await?;
    }
    Ok(Some(id))
}

async fn settle_silent(
    tx: &DatabaseTransaction,
    row: &mut pairing::Model,
    command: &pairing_command::Model,
    verdict: &Verdict,
    now: Timestamp,
) -> Result<(), DbErr> {
    let org = OrgId(row.org_id);
    let mut rest = untold(tx, row, Some(command.part)).await?;
    let ids: Vec<i64> = rest.iter().map(|target| target.device_id).collect();
    lock_devices(tx, org, ids.iter().copied()).await?;
    // Again under the devices' locks: one of them may have been released meanwhile.
    rest = untold(tx, row, Some(command.part)).await?;
    let known = pairings(tx, org, &ids).await?;
    let why = if verdict.reason.is_empty() {
        "the node ended the command without a word about it"
    } else {
        verdict.reason.as_str()
    };
    let mut statuses = Vec::new();
    for target in &mut rest {
        if target.told.is_some() {
            continue;
        }
        let current = known
            .get(&DeviceId(target.device_id))
            .map_or(PairingStatus::Unpaired, |pairing| pairing.status);
        let settled = decide_result(PairWord::Silent, current);
        target.told = Some(AsText(settled.told));
        why.clone_into(&mut target.error);
        if settled.status != current {
            statuses.push((target.device_id, settled.status, why.to_owned()));
        }
    }
    write_status(tx, org, statuses, now).await?;
    tell(tx, row, rest).await
}

/// Ends a pairing, once: devices that were never sent, or not answered for, are told as failed and
/// stay as they were.
pub(super) async fn finish(
    tx: &DatabaseTransaction,
    row: &mut pairing::Model,
    (code, reason): (Code, String),
    now: Timestamp,
) -> Result<(), DbErr> {
    if row.ended_at.is_some() {
        return Ok(());
    }
    let mut rest = untold(tx, row, None).await?;
    for target in &mut rest {
        if target.told.is_none() {
            target.told = Some(AsText(PairingStatus::Failed));
            target.error = format!("not tried: {reason}");
        }
    }
    tell(tx, row, rest).await?;
    row.ended_at = Some(Micros(now));
    row.code = Some(code.as_str().to_owned());
    row.reason = reason;
    save(tx, row).await
}

/// Targets without a place in the order of results.
async fn untold(
    tx: &DatabaseTransaction,
    row: &pairing::Model,
    part: Option<i64>,
) -> Result<Vec<pairing_target::Model>, DbErr> {
    let mut query = pairing_target::Entity::find()
        .filter(pairing_target::Column::PairingId.eq(row.id))
        .filter(pairing_target::Column::Sequence.is_null());
    if let Some(part) = part {
        query = query.filter(pairing_target::Column::Part.eq(part));
    }
    query
        .order_by_asc(pairing_target::Column::DeviceId)
        .all(tx)
        .await
}

/// Gives targets their places in the order of results and writes them.
pub(super) async fn tell(
    tx: &DatabaseTransaction,
    row: &mut pairing::Model,
    targets: Vec<pairing_target::Model>,
) -> Result<(), DbErr> {
    use pairing_target::Column as C;
    let rows = targets
        .into_iter()
        .map(|mut target| {
            row.last_sequence += 1;
            target.sequence = Some(row.last_sequence);
            active(target)
        })
        .collect();
    let by_key = OnConflict::columns([C::PairingId, C::DeviceId])
        .update_columns([
            C::Outcome,
            C::DefaultPassword,
            C::Told,
            C::Error,
            C::Sequence,
        ])
        .to_owned();
    inserts::all_or(tx, rows, by_key).await
}

fn active(row: pairing_target::Model) -> pairing_target::ActiveModel {
    pairing_target::ActiveModel {
        pairing_id: Set(row.pairing_id),
        device_id: Set(row.device_id),
        org_id: Set(row.org_id),
        part: Set(row.part),
        identifier: Set(row.identifier),
        ip: Set(row.ip),
        port: Set(row.port),
        scheme: Set(row.scheme),
        driver: Set(row.driver),
        manufacturer: Set(row.manufacturer),
        firmware: Set(row.firmware),
        outcome: Set(row.outcome),
        default_password: Set(row.default_password),
        told: Set(row.told),
        error: Set(row.error),
        sequence: Set(row.sequence),
    }
}

pub(super) async fn save(tx: &DatabaseTransaction, row: &pairing::Model) -> Result<(), DbErr> {
    let changed = pairing::ActiveModel {
        kept_until: Set(row.kept_until),
        canceled_at: Set(row.canceled_at),
        ended_at: Set(row.ended_at),
        code: Set(row.code.clone()),
        reason: Set(row.reason.clone()),
        last_sequence: Set(row.last_sequence),
        ..Default::default()
    };
    pairing::Entity::update_many()
        .set(changed)
        .filter(pairing::Column::Id.eq(row.id))
        .exec(tx)
        .await?;
    Ok(())
}

/// Ends the pairing of a node that is being revoked, under its lock.
pub(crate) async fn end_of_revoked(
    tx: &DatabaseTransaction,
    node: NodeId,
    now: Timestamp,
) -> Result<(), DbErr> {
    if let Some(command) = pairing_in_flight(tx, node).await? {
        end_command(tx, &command, CommandState::Ended, now).await?;
    }
    let open = pairing::Entity::find()
        .filter(pairing::Column::NodeId.eq(node.0))
        .filter(pairing::Column::EndedAt.is_null())
        .lock(LockType::NoKeyUpdate)
        .all(tx)
        .await?;
    for mut row in open {
        let why = format!("node {node} was revoked");
        finish(tx, &mut row, (Code::FailedPrecondition, why), now).await?;
    }
    Ok(())
}


/// Commands of pairing that are past their deadline, with their nodes.
pub(crate) async fn overdue(
    db: &impl ConnectionTrait,
    now: Timestamp,
) -> Result<Vec<(NodeId, CommandId)>, DbErr> {
    let rows = pairing_command::Entity::find()
        .filter(pairing_command::Column::State.eq(AsText(CommandState::Issued)))
        .filter(pairing_command::Column::Deadline.lte(Micros(now)))
        .order_by_asc(pairing_command::Column::Deadline)
        .select_only()
        .columns([pairing_command::Column::NodeId, pairing_command::Column::Id])
        .into_tuple::<(i64, AsText<CommandId>)>()
        .all(db)
        .await?;
    Ok(rows
        .into_iter()
        .map(|(node, command)| (NodeId(node), command.0))
        .collect())
}


/// Pairing that waits for a server which does not drive it any more.
pub(crate) async fn abandoned(
    db: &impl ConnectionTrait,
    now: Timestamp,
) -> Result<Vec<PairingId>, DbErr> {
    let at_work = pairing_command::Entity::find()
        .select_only()
        .column(pairing_command::Column::PairingId)
        .filter(pairing_command::Column::State.eq(AsText(CommandState::Issued)));
    let rows = pairing::Entity::find()
        .filter(pairing::Column::EndedAt.is_null())
        .filter(pairing::Column::KeptUntil.lte(Micros(now)))
        .filter(pairing::Column::Id.not_in_subquery(at_work.into_query()))
        .order_by_asc(pairing::Column::Id)
        .all(db)
        .await?;
    Ok(rows.into_iter().map(|row| row.id.0).collect())
}

