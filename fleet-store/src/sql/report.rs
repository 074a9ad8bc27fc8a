//! Recording a report in one transaction, with a fixed number of statements for any number of devices.
//!
//! `fleet_discovery::admit` judges rows, and `fleet_pairing` judges ownership. This file loads and locks the
//! rows that they need, and writes their decisions. It also records the addresses that a node resolved for the
//! names of a command, because reports are refused until those addresses are stored.

mod claims;
pub(in crate::sql) mod inventory;
mod known;
mod refusals;
mod shared;

use std::{collections::BTreeSet, net::IpAddr};

use fleet_core::{
    DeviceFacts, DeviceReport,
    outcome::{Code, Verdict},
};
use fleet_discovery::{DeviceFound, LogEvent, Pinned, RowVerdict, admit, is_flooded};
use inventory::{Inventory, SavedIds};
use known::KnownRows;
use refusals::Refusals;

use super::{
    audit, codec,
    commands::{self, Work},
    devices, endpoints,
    entity::{command, device, report, report_row},
    hosts::{self, Hosts},
    inserts,
    locked::LockedScan,
    nodes,
};
use crate::{
    NewReport, Pins, PinsError, PinsTaken, ReportAnswer, ReportError, Reports, sql::prelude::*,
};

#[async_trait]
impl Reports for SqlStore {
    async fn record_report(&self, new: NewReport) -> Result<ReportAnswer, ReportError> {
        transaction!(self, "record_report", |tx| {
            let not_in_flight = ReportError::NotInFlight(new.command);
            let Some(node) = nodes::lock_of(tx, new.org, new.node).await? else {
                return refuse(not_in_flight);
            };
            let Some(mut command) = commands::lock(tx, new.node, new.command).await? else {
                return refuse(not_in_flight);
            };
            let (Work::Scan(id), Some(AsText(mut scope))) =
                (commands::work(&command)?, command.scope.take())
            else {
                return refuse(not_in_flight);
            };
            // Before the state: such a command has ended too, but its node still has to receive
            // RESOURCE_EXHAUSTED.
            if command.flooded {
                return refuse(ReportError::Flooded(new.command));
            }
            // Before `answered_before`: after the end, even a repeated report is refused (decision
            // 0020).
            if command.state.0 != CommandState::Issued {
                return refuse(not_in_flight);
            }
            // Pins and reports travel apart, and either can arrive first (decision 0009). The node
            // retries.
            if scope.awaits_pins() {
                return refuse(ReportError::AwaitsPins(new.command));
            }
            if let Some(answer) = answered_before(tx, &new, id).await? {
                return Ok(answer);
            }
            let Some(mut scan) = LockedScan::lock(tx, id).await? else {
                return refuse(not_in_flight);
            };
            let reports: Vec<&DeviceReport> = new.rows.iter().flatten().collect();
            let known = KnownRows::load(tx, id, command.id, &reports).await?;
            let reporter = nodes::reporter(&node);
            // Locks devices after node, command and scan: every transaction locks in this order
            // (decision 0004).
            let mut inventory = Inventory::load(tx, &new, id, reporter, &reports).await?;
            let quota = scope.quota();
            let admitted = admit(
                &mut scope,
                new.addresses,
                read_count(command.rows)?,
                known.of_command(),
                // The body may run again, so it must not consume the report.
                new.rows.clone(),
                |report| inventory.decide(report),
            );
            let Ok(verdicts) = admitted else {
                return refuse(ReportError::OverQuota {
                    command: new.command,
                    quota,
                });
            };
            let hosts = Hosts::judge(tx, &new, id, &scope).await?;
            command.scope = Some(AsText(scope));

            let ids = inventory.save(tx).await?;
            // After all row locks, because the advisory lock comes last in the order. A refusal
            // rolls back all rows, and the node sends the report again.
            let endpoints = inventory.endpoints();
            if let Some(ip) =
                endpoints::attribute(tx, new.org, new.node, endpoints, new.now).await?
            {
                return refuse(ReportError::BeingDialed(ip));
            }
            let mut outcome = Outcome::default();
            for verdict in verdicts {
                outcome.add(verdict, &inventory, &known);
            }
            let rows = outcome.rows(&new, id, &inventory, &ids)?;
            let stored = rows.len();
            let shared = shared::warnings(tx, id, &inventory).await?;
            command.rows = command.rows.saturating_add(count(rows.len() as u64));
            inserts::all(tx, rows).await?;

            let elapsed_ms = scan.elapsed_ms(new.now);
            let mut events = outcome.events(&inventory, &ids, new.node, elapsed_ms);
            events.extend(hosts.events(new.node, elapsed_ms));
            hosts.save(tx, &new, id).await?;
            hosts::forget(tx, id, outcome.identified()).await?;
            let row = scan.row_mut();
            row.accepted += count(outcome.counted_accepted);
            row.rejected += count(outcome.refusals.counted());
            if outcome.accepted > 0 {
                row.first_device_at = row.first_device_at.or(Some(Micros(new.now)));
            }
            scan.append(&events, new.now).await?;
            scan.warn(shared, new.now).await?;
            claims::audit(tx, &new, id, &inventory).await?;
            outcome.refusals.save(tx, &new, id).await?;

            let refused = count(outcome.refusals.all() + hosts.refused());
            command.refused_rows = command.refused_rows.saturating_add(refused);
            command.flooded = is_flooded(read_count(command.refused_rows)?, quota);
            if command.flooded {
                end_flooded(tx, &new, &mut scan, &command).await?;
            }
            save_command(tx, &command).await?;
            scan.save().await?;
            let answer = ReportAnswer {
                accepted: outcome.accepted,
                rejected: outcome.rejected,
                owned_elsewhere: outcome.owned_elsewhere,
                scan: id,
                ended: command.flooded,
            };
            // In the same transaction, so an answer is stored exactly when its rows are.
            // Each remembered report has a new row or a refused one, and a command limits both. A report that only
            // repeats rows gets the same answer again without being remembered.
            if (stored > 0 || refused > 0) && !command.flooded {
                remember(tx, &new, &answer).await?;
            }
            Ok(answer)
        })
    }

