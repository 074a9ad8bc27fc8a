//! Recording a report: one transaction whose statements are sets, whatever the number of devices.
//!
//! The rules are pure and elsewhere: `fleet_discovery::admit` judges rows, `fleet_pairing` judges
//! ownership. Here the rows they need are loaded and locked, and what they decide is written.

pub(in crate::sql) mod inventory;
mod known;
mod refusals;

use fleet_core::{
    CommandState, DeviceId, DeviceReport, Endpoint, NodeId, limits,
    outcome::{Code, Verdict},
};
use fleet_discovery::{DeviceFound, LogEvent, RowVerdict, admit};
use fleet_pairing::Reporter;
use inventory::{Inventory, SavedIds};
use known::KnownRows;
use refusals::Refusals;
use sea_orm::{ColumnTrait, DatabaseTransaction, DbErr, EntityTrait, QueryFilter, Set};

use super::{
    audit,
    dispatch::count,
    entity::{command, device, report, report_row},
    inserts,
    locked::LockedScan,
    nodes, places,
    streams::command_of,
    transaction::{Failure, refuse},
    value::{AsText, Bytes32, Micros},
};
use crate::{Actor, AuditEntry, AuditResult, NewReport, ReportAnswer, ReportError, Who};

#[async_trait]
impl Reports for SqlStore {
    async fn record_report(&self, report: NewReport) -> Result<ReportAnswer, ReportError> {
        transaction!(self, "record_report", |tx| {
    let not_in_flight = ReportError::NotInFlight(report.command);
    let Some(node) = nodes::lock_of(tx, report.org, report.node).await? else {
        return refuse(not_in_flight);
    };
    let Some(mut command) = command_of(tx, report.node, report.command).await? else {
        return refuse(not_in_flight);
    };
    if command.flooded {
        return refuse(ReportError::Flooded(report.command));
    }
    if command.state.0 != CommandState::Issued {
        return refuse(not_in_flight);
    }
    if command.scope.0.awaits_pins() {
        return refuse(ReportError::AwaitsPins(report.command));
    }
    if let Some(answer) = answered_before(tx, &report, &command).await? {
        return Ok(answer);
    }
    let Some(mut scan) = LockedScan::lock(tx, command.scan_id.0).await? else {
        return refuse(not_in_flight);
    };
    let reports: Vec<&DeviceReport> = report.rows.iter().flatten().collect();
    let known = KnownRows::load(tx, &command, &reports).await?;
    let reporter = Reporter {
        node: report.node,
        replaces: node.replaces_node_id.map(NodeId),
    };
    let mut inventory = Inventory::load(tx, &report, reporter, &reports).await?;

    let stored = u64::try_from(command.rows).unwrap_or(0);
    let quota = command.scope.0.quota();
    let decide = |report: &DeviceReport| inventory.decide(report);
    let verdicts = match admit(
        &mut command.scope.0,
        report.addresses,
        stored,
        known.of_command(),
        report.rows.clone(),
        decide,
    ) {
        Ok(verdicts) => verdicts,
        Err(_) => {
            return refuse(ReportError::OverQuota {
                command: report.command,
                quota,
            });
        }
    };

    let ids = inventory.save(tx).await?;
    if let Some(ip) = places::attribute(tx, report.org, report.node, inventory.places(), report.now).await? {
        return refuse(ReportError::BeingDialed(ip));
    }
    let mut outcome = Outcome::default();
    for verdict in verdicts {
        outcome.take(verdict, &inventory, &known);
    }
    let rows = outcome.rows(&report, &command, &ids);
    command.rows = command.rows.saturating_add(count(rows.len() as u64));
    inserts::all(tx, rows).await?;

    let events = outcome.events(&inventory, &ids, scan.elapsed_ms(report.now));
    let row = scan.row_mut();
    row.accepted += count(outcome.counted_accepted);
    row.rejected += count(outcome.refusals.counted());
    if outcome.accepted > 0 {
        row.first_device_at = row.first_device_at.or(Some(Micros(report.now)));
    }
    scan.append(&events, report.now).await?;
    outcome.refusals.save(tx, &report, &command).await?;

    command.refused_rows = command
        .refused_rows
        .saturating_add(count(outcome.refusals.all()));
    let ended = is_flooded(&command, quota);
    if ended {
        command.flooded = true;
        end_flooded(tx, &report, &mut scan, &command).await?;
    }
    save_command(tx, &command).await?;
    scan.save().await?;
    let answer = ReportAnswer {
        accepted: outcome.accepted,
        rejected: outcome.rejected,
        scan: command.scan_id.0,
        ended,
    };
    remember(tx, &report, &answer).await?;
    Ok(answer)
})
    }

