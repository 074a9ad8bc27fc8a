//! Conversions between wire messages and domain values. They contain no decisions.

mod hosts;
mod scans;

use std::{fmt::Display, str::FromStr, time::Duration};

use fleet_core::{
    DeviceFacts, NamedBy, NodeId, PairingStatus, RawDeviceReport, Timestamp, enrollment::NodeState,
    limits, presence, text::is_unsafe,
};
use fleet_discovery::{DeviceFound, Ledger, Mode, ScanEnded, ScanRequest, Tally};
use fleet_pairing::Binding;
use fleet_registry::{Capabilities, Capability};
use fleet_store::{
    BoundDevice, DeviceAlias, DevicePairing, DeviceRow, DeviceSighting, Hello, Invitation,
    ListPage, NodeRow, PairResultRow,
};
use fleet_wire::{RpcError, admin, fleet, fleetmanagement, gateway, pairing};
pub(crate) use hosts::{host_found, raw_host, scan_host};
pub(crate) use scans::{progress, scan, scan_state};

/// A time on the wire.
pub(crate) fn timestamp(at: Timestamp) -> fleet_wire::Timestamp {
    let (seconds, nanos) = at.to_seconds_and_nanos();
    fleet_wire::Timestamp { seconds, nanos }
}

/// A duration on the wire.
pub(crate) fn duration(duration: Duration) -> fleet_wire::Duration {
    fleet_wire::Duration {
        seconds: i64::try_from(duration.as_secs()).unwrap_or(i64::MAX),
        nanos: i32::try_from(duration.subsec_nanos()).unwrap_or(0),
    }
}

/// The id of a scan or pairing.
///
/// # Errors
///
/// INVALID_ARGUMENT that names the field.
pub(crate) fn id<T: FromStr<Err: Display>>(field: &str, text: &str) -> Result<T, RpcError> {
    text.parse().map_err(|error| {
        RpcError::invalid_argument(format!("{field}: {error}"))
            .with_reason("INVALID_FIELD")
            .with_fact("field", field)
            .with_fact("value", printable(text, 64))
    })
}

/// The node that a list is filtered by; 0 on the wire stands for all nodes.
pub(crate) fn node_filter(node: i64) -> Option<NodeId> {
    (node != 0).then_some(NodeId(node))
}

/// The size of a page: the request's limit, where 0 stands for `default`, and at most `most`.
pub(crate) fn page_size(limit: u32, default: u32, most: u32) -> u32 {
    if limit == 0 { default } else { limit.min(most) }
}

/// The rows of an unpaged list of the upstream protocol, read with one row more than it may have.
///
/// # Errors
///
/// FAILED_PRECONDITION with the remedy, because a shorter list would look complete.
pub(crate) fn whole<T>(rows: Vec<T>, most: u32, remedy: &str) -> Result<Vec<T>, RpcError> {
    if rows.len() > most as usize {
        return Err(too_long(most, remedy));
    }
    Ok(rows)
}

/// The refusal of an unpaged list with more rows than it may have.
pub(crate) fn too_long(most: u32, remedy: &str) -> RpcError {
    RpcError::failed_precondition(format!(
        "the list has more than {most} entries, and this call has no pages: {remedy}"
    ))
    .with_reason("LIST_TOO_LONG")
    .with_fact("limit", most)
}

/// The page of a request. Pages have 1,000 rows, or fewer if the request says so.
pub(crate) fn list_page(limit: u32, cursor: i64) -> ListPage {
    let most = ListPage::FIRST.limit;
    ListPage {
        after: cursor,
        limit: page_size(limit, most, most),
    }
}

/// The cursor of the next page; 0 after the last page.
pub(crate) fn next_cursor<T>(rows: &[T], page: ListPage, id: impl Fn(&T) -> i64) -> i64 {
    let last = rows.last().filter(|_| rows.len() >= page.limit as usize);
    last.map_or(0, id)
}

