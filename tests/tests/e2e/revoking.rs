//! Revoking a node while it scans: its work ends permanently, and its results stay.

use std::{collections::BTreeSet, time::Duration};

use fleet_sim::Lab;

use crate::harness::{Code, ScanState, World, adds_up, found_addresses, range};

on_both_databases! {
    revoking_a_node_ends_its_scan_and_keeps_the_results
}

async fn revoking_a_node_ends_its_scan_and_keeps_the_results(world: World) {
    let mut node = world.node("barn", &["--rate", "100"]).await;
    let site = world.range.crowd(400, Duration::from_millis(50));
    let lab = Lab::start(site).await.expect("a site");
    let request = range(world.range.address(1), world.range.address(400));
    let scan = world.operator.start(node.id, request.clone()).await.scan_id;
    let mut watch = world.operator.watch(&scan, 0).await;
    for _ in 0..5 {
        watch.next_device().await;
    }

    let id = node.id.to_string();
    world
        .fleetctl(&["nodes", "revoke", &id, "--yes"])
        .await
        .succeeded();
    let ended = node.ended().await;
    assert_eq!(ended.code(), Some(77), "{ended}");
    let advice = "enroll";
    assert!(node.logged().contains(advice), "the node says what to do");
    let after = lab.journal().count();

    let log = world.operator.history(&scan).await;
    let ledger = log.ended_as(ScanState::Failed);
    adds_up(ledger);
    assert_eq!(log.ended().code, "failed_precondition");
    assert!(
        log.ended().reason.contains("revoked"),
        "{}",
        log.ended().reason
    );
    let found: BTreeSet<_> = found_addresses(log.events()).into_keys().collect();
    assert!(found.len() >= 5, "{}", found.len());
    assert_eq!(ledger.identified, found.len() as u64, "{ledger:?}");
    let kept = world.operator.devices().await;
    let kept: BTreeSet<_> = kept
        .iter()
        .map(|device| device.ip.parse().expect("an address"))
        .collect();
    assert_eq!(kept, found);

    // Its credentials are invalid, so it cannot reconnect.
    node.spawn();
    assert_eq!(node.ended().await.code(), Some(77));
    assert!(world.operator.nodes().await.is_empty());
    let refused = world.operator.is_refused(node.id, request).await;
    assert_eq!(refused.code, Code::NotFound, "{refused:?}");
    assert_eq!(lab.journal().count(), after, "nothing was dialed any more");
}
