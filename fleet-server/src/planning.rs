//! The plan of a scan for the nodes that its operator named: one node, several, those of a site, or all. The rules are
//! in `fleet-discovery` (`shares.rs`, `plan/joint.rs`); this file loads the nodes and sites. Start with [`planned`].

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use fleet_core::{NodeId, OrgId, SiteId, enrollment::NodeState, limits};
use fleet_discovery::{
    JointPlan, NodeChoice, NodeProfile, Participant, Plan, PlanError, PlannedShare, ScanRequest,
    check_participants, estimate, plan_over,
};
use fleet_store::{Hello, NewShare, NodeRow, SiteRow};
use fleet_wire::RpcError;
use futures::{StreamExt, TryStreamExt, stream};

use crate::{
    app::App,
    failure::{self, Answered},
    scans::{self, SiteBlackout},
};

/// Histories of nodes that are read at the same time.
const HISTORIES: usize = 8;

/// The fields of a request that name the nodes of a scan.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Named<'a> {
    pub(crate) node: i64,
    pub(crate) nodes: &'a [i64],
    pub(crate) site: i64,
    pub(crate) auto: bool,
}

/// Reads the nodes of a request.
///
/// # Errors
///
/// Not exactly one of the four fields is set, or an id is not above 0.
pub(crate) fn choice(named: Named<'_>) -> Result<NodeChoice, RpcError> {
    if let Some(id) = named.nodes.iter().find(|id| **id <= 0) {
        return Err(RpcError::invalid_argument(format!(
            "fleet_node_ids has {id}: ids are above 0"
        ))
        .with_reason("INVALID_FIELD")
        .with_fact("field", "fleet_node_ids")
        .with_fact("value", id));
    }
    let several = NodeChoice::of_nodes(named.nodes.iter().copied().map(NodeId));
    match (named.node, several, named.site, named.auto) {
        (node, None, 0, false) if node > 0 => Ok(NodeChoice::Node(NodeId(node))),
        (0, Some(choice), 0, false) => Ok(choice),
        (0, None, site, false) if site > 0 => Ok(NodeChoice::Site(SiteId(site))),
        (0, None, 0, true) => Ok(NodeChoice::Auto),
        _ => Err(RpcError::invalid_argument(
            "exactly one of fleet_node_id, fleet_node_ids, site_id and auto must be set: name the node, the nodes or the site that scans, or set auto",
        )
        .with_reason("INVALID_FIELD")
        .with_fact("field", "fleet_node_id")),
    }
}

/// The fields that name the nodes of a choice: one node, several, a site, auto.
pub(crate) fn named(choice: &NodeChoice) -> (i64, Vec<i64>, i64, bool) {
    match choice {
        NodeChoice::Node(node) => (node.0, Vec::new(), 0, false),
        NodeChoice::Nodes(nodes) => (0, nodes.iter().map(|node| node.0).collect(), 0, false),
        NodeChoice::Site(site) => (0, Vec::new(), site.0, false),
        NodeChoice::Auto => (0, Vec::new(), 0, true),
    }
}

/// A node that may take part in a scan.
#[derive(Clone, Debug)]
pub(crate) struct PlannedNode {
    pub(crate) name: String,
    pub(crate) site: SiteId,
    pub(crate) connected: bool,
    /// The node at the rate of the scan.
    pub(crate) profile: NodeProfile,
}

/// The plan of a scan, with the rules of the sites at this moment.
#[derive(Debug)]
pub(crate) struct Planned {
    /// The plan. It has at least one share.
    pub(crate) joint: JointPlan,
    /// The node of the first share.
    pub(crate) first: NodeId,
    /// The nodes that may take part.
    pub(crate) nodes: BTreeMap<NodeId, PlannedNode>,
    /// The blackout in which no share can run.
    pub(crate) blackout: Option<SiteBlackout>,
}

impl Planned {
    /// The shares to store.
    pub(crate) fn shares(&self) -> Vec<NewShare> {
        let share = |share: &PlannedShare| {
            let node = self.nodes.get(&share.node);
            let rate = node.map_or(0, |node| node.profile.rate);
            NewShare::of(share.node, &share.plan).at_rate(rate)
        };
        self.joint.shares.iter().map(share).collect()
    }

    /// The plan of each share, with its node.
    pub(crate) fn plans(&self) -> impl Iterator<Item = (&Plan, &PlannedNode)> {
        let node = |share: &PlannedShare| self.nodes.get(&share.node);
        let plans = self.joint.shares.iter();
        plans.filter_map(move |share| Some((&share.plan, node(share)?)))
    }

