//! The devices that a report can affect. They are loaded and locked together, changed in memory row by row
//! according to `fleet_pairing`, and written together.

mod held;

use std::collections::{BTreeMap, BTreeSet};

use fleet_core::{DeviceReport, RejectReason};
use fleet_pairing::{
    Claim, ClaimBasis, IdentityReason, Inventory as Rules, Planned, Refused, Rekey, ReportDecision,
    Reporter, SharedIdentity,
};
use held::Held;

use crate::{
    NewReport,
    sql::{
        devices,
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
    /// Records that changed their identifier or were merged.
    changes: Vec<Changed>,
    /// Rows refused because another owner has the device.
    refused: Vec<(Endpoint, DeviceIdentifier, Refused)>,
    /// Endpoints to attribute to the reporter.
    endpoints: BTreeSet<Endpoint>,
    /// Devices that a node reports and that belong to another owner.
    sightings: BTreeMap<(DeviceId, NodeId), Sighting>,
    /// Records of revoked nodes that pass to the reporter.
    claims: Vec<(DeviceId, Claim)>,
    /// Identifiers that do not count, by the endpoint that shows them.
    shared: BTreeMap<Endpoint, SharedIdentity>,
}

/// Where and when a node reported a device.
struct Sighting {
    endpoint: Endpoint,
    first_seen: Micros,
    last_seen: Micros,
}

/// A record that gets a new identifier, or that is merged into another.
struct Changed {
    device: DeviceId,
    merged: Option<DeviceId>,
    reason: IdentityReason,
    /// The record before the change.
    was: device::Model,
    became: DeviceIdentifier,
    /// When it was bound, if its binding was transferred.
    binding_since: Option<Micros>,
}

/// The stored ids that replaced the provisional ids.
pub(super) struct SavedIds(BTreeMap<DeviceId, DeviceId>);

impl SavedIds {
    pub(super) fn of(&self, device: DeviceId) -> DeviceId {
        self.0.get(&device).copied().unwrap_or(device)
    }
}

impl Inventory {
    /// Loads and locks every device that a row may match: by its identity, by its endpoint on the reporter's
    /// site, or by the endpoint on the network of the node that the reporter replaces. At most five statements,
    /// regardless of the number of rows.
    pub(super) async fn load(
        tx: &DatabaseTransaction,
        new: &NewReport,
        scan: ScanId,
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
            let mut records = load::records(tx, &models, &bindings).await?;
            load::see(tx, scan, reporter.node, &mut records, reports).await?;
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
            sightings: BTreeMap::new(),
            claims: Vec::new(),
            shared: BTreeMap::new(),
        })
    }

    /// Judges a row and applies the decision at once, because later rows depend on it.
    pub(super) fn decide(&mut self, report: &DeviceReport) -> Result<DeviceId, RejectReason> {
        let planned = match self.rules.decide(self.reporter, report) {
            Ok(planned) => planned,
            Err(refused) => {
                let identifier = report.identifier(self.reporter.node);
                self.refused.push((report.endpoint, identifier, refused));
                self.sight(refused.record, report.endpoint);
                return Err(refused.reason);
            }
        };
        let Planned {
            device,
            decision,
            identifier,
            owner,
            claims,
            shared,
        } = planned;
        let losers = match decision {
            ReportDecision::Refuse(refused) => return Err(refused.reason),
            ReportDecision::Create {
                endpoint_taken_from,
            } => {
                let node = Some(self.reporter.node.0);
                let blank = devices::blank(self.org.0, node, identifier, self.now);
                self.held.insert(device, Held::new(blank));
                endpoint_taken_from
            }
            ReportDecision::Update {
                rekey,
                merges,
                endpoint_taken_from,
                ..
            } => {
                self.make_one(device, rekey, merges, owner);
                endpoint_taken_from
            }
        };
        // One endpoint has one device: the one that answered there last.
        for loser in losers {
            if let Some(held) = self.held.get_mut(&loser) {
                held.displace();
            }
        }
        if let Some(held) = self.held.get_mut(&device) {
            held.learn(owner, report, self.now);
            let unconfirmed = claims
                .iter()
                .find(|(claimed, claim)| *claimed == device && claim.basis == ClaimBasis::Endpoint);
            if let Some((_, claim)) = unconfirmed {
                held.claim(claim.from);
            }
        }
        if owner != self.reporter.node {
            self.sight(device, report.endpoint);
        }
        for shared in shared {
            if let Some(held) = self.held.get_mut(&shared.record) {
                held.share();
            }
            self.shared.entry(report.endpoint).or_insert(shared);
        }
        self.claims.extend(claims);
        self.endpoints.insert(report.endpoint);
        Ok(device)
    }

    /// Notes that the reporter sees a device of another owner.
    fn sight(&mut self, device: DeviceId, endpoint: Endpoint) {
        let now = Micros(self.now);
        let sighting = Sighting {
            endpoint,
            first_seen: now,
            last_seen: now,
        };
        self.sightings
            .insert((device, self.reporter.node), sighting);
    }

    /// Keeps the node of a merged record as one that sees the surviving device.
    fn keep_finder(&mut self, survivor: DeviceId, was: &device::Model) {
        let (Some(node), Ok(Some(endpoint))) = (was.node_id, devices::endpoint(was)) else {
            return;
        };
        let sighting = Sighting {
            endpoint,
            first_seen: was.first_seen,
            last_seen: was.last_seen,
        };
        self.sightings
            .entry((survivor, NodeId(node)))
            .or_insert(sighting);
    }

    /// Changes the identifier of a record, and merges the records of the same device into it.
    fn make_one(
        &mut self,
        device: DeviceId,
        rekey: Option<Rekey>,
        merges: Vec<(DeviceId, IdentityReason)>,
        owner: NodeId,
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
            // An undo of the merge restores this state (decision 0008).
            let was = ending.model().clone();
            ending.end(self.now);
            survivor.absorb(&was);
            if was.node_id != Some(owner.0) {
                self.keep_finder(device, &was);
            }
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

    /// Transfers the binding of a merged record to the surviving one, unless the survivor is bound itself.
    /// Returns when the transferred binding was made.
    fn hand_over(&mut self, from: DeviceId, to: DeviceId) -> Option<Micros> {
        let binding = self.bindings.remove(&from)?;
        if self.bindings.contains_key(&to) {
            return None;
        }
        let since = binding.created_at;
        self.bindings.insert(to, binding);
        Some(since)
    }

    /// The endpoints that are now attributed to the reporter.
    pub(super) fn endpoints(&self) -> &BTreeSet<Endpoint> {
        &self.endpoints
    }

    /// The record of another owner that a refused row at this endpoint is about.
    pub(super) fn conflict_at(&self, endpoint: Endpoint) -> Option<DeviceId> {
        let refused = self.refused.iter().find(|(at, ..)| *at == endpoint);
        refused.map(|(.., refused)| refused.record)
    }

    /// The identifiers that do not count, by the endpoint that shows them.
    pub(super) fn shared(&self) -> &BTreeMap<Endpoint, SharedIdentity> {
        &self.shared
    }

    /// The records of revoked nodes that pass to the reporter.
    pub(super) fn claims(&self) -> &[(DeviceId, Claim)] {
        &self.claims
    }

    /// The device after the rows judged so far.
    pub(super) fn device(&self, device: DeviceId) -> Option<&device::Model> {
        self.held.get(&device).map(Held::model)
    }

    /// Whether the device differs visibly from its stored state before this report.
    pub(super) fn changed_visibly(&self, device: DeviceId) -> bool {
        self.held.get(&device).is_some_and(Held::is_visibly_changed)
    }
}
