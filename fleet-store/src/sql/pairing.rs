//! Pairing: each operation a transaction around its function. Whom a device is bound to is
//! `bindings.rs`, what nodes were asked to pair `commands.rs`,
//! how that ends `ends.rs`, what they say of it `results.rs`.

mod bindings;
pub(crate) mod commands;
pub(crate) mod ends;
mod results;
mod targets;

use std::collections::BTreeMap;

use async_trait::async_trait;
pub(crate) use bindings::{forget_pairing, hand_over, release_all_of};
use fleet_core::{
    CommandId, DeviceId, Epoch, NodeId, OrgId, PairingId, PairingStatus, Timestamp, outcome::Code,
};
use sea_orm::{ColumnTrait, EntityTrait, QueryFilter, QueryOrder, QuerySelect};

use super::{devices, entity::device};
use crate::{
    Actor, BindError, BoundDevice, CancelPairingError, Changed, CreatePairingError, DevicePairing,
    DeviceRow, NewPairResults, NewPairing, PairPage, PairResultsAnswer, PairTargets, PairWish,
    Pairing, PairingStep, ReportError, SqlStore, StoreError, UnbindError,
};

#[async_trait]
impl Pairing for SqlStore {
    async fn pair_targets(
        &self,
        org: OrgId,
        node: NodeId,
        wish: PairWish,
    ) -> Result<PairTargets, StoreError> {
        Self::reading(
            "pair_targets",
            targets::targets(self.reader(), org, node, &wish).await,
        )
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
            scheme: Set(target.scheme.clone()),
            driver: Set(target.driver.clone()),
            manufacturer: Set(target.manufacturer.clone()),
            firmware: Set(target.firmware.clone()),
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
})
    }

    async fn issue_pairing(
        &self,
        pairing: PairingId,
        epoch: Option<Epoch>,
        command: CommandId,
        now: Timestamp,
    ) -> Result<PairingStep, StoreError> {
        transaction!(self, "issue_pairing", |tx| {
    let Some(mut row) = lock_with_node(tx, pairing).await? else {
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
    let part = issued_parts(tx, pairing).await?;
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
})
    }

    async fn keep_pairing(&self, pairing: PairingId, now: Timestamp) -> Result<bool, StoreError> {
        transaction!(self, "keep_pairing", |tx| {
    let kept = pairing::ActiveModel {
        kept_until: Set(Micros(now.plus(limits::PAIRING_LEASE))),
        ..Default::default()
    };
    let changed = pairing::Entity::update_many()
        .set(kept)
        .filter(pairing::Column::Id.eq(AsText(pairing)))
        .filter(pairing::Column::EndedAt.is_null())
        .exec(tx)
        .await?;
    Ok(changed.rows_affected > 0)
})
    }

    async fn end_pairing(
        &self,
        pairing: PairingId,
        code: Code,
        reason: String,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        transaction!(self, "end_pairing", |tx| {
    let Some(mut row) = lock_with_node(tx, pairing).await? else {
        return Ok(());
    };
    let command = pairing_in_flight(tx, NodeId(row.node_id)).await?;
    if let Some(command) = command.filter(|command| command.pairing_id == row.id) {
        end_command(tx, &command, CommandState::Lost, now).await?;
    }
    finish(tx, &mut row, (code, reason.to_owned()), now).await?;
    Ok(())
})
    }

    async fn record_pair_results(
        &self,
        report: NewPairResults,
    ) -> Result<PairResultsAnswer, ReportError> {
        transaction!(self, "record_pair_results", |tx| {
    let not_in_flight = ReportError::NotInFlight(report.command);
    if nodes::lock_of(tx, report.org, report.node).await?.is_none() {
        return refuse(not_in_flight);
    }
    let command = commands::command_of(tx, report.node, report.command).await?;
    let Some(command) = command.filter(|command| command.state.0 == CommandState::Issued) else {
        return refuse(not_in_flight);
    };
    let Some(mut row) = commands::lock(tx, command.pairing_id.0).await? else {
        return refuse(not_in_flight);
    };
    let mut report = Report::load(tx, &report, &row, command.part).await?;
    for row in &report.rows {
        report.take(row);
    }
    let (accepted, rejected) = (report.accepted, report.rejected());
    report.save(tx, &mut row).await?;
    ends::save(tx, &row).await?;
    Ok(PairResultsAnswer {
        accepted,
        rejected,
        pairing: row.id.0,
    })
})
    }

    async fn cancel_pairing(
        &self,
        org: OrgId,
        pairing: PairingId,
        actor: Actor,
        now: Timestamp,
    ) -> Result<Option<(NodeId, CommandId)>, CancelPairingError> {
        transaction!(self, "cancel_pairing", |tx| {
    let row = lock_with_node(tx, pairing).await?;
    let Some(mut row) = row.filter(|row| row.org_id == org.0) else {
        return refuse(CancelPairingError::NotFound(pairing));
    };
    if row.ended_at.is_some() {
        return Ok(None);
    }
    let node = NodeId(row.node_id);
    let command = pairing_in_flight(tx, node).await?;
    if row.canceled_at.is_none() {
        let subject = format!("pairing {pairing} on node {node}");
        let entry = AuditEntry::done(org, actor.clone(), "pairing.cancel", subject, now);
        audit::write(tx, entry).await?;
        row.canceled_at = Some(Micros(now));
    }
    match command {
        Some(command) => {
            save(tx, &row).await?;
            Ok(Some((node, command.id.0)))
        }
        None => {
            finish(tx, &mut row, canceled(), now).await?;
            Ok(None)
        }
    }
})
    }

    async fn sweep_pairings(&self, now: Timestamp) -> Result<Vec<(NodeId, CommandId)>, StoreError> {
        let operation = "sweep_pairings";
        let mut expired = Vec::new();
        // Each in a transaction of its own, so that a sweep holds no node for long.
        for (node, command) in Self::reading(operation, ends::overdue(self.reader(), now).await)? {
            let ended = transaction!(self, operation, |tx| {
    nodes::lock_any(tx, node.0).await?;
    let command = command_of(tx, node, command).await?;
    let Some(command) = command
        .filter(|command| command.state.0 == CommandState::Issued && command.deadline.0 <= now)
    else {
        return Ok(false);
    };
    let minutes = limits::COMMAND_DEADLINE.as_secs() / 60;
    let why = format!("the node gave no answer within {minutes} minutes");
    let verdict = Verdict::failed(Code::DeadlineExceeded, why);
    conclude(tx, &command, CommandState::Expired, verdict, now).await?;
    Ok(true)
})?;
            if ended {
                expired.push((node, command));
            }
        }
        for pairing in Self::reading(operation, ends::abandoned(self.reader(), now).await)? {
            transaction!(self, operation, |tx| {
    let Some(mut row) = lock_with_node(tx, pairing).await? else {
        return Ok(());
    };
    let busy = pairing_in_flight(tx, NodeId(row.node_id)).await?.is_some();
    if busy || row.kept_until.0 > now {
        return Ok(());
    }
    let why = "the server was restarted before it was sent, and keeps no passwords: run it again";
    finish(tx, &mut row, (Code::Unavailable, why.to_owned()), now).await?;
    Ok(())
})?;
        }
        Ok(expired)
    }

    async fn read_pairing(
        &self,
        org: OrgId,
        pairing: PairingId,
        after: i64,
        limit: u32,
    ) -> Result<Option<PairPage>, StoreError> {
        Self::reading(
            "read_pairing",
            commands::read(self.reader(), org, pairing, after, limit).await,
        )
    }
}