    /// The probes per second of all its nodes. An upstream node has no rate and counts as 0.
    pub(crate) fn rate(&self) -> u32 {
        let rates = self
            .plans()
            .filter(|(_, node)| node.profile.big_commands)
            .map(|(_, node)| node.profile.rate);
        rates.fold(0, u32::saturating_add)
    }
}

/// Plans a request for the named nodes without storing anything.
pub(crate) async fn planned(
    app: &App,
    org: OrgId,
    choice: &NodeChoice,
    request: &ScanRequest,
) -> Result<Planned, RpcError> {
    if let NodeChoice::Node(node) = choice {
        let planned = scans::planned(app, org, *node, request).await?;
        let shown = PlannedNode {
            connected: app.is_connected(&planned.node),
            site: planned.node.site,
            name: planned.node.name,
            profile: planned.profile,
        };
        let share = PlannedShare {
            node: *node,
            plan: planned.plan.clone(),
        };
        return Ok(Planned {
            first: *node,
            joint: JointPlan {
                plan: planned.plan,
                shares: vec![share],
                uncovered: fleet_discovery::AddressList::default(),
            },
            nodes: BTreeMap::from([(*node, shown)]),
            blackout: planned.blackout,
        });
    }
    let turn = app.plans.turn(org).await?;
    let rows = nodes(app, org, choice).await?;
    check_participants(rows.len()).map_err(|error| failure::plan(&error))?;
    let sites = app.store.list_sites(org).await.answered()?;
    let participants = Arc::new(participants(app, &rows, &sites)?);
    let work = {
        let (request, participants) = (request.clone(), participants.clone());
        let policy = app.plan_policy();
        move || plan_over(&request, &participants, &policy)
    };
    let (planned, turn) = turn.compute(work).await?;
    let mut joint = planned.map_err(|error| failure::plan(&error))?;
    let Some(first) = joint.shares.first().map(|share| share.node) else {
        return Err(no_node(choice));
    };
    let of_shares: Vec<NodeId> = joint.shares.iter().map(|share| share.node).collect();
    let past = stream::iter(of_shares).map(|node| async move {
        let history = app.store.scan_history(org, node).await.answered()?;
        Ok::<_, RpcError>(history.past)
    });
    let past: Vec<_> = past.buffered(HISTORIES).try_collect().await?;
    let rate = request.rate;
    let work = move || {
        let by_id: BTreeMap<NodeId, &Participant> =
            participants.iter().map(|one| (one.node, one)).collect();
        for (share, past) in joint.shares.iter_mut().zip(past) {
            if let Some(node) = by_id.get(&share.node) {
                let paced = node.profile.clone().at_most(rate);
                share.plan.estimate = estimate(&share.plan, &paced, &past);
            }
        }
        let estimates = joint.shares.iter().map(|share| share.plan.estimate);
        joint.plan.estimate = estimates.max().unwrap_or_default();
        joint
    };
    let (mut joint, _turn) = turn.compute(work).await?;
    let blackout = blackout(app, &mut joint, &sites);
    let shown = |row: &NodeRow| PlannedNode {
        name: row.name.clone(),
        site: row.site,
        connected: app.is_connected(row),
        profile: profile(row).at_most(request.rate),
    };
    Ok(Planned {
        nodes: rows.iter().map(|row| (row.id, shown(row))).collect(),
        first,
        joint,
        blackout,
    })
}

/// The blackout that holds all shares back. A share whose site alone has one waits for its end, which becomes a note.
fn blackout(app: &App, joint: &mut JointPlan, sites: &[SiteRow]) -> Option<SiteBlackout> {
    let now = app.environment.now();
    let of_shares: BTreeSet<NodeId> = joint.shares.iter().map(|share| share.node).collect();
    let takes_part = |site: &&SiteRow| site.nodes.iter().any(|node| of_shares.contains(node));
    let (mut held, mut free) = (Vec::new(), false);
    for site in sites.iter().filter(takes_part) {
        match SiteBlackout::of(site, now) {
            Some(blackout) => held.push(blackout),
            None => free = true,
        }
    }
    if !free {
        return held.into_iter().min_by_key(|blackout| blackout.end.at);
    }
    for blackout in held {
        joint.plan.notes.push(format!(
            "site {} has a blackout (`{}`) until {}: its nodes scan after it",
            blackout.site, blackout.end.window, blackout.end.local
        ));
    }
    None
}

/// The refusal of a choice without a node that can scan.
fn no_node(choice: &NodeChoice) -> RpcError {
    RpcError::failed_precondition(format!(
        "{}: no confirmed node there, so nothing can be scanned: enroll and confirm a node first",
        shown(choice)
    ))
    .with_reason("NO_NODE_FOR_TARGET")
    .with_fact("value", shown(choice))
}

