//! How pairings end: by ack, loss, deadline, cancel or revocation. Only [`finish`] ends a pairing, and it gives
//! every target a result.

use fleet_core::{
    PairingStatus,
    outcome::{Code, Grade, Verdict},
};
use fleet_pairing::{PairReply, decide_result};

use super::{
    bindings::{lock_devices, pairings, write_status},
    forwarded, issued_parts, lock,
};
use crate::sql::{
    commands,
    entity::{command, pairing, pairing_target},
    inserts,
    prelude::*,
};

/// The conclusion of a pairing that its operator has canceled.
pub(super) fn canceled() -> (Code, String) {
    let reason = "canceled; what was paired stays paired";
    (Code::Canceled, reason.to_owned())
}

/// Ends a command that its node has received. Devices without a result count as failed. The pairing ends too
/// after its last part, after a failure, or after a cancel.
pub(crate) async fn conclude(
    tx: &DatabaseTransaction,
    command: &command::Model,
    id: PairingId,
    state: CommandState,
    verdict: Verdict,
    now: Timestamp,
) -> Result<bool, DbErr> {
    let Some(mut row) = lock(tx, id).await? else {
        return Ok(false);
    };
    commands::end(tx, command, state, now).await?;
    fail_unreported(tx, &mut row, command, &verdict, now).await?;
    let succeeded = matches!(verdict.grade, Grade::Complete | Grade::Partial);
    let last = issued_parts(tx, id).await? >= row.parts;
    if row.canceled_at.is_some() {
        finish(tx, &mut row, canceled(), now).await?;
    } else if !succeeded {
        finish(tx, &mut row, (verdict.code, verdict.reason), now).await?;
    } else if last {
        finish(tx, &mut row, (Code::Ok, String::new()), now).await?;
    } else {
        save(tx, &row).await?;
    }
    Ok(true)
}

/// Records a failure for each device of a command that has no result.
async fn fail_unreported(
    tx: &DatabaseTransaction,
    row: &mut pairing::Model,
    command: &command::Model,
    verdict: &Verdict,
    now: Timestamp,
) -> Result<(), DbErr> {
    let org = OrgId(row.org_id);
    let mut rest = without_sequence(tx, row, Some(command.position)).await?;
    let ids: Vec<i64> = rest.iter().map(|target| target.device_id).collect();
    lock_devices(tx, org, ids.iter().copied()).await?;
    // Read again under the devices' locks, because a device may have been released in the meantime.
    rest = without_sequence(tx, row, Some(command.position)).await?;
    let known = pairings(tx, org, &ids).await?;
    let why = if verdict.reason.is_empty() {
        "the node ended the command without a result for it"
    } else {
        verdict.reason.as_str()
    };
    let mut statuses = Vec::new();
    for target in &mut rest {
        if target.result.is_some() {
            continue;
        }
        let current = known
            .get(&DeviceId(target.device_id))
            .map_or(PairingStatus::Unpaired, |pairing| pairing.status);
        let settled = decide_result(PairReply::Missing, current);
        target.result = Some(AsText(settled.reported));
        why.clone_into(&mut target.error);
        if settled.status != current {
            statuses.push((target.device_id, settled.status, why.to_owned()));
        }
    }
    write_status(tx, org, statuses, now).await?;
    publish(tx, row, rest).await
}

/// Ends a pairing once. Devices that were never sent to the node or have no result are reported as failed. They
/// keep their status.
pub(super) async fn finish(
    tx: &DatabaseTransaction,
    row: &mut pairing::Model,
    (code, reason): (Code, String),
    now: Timestamp,
) -> Result<(), DbErr> {
    if row.ended_at.is_some() {
        return Ok(());
    }
    let mut rest = without_sequence(tx, row, None).await?;
    for target in &mut rest {
        if target.result.is_none() {
            target.result = Some(AsText(PairingStatus::Failed));
            target.error = format!("not tried: {reason}");
        }
    }
    publish(tx, row, rest).await?;
    forwarded::remove(tx, row.id.0).await?;
    row.ended_at = Some(Micros(now));
    row.code = Some(code.as_str().to_owned());
    row.reason = reason;
    save(tx, row).await
}

/// Targets that are not yet in the sequence of results.
async fn without_sequence(
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

/// Appends targets to the sequence of results and writes them.
pub(super) async fn publish(
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
            inserts::every_column(target)
        })
        .collect();
    // All rows exist, so this is an UPDATE of many rows.
    let by_key = OnConflict::columns([C::PairingId, C::DeviceId])
        .update_columns([
            C::Outcome,
            C::DefaultPassword,
            C::Result,
            C::Error,
            C::Sequence,
        ])
        .to_owned();
    inserts::all_or(tx, rows, by_key).await
}

pub(super) async fn save(tx: &DatabaseTransaction, row: &pairing::Model) -> Result<(), DbErr> {
    let changed = pairing::ActiveModel {
        lease_until: Set(row.lease_until),
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

/// Ends the open pairing of a node that is being revoked, under the node's lock.
pub(crate) async fn end_of_revoked(
    tx: &DatabaseTransaction,
    node: NodeId,
    now: Timestamp,
) -> Result<(), DbErr> {
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

/// Pairings whose server no longer renews their lease, with no command in flight.
pub(super) async fn abandoned(
    db: &impl ConnectionTrait,
    now: Timestamp,
) -> Result<Vec<PairingId>, DbErr> {
    let in_flight = command::Entity::find()
        .select_only()
        .column(command::Column::PairingId)
        // NOT IN is never true if its list contains a NULL.
        .filter(command::Column::PairingId.is_not_null())
        .filter(command::Column::State.eq(AsText(CommandState::Issued)));
    let ids = pairing::Entity::find()
        .filter(pairing::Column::EndedAt.is_null())
        .filter(pairing::Column::LeaseUntil.lte(Micros(now)))
        .filter(pairing::Column::Id.not_in_subquery(in_flight.into_query()))
        .order_by_asc(pairing::Column::Id)
        .select_only()
        .column(pairing::Column::Id)
        .into_tuple::<String>()
        .all(db)
        .await?;
    let readable = |id: String| commands::read_id("pairing", &id);
    Ok(ids.into_iter().filter_map(readable).collect())
}