    async fn record_pins(&self, pins: Pins) -> Result<PinsTaken, PinsError> {
        transaction!(self, "record_pins", |tx| {
    nodes::lock(tx, pins.node).await?;
    let command = command_of(tx, pins.node, pins.command).await?;
    let Some(command) = command.filter(|command| command.state.0 == CommandState::Issued) else {
        return refuse(PinsError::NotInFlight(pins.command));
    };
    let mut scope = command.scope.0.clone();
    let mut taken = PinsTaken {
        scan: command.scan_id.0,
        pinned: 0,
        refused: Vec::new(),
    };
    let mut told = Vec::new();
    let mut left_out = Vec::new();
    for (name, answer) in &pins.names {
        let answer = answer.as_deref().map_err(String::as_str);
        match scope.pin(name, answer, pins.addresses) {
            Ok(Pinned::Pinned) => {
                taken.pinned += 1;
                told.push(pinned(name, scope.pinned_to(name)));
            }
            Ok(Pinned::Skipped) => left_out.push(name.clone()),
            Ok(Pinned::Unchanged) => {}
            Err(error) => taken.refused.push(error.to_string()),
        }
    }
    told.extend(
        scope
            .names_without_address()
            .filter_map(|(name, why)| Some((name.as_str(), why?)))
            .filter(|(name, _)| left_out.iter().any(|said| said.eq_ignore_ascii_case(name)))
            .map(|(name, why)| format!("`{name}` is left out: {why}")),
    );
    if told.is_empty() {
        return Ok(taken);
    }
    let pinned = command::ActiveModel {
        scope: Set(AsText(scope)),
        ..Default::default()
    };
    command::Entity::update_many()
        .set(pinned)
        .filter(command::Column::Id.eq(command.id))
        .exec(tx)
        .await?;
    if let Some(mut scan) = LockedScan::lock(tx, command.scan_id.0).await? {
        scan.warn(told, pins.now).await?;
        scan.save().await?;
    }
    Ok(taken)
})
    }
}



/// The answer to the same report, if it came before: whatever has become of the command meanwhile.
async fn answered_before(
    tx: &DatabaseTransaction,
    new: &NewReport,
    command: &command::Model,
) -> Result<Option<ReportAnswer>, DbErr> {
    let before = report::Entity::find_by_id((command.id, Bytes32(new.digest)))
        .one(tx)
        .await?;
    Ok(before.map(|before| ReportAnswer {
        accepted: u64::try_from(before.accepted).unwrap_or(0),
        rejected: u64::try_from(before.rejected).unwrap_or(0),
        scan: command.scan_id.0,
        ended: before.ended,
    }))
}

async fn remember(
    tx: &DatabaseTransaction,
    new: &NewReport,
    answer: &ReportAnswer,
) -> Result<(), DbErr> {
    let row = report::ActiveModel {
        command_id: Set(AsText(new.command)),
        digest: Set(Bytes32(new.digest)),
        accepted: Set(count(answer.accepted)),
        rejected: Set(count(answer.rejected)),
        ended: Set(answer.ended),
        at: Set(Micros(new.now)),
    };
    report::Entity::insert(row)
        .exec_without_returning(tx)
        .await?;
    Ok(())
}

async fn save_command(tx: &DatabaseTransaction, command: &command::Model) -> Result<(), DbErr> {
    let changed = command::ActiveModel {
        scope: Set(command.scope.clone()),
        rows: Set(command.rows),
        refused_rows: Set(command.refused_rows),
        flooded: Set(command.flooded),
        ..Default::default()
    };
    command::Entity::update_many()
        .set(changed)
        .filter(command::Column::Id.eq(command.id))
        .exec(tx)
        .await?;
    Ok(())
}

fn is_flooded(command: &command::Model, quota: u64) -> bool {
    let bound = quota
        .saturating_mul(limits::REFUSED_ROWS_FACTOR as u64)
        .max(limits::REFUSED_ROWS_FLOOR as u64);
    u64::try_from(command.refused_rows).unwrap_or(0) > bound
}

