//! The decision about one reported device. That its endpoint lies in the scope of the node's command
//! was decided before.

use fleet_core::{
    DeviceFacts, DeviceId, DeviceIdentifier, DeviceReport, NodeId, RejectReason, auto_identifier,
};

use crate::{DeviceRecord, IdentityReason};

/// Who reports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reporter {
    /// The node, from its token.
    pub node: NodeId,
    /// The revoked node whose place it takes, as the operator named it; none for most.
    pub replaces: Option<NodeId>,
}

impl From<NodeId> for Reporter {
    fn from(node: NodeId) -> Self {
        Self {
            node,
            replaces: None,
        }
    }
}

/// What becomes of a reported device. Whatever is written is attributed to the reporter and stands at
/// the reported endpoint; a blank field never erases a known one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ReportDecision {
    /// A device that was not known.
    Create {
        /// Records of other devices that lose the endpoint to it.
        endpoint_taken_from: Vec<DeviceId>,
    },
    /// A known device.
    Update {
        /// Its record.
        device: DeviceId,
        /// The identifier that it goes by from now on; the earlier one stays as an alias.
        rekey: Option<Rekey>,
        /// Records that turn out to be this device: they end in it, each for its reason.
        merges: Vec<(DeviceId, IdentityReason)>,
        /// Records of other devices that lose the endpoint to it.
        endpoint_taken_from: Vec<DeviceId>,
    },
    /// The node may not write what it reports.
    Refuse(Refused),
}

/// A change of a record's identifier.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rekey {
    /// The identifier from now on.
    pub to: DeviceIdentifier,
    /// Why.
    pub reason: IdentityReason,
}

/// A refusal by ownership or identity.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refused {
    /// Why.
    pub reason: RejectReason,
    /// The record that stands in the way.
    pub record: DeviceId,
}

/// Decides about one reported device. `identifier` is the one that the server derived for the report;
/// `candidates` are the live records of the organization with that identifier, those at the reported
/// endpoint, and the one that [`heir_identifier`] names.
///
/// In this order: the record of a strong identifier; at the same place of the same node a record that
/// showed the identity before, or an `auto:` one, which is upgraded; an `auto:` report is whatever the
/// node knows at the place unless make or model contradicts; the `auto:` record that the replaced node
/// had of this place and type; else a device that was not known. Records that are the same device end
/// in the one that is found. What an operator has told apart stays apart.
pub fn decide_report(
    reporter: Reporter,
    report: &DeviceReport,
    identifier: &DeviceIdentifier,
    candidates: &[&DeviceRecord],
) -> ReportDecision {
    let known = Known::among(reporter, report, identifier, candidates);
    let found = if identifier.is_strong() {
        known.find_strong()
    } else {
        known.find_auto()
    };
    let mut merges = Vec::new();
    let mut endpoint_taken_from = Vec::new();
    for other in &known.here {
        if found
            .as_ref()
            .is_some_and(|found| found.record.id == other.id)
        {
            continue;
        }
        if let Err(reason) = other.writable_by(reporter.node) {
            return refuse(reason, other);
        }
        match found.as_ref().and_then(|found| known.same(found, other)) {
            Some(reason) => merges.push((other.id, reason)),
            None => endpoint_taken_from.push(other.id),
        }
    }
    let Some(found) = found else {
        return ReportDecision::Create {
            endpoint_taken_from,
        };
    };
    if let Some(heir) = known.heir.filter(|heir| heir.id != found.record.id)
        && !found.is_kept_apart_from(heir)
    {
        merges.push((heir.id, IdentityReason::Replacement));
    }
    if let Err(reason) = found.record.writable_by(reporter.node) {
        // A node that knew the device by its place, and now learns that the identity is somebody
        // else's, is told of the conflict.
        let conflict = identifier.is_strong() && !merges.is_empty();
        let reason = if conflict {
            RejectReason::IdentityConflict
        } else {
            reason
        };
        return refuse(reason, found.record);
    }
    ReportDecision::Update {
        device: found.record.id,
        rekey: found.rekey,
        merges,
        endpoint_taken_from,
    }
}

/// The `auto:` identifier under which the replaced node would have known the reported device.
pub fn heir_identifier(reporter: Reporter, report: &DeviceReport) -> Option<DeviceIdentifier> {
    let DeviceFacts { driver, model, .. } = &report.facts;
    let hash = |dead| auto_identifier(dead, report.endpoint, driver, model);
    reporter.replaces.map(hash)
}

fn refuse(reason: RejectReason, record: &DeviceRecord) -> ReportDecision {
    ReportDecision::Refuse(Refused {
        reason,
        record: record.id,
    })
}

/// The record that the report is about, and what it is called from now on.
struct Found<'a> {
    record: &'a DeviceRecord,
    rekey: Option<Rekey>,
}

