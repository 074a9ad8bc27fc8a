//! From a request to the plan of a scan: what is scanned, what is left out and why, and the chunks,
//! each one command that its node takes. Nothing is stored or sent here. Start with [`plan`].

mod build;
mod error;
mod select;

use std::time::Duration;

pub use error::PlanError;
use fleet_core::{AddressPolicy, Port};

use crate::{Listening, Mode, NodeProfile, ScanRequest, Scope, Tally, parse_ports};

/// What a scan will do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// Targets, those left out included; a name is one, a subnet that the node picks is none yet.
    pub targets: u64,
    /// What is left out, by reason.
    pub skipped: Vec<Tally>,
    /// The ports in the operator's order; empty for the defaults of the node.
    pub ports: Vec<Port>,
    /// The commands to issue, in order.
    pub chunks: Vec<Chunk>,
    /// About how long it takes when nothing answers.
    pub estimate: Duration,
    /// What the operator should know before it starts; sentences.
    pub notes: Vec<String>,
    /// Whether some chunk's scope is fixed only by the first devices reported.
    pub open_scope: bool,
}

/// One command of a plan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chunk {
    /// Where to look.
    pub command: ChunkCommand,
    /// Ports to probe, in the operator's order; empty for the defaults of the node.
    pub ports: Vec<Port>,
    /// What its node may report.
    pub scope: Scope,
}

/// What a chunk asks of its node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ChunkCommand {
    /// Address literals, or names, in the order of the scope.
    List(Vec<String>),
    /// One target: address, CIDR, `A.B.C.D-N`, name, or the local-subnet word.
    Target(String),
    /// Hosts of the node's own subnets that announce a service. Ports are always the node's defaults.
    Mdns(Listening),
}

/// What the server lets be scanned.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PlanPolicy {
    /// Which addresses.
    pub addresses: AddressPolicy,
    /// Whether names may go to a node that does not pin them.
    pub unpinned_names: bool,
}

/// Plans a scan: reads every entry, checks every address, counts each target once, and cuts the rest
/// into commands that the node takes.
///
/// # Errors
///
/// [`PlanError`] names the first offending entry and what would do; nothing is planned by halves.
pub fn plan(
    request: &ScanRequest,
    node: &NodeProfile,
    policy: &PlanPolicy,
) -> Result<Plan, PlanError> {
    let ports = parse_ports(&request.ports)?;
    let selection = match &request.mode {
        Mode::List(entries) => select::list(entries, node, policy)?,
        Mode::Range { start, end } => select::range(start, end, policy)?,
        Mode::Target(text) => select::target(text, node, policy)?,
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
    Ok(build::build(selection, ports, node))
}

#[cfg(test)]
mod tests;
