//! Two nodes on one network: each device is one record, and both nodes are shown with it.

use std::collections::BTreeSet;

use fleet_sim::Lab;
use fleet_wire::fleet::{Device, Ledger};

use crate::harness::{World, adds_up, target};

on_both_databases! {
    two_nodes_on_one_network_have_one_inventory
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
