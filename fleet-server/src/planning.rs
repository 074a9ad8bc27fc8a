//! The plan of a scan for the nodes that its operator named: one node, several, those of a site, or all. The rules are
//! in `fleet-discovery` (`shares.rs`, `plan/joint.rs`); this file loads the nodes and sites. Start with [`planned`].

use std::collections::BTreeMap;

use fleet_core::{NodeId, OrgId, SiteId, enrollment::NodeState, limits};
use fleet_discovery::{
    JointPlan, NodeChoice, NodeProfile, Participant, PlanError, PlannedShare, ScanRequest,
    check_participants, estimate, plan_over,
};
use fleet_store::{Hello, NewShare, NodeRow, SiteRow};
use fleet_wire::RpcError;

use crate::{
    app::App,
    failure::{self, Answered},
    scans::{self, SiteBlackout},
};

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
        )));
    }
    let several = NodeChoice::of_nodes(named.nodes.iter().copied().map(NodeId));
    match (named.node, several, named.site, named.auto) {
        (node, None, 0, false) if node > 0 => Ok(NodeChoice::Node(NodeId(node))),
        (0, Some(choice), 0, false) => Ok(choice),
        (0, None, site, false) if site > 0 => Ok(NodeChoice::Site(SiteId(site))),
        (0, None, 0, true) => Ok(NodeChoice::Auto),
        _ => Err(RpcError::invalid_argument(
            "exactly one of fleet_node_id, fleet_node_ids, site_id and auto must be set: name the node, the nodes or the site that scans, or set auto",
        )),
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

/// A node of a plan as operators see it.
#[derive(Clone, Debug)]
pub(crate) struct PlannedNode {
    pub(crate) name: String,
    pub(crate) connected: bool,
}

/// The plan of a scan, with the rules of the sites at this moment.
#[derive(Debug)]
pub(crate) struct Planned {
    /// The plan. It has at least one share.
    pub(crate) joint: JointPlan,
    /// The nodes that may take part.
    pub(crate) nodes: BTreeMap<NodeId, PlannedNode>,
    /// The blackout in which no share can run.
    pub(crate) blackout: Option<SiteBlackout>,
}

impl Planned {
    /// The shares to store.
    pub(crate) fn shares(&self) -> Vec<NewShare> {
        let share = |share: &PlannedShare| NewShare::of(share.node, &share.plan);
        self.joint.shares.iter().map(share).collect()
    }

    /// The node of the first share.
    pub(crate) fn first(&self) -> Result<NodeId, RpcError> {
        let first = self.joint.shares.first().map(|share| share.node);
        first.ok_or_else(|| RpcError::failed_precondition("no node has a target of this scan"))
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
            name: planned.node.name,
        };
        let share = PlannedShare {
            node: *node,
            plan: planned.plan.clone(),
        };
        return Ok(Planned {
            joint: JointPlan {
                plan: planned.plan,
                shares: vec![share],
                uncovered: fleet_discovery::AddressList::default(),
            },
            nodes: BTreeMap::from([(*node, shown)]),
            blackout: planned.blackout,
        });
    }
    let rows = nodes(app, org, choice).await?;
    check_participants(rows.len()).map_err(|error| refused(&error))?;
    let sites = app.store.list_sites(org).await.answered()?;
    let participants = rows
        .iter()
        .map(|row| participant(app, row, &sites))
        .collect::<Result<Vec<_>, _>>()?;
    let planned = plan_over(request, &participants, &app.plan_policy());
    let mut joint = planned.map_err(|error| refused(&error))?;
    for share in &mut joint.shares {
        let history = app.store.scan_history(org, share.node).await.answered()?;
        let node = participants.iter().find(|one| one.node == share.node);
        if let Some(node) = node {
            share.plan.estimate = estimate(&share.plan, &node.profile, &history.past);
        }
    }
    let estimates = joint.shares.iter().map(|share| share.plan.estimate);
    joint.plan.estimate = estimates.max().unwrap_or_default();
    let blackout = blackout(app, &mut joint, &sites);
    let shown = |row: &NodeRow| PlannedNode {
        name: row.name.clone(),
        connected: app.is_connected(row),
    };
    Ok(Planned {
        nodes: rows.iter().map(|row| (row.id, shown(row))).collect(),
        joint,
        blackout,
    })
}

/// The blackout that holds all shares back. A share whose site alone has one waits for its end, which becomes a note.
fn blackout(app: &App, joint: &mut JointPlan, sites: &[SiteRow]) -> Option<SiteBlackout> {
    let now = app.environment.now();
    let takes_part = |site: &&SiteRow| {
        let has = |share: &PlannedShare| site.nodes.contains(&share.node);
        joint.shares.iter().any(has)
    };
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

fn refused(error: &PlanError) -> RpcError {
    RpcError::new(failure::code(error.code()), error.to_string())
}

/// The confirmed nodes that may take part in a scan over several nodes.
async fn nodes(app: &App, org: OrgId, choice: &NodeChoice) -> Result<Vec<NodeRow>, RpcError> {
    let mut rows = app.store.list_nodes(org).await.answered()?;
    match choice {
        NodeChoice::Auto => {}
        NodeChoice::Node(node) => rows.retain(|row| row.id == *node),
        NodeChoice::Nodes(named) => {
            if named.len() > limits::SCAN_NODES {
                return Err(refused(&PlanError::TooManyNodes(named.len())));
            }
            for id in named {
                let Some(row) = rows.iter().find(|row| row.id == *id) else {
                    return Err(RpcError::not_found(format!(
                        "no node {id} in this organization"
                    )));
                };
                if row.state != NodeState::Confirmed {
                    return Err(RpcError::failed_precondition(format!(
                        "node {id} is not confirmed yet: compare its fingerprint {} and confirm it first",
                        row.fingerprint
                    )));
                }
            }
            rows.retain(|row| named.contains(&row.id));
        }
        NodeChoice::Site(site) => {
            if app.store.site(org, *site).await.answered()?.is_none() {
                return Err(RpcError::not_found(format!(
                    "no site {site} in this organization"
                )));
            }
            rows.retain(|row| row.site == *site);
        }
    }
    rows.retain(|row| row.state == NodeState::Confirmed);
    if rows.is_empty() {
        return Err(RpcError::failed_precondition(format!(
            "{}: no confirmed node there, so nothing can be scanned: enroll and confirm a node first",
            shown(choice)
        )));
    }
    Ok(rows)
}

/// The choice for people.
pub(crate) fn shown(choice: &NodeChoice) -> String {
    match choice {
        NodeChoice::Auto => "all nodes".to_owned(),
        other => other.to_string(),
    }
}

fn participant(app: &App, row: &NodeRow, sites: &[SiteRow]) -> Result<Participant, RpcError> {
    let site = sites.iter().find(|site| site.id == row.site);
    let hello = row.hello.as_ref();
    Ok(Participant {
        node: row.id,
        name: row.name.clone(),
        connected: app.is_connected(row),
        profile: hello.map_or_else(NodeProfile::upstream, Hello::profile),
        exclusions: scans::exclusions(site)?,
    })
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
