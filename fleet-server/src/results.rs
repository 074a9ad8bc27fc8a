//! Differences between scans as operators read them: one list of rows over devices, hosts and rejected reports. The
//! comparison itself is `fleet_inventory::difference`.

use std::collections::BTreeMap;

use fleet_core::{NodeId, OrgId, ScanId};
use fleet_discovery::{Ledger, Tally};
use fleet_inventory::{Counts, Field, Group, Reason, Row, Seen, explain_zero};
use fleet_store::{
    Against, DifferenceError, NodeOfSite, RejectedReport, ScanDifference, UnidentifiedHost,
};
use fleet_wire::{
    RpcError,
    fleet::{DifferenceCount, DifferenceGroup, DifferenceRow, SeenDevice},
};

use crate::{app::App, failure::Refusal, scans};

/// A difference with all of its rows.
#[derive(Debug)]
pub(crate) struct Difference {
    pub(crate) scan: ScanId,
    pub(crate) against: Option<ScanId>,
    /// By group, then by endpoint.
    pub(crate) rows: Vec<DifferenceRow>,
    /// Why the scan found no device.
    pub(crate) explanation: Option<String>,
}

/// Loads the difference between a scan and another one, or the previous one.
pub(crate) async fn difference(
    app: &App,
    org: OrgId,
    scan: ScanId,
    against: Option<ScanId>,
) -> Result<Difference, RpcError> {
    let _slot = app.differences.wait(org).await?;
    compared(app, org, scan, against).await
}

/// The same for the server's own work, which compares one pair of scans at a time and waits for no operator.
pub(crate) async fn compared(
    app: &App,
    org: OrgId,
    scan: ScanId,
    against: Option<ScanId>,
) -> Result<Difference, RpcError> {
    let against = against.map_or(Against::Previous, Against::Scan);
    let now = app.environment.now();
    let found = app.store.scan_difference(org, scan, against, now).await;
    match found {
        Ok(found) => Ok(assemble(found)),
        Err(DifferenceError::NotFound(scan)) => Err(scans::unknown(app, org, scan).await),
        Err(error) => Err(error.refusal()),
    }
}

fn assemble(mut found: ScanDifference) -> Difference {
    let explanation = found.scan.ledger.as_ref().and_then(explain);
    let nodes = std::mem::take(&mut found.nodes);
    let rejected = found.rejected.drain(..).map(|one| rejected(one, &nodes));
    let otherwise = found.rejected_otherwise.drain(..).map(rejected_otherwise);
    let hosts = found.unidentified.drain(..).map(|one| host(one, &nodes));
    let mut rest: Vec<DifferenceRow> = hosts.collect();
    rest.extend(rejected.chain(otherwise));
    let (mut rows, undecided): (Vec<Row>, Vec<Row>) = found
        .rows
        .drain(..)
        .partition(|row| row.group != Group::Undecided);
    let mut device = |row| device(row, &found, &nodes);
    let mut all: Vec<DifferenceRow> = rows.drain(..).map(&mut device).collect();
    all.append(&mut rest);
    all.extend(undecided.into_iter().map(device));
    Difference {
        scan: found.scan.id,
        against: found.against.as_ref().map(|scan| scan.id),
        rows: all,
        explanation,
    }
}

impl Difference {
    /// The number of rows of each group, in the order of display.
    pub(crate) fn counts(&self) -> Vec<DifferenceCount> {
        let count = |group: Group| {
            let group = on_wire(group);
            let rows = self.rows.iter().filter(|row| row.group() == group);
            DifferenceCount {
                group: group.into(),
                count: rows.count() as u64,
            }
        };
        Group::ALL.into_iter().map(count).collect()
    }

    /// The rows of a group, or all.
    pub(crate) fn rows_of(self, group: Option<Group>) -> impl Iterator<Item = DifferenceRow> {
        let group = group.map(on_wire);
        let mut rows = self.rows;
        rows.retain(|row| group.is_none_or(|group| row.group() == group));
        rows.into_iter()
    }
}

pub(crate) fn on_wire(group: Group) -> DifferenceGroup {
    match group {
        Group::New => DifferenceGroup::New,
        Group::Missing => DifferenceGroup::Missing,
        Group::Moved => DifferenceGroup::Moved,
        Group::Changed => DifferenceGroup::Changed,
        Group::Unchanged => DifferenceGroup::Unchanged,
        Group::Unidentified => DifferenceGroup::Unidentified,
        Group::Rejected => DifferenceGroup::Rejected,
        Group::Undecided => DifferenceGroup::Undecided,
    }
}

pub(crate) fn from_wire(group: DifferenceGroup) -> Option<Group> {
    Group::ALL
        .into_iter()
        .find(|known| on_wire(*known) == group)
}

type Nodes = BTreeMap<NodeId, NodeOfSite>;

