//! Scans in each mode, compared with the simulator's description of the site, and results that arrive live.

use std::{net::Ipv4Addr, time::Duration};

use fleet_sim::Lab;
use fleet_wire::pairing::{DiscoverRequest, MdnsModeRequest, discover_request::Mode};

use crate::harness::{Code, Expected, ScanState, World, adds_up, list, range, target};

on_both_databases! {
    a_scan_in_each_mode_finds_exactly_the_existing_devices
    devices_arrive_while_the_scan_runs
    the_upstream_discovery_rpc_streams_the_devices_of_its_scan
    a_node_refuses_a_command_that_its_site_policy_forbids
    the_refusal_of_an_invalid_request_names_the_invalid_part
}

async fn a_scan_in_each_mode_finds_exactly_the_existing_devices(world: World) {
    let here = world.range;
    let at = |number| here.address(number);
    let all =
        |numbers: std::ops::RangeInclusive<u16>| -> Vec<Ipv4Addr> { numbers.map(at).collect() };
    let subnet = here.network(26);
    let node = world.node("barn", &["--local-subnet", &subnet]).await;
    let lab = Lab::start(here.mixed(40)).await.expect("a site");
    let last_of = |number: u16| format!("{}-{}", at(number), (number + 8) & 0xff);

    let cases: [(DiscoverRequest, Vec<Ipv4Addr>, u64); 7] = [
        (target(&subnet), all(1..=62), 2),
        (target("fleetnode-local-subnet"), all(1..=62), 2),
        (target(last_of(7)), all(7..=15), 0),
        (target(at(3)), all(3..=3), 0),
        (range(at(2), at(21)), all(2..=21), 0),
        (list([9, 70, 4, 9].map(at)), [4, 9, 70].map(at).to_vec(), 0),
        (range(at(100), at(120)), all(100..=120), 0),
    ];
    for (request, asked, skipped) in cases {
        let expected = Expected::of(lab.site(), node.id, asked).skipping(skipped);
        let scan = world.operator.start(node.id, request).await.scan_id;
        expected.is_history_of(&world.operator, &scan).await;
    }
    let per_host = lab.journal().max_concurrent_per_host();
    assert!(per_host <= 2, "{per_host} connections to a host at a time");
}

async fn devices_arrive_while_the_scan_runs(world: World) {
    let node = world.node("barn", &["--rate", "40"]).await;
    // 60 addresses on two ports at 40 probes per second take three seconds.
    let site = world.range.spread(10, 6, Duration::from_millis(50));
    let lab = Lab::start(site).await.expect("a site");
    let asked: Vec<Ipv4Addr> = (1..=60).map(|n| world.range.address(n)).collect();
    let request = range(asked[0], asked[59]);
    let scan = world.operator.start(node.id, request).await.scan_id;

    let mut watch = world.operator.watch(&scan, 0).await;
    watch.next_device().await;
    let meanwhile = world.operator.scan(&scan).await;
    assert_eq!(meanwhile.state(), ScanState::Running);
    assert!(meanwhile.ledger.is_none(), "{meanwhile:?}");
    assert!(!world.operator.devices().await.is_empty());

    let expected = Expected::of(lab.site(), node.id, asked);
    expected.is_history_of(&world.operator, &scan).await;
}

async fn the_upstream_discovery_rpc_streams_the_devices_of_its_scan(world: World) {
    let node = world.node("barn", &["--rate", "60"]).await;
    let site = world.range.spread(10, 4, Duration::from_millis(20));
    let lab = Lab::start(site).await.expect("a site");
    let asked: Vec<Ipv4Addr> = (1..=60).map(|n| world.range.address(n)).collect();
    let request = list(asked.iter());
    let mut stream = world.operator.discover(node.id, request).await;
    let scan = stream
        .headers()
        .and_then(|headers| headers.get("fleet-scan-id")?.to_str().ok())
        .expect("the scan's id is in a header")
        .to_owned();

    let mut found = Vec::new();
    let mut seen_running = false;
    while let Some(message) = stream.message().await.expect("a stream that ends well") {
        let response = message.response.expect("a response");
        assert_eq!(response.error, "");
        let before = found.len();
        found.extend(response.devices.into_iter().map(|device| device.ip_address));
        if found.len() > before && !seen_running {
            seen_running = world.operator.scan(&scan).await.state() == ScanState::Running;
        }
    }
    assert!(seen_running, "devices come while the scan runs");
    let expected = Expected::of(lab.site(), node.id, asked);
    let history = expected.is_history_of(&world.operator, &scan).await;
    let logged: Vec<String> = history.devices().map(|device| device.ip.clone()).collect();
    assert_eq!(found, logged);
}

async fn a_node_refuses_a_command_that_its_site_policy_forbids(world: World) {
    let allowed = world.range.network(28);
    let node = world.node("barn", &["--allow-network", &allowed]).await;
    let lab = Lab::start(world.range.mixed(20)).await.expect("a site");
    let outside = world.range.address(200);
    let scan = world.operator.start(node.id, list([outside])).await;

    let history = world.operator.history(&scan.scan_id).await;
    let ledger = history.ended_as(ScanState::Failed);
    adds_up(ledger);
    let ended = history.ended();
    assert_eq!(ended.code, "failed_precondition");
    assert!(
        ended.reason.contains(&outside.to_string()),
        "{}",
        ended.reason
    );
    assert_eq!(lab.journal().count(), 0, "nothing was dialed");

    // Beside an allowed target, it is skipped and named, and the other is scanned.
    let request = list([world.range.address(1), outside]);
    let scan = world.operator.start(node.id, request).await;
    let history = world.operator.history(&scan.scan_id).await;
    let ledger = history.ended_as(ScanState::Completed);
    adds_up(ledger);
    assert_eq!(ledger.skipped, 1, "{ledger:?}");
    let events = format!("{:?}", history.events());
    assert!(events.contains(&outside.to_string()), "{events}");
}

async fn the_refusal_of_an_invalid_request_names_the_invalid_part(world: World) {
    let node = world.node("barn", &[]).await;
    let mdns = DiscoverRequest {
        mode: Some(Mode::Mdns(MdnsModeRequest {
            service_type: "http".to_owned(),
            ..MdnsModeRequest::default()
        })),
        max_rate: 0,
    };
    for (request, code, named) in [
        (target("8.8.8.0/24"), Code::InvalidArgument, "8.8.8.0"),
        (target("010.8.8.8"), Code::InvalidArgument, "010.8.8.8"),
        (target("10.0.0.0/8"), Code::InvalidArgument, "/8"),
        (
            target("miner.localhost"),
            Code::InvalidArgument,
            "miner.localhost",
        ),
        (
            range("10.0.0.9", "10.0.0.3"),
            Code::InvalidArgument,
            "10.0.0.3",
        ),
        (
            list(["10.0.0.1", "10.0.0.300"]),
            Code::InvalidArgument,
            "10.0.0.300",
        ),
        (list::<String>([]), Code::InvalidArgument, "empty"),
        (mdns, Code::InvalidArgument, "_http._tcp"),
    ] {
        let refused = world.operator.is_refused(node.id, request.clone()).await;
        assert_eq!(refused.code, code, "{refused:?}");
        assert!(
            refused.message.to_lowercase().contains(named),
            "{refused:?}"
        );
        let refused = world.operator.try_start(node.id, request).await;
        assert_eq!(refused.expect_err(named).code, code);
    }
    let listed = world
        .fleetctl(&["scan", "list", "-o", "ndjson"])
        .await
        .succeeded();
    assert_eq!(listed, "", "nothing was stored");
}
