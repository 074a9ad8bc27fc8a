//! Rows of reports: a found device, or a pairing result. Start with [`row`].

use fleet_core::{AddressPolicy, DeviceReport, NodeId, RawDeviceReport};
use fleet_scan::FoundDevice;
use fleet_wire::gateway::{DiscoveredDeviceReport, FleetNodePairResult};

/// A row of a report. All rows of a command are of one kind.
#[derive(Clone, Debug)]
pub(super) enum Row {
    Found(DiscoveredDeviceReport),
    Paired(FleetNodePairResult),
}

/// The row of a device; none if it is invalid. One invalid row would make an upstream server reject the whole report.
pub(super) fn row(
    node: NodeId,
    found: FoundDevice,
    addresses: AddressPolicy,
) -> Option<DiscoveredDeviceReport> {
    let row = DiscoveredDeviceReport {
        device_identifier: found.identifier(node).to_string(),
        ip_address: found.endpoint.ip.to_string(),
        port: found.endpoint.port.to_string(),
        url_scheme: found.scheme,
        driver_name: found.driver,
        model: found.model,
        manufacturer: found.manufacturer,
        firmware_version: found.firmware,
        mac_address: found.mac.map(|mac| mac.to_string()).unwrap_or_default(),
        serial_number: found
            .serial
            .map(|serial| serial.as_str().to_owned())
            .unwrap_or_default(),
        evidence: found.evidence,
    };
    let checked = DeviceReport::parse(RawDeviceReport {
        identifier: &row.device_identifier,
        ip: &row.ip_address,
        port: &row.port,
        scheme: &row.url_scheme,
        driver: &row.driver_name,
        model: &row.model,
        manufacturer: &row.manufacturer,
        firmware: &row.firmware_version,
        mac: &row.mac_address,
        serial: &row.serial_number,
        evidence: &row.evidence,
    });
    let sound = checked.is_ok() && addresses.admit(found.endpoint.ip).is_ok();
    sound.then_some(row)
}

#[cfg(test)]
mod tests {
    use fleet_core::{Endpoint, Port, parse_literal};

    use super::*;

    fn found(ip: &str, scheme: &str) -> FoundDevice {
        FoundDevice {
            endpoint: Endpoint {
                ip: parse_literal(ip).expect("an address"),
                port: Port::new(4028).expect("a port"),
            },
            scheme: scheme.to_owned(),
            driver: "antminer".to_owned(),
            model: "S19".to_owned(),
            manufacturer: "Bitmain".to_owned(),
            firmware: String::new(),
            mac: None,
            serial: None,
            evidence: "banner".to_owned(),
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
