//! The refusals of requests without a plan: reasons and facts for programs.

use fleet_core::limits;
use fleet_discovery::{LOCAL_SUBNET, PlanError, PortsError};
use fleet_wire::RpcError;

/// A refusal with the error's own sentence.
fn sentence(error: &PlanError) -> RpcError {
    RpcError::new(super::code(error.code()), error.to_string())
}

/// The refusal of a request without a plan. The caller states the reason of a node that is too old for the request.
pub(crate) fn plan(error: &PlanError) -> RpcError {
    let refused = sentence(error);
    match error {
        PlanError::Ports(PortsError::TooMany { .. }) => refused
            .with_reason("TOO_MANY_PORTS")
            .with_fact("limit", limits::SCAN_PORTS),
        PlanError::Ports(PortsError::Invalid(_) | PortsError::RangeOrder(_)) => refused
            .with_reason("INVALID_FIELD")
            .with_fact("field", "ports"),
        PlanError::Target(error) => refused
            .with_reason("INVALID_TARGET")
            .with_fact("value", error.input()),
        PlanError::RangeEnd { input, .. } => refused
            .with_reason("INVALID_TARGET")
            .with_fact("value", input),
        PlanError::RangeOrder { start, .. } => refused
            .with_reason("INVALID_TARGET")
            .with_fact("value", start),
        PlanError::EmptyList | PlanError::NothingLeft => refused.with_reason("NO_TARGET"),
        PlanError::AllExcluded(_) => refused.with_reason("TARGETS_EXCLUDED"),
        PlanError::ExcludedUnknown { target, .. } => refused
            .with_reason("TARGETS_EXCLUDED")
            .with_fact("value", target),
        PlanError::Address(address) => refused
            .with_reason("ADDRESS_NOT_ALLOWED")
            .with_fact("value", address.ip)
            .with_fact("class", address.class.as_str()),
        PlanError::Holds { ip, class, .. } => refused
            .with_reason("ADDRESS_NOT_ALLOWED")
            .with_fact("value", ip)
            .with_fact("class", class.as_str()),
        PlanError::TooManyTargets { entry, .. } => refused
            .with_reason("TOO_MANY_TARGETS")
            .with_fact("value", entry)
            .with_fact("limit", limits::SCAN_TARGETS),
        PlanError::LocalSubnetTooLarge { subnet, .. } => refused
            .with_reason("TOO_MANY_TARGETS")
            .with_fact("value", subnet)
            .with_fact("limit", limits::SCAN_TARGETS),
        PlanError::MdnsTooLarge { subnet, most, .. } => refused
            .with_reason("TOO_MANY_TARGETS")
            .with_fact("value", subnet)
            .with_fact("limit", most),
        PlanError::TooManyNodes(_) => refused
            .with_reason("TOO_MANY_NODES")
            .with_fact("limit", limits::SCAN_NODES),
        PlanError::LocalSubnetCombined
        | PlanError::SplitLocalSubnet
        | PlanError::NoLocalSubnet { .. } => refused
            .with_reason("NO_LOCAL_SUBNET")
            .with_fact("value", LOCAL_SUBNET),
        PlanError::MdnsNoSubnet { .. } => refused
            .with_reason("NO_LOCAL_SUBNET")
            .with_fact("value", "mdns"),
        PlanError::Uncovered { first, .. } => refused
            .with_reason("NO_NODE_FOR_TARGET")
            .with_fact("value", first),
        PlanError::SplitName(name) => refused
            .with_reason("NO_NODE_FOR_TARGET")
            .with_fact("value", name),
        PlanError::SplitMdns => refused
            .with_reason("NO_NODE_FOR_TARGET")
            .with_fact("value", "mdns"),
        PlanError::NameUnpinned(_) => refused
            .with_reason("UPGRADE_REQUIRED")
            .with_fact("capability", "pins"),
        PlanError::MdnsNotAnnounced => refused
            .with_reason("UPGRADE_REQUIRED")
            .with_fact("capability", "mdns"),
        PlanError::ReportsNotAnnounced => refused
            .with_reason("ANNOUNCEMENTS_OFF")
            .with_fact("option", "--listen-announcements"),
        PlanError::Listening(_) => refused
            .with_reason("INVALID_FIELD")
            .with_fact("field", "mdns"),
        PlanError::MdnsPorts(port) => refused
            .with_reason("INVALID_FIELD")
            .with_fact("field", "ports")
            .with_fact("value", port),
    }
}
