//! Commands of the node itself: a scan without a server, the site policy, and the halt switch.

use std::time::Duration;

use fleet_sim::Lab;
use serde_json::Value;

use crate::harness::{ScanState, World, binary, eventually, list, range, run};

on_both_databases! {
    a_node_scans_without_a_server
    a_halted_node_scans_nothing_until_it_is_resumed
    a_halt_stops_a_scan_without_a_server
}

/// No connection may start later than this after a halt.
const STOPS: Duration = Duration::from_secs(1);

async fn a_node_scans_without_a_server(world: World) {
    let lab = Lab::start(world.range.mixed(8)).await.expect("a site");
    let folder = world.folder().join("alone");
    std::fs::create_dir(&folder).expect("a folder");
    let (first, last) = (world.range.address(1), world.range.address(12));
    let octet = last.octets()[3];
    let target = format!("{first}-{octet}");
    let mut command = binary("fleetnode", &folder);
    command.args(["scan", &target, "--demo-allow-loopback", "-o", "ndjson"]);
    for port in lab.site().ports() {
        command.args(["--port", &port.to_string()]);
    }
    let scanned = run(command).await;
    let lines: Vec<Value> = scanned
        .stdout
        .lines()
        .map(|line| serde_json::from_str(line).expect(line))
        .collect();
    let ledger = lines.last().expect("a last line");
    assert_eq!(ledger["type"], "ledger", "{scanned:?}");
    assert_eq!(ledger["targets"], 12);
    let devices = lines.iter().filter(|line| line["type"] == "device");
    assert_eq!(ledger["reported"], devices.count() as u64);
    assert_eq!(
        [
            "identified",
            "unidentified",
            "refused",
            "silent",
            "skipped",
            "not_reached"
        ]
        .iter()
        .filter_map(|part| ledger[*part].as_u64())
        .sum::<u64>(),
        12,
        "{ledger}"
    );
    assert!(ledger["identified"].as_u64() > Some(0), "{ledger}");
    let expected = if ledger["outcome"] == "completed" {
        0
    } else {
        2
    };
    assert_eq!(scanned.status, expected, "{scanned:?}");

    // One JSON document.
    let mut command = binary("fleetnode", &folder);
    command.args([
        "scan",
        &first.to_string(),
        "--demo-allow-loopback",
        "-o",
        "json",
    ]);
    let port = lab.site().ports()[0].to_string();
    command.args(["--port", &port]);
    let scanned = run(command).await;
    let document: Value = serde_json::from_str(&scanned.stdout).expect("one document");
    assert_eq!(document["ledger"]["targets"], 1, "{document}");
    assert!(document["devices"].is_array() && document["warnings"].is_array());

    // Table output, and a target that cannot be scanned.
    let mut command = binary("fleetnode", &folder);
    let one = first.to_string();
    command.args(["scan", &one, "--demo-allow-loopback", "--port", "4028"]);
    let shown = run(command).await;
    assert!(shown.stdout.starts_with("Address"), "{shown:?}");
    let mut command = binary("fleetnode", &folder);
    command.args(["scan", "8.8.8.8"]);
    let refused = run(command).await;
    assert_eq!(refused.status, 64, "{refused:?}");
    assert!(refused.stderr.contains("8.8.8.8"), "{refused:?}");

    let mut command = binary("fleetnode", &folder);
    command
        .env("FLEETNODE_ALLOW_NETWORK", "10.0.0.0/24,10.1.0.0/24")
        .args([
            "policy",
            "check",
            "10.1.0.7:4028",
            "10.2.0.7",
            "--deny-port",
            "22",
        ]);
    let checked = run(command).await;
    assert_eq!(checked.status, 1, "{checked:?}");
    let lines: Vec<&str> = checked.stdout.lines().collect();
    assert!(lines[0].contains("10.1.0.0/24"), "{checked:?}");
    assert!(lines[1].contains("forbidden"), "{checked:?}");
}

async fn a_halted_node_scans_nothing_until_it_is_resumed(world: World) {
    let node = world.node("barn", &["--rate", "100"]).await;
    let site = world.range.crowd(600, Duration::from_millis(50));
    let lab = Lab::start(site).await.expect("a site");
    let journal = lab.journal();
    let switch = async |arguments: &[&str]| {
        let mut command = binary("fleetnode", world.folder());
        command.args(arguments).arg("--state-dir").arg(node.state());
        run(command).await.succeeded()
    };
    let request = range(world.range.address(1), world.range.address(600));
    let scan = world.operator.start(node.id, request).await.scan_id;
    let mut watch = world.operator.watch(&scan, 0).await;
    watch.next_device().await;

    switch(&["halt", "--reason", "new switch"]).await;
    let stops_by = journal.now() + STOPS;
    assert!(switch(&["status"]).await.contains("new switch"));
    eventually("the halt in the list", async || {
        let node = world.operator.node_named("barn").await;
        (node.halted && node.halt_reason == "new switch").then_some(())
    })
    .await;
    let mut alone = binary("fleetnode", world.folder());
    alone
        .args(["scan", "10.0.0.7", "--state-dir"])
        .arg(node.state());
    let refused = run(alone).await;
    assert_eq!(refused.status, 77, "{refused:?}");
    assert!(refused.stderr.contains("new switch"), "{refused:?}");
    let history = world.operator.history(&scan).await;
    let ledger = history.ended_as(ScanState::Partial);
    assert!(ledger.not_reached > 0, "{ledger:?}");
    let why = &history.ended().reason;
    assert!(why.contains("halted"), "{why}");

    let one = || list([world.range.address(1)]);
    let scan = world.operator.start(node.id, one()).await.scan_id;
    let history = world.operator.history(&scan).await;
    history.ended_as(ScanState::Failed);
    let why = &history.ended().reason;
    assert!(why.contains("new switch"), "{why}");
    eventually("a while to watch", async || {
        (journal.now() > stops_by + STOPS).then_some(())
    })
    .await;
    assert_eq!(journal.connections_since(stops_by), []);

    switch(&["resume"]).await;
    eventually("a scan again", async || {
        let scan = world.operator.start(node.id, one()).await.scan_id;
        let history = world.operator.history(&scan).await;
        (history.ended().state() == ScanState::Completed).then_some(())
    })
    .await;
}

async fn a_halt_stops_a_scan_without_a_server(world: World) {
    let site = world.range.crowd(200, Duration::from_millis(50));
    let lab = Lab::start(site).await.expect("a site");
    let journal = lab.journal();
    let folder = world.folder().join("alone");
    std::fs::create_dir(&folder).expect("a folder");
    let target = format!("{}-200", world.range.address(1));
    let mut scan = binary("fleetnode", &folder);
    scan.args(["scan", &target, "--demo-allow-loopback", "--rate", "20"]);
    for port in lab.site().ports() {
        scan.args(["--port", &port.to_string()]);
    }
    scan.arg("--state-dir").arg(&folder);
    let scanning = tokio::spawn(run(scan));
    eventually("a first connection", async || {
        (journal.count() > 0).then_some(())
    })
    .await;

    let mut halt = binary("fleetnode", &folder);
    halt.args(["halt", "--reason", "new switch", "--state-dir"]);
    halt.arg(&folder);
    run(halt).await.succeeded();
    let stops_by = journal.now() + STOPS;
    let stopped = scanning.await.expect("no panic");
    assert_eq!(stopped.status, 77, "{stopped:?}");
    assert!(stopped.stderr.contains("new switch"), "{stopped:?}");
    assert!(stopped.stdout.contains("not reached"), "{stopped:?}");
    assert_eq!(journal.connections_since(stops_by), []);
}
