//! Invalid scan requests: each refusal names the offending value and what would be accepted.

use fleet_core::Role;
use fleet_wire::{
    Code, Duration, RpcError,
    fleet::{PlanScanRequest, PlanScanResponse, StartScanRequest},
    pairing::DiscoverRequest,
};

use crate::harness::{
    Enrolled, Operator, Profile, World, list, mdns, range, refused, start_as, target,
};

async fn plan(
    operator: &Operator,
    node: i64,
    request: DiscoverRequest,
) -> Result<PlanScanResponse, RpcError> {
    let request = PlanScanRequest {
        fleet_node_id: node,
        request: Some(request),
        ..PlanScanRequest::default()
    };
    operator
        .scans()
        .plan_scan(&request, operator.options())
        .await
}

#[tokio::test(flavor = "multi_thread")]
async fn every_refusal_names_the_offending_value_and_a_remedy() {
    use Code::{FailedPrecondition, InvalidArgument};
    let world = World::new().await;
    let operator = world.operator(Role::Operator).await;
    let enrolled = Enrolled::new(&world, &operator).await;
    let _node = enrolled.connect(&world, Profile::upstream()).await;
    let wide: Vec<String> = (1..=65).map(|port: u16| port.to_string()).collect();
    let wide: Vec<&str> = wide.iter().map(String::as_str).collect();
    let one = &["10.0.0.1"];
    let table = [
        (list(&[], &[]), InvalidArgument, "empty", "at least one"),
        (
            list(&["10.0.0.1", "8.8.8.8"], &[]),
            InvalidArgument,
            "8.8.8.8",
            "private",
        ),
        (
            list(&["127.0.0.1"], &[]),
            InvalidArgument,
            "127.0.0.1",
            "private",
        ),
        (
            list(&["169.254.169.254"], &[]),
            InvalidArgument,
            "169.254.169.254",
            "private",
        ),
        (
            list(&["100.64.0.1"], &[]),
            InvalidArgument,
            "100.64.0.1",
            "private",
        ),
        (
            list(&["::ffff:8.8.8.8"], &[]),
            InvalidArgument,
            "8.8.8.8",
            "private",
        ),
        (
            list(&["fd00:ec2::254"], &[]),
            InvalidArgument,
            "fd00:ec2::254",
            "private",
        ),
        (
            list(&["fe80::1%eth0"], &[]),
            InvalidArgument,
            "fe80::1%eth0",
            "private",
        ),
        (
            list(&["miner.example"], &[]),
            FailedPrecondition,
            "miner.example",
            "address",
        ),
        (list(one, &["80/tcp"]), InvalidArgument, "80/tcp", "1"),
        (list(one, &["0"]), InvalidArgument, "`0`", "65535"),
        (list(one, &["70000"]), InvalidArgument, "70000", "65535"),
        (list(one, &[""]), InvalidArgument, "``", "65535"),
        (list(one, &wide), InvalidArgument, "65", "64"),
        (
            range("10.0.0.9", "10.0.0.1", &[]),
            InvalidArgument,
            "10.0.0.9",
            "exchange",
        ),
        (
            range("10.0.0", "10.0.0.1", &[]),
            InvalidArgument,
            "`10.0.0`",
            "four decimals",
        ),
        (
            range("10.0.0.1", "11.0.0.1", &[]),
            InvalidArgument,
            "11.0.0.1",
            "private",
        ),
        (
            range("10.0.0.1", "10.2.0.1", &[]),
            InvalidArgument,
            "10.0.0.1",
            "65536",
        ),
        (target("", &[]), InvalidArgument, "``", "write"),
        (
            target("-oN/tmp/x", &[]),
            InvalidArgument,
            "-oN/tmp/x",
            "letter or a digit",
        ),
        (
            target("10.0.0.1;ls", &[]),
            InvalidArgument,
            "10.0.0.1;ls",
            "separate targets",
        ),
        (target("10.0.0.1$x", &[]), InvalidArgument, "`$`", "only"),
        (
            target("010.8.8.8", &[]),
            InvalidArgument,
            "010.8.8.8",
            "four decimals",
        ),
        (
            target("999.1.1.1", &[]),
            InvalidArgument,
            "999.1.1.1",
            "four decimals",
        ),
        (
            target("0x0a000001", &[]),
            InvalidArgument,
            "0x0a000001",
            "write",
        ),
        (
            target("10.0.0.0/022", &[]),
            InvalidArgument,
            "10.0.0.0/022",
            "/24",
        ),
        (
            target("10.0.0.0/8", &[]),
            InvalidArgument,
            "10.0.0.0/8",
            "/16",
        ),
        (
            target("fd00::/64", &[]),
            InvalidArgument,
            "fd00::/64",
            "list the IPv6",
        ),
        (
            target("8.8.8.0/24", &[]),
            InvalidArgument,
            "8.8.8.0/24",
            "private",
        ),
        (
            target("10.0.0.9-5", &[]),
            InvalidArgument,
            "10.0.0.9-5",
            "10.0.0.5-20",
        ),
        (
            mdns("_http._tcp"),
            FailedPrecondition,
            "mDNS",
            "scan addresses",
        ),
    ];
    for (request, code, names, hints) in table {
        let planned = plan(&operator, enrolled.id.0, request.clone()).await;
        let refusal = refused(planned, code);
        assert!(refusal.message.contains(names), "{names}: {refusal}");
        assert!(refusal.message.contains(hints), "{hints}: {refusal}");
        let started = start_as(&operator, &enrolled, request, names).await;
        let started = started.expect_err("is refused");
        // The metadata contains the date of each answer.
        assert_eq!(
            (started.code, started.message, started.details),
            (refusal.code, refusal.message, refusal.details),
            "both say the same"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unsupported_mdns_scan_is_refused_with_a_remedy() {
    use Code::{FailedPrecondition, InvalidArgument};
    let world = World::new().await;
    let operator = world.operator(Role::Operator).await;
    let enrolled = Enrolled::new(&world, &operator).await;
    let mut profile = Profile::ours();
    profile.0.capabilities.push("mdns".to_owned());
    let node = enrolled.connect(&world, profile.clone()).await;
    for (service, code, names) in [
        ("http", InvalidArgument, "`http`"),
        ("_http._tcp", FailedPrecondition, "announced none"),
    ] {
        let planned = plan(&operator, enrolled.id.0, mdns(service)).await;
        let refusal = refused(planned, code);
        assert!(refusal.message.contains(names), "{names}: {refusal}");
    }
    drop(node);
    profile.0.local_subnets = vec!["10.9.0.0/24".to_owned()];
    let _node = enrolled.connect(&world, profile).await;
    let planned = plan(&operator, enrolled.id.0, mdns(""))
        .await
        .expect("a plan");
    assert_eq!((planned.targets, planned.commands), (256, 1));
    let notes = planned.notes.join("; ");
    assert!(
        notes.contains("_http._tcp") && notes.contains("silent"),
        "{notes}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plan_uses_the_announced_rate_and_policy_and_names_the_scans_ahead() {
    let world = World::new().await;
    let operator = world.operator(Role::Operator).await;
    let enrolled = Enrolled::new(&world, &operator).await;
    let mut profile = Profile::ours();
    let node = enrolled.connect(&world, profile.clone()).await;
    let seconds = |plan: &PlanScanResponse| plan.estimate.expect("an estimate").seconds;
    let network = || target("10.0.0.0/20", &[]);
    let usual = plan(&operator, enrolled.id.0, network()).await;
    let usual = usual.expect("a plan");
    assert!(usual.notes.is_empty(), "{:?}", usual.notes);
    drop(node);
    profile.0.rate = 500;
    profile.0.denied_ports = vec!["22".to_owned()];
    profile.0.allowed_networks = vec!["10.0.0.0/21".to_owned()];
    let mut node = enrolled.connect(&world, profile).await;
    let slow = plan(&operator, enrolled.id.0, network()).await;
    let slow = slow.expect("a plan");
    // A tenth of the rate, and half of the addresses.
    assert!(
        seconds(&slow) >= 4 * seconds(&usual) - 4,
        "{slow:?} {usual:?}"
    );
    let notes = slow.notes.join("; ");
    assert!(
        notes.contains("22") && notes.contains("10.0.8.0"),
        "{notes}"
    );
    let started = start_as(&operator, &enrolled, network(), "first").await;
    started.expect("starts");
    let _command = node.command().await;
    let behind = plan(&operator, enrolled.id.0, network()).await;
    let notes = behind.expect("a plan").notes.join("; ");
    assert!(
        notes.contains("another scan of this node has not ended"),
        "{notes}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_without_a_mode_or_with_an_invalid_queue_time_are_refused() {
    let world = World::new().await;
    let operator = world.operator(Role::Operator).await;
    let enrolled = Enrolled::new(&world, &operator).await;
    let error = plan(&operator, enrolled.id.0, DiscoverRequest::default())
        .await
        .expect_err("is refused");
    assert_eq!(error.code, Code::InvalidArgument, "{error}");
    assert!(error.message.contains("mode"), "{error}");
    for seconds in [0, -1, 7 * 24 * 3_600 + 1] {
        let request = StartScanRequest {
            request_id: "one".into(),
            fleet_node_id: enrolled.id.0,
            request: Some(list(&["10.0.0.1"], &[])),
            queue_for: Some(Duration { seconds, nanos: 0 }),
            ..StartScanRequest::default()
        };
        let answer = operator
            .scans()
            .start_scan(&request, operator.options())
            .await;
        let error = refused(answer, Code::InvalidArgument);
        assert!(error.message.contains(&seconds.to_string()), "{error}");
        assert!(error.message.contains("604800"), "{error}");
    }
    let answer = plan(&operator, 4_711, list(&["10.0.0.1"], &[])).await;
    let error = refused(answer, Code::NotFound);
    assert!(error.message.contains("4711"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plan_counts_without_storing_anything() {
    let world = World::new().await;
    let operator = world.operator(Role::Operator).await;
    let enrolled = Enrolled::new(&world, &operator).await;
    let planned = plan(
        &operator,
        enrolled.id.0,
        target("10.0.0.0/24", &["80", "80", "22"]),
    )
    .await
    .expect("plans");
    assert_eq!(
        (planned.targets, planned.skipped, planned.commands),
        (256, 2, 1)
    );
    assert_eq!(planned.ports.len(), 2, "{:?}", planned.ports);
    let listed = operator
        .scans()
        .list_scans(&Default::default(), operator.options())
        .await
        .expect("lists");
    assert_eq!(listed.scans, []);
}
