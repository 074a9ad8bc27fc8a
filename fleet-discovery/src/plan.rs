//! The plan of a scan: the targets, the skipped addresses with their reasons, and the chunks, each of which is
//! one command for the node. Nothing is stored or sent here. Start with [`plan`].

mod build;
mod error;
mod exclude;
mod joint;
mod select;
mod warnings;

use std::time::Duration;

pub use error::PlanError;
use fleet_core::{AddressPolicy, Port};
pub use joint::{JointPlan, Participant, PlannedShare, check_participants, plan_over};
pub use warnings::{OtherNode, warnings};

use crate::{
    Exclusion, IP_REPORTS, Listening, Mode, NodeProfile, ScanRequest, Scope, Tally, estimate,
    parse_ports,
};

/// The plan of a scan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// Number of targets, including skipped ones. A name counts as one; a subnet that the node selects does not
    /// count yet.
    pub targets: u64,
    /// Skipped addresses, by reason.
    pub skipped: Vec<Tally>,
    /// The ports in the operator's order; empty for the defaults of the node.
    pub ports: Vec<Port>,
    /// The commands to issue, in order.
    pub chunks: Vec<Chunk>,
    /// Estimated duration, as if the node had never scanned these addresses; see [`estimate`].
    pub estimate: Duration,
    /// Hints for the operator before the start, as sentences.
    pub notes: Vec<String>,
    /// Whether the first reported devices fix the scope of a chunk.
    pub open_scope: bool,
}

/// One command of a plan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chunk {
    /// The targets.
    pub command: ChunkCommand,
    /// Ports to probe, in the operator's order; empty for the defaults of the node.
    pub ports: Vec<Port>,
    /// The endpoints that its node may report.
    pub scope: Scope,
}

/// The targets of a chunk, as its node gets them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ChunkCommand {
    /// Address literals, or names, in the order of the scope.
    List(Vec<String>),
    /// One target: address, CIDR, `A.B.C.D-N`, name, or the local-subnet keyword.
    Target(String),
    /// Hosts of the node's own subnets that announce a service. The ports are always the node's defaults.
    Mdns(Listening),
}

/// The server's policy for scans.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PlanPolicy {
    /// The permitted addresses.
    pub addresses: AddressPolicy,
    /// Whether a node that does not pin names may scan them.
    pub unpinned_names: bool,
}

/// Plans a scan. It parses every entry, checks every address, counts each target once, and divides the rest into
/// commands that the node accepts.
///
/// # Errors
///
/// [`PlanError`] names the first invalid entry and the accepted form. No partial plan is returned.
pub fn plan(
    request: &ScanRequest,
    node: &NodeProfile,
    policy: &PlanPolicy,
) -> Result<Plan, PlanError> {
    plan_at_site(request, node, policy, &[])
}

/// Plans a scan of a node whose site excludes targets.
///
/// # Errors
///
/// Those of [`plan`], nothing is left, or only the node knows the addresses of a target.
pub fn plan_at_site(
    request: &ScanRequest,
    node: &NodeProfile,
    policy: &PlanPolicy,
    exclusions: &[Exclusion],
) -> Result<Plan, PlanError> {
    let ports = parse_ports(&request.ports)?;
    let mut selection = match &request.mode {
        Mode::List(entries) => select::list(entries, node, policy)?,
        Mode::Range { start, end } => select::range(start, end, policy)?,
        Mode::Target(text) => select::target(text, node, policy)?,
        Mode::Mdns { service_type, .. } if service_type == IP_REPORTS && !node.announcements => {
            return Err(PlanError::ReportsNotAnnounced);
        }
        Mode::Mdns { .. } if !node.mdns => return Err(PlanError::MdnsNotAnnounced),
        Mode::Mdns {
            service_type,
            domain,
            timeout_seconds,
        } => {
            if let Some(port) = ports.first() {
                return Err(PlanError::MdnsPorts(*port));
            }
            let listening = Listening::read(service_type, domain, *timeout_seconds)?;
            select::announcers(listening, node, policy)?
        }
    };
    exclude::exclude(&mut selection, exclusions)?;
    if selection.is_empty() {
        return Err(PlanError::AllExcluded(selection.notes.join("; ")));
    }
    let mut plan = build::build(selection, ports, node);
    plan.estimate = estimate(&plan, &node.clone().at_most(request.rate), &[]);
    Ok(plan)
}

#[cfg(test)]
mod tests;
