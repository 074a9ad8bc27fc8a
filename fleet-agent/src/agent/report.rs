//! What the spool holds: a found device as a row of a report, or a result of pairing. Start with [`row`].

use fleet_core::{AddressPolicy, DeviceReport, NodeId};
use fleet_scan::FoundDevice;
use fleet_wire::gateway::{DiscoveredDeviceReport, FleetNodePairResult};

/// A row of a report; those of one command are of one kind.
#[derive(Clone, Debug)]
pub(super) enum Row {
    Found(DiscoveredDeviceReport),
    Paired(FleetNodePairResult),
}

/// The row of a device; none when a server would refuse it, and with it perhaps the whole report.
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
        evidence: facts.evidence,
    })
}

#[cfg(test)]
mod tests {
    use fleet_core::{DeviceFacts, Endpoint, Port, parse_literal};

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
                evidence: "said so".to_owned(),
                ..DeviceFacts::default()
            },
            provisional: false,
        }
    }

    #[test]
    fn a_row_carries_the_nodes_own_identifier() {
        let row = row(
            NodeId(1),
            found("10.0.0.7", "http"),
            AddressPolicy::default(),
        )
        .expect("a row");
        assert_eq!(row.device_identifier, "auto:bc7e693e1d31d8f6");
        assert_eq!(
            (&*row.ip_address, &*row.port, &*row.evidence),
            ("10.0.0.7", "4028", "said so")
        );
    }

    #[test]
    fn what_would_sink_a_whole_report_is_left_out() {
        for found in [
            found("8.8.8.8", "http"),
            found("127.0.0.1", "http"),
            found("10.0.0.7", "java script"),
        ] {
            assert_eq!(row(NodeId(1), found, AddressPolicy::default()), None);
        }
    }
}
