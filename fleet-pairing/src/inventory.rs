//! Decides a whole report row by row. Each decision sees the effects of the previous rows.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::IpAddr,
};

use fleet_core::{DeviceFacts, DeviceId, DeviceIdentifier, DeviceReport, Endpoint, NodeId, SiteId};

use crate::{
    Binding, Claim, DeviceRecord, Refused, ReportDecision, Reporter, decide_report,
    predecessor_identifier,
};

/// The records that a report affects, updated while its rows are decided in order. This keeps two rows of one
/// device, or of two devices at one endpoint, consistent. A row only reads records with its identifiers or its
/// endpoint, for an inventory of any size.
#[derive(Clone, Debug, Default)]
pub struct Inventory {
    records: BTreeMap<DeviceId, DeviceRecord>,
    by_identifier: BTreeMap<DeviceIdentifier, DeviceId>,
    by_endpoint: BTreeMap<(SiteId, Endpoint), BTreeSet<DeviceId>>,
    created: i64,
}

/// The decision for one row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Planned {
    /// The record; a provisional id if it is yet to be created.
    pub device: DeviceId,
    /// The decision; a [`ReportDecision::Create`] or [`ReportDecision::Update`].
    pub decision: ReportDecision,
    /// The identifier of a record to create.
    pub identifier: DeviceIdentifier,
    /// The node that the record belongs to from now on.
    pub owner: NodeId,
    /// The records of revoked nodes that pass to the reporter.
    pub claims: Vec<(DeviceId, Claim)>,
    /// Identifiers that the report shows and that do not count, because other devices show them too.
    pub shared: Vec<SharedIdentity>,
}

/// A MAC or serial that one scan saw at two addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SharedIdentity {
    /// The identifier.
    pub identifier: DeviceIdentifier,
    /// The record that keeps it.
    pub record: DeviceId,
    /// The address of that record; none if it has lost its endpoint.
    pub first: Option<IpAddr>,
    /// The address of the report.
    pub second: IpAddr,
}

impl fmt::Display for SharedIdentity {
    /// The warning for the operator.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            identifier, second, ..
        } = self;
        match self.first {
            Some(first) => write!(f, "{first} and {second} both show {identifier}")?,
            None => write!(f, "{second} shows {identifier}, as other devices did")?,
        }
        f.write_str(
            ": it identifies neither, so devices that show it are told apart by address and port; give each its own",
        )
    }
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
        let (identifier, shared) = self.identity(reporter, report);
        let candidates = self.candidates(reporter, report, &identifier);
        let decision = decide_report(reporter, report, &identifier, &candidates);
        let claims = self.claims(reporter, report, &decision);
        let (device, losers) = match &decision {
            ReportDecision::Refuse(refused) => return Err(*refused),
            ReportDecision::Create {
                endpoint_taken_from,
            } => {
                self.created += 1;
                let device = DeviceId(-self.created);
                self.put(DeviceRecord::blank(device, identifier.clone(), reporter));
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
        for shared in &shared {
            self.change(shared.record, |record| record.shared = true);
        }
        let owner = self
            .records
            .get(&device)
            .map_or(reporter.node, |record| record.owner_after(reporter.node));
        self.change(device, |record| record.learn(reporter, owner, report));
        Ok(Planned {
            device,
            decision,
            identifier,
            owner,
            claims,
            shared,
        })
    }

    /// The strongest identifier of a report that means one device, and the stronger ones that do not: their record is
    /// another device.
    fn identity(
        &self,
        reporter: Reporter,
        report: &DeviceReport,
    ) -> (DeviceIdentifier, Vec<SharedIdentity>) {
        let second = report.endpoint.ip;
        let mut shared = Vec::new();
        for identifier in report.identifiers(reporter.node) {
            let known = self
                .by_identifier
                .get(&identifier)
                .and_then(|id| self.records.get(id))
                .filter(|record| {
                    identifier.is_strong() && record.is_another_at(reporter.node, second)
                });
            let Some(record) = known else {
                return (identifier, shared);
            };
            shared.push(SharedIdentity {
                identifier,
                record: record.id,
                first: record.endpoint.map(|endpoint| endpoint.ip),
                second,
            });
        }
        (report.identifier(reporter.node), shared)
    }

    /// The claims that a decision makes.
    fn claims(
        &self,
        reporter: Reporter,
        report: &DeviceReport,
        decision: &ReportDecision,
    ) -> Vec<(DeviceId, Claim)> {
        let ReportDecision::Update { device, merges, .. } = decision else {
            return Vec::new();
        };
        let merged = merges.iter().map(|(merged, _)| merged);
        std::iter::once(device)
            .chain(merged)
            .filter_map(|id| {
                let claim = self.records.get(id)?.claim(reporter, report.endpoint)?;
                Some((*id, claim))
            })
            .collect()
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
        let predecessor = predecessor_identifier(reporter, report);
        let named = [Some(identifier), predecessor.as_ref()];
        let here = self.by_endpoint.get(&(reporter.site, report.endpoint));
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
        if let (Some(site), Some(endpoint)) = (record.site, record.endpoint) {
            let devices = self.by_endpoint.entry((site, endpoint)).or_default();
            devices.insert(record.id);
        }
        self.records.insert(record.id, record);
    }

    fn take(&mut self, device: DeviceId) -> Option<DeviceRecord> {
        let record = self.records.remove(&device)?;
        self.by_identifier.remove(&record.identifier);
        if let (Some(site), Some(endpoint)) = (record.site, record.endpoint)
            && let Some(devices) = self.by_endpoint.get_mut(&(site, endpoint))
        {
            devices.remove(&device);
        }
        Some(record)
    }
}

impl DeviceRecord {
    /// A record without facts.
    fn blank(id: DeviceId, identifier: DeviceIdentifier, owner: Reporter) -> Self {
        Self {
            id,
            identifier,
            endpoint: None,
            owner: Some(owner.node),
            owner_live: true,
            site: Some(owner.site),
            binding: Binding::Free,
            facts: DeviceFacts::default(),
            kept_apart: Vec::new(),
            shared: false,
            seen_at: None,
        }
    }

    /// Applies a report. Unknown facts never replace known ones.
    fn learn(&mut self, reporter: Reporter, owner: NodeId, report: &DeviceReport) {
        self.endpoint = Some(report.endpoint);
        self.seen_at = Some((reporter.node, report.endpoint.ip));
        (self.owner, self.owner_live) = (Some(owner), true);
        if owner == reporter.node {
            self.site = Some(reporter.site);
        }
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
