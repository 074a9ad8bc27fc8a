//! Scans by the server itself, compared with the simulator's record of connections.

use std::{collections::BTreeSet, net::IpAddr, time::Duration};

use fleet_sim::Lab;
use serde_json::Value;

use crate::harness::{Done, ScanState, World, list, ports};

on_both_databases! {
    the_server_dials_only_on_request_and_never_an_address_of_a_node
}

async fn the_server_dials_only_on_request_and_never_an_address_of_a_node(mut world: World) {
    let here = world.range;
    let lab = Lab::start(here.spread(12, 1, Duration::ZERO))
        .await
        .expect("a site");
    let all: Vec<IpAddr> = lab.site().addresses().into_iter().collect();
    let (nodes, servers) = all.split_at(6);
    let network = here.network(26);

    let off = scan(&world, &network).await;
    assert_eq!(off.status, 1, "{off:?}");
    for way_out in ["enroll a node", "[direct]"] {
        assert!(off.stderr.contains(way_out), "{off:?}");
    }
    assert_eq!(lab.journal().count(), 0, "nothing was dialed");

    let node = world.node("barn", &[]).await;
    let found = world.operator.start(node.id, list(nodes)).await.scan_id;
    world
        .operator
        .history(&found)
        .await
        .ended_as(ScanState::Completed);
    let touched = lab.journal().now();

    world.server.terminate().await;
    let flags = ["--direct-enabled", "--direct-network", &network];
    world.server.set_flags(&flags);
    world.server.restart().await;
    let listed: BTreeSet<IpAddr> = servers.iter().copied().collect();
    let theirs = |after: Duration| -> BTreeSet<IpAddr> {
        let connections = lab.journal().connections_since(after);
        connections
            .into_iter()
            .map(|connection| connection.address)
            .collect()
    };

    let first = scan(&world, &network).await;
    assert_eq!(first.status, 2, "partial: {first:?}");
    assert_eq!(found_in(&first), listed);
    let ended = last_line(&first);
    assert_eq!(
        (&ended["ledger"]["identified"], &ended["ledger"]["skipped"]),
        (&"6".into(), &"8".into()),
        "{ended}"
    );
    let reason = ended["reason"].as_str().expect("a reason");
    assert!(reason.contains("(barn) 6"), "{reason}");
    assert_eq!(theirs(touched), listed, "what a node found is not touched");
    let devices = world.operator.devices().await;
    let unattributed = |ip: &str| {
        devices
            .iter()
            .any(|device| device.ip == ip && device.fleet_node_id == 0)
    };
    assert!(
        servers.iter().all(|ip| unattributed(&ip.to_string())),
        "{devices:?}"
    );
    assert_eq!(devices.len(), 12);

    // The devices of the node stay excluded after it has gone.
    world
        .fleetctl(&["nodes", "revoke", &node.id.to_string(), "--yes"])
        .await
        .succeeded();
    let touched = lab.journal().now();
    let second = scan(&world, &network).await;
    assert_eq!(found_in(&second), listed);
    assert_eq!(theirs(touched), listed);
    assert_eq!(world.operator.devices().await.len(), 12, "the same records");

    // The server dials nothing outside of its networks.
    let outside = scan(&world, &here.address(0x100).to_string()).await;
    assert_eq!(outside.status, 1, "{outside:?}");
}

async fn scan(world: &World, target: &str) -> Done {
    let ports = ports().join(",");
    world
        .fleetctl(&["direct", "scan", target, "--port", &ports, "-o", "ndjson"])
        .await
}

fn lines(done: &Done) -> Vec<Value> {
    let line = |line: &str| serde_json::from_str(line).expect("JSON");
    done.stdout.lines().map(line).collect()
}

fn last_line(done: &Done) -> Value {
    let last = lines(done).pop().expect("a last line");
    assert!(last["ended"].is_object(), "{done:?}");
    last["ended"].clone()
}

/// Returns the addresses of the devices that a scan reported.
fn found_in(done: &Done) -> BTreeSet<IpAddr> {
    lines(done)
        .iter()
        .filter(|line| line["device"].is_object())
        .map(|line| {
            line["device"]["ip"]
                .as_str()
                .and_then(|ip| ip.parse().ok())
                .expect("an address")
        })
        .collect()
}
