//! Two nodes of one site: each device is one record, both nodes are shown with it, and a scan of the site is split
//! between them.

use std::{collections::BTreeSet, time::Duration};

use fleet_sim::Lab;
use fleet_wire::fleet::{Device, Ledger, ScanState};

use crate::harness::{History, World, adds_up, ports, target};

on_both_databases! {
    two_nodes_on_one_network_have_one_inventory
    a_scan_of_a_site_is_split_between_its_nodes
}

const DEVICES: usize = 400;

/// Scans the network and returns the summary.
async fn scan(world: &World, node: i64) -> Ledger {
    let request = target(world.range.network(23));
    let scan = world.operator.start(node, request).await.scan_id;
    let history = world.operator.history(&scan).await;
    let ledger = history.ended().ledger.clone().expect("a summary");
    adds_up(&ledger);
    ledger
}

/// The nodes that have or see a device.
fn nodes_of(device: &Device) -> BTreeSet<i64> {
    let others = device.seen_by.iter().map(|seen| seen.fleet_node_id);
    others.chain([device.fleet_node_id]).collect()
}

async fn two_nodes_on_one_network_have_one_inventory(world: World) {
    let (barn_1, barn_2) = (
        world.node("barn-1", &[]).await,
        world.node("barn-2", &[]).await,
    );
    let (first, second) = (barn_1.id, barn_2.id);
    let both = BTreeSet::from([first, second]);
    let _lab = Lab::start(world.range.mixed(DEVICES))
        .await
        .expect("a site");

    let alone = scan(&world, first).await;
    let found = world.operator.devices().await.len() as u64;
    assert_eq!((alone.identified, alone.owned_elsewhere), (found, 0));
    // On a site of its own, the second node has only the evidence of MACs and serials.
    let apart = scan(&world, second).await;
    assert!(apart.owned_elsewhere > 0, "{apart:?}");
    assert_eq!(apart.identified + apart.owned_elsewhere, found);
    assert_eq!(apart.unidentified, alone.unidentified);
    let devices = world.operator.devices().await;
    let seen_twice = devices.iter().filter(|device| nodes_of(device) == both);
    assert_eq!(seen_twice.count() as u64, apart.owned_elsewhere);
    assert_eq!(devices.len() as u64, found + apart.identified);

    let share = ["nodes", "share-site", "barn-2", "--with", "barn-1"];
    world.fleetctl(&share).await.succeeded();
    for node in [second, first] {
        let together = scan(&world, node).await;
        assert_eq!((together.identified, together.owned_elsewhere), (found, 0));
        let devices = world.operator.devices().await;
        assert_eq!(devices.len() as u64, found);
        for device in devices {
            assert_eq!(nodes_of(&device), both, "{device:?}");
        }
    }
}

/// The last numbers of the addresses at which a node found devices.
fn found_by(history: &History, node: i64) -> Vec<u8> {
    let own = history.devices().filter(|one| one.fleet_node_id == node);
    let last = own.map(|one| {
        one.ip
            .rsplit('.')
            .next()
            .and_then(|number| number.parse().ok())
    });
    let mut found: Vec<u8> = last.map(|number| number.expect("an address")).collect();
    found.sort_unstable();
    found
}

async fn a_scan_of_a_site_is_split_between_its_nodes(world: World) {
    let subnets = [0, 64].map(|number| format!("{}/26", world.range.address(number)));
    let low = world.node("barn-1", &["--local-subnet", &subnets[0]]).await;
    let mut high = world.node("barn-2", &["--local-subnet", &subnets[1]]).await;
    let share = ["nodes", "share-site", "barn-2", "--with", "barn-1"];
    world.fleetctl(&share).await.succeeded();
    let _lab = Lab::start(world.range.crowd(100, Duration::ZERO))
        .await
        .expect("a site");
    let targets = format!("{}-140", world.range.address(1));
    let ports = ports().join(",");
    let of_site = ["--site", "barn-1", &targets, "--port", &ports];

    let plan = [&["scan", "plan", "-o", "json"], &of_site[..]].concat();
    let plan = world.fleetctl(&plan).await.succeeded();
    let plan: serde_json::Value = serde_json::from_str(&plan).expect("one document");
    let covered = plan["shares"].as_array().expect("shares").iter();
    let covered: Vec<_> = covered.map(|share| share["targets"].as_str()).collect();
    assert_eq!(covered, [Some("63"), Some("64")], "{plan}");
    assert_eq!(plan["uncovered"], "13", "{plan}");
    let left_out = format!("{}-{}", world.range.address(128), world.range.address(140));
    assert_eq!(plan["uncoveredTargets"], serde_json::json!([left_out]));
    let shown = [&["scan", "plan"], &of_site[..]].concat();
    let shown = world.fleetctl(&shown).await.succeeded();
    assert!(
        shown.contains("barn-1") && shown.contains("barn-2"),
        "{shown}"
    );
    assert!(shown.contains(&left_out), "{shown}");

    let start = ["scan", "start", "--no-watch", "-o", "json"];
    let begin = async |more: &[&str]| {
        let started = world.fleetctl(&[&start, &of_site[..], more].concat()).await;
        let started = started.succeeded();
        let started: serde_json::Value = serde_json::from_str(&started).expect("one document");
        let scan = started["scanId"].as_str().expect("an id").to_owned();
        (world.operator.history(&scan).await, scan)
    };
    let (history, _) = begin(&[]).await;
    let ledger = history.ended_as(ScanState::Completed);
    adds_up(ledger);
    assert_eq!((ledger.identified, ledger.skipped), (100, 13));
    assert_eq!(found_by(&history, low.id), (1..=63).collect::<Vec<u8>>());
    assert_eq!(found_by(&history, high.id), (64..=100).collect::<Vec<u8>>());

    // One node is away. The other one scans its share, and the scan ends as partial.
    high.kill().await;
    let (history, scan) = begin(&["--queue-for", "3"]).await;
    let ledger = history.ended_as(ScanState::Partial);
    adds_up(ledger);
    assert_eq!(found_by(&history, low.id), (1..=63).collect::<Vec<u8>>());
    assert_eq!((ledger.identified, ledger.not_reached), (63, 64));
    let reason = &history.ended().reason;
    assert!(
        reason.contains("(barn-2): the node did not come"),
        "{reason}"
    );
    let shares = world.operator.scan(&scan).await.shares;
    let states: Vec<_> = shares.iter().map(|share| share.state()).collect();
    assert_eq!(states, [ScanState::Completed, ScanState::Expired]);
    let shown = world.fleetctl(&["scan", "show", &scan]).await.succeeded();
    assert!(shown.contains("did not come"), "{shown}");
}
