//! The decision about one reported device. The caller has already checked that its endpoint is in the scope
//! of the command.

use fleet_core::{
    DeviceFacts, DeviceId, DeviceIdentifier, DeviceReport, NodeId, RejectReason, SiteId,
    auto_identifier,
};

use crate::{DeviceRecord, IdentityReason};

/// The node that reports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reporter {
    /// The node, from its token.
    pub node: NodeId,
    /// The site that it belongs to.
    pub site: SiteId,
    /// The revoked node that it replaces, as the operator specified; usually none.
    pub replaces: Option<NodeId>,
}

/// A record of a revoked node passes to the reporter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Claim {
    /// The revoked node.
    pub from: NodeId,
    /// Why the reporter may have it.
    pub basis: ClaimBasis,
}

/// Why a node may take over a record of a revoked node. A MAC or serial alone is no basis: any site can send one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ClaimBasis {
    /// An operator bound the device to the reporter.
    Binding,
    /// An operator named the reporter as the replacement of the revoked node.
    Replacement,
    /// An administrator placed both nodes in one site.
    Site,
    /// The report has the endpoint of the record. No person decided this, so an operator must confirm the claim
    /// before credentials are sent.
    Endpoint,
}

impl ClaimBasis {
    /// The basis in words, for the audit trail.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Binding => "bound to it",
            Self::Replacement => "replaces that node",
            Self::Site => "same site",
            Self::Endpoint => "same endpoint",
        }
    }
}

#[cfg(test)]
impl From<NodeId> for Reporter {
    /// A node with a site of its own.
    fn from(node: NodeId) -> Self {
        Self {
            node,
            site: SiteId(node.0),
            replaces: None,
        }
    }
}

/// The decision about a reported device. A written record gets the reported endpoint, and belongs to the reporter
/// unless another live node of the site found it. Unknown facts never replace known ones.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ReportDecision {
    /// A new device.
    Create {
        /// Records of other devices that lose the endpoint.
        endpoint_taken_from: Vec<DeviceId>,
    },
    /// A known device.
    Update {
        /// Its record.
        device: DeviceId,
        /// The new identifier; the previous one becomes an alias.
        rekey: Option<Rekey>,
        /// Records of the same device, which are merged into it, each with its reason.
        merges: Vec<(DeviceId, IdentityReason)>,
        /// Records of other devices that lose the endpoint.
        endpoint_taken_from: Vec<DeviceId>,
    },
    /// The node may not write the record.
    Refuse(Refused),
}

/// A change of a record's identifier.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rekey {
    /// The new identifier.
    pub to: DeviceIdentifier,
    /// Why the identifier changes.
    pub reason: IdentityReason,
}

/// A refusal by ownership or identity.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refused {
    /// Why the report is refused.
    pub reason: RejectReason,
    /// The existing record that conflicts.
    pub record: DeviceId,
}

