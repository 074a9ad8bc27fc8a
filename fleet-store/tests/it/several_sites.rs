//! Scans over several sites: differences, missing devices and alerts cover every site, and each row names its node.

use fleet_core::{RawDeviceReport, ScanId, TargetOutcome, outcome::AckCode};
use fleet_inventory::{Reason, Seen};
use fleet_store::*;

use crate::{
    shares::ready,
    site::{Node, Row, Site, at, blank, mac, row},
};

contract! {
    every_change_at_two_sites_is_exact_and_names_its_node
    devices_of_every_site_are_missing_and_lead_to_one_message
    a_node_that_fails_leads_to_a_message_although_others_have_a_result
}

/// The addresses of each site.
const RANGES: [&str; 2] = ["10.0.0.0/24", "10.0.1.0/24"];

/// A miner at a host of site `net`.
fn miner(net: u8, host: u8, number: usize, firmware: &str) -> Row {
    row(RawDeviceReport {
        ip: &format!("10.0.{net}.{host}"),
        mac: &mac(number),
        firmware,
        ..blank()
    })
}

/// What each node reports: devices, and the outcomes of hosts that are not silent.
type Reported = (Vec<Row>, Vec<(u8, TargetOutcome)>);

/// A whole scan over both nodes, which starts at a second.
async fn scanned(site: &Site, start: u64, nodes: [Node; 2], reported: [Reported; 2]) -> ScanId {
    let named: Vec<(Node, &str)> = nodes.into_iter().zip(RANGES).collect();
    let scan = site.create(ready(site, &named, &RANGES.join(" "))).await.id;
    for (node, (rows, outcomes)) in nodes.into_iter().zip(reported) {
        let issued = site.issue_at(node, at(start)).await;
        let command = issued.expect("a chunk").command;
        if !rows.is_empty() {
            let report = NewReport {
                now: at(start + 1),
                ..site.report(node, command, rows)
            };
            site.store.record_report(report).await.expect("recorded");
        }
        let mut bytes = vec![TargetOutcome::Silent.to_byte(); 254];
        for (host, outcome) in outcomes {
            bytes[usize::from(host) - 1] = outcome.to_byte();
        }
        let ack = Ack {
            outcomes: Some(bytes),
            now: at(start + 2),
            ..Site::ack(node, command, AckCode::Ok)
        };
        site.store.record_ack(ack).await.expect("acked");
    }
    scan
}

/// The rows as group, MAC number, endpoints, node, and the changed facts or the reason.
fn lines(found: &ScanDifference) -> Vec<String> {
    let host = |seen: &Option<Seen>| {
        let seen = seen.as_ref();
        seen.map_or("-".to_owned(), |seen| seen.endpoint.ip.to_string())
    };
    let line = |row: &fleet_inventory::Row| {
        let name = found.identifiers[&row.device].to_string();
        let name = name.strip_prefix("mac:02:00:5E:00:00:").expect("a MAC");
        let seen = row.after.as_ref().or(row.before.as_ref()).expect("seen");
        let node = &found.nodes[&seen.node];
        assert_eq!((node.site, &node.site_name), (seen.site, &node.name));
        let fields: Vec<&str> = row.changed.iter().map(|field| field.as_str()).collect();
        let reason = row.reason.map_or("", Reason::as_str);
        let (before, after) = (host(&row.before), host(&row.after));
        let what = format!("{}{reason}", fields.join(","));
        let line = format!("{} {name} {before} {after} {} {what}", row.group, node.name);
        line.trim_end().to_owned()
    };
    found.rows.iter().map(line).collect()
}

async fn two(site: &Site) -> [Node; 2] {
    [site.node("north").await, site.node("south").await]
}

