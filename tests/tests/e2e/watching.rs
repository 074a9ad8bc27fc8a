//! Watching a scan across reconnects. Every client resumes from a cursor, without lost or repeated events.

use std::time::Duration;

use fleet_sim::Lab;

use crate::harness::{EventSource, Expected, History, World, range};

on_both_databases! {
    a_reconnecting_watch_receives_every_event_once
    an_event_source_resumes_after_its_last_id
    a_watch_past_the_end_repeats_the_outcome_and_ends
}

async fn a_reconnecting_watch_receives_every_event_once(world: World) {
    let node = world.node("barn", &["--rate", "50"]).await;
    let site = world.range.spread(24, 3, Duration::from_millis(20));
    let lab = Lab::start(site).await.expect("a site");
    let asked: Vec<_> = (1..=80).map(|n| world.range.address(n)).collect();
    let scan = world
        .operator
        .start(node.id, range(asked[0], asked[79]))
        .await;
    let scan = scan.scan_id;

    let mut seen = Vec::new();
    for _ in 0..5 {
        let cursor = seen
            .last()
            .map_or(0, |event: &fleet_wire::fleet::WatchScanResponse| {
                event.sequence
            });
        let mut watch = world.operator.watch(&scan, cursor).await;
        for _ in 0..3 {
            seen.push(watch.next_device().await);
        }
        // Dropped in the middle of the stream, as when a laptop is closed.
    }
    let cursor = seen.last().expect("events").sequence;
    seen.extend(world.operator.watch(&scan, cursor).await.rest().await);

    let expected = Expected::of(lab.site(), node.id, asked);
    let log = expected.is_history_of(&world.operator, &scan).await;
    assert_eq!(History::complete(seen), log);
}

async fn an_event_source_resumes_after_its_last_id(world: World) {
    let node = world.node("barn", &["--rate", "50"]).await;
    let site = world.range.spread(16, 4, Duration::from_millis(20));
    let lab = Lab::start(site).await.expect("a site");
    let asked: Vec<_> = (1..=70).map(|n| world.range.address(n)).collect();
    let scan = world
        .operator
        .start(node.id, range(asked[0], asked[69]))
        .await;
    let (scan, key) = (scan.scan_id, world.operator.key());
    let address = world.server.address();

    let mut lines = Vec::new();
    let mut last = 0;
    for wanted in [1, 4, 9, usize::MAX] {
        let source = EventSource::open(address, key, &scan, last).await;
        let mut source = source.expect("there is more to come");
        while lines.len() < wanted {
            let Some(sent) = source.next().await else {
                break;
            };
            if let Some(id) = sent.id {
                assert_eq!(sent.data["seq"], id);
                last = id;
                lines.push(sent.data);
            }
        }
    }
    let expected = Expected::of(lab.site(), node.id, asked);
    let log = expected.is_history_of(&world.operator, &scan).await;
    let logged: Vec<_> = log
        .events()
        .iter()
        .filter_map(fleet_wire::lines::line)
        .collect();
    assert_eq!(lines, logged);
}

async fn a_watch_past_the_end_repeats_the_outcome_and_ends(world: World) {
    let node = world.node("barn", &[]).await;
    let lab = Lab::start(world.range.crowd(5, Duration::ZERO))
        .await
        .expect("a site");
    let asked: Vec<_> = (1..=5).map(|n| world.range.address(n)).collect();
    let scan = world
        .operator
        .start(node.id, range(asked[0], asked[4]))
        .await;
    let scan = scan.scan_id;
    let expected = Expected::of(lab.site(), node.id, asked);
    let log = expected.is_history_of(&world.operator, &scan).await;

    let end = log.events().last().expect("an end").sequence;
    for after in [end - 1, end, end + 100] {
        let again = world.operator.watch(&scan, after).await.rest().await;
        assert_eq!(again, log.events()[log.events().len() - 1..], "{after}");
    }
    let (address, key) = (world.server.address(), world.operator.key());
    let source = EventSource::open(address, key, &scan, end).await;
    assert!(source.is_none(), "a browser must not reconnect");
}