/// Most bytes of a list of targets without its comments, because a request is stored with its scan: 4,096 names of 64
/// characters.
const LIST_BYTES: usize = 256 << 10;

/// The lines of a list without comments and blank lines.
fn without_comments(list: Vec<String>) -> Result<Vec<String>, RpcError> {
    let lines = list.iter().flat_map(|text| text.lines());
    let lines = lines.map(|line| line.split('#').next().unwrap_or_default().trim());
    let lines: Vec<String> = lines
        .filter(|line| !line.is_empty())
        .map(str::to_owned)
        .collect();
    let bytes: usize = lines.iter().map(String::len).sum();
    if bytes > LIST_BYTES {
        return Err(RpcError::invalid_argument(format!(
            "ip_list.ip_addresses: {bytes} bytes without comments, at most {LIST_BYTES}: use networks or ranges, or several scans"
        )).with_reason("INVALID_FIELD").with_fact("field", "ip_list.ip_addresses").with_fact("limit", LIST_BYTES));
    }
    Ok(lines)
}

/// The scan that an operator requests.
///
/// # Errors
///
/// INVALID_ARGUMENT without a mode.
pub(crate) fn scan_request(
    request: Option<pairing::DiscoverRequest>,
) -> Result<ScanRequest, RpcError> {
    use pairing::discover_request::Mode as Wire;
    let request = request.unwrap_or_default();
    let rate = request.max_rate;
    let mode = request.mode.ok_or_else(|| {
        RpcError::invalid_argument("request names no mode: give ip_list, ip_range, nmap or mdns")
            .with_reason("INVALID_FIELD")
            .with_fact("field", "request")
    })?;
    Ok(match mode {
        Wire::IpList(list) => ScanRequest {
            mode: Mode::List(without_comments(list.ip_addresses)?),
            ports: list.ports,
            rate,
        },
        Wire::IpRange(range) => ScanRequest {
            mode: Mode::Range {
                start: range.start_ip,
                end: range.end_ip,
            },
            ports: range.ports,
            rate,
        },
        Wire::Nmap(nmap) => ScanRequest {
            mode: Mode::Target(nmap.target),
            ports: nmap.ports,
            rate,
        },
        Wire::Mdns(mdns) => ScanRequest {
            mode: Mode::Mdns {
                service_type: mdns.service_type,
                domain: mdns.domain,
                timeout_seconds: mdns.timeout_seconds,
            },
            ports: Vec::new(),
            rate,
        },
    })
}

/// A scan request on the wire, for operators and for nodes.
pub(crate) fn discover_request(request: ScanRequest) -> pairing::DiscoverRequest {
    use pairing::discover_request::Mode as Wire;
    let ports = request.ports;
    let max_rate = request.rate;
    let mode = match request.mode {
        Mode::List(ip_addresses) => Wire::IpList(pairing::IpListModeRequest {
            ip_addresses,
            ports,
            explicit: false,
        }),
        Mode::Range { start, end } => Wire::IpRange(pairing::IpRangeModeRequest {
            start_ip: start,
            end_ip: end,
            ports,
        }),
        Mode::Target(target) => Wire::Nmap(pairing::NmapModeRequest { target, ports }),
        Mode::Mdns {
            service_type,
            domain,
            timeout_seconds,
        } => Wire::Mdns(pairing::MdnsModeRequest {
            service_type,
            domain,
            timeout_seconds,
        }),
    };
    pairing::DiscoverRequest {
        mode: Some(mode),
        max_rate,
    }
}

/// A device of a report, with unchecked fields.
pub(crate) fn raw_report(device: &gateway::DiscoveredDeviceReport) -> RawDeviceReport<'_> {
    RawDeviceReport {
        identifier: &device.device_identifier,
        ip: &device.ip_address,
        port: &device.port,
        scheme: &device.url_scheme,
        driver: &device.driver_name,
        model: &device.model,
        manufacturer: &device.manufacturer,
        firmware: &device.firmware_version,
        mac: &device.mac_address,
        serial: &device.serial_number,
        evidence: &device.evidence,
        host_name: &device.host_name,
        host_name_source: &device.host_name_source,
    }
}