/// Ends a command whose refused rows have passed the bound: its node is broken or hostile.
async fn end_flooded(
    tx: &DatabaseTransaction,
    new: &NewReport,
    scan: &mut LockedScan<'_>,
    command: &command::Model,
) -> Result<(), DbErr> {
    let reason = format!("ended: {} of its rows were refused", command.refused_rows);
    scan.end_command(command, CommandState::Ended, new.now)
        .await?;
    scan.warn(
        [format!(
            "node {} reported too much that was refused: its command was {reason}",
            new.node
        )],
        new.now,
    )
    .await?;
    scan.end_chunk(
        command,
        Verdict::failed(Code::ResourceExhausted, reason.clone()),
        None,
        new.now,
    )
    .await?;
    let entry = AuditEntry {
        org: Some(new.org),
        actor: Actor {
            who: Who::Node(new.node),
            from: None,
        },
        action: "node.flood".into(),
        subject: format!("command {} of scan {}", new.command, command.scan_id.0),
        result: AuditResult::Refused(reason),
        at: new.now,
    };
    audit::write(tx, entry).await
}

/// What the verdicts of a report add up to.
#[derive(Default)]
struct Outcome {
    /// For the answer: rows taken now or before.
    accepted: u64,
    /// For the answer: rows refused now or before.
    rejected: u64,
    /// Taken rows that no earlier command of the scan has reported.
    counted_accepted: u64,
    stored: Vec<StoredRow>,
    refusals: Refusals,
}

/// A row to store.
struct StoredRow {
    report: DeviceReport,
    fate: Fate,
}

enum Fate {
    Accepted {
        device: DeviceId,
        /// An earlier command of the scan told the operator the same.
        told: bool,
    },
    Refused(fleet_core::RejectReason),
}

impl Outcome {
    fn take(&mut self, verdict: RowVerdict<DeviceId>, inventory: &Inventory, known: &KnownRows) {
        match verdict {
            RowVerdict::Accepted {
                report,
                decision: device,
            } => {
                self.accepted += 1;
                // A chunk that is scanned again meets the same devices: they are counted and told once.
                let again = known.accepted_earlier(&report, device);
                self.counted_accepted += u64::from(!again);
                let told = again && !inventory.changed_visibly(device);
                self.stored.push(StoredRow {
                    report,
                    fate: Fate::Accepted { device, told },
                });
            }
            RowVerdict::Refused {
                report,
                reason,
                example,
            } => {
                self.rejected += 1;
                self.refusals
                    .add(reason, example, known.refused_earlier(&report, reason));
                self.stored.push(StoredRow {
                    report,
                    fate: Fate::Refused(reason),
                });
            }
            RowVerdict::Repeated { accepted: true } => self.accepted += 1,
            RowVerdict::Repeated { accepted: false } => self.rejected += 1,
            RowVerdict::Rejected { reason, example } => {
                self.rejected += 1;
                self.refusals.add(reason, example, false);
            }
        }
    }

    fn rows(
        &self,
        new: &NewReport,
        command: &command::Model,
        ids: &SavedIds,
    ) -> Vec<report_row::ActiveModel> {
        let row = |stored: &StoredRow| {
            let Endpoint { ip, port } = stored.report.endpoint;
            let (refusal, device) = match stored.fate {
                Fate::Accepted { device, .. } => (None, Some(ids.of(device).0)),
                Fate::Refused(reason) => (Some(AsText(reason)), None),
            };
            report_row::ActiveModel {
                command_id: Set(AsText(new.command)),
                ip: Set(AsText(ip)),
                port: Set(i64::from(port.number())),
                scan_id: Set(command.scan_id),
                identifier: Set(stored.report.sent_identifier.clone()),
                refusal: Set(refusal),
                device_id: Set(device),
            }
        };
        self.stored.iter().map(row).collect()
    }

    fn events(&self, inventory: &Inventory, ids: &SavedIds, elapsed_ms: u64) -> Vec<LogEvent> {
        let told = |stored: &StoredRow| match stored.fate {
            Fate::Accepted {
                device,
                told: false,
            } => found(
                &stored.report,
                ids.of(device),
                inventory.device(device)?,
                elapsed_ms,
            ),
            Fate::Accepted { told: true, .. } | Fate::Refused(_) => None,
        };
        self.stored.iter().filter_map(told).collect()
    }
}

/// The device as the inventory knows it now, at the endpoint of this row.
fn found(
    report: &DeviceReport,
    device: DeviceId,
    known: &device::Model,
    elapsed_ms: u64,
) -> Option<LogEvent> {
    Some(LogEvent::Device(DeviceFound {
        device,
        identifier: known.identifier.0.clone(),
        endpoint: report.endpoint,
        scheme: known.scheme.clone(),
        driver: known.driver.clone(),
        model: known.model.clone(),
        manufacturer: known.manufacturer.clone(),
        firmware: known.firmware.clone(),
        elapsed_ms,
    }))
}
