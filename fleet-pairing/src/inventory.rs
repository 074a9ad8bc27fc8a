//! A whole report: decisions row after row, each over what the rows before it made.

use fleet_core::{DeviceId, DeviceReport, NodeId, RejectReason};

use crate::{Binding, DeviceRecord, ReportDecision, decide_report};

/// The records that a report touches, as they become while its rows are decided in order. Two rows of
/// one device, or of two devices at one place, thus agree with each other.
#[derive(Clone, Debug, Default)]
pub struct Inventory {
    records: Vec<DeviceRecord>,
    created: i64,
}

/// What is planned for one row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Planned {
    /// The record; of one that is yet to be created, its provisional id.
    pub device: DeviceId,
    /// The decision; a [`ReportDecision::Create`] or [`ReportDecision::Update`].
    pub decision: ReportDecision,
}

impl Inventory {
    /// Begins with the live records of the organization that have one of the report's identifiers or
    /// stand at one of its endpoints.
    pub fn new(records: Vec<DeviceRecord>) -> Self {
        Self {
            records,
            created: 0,
        }
    }

    /// Whether an id stands for a record that is yet to be created.
    pub fn is_provisional(device: DeviceId) -> bool {
        device.0 < 0
    }

    /// Decides about the next row and takes the decision into account.
    ///
    /// # Errors
    ///
    /// The reason why the row is refused; nothing changed.
    pub fn decide(
        &mut self,
        reporter: NodeId,
        report: &DeviceReport,
    ) -> Result<Planned, RejectReason> {
        let identifier = report.identifier(reporter);
        let decision = decide_report(reporter, report, &identifier, &self.records);
        let (device, taken_from) = match &decision {
            ReportDecision::Refuse(reason) => return Err(*reason),
            ReportDecision::Create {
                endpoint_taken_from,
            } => {
                self.created += 1;
                let device = DeviceId(-self.created);
                self.records.push(DeviceRecord {
                    id: device,
                    identifier,
                    endpoint: None,
                    owner: Some(reporter),
                    owner_live: true,
                    binding: Binding::Free,
                    driver: String::new(),
                    model: String::new(),
                    manufacturer: String::new(),
                    mac: None,
                    serial: None,
                });
                (device, endpoint_taken_from)
            }
            ReportDecision::Update {
                device,
                rekey,
                endpoint_taken_from,
            } => {
                if let Some(record) = self.record_mut(*device) {
                    record.identifier = rekey.clone().unwrap_or_else(|| record.identifier.clone());
                }
                (*device, endpoint_taken_from)
            }
        };
        for taken_from in taken_from {
            if let Some(record) = self.record_mut(*taken_from) {
                record.endpoint = None;
            }
        }
        if let Some(record) = self.record_mut(device) {
            record.take(reporter, report);
        }
        Ok(Planned { device, decision })
    }

    /// The records as they are now, those yet to be created behind the others.
    pub fn records(&self) -> &[DeviceRecord] {
        &self.records
    }

    fn record_mut(&mut self, device: DeviceId) -> Option<&mut DeviceRecord> {
        self.records.iter_mut().find(|record| record.id == device)
    }
}

impl DeviceRecord {
    /// Takes over what a report says; a blank field never erases a known one.
    fn take(&mut self, reporter: NodeId, report: &DeviceReport) {
        let fill = |known: &mut String, said: &str| {
            if !said.is_empty() {
                said.clone_into(known);
            }
        };
        self.endpoint = Some(report.endpoint);
        (self.owner, self.owner_live) = (Some(reporter), true);
        fill(&mut self.driver, &report.driver);
        fill(&mut self.model, &report.model);
        fill(&mut self.manufacturer, &report.manufacturer);
        self.mac = report.mac.or(self.mac);
        if report.serial.is_some() {
            self.serial.clone_from(&report.serial);
        }
    }
}

#[cfg(test)]
mod tests;