/// The contents of a node's Hello, escaped and bounded.
pub(crate) fn hello(hello: gateway::ControlHello) -> Hello {
    let max_targets = max_targets(&hello);
    let shown = |texts: Vec<String>| texts.iter().map(|text| printable(text, 64)).collect();
    Hello {
        version: printable(&hello.version, 64),
        capabilities: shown(hello.capabilities),
        default_ports: shown(hello.default_ports),
        local_subnets: shown(hello.local_subnets),
        max_targets,
        max_ports: hello.max_ports,
        rate: hello.rate,
        arp: hello.arp,
        denied_ports: shown(hello.denied_ports),
        allowed_networks: shown(hello.allowed_networks),
    }
}

/// Targets of one command that a node announced. Upstream nodes announce them by the version of the command protocol.
pub(crate) fn max_targets(hello: &gateway::ControlHello) -> u32 {
    let v1 = hello.max_command_protocol_version() == gateway::CommandProtocolVersion::V1;
    if v1 && hello.max_targets == 0 {
        limits::UPSTREAM_V1_COMMAND_TARGETS as u32
    } else {
        hello.max_targets
    }
}

/// A peer's text for display: at most `most` characters. Characters that hide or reorder text are escaped.
pub(crate) fn printable(text: &str, most: usize) -> String {
    let escaped = text.chars().flat_map(|c| {
        let hidden = is_unsafe(c);
        std::iter::once(c)
            .filter(move |_| !hidden)
            .chain(c.escape_default().take(if hidden { 10 } else { 0 }))
    });
    escaped.take(most).collect()
}

/// A device of the event log.
pub(crate) fn device_found(found: &DeviceFound) -> fleet::DeviceFound {
    let facts = &found.facts;
    fleet::DeviceFound {
        device_id: found.device.0,
        identifier: found.identifier.to_string(),
        ip: found.endpoint.ip.to_string(),
        port: found.endpoint.port.number().into(),
        scheme: facts.scheme.clone(),
        driver: facts.driver.clone(),
        model: facts.model.clone(),
        manufacturer: facts.manufacturer.clone(),
        firmware: facts.firmware.clone(),
        host_name: NamedBy::name_of(facts.host_name.as_ref()),
        host_name_source: NamedBy::source_of(facts.host_name.as_ref()),
        elapsed_ms: i64::try_from(found.elapsed_ms).unwrap_or(i64::MAX),
        fleet_node_id: found.node.map_or(0, |node| node.0),
    }
}

/// A device of the event log in the upstream format.
pub(crate) fn upstream_device(found: &DeviceFound) -> pairing::Device {
    let facts = &found.facts;
    pairing::Device {
        device_identifier: found.identifier.to_string(),
        ip_address: found.endpoint.ip.to_string(),
        port: found.endpoint.port.to_string(),
        mac_address: facts.mac.map(|mac| mac.to_string()).unwrap_or_default(),
        serial_number: serial_number(facts),
        model: facts.model.clone(),
        manufacturer: facts.manufacturer.clone(),
        url_scheme: facts.scheme.clone(),
        firmware_version: facts.firmware.clone(),
        driver_name: facts.driver.clone(),
    }
}

/// The end of a scan.
pub(crate) fn scan_ended(ended: &ScanEnded) -> fleet::ScanEnded {
    fleet::ScanEnded {
        state: scan_state(ended.conclusion.state).into(),
        code: ended.conclusion.code.as_str().to_owned(),
        reason: ended.conclusion.reason.clone(),
        ledger: Some(ledger(&ended.ledger)),
    }
}

/// Counts of reasons on the wire.
pub(crate) fn tallies(tallies: &[Tally]) -> Vec<fleet::ReasonCount> {
    tallies
        .iter()
        .map(|tally| fleet::ReasonCount {
            reason: tally.reason.clone(),
            count: tally.count,
            example: tally.example.clone(),
        })
        .collect()
}

