//! The plan of a scan over several nodes: each target goes to the one node whose subnets cover it best.

use std::collections::{BTreeMap, BTreeSet};

use fleet_core::{NodeId, limits};
use ipnetwork::IpNetwork;

use super::{
    Plan, PlanError, PlanPolicy, build,
    exclude::exclude,
    select::{self, Selection, TargetGroup},
};
use crate::{
    AddressList, Candidate, Exclusion, Mode, NodeProfile, ScanRequest, Tally, coverage, estimate,
    parse_ports,
};

/// Why targets are skipped that no node of the scan covers.
const UNCOVERED: &str = "in the subnets of no node of the scan";

/// Pairs of nodes with common targets that the notes of a plan name. A thousand nodes can have a million.
const OVERLAPS_SHOWN: usize = 16;

/// A node that may take part in a scan.
#[derive(Clone, Debug, PartialEq)]
pub struct Participant {
    /// The node.
    pub node: NodeId,
    /// Its name, escaped.
    pub name: String,
    /// Whether it has a control stream now.
    pub connected: bool,
    /// Its limits, capabilities and subnets.
    pub profile: NodeProfile,
    /// The targets that its site excludes.
    pub exclusions: Vec<Exclusion>,
}

/// A scan over several nodes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JointPlan {
    /// The totals and the skips of all nodes. Its chunks are those of the shares, in order; its estimate is that of the
    /// slowest node.
    pub plan: Plan,
    /// The nodes with targets.
    pub shares: Vec<PlannedShare>,
    /// The targets that no node covers.
    pub uncovered: AddressList,
}

/// The part of one node in a plan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlannedShare {
    /// The node.
    pub node: NodeId,
    /// The plan of its targets alone.
    pub plan: Plan,
}

/// Plans a scan over all participants whose subnets cover a target, see [`coverage`]. Targets that no participant
/// covers are skipped.
///
/// # Errors
///
/// Those of [`super::plan_at_site`]; no target is covered; or the request has host names or is for multicast DNS, which
/// belong to no subnet.
pub fn plan_over(
    request: &ScanRequest,
    participants: &[Participant],
    policy: &PlanPolicy,
) -> Result<JointPlan, PlanError> {
    let ports = parse_ports(&request.ports)?;
    let selection = select_all(request, participants, policy)?;
    let targets = fixed(&selection)?.clone();
    let candidates: Vec<_> = participants
        .iter()
        .map(|one| Candidate {
            node: one.node,
            connected: one.connected,
            subnets: &one.profile.local_subnets,
        })
        .collect();
    let coverage = coverage(&targets, &candidates);
    let Some(first) = targets.iter().next() else {
        return Err(PlanError::NothingLeft);
    };
    if coverage.shares.is_empty() {
        return Err(PlanError::Uncovered {
            count: targets.len(),
            first,
        });
    }
    let mut skipped = selection.skipped.clone();
    let mut notes = selection.notes.clone();
    let by_id: BTreeMap<NodeId, &Participant> =
        participants.iter().map(|one| (one.node, one)).collect();
    let name = |node: NodeId| {
        let found = by_id.get(&node);
        found.map_or(String::new(), |one| one.name.clone())
    };
    if let Some(first) = coverage.uncovered.iter().next() {
        let count = coverage.uncovered.len();
        Tally::add(&mut skipped, UNCOVERED, count, &first.to_string());
        notes.push(format!(
            "{count} targets are in the subnets of no node of the scan and are not scanned ({}): to reach them through a router, name one node",
            coverage.uncovered.shown(8)
        ));
    }
    for ((node, other), count) in coverage.overlaps.iter().take(OVERLAPS_SHOWN) {
        notes.push(format!(
            "{count} targets are in the subnets of both {} and {}: {} scans them",
            name(*node),
            name(*other),
            name(*node)
        ));
    }
    if coverage.overlaps.len() > OVERLAPS_SHOWN {
        notes.push(format!(
            "at least {} more pairs of nodes have targets in common: each target is scanned once",
            coverage.overlaps.len() - OVERLAPS_SHOWN
        ));
    }
    let mut shares = Vec::new();
    for (node, addresses) in coverage.shares {
        let Some(participant) = by_id.get(&node) else {
            continue;
        };
        let mut own = Selection {
            group: selection.group.clone(),
            skipped: Vec::new(),
            notes: Vec::new(),
        };
        own.keep(addresses);
        exclude(&mut own, &participant.exclusions)?;
        let profile = &participant.profile;
        let mut plan = build::build(own, ports.clone(), profile);
        plan.estimate = estimate(&plan, profile, &[]);
        let shown = &participant.name;
        notes.extend(plan.notes.iter().map(|note| format!("{shown}: {note}")));
        for tally in &plan.skipped {
            Tally::add(&mut skipped, &tally.reason, tally.count, &tally.example);
        }
        shares.push(PlannedShare { node, plan });
    }
    shares.retain(|share| !share.plan.chunks.is_empty());
    if shares.is_empty() {
        return Err(PlanError::AllExcluded(notes.join("; ")));
    }
    Ok(join(
        shares,
        skipped,
        notes,
        coverage.uncovered,
        targets.len() + edges(&selection),
    ))
}