/// The limits, capabilities and subnets of a node.
fn profile(row: &NodeRow) -> NodeProfile {
    let hello = row.hello.as_ref();
    hello.map_or_else(NodeProfile::upstream, Hello::profile)
}

/// The confirmed nodes that may take part in a scan over several nodes.
async fn nodes(app: &App, org: OrgId, choice: &NodeChoice) -> Result<Vec<NodeRow>, RpcError> {
    let mut rows = app.all_nodes(org).await.answered()?;
    match choice {
        NodeChoice::Auto => {}
        NodeChoice::Node(node) => rows.retain(|row| row.id == *node),
        NodeChoice::Nodes(named) => {
            if named.len() > limits::SCAN_NODES {
                return Err(failure::plan(&PlanError::TooManyNodes(named.len())));
            }
            let named: BTreeSet<NodeId> = named.iter().copied().collect();
            let by_id: BTreeMap<NodeId, &NodeRow> = rows.iter().map(|row| (row.id, row)).collect();
            for id in &named {
                let Some(row) = by_id.get(id) else {
                    return Err(
                        RpcError::not_found(format!("no node {id} in this organization"))
                            .with_reason("NODE_NOT_FOUND")
                            .with_fact("node_id", id),
                    );
                };
                if row.state != NodeState::Confirmed {
                    return Err(RpcError::failed_precondition(format!(
                        "node {id} is not confirmed yet: compare its fingerprint {} and confirm it first",
                        row.fingerprint
                    ))
                    .with_reason("NODE_NOT_CONFIRMED")
                    .with_fact("node_id", id));
                }
            }
            rows.retain(|row| named.contains(&row.id));
        }
        NodeChoice::Site(site) => {
            if app.store.site(org, *site).await.answered()?.is_none() {
                return Err(
                    RpcError::not_found(format!("no site {site} in this organization"))
                        .with_reason("SITE_NOT_FOUND")
                        .with_fact("site_id", site),
                );
            }
            rows.retain(|row| row.site == *site);
        }
    }
    rows.retain(|row| row.state == NodeState::Confirmed);
    if rows.is_empty() {
        return Err(no_node(choice));
    }
    Ok(rows)
}

/// The choice for people.
pub(crate) fn shown(choice: &NodeChoice) -> String {
    if *choice == NodeChoice::Auto {
        return "all nodes".to_owned();
    }
    choice.to_string()
}

/// The nodes with the excludes of their sites, which are read once for each site.
fn participants(
    app: &App,
    rows: &[NodeRow],
    sites: &[SiteRow],
) -> Result<Vec<Participant>, RpcError> {
    let wanted: BTreeSet<SiteId> = rows.iter().map(|row| row.site).collect();
    let exclusions = sites
        .iter()
        .filter(|site| wanted.contains(&site.id))
        .map(|site| Ok((site.id, scans::exclusions(Some(site))?)))
        .collect::<Result<BTreeMap<_, _>, RpcError>>()?;
    let participant = |row: &NodeRow| Participant {
        node: row.id,
        name: row.name.clone(),
        connected: app.is_connected(row),
        profile: profile(row),
        exclusions: exclusions.get(&row.site).cloned().unwrap_or_default(),
    };
    Ok(rows.iter().map(participant).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(node: i64, nodes: &[i64], site: i64, auto: bool) -> Result<String, RpcError> {
        let named = Named {
            node,
            nodes,
            site,
            auto,
        };
        choice(named).map(|choice| choice.to_string())
    }

    #[test]
    fn exactly_one_field_names_the_nodes() {
        for (node, nodes, site, auto, expected) in [
            (3, &[][..], 0, false, "node 3"),
            (0, &[3], 0, false, "node 3"),
            (0, &[5, 3, 5], 0, false, "nodes 3,5"),
            (0, &[], 2, false, "site 2"),
            (0, &[], 0, true, "auto"),
        ] {
            let choice = read(node, nodes, site, auto).expect(expected);
            assert_eq!(choice, expected);
        }
        for (node, nodes, site, auto) in [
            (0, &[][..], 0, false),
            (3, &[5], 0, false),
            (3, &[], 2, false),
            (0, &[3], 2, false),
            (0, &[], 2, true),
            (3, &[], 0, true),
            (-3, &[], 0, false),
            (0, &[3, -5], 0, false),
            (0, &[], -2, false),
        ] {
            let refused = read(node, nodes, site, auto);
            refused.expect_err(&format!("{node} {nodes:?} {site} {auto}"));
        }
    }
}