async fn every_change_at_two_sites_is_exact_and_names_its_node(site: Site) {
    use TargetOutcome as T;
    let nodes = two(&site).await;
    // Both sites: 1 stays, 2 moves, 3 is re-imaged, 4 is switched off, 5 is not reached, and 6 and 7 exchange their MACs.
    let before = |net: u8| -> Reported {
        let base = usize::from(net) * 16;
        let devices = (1..=7).map(|n| miner(net, n, base + usize::from(n), "1.0"));
        (devices.collect(), Vec::new())
    };
    let after = |net: u8| -> Reported {
        let base = usize::from(net) * 16;
        let devices = vec![
            miner(net, 1, base + 1, "1.0"),
            miner(net, 20, base + 2, "1.0"),
            miner(net, 3, base + 3, "2.0"),
            miner(net, 6, base + 7, "1.0"),
            miner(net, 7, base + 6, "1.0"),
            miner(net, 8, base + 8, "1.0"),
        ];
        // The switched off device of the second site refuses, as a router does for it.
        let off = if net == 0 { T::Silent } else { T::Refused };
        (
            devices,
            vec![(4, off), (5, T::NotReached), (9, T::Unidentified)],
        )
    };
    let first = scanned(&site, 100, nodes, [before(0), before(1)]).await;
    let second = scanned(&site, 200, nodes, [after(0), after(1)]).await;
    let found = site
        .store
        .scan_difference(site.org, second, Against::Previous, at(90))
        .await
        .expect("compared");
    assert_eq!(found.against.as_ref().map(|scan| scan.id), Some(first));
    assert_eq!(
        lines(&found),
        [
            "new 08 - 10.0.0.8 north",
            "new 18 - 10.0.1.8 south",
            "missing 04 10.0.0.4 - north its address did not answer",
            "missing 14 10.0.1.4 - south its address refused the connection",
            "moved 07 10.0.0.7 10.0.0.6 north address",
            "moved 06 10.0.0.6 10.0.0.7 north address",
            "moved 02 10.0.0.2 10.0.0.20 north address",
            "moved 17 10.0.1.7 10.0.1.6 south address",
            "moved 16 10.0.1.6 10.0.1.7 south address",
            "moved 12 10.0.1.2 10.0.1.20 south address",
            "changed 03 10.0.0.3 10.0.0.3 north firmware",
            "changed 13 10.0.1.3 10.0.1.3 south firmware",
            "unchanged 01 10.0.0.1 10.0.0.1 north",
            "unchanged 11 10.0.1.1 10.0.1.1 south",
            "undecided 05 10.0.0.5 - north its address was not reached",
            "undecided 15 10.0.1.5 - south its address was not reached",
        ]
    );
    let hosts: Vec<(String, Option<fleet_core::NodeId>)> = found
        .unidentified
        .iter()
        .map(|host| (host.ip.to_string(), host.node))
        .collect();
    let expected = [
        ("10.0.0.9".to_owned(), Some(nodes[0].id)),
        ("10.0.1.9".to_owned(), Some(nodes[1].id)),
    ];
    assert_eq!(hosts, expected);
}

async fn devices_of_every_site_are_missing_and_lead_to_one_message(site: Site) {
    let nodes = two(&site).await;
    let hook = site.channel("hook").await;
    for (event, threshold) in [
        ("device.new", 0),
        ("device.missing", 1),
        ("device.moved", 0),
        ("device.firmware", 0),
    ] {
        site.rule(event, threshold, "", hook).await;
    }
    let titles = async |scan: ScanId| {
        site.store
            .alert_on_scan(scan, at(70))
            .await
            .expect("settled");
        let messages = site.messages().await.into_iter();
        let of_scan = messages.filter(|row| row.scan == Some(scan));
        let mut titles: Vec<String> = of_scan.map(|row| row.message.title).collect();
        titles.sort();
        titles
    };
    let both = |hosts: [u8; 2], firmware: &str| {
        [0, 1].map(|net: u8| -> Reported {
            let base = usize::from(net) * 16;
            let device = |(n, host): (usize, u8)| miner(net, host, base + n, firmware);
            (
                hosts
                    .into_iter()
                    .enumerate()
                    .map(|(n, host)| device((n + 1, host)))
                    .collect(),
                Vec::new(),
            )
        })
    };
    let first = scanned(&site, 100, nodes, both([1, 2], "1.0")).await;
    assert_eq!(titles(first).await, ["4 new devices at north and south"]);
    let second = scanned(&site, 200, nodes, both([1, 3], "2.0")).await;
    assert_eq!(
        titles(second).await,
        [
            "2 moved devices at north and south",
            "4 devices with other firmware at north and south"
        ]
    );
    // Only the last site lost a device: the scan is one, and so is the message.
    let [north, _] = both([1, 3], "2.0");
    let third = scanned(
        &site,
        300,
        nodes,
        [north, (vec![miner(1, 1, 17, "2.0")], Vec::new())],
    )
    .await;
    assert_eq!(titles(third).await, ["1 missing device at south"]);
    let missing = "SELECT count(*) FROM device WHERE missing_since IS NOT NULL";
    assert_eq!(site.number(missing).await, 1);
    let fourth = scanned(
        &site,
        400,
        nodes,
        [(Vec::new(), Vec::new()), (Vec::new(), Vec::new())],
    )
    .await;
    assert_eq!(
        titles(fourth).await,
        ["3 missing devices at north and south"]
    );
    assert_eq!(site.number(missing).await, 4);
}

async fn a_node_that_fails_leads_to_a_message_although_others_have_a_result(site: Site) {
    let nodes = two(&site).await;
    let hook = site.channel("hook").await;
    site.rule("scan.failed", 0, "", hook).await;
    let named: Vec<(Node, &str)> = nodes.into_iter().zip(RANGES).collect();
    let scan = site
        .create(ready(&site, &named, &RANGES.join(" ")))
        .await
        .id;
    for (node, code) in nodes
        .into_iter()
        .zip([AckCode::Ok, AckCode::AgentIncapable])
    {
        let command = site.issue(node).await.expect("a chunk").command;
        site.acked(node, command, code).await;
    }
    assert_eq!(
        site.store
            .alert_on_scan(scan, at(70))
            .await
            .expect("settled"),
        1
    );
    let message = &site.messages().await[0].message;
    assert_eq!(message.title, "A scan failed on 1 of 2 nodes");
    let text = &message.items[0].text;
    assert!(
        text.starts_with("node south: this node cannot do it"),
        "{text}"
    );
}
