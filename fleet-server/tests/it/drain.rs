//! Shutdown of a server, and the next server on the same database.

use std::time::Duration;

use fleet_core::Role;
use fleet_server::ServerConfig;
use fleet_wire::{
    Code,
    gateway::{AckCode, GoodbyeReason},
};

use crate::harness::{
    Enrolled, Node, Profile, Started, World, device, eventually, list, refused, request, soon,
    start,
};

#[tokio::test(flavor = "multi_thread")]
async fn a_scan_continues_under_the_next_server() {
    let mut world = World::new().await;
    let operator = world.operator(Role::Operator).await;
    let enrolled = Enrolled::new(&world, &operator).await;
    let profile = Profile::ours();
    let mut node = enrolled.connect(&world, profile.clone()).await;
    let asked = list(&["10.0.0.1", "10.0.0.2"], &["4028"]);
    let scan = start(&operator, &enrolled, asked).await.id;
    let waiting = start(&operator, &enrolled, list(&["10.0.0.3"], &["4028"]))
        .await
        .id;
    let (command, _) = node.command().await;
    node.report(&command, vec![device("10.0.0.1")])
        .await
        .expect("is taken");
    let drained = world.stop().await;
    assert_eq!(drained.cut, 0);
    world.start().await;

    let operator = operator.at(&world);
    let mut node = enrolled.connect(&world, profile.running(&command)).await;
    node.report(&command, vec![device("10.0.0.2")])
        .await
        .expect("is taken");
    node.ack(&command, AckCode::Ok).await;
    let (next, _) = node.command().await;
    node.ack(&next, AckCode::Ok).await;
    let ended = Started::known(&operator, &scan)
        .is("SCAN_STATE_COMPLETED")
        .await;
    assert_eq!(ended.ledger.expect("has ended").accepted, 2);
    Started::known(&operator, &waiting)
        .is("SCAN_STATE_COMPLETED")
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_gives_nodes_reconnect_times_ends_watches_and_stores_last_messages() {
    let window = Duration::from_secs(7);
    let mut world = World::with(ServerConfig {
        rates: None,
        drain_window: window,
        ..ServerConfig::default()
    })
    .await;
    let operator = world.operator(Role::Operator).await;
    let ours = Enrolled::new(&world, &operator).await;
    let upstream = Enrolled::new(&world, &operator).await;
    let mut node = ours.connect(&world, Profile::ours()).await;
    let mut old = upstream.connect(&world, Profile::upstream()).await;
    let scan = start(&operator, &ours, list(&["10.0.0.1"], &["4028"])).await;
    let (command, _) = node.command().await;
    let token = node.token.clone();
    let mut watch = scan.watch(0).await;
    soon(watch.message()).await.expect("it began");
    let id = scan.id.clone();

    let draining = world.draining();
    let goodbye = node.goodbye().await;
    assert_eq!(goodbye.reason(), GoodbyeReason::Drain);
    assert!(u128::from(goodbye.retry_after_ms) <= window.as_millis());
    // The last messages are still stored.
    node.ack(&command, AckCode::Ok).await;
    let ready = request(draining.address, "GET", "/readyz", &[], "").await;
    assert_eq!((ready.status, ready.body.as_str()), (503, "draining\n"));
    // A node that connects now gets a structured time to reconnect.
    let mut late = Node::dial_at(draining.address, &token).await;
    let error = late.end().await.expect_err("is refused");
    assert!(error.is_not_active(), "{error}");
    assert!(
        error.retry_after().is_some_and(|wait| wait <= window),
        "{error:?}"
    );
    let error = soon(async {
        loop {
            match watch.message().await {
                Ok(Some(_)) => {}
                Ok(None) => break None,
                Err(error) => break Some(error),
            }
        }
    })
    .await;
    if let Some(error) = error {
        assert_eq!(error.code, Code::Unavailable, "{error}");
        assert!(error.message.contains("watch again"), "{error}");
    }
    node.end().await.expect("ends cleanly");
    let error = old.end().await.expect_err("ends with an error");
    assert!(error.is_not_active(), "{error}");
    draining.done().await;

    world.start().await;
    let operator = operator.at(&world);
    Started::known(&operator, &id)
        .is("SCAN_STATE_COMPLETED")
        .await;
    // Both streams were given back.
    for node in [&ours, &upstream] {
        let row = fleet_store::Enrollment::node(&world.store, operator.org, node.id).await;
        assert!(row.expect("it reads").expect("it is there").stream_ended());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_of_a_running_scan_ends_unavailable() {
    let mut world = World::new().await;
    let operator = world.operator(Role::Operator).await;
    let enrolled = Enrolled::new(&world, &operator).await;
    let scan = start(&operator, &enrolled, list(&["10.0.0.1"], &["80"])).await;
    let mut watch = scan.watch(0).await;
    soon(watch.message()).await.expect("it began");
    let draining = world.draining();
    let error = refused(soon(watch.message()).await, Code::Unavailable);
    assert!(error.message.contains("last sequence"), "{error}");
    draining.done().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_server_does_not_block_the_next_one() {
    let mut world = World::new().await;
    let operator = world.operator(Role::Operator).await;
    let enrolled = Enrolled::new(&world, &operator).await;
    let mut node = enrolled.connect(&world, Profile::upstream()).await;
    let scan = start(&operator, &enrolled, list(&["10.0.0.1"], &["80"]))
        .await
        .id;
    let (lost, _) = node.command().await;
    // A second server starts without the first one's end.
    world.start().await;
    let operator = operator.at(&world);
    let mut back = enrolled.connect(&world, Profile::upstream()).await;
    let (again, _) = back.command().await;
    assert_ne!(lost, again);
    // What the old stream says does not count any more.
    node.ack(&lost, AckCode::ScanFailed).await;
    back.ack(&again, AckCode::Ok).await;
    let scan = Started::known(&operator, &scan);
    scan.is("SCAN_STATE_COMPLETED").await;
    eventually(|| async { scan.get().await.commands_done == 1 }).await;
}
