//! Conversions of hosts that no driver identified.

use fleet_core::{HostReport, Mac, NodeId, Port, RawHostReport, Timestamp};
use fleet_discovery::HostFound;
use fleet_store::ScanHost;
use fleet_wire::{fleet, gateway};

use super::timestamp;

/// A host of a report, with unchecked fields.
pub(crate) fn raw_host(host: &gateway::UnidentifiedHostReport) -> RawHostReport<'_> {
    RawHostReport {
        ip: &host.ip_address,
        mac: &host.mac_address,
        name: &host.host_name,
        name_source: &host.host_name_source,
        open_ports: &host.open_ports,
        reply_port: host.reply_port,
        reply: &host.reply,
        requests: &host.requests,
    }
}

/// A stored host.
pub(crate) fn scan_host(stored: &ScanHost) -> fleet::ScanHost {
    host(&stored.host, stored.node, Some(stored.at))
}

/// A host of the event log.
pub(crate) fn host_found(found: &HostFound) -> fleet::HostFound {
    fleet::HostFound {
        host: Some(host(&found.host, found.node, None)),
        elapsed_ms: i64::try_from(found.elapsed_ms).unwrap_or(i64::MAX),
    }
}

fn host(host: &HostReport, node: Option<NodeId>, at: Option<Timestamp>) -> fleet::ScanHost {
    let number = |port: &Port| u32::from(port.number());
    let name = host.name.as_ref();
    fleet::ScanHost {
        ip: host.ip.to_string(),
        mac: host.mac.map(|mac| mac.to_string()).unwrap_or_default(),
        vendor: host.mac.and_then(vendor).unwrap_or_default().to_owned(),
        host_name: name.map_or_else(String::new, |name| name.name.clone()),
        host_name_source: name.map_or_else(String::new, |name| name.source.to_string()),
        open_ports: host.open_ports.iter().map(number).collect(),
        reply_port: host.reply_port.as_ref().map_or(0, number),
        reply: host.reply.clone(),
        requests: host.requests.clone(),
        reported_at: at.map(timestamp),
        record_command: record_command(host),
        fleet_node_id: node.map_or(0, |node| node.0),
    }
}

/// The command that records the host. It names the ports, because the defaults may not include them.
fn record_command(host: &HostReport) -> String {
    let ports: Vec<String> = host.open_ports.iter().map(ToString::to_string).collect();
    let file = host.ip.to_string().replace([':', '.'], "-");
    format!(
        "fleetnode identify {} --port {} --record {file}.txt",
        host.ip,
        ports.join(",")
    )
}

/// The owner of the address block of a MAC, by the registry of the IEEE. A locally administered MAC has none.
fn vendor(mac: Mac) -> Option<&'static str> {
    if mac.octets()[0] & 2 != 0 {
        return None;
    }
    oui_data::lookup(&mac.to_string())
        .map(|block| block.organization())
        .filter(|name| *name != "Private")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_block_of_the_registry_names_the_vendor() {
        for (mac, expected) in [
            ("00:0a:35:00:00:07", Some("XILINX")),
            // A block of 28 bits within one that the registry keeps for itself.
            ("70:06:92:50:00:07", Some("Canaan")),
            ("e0:a5:09:00:00:07", Some("Bitmain")),
            // The bit for locally administered addresses is set.
            ("02:0a:35:00:00:07", None),
        ] {
            let found = vendor(mac.parse().expect("a MAC"));
            let found = found.map(str::to_lowercase);
            let expected = expected.map(str::to_lowercase);
            assert_eq!(found.is_some(), expected.is_some(), "{mac}: {found:?}");
            if let (Some(found), Some(expected)) = (found, expected) {
                assert!(found.contains(&expected), "{mac}: {found}");
            }
        }
    }

    #[test]
    fn a_host_has_the_command_that_records_it() {
        let ports = [80, 8_080];
        let raw = RawHostReport {
            ip: "10.0.0.7",
            open_ports: &ports,
            ..RawHostReport::default()
        };
        let found = HostReport::parse(raw).expect("a host");
        assert_eq!(
            host(&found, None, None).record_command,
            "fleetnode identify 10.0.0.7 --port 80,8080 --record 10-0-0-7.txt"
        );
    }
}
