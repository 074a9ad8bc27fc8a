//! Decides a whole report row by row. Each decision sees the effects of the previous rows.

use std::collections::{BTreeMap, BTreeSet};

use fleet_core::{DeviceFacts, DeviceId, DeviceIdentifier, DeviceReport, Endpoint, NodeId};

use crate::{
    Binding, DeviceRecord, Refused, ReportDecision, Reporter, decide_report, heir_identifier,
};

/// The records that a report affects, updated while its rows are decided in order. This keeps two rows of one
/// device, or of two devices at one endpoint, consistent. A row only reads records with its identifiers or its
/// endpoint, whatever the size of the inventory.
#[derive(Clone, Debug, Default)]
pub struct Inventory {
    records: BTreeMap<DeviceId, DeviceRecord>,
    by_identifier: BTreeMap<DeviceIdentifier, DeviceId>,
    by_endpoint: BTreeMap<(NodeId, Endpoint), BTreeSet<DeviceId>>,
    created: i64,
}

/// The decision for one row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Planned {
    /// The record; a provisional id if it is yet to be created.
    pub device: DeviceId,
    /// The decision; a [`ReportDecision::Create`] or [`ReportDecision::Update`].
    pub decision: ReportDecision,
}

impl Inventory {
    /// Starts with the live records of the organization that have an identifier or an endpoint of the report.
    pub fn new(records: impl IntoIterator<Item = DeviceRecord>) -> Self {
        let mut inventory = Self::default();
        for record in records {
            inventory.put(record);
        }
        inventory
    }

    /// Whether an id belongs to a record that is yet to be created.
    pub fn is_provisional(device: DeviceId) -> bool {
        device.0 < 0
    }

    /// Decides the next row and applies the decision.
    ///
    /// # Errors
    ///
    /// Why the row is refused, and by which record. Nothing changes.
    pub fn decide(
        &mut self,
        reporter: Reporter,
        report: &DeviceReport,
    ) -> Result<Planned, Refused> {
        let identifier = report.identifier(reporter.node);
        let candidates = self.candidates(reporter, report, &identifier);
        let decision = decide_report(reporter, report, &identifier, &candidates);
        let (device, losers) = match &decision {
            ReportDecision::Refuse(refused) => return Err(*refused),
            ReportDecision::Create {
                endpoint_taken_from,
            } => {
                self.created += 1;
                let device = DeviceId(-self.created);
                self.put(DeviceRecord::blank(device, identifier, reporter.node));
                (device, endpoint_taken_from)
            }
            ReportDecision::Update {
                device,
                rekey,
                merges,
                endpoint_taken_from,
            } => {
                // Merged records leave the index first, because the
                // record can take on the identifier of one of them.
                for (merged, _) in merges {
                    if let Some(merged) = self.take(*merged) {
                        self.change(*device, |record| record.absorb(&merged));
                    }
                }
                if let Some(rekey) = rekey {
                    self.change(*device, |record| record.identifier = rekey.to.clone());
                }
                (*device, endpoint_taken_from)
            }
        };
        for loser in losers {
            self.change(*loser, |record| record.endpoint = None);
        }
        self.change(device, |record| record.learn(reporter.node, report));
        Ok(Planned { device, decision })
    }

    /// The current records, by id.
    pub fn records(&self) -> impl Iterator<Item = &DeviceRecord> {
        self.records.values()
    }

    /// The candidates for a row: at most one record with its identifier, one with that of the replaced node,
    /// and those at its endpoint. Records that are yet to be created come last.
    fn candidates(
        &self,
        reporter: Reporter,
        report: &DeviceReport,
        identifier: &DeviceIdentifier,
    ) -> Vec<&DeviceRecord> {
        let heir = heir_identifier(reporter, report);
        let named = [Some(identifier), heir.as_ref()];
        let here = self.by_endpoint.get(&(reporter.node, report.endpoint));
        let ids: BTreeSet<(bool, i64)> = named
            .into_iter()
            .flatten()
            .filter_map(|identifier| self.by_identifier.get(identifier))
            .chain(here.into_iter().flatten())
            .map(|id| (Self::is_provisional(*id), id.0.abs()))
            .collect();
        ids.into_iter()
            .map(|(provisional, id)| DeviceId(if provisional { -id } else { id }))
            .filter_map(|id| self.records.get(&id))
            .collect()
    }

    /// Changes a record, its entries in the indexes included.
    fn change(&mut self, device: DeviceId, change: impl FnOnce(&mut DeviceRecord)) {
        if let Some(mut record) = self.take(device) {
            change(&mut record);
            self.put(record);
        }
    }

    fn put(&mut self, record: DeviceRecord) {
        self.by_identifier
            .insert(record.identifier.clone(), record.id);
        if let (Some(owner), Some(endpoint)) = (record.owner, record.endpoint) {
            let devices = self.by_endpoint.entry((owner, endpoint)).or_default();
            devices.insert(record.id);
        }
        self.records.insert(record.id, record);
    }

    fn take(&mut self, device: DeviceId) -> Option<DeviceRecord> {
        let record = self.records.remove(&device)?;
        self.by_identifier.remove(&record.identifier);
        if let (Some(owner), Some(endpoint)) = (record.owner, record.endpoint)
            && let Some(devices) = self.by_endpoint.get_mut(&(owner, endpoint))
        {
            devices.remove(&device);
        }
        Some(record)
    }
}

impl DeviceRecord {
    /// A record without facts.
    fn blank(id: DeviceId, identifier: DeviceIdentifier, owner: NodeId) -> Self {
        Self {
            id,
            identifier,
            endpoint: None,
            owner: Some(owner),
            owner_live: true,
            binding: Binding::Free,
            facts: DeviceFacts::default(),
            kept_apart: Vec::new(),
        }
    }

    /// Applies a report. Unknown facts never replace known ones.
    fn learn(&mut self, reporter: NodeId, report: &DeviceReport) {
        self.endpoint = Some(report.endpoint);
        (self.owner, self.owner_live) = (Some(reporter), true);
        self.facts.update(&report.facts);
    }

    /// Adds unknown facts and the binding of a merged record.
    fn absorb(&mut self, merged: &Self) {
        self.facts.fill(&merged.facts);
        if self.binding == Binding::Free {
            self.binding = merged.binding;
        }
    }
}

#[cfg(test)]
mod tests;