impl Found<'_> {
    fn is_kept_apart_from(&self, other: &DeviceRecord) -> bool {
        let to = self.rekey.as_ref().map(|rekey| &rekey.to);
        other.kept_apart.contains(&self.record.identifier)
            || to.is_some_and(|to| other.kept_apart.contains(to))
    }
}

/// The candidates by what they are to the report.
struct Known<'a> {
    report: &'a DeviceReport,
    identifier: &'a DeviceIdentifier,
    /// What the reporter knows at the place.
    here: Vec<&'a DeviceRecord>,
    /// The record with the report's identifier, wherever it is.
    named: Option<&'a DeviceRecord>,
    /// The replaced node's record of this place and type, if nobody has taken it since.
    heir: Option<&'a DeviceRecord>,
}

impl<'a> Known<'a> {
    fn among(
        reporter: Reporter,
        report: &'a DeviceReport,
        identifier: &'a DeviceIdentifier,
        candidates: &[&'a DeviceRecord],
    ) -> Self {
        let heir = heir_identifier(reporter, report);
        let inherits = |record: &&&DeviceRecord| {
            Some(&record.identifier) == heir.as_ref()
                && record.owner == reporter.replaces
                && record.writable_by(reporter.node).is_ok()
        };
        Self {
            report,
            identifier,
            here: candidates
                .iter()
                .copied()
                .filter(|record| record.is_at(reporter.node, report.endpoint))
                .collect(),
            named: candidates
                .iter()
                .copied()
                .find(|record| record.identifier == *identifier),
            heir: candidates.iter().find(inherits).copied(),
        }
    }

    /// The record of a report with MAC or serial.
    fn find_strong(&self) -> Option<Found<'a>> {
        if let Some(record) = self.named {
            return Some(Found {
                record,
                rekey: None,
            });
        }
        let showed = || self.find_here(|record| record.showed(self.report));
        let auto = || self.find_here(|record| !record.identifier.is_strong());
        showed()
            .or_else(auto)
            .map(|record| {
                // A serial alone does not take the place of a MAC.
                let stronger = self.report.facts.mac.is_some() || !record.identifier.is_strong();
                let rekey = stronger.then(|| Rekey {
                    to: self.identifier.clone(),
                    reason: IdentityReason::of_upgrade(self.identifier),
                });
                Found { record, rekey }
            })
            .or_else(|| self.inherited())
    }

    /// The record of a report with neither. Where the node knows the place, the identifier is kept: the
    /// hash says no more than place and type, which the record has.
    fn find_auto(&self) -> Option<Found<'a>> {
        let here = |fits: &dyn Fn(&DeviceRecord) -> bool| {
            self.here.iter().copied().find(|record| fits(record))
        };
        let strong =
            here(&|record| record.identifier.is_strong() && !record.contradicts(self.report));
        let exact = || here(&|record| record.identifier == *self.identifier);
        let auto = || here(&|record| !record.identifier.is_strong());
        strong
            .or_else(exact)
            .or_else(auto)
            .or(self.named)
            .map(|record| Found {
                record,
                rekey: None,
            })
            .or_else(|| self.inherited())
    }

    /// A record at the place that may take the report's identifier.
    fn find_here(&self, fits: impl Fn(&DeviceRecord) -> bool) -> Option<&'a DeviceRecord> {
        self.here
            .iter()
            .copied()
            .find(|record| fits(record) && self.may_take_on(record))
    }

    fn inherited(&self) -> Option<Found<'a>> {
        let record = self.heir.filter(|record| self.may_take_on(record))?;
        let rekey = Rekey {
            to: self.identifier.clone(),
            reason: IdentityReason::Replacement,
        };
        Some(Found {
            record,
            rekey: Some(rekey),
        })
    }

    fn may_take_on(&self, record: &DeviceRecord) -> bool {
        !record.kept_apart.contains(self.identifier)
    }

    /// Why another record at the place is the found device, if it is. A record of another type is not:
    /// two records become one only where nothing speaks against it.
    fn same(&self, found: &Found<'_>, other: &DeviceRecord) -> Option<IdentityReason> {
        let weaker = match &other.identifier {
            DeviceIdentifier::Mac(_) => false,
            DeviceIdentifier::Serial(_) => {
                self.report.facts.mac.is_some() && other.showed(self.report)
            }
            DeviceIdentifier::Auto(_) => {
                !self.identifier.is_strong() || !other.contradicts(self.report)
            }
        };
        let same = weaker && self.may_take_on(other) && !found.is_kept_apart_from(other);
        same.then(|| IdentityReason::of_upgrade(self.identifier))
    }
}

#[cfg(test)]
mod ownership;
#[cfg(test)]
mod tests;
