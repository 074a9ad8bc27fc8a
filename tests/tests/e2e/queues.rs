//! One scan at a time per node: an upstream scan is refused as BUSY, other scans are queued.

use std::time::Duration;

use fleet_sim::Lab;
use fleet_wire::Timestamp;

use crate::harness::{Code, Expected, ScanState, World, range};

on_both_databases! {
    a_busy_node_refuses_upstream_scans_and_runs_queued_scans_in_order
    a_scan_waits_for_an_offline_node
}

async fn a_busy_node_refuses_upstream_scans_and_runs_queued_scans_in_order(world: World) {
    let node = world.node("barn", &["--rate", "60"]).await;
    let site = world.range.spread(12, 5, Duration::from_millis(20));
    let lab = Lab::start(site).await.expect("a site");
    let at = |number| world.range.address(number);
    let asked: Vec<_> = (1..=70).map(at).collect();
    let operator = &world.operator;

    let first = operator.start(node.id, range(at(1), at(70))).await.scan_id;
    operator.watch(&first, 0).await.next_device().await;
    let second = operator.start(node.id, range(at(1), at(20))).await.scan_id;
    let third = operator.start(node.id, range(at(21), at(40))).await.scan_id;
    let refused = operator.is_refused(node.id, range(at(1), at(5))).await;
    assert_eq!(refused.code, Code::ResourceExhausted, "{refused:?}");
    assert!(refused.message.contains("busy"), "{refused:?}");
    // All of this happens while the first scan runs.
    assert_eq!(operator.scan(&first).await.state(), ScanState::Running);
    for waiting in [&second, &third] {
        assert_eq!(operator.scan(waiting).await.state(), ScanState::Queued);
    }

    let mut free_since = None;
    for (scan, numbers) in [(&first, 0..70), (&second, 0..20), (&third, 20..40)] {
        let expected = Expected::of(lab.site(), node.id, asked[numbers].to_vec());
        expected.is_history_of(operator, scan).await;
        let scan = operator.scan(scan).await;
        let started = micros(scan.started_at.as_ref());
        assert!(free_since.is_none_or(|free| started >= free), "{scan:?}");
        free_since = Some(micros(scan.ended_at.as_ref()));
    }
    assert_eq!(
        operator.scan(&third).await.progress.map(|p| p.done),
        Some(20)
    );
}

async fn a_scan_waits_for_an_offline_node(world: World) {
    let mut node = world.node("barn", &[]).await;
    let lab = Lab::start(world.range.mixed(10)).await.expect("a site");
    assert!(node.terminate().await.success());
    let asked: Vec<_> = (1..=20).map(|n| world.range.address(n)).collect();
    let request = range(asked[0], asked[19]);
    let refused = world.operator.is_refused(node.id, request.clone()).await;
    assert_eq!(refused.code, Code::FailedPrecondition, "{refused:?}");

    let scan = world.operator.start(node.id, request).await;
    assert_eq!(scan.state(), ScanState::Queued);
    node.start(&world.server).await;
    let expected = Expected::of(lab.site(), node.id, asked);
    expected.is_history_of(&world.operator, &scan.scan_id).await;
}

fn micros(time: Option<&Timestamp>) -> i64 {
    let time = time.expect("a time");
    time.seconds * 1_000_000 + i64::from(time.nanos) / 1_000
}