/// The summary of a scan.
pub(crate) fn ledger(ledger: &Ledger) -> fleet::Ledger {
    fleet::Ledger {
        targets: ledger.targets,
        targets_unknown: ledger.targets_unknown,
        identified: ledger.identified,
        owned_elsewhere: ledger.owned_elsewhere,
        unidentified: ledger.unidentified,
        refused: ledger.refused,
        silent: ledger.silent,
        skipped: ledger.skipped,
        not_reached: ledger.not_reached,
        unknown: ledger.unknown,
        reported: ledger.reported,
        accepted: ledger.accepted,
        rejected: ledger.rejected,
        owned_elsewhere_reasons: tallies(&ledger.owned_elsewhere_reasons),
        skipped_reasons: tallies(&ledger.skipped_reasons),
        rejected_reasons: tallies(&ledger.rejected_reasons),
        first_device_ms: ledger
            .first_device_ms
            .map(|ms| i64::try_from(ms).unwrap_or(i64::MAX)),
        elapsed_ms: i64::try_from(ledger.elapsed_ms).unwrap_or(i64::MAX),
    }
}

/// A node for operators, with its presence as this server sees it.
pub(crate) fn node(row: NodeRow, online: bool, connected: bool) -> fleet::Node {
    let missing_capabilities = row.hello.as_ref().map_or_else(Vec::new, missing);
    let hello = row.hello.unwrap_or_default();
    let disconnected_reason = presence::why_disconnected(
        connected,
        row.stream,
        row.stream_end.as_deref(),
        row.stream_problem.as_deref(),
    );
    let ended_at = row.stream.and_then(|stream| stream.ended_at);
    fleet::Node {
        rate: hello.rate,
        missing_capabilities,
        disconnected_reason,
        disconnected_at: ended_at.filter(|_| !connected).map(timestamp),
        fleet_node_id: row.id.0,
        name: row.name,
        enrollment: enrollment(row.state).to_owned(),
        identity_fingerprint: row.fingerprint.to_string(),
        created_at: Some(timestamp(row.created_at)),
        last_seen_at: row.last_seen_at.map(timestamp),
        pending_enrollment_id: row.invitation.map(|id| id.0),
        online,
        connected,
        version: hello.version,
        capabilities: hello.capabilities,
        local_subnets: hello.local_subnets,
        default_ports: hello.default_ports,
        duplicate_identity: row.duplicate_identity,
        halted: row.halt_reason.is_some(),
        halt_reason: row.halt_reason.unwrap_or_default(),
        queued_scans: row.open_scans,
        replaces_fleet_node_id: row.replaces.map_or(0, |NodeId(id)| id),
        site_id: row.site.0,
        site_name: row.site_name,
        fetches_key: row.key_fetch.is_some(),
        key_fetched_at: row.key_fetch.flatten().map(timestamp),
    }
}

/// The capabilities that an upgrade of the node would add.
fn missing(hello: &Hello) -> Vec<String> {
    let announced = Capabilities::parse(hello.capabilities.iter().map(String::as_str));
    Capability::ALL
        .into_iter()
        // It depends on an option of the node, not on its version.
        .filter(|one| *one != Capability::Announcements && !announced.has(*one))
        .map(|one| one.to_string())
        .collect()
}

/// The enrollment state; a registered node awaits confirmation by an operator.
fn enrollment(state: NodeState) -> &'static str {
    match state {
        NodeState::Pending => "awaiting_confirmation",
        NodeState::Confirmed => "confirmed",
        NodeState::Revoked => "revoked",
    }
}

/// A node in the upstream format.
pub(crate) fn node_summary(row: NodeRow) -> admin::FleetNodeSummary {
    use admin::FleetNodeEnrollmentStatus as Status;
    let status = match row.state {
        NodeState::Pending => Status::AwaitingConfirmation,
        NodeState::Confirmed => Status::Confirmed,
        NodeState::Revoked => Status::Revoked,
    };
    admin::FleetNodeSummary {
        fleet_node_id: row.id.0,
        name: row.name,
        enrollment_status: status.into(),
        identity_fingerprint: row.fingerprint.to_string(),
        created_at: Some(timestamp(row.created_at)),
        last_seen_at: row.last_seen_at.map(timestamp),
        pending_enrollment_id: row.invitation.map(|id| id.0),
    }
}

