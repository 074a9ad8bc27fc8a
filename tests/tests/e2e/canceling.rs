//! Canceling: the node stops dialing within a second, and the devices found so far are kept.

use std::{collections::BTreeSet, time::Duration};

use fleet_sim::Lab;

use crate::harness::{ScanState, World, adds_up, eventually, found_addresses, range};

on_both_databases! {
    a_canceled_scan_stops_within_a_second_and_keeps_found_devices
    canceling_a_queued_scan_sends_no_packet
}

/// No connection may start later than this after a cancel.
const STOPS: Duration = Duration::from_secs(1);
/// Time during which the devices are watched for connections after that.
const WATCHED: Duration = Duration::from_secs(2);

async fn a_canceled_scan_stops_within_a_second_and_keeps_found_devices(world: World) {
    let node = world.node("barn", &["--rate", "100"]).await;
    // Every address has a device, so every packet is recorded. The scan would take more than twelve seconds.
    let site = world.range.crowd(600, Duration::from_millis(50));
    let lab = Lab::start(site).await.expect("a site");
    let journal = lab.journal();
    let request = range(world.range.address(1), world.range.address(600));
    let scan = world.operator.start(node.id, request).await.scan_id;
    let mut watch = world.operator.watch(&scan, 0).await;
    for _ in 0..10 {
        watch.next_device().await;
    }

    let canceled = world.operator.cancel(&scan).await;
    let stops_by = journal.now() + STOPS;
    assert_eq!(canceled.state(), ScanState::Canceled, "{canceled:?}");
    eventually("a while to watch", async || {
        (journal.now() > stops_by + WATCHED).then_some(())
    })
    .await;
    assert_eq!(journal.connections_since(stops_by), []);

    let history = world.operator.history(&scan).await;
    let ledger = history.ended_as(ScanState::Canceled);
    adds_up(ledger);
    assert_eq!(history.ended().code, "canceled");
    assert!(ledger.not_reached > 0, "{ledger:?}");
    let found: BTreeSet<_> = found_addresses(history.events()).into_keys().collect();
    assert!(found.len() >= 10 && found.len() < 600, "{}", found.len());
    assert_eq!(ledger.identified, found.len() as u64, "{ledger:?}");
    assert!(found.is_subset(&journal.touched_addresses()));
    let kept: BTreeSet<_> = world
        .operator
        .devices()
        .await
        .into_iter()
        .map(|device| device.ip.parse().expect("an address"))
        .collect();
    assert_eq!(kept, found);

    // The node is free for the next scan.
    let request = range(world.range.address(1), world.range.address(3));
    let next = world.operator.start(node.id, request).await.scan_id;
    world
        .operator
        .history(&next)
        .await
        .ended_as(ScanState::Completed);
}

async fn canceling_a_queued_scan_sends_no_packet(world: World) {
    let mut node = world.node("barn", &[]).await;
    assert!(node.terminate().await.success());
    let site = world.range.crowd(5, Duration::ZERO);
    let lab = Lab::start(site).await.expect("a site");
    let request = range(world.range.address(1), world.range.address(5));
    let scan = world.operator.start(node.id, request).await.scan_id;
    assert_eq!(
        world.operator.cancel(&scan).await.state(),
        ScanState::Canceled
    );
    // A second cancel changes nothing.
    assert_eq!(
        world.operator.cancel(&scan).await.state(),
        ScanState::Canceled
    );
    let history = world.operator.history(&scan).await;
    let ledger = history.ended_as(ScanState::Canceled);
    adds_up(ledger);
    assert_eq!(ledger.not_reached, 5, "{ledger:?}");

    node.start(&world.server).await;
    let request = range(world.range.address(5), world.range.address(5));
    let next = world.operator.start(node.id, request).await.scan_id;
    world
        .operator
        .history(&next)
        .await
        .ended_as(ScanState::Completed);
    let touched = lab.journal().touched_addresses();
    assert_eq!(touched, [world.range.address(5).into()].into());
}
