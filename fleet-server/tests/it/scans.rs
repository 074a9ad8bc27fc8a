//! Durable scans: retries, queues, lists.

use std::time::Duration;

use fleet_core::Role;
use fleet_wire::{
    Code,
    admin::RevokeFleetNodeRequest,
    fleet::{
        ListScanHostsRequest, ListScansRequest, PlanScanRequest, ScanPriority, StartScanRequest,
    },
    gateway::{AckCode, ControlAck, UnidentifiedHostReport, control_stream_request},
    pairing::{DiscoverRequest, discover_request::Mode},
};

use crate::harness::{
    Enrolled, Profile, Started, World, device, list, mdns, refused, start, start_as,
};

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
    let (first, retry) = (asked("10.0.0.1"), asked("10.0.0.1"));
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
    // Another organization may use the same id.
    let other = world.operator_of("Other", Role::Operator).await;
    let theirs = Enrolled::new(&world, &other).await;
    start_as(&other, &theirs, list(&["10.0.0.1"], &[]), "one")
        .await
        .expect("starts");
}

#[tokio::test(flavor = "multi_thread")]
async fn another_request_under_the_same_request_id_is_refused() {
    let world = World::new().await;
    let operator = world.operator(Role::Operator).await;
    let enrolled = Enrolled::new(&world, &operator).await;
    let other = Enrolled::new(&world, &operator).await;
    let first = StartScanRequest {
        request_id: "one".into(),
        fleet_node_id: enrolled.id.0,
        request: Some(list(&["10.0.0.1"], &["80"])),
        ..StartScanRequest::default()
    };
    let scans = operator.scans();
    let started = scans.start_scan(&first, operator.options()).await;
    let started = started.expect("starts").scan.expect("a scan").scan_id;
    let variants = [
        StartScanRequest {
            request: Some(list(&["10.0.0.2"], &["80"])),
            ..first.clone()
        },
        StartScanRequest {
            request: Some(list(&["10.0.0.1"], &["443"])),
            ..first.clone()
        },
        StartScanRequest {
            fleet_node_id: other.id.0,
            ..first.clone()
        },
        StartScanRequest {
            priority: ScanPriority::Scheduled.into(),
            ..first.clone()
        },
    ];
    for variant in variants {
        let error = refused(
            scans.start_scan(&variant, operator.options()).await,
            Code::AlreadyExists,
        );
        assert!(error.message.contains(&started), "{}", error.message);
    }
    let retry = scans.start_scan(&first, operator.options()).await;
    assert!(retry.expect("answers").existing, "a retry still works");
    // Of two different requests at the same moment, one is refused.
    let racing = |ip: &str| StartScanRequest {
        request_id: "two".into(),
        request: Some(list(&[ip], &[])),
        ..first.clone()
    };
    let (a, b) = (racing("10.0.0.1"), racing("10.0.0.2"));
    let (a, b) = tokio::join!(
        scans.start_scan(&a, operator.options()),
        scans.start_scan(&b, operator.options()),
    );
    let lost = match (a, b) {
        (Ok(_), Err(lost)) | (Err(lost), Ok(_)) => lost,
        other => panic!("one of two must be refused: {other:?}"),
    };
    assert_eq!(lost.code, Code::AlreadyExists, "{lost:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn at_most_sixteen_scans_wait_for_a_node() {
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
async fn interactive_scans_run_before_scheduled_ones() {
    let world = World::new().await;
    let operator = world.operator(Role::Operator).await;
    let enrolled = Enrolled::new(&world, &operator).await;
    let scheduled = StartScanRequest {
        request_id: "nightly".into(),
        fleet_node_id: enrolled.id.0,
        request: Some(list(&["10.0.0.1"], &["80"])),
        priority: ScanPriority::Scheduled.into(),
        ..StartScanRequest::default()
    };
    operator
        .scans()
        .start_scan(&scheduled, operator.options())
        .await
        .expect("starts");
    start(&operator, &enrolled, list(&["10.0.0.2"], &["80"])).await;
    let mut node = enrolled.connect(&world, Profile::upstream()).await;
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
async fn a_scan_waits_for_an_offline_node_until_its_queue_time_ends() {
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
    world.serve_for(Duration::from_secs(61)).await;
    let expired = Started::known(&operator, &hurried)
        .is("SCAN_STATE_EXPIRED")
        .await;
    assert_eq!(expired.code, "deadline_exceeded", "{}", expired.reason);
    let mut node = enrolled.connect(&world, Profile::upstream()).await;
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
async fn a_malformed_id_is_refused_with_its_field() {
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

#[tokio::test(flavor = "multi_thread")]
async fn an_mdns_scan_is_one_command_that_counts_every_address_of_the_nodes_subnets() {
    let world = World::new().await;
    let operator = world.operator(Role::Operator).await;
    let enrolled = Enrolled::new(&world, &operator).await;
    let mut profile = Profile::ours();
    profile.0.capabilities.push("mdns".to_owned());
    profile.0.local_subnets = vec!["10.9.0.0/29".to_owned(), "10.8.0.0/30".to_owned()];
    let mut node = enrolled.connect(&world, profile).await;
    let scan = start(&operator, &enrolled, mdns("_HTTP._tcp.local")).await;
    let (command, request) = node.command().await;
    let Some(Mode::Mdns(asked)) = request.mode else {
        panic!("not mDNS: {request:?}");
    };
    assert_eq!(
        (&*asked.service_type, &*asked.domain, asked.timeout_seconds),
        ("_http._tcp", "local", 5)
    );
    // 10.8.0.1 and .2, then 10.9.0.1 to .6: what is in none of them is refused at every port.
    let answer = node.report(&command, vec![device("10.9.0.2"), device("10.9.1.2")]);
    let answer = answer.await.expect("is taken");
    assert_eq!((answer.accepted_count, answer.rejected_count), (1, 1));
    node.say(control_stream_request::Kind::Ack(ControlAck {
        command_id: command,
        succeeded: true,
        code: AckCode::Ok.into(),
        outcomes: vec![1, 1, 1, 4, 1, 1, 3, 1].into(),
        ..ControlAck::default()
    }))
    .await;
    let ended = scan.is("SCAN_STATE_COMPLETED").await;
    let ledger = ended.ledger.expect("a ledger");
    assert_eq!(
        (ledger.targets, ledger.identified, ledger.unidentified),
        (12, 1, 1)
    );
    assert_eq!((ledger.silent, ledger.skipped), (6, 4));
    assert_eq!(
        (ledger.reported, ledger.accepted, ledger.rejected),
        (2, 1, 1)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn unidentified_hosts_are_listed_and_logged_apart_from_devices() {
    let world = World::new().await;
    let operator = world.operator(Role::Operator).await;
    let enrolled = Enrolled::new(&world, &operator).await;
    let mut node = enrolled.connect(&world, Profile::ours()).await;
    let asked = list(&["10.0.0.1", "10.0.0.2", "10.0.0.3"], &["4028"]);
    let scan = start(&operator, &enrolled, asked).await;
    let (command, _) = node.command().await;
    let host = |ip: &str| UnidentifiedHostReport {
        ip_address: ip.into(),
        mac_address: "e0:a5:09:00:00:07".into(),
        open_ports: vec![4_028],
        reply_port: 4_028,
        reply: "SSH-2.0-x".into(),
        requests: vec!["{\"command\":\"version\"}".into()],
        ..UnidentifiedHostReport::default()
    };
    let hosts = vec![
        host("10.0.0.2"),
        host("10.0.0.9"),
        host("10.0.0.x"),
        host("10.0.0.3"),
    ];
    let answer = node
        .report_with(&command, vec![device("10.0.0.1")], hosts)
        .await;
    let answer = answer.expect("accepted");
    assert_eq!((answer.accepted_count, answer.rejected_count), (1, 0));
    node.ack(&command, AckCode::Ok).await;
    let log: Vec<_> = scan
        .log(0)
        .await
        .into_iter()
        .map(|(_, about)| about)
        .collect();
    assert_eq!(
        log,
        [
            "10.0.0.1",
            "host 10.0.0.2",
            "host 10.0.0.3",
            "SCAN_STATE_COMPLETED"
        ]
    );
    let request = ListScanHostsRequest {
        scan_id: scan.id.clone(),
        limit: 1,
        cursor: 0,
    };
    let page = operator
        .scans()
        .list_scan_hosts(&request, operator.options())
        .await;
    let page = page.expect("answers");
    assert_ne!(page.next_cursor, 0);
    let [found] = page.hosts.as_slice() else {
        panic!("{page:?}");
    };
    assert_eq!(
        (&*found.ip, &*found.mac, &*found.reply, found.reply_port),
        ("10.0.0.2", "E0:A5:09:00:00:07", "SSH-2.0-x", 4_028)
    );
    assert!(
        found.vendor.to_lowercase().contains("bitmain"),
        "{}",
        found.vendor
    );
    assert_eq!(
        found.record_command,
        "fleetnode identify 10.0.0.2 --port 4028 --record 10-0-0-2.txt"
    );
    assert_eq!(scan.get().await.ledger.expect("a summary").rejected, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_scan_has_its_name_and_its_node_gets_the_rate() {
    let world = World::new().await;
    let operator = world.operator(Role::Operator).await;
    let enrolled = Enrolled::new(&world, &operator).await;
    let mut node = enrolled.connect(&world, Profile::ours()).await;
    let wanted = DiscoverRequest {
        max_rate: 500,
        ..list(&["172.17.0.5", "10.0.0.1"], &["80", "9100"])
    };
    let plan = PlanScanRequest {
        fleet_node_id: enrolled.id.0,
        request: Some(wanted.clone()),
        ..PlanScanRequest::default()
    };
    let plan = operator.scans().plan_scan(&plan, operator.options()).await;
    let plan = plan.expect("a plan");
    assert_eq!((plan.rate, plan.targets), (500, 2));
    assert!(plan.packets >= 4, "{}", plan.packets);
    let named = |part: &str| plan.warnings.iter().any(|warning| warning.contains(part));
    assert!(named("172.17.0.0/16") && named("port 9100"), "{plan:?}");
    let request = StartScanRequest {
        request_id: "named".into(),
        fleet_node_id: enrolled.id.0,
        name: "north rack".into(),
        request: Some(wanted),
        ..StartScanRequest::default()
    };
    let scans = operator.scans();
    let started = scans.start_scan(&request, operator.options()).await;
    let scan = started.expect("starts").scan.expect("a scan");
    assert_eq!(scan.name, "north rack");
    assert_eq!(scan.request.expect("a request").max_rate, 500);
    let (_, sent) = node.command().await;
    assert_eq!(sent.max_rate, 500);
}