/// An open enrollment code.
pub(crate) fn invitation(row: Invitation) -> fleet::EnrollmentCode {
    fleet::EnrollmentCode {
        pending_enrollment_id: row.id.0,
        state: row.state.to_string(),
        created_at: Some(timestamp(row.created_at)),
        expires_at: Some(timestamp(row.expires_at)),
        created_by: row.created_by,
        fleet_node_id: row.node.map(|id| id.0),
        replaces_fleet_node_id: row.replaces.map_or(0, |NodeId(id)| id),
    }
}

/// A device of the inventory with its pairing.
pub(crate) fn device(row: DeviceRow, pairing: DevicePairing) -> fleet::Device {
    let facts = row.facts;
    fleet::Device {
        device_id: row.id.0,
        identifier: row.identifier.to_string(),
        fleet_node_id: row.node.map_or(0, |NodeId(id)| id),
        ip: row
            .endpoint
            .map(|endpoint| endpoint.ip.to_string())
            .unwrap_or_default(),
        port: row
            .endpoint
            .map_or(0, |endpoint| endpoint.port.number().into()),
        serial: serial_number(&facts),
        scheme: facts.scheme,
        driver: facts.driver,
        model: facts.model,
        manufacturer: facts.manufacturer,
        firmware: facts.firmware,
        mac: facts.mac.map(|mac| mac.to_string()).unwrap_or_default(),
        first_seen: Some(timestamp(row.first_seen)),
        last_seen: Some(timestamp(row.last_seen)),
        host_name: NamedBy::name_of(facts.host_name.as_ref()),
        host_name_source: NamedBy::source_of(facts.host_name.as_ref()),
        missing_since: row.missing_since.map(timestamp),
        evidence: facts.evidence,
        aliases: row.aliases.into_iter().map(alias).collect(),
        labels: row.labels,
        pairing_status: pairing.status.to_string(),
        pairing_error: pairing.error,
        bound_to_fleet_node_id: match pairing.binding {
            Binding::Node(NodeId(id)) => id,
            Binding::Free | Binding::Server => 0,
        },
        bound_to_server: pairing.binding == Binding::Server,
        seen_by: row.seen_by.into_iter().map(sighting).collect(),
        claimed_from_fleet_node_id: row.claimed_from.map_or(0, |NodeId(id)| id),
    }
}

fn sighting(sighting: DeviceSighting) -> fleet::DeviceSighting {
    fleet::DeviceSighting {
        fleet_node_id: sighting.node.0,
        ip: sighting.endpoint.ip.to_string(),
        port: sighting.endpoint.port.number().into(),
        first_seen: Some(timestamp(sighting.first_seen)),
        last_seen: Some(timestamp(sighting.last_seen)),
    }
}

fn alias(alias: DeviceAlias) -> fleet::DeviceAlias {
    fleet::DeviceAlias {
        identity_change_id: alias.change.0,
        identifier: alias.identifier.to_string(),
        reason: alias.reason.sentence().to_owned(),
        merged_device_id: alias.merged.map_or(0, |device| device.0),
        fleet_node_id: alias.node.map_or(0, |node| node.0),
        evidence: alias.evidence,
        since: Some(timestamp(alias.since)),
    }
}