    async fn record_pins(&self, pins: Pins) -> Result<PinsTaken, PinsError> {
        transaction!(self, "record_pins", |tx| {
            let not_in_flight = PinsError::NotInFlight(pins.command);
            // Only for the order of locks: a revoked node has no command in flight.
            nodes::lock(tx, pins.node).await?;
            let command = commands::lock_issued(tx, pins.node, pins.command).await?;
            let Some(mut command) = command else {
                return refuse(not_in_flight);
            };
            let (Work::Scan(id), Some(AsText(mut scope))) =
                (commands::work(&command)?, command.scope.take())
            else {
                return refuse(not_in_flight);
            };
            let mut taken = PinsTaken {
                scan: id,
                pinned: 0,
                refused: Vec::new(),
            };
            let mut warnings = Vec::new();
            let mut skipped = Vec::new();
            for (name, answer) in &pins.names {
                let answer = answer.as_deref().map_err(String::as_str);
                match scope.pin(name, answer, pins.addresses) {
                    Ok(Pinned::Pinned) => {
                        taken.pinned += 1;
                        warnings.push(pinned(name, scope.pinned_to(name)));
                    }
                    Ok(Pinned::Skipped) => skipped.push(name.clone()),
                    // Pins that are sent again, for example after a reconnect, change nothing.
                    Ok(Pinned::Unchanged) => {}
                    Err(error) => taken.refused.push(error.to_string()),
                }
            }
            warnings.extend(
                scope
                    .names_without_address()
                    .filter_map(|(name, why)| Some((name.as_str(), why?)))
                    .filter(|(name, _)| skipped.iter().any(|sent| sent.eq_ignore_ascii_case(name)))
                    .map(|(name, why)| format!("`{name}` is left out: {why}")),
            );
            if warnings.is_empty() {
                return Ok(taken);
            }
            let change = command::ActiveModel {
                scope: Set(Some(AsText(scope))),
                ..Default::default()
            };
            commands::update(tx, &command, change).await?;
            if let Some(mut scan) = LockedScan::lock(tx, id).await? {
                scan.warn(warnings, pins.now).await?;
                scan.save().await?;
            }
            Ok(taken)
        })
    }
}

/// The log entry for a name that has addresses.
fn pinned(name: &str, addresses: &[IpAddr]) -> String {
    let addresses: Vec<String> = addresses.iter().map(ToString::to_string).collect();
    format!("`{name}` is pinned to {}", addresses.join(", "))
}

/// The answer that the same report received before.
async fn answered_before(
    tx: &DatabaseTransaction,
    new: &NewReport,
    scan: ScanId,
) -> Result<Option<ReportAnswer>, DbErr> {
    let key = (AsText(new.command), Bytes32(new.digest));
    let before = report::Entity::find_by_id(key).one(tx).await?;
    let answer = |before: report::Model| {
        Ok(ReportAnswer {
            accepted: read_count(before.accepted)?,
            rejected: read_count(before.rejected)?,
            owned_elsewhere: read_count(before.owned_elsewhere)?,
            scan,
            ended: false,
        })
    };
    before.map(answer).transpose()
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
        owned_elsewhere: Set(count(answer.owned_elsewhere)),
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
    commands::update(tx, command, changed).await
}

