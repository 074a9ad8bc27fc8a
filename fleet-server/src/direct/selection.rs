//! Plans a scan of the server's own network, with the grammar and the limits of a scan through a node.

use std::net::IpAddr;

use fleet_core::{AddressPolicy, Port, limits, parse_literal};
use fleet_discovery::{
    ChunkCommand, Exclusion, LOCAL_SUBNET, Mode, NodeProfile, PlanError, PlanPolicy, ScanRequest,
    Tally, plan_at_site,
};
use fleet_wire::RpcError;

use crate::{config::DirectPath, dial_permit::outside, failure};

/// The addresses and ports to scan.
#[derive(Debug)]
pub(super) struct Selection {
    pub(super) addresses: Vec<IpAddr>,
    pub(super) ports: Vec<Port>,
    /// Targets that the plan left out, by reason.
    pub(super) skipped: Vec<Tally>,
    pub(super) notes: Vec<String>,
}

/// Plans a request without excluded targets.
///
/// # Errors
///
/// INVALID_ARGUMENT or FAILED_PRECONDITION with the offending entry and what to do.
pub(super) fn select(
    request: &ScanRequest,
    path: &DirectPath,
    addresses: AddressPolicy,
    exclusions: &[Exclusion],
) -> Result<Selection, RpcError> {
    let server = NodeProfile {
        max_targets: limits::COMMAND_TARGETS,
        max_ports: limits::SCAN_PORTS,
        big_commands: true,
        default_ports: path.prober.default_ports(),
        ..NodeProfile::upstream()
    };
    let policy = PlanPolicy {
        addresses,
        ..PlanPolicy::default()
    };
    let plan = match &request.mode {
        Mode::Mdns { .. } => {
            return Err(RpcError::failed_precondition(
                "the server does not listen to mDNS on its own network: give addresses",
            )
            .with_reason("TARGET_NOT_DIRECT")
            .with_fact("value", "mdns"));
        }
        Mode::Target(text) if text.eq_ignore_ascii_case(LOCAL_SUBNET) => {
            return Err(RpcError::failed_precondition(format!(
                "`{LOCAL_SUBNET}` is a node's subnet: name the server's own network, such as 10.0.0.0/24"
            )).with_reason("TARGET_NOT_DIRECT").with_fact("value", LOCAL_SUBNET));
        }
        Mode::List(_) | Mode::Range { .. } | Mode::Target(_) => {
            plan_at_site(request, &server, &policy, exclusions)
        }
    };
    let plan = plan.map_err(|error| {
        let refused = failure::plan(&error);
        let PlanError::NameUnpinned(name) = &error else {
            return refused;
        };
        RpcError::failed_precondition(format!(
            "`{name}` is a host name, which the server does not resolve for scans of its own: write its address, or scan through a node"
        ))
        .with_reason("TARGET_NOT_DIRECT")
        .with_fact("value", name)
    })?;
    let literals = plan.chunks.iter().flat_map(|chunk| match &chunk.command {
        ChunkCommand::List(entries) => entries.as_slice(),
        ChunkCommand::Target(target) => std::slice::from_ref(target),
        // Refused above.
        ChunkCommand::Mdns(_) => &[],
    });
    let addresses: Vec<IpAddr> = literals
        .map(|literal| {
            parse_literal(literal).ok_or_else(|| RpcError::internal("a plan without addresses"))
        })
        .collect::<Result<_, _>>()?;
    let allowed = |ip: &IpAddr| path.networks.iter().any(|network| network.contains(*ip));
    if let Some(ip) = addresses.iter().find(|ip| !allowed(ip)) {
        return Err(RpcError::failed_precondition(outside(*ip))
            .with_reason("NETWORK_NOT_LISTED")
            .with_fact("value", ip));
    }
    let ports = if plan.ports.is_empty() {
        server.default_ports
    } else {
        plan.ports
    };
    Ok(Selection {
        addresses,
        ports,
        skipped: plan.skipped,
        notes: plan.notes,
    })
}