/// A device of the inventory in the upstream format.
pub(crate) fn discovered_device(
    row: DeviceRow,
    status: PairingStatus,
) -> admin::FleetNodeDiscoveredDevice {
    let facts = row.facts;
    admin::FleetNodeDiscoveredDevice {
        fleet_node_id: row.node.map_or(0, |NodeId(id)| id),
        device_identifier: row.identifier.to_string(),
        ip_address: row
            .endpoint
            .map(|endpoint| endpoint.ip.to_string())
            .unwrap_or_default(),
        port: row
            .endpoint
            .map(|endpoint| endpoint.port.to_string())
            .unwrap_or_default(),
        url_scheme: facts.scheme,
        driver_name: facts.driver,
        model: facts.model,
        manufacturer: facts.manufacturer,
        firmware_version: facts.firmware,
        last_seen: Some(timestamp(row.last_seen)),
        // Upstream clients know no other name for an open device.
        pairing_status: if status == PairingStatus::Open {
            PairingStatus::Paired
        } else {
            status
        }
        .to_string(),
    }
}

fn serial_number(facts: &DeviceFacts) -> String {
    let serial = facts.serial.as_ref();
    serial.map_or_else(String::new, |serial| serial.as_str().to_owned())
}

/// A pairing status on the wire.
pub(crate) fn pairing_status(status: PairingStatus) -> fleetmanagement::PairingStatus {
    use fleetmanagement::PairingStatus as Wire;
    match status {
        // Upstream has no status of its own for devices without a login.
        PairingStatus::Paired | PairingStatus::Open => Wire::Paired,
        PairingStatus::Unpaired => Wire::Unpaired,
        PairingStatus::AuthenticationNeeded => Wire::AuthenticationNeeded,
        PairingStatus::Pending => Wire::Pending,
        PairingStatus::Failed => Wire::Failed,
        PairingStatus::DefaultPassword => Wire::DefaultPassword,
    }
}

/// The result of pairing one device.
pub(crate) fn pairing_result(
    device_identifier: String,
    status: PairingStatus,
    error: String,
) -> admin::DevicePairingResult {
    admin::DevicePairingResult {
        device_identifier,
        pairing_status: pairing_status(status).into(),
        error,
        open: status == PairingStatus::Open,
    }
}

/// A stored result of pairing one device.
pub(crate) fn paired(row: PairResultRow) -> admin::DevicePairingResult {
    pairing_result(row.identifier, row.result, row.error)
}

/// A device that is bound to a node, in the upstream format.
pub(crate) fn bound_device(bound: BoundDevice) -> admin::FleetNodeDeviceSummary {
    admin::FleetNodeDeviceSummary {
        fleet_node_id: bound.node.0,
        device_id: bound.device.id.0,
        device_identifier: bound.device.identifier.to_string(),
        device_type: bound.device.facts.driver,
        assigned_at: Some(timestamp(bound.since)),
        assigned_by: bound.assigned_by.map(|operator| operator.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_without_pages_is_whole_or_an_error() {
        let remedy = "read the list that has pages";
        for (rows, fits) in [(0, true), (3, true), (4, false)] {
            let listed = whole(vec![(); rows], 3, remedy);
            assert_eq!(listed.is_ok(), fits, "{rows}");
            if let Err(error) = listed {
                assert_eq!(error.reason().as_deref(), Some("LIST_TOO_LONG"));
                assert!(error.message.ends_with(remedy), "{error}");
            }
        }
    }

    #[test]
    fn only_a_full_page_has_a_next_one() {
        let page = list_page(2, 5);
        assert_eq!((page.after, page.limit), (5, 2));
        assert_eq!(list_page(0, 0).limit, ListPage::FIRST.limit);
        assert_eq!(list_page(u32::MAX, 0).limit, ListPage::FIRST.limit);
        for (rows, expected) in [(&[][..], 0), (&[7], 0), (&[7, 9], 9)] {
            assert_eq!(next_cursor(rows, page, |id| *id), expected, "{rows:?}");
        }
    }

    #[test]
    fn hidden_characters_of_a_peer_are_escaped() {
        assert_eq!(printable("a\u{1b}[31mb\n", 64), "a\\u{1b}[31mb\\n");
        assert_eq!(printable("a\u{202e}b\u{200b}", 64), "a\\u{202e}b\\u{200b}");
        assert_eq!(printable("ééé", 2), "éé");
    }
}
