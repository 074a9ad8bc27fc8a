//! Rows of reports: a found device, an unidentified host, or a pairing result. Start with [`row`].

use fleet_core::{AddressPolicy, DeviceReport, HostReport, NamedBy, NodeId, Port};
use fleet_scan::FoundDevice;
use fleet_wire::gateway::{DiscoveredDeviceReport, FleetNodePairResult, UnidentifiedHostReport};

/// A row of a report. The rows of a command are of a scan or of a pairing.
#[derive(Clone, Debug)]
pub(super) enum Row {
    Found(DiscoveredDeviceReport),
    Host(UnidentifiedHostReport),
    Paired(FleetNodePairResult),
}

/// The row of a device; none if it is invalid. One invalid row would make an upstream server reject the whole report.
pub(super) fn row(
    node: NodeId,
    found: FoundDevice,
    addresses: AddressPolicy,
) -> Option<DiscoveredDeviceReport> {
    addresses.admit(found.endpoint.ip).ok()?;
    let DeviceReport {
        sent_identifier,
        endpoint,
        facts,
    } = DeviceReport::new(node, found.endpoint, found.facts).ok()?;
    let serial = facts.serial.as_ref();
    Some(DiscoveredDeviceReport {
        device_identifier: sent_identifier,
        ip_address: endpoint.ip.to_string(),
        port: endpoint.port.to_string(),
        url_scheme: facts.scheme,
        driver_name: facts.driver,
        model: facts.model,
        manufacturer: facts.manufacturer,
        firmware_version: facts.firmware,
        mac_address: facts.mac.map(|mac| mac.to_string()).unwrap_or_default(),
        serial_number: serial.map_or_else(String::new, |serial| serial.as_str().to_owned()),
        host_name: NamedBy::name_of(facts.host_name.as_ref()),
        host_name_source: NamedBy::source_of(facts.host_name.as_ref()),
        evidence: facts.evidence,
    })
}

/// The row of an unidentified host; none if its address may not be reported.
pub(super) fn host(host: &HostReport, addresses: AddressPolicy) -> Option<UnidentifiedHostReport> {
    addresses.admit(host.ip).ok()?;
    let number = |port: &Port| u32::from(port.number());
    let name = host.name.as_ref();
    Some(UnidentifiedHostReport {
        ip_address: host.ip.to_string(),
        mac_address: host.mac.map(|mac| mac.to_string()).unwrap_or_default(),
        open_ports: host.open_ports.iter().map(number).collect(),
        reply_port: host.reply_port.as_ref().map_or(0, number),
        reply: host.reply.clone(),
        requests: host.requests.clone(),
        host_name: NamedBy::name_of(name),
        host_name_source: NamedBy::source_of(name),
    })
}

#[cfg(test)]
mod tests {
    use fleet_core::{DeviceFacts, Endpoint, parse_literal};

    use super::*;

    fn found(ip: &str, scheme: &str) -> FoundDevice {
        FoundDevice {
            endpoint: Endpoint {
                ip: parse_literal(ip).expect("an address"),
                port: Port::new(4028).expect("a port"),
            },
            facts: DeviceFacts {
                scheme: scheme.to_owned(),
                driver: "antminer".to_owned(),
                model: "S19".to_owned(),
                manufacturer: "Bitmain".to_owned(),
                evidence: "banner".to_owned(),
                host_name: "mdns:bitaxe.local".parse().ok(),
                ..DeviceFacts::default()
            },
            provisional: false,
        }
    }

    #[test]
    fn a_row_contains_the_identifier_from_the_nodes_id() {
        let row = row(
            NodeId(1),
            found("10.0.0.7", "http"),
            AddressPolicy::default(),
        )
        .expect("a row");
        assert_eq!(row.device_identifier, "auto:bc7e693e1d31d8f6");
        assert_eq!(
            (&*row.ip_address, &*row.port, &*row.evidence),
            ("10.0.0.7", "4028", "banner")
        );
        assert_eq!(
            (&*row.host_name, &*row.host_name_source),
            ("bitaxe.local", "mdns")
        );
    }

    #[test]
    fn rows_that_would_fail_a_whole_report_are_dropped() {
        for found in [
            found("8.8.8.8", "http"),
            found("127.0.0.1", "http"),
            found("10.0.0.7", "java script"),
        ] {
            assert_eq!(row(NodeId(1), found, AddressPolicy::default()), None);
        }
    }
}
