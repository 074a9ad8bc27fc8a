//! Rows that are stored already at the endpoints of a report, by its own command or by earlier commands of the
//! same scan.

use std::collections::{BTreeMap, BTreeSet};

use fleet_core::{DeviceReport, RejectReason};
use fleet_discovery::KnownRow;

use crate::sql::{codec, entity::report_row, prelude::*};

#[derive(Default)]
pub(super) struct KnownRows {
    of_command: BTreeMap<Endpoint, KnownRow>,
    earlier: BTreeMap<Endpoint, Vec<report_row::Model>>,
}

impl KnownRows {
    /// Loads both groups with one query.
    pub(super) async fn load(
        tx: &DatabaseTransaction,
        scan: ScanId,
        command: AsText<CommandId>,
        reports: &[&DeviceReport],
    ) -> Result<Self, DbErr> {
        let addresses: BTreeSet<_> = reports
            .iter()
            .map(|report| AsText(report.endpoint.ip))
            .collect();
        let mut known = Self::default();
        if addresses.is_empty() {
            return Ok(known);
        }
        let rows = report_row::Entity::find()
            .filter(report_row::Column::ScanId.eq(AsText(scan)))
            .filter(report_row::Column::Ip.is_in(addresses))
            .all(tx)
            .await?;
        for row in rows {
            let endpoint = Endpoint {
                ip: row.ip.0,
                port: codec::read_port(row.port)?,
            };
            if row.command_id == command {
                known.of_command.insert(endpoint, of_stored(row));
            } else {
                known.earlier.entry(endpoint).or_default().push(row);
            }
        }
        Ok(known)
    }

    /// The rows that `admit` needs.
    pub(super) fn of_command(&self) -> &BTreeMap<Endpoint, KnownRow> {
        &self.of_command
    }

    /// Whether an earlier command of the scan stored this device at this endpoint.
    pub(super) fn accepted_earlier(&self, report: &DeviceReport, device: DeviceId) -> bool {
        self.at(report)
            .any(|row| row.refusal.is_none() && row.device_id == Some(device.0))
    }

    /// Whether this row of an earlier command of the scan was refused for the same reason.
    pub(super) fn refused_earlier(&self, report: &DeviceReport, reason: RejectReason) -> bool {
        self.at(report).any(|row| {
            row.refusal == Some(AsText(reason)) && row.identifier == report.sent_identifier
        })
    }

    fn at(&self, report: &DeviceReport) -> impl Iterator<Item = &report_row::Model> {
        self.earlier.get(&report.endpoint).into_iter().flatten()
    }
}

fn of_stored(row: report_row::Model) -> KnownRow {
    let identifier = row.identifier;
    match row.refusal {
        None => KnownRow::Accepted { identifier },
        Some(AsText(reason)) => KnownRow::Rejected { identifier, reason },
    }
}
