//! Watching scans: every event once and in order, for late and leaving watchers too.

use std::time::{Duration, Instant};

use fleet_core::Role;
use fleet_wire::{
    Code,
    client::Incoming,
    fleet::{WatchScanRequest, WatchScanResponse, watch_scan_response::Event},
    gateway::{AckCode, ControlProgress, control_stream_request},
};

use crate::harness::{
    Enrolled, Operator, Profile, World, device, list, range, refused, soon, start,
};

#[tokio::test(flavor = "multi_thread")]
async fn events_are_live_dense_unique_and_repeatable_from_a_cursor() {
    let world = World::new().await;
    let operator = world.operator(Role::Operator).await;
    let enrolled = Enrolled::new(&world, &operator).await;
    let mut node = enrolled.connect(&world, Profile::ours()).await;
    let scan = start(
        &operator,
        &enrolled,
        list(&["10.0.0.1", "10.0.0.2"], &["4028"]),
    )
    .await;
    let (command, _) = node.command().await;
    let mut live = scan.watch(0).await;
    node.report(&command, vec![device("10.0.0.1")])
        .await
        .expect("is taken");
    loop {
        let message = soon(live.message()).await.expect("continues");
        if let Some(Event::Device(found)) = message.expect("has not ended").event {
            assert_eq!(
                (found.ip.as_str(), found.model.as_str()),
                ("10.0.0.1", "S19")
            );
            break;
        }
    }
    // Closing a watch changes nothing.
    drop(live);
    node.report(&command, vec![device("10.0.0.2")])
        .await
        .expect("is taken");
    node.ack(&command, AckCode::Ok).await;
    let log = scan.log(0).await;
    let about: Vec<_> = log.iter().map(|(_, about)| about.as_str()).collect();
    assert_eq!(about, ["10.0.0.1", "10.0.0.2", "SCAN_STATE_COMPLETED"]);
    let sequences: Vec<_> = log.iter().map(|(sequence, _)| *sequence).collect();
    assert_eq!(sequences, [1, 2, 3]);
    // At and past the end, the terminal event comes again: it answers how the scan ended.
    for (after, first) in [(0, 0), (1, 1), (2, 2), (3, 2), (1_000, 2)] {
        assert_eq!(scan.log(after).await, log[first..], "{after}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cursor_ahead_of_the_log_is_out_of_range() {
    let world = World::new().await;
    let operator = world.operator(Role::Operator).await;
    let enrolled = Enrolled::new(&world, &operator).await;
    let scan = start(&operator, &enrolled, list(&["10.0.0.1"], &["80"])).await;
    let mut watch = scan.watch(1_000).await;
    let error = refused(soon(watch.message()).await, Code::OutOfRange);
    assert!(error.message.contains("1000"), "{error}");
    assert!(error.message.contains("start from 0"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_watch_sends_liveness_signals() {
    let world = World::new().await;
    let operator = world.operator(Role::Operator).await;
    let enrolled = Enrolled::new(&world, &operator).await;
    let scan = start(&operator, &enrolled, list(&["10.0.0.1"], &["80"])).await;
    let mut watch = scan.watch(0).await;
    let first = soon(watch.message()).await.expect("continues");
    let first = first.expect("has not ended");
    assert!(matches!(first.event, Some(Event::Progress(_))), "{first:?}");
    world.clock.pass(Duration::from_secs(15));
    let next = soon(watch.message()).await.expect("continues");
    let next = next.expect("has not ended");
    assert_eq!((next.sequence, next.event), (0, None));
}

#[tokio::test(flavor = "multi_thread")]
async fn many_watchers_see_the_same_log() {
    let world = World::new().await;
    let operator = world.operator(Role::Operator).await;
    let enrolled = Enrolled::new(&world, &operator).await;
    let mut node = enrolled.connect(&world, Profile::ours()).await;
    let addresses: Vec<String> = (1..=50).map(|n| format!("10.0.0.{n}")).collect();
    let asked: Vec<&str> = addresses.iter().map(String::as_str).collect();
    let scan = start(&operator, &enrolled, list(&asked, &["4028"])).await;
    let (command, _) = node.command().await;
    let watchers = futures::future::join_all((0..8).map(|_| scan.log(0)));
    let reporting = async {
        for address in &addresses {
            node.report(&command, vec![device(address)])
                .await
                .expect("is taken");
        }
        node.ack(&command, AckCode::Ok).await;
    };
    let (logs, ()) = tokio::join!(watchers, reporting);
    assert_eq!(logs[0].len(), 51);
    assert!(logs.iter().all(|log| *log == logs[0]));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_progress_of_a_node_reaches_its_watchers() {
    let world = World::new().await;
    let operator = world.operator(Role::Operator).await;
    let enrolled = Enrolled::new(&world, &operator).await;
    let mut node = enrolled.connect(&world, Profile::ours()).await;
    let asked = range("10.0.0.2", "10.0.0.101", &["80"]);
    let scan = start(&operator, &enrolled, asked).await;
    let (command, _) = node.command().await;
    let mut watch = scan.watch(0).await;
    node.say(control_stream_request::Kind::Progress(ControlProgress {
        command_id: command,
        targets_done: 40,
        targets_total: 100,
        phase: "sweep\u{7}".into(),
        note: String::new(),
    }))
    .await;
    soon(async {
        loop {
            let message = watch.message().await.expect("continues");
            let message = message.expect("has not ended");
            if let Some(Event::Progress(progress)) = message.event
                && progress.done > 0
            {
                assert_eq!((progress.done, progress.total), (40, 100));
                assert_eq!(
                    progress.phase, "sweep\\u{7}",
                    "control characters are escaped"
                );
                break;
            }
        }
    })
    .await;
}

/// Concurrent calls that the listener accepts on a connection are some more than this.
const STREAMS_OF_A_CONNECTION: usize = 16;

/// Opens watches that nobody reads.
async fn unread(
    world: &World,
    operator: &Operator,
    scan: &str,
    count: usize,
) -> Vec<Incoming<WatchScanResponse>> {
    let mut watches = Vec::new();
    let request = WatchScanRequest {
        scan_id: scan.to_owned(),
        after_sequence: 0,
    };
    while watches.len() < count {
        let operator = operator.clone().at(world);
        let client = operator.scans();
        for _ in 0..(count - watches.len()).min(STREAMS_OF_A_CONNECTION) {
            let watch = client.watch_scan(&request, operator.options()).await;
            watches.push(watch.expect("opens"));
        }
    }
    watches
}

#[tokio::test(flavor = "multi_thread")]
async fn watchers_never_hold_the_connections_that_reports_need() {
    let world = World::new().await;
    let operator = world.operator(Role::Operator).await;
    // An operator may have 256 streams.
    let second = world.operator(Role::Viewer).await;
    let enrolled = Enrolled::new(&world, &operator).await;
    let mut node = enrolled.connect(&world, Profile::ours()).await;
    let scan = start(&operator, &enrolled, list(&["10.0.0.1"], &["4028"])).await;
    let (command, _) = node.command().await;
    // One more than the connections of the pool, then many.
    for count in [17, 500] {
        let mut watches = unread(&world, &operator, &scan.id, count / 2).await;
        watches.extend(unread(&world, &second, &scan.id, count - count / 2).await);
        // The credentials of watchers are checked every two seconds, while their streams read.
        let until = Instant::now() + Duration::from_secs(5);
        let mut slowest = Duration::ZERO;
        while Instant::now() < until {
            let began = Instant::now();
            let reported = node.report(&command, vec![device("10.0.0.1")]).await;
            reported.expect("is accepted");
            slowest = slowest.max(began.elapsed());
        }
        assert!(slowest < Duration::from_secs(5), "{count}: {slowest:?}");
        let mut open = 0;
        for mut watch in watches {
            if soon(watch.message())
                .await
                .is_ok_and(|message| message.is_some())
            {
                open += 1;
            }
        }
        assert_eq!(open, count, "no watcher was cut off");
    }
}