/// Ends a command that has exceeded the limit of refused rows. Its node is broken or hostile.
async fn end_flooded(
    tx: &DatabaseTransaction,
    new: &NewReport,
    scan: &mut LockedScan<'_>,
    command: &command::Model,
) -> Result<(), DbErr> {
    let reason = format!("ended: {} of its rows were refused", command.refused_rows);
    commands::end(tx, command, CommandState::Ended, new.now).await?;
    scan.warn(
        [format!(
            "too many rows that node {} reported were refused; its command was {reason}",
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
            principal: Principal::Node(new.node),
            from: None,
        },
        action: "node.flood".into(),
        subject: format!("command {} of scan {}", new.command, scan.row().id.0),
        result: AuditResult::Refused(reason),
        at: new.now,
    };
    audit::write(tx, entry).await
}

/// The totals of a report's verdicts.
#[derive(Default)]
struct Outcome {
    /// Rows accepted now or before, for the answer.
    accepted: u64,
    /// Rows refused now or before, for the answer.
    rejected: u64,
    /// Those of them that belong to another owner.
    owned_elsewhere: u64,
    /// Accepted rows that no earlier command of the scan reported.
    counted_accepted: u64,
    stored: Vec<StoredRow>,
    refusals: Refusals,
}

/// A row to store.
struct StoredRow {
    report: DeviceReport,
    judgment: Judgment,
}

enum Judgment {
    Accepted {
        device: DeviceId,
        /// An earlier command of the scan logged the same event.
        logged: bool,
    },
    Refused(fleet_core::RejectReason),
}

impl Outcome {
    fn add(&mut self, verdict: RowVerdict<DeviceId>, inventory: &Inventory, known: &KnownRows) {
        match verdict {
            RowVerdict::Accepted {
                report,
                decision: device,
            } => {
                self.accepted += 1;
                // A chunk that runs again finds the same devices. They are counted and logged once.
                let again = known.accepted_earlier(&report, device);
                self.counted_accepted += u64::from(!again);
                let logged = again && !inventory.changed_visibly(device);
                self.stored.push(StoredRow {
                    report,
                    judgment: Judgment::Accepted { device, logged },
                });
            }
            RowVerdict::Refused {
                report,
                reason,
                example,
            } => {
                self.rejected += 1;
                self.owned_elsewhere += u64::from(reason.is_ownership());
                self.refusals
                    .add(reason, example, known.refused_earlier(&report, reason));
                self.stored.push(StoredRow {
                    report,
                    judgment: Judgment::Refused(reason),
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
        scan: ScanId,
        inventory: &Inventory,
        ids: &SavedIds,
    ) -> Result<Vec<report_row::ActiveModel>, DbErr> {
        let row = |stored: &StoredRow| {
            let Endpoint { ip, port } = stored.report.endpoint;
            let (refusal, device, facts) = match stored.judgment {
                Judgment::Accepted { device, .. } => {
                    let facts = codec::write_facts(&stored.report.facts)?;
                    (None, Some(ids.of(device).0), Some(facts))
                }
                Judgment::Refused(reason) => (
                    Some(AsText(reason)),
                    inventory.conflict_at(stored.report.endpoint).map(|id| id.0),
                    None,
                ),
            };
            let shared = inventory.shared().get(&stored.report.endpoint);
            Ok(report_row::ActiveModel {
                command_id: Set(AsText(new.command)),
                ip: Set(AsText(ip)),
                port: Set(i64::from(port.number())),
                scan_id: Set(AsText(scan)),
                identifier: Set(stored.report.sent_identifier.clone()),
                refusal: Set(refusal),
                device_id: Set(device),
                shared_identity: Set(shared.map(|shared| AsText(shared.identifier.clone()))),
                facts: Set(facts),
            })
        };
        self.stored.iter().map(row).collect()
    }

    /// The addresses of the accepted devices.
    fn identified(&self) -> BTreeSet<IpAddr> {
        let accepted = |row: &&StoredRow| matches!(row.judgment, Judgment::Accepted { .. });
        let stored = self.stored.iter().filter(accepted);
        stored.map(|row| row.report.endpoint.ip).collect()
    }

    fn events(
        &self,
        inventory: &Inventory,
        ids: &SavedIds,
        node: NodeId,
        elapsed_ms: u64,
    ) -> Vec<LogEvent> {
        let event = |stored: &StoredRow| match stored.judgment {
            Judgment::Accepted {
                device,
                logged: false,
            } => found(
                &stored.report,
                ids.of(device),
                inventory.device(device)?,
                node,
                elapsed_ms,
            ),
            Judgment::Accepted { logged: true, .. } | Judgment::Refused(_) => None,
        };
        // One event for each device and not for each report, so a resumed watch has no gap within a
        // report (decision 0005).
        self.stored.iter().filter_map(event).collect()
    }
}

/// The device as the inventory now stores it, at the endpoint of this row.
fn found(
    report: &DeviceReport,
    device: DeviceId,
    known: &device::Model,
    node: NodeId,
    elapsed_ms: u64,
) -> Option<LogEvent> {
    Some(LogEvent::Device(DeviceFound {
        device,
        identifier: known.identifier.0.clone(),
        node: Some(node),
        endpoint: report.endpoint,
        facts: DeviceFacts {
            evidence: String::new(),
            ..devices::facts(known)
        },
        elapsed_ms,
    }))
}
