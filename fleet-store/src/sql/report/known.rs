//! Rows that are stored already at the endpoints of a report: of its own command, and of earlier
//! commands of the same scan.

use std::collections::{BTreeMap, BTreeSet};

use fleet_core::{DeviceId, DeviceReport, Endpoint, RejectReason};
use fleet_discovery::KnownRow;
use sea_orm::{ColumnTrait, DatabaseTransaction, DbErr, EntityTrait, QueryFilter};

use crate::sql::{
    codec,
    entity::{command, report_row},
    value::AsText,
};

#[derive(Default)]
pub(super) struct KnownRows {
    of_command: BTreeMap<Endpoint, KnownRow>,
    earlier: BTreeMap<Endpoint, Vec<report_row::Model>>,
}

impl KnownRows {
    /// One query for both.
    pub(super) async fn load(
        tx: &DatabaseTransaction,
        command: &command::Model,
        reports: &[&DeviceReport],
    ) -> Result<Self, DbErr> {
        let places: BTreeSet<_> = reports
            .iter()
            .map(|report| AsText(report.endpoint.ip))
            .collect();
        let mut known = Self::default();
        if places.is_empty() {
            return Ok(known);
        }
        let rows = report_row::Entity::find()
            .filter(report_row::Column::ScanId.eq(command.scan_id))
            .filter(report_row::Column::Ip.is_in(places))
            .all(tx)
            .await?;
        for row in rows {
            let endpoint = Endpoint {
                ip: row.ip.0,
                port: codec::read_port(row.port)?,
            };
            if row.command_id == command.id {
                known.of_command.insert(endpoint, of_stored(row));
            } else {
                known.earlier.entry(endpoint).or_default().push(row);
            }
        }
        Ok(known)
    }

    /// What `admit` asks for.
    pub(super) fn of_command(&self) -> &BTreeMap<Endpoint, KnownRow> {
        &self.of_command
    }

    /// Whether an earlier command of the scan stored this device at this place.
    pub(super) fn accepted_earlier(&self, report: &DeviceReport, device: DeviceId) -> bool {
        self.at(report).any(|row| row.device_id == Some(device.0))
    }

    /// Whether an earlier command of the scan had this row refused for the same reason.
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
