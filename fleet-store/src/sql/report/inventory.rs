//! The devices that a report may touch: loaded and locked at once, changed in memory row by row as
//! `fleet_pairing` decides, and written at once.

mod held;

use std::collections::{BTreeMap, BTreeSet};

use fleet_core::{DeviceReport, RejectReason};
use fleet_pairing::{IdentityReason, Inventory as Rules, Refused, Rekey, ReportDecision, Reporter};
use held::Held;

use crate::{
    NewReport,
    sql::{
        entity::{binding, device},
        prelude::*,
    },
};

pub(in crate::sql) mod load;
mod save;

pub(super) struct Inventory {
    org: OrgId,
    reporter: Reporter,
    now: Timestamp,
    rules: Rules,
    held: BTreeMap<DeviceId, Held>,
    bindings: BTreeMap<DeviceId, binding::Model>,
    /// What was made one.
    changes: Vec<Changed>,
    /// What another has.
    refused: Vec<(Endpoint, DeviceIdentifier, Refused)>,
    /// Places where the reporter was taken at its word.
    endpoints: BTreeSet<Endpoint>,
}

/// A record that goes by another name from now on, or that ended in another.
struct Changed {
    device: DeviceId,
    merged: Option<DeviceId>,
    reason: IdentityReason,
    /// The record as it was.
    was: device::Model,
    became: DeviceIdentifier,
    /// Since when it was bound, where its binding went over.
    binding_since: Option<Micros>,
}

/// The ids that provisional ones became.
pub(super) struct SavedIds(BTreeMap<DeviceId, DeviceId>);

impl SavedIds {
    pub(super) fn of(&self, device: DeviceId) -> DeviceId {
        self.0.get(&device).copied().unwrap_or(device)
    }
}

impl Inventory {
    /// Loads and locks every device that a row may turn out to be: by its identity, by its place on
    /// the reporter's network, and by what the node that it replaces knew of the place. Four statements,
    /// whatever the number of rows.
    pub(super) async fn load(
        tx: &DatabaseTransaction,
        new: &NewReport,
        reporter: Reporter,
        reports: &[&DeviceReport],
    ) -> Result<Self, DbErr> {
        let models = if reports.is_empty() {
            Vec::new()
        } else {
            load::locked(tx, new, reporter, reports).await?
        };
        let (bindings, records) = if models.is_empty() {
            (BTreeMap::new(), Vec::new())
        } else {
            let bindings = load::bindings(tx, &models).await?;
            let records = load::records(tx, &models, &bindings).await?;
            (bindings, records)
        };
        Ok(Self {
            org: new.org,
            reporter,
            now: new.now,
            rules: Rules::new(records),
            held: models
                .into_iter()
                .map(|model| (DeviceId(model.id), Held::stored(model)))
                .collect(),
            bindings,
            changes: Vec::new(),
            refused: Vec::new(),
            endpoints: BTreeSet::new(),
        })
    }

    /// Judges a row and does at once what is decided, for the rows after it.
    pub(super) fn decide(&mut self, report: &DeviceReport) -> Result<DeviceId, RejectReason> {
        let planned = match self.rules.decide(self.reporter, report) {
            Ok(planned) => planned,
            Err(refused) => {
                let identifier = report.identifier(self.reporter.node);
                self.refused.push((report.endpoint, identifier, refused));
                return Err(refused.reason);
            }
        };
        let device = planned.device;
        let losers = match planned.decision {
            ReportDecision::Refuse(refused) => return Err(refused.reason),
            ReportDecision::Create {
                endpoint_taken_from,
            } => {
                let blank = self.blank(report);
                self.held.insert(device, Held::new(blank));
                endpoint_taken_from
            }
            ReportDecision::Update {
                rekey,
                merges,
                endpoint_taken_from,
                ..
            } => {
                self.make_one(device, rekey, merges);
                endpoint_taken_from
            }
        };
        for loser in losers {
            if let Some(held) = self.held.get_mut(&loser) {
                held.displace();
            }
        }
        if let Some(held) = self.held.get_mut(&device) {
            held.learn(self.reporter.node, report, self.now);
        }
        self.endpoints.insert(report.endpoint);
        Ok(device)
    }

    /// Gives a record its new name, and ends in it those that are the same device.
    fn make_one(
        &mut self,
        device: DeviceId,
        rekey: Option<Rekey>,
        merges: Vec<(DeviceId, IdentityReason)>,
    ) {
        let Some(mut survivor) = self.held.remove(&device) else {
            return;
        };
        let became = match &rekey {
            Some(rekey) => rekey.to.clone(),
            None => survivor.model().identifier.0.clone(),
        };
        for (merged, reason) in merges {
            let Some(ending) = self.held.get_mut(&merged) else {
                continue;
            };
            let was = ending.model().clone();
            ending.end(self.now);
            survivor.absorb(&was);
            let binding_since = self.hand_over(merged, device);
            self.changes.push(Changed {
                device,
                merged: Some(merged),
                reason,
                became: became.clone(),
                binding_since,
                was,
            });
        }
        if let Some(Rekey { to, reason }) = rekey {
            self.changes.push(Changed {
                device,
                merged: None,
                reason,
                was: survivor.model().clone(),
                became,
                binding_since: None,
            });
            survivor.rename(to);
        }
        self.held.insert(device, survivor);
    }

    /// The binding of a record that ends goes over to the one in which it ends, unless that is bound
    /// itself. Answers since when there was what went over.
    fn hand_over(&mut self, from: DeviceId, to: DeviceId) -> Option<Micros> {
        let binding = self.bindings.remove(&from)?;
        if self.bindings.contains_key(&to) {
            return None;
        }
        let since = binding.created_at;
        self.bindings.insert(to, binding);
        Some(since)
    }

    /// The places that are the reporter's from now on.
    pub(super) fn endpoints(&self) -> &BTreeSet<Endpoint> {
        &self.endpoints
    }

    fn blank(&self, report: &DeviceReport) -> device::Model {
        device::Model {
            id: 0,
            org_id: self.org.0,
            identifier: AsText(report.identifier(self.reporter.node)),
            node_id: Some(self.reporter.node.0),
            ip: None,
            port: None,
            scheme: String::new(),
            driver: String::new(),
            model: String::new(),
            manufacturer: String::new(),
            firmware: String::new(),
            mac: None,
            serial: String::new(),
            evidence: String::new(),
            first_seen: Micros(self.now),
            last_seen: Micros(self.now),
            deleted_at: None,
            kept_apart: None,
        }
    }

    /// The device as it is after the rows so far.
    pub(super) fn device(&self, device: DeviceId) -> Option<&device::Model> {
        self.held.get(&device).map(Held::model)
    }

    /// Whether an operator would see a difference to what was stored before this report.
    pub(super) fn changed_visibly(&self, device: DeviceId) -> bool {
        self.held.get(&device).is_some_and(Held::is_visibly_changed)
    }
}
