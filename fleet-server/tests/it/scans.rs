//! Durable scans: retries, queues, lists.

use std::time::Duration;

use fleet_core::Role;
use fleet_wire::{
    Code,
    admin::RevokeFleetNodeRequest,
    fleet::{ListScansRequest, ScanLane, StartScanRequest},
    gateway::AckCode,
    pairing::discover_request::Mode,
};

use crate::harness::{Enrolled, Profile, Started, World, list, refused, start, start_as};

#[tokio::test(flavor = "multi_thread")]
async fn a_retry_under_the_same_request_id_never_starts_a_second_scan() {
    let world = World::new().await;
    let operator = world.operator(Role::Operator).await;
    let enrolled = Enrolled::new(&world, &operator).await;
    let asked = |ip: &str| StartScanRequest {
        request_id: "one".into(),
        fleet_node_id: enrolled.id.0,
        request: Some(list(&[ip], &[])),
        ..StartScanRequest::default()
    };
    let scans = operator.scans();
    let (first, retry) = (asked("10.0.0.1"), asked("10.0.0.2"));
    let (first, retry) = tokio::join!(
        scans.start_scan(&first, operator.options()),
        scans.start_scan(&retry, operator.options()),
    );
    let (first, retry) = (first.expect("answers"), retry.expect("answers"));
    assert_ne!(
        first.existing, retry.existing,
        "one of them was there before"
    );
    let made = first.scan.expect("a scan").scan_id;
    assert_eq!(made, retry.scan.expect("a scan").scan_id);
    // Also when the node could not take it any more.
    let revoke = RevokeFleetNodeRequest {
        fleet_node_id: enrolled.id.0,
        pending_enrollment_id: None,
    };
    let revoked = operator
        .admin()
        .revoke_fleet_node(&revoke, operator.options())
        .await;
    revoked.expect("is revoked");
    let late = scans
        .start_scan(&asked("10.0.0.1"), operator.options())
        .await;
    let late = late.expect("answers");
    assert!(late.existing);
    assert_eq!(late.scan.expect("a scan").scan_id, made);
    // Another organization may choose the same id.
    let other = world.operator_of("Other", Role::Operator).await;
    let theirs = Enrolled::new(&world, &other).await;
    start_as(&other, &theirs, list(&["10.0.0.1"], &[]), "one")
        .await
        .expect("starts");
}

#[tokio::test(flavor = "multi_thread")]
async fn sixteen_scans_wait_for_a_node_and_no_more() {
    let world = World::new().await;
    let operator = world.operator(Role::Operator).await;
    let enrolled = Enrolled::new(&world, &operator).await;
    for _ in 0..16 {
        start(&operator, &enrolled, list(&["10.0.0.1"], &[])).await;
    }
    let more = start_as(&operator, &enrolled, list(&["10.0.0.1"], &[]), "more").await;
    let error = refused(more, Code::ResourceExhausted);
    assert!(error.message.contains("16"), "{error}");
    assert!(error.message.contains("cancel one"), "{error}");
    // Another node's queue is its own.
    let other = Enrolled::new(&world, &operator).await;
    start(&operator, &other, list(&["10.0.0.1"], &[])).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn interactive_scans_go_before_scheduled_ones() {
    let world = World::new().await;
    let operator = world.operator(Role::Operator).await;
    let enrolled = Enrolled::new(&world, &operator).await;
    let scheduled = StartScanRequest {
        request_id: "nightly".into(),
        fleet_node_id: enrolled.id.0,
        request: Some(list(&["10.0.0.1"], &["80"])),
        lane: ScanLane::Scheduled.into(),
        ..StartScanRequest::default()
    };
    operator
        .scans()
        .start_scan(&scheduled, operator.options())
        .await
        .expect("starts");
    start(&operator, &enrolled, list(&["10.0.0.2"], &["80"])).await;
    let mut node = enrolled.connect(&world, Profile::stock()).await;
    let mut order = Vec::new();
    for _ in 0..2 {
        let (command, request) = node.command().await;
        if let Some(Mode::IpList(list)) = request.mode {
            order.extend(list.ip_addresses);
        }
        node.ack(&command, AckCode::Ok).await;
    }
    assert_eq!(order, ["10.0.0.2", "10.0.0.1"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_scan_waits_for_an_offline_node_until_its_time_is_over() {
    let world = World::new().await;
    let operator = world.operator(Role::Operator).await;
    let enrolled = Enrolled::new(&world, &operator).await;
    let waits = start(&operator, &enrolled, list(&["10.0.0.1"], &["80"])).await;
    assert_eq!(waits.get().await.state().as_str_name(), "SCAN_STATE_QUEUED");
    let hurried = StartScanRequest {
        request_id: "hurried".into(),
        fleet_node_id: enrolled.id.0,
        request: Some(list(&["10.0.0.1"], &["80"])),
        queue_for: Some(fleet_wire::Duration {
            seconds: 60,
            nanos: 0,
        }),
        ..StartScanRequest::default()
    };
    let hurried = operator
        .scans()
        .start_scan(&hurried, operator.options())
        .await;
    let hurried = hurried.expect("starts").scan.expect("a scan").scan_id;
    world.clock.pass(Duration::from_secs(61));
    let expired = Started::known(&operator, &hurried)
        .is("SCAN_STATE_EXPIRED")
        .await;
    assert_eq!(expired.code, "deadline_exceeded", "{}", expired.reason);
    let mut node = enrolled.connect(&world, Profile::stock()).await;
    let (command, _) = node.command().await;
    node.ack(&command, AckCode::Ok).await;
    waits.is("SCAN_STATE_COMPLETED").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn scans_are_listed_newest_first_page_by_page() {
    let world = World::new().await;
    let operator = world.operator(Role::Operator).await;
    let enrolled = Enrolled::new(&world, &operator).await;
    let mut started = Vec::new();
    for _ in 0..5 {
        world.clock.pass(Duration::from_millis(2));
        let scan = start(&operator, &enrolled, list(&["10.0.0.1"], &[])).await;
        started.push(scan.id);
    }
    started.reverse();
    let (mut listed, mut before) = (Vec::new(), String::new());
    loop {
        let request = ListScansRequest {
            limit: 2,
            before,
            ..ListScansRequest::default()
        };
        let page = operator
            .scans()
            .list_scans(&request, operator.options())
            .await
            .expect("lists");
        assert!(page.scans.len() <= 2);
        listed.extend(page.scans.into_iter().map(|scan| scan.scan_id));
        before = page.next_before;
        if before.is_empty() {
            break;
        }
    }
    assert_eq!(listed, started);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_id_that_is_none_is_refused_by_name() {
    let world = World::new().await;
    let operator = world.operator(Role::Operator).await;
    let request = fleet_wire::fleet::GetScanRequest {
        scan_id: "nonsense".into(),
    };
    let answer = operator
        .scans()
        .get_scan(&request, operator.options())
        .await;
    let error = refused(answer, Code::InvalidArgument);
    assert!(error.message.contains("nonsense"), "{error}");
}
