//! Servers that share one database: heartbeats, notifications, and orders for nodes.

use std::time::Duration;

use fleet_core::{
    NodeId, ReplicaId, ScanState,
    outcome::{AckCode, Code, Conclusion},
};
use fleet_store::*;

use crate::site::{Site, at};

contract! {
    heartbeats_of_every_server_are_counted
    a_notification_reaches_every_server
    coordination_needs_no_connection_of_the_requests
    a_canceled_command_is_an_order_until_it_ends
    a_command_of_an_ended_scan_is_canceled
    a_revoked_node_is_an_order_until_its_stream_ends
}

async fn heartbeats_of_every_server_are_counted(site: Site) {
    let [one, two] = [ReplicaId([1; 16]), ReplicaId([2; 16])];
    let count = async |replica, seconds| {
        let counted = site
            .store
            .count_heartbeat(replica, [3; 32], at(seconds))
            .await;
        let mut counts = counted.expect("counted");
        counts.sort_unstable();
        counts
    };
    assert_eq!(count(one, 1).await, [(one, 1)]);
    assert_eq!(count(two, 1).await, [(one, 1), (two, 1)]);
    assert_eq!(count(one, 2).await, [(one, 2), (two, 1)]);
}

async fn a_notification_reaches_every_server(site: Site) {
    let other = site.another().await;
    let mut here = site.store.notifications().await.expect("subscribed");
    let mut there = other.notifications().await.expect("subscribed");
    let node = Notification::Node(NodeId(7));
    for sent in [node, Notification::Credentials(site.org)] {
        site.store.notify(sent).await.expect("notified");
        assert_eq!(here.recv().await, Some(sent));
        assert_eq!(there.recv().await, Some(sent));
    }
    drop(there);
    let last = Notification::Node(NodeId(9));
    site.store.notify(last).await.expect("notified");
    assert_eq!(here.recv().await, Some(last));
}

async fn coordination_needs_no_connection_of_the_requests(site: Site) {
    let options = StoreOptions {
        connections: 1,
        acquire_timeout: Duration::from_secs(2),
        ..StoreOptions::default()
    };
    let store = SqlStore::connect(&site.url, options).await;
    let store = store.expect("opened");
    let mut notified = store.notifications().await.expect("subscribed");
    // The only connection of the requests is taken while the subscription holds its own.
    let held = store.list_nodes(site.org, fleet_store::ListPage::FIRST);
    let heartbeat = store.count_heartbeat(ReplicaId([1; 16]), [3; 32], at(1));
    let (held, heartbeat) = tokio::join!(held, heartbeat);
    assert_eq!(held.expect("read"), []);
    assert_eq!(heartbeat.expect("counted").len(), 1);
    let node = Notification::Node(NodeId(7));
    store.notify(node).await.expect("notified");
    assert_eq!(notified.recv().await, Some(node));
    // Closing ends the subscription and does not wait for it.
    store.close().await;
}

async fn orders_of(site: &Site, replica: ReplicaId) -> Orders {
    site.store.orders(replica, at(60)).await.expect("read")
}

/// The server that holds the streams of the fixture's nodes.
fn holder() -> ReplicaId {
    Site::claim(NodeId(0), &[], at(0)).replica
}

async fn a_canceled_command_is_an_order_until_it_ends(site: Site) {
    let node = site.node("north").await;
    let issued = site.running(node, "10.0.0.0/24").await;
    site.scan(node, "10.0.1.0/24").await;
    assert_eq!(orders_of(&site, holder()).await, Orders::default());
    let grace = Grace {
        time: Duration::from_secs(10),
        nodes: vec![node.id],
    };
    site.store
        .cancel_scan(site.org, issued.scan, grace, site.actor(), at(30))
        .await
        .expect("canceled");
    let expected = Orders {
        canceled: vec![(node.id, issued.command)],
        ..Orders::default()
    };
    for _ in 0..2 {
        assert_eq!(orders_of(&site, holder()).await, expected);
    }
    let other = ReplicaId([0xEE; 16]);
    assert_eq!(orders_of(&site, other).await, Orders::default());
    site.acked(node, issued.command, AckCode::Partial).await;
    assert_eq!(orders_of(&site, holder()).await, Orders::default());
}

async fn a_command_of_an_ended_scan_is_canceled(site: Site) {
    let node = site.node("north").await;
    let issued = site.running(node, "10.0.0.0/24").await;
    let why = Conclusion::new(ScanState::Failed, Code::Internal, "for the test");
    let ended = site.store.end_scan(issued.scan, why, at(30)).await;
    assert!(ended.expect("ended"));
    let orders = orders_of(&site, holder()).await;
    assert_eq!(orders.canceled, [(node.id, issued.command)]);
}

async fn a_revoked_node_is_an_order_until_its_stream_ends(site: Site) {
    let node = site.node("north").await;
    site.node("south").await;
    site.store
        .revoke_node(site.org, node.id, None, site.actor(), at(40))
        .await
        .expect("revoked");
    for _ in 0..2 {
        assert_eq!(orders_of(&site, holder()).await.revoked, [node.id]);
    }
    site.store
        .release_stream(node.id, node.epoch, "ended".to_owned(), at(41))
        .await
        .expect("released");
    assert_eq!(orders_of(&site, holder()).await, Orders::default());
}
