//! Exports of devices and scans, and the targets for Prometheus.

use std::collections::BTreeSet;

use fleet_core::Role;
use fleet_wire::gateway::{AckCode, DiscoveredDeviceReport, UnidentifiedHostReport};
use serde_json::Value;

use crate::harness::{
    Enrolled, Http, Operator, Profile, World, device, list, on_both_databases, request, start,
};

on_both_databases! {
    an_export_has_every_device_and_scan_in_each_format
    the_unidentified_hosts_of_a_scan_are_exported_in_each_format
}

/// More than a page of an export.
const DEVICES: u32 = 600;

async fn get(world: &World, operator: &Operator, path: &str) -> Http {
    let bearer = format!("Bearer {}", operator.key);
    let headers = [("authorization", bearer.as_str())];
    let mut answer = request(world.address(), "GET", path, &headers, "").await;
    answer.read_file().await;
    answer
}

async fn export(world: &World, operator: &Operator, path: &str) -> String {
    let answer = get(world, operator, path).await;
    assert_eq!(answer.status, 200, "{}", answer.body);
    answer.body
}

async fn an_export_has_every_device_and_scan_in_each_format(url: &str) {
    let world = World::at(url).await;
    let operator = world.operator(Role::Operator).await;
    let enrolled = Enrolled::new(&world, &operator).await;
    let mut node = enrolled.connect(&world, Profile::ours()).await;
    let scan = start(
        &operator,
        &enrolled,
        list(&["10.0.0.0-10.0.3.255"], &["4028"]),
    )
    .await;
    let (command, _) = node.command().await;
    let reports: Vec<DiscoveredDeviceReport> = (0..DEVICES)
        .map(|n| DiscoveredDeviceReport {
            model: "=HYPERLINK(\"x\")".to_owned(),
            host_name: "Miner7.lan.".to_owned(),
            host_name_source: "dns".to_owned(),
            ..device(&format!("10.0.{}.{}", n / 256, n % 256))
        })
        .collect();
    node.report(&command, reports).await.expect("answered");
    node.ack(&command, AckCode::Ok).await;
    scan.is("SCAN_STATE_COMPLETED").await;

    let csv = export(&world, &operator, "/api/export/devices.csv").await;
    let mut lines = csv.lines();
    let head = lines.next().expect("a header");
    assert!(head.starts_with("deviceId,identifier,ip,port,"), "{head}");
    let identifiers: BTreeSet<&str> = lines.clone().filter_map(|l| l.split(',').nth(1)).collect();
    assert_eq!(identifiers.len(), DEVICES as usize);
    assert!(
        lines.all(|line| line.contains(",\"'=HYPERLINK(\"\"x\"\")\",")
            && line.ends_with(",miner7.lan,dns")),
        "{csv}"
    );

    let json = export(&world, &operator, "/api/export/devices.json").await;
    let json: Vec<Value> = serde_json::from_str(&json).expect("a document");
    let lines = export(&world, &operator, "/api/export/devices.ndjson").await;
    let lines: Vec<Value> = lines
        .lines()
        .map(|line| serde_json::from_str(line).expect("a line"))
        .collect();
    assert_eq!(json.len(), DEVICES as usize);
    assert_eq!(json, lines);
    let other = format!("/api/export/devices.ndjson?node={}", enrolled.id.0 + 1);
    assert_eq!(export(&world, &operator, &other).await, "");

    for (search, expected) in [
        ("", DEVICES as usize),
        ("ip%3A10.0.1.*", 256),
        ("ip%3A10.0.0.7+port%3A4028", 1),
        ("model%3AS19", 0),
    ] {
        let path = format!("/api/export/devices.ndjson?search={search}");
        let rows = export(&world, &operator, &path).await;
        assert_eq!(rows.lines().count(), expected, "{search}");
    }
    for path in [
        "/api/export/devices.csv?search=colour%3Ared",
        "/api/export/devices.csv?search=%FF",
        "/api/export/scans.csv?search=x",
    ] {
        assert_eq!(get(&world, &operator, path).await.status, 400, "{path}");
    }

    let scans = export(&world, &operator, "/api/export/scans.csv").await;
    let row = scans.lines().nth(1).expect("a scan");
    assert!(
        row.starts_with(&scan.id) && row.contains("COMPLETED"),
        "{scans}"
    );
    let scans = export(&world, &operator, "/api/export/scans.json").await;
    let scans: Value = serde_json::from_str(&scans).expect("a document");
    assert_eq!(scans[0]["scanId"], scan.id.as_str());

    let groups = get(&world, &operator, "/api/prometheus/targets").await;
    assert_eq!(groups.header("content-type"), "application/json");
    let groups: Vec<Value> = serde_json::from_str(&groups.body).expect("groups");
    assert_eq!(groups.len(), DEVICES as usize);
    assert_eq!(groups[0]["targets"][0], "10.0.0.0:4028");
    let labels = groups[0]["labels"].as_object().expect("labels");
    assert!(labels.values().all(Value::is_string), "{labels:?}");
    assert_eq!(labels["__meta_fleet_model"], "=HYPERLINK(\"x\")");
}