fn join(
    shares: Vec<PlannedShare>,
    skipped: Vec<Tally>,
    notes: Vec<String>,
    uncovered: AddressList,
    targets: u64,
) -> JointPlan {
    let plans = || shares.iter().map(|share| &share.plan);
    let plan = Plan {
        targets,
        skipped,
        ports: plans().next().map_or(Vec::new(), |plan| plan.ports.clone()),
        chunks: plans().flat_map(|plan| plan.chunks.clone()).collect(),
        estimate: plans().map(|plan| plan.estimate).max().unwrap_or_default(),
        notes,
        open_scope: plans().any(|plan| plan.open_scope),
    };
    JointPlan {
        plan,
        shares,
        uncovered,
    }
}

fn edges(selection: &Selection) -> u64 {
    selection.skipped.iter().map(|tally| tally.count).sum()
}

/// Selects the targets of a request for all participants at once. The local-subnet keyword stands for the subnets of
/// all of them.
fn select_all(
    request: &ScanRequest,
    participants: &[Participant],
    policy: &PlanPolicy,
) -> Result<Selection, PlanError> {
    let mut seen = BTreeSet::new();
    // In the order of the nodes, which is that of the notes.
    let subnets: Vec<IpNetwork> = participants
        .iter()
        .flat_map(|one| &one.profile.local_subnets)
        .copied()
        .filter(|subnet| seen.insert(*subnet))
        .collect();
    let all = NodeProfile {
        local_subnets: subnets,
        // Names are refused with an error of their own.
        pins: true,
        ..NodeProfile::upstream()
    };
    match &request.mode {
        Mode::List(entries) => select::list(entries, &all, policy),
        Mode::Range { start, end } => select::range(start, end, policy),
        Mode::Target(text) => select::target(text, &all, policy),
        Mode::Mdns { .. } => Err(PlanError::SplitMdns),
    }
}

/// The addresses of a selection, which must be known now.
fn fixed(selection: &Selection) -> Result<&AddressList, PlanError> {
    match &selection.group {
        TargetGroup::Named(name) => Err(PlanError::SplitName(name.clone())),
        TargetGroup::LocalSubnet => Err(PlanError::SplitLocalSubnet),
        TargetGroup::Listed { addresses, names } | TargetGroup::Written { addresses, names } => {
            match names.first() {
                Some(name) => Err(PlanError::SplitName(name.clone())),
                None => Ok(addresses),
            }
        }
        TargetGroup::Aimed { addresses, .. }
        | TargetGroup::Announced(addresses)
        | TargetGroup::Announcing { addresses, .. } => Ok(addresses),
    }
}

/// Whether a scan may have this number of participants.
///
/// # Errors
///
/// There are more than the limit.
pub fn check_participants(count: usize) -> Result<(), PlanError> {
    if count > limits::SCAN_NODES {
        return Err(PlanError::TooManyNodes(count));
    }
    Ok(())
}
