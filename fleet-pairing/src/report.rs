//! The decision about one reported device. That its endpoint lies in the scope of the node's command
//! was decided before.

use fleet_core::{DeviceId, DeviceIdentifier, DeviceReport, NodeId, RejectReason};

use crate::DeviceRecord;

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
        /// The stronger identifier that it shows now; the earlier one stays as an alias.
        rekey: Option<DeviceIdentifier>,
        /// Records that lose the endpoint to it. Those with an `auto:` identifier are the same device
        /// under its weaker name: this is where a merge of records begins.
        endpoint_taken_from: Vec<DeviceId>,
    },
    /// The node may not write what it reports.
    Refuse(RejectReason),
}

/// Decides about one reported device. `identifier` is the one that the server derived for the report;
/// `candidates` are the live records of the organization with that identifier, and those at the
/// reported endpoint.
///
/// In this order: the record of a strong identifier; at the same place of the same node a record that
/// showed the identity before, or an `auto:` one, which is upgraded; an `auto:` report is whatever the
/// node knows at the place unless make or model contradicts; else a device that was not known.
pub fn decide_report(
    reporter: NodeId,
    report: &DeviceReport,
    identifier: &DeviceIdentifier,
    candidates: &[DeviceRecord],
) -> ReportDecision {
    let here: Vec<&DeviceRecord> = candidates
        .iter()
        .filter(|record| record.is_at(reporter, report.endpoint))
        .collect();
    let named = candidates
        .iter()
        .find(|record| record.identifier == *identifier);
    let found = if identifier.is_strong() {
        find_strong(named, report, &here)
    } else {
        find_auto(named, report, &here)
    };
    let others = here
        .iter()
        .filter(|record| found.is_none_or(|(found, _)| found.id != record.id));
    if let Err(reason) = others
        .clone()
        .try_for_each(|record| record.writable_by(reporter))
    {
        return ReportDecision::Refuse(reason);
    }
    let endpoint_taken_from = others.map(|record| record.id).collect();
    let Some((record, upgrade)) = found else {
        return ReportDecision::Create {
            endpoint_taken_from,
        };
    };
    if let Err(reason) = record.writable_by(reporter) {
        return ReportDecision::Refuse(refusal(reason, record, identifier, &here));
    }
    ReportDecision::Update {
        device: record.id,
        rekey: upgrade.then(|| identifier.clone()),
        endpoint_taken_from,
    }
}

/// The record of a report with MAC or serial, and whether it takes the report's identifier.
fn find_strong<'a>(
    named: Option<&'a DeviceRecord>,
    report: &DeviceReport,
    here: &[&'a DeviceRecord],
) -> Option<(&'a DeviceRecord, bool)> {
    let showed = || here.iter().find(|record| record.showed(report));
    let auto = || here.iter().find(|record| !record.identifier.is_strong());
    match named {
        Some(record) => Some((record, false)),
        None => showed().or_else(auto).map(|record| {
            // A serial alone does not take the place of a MAC.
            let stronger = report.mac.is_some() || !record.identifier.is_strong();
            (*record, stronger)
        }),
    }
}

/// The record of a report with neither. Its identifier is kept: the hash says no more than the place
/// and the type, which the record has.
fn find_auto<'a>(
    named: Option<&'a DeviceRecord>,
    report: &DeviceReport,
    here: &[&'a DeviceRecord],
) -> Option<(&'a DeviceRecord, bool)> {
    let strong = here
        .iter()
        .find(|record| record.identifier.is_strong() && !record.contradicts(report));
    let auto = || here.iter().find(|record| !record.identifier.is_strong());
    strong
        .or_else(auto)
        .copied()
        .or(named)
        .map(|record| (record, false))
}

/// The reason to tell. A node that knew the device by its place, and now learns that the identity is
/// somebody else's, is told of the conflict.
fn refusal(
    reason: RejectReason,
    record: &DeviceRecord,
    identifier: &DeviceIdentifier,
    here: &[&DeviceRecord],
) -> RejectReason {
    let upgrade = identifier.is_strong()
        && here
            .iter()
            .any(|other| other.id != record.id && !other.identifier.is_strong());
    if upgrade {
        RejectReason::IdentityConflict
    } else {
        reason
    }
}

#[cfg(test)]
mod tests;