async fn the_unidentified_hosts_of_a_scan_are_exported_in_each_format(url: &str) {
    const HOSTS: u32 = 600;
    let world = World::at(url).await;
    let operator = world.operator(Role::Viewer).await;
    let starter = world.operator(Role::Operator).await;
    let enrolled = Enrolled::new(&world, &starter).await;
    let mut node = enrolled.connect(&world, Profile::ours()).await;
    let asked = list(&["10.0.0.0-10.0.3.255"], &["80", "443"]);
    let scan = start(&starter, &enrolled, asked).await;
    let (command, _) = node.command().await;
    let hosts: Vec<UnidentifiedHostReport> = (0..HOSTS)
        .map(|n| UnidentifiedHostReport {
            ip_address: format!("10.0.{}.{}", n / 256, n % 256),
            open_ports: vec![80, 443],
            reply_port: 80,
            reply: "=HYPERLINK(\"x\")".to_owned(),
            requests: vec!["GET /".to_owned(), "GET /x".to_owned()],
            host_name: "printer.lan".to_owned(),
            host_name_source: "dns".to_owned(),
            ..UnidentifiedHostReport::default()
        })
        .collect();
    for part in hosts.chunks(64) {
        let answer = node.report_with(&command, Vec::new(), part.to_vec()).await;
        answer.expect("answered");
    }
    node.ack(&command, AckCode::Ok).await;
    scan.is("SCAN_STATE_COMPLETED").await;

    let path = |ending: &str| format!("/api/scans/{}/hosts.{ending}", scan.id);
    let csv = export(&world, &operator, &path("csv")).await;
    let mut lines = csv.lines();
    let head = "ip,mac,vendor,hostName,hostNameSource,openPorts,replyPort,reply,requests,reportedAt,recordCommand,fleetNodeId";
    assert_eq!(lines.next(), Some(head));
    let first = lines.next().expect("a host");
    let expected =
        "10.0.0.0,,,printer.lan,dns,80; 443,80,\"'=HYPERLINK(\"\"x\"\")\",GET /; GET /x,";
    assert!(first.starts_with(expected), "{first}");
    assert_eq!(lines.count() + 1, HOSTS as usize);
    let json = export(&world, &operator, &path("json")).await;
    let json: Vec<Value> = serde_json::from_str(&json).expect("a document");
    let lines = export(&world, &operator, &path("ndjson")).await;
    let lines: Vec<Value> = lines
        .lines()
        .map(|line| serde_json::from_str(line).expect("a line"))
        .collect();
    assert_eq!((json.len(), &json), (HOSTS as usize, &lines));
    let answer = get(&world, &operator, &path("csv")).await;
    let file = format!("attachment; filename=\"scan-{}-hosts.csv\"", scan.id);
    assert_eq!(answer.header("content-disposition"), file);

    let outsider = world.operator_of("Other", Role::Admin).await;
    assert_eq!(get(&world, &outsider, &path("csv")).await.status, 404);
    let anonymous = request(world.address(), "GET", &path("csv"), &[], "").await;
    assert_eq!(anonymous.status, 401);
    assert_eq!(get(&world, &operator, &path("xlsx")).await.status, 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn exports_need_a_credential_of_the_organization() {
    let world = World::new().await;
    let operator = world.operator(Role::Viewer).await;
    let stranger = world.operator_of("Other", Role::Admin).await;
    for path in ["/api/export/devices.csv", "/api/prometheus/targets"] {
        let anonymous = request(world.address(), "GET", path, &[], "").await;
        assert_eq!(anonymous.status, 401, "{path}");
        assert_eq!(get(&world, &operator, path).await.status, 200, "{path}");
        assert_eq!(get(&world, &stranger, path).await.status, 200, "{path}");
    }
    for (path, status) in [
        ("/api/export/devices.xlsx", 404),
        ("/api/export/operators.csv", 404),
        ("/api/export/devices", 404),
        ("/api/export/devices.csv?node=x", 400),
        ("/api/export/devices.csv?model=S19", 400),
    ] {
        assert_eq!(get(&world, &operator, path).await.status, status, "{path}");
    }
}