/// Adds where a row comes from.
fn from_node(row: DifferenceRow, node: Option<NodeId>, nodes: &Nodes) -> DifferenceRow {
    let Some((id, node)) = node.and_then(|id| Some((id, nodes.get(&id)?))) else {
        return row;
    };
    DifferenceRow {
        fleet_node_id: id.0,
        node_name: node.name.clone(),
        site_id: node.site.0,
        site_name: node.site_name.clone(),
        ..row
    }
}

fn device(row: Row, found: &ScanDifference, nodes: &Nodes) -> DifferenceRow {
    let endpoint = row.endpoint();
    let node = row.after.as_ref().or(row.before.as_ref());
    let node = node.map(|seen| seen.node);
    let identifier = found.identifiers.get(&row.device);
    let seen = |one| seen(one, nodes);
    let row = DifferenceRow {
        group: on_wire(row.group).into(),
        device_id: row.device.0,
        identifier: identifier.map(ToString::to_string).unwrap_or_default(),
        ip: endpoint.map_or_else(String::new, |endpoint| endpoint.ip.to_string()),
        port: endpoint.map_or(0, |endpoint| endpoint.port.number().into()),
        before: row.before.map(seen),
        after: row.after.map(seen),
        changed: row
            .changed
            .into_iter()
            .map(Field::as_str)
            .map(str::to_owned)
            .collect(),
        reason: row.reason.map_or("", Reason::as_str).to_owned(),
        count: 1,
        ..DifferenceRow::default()
    };
    from_node(row, node, nodes)
}

fn seen(seen: Seen, nodes: &Nodes) -> SeenDevice {
    let facts = seen.facts;
    let node = nodes.get(&seen.node);
    SeenDevice {
        ip: seen.endpoint.ip.to_string(),
        port: seen.endpoint.port.number().into(),
        scheme: facts.scheme,
        manufacturer: facts.manufacturer,
        model: facts.model,
        firmware: facts.firmware,
        mac: facts.mac.map(|mac| mac.to_string()).unwrap_or_default(),
        serial: facts
            .serial
            .map(|serial| serial.as_str().to_owned())
            .unwrap_or_default(),
        node_name: node.map(|node| node.name.clone()).unwrap_or_default(),
        site_name: node.map(|node| node.site_name.clone()).unwrap_or_default(),
    }
}

fn host(host: UnidentifiedHost, nodes: &Nodes) -> DifferenceRow {
    let report = host.report.as_ref();
    let ports = report.map_or(&[][..], |report| &report.open_ports);
    let ports: Vec<String> = ports.iter().map(ToString::to_string).collect();
    let mut reason = "it answered without being identified".to_owned();
    if !ports.is_empty() {
        reason.push_str(&format!("; open ports: {}", ports.join(", ")));
    }
    if let Some(report) = report.filter(|report| !report.reply.is_empty()) {
        reason.push_str(&format!("; first reply: {}", report.reply));
    }
    let mac = report.and_then(|report| report.mac);
    let row = DifferenceRow {
        group: DifferenceGroup::Unidentified.into(),
        identifier: mac.map(|mac| mac.to_string()).unwrap_or_default(),
        ip: host.ip.to_string(),
        reason,
        count: 1,
        ..DifferenceRow::default()
    };
    from_node(row, host.node, nodes)
}

fn rejected(report: RejectedReport, nodes: &Nodes) -> DifferenceRow {
    let row = DifferenceRow {
        group: DifferenceGroup::Rejected.into(),
        device_id: report.device.map_or(0, |device| device.0),
        identifier: report.identifier,
        ip: report.endpoint.ip.to_string(),
        port: report.endpoint.port.number().into(),
        reason: report.reason.as_str().to_owned(),
        count: 1,
        ..DifferenceRow::default()
    };
    from_node(row, Some(report.node), nodes)
}

fn rejected_otherwise(tally: Tally) -> DifferenceRow {
    DifferenceRow {
        group: DifferenceGroup::Rejected.into(),
        reason: if tally.example.is_empty() {
            tally.reason
        } else {
            format!("{}, for example {}", tally.reason, tally.example)
        },
        count: tally.count,
        ..DifferenceRow::default()
    }
}

fn explain(ledger: &Ledger) -> Option<String> {
    let most = |tallies: &[Tally]| {
        let most = tallies.iter().max_by_key(|tally| tally.count);
        most.map(|tally| tally.reason.clone()).unwrap_or_default()
    };
    explain_zero(&Counts {
        targets: ledger.targets,
        identified: ledger.identified,
        owned_elsewhere: ledger.owned_elsewhere,
        unidentified: ledger.unidentified,
        refused: ledger.refused,
        silent: ledger.silent,
        skipped: ledger.skipped,
        skipped_reason: most(&ledger.skipped_reasons),
        not_reached: ledger.not_reached,
        unknown: ledger.unknown,
        rejected: ledger.rejected,
        rejected_reason: most(&ledger.rejected_reasons),
    })
}