/// Decides about one reported device. `identifier` is the one that the server derived for the report;
/// `candidates` are the live records of the organization with that identifier, those at the reported
/// endpoint, and the one that [`predecessor_identifier`] names.
///
/// The device is looked up in this order. First, the record of a strong identifier. Then, at the same
/// endpoint of the same site, a record that had the identity before, or an `auto:` record, which is
/// upgraded. An `auto:` report matches any record of the site at the endpoint unless make or model
/// contradicts. Then the `auto:` record of the replaced node with this endpoint and type. Otherwise the
/// device is new. Other records of the same device are merged into the result, except those that an
/// operator has separated.
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
        // A record of this site can be bound to another node
        // or to the server, and must then keep its endpoint.
        if let Err(reason) = other.writable_by(reporter, report.endpoint) {
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
    if let Some(predecessor) = known
        .predecessor
        .filter(|predecessor| predecessor.id != found.record.id)
        && !found.is_kept_apart_from(predecessor)
    {
        merges.push((predecessor.id, IdentityReason::Replacement));
    }
    if let Err(reason) = found.record.writable_by(reporter, report.endpoint) {
        // The node knew the device by its endpoint only, and the strong identity belongs to another owner. This is a
        // conflict.
        let conflict = identifier.is_strong()
            && !merges.is_empty()
            && reason != RejectReason::OwnedByRevokedNode;
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

/// The `auto:` identifier that the replaced node would have used for the reported device.
pub fn predecessor_identifier(
    reporter: Reporter,
    report: &DeviceReport,
) -> Option<DeviceIdentifier> {
    let DeviceFacts { driver, model, .. } = &report.facts;
    let hash = |node| auto_identifier(node, report.endpoint, driver, model);
    reporter.replaces.map(hash)
}

fn refuse(reason: RejectReason, record: &DeviceRecord) -> ReportDecision {
    ReportDecision::Refuse(Refused {
        reason,
        record: record.id,
    })
}

/// The record of the reported device, and its new identifier.
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

/// The candidates by their relation to the report.
struct Known<'a> {
    report: &'a DeviceReport,
    identifier: &'a DeviceIdentifier,
    /// Records of the reporter's site at the endpoint.
    here: Vec<&'a DeviceRecord>,
    /// The record with the identifier of the report, at any endpoint.
    named: Option<&'a DeviceRecord>,
    /// The replaced node's record of this endpoint and type at another site, if it is still free.
    predecessor: Option<&'a DeviceRecord>,
}

impl<'a> Known<'a> {
    fn among(
        reporter: Reporter,
        report: &'a DeviceReport,
        identifier: &'a DeviceIdentifier,
        candidates: &[&'a DeviceRecord],
    ) -> Self {
        let predecessor = predecessor_identifier(reporter, report);
        let is_predecessor = |record: &&&DeviceRecord| {
            Some(&record.identifier) == predecessor.as_ref()
                // The identifier alone proves nothing, because anybody can compute the hash.
                && record.owner == reporter.replaces
                && !record.is_at(reporter.site, report.endpoint)
                && record.writable_by(reporter, report.endpoint).is_ok()
        };
        Self {
            report,
            identifier,
            here: candidates
                .iter()
                .copied()
                .filter(|record| record.is_at(reporter.site, report.endpoint))
                .collect(),
            named: candidates
                .iter()
                .copied()
                .find(|record| record.identifier == *identifier),
            predecessor: candidates.iter().find(is_predecessor).copied(),
        }
    }

    /// The record of a report with MAC or serial.
    fn find_strong(&self) -> Option<Found<'a>> {
        // Devices move, so a strong identity counts at any endpoint.
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
                // A serial alone does not replace a MAC.
                let is_mac = matches!(self.identifier, DeviceIdentifier::Mac(_));
                let stronger = is_mac || !record.identifier.is_strong();
                let rekey = stronger.then(|| Rekey {
                    to: self.identifier.clone(),
                    reason: IdentityReason::of_upgrade(self.identifier),
                });
                Found { record, rekey }
            })
            .or_else(|| self.predecessor_record())
    }

    /// The record of a report with neither. A known record at the endpoint keeps its identifier: the hash only
    /// covers endpoint and type, which the record already has.
    fn find_auto(&self) -> Option<Found<'a>> {
        let here = |fits: &dyn Fn(&DeviceRecord) -> bool| {
            self.here.iter().copied().find(|record| fits(record))
        };
        let strong = here(&|record| {
            record.identifier.is_strong()
                && !record.contradicts(self.report)
                && !record.is_contradicted_by(self.report)
        });
        let exact = || here(&|record| record.identifier == *self.identifier);
        let auto = || here(&|record| !record.identifier.is_strong());
        strong
            .or_else(exact)
            .or_else(auto)
            // This record has lost its endpoint to another device since.
            .or(self.named)
            .map(|record| Found {
                record,
                rekey: None,
            })
            .or_else(|| self.predecessor_record())
    }

    /// A record at the endpoint that may take the identifier of the report.
    fn find_here(&self, fits: impl Fn(&DeviceRecord) -> bool) -> Option<&'a DeviceRecord> {
        self.here
            .iter()
            .copied()
            .find(|record| fits(record) && self.may_take_on(record))
    }

    fn predecessor_record(&self) -> Option<Found<'a>> {
        let record = self.predecessor.filter(|record| self.may_take_on(record))?;
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

    /// Why another record at the endpoint is the same device, if it is. A record of another type is not the
    /// same: records are merged only without contradicting facts.
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
