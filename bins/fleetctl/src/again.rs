//! `fleetctl scan again` and `fleetctl devices rescan`: scans of targets that are known already.

use std::collections::{BTreeMap, BTreeSet};

use fleet_wire::{
    fleet::{Device, GetScanRequest, Scan as Row, StartScanRequest},
    pairing::{DiscoverRequest, IpListModeRequest, discover_request::Mode},
};

use crate::{cli::Format, failure::Failure, output, scans, server::Server, watch};

/// Addresses of one list.
const ADDRESSES: usize = 4_096;

/// Starts a scan with the nodes and the request of an earlier one.
pub(crate) async fn run(
    server: &Server,
    format: Format,
    scan: String,
    no_watch: bool,
) -> Result<u8, Failure> {
    let request = GetScanRequest { scan_id: scan };
    let found = server.scans.get_scan(&request, server.call()?).await?;
    let earlier = found.scan.unwrap_or_default();
    let started = begin(server, like(earlier)).await?;
    if no_watch {
        scans::show(format, &started)?;
        return Ok(0);
    }
    watch::run(server, format, &started.scan_id, 0).await
}

/// A request with the nodes, the targets and the name of an earlier scan.
fn like(earlier: Row) -> StartScanRequest {
    let of_site = earlier.auto || earlier.site_id != 0;
    let several = earlier.shares.len() > 1;
    let nodes = earlier.shares.iter().map(|share| share.fleet_node_id);
    StartScanRequest {
        fleet_node_id: if of_site || several {
            0
        } else {
            earlier.fleet_node_id
        },
        fleet_node_ids: if several && !of_site {
            nodes.collect()
        } else {
            Vec::new()
        },
        site_id: if earlier.auto { 0 } else { earlier.site_id },
        auto: earlier.auto,
        name: earlier.name,
        request: earlier.request,
        ..StartScanRequest::default()
    }
}

async fn begin(server: &Server, request: StartScanRequest) -> Result<Row, Failure> {
    let request = StartScanRequest {
        request_id: scans::random_id()?,
        ..request
    };
    let started = server.scans.start_scan(&request, server.call()?).await?;
    Ok(started.scan.unwrap_or_default())
}

/// Scans the addresses of devices again, each from the node that found it.
pub(crate) async fn rescan(
    server: &Server,
    format: Format,
    devices: &[Device],
) -> Result<(), Failure> {
    let mut addresses = BTreeMap::<i64, BTreeSet<&str>>::new();
    for device in devices {
        if device.fleet_node_id != 0 && !device.ip.is_empty() {
            let of_node = addresses.entry(device.fleet_node_id).or_default();
            of_node.insert(&device.ip);
        }
    }
    if addresses.is_empty() {
        return Err(Failure::Usage(
            "no device with an address that a node found: `fleetctl devices list` shows them"
                .to_owned(),
        ));
    }
    let mut started = Vec::new();
    for (node, addresses) in addresses {
        let addresses: Vec<String> = addresses.into_iter().map(str::to_owned).collect();
        for part in addresses.chunks(ADDRESSES) {
            let list = IpListModeRequest {
                ip_addresses: part.to_vec(),
                ..IpListModeRequest::default()
            };
            let request = DiscoverRequest {
                mode: Some(Mode::IpList(list)),
                max_rate: 0,
            };
            let request = StartScanRequest {
                fleet_node_id: node,
                request: Some(request),
                ..StartScanRequest::default()
            };
            started.push(begin(server, request).await?);
        }
    }
    output::rows(format, &started)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use fleet_wire::fleet::ScanShare;

    use super::*;

    #[test]
    fn exactly_one_field_names_the_nodes() {
        let share = |fleet_node_id| ScanShare {
            fleet_node_id,
            ..ScanShare::default()
        };
        let scan = |site_id, auto, shares: &[i64]| Row {
            fleet_node_id: 7,
            site_id,
            auto,
            shares: shares.iter().map(|node| share(*node)).collect(),
            name: "nightly".to_owned(),
            ..Row::default()
        };
        for (earlier, expected) in [
            (scan(0, false, &[]), (7, vec![], 0, false)),
            (scan(0, false, &[7]), (7, vec![], 0, false)),
            (scan(0, false, &[7, 8]), (0, vec![7, 8], 0, false)),
            (scan(3, false, &[7, 8]), (0, vec![], 3, false)),
            (scan(0, true, &[7, 8]), (0, vec![], 0, true)),
        ] {
            let request = like(earlier);
            let nodes = request.fleet_node_ids;
            let named = (request.fleet_node_id, nodes, request.site_id, request.auto);
            assert_eq!(named, expected);
            assert_eq!(request.name, "nightly");
        }
    }
}
