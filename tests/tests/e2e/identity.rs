//! Two machines with one identity: the newest connection wins, and the machines do not evict each other forever.

use std::time::Duration;

use fleet_sim::Lab;

use crate::harness::{CONNECTED, Expected, World, eventually, range};

on_both_databases! {
    the_newer_of_two_machines_wins_and_evictions_do_not_repeat_forever
}

/// Time to watch for another eviction. It is longer than any reconnect delay.
const QUIET: Duration = Duration::from_secs(5);

async fn the_newer_of_two_machines_wins_and_evictions_do_not_repeat_forever(world: World) {
    let first = world.node("barn", &["--rate", "60"]).await;
    let site = world.range.spread(12, 4, Duration::from_millis(20));
    let lab = Lab::start(site).await.expect("a site");
    let asked: Vec<_> = (1..=60).map(|n| world.range.address(n)).collect();
    let expected = Expected::of(lab.site(), first.id, asked.clone());
    let request = range(asked[0], asked[59]);

    // The second machine takes over during the scan and finishes it.
    let start = || async {
        world
            .operator
            .start(first.id, request.clone())
            .await
            .scan_id
    };
    let scan = start().await;
    world.operator.watch(&scan, 0).await.next_device().await;
    let mut second = first.copy("copy");
    second.start(&world.server).await;
    eventually(
        "the message to the first machine that it was replaced",
        async || {
            first
                .logged()
                .contains("a newer stream of this node replaced it")
                .then_some(())
        },
    )
    .await;
    expected.is_history_of(&world.operator, &scan).await;

    // The first machine reconnects and takes over. The second is then refused when it reconnects.
    eventually("a duplicate identity", async || {
        let node = world.operator.node_named("barn").await;
        node.duplicate_identity.then_some(())
    })
    .await;
    let streams = world.server.log_count(CONNECTED);
    assert!(streams <= 3, "{streams} streams became the newest");
    expected
        .is_history_of(&world.operator, &start().await)
        .await;
    let quiet = std::time::Instant::now();
    eventually("a while without a quarrel", async || {
        (quiet.elapsed() > QUIET).then_some(())
    })
    .await;
    assert_eq!(
        world.server.log_count(CONNECTED),
        streams,
        "nobody was evicted since"
    );
    let node = world.operator.node_named("barn").await;
    assert!(node.connected, "{node:?}");
    expected
        .is_history_of(&world.operator, &start().await)
        .await;
}
